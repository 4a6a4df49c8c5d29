import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { nullable, Timestamptz } from "../internal/columns.ts"
import { invalidLimit } from "../internal/page.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import {
  type IntentId,
  IntentStatus,
  intentColumns,
  intentSummaryColumns,
  type JobIntent,
  JobIntentRow,
  type JobIntentSummary,
  JobIntentSummaryRow
} from "../JobIntent.ts"
import { maxTypeBytes } from "../jobs/limits.ts"
import type { GetReason, ListReason } from "../jobs/read.ts"
import { type QueryError, reading } from "../QueryError.ts"
import { InvalidArgument } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"

export type { GetReason, ListReason } from "../jobs/read.ts"

/**
 * Reads an intent; `None` if there is none in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobIntents, TenantScope } from "effect-runledger"
 *
 * declare const intentId: JobIntents.IntentId
 * const intent = JobIntents.get(TenantScope.admin, intentId)
 * ```
 */
export const get: (
  scope: TenantScope,
  intentId: IntentId
) => Effect.Effect<Option.Option<JobIntent>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  intentId: IntentId
) {
  const invalid = invalidScope(scope) ?? Args.uuid("intentId", intentId)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
    SELECT ${sql.literal(intentColumns)}
    FROM runledger.job_enqueue_intents n
    WHERE n.id = ${intentId}::uuid AND ${inScope(sql, scope, "n")}
  `
  return row === undefined ? Option.none() : Option.some(yield* decodeIntent(row))
}, reading("JobIntents.get"))

const decodeIntent = Schema.decodeUnknownEffect(JobIntentRow)

/** Which page of intents. What is left out does not restrict. */
export interface ListOptions {
  readonly scope: TenantScope
  readonly status?: IntentStatus | undefined
  /** Exactly this type. */
  readonly jobType?: string | undefined
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last id of the page before. That intent need not exist any more. */
  readonly before?: IntentId | undefined
}

/**
 * Lists intents, newest first, a page at a time: give the last id of a page as `before` of the next. An empty page is the end.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, type, status), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobIntents, TenantScope } from "effect-runledger"
 *
 * const conflicted = JobIntents.list({ scope: TenantScope.admin, status: "CONFLICTED", limit: 50 })
 * ```
 */
export const list: (
  options: ListOptions
) => Effect.Effect<ReadonlyArray<JobIntentSummary>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* ({
  scope,
  status,
  jobType,
  limit = 100,
  before
}: ListOptions) {
  const invalid =
    invalidLimit(limit) ??
    invalidScope(scope) ??
    (status === undefined || IntentStatus.literals.includes(status)
      ? undefined
      : new InvalidArgument({ argument: "status", rule: `must be one of ${IntentStatus.literals.join(", ")}` })) ??
    invalidType("jobType", jobType) ??
    (before === undefined ? undefined : Args.uuid("before", before))
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  // the status as a literal, and the clause that is always true: only then can a partial index serve
  const rows = yield* sql`
    SELECT ${sql.literal(intentSummaryColumns)}
    FROM runledger.job_enqueue_intents n
    WHERE ${inScope(sql, scope, "n")}
      ${sql.literal(scope._tag === "Organization" ? "AND n.job_type <> ''" : "")}
      ${sql.literal(status === undefined ? "" : `AND n.status = '${status}'`)}
      ${jobType === undefined ? sql.literal("") : sql`AND n.job_type = ${jobType}`}
      ${before === undefined ? sql.literal("") : sql`AND n.id < ${before}::uuid`}
    ORDER BY n.id DESC
    LIMIT ${limit}
  `
  return yield* decodeSummaries(rows)
}, reading("JobIntents.list"))

const decodeSummaries = Schema.decodeUnknownEffect(Schema.Array(JobIntentSummaryRow))

const invalidType = (argument: string, jobType: string | undefined): InvalidArgument | undefined =>
  jobType === undefined ? undefined : Args.name(argument, jobType, maxTypeBytes)

/** How the intents of a type stand. */
export class IntentMetrics extends Schema.Class<IntentMetrics>("effect-runledger/IntentMetrics")({
  jobType: Schema.String,
  pending: Schema.Int,
  /** Pending, and tried before. */
  retrying: Schema.Int,
  /** The most promotion attempts of one that is pending. */
  maxPromotionAttempts: Schema.Int,
  /** In the last 24 hours. */
  conflicted24h: Schema.Int,
  /** In the last 24 hours. */
  promoted24h: Schema.Int,
  /** When the oldest that is pending was recorded. */
  oldestPendingAt: nullable(Timestamptz)
}) {}

const decodeMetrics = Schema.decodeUnknownEffect(
  Schema.Array(
    IntentMetrics.pipe(
      Schema.encodeKeys({
        jobType: "job_type",
        maxPromotionAttempts: "max_promotion_attempts",
        conflicted24h: "conflicted_24h",
        promoted24h: "promoted_24h",
        oldestPendingAt: "oldest_pending_at"
      })
    )
  )
)

/** Which types to count. What is left out does not restrict. */
export interface MetricsOptions {
  readonly scope: TenantScope
  /** Exactly this type. */
  readonly jobType?: string | undefined
  /** 1 to 1,000 types; default 100. */
  readonly limit?: number | undefined
  /** The last type of the page before. */
  readonly after?: string | undefined
}

/**
 * Counts the intents of each type, in the order of the types: what is pending, and what was promoted or found in conflict within
 * the last 24 hours. Types without any of these are left out. The cost grows with what is counted, not with older intents.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, types), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobIntents, TenantScope } from "effect-runledger"
 *
 * const standing = JobIntents.metrics({ scope: TenantScope.admin })
 * ```
 */
export const metrics: (
  options: MetricsOptions
) => Effect.Effect<ReadonlyArray<IntentMetrics>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* ({
  scope,
  jobType,
  limit = 100,
  after
}: MetricsOptions) {
  const invalid =
    invalidLimit(limit) ?? invalidScope(scope) ?? invalidType("jobType", jobType) ?? invalidType("after", after)
  if (invalid !== undefined) return yield* invalid
  const { sql, instant } = yield* Sql.clocked
  const matching = sql`${inScope(sql, scope, "n")}
        ${jobType === undefined ? sql.literal("") : sql`AND n.job_type = ${jobType}`}
        ${after === undefined ? sql.literal("") : sql`AND n.job_type > ${after}`}`
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} - interval '24 hours' AS since
    ), counted AS (
      SELECT
        n.job_type, count(*) AS pending, count(*) FILTER (WHERE n.promotion_attempts > 0) AS retrying,
        max(n.promotion_attempts) AS attempts, min(n.created_at) AS oldest, 0 AS conflicted, 0 AS promoted
      FROM runledger.job_enqueue_intents n
      WHERE n.status = 'PENDING' AND ${matching}
      GROUP BY n.job_type
      UNION ALL
      SELECT n.job_type, 0, 0, 0, NULL, count(*), 0
      FROM runledger.job_enqueue_intents n
      WHERE n.conflicted_at > (SELECT since FROM input) AND ${matching}
      GROUP BY n.job_type
      UNION ALL
      SELECT n.job_type, 0, 0, 0, NULL, 0, count(*)
      FROM runledger.job_enqueue_intents n
      WHERE n.promoted_at > (SELECT since FROM input) AND ${matching}
      GROUP BY n.job_type
    )
    SELECT
      job_type, sum(pending)::int4 AS pending, sum(retrying)::int4 AS retrying, max(attempts) AS max_promotion_attempts,
      sum(conflicted)::int4 AS conflicted_24h, sum(promoted)::int4 AS promoted_24h, min(oldest) AS oldest_pending_at
    FROM counted
    GROUP BY job_type
    ORDER BY job_type
    LIMIT ${limit}
  `
  return yield* decodeMetrics(rows)
}, reading("JobIntents.metrics"))
