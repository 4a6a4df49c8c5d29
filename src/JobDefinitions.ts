/**
 * The catalogue of job types: what a new job gets when it is not given, whether new jobs are taken, and when failures are
 * retried. Existing jobs keep what they were given; the retry policy applies to them as it is when they fail.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import {
  contractsColumns,
  type DefinitionSettings,
  encode,
  encodeGiven,
  invalid,
  recordColumns,
  settingColumns
} from "./definitions/encode.ts"
import * as Args from "./internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "./internal/isolation.ts"
import { invalidLimit } from "./internal/page.ts"
import * as Sql from "./internal/sql.ts"
import { transaction } from "./internal/transaction.ts"
import { mayWait, patience } from "./internal/waiting.ts"
import type { AnyContract } from "./JobContract.ts"
import { DefinitionRow, definitionColumns, type JobDefinition } from "./JobDefinition.ts"
import { maxTypeBytes } from "./jobs/limits.ts"
import { type QueryError, reading, writing } from "./QueryError.ts"
import {
  type InvalidArgument,
  type InvalidPagination,
  QueryFailed,
  type ReadReason,
  type Reason,
  Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "./Reason.ts"
import { ActiveScheduleExists } from "./ScheduleReason.ts"

export type { DefinitionSettings, RetryPolicy } from "./definitions/encode.ts"
export {
  type DefinitionMode,
  type DefinitionRequest,
  type DefinitionSyncReason,
  type DefinitionSyncReport,
  type ExactSyncOptions,
  type ExactSyncReason,
  type SyncOptions,
  sync,
  syncExact
} from "./definitions/sync.ts"
export { JobDefinition } from "./JobDefinition.ts"

/** What {@link insertIfMissing} and {@link declare} can fail with. */
export type DefinitionWriteReason = InvalidArgument | WriteReason

/** What {@link upsert} and {@link update} can fail with. */
export type DefinitionChangeReason = DefinitionWriteReason | ActiveScheduleExists | UnsupportedIsolation

/**
 * Declares a job type, or replaces its declaration: settings that are left out get their defaults. Writes nothing, not even
 * `updatedAt`, if nothing differs.
 *
 * Fails with `InvalidArgument`, `Unavailable` (another transaction held the declaration for five seconds), or what any write
 * can fail with; to disable a type also with `ActiveScheduleExists` (an active schedule enqueues such jobs) and
 * `UnsupportedIsolation` (in a transaction that is not READ COMMITTED). Locks and writes the row of `job_definitions`.
 *
 * @example
 * ```ts
 * import { JobDefinitions } from "effect-runledger"
 *
 * const declared = JobDefinitions.upsert("email.send", {
 *   maxAttempts: 5,
 *   timeout: "30 seconds",
 *   retry: { initial: "5 seconds", overrides: { "smtp.throttled": "2 minutes" } }
 * })
 * ```
 */
export const upsert: (
  jobType: string,
  settings?: DefinitionSettings
) => Effect.Effect<JobDefinition, QueryError<DefinitionChangeReason>, SqlClient> = Effect.fnUntraced(function* (
  jobType: string,
  settings?: DefinitionSettings
) {
  const record = yield* encode(jobType, settings ?? {})
  const upserted = Effect.gen(function* () {
    for (let round = 0; round < maxRounds; round++) {
      const [row] = yield* mayWait(upsertOnce(record))
      if (row !== undefined) return yield* decodeDefinition(row)
    }
    return yield* new Unavailable({ origin: "busy" })
  })
  return yield* settings?.isEnabled === false ? disabling(jobType, upserted) : upserted
}, writing("JobDefinitions.upsert"))

const maxRounds = 5

/**
 * Runs a write that disables a definition, and undoes it if an active schedule needs the definition. The write holds the row
 * when the schedules are looked at, by a statement of its own: who activates a schedule holds the row too (`FOR SHARE`), so it
 * has committed before and is seen, or waits and then sees that the definition is disabled.
 */
const disabling = <A, E extends Reason, R>(
  jobType: string,
  write: Effect.Effect<A, E | SqlError | Schema.SchemaError, R>
) =>
  readCommitted("job.unsupported_isolation")(
    transaction(
      Effect.gen(function* () {
        const written = yield* Effect.catchTag(write, "SchemaError", () => new QueryFailed({}))
        const sql = yield* Sql.client
        const [row] = yield* sql`
          SELECT
            ${sql.literal(isReadCommitted)} AS is_read_committed,
            EXISTS (SELECT FROM runledger.job_schedules WHERE job_type = ${jobType} AND is_active) AS is_scheduled
        `
        if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
        return row.is_scheduled === true ? yield* new ActiveScheduleExists({ jobType }) : written
      })
    )
  )

// No row: another transaction inserted an equal declaration while this statement waited for it, so it is not in the snapshot.
const upsertOnce = Effect.fnUntraced(function* (record: string) {
  const { sql, instant } = yield* Sql.clocked
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT r.*, ${instant} AS at, ${sql.literal(patience)}
      FROM jsonb_to_record(${record}::jsonb) AS r (${sql.literal(recordColumns)})
    ), written AS (
      INSERT INTO runledger.job_definitions AS d (${sql.literal(settingColumns)}, created_at, updated_at)
      SELECT ${sql.literal(settingColumns)}, at, at FROM input
      ON CONFLICT (job_type) DO UPDATE SET
        is_enabled = EXCLUDED.is_enabled,
        sync_disabled_at = NULL,
        ${sql.literal(contractsColumns)}
      WHERE d.sync_disabled_at IS NOT NULL OR (
        d.version, d.max_attempts, d.default_timeout_seconds, d.default_priority, d.is_enabled, d.retry_initial_ms,
        d.retry_factor, d.retry_max_ms, d.retry_jitter, d.retry_overrides
      ) IS DISTINCT FROM (
        EXCLUDED.version, EXCLUDED.max_attempts, EXCLUDED.default_timeout_seconds, EXCLUDED.default_priority,
        EXCLUDED.is_enabled, EXCLUDED.retry_initial_ms, EXCLUDED.retry_factor, EXCLUDED.retry_max_ms,
        EXCLUDED.retry_jitter, EXCLUDED.retry_overrides
      )
      RETURNING ${sql.literal(definitionColumns)}
    ), stored AS (
      SELECT * FROM written
      UNION ALL
      SELECT ${sql.literal(definitionColumns)}
      FROM runledger.job_definitions d
      WHERE d.job_type = (SELECT job_type FROM input) AND NOT EXISTS (SELECT FROM written)
    )
    SELECT s.*, i.callers_lock_timeout FROM stored s CROSS JOIN input i
  `
})

/**
 * Declares a job type unless it is declared already; an existing declaration is left as it is. Returns whether it was new.
 *
 * Fails, locks and writes as {@link upsert}.
 *
 * @example
 * ```ts
 * import { JobDefinitions } from "effect-runledger"
 *
 * const isNew = JobDefinitions.insertIfMissing("email.send", { maxAttempts: 5 })
 * ```
 */
export const insertIfMissing: (
  jobType: string,
  settings?: DefinitionSettings
) => Effect.Effect<boolean, QueryError<DefinitionWriteReason>, SqlClient> = Effect.fnUntraced(function* (
  jobType: string,
  settings?: DefinitionSettings
) {
  const record = yield* encode(jobType, settings ?? {})
  const [row] = yield* mayWait(
    Effect.flatMap(
      Sql.clocked,
      ({ sql, instant }) => sql`
          WITH input AS MATERIALIZED (
            SELECT r.*, ${instant} AS at, ${sql.literal(patience)}
            FROM jsonb_to_record(${record}::jsonb) AS r (${sql.literal(recordColumns)})
          ), inserted AS (
            INSERT INTO runledger.job_definitions (${sql.literal(settingColumns)}, created_at, updated_at)
            SELECT ${sql.literal(settingColumns)}, at, at FROM input
            ON CONFLICT (job_type) DO NOTHING
            RETURNING job_type
          )
          SELECT EXISTS (SELECT FROM inserted) AS inserted, callers_lock_timeout FROM input
        `
    )
  )
  return row?.inserted === true
}, writing("JobDefinitions.insertIfMissing"))

/**
 * Declares the settings of a contract, unless the stored declaration is of the same version or a newer one. Whether the type is
 * enabled stays as it is: that belongs to the operator. Returns whether it was written. Workers do this when they start, and
 * the first typed enqueue of a process does.
 *
 * Fails, locks and writes as {@link upsert}.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, JobDefinitions } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", { payload: { to: Schema.String }, maxAttempts: 5 }) {}
 *
 * const declared = JobDefinitions.declare(SendEmail)
 * ```
 */
export const declare: (contract: AnyContract) => Effect.Effect<boolean, QueryError<DefinitionWriteReason>, SqlClient> =
  Effect.fnUntraced(function* ({ jobType, settings }: AnyContract) {
    const record = yield* encode(jobType, settings)
    const [row] = yield* mayWait(
      Effect.flatMap(
        Sql.clocked,
        ({ sql, instant }) => sql`
        WITH input AS MATERIALIZED (
          SELECT r.*, ${instant} AS at, ${sql.literal(patience)}
          FROM jsonb_to_record(${record}::jsonb) AS r (${sql.literal(recordColumns)})
        ), written AS (
          INSERT INTO runledger.job_definitions AS d (${sql.literal(settingColumns)}, created_at, updated_at)
          SELECT ${sql.literal(settingColumns)}, at, at
          FROM input i
          -- a row that is as new already is not locked
          WHERE NOT EXISTS (
            SELECT FROM runledger.job_definitions d WHERE d.job_type = i.job_type AND d.version >= i.version
          )
          ON CONFLICT (job_type) DO UPDATE SET
            ${sql.literal(contractsColumns)}
          WHERE d.version < EXCLUDED.version
          RETURNING job_type
        )
        SELECT EXISTS (SELECT FROM written) AS written, callers_lock_timeout FROM input
      `
      )
    )
    return row?.written === true
  }, writing("JobDefinitions.declare"))

/**
 * Changes the settings that are given and keeps the others; the version stays. `None` if the type is not declared.
 *
 * Fails with `InvalidArgument` (also if the retry policy that results is not valid), `Unavailable` (another transaction held
 * the declaration for five seconds), or what any write can fail with; to disable a type also with `ActiveScheduleExists` (an
 * active schedule enqueues such jobs) and `UnsupportedIsolation`. Locks and writes the row of `job_definitions`.
 *
 * @example
 * ```ts
 * import { JobDefinitions } from "effect-runledger"
 *
 * const paused = JobDefinitions.update("email.send", { isEnabled: false })
 * ```
 */
export const update: (
  jobType: string,
  changes: Omit<DefinitionSettings, "version">
) => Effect.Effect<Option.Option<JobDefinition>, QueryError<DefinitionChangeReason>, SqlClient> = Effect.fnUntraced(
  function* (jobType: string, changes: Omit<DefinitionSettings, "version">) {
    const record = yield* encodeGiven(jobType, changes)
    const updated = mayWait(
      Effect.flatMap(
        Sql.clocked,
        ({ sql, instant }) => sql`
        WITH input AS MATERIALIZED (
          SELECT r.*, ${instant} AS at, ${sql.literal(patience)}
          FROM jsonb_to_record(${record}::jsonb) AS r (${sql.literal(recordColumns)})
        ), written AS (
          UPDATE runledger.job_definitions d
          SET
            max_attempts = COALESCE(i.max_attempts, d.max_attempts),
            default_timeout_seconds = COALESCE(i.default_timeout_seconds, d.default_timeout_seconds),
            default_priority = COALESCE(i.default_priority, d.default_priority),
            is_enabled = COALESCE(i.is_enabled, d.is_enabled),
            -- whoever says it takes it over
            sync_disabled_at = CASE WHEN i.is_enabled IS NULL THEN d.sync_disabled_at END,
            retry_initial_ms = COALESCE(i.retry_initial_ms, d.retry_initial_ms),
            retry_factor = COALESCE(i.retry_factor, d.retry_factor),
            -- the longest delay grows with the first, unless it is given too
            retry_max_ms = COALESCE(i.retry_max_ms, GREATEST(d.retry_max_ms, i.retry_initial_ms)),
            retry_jitter = COALESCE(i.retry_jitter, d.retry_jitter),
            retry_overrides = COALESCE(i.retry_overrides, d.retry_overrides),
            updated_at = i.at
          FROM input i
          WHERE d.job_type = i.job_type
            AND COALESCE(i.retry_initial_ms, d.retry_initial_ms)
              <= COALESCE(i.retry_max_ms, GREATEST(d.retry_max_ms, i.retry_initial_ms))
          RETURNING d.*
        )
        SELECT
          EXISTS (SELECT FROM runledger.job_definitions d WHERE d.job_type = i.job_type) AS is_declared,
          i.callers_lock_timeout,
          w.*
        FROM input i
        LEFT JOIN (SELECT ${sql.literal(definitionColumns)} FROM written) w ON true
      `
      )
    )
    const [row] = yield* changes.isEnabled === false ? disabling(jobType, updated) : updated
    if (row === undefined || typeof row.job_type !== "string") {
      return row?.is_declared === true
        ? yield* invalid("retry.max", "must not be shorter than retry.initial")
        : Option.none()
    }
    return Option.some(yield* decodeDefinition(row))
  },
  writing("JobDefinitions.update")
)

/**
 * Reads a declaration; `None` if the type is not declared. Fails with `InvalidArgument` (blank or over-long type) or what any
 * read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobDefinitions } from "effect-runledger"
 *
 * const declared = JobDefinitions.get("email.send")
 * ```
 */
export const get: (
  jobType: string
) => Effect.Effect<Option.Option<JobDefinition>, QueryError<InvalidArgument | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (jobType: string) {
    const refused = Args.name("jobType", jobType, maxTypeBytes)
    if (refused !== undefined) return yield* refused
    const sql = yield* Sql.client
    const [row] = yield* sql`
    SELECT ${sql.literal(definitionColumns)} FROM runledger.job_definitions WHERE job_type = ${jobType}
  `
    return row === undefined ? Option.none() : Option.some(yield* decodeDefinition(row))
  }, reading("JobDefinitions.get"))

/** Which page of declarations. */
export interface ListOptions {
  /** A part of the type, in any case. Nothing in it is a wildcard. */
  readonly contains?: string | undefined
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last type of the page before. */
  readonly after?: string | undefined
}

/**
 * Lists declarations by type, a page at a time. Fails with `InvalidPagination` (limit), `InvalidArgument` (texts), or what any
 * read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobDefinitions } from "effect-runledger"
 *
 * const mail = JobDefinitions.list({ contains: "email" })
 * ```
 */
export const list: (
  options?: ListOptions
) => Effect.Effect<
  ReadonlyArray<JobDefinition>,
  QueryError<InvalidArgument | InvalidPagination | ReadReason>,
  SqlClient
> = Effect.fnUntraced(function* ({ contains, limit = 100, after }: ListOptions = {}) {
  const refused =
    invalidLimit(limit) ??
    (contains === undefined ? undefined : Args.name("contains", contains, maxTypeBytes)) ??
    (after === undefined ? undefined : Args.name("after", after, maxTypeBytes))
  if (refused !== undefined) return yield* refused
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT ${sql.literal(definitionColumns)}
    FROM runledger.job_definitions
    WHERE true
      ${contains === undefined ? sql.literal("") : sql`AND position(lower(${contains}) IN lower(job_type)) > 0`}
      ${after === undefined ? sql.literal("") : sql`AND job_type > ${after}`}
    ORDER BY job_type
    LIMIT ${limit}
  `
  return yield* decodeDefinitions(rows)
}, reading("JobDefinitions.list"))

const decodeDefinition = Schema.decodeUnknownEffect(DefinitionRow)
const decodeDefinitions = Schema.decodeUnknownEffect(Schema.Array(DefinitionRow))
