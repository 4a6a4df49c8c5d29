/**
 * A workflow as a function of its input: a fan-out, a join that reads what the fan-out has left, and a result with its type.
 */
import { Effect, Schema } from "effect"
import { Job, JobExecution, Workflow, Workflows } from "../src/index.ts"

export class Price extends Job.make("cart.price", {
  payload: { item: Schema.String, pieces: Schema.Int },
  success: Schema.Struct({ cents: Schema.Int })
}) {}

export class Total extends Job.make("cart.total", {
  payload: { currency: Schema.String },
  success: Schema.Struct({ cents: Schema.Int, currency: Schema.String })
}) {}

export const PriceLive = Price.toLayer(({ item, pieces }) => Effect.succeed({ cents: item.length * 100 * pieces }))

export const TotalLive = Total.toLayer(
  Effect.fn("Total")(function* ({ currency }) {
    const job = yield* JobExecution.JobExecution
    const prices = yield* job.outputs("price", Price)
    return { cents: prices.reduce((sum, { cents }) => sum + cents, 0), currency }
  })
)

/** Unknown or repeated keys, wrong payloads and cycles do not compile. */
export const checkout = (cart: ReadonlyArray<typeof Price.payload.Type>) =>
  Workflow.make("cart.checkout", { metadata: { channel: Schema.String } })
    .each("price", Price, cart)
    .step("total", Total, { currency: "EUR" }, { after: ["price"] })
    .result("total")

/** A repeated request finds the run of the first, and its result. */
export const totalOf = Effect.fn("totalOf")(function* (cartId: string, cart: ReadonlyArray<typeof Price.payload.Type>) {
  const run = yield* Workflows.enqueue(checkout(cart), {
    metadata: { channel: "web" },
    idempotencyKey: `cart:${cartId}`
  })
  return yield* Workflows.awaitResult(run, { timeout: "30 seconds" })
})
