/**
 * The join: sums up what the steps of the fan-out have counted, and writes a draft for whoever opens the gate.
 */
import { extname } from "node:path"
import { Array as Arr, Effect, FileSystem, Schema } from "effect"
import { Job, JobExecution } from "../../src/index.ts"
import { CountFile } from "./CountFile.ts"
import { draftOf } from "./draft.ts"

export const Sums = Schema.Struct({
  name: Schema.String,
  files: Schema.Int,
  lines: Schema.Int,
  words: Schema.Int,
  bytes: Schema.Int
})
type Sums = typeof Sums.Type

export class SumUp extends Job.make("folder.sum", {
  payload: { folder: Schema.String },
  success: Schema.Struct({
    total: Sums,
    kinds: Schema.Array(Sums),
    largest: Schema.Array(CountFile.success),
    /** Files whose step did not succeed. */
    left: Schema.Int,
    draft: Schema.String
  })
}) {}

const largestShown = 5

export const SumUpLive = SumUp.toLayer(
  Effect.fn("SumUp")(function* () {
    const job = yield* JobExecution.JobExecution
    // it runs once all have ended, however they did: the outputs of those that succeeded are what there is to sum up
    const ended = yield* job.results("count", CountFile)
    const counts = Arr.getSomes(ended.map(({ output }) => output))

    const draft = yield* draftOf(job)
    const fs = yield* FileSystem.FileSystem
    yield* fs
      .writeFileString(draft, counts.map(({ path, sha256 }) => `${sha256}  ${path}\n`).join(""))
      .pipe(Effect.mapError(({ message }) => new Job.JobFailure({ code: "draft.unwritten", message })))

    const total = nothing("total")
    const kinds = new Map<string, Tally>()
    for (const count of counts) {
      const name = extname(count.path).toLowerCase() || "(other)"
      const kind = kinds.get(name) ?? nothing(name)
      kinds.set(name, kind)
      for (const sums of [total, kind]) add(sums, count)
    }
    const bySize = <A extends { readonly bytes: number }>(all: Iterable<A>) =>
      [...all].sort((a, b) => b.bytes - a.bytes)
    return {
      total,
      kinds: bySize(kinds.values()),
      largest: bySize(counts).slice(0, largestShown),
      left: ended.length - counts.length,
      draft
    }
  })
)

type Tally = { -readonly [Field in keyof Sums]: Sums[Field] }

const nothing = (name: string): Tally => ({ name, files: 0, lines: 0, words: 0, bytes: 0 })

const add = (sums: Tally, { lines, words, bytes }: Omit<Sums, "name" | "files">) => {
  sums.files++
  sums.lines += lines
  sums.words += words
  sums.bytes += bytes
}
