/**
 * What is stored about a workflow: ids, states, and the rows as they are read.
 */
import * as Schema from "effect/Schema"
import { Jsonb, nullable, Timestamptz } from "./internal/columns.ts"
import { JobId, Stage } from "./Job.ts"

/** Identifies a run. Ids sort by creation. */
export const WorkflowRunId = Schema.String.check(Schema.isUUID()).pipe(Schema.brand("effect-runledger/WorkflowRunId"))
export type WorkflowRunId = typeof WorkflowRunId.Type

/** Identifies a step within its run. */
export const WorkflowStepId = Schema.String.check(Schema.isUUID()).pipe(Schema.brand("effect-runledger/WorkflowStepId"))
export type WorkflowStepId = typeof WorkflowStepId.Type

/** How a run can end. One that has ended stays so. */
export const TerminalRunStatus = Schema.Literals(["SUCCEEDED", "COMPLETED_WITH_ERRORS", "CANCELED"])
export type TerminalRunStatus = typeof TerminalRunStatus.Type

/**
 * Where a run stands. `WAITING_FOR_EXTERNAL`: nothing but external steps is left to wait for. `COMPLETED_WITH_ERRORS`: every
 * step has ended, at least one of them failed or canceled.
 */
export const RunStatus = Schema.Literals(["RUNNING", "WAITING_FOR_EXTERNAL", ...TerminalRunStatus.literals])
export type RunStatus = typeof RunStatus.Type

/** How a step can end. */
export const TerminalStepStatus = Schema.Literals(["SUCCEEDED", "FAILED", "CANCELED"])
export type TerminalStepStatus = typeof TerminalStepStatus.Type

/** Where a step stands. `BLOCKED`: its prerequisites have not ended. `ENQUEUED`: its job waits for a worker. */
export const StepStatus = Schema.Literals([
  "BLOCKED",
  "WAITING_FOR_EXTERNAL",
  "ENQUEUED",
  "RUNNING",
  ...TerminalStepStatus.literals
])
export type StepStatus = typeof StepStatus.Type

/** What runs a step: a worker, or somebody outside who completes it. */
export const ExecutionKind = Schema.Literals(["JOB", "EXTERNAL"])
export type ExecutionKind = typeof ExecutionKind.Type

/** Whether a dependent also runs after a prerequisite that did not succeed. */
export const ReleaseMode = Schema.Literals(["ON_SUCCESS", "ON_TERMINAL"])
export type ReleaseMode = typeof ReleaseMode.Type

/** Whether nothing more happens to a run with this status. */
export const isTerminalRun = Schema.is(TerminalRunStatus)

/** How many steps a run has, and of these, how many stand where; the rest succeeded. */
export class StepCounts extends Schema.Class<StepCounts>("effect-runledger/StepCounts")({
  total: Schema.Int,
  /** Blocked, enqueued or running. */
  open: Schema.Int,
  /** External and waiting to be completed. */
  waiting: Schema.Int,
  /** Failed or canceled. */
  unsuccessful: Schema.Int
}) {}

/** A run as it is stored, without its request and its result. */
export class WorkflowRunRecord extends Schema.Class<WorkflowRunRecord>("effect-runledger/WorkflowRunRecord")({
  id: WorkflowRunId,
  workflowType: Schema.String,
  organizationId: nullable(Schema.String),
  status: RunStatus,
  steps: StepCounts,
  idempotencyKey: nullable(Schema.String),
  resultStepKey: nullable(Schema.String),
  metadata: Jsonb,
  startedAt: Timestamptz,
  finishedAt: nullable(Timestamptz),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {
  /** Whether nothing more happens to this run. */
  get isTerminal(): boolean {
    return isTerminalRun(this.status)
  }
}

/** A row of `workflow_runs`, selected with {@link workflowRunColumns}. */
export const WorkflowRunRow = WorkflowRunRecord.pipe(
  Schema.encodeKeys({
    workflowType: "workflow_type",
    organizationId: "organization_id",
    idempotencyKey: "idempotency_key",
    resultStepKey: "result_step_key",
    startedAt: "started_at",
    finishedAt: "finished_at",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

/** The columns of {@link WorkflowRunRow}; the table is called `r`. */
export const workflowRunColumns = `
  r.id, r.workflow_type, r.organization_id, r.status,
  jsonb_build_object(
    'total', r.steps_total, 'open', r.steps_open, 'waiting', r.steps_waiting, 'unsuccessful', r.steps_unsuccessful
  ) AS steps,
  r.idempotency_key, r.result_step_key, r.metadata, r.started_at, r.finished_at, r.created_at, r.updated_at`

/** The place of a step among the many that were made by one fan-out. */
export class FanOut extends Schema.Class<FanOut>("effect-runledger/FanOut")({
  key: Schema.String,
  index: Schema.Int
}) {}

/** A step as it is stored. What only jobs have is `None` of an external step. */
export class WorkflowStepRecord extends Schema.Class<WorkflowStepRecord>("effect-runledger/WorkflowStepRecord")({
  id: WorkflowStepId,
  workflowRunId: WorkflowRunId,
  stepKey: Schema.String,
  fanOut: nullable(FanOut),
  executionKind: ExecutionKind,
  jobType: nullable(Schema.String),
  payloadVersion: Schema.Int,
  organizationId: nullable(Schema.String),
  payload: Jsonb,
  priority: nullable(Schema.Int),
  maxAttempts: nullable(Schema.Int),
  timeoutSeconds: nullable(Schema.Int),
  stage: nullable(Stage),
  allowHandlerContinuation: Schema.Boolean,
  executionResourceKey: nullable(Schema.String),
  status: StepStatus,
  /** The job that was made when the step was released. */
  jobId: nullable(JobId),
  releasedAt: nullable(Timestamptz),
  startedAt: nullable(Timestamptz),
  finishedAt: nullable(Timestamptz),
  dependencyCountTotal: Schema.Int,
  dependencyCountPending: Schema.Int,
  dependencyCountUnsatisfied: Schema.Int,
  statusReason: nullable(Schema.String),
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String),
  output: nullable(Jsonb),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {
  /** Whether nothing more happens to this step. */
  get isTerminal(): boolean {
    return isTerminalStep(this.status)
  }
}

const isTerminalStep = Schema.is(TerminalStepStatus)

/** A row of `workflow_steps`, selected with {@link workflowStepColumns}. */
export const WorkflowStepRow = WorkflowStepRecord.pipe(
  Schema.encodeKeys({
    workflowRunId: "workflow_run_id",
    stepKey: "step_key",
    fanOut: "fan_out",
    executionKind: "execution_kind",
    jobType: "job_type",
    payloadVersion: "payload_version",
    organizationId: "organization_id",
    maxAttempts: "max_attempts",
    timeoutSeconds: "timeout_seconds",
    allowHandlerContinuation: "allow_handler_continuation",
    executionResourceKey: "execution_resource_key",
    jobId: "job_id",
    releasedAt: "released_at",
    startedAt: "started_at",
    finishedAt: "finished_at",
    dependencyCountTotal: "dependency_count_total",
    dependencyCountPending: "dependency_count_pending",
    dependencyCountUnsatisfied: "dependency_count_unsatisfied",
    statusReason: "status_reason",
    lastErrorCode: "last_error_code",
    lastErrorMessage: "last_error_message",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

/** The columns of {@link WorkflowStepRow}; the table is called `s`. */
export const workflowStepColumns = `
  s.id, s.workflow_run_id, s.step_key,
  CASE WHEN s.fan_out_key IS NOT NULL THEN jsonb_build_object('key', s.fan_out_key, 'index', s.fan_out_index) END AS fan_out,
  s.execution_kind, s.job_type, s.payload_version, s.organization_id, s.payload, s.priority, s.max_attempts,
  s.timeout_seconds, s.stage, s.allow_handler_continuation, s.execution_resource_key, s.status, s.job_id, s.released_at,
  s.started_at, s.finished_at, s.dependency_count_total, s.dependency_count_pending, s.dependency_count_unsatisfied,
  s.status_reason, s.last_error_code, s.last_error_message, s.output, s.created_at, s.updated_at`

/** That one step waits for another. */
export class WorkflowDependencyRecord extends Schema.Class<WorkflowDependencyRecord>(
  "effect-runledger/WorkflowDependencyRecord"
)({
  workflowRunId: WorkflowRunId,
  prerequisiteStepId: WorkflowStepId,
  dependentStepId: WorkflowStepId,
  releaseMode: ReleaseMode,
  createdAt: Timestamptz
}) {}

/** A row of `workflow_step_dependencies`. */
export const WorkflowDependencyRow = WorkflowDependencyRecord.pipe(
  Schema.encodeKeys({
    workflowRunId: "workflow_run_id",
    prerequisiteStepId: "prerequisite_step_id",
    dependentStepId: "dependent_step_id",
    releaseMode: "release_mode",
    createdAt: "created_at"
  })
)
