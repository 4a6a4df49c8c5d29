/**
 * The statements that make a run: its row, its steps, its edges, and the jobs of the steps that wait for nothing.
 */
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import { isReadCommitted } from "../internal/isolation.ts"
import * as Sql from "../internal/sql.ts"
import { traceParent } from "../internal/trace.ts"
import { patience } from "../internal/waiting.ts"
import { workflowRunColumns } from "../WorkflowRun.ts"
import type { EncodedSteps } from "./encode.ts"

/** What {@link insertRun} is given beside the steps. */
export interface RunInput {
  readonly workflowType: string
  readonly organizationId: string | undefined
  readonly idempotencyKey: string | undefined
  /** The request as JSON text: what a retry is compared with. */
  readonly request: string
  /** An id that a claim on an active key was made with. */
  readonly runId: string | undefined
}

/** Numbers as PostgreSQL writes an array: there are thousands, and the driver would look at each one several times. */
export const integers = (numbers: ReadonlyArray<number>) => `{${JSON.stringify(numbers).slice(1, -1)}}`

/** New ids for the steps, by place. */
export const newIds = (sql: SqlClient, { ordinals }: EncodedSteps): Fragment =>
  sql`runledger.uuidv7s(${ordinals.length}::integer)`

/**
 * `item`, the steps with their ids, with what their definitions or contracts decide, and with how each begins. Reads
 * `input (steps)`; `ids (ids)`, the ids by place; and `waits (pending, unsatisfied)`, by place how many prerequisites are
 * still to end, and how many ended otherwise than they had to. Everything is an array by place, or by kind of job: two
 * results joined would be as slow as their estimates are wrong.
 */
export const items = (sql: SqlClient, steps: EncodedSteps): Fragment => sql`
    kind AS MATERIALIZED (
      SELECT
        array_agg(d.state ORDER BY d.place) AS states, array_agg(d.priority ORDER BY d.place) AS priorities,
        array_agg(d.max_attempts ORDER BY d.place) AS max_attempts, array_agg(d.timeout ORDER BY d.place) AS timeouts
      FROM (
        SELECT
          k.place,
          -- 0: enabled, 1: disabled, 2: missing
          CASE WHEN COALESCE(d.is_enabled, k.version IS NOT NULL) THEN 0 WHEN d.is_enabled IS NULL THEN 2 ELSE 1 END AS state,
          CASE WHEN d.version < k.version THEN k.priority ELSE COALESCE(d.default_priority, k.priority) END AS priority,
          CASE WHEN d.version < k.version THEN k.max_attempts ELSE COALESCE(d.max_attempts, k.max_attempts) END AS max_attempts,
          CASE WHEN d.version < k.version THEN k.timeout ELSE COALESCE(d.default_timeout_seconds, k.timeout) END AS timeout
        FROM ROWS FROM (
          jsonb_to_recordset(${steps.kinds}::jsonb) AS (
            job_type text, contract_version integer, contract_priority integer, contract_max_attempts integer,
            contract_timeout integer
          )
        ) WITH ORDINALITY AS k (job_type, version, priority, max_attempts, timeout, place)
        LEFT JOIN LATERAL (
          SELECT * FROM runledger.job_definitions d WHERE d.job_type = k.job_type LIMIT 1
        ) d ON true
      ) d
    ), prerequisite AS MATERIALIZED (
      SELECT ARRAY(
        SELECT n.ids[p.step]
        FROM unnest(${integers(steps.edges.prerequisites)}::integer[]) WITH ORDINALITY AS p (step, place)
        ORDER BY p.place
      ) AS ids
      FROM ids n
    ), item AS MATERIALIZED (
      SELECT
        n.ids[s.place] AS id, (${integers(steps.ordinals)}::integer[])[s.place] AS ordinal, s.step_key, s.fan_out_key,
        s.fan_out_index,
        COALESCE(s.execution_kind, 'JOB') AS execution_kind, s.job_type,
        (${integers(steps.payloadVersions)}::integer[])[s.place] AS payload_version, s.organization_id, s.execution_resource_key,
        COALESCE(s.allow_handler_continuation, false) AS allow_handler_continuation,
        -- a JSON null arrives as NULL
        COALESCE(s.payload, 'null') AS payload,
        k.states[o.kind] AS state,
        COALESCE(s.priority, k.priorities[o.kind]) AS priority,
        COALESCE(s.max_attempts, k.max_attempts[o.kind]) AS max_attempts,
        COALESCE(s.timeout_seconds, k.timeouts[o.kind]) AS timeout_seconds,
        CASE WHEN o.kind > 0 THEN COALESCE(s.stage, 'queued') END AS stage,
        e.until - e.after AS total, w.pending[s.place] AS pending, w.unsatisfied[s.place] AS unsatisfied,
        p.ids[e.after + 1:e.until] AS prerequisite_step_ids,
        CASE
          WHEN w.pending[s.place] > 0 THEN 'BLOCKED'
          WHEN w.unsatisfied[s.place] > 0 THEN 'CANCELED'
          WHEN o.kind > 0 THEN 'ENQUEUED'
          ELSE 'WAITING_FOR_EXTERNAL'
        END AS status
      FROM input i
      CROSS JOIN kind k
      CROSS JOIN ids n
      CROSS JOIN waits w
      CROSS JOIN prerequisite p
      CROSS JOIN LATERAL ROWS FROM (
        jsonb_to_recordset(i.steps) AS (
          step_key text, fan_out_key text, fan_out_index integer, execution_kind text, job_type text, organization_id uuid,
          payload jsonb, priority integer, max_attempts integer, timeout_seconds integer, stage text,
          allow_handler_continuation boolean, execution_resource_key text
        )
      ) WITH ORDINALITY AS s (
        step_key, fan_out_key, fan_out_index, execution_kind, job_type, organization_id, payload, priority, max_attempts,
        timeout_seconds, stage, allow_handler_continuation, execution_resource_key, place
      )
      CROSS JOIN LATERAL (SELECT (${integers(steps.kindOf)}::integer[])[s.place] AS kind) o
      CROSS JOIN LATERAL (
        SELECT ends[s.place] AS after, ends[s.place + 1] AS until
        FROM (SELECT ${integers(steps.edges.ends)}::integer[] AS ends) e
      ) e
    ), refused AS MATERIALIZED (
      SELECT step_key, job_type, CASE state WHEN 1 THEN 'disabled' ELSE 'missing' END AS state
      FROM item
      WHERE state > 0
      ORDER BY ordinal
      LIMIT 1
    )`

/**
 * The edges of the request: `place` of the edge, that of its dependent, and `release_mode`. They come in the order of the
 * primary key, so that one page of it is filled after the other.
 */
export const edges = (sql: SqlClient, { edges: { dependents, onSuccess, onTerminal } }: EncodedSteps): Fragment => sql`
      SELECT e.place, (${integers(dependents)}::integer[])[e.place] AS dependent, e.release_mode
      FROM (
        SELECT s.place, 'ON_SUCCESS' AS release_mode FROM unnest(${integers(onSuccess)}::integer[]) AS s (place)
        UNION ALL
        SELECT t.place, 'ON_TERMINAL' FROM unnest(${integers(onTerminal)}::integer[]) AS t (place)
      ) e`

/** Inserts `item`, and the jobs and events of those that begin. Reads `owner (id, trace_parent, updated_at)`, the run. */
export const insertSteps = `
    starting AS MATERIALIZED (
      -- first in, first out: ids of jobs sort as the request does; width_bucket finds the place of an ordinal among these
      SELECT array_agg(i.ordinal ORDER BY i.ordinal) AS ordinals, runledger.uuidv7s(count(*)::integer) AS ids
      FROM item i
      WHERE i.status = 'ENQUEUED'
    ), step AS (
      INSERT INTO runledger.workflow_steps (
        id, workflow_run_id, step_key, fan_out_key, fan_out_index, execution_kind, job_type, payload_version, organization_id,
        payload, priority, max_attempts, timeout_seconds, stage, allow_handler_continuation, execution_resource_key, status,
        job_id, released_at, finished_at, dependency_count_total, dependency_count_pending, dependency_count_unsatisfied,
        prerequisite_step_ids, status_reason, last_error_code, last_error_message, created_at, updated_at
      )
      SELECT
        i.id, o.id, i.step_key, i.fan_out_key, i.fan_out_index, i.execution_kind, i.job_type, i.payload_version,
        i.organization_id, i.payload, i.priority, i.max_attempts, i.timeout_seconds, i.stage, i.allow_handler_continuation,
        i.execution_resource_key, i.status,
        CASE WHEN i.status = 'ENQUEUED' THEN s.ids[width_bucket(i.ordinal, s.ordinals)] END,
        CASE WHEN i.status IN ('ENQUEUED', 'WAITING_FOR_EXTERNAL') THEN o.updated_at END,
        CASE WHEN i.status = 'CANCELED' THEN o.updated_at END,
        i.total, i.pending, i.unsatisfied, i.prerequisite_step_ids,
        CASE WHEN i.status = 'CANCELED' THEN 'workflow.dependency_unsatisfied' END,
        CASE WHEN i.status = 'CANCELED' THEN 'workflow.dependency_unsatisfied' END,
        CASE WHEN i.status = 'CANCELED' THEN 'A prerequisite did not end as this step requires' END,
        o.updated_at, o.updated_at
      FROM item i
      CROSS JOIN owner o
      CROSS JOIN starting s
    ), job AS (
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at, stage,
        execution_resource_key, workflow_run_id, workflow_step_id, trace_parent, created_at, updated_at
      )
      SELECT
        s.ids[width_bucket(i.ordinal, s.ordinals)], i.job_type, i.payload_version, i.organization_id, i.payload, i.priority,
        i.max_attempts, i.timeout_seconds, o.updated_at, i.stage, i.execution_resource_key, o.id, i.id, o.trace_parent,
        o.updated_at, o.updated_at
      FROM item i
      CROSS JOIN owner o
      CROSS JOIN starting s
      WHERE i.status = 'ENQUEUED'
    ), staged AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, event_type, stage, payload, occurred_at)
      SELECT
        s.ids[width_bucket(i.ordinal, s.ordinals)], 1, 1, 'ENQUEUED', i.stage, jsonb_build_object('job_type', i.job_type),
        o.updated_at
      FROM item i
      CROSS JOIN owner o
      CROSS JOIN starting s
      WHERE i.status = 'ENQUEUED' AND i.stage <> 'queued'
    )`

/**
 * Makes a run, or finds the one that its key belongs to. A key for which it did neither belongs to a run that was committed
 * while the statement waited for it.
 */
export const insertRun = Effect.fnUntraced(function* (run: RunInput, steps: EncodedSteps) {
  const { sql, instant } = yield* Sql.clocked
  const keyed = run.idempotencyKey !== undefined
  const trace = traceParent(yield* Effect.context())
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${instant} AS at, r.request, r.request -> 'steps' AS steps,
        COALESCE(${run.runId ?? null}::uuid, runledger.uuidv7()) AS id, ${run.workflowType}::text AS workflow_type,
        ${run.organizationId ?? null}::uuid AS organization_id, ${run.idempotencyKey ?? null}::text AS idempotency_key
        ${sql.literal(keyed ? `, ${patience}` : "")}
      FROM (SELECT ${run.request}::jsonb AS request) r
    ), ids AS MATERIALIZED (
      SELECT ${newIds(sql, steps)} AS ids
    ), waits AS MATERIALIZED (
      SELECT
        ${integers(steps.totals)}::integer[] AS pending,
        array_fill(0, ARRAY[${steps.totals.length}::integer]) AS unsatisfied
    ), ${items(sql, steps)}, counts AS MATERIALIZED (
      SELECT
        count(*)::integer AS total, (count(*) FILTER (WHERE status <> 'WAITING_FOR_EXTERNAL'))::integer AS open,
        (count(*) FILTER (WHERE status = 'WAITING_FOR_EXTERNAL'))::integer AS waiting
      FROM item
    ), owner AS (
      INSERT INTO runledger.workflow_runs AS r (
        id, workflow_type, organization_id, status, steps_total, steps_open, steps_waiting, idempotency_key, enqueue_request,
        result_step_key, metadata, trace_parent, started_at, created_at, updated_at
      )
      SELECT
        i.id, i.workflow_type, i.organization_id, CASE WHEN c.open > 0 THEN 'RUNNING' ELSE 'WAITING_FOR_EXTERNAL' END,
        c.total, c.open, c.waiting, i.idempotency_key, i.request, i.request ->> 'result_step_key',
        i.request -> 'metadata', ${trace}::text, i.at, i.at, i.at
      FROM input i
      CROSS JOIN counts c
      WHERE NOT EXISTS (SELECT FROM refused) ${sql.literal(keyed ? `AND ${isReadCommitted}` : "")}
      ${sql.literal(keyed ? "ON CONFLICT DO NOTHING" : "")}
      RETURNING r.*
    ), ${sql.literal(insertSteps)}, dependency AS (
      INSERT INTO runledger.workflow_step_dependencies (
        workflow_run_id, prerequisite_step_id, dependent_step_id, release_mode, created_at
      )
      SELECT o.id, p.ids[e.place], n.ids[e.dependent], e.release_mode, o.updated_at
      FROM (${edges(sql, steps)}) e
      CROSS JOIN prerequisite p
      CROSS JOIN ids n
      CROSS JOIN owner o
    )
    SELECT
      CASE
        WHEN ${sql.literal(keyed ? `NOT ${isReadCommitted}` : "false")} THEN 'isolation'
        ELSE COALESCE(r.found_as, f.state, 'unseen')
      END AS outcome,
      f.step_key AS refused_step_key, f.job_type AS refused_job_type,
      ${sql.literal(keyed ? "i.callers_lock_timeout, " : "")}r.*
    FROM input i
    LEFT JOIN refused f ON true
    LEFT JOIN LATERAL (
      SELECT 'inserted' AS found_as, NULL::text[] AS fields, ${sql.literal(workflowRunColumns)}
      FROM owner r
      ${sql.literal(keyed ? `UNION ALL ${foundByKey(run.organizationId)}` : "")}
    ) r ON true
  `
})

/** The run that a key belongs to already, if it does. */
export const findRun = Effect.fnUntraced(function* (run: RunInput) {
  const sql = yield* Sql.client
  return yield* sql`
    SELECT found.found_as AS outcome, found.*
    FROM (
      SELECT
        ${run.workflowType}::text AS workflow_type, ${run.organizationId ?? null}::uuid AS organization_id,
        ${run.idempotencyKey ?? null}::text AS idempotency_key, ${run.request}::jsonb AS request
    ) i
    CROSS JOIN LATERAL (${sql.literal(foundByKey(run.organizationId))}) found
  `
})

/** The run that the key of `i` belongs to, and whether it was requested in the same way: `jsonb` compares, so 1.0 equals 1. */
const foundByKey = (organizationId: string | undefined) => `
      SELECT
        CASE
          WHEN r.enqueue_request IS NULL THEN 'no snapshot'
          WHEN r.enqueue_request = i.request THEN 'existing'
          ELSE 'conflict'
        END AS found_as,
        CASE WHEN r.enqueue_request <> i.request THEN (
          SELECT array_agg(DISTINCT d.field ORDER BY d.field)
          FROM (
            SELECT k.key AS field
            FROM jsonb_object_keys((r.enqueue_request || i.request) - 'steps') AS k (key)
            WHERE r.enqueue_request -> k.key IS DISTINCT FROM i.request -> k.key
            UNION ALL
            -- steps stand in the order of their keys
            SELECT CASE WHEN a.step -> 'step_key' = b.step -> 'step_key' THEN 'steps.' || k.key ELSE 'steps' END
            FROM jsonb_array_elements(r.enqueue_request -> 'steps') WITH ORDINALITY AS a (step, place)
            FULL JOIN jsonb_array_elements(i.request -> 'steps') WITH ORDINALITY AS b (step, place) USING (place)
            CROSS JOIN LATERAL jsonb_object_keys(COALESCE(a.step, '{}') || COALESCE(b.step, '{}')) AS k (key)
            WHERE a.step -> k.key IS DISTINCT FROM b.step -> k.key
          ) d
        ) END AS fields,
        ${workflowRunColumns}
      FROM runledger.workflow_runs r
      WHERE r.workflow_type = i.workflow_type AND r.idempotency_key = i.idempotency_key
        AND r.organization_id ${organizationId === undefined ? "IS NULL" : "= i.organization_id"}`
