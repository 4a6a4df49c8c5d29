/**
 * Orders of two transactions over the same intents and keys, forced, and connections that fail at any statement.
 */
import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Layer, Option, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, JobIntents, Jobs, QueryError, TenantScope } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { standing, waiting } from "./support/races.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin } = TenantScope

let types = 0
const newType = Effect.suspend(() => {
  const type = `races.${++types}`
  return Effect.as(JobDefinitions.upsert(type), type)
})

const key = (idempotencyKey: string) => ({ idempotencyKey })
const getIntent = (intentId: JobIntents.IntentId) =>
  Effect.flatMap(JobIntents.get(admin, intentId), (found) => Effect.fromOption(found))
const jobsOf = (jobType: string) => Jobs.list({ scope: admin, jobType, limit: 1000 })

const recordMany = Effect.fnUntraced(function* (type: string, count: number) {
  const answers = yield* JobIntents.recordMany(
    Array.from({ length: count }, (_, n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` }))
  )
  return answers.filter(Result.isSuccess).map(({ success }) => success.intentId)
})

/** Every promoted intent has its job, with its payload and its key; every key has one job at most. */
const assertAgreement = Effect.fnUntraced(function* (type: string) {
  const sql = yield* SqlClient
  const wrong = yield* sql`
    SELECT n.id, n.status
    FROM runledger.job_enqueue_intents n
    LEFT JOIN runledger.job_queue q ON q.id = n.promoted_job_id
    WHERE n.job_type = ${type} AND n.status = 'PROMOTED'
      AND (q.idempotency_key, q.payload, q.enqueue_request) IS DISTINCT FROM (n.idempotency_key, n.payload, n.enqueue_request)
    UNION ALL
    SELECT n.id, n.status
    FROM runledger.job_enqueue_intents n
    JOIN runledger.job_queue q ON q.job_type = n.job_type AND q.idempotency_key = n.idempotency_key
    WHERE n.job_type = ${type} AND n.status = 'PENDING'`
  assert.deepStrictEqual(wrong, [])
})

it.layer(TestDatabase.layerWith({ maxConnections: 12 }), { timeout: "60 seconds" })("JobIntents, two at once", (it) => {
  for (const end of ["COMMIT", "ROLLBACK"] as const) {
    it.effect(`a recorder of the same key waits for the first to ${end}`, () =>
      Effect.gen(function* () {
        const type = yield* newType
        const finish = yield* standing(JobIntents.record(type, 1, key("k")), end)
        const second = yield* Effect.forkChild(JobIntents.record(type, 1, key("k")))
        yield* waiting(1)
        yield* finish
        const { disposition } = yield* Fiber.join(second)
        assert.strictEqual(disposition, end === "COMMIT" ? "existing" : "inserted")
        assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 1)
      })
    )
  }

  it.effect("a recorder does not wait for ever, and its caller's transaction survives", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* newType
      const finish = yield* standing(JobIntents.record(type, 1, key("k")))
      const reason = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '50ms'`
          const { reason } = yield* Effect.flip(JobIntents.record(type, 1, key("k")))
          yield* JobIntents.record(type, 1, key("other"))
          return reason
        })
      )
      assert.deepInclude(reason, { _tag: "Unavailable", sqlState: "55P03" })
      yield* finish
      assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 2)
    })
  )

  it.effect("batches that record the same keys in opposite order do not deadlock", () =>
    Effect.gen(function* () {
      const type = yield* newType
      const requests = Array.from({ length: 200 }, (_, n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` }))
      const answers = yield* Effect.all(
        Array.from({ length: 8 }, (_, n) => JobIntents.recordMany(n % 2 === 0 ? requests : requests.toReversed())),
        { concurrency: "unbounded" }
      )
      const inserted = answers.flat().filter((a) => Result.isSuccess(a) && a.success.disposition === "inserted")
      assert.strictEqual(inserted.length, 200)
      assert.strictEqual(answers.flat().filter(Result.isSuccess).length, 1600)
    })
  )

  it.effect("a retry of a recording neither waits for its promotion nor holds it up", () =>
    Effect.gen(function* () {
      const type = yield* newType
      const { intentId } = yield* JobIntents.record(type, 1, key("k"))
      const finish = yield* standing(JobIntents.promote({ types: [type], limit: 1 }))
      const during = yield* JobIntents.record(type, 1, key("k"))
      assert.deepInclude(during, { intentId, disposition: "existing", status: "PENDING" })
      yield* finish
      assert.strictEqual((yield* JobIntents.record(type, 1, key("k"))).status, "PROMOTED")
    })
  )

  it.effect("what another promotion holds is skipped, not waited for, and not promoted again after a rollback", () =>
    Effect.gen(function* () {
      const type = yield* newType
      yield* recordMany(type, 6)
      const finish = yield* standing(JobIntents.promote({ types: [type], limit: 4 }), "ROLLBACK")
      assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 6 })).inserted, 2)
      assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 6 })).inserted, 0)
      yield* finish
      assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 6 })).inserted, 4)
      assert.strictEqual((yield* jobsOf(type)).length, 6)
      yield* assertAgreement(type)
    })
  )

  it.effect(
    "many promoters, recorders and direct callers at once: each key is one job, and each intent is promoted once",
    () =>
      Effect.gen(function* () {
        const type = yield* newType
        const total = 400
        const requests = Array.from({ length: total }, (_, n) => ({
          jobType: type,
          payload: n,
          idempotencyKey: `${n}`
        }))
        const promoters = yield* Effect.forEach(
          Array.from({ length: 6 }, (_, n) => n),
          (n) => {
            let promoted = 0
            return Effect.forkChild(
              JobIntents.promote({ types: [type], limit: 3 + n * 7 }).pipe(
                Effect.tap((promotion) =>
                  Effect.sync(() => {
                    promoted += promotion.inserted + promotion.existing
                  })
                ),
                Effect.andThen(JobIntents.list({ scope: admin, jobType: type, status: "PROMOTED", limit: 1000 })),
                Effect.repeat({ until: (done) => done.length === total }),
                Effect.map(() => promoted)
              )
            )
          }
        )
        yield* Effect.all(
          [
            Effect.forEach(requests, ({ payload, ...options }) => JobIntents.record(type, payload, options), {
              concurrency: 2
            }),
            JobIntents.recordMany(requests.toReversed().slice(0, 100)),
            Jobs.enqueueMany(requests.filter((_, n) => n % 3 === 0)),
            Jobs.enqueueMany(requests.toReversed().filter((_, n) => n % 5 === 0))
          ],
          { concurrency: "unbounded" }
        )
        const promoted = yield* Effect.forEach(promoters, (fiber) => Fiber.join(fiber))
        assert.strictEqual(
          promoted.reduce((sum, n) => sum + n, 0),
          total
        )
        assert.strictEqual((yield* jobsOf(type)).length, total)
        const intents = yield* JobIntents.list({ scope: admin, jobType: type, limit: 1000 })
        assert.isTrue(intents.every(({ promotionAttempts }) => promotionAttempts === 1))
        yield* assertAgreement(type)
      }).pipe(Effect.provideService(NotifyInterval, 0))
  )

  it.effect("a key that another transaction holds puts off its intent alone; the others are promoted meanwhile", () =>
    Effect.gen(function* () {
      const type = yield* newType
      const ids = yield* recordMany(type, 8)
      const held = ids[5] ?? assert.fail("no intent")
      const finish = yield* standing(Jobs.enqueue(type, 5, key("5")))
      const promotion = yield* JobIntents.promote({ types: [type], limit: 8 })
      assert.deepInclude(promotion, { inserted: 7, deferred: 1 })
      assert.deepStrictEqual(
        promotion.failures.map(({ intentId, code }) => [intentId, code]),
        [[held, "db.unavailable"]]
      )
      yield* finish
      const sql = yield* SqlClient
      yield* sql`UPDATE runledger.job_enqueue_intents SET next_promotion_at = created_at WHERE id = ${held}::uuid`
      assert.deepInclude(yield* JobIntents.promote({ types: [type], limit: 8 }), { existing: 1 })
      yield* assertAgreement(type)
    })
  )

  it.effect(
    "an intent is not promoted to a job that is being deleted, and a deletion sees what was promoted before",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = yield* newType
        const { jobId } = yield* Jobs.enqueue(type, 1, key("k"))
        const { intentId } = yield* JobIntents.record(type, 1, key("k"))
        const deletion = Effect.andThen(
          JobIntents.deletePromotedForJobs([jobId]),
          Effect.flatMap(SqlClient, (sql) => sql`SELECT 1`)
        )
        // the job is held by who is going to delete it
        const finish = yield* standing(deletion, "ROLLBACK")
        assert.deepInclude(yield* JobIntents.promote({ types: [type], limit: 1 }), {
          inserted: 0,
          existing: 0,
          deferred: 0
        })
        assert.strictEqual((yield* getIntent(intentId)).status, "PENDING")
        yield* finish
        // and the other way round
        const promoted = yield* standing(JobIntents.promote({ types: [type], limit: 1 }))
        const deleting = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.tap(
              JobIntents.deletePromotedForJobs([jobId]),
              () => sql`DELETE FROM runledger.job_queue WHERE id = ${jobId}::uuid`
            )
          )
        )
        yield* waiting(1)
        yield* promoted
        assert.strictEqual(yield* Fiber.join(deleting), 1)
        assert.isTrue(Option.isNone(yield* JobIntents.get(admin, intentId)))
      })
  )

  it.effect("a promotion to a job that is there holds up no claim, heartbeat or completion of it", () =>
    Effect.gen(function* () {
      const type = yield* newType
      yield* Jobs.enqueue(type, 1, key("k"))
      yield* JobIntents.record(type, 1, key("k"))
      const finish = yield* standing(JobIntents.promote({ types: [type], limit: 1 }))
      const [claimed] = yield* Jobs.claim({ workerId: "w", types: [type], limit: 1 })
      const { lease } = claimed ?? assert.fail("not claimed")
      yield* Jobs.heartbeat(lease)
      yield* Jobs.completeSuccess(lease)
      yield* finish
    })
  )

  it.effect("deletePromotedBefore skips what another transaction holds", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* newType
      yield* sql`DELETE FROM runledger.job_enqueue_intents`
      const ids = yield* recordMany(type, 3)
      yield* JobIntents.promote({ types: [type], limit: 3 })
      const [held] = ids
      const finish = yield* standing(
        SqlClient.use((sql) => sql`SELECT FROM runledger.job_enqueue_intents WHERE id = ${held}::uuid FOR UPDATE`)
      )
      const cutoff = DateTime.makeUnsafe("2100-01-01T00:00:00Z")
      assert.strictEqual(yield* JobIntents.deletePromotedBefore(cutoff, 10), 2)
      yield* finish
      assert.strictEqual(yield* JobIntents.deletePromotedBefore(cutoff, 10), 1)
    })
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)), { timeout: "60 seconds" })(
  "JobIntents, of a database that fails",
  (it) => {
    const { dropConnection, failAfter, failBefore, Faults, makeGate, waitAt } = FaultySqlClient

    /** What a failure at each statement of `self` leaves; `self` is made anew for each. */
    const everyFault = Effect.fnUntraced(function* (
      prepare: Effect.Effect<
        readonly [type: string, self: Effect.Effect<unknown, QueryError, SqlClient>],
        unknown,
        SqlClient
      >,
      check: (type: string, exit: Exit.Exit<unknown, QueryError>) => Effect.Effect<void, unknown, SqlClient>
    ) {
      const faults = yield* Faults
      let broken = 0
      for (const fault of [failBefore(), failAfter(), dropConnection("before"), dropConnection("after")]) {
        for (let nth = 1; ; nth++) {
          const [type, self] = yield* prepare
          yield* faults.clear
          yield* faults.arm([{ match: /[\s\S]*/, nth, fault }])
          const exit = yield* Effect.exit(self)
          const injected = (yield* faults.injected).length
          yield* faults.disarm
          if (injected === 0) {
            assert.isTrue(Exit.isSuccess(exit))
            break
          }
          broken += 1
          yield* check(type, exit)
        }
      }
      return broken
    })

    it.effect("a definition that is disabled after the intents were locked leaves them as they are", () =>
      Effect.gen(function* () {
        const faults = yield* Faults
        const type = yield* newType
        const ids = yield* recordMany(type, 3)
        const gate = yield* makeGate
        yield* faults.clear
        yield* faults.arm([{ match: /INSERT INTO runledger\.job_queue/, fault: waitAt(gate) }])
        const promoting = yield* Effect.forkChild(JobIntents.promote({ types: [type], limit: 3 }))
        yield* gate.reached
        yield* JobDefinitions.update(type, { isEnabled: false })
        yield* gate.open
        const promotion = yield* Fiber.join(promoting)
        yield* faults.disarm
        assert.deepInclude(promotion, { inserted: 0, deferred: 0, definitionUnavailable: 3, failures: [] })
        for (const id of ids) {
          assert.deepInclude(yield* getIntent(id), {
            status: "PENDING",
            promotionAttempts: 0,
            lastErrorCode: Option.none()
          })
        }
      })
    )

    it.effect(
      "a crash at any statement of a promotion leaves intents and jobs that agree, and the next one finishes",
      () =>
        Effect.gen(function* () {
          const prepare = Effect.gen(function* () {
            const type = yield* newType
            yield* recordMany(type, 5)
            yield* Jobs.enqueue(type, 1, key("1"))
            yield* Jobs.enqueue(type, -2, key("2"))
            return [type, JobIntents.promote({ types: [type], limit: 10 })] as const
          })
          const broken = yield* everyFault(prepare, (type, exit) =>
            Effect.gen(function* () {
              if (Exit.isFailure(exit)) {
                for (const reason of exit.cause.reasons)
                  assert.isTrue("error" in reason && reason.error instanceof QueryError)
              }
              const before = yield* JobIntents.list({ scope: admin, jobType: type })
              const promoted = before.filter(({ status }) => status === "PROMOTED").length
              // all of it or nothing of it
              assert.include([0, 4], promoted)
              assert.strictEqual((yield* jobsOf(type)).length, promoted === 0 ? 2 : 5)
              yield* JobIntents.promote({ types: [type], limit: 10 })
              const after = yield* JobIntents.list({ scope: admin, jobType: type })
              assert.deepStrictEqual(
                after.map(({ status, promotionAttempts }) => [status, promotionAttempts]),
                ["PROMOTED", "PROMOTED", "CONFLICTED", "PROMOTED", "PROMOTED"].map((status) => [status, 1])
              )
              assert.strictEqual((yield* jobsOf(type)).length, 5)
            })
          )
          assert.isAbove(broken, 20)
        }).pipe(Effect.provideService(NotifyInterval, 0))
    )

    it.effect("a crash at any statement of a recording leaves all or nothing, and a retry finds or makes it", () =>
      Effect.gen(function* () {
        const prepare = Effect.map(newType, (type) => {
          const request = { jobType: type, payload: 1, idempotencyKey: "k" }
          return [type, JobIntents.recordMany([request, request, { ...request, idempotencyKey: "l" }])] as const
        })
        const broken = yield* everyFault(prepare, (type) =>
          Effect.gen(function* () {
            assert.include([0, 2], (yield* JobIntents.list({ scope: admin, jobType: type })).length)
            yield* JobIntents.record(type, 1, key("k"))
            yield* JobIntents.record(type, 1, key("l"))
            assert.strictEqual((yield* JobIntents.list({ scope: admin, jobType: type })).length, 2)
          })
        )
        assert.isAbove(broken, 12)
      })
    )
  }
)
