/**
 * Transactions of our own, and statements that may wait for a lock.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { BeginTransaction, type SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import { ConstraintClassifier } from "../FrameworkConstraint.ts"
import type { WriteReason } from "../Reason.ts"
import { classifyWrite } from "./classify.ts"
import * as Sql from "./sql.ts"

/**
 * Runs `self` in a transaction: a READ COMMITTED one of our own, or a savepoint of the caller's, so that a caught failure
 * leaves no half-written rows.
 *
 * Failures of the database become reasons here, because only here is it known what they mean: until COMMIT was sent nothing
 * is written, and a COMMIT that was not answered leaves the outcome open. Effect's transaction dies when its ROLLBACK or the
 * RELEASE of its savepoint fails (as they do on a dead connection); that defect is turned back into the failure that came
 * first.
 */
export const transaction = <A, E, R>(
  self: Effect.Effect<A, E | SqlError, R>
): Effect.Effect<A, E | WriteReason, R | SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* Sql.client
    const joined = yield* Sql.inTransaction(sql)
    const own = yield* ConstraintClassifier
    let body: Exit.Exit<A, E | SqlError> | undefined

    const reasonOf = (error: E | SqlError): E | WriteReason =>
      isSqlError(error) ? classifyWrite(error, own, !joined && body !== undefined && Exit.isSuccess(body)) : error

    return yield* Effect.suspend(() => self).pipe(
      Effect.onExit((exit) =>
        Effect.sync(() => {
          body = exit
        })
      ),
      sql.withTransaction,
      Effect.provideService(BeginTransaction, "BEGIN ISOLATION LEVEL READ COMMITTED"),
      Effect.catchCause((cause) => {
        for (const reason of cause.reasons) {
          if (!Cause.isDieReason(reason) || !isSqlError(reason.defect)) continue
          return body !== undefined && Exit.isFailure(body)
            ? Effect.failCause(Cause.map(body.cause, reasonOf))
            : Effect.fail(reasonOf(reason.defect))
        }
        return Effect.failCause(Cause.map(cause, reasonOf))
      })
    )
  })

/** What a failure means in the context of a statement that stands for itself. */
export const reasonIn = <E>(context: Context.Context<SqlClient>, error: E | SqlError): E | WriteReason => {
  if (!isSqlError(error)) return error
  // a statement of the caller's transaction does not commit by itself
  const commits = Context.getOrUndefined(context, Sql.clientOf(context).transactionService) === undefined
  return classifyWrite(error, Context.get(context, ConstraintClassifier), commits)
}

/** Turns failures of the database into reasons, as those of statements that stand for themselves. */
export const classified = <A, E, R>(
  self: Effect.Effect<A, E | SqlError, R>
): Effect.Effect<A, E | WriteReason, R | SqlClient> =>
  Effect.catch(self, (error) =>
    Effect.contextWith((context: Context.Context<SqlClient>) => Effect.fail(reasonIn(context, error)))
  )
