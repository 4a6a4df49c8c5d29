import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { AnyStep } from "../Workflow.ts"
import type { ReleaseMode } from "../WorkflowRun.ts"
import type { Dependency, StepRequest } from "./request.ts"

/**
 * Declared steps as plain data: a fan-out becomes its members, and a dependency on it one on each of them. `payloadOf` says what
 * the payload of a step is, or why it has none.
 */
export const expand = <E>(
  steps: ReadonlyArray<AnyStep>,
  payloadOf: (step: AnyStep, index: number, stepKey: string) => Result.Result<Json, E>
): Result.Result<ReadonlyArray<StepRequest>, E> => {
  const requests: Array<StepRequest> = []
  const keysOf = new Map<string, ReadonlyArray<string>>()
  for (const step of steps) {
    const { after = [], afterTerminal = [], ...settings } = step.options
    const on = (keys: ReadonlyArray<string>, releaseMode: ReleaseMode): ReadonlyArray<Dependency> =>
      keys.flatMap((key) => (keysOf.get(key) ?? [key]).map((stepKey) => ({ stepKey, releaseMode })))
    const dependencies = [...on(after, "ON_SUCCESS"), ...on(afterTerminal, "ON_TERMINAL")]
    const stepKeys = step.kind === "each" ? step.payloads.map((_, index) => `${step.key}[${index}]`) : [step.key]
    keysOf.set(step.key, stepKeys)
    for (const [index, stepKey] of stepKeys.entries()) {
      const payload = payloadOf(step, index, stepKey)
      if (Result.isFailure(payload)) return Result.fail(payload.failure)
      requests.push({
        ...settings,
        stepKey,
        payload: payload.success,
        dependencies,
        ...(step.kind === "external"
          ? { executionKind: "EXTERNAL" }
          : { jobType: step.contract.jobType, payloadVersion: step.contract.version, contract: step.contract }),
        ...(step.kind === "each" ? { fanOut: { key: step.key, index } } : {})
      })
    }
  }
  return Result.succeed(requests)
}
