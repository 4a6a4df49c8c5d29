/**
 * Firing schedules when they are due.
 */
import * as Config from "effect/Config"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { forever, spread } from "./internal/forever.ts"
import { unlessGiven } from "./internal/variable.ts"
import { maxBatch } from "./jobs/limits.ts"
import { QueryError } from "./QueryError.ts"
import { InvalidArgument } from "./Reason.ts"
import { type FiredDue, fireDue } from "./schedules/fire.ts"

/** How to fire. */
export interface SchedulerOptions {
  /**
   * The longest time between two passes, give or take a fifth; default 30 seconds, at least 1 and at most 2,147,483,647
   * milliseconds. A schedule that is due earlier, as far as the last pass has seen, is fired when it is due; what is created or
   * moved meanwhile may wait for the interval.
   */
  readonly interval?: Duration.Input | undefined
  /** How many schedules one transaction fires at most: 1 to 1,000, default 100. A pass takes as many batches as there are. */
  readonly limit?: number | undefined
}

/** Schedules that fired, by `disposition`: `inserted`, or `existing` for a time that had fired before. */
export const schedulesFired = Metric.counter("runledger_schedules_fired", {
  description: "Fires of schedules",
  incremental: true
})

/** Times of schedules that were missed, and for which a later fire stands. */
export const firesMissed = Metric.counter("runledger_schedule_fires_missed", {
  description: "Times of schedules that were missed",
  incremental: true
})

/** Schedules that could not fire and were postponed, by `code`. */
export const schedulesPostponed = Metric.counter("runledger_schedules_postponed", {
  description: "Schedules that could not fire",
  incremental: true
})

/**
 * Calls `JobSchedules.fireDue` at once, and then whenever a schedule is due, at the latest after every interval, until the layer
 * is closed. Any number of processes may do so: each time of a schedule leads to one job.
 *
 * Goes on whatever happens: when the database fails it logs a warning and tries again after 1 to 30 seconds. Schedules that
 * cannot fire are logged at warning as well. Counts what it does in {@link schedulesFired}, {@link firesMissed} and
 * {@link schedulesPostponed}.
 *
 * Fails with `InvalidArgument` (`interval`, `limit`) when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Scheduler } from "effect-runledger"
 *
 * const Live = Scheduler.layer({ interval: "10 seconds" })
 * ```
 */
export const layer = (options: SchedulerOptions = {}): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.interval ?? "30 seconds") ?? 0
      const limit = options.limit ?? 100
      const invalid =
        interval < 1 || interval > Args.maxInt
          ? new InvalidArgument({ argument: "interval", rule: `must last between 1 and ${Args.maxInt} milliseconds` })
          : Args.integer("limit", limit, 1, maxBatch)
      if (invalid !== undefined) return yield* invalid
      yield* Effect.forkScoped(loop(interval, limit))
    }).pipe(
      Effect.catch((reason) => Effect.fail(new QueryError({ operation: "Scheduler.layer", reason }))),
      Effect.annotateLogs({ module: "Scheduler" })
    )
  )

/**
 * {@link layer}, with settings that are not given read from the configuration: `JOBS_SCHEDULE_POLL_INTERVAL_SECONDS`
 * (`interval`) and `JOBS_CLAIM_BATCH_SIZE` (`limit`). What is not set either keeps its default.
 *
 * Fails with a `ConfigError` for a variable that does not parse, and with `InvalidArgument` for one that is out of range;
 * neither is replaced by a default.
 *
 * @example
 * ```ts
 * import { Scheduler } from "effect-runledger"
 *
 * const Scheduling = Scheduler.layerConfig({ limit: 100 })
 * ```
 */
export const layerConfig = (
  options: SchedulerOptions = {}
): Layer.Layer<never, QueryError<InvalidArgument> | Config.ConfigError, SqlClient> =>
  Layer.unwrap(
    Effect.map(
      Config.all({
        interval: unlessGiven(
          options.interval,
          Config.map(Config.Int("JOBS_SCHEDULE_POLL_INTERVAL_SECONDS"), Duration.seconds)
        ),
        limit: unlessGiven(options.limit, Config.Int("JOBS_CLAIM_BATCH_SIZE"))
      }),
      (configured) => layer({ ...options, ...configured })
    )
  )

const loop = (interval: number, limit: number): Effect.Effect<never, never, SqlClient> =>
  forever("Firing schedules", Effect.tap(fireDue({ limit }), report), ({ fires, at, nextDueAt }) => {
    // what is postponed is not due again, so a full batch is always followed by another one
    if (fires.length >= limit) return Effect.void
    const left = Option.match(nextDueAt, {
      onNone: () => Number.POSITIVE_INFINITY,
      onSome: (next) => DateTime.toEpochMillis(next) - DateTime.toEpochMillis(at)
    })
    // never quite at once: another process may hold what is due
    return Effect.flatMap(spread(interval), (most) => Effect.sleep(Math.max(1, Math.min(left, most))))
  })

const report = Effect.fnUntraced(function* ({ fires }: FiredDue) {
  let fired = 0
  let missed = 0
  const postponed: Array<{ readonly name: string; readonly code: string }> = []
  for (const fire of fires) {
    if (fire._tag === "Postponed") {
      const { code } = fire.reason
      postponed.push({ name: fire.name, code })
      yield* Metric.update(Metric.withAttributes(schedulesPostponed, { code }), 1)
      continue
    }
    fired++
    missed += fire.missed
    yield* Metric.update(Metric.withAttributes(schedulesFired, { disposition: fire.disposition }), 1)
  }
  yield* Metric.update(firesMissed, missed)
  yield* (fired === 0 ? Effect.logDebug : Effect.logInfo)(`Fired ${fired} schedules`).pipe(
    Effect.annotateLogs(missed > 0 ? { missed } : {})
  )
  if (postponed.length > 0) {
    // a few are enough to look into it
    yield* Effect.logWarning(`Postponed ${postponed.length} schedules that cannot fire`, postponed.slice(0, 10))
  }
})
