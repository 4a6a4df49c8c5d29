import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { type JobId, type JobRecord, JobRow, jobColumns } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  InvalidArgument,
  InvalidStateTransition,
  QueryFailed,
  Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { WorkflowRequeueNotSupported } from "../RecoveryReason.ts"
import { global, type Owner, organization } from "../TenantScope.ts"
import { withoutLease } from "./attempt.ts"

/** The statuses that a job can be requeued from. One that succeeded is replayed instead, as a new job. */
export type RequeueableStatus = "DEAD_LETTERED" | "CANCELED"

/** Whether the next run begins with the progress and the checkpoint that the last one left, or without. */
export type StatePolicy = "preserve" | "reset"

/** Which job is requeued, and as what it was seen; made by {@link requeueOf}, or by hand. */
export interface RequeueRequest {
  readonly scope: Owner
  readonly jobId: JobId
  readonly expectedStatus: RequeueableStatus
  readonly expectedRunNumber: number
  readonly statePolicy: StatePolicy
  /** For people: not blank. Recorded with job and event; at most 16,384 characters are kept. */
  readonly reason: string
}

/** The job is pending again, in a new run. */
export interface Requeued {
  readonly _tag: "Requeued"
  readonly before: JobRecord
  readonly after: JobRecord
  /** The `seq` of the event, which belongs to the run before. */
  readonly seq: number
}

/** The job is not what was expected: another status, or another run. */
export interface ExpectationMismatch {
  readonly _tag: "ExpectationMismatch"
  readonly actual: JobRecord
}

/** The job was canceled while a handler was at work, which may be so until `retryAfter`. */
export interface CancellationNotQuiesced {
  readonly _tag: "CancellationNotQuiesced"
  readonly actual: JobRecord
  readonly retryAfter: DateTime.Utc
}

/** There is no such job in exactly this scope. */
export interface NotFound {
  readonly _tag: "NotFound"
  readonly jobId: JobId
}

/** What became of a requeue. Only `Requeued` has written anything. */
export type RequeueOutcome = Requeued | ExpectationMismatch | CancellationNotQuiesced | NotFound

/** What {@link requeue} can fail with. */
export type RequeueReason = InvalidArgument | UnsupportedIsolation | WorkflowRequeueNotSupported | WriteReason

/**
 * The request that requeues a job as it was read: in its scope, from its status and run. Fails with `InvalidStateTransition` if
 * a job of this status cannot be requeued.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { type Job, Jobs } from "effect-runledger"
 *
 * const again = (job: Job.JobRecord) =>
 *   Effect.fromResult(Jobs.requeueOf(job, { statePolicy: "preserve", reason: "the mail server is back" })).pipe(
 *     Effect.flatMap(Jobs.requeue)
 *   )
 * ```
 */
export const requeueOf = (
  job: JobRecord,
  options: Pick<RequeueRequest, "statePolicy" | "reason">
): Result.Result<RequeueRequest, InvalidStateTransition> =>
  job.status === "DEAD_LETTERED" || job.status === "CANCELED"
    ? Result.succeed({
        ...options,
        scope: Option.match(job.organizationId, { onNone: () => global, onSome: organization }),
        jobId: job.id,
        expectedStatus: job.status,
        expectedRunNumber: job.runNumber
      })
    : Result.fail(new InvalidStateTransition({ jobId: job.id, status: job.status }))

/**
 * Compare and requeue: makes a job that was canceled or dead-lettered due again, in a new run with all its attempts, if it still
 * is in the status and run in which it was seen. Payload, key and settings stay; the dead letter stays, and is not redriven.
 *
 * A job that was canceled while leased is not requeued before its lease has run out: until then its handler may be at work.
 *
 * Fails with `WorkflowRequeueNotSupported` (the job belongs to a workflow run, see `Workflows.recover`), `InvalidArgument`,
 * `UnsupportedIsolation`, `Unavailable` (the row stayed locked for two seconds), or what any write can fail with.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job, event, and the mark of its dead letter. What has written nothing
 * has locked nothing either.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const outcome = Jobs.requeue({
 *   scope: TenantScope.global,
 *   jobId,
 *   expectedStatus: "DEAD_LETTERED",
 *   expectedRunNumber: 1,
 *   statePolicy: "reset",
 *   reason: "the mail server is back"
 * })
 * ```
 */
export const requeue: (request: RequeueRequest) => Effect.Effect<RequeueOutcome, QueryError<RequeueReason>, SqlClient> =
  Effect.fnUntraced(function* (request: RequeueRequest) {
    const invalid =
      invalidScope(request.scope) ??
      Args.uuid("jobId", request.jobId) ??
      (request.expectedStatus === "DEAD_LETTERED" || request.expectedStatus === "CANCELED"
        ? undefined
        : new InvalidArgument({ argument: "expectedStatus", rule: "must be one of DEAD_LETTERED, CANCELED" })) ??
      Args.integer("expectedRunNumber", request.expectedRunNumber, 1) ??
      invalidPolicy(request.statePolicy) ??
      invalidReason(request.reason)
    if (invalid !== undefined) return yield* invalid
    const answers = yield* askUntilFree(
      [{ lease: { jobId: request.jobId } }],
      Effect.fnUntraced(function* () {
        const answer = yield* readCommitted("job.compare_and_requeue_unsupported_isolation")(requeueOnce(request))
        return new Map([[request.jobId, answer]])
      })
    )
    const answer = answers.get(request.jobId)
    if (answer === undefined) return yield* new Unavailable({ origin: "busy" })
    if (answer._tag === "Requeued") yield* markDue([answer.after.jobType])
    return answer
  }, writing("Jobs.requeue"))

/** The rule that the policy breaks. */
export const invalidPolicy = (policy: StatePolicy): InvalidArgument | undefined =>
  policy === "preserve" || policy === "reset"
    ? undefined
    : new InvalidArgument({ argument: "statePolicy", rule: "must be one of preserve, reset" })

/** The rule that the reason breaks. */
export const invalidReason = (reason: string): InvalidArgument | undefined =>
  Args.isBlank(reason) ? new InvalidArgument({ argument: "reason", rule: "must not be blank" }) : undefined

/** The policy as events have it. */
export const policyText = (policy: StatePolicy): string => `${policy}_progress_and_checkpoint`

/** What {@link requeueing} reads of a locked job `q`. */
export const requeueColumns = "q.id, q.run_number, q.attempt, q.event_seq, q.progress_done, q.progress_total"

/**
 * Requeues `requeueing`, locked jobs with {@link requeueColumns}; reads `input (at, reason, resets, event_payload)` and
 * provides `requeued`, the jobs as they are then. The event belongs to the run that has ended.
 */
export const requeueing = `
    requeued AS (
      UPDATE runledger.job_queue q
      SET
        status = 'PENDING',
        stage = 'queued',
        run_number = q.run_number + 1,
        attempt = 0,
        next_run_at = i.at,
        ${withoutLease},
        started_at = NULL,
        finished_at = NULL,
        progress_done = CASE WHEN NOT i.resets THEN q.progress_done END,
        progress_total = CASE WHEN NOT i.resets THEN q.progress_total END,
        checkpoint = CASE WHEN NOT i.resets THEN q.checkpoint END,
        output = NULL,
        status_reason = i.reason,
        last_error_code = NULL,
        last_error_message = NULL,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM requeueing))
      RETURNING q.*
    ), event AS (
      INSERT INTO runledger.job_events (
        job_id, seq, run_number, attempt, event_type, stage, progress_done, progress_total, payload, occurred_at
      )
      SELECT
        l.id, l.event_seq + 1, l.run_number, NULLIF(l.attempt, 0), 'REQUEUED', 'queued',
        CASE WHEN NOT i.resets THEN l.progress_done END, CASE WHEN NOT i.resets THEN l.progress_total END,
        i.event_payload, i.at
      FROM requeueing l
      CROSS JOIN input i
    )`

/**
 * Takes the dead letters of `locked` jobs off those that wait to be redriven. A dead letter is protected by the lock on its job,
 * and by nothing else.
 */
export const settling = `
    settled AS (
      UPDATE runledger.job_dead_letters d
      SET settled_run_number = d.run_number
      WHERE d.job_id = ANY (ARRAY(SELECT id FROM locked)) AND d.settled_run_number IS DISTINCT FROM d.run_number
    )`

const requeueOnce = Effect.fnUntraced(function* ({ scope, jobId, reason, statePolicy, ...expected }: RequeueRequest) {
  const { sql, instant, clock } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        t.*,
        jsonb_build_object(
          'reason', t.reason, 'state_policy', ${policyText(statePolicy)}::text, 'requeue_kind', 'COMPARE_AND_REQUEUE'
        ) AS event_payload
      FROM (
        SELECT
          ${instant} AS at,
          ${Args.diagnostic(reason)}::text AS reason,
          ${statePolicy === "reset"}::boolean AS resets,
          ${expected.expectedStatus}::text AS expected_status,
          ${expected.expectedRunNumber}::integer AS expected_run_number
      ) t
    ), seen AS MATERIALIZED (
      SELECT q.*
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
    ), locked AS MATERIALIZED (
      SELECT q.*
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
        -- an expression, or the planner would take a partial index by status instead of the primary key
        AND q.status || '' = (SELECT expected_status FROM input)
        AND q.run_number = (SELECT expected_run_number FROM input)
        AND q.workflow_run_id IS NULL
        -- asked before the lock is held, because a canceled job never gets another lease: quiet once is quiet for good
        AND (q.lease_expires_at IS NULL OR q.lease_expires_at <= ${clock})
        AND ${sql.literal(isReadCommitted)}
      FOR NO KEY UPDATE SKIP LOCKED
    ), requeueing AS (
      SELECT ${sql.literal(requeueColumns)} FROM locked q
    ), ${sql.literal(requeueing)}, ${sql.literal(settling)}
    SELECT
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN EXISTS (SELECT FROM requeued) THEN 'done'
        WHEN s.id IS NULL THEN 'not found'
        WHEN s.status <> i.expected_status OR s.run_number <> i.expected_run_number THEN 'mismatch'
        WHEN s.workflow_run_id IS NOT NULL THEN 'workflow'
        WHEN s.lease_expires_at > ${clock} THEN 'not quiet'
        ELSE 'busy'
      END AS outcome,
      r.*
    FROM input i
    LEFT JOIN seen s ON true
    LEFT JOIN (
      SELECT 'after' AS role, event_seq, ${sql.literal(jobColumns)} FROM requeued
      UNION ALL
      SELECT 'before', event_seq, ${sql.literal(jobColumns)} FROM locked
      UNION ALL
      SELECT 'actual', event_seq, ${sql.literal(jobColumns)} FROM seen WHERE NOT EXISTS (SELECT FROM locked)
    ) r ON true
    ORDER BY r.role
  `
  const [row, other] = rows
  switch (row?.outcome) {
    case "isolation":
      return yield* new NotReadCommitted()
    case "busy":
      return "busy" as const
    case "not found":
      return { _tag: "NotFound", jobId } as const
    case "workflow":
      return yield* new WorkflowRequeueNotSupported({ jobId, workflowRunId: String(row.workflow_run_id) })
    case "mismatch":
      return { _tag: "ExpectationMismatch", actual: yield* decodeJob(row) } as const
    case "not quiet": {
      const actual = yield* decodeJob(row)
      const retryAfter = Option.getOrUndefined(actual.leaseExpiresAt)
      if (retryAfter === undefined) return yield* new QueryFailed({})
      return { _tag: "CancellationNotQuiesced", actual, retryAfter } as const
    }
    case "done": {
      // in the order of their roles: after, before
      const after = yield* decodeSequenced(row)
      const before = yield* decodeJob(other)
      return { _tag: "Requeued", before, after: after.job, seq: after.seq } as const
    }
    default:
      return yield* new QueryFailed({})
  }
})

const decodeJob = (row: unknown) => Effect.mapError(Schema.decodeUnknownEffect(JobRow)(row), () => new QueryFailed({}))

const Sequenced = Schema.Struct({ event_seq: Schema.Int })

const decodeSequenced = Effect.fnUntraced(function* (row: unknown) {
  const { event_seq: seq } = yield* Effect.mapError(
    Schema.decodeUnknownEffect(Sequenced)(row),
    () => new QueryFailed({})
  )
  return { job: yield* decodeJob(row), seq }
})
