import { assert, expectTypeOf, it } from "@effect/vitest"
import { DateTime, Effect, Option, Result, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import {
  type IntentConflict,
  Job,
  JobDefinitions,
  JobIntents,
  Jobs,
  type QueryError,
  type Reason,
  TenantScope
} from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin } = TenantScope
const organizationId = "01980000-0000-7000-8000-00000000000a"
const otherOrganization = "01980000-0000-7000-8000-00000000000b"

let types = 0
const newType = () => `intents.${++types}`

const ofType = (jobType: string) =>
  Effect.map(Jobs.list({ scope: admin, jobType, limit: 1000 }), (jobs) => jobs.toReversed())

const getIntent = (intentId: JobIntents.IntentId) =>
  Effect.flatMap(JobIntents.get(admin, intentId), (found) => Effect.fromOption(found))

const getJob = (jobId: Jobs.JobId) => Effect.flatMap(Jobs.get(admin, jobId), (found) => Effect.fromOption(found))

const reasonOf = <A, R extends Reason>(self: Effect.Effect<A, QueryError<R>, SqlClient>) =>
  Effect.map(Effect.flip(self), ({ reason }) => reason)

/** What is said of an argument that breaks a rule. */
const rule = (reason: Reason) => ({
  code: reason.code,
  argument: "argument" in reason ? reason.argument : undefined,
  transactionUsable: reason.transactionUsable
})

const key = (idempotencyKey: string) => ({ idempotencyKey })

const counts = ({ inserted, existing, conflicted, definitionUnavailable, deferred }: JobIntents.Promotion) => ({
  inserted,
  existing,
  conflicted,
  definitionUnavailable,
  deferred
})

const none = { inserted: 0, existing: 0, conflicted: 0, definitionUnavailable: 0, deferred: 0 }

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("JobIntents.record", (it) => {
  it.effect("records for a type that nobody has declared; no job and no definition is made", () =>
    Effect.gen(function* () {
      const type = newType()
      const recorded = yield* JobIntents.record(
        type,
        { n: 1.5 },
        {
          idempotencyKey: "k",
          organizationId,
          priority: 7,
          maxAttempts: 2,
          timeout: "90 seconds",
          runAt: DateTime.makeUnsafe("2026-05-22T10:30:45.120Z"),
          stage: "scheduled",
          payloadVersion: 3
        }
      )
      assert.deepInclude(recorded, { disposition: "inserted", status: "PENDING", promotedJobId: Option.none() })
      const intent = yield* getIntent(recorded.intentId)
      assert.deepInclude(intent, {
        jobType: type,
        payload: { n: 1.5 },
        payloadVersion: 3,
        organizationId: Option.some(organizationId),
        priority: Option.some(7),
        maxAttempts: Option.some(2),
        timeoutSeconds: Option.some(90),
        nextRunAt: Option.some(DateTime.makeUnsafe("2026-05-22T10:30:45.120Z")),
        delayMillis: Option.none(),
        idempotencyKey: "k",
        stage: "scheduled",
        status: "PENDING",
        promotionAttempts: 0,
        lastAttemptedAt: Option.none()
      })
      const sql = yield* SqlClient
      assert.deepStrictEqual(
        yield* sql`SELECT enqueue_request, enqueue_request_version FROM runledger.job_enqueue_intents WHERE job_type = ${type}`,
        [
          {
            enqueue_request: {
              payload: { n: 1.5 },
              priority: 7,
              max_attempts: 2,
              timeout_seconds: 90,
              next_run_at: "2026-05-22T10:30:45.120000Z",
              stage: "scheduled"
            },
            enqueue_request_version: 1
          }
        ]
      )
      assert.deepStrictEqual(yield* ofType(type), [])
      assert.isTrue(Option.isNone(yield* JobDefinitions.get(type)))
    })
  )

  it.effect("typed: the contract encodes the payload and gives its version", () =>
    Effect.gen(function* () {
      class Import extends Job.make(newType(), { payload: { on: Schema.DateTimeUtcFromString }, version: 4 }) {}
      const on = DateTime.makeUnsafe("2026-01-02T03:04:05.000Z")
      const { intentId } = yield* JobIntents.record(Import, { on }, key("k"))
      const intent = yield* getIntent(intentId)
      assert.deepStrictEqual(intent.payload, { on: "2026-01-02T03:04:05.000Z" })
      assert.strictEqual(intent.payloadVersion, 4)
      const [again] = yield* JobIntents.recordMany([JobIntents.request(Import, { on }, key("k"))])
      assert.deepStrictEqual(
        again,
        Result.succeed({ intentId, disposition: "existing", status: "PENDING", promotedJobId: Option.none() })
      )
      // @ts-expect-error an intent has a key
      const keyless = JobIntents.record(Import, { on }, {})
      assert.strictEqual((yield* reasonOf(keyless)).code, "job.intent_invalid_idempotency_key")
      // @ts-expect-error the payload is that of the contract
      const wrong = yield* reasonOf(JobIntents.record(Import, { on: 1 }, key("k")))
      assert.deepInclude(wrong, { _tag: "InvalidArgument", argument: "payload" })
      expectTypeOf(JobIntents.record(Import, { on }, key("k"))).toEqualTypeOf<
        Effect.Effect<JobIntents.Recorded, QueryError<JobIntents.RecordReason>, SqlClient>
      >()
    })
  )

  it.effect(
    "a retry finds the first; another request fails and names what differs; keys are per type and organization",
    () =>
      Effect.gen(function* () {
        const type = newType()
        const first = yield* JobIntents.record(type, { a: 1, b: [2] }, { ...key("k"), priority: 1 })
        const again = yield* JobIntents.record(type, { b: [2], a: 1 }, { ...key("k"), priority: 1 })
        assert.deepStrictEqual(again, { ...first, disposition: "existing" })
        const conflict = yield* reasonOf(JobIntents.record(type, { a: 2, b: [2] }, { ...key("k"), maxAttempts: 9 }))
        assert.deepInclude(conflict, {
          _tag: "IntentConflict",
          code: "job.intent_idempotency_conflict",
          category: "Conflict",
          intentId: first.intentId,
          fields: ["max_attempts", "payload", "priority"]
        })
        // the version of the contract is no part of the request
        const newer = yield* JobIntents.record(type, { a: 1, b: [2] }, { ...key("k"), priority: 1, payloadVersion: 2 })
        assert.strictEqual(newer.intentId, first.intentId)
        for (const owner of [organizationId, otherOrganization]) {
          const owned = { ...key("k"), organizationId: owner }
          const { intentId, disposition } = yield* JobIntents.record(type, 1, owned)
          assert.strictEqual(disposition, "inserted")
          assert.strictEqual((yield* JobIntents.record(type, 1, owned)).intentId, intentId)
          const upper = { ...key("k"), organizationId: owner.toUpperCase() }
          assert.strictEqual((yield* JobIntents.record(type, 1, upper)).intentId, intentId)
          assert.strictEqual((yield* reasonOf(JobIntents.record(type, 2, owned)))._tag, "IntentConflict")
        }
        assert.strictEqual((yield* JobIntents.record(newType(), 9, key("k"))).disposition, "inserted")
      })
  )

  it.effect("payloads are compared and kept as PostgreSQL does: null, nested, large", () =>
    Effect.gen(function* () {
      const type = newType()
      const payloads: ReadonlyArray<Schema.Json> = [null, "", 0, [], {}, { a: null }, [null], 1e300, "é\u2028", false]
      for (const [index, payload] of payloads.entries()) {
        const { intentId } = yield* JobIntents.record(type, payload, key(`${index}`))
        assert.deepStrictEqual((yield* getIntent(intentId)).payload, payload)
        assert.strictEqual((yield* JobIntents.record(type, payload, key(`${index}`))).disposition, "existing")
        const other = payloads[(index + 1) % payloads.length] ?? 1
        assert.strictEqual((yield* reasonOf(JobIntents.record(type, other, key(`${index}`))))._tag, "IntentConflict")
      }
    })
  )

  it.effect("refuses bad requests before anything is sent, each by its code", () =>
    Effect.gen(function* () {
      const good = { idempotencyKey: "k" }
      const long = "x".repeat(600)
      const cases: ReadonlyArray<readonly [code: string, argument: string, JobIntents.RecordRequest]> = [
        ...["", " \t", "a\0", "\ud800", long].flatMap((text) => [
          ["job.invalid_job_type", "jobType", { jobType: text, payload: 1, ...good }] as const,
          [
            "job.intent_invalid_idempotency_key",
            "idempotencyKey",
            { jobType: "t", payload: 1, idempotencyKey: text }
          ] as const
        ]),
        ...[0, -1, 1.5, Number.NaN, 2_147_483_648].map(
          (maxAttempts) =>
            [
              "job.intent_invalid_max_attempts",
              "maxAttempts",
              { jobType: "t", payload: 1, ...good, maxAttempts }
            ] as const
        ),
        ...(["0 seconds", "-1 seconds", "Infinity", "2147483648 seconds"] as const).map(
          (timeout) =>
            ["job.intent_invalid_timeout", "timeout", { jobType: "t", payload: 1, ...good, timeout }] as const
        ),
        ["job.invalid_argument", "payload", { jobType: "t", payload: "a\0", ...good }],
        ["job.invalid_argument", "payload", { jobType: "t", payload: Number.NaN, ...good }],
        ["job.invalid_argument", "payload", { jobType: "t", payload: "x".repeat(2 * 1024 * 1024), ...good }],
        ["job.invalid_argument", "priority", { jobType: "t", payload: 1, ...good, priority: 101 }],
        ["job.invalid_argument", "organizationId", { jobType: "t", payload: 1, ...good, organizationId: "x" }],
        ["job.invalid_argument", "payloadVersion", { jobType: "t", payload: 1, ...good, payloadVersion: 0 }],
        ["job.invalid_argument", "delay", { jobType: "t", payload: 1, ...good, delay: "-1 seconds" }],
        [
          "job.invalid_argument",
          "delay",
          { jobType: "t", payload: 1, ...good, delay: 1, runAt: DateTime.makeUnsafe("2026-01-01T00:00:00Z") }
        ]
      ]
      for (const [code, argument, request] of cases) {
        const { jobType, payload, ...options } = request
        const alone = yield* reasonOf(JobIntents.record(jobType, payload, options))
        assert.deepStrictEqual(rule(alone), { code, argument, transactionUsable: true })
        const reason = yield* reasonOf(JobIntents.recordMany([{ jobType: "t", payload: 1, ...good }, request]))
        assert.deepStrictEqual(rule(reason), { code, argument: `requests[1].${argument}`, transactionUsable: true })
      }
      // @ts-expect-error undefined is no JSON
      assert.strictEqual((yield* reasonOf(JobIntents.record("t", undefined, good)))._tag, "InvalidArgument")
      assert.deepStrictEqual(yield* JobIntents.list({ scope: admin, jobType: "t" }), [])
    })
  )

  it.effect("a batch is answered one by one, in its order, repeated keys included", () =>
    Effect.gen(function* () {
      const type = newType()
      const request = (idempotencyKey: string, payload: number) => ({ jobType: type, payload, idempotencyKey })
      yield* JobIntents.record(type, 1, key("there"))
      const answers = yield* JobIntents.recordMany([
        request("z", 1),
        request("there", 1),
        request("a", 1),
        request("there", 2),
        request("z", 1),
        request("z", 2)
      ])
      const said = answers.map((answer: Result.Result<JobIntents.Recorded, IntentConflict>) =>
        Result.isSuccess(answer) ? answer.success.disposition : answer.failure.fields.join()
      )
      assert.deepStrictEqual(said, ["inserted", "existing", "inserted", "payload", "existing", "payload"])
      const ids = answers.map((answer) =>
        Result.isSuccess(answer) ? answer.success.intentId : answer.failure.intentId
      )
      // ids are in the order given
      assert.isTrue((ids[0] ?? "") < (ids[2] ?? ""))
      assert.strictEqual(ids[4], ids[0])
      assert.strictEqual(ids[5], ids[0])
      assert.deepStrictEqual(yield* JobIntents.recordMany([]), [])
      // more than a statement takes
      const many = Array.from({ length: 1500 }, (_, n) => request(`many ${n}`, n))
      const all = yield* JobIntents.recordMany(many)
      assert.strictEqual(all.filter(Result.isSuccess).length, 1500)
      const listed = yield* JobIntents.list({ scope: admin, jobType: type, limit: 1000 })
      assert.strictEqual(listed.length, 1000)
    })
  )

  it.effect(
    "is the caller's transaction: committed with it, rolled back with it; a caught conflict leaves it usable",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = newType()
        yield* rollback(JobIntents.record(type, 1, key("lost")))
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SET LOCAL lock_timeout = '123ms'`
            yield* JobIntents.record(type, 1, key("kept"))
            assert.strictEqual((yield* reasonOf(JobIntents.record(type, 2, key("kept"))))._tag, "IntentConflict")
            yield* JobIntents.record(type, 3, key("after"))
            assert.deepStrictEqual(yield* sql`SELECT current_setting('lock_timeout') AS is`, [{ is: "123ms" }])
          })
        )
        const kept = yield* JobIntents.list({ scope: admin, jobType: type })
        assert.deepStrictEqual(
          kept.map(({ idempotencyKey }) => idempotencyKey),
          ["after", "kept"]
        )
      })
  )

  for (const level of ["REPEATABLE READ", "SERIALIZABLE"]) {
    it.effect(`in a ${level} transaction of the caller, writing is refused and leaves it usable`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = newType()
        yield* JobDefinitions.upsert(type)
        const { intentId } = yield* JobIntents.record(type, 1, key("k"))
        const jobId = Jobs.JobId.make(intentId)
        const cutoff = DateTime.makeUnsafe("2100-01-01T00:00:00Z")
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql.unsafe(`SET TRANSACTION ISOLATION LEVEL ${level}`)
            const codes = yield* Effect.forEach(
              [
                Effect.asVoid(JobIntents.record(type, 2, key("other"))),
                Effect.asVoid(JobIntents.recordMany([{ jobType: type, payload: 2, ...key("other") }])),
                Effect.asVoid(JobIntents.promote({ types: [type], limit: 10 })),
                Effect.asVoid(JobIntents.deletePromotedBefore(cutoff, 1)),
                Effect.asVoid(JobIntents.deletePromotedForJobs([jobId]))
              ],
              (operation: Effect.Effect<void, QueryError, SqlClient>) =>
                Effect.map(Effect.flip(operation), ({ reason }) => {
                  assert.strictEqual(reason._tag, "UnsupportedIsolation")
                  return reason.code
                })
            )
            assert.deepStrictEqual(codes, [
              "job.intent_idempotency_unsupported_isolation",
              "job.intent_idempotency_unsupported_isolation",
              "job.unsupported_isolation",
              "job.unsupported_isolation",
              "job.intent_retention_unsupported_isolation"
            ])
            assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 1)
          })
        )
        assert.strictEqual((yield* getIntent(intentId)).status, "PENDING")
      })
    )
  }
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("JobIntents.promote", (it) => {
  it.effect("waits for the definition: missing, then disabled, then enabled", () =>
    Effect.gen(function* () {
      const type = newType()
      const { intentId } = yield* JobIntents.record(type, { n: 1 }, { ...key("k"), payloadVersion: 2 })
      const promote = JobIntents.promote({ types: [type], limit: 10 })
      assert.deepStrictEqual(counts(yield* promote), none)
      yield* JobDefinitions.upsert(type, { isEnabled: false, maxAttempts: 9, priority: 5, timeout: "7 seconds" })
      assert.deepStrictEqual(counts(yield* promote), none)
      assert.strictEqual((yield* getIntent(intentId)).promotionAttempts, 0)
      yield* JobDefinitions.update(type, { isEnabled: true })
      assert.deepStrictEqual(yield* promote, { ...none, inserted: 1, failures: [], batchWasFull: false })
      assert.deepStrictEqual(counts(yield* promote), none)
      const intent = yield* getIntent(intentId)
      assert.deepInclude(intent, { status: "PROMOTED", promotionAttempts: 1, lastErrorCode: Option.none() })
      assert.isTrue(Option.isSome(intent.promotedAt) && Option.isSome(intent.lastAttemptedAt))
      const jobId = Option.getOrThrow(intent.promotedJobId)
      // what was not given is that of the definition of now
      assert.deepInclude(yield* getJob(jobId), {
        jobType: type,
        payload: { n: 1 },
        payloadVersion: 2,
        status: "PENDING",
        priority: 5,
        maxAttempts: 9,
        timeoutSeconds: 7,
        stage: "queued"
      })
      const again = yield* JobIntents.record(type, { n: 1 }, key("k"))
      assert.deepStrictEqual(again, {
        intentId,
        disposition: "existing",
        status: "PROMOTED",
        promotedJobId: Option.some(jobId)
      })
    })
  )

  it.effect(
    "an intent and a direct request of the same key find each other, whichever comes first, in every field",
    () =>
      Effect.gen(function* () {
        const type = newType()
        yield* JobDefinitions.upsert(type)
        const runAt = DateTime.makeUnsafe("2026-05-22T10:30:45.007Z")
        const options: ReadonlyArray<Omit<JobIntents.RecordOptions, "idempotencyKey">> = [
          {},
          { priority: -3, maxAttempts: 2, timeout: "1 minute", runAt, stage: "scheduled" },
          { delay: "90 seconds" },
          { organizationId, runAt: DateTime.makeUnsafe("0001-01-01T00:00:00Z") },
          { organizationId, runAt: DateTime.makeUnsafe("9999-12-31T23:59:59.999Z") }
        ]
        for (const [index, given] of options.entries()) {
          // first recorded
          const early = { ...given, ...key(`early ${index}`) }
          const { intentId } = yield* JobIntents.record(type, { index }, early)
          assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 9 })), {
            ...none,
            inserted: 1
          })
          const direct = yield* Jobs.enqueue(type, { index }, early)
          assert.strictEqual(direct.disposition, "existing")
          assert.deepStrictEqual((yield* getIntent(intentId)).promotedJobId, Option.some(direct.jobId))
          assert.strictEqual((yield* reasonOf(Jobs.enqueue(type, { index: -1 }, early)))._tag, "IdempotencyConflict")
          // first enqueued
          const late = { ...given, ...key(`late ${index}`) }
          const before = yield* Jobs.enqueue(type, { index }, late)
          const found = yield* JobIntents.record(type, { index }, late)
          assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 9 })), {
            ...none,
            existing: 1
          })
          assert.deepInclude(yield* getIntent(found.intentId), {
            status: "PROMOTED",
            promotedJobId: Option.some(before.jobId)
          })
        }
        assert.strictEqual((yield* ofType(type)).length, 2 * options.length)
      })
  )

  it.effect("another request under the key is a conflict, for good, and says so; others go on", () =>
    Effect.gen(function* () {
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const { jobId } = yield* Jobs.enqueue(type, 1, key("taken"))
      const { intentId } = yield* JobIntents.record(type, 2, key("taken"))
      const sql = yield* SqlClient
      const old = yield* Jobs.enqueue(type, 1, key("old"))
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT ck_job_queue_idempotency_enqueue_request`
      yield* sql`UPDATE runledger.job_queue SET enqueue_request = NULL WHERE id = ${old.jobId}::uuid`
      const without = yield* JobIntents.record(type, 1, key("old"))
      yield* JobIntents.record(type, 3, key("free"))
      const promotion = yield* JobIntents.promote({ types: [type], limit: 10 })
      assert.deepStrictEqual(counts(promotion), { ...none, inserted: 1, conflicted: 2 })
      assert.sameDeepMembers(Array.from(promotion.failures), [
        {
          intentId,
          jobType: type,
          code: "job.idempotency_conflict",
          message: "The idempotency key belongs to another request; different: payload",
          became: "conflicted"
        },
        {
          intentId: without.intentId,
          jobType: type,
          code: "job.legacy_idempotency_snapshot_missing",
          message: "The idempotency key belongs to a job without a recorded request",
          became: "conflicted"
        }
      ])
      const intent = yield* getIntent(intentId)
      assert.deepInclude(intent, {
        status: "CONFLICTED",
        promotionAttempts: 1,
        promotedJobId: Option.none(),
        promotedAt: Option.none(),
        lastErrorCode: Option.some("job.idempotency_conflict")
      })
      assert.isTrue(Option.isSome(intent.conflictedAt))
      assert.deepStrictEqual((yield* getJob(jobId)).payload, 1)
      assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 10 })), none)
      assert.strictEqual((yield* JobIntents.record(type, 2, key("taken"))).status, "CONFLICTED")
    })
  )

  it.effect("promotes the types that are asked for, oldest first, as many as asked for", () =>
    Effect.gen(function* () {
      const [first, second, unserved] = [newType(), newType(), newType()]
      for (const type of [first, second, unserved]) yield* JobDefinitions.upsert(type)
      for (let n = 0; n < 5; n++) {
        for (const type of [unserved, first, second]) yield* JobIntents.record(type, n, key(`${n}`))
      }
      const both = [second, first, second]
      const promotion = yield* JobIntents.promote({ types: both, limit: 6 })
      assert.deepInclude(promotion, { inserted: 6, batchWasFull: true })
      // the type that has waited longest comes first
      assert.deepStrictEqual(
        [yield* ofType(first), yield* ofType(second)].map((jobs) => jobs.length),
        [5, 1]
      )
      assert.deepInclude(yield* JobIntents.promote({ types: both, limit: 6 }), { inserted: 4, batchWasFull: false })
      const claimed = yield* Jobs.claim({ workerId: "w", types: [first], limit: 10 })
      assert.deepStrictEqual(
        claimed.map(({ payload }) => payload),
        [0, 1, 2, 3, 4]
      )
      assert.strictEqual((yield* ofType(unserved)).length, 0)
    })
  )

  it.effect("refuses bad options; no types are nothing to do", () =>
    Effect.gen(function* () {
      for (const limit of [0, 1001, 1.5, Number.NaN, -1]) {
        assert.deepInclude(yield* reasonOf(JobIntents.promote({ types: ["t"], limit })), {
          _tag: "InvalidArgument",
          argument: "limit"
        })
      }
      for (const types of [[""], ["a\0"], ["ok", "x".repeat(129)], Array.from({ length: 1001 }, (_, n) => `t${n}`)]) {
        assert.deepInclude(yield* reasonOf(JobIntents.promote({ types, limit: 1 })), {
          _tag: "InvalidArgument",
          argument: "types"
        })
      }
      assert.deepStrictEqual(yield* JobIntents.promote({ types: [], limit: 1 }), {
        ...none,
        failures: [],
        batchWasFull: false
      })
    })
  )

  it.effect("in the caller's transaction: job and intent together, or neither, and the settings as they were", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const { intentId } = yield* JobIntents.record(type, 1, key("k"))
      yield* rollback(
        Effect.map(JobIntents.promote({ types: [type], limit: 1 }), (promotion) =>
          assert.strictEqual(promotion.inserted, 1)
        )
      )
      assert.strictEqual((yield* getIntent(intentId)).status, "PENDING")
      assert.deepStrictEqual(yield* ofType(type), [])
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '3s'`
          const { intentId: inner } = yield* JobIntents.record(type, 2, key("l"))
          assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 9 })).inserted, 2)
          assert.strictEqual((yield* getIntent(inner)).status, "PROMOTED")
          assert.deepStrictEqual(yield* sql`SELECT current_setting('lock_timeout') AS is`, [{ is: "3s" }])
        })
      )
      assert.strictEqual((yield* ofType(type)).length, 2)
    })
  )

  it.effect("rows that the database refuses are put off alone, and the rest of the batch is promoted", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const answers = yield* JobIntents.recordMany(
        Array.from({ length: 40 }, (_, n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` }))
      )
      assert.isTrue(answers.every(Result.isSuccess))
      yield* sql`CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no' USING ERRCODE = '23514', CONSTRAINT = 'chk_mine'; END $$`
      yield* sql.unsafe(`CREATE TRIGGER refuse BEFORE INSERT ON runledger.job_queue FOR EACH ROW
        WHEN (NEW.job_type = '${type}' AND NEW.payload IN ('0', '7', '8', '39')) EXECUTE FUNCTION public.refuse()`)
      const promotion = yield* JobIntents.promote({ types: [type], limit: 40 })
      assert.deepStrictEqual(counts(promotion), { ...none, inserted: 36, deferred: 4 })
      assert.isTrue(promotion.batchWasFull)
      assert.deepStrictEqual(
        promotion.failures.map(({ code, became }) => [code, became]),
        Array.from({ length: 4 }, () => ["db.business_rule_violation", "deferred"])
      )
      const pending = yield* JobIntents.list({ scope: admin, jobType: type, status: "PENDING" })
      assert.strictEqual(pending.length, 4)
      for (const intent of pending) {
        assert.strictEqual(intent.promotionAttempts, 1)
        assert.deepStrictEqual(intent.lastErrorCode, Option.some("db.business_rule_violation"))
        // 1 to 1.25 seconds
        const last = Option.getOrThrow(intent.lastAttemptedAt)
        const delay = intent.nextPromotionAt.epochMilliseconds - last.epochMilliseconds
        assert.isAtLeast(delay, 1000)
        assert.isAtMost(delay, 1250)
      }
      yield* sql`DROP TRIGGER refuse ON runledger.job_queue`
      yield* sql`UPDATE runledger.job_enqueue_intents SET next_promotion_at = created_at WHERE job_type = ${type} AND status = 'PENDING'`
      assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 40 })), { ...none, inserted: 4 })
      const retried = yield* getIntent(pending[0]?.id ?? assert.fail("nothing"))
      assert.deepInclude(retried, { status: "PROMOTED", promotionAttempts: 2, lastErrorCode: Option.none() })
    })
  )

  it.effect(
    "stored rows that record would not write: put off if they differ from their request, else in conflict",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = newType()
        yield* JobDefinitions.upsert(type)
        const changes = [
          ["payload = '2'", "job.intent_snapshot_mismatch", "deferred"],
          ["priority = 5", "job.intent_snapshot_mismatch", "deferred"],
          ["next_run_at = created_at", "job.intent_snapshot_mismatch", "deferred"],
          ["delay_ms = 5", "job.intent_snapshot_mismatch", "deferred"],
          ["stage = 'completed'", "job.intent_snapshot_mismatch", "deferred"],
          ["enqueue_request = '{}'", "job.intent_snapshot_mismatch", "deferred"],
          ["stage = 'nowhere'", "job.invalid_stage", "conflicted"],
          ["priority = 101", "job.intent_invalid_persisted_row", "conflicted"],
          [`idempotency_key = repeat('x', 513)`, "job.intent_invalid_persisted_row", "conflicted"]
        ] as const
        const expected = new Map<string, string>()
        for (const [index, [change, code, became]] of changes.entries()) {
          const { intentId } = yield* JobIntents.record(type, 1, key(`${index}`))
          yield* sql.unsafe(`UPDATE runledger.job_enqueue_intents SET ${change} WHERE id = '${intentId}'`)
          expected.set(intentId, `${code} ${became}`)
        }
        yield* JobIntents.record(type, 1, key("good"))
        const promotion = yield* JobIntents.promote({ types: [type], limit: 100 })
        assert.deepStrictEqual(counts(promotion), { ...none, inserted: 1, conflicted: 3, deferred: 6 })
        const told = new Map<string, string>(
          promotion.failures.map(({ intentId, code, became }) => [intentId, `${code} ${became}`])
        )
        assert.deepStrictEqual(told, expected)
        assert.strictEqual((yield* ofType(type)).length, 1)
      })
  )

  it.effect(
    "an intent that does not even let itself be put off is left, told, and keeps nobody from being promoted",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = newType()
        yield* JobDefinitions.upsert(type)
        const { intentId } = yield* JobIntents.record(type, 0, key("stuck"))
        yield* sql`CREATE OR REPLACE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`
        yield* sql.unsafe(`CREATE TRIGGER swallow BEFORE UPDATE ON runledger.job_enqueue_intents FOR EACH ROW
        WHEN (OLD.id = '${intentId}') EXECUTE FUNCTION public.swallow()`)
        for (let n = 0; n < 5; n++) yield* JobIntents.record(type, n, key(`${n}`))
        const promotion = yield* JobIntents.promote({ types: [type], limit: 6 })
        assert.deepStrictEqual(counts(promotion), { ...none, inserted: 5 })
        assert.deepStrictEqual(
          promotion.failures.map(({ intentId: id, code, became }) => ({ id, code, became })),
          [{ id: intentId, code: "job.intent_transition_failed", became: "left" }]
        )
        // its job was rolled back with it
        assert.strictEqual((yield* ofType(type)).length, 5)
        assert.deepInclude(yield* JobIntents.promote({ types: [type], limit: 1 }), { inserted: 0, batchWasFull: false })
        yield* sql`DROP TRIGGER swallow ON runledger.job_enqueue_intents`
        assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 1 })).inserted, 1)
      })
  )

  it.effect("takes about 8 MiB at once, and says that there is more", () =>
    Effect.gen(function* () {
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const payload = "x".repeat(2 * 1024 * 1024 - 10)
      for (let n = 0; n < 6; n++) yield* JobIntents.record(type, payload, key(`${n}`))
      const first = yield* JobIntents.promote({ types: [type], limit: 100 })
      assert.deepInclude(first, { inserted: 5, batchWasFull: true })
      const next = yield* JobIntents.promote({ types: [type], limit: 100 })
      assert.deepInclude(next, { inserted: 1, batchWasFull: false })
    })
  )

  it.effect("the trace of whoever recorded goes on in the job", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const span = yield* Effect.gen(function* () {
        yield* JobIntents.record(type, 1, key("k"))
        return yield* Effect.currentSpan
      }).pipe(Effect.withSpan("request"))
      yield* Effect.withSpan(JobIntents.promote({ types: [type], limit: 1 }), "promoter")
      const [row] = yield* sql<{ trace_parent: string }>`
        SELECT trace_parent FROM runledger.job_queue WHERE job_type = ${type}`
      assert.include(row?.trace_parent ?? "", span.traceId)
    })
  )
})

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("JobIntents and time", (it) => {
  it.effect("every instant is that of the statement; a delay counts from the recording", () =>
    Effect.gen(function* () {
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const recordedAt = yield* DateTime.now
      const { intentId } = yield* JobIntents.record(type, 1, { ...key("k"), delay: "1 hour" })
      const plain = yield* JobIntents.record(type, 1, key("plain"))
      yield* TestClock.adjust("20 minutes")
      const promotedAt = yield* DateTime.now
      assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 10 })).inserted, 2)
      const intent = yield* getIntent(intentId)
      assert.deepInclude(intent, {
        createdAt: recordedAt,
        updatedAt: promotedAt,
        promotedAt: Option.some(promotedAt),
        lastAttemptedAt: Option.some(promotedAt),
        delayMillis: Option.some(3_600_000)
      })
      const job = yield* getJob(Option.getOrThrow(intent.promotedJobId))
      assert.deepStrictEqual(job.nextRunAt, DateTime.add(recordedAt, { hours: 1 }))
      assert.deepStrictEqual(job.createdAt, promotedAt)
      const due = yield* getIntent(plain.intentId)
      assert.deepStrictEqual((yield* getJob(Option.getOrThrow(due.promotedJobId))).nextRunAt, promotedAt)
    })
  )

  it.effect("backs off from 1 second to 5 minutes, and never gives up", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = newType()
      yield* JobDefinitions.upsert(type)
      const { intentId } = yield* JobIntents.record(type, 1, key("k"))
      yield* sql`UPDATE runledger.job_enqueue_intents SET enqueue_request = '{}' WHERE id = ${intentId}::uuid`
      for (let attempts = 0; attempts < 12; attempts++) {
        const now = yield* DateTime.now
        assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 1 })).deferred, 1, `${attempts}`)
        const { nextPromotionAt, promotionAttempts, createdAt } = yield* getIntent(intentId)
        assert.strictEqual(promotionAttempts, attempts + 1)
        assert.isTrue(DateTime.isLessThanOrEqualTo(createdAt, now))
        const doubled = 2 ** Math.min(attempts, 9)
        const delay = (nextPromotionAt.epochMilliseconds - now.epochMilliseconds) / 1000
        assert.isAtLeast(delay, Math.min(240, doubled), `${attempts}`)
        assert.isAtMost(delay, Math.min(240, doubled) + Math.min(60, 0.25 * doubled), `${attempts}`)
        // not before its time
        yield* TestClock.adjust(`${Math.min(240, doubled) * 1000 - 1} millis`)
        assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 1 })), none)
        yield* TestClock.adjust("61 seconds")
      }
    })
  )

  it.effect("metrics: per type, within the scope, of the last day", () =>
    Effect.gen(function* () {
      const [a, b, c] = ["metrics.a", "metrics.b", "metrics.c"]
      const recordedAt = yield* DateTime.now
      for (const type of [a, b]) yield* JobDefinitions.upsert(type)
      yield* Jobs.enqueue(a, 0, key("taken"))
      yield* JobIntents.record(a, 1, key("taken"))
      yield* JobIntents.record(a, 1, { ...key("k"), organizationId })
      yield* JobIntents.record(b, 1, key("k"))
      yield* JobIntents.promote({ types: [a, b], limit: 10 })
      yield* JobIntents.record(c, 1, key("pending"))
      const sql = yield* SqlClient
      yield* JobIntents.record(c, 1, { ...key("retrying"), organizationId })
      yield* sql`
        UPDATE runledger.job_enqueue_intents
        SET promotion_attempts = 4, last_attempted_at = created_at, last_error_code = 'x', last_error_message = 'x'
        WHERE job_type = ${c} AND organization_id IS NOT NULL`
      const ofA = { jobType: a, pending: 0, retrying: 0, maxPromotionAttempts: 0, oldestPendingAt: Option.none() }
      const ofC = { jobType: c, conflicted24h: 0, promoted24h: 0, oldestPendingAt: Option.some(recordedAt) }
      const all = [
        { ...ofA, conflicted24h: 1, promoted24h: 1 },
        { ...ofA, jobType: b, conflicted24h: 0, promoted24h: 1 },
        { ...ofC, pending: 2, retrying: 1, maxPromotionAttempts: 4 }
      ]
      const plain = (rows: ReadonlyArray<JobIntents.IntentMetrics>) => rows.map((row) => ({ ...row }))
      const metrics = (options: Partial<JobIntents.MetricsOptions> = {}) =>
        Effect.map(JobIntents.metrics({ scope: admin, ...options }), (rows) =>
          plain(rows).filter(({ jobType }) => jobType.startsWith("metrics."))
        )
      assert.deepStrictEqual(yield* metrics({ after: "metrics" }), all)
      assert.deepStrictEqual(yield* metrics({ jobType: b }), [all[1]])
      assert.deepStrictEqual(yield* metrics({ after: a, limit: 1 }), [all[1]])
      assert.deepStrictEqual(yield* metrics({ scope: TenantScope.organization(organizationId), after: "metrics" }), [
        { ...ofA, conflicted24h: 0, promoted24h: 1 },
        { ...ofC, pending: 1, retrying: 1, maxPromotionAttempts: 4 }
      ])
      assert.deepStrictEqual(
        (yield* metrics({ scope: TenantScope.global, after: "metrics" })).map(({ jobType }) => jobType),
        [a, b, c]
      )
      yield* TestClock.adjust("24 hours")
      assert.deepStrictEqual(yield* metrics({ after: "metrics" }), [all[2]])
    })
  )
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("JobIntents, read and deleted", (it) => {
  it.effect("get and list keep to the scope", () =>
    Effect.gen(function* () {
      const type = newType()
      const ids: Array<JobIntents.IntentId> = []
      for (const owner of [undefined, organizationId, otherOrganization]) {
        ids.push((yield* JobIntents.record(type, 1, { ...key("k"), organizationId: owner })).intentId)
      }
      const scopes = [TenantScope.global, ...[organizationId, otherOrganization].map(TenantScope.organization)]
      for (const [index, scope] of scopes.entries()) {
        for (const [other, id] of ids.entries()) {
          const found = yield* JobIntents.get(scope, id)
          assert.strictEqual(Option.isSome(found), other === index)
        }
        const listed = yield* JobIntents.list({ scope, jobType: type })
        assert.deepStrictEqual(
          listed.map(({ id }) => id),
          ids.filter((_, other) => other === index)
        )
      }
      assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 3)
      assert.isTrue(Option.isNone(yield* JobIntents.get(admin, JobIntents.IntentId.make(organizationId))))
    })
  )

  it.effect("list pages by id, newest first, and filters by status", () =>
    Effect.gen(function* () {
      const type = newType()
      yield* JobDefinitions.upsert(type)
      for (let n = 0; n < 7; n++) yield* JobIntents.record(type, n, key(`${n}`))
      yield* JobIntents.promote({ types: [type], limit: 3 })
      const seen: Array<string> = []
      let before: JobIntents.IntentId | undefined
      for (;;) {
        const page = yield* JobIntents.list({ scope: admin, jobType: type, limit: 3, before })
        if (page.length === 0) break
        seen.push(...page.map(({ idempotencyKey }) => idempotencyKey))
        before = page.at(-1)?.id
      }
      assert.deepStrictEqual(seen, ["6", "5", "4", "3", "2", "1", "0"])
      const keys = (status: JobIntents.IntentStatus) =>
        Effect.map(JobIntents.list({ scope: admin, jobType: type, status }), (page) =>
          page.map(({ idempotencyKey }) => idempotencyKey)
        )
      assert.deepStrictEqual(yield* keys("PENDING"), ["6", "5", "4", "3"])
      assert.deepStrictEqual(yield* keys("PROMOTED"), ["2", "1", "0"])
      assert.deepStrictEqual(yield* keys("CONFLICTED"), [])
    })
  )

  it.effect("reads refuse bad input", () =>
    Effect.gen(function* () {
      const bad = TenantScope.organization("x")
      const id = JobIntents.IntentId.make(organizationId)
      // @ts-expect-error not a status
      const status: JobIntents.IntentStatus = "'; DROP"
      const invalid = [
        JobIntents.get(bad, id),
        JobIntents.list({ scope: bad }),
        JobIntents.list({ scope: admin, status }),
        JobIntents.list({ scope: admin, jobType: " " }),
        JobIntents.metrics({ scope: bad }),
        JobIntents.metrics({ scope: admin, jobType: "" }),
        JobIntents.metrics({ scope: admin, after: "" })
      ]
      for (const operation of invalid) {
        const error: QueryError = yield* Effect.flip(Effect.asVoid<unknown, QueryError, SqlClient>(operation))
        assert.strictEqual(error.reason._tag, "InvalidArgument")
      }
      for (const limit of [0, 1001, 1.5]) {
        assert.strictEqual((yield* reasonOf(JobIntents.list({ scope: admin, limit })))._tag, "InvalidPagination")
        assert.strictEqual((yield* reasonOf(JobIntents.metrics({ scope: admin, limit })))._tag, "InvalidPagination")
      }
    })
  )

  it.effect("deletePromotedBefore deletes what was promoted before, oldest first, and nothing else", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = newType()
      yield* JobDefinitions.upsert(type)
      yield* Jobs.enqueue(type, 0, key("taken"))
      yield* JobIntents.record(type, 1, key("taken"))
      for (let n = 0; n < 6; n++) yield* JobIntents.record(type, n, key(`${n}`))
      yield* JobIntents.promote({ types: [type], limit: 100 })
      yield* JobIntents.record(type, 1, key("pending"))
      yield* sql`
        UPDATE runledger.job_enqueue_intents SET promoted_at = '2026-01-01T00:00:00Z'::timestamptz + idempotency_key::int * interval '1 day'
        WHERE job_type = ${type} AND status = 'PROMOTED'`
      yield* sql`UPDATE runledger.job_enqueue_intents SET conflicted_at = '2020-01-01T00:00:00Z' WHERE status = 'CONFLICTED'`
      const cutoff = DateTime.makeUnsafe("2026-01-05T00:00:00Z")
      const left = Effect.map(JobIntents.list({ scope: admin, jobType: type }), (page) =>
        page.map(({ idempotencyKey }) => idempotencyKey).sort()
      )
      assert.strictEqual(yield* JobIntents.deletePromotedBefore(cutoff, 3), 3)
      assert.deepStrictEqual(yield* left, ["3", "4", "5", "pending", "taken"])
      assert.strictEqual(yield* JobIntents.deletePromotedBefore(cutoff, 3), 1)
      assert.strictEqual(yield* JobIntents.deletePromotedBefore(cutoff, 3), 0)
      assert.deepStrictEqual(yield* left, ["4", "5", "pending", "taken"])
      // the jobs stay, and a request that is recorded again finds its job
      assert.strictEqual((yield* ofType(type)).length, 7)
      assert.strictEqual((yield* JobIntents.record(type, 0, key("0"))).disposition, "inserted")
      assert.deepStrictEqual(counts(yield* JobIntents.promote({ types: [type], limit: 9 })), {
        ...none,
        inserted: 1,
        existing: 1
      })
      for (const limit of [0, 1001, 0.5]) {
        const reason = yield* reasonOf(JobIntents.deletePromotedBefore(cutoff, limit))
        assert.deepInclude(reason, { _tag: "InvalidArgument", argument: "limit" })
      }
      const never = yield* reasonOf(JobIntents.deletePromotedBefore(DateTime.makeUnsafe(8.64e15), 1))
      assert.deepInclude(never, { _tag: "InvalidArgument", argument: "cutoff" })
    })
  )

  it.effect(
    "deletePromotedForJobs deletes the intents of exactly these jobs, in the transaction that deletes them",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = newType()
        yield* JobDefinitions.upsert(type)
        for (let n = 0; n < 4; n++) yield* JobIntents.record(type, n, key(`${n}`))
        yield* JobIntents.promote({ types: [type], limit: 100 })
        yield* JobIntents.record(type, 1, key("pending"))
        const jobs = (yield* ofType(type)).map(({ id }) => id)
        const some = jobs.slice(0, 2)
        const forget = Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '7s'`
          const deleted = yield* JobIntents.deletePromotedForJobs([...some, ...some])
          assert.deepStrictEqual(yield* sql`SELECT current_setting('lock_timeout') AS is`, [{ is: "7s" }])
          yield* sql`DELETE FROM runledger.job_queue WHERE id = ANY (${some}::uuid[])`
          return deleted
        })
        assert.strictEqual(yield* rollback(forget), 2)
        assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 5)
        assert.strictEqual(yield* sql.withTransaction(forget), 2)
        assert.deepStrictEqual(
          (yield* JobIntents.list({ scope: admin, jobType: type })).map(({ idempotencyKey }) => idempotencyKey),
          ["pending", "3", "2"]
        )
        assert.strictEqual(yield* JobIntents.deletePromotedForJobs(some), 0)
        assert.strictEqual(yield* JobIntents.deletePromotedForJobs(jobs.slice(3)), 1)
        assert.strictEqual(yield* JobIntents.deletePromotedForJobs([]), 0)
        const many = Array.from({ length: 1001 }, () => Jobs.JobId.make(organizationId))
        assert.deepInclude(yield* reasonOf(JobIntents.deletePromotedForJobs(many)), {
          _tag: "IntentRetentionTooLarge",
          code: "job.intent_retention_batch_too_large"
        })
        // @ts-expect-error not an id
        const bad: Jobs.JobId = "x"
        assert.deepInclude(yield* reasonOf(JobIntents.deletePromotedForJobs([bad])), {
          _tag: "InvalidArgument",
          argument: "jobIds"
        })
      }).pipe(Effect.provideService(NotifyInterval, 0))
  )
})
