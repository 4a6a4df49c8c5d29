/**
 * Statements that may have to wait for another transaction.
 *
 * They never run on a shared connection, where a waiting statement holds up every other one that is pipelined behind it, and
 * they wait for a bounded time.
 */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import type { WriteReason } from "../Reason.ts"
import * as Sql from "./sql.ts"
import { classified, transaction } from "./transaction.ts"

/**
 * Two columns for the first CTE of a statement that may wait: the caller's `lock_timeout`, and ours, five seconds, from here
 * to the end of the transaction; a stricter one of the caller's is kept. PostgreSQL looks at the setting when the wait begins.
 */
export const patience = `
        current_setting('lock_timeout') AS callers_lock_timeout,
        set_config(
          'lock_timeout',
          CASE
            WHEN current_setting('lock_timeout')::interval BETWEEN interval '1 millisecond' AND interval '5 seconds'
              THEN current_setting('lock_timeout')
            ELSE '5s'
          END,
          true
        ) AS lock_timeout`

/**
 * Runs a statement that carries {@link patience} and returns `callers_lock_timeout` with each of its rows: outside a
 * transaction as one round trip on a connection of its own; inside a caller's transaction in a savepoint, so that a timeout
 * leaves it usable, with the caller's setting restored.
 */
export const mayWait = Effect.fnUntraced(function* <E, R>(
  statement: Effect.Effect<ReadonlyArray<Row>, E | SqlError, R>
): Effect.fn.Return<ReadonlyArray<Row>, E | WriteReason, R | SqlClient> {
  const sql = yield* Sql.client
  if (yield* Sql.inTransaction(sql)) {
    return yield* transaction(
      Effect.gen(function* () {
        const rows = yield* statement
        const callers = rows[0]?.callers_lock_timeout
        if (Predicate.isString(callers)) yield* sql`SELECT set_config('lock_timeout', ${callers}, true)`
        return rows
      })
    )
  }
  // a statement of its own on a reserved connection: it commits by itself, and its lock_timeout ends with it
  const alone: Effect.Effect<ReadonlyArray<Row>, E | SqlError, R> = Effect.scoped(
    Effect.flatMap(sql.reserve, (connection) =>
      Effect.provideService(statement, sql.transactionService, [connection, 0] as const)
    )
  )
  return yield* classified(alone)
})
