import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { Int8, Jsonb, nullable, Timestamptz } from "../internal/columns.ts"
import { invalidLimit } from "../internal/page.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { ClaimOrigin, DeadLetterReason, EndedAs, EventType, FailureKind, JobId, RetryTimingSource } from "../Job.ts"
import { type QueryError, reading } from "../QueryError.ts"
import type { TenantScope } from "../TenantScope.ts"
import { maxTypeBytes } from "./limits.ts"
import type { ListReason } from "./read.ts"

/** Something that happened to a job. `seq` is its order and the cursor of pages. */
export class JobEvent extends Schema.Class<JobEvent>("effect-runledger/JobEvent")({
  seq: Schema.Int,
  runNumber: Schema.Int,
  attempt: nullable(Schema.Int),
  type: EventType,
  stage: nullable(Schema.String),
  progressDone: nullable(Int8),
  progressTotal: nullable(Int8),
  payload: Jsonb,
  occurredAt: Timestamptz
}) {}

const decodeEvents = Schema.decodeUnknownEffect(
  Schema.Array(
    JobEvent.pipe(
      Schema.encodeKeys({
        runNumber: "run_number",
        type: "event_type",
        progressDone: "progress_done",
        progressTotal: "progress_total",
        occurredAt: "occurred_at"
      })
    )
  )
)

/** Which page of a job's events. */
export interface EventsOptions {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The `seq` of the last event of the page before. */
  readonly after?: number | undefined
}

/**
 * What happened to a job, in order. Most of it is derived from job and attempts, which are written anyway.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, cursor), or what any read can fail with; a job that is not
 * in the scope has no events. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const history = Jobs.events(TenantScope.admin, jobId, { limit: 50 })
 * ```
 */
export const events: (
  scope: TenantScope,
  jobId: JobId,
  options?: EventsOptions
) => Effect.Effect<ReadonlyArray<JobEvent>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobId: JobId,
  options?: EventsOptions
) {
  const limit = options?.limit ?? 100
  const after = options?.after ?? 0
  const invalid =
    invalidLimit(limit) ?? invalidScope(scope) ?? Args.uuid("jobId", jobId) ?? Args.integer("after", after, 0)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      WITH job AS MATERIALIZED (
        SELECT q.*
        FROM runledger.job_queue q
        WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
      ), stored AS MATERIALIZED (
        SELECT e.*
        FROM job j
        JOIN runledger.job_events e ON e.job_id = j.id
        WHERE e.seq > ${after} OR e.seq = 1
        ORDER BY e.seq
        LIMIT ${limit} + 1
      ), attempt AS MATERIALIZED (
        SELECT
          a.run_number, a.attempt, a.worker_id, a.leased_at, a.lease_ms, a.started_at, a.renewed, a.finished_at,
          a.ended_as, a.outcome, a.error_code, a.error_message, a.retry_delay_ms, a.requested_retry_not_before,
          a.effective_next_run_at, a.retry_timing_source, a.leased_seq, a.started_seq, a.ended_seq
        FROM job j
        JOIN runledger.job_attempts a ON a.job_id = j.id
        WHERE GREATEST(a.leased_seq, a.started_seq, a.ended_seq + 1) > ${after}
        UNION ALL
        SELECT
          j.run_number, j.attempt, j.worker_id, j.leased_at, j.lease_ms, j.attempt_started_at, j.renewed, NULL,
          NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, j.leased_seq, j.started_seq, NULL
        FROM job j
        WHERE j.status = 'LEASED'
      ), first_stage AS MATERIALIZED (
        SELECT COALESCE((SELECT e.stage FROM stored e WHERE e.seq = 1), 'queued') AS stage
      ), event (seq, run_number, attempt, event_type, stage, progress_done, progress_total, payload, occurred_at) AS (
        SELECT
          1, 1, NULL::integer, 'ENQUEUED', f.stage, NULL::bigint, NULL::bigint,
          jsonb_build_object('job_type', j.job_type) || COALESCE((SELECT e.payload FROM stored e WHERE e.seq = 1), '{}'),
          j.created_at
        FROM job j
        CROSS JOIN first_stage f
        UNION ALL
        SELECT
          a.leased_seq, a.run_number, a.attempt, 'LEASED',
          CASE WHEN a.run_number = 1 AND a.attempt = 1 THEN f.stage ELSE 'queued' END, NULL, NULL,
          jsonb_build_object('worker_id', a.worker_id, 'lease_duration_seconds', a.lease_ms / 1000.0),
          a.leased_at
        FROM attempt a
        CROSS JOIN first_stage f
        UNION ALL
        SELECT a.started_seq, a.run_number, a.attempt, 'STAGE_CHANGED', 'running', NULL, NULL, '{}', a.started_at
        FROM attempt a
        WHERE a.started_seq IS NOT NULL
        UNION ALL
        SELECT
          a.ended_seq, a.run_number, a.attempt, 'SUCCEEDED', 'completed', j.progress_done, j.progress_total, '{}',
          a.finished_at
        FROM attempt a
        CROSS JOIN job j
        WHERE a.ended_as = 'SUCCEEDED'
        UNION ALL
        SELECT
          a.ended_seq, a.run_number, a.attempt, 'FAILED', NULL, NULL, NULL,
          jsonb_strip_nulls(jsonb_build_object(
            'kind', a.outcome,
            'error_code', a.error_code,
            'error_message', a.error_message,
            'started_without_renewal_heartbeat',
            CASE WHEN a.ended_as = 'LEASE_EXPIRED' THEN a.started_at IS NOT NULL AND NOT a.renewed END
          )),
          a.finished_at
        FROM attempt a
        WHERE a.outcome IS NOT NULL
        UNION ALL
        SELECT
          a.ended_seq + 1, a.run_number, a.attempt, 'RETRY_SCHEDULED', 'queued', NULL, NULL,
          jsonb_strip_nulls(jsonb_build_object(
            'kind', a.outcome,
            'retry_delay_ms', a.retry_delay_ms,
            'requested_retry_not_before', a.requested_retry_not_before,
            'requested_retry_at', a.requested_retry_not_before,
            'effective_next_run_at', a.effective_next_run_at,
            'next_run_at', a.effective_next_run_at,
            'retry_timing_source', a.retry_timing_source,
            'started_without_renewal_heartbeat',
            CASE WHEN a.ended_as = 'LEASE_EXPIRED' THEN a.started_at IS NOT NULL AND NOT a.renewed END
          )),
          a.finished_at
        FROM attempt a
        WHERE a.outcome IS NOT NULL AND a.effective_next_run_at IS NOT NULL
        UNION ALL
        SELECT
          a.ended_seq + 1, a.run_number, a.attempt, 'DEAD_LETTERED', NULL, NULL, NULL,
          jsonb_strip_nulls(jsonb_build_object(
            'kind', a.outcome,
            'error_code', a.error_code,
            'started_without_renewal_heartbeat',
            CASE WHEN a.ended_as = 'LEASE_EXPIRED' THEN a.started_at IS NOT NULL AND NOT a.renewed END
          )),
          a.finished_at
        FROM attempt a
        WHERE a.outcome IS NOT NULL AND a.effective_next_run_at IS NULL
        UNION ALL
        SELECT
          e.seq, e.run_number, e.attempt, e.event_type, e.stage, e.progress_done, e.progress_total, e.payload, e.occurred_at
        FROM stored e
        WHERE e.seq > 1
      )
      SELECT * FROM event WHERE seq > ${after} ORDER BY seq LIMIT ${limit}
    `
  return yield* decodeEvents(rows)
}, reading("Jobs.events"))

/** An attempt of a job; `endedAs` is `None` while it is under way. */
export class Attempt extends Schema.Class<Attempt>("effect-runledger/Attempt")({
  runNumber: Schema.Int,
  attempt: Schema.Int,
  workerId: Schema.String,
  claimOrigin: ClaimOrigin,
  leasedAt: Timestamptz,
  startedAt: nullable(Timestamptz),
  /** Whether the lease was renewed after the start. */
  renewed: Schema.Boolean,
  finishedAt: nullable(Timestamptz),
  endedAs: nullable(EndedAs),
  /** How it failed; `None` unless it did. */
  outcome: nullable(FailureKind),
  errorCode: nullable(Schema.String),
  errorMessage: nullable(Schema.String),
  /** The error itself, as JSON; `Jobs.outcome` gives the last one typed. */
  error: nullable(Jsonb),
  /** What the retry policy said, even if the handler's lower bound decided. */
  retryDelayMillis: nullable(Schema.Int),
  requestedRetryNotBefore: nullable(Timestamptz),
  effectiveNextRunAt: nullable(Timestamptz),
  retryTimingSource: nullable(RetryTimingSource)
}) {}

const decodeAttempts = Schema.decodeUnknownEffect(
  Schema.Array(
    Attempt.pipe(
      Schema.encodeKeys({
        runNumber: "run_number",
        workerId: "worker_id",
        claimOrigin: "claim_origin",
        leasedAt: "leased_at",
        startedAt: "started_at",
        finishedAt: "finished_at",
        endedAs: "ended_as",
        errorCode: "error_code",
        errorMessage: "error_message",
        retryDelayMillis: "retry_delay_ms",
        requestedRetryNotBefore: "requested_retry_not_before",
        effectiveNextRunAt: "effective_next_run_at",
        retryTimingSource: "retry_timing_source"
      })
    )
  )
)

/** Which page of a job's attempts. */
export interface AttemptsOptions {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** Run and attempt of the last row of the page before. */
  readonly after?: { readonly runNumber: number; readonly attempt: number } | undefined
}

/**
 * The attempts of a job, oldest first, the one under way included.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, cursor), or what any read can fail with; a job that is not
 * in the scope has none. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const attempts = Jobs.attempts(TenantScope.admin, jobId)
 * ```
 */
export const attempts: (
  scope: TenantScope,
  jobId: JobId,
  options?: AttemptsOptions
) => Effect.Effect<ReadonlyArray<Attempt>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobId: JobId,
  options?: AttemptsOptions
) {
  const limit = options?.limit ?? 100
  const after = options?.after ?? { runNumber: 0, attempt: 0 }
  const invalid =
    invalidLimit(limit) ??
    invalidScope(scope) ??
    Args.uuid("jobId", jobId) ??
    Args.integer("after.runNumber", after.runNumber, 0) ??
    Args.integer("after.attempt", after.attempt, 0)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      WITH job AS MATERIALIZED (
        SELECT q.*
        FROM runledger.job_queue q
        WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "q")}
      ), ended AS (
        SELECT
          a.run_number, a.attempt, a.worker_id, a.claim_origin, a.leased_at, a.started_at, a.renewed, a.finished_at,
          a.ended_as, a.outcome, a.error_code, a.error_message, a.error, a.retry_delay_ms,
          a.requested_retry_not_before, a.effective_next_run_at, a.retry_timing_source
        FROM runledger.job_attempts a
        WHERE a.job_id = (SELECT id FROM job) AND (a.run_number, a.attempt) > (${after.runNumber}, ${after.attempt})
        ORDER BY a.run_number, a.attempt
        LIMIT ${limit}
      ), live AS (
        SELECT
          j.run_number, j.attempt, j.worker_id, j.claim_origin, j.leased_at, j.attempt_started_at, j.renewed,
          NULL::timestamptz, NULL, NULL, NULL, NULL, NULL::jsonb, NULL::integer, NULL::timestamptz, NULL::timestamptz, NULL
        FROM job j
        WHERE j.status = 'LEASED' AND (j.run_number, j.attempt) > (${after.runNumber}, ${after.attempt})
      )
      SELECT * FROM ended
      UNION ALL
      SELECT * FROM live
      ORDER BY run_number, attempt
      LIMIT ${limit}
    `
  return yield* decodeAttempts(rows)
}, reading("Jobs.attempts"))

/** The last dead letter of a job; it stays when the job is requeued. */
export class DeadLetter extends Schema.Class<DeadLetter>("effect-runledger/DeadLetter")({
  jobId: JobId,
  jobType: Schema.String,
  organizationId: nullable(Schema.String),
  runNumber: Schema.Int,
  attempt: Schema.Int,
  reason: DeadLetterReason,
  failureKind: FailureKind,
  errorCode: nullable(Schema.String),
  errorMessage: nullable(Schema.String),
  payload: Jsonb,
  checkpoint: nullable(Jsonb),
  failedAt: Timestamptz
}) {}

const decodeDeadLetters = Schema.decodeUnknownEffect(
  Schema.Array(
    DeadLetter.pipe(
      Schema.encodeKeys({
        jobId: "job_id",
        jobType: "job_type",
        organizationId: "organization_id",
        runNumber: "run_number",
        failureKind: "failure_kind",
        errorCode: "error_code",
        errorMessage: "error_message",
        payload: "payload_snapshot",
        checkpoint: "checkpoint_snapshot",
        failedAt: "failed_at"
      })
    )
  )
)

/** Which page of dead letters. */
export interface DeadLettersOptions {
  readonly scope: TenantScope
  /** Exactly this type. */
  readonly jobType?: string | undefined
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** Time and job of the last row of the page before. That row need not exist any more. */
  readonly before?: { readonly failedAt: DateTime.Utc; readonly jobId: JobId } | undefined
}

/**
 * The dead letters, latest first: what failed for good, why, and with what payload.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, type, cursor), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const failed = Jobs.deadLetters({ scope: TenantScope.admin, jobType: "email.send", limit: 20 })
 * ```
 */
export const deadLetters: (
  options: DeadLettersOptions
) => Effect.Effect<ReadonlyArray<DeadLetter>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* ({
  scope,
  jobType,
  limit = 100,
  before
}: DeadLettersOptions) {
  const invalid =
    invalidLimit(limit) ??
    invalidScope(scope) ??
    (jobType === undefined ? undefined : Args.name("jobType", jobType, maxTypeBytes)) ??
    (before === undefined
      ? undefined
      : (Args.uuid("before.jobId", before.jobId) ?? Args.instant("before.failedAt", before.failedAt)))
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      SELECT
        d.job_id, d.job_type, d.organization_id, d.run_number, d.attempt, d.reason, d.failure_kind, d.error_code,
        d.error_message, d.payload_snapshot, d.checkpoint_snapshot, d.failed_at
      FROM runledger.job_dead_letters d
      WHERE ${inScope(sql, scope, "d")}
        ${jobType === undefined ? sql.literal("") : sql`AND d.job_type = ${jobType}`}
        ${
          before === undefined
            ? sql.literal("")
            : sql`AND (d.failed_at, d.job_id) < (${new Date(before.failedAt.epochMilliseconds)}::timestamptz, ${before.jobId}::uuid)`
        }
      ORDER BY d.failed_at DESC, d.job_id DESC
      LIMIT ${limit}
    `
  return yield* decodeDeadLetters(rows)
}, reading("Jobs.deadLetters"))
