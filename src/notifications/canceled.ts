import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { JobId } from "../Job.ts"
import { afterCommit, detached } from "./afterCommit.ts"
import { NotifyInterval } from "./due.ts"

/** The channel on which jobs are named that were canceled while a worker held their lease. */
export const cancellationChannel = "runledger_cancellations"

/**
 * Says that these jobs were canceled, once the caller's transaction has committed, so that their handlers stop before the
 * next heartbeat tells them. Turned off together with {@link NotifyInterval}; not limited by it, since each job is canceled once.
 *
 * Forks one statement for all of them and never waits for it. If it fails, the next heartbeat of the handler is refused.
 */
export const markCanceled = (jobIds: Iterable<JobId>): Effect.Effect<void, never, SqlClient> =>
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    const ids = Array.from(jobIds)
    if (ids.length === 0 || Context.get(context, NotifyInterval) <= 0) return Effect.void
    const sql = Context.get(context, SqlClient).withoutTransforms()
    const send = sql`SELECT pg_notify(${cancellationChannel}, id) FROM unnest(${ids}::text[]) AS ids (id)`
    return afterCommit(sql, context, detached(sql, Effect.ignore(send)))
  })
