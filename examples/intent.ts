/**
 * A job that is asked for before its type exists: the process that records it knows a name and some JSON. When the process that
 * declares and runs the type is deployed, the job is enqueued and runs.
 */
import { Effect, Layer, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { IntentPromoter, Job, JobIntents, Worker } from "../src/index.ts"

/** Today, in the shop: the user and the intent are committed together, or not at all. */
export const signUp = Effect.fn("signUp")(function* (email: string) {
  const sql = yield* SqlClient.SqlClient
  return yield* sql.withTransaction(
    Effect.gen(function* () {
      // what the intent becomes is promised by its key: one job, however often this is repeated
      const intent = yield* JobIntents.record("crm.import", { email }, { idempotencyKey: `sign-up:${email}` })
      yield* sql`INSERT INTO users ${sql.insert({ email })}`
      return intent.intentId
    })
  )
})

/** Next week, in a service of its own. */
export class ImportContact extends Job.make("crm.import", {
  payload: { email: Schema.String },
  success: Schema.String,
  maxAttempts: 5
}) {}

export const ImportContactLive = ImportContact.toLayer(
  Effect.fn("ImportContact")(({ email }) => Effect.succeed(`contact of ${email}`))
)

/** The worker declares the type when it starts; the promoter finds it declared, and enqueues what has been waiting. */
export const Main = Layer.merge(
  Worker.layer({ jobs: [ImportContact], concurrency: 10, pollInterval: "100 millis" }).pipe(
    Layer.provide(ImportContactLive)
  ),
  IntentPromoter.layer({ jobs: [ImportContact], pollInterval: "100 millis" })
)
