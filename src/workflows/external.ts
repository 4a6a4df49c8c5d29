import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import { invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { maxKeyBytes } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"
import type { Owner } from "../TenantScope.ts"
import * as Workflow from "../Workflow.ts"
import { ExternalCompletionConflict, ExternalStepNotFound, ExternalStepNotWaiting } from "../WorkflowReason.ts"
import { type WorkflowRunId, type WorkflowStepRecord, WorkflowStepRow, workflowStepColumns } from "../WorkflowRun.ts"
import { ownerOf, type TypedRun } from "./handle.ts"
import { inRun } from "./lock.ts"
import { settle } from "./settle.ts"

/** How an external step ended. At most 16,384 characters of each text are kept. */
export type ExternalOutcome = {
  /** Shown as the step's reason. */
  readonly reason?: string | undefined
  readonly errorCode?: string | undefined
  readonly errorMessage?: string | undefined
} & (
  | {
      readonly status: "SUCCEEDED"
      /** What dependents see: any JSON of at most 2 MiB. */
      readonly output?: Json | undefined
    }
  | { readonly status: "FAILED" | "CANCELED" }
)

/** What `Workflows.completeExternal` can fail with. */
export type CompleteExternalReason =
  | ExternalCompletionConflict
  | ExternalStepNotFound
  | ExternalStepNotWaiting
  | InvalidArgument
  | UnsupportedIsolation
  | WriteReason

/**
 * Completes an external step that is waiting: it succeeds with what the workflow says it takes, or, by id and scope, ends in any
 * way. What waits for it follows at once. Completing it again in the same way returns the step as it is.
 *
 * Fails with `ExternalStepNotFound` (no such run or step in the scope), `ExternalStepNotWaiting` (it is a job, or waits for its
 * own prerequisites), `ExternalCompletionConflict` (it ended in another way, or with another output), `InvalidArgument` (also if
 * the output does not match the schema of the step), `UnsupportedIsolation`, `Unavailable` (the run stayed locked for five
 * seconds), or what any write can fail with.
 *
 * Locks the run; writes the step, its dependents, the jobs that it releases, and the run.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const refused = Workflows.completeExternal(TenantScope.global, runId, "approval", {
 *   status: "FAILED",
 *   errorCode: "review.refused",
 *   errorMessage: "not this time"
 * })
 * ```
 */
export function completeExternal<W extends Workflow.Any, const Key extends Workflow.ExternalKeys<W>>(
  run: TypedRun<W>,
  stepKey: Key,
  output: Workflow.OutputOf<W, Key>
): Effect.Effect<WorkflowStepRecord, QueryError<CompleteExternalReason>, SqlClient>
export function completeExternal(
  owner: Owner,
  runId: WorkflowRunId,
  stepKey: string,
  outcome: ExternalOutcome
): Effect.Effect<WorkflowStepRecord, QueryError<CompleteExternalReason>, SqlClient>
export function completeExternal(
  ...given:
    | [run: TypedRun<Workflow.Any>, stepKey: string, output: unknown]
    | [owner: Owner, runId: WorkflowRunId, stepKey: string, outcome: ExternalOutcome]
): Effect.Effect<WorkflowStepRecord, QueryError<CompleteExternalReason>, SqlClient> {
  return Effect.suspend(() => {
    if (given.length === 4) return complete(...given)
    const [{ run, workflow }, stepKey, value] = given
    const output = Workflow.encodeOutcome(workflow, stepKey, value)
    return Result.isFailure(output)
      ? Effect.fail(output.failure)
      : complete(ownerOf(run), run.id, stepKey, { status: "SUCCEEDED", output: output.success })
  }).pipe(writing("Workflows.completeExternal"))
}

const complete = Effect.fnUntraced(function* (
  owner: Owner,
  runId: WorkflowRunId,
  stepKey: string,
  outcome: ExternalOutcome
) {
  const invalid = invalidScope(owner) ?? Args.uuid("runId", runId) ?? Args.name("stepKey", stepKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const given = outcome.status === "SUCCEEDED" ? outcome.output : undefined
  const output = given === undefined ? Result.succeed(null) : JsonText.encode(given)
  if (Result.isFailure(output)) return yield* new InvalidArgument({ argument: "output", rule: output.failure })
  const text = (value: string | undefined) => (value === undefined ? null : Args.diagnostic(value))
  return yield* inRun(owner, runId, "r.status", (run) =>
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      if (run === undefined) return yield* new ExternalStepNotFound({ workflowRunId: runId, stepKey })
      const [found] = yield* sql`
        WITH input AS MATERIALIZED (
          SELECT
            ${instant} AS at, ${outcome.status}::text AS status, ${output.success}::jsonb AS output,
            ${text(outcome.reason)}::text AS reason, ${text(outcome.errorCode)}::text AS code,
            ${text(outcome.errorMessage)}::text AS message
        ), done AS (
          UPDATE runledger.workflow_steps s
          SET
            status = i.status, finished_at = i.at, status_reason = i.reason, last_error_code = i.code,
            last_error_message = i.message, output = i.output, updated_at = i.at
          FROM input i
          WHERE s.workflow_run_id = ${runId}::uuid AND s.step_key = ${stepKey}
            AND s.execution_kind = 'EXTERNAL' AND s.status = 'WAITING_FOR_EXTERNAL'
        )
        SELECT
          s.id, s.execution_kind, s.status, i.status = s.status AS same_status,
          s.output IS NOT DISTINCT FROM i.output AS same_output,
          (s.status_reason, s.last_error_code, s.last_error_message)
            IS NOT DISTINCT FROM (i.reason, i.code, i.message) AS same_texts
        FROM input i
        JOIN runledger.workflow_steps s ON s.workflow_run_id = ${runId}::uuid AND s.step_key = ${stepKey}
      `
      if (found === undefined) return yield* new ExternalStepNotFound({ workflowRunId: runId, stepKey })
      if (found.execution_kind !== "EXTERNAL") {
        return yield* new ExternalStepNotWaiting({ stepKey, code: "workflow.external_step_not_external" })
      }
      if (found.status === "BLOCKED") {
        return yield* new ExternalStepNotWaiting({ stepKey, code: "workflow.external_step_not_waiting" })
      }
      if (found.status === "WAITING_FOR_EXTERNAL") {
        yield* settle([{ runId, stepId: String(found.id) }], "ended now")
      } else if (found.same_status === true && found.same_output !== true) {
        return yield* new ExternalCompletionConflict({
          stepKey,
          code: "workflow.external_step_conflicting_output_retry"
        })
      } else if (found.same_status !== true || found.same_texts !== true) {
        return yield* new ExternalCompletionConflict({
          stepKey,
          code: "workflow.external_step_conflicting_completion_retry"
        })
      }
      const [step] = yield* sql`
        SELECT ${sql.literal(workflowStepColumns)}
        FROM runledger.workflow_steps s
        WHERE s.workflow_run_id = ${runId}::uuid AND s.step_key = ${stepKey}
      `
      return yield* Effect.mapError(Schema.decodeUnknownEffect(WorkflowStepRow)(step), () => new QueryFailed({}))
    })
  ).pipe(readCommitted("workflow.external_completion_unsupported_isolation"))
})
