import { PgClient } from "@effect/sql-pg"
import { Config, Context, Effect, Layer, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Job, JobExecution, Jobs, Migrator, Reaper, Worker } from "../src/index.ts"

export class Mailer extends Context.Service<
  Mailer,
  { readonly send: (to: string, subject: string) => Effect.Effect<string> }
>()("app/Mailer") {}

// A contract, shared by the processes that enqueue and the processes that run.
export class SendEmail extends Job.make("email.send", {
  payload: { to: Schema.String, subject: Schema.String },
  success: Schema.Struct({ messageId: Schema.String }),
  maxAttempts: 5,
  timeout: "30 seconds"
}) {}

// Enqueue in the same transaction as your own rows: both commit, or neither does.
export const placeOrder = Effect.fn("placeOrder")(function* (id: string, email: string) {
  const sql = yield* SqlClient.SqlClient
  yield* sql.withTransaction(
    Effect.gen(function* () {
      yield* sql`INSERT INTO orders ${sql.insert({ id, email })}`
      yield* Jobs.enqueue(SendEmail, { to: email, subject: "Thanks" }, { idempotencyKey: `order:${id}` })
    })
  )
})

// Handle. What the fiber returns is the job's output; what it fails with is the job's failure.
export const SendEmailLive = SendEmail.toLayer(
  Effect.fn("SendEmail")(function* ({ to, subject }) {
    const job = yield* JobExecution.JobExecution
    const mailer = yield* Mailer
    yield* job.progress({ done: 0, total: 1 })
    return { messageId: yield* mailer.send(to, subject) }
  })
)

// Run. A forgotten handler does not compile. Closing the scope drains, then interrupts.
export const Main = Layer.mergeAll(Worker.layer({ jobs: [SendEmail], concurrency: 20 }), Reaper.layer()).pipe(
  Layer.provide(SendEmailLive),
  Layer.provide(Migrator.layer),
  Layer.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") }))
)
