import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { type JobId, JobRecord, JobRow, jobColumns } from "../Job.ts"
import { markCanceled } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type InvalidArgument,
  InvalidStateTransition,
  JobNotFound,
  QueryFailed,
  Unavailable,
  type UnsupportedIsolation,
  WorkflowManaged,
  type WriteReason
} from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import { attemptColumns, attemptTarget, attemptValues, withoutAttempt } from "./attempt.ts"

/** Why the job is canceled. */
export interface CancelOptions {
  /** Recorded with job and event; default `CANCELED`. At most 16,384 characters are kept. */
  readonly reason?: string | undefined
}

/** What {@link cancel} can fail with. */
export type CancelReason =
  | InvalidArgument
  | InvalidStateTransition
  | JobNotFound
  | UnsupportedIsolation
  | WorkflowManaged
  | WriteReason

/**
 * Cancels a job that is pending or leased. A handler that is at work learns of it by a notification, if its worker listens, or
 * by its next heartbeat, which is refused like every other write of its lease. The job keeps `leaseExpiresAt`, the instant by
 * which that handler is certainly gone; it cannot be requeued before.
 *
 * Fails with `JobNotFound` (no such job in the scope), `InvalidStateTransition` (it is terminal already), `WorkflowManaged`
 * (cancel its run), `Unavailable` (the row stayed locked for two seconds), `InvalidArgument`, `UnsupportedIsolation`, or what
 * any write can fail with.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job, event, and the attempt that it ends.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const canceled = Jobs.cancel(TenantScope.admin, jobId, { reason: "order withdrawn" })
 * ```
 */
export const cancel: (
  scope: TenantScope,
  jobId: JobId,
  options?: CancelOptions
) => Effect.Effect<JobRecord, QueryError<CancelReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobId: JobId,
  options?: CancelOptions
) {
  const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId)
  if (invalid !== undefined) return yield* invalid
  const reason = Args.diagnostic(options?.reason ?? "CANCELED")
  const answers = yield* askUntilFree([{ lease: { jobId } }], () =>
    readCommitted("job.unsupported_isolation")(cancelOnce(scope, jobId, reason))
  )
  const answer = answers.get(jobId)
  if (answer === undefined) return yield* new Unavailable({ origin: "busy" })
  if (!(answer instanceof JobRecord)) return yield* Effect.fail(answer)
  // only a leased job has this: nobody is at work on a pending one
  if (Option.isSome(answer.leaseExpiresAt)) yield* markCanceled([answer.id])
  return answer
}, writing("Jobs.cancel"))

const cancelOnce = Effect.fnUntraced(function* (scope: TenantScope, jobId: JobId, reason: string) {
  const { sql, instant } = yield* Sql.clocked
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${reason}::text AS reason
    ), seen AS MATERIALIZED (
      SELECT q.status, q.workflow_run_id
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
    ), locked AS MATERIALIZED (
      SELECT
        q.id, q.status, q.run_number, q.attempt, q.event_seq, q.stage, q.progress_done, q.progress_total,
        q.lease_expires_at, ${sql.literal(attemptColumns)}
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
        -- an expression, or the planner would take a partial index by status instead of the primary key
        AND q.status || '' IN ('PENDING', 'LEASED')
        AND q.workflow_run_id IS NULL
        AND ${sql.literal(isReadCommitted)}
      FOR NO KEY UPDATE SKIP LOCKED
    ), canceled AS (
      UPDATE runledger.job_queue q
      SET
        status = 'CANCELED',
        ${sql.literal(withoutAttempt)},
        finished_at = i.at,
        output = NULL,
        status_reason = i.reason,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM locked))
      RETURNING q.*
    ), closed AS (
      INSERT INTO ${sql.literal(attemptTarget)})
      SELECT ${sql.literal(attemptValues)}, i.at, 'CANCELED', NULL
      FROM locked l
      CROSS JOIN input i
      WHERE l.status = 'LEASED'
    ), event AS (
      INSERT INTO runledger.job_events (
        job_id, seq, run_number, attempt, event_type, stage, progress_done, progress_total, payload, occurred_at
      )
      SELECT
        l.id, l.event_seq + 1, l.run_number, NULLIF(l.attempt, 0), 'CANCELED', l.stage, l.progress_done, l.progress_total,
        jsonb_strip_nulls(jsonb_build_object('reason', i.reason, 'lease_quiesces_at', l.lease_expires_at)),
        i.at
      FROM locked l
      CROSS JOIN input i
    )
    SELECT
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN EXISTS (SELECT FROM canceled) THEN 'done'
        WHEN s.status IS NULL THEN 'not found'
        WHEN s.workflow_run_id IS NOT NULL THEN 'workflow'
        WHEN s.status IN ('PENDING', 'LEASED') THEN 'busy'
        ELSE 'terminal'
      END AS outcome,
      s.status AS seen_status,
      s.workflow_run_id AS seen_run_id,
      c.*
    FROM (SELECT) AS always
    LEFT JOIN seen s ON true
    LEFT JOIN (SELECT ${sql.literal(jobColumns)} FROM canceled) c ON true
  `
  const answer = (value: JobRecord | JobNotFound | WorkflowManaged | InvalidStateTransition | "busy") =>
    new Map([[jobId, value]])
  switch (row?.outcome) {
    case "isolation":
      return yield* new NotReadCommitted()
    case "busy":
      return answer("busy")
    case "done":
      return answer(yield* decodeJob(row))
    case "workflow":
      return answer(new WorkflowManaged({ jobId, workflowRunId: String(row.seen_run_id) }))
    case "terminal":
      return answer(new InvalidStateTransition({ jobId, status: String(row.seen_status) }))
    default:
      return answer(new JobNotFound({ jobId }))
  }
})

const decodeJob = (row: unknown) => Effect.mapError(Schema.decodeUnknownEffect(JobRow)(row), () => new QueryFailed({}))
