import { PassThrough } from "node:stream"
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Option, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { ConstraintClassifier } from "../src/FrameworkConstraint.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import { QueryError } from "../src/QueryError.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { dropConnection, failAfter, failBefore, Faults, sqlState } = FaultySqlClient
const { admin } = TenantScope

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

/** Everything that an exit says: `done`, or the tag of its one reason; a defect or an interruption shows as itself. */
const outcome = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit)
    ? "done"
    : exit.cause.reasons
        .map((reason) =>
          Cause.isFailReason(reason) && reason.error instanceof QueryError
            ? reason.error.reason._tag
            : Cause.isDieReason(reason)
              ? `defect: ${reason.defect}`
              : Cause.isFailReason(reason)
                ? `not typed: ${reason.error}`
                : "interrupted"
        )
        .join(", ")

/** A digest of every row of every table, with the transaction that wrote it; read on a connection that meets no faults. */
const everything = Effect.flatMap(Faults, ({ unwrapped: sql }) =>
  Effect.forEach(
    ["job_queue", "job_attempts", "job_events", "job_dead_letters", "job_logs", "job_definitions"],
    (table) => sql`
      SELECT md5(string_agg(t::text || t.xmin, ' ' ORDER BY t::text)) AS rows
      FROM ${sql(`runledger.${table}`)} t`
  )
)

/** Forgets the jobs of the test before, which would only slow down the comparison. */
const cleared = Effect.flatMap(
  Faults,
  ({ unwrapped: sql }) =>
    sql`TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters, runledger.job_logs CASCADE`
)

/** How many rows each table has, and how many jobs each status. */
const census = Effect.flatMap(Faults, ({ unwrapped: sql }) =>
  Effect.map(
    sql<{ of: string; count: number }>`
      SELECT 'job ' || status || ' ' || attempt AS of, count(*)::int4 AS count FROM runledger.job_queue GROUP BY 1
      UNION ALL SELECT 'attempt', count(*)::int4 FROM runledger.job_attempts
      UNION ALL SELECT 'event', count(*)::int4 FROM runledger.job_events
      UNION ALL SELECT 'dead letter', count(*)::int4 FROM runledger.job_dead_letters
      UNION ALL SELECT 'log', count(*)::int4 FROM runledger.job_logs`,
    (rows) => new Map(rows.map(({ of, count }) => [of, count]))
  )
)

const difference = (from: ReadonlyMap<string, number>, to: ReadonlyMap<string, number>) =>
  Object.fromEntries(
    [...new Set([...from.keys(), ...to.keys()])]
      .sort()
      .map((key) => [key, (to.get(key) ?? 0) - (from.get(key) ?? 0)] as const)
      .filter(([, change]) => change !== 0)
  )

// ---------------------------------------------------------------------------------------------------------------------
// The operations
// ---------------------------------------------------------------------------------------------------------------------

let types = 0

const makeType = Effect.suspend(() => Effect.map(JobDefinitions.upsert(`faults.${++types}`), ({ jobType }) => jobType))

const pending = Effect.gen(function* () {
  const type = yield* makeType
  return { type, jobId: (yield* Jobs.enqueue(type, 1)).jobId }
})

const leased = Effect.fnUntraced(function* (lease: number | "1 hour" = "1 hour") {
  const { type } = yield* pending
  return only(yield* Jobs.claimPrestart({ workerId: "w", types: [type], limit: 1, lease })).lease
})

const expired = Effect.gen(function* () {
  const sql = yield* SqlClient
  const lease = yield* leased(1)
  yield* until(
    Effect.map(
      sql`SELECT FROM runledger.job_queue WHERE id = ${lease.jobId}::uuid AND lease_expires_at < clock_timestamp()`,
      (rows) => rows.length === 1
    )
  )
})

type Prepare = Effect.Effect<Effect.Effect<unknown, QueryError, SqlClient>, unknown, SqlClient>

const failure = { kind: "TERMINAL", code: "test.failed", message: "failed" } as const

const operations: Readonly<Record<string, Prepare>> = {
  enqueue: Effect.map(makeType, (type) => Jobs.enqueue(type, 1, { stage: "scheduled" })),
  "enqueue with a key": Effect.map(makeType, (type) => Jobs.enqueue(type, 1, { idempotencyKey: "k" })),
  "enqueueMany in two statements": Effect.map(makeType, (jobType) =>
    Jobs.enqueueMany(
      Array.from({ length: 1001 }, (_, n) => ({ jobType, payload: n, ...(n < 5 ? { idempotencyKey: `${n}` } : {}) }))
    )
  ),
  claim: Effect.map(pending, ({ type }) => Jobs.claim({ workerId: "w", types: [type], limit: 1, lease: "1 hour" })),
  releaseUnstarted: Effect.map(leased(), (lease) => Jobs.releaseUnstarted(lease)),
  heartbeat: Effect.map(leased(), (lease) => Jobs.heartbeat(lease, { extend: "2 hours" })),
  heartbeatMany: Effect.map(leased(), (lease) => Jobs.heartbeatMany([lease], { extend: "2 hours" })),
  markRunning: Effect.map(leased(), (lease) => Jobs.markRunning(lease, { done: 1 })),
  updateProgress: Effect.map(leased(), (lease) => Jobs.updateProgress(lease, { done: 1, checkpoint: 1 })),
  completeSuccess: Effect.map(leased(), (lease) => Jobs.completeSuccess(lease, { output: 1 })),
  completeFailure: Effect.map(leased(), (lease) => Jobs.completeFailure(lease, failure)),
  completeContinuation: Effect.map(leased(), (lease) => Jobs.completeContinuation(lease)),
  completeMany: Effect.map(Effect.all([leased(), leased()]), (leases) =>
    Jobs.completeMany(leases.map((lease) => ({ _tag: "Success", lease })))
  ),
  reapExpiredLeases: Effect.as(expired, Jobs.reapExpiredLeases({ limit: 10 })),
  cancel: Effect.map(leased(), ({ jobId }) => Jobs.cancel(admin, jobId)),
  "JobDefinitions.upsert": Effect.map(makeType, (type) => JobDefinitions.upsert(type, { priority: 7 })),
  "JobLogs.insertMany": Effect.map(pending, ({ jobId }) =>
    JobLogs.insertMany([{ jobId, runNumber: 1, level: "INFO", message: "one" }])
  )
}

/** What is certain of a statement that failed this way, if it would have committed, and if not. */
const faults: Readonly<Record<string, { fault: FaultySqlClient.Fault; commits: string; executed: boolean }>> = {
  "is lost before it is executed": { fault: failBefore(), commits: "OutcomeUnknown", executed: false },
  "is executed, and its answer lost": { fault: failAfter(), commits: "OutcomeUnknown", executed: true },
  "meets a terminated connection": { fault: dropConnection("before"), commits: "Unavailable", executed: false },
  "loses its connection while it is sent": {
    fault: dropConnection("before", FaultySqlClient.connectionClosed()),
    commits: "OutcomeUnknown",
    executed: false
  },
  "is executed, and its connection lost": { fault: dropConnection("after"), commits: "OutcomeUnknown", executed: true },
  "is refused by the server": {
    fault: failBefore(sqlState("40001")),
    commits: "Unavailable",
    executed: false
  }
}

/** Faults that each kind of session, and the operation of a thousand rows, meet. The others meet all. */
const telling = ["is executed, and its answer lost", "meets a terminated connection"]
const meets = (name: string, what: string) => name !== "enqueueMany in two statements" || telling.includes(what)

/** The statements that the operation sends, as they are named in a plan, and whether each commits by itself, and then writes. */
const statementsOf = Effect.fnUntraced(function* (
  prepare: Prepare,
  around: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SqlError, R | SqlClient>
) {
  const { clear, statements } = yield* Faults
  const operation = yield* prepare
  yield* clear
  let within: ReadonlyArray<FaultySqlClient.SeenStatement> = []
  yield* around(
    Effect.gen(function* () {
      yield* clear
      yield* operation
      within = yield* statements
    })
  )
  const began = within.findIndex(({ operation: name }) => name === "BEGIN")
  let depth = 0
  return within.map(({ operation: name, sql }, index) => {
    if (name === "BEGIN") depth = 1
    const commits = name === "COMMIT" || (depth === 0 && name !== "BEGIN")
    if (name === "COMMIT") depth = 0
    // before a transaction of its own, a statement only finds out that it needs one; and a reaper looks for runs, of which
    // there are none here, before it reaps
    const looks = index < began || sql.includes("SELECT DISTINCT e.workflow_run_id")
    return { name, commits, writes: commits && !looks }
  })
})

const alone = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R> => self
const joined = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R | SqlClient> =>
  SqlClient.use((sql) => sql.withTransaction(self))

const pool = (options: TestDatabase.ClientOptions = {}) =>
  FaultySqlClient.layerPg().pipe(Layer.provide(TestDatabase.layerWith({ maxConnections: 2, ...options })))

const sessions: Readonly<Record<string, { options: TestDatabase.ClientOptions; met: ReadonlyArray<string> }>> = {
  "outside a transaction": { options: {}, met: Object.keys(faults) },
  // so that every operation begins a transaction of its own
  "in a session that is REPEATABLE READ": {
    options: { startupParameters: { default_transaction_isolation: "repeatable read" } },
    met: telling
  }
}

for (const [session, { met, options }] of Object.entries(sessions)) {
  it.layer(pool(options), { timeout: "60 seconds" })(`Jobs, ${session}: a statement`, (it) => {
    for (const [what, { commits, executed, fault }] of Object.entries(faults)) {
      if (!met.includes(what)) continue
      for (const [name, prepare] of Object.entries(operations)) {
        if (!meets(name, what)) continue
        it.effect(`of ${name} ${what}`, () =>
          Effect.gen(function* () {
            const { arm, clear, disarm, injected } = yield* Faults
            yield* cleared
            // what a run without faults changes
            const twin = yield* prepare
            const unharmed = yield* census
            yield* twin
            const change = difference(unharmed, yield* census)

            const statements = yield* statementsOf(prepare, alone)
            assert.isAbove(statements.length, 0)
            for (const [index, statement] of statements.entries()) {
              const point = `${index}: ${statement.name}`
              const operation = yield* prepare
              const before = yield* everything
              const counted = yield* census
              yield* clear
              yield* arm([{ nth: index + 1, fault }])
              const exit = yield* Effect.exit(operation)
              yield* disarm
              assert.strictEqual((yield* injected).length, 1, point)
              assert.strictEqual(outcome(exit), statement.commits ? commits : "Unavailable", point)
              if (statement.writes && executed) {
                assert.deepStrictEqual(difference(counted, yield* census), change, `${point} is written, as a whole`)
              } else {
                assert.deepStrictEqual(yield* everything, before, `${point} is not written`)
                // the pool has recovered, and the same call succeeds
                assert.strictEqual(outcome(yield* Effect.exit(operation)), "done", point)
                assert.deepStrictEqual(difference(counted, yield* census), change, point)
              }
            }
          }).pipe(Effect.provideService(NotifyInterval, 0))
        )
      }
    }
  })
}

it.layer(pool(), { timeout: "60 seconds" })("Jobs in a caller's transaction: a statement", (it) => {
  for (const [what, { fault }] of Object.entries(faults)) {
    for (const [name, prepare] of Object.entries(operations)) {
      if (!meets(name, what)) continue
      it.effect(`of ${name} ${what}`, () =>
        Effect.gen(function* () {
          const { arm, clear, disarm, injected } = yield* Faults
          yield* cleared
          const statements = yield* statementsOf(prepare, joined)
          for (const [index, { name: statement }] of statements.entries()) {
            const point = `${index}: ${statement}`
            const operation = yield* prepare
            const before = yield* everything
            yield* clear
            let answered = "nothing"
            yield* Effect.exit(
              joined(
                Effect.gen(function* () {
                  yield* arm([{ nth: index + 1, fault }])
                  answered = outcome(yield* Effect.exit(operation))
                  return yield* Effect.fail("rollback")
                })
              )
            )
            yield* disarm
            assert.strictEqual((yield* injected).length, 1, point)
            // it commits with the caller's transaction, so nothing can have been written
            assert.strictEqual(answered, "Unavailable", point)
            assert.deepStrictEqual(yield* everything, before, point)
            assert.strictEqual(outcome(yield* Effect.exit(joined(operation))), "done", point)
          }
        }).pipe(Effect.provideService(NotifyInterval, 0))
      )
    }
  }

  for (const [what, { fault }] of Object.entries(faults)) {
    it.effect(`that rolls back to a savepoint of ours ${what}: the first failure is told, and it is typed`, () =>
      Effect.gen(function* () {
        const { arm, clear, disarm, injected } = yield* Faults
        for (const point of ["ROLLBACK TO", "RELEASE"] as const) {
          const type = yield* makeType
          const before = yield* everything
          yield* clear
          let answered = "nothing"
          yield* Effect.exit(
            joined(
              Effect.gen(function* () {
                yield* arm([
                  { match: "WITH", fault: failBefore(sqlState("42501")) },
                  { match: point, fault }
                ])
                answered = outcome(yield* Effect.exit(Jobs.enqueue(type, 1, { idempotencyKey: "k" })))
                return yield* Effect.fail("rollback")
              })
            )
          )
          yield* disarm
          assert.strictEqual((yield* injected).length, 2)
          assert.strictEqual(answered, "PermissionDenied", point)
          assert.deepStrictEqual(yield* everything, before)
        }
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// After an unknown outcome
// ---------------------------------------------------------------------------------------------------------------------

it.layer(pool(), { timeout: "60 seconds" })("Jobs: after an unknown outcome", (it) => {
  for (const [what, fault] of [
    ["written", failAfter()],
    ["not written", failBefore()]
  ] as const) {
    const written = what === "written"

    it.effect(`a keyed enqueue that was ${what} is repeated safely, one by one and in a batch`, () =>
      Effect.gen(function* () {
        const { arm, disarm } = yield* Faults
        const type = yield* makeType
        const enqueue = Jobs.enqueue(type, 1, { idempotencyKey: "k" })
        yield* arm([{ fault }])
        assert.strictEqual(outcome(yield* Effect.exit(enqueue)), "OutcomeUnknown")
        yield* disarm
        assert.strictEqual((yield* enqueue).disposition, written ? "existing" : "inserted")
        const batch = Jobs.enqueueMany([
          { jobType: type, payload: 1, idempotencyKey: "k" },
          { jobType: type, payload: 2, idempotencyKey: "l" }
        ])
        yield* arm([{ fault }])
        assert.strictEqual(outcome(yield* Effect.exit(batch)), "OutcomeUnknown")
        yield* disarm
        assert.deepStrictEqual(
          (yield* batch).map((answer) => Result.getOrThrow(answer).disposition),
          ["existing", written ? "existing" : "inserted"]
        )
        assert.strictEqual(yield* Jobs.count({ scope: admin, jobType: type }), 2)
      })
    )

    it.effect(`a completion that was ${what} is told by the attempts of the job`, () =>
      Effect.gen(function* () {
        const { arm, disarm } = yield* Faults
        const lease = yield* leased()
        yield* arm([{ fault }])
        assert.strictEqual(outcome(yield* Effect.exit(Jobs.completeSuccess(lease))), "OutcomeUnknown")
        yield* disarm
        const { runNumber, attempt, workerId, endedAs } = only(yield* Jobs.attempts(admin, lease.jobId))
        assert.deepStrictEqual(
          { jobId: lease.jobId, runNumber, attempt, workerId, endedAs },
          { ...lease, endedAs: written ? Option.some("SUCCEEDED") : Option.none() }
        )
        const again = outcome(yield* Effect.exit(Jobs.completeSuccess(lease)))
        assert.strictEqual(again, written ? "LeaseOwnerMismatch" : "done")
      })
    )

    it.effect(`a claim that was ${what} leaves jobs that are leased until they expire, or claimable`, () =>
      Effect.gen(function* () {
        const { arm, disarm } = yield* Faults
        const { jobId, type } = yield* pending
        const claim = Jobs.claim({ workerId: "w", types: [type], limit: 1, lease: 1 })
        yield* arm([{ fault }])
        assert.strictEqual(outcome(yield* Effect.exit(claim)), "OutcomeUnknown")
        yield* disarm
        const { status } = Option.getOrThrow(yield* Jobs.get(admin, jobId))
        assert.strictEqual(status, written ? "LEASED" : "PENDING")
        const reaped = yield* Jobs.reapExpiredLeases({ limit: 10 })
        assert.strictEqual(reaped.leases.length, written ? 1 : 0)
      })
    )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// What an error of the database means
// ---------------------------------------------------------------------------------------------------------------------

const meanings: Readonly<Record<string, ReadonlyArray<string>>> = {
  Unavailable: "25006 40001 40P01 53000 53100 53200 53300 55P03 57014 57P01 57P02 57P03".split(" "),
  PermissionDenied: ["42501", "28000", "28P01"],
  ConstraintViolation: ["23001", "23502", "23503", "23505", "23514", "23P01"],
  QueryFailed: ["22003", "42601", "42P01", "P0001", "XX000", "XX001"]
}

// a session in which a keyed enqueue needs a transaction of its own
const repeatable = pool({ startupParameters: { default_transaction_isolation: "repeatable read" } })

it.layer(repeatable, { timeout: "60 seconds" })("Jobs: an error of the database", (it) => {
  for (const [tag, states] of Object.entries(meanings)) {
    for (const state of states) {
      it.effect(`${state} is ${tag}, whatever statement it meets`, () =>
        Effect.gen(function* () {
          const { arm, disarm } = yield* Faults
          const type = yield* makeType
          const { jobId } = yield* pending
          const fault = failBefore(sqlState(state))
          const keyed = Jobs.enqueue(type, 1, { idempotencyKey: "k" })
          const attempts = [
            [{ fault }, Jobs.enqueue(type, 1)],
            [{ fault }, keyed],
            [{ match: "BEGIN", fault }, keyed],
            [{ match: "WITH", nth: 2, fault }, keyed],
            [{ match: "COMMIT", fault }, keyed],
            // a read cannot violate a constraint
            ...(tag === "ConstraintViolation" ? [] : ([[{ fault }, Jobs.get(admin, jobId)]] as const))
          ] as const
          for (const [step, operation] of attempts) {
            yield* arm([step])
            const exit = yield* Effect.exit<unknown, QueryError, SqlClient>(operation)
            yield* disarm
            assert.strictEqual(outcome(exit), tag, `${"match" in step ? step.match : "alone"}`)
            const error = Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined
            assert.isDefined(error)
            assert.deepInclude(error.reason, { sqlState: state, transactionUsable: false })
            // what the server said stays out of every form in which the error is printed
            assert.notInclude(
              `${error} ${error.stack} ${JSON.stringify(error)} ${Cause.pretty(Cause.fail(error))}`,
              "injected"
            )
          }
          assert.strictEqual(yield* Jobs.count({ scope: admin, jobType: type }), 0)
        })
      )
    }
  }

  it.effect("08xxx is Unavailable where nothing can have been written, and unknown where it can", () =>
    Effect.gen(function* () {
      const { arm, disarm } = yield* Faults
      for (const state of ["08000", "08003", "08006", "08P01"]) {
        const type = yield* makeType
        const { jobId } = yield* pending
        const fault = failBefore(sqlState(state))
        const keyed = Jobs.enqueue(type, 1, { idempotencyKey: "k" })
        const met = Effect.fnUntraced(function* (
          step: FaultySqlClient.Step,
          operation: Effect.Effect<unknown, QueryError, SqlClient>
        ) {
          yield* arm([step])
          const exit = yield* Effect.exit(operation)
          yield* disarm
          return outcome(exit)
        })
        assert.deepStrictEqual(
          [
            yield* met({ fault }, Jobs.get(admin, jobId)),
            yield* met({ match: "BEGIN", fault }, keyed),
            yield* met({ match: "WITH", nth: 2, fault }, keyed),
            yield* met({ match: "COMMIT", fault }, keyed),
            yield* met({ fault }, Jobs.enqueue(type, 1)),
            yield* met({ fault }, keyed)
          ],
          ["Unavailable", "Unavailable", "Unavailable", "OutcomeUnknown", "OutcomeUnknown", "OutcomeUnknown"],
          state
        )
      }
    })
  )

  it.effect("an application's own classifier is asked before ours", () =>
    Effect.gen(function* () {
      const { arm } = yield* Faults
      const type = yield* makeType
      const met = Effect.fnUntraced(function* (constraint: string) {
        yield* arm([{ fault: failBefore(sqlState("23503", { constraint })) }])
        const { reason } = yield* Effect.flip(Jobs.enqueue(type, 1))
        return [reason._tag, reason.code, reason.category, reason.message]
      })
      const ours = [
        "ConstraintViolation",
        "job.organization_not_found",
        "Validation",
        "The organization does not exist"
      ]
      assert.deepStrictEqual(yield* met("fk_job_queue_organization"), ours)
      const related = yield* met("fk_mine")
      assert.deepStrictEqual(related.slice(0, 2), ["ConstraintViolation", "db.related_resource_missing"])

      const spec = { category: "NotFound", code: "tenant.unknown", clientMessage: "No such tenant" } as const
      const known = ["ConstraintViolation", "tenant.unknown", "NotFound", "No such tenant"]
      yield* Effect.gen(function* () {
        assert.deepStrictEqual(yield* met("fk_job_queue_organization"), known)
        assert.deepStrictEqual(yield* met("fk_mine"), known)
        assert.deepStrictEqual(yield* met("fk_other"), related)
      }).pipe(
        Effect.provideService(ConstraintClassifier, (constraint) => (constraint === "fk_other" ? undefined : spec))
      )
    })
  )

  it.effect("no server to connect to is Unavailable, no right to log in or to write is PermissionDenied", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { name } = only(yield* sql<{ name: string }>`SELECT current_database() AS name`)
      const type = yield* makeType
      const role = `runledger_reader_${crypto.randomUUID().replaceAll("-", "")}`
      yield* Effect.acquireRelease(sql`CREATE ROLE ${sql(role)}`, () => Effect.orDie(sql`DROP ROLE ${sql(role)}`))
      const enqueues = [Jobs.enqueue(type, 1), Jobs.enqueue(type, 1, { idempotencyKey: "k" })]
      const on = (layer: ReturnType<typeof TestDatabase.client>) =>
        Effect.forEach(enqueues, (enqueue) => Effect.provide(Effect.map(Effect.exit(enqueue), outcome), layer))
      assert.deepStrictEqual(yield* on(TestDatabase.client(name, { startupParameters: { role } })), [
        "PermissionDenied",
        "PermissionDenied"
      ])
      const refused = new Array<string>(2).fill("Unavailable")
      // a stream that ends at once is a server that is gone while we connect
      const gone = () => {
        const stream = new PassThrough()
        stream.destroy(new Error("connect ECONNREFUSED"))
        return stream
      }
      assert.deepStrictEqual(yield* on(TestDatabase.client(name, { stream: gone })), refused)
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Interruption
// ---------------------------------------------------------------------------------------------------------------------

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs: an operation that waits is interrupted", (it) => {
  const backends = (condition: string) =>
    SqlClient.use((sql) =>
      Effect.map(
        sql.unsafe(`SELECT FROM pg_stat_activity WHERE application_name = 'interrupted' AND (${condition})`),
        (rows) => rows.length
      )
    )

  /** A client with one connection, which must be free and clean when the operation has gone. */
  const single = Effect.gen(function* () {
    const sql = yield* SqlClient
    const { name } = only(yield* sql<{ name: string }>`SELECT current_database() AS name`)
    return yield* Layer.build(TestDatabase.client(name, { maxConnections: 1, applicationName: "interrupted" }))
  })

  it.effect("a keyed enqueue gives back connection and lock, also inside the caller's transaction", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const client = yield* single
      for (const around of [alone, joined]) {
        const type = yield* makeType
        const gate = yield* FaultySqlClient.makeGate
        const enqueue = (key: string) => Jobs.enqueue(type, 1, { idempotencyKey: key })
        const first = yield* Effect.forkChild(sql.withTransaction(Effect.tap(enqueue("k"), gate.pass)))
        yield* gate.reached
        const waiting = yield* Effect.forkChild(
          Effect.provideContext(
            around(Effect.andThen(around === joined ? enqueue("own") : Effect.void, enqueue("k"))),
            client
          )
        )
        yield* until(Effect.map(backends("wait_event_type = 'Lock'"), (count) => count === 1))
        yield* Fiber.interrupt(waiting)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(waiting)))
        // while the first transaction is still open
        yield* until(Effect.map(backends("wait_event_type = 'Lock' OR state <> 'idle'"), (count) => count === 0))
        assert.strictEqual((yield* Effect.provideContext(enqueue("other"), client)).disposition, "inserted")
        yield* gate.open
        yield* Fiber.join(first)
        const stored = yield* sql<{ key: string }>`
          SELECT idempotency_key AS key FROM runledger.job_queue WHERE job_type = ${type} ORDER BY 1`
        assert.deepStrictEqual(stored, [{ key: "k" }, { key: "other" }])
      }
    })
  )

  it.effect("a write of a lease that finds its row locked stops asking", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const client = yield* single
      const lease = yield* leased()
      const gate = yield* FaultySqlClient.makeGate
      const lock = sql`SELECT FROM runledger.job_queue WHERE id = ${lease.jobId}::uuid FOR UPDATE`
      const holder = yield* Effect.forkChild(sql.withTransaction(Effect.andThen(lock, gate.pass)))
      yield* gate.reached
      const waiting = yield* Effect.forkChild(Effect.provideContext(Jobs.completeSuccess(lease), client))
      yield* until(Effect.map(backends("query LIKE '%locked AS MATERIALIZED%'"), (count) => count === 1))
      yield* Fiber.interrupt(waiting)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(waiting)))
      yield* gate.open
      yield* Fiber.join(holder)
      // nobody completes it afterwards
      assert.strictEqual((yield* Effect.provideContext(Jobs.attempts(admin, lease.jobId), client)).length, 1)
      assert.strictEqual(outcome(yield* Effect.exit(Jobs.heartbeat(lease))), "done")
    })
  )

  it.effect("a backend that is terminated while its statement waits is Unavailable, and the pool replaces it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const client = yield* single
      const type = yield* makeType
      const gate = yield* FaultySqlClient.makeGate
      const enqueue = Jobs.enqueue(type, 1, { idempotencyKey: "k" })
      const first = yield* Effect.forkChild(sql.withTransaction(Effect.tap(enqueue, gate.pass)))
      yield* gate.reached
      const waiting = yield* Effect.forkChild(Effect.exit(Effect.provideContext(enqueue, client)))
      yield* until(Effect.map(backends("wait_event_type = 'Lock'"), (count) => count === 1))
      yield* sql`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'interrupted'`
      assert.include(["Unavailable", "OutcomeUnknown"], outcome(yield* Fiber.join(waiting)))
      yield* gate.open
      yield* Fiber.join(first)
      assert.strictEqual((yield* Effect.provideContext(enqueue, client)).disposition, "existing")
    })
  )
})
