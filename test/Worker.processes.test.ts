import { spawn } from "node:child_process"
import { lstat, readFile } from "node:fs/promises"
import { join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Layer, Option, Redacted, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import * as Job from "../src/Job.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Migrator from "../src/Migrator.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Worker from "../src/Worker.ts"
import {
  allSucceeded,
  attemptsOf,
  effectsOf,
  ended,
  enqueue,
  enqueueMany,
  get,
  notOnce,
  prepare,
  shutDown,
  statuses,
  test
} from "./support/acts.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import * as WorkerProcess from "./support/workerProcess.ts"

/** Numbers from 0 to 1, the same for the same seed. */
const seeded = (seed: number) => {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

test("four processes on one queue run every job once", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* Effect.forEach([1, 2, 3, 4], (n) => WorkerProcess.ready(url, `worker ${n}`), {
      concurrency: "unbounded"
    })
    const count = 400
    yield* enqueueMany(
      Array.from({ length: count }, () => ({ behavior: "quick" })),
      3
    )
    yield* allSucceeded(count)
    const [attempts] = yield* sql<{ workers: number; count: number }>`
      SELECT count(*)::int4 AS count, count(DISTINCT worker_id)::int4 AS workers FROM runledger.job_attempts`
    assert.strictEqual(attempts?.count, count)
    assert.isAtLeast(attempts?.workers ?? 0, 2)
    assert.deepStrictEqual(yield* notOnce, [])
    assert.deepStrictEqual(
      yield* sql`SELECT count(*)::int4 AS rows, count(DISTINCT job_id)::int4 AS jobs FROM effects WHERE attempt = 1`,
      [{ rows: count, jobs: count }]
    )
  }))

test("processes that are killed at random and started again lose nothing and run nothing twice at once", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const random = seeded(42)
    const count = 240
    yield* enqueueMany(
      Array.from({ length: count }, (_, n) => ({
        behavior: n % 2 === 0 ? "slow" : "complete",
        millis: Math.floor(random() * 60)
      })),
      100
    )
    yield* Effect.forEach(
      [1, 2, 3].map((n) =>
        [1, 2].map((life) => ({ n, life, begun: 1 + Math.floor(random() * 20), wait: random() * 20 }))
      ),
      (lives) =>
        Effect.gen(function* () {
          for (const { n, life, begun, wait } of lives) {
            const worker = yield* WorkerProcess.start(url, `worker ${n}, life ${life}`)
            yield* worker.said(/^begin /, begun)
            yield* Effect.sleep(wait)
            yield* worker.signal("SIGKILL")
            assert.strictEqual((yield* worker.ended).signal, "SIGKILL")
          }
        }),
      { concurrency: "unbounded", discard: true }
    )
    yield* WorkerProcess.start(url, "survivor 1")
    yield* WorkerProcess.start(url, "survivor 2")
    yield* allSucceeded(count)
    assert.deepStrictEqual(yield* statuses, { SUCCEEDED: count })
    assert.deepStrictEqual(yield* notOnce, [])
    const [reaped] = yield* sql<{ count: number }>`
      SELECT count(*)::int4 AS count FROM runledger.job_attempts WHERE ended_as = 'LEASE_EXPIRED'`
    assert.isAbove(reaped?.count ?? 0, 3)
    // what commits together with the completion is there once, whatever was killed
    assert.deepStrictEqual(
      yield* sql`
        SELECT q.id FROM runledger.job_queue q LEFT JOIN effects e ON e.job_id = q.id
        WHERE q.payload->>'behavior' = 'complete' GROUP BY q.id HAVING count(e.job_id) <> 1`,
      []
    )
    // and each attempt that succeeded did what it had to do
    assert.deepStrictEqual(
      yield* sql`
        SELECT a.job_id FROM runledger.job_attempts a
        WHERE a.ended_as = 'SUCCEEDED'
          AND NOT EXISTS (SELECT FROM effects e WHERE e.job_id = a.job_id AND e.attempt = a.attempt)`,
      []
    )
  }))

test("a process that was frozen past its lease stores nothing of what it had begun, and goes on working", (url) =>
  Effect.gen(function* () {
    const frozen = yield* WorkerProcess.ready(url, "frozen")
    const slow = yield* enqueue({ behavior: "slow", millis: 2000 })
    const complete = yield* enqueue({ behavior: "complete", millis: 2000 })
    const long = yield* enqueue({ behavior: "slow", millis: 20_000, attempts: 1 })
    const jobs = [slow, complete, long]
    for (const jobId of jobs) yield* frozen.said(new RegExp(`^begin ${jobId} 1$`))
    yield* frozen.signal("SIGSTOP")

    const other = yield* WorkerProcess.start(url, "other")
    for (const jobId of jobs) yield* other.said(new RegExp(`^begin ${jobId} 2$`))
    // a lease and this are longer than the handlers sleep: those of the frozen process are due, those of the other are not
    yield* Effect.sleep("1200 millis")
    yield* frozen.signal("SIGCONT")
    for (const jobId of jobs) yield* frozen.said(new RegExp(`^over ${jobId} 1 `))
    assert.strictEqual((yield* get(slow)).status, "LEASED")
    assert.strictEqual((yield* get(complete)).status, "LEASED")
    for (const jobId of jobs) assert.strictEqual((yield* ended(jobId)).status, "SUCCEEDED")
    yield* shutDown(other)

    // longer than a lease, which it has to renew
    const further = yield* enqueue({ behavior: "slow", millis: 1300 })
    assert.strictEqual((yield* ended(further)).status, "SUCCEEDED")
    assert.deepStrictEqual(yield* attemptsOf(further), [["frozen", "SUCCEEDED"]])
    // whatever it still had to write is written, or refused
    yield* shutDown(frozen)

    for (const jobId of jobs) {
      assert.deepStrictEqual(yield* attemptsOf(jobId), [
        ["frozen", "LEASE_EXPIRED"],
        ["other", "SUCCEEDED"]
      ])
      assert.deepStrictEqual((yield* get(jobId)).output, Option.some({ pid: other.pid, attempt: 2 }))
    }
    assert.deepStrictEqual(yield* effectsOf(complete), [[2, other.pid]])
    assert.deepStrictEqual(yield* effectsOf(long), [[2, other.pid]])
  }))

test("a job that kills its process at once ends in the dead letters", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const jobId = yield* enqueue({ behavior: "die" })
    const pids: Array<number> = []
    const supervisor = yield* Effect.forkChild(
      Effect.forever(
        Effect.scoped(
          Effect.gen(function* () {
            const worker = yield* WorkerProcess.start(url, `life ${pids.length + 1}`)
            pids.push(worker.pid)
            yield* worker.ended
          })
        )
      )
    )
    const job = yield* ended(jobId)
    // what a process that dies takes along is run again
    const beside = yield* enqueue({ behavior: "quick" })
    assert.strictEqual((yield* ended(beside)).status, "SUCCEEDED")
    yield* Fiber.interrupt(supervisor)

    assert.strictEqual(job.status, "DEAD_LETTERED")
    assert.deepStrictEqual(yield* attemptsOf(jobId), [
      ["life 1", "LEASE_EXPIRED"],
      ["life 2", "LEASE_EXPIRED"],
      ["life 3", "LEASE_EXPIRED"]
    ])
    assert.deepStrictEqual(
      yield* effectsOf(jobId),
      pids.slice(0, 3).map((pid, n) => [n + 1, pid])
    )
    assert.strictEqual((yield* sql`SELECT FROM runledger.job_dead_letters WHERE job_id = ${jobId}`).length, 1)
    assert.deepStrictEqual(yield* attemptsOf(beside), [["life 4", "SUCCEEDED"]])
  }))

test("killed before the commit of its completion, a job runs again; killed after it, it has succeeded", (url) =>
  Effect.gen(function* () {
    const before = yield* enqueue({ behavior: "complete-then-die-before-commit", attempts: 1 })
    const first = yield* WorkerProcess.start(url, "before")
    assert.strictEqual((yield* first.ended).signal, "SIGKILL")
    yield* first.said(new RegExp(`^begin ${before} 1$`))
    assert.deepStrictEqual(yield* effectsOf(before), [])
    assert.notStrictEqual((yield* get(before)).status, "SUCCEEDED")

    const second = yield* WorkerProcess.ready(url, "after")
    assert.strictEqual((yield* ended(before)).status, "SUCCEEDED")
    const after = yield* enqueue({ behavior: "complete-then-die-after-commit" })
    assert.strictEqual((yield* second.ended).signal, "SIGKILL")
    const stored = yield* get(after)
    assert.strictEqual(stored.status, "SUCCEEDED")

    // time enough for a lease to run out, were there one
    const third = yield* WorkerProcess.ready(url, "witness")
    yield* Effect.sleep("1500 millis")
    const further = yield* enqueue({ behavior: "quick" })
    yield* ended(further)
    yield* shutDown(third)

    assert.deepStrictEqual(yield* attemptsOf(before), [
      ["before", "LEASE_EXPIRED"],
      ["after", "SUCCEEDED"]
    ])
    assert.deepStrictEqual(yield* effectsOf(before), [[2, second.pid]])
    assert.deepStrictEqual(yield* attemptsOf(after), [["after", "SUCCEEDED"]])
    assert.deepStrictEqual(yield* effectsOf(after), [[1, second.pid]])
    assert.deepStrictEqual(yield* get(after), stored)
  }))

test("a handler that blocks its process past the lease is retried elsewhere, and its result is refused", (url) =>
  Effect.gen(function* () {
    const workers = yield* Effect.forEach(["a", "b"], (name) => WorkerProcess.ready(url, name), {
      concurrency: "unbounded"
    })
    const jobId = yield* enqueue({ behavior: "block", millis: 3500, attempts: 1 })
    const begun = new RegExp(`^begin ${jobId} 1$`)
    const blocked = yield* Effect.raceAll(workers.map((worker) => Effect.as(worker.said(begun), worker)))
    const other = workers.find((worker) => worker !== blocked)
    if (other === undefined) return yield* Effect.die("there are two")
    const job = yield* ended(jobId)
    const attempts = [
      [blocked.workerId, "LEASE_EXPIRED"],
      [other.workerId, "SUCCEEDED"]
    ]
    assert.deepStrictEqual(yield* attemptsOf(jobId), attempts)
    yield* shutDown(other)

    const over = yield* blocked.said(new RegExp(`^over ${jobId} 1 `))
    assert.match(over, / Success$/, "it had a result to store")
    const further = yield* enqueue({ behavior: "quick" })
    yield* ended(further)
    assert.deepStrictEqual(yield* attemptsOf(further), [[blocked.workerId, "SUCCEEDED"]])
    yield* shutDown(blocked)

    assert.deepStrictEqual(yield* attemptsOf(jobId), attempts)
    assert.deepStrictEqual(yield* get(jobId), job)
    assert.deepStrictEqual(job.output, Option.some({ pid: other.pid, attempt: 2 }))
  }))

test("SIGTERM lets jobs end that end in time, gives back the others at once, and ends the process", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const worker = yield* WorkerProcess.ready(url, "first")
    // one for each of its four slots: no claim is under way that could still bring something
    const short = yield* enqueue({ behavior: "slow", millis: 600 })
    const others = yield* Effect.replicateEffect(enqueue({ behavior: "slow", millis: 600 }), 2)
    const long = yield* enqueue({ behavior: "slow", millis: 20_000, attempts: 1 })
    for (const jobId of [short, ...others, long]) yield* worker.said(new RegExp(`^begin ${jobId} 1$`))
    yield* worker.signal("SIGTERM")
    yield* worker.said(/^stopping$/)
    const late = yield* enqueue({ behavior: "quick" })
    const { code, signal } = yield* worker.ended
    assert.isNull(signal)
    assert.include([0, 130, 143], code)

    assert.deepStrictEqual(yield* statuses, { SUCCEEDED: 3, PENDING: 2 })
    assert.strictEqual((yield* get(short)).status, "SUCCEEDED")
    const given = yield* get(long)
    assert.deepStrictEqual(given.lastErrorCode, Option.some("job.worker_shutdown"))
    const [due] = yield* sql<{ now: Date }>`SELECT clock_timestamp() AS now`
    assert.isAtMost(DateTime.toEpochMillis(given.nextRunAt), due?.now.getTime() ?? 0)
    assert.strictEqual((yield* get(late)).attempt, 0, "it claimed nothing after the signal")

    yield* WorkerProcess.start(url, "second")
    yield* allSucceeded(5)
    assert.deepStrictEqual(yield* attemptsOf(long), [
      ["first", "FAILED"],
      ["second", "SUCCEEDED"]
    ])
  }))

class Late extends Job.make("process.late", { payload: { millis: Schema.Int } }) {}

it.live.each([
  { millis: 50, drainTimeout: 5000, status: "SUCCEEDED" },
  { millis: 60_000, drainTimeout: 300, status: "PENDING" }
])("what a claim brings that was under way at the shutdown is drained as well: $status", (each) =>
  Effect.gen(function* () {
    const gate = yield* FaultySqlClient.makeGate
    yield* Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(Late, { millis: each.millis })
      const LateLive = Late.toLayer(({ millis }) => Effect.sleep(millis))
      const worker = Worker.layer({ jobs: [Late], pollInterval: 20, drainTimeout: each.drainTimeout })
      const closing = yield* Effect.scoped(
        Effect.andThen(Layer.build(Layer.provide(worker, LateLive)), gate.reached)
      ).pipe(Effect.forkChild)
      yield* gate.reached
      // the finalizer runs before the claim is answered
      yield* Effect.sleep(50)
      assert.isUndefined(closing.pollUnsafe())
      yield* gate.open
      yield* Effect.timeout(Fiber.join(closing), "20 seconds")
      assert.strictEqual((yield* get(jobId)).status, each.status)
    }).pipe(
      Effect.provide(FaultySqlClient.layer([{ match: /claimed AS/, times: 1, fault: FaultySqlClient.waitAt(gate) }]))
    )
  }).pipe(Effect.provide(TestDatabase.layer))
)

/** Starts a server again that was stopped, with what it had, until the scope closes. */
const startAgain = (server: EmbeddedPostgres.EmbeddedPostgres) =>
  Effect.acquireRelease(
    Effect.promise(async () => {
      const options = await readFile(join(server.dataDirectory, "postmaster.opts"), "utf8")
      const [command = "", ...args] = [...options.matchAll(/"([^"]*)"|(\S+)/g)].map(
        ([, quoted, bare]) => quoted ?? bare ?? ""
      )
      const { uid, gid } = await lstat(server.dataDirectory)
      return spawn(command, args, {
        ...(process.getuid?.() === 0 ? { uid, gid } : {}),
        cwd: server.dataDirectory,
        env: { PATH: process.env.PATH ?? "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" },
        stdio: "ignore"
      })
    }),
    (postmaster) =>
      Effect.callback<void>((resume) => {
        postmaster.once("exit", () => resume(Effect.void))
        if (postmaster.exitCode !== null || postmaster.signalCode !== null) resume(Effect.void)
        else postmaster.kill("SIGQUIT")
      })
  )

it.live(
  "a worker outlives its server: what was under way when it was stopped is finished once it is back",
  () =>
    Effect.gen(function* () {
      const server = yield* EmbeddedPostgres.start({
        major: TestDatabase.major === 15 ? 15 : 18,
        settings: { fsync: "off" }
      })
      const url = `${server.url}/postgres`
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* Migrator.migrate
        yield* prepare
        const count = 200
        yield* enqueueMany(
          Array.from({ length: count }, (_, n) => ({ behavior: n % 2 === 0 ? "slow" : "complete", millis: 50 })),
          20
        )
        const worker = yield* WorkerProcess.ready(url, "worker")
        yield* worker.said(/^begin /, 20)
        yield* server.stop
        // longer than the leases, so that some are lost
        yield* Effect.sleep("2 seconds")
        yield* startAgain(server)
        yield* sql`SELECT`.pipe(Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 200 }))

        const done = (yield* statuses).SUCCEEDED ?? 0
        assert.isBelow(done, count, "there was something left to do")
        yield* allSucceeded(count)
        assert.deepStrictEqual(yield* notOnce, [])
        assert.deepStrictEqual(
          yield* sql`
            SELECT q.id FROM runledger.job_queue q LEFT JOIN effects e ON e.job_id = q.id
            WHERE q.payload->>'behavior' = 'complete' GROUP BY q.id HAVING count(e.job_id) <> 1`,
          []
        )
        assert.isFalse(worker.hasEnded())
        // longer than a lease, which it has to renew
        const further = yield* enqueue({ behavior: "slow", millis: 1300 })
        yield* ended(further)
        assert.deepStrictEqual(yield* attemptsOf(further), [["worker", "SUCCEEDED"]])
        yield* shutDown(worker)
      }).pipe(Effect.provide(PgClient.layer({ url: Redacted.make(url), maxConnections: 3 })))
    }),
  60_000
)
