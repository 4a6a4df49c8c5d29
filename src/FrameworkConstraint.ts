/**
 * What a violated constraint means, as data.
 */
import * as Context from "effect/Context"
import type { Category } from "./Reason.ts"

/** What a client is told of a violated constraint. */
export interface FrameworkConstraintSpec {
  readonly category: Category
  readonly code: string
  /** Safe to show: names no value. */
  readonly clientMessage: string
}

const spec = (category: Category, code: string, clientMessage: string): FrameworkConstraintSpec => ({
  category,
  code,
  clientMessage
})

const byConstraint: Readonly<Record<string, FrameworkConstraintSpec>> = {
  uq_job_queue_type_idempotency: spec(
    "Conflict",
    "job.already_enqueued",
    "A job with this idempotency key already exists"
  ),
  uq_workflow_runs_type_idempotency: spec(
    "Conflict",
    "workflow.already_enqueued",
    "A workflow run with this idempotency key already exists"
  ),
  // not ours: the name that an application should give to its own foreign key from job_queue.organization_id
  fk_job_queue_organization: spec("Validation", "job.organization_not_found", "The organization does not exist"),
  job_schedules_name_key: spec("Conflict", "job_schedule.already_exists", "A schedule with this name already exists"),
  fk_job_schedules_job_type: spec(
    "Validation",
    "job_schedule.definition_not_found_or_disabled",
    "The definition of the schedule's job type does not exist"
  ),
  os_job_definitions_delete: spec(
    "Validation",
    "job_definition.delete_refused",
    "Job definitions are disabled, not deleted"
  )
}

const bySqlState: Readonly<Record<string, FrameworkConstraintSpec>> = {
  "23505": spec("Conflict", "db.unique_violation", "It exists already"),
  "23503": spec("Validation", "db.related_resource_missing", "Something that it refers to does not exist"),
  "23001": spec("Validation", "db.related_resource_still_referenced", "Something still refers to it"),
  "23514": spec("Validation", "db.business_rule_violation", "A rule of the data was broken"),
  "23502": spec("Validation", "db.required_field_missing", "A required value is missing"),
  "23P01": spec("Conflict", "db.exclusion_violation", "It conflicts with something that exists")
}

/** The names of the constraints that {@link classify} knows. */
export const names: ReadonlyArray<string> = Object.keys(byConstraint)

/** What a constraint of this library means, or `undefined` for a name that it does not know. */
export const classify = (constraint: string): FrameworkConstraintSpec | undefined =>
  Object.hasOwn(byConstraint, constraint) ? byConstraint[constraint] : undefined

/** Whether {@link classify} knows the constraint. */
export const has = (constraint: string): boolean => classify(constraint) !== undefined

/** What an integrity SQLSTATE (class 23) means when the constraint is nobody's: `db.unique_violation` and the like. */
export const classifySqlState = (sqlState: string): FrameworkConstraintSpec | undefined =>
  Object.hasOwn(bySqlState, sqlState) ? bySqlState[sqlState] : undefined

/**
 * What an application's own constraints mean. Asked before ours, so it may also overrule them.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { FrameworkConstraint } from "effect-runledger"
 *
 * const withOurConstraints = Effect.provideService(
 *   FrameworkConstraint.ConstraintClassifier,
 *   (constraint) =>
 *     constraint === "fk_job_queue_organization"
 *       ? { category: "NotFound", code: "tenant.unknown", clientMessage: "No such tenant" }
 *       : undefined
 * )
 * ```
 */
export const ConstraintClassifier = Context.Reference<(constraint: string) => FrameworkConstraintSpec | undefined>(
  "effect-runledger/FrameworkConstraint/ConstraintClassifier",
  { defaultValue: () => () => undefined }
)
