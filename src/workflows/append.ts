import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import { isString } from "../internal/row.ts"
import { invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { declareSoon } from "../jobs/declareSoon.ts"
import { maxKeyBytes } from "../jobs/limits.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import type { Owner } from "../TenantScope.ts"
import {
  AppendConflict,
  AppendRefused,
  type InvalidWorkflow,
  StepDefinitionUnavailable,
  WorkflowRunNotFound
} from "../WorkflowReason.ts"
import {
  type WorkflowRunId,
  type WorkflowRunRecord,
  type WorkflowStepRecord,
  WorkflowStepRow,
  workflowRunColumns,
  workflowStepColumns
} from "../WorkflowRun.ts"
import { type EncodedSteps, encodeSteps } from "./encode.ts"
import { edges, insertSteps, integers, items, newIds } from "./insert.ts"
import { inRun } from "./lock.ts"
import type { StepRequest } from "./request.ts"
import { runOf, type StepRef, settle } from "./settle.ts"
import { validateAppend } from "./validate.ts"

/** What is appended, and through which window. */
export interface AppendOptions {
  /** Makes a retry of the same append return the first result: not blank, at most 512 bytes, unique within the run. */
  readonly mutationKey: string
  /** An external step of the run that is waiting: while it is open, steps may be appended. */
  readonly windowStepKey: string
  /** New steps; they may depend on steps of the run, however these ended, and on each other. */
  readonly steps: ReadonlyArray<StepRequest>
  /** Kept with the append, not part of the request: any JSON of at most 2 MiB. Default: `{}`. */
  readonly metadata?: Json | undefined
}

/** What an append did. */
export interface Appended {
  readonly run: WorkflowRunRecord
  /** In the order of the request, as they are now. */
  readonly steps: ReadonlyArray<WorkflowStepRecord>
  /** `existing`: the same append was made before. */
  readonly disposition: "inserted" | "existing"
}

/** What {@link append} can fail with. */
export type AppendReason =
  | AppendConflict
  | AppendRefused
  | InvalidArgument
  | InvalidWorkflow
  | StepDefinitionUnavailable
  | UnsupportedIsolation
  | WorkflowRunNotFound
  | WriteReason

/**
 * Appends steps to a run, as long as one of its external steps is waiting: a window, which keeps the run from ending. What the
 * new steps wait for may have ended already; what waits for nothing begins at once, and what can never run is canceled.
 *
 * A retry with the same mutation key and the same steps returns the first result, even after the window was closed.
 *
 * Fails with `AppendRefused` (no mutation key, no such window, not open), `AppendConflict` (the key belongs to other steps),
 * `InvalidWorkflow` (a rule of the graph), `StepDefinitionUnavailable`, `WorkflowRunNotFound`, `InvalidArgument`,
 * `UnsupportedIsolation`, `Unavailable` (the run stayed locked for five seconds), or what any write can fail with.
 *
 * Locks the run; writes steps, dependencies, jobs, the run, and the append itself.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const appended = Workflows.append(TenantScope.global, runId, {
 *   mutationKey: "page:2",
 *   windowStepKey: "approval",
 *   steps: [{ stepKey: "crawl:2", jobType: "page.crawl", payload: { page: 2 } }]
 * })
 * ```
 */
export const append: (
  owner: Owner,
  runId: WorkflowRunId,
  options: AppendOptions
) => Effect.Effect<Appended, QueryError<AppendReason>, SqlClient> = Effect.fnUntraced(function* (
  owner: Owner,
  runId: WorkflowRunId,
  options: AppendOptions
) {
  const { mutationKey, windowStepKey } = options
  if (Args.isBlank(mutationKey)) return yield* new AppendRefused({ code: "workflow.append_mutation_key_blank" })
  const invalid =
    invalidScope(owner) ??
    Args.uuid("runId", runId) ??
    Args.name("mutationKey", mutationKey, maxKeyBytes) ??
    Args.name("windowStepKey", windowStepKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const metadata = JsonText.encode(options.metadata ?? {})
  if (Result.isFailure(metadata)) return yield* new InvalidArgument({ argument: "metadata", rule: metadata.failure })

  return yield* inRun(owner, runId, `r.status, r.organization_id`, (run) =>
    Effect.gen(function* () {
      const sql = yield* Sql.client
      if (run === undefined) return yield* new WorkflowRunNotFound({ workflowRunId: runId })
      // what is wrong with the steps is said where it stands in line, after the window; what is malformed repeats nothing
      const own = new Set(options.steps.map(({ stepKey }) => stepKey))
      const foreign = options.steps.flatMap(({ dependencies = [] }) => dependencies.map(({ stepKey }) => stepKey))
      const malformed = validateAppend(new Set(foreign.filter((key) => !own.has(key))), options.steps)
      const encoded =
        malformed === undefined
          ? encodeSteps(options.steps, isString(run.organization_id) ? run.organization_id : undefined)
          : Result.fail(malformed)
      const request = Result.map(
        encoded,
        ({ text }) => `{"append_window_step_key":${JSON.stringify(windowStepKey)},"steps":${text}}`
      )
      const [before] = yield* sql`
        SELECT
          m.id IS NOT NULL AS is_known,
          m.request = ${Result.getOrElse(request, () => "null")}::jsonb AS is_same,
          w.execution_kind, w.status
        FROM (SELECT) AS always
        LEFT JOIN runledger.workflow_run_mutations m
          ON m.workflow_run_id = ${runId}::uuid AND m.mutation_key = ${mutationKey}
        LEFT JOIN runledger.workflow_steps w ON w.workflow_run_id = ${runId}::uuid AND w.step_key = ${windowStepKey}
      `
      if (before?.is_known === true) {
        if (before.is_same !== true) return yield* new AppendConflict({ workflowRunId: runId })
        return yield* result(runId, options.steps, "existing")
      }
      if (before?.execution_kind === null) return yield* new AppendRefused({ code: "workflow.append_window_missing" })
      if (before?.execution_kind !== "EXTERNAL") {
        return yield* new AppendRefused({ code: "workflow.append_window_not_external" })
      }
      if (before.status !== "WAITING_FOR_EXTERNAL") {
        return yield* new AppendRefused({ code: "workflow.append_window_not_open" })
      }
      if (run.status !== "RUNNING" && run.status !== "WAITING_FOR_EXTERNAL") {
        return yield* new AppendRefused({ code: "workflow.append_terminal_run" })
      }
      const refused = yield* clashes(runId, options.steps)
      if (refused !== undefined) return yield* Effect.fail(refused)
      const steps = yield* Effect.fromResult(encoded)
      const rows = yield* insert(runId, mutationKey, yield* Effect.fromResult(request), metadata.success, steps)
      const dead: Array<StepRef> = []
      const due: Array<string> = []
      for (const row of rows) {
        if (row.outcome === "missing" || row.outcome === "disabled") {
          return yield* new StepDefinitionUnavailable({
            stepKey: String(row.step_key),
            jobType: String(row.job_type),
            state: row.outcome
          })
        }
        if (row.outcome === "CANCELED" && isString(row.id)) dead.push({ runId, stepId: row.id })
        if (row.outcome === "ENQUEUED" && isString(row.job_type)) due.push(row.job_type)
      }
      yield* settle(dead, "counted")
      if (due.length > 0) yield* markDue(due)
      if (steps.contracts.length > 0) yield* declareSoon(steps.contracts)
      return yield* result(runId, options.steps, "inserted")
    })
  ).pipe(readCommitted("workflow.append_unsupported_isolation"))
}, writing("Workflows.append"))

/** What the new steps have in common with the run that they must not; only the keys that they name are looked up. */
const clashes = Effect.fnUntraced(function* (runId: WorkflowRunId, steps: ReadonlyArray<StepRequest>) {
  const sql = yield* Sql.client
  const keys = steps.flatMap(({ stepKey, dependencies = [] }) => [stepKey, ...dependencies.map((d) => d.stepKey)])
  const fanOuts = steps.flatMap(({ fanOut }) => (fanOut === undefined ? [] : [fanOut.key]))
  const named = [...new Set([...keys, ...fanOuts].filter((text) => !text.includes("\0")))]
  const rows = yield* sql`
    SELECT s.step_key, s.fan_out_key, s.fan_out_index
    FROM runledger.workflow_steps s
    WHERE s.workflow_run_id = ${runId}::uuid
      AND (s.step_key = ANY (${named}::text[]) OR s.fan_out_key = ANY (${named}::text[]))
  `
  const invalid = validateAppend(new Set(rows.map((row) => String(row.step_key))), steps)
  if (invalid !== undefined) return invalid
  for (const { stepKey, fanOut } of steps) {
    const taken = rows.some(
      (row) =>
        row.fan_out_key === stepKey ||
        (fanOut !== undefined &&
          (row.step_key === fanOut.key || (row.fan_out_key === fanOut.key && row.fan_out_index === fanOut.index)))
    )
    if (taken)
      return new InvalidArgument({ argument: `steps[${stepKey}].fanOut`, rule: "must not be taken in the run" })
  }
  return undefined
})

/** Inserts the steps and the append itself, and counts them at the run; answers how each step begins, or which was refused. */
const insert = Effect.fnUntraced(function* (
  runId: WorkflowRunId,
  mutationKey: string,
  request: string,
  metadata: string,
  steps: EncodedSteps
) {
  const { sql, instant } = yield* Sql.clocked
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, r.request, r.request -> 'steps' AS steps
      FROM (SELECT ${request}::jsonb AS request) r
    ), existing AS MATERIALIZED (
      SELECT
        array_agg(p.id ORDER BY e.place) AS ids,
        -- 0: open, 1: succeeded, 2: did not succeed
        array_agg(
          CASE p.status WHEN 'SUCCEEDED' THEN 1 WHEN 'FAILED' THEN 2 WHEN 'CANCELED' THEN 2 ELSE 0 END ORDER BY e.place
        ) AS ended
      FROM unnest(${steps.existing}::text[]) WITH ORDINALITY AS e (step_key, place)
      LEFT JOIN LATERAL (
        SELECT s.id, s.status
        FROM runledger.workflow_steps s
        WHERE s.workflow_run_id = ${runId}::uuid AND s.step_key = e.step_key
        LIMIT 1
      ) p ON true
    ), ids AS MATERIALIZED (
      SELECT
        ${newIds(sql, steps)} || x.ids AS ids,
        array_fill(0, ARRAY[${steps.ordinals.length}::integer]) || x.ended AS ended
      FROM existing x
    ), waits AS MATERIALIZED (
      SELECT array_agg(w.pending ORDER BY w.place) AS pending, array_agg(w.unsatisfied ORDER BY w.place) AS unsatisfied
      FROM (
        SELECT e.place, sum(e.pending)::integer AS pending, sum(e.unsatisfied)::integer AS unsatisfied
        FROM (
          SELECT
            e.dependent AS place, CASE p.ended WHEN 0 THEN 1 ELSE 0 END AS pending,
            CASE WHEN p.ended = 2 AND e.release_mode = 'ON_SUCCESS' THEN 1 ELSE 0 END AS unsatisfied
          FROM (${edges(sql, steps)}) e
          CROSS JOIN ids n
          CROSS JOIN LATERAL (
            SELECT n.ended[(${integers(steps.edges.prerequisites)}::integer[])[e.place]] AS ended
          ) p
          UNION ALL
          SELECT p.place, 0, 0 FROM generate_series(1, ${steps.ordinals.length}::integer) AS p (place)
        ) e
        GROUP BY e.place
      ) w
    ), ${items(sql, steps)}, owner AS (
      UPDATE runledger.workflow_runs r
      SET
        steps_total = r.steps_total + c.total,
        steps_open = r.steps_open + c.open,
        steps_waiting = r.steps_waiting + c.waiting,
        steps_unsuccessful = r.steps_unsuccessful + c.unsuccessful,
        -- the window is waiting
        status = CASE WHEN r.steps_open + c.open > 0 THEN 'RUNNING' ELSE 'WAITING_FOR_EXTERNAL' END,
        updated_at = i.at
      FROM input i
      CROSS JOIN (
        SELECT
          count(*)::integer AS total,
          (count(*) FILTER (WHERE status IN ('BLOCKED', 'ENQUEUED')))::integer AS open,
          (count(*) FILTER (WHERE status = 'WAITING_FOR_EXTERNAL'))::integer AS waiting,
          (count(*) FILTER (WHERE status = 'CANCELED'))::integer AS unsuccessful
        FROM item
      ) c
      WHERE r.id = ${runId}::uuid AND NOT EXISTS (SELECT FROM refused)
      RETURNING r.id, r.trace_parent, r.updated_at
    ), ${sql.literal(insertSteps)}, dependency AS (
      INSERT INTO runledger.workflow_step_dependencies (
        workflow_run_id, prerequisite_step_id, dependent_step_id, release_mode, created_at
      )
      SELECT o.id, p.ids[e.place], n.ids[e.dependent], e.release_mode, o.updated_at
      FROM (${edges(sql, steps)}) e
      CROSS JOIN prerequisite p
      CROSS JOIN ids n
      CROSS JOIN owner o
    ), mutation AS (
      INSERT INTO runledger.workflow_run_mutations (workflow_run_id, mutation_key, metadata, request, created_at)
      SELECT o.id, ${mutationKey}, ${metadata}::jsonb, i.request, i.at
      FROM owner o
      CROSS JOIN input i
    )
    SELECT NULL::uuid AS id, f.step_key, f.job_type, f.state AS outcome FROM refused f
    UNION ALL
    SELECT i.id, i.step_key, i.job_type, i.status
    FROM item i
    CROSS JOIN owner
    WHERE i.status IN ('CANCELED', 'ENQUEUED')
  `
})

const result = Effect.fnUntraced(function* (
  runId: WorkflowRunId,
  steps: ReadonlyArray<StepRequest>,
  disposition: Appended["disposition"]
) {
  const sql = yield* Sql.client
  const [run] =
    yield* sql`SELECT ${sql.literal(workflowRunColumns)} FROM runledger.workflow_runs r WHERE r.id = ${runId}::uuid`
  const rows = yield* sql`
    SELECT ${sql.literal(workflowStepColumns)}
    FROM unnest(${steps.map(({ stepKey }) => stepKey)}::text[]) WITH ORDINALITY AS k (step_key, place)
    JOIN runledger.workflow_steps s ON s.workflow_run_id = ${runId}::uuid AND s.step_key = k.step_key
    ORDER BY k.place
  `
  const records = yield* Effect.mapError(decodeSteps(rows), () => new QueryFailed({}))
  if (records.length !== steps.length) return yield* new QueryFailed({})
  return { run: yield* runOf(run), steps: records, disposition }
})

const decodeSteps = Schema.decodeUnknownEffect(Schema.Array(WorkflowStepRow))
