import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import { Jsonb, nullable, Timestamptz } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { DeadLetterReason, type FailureKind, type Lease, RetryTimingSource } from "../Job.ts"
import { attemptColumns, attemptTarget, attemptValues, withoutLease } from "./attempt.ts"
import { answersOf, fenceOf, lockedThenLive, ofRun, othersThanDone, type Runs } from "./fence.ts"

/** One failure, its text made storable. */
export interface EncodedFailure {
  readonly lease: Lease
  readonly kind: FailureKind
  readonly code: string
  readonly message: string
  /** The JSON of the error itself. */
  readonly error: string | undefined
  /** The retry is due no sooner than so many milliseconds from now. */
  readonly afterMillis: number | undefined
  /** The retry is due no sooner than at this ISO instant. */
  readonly notBefore: string | undefined
}

/** The job goes back to the queue. */
export interface RetryScheduled {
  readonly _tag: "RetryScheduled"
  /** What the retry policy said, even if the handler's lower bound decided. */
  readonly retryDelayMillis: number
  readonly nextRunAt: DateTime.Utc
  readonly source: RetryTimingSource
  /** The latest checkpoint, as a retry will find it. */
  readonly checkpoint: Option.Option<Schema.Json>
}

/** The job is finished and kept in the dead letters. */
export interface DeadLettered {
  readonly _tag: "DeadLettered"
  readonly reason: DeadLetterReason
  readonly checkpoint: Option.Option<Schema.Json>
}

/** What the retry policy makes of a failure. */
export type FailureDisposition = RetryScheduled | DeadLettered

/**
 * What becomes of failed attempts, shared by handlers' failures and the reaper, so that both follow one retry policy.
 *
 * Reads `input (at)` and `failing` (the locked row with its attempt, and `kind`, `code`, `message`, `error`,
 * `requested_at`, `ended_as`); provides `failed`, the rows with their disposition.
 *
 * The policy lives with the definition; a missing one means the defaults. The exponent is bounded, so that no number of
 * attempts overflows. A requested time is a lower bound: it can only delay.
 */
export const disposeOf = (sql: SqlClient): Fragment =>
  sql.literal(`
    judged AS MATERIALIZED (
      SELECT
        f.*,
        CASE
          WHEN f.kind IN ('TERMINAL', 'PANICKED') THEN 'FAILURE_KIND_NON_RETRYABLE'
          WHEN f.attempt < f.max_attempts THEN NULL
          WHEN f.ended_as = 'LEASE_EXPIRED' THEN 'LEASE_EXPIRED'
          ELSE 'ATTEMPTS_EXHAUSTED'
        END AS dead_letter_reason,
        COALESCE(
          -- the handler did nothing wrong: another worker may go on at once
          CASE WHEN f.code = 'job.worker_shutdown' THEN 0 END,
          (d.retry_overrides -> f.code)::integer,
          GREATEST(1, LEAST(2147483647, round(
            LEAST(
              COALESCE(d.retry_initial_ms, 10000) * power(COALESCE(d.retry_factor, 2), LEAST(f.attempt - 1, 100)),
              COALESCE(d.retry_max_ms, 300000)
            ) * (1 + COALESCE(d.retry_jitter, 0.1) * (2 * random() - 1))
          )))::integer
        ) AS policy_ms
      FROM failing f
      LEFT JOIN runledger.job_definitions d ON d.job_type = f.job_type
    ), timed AS MATERIALIZED (
      SELECT
        j.*,
        CASE WHEN j.dead_letter_reason IS NULL THEN j.policy_ms END AS retry_delay_ms,
        CASE
          WHEN j.dead_letter_reason IS NULL THEN GREATEST(i.at + j.policy_ms * interval '1 millisecond', j.requested_at)
        END AS effective_next_run_at,
        CASE
          WHEN j.dead_letter_reason IS NOT NULL THEN NULL
          WHEN j.requested_at > i.at + j.policy_ms * interval '1 millisecond' THEN 'HANDLER_NOT_BEFORE'
          ELSE 'POLICY'
        END AS retry_timing_source
      FROM judged j
      CROSS JOIN input i
    ), failed AS (
      UPDATE runledger.job_queue q
      SET
        status = CASE WHEN t.dead_letter_reason IS NULL THEN 'PENDING' ELSE 'DEAD_LETTERED' END,
        stage = CASE WHEN t.dead_letter_reason IS NULL THEN 'queued' ELSE q.stage END,
        next_run_at = COALESCE(t.effective_next_run_at, q.next_run_at),
        finished_at = CASE WHEN t.dead_letter_reason IS NOT NULL THEN i.at END,
        ${withoutLease},
        output = NULL,
        status_reason = t.kind,
        last_error_code = t.code,
        last_error_message = t.message,
        event_seq = q.event_seq + 2,
        updated_at = i.at
      FROM timed t
      CROSS JOIN input i
      -- a range of one: only a look-up by primary key for each row can answer it, whatever statistics say
      WHERE q.id BETWEEN t.id AND t.id
      RETURNING
        q.id, q.job_type, q.organization_id, q.run_number, q.attempt, q.payload, q.checkpoint, t.kind, t.code, t.message,
        t.dead_letter_reason, t.retry_delay_ms, t.effective_next_run_at, t.retry_timing_source
    ), closed AS (
      INSERT INTO ${attemptTarget},
        outcome, error_code, error_message, error, retry_delay_ms, requested_retry_not_before, effective_next_run_at,
        retry_timing_source)
      SELECT
        ${attemptValues}, i.at, l.ended_as, l.event_seq + 1, l.kind, l.code, l.message, l.error, l.retry_delay_ms,
        CASE WHEN l.dead_letter_reason IS NULL THEN l.requested_at END, l.effective_next_run_at, l.retry_timing_source
      FROM timed l
      CROSS JOIN input i
    ), buried AS (
      INSERT INTO runledger.job_dead_letters (
        job_id, job_type, organization_id, run_number, attempt, reason, failure_kind, error_code, error_message,
        payload_snapshot, checkpoint_snapshot, failed_at, created_at
      )
      SELECT
        f.id, f.job_type, f.organization_id, f.run_number, f.attempt, f.dead_letter_reason, f.kind, f.code, f.message,
        f.payload, f.checkpoint,
        -- a cursor of pages: as precise as the client's clock, so that it comes back as it went
        date_trunc('milliseconds', i.at), i.at
      FROM failed f
      CROSS JOIN input i
      WHERE f.dead_letter_reason IS NOT NULL
      ON CONFLICT (job_id) DO UPDATE SET
        run_number = EXCLUDED.run_number,
        attempt = EXCLUDED.attempt,
        reason = EXCLUDED.reason,
        failure_kind = EXCLUDED.failure_kind,
        error_code = EXCLUDED.error_code,
        error_message = EXCLUDED.error_message,
        payload_snapshot = EXCLUDED.payload_snapshot,
        checkpoint_snapshot = EXCLUDED.checkpoint_snapshot,
        failed_at = EXCLUDED.failed_at
    )`)

const Disposition = Schema.Struct({
  dead_letter_reason: nullable(DeadLetterReason),
  retry_delay_ms: nullable(Schema.Int),
  effective_next_run_at: nullable(Timestamptz),
  retry_timing_source: nullable(RetryTimingSource),
  checkpoint: nullable(Jsonb)
})

const decodeOption = Schema.decodeUnknownOption(Disposition)

/** The disposition in a row of `failed`, or `undefined` if it does not make sense. */
export const decodeDisposition = (row: unknown): FailureDisposition | undefined => {
  const decoded = Option.getOrUndefined(decodeOption(row))
  if (decoded === undefined) return undefined
  const { checkpoint } = decoded
  if (Option.isSome(decoded.dead_letter_reason)) {
    return { _tag: "DeadLettered", reason: decoded.dead_letter_reason.value, checkpoint }
  }
  return Option.getOrUndefined(
    Option.all({
      retryDelayMillis: decoded.retry_delay_ms,
      nextRunAt: decoded.effective_next_run_at,
      source: decoded.retry_timing_source
    }).pipe(Option.map((retry) => ({ _tag: "RetryScheduled" as const, ...retry, checkpoint })))
  )
}

/** Ends attempts as failed: each job is retried or dead-lettered as its policy says; attempt and dead letter are written. */
export const fail = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedFailure>, runs: Runs) {
  const { sql, instant, clock } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  const failures = JSON.stringify(
    Object.fromEntries(
      items.map(({ lease, kind, code, message, error, afterMillis, notBefore }) => [
        lease.jobId,
        { kind, code, message, error, after_ms: afterMillis, not_before: notBefore }
      ])
    )
  )
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${ids}::uuid[] AS ids, ${fence}::jsonb AS fence, ${failures}::jsonb AS failures, ${instant} AS at
    ), ${lockedThenLive(sql, clock, runs, `q.job_type, q.max_attempts, ${attemptColumns}`)}, failing AS MATERIALIZED (
      SELECT
        l.*, f.kind, f.code, f.message, f.error::jsonb AS error, 'FAILED' AS ended_as,
        COALESCE(f.not_before, (SELECT at FROM input) + f.after_ms * interval '1 millisecond') AS requested_at
      FROM live l
      CROSS JOIN LATERAL jsonb_to_record((SELECT failures FROM input) -> l.id::text)
        AS f (kind text, code text, message text, error text, after_ms bigint, not_before timestamptz)
    ), ${disposeOf(sql)}, done AS (
      SELECT * FROM failed
    )
    SELECT
      id, 'done' AS outcome, NULL::uuid AS workflow_run_id, dead_letter_reason, retry_delay_ms, effective_next_run_at,
      retry_timing_source, checkpoint
    FROM done
    UNION ALL
    ${othersThanDone(sql, runs, ", NULL, NULL, NULL, NULL, NULL")}
  `
  return yield* answersOf(rows, items, decodeDisposition, ofRun)
})
