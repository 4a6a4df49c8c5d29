import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"

/** Runs `self` once the transaction that `context` is in has committed, never after a rollback; at once outside of one. */
export const afterCommit = (sql: SqlClient, context: Context.Context<never>, self: Effect.Effect<void>) =>
  // outside a transaction there is nothing to wait for
  Context.getOrUndefined(context, sql.transactionService) === undefined ? self : sql.afterCommit(self)

/** Forks `self` on a connection of its own, untraced: nobody waits for it, whatever becomes of the caller. */
export const detached = <A, E>(sql: SqlClient, self: Effect.Effect<A, E>): Effect.Effect<void> =>
  self.pipe(
    Effect.withTracerEnabled(false),
    Effect.updateContext((context: Context.Context<never>) => Context.omit(sql.transactionService)(context)),
    Effect.forkDetach,
    Effect.asVoid
  )
