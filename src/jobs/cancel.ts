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
  type WriteReason
} from "../Reason.ts"
import { admin, type TenantScope } from "../TenantScope.ts"
import { inRun } from "../workflows/lock.ts"
import { settleJobs } from "../workflows/settle.ts"
import { attemptColumns, attemptTarget, attemptValues, withoutAttempt } from "./attempt.ts"
import { inRuns, OfRun, type Runs } from "./fence.ts"

/** Why the job is canceled. */
export interface CancelOptions {
  /** Recorded with job and event; default `CANCELED`. At most 16,384 characters are kept. */
  readonly reason?: string | undefined
}

/** What {@link cancel} can fail with. */
export type CancelReason = InvalidArgument | InvalidStateTransition | JobNotFound | UnsupportedIsolation | WriteReason

/**
 * Cancels a job that is pending or leased. A handler that is at work learns of it by a notification, if its worker listens, or
 * by its next heartbeat, which is refused like every other write of its lease. The job keeps `leaseExpiresAt`, the instant by
 * which that handler is certainly gone; it cannot be requeued before.
 *
 * The job of a workflow step takes its step with it: dependents follow their release modes.
 *
 * Fails with `JobNotFound` (no such job in the scope), `InvalidStateTransition` (it is terminal already), `Unavailable` (the
 * row stayed locked for two seconds, or its run for five), `InvalidArgument`, `UnsupportedIsolation`, or what any write can
 * fail with.
 *
 * Locks the run first, if there is one, then the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job, event, the attempt that it
 * ends, and what follows in the run.
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
  let run: OfRun | undefined
  const answers = yield* askUntilFree(
    [{ lease: { jobId } }],
    Effect.fnUntraced(function* () {
      if (run === undefined) {
        const answer = yield* readCommitted("job.unsupported_isolation")(cancelOnce(scope, jobId, reason, "none"))
        if (!(answer instanceof OfRun)) return new Map([[jobId, answer]])
        run = answer
      }
      const { runId } = run
      // what ends a step is done with its run locked
      const answer = yield* inRun(admin, runId, "r.status", () =>
        Effect.tap(cancelOnce(scope, jobId, reason, [runId]), (canceled) =>
          canceled instanceof JobRecord ? settleJobs([jobId]) : Effect.void
        )
      ).pipe(readCommitted("job.unsupported_isolation"))
      return new Map([[jobId, answer instanceof OfRun ? ("busy" as const) : answer]])
    })
  )
  const answer = answers.get(jobId)
  if (answer === undefined) return yield* new Unavailable({ origin: "busy" })
  if (!(answer instanceof JobRecord)) return yield* Effect.fail(answer)
  // only a leased job has this: nobody is at work on a pending one
  if (Option.isSome(answer.leaseExpiresAt)) yield* markCanceled([answer.id])
  return answer
}, writing("Jobs.cancel"))

/** What {@link cancelOf} reads of a locked job `q`. */
export const cancelColumns = `q.id, q.status, q.run_number, q.attempt, q.event_seq, q.stage, q.progress_done, q.progress_total,
        q.lease_expires_at, ${attemptColumns}`

/** Cancels `locked`, which holds {@link cancelColumns}; reads `input (at, reason)` and provides `canceled`, the jobs as they are then. */
export const cancelOf = `
    canceled AS (
      UPDATE runledger.job_queue q
      SET
        status = 'CANCELED',
        ${withoutAttempt},
        finished_at = i.at,
        output = NULL,
        status_reason = i.reason,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM locked))
      RETURNING q.*
    ), closed AS (
      INSERT INTO ${attemptTarget})
      SELECT ${attemptValues}, i.at, 'CANCELED', NULL
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
    )`

const cancelOnce = Effect.fnUntraced(function* (scope: TenantScope, jobId: JobId, reason: string, runs: Runs) {
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
        ${sql.literal(cancelColumns)}
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
        -- an expression, or the planner would take a partial index by status instead of the primary key
        AND q.status || '' IN ('PENDING', 'LEASED')
        ${inRuns(sql, runs)}
        AND ${sql.literal(isReadCommitted)}
      FOR NO KEY UPDATE SKIP LOCKED
    ), ${sql.literal(cancelOf)}
    SELECT
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN EXISTS (SELECT FROM canceled) THEN 'done'
        WHEN s.status IS NULL THEN 'not found'
        WHEN s.status NOT IN ('PENDING', 'LEASED') THEN 'terminal'
        WHEN s.workflow_run_id IS NOT NULL AND ${runs === "none"}::boolean THEN 'workflow'
        ELSE 'busy'
      END AS outcome,
      s.status AS seen_status,
      s.workflow_run_id AS seen_run_id,
      c.*
    FROM (SELECT) AS always
    LEFT JOIN seen s ON true
    LEFT JOIN (SELECT ${sql.literal(jobColumns)} FROM canceled) c ON true
  `
  switch (row?.outcome) {
    case "isolation":
      return yield* new NotReadCommitted({ ofRun: row.seen_run_id !== null })
    case "busy":
      return "busy" as const
    case "done":
      return yield* decodeJob(row)
    case "workflow":
      return new OfRun({ runId: String(row.seen_run_id) })
    case "terminal":
      return new InvalidStateTransition({ jobId, status: String(row.seen_status) })
    default:
      return new JobNotFound({ jobId })
  }
})

const decodeJob = (row: unknown) => Effect.mapError(Schema.decodeUnknownEffect(JobRow)(row), () => new QueryFailed({}))
