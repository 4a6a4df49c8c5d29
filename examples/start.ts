/**
 * A first real workflow, end to end: `npm start [folder]`.
 *
 * Every file below the folder (default: this repository) is a step that counts its lines, words and bytes and takes its
 * SHA-256; a step sums up what they found; a person lets it pass (`--yes`: without being asked); the result is awaited here.
 * Some steps fail and are retried. Files that are not there are jobs of their own, and end in the dead letters.
 *
 * With `DATABASE_URL` it uses that database, and a second run finds what the first has done. Otherwise it starts a server of
 * its own and removes it at the end. Ctrl-C lets the jobs at work finish; none stays leased.
 */
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PgClient } from "@effect/sql-pg"
import { Config, Effect, Layer, Option, Redacted } from "effect"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import { Migrator, Notifications, Reaper, Worker } from "../src/index.ts"
import { CleanUp, CleanUpLive } from "./start/CleanUp.ts"
import { CountFile, CountFileLive } from "./start/CountFile.ts"
import { enqueueAll } from "./start/enqueue.ts"
import { filesBelow, vanished } from "./start/files.ts"
import { passGate } from "./start/gate.ts"
import { next } from "./start/next.ts"
import { type Options, options } from "./start/options.ts"
import { Publish, PublishLive } from "./start/Publish.ts"
import { observer, openJobs, untilIdle } from "./start/progress.ts"
import { report } from "./start/report.ts"
import { SumUp, SumUpLive } from "./start/SumUp.ts"
import { number, plural, say } from "./start/screen.ts"

// The lease is short and the reaper quick, so that a run after `kill -9` need not wait long for what the dead held.
const Working = Layer.mergeAll(
  Worker.layer({
    jobs: [CountFile, SumUp, Publish, CleanUp],
    concurrency: 16,
    lease: "10 seconds",
    drainTimeout: "5 seconds",
    observers: [observer]
  }).pipe(Layer.provide([CountFileLive, SumUpLive, PublishLive, CleanUpLive])),
  Reaper.layer({ interval: "2 seconds" })
).pipe(
  // the worker hears of jobs that are due, and whoever waits for a result of runs that have ended
  Layer.provideMerge(Notifications.layer)
)

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

const program = Effect.fn("program")(function* (options: Options, isKept: boolean) {
  const { folder, yes } = options
  const startedAt = performance.now()
  const files = [...(yield* filesBelow(folder)), ...(yield* vanished(folder))]
  yield* say(`${plural(files.length, "file")} below ${folder}, one of them made up`)
  const lines = yield* Effect.gen(function* () {
    const enqueued = yield* enqueueAll(folder, files)
    yield* untilIdle(enqueued.run.run.id)
    yield* passGate(enqueued.run, yes)
    return yield* report(options, enqueued)
  }).pipe(
    Effect.onInterrupt(() => say("Stopping: jobs at work may finish, the others stay where they are")),
    Effect.provide(Working),
    Effect.onInterrupt(() => stopped(isKept))
  )
  yield* say(`Done in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`, ...lines, ...next(isKept))
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
  const asked = yield* options
  const given = Option.filter(
    yield* Config.option(Config.Redacted("DATABASE_URL")),
    (url) => Redacted.value(url) !== ""
  )
  yield* program(asked, Option.isSome(given)).pipe(
    Effect.provide(Migrator.layer.pipe(Layer.provideMerge(database(given))))
  )
})

main.pipe(
  Effect.catchTag("Misused", ({ message }) =>
    Effect.sync(() => {
      console.error(message)
      process.exitCode = 1
    })
  ),
  Effect.provide(NodeFileSystem.layer),
  NodeRuntime.runMain
)
