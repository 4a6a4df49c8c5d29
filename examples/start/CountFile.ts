/**
 * The job of the quick start: its contract and its handler.
 */
import { createHash } from "node:crypto"
import { Effect, FileSystem, Schema, Stream } from "effect"
import { Job, JobExecution } from "../../src/index.ts"

/** What fails on purpose, so that a retry is seen. */
export class NotYet extends Schema.TaggedError<NotYet>("start/NotYet")("NotYet", {}) {
  override get message() {
    return "on purpose: the first attempt at a .md file always fails"
  }
}

/** A file that is not there, or not ours to read: trying again would not help. */
export class Unreadable extends Schema.TaggedError<Unreadable>("start/Unreadable")("Unreadable", {
  because: Schema.String
}) {
  override get message() {
    return this.because
  }
}

export class CountFile extends Job.make("file.count", {
  payload: { path: Schema.String },
  success: Schema.Struct({
    path: Schema.String,
    lines: Schema.Int,
    words: Schema.Int,
    bytes: Schema.Int,
    sha256: Schema.String
  }),
  error: Schema.Union([NotYet, Unreadable]),
  record: (error) =>
    error._tag === "Unreadable" ? { kind: "TERMINAL", code: "file.unreadable" } : { code: "file.not_yet" },
  retry: { initial: "300 millis", factor: 2, max: "2 seconds" },
  // a lost or interrupted attempt counts: enough for a few crashes
  maxAttempts: 10,
  timeout: "1 minute"
}) {}

export const CountFileLive = CountFile.toLayer(
  Effect.fn("CountFile")(function* ({ path }) {
    const { lease } = yield* JobExecution.JobExecution
    if (lease.attempt === 1 && path.endsWith(".md")) return yield* new NotYet()

    const fs = yield* FileSystem.FileSystem
    const tally = emptyTally()
    yield* fs.stream(path).pipe(
      Stream.runForEach((bytes) => Effect.sync(() => tally.add(bytes))),
      Effect.catch(({ reason }) => because(path, reason._tag))
    )
    return { path, ...tally.result() }
  })
)

const because = Effect.fnUntraced(function* (path: string, tag: string) {
  if (tag !== "NotFound") return yield* new Unreadable({ because: `the file cannot be read (${tag})` })
  const fs = yield* FileSystem.FileSystem
  const isLink = yield* Effect.match(fs.readLink(path), { onSuccess: () => true, onFailure: () => false })
  return yield* new Unreadable({ because: isLink ? "a link that leads nowhere" : "no such file" })
})

const newline = 10
const isSpace = (byte: number) => byte === 32 || (byte >= 9 && byte <= 13)

/** Counts as `wc` does, except that a last line without an end is a line. */
const emptyTally = () => {
  const hash = createHash("sha256")
  let lines = 0
  let words = 0
  let bytes = 0
  let last = newline
  return {
    add: (chunk: Uint8Array) => {
      hash.update(chunk)
      bytes += chunk.length
      for (const byte of chunk) {
        if (byte === newline) lines++
        if (isSpace(last) && !isSpace(byte)) words++
        last = byte
      }
    },
    result: () => ({ lines: last === newline ? lines : lines + 1, words, bytes, sha256: hash.digest("hex") })
  }
}
