import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { Row } from "effect/sql/SqlConnection"
import * as Sql from "../internal/sql.ts"
import type { Lease, Progress } from "../Job.ts"
import { InvalidCompletionProgress } from "../Reason.ts"
import { WorkflowContinuationNotEnabled } from "../WorkflowReason.ts"
import { followed, stepFollows } from "../workflows/settle.ts"
import { attemptColumns, attemptTarget, attemptValues, withoutLease } from "./attempt.ts"
import { answersOf, fenceOf, lockedThenLive, othersThanDone } from "./fence.ts"
import { decodeProgress } from "./success.ts"

/** One continuation, with its JSON encoded. */
export interface EncodedContinuation {
  readonly lease: Lease
  readonly delayMillis: number
  readonly done: number | undefined
  readonly total: number | undefined
  readonly checkpoint: string | undefined
}

/** The next run of the job, waiting for its time. */
export interface Continued {
  readonly _tag: "Continued"
  readonly jobType: string
  readonly nextRunNumber: number
  readonly nextRunAt: DateTime.Utc
  readonly progress: Progress
}

/**
 * Ends attempts as finished slices of longer work: the run number advances, attempts start anew, progress and checkpoint
 * stay. A step of a workflow must have opted in; it follows its job. The attempt is written, and the event that says when the next run is due.
 */
export const continueWith = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedContinuation>) {
  const { sql, instant, clock } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  const slices = `{${items
    .map(
      ({ lease, delayMillis, done, total, checkpoint }) =>
        `"${lease.jobId}":{"delay_ms":${delayMillis},"done":${done ?? null},"total":${total ?? null}${
          checkpoint === undefined ? "" : `,"checkpoint":${checkpoint}`
        }}`
    )
    .join(",")}}`
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${ids}::uuid[] AS ids, ${fence}::jsonb AS fence, ${slices}::jsonb AS slices, ${instant} AS at
    ), ${lockedThenLive(
      sql,
      clock,
      "any",
      `${attemptColumns}, q.progress_done, q.progress_total, q.checkpoint, q.workflow_run_id, q.workflow_step_id`
    )}, merged AS MATERIALIZED (
      SELECT
        l.id, l.run_number, l.attempt, l.event_seq, l.worker_id, l.claim_origin, l.leased_at, l.lease_ms,
        l.attempt_started_at, l.renewed, l.leased_seq, l.started_seq, l.workflow_run_id,
        l.workflow_run_id IS NULL OR COALESCE(
          (
            SELECT w.allow_handler_continuation
            FROM runledger.workflow_steps w
            WHERE w.id = l.workflow_step_id
          ),
          false
        ) AS is_allowed,
        COALESCE((s.slice ->> 'done')::bigint, l.progress_done) AS progress_done,
        COALESCE((s.slice ->> 'total')::bigint, l.progress_total) AS progress_total,
        COALESCE(s.slice -> 'checkpoint', l.checkpoint) AS checkpoint,
        (s.slice ->> 'delay_ms')::bigint AS delay_ms,
        i.at + (s.slice ->> 'delay_ms')::bigint * interval '1 millisecond' AS next_run_at
      FROM live l
      CROSS JOIN input i
      CROSS JOIN LATERAL (SELECT i.slices -> l.id::text AS slice) s
    ), valid AS MATERIALIZED (
      SELECT * FROM merged WHERE (progress_done <= progress_total) IS NOT FALSE AND is_allowed
    ), done AS (
      UPDATE runledger.job_queue q
      SET
        status = 'PENDING',
        stage = 'queued',
        run_number = q.run_number + 1,
        attempt = 0,
        next_run_at = v.next_run_at,
        progress_done = v.progress_done,
        progress_total = v.progress_total,
        checkpoint = v.checkpoint,
        output = NULL,
        ${sql.literal(withoutLease)},
        started_at = NULL,
        status_reason = 'HANDLER_CONTINUATION',
        last_error_code = NULL,
        last_error_message = NULL,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM valid v
      CROSS JOIN input i
      -- a range of one: only a look-up by primary key for each row can answer it, whatever statistics say
      WHERE q.id BETWEEN v.id AND v.id
      RETURNING q.id, q.job_type, q.next_run_at, q.progress_done, q.progress_total, ${sql.literal(followed)}
    ), step AS (
      ${sql.literal(stepFollows("done", "(SELECT at FROM input)"))}
    ), closed AS (
      INSERT INTO ${sql.literal(attemptTarget)})
      SELECT ${sql.literal(attemptValues)}, i.at, 'CONTINUED', NULL
      FROM valid l
      CROSS JOIN input i
    ), event AS (
      INSERT INTO runledger.job_events (
        job_id, seq, run_number, attempt, event_type, stage, progress_done, progress_total, payload, occurred_at
      )
      SELECT
        v.id, v.event_seq + 1, v.run_number, v.attempt, 'REQUEUED', 'queued', v.progress_done, v.progress_total,
        jsonb_build_object(
          'reason', 'HANDLER_CONTINUATION',
          'requeue_kind', 'HANDLER_CONTINUATION',
          'next_run_number', v.run_number + 1,
          'next_run_at', v.next_run_at,
          'delay_microseconds', v.delay_ms * 1000
        ),
        i.at
      FROM valid v
      CROSS JOIN input i
    )
    SELECT
      id, 'done' AS outcome, NULL::uuid AS workflow_run_id, job_type, run_number, next_run_at, progress_done, progress_total
    FROM done
    UNION ALL
    ${othersThanDone(sql, "any", ", NULL, NULL, NULL, NULL, NULL", refusal)}
  `
  return yield* answersOf(rows, items, decode, (outcome, row, { jobId }) =>
    outcome === "progress"
      ? new InvalidCompletionProgress()
      : outcome === "not enabled"
        ? new WorkflowContinuationNotEnabled({ jobId, workflowRunId: String(row.workflow_run_id) })
        : undefined
  )
})

const refusal = "CASE WHEN i.id IN (SELECT id FROM merged WHERE NOT is_allowed) THEN 'not enabled' ELSE 'progress' END"

const decode = (row: Row): Continued | undefined => {
  const jobType = row.job_type
  const nextRunNumber = row.run_number
  const nextRunAt = row.next_run_at
  const progress = decodeProgress(row)
  return Predicate.isString(jobType) &&
    Predicate.isNumber(nextRunNumber) &&
    Predicate.isDate(nextRunAt) &&
    progress !== undefined
    ? { _tag: "Continued", jobType, nextRunNumber, nextRunAt: DateTime.fromDateUnsafe(nextRunAt), progress }
    : undefined
}
