import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { Jsonb, nullable } from "../internal/columns.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { type JobId, Status } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import { type QueryError, reading } from "../QueryError.ts"
import type { TenantScope } from "../TenantScope.ts"
import type { GetReason } from "./read.ts"

/** What has become of a job, typed by its contract. */
export type Outcome<Output, Error = never> =
  | { readonly _tag: "Succeeded"; readonly output: Output }
  | {
      readonly _tag: "DeadLettered"
      readonly code: string
      readonly message: string
      /** What the last attempt failed with; `None` if that was no error of the contract, or does not match it any more. */
      readonly error: Option.Option<Error>
    }
  | { readonly _tag: "Canceled"; readonly reason: Option.Option<string> }
  /** Still at it; with the last failure, if an attempt has failed. */
  | {
      readonly _tag: "Unfinished"
      readonly status: "PENDING" | "LEASED"
      readonly lastErrorCode: Option.Option<string>
      readonly lastError: Option.Option<Error>
    }

const Row = Schema.Struct({
  status: Status,
  output: nullable(Jsonb),
  statusReason: nullable(Schema.String),
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String),
  lastError: nullable(Jsonb)
}).pipe(
  Schema.encodeKeys({
    statusReason: "status_reason",
    lastErrorCode: "last_error_code",
    lastErrorMessage: "last_error_message",
    lastError: "last_error"
  })
)

const decodeRow = Schema.decodeUnknownEffect(Row)

/**
 * What has become of a job of this contract; `None` if there is none of its type in the scope. Of a job that failed, the error
 * of the last attempt comes decoded by the contract; one that the contract cannot decode is left out.
 *
 * Fails with `InvalidArgument` (not a UUID), with `QueryFailed` if the stored output is not what the contract says, or with what
 * any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Effect, Option, Schema } from "effect"
 * import { Job, Jobs, TenantScope } from "effect-runledger"
 *
 * class Double extends Job.make("double", { payload: { n: Schema.Int }, success: Schema.Int }) {}
 *
 * declare const jobId: Jobs.JobId
 * const doubled = Effect.map(
 *   Jobs.outcome(Double, TenantScope.global, jobId),
 *   Option.flatMap((outcome) => (outcome._tag === "Succeeded" ? Option.some(outcome.output + 1) : Option.none()))
 * )
 * ```
 */
export const outcome: <C extends AnyContract>(
  contract: C,
  scope: TenantScope,
  jobId: JobId
) => Effect.Effect<Option.Option<Outcome<C["success"]["Type"], C["error"]["Type"]>>, QueryError<GetReason>, SqlClient> =
  Effect.fnUntraced(function* <C extends AnyContract>(contract: C, scope: TenantScope, jobId: JobId) {
    const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const [row] = yield* sql`
      SELECT
        q.status, q.output, q.status_reason, q.last_error_code, q.last_error_message,
        CASE WHEN q.last_error_code IS NOT NULL THEN (
          SELECT a.error
          FROM runledger.job_attempts a
          WHERE a.job_id = q.id AND a.outcome IS NOT NULL
          ORDER BY a.run_number DESC, a.attempt DESC
          LIMIT 1
        ) END AS last_error
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND q.job_type = ${contract.jobType} AND ${inScope(sql, scope, "q")}
    `
    if (row === undefined) return Option.none()
    const { status, output, statusReason, lastErrorCode, lastErrorMessage, lastError: json } = yield* decodeRow(row)
    const lastError = Option.isSome(json) ? yield* contract.decodeError(json.value) : Option.none()
    const told: Outcome<C["success"]["Type"], C["error"]["Type"]> =
      status === "SUCCEEDED"
        ? { _tag: "Succeeded", output: yield* contract.decodeOutput(Option.getOrElse(output, () => null)) }
        : status === "DEAD_LETTERED"
          ? {
              _tag: "DeadLettered",
              code: Option.getOrElse(lastErrorCode, () => ""),
              message: Option.getOrElse(lastErrorMessage, () => ""),
              error: lastError
            }
          : status === "CANCELED"
            ? { _tag: "Canceled", reason: statusReason }
            : { _tag: "Unfinished", status, lastErrorCode, lastError }
    return Option.some(told)
  }, reading("Jobs.outcome"))
