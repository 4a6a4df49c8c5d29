/**
 * Why an operation on workflows failed; see `Reason.ts`.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** The rules of a graph, in the order in which they are checked; the names are the codes without `workflow.`. */
export const GraphRule = Schema.Literals([
  "invalid_dag_idempotency_key_blank",
  "invalid_dag_active_key_blank",
  "invalid_dag_active_key_too_long",
  "invalid_dag_result_step_key_blank",
  "invalid_dag_workflow_type_blank",
  "invalid_dag_empty",
  "invalid_dag_step_key_blank",
  "invalid_dag_job_type_blank",
  "invalid_dag_step_max_attempts_non_positive",
  "invalid_dag_step_timeout_seconds_non_positive",
  "invalid_dag_step_execution_resource_key",
  "invalid_dag_external_step_job_type_not_allowed",
  "invalid_dag_external_step_queue_settings_not_allowed",
  "invalid_dag_duplicate_step_key",
  "invalid_dag_dependency_step_key_blank",
  "invalid_dag_self_dependency",
  "invalid_dag_duplicate_dependency",
  "invalid_dag_missing_dependency",
  "invalid_dag_cycle",
  "invalid_dag_unknown_result_step"
])
export type GraphRule = typeof GraphRule.Type

/** A graph breaks a rule. Keys of steps are named; payloads never are. */
export class InvalidWorkflow extends Schema.TaggedError<InvalidWorkflow>(`${prefix}/InvalidWorkflow`)(
  "InvalidWorkflow",
  {
    rule: GraphRule,
    /** The step at fault, if one is; its place in the request where its key is blank. */
    stepKey: Schema.optional(Schema.String),
    stepIndex: Schema.optional(Schema.Number),
    /** The prerequisite at fault. */
    prerequisite: Schema.optional(Schema.String),
    /** The steps of a cycle, in order; the first follows the last. */
    cycle: Schema.optional(Schema.Array(Schema.String))
  }
) {
  readonly category = "Validation"
  readonly transactionUsable = true
  get code(): `workflow.${GraphRule}` {
    return `workflow.${this.rule}`
  }
  override get message(): string {
    const where = this.stepKey === undefined ? "" : ` (step ${this.stepKey})`
    const what = this.prerequisite === undefined ? "" : ` (prerequisite ${this.prerequisite})`
    const cycle = this.cycle === undefined ? "" : `: ${[...this.cycle, this.cycle[0]].join(" -> ")}`
    return `The workflow breaks the rule ${this.rule.replace("invalid_dag_", "")}${where}${what}${cycle}`
  }
}

/** An active key was given to `Workflows.enqueue`, or none to `Workflows.enqueueOrGetActive`. */
export class ActiveKeyMisuse extends Schema.TaggedError<ActiveKeyMisuse>(`${prefix}/ActiveKeyMisuse`)(
  "ActiveKeyMisuse",
  { code: Schema.Literals(["workflow.active_key_required", "workflow.active_key_api_required"]) }
) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return this.code === "workflow.active_key_required"
      ? "enqueueOrGetActive needs an active key"
      : "A workflow with an active key is enqueued by enqueueOrGetActive"
  }
}

/** A step's job type has no definition, or it is disabled. */
export class StepDefinitionUnavailable extends Schema.TaggedError<StepDefinitionUnavailable>(
  `${prefix}/StepDefinitionUnavailable`
)("StepDefinitionUnavailable", {
  stepKey: Schema.String,
  jobType: Schema.String,
  state: Schema.Literals(["missing", "disabled"])
}) {
  readonly code = "workflow.definition_not_found_or_disabled"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `The definition of job type ${this.jobType} (step ${this.stepKey}) is ${this.state}`
  }
}

/** The idempotency key belongs to a run that was enqueued with a different request. */
export class WorkflowIdempotencyConflict extends Schema.TaggedError<WorkflowIdempotencyConflict>(
  `${prefix}/WorkflowIdempotencyConflict`
)("WorkflowIdempotencyConflict", { workflowRunId: Schema.String, fields: Schema.Array(Schema.String) }) {
  readonly code = "workflow.enqueue_conflicting_retry"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return `The idempotency key belongs to another request; different: ${this.fields.join(", ")}`
  }
}

/** The idempotency key belongs to a run whose request was never recorded. */
export class WorkflowSnapshotMissing extends Schema.TaggedError<WorkflowSnapshotMissing>(
  `${prefix}/WorkflowSnapshotMissing`
)("WorkflowSnapshotMissing", { workflowRunId: Schema.String }) {
  readonly code = "workflow.legacy_idempotency_snapshot_missing"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return "The idempotency key belongs to a run without a recorded request"
  }
}

/** No run with this id exists in the scope. */
export class WorkflowRunNotFound extends Schema.TaggedError<WorkflowRunNotFound>(`${prefix}/WorkflowRunNotFound`)(
  "WorkflowRunNotFound",
  { workflowRunId: Schema.String }
) {
  readonly code = "workflow.run_not_found"
  readonly category = "NotFound"
  readonly transactionUsable = true
  override get message(): string {
    return "The workflow run does not exist in this scope"
  }
}

const appendRefusals = {
  "workflow.append_mutation_key_blank": "A mutation needs a key that is not blank",
  "workflow.append_window_missing": "The step that opens the window is not part of the run",
  "workflow.append_window_not_external": "The step that opens the window is not external",
  "workflow.append_window_not_open": "The step that opens the window is not waiting",
  "workflow.append_terminal_run": "The run has ended"
} as const

/** Steps cannot be appended now: the mutation has no key, or its window is not an open external step of a live run. */
export class AppendRefused extends Schema.TaggedError<AppendRefused>(`${prefix}/AppendRefused`)("AppendRefused", {
  code: Schema.Literals([
    "workflow.append_mutation_key_blank",
    "workflow.append_window_missing",
    "workflow.append_window_not_external",
    "workflow.append_window_not_open",
    "workflow.append_terminal_run"
  ])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return appendRefusals[this.code]
  }
}

/** The mutation key belongs to an append with a different request. */
export class AppendConflict extends Schema.TaggedError<AppendConflict>(`${prefix}/AppendConflict`)("AppendConflict", {
  workflowRunId: Schema.String
}) {
  readonly code = "workflow.append_conflicting_retry"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return "The mutation key belongs to another append"
  }
}

/** The run has no such step in this scope. */
export class ExternalStepNotFound extends Schema.TaggedError<ExternalStepNotFound>(`${prefix}/ExternalStepNotFound`)(
  "ExternalStepNotFound",
  { workflowRunId: Schema.String, stepKey: Schema.String }
) {
  readonly code = "workflow.external_step_not_found"
  readonly category = "NotFound"
  readonly transactionUsable = true
  override get message(): string {
    return `The run has no step ${this.stepKey} in this scope`
  }
}

/** The step is a job, or its prerequisites have not ended yet. */
export class ExternalStepNotWaiting extends Schema.TaggedError<ExternalStepNotWaiting>(
  `${prefix}/ExternalStepNotWaiting`
)("ExternalStepNotWaiting", {
  stepKey: Schema.String,
  code: Schema.Literals(["workflow.external_step_not_external", "workflow.external_step_not_waiting"])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return this.code === "workflow.external_step_not_external"
      ? `The step ${this.stepKey} is a job`
      : `The step ${this.stepKey} is not waiting: its prerequisites have not ended`
  }
}

/** The external step was completed before, in another way. */
export class ExternalCompletionConflict extends Schema.TaggedError<ExternalCompletionConflict>(
  `${prefix}/ExternalCompletionConflict`
)("ExternalCompletionConflict", {
  stepKey: Schema.String,
  code: Schema.Literals([
    "workflow.external_step_conflicting_completion_retry",
    "workflow.external_step_conflicting_output_retry"
  ])
}) {
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return this.code === "workflow.external_step_conflicting_output_retry"
      ? `The step ${this.stepKey} was completed with another output`
      : `The step ${this.stepKey} was completed in another way`
  }
}

/** The request key or the reason of a recovery is blank, or the key is longer than 512 bytes. */
export class InvalidRecovery extends Schema.TaggedError<InvalidRecovery>(`${prefix}/InvalidRecovery`)(
  "InvalidRecovery",
  { code: Schema.Literals(["workflow.invalid_recovery_request_key", "workflow.invalid_recovery_reason"]) }
) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return this.code === "workflow.invalid_recovery_request_key"
      ? "A recovery needs a request key of 1 to 512 bytes that is not blank"
      : "A recovery needs a reason that is not blank"
  }
}

/** The run to recover, or the step that the recovery names, does not exist in this scope. */
export class RecoverySourceNotFound extends Schema.TaggedError<RecoverySourceNotFound>(
  `${prefix}/RecoverySourceNotFound`
)("RecoverySourceNotFound", {
  workflowRunId: Schema.String,
  code: Schema.Literals(["workflow.recovery_source_not_found", "workflow.recovery_source_step_not_found"])
}) {
  readonly category = "NotFound"
  readonly transactionUsable = true
  override get message(): string {
    return this.code === "workflow.recovery_source_not_found"
      ? "The run to recover does not exist in this scope"
      : "The step does not belong to the run to recover"
  }
}

const recoveryConflicts = {
  "workflow.recovery_source_not_terminal": "The run to recover has not ended",
  "workflow.recovery_snapshot_missing": "The request of the run to recover was never recorded",
  "workflow.recovery_snapshot_unsafe": "What was recorded of the run to recover does not fit its steps",
  "workflow.recovery_request_conflict": "The request key belongs to another recovery",
  "workflow.recovery_active_constraint": "Another run holds the active key"
} as const

/** The run cannot be recovered, or not by this request. */
export class RecoveryConflict extends Schema.TaggedError<RecoveryConflict>(`${prefix}/RecoveryConflict`)(
  "RecoveryConflict",
  {
    workflowRunId: Schema.String,
    code: Schema.Literals([
      "workflow.recovery_source_not_terminal",
      "workflow.recovery_snapshot_missing",
      "workflow.recovery_snapshot_unsafe",
      "workflow.recovery_request_conflict",
      "workflow.recovery_active_constraint"
    ])
  }
) {
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return recoveryConflicts[this.code]
  }
}

/** The step of this job did not opt in to continuations. */
export class WorkflowContinuationNotEnabled extends Schema.TaggedError<WorkflowContinuationNotEnabled>(
  `${prefix}/WorkflowContinuationNotEnabled`
)("WorkflowContinuationNotEnabled", { jobId: Schema.String, workflowRunId: Schema.String }) {
  readonly code = "job.workflow_handler_continuation_not_enabled"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "The workflow step of this job does not allow continuations"
  }
}

/** The run ended without its result: not every step succeeded, or it was canceled. */
export class UnsuccessfulRun extends Schema.TaggedError<UnsuccessfulRun>(`${prefix}/UnsuccessfulRun`)(
  "UnsuccessfulRun",
  { workflowRunId: Schema.String, status: Schema.Literals(["COMPLETED_WITH_ERRORS", "CANCELED"]) }
) {
  readonly code = "workflow.result_unsuccessful_terminal"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return `The run ended as ${this.status}`
  }
}

const missingResults = {
  "workflow.result_not_declared": "The run declares no result step",
  "workflow.result_missing": "The run succeeded without a result",
  "workflow.result_undecodable": "The result does not match the contract of the result step",
  "workflow.handle_internal_state": "The run succeeded, but has no end"
} as const

/** The run declares no result, or ended without one, or what it left does not match the contract. */
export class NoResult extends Schema.TaggedError<NoResult>(`${prefix}/NoResult`)("NoResult", {
  workflowRunId: Schema.String,
  code: Schema.Literals([
    "workflow.result_not_declared",
    "workflow.result_missing",
    "workflow.result_undecodable",
    "workflow.handle_internal_state"
  ])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return missingResults[this.code]
  }
}

/** The run had not ended when the time to wait for its result was over. */
export class ResultWaitTimeout extends Schema.TaggedError<ResultWaitTimeout>(`${prefix}/ResultWaitTimeout`)(
  "ResultWaitTimeout",
  { workflowRunId: Schema.String }
) {
  readonly code = "workflow.result_wait_timeout"
  readonly category = "Unavailable"
  readonly transactionUsable = true
  override get message(): string {
    return "The run has not ended yet"
  }
}

/** Every reason that only workflows raise. */
export type WorkflowReason =
  | InvalidWorkflow
  | ActiveKeyMisuse
  | StepDefinitionUnavailable
  | WorkflowIdempotencyConflict
  | WorkflowSnapshotMissing
  | WorkflowRunNotFound
  | AppendRefused
  | AppendConflict
  | ExternalStepNotFound
  | ExternalStepNotWaiting
  | ExternalCompletionConflict
  | InvalidRecovery
  | RecoverySourceNotFound
  | RecoveryConflict
  | WorkflowContinuationNotEnabled
  | UnsuccessfulRun
  | NoResult
  | ResultWaitTimeout
