/**
 * Endings of attempts, written together: those that come within a few milliseconds are one statement, in which each row is
 * fenced and answered on its own.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "../internal/busy.ts"
import type { Completed, Completion, CompletionRefusal } from "../jobs/complete.ts"
import { completeMany } from "../jobs/complete.ts"
import { attempts } from "../jobs/ledger.ts"
import { QueryFailed, type Reason } from "../Reason.ts"
import * as TenantScope from "../TenantScope.ts"

const gatherMillis = 3
const maxGathered = 500

interface Waiting {
  readonly completion: Completion
  readonly answer: Deferred.Deferred<Result.Result<Completed, Reason>>
}

/** What became of an ending. `Done` without an outcome: an earlier try had been committed although its answer was lost. */
export type Persisted =
  | { readonly _tag: "Done"; readonly outcome: Completed | undefined }
  | { readonly _tag: "Refused"; readonly reason: Reason }

export interface Completions {
  /**
   * Writes an ending and returns what became of it. While the database does not answer it is tried again, until it is
   * refused: the lease is over, and the reaper has the job.
   */
  readonly persist: (completion: Completion) => Effect.Effect<Persisted>
}

const endedAs = { Success: "SUCCEEDED", Failure: "FAILED", Continuation: "CONTINUED" } as const

const liveClock = Clock.Clock.defaultValue()

export const make = (leaseMillis: number): Effect.Effect<Completions, never, SqlClient> =>
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    const waiting: Array<Waiting> = []
    let isGathering = false

    const answerAll = (batch: ReadonlyArray<Waiting>, answer: (i: number) => Result.Result<Completed, Reason>) =>
      Effect.forEach(batch, (each, i) => Deferred.succeed(each.answer, answer(i)), { discard: true })

    const writeBatch = (batch: ReadonlyArray<Waiting>): Effect.Effect<void, never, SqlClient> =>
      Effect.matchEffect(completeMany(batch.map(({ completion }) => completion)), {
        onSuccess: (results: ReadonlyArray<Result.Result<Completed, CompletionRefusal>>) =>
          answerAll(batch, (i) => results[i] ?? Result.fail(new QueryFailed({}))),
        // one that is malformed must not take the others along
        onFailure: ({ reason }) =>
          batch.length > 1 && reason.category === "Validation"
            ? Effect.forEach(batch, (each) => writeBatch([each]), { discard: true })
            : answerAll(batch, () => Result.fail(reason))
      })

    // one at a time: what comes meanwhile is the next batch
    const drain: Effect.Effect<void, never, SqlClient> = Effect.suspend(() => {
      const batch = waiting.splice(0, maxGathered)
      if (batch.length === 0) {
        isGathering = false
        return Effect.void
      }
      const written = Effect.catchCause(writeBatch(batch), (cause) =>
        // whoever waits must hear of it, or no later ending would be written either
        Effect.andThen(
          Effect.logError("Endings could not be written", cause),
          answerAll(batch, () => Result.fail(new QueryFailed({})))
        )
      )
      return Effect.andThen(written, drain)
    })

    const once = (completion: Completion) =>
      Effect.suspend(() => {
        const answer = Deferred.makeUnsafe<Result.Result<Completed, Reason>>()
        waiting.push({ completion, answer })
        if (isGathering) return Deferred.await(answer)
        isGathering = true
        return Effect.andThen(Effect.forkDetach(Effect.andThen(sleepLive(gatherMillis), drain)), Deferred.await(answer))
      })

    const wasCommitted = ({ lease, _tag }: Completion) =>
      Effect.map(
        Effect.result(attempts(TenantScope.admin, lease.jobId)),
        (found) =>
          Result.isSuccess(found) &&
          found.success.some(
            (attempt) =>
              attempt.runNumber === lease.runNumber &&
              attempt.attempt === lease.attempt &&
              attempt.workerId === lease.workerId &&
              Option.contains(attempt.endedAs, endedAs[_tag])
          )
      )

    const persist = Effect.fnUntraced(function* (
      completion: Completion
    ): Effect.fn.Return<Persisted, never, SqlClient> {
      // the reaper ends the attempt after the lease at the latest, unless it has no database either
      const giveUpAt = liveClock.currentTimeMillisUnsafe() + 2 * leaseMillis + 120_000
      let isOpen = false
      for (let pause = 50; ; pause = Math.min(pause * 2, 5000)) {
        const answer = yield* once(completion)
        if (Result.isSuccess(answer)) return { _tag: "Done", outcome: answer.success }
        const reason = answer.failure
        if (reason._tag === "LeaseOwnerMismatch" && isOpen && (yield* wasCommitted(completion))) {
          return { _tag: "Done", outcome: undefined }
        }
        if (reason._tag === "OutcomeUnknown") isOpen = true
        const mayHelp = reason.category === "Unavailable" || reason._tag === "OutcomeUnknown"
        if (!mayHelp || liveClock.currentTimeMillisUnsafe() > giveUpAt) return { _tag: "Refused", reason }
        yield* sleepLive(pause)
      }
    })

    return Effect.succeed({ persist: (completion) => Effect.provideContext(persist(completion), context) })
  })
