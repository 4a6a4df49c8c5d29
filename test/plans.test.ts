import { assert, it } from "@effect/vitest"
import { type Duration, Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, TenantScope } from "../src/index.ts"
import { type Plan, type PlanCacheMode, planWith, prepare, record } from "./support/plans.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const type = "plans.hot"
const batch = 50

/** One operation, on jobs that `plans` has made ready for it inside a transaction that is rolled back. */
interface Hot {
  readonly name: string
  /** Which of its statements, if it sends several. */
  readonly statement?: RegExp
  /** Jobs that it writes; bounds are per job. */
  readonly jobs: number
  /** The indexes that it searches, and no other. */
  readonly indexes: ReadonlyArray<string>
  readonly ready: Effect.Effect<Effect.Effect<unknown, unknown, SqlClient>, unknown, SqlClient>
}

const claimed = (limit: number, lease: Duration.Input = "1 minute") =>
  Effect.map(Jobs.claim({ workerId: "worker", types: [type], limit, lease }), (jobs) => {
    assert.strictEqual(jobs.length, limit)
    return jobs.map((job) => job.lease)
  })

const one = Effect.flatMap(claimed(1), ([lease]) =>
  lease === undefined ? Effect.die("nothing was claimed") : Effect.succeed(lease)
)

const byId = ["pk_job_queue"]
const byLane = [
  "idx_job_execution_permits_spot",
  "idx_job_execution_rate_tokens_free",
  "idx_job_queue_claim",
  "pk_job_execution_permits",
  "pk_job_execution_rate_tokens",
  "pk_job_execution_resources",
  "pk_job_queue",
  "uq_job_execution_permits_key_slot"
]
const byKey = ["uq_job_queue_type_idempotency"]

const completeMany = (completion: (lease: Jobs.Lease) => Jobs.Completion) =>
  Effect.map(claimed(batch), (leases) => Jobs.completeMany(leases.map(completion)))

const hot: ReadonlyArray<Hot> = [
  {
    name: "claim",
    jobs: batch,
    indexes: byLane,
    ready: Effect.succeed(Jobs.claim({ workerId: "worker", types: [type, "plans.absent"], limit: batch }))
  },
  {
    name: "claimPrestart",
    jobs: batch,
    indexes: byLane,
    ready: Effect.succeed(Jobs.claimPrestart({ workerId: "worker", types: [type], limit: batch }))
  },
  {
    name: "a claim of nothing",
    jobs: 1,
    indexes: byLane,
    // lanes with a future in them, and nothing due
    ready: Effect.succeed(Jobs.claim({ workerId: "worker", types: ["plans.future"], limit: batch }))
  },
  {
    name: "heartbeatMany",
    jobs: batch,
    indexes: byId,
    ready: Effect.map(claimed(batch), (leases) => Jobs.heartbeatMany(leases))
  },
  {
    name: "updateProgress",
    jobs: 1,
    indexes: byId,
    ready: Effect.map(one, (lease) => Jobs.updateProgress(lease, { done: 1, total: 2, checkpoint: { page: 1 } }))
  },
  {
    name: "markRunning",
    jobs: 1,
    indexes: byId,
    ready: Effect.flatMap(Jobs.claimPrestart({ workerId: "worker", types: [type], limit: 1 }), ([job]) =>
      job === undefined ? Effect.die("nothing was claimed") : Effect.succeed(Jobs.markRunning(job.lease))
    )
  },
  {
    name: "completeSuccess",
    jobs: 1,
    indexes: byId,
    ready: Effect.map(one, (lease) => Jobs.completeSuccess(lease, { output: { sent: true } }))
  },
  {
    name: "successes of completeMany",
    jobs: batch,
    indexes: byId,
    ready: completeMany((lease) => ({ _tag: "Success", lease, output: { sent: true } }))
  },
  {
    name: "failures of completeMany",
    jobs: batch,
    indexes: byId,
    ready: completeMany((lease) => ({ _tag: "Failure", lease, kind: "RETRYABLE", code: "test", message: "no" }))
  },
  {
    name: "dead letters of completeMany",
    jobs: batch,
    indexes: byId,
    ready: completeMany((lease) => ({ _tag: "Failure", lease, kind: "TERMINAL", code: "test", message: "no" }))
  },
  {
    name: "continuations of completeMany",
    jobs: batch,
    indexes: byId,
    ready: completeMany((lease) => ({ _tag: "Continuation", lease, checkpoint: { page: 1 } }))
  },
  {
    name: "releaseUnstarted",
    jobs: 1,
    indexes: byId,
    ready: Effect.flatMap(Jobs.claimPrestart({ workerId: "worker", types: [type], limit: 1 }), ([job]) =>
      job === undefined ? Effect.die("nothing was claimed") : Effect.succeed(Jobs.releaseUnstarted(job.lease))
    )
  },
  {
    name: "enqueueMany without keys",
    jobs: batch,
    indexes: [],
    ready: Effect.succeed(
      Jobs.enqueueMany(Array.from({ length: batch }, (_, n) => ({ jobType: type, payload: { n } })))
    )
  },
  {
    name: "enqueueMany with keys",
    jobs: batch,
    indexes: byKey,
    ready: Effect.succeed(
      Jobs.enqueueMany(
        // half of them are there already
        Array.from({ length: batch }, (_, n) => ({
          jobType: type,
          payload: { n },
          idempotencyKey: `${n % 2 ? "key" : "new"}-${n}`
        }))
      )
    )
  },
  {
    name: "reapExpiredLeases, the runs",
    statement: /SELECT DISTINCT e\.workflow_run_id/,
    jobs: batch,
    indexes: ["idx_job_queue_lease_expiry", "idx_workflow_active_claims_release_pending", "pk_job_queue"],
    ready: claimed(batch, "1 millis").pipe(
      Effect.andThen(SqlClient.use((sql) => sql`SELECT pg_sleep(0.01)`)),
      Effect.as(Jobs.reapExpiredLeases({ limit: batch }))
    )
  },
  {
    name: "reapExpiredLeases",
    statement: /LEASE_EXPIRED/,
    jobs: batch,
    indexes: ["idx_job_queue_lease_expiry", "pk_job_queue"],
    ready: claimed(batch, "1 millis").pipe(
      Effect.andThen(SqlClient.use((sql) => sql`SELECT pg_sleep(0.01)`)),
      Effect.as(Jobs.reapExpiredLeases({ limit: batch }))
    )
  },
  {
    name: "cancel",
    jobs: 1,
    indexes: byId,
    ready: Effect.map(one, (lease) => Jobs.cancel(TenantScope.admin, lease.jobId))
  },
  {
    name: "get",
    jobs: 1,
    indexes: byId,
    ready: Effect.map(one, (lease) => Jobs.get(TenantScope.admin, lease.jobId))
  }
]

const tables = ["job_queue", "job_attempts", "job_events", "job_dead_letters"].map((table) => `runledger.${table}`)

const run = (text: string) => SqlClient.use((sql) => sql.unsafe(text).unprepared)

const analyze = Effect.forEach(tables, (table) => run(`VACUUM (ANALYZE) ${table}`), { discard: true })

/** Nobody but the test takes statistics. */
const withoutAutovacuum = Effect.forEach(
  tables,
  (table) => run(`ALTER TABLE ${table} SET (autovacuum_enabled = false)`),
  {
    discard: true
  }
)

/** What the operations work on. */
const due = Effect.gen(function* () {
  // what was tried on earlier ones was rolled back, and left each of them dozens of dead versions
  yield* run(`DELETE FROM runledger.job_queue WHERE job_type = '${type}' AND status = 'PENDING'`)
  yield* run(`
    INSERT INTO runledger.job_queue (job_type, payload, priority, max_attempts, next_run_at, created_at, updated_at)
    SELECT '${type}', '{}', n % 3, 3, at, at, at
    FROM (SELECT clock_timestamp() - interval '1 hour' AS at) c, generate_series(1, 300) n`)
  // retried jobs have an attempt, an event and a dead letter of an earlier run
  yield* run(`
    INSERT INTO runledger.job_events (job_id, seq, event_type, occurred_at)
    SELECT id, 1, 'ENQUEUED', created_at FROM runledger.job_queue WHERE job_type = '${type}' AND status = 'PENDING'`)
})

/** Succeeded jobs with keys, their attempts, stored events and, of some, dead letters. */
const history = (count: number) =>
  run(`
    WITH job AS (
      INSERT INTO runledger.job_queue (
        job_type, payload, status, attempt, max_attempts, next_run_at, event_seq, started_at, finished_at, stage,
        idempotency_key, enqueue_request, created_at, updated_at
      )
      SELECT
        '${type}', '{}', 'SUCCEEDED', 1, 3, at, 4, at, at, 'completed', 'key-' || n + done, '{}', at, at
      FROM (SELECT count(*) AS done FROM runledger.job_queue WHERE idempotency_key IS NOT NULL) c
      CROSS JOIN generate_series(1, ${count}) n
      CROSS JOIN LATERAL (SELECT clock_timestamp() - n * interval '1 second') t (at)
      RETURNING id, created_at
    ), attempt AS (
      INSERT INTO runledger.job_attempts (
        job_id, attempt, worker_id, leased_at, lease_ms, started_at, finished_at, ended_as, leased_seq, started_seq,
        ended_seq
      )
      SELECT id, 1, 'worker', created_at, 60000, created_at, created_at, 'SUCCEEDED', 2, 3, 4 FROM job
    ), event AS (
      INSERT INTO runledger.job_events (job_id, seq, event_type, occurred_at)
      SELECT id, 1, 'ENQUEUED', created_at FROM job
    )
    INSERT INTO runledger.job_dead_letters (
      job_id, job_type, attempt, reason, failure_kind, payload_snapshot, failed_at, created_at
    )
    SELECT id, '${type}', 1, 'ATTEMPTS_EXHAUSTED', 'RETRYABLE', '{}', created_at, created_at FROM job LIMIT ${count} / 5`)

const waiting = (jobType: string, count: number, at: string) =>
  run(`
    INSERT INTO runledger.job_queue (job_type, payload, max_attempts, next_run_at, created_at, updated_at)
    SELECT '${jobType}', '{}', 3, ${at}, clock_timestamp(), clock_timestamp() FROM generate_series(1, ${count}) n`)

/** History behind, future ahead, neighbours beside, and what they left dead. */
const big = Effect.gen(function* () {
  const later = "clock_timestamp() + interval '30 days' + n * interval '1 second'"
  yield* history(50_000)
  yield* waiting(type, 25_000, later)
  yield* waiting("plans.future", 25_000, later)
  yield* waiting("plans.other", 20_000, "clock_timestamp() - interval '1 hour'")
  yield* waiting("plans.dead", 10_000, "clock_timestamp() - interval '1 hour'")
  yield* run("DELETE FROM runledger.job_queue WHERE job_type = 'plans.dead'")
  yield* run("UPDATE runledger.job_queue SET updated_at = created_at WHERE job_type = 'plans.other'")
})

const modes: ReadonlyArray<PlanCacheMode> = ["force_custom_plan", "force_generic_plan"]

const planOf = Effect.fnUntraced(function* (operation: Hot, mode: PlanCacheMode) {
  yield* planWith(mode)
  const sent = yield* record(yield* operation.ready)
  const [statement, ...more] = sent.filter(({ text }) => operation.statement?.test(text) ?? true)
  if (statement === undefined || more.length > 0) {
    return yield* Effect.die(`${operation.name} is expected to send one statement about jobs`)
  }
  const { explain } = yield* prepare(statement)
  return yield* explain(statement.parameters)
}, rollback)

const plans = Effect.gen(function* () {
  const all = new Map<string, { readonly operation: Hot; readonly plan: Plan }>()
  for (const mode of modes) {
    for (const operation of hot) {
      all.set(`${operation.name}, ${mode}`, { operation, plan: yield* planOf(operation, mode) })
    }
  }
  return all
})

// pages: fixed for what is searched once, and for each job its own row, versions, attempt, and an entry per index
const fixedBuffers = 80
// before PostgreSQL 17, each id of an array descends its index from the root
const descends = TestDatabase.major < 17
const buffersPerJob = descends ? 50 : 40

// what may differ between a small table and a large one: a level more in each index that a write descends
const growth = (buffers: number) => buffers * (descends ? 2 : 1.6) + 40

const compiledFrom = 100_000

// there are no workflows here; how their steps are found is for Workflows.plans.test.ts
const isHere = (name: string) => !name.includes("workflow_steps")

const faultsOf = (
  name: string,
  { operation, plan: { scanned, indexes, ...plan } }: { readonly operation: Hot; readonly plan: Plan },
  small: number
) => [
  ...scanned.filter(isHere).map((table) => `${name}: reads ${table} from end to end`),
  ...(indexes.filter(isHere).join() === operation.indexes.join()
    ? []
    : [`${name}: searches ${indexes.join(", ")} instead of ${operation.indexes.join(", ")}`]),
  ...(plan.compiled || plan.cost >= compiledFrom ? [`${name}: is compiled, at a cost of ${plan.cost}`] : []),
  ...(plan.buffers > fixedBuffers + buffersPerJob * operation.jobs
    ? [`${name}: touches ${plan.buffers} pages for ${operation.jobs} jobs`]
    : []),
  ...(plan.buffers > growth(small) ? [`${name}: touches ${plan.buffers} pages, ${small} of a small table`] : [])
]

const checked = Effect.fnUntraced(function* (statistics: {
  readonly first: Effect.Effect<unknown, unknown, SqlClient>
  readonly between: Effect.Effect<unknown, unknown, SqlClient>
  readonly last: Effect.Effect<unknown, unknown, SqlClient>
}) {
  yield* withoutAutovacuum
  yield* JobDefinitions.upsert(type)
  yield* statistics.first
  yield* due
  yield* history(100)
  const small = yield* plans
  yield* due
  yield* statistics.between
  yield* big
  yield* statistics.last
  const large = yield* plans
  return [...large].flatMap(([name, plan]) => faultsOf(name, plan, small.get(name)?.plan.buffers ?? 0))
})

const timeout = 180_000

it.layer(TestDatabase.layer)("with statistics that were taken while the tables were empty", (it) => {
  it.effect(
    "hot statements read by index, and their cost does not grow",
    () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* checked({ first: analyze, between: Effect.void, last: Effect.void }), [])
      }),
    timeout
  )
})

it.layer(TestDatabase.layer)("with fresh statistics", (it) => {
  it.effect(
    "hot statements read by index, and their cost does not grow",
    () =>
      Effect.gen(function* () {
        assert.deepStrictEqual(yield* checked({ first: Effect.void, between: Effect.void, last: analyze }), [])
      }),
    timeout
  )
})

it.layer(TestDatabase.layer)("with a backlog in the lane that is claimed, and fresh statistics", (it) => {
  it.effect(
    "hot statements read by index, and their cost does not grow",
    () =>
      Effect.gen(function* () {
        const backlog = waiting(type, 40_000, "clock_timestamp() - interval '1 minute'")
        assert.deepStrictEqual(yield* checked({ first: Effect.void, between: backlog, last: analyze }), [])
      }),
    timeout
  )
})

it.layer(TestDatabase.layer)("with statistics of a table that held only due jobs of one type", (it) => {
  it.effect(
    "hot statements read by index, and their cost does not grow",
    () =>
      Effect.gen(function* () {
        const skewed = waiting("plans.other", 2000, "clock_timestamp()").pipe(Effect.andThen(analyze))
        assert.deepStrictEqual(yield* checked({ first: skewed, between: Effect.void, last: Effect.void }), [])
      }),
    timeout
  )
})
