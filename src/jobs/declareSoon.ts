import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { AnyContract } from "../JobContract.ts"
import * as JobDefinitions from "../JobDefinitions.ts"

// Per client, the contracts whose declaration is known to be stored.
const declared = new WeakMap<object, WeakSet<AnyContract>>()

/**
 * Declares contracts that this process has not declared yet, once the caller's transaction has committed: in a fiber of its
 * own, and only as well as it can. A declaration that fails is tried again by the next enqueue.
 */
export const declareSoon = (contracts: ReadonlyArray<AnyContract>): Effect.Effect<void, never, SqlClient> =>
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    const sql = Context.get(context, SqlClient)
    const known = declared.get(sql.transactionService) ?? new WeakSet()
    const unknown = new Set(contracts.filter((contract) => !known.has(contract)))
    if (unknown.size === 0) return Effect.void
    declared.set(sql.transactionService, known)
    const declaring = Effect.forEach(
      unknown,
      (contract) =>
        Effect.matchEffect(JobDefinitions.declare(contract), {
          onFailure: () => Effect.void,
          onSuccess: () => Effect.sync(() => known.add(contract))
        }),
      { discard: true }
    )
    return sql.afterCommit(
      declaring.pipe(
        Effect.updateContext((own: Context.Context<never>) =>
          Context.merge(Context.omit(sql.transactionService)(own), Context.pick(SqlClient)(context))
        ),
        Effect.forkDetach,
        Effect.asVoid
      )
    )
  })
