/**
 * A service: its jobs, its schedules, and everything that runs around them, as one layer.
 */
import { Effect, Layer, Schema } from "effect"
import { Job, JobResources, JobSchedules, Migrator, Notifications, Runledger } from "../src/index.ts"

export class Import extends Job.make("feed.import", {
  payload: { feed: Schema.String },
  success: Schema.Struct({ items: Schema.Int }),
  timeout: "10 minutes"
}) {}

export const ImportLive = Import.toLayer(
  Effect.fn("Import")(function* ({ feed }) {
    yield* Effect.log(`importing ${feed}`)
    return { items: feed.length }
  })
)

const declare = Effect.gen(function* () {
  yield* JobSchedules.sync([
    JobSchedules.schedule("feed.hourly", Import, { feed: "news" }, { cron: "0 * * * *", timezone: "Europe/London" })
  ])
  yield* JobResources.upsert("feeds.example.com", { permits: 2, rate: { permits: 60, per: "1 minute" } })
})

/** Needs a `PgClient`. Every process of the fleet may run it as it is; closing its scope drains. */
export const Main = Runledger.layer({
  jobs: [Import],
  worker: { concurrency: 20, drainTimeout: "30 seconds" },
  scheduler: { interval: "10 seconds" },
  retention: { ages: { succeeded: "7 days", canceled: "7 days", deadLettered: "90 days", runs: "30 days" } },
  health: { interval: "1 minute" }
}).pipe(Layer.provide([ImportLive, Notifications.layer, Layer.effectDiscard(declare)]), Layer.provide(Migrator.layer))
