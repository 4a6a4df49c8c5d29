/**
 * What may happen to a job. Each operation is an Effect that needs a `SqlClient`, joins the caller's transaction, and lists
 * in its type everything that can go wrong.
 *
 * Locks: an operation locks rows of `job_queue` only, `FOR NO KEY UPDATE`, and skips what others hold. Lease writes take
 * them in the order of their ids; a claim in the order of its lanes, the reaper in that of the expiries: whoever skips never
 * waits, so no order can deadlock. Only an enqueue with a key may wait for another transaction, for at most five seconds.
 */
export { type ClaimedJob, type FailureKind, JobId, JobRecord, type Lease, type Stage, type Status } from "./Job.ts"
export * from "./jobs/cancel.ts"
export * from "./jobs/claim.ts"
export * from "./jobs/complete.ts"
export * from "./jobs/enqueue.ts"
export * from "./jobs/eventPayload.ts"
export {
  type HeartbeatManyReason,
  type HeartbeatOptions,
  type HeartbeatReason,
  type HeartbeatRefusal,
  heartbeat,
  heartbeatMany,
  markRunning,
  type ProgressReason,
  type ProgressUpdate,
  type Renewal,
  updateProgress
} from "./jobs/lease.ts"
export * from "./jobs/ledger.ts"
export * from "./jobs/metrics.ts"
export * from "./jobs/outcome.ts"
export * from "./jobs/payload.ts"
export * from "./jobs/payloadLookup.ts"
export * from "./jobs/read.ts"
export {
  type PostponedLease,
  type Reaped,
  type ReapedLease,
  type ReapOptions,
  type ReapReason,
  reapExpiredLeases
} from "./jobs/reap.ts"
export * from "./jobs/redrive.ts"
export { type ReleaseOptions, type ReleaseReason, releaseUnstarted } from "./jobs/release.ts"
export * from "./jobs/replay.ts"
export {
  type CancellationNotQuiesced,
  type ExpectationMismatch,
  type NotFound,
  type RequeueableStatus,
  type Requeued,
  type RequeueOutcome,
  type RequeueReason,
  type RequeueRequest,
  requeue,
  requeueOf,
  type StatePolicy
} from "./jobs/requeue.ts"
