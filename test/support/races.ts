/**
 * Forced orders over several connections: transactions that stand still, and waits that are seen in the server itself.
 */
import { Context, Effect, Fiber, Layer } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { makeGate } from "../../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./TestDatabase.ts"

/** Another client of the same database. */
export const another = (options: TestDatabase.ClientOptions = {}) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const [row] = yield* sql<{ name: string }>`SELECT current_database() AS name`
    const client = Layer.build(Layer.fresh(TestDatabase.client(row?.name ?? "", options)))
    return Context.get(yield* client, SqlClient)
  })

/** Asks again until it is true; each time is a round trip. */
export const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

/** How many backends of this database wait for a lock that another holds. */
export const waiters = SqlClient.use((sql) =>
  Effect.map(
    sql`SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    (rows) => rows.length
  )
)

/** Until so many of them wait. */
export const waiting = (count: number) => until(Effect.map(waiters, (now) => now === count))

/** A transaction that runs `self`, then stands still; the result ends it as asked, and tells how it ended. */
export const standing = Effect.fnUntraced(function* <A, E, R>(
  self: Effect.Effect<A, E, R>,
  end: "COMMIT" | "ROLLBACK" = "COMMIT"
) {
  const sql = yield* SqlClient
  const gate = yield* makeGate
  const fiber = yield* Effect.forkScoped(
    Effect.exit(
      sql.withTransaction(
        Effect.gen(function* () {
          yield* self
          yield* gate.pass
          if (end === "ROLLBACK") return yield* Effect.fail("rollback")
        })
      )
    )
  )
  yield* gate.reached
  return Effect.andThen(gate.open, Fiber.join(fiber))
})
