import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { requestsOf } from "../dev/crashWorkflow.ts"
import { JobDefinitions, Jobs, TenantScope, Workflows } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import { buried, live } from "./support/crash.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { assertConsistent } from "./support/workflows.ts"

const { admin, global } = TenantScope

/** What a life has left. */
interface Left {
  /** Ids of runs, by what they were asked for with. */
  readonly runs: Readonly<Record<string, Workflows.WorkflowRunId>>
  /** What has been done, as the tables of the library tell. */
  readonly done: ReadonlyArray<string>
  /** What has been done, as the user's own rows tell. */
  readonly own: ReadonlyArray<string>
}

const leftBy = Effect.fnUntraced(function* (at: number) {
  const sql = yield* SqlClient
  const [left] = yield* sql<Left>`
    WITH run AS (
      SELECT r.*, COALESCE(r.idempotency_key, 'recovery') AS name
      FROM runledger.workflow_runs r
      WHERE r.workflow_type = ${`crash.${at}`}
    ), step AS (
      SELECT r.name || ' ' || s.step_key AS name, s.status
      FROM run r
      JOIN runledger.workflow_steps s ON s.workflow_run_id = r.id
    ), done (word) AS (
      SELECT 'enqueued' FROM run WHERE name = 'whole'
      UNION ALL SELECT 'appended' FROM run r JOIN runledger.workflow_run_mutations m ON m.workflow_run_id = r.id
      UNION ALL SELECT 'first' FROM step WHERE name = 'whole first' AND status = 'SUCCEEDED'
      UNION ALL SELECT 'opened' FROM step WHERE name = 'whole window' AND status = 'SUCCEEDED'
      UNION ALL SELECT 'ended' FROM run WHERE name = 'whole' AND status = 'SUCCEEDED' AND result = '"done"'
      UNION ALL SELECT 'canceled' FROM run WHERE name = 'canceled' AND status = 'CANCELED'
      UNION ALL SELECT 'recovered' FROM run r JOIN runledger.workflow_recoveries v ON v.recovery_run_id = r.id
      UNION ALL SELECT 'failed' FROM step WHERE name = 'recovery first' AND status = 'FAILED'
    )
    SELECT
      (SELECT COALESCE(jsonb_object_agg(name, id), '{}') FROM run) AS runs,
      (SELECT COALESCE(jsonb_agg(word ORDER BY word), '[]') FROM done) AS done,
      (SELECT COALESCE(jsonb_agg(word ORDER BY word), '[]') FROM own WHERE at = ${at}) AS own`
  return left ?? assert.fail("nothing was read")
})

/** An active key belongs to the run that asked for it, as long as that is under way or a canceled handler may be at work. */
const keysAgree = Effect.fnUntraced(function* (where: string) {
  const sql = yield* SqlClient
  assert.deepStrictEqual(
    yield* sql`
      SELECT r.workflow_type, r.status, c.active_key, c.release_pending
      FROM runledger.workflow_runs r
      FULL JOIN runledger.workflow_active_claims c ON c.workflow_run_id = r.id
      WHERE r.id IS NULL
        OR c.active_key <> r.enqueue_request ->> 'active_key'
        OR (c.active_key IS NULL) <> (r.finished_at IS NOT NULL) AND c.release_pending IS NOT TRUE
        OR c.release_pending AND r.status <> 'CANCELED'`,
    [],
    where
  )
})

const orphans = SqlClient.use(
  (sql) => sql`
    SELECT 'step' AS of FROM runledger.workflow_steps WHERE workflow_run_id NOT IN (SELECT id FROM runledger.workflow_runs)
    UNION ALL SELECT 'edge' FROM runledger.workflow_step_dependencies
    WHERE workflow_run_id NOT IN (SELECT id FROM runledger.workflow_runs)
    UNION ALL SELECT 'job' FROM runledger.job_queue
    WHERE workflow_step_id NOT IN (SELECT id FROM runledger.workflow_steps)`
)

/** Ends whatever is open, as a worker does. */
const workAll = (at: number) =>
  Effect.gen(function* () {
    const jobs = yield* Jobs.claim({ workerId: "survivor", types: [`crash.${at}`], limit: 10 })
    yield* Effect.forEach(jobs, ({ lease, payload }) =>
      Jobs.completeSuccess(lease, { output: payload === "last" ? "done" : null })
    )
    return yield* Jobs.count({ scope: admin, jobType: `crash.${at}`, status: "PENDING" })
  }).pipe(Effect.repeat({ until: (pending) => pending === 0 }))

/** Whoever lived that life tries again from the start, and there is one run for each request. */
const again = Effect.fnUntraced(function* (at: number) {
  const { canceled, late, opened, recovery, whole } = requestsOf(at)
  const { run } = yield* Workflows.enqueueOrGetActive(whole)
  yield* Workflows.append(global, run.id, late)
  yield* Workflows.completeExternal(global, run.id, "window", opened)
  yield* workAll(at)
  const held = yield* Workflows.enqueueOrGetActive(canceled)
  yield* Workflows.cancel(global, held.run.id)
  const recovered = yield* Workflows.recover(global, run.id, recovery)
  if (!recovered.run.isTerminal) {
    yield* workAll(at)
    yield* Workflows.completeExternal(global, recovered.run.id, "window", opened)
    yield* workAll(at)
  }
  return { whole: run.id, canceled: held.run.id, recovery: recovered.run.id }
})

it.live(
  "killed before any statement of its life, a process leaves runs whose steps, counters and active keys fit, and that go on",
  () =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: true })
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE own (at int NOT NULL, word text NOT NULL)`
        const declare = (at: number) =>
          JobDefinitions.upsert(`crash.${at}`, { retry: { initial: 1, max: 1, jitter: 0 }, maxAttempts: 5 })

        // the whole life, to learn how many statements it has
        yield* declare(0)
        const finished = yield* live("workflows", database, [0])
        assert.match(finished, /^finished \d+, SIGKILL$/)
        const count = Number.parseInt(finished.slice("finished ".length), 10)
        assert.isAbove(count, 60)
        const lives = Array.from({ length: count }, (_, index) => index + 1)
        yield* Effect.forEach(lives, declare)
        // several lives to a process: starting one costs more than living
        yield* Effect.forEach(
          Array.from({ length: Math.ceil(count / 14) }, (_, group) => lives.slice(group * 14, group * 14 + 14)),
          (group) =>
            Effect.map(live("workflows", database, group), (said) =>
              assert.strictEqual(said, "stopped, SIGKILL", `before ${group}`)
            ),
          { concurrency: 2, discard: true }
        )
        yield* buried

        const before = new Map<number, Left>()
        for (const at of [0, ...lives]) {
          const left = yield* leftBy(at)
          assert.deepStrictEqual(left.done, left.own, `before ${at}`)
          before.set(at, left)
        }
        assert.strictEqual(before.get(0)?.done.length, 8)
        assert.deepStrictEqual(before.get(1)?.done, [])
        yield* assertConsistent
        yield* keysAgree("killed")
        assert.deepStrictEqual(yield* orphans, [])

        // the leases run out, and the reaper gives back what the dead held: jobs, and keys of canceled runs
        yield* sql`
          UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() - interval '1 second'
          WHERE lease_expires_at IS NOT NULL`
        const { postponed } = yield* Jobs.reapExpiredLeases({ limit: 1000 })
        assert.deepStrictEqual(postponed, [])
        assert.strictEqual(yield* Jobs.count({ scope: admin, status: "LEASED" }), 0)
        assert.deepStrictEqual(
          yield* sql`SELECT active_key FROM runledger.workflow_active_claims WHERE release_pending`,
          []
        )
        yield* assertConsistent
        yield* keysAgree("reaped")

        for (const at of [0, ...lives]) {
          assert.deepInclude(yield* again(at), before.get(at)?.runs ?? {}, `before ${at}, again`)
          assert.include((yield* leftBy(at)).done, "ended", `before ${at}, again`)
        }
        yield* assertConsistent
        yield* keysAgree("again")
        assert.deepStrictEqual(yield* orphans, [])
        assert.deepStrictEqual(
          yield* sql`SELECT workflow_type, idempotency_key FROM runledger.workflow_runs WHERE finished_at IS NULL`,
          []
        )
        assert.deepStrictEqual(
          yield* sql`
            SELECT workflow_type, count(*)::integer FROM runledger.workflow_runs GROUP BY workflow_type HAVING count(*) <> 3`,
          []
        )
      }).pipe(Effect.provide(TestDatabase.client(database)), Effect.provideService(NotifyInterval, 0))
    }),
  240_000
)
