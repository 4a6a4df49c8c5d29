import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as Args from "../internal/arguments.ts"
import { nullable } from "../internal/columns.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isPoisoned, savepointInCallers } from "../internal/poison.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { JobId } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { type InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import { lockFreeRuns } from "../workflows/lock.ts"
import { heldUntil, settleJobs } from "../workflows/settle.ts"
import { attemptColumns } from "./attempt.ts"
import { decodeDisposition, disposeOf, type FailureDisposition } from "./failure.ts"
import { inRuns, type Runs } from "./fence.ts"
import { maxBatch } from "./limits.ts"
import { releaseOf } from "./release.ts"

/** An attempt whose lease ran out, and what became of its job. */
export interface ReapedLease {
  readonly jobId: JobId
  readonly jobType: string
  readonly organizationId: Option.Option<string>
  readonly runNumber: number
  readonly attempt: number
  readonly maxAttempts: number
  readonly workerId: string
  /** The attempt started and never renewed its lease: its process died at once, or it blocks its event loop. */
  readonly startedWithoutRenewal: boolean
  readonly disposition: FailureDisposition | { readonly _tag: "Released" }
}

/** What {@link reapExpiredLeases} did. */
export interface Reaped {
  readonly leases: ReadonlyArray<ReapedLease>
  /**
   * Jobs that the database would not let us write. Their leases were prolonged by 30 seconds, so that others come first; where
   * the database refused even that, they are left as they are, and met again by the next reaper.
   */
  readonly postponed: ReadonlyArray<PostponedLease>
}

/** A job that could not be written, and why. */
export interface PostponedLease {
  readonly jobId: JobId
  readonly reason: WriteReason
}

/** What to reap. */
export interface ReapOptions {
  /** How many leases at most: 1 to 1,000. */
  readonly limit: number
}

/** What {@link reapExpiredLeases} can fail with. */
export type ReapReason = InvalidArgument | UnsupportedIsolation | WriteReason

/** The failure that an expired lease counts as. */
export const leaseExpired = { kind: "LEASE_EXPIRED", code: "job.lease_expired", message: "The lease ran out" } as const

/**
 * Ends the attempts whose leases have expired, oldest first: a prefetched claim that never started is given back, any other
 * attempt counts as failed with `job.lease_expired` and is retried or dead-lettered by its policy.
 *
 * A step of a workflow follows its job, and the run what follows from it. Active keys of runs that ended while a canceled
 * handler was still at work are given back.
 *
 * Any number of processes may reap at once: rows that others hold are skipped, and a lease that was renewed meanwhile is left
 * alone. If the database refuses the batch, it is halved until the row at fault is found; that one is postponed.
 *
 * Fails with `InvalidArgument` (limit), `UnsupportedIsolation`, or what any write can fail with. Locks runs and jobs
 * `FOR NO KEY UPDATE SKIP LOCKED`; writes jobs, attempts, events and dead letters.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * const reap = Effect.map(Jobs.reapExpiredLeases({ limit: 100 }), ({ leases }) => leases.length)
 * ```
 */
export const reapExpiredLeases: (options: ReapOptions) => Effect.Effect<Reaped, QueryError<ReapReason>, SqlClient> =
  Effect.fnUntraced(function* ({ limit }: ReapOptions) {
    const invalid = Args.integer("limit", limit, 1, maxBatch)
    if (invalid !== undefined) return yield* invalid
    const leases: Array<ReapedLease> = []
    const postponed: Array<PostponedLease> = []
    const reapAll = Effect.fnUntraced(function* (runs: "none" | ReadonlyArray<string>) {
      let size = limit
      for (let left = limit - leases.length - postponed.length; left > 0; ) {
        size = Math.min(size, left)
        const aside = postponed.map(({ jobId }) => jobId)
        const round = yield* savepointInCallers(reapIn(runs, size, aside)).pipe(
          readCommitted("job.unsupported_isolation"),
          Effect.catchIf(isPoisoned, () => Effect.succeed(undefined))
        )
        if (round !== undefined) {
          leases.push(...round)
          if (round.length < size) break
          left -= size
        } else if (size > 1) {
          size = Math.floor(size / 2)
        } else {
          const next = yield* readCommitted("job.unsupported_isolation")(reapOrPostpone(runs, aside))
          if (next === undefined) break
          if ("reason" in next) postponed.push(next)
          else leases.push(...next)
          left -= 1
          size = left
        }
      }
    })
    const runs = yield* expiredRuns(limit)
    // neither kind starves the other, however many leases run out
    const order = Math.random() < 0.5 ? (["none", runs] as const) : ([runs, "none"] as const)
    for (const kind of order) if (kind === "none" || kind.length > 0) yield* reapAll(kind)
    const due = leases.filter(({ disposition }) => disposition._tag === "Released")
    if (due.length > 0) yield* markDue(due.map(({ jobType }) => jobType))
    return { leases, postponed }
  }, writing("Jobs.reapExpiredLeases"))

/**
 * The runs of the first leases in line, if any belong to one. Gives active keys back as well: a run that ended while a
 * canceled handler still held its lease has kept its key until now.
 */
const expiredRuns = Effect.fnUntraced(function* (limit: number) {
  const { sql, instant, clock } = yield* Sql.clocked
  const rows = yield* sql`
    WITH freed AS (
      DELETE FROM runledger.workflow_active_claims c
      WHERE (c.scope, c.active_key) IN (
        SELECT p.scope, p.active_key
        FROM runledger.workflow_active_claims p
        WHERE p.release_pending AND (${sql.literal(heldUntil("p.workflow_run_id"))} > ${clock}) IS NOT TRUE
        ORDER BY p.updated_at, p.workflow_run_id
        LIMIT ${limit}
        FOR UPDATE SKIP LOCKED
      )
    )
    SELECT DISTINCT e.workflow_run_id
    FROM (
      SELECT q.workflow_run_id
      FROM runledger.job_queue q
      WHERE q.status = 'LEASED' AND q.lease_expires_at <= ${instant}
      ORDER BY q.lease_expires_at, q.id
      LIMIT ${limit}
    ) e
    WHERE e.workflow_run_id IS NOT NULL
  `
  return rows.map(({ workflow_run_id: runId }) => runId).filter(Predicate.isString)
})

/** {@link reap}, by the protocol of `workflows/lock.ts` where the jobs belong to runs. */
const reapIn = (runs: "none" | ReadonlyArray<string>, limit: number, aside: ReadonlyArray<JobId>, only?: JobId) =>
  runs === "none"
    ? reap("none", limit, aside, only)
    : transaction(
        Effect.gen(function* () {
          const leases = yield* reap(yield* lockFreeRuns(runs), limit, aside, only)
          yield* settleJobs(leases.map(({ jobId }) => jobId))
          return leases
        })
      )

/** Reaps the first leases in line, except those put aside; or only the one given, which the transaction has locked. */
const reap = Effect.fnUntraced(function* (
  runs: Runs,
  limit: number,
  aside: ReadonlyArray<JobId>,
  only?: JobId
): Effect.fn.Return<ReadonlyArray<ReapedLease>, SqlError | NotReadCommitted | QueryFailed, SqlClient> {
  const { sql, instant, clock } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at
    ), locked AS MATERIALIZED (
      SELECT
        q.id, q.job_type, q.organization_id, q.run_number, q.attempt, q.max_attempts, q.event_seq, q.stage,
        q.lease_expires_at, ${sql.literal(attemptColumns)}
      FROM runledger.job_queue q
      WHERE q.status = 'LEASED' AND q.lease_expires_at <= (SELECT at FROM input)
        ${inRuns(sql, runs)}
        ${aside.length === 0 ? sql.literal("") : sql`AND q.id <> ALL (${aside}::uuid[])`}
        ${only === undefined ? sql.literal("") : sql`AND q.id = ${only}::uuid`}
        AND ${sql.literal(isReadCommitted)}
      ORDER BY q.lease_expires_at, q.id
      LIMIT ${limit}
      FOR NO KEY UPDATE SKIP LOCKED
    ), expired AS MATERIALIZED (
      SELECT
        l.*,
        l.claim_origin = 'WORKER_PRESTART' AND l.attempt_started_at IS NULL AS unstarted,
        l.attempt_started_at IS NOT NULL AND NOT l.renewed AS started_without_renewal
      FROM locked l
      WHERE l.lease_expires_at <= ${clock}
    ), releasing AS MATERIALIZED (
      SELECT e.*, 'LEASE_EXPIRED_BEFORE_RUNNING_PERSISTED' AS reason, 0 AS delay_ms FROM expired e WHERE e.unstarted
    ), failing AS MATERIALIZED (
      SELECT
        e.*, ${leaseExpired.kind}::text AS kind, ${leaseExpired.code}::text AS code, ${leaseExpired.message}::text AS message,
        NULL::jsonb AS error, NULL::timestamptz AS requested_at, 'LEASE_EXPIRED' AS ended_as
      FROM expired e
      WHERE NOT e.unstarted
    ), ${releaseOf(sql)}, ${disposeOf(sql)}
    SELECT
      true AS is_read_committed, e.id, e.job_type, e.organization_id, e.run_number, e.attempt, e.max_attempts, e.worker_id,
      e.started_without_renewal, e.unstarted, f.checkpoint, f.dead_letter_reason, f.retry_delay_ms,
      f.effective_next_run_at, f.retry_timing_source
    FROM expired e
    LEFT JOIN failed f ON f.id = e.id
    UNION ALL
    SELECT false, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    WHERE NOT ${sql.literal(isReadCommitted)}
  `
  if (rows[0]?.is_read_committed === false) return yield* new NotReadCommitted()
  const leases: Array<ReapedLease> = []
  for (const row of rows) {
    const lease = Option.getOrUndefined(decodeLease(row))
    const disposition = lease?.unstarted === true ? { _tag: "Released" as const } : decodeDisposition(row)
    if (lease === undefined || disposition === undefined) return yield* new QueryFailed({})
    leases.push({
      jobId: lease.id,
      jobType: lease.job_type,
      organizationId: lease.organization_id,
      runNumber: lease.run_number,
      attempt: lease.attempt,
      maxAttempts: lease.max_attempts,
      workerId: lease.worker_id,
      startedWithoutRenewal: lease.started_without_renewal,
      disposition
    })
  }
  return leases
})

const decodeLease = Schema.decodeUnknownOption(
  Schema.Struct({
    id: JobId,
    job_type: Schema.String,
    organization_id: nullable(Schema.String),
    run_number: Schema.Int,
    attempt: Schema.Int,
    max_attempts: Schema.Int,
    worker_id: Schema.String,
    started_without_renewal: Schema.Boolean,
    unstarted: Schema.Boolean
  })
)

/**
 * Locks the lease that is next in line and reaps it alone; if the database refuses, moves that one out of the way. The lock
 * makes sure that it is the one at fault: other reapers may be at work on the same rows. `undefined` if nothing is in line.
 */
const reapOrPostpone = (runs: "none" | ReadonlyArray<string>, aside: ReadonlyArray<JobId>) =>
  transaction(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const held = runs === "none" ? runs : yield* lockFreeRuns(runs)
      const [row] = yield* sql`
        SELECT q.id
        FROM runledger.job_queue q
        WHERE q.status = 'LEASED' AND q.lease_expires_at <= ${instant}
          ${inRuns(sql, held)}
          AND q.id <> ALL (${aside}::uuid[])
        ORDER BY q.lease_expires_at, q.id
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
      `
      if (row === undefined) return undefined
      const jobId = Option.getOrUndefined(Schema.decodeUnknownOption(JobId)(row.id))
      if (jobId === undefined) return yield* new QueryFailed({})
      return yield* transaction(reapIn(held, 1, [], jobId)).pipe(
        Effect.catchIf(isPoisoned, (reason) =>
          // nothing else of the row changes
          transaction(sql`
            UPDATE runledger.job_queue SET lease_expires_at = ${instant} + interval '30 seconds' WHERE id = ${jobId}::uuid
          `).pipe(
            Effect.catchIf(isPoisoned, () => Effect.void),
            Effect.as<PostponedLease>({ jobId, reason })
          )
        )
      )
    })
  )
