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
import * as Workflows from "./Workflows.ts"

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
  readonly graphs: Workflows.Graphs
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
    yield* Workflows.ours.install
  }),
  graphs: Workflows.ours,
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
 * The queue that one writes by hand: a table with type, payload, due time and lease, an insert, an update that claims with
 * `SKIP LOCKED`, an update by primary key that finishes. No fence, no attempts or history, no priorities, no retries, no
 * checks.
 */
export const raw: Queue<unknown> = {
  name: "raw",
  install: Effect.gen(function* () {
    yield* Sql.run("CREATE SCHEMA bench_raw")
    yield* Sql.run(`
      CREATE TABLE bench_raw.queue (
        id uuid PRIMARY KEY DEFAULT uuidv7(),
        job_type text NOT NULL,
        payload jsonb NOT NULL,
        state text NOT NULL DEFAULT 'ready',
        run_at timestamptz NOT NULL DEFAULT now(),
        attempts integer NOT NULL DEFAULT 0,
        worker text,
        lease_expires_at timestamptz,
        finished_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now()
      )`)
    yield* Sql.run("CREATE INDEX ON bench_raw.queue (job_type, run_at, id) WHERE state = 'ready'")
    yield* Sql.run("CREATE INDEX ON bench_raw.queue (lease_expires_at) WHERE state = 'leased'")
    // a queue of keys beside it, so that the keyed enqueue has its counterpart
    yield* Sql.run("CREATE TABLE bench_raw.keyed (LIKE bench_raw.queue INCLUDING ALL, key text NOT NULL UNIQUE)")
    yield* Workflows.raw.install
  }),
  graphs: Workflows.raw,
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
  claim: (worker, limit, [type]) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.map(
        sql`
          UPDATE bench_raw.queue
          SET state = 'leased', worker = ${worker}, attempts = attempts + 1,
            lease_expires_at = now() + interval '1 minute'
          WHERE id = ANY (ARRAY(
            SELECT id FROM bench_raw.queue
            WHERE state = 'ready' AND job_type = ${type} AND run_at <= now()
            ORDER BY run_at, id LIMIT ${limit} FOR UPDATE SKIP LOCKED
          ))
          RETURNING id, job_type, payload`,
        (rows) => rows.map(({ id }) => id)
      )
    ),
  complete: (ids) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.flatMap(
        sql`
          UPDATE bench_raw.queue
          SET state = 'done', worker = NULL, lease_expires_at = NULL, finished_at = now()
          WHERE id = ANY (${ids}::uuid[]) RETURNING id`,
        (rows) =>
          rows.length === ids.length ? Effect.void : Effect.fail(new Mismatch({ message: "rows are missing" }))
      )
    ),
  heartbeat: (ids) =>
    Effect.flatMap(Sql.client, (sql) =>
      Effect.asVoid(sql`
        UPDATE bench_raw.queue SET lease_expires_at = now() + interval '1 minute' WHERE id = ANY (${ids}::uuid[])`)
    )
}
