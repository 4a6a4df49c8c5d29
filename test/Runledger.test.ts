import { assert, it } from "@effect/vitest"
import { ConfigProvider, DateTime, Effect, Exit, Layer, Option, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import {
  Health,
  Job,
  JobDefinitions,
  JobIntents,
  JobLogs,
  JobResources,
  JobSchedules,
  Jobs,
  Runledger,
  TenantScope,
  Workflow,
  Workflows
} from "../src/index.ts"
import * as Pooler from "./support/pooler.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global } = TenantScope

class Work extends Job.make("service.work", {
  payload: { n: Schema.Int },
  success: Schema.Struct({ doubled: Schema.Int }),
  retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 }
}) {}

const Approval = Schema.Struct({ by: Schema.String })

const approved = Workflow.make("service.approved", {})
  .each("work", Work, [{ n: 1 }, { n: 2 }])
  .external("approval", { success: Approval }, { after: ["work"] })
  .step("sum", Work, { n: 20 }, { after: ["approval"] })
  .result("sum")

const WorkLive = Work.toLayer(
  Effect.fnUntraced(function* ({ n }) {
    yield* Effect.logInfo("at work")
    if (n < 0) return yield* Effect.die("negative")
    return { doubled: 2 * n }
  })
)

const eventually = <A, E, R>(self: Effect.Effect<A, E, R>, isSo: (value: A) => boolean) =>
  self.pipe(
    Effect.filterOrFail(isSo, (value) => new Error(`it is ${JSON.stringify(value)}`)),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("20 seconds")
  )

const ended = (jobId: Jobs.JobId, status: Jobs.Status) =>
  eventually(Effect.flatMap(Jobs.get(admin, jobId), Effect.fromOption), (job) => job.status === status)

const quick = {
  jobs: [Work],
  worker: { pollInterval: "50 millis", lease: "3 seconds", drainTimeout: "1 second" },
  reaper: { interval: "100 millis" },
  scheduler: { interval: "100 millis" },
  promoter: { pollInterval: "50 millis" },
  retention: { ages: { canceled: "1 millis" }, interval: "50 millis" }
} as const

/** Everything that a service does, once. */
const everything = Effect.gen(function* () {
  const sql = yield* SqlClient

  // a schedule that was due while nobody ran fires once, and its job runs
  yield* JobDefinitions.declare(Work)
  yield* JobSchedules.upsert(
    JobSchedules.schedule(
      "service.nightly",
      Work,
      { n: 3 },
      { cron: "0 3 * * *", nextFireAt: DateTime.subtract(yield* DateTime.now, { hours: 1 }) }
    )
  )
  // what was recorded for the type becomes a job
  const { intentId } = yield* JobIntents.record(Work, { n: 4 }, { idempotencyKey: "recorded" })
  // a worker that is gone: the reaper gives its job to ours
  const { jobId: left } = yield* Jobs.enqueue(Work, { n: 5 })
  yield* Jobs.claim({ workerId: "gone", types: [Work.jobType], limit: 10, lease: "1 second" })

  yield* Layer.build(Layer.provide(Runledger.layer(quick), WorkLive))

  const [fired] = yield* eventually(
    sql<{ id: Jobs.JobId }>`SELECT id FROM runledger.job_queue WHERE payload ->> 'n' = '3'`,
    (rows) => rows.length === 1
  )
  const promoted = yield* eventually(
    Effect.flatMap(JobIntents.get(global, intentId), Effect.fromOption),
    (intent) => intent.status === "PROMOTED"
  )
  for (const jobId of [left, fired?.id ?? assert.fail(), Option.getOrThrow(promoted.promotedJobId)]) {
    yield* ended(jobId, "SUCCEEDED")
  }

  // permits, kept by the database for both workers of a key
  yield* JobResources.upsert("printer", { permits: 2 })
  const printed = yield* Effect.forEach(
    Array.from({ length: 6 }),
    () => sql.withTransaction(Jobs.enqueue(Work, { n: 6 }, { executionResourceKey: "printer" })),
    { concurrency: 3 }
  )
  for (const { jobId } of printed) yield* ended(jobId, "SUCCEEDED")

  const run = yield* Workflows.enqueue(approved)
  yield* eventually(Effect.exit(Workflows.completeExternal(run, "approval", { by: "ops" })), Exit.isSuccess)
  assert.deepStrictEqual(yield* Workflows.awaitResult(run, { timeout: "20 seconds" }), { doubled: 40 })

  // what has ended can be done again
  const source = yield* ended(left, "SUCCEEDED")
  const replayed = yield* Jobs.replay({
    scope: global,
    sourceJobId: source.id,
    expectedRunNumber: source.runNumber,
    requestKey: "again",
    reason: "test"
  })
  if (replayed._tag !== "Replayed") return assert.fail(replayed._tag)
  yield* ended(replayed.replay.jobId, "SUCCEEDED")
  const buried = yield* Jobs.enqueue(Work, { n: -1 })
  yield* ended(buried.jobId, "DEAD_LETTERED")
  const redriven = yield* Jobs.redriveDeadLetters({ scope: global, reason: "test" })
  assert.deepStrictEqual(
    redriven.jobs.map(({ jobId }) => jobId),
    [buried.jobId]
  )
  const again = yield* ended(buried.jobId, "DEAD_LETTERED")
  assert.strictEqual(again.runNumber, 2)

  // what may go when it is old is gone
  const { jobId: canceled } = yield* Jobs.enqueue(Work, { n: 7 }, { delay: "1 hour" })
  yield* Jobs.cancel(global, canceled)
  yield* eventually(Jobs.get(admin, canceled), Option.isNone)

  yield* eventually(JobLogs.list(admin, source.id), (lines) => lines.length > 0)
  const [metrics] = yield* Jobs.metrics({ scope: admin, jobType: Work.jobType })
  assert.isAbove(metrics?.succeeded ?? 0, 10)
  const { findings } = yield* Health.check()
  assert.deepStrictEqual(
    findings.filter(({ verdict }) => verdict === "fail"),
    []
  )
})

it.live(
  "one layer runs what is due, scheduled, recorded and left behind, and deletes what is old",
  () => Effect.scoped(everything).pipe(Effect.provide(TestDatabase.layer)),
  60_000
)

it.live.each(["refused", "ignored"] as const)(
  "and so it does through a pooler in transaction mode, without a word heard, where LISTEN is %s",
  (listens) =>
    Pooler.pooled(listens, (pooler) =>
      Effect.andThen(
        everything,
        Effect.sync(() => {
          assert.strictEqual(pooler.listens(), 0)
          assert.strictEqual(pooler.spread(), 3, "its connections were served by all backends")
        })
      )
    ),
  60_000
)

const running = (options: Partial<Runledger.RunledgerOptions<readonly [typeof Work]>>) =>
  Layer.build(Layer.provide(Runledger.layer({ ...quick, ...options }), WorkLive))

it.live("what is switched off does not run", () =>
  Effect.gen(function* () {
    yield* running({ worker: false, scheduler: false, promoter: false })
    yield* JobDefinitions.declare(Work)
    const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
    yield* JobIntents.record(Work, { n: 2 }, { idempotencyKey: "2" })
    const other = yield* Jobs.enqueue(Work, { n: 3 }, { priority: 1 })
    yield* Jobs.claim({ workerId: "gone", types: [Work.jobType], limit: 1, lease: 1 })
    // the reaper runs; had the others run, they would have had as much time
    yield* ended(other.jobId, "PENDING")
    assert.strictEqual(yield* Jobs.count({ scope: admin }), 2)
    assert.strictEqual((yield* ended(jobId, "PENDING")).attempt, 0)
  }).pipe(Effect.scoped, Effect.provide(TestDatabase.layer))
)

it.live("bad settings are refused when it is built, and variables are read", () =>
  Effect.gen(function* () {
    const refused = (options: Partial<Runledger.RunledgerOptions<readonly [typeof Work]>>) =>
      Effect.map(Effect.flip(running(options)), String)
    assert.include(yield* refused({ worker: { concurrency: 0 } }), "concurrency")
    assert.include(yield* refused({ reaper: { limit: 0 } }), "limit")
    assert.include(yield* refused({ scheduler: { interval: 0 } }), "interval")
    assert.include(yield* refused({ promoter: { batchSize: 0 } }), "batchSize")
    assert.include(yield* refused({ retention: { ages: { succeeded: "Infinity" } } }), "ages")
    const configured = (variables: Record<string, string>) =>
      Layer.build(Layer.provide(Runledger.layerConfig({ jobs: [Work] }), WorkLive)).pipe(
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(variables)))
      )
    assert.include(
      String(yield* Effect.flip(configured({ JOBS_SCHEDULE_POLL_INTERVAL_SECONDS: "x" }))),
      "JOBS_SCHEDULE"
    )
    assert.include(String(yield* Effect.flip(configured({ JOBS_REAPER_INTERVAL_SECONDS: "0" }))), "interval")
    yield* configured({ JOBS_MAX_GLOBAL_CONCURRENCY: "2" })
  }).pipe(Effect.scoped, Effect.provide(TestDatabase.layer))
)
