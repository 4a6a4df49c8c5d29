import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer } from "effect/sql/Statement"
import { JobDefinitions, Jobs, Workflows } from "../src/index.ts"
import { prerequisitesOf } from "../src/workflows/prerequisites.ts"
import { type Plan, type PlanCacheMode, planWith, prepare, record } from "./support/plans.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { assertConsistent } from "./support/workflows.ts"

// the figures of bench/README.md come from ten thousand steps beside two hundred thousand
const bigRun = 2000
const otherSteps = 20_000
const wide = 200

const type = "plans.step"
const hub = "plans.hub"

const run = (text: string) => SqlClient.use((sql) => sql.unsafe(text).unprepared)

const tables = [
  "job_queue",
  "job_attempts",
  "job_events",
  "workflow_runs",
  "workflow_steps",
  "workflow_step_dependencies"
].map((table) => `runledger.${table}`)

const analyze = Effect.forEach(tables, (table) => run(`VACUUM (ANALYZE) ${table}`), { discard: true })

/** Nobody but the test takes statistics. */
const withoutAutovacuum = Effect.forEach(
  tables,
  (table) => run(`ALTER TABLE ${table} SET (autovacuum_enabled = false)`),
  { discard: true }
)

const step = (stepKey: string, after: ReadonlyArray<string>, jobType = type): Workflows.StepRequest => ({
  stepKey,
  jobType,
  payload: { step: stepKey },
  dependencies: after.map((key) => ({ stepKey: key, releaseMode: "ON_SUCCESS" as const }))
})

const range = (count: number) => Array.from({ length: count }, (_, n) => n)

/** A step that four others wait for, of the type `hub`, in a run of `size` steps; the rest is a chain. */
const hubOf = (size: number) => [
  step("hub", [], hub),
  ...range(4).map((n) => step(`leaf-${n}`, ["hub"])),
  ...range(size - 5).map((n) => step(`link-${n}`, n === 0 ? [] : [`link-${n - 1}`]))
]

const fanOut = (size: number) => [step("root", [], hub), ...range(size).map((n) => step(`leaf-${n}`, ["root"]))]

const join = (size: number) => [
  ...range(size).map((n) => step(`part-${n}`, [], hub)),
  step(
    "join",
    range(size).map((n) => `part-${n}`)
  )
]

const enqueue = (steps: ReadonlyArray<Workflows.StepRequest>) => Workflows.enqueue({ workflowType: "plans", steps })

const others = run(`
  WITH run AS (
    INSERT INTO runledger.workflow_runs (
      workflow_type, steps_total, steps_open, enqueue_request, started_at, created_at, updated_at
    )
    SELECT 'plans.other', 10, 10, '{}', at, at, at
    FROM (SELECT clock_timestamp() AS at) c, generate_series(1, ${otherSteps / 10})
    RETURNING id, created_at
  ), step AS (
    INSERT INTO runledger.workflow_steps (
      workflow_run_id, step_key, job_type, priority, max_attempts, timeout_seconds, stage, created_at, updated_at
    )
    SELECT id, 'step-' || n, 'plans.other', 0, 3, 300, 'queued', created_at, created_at
    FROM run, generate_series(1, 10) n
    RETURNING id, workflow_run_id, created_at
  ), job AS (
    INSERT INTO runledger.job_queue (
      job_type, payload, status, max_attempts, next_run_at, finished_at, workflow_run_id, workflow_step_id, created_at,
      updated_at
    )
    SELECT 'plans.other', '{}', 'SUCCEEDED', 3, created_at, created_at, workflow_run_id, id, created_at, created_at
    FROM step
  )
  INSERT INTO runledger.workflow_step_dependencies (
    workflow_run_id, prerequisite_step_id, dependent_step_id, created_at
  )
  SELECT workflow_run_id, id, runledger.uuidv7(), created_at FROM step, generate_series(1, 4)`)

const hubs = Effect.map(Jobs.claim({ workerId: "worker", types: [hub], limit: 1000 }), (jobs) =>
  jobs.map(({ lease }) => lease)
)

const oneHub = Effect.flatMap(hubs, ([lease]) =>
  lease === undefined ? Effect.die("nothing was claimed") : Effect.succeed(lease)
)

/** The plans of what an operation sends, each statement run as it was, one after the other. */
const plansOf = Effect.fnUntraced(function* (operation: Effect.Effect<unknown, unknown, SqlClient>) {
  const plans: Array<Plan> = []
  for (const statement of yield* record(operation)) {
    const { explain } = yield* prepare(statement)
    plans.push(yield* explain(statement.parameters))
  }
  return plans
})

const completing = Effect.fnUntraced(function* (size: number, mode: PlanCacheMode) {
  yield* planWith(mode)
  yield* enqueue(hubOf(size))
  const lease = yield* oneHub
  return yield* plansOf(Jobs.completeSuccess(lease))
}, rollback)

const claiming = Effect.fnUntraced(function* (size: number, mode: PlanCacheMode) {
  yield* planWith(mode)
  yield* enqueue(hubOf(size))
  return yield* plansOf(hubs)
}, rollback)

const reading = Effect.fnUntraced(function* (size: number, mode: PlanCacheMode) {
  yield* planWith(mode)
  yield* enqueue(hubOf(size))
  yield* Jobs.completeSuccess(yield* oneHub)
  const [leaf] = yield* Jobs.claim({ workerId: "worker", types: [type], limit: 1 })
  return leaf === undefined
    ? yield* Effect.die("nothing was claimed")
    : yield* plansOf(prerequisitesOf(leaf.lease.jobId))
}, rollback)

const enqueueing = Effect.fnUntraced(function* (size: number, mode: PlanCacheMode) {
  yield* planWith(mode)
  return yield* plansOf(enqueue(hubOf(size)))
}, rollback)

const buffersOf = (plans: ReadonlyArray<Plan>) => plans.reduce((sum, { buffers }) => sum + buffers, 0)

const modes: ReadonlyArray<PlanCacheMode> = ["force_custom_plan", "force_generic_plan"]

const faults = Effect.gen(function* () {
  const found: Array<string> = []
  for (const mode of modes) {
    for (const [name, measured] of [
      ["claim", claiming],
      ["completion", completing],
      ["reading of prerequisites", reading]
    ] as const) {
      const small = yield* measured(10, mode)
      const large = yield* measured(bigRun, mode)
      for (const plan of [...small, ...large]) {
        found.push(...plan.scanned.map((table) => `${name}, ${mode}: reads ${table} from end to end`))
        if (plan.compiled) found.push(`${name}, ${mode}: is compiled, at a cost of ${plan.cost}`)
      }
      if (large.length !== small.length) {
        found.push(`${name}, ${mode}: ${large.length} statements instead of ${small.length}`)
      }
      // a level more in an index, no more
      const [few, many] = [buffersOf(small), buffersOf(large)]
      if (many > few * 1.25 + 40) found.push(`${name}, ${mode}: ${many} pages, ${few} in a run of ten`)
    }
    const steps = yield* enqueueing(bigRun, mode)
    found.push(...steps.flatMap(({ scanned }) => scanned.map((table) => `enqueue, ${mode}: reads ${table}`)))
    if (steps.length !== 1) found.push(`enqueue, ${mode}: ${steps.length} statements`)
    // per step: two tables, their indexes, the edges
    if (buffersOf(steps) > 60 * bigRun) found.push(`enqueue, ${mode}: ${buffersOf(steps)} pages`)
  }
  return found
})

const timeout = 180_000

it.layer(TestDatabase.layer)("with statistics that were taken while the tables were empty", (it) => {
  it.effect(
    "a step costs what its own edges cost, whatever its run and the tables hold",
    () =>
      Effect.gen(function* () {
        yield* JobDefinitions.upsert(type)
        yield* JobDefinitions.upsert(hub)
        yield* withoutAutovacuum
        yield* analyze
        yield* others
        assert.deepStrictEqual(yield* faults, [])
      }),
    timeout
  )
})

it.layer(TestDatabase.layer)("with fresh statistics", (it) => {
  it.effect(
    "a step costs what its own edges cost, whatever its run and the tables hold",
    () =>
      Effect.gen(function* () {
        yield* JobDefinitions.upsert(type)
        yield* JobDefinitions.upsert(hub)
        yield* withoutAutovacuum
        yield* others
        yield* analyze
        assert.deepStrictEqual(yield* faults, [])
      }),
    timeout
  )
})

/** How many statements an operation sends. */
const statements = (operation: Effect.Effect<unknown, unknown, SqlClient>) =>
  Effect.suspend(() => {
    let sent = 0
    return operation.pipe(
      Effect.provideService(CurrentTransformer, (statement) => {
        sent++
        return Effect.succeed(statement)
      }),
      Effect.map(() => sent)
    )
  })

it.layer(TestDatabase.layer)("statements", (it) => {
  const counts = Effect.fnUntraced(function* (size: number) {
    const enqueued = [yield* statements(enqueue(fanOut(size)))]
    const root = yield* oneHub
    const released = yield* statements(Jobs.completeSuccess(root))
    enqueued.push(yield* statements(enqueue(join(size))))
    const [first, ...rest] = yield* hubs
    const last = rest.pop()
    if (first === undefined || last === undefined) return yield* Effect.die("nothing was claimed")
    const joined = yield* statements(Jobs.completeSuccess(first))
    const many = yield* statements(
      Jobs.completeMany(rest.map((lease): Jobs.Completion => ({ _tag: "Success", lease })))
    )
    const releasing = yield* statements(Jobs.completeSuccess(last))
    yield* assertConsistent
    return { enqueued, released, joined, many, releasing }
  })

  it.effect(
    "their number does not depend on how many steps are enqueued, released or joined",
    () =>
      Effect.gen(function* () {
        yield* JobDefinitions.upsert(type)
        yield* JobDefinitions.upsert(hub)
        const few = yield* counts(5)
        assert.deepStrictEqual(yield* counts(wide), few)
        assert.deepStrictEqual(few.enqueued, [1, 1])
      }),
    timeout
  )
})
