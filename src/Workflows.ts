/**
 * What may happen to a workflow run: a graph of steps, each a job or an external step. Each operation is an Effect that needs a
 * `SqlClient`, joins the caller's transaction, and lists in its type everything that can go wrong.
 */
export {
  type ExecutionKind,
  FanOut,
  type ReleaseMode,
  type RunStatus,
  StepCounts,
  type StepStatus,
  type TerminalRunStatus,
  type TerminalStepStatus,
  WorkflowDependencyRecord,
  WorkflowRunId,
  WorkflowRunRecord,
  WorkflowStepId,
  WorkflowStepRecord
} from "./WorkflowRun.ts"
export { type Appended, type AppendOptions, type AppendReason, append } from "./workflows/append.ts"
export { type AwaitOptions, type AwaitReason, awaitResult, WorkflowResult } from "./workflows/awaitResult.ts"
export { type CancelRunOptions, type CancelRunReason, cancel } from "./workflows/cancel.ts"
export {
  type ActiveRun,
  type EnqueuedRun,
  type EnqueueWorkflowReason,
  enqueue,
  enqueueOrGetActive
} from "./workflows/enqueue.ts"
export { type CompleteExternalReason, completeExternal, type ExternalOutcome } from "./workflows/external.ts"
export { handle, type TypedRun } from "./workflows/handle.ts"
export {
  type StepKeysReason,
  stepKeysForUpdate,
  type UpdatePayloadReason,
  updatePendingPayload
} from "./workflows/payload.ts"
export * from "./workflows/read.ts"
export { type Recovered, type RecoverOptions, type RecoverReason, recover } from "./workflows/recover.ts"
export type { Dependency, StepRequest, StepSettings, WorkflowRequest } from "./workflows/request.ts"
