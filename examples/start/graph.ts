/**
 * The workflow of the quick start: a fan-out, a join, a gate, a result, a cleanup.
 */
import { Schema } from "effect"
import { Workflow } from "../../src/index.ts"
import { CleanUp } from "./CleanUp.ts"
import { CountFile } from "./CountFile.ts"
import { Approval, Publish } from "./Publish.ts"
import { SumUp } from "./SumUp.ts"

export const countFolder = (folder: string, paths: ReadonlyArray<string>) =>
  Workflow.make("folder.count", { metadata: { folder: Schema.String } })
    .each(
      "count",
      CountFile,
      paths.map((path) => ({ path }))
    )
    // a file that cannot be read after all does not keep the others from being summed up
    .step("sum", SumUp, { folder }, { afterTerminal: ["count"] })
    .external("approval", { success: Approval }, { after: ["sum"] })
    .step("publish", Publish, {}, { after: ["sum", "approval"] })
    .step("cleanup", CleanUp, {}, { afterTerminal: ["publish"] })
    .result("publish")

export type CountFolder = ReturnType<typeof countFolder>
