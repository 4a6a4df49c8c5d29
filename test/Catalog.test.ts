import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, References, Result, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Catalog from "../src/Catalog.ts"
import type { InvalidCatalog } from "../src/DefinitionReason.ts"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobIntents from "../src/JobIntents.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Reaper from "../src/Reaper.ts"
import * as Worker from "../src/Worker.ts"
import * as Workflow from "../src/Workflow.ts"
import * as Workflows from "../src/Workflows.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { planWith, prepare, record } from "./support/plans.ts"
import { standing, waiting } from "./support/races.ts"
import { rollback } from "./support/rollback.ts"
import { refusal, unique } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const cron = "0 3 * * *"

/** Contracts and names of their own. */
const fresh = () => {
  const A = Job.make(unique("catalog.a"), { payload: { to: Schema.String } })
  const B = Job.make(unique("catalog.b"), { payload: {} })
  return { A, B, owner: unique("owner"), name: unique("nightly") }
}

const isEnabled = (jobType: string) =>
  Effect.map(JobDefinitions.get(jobType), (definition) => Option.getOrThrow(definition).isEnabled)
const isActive = (name: string) =>
  Effect.map(JobSchedules.get(name), (schedule) => Option.getOrThrow(schedule).isActive)

it("a catalogue that contradicts itself is refused, and says how", () => {
  const { A, B, name } = fresh()
  const other = Job.make(A.jobType, { payload: {}, version: 2 })
  const codeOf = (catalog: Catalog.Catalog) =>
    Result.match(Catalog.validate(catalog), {
      onSuccess: () => "valid",
      onFailure: (reason: InvalidCatalog) => `${reason.code} ${reason.name}`
    })
  const step = Workflow.make("w").step("a", A, { to: "x" }).external("gate", { success: Schema.String })
  const nightly = JobSchedules.schedule(name, A, { to: "x" }, { cron })
  const { jobType } = A
  const nobody: string = "nobody"
  assert.strictEqual(codeOf(Catalog.make({ jobs: [] })), "valid")
  assert.strictEqual(
    codeOf(
      Catalog.make({
        jobs: [A, B],
        workflows: [step, { workflowType: "v", jobs: [B] }],
        schedules: [nightly, { name: "other", jobType: B.jobType, cron }],
        disabled: []
      })
    ),
    "valid"
  )
  assert.strictEqual(codeOf(Catalog.make({ jobs: [A, other] })), `catalog.duplicate_job_type ${jobType}`)
  assert.strictEqual(codeOf(Catalog.make({ jobs: [B], workflows: [step] })), `catalog.unknown_job_type ${jobType}`)
  assert.strictEqual(codeOf(Catalog.make({ jobs: [other], workflows: [step] })), `catalog.other_contract ${jobType}`)
  assert.strictEqual(codeOf(Catalog.make({ jobs: [B], schedules: [nightly] })), `catalog.unknown_job_type ${jobType}`)
  assert.strictEqual(codeOf(Catalog.make({ jobs: [other], schedules: [nightly] })), `catalog.other_contract ${jobType}`)
  assert.strictEqual(
    codeOf(Catalog.make({ jobs: [B], schedules: [{ name, jobType, cron }] })),
    `catalog.unknown_job_type ${jobType}`
  )
  assert.strictEqual(
    codeOf(Catalog.make({ jobs: [A], schedules: [nightly, nightly] })),
    `catalog.duplicate_schedule_name ${name}`
  )
  assert.strictEqual(
    codeOf(Catalog.make({ jobs: [A], schedules: [nightly], disabled: [jobType] })),
    `catalog.disabled_job_type ${name}`
  )
  assert.strictEqual(
    codeOf(Catalog.make({ jobs: [A], schedules: [{ ...nightly, isActive: false }], disabled: [jobType] })),
    "valid"
  )
  assert.strictEqual(codeOf(Catalog.make({ jobs: [A], disabled: [nobody] })), "catalog.unknown_job_type nobody")
})

it("the list of jobs keeps its types: a forgotten handler does not compile", () => {
  class One extends Job.make("types.one", { payload: {} }) {}
  class Two extends Job.make("types.two", { payload: {} }) {}
  const catalog = Catalog.make({ jobs: [One, Two] })
  const OneLive = One.toLayer(() => Effect.void)
  const TwoLive = Two.toLayer(() => Effect.void)
  const needsDatabase = (layer: Layer.Layer<never, unknown, SqlClient>) => layer
  const both = Layer.merge(OneLive, TwoLive)
  needsDatabase(Layer.provide(Worker.layer({ jobs: catalog.jobs }), both))
  needsDatabase(Layer.provide(Reaper.layer({ jobs: catalog.jobs }), both))
  // @ts-expect-error: the handler of Two
  needsDatabase(Layer.provide(Worker.layer({ jobs: catalog.jobs }), OneLive))
  // @ts-expect-error: the handler of One
  needsDatabase(Layer.provide(Reaper.layer({ jobs: catalog.jobs }), TwoLive))
  // @ts-expect-error: no such type
  Catalog.make({ jobs: [One], disabled: ["types.two"] })
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Catalog.sync", (it) => {
  it.effect("stores definitions and schedules, and says what it changed", () =>
    Effect.gen(function* () {
      const { A, B, name, owner } = fresh()
      const catalog = Catalog.make({
        jobs: [B, A],
        disabled: [B.jobType],
        schedules: [JobSchedules.schedule(name, A, { to: "ops" }, { cron })]
      })
      const first = yield* Catalog.sync(catalog, { owner })
      assert.deepStrictEqual(first.definitions.inserted, [A.jobType, B.jobType])
      assert.deepStrictEqual(first.definitions.disabled, [B.jobType])
      assert.deepStrictEqual(first.schedules.inserted, [name])
      const second = yield* Catalog.sync(catalog, { owner })
      assert.deepStrictEqual(
        [second.definitions.unchanged, second.schedules.unchanged],
        [[A.jobType, B.jobType], [name]]
      )
      assert.deepStrictEqual(yield* Effect.forEach([A.jobType, B.jobType], isEnabled), [true, false])
      const empty = yield* Catalog.sync(Catalog.make({ jobs: [] }))
      assert.isTrue(Object.values({ ...empty.definitions, ...empty.schedules }).every((list) => list.length === 0))
    })
  )

  it.effect("operators' pauses survive, of types and of schedules", () =>
    Effect.gen(function* () {
      const { A, B, name, owner } = fresh()
      const catalog = Catalog.make({
        jobs: [A, B],
        schedules: [JobSchedules.schedule(name, A, { to: "ops" }, { cron })]
      })
      const exact = { jobTypes: [A.jobType, B.jobType], schedules: { owner } }
      yield* Catalog.sync(catalog, { exact })
      yield* JobSchedules.setActive(name, false)
      yield* JobDefinitions.update(A.jobType, { isEnabled: false })
      yield* JobDefinitions.update(B.jobType, { isEnabled: false })
      for (const options of [{}, { exact }, { owner }]) {
        yield* Catalog.sync(catalog, options)
        assert.deepStrictEqual(yield* Effect.forEach([A.jobType, B.jobType], isEnabled), [false, false])
        assert.isFalse(yield* isActive(name))
      }
      const { definitions } = yield* Catalog.sync(catalog, { mode: "endPauses" })
      assert.deepStrictEqual(definitions.enabled, [A.jobType, B.jobType])
      assert.isFalse(yield* isActive(name))
    })
  )

  it.effect("exact: a type that leaves together with its schedule is disabled, and comes back with a rollback", () =>
    Effect.gen(function* () {
      const { A, B, name, owner } = fresh()
      const before = Catalog.make({
        jobs: [A, B],
        schedules: [JobSchedules.schedule(name, A, { to: "ops" }, { cron })]
      })
      const exact = { jobTypes: [A.jobType, B.jobType], schedules: { owner } }
      yield* Catalog.sync(before, { exact })
      const after = yield* Catalog.sync(Catalog.make({ jobs: [B] }), { exact })
      assert.deepStrictEqual([after.definitions.retired, after.schedules.deactivated], [[A.jobType], [name]])
      assert.deepStrictEqual([yield* isEnabled(A.jobType), yield* isActive(name)], [false, false])
      const back = yield* Catalog.sync(before, { exact })
      assert.deepStrictEqual([back.definitions.enabled, back.schedules.updated], [[A.jobType], [name]])
      assert.deepStrictEqual([yield* isEnabled(A.jobType), yield* isActive(name)], [true, true])
    })
  )

  it.effect(
    "is all or nothing: what the schedules fail with undoes the definitions, also in a caller's transaction",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const { A, B, name, owner } = fresh()
        yield* JobDefinitions.upsert(A.jobType)
        yield* JobSchedules.sync([{ name, jobType: A.jobType, cron }], { owner: unique("somebody") })
        const sync = Catalog.sync(
          Catalog.make({ jobs: [A, B], schedules: [JobSchedules.schedule(name, A, { to: "x" }, { cron })] }),
          { owner }
        )
        assert.strictEqual((yield* refusal(sync))._tag, "ScheduleOwnedElsewhere")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SET LOCAL lock_timeout = '7s'`
            yield* refusal(sync)
            assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
            yield* Catalog.sync(Catalog.make({ jobs: [A] }))
            assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
          })
        )
        assert.isTrue(Option.isNone(yield* JobDefinitions.get(B.jobType)))
        // a schedule that is out of the scope and active keeps its type
        const scope = { jobTypes: [A.jobType, B.jobType], schedules: { owner } }
        const kept = yield* refusal(Catalog.sync(Catalog.make({ jobs: [B] }), { exact: scope }))
        assert.deepInclude({ ...kept }, { _tag: "ActiveScheduleExists", jobType: A.jobType })
        assert.isTrue(Option.isNone(yield* JobDefinitions.get(B.jobType)))
      })
  )

  it.effect("refuses what it does not cover, and bad settings, before anything is sent", () =>
    Effect.gen(function* () {
      const { A, B, name, owner } = fresh()
      const catalog = Catalog.make({
        jobs: [A, B],
        schedules: [JobSchedules.schedule(name, A, { to: "x" }, { cron })]
      })
      const codeOf = (options: Catalog.CatalogSyncOptions, of: Catalog.Catalog = catalog) =>
        Effect.map(refusal(Catalog.sync(of, options)), ({ code }) => code)
      const invalid = "job.invalid_argument"
      const outside = "catalog.outside_scope"
      assert.strictEqual(yield* codeOf({ exact: { jobTypes: [A.jobType] } }), outside)
      assert.strictEqual(yield* codeOf({ exact: { schedules: { names: ["other"] } } }), outside)
      assert.strictEqual(yield* codeOf({ exact: { jobTypes: [] } }), "job_definition.empty_job_type_list")
      const none = Catalog.make({ jobs: [] })
      assert.strictEqual(yield* codeOf({ exact: { jobTypes: ["x"] } }, none), "job_definition.empty_job_type_list")
      assert.strictEqual(yield* codeOf({ owner, exact: { schedules: { owner } } }), invalid)
      assert.strictEqual(yield* codeOf({ owner: " " }), invalid)
      assert.strictEqual(yield* codeOf({}, Catalog.make({ jobs: [A, A] })), "catalog.duplicate_job_type")
      assert.isTrue(Option.isNone(yield* JobDefinitions.get(A.jobType)))
    })
  )

  it.effect("two processes that start at once agree: one inserts, the other finds it", () =>
    Effect.gen(function* () {
      const { A, B, name, owner } = fresh()
      const catalog = Catalog.make({
        jobs: [A, B],
        schedules: [JobSchedules.schedule(name, A, { to: "ops" }, { cron })]
      })
      const sync = Catalog.sync(catalog, { exact: { jobTypes: [A.jobType, B.jobType], schedules: { owner } } })
      const finish = yield* standing(sync)
      const fiber = yield* Effect.forkScoped(sync)
      yield* waiting(1)
      yield* finish
      const { definitions, schedules } = yield* Fiber.join(fiber)
      assert.deepStrictEqual(definitions.unchanged, [A.jobType, B.jobType])
      assert.deepStrictEqual([schedules.unchanged, schedules.inserted], [[name], []])
    })
  )

  it.effect("the layer syncs when it is built, logs what it changed, and provides it", () =>
    Effect.gen(function* () {
      const { A, name } = fresh()
      const catalog = Catalog.make({ jobs: [A], schedules: [JobSchedules.schedule(name, A, { to: "x" }, { cron })] })
      const lines: Array<string> = []
      const logger = Logger.make(({ logLevel, message, fiber }) => {
        lines.push(`${logLevel} ${String(message)} ${JSON.stringify(fiber.getRef(References.CurrentLogAnnotations))}`)
      })
      const start = (of: Catalog.Catalog) =>
        Catalog.Synced.pipe(
          Effect.provide(Catalog.layer(of)),
          Effect.provide(Logger.layer([logger])),
          Effect.provideService(References.MinimumLogLevel, "Debug")
        )
      assert.deepStrictEqual((yield* start(catalog)).schedules.inserted, [name])
      assert.match(lines.at(-1) ?? "", new RegExp(`^Info .*stored.*"definitions.inserted":"${A.jobType}"`))
      yield* start(catalog)
      assert.match(lines.at(-1) ?? "", /^Debug .*as it is stored: 1 definitions, 1 schedules/)
      yield* JobDefinitions.upsert(A.jobType, { version: 9 })
      yield* start(catalog)
      assert.match(lines.at(-1) ?? "", new RegExp(`^Warn .*newer version.*${A.jobType}`))
      const failed = yield* Effect.exit(start(Catalog.make({ jobs: [A, A] })))
      assert.isTrue(Exit.isFailure(failed))
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Before a deployment
// ---------------------------------------------------------------------------------------------------------------------

const startOver = SqlClient.use((sql) =>
  Effect.andThen(
    sql`UPDATE runledger.job_schedules SET is_active = false`,
    sql`
      TRUNCATE
        runledger.job_queue, runledger.job_enqueue_intents, runledger.workflow_runs, runledger.workflow_steps,
        runledger.workflow_step_dependencies
      CASCADE`
  )
)

/** The contract that is about to ship: version 3, which still reads 2. */
const Ships = Job.make("check.ships", {
  payload: { to: Schema.String },
  version: 3,
  older: { 2: Schema.Struct({ to: Schema.String }) }
})

const brief = ({ verdict, findings, cut }: Catalog.CatalogCheckReport) => ({
  verdict,
  cut,
  findings: findings.map(
    ({ work, problem, jobType, payloadVersion, count, isAtLeast }) =>
      `${work} ${problem} ${jobType} ${payloadVersion} ${count}${isAtLeast ? "+" : ""}`
  )
})

const look = (options?: Catalog.CatalogCheckOptions) =>
  Effect.map(Catalog.check(Catalog.make({ jobs: [Ships] }), options), brief)

const good = { to: "ops" }

/** In each place: work of a type that is gone, and of versions 1 to 4. */
const everywhere = Effect.gen(function* () {
  yield* startOver
  yield* JobDefinitions.upsert("check.ships")
  yield* JobDefinitions.upsert("check.gone")
  yield* JobDefinitions.upsert("check.first")
  const versions = [
    { jobType: "check.gone", payloadVersion: 1 },
    ...[1, 2, 3, 4].map((payloadVersion) => ({ jobType: "check.ships", payloadVersion }))
  ]
  // leased first, then those that wait
  yield* Jobs.enqueueMany(versions.map((of) => ({ ...of, payload: good })))
  yield* Jobs.claim({
    workerId: "w",
    types: ["check.ships", "check.gone"].map((jobType) => ({ jobType, maxPayloadVersion: 9 })),
    limit: 10
  })
  yield* Jobs.enqueueMany([...versions, ...versions].map((of) => ({ ...of, payload: good })))
  yield* JobIntents.recordMany(versions.map((of, n) => ({ ...of, payload: good, idempotencyKey: `${n}` })))
  for (const of of versions) {
    yield* JobSchedules.upsert({ ...of, name: unique("check"), payload: good, cron })
  }
  yield* Workflows.enqueue({
    workflowType: "check",
    steps: [
      { stepKey: "first", executionKind: "EXTERNAL", payload: null },
      ...versions.map((of, n) => ({ ...of, stepKey: `${n}`, payload: good, dependencies: [{ stepKey: "first" }] }))
    ]
  })
})

const each = (work: string, count: number) => [
  `${work} unknownType check.gone 1 ${count}`,
  `${work} unsupportedVersion check.ships 1 ${count}`,
  `${work} newerVersion check.ships 4 ${count}`
]

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Catalog.check", (it) => {
  it.effect("nothing waits: ok", () =>
    Effect.gen(function* () {
      yield* startOver
      assert.deepStrictEqual(yield* look({ sample: 10 }), { verdict: "ok", cut: [], findings: [] })
    })
  )

  it.effect("counts what the code cannot do, by place, type and version", () =>
    Effect.gen(function* () {
      yield* everywhere
      const findings = [
        ...each("pending", 2),
        ...each("leased", 1),
        ...each("blockedSteps", 1),
        ...each("schedules", 1),
        ...each("intents", 1)
      ]
      assert.deepStrictEqual(yield* look({ sample: 10 }), { verdict: "blocked", cut: [], findings })
      const gone = yield* look({ elsewhere: ["check.gone"] })
      assert.deepStrictEqual(
        gone.findings,
        findings.filter((finding) => !finding.includes("gone"))
      )
      assert.strictEqual((yield* look({ elsewhere: ["check.gone", "check.ships"] })).verdict, "ok")
    })
  )

  it.effect("what has ended, is paused or was promoted does not count", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* everywhere
      yield* sql`UPDATE runledger.job_queue SET status = 'SUCCEEDED'`
      yield* sql`UPDATE runledger.job_schedules SET is_active = false`
      yield* sql`UPDATE runledger.workflow_steps SET status = 'CANCELED'`
      yield* sql`DELETE FROM runledger.job_enqueue_intents`
      assert.deepStrictEqual(yield* look(), { verdict: "ok", cut: [], findings: [] })
    })
  )

  it.effect("a sample of the payloads is decoded, in each place, and ids are named", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* everywhere
      yield* sql`UPDATE runledger.job_queue SET payload = '{"to": 1}' WHERE payload_version = 2`
      yield* sql`UPDATE runledger.workflow_steps SET payload = '7' WHERE payload_version = 3`
      yield* sql`UPDATE runledger.job_schedules SET payload_template = '{}' WHERE payload_version = 3`
      yield* sql`UPDATE runledger.job_enqueue_intents SET payload = 'null' WHERE payload_version = 2`
      const undecodable = (findings: ReadonlyArray<string>) => findings.filter((one) => one.includes("undecodable"))
      assert.deepStrictEqual(undecodable((yield* look()).findings), [])
      assert.deepStrictEqual(undecodable((yield* look({ sample: 10 })).findings), [
        "pending undecodable check.ships 2 2+",
        "leased undecodable check.ships 2 1+",
        "blockedSteps undecodable check.ships 3 1+",
        "schedules undecodable check.ships 3 1+",
        "intents undecodable check.ships 2 1+"
      ])
      assert.include((yield* look({ sample: 1 })).findings, "pending undecodable check.ships 2 1+")
      const { findings } = yield* Catalog.check(Catalog.make({ jobs: [Ships] }), { sample: 10 })
      const found = findings.find(({ problem, work }) => problem === "undecodable" && work === "pending")
      const broken = yield* sql<{ id: string }>`
        SELECT id FROM runledger.job_queue WHERE status = 'PENDING' AND payload_version = 2 ORDER BY id`
      assert.deepStrictEqual(
        [...(found?.ids ?? [])].sort(),
        broken.map(({ id }) => id)
      )
    })
  )

  it.effect("counting stops at the limit, and says so; what could not be looked at is no ok", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("check.gone")
      yield* Jobs.enqueueMany(Array.from({ length: 20 }, () => ({ jobType: "check.gone", payload: 1 })))
      assert.deepStrictEqual((yield* look({ limit: 7 })).findings, ["pending unknownType check.gone 1 7+"])
      assert.deepStrictEqual((yield* look({ limit: 20 })).findings, ["pending unknownType check.gone 1 20"])
      const [finding] = (yield* Catalog.check(Catalog.make({ jobs: [Ships] }))).findings
      assert.strictEqual(finding?.ids.length, 10)
      yield* Jobs.claim({ workerId: "w", types: ["check.gone"], limit: 20 })
      assert.deepStrictEqual(yield* look({ limit: 7, elsewhere: ["check.gone"] }), {
        verdict: "incomplete",
        cut: ["leased"],
        findings: []
      })
    })
  )

  it.effect("refuses bad input and a catalogue that contradicts itself", () =>
    Effect.gen(function* () {
      for (const options of [{ limit: 0 }, { limit: 1.5 }, { limit: 1_000_001 }, { sample: -1 }, { sample: 1001 }]) {
        assert.strictEqual((yield* refusal(Catalog.check(Catalog.make({ jobs: [] }), options)))._tag, "InvalidArgument")
      }
      const twice = yield* refusal(Catalog.check(Catalog.make({ jobs: [Ships, Ships] })))
      assert.strictEqual(twice.code, "catalog.duplicate_job_type")
    })
  )

  it.effect("its plans do not depend on how much waits or has ended", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* startOver
      const statuses = ["SUCCEEDED", "PENDING"]
      for (const status of statuses) {
        yield* sql.unsafe(`
          INSERT INTO runledger.job_queue (job_type, payload, status, max_attempts, next_run_at, created_at, updated_at)
          SELECT 'check.' || CASE WHEN n % 2 = 0 THEN 'ships' ELSE 'gone' END, '{}', '${status}', 1, t, t, t
          FROM generate_series(1, 60000) n, LATERAL (SELECT clock_timestamp()) c (t)`).unprepared
      }
      yield* sql.unsafe(`
        INSERT INTO runledger.workflow_steps (
          workflow_run_id, step_key, job_type, priority, max_attempts, timeout_seconds, stage, created_at, updated_at
        )
        SELECT runledger.uuidv7(), 'a', 'check.gone', 0, 1, 1, 'queued', t, t
        FROM generate_series(1, 20000) n, LATERAL (SELECT clock_timestamp()) c (t)`).unprepared
      yield* Effect.forEach(
        ["job_queue", "workflow_steps", "workflow_runs"],
        (table) => sql.unsafe(`VACUUM (ANALYZE) runledger.${table}`).unprepared
      )
      const statements = yield* record(Catalog.check(Catalog.make({ jobs: [Ships] }), { limit: 100 }))
      assert.isAtLeast(statements.length, 5)
      for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
        for (const statement of statements) {
          const plan = yield* rollback(
            Effect.gen(function* () {
              yield* planWith(mode)
              yield* sql`SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`
              const { explain } = yield* prepare(statement)
              return yield* explain(statement.parameters)
            })
          )
          assert.deepStrictEqual(plan.scanned, [], statement.text)
          assert.isBelow(plan.buffers, 600, statement.text)
        }
      }
      yield* startOver
    })
  )
})

const mutants: ReadonlyArray<readonly [title: string, MutatedSqlClient.Edit]> = [
  [
    "versions are passed over",
    {
      statement: "RECURSIVE lanes",
      search: "(q.job_type, q.payload_version) > (l.job_type, l.payload_version)",
      replace: "q.job_type > l.job_type"
    }
  ],
  ["paused schedules count", { statement: "ORDER BY due_at", search: "WHERE is_active", replace: "" }],
  ["released steps count", { statement: "is_blocked", search: "status = 'BLOCKED' AND", replace: "" }],
  ["all intents count", { statement: "unnest(", search: "i.status = 'PENDING' AND", replace: "" }]
]

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Catalog.check: broken variants", (it) => {
  const ask = Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* MutatedSqlClient.unchanged(everywhere)
    const first = yield* look()
    yield* MutatedSqlClient.unchanged(
      Effect.gen(function* () {
        yield* sql`UPDATE runledger.job_schedules SET is_active = false`
        yield* sql`UPDATE runledger.workflow_steps SET status = 'CANCELED'`
        yield* sql`
          UPDATE runledger.job_enqueue_intents SET
            status = 'PROMOTED', promotion_attempts = 1, last_attempted_at = created_at, promoted_at = created_at,
            promoted_job_id = runledger.uuidv7()
          WHERE payload_version = 4 OR job_type = 'check.gone'`
      })
    )
    return [first, yield* look()]
  })
  it.effect.each(mutants.map(([title, edit]) => ({ title, edit })))("are noticed: $title", ({ edit }) =>
    Effect.gen(function* () {
      const expected = yield* MutatedSqlClient.unchanged(ask)
      const statements = yield* MutatedSqlClient.Statements
      const told = yield* Effect.exit(ask)
      assert.isTrue(statements.applied().has(edit), "the edit applies")
      assert.isTrue(Exit.isFailure(told) || JSON.stringify(told.value) !== JSON.stringify(expected))
    }).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
  )
})
