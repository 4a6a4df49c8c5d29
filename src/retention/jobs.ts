import * as Effect from "effect/Effect"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import { isString, isStrings } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { patience } from "../internal/waiting.ts"
import { QueryFailed } from "../Reason.ts"
import { type Batch, before, deleteAll, deletedOf, examinedPerDeleted, inBatch } from "./batch.ts"
import { childCounts, withChildren } from "./children.ts"
import { cursorOf, type Place } from "./cursor.ts"
import type { Millis } from "./policy.ts"

/** How many events, for each job that a batch may delete, its jobs may have together; one job may have more. */
const eventsPerJob = 20

/** The condition that a job has ended long enough ago, belongs to no run, and that nobody can still be at work on it. */
const isOld = (job: string) => `
        ${job}.workflow_run_id IS NULL
        AND ${job}.finished_at < CASE ${job}.status::text
          WHEN 'SUCCEEDED' THEN (SELECT succeeded_before FROM input)
          WHEN 'CANCELED' THEN (SELECT canceled_before FROM input)
          WHEN 'DEAD_LETTERED' THEN (SELECT dead_lettered_before FROM input)
        END
        -- the handler of a job that was canceled may be at work until then, and it has its permit until then
        AND (${job}.lease_expires_at > (SELECT at FROM input)) IS NOT TRUE`

/**
 * One batch of jobs.
 *
 * It walks the primary key, which is the order of creation, and so looks at a bounded number of rows, whatever is kept, and
 * leaves off where jobs are too young to have ended that long ago. No index tells which jobs are old: it would be paid at
 * every enqueue and every completion.
 */
export const pruneJobs = (ages: Millis, { after }: Place, limit: number) =>
  inBatch(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const [row] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT
            ${instant} AS at,
            ${before(sql, instant, ages.succeeded)} AS succeeded_before,
            ${before(sql, instant, ages.canceled)} AS canceled_before,
            ${before(sql, instant, ages.deadLettered)} AS dead_lettered_before,
            ${sql.literal(patience)}
        ), page AS MATERIALIZED (
          SELECT q.id, q.workflow_run_id, q.status, q.finished_at, q.lease_expires_at, q.event_seq, q.created_at
          FROM runledger.job_queue q
          WHERE q.id > ${after}::uuid AND ${sql.literal(isReadCommitted)}
          ORDER BY q.id
          LIMIT ${limit * examinedPerDeleted}
        ), old AS MATERIALIZED (
          SELECT
            p.id, row_number() OVER (ORDER BY p.id) AS place,
            sum(p.event_seq) OVER (ORDER BY p.id ROWS UNBOUNDED PRECEDING) AS events
          FROM page p
          WHERE ${sql.literal(isOld("p"))}
        ), taken AS MATERIALIZED (
          SELECT id FROM old WHERE place <= ${limit} AND (place = 1 OR events <= ${limit * eventsPerJob})
        ), locked AS MATERIALIZED (
          SELECT q.id
          FROM runledger.job_queue q
          WHERE q.id = ANY (ARRAY(SELECT id FROM taken)) AND ${sql.literal(isOld("q"))}
          ORDER BY q.id
          FOR UPDATE SKIP LOCKED
        ), last AS MATERIALIZED (
          SELECT id, created_at FROM page ORDER BY id DESC LIMIT 1
        ), rest AS MATERIALIZED (
          SELECT (SELECT count(*) FROM old) > (SELECT count(*) FROM taken) AS is_left
        )
        SELECT
          ${sql.literal(isReadCommitted)} AS is_read_committed, i.callers_lock_timeout,
          ARRAY(SELECT id::text FROM locked ORDER BY id) AS ids,
          CASE
            WHEN rest.is_left THEN (SELECT id FROM taken ORDER BY id DESC LIMIT 1)
            WHEN (SELECT count(*) FROM page) < ${limit * examinedPerDeleted} THEN NULL
            WHEN (SELECT created_at FROM last)
              >= GREATEST(i.succeeded_before, i.canceled_before, i.dead_lettered_before) THEN NULL
            ELSE (SELECT id FROM last)
          END AS walked_to
        FROM input i
        CROSS JOIN rest
      `
      if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
      const { callers_lock_timeout: timeout, ids, walked_to: walkedTo } = row
      if (!isString(timeout) || !isStrings(ids)) return yield* new QueryFailed({})
      const result = yield* deleteAll("job", ids, deleteJobs)
      const batch: Batch = { ...result, after: isString(walkedTo) ? cursorOf("jobs", walkedTo) : undefined }
      return [batch, timeout] as const
    })
  )

/**
 * Deletes jobs that the transaction has locked, with a snapshot from after that: nobody has added to them since.
 *
 * A replay stays as long as its source does, unless that goes with it: who asks for the same replay again is to find it. So
 * does a job with an intent that another transaction holds.
 */
const deleteJobs = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  const [row] = yield* sql`
    WITH RECURSIVE input AS MATERIALIZED (
      SELECT id FROM unnest(${ids}::uuid[]) AS i (id)
    ), held AS MATERIALIZED (
      SELECT n.id
      FROM runledger.job_enqueue_intents n
      WHERE n.promoted_job_id = ANY (ARRAY(SELECT id FROM input))
      ORDER BY n.id
      FOR UPDATE SKIP LOCKED
    ), candidate AS MATERIALIZED (
      SELECT i.id, source.id AS source_id
      FROM input i
      LEFT JOIN LATERAL (
        SELECT q.id
        FROM runledger.job_replays r
        CROSS JOIN LATERAL (SELECT q.id FROM runledger.job_queue q WHERE q.id = r.source_job_id LIMIT 1) q
        WHERE r.replay_job_id = i.id
        LIMIT 1
      ) source ON true
      WHERE COALESCE((
        SELECT n.id = ANY (ARRAY(SELECT id FROM held))
        FROM runledger.job_enqueue_intents n
        WHERE n.promoted_job_id = i.id
        ORDER BY 1
        LIMIT 1
      ), true)
    ), doomed AS (
      SELECT c.id FROM candidate c WHERE c.source_id IS NULL
      UNION
      SELECT c.id FROM doomed d JOIN candidate c ON c.source_id = d.id
    ), ${sql.literal(withChildren)}
    SELECT 0 AS runs, ${sql.literal(childCounts)}
  `
  return yield* deletedOf(row)
})
