/**
 * A first real job, end to end: `npm start [folder]`.
 *
 * Every file below the folder (default: this repository) becomes a job that counts its lines, words and bytes. The jobs are
 * enqueued, claimed in batches, run, and completed together; files that cannot be read end in the dead letters. With
 * `DATABASE_URL` it uses that database; otherwise it starts a server of its own and removes it at the end.
 */

import { resolve } from "node:path"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PgClient } from "@effect/sql-pg"
import { Config, Console, Effect, FileSystem, Layer, Option, Redacted, Result, Schema } from "effect"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import { JobDefinitions, Jobs, Migrator, TenantScope } from "../src/index.ts"

const jobType = "file.count"
const workerId = `start-${process.pid}`

const Payload = Schema.Struct({ path: Schema.String })
const Output = Schema.Struct({ lines: Schema.Int, words: Schema.Int, bytes: Schema.Int })

/** The files below `folder`, dangling links included; dependencies, build output and Git's own files are left out. */
const filesBelow = (folder: string): Effect.Effect<ReadonlyArray<string>, never, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const entries = yield* Effect.orElseSucceed(fs.readDirectoryEntries(folder), () => [])
    const found = yield* Effect.forEach(entries, ({ name, type }) => {
      const path = resolve(folder, name)
      if (type !== "Directory") return Effect.succeed([path])
      return ["node_modules", "dist", ".git"].includes(name) ? Effect.succeed([]) : filesBelow(path)
    })
    return found.flat()
  })

const count = (bytes: Uint8Array): typeof Output.Type => {
  const text = new TextDecoder().decode(bytes)
  return {
    lines: text.split("\n").length - (text.endsWith("\n") || text === "" ? 1 : 0),
    words: text.split(/\s+/u).filter((word) => word !== "").length,
    bytes: bytes.length
  }
}

/** Runs one claimed job; what it returns is how the attempt ended. */
const handle = Effect.fn("handle")(function* (
  job: Jobs.ClaimedJob
): Effect.fn.Return<Jobs.Completion, never, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  return yield* Schema.decodeUnknownEffect(Payload)(job.payload).pipe(
    Effect.flatMap(({ path }) => fs.readFile(path)),
    Effect.match({
      onSuccess: (bytes): Jobs.Completion => ({ _tag: "Success", lease: job.lease, output: count(bytes) }),
      onFailure: (error): Jobs.Completion => ({
        _tag: "Failure",
        lease: job.lease,
        kind: "TERMINAL",
        code: "file.unreadable",
        message: error.message
      })
    })
  )
})

/** Claims, runs and completes until nothing is due; returns what succeeded. */
const drain = Effect.gen(function* () {
  const counted: Array<{ readonly path: string; readonly sums: typeof Output.Type }> = []
  for (;;) {
    const jobs = yield* Jobs.claim({ workerId, types: [jobType], limit: 100, lease: "1 minute" })
    if (jobs.length === 0) return counted
    const completions = yield* Effect.forEach(jobs, handle, { concurrency: 16 })
    const answers = yield* Jobs.completeMany(completions)
    for (const [i, answer] of answers.entries()) {
      const completion = completions[i]
      if (Result.isFailure(answer)) yield* Console.error(`A completion was refused: ${answer.failure.message}`)
      else if (completion?._tag === "Success") {
        const { path } = yield* Schema.decodeUnknownEffect(Payload)(jobs[i]?.payload)
        counted.push({ path, sums: yield* Schema.decodeUnknownEffect(Output)(completion.output) })
      }
    }
  }
})

const kindOf = (path: string): string => /[^/.]\.([a-z0-9]+)$/i.exec(path)?.[1]?.toLowerCase() ?? "(other)"

const program = Effect.gen(function* () {
  const folder = resolve(process.env.INIT_CWD ?? ".", process.argv[2] ?? ".")
  const paths = yield* filesBelow(folder)
  yield* Console.log(`${paths.length} files below ${folder}`)

  yield* JobDefinitions.upsert(jobType, { maxAttempts: 2, timeout: "10 seconds" })
  const answers = yield* Jobs.enqueueMany(paths.map((path) => ({ jobType, payload: { path } })))
  const ids = answers.flatMap((answer) => (Result.isSuccess(answer) ? [answer.success.jobId] : []))
  yield* Console.log(`${ids.length} jobs enqueued in one transaction`)
  const counted = yield* drain

  const kinds = new Map<string, { files: number; lines: number; words: number; bytes: number }>()
  for (const { path, sums } of counted) {
    const sum = kinds.get(kindOf(path)) ?? { files: 0, lines: 0, words: 0, bytes: 0 }
    kinds.set(kindOf(path), {
      files: sum.files + 1,
      lines: sum.lines + sums.lines,
      words: sum.words + sums.words,
      bytes: sum.bytes + sums.bytes
    })
  }
  const failed = (yield* Jobs.deadLetters({ scope: TenantScope.global, jobType })).map(
    (letter) => `${letter.reason}: ${Option.getOrElse(letter.errorMessage, () => "no message")}`
  )
  const rows = [...kinds].toSorted(([, a], [, b]) => b.bytes - a.bytes)
  const total = rows.reduce(
    (sum, [, kind]) => ({
      files: sum.files + kind.files,
      lines: sum.lines + kind.lines,
      words: sum.words + kind.words,
      bytes: sum.bytes + kind.bytes
    }),
    { files: 0, lines: 0, words: 0, bytes: 0 }
  )
  const line = (kind: string, sum: typeof total) =>
    [kind.padEnd(12), ...[sum.files, sum.lines, sum.words, sum.bytes].map((n) => String(n).padStart(11))].join("")
  yield* Console.log(
    [
      "",
      ["kind".padEnd(12), ...["files", "lines", "words", "bytes"].map((title) => title.padStart(11))].join(""),
      ...rows.map(([kind, sum]) => line(kind, sum)),
      line("total", total),
      "",
      ...(failed.length === 0 ? [] : [`Dead letters: ${failed.length}`, ...failed.map((text) => `  ${text}`), ""])
    ].join("\n")
  )
})

/** The database that the environment names, or a server from npm that lives as long as this program. */
const Database = Layer.unwrap(
  Effect.gen(function* () {
    const given = yield* Config.option(Config.Redacted("DATABASE_URL"))
    if (Option.isSome(given)) {
      yield* Console.log("Using DATABASE_URL")
      return PgClient.layer({ url: given.value })
    }
    const server = yield* EmbeddedPostgres.start()
    yield* Console.log(`Started PostgreSQL ${server.version} for this run`)
    return PgClient.layer({ url: Redacted.make(`${server.url}/postgres`) })
  })
)

program.pipe(
  Effect.provide(Migrator.layer.pipe(Layer.provideMerge(Database), Layer.merge(NodeFileSystem.layer))),
  NodeRuntime.runMain
)
