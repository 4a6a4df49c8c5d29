import { assert, it } from "@effect/vitest"
import { Effect, Layer, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import * as Notifications from "../src/Notifications.ts"
import * as Reaper from "../src/Reaper.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Worker from "../src/Worker.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

class Idle extends Job.make("idle", { payload: { n: Schema.Int } }) {}

const IdleLive = Idle.toLayer(() => Effect.void)

/** Without the services that it requires: the client is the one that is counted. */
const worker = Layer.provide(Worker.layer({ jobs: [Idle] }), IdleLive)

const isClaim = /claimed AS/
/** Said once by what renews the leases, beside the first claim. */
const isStart = /^SET default_transaction_isolation/

/** Waits for `count` claims, forgets what was said before the first, and says how many milliseconds passed from the first to the last. */
const claims = Effect.fnUntraced(function* (count: number) {
  const faults = yield* FaultySqlClient.Faults
  const reached = (least: number) =>
    faults.count(isClaim).pipe(
      Effect.repeat({ until: (seen) => seen >= least, schedule: Schedule.spaced("5 millis") }),
      Effect.timeout("30 seconds"),
      Effect.map(() => performance.now())
    )
  const first = yield* reached(1)
  yield* faults.clear
  return (yield* reached(count - 1)) - first
})

const others = Effect.gen(function* () {
  const faults = yield* FaultySqlClient.Faults
  const statements = yield* faults.statements
  return statements.filter(({ sql }) => !isClaim.test(sql) && !isStart.test(sql)).map(({ sql }) => sql)
})

/** The connections of the worker's client, and of what listens for it; asked on another client. */
const connections = (database: string) =>
  SqlClient.use(
    (sql) => sql<{ listens: boolean }>`
      SELECT query LIKE 'LISTEN%' AS listens FROM pg_stat_activity
      WHERE datname = current_database() AND application_name = 'idle'`
  ).pipe(
    Effect.map((rows) => {
      const listening = rows.filter(({ listens }) => listens).length
      return { listening, pooled: rows.length - listening }
    }),
    Effect.provide(TestDatabase.client(database, { maxConnections: 1 }))
  )

const layer = (database: string) =>
  FaultySqlClient.layerPg().pipe(Layer.provideMerge(TestDatabase.client(database, { applicationName: "idle" })))

const idle = (body: (database: string) => Effect.Effect<void, unknown, Layer.Success<ReturnType<typeof layer>>>) =>
  Effect.gen(function* () {
    const database = yield* TestDatabase.create({ migrated: true })
    yield* Effect.provide(body(database), layer(database))
  })

it.live("an idle worker asks once per poll interval and says nothing else, on two connections", () =>
  idle((database) =>
    Effect.gen(function* () {
      yield* Effect.provide(
        Effect.gen(function* () {
          // by default 500 milliseconds, give or take a tenth; a machine that is slow makes them longer
          assert.isAtLeast(yield* claims(7), 6 * 440)
          assert.deepStrictEqual(yield* others, [])
          assert.deepStrictEqual(yield* connections(database), { listening: 0, pooled: 2 })
        }),
        Layer.fresh(worker)
      )
    })
  )
)

it.live("listening takes one connection more, and no statement", () =>
  idle((database) =>
    Effect.gen(function* () {
      yield* Effect.provide(
        Effect.gen(function* () {
          yield* connections(database).pipe(
            Effect.repeat({ until: ({ listening }) => listening === 1, schedule: Schedule.spaced("20 millis") }),
            Effect.timeout("20 seconds")
          )
          // one claim more: whoever begins to listen looks once
          assert.isAtLeast(yield* claims(7), 5 * 440)
          assert.deepStrictEqual(yield* others, [])
          assert.deepStrictEqual(yield* connections(database), { listening: 1, pooled: 2 })
        }),
        Layer.provide(Layer.fresh(worker), Notifications.layer)
      )
    })
  )
)

it.live("an idle reaper asks twice per interval, on no connection of its own", () =>
  idle((database) =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      yield* Effect.provide(
        Effect.gen(function* () {
          const reached = (count: number) =>
            faults.statements.pipe(
              Effect.repeat({ until: (seen) => seen.length >= count, schedule: Schedule.spaced("5 millis") }),
              Effect.timeout("30 seconds"),
              Effect.map(() => performance.now())
            )
          const began = yield* reached(1)
          assert.isAtLeast((yield* reached(12)) - began, 5 * 75)
          const statements = yield* faults.statements
          // for leases that ran out, and for the runs of those that belong to one
          assert.strictEqual(new Set(statements.map(({ sql }) => sql)).size, 2)
          assert.deepStrictEqual(yield* connections(database), { listening: 0, pooled: 1 })
        }),
        Reaper.layer({ interval: "100 millis" })
      )
    })
  )
)
