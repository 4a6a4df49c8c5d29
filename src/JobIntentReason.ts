/**
 * Why an operation on intents failed; see `Reason.ts`.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** What identifies an intent, or a limit that it sets, breaks a rule. */
export class InvalidIntent extends Schema.TaggedError<InvalidIntent>(`${prefix}/InvalidIntent`)("InvalidIntent", {
  /** Which argument; of a batch, with its place. The value itself is not kept. */
  argument: Schema.String,
  rule: Schema.String,
  code: Schema.Literals([
    "job.invalid_job_type",
    "job.intent_invalid_idempotency_key",
    "job.intent_invalid_max_attempts",
    "job.intent_invalid_timeout"
  ])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `${this.argument} ${this.rule}`
  }
}

/** The idempotency key belongs to an intent with a different request. */
export class IntentConflict extends Schema.TaggedError<IntentConflict>(`${prefix}/IntentConflict`)("IntentConflict", {
  intentId: Schema.String,
  fields: Schema.Array(Schema.String)
}) {
  readonly code = "job.intent_idempotency_conflict"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return `The idempotency key belongs to another intent; different: ${this.fields.join(", ")}`
  }
}

/** More than 1,000 jobs were named at once. */
export class IntentRetentionTooLarge extends Schema.TaggedError<IntentRetentionTooLarge>(
  `${prefix}/IntentRetentionTooLarge`
)("IntentRetentionTooLarge", {}) {
  readonly code = "job.intent_retention_batch_too_large"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "The intents of at most 1,000 jobs are deleted at once"
  }
}

/** Every reason that only intents raise. */
export type JobIntentReason = InvalidIntent | IntentConflict | IntentRetentionTooLarge
