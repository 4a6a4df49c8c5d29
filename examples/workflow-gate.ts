/**
 * A gate: a step that somebody outside completes, in another process and much later. While it waits, nothing runs and nothing is
 * held.
 */
import { Effect, Schema } from "effect"
import { Job, JobExecution, TenantScope, Workflow, Workflows } from "../src/index.ts"

export class Pay extends Job.make("refund.pay", {
  payload: { refundId: Schema.String },
  success: Schema.Struct({ paid: Schema.String, approvedBy: Schema.String })
}) {}

const Approval = Schema.Struct({ by: Schema.String })

export const PayLive = Pay.toLayer(
  Effect.fn("Pay")(function* ({ refundId }) {
    const job = yield* JobExecution.JobExecution
    const { by } = yield* job.output("approval", Approval)
    return { paid: refundId, approvedBy: by }
  })
)

export const refund = (refundId: string) =>
  Workflow.make("refund")
    .external("approval", { payload: { refundId }, success: Approval })
    .step("pay", Pay, { refundId }, { after: ["approval"] })
    .result("pay")

/** Whoever asks for the refund keeps the id of its run. */
export const request = (refundId: string) =>
  Effect.map(Workflows.enqueue(refund(refundId), { idempotencyKey: refundId }), ({ run }) => run.id)

/** Whoever decides knows that id and the workflow; what the step takes is checked by the compiler. */
export const approve = (refundId: string, runId: Workflows.WorkflowRunId, by: string) =>
  Workflows.completeExternal(Workflows.handle(refund(refundId), TenantScope.global, runId), "approval", { by })

/** No decision is needed any more: the gate, and what waits behind it, are canceled. */
export const withdraw = (runId: Workflows.WorkflowRunId) =>
  Workflows.cancel(TenantScope.global, runId, { reason: "the customer has changed their mind" })
