/**
 * Who runs the jobs: layers that claim them, run their handlers, renew their leases and store how they ended.
 *
 * Start-up and shutdown are those of the layer's scope. Closing it stops claiming, gives back what was leased ahead, lets jobs
 * go on for `drainTimeout`, interrupts the rest, and ends each interrupted attempt as `RETRYABLE`, code `job.worker_shutdown`,
 * due at once. What cannot be stored is left to the reaper.
 */
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "./internal/busy.ts"
import type { AnyContract, Handler } from "./JobContract.ts"
import * as JobDefinitions from "./JobDefinitions.ts"
import { claim, claimPrestart } from "./jobs/claim.ts"
import { Listener } from "./Notifications.ts"
import type { InvalidArgument } from "./Reason.ts"
import * as Completions from "./worker/completions.ts"
import { type HandlersOf, handlersOf } from "./worker/handlers.ts"
import * as Heartbeats from "./worker/heartbeats.ts"
import * as Logs from "./worker/logs.ts"
import * as Metrics from "./worker/metrics.ts"
import { check, fromConfig, type Settings, type WorkerSettings } from "./worker/options.ts"
import * as Prefetch from "./worker/prefetch.ts"
import { type Environment, run } from "./worker/run.ts"
import { leased, monotonicMillis, type Running } from "./worker/running.ts"

export type { HandlersOf } from "./worker/handlers.ts"
export type { ObservedJob, Observer, WorkerEvent } from "./worker/observer.ts"
export type { WorkerSettings } from "./worker/options.ts"

/** What a worker runs, and how. */
export interface WorkerOptions<Jobs extends ReadonlyArray<AnyContract>> extends WorkerSettings {
  readonly jobs: Jobs
}

/**
 * A worker for these jobs; requires exactly their handlers. When it starts it declares the contracts (see
 * `JobDefinitions.declare`).
 *
 * It claims at most as many jobs as it has free slots, then `prefetch` ahead of them, and only payloads of versions up to its
 * contracts'. Handlers are interrupted when they run into the timeout of their job, when the lease is lost or the job was
 * canceled, and when draining has taken too long. While the database does not answer it waits and tries again; nothing is lost.
 *
 * The layer fails with `InvalidArgument` (a setting, or a contract that is given twice).
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Effect, Layer, Schema } from "effect"
 * import { Job, Migrator, Worker } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const GreetLive = Greet.toLayer(({ name }) => Effect.log(`Hello, ${name}`))
 *
 * const Main = Worker.layer({ jobs: [Greet], concurrency: 20 }).pipe(
 *   Layer.provide(GreetLive),
 *   Layer.provide(Migrator.layer),
 *   Layer.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") }))
 * )
 * ```
 */
export const layer = <const Jobs extends ReadonlyArray<AnyContract>>(
  options: WorkerOptions<Jobs>
): Layer.Layer<never, InvalidArgument, SqlClient | HandlersOf<Jobs>> => {
  const { jobs, ...settings } = options
  return Layer.effectDiscard(
    Effect.gen(function* () {
      yield* make(jobs, yield* handlersOf(jobs), yield* check(settings))
    })
  )
}

/**
 * {@link layer}, with settings that are not given read from the configuration: `JOBS_WORKER_ID`,
 * `JOBS_MAX_GLOBAL_CONCURRENCY` (`concurrency`), `JOBS_CLAIM_BATCH_SIZE`, `JOBS_POLL_INTERVAL_MS` and
 * `JOBS_LEASE_TTL_SECONDS`. What is not set either keeps its default.
 *
 * Fails with a `ConfigError` for a variable that does not parse, and with `InvalidArgument` for one that is out of range;
 * neither is replaced by a default.
 *
 * @example
 * ```ts
 * import { Layer, Schema } from "effect"
 * import { Job, Worker } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const Working = Worker.layerConfig({ jobs: [Greet], drainTimeout: "10 seconds" })
 * ```
 */
export const layerConfig = <const Jobs extends ReadonlyArray<AnyContract>>(
  options: WorkerOptions<Jobs>
): Layer.Layer<never, InvalidArgument | Config.ConfigError, SqlClient | HandlersOf<Jobs>> =>
  Layer.unwrap(Effect.map(fromConfig(options), (configured) => layer({ ...options, ...configured })))

/** Starts the fibers of a worker, and ends them with the scope. */
const make = Effect.fnUntraced(function* (
  contracts: ReadonlyArray<AnyContract>,
  handlers: ReadonlyMap<string, Handler>,
  settings: Settings
): Effect.fn.Return<void, never, SqlClient | Scope.Scope> {
  const { concurrency, leaseMillis, drainMillis, workerId } = settings
  const own = Context.pick(SqlClient)(yield* Effect.context<SqlClient>())
  const logger = Logs.make(settings.logLevel, own)
  const environment: Environment = {
    handlers,
    completions: yield* Completions.make(leaseMillis),
    logger,
    observers: settings.observers,
    own
  }
  const running = new Map<string, Running>()
  const prefetched = Prefetch.make()
  const wake = Latch.makeUnsafe(false)
  const idle = Latch.makeUnsafe(true)
  let isStopping = false

  const runOne = (at: Running) =>
    Effect.suspend(() => {
      const { jobId } = at.job.lease
      at.startedAt = monotonicMillis()
      running.set(jobId, at)
      idle.closeUnsafe()
      return run(environment, at).pipe(
        Effect.catchCause((cause) => Effect.logError("A job could not be run; the reaper will find it", cause)),
        Effect.ensuring(
          Effect.suspend(() => {
            // the same job may have been claimed again since
            if (running.get(jobId) === at) running.delete(jobId)
            if (running.size === 0) idle.openUnsafe()
            wake.openUnsafe()
            return Metrics.running(running.size)
          })
        ),
        Effect.forkDetach
      )
    })

  const types = contracts.map(({ jobType, version }) => ({ jobType, maxPayloadVersion: version }))

  // Stops a job that we hold and that is not ours any more.
  const lose = (jobId: string) => {
    for (const held of [running, prefetched.held()]) {
      const at = held.get(jobId)
      if (at !== undefined) Deferred.doneUnsafe(at.stop, Exit.succeed("LeaseLost"))
    }
  }

  // Returns how long to wait for something to happen, in milliseconds.
  const claimOnce = Effect.gen(function* () {
    for (const at of yield* prefetched.start(concurrency - running.size)) yield* runOne(at)
    const free = concurrency - running.size
    const room = free > 0 ? free : settings.prefetch - prefetched.held().size
    if (room <= 0) return settings.pollMillis
    const limit = Math.min(room, settings.claimBatchSize)
    const claimedAt = monotonicMillis()
    const take = free > 0 ? claim : claimPrestart
    const jobs = yield* take({ workerId, types, limit, lease: leaseMillis }).pipe(Effect.withTracerEnabled(false))
    for (const job of jobs) {
      // a lease that we lost without having noticed
      lose(job.lease.jobId)
      const at = leased(job, leaseMillis, claimedAt)
      if (free > 0) yield* runOne(at)
      else prefetched.add(at)
    }
    if (jobs.length > 0) yield* Metrics.claimed(jobs.length)
    return jobs.length === limit ? 0 : settings.pollMillis
  })

  let outages = 0
  const claiming = Effect.gen(function* () {
    while (!isStopping) {
      wake.closeUnsafe()
      const pause = yield* Effect.matchEffect(Effect.uninterruptible(claimOnce), {
        onSuccess: (pause) =>
          Effect.sync(() => {
            outages = 0
            return pause
          }),
        onFailure: (error) => {
          outages++
          const told = outages === 1 ? Effect.logWarning(`Jobs cannot be claimed: ${error.message}`) : Effect.void
          return Effect.as(told, Math.min(30_000, settings.pollMillis * 2 ** Math.min(outages, 6)))
        }
      })
      // spread, so that many workers do not ask at the same instant
      if (pause > 0) yield* Effect.raceFirst(wake.await, sleepLive(pause * (0.9 + Math.random() * 0.2)))
    }
  })

  const listener = yield* Effect.serviceOption(Listener)
  const listening = Option.match(listener, {
    onNone: () => Effect.void,
    onSome: ({ subscribe }) =>
      Effect.scoped(
        Effect.gen(function* () {
          const notifications = yield* subscribe
          yield* Effect.forever(
            Effect.map(Queue.take(notifications), (notification) => {
              if (notification._tag === "Canceled") {
                lose(notification.jobId)
              } else if (
                notification._tag === "Reconnected" ||
                (notification._tag === "Due" && handlers.has(notification.jobType))
              ) {
                wake.openUnsafe()
              }
            })
          )
        })
      )
  })

  const declaring = Effect.forEach(
    contracts,
    (contract) =>
      Effect.catch(JobDefinitions.declare(contract), ({ message }) =>
        Effect.logWarning(`${contract.jobType} could not be declared: ${message}`)
      ),
    { discard: true }
  )

  const flushing = Effect.forever(Effect.andThen(sleepLive(250), logger.flush))

  // what must outlive the drain has a scope of its own
  const fibers = yield* Scope.make()
  const background = <A, E>(self: Effect.Effect<A, E, SqlClient>) => Effect.forkIn(self, fibers)
  // a job may be ahead already whose handler, stopped or about to end, is still in its slot: the lease is that of the former
  yield* background(Heartbeats.keep(() => [...new Map([...running, ...prefetched.held()]).values()], leaseMillis))
  yield* background(flushing)
  yield* background(listening)
  const claimer = yield* background(Effect.andThen(declaring, claiming))

  yield* Effect.addFinalizer(() =>
    Effect.gen(function* () {
      isStopping = true
      // a claim that is under way may still bring jobs: they are drained as well, or given back
      const unclaiming = yield* Effect.forkDetach(Effect.andThen(Fiber.interrupt(claimer), prefetched.release))
      const unclaimed = Effect.raceFirst(Fiber.await(unclaiming), sleepLive(10_000))
      yield* Effect.raceFirst(Effect.andThen(unclaimed, idle.await), sleepLive(drainMillis))
      yield* unclaimed
      for (const { stop } of running.values()) Deferred.doneUnsafe(stop, Exit.succeed("Shutdown"))
      yield* Effect.raceFirst(idle.await, sleepLive(10_000))
      // a server that holds the connection and never answers must not hold up the end
      yield* Effect.raceFirst(Effect.andThen(logger.flush, Scope.close(fibers, Exit.void)), sleepLive(10_000))
      if (running.size > 0) {
        yield* Effect.logWarning(`${running.size} attempts could not be ended in time; the reaper will`)
      }
    })
  )
})
