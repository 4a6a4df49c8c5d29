import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Queue, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "../src/internal/busy.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { channel, NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { makeGate } from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

let types = 0

/** A declared job type of its own. */
const makeType = Effect.suspend(() =>
  Effect.map(JobDefinitions.upsert(`concurrency.${++types}`), ({ jobType }) => jobType)
)

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

/** Asks again until it is true; each time is a round trip. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

/** Another client of the same database. */
const another = (options: TestDatabase.ClientOptions = {}) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { name } = only(yield* sql<{ name: string }>`SELECT current_database() AS name`)
    return yield* Layer.build(TestDatabase.client(name, options))
  })

/** The reason of a failed operation; an answer is a mistake of the test. */
const reasonOf = <A, R>(self: Effect.Effect<A, QueryError, R>) =>
  Effect.match(self, { onFailure: ({ reason }) => reason, onSuccess: () => assert.fail("it was to fail") })

const jobs = (type: string) =>
  SqlClient.use(
    (sql) => sql<{ id: string; status: string; attempt: number; worker_id: string | null }>`
      SELECT id, status, attempt, worker_id FROM runledger.job_queue WHERE job_type = ${type} ORDER BY id`
  )

/** Until so many backends of this database wait for a lock that another holds. */
const waiting = (count: number) =>
  until(
    SqlClient.use((sql) =>
      Effect.map(
        sql`SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        (rows) => rows.length === count
      )
    )
  )

/** A transaction that runs `self`, then stands at a gate, then ends as asked. */
const standing = Effect.fnUntraced(function* <A, E, R>(self: Effect.Effect<A, E, R>, end: "COMMIT" | "ROLLBACK") {
  const sql = yield* SqlClient
  const gate = yield* makeGate
  const fiber = yield* Effect.forkScoped(
    Effect.exit(
      sql.withTransaction(
        Effect.gen(function* () {
          yield* self
          yield* gate.pass
          if (end === "ROLLBACK") return yield* Effect.fail("rollback")
        })
      )
    )
  )
  yield* gate.reached
  return Effect.andThen(gate.open, Fiber.await(fiber))
})

it.layer(TestDatabase.layerWith({ maxConnections: 20 }), { timeout: "60 seconds" })("Jobs, many at once", (it) => {
  it.effect("a key is found without waiting for whoever is writing its job", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      const enqueue = Jobs.enqueue(type, 1, { idempotencyKey: "written" })
      const { jobId } = yield* enqueue
      const end = yield* standing(Jobs.claim({ workerId: "w", types: [type], limit: 1 }), "COMMIT")
      const found = yield* enqueue
      yield* end
      assert.deepStrictEqual(found, { jobId, status: "PENDING", runNumber: 1, disposition: "existing" })
    })
  )

  it.effect("two hundred claimers on three clients share nothing and miss nothing", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      for (let i = 0; i < 2; i++) {
        yield* Jobs.enqueueMany(
          Array.from({ length: 1000 }, (_, n) => ({ jobType: type, payload: n, priority: n % 3 }))
        )
      }
      const clients = [
        yield* another({ maxConnections: 15 }),
        yield* another({ maxConnections: 5 }),
        yield* another({ maxConnections: 2, multiplex: true })
      ]
      const claimer = Effect.fnUntraced(function* (workerId: string, limit: number) {
        const claimed: Array<readonly [id: string, worker: string]> = []
        for (;;) {
          const batch = yield* Jobs.claim({ workerId, types: [type], limit })
          if (batch.length === 0) return claimed
          assert.isAtMost(batch.length, limit)
          for (const { lease } of batch) claimed.push([lease.jobId, lease.workerId])
        }
      })
      const claims = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, n) => n),
        (n) => Effect.provideContext(claimer(`worker ${n}`, (n % 7) + 1), clients[n % 3] ?? assert.fail()),
        { concurrency: "unbounded" }
      )
      const claimed = claims.flat()
      assert.strictEqual(claimed.length, 2000, "nobody got what another has")
      const stored = yield* jobs(type)
      assert.deepStrictEqual(
        stored.map(({ id, worker_id }) => `${id} ${worker_id}`),
        claimed.map(([id, worker]) => `${id} ${worker}`).sort(),
        "and the table says the same"
      )
      assert.deepStrictEqual(
        new Set(stored.map(({ status, attempt }) => `${status} ${attempt}`)),
        new Set(["LEASED 1"])
      )
      assert.isAbove(claims.filter((batch) => batch.length > 0).length, 20, "many claimers took part")
    })
  )

  it.effect("fifty fibers enqueue with one key: one job, which the other forty-nine find", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      const clients = [yield* another({ maxConnections: 10 }), yield* another({ maxConnections: 10, multiplex: true })]
      const answers = yield* Effect.forEach(
        Array.from({ length: 50 }, (_, n) => n),
        (n) =>
          Effect.provideContext(
            Jobs.enqueue(type, { same: true }, { idempotencyKey: "one" }),
            clients[n % 2] ?? assert.fail()
          ),
        { concurrency: "unbounded" }
      )
      const { id } = only(yield* jobs(type))
      assert.deepStrictEqual(new Set(answers.map(({ jobId }) => jobId)), new Set([Jobs.JobId.make(id)]))
      assert.strictEqual(answers.filter(({ disposition }) => disposition === "inserted").length, 1)
      assert.strictEqual(answers.filter(({ disposition }) => disposition === "existing").length, 49)
    })
  )

  it.effect("one key and different requests at once: one wins, the others are told what differs", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      const answers = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, n) => n),
        (n) => Effect.result(Jobs.enqueue(type, n, { idempotencyKey: "one", priority: n })),
        { concurrency: "unbounded" }
      )
      const { id } = only(yield* jobs(type))
      const winners = answers.filter(Result.isSuccess).map(({ success }) => [success.jobId, success.disposition])
      assert.deepStrictEqual(winners, [[id, "inserted"]])
      for (const { failure } of answers.filter(Result.isFailure)) {
        assert.strictEqual(failure.reason._tag, "IdempotencyConflict")
        assert.deepInclude(failure.reason, { jobId: id, fields: ["payload", "priority"] })
      }
    })
  )

  it.effect(
    "keyed batches in opposite order, many at once and again and again: no deadlock, one job for each key",
    () =>
      Effect.gen(function* () {
        const type = yield* makeType
        const organizationId = crypto.randomUUID()
        for (let round = 0; round < 8; round++) {
          const keys = Array.from({ length: 60 }, (_, n) => ({
            jobType: type,
            payload: n,
            idempotencyKey: `${round}.${n % 30}`,
            organizationId: n < 30 ? undefined : organizationId
          }))
          const batches = yield* Effect.forEach(
            Array.from({ length: 16 }, (_, n) => n),
            (n) =>
              Jobs.enqueueMany(
                n % 2 === 0
                  ? [...keys.slice(n), ...keys.slice(0, n)]
                  : [...keys.slice(n), ...keys.slice(0, n)].reverse()
              ),
            { concurrency: "unbounded" }
          )
          const answers = batches.flat()
          assert.isTrue(answers.every(Result.isSuccess))
          const inserted = answers.filter(Result.isSuccess).filter(({ success }) => success.disposition === "inserted")
          assert.strictEqual(inserted.length, 60)
          assert.strictEqual((yield* jobs(type)).length, 60 * (round + 1))
        }
      })
  )

  for (const end of ["COMMIT", "ROLLBACK"] as const) {
    const found = end === "COMMIT" ? "existing" : "inserted"
    it.effect(`a key that waits for an uncommitted one is ${found} after its ${end}`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = yield* makeType
        const enqueue = Jobs.enqueue(type, "same", { idempotencyKey: "one" })
        const first = yield* standing(enqueue, end)
        const outside = yield* Effect.forkChild(enqueue)
        const batch = yield* Effect.forkChild(
          Jobs.enqueueMany([
            { jobType: type, payload: "other", idempotencyKey: "other" },
            { jobType: type, payload: "same", idempotencyKey: "one" }
          ])
        )
        const inside = yield* Effect.forkChild(
          sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`SET LOCAL lock_timeout = '59s'`
              const answer = yield* enqueue
              const [{ lock_timeout } = { lock_timeout: "" }] = yield* sql<{ lock_timeout: string }>`SHOW lock_timeout`
              assert.strictEqual(lock_timeout, "59s", "the caller's setting is restored")
              return answer
            })
          )
        )
        yield* waiting(3)
        yield* first
        const answers = [
          yield* Fiber.join(outside),
          yield* Fiber.join(inside),
          ...(yield* Fiber.join(batch)).slice(1).map(Result.getOrThrow)
        ]
        assert.strictEqual(new Set(answers.map(({ jobId }) => jobId)).size, 1)
        assert.strictEqual(
          answers.filter(({ disposition }) => disposition === "inserted").length,
          found === "inserted" ? 1 : 0
        )
        assert.strictEqual((yield* jobs(type)).length, 2)
      })
    )
  }

  it.effect("a key that waits too long is Unavailable, with the caller's own lock_timeout, which stays as it was", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* makeType
      const enqueue = Jobs.enqueue(type, "same", { idempotencyKey: "one" })
      const end = yield* standing(enqueue, "COMMIT")
      const lockTimeout = Effect.map(
        sql<{ lock_timeout: string }>`SHOW lock_timeout`,
        (rows) => only(rows).lock_timeout
      )
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '70ms'`
          assert.deepInclude(yield* reasonOf(enqueue), { _tag: "Unavailable", origin: "database", sqlState: "55P03" })
          assert.strictEqual(yield* lockTimeout, "70ms")
          // and the transaction goes on
          assert.strictEqual((yield* Jobs.enqueue(type, "other", { idempotencyKey: "two" })).disposition, "inserted")
          assert.strictEqual(yield* lockTimeout, "70ms")
        })
      )
      const impatient = yield* another({ maxConnections: 1, startupParameters: { lock_timeout: "70" } })
      yield* Effect.gen(function* () {
        assert.deepInclude(yield* reasonOf(enqueue), { _tag: "Unavailable", origin: "database", sqlState: "55P03" })
        const session = yield* SqlClient
        assert.deepStrictEqual(yield* session`SHOW lock_timeout`, [{ lock_timeout: "70ms" }])
      }).pipe(Effect.provideContext(impatient))
      yield* end
      assert.strictEqual((yield* enqueue).disposition, "existing")
      assert.strictEqual((yield* jobs(type)).length, 2)
    })
  )

  it.effect("a key waits for five seconds at most where the caller set no limit, and leaves none behind", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      const enqueue = Jobs.enqueue(type, "same", { idempotencyKey: "one" })
      const end = yield* standing(enqueue, "COMMIT")
      const patient = yield* another({ maxConnections: 1, startupParameters: { lock_timeout: "0" } })
      yield* Effect.gen(function* () {
        const session = yield* SqlClient
        assert.deepInclude(yield* reasonOf(enqueue), { _tag: "Unavailable", origin: "database", sqlState: "55P03" })
        assert.deepStrictEqual(yield* session`SHOW lock_timeout`, [{ lock_timeout: "0" }])
      }).pipe(Effect.provideContext(patient))
      yield* end
    })
  )

  it.effect("a key that waits does not hold up the other operations of a shared connection", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      yield* Jobs.enqueue(type, "claimed")
      const enqueue = Jobs.enqueue(type, "same", { idempotencyKey: "one" })
      const end = yield* standing(enqueue, "COMMIT")
      // one connection to share, one for what waits
      const shared = yield* another({ multiplex: true, maxConnections: 2 })
      const waiter = yield* Effect.forkChild(Effect.provideContext(enqueue, shared))
      yield* waiting(1)
      yield* Effect.gen(function* () {
        const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 1 }))
        for (let i = 0; i < 20; i++) yield* Jobs.heartbeat(lease)
        yield* Jobs.enqueue(type, "unkeyed")
        yield* Jobs.enqueue(type, "keyed", { idempotencyKey: "two" })
        yield* Jobs.completeSuccess(lease)
      }).pipe(Effect.provideContext(shared))
      assert.isUndefined(waiter.pollUnsafe(), "it still waits")
      yield* end
      assert.strictEqual((yield* Fiber.join(waiter)).disposition, "existing")
    })
  )

  it.effect("many reapers at once end each expired lease once", () =>
    Effect.gen(function* () {
      const type = yield* makeType
      yield* Jobs.enqueueMany(Array.from({ length: 300 }, (_, payload) => ({ jobType: type, payload })))
      yield* Jobs.claim({ workerId: "dead", types: [type], limit: 300, lease: 1 })
      yield* until(
        SqlClient.use((sql) =>
          Effect.map(
            sql`SELECT FROM runledger.job_queue WHERE job_type = ${type} AND lease_expires_at > clock_timestamp()`,
            (rows) => rows.length === 0
          )
        )
      )
      const clients = [yield* another(), yield* another({ multiplex: true, maxConnections: 3 })]
      const reaper = Effect.fnUntraced(function* (limit: number) {
        const ids: Array<string> = []
        for (;;) {
          const { leases, postponed } = yield* Jobs.reapExpiredLeases({ limit })
          assert.deepStrictEqual(postponed, [])
          if (leases.length === 0) return ids
          ids.push(...leases.map(({ jobId }) => jobId))
        }
      })
      const reaped = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, n) => n),
        (n) => Effect.provideContext(reaper(n + 1), clients[n % 2] ?? assert.fail()),
        { concurrency: "unbounded" }
      )
      const stored = yield* jobs(type)
      assert.deepStrictEqual(
        reaped.flat().sort(),
        stored.map(({ id }) => id)
      )
      assert.deepStrictEqual(
        new Set(stored.map(({ status, attempt }) => `${status} ${attempt}`)),
        new Set(["PENDING 1"])
      )
      const sql = yield* SqlClient
      const attempts = yield* sql`
        SELECT FROM runledger.job_attempts a JOIN runledger.job_queue q ON q.id = a.job_id WHERE q.job_type = ${type}`
      assert.strictEqual(attempts.length, 300)
    })
  )

  it.effect("a user's foreign key to a job, in an open transaction, hides the job from nobody", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* makeType
      yield* sql`CREATE TABLE invoices (job_id uuid NOT NULL REFERENCES runledger.job_queue (id))`
      const referencing = (jobId: string) => standing(sql`INSERT INTO invoices VALUES (${jobId}::uuid)`, "COMMIT")
      const claim = Effect.map(Jobs.claim({ workerId: "w", types: [type], limit: 10, lease: "1 minute" }), only)

      const { jobId } = yield* Jobs.enqueue(type, "referenced", { idempotencyKey: "one" })
      const end = yield* referencing(jobId)
      const { lease } = yield* claim
      assert.strictEqual(lease.jobId, jobId)
      yield* Jobs.heartbeat(lease)
      yield* Jobs.updateProgress(lease, { done: 1 })
      assert.strictEqual((yield* Jobs.enqueue(type, "referenced", { idempotencyKey: "one" })).disposition, "existing")
      yield* Jobs.completeSuccess(lease)
      yield* end

      const expiring = yield* Jobs.enqueue(type, "expiring")
      const endExpiring = yield* referencing(expiring.jobId)
      yield* claim
      yield* sql`UPDATE runledger.job_queue SET lease_expires_at = '2020-01-01' WHERE id = ${expiring.jobId}::uuid`
      assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases.length, 1)
      yield* Jobs.cancel(TenantScope.admin, expiring.jobId)
      yield* endExpiring
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Notifications
// ---------------------------------------------------------------------------------------------------------------------

/** Hears what is notified on the channel, one at a time. */
const listener = Effect.gen(function* () {
  const client = yield* another({ maxConnections: 1 })
  const inbox = yield* Effect.flatMap(PgClient.PgClient, (sql) => sql.listen(channel)).pipe(
    Effect.provideContext(client)
  )
  return Effect.map(Queue.take(inbox), ({ payload }) => payload)
})

/** Notified by the test itself: what is heard before it came before it. */
const sayOnChannel = (word: string) => SqlClient.use((sql) => sql`SELECT pg_notify(${channel}, ${word})`)

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs: notifications", (it) => {
  it.effect("the first of a burst is notified at once, the last after the interval, and nothing in between", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const [type, other] = [yield* makeType, yield* makeType]
      const start = performance.now()
      yield* Jobs.enqueue(type, 0)
      assert.strictEqual(yield* heard, type)
      yield* Effect.replicateEffect(Jobs.enqueue(type, 1), 20, { concurrency: 10 })
      // another type has an interval of its own
      yield* Jobs.enqueue(other, 0)
      assert.strictEqual(yield* heard, other)
      assert.strictEqual(yield* heard, type)
      assert.isAtLeast(performance.now() - start, 1200, "after the interval")
      yield* sleepLive(1500)
      yield* sayOnChannel("silence")
      assert.strictEqual(yield* heard, "silence")
      // the sender is at rest: the next one is at once again
      yield* Jobs.enqueue(type, 1)
      assert.strictEqual(yield* heard, type)
    }).pipe(Effect.provideService(NotifyInterval, 1200))
  )

  it.effect("a long burst is notified about once per interval", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const type = yield* makeType
      const start = performance.now()
      let enqueued = 0
      while (performance.now() - start < 1000) {
        yield* Effect.replicateEffect(Jobs.enqueue(type, enqueued++), 10, { concurrency: 10 })
      }
      const ended = performance.now()
      yield* sleepLive(400)
      yield* sayOnChannel("silence")
      let times = 0
      while ((yield* heard) === type) times++
      assert.isAtLeast(times, 2)
      assert.isAtMost(times, Math.ceil((ended - start) / 150) + 2)
      assert.isAbove(enqueued * 10, 3 * times)
    }).pipe(Effect.provideService(NotifyInterval, 150))
  )

  it.effect("nothing is notified of what is rolled back, delayed, existing, or before the commit", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const heard = yield* listener
      const type = yield* makeType
      yield* Effect.exit(sql.withTransaction(Effect.andThen(Jobs.enqueue(type, 0), Effect.fail("no"))))
      yield* sql.withTransaction(
        Effect.exit(sql.withTransaction(Effect.andThen(Jobs.enqueue(type, 0), Effect.fail("no"))))
      )
      yield* Effect.result(Jobs.enqueue("undeclared", 0))
      yield* Jobs.enqueue(type, 0, { delay: "1 hour", idempotencyKey: "one" })
      yield* Jobs.enqueue(type, 0, { delay: "1 hour", idempotencyKey: "one" })
      const end = yield* standing(
        Effect.andThen(Jobs.enqueue(type, "first"), Jobs.enqueue(type, "second", { idempotencyKey: "two" })),
        "COMMIT"
      )
      yield* sayOnChannel("nothing yet")
      assert.strictEqual(yield* heard, "nothing yet")
      yield* end
      assert.strictEqual(yield* heard, type)
      assert.strictEqual((yield* Jobs.claim({ workerId: "w", types: [type], limit: 10 })).length, 2)
      yield* sayOnChannel("nothing more")
      assert.strictEqual(yield* heard, "nothing more")
    }).pipe(Effect.provideService(NotifyInterval, 30_000))
  )

  it.effect("whatever makes a job due again is notified", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const steps: Readonly<Record<string, (lease: Jobs.Lease) => Effect.Effect<unknown, QueryError, SqlClient>>> = {
        continuation: (lease) => Jobs.completeContinuation(lease),
        "continuation in a batch": (lease) => Jobs.completeMany([{ _tag: "Continuation", lease }]),
        release: (lease) => Jobs.releaseUnstarted(lease),
        "release by the reaper": () => Jobs.reapExpiredLeases({ limit: 10 })
      }
      for (const [name, step] of Object.entries(steps)) {
        const type = yield* makeType
        yield* Effect.provideService(Jobs.enqueue(type, 0), NotifyInterval, 0)
        const lease = name === "release by the reaper" ? 1 : "1 hour"
        const job = only(yield* Jobs.claimPrestart({ workerId: "w", types: [type], limit: 1, lease }))
        // an expired lease is expired for the next statement
        yield* step(job.lease)
        assert.strictEqual(yield* heard, type, name)
      }
    })
  )

  it.effect("an interval of zero turns notifications off", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const type = yield* makeType
      yield* Effect.provideService(Jobs.enqueue(type, 0), NotifyInterval, 0)
      yield* Jobs.enqueue(type, 1)
      assert.strictEqual(yield* heard, type)
      yield* sayOnChannel("once")
      assert.strictEqual(yield* heard, "once")
    }).pipe(Effect.provideService(NotifyInterval, 30_000))
  )

  it.effect("a pool of one connection is enough: inside a transaction, outside, and with a key", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const one = yield* another({ maxConnections: 1 })
      for (const multiplex of [false, true]) {
        const client = multiplex ? yield* another({ maxConnections: 1, multiplex }) : one
        const types = [yield* makeType, yield* makeType, yield* makeType]
        const [a = "", b = "", c = ""] = types
        yield* Effect.gen(function* () {
          const sql = yield* SqlClient
          yield* sql.withTransaction(Effect.all([Jobs.enqueue(a, 0), Jobs.enqueue(a, 1, { idempotencyKey: "in" })]))
          yield* Jobs.enqueue(b, 0)
          yield* Jobs.enqueue(c, 0, { idempotencyKey: "out" })
        }).pipe(Effect.provideContext(client))
        assert.deepStrictEqual([yield* heard, yield* heard, yield* heard].sort(), types.toSorted())
      }
    }).pipe(Effect.provideService(NotifyInterval, 30_000))
  )
})

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("Jobs: notifications under TestClock", (it) => {
  it.effect("the trailing one comes although nobody moves the clock", () =>
    Effect.gen(function* () {
      const heard = yield* listener
      const type = yield* makeType
      yield* Jobs.enqueue(type, 0)
      assert.strictEqual(yield* heard, type)
      yield* Jobs.enqueue(type, 1)
      assert.strictEqual(yield* heard, type)
    })
  )
})
