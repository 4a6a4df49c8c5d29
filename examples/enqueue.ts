/**
 * A job that exists if and only if the row does.
 */
import { Effect, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Job, Jobs } from "../src/index.ts"

export class SendReceipt extends Job.make("receipt.send", {
  payload: { orderId: Schema.Int, email: Schema.String },
  maxAttempts: 5,
  timeout: "30 seconds"
}) {}

export class OutOfStock extends Schema.TaggedError<OutOfStock>("examples/OutOfStock")("OutOfStock", {
  item: Schema.String
}) {}

/** Takes the item, records the order and enqueues the receipt: all of it, or none. */
export const placeOrder = Effect.fn("placeOrder")(function* (item: string, email: string) {
  const sql = yield* SqlClient.SqlClient
  return yield* sql.withTransaction(
    Effect.gen(function* () {
      const [order] = yield* sql<{ id: number }>`INSERT INTO orders ${sql.insert({ item, email })} RETURNING id`
      const orderId = order?.id ?? 0
      // a retry of the request with the same key finds this job
      const { jobId } = yield* Jobs.enqueue(SendReceipt, { orderId, email }, { idempotencyKey: `order:${orderId}` })
      const taken = yield* sql`UPDATE stock SET pieces = pieces - 1 WHERE item = ${item} AND pieces > 0 RETURNING item`
      if (taken.length === 0) return yield* new OutOfStock({ item })
      return { orderId, jobId }
    })
  )
})
