/**
 * Storing a catalogue: definitions and schedules, in one transaction.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import { EmptyJobTypeList, InvalidCatalog } from "../DefinitionReason.ts"
import { invalid } from "../definitions/encode.ts"
import {
  type DefinitionMode,
  type DefinitionSyncReason,
  type DefinitionSyncReport,
  encodeAll,
  inTransaction,
  invalidMode,
  invalidScope,
  write
} from "../definitions/sync.ts"
import * as JobSchedules from "../JobSchedules.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { type Catalog, validate } from "./make.ts"

/** What an exact sync answers for: what is in there and not in the catalogue is disabled, or deactivated. */
export interface ExactScope {
  /** Job types; each of the catalogue's must be among them. Default: those of the catalogue, so that none is disabled. */
  readonly jobTypes?: ReadonlyArray<string> | undefined
  /** All schedules of an owner, or those that are named: each of the catalogue's must be among them. Default: none. */
  readonly schedules?: JobSchedules.SyncScope | undefined
}

/** How a catalogue is synced. */
export interface CatalogSyncOptions {
  /** Whether operators' pauses of job types end; see `JobDefinitions.sync`. Those of schedules never do. Default: `keepPauses`. */
  readonly mode?: DefinitionMode | undefined
  /** Whose the schedules are; see `JobSchedules.sync`. Default: nobody's, or those of `exact.schedules.owner`. */
  readonly owner?: string | undefined
  /** Default: the sync is additive, and touches nothing that the catalogue does not have. */
  readonly exact?: ExactScope | undefined
}

/** What a sync of a catalogue did. */
export interface CatalogSyncReport {
  readonly definitions: DefinitionSyncReport
  readonly schedules: JobSchedules.SyncReport
}

/** What {@link sync} can fail with. */
export type CatalogSyncReason =
  | InvalidCatalog
  | EmptyJobTypeList
  | DefinitionSyncReason
  | JobSchedules.ScheduleSyncReason

/**
 * Stores the definitions and schedules of a catalogue, all or nothing: as `JobDefinitions.sync` and `JobSchedules.sync`, or as
 * their exact variants within the scope that is given. What operators have paused stays paused.
 *
 * A job type that has left an exact catalogue together with its schedules is disabled after these were deactivated.
 *
 * Fails with `InvalidCatalog` (the catalogue contradicts itself, or an exact scope does not cover it), with `EmptyJobTypeList`
 * (exact, without jobs or types), and as `JobDefinitions.sync` and `JobSchedules.sync` do. Locks the rows of definitions in
 * order of type, then those of schedules in order of name; one transaction, a savepoint in a caller's.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Catalog, Job } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const synced = Catalog.sync(Catalog.make({ jobs: [Report] }), {
 *   exact: { jobTypes: ["report.send", "report.print"], schedules: { owner: "reporting" } }
 * })
 * ```
 */
export const sync: (
  catalog: Catalog,
  options?: CatalogSyncOptions
) => Effect.Effect<CatalogSyncReport, QueryError<CatalogSyncReason>, SqlClient> = Effect.fnUntraced(function* (
  catalog: Catalog,
  { mode = "keepPauses", owner, exact }: CatalogSyncOptions = {}
) {
  const valid = validate(catalog)
  if (Result.isFailure(valid)) return yield* valid.failure
  const types = catalog.jobs.map(({ jobType }) => jobType)
  const names = catalog.schedules.map(({ name }) => name)
  const scheduleScope = exact?.schedules
  const uncovered =
    (exact?.jobTypes === undefined ? undefined : outside(types, exact.jobTypes)) ??
    (scheduleScope !== undefined && "names" in scheduleScope ? outside(names, scheduleScope.names) : undefined)
  const refused =
    invalidMode(mode) ??
    (owner !== undefined && scheduleScope !== undefined
      ? invalid("owner", "must not be given together with exact.schedules")
      : undefined)
  if (refused !== undefined) return yield* refused
  if (exact !== undefined) {
    if (exact.jobTypes !== undefined && types.length === 0) return yield* new EmptyJobTypeList({ list: "definitions" })
    const invalidTypes = exact.jobTypes === undefined ? undefined : yield* invalidScope(exact.jobTypes)
    if (invalidTypes !== undefined) return yield* invalidTypes
    if (uncovered !== undefined) return yield* new InvalidCatalog({ name: uncovered, code: "catalog.outside_scope" })
  }
  const disabled = new Set(catalog.disabled)
  const encoded = yield* encodeAll(
    catalog.jobs.map(({ jobType, settings }) => ({ ...settings, jobType, isEnabled: !disabled.has(jobType) }))
  )
  const schedules = Effect.mapError(
    scheduleScope === undefined
      ? JobSchedules.sync(catalog.schedules, { owner })
      : JobSchedules.syncExact(catalog.schedules, scheduleScope),
    ({ reason }) => reason
  )
  const { report, between } = yield* inTransaction(write(encoded, exact?.jobTypes ?? [], mode, schedules))
  return { definitions: report, schedules: between }
}, writing("Catalog.sync"))

const outside = (names: ReadonlyArray<string>, scope: ReadonlyArray<string>): string | undefined => {
  const covered = new Set(scope)
  return names.find((name) => !covered.has(name))
}

/** That a catalogue was synced, and what that did. Provided by {@link layer}. */
export class Synced extends Context.Service<Synced, CatalogSyncReport>()("effect-runledger/Catalog/Synced") {}

/**
 * Syncs a catalogue when the application starts, see {@link sync}, and logs what it changed: at info if it changed something, at
 * debug otherwise, and at warning the types whose stored version is newer. What is provided with this layer starts after it.
 *
 * Fails as {@link sync}.
 *
 * @example
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Catalog, Job, Reaper, Scheduler, Worker } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const ReportLive = Report.toLayer(({ to }) => Effect.log(`Sent to ${to}`))
 *
 * const catalog = Catalog.make({ jobs: [Report] })
 *
 * const Main = Layer.mergeAll(Worker.layer({ jobs: catalog.jobs }), Reaper.layer({ jobs: catalog.jobs }), Scheduler.layer()).pipe(
 *   Layer.provide(ReportLive),
 *   Layer.provide(Catalog.layer(catalog))
 * )
 * ```
 */
export const layer = (
  catalog: Catalog,
  options?: CatalogSyncOptions
): Layer.Layer<Synced, QueryError<CatalogSyncReason>, SqlClient> =>
  Layer.effect(Synced, Effect.tap(sync(catalog, options), tell).pipe(Effect.annotateLogs({ module: "Catalog" })))

const tell = Effect.fnUntraced(function* ({ definitions, schedules }: CatalogSyncReport) {
  const { unchanged, newer, ...changes } = definitions
  const { unchanged: same, ...scheduleChanges } = schedules
  const annotations: Record<string, string> = {}
  for (const [change, types] of Object.entries(changes)) {
    if (types.length > 0) annotations[`definitions.${change}`] = types.join(", ")
  }
  for (const [change, names] of Object.entries(scheduleChanges)) {
    if (names.length > 0) annotations[`schedules.${change}`] = names.join(", ")
  }
  const isSame = Object.keys(annotations).length === 0
  yield* (isSame ? Effect.logDebug : Effect.logInfo)(
    isSame
      ? `The catalogue is as it is stored: ${unchanged.length} definitions, ${same.length} schedules`
      : "The catalogue was stored"
  ).pipe(Effect.annotateLogs(annotations))
  if (newer.length > 0) {
    yield* Effect.logWarning("A newer version of these job types is stored, and left as it is", newer)
  }
})
