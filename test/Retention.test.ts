import { assert, it } from "@effect/vitest"
import { Effect, Exit, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { Health, JobIntents, JobLogs, JobResources, Jobs, Retention, Workflows } from "../src/index.ts"
import { standing } from "./support/races.ts"
import * as Given from "./support/retention.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { gate, reasonOf, jobType as stepType } from "./support/workflows.ts"

const { admin, assertNoOrphans, census, claim, left, pass, startOver, totalOf, type } = Given

const hour = "1 hour"
const everything = { succeeded: 0, canceled: 0, deadLettered: 0, runs: 0, intents: 0, logs: 0, permits: 0 } as const
const tick = TestClock.adjust("1 millis")

it.layer(TestDatabase.layerTestClock, { timeout: "120 seconds" })("Retention", (it) => {
  it.effect("each status has its age, to the millisecond, and what is left out is kept for ever", () =>
    Effect.gen(function* () {
      for (const name of ["succeeded", "canceled", "deadLettered"] as const) {
        yield* startOver
        const jobs = {
          succeeded: yield* Given.succeeded(),
          canceled: yield* Given.canceled(),
          deadLettered: yield* Given.deadLettered()
        }
        yield* Given.pending({ priority: 100 })
        yield* claim
        yield* Given.pending()
        yield* TestClock.adjust(hour)
        assert.strictEqual(totalOf(yield* pass({ [name]: hour }), "jobs"), 0)
        yield* tick
        assert.strictEqual(totalOf(yield* pass({ [name]: hour }), "jobs"), 1)
        assert.notInclude(yield* left, jobs[name])
        assert.strictEqual((yield* left).length, 4)
        yield* TestClock.adjust("10 hours")
        assert.strictEqual(totalOf(yield* pass({ [name]: hour }), "jobs"), 0)
        yield* assertNoOrphans
      }
    })
  )

  it.effect("a job goes with all that belongs to it, and is counted", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* Given.withEverything
      yield* tick
      const before = yield* census
      assert.deepStrictEqual(before, {
        job_queue: 2,
        job_attempts: 3,
        job_events: before.job_events ?? 0,
        job_dead_letters: 1,
        job_logs: 1,
        job_replays: 1,
        job_enqueue_intents: 1
      })
      const [batch, ...more] = yield* pass({ succeeded: 0 })
      assert.isEmpty(more)
      assert.deepStrictEqual(batch, {
        deleted: { runs: 0, jobs: 2, attempts: 3, events: before.job_events ?? 0, logs: 1, intents: 1, permits: 0 },
        skipped: [],
        next: Option.none()
      })
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("a job that was canceled is kept while its lease is live: its handler may be at work", () =>
    Effect.gen(function* () {
      yield* startOver
      const jobId = yield* Given.pending()
      yield* claim
      yield* Jobs.cancel(admin, jobId)
      yield* TestClock.adjust("59 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* left, [jobId])
      yield* TestClock.adjust("2 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* left, [])
    })
  )

  it.effect("a replay stays until its source is gone; chains go in one batch, lineage with the source", () =>
    Effect.gen(function* () {
      yield* startOver
      const source = yield* Given.succeeded()
      const second = yield* Given.replayOf(source)
      yield* Given.endNext()
      const third = yield* Given.replayOf(second)
      yield* Given.endNext("failure")
      yield* tick
      // its source is kept for ever
      yield* pass({ deadLettered: 0 })
      assert.sameMembers(yield* left, [source, second, third])
      assert.strictEqual((yield* census).job_replays, 2)
      assert.strictEqual(yield* Given.replayOf(source), second)
      // the last is not asked for, but no longer held
      yield* pass({ succeeded: 0 })
      assert.deepStrictEqual(yield* left, [third])
      assert.isUndefined((yield* census).job_replays)
      yield* pass({ deadLettered: 0 })
      assert.deepStrictEqual(yield* left, [])

      const first = yield* Given.succeeded()
      for (let job = first, n = 0; n < 5; n++) {
        job = yield* Given.replayOf(job)
        yield* Given.endNext()
      }
      yield* tick
      const [batch] = yield* pass({ succeeded: 0 })
      assert.strictEqual(batch?.deleted.jobs, 6)
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("batches are bounded in rows looked at, jobs and events, and their cursors go through JSON", () =>
    Effect.gen(function* () {
      yield* startOver
      for (let n = 0; n < 9; n++) yield* Given.pending({ priority: -1 })
      for (let n = 0; n < 7; n++) yield* Given.succeeded()
      yield* tick
      const sizes: Array<number> = []
      let cursor: Retention.Cursor | undefined
      do {
        const { deleted, next } = yield* Retention.prune({ ages: { succeeded: 0 }, limit: 2, cursor })
        sizes.push(deleted.jobs)
        cursor = Option.getOrUndefined(next)
        const text = JSON.stringify(cursor)
        if (text !== undefined) cursor = Retention.Cursor.make(JSON.parse(text))
      } while (cursor !== undefined)
      // eight rows that are kept, one more, then two at a time
      assert.deepStrictEqual(sizes, [0, 2, 2, 2, 1])
      assert.strictEqual((yield* census).job_queue, 9)

      yield* startOver
      const sql = yield* SqlClient
      for (let n = 0; n < 3; n++) yield* Given.succeeded()
      yield* sql`UPDATE runledger.job_queue SET event_seq = 50`
      yield* tick
      assert.deepStrictEqual(
        (yield* pass({ succeeded: 0 }, 2)).map(({ deleted }) => deleted.jobs),
        [1, 1, 1]
      )
    })
  )

  it.effect("a pass ends where jobs are too young to have ended that long ago", () =>
    Effect.gen(function* () {
      yield* startOver
      for (let n = 0; n < 4; n++) yield* Given.succeeded()
      yield* TestClock.adjust(hour)
      for (let n = 0; n < 40; n++) yield* Given.pending()
      // two, then two more with six that are young: the end
      assert.strictEqual((yield* pass({ succeeded: "30 minutes" }, 2)).length, 2)
      assert.strictEqual((yield* census).job_queue, 40)
    })
  )

  it.effect("intents that became jobs go by age; what is pending or in conflict stays", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* Given.pending({ idempotencyKey: "taken" })
      for (const idempotencyKey of ["a", "b", "c"]) yield* JobIntents.record(type, 1, { idempotencyKey })
      yield* JobIntents.record(type, "other", { idempotencyKey: "taken" })
      yield* JobIntents.promote({ types: [type], limit: 10 })
      yield* JobIntents.record("absent", 1, { idempotencyKey: "d" })
      yield* TestClock.adjust(hour)
      assert.strictEqual(totalOf(yield* pass({ intents: hour }, 2), "intents"), 0)
      yield* tick
      const batches = yield* pass({ intents: hour }, 2)
      assert.deepStrictEqual(
        batches.map(({ deleted }) => deleted.intents),
        [2, 1]
      )
      const kept = yield* JobIntents.list({ scope: admin })
      assert.deepStrictEqual(kept.map(({ status }) => status).sort(), ["CONFLICTED", "PENDING"])
      assert.strictEqual((yield* left).length, 4)
    })
  )

  it.effect("lines go by age while their jobs live on, in bounded batches", () =>
    Effect.gen(function* () {
      yield* startOver
      const say = (jobId: Jobs.JobId, count: number) =>
        JobLogs.insertMany(
          Array.from({ length: count }, () => ({ jobId, runNumber: 1, level: "INFO", message: "hello" }))
        )
      const jobs = [yield* Given.pending(), yield* Given.succeeded(), yield* Given.pending()]
      for (const jobId of jobs) yield* say(jobId, 5)
      yield* TestClock.adjust(hour)
      for (const jobId of jobs) yield* say(jobId, 3)
      assert.strictEqual(totalOf(yield* pass({ logs: hour }, 2), "logs"), 0)
      yield* tick
      const batches = yield* pass({ logs: hour }, 2)
      assert.isTrue(batches.every(({ deleted }) => deleted.logs <= 2))
      assert.strictEqual(totalOf(batches, "logs"), 15)
      assert.deepStrictEqual([(yield* census).job_logs, (yield* census).job_queue], [9, 3])
    })
  )

  it.effect("permits of keys that nobody uses and of which nothing is said go, and come again", () =>
    Effect.gen(function* () {
      yield* startOver
      for (const executionResourceKey of ["idle", "said", "held"]) {
        if (executionResourceKey === "said") yield* JobResources.upsert("said", { permits: 3 })
        yield* Given.pending({ executionResourceKey, priority: 100 })
        const lease = yield* claim
        if (executionResourceKey !== "held") yield* Jobs.completeSuccess(lease)
        else yield* Jobs.heartbeatMany([lease], { extend: "1 day" })
      }
      yield* TestClock.adjust(hour)
      assert.strictEqual(totalOf(yield* pass({ permits: hour }), "permits"), 0)
      yield* tick
      assert.strictEqual(totalOf(yield* pass({ permits: hour }, 1), "permits"), 1)
      const sql = yield* SqlClient
      const rows = yield* sql<{ key: string; count: number }>`
        SELECT resource_key AS key, count(*)::int4 FROM runledger.job_execution_permits GROUP BY 1 ORDER BY 1`
      assert.deepStrictEqual(
        rows.map(({ count, key }) => [key, count]),
        [
          ["held", 1],
          ["said", 3]
        ]
      )
      yield* Given.pending({ executionResourceKey: "idle", priority: 100 })
      yield* Jobs.completeSuccess(yield* claim)
      yield* JobResources.remove("said")
    })
  )

  it.effect("a key whose permits are held in part keeps all of them", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobResources.upsert("part", { permits: 2 })
      yield* Given.pending({ executionResourceKey: "part", priority: 100 })
      yield* Jobs.heartbeatMany([yield* claim], { extend: "1 day" })
      const sql = yield* SqlClient
      yield* sql`DELETE FROM runledger.job_execution_resources`
      yield* TestClock.adjust(hour)
      assert.strictEqual(totalOf(yield* pass({ permits: "1 minute" }), "permits"), 0)
      assert.strictEqual((yield* census).job_execution_permits, 2)
    })
  )

  it.effect("a run goes whole, with its jobs; jobs of runs go no other way; what runs is kept", () =>
    Effect.gen(function* () {
      yield* startOver
      const runId = yield* Given.endedRun({ activeKey: "only" })
      const { run: waiting } = yield* Workflows.enqueue({ workflowType: "t", steps: [gate("g")] })
      const { run: running } = yield* Workflows.enqueue({
        workflowType: "t",
        steps: [gate("g"), { stepKey: "a", jobType: stepType, payload: 1 }]
      })
      yield* Workflows.append(Given.global, running.id, {
        mutationKey: "m",
        windowStepKey: "g",
        steps: [{ stepKey: "c", jobType: stepType, payload: 1, dependencies: [{ stepKey: "a" }] }]
      })
      yield* TestClock.adjust(hour)
      yield* pass({ succeeded: 0, canceled: 0, deadLettered: 0 })
      assert.sameMembers(yield* left, [runId, waiting.id, running.id])
      assert.strictEqual(totalOf(yield* pass({ runs: hour }), "runs"), 0)
      yield* tick
      const [batch] = yield* pass({ runs: hour })
      assert.deepInclude(batch?.deleted, { runs: 1, jobs: 2, attempts: 2, logs: 2 })
      assert.sameMembers(yield* left, [waiting.id, running.id])
      yield* assertNoOrphans
      yield* Workflows.cancel(admin, waiting.id)
      yield* Workflows.cancel(admin, running.id)
      yield* tick
      yield* pass({ runs: 0 })
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("batches of runs are bounded by their steps; one run is always taken", () =>
    Effect.gen(function* () {
      yield* startOver
      for (let n = 0; n < 5; n++) yield* Given.endedRun()
      yield* tick
      const runs = (limit: number) =>
        Effect.map(pass({ runs: 0 }, limit), (all) => all.map(({ deleted }) => deleted.runs))
      const sql = yield* SqlClient
      assert.deepStrictEqual(yield* runs(4), [2, 2, 1])
      for (let n = 0; n < 3; n++) yield* Given.endedRun()
      yield* tick
      assert.deepStrictEqual(yield* runs(1), [1, 1, 1])
      assert.deepStrictEqual(yield* census, {})
      assert.isEmpty(yield* sql`SELECT FROM runledger.workflow_runs`)
    })
  )

  it.effect("a run is kept while a canceled handler may be at work, and while it holds its active key", () =>
    Effect.gen(function* () {
      yield* startOver
      const { run } = yield* Workflows.enqueueOrGetActive({
        workflowType: "t",
        activeKey: "only",
        steps: [{ stepKey: "a", jobType: stepType, payload: 1 }]
      })
      yield* Jobs.claim({ workerId: "w", types: [stepType], limit: 1, lease: "1 minute" })
      yield* Workflows.cancel(admin, run.id)
      yield* TestClock.adjust("59 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* left, [run.id])
      yield* TestClock.adjust("2 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* left, [run.id], "the key is given back by the reaper")
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      yield* pass(everything)
      assert.deepStrictEqual(yield* census, {})

      const { run: unkeyed } = yield* Workflows.enqueue({
        workflowType: "t",
        steps: [{ stepKey: "a", jobType: stepType, payload: 1 }]
      })
      yield* Jobs.claim({ workerId: "w", types: [stepType], limit: 1, lease: "1 minute" })
      yield* Workflows.cancel(admin, unkeyed.id)
      yield* TestClock.adjust("59 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* left, [unkeyed.id])
      yield* TestClock.adjust("2 seconds")
      yield* pass(everything)
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("a recovery stays until its source is gone, and goes with it", () =>
    Effect.gen(function* () {
      yield* startOver
      const source = yield* Given.endedRun()
      yield* TestClock.adjust(hour)
      const recovery = yield* Given.recover(source, { end: true })
      // the source is held: its recovery is not deleted before it
      yield* tick
      yield* Effect.scoped(
        Effect.gen(function* () {
          const end = yield* standing(
            SqlClient.use(
              (sql) => sql`SELECT FROM runledger.workflow_runs WHERE id = ${source}::uuid FOR NO KEY UPDATE`
            )
          )
          yield* pass({ runs: 0 })
          yield* end
        })
      )
      assert.sameMembers(yield* left, [source, recovery])
      const again = yield* Given.recover(recovery, { end: true })
      yield* tick
      // the source alone
      yield* pass({ runs: "30 minutes" })
      assert.sameMembers(yield* left, [recovery, again])
      assert.strictEqual((yield* census).workflow_recoveries, 1)
      yield* pass({ runs: 0 })
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("bad input is refused before anything is sent", () =>
    Effect.gen(function* () {
      const good = { ages: { succeeded: 0 }, limit: 1 } as const
      const cases: ReadonlyArray<readonly [Partial<Retention.PruneOptions>, string]> = [
        [{ ages: {} }, "ages"],
        [{ ages: { succeeded: undefined } }, "ages"],
        ...(["succeeded", "canceled", "deadLettered", "runs", "intents", "logs", "permits"] as const).flatMap(
          (name) => [
            [{ ages: { [name]: "Infinity" } }, `ages.${name}`] as const,
            [{ ages: { [name]: Number.NaN } }, `ages.${name}`] as const,
            [{ ages: { [name]: -1 } }, `ages.${name}`] as const,
            [{ ages: { [name]: "36526 days" } }, `ages.${name}`] as const
          ]
        ),
        [{ limit: 0 }, "limit"],
        [{ limit: 1001 }, "limit"],
        [{ limit: 1.5 }, "limit"]
      ]
      for (const [change, argument] of cases) {
        const reason = yield* reasonOf(Retention.prune({ ...good, ...change }))
        assert.deepInclude({ ...reason }, { _tag: "InvalidArgument", argument })
      }
      for (const cursor of ["", "jobs:x", "elsewhere", "jobs:1'; DROP", "jobs:\0"]) {
        assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.sync(() => Retention.Cursor.make(cursor)))), cursor)
      }
    })
  )

  it.effect("in the caller's transaction: with its rows or not at all; its settings stay", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const jobId = yield* Given.succeeded()
      yield* tick
      const inside = Effect.gen(function* () {
        yield* sql`SET LOCAL lock_timeout = '7s'`
        for (const ages of [{ succeeded: 0 }, { runs: 0 }, { logs: 0 }, { intents: 0 }, { permits: 0 }])
          yield* pass(ages)
        const [row] = yield* sql<{ timeout: string }>`SELECT current_setting('lock_timeout') AS timeout`
        assert.strictEqual(row?.timeout, "7s")
        assert.deepStrictEqual(yield* left, [])
      })
      yield* Effect.exit(sql.withTransaction(Effect.andThen(inside, Effect.fail("no"))))
      assert.deepStrictEqual(yield* left, [jobId])
      yield* sql.withTransaction(inside)
      assert.deepStrictEqual(yield* left, [])
    })
  )

  it.effect("a caller that is not READ COMMITTED is told so, and its transaction stays usable", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const jobId = yield* Given.succeeded()
      yield* tick
      for (const isolation of ["REPEATABLE READ", "SERIALIZABLE"]) {
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql.unsafe(`SET TRANSACTION ISOLATION LEVEL ${isolation}`)
            for (const ages of [{ succeeded: 0 }, { runs: 0 }, { logs: 0 }, { intents: 0 }, { permits: 0 }]) {
              const { code } = yield* reasonOf(Retention.prune({ ages, limit: 1 }))
              assert.strictEqual(code, "job.unsupported_isolation")
            }
            assert.deepStrictEqual(yield* left, [jobId])
          })
        )
      }
    })
  )

  it.effect("a job or a run that a table of the application needs is skipped and told, the rest goes", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      for (const deferrable of ["", "DEFERRABLE INITIALLY DEFERRED"]) {
        yield* startOver
        yield* sql.unsafe(`CREATE TABLE receipts (job uuid REFERENCES runledger.job_queue (id) ${deferrable})`)
        const jobs: Array<Jobs.JobId> = []
        for (let n = 0; n < 9; n++) jobs.push(yield* Given.succeeded())
        const replay = yield* Given.replayOf(jobs[4] ?? assert.fail())
        yield* Given.endNext()
        const run = yield* Given.endedRun()
        const held = yield* Given.endedRun()
        const needed = [jobs[4], jobs[7]]
        yield* sql`INSERT INTO receipts SELECT unnest(${needed.map(String)}::uuid[])`
        yield* sql`
          INSERT INTO receipts SELECT job_id FROM runledger.workflow_steps WHERE workflow_run_id = ${held}::uuid LIMIT 1`
        yield* tick
        const batches = yield* pass({ succeeded: 0, runs: 0 })
        assert.deepStrictEqual(
          batches.flatMap(({ skipped }) => skipped.map(({ id, kind, reason }) => [kind, id, reason._tag])),
          [
            ["run", held, "ConstraintViolation"],
            ["job", jobs[4], "ConstraintViolation"],
            ["job", jobs[7], "ConstraintViolation"]
          ]
        )
        assert.notInclude(yield* left, run)
        // the replay of a job that stays does so, too
        assert.sameMembers(yield* left, [...needed, replay, held])
        yield* assertNoOrphans
        yield* sql`DROP TABLE receipts`
        yield* pass(everything)
        assert.deepStrictEqual(yield* census, {})
      }
    })
  )

  it.effect("Health finds no orphans after a pass over everything", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* Given.withEverything
      yield* Given.endedRun()
      yield* Given.pending()
      yield* tick
      yield* pass(everything)
      const { findings } = yield* Health.check({ checks: ["orphans"] })
      assert.deepStrictEqual(
        findings.map(({ value }) => value),
        [0]
      )
      yield* assertNoOrphans
      assert.strictEqual((yield* census).job_queue, 1)
    })
  )
})
