import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Layer, Option, Result, Schema } from "effect"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import * as Catalog from "../src/Catalog.ts"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import type { JobIntentReason } from "../src/JobIntentReason.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as JobRuntimeConfigs from "../src/JobRuntimeConfigs.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason, UnsupportedIsolation, WriteReason } from "../src/Reason.ts"
import type { ScheduleReason } from "../src/ScheduleReason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { Faults, layerPg as faulty, makeGate, waitAt } from "../src/testing/FaultySqlClient.ts"
import type { WorkflowContinuationNotEnabled, WorkflowReason } from "../src/WorkflowReason.ts"
import * as Workflows from "../src/Workflows.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin } = TenantScope

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

const told = (reason: Reason): string => (reason._tag === "Unavailable" ? `Unavailable ${reason.origin}` : reason._tag)

const reasonOf = <A, R>(self: Effect.Effect<A, QueryError, R>): Effect.Effect<Reason, never, R> =>
  Effect.match(self, { onFailure: ({ reason }) => reason, onSuccess: () => assert.fail("it was to fail") })

const answersOf = (results: ReadonlyArray<Result.Result<unknown, Reason>>) =>
  results.map((result) => (Result.isSuccess(result) ? "done" : told(result.failure)))

/** Every row of every table of ours, with the transaction that wrote it. */
const everything = SqlClient.use(
  (sql) => sql.withoutTransforms()`
    SELECT 'job' AS of, to_jsonb(t) AS row, xmin::text FROM runledger.job_queue t
    UNION ALL SELECT 'attempt', to_jsonb(t), xmin::text FROM runledger.job_attempts t
    UNION ALL SELECT 'event', to_jsonb(t), xmin::text FROM runledger.job_events t
    UNION ALL SELECT 'dead letter', to_jsonb(t), xmin::text FROM runledger.job_dead_letters t
    UNION ALL SELECT 'replay', to_jsonb(t), xmin::text FROM runledger.job_replays t
    UNION ALL SELECT 'log', to_jsonb(t), xmin::text FROM runledger.job_logs t
    UNION ALL SELECT 'run', to_jsonb(t), xmin::text FROM runledger.workflow_runs t
    UNION ALL SELECT 'step', to_jsonb(t), xmin::text FROM runledger.workflow_steps t
    UNION ALL SELECT 'definition', to_jsonb(t), xmin::text FROM runledger.job_definitions t
    ORDER BY 1, 2`
)

/** The user's own rows, in a table beside ours. */
const own = {
  create: SqlClient.use((sql) => sql`CREATE TABLE IF NOT EXISTS own (word text)`),
  write: (word: string) => SqlClient.use((sql) => sql`INSERT INTO own VALUES (${word})`),
  /** What was written since this was last asked. */
  take: SqlClient.use((sql) =>
    Effect.map(sql<{ word: string }>`DELETE FROM own RETURNING word`, (rows) => rows.map(({ word }) => word))
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Every operation that writes, ready to run
// ---------------------------------------------------------------------------------------------------------------------

let types = 0

const makeType = Effect.suspend(() =>
  Effect.map(JobDefinitions.upsert(`transaction.${++types}`), ({ jobType }) => jobType)
)

const pending = Effect.gen(function* () {
  const type = yield* makeType
  const { jobId } = yield* Jobs.enqueue(type, { n: 1 })
  return { type, jobId }
})

const leased = Effect.fnUntraced(function* (lease: number | "1 hour" = "1 hour") {
  const { type } = yield* pending
  return only(yield* Jobs.claimPrestart({ workerId: "w", types: [type], limit: 1, lease })).lease
})

const expired = Effect.gen(function* () {
  const sql = yield* SqlClient
  const lease = yield* leased(1)
  yield* Jobs.get(admin, lease.jobId).pipe(
    Effect.andThen(
      sql`SELECT FROM runledger.job_queue WHERE id = ${lease.jobId}::uuid AND lease_expires_at < clock_timestamp()`
    ),
    Effect.repeat({ until: (rows) => rows.length === 1 })
  )
  return lease
})

type Operation = Effect.Effect<unknown, QueryError, SqlClient>

/** Prepares what the operation needs, outside of the transaction that it will be part of. */
type Prepare = Effect.Effect<Operation, unknown, SqlClient>

const failure = { kind: "RETRYABLE", code: "test.failed", message: "failed" } as const

const deadLettered = Effect.gen(function* () {
  const { type } = yield* pending
  const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 1 }))
  yield* Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL" })
  return { type, jobId: lease.jobId }
})

const done = Effect.gen(function* () {
  const { type } = yield* pending
  const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 1 }))
  yield* Jobs.completeSuccess(lease)
  return lease.jobId
})

const requeueOf = (jobId: Jobs.JobId): Jobs.RequeueRequest => ({
  scope: TenantScope.global,
  jobId,
  expectedStatus: "DEAD_LETTERED",
  expectedRunNumber: 1,
  statePolicy: "preserve",
  reason: "again"
})

const replayOf = (sourceJobId: Jobs.JobId): Jobs.ReplayRequest => ({
  scope: TenantScope.global,
  sourceJobId,
  expectedRunNumber: 1,
  requestKey: "k",
  reason: "again"
})

const succeededStep = Effect.gen(function* () {
  const jobType = yield* makeType
  yield* Workflows.enqueue({ workflowType: "t", steps: [{ stepKey: "only", jobType, payload: 1 }] })
  const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [jobType], limit: 1, lease: "1 hour" }))
  yield* Jobs.completeSuccess(lease)
  return lease.jobId
})

/** Those that must see what others commit. */
const readCommitted: Readonly<Record<string, Prepare>> = {
  "enqueue with a key": Effect.map(makeType, (type) => Jobs.enqueue(type, 1, { idempotencyKey: "k" })),
  "enqueueMany with keys": Effect.map(makeType, (jobType) =>
    Jobs.enqueueMany([
      { jobType, payload: 1, idempotencyKey: "k" },
      { jobType, payload: 2, stage: "scheduled" }
    ])
  ),
  claim: Effect.map(pending, ({ type }) => Jobs.claim({ workerId: "w", types: [type], limit: 1 })),
  claimPrestart: Effect.map(pending, ({ type }) => Jobs.claimPrestart({ workerId: "w", types: [type], limit: 1 })),
  releaseUnstarted: Effect.map(leased(), (lease) => Jobs.releaseUnstarted(lease)),
  heartbeat: Effect.map(leased(), (lease) => Jobs.heartbeat(lease)),
  heartbeatMany: Effect.map(leased(), (lease) => Jobs.heartbeatMany([lease])),
  markRunning: Effect.map(leased(), (lease) => Jobs.markRunning(lease, { done: 1 })),
  updateProgress: Effect.map(leased(), (lease) => Jobs.updateProgress(lease, { done: 1 })),
  completeSuccess: Effect.map(leased(), (lease) => Jobs.completeSuccess(lease, { output: 1 })),
  "completeFailure with a retry": Effect.map(leased(), (lease) => Jobs.completeFailure(lease, failure)),
  "completeFailure for good": Effect.map(leased(), (lease) =>
    Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL" })
  ),
  completeContinuation: Effect.map(leased(), (lease) => Jobs.completeContinuation(lease)),
  completeMany: Effect.map(Effect.all([leased(), leased(), leased()]), ([a, b, c]) =>
    Jobs.completeMany([
      { _tag: "Success", lease: a },
      { _tag: "Failure", lease: b, ...failure },
      { _tag: "Continuation", lease: c }
    ])
  ),
  reapExpiredLeases: Effect.as(expired, Jobs.reapExpiredLeases({ limit: 10 })),
  "cancel of a pending job": Effect.map(pending, ({ jobId }) => Jobs.cancel(admin, jobId)),
  "cancel of a leased job": Effect.map(leased(), ({ jobId }) => Jobs.cancel(admin, jobId)),
  requeue: Effect.map(deadLettered, ({ jobId }) => Jobs.requeue(requeueOf(jobId))),
  redriveDeadLetters: Effect.map(deadLettered, ({ type }) =>
    Jobs.redriveDeadLetters({ scope: TenantScope.global, jobType: type, reason: "again" })
  ),
  replay: Effect.map(done, (sourceJobId) => Jobs.replay(replayOf(sourceJobId))),
  updatePendingPayload: Effect.map(pending, ({ type, jobId }) =>
    Jobs.updatePendingPayload(TenantScope.global, jobId, type, { n: 2 })
  ),
  updatePendingPayloadField: Effect.map(pending, ({ type, jobId }) =>
    Jobs.updatePendingPayloadField(TenantScope.global, jobId, type, { field: "n", value: 2 })
  )
}

/** The codes of those that do not say it as the others. */
const isolationCodes: Readonly<Record<string, UnsupportedIsolation["code"]>> = {
  "enqueue with a key": "job.enqueue_idempotency_unsupported_isolation",
  "enqueueMany with keys": "job.enqueue_idempotency_unsupported_isolation",
  requeue: "job.compare_and_requeue_unsupported_isolation",
  replay: "job.compare_and_replay_unsupported_isolation"
}

const operations: Readonly<Record<string, Prepare>> = {
  ...readCommitted,
  "enqueue without a key": Effect.map(makeType, (type) => Jobs.enqueue(type, 1)),
  "enqueueMany in several statements": Effect.map(makeType, (jobType) =>
    Jobs.enqueueMany(Array.from({ length: 1001 }, (_, payload) => ({ jobType, payload })))
  ),
  "JobDefinitions.upsert": Effect.map(makeType, (type) => JobDefinitions.upsert(type, { priority: 7 })),
  "JobDefinitions.insertIfMissing": Effect.sync(() => JobDefinitions.insertIfMissing(`transaction.${++types}`)),
  "JobDefinitions.update": Effect.map(makeType, (type) => JobDefinitions.update(type, { priority: 7 })),
  "JobLogs.insert": Effect.map(pending, ({ jobId }) =>
    JobLogs.insert({ jobId, runNumber: 1, level: "INFO", message: "one" })
  ),
  "JobLogs.insertMany": Effect.map(pending, ({ jobId }) =>
    JobLogs.insertMany([{ jobId, runNumber: 1, level: "INFO", message: "one" }])
  )
}

/** What a batch would have hidden: an item that was refused. */
const succeeded = (value: unknown) => {
  for (const item of Array.isArray(value) ? value : []) if (Result.isResult(item)) assert.isTrue(Result.isSuccess(item))
}

const another = (options: TestDatabase.ClientOptions) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { name } = only(yield* sql<{ name: string }>`SELECT current_database() AS name`)
    return yield* Layer.build(TestDatabase.client(name, options))
  })

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs in a caller's transaction", (it) => {
  for (const [name, prepare] of Object.entries(operations)) {
    it.effect(`${name}: commits and rolls back with the caller's rows`, () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const outside = yield* another({ maxConnections: 1 })
        yield* own.create
        const operation = yield* prepare
        const before = yield* everything

        const failed = yield* Effect.exit(
          sql.withTransaction(Effect.andThen(Effect.tap(operation, own.write("lost")), Effect.fail("rollback")))
        )
        assert.deepStrictEqual(failed, Exit.fail("rollback"))
        assert.deepStrictEqual(yield* everything, before, "rolled back")

        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* own.write("before")
            const inner = yield* Effect.exit(
              sql.withTransaction(Effect.andThen(Effect.tap(operation, own.write("lost")), Effect.fail("savepoint")))
            )
            assert.deepStrictEqual(inner, Exit.fail("savepoint"))
            yield* own.write("after")
          })
        )
        assert.deepStrictEqual(yield* everything, before, "the savepoint is rolled back")
        assert.deepStrictEqual(yield* own.take, ["before", "after"])

        yield* sql.withTransaction(
          Effect.gen(function* () {
            succeeded(yield* operation)
            yield* own.write("kept")
            assert.notDeepEqual(yield* everything, before, "seen inside")
            assert.deepStrictEqual(yield* Effect.provideContext(everything, outside), before, "not seen outside")
          })
        )
        assert.notDeepEqual(yield* everything, before, "committed")
        assert.deepStrictEqual(yield* own.take, ["kept"])
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  }

  it.effect("what an operation wrote is seen by the next in the same transaction", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* makeType
      const jobId = yield* sql.withTransaction(
        Effect.gen(function* () {
          const first = yield* Jobs.enqueue(type, 1, { idempotencyKey: "k" })
          const second = yield* Jobs.enqueue(type, 1, { idempotencyKey: "k" })
          assert.deepStrictEqual(second, { ...first, disposition: "existing" })
          const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 5 }))
          yield* Jobs.heartbeat(lease)
          yield* Jobs.updateProgress(lease, { done: 1, total: 2 })
          yield* Jobs.completeContinuation(lease)
          const { lease: again } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 5 }))
          assert.strictEqual(again.runNumber, 2)
          yield* Jobs.completeSuccess(again, { output: "done" })
          return first.jobId
        })
      )
      const job = Option.getOrThrow(yield* Jobs.get(admin, jobId))
      assert.deepInclude(job, { status: "SUCCEEDED", runNumber: 2, output: Option.some("done") })
      const [{ event_seq } = { event_seq: 0 }] = yield* sql<{ event_seq: number }>`
        SELECT event_seq FROM runledger.job_queue WHERE id = ${jobId}::uuid`
      assert.deepStrictEqual(
        (yield* Jobs.events(admin, jobId)).map(({ seq }) => seq),
        Array.from({ length: event_seq }, (_, index) => index + 1)
      )
    })
  )

  it.effect(
    "one transaction is for one fiber: a fiber that rolls back takes along what another one did meanwhile",
    () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const type = yield* makeType
        const gate = yield* makeGate
        const answer = yield* sql.withTransaction(
          Effect.gen(function* () {
            const one = yield* Effect.forkChild(
              Effect.exit(sql.withTransaction(Effect.andThen(gate.pass, Effect.fail("rollback"))))
            )
            yield* gate.reached
            // succeeds, but inside the savepoint of the other fiber
            const enqueued = yield* Jobs.enqueue(type, 1)
            yield* gate.open
            yield* Fiber.join(one)
            return enqueued
          })
        )
        assert.strictEqual(answer.disposition, "inserted")
        assert.deepStrictEqual(yield* Jobs.get(admin, answer.jobId), Option.none())
      })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Reasons that leave the transaction usable
// ---------------------------------------------------------------------------------------------------------------------

// those of workflows, intents and schedules have tests of their own
type Domain = Exclude<
  Reason,
  WriteReason | JobIntentReason | ScheduleReason | Exclude<WorkflowReason, WorkflowContinuationNotEnabled>
>["_tag"]

const missing = Jobs.JobId.make("019ad000-0000-7000-8000-000000000000")

const withStoredProgress = Effect.tap(leased(), (lease) => Jobs.updateProgress(lease, { done: 1, total: 2 }))

/** Something that fails with the reason. Every domain reason of jobs has its line, or this does not compile. */
const refusals: Readonly<Record<Domain, ReadonlyArray<Prepare>>> = {
  InvalidArgument: [Effect.succeed(Jobs.enqueue(" ", 1)), Effect.succeed(Jobs.reapExpiredLeases({ limit: 0 }))],
  InvalidLeaseDuration: [
    Effect.map(leased(), (lease) => Jobs.heartbeat(lease, { extend: 0 })),
    Effect.succeed(Jobs.claim({ workerId: "w", types: ["x"], limit: 1, lease: "Infinity" }))
  ],
  InvalidPagination: [Effect.succeed(Jobs.list({ scope: admin, limit: 0 }))],
  EmptyJobTypeList: [
    Effect.succeed(JobDefinitions.syncExact([], { scope: ["x"] })),
    Effect.succeed(JobDefinitions.syncExact([{ jobType: "x" }], { scope: [] }))
  ],
  InvalidCatalog: [
    Effect.sync(() => {
      const job = Job.make("twice", { payload: {} })
      return Catalog.sync(Catalog.make({ jobs: [job, job] }))
    })
  ],
  RuntimeConfigNotFound: [Effect.succeed(JobRuntimeConfigs.getRequired("unconfigured"))],
  RuntimeConfigInvalid: [
    Effect.map(JobRuntimeConfigs.upsert("misconfigured", { schemaVersion: 1, config: {} }), ({ jobType }) =>
      JobRuntimeConfigs.getDecoded(jobType, Schema.Struct({ perMinute: Schema.Int }))
    )
  ],
  InvalidProgress: [
    Effect.map(leased(), (lease) => Jobs.updateProgress(lease, { done: -1 })),
    Effect.map(withStoredProgress, (lease) => Jobs.updateProgress(lease, { done: 3 })),
    Effect.map(withStoredProgress, (lease) => Jobs.markRunning(lease, { total: 0 }))
  ],
  InvalidCompletionProgress: [
    Effect.map(withStoredProgress, (lease) => Jobs.completeSuccess(lease, { done: 3 })),
    Effect.map(withStoredProgress, (lease) => Jobs.completeContinuation(lease, { total: 0 }))
  ],
  InvalidContinuationDelay: [Effect.map(leased(), (lease) => Jobs.completeContinuation(lease, { delay: "Infinity" }))],
  InvalidRetryTiming: [
    Effect.map(leased(), (lease) =>
      Jobs.completeFailure(lease, { ...failure, retryNotBefore: { at: DateTime.makeUnsafe(8.64e15) } })
    )
  ],
  // in the tests of isolation
  UnsupportedIsolation: [],
  DefinitionUnavailable: [
    Effect.succeed(Jobs.enqueue("undeclared", 1)),
    Effect.succeed(Jobs.enqueue("undeclared", 1, { idempotencyKey: "k" })),
    Effect.map(
      Effect.tap(makeType, (type) => JobDefinitions.update(type, { isEnabled: false })),
      (type) => Jobs.enqueue(type, 1, { idempotencyKey: "k" })
    ),
    Effect.map(
      Effect.tap(done, (jobId) =>
        Effect.flatMap(Jobs.get(admin, jobId), (job) =>
          JobDefinitions.update(Option.getOrThrow(job).jobType, { isEnabled: false })
        )
      ),
      (jobId) => Jobs.replay(replayOf(jobId))
    )
  ],
  IdempotencyConflict: [
    Effect.map(
      Effect.tap(makeType, (type) => Jobs.enqueue(type, 1, { idempotencyKey: "k" })),
      (type) => Jobs.enqueue(type, 2, { idempotencyKey: "k" })
    )
  ],
  IdempotencySnapshotMissing: [
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* makeType
      const { jobId } = yield* Jobs.enqueue(type, 1, { idempotencyKey: "k" })
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT IF EXISTS ck_job_queue_idempotency_enqueue_request`
      yield* sql`UPDATE runledger.job_queue SET enqueue_request = NULL WHERE id = ${jobId}::uuid`
      return Jobs.enqueue(type, 1, { idempotencyKey: "k" })
    })
  ],
  LeaseOwnerMismatch: [
    Effect.map(leased(), (lease) => Jobs.heartbeat({ ...lease, attempt: 2 })),
    Effect.map(leased(), (lease) => Jobs.updateProgress({ ...lease, attempt: 2 }, {})),
    Effect.map(leased(), (lease) => Jobs.completeSuccess({ ...lease, workerId: "other" })),
    Effect.map(leased(), (lease) => Jobs.completeFailure({ ...lease, workerId: "other" }, failure)),
    Effect.map(leased(), (lease) => Jobs.completeContinuation({ ...lease, runNumber: 2 })),
    Effect.map(leased(), (lease) => Jobs.releaseUnstarted({ ...lease, workerId: "other" }))
  ],
  UnstartedClaimReleaseNotApplicable: [
    Effect.map(
      Effect.tap(leased(), (lease) => Jobs.markRunning(lease)),
      (lease) => Jobs.releaseUnstarted(lease)
    )
  ],
  WorkflowContinuationNotEnabled: [
    Effect.gen(function* () {
      const jobType = yield* makeType
      yield* Workflows.enqueue({ workflowType: "t", steps: [{ stepKey: "only", jobType, payload: 1 }] })
      const { lease } = only(yield* Jobs.claim({ workerId: "w", types: [jobType], limit: 1, lease: "1 hour" }))
      return Jobs.completeContinuation(lease)
    })
  ],
  InvalidReplay: [Effect.succeed(Jobs.replay({ ...replayOf(missing), requestKey: " " }))],
  ReplayConflict: [
    Effect.map(
      Effect.tap(done, (jobId) => Jobs.replay(replayOf(jobId))),
      (jobId) => Jobs.replay({ ...replayOf(jobId), reason: "another" })
    )
  ],
  WorkflowRequeueNotSupported: [Effect.map(succeededStep, (jobId) => Jobs.replay(replayOf(jobId)))],
  JobNotFound: [
    Effect.succeed(Jobs.cancel(admin, missing)),
    Effect.succeed(JobLogs.insert({ jobId: missing, runNumber: 1, level: "INFO", message: "x" }))
  ],
  InvalidStateTransition: [
    Effect.map(
      Effect.tap(leased(), (lease) => Jobs.completeSuccess(lease)),
      ({ jobId }) => Jobs.cancel(admin, jobId)
    )
  ]
}

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs: a caught error inside a transaction", (it) => {
  for (const [tag, prepares] of Object.entries(refusals)) {
    for (const [index, prepare] of prepares.entries()) {
      it.effect(`${tag} leaves it usable, and nothing written (${index + 1})`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient
          yield* own.create
          const operation = yield* prepare
          const before = yield* everything
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* own.write("before")
              const reason = yield* reasonOf(operation)
              assert.deepStrictEqual([reason._tag, reason.transactionUsable], [tag, true])
              yield* own.write("after")
            })
          )
          assert.deepStrictEqual(yield* everything, before)
          assert.deepStrictEqual(yield* own.take, ["before", "after"])
        }).pipe(Effect.provideService(NotifyInterval, 0))
      )
    }
  }

  it.effect("an error of the database aborts it, and says so; a savepoint of the caller's keeps it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* own.create
      const type = yield* makeType
      yield* sql`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION 'no' USING ERRCODE = '23514', CONSTRAINT = 'chk_mine';
      END $$`
      yield* sql.unsafe(`CREATE TRIGGER refuse BEFORE INSERT ON runledger.job_queue FOR EACH ROW
        WHEN (NEW.job_type = '${type}') EXECUTE FUNCTION refuse()`)
      const refused = Effect.map(reasonOf(Jobs.enqueue(type, 1)), (reason) => {
        assert.deepInclude(reason, { _tag: "ConstraintViolation", transactionUsable: false, constraint: "chk_mine" })
      })
      const exit = yield* Effect.exit(sql.withTransaction(Effect.andThen(refused, own.write("lost"))))
      assert.isTrue(Exit.isFailure(exit))
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* own.write("before")
          yield* Effect.ignore(sql.withTransaction(Effect.andThen(refused, Effect.fail("savepoint"))))
          // with a key, and in a batch of several statements, the operation has a savepoint of its own
          const keyed = yield* reasonOf(Jobs.enqueue(type, 1, { idempotencyKey: "k" }))
          assert.strictEqual(keyed._tag, "ConstraintViolation")
          yield* own.write("after")
        })
      )
      assert.deepStrictEqual(yield* own.take, ["before", "after"])
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Isolation
// ---------------------------------------------------------------------------------------------------------------------

describe("Jobs and isolation", () => {
  it.layer(TestDatabase.layer, { timeout: "60 seconds" })((it) => {
    for (const level of ["REPEATABLE READ", "SERIALIZABLE"]) {
      for (const [name, prepare] of Object.entries(readCommitted)) {
        it.effect(`${name} is refused in a ${level} transaction of the caller, which stays usable`, () =>
          Effect.gen(function* () {
            const sql = yield* SqlClient
            yield* own.create
            const operation = yield* prepare
            const before = yield* everything
            yield* sql
              .withTransaction(
                Effect.gen(function* () {
                  yield* own.write("before")
                  const reason = yield* reasonOf(operation)
                  assert.deepInclude(reason, {
                    _tag: "UnsupportedIsolation",
                    transactionUsable: true,
                    code: isolationCodes[name] ?? "job.unsupported_isolation"
                  })
                  yield* own.write("after")
                })
              )
              .pipe(Effect.provideService(BeginTransaction, `BEGIN ISOLATION LEVEL ${level}`))
            assert.deepStrictEqual(yield* everything, before)
            assert.deepStrictEqual(yield* own.take, ["before", "after"])
          }).pipe(Effect.provideService(NotifyInterval, 0))
        )
      }
    }

    it.effect("READ UNCOMMITTED is as good as READ COMMITTED, and an unkeyed enqueue works everywhere", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const inIsolation = (level: string, operation: Operation) =>
          Effect.provideService(sql.withTransaction(operation), BeginTransaction, `BEGIN ISOLATION LEVEL ${level}`)
        for (const prepare of Object.values(operations))
          succeeded(yield* inIsolation("READ UNCOMMITTED", yield* prepare))
        const type = yield* makeType
        for (const level of ["REPEATABLE READ", "SERIALIZABLE"]) yield* inIsolation(level, Jobs.enqueue(type, 1))
        assert.strictEqual(yield* Jobs.count({ scope: admin, jobType: type }), 2)
      })
    )
  })

  for (const level of ["repeatable read", "serializable"]) {
    it.layer(
      TestDatabase.layerWith({ maxConnections: 1, startupParameters: { default_transaction_isolation: level } }),
      { timeout: "60 seconds" }
    )((it) => {
      for (const [name, prepare] of Object.entries(operations)) {
        it.effect(`${name} works outside a transaction of a session whose default is ${level}, which stays`, () =>
          Effect.gen(function* () {
            const sql = yield* SqlClient
            const operation = yield* prepare
            const before = yield* everything
            succeeded(yield* operation)
            assert.notDeepEqual(yield* everything, before)
            assert.deepStrictEqual(yield* sql`SHOW default_transaction_isolation`, [
              { default_transaction_isolation: level }
            ])
            // of a transaction that begins now, on the only connection
            assert.deepStrictEqual(yield* sql.withTransaction(sql`SHOW transaction_isolation`), [
              { transaction_isolation: level }
            ])
          }).pipe(Effect.provideService(NotifyInterval, 0))
        )
      }
    })
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Clients of every kind
// ---------------------------------------------------------------------------------------------------------------------

const snakeToCamel = (name: string) => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
const camelToSnake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

const clients: Readonly<Record<string, TestDatabase.ClientOptions>> = {
  "that transforms names": { transformResultNames: snakeToCamel, transformQueryNames: camelToSnake },
  "that transforms names, JSON too": {
    transformResultNames: snakeToCamel,
    transformQueryNames: camelToSnake,
    transformJson: true
  },
  "without prepared statements": { prepare: false },
  "that multiplexes": { multiplex: true, maxConnections: 2 },
  "with one connection": { maxConnections: 1 },
  "in another time zone and style": {
    startupParameters: { timezone: "Asia/Kathmandu", datestyle: "SQL, DMY", intervalstyle: "iso_8601" }
  }
}

const json = { snake_case: { inner_key: [1, { deep_key: null }] }, camelCase: "ñ 🙂", "": 0 }

for (const [kind, options] of Object.entries(clients)) {
  it.layer(TestDatabase.layerWith(options), { timeout: "60 seconds" })(`Jobs on a client ${kind}`, (it) => {
    for (const [name, prepare] of Object.entries(operations)) {
      it.effect(`${name} works, in a transaction too`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient
          succeeded(yield* yield* prepare)
          succeeded(yield* sql.withTransaction(yield* prepare))
        }).pipe(Effect.provideService(NotifyInterval, 0))
      )
    }

    it.effect("a life from end to end: every field is read, and the keys of JSON are as they were given", () =>
      Effect.gen(function* () {
        const type = yield* makeType
        const runAt = DateTime.makeUnsafe("2024-02-29T12:34:56.789Z")
        const options = { idempotencyKey: "k", runAt, priority: 3, timeout: "7 seconds", maxAttempts: 2 } as const
        const { jobId } = yield* Jobs.enqueue(type, json, options)
        assert.strictEqual((yield* Jobs.enqueue(type, json, options)).disposition, "existing")
        const conflict = yield* reasonOf(Jobs.enqueue(type, json, { ...options, priority: 4 }))
        assert.deepInclude(conflict, { _tag: "IdempotencyConflict", fields: ["priority"] })
        const claimed = only(yield* Jobs.claimPrestart({ workerId: "w", types: [type], limit: 1 }))
        assert.deepStrictEqual(claimed.payload, json)
        assert.deepInclude(claimed, { timeoutSeconds: 7, maxAttempts: 2, priority: 3 })
        yield* Jobs.markRunning(claimed.lease, { done: 1, total: 4, checkpoint: json })
        yield* Jobs.heartbeat(claimed.lease)
        yield* JobLogs.insert({ jobId, runNumber: 1, attempt: 1, level: "INFO", message: "m", payload: json })
        yield* Jobs.completeContinuation(claimed.lease)
        const { lease, checkpoint } = only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 1 }))
        assert.deepStrictEqual(checkpoint, Option.some(json))
        yield* Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL" })

        const job = Option.getOrThrow(yield* Jobs.get(admin, jobId))
        assert.deepInclude(job, { status: "DEAD_LETTERED", runNumber: 2, payload: json, progressPct: Option.some(25) })
        assert.deepStrictEqual(job.checkpoint, Option.some(json))
        assert.strictEqual(DateTime.formatIso(claimed.createdAt), DateTime.formatIso(job.createdAt))
        const letter = only(yield* Jobs.deadLetters({ scope: admin, jobType: type }))
        assert.deepStrictEqual([letter.payload, letter.checkpoint], [json, Option.some(json)])
        assert.deepStrictEqual(only(yield* JobLogs.list(admin, jobId)).payload, json)
        assert.deepStrictEqual(
          (yield* Jobs.events(admin, jobId)).map(({ type }) => type),
          [
            "ENQUEUED",
            "LEASED",
            "STAGE_CHANGED",
            "PROGRESS",
            "REQUEUED",
            "LEASED",
            "STAGE_CHANGED",
            "FAILED",
            "DEAD_LETTERED"
          ]
        )
        assert.strictEqual((yield* Jobs.attempts(admin, jobId)).length, 2)
        assert.strictEqual(only(yield* Jobs.list({ scope: admin, jobType: type })).id, jobId)
        assert.strictEqual(only(yield* Jobs.statuses(admin, [jobId])).status, "DEAD_LETTERED")
        const definition = Option.getOrThrow(yield* JobDefinitions.get(type))
        assert.strictEqual(definition.jobType, type)
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  })
}

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs on a server that only reads", (it) => {
  for (const [name, prepare] of Object.entries(operations)) {
    it.effect(`${name} is Unavailable`, () =>
      Effect.gen(function* () {
        const standby = yield* another({
          maxConnections: 1,
          startupParameters: { default_transaction_read_only: "on" }
        })
        const operation = yield* prepare
        const before = yield* everything
        const reason = yield* Effect.provideContext(reasonOf(operation), standby)
        assert.deepInclude(reason, { _tag: "Unavailable", origin: "database", sqlState: "25006" })
        assert.deepStrictEqual(yield* everything, before)
        assert.isNumber(yield* Effect.provideContext(Jobs.count({ scope: admin }), standby))
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Rows that the database will not take
// ---------------------------------------------------------------------------------------------------------------------

const poison = "poison"

/** What an application may have put on our tables, each refusing one row for ever. */
const refusing: Readonly<Record<string, ReadonlyArray<string>>> = {
  "a trigger that refuses the end of its lease": [
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.status <> 'LEASED' AND NEW.payload = '"${poison}"' THEN RAISE EXCEPTION 'refused'; END IF;
      RETURN NEW;
    END $$`,
    "CREATE TRIGGER refuse BEFORE UPDATE ON runledger.job_queue FOR EACH ROW EXECUTE FUNCTION refuse()"
  ],
  "a trigger that refuses the record of its attempt": [
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF (SELECT payload FROM runledger.job_queue WHERE id = NEW.job_id) = '"${poison}"' THEN
        RAISE EXCEPTION 'refused' USING ERRCODE = '23514', CONSTRAINT = 'chk_mine';
      END IF;
      RETURN NEW;
    END $$`,
    "CREATE TRIGGER refuse BEFORE INSERT ON runledger.job_attempts FOR EACH ROW EXECUTE FUNCTION refuse()"
  ],
  "a constraint that it breaks already, so that it cannot be updated at all": [
    `ALTER TABLE runledger.job_queue ADD CONSTRAINT chk_mine CHECK (payload <> '"${poison}"') NOT VALID`
  ]
}

/** Seven leased jobs, the fourth of which will be refused from now on. */
const poisoned = Effect.fnUntraced(function* (lease: number | "1 hour", statements: ReadonlyArray<string>) {
  const sql = yield* SqlClient
  const type = yield* makeType
  yield* Jobs.enqueueMany(
    Array.from({ length: 7 }, (_, n) => ({ jobType: type, payload: n === 3 ? poison : n, priority: 10 - n }))
  )
  const claimed = yield* Jobs.claim({ workerId: "w", types: [type], limit: 7, lease })
  const bad = only(claimed.filter(({ payload }) => payload === poison)).lease
  yield* Effect.forEach(statements, (statement) => sql.unsafe(statement))
  return { leases: claimed.map((job) => job.lease), bad }
})

const statusOf = (jobId: Jobs.JobId) => Effect.map(Jobs.get(admin, jobId), (job) => Option.getOrThrow(job).status)

for (const [what, statements] of Object.entries(refusing)) {
  describe(`Jobs: ${what}`, () => {
    for (const inside of [false, true]) {
      const where = inside ? "inside a caller's transaction" : "outside a transaction"

      it.effect(`completeMany answers that row alone and completes the others, ${where}`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient
          yield* own.create
          const { leases, bad } = yield* poisoned("1 hour", statements)
          const completions = leases.map(
            (lease, n): Jobs.Completion =>
              n < 2 ? { _tag: "Failure", lease, ...failure } : { _tag: "Success", lease, output: n }
          )
          const complete = Effect.tap(Jobs.completeMany(completions), own.write("after"))
          const answers = answersOf(yield* inside ? sql.withTransaction(complete) : complete)
          const refusal = answers[3]
          assert.include(["ConstraintViolation", "QueryFailed"], refusal)
          assert.deepStrictEqual(answers, ["done", "done", "done", refusal, "done", "done", "done"])
          assert.deepStrictEqual(yield* Effect.forEach(leases, ({ jobId }) => statusOf(jobId)), [
            "PENDING",
            "PENDING",
            "SUCCEEDED",
            "LEASED",
            "SUCCEEDED",
            "SUCCEEDED",
            "SUCCEEDED"
          ])
          assert.deepStrictEqual(yield* own.take, ["after"])
          assert.strictEqual(leases.indexOf(bad), 3)
        }).pipe(Effect.provide(TestDatabase.layer))
      )

      it.effect(`the reaper postpones that row alone and reaps the others, ${where}`, () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient
          yield* own.create
          const { leases, bad } = yield* poisoned(1, statements)
          const reap = Effect.tap(Jobs.reapExpiredLeases({ limit: 100 }), own.write("after"))
          const reaped = yield* inside ? sql.withTransaction(reap) : reap
          assert.deepStrictEqual(
            reaped.leases.map(({ jobId }) => jobId).sort(),
            leases.flatMap((lease) => (lease === bad ? [] : [lease.jobId])).sort()
          )
          assert.deepStrictEqual(
            reaped.postponed.map(({ jobId }) => jobId),
            [bad.jobId]
          )
          assert.include(["ConstraintViolation", "QueryFailed"], only(reaped.postponed).reason._tag)
          assert.deepStrictEqual(yield* Effect.forEach(leases, ({ jobId }) => statusOf(jobId)), [
            "PENDING",
            "PENDING",
            "PENDING",
            "LEASED",
            "PENDING",
            "PENDING",
            "PENDING"
          ])
          assert.deepStrictEqual(yield* own.take, ["after"])
        }).pipe(Effect.provide(TestDatabase.layer))
      )
    }
  })
}

describe("Jobs: the reaper and one row that the database refuses", () => {
  const refuse = Object.values(refusing)[0] ?? []

  it.effect("finds it wherever it stands, whatever the limit", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { leases, bad } = yield* poisoned(1, refuse)
      const others = leases.filter((lease) => lease !== bad)
      for (let limit = 1; limit <= 9; limit++) {
        for (let place = 0; place < leases.length; place++) {
          const order = [...others.slice(0, place), bad, ...others.slice(place)].map(({ jobId }) => jobId)
          yield* sql`
            UPDATE runledger.job_queue q SET
              status = 'LEASED', worker_id = 'w', leased_at = now(), lease_ms = 1, claim_origin = 'DIRECT',
              run_number = q.run_number + 1, attempt = 1, leased_seq = 2, started_seq = 3, attempt_started_at = now(),
              lease_expires_at = now() - (${leases.length} - o.place) * interval '1 second'
            FROM unnest(${order}::uuid[]) WITH ORDINALITY AS o (id, place) WHERE q.id = o.id`
          const { leases: reaped, postponed } = yield* Jobs.reapExpiredLeases({ limit })
          const within = order.slice(0, limit)
          assert.deepStrictEqual(
            reaped.map(({ jobId }) => jobId).sort(),
            within.filter((jobId) => jobId !== bad.jobId).sort(),
            `limit ${limit}, place ${place}`
          )
          assert.deepStrictEqual(
            postponed.map(({ jobId }) => jobId),
            within.filter((jobId) => jobId === bad.jobId)
          )
        }
      }
    }).pipe(Effect.provide(TestDatabase.layer))
  )

  it.effect("postpones no other row, even if somebody else holds that one by then", () =>
    Effect.gen(function* () {
      const { leases, bad } = yield* poisoned(1, refuse)
      const sql = yield* SqlClient
      yield* sql`
        UPDATE runledger.job_queue SET lease_expires_at = lease_expires_at - interval '1 hour' WHERE id = ${bad.jobId}::uuid`
      const faults = yield* Faults
      const gate = yield* makeGate
      // the first statement meets the row; before the next one, another connection takes it
      yield* faults.arm([{ nth: 2, fault: waitAt(gate) }])
      const reaper = yield* Effect.forkChild(Jobs.reapExpiredLeases({ limit: 1 }))
      yield* gate.reached
      yield* faults.unwrapped.withTransaction(
        Effect.gen(function* () {
          yield* faults.unwrapped`SELECT FROM runledger.job_queue WHERE id = ${bad.jobId}::uuid FOR UPDATE`
          yield* gate.open
          const reaped = yield* Fiber.join(reaper)
          assert.deepStrictEqual(reaped.postponed, [])
          assert.strictEqual(reaped.leases.length, 1)
        })
      )
      const expired = yield* sql<{ id: string }>`
        SELECT id FROM runledger.job_queue WHERE status = 'LEASED' AND lease_expires_at < clock_timestamp()`
      assert.strictEqual(expired.length, leases.length - 1)
    }).pipe(Effect.provide(faulty()), Effect.provide(TestDatabase.layer))
  )
})
