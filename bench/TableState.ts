/**
 * What stands in the tables before anything is measured, inserted by SQL in the shape in which our statements leave it.
 */
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { types } from "./Queue.ts"
import * as Sql from "./Sql.ts"
import * as Workflows from "./Workflows.ts"

export interface TableState {
  readonly name: string
  readonly description: string
  /** Succeeded jobs, each with its attempt. */
  readonly finished: number
  /** Jobs of the types that are drained, due in thirty days. */
  readonly future: number
  /** Due jobs of a type that no worker of ours serves. */
  readonly others: number
  /** Statistics are taken while the tables are empty, and never again: autovacuum is off. */
  readonly stale: boolean
  /** How many types, and priorities of each, the drained jobs have: with more than one, it is another job, not another table. */
  readonly types: number
  readonly priorities: number
}

const plain = { finished: 0, future: 0, others: 0, stale: false, types: 1, priorities: 1 }

/** The states; `scale` shrinks the big tables. */
export const states = (scale: number): ReadonlyArray<TableState> => {
  const million = Math.round(1_000_000 * scale)
  const others = Math.round(200_000 * scale)
  const count = (n: number) => n.toLocaleString("en-US")
  const everything = { ...plain, finished: million, future: million, others }
  return [
    { ...plain, name: "empty", description: "nothing but what the round inserts" },
    {
      ...plain,
      name: "finished",
      description: `${count(million)} succeeded jobs and their attempts`,
      finished: million
    },
    {
      ...plain,
      name: "future",
      description: `${count(million)} jobs of the drained type, due in a month`,
      future: million
    },
    { ...plain, name: "others", description: `${count(others)} due jobs of a type that nobody serves`, others },
    { ...everything, name: "all", description: "finished, future and others together" },
    { ...plain, name: "stale", description: "empty, statistics taken before the round inserts", stale: true },
    { ...everything, name: "all-stale", description: "all, statistics taken while empty", stale: true },
    {
      ...plain,
      name: "lanes",
      description: "empty, the drained jobs have 10 types and 3 priorities",
      types: 10,
      priorities: 3
    }
  ]
}

const tables = ["job_queue", "job_attempts", "job_events", "job_dead_letters"].map((table) => `runledger.${table}`)

/** Brings the database into the state. */
export const fill = Effect.fnUntraced(function* (state: TableState): Effect.fn.Return<void, SqlError, SqlClient> {
  if (state.stale) {
    for (const table of tables) {
      yield* Sql.run(`ALTER TABLE ${table} SET (autovacuum_enabled = false)`)
      yield* Sql.run(`VACUUM (ANALYZE) ${table}`)
    }
  }
  if (state.finished > 0) {
    yield* Sql.run(`
      WITH finished AS (
        INSERT INTO runledger.job_queue (
          job_type, payload, status, attempt, max_attempts, next_run_at, event_seq, started_at, finished_at, stage, output,
          created_at, updated_at
        )
        SELECT
          '${types[0]}', jsonb_build_object('n', n), 'SUCCEEDED', 1, 3, at, 4, at, at, 'completed', '{"sent": true}', at, at
        FROM generate_series(1, ${state.finished}) n
        CROSS JOIN LATERAL (SELECT clock_timestamp() - n * interval '1 second') t (at)
        RETURNING id, created_at
      )
      INSERT INTO runledger.job_attempts (
        job_id, attempt, worker_id, leased_at, lease_ms, started_at, finished_at, ended_as, leased_seq, started_seq,
        ended_seq
      )
      SELECT id, 1, 'worker', created_at, 60000, created_at, created_at, 'SUCCEEDED', 2, 3, 4 FROM finished`)
  }
  const pending = (count: number, type: string, at: string) => `
    INSERT INTO runledger.job_queue (job_type, payload, max_attempts, next_run_at, created_at, updated_at)
    SELECT ${type}, jsonb_build_object('n', n), 3, ${at}, clock_timestamp(), clock_timestamp()
    FROM generate_series(1, ${count}) n`
  if (state.future > 0) {
    const at = "clock_timestamp() + interval '30 days' + n * interval '1 millisecond'"
    yield* Sql.run(pending(state.future, `'bench.drain' || n % ${state.types}`, at))
  }
  if (state.others > 0) yield* Sql.run(pending(state.others, "'bench.other'", "clock_timestamp()"))
  if (!state.stale) for (const table of tables) yield* Sql.run(`VACUUM (ANALYZE) ${table}`)
  yield* Sql.run("CHECKPOINT")
})

/** After a round: what it inserted goes away, as far as it would change what the next round meets. */
export const tidy = Effect.fnUntraced(function* (state: TableState): Effect.fn.Return<void, SqlError, SqlClient> {
  yield* Sql.run("TRUNCATE bench_raw.queue, bench_raw.keyed")
  yield* Workflows.tidy
  if (state.finished + state.future + state.others === 0) {
    yield* Sql.run(`TRUNCATE ${tables.join(", ")} CASCADE`)
    // TRUNCATE forgets the statistics of the table's size
    if (state.stale) for (const table of tables) yield* Sql.run(`VACUUM (ANALYZE) ${table}`)
    return
  }
  yield* Sql.run(`
    DELETE FROM runledger.job_queue
    WHERE status IN ('PENDING', 'LEASED') AND job_type LIKE 'bench.%' AND job_type <> 'bench.other'
      AND id > (SELECT id FROM bench_raw.mark)`)
  // the rest of a round is history like any other; the dead versions go away as autovacuum would have it
  yield* Sql.run("VACUUM runledger.job_queue")
  if (state.stale) {
    // VACUUM counts rows and pages
    yield* Sql.run(`
      SELECT pg_restore_relation_stats('schemaname', 'runledger', 'relname', relname::text, 'relpages', 0, 'reltuples', 0::real)
      FROM pg_class
      WHERE relnamespace = 'runledger'::regnamespace AND relkind IN ('r', 'i')`)
  }
})

/** Remembers where the state ends, so that {@link tidy} touches nothing of it. */
export const mark: Effect.Effect<void, SqlError, SqlClient> = Sql.run(
  "CREATE TABLE bench_raw.mark AS SELECT runledger.uuidv7() AS id"
)
