/**
 * One claimed job: from the claim to the ending that is stored.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "../internal/busy.ts"
import { spanOf } from "../internal/trace.ts"
import type { ClaimedJob, Lease } from "../Job.ts"
import { Continuation, type Handler, JobFailure } from "../JobContract.ts"
import { JobExecution } from "../JobExecution.ts"
import type { Completion, DeadLettered } from "../jobs/complete.ts"
import type { Completions } from "./completions.ts"
import * as Execution from "./execution.ts"
import type { JobLogger } from "./logs.ts"
import * as Metrics from "./metrics.ts"
import { type Observer, tell } from "./observer.ts"
import { monotonicMillis, type Running, type Stop } from "./running.ts"

export interface Environment {
  readonly handlers: ReadonlyMap<string, Handler>
  readonly completions: Completions
  readonly logger: JobLogger
  readonly observers: ReadonlyArray<Observer>
  readonly own: Context.Context<SqlClient>
}

// how long an interrupted handler may take to let go, before its attempt is ended without it
const letGoMillis = 5000

const failure = (lease: Lease, failed: JobFailure): Completion => ({
  _tag: "Failure",
  lease,
  kind: failed.kind ?? "RETRYABLE",
  code: failed.code,
  message: failed.message,
  error: failed.error,
  retryNotBefore: failed.retryNotBefore
})

/** What is stored about a handler that ended by itself. */
export const endingOf = (lease: Lease, exit: Exit.Exit<Json, JobFailure | Continuation>): Completion => {
  if (Exit.isSuccess(exit)) return { _tag: "Success", lease, output: exit.value }
  const failed = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
  if (failed instanceof Continuation) {
    const { delay, done, total, checkpoint } = failed
    return { _tag: "Continuation", lease, delay, done, total, checkpoint }
  }
  if (failed !== undefined) return failure(lease, failed)
  if (Cause.hasInterruptsOnly(exit.cause)) {
    return failure(
      lease,
      new JobFailure({ code: "job.handler_interrupted", message: "The handler interrupted itself" })
    )
  }
  const defect = Cause.squash(exit.cause)
  return failure(
    lease,
    new JobFailure({
      kind: "PANICKED",
      code: "job.handler_panic",
      message: defect instanceof Error ? `${defect.name}: ${defect.message}` : "The handler died"
    })
  )
}

const stoppedBy: Readonly<Record<Exclude<Stop, "LeaseLost">, JobFailure>> = {
  Timeout: new JobFailure({
    kind: "TIMEOUT",
    code: "job.timeout_exceeded",
    message: "The handler did not end before its deadline"
  }),
  Shutdown: new JobFailure({ code: "job.worker_shutdown", message: "The worker was shut down" })
}

/** Runs the handler and stores how it ended. Never fails; interrupting it would leave the job to the reaper. */
export const run = Effect.fnUntraced(function* (
  { handlers, completions, logger, observers, own }: Environment,
  running: Running
) {
  const { job } = running
  const { lease, jobType, maxAttempts } = job
  const observed = { lease, jobType, maxAttempts }
  const handler = handlers.get(jobType)
  if (handler === undefined) return
  yield* tell(observers, { _tag: "Running", job: observed })

  const parent = Option.getOrUndefined(Option.map(job.traceParent, spanOf))
  const fiber = yield* handler.run(job.payload, job.payloadVersion).pipe(
    Effect.scoped,
    Effect.provideService(JobExecution, Execution.make(running, handler, own)),
    logger.keep(lease),
    Effect.annotateLogs({ jobId: lease.jobId, jobType, attempt: lease.attempt }),
    Effect.withSpan("Job", {
      ...(parent === undefined ? { root: true } : { parent }),
      attributes: { "job.type": jobType, "job.id": lease.jobId, "job.attempt": lease.attempt }
    }),
    Effect.forkDetach
  )
  const timeout = Effect.as(Effect.sleep(Math.max(1, job.timeoutSeconds) * 1000), "Timeout" as const)
  const ended = yield* Effect.raceFirst(Fiber.await(fiber), Effect.raceFirst(Deferred.await(running.stop), timeout))

  let completion: Completion | undefined
  if (typeof ended !== "string") {
    completion = endingOf(lease, ended)
  } else {
    yield* Effect.raceFirst(Fiber.interrupt(fiber), sleepLive(letGoMillis)).pipe(Effect.asVoid)
    if (fiber.pollUnsafe() === undefined) {
      yield* Effect.logError(
        `The handler of ${jobType} has not let go after ${letGoMillis / 1000} s; its attempt ends without it`
      )
    }
    completion = ended === "LeaseLost" ? undefined : failure(lease, stoppedBy[ended])
  }
  yield* logger.flush
  const durationMillis = monotonicMillis() - running.startedAt
  const isDone = () => running.completion === "committed"

  if (isDone()) {
    if (completion !== undefined && completion._tag !== "Success") {
      yield* Effect.logWarning("A handler failed after the job was completed in its transaction")
    }
    yield* Metrics.ended(jobType, "CompletedItself", durationMillis)
    return yield* tell(observers, { _tag: "CompletedItself", job: observed, durationMillis })
  }
  if (completion === undefined) {
    yield* Metrics.ended(jobType, "LeaseLost", durationMillis)
    return yield* tell(observers, { _tag: "LeaseLost", job: observed, durationMillis })
  }
  const persisted = yield* persist(completions, completion)
  if (persisted._tag === "Done") {
    const { outcome } = persisted
    yield* Metrics.ended(jobType, outcome?._tag ?? "Succeeded", durationMillis)
    if (outcome !== undefined) yield* tell(observers, { _tag: "Ended", job: observed, durationMillis, outcome })
    if (outcome?._tag === "DeadLettered" && completion._tag === "Failure") {
      yield* buried(handler, job, completion, outcome)
    }
    return
  }
  if (persisted.reason._tag === "LeaseOwnerMismatch") {
    yield* Metrics.ended(jobType, "LeaseLost", durationMillis)
    return yield* tell(observers, { _tag: "LeaseLost", job: observed, durationMillis })
  }
  yield* Effect.logError(`The ending of a ${jobType} could not be stored: ${persisted.reason.message}`)
  yield* Metrics.ended(jobType, "PersistFailed", durationMillis)
  yield* tell(observers, { _tag: "PersistFailed", job: observed, code: persisted.reason.code })
})

/** An ending that cannot be stored as it is (an output too large, numbers that make no progress) is a terminal failure. */
const persist = Effect.fnUntraced(function* (completions: Completions, completion: Completion) {
  const first = yield* completions.persist(completion)
  if (first._tag === "Done" || first.reason.category !== "Validation") return first
  const { code, message } = first.reason
  return yield* completions.persist({ _tag: "Failure", lease: completion.lease, kind: "TERMINAL", code, message })
})

const buried = (
  handler: Handler,
  { lease, payload }: ClaimedJob,
  { code, message }: Extract<Completion, { _tag: "Failure" }>,
  { reason, checkpoint }: DeadLettered
) =>
  Effect.suspend(() =>
    handler.onDeadLetter({
      jobId: lease.jobId,
      runNumber: lease.runNumber,
      attempt: lease.attempt,
      payload,
      checkpoint: Option.getOrUndefined(checkpoint),
      reason,
      code,
      message
    })
  ).pipe(
    Effect.timeoutOption("10 seconds"),
    Effect.catchCause((cause) => Effect.logWarning("A dead-letter hook failed", cause)),
    Effect.forkDetach,
    Effect.asVoid
  )
