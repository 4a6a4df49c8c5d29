import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Option } from "effect"
import type { Json } from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const workerId = "worker"
const failure = { kind: "RETRYABLE", code: "smtp.down", message: "no answer" } as const

// ---------------------------------------------------------------------------------------------------------------------
// A life: steps, one every ten seconds; what it leaves is told in seconds since the enqueue
// ---------------------------------------------------------------------------------------------------------------------

interface Life {
  readonly jobId: Jobs.JobId
  readonly jobType: string
  lease: Jobs.Lease
}

type Step = (life: Life) => Effect.Effect<unknown, QueryError<Reason> | SqlError, SqlClient>

const claimedBy =
  (claim: typeof Jobs.claim): Step =>
  (life) =>
    Effect.map(claim({ workerId, types: [life.jobType], limit: 1, lease: "1 minute" }), ([job]) => {
      assert.isDefined(job)
      life.lease = job.lease
    })

const claim = claimedBy(Jobs.claim)
const prefetch = claimedBy(Jobs.claimPrestart)
const start: Step = ({ lease }) => Jobs.markRunning(lease)
const startWith =
  (update: Jobs.ProgressUpdate): Step =>
  ({ lease }) =>
    Jobs.markRunning(lease, update)
const progress =
  (update: Jobs.ProgressUpdate): Step =>
  ({ lease }) =>
    Jobs.updateProgress(lease, update)
const heartbeat: Step = ({ lease }) => Jobs.heartbeat(lease, { extend: "1 minute" })
const succeed =
  (options: Jobs.SuccessOptions = {}): Step =>
  ({ lease }) =>
    Jobs.completeSuccess(lease, options)
const fail =
  (options: Partial<Jobs.FailureOptions> = {}): Step =>
  ({ lease }) =>
    Jobs.completeFailure(lease, { ...failure, ...options })
const continueWith =
  (options: Jobs.ContinuationOptions = {}): Step =>
  ({ lease }) =>
    Jobs.completeContinuation(lease, options)
const release =
  (options: Jobs.ReleaseOptions = {}): Step =>
  ({ lease }) =>
    Jobs.releaseUnstarted(lease, options)
const cancel =
  (options: Jobs.CancelOptions = {}): Step =>
  ({ jobId }) =>
    Jobs.cancel(TenantScope.global, jobId, options)
/** Fifty seconds later than other steps: the lease of a claim or heartbeat right before has just expired. */
const reap: Step = () => Effect.andThen(TestClock.adjust("50 seconds"), Jobs.reapExpiredLeases({ limit: 1000 }))

interface Event {
  readonly type: Jobs.JobEvent["type"]
  /** Seconds since the enqueue. */
  readonly at: number
  readonly run: number
  readonly attempt: number | null
  readonly stage: string | null
  readonly progress: readonly [done: number | null, total: number | null]
  readonly payload: Json
}

const event = (
  type: Event["type"],
  at: number,
  attempt: number | null,
  stage: string | null,
  payload: Json,
  rest: { readonly run?: number; readonly progress?: Event["progress"] } = {}
): Event => ({ type, at, run: 1, attempt, stage, progress: [null, null], payload, ...rest })

const enqueued = (stage = "queued") => event("ENQUEUED", 0, null, stage, { job_type: "life" })
const leasing = { worker_id: workerId, lease_duration_seconds: 60 }
const leased = (at: number, attempt: number, rest: { readonly run?: number; readonly stage?: string } = {}) =>
  event("LEASED", at, attempt, rest.stage ?? "queued", leasing, rest.run === undefined ? {} : { run: rest.run })
const running = (at: number, attempt: number, rest?: { readonly run: number }) =>
  event("STAGE_CHANGED", at, attempt, "running", {}, rest)
const progressed = (at: number, attempt: number, ...numbers: Event["progress"]) =>
  event("PROGRESS", at, attempt, null, {}, { progress: numbers })
const failed = (at: number, attempt: number) =>
  event("FAILED", at, attempt, null, { kind: "RETRYABLE", error_code: "smtp.down", error_message: "no answer" })
const retried = (at: number, attempt: number, delay: number) =>
  event("RETRY_SCHEDULED", at, attempt, "queued", {
    kind: "RETRYABLE",
    retry_delay_ms: delay * 1000,
    effective_next_run_at: at + delay,
    next_run_at: at + delay,
    retry_timing_source: "POLICY"
  })
const lapsed = (at: number, attempt: number, startedWithoutRenewal: boolean) =>
  event("FAILED", at, attempt, null, {
    kind: "LEASE_EXPIRED",
    error_code: "job.lease_expired",
    error_message: "The lease ran out",
    started_without_renewal_heartbeat: startedWithoutRenewal
  })
const lapsedRetried = (at: number, attempt: number, delay: number, startedWithoutRenewal: boolean) =>
  event("RETRY_SCHEDULED", at, attempt, "queued", {
    kind: "LEASE_EXPIRED",
    retry_delay_ms: delay * 1000,
    effective_next_run_at: at + delay,
    next_run_at: at + delay,
    retry_timing_source: "POLICY",
    started_without_renewal_heartbeat: startedWithoutRenewal
  })

interface Path {
  readonly title: string
  readonly options?: Jobs.EnqueueOptions
  readonly steps: ReadonlyArray<Step>
  readonly events: ReadonlyArray<Event>
}

/** What each operation leaves in the ledger. Attempts are two. */
const paths: ReadonlyArray<Path> = [
  { title: "enqueue", steps: [], events: [enqueued()] },
  {
    title: "enqueue with an initial stage, and its claim",
    options: { stage: "scheduled" },
    steps: [claim],
    events: [enqueued("scheduled"), leased(10, 1, { stage: "scheduled" }), running(10, 1)]
  },
  { title: "a claim, which also starts", steps: [claim], events: [enqueued(), leased(10, 1), running(10, 1)] },
  { title: "a claim ahead of the start", steps: [prefetch], events: [enqueued(), leased(10, 1)] },
  {
    title: "heartbeats leave no event",
    steps: [prefetch, heartbeat, start, heartbeat, heartbeat],
    events: [enqueued(), leased(10, 1), running(30, 1)]
  },
  {
    title: "one running event per attempt, however often the start is marked",
    steps: [prefetch, start, start, startWith({ checkpoint: 1 })],
    events: [enqueued(), leased(10, 1), running(20, 1)]
  },
  {
    title: "a start that brings progress",
    steps: [prefetch, startWith({ done: 0, total: 5 }), startWith({ done: 1 })],
    events: [enqueued(), leased(10, 1), running(20, 1), progressed(20, 1, 0, 5), progressed(30, 1, 1, null)]
  },
  {
    title: "progress, as it was given, not merged; a checkpoint leaves none",
    steps: [claim, progress({ total: 9 }), progress({ done: 2 }), progress({ checkpoint: [] }), progress({})],
    events: [enqueued(), leased(10, 1), running(10, 1), progressed(20, 1, null, 9), progressed(30, 1, 2, null)]
  },
  {
    title: "success, with what is stored and what is given merged",
    steps: [claim, progress({ done: 2, total: 9 }), succeed({ done: 9, output: 1 })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      progressed(20, 1, 2, 9),
      event("SUCCEEDED", 30, 1, "completed", {}, { progress: [9, 9] })
    ]
  },
  {
    title: "success of an attempt that never started",
    steps: [prefetch, succeed()],
    events: [enqueued(), leased(10, 1), event("SUCCEEDED", 20, 1, "completed", {})]
  },
  {
    title: "a failure that is retried, and the retry",
    steps: [claim, fail(), claim],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      failed(20, 1),
      retried(20, 1, 10),
      leased(30, 2),
      running(30, 2)
    ]
  },
  {
    title: "a failure whose handler asked for later",
    steps: [claim, fail({ retryNotBefore: { delay: "1 minute" } })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      failed(20, 1),
      event("RETRY_SCHEDULED", 20, 1, "queued", {
        kind: "RETRYABLE",
        retry_delay_ms: 10_000,
        requested_retry_not_before: 80,
        requested_retry_at: 80,
        effective_next_run_at: 80,
        next_run_at: 80,
        retry_timing_source: "HANDLER_NOT_BEFORE"
      })
    ]
  },
  {
    title: "a failure whose handler asked for sooner",
    steps: [claim, fail({ retryNotBefore: { delay: "5 seconds" } })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      failed(20, 1),
      event("RETRY_SCHEDULED", 20, 1, "queued", {
        kind: "RETRYABLE",
        retry_delay_ms: 10_000,
        requested_retry_not_before: 25,
        requested_retry_at: 25,
        effective_next_run_at: 30,
        next_run_at: 30,
        retry_timing_source: "POLICY"
      })
    ]
  },
  {
    title: "a failure of a kind that is never retried",
    steps: [claim, fail({ kind: "PANICKED" })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      event("FAILED", 20, 1, null, { kind: "PANICKED", error_code: "smtp.down", error_message: "no answer" }),
      event("DEAD_LETTERED", 20, 1, null, { kind: "PANICKED", error_code: "smtp.down" })
    ]
  },
  {
    title: "a failure of the last attempt",
    steps: [claim, fail(), claim, fail({ kind: "TIMEOUT" })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      failed(20, 1),
      retried(20, 1, 10),
      leased(30, 2),
      running(30, 2),
      event("FAILED", 40, 2, null, { kind: "TIMEOUT", error_code: "smtp.down", error_message: "no answer" }),
      event("DEAD_LETTERED", 40, 2, null, { kind: "TIMEOUT", error_code: "smtp.down" })
    ]
  },
  {
    title: "a continuation, and the next run",
    steps: [claim, continueWith({ done: 3, total: 4, delay: "10 seconds" }), claim],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      event(
        "REQUEUED",
        20,
        1,
        "queued",
        {
          reason: "HANDLER_CONTINUATION",
          requeue_kind: "HANDLER_CONTINUATION",
          next_run_number: 2,
          next_run_at: 30,
          delay_microseconds: 10_000_000
        },
        { progress: [3, 4] }
      ),
      leased(30, 1, { run: 2 }),
      running(30, 1, { run: 2 })
    ]
  },
  {
    title: "the release of a claim, which stays in the history",
    steps: [prefetch, release({ reason: "SHUTDOWN" }), prefetch, start],
    events: [
      enqueued(),
      leased(10, 1),
      event("REQUEUED", 20, 1, "queued", { reason: "SHUTDOWN", requeue_kind: "BASIC" }),
      leased(30, 1),
      running(40, 1)
    ]
  },
  {
    title: "the release of the claim of a job with an initial stage",
    options: { stage: "scheduled" },
    steps: [prefetch, release(), claim],
    events: [
      enqueued("scheduled"),
      leased(10, 1, { stage: "scheduled" }),
      event("REQUEUED", 20, 1, "scheduled", { reason: "CLAIM_RELEASED", requeue_kind: "BASIC" }),
      leased(30, 1, { stage: "scheduled" }),
      running(30, 1)
    ]
  },
  {
    title: "a claim that the reaper gives back",
    steps: [prefetch, reap],
    events: [
      enqueued(),
      leased(10, 1),
      event("REQUEUED", 70, 1, "queued", {
        reason: "LEASE_EXPIRED_BEFORE_RUNNING_PERSISTED",
        requeue_kind: "BASIC"
      })
    ]
  },
  {
    title: "an expired lease that is retried, never renewed",
    steps: [claim, reap],
    events: [enqueued(), leased(10, 1), running(10, 1), lapsed(70, 1, true), lapsedRetried(70, 1, 10, true)]
  },
  {
    title: "an expired lease that is retried, renewed after its start",
    steps: [prefetch, start, heartbeat, reap],
    events: [enqueued(), leased(10, 1), running(20, 1), lapsed(90, 1, false), lapsedRetried(90, 1, 10, false)]
  },
  {
    title: "an expired lease that is retried, renewed only before its start",
    steps: [prefetch, heartbeat, start, reap],
    events: [enqueued(), leased(10, 1), running(30, 1), lapsed(90, 1, true), lapsedRetried(90, 1, 10, true)]
  },
  {
    title: "an expired lease of the last attempt",
    options: { maxAttempts: 1 },
    steps: [claim, reap],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      lapsed(70, 1, true),
      event("DEAD_LETTERED", 70, 1, null, {
        kind: "LEASE_EXPIRED",
        error_code: "job.lease_expired",
        started_without_renewal_heartbeat: true
      })
    ]
  },
  {
    title: "cancel before the first claim",
    steps: [cancel()],
    events: [enqueued(), event("CANCELED", 10, null, "queued", { reason: "CANCELED" })]
  },
  {
    title: "cancel while leased",
    steps: [claim, progress({ done: 1, total: 2 }), cancel({ reason: "withdrawn" })],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      progressed(20, 1, 1, 2),
      event("CANCELED", 30, 1, "running", { reason: "withdrawn", lease_quiesces_at: 70 }, { progress: [1, 2] })
    ]
  },
  {
    title: "cancel between two attempts",
    steps: [claim, fail(), cancel()],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      failed(20, 1),
      retried(20, 1, 10),
      event("CANCELED", 30, 1, "queued", { reason: "CANCELED" })
    ]
  },
  {
    title: "cancel between two runs",
    steps: [claim, continueWith(), cancel()],
    events: [
      enqueued(),
      leased(10, 1),
      running(10, 1),
      event("REQUEUED", 20, 1, "queued", {
        reason: "HANDLER_CONTINUATION",
        requeue_kind: "HANDLER_CONTINUATION",
        next_run_number: 2,
        next_run_at: 20,
        delay_microseconds: 0
      }),
      event("CANCELED", 30, null, "queued", { reason: "CANCELED" }, { run: 2 })
    ]
  }
]

/** Everything that can happen to one job, in one life. */
const eventful: ReadonlyArray<Step> = [
  prefetch,
  release(),
  prefetch,
  reap,
  prefetch,
  heartbeat,
  startWith({ done: 0, total: 9 }),
  progress({ done: 1 }),
  fail(),
  claim,
  progress({ done: 2, checkpoint: 2 }),
  continueWith({ done: 3 }),
  claim,
  reap,
  prefetch,
  start,
  heartbeat,
  continueWith(),
  prefetch,
  progress({ done: 4 }),
  release(),
  claim,
  succeed({ done: 9 })
]

// ---------------------------------------------------------------------------------------------------------------------
// Running and reading
// ---------------------------------------------------------------------------------------------------------------------

const instants = new Set([
  "next_run_at",
  "effective_next_run_at",
  "requested_retry_at",
  "requested_retry_not_before",
  "lease_quiesces_at"
])

const told = (
  found: Jobs.JobEvent,
  { jobType, since }: { readonly jobType: string; readonly since: DateTime.Utc }
): Event => ({
  type: found.type,
  at: (found.occurredAt.epochMilliseconds - since.epochMilliseconds) / 1000,
  run: found.runNumber,
  attempt: Option.getOrNull(found.attempt),
  stage: Option.getOrNull(found.stage),
  progress: [Option.getOrNull(found.progressDone), Option.getOrNull(found.progressTotal)],
  payload: Object.fromEntries(
    Object.entries(Object(found.payload)).map(([key, value]) => [
      key,
      instants.has(key)
        ? (Date.parse(String(value)) - since.epochMilliseconds) / 1000
        : value === jobType
          ? "life"
          : JSON.parse(JSON.stringify(value))
    ])
  )
})

const born = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  const jobType = `life-${crypto.randomUUID()}`
  yield* JobDefinitions.upsert(jobType, { maxAttempts: 2, retry: { jitter: 0 } })
  const { jobId } = yield* Jobs.enqueue(jobType, null, options)
  const life: Life = { jobId, jobType, lease: { jobId, runNumber: 1, attempt: 1, workerId } }
  return life
})

/** The events, after it was checked that they are numbered from 1 without a gap, up to what the job row says. */
const history = Effect.fnUntraced(function* (jobId: Jobs.JobId) {
  const sql = yield* SqlClient
  const events = yield* Jobs.events(TenantScope.global, jobId, { limit: 1000 })
  const [row] = yield* sql`SELECT event_seq FROM runledger.job_queue WHERE id = ${jobId}::uuid`
  assert.deepStrictEqual(
    events.map(({ seq }) => seq),
    Array.from(events, (_, index) => index + 1)
  )
  assert.strictEqual(row?.event_seq, events.length)
  return events
})

/** Takes the steps; at each, what was in the ledger stays as it was. */
const live = Effect.fnUntraced(function* (life: Life, steps: ReadonlyArray<Step>) {
  let events = yield* history(life.jobId)
  for (const step of steps) {
    yield* TestClock.adjust("10 seconds")
    yield* step(life)
    const more = yield* history(life.jobId)
    assert.deepStrictEqual(more.slice(0, events.length), [...events])
    events = more
  }
  return events
})

/** The fields of a record, without its class. */
type Shown<A> = { readonly [Key in keyof A]: A[Key] }

const later = (instant: DateTime.Utc, seconds: number) => DateTime.add(instant, { seconds })

const attemptRows = (jobId: string) =>
  SqlClient.use(
    (sql) => sql`SELECT * FROM runledger.job_attempts WHERE job_id = ${jobId}::uuid ORDER BY run_number, attempt`
  )

it.layer(TestDatabase.layerTestClock)("the ledger of a job", (it) => {
  it.effect.each(paths)("events of $title", ({ options, steps, events }) =>
    Effect.gen(function* () {
      const life = yield* born(options)
      const [first] = yield* history(life.jobId)
      assert.isDefined(first)
      const found = yield* live(life, steps)
      assert.deepStrictEqual(
        found.map((each) => told(each, { jobType: life.jobType, since: first.occurredAt })),
        [...events]
      )
    })
  )

  it.effect("events come in pages of any size, after any cursor", () =>
    Effect.gen(function* () {
      const life = yield* born({ stage: "scheduled" })
      const all = yield* live(life, eventful)
      assert.strictEqual(all.length, 28)
      for (let limit = 1; limit <= all.length + 1; limit++) {
        const seen: Array<Jobs.JobEvent> = []
        for (;;) {
          const page = yield* Jobs.events(TenantScope.admin, life.jobId, { limit, after: seen.at(-1)?.seq })
          if (page.length === 0) break
          assert.strictEqual(page.length, Math.min(limit, all.length - seen.length))
          seen.push(...page)
        }
        assert.deepStrictEqual(seen, [...all])
      }
      for (let after = 0; after <= all.length + 1; after++) {
        assert.deepStrictEqual(yield* Jobs.events(TenantScope.admin, life.jobId, { after }), all.slice(after))
      }
    })
  )

  it.effect("pages of a job that is at work agree with each other", () =>
    Effect.gen(function* () {
      const life = yield* born()
      for (const step of eventful) {
        const all = yield* live(life, [step])
        const pages = yield* Effect.forEach(all, ({ seq }) =>
          Jobs.events(TenantScope.global, life.jobId, { limit: 1, after: seq - 1 })
        )
        assert.deepStrictEqual(pages.flat(), [...all])
      }
    })
  )

  it.effect("a page holds 100 events unless it is told", () =>
    Effect.gen(function* () {
      const life = yield* born()
      yield* claim(life)
      for (let done = 0; done < 100; done++) yield* Jobs.updateProgress(life.lease, { done })
      assert.strictEqual((yield* Jobs.events(TenantScope.global, life.jobId)).length, 100)
      assert.strictEqual((yield* Jobs.events(TenantScope.global, life.jobId, { after: 100 })).length, 3)
    })
  )

  it.effect("events of a batch are numbered as those of single operations", () =>
    Effect.gen(function* () {
      const jobType = `batch-${crypto.randomUUID()}`
      yield* JobDefinitions.upsert(jobType)
      yield* Jobs.enqueueMany(Array.from({ length: 4 }, (_, payload) => ({ jobType, payload })))
      const [a, b, c, d] = yield* Jobs.claim({ workerId, types: [jobType], limit: 4 })
      if (a === undefined || b === undefined || c === undefined || d === undefined) return yield* Effect.die("too few")
      yield* Jobs.updateProgress(b.lease, { done: 1 })
      yield* Jobs.completeMany([
        { _tag: "Success", lease: a.lease },
        { _tag: "Failure", lease: b.lease, ...failure },
        { _tag: "Failure", lease: c.lease, ...failure, kind: "TERMINAL" },
        { _tag: "Continuation", lease: d.lease }
      ])
      const common = ["ENQUEUED", "LEASED", "STAGE_CHANGED"]
      const types = yield* Effect.forEach([a, b, c, d], ({ lease }) =>
        Effect.map(history(lease.jobId), (events) => events.map(({ type }) => type))
      )
      assert.deepStrictEqual(types, [
        [...common, "SUCCEEDED"],
        [...common, "PROGRESS", "FAILED", "RETRY_SCHEDULED"],
        [...common, "FAILED", "DEAD_LETTERED"],
        [...common, "REQUEUED"]
      ])
      return undefined
    })
  )

  it.effect("only what cannot be derived is stored", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const stored = (jobId: string) =>
        Effect.map(
          sql`SELECT event_type FROM runledger.job_events WHERE job_id = ${jobId}::uuid ORDER BY seq`,
          (rows) => rows.map((row) => row.event_type)
        )
      const life = yield* born()
      yield* live(life, [prefetch, start, heartbeat, fail(), claim, fail()])
      assert.deepStrictEqual(yield* stored(life.jobId), [])
      const other = yield* born({ stage: "scheduled" })
      yield* live(other, [prefetch, release(), claim, progress({ done: 1 }), continueWith(), cancel()])
      assert.deepStrictEqual(yield* stored(other.jobId), [
        "ENQUEUED",
        "LEASED",
        "REQUEUED",
        "PROGRESS",
        "REQUEUED",
        "CANCELED"
      ])
    })
  )

  it.effect("a job that does not exist has no events and no attempts", () =>
    Effect.gen(function* () {
      const jobId = Jobs.JobId.make(crypto.randomUUID())
      assert.deepStrictEqual(yield* Jobs.events(TenantScope.admin, jobId), [])
      assert.deepStrictEqual(yield* Jobs.attempts(TenantScope.admin, jobId), [])
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Attempts
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("an attempt is under way until something ends it, then it is written, once", () =>
    Effect.gen(function* () {
      const life = yield* born()
      const attempts = Jobs.attempts(TenantScope.global, life.jobId)
      assert.deepStrictEqual(yield* attempts, [])

      yield* prefetch(life)
      const [claimed] = yield* attempts
      assert.isDefined(claimed)
      const leasedAt = claimed.leasedAt
      const none = Option.none()
      const underWay: Shown<Jobs.Attempt> = {
        runNumber: 1,
        attempt: 1,
        workerId,
        claimOrigin: "WORKER_PRESTART",
        leasedAt,
        startedAt: none,
        renewed: false,
        finishedAt: none,
        endedAs: none,
        outcome: none,
        errorCode: none,
        errorMessage: none,
        error: none,
        retryDelayMillis: none,
        requestedRetryNotBefore: none,
        effectiveNextRunAt: none,
        retryTimingSource: none
      }
      assert.deepStrictEqual({ ...claimed }, underWay)

      yield* TestClock.adjust("10 seconds")
      yield* start(life)
      yield* heartbeat(life)
      const startedAt = Option.some(later(leasedAt, 10))
      assert.deepStrictEqual(
        (yield* attempts).map((attempt) => ({ ...attempt })),
        [{ ...underWay, startedAt, renewed: true }]
      )
      assert.deepStrictEqual(yield* attemptRows(life.jobId), [])

      yield* TestClock.adjust("10 seconds")
      yield* fail()(life)
      const ended: Shown<Jobs.Attempt> = {
        ...underWay,
        startedAt,
        renewed: true,
        finishedAt: Option.some(later(leasedAt, 20)),
        endedAs: Option.some("FAILED"),
        outcome: Option.some("RETRYABLE"),
        errorCode: Option.some("smtp.down"),
        errorMessage: Option.some("no answer"),
        retryDelayMillis: Option.some(10_000),
        effectiveNextRunAt: Option.some(later(leasedAt, 30)),
        retryTimingSource: Option.some("POLICY")
      }
      assert.deepStrictEqual(
        (yield* attempts).map((attempt) => ({ ...attempt })),
        [ended]
      )
      const rows = yield* attemptRows(life.jobId)
      assert.strictEqual(rows.length, 1)
      const [row] = rows
      assert.deepStrictEqual(
        [row?.lease_ms, row?.leased_seq, row?.started_seq, row?.ended_seq, row?.ended_as],
        [60_000, 2, 3, 4, "FAILED"]
      )

      yield* TestClock.adjust("10 seconds")
      yield* claim(life)
      const [first, second, ...more] = yield* attempts
      assert.deepStrictEqual({ ...first }, { ...ended })
      assert.deepStrictEqual(
        { ...second },
        {
          ...underWay,
          attempt: 2,
          claimOrigin: "DIRECT",
          leasedAt: later(leasedAt, 30),
          startedAt: Option.some(later(leasedAt, 30))
        }
      )
      assert.deepStrictEqual(more, [])
      assert.deepStrictEqual(yield* attemptRows(life.jobId), rows)
    })
  )

  const endings: ReadonlyArray<{
    readonly title: string
    readonly steps: ReadonlyArray<Step>
    /** `ended_as`, `outcome`, `leased_seq`, `started_seq`, `ended_seq`, `renewed`. */
    readonly row: ReadonlyArray<unknown>
  }> = [
    { title: "success", steps: [claim, succeed()], row: ["SUCCEEDED", null, 2, 3, 4, false] },
    { title: "success unstarted", steps: [prefetch, succeed()], row: ["SUCCEEDED", null, 2, null, 3, false] },
    { title: "failure", steps: [claim, heartbeat, fail()], row: ["FAILED", "RETRYABLE", 2, 3, 4, true] },
    {
      title: "final failure",
      steps: [claim, fail({ kind: "TERMINAL" })],
      row: ["FAILED", "TERMINAL", 2, 3, 4, false]
    },
    {
      title: "failure reported as an expired lease",
      steps: [claim, fail({ kind: "LEASE_EXPIRED" })],
      row: ["FAILED", "LEASE_EXPIRED", 2, 3, 4, false]
    },
    { title: "continuation", steps: [claim, continueWith()], row: ["CONTINUED", null, 2, 3, null, false] },
    { title: "cancel", steps: [claim, cancel()], row: ["CANCELED", null, 2, 3, null, false] },
    { title: "cancel unstarted", steps: [prefetch, cancel()], row: ["CANCELED", null, 2, null, null, false] },
    { title: "expiry", steps: [claim, reap], row: ["LEASE_EXPIRED", "LEASE_EXPIRED", 2, 3, 4, false] }
  ]

  it.effect.each(endings)("the attempt row of a $title", ({ steps, row }) =>
    Effect.gen(function* () {
      const life = yield* born()
      yield* live(life, steps)
      const [found, ...others] = yield* attemptRows(life.jobId)
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(
        [found?.ended_as, found?.outcome, found?.leased_seq, found?.started_seq, found?.ended_seq, found?.renewed],
        [...row]
      )
      assert.deepStrictEqual([found?.worker_id, found?.lease_ms], [workerId, 60_000])
      const [attempt] = yield* Jobs.attempts(TenantScope.global, life.jobId)
      const finishedAt = attempt === undefined ? Option.none() : attempt.finishedAt
      const [last] = (yield* Jobs.events(TenantScope.global, life.jobId)).slice(-1)
      assert.deepStrictEqual(finishedAt, Option.fromUndefinedOr(last?.occurredAt))
    })
  )

  it.effect.each([
    { title: "release", steps: [prefetch, release()] },
    { title: "reaped before its start", steps: [prefetch, reap] },
    { title: "cancel before the claim", steps: [cancel()] }
  ])("no attempt is left of a $title", ({ steps }) =>
    Effect.gen(function* () {
      const life = yield* born()
      yield* live(life, steps)
      assert.deepStrictEqual(yield* attemptRows(life.jobId), [])
      assert.deepStrictEqual(yield* Jobs.attempts(TenantScope.global, life.jobId), [])
    })
  )

  it.effect("attempts come oldest first, in pages of any size, the one under way last", () =>
    Effect.gen(function* () {
      const life = yield* born()
      const steps: Array<Step> = []
      for (let run = 0; run < 3; run++) steps.push(claim, fail(), claim, continueWith())
      yield* live(life, [...steps, claim])
      const all = yield* Jobs.attempts(TenantScope.global, life.jobId)
      assert.deepStrictEqual(
        all.map(({ runNumber, attempt, endedAs }) => [runNumber, attempt, Option.getOrNull(endedAs)]),
        [
          [1, 1, "FAILED"],
          [1, 2, "CONTINUED"],
          [2, 1, "FAILED"],
          [2, 2, "CONTINUED"],
          [3, 1, "FAILED"],
          [3, 2, "CONTINUED"],
          [4, 1, null]
        ]
      )
      for (let limit = 1; limit <= all.length + 1; limit++) {
        const seen: Array<Jobs.Attempt> = []
        for (;;) {
          const after = seen.at(-1)
          const page = yield* Jobs.attempts(TenantScope.admin, life.jobId, { limit, after })
          if (page.length === 0) break
          assert.strictEqual(page.length, Math.min(limit, all.length - seen.length))
          seen.push(...page)
        }
        assert.deepStrictEqual(seen, [...all])
      }
    })
  )
})
