import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { askUntilFree } from "../internal/busy.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import { isString } from "../internal/row.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { maxKeyBytes } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, Unavailable, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import type { Owner } from "../TenantScope.ts"
import { WorkflowRunNotFound } from "../WorkflowReason.ts"
import type { WorkflowRunId } from "../WorkflowRun.ts"
import { inRun } from "./lock.ts"

/** What {@link updatePendingPayload} can fail with. */
export type UpdatePayloadReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Corrects the payload of a step whose job is waiting to be claimed: of the step, and of the job. A recovery of the run uses
 * the corrected payload. Returns whether there was such a job; `false` if the step is unknown in the scope, blocked, external,
 * being worked on, or has ended. Its request, which a retry of the enqueue is compared with, stays as it was.
 *
 * Fails with `InvalidArgument`, `UnsupportedIsolation`, `Unavailable` (the job stayed locked for two seconds), or what any write
 * can fail with. Locks the job `FOR NO KEY UPDATE SKIP LOCKED`; writes job and step.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const corrected = Workflows.updatePendingPayload(TenantScope.global, runId, "send", { to: "ada@example.com" })
 * ```
 */
export const updatePendingPayload: (
  owner: Owner,
  runId: WorkflowRunId,
  stepKey: string,
  payload: Json
) => Effect.Effect<boolean, QueryError<UpdatePayloadReason>, SqlClient> = Effect.fnUntraced(function* (
  owner: Owner,
  runId: WorkflowRunId,
  stepKey: string,
  payload: Json
) {
  const invalid = invalidScope(owner) ?? Args.uuid("runId", runId) ?? Args.name("stepKey", stepKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const text = JsonText.encode(payload)
  if (Result.isFailure(text)) return yield* new InvalidArgument({ argument: "payload", rule: text.failure })
  const answers = yield* askUntilFree([{ lease: { jobId: stepKey } }], () =>
    readCommitted("job.unsupported_isolation")(
      Effect.gen(function* () {
        const { sql, instant } = yield* Sql.clocked
        const [row] = yield* sql`
          WITH input AS MATERIALIZED (
            SELECT ${instant} AS at, ${text.success}::jsonb AS payload
          ), seen AS MATERIALIZED (
            SELECT q.id, s.id AS step_id
            FROM runledger.workflow_steps s
            JOIN runledger.workflow_runs r ON r.id = s.workflow_run_id AND ${inScope(sql, owner, "r")}
            JOIN runledger.job_queue q ON q.id = s.job_id AND q.status || '' = 'PENDING'
            WHERE s.workflow_run_id = ${runId}::uuid AND s.step_key = ${stepKey}
          ), locked AS MATERIALIZED (
            SELECT q.id
            FROM runledger.job_queue q
            WHERE q.id = ANY (ARRAY(SELECT id FROM seen)) AND q.status || '' = 'PENDING' AND ${sql.literal(isReadCommitted)}
            FOR NO KEY UPDATE SKIP LOCKED
          ), step AS (
            UPDATE runledger.workflow_steps s
            SET payload = i.payload, updated_at = i.at
            FROM seen n
            CROSS JOIN input i
            WHERE s.id = n.step_id AND s.id = ANY (ARRAY(SELECT step_id FROM seen)) AND n.id IN (SELECT id FROM locked)
          ), job AS (
            UPDATE runledger.job_queue q
            SET payload = i.payload, updated_at = i.at
            FROM input i
            WHERE q.id = ANY (ARRAY(SELECT id FROM locked))
          )
          SELECT
            CASE
              WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
              WHEN EXISTS (SELECT FROM locked) THEN 'done'
              WHEN EXISTS (SELECT FROM seen) THEN 'busy'
              ELSE 'none'
            END AS outcome
        `
        switch (row?.outcome) {
          case "isolation":
            return yield* new NotReadCommitted()
          case "busy":
            return new Map([[stepKey, "busy" as const]])
          case "done":
          case "none":
            return new Map([[stepKey, row.outcome === "done"]])
          default:
            return yield* new QueryFailed({})
        }
      })
    )
  )
  const answer = answers.get(stepKey)
  return answer === undefined ? yield* new Unavailable({ origin: "busy" }) : answer
}, writing("Workflows.updatePendingPayload"))

/** What {@link stepKeysForUpdate} can fail with. */
export type StepKeysReason = InvalidArgument | UnsupportedIsolation | WorkflowRunNotFound | WriteReason

/**
 * The keys of all steps of a run, in their order, with the run locked: inside a caller's transaction nothing is
 * appended, completed or canceled in this run until it ends, so that an append can be worked out from what there is.
 *
 * Fails with `WorkflowRunNotFound`, `InvalidArgument`, `UnsupportedIsolation`, `Unavailable` (the run stayed locked for five
 * seconds), or what any write can fail with. Locks the run; writes nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const keys = Workflows.stepKeysForUpdate(TenantScope.global, runId)
 * ```
 */
export const stepKeysForUpdate: (
  owner: Owner,
  runId: WorkflowRunId
) => Effect.Effect<ReadonlyArray<string>, QueryError<StepKeysReason>, SqlClient> = Effect.fnUntraced(function* (
  owner: Owner,
  runId: WorkflowRunId
) {
  const invalid = invalidScope(owner) ?? Args.uuid("runId", runId)
  if (invalid !== undefined) return yield* invalid
  return yield* inRun(owner, runId, "r.status", (run) =>
    Effect.gen(function* () {
      const sql = yield* Sql.client
      if (run === undefined) return yield* new WorkflowRunNotFound({ workflowRunId: runId })
      const rows = yield* sql`
        SELECT s.step_key FROM runledger.workflow_steps s WHERE s.workflow_run_id = ${runId}::uuid ORDER BY s.step_key
      `
      return rows.map(({ step_key: key }) => key).filter(isString)
    })
  ).pipe(readCommitted("workflow.append_unsupported_isolation"))
}, writing("Workflows.stepKeysForUpdate"))
