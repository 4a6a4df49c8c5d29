import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Duration, Effect, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { constraintName } from "../src/internal/sqlState.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const unique = (name: string) => `${name}-${crypto.randomUUID()}`

const stored = (jobType: string) => Effect.map(JobDefinitions.get(jobType), Option.getOrThrow)

const defaults = {
  version: 1,
  maxAttempts: 3,
  timeoutSeconds: 300,
  priority: 0,
  isEnabled: true,
  retryInitialMillis: 10_000,
  retryFactor: 2,
  retryMaxMillis: 300_000,
  retryJitter: 0.1,
  retryOverrides: {}
}

/** Every setting, none of them the default, and what is stored of it. */
const settings: JobDefinitions.DefinitionSettings = {
  version: 2,
  maxAttempts: 5,
  timeout: Duration.millis(1500),
  priority: -100,
  isEnabled: false,
  retry: {
    initial: Duration.millis(999.5),
    factor: 1.5,
    max: "1 minute",
    jitter: 0,
    overrides: { "smtp.throttled": "2 minutes", "smtp.down": 1 }
  }
}
const declared = {
  version: 2,
  maxAttempts: 5,
  timeoutSeconds: 2,
  priority: -100,
  isEnabled: false,
  retryInitialMillis: 1000,
  retryFactor: 1.5,
  retryMaxMillis: 60_000,
  retryJitter: 0,
  retryOverrides: { "smtp.throttled": 120_000, "smtp.down": 1 }
}

/** What differs from `declared` for each setting that is given alone. */
const single: ReadonlyArray<{
  readonly title: string
  readonly change: Omit<JobDefinitions.DefinitionSettings, "version">
  readonly changed: Partial<typeof declared> | { readonly retryOverrides: Record<string, number> }
}> = [
  { title: "maxAttempts", change: { maxAttempts: 2_147_483_647 }, changed: { maxAttempts: 2_147_483_647 } },
  { title: "timeout", change: { timeout: "1 hour" }, changed: { timeoutSeconds: 3600 } },
  { title: "priority", change: { priority: 0 }, changed: { priority: 0 } },
  { title: "isEnabled", change: { isEnabled: true }, changed: { isEnabled: true } },
  { title: "retry.initial", change: { retry: { initial: 1 } }, changed: { retryInitialMillis: 1 } },
  { title: "retry.factor", change: { retry: { factor: 100 } }, changed: { retryFactor: 100 } },
  { title: "retry.max", change: { retry: { max: "24 days" } }, changed: { retryMaxMillis: 24 * 86_400_000 } },
  { title: "retry.jitter", change: { retry: { jitter: 1 } }, changed: { retryJitter: 1 } },
  {
    title: "retry.overrides, which are replaced as a whole",
    change: { retry: { overrides: { other: "3 seconds" } } },
    changed: { retryOverrides: { other: 3000 } }
  },
  { title: "no retry.overrides", change: { retry: { overrides: {} } }, changed: { retryOverrides: {} } }
]

it.layer(TestDatabase.layerTestClock)("JobDefinitions", (it) => {
  it.effect("upsert declares with defaults, and returns what is stored", () =>
    Effect.gen(function* () {
      const jobType = unique("bare")
      const now = yield* DateTime.now
      const definition = yield* JobDefinitions.upsert(jobType)
      assert.deepStrictEqual({ ...definition }, { jobType, ...defaults, createdAt: now, updatedAt: now })
      assert.deepStrictEqual(yield* stored(jobType), definition)
    })
  )

  it.effect("upsert stores every setting; a fraction of a duration is rounded up", () =>
    Effect.gen(function* () {
      const jobType = unique("full")
      const now = yield* DateTime.now
      const definition = yield* JobDefinitions.upsert(jobType, settings)
      assert.deepStrictEqual({ ...definition }, { jobType, ...declared, createdAt: now, updatedAt: now })
    })
  )

  it.effect("the longest delay is at least the first one, if only that is given", () =>
    Effect.gen(function* () {
      const { retryInitialMillis, retryMaxMillis } = yield* JobDefinitions.upsert(unique("long"), {
        retry: { initial: "1 hour" }
      })
      assert.deepStrictEqual([retryInitialMillis, retryMaxMillis], [3_600_000, 3_600_000])
    })
  )

  it.effect("upsert replaces a declaration: what is left out gets its default", () =>
    Effect.gen(function* () {
      const jobType = unique("replaced")
      const { createdAt } = yield* JobDefinitions.upsert(jobType, settings)
      yield* TestClock.adjust("1 second")
      const now = yield* DateTime.now
      const definition = yield* JobDefinitions.upsert(jobType, { maxAttempts: 4 })
      assert.deepStrictEqual({ ...definition }, { jobType, ...defaults, maxAttempts: 4, createdAt, updatedAt: now })
      assert.deepStrictEqual(yield* stored(jobType), definition)
    })
  )

  it.effect("upsert of what is declared already writes nothing, not even the time", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = unique("same")
      const version = Effect.map(
        sql`SELECT xmin::text AS version FROM runledger.job_definitions WHERE job_type = ${jobType}`,
        ([row]) => row?.version
      )
      for (const given of [undefined, settings]) {
        const first = yield* JobDefinitions.upsert(jobType, given)
        const before = yield* version
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* JobDefinitions.upsert(jobType, given), first)
        assert.strictEqual(yield* version, before)
      }
    })
  )

  it.effect.each(single)("upsert notices a change of $title alone", ({ change, changed }) =>
    Effect.gen(function* () {
      const jobType = unique("notices")
      yield* JobDefinitions.upsert(jobType, settings)
      yield* TestClock.adjust("1 second")
      const definition = yield* JobDefinitions.upsert(jobType, {
        ...settings,
        ...change,
        retry: { ...settings.retry, ...change.retry }
      })
      assert.deepStrictEqual(
        { ...definition },
        { ...definition, ...declared, ...changed, updatedAt: yield* DateTime.now }
      )
    })
  )

  it.effect("upsert notices a change of the version alone", () =>
    Effect.gen(function* () {
      const jobType = unique("version")
      yield* JobDefinitions.upsert(jobType)
      yield* TestClock.adjust("1 second")
      const definition = yield* JobDefinitions.upsert(jobType, { version: 2 })
      assert.deepStrictEqual([definition.version, definition.updatedAt], [2, yield* DateTime.now])
    })
  )

  it.effect("insertIfMissing declares once, and leaves what is declared alone", () =>
    Effect.gen(function* () {
      const jobType = unique("missing")
      assert.isTrue(yield* JobDefinitions.insertIfMissing(jobType, settings))
      const definition = yield* stored(jobType)
      assert.deepStrictEqual({ ...definition }, { ...definition, jobType, ...declared })
      yield* TestClock.adjust("1 second")
      assert.isFalse(yield* JobDefinitions.insertIfMissing(jobType))
      assert.isFalse(yield* JobDefinitions.insertIfMissing(jobType, { version: 9 }))
      assert.deepStrictEqual(yield* stored(jobType), definition)
      const bare = unique("bare")
      assert.isTrue(yield* JobDefinitions.insertIfMissing(bare))
      assert.deepStrictEqual({ ...(yield* stored(bare)) }, { ...(yield* stored(bare)), ...defaults })
    })
  )

  it.effect.each(single)("update changes $title alone", ({ change, changed }) =>
    Effect.gen(function* () {
      const jobType = unique("update")
      const { createdAt } = yield* JobDefinitions.upsert(jobType, settings)
      yield* TestClock.adjust("1 second")
      const definition = Option.getOrThrow(yield* JobDefinitions.update(jobType, change))
      const expected = { jobType, ...declared, ...changed, createdAt, updatedAt: yield* DateTime.now }
      assert.deepStrictEqual({ ...definition }, expected)
      assert.deepStrictEqual(yield* stored(jobType), definition)
    })
  )

  it.effect("update of a type that is not declared is none", () =>
    Effect.gen(function* () {
      const jobType = unique("nobody")
      assert.deepStrictEqual(yield* JobDefinitions.update(jobType, { priority: 1 }), Option.none())
      assert.deepStrictEqual(yield* JobDefinitions.get(jobType), Option.none())
    })
  )

  it.effect("update keeps the policy valid: the longest delay grows with the first, but is not cut below it", () =>
    Effect.gen(function* () {
      const jobType = unique("policy")
      yield* JobDefinitions.upsert(jobType, { retry: { initial: "10 seconds", max: "1 minute" } })
      const grown = Option.getOrThrow(yield* JobDefinitions.update(jobType, { retry: { initial: "2 minutes" } }))
      assert.deepStrictEqual([grown.retryInitialMillis, grown.retryMaxMillis], [120_000, 120_000])
      const reason = yield* refusal(JobDefinitions.update(jobType, { priority: 9, retry: { max: "1 minute" } }))
      assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, "retry.max")
      assert.deepStrictEqual(yield* stored(jobType), grown)
    })
  )

  it.effect("a caught refusal leaves the caller's transaction usable, and its lock_timeout as it was", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = unique("caught")
      yield* JobDefinitions.upsert(jobType)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '7s'`
          yield* refusal(JobDefinitions.update(jobType, { retry: { max: 1 } }))
          yield* JobDefinitions.update(jobType, { priority: 9 })
          yield* JobDefinitions.upsert(unique("more"))
          yield* JobDefinitions.insertIfMissing(jobType)
          yield* JobDefinitions.update(unique("nobody"), { priority: 9 })
          assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
        })
      )
      assert.strictEqual((yield* stored(jobType)).priority, 9)
    })
  )

  it.effect("a change decides for later jobs alone; existing ones keep what they were given", () =>
    Effect.gen(function* () {
      const jobType = unique("later")
      yield* JobDefinitions.upsert(jobType, { maxAttempts: 2, timeout: "2 seconds", priority: 2 })
      const first = yield* Jobs.enqueue(jobType, null)
      yield* JobDefinitions.update(jobType, { maxAttempts: 9, timeout: "9 seconds", priority: 9 })
      const second = yield* Jobs.enqueue(jobType, null)
      const resolved = (jobId: Jobs.JobId) =>
        Effect.map(Jobs.get(TenantScope.global, jobId), (job) => {
          const { maxAttempts, timeoutSeconds, priority } = Option.getOrThrow(job)
          return [maxAttempts, timeoutSeconds, priority]
        })
      assert.deepStrictEqual(yield* resolved(first.jobId), [2, 2, 2])
      assert.deepStrictEqual(yield* resolved(second.jobId), [9, 9, 9])
    })
  )

  it.effect("a type is what it is, to the letter", () =>
    Effect.gen(function* () {
      const jobType = unique(" Two  words\n%_'\\ é\u{1f600}")
      yield* JobDefinitions.upsert(jobType)
      assert.strictEqual((yield* stored(jobType)).jobType, jobType)
      for (const other of [jobType.trim(), jobType.toUpperCase(), jobType.toLowerCase(), `${jobType} `]) {
        assert.deepStrictEqual(yield* JobDefinitions.get(other), Option.none())
      }
    })
  )

  it.effect("a definition cannot be deleted", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = unique("kept")
      yield* JobDefinitions.upsert(jobType)
      const error = yield* Effect.flip(rollback(sql`DELETE FROM runledger.job_definitions WHERE job_type = ${jobType}`))
      assert.strictEqual(constraintName(error), "os_job_definitions_delete")
      assert.isTrue(Option.isSome(yield* JobDefinitions.get(jobType)))
    })
  )

  it.effect("a list is in order of type, a page at a time, after a cursor that need not exist", () =>
    Effect.gen(function* () {
      const prefix = unique("list")
      const types = Array.from({ length: 7 }, (_, n) => `${prefix}.${n}`)
      yield* Effect.forEach(types.toReversed(), (jobType) => JobDefinitions.upsert(jobType))
      const page = (options: JobDefinitions.ListOptions) =>
        Effect.map(JobDefinitions.list({ contains: prefix, ...options }), (found) =>
          found.map(({ jobType }) => jobType)
        )
      assert.deepStrictEqual(yield* page({}), types)
      for (let limit = 1; limit <= 8; limit++) {
        const seen: Array<string> = []
        for (;;) {
          const more = yield* page({ limit, after: seen.at(-1) })
          if (more.length === 0) break
          assert.strictEqual(more.length, Math.min(limit, types.length - seen.length))
          seen.push(...more)
        }
        assert.deepStrictEqual(seen, types)
      }
      assert.deepStrictEqual(yield* page({ after: `${prefix}.3x` }), types.slice(4))
      const [first] = yield* JobDefinitions.list({ contains: prefix, limit: 1 })
      assert.deepStrictEqual(first, yield* stored(`${prefix}.0`))
      // also without anything to look for
      assert.isAbove((yield* JobDefinitions.list()).length, 7)
    })
  )

  it.effect("a list finds a part of the type in any case, in which nothing is a wildcard", () =>
    Effect.gen(function* () {
      const part = unique("part")
      const types = ["Mail 100%", "mail_out", "mailout", "back\\slash"].map((name) => `${part} ${name}`)
      yield* Effect.forEach(types, (jobType) => JobDefinitions.upsert(jobType))
      const found = (contains: string) =>
        Effect.map(JobDefinitions.list({ contains: `${part} ${contains}` }), (list) =>
          list.map(({ jobType }) => jobType.slice(part.length + 1)).sort()
        )
      assert.deepStrictEqual(yield* found("MAIL"), ["Mail 100%", "mail_out", "mailout"])
      assert.deepStrictEqual(yield* found("mail_"), ["mail_out"])
      assert.deepStrictEqual(yield* found("mail%"), [])
      assert.deepStrictEqual(yield* found("mail 100%"), ["Mail 100%"])
      assert.deepStrictEqual(yield* found("back\\"), ["back\\slash"])
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 12 }))("JobDefinitions: several at once", (it) => {
  it.effect("many who declare the same agree, and one row is written", () =>
    Effect.gen(function* () {
      for (let round = 0; round < 5; round++) {
        const jobType = unique("agree")
        const all = yield* Effect.forEach(Array.from({ length: 10 }), () => JobDefinitions.upsert(jobType, settings), {
          concurrency: 10
        })
        const definition = yield* stored(jobType)
        for (const each of all) assert.deepStrictEqual(each, definition)
        assert.deepStrictEqual(definition.updatedAt, definition.createdAt)
      }
    })
  )

  it.effect("of many who insert, one does", () =>
    Effect.gen(function* () {
      const jobType = unique("one")
      const answers = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, n) => n + 1),
        (version) => Effect.map(JobDefinitions.insertIfMissing(jobType, { version }), (isNew) => ({ version, isNew })),
        { concurrency: 10 }
      )
      const winners = answers.filter(({ isNew }) => isNew)
      assert.strictEqual(winners.length, 1)
      assert.strictEqual((yield* stored(jobType)).version, winners[0]?.version)
    })
  )

  it.effect("of many who declare differently, each is told what it declared, and one of them stays", () =>
    Effect.gen(function* () {
      const jobType = unique("differ")
      const priorities = Array.from({ length: 10 }, (_, n) => n)
      const told = yield* Effect.forEach(
        priorities,
        (priority) => Effect.map(JobDefinitions.upsert(jobType, { priority }), (it) => it.priority),
        { concurrency: 10 }
      )
      assert.deepStrictEqual(told, priorities)
      assert.include(priorities, (yield* stored(jobType)).priority)
    })
  )

  it.effect("an upsert waits for another transaction that declares the same, and returns what is then stored", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = unique("waits")
      const declaredByOther = yield* Deferred.make<void>()
      const commit = yield* Deferred.make<void>()
      const other = yield* JobDefinitions.upsert(jobType, { priority: 7 }).pipe(
        Effect.tap(Deferred.succeed(declaredByOther, undefined)),
        Effect.tap(Deferred.await(commit)),
        sql.withTransaction,
        Effect.forkScoped
      )
      yield* Deferred.await(declaredByOther)
      const waiting = yield* Effect.forkScoped(JobDefinitions.upsert(jobType, { priority: 7 }))
      yield* waitsForALock
      yield* Deferred.succeed(commit, undefined)
      assert.deepStrictEqual(yield* Fiber.join(waiting), yield* Fiber.join(other))
    })
  )

  it.effect(
    "an upsert that would have to wait longer than the caller allows is unavailable, and the caller goes on",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobType = unique("patience")
        yield* JobDefinitions.upsert(jobType)
        const held = yield* Deferred.make<void>()
        const release = yield* Deferred.make<void>()
        const other = yield* JobDefinitions.update(jobType, { priority: 1 }).pipe(
          Effect.tap(Deferred.succeed(held, undefined)),
          Effect.tap(Deferred.await(release)),
          sql.withTransaction,
          Effect.forkScoped
        )
        yield* Deferred.await(held)
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SET LOCAL lock_timeout = '20ms'`
            const reason = yield* refusal(JobDefinitions.upsert(jobType, { priority: 2 }))
            assert.strictEqual(reason._tag, "Unavailable")
            assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "20ms" }])
            // reading waits for nobody
            assert.strictEqual((yield* stored(jobType)).priority, 0)
          })
        )
        yield* Deferred.succeed(release, undefined)
        yield* Fiber.join(other)
        assert.strictEqual((yield* stored(jobType)).priority, 1)
      })
  )
})

/** Until a backend of this database waits for a lock. */
const waitsForALock = SqlClient.use(
  (sql) => sql`
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
  `
).pipe(Effect.repeat({ until: (rows) => rows.length > 0 }))
