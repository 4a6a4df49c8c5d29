import * as Effect from "effect/Effect"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { patience } from "../internal/waiting.ts"
import { held, lockOf } from "./permit.ts"

/** How many permits a key shall have, and how many starts within how many milliseconds. */
export interface Size {
  readonly permits: number
  readonly rate: { readonly permits: number; readonly intervalMillis: number } | null
}

/**
 * Gives a key so many permits and tokens, and stores that, or forgets what is stored (`size` is `null`: one permit, no rate).
 *
 * Two statements before the third, because what they wait for must be in its snapshot: the lock under which permits come into
 * being, then the rows, which waits for claims of the key that have not ended.
 *
 * Of too many permits those that are free go. Those that are held are retired: while one of them is, claims take none of the
 * key, or more jobs than allowed would run. Of too many tokens those that have rested longest go, so that what started within
 * the interval still counts; if the interval changes, each rests as long as the new one says.
 */
export const resize = (resourceKey: string, size: Size | null) =>
  transaction(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const [row] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${sql.literal(isReadCommitted)} AS is_read_committed, ${sql.literal(patience)}
        )
        SELECT i.*, CASE WHEN i.is_read_committed THEN pg_advisory_xact_lock(${sql.literal(lockOf("k.resource_key"))}) END
        FROM input i
        CROSS JOIN (SELECT ${resourceKey}::text AS resource_key) k
      `
      if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
      yield* sql`
        SELECT FROM runledger.job_execution_permits WHERE resource_key = ${resourceKey} ORDER BY slot FOR NO KEY UPDATE
      `
      yield* sql`
        SELECT FROM runledger.job_execution_rate_tokens WHERE resource_key = ${resourceKey} ORDER BY id FOR NO KEY UPDATE
      `
      const rows = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT
            ${resourceKey}::text AS resource_key, ${instant} AS at, ${size === null}::boolean AS forgets,
            ${size?.permits ?? 1}::integer AS permits, ${size?.rate?.permits ?? 0}::integer AS rate_permits,
            ${size?.rate?.intervalMillis ?? 0}::integer AS rate_interval_ms
        ), before AS MATERIALIZED (
          SELECT r.rate_interval_ms FROM runledger.job_execution_resources r WHERE r.resource_key = (SELECT resource_key FROM input)
        ), stored AS (
          INSERT INTO runledger.job_execution_resources AS r (
            resource_key, permits, rate_permits, rate_interval_ms, created_at, updated_at
          )
          SELECT i.resource_key, i.permits, NULLIF(i.rate_permits, 0), NULLIF(i.rate_interval_ms, 0), i.at, i.at
          FROM input i
          WHERE NOT i.forgets
          ON CONFLICT (resource_key) DO UPDATE SET
            permits = EXCLUDED.permits,
            rate_permits = EXCLUDED.rate_permits,
            rate_interval_ms = EXCLUDED.rate_interval_ms,
            updated_at = EXCLUDED.updated_at
          RETURNING r.*
        ), forgotten AS (
          DELETE FROM runledger.job_execution_resources r
          USING input i
          WHERE i.forgets AND r.resource_key = i.resource_key
          RETURNING r.*
        ), permit AS MATERIALIZED (
          SELECT p.*, row_number() OVER (ORDER BY p.is_held DESC, p.is_retired, p.slot) > i.permits AS is_surplus
          FROM input i
          CROSS JOIN LATERAL (
            SELECT p.id, p.slot, p.is_retired, ${sql.literal(held("p"))} AS is_held
            FROM runledger.job_execution_permits p
            WHERE p.resource_key = i.resource_key
          ) p
        ), kept AS (
          UPDATE runledger.job_execution_permits p
          SET is_retired = k.is_surplus
          FROM permit k
          WHERE p.id = k.id AND (k.is_held OR NOT k.is_surplus) AND k.is_retired <> k.is_surplus
        ), dropped AS (
          DELETE FROM runledger.job_execution_permits p USING permit k WHERE p.id = k.id AND k.is_surplus AND NOT k.is_held
        ), added AS (
          INSERT INTO runledger.job_execution_permits (resource_key, slot, spot)
          SELECT i.resource_key, s.slot, random()
          FROM input i
          CROSS JOIN LATERAL (
            SELECT n AS slot
            FROM generate_series(1, i.permits + (SELECT count(*) FROM permit)::integer) n
            WHERE NOT EXISTS (SELECT FROM permit k WHERE k.slot = n)
            ORDER BY n
            LIMIT GREATEST(0, i.permits - (SELECT count(*) FROM permit))
          ) s
        ), token AS MATERIALIZED (
          SELECT t.id, row_number() OVER (ORDER BY t.free_at DESC, t.id) > i.rate_permits AS is_surplus
          FROM input i
          JOIN runledger.job_execution_rate_tokens t ON t.resource_key = i.resource_key
        ), delayed AS (
          UPDATE runledger.job_execution_rate_tokens t
          SET free_at = t.free_at + (i.rate_interval_ms - b.rate_interval_ms) * interval '1 millisecond'
          FROM token k, input i, before b
          WHERE t.id = k.id AND NOT k.is_surplus AND i.rate_interval_ms <> b.rate_interval_ms
        ), spent AS (
          DELETE FROM runledger.job_execution_rate_tokens t USING token k WHERE t.id = k.id AND k.is_surplus
        ), minted AS (
          INSERT INTO runledger.job_execution_rate_tokens (resource_key, free_at)
          SELECT i.resource_key, i.at
          FROM input i
          CROSS JOIN LATERAL generate_series(1, i.rate_permits - (SELECT count(*) FROM token))
        )
        SELECT * FROM stored
        UNION ALL
        SELECT * FROM forgotten
      `
      // in a transaction of our own the setting ends with it
      yield* sql`SELECT set_config('lock_timeout', ${row.callers_lock_timeout}, true)`
      return rows
    })
  )
