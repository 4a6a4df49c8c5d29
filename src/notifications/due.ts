import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import { sleepLive } from "../internal/busy.ts"
import { afterCommit, detached } from "./afterCommit.ts"

/** The channel on which job types are named that have something due. */
export const channel = "runledger_jobs"

/**
 * How often, at most, this process notifies of one job type, in milliseconds; 0 turns notifications off. Commits that notify
 * are serialised by PostgreSQL, so a notification in every enqueue would cost a third of its throughput.
 */
export const NotifyInterval = Context.Reference<number>("effect-runledger/NotifyInterval", { defaultValue: () => 100 })

// Per client, the types whose sender is at work, and whether they became due again since it last sent.
const senders = new WeakMap<object, Map<string, { again: boolean }>>()

/**
 * Says that jobs of these types became due, once the caller's transaction has committed. The first of a burst is sent at
 * once, the last after at most one interval, so the end of a burst is never silent.
 *
 * Only marks the types and forks the senders: an `afterCommit` callback runs uninterruptibly and holds up the transaction
 * that it belongs to, so it never awaits a statement. A notification that fails is dropped: it costs one poll interval.
 */
export const markDue = (jobTypes: Iterable<string>): Effect.Effect<void, never, SqlClient> =>
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    const interval = Context.get(context, NotifyInterval)
    if (interval <= 0) return Effect.void
    const sql = Context.get(context, SqlClient).withoutTransforms()
    const marks = Effect.suspend(() => {
      const first = Array.from(new Set(jobTypes)).filter((jobType) => !isMarked(sql, jobType))
      return first.length === 0
        ? Effect.void
        : Effect.forEach(first, (jobType) => startSender(sql, jobType, interval), { discard: true })
    })
    return afterCommit(sql, context, marks)
  })

const sendersOf = (sql: SqlClient) => {
  // the copies that a client makes of itself share this key
  const known = senders.get(sql.transactionService)
  if (known !== undefined) return known
  const types = new Map<string, { again: boolean }>()
  senders.set(sql.transactionService, types)
  return types
}

/** Whether a sender is at work, which now knows that there is more. */
const isMarked = (sql: SqlClient, jobType: string): boolean => {
  const sender = sendersOf(sql).get(jobType)
  if (sender === undefined) return false
  sender.again = true
  return true
}

const startSender = (sql: SqlClient, jobType: string, interval: number): Effect.Effect<void> =>
  Effect.suspend(() => {
    const types = sendersOf(sql)
    const state = { again: false }
    types.set(jobType, state)
    const send = Effect.suspend(() => {
      state.again = false
      return Effect.andThen(Effect.ignore(sql`SELECT pg_notify(${channel}, ${jobType})`), sleepLive(interval))
    })
    return detached(
      sql,
      send.pipe(Effect.repeat({ while: () => state.again }), Effect.ensuring(Effect.sync(() => types.delete(jobType))))
    )
  })
