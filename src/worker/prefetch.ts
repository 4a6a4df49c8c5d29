/**
 * Jobs that are leased before there is a slot for them. The ledger does not show them as started, so to give one back, or to
 * lose it, costs no attempt.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import { type ProgressReason, startMany } from "../jobs/lease.ts"
import { maxBatch } from "../jobs/limits.ts"
import { releaseUnstarted } from "../jobs/release.ts"
import type { QueryError } from "../QueryError.ts"
import type { Running } from "./running.ts"

export interface Prefetched {
  /** The jobs ahead by id, in the order in which they are to run. Those that were told to stop are forgotten. */
  readonly held: () => ReadonlyMap<string, Running>
  readonly add: (job: Running) => void
  /** Marks the next ones as started and hands them over. Those that cannot be marked now stay; lost ones are forgotten. */
  readonly start: (count: number) => Effect.Effect<ReadonlyArray<Running>, QueryError<ProgressReason>, SqlClient>
  /** Gives all back. What the database does not take is left to the reaper. */
  readonly release: Effect.Effect<void, never, SqlClient>
}

export const make = (): Prefetched => {
  const ahead = new Map<string, Running>()

  const held = () => {
    for (const [jobId, { stop }] of ahead) if (Deferred.isDoneUnsafe(stop)) ahead.delete(jobId)
    return ahead
  }

  const add = (job: Running) => {
    const { jobId } = job.job.lease
    // to the end of the line, also if it was there before
    ahead.delete(jobId)
    ahead.set(jobId, job)
  }

  const start = Effect.fnUntraced(function* (count: number) {
    const next = [...held().values()].slice(0, Math.max(0, Math.min(count, maxBatch)))
    if (next.length === 0) return []
    const answers = yield* Effect.withTracerEnabled(startMany(next.map(({ job }) => job.lease)), false)
    return next.filter(({ job, stop }) => {
      const answer = answers.get(job.lease.jobId)
      if (answer === undefined || answer === "busy") return false
      ahead.delete(job.lease.jobId)
      // while we asked, the job may have been canceled, or its lease may have run out by our own clock
      return Result.isSuccess(answer) && !Deferred.isDoneUnsafe(stop)
    })
  })

  const release = Effect.suspend(() => {
    const all = [...held().values()]
    // first: once given back, a job may be claimed again under the same fence
    ahead.clear()
    return Effect.forEach(all, ({ job }) => Effect.ignore(releaseUnstarted(job.lease, { reason: "WORKER_SHUTDOWN" })), {
      concurrency: 8,
      discard: true
    })
  })

  return { held, add, start, release }
}
