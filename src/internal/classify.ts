/**
 * From what the driver reports to a reason, by SQLSTATE: the driver's own classes miss some that a retry helps.
 */
import type { SqlError } from "effect/sql/SqlError"
import * as FrameworkConstraint from "../FrameworkConstraint.ts"
import {
  ConstraintViolation,
  OutcomeUnknown,
  PermissionDenied,
  QueryFailed,
  type ReadReason,
  Unavailable,
  type WriteReason
} from "../Reason.ts"
import { constraintName, sqlState, withSource } from "./sqlState.ts"

const retryable = new Set([
  "25006", // read-only: a standby, or a failover under way
  "40001", // serialization failure
  "40P01", // deadlock
  "55P03", // lock not available
  "57014", // canceled, or statement timeout
  "57P01", // shutdown
  "57P02",
  "57P03"
])

// 08: connection, 53: out of connections, memory or disk
const isRetryable = (state: string) => retryable.has(state) || state.startsWith("08") || state.startsWith("53")

/** The reason of a failed read: nothing can have been written, whatever happened. */
export const classifyRead = (error: SqlError): ReadReason => {
  const state = sqlState(error)
  const detail = { sqlState: state }
  if (state === undefined ? error.reason._tag === "ConnectionError" : isRetryable(state)) {
    return withSource(new Unavailable({ origin: "database", ...detail }), error)
  }
  if (state === "42501" || state?.startsWith("28") || error.reason._tag === "AuthenticationError") {
    return withSource(new PermissionDenied(detail), error)
  }
  return withSource(new QueryFailed(detail), error)
}

/**
 * The reason of a failed write.
 *
 * @param own what the application's constraints mean
 * @param commits whether the statement commits by itself, so that a connection lost after it was sent leaves its outcome open
 */
export const classifyWrite = (
  error: SqlError,
  own: (constraint: string) => FrameworkConstraint.FrameworkConstraintSpec | undefined,
  commits: boolean
): WriteReason => {
  const state = sqlState(error)
  // the server answered with an error, or the connection was never made: certainly not written. Class 08 is no answer of the
  // server: it is what a pooler in between says of a connection that it lost
  if (
    commits &&
    (state === undefined || state.startsWith("08")) &&
    error.reason._tag === "ConnectionError" &&
    error.reason.operation !== "connect"
  ) {
    return withSource(new OutcomeUnknown({ sqlState: state }), error)
  }
  const constraint = constraintName(error)
  const meaning =
    (constraint === undefined ? undefined : (own(constraint) ?? FrameworkConstraint.classify(constraint))) ??
    (state === undefined ? undefined : FrameworkConstraint.classifySqlState(state))
  return meaning === undefined
    ? classifyRead(error)
    : withSource(new ConstraintViolation({ ...meaning, constraint, sqlState: state }), error)
}
