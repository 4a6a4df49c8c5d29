import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { InvalidArgument, JobDefinitions, Jobs, TenantScope } from "../src/index.ts"
import { type Plan, planWith, prepare, record } from "./support/plans.ts"
import { standing } from "./support/races.ts"
import * as Recovery from "./support/recovery.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global, get, rowOf } = Recovery

const redrive = (jobType: string | undefined, options: Partial<Jobs.RedriveOptions> = {}) =>
  Jobs.redriveDeadLetters({ scope: global, jobType, reason: "the server is back", ...options })

const idsOf = ({ jobs }: Jobs.Redriven) => jobs.map(({ jobId }) => jobId)

/** Dead letters of one type, each a second younger than the one before. */
const letters = Effect.fnUntraced(function* (type: string, count: number) {
  const ids: Array<Jobs.JobId> = []
  for (let n = 0; n < count; n++) {
    ids.push(yield* Recovery.deadLettered(type))
    yield* TestClock.adjust("1 second")
  }
  return ids
})

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("Jobs.redriveDeadLetters", (it) => {
  for (const statePolicy of ["preserve", "reset"] as const) {
    it.effect(`${statePolicy}: what a requeue makes of a job, with an event that names the redrive`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = yield* Recovery.makeType
        const [jobId] = yield* letters(type, 1)
        if (jobId === undefined) return assert.fail("no job")
        yield* sql`
          UPDATE runledger.job_queue
          SET checkpoint = '{"page": 3}', progress_done = 3, progress_total = 10, output = '1', stage = 'running'
          WHERE id = ${jobId}::uuid`
        const before = yield* rowOf(jobId)
        const letter = sql`SELECT * FROM runledger.job_dead_letters WHERE job_id = ${jobId}::uuid`
        const [letterBefore] = yield* letter
        yield* TestClock.adjust("1 minute")
        const at = new Date(DateTime.toEpochMillis(yield* DateTime.now))

        const redriven = yield* redrive(type, { statePolicy })

        const seq = Number(before.event_seq) + 1
        assert.deepStrictEqual(redriven, {
          redriveId: redriven.redriveId,
          jobs: [{ jobId, jobType: type, runNumber: 2, seq }],
          workflowJobs: 0,
          held: 0,
          more: false
        })
        assert.deepStrictEqual(yield* rowOf(jobId), {
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
          event_seq: seq,
          updated_at: at
        })
        assert.deepStrictEqual(yield* letter, [{ ...letterBefore, settled_run_number: 1 }])
        const event = yield* Recovery.lastEvent(jobId)
        assert.deepInclude({ ...event }, { seq, runNumber: 1, attempt: Option.some(1), type: "REQUEUED" })
        assert.deepStrictEqual(event.payload, {
          reason: "the server is back",
          state_policy: `${statePolicy}_progress_and_checkpoint`,
          requeue_kind: "DEAD_LETTER_REDRIVE",
          redrive_id: redriven.redriveId
        })
        assert.deepStrictEqual(Jobs.decodeEvent(event), {
          _tag: "Redriven",
          reason: "the server is back",
          statePolicy,
          redriveId: redriven.redriveId
        })
        assert.match(redriven.redriveId, /^[0-9a-f-]{36}$/)
      })
    )
  }

  it.effect("oldest first, in batches that share an id, until there are no more; nothing twice", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const ids = yield* letters(type, 5)
      const batches: Array<Jobs.Redriven> = []
      yield* Effect.repeat(
        Effect.tap(redrive(type, { limit: 2 }), (batch) => Effect.sync(() => batches.push(batch))),
        { while: ({ more }) => more }
      )
      assert.deepStrictEqual(batches.map(idsOf), [ids.slice(0, 2), ids.slice(2, 4), ids.slice(4)])
      assert.strictEqual(new Set(batches.map(({ redriveId }) => redriveId)).size, 3)
      for (const { jobs, redriveId } of batches) {
        for (const { jobId, seq } of jobs) {
          const event = yield* Recovery.lastEvent(jobId)
          assert.deepInclude(Jobs.decodeEvent(event), { _tag: "Redriven", redriveId })
          assert.strictEqual(event.seq, seq)
        }
      }
      assert.deepStrictEqual(idsOf(yield* redrive(type)), [])
    })
  )

  it.effect("the dead letter of a job that is pending, at work, done or requeued is left alone; a new one is not", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const [jobId] = yield* letters(type, 1)
      if (jobId === undefined) return assert.fail("no job")
      yield* Recovery.requeue(jobId)
      assert.deepStrictEqual(idsOf(yield* redrive(type)), [])
      const { lease } = yield* Recovery.claimOne(type)
      assert.deepStrictEqual(idsOf(yield* redrive(type)), [])
      yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "again", message: "no" })
      assert.deepStrictEqual(
        (yield* redrive(type)).jobs.map(({ runNumber }) => runNumber),
        [3]
      )
      const again = yield* Recovery.claimOne(type)
      yield* Jobs.completeSuccess(again.lease)
      assert.deepStrictEqual(idsOf(yield* redrive(type)), [])
      assert.strictEqual((yield* Jobs.deadLetters({ scope: admin, jobType: type })).length, 1)
    })
  )

  it.effect("each filter selects, and all of them together", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const other = yield* Recovery.makeType
      const start = yield* DateTime.now
      const first = yield* Recovery.deadLettered(type)
      yield* TestClock.adjust("1 minute")
      yield* Recovery.pending(type)
      const second = yield* Recovery.failOne(type, "disk.full")
      yield* TestClock.adjust("1 minute")
      yield* Recovery.pending(type, { maxAttempts: 1 })
      const { lease } = yield* Recovery.claimOne(type)
      yield* Jobs.completeFailure(lease, { kind: "RETRYABLE", code: "smtp.down", message: "no" })
      const third = lease.jobId
      const ofOther = yield* Recovery.deadLettered(other)
      const after = (duration: "1 minute" | "2 minutes") => DateTime.addDuration(start, duration)
      const cases: ReadonlyArray<readonly [Partial<Jobs.RedriveOptions>, ReadonlyArray<string>]> = [
        [{}, [first, second, third]],
        [{ jobType: other }, [ofOther]],
        [{ errorCode: "disk.full" }, [second]],
        [{ errorCode: "unheard.of" }, []],
        [{ deadLetterReason: "ATTEMPTS_EXHAUSTED" }, [third]],
        [{ deadLetterReason: "FAILURE_KIND_NON_RETRYABLE" }, [first, second]],
        [{ failedAfter: after("1 minute") }, [second, third]],
        [{ failedBefore: after("1 minute") }, [first]],
        [{ failedAfter: after("1 minute"), failedBefore: after("2 minutes") }, [second]],
        [{ errorCode: "smtp.down", failedAfter: after("1 minute"), deadLetterReason: "ATTEMPTS_EXHAUSTED" }, [third]],
        [{ jobType: undefined, failedAfter: start }, [first, second, third, ofOther]]
      ]
      for (const [options, expected] of cases) {
        const batch = yield* rollback(redrive(type, options))
        assert.deepStrictEqual(idsOf(batch), expected, JSON.stringify(options))
      }
    })
  )

  it.effect("only of exactly the scope", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const ours = yield* Recovery.deadLettered(type, { organizationId: Recovery.organizationId })
      const nobodys = yield* Recovery.deadLettered(type)
      const other = TenantScope.organization("0197c000-0000-7000-8000-00000000000b")
      assert.deepStrictEqual(idsOf(yield* redrive(type, { scope: other })), [])
      const shouting = TenantScope.organization(Recovery.organizationId.toUpperCase())
      assert.deepStrictEqual(idsOf(yield* redrive(type, { scope: shouting })), [ours])
      assert.deepStrictEqual(idsOf(yield* redrive(type)), [nobodys])
    })
  )

  it.effect("jobs of workflow runs are counted, left as they are, and never in the way again", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const step = yield* Recovery.stepJob("DEAD_LETTERED", type)
      yield* TestClock.adjust("1 second")
      const [direct, last] = yield* letters(type, 2)
      const before = yield* rowOf(step.jobId)
      const first = yield* redrive(type, { limit: 2 })
      assert.deepInclude(first, { workflowJobs: 1, more: true })
      assert.deepStrictEqual(idsOf(first), [direct])
      assert.deepStrictEqual(yield* rowOf(step.jobId), before)
      const second = yield* redrive(type, { limit: 2 })
      assert.deepInclude(second, { workflowJobs: 0, more: false })
      assert.deepStrictEqual(idsOf(second), [last])
    })
  )

  it.effect("malformed options are refused before anything is sent", () =>
    Effect.gen(function* () {
      const far = DateTime.makeUnsafe(8.64e15)
      const malformed: ReadonlyArray<readonly [Partial<Record<keyof Jobs.RedriveOptions, unknown>>, string]> = [
        [{ scope: TenantScope.organization("x") }, "scope.organizationId"],
        [{ jobType: " " }, "jobType"],
        [{ jobType: "x".repeat(129) }, "jobType"],
        [{ errorCode: "a\0" }, "errorCode"],
        [{ deadLetterReason: "BORED" }, "deadLetterReason"],
        [{ failedAfter: far }, "failedAfter"],
        [{ failedBefore: far }, "failedBefore"],
        [{ limit: 0 }, "limit"],
        [{ limit: 1001 }, "limit"],
        [{ limit: 1.5 }, "limit"],
        [{ statePolicy: "keep" }, "statePolicy"],
        [{ reason: "" }, "reason"]
      ]
      for (const [change, argument] of malformed) {
        const options = Object.assign<Jobs.RedriveOptions, object>({ scope: global, reason: "why" }, change)
        const sent = yield* record(
          Effect.map(Effect.flip(Jobs.redriveDeadLetters(options)), ({ reason }) => {
            assert.instanceOf(reason, InvalidArgument)
            assert.strictEqual(reason.argument, argument)
          })
        )
        assert.deepStrictEqual(sent, [])
      }
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })(
  "Jobs.redriveDeadLetters and others",
  (it) => {
    const lettersNow = Effect.fnUntraced(function* (type: string, count: number) {
      const ids: Array<Jobs.JobId> = []
      for (let n = 0; n < count; n++) ids.push(yield* Recovery.deadLettered(type))
      return ids
    })

    it.effect("two at once share the work: none waits, none is redriven twice", () =>
      Effect.gen(function* () {
        const type = yield* Recovery.makeType
        const ids = yield* lettersNow(type, 4)
        const end = yield* standing(redrive(type, { limit: 2 }))
        const second = yield* redrive(type, { limit: 2 })
        assert.deepStrictEqual(idsOf(second), ids.slice(2))
        const third = yield* redrive(type, { limit: 2 })
        assert.deepInclude(third, { jobs: [], held: 2, more: false })
        yield* end
        assert.deepInclude(yield* redrive(type, { limit: 2 }), { jobs: [], held: 0, more: false })
        for (const jobId of ids) assert.strictEqual((yield* get(jobId)).runNumber, 2)
      })
    )

    it.effect("a batch that is rolled back is redriven by the next", () =>
      Effect.gen(function* () {
        const type = yield* Recovery.makeType
        const ids = yield* lettersNow(type, 2)
        yield* yield* standing(redrive(type), "ROLLBACK")
        assert.deepStrictEqual(idsOf(yield* redrive(type)), ids)
      })
    )

    it.effect("a job that is being requeued is left for later; a requeue of a redriven job is told of it", () =>
      Effect.gen(function* () {
        const type = yield* Recovery.makeType
        const [jobId, other] = yield* lettersNow(type, 2)
        if (jobId === undefined) return assert.fail("no job")
        const request = yield* Recovery.requeueRequest(jobId)
        const requeued = yield* standing(Jobs.requeue(request))
        const batch = yield* redrive(type)
        assert.deepStrictEqual([idsOf(batch), batch.held], [[other], 1])
        yield* requeued
        assert.deepInclude(yield* redrive(type), { jobs: [], held: 0 })
        yield* Recovery.failOne(type)
        yield* Recovery.failOne(type)
        const redriven = yield* standing(redrive(type))
        const fiber = yield* Effect.forkChild(Jobs.requeue({ ...request, expectedRunNumber: 2 }))
        yield* redriven
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "ExpectationMismatch")
        assert.strictEqual((yield* get(jobId)).runNumber, 3)
      })
    )

    it.effect("ten at once over two hundred: each once", () =>
      Effect.gen(function* () {
        const type = yield* Recovery.makeType
        yield* Jobs.enqueueMany(Array.from({ length: 200 }, (_, n) => ({ jobType: type, payload: n })))
        const jobs = yield* Jobs.claim({ workerId: "w", types: [type], limit: 200 })
        yield* Jobs.completeMany(
          jobs.map(({ lease }) => ({ _tag: "Failure", lease, kind: "TERMINAL", code: "c", message: "m" }))
        )
        const batches = yield* Effect.all(
          Array.from({ length: 10 }, () => redrive(type, { limit: 40 })),
          { concurrency: "unbounded" }
        )
        const rest = yield* redrive(type, { limit: 1000 })
        const all = [...batches, rest].flatMap(idsOf)
        assert.strictEqual(all.length, 200)
        assert.strictEqual(new Set(all).size, 200)
        const runs = yield* Effect.forEach(all, get)
        assert.isTrue(runs.every(({ runNumber, status }) => runNumber === 2 && status === "PENDING"))
      })
    )
  }
)

it.layer(TestDatabase.layer, { timeout: "120 seconds" })("a redrive behind a long history", (it) => {
  const redriven = 100_000
  const others = 50_000
  const open = 2000
  const limit = 50
  const type = "redrive.plans"

  /** Dead letters from `from` seconds ago on, one every millisecond. */
  const insert = (jobType: string, count: number, from: number, settled: boolean, organization = "NULL") =>
    SqlClient.use(
      (sql) =>
        sql.unsafe(`
          WITH job AS (
            INSERT INTO runledger.job_queue (
              job_type, organization_id, status, attempt, run_number, max_attempts, event_seq, next_run_at, created_at, updated_at
            )
            SELECT
              '${jobType}', ${organization}::uuid, '${settled ? "SUCCEEDED" : "DEAD_LETTERED"}', 1, ${settled ? 2 : 1}, 3, 6, at, at, at
            FROM (SELECT clock_timestamp() AS at) c, generate_series(1, ${count})
            RETURNING id, job_type, organization_id, created_at
          )
          INSERT INTO runledger.job_dead_letters (
            job_id, job_type, organization_id, attempt, reason, failure_kind, payload_snapshot, failed_at, created_at,
            settled_run_number
          )
          SELECT
            id, job_type, organization_id, 1, 'ATTEMPTS_EXHAUSTED', 'RETRYABLE', '{}',
            created_at - interval '${from} seconds' + row_number() OVER () * interval '1 millisecond', created_at,
            ${settled ? 1 : "NULL"}
          FROM job`).unprepared
    )

  const organization = `'${Recovery.organizationId}'`

  it.effect("costs what its batch costs, whatever the statistics say, under any plan", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* JobDefinitions.upsert(type)
      for (const table of ["job_queue", "job_dead_letters"]) {
        yield* sql.unsafe(`ALTER TABLE runledger.${table} SET (autovacuum_enabled = false)`).unprepared
        yield* sql.unsafe(`ANALYZE runledger.${table}`).unprepared
      }
      yield* insert(type, redriven, 3000, true)
      // what waits of other types is older, so it would be met first
      yield* insert("redrive.other", others, 2000, false)
      yield* insert(type, open, 1000, false)
      yield* insert(type, open, 1000, false, organization)
      const requests: Readonly<Record<string, readonly [Partial<Jobs.RedriveOptions>, string]>> = {
        "of one type": [{ jobType: type }, "idx_job_dead_letters_open_type"],
        "of one type and organization": [
          { jobType: type, scope: Recovery.organization },
          "idx_job_dead_letters_open_type"
        ],
        "of all types": [{}, "idx_job_dead_letters_open"],
        "of all types of an organization": [{ scope: Recovery.organization }, "idx_job_dead_letters_open"]
      }
      for (const statistics of ["empty", "fresh"]) {
        if (statistics === "fresh") yield* sql`ANALYZE runledger.job_queue, runledger.job_dead_letters`.unprepared
        for (const [name, [options, index]] of Object.entries(requests)) {
          const operation = Jobs.redriveDeadLetters({ scope: global, reason: "why", limit, ...options })
          assert.strictEqual((yield* rollback(operation)).jobs.length, limit)
          const [statement, ...rest] = yield* record(operation)
          assert.deepStrictEqual(rest, [])
          if (statement === undefined) return assert.fail("nothing was sent")
          for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
            const plan: Plan = yield* rollback(
              Effect.gen(function* () {
                yield* planWith(mode)
                const { explain } = yield* prepare(statement)
                return yield* explain(statement.parameters)
              })
            )
            const where = `${name}, ${statistics} statistics, ${mode}`
            assert.deepStrictEqual(plan.scanned, [], where)
            assert.deepStrictEqual(plan.indexes, [index, "pk_job_dead_letters", "pk_job_queue"], where)
            assert.isAtMost(plan.buffers, limit * 80, where)
            assert.isFalse(plan.compiled, where)
          }
        }
      }
    })
  )
})
