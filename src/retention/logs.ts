import * as Effect from "effect/Effect"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import { isNumber, isString } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { QueryFailed } from "../Reason.ts"
import { type Batch, before, examinedPerDeleted, nothing } from "./batch.ts"
import { cursorOf, type Place } from "./cursor.ts"
import type { Millis } from "./policy.ts"

/**
 * One batch of lines, in the order of the primary key: job by job, up to the jobs that are too young to have said anything that
 * long ago. A line that is held by another transaction is passed by.
 */
export const pruneLogs = Effect.fnUntraced(function* (ages: Millis, { after, number }: Place, limit: number) {
  const { sql, instant } = yield* Sql.clocked
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${before(sql, instant, ages.logs)} AS logs_before
    ), page AS MATERIALIZED (
      SELECT l.job_id, l.id
      FROM runledger.job_logs l
      WHERE (l.job_id, l.id) > (${after}::uuid, ${number}::bigint) AND ${sql.literal(isReadCommitted)}
      ORDER BY l.job_id, l.id
      LIMIT ${limit * examinedPerDeleted}
    ), last AS MATERIALIZED (
      SELECT
        p.job_id, p.id,
        (SELECT q.created_at FROM runledger.job_queue q WHERE q.id = p.job_id LIMIT 1) AS created_at
      FROM page p
      ORDER BY p.job_id DESC, p.id DESC
      LIMIT 1
    ), locked AS MATERIALIZED (
      SELECT l.job_id, l.id, l.ctid AS place
      FROM runledger.job_logs l
      WHERE (l.job_id, l.id) > (${after}::uuid, ${number}::bigint)
        AND (l.job_id, l.id) <= ((SELECT job_id FROM last), (SELECT id FROM last))
        AND l.occurred_at < (SELECT logs_before FROM input)
      ORDER BY l.job_id, l.id
      LIMIT ${limit}
      FOR UPDATE SKIP LOCKED
    ), deleted AS (
      DELETE FROM runledger.job_logs l WHERE l.ctid = ANY (ARRAY(SELECT place FROM locked)) RETURNING 1
    )
    SELECT
      ${sql.literal(isReadCommitted)} AS is_read_committed,
      (SELECT count(*)::int4 FROM deleted) AS deleted,
      place.job_id AS walked_to, place.id::text AS number
    FROM input i
    LEFT JOIN LATERAL (
      SELECT k.job_id, k.id
      FROM (SELECT * FROM locked ORDER BY job_id DESC, id DESC LIMIT 1) k
      WHERE (SELECT count(*) FROM locked) = ${limit}
      UNION ALL
      SELECT l.job_id, l.id
      FROM last l
      WHERE (SELECT count(*) FROM locked) < ${limit}
        AND (SELECT count(*) FROM page) = ${limit * examinedPerDeleted}
        AND (l.created_at >= i.logs_before) IS NOT TRUE
    ) place ON true
  `
  if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
  const { deleted, number: lineId, walked_to: jobId } = row
  if (!isNumber(deleted)) return yield* new QueryFailed({})
  const batch: Batch = {
    deleted: { ...nothing, logs: deleted },
    skipped: [],
    after: isString(jobId) && isString(lineId) ? cursorOf("logs", jobId, lineId) : undefined
  }
  return batch
})
