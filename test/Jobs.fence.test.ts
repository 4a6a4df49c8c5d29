import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer, type Transformer } from "effect/sql/Statement"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Every write of a lease holder, and its answer in one word
// ---------------------------------------------------------------------------------------------------------------------

const told = (reason: Reason): string => (reason._tag === "Unavailable" ? `Unavailable ${reason.origin}` : reason._tag)

const answer = <A, R>(self: Effect.Effect<A, QueryError, R>) =>
  Effect.match(self, { onFailure: ({ reason }) => told(reason), onSuccess: () => "done" })

const answerOfFirst = <A, R>(self: Effect.Effect<ReadonlyArray<Result.Result<A, Reason>>, QueryError, R>) =>
  Effect.match(self, {
    onFailure: ({ reason }) => `the whole batch: ${told(reason)}`,
    onSuccess: ([first]) => (first === undefined ? "nothing" : Result.isSuccess(first) ? "done" : told(first.failure))
  })

type Write = (lease: Jobs.Lease) => Effect.Effect<string, never, SqlClient>

const retryable = { kind: "RETRYABLE", code: "test.failed", message: "failed" } as const
const terminal = { kind: "TERMINAL", code: "test.failed", message: "failed" } as const

/** Those that need a live lease. */
const writes: Readonly<Record<string, Write>> = {
  heartbeat: (lease) => answer(Jobs.heartbeat(lease, { extend: "1 hour" })),
  heartbeatMany: (lease) => answerOfFirst(Jobs.heartbeatMany([lease], { extend: "1 hour" })),
  markRunning: (lease) => answer(Jobs.markRunning(lease, { done: 1, total: 2, checkpoint: "stale" })),
  updateProgress: (lease) => answer(Jobs.updateProgress(lease, { done: 1, total: 2, checkpoint: "stale" })),
  completeSuccess: (lease) => answer(Jobs.completeSuccess(lease, { output: "stale" })),
  "completeFailure with a retry": (lease) => answer(Jobs.completeFailure(lease, retryable)),
  "completeFailure for good": (lease) => answer(Jobs.completeFailure(lease, terminal)),
  completeContinuation: (lease) => answer(Jobs.completeContinuation(lease, { checkpoint: "stale" })),
  "completeMany, success": (lease) => answerOfFirst(Jobs.completeMany([{ _tag: "Success", lease, output: 1 }])),
  "completeMany, failure": (lease) => answerOfFirst(Jobs.completeMany([{ _tag: "Failure", lease, ...retryable }])),
  "completeMany, continuation": (lease) => answerOfFirst(Jobs.completeMany([{ _tag: "Continuation", lease }]))
}

/** An expired claim may still be given back, as long as nobody reaped it. */
const release: Write = (lease) => answer(Jobs.releaseUnstarted(lease))

const everyWrite: Readonly<Record<string, Write>> = { ...writes, releaseUnstarted: release }

// ---------------------------------------------------------------------------------------------------------------------
// Jobs
// ---------------------------------------------------------------------------------------------------------------------

let types = 0

/** A job type of its own, whose failures are due again at once. */
const makeType = Effect.suspend(() =>
  Effect.map(
    JobDefinitions.upsert(`fence.${++types}`, { maxAttempts: 10, retry: { initial: 1, max: 1, jitter: 0 } }),
    ({ jobType }) => jobType
  )
)

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

/** Asks again until it is true; each time is a round trip. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

/** Claims the next job of the type, once it is due. */
const next = (type: string, millis = 3_600_000) =>
  Effect.map(
    Effect.repeat(Jobs.claimPrestart({ workerId: "holder", types: [type], limit: 1, lease: millis }), {
      until: (jobs) => jobs.length === 1
    }),
    (jobs) => only(jobs).lease
  )

/** A job that was claimed ahead of its start, so that every write would apply. */
const leased = Effect.fnUntraced(function* (millis = 3_600_000) {
  const type = yield* makeType
  yield* Jobs.enqueue(type, { from: "fence" })
  return { type, lease: yield* next(type, millis) }
})

const leases = (count: number, millis?: number) =>
  Effect.map(Effect.replicateEffect(leased(millis), count), (all) => all.map(({ lease }) => lease))

const databaseName = SqlClient.use((sql) =>
  Effect.map(sql<{ name: string }>`SELECT current_database() AS name`, (rows) => only(rows).name)
)

const row = (jobId: string) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql<{ status: string; lease_expires_at: Date; attempt: number; expired: boolean }>`
        SELECT status, lease_expires_at, attempt, lease_expires_at <= clock_timestamp() AS expired
        FROM runledger.job_queue WHERE id = ${jobId}::uuid`,
      only
    )
  )

const expiry = (lease: Jobs.Lease) => until(Effect.map(row(lease.jobId), ({ expired }) => expired))

/** Every row of every table, with the transaction that wrote it: an update that changes nothing shows too. */
const everything = SqlClient.use(
  (sql) => sql`
  SELECT 'job' AS of, to_jsonb(t) AS row, xmin::text FROM runledger.job_queue t
  UNION ALL SELECT 'attempt', to_jsonb(t), xmin::text FROM runledger.job_attempts t
  UNION ALL SELECT 'event', to_jsonb(t), xmin::text FROM runledger.job_events t
  UNION ALL SELECT 'dead letter', to_jsonb(t), xmin::text FROM runledger.job_dead_letters t
  UNION ALL SELECT 'log', to_jsonb(t), xmin::text FROM runledger.job_logs t
  UNION ALL SELECT 'definition', to_jsonb(t), xmin::text FROM runledger.job_definitions t
  ORDER BY 1, 2`
)

/** Reaps everything, and tells how many of these leases were among it. */
const reap = (...held: ReadonlyArray<Jobs.Lease>) =>
  Effect.map(
    Jobs.reapExpiredLeases({ limit: 1000 }),
    (reaped) => reaped.leases.filter(({ jobId }) => held.some((lease) => lease.jobId === jobId)).length
  )

/** How the attempts of a job ended, in order. */
const endings = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.attempts(TenantScope.admin, jobId), (attempts) =>
    attempts.map(({ endedAs }) => (endedAs._tag === "Some" ? endedAs.value : "live"))
  )

// ---------------------------------------------------------------------------------------------------------------------
// Forcing an order
// ---------------------------------------------------------------------------------------------------------------------

/** A connection of its own, for transactions that stay open. */
const session = Effect.gen(function* () {
  const connection = yield* (yield* SqlClient).reserve
  const run = (text: string, params: ReadonlyArray<unknown> = []) =>
    connection.executeUnprepared(text, params, undefined)
  yield* Effect.addFinalizer(() => Effect.ignore(run("ROLLBACK")))
  return run
})

/** A transaction of another connection that holds the rows of these jobs, until it ends with one of the two. */
const holding = Effect.fnUntraced(function* (jobIds: ReadonlyArray<string>) {
  const run = yield* session
  yield* run("BEGIN")
  const rows = yield* run("SELECT id FROM runledger.job_queue WHERE id = ANY ($1::uuid[]) FOR UPDATE", [jobIds])
  assert.strictEqual(rows.length, jobIds.length)
  return { rollback: run("ROLLBACK"), commit: run("COMMIT") }
})

const parked = 4_711

/** Makes the first fence of a statement wait for an advisory lock: after its snapshot, before its row locks. */
const parking: Transformer = (self, sql) => {
  const [text, params] = self.compile()
  const fence = "AND current_setting('transaction_isolation')"
  return Effect.succeed(
    text.includes(fence)
      ? sql.unsafe(text.replace(fence, `AND (SELECT pg_advisory_xact_lock(${parked})::text) = '' ${fence}`), params)
      : self
  )
}

/** Starts `self`, whose statements (so many) then stand between their snapshot and their row locks until they may go on. */
const park = Effect.fnUntraced(function* <A, E, R>(self: Effect.Effect<A, E, R>, statements = 1) {
  const sql = yield* SqlClient
  const run = yield* session
  yield* run("BEGIN")
  yield* run(`SELECT pg_advisory_xact_lock(${parked})`)
  const fiber = yield* Effect.forkScoped(Effect.provideService(self, CurrentTransformer, parking))
  const standing = Effect.map(
    sql<{ since: Date }>`
      SELECT a.query_start AS since FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE l.locktype = 'advisory' AND l.objid = ${parked} AND NOT l.granted AND a.datname = current_database()`,
    (waiting) => waiting.map(({ since }) => since.getTime())
  )
  yield* until(Effect.map(standing, ({ length }) => length === statements))
  return {
    since: yield* standing,
    goOn: Effect.andThen(run("ROLLBACK"), Fiber.join(fiber))
  }
})

/** Runs all of `all` at once, each under its name. */
const all = <A, E, R>(named: Readonly<Record<string, Effect.Effect<A, E, R>>>) =>
  Effect.map(Effect.all(Object.values(named), { concurrency: "unbounded" }), (answers) =>
    Object.fromEntries(Object.keys(named).map((name, index) => [name, answers[index]]))
  )

const eachWith = (named: Readonly<Record<string, Write>>, held: ReadonlyArray<Jobs.Lease>) =>
  Object.fromEntries(
    Object.entries(named).flatMap(([name, write], index) => {
      const lease = held[index]
      return lease === undefined ? [] : [[name, write(lease)] as const]
    })
  )

const everyOne = <A>(named: Readonly<Record<string, unknown>>, value: A) =>
  Object.fromEntries(Object.keys(named).map((name) => [name, value]))

// ---------------------------------------------------------------------------------------------------------------------

/** Each makes a lease that is not the live one any more, of a job that somebody else may hold. */
const staleHolders: Readonly<
  Record<string, (fresh: { type: string; lease: Jobs.Lease }) => Effect.Effect<Jobs.Lease, unknown, SqlClient>>
> = {
  "of another run": ({ lease }) => Effect.succeed({ ...lease, runNumber: 2 }),
  "of another attempt": ({ lease }) => Effect.succeed({ ...lease, attempt: 2 }),
  "of another worker": ({ lease }) => Effect.succeed({ ...lease, workerId: "holder2" }),
  "of a worker whose name begins alike": ({ lease }) => Effect.succeed({ ...lease, workerId: "hold" }),
  "of a worker whose name differs in case": ({ lease }) => Effect.succeed({ ...lease, workerId: "HOLDER" }),
  "of a job that does not exist": ({ lease }) =>
    Effect.succeed({ ...lease, jobId: Jobs.JobId.make("019ad000-0000-7000-8000-000000000000") }),
  "whose lease expired, was reaped, and claimed again by the same worker": Effect.fnUntraced(function* ({
    type,
    lease
  }) {
    yield* Jobs.markRunning(lease)
    yield* Jobs.heartbeat(lease, { extend: 1 })
    yield* expiry(lease)
    assert.strictEqual(yield* reap(lease), 1)
    assert.deepStrictEqual(yield* next(type), { ...lease, attempt: 2 })
    return lease
  }),
  "whose lease expired and was reaped": Effect.fnUntraced(function* ({ lease }) {
    yield* Jobs.markRunning(lease)
    yield* Jobs.heartbeat(lease, { extend: 1 })
    yield* expiry(lease)
    assert.strictEqual(yield* reap(lease), 1)
    return lease
  }),
  "that failed, and whose retry was claimed by the same worker": Effect.fnUntraced(function* ({ type, lease }) {
    yield* Jobs.completeFailure(lease, retryable)
    assert.deepStrictEqual(yield* next(type), { ...lease, attempt: 2 })
    return lease
  }),
  "that continued, and whose next run was claimed by the same worker": Effect.fnUntraced(function* ({ type, lease }) {
    yield* Jobs.completeContinuation(lease)
    assert.deepStrictEqual(yield* next(type), { ...lease, runNumber: 2 })
    return lease
  }),
  "whose job was canceled": ({ lease }) => Effect.as(Jobs.cancel(TenantScope.admin, lease.jobId), lease),
  "whose job succeeded": ({ lease }) => Effect.as(Jobs.completeSuccess(lease), lease),
  "whose job is in the dead letters": ({ lease }) => Effect.as(Jobs.completeFailure(lease, terminal), lease),
  "that gave its claim back": ({ lease }) => Effect.as(Jobs.releaseUnstarted(lease), lease)
}

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs: the fence", (it) => {
  for (const [holder, make] of Object.entries(staleHolders)) {
    it.effect(`a holder ${holder} is refused by every write, and nothing changes`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const stale = yield* make(yield* leased())
        const before = yield* everything
        for (const [name, write] of Object.entries(everyWrite)) {
          for (const answered of [yield* write(stale), yield* sql.withTransaction(write(stale))]) {
            if (name === "releaseUnstarted") {
              assert.include(["LeaseOwnerMismatch", "UnstartedClaimReleaseNotApplicable"], answered, name)
            } else assert.strictEqual(answered, "LeaseOwnerMismatch", name)
          }
          assert.deepStrictEqual(yield* everything, before, name)
        }
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  }

  it.effect("the holder whom they stand in for is refused by none", () =>
    Effect.gen(function* () {
      const held = yield* leases(Object.keys(everyWrite).length)
      const answers = yield* all(eachWith(everyWrite, held))
      assert.deepStrictEqual(answers, everyOne(everyWrite, "done"))
    })
  )

  it.effect("an expired holder is refused by every write that needs a live lease, and nothing changes", () =>
    Effect.gen(function* () {
      const { lease } = yield* leased(1)
      yield* expiry(lease)
      const before = yield* everything
      for (const [name, write] of Object.entries(writes)) {
        assert.strictEqual(yield* write(lease), "LeaseOwnerMismatch", name)
        assert.deepStrictEqual(yield* everything, before, name)
      }
      // not a write of the holder's work: it gives back what nobody reaped, without costing an attempt
      assert.strictEqual(yield* release(lease), "done")
      assert.deepInclude(yield* row(lease.jobId), { status: "PENDING", attempt: 0 })
    })
  )

  it.effect("stale leases in a batch are refused one by one, and the live ones go through", () =>
    Effect.gen(function* () {
      const [a, b, c] = yield* leases(3)
      assert.isDefined(a)
      assert.isDefined(b)
      assert.isDefined(c)
      const stale = { ...b, attempt: 7 }
      const renewed = yield* Jobs.heartbeatMany([a, stale, c])
      assert.deepStrictEqual(renewed.map(Result.isSuccess), [true, false, true])
      const before = yield* row(b.jobId)
      const completed = yield* Jobs.completeMany([
        { _tag: "Failure", lease: a, ...terminal },
        { _tag: "Success", lease: stale },
        { _tag: "Continuation", lease: c }
      ])
      assert.deepStrictEqual(
        completed.map((result) => (Result.isSuccess(result) ? result.success._tag : told(result.failure))),
        ["DeadLettered", "LeaseOwnerMismatch", "Continued"]
      )
      const after = yield* row(b.jobId)
      assert.deepStrictEqual(after, { ...before, expired: false })
    })
  )
})

/** Whether this job was asked for so many times: then the first answers were that it is busy. */
const asked = (lease: Jobs.Lease, times: number): Effect.Effect<void, never, FaultySqlClient.Faults> =>
  Effect.flatMap(FaultySqlClient.Faults, (faults) =>
    until(
      Effect.map(
        Effect.andThen(
          Effect.yieldNow,
          faults.count(({ params }) => JSON.stringify(params).includes(lease.jobId))
        ),
        (count) => count >= times
      )
    )
  )

const names = Object.keys(everyWrite)

it.layer(FaultySqlClient.layerPg().pipe(Layer.provide(TestDatabase.layerWith({ maxConnections: 40 }))), {
  timeout: "60 seconds"
})("Jobs: the fence and locks", (it) => {
  it.effect("the clock is asked after the row lock: a lease that ran out since the statement began is refused", () =>
    Effect.gen(function* () {
      const held = yield* leases(Object.keys(writes).length, 1500)
      const waiting = yield* park(all(eachWith(writes, held)), held.length)
      const expiries = yield* Effect.forEach(held, ({ jobId }) => Effect.map(row(jobId), (_) => _.lease_expires_at))
      assert.isBelow(Math.max(...waiting.since), Math.min(...expiries.map(Number)), "all statements began in time")
      yield* Effect.forEach(held, expiry)
      const before = yield* everything
      assert.deepStrictEqual(yield* waiting.goOn, everyOne(writes, "LeaseOwnerMismatch"))
      assert.deepStrictEqual(yield* everything, before)
    })
  )

  it.effect("when an earlier locker rolls back after the expiry, every write is refused, and nothing changes", () =>
    Effect.gen(function* () {
      const held = yield* leases(Object.keys(writes).length, 1000)
      const locker = yield* holding(held.map(({ jobId }) => jobId))
      const { clear } = yield* FaultySqlClient.Faults
      yield* clear
      const fiber = yield* Effect.forkChild(all(eachWith(writes, held)))
      yield* Effect.forEach(held, (lease) => asked(lease, 2))
      yield* Effect.forEach(held, expiry)
      const before = yield* everything
      yield* locker.rollback
      assert.deepStrictEqual(yield* Fiber.join(fiber), everyOne(writes, "LeaseOwnerMismatch"))
      assert.deepStrictEqual(yield* everything, before)
    })
  )

  it.effect("when an earlier locker ends before the expiry, every write of the live holder is done", () =>
    Effect.gen(function* () {
      const { clear } = yield* FaultySqlClient.Faults
      for (const end of ["rollback", "commit"] as const) {
        const held = yield* leases(names.length)
        const locker = yield* holding(held.map(({ jobId }) => jobId))
        yield* clear
        const fiber = yield* Effect.forkChild(all(eachWith(everyWrite, held)))
        yield* Effect.forEach(held, (lease) => asked(lease, 2))
        yield* locker[end]
        assert.deepStrictEqual(yield* Fiber.join(fiber), everyOne(everyWrite, "done"))
      }
    })
  )

  it.effect("a row that stays locked is Unavailable, never a lost lease, and the caller's transaction goes on", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* sql`CREATE TABLE own (name text)`
      const held = yield* leases(2 * names.length + 2)
      const canceled = held.slice(-2).map(({ jobId }) => answer(Jobs.cancel(TenantScope.admin, jobId)))
      const plain = eachWith(everyWrite, held)
      const joined = eachWith(everyWrite, held.slice(names.length))
      const inTransaction = Object.entries({ ...joined, cancel: canceled[1] ?? Effect.succeed("none") }).map(
        ([name, write]) =>
          [name, sql.withTransaction(Effect.tap(write, () => sql`INSERT INTO own VALUES (${name})`))] as const
      )
      const locker = yield* holding(held.map(({ jobId }) => jobId))
      const before = yield* everything
      const answers = yield* Effect.all(
        [all({ ...plain, cancel: canceled[0] ?? Effect.succeed("none") }), all(Object.fromEntries(inTransaction))],
        { concurrency: 2 }
      )
      const busy = { ...everyOne(everyWrite, "Unavailable busy"), cancel: "Unavailable busy" }
      assert.deepStrictEqual(answers, [busy, busy])
      assert.deepStrictEqual(yield* everything, before)
      assert.strictEqual((yield* sql`SELECT name FROM own`).length, names.length + 1)
      yield* locker.rollback
      // and nothing was lost: the leases are held as before
      assert.deepStrictEqual(yield* all(eachWith(everyWrite, held)), everyOne(everyWrite, "done"))
    })
  )

  it.effect("one locked row holds up no other of its batch, and is renewed or completed when it is released", () =>
    Effect.gen(function* () {
      const held = yield* leases(5)
      const [, locked] = held
      assert.isDefined(locked)
      const outside = yield* Layer.build(TestDatabase.client(yield* databaseName))
      const others = held.filter((lease) => lease !== locked)
      const seen = (condition: (state: { status: string; lease_expires_at: Date }) => boolean) =>
        Effect.forEach(others, ({ jobId }) => row(jobId)).pipe(
          Effect.map((rows) => rows.every(condition)),
          until,
          Effect.provideContext(outside)
        )
      const lockedRow = Effect.provideContext(row(locked.jobId), outside)

      const beforeRenewal = yield* lockedRow
      const first = yield* holding([locked.jobId])
      const renewal = yield* Effect.forkChild(Jobs.heartbeatMany(held, { extend: "20 hours" }))
      yield* seen((state) => state.lease_expires_at.getTime() > beforeRenewal.lease_expires_at.getTime() + 3_600_000)
      assert.deepStrictEqual(yield* lockedRow, beforeRenewal)
      yield* first.rollback
      assert.deepStrictEqual((yield* Fiber.join(renewal)).map(Result.isSuccess), [true, true, true, true, true])
      assert.isAbove(Number((yield* lockedRow).lease_expires_at), Number(beforeRenewal.lease_expires_at) + 3_600_000)

      const second = yield* holding([locked.jobId])
      const completion = yield* Effect.forkChild(
        Jobs.completeMany(held.map((lease) => ({ _tag: "Success", lease, output: lease.jobId })))
      )
      yield* seen(({ status }) => status === "SUCCEEDED")
      assert.strictEqual((yield* lockedRow).status, "LEASED")
      yield* second.commit
      assert.deepStrictEqual((yield* Fiber.join(completion)).map(Result.isSuccess), [true, true, true, true, true])
      assert.strictEqual((yield* lockedRow).status, "SUCCEEDED")
      for (const { jobId } of held) assert.deepStrictEqual(yield* endings(jobId), ["SUCCEEDED"])
    })
  )

  it.effect("one row of a batch that stays locked is answered alone", () =>
    Effect.gen(function* () {
      const held = yield* leases(3)
      const [, locked] = held
      assert.isDefined(locked)
      const locker = yield* holding([locked.jobId])
      const renewals = yield* Jobs.heartbeatMany(held)
      const completions = yield* Jobs.completeMany([
        { _tag: "Success", lease: locked },
        ...held.filter((lease) => lease !== locked).map((lease) => ({ _tag: "Continuation", lease }) as const)
      ])
      const shown = (results: ReadonlyArray<Result.Result<unknown, Reason>>) =>
        results.map((result) => (Result.isSuccess(result) ? "done" : told(result.failure)))
      assert.deepStrictEqual(shown(renewals), ["done", "Unavailable busy", "done"])
      assert.deepStrictEqual(shown(completions), ["Unavailable busy", "done", "done"])
      yield* locker.rollback
      assert.strictEqual(yield* answer(Jobs.completeSuccess(locked)), "done")
    })
  )

  it.effect("a heartbeat between snapshot and row lock of a write does not lose the write", () =>
    Effect.gen(function* () {
      const held = yield* leases(names.length + 1)
      const last = held.at(-1)
      assert.isDefined(last)
      const waiting = yield* park(
        all({ ...eachWith(everyWrite, held), cancel: answer(Jobs.cancel(TenantScope.admin, last.jobId)) }),
        held.length
      )
      const renewed = yield* Jobs.heartbeatMany(held, { extend: "9 hours" })
      assert.isTrue(renewed.every(Result.isSuccess))
      assert.deepStrictEqual(yield* waiting.goOn, { ...everyOne(everyWrite, "done"), cancel: "done" })
    })
  )

  it.effect("progress between snapshot and row lock of a completion is kept, and each event has its own number", () =>
    Effect.gen(function* () {
      const { lease } = yield* leased()
      const waiting = yield* park(Jobs.completeSuccess(lease, { done: 7 }))
      yield* Jobs.markRunning(lease, { done: 5, total: 10, checkpoint: "five" })
      const { progress } = yield* waiting.goOn
      assert.deepStrictEqual([progress.done, progress.total].map(String), ["some(7)", "some(10)"])
      const events = yield* Jobs.events(TenantScope.admin, lease.jobId)
      assert.deepStrictEqual(
        events.map(({ seq, type }) => [seq, type]),
        [
          [1, "ENQUEUED"],
          [2, "LEASED"],
          [3, "STAGE_CHANGED"],
          [4, "PROGRESS"],
          [5, "SUCCEEDED"]
        ]
      )
    })
  )

  const winners: Readonly<Record<string, (lease: Jobs.Lease) => Effect.Effect<void, QueryError, SqlClient>>> = {
    CANCELED: (lease: Jobs.Lease) => Effect.asVoid(Jobs.cancel(TenantScope.admin, lease.jobId)),
    SUCCEEDED: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeSuccess(lease, { output: "winner" })),
    CONTINUED: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeContinuation(lease)),
    FAILED: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeFailure(lease, terminal))
  }
  for (const [ending, win] of Object.entries(winners)) {
    it.effect(`a write whose attempt is ${ending} between its snapshot and its row lock is refused`, () =>
      Effect.gen(function* () {
        const held = yield* leases(names.length)
        const waiting = yield* park(all(eachWith(everyWrite, held)), held.length)
        yield* Effect.forEach(held, win)
        const before = yield* everything
        const { releaseUnstarted, ...answers } = yield* waiting.goOn
        assert.deepStrictEqual(answers, everyOne(writes, "LeaseOwnerMismatch"))
        assert.strictEqual(releaseUnstarted, "UnstartedClaimReleaseNotApplicable")
        assert.deepStrictEqual(yield* everything, before)
        for (const { jobId } of held) assert.deepStrictEqual(yield* endings(jobId), [ending])
      })
    )
  }

  it.effect("a write whose lease expires and is reaped between its snapshot and its row lock is refused", () =>
    Effect.gen(function* () {
      const held = yield* leases(Object.keys(writes).length, 1500)
      yield* Effect.forEach(held, (lease) => Jobs.markRunning(lease))
      const waiting = yield* park(all(eachWith(writes, held)), held.length)
      yield* Effect.forEach(held, expiry)
      assert.strictEqual(yield* reap(...held), held.length)
      const before = yield* everything
      assert.deepStrictEqual(yield* waiting.goOn, everyOne(writes, "LeaseOwnerMismatch"))
      assert.deepStrictEqual(yield* everything, before)
      for (const { jobId } of held) assert.deepStrictEqual(yield* endings(jobId), ["LEASE_EXPIRED"])
    })
  )

  it.effect("a cancellation whose job is completed before its row lock is refused", () =>
    Effect.gen(function* () {
      const { lease } = yield* leased()
      const waiting = yield* park(answer(Jobs.cancel(TenantScope.admin, lease.jobId)))
      yield* Jobs.completeSuccess(lease, { output: "winner" })
      const before = yield* everything
      assert.strictEqual(yield* waiting.goOn, "InvalidStateTransition")
      assert.deepStrictEqual(yield* everything, before)
    })
  )

  it.effect("completions and cancellations at once: of each pair exactly one wins, and the ledger says which", () =>
    Effect.gen(function* () {
      const held = yield* leases(60)
      const results = yield* Effect.forEach(
        held,
        (lease, index) => {
          const complete = Effect.isSuccess(Jobs.completeSuccess(lease))
          const cancel = Effect.isSuccess(Jobs.cancel(TenantScope.admin, lease.jobId))
          return index % 2 === 0
            ? Effect.all({ complete, cancel }, { concurrency: 2 })
            : Effect.all({ cancel, complete }, { concurrency: 2 })
        },
        { concurrency: 15 }
      )
      const wins = { SUCCEEDED: 0, CANCELED: 0 }
      for (const [index, { complete, cancel }] of results.entries()) {
        const lease = held[index]
        assert.isDefined(lease)
        assert.notStrictEqual(complete, cancel)
        const winner = complete ? "SUCCEEDED" : "CANCELED"
        wins[winner]++
        assert.deepStrictEqual(yield* endings(lease.jobId), [winner])
        assert.strictEqual((yield* row(lease.jobId)).status, winner)
      }
      assert.isAbove(Math.min(wins.SUCCEEDED, wins.CANCELED), 0, "both kinds of races were run")
    })
  )

  const holders = { heartbeat: writes.heartbeat, completeSuccess: writes.completeSuccess }
  for (const [first, write] of Object.entries(holders)) {
    if (write === undefined) continue
    it.effect(`the reaper takes nothing from a ${first} that was in time and commits after the old expiry`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const { lease } = yield* leased(600)
        const written = yield* FaultySqlClient.makeGate
        const holder = yield* Effect.forkChild(sql.withTransaction(Effect.tap(write(lease), written.pass)))
        yield* written.reached
        yield* expiry(lease)
        // it skips what is locked
        assert.strictEqual(yield* reap(lease), 0)
        // and it looks again at what is committed between its snapshot and its row lock
        const reaper = yield* park(reap(lease))
        yield* written.open
        assert.strictEqual(yield* Fiber.join(holder), "done")
        assert.strictEqual(yield* reaper.goOn, 0)
        assert.deepStrictEqual(yield* endings(lease.jobId), [first === "heartbeat" ? "live" : "SUCCEEDED"])
      })
    )

    it.effect(`a ${first} is refused while the reaper's transaction is open, however that ends`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const faults = yield* FaultySqlClient.Faults
        for (const ends of ["commits", "rolls back"]) {
          const { lease } = yield* leased(1)
          yield* expiry(lease)
          const gate = yield* FaultySqlClient.makeGate
          const reaper = yield* Effect.forkChild(
            Effect.exit(
              sql.withTransaction(
                Effect.gen(function* () {
                  const reaped = yield* reap(lease)
                  yield* gate.pass
                  if (ends === "rolls back") return yield* Effect.fail("no")
                  return reaped
                })
              )
            )
          )
          yield* gate.reached
          yield* faults.clear
          const holder = yield* Effect.forkChild(write(lease))
          yield* asked(lease, 2)
          yield* gate.open
          const exit = yield* Fiber.join(reaper)
          assert.deepStrictEqual(exit, ends === "commits" ? Exit.succeed(1) : Exit.fail("no"))
          assert.strictEqual(yield* Fiber.join(holder), "LeaseOwnerMismatch")
          assert.strictEqual((yield* row(lease.jobId)).status, ends === "commits" ? "PENDING" : "LEASED")
        }
      })
    )
  }
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs: one shared connection", (it) => {
  it.effect("no statement waits on it for a locked row: other operations go on meanwhile", () =>
    Effect.gen(function* () {
      const database = yield* databaseName
      const held = yield* leases(names.length + 1)
      const free = (yield* leased()).lease
      const pending = yield* makeType
      const { jobId } = yield* Jobs.enqueue(pending, null)
      const shared = yield* Layer.build(
        FaultySqlClient.layerPg().pipe(
          Layer.provide(
            TestDatabase.client(database, { multiplex: true, maxConnections: 1, applicationName: "shared" })
          )
        )
      )
      const locker = yield* holding([...held.map((lease) => lease.jobId), jobId])
      const last = held.at(-1)
      assert.isDefined(last)
      const locked = yield* Effect.forkChild(
        all({ ...eachWith(everyWrite, held), cancel: answer(Jobs.cancel(TenantScope.admin, last.jobId)) }).pipe(
          Effect.provideContext(shared)
        )
      )
      yield* Effect.forEach(held, (lease) => asked(lease, 2)).pipe(Effect.provideContext(shared))
      // every kind of statement has been on the connection and is coming back; behind them all others pass
      yield* Effect.gen(function* () {
        assert.deepStrictEqual(yield* Jobs.claim({ workerId: "w", types: [pending], limit: 10 }), [])
        assert.deepStrictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases, [])
        assert.strictEqual((yield* Jobs.enqueue(pending, null)).disposition, "inserted")
        for (let i = 0; i < 20; i++) yield* Jobs.heartbeat(free)
        assert.strictEqual((yield* Jobs.attempts(TenantScope.admin, free.jobId)).length, 1)
        yield* Jobs.completeSuccess(free)
      }).pipe(Effect.provideContext(shared))
      assert.isUndefined(locked.pollUnsafe(), "the rows are still locked, and still asked for")
      yield* locker.rollback
      assert.deepStrictEqual(yield* Fiber.join(locked), { ...everyOne(everyWrite, "done"), cancel: "done" })
      const backends = yield* SqlClient.use(
        (sql) => sql`SELECT FROM pg_stat_activity WHERE application_name = 'shared'`
      )
      assert.strictEqual(backends.length, 1)
    })
  )
})
