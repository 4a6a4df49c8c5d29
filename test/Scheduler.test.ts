import { assert, it } from "@effect/vitest"
import { ConfigProvider, DateTime, type Duration, Effect, Layer, Logger, Metric, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { sleepLive } from "../src/internal/busy.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as Notifications from "../src/Notifications.ts"
import { QueryError } from "../src/QueryError.ts"
import * as Scheduler from "../src/Scheduler.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { jobsOf, make, makeType, silence, stored, unique, utc } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const past = utc("2026-01-01T02:00:00Z")

/** What a scheduler logs. */
const observed = Effect.sync(() => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  const start = (options: Scheduler.SchedulerOptions = {}) =>
    Layer.build(Layer.fresh(Scheduler.layer(options))).pipe(Effect.provide(Logger.layer([logger])))
  return { lines, start }
})

/** Moves the clock on, as often as it takes: whoever is to sleep may not do so yet. */
const adjustUntil = <E, R>(step: Duration.Input, condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.tap((yes) => (yes ? Effect.void : Effect.andThen(TestClock.adjust(step), sleepLive(5)))),
    Effect.repeat({ until: (yes) => yes })
  )

/** Until there are so many jobs, without moving the clock. */
const until = (jobType: string, count: number) =>
  Effect.repeat(Effect.andThen(sleepLive(2), jobsOf(jobType)), { until: (jobs) => jobs.length >= count })

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("Scheduler", (it) => {
  it.effect("fires what is due at once, and then each schedule when it is due, not when the interval is over", () =>
    Effect.gen(function* () {
      yield* silence
      const { lines, start } = yield* observed
      const { name, jobType } = yield* make({ cron: "*/5 * * * * *", nextFireAt: past })
      yield* start({ interval: "1 hour" })
      yield* until(jobType, 1)
      for (let fires = 2; fires <= 4; fires++) {
        // the job is there before the schedule has moved, to those who do not look
        const { nextFireAt } = yield* Effect.repeat(stored(name), {
          until: ({ nextFireAt, lastFiredAt }) => Option.isSome(lastFiredAt) && nextFireAt !== past
        })
        const now = yield* DateTime.now
        yield* adjustUntil(
          Math.max(1, nextFireAt.epochMilliseconds - now.epochMilliseconds),
          Effect.map(jobsOf(jobType), ({ length }) => length >= fires)
        )
      }
      const times = (yield* jobsOf(jobType)).map(({ idempotency_key }) => idempotency_key)
      assert.strictEqual(new Set(times).size, times.length)
      assert.include(lines, "Info: Fired 1 schedules")
    })
  )

  it.effect("sees what was created meanwhile after the interval", () =>
    Effect.gen(function* () {
      yield* silence
      const { start } = yield* observed
      yield* start({ interval: "30 seconds" })
      yield* TestClock.adjust("1 second")
      const { jobType } = yield* make({ nextFireAt: past })
      yield* adjustUntil(
        "36 seconds",
        Effect.map(jobsOf(jobType), ({ length }) => length === 1)
      )
    })
  )

  it.effect("takes one batch after the other without a pause, and counts what it does", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* silence
      const { lines, start } = yield* observed
      const jobType = yield* makeType
      yield* JobSchedules.sync(
        Array.from({ length: 23 }, () => ({ name: unique("batch"), jobType, cron: "0 * * * *", nextFireAt: past }))
      )
      const bad = yield* make({ nextFireAt: past })
      yield* sql`UPDATE runledger.job_schedules SET timezone = 'Mars/Olympus' WHERE id = ${bad.id}::uuid`
      yield* start({ interval: "1 hour", limit: 5 })
      yield* until(jobType, 23)
      yield* Effect.repeat(sleepLive(2), { until: () => lines.some((line) => line.startsWith("Warn")) })
      const count = <A extends Metric.Metric<number, Metric.CounterState<number>>>(metric: A) =>
        Effect.map(Metric.value(metric), (state) => state.count)
      assert.strictEqual(yield* count(Metric.withAttributes(Scheduler.schedulesFired, { disposition: "inserted" })), 23)
      assert.strictEqual(
        yield* count(Metric.withAttributes(Scheduler.schedulesPostponed, { code: "job_schedule.invalid_timezone" })),
        1
      )
      assert.strictEqual(yield* count(Scheduler.firesMissed), 23 * 100)
      assert.include(lines, "Warn: Postponed 1 schedules that cannot fire")
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("broken schedules that fill a batch do not hold up the others", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* silence
      const { start } = yield* observed
      const jobType = yield* makeType
      const broken = yield* makeType
      yield* JobSchedules.sync(
        Array.from({ length: 12 }, () => ({
          name: unique("bad"),
          jobType: broken,
          cron: "0 * * * *",
          nextFireAt: past
        }))
      )
      yield* sql`UPDATE runledger.job_schedules SET cron_expr = 'x' WHERE job_type = ${broken}`
      yield* make({ jobType, nextFireAt: utc("2026-01-01T03:00:00Z") })
      yield* start({ interval: "1 hour", limit: 3 })
      yield* until(jobType, 1)
      assert.deepStrictEqual(yield* jobsOf(broken), [])
    })
  )

  it.effect("several schedulers fire each time once, while the clock goes on", () =>
    Effect.gen(function* () {
      yield* silence
      const { start } = yield* observed
      const jobType = yield* makeType
      yield* JobSchedules.sync(
        Array.from({ length: 10 }, () => ({
          name: unique("several"),
          jobType,
          cron: "* * * * * *",
          maxJitter: "3 seconds"
        }))
      )
      for (const limit of [2, 3, 100, 100]) yield* start({ interval: "1 second", limit })
      yield* adjustUntil(
        "1 second",
        Effect.map(jobsOf(jobType), ({ length }) => length >= 100)
      )
      const jobs = yield* jobsOf(jobType)
      assert.strictEqual(new Set(jobs.map(({ idempotency_key }) => idempotency_key)).size, jobs.length)
      yield* silence
    })
  )

  it.effect("refuses options that make no sense", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<readonly [argument: string, options: Scheduler.SchedulerOptions]> = [
        ["interval", { interval: 0 }],
        ["interval", { interval: "-1 second" }],
        ["interval", { interval: "Infinity" }],
        ["interval", { interval: "30 days" }],
        ["limit", { limit: 0 }],
        ["limit", { limit: 1001 }],
        ["limit", { limit: 1.5 }]
      ]
      for (const [argument, options] of cases) {
        const error = yield* Effect.flip(Layer.build(Scheduler.layer(options)))
        assert.instanceOf(error, QueryError)
        assert.strictEqual(error.operation, "Scheduler.layer")
        assert.strictEqual(error.reason.argument, argument)
      }
    })
  )

  it.effect("layerConfig: variables are the settings that are not given; a bad one is not replaced", () =>
    Effect.gen(function* () {
      const build = (env: Record<string, string>, options: Scheduler.SchedulerOptions = {}) =>
        Layer.build(Layer.fresh(Scheduler.layerConfig(options))).pipe(
          Effect.scoped,
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
        )
      const refused = (env: Record<string, string>) =>
        Effect.map(Effect.flip(build(env)), (error) =>
          error._tag === "QueryError" ? error.reason.argument : error._tag
        )
      for (const seconds of ["0", "-1", "2147484"]) {
        assert.strictEqual(yield* refused({ JOBS_SCHEDULE_POLL_INTERVAL_SECONDS: seconds }), "interval")
      }
      for (const size of ["0", "1001"]) {
        assert.strictEqual(yield* refused({ JOBS_CLAIM_BATCH_SIZE: size }), "limit")
      }
      assert.strictEqual(yield* refused({ JOBS_SCHEDULE_POLL_INTERVAL_SECONDS: "soon" }), "ConfigError")
      yield* build({ JOBS_SCHEDULE_POLL_INTERVAL_SECONDS: "1", JOBS_CLAIM_BATCH_SIZE: "1000" })
      // what is given is not read
      yield* build(
        { JOBS_SCHEDULE_POLL_INTERVAL_SECONDS: "soon", JOBS_CLAIM_BATCH_SIZE: "0" },
        { interval: 1, limit: 1 }
      )
    })
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)), { timeout: "60 seconds" })(
  "Scheduler of a database that fails",
  (it) => {
    const isFire = /AS upcoming/

    it.effect("warns, waits, and goes on", () =>
      Effect.gen(function* () {
        const faults = yield* FaultySqlClient.Faults
        const { lines, start } = yield* observed
        const { jobType } = yield* make({ nextFireAt: past })
        const { failBefore, dropConnection, sqlState } = FaultySqlClient
        yield* faults.arm([
          { match: isFire, nth: 1, fault: failBefore() },
          { match: isFire, nth: 2, times: 2, fault: failBefore(sqlState("57P01")) },
          { match: isFire, nth: 4, fault: dropConnection("after") }
        ])
        yield* start({ interval: "1 hour" })
        yield* adjustUntil(
          "36 seconds",
          Effect.map(jobsOf(jobType), ({ length }) => length === 1)
        )
        assert.strictEqual((yield* faults.injected).length, 4)
        assert.deepStrictEqual(
          lines.filter((line) => line.startsWith("Warn")),
          Array.from({ length: 4 }, () => "Warn: Firing schedules failed and is tried again")
        )
      }).pipe(Effect.provideService(Notifications.NotifyInterval, 0))
    )
  }
)
