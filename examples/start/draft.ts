/**
 * Where the draft of a run is: checksums as `sha256sum -c` reads them, for the one who opens the gate to look at.
 */
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Option } from "effect"
import { Job, type JobExecution } from "../../src/index.ts"

/** The same for all steps of a run, and for all attempts. */
export const draftOf = ({ workflow }: JobExecution.JobExecution["Service"]): Effect.Effect<string, Job.JobFailure> =>
  Option.match(workflow, {
    onNone: () =>
      Effect.fail(
        new Job.JobFailure({ kind: "TERMINAL", code: "draft.no_run", message: "The job is no step of a run" })
      ),
    onSome: ({ runId }) => Effect.succeed(join(tmpdir(), `runledger-${runId}.sha256`))
  })
