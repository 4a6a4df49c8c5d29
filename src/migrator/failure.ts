/**
 * From what the driver reports to a reason.
 */
import * as Effect from "effect/Effect"
import type { SchemaError } from "effect/Schema"
import type { SqlError } from "effect/sql/SqlError"
import { sqlState, withSource } from "../internal/sqlState.ts"
import { DatabaseFailure, InsufficientPrivilege } from "../SchemaCompatibilityError.ts"

/** Whether other sessions were in the way: the same attempt, made again, may succeed. */
export const isLockConflict = (error: SqlError): boolean => {
  const state = sqlState(error)
  return state === "55P03" || state === "40P01"
}

/** Whether the statement itself was refused, as opposed to its session or its role. */
export const isRefusedStatement = (error: SqlError): boolean => {
  const state = sqlState(error)
  return (
    state !== undefined && !isLockConflict(error) && state !== "42501" && state !== "25006" && !/^(08|57)/.test(state)
  )
}

/** The reason of a failure that says nothing about the schema. */
export const classify =
  (during: InsufficientPrivilege["during"]) =>
  (error: SqlError): InsufficientPrivilege | DatabaseFailure => {
    const state = sqlState(error)
    return state === "42501"
      ? withSource(new InsufficientPrivilege({ during, sqlState: state }), error)
      : withSource(new DatabaseFailure({ sqlState: state }), error)
  }

/** A row of our own query that does not decode: the client reads types of PostgreSQL in a way of its own. */
export const unreadable = <A, R>(self: Effect.Effect<A, SchemaError, R>): Effect.Effect<A, DatabaseFailure, R> =>
  Effect.mapError(self, () => new DatabaseFailure({}))
