/**
 * The rules of a graph, checked before anything is sent; the first that is broken is the answer.
 *
 * What a graph must be comes first (`InvalidWorkflow`), then what we and the database can store (`InvalidArgument`): for the run,
 * then for each step, then for its dependencies. Everything is linear in steps and edges.
 */
import * as Result from "effect/Result"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import { Stage } from "../Job.ts"
import { maxKeyBytes, maxTypeBytes } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"
import { type GraphRule, InvalidWorkflow } from "../WorkflowReason.ts"
import { ExecutionKind, ReleaseMode } from "../WorkflowRun.ts"
import type { Dependency, StepRequest, WorkflowRequest } from "./request.ts"

/** Which rule is broken, and where. */
export type Violation = InvalidWorkflow | InvalidArgument | undefined

const breaks = (rule: GraphRule, where: Omit<typeof InvalidWorkflow.Encoded, "_tag" | "rule"> = {}) =>
  new InvalidWorkflow({ rule, ...where })

const refuse = (argument: string, rule: string) => new InvalidArgument({ argument, rule })

// requests of plain JavaScript come here too
const isBlank = (value: string) => typeof value !== "string" || Args.isBlank(value)

const isLong = (key: string) => key.length * 3 > maxKeyBytes && Buffer.byteLength(key) > maxKeyBytes

const optional = <A>(value: A | undefined, check: (value: A) => Violation): Violation =>
  value === undefined ? undefined : check(value)

const json = (argument: string, value: Parameters<typeof JsonText.encode>[0]): Violation => {
  const text = JsonText.encode(value)
  return Result.isFailure(text) ? refuse(argument, text.failure) : undefined
}

const oneOf = (argument: string, value: string, allowed: ReadonlyArray<string>): Violation =>
  allowed.includes(value) ? undefined : refuse(argument, `must be one of ${allowed.join(", ")}`)

/** The first violation that `check` finds. */
const first = <A>(items: ReadonlyArray<A>, check: (item: A, index: number) => Violation): Violation => {
  for (const [index, item] of items.entries()) {
    const violation = check(item, index)
    if (violation !== undefined) return violation
  }
  return undefined
}

/** How long an attempt may run, in seconds, rounded up; not a number if that cannot be told. */
export const timeoutSeconds = (timeout: NonNullable<StepRequest["timeout"]>): number =>
  Math.ceil((Args.millis(timeout) ?? Number.NaN) / 1000)

// ---------------------------------------------------------------------------------------------------------------------
// One step
// ---------------------------------------------------------------------------------------------------------------------

/** What a step must be, whatever stands beside it. */
const shape = (step: StepRequest, stepIndex?: number): Violation => {
  const { stepKey, jobType, maxAttempts, timeout, executionResourceKey } = step
  if (isBlank(stepKey)) {
    return breaks("invalid_dag_step_key_blank", stepIndex === undefined ? {} : { stepIndex })
  }
  if (step.executionKind === "EXTERNAL") {
    if (jobType !== undefined) return breaks("invalid_dag_external_step_job_type_not_allowed", { stepKey })
    return step.priority !== undefined ||
      maxAttempts !== undefined ||
      timeout !== undefined ||
      step.stage !== undefined ||
      step.allowHandlerContinuation === true ||
      executionResourceKey !== undefined
      ? breaks("invalid_dag_external_step_queue_settings_not_allowed", { stepKey })
      : undefined
  }
  if (jobType === undefined || isBlank(jobType)) return breaks("invalid_dag_job_type_blank", { stepKey })
  if (maxAttempts !== undefined && maxAttempts <= 0) {
    return breaks("invalid_dag_step_max_attempts_non_positive", { stepKey })
  }
  if (timeout !== undefined && timeoutSeconds(timeout) <= 0) {
    return breaks("invalid_dag_step_timeout_seconds_non_positive", { stepKey })
  }
  return executionResourceKey !== undefined && (isBlank(executionResourceKey) || isLong(executionResourceKey))
    ? breaks("invalid_dag_step_execution_resource_key", { stepKey })
    : undefined
}

/** What of a step can be stored; `index` is its place in the request, if it does not stand alone. */
const storable = (step: StepRequest, index?: number): Violation => {
  const at = `steps[${step.stepKey}].`
  const { fanOut, contract } = step
  return (
    Args.name(index === undefined ? "stepKey" : `steps[${index}].stepKey`, step.stepKey, maxKeyBytes) ??
    optional(step.executionKind, (kind) => oneOf(`${at}executionKind`, kind, ExecutionKind.literals)) ??
    optional(step.jobType, (jobType) => Args.name(`${at}jobType`, jobType, maxTypeBytes)) ??
    (contract !== undefined && contract.jobType !== step.jobType
      ? refuse(`${at}contract`, "must be the contract of the step's job type")
      : undefined) ??
    optional(step.organizationId, (id) => Args.uuid(`${at}organizationId`, id)) ??
    optional(step.priority, (priority) => Args.integer(`${at}priority`, priority, -100, 100)) ??
    optional(step.maxAttempts, (attempts) => Args.integer(`${at}maxAttempts`, attempts, 1)) ??
    optional(step.timeout, (timeout) => Args.integer(`${at}timeout`, timeoutSeconds(timeout), 1)) ??
    optional(step.stage, (stage) => oneOf(`${at}stage`, stage, Stage.literals)) ??
    optional(step.executionResourceKey, (key) => Args.name(`${at}executionResourceKey`, key, maxKeyBytes)) ??
    optional(step.payloadVersion, (version) => Args.integer(`${at}payloadVersion`, version, 1)) ??
    (fanOut === undefined
      ? undefined
      : (Args.name(`${at}fanOut.key`, fanOut.key, maxKeyBytes) ??
        Args.integer(`${at}fanOut.index`, fanOut.index, 0))) ??
    json(`${at}payload`, step.payload)
  )
}

const noDependencies: ReadonlyArray<Dependency> = []

const dependenciesOf = (step: StepRequest) => step.dependencies ?? noDependencies

/** Dependencies alone; `known` says which prerequisites exist, if that can be told. */
const edges = (step: StepRequest, known?: (stepKey: string) => boolean): Violation => {
  const { stepKey } = step
  const seen = new Set<string>()
  return first(dependenciesOf(step), ({ stepKey: prerequisite }) => {
    if (isBlank(prerequisite)) return breaks("invalid_dag_dependency_step_key_blank", { stepKey })
    if (prerequisite === stepKey) return breaks("invalid_dag_self_dependency", { stepKey })
    if (seen.has(prerequisite)) return breaks("invalid_dag_duplicate_dependency", { stepKey, prerequisite })
    seen.add(prerequisite)
    return known?.(prerequisite) === false
      ? breaks("invalid_dag_missing_dependency", { stepKey, prerequisite })
      : undefined
  })
}

const releaseModesOf = (step: StepRequest): Violation =>
  first(dependenciesOf(step), ({ releaseMode }, index) =>
    releaseMode === undefined || ReleaseMode.literals.includes(releaseMode)
      ? undefined
      : oneOf(`steps[${step.stepKey}].dependencies[${index}].releaseMode`, releaseMode, ReleaseMode.literals)
  )

/** A step that stands alone. */
export const validateStep = (step: StepRequest): Violation =>
  shape(step) ??
  edges(step) ??
  storable(step) ??
  // among other steps, a prerequisite that cannot be stored is missing
  first(dependenciesOf(step), ({ stepKey }, index) =>
    Args.name(`steps[${step.stepKey}].dependencies[${index}].stepKey`, stepKey, maxKeyBytes)
  ) ??
  releaseModesOf(step)

// ---------------------------------------------------------------------------------------------------------------------
// Steps together
// ---------------------------------------------------------------------------------------------------------------------

/** Whether keys are taken, by a step or as a member of a fan-out; the keys are remembered. */
const registry = (existing: ReadonlySet<string>) => {
  const members = new Map<string, Set<number>>()
  const keys = new Set<string>()
  const isStep = (key: string) => keys.has(key) || existing.has(key)
  return {
    isStep,
    step: ({ stepKey }: StepRequest): Violation => {
      if (isStep(stepKey)) return breaks("invalid_dag_duplicate_step_key", { stepKey })
      keys.add(stepKey)
      return undefined
    },
    member: ({ stepKey, fanOut }: StepRequest): Violation => {
      if (members.has(stepKey)) return refuse(`steps[${stepKey}].stepKey`, "must not be the key of a fan-out")
      if (fanOut === undefined) return undefined
      const indexes = members.get(fanOut.key) ?? new Set()
      if (isStep(fanOut.key)) return refuse(`steps[${stepKey}].fanOut.key`, "must not be the key of a step")
      if (indexes.has(fanOut.index)) {
        return refuse(`steps[${stepKey}].fanOut.index`, "must not be that of another member of the fan-out")
      }
      members.set(fanOut.key, indexes.add(fanOut.index))
      return undefined
    }
  }
}

/**
 * Indices in an order in which each comes after all that it needs; those in a cycle, and those that need them, are not in it.
 * `needs` holds the indices that each one needs.
 */
export const sort = (needs: ReadonlyArray<ReadonlyArray<number>>): ReadonlyArray<number> => {
  const open = needs.map(({ length }) => length)
  const neededBy = needs.map((): Array<number> => [])
  for (const [index, needed] of needs.entries()) for (const other of needed) neededBy[other]?.push(index)
  const order = [...open.keys()].filter((index) => open[index] === 0)
  // it grows while it is read
  for (const done of order) {
    for (const index of neededBy[done] ?? []) {
      const left = (open[index] ?? 0) - 1
      open[index] = left
      if (left === 0) order.push(index)
    }
  }
  return order
}

/** The steps that wait for each other, in a ring; prerequisites among `steps` only. */
const cycle = (steps: ReadonlyArray<StepRequest>): Violation => {
  const indexOf = new Map(steps.map(({ stepKey }, index) => [stepKey, index]))
  // most graphs are written down in an order in which they can run
  const isBefore = ({ stepKey }: Dependency, index: number) => (indexOf.get(stepKey) ?? -1) < index
  if (steps.every((step, index) => dependenciesOf(step).every((needed) => isBefore(needed, index)))) return undefined
  const needs = steps.map((step) => {
    const needed: Array<number> = []
    for (const { stepKey } of dependenciesOf(step)) {
      const index = indexOf.get(stepKey)
      if (index !== undefined) needed.push(index)
    }
    return needed
  })
  const sorted = new Set(sort(needs))
  if (sorted.size === steps.length) return undefined
  // what is not sorted needs something that is not: a walk along these comes back to where it was
  const walk = new Map<number, number>()
  let at = needs.findIndex((_, index) => !sorted.has(index))
  while (!walk.has(at)) {
    walk.set(at, walk.size)
    at = needs[at]?.find((index) => !sorted.has(index)) ?? at
  }
  const ring = [...walk.keys()].slice(walk.get(at)).reverse()
  return breaks("invalid_dag_cycle", { cycle: ring.map((index) => steps[index]?.stepKey ?? "") })
}

/** A whole graph. */
export const validateWorkflow = (request: WorkflowRequest): Violation => {
  const { workflowType, organizationId, metadata, idempotencyKey, activeKey, resultStepKey, steps } = request
  const taken = registry(new Set())
  return (
    optional(idempotencyKey, (key) => (isBlank(key) ? breaks("invalid_dag_idempotency_key_blank") : undefined)) ??
    optional(activeKey, (key) =>
      isBlank(key)
        ? breaks("invalid_dag_active_key_blank")
        : isLong(key)
          ? breaks("invalid_dag_active_key_too_long")
          : undefined
    ) ??
    optional(resultStepKey, (key) => (isBlank(key) ? breaks("invalid_dag_result_step_key_blank") : undefined)) ??
    (isBlank(workflowType) ? breaks("invalid_dag_workflow_type_blank") : undefined) ??
    (steps.length === 0 ? breaks("invalid_dag_empty") : undefined) ??
    Args.name("workflowType", workflowType, maxTypeBytes) ??
    optional(organizationId, (id) => Args.uuid("organizationId", id)) ??
    optional(idempotencyKey, (key) => Args.name("idempotencyKey", key, maxKeyBytes)) ??
    optional(activeKey, (key) => Args.name("activeKey", key, maxKeyBytes)) ??
    optional(metadata, (value) => json("metadata", value)) ??
    first(
      steps,
      (step, index) => shape(step, index) ?? taken.step(step) ?? storable(step, index) ?? taken.member(step)
    ) ??
    first(steps, (step) => edges(step, taken.isStep) ?? releaseModesOf(step)) ??
    cycle(steps) ??
    optional(resultStepKey, (stepKey) =>
      taken.isStep(stepKey) ? undefined : breaks("invalid_dag_unknown_result_step", { stepKey })
    )
  )
}

/** Steps that are added to a run with `existingKeys`. */
export const validateAppend = (existingKeys: ReadonlySet<string>, steps: ReadonlyArray<StepRequest>): Violation => {
  const taken = registry(existingKeys)
  return (
    (steps.length === 0 ? breaks("invalid_dag_empty") : undefined) ??
    first(
      steps,
      (step, index) =>
        shape(step, index) ??
        edges(step) ??
        taken.step(step) ??
        storable(step, index) ??
        taken.member(step) ??
        releaseModesOf(step)
    ) ??
    first(steps, (step) => edges(step, taken.isStep)) ??
    cycle(steps)
  )
}
