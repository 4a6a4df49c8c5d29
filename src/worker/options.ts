import * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import * as Args from "../internal/arguments.ts"
import { unlessGiven } from "../internal/variable.ts"
import { maxBatch, maxWorkerBytes } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"
import type { Observer } from "./observer.ts"

/** How a worker works; everything has a default. */
export interface WorkerSettings {
  /** Unique to the process: not blank, at most 255 bytes. Default: `worker-` and a UUID. */
  readonly workerId?: string | undefined
  /** How many jobs run at once: at least 1. Default: 32. */
  readonly concurrency?: number | undefined
  /**
   * How many jobs to lease ahead while all slots are taken: 0 (the default) to 1,000. They are started when slots get free,
   * without a claim in between, and given back at shutdown; neither waiting nor being given back uses up an attempt. Worth it
   * for many short jobs. Jobs ahead wait for this process even if another one is idle, and go before what becomes due later,
   * whatever its priority.
   */
  readonly prefetch?: number | undefined
  /** How many jobs one claim takes at most: 1 to 1,000. Default: 16. */
  readonly claimBatchSize?: number | undefined
  /** How long to wait after a claim that found less than it asked for: at least 1 ms. Default: 500 ms. */
  readonly pollInterval?: Duration.Input | undefined
  /** How long a lease lasts; it is renewed every third of it. 1 second to 24 days. Default: 60 seconds. */
  readonly lease?: Duration.Input | undefined
  /** How long jobs may go on after the scope was closed, before they are interrupted. Default: 20 seconds. */
  readonly drainTimeout?: Duration.Input | undefined
  /** What is logged by handlers at this level or above is kept with the job. Default: `Info`. */
  readonly logLevel?: LogLevel.LogLevel | undefined
  readonly observers?: ReadonlyArray<Observer> | undefined
}

/** {@link WorkerSettings} that were checked, in milliseconds. */
export interface Settings {
  readonly workerId: string
  readonly concurrency: number
  readonly prefetch: number
  readonly claimBatchSize: number
  readonly pollMillis: number
  readonly leaseMillis: number
  readonly drainMillis: number
  readonly logLevel: LogLevel.LogLevel
  readonly observers: ReadonlyArray<Observer>
}

const between = (argument: string, value: Duration.Input, minimum: number, maximum: number) => {
  const millis = Args.millis(value)
  return millis !== undefined && millis >= minimum && millis <= maximum
    ? Effect.succeed(millis)
    : Effect.fail(new InvalidArgument({ argument, rule: `must last between ${minimum} and ${maximum} milliseconds` }))
}

/** Checks what was given; a bad value is named, never replaced. */
export const check = Effect.fnUntraced(function* (given: WorkerSettings): Effect.fn.Return<Settings, InvalidArgument> {
  const workerId = given.workerId ?? `worker-${crypto.randomUUID()}`
  const concurrency = given.concurrency ?? 32
  const prefetch = given.prefetch ?? 0
  const claimBatchSize = given.claimBatchSize ?? 16
  const invalid =
    Args.name("workerId", workerId, maxWorkerBytes) ??
    Args.integer("concurrency", concurrency, 1) ??
    Args.integer("prefetch", prefetch, 0, maxBatch) ??
    Args.integer("claimBatchSize", claimBatchSize, 1, maxBatch)
  if (invalid !== undefined) return yield* invalid
  return {
    workerId,
    concurrency,
    prefetch,
    claimBatchSize,
    pollMillis: yield* between("pollInterval", given.pollInterval ?? "500 millis", 1, Args.maxInt),
    leaseMillis: yield* between("lease", given.lease ?? "60 seconds", 1000, Args.maxInt),
    drainMillis: yield* between("drainTimeout", given.drainTimeout ?? "20 seconds", 0, Args.maxInt),
    logLevel: given.logLevel ?? "Info",
    observers: given.observers ?? []
  }
})

// a blank one counts as not set, as deployments write it that have no id to give
const workerId = Config.map(Config.String("JOBS_WORKER_ID"), (id) => (Args.isBlank(id) ? undefined : id))

/** The settings given, the others from `JOBS_*` variables; what is not set keeps its default. */
export const fromConfig = (given: WorkerSettings): Config.Config<WorkerSettings> =>
  Config.all({
    workerId: unlessGiven(given.workerId, workerId),
    concurrency: unlessGiven(given.concurrency, Config.Int("JOBS_MAX_GLOBAL_CONCURRENCY")),
    claimBatchSize: unlessGiven(given.claimBatchSize, Config.Int("JOBS_CLAIM_BATCH_SIZE")),
    pollInterval: unlessGiven(given.pollInterval, Config.map(Config.Int("JOBS_POLL_INTERVAL_MS"), Duration.millis)),
    lease: unlessGiven(given.lease, Config.map(Config.Int("JOBS_LEASE_TTL_SECONDS"), Duration.seconds))
  })
