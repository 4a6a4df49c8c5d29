/**
 * Declaring the job types of an application, all at once.
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { EmptyJobTypeList } from "../DefinitionReason.ts"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { patience } from "../internal/waiting.ts"
import type { AnyContract } from "../JobContract.ts"
import { maxBatch, maxTypeBytes } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type InvalidArgument,
  QueryFailed,
  type Reason,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { ActiveScheduleExists } from "../ScheduleReason.ts"
import { type DefinitionSettings, encode, invalid, recordColumns, settingColumns } from "./encode.ts"

/** A job type by its name, and what is declared about it. */
export interface DefinitionRequest extends DefinitionSettings {
  readonly jobType: string
}

/**
 * What becomes of the job types that are declared as enabled and are stored as disabled. `keepPauses`: those that an operator
 * has disabled (`update`, `upsert`) stay so; those that a sync has disabled are enabled. `endPauses`: all are enabled.
 */
export type DefinitionMode = "keepPauses" | "endPauses"

/** How a sync is done. */
export interface SyncOptions {
  /** Default: `keepPauses`. */
  readonly mode?: DefinitionMode | undefined
}

/** How an exact sync is done. */
export interface ExactSyncOptions extends SyncOptions {
  /** The types that the sync answers for: at least one, at most 1,000. Every definition must be among them. */
  readonly scope: ReadonlyArray<string>
}

/** What a sync did, as job types, each list sorted. Each type that is declared is in one of the first four. */
export interface DefinitionSyncReport {
  readonly inserted: ReadonlyArray<string>
  readonly updated: ReadonlyArray<string>
  readonly unchanged: ReadonlyArray<string>
  /** Those whose stored version is newer than the one declared: their settings are left as they are. */
  readonly newer: ReadonlyArray<string>
  /** Those that were disabled and are enabled. */
  readonly enabled: ReadonlyArray<string>
  /** Those that are declared as disabled, and were enabled or are new. */
  readonly disabled: ReadonlyArray<string>
  /** Those that were enabled, are in the scope of an exact sync, and are declared no more. */
  readonly retired: ReadonlyArray<string>
}

/** What {@link sync} can fail with. */
export type DefinitionSyncReason = InvalidArgument | ActiveScheduleExists | UnsupportedIsolation | WriteReason

/** What {@link syncExact} can fail with. */
export type ExactSyncReason = DefinitionSyncReason | EmptyJobTypeList

/**
 * Declares the job types of an application, all or none: contracts, or types by name with their settings. At most 1,000.
 * Other types are left alone.
 *
 * New types are inserted; of the others the settings become those declared, with defaults for what is left out. A type whose
 * stored version is newer than the declared one keeps its settings, and is reported as `newer`: while two versions of an
 * application are running, the older does not undo what the newer has declared. A type that is declared as disabled is
 * disabled; one that is declared as enabled (contracts are) stays disabled if an operator has disabled it, unless `mode` says
 * otherwise. What does not differ is not written.
 *
 * Fails with `InvalidArgument` (also for a type that is given twice) before anything is sent, with `ActiveScheduleExists` (an
 * active schedule enqueues jobs of a type that is declared as disabled), `UnsupportedIsolation` (in a transaction that is not
 * READ COMMITTED), `Unavailable` (another transaction held one of the rows for five seconds), or what any write can fail with.
 * Locks the rows of `job_definitions` in order of type; one transaction, a savepoint in a caller's.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, JobDefinitions } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", { payload: { to: Schema.String }, maxAttempts: 5 }) {}
 *
 * const synced = JobDefinitions.sync([SendEmail, { jobType: "crm.import", timeout: "1 hour" }])
 * ```
 */
export const sync: (
  definitions: ReadonlyArray<AnyContract | DefinitionRequest>,
  options?: SyncOptions
) => Effect.Effect<DefinitionSyncReport, QueryError<DefinitionSyncReason>, SqlClient> = Effect.fnUntraced(function* (
  definitions: ReadonlyArray<AnyContract | DefinitionRequest>,
  { mode = "keepPauses" }: SyncOptions = {}
) {
  const encoded = yield* encodeAll(definitions)
  const refused = invalidMode(mode)
  if (refused !== undefined) return yield* refused
  if (encoded.length === 0) return nothing
  return (yield* inTransaction(write(encoded, [], mode, Effect.void))).report
}, writing("JobDefinitions.sync"))

/**
 * {@link sync}, and disables the types that are in the scope but not declared: no new jobs of them are taken, those that there
 * are stay. Nothing is deleted, and nothing outside of the scope is touched. A type that comes back is enabled again by the next
 * sync that declares it.
 *
 * Fails and locks as {@link sync}; also with `EmptyJobTypeList` (no definitions, or an empty scope), with `InvalidArgument` for a
 * definition outside of the scope, and with `ActiveScheduleExists` if an active schedule enqueues jobs of a type that would be
 * disabled.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, JobDefinitions } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", { payload: { to: Schema.String } }) {}
 *
 * const synced = JobDefinitions.syncExact([SendEmail], { scope: ["email.send", "email.send-later"] })
 * ```
 */
export const syncExact: (
  definitions: ReadonlyArray<AnyContract | DefinitionRequest>,
  options: ExactSyncOptions
) => Effect.Effect<DefinitionSyncReport, QueryError<ExactSyncReason>, SqlClient> = Effect.fnUntraced(function* (
  definitions: ReadonlyArray<AnyContract | DefinitionRequest>,
  { scope, mode = "keepPauses" }: ExactSyncOptions
) {
  const encoded = yield* encodeAll(definitions)
  if (encoded.length === 0) return yield* new EmptyJobTypeList({ list: "definitions" })
  const refused = (yield* invalidScope(scope)) ?? invalidMode(mode)
  if (refused !== undefined) return yield* refused
  const types = new Set(scope)
  const outside = encoded.findIndex(({ jobType }) => !types.has(jobType))
  if (outside !== -1) return yield* invalid(`definitions[${outside}].jobType`, "must be in the scope")
  return (yield* inTransaction(write(encoded, scope, mode, Effect.void))).report
}, writing("JobDefinitions.syncExact"))

/** What a sync of no definitions did. */
export const nothing: DefinitionSyncReport = {
  inserted: [],
  updated: [],
  unchanged: [],
  newer: [],
  enabled: [],
  disabled: [],
  retired: []
}

/** The rule that a mode breaks; the compiler does not see what comes from a configuration. */
export const invalidMode = (mode: string): InvalidArgument | undefined =>
  mode === "keepPauses" || mode === "endPauses" ? undefined : invalid("mode", "must be keepPauses or endPauses")

/** The rule that the scope of an exact sync breaks. */
export const invalidScope = (
  scope: ReadonlyArray<string>
): Effect.Effect<InvalidArgument | undefined, EmptyJobTypeList> => {
  if (scope.length === 0) return Effect.fail(new EmptyJobTypeList({ list: "scope" }))
  const unnamed = scope.map((jobType, place) => Args.name(`scope[${place}]`, jobType, maxTypeBytes))
  return Effect.succeed(Args.atMost("scope", scope.length, maxBatch) ?? unnamed.find(Predicate.isNotUndefined))
}

/** A declaration that was checked. */
export interface EncodedDefinition {
  readonly jobType: string
  readonly version: number
  readonly isEnabled: boolean
  /** As JSON text. */
  readonly record: string
}

/** Checks declarations and encodes them. */
export const encodeAll = Effect.fnUntraced(function* (
  definitions: ReadonlyArray<AnyContract | DefinitionRequest>
): Effect.fn.Return<ReadonlyArray<EncodedDefinition>, InvalidArgument> {
  const tooMany = Args.atMost("definitions", definitions.length, maxBatch)
  if (tooMany !== undefined) return yield* tooMany
  const encoded = new Map<string, EncodedDefinition>()
  for (const [place, definition] of definitions.entries()) {
    const { jobType } = definition
    const settings: DefinitionSettings = "settings" in definition ? definition.settings : definition
    const record = yield* encode(jobType, settings, `definitions[${place}].`)
    if (encoded.has(jobType)) {
      return yield* invalid(`definitions[${place}].jobType`, "must not stand there twice")
    }
    encoded.set(jobType, { jobType, version: settings.version ?? 1, isEnabled: settings.isEnabled ?? true, record })
  }
  return [...encoded.values()]
})

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

/** Runs {@link write} in a READ COMMITTED transaction of its own, or in a savepoint of the caller's. */
export const inTransaction = <A, E extends Reason, R>(
  self: Effect.Effect<A, E | SqlError | NotReadCommitted | Schema.SchemaError, R>
): Effect.Effect<A, E | SqlError | UnsupportedIsolation | QueryFailed | WriteReason, R | SqlClient> =>
  readCommitted("job.unsupported_isolation")(
    // what the decoder says may quote the row
    transaction(Effect.mapError(self, (error) => (Schema.isSchemaError(error) ? new QueryFailed({}) : error)))
  )

const decodeInserted = Schema.decodeUnknownEffect(
  Schema.NonEmptyArray(
    Schema.Struct({
      is_read_committed: Schema.Boolean,
      callers_lock_timeout: Schema.String,
      job_type: Schema.NullOr(Schema.String)
    })
  )
)

const decodeStored = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      job_type: Schema.String,
      version: Schema.Int,
      is_enabled: Schema.Boolean,
      is_sync_disabled: Schema.Boolean
    })
  )
)

const decodeTypes = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ job_type: Schema.String })))

const sorted = (types: Iterable<string>): ReadonlyArray<string> => [...types].sort()

/**
 * The whole sync, within a transaction. `between` runs when all declarations are stored and locked, and before anything is
 * looked at that may keep a type from being disabled.
 *
 * First what is missing is inserted, then the rows are locked: an insert waits for other inserts alone, and a lock for other
 * locks alone, each in the order of types, so that no two syncs wait for each other. The rows that are disabled are held when
 * the schedules are looked at, by a statement of its own: who activates a schedule holds the row too (`FOR SHARE`), so it has
 * committed before and is seen, or waits and then sees that the definition is disabled.
 */
export const write = Effect.fnUntraced(function* <A, E, R>(
  encoded: ReadonlyArray<EncodedDefinition>,
  scope: ReadonlyArray<string>,
  mode: DefinitionMode,
  between: Effect.Effect<A, E, R>
) {
  const { sql, instant } = yield* Sql.clocked
  const records = `[${encoded.map(({ record }) => record).join()}]`
  const answers = yield* decodeInserted(
    yield* sql`
      WITH input AS MATERIALIZED (
        SELECT ${instant} AS at, ${sql.literal(isReadCommitted)} AS is_read_committed, ${sql.literal(patience)}
      ), inserted AS (
        INSERT INTO runledger.job_definitions (${sql.literal(settingColumns)}, sync_disabled_at, created_at, updated_at)
        SELECT ${sql.literal(settingColumns)}, CASE WHEN NOT r.is_enabled THEN i.at END, i.at, i.at
        FROM input i
        CROSS JOIN jsonb_to_recordset(${records}::jsonb) AS r (${sql.literal(recordColumns)})
        WHERE i.is_read_committed
        ORDER BY r.job_type
        ON CONFLICT (job_type) DO NOTHING
        RETURNING job_type
      )
      SELECT i.is_read_committed, i.callers_lock_timeout, n.job_type
      FROM input i
      LEFT JOIN inserted n ON true
    `
  )
  const [{ is_read_committed, callers_lock_timeout }] = answers
  if (!is_read_committed) return yield* new NotReadCommitted()
  const inserted = new Set(answers.flatMap(({ job_type }) => (job_type === null ? [] : [job_type])))

  const declared = new Set(encoded.map(({ jobType }) => jobType))
  const stored = yield* decodeStored(
    yield* sql`
      SELECT job_type, version, is_enabled, sync_disabled_at IS NOT NULL AS is_sync_disabled
      FROM runledger.job_definitions
      WHERE job_type = ANY (${sorted(new Set([...declared, ...scope]))}::text[])
      ORDER BY job_type
      FOR NO KEY UPDATE
    `
  )
  const before = new Map(stored.map((row) => [row.job_type, row]))
  const newer = new Set<string>()
  const enabling = new Set<string>()
  for (const { jobType, version, isEnabled } of encoded) {
    const row = before.get(jobType)
    if (row === undefined) continue
    if (row.version > version) newer.add(jobType)
    const isOurs = row.is_sync_disabled || (mode === "endPauses" && !newer.has(jobType))
    if (isEnabled && (row.is_enabled || isOurs)) enabling.add(jobType)
  }
  const written = yield* decodeTypes(
    yield* sql`
      UPDATE runledger.job_definitions d
      SET
        version = r.version,
        max_attempts = r.max_attempts,
        default_timeout_seconds = r.default_timeout_seconds,
        default_priority = r.default_priority,
        retry_initial_ms = r.retry_initial_ms,
        retry_factor = r.retry_factor,
        retry_max_ms = r.retry_max_ms,
        retry_jitter = r.retry_jitter,
        retry_overrides = r.retry_overrides,
        is_enabled = r.enables,
        sync_disabled_at = CASE WHEN r.enables THEN NULL WHEN d.is_enabled THEN ${instant} ELSE d.sync_disabled_at END,
        updated_at = ${instant}
      FROM (
        SELECT r.*, r.job_type = ANY (${sorted(enabling)}::text[]) AS enables
        FROM jsonb_to_recordset(${records}::jsonb) AS r (${sql.literal(recordColumns)})
      ) r
      WHERE d.job_type = r.job_type
        AND d.version <= r.version
        AND (
          d.version, d.max_attempts, d.default_timeout_seconds, d.default_priority, d.is_enabled, d.retry_initial_ms,
          d.retry_factor, d.retry_max_ms, d.retry_jitter, d.retry_overrides
        ) IS DISTINCT FROM (
          r.version, r.max_attempts, r.default_timeout_seconds, r.default_priority, r.enables, r.retry_initial_ms,
          r.retry_factor, r.retry_max_ms, r.retry_jitter, r.retry_overrides
        )
      RETURNING d.job_type
    `
  )
  const enabled = stored.flatMap(({ job_type, is_enabled }) =>
    !is_enabled && enabling.has(job_type) ? [job_type] : []
  )
  const revived = enabled.filter((jobType) => newer.has(jobType))
  if (revived.length > 0) {
    yield* sql`
      UPDATE runledger.job_definitions
      SET is_enabled = true, sync_disabled_at = NULL, updated_at = ${instant}
      WHERE job_type = ANY (${revived}::text[])
    `
  }

  const extra = yield* between

  const absent = scope.filter((jobType) => !declared.has(jobType))
  const retired =
    absent.length === 0
      ? []
      : yield* decodeTypes(
          yield* sql`
            UPDATE runledger.job_definitions
            SET is_enabled = false, sync_disabled_at = ${instant}, updated_at = ${instant}
            WHERE job_type = ANY (${absent}::text[]) AND is_enabled
            RETURNING job_type
          `
        )
  const disabling = encoded.flatMap(({ jobType, isEnabled }) => (isEnabled || newer.has(jobType) ? [] : [jobType]))
  const guarded = [...disabling, ...retired.map(({ job_type }) => job_type)]
  if (guarded.length > 0) {
    const [scheduled] = yield* decodeTypes(
      yield* sql`
        SELECT job_type
        FROM runledger.job_schedules
        WHERE is_active AND job_type = ANY (${guarded}::text[])
        ORDER BY job_type
        LIMIT 1
      `
    )
    if (scheduled !== undefined) return yield* new ActiveScheduleExists({ jobType: scheduled.job_type })
  }
  // in a transaction of our own the setting ends with it
  yield* sql`SELECT set_config('lock_timeout', ${callers_lock_timeout}, true)`

  const updated = new Set(written.map(({ job_type }) => job_type))
  const report: DefinitionSyncReport = {
    inserted: sorted(inserted),
    updated: sorted(updated),
    unchanged: sorted([...declared].filter((type) => !inserted.has(type) && !updated.has(type) && !newer.has(type))),
    newer: sorted(newer),
    enabled: sorted(enabled),
    disabled: sorted(disabling.filter((type) => inserted.has(type) || before.get(type)?.is_enabled === true)),
    retired: sorted(retired.map(({ job_type }) => job_type))
  }
  return { report, between: extra }
})
