import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { Int8, nullable, Timestamptz } from "../internal/columns.ts"
import { invalidLimit, maxPage } from "../internal/page.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { JobId, type JobRecord, JobRow, jobColumns, Stage, Status } from "../Job.ts"
import { type QueryError, reading } from "../QueryError.ts"
import { InvalidArgument, type InvalidPagination, type ReadReason } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import { maxTypeBytes } from "./limits.ts"

/** What a read by id can fail with. */
export type GetReason = InvalidArgument | ReadReason

/** What a read of a page can fail with. */
export type ListReason = InvalidArgument | InvalidPagination | ReadReason

/**
 * Reads a job; `None` if there is none in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const job = Jobs.get(TenantScope.admin, jobId)
 * ```
 */
export const get: (
  scope: TenantScope,
  jobId: JobId
) => Effect.Effect<Option.Option<JobRecord>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobId: JobId
) {
  const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
      SELECT ${sql.literal(jobColumns)}
      FROM runledger.job_queue q
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
    `
  return row === undefined ? Option.none() : Option.some(yield* decodeJob(row))
}, reading("Jobs.get"))

const decodeJob = Schema.decodeUnknownEffect(JobRow)

/** Which jobs. What is left out does not restrict. */
export interface JobFilter {
  readonly scope: TenantScope
  readonly status?: Status | undefined
  /** Exactly this type. */
  readonly jobType?: string | undefined
}

/** Which page of jobs. */
export interface ListOptions extends JobFilter {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last id of the page before. That job need not exist any more. */
  readonly before?: JobId | undefined
}

/** A job without its JSON and texts. */
export class JobSummary extends Schema.Class<JobSummary>("effect-runledger/JobSummary")({
  id: JobId,
  jobType: Schema.String,
  organizationId: nullable(Schema.String),
  status: Status,
  priority: Schema.Int,
  runNumber: Schema.Int,
  attempt: Schema.Int,
  maxAttempts: Schema.Int,
  nextRunAt: Timestamptz,
  stage: Stage,
  progressDone: nullable(Int8),
  progressTotal: nullable(Int8),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {}

const decodeSummaries = Schema.decodeUnknownEffect(
  Schema.Array(
    JobSummary.pipe(
      Schema.encodeKeys({
        jobType: "job_type",
        organizationId: "organization_id",
        runNumber: "run_number",
        maxAttempts: "max_attempts",
        nextRunAt: "next_run_at",
        progressDone: "progress_done",
        progressTotal: "progress_total",
        createdAt: "created_at",
        updatedAt: "updated_at"
      })
    )
  )
)

/**
 * Lists jobs, newest first, a page at a time: give the last id of a page as `before` of the next. An empty page is the end.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, type), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const waiting = Jobs.list({ scope: TenantScope.global, status: "PENDING", limit: 50 })
 * ```
 */
export const list: (
  options: ListOptions
) => Effect.Effect<ReadonlyArray<JobSummary>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  options: ListOptions
) {
  const limit = options.limit ?? 100
  const invalid =
    invalidLimit(limit) ??
    invalidFilter(options) ??
    (options.before === undefined ? undefined : Args.uuid("before", options.before))
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      SELECT
        id, job_type, organization_id, status, priority, run_number, attempt, max_attempts, next_run_at, stage,
        progress_done, progress_total, created_at, updated_at
      FROM runledger.job_queue q
      WHERE ${matching(sql, options)}
        ${options.before === undefined ? sql.literal("") : sql`AND q.id < ${options.before}::uuid`}
      ORDER BY q.id DESC
      LIMIT ${limit}
    `
  return yield* decodeSummaries(rows)
}, reading("Jobs.list"))

/**
 * Counts jobs. The cost grows with what is counted.
 *
 * Fails with `InvalidArgument` or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const waiting = Jobs.count({ scope: TenantScope.admin, status: "PENDING", jobType: "email.send" })
 * ```
 */
export const count: (filter: JobFilter) => Effect.Effect<number, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(
  function* (filter: JobFilter) {
    const invalid = invalidFilter(filter)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const [row] = yield* sql`SELECT count(*) AS jobs FROM runledger.job_queue q WHERE ${matching(sql, filter)}`
    return yield* decodeCount(row?.jobs)
  },
  reading("Jobs.count")
)

const decodeCount = Schema.decodeUnknownEffect(Int8)

const invalidFilter = ({ scope, status, jobType }: JobFilter): InvalidArgument | undefined =>
  invalidScope(scope) ??
  (status === undefined || Status.literals.includes(status)
    ? undefined
    : new InvalidArgument({ argument: "status", rule: `must be one of ${Status.literals.join(", ")}` })) ??
  (jobType === undefined ? undefined : Args.name("jobType", jobType, maxTypeBytes))

// the status as a literal, and the clause that is always true: only then can a partial index serve
const matching = (sql: SqlClient, { scope, status, jobType }: JobFilter): Fragment => sql`
  ${inScope(sql, scope, "q")}
  ${sql.literal(scope._tag === "Organization" ? "AND q.job_type <> ''" : "")}
  ${sql.literal(status === undefined ? "" : `AND q.status = '${status}'`)}
  ${jobType === undefined ? sql.literal("") : sql`AND q.job_type = ${jobType}`}`

/** Where a job stands. */
export class JobStatus extends Schema.Class<JobStatus>("effect-runledger/JobStatus")({
  id: JobId,
  status: Status,
  runNumber: Schema.Int,
  attempt: Schema.Int,
  updatedAt: Timestamptz
}) {}

const decodeStatuses = Schema.decodeUnknownEffect(
  Schema.Array(JobStatus.pipe(Schema.encodeKeys({ runNumber: "run_number", updatedAt: "updated_at" })))
)

/**
 * Where up to 1,000 jobs stand, by ascending id. Ids that do not exist in the scope are left out; repeated ones count once.
 *
 * Fails with `InvalidArgument` (not a UUID), `InvalidPagination` (more than 1,000 ids), or what any read can fail with. Locks
 * nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const ids: ReadonlyArray<Jobs.JobId>
 * const standing = Jobs.statuses(TenantScope.admin, ids)
 * ```
 */
export const statuses: (
  scope: TenantScope,
  jobIds: ReadonlyArray<JobId>
) => Effect.Effect<ReadonlyArray<JobStatus>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobIds: ReadonlyArray<JobId>
) {
  if (jobIds.length === 0) return []
  const invalid =
    invalidScope(scope) ?? (jobIds.length > maxPage ? invalidLimit(jobIds.length) : undefined) ?? firstInvalid(jobIds)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      SELECT id, status, run_number, attempt, updated_at
      FROM runledger.job_queue q
      WHERE q.id = ANY (${jobIds}::uuid[]) AND ${inScope(sql, scope, "q")}
      ORDER BY q.id
    `
  return yield* decodeStatuses(rows)
}, reading("Jobs.statuses"))

const firstInvalid = (jobIds: ReadonlyArray<JobId>): InvalidArgument | undefined => {
  for (const id of jobIds) {
    const invalid = Args.uuid("jobIds", id)
    if (invalid !== undefined) return invalid
  }
  return undefined
}
