/**
 * What is measured of workflows, and beside it the least that a table of steps on PostgreSQL can do.
 */
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, Workflows } from "../src/index.ts"
import * as Sql from "./Sql.ts"

type Run = Effect.Effect<unknown, unknown, SqlClient>

/** Graphs of jobs of {@link stepType}, as far as they are measured. What returns an effect prepares what is then timed. */
export interface Graphs {
  readonly install: Effect.Effect<void, unknown, SqlClient>
  /** A run of so many steps, each of which waits for the four before it. */
  readonly enqueue: (size: number) => Run
  /** The end of a step that so many others wait for. */
  readonly release: (dependents: number) => Effect.Effect<Run, unknown, SqlClient>
  /** The ends of so many steps, one after the other, each with four dependents, in runs of `size`. */
  readonly complete: (count: number, size: number) => Effect.Effect<Run, unknown, SqlClient>
  /** So many jobs that are due, and one that waits for them all. */
  readonly fanOut: (size: number) => Run
}

/** Every step is a job of this type. */
export const stepType = "bench.step"

const range = (count: number) => Array.from({ length: count }, (_, n) => n)

const payloadOf = (n: number) => ({ url: `https://example.com/pages/${n}`, n })

const step = (n: number, after: ReadonlyArray<number>): Workflows.StepRequest => ({
  stepKey: `step-${n}`,
  jobType: stepType,
  payload: payloadOf(n),
  dependencies: after.map((other) => ({ stepKey: `step-${other}`, releaseMode: "ON_SUCCESS" as const }))
})

const before = (n: number) => range(Math.min(4, n)).map((back) => n - 1 - back)

const enqueue = (steps: ReadonlyArray<Workflows.StepRequest>) => Workflows.enqueue({ workflowType: "bench", steps })

const claim = (limit: number) => Jobs.claim({ workerId: "worker-1", types: [stepType], limit })

/** Steps in fives: one that is due, and four that wait for it. */
const fives = (size: number) => range(size).map((n) => step(n, n % 5 === 0 ? [] : [n - (n % 5)]))

/** This library. */
export const ours: Graphs = {
  install: Effect.asVoid(JobDefinitions.upsert(stepType)),
  enqueue: (size) => enqueue(range(size).map((n) => step(n, before(n)))),
  release: Effect.fnUntraced(function* (dependents) {
    yield* enqueue(range(dependents + 1).map((n) => step(n, n === 0 ? [] : [0])))
    const jobs = yield* claim(1)
    return Effect.forEach(jobs, ({ lease }) => Jobs.completeSuccess(lease), { discard: true })
  }),
  complete: Effect.fnUntraced(function* (count, size) {
    yield* Effect.forEach(range(Math.ceil((count * 5) / size)), () => enqueue(fives(size)), { discard: true })
    const jobs = yield* claim(count)
    return Effect.forEach(jobs, ({ lease }) => Jobs.completeSuccess(lease), { discard: true })
  }),
  fanOut: (size) => enqueue(range(size + 1).map((n) => step(n, n === size ? range(size) : [])))
}

const insertRows = Effect.fnUntraced(function* (edges: ReadonlyArray<ReadonlyArray<number>>) {
  const sql = yield* Sql.client
  const payloads = edges.map((_, n) => JSON.stringify(payloadOf(n)))
  return yield* sql`
    WITH run AS (
      INSERT INTO bench_raw.workflow_runs
        (workflow_type, steps_total, steps_open, enqueue_request, started_at, created_at, updated_at)
      VALUES ('bench', ${edges.length}, ${edges.length}, ${`[${payloads.join(",")}]`}::jsonb, now(), now(), now())
      RETURNING id
    ), item AS MATERIALIZED (
      SELECT uuidv7() AS id, CASE WHEN total = 0 THEN uuidv7() END AS job_id, i.*
      FROM unnest(
        ${edges.map((_, n) => `step-${n}`)}::text[], ${payloads}::text[], ${edges.map((each) => each.length)}::integer[]
      ) WITH ORDINALITY AS i (step_key, payload, total, place)
    ), ids AS MATERIALIZED (
      SELECT array_agg(id ORDER BY place) AS ids FROM item
    ), step AS (
      INSERT INTO bench_raw.workflow_steps (
        id, workflow_run_id, step_key, job_type, payload, priority, max_attempts, timeout_seconds, stage, status, job_id,
        dependency_count_total, dependency_count_pending, created_at, updated_at
      )
      SELECT
        i.id, r.id, i.step_key, ${stepType}, i.payload::jsonb, 0, 3, 300, 'queued',
        CASE WHEN i.total = 0 THEN 'ENQUEUED' ELSE 'BLOCKED' END, i.job_id, i.total, i.total, now(), now()
      FROM item i
      CROSS JOIN run r
    ), job AS (
      INSERT INTO bench_raw.job_queue
        (id, job_type, payload, max_attempts, next_run_at, workflow_run_id, workflow_step_id, created_at, updated_at)
      SELECT i.job_id, ${stepType}, i.payload::jsonb, 3, now(), r.id, i.id, now(), now()
      FROM item i
      CROSS JOIN run r
      WHERE i.job_id IS NOT NULL
    )
    INSERT INTO bench_raw.workflow_step_dependencies
      (workflow_run_id, prerequisite_step_id, dependent_step_id, release_mode, created_at)
    SELECT r.id, n.ids[e.prerequisite + 1], n.ids[e.dependent + 1], 'ON_SUCCESS', now()
    FROM unnest(${edges.flat()}::integer[], ${edges.flatMap((each, n) => each.map(() => n))}::integer[])
      AS e (prerequisite, dependent)
    CROSS JOIN ids n
    CROSS JOIN run r`
})

/**
 * The same tables, filled by an insert that asks nothing, and written by updates that lock nothing, look at no lease, know of
 * one way to end and keep no run up to date.
 */
export const raw: Graphs = {
  install: Effect.forEach(
    ["workflow_runs", "workflow_steps", "workflow_step_dependencies", "job_queue"],
    (table) => Sql.run(`CREATE TABLE bench_raw.${table} (LIKE runledger.${table} INCLUDING ALL)`),
    { discard: true }
  ),
  enqueue: (size) => insertRows(range(size).map(before)),
  release: Effect.fnUntraced(function* (dependents) {
    const sql = yield* Sql.client
    yield* insertRows(range(dependents + 1).map((n) => (n === 0 ? [] : [0])))
    const done = sql`
      WITH done AS (
        UPDATE bench_raw.workflow_steps SET status = 'SUCCEEDED', finished_at = now(), updated_at = now()
        WHERE id = (SELECT workflow_step_id FROM bench_raw.job_queue LIMIT 1)
        RETURNING workflow_run_id, id
      ), released AS (
        UPDATE bench_raw.workflow_steps s
        SET
          dependency_count_pending = s.dependency_count_pending - 1, status = 'ENQUEUED', job_id = uuidv7(),
          released_at = now(), updated_at = now()
        WHERE s.id = ANY (ARRAY(
          SELECT d.dependent_step_id
          FROM bench_raw.workflow_step_dependencies d
          JOIN done p ON p.workflow_run_id = d.workflow_run_id AND p.id = d.prerequisite_step_id
        ))
        RETURNING s.*
      ), job AS (
        UPDATE bench_raw.job_queue SET status = 'SUCCEEDED', finished_at = now(), updated_at = now()
        WHERE id = (SELECT id FROM bench_raw.job_queue LIMIT 1)
      )
      INSERT INTO bench_raw.job_queue
        (id, job_type, payload, max_attempts, next_run_at, workflow_run_id, workflow_step_id, created_at, updated_at)
      SELECT job_id, job_type, payload, max_attempts, now(), workflow_run_id, id, now(), now() FROM released`
    return done
  }),
  // what it is compared with is the same in a run of ten
  complete: (count) => ours.complete(count, 10),
  fanOut: (size) =>
    Sql.run(`
      INSERT INTO bench_raw.queue (job_type, payload)
      SELECT '${stepType}', jsonb_build_object('url', 'https://example.com/pages/' || n, 'n', n)
      FROM generate_series(0, ${size}) n`)
}

/** After a round: nothing stands in the tables of workflows before it, and nothing after it. */
export const tidy = Sql.run(`
  TRUNCATE
    bench_raw.workflow_runs, bench_raw.workflow_steps, bench_raw.workflow_step_dependencies, bench_raw.job_queue,
    runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies,
    runledger.workflow_run_mutations, runledger.workflow_active_claims, runledger.workflow_recoveries`)
