/**
 * Renews the leases of all jobs at work, together, on a connection that handlers and completions do not share: a pool that
 * handlers have exhausted must not cost them their leases.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "../internal/busy.ts"
import { chunksOf } from "../internal/chunks.ts"
import type { Lease } from "../Job.ts"
import { heartbeatMany } from "../jobs/lease.ts"
import { maxBatch } from "../jobs/limits.ts"
import { monotonicMillis, type Running } from "./running.ts"

const lose = (running: Running) => Deferred.succeed(running.stop, "LeaseLost")

/**
 * A pooler may give each statement another session, which does not know what we told the last one: then each runs in a
 * transaction that says it, on a connection of the pool.
 */
const renew = Effect.fnUntraced(function* (leases: ReadonlyArray<Lease>, leaseMillis: number) {
  const sql = yield* SqlClient
  const renewing = heartbeatMany(leases, { extend: leaseMillis })
  return yield* Effect.catch(renewing, (error) =>
    error.reason._tag === "UnsupportedIsolation"
      ? Effect.updateContext(renewing, (context: Context.Context<SqlClient>) =>
          Context.add(Context.omit(sql.transactionService)(context), SqlClient, sql)
        )
      : Effect.fail(error)
  )
})

/** One beat. Returns whether all that were asked for were answered. */
const beat = Effect.fnUntraced(function* (all: ReadonlyArray<Running>, leaseMillis: number) {
  let isComplete = true
  for (const chunk of chunksOf(all, maxBatch, () => 1)) {
    const sentAt = monotonicMillis()
    const answers = yield* renew(
      chunk.map(({ job }) => job.lease),
      leaseMillis
    )
    for (const [i, running] of chunk.entries()) {
      const answer = answers[i]
      if (answer !== undefined && Result.isSuccess(answer)) running.leasedUntil = sentAt + leaseMillis
      // a row that is locked may be held by the handler itself, which completes in its own transaction
      else if (answer?.failure._tag === "LeaseOwnerMismatch" && running.completion === "none") yield* lose(running)
      else isComplete = false
    }
  }
  return isComplete
})

/**
 * Beats every third of a lease, sooner after a beat that failed, for as long as it is not interrupted. A lease that could not
 * be renewed in time is over by our own clock, and its handler is stopped before somebody else begins.
 */
export const keep = (
  running: () => ReadonlyArray<Running>,
  leaseMillis: number
): Effect.Effect<never, never, SqlClient> => {
  const pause = Math.max(1, Math.floor(leaseMillis / 3))
  const soon = Math.max(1, Math.min(1000, Math.floor(leaseMillis / 10)))

  // the local judgement needs no database
  const expire = Effect.suspend(() =>
    Effect.forEach(
      running().filter(({ completion, leasedUntil }) => completion === "none" && leasedUntil <= monotonicMillis()),
      lose,
      { discard: true }
    )
  )

  // reserves a connection for as long as statements on it succeed
  const onConnection = Effect.gen(function* () {
    const sql = yield* SqlClient
    const connection = yield* sql.reserve
    yield* Effect.gen(function* () {
      // a statement of its own runs in the default of the session, which need not be ours
      yield* Effect.acquireRelease(sql`SET default_transaction_isolation = 'read committed'`, () =>
        Effect.ignore(sql`RESET default_transaction_isolation`)
      )
      while (true) {
        const all = running()
        const isComplete = all.length === 0 || (yield* beat(all, leaseMillis))
        yield* sleepLive(isComplete ? pause : soon)
      }
    }).pipe(Effect.provideService(sql.transactionService, [connection, 0] as const))
  }).pipe(Effect.scoped)

  const beating = onConnection.pipe(
    Effect.tapCause((cause) => Effect.logWarning("Leases could not be renewed; trying again", cause)),
    Effect.ignoreCause,
    Effect.andThen(sleepLive(soon)),
    Effect.withTracerEnabled(false),
    Effect.forever
  )
  // beside it: a server that never answers holds up a beat, and must not hold up the judgement
  return Effect.raceFirst(beating, Effect.forever(Effect.andThen(sleepLive(soon), expire)))
}
