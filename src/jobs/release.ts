import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, readCommitted } from "../internal/isolation.ts"
import * as Sql from "../internal/sql.ts"
import type { Lease } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  InvalidArgument,
  type LeaseOwnerMismatch,
  UnstartedClaimReleaseNotApplicable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { followed, stepFollows } from "../workflows/settle.ts"
import { withoutLease } from "./attempt.ts"
import { answerFor, answersOf, fenceOf, invalidLease } from "./fence.ts"

/** When a released claim is due again, and why it was released. */
export interface ReleaseOptions {
  /** Recorded in the event; default `CLAIM_RELEASED`. At most 16,384 characters are kept. */
  readonly reason?: string | undefined
  /** How long until the job is due again: 0 (the default) to 24 days, rounded up to milliseconds. */
  readonly delay?: Duration.Input | undefined
}

/** What {@link releaseUnstarted} can fail with. */
export type ReleaseReason =
  | InvalidArgument
  | LeaseOwnerMismatch
  | UnstartedClaimReleaseNotApplicable
  | UnsupportedIsolation
  | WriteReason

/**
 * Takes a prefetched claim back that never started: the job is `PENDING` again, and the attempt is given back. An expired
 * lease can be released too, as long as nobody reaped it.
 *
 * Fails with `UnstartedClaimReleaseNotApplicable` (the claim was `Jobs.claim`'s, it has started, or it is gone),
 * `LeaseOwnerMismatch` (another worker holds the job), `Unavailable` (the row stayed locked for two seconds),
 * `InvalidArgument`, `UnsupportedIsolation`, or what any write can fail with.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes `job_queue` and two events: the lease that is undone, and the release.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const released = Jobs.releaseUnstarted(lease, { reason: "SHUTDOWN" })
 * ```
 */
export const releaseUnstarted: (
  lease: Lease,
  options?: ReleaseOptions
) => Effect.Effect<void, QueryError<ReleaseReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  options?: ReleaseOptions
) {
  const invalid = invalidLease([lease])
  if (invalid !== undefined) return yield* invalid
  const delay = Args.millis(options?.delay ?? 0)
  if (delay === undefined || delay < 0 || delay > Args.maxInt) {
    return yield* new InvalidArgument({ argument: "delay", rule: "must last between 0 and 2,147,483,647 milliseconds" })
  }
  const reason = Args.diagnostic(options?.reason ?? "CLAIM_RELEASED")
  const answers = yield* askUntilFree([{ lease }], (items) =>
    readCommitted("job.unsupported_isolation")(release(items, reason, delay))
  )
  const jobType = yield* Effect.fromResult(answerFor(answers, lease))
  if (delay === 0) yield* markDue([jobType])
}, writing("Jobs.releaseUnstarted"))

/**
 * Gives claims back, shared by {@link releaseUnstarted} and the reaper. Reads `input (at)` and `releasing` (id, run_number,
 * attempt, event_seq, reason, delay_ms and the lease of locked rows); provides `released`.
 *
 * No attempt row exists to be deleted: attempts are written when they end. So the lease that is undone is stored as an event,
 * or the history could not show it.
 */
export const releaseOf = (sql: SqlClient): Fragment =>
  sql.literal(`
    released AS (
      UPDATE runledger.job_queue q
      SET
        status = 'PENDING',
        attempt = q.attempt - 1,
        next_run_at = i.at + r.delay_ms * interval '1 millisecond',
        started_at = CASE WHEN q.attempt = 1 THEN NULL ELSE q.started_at END,
        ${withoutLease},
        status_reason = NULL,
        last_error_code = NULL,
        last_error_message = NULL,
        output = NULL,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM releasing r
      CROSS JOIN input i
      -- a range of one: only a look-up by primary key for each row can answer it, whatever statistics say
      WHERE q.id BETWEEN r.id AND r.id
      RETURNING q.id, q.job_type, q.organization_id, q.max_attempts, q.checkpoint, ${followed}
    ), step AS (
      ${stepFollows("(SELECT * FROM released WHERE workflow_run_id IS NOT NULL)", "(SELECT at FROM input)")}
    ), undone AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, attempt, event_type, stage, payload, occurred_at)
      SELECT r.id, e.seq, r.run_number, r.attempt, e.event_type, r.stage, e.payload, e.occurred_at
      FROM releasing r
      CROSS JOIN input i
      CROSS JOIN LATERAL (
        VALUES
          (
            r.leased_seq, 'LEASED',
            jsonb_build_object('worker_id', r.worker_id, 'lease_duration_seconds', r.lease_ms / 1000.0), r.leased_at
          ),
          (r.event_seq + 1, 'REQUEUED', jsonb_build_object('reason', r.reason, 'requeue_kind', 'BASIC'), i.at)
      ) AS e (seq, event_type, payload, occurred_at)
    )`)

const release = Effect.fnUntraced(function* (
  items: ReadonlyArray<{ readonly lease: Lease }>,
  reason: string,
  delay: number
) {
  const { sql, instant } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${ids}::uuid[] AS ids, ${fence}::jsonb AS fence, ${instant} AS at
    ), seen AS MATERIALIZED (
      SELECT
        q.id, q.status, q.worker_id,
        (SELECT fence FROM input) ->> q.id::text = q.run_number || ':' || q.attempt || ':' || q.worker_id
          AND q.status = 'LEASED' AND q.claim_origin = 'WORKER_PRESTART' AND q.attempt_started_at IS NULL AS applies
      FROM runledger.job_queue q
      WHERE q.id = ANY ((SELECT ids FROM input)::uuid[])
    ), releasing AS MATERIALIZED (
      SELECT
        q.id, q.run_number, q.attempt, q.event_seq, q.stage, q.leased_seq, q.leased_at, q.worker_id, q.lease_ms,
        ${reason}::text AS reason, ${delay}::integer AS delay_ms
      FROM runledger.job_queue q
      WHERE q.id = ANY ((SELECT ids FROM input)::uuid[])
        AND q.status || '' = 'LEASED'
        AND (SELECT fence FROM input) ->> q.id::text = q.run_number || ':' || q.attempt || ':' || q.worker_id
        AND q.claim_origin = 'WORKER_PRESTART'
        AND q.attempt_started_at IS NULL
        AND ${sql.literal(isReadCommitted)}
      ORDER BY q.id
      FOR NO KEY UPDATE SKIP LOCKED
    ), ${releaseOf(sql)}
    SELECT id, 'done' AS outcome, job_type FROM released
    UNION ALL
    SELECT
      i.id,
      CASE
        WHEN s.applies THEN 'busy'
        WHEN s.status = 'LEASED' AND s.worker_id <> regexp_replace((SELECT fence FROM input) ->> i.id::text, '^[0-9]+:[0-9]+:', '') THEN 'refused'
        ELSE 'not applicable'
      END,
      NULL
    FROM unnest((SELECT ids FROM input)) AS i (id)
    LEFT JOIN seen s ON s.id = i.id
    WHERE i.id NOT IN (SELECT id FROM released)
    UNION ALL
    SELECT NULL, 'isolation', NULL WHERE NOT ${sql.literal(isReadCommitted)}
  `
  return yield* answersOf(
    rows,
    items,
    (row) => (Predicate.isString(row.job_type) ? row.job_type : undefined),
    (outcome, _, { jobId, runNumber, attempt }) =>
      outcome === "not applicable" ? new UnstartedClaimReleaseNotApplicable({ jobId, runNumber, attempt }) : undefined
  )
})
