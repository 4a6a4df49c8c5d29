/**
 * What the join of a run has left.
 */
import { Effect, Option, Schema } from "effect"
import { TenantScope, Workflows } from "../../src/index.ts"
import { SumUp } from "./SumUp.ts"

const decode = Schema.decodeUnknownEffect(Schema.toCodecJson(SumUp.success))

/** None if it has not succeeded. */
export const sumOf = Effect.fn("sumOf")(function* (runId: Workflows.WorkflowRunId) {
  const step = yield* Workflows.stepByKey(TenantScope.global, runId, "sum")
  const output = Option.flatMap(step, (found) => found.output)
  return Option.isNone(output) ? Option.none() : Option.some(yield* decode(output.value))
})
