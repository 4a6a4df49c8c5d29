/**
 * One run for the files that are there, and a job for each that is not.
 */
import { Effect } from "effect"
import { Jobs, Workflows } from "../../src/index.ts"
import { CountFile } from "./CountFile.ts"
import { keyOfAll, type Listed } from "./files.ts"
import { countFolder } from "./graph.ts"
import { number, plural, say } from "./screen.ts"

/**
 * A step that fails makes its run end with errors, and without a result. Files that are known not to be there are jobs of their
 * own: they end in the dead letters, and the run ends well.
 */
export const enqueueAll = Effect.fn("enqueueAll")(function* (folder: string, files: ReadonlyArray<Listed>) {
  const there = files.filter(({ isThere }) => isThere)
  const run = yield* Workflows.enqueue(
    countFolder(
      folder,
      there.map(({ path }) => path)
    ),
    { metadata: { folder }, idempotencyKey: keyOfAll(folder, there) }
  )
  const { status, steps } = run.run
  yield* say(
    run.disposition === "inserted"
      ? `A new run of ${plural(steps.total, "step")}: ${plural(there.length, "file")} to count, and what follows`
      : `The run of ${there.length === 1 ? "this" : "these"} ${plural(there.length, "file")} is there already: ${status}`
  )
  const answers = yield* Jobs.enqueueMany(
    files.flatMap(({ path, isThere, idempotencyKey }) =>
      isThere ? [] : [Jobs.request(CountFile, { path }, { idempotencyKey })]
    )
  )
  const jobs = yield* Effect.forEach(answers, (answer) => Effect.fromResult(answer))
  const isNew = jobs.filter(({ disposition }) => disposition === "inserted").length
  yield* say(
    `${plural(jobs.length, "file")} not there, jobs of their own: ${number(isNew)} new, ${number(jobs.length - isNew)} there already`
  )
  return { run, jobIds: jobs.map(({ jobId }) => jobId) }
})

export type Enqueued = Effect.Success<ReturnType<typeof enqueueAll>>
