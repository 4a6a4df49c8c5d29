import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Option } from "effect"
import type { Json } from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as Jobs from "../src/Jobs.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const job = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  yield* JobDefinitions.insertIfMissing("logged")
  const { jobId } = yield* Jobs.enqueue("logged", null, options)
  return jobId
})

const messages = (jobId: Jobs.JobId, options?: JobLogs.ListOptions) =>
  Effect.map(JobLogs.list(TenantScope.admin, jobId, options), (lines) => lines.map(({ message }) => message))

it.layer(TestDatabase.layerTestClock)("JobLogs", (it) => {
  it.effect("a line is kept as it was said, with the time of the statement", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      yield* JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message: "half way" })
      const [line, ...others] = yield* JobLogs.list(TenantScope.global, jobId)
      assert.isDefined(line)
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(
        { ...line },
        {
          id: line.id,
          jobId,
          runNumber: 1,
          attempt: Option.none(),
          level: "INFO",
          message: "half way",
          payload: {},
          occurredAt: yield* DateTime.now
        }
      )
    })
  )

  it.effect("everything that is given is kept", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      const given = {
        runNumber: 2_147_483_647,
        attempt: 7,
        level: " warn ",
        message: " two\nlines ",
        payload: [{ a: 1 }]
      }
      const occurredAt = DateTime.makeUnsafe("1999-12-31T23:59:59.999Z")
      yield* JobLogs.insert({ ...given, jobId, occurredAt })
      const [line] = yield* JobLogs.list(TenantScope.global, jobId)
      assert.deepStrictEqual({ ...line }, { id: line?.id, jobId, ...given, attempt: Option.some(7), occurredAt })
    })
  )

  it.effect.each([{ payload: null }, { payload: 0 }, { payload: "" }, { payload: false }, { payload: [] }])(
    "a payload of $payload is a payload",
    ({ payload }) =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobId = yield* job()
        yield* JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message: "m", payload })
        const [line] = yield* JobLogs.list(TenantScope.global, jobId)
        assert.deepStrictEqual<Json | undefined>(line?.payload, payload)
        const rows = yield* sql`SELECT payload::text AS text FROM runledger.job_logs WHERE job_id = ${jobId}::uuid`
        assert.deepStrictEqual(rows, [{ text: JSON.stringify(payload) }])
      })
  )

  it.effect("no lease is needed, and none is looked at: also a job that is over has a log", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      yield* Jobs.cancel(TenantScope.global, jobId)
      yield* JobLogs.insert({ jobId, runNumber: 5, attempt: 0, level: "DEBUG", message: "late" })
      assert.deepStrictEqual(yield* messages(jobId), ["late"])
    })
  )

  it.effect("a message that shows nothing is refused", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      for (const message of ["", " ", "\n\t", "\u0085", "\u00a0", "\u3000", "\ufeff"]) {
        const reason = yield* refusal(JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message }))
        assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, "message", JSON.stringify(message))
      }
      assert.deepStrictEqual(yield* messages(jobId), [])
    })
  )

  it.effect("a line of a job that does not exist is refused", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobId = Jobs.JobId.make(crypto.randomUUID())
      const reason = yield* refusal(JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message: "m" }))
      assert.strictEqual(reason._tag === "JobNotFound" && reason.jobId, jobId)
      assert.deepStrictEqual(yield* sql`SELECT id FROM runledger.job_logs WHERE job_id = ${jobId}::uuid`, [])
    })
  )

  it.effect("many lines are kept in the order given, whatever their times say", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* job(), yield* job()]
      const now = yield* DateTime.now
      const lines = Array.from({ length: 1000 }, (_, n) => ({
        jobId: n % 3 === 0 ? two : one,
        runNumber: 1,
        level: "INFO",
        message: `line ${n}`,
        occurredAt: DateTime.subtract(now, { seconds: n })
      }))
      assert.deepStrictEqual(yield* JobLogs.insertMany(lines), [])
      for (const jobId of [one, two]) {
        const expected = lines.filter((line) => line.jobId === jobId).map(({ message }) => message)
        assert.deepStrictEqual(yield* messages(jobId, { limit: 1000 }), expected)
      }
    })
  )

  it.effect("jobs that do not exist are named, each once, and the other lines are kept", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      const [a, b] = [Jobs.JobId.make(crypto.randomUUID()), Jobs.JobId.make(crypto.randomUUID())]
      const missing = yield* JobLogs.insertMany(
        [a, jobId, b, a, jobId].map((id, n) => ({ jobId: id, runNumber: 1, level: "INFO", message: String(n) }))
      )
      assert.deepStrictEqual(missing.toSorted(), [a, b].sort())
      assert.deepStrictEqual(yield* messages(jobId), ["1", "4"])
      assert.deepStrictEqual(yield* JobLogs.insertMany([]), [])
    })
  )

  it.effect("a line is kept if and only if the caller's transaction commits", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobId = yield* job()
      const line = { jobId, runNumber: 1, level: "INFO", message: "m" }
      yield* rollback(JobLogs.insert(line))
      assert.deepStrictEqual(yield* messages(jobId), [])
      yield* sql.withTransaction(
        Effect.gen(function* () {
          const late = yield* job()
          yield* JobLogs.insert({ ...line, jobId: late })
          assert.deepStrictEqual(yield* messages(late), ["m"])
          // a refusal leaves the transaction usable
          yield* refusal(JobLogs.insert({ ...line, jobId: Jobs.JobId.make(crypto.randomUUID()) }))
          yield* JobLogs.insert(line)
        })
      )
      assert.deepStrictEqual(yield* messages(jobId), ["m"])
    })
  )

  it.effect("a log comes oldest first, a page at a time", () =>
    Effect.gen(function* () {
      const [jobId, other] = [yield* job(), yield* job()]
      const expected: Array<string> = []
      for (let n = 0; n < 7; n++) {
        yield* TestClock.adjust("1 second")
        expected.push(`line ${n}`)
        yield* JobLogs.insertMany(
          [other, jobId].map((id) => ({ jobId: id, runNumber: 1, level: "INFO", message: `line ${n}` }))
        )
      }
      for (let limit = 1; limit <= 8; limit++) {
        const seen: Array<JobLogs.JobLog> = []
        for (;;) {
          const page = yield* JobLogs.list(TenantScope.admin, jobId, { limit, after: seen.at(-1)?.id })
          if (page.length === 0) break
          assert.strictEqual(page.length, Math.min(limit, expected.length - seen.length))
          seen.push(...page)
        }
        assert.deepStrictEqual(
          seen.map(({ message }) => message),
          expected
        )
      }
      // a page holds 100 lines unless it is told
      yield* JobLogs.insertMany(
        Array.from({ length: 101 }, () => ({ jobId, runNumber: 1, level: "INFO", message: "more" }))
      )
      assert.strictEqual((yield* messages(jobId)).length, 100)
    })
  )

  it.effect("a log is read in the scope of its job; elsewhere it looks empty", () =>
    Effect.gen(function* () {
      const organizationId = crypto.randomUUID()
      const [global, owned] = [yield* job(), yield* job({ organizationId })]
      for (const jobId of [global, owned]) {
        yield* JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message: "m" })
      }
      const count = (scope: TenantScope.TenantScope, jobId: Jobs.JobId) =>
        Effect.map(JobLogs.list(scope, jobId), (lines) => lines.length)
      const scopes = [
        TenantScope.global,
        TenantScope.organization(organizationId),
        TenantScope.organization(crypto.randomUUID()),
        TenantScope.admin
      ]
      assert.deepStrictEqual(yield* Effect.forEach(scopes, (scope) => count(scope, global)), [1, 0, 0, 1])
      assert.deepStrictEqual(yield* Effect.forEach(scopes, (scope) => count(scope, owned)), [0, 1, 0, 1])
      assert.strictEqual(yield* count(TenantScope.admin, Jobs.JobId.make(crypto.randomUUID())), 0)
    })
  )

  it.effect("many large payloads are kept, however much they are together", () =>
    Effect.gen(function* () {
      const jobId = yield* job()
      const payload = "x".repeat(2_000_000)
      const lines = Array.from({ length: 20 }, (_, n) => ({
        jobId,
        runNumber: 1,
        level: "INFO",
        message: String(n),
        payload
      }))
      assert.deepStrictEqual(yield* JobLogs.insertMany(lines), [])
      assert.deepStrictEqual(
        yield* messages(jobId),
        lines.map(({ message }) => message)
      )
    })
  )
})
