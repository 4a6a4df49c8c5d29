import { isDeepStrictEqual } from "node:util"
import { assert, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Option, type Result } from "effect"
import type { Json } from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Workflows from "../src/Workflows.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { whileRunIsHeld } from "./support/workflows.ts"

type Row = Readonly<Record<string, unknown>>

const leaseMillis = 30_000
const workerId = "worker"
const maxInt = 2_147_483_647

/** The reason that an operation is refused with. */
const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const unique = (name: string) => `${name}-${crypto.randomUUID()}`

/** A declared type of its own, retried without jitter unless said otherwise. */
const declare = Effect.fnUntraced(function* (name: string, settings: JobDefinitions.DefinitionSettings = {}) {
  const jobType = unique(name)
  yield* JobDefinitions.upsert(jobType, { ...settings, retry: { jitter: 0, ...settings.retry } })
  return jobType
})

const rowOf = (jobId: string) =>
  SqlClient.use((sql) => sql<Row>`SELECT * FROM runledger.job_queue WHERE id = ${jobId}::uuid`).pipe(
    Effect.flatMap(([row]) => (row === undefined ? Effect.die(`no job ${jobId}`) : Effect.succeed(row)))
  )

const claimOne = Effect.fnUntraced(function* (jobType: string, claim: typeof Jobs.claim = Jobs.claim) {
  const [job] = yield* claim({ workerId, types: [jobType], limit: 1, lease: leaseMillis })
  if (job === undefined) return yield* Effect.die(`nothing of ${jobType} to claim`)
  return job
})

const enqueued = Effect.fnUntraced(function* (jobType: string, options?: Jobs.EnqueueOptions) {
  const { jobId } = yield* Jobs.enqueue(jobType, { n: 1 }, options)
  return jobId
})

/** A leased job of a type of its own. */
const leasedJob = Effect.fnUntraced(function* (name: string, settings?: JobDefinitions.DefinitionSettings) {
  const jobType = yield* declare(name, settings)
  yield* enqueued(jobType)
  return yield* claimOne(jobType)
})

const nowDate = Effect.map(DateTime.now, (now) => new Date(now.epochMilliseconds))
const after = (date: Date, millis: number) => new Date(date.getTime() + millis)
const utc = (date: Date) => DateTime.makeUnsafe(date.getTime())

// ---------------------------------------------------------------------------------------------------------------------
// The matrix of transitions
// ---------------------------------------------------------------------------------------------------------------------

interface Subject {
  readonly jobId: Jobs.JobId
  readonly jobType: string
  /** The lease that is held, or was last held. */
  readonly lease: Jobs.Lease
}

const failure = { kind: "RETRYABLE", code: "smtp.down", message: "no answer" } as const

/** Leaves on the row what a transition may have to clear or to keep. */
const used = Effect.fnUntraced(function* (jobId: string) {
  const sql = yield* SqlClient
  yield* sql`
    UPDATE runledger.job_queue
    SET
      output = '"old"', checkpoint = '{"page": 3}', progress_done = 3, progress_total = 10, status_reason = 'OLD',
      last_error_code = 'old', last_error_message = 'old'
    WHERE id = ${jobId}::uuid
  `
})

const pending = Effect.gen(function* () {
  const jobType = yield* declare("matrix", { maxAttempts: 2 })
  const jobId = yield* enqueued(jobType)
  yield* used(jobId)
  const subject: Subject = { jobId, jobType, lease: { jobId, runNumber: 1, attempt: 1, workerId } }
  return subject
})
const direct = Effect.tap(pending, ({ jobType }) => claimOne(jobType))
const prefetched = Effect.tap(pending, ({ jobType }) => claimOne(jobType, Jobs.claimPrestart))
const started = Effect.tap(prefetched, ({ lease }) => Jobs.markRunning(lease))
/** Back in the queue after its first attempt. */
const retrying = Effect.gen(function* () {
  const subject = yield* direct
  yield* Jobs.completeFailure(subject.lease, failure)
  yield* TestClock.adjust("10 seconds")
  yield* used(subject.jobId)
  return { ...subject, lease: { ...subject.lease, attempt: 2 } }
})
const last = Effect.tap(retrying, ({ jobType }) => claimOne(jobType))
const lastPrefetched = Effect.tap(retrying, ({ jobType }) => claimOne(jobType, Jobs.claimPrestart))
const lapsed = <E, R>(subject: Effect.Effect<Subject, E, R>) => Effect.tap(subject, TestClock.adjust(leaseMillis))

type From = "pending" | "direct" | "prefetched" | "started" | "retrying" | "last" | "lastPrefetched"
const from: Readonly<Record<From, Effect.Effect<Subject, QueryError<Reason> | SqlError, SqlClient>>> = {
  pending,
  direct,
  prefetched,
  started,
  retrying,
  last,
  lastPrefetched
}

/** What stands on the row while it is leased; null in every other state. */
const noAttempt = {
  worker_id: null,
  leased_at: null,
  lease_ms: null,
  claim_origin: null,
  leased_seq: null,
  last_heartbeat_at: null
}
const noStart = { attempt_started_at: null, started_seq: null }
const noLease = { ...noAttempt, lease_expires_at: null }
const noErrors = { status_reason: null, last_error_code: null, last_error_message: null }
const failed = { last_error_code: "smtp.down", last_error_message: "no answer" }
const expired = {
  status_reason: "LEASE_EXPIRED",
  last_error_code: "job.lease_expired",
  last_error_message: "The lease ran out"
}
const claimed = (at: Date) => ({
  status: "LEASED",
  worker_id: workerId,
  leased_at: at,
  lease_ms: leaseMillis,
  lease_expires_at: after(at, leaseMillis),
  last_heartbeat_at: at
})

type Operation = (subject: Subject) => Effect.Effect<unknown, QueryError<Reason> | SqlError, SqlClient>

/** Every column that changes, besides `updated_at`, which always is the instant of the operation. */
const transitions: ReadonlyArray<readonly [title: string, from: From, Operation, changes: (at: Date) => Row]> = [
  [
    "claim leases, counts the attempt and marks the start",
    "pending",
    ({ jobType }) => claimOne(jobType),
    (at) => ({
      ...claimed(at),
      attempt: 1,
      claim_origin: "DIRECT",
      attempt_started_at: at,
      started_at: at,
      stage: "running",
      leased_seq: 2,
      started_seq: 3,
      event_seq: 3
    })
  ],
  [
    "claim of a retry keeps the first start of the run",
    "retrying",
    ({ jobType }) => claimOne(jobType),
    (at) => ({
      ...claimed(at),
      attempt: 2,
      claim_origin: "DIRECT",
      attempt_started_at: at,
      stage: "running",
      leased_seq: 6,
      started_seq: 7,
      event_seq: 7
    })
  ],
  [
    "claimPrestart leases and counts the attempt, but does not mark the start",
    "pending",
    ({ jobType }) => claimOne(jobType, Jobs.claimPrestart),
    (at) => ({
      ...claimed(at),
      attempt: 1,
      claim_origin: "WORKER_PRESTART",
      started_at: at,
      leased_seq: 2,
      event_seq: 2
    })
  ],
  [
    "markRunning marks the start",
    "prefetched",
    ({ lease }) => Jobs.markRunning(lease),
    (at) => ({ stage: "running", attempt_started_at: at, started_seq: 3, event_seq: 3 })
  ],
  [
    "markRunning takes progress along, which is one more event",
    "prefetched",
    ({ lease }) => Jobs.markRunning(lease, { done: 4, total: 8, checkpoint: [4] }),
    (at) => ({
      stage: "running",
      attempt_started_at: at,
      started_seq: 3,
      event_seq: 4,
      progress_done: 4n,
      progress_total: 8n,
      checkpoint: [4]
    })
  ],
  [
    "markRunning changes nothing of an attempt that has started",
    "started",
    ({ lease }) => Jobs.markRunning(lease),
    () => ({})
  ],
  ["markRunning changes nothing of a direct claim", "direct", ({ lease }) => Jobs.markRunning(lease), () => ({})],
  [
    "markRunning of a started attempt only writes the progress",
    "direct",
    ({ lease }) => Jobs.markRunning(lease, { done: 5 }),
    () => ({ progress_done: 5n, event_seq: 4 })
  ],
  ["an empty progress update changes nothing", "direct", ({ lease }) => Jobs.updateProgress(lease, {}), () => ({})],
  [
    "progress keeps what is not given",
    "direct",
    ({ lease }) => Jobs.updateProgress(lease, { total: 6 }),
    () => ({ progress_total: 6n, event_seq: 4 })
  ],
  [
    "a checkpoint alone is no event",
    "direct",
    ({ lease }) => Jobs.updateProgress(lease, { checkpoint: "here" }),
    () => ({ checkpoint: "here" })
  ],
  [
    "progress does not start a prefetched attempt",
    "prefetched",
    ({ lease }) => Jobs.updateProgress(lease, { done: 5 }),
    () => ({ progress_done: 5n, event_seq: 3 })
  ],
  [
    "heartbeat renews from now",
    "direct",
    ({ lease }) => Jobs.heartbeat(lease, { extend: "45 seconds" }),
    (at) => ({ lease_expires_at: after(at, 45_000), last_heartbeat_at: at, renewed: true })
  ],
  [
    "heartbeat renews for a minute by default",
    "direct",
    ({ lease }) => Jobs.heartbeat(lease),
    (at) => ({ lease_expires_at: after(at, 60_000), last_heartbeat_at: at, renewed: true })
  ],
  [
    "heartbeat may shorten a lease",
    "direct",
    ({ lease }) => Jobs.heartbeat(lease, { extend: "1 millis" }),
    (at) => ({ lease_expires_at: after(at, 1), last_heartbeat_at: at, renewed: true })
  ],
  [
    "heartbeat before the start is no renewal by the handler",
    "prefetched",
    ({ lease }) => Jobs.heartbeat(lease, { extend: "45 seconds" }),
    (at) => ({ lease_expires_at: after(at, 45_000), last_heartbeat_at: at })
  ],
  [
    "success without an output has none, and clears the errors",
    "direct",
    ({ lease }) => Jobs.completeSuccess(lease),
    (at) => ({
      ...noLease,
      ...noStart,
      ...noErrors,
      status: "SUCCEEDED",
      stage: "completed",
      finished_at: at,
      output: null,
      event_seq: 4
    })
  ],
  [
    "success stores output, progress and checkpoint",
    "started",
    ({ lease }) => Jobs.completeSuccess(lease, { output: { sent: true }, done: 10, checkpoint: null }),
    (at) => ({
      ...noLease,
      ...noStart,
      ...noErrors,
      status: "SUCCEEDED",
      stage: "completed",
      finished_at: at,
      output: { sent: true },
      progress_done: 10n,
      checkpoint: null,
      event_seq: 4
    })
  ],
  [
    "success of an attempt that never started is accepted",
    "prefetched",
    ({ lease }) => Jobs.completeSuccess(lease),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "SUCCEEDED",
      stage: "completed",
      finished_at: at,
      output: null,
      event_seq: 3
    })
  ],
  [
    "a failure with attempts left goes back to the queue",
    "direct",
    ({ lease }) => Jobs.completeFailure(lease, failure),
    (at) => ({
      ...noLease,
      ...noStart,
      ...failed,
      status: "PENDING",
      stage: "queued",
      next_run_at: after(at, 10_000),
      output: null,
      status_reason: "RETRYABLE",
      event_seq: 5
    })
  ],
  [
    "a timeout with attempts left goes back to the queue",
    "direct",
    ({ lease }) => Jobs.completeFailure(lease, { ...failure, kind: "TIMEOUT" }),
    (at) => ({
      ...noLease,
      ...noStart,
      ...failed,
      status: "PENDING",
      stage: "queued",
      next_run_at: after(at, 10_000),
      output: null,
      status_reason: "TIMEOUT",
      event_seq: 5
    })
  ],
  ...(["TERMINAL", "PANICKED"] as const).map((kind): (typeof transitions)[number] => [
    `a failure of kind ${kind} is final, however many attempts are left`,
    "direct",
    ({ lease }) => Jobs.completeFailure(lease, { ...failure, kind }),
    (at) => ({
      ...noLease,
      ...noStart,
      ...failed,
      status: "DEAD_LETTERED",
      finished_at: at,
      output: null,
      status_reason: kind,
      event_seq: 5
    })
  ]),
  [
    "a failure of the last attempt is final",
    "last",
    ({ lease }) => Jobs.completeFailure(lease, failure),
    (at) => ({
      ...noLease,
      ...noStart,
      ...failed,
      status: "DEAD_LETTERED",
      finished_at: at,
      output: null,
      status_reason: "RETRYABLE",
      event_seq: 9
    })
  ],
  [
    "a continuation begins the next run, keeping progress and checkpoint",
    "last",
    ({ lease }) => Jobs.completeContinuation(lease),
    (at) => ({
      ...noLease,
      ...noStart,
      ...noErrors,
      status: "PENDING",
      stage: "queued",
      run_number: 2,
      attempt: 0,
      next_run_at: at,
      output: null,
      started_at: null,
      status_reason: "HANDLER_CONTINUATION",
      event_seq: 8
    })
  ],
  [
    "a continuation may bring a delay, progress and a checkpoint",
    "prefetched",
    ({ lease }) => Jobs.completeContinuation(lease, { delay: "2 minutes", done: 5, checkpoint: { page: 5 } }),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      run_number: 2,
      attempt: 0,
      next_run_at: after(at, 120_000),
      progress_done: 5n,
      checkpoint: { page: 5 },
      output: null,
      started_at: null,
      status_reason: "HANDLER_CONTINUATION",
      event_seq: 3
    })
  ],
  [
    "the release of a first attempt gives it back, and its start",
    "prefetched",
    ({ lease }) => Jobs.releaseUnstarted(lease),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      attempt: 0,
      next_run_at: at,
      started_at: null,
      output: null,
      event_seq: 3
    })
  ],
  [
    "the release of a later attempt keeps the start of the run",
    "lastPrefetched",
    ({ lease }) => Jobs.releaseUnstarted(lease, { delay: "1 minute" }),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      attempt: 1,
      next_run_at: after(at, 60_000),
      output: null,
      event_seq: 7
    })
  ],
  [
    "cancel of a pending job",
    "pending",
    ({ jobId }) => Jobs.cancel(TenantScope.global, jobId),
    (at) => ({ status: "CANCELED", finished_at: at, output: null, status_reason: "CANCELED", event_seq: 2 })
  ],
  [
    "cancel of a leased job keeps the expiry of the lease, by which its handler is gone",
    "direct",
    ({ jobId }) => Jobs.cancel(TenantScope.admin, jobId, { reason: "withdrawn" }),
    (at) => ({
      ...noAttempt,
      ...noStart,
      status: "CANCELED",
      finished_at: at,
      output: null,
      status_reason: "withdrawn",
      event_seq: 4
    })
  ]
]

/** As {@link transitions}, after the lease ran out. */
const reapings: typeof transitions = [
  [
    "the reaper gives a prefetched claim back that never started",
    "prefetched",
    () => Jobs.reapExpiredLeases({ limit: 1000 }),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      attempt: 0,
      next_run_at: at,
      started_at: null,
      output: null,
      event_seq: 3
    })
  ],
  [
    "the reaper gives back the last attempt too, if it never started",
    "lastPrefetched",
    () => Jobs.reapExpiredLeases({ limit: 1000 }),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      attempt: 1,
      next_run_at: at,
      output: null,
      event_seq: 7
    })
  ],
  ...(["direct", "started"] as const).map((origin): (typeof transitions)[number] => [
    `the reaper counts an expired ${origin === "direct" ? "direct claim" : "start"} as a failure and retries it by its policy`,
    origin,
    () => Jobs.reapExpiredLeases({ limit: 1000 }),
    (at) => ({
      ...noLease,
      ...noStart,
      ...expired,
      status: "PENDING",
      stage: "queued",
      next_run_at: after(at, 10_000),
      output: null,
      event_seq: 5
    })
  ]),
  [
    "the reaper buries an expired last attempt",
    "last",
    () => Jobs.reapExpiredLeases({ limit: 1000 }),
    (at) => ({
      ...noLease,
      ...noStart,
      ...expired,
      status: "DEAD_LETTERED",
      finished_at: at,
      output: null,
      event_seq: 9
    })
  ],
  [
    "cancel of a job whose lease ran out unnoticed",
    "direct",
    ({ jobId }) => Jobs.cancel(TenantScope.global, jobId),
    (at) => ({
      ...noAttempt,
      ...noStart,
      status: "CANCELED",
      finished_at: at,
      output: null,
      status_reason: "CANCELED",
      event_seq: 4
    })
  ],
  [
    "the release of an expired claim that nobody reaped",
    "prefetched",
    ({ lease }) => Jobs.releaseUnstarted(lease, { reason: "SHUTDOWN" }),
    (at) => ({
      ...noLease,
      ...noErrors,
      status: "PENDING",
      attempt: 0,
      next_run_at: at,
      started_at: null,
      output: null,
      event_seq: 3
    })
  ]
]

const changesOf = (before: Row, now: Row): Row =>
  Object.fromEntries(Object.entries(now).filter(([column, value]) => !isDeepStrictEqual(before[column], value)))

const verify = Effect.fnUntraced(function* (
  origin: Effect.Effect<Subject, QueryError<Reason> | SqlError, SqlClient>,
  operation: Operation,
  changes: (at: Date) => Row
) {
  const subject = yield* origin
  yield* TestClock.adjust("1 second")
  const before = yield* rowOf(subject.jobId)
  const at = yield* nowDate
  yield* operation(subject)
  const changed = changesOf(before, yield* rowOf(subject.jobId))
  assert.deepStrictEqual(changed, { ...changes(at), updated_at: at })
})

// ---------------------------------------------------------------------------------------------------------------------
// Every write of a lease holder
// ---------------------------------------------------------------------------------------------------------------------

/** Fails with the refusal of the one row of a batch. */
const single = <A, E, Failure, Needs>(batch: Effect.Effect<ReadonlyArray<Result.Result<A, E>>, Failure, Needs>) =>
  Effect.flatMap(batch, ([answer]) => (answer === undefined ? Effect.die("no answer") : Effect.fromResult(answer)))

type LeaseWrite = (lease: Jobs.Lease) => Effect.Effect<unknown, QueryError<Reason> | Reason, SqlClient>

const leaseWrites: ReadonlyArray<{ readonly name: string; readonly write: LeaseWrite }> = [
  { name: "heartbeat", write: (lease) => Jobs.heartbeat(lease) },
  { name: "heartbeatMany", write: (lease) => single(Jobs.heartbeatMany([lease])) },
  { name: "markRunning", write: (lease) => Jobs.markRunning(lease) },
  { name: "updateProgress", write: (lease) => Jobs.updateProgress(lease, { done: 1 }) },
  { name: "an empty updateProgress", write: (lease) => Jobs.updateProgress(lease, {}) },
  { name: "completeSuccess", write: (lease) => Jobs.completeSuccess(lease) },
  { name: "completeFailure", write: (lease) => Jobs.completeFailure(lease, failure) },
  { name: "completeContinuation", write: (lease) => Jobs.completeContinuation(lease) },
  {
    name: "completeMany with a success",
    write: (lease) => single(Jobs.completeMany([{ _tag: "Success", lease }]))
  },
  {
    name: "completeMany with a failure",
    write: (lease) => single(Jobs.completeMany([{ _tag: "Failure", lease, ...failure }]))
  },
  {
    name: "completeMany with a continuation",
    write: (lease) => single(Jobs.completeMany([{ _tag: "Continuation", lease }]))
  }
]

const tagOf = (error: QueryError<Reason> | Reason) => (error._tag === "QueryError" ? error.reason._tag : error._tag)

it.layer(TestDatabase.layerTestClock)("the life of a job", (it) => {
  it.effect.each(transitions.map(([title, origin, operation, changes]) => ({ title, origin, operation, changes })))(
    "from $origin: $title",
    ({ origin, operation, changes }) => verify(from[origin], operation, changes)
  )

  it.effect.each(reapings.map(([title, origin, operation, changes]) => ({ title, origin, operation, changes })))(
    "expired, from $origin: $title",
    ({ origin, operation, changes }) => verify(lapsed(from[origin]), operation, changes)
  )

  it.effect("enqueue writes a row that has lived nothing yet", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("fresh")
      const at = yield* nowDate
      const jobId = yield* enqueued(jobType)
      const row = yield* rowOf(jobId)
      assert.deepStrictEqual(row, {
        ...noLease,
        ...noStart,
        ...noErrors,
        id: jobId,
        job_type: jobType,
        payload_version: 1,
        organization_id: null,
        payload: { n: 1 },
        status: "PENDING",
        priority: 0,
        run_number: 1,
        attempt: 0,
        max_attempts: 3,
        timeout_seconds: 300,
        next_run_at: at,
        renewed: false,
        event_seq: 1,
        started_at: null,
        finished_at: null,
        stage: "queued",
        progress_done: null,
        progress_total: null,
        checkpoint: null,
        output: null,
        idempotency_key: null,
        enqueue_request: null,
        execution_resource_key: null,
        workflow_run_id: null,
        workflow_step_id: null,
        trace_parent: null,
        created_at: at,
        updated_at: at
      })
    })
  )

  it.effect("get shows what is stored", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("shown")
      const organizationId = crypto.randomUUID()
      const at = DateTime.makeUnsafe((yield* nowDate).getTime())
      const { jobId } = yield* Jobs.enqueue(
        jobType,
        { n: 1 },
        { organizationId, priority: 7, maxAttempts: 4, timeout: "90 seconds", payloadVersion: 2, idempotencyKey: "k" }
      )
      const [job] = yield* Jobs.claim({
        workerId,
        types: [{ jobType, maxPayloadVersion: 2 }],
        limit: 1,
        lease: leaseMillis
      })
      const claimed: Jobs.ClaimedJob = {
        lease: { jobId, runNumber: 1, attempt: 1, workerId },
        jobType,
        payloadVersion: 2,
        organizationId: Option.some(organizationId),
        payload: { n: 1 },
        priority: 7,
        maxAttempts: 4,
        timeoutSeconds: 90,
        leaseExpiresAt: DateTime.add(at, { milliseconds: leaseMillis }),
        checkpoint: Option.none(),
        progress: { done: Option.none(), total: Option.none() },
        createdAt: at,
        workflow: Option.none(),
        traceParent: Option.none()
      }
      assert.deepStrictEqual(job, claimed)
      yield* Jobs.updateProgress(claimed.lease, { done: 1, total: 3, checkpoint: { page: 1 } })
      const leased = Option.getOrThrow(yield* Jobs.get(TenantScope.organization(organizationId), jobId))
      assert.isFalse(leased.isTerminal)
      assert.deepStrictEqual(
        { ...leased },
        {
          id: jobId,
          jobType,
          payloadVersion: 2,
          organizationId: Option.some(organizationId),
          payload: { n: 1 },
          status: "LEASED",
          priority: 7,
          runNumber: 1,
          attempt: 1,
          maxAttempts: 4,
          timeoutSeconds: 90,
          nextRunAt: at,
          leaseExpiresAt: Option.some(DateTime.add(at, { milliseconds: leaseMillis })),
          lastHeartbeatAt: Option.some(at),
          workerId: Option.some(workerId),
          startedAt: Option.some(at),
          finishedAt: Option.none(),
          stage: "running",
          progressDone: Option.some(1),
          progressTotal: Option.some(3),
          progressPct: Option.some(33.33),
          checkpoint: Option.some<Json>({ page: 1 }),
          output: Option.none(),
          idempotencyKey: Option.some("k"),
          executionResourceKey: Option.none(),
          statusReason: Option.none(),
          lastErrorCode: Option.none(),
          lastErrorMessage: Option.none(),
          workflowRunId: Option.none(),
          workflowStepId: Option.none(),
          createdAt: at,
          updatedAt: at
        }
      )
      yield* Jobs.completeSuccess(claimed.lease)
      assert.isTrue(Option.getOrThrow(yield* Jobs.get(TenantScope.admin, jobId)).isTerminal)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Leases
  // -------------------------------------------------------------------------------------------------------------------

  it.effect.each(leaseWrites)("$name: a lease lasts exactly as long as asked", ({ write }) =>
    Effect.gen(function* () {
      const alive = yield* leasedJob("alive")
      const dead = yield* leasedJob("dead")
      yield* TestClock.adjust(leaseMillis - 1)
      yield* write(alive.lease)
      yield* TestClock.adjust(1)
      const before = yield* rowOf(dead.lease.jobId)
      assert.strictEqual(tagOf(yield* Effect.flip(write(dead.lease))), "LeaseOwnerMismatch")
      assert.deepStrictEqual(yield* rowOf(dead.lease.jobId), before)
    })
  )

  it.effect.each(leaseWrites)("$name: refused unless job, run, attempt and worker all match", ({ write }) =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("fence")
      const before = yield* rowOf(lease.jobId)
      const strangers: ReadonlyArray<Jobs.Lease> = [
        { ...lease, jobId: Jobs.JobId.make("01980000-0000-7000-8000-000000000001") },
        { ...lease, runNumber: 2 },
        { ...lease, attempt: 2 },
        { ...lease, workerId: "Worker" },
        { ...lease, workerId: "worker " },
        // the same characters, divided otherwise
        { ...lease, attempt: 11, workerId: "orker" }
      ]
      for (const stranger of strangers) {
        assert.strictEqual(tagOf(yield* Effect.flip(write(stranger))), "LeaseOwnerMismatch", JSON.stringify(stranger))
      }
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
      yield* write(lease)
    })
  )

  it.effect.each(leaseWrites)("$name: refused once the attempt has ended, however it ended", ({ write }) =>
    Effect.gen(function* () {
      const endings: ReadonlyArray<(lease: Jobs.Lease) => Effect.Effect<unknown, QueryError<Reason>, SqlClient>> = [
        (lease) => Jobs.completeSuccess(lease),
        (lease) => Jobs.completeFailure(lease, failure),
        (lease) => Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL" }),
        (lease) => Jobs.completeContinuation(lease),
        (lease) => Jobs.cancel(TenantScope.global, lease.jobId)
      ]
      for (const end of endings) {
        const { lease } = yield* leasedJob("ended")
        yield* end(lease)
        const before = yield* rowOf(lease.jobId)
        assert.strictEqual(tagOf(yield* Effect.flip(write(lease))), "LeaseOwnerMismatch")
        assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
      }
    })
  )

  it.effect.each(leaseWrites)("$name: an earlier attempt never writes to a later one", ({ write }) =>
    Effect.gen(function* () {
      const { jobType, lease } = yield* leasedJob("stale")
      yield* TestClock.adjust(leaseMillis)
      yield* Jobs.reapExpiredLeases({ limit: 1000 })
      yield* TestClock.adjust("10 seconds")
      const current = yield* claimOne(jobType)
      assert.deepStrictEqual(current.lease, { ...lease, attempt: 2 })
      const before = yield* rowOf(lease.jobId)
      assert.strictEqual(tagOf(yield* Effect.flip(write(lease))), "LeaseOwnerMismatch")
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
      yield* write(current.lease)
    })
  )

  it.effect("a renewed lease lasts from its renewal", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("renewed")
      yield* TestClock.adjust(leaseMillis - 1)
      const { leaseExpiresAt } = yield* Jobs.heartbeat(lease, { extend: "1 minute" })
      assert.deepStrictEqual(leaseExpiresAt, DateTime.add(yield* DateTime.now, { minutes: 1 }))
      yield* TestClock.adjust("59999 millis")
      yield* Jobs.updateProgress(lease, {})
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* refusal(Jobs.heartbeat(lease)))._tag, "LeaseOwnerMismatch")
    })
  )

  it.effect("the longest lease is 2,147,483,647 milliseconds, the default a minute, a fraction is rounded up", () =>
    Effect.gen(function* () {
      for (const [lease, millis] of [
        [maxInt, maxInt],
        [undefined, 60_000],
        [Duration.millis(0.2), 1]
      ] as const) {
        const jobType = yield* declare("length")
        yield* enqueued(jobType)
        const [job] = yield* Jobs.claim({ workerId, types: [jobType], limit: 1, lease })
        assert.deepStrictEqual(job?.leaseExpiresAt, DateTime.add(yield* DateTime.now, { milliseconds: millis }))
      }
    })
  )

  it.effect("a reaper takes a lease at its expiry, not before, and only once", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("reaped", { maxAttempts: 1 })
      const reaped = Effect.map(Jobs.reapExpiredLeases({ limit: 1000 }), ({ leases }) =>
        leases.filter(({ jobId }) => jobId === lease.jobId)
      )
      yield* TestClock.adjust(leaseMillis - 1)
      assert.deepStrictEqual(yield* reaped, [])
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* reaped).length, 1)
      assert.deepStrictEqual(yield* reaped, [])
    })
  )

  it.effect("a reaper takes the oldest leases first, as many as asked", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 hour")
      yield* Jobs.reapExpiredLeases({ limit: 1000 })
      const ids: Array<string> = []
      for (const name of ["first", "second", "third"]) {
        ids.push((yield* leasedJob(name)).lease.jobId)
        yield* TestClock.adjust(1)
      }
      yield* TestClock.adjust(leaseMillis)
      const { leases, postponed } = yield* Jobs.reapExpiredLeases({ limit: 2 })
      assert.deepStrictEqual(
        leases.map(({ jobId }) => jobId),
        ids.slice(0, 2)
      )
      assert.deepStrictEqual(postponed, [])
      const rest = yield* Jobs.reapExpiredLeases({ limit: 2 })
      assert.deepStrictEqual(
        rest.leases.map(({ jobId }) => jobId),
        ids.slice(2)
      )
    })
  )

  it.effect("a reaper tells what it did with each lease", () =>
    Effect.gen(function* () {
      yield* TestClock.adjust("1 hour")
      yield* Jobs.reapExpiredLeases({ limit: 1000 })
      const jobType = yield* declare("told", { maxAttempts: 2 })
      const organizationId = crypto.randomUUID()
      const jobId = yield* enqueued(jobType, { organizationId })
      const common = {
        jobId,
        jobType,
        organizationId: Option.some(organizationId),
        runNumber: 1,
        maxAttempts: 2,
        workerId
      }
      const reap = Effect.andThen(
        TestClock.adjust(leaseMillis),
        Effect.map(Jobs.reapExpiredLeases({ limit: 10 }), ({ leases }) => leases)
      )

      yield* claimOne(jobType, Jobs.claimPrestart)
      assert.deepStrictEqual(yield* reap, [
        { ...common, attempt: 1, startedWithoutRenewal: false, disposition: { _tag: "Released" } }
      ])

      const { lease } = yield* claimOne(jobType)
      yield* Jobs.updateProgress(lease, { checkpoint: { page: 1 } })
      const [retried] = yield* reap
      const nextRunAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
      assert.deepStrictEqual(retried, {
        ...common,
        attempt: 1,
        startedWithoutRenewal: true,
        disposition: {
          _tag: "RetryScheduled",
          retryDelayMillis: 10_000,
          nextRunAt,
          source: "POLICY",
          checkpoint: Option.some<Json>({ page: 1 })
        }
      })

      yield* TestClock.adjust("10 seconds")
      yield* Jobs.heartbeat((yield* claimOne(jobType)).lease, { extend: leaseMillis })
      assert.deepStrictEqual(yield* reap, [
        {
          ...common,
          attempt: 2,
          startedWithoutRenewal: false,
          disposition: {
            _tag: "DeadLettered",
            reason: "LEASE_EXPIRED",
            checkpoint: Option.some<Json>({ page: 1 })
          }
        }
      ])
    })
  )

  it.effect("a reaper's retries follow the definition: its growth, and its override for the code", () =>
    Effect.gen(function* () {
      const grown = yield* declare("grown", { retry: { initial: "7 seconds", factor: 3 } })
      const overridden = yield* declare("overridden", { retry: { overrides: { "job.lease_expired": "42 seconds" } } })
      const ids = [yield* enqueued(grown), yield* enqueued(overridden)]
      const delays: Array<unknown> = []
      for (let attempt = 1; attempt <= 2; attempt++) {
        yield* claimOne(grown)
        yield* claimOne(overridden)
        yield* TestClock.adjust(leaseMillis)
        const { leases } = yield* Jobs.reapExpiredLeases({ limit: 1000 })
        for (const id of ids) {
          const disposition = leases.find(({ jobId }) => jobId === id)?.disposition
          delays.push(disposition?._tag === "RetryScheduled" ? disposition.retryDelayMillis : disposition)
        }
        yield* TestClock.adjust("1 minute")
      }
      assert.deepStrictEqual(delays, [7_000, 42_000, 21_000, 42_000])
    })
  )

  it.effect("a prefetched attempt that has started, and a direct claim, are never given back", () =>
    Effect.gen(function* () {
      for (const subject of [yield* direct, yield* started]) {
        const before = yield* rowOf(subject.jobId)
        const reason = yield* refusal(Jobs.releaseUnstarted(subject.lease))
        assert.strictEqual(reason._tag, "UnstartedClaimReleaseNotApplicable")
        assert.deepStrictEqual(yield* rowOf(subject.jobId), before)
      }
    })
  )

  it.effect("a release says whether another worker holds the job, or nobody", () =>
    Effect.gen(function* () {
      const subject = yield* prefetched
      const tags = (lease: Jobs.Lease) => Effect.map(refusal(Jobs.releaseUnstarted(lease)), ({ _tag }) => _tag)
      assert.strictEqual(yield* tags({ ...subject.lease, workerId: "somebody else" }), "LeaseOwnerMismatch")
      assert.strictEqual(yield* tags({ ...subject.lease, attempt: 2 }), "UnstartedClaimReleaseNotApplicable")
      assert.strictEqual(yield* tags({ ...subject.lease, runNumber: 2 }), "UnstartedClaimReleaseNotApplicable")
      yield* Jobs.releaseUnstarted(subject.lease)
      assert.strictEqual(yield* tags(subject.lease), "UnstartedClaimReleaseNotApplicable")
      assert.strictEqual(
        yield* tags({ ...subject.lease, jobId: Jobs.JobId.make("01980000-0000-7000-8000-000000000001") }),
        "UnstartedClaimReleaseNotApplicable"
      )
    })
  )

  it.effect("released claims never use up attempts", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("released", { maxAttempts: 1 })
      yield* enqueued(jobType)
      for (let round = 0; round < 3; round++) {
        const { lease } = yield* claimOne(jobType, Jobs.claimPrestart)
        assert.strictEqual(lease.attempt, 1)
        yield* Jobs.releaseUnstarted(lease)
        yield* claimOne(jobType, Jobs.claimPrestart)
        yield* TestClock.adjust(leaseMillis)
        yield* Jobs.reapExpiredLeases({ limit: 1000 })
      }
      yield* Jobs.completeSuccess((yield* claimOne(jobType)).lease)
    })
  )

  it.effect("a job that kills its process at once uses up its attempts", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("killer", { maxAttempts: 3 })
      const jobId = yield* enqueued(jobType)
      for (let attempt = 1; attempt <= 3; attempt++) {
        assert.strictEqual((yield* claimOne(jobType)).lease.attempt, attempt)
        yield* TestClock.adjust(leaseMillis)
        yield* Jobs.reapExpiredLeases({ limit: 1000 })
        yield* TestClock.adjust("5 minutes")
      }
      assert.strictEqual((yield* rowOf(jobId)).status, "DEAD_LETTERED")
      assert.deepStrictEqual(yield* Jobs.claim({ workerId, types: [jobType], limit: 1 }), [])
    })
  )

  it.effect("progress is checked together with what is stored", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("merged")
      yield* Jobs.updateProgress(lease, { done: 3, total: 10 })
      const before = yield* rowOf(lease.jobId)
      assert.strictEqual((yield* refusal(Jobs.updateProgress(lease, { done: 11 })))._tag, "InvalidProgress")
      assert.strictEqual((yield* refusal(Jobs.markRunning(lease, { total: 2 })))._tag, "InvalidProgress")
      assert.strictEqual((yield* refusal(Jobs.completeSuccess(lease, { done: 11 })))._tag, "InvalidCompletionProgress")
      assert.strictEqual(
        (yield* refusal(Jobs.completeContinuation(lease, { total: 2 })))._tag,
        "InvalidCompletionProgress"
      )
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
      const { progress } = yield* Jobs.completeSuccess(lease, { done: 11, total: 11 })
      assert.deepStrictEqual(progress, { done: Option.some(11), total: Option.some(11) })
    })
  )

  it.effect("progress without a total, or of nothing, is accepted", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("partial")
      yield* Jobs.updateProgress(lease, { done: 5 })
      const percent = Effect.map(Jobs.get(TenantScope.admin, lease.jobId), (job) => Option.getOrThrow(job).progressPct)
      assert.deepStrictEqual(yield* percent, Option.none())
      yield* Jobs.updateProgress(lease, { done: 0, total: 0 })
      assert.deepStrictEqual(yield* percent, Option.none())
      yield* Jobs.updateProgress(lease, { done: 1, total: 3 })
      assert.deepStrictEqual(yield* percent, Option.some(33.33))
      yield* Jobs.updateProgress(lease, { done: Number.MAX_SAFE_INTEGER, total: Number.MAX_SAFE_INTEGER })
      const { progressDone } = Option.getOrThrow(yield* Jobs.get(TenantScope.admin, lease.jobId))
      assert.deepStrictEqual(progressDone, Option.some(Number.MAX_SAFE_INTEGER))
    })
  )

  it.effect("a checkpoint of null is a value; a checkpoint that is left out is kept", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lease } = yield* leasedJob("checkpoint")
      const stored = Effect.map(
        sql<{ text: string | null }>`
          SELECT checkpoint::text AS text FROM runledger.job_queue WHERE id = ${lease.jobId}::uuid
        `,
        ([row]) => row?.text
      )
      assert.isNull(yield* stored)
      yield* Jobs.updateProgress(lease, { checkpoint: { page: 1 } })
      yield* Jobs.updateProgress(lease, { done: 1 })
      assert.strictEqual(yield* stored, '{"page": 1}')
      yield* Jobs.updateProgress(lease, { checkpoint: null })
      assert.strictEqual(yield* stored, "null")
    })
  )

  it.effect("an output of null is a value; an output that is left out is none", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const outputs: Array<unknown> = []
      for (const options of [{}, { output: null }, { output: 0 }, { output: "" }, { output: false }]) {
        const { lease } = yield* leasedJob("output")
        yield* used(lease.jobId)
        yield* Jobs.completeSuccess(lease, options)
        const [row] = yield* sql`SELECT output::text AS text FROM runledger.job_queue WHERE id = ${lease.jobId}::uuid`
        outputs.push(row?.text)
      }
      assert.deepStrictEqual(outputs, [null, "null", "0", '""', "false"])
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Retries
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("a job is due at its instant, not a millisecond before", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("due")
      const ids = [
        yield* enqueued(jobType, { runAt: DateTime.add(yield* DateTime.now, { seconds: 1 }) }),
        yield* enqueued(jobType, { delay: "2 seconds" })
      ]
      for (const id of ids) {
        yield* TestClock.adjust("999 millis")
        assert.deepStrictEqual(yield* Jobs.claim({ workerId, types: [jobType], limit: 1 }), [])
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* claimOne(jobType)).lease.jobId, id)
      }
    })
  )

  it.effect("retries wait 10 s, 20 s, 40 s and so on up to 5 minutes, and are due exactly then", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("backoff", { maxAttempts: 9 })
      yield* enqueued(jobType)
      const delays: Array<number> = []
      for (let attempt = 1; attempt < 9; attempt++) {
        const { lease } = yield* claimOne(jobType)
        assert.strictEqual(lease.attempt, attempt)
        const disposition = yield* Jobs.completeFailure(lease, failure)
        if (disposition._tag !== "RetryScheduled") return yield* Effect.die(disposition)
        const { retryDelayMillis, nextRunAt, source } = disposition
        assert.strictEqual(source, "POLICY")
        assert.deepStrictEqual(nextRunAt, DateTime.add(yield* DateTime.now, { milliseconds: retryDelayMillis }))
        delays.push(retryDelayMillis)
        yield* TestClock.adjust(retryDelayMillis - 1)
        assert.deepStrictEqual(yield* Jobs.claim({ workerId, types: [jobType], limit: 1 }), [])
        yield* TestClock.adjust(1)
      }
      assert.deepStrictEqual(delays, [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000, 300_000])
      const disposition = yield* Jobs.completeFailure((yield* claimOne(jobType)).lease, failure)
      assert.deepStrictEqual(disposition, {
        _tag: "DeadLettered",
        reason: "ATTEMPTS_EXHAUSTED",
        checkpoint: Option.none()
      })
      return undefined
    })
  )

  it.effect("the growth is the definition's, as it is when the attempt fails", () =>
    Effect.gen(function* () {
      const { jobType, lease } = yield* leasedJob("changed", { maxAttempts: 9 })
      const delayOf = (current: Jobs.Lease) =>
        Effect.map(Jobs.completeFailure(current, failure), (it) =>
          it._tag === "RetryScheduled" ? it.retryDelayMillis : it.reason
        )
      yield* JobDefinitions.update(jobType, { retry: { initial: "1 second", factor: 1.5, max: "2 seconds" } })
      assert.strictEqual(yield* delayOf(lease), 1000)
      const next = Effect.andThen(TestClock.adjust("1 hour"), claimOne(jobType))
      assert.strictEqual(yield* delayOf((yield* next).lease), 1500)
      assert.strictEqual(yield* delayOf((yield* next).lease), 2000)
      // attempts are the job's own: a definition that allows fewer does not end it
      yield* JobDefinitions.update(jobType, { maxAttempts: 1, retry: { factor: 1, max: "1 hour" } })
      assert.strictEqual(yield* delayOf((yield* next).lease), 1000)
    })
  )

  it.effect("an override decides for its code alone, without growth or jitter", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("override", {
        maxAttempts: 9,
        retry: { jitter: 1, overrides: { throttled: "2 minutes", far: maxInt, near: 1 } }
      })
      yield* enqueued(jobType)
      const delays: Array<unknown> = []
      for (const code of ["throttled", "throttled", "near", "far"]) {
        const disposition = yield* Jobs.completeFailure((yield* claimOne(jobType)).lease, { ...failure, code })
        delays.push(disposition._tag === "RetryScheduled" ? disposition.retryDelayMillis : disposition.reason)
        yield* TestClock.adjust("2 minutes")
      }
      assert.deepStrictEqual(delays, [120_000, 120_000, 1, maxInt])
      // codes are compared exactly
      const other = yield* declare("override", { retry: { overrides: { throttled: "2 minutes" } } })
      yield* enqueued(other)
      const disposition = yield* Jobs.completeFailure((yield* claimOne(other)).lease, { ...failure, code: "Throttled" })
      assert.strictEqual(disposition._tag === "RetryScheduled" && disposition.retryDelayMillis, 10_000)
    })
  )

  it.effect("an override that an operator wrote as 60000.0 is a whole number too", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { jobType, lease } = yield* leasedJob("decimal")
      yield* sql`
        UPDATE runledger.job_definitions SET retry_overrides = '{"smtp.down": 60000.0}' WHERE job_type = ${jobType}
      `
      const disposition = yield* Jobs.completeFailure(lease, failure)
      assert.strictEqual(disposition._tag === "RetryScheduled" && disposition.retryDelayMillis, 60_000)
    })
  )

  it.effect("jitter stays within its fraction, fills it, and is drawn for each job of a statement", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("jitter", { retry: { jitter: 0.5 } })
      yield* Jobs.enqueueMany(Array.from({ length: 1000 }, () => ({ jobType, payload: null })))
      const jobs = yield* Jobs.claim({ workerId, types: [jobType], limit: 1000 })
      const answers = yield* Jobs.completeMany(
        jobs.map(({ lease }) => ({ _tag: "Failure" as const, lease, ...failure }))
      )
      const delays = yield* Effect.forEach(answers, Effect.fromResult).pipe(
        Effect.map((completed) => completed.map((it) => (it._tag === "RetryScheduled" ? it.retryDelayMillis : 0)))
      )
      assert.strictEqual(delays.length, 1000)
      assert.isAtLeast(Math.min(...delays), 5_000)
      assert.isAtMost(Math.max(...delays), 15_000)
      assert.isBelow(Math.min(...delays), 5_500)
      assert.isAbove(Math.max(...delays), 14_500)
      assert.closeTo(delays.reduce((sum, delay) => sum + delay, 0) / delays.length, 10_000, 500)
      assert.isAbove(new Set(delays).size, 800)
    })
  )

  it.effect("of a batch, each success leaves what it gives, and keeps of the rest what it should", () =>
    Effect.gen(function* () {
      const gives = { output: { sent: true }, done: 5, total: 20, checkpoint: { page: 4 } }
      const fields = Object.entries(gives)
      const subsets = Array.from({ length: 2 ** fields.length }, (_, n) =>
        Object.fromEntries(fields.filter((_, at) => n & (1 << at)))
      )
      // as a whole, and each alone: what no row of a statement gives is not looked for
      for (const batch of [subsets, ...subsets.map((given) => [given])]) {
        const jobType = yield* declare("gives")
        yield* Jobs.enqueueMany(batch.map(() => ({ jobType, payload: null })))
        const jobs = yield* Jobs.claim({ workerId, types: [jobType], limit: batch.length })
        yield* Effect.forEach(jobs, ({ lease }) => used(lease.jobId), { discard: true })
        const answers = yield* Jobs.completeMany(
          jobs.map(({ lease }, n) => ({ _tag: "Success" as const, lease, ...batch[n] }))
        )
        for (const [n, answer] of answers.entries()) {
          const kept = { output: null, done: 3, total: 10, checkpoint: { page: 3 }, ...batch[n] }
          assert.deepStrictEqual(yield* Effect.fromResult(answer), {
            _tag: "Succeeded",
            progress: { done: Option.some(kept.done), total: Option.some(kept.total) }
          })
          const row = yield* rowOf(jobs[n]?.lease.jobId ?? "")
          assert.deepStrictEqual(
            { output: row.output, done: row.progress_done, total: row.progress_total, checkpoint: row.checkpoint },
            { ...kept, done: BigInt(kept.done), total: BigInt(kept.total) }
          )
        }
      }
    })
  )

  it.effect("without a definition, the defaults are retried, in the reaper too", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const undeclared = unique("undeclared")
      const jobType = yield* declare("orphan", { maxAttempts: 9, retry: { initial: "1 hour", max: "1 hour" } })
      yield* enqueued(jobType)
      yield* sql`UPDATE runledger.job_queue SET job_type = ${undeclared} WHERE job_type = ${jobType}`
      const bounds = [10_000, 20_000, 40_000]
      for (const expected of bounds) {
        const disposition = yield* Jobs.completeFailure((yield* claimOne(undeclared)).lease, failure)
        const delay = disposition._tag === "RetryScheduled" ? disposition.retryDelayMillis : 0
        assert.isAtLeast(delay, expected * 0.9)
        assert.isAtMost(delay, expected * 1.1)
        yield* TestClock.adjust("1 minute")
      }
      const { lease } = yield* claimOne(undeclared)
      yield* TestClock.adjust(leaseMillis)
      const { leases } = yield* Jobs.reapExpiredLeases({ limit: 1000 })
      const disposition = leases.find(({ jobId }) => jobId === lease.jobId)?.disposition
      const delay = disposition?._tag === "RetryScheduled" ? disposition.retryDelayMillis : 0
      assert.isAtLeast(delay, 72_000)
      assert.isAtMost(delay, 88_000)
    })
  )

  const bounds: ReadonlyArray<{
    readonly title: string
    readonly bound: (now: Date) => NonNullable<Jobs.FailureOptions["retryNotBefore"]>
    /** Milliseconds from the failure to the retry, and to what was asked, if that is kept. */
    readonly due: number
    readonly requested: number | undefined
    readonly source: "POLICY" | "HANDLER_NOT_BEFORE"
  }> = [
    { title: "no delay", bound: () => ({ delay: 0 }), due: 10_000, requested: undefined, source: "POLICY" },
    {
      title: "a shorter delay",
      bound: () => ({ delay: "5 seconds" }),
      due: 10_000,
      requested: 5_000,
      source: "POLICY"
    },
    { title: "an equal delay", bound: () => ({ delay: 10_000 }), due: 10_000, requested: 10_000, source: "POLICY" },
    {
      title: "a longer delay, rounded up",
      bound: () => ({ delay: Duration.millis(10_000.2) }),
      due: 10_001,
      requested: 10_001,
      source: "HANDLER_NOT_BEFORE"
    },
    {
      title: "the longest delay",
      bound: () => ({ delay: maxInt }),
      due: maxInt,
      requested: maxInt,
      source: "HANDLER_NOT_BEFORE"
    },
    {
      title: "an instant in the past",
      bound: (now) => ({ at: utc(after(now, -1)) }),
      due: 10_000,
      requested: -1,
      source: "POLICY"
    },
    {
      title: "an instant that is now",
      bound: (now) => ({ at: utc(now) }),
      due: 10_000,
      requested: 0,
      source: "POLICY"
    },
    {
      title: "a later instant",
      bound: (now) => ({ at: utc(after(now, 3_600_000)) }),
      due: 3_600_000,
      requested: 3_600_000,
      source: "HANDLER_NOT_BEFORE"
    },
    {
      title: "an instant that is not representable, long ago",
      bound: () => ({ at: DateTime.makeUnsafe(-8.64e15) }),
      due: 10_000,
      requested: undefined,
      source: "POLICY"
    }
  ]

  it.effect.each(bounds)("the handler's lower bound for a retry: $title", ({ bound, due, requested, source }) =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("bound")
      yield* TestClock.adjust("1 second")
      const now = yield* nowDate
      const nextRunAt = utc(after(now, due))
      assert.deepStrictEqual(yield* Jobs.completeFailure(lease, { ...failure, retryNotBefore: bound(now) }), {
        _tag: "RetryScheduled",
        retryDelayMillis: 10_000,
        nextRunAt,
        source,
        checkpoint: Option.none()
      })
      const [attempt] = yield* Jobs.attempts(TenantScope.global, lease.jobId)
      assert.deepStrictEqual(attempt?.retryDelayMillis, Option.some(10_000))
      assert.deepStrictEqual(attempt?.effectiveNextRunAt, Option.some(nextRunAt))
      assert.deepStrictEqual(attempt?.retryTimingSource, Option.some(source))
      assert.deepStrictEqual(
        attempt?.requestedRetryNotBefore,
        requested === undefined ? Option.none() : Option.some(utc(after(now, requested)))
      )
    })
  )

  it.effect("the last representable instant holds a retry back", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("eternity")
      const at = DateTime.makeUnsafe("9999-12-31T23:59:59.999Z")
      const disposition = yield* Jobs.completeFailure(lease, { ...failure, retryNotBefore: { at } })
      assert.deepStrictEqual(disposition._tag === "RetryScheduled" && disposition.nextRunAt, at)
    })
  )

  it.effect("a final failure takes no notice of a lower bound", () =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("final")
      yield* Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL", retryNotBefore: { delay: "1 hour" } })
      const [attempt] = yield* Jobs.attempts(TenantScope.global, lease.jobId)
      assert.deepStrictEqual(
        [attempt?.retryDelayMillis, attempt?.effectiveNextRunAt, attempt?.requestedRetryNotBefore],
        [Option.none(), Option.none(), Option.none()]
      )
      assert.deepStrictEqual(attempt?.outcome, Option.some("TERMINAL"))
    })
  )

  it.effect.each([
    { title: "the defaults", retry: {}, expected: 300_000 },
    { title: "the steepest growth", retry: { initial: maxInt, factor: 100, max: maxInt }, expected: maxInt },
    { title: "no growth", retry: { factor: 1 }, expected: 10_000 },
    { title: "the widest jitter", retry: { initial: maxInt, jitter: 1 }, expected: undefined }
  ])("no number of attempts overflows the delay: $title", ({ retry, expected }) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("overflow", { retry })
      for (let round = 0; round < 10; round++) {
        const jobId = yield* enqueued(jobType, { maxAttempts: maxInt })
        yield* sql`UPDATE runledger.job_queue SET attempt = ${maxInt - 2} WHERE id = ${jobId}::uuid`
        const { lease } = yield* claimOne(jobType)
        assert.strictEqual(lease.attempt, maxInt - 1)
        const disposition = yield* Jobs.completeFailure(lease, failure)
        const delay = disposition._tag === "RetryScheduled" ? disposition.retryDelayMillis : 0
        if (expected !== undefined) assert.strictEqual(delay, expected)
        assert.isAtLeast(delay, 1)
        assert.isAtMost(delay, maxInt)
        yield* sql`UPDATE runledger.job_queue SET next_run_at = created_at WHERE id = ${jobId}::uuid`
        const final = yield* claimOne(jobType)
        assert.strictEqual(final.lease.attempt, maxInt)
        assert.strictEqual((yield* Jobs.completeFailure(final.lease, failure))._tag, "DeadLettered")
      }
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Dead letters, continuations, cancellation
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("a job has one dead letter, which shows its last end", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* declare("letters", { maxAttempts: 1 })
      const organizationId = crypto.randomUUID()
      const scope = TenantScope.organization(organizationId)
      const jobId = yield* enqueued(jobType, { organizationId })
      const letters = Jobs.deadLetters({ scope, jobType })
      const again = sql`
        UPDATE runledger.job_queue
        SET status = 'PENDING', run_number = run_number + 1, attempt = 0, finished_at = NULL
        WHERE id = ${jobId}::uuid
      `
      const common = { jobId, jobType, organizationId: Option.some(organizationId), attempt: 1, payload: { n: 1 } }

      const first = yield* claimOne(jobType)
      yield* Jobs.updateProgress(first.lease, { checkpoint: { page: 1 } })
      yield* Jobs.completeFailure(first.lease, { ...failure, kind: "PANICKED" })
      assert.deepStrictEqual(
        (yield* letters).map((letter) => ({ ...letter })),
        [
          {
            ...common,
            runNumber: 1,
            reason: "FAILURE_KIND_NON_RETRYABLE",
            failureKind: "PANICKED",
            errorCode: Option.some("smtp.down"),
            errorMessage: Option.some("no answer"),
            checkpoint: Option.some<Json>({ page: 1 }),
            failedAt: yield* DateTime.now
          }
        ]
      )

      yield* again
      yield* TestClock.adjust("1 second")
      const second = yield* claimOne(jobType)
      yield* Jobs.updateProgress(second.lease, { checkpoint: { page: 2 } })
      yield* Jobs.completeFailure(second.lease, { kind: "TIMEOUT", code: "late", message: "too late" })
      assert.deepStrictEqual(
        (yield* letters).map((letter) => ({ ...letter })),
        [
          {
            ...common,
            runNumber: 2,
            reason: "ATTEMPTS_EXHAUSTED",
            failureKind: "TIMEOUT",
            errorCode: Option.some("late"),
            errorMessage: Option.some("too late"),
            checkpoint: Option.some<Json>({ page: 2 }),
            failedAt: yield* DateTime.now
          }
        ]
      )

      yield* again
      yield* claimOne(jobType)
      yield* TestClock.adjust(leaseMillis)
      yield* Jobs.reapExpiredLeases({ limit: 1000 })
      const [letter, ...others] = yield* letters
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(
        [letter?.runNumber, letter?.reason, letter?.failureKind],
        [3, "LEASE_EXPIRED", "LEASE_EXPIRED"]
      )
    })
  )

  it.effect("dead letters come latest first, a page at a time, without loss at equal times", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("pages", { maxAttempts: 1 })
      for (let batch = 0; batch < 3; batch++) {
        yield* Jobs.enqueueMany(Array.from({ length: 3 }, (_, n) => ({ jobType, payload: n })))
        const jobs = yield* Jobs.claim({ workerId, types: [jobType], limit: 3 })
        yield* Jobs.completeMany(jobs.map(({ lease }) => ({ _tag: "Failure" as const, lease, ...failure })))
        yield* TestClock.adjust("1 second")
      }
      const all = yield* Jobs.deadLetters({ scope: TenantScope.global, jobType })
      assert.strictEqual(all.length, 9)
      const order = all.map((letter) => `${DateTime.formatIso(letter.failedAt)} ${letter.jobId}`)
      assert.deepStrictEqual(order, order.toSorted().reverse())
      for (let limit = 1; limit <= 10; limit++) {
        const seen: Array<Jobs.DeadLetter> = []
        for (;;) {
          const page = yield* Jobs.deadLetters({ scope: TenantScope.admin, jobType, limit, before: seen.at(-1) })
          assert.isAtMost(page.length, limit)
          if (page.length === 0) break
          seen.push(...page)
        }
        assert.deepStrictEqual(seen, [...all])
      }
    })
  )

  it.effect("continuations are not limited by the number of attempts; failures of each run are", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("sliced", { maxAttempts: 2 })
      const jobId = yield* enqueued(jobType)
      for (let run = 1; run <= 5; run++) {
        const failing = yield* claimOne(jobType)
        assert.deepStrictEqual(failing.lease, { jobId, runNumber: run, attempt: 1, workerId })
        yield* Jobs.completeFailure(failing.lease, failure)
        yield* TestClock.adjust("10 seconds")
        const { lease } = yield* claimOne(jobType)
        assert.deepStrictEqual(lease, { jobId, runNumber: run, attempt: 2, workerId })
        assert.deepStrictEqual(yield* Jobs.completeContinuation(lease, { done: run, checkpoint: { run } }), {
          _tag: "Continued",
          jobType,
          nextRunNumber: run + 1,
          nextRunAt: yield* DateTime.now,
          progress: { done: Option.some(run), total: Option.none() }
        })
      }
      const { lease, checkpoint, progress } = yield* claimOne(jobType)
      assert.deepStrictEqual(checkpoint, Option.some<Json>({ run: 5 }))
      assert.deepStrictEqual(progress, { done: Option.some(5), total: Option.none() })
      assert.deepStrictEqual(lease, { jobId, runNumber: 6, attempt: 1, workerId })
      yield* Jobs.completeFailure(lease, failure)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Jobs.completeFailure((yield* claimOne(jobType)).lease, failure))._tag, "DeadLettered")
    })
  )

  it.effect("a delayed continuation is due at its time, up to a hundred years ahead", () =>
    Effect.gen(function* () {
      const { jobType, lease } = yield* leasedJob("delayed")
      const { nextRunAt } = yield* Jobs.completeContinuation(lease, { delay: Duration.millis(1.2) })
      assert.deepStrictEqual(nextRunAt, DateTime.add(yield* DateTime.now, { milliseconds: 2 }))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Jobs.claim({ workerId, types: [jobType], limit: 1 }), [])
      yield* TestClock.adjust(1)
      const again = yield* claimOne(jobType)
      const far = yield* Jobs.completeContinuation(again.lease, { delay: "36525 days" })
      assert.deepStrictEqual(far.nextRunAt, DateTime.add(yield* DateTime.now, { days: 36_525 }))
    })
  )

  it.effect.each([
    { status: "SUCCEEDED", end: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeSuccess(lease)) },
    {
      status: "DEAD_LETTERED",
      end: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeFailure(lease, { ...failure, kind: "TERMINAL" }))
    },
    {
      status: "CANCELED",
      end: (lease: Jobs.Lease) => Effect.asVoid(Jobs.cancel(TenantScope.global, lease.jobId))
    }
  ])("a job that is $status cannot be canceled, and is told apart from one that does not exist", ({ status, end }) =>
    Effect.gen(function* () {
      const { lease } = yield* leasedJob("over")
      yield* end(lease)
      const before = yield* rowOf(lease.jobId)
      const reason = yield* refusal(Jobs.cancel(TenantScope.global, lease.jobId))
      assert.deepStrictEqual(reason._tag === "InvalidStateTransition" && [reason.jobId, reason.status], [
        lease.jobId,
        status
      ])
      assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
      const elsewhere = yield* refusal(Jobs.cancel(TenantScope.organization(crypto.randomUUID()), lease.jobId))
      assert.strictEqual(elsewhere._tag, "JobNotFound")
    })
  )

  it.effect("cancel returns the job as it then is", () =>
    Effect.gen(function* () {
      const { lease, leaseExpiresAt } = yield* leasedJob("returned")
      const canceled = yield* Jobs.cancel(TenantScope.global, lease.jobId, { reason: "withdrawn" })
      assert.deepStrictEqual(Option.some(canceled), yield* Jobs.get(TenantScope.global, lease.jobId))
      assert.strictEqual(canceled.status, "CANCELED")
      assert.deepStrictEqual(canceled.leaseExpiresAt, Option.some(leaseExpiresAt))
      assert.deepStrictEqual(canceled.workerId, Option.none())
    })
  )

  it.effect("an id may be given in any case where it only selects", () =>
    Effect.gen(function* () {
      const { jobType } = yield* leasedJob("case")
      const jobId = yield* enqueued(jobType)
      const shouted = Jobs.JobId.make(jobId.toUpperCase())
      assert.isTrue(Option.isSome(yield* Jobs.get(TenantScope.admin, shouted)))
      assert.strictEqual((yield* Jobs.statuses(TenantScope.admin, [shouted, jobId])).length, 1)
      assert.strictEqual((yield* Jobs.events(TenantScope.admin, shouted)).length, 1)
      assert.strictEqual((yield* Jobs.cancel(TenantScope.admin, shouted)).id, jobId)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Workflow jobs
  // -------------------------------------------------------------------------------------------------------------------

  /** The leased job of a run of one step. */
  const leasedStep = Effect.gen(function* () {
    const jobType = yield* declare("step", { maxAttempts: 1 })
    const { run } = yield* Workflows.enqueue({
      workflowType: "single",
      steps: [{ stepKey: "only", jobType, payload: null }]
    })
    const { lease } = yield* claimOne(jobType)
    const standing = Effect.gen(function* () {
      const [step] = yield* Workflows.steps(TenantScope.admin, run.id)
      const found = yield* Workflows.get(TenantScope.admin, run.id)
      return [step?.status, Option.map(found, ({ status }) => status).pipe(Option.getOrUndefined)]
    })
    return { runId: run.id, lease, standing }
  })

  it.effect.each([
    {
      title: "success",
      end: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeSuccess(lease)),
      step: "SUCCEEDED",
      run: "SUCCEEDED"
    },
    {
      title: "failure",
      end: (lease: Jobs.Lease) => Effect.asVoid(Jobs.completeFailure(lease, failure)),
      step: "FAILED",
      run: "COMPLETED_WITH_ERRORS"
    },
    {
      title: "cancellation",
      end: ({ jobId }: Jobs.Lease) => Effect.asVoid(Jobs.cancel(TenantScope.global, jobId)),
      step: "CANCELED",
      run: "COMPLETED_WITH_ERRORS"
    },
    {
      title: "the reaper",
      end: () => Effect.andThen(TestClock.adjust(leaseMillis), Effect.asVoid(Jobs.reapExpiredLeases({ limit: 1000 }))),
      step: "FAILED",
      run: "COMPLETED_WITH_ERRORS"
    }
  ])("a job of a workflow run is ended by $title together with its step and its run", ({ end, step, run }) =>
    Effect.gen(function* () {
      const { lease, standing } = yield* leasedStep
      yield* end(lease)
      assert.deepStrictEqual<ReadonlyArray<string | undefined>>(yield* standing, [step, run])
    })
  )

  it.effect("while somebody holds the run, its job is renewed and reports progress, and is not ended", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lease, runId } = yield* leasedStep
      const impatient = <A, R extends Reason>(self: Effect.Effect<A, QueryError<R>, SqlClient>) =>
        refusal(
          sql
            .withTransaction(Effect.andThen(Effect.orDie(sql`SET LOCAL lock_timeout = '10ms'`), self))
            .pipe(Effect.catchTag("SqlError", Effect.die))
        )
      yield* whileRunIsHeld(
        runId,
        Effect.gen(function* () {
          yield* Jobs.heartbeat(lease, { extend: leaseMillis })
          yield* Jobs.updateProgress(lease, { done: 1 })
          const before = yield* rowOf(lease.jobId)
          assert.strictEqual((yield* impatient(Jobs.completeSuccess(lease)))._tag, "Unavailable")
          assert.strictEqual((yield* impatient(Jobs.completeFailure(lease, failure)))._tag, "Unavailable")
          assert.strictEqual((yield* impatient(Jobs.cancel(TenantScope.global, lease.jobId)))._tag, "Unavailable")
          // not the holder: nothing is said about the run, and nobody waits for it
          const stranger = yield* refusal(Jobs.completeSuccess({ ...lease, workerId: "stranger" }))
          assert.strictEqual(stranger._tag, "LeaseOwnerMismatch")
          yield* TestClock.adjust(leaseMillis)
          yield* Jobs.reapExpiredLeases({ limit: 1000 })
          assert.deepStrictEqual(yield* rowOf(lease.jobId), before)
        })
      )
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Scopes
  // -------------------------------------------------------------------------------------------------------------------

  const nil = "00000000-0000-0000-0000-000000000000"
  const tenant = "01980000-0000-7000-8000-00000000000a"
  const owners = [undefined, nil, tenant]
  const scopes: ReadonlyArray<{
    readonly title: string
    readonly scope: TenantScope.TenantScope
    readonly sees: ReadonlyArray<string | undefined>
  }> = [
    { title: "global", scope: TenantScope.global, sees: [undefined] },
    { title: "the nil organization", scope: TenantScope.organization(nil), sees: [nil] },
    { title: "an organization", scope: TenantScope.organization(tenant.toUpperCase()), sees: [tenant] },
    { title: "another organization", scope: TenantScope.organization(crypto.randomUUID()), sees: [] },
    { title: "admin", scope: TenantScope.admin, sees: owners }
  ]

  it.effect.each(scopes)("the scope of $title selects its jobs; others look absent", ({ scope, sees }) =>
    Effect.gen(function* () {
      const jobType = yield* declare("scoped", { maxAttempts: 1 })
      for (const organizationId of owners) yield* Jobs.enqueue(jobType, null, { organizationId })
      const claimed = yield* Jobs.claim({ workerId, types: [jobType], limit: 10 })
      yield* Effect.forEach(claimed, ({ lease }) => Jobs.completeFailure(lease, failure))
      const jobs = claimed.map(({ lease, organizationId }) => ({
        id: lease.jobId,
        visible: sees.includes(Option.getOrUndefined(organizationId))
      }))
      const expected = jobs.flatMap(({ id, visible }) => (visible ? [id] : [])).sort()
      assert.strictEqual(expected.length, sees.length)

      const listed = yield* Jobs.list({ scope, jobType })
      assert.deepStrictEqual(listed.map(({ id }) => id).toReversed(), expected)
      assert.strictEqual(yield* Jobs.count({ scope, jobType }), expected.length)
      const letters = yield* Jobs.deadLetters({ scope, jobType })
      assert.deepStrictEqual(letters.map(({ jobId }) => jobId).sort(), expected)
      const standing = yield* Jobs.statuses(
        scope,
        jobs.map(({ id }) => id)
      )
      assert.deepStrictEqual(
        standing.map(({ id }) => id),
        expected
      )
      for (const { id, visible } of jobs) {
        assert.strictEqual(Option.isSome(yield* Jobs.get(scope, id)), visible)
        assert.strictEqual((yield* Jobs.events(scope, id)).length, visible ? 5 : 0)
        assert.strictEqual((yield* Jobs.attempts(scope, id)).length, visible ? 1 : 0)
        assert.strictEqual(
          (yield* refusal(Jobs.cancel(scope, id)))._tag,
          visible ? "InvalidStateTransition" : "JobNotFound"
        )
      }

      for (const organizationId of owners) {
        const jobId = yield* enqueued(jobType, { organizationId })
        const canceled = yield* Effect.exit(Jobs.cancel(scope, jobId))
        assert.strictEqual(canceled._tag, sees.includes(organizationId) ? "Success" : "Failure")
        assert.strictEqual((yield* rowOf(jobId)).status, sees.includes(organizationId) ? "CANCELED" : "PENDING")
      }
    })
  )

  it.effect("lists come newest first, a page at a time, by status and exact type", () =>
    Effect.gen(function* () {
      const jobType = yield* declare("listed")
      const other = `${jobType}%`
      yield* JobDefinitions.upsert(other)
      const answers = yield* Jobs.enqueueMany(Array.from({ length: 7 }, (_, n) => ({ jobType, payload: n })))
      const ids = (yield* Effect.forEach(answers, Effect.fromResult)).map(({ jobId }) => jobId)
      yield* enqueued(other)
      yield* Jobs.claim({ workerId, types: [jobType], limit: 3 })
      const scope = TenantScope.global

      assert.deepStrictEqual(
        (yield* Jobs.list({ scope, jobType })).map(({ id }) => id),
        ids.toReversed()
      )
      assert.strictEqual((yield* Jobs.list({ scope, jobType: other })).length, 1)
      assert.deepStrictEqual(
        (yield* Jobs.list({ scope, jobType, status: "LEASED" })).map(({ id }) => id),
        ids.slice(0, 3).toReversed()
      )
      assert.strictEqual(yield* Jobs.count({ scope, jobType, status: "PENDING" }), 4)
      assert.strictEqual(yield* Jobs.count({ scope, jobType, status: "CANCELED" }), 0)
      for (let limit = 1; limit <= 8; limit++) {
        const seen: Array<Jobs.JobId> = []
        for (;;) {
          const page = yield* Jobs.list({ scope, jobType, limit, before: seen.at(-1) })
          if (page.length === 0) break
          assert.strictEqual(page.length, Math.min(limit, ids.length - seen.length))
          seen.push(...page.map(({ id }) => id))
        }
        assert.deepStrictEqual(seen, ids.toReversed())
      }
    })
  )

  it.effect("statuses come by id, each job once, unknown ones left out", () =>
    Effect.gen(function* () {
      const { jobType, lease } = yield* leasedJob("standing")
      const jobId = yield* enqueued(jobType)
      const unknown = Jobs.JobId.make(crypto.randomUUID())
      const standing = yield* Jobs.statuses(TenantScope.admin, [jobId, unknown, lease.jobId, jobId])
      assert.deepStrictEqual(
        standing.map(({ id, status, runNumber, attempt }) => [id, status, runNumber, attempt]),
        [
          [lease.jobId, "LEASED", 1, 1],
          [jobId, "PENDING", 1, 0]
        ]
      )
      assert.deepStrictEqual(yield* Jobs.statuses(TenantScope.admin, []), [])
    })
  )
})

// -----------------------------------------------------------------------------------------------------------------------
// The clock of the database
// -----------------------------------------------------------------------------------------------------------------------

it.layer(TestDatabase.layer)("the life of a job, by the clock of the database", (it) => {
  const jobType = "by.database"

  // these tests run with a client whose clock stands at the epoch
  it.effect.each(leaseWrites)("$name: the client's clock changes nothing", ({ write }) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* JobDefinitions.upsert(jobType)
      yield* Jobs.enqueue(jobType, null)
      yield* Jobs.enqueue(jobType, null)
      const [alive, dead] = yield* Jobs.claim({ workerId, types: [jobType], limit: 2, lease: "1 hour" })
      if (alive === undefined || dead === undefined) return yield* Effect.die("nothing to claim")
      yield* TestClock.adjust("2 hours")
      yield* write(alive.lease)
      yield* sql`
        UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() WHERE id = ${dead.lease.jobId}::uuid
      `
      assert.strictEqual(tagOf(yield* Effect.flip(write(dead.lease))), "LeaseOwnerMismatch")
      const { leases } = yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.deepStrictEqual(
        leases.map(({ jobId }) => jobId),
        [dead.lease.jobId]
      )
      yield* sql`DELETE FROM runledger.job_queue WHERE job_type = ${jobType}`
      return undefined
    })
  )

  it.effect("times on the row are those of the statement, also late in a long transaction", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* JobDefinitions.upsert(jobType)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          const jobId = yield* enqueued(jobType)
          const [job] = yield* Jobs.claim({ workerId, types: [jobType], limit: 1, lease: 10 })
          assert.strictEqual(job?.lease.jobId, jobId)
          const [row] = yield* sql`
            SELECT created_at > now() AS created, lease_expires_at = leased_at + interval '10 ms' AS leased
            FROM runledger.job_queue WHERE id = ${jobId}::uuid
          `
          assert.deepStrictEqual(row, { created: true, leased: true })
          yield* sql`DELETE FROM runledger.job_queue WHERE id = ${jobId}::uuid`
        })
      )
    })
  )
})
