/**
 * All of an application in one place: what its workers run, what is declared when it starts, and a check before it is deployed.
 * With `DATABASE_URL`: `node dist/examples/catalog.js`, which ends with 1 if the database holds work that this code cannot do.
 */
import { pathToFileURL } from "node:url"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PgClient } from "@effect/sql-pg"
import { Config, Console, Effect, Layer, Schema, SchemaGetter } from "effect"
import { Catalog, IntentPromoter, Job, JobSchedules, Reaper, Scheduler, Worker } from "../src/index.ts"

export class SendInvoice extends Job.make("invoice.send", {
  payload: { to: Schema.String, cents: Schema.Int },
  version: 2,
  // what the release before has enqueued, in whole euros
  older: {
    1: Schema.Struct({ to: Schema.String, euros: Schema.Int }).pipe(
      Schema.decodeTo(Schema.Struct({ to: Schema.String, cents: Schema.Int }), {
        decode: SchemaGetter.transform(({ to, euros }) => ({ to, cents: euros * 100 })),
        encode: SchemaGetter.transform(({ to, cents }) => ({ to, euros: Math.round(cents / 100) }))
      })
    )
  }
}) {}

export class CloseMonth extends Job.make("month.close", { payload: {} }) {}

export const catalog = Catalog.make({
  jobs: [SendInvoice, CloseMonth],
  workflows: [{ workflowType: "billing", jobs: [SendInvoice, CloseMonth] }],
  schedules: [JobSchedules.schedule("month.close", CloseMonth, {}, { cron: "0 3 1 * *", timezone: "Europe/London" })]
})

const Handlers = Layer.mergeAll(
  SendInvoice.toLayer(({ to, cents }) => Effect.log(`${cents} to ${to}`)),
  CloseMonth.toLayer(() => Effect.log("The month is closed"))
)

/** Every process of the application. Types and schedules that earlier releases had stop; those of others are left alone. */
export const Main = Layer.mergeAll(
  Worker.layer({ jobs: catalog.jobs }),
  Reaper.layer({ jobs: catalog.jobs }),
  IntentPromoter.layer({ jobs: catalog.jobs }),
  Scheduler.layer()
).pipe(
  Layer.provide(Handlers),
  Layer.provideMerge(
    Catalog.layer(catalog, {
      exact: { jobTypes: ["invoice.send", "month.close", "invoice.print"], schedules: { owner: "billing" } }
    })
  )
)

export class Blocked extends Schema.TaggedError<Blocked>("examples/Blocked")("Blocked", { verdict: Schema.String }) {}

/** For the pipeline that deploys: prints what this code could not do, and fails if there is such work. */
export const mayShip = Effect.gen(function* () {
  const { cut, findings, verdict } = yield* Catalog.check(catalog, { sample: 20, elsewhere: ["crm.import"] })
  for (const { work, problem, jobType, payloadVersion, count, isAtLeast, ids } of findings) {
    yield* Console.log(
      `${problem}: ${count}${isAtLeast ? " or more" : ""} ${work} of ${jobType}, version ${payloadVersion}, such as ${ids[0]}`
    )
  }
  if (cut.length > 0) yield* Console.log(`not everything was looked at: ${cut.join(", ")}`)
  yield* Console.log(verdict)
  if (verdict !== "ok") return yield* new Blocked({ verdict })
})

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  mayShip.pipe(Effect.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") })), (main) =>
    NodeRuntime.runMain(main)
  )
}
