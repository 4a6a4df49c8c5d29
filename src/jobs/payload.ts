import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import { isJson, isNumber, isStatus } from "../internal/row.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import type { JobId, Status } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, Unavailable, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import type { Owner } from "../TenantScope.ts"
import { maxKeyBytes, maxTypeBytes } from "./limits.ts"

/** What became of a correction. Only `Updated` has written anything. */
export type PayloadUpdate =
  | { readonly _tag: "Updated" }
  /** There is no such job of this type in exactly this scope. */
  | { readonly _tag: "NotFound" }
  /** The job belongs to a workflow run: see `Workflows.updatePendingPayload`. */
  | { readonly _tag: "WorkflowManaged"; readonly workflowRunId: string }
  /** The job has an idempotency key, so its request is on record, and a retry is compared with that. */
  | { readonly _tag: "IdempotentRequestSnapshot" }
  /** The job is not pending, or an attempt of this run was made: a handler may have seen the payload. */
  | { readonly _tag: "NotPendingOrClaimed"; readonly status: Status; readonly attempt: number }
  /** The payload is not what was expected, or, where a member was to be set, not an object. */
  | { readonly _tag: "PayloadMismatch"; readonly actual: Json }

/** What a correction compares with. */
export interface UpdatePayloadOptions<Payload = Json> {
  /** The payload that is corrected, as it was read; if it is another one meanwhile, nothing is written. Default: any. */
  readonly expected?: Payload | undefined
}

/** What {@link updatePendingPayload} can fail with. */
export type UpdatePendingPayloadReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Corrects the payload of a job that waits and was never claimed in this run: a contract and a payload that its schema accepts,
 * or a type and JSON. With a contract, the job gets the version of the contract; without, it keeps its own. Of several reasons
 * to refuse, the answer is the first in the order of {@link PayloadUpdate}.
 *
 * No event is written: the payload belongs to the request, and what happened to the job is the same as before.
 *
 * Fails with `InvalidArgument` (also if the payload does not match the contract), `UnsupportedIsolation`, `Unavailable` (the row
 * stayed locked for two seconds), or what any write can fail with. Locks the job `FOR NO KEY UPDATE SKIP LOCKED`, and writes it.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, Jobs, TenantScope } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", { payload: { to: Schema.String } }) {}
 *
 * declare const jobId: Jobs.JobId
 * const corrected = Jobs.updatePendingPayload(
 *   TenantScope.global,
 *   jobId,
 *   SendEmail,
 *   { to: "ada@example.com" },
 *   { expected: { to: "ada@exmaple.com" } }
 * )
 * ```
 */
export const updatePendingPayload: {
  <C extends AnyContract>(
    scope: Owner,
    jobId: JobId,
    contract: C,
    payload: C["payload"]["Type"],
    options?: UpdatePayloadOptions<C["payload"]["Type"]>
  ): Effect.Effect<PayloadUpdate, QueryError<UpdatePendingPayloadReason>, SqlClient>
  (
    scope: Owner,
    jobId: JobId,
    jobType: string,
    payload: Json,
    options?: UpdatePayloadOptions
  ): Effect.Effect<PayloadUpdate, QueryError<UpdatePendingPayloadReason>, SqlClient>
} = (
  scope: Owner,
  jobId: JobId,
  job: string | AnyContract,
  payload: unknown,
  options?: UpdatePayloadOptions<unknown>
) =>
  writing("Jobs.updatePendingPayload")(
    Effect.gen(function* () {
      const jobType = typeof job === "string" ? job : job.jobType
      const text = yield* Effect.fromResult(textOf(job, "payload", payload))
      const expected =
        options?.expected === undefined
          ? undefined
          : yield* Effect.fromResult(textOf(job, "options.expected", options.expected))
      return yield* update(scope, jobId, jobType, (sql) => ({
        payload: sql`${text}::jsonb`,
        matches: expected === undefined ? sql.literal("true") : sql`q.payload = ${expected}::jsonb`,
        fits: sql.literal("true"),
        version: typeof job === "string" ? sql.literal("q.payload_version") : sql`${job.version}::integer`
      }))
    })
  )

/** A member of a payload, and what it becomes. */
export interface PayloadField {
  /** The name of a member at the top, taken literally; it is added if it is missing. */
  readonly field: string
  readonly value: Json
}

/**
 * Sets one member of the payload of a job that waits and was never claimed in this run, and leaves the others as they are, also
 * those that somebody else sets at the same time. As {@link updatePendingPayload} otherwise; the payload has to be an object.
 *
 * Fails with `InvalidArgument` (also if the whole became larger than a payload may be), `UnsupportedIsolation`, `Unavailable`
 * (the row stayed locked for two seconds), or what any write can fail with. Locks the job `FOR NO KEY UPDATE SKIP LOCKED`, and
 * writes it.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const corrected = Jobs.updatePendingPayloadField(TenantScope.global, jobId, "profiles.export", {
 *   field: "profile_ids",
 *   value: ["0197c000-0000-7000-8000-000000000001"]
 * })
 * ```
 */
export const updatePendingPayloadField = (
  scope: Owner,
  jobId: JobId,
  jobType: string,
  { field, value }: PayloadField
): Effect.Effect<PayloadUpdate, QueryError<UpdatePendingPayloadReason>, SqlClient> =>
  writing("Jobs.updatePendingPayloadField")(
    Effect.gen(function* () {
      const invalid = Args.name("field", field, maxKeyBytes)
      if (invalid !== undefined) return yield* invalid
      const text = yield* Effect.fromResult(textOf(jobType, "value", value))
      return yield* update(scope, jobId, jobType, (sql) => ({
        payload: sql`q.payload || jsonb_build_object(${field}::text, ${text}::jsonb)`,
        matches: sql.literal("jsonb_typeof(q.payload) = 'object'"),
        fits: sql.literal(`octet_length(l.payload::text) <= ${JsonText.maxJsonBytes}`),
        version: sql.literal("q.payload_version")
      }))
    })
  )

const textOf = (
  job: string | AnyContract,
  argument: string,
  value: unknown
): Result.Result<string, InvalidArgument> => {
  const json =
    typeof job === "string"
      ? isJson(value)
        ? Result.succeed(value)
        : Result.fail("must be JSON")
      : // what the schema says may quote the payload
        Result.mapError(job.encodePayload(value), () => `must match the contract of ${job.jobType}`)
  return Result.mapError(Result.flatMap(json, JsonText.encode), (rule) => new InvalidArgument({ argument, rule }))
}

/** What a correction does to a job `q`. */
interface Correction {
  readonly payload: Fragment
  /** Whether the payload is one that is to be corrected. */
  readonly matches: Fragment
  /** Whether the new payload of a locked job `l` is not too large. */
  readonly fits: Fragment
  readonly version: Fragment
}

const update = Effect.fnUntraced(function* (
  scope: Owner,
  jobId: JobId,
  jobType: string,
  correction: (sql: SqlClient) => Correction
): Effect.fn.Return<PayloadUpdate, UpdatePendingPayloadReason | SqlError, SqlClient> {
  const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId) ?? Args.name("jobType", jobType, maxTypeBytes)
  if (invalid !== undefined) return yield* invalid
  const answers = yield* askUntilFree(
    [{ lease: { jobId } }],
    Effect.fnUntraced(function* () {
      const once = updateOnce(scope, jobId, jobType, correction)
      return new Map([[jobId, yield* readCommitted("job.unsupported_isolation")(once)]])
    })
  )
  return answers.get(jobId) ?? (yield* new Unavailable({ origin: "busy" }))
})

const updateOnce = Effect.fnUntraced(function* (
  scope: Owner,
  jobId: JobId,
  jobType: string,
  correction: (sql: SqlClient) => Correction
): Effect.fn.Return<PayloadUpdate | "busy", SqlError | InvalidArgument | NotReadCommitted | QueryFailed, SqlClient> {
  const { sql, instant } = yield* Sql.clocked
  const { payload, matches, fits, version } = correction(sql)
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at
    ), seen AS MATERIALIZED (
      SELECT q.status, q.attempt, q.workflow_run_id, q.idempotency_key, q.enqueue_request, q.payload, ${matches} AS matches
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")} AND q.job_type || '' = ${jobType}
    ), locked AS MATERIALIZED (
      SELECT q.id, ${payload} AS payload, ${version} AS payload_version
      FROM runledger.job_queue q
      -- expressions, or the planner would take an index by type or status instead of the primary key
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")} AND q.job_type || '' = ${jobType}
        AND q.status || '' = 'PENDING'
        AND q.attempt = 0
        AND q.workflow_run_id IS NULL
        AND q.idempotency_key IS NULL
        AND q.enqueue_request IS NULL
        AND ${matches}
        AND ${sql.literal(isReadCommitted)}
      FOR NO KEY UPDATE SKIP LOCKED
    ), updated AS (
      UPDATE runledger.job_queue q
      SET payload = l.payload, payload_version = l.payload_version, updated_at = i.at
      FROM locked l
      CROSS JOIN input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM locked)) AND q.id = l.id AND ${fits}
      RETURNING q.id
    )
    SELECT
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN EXISTS (SELECT FROM updated) THEN 'done'
        WHEN EXISTS (SELECT FROM locked) THEN 'too large'
        WHEN s.status IS NULL THEN 'not found'
        WHEN s.workflow_run_id IS NOT NULL THEN 'workflow'
        WHEN s.idempotency_key IS NOT NULL OR s.enqueue_request IS NOT NULL THEN 'keyed'
        WHEN s.status <> 'PENDING' OR s.attempt > 0 THEN 'not pending'
        WHEN NOT s.matches THEN 'mismatch'
        ELSE 'busy'
      END AS outcome,
      s.status, s.attempt, s.workflow_run_id, s.payload
    FROM (SELECT) AS always
    LEFT JOIN seen s ON true
  `
  switch (row?.outcome) {
    case "isolation":
      return yield* new NotReadCommitted()
    case "busy":
      return "busy"
    case "done":
      return { _tag: "Updated" }
    case "too large":
      return yield* new InvalidArgument({
        argument: "value",
        rule: `must not make the payload larger than ${JsonText.maxJsonBytes} bytes`
      })
    case "not found":
      return { _tag: "NotFound" }
    case "workflow":
      return { _tag: "WorkflowManaged", workflowRunId: String(row.workflow_run_id) }
    case "keyed":
      return { _tag: "IdempotentRequestSnapshot" }
    case "not pending":
      return isStatus(row.status) && isNumber(row.attempt)
        ? { _tag: "NotPendingOrClaimed", status: row.status, attempt: row.attempt }
        : yield* new QueryFailed({})
    case "mismatch":
      return isJson(row.payload) ? { _tag: "PayloadMismatch", actual: row.payload } : yield* new QueryFailed({})
    default:
      return yield* new QueryFailed({})
  }
})
