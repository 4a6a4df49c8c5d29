import { assert, describe, it } from "@effect/vitest"
import { Clock, DateTime, Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { StatementClock } from "../src/StatementClock.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const databaseName = SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database() AS name`).pipe(
  Effect.map(([row]) => row?.name ?? "")
)

const schemas = SqlClient.use(
  (sql) => sql<{ nspname: string }>`SELECT nspname FROM pg_namespace WHERE nspname = 'runledger'`
).pipe(Effect.map((rows) => rows.length))

describe("TestDatabase", () => {
  it.effect("gives every use a migrated database of its own, and drops it", () =>
    Effect.gen(function* () {
      const use = Effect.all([databaseName, schemas]).pipe(Effect.provide(TestDatabase.layer))
      const [[first, migrated], [second]] = yield* Effect.all([use, use], { concurrency: 2 })
      assert.notStrictEqual(first, second)
      assert.strictEqual(migrated, 1)
      const left = yield* SqlClient.use(
        (sql) => sql`SELECT datname FROM pg_database WHERE datname = ANY(${[first, second]})`
      ).pipe(Effect.provide(TestDatabase.client("postgres")))
      assert.deepStrictEqual(left, [])
    })
  )

  it.effect("has an empty one for tests of migrations", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* schemas.pipe(Effect.provide(TestDatabase.layerEmpty)), 0)
    })
  )

  it.effect("connects several clients, each as asked, to the same database", () =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: true })
      const one = databaseName.pipe(Effect.provide(TestDatabase.client(database, { maxConnections: 1 })))
      const two = databaseName.pipe(Effect.provide(TestDatabase.client(database, { multiplex: true })))
      assert.deepStrictEqual(yield* Effect.all([one, two]), [database, database])
      assert.isTrue(TestDatabase.url(database).endsWith(`/${database}`))
    })
  )

  it.layer(TestDatabase.layerTestClock)("under TestClock", (it) => {
    it.effect("statements are told the time, which starts at that of the database", () =>
      Effect.gen(function* () {
        assert.strictEqual(yield* StatementClock, "effect")
        const start = yield* Clock.currentTimeMillis
        const live = yield* TestClock.withLive(DateTime.now)
        assert.isBelow(Math.abs(DateTime.toEpochMillis(live) - start), 60_000)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* Clock.currentTimeMillis) - start, 3_600_000)
        assert.notStrictEqual(yield* databaseName, "")
      })
    )
  })

  it.layer(TestDatabase.layer)("rollback", (it) => {
    it.effect("takes back what a test wrote, also when it fails", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE written (id int)`
        const write = sql`INSERT INTO written VALUES (1)`
        const count = Effect.map(sql`SELECT id FROM written`, (rows) => rows.length)
        assert.strictEqual(yield* rollback(Effect.andThen(write, count)), 1)
        assert.strictEqual(yield* count, 0)
        assert.strictEqual(yield* rollback(Effect.andThen(write, Effect.fail("no"))).pipe(Effect.flip), "no")
        assert.strictEqual(yield* count, 0)
      })
    )
  })
})
