/**
 * The transactions in which migrations are applied and verified.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { BeginTransaction, type SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import * as Sql from "../internal/sql.ts"
import { InsideTransaction } from "../SchemaCompatibilityError.ts"

/** How long to wait for other sessions. */
export interface Patience {
  /** For each lock, in milliseconds: our own waiting for a table holds up everybody who comes after us. */
  readonly lockTimeout: number
  /** How often the whole transaction is tried. */
  readonly attempts: number
  readonly pause: Duration.Input
}

/**
 * Runs `self` in a READ COMMITTED transaction of its own, whatever the session's default is.
 *
 * Effect's transaction dies when its ROLLBACK fails, as it does on a dead connection; that defect becomes the failure
 * that it is.
 */
export const transaction =
  (access: "READ WRITE" | "READ ONLY") =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError | InsideTransaction, R | SqlClient> =>
    Effect.gen(function* () {
      const sql = yield* Sql.client
      if (yield* Sql.inTransaction(sql)) {
        return yield* new InsideTransaction()
      }
      return yield* self.pipe(
        sql.withTransaction,
        Effect.provideService(BeginTransaction, `BEGIN ISOLATION LEVEL READ COMMITTED ${access}`),
        Effect.catchCause((cause): Effect.Effect<never, E | SqlError> => {
          const defect = cause.reasons
            .filter(Cause.isDieReason)
            .map((reason) => reason.defect)
            .find(isSqlError)
          const rest = Cause.fromReasons(
            cause.reasons.filter((reason) => !(Cause.isDieReason(reason) && isSqlError(reason.defect)))
          )
          return defect !== undefined && rest.reasons.length === 0 ? Effect.fail(defect) : Effect.failCause(rest)
        })
      )
    })

/**
 * Settings on which the meaning and the printed form of SQL depend, for the current transaction. Waiting for a lock is
 * not limited yet.
 */
export const normalizeSession: Effect.Effect<void, SqlError, SqlClient> = Effect.gen(function* () {
  const sql = yield* Sql.client
  yield* sql`
    SELECT
      set_config('search_path', 'pg_catalog', true),
      set_config('standard_conforming_strings', 'on', true),
      set_config('quote_all_identifiers', 'off', true),
      set_config('statement_timeout', '0', true),
      set_config('lock_timeout', '0', true)
  `
})

/** From here on, each statement of the transaction waits that long for each lock, then fails with 55P03. */
export const limitLockWaits = Effect.fnUntraced(function* (millis: number) {
  const sql = yield* Sql.client
  yield* sql`SELECT set_config('lock_timeout', ${String(millis)}, true)`
})

/** Makes whole attempts while `isConflict` says that others were in the way. The pauses are real, also under a test clock. */
export const persist =
  (patience: Patience, isConflict: (error: unknown) => boolean) =>
  <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    self.pipe(
      Effect.retry({ while: isConflict, times: patience.attempts - 1, schedule: Schedule.spaced(patience.pause) }),
      Effect.provideService(Clock.Clock, Clock.Clock.defaultValue())
    )
