/**
 * From what the driver reports to a reason.
 */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type { SchemaError } from "effect/Schema"
import type { SqlError } from "effect/sql/SqlError"
import { sqlState } from "../internal/sqlState.ts"
import { DatabaseFailure, InsufficientPrivilege } from "../SchemaCompatibilityError.ts"

/** Keeps what the database said with a reason, where no printed form shows it. */
export const withSource = <A extends { source: Redacted.Redacted<SqlError> | undefined }>(
  reason: A,
  error: SqlError
): A => {
  reason.source = Redacted.make(error, { label: "SqlError" })
  return reason
}

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
