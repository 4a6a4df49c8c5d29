/**
 * What the quick start was asked for.
 */
import { resolve } from "node:path"
import { parseArgs } from "node:util"
import { Data, Effect, FileSystem, Option } from "effect"
import { projectRoot } from "../../dev/embedded-postgres/projectRoot.ts"

export class Misused extends Data.TaggedError("Misused")<{ readonly message: string }> {}

export interface Options {
  readonly folder: string
  /** Open the gate without asking. */
  readonly yes: boolean
  /** Draw the run as a Mermaid flowchart too. */
  readonly mermaid: boolean
}

export const options: Effect.Effect<Options, Misused, FileSystem.FileSystem> = Effect.gen(function* () {
  const { positionals, values } = yield* Effect.try({
    try: () =>
      parseArgs({ allowPositionals: true, options: { yes: { type: "boolean" }, mermaid: { type: "boolean" } } }),
    catch: (error) => new Misused({ message: error instanceof Error ? error.message : String(error) })
  })
  const [named] = positionals
  // npm changes the folder, and says where it was called
  const folder = named === undefined ? projectRoot : resolve(process.env.INIT_CWD ?? ".", named)
  const fs = yield* FileSystem.FileSystem
  const info = yield* Effect.option(fs.stat(folder))
  if (!Option.exists(info, ({ type }) => type === "Directory")) {
    return yield* new Misused({ message: `${folder} is not a folder` })
  }
  return { folder, yes: values.yes === true, mermaid: values.mermaid === true }
})
