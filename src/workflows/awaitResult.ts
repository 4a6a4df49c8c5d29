import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { SqlClient } from "effect/sql/SqlClient"
import { isSqlError } from "effect/sql/SqlError"
import * as Args from "../internal/arguments.ts"
import { sleepLive } from "../internal/busy.ts"
import { classifyRead } from "../internal/classify.ts"
import { Jsonb, nullable, Timestamptz } from "../internal/columns.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { Listener } from "../Notifications.ts"
import { type QueryError, reading } from "../QueryError.ts"
import { InvalidArgument, type ReadReason } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import * as Workflow from "../Workflow.ts"
import { NoResult, ResultWaitTimeout, UnsuccessfulRun, WorkflowRunNotFound } from "../WorkflowReason.ts"
import { RunStatus, WorkflowRunId } from "../WorkflowRun.ts"
import { monotonicMillis } from "../worker/running.ts"
import { ownerOf, type TypedRun } from "./handle.ts"

/** How to wait for a result. */
export interface AwaitOptions {
  /** How long to wait: at least 0, which is one look-up; `"Infinity"` for as long as it takes. Default: 5 minutes. */
  readonly timeout?: Duration.Input | undefined
  /** How often to look: at least 1 millisecond, the default 1 second. A listener only makes it faster. */
  readonly pollInterval?: Duration.Input | undefined
}

/** What a wait for a result can fail with. */
export type AwaitReason =
  | InvalidArgument
  | WorkflowRunNotFound
  | NoResult
  | UnsuccessfulRun
  | ResultWaitTimeout
  | ReadReason

/** The result of a run that succeeded: the output of its result step. */
export class WorkflowResult extends Schema.Class<WorkflowResult>("effect-runledger/WorkflowResult")({
  workflowRunId: WorkflowRunId,
  workflowType: Schema.String,
  organizationId: nullable(Schema.String),
  resultStepKey: Schema.String,
  result: Jsonb,
  finishedAt: Timestamptz
}) {}

/** How long the last look-up may take, in milliseconds: what was committed just before the deadline is still found. */
const graceMillis = 250

const decodeRow = Schema.decodeUnknownEffect(
  Schema.Struct({
    id: WorkflowRunId,
    workflowType: Schema.String,
    organizationId: nullable(Schema.String),
    status: RunStatus,
    resultStepKey: nullable(Schema.String),
    hasResult: Schema.Boolean,
    result: Jsonb,
    finishedAt: nullable(Timestamptz)
  }).pipe(
    Schema.encodeKeys({
      workflowType: "workflow_type",
      organizationId: "organization_id",
      resultStepKey: "result_step_key",
      hasResult: "has_result",
      finishedAt: "finished_at"
    })
  )
)

/** The result, `None` while the run is under way, or why there is none. */
const lookUp = Effect.fnUntraced(function* (sql: SqlClient, scope: TenantScope, workflowRunId: WorkflowRunId) {
  // a result that is null in JSON is a result; the driver cannot tell it from none
  const [found] = yield* sql`
    SELECT
      r.id, r.workflow_type, r.organization_id, r.status, r.result_step_key, r.result IS NOT NULL AS has_result, r.result,
      r.finished_at
    FROM runledger.workflow_runs r
    WHERE r.id = ${workflowRunId}::uuid AND ${inScope(sql, scope, "r")}
  `
  if (found === undefined) return yield* new WorkflowRunNotFound({ workflowRunId })
  const { id, status, resultStepKey, hasResult, finishedAt, ...row } = yield* decodeRow(found)
  const none = (code: NoResult["code"]) => new NoResult({ workflowRunId, code })
  if (Option.isNone(resultStepKey)) return yield* none("workflow.result_not_declared")
  if (status === "RUNNING" || status === "WAITING_FOR_EXTERNAL") return Option.none()
  if (status !== "SUCCEEDED") return yield* new UnsuccessfulRun({ workflowRunId, status })
  if (!hasResult) return yield* none("workflow.result_missing")
  if (Option.isNone(finishedAt)) return yield* none("workflow.handle_internal_state")
  return Option.some(
    new WorkflowResult({ ...row, workflowRunId: id, resultStepKey: resultStepKey.value, finishedAt: finishedAt.value })
  )
})

/** `None` if it takes longer. It is not waited for then: a server that does not answer does not hear of the cancellation. */
const within = <A, E, R>(millis: number, self: Effect.Effect<Option.Option<A>, E, R>) =>
  Effect.flatMap(Effect.forkDetach(self), (fiber) =>
    Effect.raceFirst(Fiber.join(fiber), Effect.as(sleepLive(millis), Option.none<A>())).pipe(
      Effect.ensuring(Effect.sync(() => fiber.interruptUnsafe()))
    )
  )

/** Waits until the run may have ended, if there is someone to say so, and forgets what was said before. */
const listenFor = Effect.fnUntraced(function* (workflowRunId: WorkflowRunId) {
  const listener = yield* Effect.serviceOption(Listener)
  if (Option.isNone(listener)) return { forget: Effect.void, heard: Effect.never }
  const id = workflowRunId.toLowerCase()
  const inbox = yield* listener.value.subscribeTo(
    (notification) => notification._tag === "RunTerminal" && notification.workflowRunId === id
  )
  return {
    forget: Effect.ignoreCause(Queue.clear(inbox)),
    // a listener that was closed is one that says nothing
    heard: Effect.catchCause(Effect.asVoid(Queue.take(inbox)), () => Effect.never)
  }
})

const wait = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId,
  { timeout = "5 minutes", pollInterval = "1 second" }: AwaitOptions = {}
): Effect.fn.Return<WorkflowResult, AwaitReason | Schema.SchemaError, SqlClient | Scope.Scope> {
  const invalid = invalidScope(scope) ?? Args.uuid("runId", runId)
  if (invalid !== undefined) return yield* invalid
  const timeoutMillis = Option.getOrUndefined(Option.map(Duration.fromInput(timeout), Duration.toMillis))
  if (timeoutMillis === undefined || !(timeoutMillis >= 0)) {
    return yield* new InvalidArgument({ argument: "timeout", rule: "must not be negative" })
  }
  const pollMillis = Args.millis(pollInterval)
  if (pollMillis === undefined || pollMillis < 1) {
    return yield* new InvalidArgument({ argument: "pollInterval", rule: "must last at least 1 millisecond" })
  }
  const deadline = monotonicMillis() + timeoutMillis
  const sql = yield* Sql.client
  // a transaction that lost its connection does not come back
  const isPatient = !(yield* Sql.inTransaction(sql))
  const { forget, heard } = yield* listenFor(runId)
  const look = lookUp(sql, scope, runId).pipe(
    Effect.mapError((error) => (isSqlError(error) ? classifyRead(error) : error)),
    // spans of polls would bury everything else
    Effect.withTracerEnabled(false)
  )
  const outlive = isPatient ? Effect.catchTag(look, "Unavailable", () => Effect.succeedNone) : look
  for (;;) {
    // timers count whole milliseconds, and may be a fraction early
    const left = deadline - monotonicMillis()
    const isLast = left < 1
    // what was said until now is answered by this look-up
    yield* forget
    const result = yield* isLast ? within(graceMillis, look) : within(left, outlive)
    if (Option.isSome(result)) return result.value
    if (isLast) return yield* new ResultWaitTimeout({ workflowRunId: runId })
    yield* Effect.raceFirst(heard, sleepLive(Math.min(pollMillis, deadline - monotonicMillis())))
  }
}, Effect.scoped)

/**
 * Waits until a run has succeeded and returns its result, the output of its result step; decoded, if the run is typed.
 *
 * Looks once per poll interval, and at once when a listener (`Notifications.layer`) is among the services and hears that the
 * run has ended. Between two looks it holds no connection. An outage of the database is waited out. The time to wait is
 * measured by the clock of the machine, also where the fiber has a test clock; when it is over, one more look of at most 250
 * milliseconds finds what was committed just before.
 *
 * Not for the inside of a transaction: it would hold the connection, what it locked, and under `REPEATABLE READ` its snapshot.
 *
 * Fails with `WorkflowRunNotFound` (in this scope), `NoResult` (the run declares no result step, at once; or succeeded without
 * a result, or with one that does not match its workflow), `UnsuccessfulRun` (it was canceled, or a step was not successful), `ResultWaitTimeout`, `InvalidArgument`, or what
 * any read can fail with: `Unavailable` only if the last look met the outage. Locks nothing.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const result = Workflows.awaitResult(TenantScope.global, runId, { timeout: "1 minute" }).pipe(
 *   Effect.map(({ result }) => result),
 *   Effect.catchReason("QueryError", "UnsuccessfulRun", ({ status }) => Effect.succeed(status))
 * )
 * ```
 */
export function awaitResult<W extends Workflow.Any>(
  run: TypedRun<W>,
  options?: AwaitOptions
): Effect.Effect<Workflow.ResultOf<W>, QueryError<AwaitReason>, SqlClient>
export function awaitResult(
  scope: TenantScope,
  runId: WorkflowRunId,
  options?: AwaitOptions
): Effect.Effect<WorkflowResult, QueryError<AwaitReason>, SqlClient>
export function awaitResult(
  of: TypedRun<Workflow.Any> | TenantScope,
  first?: AwaitOptions | WorkflowRunId,
  second?: AwaitOptions
): Effect.Effect<unknown, QueryError<AwaitReason>, SqlClient> {
  return Effect.gen(function* () {
    if (typeof first === "string") return yield* wait("run" in of ? ownerOf(of.run) : of, first, second)
    if (!("run" in of)) return yield* new InvalidArgument({ argument: "runId", rule: "must be a UUID" })
    const { result } = yield* wait(ownerOf(of.run), of.run.id, first)
    return yield* Effect.mapError(
      Workflow.decodeResult(of.workflow, result),
      () => new NoResult({ workflowRunId: of.run.id, code: "workflow.result_undecodable" })
    )
  }).pipe(reading("Workflows.awaitResult"))
}
