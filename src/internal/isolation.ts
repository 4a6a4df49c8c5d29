/**
 * Statements that rely on seeing what others commit test their isolation themselves, without a round trip.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { type Reason, UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import * as Sql from "./sql.ts"
import { transaction } from "./transaction.ts"

/**
 * A statement found itself in another isolation than READ COMMITTED and wrote nothing. Raised from its result, never by the
 * server, so that a caller's transaction stays usable.
 */
export class NotReadCommitted extends Data.TaggedError("NotReadCommitted")<{
  /** Whether it concerned a job of a workflow run. */
  readonly ofRun: boolean
}> {
  constructor(fields: { readonly ofRun: boolean } = { ofRun: false }) {
    super(fields)
  }
}

/** The condition that such a statement puts on its first step. READ UNCOMMITTED is READ COMMITTED in PostgreSQL. */
export const isReadCommitted = "current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')"

/**
 * Runs a statement that may answer {@link NotReadCommitted}: inside a caller's transaction that is an error; outside, the
 * session's default is to blame, and the statement runs again in a READ COMMITTED transaction of our own.
 */
export const readCommitted =
  (code: UnsupportedIsolation["code"]) =>
  <A, E extends Reason, R>(
    self: Effect.Effect<A, E | SqlError | NotReadCommitted, R>
  ): Effect.Effect<A, E | SqlError | UnsupportedIsolation | WriteReason, R | SqlClient> =>
    Effect.catch(
      self,
      Effect.fnUntraced(function* (error): Effect.fn.Return<
        A,
        E | SqlError | UnsupportedIsolation | WriteReason,
        R | SqlClient
      > {
        if (!(error instanceof NotReadCommitted)) return yield* Effect.fail(error)
        const refusal = new UnsupportedIsolation({
          code: error.ofRun ? "workflow.terminal_completion_unsupported_isolation" : code
        })
        if (yield* Sql.inTransaction(yield* Sql.client)) return yield* refusal
        return yield* transaction(
          Effect.mapError(self, (again) => (again instanceof NotReadCommitted ? refusal : again))
        )
      })
    )
