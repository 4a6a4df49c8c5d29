import * as Effect from "effect/Effect"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import { isNumber, isString, isStrings } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { patience } from "../internal/waiting.ts"
import { QueryFailed } from "../Reason.ts"
import { held } from "../resources/permit.ts"
import { type Batch, before, examinedPerDeleted, inBatch, nothing } from "./batch.ts"
import { cursorOf, type Place } from "./cursor.ts"
import type { Millis } from "./policy.ts"

/**
 * One batch of permits: of keys of which nothing is said, and which nobody has used lately. The next claim of such a key creates
 * its permit again.
 *
 * Two statements: whoever changes what is said of a key locks its permits first. So what is not said once they are ours is not
 * going to be, before they are gone.
 */
export const prunePermits = (ages: Millis, { number }: Place, limit: number) =>
  inBatch(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const [row] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${before(sql, instant, ages.permits)} AS permits_before, ${sql.literal(patience)}
        ), page AS MATERIALIZED (
          SELECT p.id, p.resource_key, p.taken_at
          FROM runledger.job_execution_permits p
          WHERE p.id > ${number}::bigint AND ${sql.literal(isReadCommitted)}
          ORDER BY p.id
          LIMIT ${limit * examinedPerDeleted}
        ), old AS MATERIALIZED (
          SELECT p.id, p.resource_key
          FROM page p
          WHERE (p.taken_at >= (SELECT permits_before FROM input)) IS NOT TRUE
            AND NOT EXISTS (SELECT FROM runledger.job_execution_resources r WHERE r.resource_key = p.resource_key)
          ORDER BY p.id
        ), taken AS MATERIALIZED (
          SELECT id, resource_key FROM old ORDER BY id LIMIT ${limit}
        ), locked AS MATERIALIZED (
          SELECT p.id
          FROM runledger.job_execution_permits p
          WHERE p.resource_key = ANY (ARRAY(SELECT resource_key::text FROM taken))
          ORDER BY p.id
          FOR UPDATE SKIP LOCKED
        )
        SELECT
          ${sql.literal(isReadCommitted)} AS is_read_committed, i.callers_lock_timeout,
          ARRAY(SELECT id::text FROM locked ORDER BY id) AS ids,
          ARRAY(SELECT DISTINCT resource_key::text FROM taken) AS keys,
          CASE
            WHEN (SELECT count(*) FROM old) > (SELECT count(*) FROM taken) THEN (SELECT max(id)::text FROM taken)
            WHEN (SELECT count(*) FROM page) = ${limit * examinedPerDeleted} THEN (SELECT max(id)::text FROM page)
          END AS walked_to
        FROM input i
      `
      if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
      const { callers_lock_timeout: timeout, ids, keys, walked_to: walkedTo } = row
      if (!isString(timeout) || !isStrings(ids) || !isStrings(keys)) return yield* new QueryFailed({})
      const deleted = ids.length === 0 ? 0 : yield* deletePermits(ages, keys, ids)
      const batch: Batch = {
        deleted: { ...nothing, permits: deleted },
        skipped: [],
        after: isString(walkedTo) ? cursorOf("permits", walkedTo) : undefined
      }
      return [batch, timeout] as const
    })
  )

/** All permits of a key or none: with one of two left, a claim would not know that the key has had one. */
const deletePermits = Effect.fnUntraced(function* (
  ages: Millis,
  keys: ReadonlyArray<string>,
  ids: ReadonlyArray<string>
) {
  const { sql, instant } = yield* Sql.clocked
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${before(sql, instant, ages.permits)} AS permits_before, ${ids}::bigint[] AS ids
    ), permit AS MATERIALIZED (
      SELECT
        p.id, p.resource_key,
        p.id <> ALL ((SELECT ids FROM input)::bigint[])
          OR (p.taken_at >= (SELECT permits_before FROM input)) IS TRUE
          OR ${sql.literal(held("p"))} AS is_used
      FROM runledger.job_execution_permits p
      WHERE p.resource_key = ANY (ARRAY(SELECT unnest(${keys}::text[])))
    ), deleted AS (
      DELETE FROM runledger.job_execution_permits p
      WHERE p.id = ANY (ARRAY(
        SELECT k.id
        FROM permit k
        WHERE k.resource_key NOT IN (SELECT resource_key FROM permit WHERE is_used)
          AND NOT EXISTS (SELECT FROM runledger.job_execution_resources r WHERE r.resource_key = k.resource_key)
      ))
      RETURNING 1
    )
    SELECT count(*)::int4 AS deleted FROM deleted
  `
  return isNumber(row?.deleted) ? row.deleted : yield* new QueryFailed({})
})
