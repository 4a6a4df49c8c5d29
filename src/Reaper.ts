/**
 * Ending the attempts whose process has died.
 */
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { forever, rest } from "./internal/forever.ts"
import { unlessGiven } from "./internal/variable.ts"
import type { AnyContract, Handler } from "./JobContract.ts"
import { maxBatch } from "./jobs/limits.ts"
import { get } from "./jobs/read.ts"
import { leaseExpired, type Reaped, type ReapedLease, reapExpiredLeases } from "./jobs/reap.ts"
import { QueryError } from "./QueryError.ts"
import { InvalidArgument } from "./Reason.ts"
import * as TenantScope from "./TenantScope.ts"
import { type HandlersOf, handlersOf } from "./worker/handlers.ts"

/** How to reap, and whose dead-letter hooks to call. */
export interface ReaperOptions<Jobs extends ReadonlyArray<AnyContract> = readonly []> {
  /**
   * The jobs whose handlers are told of what is buried here, by their `onDeadLetter`: the last attempt ended with its process.
   * Default: none. At most 8 at a time, for at most 10 seconds each; reaping does not wait for it. What it fails with is logged.
   *
   * It is best effort, as {@link onReaped}; when the layer is closed, hooks that have begun may end.
   */
  readonly jobs?: Jobs | undefined
  /** The time between two passes, give or take a fifth; default 15 seconds, at least 1 and at most 2,147,483,647 milliseconds. */
  readonly interval?: Duration.Input | undefined
  /** How many leases one transaction ends at most: 1 to 1,000, default 500. A pass takes as many batches as there are. */
  readonly limit?: number | undefined
  /**
   * Called for each lease after its end was committed, at most 8 at a time and for at most 10 seconds each. Reaping does not
   * wait for it. What it fails with is logged.
   *
   * It is a hint, not a record: calls are lost when the process ends, or when more than 10,000 wait. Dead letters can be read.
   */
  readonly onReaped?: ((lease: ReapedLease) => Effect.Effect<void, unknown>) | undefined
}

/** Leases that were ended, by `disposition`: `Released`, `RetryScheduled` or `DeadLettered`. */
export const leasesReaped = Metric.counter("runledger_leases_reaped", {
  description: "Leases that ran out and were ended by the reaper",
  incremental: true
})

const maxCallbacks = 8
const maxWaiting = 10_000
const callbackTime = "10 seconds"

/**
 * Calls `Jobs.reapExpiredLeases` at once and then every interval, until the layer is closed. Any number of processes may do
 * so; at least one must, or the jobs of a process that died are never run again. Requires the handlers of exactly `jobs`.
 *
 * Goes on whatever happens: when the database fails it logs a warning and tries again after 1 to 30 seconds. Jobs that the
 * database does not let us write are logged at warning as well. Counts what it does in {@link leasesReaped}.
 *
 * Fails with `InvalidArgument` (`interval`, `limit`, `jobs`) when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Job, Reaper } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const GreetLive = Greet.toLayer(({ name }) => Effect.log(`Hello, ${name}`), {
 *   onDeadLetter: ({ jobId, reason }) => Effect.logError("Nobody was greeted", jobId, reason)
 * })
 *
 * const Live = Reaper.layer({
 *   jobs: [Greet],
 *   interval: "10 seconds",
 *   onReaped: (lease) => Effect.logWarning("A worker was lost", lease.workerId)
 * }).pipe(Layer.provide(GreetLive))
 * ```
 */
export const layer = <const Jobs extends ReadonlyArray<AnyContract> = readonly []>(
  options: ReaperOptions<Jobs> = {}
): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient | HandlersOf<Jobs>> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.interval ?? "15 seconds") ?? 0
      const limit = options.limit ?? 500
      const invalid =
        interval < 1 || interval > Args.maxInt
          ? new InvalidArgument({ argument: "interval", rule: `must last between 1 and ${Args.maxInt} milliseconds` })
          : Args.integer("limit", limit, 1, maxBatch)
      if (invalid !== undefined) return yield* invalid
      const handlers = yield* handlersOf(options.jobs)
      const tellHandlers = handlers.size === 0 ? tellNobody : yield* callbacks("onDeadLetter", hooks(handlers))
      const { onReaped } = options
      const tellCaller =
        onReaped === undefined
          ? tellNobody
          : yield* callbacks("onReaped", (lease) => Effect.timeout(onReaped(lease), callbackTime))
      const toTell = (leases: ReadonlyArray<ReapedLease>) =>
        leases.filter(({ jobType, disposition }) => disposition._tag === "DeadLettered" && handlers.has(jobType))
      yield* Effect.forkScoped(
        loop(interval, limit, (leases) => Effect.andThen(tellHandlers(toTell(leases)), tellCaller(leases)))
      )
    }).pipe(
      Effect.catch((reason) => Effect.fail(new QueryError({ operation: "Reaper.layer", reason }))),
      Effect.annotateLogs({ module: "Reaper" })
    )
  )

/**
 * {@link layer}, with settings that are not given read from the configuration: `JOBS_REAPER_INTERVAL_SECONDS` and
 * `JOBS_CLAIM_BATCH_SIZE` (`limit`). What is not set either keeps its default. When a job is tried again is said by the retry
 * policy of its definition, and by no variable.
 *
 * Fails with a `ConfigError` for a variable that does not parse, and with `InvalidArgument` for one that is out of range;
 * neither is replaced by a default.
 *
 * @example
 * ```ts
 * import { Reaper } from "effect-runledger"
 *
 * const Reaping = Reaper.layerConfig({ limit: 100 })
 * ```
 */
export const layerConfig = <const Jobs extends ReadonlyArray<AnyContract> = readonly []>(
  options: ReaperOptions<Jobs> = {}
): Layer.Layer<never, QueryError<InvalidArgument> | Config.ConfigError, SqlClient | HandlersOf<Jobs>> =>
  Layer.unwrap(
    Effect.map(
      Config.all({
        interval: unlessGiven(
          options.interval,
          Config.map(Config.Int("JOBS_REAPER_INTERVAL_SECONDS"), Duration.seconds)
        ),
        limit: unlessGiven(options.limit, Config.Int("JOBS_CLAIM_BATCH_SIZE"))
      }),
      (configured) => layer({ ...options, ...configured })
    )
  )

type Tell = (leases: ReadonlyArray<ReapedLease>) => Effect.Effect<void>

const tellNobody: Tell = () => Effect.void

const loop = (interval: number, limit: number, tell: Tell): Effect.Effect<never, never, SqlClient> =>
  forever(
    "Reaping",
    reapExpiredLeases({ limit }).pipe(
      Effect.tap(report),
      Effect.tap(({ leases }) => tell(leases))
    ),
    // a batch of nothing but rows that cannot be written would come back as it is
    ({ leases, postponed }) =>
      leases.length > 0 && leases.length + postponed.length >= limit ? Effect.void : rest(interval)
  )

const report = Effect.fnUntraced(function* ({ leases, postponed }: Reaped) {
  const counts: Record<string, number> = {}
  for (const { disposition } of leases) counts[disposition._tag] = (counts[disposition._tag] ?? 0) + 1
  for (const [disposition, count] of Object.entries(counts)) {
    yield* Metric.update(Metric.withAttributes(leasesReaped, { disposition }), count)
  }
  const unrenewed = leases.filter(({ startedWithoutRenewal }) => startedWithoutRenewal).length
  yield* (leases.length === 0 ? Effect.logDebug : Effect.logInfo)(
    `Ended ${leases.length} leases that had run out`
  ).pipe(Effect.annotateLogs({ ...counts, ...(unrenewed > 0 ? { startedWithoutRenewal: unrenewed } : {}) }))
  if (postponed.length > 0) {
    yield* Effect.logWarning(
      `Postponed ${postponed.length} leases that the database does not let us end`,
      // a few are enough to look into it
      postponed.slice(0, 10).map(({ jobId, reason }) => ({ jobId, code: reason.code }))
    )
  }
})

/** Runs `call` for the leases that it is told of, beside the loop. */
const callbacks = Effect.fnUntraced(function* <R>(
  name: string,
  call: (lease: ReapedLease) => Effect.Effect<void, unknown, R>
): Effect.fn.Return<Tell, never, R | Scope.Scope> {
  const waiting = yield* Queue.dropping<ReapedLease>(maxWaiting)
  const callOne = (lease: ReapedLease) =>
    Effect.suspend(() => call(lease)).pipe(
      Effect.catchCause((cause) =>
        Effect.logWarning(`${name} failed`, cause).pipe(Effect.annotateLogs({ jobId: lease.jobId }))
      )
    )
  yield* Queue.take(waiting).pipe(
    Effect.flatMap(callOne),
    Effect.forever,
    Effect.replicateEffect(maxCallbacks, { concurrency: "unbounded", discard: true }),
    Effect.forkScoped
  )
  return Effect.fnUntraced(function* (leases: ReadonlyArray<ReapedLease>) {
    const dropped = yield* Queue.offerAll(waiting, leases)
    if (dropped.length > 0) {
      yield* Effect.logWarning(`${name} is not called for ${dropped.length} leases: too many wait`)
    }
  })
})

/** The dead-letter hook of a job that was buried; once begun it is not interrupted before its time. */
const hooks = (handlers: ReadonlyMap<string, Handler>) => (lease: ReapedLease) =>
  Effect.gen(function* () {
    const { jobId, runNumber, attempt, jobType, disposition } = lease
    const handler = handlers.get(jobType)
    // payloads stay out of the batch, where they would all be held at once
    const job = Option.getOrUndefined(yield* get(TenantScope.admin, jobId))
    if (handler === undefined || job === undefined || disposition._tag !== "DeadLettered") return
    const { reason } = disposition
    const { code, message } = leaseExpired
    const checkpoint = Option.getOrUndefined(disposition.checkpoint)
    yield* handler.onDeadLetter({ jobId, runNumber, attempt, payload: job.payload, checkpoint, reason, code, message })
  }).pipe(Effect.timeout(callbackTime), Effect.forkDetach, Effect.flatMap(Fiber.join), Effect.uninterruptible)
