import { execFile } from "node:child_process"
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import * as Migrator from "../src/Migrator.ts"
import {
  allSucceeded,
  attemptsOf,
  effectsOf,
  ended,
  enqueue,
  enqueueMany,
  notOnce,
  prepare,
  shutDown
} from "./support/acts.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import * as WorkerProcess from "./support/workerProcess.ts"

/** The processes of a server besides its postmaster. */
const childrenOf = (postmaster: number) =>
  Effect.callback<ReadonlyArray<number>>((resume) => {
    execFile("ps", ["-A", "-o", "pid=,ppid="], (error, text) => {
      if (error !== null) return resume(Effect.die(error))
      const children = text.split("\n").flatMap((line) => {
        const [pid = 0, parent] = line.trim().split(/\s+/).map(Number)
        return parent === postmaster ? [pid] : []
      })
      return resume(Effect.succeed(children))
    })
  })

/** No process of the server gets any time until the scope closes: its connections are open, and nobody answers. */
const frozen = (postmaster: number) =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      // it first: it starts no more
      process.kill(postmaster, "SIGSTOP")
      const pids = [postmaster, ...(yield* childrenOf(postmaster))]
      for (const pid of pids) process.kill(pid, "SIGSTOP")
      return pids
    }),
    (pids) =>
      Effect.sync(() => {
        for (const pid of pids) process.kill(pid, "SIGCONT")
      })
  )

const cpuMillis = Effect.fnUntraced(function* (worker: WorkerProcess.WorkerProcess, times: number) {
  yield* worker.signal("SIGUSR2")
  return Number((yield* worker.said(/^cpu /, times)).slice(4))
})

it.live(
  "a worker whose server is frozen gives up its leases, waits quietly, and goes on once it is thawed",
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
        const worker = yield* WorkerProcess.ready(url, "worker")
        const long = yield* enqueueMany(
          Array.from({ length: 3 }, () => ({ behavior: "slow", millis: 60_000, attempts: 1 })),
          20
        )
        for (const jobId of long) yield* worker.said(new RegExp(`^begin ${jobId} 1$`))
        // what commits is under way in the fourth slot
        const count = 60
        yield* enqueueMany(
          Array.from({ length: count }, () => ({ behavior: "complete", millis: 5 })),
          20
        )
        yield* worker.said(/^over .* Success$/, 5)

        yield* Effect.scoped(
          Effect.gen(function* () {
            assert.isAbove((yield* frozen(server.pid)).length, 3)
            // by its own clock: there is no database that could say so
            for (const jobId of long) yield* worker.said(new RegExp(`^over ${jobId} 1 Failure$`))
            const before = yield* cpuMillis(worker, 1)
            yield* Effect.sleep("3 seconds")
            // a loop that does not wait would have used up nearly all of them
            assert.isBelow((yield* cpuMillis(worker, 2)) - before, 1000)
            assert.isFalse(worker.hasEnded())
          })
        )

        yield* allSucceeded(count + long.length)
        assert.deepStrictEqual(yield* notOnce, [])
        for (const jobId of long) {
          assert.deepStrictEqual(yield* attemptsOf(jobId), [
            ["worker", "LEASE_EXPIRED"],
            ["worker", "SUCCEEDED"]
          ])
          assert.deepStrictEqual(yield* effectsOf(jobId), [[2, worker.pid]])
        }
        assert.deepStrictEqual(
          yield* sql`
            SELECT q.id FROM runledger.job_queue q LEFT JOIN effects e ON e.job_id = q.id
            WHERE q.payload->>'behavior' = 'complete' GROUP BY q.id HAVING count(e.job_id) <> 1`,
          []
        )
        // longer than a lease, which it has to renew
        const further = yield* enqueue({ behavior: "slow", millis: 1300 })
        yield* ended(further)
        assert.deepStrictEqual(yield* attemptsOf(further), [["worker", "SUCCEEDED"]])
        yield* shutDown(worker)
      }).pipe(Effect.provide(PgClient.layer({ url: Redacted.make(url), maxConnections: 3 })))
    }),
  60_000
)
