import { assert, expectTypeOf, it } from "@effect/vitest"
import {
  ConfigProvider,
  Deferred,
  type Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  Metric,
  Option,
  Queue,
  Schema,
  Scope
} from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { sleepLive } from "../src/internal/busy.ts"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { QueryError } from "../src/QueryError.ts"
import * as Reaper from "../src/Reaper.ts"
import type { InvalidArgument } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

let types = 0

/** Jobs whose leases have run out, when the next statement begins. */
const expired = Effect.fnUntraced(function* (count: number, maxAttempts = 3, type = `reaped.${++types}`) {
  const { jobType } = yield* JobDefinitions.upsert(type)
  yield* Jobs.enqueueMany(Array.from({ length: count }, (_, n) => ({ jobType, payload: n, maxAttempts })))
  const claimed = yield* Jobs.claim({ workerId: "gone", types: [jobType], limit: count })
  assert.strictEqual(claimed.length, count)
  yield* Effect.forEach(claimed, ({ lease }) => Jobs.updateProgress(lease, { checkpoint: { by: "gone" } }))
  yield* Jobs.heartbeatMany(
    claimed.map(({ lease }) => lease),
    { extend: 1 }
  )
  yield* Effect.repeat(
    SqlClient.use(
      (sql) => sql`
      SELECT FROM runledger.job_queue
      WHERE job_type = ${jobType} AND status = 'LEASED' AND lease_expires_at > clock_timestamp()`
    ),
    { until: (left) => left.length === 0 }
  )
  return claimed.map(({ lease }) => lease.jobId)
})

/** What is logged, and where the reaped leases are told. */
const observed = Effect.gen(function* () {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  const told = yield* Queue.unbounded<Jobs.ReapedLease>()
  const start = <const Jobs extends ReadonlyArray<Job.AnyContract> = readonly []>(
    options: Reaper.ReaperOptions<Jobs> = {}
  ) =>
    Layer.build(Reaper.layer({ onReaped: (lease) => Effect.asVoid(Queue.offer(told, lease)), ...options })).pipe(
      Effect.provide(Logger.layer([logger]))
    )
  return { lines, told, start }
})

/** Moves the clock on, as often as it takes: whoever is to sleep may not do so yet. */
const adjustUntil = <E, R>(step: Duration.Input, condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.tap((yes) => (yes ? Effect.void : Effect.andThen(TestClock.adjust(step), sleepLive(5)))),
    Effect.repeat({ until: (yes) => yes })
  )

const takeN = <A>(queue: Queue.Dequeue<A>, count: number) => Effect.replicateEffect(Queue.take(queue), count)
const idsOf = (leases: ReadonlyArray<Jobs.ReapedLease>) => leases.map(({ jobId }) => jobId).sort()

const statusOf = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.get(TenantScope.admin, jobId), (job) => Option.getOrUndefined(job)?.status)

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Reaper", (it) => {
  it.effect("ends expired leases at once, and those that expire later in a later pass", () =>
    Effect.gen(function* () {
      const { lines, start, told } = yield* observed
      const [first] = yield* expired(1)
      yield* start({ interval: "1 minute" })
      const lease = yield* Queue.take(told)
      assert.strictEqual(lease.jobId, first)
      assert.strictEqual(lease.disposition._tag, "RetryScheduled")
      assert.strictEqual(yield* statusOf(lease.jobId), "PENDING")
      const second = yield* expired(2)
      yield* adjustUntil(
        "72 seconds",
        Effect.map(Queue.size(told), (size) => size === 2)
      )
      assert.deepStrictEqual(idsOf(yield* takeN(told, 2)), second)
      assert.include(lines, "Info: Ended 1 leases that had run out")
      assert.include(lines, "Info: Ended 2 leases that had run out")
    })
  )

  it.effect("takes one batch after the other without a pause, and counts what became of the jobs", () =>
    Effect.gen(function* () {
      const { start, told } = yield* observed
      const jobs = [...(yield* expired(20)), ...(yield* expired(5, 1))]
      yield* start({ limit: 10 })
      assert.deepStrictEqual(idsOf(yield* takeN(told, 25)), jobs.sort())
      const count = (disposition: string) =>
        Effect.map(Metric.value(Metric.withAttributes(Reaper.leasesReaped, { disposition })), ({ count }) => count)
      assert.strictEqual(yield* count("RetryScheduled"), 20)
      assert.strictEqual(yield* count("DeadLettered"), 5)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("several reapers end each lease once", () =>
    Effect.gen(function* () {
      const { start, told } = yield* observed
      const jobs = yield* expired(60)
      for (const limit of [3, 7, 20]) yield* start({ limit })
      assert.deepStrictEqual(idsOf(yield* takeN(told, 60)), jobs)
      assert.strictEqual(yield* Queue.size(told), 0)
    })
  )

  it.effect("callbacks that fail, die, throw or hang are logged and keep nobody from being told", () =>
    Effect.gen(function* () {
      const { lines, start, told } = yield* observed
      const jobs = yield* expired(30)
      const [failing, dying, throwing] = jobs
      const hanging = jobs.slice(3, 13)
      yield* start({
        limit: 5,
        onReaped: (lease) => {
          if (lease.jobId === failing) return Effect.fail("failed")
          if (lease.jobId === dying) return Effect.die("died")
          if (lease.jobId === throwing) throw new Error("threw")
          return hanging.includes(lease.jobId) ? Effect.never : Effect.asVoid(Queue.offer(told, lease))
        }
      })
      yield* adjustUntil(
        "10 seconds",
        Effect.map(Queue.size(told), (size) => size === 17)
      )
      assert.deepStrictEqual(idsOf(yield* takeN(told, 17)), jobs.slice(13))
      const warned = Effect.sync(() => lines.filter((line) => line === "Warn: onReaped failed").length === 13)
      yield* adjustUntil("10 seconds", warned)
    })
  )

  it.effect("goes on after a job that cannot be written", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lines, start, told } = yield* observed
      const [bad, ...good] = yield* expired(6)
      yield* sql.unsafe(`ALTER TABLE runledger.job_queue ADD CONSTRAINT refuse CHECK (id <> '${bad}') NOT VALID`)
      yield* start({ limit: 3, interval: "1 minute" })
      yield* adjustUntil(
        "72 seconds",
        Effect.map(Queue.size(told), (size) => size === 5)
      )
      assert.deepStrictEqual(idsOf(yield* takeN(told, 5)), good)
      assert.include(lines, "Warn: Postponed 1 leases that the database does not let us end")
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT refuse`
    })
  )

  it.effect("waits after a batch of nothing but jobs that cannot be written", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lines, start } = yield* observed
      const [bad] = yield* expired(1)
      yield* sql.unsafe(`ALTER TABLE runledger.job_queue ADD CONSTRAINT refuse CHECK (id <> '${bad}') NOT VALID`)
      yield* start({ limit: 1, interval: "1 minute" })
      const passes = () => lines.filter((line) => line.startsWith("Warn: Postponed 1")).length
      yield* Effect.repeat(sql`SELECT 1`, { until: () => passes() > 0 })
      // time for several passes
      yield* Effect.repeat(sql`SELECT 1`, { times: 100 })
      assert.strictEqual(passes(), 1)
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT refuse`
      yield* adjustUntil(
        "72 seconds",
        Effect.sync(() => lines.includes("Info: Ended 1 leases that had run out"))
      )
    })
  )

  it.effect("refuses options that make no sense", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [argument: string, options: Reaper.ReaperOptions]> = [
        ["interval", { interval: 0 }],
        ["interval", { interval: "-1 second" }],
        ["interval", { interval: "Infinity" }],
        ["interval", { interval: "30 days" }],
        ["limit", { limit: 0 }],
        ["limit", { limit: 1001 }],
        ["limit", { limit: 1.5 }],
        ["limit", { limit: Number.NaN }]
      ]
      for (const [argument, options] of cases) {
        const error = yield* Effect.flip(Layer.build(Reaper.layer(options)))
        assert.instanceOf(error, QueryError)
        assert.strictEqual(error.operation, "Reaper.layer")
        assert.strictEqual(error.reason._tag, "InvalidArgument")
        assert.strictEqual(error.reason.argument, argument)
      }
      yield* Layer.build(Reaper.layer({ interval: 1, limit: 1000 }))
    })
  )

  it.effect("layerConfig: variables are the settings that are not given; a bad one is not replaced", () =>
    Effect.gen(function* () {
      const build = (env: Record<string, string>, options: Reaper.ReaperOptions = {}) =>
        Layer.build(Layer.fresh(Reaper.layerConfig(options))).pipe(
          Effect.scoped,
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
        )
      const refused = (env: Record<string, string>) =>
        Effect.map(Effect.flip(build(env)), (error) =>
          error._tag === "QueryError" ? error.reason.argument : error._tag
        )
      for (const seconds of ["0", "-1", "2147484"]) {
        assert.strictEqual(yield* refused({ JOBS_REAPER_INTERVAL_SECONDS: seconds }), "interval")
      }
      for (const size of ["0", "1001"]) {
        assert.strictEqual(yield* refused({ JOBS_CLAIM_BATCH_SIZE: size }), "limit")
      }
      for (const unparsed of ["soon", "1.5"]) {
        assert.strictEqual(yield* refused({ JOBS_REAPER_INTERVAL_SECONDS: unparsed }), "ConfigError")
        assert.strictEqual(yield* refused({ JOBS_CLAIM_BATCH_SIZE: unparsed }), "ConfigError")
      }
      yield* build({ JOBS_REAPER_INTERVAL_SECONDS: "1", JOBS_CLAIM_BATCH_SIZE: "1000" })
      // what is given is not read
      yield* build({ JOBS_REAPER_INTERVAL_SECONDS: "soon", JOBS_CLAIM_BATCH_SIZE: "0" }, { interval: 1, limit: 1 })
    })
  )
})

class Buried extends Job.make("reaper.buried", { payload: Schema.Int }) {}
class Other extends Job.make("reaper.other", { payload: Schema.Int }) {}

/** What the hook of `Buried` is told; by itself it does no more than that. */
const hooked = Effect.fnUntraced(function* (hook: (letter: Job.DeadLetter) => Effect.Effect<void> = () => Effect.void) {
  const letters = yield* Queue.unbounded<Job.DeadLetter>()
  const handlers = Buried.toLayer(() => Effect.void, {
    onDeadLetter: (letter) => Effect.andThen(Queue.offer(letters, letter), hook(letter))
  })
  return { letters, handlers }
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Reaper with handlers", (it) => {
  it("requires the handlers of the jobs that it is given", () => {
    expectTypeOf(Reaper.layer()).toEqualTypeOf<Layer.Layer<never, QueryError<InvalidArgument>, SqlClient>>()
    expectTypeOf(Reaper.layer({ limit: 1 })).toEqualTypeOf<Layer.Layer<never, QueryError<InvalidArgument>, SqlClient>>()
    const both = Reaper.layer({ jobs: [Buried, Other] })
    expectTypeOf<Layer.Services<typeof both>>().toEqualTypeOf<
      SqlClient | Job.Handles<"reaper.buried"> | Job.Handles<"reaper.other">
    >()
  })

  it.effect("tells the handler of what it buries, and of nothing else", () =>
    Effect.gen(function* () {
      const { start, told } = yield* observed
      const { letters, handlers } = yield* hooked()
      const [jobId = ""] = yield* expired(1, 1, Buried.jobType)
      yield* expired(1, 2, Buried.jobType)
      yield* expired(1, 1, Other.jobType)
      yield* start({ jobs: [Buried] }).pipe(Effect.provide(handlers))
      assert.deepStrictEqual(yield* Queue.take(letters), {
        jobId,
        runNumber: 1,
        attempt: 1,
        payload: 0,
        checkpoint: { by: "gone" },
        reason: "LEASE_EXPIRED",
        code: "job.lease_expired",
        message: "The lease ran out"
      })
      yield* takeN(told, 3)
      assert.strictEqual(yield* Queue.size(letters), 0)
    })
  )

  it.effect("hooks that die, throw or hang are logged and keep nobody from being told", () =>
    Effect.gen(function* () {
      const { lines, start } = yield* observed
      // the one that throws is not noted
      const { letters, handlers } = yield* hooked(({ payload }) => {
        if (payload === 0) return Effect.die("died")
        if (payload === 1) throw new Error("threw")
        return typeof payload === "number" && payload < 12 ? Effect.never : Effect.void
      })
      yield* expired(20, 1, Buried.jobType)
      yield* start({ jobs: [Buried] }).pipe(Effect.provide(handlers))
      // small steps: a hook reads its job first, and its time runs meanwhile
      yield* adjustUntil(
        "250 millis",
        Effect.map(Queue.size(letters), (size) => size === 19)
      )
      yield* adjustUntil(
        "250 millis",
        Effect.sync(() => lines.filter((line) => line === "Warn: onDeadLetter failed").length === 12)
      )
    })
  )

  it.effect("lets hooks end that have begun when it is closed, and begins no more", () =>
    Effect.gen(function* () {
      const release = yield* Deferred.make<void>()
      let ended = 0
      const { letters, handlers } = yield* hooked(() =>
        Effect.andThen(
          Deferred.await(release),
          Effect.sync(() => void ended++)
        )
      )
      yield* expired(20, 1, Buried.jobType)
      const scope = yield* Scope.make()
      yield* Layer.buildWithScope(Layer.provide(Reaper.layer({ jobs: [Buried] }), handlers), scope)
      yield* takeN(letters, 8)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      assert.isUndefined(closing.pollUnsafe())
      yield* Deferred.succeed(release, undefined)
      yield* Fiber.await(closing)
      assert.strictEqual(ended, 8)
      assert.strictEqual(yield* Queue.size(letters), 0)
    })
  )

  it.effect("refuses a job that is given twice", () =>
    Effect.gen(function* () {
      const { handlers } = yield* hooked()
      const error = yield* Effect.flip(Layer.build(Layer.provide(Reaper.layer({ jobs: [Buried, Buried] }), handlers)))
      assert.instanceOf(error, QueryError)
      assert.strictEqual(error.reason._tag, "InvalidArgument")
      assert.strictEqual(error.reason.argument, "jobs")
    })
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)), { timeout: "60 seconds" })(
  "Reaper of a database that fails",
  (it) => {
    const isReap = /started_without_renewal/

    it.effect("warns, waits, and goes on", () =>
      Effect.gen(function* () {
        const faults = yield* FaultySqlClient.Faults
        const { lines, start, told } = yield* observed
        const jobs = yield* expired(1)
        const { failBefore, dropConnection, sqlState } = FaultySqlClient
        yield* faults.arm([
          { match: isReap, nth: 1, fault: failBefore() },
          { match: isReap, nth: 2, times: 2, fault: failBefore(sqlState("57P01")) },
          { match: isReap, nth: 4, fault: dropConnection("before") }
        ])
        yield* start({ interval: "1 hour" })
        yield* adjustUntil(
          "36 seconds",
          Effect.map(Queue.size(told), (size) => size === 1)
        )
        assert.deepStrictEqual(idsOf(yield* takeN(told, 1)), jobs)
        assert.strictEqual((yield* faults.injected).length, 4)
        // to connect again may fail too
        const warnings = lines.filter((line) => line.startsWith("Warn"))
        assert.isAtLeast(warnings.length, 4)
        assert.deepStrictEqual([...new Set(warnings)], ["Warn: Reaping failed and is tried again"])
      })
    )

    it.effect("asks less and less often while it fails", () =>
      Effect.gen(function* () {
        const faults = yield* FaultySqlClient.Faults
        const { start } = yield* observed
        yield* faults.clear
        yield* faults.arm([{ match: isReap, times: Number.POSITIVE_INFINITY, fault: FaultySqlClient.failBefore() }])
        yield* start({ interval: 1 })
        // pauses of 1, 2, 4, 8, 16, 30 seconds, give or take a fifth
        const steps: Array<number> = []
        for (let failures = 1; failures <= 7; failures++) {
          let waited = 0
          while ((yield* faults.injected).length < failures) {
            yield* TestClock.adjust(100)
            waited += 100
            yield* sleepLive(2)
          }
          steps.push(waited)
        }
        yield* faults.disarm
        assert.isAtLeast(
          steps.slice(1).reduce((sum, step) => sum + step, 0),
          0.8 * 61_000
        )
      })
    )
  }
)
