import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Option, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { JobRuntimeConfigs, type QueryError, type Reason } from "../src/index.ts"
import { another, standing, waiting } from "./support/races.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const unique = (name: string) => `${name}-${crypto.randomUUID()}`

const user = "01980000-0000-7000-8000-00000000000a"

const Limits = Schema.Struct({ perMinute: Schema.Int, since: Schema.DateTimeUtcFromString })

it.layer(TestDatabase.layerTestClock)("JobRuntimeConfigs", (it) => {
  it.effect("upsert stores a config of a type that nobody has declared, and returns what is stored", () =>
    Effect.gen(function* () {
      const jobType = unique("new")
      const now = yield* DateTime.now
      const config = { perMinute: 30, hosts: ["a", "b"], none: null }
      const stored = yield* JobRuntimeConfigs.upsert(jobType, { schemaVersion: 2, config, updatedByUserId: user })
      assert.deepStrictEqual(
        { ...stored },
        { jobType, schemaVersion: 2, config, updatedByUserId: Option.some(user), createdAt: now, updatedAt: now }
      )
      assert.deepStrictEqual(yield* JobRuntimeConfigs.get(jobType), Option.some(stored))
      assert.deepStrictEqual(yield* JobRuntimeConfigs.getRequired(jobType), stored)
    })
  )

  it.effect("upsert replaces the whole config, also who changed it, and an equal one moves the time", () =>
    Effect.gen(function* () {
      const jobType = unique("replaced")
      const { createdAt } = yield* JobRuntimeConfigs.upsert(jobType, {
        schemaVersion: 2,
        config: { a: 1, b: 2 },
        updatedByUserId: user
      })
      for (const config of [{ a: 3 }, { a: 3 }]) {
        yield* TestClock.adjust("1 second")
        const updatedAt = yield* DateTime.now
        const stored = yield* JobRuntimeConfigs.upsert(jobType, { schemaVersion: 1, config })
        assert.deepStrictEqual(
          { ...stored },
          { jobType, schemaVersion: 1, config, updatedByUserId: Option.none(), createdAt, updatedAt }
        )
      }
    })
  )

  it.effect("insertIfMissing keeps the config that is there", () =>
    Effect.gen(function* () {
      const jobType = unique("kept")
      assert.isTrue(yield* JobRuntimeConfigs.insertIfMissing(jobType, { schemaVersion: 1, config: { a: 1 } }))
      const before = yield* JobRuntimeConfigs.getRequired(jobType)
      yield* TestClock.adjust("1 second")
      assert.isFalse(yield* JobRuntimeConfigs.insertIfMissing(jobType, { schemaVersion: 9, config: { a: 2 } }))
      assert.deepStrictEqual(yield* JobRuntimeConfigs.getRequired(jobType), before)
    })
  )

  it.effect("a type without a config: none, or a failure that names it", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* JobRuntimeConfigs.get("absent"), Option.none())
      for (const read of [JobRuntimeConfigs.getRequired("absent"), JobRuntimeConfigs.getDecoded("absent", Limits)]) {
        const reason = yield* refusal<unknown, Reason, SqlClient>(read)
        assert.strictEqual(reason.code, "job.runtime_config_not_found")
        assert.include(reason.message, "absent")
      }
    })
  )

  it.effect("getDecoded gives the config as the schema has it, or fails without a word of what is stored", () =>
    Effect.gen(function* () {
      const jobType = unique("typed")
      const store = (config: { readonly [name: string]: Schema.Json }) =>
        JobRuntimeConfigs.upsert(jobType, { schemaVersion: 7, config })
      yield* store({ perMinute: 30, since: "2026-01-01T00:00:00.000Z" })
      const { perMinute, since } = yield* JobRuntimeConfigs.getDecoded(jobType, Limits)
      assert.deepStrictEqual([perMinute, DateTime.toEpochMillis(since)], [30, Date.UTC(2026, 0, 1)])
      yield* store({ perMinute: "secret" })
      const error = yield* Effect.flip(JobRuntimeConfigs.getDecoded(jobType, Limits))
      assert.strictEqual(error.reason.code, "job.runtime_config_invalid")
      assert.include(error.message, "version 7")
      assert.notInclude(String(error) + JSON.stringify(error.reason), "secret")
    })
  )

  it.effect("list pages by type, past a type that is there no more", () =>
    rollback(
      Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* sql`DELETE FROM runledger.job_runtime_configs`
        for (const jobType of ["d", "a", "c", "b"]) {
          yield* JobRuntimeConfigs.upsert(jobType, { schemaVersion: 1, config: {} })
        }
        const types = (options?: JobRuntimeConfigs.ListOptions) =>
          Effect.map(JobRuntimeConfigs.list(options), (rows) => rows.map(({ jobType }) => jobType))
        assert.deepStrictEqual(yield* types(), ["a", "b", "c", "d"])
        assert.deepStrictEqual(yield* types({ limit: 2 }), ["a", "b"])
        yield* sql`DELETE FROM runledger.job_runtime_configs WHERE job_type = 'b'`
        assert.deepStrictEqual(yield* types({ limit: 2, after: "b" }), ["c", "d"])
        assert.deepStrictEqual(yield* types({ after: "d" }), [])
      })
    )
  )

  it.effect("bad input is refused before anything is sent", () =>
    Effect.gen(function* () {
      const good = { schemaVersion: 1, config: {} }
      const circular: { [name: string]: Schema.Json } = {}
      circular.self = circular
      const cases = [
        ["jobType", JobRuntimeConfigs.upsert(" ", good)],
        ["jobType", JobRuntimeConfigs.insertIfMissing("a\0", good)],
        ["jobType", JobRuntimeConfigs.get("a".repeat(129))],
        ["jobType", JobRuntimeConfigs.getRequired("")],
        ["jobType", JobRuntimeConfigs.getDecoded("", Limits)],
        ["schemaVersion", JobRuntimeConfigs.upsert("a", { ...good, schemaVersion: 0 })],
        ["schemaVersion", JobRuntimeConfigs.insertIfMissing("a", { ...good, schemaVersion: 1.5 })],
        ["updatedByUserId", JobRuntimeConfigs.upsert("a", { ...good, updatedByUserId: "me" })],
        ["config", JobRuntimeConfigs.upsert("a", { ...good, config: { nul: "\0" } })],
        ["config", JobRuntimeConfigs.upsert("a", { ...good, config: { big: "x".repeat(2 * 1024 * 1024) } })],
        ["config", JobRuntimeConfigs.upsert("a", { ...good, config: circular })],
        // what JavaScript callers may pass
        ["config", JobRuntimeConfigs.upsert("a", { ...good, config: JSON.parse("[]") })],
        ["config", JobRuntimeConfigs.upsert("a", { ...good, config: JSON.parse("null") })],
        ["after", JobRuntimeConfigs.list({ after: "" })]
      ] as const
      for (const [argument, call] of cases) {
        const reason = yield* refusal<unknown, Reason, SqlClient>(call)
        assert.strictEqual(reason._tag === "InvalidArgument" ? reason.argument : reason._tag, argument)
      }
      for (const limit of [0, 1001, 1.5]) {
        assert.strictEqual((yield* refusal(JobRuntimeConfigs.list({ limit }))).code, "job.invalid_pagination")
      }
      assert.deepStrictEqual(yield* JobRuntimeConfigs.get("a"), Option.none())
    })
  )

  it.effect("joins the caller's transaction, which stays usable after a failure", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = unique("joined")
      const config = { schemaVersion: 1, config: {} }
      yield* rollback(JobRuntimeConfigs.upsert(jobType, config))
      assert.deepStrictEqual(yield* JobRuntimeConfigs.get(jobType), Option.none())
      yield* sql.withTransaction(
        Effect.gen(function* () {
          assert.strictEqual(
            (yield* refusal(JobRuntimeConfigs.getRequired(jobType))).code,
            "job.runtime_config_not_found"
          )
          assert.isTrue(yield* JobRuntimeConfigs.insertIfMissing(jobType, config))
        })
      )
      assert.isTrue(Option.isSome(yield* JobRuntimeConfigs.get(jobType)))
    })
  )
})

it.layer(TestDatabase.layer)("JobRuntimeConfigs of two callers", (it) => {
  it.effect("the second waits for the first: upsert overwrites it, insertIfMissing keeps it", () =>
    Effect.gen(function* () {
      const other = yield* another()
      for (const end of ["COMMIT", "ROLLBACK"] as const) {
        const jobType = unique("raced")
        const first = { schemaVersion: 1, config: { by: "first" } }
        const second = { schemaVersion: 1, config: { by: "second" } }
        for (const overwrites of [false, true]) {
          const finish = yield* standing(JobRuntimeConfigs.upsert(jobType, first), end)
          const call = overwrites
            ? Effect.as(JobRuntimeConfigs.upsert(jobType, second), true)
            : JobRuntimeConfigs.insertIfMissing(jobType, second)
          const fiber = yield* Effect.forkScoped(Effect.provideService(call, SqlClient, other))
          yield* waiting(1)
          yield* finish
          const wrote = yield* Fiber.join(fiber)
          assert.strictEqual(wrote, overwrites || end === "ROLLBACK")
          const { config } = yield* JobRuntimeConfigs.getRequired(jobType)
          assert.deepStrictEqual(config, { by: wrote ? "second" : "first" })
          yield* SqlClient.use((sql) => sql`DELETE FROM runledger.job_runtime_configs WHERE job_type = ${jobType}`)
        }
      }
    })
  )
})
