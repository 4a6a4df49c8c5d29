/**
 * Why what has ended could not be started again; see `Reason.ts`.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** The job belongs to a workflow run: only the run as a whole can be recovered, by `Workflows.recover`. */
export class WorkflowRequeueNotSupported extends Schema.TaggedError<WorkflowRequeueNotSupported>(
  `${prefix}/WorkflowRequeueNotSupported`
)("WorkflowRequeueNotSupported", { jobId: Schema.String, workflowRunId: Schema.String }) {
  readonly code = "job.workflow_requeue_not_supported"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return "The job belongs to a workflow run, which can only be recovered as a whole"
  }
}

const invalidReplays = {
  "job.replay_request_key_blank": "A replay needs a request key that is not blank",
  "job.replay_request_key_too_long": "The request key of a replay must not be longer than 512 bytes",
  "job.replay_reason_blank": "A replay needs a reason that is not blank"
} as const

/** The request key or the reason of a replay is blank, or the key is longer than 512 bytes. */
export class InvalidReplay extends Schema.TaggedError<InvalidReplay>(`${prefix}/InvalidReplay`)("InvalidReplay", {
  code: Schema.Literals(["job.replay_request_key_blank", "job.replay_request_key_too_long", "job.replay_reason_blank"])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return invalidReplays[this.code]
  }
}

/** The request key belongs to a replay of the same run that was asked for with another reason. */
export class ReplayConflict extends Schema.TaggedError<ReplayConflict>(`${prefix}/ReplayConflict`)("ReplayConflict", {
  sourceJobId: Schema.String,
  replayJobId: Schema.String
}) {
  readonly code = "job.replay_idempotency_conflict"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return "The request key belongs to a replay with another reason"
  }
}

/** Every reason that only requeues and replays raise. */
export type RecoveryReason = WorkflowRequeueNotSupported | InvalidReplay | ReplayConflict
