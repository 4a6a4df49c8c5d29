/**
 * Statements that are broken on purpose, each in one way, and the checks that notice. A check passes on the statements as they
 * are and fails on every mutant that names it: a condition that no check would miss is not there for nothing.
 */
import { assert, it } from "@effect/vitest"
import { Context, Data, type Duration, Effect, Exit, Fiber, Layer, Option, Schema } from "effect"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import { StatementClock } from "../src/StatementClock.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { Statements, unchanged } = MutatedSqlClient

// ---------------------------------------------------------------------------------------------------------------------
// The world of a check
// ---------------------------------------------------------------------------------------------------------------------

/** A second client, for what others do meanwhile. */
class Others extends Context.Service<Others, SqlClient>()("test/Others") {}

type World = SqlClient | MutatedSqlClient.Statements | Others

type Check = Effect.Effect<void, unknown, World>

const live = TestClock.withLive

// the pools live on the clock of the machine, the statements on TestClock
const layer = Layer.unwrap(
  Effect.gen(function* () {
    const [row] = yield* SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database() AS name`)
    const connect = live(
      Effect.map(
        Layer.build(Layer.fresh(TestDatabase.client(row?.name ?? "", { maxConnections: 4 }))),
        Context.get(SqlClient)
      )
    )
    return Layer.mergeAll(Layer.effect(SqlClient, connect), Layer.effect(Others, connect))
  })
).pipe(Layer.provideMerge(TestDatabase.layerTestClock), Layer.provideMerge(Layer.succeed(NotifyInterval, 0)))

const jobType = "mutant"
const organization = "0197c000-0000-7000-8000-00000000000a"

const startOver = unchanged(
  Effect.gen(function* () {
    const sql = yield* Others
    for (const table of [
      "job_queue",
      "job_attempts",
      "job_events",
      "job_dead_letters",
      "workflow_steps",
      "workflow_runs"
    ]) {
      yield* sql`DELETE FROM runledger.${sql(table)}`
    }
    yield* JobDefinitions.upsert(jobType, { retry: { initial: "1 second", jitter: 0 } })
  })
)

/** Waits on the machine's clock until the condition holds. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  live(
    Effect.repeat(Effect.andThen(Effect.sleep("2 millis"), condition), { until: (holds) => holds }).pipe(
      Effect.timeout("10 seconds")
    )
  )

const isWaiting = Effect.gen(function* () {
  const sql = yield* Others
  const rows = yield* sql`
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
  return rows.length > 0
})

const fails = (message: string) => Effect.fail(new Error(message))

/** The reason why `self` fails; a success is a failure of the check. */
const reasonOf = <A, R>(self: Effect.Effect<A, QueryError, R>) =>
  Effect.matchEffect(self, {
    onFailure: ({ reason }) => Effect.succeed(reason),
    onSuccess: () => fails("it was not refused")
  })

const rowOf = (jobId: string) =>
  Others.use((sql) => Effect.map(sql`SELECT * FROM runledger.job_queue WHERE id = ${jobId}::uuid`, ([row]) => row))

const enqueue = (options: Jobs.EnqueueOptions = {}) =>
  unchanged(Effect.map(Jobs.enqueue(jobType, { n: 1 }, options), ({ jobId }) => jobId))

const claimOne = Effect.fnUntraced(function* (how: "claim" | "claimPrestart" = "claim", workerId = "worker-1") {
  const [job] = yield* unchanged(
    (how === "claim" ? Jobs.claim : Jobs.claimPrestart)({ workerId, types: [jobType], limit: 1, lease: "10 seconds" })
  )
  return job === undefined ? yield* fails("nothing to claim") : job.lease
})

/** A new job and its lease. */
const leased = (how: "claim" | "claimPrestart" = "claim", options: Jobs.EnqueueOptions = {}) =>
  Effect.andThen(enqueue(options), claimOne(how))

const claimAll = (limit = 10, types: Jobs.ClaimOptions["types"] = [jobType]) =>
  Jobs.claim({ workerId: "worker-2", types, limit, lease: "10 seconds" })

class GivenBack<A, E> extends Data.TaggedError("GivenBack")<{ readonly exit: () => Exit.Exit<A, E> }> {}

/** Holds a lock of the job's row while `self` runs, as another transaction would; then rolls back. */
const whileLocked = <A, E, R>(
  jobId: string,
  mode: "FOR NO KEY UPDATE" | "FOR KEY SHARE",
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | SqlError, R | Others> =>
  Others.use((sql) =>
    sql`SELECT FROM runledger.job_queue WHERE id = ${jobId}::uuid ${sql.literal(mode)}`.pipe(
      Effect.andThen(Effect.exit(self)),
      Effect.flatMap((exit) => Effect.fail(new GivenBack({ exit: () => exit }))),
      sql.withTransaction,
      Effect.catchTag("GivenBack", ({ exit }) => exit())
    )
  )

// ---------------------------------------------------------------------------------------------------------------------
// The operations, and how their statements are recognized
// ---------------------------------------------------------------------------------------------------------------------

interface LeaseWrite {
  readonly statement: string
  readonly run: (lease: Jobs.Lease) => Effect.Effect<unknown, QueryError, SqlClient>
  /** The claim that it needs. */
  readonly claim: "claim" | "claimPrestart"
  readonly endedAs: string | undefined
  readonly lastEvent: string
}

const writes = {
  heartbeat: {
    statement: "renewed = q.attempt_started_at IS NOT NULL",
    run: (lease) => Jobs.heartbeat(lease, { extend: "1 minute" }),
    claim: "claim",
    endedAs: undefined,
    lastEvent: "STAGE_CHANGED"
  },
  progress: {
    statement: "AS starts\n",
    run: (lease) => Jobs.updateProgress(lease, { done: 1 }),
    claim: "claim",
    endedAs: undefined,
    lastEvent: "PROGRESS"
  },
  success: {
    statement: "status = 'SUCCEEDED'",
    run: (lease) => Jobs.completeSuccess(lease, { output: 1 }),
    claim: "claim",
    endedAs: "SUCCEEDED",
    lastEvent: "SUCCEEDED"
  },
  failure: {
    statement: "'FAILED' AS ended_as",
    run: (lease) => Jobs.completeFailure(lease, { kind: "RETRYABLE", code: "code", message: "it broke" }),
    claim: "claim",
    endedAs: "FAILED",
    lastEvent: "RETRY_SCHEDULED"
  },
  continuation: {
    statement: "status_reason = 'HANDLER_CONTINUATION'",
    run: (lease) => Jobs.completeContinuation(lease),
    claim: "claim",
    endedAs: "CONTINUED",
    lastEvent: "REQUEUED"
  },
  release: {
    statement: "'not applicable'",
    run: (lease) => Jobs.releaseUnstarted(lease),
    claim: "claimPrestart",
    endedAs: undefined,
    lastEvent: "REQUEUED"
  },
  cancel: {
    statement: "status = 'CANCELED'",
    run: ({ jobId }) => Jobs.cancel(TenantScope.global, jobId),
    claim: "claim",
    endedAs: "CANCELED",
    lastEvent: "CANCELED"
  },
  reaper: {
    statement: "'LEASE_EXPIRED_BEFORE_RUNNING_PERSISTED'",
    run: () =>
      Effect.andThen(
        TestClock.adjust("10 seconds"),
        Effect.flatMap(Jobs.reapExpiredLeases({ limit: 10 }), ({ leases }) =>
          leases.length === 1 ? Effect.void : Effect.die("not reaped")
        )
      ),
    claim: "claim",
    endedAs: "LEASE_EXPIRED",
    lastEvent: "RETRY_SCHEDULED"
  }
} as const satisfies Record<string, LeaseWrite>

type Write = keyof typeof writes
const write = (name: Write): LeaseWrite => writes[name]

const claimStatement = "WITH RECURSIVE input"
const enqueueStatement = "jsonb_to_recordset("
const enqueueOneStatement = "FROM runledger.job_definitions d\n      WHERE d.job_type"

type Fenced = "heartbeat" | "progress" | "success" | "failure" | "continuation"
const fenced: ReadonlyArray<Fenced> = ["heartbeat", "progress", "success", "failure", "continuation"]

// ---------------------------------------------------------------------------------------------------------------------
// Checks
// ---------------------------------------------------------------------------------------------------------------------

/** `run` is refused, and leaves the row as it is. */
const isRefused = Effect.fnUntraced(function* (name: Write, lease: Jobs.Lease) {
  const before = yield* rowOf(lease.jobId)
  const reason = yield* reasonOf(write(name).run(lease))
  assert.include(["LeaseOwnerMismatch", "UnstartedClaimReleaseNotApplicable"], reason._tag)
  assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
})

const refusesAnother = {
  run: (name) =>
    Effect.gen(function* () {
      const stale = yield* leased()
      yield* unchanged(Jobs.completeContinuation(stale))
      yield* claimOne(write(name).claim)
      yield* isRefused(name, stale)
    }),
  attempt: (name) =>
    Effect.gen(function* () {
      const stale = yield* leased()
      yield* unchanged(Jobs.completeFailure(stale, { kind: "RETRYABLE", code: "code", message: "it broke" }))
      yield* TestClock.adjust("1 second")
      yield* claimOne(write(name).claim)
      yield* isRefused(name, stale)
    }),
  worker: (name) =>
    Effect.gen(function* () {
      const stale = yield* leased("claimPrestart")
      yield* unchanged(Jobs.releaseUnstarted(stale))
      yield* claimOne(write(name).claim, "worker-2")
      yield* isRefused(name, stale)
    })
} satisfies Record<string, (name: Write) => Check>

const refusesExpired = (name: Fenced): Check =>
  Effect.gen(function* () {
    const lease = yield* leased()
    yield* TestClock.adjust("10 seconds")
    yield* isRefused(name, lease)
  })

const onDatabaseClock = Effect.provideService(StatementClock, "database")

/** A lease by the clock of the database. */
const leasedFor = Effect.fnUntraced(function* (lease: Duration.Input) {
  yield* onDatabaseClock(enqueue())
  const [job] = yield* Jobs.claim({ workerId: "worker-1", types: [jobType], limit: 1, lease }).pipe(
    unchanged,
    onDatabaseClock
  )
  return job === undefined ? yield* fails("nothing to claim") : job.lease
})

/** The lease ends while the statement waits for the row, whose locker then rolls back. */
const refusesWhatExpiredInAWait = (name: Fenced): Check =>
  Effect.scoped(
    Effect.gen(function* () {
      const statements = yield* Statements
      const others = yield* Others
      const lease = yield* leasedFor("600 millis")
      const { jobId } = lease
      const before = yield* rowOf(jobId)
      const hasEnded = Effect.map(
        others`SELECT FROM runledger.job_queue WHERE id = ${jobId}::uuid AND lease_expires_at <= clock_timestamp()`,
        (rows) => rows.length === 1
      )
      const fiber = yield* whileLocked(
        lease.jobId,
        "FOR NO KEY UPDATE",
        Effect.gen(function* () {
          const fiber = yield* Effect.forkScoped(Effect.exit(write(name).run(lease).pipe(onDatabaseClock)))
          const { statement } = write(name)
          // it asks again, or it waits
          yield* until(Effect.map(isWaiting, (waiting) => waiting || statements.seen(statement) > 1))
          yield* until(hasEnded)
          return fiber
        })
      )
      const reason = yield* reasonOf(Effect.flatten(Fiber.join(fiber)))
      assert.strictEqual(reason._tag, "LeaseOwnerMismatch")
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
    })
  )

/** The lease ends while the statement is on its way to the row: held up before it locks, by a lock that we hold. */
const refusesWhatExpiredOnTheWay = (name: Fenced): Check =>
  Effect.scoped(
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const others = yield* Others
      yield* Effect.acquireRelease(
        Effect.andThen(
          others`CREATE SCHEMA slow`,
          others`
            CREATE FUNCTION slow.current_setting(text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
            BEGIN
              PERFORM pg_catalog.pg_advisory_xact_lock_shared(4711);
              RETURN pg_catalog.current_setting($1);
            END
            $$`
        ),
        () => Effect.orDie(others`DROP SCHEMA slow CASCADE`)
      )
      const lease = yield* leasedFor("1 minute")
      const slow = sql.withTransaction(
        Effect.andThen(
          sql`SET LOCAL search_path TO slow, pg_catalog`,
          Effect.exit(write(name).run(lease).pipe(onDatabaseClock))
        )
      )
      const fiber = yield* others.withTransaction(
        Effect.gen(function* () {
          yield* others`SELECT pg_advisory_xact_lock(4711)`
          const fiber = yield* Effect.forkScoped(slow)
          yield* until(isWaiting)
          return fiber
        }).pipe(
          Effect.tap(
            // not in the transaction that holds the statement up: it ends the lease before
            Effect.updateContext(
              others`
                UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() WHERE id = ${lease.jobId}::uuid`,
              (context: Context.Context<never>) => Context.omit(others.transactionService)(context)
            )
          )
        )
      )
      const before = yield* rowOf(lease.jobId)
      const reason = yield* reasonOf(Effect.orDie(Fiber.join(fiber)).pipe(Effect.flatten))
      assert.strictEqual(reason._tag, "LeaseOwnerMismatch")
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
    })
  )

/** Another transaction holds the row: the statement asks again, and no backend ever waits. */
const neverWaits = (name: Write): Check =>
  Effect.scoped(
    Effect.gen(function* () {
      const statements = yield* Statements
      const { statement, run, claim } = write(name)
      const lease = yield* leased(claim)
      if (name === "reaper") {
        const neighbour = yield* leased(claim)
        yield* whileLocked(neighbour.jobId, "FOR NO KEY UPDATE", neverWaiting(run(lease)))
        return
      }
      const fiber = yield* whileLocked(
        lease.jobId,
        "FOR NO KEY UPDATE",
        Effect.gen(function* () {
          const fiber = yield* Effect.forkScoped(run(lease))
          yield* until(
            Effect.flatMap(isWaiting, (waiting) =>
              waiting ? fails("it waits for a lock") : Effect.sync(() => statements.seen(statement) > 1)
            )
          )
          return fiber
        })
      )
      yield* Fiber.join(fiber)
    })
  )

/** `self`, unless it waits for a lock. */
const neverWaiting = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.raceFirst(self, Effect.andThen(until(isWaiting), fails("it waits for a lock")))

/** A row that refers to the job by a foreign key, in a transaction that is still open, is no obstacle. */
const passesForeignKeys = (name: Write): Check =>
  Effect.gen(function* () {
    const statements = yield* Statements
    const { statement, run, claim } = write(name)
    const lease = yield* leased(claim)
    const again = Effect.andThen(
      until(Effect.sync(() => statements.seen(statement) > 1)),
      fails("it found the row locked")
    )
    yield* whileLocked(lease.jobId, "FOR KEY SHARE", Effect.raceFirst(run(lease), again))
  })

/** The rows are sorted before they are locked, whatever order they are found in. */
const locksInOrder = (name: Write, keys: ReadonlyArray<string>): Check =>
  Effect.gen(function* () {
    const others = yield* Others
    const { statement, run, claim } = write(name)
    yield* run(yield* leased(claim))
    const sent = (yield* Statements).last(statement)
    if (sent === undefined) return yield* fails("nothing was sent")
    const [row] = yield* others.withTransaction(
      Effect.andThen(
        others`SET LOCAL enable_indexscan = off`,
        unchanged(others.unsafe<Record<string, unknown>>(`EXPLAIN (FORMAT JSON) ${sent.text}`, sent.params))
      )
    )
    const [explained] = yield* Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ Plan })))(row?.["QUERY PLAN"])
    const locks = explained === undefined ? [] : locksIn(explained.Plan)
    assert.isNotEmpty(locks)
    for (const { Plans = [] } of locks) {
      const below = Plans.find((plan) => plan["Parent Relationship"] === "Outer")
      assert.deepStrictEqual(
        below?.["Sort Key"]?.map((key) => key.replace(/^\w+\./, "")),
        keys
      )
    }
  })

interface Plan {
  readonly "Node Type": string
  readonly "Parent Relationship"?: string | undefined
  readonly "Sort Key"?: ReadonlyArray<string> | undefined
  readonly Plans?: ReadonlyArray<Plan> | undefined
}
const Plan = Schema.Struct({
  "Node Type": Schema.String,
  "Parent Relationship": Schema.optional(Schema.String),
  "Sort Key": Schema.optional(Schema.Array(Schema.String)),
  Plans: Schema.optional(Schema.Array(Schema.suspend((): Schema.Codec<Plan> => Plan)))
})
const locksIn = (plan: Plan): ReadonlyArray<Plan> => [
  ...(plan["Node Type"] === "LockRows" ? [plan] : []),
  ...(plan.Plans ?? []).flatMap(locksIn)
]

const writesTheAttempt = (name: Write): Check =>
  Effect.gen(function* () {
    const { run, claim, endedAs } = write(name)
    const lease = yield* leased(claim)
    yield* run(lease)
    const attempts = yield* unchanged(Jobs.attempts(TenantScope.admin, lease.jobId))
    assert.deepStrictEqual(
      attempts.map((attempt) => [attempt.runNumber, attempt.attempt, attempt.workerId, attempt.endedAs]),
      [[1, 1, "worker-1", Option.fromUndefinedOr(endedAs)]]
    )
  })

const numbersTheEvents = (name: Write): Check =>
  Effect.gen(function* () {
    const { run, claim, lastEvent } = write(name)
    const lease = yield* leased(claim)
    yield* run(lease)
    yield* events(lease.jobId, lastEvent)
    if (name === "progress") {
      yield* run(lease)
      yield* events(lease.jobId, lastEvent)
    }
  })

const events = Effect.fnUntraced(function* (jobId: Jobs.JobId, last: string) {
  const events = yield* unchanged(Jobs.events(TenantScope.admin, jobId))
  const row = yield* rowOf(jobId)
  assert.deepStrictEqual(
    events.map(({ seq }) => seq),
    events.map((_, i) => i + 1)
  )
  assert.strictEqual(row?.event_seq, events.length)
  assert.strictEqual(events.at(-1)?.type, last)
})

const clearsTheLease = (name: Write): Check =>
  Effect.gen(function* () {
    const { run, claim } = write(name)
    const lease = yield* leased(claim)
    if (claim === "claim") yield* unchanged(Jobs.heartbeat(lease, { extend: "10 seconds" }))
    yield* run(lease)
    const row = yield* rowOf(lease.jobId)
    assert.deepStrictEqual(
      [row?.worker_id, row?.leased_at, row?.lease_ms, row?.claim_origin, row?.attempt_started_at, row?.renewed],
      [null, null, null, null, null, false]
    )
    assert.deepStrictEqual([row?.leased_seq, row?.started_seq, row?.last_heartbeat_at], [null, null, null])
    assert.strictEqual(row?.lease_expires_at === null, name !== "cancel")
  })

/** In a REPEATABLE READ transaction the operation is refused, and the transaction goes on. */
const refusesIsolation = (
  self: Effect.Effect<unknown, QueryError | SqlError | Error, World>,
  prepare: Check = Effect.void
): Check =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* prepare
    const error = yield* sql
      .withTransaction(Effect.flip(self))
      .pipe(Effect.provideService(BeginTransaction, "BEGIN ISOLATION LEVEL REPEATABLE READ"))
    assert.strictEqual("reason" in error ? error.reason._tag : error, "UnsupportedIsolation")
  })

const claimedIds = (jobs: ReadonlyArray<Jobs.ClaimedJob>) => jobs.map(({ lease }) => lease.jobId)

/** The disposition of the failure of a lease. */
const failedAs = (lease: Jobs.Lease, options: Partial<Jobs.FailureOptions> = {}) =>
  Jobs.completeFailure(lease, { kind: "RETRYABLE", code: "code", message: "it broke", ...options })

const reap = Effect.map(Jobs.reapExpiredLeases({ limit: 10 }), ({ leases }) => leases)

const keyed = (options: Jobs.EnqueueOptions = {}, payload: Schema.Json = 1) =>
  Jobs.enqueue(jobType, payload, { idempotencyKey: "key", ...options })

/** Makes a leased job the only step of a run. */
const inWorkflow = (jobId: string) =>
  Others.use((sql) =>
    Effect.all([
      sql`
        INSERT INTO runledger.workflow_runs (id, workflow_type, steps_total, steps_open, started_at, created_at, updated_at)
        VALUES (${organization}::uuid, 'test', 1, 1, now(), now(), now())`,
      sql`
        INSERT INTO runledger.workflow_steps (
          id, workflow_run_id, step_key, job_type, priority, max_attempts, timeout_seconds, stage, status, job_id, created_at,
          updated_at
        )
        VALUES (
          ${organization}::uuid, ${organization}::uuid, 'only', ${jobType}, 0, 3, 300, 'queued', 'RUNNING', ${jobId}::uuid,
          now(), now()
        )`,
      sql`
        UPDATE runledger.job_queue
        SET workflow_run_id = ${organization}::uuid, workflow_step_id = ${organization}::uuid
        WHERE id = ${jobId}::uuid`
    ])
  )

const stepStatus = Others.use((sql) =>
  Effect.map(sql`SELECT status FROM runledger.workflow_steps`, ([row]) => row?.status)
)

/** The lease of the only job, as its row has it. */
const claimedBefore = Effect.gen(function* () {
  const sql = yield* Others
  const [row] = yield* sql<{ id: string }>`SELECT id FROM runledger.job_queue`
  return { jobId: Jobs.JobId.make(row?.id ?? ""), runNumber: 1, attempt: 1, workerId: "worker-1" }
})

const perWrite = <Name extends Write>(title: string, names: ReadonlyArray<Name>, check: (name: Name) => Check) =>
  names.map((name): readonly [string, Check] => [`${name} ${title}`, check(name)])

const everyWrite: ReadonlyArray<Write> = [
  "heartbeat",
  "progress",
  "success",
  "failure",
  "continuation",
  "release",
  "cancel",
  "reaper"
]
const ending: ReadonlyArray<Write> = ["success", "failure", "continuation", "cancel", "reaper"]
const batched: ReadonlyArray<Write> = ["heartbeat", "success", "failure", "continuation"]
const parts = ["run", "attempt", "worker"] as const

const checks: ReadonlyMap<string, Check> = new Map<string, Check>([
  ...parts.flatMap((part) =>
    perWrite(`refuses another ${part}`, [...fenced, "release"] as const, (name) => refusesAnother[part](name))
  ),
  ...perWrite("refuses an expired lease", fenced, refusesExpired),
  ...perWrite("refuses a lease that expired in a wait", fenced, refusesWhatExpiredInAWait),
  ...perWrite("refuses a lease that expired on the way", fenced, refusesWhatExpiredOnTheWay),
  ...perWrite("never waits", everyWrite, neverWaits),
  ...perWrite("passes foreign keys", everyWrite, passesForeignKeys),
  ...perWrite("locks by id", batched, (name) => locksInOrder(name, ["id"])),
  ["reaper locks by end and id", locksInOrder("reaper", ["lease_expires_at", "id"])],
  ...perWrite("writes the attempt", ending, writesTheAttempt),
  ...perWrite("numbers the events", everyWrite, numbersTheEvents),
  ...perWrite("clears the lease", [...ending, "release"] as const, clearsTheLease),
  ...perWrite("refuses other isolations", everyWrite, (name) =>
    name === "reaper"
      ? refusesIsolation(Jobs.reapExpiredLeases({ limit: 10 }))
      : refusesIsolation(
          Effect.flatMap(claimedBefore, (lease) => write(name).run(lease)),
          leased(write(name).claim)
        )
  ),

  // claim
  ["claim refuses other isolations", refusesIsolation(claimAll())],
  [
    "claim never waits",
    Effect.gen(function* () {
      const [locked, free] = [yield* enqueue(), yield* enqueue()]
      const claimed = yield* whileLocked(locked, "FOR NO KEY UPDATE", neverWaiting(claimAll()))
      assert.deepStrictEqual(claimedIds(claimed), [free])
    })
  ],
  [
    "claim passes foreign keys",
    Effect.gen(function* () {
      const jobId = yield* enqueue()
      assert.deepStrictEqual(claimedIds(yield* whileLocked(jobId, "FOR KEY SHARE", claimAll())), [jobId])
    })
  ],
  [
    "claim takes a job once",
    Effect.gen(function* () {
      yield* leased()
      assert.deepStrictEqual(yield* claimAll(), [])
    })
  ],
  [
    "claim takes the rest of a lane",
    Effect.gen(function* () {
      yield* leased()
      const next = yield* enqueue()
      assert.deepStrictEqual(claimedIds(yield* claimAll()), [next])
    })
  ],
  [
    "claim leaves what is not due",
    Effect.gen(function* () {
      const due = yield* enqueue()
      yield* enqueue({ delay: "1 hour" })
      assert.deepStrictEqual(claimedIds(yield* claimAll()), [due])
    })
  ],
  [
    "claim leaves newer payloads",
    Effect.gen(function* () {
      yield* enqueue({ payloadVersion: 2 })
      assert.deepStrictEqual(yield* claimAll(), [])
    })
  ],
  [
    "claim leaves newer payloads behind older ones",
    Effect.gen(function* () {
      const known = yield* enqueue()
      yield* enqueue({ payloadVersion: 2 })
      assert.deepStrictEqual(claimedIds(yield* claimAll()), [known])
    })
  ],
  [
    "claim takes the highest priority first",
    Effect.gen(function* () {
      yield* enqueue({ priority: 1 })
      yield* TestClock.adjust("1 second")
      const urgent = yield* enqueue({ priority: 9 })
      assert.deepStrictEqual(claimedIds(yield* claimAll(1)), [urgent])
    })
  ],
  [
    "claim takes the oldest of a lane first",
    Effect.gen(function* () {
      const oldest = yield* enqueue()
      yield* TestClock.adjust("1 second")
      yield* enqueue()
      assert.deepStrictEqual(claimedIds(yield* claimAll(1)), [oldest])
    })
  ],
  [
    "claim takes at most its limit",
    Effect.gen(function* () {
      yield* enqueue()
      yield* enqueue()
      assert.strictEqual((yield* claimAll(1)).length, 1)
    })
  ],
  [
    "claim uses up an attempt",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* unchanged(failedAs(lease))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* claimAll())[0]?.lease.attempt, 2)
    })
  ],
  [
    "claim numbers the events",
    Effect.gen(function* () {
      const jobId = yield* enqueue()
      yield* claimAll()
      yield* events(jobId, "STAGE_CHANGED")
    })
  ],

  // failure and reaper
  [
    "failure buries",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* failedAs(lease, { kind: "TERMINAL" })
      const dead = yield* unchanged(Jobs.deadLetters({ scope: TenantScope.admin }))
      assert.deepStrictEqual(
        dead.map(({ jobId, reason, payload }) => ({ jobId, reason, payload })),
        [{ jobId: lease.jobId, reason: "FAILURE_KIND_NON_RETRYABLE", payload: { n: 1 } }]
      )
    })
  ],
  [
    "failure keeps the error with its attempt",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* failedAs(lease, { error: { address: "nowhere" } })
      const [attempt] = yield* unchanged(Jobs.attempts(TenantScope.admin, lease.jobId))
      assert.deepStrictEqual(attempt?.error, Option.some({ address: "nowhere" }))
    })
  ],
  [
    "failure ends with the last attempt",
    Effect.gen(function* () {
      const { _tag } = yield* failedAs(yield* leased("claim", { maxAttempts: 1 }))
      assert.strictEqual(_tag, "DeadLettered")
    })
  ],
  [
    "failure never retries what is terminal",
    Effect.gen(function* () {
      for (const kind of ["TERMINAL", "PANICKED"] as const) {
        assert.strictEqual((yield* failedAs(yield* leased(), { kind }))._tag, "DeadLettered")
      }
    })
  ],
  [
    "failure follows the policy",
    Effect.gen(function* () {
      yield* unchanged(
        JobDefinitions.upsert(jobType, {
          retry: { initial: "3 seconds", max: "5 seconds", jitter: 0, overrides: { special: "7 seconds" } }
        })
      )
      const first = yield* leased()
      const plain = yield* failedAs(first)
      yield* TestClock.adjust("3 seconds")
      const again = yield* failedAs(yield* claimOne())
      const special = yield* failedAs(yield* leased(), { code: "special" })
      assert.deepStrictEqual(
        [plain, again, special].map((failed) => failed._tag === "RetryScheduled" && failed.retryDelayMillis),
        [3000, 5000, 7000]
      )
    })
  ],
  [
    "failure is delayed by a lower bound, never hastened",
    Effect.gen(function* () {
      const hastened = yield* failedAs(yield* leased(), { retryNotBefore: { delay: "1 millis" } })
      const delayed = yield* failedAs(yield* leased(), { retryNotBefore: { delay: "1 minute" } })
      assert.deepStrictEqual(
        [hastened, delayed].map((failed) => failed._tag === "RetryScheduled" && failed.source),
        ["POLICY", "HANDLER_NOT_BEFORE"]
      )
      const [first, second] = [hastened, delayed].map((failed) =>
        failed._tag === "RetryScheduled" ? failed.nextRunAt.epochMilliseconds : 0
      )
      assert.strictEqual((second ?? 0) - (first ?? 0), 59_000)
    })
  ],
  [
    "reaper leaves live leases",
    Effect.gen(function* () {
      yield* leased()
      assert.deepStrictEqual(yield* reap, [])
    })
  ],
  [
    "reaper follows the policy",
    Effect.gen(function* () {
      yield* unchanged(
        JobDefinitions.upsert(jobType, { retry: { jitter: 0, overrides: { "job.lease_expired": "7 seconds" } } })
      )
      yield* leased()
      yield* TestClock.adjust("10 seconds")
      const [reaped] = yield* reap
      const disposition = reaped?.disposition
      assert.strictEqual(disposition?._tag === "RetryScheduled" && disposition.retryDelayMillis, 7000)
    })
  ],
  [
    "reaper ends with the last attempt",
    Effect.gen(function* () {
      yield* leased("claim", { maxAttempts: 1 })
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(
        (yield* reap).map(({ disposition }) => disposition._tag),
        ["DeadLettered"]
      )
      assert.strictEqual((yield* unchanged(Jobs.deadLetters({ scope: TenantScope.admin })))[0]?.reason, "LEASE_EXPIRED")
    })
  ],
  [
    "reaper gives back what never started",
    Effect.gen(function* () {
      const { jobId } = yield* leased("claimPrestart")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(
        (yield* reap).map(({ disposition }) => disposition._tag),
        ["Released"]
      )
      assert.strictEqual((yield* rowOf(jobId))?.attempt, 0)
    })
  ],
  [
    "reaper tells who never renewed",
    Effect.gen(function* () {
      const [renewed] = [yield* leased(), yield* leased()]
      yield* Jobs.heartbeat(renewed, { extend: "10 seconds" })
      yield* TestClock.adjust("10 seconds")
      const unrenewed = (yield* reap).filter(({ startedWithoutRenewal }) => startedWithoutRenewal)
      assert.strictEqual(unrenewed.length, 1)
      assert.notStrictEqual(unrenewed[0]?.jobId, renewed.jobId)
    })
  ],

  // what else a statement tests
  [
    "heartbeat renews from now",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* TestClock.adjust("5 seconds")
      yield* Jobs.heartbeat(lease, { extend: "10 seconds" })
      yield* TestClock.adjust("9999 millis")
      yield* unchanged(Jobs.heartbeat(lease))
    })
  ],
  [
    "release leaves direct claims",
    Effect.gen(function* () {
      yield* isRefused("release", yield* leased())
    })
  ],
  [
    "release leaves what has started",
    Effect.gen(function* () {
      const lease = yield* leased("claimPrestart")
      yield* unchanged(Jobs.markRunning(lease))
      yield* isRefused("release", lease)
    })
  ],
  [
    "release gives the attempt back",
    Effect.gen(function* () {
      const lease = yield* leased("claimPrestart")
      yield* Jobs.releaseUnstarted(lease)
      assert.strictEqual((yield* claimOne()).attempt, 1)
    })
  ],
  [
    "progress is judged with what is stored",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* unchanged(Jobs.updateProgress(lease, { total: 5 }))
      assert.strictEqual((yield* reasonOf(Jobs.updateProgress(lease, { done: 6 })))._tag, "InvalidProgress")
      assert.strictEqual((yield* reasonOf(Jobs.completeSuccess(lease, { done: 6 })))._tag, "InvalidCompletionProgress")
      assert.strictEqual(
        (yield* reasonOf(Jobs.completeContinuation(lease, { done: 6 })))._tag,
        "InvalidCompletionProgress"
      )
    })
  ],
  [
    "continuation begins the next run",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* Jobs.completeContinuation(lease)
      const { runNumber, attempt } = yield* claimOne()
      assert.deepStrictEqual([runNumber, attempt], [2, 1])
    })
  ],
  [
    "success keeps the output",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* Jobs.completeSuccess(lease, { output: { sent: true } })
      assert.deepStrictEqual((yield* rowOf(lease.jobId))?.output, { sent: true })
    })
  ],
  [
    "cancel keeps to its scope",
    Effect.gen(function* () {
      const jobId = yield* enqueue({ organizationId: organization })
      const other = TenantScope.organization("0197c000-0000-7000-8000-00000000000b")
      for (const scope of [TenantScope.global, other]) {
        assert.strictEqual((yield* reasonOf(Jobs.cancel(scope, jobId)))._tag, "JobNotFound")
      }
      assert.strictEqual((yield* rowOf(jobId))?.status, "PENDING")
    })
  ],
  [
    "cancel leaves what is finished",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* unchanged(Jobs.completeSuccess(lease))
      assert.strictEqual((yield* reasonOf(Jobs.cancel(TenantScope.global, lease.jobId)))._tag, "InvalidStateTransition")
    })
  ],
  ...perWrite("takes the step of a workflow along", ["success", "failure", "continuation", "cancel"], (name) =>
    Effect.gen(function* () {
      const sql = yield* Others
      const lease = yield* leased()
      yield* inWorkflow(lease.jobId)
      yield* sql`UPDATE runledger.workflow_steps SET allow_handler_continuation = true`
      yield* write(name).run(lease)
      const ends = { success: "SUCCEEDED", failure: "ENQUEUED", continuation: "ENQUEUED", cancel: "CANCELED" }
      assert.strictEqual(yield* stepStatus, ends[name])
    })
  ),
  [
    "continuation asks the step of a workflow",
    Effect.gen(function* () {
      const lease = yield* leased()
      yield* inWorkflow(lease.jobId)
      assert.strictEqual((yield* reasonOf(Jobs.completeContinuation(lease)))._tag, "WorkflowContinuationNotEnabled")
    })
  ],
  [
    // the run is held by somebody else: that is what tells a reaper that locks it from one that does not
    "reaper leaves the jobs of a run that somebody holds",
    Effect.gen(function* () {
      const sql = yield* Others
      const { jobId } = yield* leased()
      yield* inWorkflow(jobId)
      yield* TestClock.adjust("10 seconds")
      const reaped = yield* sql.withTransaction(
        Effect.andThen(sql`SELECT FROM runledger.workflow_runs FOR NO KEY UPDATE`, reap)
      )
      assert.deepStrictEqual(reaped, [])
    })
  ],

  // enqueue
  ["enqueue with a key refuses other isolations", refusesIsolation(keyed())],
  [
    "enqueue names the fields of a conflict",
    Effect.gen(function* () {
      const { jobId } = yield* unchanged(keyed())
      const reason = yield* reasonOf(keyed({ priority: 5 }, 2))
      assert.deepStrictEqual(reason._tag === "IdempotencyConflict" && { jobId: reason.jobId, fields: reason.fields }, {
        jobId,
        fields: ["payload", "priority"]
      })
    })
  ],
  [
    "enqueue finds an equal request",
    Effect.gen(function* () {
      const { jobId } = yield* unchanged(keyed())
      assert.deepStrictEqual(yield* keyed(), { jobId, status: "PENDING", runNumber: 1, disposition: "existing" })
    })
  ],
  [
    "enqueue keeps the keys of organizations apart",
    Effect.gen(function* () {
      yield* unchanged(keyed())
      const { disposition } = yield* keyed({ organizationId: organization }, 2)
      const { jobId } = yield* keyed({ organizationId: organization }, 2)
      assert.strictEqual(disposition, "inserted")
      assert.strictEqual((yield* rowOf(jobId))?.organization_id, organization)
    })
  ],
  [
    "enqueue refuses a disabled type",
    Effect.gen(function* () {
      yield* unchanged(JobDefinitions.update(jobType, { isEnabled: false }))
      for (const idempotencyKey of [undefined, "key"]) {
        assert.strictEqual(
          (yield* reasonOf(Jobs.enqueue(jobType, 1, { idempotencyKey })))._tag,
          "DefinitionUnavailable"
        )
      }
      assert.strictEqual(yield* unchanged(Jobs.count({ scope: TenantScope.admin })), 0)
    })
  ],
  [
    "enqueue with a key bounds its waits",
    Effect.gen(function* () {
      yield* keyed()
      const sent = (yield* Statements).last(enqueueStatement)
      const sql = yield* Others
      if (sent === undefined) return yield* fails("nothing was sent")
      const [row] = yield* sql.withTransaction(
        Effect.andThen(
          unchanged(sql.unsafe(sent.text, sent.params)),
          sql`SELECT current_setting('lock_timeout') AS bound`
        )
      )
      assert.strictEqual(row?.bound, "5s")
    })
  ]
])

// ---------------------------------------------------------------------------------------------------------------------
// Mutants
// ---------------------------------------------------------------------------------------------------------------------

interface Mutant {
  readonly name: string
  readonly edits: ReadonlyArray<MutatedSqlClient.Edit>
  /** Each of them notices. */
  readonly checks: ReadonlyArray<string>
}

const mutant = (
  name: string,
  statement: string,
  search: string | RegExp,
  replace: string,
  checks: ReadonlyArray<string>
): Mutant => ({ name, edits: [{ statement, search, replace }], checks })

/** The same change to the statements of several operations. */
const each = (
  names: ReadonlyArray<Write>,
  what: string,
  search: string | RegExp,
  replace: string,
  check: string
): ReadonlyArray<Mutant> =>
  names.map((name) => mutant(`${name}: ${what}`, write(name).statement, search, replace, [`${name} ${check}`]))

const isReadCommitted = "current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')"
const givenPart = (n: number) => `split_part((SELECT fence FROM input) ->> q.id::text, ':', ${n})`

const mutants: ReadonlyArray<Mutant> = [
  ...each(
    [...fenced, "release"],
    "the run is not compared",
    "= q.run_number ||",
    `= ${givenPart(1)} ||`,
    "refuses another run"
  ),
  ...each(
    [...fenced, "release"],
    "the attempt is not compared",
    "|| q.attempt ||",
    `|| ${givenPart(2)} ||`,
    "refuses another attempt"
  ),
  ...each(
    [...fenced, "release"],
    "the worker is not compared",
    "|| q.worker_id",
    `|| ${givenPart(3)}`,
    "refuses another worker"
  ),
  ...each(fenced, "the end of the lease is not looked at", "WHERE is_live", "WHERE true", "refuses an expired lease"),
  ...fenced.map(
    (name): Mutant => ({
      name: `${name}: waits for the row, and asks the clock before`,
      edits: [
        ["FOR NO KEY UPDATE SKIP LOCKED", "FOR NO KEY UPDATE"],
        ["SELECT * FROM locked WHERE is_live", "SELECT * FROM locked"],
        [
          "WHERE q.id = ANY ((SELECT ids FROM input)::uuid[])",
          "WHERE q.lease_expires_at > statement_timestamp() AND q.id = ANY ((SELECT ids FROM input)::uuid[])"
        ]
      ].map(([search = "", replace = ""]) => ({ statement: write(name).statement, search, replace })),
      checks: [`${name} refuses a lease that expired in a wait`]
    })
  ),
  ...each(
    fenced,
    "the lease is judged by the start of the statement",
    "lease_expires_at > clock_timestamp()",
    "lease_expires_at > statement_timestamp()",
    "refuses a lease that expired on the way"
  ),
  ...each(everyWrite, "waits for locked rows", "FOR NO KEY UPDATE SKIP LOCKED", "FOR NO KEY UPDATE", "never waits"),
  ...each(everyWrite, "locks too strongly", "FOR NO KEY UPDATE SKIP", "FOR UPDATE SKIP", "passes foreign keys"),
  ...each(
    batched,
    "locks in any order, and waits",
    /ORDER BY q\.id\s+FOR NO KEY UPDATE SKIP LOCKED/g,
    "FOR NO KEY UPDATE",
    "locks by id"
  ),
  mutant(
    "reaper: locks equal ends in any order",
    writes.reaper.statement,
    "ORDER BY q.lease_expires_at, q.id",
    "ORDER BY q.lease_expires_at",
    ["reaper locks by end and id"]
  ),

  ...each(
    ["success"],
    "the attempt is not written",
    /'SUCCEEDED', l\.event_seq \+ 1\s+FROM valid l/g,
    "$& WHERE false",
    "writes the attempt"
  ),
  ...each(
    ["failure", "reaper"],
    "the attempt is not written",
    /(FROM timed l\s+CROSS JOIN input i)(\s+\), buried)/g,
    "$1 WHERE false $2",
    "writes the attempt"
  ),
  ...each(
    ["continuation"],
    "the attempt is not written",
    /'CONTINUED', NULL\s+FROM valid l\s+CROSS JOIN input i/g,
    "$& WHERE false",
    "writes the attempt"
  ),
  ...each(["cancel"], "the attempt is not written", "WHERE l.status = 'LEASED'", "WHERE false", "writes the attempt"),
  ...each(
    ["success", "continuation", "release", "cancel"],
    "the event is not counted",
    "event_seq = q.event_seq + 1",
    "event_seq = q.event_seq",
    "numbers the events"
  ),
  ...each(
    ["failure", "reaper"],
    "the second event is not counted",
    "event_seq = q.event_seq + 2",
    "event_seq = q.event_seq + 1",
    "numbers the events"
  ),
  ...each(
    ["progress"],
    "the event is not counted",
    "i.total IS NULL THEN 0 ELSE 1 END",
    "i.total IS NULL THEN 0 ELSE 0 END",
    "numbers the events"
  ),
  ...each(
    ["heartbeat"],
    "an event is counted",
    "last_heartbeat_at = i.at",
    "last_heartbeat_at = i.at, event_seq = q.event_seq + 1",
    "numbers the events"
  ),
  mutant(
    "claim: the start is not counted",
    claimStatement,
    "event_seq = q.event_seq + 2",
    "event_seq = q.event_seq + 1",
    ["claim numbers the events"]
  ),
  ...each(
    ["cancel"],
    "the event is not written",
    /(lease_quiesces_at'[^;]+?FROM locked l\s+CROSS JOIN input i)/g,
    "$1 WHERE false",
    "numbers the events"
  ),
  ...each(
    [...ending, "release"],
    "the heartbeat stays",
    "last_heartbeat_at = NULL",
    "last_heartbeat_at = q.last_heartbeat_at",
    "clears the lease"
  ),
  ...each(
    ["success", "failure", "continuation", "release", "reaper"],
    "the end of the lease stays",
    "lease_expires_at = NULL",
    "lease_expires_at = q.lease_expires_at",
    "clears the lease"
  ),
  ...each(["cancel", "success"], "the worker stays", "worker_id = NULL", "worker_id = q.worker_id", "clears the lease"),
  ...each(["success", "failure"], "the renewal stays", "renewed = false", "renewed = q.renewed", "clears the lease"),
  ...each(everyWrite, "runs in any isolation", isReadCommitted, "true", "refuses other isolations"),

  mutant("claim: runs in any isolation", claimStatement, isReadCommitted, "true", ["claim refuses other isolations"]),
  mutant("claim: waits for locked rows", claimStatement, "FOR NO KEY UPDATE SKIP LOCKED", "FOR NO KEY UPDATE", [
    "claim never waits"
  ]),
  mutant("claim: locks too strongly", claimStatement, "FOR NO KEY UPDATE SKIP", "FOR UPDATE SKIP", [
    "claim passes foreign keys"
  ]),
  mutant("claim: any status", claimStatement, "q.status = 'PENDING' AND", "true AND", [
    "claim takes a job once",
    "claim takes the rest of a lane"
  ]),
  mutant(
    "claim: any status of what it picks",
    claimStatement,
    /q\.status = 'PENDING' AND (q\.execution_resource_key IS NULL\s+AND q\.job_type = h\.job_type)/g,
    "$1",
    ["claim takes the rest of a lane"]
  ),
  mutant(
    "claim: due or not",
    claimStatement,
    /(?<=next_run_at )(?:<=|BETWEEN h\.next_run_at AND) \(SELECT at FROM input\)/g,
    "IS NOT NULL",
    ["claim leaves what is not due"]
  ),
  mutant(
    "claim: due or not, of a lane that has something due",
    claimStatement,
    "BETWEEN h.next_run_at AND (SELECT at FROM input)",
    ">= h.next_run_at",
    ["claim leaves what is not due"]
  ),
  mutant("claim: any payload first", claimStatement, "AND q.payload_version <= t.max_version", "", [
    "claim leaves newer payloads"
  ]),
  mutant("claim: any payload next", claimStatement, "AND q.payload_version <= l.max_version", "", [
    "claim leaves newer payloads behind older ones"
  ]),
  mutant(
    "claim: no priorities",
    claimStatement,
    /ORDER BY priority DESC, next_run_at(\s+\), picked)/g,
    "ORDER BY next_run_at$1",
    ["claim takes the highest priority first"]
  ),
  mutant(
    "claim: the latest first",
    claimStatement,
    "NULLS FIRST, q.next_run_at, q.id",
    "NULLS FIRST, q.next_run_at DESC, q.id",
    ["claim takes the oldest of a lane first"]
  ),
  mutant("claim: no limit", claimStatement, "LIMIT (SELECT size FROM input)", "LIMIT (SELECT size + 1 FROM input)", [
    "claim takes at most its limit"
  ]),
  mutant(
    "claim: attempts are not counted",
    claimStatement,
    "attempt = q.attempt + 1",
    "attempt = GREATEST(q.attempt, 1)",
    ["claim uses up an attempt"]
  ),

  ...(["failure", "reaper"] as const).flatMap((name) => {
    const { statement } = writes[name]
    return [
      mutant(`${name}: attempts have no limit`, statement, "WHEN f.attempt < f.max_attempts THEN", "WHEN true THEN", [
        `${name} ends with the last attempt`
      ]),
      mutant(
        `${name}: no policy`,
        statement,
        "LEFT JOIN runledger.job_definitions d ON d.job_type = f.job_type",
        "LEFT JOIN runledger.job_definitions d ON false",
        [`${name} follows the policy`]
      )
    ]
  }),
  mutant(
    "failure: no delays by code",
    writes.failure.statement,
    /\(d\.retry_overrides ->>? f\.code\)::integer/g,
    "NULL",
    ["failure follows the policy"]
  ),
  mutant("failure: no longest delay", writes.failure.statement, "COALESCE(d.retry_max_ms, 300000)", "300000", [
    "failure follows the policy"
  ]),
  mutant(
    "failure: any kind is retried",
    writes.failure.statement,
    "WHEN f.kind IN ('TERMINAL', 'PANICKED') THEN",
    "WHEN false THEN",
    ["failure never retries what is terminal"]
  ),
  mutant(
    "failure: a lower bound decides alone",
    writes.failure.statement,
    "GREATEST(i.at + j.policy_ms * interval '1 millisecond', j.requested_at)",
    "COALESCE(j.requested_at, i.at + j.policy_ms * interval '1 millisecond')",
    ["failure is delayed by a lower bound, never hastened"]
  ),
  mutant("failure: no error", writes.failure.statement, "l.message, l.error,", "l.message, NULL::jsonb,", [
    "failure keeps the error with its attempt"
  ]),
  mutant("failure: no dead letter", writes.failure.statement, "WHERE f.dead_letter_reason IS NOT NULL", "WHERE false", [
    "failure buries"
  ]),
  mutant("reaper: no dead letter", writes.reaper.statement, "WHERE f.dead_letter_reason IS NOT NULL", "WHERE false", [
    "reaper ends with the last attempt"
  ]),
  {
    // either test alone would do: the second is for a lease that was renewed while the first was made
    name: "reaper: live leases too",
    edits: [
      {
        statement: writes.reaper.statement,
        search: "AND q.lease_expires_at <= (SELECT at FROM input)",
        replace: ""
      },
      { statement: writes.reaper.statement, search: /WHERE l\.lease_expires_at <= [^\n]+/g, replace: "$& OR true" }
    ],
    checks: ["reaper leaves live leases"]
  },
  mutant("reaper: a claim that never started is a failure", writes.reaper.statement, "WHERE NOT e.unstarted", "", [
    "reaper gives back what never started"
  ]),
  mutant("reaper: workflows too", writes.reaper.statement, "AND q.workflow_run_id IS NULL", "", [
    "reaper leaves the jobs of a run that somebody holds"
  ]),
  mutant(
    "heartbeat: the renewal is not recorded",
    writes.heartbeat.statement,
    "renewed = q.attempt_started_at IS NOT NULL",
    "renewed = false",
    ["reaper tells who never renewed"]
  ),
  mutant(
    "heartbeat: extends what is left",
    writes.heartbeat.statement,
    "lease_expires_at = i.at + i.extend",
    "lease_expires_at = q.leased_at + i.extend",
    ["heartbeat renews from now"]
  ),
  {
    // either test alone keeps them out: a direct claim has started
    name: "release: direct claims too",
    edits: ["q.claim_origin = 'WORKER_PRESTART'", "q.attempt_started_at IS NULL"].map((search) => ({
      statement: writes.release.statement,
      search,
      replace: "true"
    })),
    checks: ["release leaves direct claims"]
  },
  mutant("release: what has started too", writes.release.statement, "q.attempt_started_at IS NULL", "true", [
    "release leaves what has started"
  ]),
  mutant(
    "release: the attempt is used up",
    writes.release.statement,
    "attempt = q.attempt - 1",
    "attempt = q.attempt",
    ["release gives the attempt back"]
  ),
  ...(["progress", "success", "continuation"] as const).map((name) =>
    mutant(`${name}: stored progress is not compared`, writes[name].statement, "IS NOT FALSE", "IS NOT NULL OR true", [
      "progress is judged with what is stored"
    ])
  ),
  mutant(
    "continuation: the run stays",
    writes.continuation.statement,
    "run_number = q.run_number + 1",
    "run_number = q.run_number",
    ["continuation begins the next run"]
  ),
  mutant("continuation: the attempts stay", writes.continuation.statement, "attempt = 0", "attempt = q.attempt", [
    "continuation begins the next run"
  ]),
  mutant(
    "success: no output",
    writes.success.statement,
    "output = i.given -> q.id::text -> 'output'",
    "output = NULL",
    ["success keeps the output"]
  ),
  mutant("cancel: no global scope", writes.cancel.statement, "q.organization_id IS NULL", "true", [
    "cancel keeps to its scope"
  ]),
  mutant("cancel: no organization", writes.cancel.statement, /q\.organization_id = \$\d+::uuid/g, "($& OR true)", [
    "cancel keeps to its scope"
  ]),
  mutant("cancel: what is finished too", writes.cancel.statement, "AND q.status || '' IN ('PENDING', 'LEASED')", "", [
    "cancel leaves what is finished"
  ]),
  ...each(
    ["success", "failure", "cancel"],
    "workflows too",
    "AND q.workflow_run_id IS NULL",
    "",
    "takes the step of a workflow along"
  ),
  mutant(
    "continuation: the step stays",
    writes.continuation.statement,
    "AND s.status IN ('ENQUEUED', 'RUNNING')",
    "AND false",
    ["continuation takes the step of a workflow along"]
  ),
  mutant("continuation: steps are not asked", writes.continuation.statement, "AND is_allowed", "", [
    "continuation asks the step of a workflow"
  ]),

  mutant("enqueue: runs in any isolation", enqueueStatement, isReadCommitted, "true", [
    "enqueue with a key refuses other isolations"
  ]),
  mutant(
    "enqueue: requests are not compared",
    enqueueStatement,
    "WHEN s.found_request = s.enqueue_request THEN",
    "WHEN true THEN",
    ["enqueue names the fields of a conflict"]
  ),
  mutant(
    "enqueue: no request is equal",
    enqueueStatement,
    "WHEN s.found_request = s.enqueue_request THEN",
    "WHEN false THEN",
    ["enqueue finds an equal request"]
  ),
  mutant(
    "enqueue: the fields are not named",
    enqueueStatement,
    "CASE WHEN s.found_request <> s.enqueue_request THEN (",
    "CASE WHEN false THEN (",
    ["enqueue names the fields of a conflict"]
  ),
  mutant(
    "enqueue: the keys of all organizations",
    enqueueStatement,
    "AND q.organization_id IS NULL AND i.organization_id IS NULL",
    "AND q.organization_id IS NULL",
    ["enqueue keeps the keys of organizations apart"]
  ),
  mutant("enqueue: disabled types too", enqueueStatement, "WHERE is_enabled", "WHERE is_enabled IS NOT NULL", [
    "enqueue refuses a disabled type"
  ]),
  mutant("enqueue of one: disabled types too", enqueueOneStatement, "AND d.is_enabled", "", [
    "enqueue refuses a disabled type"
  ]),
  mutant("enqueue: waits without end", enqueueStatement, "ELSE '5s'", "ELSE current_setting('lock_timeout')", [
    "enqueue with a key bounds its waits"
  ])
]

// ---------------------------------------------------------------------------------------------------------------------
// The table
// ---------------------------------------------------------------------------------------------------------------------

/** How the check ends, and what the edits met. */
const judge = Effect.fnUntraced(function* (check: Check, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
  yield* startOver
  return yield* Effect.gen(function* () {
    const exit = yield* Effect.exit(
      Effect.raceFirst(check, live(Effect.andThen(Effect.sleep("15 seconds"), fails("stuck"))))
    )
    return { exit, statements: yield* Statements }
  }).pipe(Effect.provide(MutatedSqlClient.layer(edits)))
})

it.layer(layer, { timeout: "60 seconds" })("Jobs, broken on purpose", (it) => {
  const named = (name: string) => checks.get(name) ?? Effect.die(new Error(`there is no check "${name}"`))

  for (const [name, check] of checks) {
    it.effect(`as it is, ${name}`, () => Effect.flatMap(judge(check, []), ({ exit }) => exit))
  }

  for (const { name, edits, checks: noticing } of mutants) {
    it.effect(`${name}: noticed by "${noticing.join('" and "')}"`, () =>
      Effect.forEach(
        noticing,
        Effect.fnUntraced(function* (check) {
          const { exit, statements } = yield* judge(named(check), edits)
          // neither a mutant that changes nothing nor one that is no SQL would say anything about the check
          const unmet = edits.filter((edit) => !statements.applied().has(edit))
          assert.deepStrictEqual(unmet, [])
          for (const { statement } of edits) {
            const sent = statements.last(statement)
            if (sent !== undefined) yield* Others.use((sql) => sql.unsafe(`EXPLAIN ${sent.text}`, sent.params))
          }
          assert.isTrue(Exit.isFailure(exit), `"${check}" did not notice`)
        }),
        { discard: true }
      )
    )
  }

  it("no check is there for nothing, and no mutant twice", () => {
    const noticing = new Set(mutants.flatMap((mutant) => mutant.checks))
    assert.deepStrictEqual(
      [...checks.keys()].filter((name) => !noticing.has(name)),
      []
    )
    assert.strictEqual(new Set(mutants.map(({ name }) => name)).size, mutants.length)
  })
})
