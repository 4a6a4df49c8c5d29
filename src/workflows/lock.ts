/**
 * The lock protocol of workflow runs.
 *
 * **The row of a run is the mutex of the run.** What can end a step, or adds one (success, any failure, reaper, cancellation
 * of a job or a run, completion of an external step, append, recovery) is a transaction of separate statements:
 *
 * 1. lock the runs, in id order;
 * 2. lock the jobs, in id order, and write them;
 * 3. let the steps follow (`settle.ts`), with a fresh snapshot and a fresh instant.
 *
 * Two statements, because a statement that waits for a run still sees the rows as they were before it waited: in one, a
 * completion that waited for an append would never release the step that was appended.
 *
 * Who may write a step:
 *
 * - A step that has a job is protected by the lock on its job, and by nothing else. Claim, release of a claim and
 *   continuation lock the job (SKIP LOCKED), then write its own step; they never lock the run.
 * - A step that has none (blocked, waiting, external) is protected by the lock on its run.
 *
 * So nobody ever waits for a step, and what waits does so for a run, or, holding the run, for its jobs: run before job before
 * step, each in id order, and no cycle. A batch takes its runs with SKIP LOCKED and asks again for those it did not get; only an
 * operation on one run waits, for at most five seconds, and a batch that is about nothing else. A caller's transaction that
 * touches several runs one after the other, or that claims a job of a run and then ends it, can still deadlock; it is told
 * `Unavailable`.
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { Row } from "effect/sql/SqlConnection"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import { inScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { patience } from "../internal/waiting.ts"
import type { TenantScope } from "../TenantScope.ts"

/**
 * Runs `body` with one run locked, waiting for its turn and for the jobs that the body locks, five seconds at most; `body`
 * gets the columns asked for, or `undefined` if no such run is in the scope. A savepoint in a caller's transaction.
 */
export const inRun = <A, E, R>(
  scope: TenantScope,
  runId: string,
  columns: string,
  body: (run: Row | undefined) => Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    const sql = yield* Sql.client
    const joined = yield* Sql.inTransaction(sql)
    const locked = Effect.gen(function* () {
      const [row] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${runId}::uuid AS run_id, ${sql.literal(patience)}
        )
        SELECT i.callers_lock_timeout, ${sql.literal(isReadCommitted)} AS is_read_committed, r.*
        FROM input i
        LEFT JOIN LATERAL (
          SELECT r.id, ${sql.literal(columns)}
          FROM runledger.workflow_runs r
          WHERE r.id = i.run_id AND ${inScope(sql, scope, "r")} AND ${sql.literal(isReadCommitted)}
          FOR NO KEY UPDATE
        ) r ON true
      `
      if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
      const result = yield* body(row.id === null ? undefined : row)
      // in a transaction of our own the setting ends with it
      if (joined) yield* sql`SELECT set_config('lock_timeout', ${row.callers_lock_timeout}, true)`
      return result
    })
    return yield* transaction(locked)
  })

/** Locks those of the runs that nobody else holds, in id order, without waiting; returns their ids. */
export const lockFreeRuns = Effect.fnUntraced(function* (runIds: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  const rows: ReadonlyArray<Row> = yield* sql`
    SELECT locked.id, ${sql.literal(isReadCommitted)} AS is_read_committed
    FROM (SELECT) AS always
    LEFT JOIN (
      SELECT r.id
      FROM runledger.workflow_runs r
      WHERE r.id = ANY (${runIds}::uuid[]) AND ${sql.literal(isReadCommitted)}
      ORDER BY r.id
      FOR NO KEY UPDATE SKIP LOCKED
    ) locked ON true
  `
  if (rows[0]?.is_read_committed !== true) return yield* new NotReadCommitted()
  return rows.map(({ id }) => id).filter(Predicate.isString)
})
