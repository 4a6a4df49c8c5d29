/**
 * The error of every operation, generic in the reasons that the operation can raise.
 */
import type * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { classifyRead } from "./internal/classify.ts"
import { reasonIn } from "./internal/transaction.ts"
import { QueryFailed, type ReadReason, type Reason, type WriteReason } from "./Reason.ts"

type StorageError = SqlError | Schema.SchemaError

/**
 * `operation` failed; `reason` says why, and its type lists exactly what that operation can raise.
 *
 * Its text is safe to show and to log: what the database said, SQL, parameters, payloads and keys never appear in it, in
 * whatever form it is printed.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const renewed = Jobs.heartbeat(lease, { extend: "30 seconds" }).pipe(
 *   Effect.as(true),
 *   Effect.catchReason("QueryError", "LeaseOwnerMismatch", () => Effect.succeed(false))
 * )
 * ```
 */
export class QueryError<out R extends Reason = Reason> extends Data.TaggedError("QueryError")<{
  readonly operation: string
  readonly reason: Reason
}> {
  declare readonly reason: R

  constructor(fields: { readonly operation: string; readonly reason: R }) {
    super(fields)
  }

  /** The stable code of the reason. */
  get code(): string {
    return this.reason.code
  }

  /** The category of the reason. */
  get category(): Reason["category"] {
    return this.reason.category
  }

  override get message(): string {
    return `${this.operation}: ${this.reason.message} (${this.reason.code})`
  }
}

// Taking the stack of the caller at every call costs more than everything else that an operation does on this side.
const span = { captureStackTrace: false }

/** A reading operation: its span, and one `QueryError` for everything that its body raises. */
export const reading =
  (operation: string) =>
  <A, E extends Reason, R>(
    self: Effect.Effect<A, E | StorageError, R>
  ): Effect.Effect<A, QueryError<E | ReadReason>, R> =>
    Effect.mapError(self, (error) => {
      const reason = isSqlError(error) ? classifyRead(error) : error
      return new QueryError({ operation, reason: Schema.isSchemaError(reason) ? undecodable() : reason })
    }).pipe(Effect.withSpan(operation, undefined, span))

/** A writing operation: its span, and one `QueryError` for everything that its body raises. */
export const writing =
  (operation: string) =>
  <A, E extends Reason, R>(
    self: Effect.Effect<A, E | StorageError, R>
  ): Effect.Effect<A, QueryError<E | WriteReason>, R | SqlClient> =>
    Effect.catch(self, (error) =>
      Effect.contextWith((context: Context.Context<SqlClient>) => {
        const reason = reasonIn<E | Schema.SchemaError>(context, error)
        return Effect.fail(new QueryError({ operation, reason: Schema.isSchemaError(reason) ? undecodable() : reason }))
      })
    ).pipe(Effect.withSpan(operation, undefined, span))

// a row that does not decode is kept out of the error: what the decoder says may quote it
const undecodable = () => new QueryFailed({})
