import { assert, expectTypeOf, it } from "@effect/vitest"
import { type Config, ConfigProvider, type Duration, Effect, Layer, Logger, Metric, Schema, Tracer } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer } from "effect/sql/Statement"
import { TestClock } from "effect/testing"
import {
  IntentPromoter,
  type InvalidArgument,
  Job,
  JobDefinitions,
  JobIntents,
  Jobs,
  QueryError,
  TenantScope
} from "../src/index.ts"
import { sleepLive } from "../src/internal/busy.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin } = TenantScope

let types = 0
const newType = () => `promoter.${++types}`

const recorded = (type: string, count: number) =>
  JobIntents.recordMany(
    Array.from({ length: count }, (_, n) => ({ jobType: type, payload: n, idempotencyKey: `${type}:${n}` }))
  )

const jobs = (jobType: string) => Jobs.count({ scope: admin, jobType })

/** What is logged. */
const observed = Effect.sync(() => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  const start = (options: IntentPromoter.IntentPromoterOptions) =>
    Layer.build(Layer.fresh(IntentPromoter.layer(options))).pipe(Effect.provide(Logger.layer([logger])))
  return { lines, start }
})

/** Asks again until it is true, without moving the clock. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.repeat(
    Effect.tap(condition, () => sleepLive(2)),
    { until: (yes) => yes }
  )

/** Moves the clock on, as often as it takes: whoever is to sleep may not do so yet. */
const adjustUntil = <E, R>(step: Duration.Input, condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.tap((yes) => (yes ? Effect.void : Effect.andThen(TestClock.adjust(step), sleepLive(5)))),
    Effect.repeat({ until: (yes) => yes })
  )

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("IntentPromoter", (it) => {
  it.effect("promotes at once what is there, and later what becomes eligible", () =>
    Effect.gen(function* () {
      const { start } = yield* observed
      class Import extends Job.make(newType(), { payload: Schema.Number }) {}
      const [later, unserved] = [newType(), newType()]
      for (const type of [Import.jobType, unserved]) yield* JobDefinitions.upsert(type)
      for (const type of [Import.jobType, later, unserved]) yield* recorded(type, 2)
      yield* start({ jobs: [Import], types: [later, later] })
      yield* until(Effect.map(jobs(Import.jobType), (count) => count === 2))
      yield* JobDefinitions.upsert(later)
      yield* adjustUntil(
        "600 millis",
        Effect.map(jobs(later), (count) => count === 2)
      )
      assert.strictEqual(yield* jobs(unserved), 0)
    })
  )

  it.effect("a full batch is followed by the next at once, and what became of the intents is counted", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lines, start } = yield* observed
      const type = newType()
      yield* JobDefinitions.upsert(type)
      yield* Jobs.enqueue(type, 0, { idempotencyKey: `${type}:0` })
      yield* Jobs.enqueue(type, -1, { idempotencyKey: `${type}:1` })
      yield* recorded(type, 24)
      yield* sql`
        UPDATE runledger.job_enqueue_intents SET enqueue_request = '{}' WHERE idempotency_key = ${`${type}:23`}`
      // the clock stands still
      yield* start({ types: [type], batchSize: 4, pollInterval: "1 hour" })
      yield* until(Effect.map(jobs(type), (count) => count === 23))
      const count = (outcome: string) =>
        Effect.map(
          Metric.value(Metric.withAttributes(IntentPromoter.intentsPromoted, { outcome })),
          ({ count }) => count
        )
      yield* until(Effect.map(count("inserted"), (inserted) => inserted === 21))
      assert.strictEqual(yield* count("existing"), 1)
      assert.strictEqual(yield* count("conflicted"), 1)
      yield* until(Effect.map(count("deferred"), (deferred) => deferred === 1))
      assert.strictEqual(lines.filter((line) => line === "Warn: 1 intents could not be enqueued").length, 2)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("waits after a full batch of nothing but intents that stay as they are", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lines, start } = yield* observed
      const type = newType()
      yield* JobDefinitions.upsert(type)
      yield* recorded(type, 2)
      yield* sql`CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`
      yield* sql.unsafe(`CREATE TRIGGER swallow BEFORE UPDATE ON runledger.job_enqueue_intents FOR EACH ROW
        WHEN (OLD.job_type = '${type}') EXECUTE FUNCTION public.swallow()`)
      yield* start({ types: [type], batchSize: 2, pollInterval: "1 minute" })
      const passes = () => lines.filter((line) => line === "Warn: 2 intents could not be enqueued").length
      yield* until(Effect.sync(() => passes() > 0))
      // time for several passes
      yield* Effect.repeat(sql`SELECT 1`, { times: 100 })
      assert.strictEqual(passes(), 1)
      yield* sql`DROP TRIGGER swallow ON runledger.job_enqueue_intents`
      yield* adjustUntil(
        "72 seconds",
        Effect.map(jobs(type), (count) => count === 2)
      )
    })
  )

  it.effect("several promoters promote each intent once", () =>
    Effect.gen(function* () {
      const { start } = yield* observed
      const type = newType()
      yield* JobDefinitions.upsert(type)
      yield* recorded(type, 300)
      for (const batchSize of [1, 3, 7, 16, 50]) yield* start({ types: [type], batchSize, pollInterval: 1 })
      yield* adjustUntil(
        2,
        Effect.map(JobIntents.list({ scope: admin, jobType: type, status: "PENDING" }), (left) => left.length === 0)
      )
      assert.strictEqual(yield* jobs(type), 300)
      const intents = yield* JobIntents.list({ scope: admin, jobType: type, limit: 1000 })
      assert.isTrue(intents.every(({ status, promotionAttempts }) => status === "PROMOTED" && promotionAttempts === 1))
      const links = yield* SqlClient.use(
        (sql) => sql`
          SELECT FROM runledger.job_enqueue_intents n JOIN runledger.job_queue q ON q.id = n.promoted_job_id
          WHERE n.job_type = ${type} AND q.idempotency_key = n.idempotency_key`
      )
      assert.strictEqual(links.length, 300)
    })
  )

  it.effect("its polls make no spans", () =>
    Effect.gen(function* () {
      const spans: Array<string> = []
      const tracer = Tracer.make({
        span: (options) => {
          spans.push(options.name)
          return new Tracer.NativeSpan(options)
        }
      })
      const { start } = yield* observed
      const type = newType()
      yield* JobDefinitions.upsert(type)
      yield* recorded(type, 1)
      yield* Effect.withTracer(start({ types: [type] }), tracer)
      yield* until(Effect.map(jobs(type), (count) => count === 1))
      assert.deepStrictEqual(
        spans.filter((name) => name.startsWith("Job")),
        []
      )
    })
  )

  it.effect("refuses options that make no sense", () =>
    Effect.gen(function* () {
      const types = ["t"]
      const cases: ReadonlyArray<readonly [argument: string, options: IntentPromoter.IntentPromoterOptions]> = [
        ["types", {}],
        ["types", { jobs: [], types: [] }],
        ["types", { types: [" "] }],
        ["types", { types: ["x".repeat(129)] }],
        ["types", { types: Array.from({ length: 1001 }, (_, n) => `t${n}`) }],
        ["pollInterval", { types, pollInterval: 0 }],
        ["pollInterval", { types, pollInterval: "-1 second" }],
        ["pollInterval", { types, pollInterval: "Infinity" }],
        ["pollInterval", { types, pollInterval: "30 days" }],
        ["batchSize", { types, batchSize: 0 }],
        ["batchSize", { types, batchSize: 1001 }],
        ["batchSize", { types, batchSize: 1.5 }],
        ["batchSize", { types, batchSize: Number.NaN }]
      ]
      for (const [argument, options] of cases) {
        const error = yield* Effect.flip(Layer.build(IntentPromoter.layer(options)))
        assert.instanceOf(error, QueryError)
        assert.strictEqual(error.operation, "IntentPromoter.layer")
        assert.strictEqual(error.reason._tag, "InvalidArgument")
        assert.strictEqual(error.reason.argument, argument)
      }
      yield* Layer.build(IntentPromoter.layer({ types, pollInterval: 1, batchSize: 1000 }))
      expectTypeOf(IntentPromoter.layer({ types })).toEqualTypeOf<
        Layer.Layer<never, QueryError<InvalidArgument>, SqlClient>
      >()
      expectTypeOf(IntentPromoter.layerConfig({ types })).toEqualTypeOf<
        Layer.Layer<never, QueryError<InvalidArgument> | Config.ConfigError, SqlClient>
      >()
    })
  )

  it.effect("layerConfig: variables are the settings that are not given; a bad one is not replaced", () =>
    Effect.gen(function* () {
      const build = (env: Record<string, string>, options: Partial<IntentPromoter.IntentPromoterOptions> = {}) =>
        Layer.build(Layer.fresh(IntentPromoter.layerConfig({ types: ["t"], ...options }))).pipe(
          Effect.scoped,
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
        )
      const refused = (env: Record<string, string>) =>
        Effect.map(Effect.flip(build(env)), (error) =>
          error._tag === "QueryError" ? error.reason.argument : error._tag
        )
      for (const millis of ["0", "-1", "2147483648"]) {
        assert.strictEqual(yield* refused({ JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS: millis }), "pollInterval")
      }
      for (const size of ["0", "1001"]) {
        assert.strictEqual(yield* refused({ JOBS_INTENT_PROMOTER_BATCH_SIZE: size }), "batchSize")
      }
      for (const unparsed of ["soon", "1.5"]) {
        assert.strictEqual(yield* refused({ JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS: unparsed }), "ConfigError")
        assert.strictEqual(yield* refused({ JOBS_INTENT_PROMOTER_BATCH_SIZE: unparsed }), "ConfigError")
      }
      yield* build({ JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS: "1", JOBS_INTENT_PROMOTER_BATCH_SIZE: "1000" })
      // what is given is not read
      yield* build(
        { JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS: "soon", JOBS_INTENT_PROMOTER_BATCH_SIZE: "0" },
        { pollInterval: 1, batchSize: 1 }
      )
    })
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)), { timeout: "60 seconds" })(
  "IntentPromoter of a database that fails",
  (it) => {
    it.effect("warns, waits longer and longer, and goes on", () =>
      Effect.gen(function* () {
        const faults = yield* FaultySqlClient.Faults
        const { lines, start } = yield* observed
        const type = newType()
        yield* JobDefinitions.upsert(type)
        yield* recorded(type, 1)
        const { failBefore, dropConnection, sqlState } = FaultySqlClient
        const isLook = /is_any_eligible/
        yield* faults.arm([
          { match: isLook, nth: 1, fault: failBefore() },
          { match: isLook, nth: 2, fault: failBefore(sqlState("57P01")) },
          { match: /UPDATE runledger\.job_enqueue_intents/, nth: 1, fault: dropConnection("after") },
          { match: "COMMIT", nth: 1, fault: failBefore() }
        ])
        yield* start({ types: [type], pollInterval: 1 })
        const warnings = () =>
          lines.filter((line) => line === "Warn: Promoting intents failed and is tried again").length
        for (let failures = 1; failures <= 4; failures++) {
          yield* until(Effect.sync(() => warnings() === failures))
          // not before 0.8 of the pause
          yield* TestClock.adjust(0.79 * 1000 * 2 ** (failures - 1))
          yield* sleepLive(20)
          assert.strictEqual(warnings(), failures)
          assert.strictEqual(yield* jobs(type), 0)
          yield* TestClock.adjust(0.42 * 1000 * 2 ** (failures - 1))
        }
        yield* until(Effect.map(jobs(type), (count) => count === 1))
        yield* faults.disarm
      })
    )
  }
)

it.live("a promotion notifies those who listen, as an enqueue does", () =>
  Effect.gen(function* () {
    const type = newType()
    yield* JobDefinitions.upsert(type)
    yield* recorded(type, 1)
    const notified: Array<string> = []
    yield* JobIntents.promote({ types: [type], limit: 1 }).pipe(
      Effect.provideService(CurrentTransformer, (statement) => {
        const [text, parameters] = statement.compile(true)
        if (text.includes("pg_notify")) notified.push(String(parameters[1]))
        return Effect.succeed(statement)
      })
    )
    yield* until(Effect.sync(() => notified.length > 0))
    assert.deepStrictEqual(notified, [type])
  }).pipe(Effect.provide(TestDatabase.layer))
)
