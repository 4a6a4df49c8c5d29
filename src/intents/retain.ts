import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isNumber } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { patience } from "../internal/waiting.ts"
import type { JobId } from "../Job.ts"
import { IntentRetentionTooLarge } from "../JobIntentReason.ts"
import { maxBatch } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { type InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import { deleteBefore } from "./deleteBefore.ts"

/** What {@link deletePromotedBefore} can fail with. */
export type DeleteBeforeReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Deletes up to `limit` (1 to 1,000) intents that became jobs before `cutoff`, oldest first; their jobs stay. Returns how many
 * there were: fewer than `limit` is the end. What is pending or conflicted is never deleted.
 *
 * A key is forgotten with its intent: recorded again, the request is promoted again, and finds the job if that still exists.
 *
 * Fails with `InvalidArgument` (cutoff, limit), `UnsupportedIsolation`, or what any write can fail with. Locks the intents that
 * nobody else holds; writes `job_enqueue_intents`.
 *
 * @example
 * ```ts
 * import { DateTime, Effect } from "effect"
 * import { JobIntents } from "effect-runledger"
 *
 * const prune = Effect.flatMap(DateTime.now, (now) =>
 *   JobIntents.deletePromotedBefore(DateTime.subtract(now, { days: 30 }), 500)
 * )
 * ```
 */
export const deletePromotedBefore: (
  cutoff: DateTime.Utc,
  limit: number
) => Effect.Effect<number, QueryError<DeleteBeforeReason>, SqlClient> = Effect.fnUntraced(function* (
  cutoff: DateTime.Utc,
  limit: number
) {
  const invalid = Args.instant("cutoff", cutoff) ?? Args.integer("limit", limit, 1, maxBatch)
  if (invalid !== undefined) return yield* invalid
  return yield* readCommitted("job.unsupported_isolation")(deleteAt(cutoff, limit))
}, writing("JobIntents.deletePromotedBefore"))

const deleteAt = (cutoff: DateTime.Utc, limit: number) =>
  Effect.flatMap(Sql.client, (sql) => deleteBefore(sql`${new Date(cutoff.epochMilliseconds)}::timestamptz`, limit))

/** What {@link deletePromotedForJobs} can fail with. */
export type DeleteForJobsReason = IntentRetentionTooLarge | DeleteBeforeReason

/**
 * Deletes the intents that became these jobs (at most 1,000), for a transaction that deletes the jobs next. Returns how many
 * there were.
 *
 * First it locks the jobs, as their deletion would: from then on no intent can be promoted to one of them, so none is left that
 * refers to a job that is gone. Outside of a transaction only the intents are deleted, and that means little.
 *
 * Fails with `InvalidArgument` (not a UUID), `IntentRetentionTooLarge`, `UnsupportedIsolation`, `Unavailable` (a job or an intent
 * was held by another transaction for five seconds), or what any write can fail with. Locks the jobs, then the intents,
 * `FOR UPDATE`, each in id order; writes `job_enqueue_intents`.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { JobIntents, type Jobs } from "effect-runledger"
 * import { SqlClient } from "effect/sql"
 *
 * const forget = (ids: ReadonlyArray<Jobs.JobId>) =>
 *   SqlClient.SqlClient.use((sql) =>
 *     sql.withTransaction(
 *       Effect.andThen(
 *         JobIntents.deletePromotedForJobs(ids),
 *         sql`DELETE FROM runledger.job_queue WHERE id = ANY (${ids}::uuid[])`
 *       )
 *     )
 *   )
 * ```
 */
export const deletePromotedForJobs: (
  jobIds: ReadonlyArray<JobId>
) => Effect.Effect<number, QueryError<DeleteForJobsReason>, SqlClient> = Effect.fnUntraced(function* (
  jobIds: ReadonlyArray<JobId>
) {
  if (jobIds.length === 0) return 0
  if (jobIds.length > maxBatch) return yield* new IntentRetentionTooLarge()
  for (const jobId of jobIds) {
    const invalid = Args.uuid("jobIds", jobId)
    if (invalid !== undefined) return yield* invalid
  }
  return yield* readCommitted("job.intent_retention_unsupported_isolation")(transaction(deleteOf(jobIds)))
}, writing("JobIntents.deletePromotedForJobs"))

// Two statements: what was promoted while the first waited is seen by the second.
const deleteOf = Effect.fnUntraced(function* (jobIds: ReadonlyArray<JobId>) {
  const sql = yield* Sql.client
  const [held] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${jobIds}::uuid[] AS ids, ${sql.literal(patience)}
    ), locked AS MATERIALIZED (
      SELECT q.id
      FROM runledger.job_queue q
      WHERE q.id = ANY ((SELECT ids FROM input)::uuid[]) AND ${sql.literal(isReadCommitted)}
      ORDER BY q.id
      FOR UPDATE
    )
    SELECT ${sql.literal(isReadCommitted)} AS is_read_committed, i.callers_lock_timeout, (SELECT count(*) FROM locked) AS jobs
    FROM input i
  `
  if (held?.is_read_committed !== true) return yield* new NotReadCommitted()
  const [row] = yield* sql`
    WITH locked AS MATERIALIZED (
      SELECT n.id
      FROM runledger.job_enqueue_intents n
      WHERE n.promoted_job_id = ANY (${jobIds}::uuid[])
      ORDER BY n.id
      FOR UPDATE
    ), deleted AS (
      DELETE FROM runledger.job_enqueue_intents n
      WHERE n.id = ANY (ARRAY(SELECT id FROM locked))
      RETURNING n.id
    )
    SELECT
      count(*)::int4 AS deleted,
      -- in a transaction of our own the setting ends with it
      set_config('lock_timeout', ${held.callers_lock_timeout}, true) AS lock_timeout
    FROM deleted
  `
  return isNumber(row?.deleted) ? row.deleted : yield* new QueryFailed({})
})
