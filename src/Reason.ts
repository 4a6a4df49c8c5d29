/**
 * Why an operation failed: one tagged class per failure.
 *
 * Each has a stable `code` to branch on outside the type system, one `category`, a `message` that is safe to show to a
 * client (never SQL, parameters, payloads or keys), and `transactionUsable`: whether a caller's transaction can go on
 * after the error was caught. Domain outcomes are decided in the result of a statement, never by raising, so they leave the
 * transaction as it was; an error of the database aborts it.
 */
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type { SqlError } from "effect/sql/SqlError"
import type { DefinitionReason } from "./DefinitionReason.ts"
import type { JobIntentReason } from "./JobIntentReason.ts"
import type { RecoveryReason } from "./RecoveryReason.ts"
import type { RuntimeConfigReason } from "./RuntimeConfigReason.ts"
import type { ScheduleReason } from "./ScheduleReason.ts"
import type { WorkflowReason } from "./WorkflowReason.ts"

/**
 * What kind of failure a reason is.
 *
 * `Unavailable`: nothing was written; a retry may help. `OutcomeUnknown`: the connection was lost after a write was sent, or
 * a commit was not acknowledged; repeat only what is idempotent, or read first. `Internal`: a fault on our side or the
 * database's.
 */
export type Category =
  | "Conflict"
  | "Validation"
  | "Forbidden"
  | "NotFound"
  | "Unavailable"
  | "OutcomeUnknown"
  | "Internal"

/** `Schema` of {@link Category}. */
export const Category = Schema.Literals([
  "Conflict",
  "Validation",
  "Forbidden",
  "NotFound",
  "Unavailable",
  "OutcomeUnknown",
  "Internal"
])

const lease = { jobId: Schema.String, runNumber: Schema.Number, attempt: Schema.Number }

// ---------------------------------------------------------------------------------------------------------------------
// Requests that are refused before anything is written
// ---------------------------------------------------------------------------------------------------------------------

/** An argument breaks a rule. The value itself is not kept: it may be a key or a payload. */
export class InvalidArgument extends Schema.TaggedError<InvalidArgument>("effect-runledger/InvalidArgument")(
  "InvalidArgument",
  { argument: Schema.String, rule: Schema.String }
) {
  readonly code = "job.invalid_argument"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `${this.argument} ${this.rule}`
  }
}

/** A lease is not longer than zero, or longer than 2,147,483,647 milliseconds. */
export class InvalidLeaseDuration extends Schema.TaggedError<InvalidLeaseDuration>(
  "effect-runledger/InvalidLeaseDuration"
)("InvalidLeaseDuration", {}) {
  readonly code = "job.invalid_lease_duration"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "A lease must last between 1 and 2,147,483,647 milliseconds"
  }
}

/** A page asks for fewer than 1 or more than 1,000 rows. */
export class InvalidPagination extends Schema.TaggedError<InvalidPagination>("effect-runledger/InvalidPagination")(
  "InvalidPagination",
  {}
) {
  readonly code = "job.invalid_pagination"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "A page holds between 1 and 1,000 rows"
  }
}

/** Progress is negative, not whole, or `done` exceeds `total`, alone or together with what is stored. */
export class InvalidProgress extends Schema.TaggedError<InvalidProgress>("effect-runledger/InvalidProgress")(
  "InvalidProgress",
  {}
) {
  readonly code = "job.invalid_progress"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "Progress must be whole numbers of at least 0, and done at most total"
  }
}

/** The progress that comes with a completion or continuation is invalid, alone or together with what is stored. */
export class InvalidCompletionProgress extends Schema.TaggedError<InvalidCompletionProgress>(
  "effect-runledger/InvalidCompletionProgress"
)("InvalidCompletionProgress", {}) {
  readonly code = "job.invalid_completion_progress"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "Final progress must be whole numbers of at least 0, and done at most total"
  }
}

/** The delay of a continuation is negative, infinite, or longer than 100 years. */
export class InvalidContinuationDelay extends Schema.TaggedError<InvalidContinuationDelay>(
  "effect-runledger/InvalidContinuationDelay"
)("InvalidContinuationDelay", {}) {
  readonly code = "job.invalid_continuation_delay"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "A continuation is delayed by 0 to 36,525 days"
  }
}

/** The lower bound that a failure sets for its retry is not representable: negative, or more than 2,147,483,647 ms away. */
export class InvalidRetryTiming extends Schema.TaggedError<InvalidRetryTiming>("effect-runledger/InvalidRetryTiming")(
  "InvalidRetryTiming",
  {}
) {
  readonly code = "job.invalid_retry_timing"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "A retry can be held back by at most 2,147,483,647 milliseconds, or until a representable instant"
  }
}

/** The caller's transaction is not READ COMMITTED; what other transactions commit must be visible to the operation. */
export class UnsupportedIsolation extends Schema.TaggedError<UnsupportedIsolation>(
  "effect-runledger/UnsupportedIsolation"
)("UnsupportedIsolation", {
  code: Schema.Literals([
    "job.compare_and_replay_unsupported_isolation",
    "job.compare_and_requeue_unsupported_isolation",
    "job.enqueue_idempotency_unsupported_isolation",
    "job.intent_idempotency_unsupported_isolation",
    "job.intent_retention_unsupported_isolation",
    "job.unsupported_isolation",
    "workflow.append_unsupported_isolation",
    "workflow.cancel_unsupported_isolation",
    "workflow.enqueue_idempotency_unsupported_isolation",
    "workflow.external_completion_unsupported_isolation",
    "workflow.recovery_unsupported_isolation",
    "workflow.terminal_completion_unsupported_isolation"
  ])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "The operation needs a READ COMMITTED transaction"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Enqueue
// ---------------------------------------------------------------------------------------------------------------------

/** No definition of this job type exists, or it is disabled. */
export class DefinitionUnavailable extends Schema.TaggedError<DefinitionUnavailable>(
  "effect-runledger/DefinitionUnavailable"
)("DefinitionUnavailable", { jobType: Schema.String, state: Schema.Literals(["missing", "disabled"]) }) {
  readonly code = "job.definition_not_found_or_disabled"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `The definition of job type ${this.jobType} is ${this.state}`
  }
}

/** The idempotency key belongs to a job that was enqueued with a different request. */
export class IdempotencyConflict extends Schema.TaggedError<IdempotencyConflict>(
  "effect-runledger/IdempotencyConflict"
)("IdempotencyConflict", { jobId: Schema.String, fields: Schema.Array(Schema.String) }) {
  readonly code = "job.idempotency_conflict"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return `The idempotency key belongs to another request; different: ${this.fields.join(", ")}`
  }
}

/** The idempotency key belongs to a job whose request was never recorded, so the two cannot be compared. */
export class IdempotencySnapshotMissing extends Schema.TaggedError<IdempotencySnapshotMissing>(
  "effect-runledger/IdempotencySnapshotMissing"
)("IdempotencySnapshotMissing", { jobId: Schema.String }) {
  readonly code = "job.legacy_idempotency_snapshot_missing"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return "The idempotency key belongs to a job without a recorded request"
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Leases
// ---------------------------------------------------------------------------------------------------------------------

/** This worker does not hold the lease: another run, attempt or worker does, nobody does, or it has expired. */
export class LeaseOwnerMismatch extends Schema.TaggedError<LeaseOwnerMismatch>("effect-runledger/LeaseOwnerMismatch")(
  "LeaseOwnerMismatch",
  lease
) {
  readonly code = "job.lease_owner_mismatch"
  readonly category = "Forbidden"
  readonly transactionUsable = true
  override get message(): string {
    return `Attempt ${this.attempt} of run ${this.runNumber} does not hold the lease of the job`
  }
}

/** The claim was not made for prefetching, or its attempt has started: it can no longer be taken back. */
export class UnstartedClaimReleaseNotApplicable extends Schema.TaggedError<UnstartedClaimReleaseNotApplicable>(
  "effect-runledger/UnstartedClaimReleaseNotApplicable"
)("UnstartedClaimReleaseNotApplicable", lease) {
  readonly code = "job.unstarted_claim_release_not_applicable"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `Attempt ${this.attempt} of run ${this.runNumber} is not an unstarted claim`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Jobs by id
// ---------------------------------------------------------------------------------------------------------------------

/** No job with this id exists in the scope. */
export class JobNotFound extends Schema.TaggedError<JobNotFound>("effect-runledger/JobNotFound")("JobNotFound", {
  jobId: Schema.String
}) {
  readonly code = "job.not_found"
  readonly category = "NotFound"
  readonly transactionUsable = true
  override get message(): string {
    return "The job does not exist in this scope"
  }
}

/** The job exists, but its status does not allow the operation. */
export class InvalidStateTransition extends Schema.TaggedError<InvalidStateTransition>(
  "effect-runledger/InvalidStateTransition"
)("InvalidStateTransition", { jobId: Schema.String, status: Schema.String }) {
  readonly code = "job.invalid_state_transition"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `The job is ${this.status}`
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The database
// ---------------------------------------------------------------------------------------------------------------------

/** What the database said, for trusted diagnostics: unwrap with `Redacted.value`. It never shows by itself. */
export type Source = Redacted.Redacted<SqlError> | undefined

/**
 * The database cannot serve the request now, and nothing was written: no connection, a lock that was not free in time, a
 * deadlock or serialization failure, a shutdown, a read-only server. A retry may help.
 */
export class Unavailable extends Schema.TaggedError<Unavailable>("effect-runledger/Unavailable")("Unavailable", {
  /** `busy`: a row stayed locked by another transaction, and no statement failed. `database`: the server or driver said no. */
  origin: Schema.Literals(["busy", "database"]),
  sqlState: Schema.optional(Schema.String)
}) {
  readonly code = "db.unavailable"
  readonly category = "Unavailable"
  source: Source
  get transactionUsable(): boolean {
    return this.origin === "busy"
  }
  override get message(): string {
    return this.origin === "busy" ? "The row stayed locked by another transaction" : "The database is not available"
  }
}

/** The connection was lost after a write was sent, or a commit was not acknowledged: it may or may not have happened. */
export class OutcomeUnknown extends Schema.TaggedError<OutcomeUnknown>("effect-runledger/OutcomeUnknown")(
  "OutcomeUnknown",
  { sqlState: Schema.optional(Schema.String) }
) {
  readonly code = "db.transaction_commit_unconfirmed"
  readonly category = "OutcomeUnknown"
  readonly transactionUsable = false
  source: Source
  override get message(): string {
    return "The database did not confirm the write"
  }
}

/** A constraint of the schema, ours or the application's, refused the write. `code` says which; see `FrameworkConstraint`. */
export class ConstraintViolation extends Schema.TaggedError<ConstraintViolation>(
  "effect-runledger/ConstraintViolation"
)("ConstraintViolation", {
  code: Schema.String,
  category: Category,
  clientMessage: Schema.String,
  constraint: Schema.optional(Schema.String),
  sqlState: Schema.optional(Schema.String)
}) {
  readonly transactionUsable = false
  source: Source
  override get message(): string {
    return this.clientMessage
  }
}

/** The database role lacks a privilege, or could not log in. */
export class PermissionDenied extends Schema.TaggedError<PermissionDenied>("effect-runledger/PermissionDenied")(
  "PermissionDenied",
  { sqlState: Schema.optional(Schema.String) }
) {
  readonly code = "db.permission_denied"
  readonly category = "Forbidden"
  readonly transactionUsable = false
  source: Source
  override get message(): string {
    return "The database role may not do this"
  }
}

/** The database, or the row that it returned, failed in a way that no other reason names. */
export class QueryFailed extends Schema.TaggedError<QueryFailed>("effect-runledger/QueryFailed")("QueryFailed", {
  sqlState: Schema.optional(Schema.String)
}) {
  readonly code = "db.query_failed"
  readonly category = "Internal"
  readonly transactionUsable = false
  source: Source
  override get message(): string {
    return "The database operation failed"
  }
}

/** What any read can fail with. */
export type ReadReason = Unavailable | PermissionDenied | QueryFailed

/** What any write can fail with. */
export type WriteReason = ReadReason | OutcomeUnknown | ConstraintViolation

/** Every reason there is. */
export type Reason =
  | InvalidArgument
  | InvalidLeaseDuration
  | InvalidPagination
  | InvalidProgress
  | InvalidCompletionProgress
  | InvalidContinuationDelay
  | InvalidRetryTiming
  | UnsupportedIsolation
  | DefinitionUnavailable
  | DefinitionReason
  | IdempotencyConflict
  | IdempotencySnapshotMissing
  | LeaseOwnerMismatch
  | UnstartedClaimReleaseNotApplicable
  | JobNotFound
  | InvalidStateTransition
  | RecoveryReason
  | JobIntentReason
  | WorkflowReason
  | RuntimeConfigReason
  | ScheduleReason
  | WriteReason
