import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const workerId = "worker"

const declare = Effect.fnUntraced(function* (name: string, settings?: JobDefinitions.DefinitionSettings) {
  const jobType = `${name}-${crypto.randomUUID()}`
  yield* JobDefinitions.upsert(jobType, settings)
  return jobType
})

/** Enqueues a job that is known by its payload. */
const add = (jobType: string, payload: string, options?: Jobs.EnqueueOptions) => Jobs.enqueue(jobType, payload, options)

const take = (types: Jobs.ClaimOptions["types"], limit: number) =>
  Effect.map(Jobs.claim({ workerId, types, limit }), (jobs) => jobs.map(({ payload }) => payload))

const attemptsUsed = (jobType: string) =>
  SqlClient.use(
    (sql) => sql`SELECT DISTINCT status, attempt, event_seq FROM runledger.job_queue WHERE job_type = ${jobType}`
  )

const untouched = [{ status: "PENDING", attempt: 0, event_seq: 1 }]

// both ways to claim choose alike
for (const [title, claim] of [
  ["claim", Jobs.claim],
  ["claimPrestart", Jobs.claimPrestart]
] as const) {
  it.layer(TestDatabase.layerTestClock)(`${title}: who is next`, (it) => {
    const take = (types: Jobs.ClaimOptions["types"], limit: number) =>
      Effect.map(claim({ workerId, types, limit }), (jobs) => jobs.map(({ payload }) => payload))

    it.effect("higher priority first, in the whole range", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("priority")
        for (const priority of [0, -100, 100, 7, -1, 99]) yield* add(jobType, String(priority), { priority })
        const order = ["100", "99", "7", "0", "-1", "-100"]
        assert.deepStrictEqual(yield* rollback(take([jobType], 6)), order)
        // one by one, the same
        for (const priority of order) assert.deepStrictEqual(yield* take([jobType], 1), [priority])
      })
    )

    it.effect("first in, first out within a lane, also within one batch", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("fifo")
        const names = Array.from({ length: 20 }, (_, index) => `job ${index}`)
        yield* Jobs.enqueueMany(names.slice(0, 10).map((payload) => ({ jobType, payload })))
        for (const name of names.slice(10)) yield* add(jobType, name)
        assert.deepStrictEqual(yield* rollback(take([jobType], 100)), names)
        const singly = yield* Effect.forEach(names, () => take([jobType], 1))
        assert.deepStrictEqual(singly.flat(), names)
      })
    )

    it.effect("within a lane the due time goes before the age", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("due")
        yield* add(jobType, "later", { delay: "2 seconds" })
        yield* add(jobType, "sooner", { delay: "1 second" })
        yield* add(jobType, "long ago", { runAt: DateTime.makeUnsafe("2000-01-01T00:00:00Z") })
        yield* TestClock.adjust("2 seconds")
        yield* add(jobType, "now")
        // due at the same instant: the older one first
        assert.deepStrictEqual(yield* take([jobType], 10), ["long ago", "sooner", "later", "now"])
      })
    )

    it.effect("among types of equal priority, the one whose head has waited longest goes first", () =>
      Effect.gen(function* () {
        const [a, b, c] = [yield* declare("a"), yield* declare("b"), yield* declare("c")]
        yield* add(b, "b1")
        yield* TestClock.adjust(1)
        yield* add(c, "c1")
        yield* TestClock.adjust(1)
        yield* add(a, "a1")
        yield* add(a, "a2", { priority: 1 })
        const types = [a, b, c]
        const order = ["a2", "b1", "c1", "a1"]
        assert.deepStrictEqual(yield* rollback(take(types, 4)), order)
        assert.deepStrictEqual(yield* rollback(take(types.toReversed(), 4)), order)
        for (const next of order) assert.deepStrictEqual(yield* take(types, 1), [next])
      })
    )

    it.effect("a lane that is fed without end does not starve another of equal priority", () =>
      Effect.gen(function* () {
        const [busy, quiet] = [yield* declare("busy"), yield* declare("quiet")]
        for (let n = 0; n < 3; n++) yield* add(busy, "busy")
        yield* TestClock.adjust(1)
        yield* add(quiet, "quiet")
        const seen: Array<unknown> = []
        while (!seen.includes("quiet") && seen.length < 50) {
          yield* TestClock.adjust(1)
          yield* add(busy, "busy")
          seen.push(...(yield* take([busy, quiet], 1)))
        }
        assert.deepStrictEqual(seen, ["busy", "busy", "busy", "quiet"])
      })
    )

    it.effect("takes as many as asked, from as many lanes as that needs", () =>
      Effect.gen(function* () {
        const types = yield* Effect.forEach(["a", "b", "c"], (name) => declare(name))
        const all: Array<string> = []
        for (const [index, jobType] of types.entries()) {
          for (const priority of [0, 5, 9]) {
            for (let n = 0; n < 3; n++) {
              all.push(`${index} ${priority} ${n}`)
              yield* add(jobType, `${index} ${priority} ${n}`, { priority })
            }
          }
        }
        // by priority, then by time, which is the order above
        const order = [9, 5, 0].flatMap((priority) => all.filter((name) => name.split(" ")[1] === String(priority)))
        for (let limit = 1; limit <= 28; limit++) {
          const taken = yield* rollback(take(types, limit))
          assert.deepStrictEqual(taken, order.slice(0, limit), `${limit}`)
        }
      })
    )

    it.effect("serves hundreds of lanes in one claim, each job once", () =>
      Effect.gen(function* () {
        const types = yield* Effect.forEach(Array.from({ length: 20 }), () => declare("many"))
        const requests = types.flatMap((jobType) =>
          Array.from({ length: 21 }, (_, n) => ({ jobType, payload: `${jobType} ${n}`, priority: n * 10 - 100 }))
        )
        yield* Jobs.enqueueMany(requests)
        const taken = yield* take(types, 1000)
        assert.strictEqual(taken.length, 420)
        assert.strictEqual(new Set(taken).size, 420)
        assert.deepStrictEqual(yield* take(types, 1000), [])
      })
    )

    it.effect("newer payloads stay where they are, at no cost, for workers that know them", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("version")
        for (const payloadVersion of [3, 1, 2]) {
          yield* add(jobType, `v${payloadVersion}`, { payloadVersion, priority: payloadVersion })
        }
        const upTo = (maxPayloadVersion: number) => take([{ jobType, maxPayloadVersion }], 10)
        assert.deepStrictEqual(yield* rollback(take([jobType], 10)), ["v1"])
        assert.deepStrictEqual(yield* rollback(upTo(2)), ["v2", "v1"])
        assert.deepStrictEqual(yield* rollback(upTo(2_147_483_647)), ["v3", "v2", "v1"])
        assert.deepStrictEqual(yield* upTo(2), ["v2", "v1"])
        assert.deepStrictEqual(yield* upTo(2), [])
        assert.deepStrictEqual(
          (yield* Jobs.list({ scope: TenantScope.global, jobType, status: "PENDING" })).map(({ attempt }) => attempt),
          [0]
        )
        // a type that is named twice is served up to the newer version
        assert.deepStrictEqual(yield* take([{ jobType, maxPayloadVersion: 3 }, jobType], 10), ["v3"])
      })
    )

    it.effect("types that are not served are left alone, also where one is the beginning of another", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("served")
        const longer = `${jobType}.more`
        const shouted = jobType.toUpperCase()
        for (const other of [longer, shouted]) {
          yield* JobDefinitions.upsert(other)
          yield* add(other, "other")
        }
        assert.deepStrictEqual(yield* take([jobType], 10), [])
        assert.deepStrictEqual(yield* attemptsUsed(longer), untouched)
        assert.deepStrictEqual(yield* attemptsUsed(shouted), untouched)
        assert.deepStrictEqual(yield* take([], 10), [])
        assert.deepStrictEqual(yield* take(["nobody knows this"], 10), [])
      })
    )

    it.effect("jobs of the future are left alone, and do not hide due ones of lower priority", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("future")
        yield* add(jobType, "tomorrow", { priority: 100, delay: "1 day" })
        yield* add(jobType, "in a moment", { delay: 1 })
        yield* add(jobType, "now", { priority: -100 })
        assert.deepStrictEqual(yield* take([jobType], 10), ["now"])
        assert.deepStrictEqual(yield* take([jobType], 10), [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* take([jobType], 10), ["in a moment"])
      })
    )

    it.effect("a disabled type still drains", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("disabled")
        yield* add(jobType, "left")
        yield* JobDefinitions.update(jobType, { isEnabled: false })
        assert.deepStrictEqual(yield* take([jobType], 10), ["left"])
      })
    )

    it.effect("a job that is leased or finished is not claimed again", () =>
      Effect.gen(function* () {
        const jobType = yield* declare("taken")
        for (const name of ["success", "failure", "canceled", "leased"]) yield* add(jobType, name)
        const [success, failure, canceled, leased] = yield* claim({ workerId, types: [jobType], limit: 4 })
        if (success === undefined || failure === undefined || canceled === undefined || leased === undefined) {
          return yield* Effect.die("too few")
        }
        yield* Jobs.completeSuccess(success.lease)
        yield* Jobs.completeFailure(failure.lease, { kind: "TERMINAL", code: "no", message: "no" })
        yield* Jobs.cancel(TenantScope.global, canceled.lease.jobId)
        assert.deepStrictEqual(yield* take([jobType], 10), [])
        // an expired lease is the reaper's: nobody else takes it over
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* take([jobType], 10), [])
        return undefined
      })
    )

    it.effect("jobs of workflow steps are claimed as any other, and say so", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobType = yield* declare("step")
        yield* add(jobType, "step")
        const [runId, stepId] = [crypto.randomUUID(), crypto.randomUUID()]
        yield* sql`
          UPDATE runledger.job_queue SET workflow_run_id = ${runId}::uuid, workflow_step_id = ${stepId}::uuid
          WHERE job_type = ${jobType}
        `
        const [job] = yield* claim({ workerId, types: [jobType], limit: 1 })
        assert.deepStrictEqual(job?.workflow, Option.some({ runId, stepId }))
      })
    )
  })
}

/** Runs `self` in a transaction of another fiber, which stays open until it is rolled back. */
const heldOpen = Effect.fnUntraced(function* <A, E, R>(self: Effect.Effect<A, E, R>) {
  const sql = yield* SqlClient
  const done = yield* Deferred.make<A, E>()
  const released = yield* Deferred.make<never, "rolled back">()
  const fiber = yield* Effect.exit(self).pipe(
    Effect.flatMap((exit) => Deferred.done(done, exit)),
    Effect.andThen(Deferred.await(released)),
    sql.withTransaction,
    Effect.exit,
    Effect.forkScoped
  )
  const result = yield* Deferred.await(done)
  return { result, rollback: Effect.andThen(Deferred.fail(released, "rolled back"), Fiber.await(fiber)) }
})

it.layer(TestDatabase.layerWith({ maxConnections: 12 }))("claim: several at once", (it) => {
  it.effect("claimers share nothing, and together take everything", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("shared")
      yield* Jobs.enqueueMany(Array.from({ length: 300 }, (_, n) => ({ jobType, payload: String(n), priority: n % 3 })))
      const claimer = (name: number) =>
        Effect.gen(function* () {
          const taken: Array<string> = []
          for (;;) {
            const jobs = yield* Jobs.claim({ workerId: `worker ${name}`, types: [jobType], limit: 7 })
            if (jobs.length === 0) return taken
            for (const { lease } of jobs) {
              assert.strictEqual(lease.workerId, `worker ${name}`)
              taken.push(lease.jobId)
            }
          }
        })
      const taken = (yield* Effect.forEach([1, 2, 3, 4, 5, 6, 7, 8], claimer, { concurrency: 8 })).flat()
      assert.strictEqual(taken.length, 300)
      assert.strictEqual(new Set(taken).size, 300)
      assert.deepStrictEqual(yield* attemptsUsed(jobType), [{ status: "LEASED", attempt: 1, event_seq: 3 }])
    })
  )

  it.effect("a claim that is not committed hides its jobs, and gives them back when it is rolled back", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("pending")
      for (const name of ["first", "second"]) yield* add(jobType, name)
      const claiming = yield* heldOpen(take([jobType], 1))
      assert.deepStrictEqual(claiming.result, ["first"])
      assert.deepStrictEqual(yield* take([jobType], 10), ["second"])
      yield* claiming.rollback
      assert.deepStrictEqual(yield* take([jobType], 10), ["first"])
    })
  )

  it.effect("a job that a foreign key of the application refers to is claimed nevertheless", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("referred")
      const { jobId } = yield* add(jobType, "job")
      yield* sql`CREATE TABLE IF NOT EXISTS receipts (job_id uuid REFERENCES runledger.job_queue (id))`
      const referring = yield* heldOpen(sql`INSERT INTO receipts VALUES (${jobId}::uuid)`)
      assert.deepStrictEqual(yield* take([jobType], 10), ["job"])
      yield* referring.rollback
      yield* sql`DROP TABLE receipts`
    })
  )
})
