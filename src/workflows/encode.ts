/**
 * A checked request as it is stored and sent: one snapshot, which the steps are made of and a retry is compared with, and
 * beside it what is not part of the request.
 */
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { AnyContract } from "../JobContract.ts"
import { type Decided, decidedBy } from "../jobs/enqueueRequest.ts"
import { InvalidArgument } from "../Reason.ts"
import type { StepRequest } from "./request.ts"
import { timeoutSeconds } from "./validate.ts"

/** A step as the snapshot holds it: as it was requested, with what it inherits written out. */
export interface StepSnapshot {
  readonly step_key: string
  readonly execution_kind: "JOB" | "EXTERNAL"
  readonly job_type: string | null
  readonly organization_id: string | null
  readonly payload: Json
  readonly priority: number | null
  readonly max_attempts: number | null
  readonly timeout_seconds: number | null
  readonly stage: string | null
  readonly allow_handler_continuation?: true
  readonly execution_resource_key?: string
  readonly fan_out_key?: string
  readonly fan_out_index?: number
  readonly dependencies: ReadonlyArray<{ readonly prerequisite_step_key: string; readonly release_mode: string }>
}

/** Steps, ready to be sent, as JSON text. Places are those in the order of keys, from 0. */
export interface EncodedSteps {
  /** In the order of keys. */
  readonly snapshots: ReadonlyArray<StepSnapshot>
  /** The snapshots. */
  readonly text: string
  /**
   * What is not part of the request, by place: the place in the request, the version of the payload, and what the contract
   * says where the declaration is missing or older.
   */
  readonly details: string
  /** By place of the dependent; a prerequisite that is no step of this request is named as `existing`. */
  readonly edges: string
  /** The types whose jobs are enqueued at once, if all prerequisites are in the request. */
  readonly rootTypes: ReadonlyArray<string>
  readonly contracts: ReadonlyArray<AnyContract>
}

/** The order of keys in a snapshot: any will do that is the same in every process, and this one compares without copying. */
const byCodeUnits = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

const maxBytes = 8 * 1024 * 1024

const snapshotOf = (step: StepRequest, organizationId: string | undefined): StepSnapshot => {
  const isJob = step.executionKind !== "EXTERNAL"
  return {
    step_key: step.stepKey,
    execution_kind: isJob ? "JOB" : "EXTERNAL",
    job_type: step.jobType ?? null,
    organization_id: (step.organizationId ?? organizationId)?.toLowerCase() ?? null,
    payload: step.payload,
    priority: step.priority ?? null,
    max_attempts: step.maxAttempts ?? null,
    timeout_seconds: step.timeout === undefined ? null : timeoutSeconds(step.timeout),
    stage: isJob ? (step.stage ?? "queued") : null,
    ...(step.allowHandlerContinuation === true ? { allow_handler_continuation: true } : {}),
    ...(step.executionResourceKey === undefined ? {} : { execution_resource_key: step.executionResourceKey }),
    ...(step.fanOut === undefined ? {} : { fan_out_key: step.fanOut.key, fan_out_index: step.fanOut.index }),
    dependencies: (step.dependencies ?? [])
      .map(({ stepKey, releaseMode }) => ({
        prerequisite_step_key: stepKey,
        release_mode: releaseMode ?? "ON_TERMINAL"
      }))
      .sort((a, b) => byCodeUnits(a.prerequisite_step_key, b.prerequisite_step_key))
  }
}

/** Encodes steps that were validated. Fails if they are too much for one statement. */
export const encodeSteps = (
  steps: ReadonlyArray<StepRequest>,
  organizationId: string | undefined
): Result.Result<EncodedSteps, InvalidArgument> => {
  const placed = steps
    .map((step, ordinal) => ({ step, ordinal, snapshot: snapshotOf(step, organizationId) }))
    .sort((a, b) => byCodeUnits(a.step.stepKey, b.step.stepKey))
  const places = new Map(placed.map(({ step }, place) => [step.stepKey, place]))
  const snapshots = placed.map(({ snapshot }) => snapshot)
  const text = JSON.stringify(snapshots)
  if (Buffer.byteLength(text) > maxBytes) {
    return Result.fail(
      new InvalidArgument({ argument: "steps", rule: `must not be larger than ${maxBytes} bytes together` })
    )
  }
  // put together as text: there may be many more edges than steps, and most of them are numbers and a constant
  const edges: Array<string> = []
  for (const [dependent, { dependencies }] of snapshots.entries()) {
    for (const { prerequisite_step_key: key, release_mode: mode } of dependencies) {
      const place = places.get(key)
      const prerequisite = place === undefined ? `"existing":${JSON.stringify(key)}` : `"prerequisite":${place}`
      edges.push(`{"dependent":${dependent},${prerequisite},"release_mode":"${mode}"}`)
    }
  }
  const decided = new Map<AnyContract, Decided>()
  for (const { contract } of steps) {
    if (contract === undefined || decided.has(contract)) continue
    const decides = decidedBy(contract)
    if (Result.isFailure(decides)) return Result.fail(decides.failure)
    decided.set(contract, decides.success)
  }
  const details = placed.map(({ step: { payloadVersion = 1, contract }, ordinal }) => {
    const decides = contract === undefined ? undefined : decided.get(contract)
    return {
      ordinal,
      payload_version: payloadVersion,
      ...(decides === undefined
        ? {}
        : {
            contract_version: decides.version,
            contract_priority: decides.priority,
            contract_max_attempts: decides.maxAttempts,
            contract_timeout: decides.timeoutSeconds
          })
    }
  })
  return Result.succeed({
    snapshots,
    text,
    details: JSON.stringify(details),
    edges: `[${edges.join(",")}]`,
    rootTypes: snapshots.flatMap(({ job_type: type, dependencies }) =>
      type === null || dependencies.length > 0 ? [] : [type]
    ),
    contracts: [...decided.keys()]
  })
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
