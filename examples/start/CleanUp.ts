/**
 * What runs whatever happened: the draft goes, also after a refusal.
 */
import { Effect, FileSystem } from "effect"
import { Job, JobExecution } from "../../src/index.ts"
import { draftOf } from "./draft.ts"

export class CleanUp extends Job.make("folder.clean", { payload: {} }) {}

export const CleanUpLive = CleanUp.toLayer(
  Effect.fn("CleanUp")(function* () {
    const draft = yield* draftOf(yield* JobExecution.JobExecution)
    const fs = yield* FileSystem.FileSystem
    yield* fs
      .remove(draft, { force: true })
      .pipe(Effect.mapError(({ message }) => new Job.JobFailure({ code: "draft.not_removed", message })))
  })
)
