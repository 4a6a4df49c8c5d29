import type { ErrorFields } from "@effect/sql-pg/PgProtocol"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as SqlError from "effect/sql/SqlError"

/**
 * The error the PostgreSQL driver gives to a statement whose connection closed under it: a `ConnectionError` of
 * operation `query` without an SQLSTATE. It does not tell whether the server executed the statement.
 */
export const connectionClosed = (): SqlError.SqlError =>
  new SqlError.SqlError({
    reason: new SqlError.ConnectionError({
      cause: new Error("Connection closed"),
      message: "PgConnection: Connection closed",
      operation: "query"
    })
  })

/**
 * The error the PostgreSQL driver makes of a server's answer with this SQLSTATE: same reason, message and operation,
 * the answer's fields on `reason.cause`.
 *
 * **Example** (A serialization failure)
 *
 * ```ts
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const fault = FaultySqlClient.failBefore(FaultySqlClient.sqlState("40001"))
 * ```
 */
export const sqlState = (code: string, fields?: Omit<ErrorFields, "code">): SqlError.SqlError => {
  const severity = fields?.severity ?? "ERROR"
  const message = fields?.message ?? `injected ${code}`
  const cause = Object.assign(new Error(message), { severity, severityUnlocalized: severity, ...fields, code, message })
  const props = { cause, message: "PgConnection: Query failed", operation: "query" }
  return new SqlError.SqlError({ reason: reasonOf(code, fields?.constraint, props) })
}

const reasonOf = (
  code: string,
  constraint: string | undefined,
  props: { readonly cause: unknown; readonly message: string; readonly operation: string }
): SqlError.SqlErrorReason => {
  if (code.startsWith("08")) return new SqlError.ConnectionError(props)
  if (code.startsWith("28")) return new SqlError.AuthenticationError(props)
  if (code === "42501") return new SqlError.AuthorizationError(props)
  if (code.startsWith("42")) return new SqlError.SqlSyntaxError(props)
  if (code === "23505") return new SqlError.UniqueViolation({ ...props, constraint: constraint ?? "unknown" })
  if (code.startsWith("23")) return new SqlError.ConstraintError(props)
  if (code === "40P01") return new SqlError.DeadlockError(props)
  if (code === "40001") return new SqlError.SerializationError(props)
  if (code === "55P03") return new SqlError.LockTimeoutError(props)
  if (code === "57014") return new SqlError.StatementTimeoutError(props)
  return new SqlError.UnknownError(props)
}

/** Where a fault strikes: before the statement is sent, or after the server executed and answered it. */
export type At = "before" | "after"

/**
 * What happens to a statement. Made by {@link failBefore}, {@link failAfter}, {@link hang}, {@link delay},
 * {@link dropConnection} and {@link waitAt}.
 *
 * **Details**
 *
 * A statement that fails by itself reaches no fault of `"after"`. A stream is executed once its last row is consumed.
 */
export type Fault =
  | { readonly _tag: "Fail"; readonly at: At; readonly error: SqlError.SqlError | undefined }
  | { readonly _tag: "Hang"; readonly at: At }
  | { readonly _tag: "Delay"; readonly at: At; readonly duration: Duration.Input }
  | { readonly _tag: "DropConnection"; readonly at: At; readonly error: SqlError.SqlError | undefined }
  | { readonly _tag: "WaitAt"; readonly at: At; readonly gate: Gate }

/** The statement is not executed and fails, with {@link connectionClosed} by default. The connection stays alive. */
export const failBefore = (error?: SqlError.SqlError): Fault => ({ _tag: "Fail", at: "before", error })

/**
 * The statement is executed, but its answer is replaced by a failure, {@link connectionClosed} by default: the caller
 * cannot know the outcome. The connection stays alive.
 */
export const failAfter = (error?: SqlError.SqlError): Fault => ({ _tag: "Fail", at: "after", error })

/**
 * The statement never returns, until its fiber is interrupted or the plan is disarmed (then it fails with
 * {@link connectionClosed}). It holds its connection meanwhile.
 */
export const hang = (at: At = "before"): Fault => ({ _tag: "Hang", at })

/** The statement, or its answer, is held back for `duration` of the fiber's clock: under `TestClock` until adjusted. */
export const delay = (duration: Duration.Input, at: At = "before"): Fault => ({ _tag: "Delay", at, duration })

/**
 * The connection is lost for good: its backend is terminated, and has ended, before anything else happens. Later
 * statements on the connection fail too, among them the `ROLLBACK` of its transaction.
 *
 * **Details**
 *
 * `"before"`: the statement is then sent, and fails with what the driver says of a connection whose end it has noticed
 * (`UnknownError`, SQLSTATE `57P01`); with an `error` it is not sent and fails with that. `"after"`: the server has
 * executed and answered the statement; the caller gets `error`, {@link connectionClosed} by default.
 *
 * After a `LISTEN` the listener is registered and then every connection that listens to the channel is terminated, so
 * that the queue of notifications fails.
 *
 * **Gotchas**
 *
 * Takes about 100 milliseconds and a server connection outside the pool. The role must be allowed to terminate its own
 * backends, as roles are by default.
 */
export const dropConnection = (at: At, error?: SqlError.SqlError): Fault => ({ _tag: "DropConnection", at, error })

/** The statement stops at `gate`, holding its connection, until the gate is opened. */
export const waitAt = (gate: Gate, at: At = "before"): Fault => ({ _tag: "WaitAt", at, gate })

/**
 * A point at which statements stop until it is opened, so that a test can order two connections without sleeping.
 *
 * **Example** (The second transaction runs while the first has yet to commit)
 *
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Fiber from "effect/Fiber"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const order = Effect.fnUntraced(function*<A, E, R>(
 *   first: Effect.Effect<A, E, R>,
 *   second: Effect.Effect<A, E, R>
 * ) {
 *   const faults = yield* FaultySqlClient.Faults
 *   const gate = yield* FaultySqlClient.makeGate
 *   yield* faults.arm([{ match: "COMMIT", fault: FaultySqlClient.waitAt(gate) }])
 *   const fiber = yield* Effect.forkChild(first)
 *   yield* gate.reached
 *   yield* second
 *   yield* gate.open
 *   return yield* Fiber.join(fiber)
 * })
 * ```
 */
export interface Gate {
  /** Waits until a statement stands at the gate. */
  readonly reached: Effect.Effect<void>
  /** Lets the waiting statements pass, and all later ones. */
  readonly open: Effect.Effect<void>
  /** Signals that the gate is reached, then waits until it is open: also usable in the code of a test. */
  readonly pass: Effect.Effect<void>
}

/** A closed gate. */
export const makeGate: Effect.Effect<Gate> = Effect.gen(function* () {
  const reached = yield* Deferred.make<void>()
  const opened = yield* Deferred.make<void>()
  return {
    reached: Deferred.await(reached),
    open: Effect.asVoid(Deferred.succeed(opened, undefined)),
    pass: Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened))
  }
})
