import { assert, it } from "@effect/vitest"
import { Effect, Exit, Layer, Logger, Metric, Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { Retention } from "../src/index.ts"
import { sleepLive } from "../src/internal/busy.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Given from "./support/retention.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { reasonOf } from "./support/workflows.ts"

const { census, startOver } = Given

const observed = Effect.gen(function* () {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  const start = (options: Retention.RetentionOptions) =>
    Layer.build(Retention.layer(options)).pipe(Effect.provide(Logger.layer([logger])))
  return { lines, start }
})

/** Moves the clock on, as often as it takes: whoever is to sleep may not do so yet. */
const adjustUntil = <E, R>(step: "1 second" | "1 minute", condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.tap((yes) => (yes ? Effect.void : Effect.andThen(TestClock.adjust(step), sleepLive(5)))),
    Effect.repeat({ until: (yes) => yes })
  )

const jobsLeft = Effect.map(census, ({ job_queue: jobs = 0 }) => jobs)
const isEmpty = Effect.map(jobsLeft, (jobs) => jobs === 0)

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)), { timeout: "60 seconds" })(
  "Retention.layer",
  (it) => {
    it.effect("makes a pass at once, batch by batch, and another after the interval; counts and tells", () =>
      Effect.gen(function* () {
        yield* startOver
        for (let n = 0; n < 5; n++) yield* Given.succeeded()
        const { lines, start } = yield* observed
        yield* start({ ages: { succeeded: 0 }, interval: "10 minutes", limit: 2 })
        yield* adjustUntil("1 second", isEmpty)
        const told = Effect.sync(() => lines.filter((line) => line === "Info: Deleted what is old").length)
        yield* adjustUntil(
          "1 second",
          Effect.map(told, (count) => count === 1)
        )
        yield* Given.succeeded()
        yield* TestClock.adjust("7 minutes")
        assert.strictEqual(yield* jobsLeft, 1)
        yield* adjustUntil("1 minute", isEmpty)
        yield* adjustUntil(
          "1 second",
          Effect.map(told, (count) => count === 2)
        )
        const { count } = yield* Metric.value(Metric.withAttributes(Retention.rowsDeleted, { table: "jobs" }))
        assert.strictEqual(count, 6)
      }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
    )

    it.effect("tells once a pass of what it could not delete, and goes on with the rest", () =>
      Effect.gen(function* () {
        yield* startOver
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE receipts (job uuid REFERENCES runledger.job_queue (id))`
        const needed = yield* Given.succeeded()
        yield* sql`INSERT INTO receipts VALUES (${needed}::uuid)`
        yield* Given.succeeded()
        const { lines, start } = yield* observed
        yield* start({ ages: { succeeded: 0 } })
        yield* adjustUntil(
          "1 second",
          Effect.sync(() => lines.includes("Warn: 1 jobs or runs could not be deleted"))
        )
        assert.strictEqual(yield* jobsLeft, 1)
        const { count } = yield* Metric.value(Metric.withAttributes(Retention.rowsSkipped, { kind: "job" }))
        assert.strictEqual(count, 1)
        yield* sql`DROP TABLE receipts`
      }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
    )

    it.effect("survives a database that fails, with longer and longer pauses", () =>
      Effect.gen(function* () {
        yield* startOver
        const faults = yield* FaultySqlClient.Faults
        yield* Given.succeeded()
        yield* faults.arm([{ match: /FOR UPDATE SKIP LOCKED/, times: 4, fault: FaultySqlClient.failBefore() }])
        const { lines, start } = yield* observed
        yield* start({ ages: { succeeded: 0 } })
        yield* adjustUntil("1 second", isEmpty)
        yield* faults.disarm
        const failed = lines.filter((line) => line === "Warn: Deleting what is old failed and is tried again")
        assert.strictEqual(failed.length, 4)
      })
    )

    it.effect("ends with its scope", () =>
      Effect.gen(function* () {
        yield* startOver
        const scope = yield* Scope.make()
        yield* Given.succeeded()
        const { start } = yield* observed
        yield* Scope.provide(start({ ages: { succeeded: 0 }, interval: "1 minute" }), scope)
        yield* adjustUntil("1 second", isEmpty)
        yield* Scope.close(scope, Exit.void)
        yield* Given.succeeded()
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* jobsLeft, 1)
      })
    )

    it.effect("settings are checked when it is built", () =>
      Effect.gen(function* () {
        const ages = { succeeded: 0 }
        const cases: ReadonlyArray<readonly [Retention.RetentionOptions, string]> = [
          [{ ages: {} }, "ages"],
          [{ ages: { runs: "Infinity" } }, "ages.runs"],
          [{ ages, interval: 0 }, "interval"],
          [{ ages, interval: "Infinity" }, "interval"],
          [{ ages, pause: "Infinity" }, "pause"],
          [{ ages, limit: 0 }, "limit"],
          [{ ages, limit: 1001 }, "limit"]
        ]
        for (const [options, argument] of cases) {
          const reason = yield* reasonOf(Effect.scoped(Layer.build(Retention.layer(options))))
          assert.deepInclude({ ...reason }, { _tag: "InvalidArgument", argument })
        }
      })
    )
  }
)
