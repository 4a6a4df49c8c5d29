/**
 * A first real job, end to end: `npm start [folder]`.
 *
 * Every file below the folder (default: this repository) is a job that counts its lines, words and bytes and takes its
 * SHA-256. A worker runs them while they are still being enqueued; some fail and are retried, some end in the dead letters.
 *
 * With `DATABASE_URL` it uses that database, and a second run finds what the first has done. Otherwise it starts a server of
 * its own and removes it at the end. Ctrl-C lets the jobs at work finish; none stays leased.
 */
import { resolve } from "node:path"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PgClient } from "@effect/sql-pg"
import { Array as Arr, Config, Data, Effect, FileSystem, Layer, Option, Redacted, Schedule } from "effect"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import { projectRoot } from "../dev/embedded-postgres/projectRoot.ts"
import { Jobs, Migrator, Notifications, Reaper, Worker } from "../src/index.ts"
import { CountFile, CountFileLive } from "./start/CountFile.ts"
import { filesBelow, type Listed, vanished } from "./start/files.ts"
import { openJobs, report } from "./start/report.ts"
import { number, plural, say, status } from "./start/screen.ts"

class NotAFolder extends Data.TaggedError("NotAFolder")<{ readonly message: string }> {}

/** What this process has seen so far. */
const seen = { counted: 0, retried: 0, failed: 0 }

const observer: Worker.Observer = (event) =>
  Effect.sync(() => {
    if (event._tag !== "Ended") return
    if (event.outcome._tag === "Succeeded") seen.counted++
    else if (event.outcome._tag === "RetryScheduled") seen.retried++
    else if (event.outcome._tag === "DeadLettered") seen.failed++
  })

// The lease is short and the reaper quick, so that a run after `kill -9` need not wait long for what the dead held.
const Working = Layer.mergeAll(
  Worker.layer({
    jobs: [CountFile],
    concurrency: 16,
    lease: "10 seconds",
    drainTimeout: "5 seconds",
    observers: [observer]
  }).pipe(Layer.provide(CountFileLive), Layer.provide(Notifications.layer)),
  Reaper.layer({ interval: "2 seconds" })
)

const enqueueAll = Effect.fn("enqueueAll")(function* (files: ReadonlyArray<Listed>) {
  const enqueued: Array<Jobs.Enqueued> = []
  for (const batch of Arr.chunksOf(files, 500)) {
    const answers = yield* Jobs.enqueueMany(
      batch.map(({ path, idempotencyKey }) => Jobs.request(CountFile, { path }, { idempotencyKey }))
    )
    enqueued.push(...(yield* Effect.forEach(answers, (answer) => Effect.fromResult(answer))))
  }
  const isNew = enqueued.filter(({ disposition }) => disposition === "inserted").length
  yield* say(`${plural(isNew, "new job")}, ${number(enqueued.length - isNew)} there already`)
  return enqueued.map(({ jobId }) => jobId)
})

/** Enqueues, and waits until nothing is left to do. */
const work = Effect.fn("work")(function* (files: ReadonlyArray<Listed>) {
  let isEnqueued = false
  const enqueuing = Effect.tap(enqueueAll(files), () =>
    Effect.sync(() => {
      isEnqueued = true
    })
  )
  const poll = Effect.gen(function* () {
    const wasEnqueued = isEnqueued
    const { waiting, leased } = yield* openJobs()
    yield* status(
      `  ${number(seen.counted)} counted, ${plural(seen.retried, "retry", "retries")}, ` +
        `${plural(seen.failed, "dead letter")}; ${number(leased)} at work, ${number(waiting)} waiting`
    )
    return wasEnqueued && waiting + leased === 0
  })
  const waiting = Effect.repeat(poll, { until: (isDone) => isDone, schedule: Schedule.spaced("200 millis") })
  const [ids] = yield* Effect.all([enqueuing, waiting], { concurrency: 2 })
  return ids
})

const next = (isKept: boolean) => [
  "Next:",
  ...(isKept
    ? ["  run it again                   nothing is enqueued twice; a file that you changed is a new job"]
    : [
        "  run it twice                   on a database that stays, nothing is enqueued twice:",
        "                                 DATABASE_URL=postgres://user@host/database npm start"
      ]),
  "  npm start -- node_modules      thousands of files: press Ctrl-C, or kill it, in the middle; on a database that stays,",
  "                                 the next run goes on from there",
  "  examples/start/CountFile.ts    the contract and the handler of these jobs",
  "  src/Worker.ts                  who runs them; src/jobs/claim.ts and src/jobs/complete.ts: with which statements"
]

/** Runs after the worker is closed, and before its database is. */
const stopped = (isKept: boolean) =>
  openJobs().pipe(
    Effect.flatMap(({ leased, waiting }) =>
      say(
        `Stopped: ${number(leased)} leased, ${number(waiting)} waiting. ` +
          (isKept ? "The next run goes on from here." : "They go with the server of this run.")
      )
    ),
    Effect.catch(({ message }) => say(`Stopped; the database does not say what is left: ${message}`))
  )

const program = Effect.fn("program")(function* (folder: string, isKept: boolean) {
  const startedAt = performance.now()
  const files = [...(yield* filesBelow(folder)), ...(yield* vanished(folder))]
  yield* say(`${plural(files.length, "file")} below ${folder}, one of them made up`)
  const ids = yield* work(files).pipe(
    Effect.onInterrupt(() => say("Stopping: jobs at work may finish, the others stay where they are")),
    Effect.provide(Working),
    Effect.onInterrupt(() => stopped(isKept))
  )
  yield* say(`Done in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
  yield* say(...(yield* report(folder, ids)), ...next(isKept))
})

/** The database that the environment names, or a server from npm that lives as long as this program. */
const database = (given: Option.Option<Redacted.Redacted>) =>
  Layer.unwrap(
    Effect.gen(function* () {
      if (Option.isSome(given)) {
        yield* say("Using the database of DATABASE_URL")
        return PgClient.layer({ url: given.value })
      }
      const server = yield* EmbeddedPostgres.start()
      yield* say(`Started PostgreSQL ${server.version} for this run; DATABASE_URL would name another`)
      return PgClient.layer({ url: Redacted.make(`${server.url}/postgres`) })
    })
  )

const main = Effect.gen(function* () {
  const named = process.argv[2]
  // npm changes the folder, and says where it was called
  const folder = named === undefined ? projectRoot : resolve(process.env.INIT_CWD ?? ".", named)
  const fs = yield* FileSystem.FileSystem
  const info = yield* Effect.option(fs.stat(folder))
  if (!Option.exists(info, ({ type }) => type === "Directory")) {
    return yield* new NotAFolder({ message: `${folder} is not a folder` })
  }
  const given = Option.filter(
    yield* Config.option(Config.Redacted("DATABASE_URL")),
    (url) => Redacted.value(url) !== ""
  )
  yield* program(folder, Option.isSome(given)).pipe(
    Effect.provide(Migrator.layer.pipe(Layer.provideMerge(database(given))))
  )
})

main.pipe(
  Effect.catchTag("NotAFolder", ({ message }) =>
    Effect.sync(() => {
      console.error(message)
      process.exitCode = 1
    })
  ),
  Effect.provide(NodeFileSystem.layer),
  NodeRuntime.runMain
)
