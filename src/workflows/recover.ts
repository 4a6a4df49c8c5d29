import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import * as Args from "../internal/arguments.ts"
import { Jsonb } from "../internal/columns.ts"
import { readCommitted } from "../internal/isolation.ts"
import { invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { Stage } from "../Job.ts"
import { maxKeyBytes } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import type { Owner } from "../TenantScope.ts"
import { InvalidRecovery, RecoveryConflict, RecoverySourceNotFound } from "../WorkflowReason.ts"
import {
  ExecutionKind,
  type WorkflowRunId,
  type WorkflowRunRecord,
  type WorkflowStepId,
  workflowRunColumns
} from "../WorkflowRun.ts"
import { type EnqueueWorkflowReason, enqueueIn } from "./enqueue.ts"
import { inRun } from "./lock.ts"
import type { StepRequest, WorkflowRequest } from "./request.ts"
import { runOf } from "./settle.ts"

/** Why, and under which key, a run is recovered. */
export interface RecoverOptions {
  /** Makes a retry of the same recovery return the first: not blank, at most 512 bytes, unique within the source run. */
  readonly requestKey: string
  /** For people: not blank. At most 16,384 characters are kept. */
  readonly reason: string
  /** The step that led to it, for the record only. */
  readonly sourceStepId?: WorkflowStepId | undefined
}

/** The run that a recovery led to. */
export interface Recovered {
  readonly run: WorkflowRunRecord
  /** `existing`: the same recovery was made before. */
  readonly disposition: "inserted" | "existing"
}

/** What {@link recover} can fail with. */
export type RecoverReason = EnqueueWorkflowReason | InvalidRecovery | RecoveryConflict | RecoverySourceNotFound

/**
 * Runs a workflow that has ended once more, as a new run: the graph as it was in the end, with the steps that were appended,
 * with payloads as they were corrected, and with the priorities, attempts and timeouts that its steps had. The source run is
 * not changed; external steps have to be completed again. The new run has no idempotency key, and takes the active key.
 *
 * A retry with the same request key, step and reason returns the first recovery.
 *
 * Fails with `InvalidRecovery` (request key or reason), `RecoverySourceNotFound` (no such run in exactly this scope, or the step
 * is not part of it), `RecoveryConflict` (it has not ended, its request is missing or does not fit its steps, the key belongs to
 * another recovery, or another run holds the active key), `UnsupportedIsolation`, `Unavailable` (the source run stayed locked for
 * five seconds), or as `Workflows.enqueue` does.
 *
 * Locks the source run; writes what an enqueue writes, and the recovery.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const again = Workflows.recover(TenantScope.global, runId, { requestKey: "incident:42", reason: "mail server was down" })
 * ```
 */
export const recover: (
  owner: Owner,
  runId: WorkflowRunId,
  options: RecoverOptions
) => Effect.Effect<Recovered, QueryError<RecoverReason>, SqlClient> = Effect.fnUntraced(function* (
  owner: Owner,
  runId: WorkflowRunId,
  options: RecoverOptions
) {
  const { requestKey, sourceStepId } = options
  if (Args.name("requestKey", requestKey, maxKeyBytes) !== undefined) {
    return yield* new InvalidRecovery({ code: "workflow.invalid_recovery_request_key" })
  }
  if (Args.isBlank(options.reason)) return yield* new InvalidRecovery({ code: "workflow.invalid_recovery_reason" })
  const invalid =
    invalidScope(owner) ??
    Args.uuid("runId", runId) ??
    (sourceStepId === undefined ? undefined : Args.uuid("sourceStepId", sourceStepId))
  if (invalid !== undefined) return yield* invalid
  const reason = Args.diagnostic(options.reason)
  const conflict = (code: RecoveryConflict["code"]) => new RecoveryConflict({ workflowRunId: runId, code })

  return yield* inRun(owner, runId, `${workflowRunColumns}, r.enqueue_request`, (source) =>
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      if (source === undefined) {
        return yield* new RecoverySourceNotFound({ workflowRunId: runId, code: "workflow.recovery_source_not_found" })
      }
      const [earlier] = yield* sql`
        SELECT
          ${sql.literal(workflowRunColumns)},
          v.mode = 'FULL_REPLAY' AND v.reason = ${reason}
            AND v.source_step_id IS NOT DISTINCT FROM ${sourceStepId ?? null}::uuid AS is_same
        FROM runledger.workflow_recoveries v
        JOIN runledger.workflow_runs r ON r.id = v.recovery_run_id
        WHERE v.source_run_id = ${runId}::uuid AND v.request_key = ${requestKey}
      `
      if (earlier !== undefined) {
        if (earlier.is_same !== true) return yield* conflict("workflow.recovery_request_conflict")
        return { run: yield* runOf(earlier), disposition: "existing" as const }
      }
      const ended = yield* runOf(source)
      if (!ended.isTerminal) return yield* conflict("workflow.recovery_source_not_terminal")
      const steps = yield* sql`
        SELECT
          s.id, s.step_key, s.execution_kind, s.job_type, s.payload, s.payload_version, s.priority, s.max_attempts,
          s.timeout_seconds, s.allow_handler_continuation, s.execution_resource_key
        FROM runledger.workflow_steps s
        WHERE s.workflow_run_id = ${runId}::uuid
      `
      if (sourceStepId !== undefined && !steps.some(({ id }) => id === sourceStepId.toLowerCase())) {
        return yield* new RecoverySourceNotFound({
          workflowRunId: runId,
          code: "workflow.recovery_source_step_not_found"
        })
      }
      if (source.enqueue_request === null) return yield* conflict("workflow.recovery_snapshot_missing")
      const mutations = yield* sql`
        SELECT m.mutation_kind, m.request
        FROM runledger.workflow_run_mutations m
        WHERE m.workflow_run_id = ${runId}::uuid
        ORDER BY m.created_at, m.id
      `
      const request = requestOf(ended, source.enqueue_request, mutations, steps)
      if (request === undefined) return yield* conflict("workflow.recovery_snapshot_unsafe")
      const { run, disposition } = yield* enqueueIn(request)
      if (disposition === "active") return yield* conflict("workflow.recovery_active_constraint")
      yield* sql`
        INSERT INTO runledger.workflow_recoveries
          (recovery_run_id, source_run_id, source_step_id, request_key, mode, reason, created_at)
        VALUES (
          ${run.id}::uuid, ${runId}::uuid, ${sourceStepId ?? null}::uuid, ${requestKey}, 'FULL_REPLAY', ${reason}, ${instant}
        )
      `
      return { run, disposition: "inserted" as const }
    })
  ).pipe(readCommitted("workflow.recovery_unsupported_isolation"))
}, writing("Workflows.recover"))

// What was recorded is trusted to the letter or not at all: a field that we do not know may mean something.
const strictly = { onExcessProperty: "error" } as const

const Snapshot = Schema.Struct({
  step_key: Schema.String,
  execution_kind: Schema.optionalKey(Schema.Literal("EXTERNAL")),
  job_type: Schema.optionalKey(Schema.String),
  organization_id: Schema.optionalKey(Schema.String),
  payload: Jsonb,
  priority: Schema.optionalKey(Schema.Int),
  max_attempts: Schema.optionalKey(Schema.Int),
  timeout_seconds: Schema.optionalKey(Schema.Int),
  stage: Schema.optionalKey(Stage),
  allow_handler_continuation: Schema.optionalKey(Schema.Literal(true)),
  execution_resource_key: Schema.optionalKey(Schema.String),
  fan_out_key: Schema.optionalKey(Schema.String),
  fan_out_index: Schema.optionalKey(Schema.Int),
  after: Schema.optionalKey(Schema.Array(Schema.String)),
  after_terminal: Schema.optionalKey(Schema.Array(Schema.String))
})

const decodeRequest = Schema.decodeUnknownOption(
  Schema.Struct({
    metadata: Jsonb,
    active_key: Schema.optionalKey(Schema.String),
    result_step_key: Schema.optionalKey(Schema.String),
    steps: Schema.Array(Snapshot)
  })
)

const decodeMutation = Schema.decodeUnknownOption(
  Schema.Struct({
    mutation_kind: Schema.Literal("APPEND_STEPS"),
    request: Schema.Struct({ append_window_step_key: Schema.String, steps: Schema.Array(Snapshot) })
  })
)

const decodeLive = Schema.decodeUnknownOption(
  Schema.Array(
    Schema.Struct({
      id: Schema.String,
      step_key: Schema.String,
      execution_kind: ExecutionKind,
      job_type: Schema.NullOr(Schema.String),
      payload: Jsonb,
      payload_version: Schema.Int,
      priority: Schema.NullOr(Schema.Int),
      max_attempts: Schema.NullOr(Schema.Int),
      timeout_seconds: Schema.NullOr(Schema.Int),
      allow_handler_continuation: Schema.Boolean,
      execution_resource_key: Schema.NullOr(Schema.String)
    })
  )
)

/**
 * The request that makes the whole of a run again: what was recorded, with what its steps have become; `undefined` if these do
 * not fit.
 */
const requestOf = (
  source: WorkflowRunRecord,
  recorded: unknown,
  mutations: ReadonlyArray<Row>,
  rows: ReadonlyArray<Row>
): WorkflowRequest | undefined => {
  const initial = Option.getOrUndefined(decodeRequest(recorded, strictly))
  const live = Option.getOrUndefined(decodeLive(rows))
  if (initial === undefined || live === undefined) return undefined
  const snapshots = [...initial.steps]
  for (const mutation of mutations) {
    const appended = Option.getOrUndefined(decodeMutation(mutation, strictly))
    if (appended === undefined) return undefined
    snapshots.push(...appended.request.steps)
  }
  const byKey = new Map(live.map((step) => [step.step_key, step]))
  if (byKey.size !== snapshots.length) return undefined
  const steps: Array<StepRequest> = []
  for (const asked of snapshots) {
    const step = byKey.get(asked.step_key)
    // each once
    byKey.delete(asked.step_key)
    if (
      step === undefined ||
      step.execution_kind !== (asked.execution_kind ?? "JOB") ||
      step.job_type !== (asked.job_type ?? null) ||
      step.allow_handler_continuation !== (asked.allow_handler_continuation ?? false) ||
      step.execution_resource_key !== (asked.execution_resource_key ?? null) ||
      (asked.priority !== undefined && asked.priority !== step.priority) ||
      (asked.max_attempts !== undefined && asked.max_attempts !== step.max_attempts) ||
      (asked.timeout_seconds !== undefined && asked.timeout_seconds !== step.timeout_seconds)
    ) {
      return undefined
    }
    steps.push({
      stepKey: asked.step_key,
      executionKind: step.execution_kind,
      payload: step.payload,
      payloadVersion: step.payload_version,
      organizationId: asked.organization_id,
      fanOut:
        asked.fan_out_key === undefined || asked.fan_out_index === undefined
          ? undefined
          : { key: asked.fan_out_key, index: asked.fan_out_index },
      dependencies: [
        ...(asked.after ?? []).map((stepKey) => ({ stepKey, releaseMode: "ON_SUCCESS" as const })),
        ...(asked.after_terminal ?? []).map((stepKey) => ({ stepKey, releaseMode: "ON_TERMINAL" as const }))
      ],
      ...(step.execution_kind === "EXTERNAL"
        ? {}
        : {
            jobType: asked.job_type,
            priority: step.priority ?? undefined,
            maxAttempts: step.max_attempts ?? undefined,
            timeout: step.timeout_seconds === null ? undefined : step.timeout_seconds * 1000,
            stage: asked.stage,
            allowHandlerContinuation: step.allow_handler_continuation,
            executionResourceKey: step.execution_resource_key ?? undefined
          })
    })
  }
  return {
    workflowType: source.workflowType,
    organizationId: Option.getOrUndefined(source.organizationId),
    metadata: initial.metadata,
    activeKey: initial.active_key,
    resultStepKey: initial.result_step_key,
    steps
  }
}
