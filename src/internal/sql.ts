/**
 * How every operation reaches the database.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import { StatementClock } from "../StatementClock.ts"

/**
 * The caller's client without its name transforms: they would rewrite our column names, and the keys inside `jsonb`
 * payloads.
 */
export const clientOf = (context: Context.Context<SqlClient>): SqlClient =>
  Context.get(context, SqlClient).withoutTransforms()

/** {@link clientOf} the fiber. */
export const client: Effect.Effect<SqlClient, never, SqlClient> = SqlClient.useSync((sql) => sql.withoutTransforms())

/** The client and the two instants of a statement. */
export interface Clocked {
  readonly sql: SqlClient
  /** When the statement began: due tests, new leases, the base of a retry, what is written as the time of an event. */
  readonly instant: Fragment
  /** Now, asked again at each evaluation: is this lease live, after its row lock is held. */
  readonly clock: Fragment
}

/** The instant of the test clock, if that is what `StatementClock` chooses. */
export const testInstant = (context: Context.Context<never>): Date | undefined =>
  Context.get(context, StatementClock) === "database"
    ? undefined
    : new Date(Context.get(context, Clock.Clock).currentTimeMillisUnsafe())

/** {@link client} with the instants that `StatementClock` chooses. Never `now()`, which is the start of the caller's transaction. */
export const clocked: Effect.Effect<Clocked, never, SqlClient> = Effect.contextWith(
  (context: Context.Context<SqlClient>) => {
    const sql = clientOf(context)
    const now = testInstant(context)
    if (now === undefined) {
      return Effect.succeed({
        sql,
        instant: sql.literal("statement_timestamp()"),
        clock: sql.literal("clock_timestamp()")
      })
    }
    const at = sql`${now}::timestamptz`
    return Effect.succeed({ sql, instant: at, clock: at })
  }
)

/** Whether the fiber is inside a transaction of `sql`. */
export const inTransaction = (sql: SqlClient): Effect.Effect<boolean> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.succeed(Context.getOrUndefined(context, sql.transactionService) !== undefined)
  )
