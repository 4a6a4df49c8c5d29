/**
 * A process to be killed, frozen and shut down: a worker and a reaper with short leases, whose handler does what its payload
 * says. Tells on its standard output when it is ready, when handlers begin and end and when it is told to stop, so that
 * `test/Worker.processes.test.ts` can order what happens.
 */
import { runMain } from "@effect/platform-node/NodeRuntime"
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import { JobExecution } from "../src/JobExecution.ts"
import * as Notifications from "../src/Notifications.ts"
import * as Reaper from "../src/Reaper.ts"
import * as Worker from "../src/Worker.ts"

class Act extends Job.make("process.act", {
  payload: {
    behavior: Schema.Literals([
      "quick",
      "slow",
      "die",
      "block",
      "complete",
      "complete-then-die-before-commit",
      "complete-then-die-after-commit"
    ]),
    /** How long it takes. */
    millis: Schema.optional(Schema.Int),
    /** The last attempt that behaves so; later ones are quick. */
    attempts: Schema.optional(Schema.Int)
  },
  success: Schema.Struct({ pid: Schema.Int, attempt: Schema.Int }),
  maxAttempts: 3,
  timeout: "30 seconds",
  retry: { initial: "10 millis", factor: 1, max: "10 millis", jitter: 0 }
}) {}

const { pid } = process

// never returns: a signal that a process sends itself is not always delivered at once
const die = Effect.andThen(
  Effect.sync(() => process.kill(pid, "SIGKILL")),
  Effect.never
)

const block = (millis: number) =>
  Effect.sync(() => {
    const until = performance.now() + millis
    while (performance.now() < until);
  })

const ActLive = Act.toLayer(
  Effect.fnUntraced(function* ({ behavior, millis = 0, attempts = Number.POSITIVE_INFINITY }) {
    const sql = yield* SqlClient
    const job = yield* JobExecution
    const { jobId, attempt } = job.lease
    const output = { pid, attempt }
    const effect = sql`INSERT INTO effects (job_id, attempt, pid) VALUES (${jobId}, ${attempt}, ${pid})`
    const complete = (beforeCommit: Effect.Effect<void>) =>
      sql.withTransaction(Effect.andThen(effect, Effect.andThen(job.complete(output), beforeCommit)))

    const act = Effect.gen(function* () {
      switch (attempt > attempts ? "quick" : behavior) {
        case "quick":
          return yield* effect
        case "slow":
          yield* Effect.sleep(millis)
          return yield* effect
        case "die":
          yield* effect
          return yield* die
        case "block":
          yield* effect
          return yield* block(millis)
        case "complete":
          yield* Effect.sleep(millis)
          return yield* complete(Effect.void)
        case "complete-then-die-before-commit":
          return yield* complete(die)
        case "complete-then-die-after-commit":
          yield* complete(Effect.void)
          return yield* die
      }
    })

    console.log(`begin ${jobId} ${attempt}`)
    yield* act.pipe(
      // the server may have been stopped, which is worth another attempt
      Effect.catchTag("SqlError", ({ message }) => Effect.fail(new Job.JobFailure({ code: "process.sql", message }))),
      Effect.onExit((exit) => Effect.sync(() => console.log(`over ${jobId} ${attempt} ${exit._tag}`)))
    )
    return output
  })
)

const Main = Layer.unwrap(
  Effect.gen(function* () {
    const url = yield* Config.Redacted("WORKER_DATABASE_URL")
    const workerId = yield* Config.String("WORKER_ID")
    const worker = Worker.layer({
      jobs: [Act],
      workerId,
      concurrency: 4,
      claimBatchSize: 4,
      pollInterval: "50 millis",
      lease: "1 second",
      drainTimeout: "1 second"
    })
    return Layer.mergeAll(worker, Reaper.layer({ interval: "200 millis" })).pipe(
      Layer.provide(ActLive),
      Layer.provide(Notifications.layer),
      Layer.provide(PgClient.layer({ url, maxConnections: 6, applicationName: workerId }))
    )
  })
)

// whoever started us keeps our input open, so that we do not outlive it
process.stdin.resume().once("close", () => process.exit(3))

process.once("SIGTERM", () => console.log("stopping"))

process.on("SIGUSR2", () => {
  const { system, user } = process.cpuUsage()
  console.log(`cpu ${Math.round((system + user) / 1000)}`)
})

runMain(
  Effect.scoped(
    Effect.gen(function* () {
      yield* Layer.build(Main)
      console.log("ready")
      return yield* Effect.never
    })
  )
)
