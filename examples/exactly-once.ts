/**
 * Exactly once, when the work is in the same database: the job completes in the handler's own transaction.
 */
import { Effect, Schema } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { Job, JobExecution } from "../src/index.ts"

export class Charge extends Job.make("invoice.charge", {
  payload: { invoiceId: Schema.Int },
  success: Schema.Struct({ total: Schema.Int }),
  retry: { initial: "100 millis" }
}) {}

export const ChargeLive = Charge.toLayer(
  Effect.fn("Charge")(function* ({ invoiceId }) {
    const job = yield* JobExecution.JobExecution
    const sql = yield* SqlClient.SqlClient
    return yield* sql
      .withTransaction(
        Effect.gen(function* () {
          const [row] = yield* sql<{ total: number }>`
            UPDATE invoices SET charges = charges + 1 WHERE id = ${invoiceId} RETURNING total
          `
          if (row === undefined) {
            return yield* new Job.JobFailure({
              kind: "TERMINAL",
              code: "invoice.unknown",
              message: "There is no such invoice"
            })
          }
          // the last statement: rows and completion commit together, or neither does
          return yield* job.complete({ total: row.total })
        })
      )
      .pipe(
        Effect.mapError((error) =>
          SqlError.isSqlError(error)
            ? new Job.JobFailure({ code: "invoice.database", message: "The database did not do it" })
            : error
        )
      )
  })
)
