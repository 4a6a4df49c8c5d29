import * as Deferred from "effect/Deferred"
import type { ClaimedJob } from "../Job.ts"

/** Why a handler is stopped before it ends by itself. */
export type Stop = "Timeout" | "LeaseLost" | "Shutdown"

/** A job at work in this process. */
export interface Running {
  readonly job: ClaimedJob
  readonly stop: Deferred.Deferred<Stop>
  readonly startedAt: number
  /** By the monotonic clock of this process: until then the lease is certainly ours. */
  leasedUntil: number
  /** What has become of `JobExecution.complete`. */
  completion: "none" | "pending" | "committed"
}

/** Milliseconds of a clock that never jumps. */
export const monotonicMillis = (): number => performance.now()

export const start = (job: ClaimedJob, leaseMillis: number, claimedAt: number): Running => ({
  job,
  stop: Deferred.makeUnsafe(),
  startedAt: monotonicMillis(),
  leasedUntil: claimedAt + leaseMillis,
  completion: "none"
})
