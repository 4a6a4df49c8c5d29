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
export type Outcome<Output> =
  | { readonly _tag: "Succeeded"; readonly output: Output }
  | { readonly _tag: "DeadLettered"; readonly code: string; readonly message: string }
  | { readonly _tag: "Canceled"; readonly reason: Option.Option<string> }
  /** Still at it; with the last failure, if an attempt has failed. */
  | {
      readonly _tag: "Unfinished"
      readonly status: "PENDING" | "LEASED"
      readonly lastErrorCode: Option.Option<string>
    }

const Row = Schema.Struct({
  status: Status,
  output: nullable(Jsonb),
  statusReason: nullable(Schema.String),
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String)
}).pipe(
  Schema.encodeKeys({
    statusReason: "status_reason",
    lastErrorCode: "last_error_code",
    lastErrorMessage: "last_error_message"
  })
)

const decodeRow = Schema.decodeUnknownEffect(Row)

/**
 * What has become of a job of this contract; `None` if there is none of its type in the scope.
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
) => Effect.Effect<Option.Option<Outcome<C["success"]["Type"]>>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(
  function* <C extends AnyContract>(contract: C, scope: TenantScope, jobId: JobId) {
    const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const [row] = yield* sql`
      SELECT q.status, q.output, q.status_reason, q.last_error_code, q.last_error_message
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND q.job_type = ${contract.jobType} AND ${inScope(sql, scope, "q")}
    `
    if (row === undefined) return Option.none()
    const { status, output, statusReason, lastErrorCode, lastErrorMessage } = yield* decodeRow(row)
    const told: Outcome<C["success"]["Type"]> =
      status === "SUCCEEDED"
        ? { _tag: "Succeeded", output: yield* contract.decodeOutput(Option.getOrElse(output, () => null)) }
        : status === "DEAD_LETTERED"
          ? {
              _tag: "DeadLettered",
              code: Option.getOrElse(lastErrorCode, () => ""),
              message: Option.getOrElse(lastErrorMessage, () => "")
            }
          : status === "CANCELED"
            ? { _tag: "Canceled", reason: statusReason }
            : { _tag: "Unfinished", status, lastErrorCode }
    return Option.some(told)
  },
  reading("Jobs.outcome")
)
