/**
 * Is all well? Questions about the queue and the database under it, each with a threshold and a verdict.
 */
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import { deadTuples } from "./health/deadTuples.ts"
import { intents } from "./health/intents.ts"
import { notifyQueue } from "./health/notifyQueue.ts"
import { oldestRunnable } from "./health/oldestRunnable.ts"
import { orphans } from "./health/orphans.ts"
import type { Check, Detail, Probe, Reading, Threshold, Unit, Verdict } from "./health/probe.ts"
import { relationSizes } from "./health/relationSizes.ts"
import { replication } from "./health/replication.ts"
import { staleLeases } from "./health/staleLeases.ts"
import { vacuumHolders } from "./health/vacuumHolders.ts"
import * as Args from "./internal/arguments.ts"
import { Timestamptz } from "./internal/columns.ts"
import { forever, rest } from "./internal/forever.ts"
import { byIndex, readWith } from "./internal/settings.ts"
import * as Sql from "./internal/sql.ts"
import { QueryError, reading } from "./QueryError.ts"
import { InvalidArgument, type ReadReason } from "./Reason.ts"

export type { Check, Detail, Threshold, Unit, Verdict } from "./health/probe.ts"

/** The questions, in the order in which they are asked. */
const probes: ReadonlyArray<Probe> = [
  oldestRunnable,
  staleLeases,
  intents,
  orphans,
  deadTuples,
  relationSizes,
  vacuumHolders,
  replication,
  notifyQueue
]

/** The checks that there are. */
export const checks: ReadonlyArray<Check> = probes.map(({ check }) => check)

/** What to check, and how to judge. */
export interface HealthOptions {
  /** Which checks; default: all of {@link checks}. */
  readonly checks?: ReadonlyArray<Check> | undefined
  /**
   * From which value on a check warns and fails, in its unit: not negative, `fail` not below `warn`. What is left out keeps its
   * default.
   */
  readonly thresholds?: { readonly [C in Check]?: Partial<Threshold> | undefined } | undefined
  /** How long one check may take: 1 millisecond to 10 minutes, the default 5 seconds. One that takes longer is `unknown`. */
  readonly timeout?: Duration.Input | undefined
}

/** The answer to one check. */
export interface Finding {
  readonly check: Check
  readonly verdict: Verdict
  /** What was measured, in `unit`; `undefined` if it could not be measured. */
  readonly value: number | undefined
  readonly unit: Unit
  readonly threshold: Threshold
  /** For people. Names types, tables, workers and sessions; never payloads, and nothing that the database said. */
  readonly message: string
  /** What stands behind the value, the worst first; 10 rows at most. */
  readonly rows: ReadonlyArray<Detail>
}

/** The answers to all checks. */
export interface Report {
  /** The worst of the findings: `fail`, then `warn`, then `unknown`, then `ok`. */
  readonly verdict: Verdict
  readonly at: DateTime.Utc
  readonly findings: ReadonlyArray<Finding>
}

/**
 * Asks each check and judges the answer. A check that fails by itself, for a missing privilege or because it took too long,
 * is `unknown` and keeps no other from being asked.
 *
 * Each check is one statement of bounded cost in a short read-only transaction, with a local `statement_timeout` and a
 * `lock_timeout` of one second; in a caller's transaction each is in a savepoint. Locks nothing, writes nothing.
 *
 * Fails with `InvalidArgument`, or with what any read can fail with if the database cannot be asked at all.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Health } from "effect-runledger"
 *
 * const isAlive = Health.check({
 *   checks: ["oldestRunnable", "staleLeases"],
 *   thresholds: { oldestRunnable: { warn: 300, fail: 3600 } }
 * }).pipe(Effect.map(({ verdict }) => verdict !== "fail"))
 * ```
 */
export const check: (
  options?: HealthOptions
) => Effect.Effect<Report, QueryError<InvalidArgument | ReadReason>, SqlClient> = Effect.fnUntraced(function* (
  options?: HealthOptions
) {
  const { report } = yield* inspect(yield* settingsOf(options ?? {}))
  return report
}, reading("Health.check"))

interface Settings {
  readonly probes: ReadonlyArray<Probe>
  readonly timeoutMillis: number
}

const maxTimeoutMillis = 600_000

const settingsOf = Effect.fnUntraced(function* (options: HealthOptions): Effect.fn.Return<Settings, InvalidArgument> {
  const unknown = (options.checks ?? []).find((name) => !checks.includes(name))
  const timeoutMillis = Args.millis(options.timeout ?? "5 seconds") ?? 0
  const judged = probes.map((probe) => ({
    ...probe,
    threshold: { ...probe.threshold, ...options.thresholds?.[probe.check] }
  }))
  const misjudged = judged.find(
    ({ threshold: { warn, fail } }) => !(Number.isFinite(warn) && Number.isFinite(fail) && warn >= 0 && fail >= warn)
  )
  const refused =
    unknown !== undefined
      ? new InvalidArgument({ argument: "checks", rule: `must be of ${checks.join(", ")}` })
      : timeoutMillis < 1 || timeoutMillis > maxTimeoutMillis
        ? new InvalidArgument({ argument: "timeout", rule: "must last between 1 millisecond and 10 minutes" })
        : misjudged !== undefined
          ? new InvalidArgument({
              argument: `thresholds.${misjudged.check}`,
              rule: "must be numbers from 0 on, fail not below warn"
            })
          : undefined
  if (refused !== undefined) return yield* refused
  return { probes: judged.filter((probe) => options.checks?.includes(probe.check) ?? true), timeoutMillis }
})

const decodeInstant = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Struct({ at: Timestamptz })]))

const inspect = Effect.fnUntraced(function* ({ probes, timeoutMillis }: Settings) {
  const { sql, instant } = yield* Sql.clocked
  // a database that does not answer this answers nothing
  const [{ at }] = yield* decodeInstant(yield* sql`SELECT ${instant} AS at`)
  const limits = { ...byIndex, statement_timeout: `${timeoutMillis}ms`, lock_timeout: "1s" }
  const findings: Array<Finding> = []
  const readings: Array<Reading> = []
  for (const { check, unit, threshold, measure } of probes) {
    const measured = yield* readWith(limits)(measure).pipe(
      Effect.catch((error) =>
        Effect.succeed({
          value: undefined,
          message: Schema.isSchemaError(error) ? "The answer could not be read" : error.message,
          rows: [],
          hidden: undefined,
          readings: undefined
        })
      )
    )
    const verdict = judge(measured.value, threshold)
    const isHidden = verdict === "ok" && measured.hidden !== undefined
    findings.push({
      check,
      verdict: isHidden ? "unknown" : verdict,
      value: measured.value,
      unit,
      threshold,
      message: measured.hidden === undefined ? measured.message : `${measured.message}; ${measured.hidden}`,
      rows: measured.rows
    })
    readings.push(...(measured.readings ?? []))
  }
  const verdict = worst.find((verdict) => findings.some((finding) => finding.verdict === verdict)) ?? "ok"
  const report: Report = { verdict, at, findings }
  return { report, readings }
})

const worst: ReadonlyArray<Verdict> = ["fail", "warn", "unknown"]

const judge = (value: number | undefined, { warn, fail }: Threshold): Verdict =>
  value === undefined ? "unknown" : value >= fail ? "fail" : value >= warn ? "warn" : "ok"

// ---------------------------------------------------------------------------------------------------------------------
// Watching
// ---------------------------------------------------------------------------------------------------------------------

/** The verdict of each `check`: 0 ok, 1 warn, 2 fail, -1 unknown. */
export const verdicts = Metric.gauge("runledger_health", {
  description: "The verdict of a health check: 0 ok, 1 warn, 2 fail, -1 unknown"
})

/** How long the oldest due job has waited, in seconds, by `job_type`. */
export const oldestRunnableSeconds = Metric.gauge("runledger_oldest_runnable_seconds", {
  description: "How long the oldest due job of a type has waited"
})

/** Due jobs by `job_type`, counted to 10,000 for each priority and payload version. */
export const dueJobs = Metric.gauge("runledger_jobs_due", { description: "Jobs of a type that are due" })

/** Leases that have run out and were not ended yet, counted to 1,000. */
export const expiredLeases = Metric.gauge("runledger_leases_expired", {
  description: "Leases that have run out and were not ended yet"
})

/** What to watch, and how often. */
export interface WatchOptions extends HealthOptions {
  /** The time between two checks, give or take a fifth; default 1 minute, at least 1 second and at most 24 days. */
  readonly interval?: Duration.Input | undefined
}

/**
 * Checks at once and then every interval, until the layer is closed: keeps {@link verdicts}, {@link oldestRunnableSeconds},
 * {@link dueJobs} and {@link expiredLeases}, and logs each verdict that changes, a failure as an error. One process per
 * database is enough.
 *
 * Goes on whatever happens: when the database fails it logs a warning and tries again after 1 to 30 seconds.
 *
 * Fails with `InvalidArgument` when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Health } from "effect-runledger"
 *
 * const Watching = Health.layer({ interval: "30 seconds", thresholds: { staleLeases: { warn: 30 } } })
 * ```
 */
export const layer = (options: WatchOptions = {}): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.interval ?? "1 minute") ?? 0
      if (interval < 1000 || interval > Args.maxInt) {
        return yield* new InvalidArgument({ argument: "interval", rule: "must last between 1 second and 24 days" })
      }
      yield* Effect.forkScoped(watch(interval, yield* settingsOf(options)))
    }).pipe(
      Effect.catch((reason) => Effect.fail(new QueryError({ operation: "Health.layer", reason }))),
      Effect.annotateLogs({ module: "Health" })
    )
  )

const watch = (interval: number, settings: Settings): Effect.Effect<never, never, SqlClient> =>
  Effect.suspend(() => {
    const before = new Map<Check, Verdict>()
    const types = new Set<string>()
    return forever(
      "Checking",
      inspect(settings).pipe(
        reading("Health.layer"),
        Effect.tap(({ report, readings }) => Effect.andThen(keep(report, readings, types), tellChanges(report, before)))
      ),
      () => rest(interval)
    )
  })

const numberOf: Readonly<Record<Verdict, number>> = { ok: 0, warn: 1, fail: 2, unknown: -1 }

const gauges = { oldestRunnable: oldestRunnableSeconds, due: dueJobs, expiredLeases }

const keep = Effect.fnUntraced(function* ({ findings }: Report, readings: ReadonlyArray<Reading>, types: Set<string>) {
  for (const { check, verdict } of findings) {
    yield* Metric.update(Metric.withAttributes(verdicts, { check }), numberOf[verdict])
  }
  for (const { gauge, jobType, value } of readings) {
    const kept = jobType === undefined ? gauges[gauge] : Metric.withAttributes(gauges[gauge], { job_type: jobType })
    yield* Metric.update(kept, value)
  }
  // of a check that could not be made, the gauges stay as they are
  if (!findings.some(({ check, value }) => check === "oldestRunnable" && value !== undefined)) return
  const now = new Set(readings.flatMap(({ jobType }) => (jobType === undefined ? [] : [jobType])))
  for (const jobType of types) {
    if (now.has(jobType)) continue
    yield* Metric.update(Metric.withAttributes(oldestRunnableSeconds, { job_type: jobType }), 0)
    yield* Metric.update(Metric.withAttributes(dueJobs, { job_type: jobType }), 0)
  }
  types.clear()
  for (const jobType of now) types.add(jobType)
})

const tellChanges = Effect.fnUntraced(function* ({ findings }: Report, before: Map<Check, Verdict>) {
  for (const { check, verdict, value, unit, message } of findings) {
    // what was never asked was well
    if ((before.get(check) ?? "ok") === verdict) continue
    before.set(check, verdict)
    const log = verdict === "fail" ? Effect.logError : verdict === "ok" ? Effect.logInfo : Effect.logWarning
    yield* log(`Health of ${check} is now ${verdict}: ${message}`).pipe(
      Effect.annotateLogs({ check, verdict, unit, ...(value === undefined ? {} : { value }) })
    )
  }
})
