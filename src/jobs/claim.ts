import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import {
  countOf,
  isBigIntOrNull,
  isDate,
  isJobId,
  isJson,
  isNumber,
  isString,
  isStringOrNull,
  isStrings
} from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import type { ClaimedJob, ClaimOrigin } from "../Job.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type InvalidArgument,
  InvalidLeaseDuration,
  QueryFailed,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { held, lockOf } from "../resources/permit.ts"
import { maxBatch, maxTypeBytes, maxWorkerBytes } from "./limits.ts"

/** What to claim, for whom, and for how long. */
export interface ClaimOptions {
  /** Who will hold the leases: not blank, at most 255 bytes, unique to the process. */
  readonly workerId: string
  /**
   * The job types that the worker can run. A plain name stands for payload version 1; newer payloads than `maxPayloadVersion`
   * are left to workers that know them. No types: nothing is claimed, and no statement is sent.
   */
  readonly types: ReadonlyArray<string | { readonly jobType: string; readonly maxPayloadVersion: number }>
  /** How many jobs at most: 1 to 1,000. */
  readonly limit: number
  /** How long the leases last unless they are renewed: 1 ms to 24 days, rounded up to milliseconds. Default: 60 seconds. */
  readonly lease?: Duration.Input | undefined
}

/** What {@link claim} can fail with. */
export type ClaimReason = InvalidArgument | InvalidLeaseDuration | UnsupportedIsolation | WriteReason

/**
 * Leases due jobs to a worker and marks their attempts as started, in one write: a job that kills its process at once still
 * uses up its attempts.
 *
 * Jobs come by priority, highest first, and first in first out within a lane (type, payload version, priority); among lanes
 * of equal priority the one whose head has waited longest goes first. Rows that others are claiming are skipped, so any
 * number of workers share nothing and wait for nothing. Definitions are not consulted: a disabled type still drains.
 *
 * A job with a resource key is leased only if a permit of the key is free (see `JobResources`); otherwise it is left as it is.
 * If more than 256 lanes of such jobs wait, their priorities hold among 256 that are next to each other from a random key on.
 *
 * Locks the claimed jobs `FOR NO KEY UPDATE SKIP LOCKED`, after the permits and tokens of their keys; writes `job_queue`, these,
 * and the steps of workflow jobs. Inside a caller's transaction the leases exist when it commits.
 *
 * Fails with `InvalidArgument` (worker, types or limit), `InvalidLeaseDuration`, `UnsupportedIsolation` (the caller's
 * transaction is not READ COMMITTED), or what any write can fail with.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * const program = Effect.gen(function* () {
 *   const jobs = yield* Jobs.claim({ workerId: "worker-1", types: ["email.send"], limit: 10, lease: "30 seconds" })
 *   yield* Effect.forEach(jobs, (job) => Jobs.completeSuccess(job.lease, { output: { sent: true } }))
 * })
 * ```
 */
export const claim: (
  options: ClaimOptions
) => Effect.Effect<ReadonlyArray<ClaimedJob>, QueryError<ClaimReason>, SqlClient> = Effect.fnUntraced(function* (
  options: ClaimOptions
) {
  return yield* run(options, "DIRECT")
}, writing("Jobs.claim"))

/**
 * Leases due jobs ahead of running them, for prefetching: as {@link claim}, but the start is marked later, by
 * `Jobs.markRunning`. Until then `Jobs.releaseUnstarted`, or the reaper, takes the claim back without costing an attempt.
 *
 * Fails with the same reasons as {@link claim}; locks and writes the same.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 *
 * const program = Effect.gen(function* () {
 *   const [next] = yield* Jobs.claimPrestart({ workerId: "worker-1", types: ["email.send"], limit: 1 })
 *   if (next !== undefined) yield* Jobs.markRunning(next.lease)
 * })
 * ```
 */
export const claimPrestart: (
  options: ClaimOptions
) => Effect.Effect<ReadonlyArray<ClaimedJob>, QueryError<ClaimReason>, SqlClient> = Effect.fnUntraced(function* (
  options: ClaimOptions
) {
  return yield* run(options, "WORKER_PRESTART")
}, writing("Jobs.claimPrestart"))

const run = Effect.fnUntraced(function* (options: ClaimOptions, origin: ClaimOrigin) {
  const types = new Map<string, number>()
  for (const type of options.types) {
    const { jobType, maxPayloadVersion } = typeof type === "string" ? { jobType: type, maxPayloadVersion: 1 } : type
    const invalid =
      Args.name("types", jobType, maxTypeBytes) ?? Args.integer("types.maxPayloadVersion", maxPayloadVersion, 1)
    if (invalid !== undefined) return yield* invalid
    types.set(jobType, Math.max(maxPayloadVersion, types.get(jobType) ?? 1))
  }
  const invalid =
    Args.name("workerId", options.workerId, maxWorkerBytes) ??
    Args.integer("limit", options.limit, 1, maxBatch) ??
    Args.atMost("types", types.size, maxBatch)
  if (invalid !== undefined) return yield* invalid
  const lease = Args.millis(options.lease ?? 60_000)
  if (lease === undefined || lease < 1 || lease > Args.maxInt) return yield* new InvalidLeaseDuration()
  if (types.size === 0) return []

  const input = { ...options, lease, origin, types: [...types.keys()], versions: [...types.values()] }
  return yield* Effect.gen(function* () {
    const { jobs, newKeys } = yield* select(input)
    if (newKeys.length === 0) return jobs
    // keys that nobody has ever claimed have no permit yet
    yield* createPermits(newKeys)
    const limit = input.limit - jobs.length
    return limit === 0 ? jobs : [...jobs, ...(yield* select({ ...input, limit })).jobs]
  }).pipe(readCommitted("job.unsupported_isolation"))
})

/** How many lanes of jobs with a resource key one claim looks at. If more wait, it begins at a random key. */
const maxKeyedLanes = 256

/** Gives keys their first permit. Who creates it at the same time holds the lock of the key, and is not waited for. */
const createPermits = Effect.fnUntraced(function* (keys: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  yield* sql`
    INSERT INTO runledger.job_execution_permits (resource_key, slot, spot)
    SELECT k.resource_key, 1, random()
    FROM unnest(${keys}::text[]) AS k (resource_key)
    WHERE pg_try_advisory_xact_lock(${sql.literal(lockOf("k.resource_key"))})
    ON CONFLICT DO NOTHING
  `
})

/**
 * The claim, as one statement whose cost depends on the lanes of the types asked for and the jobs taken, not on what else
 * the table holds.
 *
 * - `lanes` walks the existing payload versions and priorities of jobs without a resource key, one index probe each, which
 *   finds the head of the lane. (PostgreSQL 18 could skip through the index by itself, older servers cannot.) The first lane
 *   of a version has no priority if all of its jobs have keys.
 * - `keyed` walks the resource keys of each version and their priorities. A key is one probe however many jobs wait for it,
 *   and the walk is bounded: if there are more, it begins at a random one, so that each has its turn.
 * - `heads` keeps the lanes that have something due, and orders them.
 * - `picked` pulls from the lanes in that order. The LIMIT stands outside and the lock inside, so rows are locked one by one
 *   as they are pulled. Of a lane with a resource key it locks the free permits first, then tokens of the rate, then as many
 *   jobs. All of them skip what others hold: two claims never wait for each other, and a key that another claim is about is
 *   left to the next one. It begins at the head of each lane: before that lie the entries of jobs that were claimed and are
 *   not vacuumed yet.
 * - No parameter stands where the planner could look at its value: one plan serves all, so it is made once.
 * - The update reaches its rows by `id = ANY (ARRAY(...))`: a join would be chosen by statistics, and those of a queue are
 *   always wrong.
 */
const select = Effect.fnUntraced(function* (
  input: Omit<ClaimOptions, "types" | "lease"> & {
    readonly lease: number
    readonly origin: ClaimOrigin
    readonly types: ReadonlyArray<string>
    readonly versions: ReadonlyArray<number>
  }
): Effect.fn.Return<Claimed, SqlError | NotReadCommitted | QueryFailed, SqlClient> {
  const { sql, instant } = yield* Sql.clocked
  const starts = input.origin === "DIRECT"
  const rows = yield* sql`
    WITH RECURSIVE input AS MATERIALIZED (
      SELECT
        ${instant} AS at, ${input.workerId}::text AS worker_id, ${input.lease}::integer AS lease_ms,
        ${input.types}::text[] AS types, ${input.versions}::integer[] AS versions, ${input.limit}::integer AS size,
        COALESCE((
          SELECT p.resource_key
          FROM runledger.job_execution_permits p
          WHERE p.slot = 1 AND p.spot >= (SELECT random())
          ORDER BY p.spot
          LIMIT 1
        ), '') AS start_key
    ), lanes AS (
      SELECT t.job_type, t.max_version, lane.payload_version, lane.priority, lane.next_run_at, 1 AS nth
      FROM unnest((SELECT types FROM input), (SELECT versions FROM input)) AS t (job_type, max_version)
      CROSS JOIN LATERAL (
        SELECT
          q.payload_version, CASE WHEN q.execution_resource_key IS NULL THEN q.priority::integer END AS priority, q.next_run_at
        FROM runledger.job_queue q
        WHERE q.status = 'PENDING' AND q.job_type = t.job_type AND q.payload_version <= t.max_version
        ORDER BY q.payload_version, q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
        LIMIT 1
      ) lane
      WHERE ${sql.literal(isReadCommitted)}
      UNION ALL
      SELECT l.job_type, l.max_version, lane.payload_version, lane.priority, lane.next_run_at, lane.nth
      FROM lanes l
      CROSS JOIN LATERAL (
        (
          SELECT q.payload_version, q.priority::integer AS priority, q.next_run_at, l.nth + 1 AS nth
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.execution_resource_key IS NULL
            AND q.job_type = l.job_type AND q.payload_version = l.payload_version AND q.priority < l.priority
          ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        UNION ALL
        (
          SELECT q.payload_version, CASE WHEN q.execution_resource_key IS NULL THEN q.priority::integer END, q.next_run_at, 1
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = l.job_type
            AND q.payload_version > l.payload_version AND q.payload_version <= l.max_version
          ORDER BY q.payload_version, q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        LIMIT 1
      ) lane
    ), keyed AS (
      SELECT v.job_type, v.payload_version, first.resource_key, first.priority, first.next_run_at, first.is_past_end
      FROM lanes v
      CROSS JOIN LATERAL (
        (
          SELECT q.execution_resource_key AS resource_key, q.priority, q.next_run_at, false AS is_past_end
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = v.job_type AND q.payload_version = v.payload_version
            AND q.execution_resource_key >= (SELECT start_key FROM input)
          ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        UNION ALL
        (
          SELECT q.execution_resource_key, q.priority, q.next_run_at, true
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = v.job_type AND q.payload_version = v.payload_version
            AND q.execution_resource_key < (SELECT start_key FROM input)
          ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        LIMIT 1
      ) first
      WHERE v.nth = 1
      UNION ALL
      SELECT k.job_type, k.payload_version, next.resource_key, next.priority, next.next_run_at, next.is_past_end
      FROM keyed k
      CROSS JOIN LATERAL (
        (
          SELECT q.execution_resource_key AS resource_key, q.priority, q.next_run_at, k.is_past_end
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = k.job_type AND q.payload_version = k.payload_version
            AND q.execution_resource_key = k.resource_key AND q.priority < k.priority
          ORDER BY q.priority DESC, q.next_run_at
          LIMIT 1
        )
        UNION ALL
        (
          SELECT q.execution_resource_key, q.priority, q.next_run_at, false
          FROM runledger.job_queue q
          WHERE NOT k.is_past_end
            AND q.status = 'PENDING' AND q.job_type = k.job_type AND q.payload_version = k.payload_version
            AND q.execution_resource_key > k.resource_key
          ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        UNION ALL
        (
          SELECT q.execution_resource_key, q.priority, q.next_run_at, true
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = k.job_type AND q.payload_version = k.payload_version
            AND q.execution_resource_key > CASE WHEN k.is_past_end THEN k.resource_key::text ELSE '' END
            AND q.execution_resource_key < (SELECT start_key FROM input)
          ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC, q.next_run_at
          LIMIT 1
        )
        LIMIT 1
      ) next
    ), heads AS MATERIALIZED (
      SELECT l.job_type, l.payload_version, NULL::text AS resource_key, l.priority, l.next_run_at
      FROM lanes l
      WHERE l.priority IS NOT NULL AND l.next_run_at <= (SELECT at FROM input)
      UNION ALL
      (
        -- one lane of each key, or the same permit would be given twice
        SELECT DISTINCT ON (k.resource_key) k.job_type, k.payload_version, k.resource_key, k.priority, k.next_run_at
        FROM (SELECT * FROM keyed LIMIT ${sql.literal(String(maxKeyedLanes))}) k
        WHERE k.next_run_at <= (SELECT at FROM input)
        ORDER BY k.resource_key, k.priority DESC, k.next_run_at
      )
      ORDER BY priority DESC, next_run_at
    ), picked AS MATERIALIZED (
      SELECT candidate.id, candidate.permit_id, candidate.token_id, candidate.rate_interval_ms
      FROM (
        SELECT job.id, job.permit_id, job.token_id, job.rate_interval_ms
        FROM heads h
        CROSS JOIN LATERAL (
          SELECT free.id, NULL::bigint AS permit_id, NULL::bigint AS token_id, NULL::integer AS rate_interval_ms
          FROM (
            SELECT q.id
            FROM runledger.job_queue q
            WHERE h.resource_key IS NULL
              AND q.status = 'PENDING' AND q.execution_resource_key IS NULL
              AND q.job_type = h.job_type AND q.payload_version = h.payload_version AND q.priority = h.priority
              AND q.next_run_at BETWEEN h.next_run_at AND (SELECT at FROM input)
            ORDER BY q.execution_resource_key NULLS FIRST, q.next_run_at, q.id
            -- a lateral step is planned for all of its rows unless it says how many: a backlog would be sorted whole
            LIMIT ${sql.literal(String(maxBatch))}
            FOR NO KEY UPDATE SKIP LOCKED
          ) free
          UNION ALL
          SELECT job.id, permit.ids[job.place], token.ids[job.place], resource.rate_interval_ms
          FROM (
            SELECT array_agg(p.id) AS ids
            FROM (
              SELECT p.id
              FROM runledger.job_execution_permits p
              WHERE p.resource_key = h.resource_key AND NOT p.is_retired AND NOT ${sql.literal(held("p"))}
                -- As this statement's snapshot has it: who took the permit since then may hold a lease that it does not show.
                AND p.uses = (SELECT s.uses FROM runledger.job_execution_permits s WHERE s.id = p.id)
                AND NOT EXISTS (
                  SELECT FROM runledger.job_execution_permits r
                  WHERE r.resource_key = h.resource_key AND r.is_retired AND ${sql.literal(held("r"))}
                )
              ORDER BY p.slot
              LIMIT (SELECT size FROM input)
              FOR NO KEY UPDATE SKIP LOCKED
            ) p
          ) permit
          LEFT JOIN runledger.job_execution_resources resource ON resource.resource_key = h.resource_key
          CROSS JOIN LATERAL (
            SELECT array_agg(t.id) AS ids
            FROM (
              SELECT t.id
              FROM runledger.job_execution_rate_tokens t
              WHERE resource.rate_interval_ms IS NOT NULL
                AND t.resource_key = h.resource_key AND t.free_at <= (SELECT at FROM input)
              ORDER BY t.free_at
              LIMIT cardinality(permit.ids)
              FOR NO KEY UPDATE SKIP LOCKED
            ) t
          ) token
          CROSS JOIN LATERAL (
            SELECT q.id, row_number() OVER () AS place
            FROM (
              SELECT q.id
              FROM runledger.job_queue q
              WHERE q.status = 'PENDING' AND q.execution_resource_key = h.resource_key
                AND q.job_type = h.job_type AND q.payload_version = h.payload_version AND q.priority = h.priority
                AND q.next_run_at BETWEEN h.next_run_at AND (SELECT at FROM input)
              ORDER BY q.next_run_at, q.id
              LIMIT CASE
                WHEN resource.rate_interval_ms IS NULL THEN COALESCE(cardinality(permit.ids), 0)
                ELSE COALESCE(cardinality(token.ids), 0)
              END
              FOR NO KEY UPDATE SKIP LOCKED
            ) q
          ) job
          WHERE h.resource_key IS NOT NULL
        ) job
        -- a constant, or the plan is priced at a tenth of the table and the server compiles it at each claim
        LIMIT ${sql.literal(String(maxBatch))}
      ) candidate
      LIMIT (SELECT size FROM input)
    ), claimed AS (
      UPDATE runledger.job_queue q
      SET
        status = 'LEASED',
        attempt = q.attempt + 1,
        worker_id = i.worker_id,
        leased_at = i.at,
        lease_ms = i.lease_ms,
        lease_expires_at = i.at + i.lease_ms * interval '1 millisecond',
        last_heartbeat_at = i.at,
        claim_origin = ${sql.literal(`'${input.origin}'`)},
        attempt_started_at = ${sql.literal(starts ? "i.at" : "NULL")},
        renewed = false,
        leased_seq = q.event_seq + 1,
        started_seq = ${sql.literal(starts ? "q.event_seq + 2" : "NULL")},
        event_seq = q.event_seq + ${sql.literal(starts ? "2" : "1")},
        started_at = COALESCE(q.started_at, i.at),
        stage = ${sql.literal(starts ? "'running'" : "q.stage")},
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM picked))
      RETURNING
        q.id, q.run_number, q.attempt, q.job_type, q.payload_version, q.organization_id, q.payload,
        q.priority, q.max_attempts, q.timeout_seconds, q.next_run_at, q.lease_expires_at, q.checkpoint,
        q.progress_done, q.progress_total, q.created_at, q.workflow_run_id, q.workflow_step_id,
        q.trace_parent, q.leased_at, q.leased_seq
    ), permit AS (
      UPDATE runledger.job_execution_permits p
      SET
        uses = p.uses + 1, job_id = c.id, run_number = c.run_number, attempt = c.attempt, leased_seq = c.leased_seq,
        taken_at = c.leased_at
      FROM picked k
      JOIN claimed c ON c.id = k.id
      WHERE k.permit_id IS NOT NULL
        AND p.id = k.permit_id AND p.id = ANY (ARRAY(SELECT permit_id FROM picked WHERE permit_id IS NOT NULL))
    ), token AS (
      UPDATE runledger.job_execution_rate_tokens t
      SET free_at = i.at + k.rate_interval_ms * interval '1 millisecond'
      FROM picked k
      CROSS JOIN input i
      WHERE k.token_id IS NOT NULL
        AND t.id = k.token_id AND t.id = ANY (ARRAY(SELECT token_id FROM picked WHERE token_id IS NOT NULL))
    ), step AS (
      -- what "stepFollows" would write of a job that is leased, and no more: every claim pays for it, also one of nothing
      UPDATE runledger.workflow_steps s
      SET status = 'RUNNING', started_at = COALESCE(s.started_at, c.leased_at), updated_at = c.leased_at
      FROM claimed c
      WHERE s.id = c.workflow_step_id
        -- a list of ids: only look-ups by primary key can answer it, whatever statistics say
        AND s.id = ANY (ARRAY(SELECT workflow_step_id FROM claimed WHERE workflow_step_id IS NOT NULL))
        AND c.workflow_run_id IS NOT NULL
        AND s.status IN ('ENQUEUED', 'RUNNING')
    )
    SELECT
      c.id, c.run_number, c.attempt, c.job_type, c.payload_version, c.organization_id, c.payload, c.priority, c.max_attempts,
      c.timeout_seconds, c.lease_expires_at, c.checkpoint, c.progress_done, c.progress_total, c.created_at, c.workflow_run_id,
      c.workflow_step_id, c.trace_parent,
      NULLIF(ARRAY(
        SELECT h.resource_key
        FROM heads h
        WHERE h.resource_key IS NOT NULL AND NOT EXISTS (
          SELECT FROM runledger.job_execution_permits p WHERE p.resource_key = h.resource_key
        )
      ), '{}') AS new_keys
    -- a row of nothing if nothing was claimed, and no row if nothing may be
    FROM (SELECT WHERE ${sql.literal(isReadCommitted)}) AS allowed
    LEFT JOIN claimed c ON true
    ORDER BY c.priority DESC, c.next_run_at, c.id
  `
  const [first] = rows
  if (first === undefined) return yield* new NotReadCommitted()
  const jobs: Array<ClaimedJob> = []
  for (const row of rows) {
    if (row.id === null) continue
    const job = decode(row, input.workerId)
    if (job === undefined) return yield* new QueryFailed({})
    jobs.push(job)
  }
  const newKeys = first.new_keys ?? []
  if (!isStrings(newKeys)) return yield* new QueryFailed({})
  return { jobs, newKeys }
})

/** What a claim took, and the resource keys that it met for which there is no permit yet. */
interface Claimed {
  readonly jobs: ReadonlyArray<ClaimedJob>
  readonly newKeys: ReadonlyArray<string>
}

const decode = (row: Readonly<Record<string, unknown>>, workerId: string): ClaimedJob | undefined => {
  const id = row.id
  const runNumber = row.run_number
  const attempt = row.attempt
  const jobType = row.job_type
  const payloadVersion = row.payload_version
  const organizationId = row.organization_id
  const payload = row.payload
  const priority = row.priority
  const maxAttempts = row.max_attempts
  const timeoutSeconds = row.timeout_seconds
  const leaseExpiresAt = row.lease_expires_at
  const checkpoint = row.checkpoint
  const done = row.progress_done
  const total = row.progress_total
  const createdAt = row.created_at
  const runId = row.workflow_run_id
  const stepId = row.workflow_step_id
  const traceParent = row.trace_parent
  return isJobId(id) &&
    isNumber(runNumber) &&
    isNumber(attempt) &&
    isString(jobType) &&
    isNumber(payloadVersion) &&
    isStringOrNull(organizationId) &&
    isJson(payload) &&
    isNumber(priority) &&
    isNumber(maxAttempts) &&
    isNumber(timeoutSeconds) &&
    isDate(leaseExpiresAt) &&
    isJson(checkpoint) &&
    isBigIntOrNull(done) &&
    isBigIntOrNull(total) &&
    isDate(createdAt) &&
    isStringOrNull(runId) &&
    isStringOrNull(stepId) &&
    isStringOrNull(traceParent)
    ? {
        lease: { jobId: id, runNumber, attempt, workerId, ...(runId === null ? {} : { workflowRunId: runId }) },
        jobType,
        payloadVersion,
        organizationId: Option.fromNullOr(organizationId),
        payload,
        priority,
        maxAttempts,
        timeoutSeconds,
        leaseExpiresAt: DateTime.fromDateUnsafe(leaseExpiresAt),
        checkpoint: Option.fromNullOr(checkpoint),
        progress: { done: countOf(done), total: countOf(total) },
        createdAt: DateTime.fromDateUnsafe(createdAt),
        workflow: runId === null || stepId === null ? Option.none() : Option.some({ runId, stepId }),
        traceParent: Option.fromNullOr(traceParent)
      }
    : undefined
}
