/**
 * Ending the attempts whose process has died.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { maxBatch } from "./jobs/limits.ts"
import { type Reaped, type ReapedLease, reapExpiredLeases } from "./jobs/reap.ts"
import { QueryError } from "./QueryError.ts"
import { InvalidArgument } from "./Reason.ts"

/** How to reap. */
export interface ReaperOptions {
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

/** Pauses after failures, in milliseconds; they double from one to the other. */
const minPause = 1000
const maxPause = 30_000

/**
 * Calls `Jobs.reapExpiredLeases` at once and then every interval, until the layer is closed. Any number of processes may do
 * so; at least one must, or the jobs of a process that died are never run again.
 *
 * Goes on whatever happens: when the database fails it logs a warning and tries again after 1 to 30 seconds. Jobs that the
 * database does not let us write are logged at warning as well. Counts what it does in {@link leasesReaped}.
 *
 * Fails with `InvalidArgument` (`interval`, `limit`) when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Reaper } from "effect-runledger"
 *
 * const Live = Reaper.layer({
 *   interval: "10 seconds",
 *   onReaped: (lease) => Effect.logWarning("A worker was lost", lease.workerId)
 * })
 * ```
 */
export const layer = (options: ReaperOptions = {}): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.interval ?? "15 seconds") ?? 0
      const limit = options.limit ?? 500
      const reason =
        interval < 1 || interval > Args.maxInt
          ? new InvalidArgument({ argument: "interval", rule: `must last between 1 and ${Args.maxInt} milliseconds` })
          : Args.integer("limit", limit, 1, maxBatch)
      if (reason !== undefined) return yield* new QueryError({ operation: "Reaper.layer", reason })
      const tell = options.onReaped === undefined ? () => Effect.void : yield* callbacks(options.onReaped)
      yield* Effect.forkScoped(loop(interval, limit, tell))
    }).pipe(Effect.annotateLogs({ module: "Reaper" }))
  )

type Tell = (leases: ReadonlyArray<ReapedLease>) => Effect.Effect<void>

const loop = (interval: number, limit: number, tell: Tell): Effect.Effect<never, never, SqlClient> =>
  Effect.suspend(() => {
    let failures = 0
    // processes that were started together do not stay in step
    const wait = (millis: number) => Effect.flatMap(Random.nextBetween(0.8, 1.2), (part) => Effect.sleep(millis * part))
    return reapExpiredLeases({ limit }).pipe(
      Effect.withTracerEnabled(false),
      Effect.tap(report),
      Effect.tap(({ leases }) => tell(leases)),
      Effect.matchCauseEffect({
        onSuccess: ({ leases, postponed }) => {
          failures = 0
          // a batch of nothing but rows that cannot be written would come back as it is
          return leases.length > 0 && leases.length + postponed.length >= limit ? Effect.void : wait(interval)
        },
        onFailure: (cause) => {
          const pause = Math.min(maxPause, minPause * 2 ** failures++)
          return Effect.andThen(Effect.logWarning("Reaping failed and is tried again", cause), wait(pause))
        }
      }),
      Effect.forever
    )
  })

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

/** Runs `onReaped` for the leases that it is told of, beside the loop. */
const callbacks = Effect.fnUntraced(function* (
  onReaped: NonNullable<ReaperOptions["onReaped"]>
): Effect.fn.Return<Tell, never, Scope.Scope> {
  const waiting = yield* Queue.dropping<ReapedLease>(maxWaiting)
  const call = (lease: ReapedLease) =>
    Effect.suspend(() => onReaped(lease)).pipe(
      Effect.timeout(callbackTime),
      Effect.catchCause((cause) =>
        Effect.logWarning("onReaped failed", cause).pipe(Effect.annotateLogs({ jobId: lease.jobId }))
      )
    )
  yield* Queue.take(waiting).pipe(
    Effect.flatMap(call),
    Effect.forever,
    Effect.forkScoped,
    Effect.replicateEffect(maxCallbacks, { discard: true })
  )
  return Effect.fnUntraced(function* (leases: ReadonlyArray<ReapedLease>) {
    const dropped = yield* Queue.offerAll(waiting, leases)
    if (dropped.length > 0)
      yield* Effect.logWarning(`onReaped is not called for ${dropped.length} leases: too many wait`)
  })
})
