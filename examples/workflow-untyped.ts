/**
 * A graph that is put together at run time, from plain data: what the builder checks by types is checked before anything is sent.
 */
import { Effect } from "effect"
import { JobDefinitions, Workflows } from "../src/index.ts"

/** What somebody wrote into a file, or drew on a screen. */
export interface Plan {
  readonly name: string
  readonly tasks: Readonly<Record<string, { readonly runs: string; readonly after?: ReadonlyArray<string> }>>
}

/** Types without a contract are declared once, at start. */
export const declare = (types: ReadonlyArray<string>) =>
  Effect.forEach(types, (jobType) => JobDefinitions.upsert(jobType, { maxAttempts: 3 }), { discard: true })

/** A cycle comes back as the keys of its steps, in order. */
export const submit = ({ name, tasks }: Plan) =>
  Workflows.enqueue({
    workflowType: name,
    steps: Object.entries(tasks).map(([stepKey, { runs, after = [] }]) => ({
      stepKey,
      jobType: runs,
      payload: { task: stepKey },
      dependencies: after.map((prerequisite) => ({ stepKey: prerequisite, releaseMode: "ON_SUCCESS" as const }))
    }))
  }).pipe(
    Effect.map(({ run }) => `${run.steps.total} steps are under way`),
    Effect.catchReason("QueryError", "InvalidWorkflow", ({ cycle, message }) =>
      Effect.succeed(cycle === undefined ? message : `These wait for each other: ${cycle.join(", ")}`)
    )
  )
