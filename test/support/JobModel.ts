/**
 * What should become of a job, as a pure model: the state machine of `src/jobs`, written a second time without SQL.
 *
 * The model works job by job, as the locks of the statements do. {@link touches} splits an operation and its answer into what
 * it says about each job; a test applies these steps to the jobs of the model, in the order in which they happened or in
 * search of one, and compares answers and {@link rowsOf rows}.
 */
import { DateTime, Effect, Option, Predicate, Result } from "effect"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { ClaimOrigin, DeadLetterReason, EndedAs, EventType, FailureKind, Stage, Status } from "../../src/Job.ts"
import * as JobDefinitions from "../../src/JobDefinitions.ts"
import * as Jobs from "../../src/Jobs.ts"
import type { QueryError } from "../../src/QueryError.ts"
import type * as TenantScope from "../../src/TenantScope.ts"

// ---------------------------------------------------------------------------------------------------------------------
// State
// ---------------------------------------------------------------------------------------------------------------------

/** JSON in a column; `null` is no value, `{ json: null }` is the value `null`. */
type Value = { readonly json: Json } | null

/** The lease of a job and the attempt under it. Times are milliseconds since the epoch. */
interface Held {
  readonly workerId: string
  readonly origin: typeof ClaimOrigin.Type
  readonly leasedAt: number
  readonly leaseMillis: number
  readonly expiresAt: number
  readonly heartbeatAt: number
  readonly startedAt: number | null
  readonly renewed: boolean
  readonly leasedSeq: number
  readonly startedSeq: number | null
}

interface Failed {
  readonly kind: FailureKind
  readonly code: string
  readonly message: string
  readonly error: Json | null
  readonly delayMillis: number | null
  readonly requestedAt: number | null
  readonly nextRunAt: number | null
  readonly source: "POLICY" | "HANDLER_NOT_BEFORE" | null
}

interface Attempt {
  readonly run: number
  readonly attempt: number
  readonly held: Held
  readonly finishedAt: number
  readonly endedAs: typeof EndedAs.Type
  readonly endedSeq: number | null
  readonly failed: Failed | null
}

interface Event {
  readonly seq: number
  readonly run: number
  readonly attempt: number | null
  readonly type: typeof EventType.Type
  readonly stage: Stage | null
  readonly done: number | null
  readonly total: number | null
  readonly payload: Readonly<Record<string, Json>>
  readonly at: number
  /** Whether it has a row of its own; the others are derived from job and attempts. */
  readonly stored: boolean
}

interface DeadLetter {
  readonly run: number
  readonly attempt: number
  readonly reason: typeof DeadLetterReason.Type
  readonly kind: FailureKind
  readonly code: string
  readonly message: string
  readonly checkpoint: Value
  readonly at: number
  readonly createdAt: number
  /** The run that was requeued last; a later one is open. */
  readonly settled: number | null
}

/** A job and everything that hangs on it. */
export interface Job {
  readonly id: string
  readonly jobType: string
  readonly organizationId: string | null
  readonly payload: Json
  readonly payloadVersion: number
  readonly priority: number
  readonly maxAttempts: number
  readonly timeoutSeconds: number
  readonly key: string | null
  /** The request as it is compared, of a job with a key. */
  readonly request: Readonly<Record<string, Json>> | null
  readonly createdAt: number
  readonly updatedAt: number
  readonly status: Status
  readonly run: number
  readonly attempt: number
  readonly stage: Stage
  readonly nextRunAt: number
  readonly startedAt: number | null
  readonly finishedAt: number | null
  readonly held: Held | null
  /** When a canceled handler is certainly gone. */
  readonly quiescesAt: number | null
  readonly done: number | null
  readonly total: number | null
  readonly checkpoint: Value
  readonly output: Value
  readonly statusReason: string | null
  readonly errorCode: string | null
  readonly errorMessage: string | null
  readonly attempts: ReadonlyArray<Attempt>
  readonly events: ReadonlyArray<Event>
  readonly deadLetter: DeadLetter | null
}

/** What is declared about a type; retries are not spread. */
export interface Definition {
  readonly isEnabled: boolean
  readonly priority: number
  readonly maxAttempts: number
  readonly timeoutSeconds: number
  readonly initialMillis: number
  readonly factor: number
  readonly maxMillis: number
  readonly overrides: Readonly<Record<string, number>>
}

/** Everything that is known. */
export interface State {
  readonly jobs: ReadonlyMap<string, Job>
  readonly definitions: ReadonlyMap<string, Definition>
}

/** Nothing declared, nothing enqueued. */
export const empty: State = { jobs: new Map(), definitions: new Map() }

// ---------------------------------------------------------------------------------------------------------------------
// Operations
// ---------------------------------------------------------------------------------------------------------------------

/** One request of an enqueue. */
export interface Request {
  readonly jobType: string
  readonly organizationId: string | undefined
  readonly payload: Json
  readonly payloadVersion: number | undefined
  readonly priority: number | undefined
  readonly maxAttempts: number | undefined
  readonly timeoutSeconds: number | undefined
  readonly runAt: number | undefined
  readonly delayMillis: number | undefined
  readonly stage: Stage | undefined
  readonly key: string | undefined
}

/** What a handler reports. */
export interface Update {
  readonly done: number | undefined
  readonly total: number | undefined
  readonly checkpoint: Json | undefined
}

/** How an attempt ends. */
export type Ending =
  | ({ readonly _tag: "Success"; readonly lease: Jobs.Lease; readonly output: Json | undefined } & Update)
  | {
      readonly _tag: "Failure"
      readonly lease: Jobs.Lease
      readonly kind: FailureKind
      readonly code: string
      readonly message: string
      readonly error: Json | undefined
      readonly afterMillis: number | undefined
      readonly notBefore: number | undefined
    }
  | ({ readonly _tag: "Continuation"; readonly lease: Jobs.Lease; readonly delayMillis: number } & Update)

/** An operation with all its arguments. `many`: through the form that takes a batch. */
export type Call =
  | { readonly _tag: "Enqueue"; readonly requests: ReadonlyArray<Request>; readonly many: boolean }
  | {
      readonly _tag: "Claim"
      readonly workerId: string
      readonly types: ReadonlyArray<{ readonly jobType: string; readonly maxPayloadVersion: number }>
      readonly limit: number
      readonly leaseMillis: number
      readonly origin: typeof ClaimOrigin.Type
    }
  | { readonly _tag: "Release"; readonly lease: Jobs.Lease; readonly delayMillis: number; readonly reason: string }
  | {
      readonly _tag: "Heartbeat"
      readonly leases: ReadonlyArray<Jobs.Lease>
      readonly extendMillis: number
      readonly many: boolean
    }
  | { readonly _tag: "Report"; readonly lease: Jobs.Lease; readonly update: Update; readonly starts: boolean }
  | { readonly _tag: "Complete"; readonly endings: ReadonlyArray<Ending>; readonly many: boolean }
  | { readonly _tag: "Reap"; readonly limit: number }
  | {
      readonly _tag: "Cancel"
      readonly scope: TenantScope.TenantScope
      readonly jobId: string
      readonly reason: string | undefined
    }
  | { readonly _tag: "Requeue"; readonly request: Jobs.RequeueRequest }
  | {
      readonly _tag: "Redrive"
      readonly scope: TenantScope.Owner
      readonly jobType: string | undefined
      readonly limit: number
      readonly statePolicy: Jobs.StatePolicy
    }
  | { readonly _tag: "Define"; readonly jobType: string; readonly definition: Definition; readonly merges: boolean }

/** What an operation answered: item by item, or as a whole. */
export type Answer =
  | { readonly _tag: "Items"; readonly items: ReadonlyArray<unknown> }
  | { readonly _tag: "Whole"; readonly reason: unknown }

const ok = (value: unknown) => ({ ok: value })
const no = (reason: Readonly<Record<string, unknown>>) => ({ no: reason })

/** Whether an item was answered that its row stayed locked. */
export const isBusy = (item: unknown): boolean =>
  Predicate.hasProperty(item, "no") &&
  Predicate.hasProperty(item.no, "_tag") &&
  item.no._tag === "Unavailable" &&
  Predicate.hasProperty(item.no, "origin") &&
  item.no.origin === "busy"

const told = ["jobId", "runNumber", "attempt", "fields", "status", "state", "jobType", "origin", "sqlState", "argument"]
const instant = /^\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d(?::\d\d)?)$/

/** Values of the library and rows of the driver as the model writes them: instants in milliseconds, absent as `null`. */
export const plain = (value: unknown): unknown => {
  if (DateTime.isDateTime(value)) return DateTime.toEpochMillis(value)
  if (value instanceof Date) return value.getTime()
  if (typeof value === "bigint") return Number(value)
  if (typeof value === "string") return instant.test(value) ? Date.parse(value) : value
  if (Option.isOption(value)) return Option.isNone(value) ? null : plain(value.value)
  if (Result.isResult(value)) return Result.isSuccess(value) ? ok(plain(value.success)) : { no: plain(value.failure) }
  if (Array.isArray(value)) return value.map(plain)
  if (!Predicate.isObject(value)) return value
  // the trace belongs to the caller, not to what happens to the job
  const entries = Object.entries(value).filter(([name, field]) => field !== undefined && !/^trace_?parent$/i.test(name))
  if (!("category" in value)) return Object.fromEntries(entries.map(([name, field]) => [name, plain(field)]))
  return Object.fromEntries(entries.filter(([name]) => name === "_tag" || told.includes(name)))
}

/** Runs an operation against the database. */
export const execute = (call: Call): Effect.Effect<Answer, never, SqlClient> => {
  const items = <A>(self: Effect.Effect<ReadonlyArray<A>, QueryError, SqlClient>) =>
    Effect.match(self, {
      onSuccess: (answers): Answer => ({ _tag: "Items", items: answers.map(plain) }),
      onFailure: ({ reason }): Answer => ({ _tag: "Whole", reason: plain(reason) })
    })
  const single = <A>(self: Effect.Effect<A, QueryError, SqlClient>) =>
    Effect.match(self, {
      onSuccess: (answer): Answer => ({ _tag: "Items", items: [ok(plain(answer) ?? null)] }),
      onFailure: ({ reason }): Answer => ({ _tag: "Items", items: [{ no: plain(reason) }] })
    })
  switch (call._tag) {
    case "Enqueue": {
      const requests = call.requests.map(({ runAt, delayMillis, timeoutSeconds, key, ...request }) => ({
        ...request,
        runAt: runAt === undefined ? undefined : DateTime.makeUnsafe(runAt),
        delay: delayMillis,
        timeout: timeoutSeconds === undefined ? undefined : timeoutSeconds * 1000,
        idempotencyKey: key
      }))
      const [first] = requests
      return call.many || first === undefined
        ? items(Jobs.enqueueMany(requests))
        : single(Jobs.enqueue(first.jobType, first.payload, first))
    }
    case "Claim": {
      const options = { workerId: call.workerId, types: call.types, limit: call.limit, lease: call.leaseMillis }
      return items(call.origin === "DIRECT" ? Jobs.claim(options) : Jobs.claimPrestart(options))
    }
    case "Release":
      return single(Jobs.releaseUnstarted(call.lease, { delay: call.delayMillis, reason: call.reason }))
    case "Heartbeat": {
      const options = { extend: call.extendMillis }
      const [first] = call.leases
      return call.many || first === undefined
        ? items(Jobs.heartbeatMany(call.leases, options))
        : single(Jobs.heartbeat(first, options))
    }
    case "Report":
      return single(
        call.starts ? Jobs.markRunning(call.lease, call.update) : Jobs.updateProgress(call.lease, call.update)
      )
    case "Complete": {
      const completions = call.endings.map(completionOf)
      const [first] = completions
      if (call.many || first === undefined) return items(Jobs.completeMany(completions))
      if (first._tag === "Success") return single(Jobs.completeSuccess(first.lease, first))
      return first._tag === "Failure"
        ? single(Jobs.completeFailure(first.lease, first))
        : single(Jobs.completeContinuation(first.lease, first))
    }
    case "Reap":
      return Effect.match(Jobs.reapExpiredLeases({ limit: call.limit }), {
        onSuccess: ({ leases, postponed }): Answer => ({ _tag: "Items", items: [...leases, ...postponed].map(plain) }),
        onFailure: ({ reason }): Answer => ({ _tag: "Whole", reason: plain(reason) })
      })
    case "Cancel":
      return single(Jobs.cancel(call.scope, Jobs.JobId.make(call.jobId), { reason: call.reason }))
    case "Requeue":
      return single(Jobs.requeue(call.request))
    case "Redrive":
      return items(
        Effect.map(Jobs.redriveDeadLetters({ ...call, reason: redriveReason }), ({ redriveId, jobs }) =>
          jobs.map((job) => ({ ...job, redriveId }))
        )
      )
    case "Define": {
      const { isEnabled, priority, maxAttempts, timeoutSeconds, initialMillis, factor, maxMillis, overrides } =
        call.definition
      const settings = {
        isEnabled,
        priority,
        maxAttempts,
        timeout: timeoutSeconds * 1000,
        retry: { initial: initialMillis, factor, max: maxMillis, jitter: 0, overrides }
      }
      return call.merges
        ? single(Effect.asVoid(JobDefinitions.update(call.jobType, settings)))
        : single(Effect.asVoid(JobDefinitions.upsert(call.jobType, settings)))
    }
  }
}

const completionOf = (ending: Ending): Jobs.Completion => {
  if (ending._tag === "Success") return ending
  if (ending._tag === "Continuation") return { ...ending, delay: ending.delayMillis }
  const { afterMillis, notBefore, ...failure } = ending
  return {
    ...failure,
    retryNotBefore:
      notBefore !== undefined
        ? { at: DateTime.makeUnsafe(notBefore) }
        : afterMillis === undefined
          ? undefined
          : { delay: afterMillis }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Transitions of one job
// ---------------------------------------------------------------------------------------------------------------------

const event = (
  job: Job,
  at: number,
  type: Event["type"],
  fields: Partial<Pick<Event, "stage" | "done" | "total" | "payload" | "stored" | "attempt">>
): Job => ({
  ...job,
  events: [
    ...job.events,
    {
      seq: job.events.length + 1,
      run: job.run,
      attempt: job.attempt,
      type,
      stage: null,
      done: null,
      total: null,
      payload: {},
      at,
      stored: false,
      ...fields
    }
  ]
})

const snapshotOf = (request: Request): Readonly<Record<string, Json>> => ({
  payload: request.payload,
  priority: request.priority ?? null,
  max_attempts: request.maxAttempts ?? null,
  timeout_seconds: request.timeoutSeconds ?? null,
  next_run_at: request.runAt ?? null,
  stage: request.stage ?? "queued",
  ...(request.delayMillis === undefined ? {} : { delay_ms: request.delayMillis })
})

const enqueued = (request: Request, definition: Definition, id: string, at: number): Job => {
  const stage = request.stage ?? "queued"
  const job: Job = {
    id,
    jobType: request.jobType,
    organizationId: request.organizationId ?? null,
    payload: request.payload,
    payloadVersion: request.payloadVersion ?? 1,
    priority: request.priority ?? definition.priority,
    maxAttempts: request.maxAttempts ?? definition.maxAttempts,
    timeoutSeconds: request.timeoutSeconds ?? definition.timeoutSeconds,
    key: request.key ?? null,
    request: request.key === undefined ? null : snapshotOf(request),
    createdAt: at,
    updatedAt: at,
    status: "PENDING",
    run: 1,
    attempt: 0,
    stage,
    nextRunAt: request.runAt ?? at + (request.delayMillis ?? 0),
    startedAt: null,
    finishedAt: null,
    held: null,
    quiescesAt: null,
    done: null,
    total: null,
    checkpoint: null,
    output: null,
    statusReason: null,
    errorCode: null,
    errorMessage: null,
    attempts: [],
    events: [],
    deadLetter: null
  }
  return event(job, at, "ENQUEUED", {
    attempt: null,
    stage,
    payload: { job_type: request.jobType },
    stored: stage !== "queued"
  })
}

/** Whether a request with a key means this job. */
const isFor = (job: Job, request: Request): boolean =>
  job.key !== null &&
  job.key === request.key &&
  job.jobType === request.jobType &&
  job.organizationId === (request.organizationId ?? null)

const sameJson = (a: Json | undefined, b: Json | undefined): boolean => JSON.stringify(a) === JSON.stringify(b)

const found = (job: Job, request: Request): unknown => {
  const stored = job.request ?? {}
  const given = snapshotOf(request)
  const fields = [...new Set([...Object.keys(stored), ...Object.keys(given)])]
    .filter((name) => !sameJson(stored[name], given[name]))
    .sort()
  return fields.length === 0
    ? ok({ jobId: job.id, status: job.status, runNumber: job.run, disposition: "existing" })
    : no({ _tag: "IdempotencyConflict", jobId: job.id, fields })
}

type ClaimCall = Extract<Call, { readonly _tag: "Claim" }>

/** Whether a claim may take the job. */
export const isClaimable = (job: Job, call: ClaimCall, at: number): boolean =>
  job.status === "PENDING" &&
  job.nextRunAt <= at &&
  call.types.some(
    ({ jobType, maxPayloadVersion }) => jobType === job.jobType && job.payloadVersion <= maxPayloadVersion
  )

const claimed = (job: Job, call: ClaimCall, at: number): Job => {
  const starts = call.origin === "DIRECT"
  const leased = event({ ...job, attempt: job.attempt + 1 }, at, "LEASED", {
    stage: job.stage,
    payload: { worker_id: call.workerId, lease_duration_seconds: call.leaseMillis / 1000 }
  })
  const { length: seq } = leased.events
  const started = starts ? event(leased, at, "STAGE_CHANGED", { stage: "running" }) : leased
  return {
    ...started,
    status: "LEASED",
    stage: starts ? "running" : job.stage,
    startedAt: job.startedAt ?? at,
    updatedAt: at,
    held: {
      workerId: call.workerId,
      origin: call.origin,
      leasedAt: at,
      leaseMillis: call.leaseMillis,
      expiresAt: at + call.leaseMillis,
      heartbeatAt: at,
      startedAt: starts ? at : null,
      renewed: false,
      leasedSeq: seq,
      startedSeq: starts ? seq + 1 : null
    }
  }
}

const claimAnswer = (job: Job) => ({
  lease: { jobId: job.id, runNumber: job.run, attempt: job.attempt, workerId: job.held?.workerId },
  jobType: job.jobType,
  payloadVersion: job.payloadVersion,
  organizationId: job.organizationId,
  payload: job.payload,
  priority: job.priority,
  maxAttempts: job.maxAttempts,
  timeoutSeconds: job.timeoutSeconds,
  leaseExpiresAt: job.held?.expiresAt,
  checkpoint: job.checkpoint?.json ?? null,
  progress: { done: job.done, total: job.total },
  createdAt: job.createdAt,
  workflow: null
})

/** The lease of a job that has one. */
export const leaseOf = (job: Job): Jobs.Lease | undefined =>
  job.held === null
    ? undefined
    : { jobId: Jobs.JobId.make(job.id), runNumber: job.run, attempt: job.attempt, workerId: job.held.workerId }

type HeldJob = Job & { readonly held: Held }

/** Run, attempt and worker match, whether or not the lease is live. */
const matches = (job: Job | undefined, lease: Jobs.Lease): job is HeldJob =>
  job !== undefined &&
  job.held !== null &&
  job.run === lease.runNumber &&
  job.attempt === lease.attempt &&
  job.held.workerId === lease.workerId

const isLive = (job: Job | undefined, lease: Jobs.Lease, at: number): job is HeldJob =>
  matches(job, lease) && job.held.expiresAt > at

const mismatch = ({ jobId, runNumber, attempt }: Jobs.Lease) =>
  no({ _tag: "LeaseOwnerMismatch", jobId, runNumber, attempt })

const isValid = (done: number | null, total: number | null) => done === null || total === null || done <= total

const merged = (job: Job, update: Update) => ({
  done: update.done ?? job.done,
  total: update.total ?? job.total,
  checkpoint: update.checkpoint === undefined ? job.checkpoint : { json: update.checkpoint }
})

/** The attempt leaves the job row. */
const ended = (job: HeldJob, at: number, endedAs: Attempt["endedAs"], rest: Partial<Attempt> = {}): Job => ({
  ...job,
  held: null,
  updatedAt: at,
  attempts: [
    ...job.attempts,
    {
      run: job.run,
      attempt: job.attempt,
      held: job.held,
      finishedAt: at,
      endedAs,
      endedSeq: null,
      failed: null,
      ...rest
    }
  ]
})

/** What a statement answers about one job and makes of it. */
export interface Outcome {
  readonly answer: unknown
  readonly job: Job | undefined
}

const heartbeat = (job: Job | undefined, lease: Jobs.Lease, extendMillis: number, at: number): Outcome =>
  isLive(job, lease, at)
    ? {
        answer: ok({ leaseExpiresAt: at + extendMillis }),
        job: {
          ...job,
          updatedAt: at,
          held: {
            ...job.held,
            expiresAt: at + extendMillis,
            heartbeatAt: at,
            renewed: job.held.startedAt !== null
          }
        }
      }
    : { answer: mismatch(lease), job }

const report = (job: Job | undefined, lease: Jobs.Lease, update: Update, starts: boolean, at: number): Outcome => {
  if (!isLive(job, lease, at)) return { answer: mismatch(lease), job }
  const { done, total, checkpoint } = merged(job, update)
  if (!isValid(done, total)) return { answer: no({ _tag: "InvalidProgress" }), job }
  let next: Job = job
  if (starts && job.held.startedAt === null) {
    next = event(job, at, "STAGE_CHANGED", { stage: "running" })
    next = { ...next, held: { ...job.held, startedAt: at, startedSeq: next.events.length } }
  }
  if (update.done !== undefined || update.total !== undefined) {
    next = event(next, at, "PROGRESS", { done: update.done ?? null, total: update.total ?? null, stored: true })
  }
  return {
    answer: ok(null),
    job: { ...next, done, total, checkpoint, stage: starts ? "running" : job.stage, updatedAt: at }
  }
}

const succeed = (job: HeldJob, { output, ...update }: Extract<Ending, { _tag: "Success" }>, at: number): Outcome => {
  const progress = merged(job, update)
  const { done, total } = progress
  if (!isValid(done, total)) return { answer: no({ _tag: "InvalidCompletionProgress" }), job }
  const next = event(ended(job, at, "SUCCEEDED", { endedSeq: job.events.length + 1 }), at, "SUCCEEDED", {
    stage: "completed",
    done,
    total
  })
  return {
    answer: ok({ _tag: "Succeeded", progress: { done, total } }),
    job: {
      ...next,
      ...progress,
      status: "SUCCEEDED",
      stage: "completed",
      output: output === undefined ? null : { json: output },
      finishedAt: at,
      statusReason: null,
      errorCode: null,
      errorMessage: null
    }
  }
}

interface Failure {
  readonly kind: FailureKind
  readonly code: string
  readonly message: string
  readonly error: Json | null
  readonly requestedAt: number | null
  readonly endedAs: "FAILED" | "LEASE_EXPIRED"
}

const policyMillis = (definition: Definition, code: string, attempt: number): number =>
  definition.overrides[code] ??
  Math.round(Math.min(definition.initialMillis * definition.factor ** (attempt - 1), definition.maxMillis))

const fail = (job: HeldJob, failure: Failure, definition: Definition, at: number): Outcome => {
  const { kind, code, message, error, endedAs } = failure
  const deadLetterReason =
    kind === "TERMINAL" || kind === "PANICKED"
      ? "FAILURE_KIND_NON_RETRYABLE"
      : job.attempt < job.maxAttempts
        ? undefined
        : endedAs === "LEASE_EXPIRED"
          ? "LEASE_EXPIRED"
          : "ATTEMPTS_EXHAUSTED"
  const unrenewed =
    endedAs === "LEASE_EXPIRED"
      ? { started_without_renewal_heartbeat: job.held.startedAt !== null && !job.held.renewed }
      : {}
  const checkpoint = job.checkpoint?.json ?? null
  const told = { kind, error_code: code, error_message: message, ...unrenewed }
  const after = { statusReason: kind, errorCode: code, errorMessage: message, output: null }
  const endedSeq = job.events.length + 1
  if (deadLetterReason !== undefined) {
    const failed = { kind, code, message, error, delayMillis: null, requestedAt: null, nextRunAt: null, source: null }
    const next = event(ended(job, at, endedAs, { endedSeq, failed }), at, "FAILED", { payload: told })
    return {
      answer: ok({ _tag: "DeadLettered", reason: deadLetterReason, checkpoint }),
      job: {
        ...event(next, at, "DEAD_LETTERED", { payload: { kind, error_code: code, ...unrenewed } }),
        ...after,
        status: "DEAD_LETTERED",
        finishedAt: at,
        deadLetter: {
          run: job.run,
          attempt: job.attempt,
          reason: deadLetterReason,
          kind,
          code,
          message,
          checkpoint: job.checkpoint,
          at,
          createdAt: job.deadLetter?.createdAt ?? at,
          settled: job.deadLetter?.settled ?? null
        }
      }
    }
  }
  const { requestedAt } = failure
  const delayMillis = policyMillis(definition, code, job.attempt)
  const held = requestedAt !== null && requestedAt > at + delayMillis
  const nextRunAt = held ? requestedAt : at + delayMillis
  const source = held ? "HANDLER_NOT_BEFORE" : "POLICY"
  const failed: Failed = { kind, code, message, error, delayMillis, requestedAt, nextRunAt, source }
  const next = event(ended(job, at, endedAs, { endedSeq, failed }), at, "FAILED", { payload: told })
  return {
    answer: ok({ _tag: "RetryScheduled", retryDelayMillis: delayMillis, nextRunAt, source, checkpoint }),
    job: {
      ...event(next, at, "RETRY_SCHEDULED", {
        stage: "queued",
        payload: {
          kind,
          retry_delay_ms: delayMillis,
          ...(requestedAt === null ? {} : { requested_retry_not_before: requestedAt, requested_retry_at: requestedAt }),
          effective_next_run_at: nextRunAt,
          next_run_at: nextRunAt,
          retry_timing_source: source,
          ...unrenewed
        }
      }),
      ...after,
      status: "PENDING",
      stage: "queued",
      nextRunAt
    }
  }
}

const continued = (job: HeldJob, slice: Extract<Ending, { _tag: "Continuation" }>, at: number): Outcome => {
  const progress = merged(job, slice)
  const { done, total } = progress
  if (!isValid(done, total)) return { answer: no({ _tag: "InvalidCompletionProgress" }), job }
  const nextRunAt = at + slice.delayMillis
  const next = event(ended(job, at, "CONTINUED"), at, "REQUEUED", {
    stage: "queued",
    done,
    total,
    payload: {
      reason: "HANDLER_CONTINUATION",
      requeue_kind: "HANDLER_CONTINUATION",
      next_run_number: job.run + 1,
      next_run_at: nextRunAt,
      delay_microseconds: slice.delayMillis * 1000
    },
    stored: true
  })
  return {
    answer: ok({
      _tag: "Continued",
      jobType: job.jobType,
      nextRunNumber: job.run + 1,
      nextRunAt,
      progress: { done, total }
    }),
    job: {
      ...next,
      ...progress,
      status: "PENDING",
      stage: "queued",
      run: job.run + 1,
      attempt: 0,
      nextRunAt,
      output: null,
      startedAt: null,
      statusReason: "HANDLER_CONTINUATION",
      errorCode: null,
      errorMessage: null
    }
  }
}

const complete = (job: Job | undefined, ending: Ending, definitions: State["definitions"], at: number): Outcome => {
  if (!isLive(job, ending.lease, at)) return { answer: mismatch(ending.lease), job }
  if (ending._tag === "Success") return succeed(job, ending, at)
  if (ending._tag === "Continuation") return continued(job, ending, at)
  const { kind, code, message, error = null, afterMillis, notBefore } = ending
  const after = afterMillis === undefined || afterMillis === 0 ? null : at + afterMillis
  const definition = definitions.get(job.jobType)
  return definition === undefined
    ? { answer: "the type is not declared", job }
    : fail(job, { kind, code, message, error, requestedAt: notBefore ?? after, endedAs: "FAILED" }, definition, at)
}

/** Claimed ahead, and not begun. */
const isUnstarted = (job: HeldJob): boolean => job.held.origin === "WORKER_PRESTART" && job.held.startedAt === null

/** The claim is taken back: no attempt is left of it, but its event is. */
const released = (job: HeldJob, reason: string, delayMillis: number, at: number): Job => {
  const next = event(job, at, "REQUEUED", {
    stage: job.stage,
    payload: { reason, requeue_kind: "BASIC" },
    stored: true
  })
  return {
    ...next,
    events: next.events.map((each) => (each.seq === job.held.leasedSeq ? { ...each, stored: true } : each)),
    held: null,
    status: "PENDING",
    attempt: job.attempt - 1,
    nextRunAt: at + delayMillis,
    startedAt: job.attempt === 1 ? null : job.startedAt,
    statusReason: null,
    errorCode: null,
    errorMessage: null,
    output: null,
    updatedAt: at
  }
}

const release = (job: Job | undefined, lease: Jobs.Lease, reason: string, delayMillis: number, at: number): Outcome => {
  if (matches(job, lease) && isUnstarted(job)) {
    return { answer: ok(null), job: released(job, reason, delayMillis, at) }
  }
  const { jobId, runNumber, attempt } = lease
  return job !== undefined && job.held !== null && job.held.workerId !== lease.workerId
    ? { answer: mismatch(lease), job }
    : { answer: no({ _tag: "UnstartedClaimReleaseNotApplicable", jobId, runNumber, attempt }), job }
}

/** Whether the reaper may take the job. */
export const isReapable = (job: Job, at: number): job is HeldJob => job.held !== null && job.held.expiresAt <= at

const reaped = (job: HeldJob, definitions: State["definitions"], at: number): Outcome => {
  const unstarted = isUnstarted(job)
  const definition = definitions.get(job.jobType)
  if (definition === undefined) return { answer: "the type is not declared", job }
  const outcome: Outcome = unstarted
    ? {
        answer: ok({ _tag: "Released" }),
        job: released(job, "LEASE_EXPIRED_BEFORE_RUNNING_PERSISTED", 0, at)
      }
    : fail(
        job,
        {
          kind: "LEASE_EXPIRED",
          code: "job.lease_expired",
          message: "The lease ran out",
          error: null,
          requestedAt: null,
          endedAs: "LEASE_EXPIRED"
        },
        definition,
        at
      )
  return {
    answer: {
      jobId: job.id,
      jobType: job.jobType,
      organizationId: job.organizationId,
      runNumber: job.run,
      attempt: job.attempt,
      maxAttempts: job.maxAttempts,
      workerId: job.held.workerId,
      startedWithoutRenewal: job.held.startedAt !== null && !job.held.renewed,
      disposition: Predicate.hasProperty(outcome.answer, "ok") ? outcome.answer.ok : undefined
    },
    job: outcome.job
  }
}

const isInScope = (job: Job, scope: TenantScope.TenantScope): boolean =>
  scope._tag === "Admin" ||
  (scope._tag === "Global" ? job.organizationId === null : job.organizationId === scope.organizationId)

const cancel = (job: Job | undefined, call: Extract<Call, { readonly _tag: "Cancel" }>, at: number): Outcome => {
  const { jobId } = call
  if (job === undefined || !isInScope(job, call.scope)) return { answer: no({ _tag: "JobNotFound", jobId }), job }
  if (job.status !== "PENDING" && job.status !== "LEASED") {
    return { answer: no({ _tag: "InvalidStateTransition", jobId, status: job.status }), job }
  }
  const { held } = job
  const reason = call.reason ?? "CANCELED"
  const next = event(held === null ? job : ended({ ...job, held }, at, "CANCELED"), at, "CANCELED", {
    attempt: job.attempt === 0 ? null : job.attempt,
    stage: job.stage,
    done: job.done,
    total: job.total,
    payload: { reason, ...(held === null ? {} : { lease_quiesces_at: held.expiresAt }) },
    stored: true
  })
  const canceled: Job = {
    ...next,
    status: "CANCELED",
    quiescesAt: held?.expiresAt ?? null,
    finishedAt: at,
    output: null,
    statusReason: reason,
    updatedAt: at
  }
  return { answer: ok(recordOf(canceled)), job: canceled }
}

const redriveReason = "the server is back"

const requeued = (
  job: Job,
  {
    reason,
    statePolicy,
    ...more
  }: { reason: string; statePolicy: Jobs.StatePolicy; requeue_kind: string; redrive_id?: string },
  at: number
): Job => {
  const { done, total, checkpoint } = statePolicy === "preserve" ? job : { done: null, total: null, checkpoint: null }
  const next = event(job, at, "REQUEUED", {
    attempt: job.attempt === 0 ? null : job.attempt,
    stage: "queued",
    done,
    total,
    payload: { reason, state_policy: `${statePolicy}_progress_and_checkpoint`, ...more },
    stored: true
  })
  return {
    ...next,
    status: "PENDING",
    stage: "queued",
    run: job.run + 1,
    attempt: 0,
    nextRunAt: at,
    startedAt: null,
    finishedAt: null,
    quiescesAt: null,
    done,
    total,
    checkpoint,
    output: null,
    statusReason: reason,
    errorCode: null,
    errorMessage: null,
    updatedAt: at,
    deadLetter: job.deadLetter === null ? null : { ...job.deadLetter, settled: job.deadLetter.run }
  }
}

const requeue = (job: Job | undefined, request: Jobs.RequeueRequest, at: number): Outcome => {
  const { jobId, scope, expectedStatus, expectedRunNumber, reason, statePolicy } = request
  if (job === undefined || !isInScope(job, scope)) return { answer: ok({ _tag: "NotFound", jobId }), job }
  const actual = recordOf(job)
  if (job.status !== expectedStatus || job.run !== expectedRunNumber) {
    return { answer: ok({ _tag: "ExpectationMismatch", actual }), job }
  }
  if (job.quiescesAt !== null && job.quiescesAt > at) {
    return { answer: ok({ _tag: "CancellationNotQuiesced", actual, retryAfter: job.quiescesAt }), job }
  }
  const after = requeued(job, { reason, statePolicy, requeue_kind: "COMPARE_AND_REQUEUE" }, at)
  return {
    answer: ok({ _tag: "Requeued", before: actual, after: recordOf(after), seq: after.events.length }),
    job: after
  }
}

/** Whether a redrive would take the job. */
export const isRedrivable = (job: Job, call: Extract<Call, { readonly _tag: "Redrive" }>): boolean =>
  job.status === "DEAD_LETTERED" && isInScope(job, call.scope) && (call.jobType ?? job.jobType) === job.jobType

const redriven = (
  job: Job | undefined,
  call: Extract<Call, { readonly _tag: "Redrive" }>,
  observed: unknown,
  at: number
): Outcome => {
  if (job === undefined || !isRedrivable(job, call)) return { answer: "not redrivable", job }
  const id = Predicate.hasProperty(observed, "redriveId") ? String(observed.redriveId) : ""
  const { statePolicy } = call
  const kind = { requeue_kind: "DEAD_LETTER_REDRIVE", redrive_id: id }
  const next = requeued(job, { reason: redriveReason, statePolicy, ...kind }, at)
  return {
    answer: { jobId: job.id, jobType: job.jobType, runNumber: next.run, seq: next.events.length, redriveId: id },
    job: next
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Operations, job by job
// ---------------------------------------------------------------------------------------------------------------------

/** What an operation said about one job, and the step of the model that should say the same. */
export interface Touch {
  readonly jobId: string
  readonly observed: unknown
  readonly step: (job: Job | undefined) => Outcome
}

/** The answer of a call that is refused before anything is sent. */
export const refusal = (call: Call): Answer | undefined => {
  const broken = (update: Update) => !isValid(update.done ?? null, update.total ?? null)
  if (call._tag === "Report" && broken(call.update)) {
    return { _tag: "Items", items: [no({ _tag: "InvalidProgress" })] }
  }
  if (call._tag === "Complete" && call.endings.some((ending) => ending._tag !== "Failure" && broken(ending))) {
    const reason = { _tag: "InvalidCompletionProgress" }
    return call.many ? { _tag: "Whole", reason } : { _tag: "Items", items: [no(reason)] }
  }
  return undefined
}

const idIn = (item: unknown): string | undefined => {
  if (!Predicate.isObject(item)) return undefined
  for (const part of Object.values({ ...item, item })) {
    if (Predicate.hasProperty(part, "jobId") && Predicate.isString(part.jobId)) return part.jobId
  }
  return undefined
}

/**
 * What an answer says about each job that it names. The database chooses ids and, among equals, jobs: these are taken from the
 * answer, and {@link complaints} says whether it could choose so.
 */
export const touches = (
  call: Call,
  items: ReadonlyArray<unknown>,
  definitions: State["definitions"],
  at: number
): ReadonlyArray<Touch> => {
  switch (call._tag) {
    case "Enqueue":
      return items.flatMap((observed, i): ReadonlyArray<Touch> => {
        const request = call.requests[i]
        const jobId = idIn(observed)
        if (request === undefined || jobId === undefined) return []
        const step = (job: Job | undefined): Outcome => {
          if (job !== undefined) {
            return isFor(job, request)
              ? { answer: found(job, request), job }
              : { answer: "another job has the id", job }
          }
          const definition = definitions.get(request.jobType)
          if (definition?.isEnabled !== true) return { answer: unavailable(request, definition), job }
          return {
            answer: ok({ jobId, status: "PENDING", runNumber: 1, disposition: "inserted" }),
            job: enqueued(request, definition, jobId, at)
          }
        }
        return [{ jobId, observed, step }]
      })
    case "Claim":
      return items.map((observed) => ({
        jobId: idIn(observed) ?? "",
        observed,
        step: (job) => {
          if (job === undefined || !isClaimable(job, call, at)) return { answer: "not claimable", job }
          const next = claimed(job, call, at)
          return { answer: claimAnswer(next), job: next }
        }
      }))
    case "Release":
      return items.map((observed) => ({
        jobId: call.lease.jobId,
        observed,
        step: (job) => release(job, call.lease, call.reason, call.delayMillis, at)
      }))
    case "Heartbeat":
      return call.leases.map((lease, i) => ({
        jobId: lease.jobId,
        observed: items[i],
        step: (job) => heartbeat(job, lease, call.extendMillis, at)
      }))
    case "Report":
      return items.map((observed) => ({
        jobId: call.lease.jobId,
        observed,
        step: (job) => report(job, call.lease, call.update, call.starts, at)
      }))
    case "Complete":
      return call.endings.map((ending, i) => ({
        jobId: ending.lease.jobId,
        observed: items[i],
        step: (job) => complete(job, ending, definitions, at)
      }))
    case "Reap":
      return items.map((observed) => ({
        jobId: idIn(observed) ?? "",
        observed,
        step: (job) =>
          job !== undefined && isReapable(job, at) ? reaped(job, definitions, at) : { answer: "not reapable", job }
      }))
    case "Cancel":
      return items.map((observed) => ({
        jobId: call.jobId,
        observed,
        step: (job) => cancel(job, call, at)
      }))
    case "Requeue":
      return items.map((observed) => ({
        jobId: call.request.jobId,
        observed,
        step: (job) => requeue(job, call.request, at)
      }))
    case "Redrive":
      return items.map((observed) => ({
        jobId: idIn(observed) ?? "",
        observed,
        step: (job) => redriven(job, call, observed, at)
      }))
    case "Define":
      return []
  }
}

const unavailable = (request: Request, definition: Definition | undefined) =>
  no({
    _tag: "DefinitionUnavailable",
    jobType: request.jobType,
    state: definition === undefined ? "missing" : "disabled"
  })

/** A declaration, replaced or merged. `undefined`: nothing is declared that could be changed. */
export const define = (state: State, call: Extract<Call, { readonly _tag: "Define" }>): State =>
  call.merges && !state.definitions.has(call.jobType)
    ? state
    : { ...state, definitions: new Map(state.definitions).set(call.jobType, call.definition) }

const byDue = (a: Job, b: Job) => a.nextRunAt - b.nextRunAt || (a.id < b.id ? -1 : 1)

/** What the jobs that an operation did and did not choose say against it, if nothing else happened at the time. */
export const complaints = (
  state: State,
  call: Call,
  items: ReadonlyArray<unknown>,
  at: number
): ReadonlyArray<string> => {
  const chosen = items.flatMap((item) => idIn(item) ?? [])
  if (call._tag === "Enqueue") {
    return call.requests.flatMap((request, i) => {
      const item = items[i]
      const keyed = [...state.jobs.values()].find((job) => isFor(job, request))
      if (keyed !== undefined) return idIn(item) === keyed.id ? [] : [`${request.key} belongs to ${keyed.id}`]
      const definition = state.definitions.get(request.jobType)
      const refused = idIn(item) === undefined
      if (definition?.isEnabled !== true) return refused ? [] : ["enqueued without a definition"]
      return refused ? [`refused: ${JSON.stringify(item)}`] : []
    })
  }
  if (call._tag === "Reap") {
    const expected = [...state.jobs.values()]
      .filter((job) => isReapable(job, at))
      .sort((a, b) => (a.held?.expiresAt ?? 0) - (b.held?.expiresAt ?? 0) || (a.id < b.id ? -1 : 1))
      .slice(0, call.limit)
      .map(({ id }) => id)
    return same(new Set(chosen), new Set(expected)) ? [] : [`reaped ${chosen}, not ${expected}`]
  }
  if (call._tag === "Redrive") {
    const expected = [...state.jobs.values()]
      .filter((job) => isRedrivable(job, call))
      .sort((a, b) => (a.deadLetter?.at ?? 0) - (b.deadLetter?.at ?? 0) || (a.id < b.id ? -1 : 1))
      .slice(0, call.limit)
      .map(({ id }) => id)
    return same(new Set(chosen), new Set(expected)) ? [] : [`redriven ${chosen}, not ${expected}`]
  }
  if (call._tag !== "Claim") return []
  const due = [...state.jobs.values()].filter((job) => isClaimable(job, call, at)).sort(byDue)
  const lane = (job: Job) => `${job.jobType} ${job.payloadVersion} ${job.priority}`
  const lanes = [...new Set(due.map(lane))].map((name) => due.filter((job) => lane(job) === name))
  const answered = chosen.flatMap((id) => state.jobs.get(id) ?? [])
  const ordered = answered.toSorted((a, b) => b.priority - a.priority || byDue(a, b))
  const count = (lane: ReadonlyArray<Job>) => lane.filter(({ id }) => chosen.includes(id)).length
  return [
    ...(chosen.length === Math.min(call.limit, due.length) ? [] : [`claimed ${chosen.length} of ${due.length} due`]),
    ...(same(answered, ordered) ? [] : ["not in the order of the queue"]),
    ...lanes.flatMap((lane) => (lane.slice(0, count(lane)).every(({ id }) => chosen.includes(id)) ? [] : ["not FIFO"])),
    ...lanes.flatMap((lane) =>
      lanes.flatMap((other) => {
        const [head] = lane
        const [otherHead] = other
        if (head === undefined || otherHead === undefined || lane === other) return []
        const order = otherHead.priority - head.priority || head.nextRunAt - otherHead.nextRunAt
        // an earlier lane is emptied first; of two equal ones, one
        const partial = count(lane) < lane.length && count(other) > 0
        if (order < 0 && partial) return ["a lane was overtaken"]
        return order === 0 && partial && count(lane) > 0 && count(other) < other.length ? ["two lanes were split"] : []
      })
    )
  ]
}

const same = <A>(a: Iterable<A>, b: Iterable<A>): boolean => {
  const [left, right] = [[...a], [...b]]
  return a instanceof Set && b instanceof Set
    ? a.size === b.size && left.every((item) => b.has(item))
    : left.length === right.length && left.every((item, i) => item === right[i])
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

/** The rows of a job in all tables, and its events as they are read. */
export interface Rows {
  readonly job: unknown
  readonly attempts: ReadonlyArray<unknown>
  readonly stored: ReadonlyArray<unknown>
  readonly deadLetters: ReadonlyArray<unknown>
}

const percent = ({ done, total }: Job): number | null =>
  total === null || total === 0 || done === null ? null : Math.round((done * 10_000) / total) / 100

const attemptColumns = (held: Held) => ({
  worker_id: held.workerId,
  claim_origin: held.origin,
  leased_at: held.leasedAt,
  lease_ms: held.leaseMillis,
  renewed: held.renewed,
  leased_seq: held.leasedSeq,
  started_seq: held.startedSeq
})

/** The job as the tables should hold it. */
export const rowsOf = (job: Job): Rows => ({
  job: {
    id: job.id,
    job_type: job.jobType,
    payload_version: job.payloadVersion,
    organization_id: job.organizationId,
    payload: job.payload,
    status: job.status,
    priority: job.priority,
    run_number: job.run,
    attempt: job.attempt,
    max_attempts: job.maxAttempts,
    timeout_seconds: job.timeoutSeconds,
    next_run_at: job.nextRunAt,
    lease_expires_at: job.held?.expiresAt ?? job.quiescesAt,
    last_heartbeat_at: job.held?.heartbeatAt ?? null,
    attempt_started_at: job.held?.startedAt ?? null,
    ...(job.held === null
      ? {
          worker_id: null,
          claim_origin: null,
          leased_at: null,
          lease_ms: null,
          renewed: false,
          leased_seq: null,
          started_seq: null
        }
      : attemptColumns(job.held)),
    event_seq: job.events.length,
    started_at: job.startedAt,
    finished_at: job.finishedAt,
    stage: job.stage,
    progress_done: job.done,
    progress_total: job.total,
    checkpoint: job.checkpoint?.json ?? null,
    has_checkpoint: job.checkpoint !== null,
    output: job.output?.json ?? null,
    has_output: job.output !== null,
    idempotency_key: job.key,
    enqueue_request: job.request,
    execution_resource_key: null,
    workflow_run_id: null,
    workflow_step_id: null,
    status_reason: job.statusReason,
    last_error_code: job.errorCode,
    last_error_message: job.errorMessage,
    created_at: job.createdAt,
    updated_at: job.updatedAt
  },
  attempts: job.attempts.map(({ run, attempt, held, finishedAt, endedAs, endedSeq, failed }) => ({
    job_id: job.id,
    run_number: run,
    attempt,
    ...attemptColumns(held),
    started_at: held.startedAt,
    finished_at: finishedAt,
    ended_as: endedAs,
    ended_seq: endedSeq,
    outcome: failed?.kind ?? null,
    error_code: failed?.code ?? null,
    error_message: failed?.message ?? null,
    error: failed?.error ?? null,
    retry_delay_ms: failed?.delayMillis ?? null,
    requested_retry_not_before: failed?.requestedAt ?? null,
    effective_next_run_at: failed?.nextRunAt ?? null,
    retry_timing_source: failed?.source ?? null
  })),
  stored: job.events
    .filter(({ stored }) => stored)
    .map((each) => ({
      job_id: job.id,
      seq: each.seq,
      run_number: each.run,
      attempt: each.attempt,
      event_type: each.type,
      stage: each.stage,
      progress_done: each.done,
      progress_total: each.total,
      payload: each.payload,
      occurred_at: each.at
    })),
  deadLetters:
    job.deadLetter === null
      ? []
      : [
          {
            job_id: job.id,
            job_type: job.jobType,
            organization_id: job.organizationId,
            run_number: job.deadLetter.run,
            attempt: job.deadLetter.attempt,
            reason: job.deadLetter.reason,
            failure_kind: job.deadLetter.kind,
            error_code: job.deadLetter.code,
            error_message: job.deadLetter.message,
            payload_snapshot: job.payload,
            checkpoint_snapshot: job.deadLetter.checkpoint?.json ?? null,
            has_checkpoint: job.deadLetter.checkpoint !== null,
            failed_at: job.deadLetter.at,
            created_at: job.deadLetter.createdAt,
            settled_run_number: job.deadLetter.settled
          }
        ]
})

/** The job as `Jobs.get` and `Jobs.cancel` should return it. */
export const recordOf = (job: Job) => ({
  id: job.id,
  jobType: job.jobType,
  payloadVersion: job.payloadVersion,
  organizationId: job.organizationId,
  payload: job.payload,
  status: job.status,
  priority: job.priority,
  runNumber: job.run,
  attempt: job.attempt,
  maxAttempts: job.maxAttempts,
  timeoutSeconds: job.timeoutSeconds,
  nextRunAt: job.nextRunAt,
  leaseExpiresAt: job.held?.expiresAt ?? job.quiescesAt,
  lastHeartbeatAt: job.held?.heartbeatAt ?? null,
  workerId: job.held?.workerId ?? null,
  startedAt: job.startedAt,
  finishedAt: job.finishedAt,
  stage: job.stage,
  progressDone: job.done,
  progressTotal: job.total,
  progressPct: percent(job),
  checkpoint: job.checkpoint?.json ?? null,
  output: job.output?.json ?? null,
  idempotencyKey: job.key,
  executionResourceKey: null,
  statusReason: job.statusReason,
  lastErrorCode: job.errorCode,
  lastErrorMessage: job.errorMessage,
  workflowRunId: null,
  workflowStepId: null,
  createdAt: job.createdAt,
  updatedAt: job.updatedAt
})

/** The events as `Jobs.events` should return them. */
export const eventsOf = (job: Job): ReadonlyArray<unknown> =>
  job.events.map(({ seq, run, attempt, type, stage, done, total, payload, at }) => ({
    seq,
    runNumber: run,
    attempt,
    type,
    stage,
    progressDone: done,
    progressTotal: total,
    payload,
    occurredAt: at
  }))

/** The attempts as `Jobs.attempts` should return them, the one under way included. */
export const attemptsOf = (job: Job): ReadonlyArray<unknown> =>
  [
    ...job.attempts,
    ...(job.held === null
      ? []
      : [{ run: job.run, attempt: job.attempt, held: job.held, finishedAt: null, endedAs: null, failed: null }])
  ].map(({ run, attempt, held, finishedAt, endedAs, failed }) => ({
    runNumber: run,
    attempt,
    workerId: held.workerId,
    claimOrigin: held.origin,
    leasedAt: held.leasedAt,
    startedAt: held.startedAt,
    renewed: held.renewed,
    finishedAt,
    endedAs,
    outcome: failed?.kind ?? null,
    errorCode: failed?.code ?? null,
    errorMessage: failed?.message ?? null,
    error: failed?.error ?? null,
    retryDelayMillis: failed?.delayMillis ?? null,
    requestedRetryNotBefore: failed?.requestedAt ?? null,
    effectiveNextRunAt: failed?.nextRunAt ?? null,
    retryTimingSource: failed?.source ?? null
  }))
