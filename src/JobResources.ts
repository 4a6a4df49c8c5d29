/**
 * Execution resources: how many jobs with the same `executionResourceKey` run at once, and how many start within an interval,
 * over all workers, job types and organizations.
 *
 * A key needs no declaration: unless something else is said here, it has one permit and no rate, so that its jobs run one
 * after the other. A job that gets no permit stays `PENDING`, uses up no attempt, and holds up no other.
 *
 * A permit is held as long as the attempt that it was given to has its lease: until that attempt ends in any way, is reaped,
 * or, if the job is canceled while it runs, until the lease would have expired. There is nothing to give back.
 */
import * as Arr from "effect/Array"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { nullable, Timestamptz } from "./internal/columns.ts"
import { readCommitted } from "./internal/isolation.ts"
import { invalidLimit } from "./internal/page.ts"
import * as Sql from "./internal/sql.ts"
import { JobId } from "./Job.ts"
import { maxKeyBytes } from "./jobs/limits.ts"
import { type QueryError, reading, writing } from "./QueryError.ts"
import type { InvalidPagination, ReadReason, UnsupportedIsolation, WriteReason } from "./Reason.ts"
import { InvalidArgument } from "./Reason.ts"
import { held } from "./resources/permit.ts"
import { resize } from "./resources/resize.ts"

/** What is said of a key. */
export class JobResource extends Schema.Class<JobResource>("effect-runledger/JobResource")({
  resourceKey: Schema.String,
  /** How many of its jobs run at once. */
  permits: Schema.Int,
  /** How many of its jobs start within `rateIntervalMillis`. */
  ratePermits: nullable(Schema.Int),
  rateIntervalMillis: nullable(Schema.Int),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {}

const ResourceRow = JobResource.pipe(
  Schema.encodeKeys({
    resourceKey: "resource_key",
    ratePermits: "rate_permits",
    rateIntervalMillis: "rate_interval_ms",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

const resourceColumns = "resource_key, permits, rate_permits, rate_interval_ms, created_at, updated_at"

/** How many jobs of a key run at once, and how many start within an interval. */
export interface ResourceSettings {
  /** 1 to 1,000. Default: 1. */
  readonly permits?: number | undefined
  /**
   * At most `permits` (1 to 10,000) attempts start within any interval of the length `per` (1 ms to 24 days, rounded up to
   * milliseconds). Every attempt counts, also a claim that is released unstarted. Default: no rate.
   */
  readonly rate?: { readonly permits: number; readonly per: Duration.Input } | undefined
}

/** What {@link upsert} and {@link remove} can fail with. */
export type ResourceWriteReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Says how many jobs of a key run at once and how many start within an interval, or replaces what was said: what is left out
 * gets its default. Holds for all workers from the next claim on.
 *
 * If there are more jobs at work than the key now allows, none of it starts before enough of them have ended. What started
 * within the interval counts towards a new rate.
 *
 * Fails with `InvalidArgument` (before anything is sent), `UnsupportedIsolation` (the caller's transaction is not READ COMMITTED),
 * `Unavailable` (another transaction that claims or changes the key held it for five seconds), or what any write can
 * fail with. Locks the permits and tokens of the key, and writes them and its row of `job_execution_resources`. Until a caller's
 * transaction commits, no job of the key is claimed.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { JobResources, Jobs } from "effect-runledger"
 *
 * const program = Effect.gen(function* () {
 *   yield* JobResources.upsert("api.example.com", { permits: 5, rate: { permits: 100, per: "1 minute" } })
 *   yield* Jobs.enqueue("page.fetch", { path: "/" }, { executionResourceKey: "api.example.com" })
 * })
 * ```
 */
export const upsert: (
  resourceKey: string,
  settings?: ResourceSettings
) => Effect.Effect<JobResource, QueryError<ResourceWriteReason>, SqlClient> = Effect.fnUntraced(function* (
  resourceKey: string,
  { permits = 1, rate }: ResourceSettings = {}
) {
  const intervalMillis = rate === undefined ? 0 : (Args.millis(rate.per) ?? 0)
  const invalid =
    invalidKey(resourceKey) ??
    Args.integer("permits", permits, 1, maxPermits) ??
    (rate === undefined ? undefined : Args.integer("rate.permits", rate.permits, 1, maxRatePermits)) ??
    (rate !== undefined && (intervalMillis < 1 || intervalMillis > Args.maxInt)
      ? new InvalidArgument({ argument: "rate.per", rule: `must last between 1 and ${Args.maxInt} milliseconds` })
      : undefined)
  if (invalid !== undefined) return yield* invalid
  const size = { permits, rate: rate === undefined ? null : { permits: rate.permits, intervalMillis } }
  const [row] = yield* resize(resourceKey, size).pipe(readCommitted("job.unsupported_isolation"))
  return yield* decodeResource(row)
}, writing("JobResources.upsert"))

/**
 * Forgets what was said of a key: it has one permit again, and no rate. Returns whether anything was said.
 *
 * Fails, locks and writes as {@link upsert}.
 *
 * @example
 * ```ts
 * import { JobResources } from "effect-runledger"
 *
 * const removed = JobResources.remove("api.example.com")
 * ```
 */
export const remove: (resourceKey: string) => Effect.Effect<boolean, QueryError<ResourceWriteReason>, SqlClient> =
  Effect.fnUntraced(function* (resourceKey: string) {
    const invalid = invalidKey(resourceKey)
    if (invalid !== undefined) return yield* invalid
    const rows = yield* resize(resourceKey, null).pipe(readCommitted("job.unsupported_isolation"))
    return rows.length > 0
  }, writing("JobResources.remove"))

/**
 * Reads what was said of a key; `None` if nothing was. Fails with `InvalidArgument` (key) or what any read can fail with. Locks
 * nothing.
 *
 * @example
 * ```ts
 * import { JobResources } from "effect-runledger"
 *
 * const resource = JobResources.get("api.example.com")
 * ```
 */
export const get: (
  resourceKey: string
) => Effect.Effect<Option.Option<JobResource>, QueryError<InvalidArgument | ReadReason>, SqlClient> = Effect.fnUntraced(
  function* (resourceKey: string) {
    const invalid = invalidKey(resourceKey)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT ${sql.literal(resourceColumns)} FROM runledger.job_execution_resources WHERE resource_key = ${resourceKey}
    `
    return Arr.head(yield* decodeResources(rows))
  },
  reading("JobResources.get")
)

/** Which page of resources. */
export interface ResourceListOptions {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last key of the page before. */
  readonly after?: string | undefined
}

/**
 * Lists the keys of which something was said, by key, a page at a time. Fails with `InvalidPagination` (limit), `InvalidArgument`
 * (`after`), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobResources } from "effect-runledger"
 *
 * const resources = JobResources.list({ limit: 20 })
 * ```
 */
export const list: (
  options?: ResourceListOptions
) => Effect.Effect<
  ReadonlyArray<JobResource>,
  QueryError<InvalidArgument | InvalidPagination | ReadReason>,
  SqlClient
> = Effect.fnUntraced(function* ({ limit = 100, after }: ResourceListOptions = {}) {
  const invalid = invalidLimit(limit) ?? (after === undefined ? undefined : invalidKey(after, "after"))
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT ${sql.literal(resourceColumns)}
    FROM runledger.job_execution_resources
    ${after === undefined ? sql.literal("") : sql`WHERE resource_key > ${after}`}
    ORDER BY resource_key
    LIMIT ${limit}
  `
  return yield* decodeResources(rows)
}, reading("JobResources.list"))

/** An attempt that holds a permit. */
export class PermitHolder extends Schema.Class<PermitHolder>("effect-runledger/PermitHolder")({
  jobId: JobId,
  runNumber: Schema.Int,
  attempt: Schema.Int,
  takenAt: Timestamptz
}) {}

const HolderRow = PermitHolder.pipe(
  Schema.encodeKeys({ jobId: "job_id", runNumber: "run_number", takenAt: "taken_at" })
)

/**
 * The attempts that hold the permits of a key, those that have held them for longest first: at most 1,000, as many as a key
 * can have. Fails with `InvalidArgument` (key) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobResources } from "effect-runledger"
 *
 * const holders = JobResources.holders("api.example.com")
 * ```
 */
export const holders: (
  resourceKey: string
) => Effect.Effect<ReadonlyArray<PermitHolder>, QueryError<InvalidArgument | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (resourceKey: string) {
    const invalid = invalidKey(resourceKey)
    if (invalid !== undefined) return yield* invalid
    const { sql, instant } = yield* Sql.clocked
    const rows = yield* sql`
      WITH input AS MATERIALIZED (
        SELECT ${instant} AS at
      )
      SELECT p.job_id, p.run_number, p.attempt, p.taken_at
      FROM runledger.job_execution_permits p
      WHERE p.resource_key = ${resourceKey} AND ${sql.literal(held("p"))}
      ORDER BY p.taken_at, p.slot
    `
    return yield* decodeHolders(rows)
  }, reading("JobResources.holders"))

const maxPermits = 1000
const maxRatePermits = 10_000

const invalidKey = (resourceKey: string, argument = "resourceKey") => Args.name(argument, resourceKey, maxKeyBytes)

const decodeResource = Schema.decodeUnknownEffect(ResourceRow)
const decodeResources = Schema.decodeUnknownEffect(Schema.Array(ResourceRow))
const decodeHolders = Schema.decodeUnknownEffect(Schema.Array(HolderRow))
