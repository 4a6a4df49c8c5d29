import * as Predicate from "effect/Predicate"
import * as Redacted from "effect/Redacted"
import type { SqlError } from "effect/sql/SqlError"

const text = (cause: unknown, field: string): string | undefined =>
  Predicate.hasProperty(cause, field) && Predicate.isString(cause[field]) && cause[field].length > 0
    ? cause[field]
    : undefined

/** The SQLSTATE that the server reported, if it was the server that failed the statement. */
export const sqlState = (error: SqlError): string | undefined => {
  const code = text(error.reason.cause, "code")
  // node's own socket errors have a code too (ECONNRESET)
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) && !/^E[A-Z]{4}$/.test(code) ? code : undefined
}

/** The name of the constraint, index or trigger-raised rule that the statement violated. */
export const constraintName = (error: SqlError): string | undefined => text(error.reason.cause, "constraint")

/** Keeps what the database said with a reason, where no printed form shows it. */
export const withSource = <A extends { source: Redacted.Redacted<SqlError> | undefined }>(
  reason: A,
  error: SqlError
): A => {
  reason.source = Redacted.make(error, { label: "SqlError" })
  return reason
}
