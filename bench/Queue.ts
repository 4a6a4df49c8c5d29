/**
 * What is measured: our operations, and beside them the least that a queue on PostgreSQL can do. Both go through the same
 * driver, the same client and the same pool.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, Migrator } from "../src/index.ts"
import * as Sql from "./Sql.ts"

/** A measurement that did not do what it claims to have done is worth nothing. */
export class Mismatch extends Data.TaggedError("Mismatch")<{ readonly message: string }> {}

/** One queue, as far as it is measured. `Taken` is what a claim hands to its completion. */
export interface Queue<Taken> {
  readonly name: string
  /** Schema and definitions. */
  readonly install: Effect.Effect<void, unknown, SqlClient>
  /** Inserts jobs that are due, by SQL, without being measured. */
  readonly feed: (count: number, types: number, priorities: number) => Effect.Effect<void, unknown, SqlClient>
  readonly enqueue: (n: number, key: string | undefined) => Effect.Effect<unknown, unknown, SqlClient>
  readonly enqueueMany: (size: number) => Effect.Effect<unknown, unknown, SqlClient>
  readonly claim: (
    worker: string,
    limit: number,
    types: ReadonlyArray<string>
  ) => Effect.Effect<ReadonlyArray<Taken>, unknown, SqlClient>
  readonly complete: (taken: ReadonlyArray<Taken>) => Effect.Effect<void, unknown, SqlClient>
  readonly heartbeat: (taken: ReadonlyArray<Taken>) => Effect.Effect<void, unknown, SqlClient>
}

/** The types that are drained; `feed` uses the first so many of them. */
export const types: ReadonlyArray<string> = Array.from({ length: 10 }, (_, n) => `bench.drain${n}`)

/** What single and bulk enqueues insert, and reaped jobs: never drained. */
export const enqueuedType = "bench.enqueue"
export const reapedType = "bench.reap"

const payloadOf = (n: number) => ({ to: `user-${n}@example.com`, subject: "Thanks", n })

const payloadSql = `jsonb_build_object('to', 'user-' || n || '@example.com', 'subject', 'Thanks', 'n', n)`

const range = (count: number) => Array.from({ length: count }, (_, n) => n)

const all = (results: ReadonlyArray<Result.Result<unknown, unknown>>, count: number) => {
  const failed = results.find(Result.isFailure)
  return failed !== undefined || results.length !== count
    ? Effect.fail(new Mismatch({ message: failed === undefined ? "rows are missing" : String(failed.failure) }))
    : Effect.void
}

/** This library. */
export const ours: Queue<Jobs.Lease> = {
  name: "ours",
  install: Effect.gen(function* () {
    yield* Migrator.migrate
    yield* Effect.forEach([...types, enqueuedType, reapedType], (type) => JobDefinitions.upsert(type), {
      discard: true
    })
  }),
  feed: (count, typeCount, priorities) =>
    Sql.run(`
      INSERT INTO runledger.job_queue
        (job_type, payload, priority, max_attempts, next_run_at, created_at, updated_at)
      SELECT 'bench.drain' || n % ${typeCount}, ${payloadSql}, n / ${typeCount} % ${priorities}, 3, at, at, at
      FROM (SELECT clock_timestamp() AS at) c, generate_series(1, ${count}) n`),
  enqueue: (n, key) =>
    Jobs.enqueue(enqueuedType, payloadOf(n), key === undefined ? undefined : { idempotencyKey: key }),
  enqueueMany: (size) =>
    Effect.flatMap(
      Jobs.enqueueMany(range(size).map((n) => ({ jobType: enqueuedType, payload: payloadOf(n) }))),
      (results) => all(results, size)
    ),
  claim: (workerId, limit, types) =>
    Effect.map(Jobs.claim({ workerId, types, limit }), (jobs) => jobs.map(({ lease }) => lease)),
  complete: (leases) =>
    Effect.flatMap(Jobs.completeMany(leases.map((lease) => ({ _tag: "Success", lease }))), (results) =>
      all(results, leases.length)
    ),
  heartbeat: (leases) => Effect.flatMap(Jobs.heartbeatMany(leases), (results) => all(results, leases.length))
}

/**
 * Two updates per job, by primary key, on a row of four columns: no attempts, no fence, no priorities, no due times, no
 * checks. Nothing that keeps a promise can be as fast; the ratio says what ours cost.
 */
export const raw: Queue<unknown> = {
  name: "raw",
  install: Effect.gen(function* () {
    yield* Sql.run("CREATE SCHEMA bench_raw")
    yield* Sql.run(`
      CREATE TABLE bench_raw.queue (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        job_type text NOT NULL,
        payload jsonb NOT NULL,
        state text NOT NULL DEFAULT 'ready'
      )`)
    yield* Sql.run("CREATE INDEX ON bench_raw.queue (id) WHERE state = 'ready'")
    // a queue of keys beside it, so that the keyed enqueue has its counterpart
    yield* Sql.run("CREATE TABLE bench_raw.keyed (LIKE bench_raw.queue INCLUDING ALL, key text NOT NULL UNIQUE)")
  }),
  feed: (count) =>
    Sql.run(`
      INSERT INTO bench_raw.queue (job_type, payload)
      SELECT '${types[0]}', ${payloadSql} FROM generate_series(1, ${count}) n`),
  enqueue: (n, key) =>
    Effect.flatMap(Sql.client, (sql) =>
      key === undefined
        ? sql`INSERT INTO bench_raw.queue (job_type, payload)
              VALUES (${enqueuedType}, ${JSON.stringify(payloadOf(n))}::jsonb) RETURNING id`
        : sql`INSERT INTO bench_raw.keyed (job_type, payload, key)
              VALUES (${enqueuedType}, ${JSON.stringify(payloadOf(n))}::jsonb, ${key})
              ON CONFLICT DO NOTHING RETURNING id`
    ),
  enqueueMany: (size) =>
    Effect.flatMap(
      Sql.client,
      (sql) => sql`
        INSERT INTO bench_raw.queue (job_type, payload)
        SELECT ${enqueuedType}, p::jsonb FROM unnest(${range(size).map((n) => JSON.stringify(payloadOf(n)))}::text[]) p
        RETURNING id`
    ),
  claim: (_, limit) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.map(
        sql`
          UPDATE bench_raw.queue SET state = 'taken'
          WHERE id = ANY (ARRAY(
            SELECT id FROM bench_raw.queue WHERE state = 'ready' ORDER BY id LIMIT ${limit} FOR UPDATE SKIP LOCKED
          ))
          RETURNING id, job_type, payload`,
        (rows) => rows.map(({ id }) => id)
      )
    ),
  complete: (ids) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.flatMap(
        sql`UPDATE bench_raw.queue SET state = 'done' WHERE id = ANY (${ids}::bigint[]) RETURNING id`,
        (rows) =>
          rows.length === ids.length ? Effect.void : Effect.fail(new Mismatch({ message: "rows are missing" }))
      )
    ),
  heartbeat: (ids) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.asVoid(sql`UPDATE bench_raw.queue SET state = 'taken' WHERE id = ANY (${ids}::bigint[])`)
    )
}
