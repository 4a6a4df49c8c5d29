/**
 * The fence of lease writes, shared by every statement of a lease holder.
 *
 * Each such statement locks first (`locked`: rows that match run, attempt and worker, in id order, SKIP LOCKED), then asks
 * the clock (`live`), then writes by primary key. Asked the other way round, a write passes after its lease has expired,
 * when an earlier locker rolls back: PostgreSQL does not evaluate the WHERE again then.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import type { Lease } from "../Job.ts"
import { InvalidArgument, LeaseOwnerMismatch, QueryFailed, Unavailable } from "../Reason.ts"
import { maxBatch, maxWorkerBytes } from "./limits.ts"

/**
 * Which jobs a statement may write: those of no workflow run, those of the runs whose rows its transaction holds (see
 * `workflows/lock.ts`), or any, if what it writes is no business of the run.
 */
export type Runs = "none" | "any" | ReadonlyArray<string>

/** A job belongs to this run, which has to be locked first. */
export class OfRun extends Data.TaggedClass("OfRun")<{ readonly runId: string }> {}

/** The first rule that a batch of leases breaks: well-formed, no job twice, not too many. */
export const invalidLease = (leases: ReadonlyArray<Lease>): InvalidArgument | undefined => {
  const seen = new Set<string>()
  for (const lease of leases) {
    const invalid =
      Args.printedUuid("lease.jobId", lease.jobId) ??
      Args.integer("lease.runNumber", lease.runNumber, 1) ??
      Args.integer("lease.attempt", lease.attempt, 1) ??
      Args.name("lease.workerId", lease.workerId, maxWorkerBytes) ??
      (lease.workflowRunId === undefined ? undefined : Args.printedUuid("lease.workflowRunId", lease.workflowRunId))
    if (invalid !== undefined) return invalid
    if (seen.has(lease.jobId)) return new InvalidArgument({ argument: "leases", rule: "must not name a job twice" })
    seen.add(lease.jobId)
  }
  return Args.atMost("leases", leases.length, maxBatch)
}

/** The parameters of the fence: the ids, and what each row must show. */
export const fenceOf = (items: ReadonlyArray<{ readonly lease: Lease }>) => ({
  ids: items.map(({ lease }) => lease.jobId),
  // put together as text: an object keyed by ids is slow to build, and UUIDs need no escapes
  fence: `{${items
    .map(({ lease }) => `"${lease.jobId}":${JSON.stringify(`${lease.runNumber}:${lease.attempt}:${lease.workerId}`)}`)
    .join(",")}}`
})

const matches = `q.id = ANY ((SELECT ids FROM input)::uuid[])
        -- an expression, or the planner would take the partial index of leased rows instead of the primary key
        AND q.status || '' = 'LEASED'
        AND (SELECT fence FROM input) ->> q.id::text = q.run_number || ':' || q.attempt || ':' || q.worker_id`

/** The condition that a job `q` is one of those that may be written. */
export const inRuns = (sql: SqlClient, runs: Runs): Fragment =>
  runs === "any"
    ? sql.literal("")
    : runs === "none"
      ? sql.literal("AND q.workflow_run_id IS NULL")
      : sql`AND q.workflow_run_id = ANY (${runs}::uuid[])`

/**
 * `locked` and `live` over `input (ids, fence, ...)`, a CTE of one row. `columns` is what the rest of the statement needs of
 * the row. The rows are read as they are locked, one by one, so `clock` is asked after each lock, and once.
 */
export const lockedThenLive = (sql: SqlClient, clock: Fragment, runs: Runs, columns: string): Fragment => sql`
    locked AS MATERIALIZED (
      SELECT l.*, l.lease_expires_at > ${clock} AS is_live
      FROM (
        SELECT q.id, q.run_number, q.attempt, q.lease_expires_at, q.event_seq, ${sql.literal(columns)}
        FROM runledger.job_queue q
        WHERE ${sql.literal(matches)}
          ${inRuns(sql, runs)}
          AND ${sql.literal(isReadCommitted)}
        ORDER BY q.id
        FOR NO KEY UPDATE SKIP LOCKED
      ) l
    ), live AS NOT MATERIALIZED (
      SELECT * FROM locked WHERE is_live
    )`

/**
 * The answer for every id that `done` does not hold, to be united with it: (id, outcome, workflow_run_id) and `nulls` for
 * the columns that only `done` fills.
 *
 * - `refused`: not in the snapshot under the fence, or locked and expired.
 * - `busy`: in the snapshot under the fence, but not lockable. The row may have changed since: ask again.
 * - `workflow`: the job belongs to a run that has to be locked first.
 * - `live`, as SQL: what a live row is told that the statement itself did not accept.
 *
 * A single row with outcome `isolation` says that the transaction is not READ COMMITTED, and names a run if there is one.
 */
export const othersThanDone = (sql: SqlClient, runs: Runs, nulls: string, live = "'refused'"): Fragment =>
  sql.literal(`
    SELECT
      i.id,
      CASE
        WHEN i.id IN (SELECT id FROM live) THEN ${live}
        WHEN i.id IN (SELECT id FROM locked) THEN 'refused'
        ELSE COALESCE(seen.outcome, 'refused')
      END,
      seen.workflow_run_id${nulls}
    FROM unnest((SELECT ids FROM input)) AS i (id)
    LEFT JOIN LATERAL (
      SELECT
        ${runs === "none" ? "CASE WHEN q.workflow_run_id IS NULL THEN 'busy' ELSE 'workflow' END" : "'busy'"} AS outcome,
        q.workflow_run_id
      FROM runledger.job_queue q
      WHERE q.id = i.id AND ${matches}
    ) seen ON true
    WHERE i.id NOT IN (SELECT id FROM done)
    UNION ALL
    SELECT
      NULL, 'isolation',
      (SELECT q.workflow_run_id FROM runledger.job_queue q WHERE ${matches} AND q.workflow_run_id IS NOT NULL LIMIT 1)${nulls}
    WHERE NOT ${isReadCommitted}`)

/**
 * The answers of a statement that ends in `done UNION ALL` {@link othersThanDone}: by job id, decoded by `decode` where it
 * was done, `"busy"` where it has to be asked again, and by `refuse` for outcomes of the statement's own.
 */
export const answersOf = Effect.fnUntraced(function* <A, Own = never>(
  rows: ReadonlyArray<Row>,
  items: ReadonlyArray<{ readonly lease: Lease }>,
  decode: (row: Row) => A | undefined,
  refuse?: (outcome: string, row: Row, lease: Lease) => Own | undefined
): Effect.fn.Return<Map<string, Result.Result<A, LeaseOwnerMismatch | Own> | "busy">, NotReadCommitted | QueryFailed> {
  const leases = new Map<string, Lease>(items.map(({ lease }) => [lease.jobId, lease]))
  const answers = new Map<string, Result.Result<A, LeaseOwnerMismatch | Own> | "busy">()
  for (const row of rows) {
    const id = row.id
    const outcome = row.outcome
    if (outcome === "isolation") return yield* new NotReadCommitted({ ofRun: Predicate.isString(row.workflow_run_id) })
    const lease = Predicate.isString(id) ? leases.get(id) : undefined
    if (lease === undefined || !Predicate.isString(outcome)) return yield* new QueryFailed({})
    const { jobId, runNumber, attempt } = lease
    if (outcome === "done") {
      const value = decode(row)
      if (value === undefined) return yield* new QueryFailed({})
      answers.set(jobId, Result.succeed(value))
    } else if (outcome === "busy") {
      answers.set(jobId, "busy")
    } else {
      const mismatch = new LeaseOwnerMismatch({ jobId, runNumber, attempt })
      answers.set(jobId, Result.fail(refuse?.(outcome, row, lease) ?? mismatch))
    }
  }
  return answers
})

/** What an outcome `workflow` says. */
export const ofRun = (outcome: string, row: Row): OfRun | undefined =>
  outcome === "workflow" ? new OfRun({ runId: String(row.workflow_run_id) }) : undefined

/** The answer for one item after the patience has run out for those that stayed busy. */
export const answerFor = <A, E>(
  answers: ReadonlyMap<string, Result.Result<A, E>>,
  lease: Lease
): Result.Result<A, E | Unavailable> => answers.get(lease.jobId) ?? Result.fail(new Unavailable({ origin: "busy" }))
