/**
 * A worker: contracts, handlers that need services, and the layers that run them.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { Job, JobExecution, Migrator, Notifications, Reaper, Worker } from "../src/index.ts"

export class MailRefused extends Schema.TaggedError<MailRefused>("examples/MailRefused")("MailRefused", {
  address: Schema.String
}) {
  override get message() {
    return "The server refused the address"
  }
}

/** Whatever sends mail. */
export class Mailer extends Context.Service<
  Mailer,
  { readonly send: (to: string, subject: string) => Effect.Effect<string, MailRefused> }
>()("examples/Mailer") {}

export class SendEmail extends Job.make("email.send", {
  payload: { to: Schema.String, subject: Schema.String },
  success: Schema.Struct({ messageId: Schema.String }),
  error: MailRefused,
  // an address that was refused once will be refused again
  record: () => ({ kind: "TERMINAL", code: "mail.refused" }),
  maxAttempts: 5,
  timeout: "30 seconds"
}) {}

/** What the fiber returns is the job's output; what it fails with is the job's failure. */
export const SendEmailLive = SendEmail.toLayer(
  Effect.fn("SendEmail")(function* ({ to, subject }) {
    const job = yield* JobExecution.JobExecution
    const mailer = yield* Mailer
    yield* job.progress({ done: 0, total: 1 })
    yield* Effect.log("sending")
    const messageId = yield* mailer.send(to, subject)
    yield* job.progress({ done: 1, total: 1 })
    return { messageId }
  })
)

/** Needs a `PgClient` and a `Mailer`. Closing its scope drains. */
export const Main = Layer.mergeAll(
  Worker.layer({ jobs: [SendEmail], concurrency: 20 }).pipe(Layer.provide(SendEmailLive)),
  // ends the attempts of processes that died; one process of the fleet is enough
  Reaper.layer()
).pipe(
  // without it the worker polls
  Layer.provide(Notifications.layer),
  Layer.provide(Migrator.layer)
)
