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

const isOld = (run: string) => `
        ${run}.status || '' IN ('SUCCEEDED', 'COMPLETED_WITH_ERRORS', 'CANCELED')
        AND ${run}.finished_at < (SELECT runs_before FROM input)`

/**
 * One batch of runs: as many as have `limit` steps together, at least one. Runs, then their jobs, as `workflows/lock.ts` says;
 * the steps of a run that has ended are written by nobody.
 */
export const pruneRuns = (ages: Millis, { after }: Place, limit: number) =>
  inBatch(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const [row] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${before(sql, instant, ages.runs)} AS runs_before, ${sql.literal(patience)}
        ), page AS MATERIALIZED (
          SELECT r.id, r.status, r.finished_at, r.steps_total, r.created_at
          FROM runledger.workflow_runs r
          WHERE r.id > ${after}::uuid AND ${sql.literal(isReadCommitted)}
          ORDER BY r.id
          LIMIT ${limit * examinedPerDeleted}
        ), old AS MATERIALIZED (
          SELECT
            p.id, row_number() OVER (ORDER BY p.id) AS place,
            sum(GREATEST(p.steps_total, 1)) OVER (ORDER BY p.id ROWS UNBOUNDED PRECEDING) AS steps
          FROM page p
          WHERE ${sql.literal(isOld("p"))}
        ), taken AS MATERIALIZED (
          SELECT id FROM old WHERE place = 1 OR steps <= ${limit}
        ), locked AS MATERIALIZED (
          SELECT r.id
          FROM runledger.workflow_runs r
          WHERE r.id = ANY (ARRAY(SELECT id FROM taken)) AND ${sql.literal(isOld("r"))}
          ORDER BY r.id
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
            WHEN (SELECT created_at FROM last) >= i.runs_before THEN NULL
            ELSE (SELECT id FROM last)
          END AS walked_to
        FROM input i
        CROSS JOIN rest
      `
      if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
      const { callers_lock_timeout: timeout, ids, walked_to: walkedTo } = row
      if (!isString(timeout) || !isStrings(ids)) return yield* new QueryFailed({})
      const result = yield* deleteAll("run", yield* lockJobs(ids), deleteRuns)
      const batch: Batch = { ...result, after: isString(walkedTo) ? cursorOf("runs", walkedTo) : undefined }
      return [batch, timeout] as const
    })
  )

/**
 * Locks the jobs of runs that are locked, and returns the runs of which nothing is held by others: neither a job, nor a lease of
 * a canceled handler, nor the active key.
 */
const lockJobs = Effect.fnUntraced(function* (runIds: ReadonlyArray<string>) {
  if (runIds.length === 0) return []
  const { sql, instant } = yield* Sql.clocked
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${runIds}::uuid[] AS ids
    ), step AS MATERIALIZED (
      SELECT s.workflow_run_id AS run_id, s.job_id
      FROM runledger.workflow_steps s
      WHERE s.workflow_run_id = ANY (ARRAY(SELECT unnest(ids) FROM input)) AND s.job_id IS NOT NULL
    ), locked AS MATERIALIZED (
      SELECT q.id, q.finished_at, q.lease_expires_at
      FROM runledger.job_queue q
      WHERE q.id = ANY (ARRAY(SELECT job_id FROM step))
      ORDER BY q.id
      FOR UPDATE SKIP LOCKED
    ), kept AS MATERIALIZED (
      SELECT s.run_id
      FROM step s
      LEFT JOIN locked l ON l.id = s.job_id
      WHERE CASE
        WHEN l.id IS NULL THEN COALESCE((SELECT true FROM runledger.job_queue q WHERE q.id = s.job_id LIMIT 1), false)
        ELSE l.finished_at IS NULL OR l.lease_expires_at > (SELECT at FROM input)
      END
      UNION ALL
      SELECT c.workflow_run_id
      FROM runledger.workflow_active_claims c
      WHERE c.workflow_run_id = ANY (ARRAY(SELECT unnest(ids) FROM input))
    )
    SELECT ARRAY(
      SELECT r.id::text FROM unnest(i.ids) AS r (id) WHERE r.id NOT IN (SELECT run_id FROM kept) ORDER BY r.id
    ) AS ids
    FROM input i
  `
  return isStrings(row?.ids) ? row.ids : yield* new QueryFailed({})
})

/** A recovery stays as long as its source does, unless that goes with it: who asks for the same recovery again is to find it. */
const deleteRuns = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  const [row] = yield* sql`
    WITH RECURSIVE candidate AS MATERIALIZED (
      SELECT i.id, v.source_run_id
      FROM unnest(${ids}::uuid[]) AS i (id)
      LEFT JOIN LATERAL (
        SELECT v.source_run_id FROM runledger.workflow_recoveries v WHERE v.recovery_run_id = i.id LIMIT 1
      ) v ON true
    ), doomed_run AS (
      SELECT c.id FROM candidate c WHERE c.source_run_id IS NULL
      UNION
      SELECT c.id FROM doomed_run d JOIN candidate c ON c.source_run_id = d.id
    ), doomed AS MATERIALIZED (
      SELECT s.job_id AS id
      FROM runledger.workflow_steps s
      WHERE s.workflow_run_id = ANY (ARRAY(SELECT id FROM doomed_run)) AND s.job_id IS NOT NULL
    ), ${sql.literal(withChildren)}, recovery AS (
      DELETE FROM runledger.workflow_recoveries v
      WHERE v.recovery_run_id = ANY (ARRAY(
        SELECT id FROM doomed_run
        UNION ALL
        SELECT w.recovery_run_id
        FROM runledger.workflow_recoveries w
        WHERE w.source_run_id = ANY (ARRAY(SELECT id FROM doomed_run))
      ))
    ), mutation AS (
      DELETE FROM runledger.workflow_run_mutations m WHERE m.workflow_run_id = ANY (ARRAY(SELECT id FROM doomed_run))
    ), edge AS (
      DELETE FROM runledger.workflow_step_dependencies d WHERE d.workflow_run_id = ANY (ARRAY(SELECT id FROM doomed_run))
    ), step AS (
      DELETE FROM runledger.workflow_steps s WHERE s.workflow_run_id = ANY (ARRAY(SELECT id FROM doomed_run))
    ), run AS (
      DELETE FROM runledger.workflow_runs r WHERE r.id = ANY (ARRAY(SELECT id FROM doomed_run)) RETURNING 1
    )
    SELECT (SELECT count(*)::int4 FROM run) AS runs, ${sql.literal(childCounts)}
  `
  return yield* deletedOf(row)
})
