/**
 * An intent: a request for a job that becomes one when its type is declared and enabled.
 */
import * as Schema from "effect/Schema"
import { Int8, Jsonb, nullable, Timestamptz } from "./internal/columns.ts"
import { JobId, Stage } from "./Job.ts"

/** Identifies an intent: a UUIDv7, so ids sort by creation. */
export const IntentId = Schema.String.check(Schema.isUUID()).pipe(Schema.brand("effect-runledger/IntentId"))
export type IntentId = typeof IntentId.Type

/**
 * Where an intent stands: `PENDING` until it leads to a job; `PROMOTED` since then; `CONFLICTED` if its key belongs to a job that
 * was requested differently, or if it cannot be enqueued at all. The last two are final.
 */
export const IntentStatus = Schema.Literals(["PENDING", "PROMOTED", "CONFLICTED"])
export type IntentStatus = typeof IntentStatus.Type

const summary = {
  id: IntentId,
  jobType: Schema.String,
  payloadVersion: Schema.Int,
  organizationId: nullable(Schema.String),
  idempotencyKey: Schema.String,
  status: IntentStatus,
  /** How often a promotion ended in this state or was put off. */
  promotionAttempts: Schema.Int,
  /** When it is tried (again); of no meaning unless it is `PENDING`. */
  nextPromotionAt: Timestamptz,
  lastAttemptedAt: nullable(Timestamptz),
  promotedJobId: nullable(JobId),
  promotedAt: nullable(Timestamptz),
  conflictedAt: nullable(Timestamptz),
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}

const summaryKeys = {
  jobType: "job_type",
  payloadVersion: "payload_version",
  organizationId: "organization_id",
  idempotencyKey: "idempotency_key",
  promotionAttempts: "promotion_attempts",
  nextPromotionAt: "next_promotion_at",
  lastAttemptedAt: "last_attempted_at",
  promotedJobId: "promoted_job_id",
  promotedAt: "promoted_at",
  conflictedAt: "conflicted_at",
  lastErrorCode: "last_error_code",
  lastErrorMessage: "last_error_message",
  createdAt: "created_at",
  updatedAt: "updated_at"
} as const

/** An intent without what its job is given. */
export class JobIntentSummary extends Schema.Class<JobIntentSummary>("effect-runledger/JobIntentSummary")(summary) {}

/** An intent as it is stored. What is `None` was not given: the definition decides when the intent is promoted. */
export class JobIntent extends Schema.Class<JobIntent>("effect-runledger/JobIntent")({
  ...summary,
  payload: Jsonb,
  priority: nullable(Schema.Int),
  maxAttempts: nullable(Schema.Int),
  timeoutSeconds: nullable(Schema.Int),
  nextRunAt: nullable(Timestamptz),
  /** Counted from `createdAt`. */
  delayMillis: nullable(Int8),
  stage: Stage
}) {}

/** A row of `job_enqueue_intents`, selected with {@link intentSummaryColumns}. */
export const JobIntentSummaryRow = JobIntentSummary.pipe(Schema.encodeKeys(summaryKeys))

/** A row of `job_enqueue_intents`, selected with {@link intentColumns}. */
export const JobIntentRow = JobIntent.pipe(
  Schema.encodeKeys({
    ...summaryKeys,
    maxAttempts: "max_attempts",
    timeoutSeconds: "timeout_seconds",
    nextRunAt: "next_run_at",
    delayMillis: "delay_ms"
  })
)

/** The columns of {@link JobIntentSummaryRow}. */
export const intentSummaryColumns = `
  id, job_type, payload_version, organization_id, idempotency_key, status, promotion_attempts, next_promotion_at,
  last_attempted_at, promoted_job_id, promoted_at, conflicted_at, last_error_code, last_error_message, created_at, updated_at`

/** The columns of {@link JobIntentRow}. */
export const intentColumns = `${intentSummaryColumns}, payload, priority, max_attempts, timeout_seconds, next_run_at, delay_ms,
  stage`
