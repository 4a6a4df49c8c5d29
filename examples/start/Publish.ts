/**
 * What follows the gate: the result of the run.
 */
import { Effect, Schema } from "effect"
import { Job, JobExecution } from "../../src/index.ts"
import { Sums, SumUp } from "./SumUp.ts"

/** What the one who opens the gate says. */
export const Approval = Schema.Struct({ by: Schema.String })

export class Publish extends Job.make("folder.publish", {
  payload: {},
  success: Schema.Struct({ total: Sums, approvedBy: Schema.String })
}) {}

export const PublishLive = Publish.toLayer(
  Effect.fn("Publish")(function* () {
    const job = yield* JobExecution.JobExecution
    const { total } = yield* job.output("sum", SumUp)
    const { by } = yield* job.output("approval", Approval)
    return { total, approvedBy: by }
  })
)
