import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { askUntilFree } from "../internal/busy.ts"
import { chunksOf } from "../internal/chunks.ts"
import { type NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isPoisoned, savepointInCallers } from "../internal/poison.ts"
import { classified, transaction } from "../internal/transaction.ts"
import type { Lease } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type ConstraintViolation,
  InvalidArgument,
  type InvalidCompletionProgress,
  type InvalidContinuationDelay,
  type InvalidRetryTiming,
  type LeaseOwnerMismatch,
  type QueryFailed,
  type Reason,
  type Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { admin } from "../TenantScope.ts"
import type { WorkflowContinuationNotEnabled } from "../WorkflowReason.ts"
import { inRun, lockFreeRuns } from "../workflows/lock.ts"
import { settleJobs } from "../workflows/settle.ts"
import {
  bytesOf,
  type Completion,
  type ContinuationOptions,
  encodeContinuation,
  encodeFailure,
  encodeSuccess,
  type FailureOptions,
  type SuccessOptions
} from "./completion.ts"
import { type Continued, continueWith, type EncodedContinuation } from "./continuation.ts"
import { type EncodedFailure, type FailureDisposition, fail } from "./failure.ts"
import { answerFor, invalidLease, OfRun, type Runs } from "./fence.ts"
import { maxBatch } from "./limits.ts"
import { type EncodedSuccess, type Succeeded, succeed } from "./success.ts"

export type { Completion, ContinuationOptions, FailureOptions, SuccessOptions } from "./completion.ts"
export type { Continued } from "./continuation.ts"
export type { DeadLettered, FailureDisposition, RetryScheduled } from "./failure.ts"
export type { Succeeded } from "./success.ts"

/** What became of one attempt of a batch. */
export type Completed = Succeeded | FailureDisposition | Continued

/** What every completion can fail with. */
type CommonReason = InvalidArgument | LeaseOwnerMismatch | UnsupportedIsolation | WriteReason

/** What {@link completeSuccess} can fail with. */
export type SuccessReason = CommonReason | InvalidCompletionProgress

/** What {@link completeFailure} can fail with. */
export type FailureReason = CommonReason | InvalidRetryTiming

/** What {@link completeContinuation} can fail with. */
export type ContinuationReason =
  | CommonReason
  | InvalidCompletionProgress
  | InvalidContinuationDelay
  | WorkflowContinuationNotEnabled

/** What {@link completeMany} can fail with as a whole: a malformed batch, before anything is sent, or the database. */
export type CompleteManyReason =
  | InvalidArgument
  | InvalidCompletionProgress
  | InvalidContinuationDelay
  | InvalidRetryTiming
  | UnsupportedIsolation
  | WriteReason

/** What one row of {@link completeMany} can be told. */
export type CompletionRefusal =
  | LeaseOwnerMismatch
  | InvalidCompletionProgress
  | WorkflowContinuationNotEnabled
  | Unavailable
  | ConstraintViolation
  | QueryFailed

/**
 * Finishes a job: `SUCCEEDED`, with its output.
 *
 * Inside the handler's own transaction, job and rows commit together, exactly once. The lease is judged when this runs;
 * from then on the row lock keeps the job, so a commit after the expiry is valid.
 *
 * Fails with `LeaseOwnerMismatch` (not held, or expired), `Unavailable` (the row stayed locked for two seconds),
 * `InvalidCompletionProgress` (alone or together with what is stored), `InvalidArgument` (lease or JSON),
 * `UnsupportedIsolation`, or what any write can fail with. After `OutcomeUnknown`, `Jobs.attempts` tells whether it happened.
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job and attempt.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const finished = Jobs.completeSuccess(lease, { output: { messageId: "42" } })
 * ```
 */
export const completeSuccess: (
  lease: Lease,
  options?: SuccessOptions
) => Effect.Effect<Succeeded, QueryError<SuccessReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  options?: SuccessOptions
) {
  return yield* one(yield* wellFormed(encodeSuccess({ lease, ...options })), succeed, "ends a step")
}, writing("Jobs.completeSuccess"))

/**
 * Ends an attempt as failed. The job is retried when its definition's policy says, or ends in the dead letters: at once for
 * `TERMINAL` and `PANICKED`, else when its attempts are used up.
 *
 * Fails with `LeaseOwnerMismatch`, `Unavailable`, `UnsupportedIsolation` and what any write can fail with
 * as {@link completeSuccess} does; with `InvalidRetryTiming` for a lower bound that cannot be represented, and
 * `InvalidArgument` (lease, kind or code).
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job, attempt and dead letter.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const failed = Jobs.completeFailure(lease, {
 *   kind: "RETRYABLE",
 *   code: "smtp.throttled",
 *   message: "421 try again later",
 *   retryNotBefore: { delay: "2 minutes" }
 * })
 * ```
 */
export const completeFailure: (
  lease: Lease,
  options: FailureOptions
) => Effect.Effect<FailureDisposition, QueryError<FailureReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  options: FailureOptions
) {
  return yield* one(yield* wellFormed(encodeFailure({ lease, ...options })), fail, "ends a step")
}, writing("Jobs.completeFailure"))

/**
 * Ends an attempt as one slice of longer work: the job goes back to the queue as its next run, with fresh attempts, keeping
 * progress and checkpoint. Continuations are not limited by the number of attempts.
 *
 * Fails with `LeaseOwnerMismatch`, `Unavailable`, `InvalidCompletionProgress`, `UnsupportedIsolation` and
 * what any write can fail with as {@link completeSuccess} does; with `InvalidContinuationDelay`,
 * `WorkflowContinuationNotEnabled` (the step of a workflow did not opt in), and `InvalidArgument`
 * (lease or checkpoint).
 *
 * Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job, attempt and event.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const lease: Jobs.Lease
 * const sliced = Jobs.completeContinuation(lease, { checkpoint: { page: 7 }, delay: "10 seconds" })
 * ```
 */
export const completeContinuation: (
  lease: Lease,
  options?: ContinuationOptions
) => Effect.Effect<Continued, QueryError<ContinuationReason>, SqlClient> = Effect.fnUntraced(function* (
  lease: Lease,
  options?: ContinuationOptions
) {
  const item = yield* wellFormed(encodeContinuation({ lease, ...options }))
  const continued = yield* one(item, continueWith, "keeps it")
  if (item.delayMillis === 0) yield* markDue([continued.jobType])
  return continued
}, writing("Jobs.completeContinuation"))

/**
 * Ends up to 1,000 attempts, each as its own way says, each fenced and answered on its own, in the order given. One lost,
 * locked or refused row does not hold up the others: a row that is locked by another transaction is asked again for two
 * seconds and then answered `Unavailable`; if the database refuses a batch, it is halved until the row at fault is found.
 *
 * The whole is refused before anything is sent if any item is malformed or two name the same job, with the reasons of the
 * single operations. Otherwise it fails with `UnsupportedIsolation` or what any write can fail with; rows of earlier
 * statements may then be done. Inside a caller's transaction each statement runs in a savepoint.
 *
 * Locks and writes as the single operations, in batches of at most 8 MiB.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * declare const a: Jobs.Lease
 * declare const b: Jobs.Lease
 * const answers = Jobs.completeMany([
 *   { _tag: "Success", lease: a, output: 1 },
 *   { _tag: "Failure", lease: b, kind: "TERMINAL", code: "input.rejected", message: "no such address" }
 * ])
 * ```
 */
export const completeMany: (
  completions: ReadonlyArray<Completion>
) => Effect.Effect<
  ReadonlyArray<Result.Result<Completed, CompletionRefusal>>,
  QueryError<CompleteManyReason>,
  SqlClient
> = Effect.fnUntraced(function* (completions: ReadonlyArray<Completion>) {
  const invalid = invalidLease(completions.map(({ lease }) => lease))
  if (invalid !== undefined) return yield* invalid
  const successes: Array<EncodedSuccess> = []
  const failures: Array<EncodedFailure> = []
  const continuations: Array<EncodedContinuation> = []
  for (const completion of completions) {
    const refused =
      completion._tag === "Success"
        ? collect(successes, encodeSuccess(completion))
        : completion._tag === "Failure"
          ? collect(failures, encodeFailure(completion))
          : completion._tag === "Continuation"
            ? collect(continuations, encodeContinuation(completion))
            : new InvalidArgument({ argument: "completions", rule: "must be Success, Failure or Continuation" })
    if (refused !== undefined) return yield* Effect.fail(refused)
  }
  const answers = new Map<string, Result.Result<Completed, CompletionRefusal>>([
    ...(yield* many(successes, succeed, "ends a step", successes.length === completions.length)),
    ...(yield* many(failures, fail, "ends a step", failures.length === completions.length)),
    ...(yield* many(continuations, continueWith, "keeps it", continuations.length === completions.length))
  ])
  const due: Array<string> = []
  for (const { lease, delayMillis } of continuations) {
    const answer = answers.get(lease.jobId)
    if (delayMillis === 0 && answer !== undefined && Result.isSuccess(answer) && answer.success._tag === "Continued") {
      due.push(answer.success.jobType)
    }
  }
  if (due.length > 0) yield* markDue(due)
  return completions.map(({ lease }) => answerFor(answers, lease))
}, writing("Jobs.completeMany"))

// ---------------------------------------------------------------------------------------------------------------------
// Running a statement for one and for many
// ---------------------------------------------------------------------------------------------------------------------

interface Item {
  readonly lease: Lease
}

/** Keeps what is well-formed, returns why it is not. */
const collect = <A, E>(into: Array<A>, encoded: Result.Result<A, E>): E | undefined => {
  if (Result.isFailure(encoded)) return encoded.failure
  into.push(encoded.success)
  return undefined
}

const wellFormed = <A extends Item, E>(encoded: Result.Result<A, E>): Effect.Effect<A, E | InvalidArgument> => {
  if (Result.isFailure(encoded)) return Effect.fail(encoded.failure)
  const invalid = invalidLease([encoded.success.lease])
  return invalid === undefined ? Effect.succeed(encoded.success) : Effect.fail(invalid)
}

type Answers<A, E> = ReadonlyMap<string, Result.Result<A, E> | "busy">

type Statement<I extends Item, A, E extends Reason> = (
  items: ReadonlyArray<I>,
  runs: Runs
) => Effect.Effect<Answers<A, E | OfRun>, SqlError | NotReadCommitted | QueryFailed, SqlClient>

/** Ends attempts of direct jobs; the answer of a job that belongs to a run is {@link OfRun}. */
const direct = <I extends Item, A, E extends Reason>(items: ReadonlyArray<I>, statement: Statement<I, A, E>) =>
  readCommitted("job.unsupported_isolation")(statement(items, "none"))

/**
 * Ends attempts of jobs of runs, by the protocol of `workflows/lock.ts`: what ends a step is done with its run locked. If there
 * is one run and nothing else to hold up, it may wait for that run; else the jobs of a locked run are busy.
 */
const withRuns = <I extends Item, A, E extends Reason>(
  items: ReadonlyArray<I>,
  runs: RunsOfJobs,
  statement: Statement<I, A, E>,
  mayWait: boolean
): Effect.Effect<Map<string, Result.Result<A, E> | "busy">, UnsupportedIsolation | WriteReason, SqlClient> => {
  const runIds = [...new Set(items.flatMap(({ lease }) => runs.get(lease.jobId) ?? []))].sort()
  const end = Effect.fnUntraced(function* (held: ReadonlyArray<string>) {
    const answers = notOfRuns(yield* statement(items, held))
    yield* settleJobs(
      [...answers].flatMap(([id, answer]) => (answer !== "busy" && Result.isSuccess(answer) ? [id] : []))
    )
    return answers
  })
  const [first] = runIds
  return (
    mayWait && first !== undefined && runIds.length === 1
      ? inRun(admin, first, "r.status", () => end([first]))
      : transaction(Effect.flatMap(lockFreeRuns(runIds), end))
  ).pipe(readCommitted("workflow.terminal_completion_unsupported_isolation"), classified)
}

/** The run of each job that has one. */
type RunsOfJobs = ReadonlyMap<string, string>

const runsIn = <A, E>(answers: Answers<A, E | OfRun>): RunsOfJobs => {
  const runs = new Map<string, string>()
  for (const [id, answer] of answers) {
    if (answer !== "busy" && Result.isFailure(answer) && answer.failure instanceof OfRun)
      runs.set(id, answer.failure.runId)
  }
  return runs
}

/** What is left when the runs have been dealt with; a job that is told again that it belongs to one has to be asked again. */
const notOfRuns = <A, E>(answers: Answers<A, E | OfRun>): Map<string, Result.Result<A, E> | "busy"> => {
  const left = new Map<string, Result.Result<A, E> | "busy">()
  for (const [id, answer] of answers) {
    if (answer === "busy") left.set(id, answer)
    else if (Result.isSuccess(answer)) left.set(id, Result.succeed(answer.success))
    else left.set(id, answer.failure instanceof OfRun ? "busy" : Result.fail(answer.failure))
  }
  return left
}

/** Whether a completion ends the step of its job, which is done with the run locked; a continuation only writes the step. */
type Ending = "ends a step" | "keeps it"

/** What the leases say; where it is wrong, the jobs are busy, and {@link direct} tells better. */
const saidRuns = (items: ReadonlyArray<Item>, ending: Ending): Map<string, string> => {
  const runs = new Map<string, string>()
  if (ending === "keeps it") return runs
  for (const { lease } of items) if (lease.workflowRunId !== undefined) runs.set(lease.jobId, lease.workflowRunId)
  return runs
}

const one = Effect.fnUntraced(function* <I extends Item, A, E extends Reason>(
  item: I,
  statement: Statement<I, A, E>,
  ending: Ending
) {
  const said = saidRuns([item], ending)
  let runs: RunsOfJobs = new Map()
  const answers = yield* askUntilFree(
    [item],
    Effect.fnUntraced(function* (items: ReadonlyArray<I>) {
      if (said.size > 0) {
        // without waiting: for whoever does not hold the lease, the run is no reason to
        const answered = yield* withRuns(items, said, statement, false)
        said.clear()
        if (answered.get(item.lease.jobId) !== "busy") return answered
      }
      if (runs.size === 0) {
        const found = yield* direct(items, statement)
        runs = runsIn(found)
        if (runs.size === 0) return notOfRuns(found)
      }
      return yield* withRuns(items, runs, statement, true)
    })
  )
  return yield* Effect.fromResult(answerFor(answers, item.lease))
})

/** `isAll`: whether the batch holds nothing but these items, which may then wait for their run. */
const many = Effect.fnUntraced(function* <I extends Item, A, E extends Reason>(
  items: ReadonlyArray<I>,
  statement: Statement<I, A, E>,
  ending: Ending,
  isAll: boolean
) {
  const answers = new Map<string, Result.Result<A, E | ConstraintViolation | QueryFailed>>()
  for (const chunk of chunksOf(items, maxBatch, bytesOf)) {
    const runs = saidRuns(chunk, ending)
    const said = new Map(runs)
    const round = Effect.fnUntraced(function* (left: ReadonlyArray<I>) {
      const answered = new Map<string, Result.Result<A, E | ConstraintViolation | QueryFailed> | "busy">()
      const ofNone = left.filter(({ lease }) => !runs.has(lease.jobId))
      if (ofNone.length > 0) {
        const found = yield* halving(ofNone, (half) => savepointInCallers(direct(half, statement)))
        for (const entry of runsIn(found)) runs.set(...entry)
        for (const entry of notOfRuns(found)) answered.set(...entry)
      }
      const ofRuns = left.filter(({ lease }) => runs.has(lease.jobId))
      if (ofRuns.length > 0) {
        const isFound = ofRuns.every(({ lease }) => !said.has(lease.jobId))
        const mayWait = isAll && isFound && ofRuns.length === items.length
        const end = (half: ReadonlyArray<I>) =>
          withRuns(half, runs, statement, mayWait).pipe(
            // the others have been done, or will be: their answers must not be lost
            Effect.catchIf(isLockTimeout, () =>
              Effect.succeed(new Map(half.map(({ lease }) => [lease.jobId, "busy" as const])))
            )
          )
        for (const [id, answer] of yield* halving(ofRuns, end)) {
          answered.set(id, answer)
          if (answer === "busy" && said.delete(id)) runs.delete(id)
        }
      }
      return answered
    })
    for (const answer of yield* askUntilFree(chunk, round)) answers.set(...answer)
  }
  return answers
})

const isLockTimeout = (reason: { readonly _tag: string }): reason is Unavailable =>
  reason._tag === "Unavailable" && "sqlState" in reason && reason.sqlState === "55P03"

/** Halves a batch that the database refuses until the row at fault stands alone, and answers that row. */
const halving = <I extends Item, A, E>(
  items: ReadonlyArray<I>,
  end: (items: ReadonlyArray<I>) => Effect.Effect<Answers<A, E>, UnsupportedIsolation | WriteReason, SqlClient>
): Effect.Effect<
  Map<string, Result.Result<A, E | ConstraintViolation | QueryFailed> | "busy">,
  UnsupportedIsolation | WriteReason,
  SqlClient
> =>
  end(items).pipe(
    Effect.map((answers) => new Map<string, Result.Result<A, E | ConstraintViolation | QueryFailed> | "busy">(answers)),
    Effect.catchIf(isPoisoned, (reason) => {
      const [first] = items
      if (items.length === 1 && first !== undefined) {
        return Effect.succeed(new Map([[first.lease.jobId, Result.fail(reason)]]))
      }
      const half = Math.ceil(items.length / 2)
      return Effect.zipWith(
        halving(items.slice(0, half), end),
        halving(items.slice(half), end),
        (left, right) => new Map([...left, ...right])
      )
    })
  )
