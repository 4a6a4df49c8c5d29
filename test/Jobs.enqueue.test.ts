import { assert, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Layer, Option, Result } from "effect"
import type { Json } from "effect/Schema"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const declare = Effect.fnUntraced(function* (name: string, settings?: JobDefinitions.DefinitionSettings) {
  const jobType = `${name}-${crypto.randomUUID()}`
  yield* JobDefinitions.upsert(jobType, settings)
  return jobType
})

const stored = (jobId: Jobs.JobId) => Effect.map(Jobs.get(TenantScope.admin, jobId), Option.getOrThrow)

const countOf = (jobType: string) => Jobs.count({ scope: TenantScope.admin, jobType })

/** An answer in a few words: `inserted`, `existing`, or the refusal with what it names. */
const word = (answer: Result.Result<Jobs.Enqueued, Jobs.EnqueueRefusal>): string => {
  if (Result.isSuccess(answer)) return answer.success.disposition
  const { failure } = answer
  if (failure._tag === "IdempotencyConflict") return `conflict ${failure.fields.join(" ")}`
  return failure._tag === "DefinitionUnavailable" ? failure.state : failure._tag
}

const idOf = (answer: Result.Result<Jobs.Enqueued, Jobs.EnqueueRefusal> | undefined): string | undefined =>
  answer === undefined
    ? undefined
    : Result.isSuccess(answer)
      ? answer.success.jobId
      : "jobId" in answer.failure
        ? answer.failure.jobId
        : undefined

const isolations = ["REPEATABLE READ", "SERIALIZABLE"] as const

it.layer(TestDatabase.layerTestClock)("enqueue", (it) => {
  // -------------------------------------------------------------------------------------------------------------------
  // What a job gets
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("what is left out comes from the definition, as it is then", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("defaults", { maxAttempts: 7, timeout: "90 seconds", priority: -3 })
      const { jobId } = yield* Jobs.enqueue(jobType, null)
      const now = yield* DateTime.now
      yield* JobDefinitions.update(jobType, { maxAttempts: 1, timeout: "1 second", priority: 9 })
      const job = yield* stored(jobId)
      assert.deepStrictEqual(
        [job.maxAttempts, job.timeoutSeconds, job.priority, job.payloadVersion, job.stage],
        [7, 90, -3, 1, "queued"]
      )
      assert.deepStrictEqual([job.organizationId, job.idempotencyKey], [Option.none(), Option.none()])
      assert.deepStrictEqual([job.nextRunAt, job.createdAt, job.updatedAt], [now, now, now])
    })
  )

  it.effect("what is given goes before the definition", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("overrides", { maxAttempts: 7, timeout: "90 seconds", priority: -3 })
      const organizationId = crypto.randomUUID()
      const runAt = DateTime.makeUnsafe("2030-01-02T03:04:05.678Z")
      const enqueued = yield* Jobs.enqueue(
        jobType,
        { to: "ada" },
        {
          organizationId: organizationId.toUpperCase(),
          priority: 0,
          maxAttempts: 2_147_483_647,
          timeout: Duration.millis(1001),
          runAt,
          idempotencyKey: " the key ",
          stage: "scheduled",
          payloadVersion: 4
        }
      )
      assert.deepStrictEqual(
        { status: enqueued.status, runNumber: enqueued.runNumber, disposition: enqueued.disposition },
        { status: "PENDING", runNumber: 1, disposition: "inserted" }
      )
      const job = yield* stored(enqueued.jobId)
      assert.deepStrictEqual(
        [job.maxAttempts, job.timeoutSeconds, job.priority, job.payloadVersion, job.stage, job.payload],
        [2_147_483_647, 2, 0, 4, "scheduled", { to: "ada" }]
      )
      assert.deepStrictEqual(
        [job.organizationId, job.idempotencyKey],
        [Option.some(organizationId), Option.some(" the key ")]
      )
      assert.deepStrictEqual(job.nextRunAt, runAt)
    })
  )

  it.effect.each([
    { delay: 0, millis: 0 },
    { delay: Duration.millis(0.4), millis: 1 },
    { delay: "36525 days", millis: 36_525 * 86_400_000 }
  ] as const)("a delay of $delay counts from now, rounded up", ({ delay, millis }) =>
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(yield* declare("delay"), null, { delay })
      const now = yield* DateTime.now
      assert.deepStrictEqual((yield* stored(jobId)).nextRunAt, DateTime.add(now, { milliseconds: millis }))
    })
  )

  it.effect.each(["0001-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"])(
    "an instant is kept as it is: %s",
    (instant) =>
      Effect.gen(function* () {
        const runAt = DateTime.makeUnsafe(instant)
        const { jobId } = yield* Jobs.enqueue(yield* declare("instant"), null, { runAt })
        assert.deepStrictEqual((yield* stored(jobId)).nextRunAt, runAt)
      })
  )

  it.effect.each(["queued", "scheduled", "running", "completed"] as const)(
    "the event of the enqueue tells the initial stage: %s",
    (stage) =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobType = yield* declare("stage")
        const { jobId } = yield* Jobs.enqueue(jobType, null, { stage })
        const [event, ...others] = yield* Jobs.events(TenantScope.admin, jobId)
        assert.deepStrictEqual(others, [])
        assert.deepStrictEqual(
          [event?.seq, event?.type, event?.stage, event?.attempt, event?.payload],
          [1, "ENQUEUED", Option.some(stage), Option.none(), { job_type: jobType }]
        )
        // only a stage that cannot be guessed is stored
        const rows = yield* sql`SELECT stage FROM runledger.job_events WHERE job_id = ${jobId}::uuid`
        assert.deepStrictEqual(rows, stage === "queued" ? [] : [{ stage }])
      })
  )

  it.effect("a type without an enabled definition is refused, with or without a key, and says which it is", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("disabled", { isEnabled: false })
      const missing = `missing-${crypto.randomUUID()}`
      for (const options of [{}, { idempotencyKey: "k" }]) {
        for (const [type, state] of [
          [jobType, "disabled"],
          [missing, "missing"]
        ] as const) {
          const reason = yield* refusal(Jobs.enqueue(type, null, options))
          assert.deepStrictEqual(reason._tag === "DefinitionUnavailable" && [reason.jobType, reason.state], [
            type,
            state
          ])
          assert.strictEqual(yield* countOf(type), 0)
        }
      }
      yield* JobDefinitions.update(jobType, { isEnabled: true })
      assert.strictEqual((yield* Jobs.enqueue(jobType, null, { idempotencyKey: "k" })).disposition, "inserted")
    })
  )

  it.effect("without a key, equal requests are jobs of their own", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("unkeyed")
      const first = yield* Jobs.enqueue(jobType, 1)
      const second = yield* Jobs.enqueue(jobType, 1)
      assert.notStrictEqual(first.jobId, second.jobId)
      assert.strictEqual(yield* countOf(jobType), 2)
    })
  )

  it.effect("a job exists if and only if the caller's transaction commits", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("atomic")
      yield* rollback(
        Effect.gen(function* () {
          yield* Jobs.enqueue(jobType, 1)
          yield* Jobs.enqueue(jobType, 2, { idempotencyKey: "k" })
          yield* Jobs.enqueueMany([
            { jobType, payload: 3 },
            { jobType, payload: 4, idempotencyKey: "l" }
          ])
          assert.strictEqual(yield* countOf(jobType), 4)
        })
      )
      assert.strictEqual(yield* countOf(jobType), 0)
      yield* sql.withTransaction(Jobs.enqueue(jobType, 2, { idempotencyKey: "k" }))
      assert.strictEqual(yield* countOf(jobType), 1)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Isolation
  // -------------------------------------------------------------------------------------------------------------------

  it.effect.each(isolations)("without a key, %s will do", (isolation) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("isolation")
      yield* sql
        .withTransaction(
          Effect.gen(function* () {
            yield* Jobs.enqueue(jobType, 1)
            yield* Jobs.enqueueMany([{ jobType, payload: 2 }])
          })
        )
        .pipe(Effect.provideService(BeginTransaction, `BEGIN ISOLATION LEVEL ${isolation}`))
      assert.strictEqual(yield* countOf(jobType), 2)
    })
  )

  it.effect.each(isolations)("with a key, a %s transaction of the caller's is refused, and stays usable", (isolation) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("isolation")
      yield* sql
        .withTransaction(
          Effect.gen(function* () {
            const reason = yield* refusal(Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }))
            assert.strictEqual(reason._tag, "UnsupportedIsolation")
            assert.strictEqual(reason.code, "job.enqueue_idempotency_unsupported_isolation")
            // as a whole, also what has no key
            const many = Jobs.enqueueMany([
              { jobType, payload: 2 },
              { jobType, payload: 3, idempotencyKey: "k" }
            ])
            assert.strictEqual((yield* refusal(many))._tag, "UnsupportedIsolation")
            yield* Jobs.enqueue(jobType, 4)
          })
        )
        .pipe(Effect.provideService(BeginTransaction, `BEGIN ISOLATION LEVEL ${isolation}`))
      assert.strictEqual(yield* countOf(jobType), 1)
    })
  )

  it.effect.each(["READ COMMITTED", "READ UNCOMMITTED"])("with a key, a %s transaction will do", (isolation) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("isolation")
      const enqueued = yield* sql
        .withTransaction(Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }))
        .pipe(Effect.provideService(BeginTransaction, `BEGIN ISOLATION LEVEL ${isolation}`))
      assert.strictEqual(enqueued.disposition, "inserted")
    })
  )

  it.effect.each(isolations)("outside of a transaction, a session that defaults to %s does not matter", (isolation) =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: true })
      const admin = TestDatabase.client("postgres", { maxConnections: 1 })
      yield* SqlClient.use((sql) =>
        sql.unsafe(`ALTER DATABASE ${database} SET default_transaction_isolation = '${isolation.toLowerCase()}'`)
      ).pipe(Effect.provide(admin))
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        const [setting] = yield* sql`SHOW transaction_isolation`
        assert.deepStrictEqual(setting, { transaction_isolation: isolation.toLowerCase() })

        const jobType = yield* declare("session")
        const options = { idempotencyKey: "k" }
        assert.strictEqual((yield* Jobs.enqueue(jobType, 1, options)).disposition, "inserted")
        assert.strictEqual((yield* Jobs.enqueue(jobType, 1, options)).disposition, "existing")
        assert.strictEqual((yield* refusal(Jobs.enqueue(jobType, 2, options)))._tag, "IdempotencyConflict")
        const answers = yield* Jobs.enqueueMany(
          Array.from({ length: 1500 }, (_, n) => ({ jobType, payload: n, idempotencyKey: `k${n}` }))
        )
        assert.strictEqual(answers.filter(Result.isSuccess).length, 1500)
        const [job] = yield* Jobs.claim({ workerId: "w", types: [jobType], limit: 1 })
        assert.isDefined(job)
        yield* Jobs.completeSuccess(job.lease)

        // the caller's own transactions are what the session says
        const reason = yield* refusal(
          sql
            .withTransaction(Jobs.enqueue(jobType, 3, { idempotencyKey: "other" }))
            .pipe(Effect.catchTag("SqlError", Effect.die))
        )
        assert.strictEqual(reason._tag, "UnsupportedIsolation")
        const [after] = yield* sql`SHOW transaction_isolation`
        assert.deepStrictEqual(after, setting)
      }).pipe(Effect.provide(TestDatabase.client(database, { maxConnections: 2 })))
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // The same request
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("the same request returns the first job, and leaves it alone", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("same")
      const request = {
        organizationId: crypto.randomUUID(),
        priority: 1,
        maxAttempts: 2,
        timeout: "3 seconds",
        runAt: DateTime.makeUnsafe("2030-01-01T00:00:00.001Z"),
        idempotencyKey: "k",
        stage: "scheduled"
      } as const
      const first = yield* Jobs.enqueue(jobType, { a: [1, { b: null }] }, request)
      const before = yield* stored(first.jobId)
      yield* TestClock.adjust("1 second")
      const second = yield* Jobs.enqueue(jobType, { a: [1, { b: null }] }, request)
      assert.deepStrictEqual(second, { ...first, disposition: "existing" })
      assert.deepStrictEqual(yield* stored(first.jobId), before)
      assert.strictEqual(yield* countOf(jobType), 1)
      assert.strictEqual((yield* Jobs.events(TenantScope.admin, first.jobId)).length, 1)
    })
  )

  const base = { a: 1, b: [1, 2], c: { d: null } }
  const equal: ReadonlyArray<readonly [title: string, Json, Json]> = [
    ["the order of keys", { b: { d: 1, c: 2 }, a: 1 }, { a: 1, b: { c: 2, d: 1 } }],
    ["how a number is written", [100, 0, 1e21], [1e2, -0, 1_000_000_000_000_000_000_000]],
    ["nothing", base, { ...base }],
    ["null", null, null]
  ]
  it.effect.each(equal.map(([title, a, b]) => ({ title, a, b })))(
    "$title makes no difference in a payload",
    ({ a, b }) =>
      Effect.gen(function* () {
        const jobType = yield* declare("equal")
        const first = yield* Jobs.enqueue(jobType, a, { idempotencyKey: "k" })
        const second = yield* Jobs.enqueue(jobType, b, { idempotencyKey: "k" })
        assert.deepStrictEqual(second, { ...first, disposition: "existing" })
        const answers = yield* Jobs.enqueueMany([
          { jobType, payload: a, idempotencyKey: "l" },
          { jobType, payload: b, idempotencyKey: "l" }
        ])
        assert.deepStrictEqual(answers.map(word), ["inserted", "existing"])
      })
  )

  const at = DateTime.makeUnsafe("2030-01-01T00:00:00Z")
  const different: ReadonlyArray<
    readonly [
      title: string,
      first: Partial<Jobs.EnqueueRequest>,
      second: Partial<Jobs.EnqueueRequest>,
      fields: ReadonlyArray<string>
    ]
  > = [
    ["a payload", {}, { payload: 2 }, ["payload"]],
    ["an order in a payload", { payload: [1, 2] }, { payload: [2, 1] }, ["payload"]],
    ["null in a payload", { payload: { a: null } }, { payload: {} }, ["payload"]],
    ["text for a number", { payload: 1 }, { payload: "1" }, ["payload"]],
    ["no payload", { payload: null }, { payload: {} }, ["payload"]],
    ["a priority", { priority: 1 }, { priority: 2 }, ["priority"]],
    ["the default priority, spelled out", {}, { priority: 0 }, ["priority"]],
    ["the default attempts, spelled out", { maxAttempts: 3 }, {}, ["max_attempts"]],
    ["the default timeout, spelled out", {}, { timeout: "5 minutes" }, ["timeout_seconds"]],
    ["an instant", { runAt: at }, { runAt: DateTime.add(at, { milliseconds: 1 }) }, ["next_run_at"]],
    ["an instant in place of now", {}, { runAt: at }, ["next_run_at"]],
    ["a delay", { delay: 1 }, { delay: 2 }, ["delay_ms"]],
    ["no delay, spelled out", {}, { delay: 0 }, ["delay_ms"]],
    ["an instant in place of a delay", { delay: 0 }, { runAt: at }, ["delay_ms", "next_run_at"]],
    ["a stage", { stage: "scheduled" }, {}, ["stage"]],
    [
      "everything",
      {},
      { payload: 2, priority: 1, maxAttempts: 1, timeout: 1000, runAt: at, stage: "running" },
      ["max_attempts", "next_run_at", "payload", "priority", "stage", "timeout_seconds"]
    ]
  ]
  it.effect.each(different.map(([title, first, second, fields]) => ({ title, first, second, fields })))(
    "$title is a different request, and the difference is named, in a batch too",
    ({ first, second, fields }) =>
      Effect.gen(function* () {
        const jobType = yield* declare("different")
        const request = (idempotencyKey: string, given: Partial<Jobs.EnqueueRequest>) => ({
          jobType,
          payload: 1,
          idempotencyKey,
          ...given
        })
        const { payload: a, ...one } = request("k", first)
        const { payload: b, ...two } = request("k", second)
        const { jobId } = yield* Jobs.enqueue(jobType, a, one)
        const before = yield* stored(jobId)
        const reason = yield* refusal(Jobs.enqueue(jobType, b, two))
        assert.deepStrictEqual(reason._tag === "IdempotencyConflict" && [reason.jobId, reason.fields], [jobId, fields])
        assert.deepStrictEqual(yield* stored(jobId), before)
        assert.deepStrictEqual((yield* Jobs.enqueueMany([request("k", second)])).map(word), [
          `conflict ${fields.join(" ")}`
        ])
        const answers = yield* Jobs.enqueueMany([request("l", first), request("l", second), request("l", first)])
        assert.deepStrictEqual(answers.map(word), ["inserted", `conflict ${fields.join(" ")}`, "existing"])
        assert.strictEqual(new Set(answers.map(idOf)).size, 1)
        assert.strictEqual(yield* countOf(jobType), 2)
      })
  )

  it.effect("a delay is compared as it was given, whenever it is given again", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("delayed")
      const options = { idempotencyKey: "k", delay: "1 minute" } as const
      const first = yield* Jobs.enqueue(jobType, 1, options)
      const { nextRunAt } = yield* stored(first.jobId)
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* Jobs.enqueue(jobType, 1, { ...options, delay: 60_000 }), {
        ...first,
        disposition: "existing"
      })
      assert.deepStrictEqual((yield* stored(first.jobId)).nextRunAt, nextRunAt)
    })
  )

  it.effect("the version of the payload is not compared: it is not the caller's doing", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("version")
      const first = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k", payloadVersion: 1 })
      const second = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k", payloadVersion: 2 })
      assert.deepStrictEqual(second, { ...first, disposition: "existing" })
      assert.strictEqual((yield* stored(first.jobId)).payloadVersion, 1)
    })
  )

  it.effect("a key belongs to its type and its organization; the global one is none of these", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* declare("one"), yield* declare("two")]
      const organizationId = crypto.randomUUID()
      const owners = [undefined, organizationId, crypto.randomUUID(), "00000000-0000-0000-0000-000000000000"]
      const requests = [one, two].flatMap((jobType) =>
        owners.map((owner) => ({ jobType, payload: `${jobType} ${owner}`, organizationId: owner, idempotencyKey: "k" }))
      )
      const jobIds: Array<string> = []
      for (const { jobType, payload, ...options } of requests) {
        const enqueued = yield* Jobs.enqueue(jobType, payload, options)
        assert.strictEqual(enqueued.disposition, "inserted")
        jobIds.push(enqueued.jobId)
      }
      const answers = yield* Jobs.enqueueMany(requests)
      assert.deepStrictEqual(new Set(answers.map(word)), new Set(["existing"]))
      assert.deepStrictEqual(answers.map(idOf), jobIds)
      // the same organization in capitals
      const shouted = yield* Jobs.enqueueMany([
        { jobType: one, payload: `${one} ${organizationId}`, organizationId, idempotencyKey: "k" },
        {
          jobType: one,
          payload: `${one} ${organizationId}`,
          organizationId: organizationId.toUpperCase(),
          idempotencyKey: "k"
        }
      ])
      assert.deepStrictEqual(shouted.map(word), ["existing", "existing"])
    })
  )

  it.effect("keys are compared exactly", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("exact")
      const keys = ["k", "K", " k", "k ", "k\n", "\u00e9", "e\u0301", "%", "_", "'", "\\", '"k"', "é".repeat(256)]
      const answers = yield* Jobs.enqueueMany(keys.map((idempotencyKey) => ({ jobType, payload: 1, idempotencyKey })))
      assert.deepStrictEqual(new Set(answers.map(word)), new Set(["inserted"]))
      for (const [index, idempotencyKey] of keys.entries()) {
        const enqueued = yield* Jobs.enqueue(jobType, 1, { idempotencyKey })
        assert.strictEqual(enqueued.jobId, idOf(answers[index]))
        assert.deepStrictEqual((yield* stored(enqueued.jobId)).idempotencyKey, Option.some(idempotencyKey))
      }
    })
  )

  it.effect("a retry finds its job though the definition was disabled or is gone", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("withdrawn")
      const first = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k" })
      const expected = { ...first, disposition: "existing" }
      yield* JobDefinitions.update(jobType, { isEnabled: false })
      assert.deepStrictEqual(yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }), expected)
      assert.strictEqual(
        (yield* refusal(Jobs.enqueue(jobType, 2, { idempotencyKey: "k" })))._tag,
        "IdempotencyConflict"
      )
      yield* sql`UPDATE runledger.job_definitions SET job_type = ${`${jobType} renamed`} WHERE job_type = ${jobType}`
      assert.deepStrictEqual(yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }), expected)
      const answers = yield* Jobs.enqueueMany([
        { jobType, payload: 1, idempotencyKey: "k" },
        { jobType, payload: 1, idempotencyKey: "new" },
        { jobType, payload: 1 }
      ])
      assert.deepStrictEqual(answers.map(word), ["existing", "missing", "missing"])
    })
  )

  it.effect("a retry finds its job wherever it is in its life, and says where", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("later")
      const again = Effect.map(
        Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }),
        ({ status, runNumber, disposition }) => [status, runNumber, disposition]
      )
      const claim = Effect.gen(function* () {
        const [job] = yield* Jobs.claim({ workerId: "w", types: [jobType], limit: 1 })
        assert.isDefined(job)
        return job.lease
      })
      assert.deepStrictEqual(yield* again, ["PENDING", 1, "inserted"])
      const lease = yield* claim
      assert.deepStrictEqual(yield* again, ["LEASED", 1, "existing"])
      yield* Jobs.completeContinuation(lease)
      assert.deepStrictEqual(yield* again, ["PENDING", 2, "existing"])
      const endings = [
        ["SUCCEEDED", (it: Jobs.Lease) => Effect.asVoid(Jobs.completeSuccess(it))],
        [
          "DEAD_LETTERED",
          (it: Jobs.Lease) => Effect.asVoid(Jobs.completeFailure(it, { kind: "TERMINAL", code: "no", message: "no" }))
        ],
        ["CANCELED", (it: Jobs.Lease) => Effect.asVoid(Jobs.cancel(TenantScope.global, it.jobId))]
      ] as const
      for (const [status, end] of endings) {
        const sql = yield* SqlClient
        yield* sql
          .withTransaction(
            Effect.gen(function* () {
              yield* end(yield* claim)
              assert.deepStrictEqual(yield* again, [status, 2, "existing"])
              return yield* Effect.fail("undo")
            })
          )
          .pipe(Effect.flip)
      }
    })
  )

  it.effect("a job without a recorded request cannot be compared", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("legacy")
      const { jobId } = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k" })
      yield* rollback(
        Effect.gen(function* () {
          yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT ck_job_queue_idempotency_enqueue_request`
          yield* sql`UPDATE runledger.job_queue SET enqueue_request = NULL WHERE id = ${jobId}::uuid`
          const reason = yield* refusal(Jobs.enqueue(jobType, 1, { idempotencyKey: "k" }))
          assert.strictEqual(reason._tag === "IdempotencySnapshotMissing" && reason.jobId, jobId)
          const answers = yield* Jobs.enqueueMany([
            { jobType, payload: 1, idempotencyKey: "k" },
            { jobType, payload: 1, idempotencyKey: "k" },
            { jobType, payload: 2, idempotencyKey: "k" },
            { jobType, payload: 1 }
          ])
          assert.deepStrictEqual(answers.map(word), [
            "IdempotencySnapshotMissing",
            "IdempotencySnapshotMissing",
            "IdempotencySnapshotMissing",
            "inserted"
          ])
        })
      )
    })
  )

  it.effect("the recorded request holds what was given, and nothing of the defaults", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("snapshot")
      const requestOf = (jobId: string) =>
        Effect.map(
          sql`SELECT enqueue_request FROM runledger.job_queue WHERE id = ${jobId}::uuid`,
          ([row]) => row?.enqueue_request
        )
      const bare = yield* Jobs.enqueue(jobType, { a: 1 }, { idempotencyKey: "k" })
      assert.deepStrictEqual(yield* requestOf(bare.jobId), {
        payload: { a: 1 },
        priority: null,
        max_attempts: null,
        timeout_seconds: null,
        next_run_at: null,
        stage: "queued"
      })
      const full = yield* Jobs.enqueue(jobType, null, {
        idempotencyKey: "l",
        priority: 10,
        maxAttempts: 3,
        timeout: "30 seconds",
        runAt: DateTime.makeUnsafe("2026-05-22T10:30:45.120Z"),
        stage: "scheduled"
      })
      assert.deepStrictEqual(yield* requestOf(full.jobId), {
        payload: null,
        priority: 10,
        max_attempts: 3,
        timeout_seconds: 30,
        next_run_at: "2026-05-22T10:30:45.120000Z",
        stage: "scheduled"
      })
      const delayed = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "m", delay: "1 second" })
      assert.deepStrictEqual(yield* requestOf(delayed.jobId), {
        payload: 1,
        priority: null,
        max_attempts: null,
        timeout_seconds: null,
        next_run_at: null,
        delay_ms: 1000,
        stage: "queued"
      })
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Batches
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("a batch is answered item by item, in the order given", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("mixed")
      const disabled = yield* declare("off", { isEnabled: false })
      const kept = yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "kept" })
      const answers = yield* Jobs.enqueueMany([
        { jobType, payload: 1, idempotencyKey: "z" },
        { jobType, payload: 2 },
        { jobType: disabled, payload: 3 },
        { jobType, payload: 1, idempotencyKey: "kept" },
        { jobType: `${jobType} unknown`, payload: 4, idempotencyKey: "z" },
        { jobType, payload: 5, idempotencyKey: "kept" },
        { jobType, payload: 6, idempotencyKey: "a" },
        { jobType, payload: 2 },
        { jobType, payload: 1, idempotencyKey: "z", priority: 1 },
        { jobType, payload: 1, idempotencyKey: "z" }
      ])
      assert.deepStrictEqual(answers.map(word), [
        "inserted",
        "inserted",
        "disabled",
        "existing",
        "missing",
        "conflict payload",
        "inserted",
        "inserted",
        "conflict priority",
        "existing"
      ])
      const ids = answers.map(idOf)
      assert.strictEqual(ids[3], kept.jobId)
      assert.strictEqual(ids[5], kept.jobId)
      assert.strictEqual(ids[8], ids[0])
      assert.strictEqual(ids[9], ids[0])
      assert.strictEqual(new Set([ids[0], ids[1], ids[6], ids[7], kept.jobId]).size, 5)
      assert.strictEqual(yield* countOf(jobType), 5)
    })
  )

  it.effect("repeats of a refused request are each compared with what is stored", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("repeats")
      const { jobId } = yield* Jobs.enqueue(jobType, "stored", { idempotencyKey: "k" })
      const answers = yield* Jobs.enqueueMany(
        ["other", "stored", "other", "third"].map((payload) => ({ jobType, payload, idempotencyKey: "k" }))
      )
      assert.deepStrictEqual(answers.map(word), [
        "conflict payload",
        "existing",
        "conflict payload",
        "conflict payload"
      ])
      assert.deepStrictEqual(new Set(answers.map(idOf)), new Set([jobId]))
      const unknown = yield* Jobs.enqueueMany(
        [1, 2, 1].map((payload) => ({ jobType: `${jobType} unknown`, payload, idempotencyKey: "k" }))
      )
      assert.deepStrictEqual(unknown.map(word), ["missing", "missing", "missing"])
    })
  )

  it.effect("nothing to enqueue is nothing to do", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* Jobs.enqueueMany([]), [])
    })
  )

  it.effect("ids of a batch sort in the order given, with keys or without", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("order")
      const answers = yield* Jobs.enqueueMany(
        Array.from({ length: 200 }, (_, n) => ({
          jobType,
          payload: n,
          // keys in the opposite order, every other request without one
          idempotencyKey: n % 2 === 0 ? undefined : `key ${1000 - n}`
        }))
      )
      const ids = answers.map(idOf)
      assert.deepStrictEqual(ids.toSorted(), ids)
    })
  )

  it.effect("more than a thousand are several statements, answered as one", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("large")
      const requests = Array.from({ length: 2501 }, (_, n) => ({
        jobType,
        payload: n,
        idempotencyKey: n % 3 === 0 ? `key ${n}` : undefined
      }))
      const first = yield* Jobs.enqueueMany(requests)
      assert.deepStrictEqual(new Set(first.map(word)), new Set(["inserted"]))
      for (const n of [0, 1, 999, 1000, 1001, 2500]) {
        const answer = first[n]
        assert.isDefined(answer)
        assert.isTrue(Result.isSuccess(answer))
        if (Result.isSuccess(answer)) assert.strictEqual((yield* stored(answer.success.jobId)).payload, n)
      }
      const second = yield* Jobs.enqueueMany(requests)
      assert.deepStrictEqual(
        second.map(word),
        requests.map(({ idempotencyKey }) => (idempotencyKey === undefined ? "inserted" : "existing"))
      )
      assert.strictEqual(yield* countOf(jobType), 2501 + 2501 - 834)
    })
  )

  it.effect("if the database refuses the last statement of several, nothing is enqueued", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("refused")
      yield* sql.unsafe(`ALTER TABLE runledger.job_queue ADD CONSTRAINT no_poison CHECK (payload <> '"poison"')`)
      const requests = Array.from({ length: 2001 }, (_, n) => ({ jobType, payload: n === 2000 ? "poison" : n }))
      for (const keyed of [false, true]) {
        // the key of the last one sorts last
        const batch = requests.map((it, n) => (keyed ? { ...it, idempotencyKey: String(10_000 + n) } : it))
        const reason = yield* refusal(Jobs.enqueueMany(batch))
        assert.strictEqual(reason._tag === "ConstraintViolation" && reason.constraint, "no_poison")
        assert.strictEqual(yield* countOf(jobType), 0)

        // inside a caller's transaction only the batch is taken back
        yield* sql.withTransaction(
          Effect.gen(function* () {
            const before = yield* Jobs.enqueue(jobType, "before")
            assert.strictEqual((yield* refusal(Jobs.enqueueMany(batch)))._tag, "ConstraintViolation")
            yield* Jobs.enqueue(jobType, "after")
            yield* Jobs.cancel(TenantScope.global, before.jobId)
          })
        )
        assert.strictEqual(yield* countOf(jobType), 2)
        yield* sql`DELETE FROM runledger.job_queue WHERE job_type = ${jobType}`
      }
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT no_poison`
    })
  )
})

// -----------------------------------------------------------------------------------------------------------------------
// What is sent
// -----------------------------------------------------------------------------------------------------------------------

const Faulty = Layer.merge(
  FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)),
  // notifications are statements too
  Layer.succeed(NotifyInterval, 0)
)

it.layer(Faulty)("enqueue: what is sent", (it) => {
  const sent = Effect.gen(function* () {
    const faults = yield* FaultySqlClient.Faults
    const statements = yield* faults.statements
    yield* faults.clear
    return statements.map(({ operation }) => operation)
  })

  it.effect("one statement for one job or a thousand, with keys or without", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("sent")
      yield* sent
      yield* Jobs.enqueue(jobType, 1)
      assert.deepStrictEqual(yield* sent, ["INSERT"])
      yield* Jobs.enqueue(jobType, 1, { stage: "scheduled" })
      assert.deepStrictEqual(yield* sent, ["WITH"])
      yield* Jobs.enqueue(jobType, 1, { idempotencyKey: "k" })
      assert.deepStrictEqual(yield* sent, ["WITH"])
      yield* Jobs.enqueueMany(Array.from({ length: 1000 }, (_, n) => ({ jobType, payload: n })))
      assert.deepStrictEqual(yield* sent, ["WITH"])
      yield* Jobs.enqueueMany(Array.from({ length: 1000 }, (_, n) => ({ jobType, payload: n, idempotencyKey: `${n}` })))
      assert.deepStrictEqual(yield* sent, ["WITH"])
      yield* Jobs.enqueueMany(Array.from({ length: 1001 }, (_, n) => ({ jobType, payload: n })))
      assert.deepStrictEqual(yield* sent, ["BEGIN", "WITH", "WITH", "COMMIT"])
      yield* Jobs.enqueueMany([])
      assert.deepStrictEqual(yield* sent, [])
    })
  )

  it.effect("large payloads are divided by size", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("bytes")
      yield* sent
      const payload = "x".repeat(2_000_000)
      yield* Jobs.enqueueMany(Array.from({ length: 9 }, () => ({ jobType, payload })))
      assert.deepStrictEqual(yield* sent, ["BEGIN", "WITH", "WITH", "WITH", "COMMIT"])
      assert.strictEqual(yield* countOf(jobType), 9)
    })
  )

  it.effect("if comparing a repeat with what is stored fails, nothing is enqueued", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      const jobType = yield* declare("compared")
      yield* Jobs.enqueue(jobType, "stored", { idempotencyKey: "k" })
      yield* faults.arm([{ match: /INSERT INTO runledger\.job_queue/, nth: 2, fault: FaultySqlClient.failBefore() }])
      const batch = Jobs.enqueueMany([
        { jobType, payload: "other", idempotencyKey: "k" },
        { jobType, payload: "stored", idempotencyKey: "k" },
        { jobType, payload: "new" }
      ])
      assert.isDefined(yield* refusal(batch))
      yield* faults.disarm
      assert.strictEqual(yield* countOf(jobType), 1)
      assert.deepStrictEqual((yield* batch).map(word), ["conflict payload", "existing", "inserted"])
    })
  )
})
