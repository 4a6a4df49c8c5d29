import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { InvalidArgument, JobDefinitions, Jobs, TenantScope } from "../src/index.ts"
import { planWith, prepare, record } from "./support/plans.ts"
import { standing } from "./support/races.ts"
import * as Recovery from "./support/recovery.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global, get, rowOf } = Recovery

const request = (sourceJobId: Jobs.JobId, change: Partial<Jobs.ReplayRequest> = {}): Jobs.ReplayRequest => ({
  scope: global,
  sourceJobId,
  expectedRunNumber: 1,
  requestKey: "ticket:1",
  reason: "lost in the mail",
  ...change
})

const replayed = (outcome: Jobs.ReplayOutcome) =>
  outcome._tag === "Replayed" ? outcome : assert.fail(`it was ${outcome._tag}`)

const lineage = SqlClient.use((sql) => sql`SELECT * FROM runledger.job_replays ORDER BY replay_job_id`)

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("Jobs.replay", (it) => {
  it.effect("a new job that is due, as its source was enqueued; the source stays as it is", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* Recovery.makeType
      const source = yield* Recovery.succeeded(type, {
        organizationId: Recovery.organizationId,
        priority: 7,
        maxAttempts: 9,
        timeout: "77 seconds",
        idempotencyKey: "k",
        payloadVersion: 1
      })
      yield* sql`
        UPDATE runledger.job_queue
        SET execution_resource_key = 'resource', checkpoint = '1', progress_done = 1, progress_total = 2, payload_version = 3
        WHERE id = ${source}::uuid`
      const before = yield* rowOf(source)
      const history = yield* Jobs.events(admin, source)
      yield* TestClock.adjust("1 minute")
      const at = new Date(DateTime.toEpochMillis(yield* DateTime.now))

      const outcome = yield* Jobs.replay(request(source, { scope: Recovery.organization }))

      const { jobId } = replayed(outcome).replay
      assert.deepStrictEqual(outcome, {
        _tag: "Replayed",
        sourceJobId: source,
        sourceRunNumber: 1,
        replay: { jobId, status: "PENDING", runNumber: 1, disposition: "inserted" }
      })
      assert.deepStrictEqual(yield* rowOf(source), before)
      assert.deepStrictEqual(yield* Jobs.events(admin, source), history)
      const fresh = yield* Jobs.enqueue(type, { n: 1 }, { organizationId: Recovery.organizationId })
      assert.deepStrictEqual(yield* rowOf(jobId), {
        ...(yield* rowOf(fresh.jobId)),
        id: jobId,
        priority: 7,
        max_attempts: 9,
        timeout_seconds: 77,
        payload_version: 3,
        execution_resource_key: "resource",
        next_run_at: at,
        created_at: at,
        updated_at: at
      })
      const [event, ...others] = yield* Jobs.events(admin, jobId)
      assert.deepStrictEqual(others, [])
      if (event === undefined) return assert.fail("no event")
      assert.deepInclude(
        { ...event },
        { seq: 1, runNumber: 1, attempt: Option.none(), type: "ENQUEUED", stage: Option.some("queued") }
      )
      assert.deepStrictEqual(event.payload, {
        job_type: type,
        replayed_from_job_id: source,
        replayed_from_run_number: 1,
        replay_request_key: "ticket:1",
        reason: "lost in the mail"
      })
      assert.deepStrictEqual(Jobs.decodeEvent(event), {
        _tag: "Replayed",
        sourceJobId: source,
        sourceRunNumber: 1,
        requestKey: "ticket:1",
        reason: "lost in the mail"
      })
      assert.deepInclude(yield* lineage, {
        replay_job_id: jobId,
        source_job_id: source,
        source_run_number: 1,
        replay_request_key: "ticket:1",
        reason: "lost in the mail",
        created_at: at
      })
    })
  )

  it.effect("a replay runs, and its history begins with its lineage", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const source = yield* Recovery.succeeded(type)
      const { replay } = replayed(yield* Jobs.replay(request(source)))
      const { lease, payload } = yield* Recovery.claimOne(type)
      assert.deepStrictEqual([lease.jobId, payload], [replay.jobId, { n: 1 }])
      yield* Jobs.completeSuccess(lease)
      const events = yield* Jobs.events(admin, replay.jobId)
      assert.deepStrictEqual(
        events.map(({ seq, type }) => [seq, type]),
        [
          [1, "ENQUEUED"],
          [2, "LEASED"],
          [3, "STAGE_CHANGED"],
          [4, "SUCCEEDED"]
        ]
      )
      // and it can be replayed itself
      const again = replayed(yield* Jobs.replay(request(replay.jobId)))
      assert.strictEqual(again.replay.disposition, "inserted")
    })
  )

  it.effect("the same request again finds the first replay, whatever became of it, its type and its source", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const source = yield* Recovery.succeeded(type)
      const first = replayed(yield* Jobs.replay(request(source)))
      yield* Recovery.failOne(type)
      yield* Recovery.requeue(first.replay.jobId)
      yield* JobDefinitions.update(type, { isEnabled: false })
      const before = yield* Recovery.everything
      assert.deepStrictEqual(yield* Jobs.replay(request(source)), {
        ...first,
        replay: { jobId: first.replay.jobId, status: "PENDING", runNumber: 2, disposition: "existing" }
      })
      assert.deepStrictEqual(yield* Recovery.everything, before)
    })
  )

  it.effect("another key is another replay; the same key with another reason is a conflict", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const first = replayed(yield* Jobs.replay(request(source)))
      const second = replayed(yield* Jobs.replay(request(source, { requestKey: "ticket:2" })))
      assert.notStrictEqual(first.replay.jobId, second.replay.jobId)
      const before = yield* Recovery.everything
      const error = yield* Effect.flip(Jobs.replay(request(source, { reason: "another" })))
      assert.strictEqual(error.code, "job.replay_idempotency_conflict")
      assert.deepInclude(error.reason, { sourceJobId: source, replayJobId: first.replay.jobId })
      assert.deepStrictEqual(yield* Recovery.everything, before)
      // keys belong to their source
      const other = yield* Recovery.succeeded()
      assert.strictEqual(
        replayed(yield* Jobs.replay(request(other, { reason: "another" }))).replay.disposition,
        "inserted"
      )
    })
  )

  it.effect("a source that did not succeed in that run is answered as it is", () =>
    Effect.gen(function* () {
      const done = yield* Recovery.succeeded()
      const before = yield* Recovery.everything
      const sources: ReadonlyArray<readonly [Jobs.JobId, number]> = [
        [done, 2],
        [yield* Recovery.deadLettered(), 1],
        [yield* Recovery.canceled, 1],
        [yield* Recovery.pending(yield* Recovery.makeType), 1]
      ]
      for (const [source, expectedRunNumber] of sources) {
        assert.deepStrictEqual(yield* Jobs.replay(request(source, { expectedRunNumber })), {
          _tag: "ExpectationMismatch",
          actual: yield* get(source)
        })
      }
      assert.strictEqual((yield* lineage).filter((row) => row.source_job_id === done).length, 0)
      assert.isAbove((yield* Recovery.everything).length, before.length)
    })
  )

  it.effect("a source outside of exactly the scope is not found, not even an earlier replay of it", () =>
    Effect.gen(function* () {
      const ours = yield* Recovery.succeeded(undefined, { organizationId: Recovery.organizationId })
      const nobodys = yield* Recovery.succeeded()
      yield* Jobs.replay(request(ours, { scope: Recovery.organization }))
      yield* Jobs.replay(request(nobodys))
      const before = yield* Recovery.everything
      const missing = Jobs.JobId.make("0197c000-0000-7000-8000-0000000000ff")
      const cases: ReadonlyArray<readonly [Jobs.JobId, TenantScope.Owner]> = [
        [ours, global],
        [ours, TenantScope.organization("0197c000-0000-7000-8000-00000000000b")],
        [nobodys, Recovery.organization],
        [missing, global]
      ]
      for (const [jobId, scope] of cases) {
        assert.deepStrictEqual(yield* Jobs.replay(request(jobId, { scope })), { _tag: "NotFound", jobId })
      }
      assert.deepStrictEqual(yield* Recovery.everything, before)
    })
  )

  it.effect("the job of a workflow step is refused", () =>
    Effect.gen(function* () {
      const { jobId, runId } = yield* Recovery.stepJob("SUCCEEDED")
      const before = yield* Recovery.everything
      const error = yield* Effect.flip(Jobs.replay(request(jobId)))
      assert.strictEqual(error.code, "job.workflow_requeue_not_supported")
      assert.deepInclude(error.reason, { jobId, workflowRunId: runId })
      assert.deepStrictEqual(yield* Recovery.everything, before)
    })
  )

  it.effect("a type that is disabled or not declared is refused, as by an enqueue", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* Recovery.makeType
      const source = yield* Recovery.succeeded(type)
      yield* JobDefinitions.update(type, { isEnabled: false })
      const disabled = yield* Effect.flip(Jobs.replay(request(source)))
      assert.deepInclude(disabled.reason, { code: "job.definition_not_found_or_disabled", state: "disabled" })
      yield* sql`UPDATE runledger.job_queue SET job_type = 'undeclared' WHERE id = ${source}::uuid`
      const missing = yield* Effect.flip(Jobs.replay(request(source)))
      assert.deepInclude(missing.reason, { code: "job.definition_not_found_or_disabled", state: "missing" })
    })
  )

  it.effect("a malformed request is refused before anything is sent", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const codes: ReadonlyArray<readonly [Partial<Jobs.ReplayRequest>, string]> = [
        [{ requestKey: " \u00a0" }, "job.replay_request_key_blank"],
        [{ requestKey: "é".repeat(257) }, "job.replay_request_key_too_long"],
        [{ reason: "\n" }, "job.replay_reason_blank"],
        [{ requestKey: "a\0" }, "job.invalid_argument"],
        [{ expectedRunNumber: 0 }, "job.invalid_argument"],
        [{ scope: TenantScope.organization("x") }, "job.invalid_argument"]
      ]
      for (const [change, code] of codes) {
        const sent = yield* record(
          Effect.map(Effect.flip(Jobs.replay(request(source, change))), (error) => {
            assert.strictEqual(error.code, code)
            assert.strictEqual(error.category, "Validation")
          })
        )
        assert.deepStrictEqual(sent, [])
      }
      const odd = Object.assign(request(source), { sourceJobId: "x" })
      assert.instanceOf((yield* Effect.flip(Jobs.replay(odd))).reason, InvalidArgument)
      // the longest key, and a reason that is kept in part
      const long = request(source, { requestKey: "é".repeat(256), reason: `\0${"x".repeat(20_000)}` })
      const first = replayed(yield* Jobs.replay(long))
      assert.strictEqual(replayed(yield* Jobs.replay(long)).replay.jobId, first.replay.jobId)
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })("Jobs.replay and others", (it) => {
  const replaysOf = (source: string) =>
    Effect.map(lineage, (rows) => rows.filter((row) => row.source_job_id === source).map((row) => row.replay_job_id))

  it.effect("two at once with the same key: one job, and both are told of it", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const end = yield* standing(Jobs.replay(request(source)))
      const fiber = yield* Effect.forkChild(Jobs.replay(request(source)))
      yield* end
      const outcome = replayed(yield* Fiber.join(fiber))
      assert.strictEqual(outcome.replay.disposition, "existing")
      assert.deepStrictEqual(yield* replaysOf(source), [outcome.replay.jobId])
    })
  )

  it.effect("twenty at once with the same key: one job", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const outcomes = yield* Effect.all(
        Array.from({ length: 20 }, () => Effect.map(Jobs.replay(request(source)), replayed)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(outcomes.map(({ replay }) => replay.jobId)).size, 1)
      assert.strictEqual(outcomes.filter(({ replay }) => replay.disposition === "inserted").length, 1)
      assert.strictEqual((yield* replaysOf(source)).length, 1)
    })
  )

  it.effect("two at once, the first rolls back: the other makes it", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const end = yield* standing(Jobs.replay(request(source)), "ROLLBACK")
      const fiber = yield* Effect.forkChild(Jobs.replay(request(source)))
      yield* end
      const outcome = replayed(yield* Fiber.join(fiber))
      assert.strictEqual(outcome.replay.disposition, "inserted")
      assert.deepStrictEqual(yield* replaysOf(source), [outcome.replay.jobId])
    })
  )

  it.effect("two at once with different keys: two jobs; with different reasons: a conflict", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const end = yield* standing(Jobs.replay(request(source)))
      const second = yield* Effect.forkChild(Jobs.replay(request(source, { requestKey: "ticket:2" })))
      const third = yield* Effect.forkChild(Effect.flip(Jobs.replay(request(source, { reason: "another" }))))
      yield* end
      assert.strictEqual(replayed(yield* Fiber.join(second)).replay.disposition, "inserted")
      assert.strictEqual((yield* Fiber.join(third)).code, "job.replay_idempotency_conflict")
      assert.strictEqual((yield* replaysOf(source)).length, 2)
    })
  )

  it.effect("a source that stays locked: unavailable after a while, and nobody waits for it", () =>
    Effect.gen(function* () {
      const source = yield* Recovery.succeeded()
      const end = yield* standing(Jobs.replay(request(source)))
      const error = yield* Effect.flip(Jobs.replay(request(source)))
      assert.deepInclude(error.reason, { _tag: "Unavailable", origin: "busy" })
      yield* end
    })
  )

  it.effect("a second replay in the same transaction finds the first", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const source = yield* Recovery.succeeded()
      const [first, second] = yield* sql.withTransaction(
        Effect.all([Jobs.replay(request(source)), Jobs.replay(request(source))])
      )
      assert.strictEqual(replayed(first).replay.jobId, replayed(second).replay.jobId)
      assert.strictEqual(replayed(second).replay.disposition, "existing")
    })
  )

  it.effect("reaches its rows by their keys, with statistics or without, under any plan", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* Recovery.makeType
      const source = yield* Recovery.succeeded(type)
      yield* sql`
        INSERT INTO runledger.job_queue (job_type, status, max_attempts, next_run_at, created_at, updated_at)
        SELECT ${type}, 'SUCCEEDED', 3, at, at, at
        FROM (SELECT clock_timestamp() AS at) c, generate_series(1, 20000)`
      yield* sql`
        INSERT INTO runledger.job_replays
        SELECT q.id, ${source}::uuid, 1, q.id::text, 'r', q.created_at
        FROM runledger.job_queue q WHERE q.job_type = ${type} AND q.id <> ${source}::uuid`
      for (const statistics of ["none", "fresh"]) {
        if (statistics === "fresh") yield* sql`ANALYZE runledger.job_queue, runledger.job_replays`.unprepared
        const [statement, ...others] = yield* record(Jobs.replay(request(source)))
        assert.deepStrictEqual(others, [])
        if (statement === undefined) return assert.fail("nothing was sent")
        for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
          const plan = yield* rollback(
            Effect.gen(function* () {
              yield* planWith(mode)
              const { explain } = yield* prepare(statement)
              return yield* explain(statement.parameters)
            })
          )
          assert.deepStrictEqual(plan.scanned, [])
          assert.deepStrictEqual(plan.indexes, ["pk_job_queue", "uq_job_replays_source_request"])
          assert.isAtMost(plan.buffers, 100)
        }
      }
    })
  )
})
