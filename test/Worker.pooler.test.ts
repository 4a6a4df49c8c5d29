import { assert, it } from "@effect/vitest"
import { DateTime, Deferred, Effect, Layer, Option, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import { JobExecution } from "../src/JobExecution.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Notifications from "../src/Notifications.ts"
import * as Reaper from "../src/Reaper.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Worker from "../src/Worker.ts"
import * as Pooler from "./support/pooler.ts"

class Work extends Job.make("pooled", {
  payload: { how: Schema.Literals(["return", "complete", "wait", "long"]) },
  success: Schema.Struct({ attempt: Schema.Int }),
  maxAttempts: 3,
  timeout: "30 seconds",
  retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 }
}) {}

const until = (jobId: Jobs.JobId, isSo: (job: Jobs.JobRecord) => boolean) =>
  Jobs.get(TenantScope.admin, jobId).pipe(
    Effect.flatMap(Effect.fromOption),
    Effect.filterOrFail(isSo, (job) => new Error(`it is ${job.status}`)),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("20 seconds")
  )

const succeeded = (jobId: Jobs.JobId) => until(jobId, ({ status }) => status === "SUCCEEDED")

/** Waits for a heartbeat of a first attempt. */
const renewed = Effect.fnUntraced(function* (jobId: Jobs.JobId) {
  const expiry = (job: Jobs.JobRecord) =>
    Option.match(job.leaseExpiresAt, { onNone: () => 0, onSome: DateTime.toEpochMillis })
  const leased = yield* until(jobId, ({ status }) => status === "LEASED")
  const later = yield* until(jobId, (job) => expiry(job) > expiry(leased))
  assert.strictEqual(later.attempt, 1)
})

it.live("the pooler forgets what a session was told, and serves a connection by several backends", () =>
  Pooler.pooled(
    "ignored",
    Effect.fnUntraced(function* (pooler) {
      const sql = yield* SqlClient
      const connection = yield* sql.reserve
      const execute = (statement: string) => connection.execute(statement, [], undefined)
      yield* execute("SET application_name = 'told'")
      for (let i = 0; i < 6; i++) {
        assert.deepStrictEqual(yield* execute("SHOW application_name"), [{ application_name: "" }])
      }
      assert.isAbove(pooler.spread(), 1)
    })
  )
)

it.live.each(["refused", "ignored"] as const)(
  "everything works through a pooler in transaction mode, where LISTEN is %s",
  (listens) =>
    Pooler.pooled(
      listens,
      Effect.fnUntraced(function* (pooler) {
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE charges (job_id uuid NOT NULL)`
        const waits = yield* Deferred.make<void>()
        const interrupted = yield* Deferred.make<void>()
        const release = yield* Deferred.make<void>()
        const WorkLive = Work.toLayer(
          Effect.fnUntraced(function* ({ how }) {
            const job = yield* JobExecution
            const { attempt, jobId } = job.lease
            if (how === "wait") {
              yield* Deferred.succeed(waits, undefined)
              return yield* Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))
            }
            if (how === "long") yield* Deferred.await(release)
            yield* job.progress({ done: 1, total: 2, checkpoint: { page: 1 } })
            yield* Effect.logInfo("half way")
            if (how !== "complete") return { attempt }
            return yield* sql
              .withTransaction(
                Effect.andThen(sql`INSERT INTO charges (job_id) VALUES (${jobId})`, job.complete({ attempt }))
              )
              .pipe(Effect.catchTag("SqlError", (error) => Effect.die(error)))
          })
        )
        // a worker that is gone: the reaper gives its job to ours
        const { jobId: left } = yield* Jobs.enqueue(Work, { how: "return" })
        const [claimed] = yield* Jobs.claim({ workerId: "gone", types: ["pooled"], limit: 1, lease: "1 second" })
        assert.strictEqual(claimed?.lease.jobId, left)

        const worker = Worker.layer({ jobs: [Work], pollInterval: "50 millis", lease: "3 seconds" })
        yield* Layer.build(
          Layer.mergeAll(Layer.provide(worker, WorkLive), Reaper.layer({ interval: "100 millis" })).pipe(
            Layer.provide(Notifications.layer)
          )
        )

        const enqueued = yield* Effect.forEach(
          Array.from({ length: 40 }),
          (_, i) =>
            sql
              .withTransaction(Jobs.enqueue(Work, { how: i % 2 === 0 ? "return" : "complete" }))
              .pipe(Effect.map(({ jobId }) => jobId)),
          { concurrency: 8 }
        )
        for (const jobId of enqueued) {
          const job = yield* succeeded(jobId)
          assert.deepStrictEqual(job.output, Option.some({ attempt: 1 }))
          assert.deepStrictEqual(job.progressDone, Option.some(1))
        }
        assert.strictEqual((yield* sql`SELECT FROM charges`).length, 20)
        assert.strictEqual((yield* sql`SELECT DISTINCT job_id FROM charges`).length, 20)
        assert.deepStrictEqual((yield* succeeded(left)).output, Option.some({ attempt: 2 }))
        const [first] = enqueued
        if (first === undefined) return yield* Effect.die("there are forty")
        yield* JobLogs.list(TenantScope.admin, first).pipe(
          Effect.repeat({ until: (lines) => lines.length === 1, schedule: Schedule.spaced("20 millis") }),
          Effect.timeout("10 seconds")
        )

        // by a heartbeat: nothing is heard
        const canceled = yield* Jobs.enqueue(Work, { how: "wait" })
        yield* Deferred.await(waits)
        yield* Jobs.cancel(TenantScope.admin, canceled.jobId)
        yield* Effect.timeout(Deferred.await(interrupted), "5 seconds")
        yield* until(canceled.jobId, ({ status }) => status === "CANCELED")

        const long = yield* Jobs.enqueue(Work, { how: "long" })
        yield* renewed(long.jobId)
        yield* Deferred.succeed(release, undefined)
        assert.deepStrictEqual((yield* succeeded(long.jobId)).output, Option.some({ attempt: 1 }))

        assert.isAbove(pooler.listens(), 0, "the listener has tried")
        assert.strictEqual(pooler.spread(), 3, "and its connections were served by all backends")
      })
    ),
  60_000
)

it.live(
  "leases are renewed also where the default isolation is another, and no session can be told otherwise",
  () =>
    Pooler.pooled(
      "ignored",
      Effect.fnUntraced(function* () {
        const release = yield* Deferred.make<void>()
        const WorkLive = Work.toLayer(() => Effect.as(Deferred.await(release), { attempt: 1 }))
        yield* Layer.build(
          Layer.provide(Worker.layer({ jobs: [Work], pollInterval: "50 millis", lease: "3 seconds" }), WorkLive)
        )
        const { jobId } = yield* Jobs.enqueue(Work, { how: "long" })
        yield* renewed(jobId)
        yield* Deferred.succeed(release, undefined)
        yield* succeeded(jobId)
      }),
      "repeatable read"
    ),
  60_000
)
