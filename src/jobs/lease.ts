import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import * as Sql from "../internal/sql.ts"
import type { Lease } from "../Job.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  InvalidArgument,
  InvalidLeaseDuration,
  InvalidProgress,
  type LeaseOwnerMismatch,
  type Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { answerFor, answersOf, fenceOf, invalidLease, lockedThenLive, othersThanDone } from "./fence.ts"
import { isProgress } from "./progress.ts"

/** A renewed lease. */
export interface Renewal {
  readonly leaseExpiresAt: DateTime.Utc
}

/** How long a lease lasts from now. */
export interface HeartbeatOptions {
  /** 1 ms to 24 days, rounded up to milliseconds. Default: 60 seconds. */
  readonly extend?: Duration.Input | undefined
}

/** What {@link heartbeat} can fail with. */
export type HeartbeatReason =
  | InvalidArgument
  | InvalidLeaseDuration
  | LeaseOwnerMismatch
  | UnsupportedIsolation
  | WriteReason

/** What {@link heartbeatMany} can fail with as a whole. */
export type HeartbeatManyReason = Exclude<HeartbeatReason, LeaseOwnerMismatch>

/** What one lease of {@link heartbeatMany} can be told. */
export type HeartbeatRefusal = LeaseOwnerMismatch | Unavailable

/**
 * Renews a lease: it then ends `extend` after the start of the statement.
 *
 * Fails with `LeaseOwnerMismatch` if the lease is no longer held or has expired (stop the work: somebody else may be at it),
 * `Unavailable` if the row stayed locked for two seconds (try again), `InvalidLeaseDuration`, `InvalidArgument` (the lease
 * is malformed), `UnsupportedIsolation`, or what any write can fail with.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes `job_queue`, no event.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const held = Jobs.heartbeat(lease, { extend: "30 seconds" }).pipe(
 *   Effect.as(true),
 *   Effect.catchReason("QueryError", "LeaseOwnerMismatch", () => Effect.succeed(false))
 * )
 * ```
 */
export const heartbeat: (
  lease: Lease,
  options?: HeartbeatOptions
) => Effect.Effect<Renewal, QueryError<HeartbeatReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  options?: HeartbeatOptions
) {
  return yield* Effect.fromResult(answerFor(yield* renew([lease], options), lease))
}, writing("Jobs.heartbeat"))

/**
 * Renews up to 1,000 leases in one statement, each fenced and answered on its own, in the order given: one lost or locked
 * lease does not hold up the others, which are renewed at once. Those that are locked by another transaction are asked again
 * for two seconds and then answered `Unavailable`; that does not mean that the lease is lost.
 *
 * Fails as a whole, before anything is sent, with `InvalidArgument` (malformed, more than 1,000, or a job twice) or
 * `InvalidLeaseDuration`; else with `UnsupportedIsolation` or what any write can fail with. Locks and writes as
 * {@link heartbeat}.
 *
 * @example
 * ```ts
 * import { Effect, Result } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * declare const leases: ReadonlyArray<Jobs.Lease>
 * const lost = Effect.map(Jobs.heartbeatMany(leases), (answers) =>
 *   leases.filter((_, i) => answers[i] !== undefined && Result.isFailure(answers[i]))
 * )
 * ```
 */
export const heartbeatMany: (
  leases: ReadonlyArray<Lease>,
  options?: HeartbeatOptions
) => Effect.Effect<
  ReadonlyArray<Result.Result<Renewal, HeartbeatRefusal>>,
  QueryError<HeartbeatManyReason>,
  SqlClient
> = Effect.fnUntraced(function* (leases: ReadonlyArray<Lease>, options?: HeartbeatOptions) {
  const answers = yield* renew(leases, options)
  return leases.map((lease) => answerFor(answers, lease))
}, writing("Jobs.heartbeatMany"))

const renew = Effect.fnUntraced(function* (leases: ReadonlyArray<Lease>, options: HeartbeatOptions | undefined) {
  const extend = Args.millis(options?.extend ?? 60_000)
  if (extend === undefined || extend < 1 || extend > Args.maxInt) return yield* new InvalidLeaseDuration()
  const invalid = invalidLease(leases)
  if (invalid !== undefined) return yield* invalid
  return yield* askUntilFree(
    leases.map((lease) => ({ lease })),
    (items) => readCommitted("job.unsupported_isolation")(renewOnce(items, extend))
  )
})

const renewOnce = Effect.fnUntraced(function* (items: ReadonlyArray<{ readonly lease: Lease }>, extend: number) {
  const { sql, instant, clock } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${ids}::uuid[] AS ids,
        ${fence}::jsonb AS fence,
        ${instant} AS at,
        ${extend}::integer * interval '1 millisecond' AS extend
    ), ${lockedThenLive(sql, clock, "any", "q.worker_id")}, done AS (
      UPDATE runledger.job_queue q
      SET
        lease_expires_at = i.at + i.extend,
        last_heartbeat_at = i.at,
        -- whether the handler renewed after it started
        renewed = q.attempt_started_at IS NOT NULL,
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM live))
      RETURNING q.id, q.lease_expires_at
    )
    SELECT id, 'done' AS outcome, NULL::uuid AS workflow_run_id, lease_expires_at FROM done
    UNION ALL
    ${othersThanDone(sql, "any", ", NULL")}
  `
  return yield* answersOf(rows, items, (row) =>
    Predicate.isDate(row.lease_expires_at)
      ? { leaseExpiresAt: DateTime.fromDateUnsafe(row.lease_expires_at) }
      : undefined
  )
})

/** What a handler reports while it works. What is left out stays as it is. */
export interface ProgressUpdate {
  /** How much is done: a whole number, at most `total`. */
  readonly done?: number | undefined
  readonly total?: number | undefined
  /** Where to resume: any JSON of at most 2 MiB. `null` is a value. */
  readonly checkpoint?: Json | undefined
}

/** What {@link markRunning} and {@link updateProgress} can fail with. */
export type ProgressReason = InvalidArgument | InvalidProgress | LeaseOwnerMismatch | UnsupportedIsolation | WriteReason

/**
 * Marks that the attempt has begun to run: stage `running`, one running event per attempt, and the claim can no longer be
 * taken back without costing an attempt. `Jobs.claim` does this by itself; a prefetched claim needs it. Progress may come
 * along. Calling it again only writes the progress.
 *
 * Fails with `LeaseOwnerMismatch` (not held or expired), `Unavailable` (the row stayed locked for two seconds),
 * `InvalidProgress` (alone or together with what is stored), `InvalidArgument` (lease or checkpoint),
 * `UnsupportedIsolation`, or what any write can fail with.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes `job_queue`, and `job_events` where numbers were given.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const started = Jobs.markRunning(lease, { done: 0, total: 10 })
 * ```
 */
export const markRunning: (
  lease: Lease,
  update?: ProgressUpdate
) => Effect.Effect<void, QueryError<ProgressReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  update?: ProgressUpdate
) {
  yield* report(lease, update ?? {}, true)
}, writing("Jobs.markRunning"))

/**
 * Records progress, a checkpoint, or both. Numbers leave a progress event; a checkpoint alone leaves none. An update of
 * nothing still verifies the lease.
 *
 * Fails, locks and writes as {@link markRunning}.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const halfway = Jobs.updateProgress(lease, { done: 5, total: 10, checkpoint: { page: 5 } })
 * ```
 */
export const updateProgress: (
  lease: Lease,
  update: ProgressUpdate
) => Effect.Effect<void, QueryError<ProgressReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  update: ProgressUpdate
) {
  yield* report(lease, update, false)
}, writing("Jobs.updateProgress"))

/**
 * {@link markRunning} for many, in one statement that asks once: `"busy"` is a row that another transaction holds. For a
 * worker, which must not keep its slots waiting for one row.
 */
export const startMany = Effect.fnUntraced(function* (leases: ReadonlyArray<Lease>) {
  const invalid = invalidLease(leases)
  if (invalid !== undefined) return yield* invalid
  return yield* readCommitted("job.unsupported_isolation")(
    reportOnce(
      leases.map((lease) => ({ lease })),
      { done: null, total: null, checkpoint: null, starts: true }
    )
  )
}, writing("Jobs.markRunning"))

const report = Effect.fnUntraced(function* (lease: Lease, update: ProgressUpdate, starts: boolean) {
  const invalid = invalidLease([lease])
  if (invalid !== undefined) return yield* invalid
  if (!isProgress(update)) return yield* new InvalidProgress()
  let checkpoint: string | null = null
  if (update.checkpoint !== undefined) {
    const encoded = JsonText.encode(update.checkpoint)
    if (Result.isFailure(encoded)) {
      return yield* new InvalidArgument({ argument: "checkpoint", rule: encoded.failure })
    }
    checkpoint = encoded.success
  }
  const answers = yield* askUntilFree([{ lease }], (items) =>
    readCommitted("job.unsupported_isolation")(
      reportOnce(items, { done: update.done ?? null, total: update.total ?? null, checkpoint, starts })
    )
  )
  yield* Effect.fromResult(answerFor(answers, lease))
})

const reportOnce = Effect.fnUntraced(function* (
  items: ReadonlyArray<{ readonly lease: Lease }>,
  input: {
    readonly done: number | null
    readonly total: number | null
    readonly checkpoint: string | null
    readonly starts: boolean
  }
) {
  const { sql, instant, clock } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${ids}::uuid[] AS ids,
        ${fence}::jsonb AS fence,
        ${instant} AS at,
        ${input.done}::float8::bigint AS done,
        ${input.total}::float8::bigint AS total,
        ${input.checkpoint}::jsonb AS checkpoint,
        ${input.starts}::boolean AS starts
    ), ${lockedThenLive(sql, clock, "any", "q.attempt_started_at, q.progress_done, q.progress_total")}, valid AS MATERIALIZED (
      SELECT l.id, l.run_number, l.attempt, l.event_seq, i.starts AND l.attempt_started_at IS NULL AS starts
      FROM live l
      CROSS JOIN input i
      WHERE (COALESCE(i.done, l.progress_done) <= COALESCE(i.total, l.progress_total)) IS NOT FALSE
    ), done AS (
      UPDATE runledger.job_queue q
      SET
        stage = CASE WHEN i.starts THEN 'running' ELSE q.stage END,
        attempt_started_at = CASE WHEN i.starts THEN COALESCE(q.attempt_started_at, i.at) ELSE q.attempt_started_at END,
        started_seq = CASE
          WHEN i.starts AND q.attempt_started_at IS NULL THEN q.event_seq + 1
          ELSE q.started_seq
        END,
        event_seq = q.event_seq
          + CASE WHEN i.starts AND q.attempt_started_at IS NULL THEN 1 ELSE 0 END
          + CASE WHEN i.done IS NULL AND i.total IS NULL THEN 0 ELSE 1 END,
        progress_done = COALESCE(i.done, q.progress_done),
        progress_total = COALESCE(i.total, q.progress_total),
        checkpoint = COALESCE(i.checkpoint, q.checkpoint),
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM valid))
      RETURNING q.id
    ), event AS (
      INSERT INTO runledger.job_events
        (job_id, seq, run_number, attempt, event_type, stage, progress_done, progress_total, occurred_at)
      SELECT v.id, v.event_seq + CASE WHEN v.starts THEN 2 ELSE 1 END, v.run_number, v.attempt, 'PROGRESS', NULL, i.done, i.total, i.at
      FROM valid v
      CROSS JOIN input i
      WHERE i.done IS NOT NULL OR i.total IS NOT NULL
    )
    SELECT id, 'done' AS outcome, NULL::uuid AS workflow_run_id FROM done
    UNION ALL
    ${othersThanDone(sql, "any", "", "'progress'")}
  `
  return yield* answersOf(
    rows,
    items,
    () => null,
    (outcome) => (outcome === "progress" ? new InvalidProgress() : undefined)
  )
})
