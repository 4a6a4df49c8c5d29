import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Option, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { InvalidArgument, InvalidStateTransition, JobDefinitions, Jobs, TenantScope } from "../src/index.ts"
import { planWith, prepare, record } from "./support/plans.ts"
import { another, standing } from "./support/races.ts"
import * as Recovery from "./support/recovery.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global, get, requeue, requeueRequest, rowOf } = Recovery

/** What a requeue may have to clear or to keep. */
const used = (jobId: string) =>
  SqlClient.use(
    (sql) => sql`
      UPDATE runledger.job_queue
      SET
        output = '"old"', checkpoint = '{"page": 3}', progress_done = 3, progress_total = 10, status_reason = 'OLD',
        last_error_code = 'old', last_error_message = 'old', stage = 'running', started_at = created_at
      WHERE id = ${jobId}::uuid
    `
  )

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("Jobs.requeue", (it) => {
  const sources = {
    DEAD_LETTERED: Recovery.deadLettered(undefined, { maxAttempts: 5, priority: 7 }),
    CANCELED: Recovery.canceled
  }

  for (const [status, source] of Object.entries(sources)) {
    for (const statePolicy of ["preserve", "reset"] as const) {
      it.effect(`${status}, ${statePolicy}: a new run that is due, and nothing else on the row changes`, () =>
        Effect.gen(function* () {
          const jobId = yield* source
          yield* used(jobId)
          const before = yield* rowOf(jobId)
          const seen = yield* get(jobId)
          yield* TestClock.adjust("1 minute")
          const at = new Date(DateTime.toEpochMillis(yield* DateTime.now))

          const outcome = yield* requeue(jobId, { statePolicy, reason: "the server is back" })

          const after = yield* rowOf(jobId)
          assert.deepStrictEqual(after, {
            ...before,
            status: "PENDING",
            stage: "queued",
            run_number: 2,
            attempt: 0,
            next_run_at: at,
            started_at: null,
            finished_at: null,
            ...(statePolicy === "reset" ? { progress_done: null, progress_total: null, checkpoint: null } : {}),
            output: null,
            status_reason: "the server is back",
            last_error_code: null,
            last_error_message: null,
            event_seq: Number(before.event_seq) + 1,
            updated_at: at
          })
          assert.deepStrictEqual(outcome, {
            _tag: "Requeued",
            before: seen,
            after: yield* get(jobId),
            seq: Number(before.event_seq) + 1
          })
          const event = yield* Recovery.lastEvent(jobId)
          const kept = statePolicy === "preserve"
          assert.deepStrictEqual(
            { ...event },
            {
              seq: Number(before.event_seq) + 1,
              runNumber: 1,
              attempt: status === "CANCELED" ? Option.none() : Option.some(1),
              type: "REQUEUED",
              stage: Option.some("queued"),
              progressDone: kept ? Option.some(3) : Option.none(),
              progressTotal: kept ? Option.some(10) : Option.none(),
              payload: {
                reason: "the server is back",
                state_policy: `${statePolicy}_progress_and_checkpoint`,
                requeue_kind: "COMPARE_AND_REQUEUE"
              },
              occurredAt: DateTime.makeUnsafe(at)
            }
          )
          const events = yield* Jobs.events(admin, jobId)
          assert.deepStrictEqual(
            events.map(({ seq }) => seq),
            events.map((_, index) => index + 1)
          )
          assert.deepStrictEqual(Jobs.decodeEvent(event), {
            _tag: "Requeued",
            reason: "the server is back",
            statePolicy
          })
        })
      )
    }
  }

  it.effect("the new run has all its attempts, and its checkpoint or none", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.deadLettered(type, { maxAttempts: 1 })
      yield* used(jobId)
      yield* requeue(jobId)
      const first = yield* Recovery.claimOne(type)
      assert.deepInclude(first.lease, { jobId, runNumber: 2, attempt: 1 })
      assert.deepStrictEqual(first.checkpoint, Option.some({ page: 3 }))
      yield* Jobs.completeFailure(first.lease, { kind: "RETRYABLE", code: "again", message: "no" })
      assert.strictEqual((yield* get(jobId)).status, "DEAD_LETTERED")
      yield* requeue(jobId, { statePolicy: "reset" })
      const second = yield* Recovery.claimOne(type)
      assert.deepInclude(second.lease, { runNumber: 3, attempt: 1 })
      assert.deepStrictEqual(second.checkpoint, Option.none())
    })
  )

  it.effect("the dead letter stays as it was, but for its mark", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobId = yield* Recovery.deadLettered()
      const letter = sql`SELECT * FROM runledger.job_dead_letters WHERE job_id = ${jobId}::uuid`
      const [before] = yield* letter
      assert.strictEqual(before?.settled_run_number, null)
      yield* requeue(jobId)
      assert.deepStrictEqual(yield* letter, [{ ...before, settled_run_number: 1 }])
    })
  )

  it.effect("a job in another status or another run is answered as it is, and nothing is written or locked", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const outside = yield* another({ maxConnections: 1 })
      const jobId = yield* Recovery.deadLettered()
      const request = yield* requeueRequest(jobId)
      const pending = yield* Recovery.pending(yield* Recovery.makeType)
      const done = yield* Recovery.succeeded()
      const cases: ReadonlyArray<readonly [Jobs.RequeueRequest, string]> = [
        [{ ...request, expectedStatus: "CANCELED" }, jobId],
        [{ ...request, expectedRunNumber: 2 }, jobId],
        [{ ...request, jobId: pending }, pending],
        [{ ...request, jobId: done }, done]
      ]
      const before = yield* Recovery.everything
      for (const [wrong, id] of cases) {
        yield* sql.withTransaction(
          Effect.gen(function* () {
            assert.deepStrictEqual(yield* Jobs.requeue(wrong), {
              _tag: "ExpectationMismatch",
              actual: yield* get(Jobs.JobId.make(id))
            })
            assert.strictEqual(yield* Effect.provideService(Recovery.lockedJobs, SqlClient, outside), 0)
          })
        )
      }
      assert.deepStrictEqual(yield* Recovery.everything, before)
    })
  )

  it.effect("a job outside of exactly the scope is not found, in either direction", () =>
    Effect.gen(function* () {
      const ours = yield* Recovery.deadLettered(undefined, { organizationId: Recovery.organizationId })
      const nobodys = yield* Recovery.deadLettered()
      const before = yield* Recovery.everything
      const other = TenantScope.organization("0197c000-0000-7000-8000-00000000000b")
      for (const scope of [global, other]) {
        const outcome = yield* Jobs.requeue({ ...(yield* requeueRequest(ours)), scope })
        assert.deepStrictEqual(outcome, { _tag: "NotFound", jobId: ours })
      }
      const outcome = yield* Jobs.requeue({ ...(yield* requeueRequest(nobodys)), scope: Recovery.organization })
      assert.deepStrictEqual(outcome, { _tag: "NotFound", jobId: nobodys })
      const missing = Jobs.JobId.make("0197c000-0000-7000-8000-0000000000ff")
      assert.deepStrictEqual(yield* Jobs.requeue({ ...(yield* requeueRequest(nobodys)), jobId: missing }), {
        _tag: "NotFound",
        jobId: missing
      })
      assert.deepStrictEqual(yield* Recovery.everything, before)
      // the request that is made of the job names its scope
      assert.strictEqual((yield* requeue(ours))._tag, "Requeued")
    })
  )

  it.effect("a job that was canceled at work is not requeued before its lease has run out, and then it is", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const outside = yield* another({ maxConnections: 1 })
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const { lease, leaseExpiresAt } = yield* Recovery.claimOne(type)
      yield* Jobs.cancel(admin, jobId)
      const request = yield* requeueRequest(jobId)
      const before = yield* Recovery.everything
      yield* TestClock.adjust("59999 millis")
      const actual = yield* get(jobId)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* Jobs.requeue(request), {
            _tag: "CancellationNotQuiesced",
            actual,
            retryAfter: leaseExpiresAt
          })
          assert.strictEqual(yield* Effect.provideService(Recovery.lockedJobs, SqlClient, outside), 0)
        })
      )
      assert.deepStrictEqual(yield* Recovery.everything, before)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* Jobs.requeue(request))._tag, "Requeued")
      assert.deepStrictEqual((yield* get(jobId)).leaseExpiresAt, Option.none())
      // the handler that was canceled can never write to the new run
      assert.strictEqual((yield* Effect.flip(Jobs.completeSuccess(lease))).code, "job.lease_owner_mismatch")
    })
  )

  for (const ending of ["DEAD_LETTERED", "CANCELED"] as const) {
    it.effect(`the job of a workflow step that is ${ending} is refused, whatever its lease`, () =>
      Effect.gen(function* () {
        const { jobId, runId } = yield* Recovery.stepJob(ending)
        const request = yield* requeueRequest(jobId)
        const before = yield* Recovery.everything
        const error = yield* Effect.flip(Jobs.requeue(request))
        assert.strictEqual(error.code, "job.workflow_requeue_not_supported")
        assert.deepInclude(error.reason, { _tag: "WorkflowRequeueNotSupported", jobId, workflowRunId: runId })
        assert.deepStrictEqual(yield* Recovery.everything, before)
        // what does not match is told first
        const wrong = yield* Jobs.requeue({ ...request, expectedRunNumber: 9 })
        assert.strictEqual(wrong._tag, "ExpectationMismatch")
      })
    )
  }

  it.effect("only a job that was canceled or dead-lettered makes a request", () =>
    Effect.gen(function* () {
      const options = { statePolicy: "reset", reason: "why" } as const
      const dead = yield* Recovery.deadLettered(undefined, { organizationId: Recovery.organizationId })
      assert.deepStrictEqual(
        Jobs.requeueOf(yield* get(dead), options),
        Result.succeed({
          ...options,
          scope: Recovery.organization,
          jobId: dead,
          expectedStatus: "DEAD_LETTERED" as const,
          expectedRunNumber: 1
        })
      )
      for (const jobId of [yield* Recovery.succeeded(), yield* Recovery.pending(yield* Recovery.makeType)]) {
        const job = yield* get(jobId)
        assert.deepStrictEqual(
          Jobs.requeueOf(job, options),
          Result.fail(new InvalidStateTransition({ jobId, status: job.status }))
        )
      }
    })
  )

  it.effect("a malformed request is refused before anything is sent; a long or odd reason is made storable", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobId = yield* Recovery.deadLettered()
      const request = yield* requeueRequest(jobId)
      const malformed: ReadonlyArray<readonly [Partial<Record<keyof Jobs.RequeueRequest, unknown>>, string]> = [
        [{ jobId: "x" }, "jobId"],
        [{ scope: TenantScope.organization("x") }, "scope.organizationId"],
        [{ expectedStatus: "SUCCEEDED" }, "expectedStatus"],
        [{ expectedRunNumber: 0 }, "expectedRunNumber"],
        [{ expectedRunNumber: 1.5 }, "expectedRunNumber"],
        [{ statePolicy: "keep" }, "statePolicy"],
        [{ reason: " \u3000" }, "reason"]
      ]
      for (const [change, argument] of malformed) {
        const broken: Jobs.RequeueRequest = Object.assign({ ...request }, change)
        const sent = yield* record(
          Effect.map(Effect.flip(Jobs.requeue(broken)), ({ reason }) => {
            assert.instanceOf(reason, InvalidArgument)
            assert.strictEqual(reason.argument, argument)
          })
        )
        assert.deepStrictEqual(sent, [])
      }
      yield* Jobs.requeue({ ...request, reason: `\0${"x".repeat(20_000)}` })
      const [row] = yield* sql`SELECT status_reason FROM runledger.job_queue WHERE id = ${jobId}::uuid`
      assert.strictEqual(row?.status_reason, `\ufffd${"x".repeat(16_383)}`)
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })("Jobs.requeue and others", (it) => {
  it.effect("the clock of the database decides when a canceled handler is gone", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      yield* Recovery.claimOne(type)
      yield* Jobs.cancel(admin, jobId)
      assert.strictEqual((yield* requeue(jobId))._tag, "CancellationNotQuiesced")
      yield* sql`UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() WHERE id = ${jobId}::uuid`
      assert.strictEqual((yield* requeue(jobId))._tag, "Requeued")
    })
  )

  it.effect("two requeues at once: one new run, and the other is told of it", () =>
    Effect.gen(function* () {
      const jobId = yield* Recovery.deadLettered()
      const request = yield* requeueRequest(jobId)
      const end = yield* standing(Jobs.requeue(request))
      const fiber = yield* Effect.forkChild(Jobs.requeue(request))
      yield* end
      const outcome = yield* Fiber.join(fiber)
      assert.deepStrictEqual(outcome, { _tag: "ExpectationMismatch", actual: yield* get(jobId) })
      assert.deepInclude(yield* get(jobId), { status: "PENDING", runNumber: 2 })
    })
  )

  it.effect("the first of two rolls back: the other does it", () =>
    Effect.gen(function* () {
      const jobId = yield* Recovery.deadLettered()
      const request = yield* requeueRequest(jobId)
      const end = yield* standing(Jobs.requeue(request), "ROLLBACK")
      const fiber = yield* Effect.forkChild(Jobs.requeue(request))
      yield* end
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Requeued")
      assert.strictEqual((yield* get(jobId)).runNumber, 2)
    })
  )

  it.effect("a row that stays locked: unavailable after a while, and nobody waits for it", () =>
    Effect.gen(function* () {
      const jobId = yield* Recovery.deadLettered()
      const request = yield* requeueRequest(jobId)
      const end = yield* standing(Jobs.requeue(request))
      const error = yield* Effect.flip(Jobs.requeue(request))
      assert.deepInclude(error.reason, { _tag: "Unavailable", origin: "busy" })
      yield* end
    })
  )

  it.effect("a claim that has not committed sees no requeue, a committed requeue is claimed once", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.deadLettered(type)
      const claim = Jobs.claim({ workerId: "other", types: [type], limit: 1 })
      const end = yield* standing(requeue(jobId))
      assert.deepStrictEqual(yield* claim, [])
      yield* end
      const claimed = yield* Effect.all([claim, claim], { concurrency: 2 })
      assert.strictEqual(claimed.flat().length, 1)
    })
  )

  it.effect("what was requeued and claimed meanwhile is told as it is", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.deadLettered(type)
      const request = yield* requeueRequest(jobId)
      const end = yield* standing(
        Effect.andThen(Jobs.requeue(request), Jobs.claim({ workerId: "other", types: [type], limit: 1 }))
      )
      const fiber = yield* Effect.forkChild(Jobs.requeue(request))
      yield* end
      const outcome = yield* Fiber.join(fiber)
      assert.strictEqual(outcome._tag, "ExpectationMismatch")
      if (outcome._tag === "ExpectationMismatch") {
        assert.deepInclude(outcome.actual, { status: "LEASED", runNumber: 2, attempt: 1 })
      }
    })
  )

  it.effect(
    "a cancellation that commits first is what the requeue meets; one that comes later cancels the new run",
    () =>
      Effect.gen(function* () {
        const jobId = yield* Recovery.pending(yield* Recovery.makeType)
        const request: Jobs.RequeueRequest = {
          scope: global,
          jobId,
          expectedStatus: "CANCELED",
          expectedRunNumber: 1,
          statePolicy: "preserve",
          reason: "again"
        }
        const end = yield* standing(Jobs.cancel(admin, jobId))
        // in its snapshot the job is pending still
        assert.strictEqual((yield* Jobs.requeue(request))._tag, "ExpectationMismatch")
        yield* end
        const requeued = yield* standing(Jobs.requeue(request))
        const fiber = yield* Effect.forkChild(Effect.flip(Jobs.cancel(admin, jobId)))
        // to a cancellation that began before, the job is canceled already
        assert.strictEqual((yield* Fiber.join(fiber)).code, "job.invalid_state_transition")
        yield* requeued
        assert.deepInclude(yield* Jobs.cancel(admin, jobId), { status: "CANCELED", runNumber: 2 })
        assert.strictEqual((yield* Jobs.requeue({ ...request, expectedRunNumber: 2 }))._tag, "Requeued")
      })
  )

  it.effect("reaches its row by the primary key, with statistics or without, under any plan", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = "requeue.plans"
      yield* JobDefinitions.upsert(type)
      const jobId = yield* Recovery.deadLettered(type)
      const request = yield* requeueRequest(jobId)
      yield* sql`
        INSERT INTO runledger.job_queue (job_type, status, max_attempts, next_run_at, created_at, updated_at)
        SELECT ${type}, 'DEAD_LETTERED', 3, at, at, at
        FROM (SELECT clock_timestamp() AS at) c, generate_series(1, 20000)`
      yield* sql`
        INSERT INTO runledger.job_dead_letters (
          job_id, job_type, attempt, reason, failure_kind, payload_snapshot, failed_at, created_at
        )
        SELECT id, job_type, 1, 'ATTEMPTS_EXHAUSTED', 'RETRYABLE', '{}', created_at, created_at
        FROM runledger.job_queue WHERE job_type = ${type} AND id <> ${jobId}::uuid`
      for (const statistics of ["none", "fresh"]) {
        if (statistics === "fresh") yield* sql`ANALYZE runledger.job_queue, runledger.job_dead_letters`.unprepared
        const [statement, ...others] = yield* record(Jobs.requeue(request))
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
          assert.deepStrictEqual(plan.indexes, ["pk_job_dead_letters", "pk_job_queue"])
          assert.isAtMost(plan.buffers, 100)
          assert.isFalse(plan.compiled)
        }
      }
    })
  )
})
