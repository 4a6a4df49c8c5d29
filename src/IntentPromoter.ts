/**
 * Enqueueing what was recorded before its type was declared.
 */
import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import type { SqlClient } from "effect/sql/SqlClient"
import { invalidTypes, type Promotion, promote } from "./intents/promote.ts"
import * as Args from "./internal/arguments.ts"
import { forever, rest } from "./internal/forever.ts"
import { unlessGiven } from "./internal/variable.ts"
import type { AnyContract } from "./JobContract.ts"
import { maxBatch } from "./jobs/limits.ts"
import { QueryError } from "./QueryError.ts"
import { InvalidArgument } from "./Reason.ts"

/** Which intents to promote, and how. At least one type must be named, by `jobs`, by `types`, or by both. */
export interface IntentPromoterOptions {
  /** The jobs whose types are promoted; no handlers are needed. */
  readonly jobs?: ReadonlyArray<AnyContract> | undefined
  /** The types that are promoted. Together at most 1,000. */
  readonly types?: ReadonlyArray<string> | undefined
  /**
   * The time between two looks, give or take a fifth; default 500 milliseconds, at least 1 and at most 2,147,483,647
   * milliseconds.
   */
  readonly pollInterval?: Duration.Input | undefined
  /** How many intents one transaction promotes at most: 1 to 1,000, default 16. A full batch is followed by the next at once. */
  readonly batchSize?: number | undefined
}

/**
 * Intents that were promoted or tried, by `outcome`: `inserted`, `existing`, `conflicted`, `deferred` or
 * `definition_unavailable`.
 */
export const intentsPromoted = Metric.counter("runledger_intents_promoted", {
  description: "Intents that were promoted, and those that could not be",
  incremental: true
})

/**
 * Calls `JobIntents.promote` for these types at once and then every interval, until the layer is closed; a pass that is under way
 * then is rolled back. Any number of processes may do so.
 *
 * Goes on whatever happens: when the database fails it logs a warning and tries again after 1 to 30 seconds. Intents that could
 * not be enqueued are logged at warning as well. Counts what it does in {@link intentsPromoted}.
 *
 * Fails with `InvalidArgument` (`types`, `pollInterval`, `batchSize`) when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { IntentPromoter, Job } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", { payload: { to: Schema.String } }) {}
 *
 * const Promoting = IntentPromoter.layer({ jobs: [SendEmail], types: ["crm.import"], pollInterval: "1 second" })
 * ```
 */
export const layer = (options: IntentPromoterOptions): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.pollInterval ?? "500 millis") ?? 0
      const limit = options.batchSize ?? 16
      const types = [...new Set([...(options.jobs ?? []).map(({ jobType }) => jobType), ...(options.types ?? [])])]
      const invalid =
        interval < 1 || interval > Args.maxInt
          ? new InvalidArgument({
              argument: "pollInterval",
              rule: `must last between 1 and ${Args.maxInt} milliseconds`
            })
          : types.length === 0
            ? new InvalidArgument({ argument: "types", rule: "must name at least one type" })
            : (Args.integer("batchSize", limit, 1, maxBatch) ?? invalidTypes(types))
      if (invalid !== undefined) return yield* invalid
      yield* Effect.forkScoped(loop(interval, limit, types))
    }).pipe(
      Effect.catch((reason) => Effect.fail(new QueryError({ operation: "IntentPromoter.layer", reason }))),
      Effect.annotateLogs({ module: "IntentPromoter" })
    )
  )

/**
 * {@link layer}, with settings that are not given read from the configuration: `JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS` and
 * `JOBS_INTENT_PROMOTER_BATCH_SIZE`. What is not set either keeps its default.
 *
 * Fails with a `ConfigError` for a variable that does not parse, and with `InvalidArgument` for one that is out of range;
 * neither is replaced by a default.
 *
 * @example
 * ```ts
 * import { IntentPromoter } from "effect-runledger"
 *
 * const Promoting = IntentPromoter.layerConfig({ types: ["crm.import"] })
 * ```
 */
export const layerConfig = (
  options: IntentPromoterOptions
): Layer.Layer<never, QueryError<InvalidArgument> | Config.ConfigError, SqlClient> =>
  Layer.unwrap(
    Effect.map(
      Config.all({
        pollInterval: unlessGiven(
          options.pollInterval,
          Config.map(Config.Int("JOBS_INTENT_PROMOTER_POLL_INTERVAL_MS"), Duration.millis)
        ),
        batchSize: unlessGiven(options.batchSize, Config.Int("JOBS_INTENT_PROMOTER_BATCH_SIZE"))
      }),
      (configured) => layer({ ...options, ...configured })
    )
  )

const loop = (interval: number, limit: number, types: ReadonlyArray<string>): Effect.Effect<never, never, SqlClient> =>
  forever("Promoting intents", Effect.tap(promote({ types, limit }), report), ({ batchWasFull }) =>
    batchWasFull ? Effect.yieldNow : rest(interval)
  )

const report = Effect.fnUntraced(function* (promotion: Promotion) {
  const { inserted, existing, conflicted, deferred, definitionUnavailable, failures } = promotion
  const counts = { inserted, existing, conflicted, deferred, definition_unavailable: definitionUnavailable }
  for (const [outcome, count] of Object.entries(counts)) {
    if (count > 0) yield* Metric.update(Metric.withAttributes(intentsPromoted, { outcome }), count)
  }
  if (inserted + existing > 0) {
    yield* Effect.logDebug(`Promoted ${inserted + existing} intents`).pipe(Effect.annotateLogs(counts))
  }
  if (definitionUnavailable > 0) {
    yield* Effect.logInfo(`Left ${definitionUnavailable} intents whose types were disabled meanwhile`)
  }
  if (failures.length > 0) {
    yield* Effect.logWarning(
      `${failures.length} intents could not be enqueued`,
      // a few are enough to look into it
      failures.slice(0, 10).map(({ intentId, jobType, code, became }) => ({ intentId, jobType, code, became }))
    )
  }
})
