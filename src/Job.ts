/**
 * What is stored about a job: ids, states, and the rows as they are read.
 */
import type * as DateTime from "effect/DateTime"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { Int8, Jsonb, nullable, Timestamptz } from "./internal/columns.ts"

export {
  type AnyContract,
  type Codec,
  Continuation,
  type Contract,
  type ContractOptions,
  type ContractSettings,
  type DeadLetter,
  type Handler,
  type HandlerOptions,
  type Handles,
  JobFailure,
  make,
  type Recorded,
  type RetryNotBefore
} from "./JobContract.ts"

/** Identifies a job. Ids sort by creation. */
export const JobId = Schema.String.check(Schema.isUUID()).pipe(Schema.brand("effect-runledger/JobId"))
export type JobId = typeof JobId.Type

/**
 * Where a job stands. A retry goes back to `PENDING`; that a handler is at work shows in the stage, not here.
 */
export const Status = Schema.Literals(["PENDING", "LEASED", "SUCCEEDED", "DEAD_LETTERED", "CANCELED"])
export type Status = typeof Status.Type

/** How far a job is. */
export const Stage = Schema.Literals(["queued", "scheduled", "running", "completed"])
export type Stage = typeof Stage.Type

/** How an attempt failed. `TERMINAL` and `PANICKED` are never retried. */
export const FailureKind = Schema.Literals(["RETRYABLE", "TERMINAL", "PANICKED", "TIMEOUT", "LEASE_EXPIRED"])
export type FailureKind = typeof FailureKind.Type

/** What ended an attempt. */
export const EndedAs = Schema.Literals(["SUCCEEDED", "FAILED", "CANCELED", "CONTINUED", "LEASE_EXPIRED"])
export type EndedAs = typeof EndedAs.Type

/** Whether the claim also marked the start (`DIRECT`), or was made ahead of it (`WORKER_PRESTART`). */
export const ClaimOrigin = Schema.Literals(["DIRECT", "WORKER_PRESTART"])
export type ClaimOrigin = typeof ClaimOrigin.Type

/** Why a job ended in the dead letters. */
export const DeadLetterReason = Schema.Literals(["FAILURE_KIND_NON_RETRYABLE", "ATTEMPTS_EXHAUSTED", "LEASE_EXPIRED"])
export type DeadLetterReason = typeof DeadLetterReason.Type

/** Whether the retry policy or the handler's lower bound decided when a retry is due. */
export const RetryTimingSource = Schema.Literals(["POLICY", "HANDLER_NOT_BEFORE"])
export type RetryTimingSource = typeof RetryTimingSource.Type

/** What happened to a job. */
export const EventType = Schema.Literals([
  "ENQUEUED",
  "LEASED",
  "STAGE_CHANGED",
  "PROGRESS",
  "RETRY_SCHEDULED",
  "SUCCEEDED",
  "FAILED",
  "DEAD_LETTERED",
  "CANCELED",
  "REQUEUED"
])
export type EventType = typeof EventType.Type

/**
 * The fence of an attempt. Every write of a lease holder takes effect only if job, run, attempt and worker all still match
 * and the lease is live by the database clock.
 */
export interface Lease {
  readonly jobId: JobId
  readonly runNumber: number
  readonly attempt: number
  readonly workerId: string
  /**
   * The workflow run that the job belongs to, as the claim said: no part of the fence, and believed by nobody. It says where
   * a completion looks first, which saves it a statement.
   */
  readonly workflowRunId?: string | undefined
}

/** A job that a worker just claimed: the lease, and what a handler needs. */
export interface ClaimedJob {
  readonly lease: Lease
  readonly jobType: string
  readonly payloadVersion: number
  readonly organizationId: Option.Option<string>
  readonly payload: Schema.Json
  readonly priority: number
  readonly maxAttempts: number
  readonly timeoutSeconds: number
  readonly leaseExpiresAt: DateTime.Utc
  readonly checkpoint: Option.Option<Schema.Json>
  readonly progress: Progress
  readonly createdAt: DateTime.Utc
  readonly workflow: Option.Option<{ readonly runId: string; readonly stepId: string }>
  /** The trace of whoever enqueued it, as W3C trace context. */
  readonly traceParent: Option.Option<string>
}

/** How much is done, as last reported; never negative, `done` at most `total`. */
export interface Progress {
  readonly done: Option.Option<number>
  readonly total: Option.Option<number>
}

/** A job as it is stored. */
export class JobRecord extends Schema.Class<JobRecord>("effect-runledger/JobRecord")({
  id: JobId,
  jobType: Schema.String,
  payloadVersion: Schema.Int,
  organizationId: nullable(Schema.String),
  payload: Jsonb,
  status: Status,
  priority: Schema.Int,
  runNumber: Schema.Int,
  attempt: Schema.Int,
  maxAttempts: Schema.Int,
  timeoutSeconds: Schema.Int,
  nextRunAt: Timestamptz,
  leaseExpiresAt: nullable(Timestamptz),
  lastHeartbeatAt: nullable(Timestamptz),
  workerId: nullable(Schema.String),
  startedAt: nullable(Timestamptz),
  finishedAt: nullable(Timestamptz),
  stage: Stage,
  progressDone: nullable(Int8),
  progressTotal: nullable(Int8),
  progressPct: nullable(Schema.Number),
  checkpoint: nullable(Jsonb),
  output: nullable(Jsonb),
  idempotencyKey: nullable(Schema.String),
  executionResourceKey: nullable(Schema.String),
  statusReason: nullable(Schema.String),
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String),
  workflowRunId: nullable(Schema.String),
  workflowStepId: nullable(Schema.String),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {
  /** Whether nothing more happens to this run by itself. */
  get isTerminal(): boolean {
    return this.status !== "PENDING" && this.status !== "LEASED"
  }
}

/** A row of `job_queue`, selected with {@link jobColumns}. */
export const JobRow = JobRecord.pipe(
  Schema.encodeKeys({
    jobType: "job_type",
    payloadVersion: "payload_version",
    organizationId: "organization_id",
    runNumber: "run_number",
    maxAttempts: "max_attempts",
    timeoutSeconds: "timeout_seconds",
    nextRunAt: "next_run_at",
    leaseExpiresAt: "lease_expires_at",
    lastHeartbeatAt: "last_heartbeat_at",
    workerId: "worker_id",
    startedAt: "started_at",
    finishedAt: "finished_at",
    progressDone: "progress_done",
    progressTotal: "progress_total",
    progressPct: "progress_pct",
    idempotencyKey: "idempotency_key",
    executionResourceKey: "execution_resource_key",
    statusReason: "status_reason",
    lastErrorCode: "last_error_code",
    lastErrorMessage: "last_error_message",
    workflowRunId: "workflow_run_id",
    workflowStepId: "workflow_step_id",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

/** The columns of {@link JobRow}. */
export const jobColumns = `
  id, job_type, payload_version, organization_id, payload, status, priority, run_number, attempt, max_attempts,
  timeout_seconds, next_run_at, lease_expires_at, last_heartbeat_at, worker_id, started_at, finished_at, stage,
  progress_done, progress_total,
  CASE WHEN progress_total > 0 THEN round(progress_done * 100.0 / progress_total, 2)::float8 END AS progress_pct,
  checkpoint, output, idempotency_key, execution_resource_key, status_reason, last_error_code,
  last_error_message, workflow_run_id, workflow_step_id, created_at, updated_at`
