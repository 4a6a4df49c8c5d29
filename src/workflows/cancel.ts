import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { readCommitted } from "../internal/isolation.ts"
import { isJobId } from "../internal/row.ts"
import { invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { cancelColumns, cancelOf } from "../jobs/cancel.ts"
import { markCanceled } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import type { InvalidArgument, UnsupportedIsolation, WriteReason } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import { WorkflowRunNotFound } from "../WorkflowReason.ts"
import { type WorkflowRunId, type WorkflowRunRecord, workflowRunColumns } from "../WorkflowRun.ts"
import { inRun } from "./lock.ts"
import { endRuns, runOf } from "./settle.ts"

/** Why a run is canceled. At most 16,384 characters of each text are kept. */
export interface CancelRunOptions {
  /** Recorded with the steps, and with jobs and their events; default `CANCELED`. */
  readonly reason?: string | undefined
  /** Recorded with the steps that have no job. */
  readonly errorCode?: string | undefined
  readonly errorMessage?: string | undefined
}

/** What {@link cancel} can fail with. */
export type CancelRunReason = InvalidArgument | UnsupportedIsolation | WorkflowRunNotFound | WriteReason

/**
 * Cancels a run: every step that has not ended, and the jobs of those that have one. Handlers that are at work are told as
 * `Jobs.cancel` tells them. A run that has ended is returned as it is.
 *
 * The active key of the run is free once no canceled handler can still be at work: at once if none was, and else the reaper
 * frees it when their leases have run out.
 *
 * Fails with `WorkflowRunNotFound` (no such run in the scope), `Unavailable` (the run, or one of its jobs, stayed locked for
 * five seconds), `InvalidArgument`, `UnsupportedIsolation`, or what any write can fail with.
 *
 * Locks the run, then its jobs in id order, waiting for both; writes jobs, attempts, events, steps and the run.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const canceled = Workflows.cancel(TenantScope.admin, runId, { reason: "order withdrawn" })
 * ```
 */
export const cancel: (
  scope: TenantScope,
  runId: WorkflowRunId,
  options?: CancelRunOptions
) => Effect.Effect<WorkflowRunRecord, QueryError<CancelRunReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId,
  options: CancelRunOptions = {}
) {
  const invalid = invalidScope(scope) ?? Args.uuid("runId", runId)
  if (invalid !== undefined) return yield* invalid
  const text = (value: string | undefined) => (value === undefined ? null : Args.diagnostic(value))
  const reason = Args.diagnostic(options.reason ?? "CANCELED")
  return yield* inRun(scope, runId, workflowRunColumns, (run) =>
    Effect.gen(function* () {
      const { sql, instant, clock } = yield* Sql.clocked
      if (run === undefined) return yield* new WorkflowRunNotFound({ workflowRunId: runId })
      const found = yield* runOf(run)
      if (found.isTerminal) return found
      // a claim may hold a job until it commits
      yield* sql`
        SELECT q.id
        FROM runledger.workflow_steps s
        JOIN runledger.job_queue q ON q.id = s.job_id
        WHERE s.workflow_run_id = ${runId}::uuid AND s.status IN ('ENQUEUED', 'RUNNING')
        ORDER BY q.id
        FOR NO KEY UPDATE OF q
      `
      const jobs = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${instant} AS at, ${reason}::text AS reason
        ), locked AS MATERIALIZED (
          SELECT ${sql.literal(cancelColumns)}
          FROM runledger.workflow_steps s
          JOIN runledger.job_queue q ON q.id = s.job_id
          WHERE s.workflow_run_id = ${runId}::uuid AND s.status IN ('ENQUEUED', 'RUNNING')
            AND q.status || '' IN ('PENDING', 'LEASED')
        ), ${sql.literal(cancelOf)}
        SELECT id, lease_expires_at FROM canceled
      `
      yield* sql`
        WITH input AS MATERIALIZED (
          SELECT
            ${instant} AS at, ${reason}::text AS reason, ${text(options.errorCode)}::text AS code,
            ${text(options.errorMessage)}::text AS message
        ), step AS (
          UPDATE runledger.workflow_steps s
          SET
            status = 'CANCELED',
            finished_at = COALESCE(s.finished_at, i.at),
            status_reason = i.reason,
            last_error_code = CASE WHEN s.job_id IS NULL THEN i.code END,
            last_error_message = CASE WHEN s.job_id IS NULL THEN i.message END,
            output = NULL,
            updated_at = i.at
          FROM input i
          WHERE s.workflow_run_id = ${runId}::uuid AND s.status NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')
          RETURNING s.id
        )
        UPDATE runledger.workflow_runs r
        SET
          status = 'CANCELED',
          finished_at = i.at,
          result = NULL,
          steps_open = 0,
          steps_waiting = 0,
          steps_unsuccessful = r.steps_unsuccessful + (SELECT count(*) FROM step),
          updated_at = i.at
        FROM input i
        WHERE r.id = ${runId}::uuid
      `
      // every step has ended now, so this is what their dependents count
      yield* sql`
        WITH waiting AS MATERIALIZED (
          SELECT t.id, e.unsatisfied
          FROM runledger.workflow_steps t
          LEFT JOIN (
            SELECT d.dependent_step_id, count(*)::integer AS unsatisfied
            FROM runledger.workflow_step_dependencies d
            -- by id alone, which only the primary key answers
            CROSS JOIN LATERAL (
              SELECT p.status FROM runledger.workflow_steps p WHERE p.id = d.prerequisite_step_id LIMIT 1
            ) p
            WHERE d.workflow_run_id = ${runId}::uuid AND d.release_mode = 'ON_SUCCESS' AND p.status <> 'SUCCEEDED'
            GROUP BY d.dependent_step_id
          ) e ON e.dependent_step_id = t.id
          WHERE t.workflow_run_id = ${runId}::uuid AND t.dependency_count_pending > 0
        )
        UPDATE runledger.workflow_steps s
        SET dependency_count_pending = 0, dependency_count_unsatisfied = COALESCE(w.unsatisfied, 0)
        FROM waiting w
        WHERE s.id = w.id AND s.id = ANY (ARRAY(SELECT id FROM waiting))
      `
      const [ended] = yield* sql`
        WITH ended_run AS MATERIALIZED (
          SELECT * FROM runledger.workflow_runs r WHERE r.id = ${runId}::uuid
        ), at AS MATERIALIZED (
          SELECT ${clock} AS clock
        ), ${sql.literal(endRuns("(SELECT clock FROM at)"))}
        SELECT ${sql.literal(workflowRunColumns)} FROM ended_run r JOIN told t ON t.id = r.id
      `
      yield* markCanceled(
        jobs.flatMap(({ id, lease_expires_at: expiry }) => (expiry !== null && isJobId(id) ? [id] : []))
      )
      return yield* runOf(ended)
    })
  ).pipe(readCommitted("workflow.cancel_unsupported_isolation"))
}, writing("Workflows.cancel"))
