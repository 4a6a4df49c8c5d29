import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isJobId, isNumber, isString } from "../internal/row.ts"
import { invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { DeadLetterReason, type JobId } from "../Job.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import type { Owner } from "../TenantScope.ts"
import { maxBatch, maxCodeBytes, maxTypeBytes } from "./limits.ts"
import {
  invalidPolicy,
  invalidReason,
  policyText,
  requeueColumns,
  requeueing,
  type StatePolicy,
  settling
} from "./requeue.ts"

/** Which dead letters are redriven, and how. What is left out does not restrict. */
export interface RedriveOptions {
  readonly scope: Owner
  /** Exactly this type. */
  readonly jobType?: string | undefined
  /** Exactly this code of the last failure. */
  readonly errorCode?: string | undefined
  /** Why the job was given up. */
  readonly deadLetterReason?: DeadLetterReason | undefined
  /** Those that failed at this instant or later. */
  readonly failedAfter?: DateTime.Utc | undefined
  /** Those that failed before this instant. */
  readonly failedBefore?: DateTime.Utc | undefined
  /** 1 to 1,000 dead letters; default 100. */
  readonly limit?: number | undefined
  /** Whether the next runs begin with the progress and the checkpoint that the last ones left; default `preserve`. */
  readonly statePolicy?: StatePolicy | undefined
  /** For people: not blank. Recorded with jobs and events; at most 16,384 characters are kept. */
  readonly reason: string
}

/** A job that was redriven. */
export interface RedrivenJob {
  readonly jobId: JobId
  readonly jobType: string
  /** The run that begins now. */
  readonly runNumber: number
  /** The `seq` of the event, which belongs to the run before. */
  readonly seq: number
}

/** What a redrive did. */
export interface Redriven {
  /** Stands in the event of every job of this batch. */
  readonly redriveId: string
  /** In the order of their ids. */
  readonly jobs: ReadonlyArray<RedrivenJob>
  /** Jobs of workflow runs that were met: they are left as they are, count towards the limit, and are not met again. */
  readonly workflowJobs: number
  /** Jobs that were passed over because another transaction holds them; 0 if the batch was full before that was known. */
  readonly held: number
  /** Whether the batch was full, so that there may be more. */
  readonly more: boolean
}

/** What {@link redriveDeadLetters} can fail with. */
export type RedriveReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Requeues the oldest dead letters that match, at most `limit`: each job gets a new run with all its attempts, is due at once,
 * and an event that names the redrive. The dead letters stay, but are not redriven again unless their jobs fail for good once
 * more. Call it until there are no `more`; each call is one statement, and costs what its batch costs, however many were
 * redriven before.
 *
 * Jobs of workflow runs are left alone and counted: a run is recovered as a whole, by `Workflows.recover`.
 *
 * Fails with `InvalidArgument`, `UnsupportedIsolation`, or what any write can fail with.
 *
 * Locks the jobs `FOR NO KEY UPDATE SKIP LOCKED`, oldest failure first: who skips never waits, so two redrives at once share the
 * work, and no order can deadlock. Writes jobs, events, and the marks of the dead letters.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const all = Jobs.redriveDeadLetters({
 *   scope: TenantScope.global,
 *   jobType: "email.send",
 *   errorCode: "smtp.down",
 *   reason: "the mail server is back"
 * }).pipe(Effect.repeat({ while: ({ more }) => more }))
 * ```
 */
export const redriveDeadLetters: (
  options: RedriveOptions
) => Effect.Effect<Redriven, QueryError<RedriveReason>, SqlClient> = Effect.fnUntraced(function* (
  options: RedriveOptions
) {
  const { scope, jobType, errorCode, deadLetterReason, failedAfter, failedBefore } = options
  const limit = options.limit ?? 100
  const statePolicy = options.statePolicy ?? "preserve"
  const invalid =
    invalidScope(scope) ??
    (jobType === undefined ? undefined : Args.name("jobType", jobType, maxTypeBytes)) ??
    (errorCode === undefined ? undefined : Args.name("errorCode", errorCode, maxCodeBytes)) ??
    (deadLetterReason === undefined || DeadLetterReason.literals.includes(deadLetterReason)
      ? undefined
      : new InvalidArgument({
          argument: "deadLetterReason",
          rule: `must be one of ${DeadLetterReason.literals.join(", ")}`
        })) ??
    (failedAfter === undefined ? undefined : Args.instant("failedAfter", failedAfter)) ??
    (failedBefore === undefined ? undefined : Args.instant("failedBefore", failedBefore)) ??
    Args.integer("limit", limit, 1, maxBatch) ??
    invalidPolicy(statePolicy) ??
    invalidReason(options.reason)
  if (invalid !== undefined) return yield* invalid
  const redriven = yield* readCommitted("job.unsupported_isolation")(redriveOnce(options, limit, statePolicy))
  if (redriven.jobs.length > 0) yield* markDue(redriven.jobs.map((job) => job.jobType))
  return redriven
}, writing("Jobs.redriveDeadLetters"))

/** How many dead letters a batch looks at beyond its limit, to get past those that others hold. */
const spare = maxBatch

const redriveOnce = Effect.fnUntraced(function* (options: RedriveOptions, limit: number, statePolicy: StatePolicy) {
  const { scope, jobType, errorCode, deadLetterReason, failedAfter, failedBefore } = options
  const { sql, instant } = yield* Sql.clocked
  const none = sql.literal("")
  const owner = scope._tag === "Global" ? "" : scope.organizationId.toLowerCase()
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        t.*,
        jsonb_build_object(
          'reason', t.reason, 'state_policy', ${policyText(statePolicy)}::text, 'requeue_kind', 'DEAD_LETTER_REDRIVE',
          'redrive_id', t.redrive_id
        ) AS event_payload
      FROM (
        SELECT
          ${instant} AS at,
          runledger.uuidv7() AS redrive_id,
          ${Args.diagnostic(options.reason)}::text AS reason,
          ${statePolicy === "reset"}::boolean AS resets
      ) t
    ), candidate AS MATERIALIZED (
      SELECT d.job_id, d.run_number
      FROM runledger.job_dead_letters d
      WHERE d.settled_run_number IS DISTINCT FROM d.run_number
        AND COALESCE(d.organization_id::text, '') = ${owner}
        -- one of them names its index
        AND ${jobType === undefined ? sql.literal("d.attempt > 0") : sql`d.job_type = ${jobType}`}
        ${errorCode === undefined ? none : sql`AND d.error_code = ${errorCode}`}
        ${deadLetterReason === undefined ? none : sql`AND d.reason = ${deadLetterReason}`}
        ${failedAfter === undefined ? none : sql`AND d.failed_at >= ${new Date(failedAfter.epochMilliseconds)}::timestamptz`}
        ${failedBefore === undefined ? none : sql`AND d.failed_at < ${new Date(failedBefore.epochMilliseconds)}::timestamptz`}
      ORDER BY d.failed_at, d.job_id
      LIMIT ${limit + spare}
    ), locked AS MATERIALIZED (
      -- Candidates are read one by one, in their order, until enough are locked. A sort above the locks would take them all.
      SELECT q.*
      FROM candidate c
      CROSS JOIN LATERAL (
        SELECT q.workflow_run_id, ${sql.literal(requeueColumns)}
        FROM runledger.job_queue q
        WHERE q.id = c.job_id
          -- an expression, or the planner would take a partial index by status instead of the primary key
          AND q.status || '' = 'DEAD_LETTERED'
          AND q.run_number = c.run_number
          AND ${sql.literal(isReadCommitted)}
        FOR NO KEY UPDATE SKIP LOCKED
      ) q
      LIMIT ${limit}
    ), requeueing AS (
      SELECT * FROM locked WHERE workflow_run_id IS NULL
    ), ${sql.literal(requeueing)}, ${sql.literal(settling)}, met AS (
      SELECT
        (count(*) = ${limit}::integer) AS is_full,
        count(workflow_run_id)::integer AS workflow_jobs,
        count(*)::integer AS jobs
      FROM locked
    )
    SELECT
      ${sql.literal(isReadCommitted)} AS is_read_committed,
      i.redrive_id, m.is_full, m.workflow_jobs,
      CASE WHEN m.is_full THEN 0 ELSE (SELECT count(*)::integer FROM candidate) - m.jobs END AS held,
      r.id, r.job_type, r.run_number, r.event_seq
    FROM input i
    CROSS JOIN met m
    LEFT JOIN requeued r ON true
    ORDER BY r.id
  `
  const [first] = rows
  if (first?.is_read_committed !== true) return yield* new NotReadCommitted()
  const { redriveId, isFull, workflowJobs, held } = yield* decodeHead(first)
  const jobs: Array<RedrivenJob> = []
  for (const { id: jobId, job_type: type, run_number: runNumber, event_seq: seq } of rows) {
    if (jobId === null) continue
    if (!isJobId(jobId) || !isString(type) || !isNumber(runNumber) || !isNumber(seq)) return yield* new QueryFailed({})
    jobs.push({ jobId, jobType: type, runNumber, seq })
  }
  const redriven: Redriven = { redriveId, jobs, workflowJobs, held, more: isFull }
  return redriven
})

const Head = Schema.Struct({
  redriveId: Schema.String,
  isFull: Schema.Boolean,
  workflowJobs: Schema.Int,
  held: Schema.Int
}).pipe(Schema.encodeKeys({ redriveId: "redrive_id", isFull: "is_full", workflowJobs: "workflow_jobs" }))

const decodeHead = (row: unknown) => Effect.mapError(Schema.decodeUnknownEffect(Head)(row), () => new QueryFailed({}))
