/**
 * Deleting what has ended, and has been kept for long enough.
 */
import type { Input } from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { forever, rest } from "./internal/forever.ts"
import { readCommitted } from "./internal/isolation.ts"
import { maxBatch } from "./jobs/limits.ts"
import { QueryError, writing } from "./QueryError.ts"
import { InvalidArgument, type UnsupportedIsolation, type WriteReason } from "./Reason.ts"
import { type Deleted, nothing, type Skipped, sum } from "./retention/batch.ts"
import { Cursor, cursorOf, isAsked, type Kind, kinds, type Place, placeOf } from "./retention/cursor.ts"
import { pruneIntents } from "./retention/intents.ts"
import { pruneJobs } from "./retention/jobs.ts"
import { pruneLogs } from "./retention/logs.ts"
import { prunePermits } from "./retention/permits.ts"
import { type Ages, type Millis, millisOf } from "./retention/policy.ts"
import { pruneRuns } from "./retention/runs.ts"

export { type Ages, Cursor, type Deleted, type Skipped }

/** What to delete, and how much of it. */
export interface PruneOptions {
  readonly ages: Ages
  /** How much a batch deletes at most, 1 to 1,000: jobs, steps of runs, lines, intents or permits. It looks at four times as many. */
  readonly limit: number
  /** Where the batch before left off. Without it a pass begins. */
  readonly cursor?: Cursor | undefined
}

/** What one batch did. */
export interface Pruned {
  readonly deleted: Deleted
  readonly skipped: ReadonlyArray<Skipped>
  /** Where to go on; nothing at the end of the pass. */
  readonly next: Option.Option<Cursor>
}

/** What {@link prune} can fail with. */
export type PruneReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Deletes one batch of what is older than its age, and says where to go on: a pass is as many calls as it takes, each with the
 * cursor of the one before. It may be left at any point, and begun again; a cursor is a text, and stays good.
 *
 * What is deleted goes whole: a job with attempts, events, lines, dead letter, lineage and the intent that became it; a run with
 * steps, edges, mutations, and its jobs. Jobs of a run go with it only. A replay stays until its source is gone, and so does a
 * recovery. What is pending, leased or running is never deleted, nor is a job that was canceled while its lease is live, or a run
 * that still holds its active key. What another transaction holds is left for the next pass.
 *
 * If the database refuses a batch, it is halved until the rows at fault are found: they stay, and are told as `skipped`.
 *
 * An idempotency key, the key of a replay and that of a recovery are forgotten with the row that has them.
 *
 * Fails with `InvalidArgument` (`ages`, `limit`, `cursor`), `UnsupportedIsolation`, or what any write can fail with. One
 * transaction, or a savepoint of the caller's. Locks runs, then jobs, then intents, `FOR UPDATE SKIP LOCKED`, each in id order.
 *
 * @example
 * ```ts
 * import { Effect, Option } from "effect"
 * import { Retention } from "effect-runledger"
 *
 * const ages = { succeeded: "7 days", canceled: "7 days", deadLettered: "90 days", runs: "30 days" } as const
 *
 * const pass = Effect.gen(function* () {
 *   let cursor: Retention.Cursor | undefined
 *   do {
 *     const { next } = yield* Retention.prune({ ages, limit: 500, cursor })
 *     cursor = Option.getOrUndefined(next)
 *   } while (cursor !== undefined)
 * })
 * ```
 */
export const prune: (options: PruneOptions) => Effect.Effect<Pruned, QueryError<PruneReason>, SqlClient> =
  Effect.fnUntraced(function* ({ ages, limit, cursor }: PruneOptions) {
    const millis = millisOf(ages)
    if (millis instanceof InvalidArgument) return yield* millis
    const invalid = Args.integer("limit", limit, 1, maxBatch)
    if (invalid !== undefined) return yield* invalid
    const given = cursor === undefined ? firstPlace(kinds, millis) : placeOf(cursor)
    if (given === undefined) return yield* new InvalidArgument({ argument: "cursor", rule: "must be that of a batch" })
    // what is not asked for any more is passed by
    const place = isAsked(given.kind, millis) ? given : firstPlace(kindsAfter(given.kind), millis)
    if (place === undefined) return { deleted: nothing, skipped: [], next: Option.none() }
    const { deleted, skipped, after } = yield* readCommitted("job.unsupported_isolation")(batchOf(millis, place, limit))
    const following = firstPlace(kindsAfter(place.kind), millis)
    const next = after ?? (following === undefined ? undefined : cursorOf(following.kind))
    return { deleted, skipped, next: Option.fromUndefinedOr(next) }
  }, writing("Retention.prune"))

const kindsAfter = (kind: Kind) => kinds.slice(kinds.indexOf(kind) + 1)

const firstPlace = (among: ReadonlyArray<Kind>, ages: Millis): Place | undefined => {
  const kind = among.find((kind) => isAsked(kind, ages))
  return kind === undefined ? undefined : placeOf(kind)
}

const batchOf = (ages: Millis, place: Place, limit: number) => {
  switch (place.kind) {
    case "logs":
      return pruneLogs(ages, place, limit)
    case "runs":
      return pruneRuns(ages, place, limit)
    case "jobs":
      return pruneJobs(ages, place, limit)
    case "intents":
      return pruneIntents(ages, limit)
    case "permits":
      return prunePermits(ages, place, limit)
  }
}

/** How long what is kept, and how often that is looked after. */
export interface RetentionOptions {
  readonly ages: Ages
  /** The time between two passes, give or take a fifth; default an hour, at least 1 and at most 2,147,483,647 milliseconds. */
  readonly interval?: Input | undefined
  /** The time between two batches, which the database has for others; default 100 milliseconds, at most 2,147,483,647. */
  readonly pause?: Input | undefined
  /** As that of {@link prune}; default 500. */
  readonly limit?: number | undefined
}

/** Rows that were deleted, by `table`: `runs`, `jobs`, `attempts`, `events`, `logs`, `intents`, `permits`. */
export const rowsDeleted = Metric.counter("runledger_retention_deleted", {
  description: "Rows that were deleted because they were older than their age",
  incremental: true
})

/** Jobs and runs that the database did not let us delete, counted again in each pass, by `kind`: `job`, `run`. */
export const rowsSkipped = Metric.counter("runledger_retention_skipped", {
  description: "Jobs and runs that could not be deleted",
  incremental: true
})

/**
 * Makes a pass at once, and then every interval, until the layer is closed. One process is enough; several do not disturb each
 * other, but each walks what is kept.
 *
 * Goes on whatever happens: when the database fails it logs a warning, and tries the batch again after 1 to 30 seconds. What
 * could not be deleted is logged at warning once a pass. Counts what it does in {@link rowsDeleted} and {@link rowsSkipped}.
 *
 * Fails with `InvalidArgument` (`ages`, `interval`, `pause`, `limit`) when it is built, and never later.
 *
 * @example
 * ```ts
 * import { Retention } from "effect-runledger"
 *
 * const Live = Retention.layer({
 *   ages: { succeeded: "7 days", canceled: "7 days", deadLettered: "90 days", runs: "30 days", intents: "7 days" }
 * })
 * ```
 */
export const layer = (options: RetentionOptions): Layer.Layer<never, QueryError<InvalidArgument>, SqlClient> =>
  Layer.effectDiscard(
    Effect.gen(function* () {
      const interval = Args.millis(options.interval ?? "1 hour") ?? 0
      const pause = Args.millis(options.pause ?? "100 millis") ?? -1
      const limit = options.limit ?? 500
      const millis = millisOf(options.ages)
      if (millis instanceof InvalidArgument) return yield* millis
      const invalid =
        interval < 1 || interval > Args.maxInt
          ? new InvalidArgument({ argument: "interval", rule: `must last between 1 and ${Args.maxInt} milliseconds` })
          : pause < 0 || pause > Args.maxInt
            ? new InvalidArgument({ argument: "pause", rule: `must last between 0 and ${Args.maxInt} milliseconds` })
            : Args.integer("limit", limit, 1, maxBatch)
      if (invalid !== undefined) return yield* invalid
      yield* Effect.forkScoped(loop({ ages: options.ages, limit }, interval, pause))
    }).pipe(
      Effect.catch((reason) => Effect.fail(new QueryError({ operation: "Retention.layer", reason }))),
      Effect.annotateLogs({ module: "Retention" })
    )
  )

const loop = (
  options: Omit<PruneOptions, "cursor">,
  interval: number,
  pause: number
): Effect.Effect<never, never, SqlClient> =>
  Effect.suspend(() => {
    let cursor: Cursor | undefined
    let deleted = nothing
    let skipped: Array<Skipped> = []
    const batch = Effect.suspend(() => Effect.tap(prune({ ...options, cursor }), count))
    return forever("Deleting what is old", batch, (pruned) => {
      cursor = Option.getOrUndefined(pruned.next)
      deleted = sum(deleted, pruned.deleted)
      skipped.push(...pruned.skipped)
      if (cursor !== undefined) return rest(pause)
      const told = report(deleted, skipped)
      deleted = nothing
      skipped = []
      return Effect.andThen(told, rest(interval))
    })
  })

const count = Effect.fnUntraced(function* ({ deleted, skipped }: Pruned) {
  for (const [table, rows] of Object.entries(deleted)) {
    if (rows > 0) yield* Metric.update(Metric.withAttributes(rowsDeleted, { table }), rows)
  }
  for (const { kind } of skipped) yield* Metric.update(Metric.withAttributes(rowsSkipped, { kind }), 1)
})

const report = Effect.fnUntraced(function* (deleted: Deleted, skipped: ReadonlyArray<Skipped>) {
  const isIdle = Object.values(deleted).every((rows) => rows === 0)
  yield* (isIdle ? Effect.logDebug : Effect.logInfo)("Deleted what is old").pipe(Effect.annotateLogs({ ...deleted }))
  if (skipped.length > 0) {
    yield* Effect.logWarning(
      `${skipped.length} jobs or runs could not be deleted`,
      // a few are enough to look into it
      skipped.slice(0, 10).map(({ kind, id, reason }) => ({ kind, id, code: reason.code }))
    )
  }
})
