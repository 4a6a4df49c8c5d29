import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Option } from "effect"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import {
  JobDefinitions,
  JobResources,
  Jobs,
  type QueryError,
  type Reason,
  TenantScope,
  Workflows
} from "../src/index.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { type Plan, planWith, prepare, record } from "./support/plans.ts"
import { another, standing, until, waiters } from "./support/races.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { unchanged } = MutatedSqlClient
const scope = TenantScope.global
const type = "resource.job"

const declare = JobDefinitions.upsert(type, { retry: { initial: 1, max: 1 } })

let keys = 0
const newKey = () => `key-${++keys}`

const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters CASCADE`
  yield* declare
})

const add = (executionResourceKey: string | undefined, count = 1, options: Partial<Jobs.EnqueueRequest> = {}) =>
  Effect.forEach(
    Array.from({ length: count }, (_, n) => n),
    (n) =>
      Effect.map(Jobs.enqueue(options.jobType ?? type, n, { ...options, executionResourceKey }), ({ jobId }) => jobId)
  )

const claim = (limit = 10, types: ReadonlyArray<string> = [type]) =>
  Effect.map(Jobs.claim({ workerId: "worker", types, limit }), (jobs) => jobs.map(({ lease }) => lease))

const claimOne = Effect.flatMap(claim(1), ([lease]) =>
  lease === undefined ? Effect.die("nothing was claimed") : Effect.succeed(lease)
)

/** How many of the key are claimed now. */
const claims = (limit = 10) => Effect.map(claim(limit), (leases) => leases.length)

const job = (jobId: Jobs.JobId) => Effect.flatMap(Jobs.get(TenantScope.admin, jobId), Effect.fromOption)

const reasonOf = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), ({ reason }) => reason)

const permits = (resourceKey: string) =>
  SqlClient.use(
    (sql) => sql<{ slot: number; is_retired: boolean; job_id: string | null }>`
      SELECT slot, is_retired, job_id FROM runledger.job_execution_permits WHERE resource_key = ${resourceKey} ORDER BY slot`
  )

it.layer(TestDatabase.layerTestClock)("JobResources", (it) => {
  it.effect("29: jobs with one key run one after the other; who waits keeps its attempts, and holds up nobody", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("resource.other")
      const key = newKey()
      const organizationId = crypto.randomUUID()
      const [first] = yield* add(key)
      const [second] = yield* add(key, 1, { organizationId })
      yield* add(key, 1, { jobType: "resource.other" })
      yield* add(undefined, 2)
      const leases = yield* claim(10, [type, "resource.other"])
      assert.deepStrictEqual(leases.length, 3, "the first of the key, and those without")
      assert.include(
        leases.map(({ jobId }) => jobId),
        first
      )
      const waiting = yield* job(second ?? assert.fail())
      assert.deepStrictEqual([waiting.status, waiting.attempt], ["PENDING", 0])
      assert.deepStrictEqual(waiting.executionResourceKey, Option.some(key))
      assert.deepStrictEqual(
        (yield* JobResources.holders(key)).map(({ jobId, runNumber, attempt }) => [jobId, runNumber, attempt]),
        [[first, 1, 1]]
      )
      assert.strictEqual(yield* claims(), 0)
    })
  )

  it.effect("a step of a workflow shares the permits of its key with all other jobs", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* Workflows.enqueue({
        workflowType: "test",
        steps: [
          { stepKey: "a", jobType: type, payload: "a", executionResourceKey: key },
          {
            stepKey: "b",
            jobType: type,
            payload: "b",
            executionResourceKey: key,
            dependencies: [{ stepKey: "a", releaseMode: "ON_SUCCESS" }]
          }
        ]
      })
      yield* add(key)
      const [a, ...more] = yield* claim()
      assert.isEmpty(more)
      yield* Jobs.completeSuccess(a ?? assert.fail())
      const [direct, ...none] = yield* claim()
      assert.isEmpty(none, "the direct job was due before the step that was released")
      yield* Jobs.completeSuccess(direct ?? assert.fail())
      assert.strictEqual(yield* claims(), 1)
    })
  )

  const endings: ReadonlyArray<
    readonly [string, (lease: Jobs.Lease) => Effect.Effect<unknown, unknown, SqlClient>, freed?: number]
  > = [
    ["a success", (lease) => Jobs.completeSuccess(lease)],
    ["a retry", (lease) => Jobs.completeFailure(lease, { kind: "RETRYABLE", code: "no", message: "" })],
    ["a dead letter", (lease) => Jobs.completeFailure(lease, { kind: "TERMINAL", code: "no", message: "" })],
    ["a continuation", (lease) => Jobs.completeContinuation(lease, { delay: "1 hour" })],
    ["the reaper", () => Effect.andThen(TestClock.adjust("2 minutes"), Jobs.reapExpiredLeases({ limit: 10 }))]
  ]
  it.effect.each(endings.map(([name, end]) => ({ name, end })))("$name frees the permit", ({ end }) =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* add(key, 2)
      const lease = yield* claimOne
      assert.strictEqual(yield* claims(), 0)
      yield* end(lease)
      assert.strictEqual(yield* claims(), 1)
      assert.strictEqual((yield* JobResources.holders(key)).length, 1)
    })
  )

  it.effect("giving back a claim that was not started frees the permit", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* add(newKey(), 2)
      const [ahead] = yield* Jobs.claimPrestart({ workerId: "worker", types: [type], limit: 5 })
      assert.strictEqual(yield* claims(), 0)
      yield* Jobs.releaseUnstarted(ahead?.lease ?? assert.fail(), { reason: "test" })
      assert.strictEqual(yield* claims(), 1)
    })
  )

  it.effect("an expired lease keeps its permit until it is reaped, and a heartbeat keeps it longer", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* add(newKey(), 2)
      const lease = yield* claimOne
      yield* TestClock.adjust("50 seconds")
      yield* Jobs.heartbeat(lease)
      yield* TestClock.adjust("50 seconds")
      assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases.length, 0)
      assert.strictEqual(yield* claims(), 0)
      yield* TestClock.adjust("50 seconds")
      assert.strictEqual(yield* claims(), 0)
    })
  )

  it.effect("a job that is canceled while it runs keeps its permit until its lease would have expired", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* add(key, 2)
      const lease = yield* claimOne
      yield* Jobs.cancel(scope, lease.jobId, { reason: "test" })
      assert.strictEqual(yield* claims(), 0)
      assert.strictEqual((yield* JobResources.holders(key))[0]?.jobId, lease.jobId)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* JobResources.holders(key), [])
      assert.strictEqual(yield* claims(), 1)
    })
  )

  it.effect("a key has as many permits as it is given", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      const resource = yield* JobResources.upsert(key, { permits: 3 })
      assert.deepStrictEqual(
        [resource.resourceKey, resource.permits, resource.ratePermits, resource.rateIntervalMillis],
        [key, 3, Option.none(), Option.none()]
      )
      yield* add(key, 6)
      const leases = yield* claim(2)
      assert.strictEqual(leases.length, 2)
      assert.strictEqual(yield* claims(), 1)
      yield* JobResources.upsert(key, { permits: 5 })
      assert.strictEqual(yield* claims(), 2)
      yield* Jobs.completeSuccess(leases[0] ?? assert.fail())
      assert.strictEqual(yield* claims(), 1)
    })
  )

  it.effect("fewer permits than jobs at work: none starts before enough of them have ended", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* JobResources.upsert(key, { permits: 4 })
      yield* add(key, 8)
      const leases = yield* claim()
      assert.strictEqual(leases.length, 4)
      yield* JobResources.upsert(key, { permits: 2 })
      // whichever end first: at most two are at work at any time from here on
      let atWork = 4
      for (const lease of leases) {
        yield* Jobs.completeSuccess(lease)
        atWork += (yield* claims()) - 1
        assert.isAtMost(atWork, Math.max(2, leases.length - 1 - leases.indexOf(lease)))
      }
      assert.strictEqual(atWork, 2)
      yield* JobResources.upsert(key, { permits: 2 })
      assert.deepStrictEqual((yield* permits(key)).length, 2, "those that were retired are gone")
    })
  )

  it.effect("a retired permit comes back with a larger number", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* JobResources.upsert(key, { permits: 3 })
      yield* add(key, 6)
      yield* claim()
      yield* JobResources.upsert(key, { permits: 1 })
      assert.strictEqual(yield* claims(), 0)
      yield* JobResources.upsert(key, { permits: 4 })
      assert.strictEqual(yield* claims(), 1)
    })
  )

  it.effect("no more attempts start within any interval than the rate allows", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* JobResources.upsert(key, { permits: 100, rate: { permits: 3, per: "1 minute" } })
      yield* add(key, 12)
      const starts: Array<number> = []
      for (let second = 0; second < 150; second += 10) {
        const [count] = [yield* claims(second % 20 === 0 ? 1 : 10)]
        for (let n = 0; n < count; n++) starts.push(second)
        yield* TestClock.adjust("10 seconds")
      }
      assert.deepStrictEqual(starts, [0, 10, 10, 60, 70, 70, 120, 130, 130])
    })
  )

  it.effect("what started within the interval counts towards a new rate, and for as long as that says", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* JobResources.upsert(key, { permits: 100, rate: { permits: 4, per: "10 seconds" } })
      yield* add(key, 20)
      assert.strictEqual(yield* claims(3), 3)
      yield* JobResources.upsert(key, { permits: 100, rate: { permits: 2, per: "10 seconds" } })
      assert.strictEqual(yield* claims(), 0, "three started already")
      yield* JobResources.upsert(key, { permits: 100, rate: { permits: 5, per: "1 minute" } })
      assert.strictEqual(yield* claims(), 3)
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* claims(), 0)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* claims(), 5)
      yield* JobResources.upsert(key, { permits: 100 })
      assert.strictEqual(yield* claims(), 9, "without a rate")
    })
  )

  it.effect("remove forgets what was said", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      assert.isFalse(yield* JobResources.remove(key))
      yield* JobResources.upsert(key, { permits: 3, rate: { permits: 1, per: "1 day" } })
      assert.isTrue(yield* JobResources.remove(key))
      assert.deepStrictEqual(yield* JobResources.get(key), Option.none())
      yield* add(key, 3)
      const lease = yield* claimOne
      assert.strictEqual(yield* claims(), 0)
      yield* Jobs.completeSuccess(lease)
      assert.strictEqual(yield* claims(), 1, "no rate")
    })
  )

  it.effect("get and list", () =>
    Effect.gen(function* () {
      const prefix = crypto.randomUUID()
      const now = yield* DateTime.now
      for (const n of [2, 1, 3]) yield* JobResources.upsert(`${prefix}-${n}`, { permits: n })
      yield* TestClock.adjust("1 second")
      yield* JobResources.upsert(`${prefix}-1`, { rate: { permits: 10, per: "1.5 seconds" } })
      const one = Option.getOrThrow(yield* JobResources.get(`${prefix}-1`))
      assert.deepStrictEqual(
        { ...one },
        {
          resourceKey: `${prefix}-1`,
          permits: 1,
          ratePermits: Option.some(10),
          rateIntervalMillis: Option.some(1500),
          createdAt: now,
          updatedAt: DateTime.add(now, { seconds: 1 })
        }
      )
      const page = yield* JobResources.list({ after: `${prefix}-1`, limit: 1 })
      assert.deepStrictEqual(
        page.map(({ resourceKey }) => resourceKey),
        [`${prefix}-2`]
      )
    })
  )

  it.effect("a key is part of the request of a keyed enqueue", () =>
    Effect.gen(function* () {
      yield* startOver
      const options = { idempotencyKey: newKey(), executionResourceKey: "printer" }
      const first = yield* Jobs.enqueue(type, 1, options)
      assert.strictEqual((yield* Jobs.enqueue(type, 1, options)).jobId, first.jobId)
      const conflict = yield* reasonOf(Jobs.enqueue(type, 1, { ...options, executionResourceKey: "plotter" }))
      assert.deepStrictEqual(
        [conflict._tag, "fields" in conflict && conflict.fields],
        ["IdempotencyConflict", ["execution_resource_key"]]
      )
    })
  )

  const bad = ["", " ", "\u0000", "x".repeat(513)]
  it.effect("bad input is refused before anything is sent", () =>
    Effect.gen(function* () {
      const argumentOf = (self: Effect.Effect<unknown, QueryError, SqlClient>) =>
        Effect.map(reasonOf(self), (reason) => (reason._tag === "InvalidArgument" ? reason.argument : reason._tag))
      for (const key of bad) {
        assert.strictEqual(yield* argumentOf(JobResources.upsert(key)), "resourceKey")
        assert.strictEqual(yield* argumentOf(JobResources.remove(key)), "resourceKey")
        assert.strictEqual(yield* argumentOf(JobResources.get(key)), "resourceKey")
        assert.strictEqual(yield* argumentOf(JobResources.holders(key)), "resourceKey")
        assert.strictEqual(yield* argumentOf(JobResources.list({ after: key })), "after")
        assert.strictEqual(
          yield* argumentOf(Jobs.enqueue(type, 1, { executionResourceKey: key })),
          "executionResourceKey"
        )
      }
      for (const count of [0, 1001, 1.5, Number.NaN]) {
        assert.strictEqual(yield* argumentOf(JobResources.upsert("k", { permits: count })), "permits")
      }
      for (const count of [0, 10_001]) {
        assert.strictEqual(
          yield* argumentOf(JobResources.upsert("k", { rate: { permits: count, per: "1 second" } })),
          "rate.permits"
        )
      }
      for (const per of [0, "Infinity", "25 days"] as const) {
        assert.strictEqual(yield* argumentOf(JobResources.upsert("k", { rate: { permits: 1, per } })), "rate.per")
      }
      assert.strictEqual(yield* argumentOf(JobResources.list({ limit: 0 })), "InvalidPagination")
    })
  )

  it.effect("inside a caller's transaction: it commits or not, and a caught refusal leaves it usable", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const key = newKey()
      yield* rollback(JobResources.upsert(key, { permits: 3 }))
      assert.deepStrictEqual([yield* JobResources.get(key), yield* permits(key)], [Option.none(), []])
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* Effect.flip(JobResources.upsert(key, { permits: 0 }))
          yield* JobResources.upsert(key, { permits: 3 })
          const [row] = yield* sql<{ setting: string }>`SELECT current_setting('lock_timeout') AS setting`
          assert.strictEqual(row?.setting, "0", "the caller's setting is restored")
        })
      )
      assert.strictEqual((yield* permits(key)).length, 3)
      const isolation = yield* reasonOf(
        JobResources.upsert(key).pipe(
          sql.withTransaction,
          Effect.provideService(BeginTransaction, "BEGIN ISOLATION LEVEL REPEATABLE READ"),
          Effect.catchTag("SqlError", Effect.die)
        )
      )
      assert.strictEqual(isolation._tag, "UnsupportedIsolation")
    })
  )

  it.effect("a claim that is undone leaves the permit as it was, also that of a key that is new", () =>
    Effect.gen(function* () {
      yield* startOver
      const key = newKey()
      yield* add(key, 2)
      assert.strictEqual(yield* rollback(claims()), 1)
      assert.deepStrictEqual(yield* permits(key), [])
      assert.strictEqual(yield* claims(), 1)
    })
  )
})

const claimStatement = "WITH RECURSIVE input"

// holds a claim up when it has its snapshot and has not looked at anything
const heldUp: MutatedSqlClient.Edit = {
  statement: claimStatement,
  search: "SELECT\n        statement_timestamp() AS at",
  replace: "SELECT pg_advisory_xact_lock(42), statement_timestamp() AS at"
}

/** Claims with a snapshot from before `first` committed. */
const withOldSnapshot = Effect.fnUntraced(function* <A, E, R>(
  edits: ReadonlyArray<MutatedSqlClient.Edit>,
  first: Effect.Effect<A, E, R>
) {
  const other = yield* another()
  const release = yield* Effect.provideService(
    standing(SqlClient.use((sql) => sql`SELECT pg_advisory_xact_lock(42)`)),
    SqlClient,
    other
  )
  const late = yield* claims().pipe(Effect.provide(MutatedSqlClient.layer([heldUp, ...edits])), Effect.forkChild)
  yield* until(Effect.map(waiters, (count) => count > 0))
  yield* first
  yield* release
  return yield* Fiber.join(late)
})

it.layer(TestDatabase.layerWith({ maxConnections: 20 }), { timeout: "60 seconds" })(
  "JobResources, many at once",
  (it) => {
    it.effect.each([
      { title: "one permit", settings: undefined, permits: 1 },
      { title: "seven permits", settings: { permits: 7 }, permits: 7 }
    ])("a hundred claimers never have more than $title between them, and every job runs", ({ settings, permits }) =>
      Effect.gen(function* () {
        yield* startOver
        const key = newKey()
        if (settings !== undefined) yield* JobResources.upsert(key, settings)
        yield* Jobs.enqueueMany(
          Array.from({ length: 150 }, (_, n) => ({
            jobType: type,
            payload: n,
            priority: n % 3,
            ...(n % 3 === 0 ? {} : { executionResourceKey: key })
          }))
        )
        let ofKey = 0
        let most = 0
        let done = 0
        const claimer = Effect.fnUntraced(function* (n: number) {
          for (let empty = 0; done < 150; ) {
            const jobs = yield* Jobs.claim({ workerId: `worker ${n}`, types: [type], limit: (n % 4) + 1 })
            const keyed = jobs.filter(({ payload }) => Number(payload) % 3 !== 0).length
            ofKey += keyed
            most = Math.max(most, ofKey)
            empty = jobs.length === 0 ? empty + 1 : 0
            yield* Effect.yieldNow
            ofKey -= keyed
            yield* Effect.forEach(jobs, ({ lease }) => Jobs.completeSuccess(lease))
            done += jobs.length
          }
        })
        yield* Effect.forEach(
          Array.from({ length: 100 }, (_, n) => n),
          claimer,
          { concurrency: "unbounded" }
        )
        assert.strictEqual(done, 150)
        assert.isAtMost(most, permits)
        assert.isAtLeast(most, 1)
      })
    )

    it.effect("a hundred claimers never start more than the rate allows", () =>
      Effect.gen(function* () {
        yield* startOver
        const key = newKey()
        yield* JobResources.upsert(key, { permits: 1000, rate: { permits: 25, per: "1 hour" } })
        yield* add(key, 60)
        const taken = yield* Effect.forEach(Array.from({ length: 100 }), () => claims(3), { concurrency: "unbounded" })
        const started = taken.reduce((sum, count) => sum + count, 0)
        // who finds a token taken by another leaves the rest of its batch: later claims take what is left
        const rest = yield* Effect.forEach(Array.from({ length: 10 }), () => claims(10))
        assert.strictEqual(
          rest.reduce((sum, count) => sum + count, started),
          25
        )
      })
    )

    it.effect("a claim does not wait for another one of the same key, known or new, nor for a change of it", () =>
      Effect.gen(function* () {
        yield* startOver
        const other = yield* another()
        for (const key of [newKey(), newKey()]) {
          yield* startOver
          yield* add(key, 3)
          if (key.endsWith("1")) yield* JobResources.upsert(key, { permits: 2 })
          const end = yield* Effect.provideService(standing(claim(1), "ROLLBACK"), SqlClient, other)
          yield* claims()
          yield* end
        }
        yield* startOver
        const key = newKey()
        yield* add(key, 3)
        const end = yield* Effect.provideService(standing(JobResources.upsert(key, { permits: 2 })), SqlClient, other)
        assert.strictEqual(yield* claims(), 0)
        yield* end
        assert.strictEqual(yield* claims(), 2)
      })
    )

    it.effect("a change waits for a claim that has not committed, and gives up in the caller's time", () =>
      Effect.gen(function* () {
        yield* startOver
        const sql = yield* SqlClient
        const other = yield* another()
        const key = newKey()
        yield* JobResources.upsert(key, { permits: 2 })
        yield* add(key, 3)
        const end = yield* Effect.provideService(standing(claim(2)), SqlClient, other)
        const impatient = yield* sql
          .withTransaction(Effect.andThen(sql`SET LOCAL lock_timeout = '20ms'`, Effect.exit(JobResources.upsert(key))))
          .pipe(Effect.flatMap((exit) => Effect.flip(exit)))
        assert.isTrue("reason" in impatient && impatient.reason._tag === "Unavailable")
        const change = yield* Effect.forkChild(JobResources.upsert(key, { permits: 1 }))
        yield* until(Effect.map(waiters, (count) => count > 0))
        yield* end
        yield* Fiber.join(change)
        assert.deepStrictEqual(
          (yield* permits(key)).map(({ is_retired }) => is_retired),
          [false, true],
          "it saw both at work"
        )
      })
    )

    it.effect("a claim whose snapshot is older than another claim of the key takes none", () =>
      Effect.gen(function* () {
        yield* startOver
        const key = newKey()
        yield* JobResources.upsert(key)
        yield* add(key, 3)
        assert.strictEqual(yield* withOldSnapshot([], unchanged(claim(1))), 0)
      }).pipe(Effect.scoped)
    )

    const mutants: ReadonlyArray<readonly [string, MutatedSqlClient.Edit]> = [
      ["the snapshot is trusted", { statement: claimStatement, search: /AND p\.uses = \(SELECT[^)]+\)/g, replace: "" }],
      [
        "who took it is not written",
        { statement: claimStatement, search: "uses = p.uses + 1,", replace: "uses = p.uses," }
      ]
    ]
    it.effect.each(mutants.map(([name, edit]) => ({ name, edit })))("$name: that is noticed", ({ edit }) =>
      Effect.gen(function* () {
        yield* startOver
        const key = newKey()
        yield* JobResources.upsert(key)
        yield* add(key, 3)
        const first = claim(1).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
        assert.strictEqual(yield* withOldSnapshot([edit], first), 1)
      }).pipe(Effect.scoped)
    )

    /** What a claim of everything takes, of a key that allows less. */
    const checks: Readonly<Record<string, Effect.Effect<boolean, unknown, SqlClient>>> = {
      "a permit that is held is not given": Effect.gen(function* () {
        yield* add(newKey(), 2)
        yield* unchanged(claim(1))
        return (yield* claims()) === 0
      }),
      "a claim takes of a key what it has permits for, whatever the types and priorities": Effect.gen(function* () {
        const key = newKey()
        yield* JobDefinitions.upsert("resource.other")
        yield* JobResources.upsert(key, { permits: 2 })
        yield* add(key, 2, { priority: 1 })
        yield* add(key, 2)
        yield* add(key, 2, { jobType: "resource.other" })
        return (yield* claim(10, [type, "resource.other"])).length === 2
      }),
      "none is given while a retired one is held": Effect.gen(function* () {
        const key = newKey()
        yield* JobResources.upsert(key, { permits: 3 })
        yield* add(key, 6)
        const [first] = yield* unchanged(claim(3))
        yield* JobResources.upsert(key, { permits: 1 })
        yield* Jobs.completeSuccess(first ?? assert.fail())
        return (yield* claims()) === 0
      }),
      "a start that was just made is not made again": Effect.gen(function* () {
        const key = newKey()
        yield* JobResources.upsert(key, { permits: 10, rate: { permits: 2, per: "1 hour" } })
        yield* add(key, 6)
        return (yield* claims(1)) + (yield* claims()) === 2
      }),
      "jobs of one key go by priority": Effect.gen(function* () {
        const key = newKey()
        yield* add(key)
        const [urgent] = yield* add(key, 1, { priority: 5 })
        return (yield* claimOne).jobId === urgent
      }),
      "what is not due is left": Effect.gen(function* () {
        yield* add(newKey(), 1, { delay: "1 hour" })
        return (yield* claims()) === 0
      })
    }
    it.effect.each(Object.entries(checks).map(([name, check]) => ({ name, check })))("$name", ({ check }) =>
      Effect.gen(function* () {
        yield* startOver
        assert.isTrue(yield* check)
      })
    )
    const broken: ReadonlyArray<readonly [string, check: string, RegExp | string, string]> = [
      ["holders are not asked for", "a permit that is held is not given", "j.leased_seq = p.leased_seq", "false"],
      [
        "every lane of a key is served",
        "a claim takes of a key what it has permits for, whatever the types and priorities",
        "DISTINCT ON (k.resource_key) k.job_type",
        "k.job_type"
      ],
      ["retired permits are no obstacle", "none is given while a retired one is held", "AND r.is_retired", "AND false"],
      [
        "tokens do not rest",
        "a start that was just made is not made again",
        "k.rate_interval_ms * interval",
        "0 * interval"
      ],
      [
        "tokens are not asked for",
        "a start that was just made is not made again",
        "WHEN resource.rate_interval_ms IS NULL THEN COALESCE(cardinality(permit.ids), 0)",
        "WHEN true THEN COALESCE(cardinality(permit.ids), 0)"
      ],
      [
        "the lowest first",
        "jobs of one key go by priority",
        "ORDER BY k.resource_key, k.priority DESC",
        "ORDER BY k.resource_key, k.priority"
      ],
      [
        "due or not",
        "what is not due is left",
        /(?<=next_run_at )(?:<=|BETWEEN h\.next_run_at AND) \(SELECT at FROM input\)/g,
        "IS NOT NULL"
      ]
    ]
    it.effect.each(broken.map(([name, check, search, replace]) => ({ name, check, search, replace })))(
      "broken on purpose: $name: noticed by '$check'",
      ({ check, search, replace }) =>
        Effect.gen(function* () {
          yield* startOver
          const edit = { statement: claimStatement, search, replace }
          const { noticed, applied } = yield* Effect.gen(function* () {
            const result = yield* Effect.exit(checks[check] ?? Effect.die("there is no such check"))
            const statements = yield* MutatedSqlClient.Statements
            return { noticed: Exit.isSuccess(result) && !result.value, applied: statements.applied().has(edit) }
          }).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
          assert.isTrue(applied)
          assert.isTrue(noticed)
        })
    )

    it.effect("more keys than a claim looks at: none is left out, whatever blocks the others", () =>
      Effect.gen(function* () {
        yield* startOver
        const prefix = crypto.randomUUID()
        const keyed = (n: number) => ({ jobType: type, payload: n, executionResourceKey: `${prefix}-${n}` })
        const all = Array.from({ length: 800 }, (_, n) => keyed(n))
        yield* Jobs.enqueueMany(all)
        let taken = 0
        for (let round = 0; round < 200 && taken < 800; round++) taken += yield* claims(100)
        assert.strictEqual(taken, 800)
        // every key is taken now, and has another job; of twenty the first one ends
        yield* Jobs.enqueueMany(all)
        assert.strictEqual(yield* claims(100), 0)
        const sql = yield* SqlClient
        yield* sql`
        UPDATE runledger.job_queue SET status = 'SUCCEEDED', leased_seq = NULL, lease_expires_at = NULL
        WHERE status = 'LEASED' AND (payload::text)::integer % 40 = 7`
        taken = 0
        for (let round = 0; round < 200 && taken < 20; round++) taken += yield* claims(100)
        assert.strictEqual(taken, 20)
      })
    )
  }
)

it.layer(TestDatabase.layer, { timeout: "120 seconds" })("JobResources, plans", (it) => {
  it.effect("a key that is taken costs a claim the same, however many of its jobs wait", () =>
    Effect.gen(function* () {
      yield* declare
      const sql = yield* SqlClient
      const key = newKey()
      const backlog = (count: number) => sql`
        INSERT INTO runledger.job_queue (
          job_type, payload, priority, max_attempts, next_run_at, execution_resource_key, created_at, updated_at
        )
        SELECT ${type}, '{}', n % 2, 3, at, ${key}, at, at
        FROM (SELECT clock_timestamp() - interval '1 hour' AS at) c, generate_series(1, ${count}::integer) n`
      yield* backlog(50)
      yield* add(undefined, 20)
      assert.strictEqual((yield* claim(1)).length, 1)
      const plans = Effect.gen(function* () {
        const taken: Array<Plan> = []
        for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
          const plan = yield* rollback(
            Effect.gen(function* () {
              yield* planWith(mode)
              const [statement] = yield* record(Jobs.claim({ workerId: "worker", types: [type], limit: 10 }))
              const { explain } = yield* prepare(statement ?? assert.fail())
              return yield* explain(statement?.parameters ?? [])
            })
          )
          taken.push(plan)
        }
        return taken
      })
      const small = yield* plans
      yield* backlog(100_000)
      yield* sql`VACUUM (ANALYZE) runledger.job_queue`
      const large = yield* plans
      for (const [n, plan] of large.entries()) {
        assert.notInclude(plan.scanned, "job_queue")
        assert.isFalse(plan.compiled)
        assert.isAtMost(plan.buffers, (small[n]?.buffers ?? 0) * 1.6 + 40)
      }
    })
  )
})

it.layer(TestDatabase.layer)("JobResources, an exit", (it) => {
  it.effect("a claimer that dies in the middle leaves nothing behind", () =>
    Effect.gen(function* () {
      yield* declare
      const key = newKey()
      yield* JobResources.upsert(key, { permits: 2, rate: { permits: 2, per: "1 hour" } })
      yield* add(key, 3)
      const exit = yield* Effect.exit(rollback(Effect.andThen(claim(2), Effect.fail("died"))))
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(yield* claims(), 2)
    })
  )
})
