/**
 * After an outage: the mails that failed for good are sent once more, one that went out is sent again, and an address is put
 * right before anybody has tried it.
 */
import { Effect, Option, Schema } from "effect"
import { Job, Jobs, TenantScope } from "../src/index.ts"

export class SendInvoice extends Job.make("invoice.send", {
  payload: { to: Schema.String },
  success: Schema.Struct({ messageId: Schema.String })
}) {}

/** Everything that failed since the mail server went down, batch by batch; returns how many there were. */
export const redriveAll = Effect.gen(function* () {
  let redriven = 0
  yield* Jobs.redriveDeadLetters({
    scope: TenantScope.global,
    jobType: SendInvoice.jobType,
    errorCode: "smtp.down",
    reason: "the mail server is back"
  }).pipe(
    Effect.tap(({ jobs }) =>
      Effect.sync(() => {
        redriven += jobs.length
      })
    ),
    Effect.repeat({ while: ({ more }) => more })
  )
  return redriven
})

const told = (outcome: Jobs.RequeueOutcome): string => {
  switch (outcome._tag) {
    case "Requeued":
      return `run ${outcome.after.runNumber} is due`
    case "CancellationNotQuiesced":
      return "its handler may still be at work, try again later"
    case "ExpectationMismatch":
      return `it is ${outcome.actual.status} in run ${outcome.actual.runNumber}`
    case "NotFound":
      return "it is gone"
  }
}

/** One job, as it was shown to the operator: if it has changed since, they see that instead. */
export const requeueOne = (seen: Job.JobRecord, reason: string) =>
  Effect.fromResult(Jobs.requeueOf(seen, { statePolicy: "reset", reason })).pipe(
    Effect.flatMap(Jobs.requeue),
    Effect.map(told)
  )

/** A mail that arrived, and was lost: it is sent once more, as a new job, once for each ticket. */
export const sendAgain = (sent: Job.JobRecord, ticket: string) =>
  Jobs.replay({
    scope: TenantScope.global,
    sourceJobId: sent.id,
    expectedRunNumber: sent.runNumber,
    requestKey: ticket,
    reason: "the customer has lost the mail"
  })

/** A wrong address, as long as nobody has claimed the job. */
export const correct = (jobId: Jobs.JobId, to: string) =>
  Effect.map(
    Jobs.updatePendingPayload(TenantScope.global, jobId, SendInvoice, { to }),
    (outcome) => outcome._tag === "Updated"
  )

/** Why a job was started again, each time. */
export const why = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.events(TenantScope.global, jobId), (events) =>
    events.flatMap((event) => {
      const said = Jobs.decodeEvent(event)
      return said._tag === "Requeued" || said._tag === "Redriven" || said._tag === "Replayed" ? [said.reason] : []
    })
  )

/** The invoice of an order, by the key that it was enqueued with. */
export const addressOf = (order: string) =>
  Effect.map(
    Jobs.payloadByIdempotencyKey({
      scope: TenantScope.global,
      jobType: SendInvoice.jobType,
      idempotencyKey: order
    }),
    Option.map(({ payload }) => payload)
  )
