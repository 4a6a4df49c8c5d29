import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { Int8, nullable, Timestamptz } from "../internal/columns.ts"
import { invalidLimit } from "../internal/page.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import { byIndex, readWith } from "../internal/settings.ts"
import * as Sql from "../internal/sql.ts"
import { type QueryError, reading } from "../QueryError.ts"
import { InvalidArgument } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import { maxTypeBytes } from "./limits.ts"
import type { ListReason } from "./read.ts"

/** What to measure. */
export interface MetricsOptions {
  /** Whose jobs are counted. The types themselves are nobody's: each is listed, with zeros where the scope has nothing. */
  readonly scope: TenantScope
  /** Exactly this type. */
  readonly jobType?: string | undefined
  /** How far back the ends of attempts are counted: up to 31 days, the default 24 hours. */
  readonly window?: Duration.Input | undefined
  /** 1 to 1,000 types; default 100. */
  readonly limit?: number | undefined
  /** The last type of the page before. */
  readonly after?: string | undefined
}

/** How the jobs of one type fare: where the live ones stand, and how attempts ended in the window. */
export class JobMetrics extends Schema.Class<JobMetrics>("effect-runledger/JobMetrics")({
  jobType: Schema.String,
  /** Whether new jobs are taken, as far as the definition says; `None` if there is none. */
  isEnabled: nullable(Schema.Boolean),
  /** Waiting, due or not. */
  pending: Int8,
  /** Waiting, and due. */
  due: Int8,
  /** When the first of those that are due became so. */
  dueSince: nullable(Timestamptz),
  leased: Int8,
  /** Leases that have run out and were not ended yet. */
  staleLeases: Int8,
  succeeded: Int8,
  /** Failed attempts by kind. */
  retryable: Int8,
  terminal: Int8,
  panicked: Int8,
  timeout: Int8,
  leaseExpired: Int8,
  /** Attempts whose job was canceled. */
  canceled: Int8,
  /** Attempts that ended as a slice of longer work. */
  continued: Int8,
  /** Jobs that failed for good. A job that did so twice counts once. */
  deadLettered: Int8,
  /** How long the attempts took from start to end, in milliseconds: half of them at most this. `None` without any. */
  p50DurationMillis: nullable(Schema.Number),
  /** As {@link p50DurationMillis}, of 95 in a hundred. */
  p95DurationMillis: nullable(Schema.Number)
}) {}

const decodeMetrics = Schema.decodeUnknownEffect(
  Schema.Array(
    JobMetrics.pipe(
      Schema.encodeKeys({
        jobType: "job_type",
        isEnabled: "is_enabled",
        dueSince: "due_since",
        staleLeases: "stale_leases",
        leaseExpired: "lease_expired",
        deadLettered: "dead_lettered",
        p50DurationMillis: "p50",
        p95DurationMillis: "p95"
      })
    )
  )
)

/** How the jobs of one type that run in slices fare. */
export class ContinuationMetrics extends Schema.Class<ContinuationMetrics>("effect-runledger/ContinuationMetrics")({
  jobType: Schema.String,
  /** Continuations in the window. */
  continued: Int8,
  /** Waiting and leased jobs whose run is the continuation of the one before. */
  activeContinued: Int8,
  /** The greatest run number among these; 0 without any. */
  maxActiveRunNumber: Schema.Int
}) {}

const decodeContinuationMetrics = Schema.decodeUnknownEffect(
  Schema.Array(
    ContinuationMetrics.pipe(
      Schema.encodeKeys({
        jobType: "job_type",
        activeContinued: "active_continued",
        maxActiveRunNumber: "max_active_run_number"
      })
    )
  )
)

/**
 * How each job type fares, by type, a page at a time: types that are declared, and others as long as they have jobs that wait,
 * that run, or that ended in the window.
 *
 * Costs what is counted: jobs that wait or run, and attempts that ended in the window. What ended before costs nothing, and is
 * not counted: there are no totals of all time.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument`, or what any read can fail with. Locks nothing. Outside a
 * transaction it runs in one of its own.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const lastHour = Jobs.metrics({ scope: TenantScope.admin, jobType: "email.send", window: "1 hour" })
 * ```
 */
export const metrics: (
  options: MetricsOptions
) => Effect.Effect<ReadonlyArray<JobMetrics>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  options: MetricsOptions
) {
  const { limit, windowMillis } = yield* checked(options)
  const { sql, instant } = yield* Sql.clocked
  const { scope } = options
  const rows = yield* readWith(byIndex)(sql`
    WITH RECURSIVE ${input(sql, instant, windowMillis)}, ${pendingTypes(sql, options)}, leased AS MATERIALIZED (
      SELECT
        q.job_type, count(*) AS leased, count(*) FILTER (WHERE q.lease_expires_at <= (SELECT at FROM input)) AS stale_leases
      FROM runledger.job_queue q
      WHERE q.status = 'LEASED' AND ${inScope(sql, scope, "q")} ${ofType(sql, options, "q")}
      GROUP BY q.job_type
    ), ended AS MATERIALIZED (
      SELECT
        e.job_type,
        count(*) FILTER (WHERE e.ended_as = 'SUCCEEDED') AS succeeded,
        count(*) FILTER (WHERE e.outcome = 'RETRYABLE') AS retryable,
        count(*) FILTER (WHERE e.outcome = 'TERMINAL') AS terminal,
        count(*) FILTER (WHERE e.outcome = 'PANICKED') AS panicked,
        count(*) FILTER (WHERE e.outcome = 'TIMEOUT') AS timeout,
        count(*) FILTER (WHERE e.ended_as = 'LEASE_EXPIRED') AS lease_expired,
        count(*) FILTER (WHERE e.ended_as = 'CANCELED') AS canceled,
        count(*) FILTER (WHERE e.ended_as = 'CONTINUED') AS continued,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY e.millis) AS percentiles
      FROM (
        SELECT
          q.job_type, a.ended_as, a.outcome,
          (extract(epoch FROM a.finished_at - a.started_at) * 1000)::float8 AS millis
        FROM runledger.job_attempts a
        ${jobOf(sql, options)}
        WHERE a.finished_at >= (SELECT since FROM input)
      ) e
      GROUP BY e.job_type
    ), dead AS MATERIALIZED (
      SELECT d.job_type, count(*) AS dead_lettered
      FROM runledger.job_dead_letters d
      WHERE d.failed_at >= (SELECT since FROM input) AND ${inScope(sql, scope, "d")} ${ofType(sql, options, "d")}
      GROUP BY d.job_type
    ), ${page(sql, options, ["leased", "ended", "dead"], limit)}
    SELECT
      t.job_type, f.is_enabled, p.pending, p.due, p.due_since,
      COALESCE(l.leased, 0) AS leased, COALESCE(l.stale_leases, 0) AS stale_leases,
      COALESCE(e.succeeded, 0) AS succeeded, COALESCE(e.retryable, 0) AS retryable, COALESCE(e.terminal, 0) AS terminal,
      COALESCE(e.panicked, 0) AS panicked, COALESCE(e.timeout, 0) AS timeout,
      COALESCE(e.lease_expired, 0) AS lease_expired, COALESCE(e.canceled, 0) AS canceled,
      COALESCE(e.continued, 0) AS continued, COALESCE(d.dead_lettered, 0) AS dead_lettered,
      e.percentiles[1] AS p50, e.percentiles[2] AS p95
    FROM types t
    LEFT JOIN runledger.job_definitions f ON f.job_type = t.job_type
    LEFT JOIN leased l ON l.job_type = t.job_type
    LEFT JOIN ended e ON e.job_type = t.job_type
    LEFT JOIN dead d ON d.job_type = t.job_type
    CROSS JOIN LATERAL (
      SELECT
        count(*) AS pending,
        count(*) FILTER (WHERE q.next_run_at <= (SELECT at FROM input)) AS due,
        min(q.next_run_at) FILTER (WHERE q.next_run_at <= (SELECT at FROM input)) AS due_since
      FROM ${pendingOf(sql, options)}
    ) p
    ORDER BY t.job_type
  `)
  return yield* decodeMetrics(rows)
}, reading("Jobs.metrics"))

/**
 * How jobs that run in slices fare, by type, a page at a time. Lists the types that {@link metrics} lists, fails as it does, and
 * costs as much.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const slices = Jobs.continuationMetrics({ scope: TenantScope.global })
 * ```
 */
export const continuationMetrics: (
  options: MetricsOptions
) => Effect.Effect<ReadonlyArray<ContinuationMetrics>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(
  function* (options: MetricsOptions) {
    const { limit, windowMillis } = yield* checked(options)
    const { sql, instant } = yield* Sql.clocked
    const { scope } = options
    const rows = yield* readWith(byIndex)(sql`
      WITH RECURSIVE ${input(sql, instant, windowMillis)}, ${pendingTypes(sql, options)}, leased AS MATERIALIZED (
        SELECT q.job_type, q.run_number, ${sql.literal(isContinuation)} AS is_continuation
        FROM runledger.job_queue q
        WHERE q.status = 'LEASED' AND ${inScope(sql, scope, "q")} ${ofType(sql, options, "q")}
      ), ended AS MATERIALIZED (
        SELECT q.job_type, count(*) FILTER (WHERE a.ended_as = 'CONTINUED') AS continued
        FROM runledger.job_attempts a
        ${jobOf(sql, options)}
        WHERE a.finished_at >= (SELECT since FROM input)
        GROUP BY q.job_type
      ), dead AS MATERIALIZED (
        SELECT DISTINCT d.job_type
        FROM runledger.job_dead_letters d
        WHERE d.failed_at >= (SELECT since FROM input) AND ${inScope(sql, scope, "d")} ${ofType(sql, options, "d")}
      ), ${page(sql, options, ["leased", "ended", "dead"], limit)}
      SELECT
        t.job_type, COALESCE(e.continued, 0) AS continued, a.active_continued, a.max_active_run_number
      FROM types t
      LEFT JOIN ended e ON e.job_type = t.job_type
      CROSS JOIN LATERAL (
        SELECT count(*) AS active_continued, COALESCE(max(q.run_number), 0) AS max_active_run_number
        FROM (
          SELECT q.run_number, ${sql.literal(isContinuation)} AS is_continuation FROM ${pendingOf(sql, options)}
          UNION ALL
          SELECT l.run_number, l.is_continuation FROM leased l WHERE l.job_type = t.job_type
        ) q
        WHERE q.is_continuation
      ) a
      ORDER BY t.job_type
    `)
    return yield* decodeContinuationMetrics(rows)
  },
  reading("Jobs.continuationMetrics")
)

const maxWindowMillis = 31 * 24 * 60 * 60 * 1000

const checked = Effect.fnUntraced(function* ({ scope, jobType, window, limit = 100, after }: MetricsOptions) {
  const windowMillis = Args.millis(window ?? Duration.hours(24)) ?? 0
  const refused =
    invalidLimit(limit) ??
    invalidScope(scope) ??
    (jobType === undefined ? undefined : Args.name("jobType", jobType, maxTypeBytes)) ??
    (after === undefined ? undefined : Args.name("after", after, maxTypeBytes)) ??
    (windowMillis >= 1 && windowMillis <= maxWindowMillis
      ? undefined
      : new InvalidArgument({ argument: "window", rule: "must last between 1 millisecond and 31 days" }))
  return refused === undefined ? { limit, windowMillis } : yield* refused
})

const input = (sql: SqlClient, instant: Fragment, windowMillis: number): Fragment => sql`
  now AS MATERIALIZED (
    SELECT ${instant} AS at
  ), input AS MATERIALIZED (
    SELECT at, at - ${windowMillis}::float8 * interval '1 millisecond' AS since FROM now
  )`

const ofType = (sql: SqlClient, { jobType }: MetricsOptions, alias: string): Fragment =>
  jobType === undefined ? sql.literal("") : sql`AND ${sql.literal(alias)}.job_type = ${jobType}`

/** The types that have something waiting, one index probe each; their jobs are counted later, type by type. */
const pendingTypes = (sql: SqlClient, { after, jobType }: MetricsOptions): Fragment => sql`
    pending AS (
      (
        SELECT q.job_type
        FROM runledger.job_queue q
        WHERE q.status = 'PENDING'
          ${jobType === undefined ? sql.literal("") : sql`AND q.job_type = ${jobType}`}
          ${after === undefined ? sql.literal("") : sql`AND q.job_type > ${after}`}
        ORDER BY q.job_type
        LIMIT 1
      )
      UNION ALL
      SELECT next.job_type
      FROM pending t
      CROSS JOIN LATERAL (
        SELECT q.job_type
        FROM runledger.job_queue q
        WHERE q.status = 'PENDING' AND q.job_type > t.job_type
        ORDER BY q.job_type
        LIMIT 1
      ) next
      WHERE ${sql.literal(jobType === undefined ? "true" : "false")}
    )`

/** `types`: those of this page. */
const page = (
  sql: SqlClient,
  { jobType, after }: MetricsOptions,
  sources: ReadonlyArray<string>,
  limit: number
): Fragment => sql`
  types AS MATERIALIZED (
    SELECT s.job_type
    FROM (
      SELECT job_type FROM runledger.job_definitions
      ${sql.literal(["pending", ...sources].map((name) => `UNION SELECT job_type FROM ${name}`).join("\n      "))}
    ) s
    WHERE true
      ${jobType === undefined ? sql.literal("") : sql`AND s.job_type = ${jobType}`}
      ${after === undefined ? sql.literal("") : sql`AND s.job_type > ${after}`}
    ORDER BY s.job_type
    LIMIT ${limit}
  )`

/** The waiting jobs of the type `t`. */
const pendingOf = (sql: SqlClient, { scope }: MetricsOptions): Fragment => sql`
          runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = t.job_type
            AND ${inScope(sql, scope, "q")}`

// one look-up for each attempt: as a join, a guess at the number of attempts would have all jobs ever read instead
const jobOf = (sql: SqlClient, options: MetricsOptions): Fragment => sql`
        CROSS JOIN LATERAL (
          SELECT q.job_type FROM (
            SELECT q.job_type, q.organization_id FROM runledger.job_queue q WHERE q.id = a.job_id LIMIT 1
          ) q
          WHERE ${inScope(sql, options.scope, "q")} ${ofType(sql, options, "q")}
        ) q`

// as a condition it would be a join, and all attempts ever might be read for it
const isContinuation = `q.run_number > 1 AND COALESCE((
          SELECT true
          FROM runledger.job_attempts a
          WHERE a.job_id = q.id AND a.run_number = q.run_number - 1 AND a.ended_as = 'CONTINUED'
          LIMIT 1
        ), false)`
