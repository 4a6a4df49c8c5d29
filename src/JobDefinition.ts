/**
 * What is declared about a job type: defaults for new jobs, and the retry policy.
 */
import * as Schema from "effect/Schema"
import { Timestamptz } from "./internal/columns.ts"

/** A declared job type as it is stored. */
export class JobDefinition extends Schema.Class<JobDefinition>("effect-runledger/JobDefinition")({
  jobType: Schema.String,
  version: Schema.Int,
  maxAttempts: Schema.Int,
  timeoutSeconds: Schema.Int,
  priority: Schema.Int,
  isEnabled: Schema.Boolean,
  retryInitialMillis: Schema.Int,
  retryFactor: Schema.Number,
  retryMaxMillis: Schema.Int,
  retryJitter: Schema.Number,
  /** Failure code to delay in milliseconds. */
  retryOverrides: Schema.Record(Schema.String, Schema.Int),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {}

/** A row of `job_definitions`, selected with {@link definitionColumns}. */
export const DefinitionRow = JobDefinition.pipe(
  Schema.encodeKeys({
    jobType: "job_type",
    maxAttempts: "max_attempts",
    timeoutSeconds: "default_timeout_seconds",
    priority: "default_priority",
    isEnabled: "is_enabled",
    retryInitialMillis: "retry_initial_ms",
    retryFactor: "retry_factor",
    retryMaxMillis: "retry_max_ms",
    retryJitter: "retry_jitter",
    retryOverrides: "retry_overrides",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

/** The columns of {@link DefinitionRow}. */
export const definitionColumns = `
  job_type, version, max_attempts, default_timeout_seconds, default_priority, is_enabled, retry_initial_ms, retry_factor,
  retry_max_ms, retry_jitter, retry_overrides, created_at, updated_at`
