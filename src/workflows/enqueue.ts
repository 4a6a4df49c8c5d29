import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isString } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { mayWait, patience } from "../internal/waiting.ts"
import { declareSoon } from "../jobs/declareSoon.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type InvalidArgument,
  QueryFailed,
  Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import type * as Workflow from "../Workflow.ts"
import {
  ActiveKeyMisuse,
  type InvalidWorkflow,
  StepDefinitionUnavailable,
  WorkflowIdempotencyConflict,
  WorkflowSnapshotMissing
} from "../WorkflowReason.ts"
import { type WorkflowRunRecord, workflowRunColumns } from "../WorkflowRun.ts"
import { type EncodedSteps, encodeSteps, requestText } from "./encode.ts"
import type { TypedRun } from "./handle.ts"
import { findRun, insertRun, type RunInput } from "./insert.ts"
import type { WorkflowRequest } from "./request.ts"
import { runOf } from "./settle.ts"
import { validateWorkflow } from "./validate.ts"

/** The run that a request led to, and whether it was there already; then as it stands now. */
export interface EnqueuedRun {
  readonly run: WorkflowRunRecord
  readonly disposition: "inserted" | "existing"
}

/** The run that a request with an active key led to, and why. Decide by the disposition: an active run may have ended. */
export interface ActiveRun {
  readonly run: WorkflowRunRecord
  /** `existing`: the idempotency key belongs to it; `active`: it holds the active key, whatever its type. */
  readonly disposition: "inserted" | "existing" | "active"
}

/** What a run of `W` is given; left out if it needs nothing. */
export type OptionsOf<W extends Workflow.Any> =
  object extends Workflow.RequestOptions<W>
    ? [options?: Workflow.RequestOptions<W>]
    : [options: Workflow.RequestOptions<W>]

/** What {@link enqueue} and {@link enqueueOrGetActive} can fail with. */
export type EnqueueWorkflowReason =
  | ActiveKeyMisuse
  | InvalidArgument
  | InvalidWorkflow
  | StepDefinitionUnavailable
  | UnsupportedIsolation
  | WorkflowIdempotencyConflict
  | WorkflowSnapshotMissing
  | WriteReason

/**
 * Enqueues a workflow, typed or as plain data: its run, its steps, their dependencies, and the jobs of the steps that wait for
 * nothing, in one statement. Inside `sql.withTransaction` all of that exists if and only if the caller's rows do.
 *
 * With an idempotency key, a retry of the same request returns the first run, whatever became of it, and a different request
 * fails and names what differs. The order of steps and of dependencies does not matter; what is compared is what was given,
 * not the defaults that filled the gaps.
 *
 * Fails with `InvalidWorkflow` (a rule of the graph, before anything is sent), `InvalidArgument`, `ActiveKeyMisuse` (there is
 * an active key: use {@link enqueueOrGetActive}), `StepDefinitionUnavailable` (the first step whose type is disabled, or
 * dynamic and not declared), `WorkflowIdempotencyConflict`, `WorkflowSnapshotMissing`, `UnsupportedIsolation` (a key, in a
 * transaction that is not READ COMMITTED), `Unavailable` (another transaction held the key for five seconds), or what any write
 * can fail with.
 *
 * Writes runs, steps, dependencies and jobs; reads definitions without locking them. A request with a key may wait for another
 * transaction that inserts the same key.
 *
 * @example
 * ```ts
 * import { Workflows } from "effect-runledger"
 *
 * const run = Workflows.enqueue({
 *   workflowType: "orders.ship",
 *   steps: [
 *     { stepKey: "pack", jobType: "order.pack", payload: { order: 7 } },
 *     {
 *       stepKey: "send",
 *       jobType: "order.send",
 *       payload: { order: 7 },
 *       dependencies: [{ stepKey: "pack", releaseMode: "ON_SUCCESS" }]
 *     }
 *   ],
 *   resultStepKey: "send",
 *   idempotencyKey: "order:7"
 * })
 * ```
 */
export function enqueue<W extends Workflow.Any>(
  workflow: W,
  ...options: OptionsOf<W>
): Effect.Effect<EnqueuedRun & TypedRun<W>, QueryError<EnqueueWorkflowReason>, SqlClient>
export function enqueue(
  request: WorkflowRequest
): Effect.Effect<EnqueuedRun, QueryError<EnqueueWorkflowReason>, SqlClient>
export function enqueue(
  workflow: Workflow.Any | WorkflowRequest,
  options?: Workflow.AnyOptions
): Effect.Effect<EnqueuedRun & { readonly workflow: unknown }, QueryError<EnqueueWorkflowReason>, SqlClient> {
  return Effect.gen(function* () {
    const request = yield* requestOf(workflow, options)
    if (request.activeKey !== undefined) {
      return yield* new ActiveKeyMisuse({ code: "workflow.active_key_api_required" })
    }
    return { ...(yield* enqueueAs(request, insertPlain)), workflow }
  }).pipe(writing("Workflows.enqueue"))
}

/**
 * Enqueues a workflow unless a run with its active key is there: of all runs with one active key in an organization, whatever
 * their types, at most one is active. A run keeps its key until it has ended and no handler of it can still be at work.
 *
 * An idempotency key comes first: a retry of the same request returns its run even if another one is active now.
 *
 * Fails as {@link enqueue} does, with `ActiveKeyMisuse` if there is no active key, and always with `UnsupportedIsolation` in a
 * transaction that is not READ COMMITTED.
 *
 * Locks the active key first, which may mean waiting for the transaction of another enqueue or the end of another run; then
 * writes as {@link enqueue} does.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Workflows } from "effect-runledger"
 *
 * const nightly = Workflows.enqueueOrGetActive({
 *   workflowType: "reports.nightly",
 *   activeKey: "reports",
 *   steps: [{ stepKey: "build", jobType: "report.build", payload: {} }]
 * }).pipe(Effect.map(({ disposition }) => disposition === "inserted"))
 * ```
 */
export function enqueueOrGetActive<W extends Workflow.Any>(
  workflow: W,
  ...options: OptionsOf<W>
): Effect.Effect<ActiveRun & TypedRun<W>, QueryError<EnqueueWorkflowReason>, SqlClient>
export function enqueueOrGetActive(
  request: WorkflowRequest
): Effect.Effect<ActiveRun, QueryError<EnqueueWorkflowReason>, SqlClient>
export function enqueueOrGetActive(
  workflow: Workflow.Any | WorkflowRequest,
  options?: Workflow.AnyOptions
): Effect.Effect<ActiveRun & { readonly workflow: unknown }, QueryError<EnqueueWorkflowReason>, SqlClient> {
  return Effect.gen(function* () {
    const request = yield* requestOf(workflow, options)
    const { activeKey } = request
    if (activeKey === undefined) return yield* new ActiveKeyMisuse({ code: "workflow.active_key_required" })
    return { ...(yield* enqueueAs(request, insertActive(activeKey))), workflow }
  }).pipe(writing("Workflows.enqueueOrGetActive"))
}

const requestOf = (workflow: Workflow.Any | WorkflowRequest, options: Workflow.AnyOptions | undefined) =>
  "toRequest" in workflow ? Effect.fromResult(workflow.toRequest(options)) : Effect.succeed(workflow)

/** Enqueues a request with or without an active key, in the transaction of whoever calls. */
export const enqueueIn = (request: WorkflowRequest) =>
  enqueueAs<ActiveRun>(request, request.activeKey === undefined ? insertPlain : insertActive(request.activeKey))

type Insert<R extends ActiveRun> = (
  request: WorkflowRequest,
  steps: EncodedSteps
) => Effect.Effect<R, EnqueueWorkflowReason | SqlError, SqlClient>

/** Checks a request, inserts it, and tells whom it concerns once the caller's transaction has committed. */
const enqueueAs = Effect.fnUntraced(function* <R extends ActiveRun>(request: WorkflowRequest, insert: Insert<R>) {
  const invalid = validateWorkflow(request)
  if (invalid !== undefined) return yield* Effect.fail(invalid)
  const steps = yield* Effect.fromResult(encodeSteps(request.steps, request.organizationId))
  const enqueued = yield* insert(request, steps)
  if (steps.contracts.length > 0) yield* declareSoon(steps.contracts)
  if (enqueued.disposition === "inserted") yield* markDue(steps.rootTypes)
  return enqueued
})

const maxRounds = 5

const inputOf = (request: WorkflowRequest, steps: EncodedSteps, runId: string | undefined): RunInput => ({
  workflowType: request.workflowType,
  organizationId: request.organizationId?.toLowerCase(),
  idempotencyKey: request.idempotencyKey,
  request: requestText(request, steps),
  runId
})

/** Inserts or finds the run; see {@link insertRun}. */
const insert = Effect.fnUntraced(function* (
  input: RunInput,
  steps: EncodedSteps
): Effect.fn.Return<EnqueuedRun, EnqueueWorkflowReason | SqlError, SqlClient> {
  for (let round = 0; round < maxRounds; round++) {
    const [row] = yield* input.idempotencyKey === undefined
      ? insertRun(input, steps)
      : readCommitted("workflow.enqueue_idempotency_unsupported_isolation")(
          Effect.filterOrFail(
            mayWait(insertRun(input, steps)),
            ([row]) => row?.outcome !== "isolation",
            () => new NotReadCommitted()
          )
        )
    if (row?.outcome !== "unseen") return yield* answerOf(row)
  }
  return yield* new Unavailable({ origin: "busy" })
})

const insertPlain: Insert<EnqueuedRun> = (request, steps) => insert(inputOf(request, steps, undefined), steps)

const answerOf = Effect.fnUntraced(function* (
  row: Row | undefined
): Effect.fn.Return<
  EnqueuedRun,
  QueryFailed | StepDefinitionUnavailable | WorkflowIdempotencyConflict | WorkflowSnapshotMissing
> {
  switch (row?.outcome) {
    case "inserted":
    case "existing":
      return { run: yield* runOf(row), disposition: row.outcome }
    case "conflict":
      return yield* new WorkflowIdempotencyConflict({ workflowRunId: String(row.id), fields: fieldsOf(row.fields) })
    case "no snapshot":
      return yield* new WorkflowSnapshotMissing({ workflowRunId: String(row.id) })
    case "missing":
    case "disabled":
      return yield* new StepDefinitionUnavailable({
        stepKey: String(row.refused_step_key),
        jobType: String(row.refused_job_type),
        state: row.outcome
      })
    default:
      return yield* new QueryFailed({})
  }
})

const fieldsOf = (fields: unknown): ReadonlyArray<string> => (Array.isArray(fields) ? fields.filter(isString) : [])

/**
 * The claim on the key is what decides: it is inserted first, for a run that does not exist yet, and its unique index makes
 * others wait. If it belongs to a run, that run is the answer, unless the idempotency key has one of its own. If it is gone
 * when we look, it is tried again.
 */
const insertActive =
  (activeKey: string): Insert<ActiveRun> =>
  (request, steps) => {
    const scope =
      request.organizationId === undefined ? "global" : `organization:${request.organizationId.toLowerCase()}`
    const byKey = Effect.gen(function* () {
      if (request.idempotencyKey === undefined) return undefined
      const [row] = yield* findRun(inputOf(request, steps, undefined))
      return row === undefined ? undefined : yield* answerOf(row)
    })
    const round = Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      const existing = yield* byKey
      if (existing !== undefined) return existing
      const [claim] = yield* sql`
      INSERT INTO runledger.workflow_active_claims (scope, active_key, workflow_run_id, created_at, updated_at)
      VALUES (${scope}, ${activeKey}, runledger.uuidv7(), ${instant}, ${instant})
      ON CONFLICT (scope, active_key) DO NOTHING
      RETURNING workflow_run_id
    `
      if (isString(claim?.workflow_run_id)) {
        const enqueued = yield* insert(inputOf(request, steps, claim.workflow_run_id), steps)
        // somebody else has used the idempotency key meanwhile: there is no run for this claim
        if (enqueued.disposition === "existing") {
          yield* sql`DELETE FROM runledger.workflow_active_claims WHERE scope = ${scope} AND active_key = ${activeKey}`
        }
        return enqueued
      }
      // the transaction that we may have waited for may have used the idempotency key as well
      const enqueuedMeanwhile = yield* byKey
      if (enqueuedMeanwhile !== undefined) return enqueuedMeanwhile
      const [held] = yield* sql`
      SELECT ${sql.literal(workflowRunColumns)}
      FROM runledger.workflow_active_claims c
      JOIN runledger.workflow_runs r ON r.id = c.workflow_run_id
      WHERE c.scope = ${scope} AND c.active_key = ${activeKey}
    `
      return held === undefined ? undefined : { run: yield* runOf(held), disposition: "active" as const }
    })
    return transaction(
      Effect.gen(function* () {
        const sql = yield* Sql.client
        const [settings] = yield* sql`
        SELECT ${sql.literal(isReadCommitted)} AS is_read_committed, ${sql.literal(patience)}
      `
        if (settings?.is_read_committed !== true) return yield* new NotReadCommitted()
        for (let n = 0; n < maxRounds; n++) {
          const answer: ActiveRun | undefined = yield* round
          if (answer === undefined) continue
          yield* sql`SELECT set_config('lock_timeout', ${settings.callers_lock_timeout}, true)`
          return answer
        }
        return yield* new Unavailable({ origin: "busy" })
      })
    ).pipe(readCommitted("workflow.enqueue_idempotency_unsupported_isolation"))
  }
