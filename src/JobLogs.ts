/**
 * Log lines kept beside the job: inserted for a job that exists, read a page at a time.
 */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "./internal/arguments.ts"
import { chunksOf } from "./internal/chunks.ts"
import { Int8, Jsonb, nullable, Timestamptz } from "./internal/columns.ts"
import * as JsonText from "./internal/json.ts"
import { invalidLimit } from "./internal/page.ts"
import { inScope, invalidScope } from "./internal/scope.ts"
import * as Sql from "./internal/sql.ts"
import { transaction } from "./internal/transaction.ts"
import { JobId } from "./Job.ts"
import { maxBatch } from "./jobs/limits.ts"
import { type QueryError, reading, writing } from "./QueryError.ts"
import { InvalidArgument, type InvalidPagination, JobNotFound, type ReadReason, type WriteReason } from "./Reason.ts"
import type { TenantScope } from "./TenantScope.ts"

/** A line to be kept. */
export interface LogLine {
  readonly jobId: JobId
  /** Which run it belongs to: at least 1. */
  readonly runNumber: number
  /** Which attempt it belongs to, if any. */
  readonly attempt?: number | undefined
  /** Not blank, at most 32 bytes; for example `INFO`. */
  readonly level: string
  /** Not blank. At most 16,384 characters are kept; what PostgreSQL cannot store is replaced. */
  readonly message: string
  /** Any JSON of at most 2 MiB. Default: `{}`. */
  readonly payload?: Schema.Json | undefined
  /** When it was said, between the years 1 and 9999. Default: the time of the statement. */
  readonly occurredAt?: DateTime.Utc | undefined
}

/** A line as it is stored. */
export class JobLog extends Schema.Class<JobLog>("effect-runledger/JobLog")({
  id: Int8,
  jobId: JobId,
  runNumber: Schema.Int,
  attempt: nullable(Schema.Int),
  level: Schema.String,
  message: Schema.String,
  payload: Jsonb,
  occurredAt: Timestamptz
}) {}

const decodeLogs = Schema.decodeUnknownEffect(
  Schema.Array(JobLog.pipe(Schema.encodeKeys({ jobId: "job_id", runNumber: "run_number", occurredAt: "occurred_at" })))
)

/** What {@link insertMany} can fail with. */
export type InsertManyReason = InvalidArgument | WriteReason

/** What {@link insert} can fail with. */
export type InsertReason = InsertManyReason | JobNotFound

/**
 * Keeps a line with its job. No lease is needed.
 *
 * Fails with `JobNotFound`, `InvalidArgument`, or what any write can fail with. Locks nothing; writes `job_logs`.
 *
 * @example
 * ```ts
 * import { JobLogs, type Jobs } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const kept = JobLogs.insert({ jobId, runNumber: 1, attempt: 1, level: "INFO", message: "half way" })
 * ```
 */
export const insert: (line: LogLine) => Effect.Effect<void, QueryError<InsertReason>, SqlClient> = Effect.fnUntraced(
  function* (line: LogLine) {
    const [missing] = yield* insertAll([line])
    if (missing !== undefined) return yield* new JobNotFound({ jobId: missing })
    return undefined
  },
  writing("JobLogs.insert")
)

/**
 * Keeps up to 1,000 lines, in the order given, all or nothing. Returns the jobs among them that do not exist; their lines
 * are not kept.
 *
 * Fails with `InvalidArgument` (nothing was sent), or what any write can fail with. Locks nothing; writes `job_logs`.
 *
 * @example
 * ```ts
 * import { JobLogs, type Jobs } from "effect-runledger"
 *
 * declare const lines: ReadonlyArray<JobLogs.LogLine>
 * const missing = JobLogs.insertMany(lines)
 * ```
 */
export const insertMany: (
  lines: ReadonlyArray<LogLine>
) => Effect.Effect<ReadonlyArray<JobId>, QueryError<InsertManyReason>, SqlClient> = Effect.fnUntraced(function* (
  lines: ReadonlyArray<LogLine>
) {
  return yield* insertAll(lines)
}, writing("JobLogs.insertMany"))

const insertAll = Effect.fnUntraced(function* (lines: ReadonlyArray<LogLine>) {
  if (lines.length === 0) return []
  const tooMany = Args.atMost("lines", lines.length, maxBatch)
  if (tooMany !== undefined) return yield* tooMany
  const records: Array<string> = []
  for (const [ordinal, line] of lines.entries()) records.push(yield* encode(line, ordinal))
  const chunks = chunksOf(records, maxBatch, (text) => text.length)
  const missing = Effect.map(Effect.forEach(chunks, insertChunk), (chunk) => [...new Set(chunk.flat())])
  return yield* chunks.length > 1 ? transaction(missing) : missing
})

const insertChunk = Effect.fnUntraced(function* (records: ReadonlyArray<string>) {
  const { sql, instant } = yield* Sql.clocked
  const rows = yield* sql`
    WITH line AS MATERIALIZED (
      SELECT l.*, EXISTS (SELECT FROM runledger.job_queue q WHERE q.id = l.job_id) AS has_job
      FROM jsonb_to_recordset(${`[${records.join(",")}]`}::jsonb) AS l (
        ordinal integer, job_id uuid, run_number integer, attempt integer, level text, message text, payload jsonb,
        occurred_at timestamptz
      )
    ), inserted AS (
      INSERT INTO runledger.job_logs (job_id, run_number, attempt, level, message, payload, occurred_at)
      SELECT job_id, run_number, attempt, level, message, COALESCE(payload, 'null'), COALESCE(occurred_at, ${instant})
      FROM line
      WHERE has_job
      ORDER BY ordinal
    )
    SELECT DISTINCT job_id FROM line WHERE NOT has_job
  `
  return yield* decodeMissing(rows.map((row) => row.job_id))
})

const decodeMissing = Schema.decodeUnknownEffect(Schema.Array(JobId))

const encode = Effect.fnUntraced(function* (
  { jobId, runNumber, attempt, level, message, payload, occurredAt }: LogLine,
  ordinal: number
): Effect.fn.Return<string, InvalidArgument> {
  const text = Args.diagnostic(message)
  const invalid =
    Args.uuid("jobId", jobId) ??
    Args.integer("runNumber", runNumber, 1) ??
    (attempt === undefined ? undefined : Args.integer("attempt", attempt, 0)) ??
    Args.name("level", level, 32) ??
    (occurredAt === undefined ? undefined : Args.instant("occurredAt", occurredAt)) ??
    (Args.isBlank(text) ? new InvalidArgument({ argument: "message", rule: "must not be blank" }) : undefined)
  if (invalid !== undefined) return yield* invalid
  const encoded = JsonText.encode(payload ?? {})
  if (Result.isFailure(encoded)) return yield* new InvalidArgument({ argument: "payload", rule: encoded.failure })
  const head = JSON.stringify({
    ordinal,
    job_id: jobId,
    run_number: runNumber,
    attempt,
    level,
    message: text,
    occurred_at: occurredAt === undefined ? undefined : DateTime.formatIso(occurredAt)
  })
  return `${head.slice(0, -1)},"payload":${payload === null ? "null" : encoded.success}}`
})

/** Which page of a job's log. */
export interface ListOptions {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The id of the last line of the page before. */
  readonly after?: number | undefined
}

/**
 * The log of a job, oldest first.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, cursor), or what any read can fail with; a job that is not
 * in the scope has no lines. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobLogs, type Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const lines = JobLogs.list(TenantScope.admin, jobId)
 * ```
 */
export const list: (
  scope: TenantScope,
  jobId: JobId,
  options?: ListOptions
) => Effect.Effect<ReadonlyArray<JobLog>, QueryError<InvalidArgument | InvalidPagination | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (scope: TenantScope, jobId: JobId, options?: ListOptions) {
    const limit = options?.limit ?? 100
    const after = options?.after ?? 0
    const invalid =
      invalidLimit(limit) ??
      invalidScope(scope) ??
      Args.uuid("jobId", jobId) ??
      Args.integer("after", after, 0, Number.MAX_SAFE_INTEGER)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT l.id, l.job_id, l.run_number, l.attempt, l.level, l.message, l.payload, l.occurred_at
      FROM runledger.job_logs l
      WHERE l.job_id = (SELECT q.id FROM runledger.job_queue q WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")})
        AND l.id > ${after}::float8::bigint
      ORDER BY l.id
      LIMIT ${limit}
    `
    return yield* decodeLogs(rows)
  }, reading("JobLogs.list"))
