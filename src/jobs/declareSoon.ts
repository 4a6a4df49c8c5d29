import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { SqlClient } from "effect/sql/SqlClient"
import type { AnyContract } from "../JobContract.ts"
import * as JobDefinitions from "../JobDefinitions.ts"
import { afterCommit, detached } from "../notifications/afterCommit.ts"

// Per client, the contracts (type and version) that are declared, or are being declared: a burst declares once.
const declared = new WeakMap<object, Set<string>>()

/**
 * Declares contracts that this process has not declared yet, once the caller's transaction has committed: in a fiber of its
 * own, and only as well as it can. A declaration that fails is tried again by the next enqueue.
 */
export const declareSoon = (contracts: ReadonlyArray<AnyContract>): Effect.Effect<void, never, SqlClient> =>
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    const sql = Context.get(context, SqlClient)
    const known = declared.get(sql.transactionService) ?? new Set()
    const missing = contracts.filter((contract) => !known.has(nameOf(contract)))
    if (missing.length === 0) return Effect.void
    declared.set(sql.transactionService, known)
    // not before the commit: what is rolled back has declared nothing
    const declaring = Effect.forEach(
      missing,
      (contract) =>
        Effect.suspend(() => {
          const name = nameOf(contract)
          if (known.has(name)) return Effect.void
          known.add(name)
          return Effect.onExit(JobDefinitions.declare(contract), (exit) =>
            Effect.sync(() => Exit.isSuccess(exit) || known.delete(name))
          )
        }),
      { discard: true }
    )
    return afterCommit(sql, context, detached(sql, Effect.provideContext(declaring, Context.pick(SqlClient)(context))))
  })

const nameOf = ({ jobType, version }: AnyContract) => `${version}:${jobType}`
