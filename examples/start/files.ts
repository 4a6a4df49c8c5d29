/**
 * The files of a folder, each with a key that changes when the file does.
 */
import { createHash } from "node:crypto"
import { resolve } from "node:path"
import { Effect, FileSystem, Option } from "effect"

export interface Listed {
  readonly path: string
  /** Whether there was a file when the folder was listed; its job may still find otherwise. */
  readonly isThere: boolean
  /** The same as long as the file is the same: a file that was changed is a job of its own. */
  readonly idempotencyKey: string
}

const leftOut = new Set(["node_modules", "dist", ".git"])
const maxKeyBytes = 512

const keyOf = (path: string, state: string) => {
  const key = `${state} ${path}`
  return Buffer.byteLength(key) <= maxKeyBytes ? key : `${state} ${createHash("sha256").update(path).digest("hex")}`
}

/** A link counts as what it leads to; one that leads nowhere is listed, and its job will say so. */
const listed = Effect.fnUntraced(function* (path: string) {
  const fs = yield* FileSystem.FileSystem
  const info = yield* Effect.option(fs.stat(path))
  if (Option.isNone(info)) return [{ path, isThere: false, idempotencyKey: keyOf(path, "unreadable") }]
  const { type, size, mtime } = info.value
  // reading a pipe or a device may never end
  if (type !== "File") return []
  const modified = Option.match(mtime, { onNone: () => "?", onSome: (at) => at.toISOString() })
  return [{ path, isThere: true, idempotencyKey: keyOf(path, `${size} bytes of ${modified}`) }]
})

/** One key for all of these: the same as long as no file came, went or changed. */
export const keyOfAll = (folder: string, files: ReadonlyArray<Listed>): string =>
  createHash("sha256")
    .update(JSON.stringify([folder, ...files.map(({ idempotencyKey }) => idempotencyKey)]))
    .digest("hex")

/** The files below `folder`, by path; dependencies, build output and Git's own files are left out. */
export const filesBelow = (folder: string): Effect.Effect<ReadonlyArray<Listed>, never, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const entries = yield* fs
      .readDirectoryEntries(folder)
      .pipe(Effect.catch(({ message }) => Effect.as(Effect.logWarning(`A folder is left out: ${message}`), [])))
    const found = yield* Effect.forEach(
      entries,
      ({ name, type }) => {
        const path = resolve(folder, name)
        if (type !== "Directory") return listed(path)
        return leftOut.has(name) ? Effect.succeed([]) : filesBelow(path)
      },
      { concurrency: 8 }
    )
    // the system lists in any order, and the key of all depends on it
    return found.flat().sort((a, b) => (a.path < b.path ? -1 : 1))
  })

/** A file that was there when the folder was listed and is gone when its job runs. */
export const vanished = (folder: string): Effect.Effect<ReadonlyArray<Listed>, never, FileSystem.FileSystem> =>
  listed(resolve(folder, "made-up-and-gone.txt"))
