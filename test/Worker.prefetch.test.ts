import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Layer, Option, Queue, Schedule, Schema, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Notifications from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Worker from "../src/Worker.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

class Work extends Job.make("work", { payload: { n: Schema.Int } }) {}

const get = (jobId: Jobs.JobId) =>
  Effect.flatMap(Jobs.get(TenantScope.admin, jobId), (found) =>
    Option.match(found, { onNone: () => Effect.die(`no job ${jobId}`), onSome: Effect.succeed })
  )

/** The job once it is as asked, within ten seconds. */
const until = (jobId: Jobs.JobId, isSo: (job: Jobs.JobRecord) => boolean) =>
  Effect.filterOrFail(get(jobId), isSo, (job) => new Error(`it is ${job.status}, ${job.stage}`)).pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

const isLeased = ({ status }: Jobs.JobRecord) => status === "LEASED"
const hasEnded = ({ isTerminal }: Jobs.JobRecord) => isTerminal

const attemptsOf = (jobId: Jobs.JobId) => Jobs.attempts(TenantScope.admin, jobId)

const enqueue = (n: number) => Effect.map(Jobs.enqueue(Work, { n }), ({ jobId }) => jobId)

/** A worker of one slot whose handlers say that they began, and end when they are let go. */
const working = Effect.fnUntraced(function* (settings: Worker.WorkerSettings) {
  const began = yield* Queue.unbounded<number>()
  const gates = new Map<number, Deferred.Deferred<void>>()
  const gate = (n: number) => {
    const known = gates.get(n) ?? Deferred.makeUnsafe<void>()
    gates.set(n, known)
    return known
  }
  const handlers = Work.toLayer(({ n }) =>
    Effect.andThen(
      Queue.offer(began, n),
      Effect.suspend(() => Deferred.await(gate(n)))
    )
  )
  const worker = Worker.layer({
    concurrency: 1,
    pollInterval: "20 millis",
    drainTimeout: 0,
    ...settings,
    jobs: [Work]
  })
  yield* Layer.build(Layer.provide(Layer.fresh(worker), handlers))
  return { began, letGo: (n: number) => Deferred.succeed(gate(n), undefined) }
})

const test = (name: string, body: Effect.Effect<void, unknown, SqlClient | Scope.Scope>) =>
  it.live(name, () => Effect.provide(Effect.scoped(body), TestDatabase.layer), 30_000)

test(
  "leases ahead of its slots without starting, and starts in order, each job once",
  Effect.gen(function* () {
    const { began, letGo } = yield* working({ prefetch: 2, lease: "60 seconds" })
    const jobs = yield* Effect.forEach([0, 1, 2, 3, 4], enqueue)
    assert.strictEqual(yield* Queue.take(began), 0)
    for (const jobId of jobs.slice(1, 3)) {
      const job = yield* until(jobId, isLeased)
      assert.strictEqual(job.stage, "queued")
      const [attempt] = yield* attemptsOf(jobId)
      assert.strictEqual(attempt?.claimOrigin, "WORKER_PRESTART")
      assert.deepStrictEqual(attempt?.startedAt, Option.none())
    }
    for (const jobId of jobs.slice(3)) assert.strictEqual((yield* get(jobId)).status, "PENDING")
    for (const [n, jobId] of jobs.entries()) {
      if (n > 0) assert.strictEqual(yield* Queue.take(began), n)
      assert.strictEqual((yield* get(jobId)).stage, "running")
      yield* letGo(n)
    }
    for (const jobId of jobs) {
      assert.strictEqual((yield* until(jobId, hasEnded)).status, "SUCCEEDED")
      const attempts = yield* attemptsOf(jobId)
      assert.strictEqual(attempts.length, 1)
      assert.isTrue(Option.isSome(attempts[0]?.startedAt ?? Option.none()))
      const events = yield* Jobs.events(TenantScope.admin, jobId)
      assert.deepStrictEqual(
        events.map(({ type }) => type),
        ["ENQUEUED", "LEASED", "STAGE_CHANGED", "SUCCEEDED"]
      )
    }
    assert.strictEqual(yield* Queue.size(began), 0)
  })
)

test(
  "keeps many slots busy with what it holds ahead, each job once",
  Effect.gen(function* () {
    const { began, letGo } = yield* working({ concurrency: 4, prefetch: 6, claimBatchSize: 3 })
    yield* Effect.forEach(
      Array.from({ length: 60 }, (_, n) => n),
      letGo,
      { discard: true }
    )
    const answers = yield* Jobs.enqueueMany(Array.from({ length: 60 }, (_, n) => Jobs.request(Work, { n })))
    for (const answer of answers) {
      const { jobId } = yield* Effect.fromResult(answer)
      assert.strictEqual((yield* until(jobId, hasEnded)).status, "SUCCEEDED")
      assert.strictEqual((yield* attemptsOf(jobId)).length, 1)
    }
    const ran = yield* Queue.takeAll(began)
    assert.deepStrictEqual(
      ran.sort((a, b) => a - b),
      Array.from({ length: 60 }, (_, n) => n)
    )
  })
)

test(
  "renews the leases of jobs that wait",
  Effect.gen(function* () {
    yield* working({ prefetch: 1, lease: "2 seconds" })
    yield* enqueue(0)
    const jobId = yield* enqueue(1)
    const first = yield* until(jobId, isLeased)
    const later = yield* until(jobId, ({ leaseExpiresAt }) =>
      Option.getOrElse(Option.zipWith(leaseExpiresAt, first.leaseExpiresAt, DateTime.isGreaterThan), () => false)
    )
    assert.strictEqual(later.attempt, 1)
    assert.strictEqual(later.stage, "queued")
  })
)

test(
  "gives back what waits when its scope is closed, at no cost of an attempt",
  Effect.gen(function* () {
    const jobs = yield* Effect.forEach([0, 1, 2], enqueue)
    yield* Effect.scoped(
      Effect.gen(function* () {
        const { began } = yield* working({ prefetch: 2, workerId: "closed" })
        yield* Queue.take(began)
        for (const jobId of jobs) yield* until(jobId, isLeased)
      })
    )
    for (const jobId of jobs.slice(1)) {
      const job = yield* get(jobId)
      assert.strictEqual(job.status, "PENDING")
      assert.strictEqual(job.attempt, 0)
      assert.deepStrictEqual(yield* attemptsOf(jobId), [])
    }
    // under the same fence as before
    const again = yield* Jobs.claim({ workerId: "closed", types: ["work"], limit: 3 })
    assert.deepStrictEqual(again.map(({ lease }) => lease.jobId).sort(), [...jobs].sort())
  })
)

/** Another worker is given the lease. */
const steal = (jobId: Jobs.JobId) =>
  SqlClient.use((sql) => sql`UPDATE runledger.job_queue SET worker_id = 'another' WHERE id = ${jobId}::uuid`)

test(
  "does not run what it has lost, as the start tells",
  Effect.gen(function* () {
    // no heartbeat in time
    const { began, letGo } = yield* working({ prefetch: 2, lease: "60 seconds" })
    const jobs = yield* Effect.forEach([0, 1, 2], enqueue)
    const [, lost, next] = jobs
    assert.strictEqual(yield* Queue.take(began), 0)
    for (const jobId of jobs) yield* until(jobId, isLeased)
    if (lost === undefined || next === undefined) return
    yield* steal(lost)
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 2)
    assert.strictEqual((yield* get(lost)).stage, "queued")
    yield* Jobs.completeSuccess({ jobId: lost, runNumber: 1, attempt: 1, workerId: "another" })
    yield* letGo(2)
    yield* until(next, hasEnded)
    assert.strictEqual(yield* Queue.size(began), 0)
  })
)

test(
  "takes another one for what it has lost, as a heartbeat tells",
  Effect.gen(function* () {
    const { began, letGo } = yield* working({ prefetch: 1, lease: "1 second" })
    yield* enqueue(0)
    const lost = yield* enqueue(1)
    assert.strictEqual(yield* Queue.take(began), 0)
    yield* until(lost, isLeased)
    const next = yield* enqueue(2)
    yield* steal(lost)
    yield* until(next, isLeased)
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 2)
    assert.strictEqual(yield* Queue.size(began), 0)
  })
)

test(
  "runs once what it lost and leased again under the same fence",
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { began, letGo } = yield* working({ prefetch: 2, lease: "60 seconds" })
    yield* enqueue(0)
    const jobId = yield* enqueue(1)
    assert.strictEqual(yield* Queue.take(began), 0)
    const first = yield* until(jobId, isLeased)
    yield* sql`UPDATE runledger.job_queue SET lease_expires_at = now() - interval '1 second' WHERE id = ${jobId}::uuid`
    const { leases } = yield* Jobs.reapExpiredLeases({ limit: 10 })
    assert.deepStrictEqual(
      leases.map(({ disposition }) => disposition._tag),
      ["Released"]
    )
    const second = yield* until(jobId, isLeased)
    assert.strictEqual(second.attempt, first.attempt)
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 1)
    yield* letGo(1)
    assert.strictEqual((yield* until(jobId, hasEnded)).status, "SUCCEEDED")
    assert.strictEqual((yield* attemptsOf(jobId)).length, 1)
    assert.strictEqual(yield* Queue.size(began), 0)
  })
)

test(
  "does not run what was canceled",
  Effect.gen(function* () {
    const { began, letGo } = yield* working({ prefetch: 2, lease: "60 seconds" })
    const jobs = yield* Effect.forEach([0, 1, 2], enqueue)
    const [, canceled] = jobs
    assert.strictEqual(yield* Queue.take(began), 0)
    for (const jobId of jobs) yield* until(jobId, isLeased)
    if (canceled === undefined) return
    yield* Jobs.cancel(TenantScope.admin, canceled)
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 2)
    assert.strictEqual((yield* get(canceled)).status, "CANCELED")
    assert.strictEqual(yield* Queue.size(began), 0)
  })
)

test(
  "takes another one at once for what was canceled when listening",
  Effect.gen(function* () {
    const { began, letGo } = yield* working({ prefetch: 1, lease: "60 seconds" })
    yield* enqueue(0)
    const canceled = yield* enqueue(1)
    assert.strictEqual(yield* Queue.take(began), 0)
    yield* until(canceled, isLeased)
    const next = yield* enqueue(2)
    yield* Jobs.cancel(TenantScope.admin, canceled)
    yield* until(next, isLeased)
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 2)
  }).pipe(Effect.provide(Notifications.layer))
)

test(
  "a job that another transaction holds waits, and no slot with it",
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { began, letGo } = yield* working({ prefetch: 2, lease: "60 seconds" })
    const jobs = yield* Effect.forEach([0, 1, 2, 3], enqueue)
    assert.strictEqual(yield* Queue.take(began), 0)
    yield* Effect.forEach(jobs.slice(0, 3), (jobId) => until(jobId, isLeased))
    yield* sql.withTransaction(
      Effect.gen(function* () {
        yield* sql`SELECT FROM runledger.job_queue WHERE id = ${jobs[1]}::uuid FOR UPDATE`
        yield* letGo(0)
        assert.strictEqual(yield* Queue.take(began), 3)
      })
    )
    yield* letGo(3)
    assert.strictEqual(yield* Queue.take(began), 1)
    yield* letGo(1)
    assert.strictEqual(yield* Queue.take(began), 2)
  })
)

const isStart = /started_seq = CASE/

test(
  "starts that fail for a while are tried again, and run the job once",
  Effect.gen(function* () {
    const faults = yield* FaultySqlClient.Faults
    const { began, letGo } = yield* working({ prefetch: 1, lease: "60 seconds" })
    yield* enqueue(0)
    const jobId = yield* enqueue(1)
    assert.strictEqual(yield* Queue.take(began), 0)
    yield* until(jobId, isLeased)
    yield* faults.arm([
      { match: isStart, nth: 1, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState("57P01")) },
      // marked, but we are not told
      { match: isStart, nth: 2, fault: FaultySqlClient.failAfter() }
    ])
    yield* letGo(0)
    assert.strictEqual(yield* Queue.take(began), 1)
    assert.strictEqual((yield* faults.injected).length, 2)
    yield* letGo(1)
    assert.strictEqual((yield* until(jobId, hasEnded)).attempt, 1)
    assert.strictEqual(yield* Queue.size(began), 0)
  }).pipe(Effect.provide(FaultySqlClient.layer()))
)
