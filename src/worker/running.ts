import * as Deferred from "effect/Deferred"
import type { ClaimedJob } from "../Job.ts"

/** Why a handler is stopped before it ends by itself. */
export type Stop = "Timeout" | "LeaseLost" | "Shutdown"

/** A job that this process has leased: at work, or waiting for a slot. */
export interface Running {
  readonly job: ClaimedJob
  readonly stop: Deferred.Deferred<Stop>
  /** When its handler was started; of no meaning before. */
  startedAt: number
  /** By the monotonic clock of this process: until then the lease is certainly ours. */
  leasedUntil: number
  /** What has become of `JobExecution.complete`. */
  completion: "none" | "pending" | "committed"
}

/** Milliseconds of a clock that never jumps. */
export const monotonicMillis = (): number => performance.now()

export const leased = (job: ClaimedJob, leaseMillis: number, claimedAt: number): Running => ({
  job,
  stop: Deferred.makeUnsafe(),
  startedAt: claimedAt,
  leasedUntil: claimedAt + leaseMillis,
  completion: "none"
})
