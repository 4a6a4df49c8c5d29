/**
 * How the current attempt leaves the job row: the texts that every statement which ends an attempt shares.
 */

/** What a statement selects of a locked row `q`, beside id, run, attempt and `event_seq`, to write its attempt. */
export const attemptColumns =
  "q.worker_id, q.claim_origin, q.leased_at, q.lease_ms, q.attempt_started_at, q.renewed, q.leased_seq, q.started_seq"

/** Where {@link attemptValues} go; the statement adds how the attempt ended. */
export const attemptTarget = `runledger.job_attempts (
        job_id, run_number, attempt, worker_id, claim_origin, leased_at, lease_ms, started_at, renewed, leased_seq,
        started_seq, finished_at, ended_as, ended_seq`

/** The attempt of a locked row `l`, as it was when the row was locked. */
export const attemptValues = `l.id, l.run_number, l.attempt, l.worker_id, l.claim_origin, l.leased_at, l.lease_ms,
        l.attempt_started_at, l.renewed, l.leased_seq, l.started_seq`

/** Takes the attempt off the job row. */
export const withoutAttempt = `worker_id = NULL,
        leased_at = NULL,
        lease_ms = NULL,
        claim_origin = NULL,
        attempt_started_at = NULL,
        renewed = false,
        leased_seq = NULL,
        started_seq = NULL,
        last_heartbeat_at = NULL`

/** Takes the attempt and its lease off the job row. */
export const withoutLease = `lease_expires_at = NULL,
        ${withoutAttempt}`
