/**
 * A row that the database will not take must not take its batch with it.
 */
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { ConstraintViolation, QueryFailed, WriteReason } from "../Reason.ts"
import * as Sql from "./sql.ts"
import { classified, transaction } from "./transaction.ts"

/**
 * Whether the database refused the data rather than the moment: a constraint, a value out of range, a limit, or an exception
 * of an application's own trigger. The same statement with other rows may pass.
 */
export const isPoisoned = (reason: { readonly _tag: string }): reason is ConstraintViolation | QueryFailed =>
  reason._tag === "ConstraintViolation" ||
  (reason._tag === "QueryFailed" &&
    "sqlState" in reason &&
    typeof reason.sqlState === "string" &&
    /^(?:21|22|23|54|P0)/.test(reason.sqlState))

/**
 * Runs a statement whose refusal is going to be handled: inside a caller's transaction within a savepoint, so that the
 * transaction survives. Failures of the database come out as reasons.
 */
export const savepointInCallers = <A, E, R>(
  self: Effect.Effect<A, E | SqlError, R>
): Effect.Effect<A, E | WriteReason, R | SqlClient> =>
  Effect.flatMap(Effect.flatMap(Sql.client, Sql.inTransaction), (joined) =>
    joined ? transaction(self) : classified(self)
  )
