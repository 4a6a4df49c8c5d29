/**
 * A process to be killed: lives the life of a few jobs, or of a few workflow runs, several times over, each time with
 * connections of its own and up to the statement that it was told, so that `test/Jobs.crash.test.ts` and
 * `test/Workflows.crash.test.ts` can kill it there. Says on its standard output when all lives stand.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Cause from "effect/Cause"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { SqlClient } from "effect/sql/SqlClient"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { life as workflows } from "./crashWorkflow.ts"

const config = Config.all({
  url: Config.Redacted("CRASH_DATABASE_URL"),
  /** Before which statement each life stops, counted from 1, separated by commas; 0 for none. */
  at: Config.String("CRASH_AT"),
  lives: Config.Literals(["jobs", "workflows"], "CRASH_LIVES").pipe(Config.withDefault("jobs"))
})

const jobs = Effect.fnUntraced(function* (at: number) {
  const sql = yield* SqlClient
  const type = `crash.${at}`
  const prefetched = `crash.${at}.prefetched`
  const doomed = `crash.${at}.doomed`
  const enqueue = (key: string) => ({ jobType: type, payload: key, idempotencyKey: key })
  /** The user's row, which is there if and only if the step of the job's life is. */
  const own = (word: string) => sql`INSERT INTO own VALUES (${at}, ${word})`
  const withRow = <A, E>(word: string, step: Effect.Effect<A, E, SqlClient>) =>
    sql.withTransaction(Effect.andThen(own(word), step))

  yield* withRow("succeed", Jobs.enqueue(type, "succeed", { idempotencyKey: "succeed", priority: 10 }))
  yield* Jobs.enqueue(prefetched, "prefetched", { idempotencyKey: "prefetched" })
  yield* Jobs.enqueue(doomed, "doomed", { idempotencyKey: "doomed" })
  yield* Jobs.enqueueMany(["fail", "retry", "continue", "cancel"].map(enqueue))

  const claimed = yield* Jobs.claim({ workerId: `worker ${at}`, types: [type], limit: 10, lease: "1 hour" })
  const leaseOf = (key: string) => Effect.fromNullishOr(claimed.find(({ payload }) => payload === key)?.lease)
  const [succeed, fail, retry, next, cancel] = yield* Effect.forEach(
    ["succeed", "fail", "retry", "continue", "cancel"] as const,
    leaseOf
  )
  if (!succeed || !fail || !retry || !next || !cancel) return yield* Effect.die("not all were claimed")
  yield* Jobs.heartbeat(succeed, { extend: "1 hour" })
  yield* Jobs.heartbeatMany(
    claimed.map(({ lease }) => lease),
    { extend: "1 hour" }
  )
  yield* Jobs.updateProgress(succeed, { done: 1, total: 2, checkpoint: { at: 1 } })

  yield* withRow("succeeded", Jobs.completeSuccess(succeed, { output: "done" }))
  yield* withRow("failed", Jobs.completeFailure(fail, { kind: "TERMINAL", code: "crash.no", message: "no" }))
  yield* withRow("retried", Jobs.completeFailure(retry, { kind: "RETRYABLE", code: "crash.later", message: "later" }))
  yield* withRow("continued", Jobs.completeContinuation(next, { checkpoint: { slice: 2 } }))
  yield* withRow("canceled", Jobs.cancel(TenantScope.admin, cancel.jobId))

  const [ahead] = yield* Jobs.claimPrestart({
    workerId: `worker ${at}`,
    types: [prefetched],
    limit: 1,
    lease: "1 hour"
  })
  if (ahead === undefined) return yield* Effect.die("nothing was claimed ahead")
  yield* Jobs.releaseUnstarted(ahead.lease)
  yield* Jobs.claim({ workerId: `worker ${at}`, types: [doomed], limit: 1, lease: 1 })
  yield* Jobs.reapExpiredLeases({ limit: 100 })
})

const main = Effect.gen(function* () {
  const { at, lives, url } = yield* config
  const life = lives === "jobs" ? jobs : workflows
  const stops = at.split(",").map((text) => ({ before: Number(text), gate: FaultySqlClient.makeGate }))
  const standing = yield* Effect.forEach(stops, ({ before, gate }) =>
    Effect.gen(function* () {
      const stop = yield* gate
      const client = FaultySqlClient.layerPg(
        before === 0 ? [] : [{ nth: before, fault: FaultySqlClient.waitAt(stop) }]
      ).pipe(Layer.provide(PgClient.layer({ url, maxConnections: 2, applicationName: "crash child" })))
      yield* Effect.forkDetach(
        Effect.gen(function* () {
          const { statements } = yield* FaultySqlClient.Faults
          yield* life(before)
          console.log(`finished ${(yield* statements).length}`)
        }).pipe(
          Effect.provide(client),
          Effect.tapCause((cause) => Effect.sync(() => console.error(Cause.pretty(cause))))
        )
      )
      return stop.reached
    })
  )
  yield* Effect.all(standing, { concurrency: "unbounded" })
  console.log("stopped")
  return yield* Effect.never
})

Effect.runFork(Effect.provideService(main, NotifyInterval, 0))
// nobody opens the gates, and they keep no event loop alive; whoever started us ends us
setInterval(() => {}, 1000)
