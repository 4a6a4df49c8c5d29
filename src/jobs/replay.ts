import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isJobId, isNumber, isStatus } from "../internal/row.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { traceParent } from "../internal/trace.ts"
import { type JobId, JobRow, jobColumns } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  DefinitionUnavailable,
  type InvalidArgument,
  QueryFailed,
  Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { InvalidReplay, ReplayConflict, WorkflowRequeueNotSupported } from "../RecoveryReason.ts"
import type { Owner } from "../TenantScope.ts"
import type { Enqueued } from "./enqueue.ts"
import { maxKeyBytes } from "./limits.ts"
import type { ExpectationMismatch, NotFound } from "./requeue.ts"

/** Which job is replayed, in which run it succeeded, and under which key. */
export interface ReplayRequest {
  readonly scope: Owner
  readonly sourceJobId: JobId
  readonly expectedRunNumber: number
  /** Makes a retry of the same replay return the first: not blank, at most 512 bytes, unique within the run of the source. */
  readonly requestKey: string
  /** For people: not blank. At most 16,384 characters are kept, and compared with those of an earlier replay. */
  readonly reason: string
}

/** The job that the replay led to; `existing` if the same replay was asked for before. */
export interface Replayed {
  readonly _tag: "Replayed"
  readonly sourceJobId: JobId
  readonly sourceRunNumber: number
  readonly replay: Enqueued
}

/** What became of a replay. Only `Replayed` that says `inserted` has written anything. */
export type ReplayOutcome = Replayed | ExpectationMismatch | NotFound

/** What {@link replay} can fail with. */
export type ReplayReason =
  | DefinitionUnavailable
  | InvalidArgument
  | InvalidReplay
  | ReplayConflict
  | UnsupportedIsolation
  | WorkflowRequeueNotSupported
  | WriteReason

/**
 * Compare and replay: does a job that succeeded once more, as a new job, if it still is in the run in which it was seen to
 * succeed. The new job has payload, organization, priority, attempts, timeout and resource key of its source, no idempotency
 * key, and is due at once. The source stays as it is; the first event of the new job names it.
 *
 * A retry with the same key and reason returns the first replay, whatever became of it, even if the type was disabled since.
 *
 * Fails with `InvalidReplay` (key or reason), `ReplayConflict` (the key belongs to a replay with another reason),
 * `WorkflowRequeueNotSupported` (the source belongs to a workflow run, see `Workflows.recover`), `DefinitionUnavailable` (the
 * type is not declared, or disabled), `InvalidArgument`, `UnsupportedIsolation`, `Unavailable` (the source stayed locked for two
 * seconds), or what any write can fail with.
 *
 * Locks the source `FOR NO KEY UPDATE SKIP LOCKED`; writes the new job, its first event, and the lineage.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const sourceJobId: Jobs.JobId
 * const again = Jobs.replay({
 *   scope: TenantScope.global,
 *   sourceJobId,
 *   expectedRunNumber: 1,
 *   requestKey: "ticket:4711",
 *   reason: "the customer has lost the mail"
 * })
 * ```
 */
export const replay: (request: ReplayRequest) => Effect.Effect<ReplayOutcome, QueryError<ReplayReason>, SqlClient> =
  Effect.fnUntraced(function* (request: ReplayRequest) {
    const { sourceJobId, requestKey } = request
    if (Args.isBlank(requestKey)) return yield* new InvalidReplay({ code: "job.replay_request_key_blank" })
    if (Buffer.byteLength(requestKey) > maxKeyBytes) {
      return yield* new InvalidReplay({ code: "job.replay_request_key_too_long" })
    }
    if (Args.isBlank(request.reason)) return yield* new InvalidReplay({ code: "job.replay_reason_blank" })
    const invalid =
      invalidScope(request.scope) ??
      Args.uuid("sourceJobId", sourceJobId) ??
      Args.integer("expectedRunNumber", request.expectedRunNumber, 1) ??
      Args.name("requestKey", requestKey, maxKeyBytes)
    if (invalid !== undefined) return yield* invalid
    const answers = yield* askUntilFree(
      [{ lease: { jobId: sourceJobId } }],
      Effect.fnUntraced(function* () {
        const answer = yield* readCommitted("job.compare_and_replay_unsupported_isolation")(replayOnce(request))
        return new Map([[sourceJobId, answer]])
      })
    )
    const answer = answers.get(sourceJobId)
    if (answer === undefined) return yield* new Unavailable({ origin: "busy" })
    if (answer.due !== undefined) yield* markDue([answer.due])
    return answer.outcome
  }, writing("Jobs.replay"))

/** An outcome, and the type of which something became due by it. */
const answerOf = (outcome: ReplayOutcome, due?: string) => ({ outcome, due })

/**
 * Finds the earlier replay, or makes one. Whoever makes one holds the source, so nobody waits for a key: a replay that was
 * committed after this statement began, and before it had the source, is found by the next.
 */
const replayOnce = Effect.fnUntraced(function* ({
  scope,
  sourceJobId,
  expectedRunNumber,
  requestKey,
  reason
}: ReplayRequest) {
  const { sql, instant } = yield* Sql.clocked
  const trace = traceParent(yield* Effect.context())
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${instant} AS at,
        runledger.uuidv7() AS replay_id,
        ${expectedRunNumber}::integer AS run_number,
        ${requestKey}::text AS request_key,
        ${Args.diagnostic(reason)}::text AS reason,
        ${trace}::text AS trace_parent
    ), seen AS MATERIALIZED (
      SELECT q.*
      FROM runledger.job_queue q
      WHERE q.id = ${sourceJobId}::uuid AND ${inScope(sql, scope, "q")}
    ), earlier AS MATERIALIZED (
      SELECT r.replay_job_id, r.reason, q.status, q.run_number
      FROM runledger.job_replays r
      JOIN runledger.job_queue q ON q.id = r.replay_job_id
      WHERE r.source_job_id = (SELECT id FROM seen)
        AND r.source_run_number = (SELECT run_number FROM input)
        AND r.replay_request_key = (SELECT request_key FROM input)
    ), definition AS MATERIALIZED (
      SELECT d.is_enabled
      FROM runledger.job_definitions d
      WHERE d.job_type = (SELECT job_type FROM seen)
    ), locked AS MATERIALIZED (
      SELECT q.*
      FROM runledger.job_queue q
      WHERE q.id = ${sourceJobId}::uuid AND ${inScope(sql, scope, "q")}
        -- an expression, or the planner would take a partial index by status instead of the primary key
        AND q.status || '' = 'SUCCEEDED'
        AND q.run_number = (SELECT run_number FROM input)
        AND q.workflow_run_id IS NULL
        AND NOT EXISTS (SELECT FROM earlier)
        AND EXISTS (SELECT FROM definition WHERE is_enabled)
        AND ${sql.literal(isReadCommitted)}
      FOR NO KEY UPDATE SKIP LOCKED
    ), lineage AS (
      INSERT INTO runledger.job_replays (
        replay_job_id, source_job_id, source_run_number, replay_request_key, reason, created_at
      )
      SELECT i.replay_id, l.id, l.run_number, i.request_key, i.reason, i.at
      FROM locked l
      CROSS JOIN input i
      ON CONFLICT DO NOTHING
      RETURNING replay_job_id
    ), job AS (
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        execution_resource_key, trace_parent, created_at, updated_at
      )
      SELECT
        n.replay_job_id, l.job_type, l.payload_version, l.organization_id, l.payload, l.priority, l.max_attempts,
        l.timeout_seconds, i.at, l.execution_resource_key, i.trace_parent, i.at, i.at
      FROM lineage n
      CROSS JOIN locked l
      CROSS JOIN input i
      RETURNING id, status, run_number
    ), event AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, event_type, stage, payload, occurred_at)
      SELECT
        n.replay_job_id, 1, 1, 'ENQUEUED', 'queued',
        jsonb_build_object(
          'job_type', l.job_type,
          'replayed_from_job_id', l.id,
          'replayed_from_run_number', l.run_number,
          'replay_request_key', i.request_key,
          'reason', i.reason
        ),
        i.at
      FROM lineage n
      CROSS JOIN locked l
      CROSS JOIN input i
    )
    SELECT
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN j.id IS NOT NULL THEN 'inserted'
        WHEN s.id IS NULL THEN 'not found'
        WHEN e.reason = i.reason THEN 'existing'
        WHEN e.reason IS NOT NULL THEN 'conflict'
        WHEN s.status <> 'SUCCEEDED' OR s.run_number <> i.run_number THEN 'mismatch'
        WHEN s.workflow_run_id IS NOT NULL THEN 'workflow'
        WHEN d.is_enabled IS NULL THEN 'missing'
        WHEN NOT d.is_enabled THEN 'disabled'
        ELSE 'busy'
      END AS outcome,
      COALESCE(j.id, e.replay_job_id) AS replay_job_id,
      COALESCE(j.status, e.status) AS replay_status,
      COALESCE(j.run_number, e.run_number) AS replay_run_number,
      s.*
    FROM input i
    LEFT JOIN (SELECT ${sql.literal(jobColumns)} FROM seen) s ON true
    LEFT JOIN earlier e ON true
    LEFT JOIN definition d ON true
    LEFT JOIN job j ON true
  `
  const outcome = row?.outcome
  switch (outcome) {
    case "isolation":
      return yield* new NotReadCommitted()
    case "busy":
      return "busy" as const
    case "not found":
      return answerOf({ _tag: "NotFound", jobId: sourceJobId })
    case "conflict":
      return yield* new ReplayConflict({ sourceJobId, replayJobId: String(row?.replay_job_id) })
    case "workflow":
      return yield* new WorkflowRequeueNotSupported({
        jobId: sourceJobId,
        workflowRunId: String(row?.workflow_run_id)
      })
    case "missing":
    case "disabled":
      return yield* new DefinitionUnavailable({ jobType: String(row?.job_type), state: outcome })
    case "mismatch":
      return answerOf({ _tag: "ExpectationMismatch", actual: yield* decodeJob(row) })
    case "inserted":
    case "existing": {
      const { replay_job_id: jobId, replay_status: status, replay_run_number: runNumber } = row ?? {}
      if (!isJobId(jobId) || !isStatus(status) || !isNumber(runNumber)) return yield* new QueryFailed({})
      const replay = { jobId, status, runNumber, disposition: outcome }
      return answerOf(
        { _tag: "Replayed", sourceJobId, sourceRunNumber: expectedRunNumber, replay },
        outcome === "inserted" ? String(row?.job_type) : undefined
      )
    }
    default:
      return yield* new QueryFailed({})
  }
})

const decodeJob = (row: unknown) => Effect.mapError(Schema.decodeUnknownEffect(JobRow)(row), () => new QueryFailed({}))
