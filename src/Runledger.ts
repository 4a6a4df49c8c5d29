/**
 * Everything that a service runs around its jobs, as one layer.
 */
import type * as Config from "effect/Config"
import * as Layer from "effect/Layer"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Health from "./Health.ts"
import * as IntentPromoter from "./IntentPromoter.ts"
import type { AnyContract } from "./JobContract.ts"
import type { QueryError } from "./QueryError.ts"
import * as Reaper from "./Reaper.ts"
import type { InvalidArgument } from "./Reason.ts"
import * as Retention from "./Retention.ts"
import * as Scheduler from "./Scheduler.ts"
import * as Worker from "./Worker.ts"

/** What runs, and how. What is `false` is left to other processes; what is left out runs with its defaults. */
export interface RunledgerOptions<Jobs extends ReadonlyArray<AnyContract>> {
  /** The jobs of the service: the worker runs them, the reaper calls their dead-letter hooks, the promoter enqueues them. */
  readonly jobs: Jobs
  readonly worker?: Worker.WorkerSettings | false | undefined
  readonly reaper?: Omit<Reaper.ReaperOptions, "jobs"> | false | undefined
  readonly scheduler?: Scheduler.SchedulerOptions | false | undefined
  readonly promoter?: Omit<IntentPromoter.IntentPromoterOptions, "jobs"> | false | undefined
  /** What is deleted when it is old enough. Default: nothing. */
  readonly retention?: Retention.RetentionOptions | undefined
  /** Whether the health of the queue is watched, and how. Default: it is not. */
  readonly health?: Health.WatchOptions | undefined
}

/**
 * Worker, reaper, scheduler and intent promoter, and retention if you say what may go, in one process. Any number of processes may run any of them.
 *
 * Requires the handlers of exactly `jobs`. With `Notifications.layer` beneath it the worker listens; without, it polls. Closing
 * the layer drains the worker, as `Worker.layer` says.
 *
 * Fails with `InvalidArgument` for a setting that is out of range, and never later: whatever the database does, each of them
 * logs it, waits and tries again.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Effect, Layer, Schema } from "effect"
 * import { Job, Migrator, Notifications, Runledger } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const GreetLive = Greet.toLayer(({ name }) => Effect.log(`Hello, ${name}`))
 *
 * const Main = Runledger.layer({ jobs: [Greet], worker: { concurrency: 20 } }).pipe(
 *   Layer.provide([GreetLive, Notifications.layer]),
 *   Layer.provide(Migrator.layer),
 *   Layer.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") }))
 * )
 * ```
 */
export const layer = <const Jobs extends ReadonlyArray<AnyContract>>(
  options: RunledgerOptions<Jobs>
): Layer.Layer<never, InvalidArgument | QueryError<InvalidArgument>, SqlClient | Worker.HandlersOf<Jobs>> => {
  const { jobs, worker, reaper, scheduler, promoter, retention, health } = options
  return Layer.mergeAll(
    worker === false ? Layer.empty : Worker.layer({ ...worker, jobs }),
    reaper === false ? Layer.empty : Reaper.layer({ ...reaper, jobs }),
    scheduler === false ? Layer.empty : Scheduler.layer(scheduler),
    promoter === false || isIdle(options) ? Layer.empty : IntentPromoter.layer({ ...promoter, jobs }),
    retention === undefined ? Layer.empty : Retention.layer(retention),
    health === undefined ? Layer.empty : Health.layer(health)
  )
}

/**
 * {@link layer}, with settings that are not given read from the configuration, as `layerConfig` of `Worker`, `Reaper`, `Scheduler`
 * and `IntentPromoter` read them.
 *
 * Fails with a `ConfigError` for a variable that does not parse, and with `InvalidArgument` for one that is out of range;
 * neither is replaced by a default.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Job, Runledger } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const Running = Runledger.layerConfig({ jobs: [Greet], scheduler: false })
 * ```
 */
export const layerConfig = <const Jobs extends ReadonlyArray<AnyContract>>(
  options: RunledgerOptions<Jobs>
): Layer.Layer<
  never,
  InvalidArgument | QueryError<InvalidArgument> | Config.ConfigError,
  SqlClient | Worker.HandlersOf<Jobs>
> => {
  const { jobs, worker, reaper, scheduler, promoter, retention, health } = options
  return Layer.mergeAll(
    worker === false ? Layer.empty : Worker.layerConfig({ ...worker, jobs }),
    reaper === false ? Layer.empty : Reaper.layerConfig({ ...reaper, jobs }),
    scheduler === false ? Layer.empty : Scheduler.layerConfig(scheduler),
    promoter === false || isIdle(options) ? Layer.empty : IntentPromoter.layerConfig({ ...promoter, jobs }),
    retention === undefined ? Layer.empty : Retention.layer(retention),
    health === undefined ? Layer.empty : Health.layer(health)
  )
}

/** Whether there is no type to promote. */
const isIdle = ({ jobs, promoter }: RunledgerOptions<ReadonlyArray<AnyContract>>) =>
  jobs.length === 0 && (promoter === false || promoter?.types === undefined)
