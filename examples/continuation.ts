/**
 * A long job in slices: each ends with a checkpoint and goes on in a new run, so no slice outlives its lease, and a crash
 * repeats one slice only.
 */
import { Effect, Option, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Job, JobExecution } from "../src/index.ts"

const Checkpoint = Schema.Struct({ next: Schema.Int })

const slice = 100

export class Backfill extends Job.make("backfill", {
  payload: { last: Schema.Int },
  success: Schema.Struct({ filled: Schema.Int })
}) {}

export const BackfillLive = Backfill.toLayer(
  Effect.fn("Backfill")(function* ({ last }) {
    const job = yield* JobExecution.JobExecution
    const sql = yield* SqlClient.SqlClient
    const checkpoint = yield* job.checkpointAs(Checkpoint)
    const from = Option.match(checkpoint, { onNone: () => 1, onSome: ({ next }) => next })
    const to = Math.min(last, from + slice - 1)
    // a slice may run twice: what it does must bear that
    yield* sql`
      INSERT INTO filled (id) SELECT generate_series(${from}::integer, ${to}::integer) ON CONFLICT DO NOTHING
    `.pipe(
      Effect.mapError(() => new Job.JobFailure({ code: "backfill.database", message: "The slice was not written" }))
    )
    if (to < last) {
      return yield* job.continueAfter("10 millis", { checkpoint: { next: to + 1 }, done: to, total: last })
    }
    return { filled: last }
  })
)
