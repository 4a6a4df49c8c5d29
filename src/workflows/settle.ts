/**
 * How the steps of a run follow what happened: to their jobs, and to their prerequisites.
 *
 * Everything here runs in a transaction that holds the rows of the runs; see `lock.ts`.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Row } from "effect/sql/SqlConnection"
import { isString } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { markDue } from "../Notifications.ts"
import { runTerminalChannel } from "../notifications/terminal.ts"
import { QueryFailed } from "../Reason.ts"
import { WorkflowRunRow } from "../WorkflowRun.ts"

/** The run in a row. */
export const runOf = (row: unknown) =>
  Effect.mapError(Schema.decodeUnknownEffect(WorkflowRunRow)(row), () => new QueryFailed({}))

/** A step, by its run and its id. */
export interface StepRef {
  readonly runId: string
  readonly stepId: string
}

/** What {@link stepFollows} reads of a job `q`. */
export const followed = `q.workflow_run_id, q.workflow_step_id, q.status, q.status_reason, q.last_error_code,
        q.last_error_message, q.output, q.started_at, q.run_number`

/**
 * Writes the state of jobs to their steps, for a CTE `job` that holds {@link followed}; whoever has written a job writes its
 * step in the same statement or the next. `instant` is SQL.
 *
 * `started_at` is the first start: it stays over retries, and goes when a claim is taken back that never started.
 */
export const stepFollows = (job: string, instant: string) => `
      UPDATE runledger.workflow_steps s
      SET
        status = CASE q.status
          WHEN 'PENDING' THEN 'ENQUEUED' WHEN 'LEASED' THEN 'RUNNING' WHEN 'DEAD_LETTERED' THEN 'FAILED' ELSE q.status
        END,
        started_at = CASE
          WHEN q.status = 'LEASED' THEN COALESCE(s.started_at, ${instant})
          WHEN q.status = 'PENDING' AND q.started_at IS NULL AND q.run_number = 1 THEN NULL
          ELSE s.started_at
        END,
        finished_at = CASE WHEN q.status NOT IN ('PENDING', 'LEASED') THEN COALESCE(s.finished_at, ${instant}) END,
        status_reason = CASE q.status
          WHEN 'SUCCEEDED' THEN 'SUCCEEDED' WHEN 'LEASED' THEN s.status_reason ELSE q.status_reason
        END,
        last_error_code = CASE
          WHEN q.status IN ('PENDING', 'DEAD_LETTERED') THEN q.last_error_code
          WHEN q.status = 'LEASED' THEN s.last_error_code
        END,
        last_error_message = CASE
          WHEN q.status IN ('PENDING', 'DEAD_LETTERED') THEN q.last_error_message
          WHEN q.status = 'LEASED' THEN s.last_error_message
        END,
        output = CASE q.status WHEN 'SUCCEEDED' THEN q.output END,
        updated_at = ${instant}
      FROM ${job} q
      WHERE s.id = q.workflow_step_id
        -- a list of ids: only look-ups by primary key can answer it, whatever statistics say
        AND s.id = ANY (ARRAY(SELECT followed.workflow_step_id FROM ${job} followed))
        AND s.status IN ('ENQUEUED', 'RUNNING')`

/** Lets the steps of these jobs follow them, and everything that follows from the steps that have ended. */
export const settleJobs = Effect.fnUntraced(function* (jobIds: ReadonlyArray<string>) {
  if (jobIds.length === 0) return
  const { sql, instant } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${jobIds}::uuid[] AS ids, ${instant} AS at
    ), job AS MATERIALIZED (
      SELECT ${sql.literal(followed)}
      FROM runledger.job_queue q
      WHERE q.id = ANY ((SELECT ids FROM input)::uuid[]) AND q.workflow_run_id IS NOT NULL
    ), step AS (
      ${sql.literal(stepFollows("job", "(SELECT at FROM input)"))}
      RETURNING s.workflow_run_id, s.id, s.status
    )
    SELECT workflow_run_id, id FROM step WHERE status IN ('SUCCEEDED', 'FAILED', 'CANCELED')
  `
  yield* settle(yield* refsOf(rows), "ended now")
})

/**
 * Counts ended steps down at their dependents, and brings those that wait for nothing more to what they have become: enqueued,
 * waiting, or canceled because a prerequisite did not end as it had to. Canceled ones are ended steps themselves: the next
 * round counts them down, until none is left. The run counts its steps, and follows.
 *
 * `counted`: whether the run knows already that these steps have ended.
 */
export const settle = Effect.fnUntraced(function* (ended: ReadonlyArray<StepRef>, counted: "ended now" | "counted") {
  const due = new Set<string>()
  let isCounted = counted === "counted"
  for (let steps = ended; steps.length > 0; isCounted = true) {
    const canceled: Array<StepRef> = []
    for (const { what, workflow_run_id: runId, id: stepId, job_type: jobType } of yield* round(steps, isCounted)) {
      if (what === "released" && isString(jobType)) due.add(jobType)
      else if (what === "canceled" && isString(runId) && isString(stepId)) canceled.push({ runId, stepId })
      else if (what !== "run") return yield* new QueryFailed({})
    }
    steps = canceled
  }
  if (due.size > 0) yield* markDue(due)
  return undefined
})

/**
 * Until when canceled handlers of a run may still be at work, or NULL: an ended run keeps its active key until then. A value, not
 * a condition: of that the planner would make a join, which begins with all canceled steps there are.
 */
export const heldUntil = (run: string) => `(
          SELECT max(q.lease_expires_at)
          FROM runledger.workflow_steps s
          CROSS JOIN LATERAL (SELECT * FROM runledger.job_queue q WHERE q.id = s.job_id LIMIT 1) q
          WHERE s.workflow_run_id BETWEEN ${run} AND ${run} AND s.status = 'CANCELED' AND q.status = 'CANCELED'
        )`

/** Reads `ended_run (id, status)`: tells of their end, and gives their active keys back, or says that this is to be done. */
export const endRuns = (clock: string) => `
    freed AS (
      DELETE FROM runledger.workflow_active_claims c
      WHERE c.workflow_run_id = ANY (ARRAY(SELECT id FROM ended_run))
        AND (${heldUntil("c.workflow_run_id")} > ${clock}) IS NOT TRUE
    ), kept AS (
      UPDATE runledger.workflow_active_claims c
      SET release_pending = true, updated_at = ${clock}
      WHERE c.workflow_run_id = ANY (ARRAY(SELECT id FROM ended_run)) AND ${heldUntil("c.workflow_run_id")} > ${clock}
    ), told AS MATERIALIZED (
      SELECT r.id, pg_notify(
        '${runTerminalChannel}', jsonb_build_object('workflow_run_id', r.id, 'status', r.status)::text
      )
      FROM ended_run r
    )`

const round = Effect.fnUntraced(function* (steps: ReadonlyArray<StepRef>, isCounted: boolean) {
  const { sql, instant, clock } = yield* Sql.clocked
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${steps.map(({ runId }) => runId)}::uuid[] AS runs, ${steps.map(({ stepId }) => stepId)}::uuid[] AS steps,
        ${instant} AS at, ${clock} AS clock
    ), ended AS MATERIALIZED (
      SELECT s.workflow_run_id, s.id, s.status, s.execution_kind
      FROM unnest((SELECT runs FROM input), (SELECT steps FROM input)) AS e (run_id, step_id)
      CROSS JOIN LATERAL (
        SELECT * FROM runledger.workflow_steps s WHERE s.id = e.step_id LIMIT 1
      ) s
    ), met AS MATERIALIZED (
      SELECT
        d.workflow_run_id, d.dependent_step_id, count(*)::integer AS met,
        (count(*) FILTER (WHERE d.release_mode = 'ON_SUCCESS' AND e.status <> 'SUCCEEDED'))::integer AS unsatisfied
      FROM ended e
      JOIN runledger.workflow_step_dependencies d
        ON d.workflow_run_id = e.workflow_run_id AND d.prerequisite_step_id = e.id
      GROUP BY d.workflow_run_id, d.dependent_step_id
    ), verdict AS MATERIALIZED (
      SELECT
        s.id, s.workflow_run_id, s.status, s.job_type, s.payload_version, s.organization_id, s.payload, s.priority,
        s.max_attempts, s.timeout_seconds, s.stage, s.execution_resource_key, m.met, m.unsatisfied, r.trace_parent,
        CASE
          WHEN s.status <> 'BLOCKED' OR s.dependency_count_pending > m.met OR r.status = 'CANCELED' THEN s.status
          WHEN s.dependency_count_unsatisfied + m.unsatisfied > 0 THEN 'CANCELED'
          WHEN s.execution_kind = 'EXTERNAL' THEN 'WAITING_FOR_EXTERNAL'
          ELSE 'ENQUEUED'
        END AS becomes
      FROM met m
      CROSS JOIN LATERAL (
        SELECT * FROM runledger.workflow_steps s
        WHERE s.id = m.dependent_step_id
        LIMIT 1
      ) s
      CROSS JOIN LATERAL (
        SELECT r.status, r.trace_parent FROM runledger.workflow_runs r WHERE r.id = m.workflow_run_id LIMIT 1
      ) r
    ), judged AS MATERIALIZED (
      SELECT
        v.*, CASE WHEN v.becomes = 'ENQUEUED' AND v.status = 'BLOCKED' THEN runledger.uuidv7() END AS new_job_id
      FROM verdict v
      -- first in, first out
      ORDER BY v.id
    ), released AS MATERIALIZED (
      SELECT * FROM judged WHERE new_job_id IS NOT NULL
    ), moved AS (
      UPDATE runledger.workflow_steps s
      SET
        dependency_count_pending = s.dependency_count_pending - j.met,
        dependency_count_unsatisfied = s.dependency_count_unsatisfied + j.unsatisfied,
        status = j.becomes,
        job_id = COALESCE(j.new_job_id, s.job_id),
        released_at = CASE
          WHEN j.becomes <> j.status AND j.becomes <> 'CANCELED' THEN COALESCE(s.released_at, i.at) ELSE s.released_at
        END,
        finished_at = CASE WHEN j.becomes <> j.status AND j.becomes = 'CANCELED' THEN i.at ELSE s.finished_at END,
        status_reason = CASE
          WHEN j.becomes = j.status THEN s.status_reason WHEN j.becomes = 'CANCELED' THEN 'workflow.dependency_unsatisfied'
        END,
        last_error_code = CASE
          WHEN j.becomes = j.status THEN s.last_error_code WHEN j.becomes = 'CANCELED' THEN 'workflow.dependency_unsatisfied'
        END,
        last_error_message = CASE
          WHEN j.becomes = j.status THEN s.last_error_message
          WHEN j.becomes = 'CANCELED' THEN 'A prerequisite did not end as this step requires'
        END,
        updated_at = i.at
      FROM judged j
      CROSS JOIN input i
      WHERE s.id = j.id AND s.id = ANY (ARRAY(SELECT id FROM judged))
    ), enqueued AS (
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at, stage,
        execution_resource_key, workflow_run_id, workflow_step_id, trace_parent, created_at, updated_at
      )
      SELECT
        n.new_job_id, n.job_type, n.payload_version, n.organization_id, n.payload, n.priority, n.max_attempts,
        n.timeout_seconds, i.at, n.stage, n.execution_resource_key, n.workflow_run_id, n.id, n.trace_parent, i.at, i.at
      FROM released n
      CROSS JOIN input i
    ), staged AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, event_type, stage, payload, occurred_at)
      SELECT n.new_job_id, 1, 1, 'ENQUEUED', n.stage, jsonb_build_object('job_type', n.job_type), i.at
      FROM released n
      CROSS JOIN input i
      WHERE n.stage <> 'queued'
    ), tally AS MATERIALIZED (
      SELECT
        t.workflow_run_id, sum(t.open)::integer AS open, sum(t.waiting)::integer AS waiting,
        sum(t.unsuccessful)::integer AS unsuccessful
      FROM (
        SELECT
          e.workflow_run_id,
          CASE e.execution_kind WHEN 'JOB' THEN -1 ELSE 0 END AS open,
          CASE e.execution_kind WHEN 'JOB' THEN 0 ELSE -1 END AS waiting,
          CASE e.status WHEN 'SUCCEEDED' THEN 0 ELSE 1 END AS unsuccessful
        FROM ended e
        WHERE NOT ${isCounted}::boolean
        UNION ALL
        SELECT
          j.workflow_run_id,
          CASE WHEN j.becomes = 'ENQUEUED' THEN 0 ELSE -1 END,
          CASE WHEN j.becomes = 'WAITING_FOR_EXTERNAL' THEN 1 ELSE 0 END,
          CASE WHEN j.becomes = 'CANCELED' THEN 1 ELSE 0 END
        FROM judged j
        WHERE j.becomes <> j.status
      ) t
      GROUP BY t.workflow_run_id
    ), counted AS MATERIALIZED (
      SELECT
        t.workflow_run_id, r.steps_open + t.open AS open, r.steps_waiting + t.waiting AS waiting,
        r.steps_unsuccessful + t.unsuccessful AS unsuccessful, r.result_step_key
      FROM tally t
      CROSS JOIN LATERAL (SELECT * FROM runledger.workflow_runs r WHERE r.id = t.workflow_run_id LIMIT 1) r
    ), next AS MATERIALIZED (
      SELECT
        c.*,
        CASE
          WHEN c.open > 0 THEN 'RUNNING'
          WHEN c.waiting > 0 THEN 'WAITING_FOR_EXTERNAL'
          WHEN c.unsuccessful > 0 THEN 'COMPLETED_WITH_ERRORS'
          ELSE 'SUCCEEDED'
        END AS status
      FROM counted c
    ), run AS (
      UPDATE runledger.workflow_runs r
      SET
        steps_open = n.open,
        steps_waiting = n.waiting,
        steps_unsuccessful = n.unsuccessful,
        status = CASE WHEN r.status = 'CANCELED' THEN r.status ELSE n.status END,
        finished_at = CASE
          WHEN r.status = 'CANCELED' OR n.status IN ('SUCCEEDED', 'COMPLETED_WITH_ERRORS') THEN COALESCE(r.finished_at, i.at)
        END,
        result = CASE
          WHEN r.status <> 'CANCELED' AND n.status = 'SUCCEEDED' THEN (
            SELECT s.output
            FROM runledger.workflow_steps s
            WHERE s.workflow_run_id = r.id AND s.step_key = n.result_step_key AND s.status = 'SUCCEEDED'
          )
        END,
        updated_at = i.at
      FROM next n
      CROSS JOIN input i
      WHERE r.id = n.workflow_run_id
        -- a list of ids: only look-ups by primary key can answer it, whatever statistics say
        AND r.id = ANY (ARRAY(SELECT workflow_run_id FROM next))
      RETURNING r.id, r.status
    ), ended_run AS MATERIALIZED (
      SELECT id, status FROM run WHERE status IN ('SUCCEEDED', 'COMPLETED_WITH_ERRORS')
    ), ${sql.literal(endRuns("(SELECT clock FROM input)"))}
    SELECT 'released' AS what, n.workflow_run_id, n.id, n.job_type FROM released n
    UNION ALL
    SELECT 'canceled', j.workflow_run_id, j.id, NULL FROM judged j WHERE j.becomes = 'CANCELED' AND j.status = 'BLOCKED'
    UNION ALL
    SELECT 'run', t.id, NULL, NULL FROM told t
  `
})

const refsOf = Effect.fnUntraced(function* (rows: ReadonlyArray<Row>) {
  const refs: Array<StepRef> = []
  for (const { workflow_run_id: runId, id: stepId } of rows) {
    if (!isString(runId) || !isString(stepId)) return yield* new QueryFailed({})
    refs.push({ runId, stepId })
  }
  return refs
})
