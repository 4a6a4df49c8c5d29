/**
 * A `SqlClient` that fails on purpose: at a chosen statement, in a chosen way, as often as a test wants.
 *
 * **Details**
 *
 * {@link layer} wraps the client it is built on. Every statement passes the wrapper, the transaction controls `BEGIN`,
 * `COMMIT`, `ROLLBACK`, `SAVEPOINT` and `RELEASE` included. What happens to it is a {@link Plan}: a script of steps, or
 * a seed from which each statement's fate is drawn. {@link Faults} is the handle of the running test: it arms and
 * disarms plans and tells which statements passed and which faults were injected.
 *
 * A plain statement without a fault goes through the wrapped client as it would without the wrapper, so a `multiplex`
 * client still writes the statements of several fibers in one batch. A plain statement with a fault first takes a
 * connection of its own (`reserve`), so that what happens to it happens to nobody else.
 *
 * A transaction that a fault leaves open (a `COMMIT` that was not executed, a `BEGIN` that was) is rolled back when its
 * connection goes back to the pool, as the server does when it loses the client.
 *
 * **Gotchas**
 *
 * Transaction controls run uninterruptibly, as they do without the wrapper: a `COMMIT` that hangs cannot be
 * interrupted. `Faults.disarm` ends it with a connection error.
 *
 * `failBefore` and `failAfter` leave the connection alive, so a `ROLLBACK` that follows succeeds. Use `dropConnection`
 * to see what becomes of a transaction whose connection is gone.
 *
 * **Example** (A commit whose answer is lost)
 *
 * ```ts
 * import * as Effect from "effect/Effect"
 * import { SqlClient } from "effect/sql/SqlClient"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const test = Effect.gen(function*() {
 *   const sql = yield* SqlClient
 *   const faults = yield* FaultySqlClient.Faults
 *   yield* faults.arm([{ match: "COMMIT", fault: FaultySqlClient.failAfter() }])
 *   // fails with a ConnectionError, and the row is there
 *   return yield* Effect.exit(sql.withTransaction(sql`INSERT INTO t (id) VALUES (1)`))
 * })
 * ```
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as SqlClient from "effect/sql/SqlClient"
import type * as SqlError from "effect/sql/SqlError"
import { Faults } from "./faults/Faults.ts"
import type { Plan } from "./faults/Plan.ts"
import { isPgClient, makePg, wrap } from "./faults/wrap.ts"

export * from "./faults/Fault.ts"
export { Faults, type InjectedFault } from "./faults/Faults.ts"
export type { Match, Operation, SeenStatement } from "./faults/Match.ts"
export { fromSeed, type Plan, type Seeded, type SeedOptions, type Step } from "./faults/Plan.ts"

/**
 * Wraps the client it is provided with, and provides the wrapped client together with {@link Faults}. Where the client
 * is a `PgClient`, it provides the wrapped one under that tag as well.
 *
 * **Details**
 *
 * Without a plan nothing fails until one is armed.
 *
 * **Example** (A database that loses one statement in twenty)
 *
 * ```ts
 * import * as PgClient from "@effect/sql-pg/PgClient"
 * import * as Layer from "effect/Layer"
 * import * as Redacted from "effect/Redacted"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * const Database = PgClient.layer({ url: Redacted.make("postgres://postgres@127.0.0.1:5432/test") })
 *
 * export const Faulty = FaultySqlClient.layer(
 *   FaultySqlClient.fromSeed("run 1", {
 *     rate: 0.05,
 *     faults: [FaultySqlClient.failBefore(), FaultySqlClient.failAfter(), FaultySqlClient.dropConnection("after")]
 *   })
 * ).pipe(Layer.provide(Database))
 * ```
 */
export const layer = (
  plan: Plan = []
): Layer.Layer<SqlClient.SqlClient | Faults, SqlError.SqlError, SqlClient.SqlClient> =>
  Layer.effectContext(
    Effect.flatMap(
      SqlClient.SqlClient,
      (client): Effect.Effect<Context.Context<SqlClient.SqlClient | Faults>, SqlError.SqlError, Scope.Scope> =>
        isPgClient(client)
          ? makePg(client, plan)
          : Effect.map(wrap(client, plan), ({ client, faults }) =>
              Context.make(SqlClient.SqlClient, client).pipe(Context.add(Faults, faults))
            )
    )
  )

/** {@link layer} for a `PgClient`: `listen` and `notify` meet faults too. */
export const layerPg = (
  plan: Plan = []
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient | Faults, SqlError.SqlError, PgClient.PgClient> =>
  Layer.effectContext(Effect.flatMap(PgClient.PgClient, (client) => makePg(client, plan)))
