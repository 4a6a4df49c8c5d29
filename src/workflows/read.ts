import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { Int8 } from "../internal/columns.ts"
import { invalidLimit } from "../internal/page.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import type { JobId } from "../Job.ts"
import { maxKeyBytes, maxTypeBytes } from "../jobs/limits.ts"
import type { GetReason, ListReason } from "../jobs/read.ts"
import { type QueryError, reading } from "../QueryError.ts"
import { InvalidArgument } from "../Reason.ts"
import type { Owner, TenantScope } from "../TenantScope.ts"
import {
  RunStatus,
  type WorkflowDependencyRecord,
  WorkflowDependencyRow,
  WorkflowRunId,
  type WorkflowRunRecord,
  WorkflowRunRow,
  type WorkflowStepId,
  type WorkflowStepRecord,
  WorkflowStepRow,
  workflowRunColumns,
  workflowStepColumns
} from "../WorkflowRun.ts"

export type { GetReason, ListReason } from "../jobs/read.ts"

const decodeRun = Schema.decodeUnknownEffect(WorkflowRunRow)
const decodeRuns = Schema.decodeUnknownEffect(Schema.Array(WorkflowRunRow))
const decodeStep = Schema.decodeUnknownEffect(WorkflowStepRow)
const decodeSteps = Schema.decodeUnknownEffect(Schema.Array(WorkflowStepRow))
const decodeDependencies = Schema.decodeUnknownEffect(Schema.Array(WorkflowDependencyRow))
const decodeCount = Schema.decodeUnknownEffect(Int8)
const decodeStatus = Schema.decodeUnknownEffect(Schema.Struct({ status: RunStatus }))
const decodeRunId = Schema.decodeUnknownEffect(Schema.Struct({ id: WorkflowRunId }))

/**
 * Reads a run; `None` if there is none in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const run = Workflows.get(TenantScope.admin, runId)
 * ```
 */
export const get: (
  scope: TenantScope,
  runId: WorkflowRunId
) => Effect.Effect<Option.Option<WorkflowRunRecord>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId
) {
  const invalid = invalidRun(scope, runId)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
      SELECT ${sql.literal(workflowRunColumns)}
      FROM runledger.workflow_runs r
      WHERE r.id = ${runId}::uuid AND ${inScope(sql, scope, "r")}
    `
  return row === undefined ? Option.none() : Option.some(yield* decodeRun(row))
}, reading("Workflows.get"))

/**
 * Where a run stands; `None` if there is none in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const status = Workflows.status(TenantScope.admin, runId)
 * ```
 */
export const status: (
  scope: TenantScope,
  runId: WorkflowRunId
) => Effect.Effect<Option.Option<RunStatus>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId
) {
  const invalid = invalidRun(scope, runId)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
      SELECT r.status FROM runledger.workflow_runs r WHERE r.id = ${runId}::uuid AND ${inScope(sql, scope, "r")}
    `
  return row === undefined ? Option.none() : Option.some((yield* decodeStatus(row)).status)
}, reading("Workflows.status"))

/** Which runs. What is left out does not restrict. */
export interface RunFilter {
  readonly scope: TenantScope
  readonly status?: RunStatus | undefined
  /** Exactly this type. */
  readonly workflowType?: string | undefined
}

/** Which page of runs. */
export interface ListOptions extends RunFilter {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last id of the page before. That run need not exist any more. */
  readonly before?: WorkflowRunId | undefined
}

/**
 * Lists runs, newest first, a page at a time: give the last id of a page as `before` of the next. An empty page is the end.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids, type, status), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * const underWay = Workflows.list({ scope: TenantScope.global, status: "RUNNING", limit: 50 })
 * ```
 */
export const list: (
  options: ListOptions
) => Effect.Effect<ReadonlyArray<WorkflowRunRecord>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  options: ListOptions
) {
  const limit = options.limit ?? 100
  const invalid =
    invalidLimit(limit) ??
    invalidFilter(options) ??
    (options.before === undefined ? undefined : Args.uuid("before", options.before))
  if (invalid !== undefined) return yield* invalid
  return yield* decodeRuns(yield* newest(options, options.before, limit))
}, reading("Workflows.list"))

/**
 * Counts runs. The cost grows with what is counted.
 *
 * Fails with `InvalidArgument` or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * const waiting = Workflows.count({ scope: TenantScope.admin, status: "WAITING_FOR_EXTERNAL" })
 * ```
 */
export const count: (filter: RunFilter) => Effect.Effect<number, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(
  function* (filter: RunFilter) {
    const invalid = invalidFilter(filter)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const [row] = yield* sql`SELECT count(*) AS runs FROM runledger.workflow_runs r WHERE ${matching(sql, filter)}`
    return yield* decodeCount(row?.runs)
  },
  reading("Workflows.count")
)

/**
 * The newest run of a type; `None` if there is none in the scope.
 *
 * Fails with `InvalidArgument` (type, scope) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * const latest = Workflows.latestByType(TenantScope.global, "profiles.research")
 * ```
 */
export const latestByType: (
  scope: TenantScope,
  workflowType: string
) => Effect.Effect<Option.Option<WorkflowRunRecord>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  workflowType: string
) {
  const invalid = invalidFilter({ scope, workflowType })
  if (invalid !== undefined) return yield* invalid
  const [row] = yield* newest({ scope, workflowType }, undefined, 1)
  return row === undefined ? Option.none() : Option.some(yield* decodeRun(row))
}, reading("Workflows.latestByType"))

/**
 * The run that was enqueued with this idempotency key, by its owner and type; `None` if there is none.
 *
 * Fails with `InvalidArgument` (scope, type, key) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * const run = Workflows.getByIdempotencyKey(TenantScope.global, "profiles.research", "profile:42")
 * ```
 */
export const getByIdempotencyKey: (
  owner: Owner,
  workflowType: string,
  idempotencyKey: string
) => Effect.Effect<Option.Option<WorkflowRunRecord>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  owner: Owner,
  workflowType: string,
  idempotencyKey: string
) {
  const invalid =
    invalidFilter({ scope: owner, workflowType }) ?? Args.name("idempotencyKey", idempotencyKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
      SELECT ${sql.literal(workflowRunColumns)}
      FROM runledger.workflow_runs r
      WHERE r.workflow_type = ${workflowType} AND ${inScope(sql, owner, "r")} AND r.idempotency_key = ${idempotencyKey}
    `
  return row === undefined ? Option.none() : Option.some(yield* decodeRun(row))
}, reading("Workflows.getByIdempotencyKey"))

/**
 * The run that a job belongs to; `None` if it belongs to none, or to one that is not in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { type Jobs, TenantScope, Workflows } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const runId = Workflows.runOfJob(TenantScope.admin, jobId)
 * ```
 */
export const runOfJob: (
  scope: TenantScope,
  jobId: JobId
) => Effect.Effect<Option.Option<WorkflowRunId>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  jobId: JobId
) {
  const invalid = invalidScope(scope) ?? Args.uuid("jobId", jobId)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  // the scope is that of the run, as everywhere: a step may belong to another organization than its run
  const [row] = yield* sql`
      SELECT r.id
      FROM runledger.job_queue q
      JOIN runledger.workflow_runs r ON r.id = q.workflow_run_id
      WHERE q.id = ${jobId}::uuid AND ${inScope(sql, scope, "r")}
    `
  return row === undefined ? Option.none() : Option.some((yield* decodeRunId(row)).id)
}, reading("Workflows.runOfJob"))

/** Which page of the steps of a run. */
export interface StepsPage {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last id of the page before. */
  readonly after?: WorkflowStepId | undefined
}

/**
 * The steps of a run, in the order of their keys, a page at a time: give the last id of a page as `after` of the next. None if
 * the run is not in the scope.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const steps = Workflows.steps(TenantScope.admin, runId, { limit: 50 })
 * ```
 */
export const steps: (
  scope: TenantScope,
  runId: WorkflowRunId,
  page?: StepsPage
) => Effect.Effect<ReadonlyArray<WorkflowStepRecord>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId,
  { limit = 100, after }: StepsPage = {}
) {
  const invalid =
    invalidLimit(limit) ?? invalidRun(scope, runId) ?? (after === undefined ? undefined : Args.uuid("after", after))
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const rows = yield* sql`
      SELECT ${sql.literal(workflowStepColumns)}
      FROM runledger.workflow_steps s
      WHERE ${ofRun(sql, scope, "s", runId)}
        ${
          after === undefined
            ? sql.literal("")
            : sql`AND s.step_key > (
                SELECT p.step_key FROM runledger.workflow_steps p WHERE p.id = ${after}::uuid AND p.workflow_run_id = ${runId}::uuid
              )`
        }
      ORDER BY s.step_key
      LIMIT ${limit}
    `
  return yield* decodeSteps(rows)
}, reading("Workflows.steps"))

/**
 * A step by its key; `None` if the run has none, or is not in the scope.
 *
 * Fails with `InvalidArgument` (not a UUID; the key) or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const approval = Workflows.stepByKey(TenantScope.admin, runId, "approval")
 * ```
 */
export const stepByKey: (
  scope: TenantScope,
  runId: WorkflowRunId,
  stepKey: string
) => Effect.Effect<Option.Option<WorkflowStepRecord>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* (
  scope: TenantScope,
  runId: WorkflowRunId,
  stepKey: string
) {
  const invalid = invalidRun(scope, runId) ?? Args.name("stepKey", stepKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
      SELECT ${sql.literal(workflowStepColumns)}
      FROM runledger.workflow_steps s
      WHERE ${ofRun(sql, scope, "s", runId)} AND s.step_key = ${stepKey}
    `
  return row === undefined ? Option.none() : Option.some(yield* decodeStep(row))
}, reading("Workflows.stepByKey"))

/** Which page of the dependencies of a run. */
export interface DependenciesPage {
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last dependency of the page before. */
  readonly after?: Pick<WorkflowDependencyRecord, "prerequisiteStepId" | "dependentStepId"> | undefined
}

/**
 * Which steps of a run wait for which, by prerequisite and dependent, a page at a time: give the last of a page as `after` of
 * the next. None if the run is not in the scope.
 *
 * Fails with `InvalidPagination` (limit), `InvalidArgument` (ids), or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { TenantScope, Workflows } from "effect-runledger"
 *
 * declare const runId: Workflows.WorkflowRunId
 * const dependencies = Workflows.dependencies(TenantScope.admin, runId)
 * ```
 */
export const dependencies: (
  scope: TenantScope,
  runId: WorkflowRunId,
  page?: DependenciesPage
) => Effect.Effect<ReadonlyArray<WorkflowDependencyRecord>, QueryError<ListReason>, SqlClient> = Effect.fnUntraced(
  function* (scope: TenantScope, runId: WorkflowRunId, { limit = 100, after }: DependenciesPage = {}) {
    const invalid =
      invalidLimit(limit) ??
      invalidRun(scope, runId) ??
      (after === undefined
        ? undefined
        : (Args.uuid("after.prerequisiteStepId", after.prerequisiteStepId) ??
          Args.uuid("after.dependentStepId", after.dependentStepId)))
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT d.workflow_run_id, d.prerequisite_step_id, d.dependent_step_id, d.release_mode, d.created_at
      FROM runledger.workflow_step_dependencies d
      WHERE ${ofRun(sql, scope, "d", runId)}
        ${
          after === undefined
            ? sql.literal("")
            : sql`
        AND (d.prerequisite_step_id, d.dependent_step_id)
          > (${after.prerequisiteStepId}::uuid, ${after.dependentStepId}::uuid)`
        }
      ORDER BY d.prerequisite_step_id, d.dependent_step_id
      LIMIT ${limit}
    `
    return yield* decodeDependencies(rows)
  },
  reading("Workflows.dependencies")
)

const invalidRun = (scope: TenantScope, runId: WorkflowRunId): InvalidArgument | undefined =>
  invalidScope(scope) ?? Args.uuid("runId", runId)

/** Rows of `alias` that belong to a run in the scope; whose the step itself is does not matter. */
const ofRun = (sql: SqlClient, scope: TenantScope, alias: string, runId: WorkflowRunId): Fragment => sql`
  ${sql.literal(`${alias}.workflow_run_id`)} = ${runId}::uuid
  AND EXISTS (SELECT FROM runledger.workflow_runs r WHERE r.id = ${runId}::uuid AND ${inScope(sql, scope, "r")})`

const invalidFilter = ({ scope, status, workflowType }: RunFilter): InvalidArgument | undefined =>
  invalidScope(scope) ??
  (status === undefined || RunStatus.literals.includes(status)
    ? undefined
    : new InvalidArgument({ argument: "status", rule: `must be one of ${RunStatus.literals.join(", ")}` })) ??
  (workflowType === undefined ? undefined : Args.name("workflowType", workflowType, maxTypeBytes))

// the status as a literal: only then can a partial index serve
const matching = (sql: SqlClient, { scope, status, workflowType }: RunFilter): Fragment => sql`
  ${inScope(sql, scope, "r")}
  ${sql.literal(status === undefined ? "" : `AND r.status = '${status}'`)}
  ${workflowType === undefined ? sql.literal("") : sql`AND r.workflow_type = ${workflowType}`}`

const last = "ffffffff-ffff-ffff-ffff-ffffffffffff"

/** The newest runs before one of them. */
const newest = Effect.fnUntraced(function* (
  filter: RunFilter,
  before: WorkflowRunId | undefined,
  limit: number
): Effect.fn.Return<ReadonlyArray<Row>, SqlError, SqlClient> {
  const sql = yield* Sql.client
  const { workflowType, ...rest } = filter
  // an organization's runs, those under way and those that went wrong have indexes in the order of the ids
  const isIndexed = filter.scope._tag === "Organization" || (filter.status ?? "SUCCEEDED") !== "SUCCEEDED"
  if (workflowType === undefined || isIndexed) {
    return yield* sql`
      SELECT ${sql.literal(workflowRunColumns)}
      FROM runledger.workflow_runs r
      WHERE ${matching(sql, filter)} ${before === undefined ? sql.literal("") : sql`AND r.id < ${before}::uuid`}
      ORDER BY r.id DESC
      LIMIT ${limit}
    `
  }
  // a range of one type: if it were said to be equal, the planner could as well walk over all runs in the order of their ids
  return yield* sql`
      SELECT ${sql.literal(workflowRunColumns)}
      FROM runledger.workflow_runs r
      WHERE ${matching(sql, rest)}
        AND r.workflow_type >= ${workflowType}
        AND (r.workflow_type, r.id) < (${workflowType}, ${before ?? last}::uuid)
      ORDER BY r.workflow_type DESC, r.id DESC
      LIMIT ${limit}
    `
})
