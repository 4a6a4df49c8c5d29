/**
 * A document of settings for each job type, which operators change while workers run. The library only keeps it: handlers
 * read it when they like.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { Jsonb, nullable, Timestamptz } from "./internal/columns.ts"
import * as JsonText from "./internal/json.ts"
import { invalidLimit } from "./internal/page.ts"
import * as Sql from "./internal/sql.ts"
import { mayWait, patience } from "./internal/waiting.ts"
import { maxTypeBytes } from "./jobs/limits.ts"
import { type QueryError, reading, writing } from "./QueryError.ts"
import { InvalidArgument, type InvalidPagination, type ReadReason, type WriteReason } from "./Reason.ts"
import { RuntimeConfigInvalid, RuntimeConfigNotFound } from "./RuntimeConfigReason.ts"

/** The config of a job type as it is stored. */
export class JobRuntimeConfig extends Schema.Class<JobRuntimeConfig>("effect-runledger/JobRuntimeConfig")({
  jobType: Schema.String,
  schemaVersion: Schema.Int,
  config: Schema.Record(Schema.String, Jsonb),
  updatedByUserId: nullable(Schema.String),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {}

const ConfigRow = JobRuntimeConfig.pipe(
  Schema.encodeKeys({
    jobType: "job_type",
    schemaVersion: "schema_version",
    updatedByUserId: "updated_by_user_id",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

const columns = "job_type, schema_version, config, updated_by_user_id, created_at, updated_at"

const decodeConfig = Schema.decodeUnknownEffect(ConfigRow)
const decodeConfigs = Schema.decodeUnknownEffect(Schema.Array(ConfigRow))

/** What to store for a job type. */
export interface RuntimeConfigInput {
  /** The version of the shape of `config`: at least 1. */
  readonly schemaVersion: number
  /** A JSON object of at most 2 MiB. */
  readonly config: { readonly [name: string]: Schema.Json }
  /** Who changes it, by UUID. */
  readonly updatedByUserId?: string | undefined
}

/** What {@link upsert} and {@link insertIfMissing} can fail with. */
export type RuntimeConfigWriteReason = InvalidArgument | WriteReason

/**
 * Stores the config of a job type, in place of the one that was there. The type need not be declared.
 *
 * Fails with `InvalidArgument`, `Unavailable` (another transaction held the config for five seconds), or what any write can
 * fail with. Locks and writes the row of `job_runtime_configs`.
 *
 * @example
 * ```ts
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const throttled = JobRuntimeConfigs.upsert("email.send", { schemaVersion: 1, config: { perMinute: 30 } })
 * ```
 */
export const upsert: (
  jobType: string,
  input: RuntimeConfigInput
) => Effect.Effect<JobRuntimeConfig, QueryError<RuntimeConfigWriteReason>, SqlClient> = Effect.fnUntraced(function* (
  jobType: string,
  input: RuntimeConfigInput
) {
  const config = yield* encode(jobType, input)
  const [row] = yield* mayWait(
    Effect.flatMap(
      Sql.clocked,
      ({ sql, instant }) => sql`
        WITH input AS MATERIALIZED (
          SELECT ${instant} AS at, ${sql.literal(patience)}
        ), written AS (
          INSERT INTO runledger.job_runtime_configs AS c (${sql.literal(columns)})
          SELECT
            ${jobType}, ${input.schemaVersion}::integer, ${config}::jsonb, ${input.updatedByUserId ?? null}::uuid, at, at
          FROM input
          ON CONFLICT (job_type) DO UPDATE SET
            schema_version = EXCLUDED.schema_version,
            config = EXCLUDED.config,
            updated_by_user_id = EXCLUDED.updated_by_user_id,
            updated_at = EXCLUDED.updated_at
          RETURNING ${sql.literal(columns)}
        )
        SELECT w.*, i.callers_lock_timeout FROM written w CROSS JOIN input i
      `
    )
  )
  return yield* decodeConfig(row)
}, writing("JobRuntimeConfigs.upsert"))

/**
 * Stores the config of a job type unless it has one already. Returns whether it was stored.
 *
 * Fails, locks and writes as {@link upsert}.
 *
 * @example
 * ```ts
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const isNew = JobRuntimeConfigs.insertIfMissing("email.send", { schemaVersion: 1, config: { perMinute: 60 } })
 * ```
 */
export const insertIfMissing: (
  jobType: string,
  input: RuntimeConfigInput
) => Effect.Effect<boolean, QueryError<RuntimeConfigWriteReason>, SqlClient> = Effect.fnUntraced(function* (
  jobType: string,
  input: RuntimeConfigInput
) {
  const config = yield* encode(jobType, input)
  const [row] = yield* mayWait(
    Effect.flatMap(
      Sql.clocked,
      ({ sql, instant }) => sql`
        WITH input AS MATERIALIZED (
          SELECT ${instant} AS at, ${sql.literal(patience)}
        ), inserted AS (
          INSERT INTO runledger.job_runtime_configs (${sql.literal(columns)})
          SELECT
            ${jobType}, ${input.schemaVersion}::integer, ${config}::jsonb, ${input.updatedByUserId ?? null}::uuid, at, at
          FROM input
          ON CONFLICT (job_type) DO NOTHING
          RETURNING job_type
        )
        SELECT EXISTS (SELECT FROM inserted) AS inserted, callers_lock_timeout FROM input
      `
    )
  )
  return row?.inserted === true
}, writing("JobRuntimeConfigs.insertIfMissing"))

const stored = Effect.fnUntraced(function* (jobType: string) {
  const refused = Args.name("jobType", jobType, maxTypeBytes)
  if (refused !== undefined) return yield* refused
  const sql = yield* Sql.client
  const [row] = yield* sql`
    SELECT ${sql.literal(columns)} FROM runledger.job_runtime_configs WHERE job_type = ${jobType}
  `
  return row === undefined ? Option.none() : Option.some(yield* decodeConfig(row))
})

/**
 * Reads the config of a job type; `None` if it has none. Fails with `InvalidArgument` (blank or over-long type) or what any
 * read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const config = JobRuntimeConfigs.get("email.send")
 * ```
 */
export const get: (
  jobType: string
) => Effect.Effect<Option.Option<JobRuntimeConfig>, QueryError<InvalidArgument | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (jobType: string) {
    return yield* stored(jobType)
  }, reading("JobRuntimeConfigs.get"))

/**
 * Reads the config of a job type that must have one.
 *
 * Fails with `RuntimeConfigNotFound`, `InvalidArgument` (blank or over-long type), or what any read can fail with. Locks
 * nothing.
 *
 * @example
 * ```ts
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const config = JobRuntimeConfigs.getRequired("email.send")
 * ```
 */
export const getRequired: (
  jobType: string
) => Effect.Effect<JobRuntimeConfig, QueryError<InvalidArgument | RuntimeConfigNotFound | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (jobType: string) {
    const found = yield* stored(jobType)
    return Option.isSome(found) ? found.value : yield* new RuntimeConfigNotFound({ jobType })
  }, reading("JobRuntimeConfigs.getRequired"))

/**
 * Reads the config of a job type that must have one, as the schema has it: what a handler wants.
 *
 * Fails with `RuntimeConfigNotFound`, `RuntimeConfigInvalid` (what is stored does not decode), `InvalidArgument` (blank or
 * over-long type), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const Limits = Schema.Struct({ perMinute: Schema.Int })
 *
 * const program = Effect.gen(function* () {
 *   const { perMinute } = yield* JobRuntimeConfigs.getDecoded("email.send", Limits)
 *   return 60_000 / perMinute
 * })
 * ```
 */
export const getDecoded: <A>(
  jobType: string,
  schema: Schema.Decoder<A>
) => Effect.Effect<
  A,
  QueryError<InvalidArgument | RuntimeConfigNotFound | RuntimeConfigInvalid | ReadReason>,
  SqlClient
> = Effect.fnUntraced(function* <A>(jobType: string, schema: Schema.Decoder<A>) {
  const found = yield* stored(jobType)
  if (Option.isNone(found)) return yield* new RuntimeConfigNotFound({ jobType })
  const { config, schemaVersion } = found.value
  return yield* Schema.decodeUnknownEffect(schema)(config).pipe(
    Effect.mapError(() => new RuntimeConfigInvalid({ jobType, schemaVersion }))
  )
}, reading("JobRuntimeConfigs.getDecoded"))

/** Which page of configs. */
export interface ListOptions {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last type of the page before. It need not have a config any more. */
  readonly after?: string | undefined
}

/**
 * Lists configs by job type, a page at a time. Fails with `InvalidPagination` (limit), `InvalidArgument` (type), or what any
 * read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobRuntimeConfigs } from "effect-runledger"
 *
 * const page = JobRuntimeConfigs.list({ limit: 50, after: "email.send" })
 * ```
 */
export const list: (
  options?: ListOptions
) => Effect.Effect<
  ReadonlyArray<JobRuntimeConfig>,
  QueryError<InvalidArgument | InvalidPagination | ReadReason>,
  SqlClient
> = Effect.fnUntraced(function* ({ limit = 100, after }: ListOptions = {}) {
  const refused = invalidLimit(limit) ?? (after === undefined ? undefined : Args.name("after", after, maxTypeBytes))
  if (refused !== undefined) return yield* refused
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT ${sql.literal(columns)}
    FROM runledger.job_runtime_configs
    ${after === undefined ? sql.literal("") : sql`WHERE job_type > ${after}`}
    ORDER BY job_type
    LIMIT ${limit}
  `
  return yield* decodeConfigs(rows)
}, reading("JobRuntimeConfigs.list"))

/** The text of the config. */
const encode = Effect.fnUntraced(function* (
  jobType: string,
  { schemaVersion, config, updatedByUserId }: RuntimeConfigInput
): Effect.fn.Return<string, InvalidArgument> {
  const refused =
    Args.name("jobType", jobType, maxTypeBytes) ??
    Args.integer("schemaVersion", schemaVersion, 1) ??
    (updatedByUserId === undefined ? undefined : Args.uuid("updatedByUserId", updatedByUserId)) ??
    (typeof config !== "object" || config === null || Array.isArray(config)
      ? new InvalidArgument({ argument: "config", rule: "must be a JSON object" })
      : undefined)
  if (refused !== undefined) return yield* refused
  const text = JsonText.encode(config)
  return Result.isSuccess(text) ? text.success : yield* new InvalidArgument({ argument: "config", rule: text.failure })
})
