/**
 * A checked request as it is stored and sent: one snapshot, which the steps are made of and a retry is compared with, and
 * beside it what is not part of the request.
 */
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { Stage } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import { decidedBy } from "../jobs/enqueueRequest.ts"
import { InvalidArgument } from "../Reason.ts"
import type { ReleaseMode } from "../WorkflowRun.ts"
import type { StepRequest } from "./request.ts"
import { timeoutSeconds } from "./validate.ts"

/**
 * A step as the snapshot holds it: as it was requested, with the organization that it inherits. Defaults are left out, as
 * JSON leaves out what is undefined.
 */
export interface StepSnapshot {
  readonly step_key: string
  readonly execution_kind: "EXTERNAL" | undefined
  readonly job_type: string | undefined
  readonly organization_id: string | undefined
  readonly payload: Json
  readonly priority: number | undefined
  readonly max_attempts: number | undefined
  readonly timeout_seconds: number | undefined
  readonly stage: Stage | undefined
  readonly allow_handler_continuation: true | undefined
  readonly execution_resource_key: string | undefined
  readonly fan_out_key: string | undefined
  readonly fan_out_index: number | undefined
  /** The keys of the prerequisites that have to succeed, in order. */
  readonly after: ReadonlyArray<string> | undefined
  /** The keys of those that have to end, in order. */
  readonly after_terminal: ReadonlyArray<string> | undefined
}

/** Edges, in the order of their dependents, as arrays: there may be many more edges than steps. */
export interface EncodedEdges {
  /** The place of the prerequisite; those beyond the last step are the places of {@link EncodedSteps.existing}. */
  readonly prerequisites: ReadonlyArray<number>
  /** The place of the dependent. */
  readonly dependents: ReadonlyArray<number>
  /** By place, from 0: how many edges the steps up to there have together. */
  readonly ends: ReadonlyArray<number>
  /** Which of the edges, from 1, release on success; in the order of their prerequisites, then of their dependents. */
  readonly onSuccess: ReadonlyArray<number>
  /** The others, in the same order. */
  readonly onTerminal: ReadonlyArray<number>
}

/** Steps, ready to be sent. Places are those in the order of keys, from 1. */
export interface EncodedSteps {
  /** The snapshots, in the order of keys, as JSON text. */
  readonly text: string
  /** By place, what is not part of the request: the place in the request, and the version of the payload. */
  readonly ordinals: ReadonlyArray<number>
  readonly payloadVersions: ReadonlyArray<number>
  /** By place: which of {@link kinds} it is, from 1; 0 for an external step. */
  readonly kindOf: ReadonlyArray<number>
  /** As JSON text: the job types, each with what its contract says where the declaration is missing or older. */
  readonly kinds: string
  /** By place: how many steps it waits for. */
  readonly totals: ReadonlyArray<number>
  readonly edges: EncodedEdges
  /** The keys of prerequisites that are no steps of this request. */
  readonly existing: ReadonlyArray<string>
  /** The types whose jobs are enqueued at once, if all prerequisites are in the request. */
  readonly rootTypes: ReadonlyArray<string>
  readonly contracts: ReadonlyArray<AnyContract>
}

/** The order of keys in a snapshot: any will do that is the same in every process, and this one compares without copying. */
const byCodeUnits = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

const maxBytes = 8 * 1024 * 1024

const keysOf = ({ dependencies = [] }: StepRequest, mode: ReleaseMode): ReadonlyArray<string> | undefined => {
  const keys: Array<string> = []
  for (const { stepKey, releaseMode = "ON_TERMINAL" } of dependencies) if (releaseMode === mode) keys.push(stepKey)
  return keys.length === 0 ? undefined : keys.sort(byCodeUnits)
}

const snapshotOf = (step: StepRequest, organizationId: string | undefined): StepSnapshot => ({
  step_key: step.stepKey,
  execution_kind: step.executionKind === "EXTERNAL" ? "EXTERNAL" : undefined,
  job_type: step.jobType,
  organization_id: (step.organizationId ?? organizationId)?.toLowerCase(),
  payload: step.payload,
  priority: step.priority,
  max_attempts: step.maxAttempts,
  timeout_seconds: step.timeout === undefined ? undefined : timeoutSeconds(step.timeout),
  stage: step.stage === "queued" ? undefined : step.stage,
  allow_handler_continuation: step.allowHandlerContinuation === true ? true : undefined,
  execution_resource_key: step.executionResourceKey,
  fan_out_key: step.fanOut?.key,
  fan_out_index: step.fanOut?.index,
  after: keysOf(step, "ON_SUCCESS"),
  after_terminal: keysOf(step, "ON_TERMINAL")
})

/** Edges, from 1, sorted by the places of their prerequisites: into buckets, for there may be very many. */
const byPrerequisite = (edges: ReadonlyArray<number>, prerequisites: ReadonlyArray<number>, places: number) => {
  const buckets = Array.from({ length: places + 1 }, (): Array<number> => [])
  for (const edge of edges) buckets[prerequisites[edge - 1] ?? 0]?.push(edge)
  const sorted: Array<number> = []
  for (const bucket of buckets) for (const edge of bucket) sorted.push(edge)
  return sorted
}

const edgesOf = (snapshots: ReadonlyArray<StepSnapshot>) => {
  const places = new Map(snapshots.map(({ step_key: key }, index) => [key, index + 1]))
  const prerequisites: Array<number> = []
  const dependents: Array<number> = []
  const ends = [0]
  const onSuccess: Array<number> = []
  const onTerminal: Array<number> = []
  const add = (keys: ReadonlyArray<string> | undefined, dependent: number, edges: Array<number>) => {
    for (const key of keys ?? []) {
      const place = places.get(key) ?? places.size + 1
      if (place > places.size) places.set(key, place)
      dependents.push(dependent)
      edges.push(prerequisites.push(place))
    }
  }
  for (const [index, step] of snapshots.entries()) {
    add(step.after, index + 1, onSuccess)
    add(step.after_terminal, index + 1, onTerminal)
    ends.push(prerequisites.length)
  }
  return {
    edges: {
      prerequisites,
      dependents,
      ends,
      onSuccess: byPrerequisite(onSuccess, prerequisites, places.size),
      onTerminal: byPrerequisite(onTerminal, prerequisites, places.size)
    },
    existing: [...places.keys()].slice(snapshots.length)
  }
}

/** The types of jobs and their contracts, each pair once; or the setting of a contract that breaks a rule. */
const kindsOf = (steps: ReadonlyArray<StepRequest>) => {
  const kinds: Array<Json> = []
  const byContract = new Map<AnyContract | string, number>()
  const kindOf: Array<number> = []
  for (const { jobType, contract } of steps) {
    if (jobType === undefined) {
      kindOf.push(0)
      continue
    }
    const key = contract ?? jobType
    let kind = byContract.get(key)
    if (kind === undefined) {
      const decides = contract === undefined ? undefined : decidedBy(contract)
      if (decides !== undefined && Result.isFailure(decides)) return Result.fail(decides.failure)
      kind = kinds.push({
        job_type: jobType,
        ...(decides === undefined
          ? {}
          : {
              contract_version: decides.success.version,
              contract_priority: decides.success.priority,
              contract_max_attempts: decides.success.maxAttempts,
              contract_timeout: decides.success.timeoutSeconds
            })
      })
      byContract.set(key, kind)
    }
    kindOf.push(kind)
  }
  const contracts = [...byContract.keys()].filter((key) => typeof key !== "string")
  return Result.succeed({ kinds: JSON.stringify(kinds), kindOf, contracts })
}

/** Encodes steps that were validated. Fails if they are too much for one statement. */
export const encodeSteps = (
  steps: ReadonlyArray<StepRequest>,
  organizationId: string | undefined
): Result.Result<EncodedSteps, InvalidArgument> => {
  const placed = steps
    .map((step, ordinal) => ({ step, ordinal }))
    .sort((a, b) => byCodeUnits(a.step.stepKey, b.step.stepKey))
  const ordered = placed.map(({ step }) => step)
  const snapshots = ordered.map((step) => snapshotOf(step, organizationId))
  const text = JSON.stringify(snapshots)
  if (Buffer.byteLength(text) > maxBytes) {
    return Result.fail(
      new InvalidArgument({ argument: "steps", rule: `must not be larger than ${maxBytes} bytes together` })
    )
  }
  return Result.map(kindsOf(ordered), (kinds) => ({
    text,
    ordinals: placed.map(({ ordinal }) => ordinal),
    payloadVersions: ordered.map(({ payloadVersion = 1 }) => payloadVersion),
    ...kinds,
    totals: ordered.map(({ dependencies = [] }) => dependencies.length),
    ...edgesOf(snapshots),
    rootTypes: ordered.flatMap(({ jobType, dependencies = [] }) =>
      jobType === undefined || dependencies.length > 0 ? [] : [jobType]
    )
  }))
}

/** The request of a run, as it is stored: type, organization and key are what it is found by, and not part of it. */
export const requestText = (
  request: {
    readonly metadata?: Json | undefined
    readonly activeKey?: string | undefined
    readonly resultStepKey?: string | undefined
  },
  steps: EncodedSteps
): string => {
  const head = JSON.stringify({
    metadata: request.metadata ?? {},
    ...(request.activeKey === undefined ? {} : { active_key: request.activeKey }),
    ...(request.resultStepKey === undefined ? {} : { result_step_key: request.resultStepKey })
  })
  return `${head.slice(0, -1)},"steps":${steps.text}}`
}
