import { connect } from "node:net"
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Queue, Redacted, Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Notifications from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Workflows from "../src/Workflows.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { cancellationChannel, channel, runTerminalChannel } = Notifications
const reconnected = { _tag: "Reconnected" } as const

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

/** Asks again until it is true; each time is a round trip. */
const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

let types = 0
const makeType = Effect.suspend(() => Effect.map(JobDefinitions.upsert(`heard.${++types}`), ({ jobType }) => jobType))

const leased = Effect.gen(function* () {
  const type = yield* makeType
  yield* Effect.provideService(Jobs.enqueue(type, 0), Notifications.NotifyInterval, 0)
  return only(yield* Jobs.claim({ workerId: "w", types: [type], limit: 1, lease: "1 hour" })).lease.jobId
})

const listenerOf = <R>(layer: Layer.Layer<Notifications.Listener, SqlError, R>) =>
  Effect.map(Layer.build(layer), Context.get(Notifications.Listener))
const listener = listenerOf(Notifications.layer)

/** A subscriber that already has what every subscription begins with. */
const subscribed = Effect.fnUntraced(function* ({ subscribe }: Notifications.Listener["Service"]) {
  const inbox = yield* subscribe
  assert.deepStrictEqual(yield* Queue.take(inbox), reconnected)
  return inbox
})

/** Notified by the test itself: what is heard before it came before it. */
const say = (word: string, on: string = channel) => SqlClient.use((sql) => sql`SELECT pg_notify(${on}, ${word})`)

const due = (jobType: string) => ({ _tag: "Due", jobType }) as const
const canceled = (jobId: Jobs.JobId) => ({ _tag: "Canceled", jobId }) as const

/** The backends that listen. */
const listeners = SqlClient.use(
  (sql) => sql<{ pid: number }>`
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`
)

/** What is logged, as `Level: first part of the message`. */
const keepLogs = () => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  return { lines, layer: Logger.layer([logger]) }
}

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Notifications", (it) => {
  it.effect("what became due is heard, by every subscriber", () =>
    Effect.gen(function* () {
      const service = yield* listener
      const inboxes = [yield* subscribed(service), yield* subscribed(service)]
      const type = yield* makeType
      yield* Jobs.enqueue(type, 0)
      for (const inbox of inboxes) assert.deepStrictEqual(yield* Queue.take(inbox), due(type))
      assert.strictEqual((yield* listeners).length, 1, "one connection for all channels and subscribers")
    })
  )

  it.effect("one subscriber leaves, another goes on", () =>
    Effect.gen(function* () {
      const service = yield* listener
      const inbox = yield* subscribed(service)
      const left = yield* Effect.scoped(subscribed(service))
      const type = yield* makeType
      yield* Jobs.enqueue(type, 0)
      assert.deepStrictEqual(yield* Queue.take(inbox), due(type))
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(Queue.take(left))))
    })
  )

  it.effect("of a transaction nothing is heard before it commits, and of one that is rolled back nothing at all", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const inbox = yield* subscribed(yield* listener)
      const type = yield* makeType
      const [job, other] = [yield* leased, yield* leased]
      yield* Effect.exit(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* Jobs.enqueue(type, 0)
            yield* Jobs.cancel(TenantScope.admin, job)
            return yield* Effect.fail("no")
          })
        )
      )
      const [written, commit] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const fiber = yield* Effect.gen(function* () {
        yield* Jobs.cancel(TenantScope.admin, other)
        yield* Deferred.succeed(written, undefined)
        yield* Deferred.await(commit)
      }).pipe(sql.withTransaction, Effect.forkChild)
      yield* Deferred.await(written)
      yield* say("nothing yet")
      assert.deepStrictEqual(yield* Queue.take(inbox), due("nothing yet"))
      yield* Deferred.succeed(commit, undefined)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* Queue.take(inbox), canceled(other))
    })
  )

  it.effect("a cancellation is heard if a handler was at work", () =>
    Effect.gen(function* () {
      const inbox = yield* subscribed(yield* listener)
      const type = yield* makeType
      const { jobId: pending } = yield* Effect.provideService(Jobs.enqueue(type, 0), Notifications.NotifyInterval, 0)
      const [silent, job] = [yield* leased, yield* leased]
      yield* Jobs.cancel(TenantScope.admin, pending)
      yield* Effect.provideService(Jobs.cancel(TenantScope.admin, silent), Notifications.NotifyInterval, 0)
      yield* Jobs.cancel(TenantScope.admin, job)
      assert.deepStrictEqual(yield* Queue.take(inbox), canceled(job))
      assert.strictEqual((yield* Effect.exit(Jobs.cancel(TenantScope.admin, job)))._tag, "Failure")
      yield* say("nothing more")
      assert.deepStrictEqual(yield* Queue.take(inbox), due("nothing more"))
    })
  )

  it.effect("many cancellations are one statement; none is none", () =>
    Effect.gen(function* () {
      const inbox = yield* subscribed(yield* listener)
      const jobs = [yield* leased, yield* leased, yield* leased]
      yield* Notifications.markCanceled([])
      yield* Notifications.markCanceled(jobs)
      for (const job of jobs) assert.deepStrictEqual(yield* Queue.take(inbox), canceled(job))
    })
  )

  it.effect("the end of a run is heard, by those whom it concerns", () =>
    Effect.gen(function* () {
      const service = yield* listener
      const run = Workflows.WorkflowRunId.make(crypto.randomUUID())
      const other = Workflows.WorkflowRunId.make(crypto.randomUUID())
      const all = yield* subscribed(service)
      const some = yield* service.subscribeTo(
        (notification) => notification._tag === "RunTerminal" && notification.workflowRunId === run
      )
      assert.deepStrictEqual(yield* Queue.take(some), reconnected)
      const ended = (workflowRunId: string, status: string) =>
        say(JSON.stringify({ workflow_run_id: workflowRunId, status }), runTerminalChannel)
      yield* say("a type")
      for (const word of ["", "x", "{}", `"${run}"`, JSON.stringify({ workflow_run_id: run })]) {
        yield* say(word, runTerminalChannel)
      }
      yield* ended("x", "SUCCEEDED")
      yield* ended(run, "RUNNING")
      yield* ended(other, "CANCELED")
      yield* ended(run, "COMPLETED_WITH_ERRORS")
      const heard = { _tag: "RunTerminal", workflowRunId: run, status: "COMPLETED_WITH_ERRORS" } as const
      assert.deepStrictEqual(yield* Queue.take(some), heard)
      // the channels are forwarded each by itself
      const three = [yield* Queue.take(all), yield* Queue.take(all), yield* Queue.take(all)]
      assert.deepStrictEqual(
        three.filter(({ _tag }) => _tag === "RunTerminal"),
        [{ ...heard, workflowRunId: other, status: "CANCELED" }, heard]
      )
      assert.deepStrictEqual(
        three.filter(({ _tag }) => _tag === "Due"),
        [due("a type")]
      )
      assert.strictEqual((yield* listeners).length, 1, "one connection for all channels")
    })
  )

  it.effect("payloads that are none of ours are ignored", () =>
    Effect.gen(function* () {
      const inbox = yield* subscribed(yield* listener)
      const job = yield* leased
      for (const word of ["", " ", "x".repeat(129)]) yield* say(word)
      for (const word of ["", "x", `${job}0`, '{"jobId": 1}']) yield* say(word, cancellationChannel)
      yield* say("x".repeat(128))
      assert.deepStrictEqual(yield* Queue.take(inbox), due("x".repeat(128)))
      yield* say(job, cancellationChannel)
      assert.deepStrictEqual(yield* Queue.take(inbox), canceled(job))
    })
  )

  it.effect("a subscriber that falls behind holds a bounded buffer, and learns that it missed something", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const service = yield* listener
      const [slow, fast] = [yield* subscribed(service), yield* subscribed(service)]
      yield* sql`SELECT pg_notify(${channel}, 'type.' || n) FROM generate_series(1, 1000) AS n`
      // the other one may fall behind as well: it is told until it hears
      yield* until(
        Effect.map(Effect.andThen(say("last"), Queue.takeAll(fast)), (heard) =>
          heard.some((one) => one._tag === "Due" && one.jobType === "last")
        )
      )
      const kept = yield* Queue.takeAll(slow)
      assert.isAtMost(kept.length, 256)
      assert.deepStrictEqual(kept.at(-1), reconnected)
      // it goes on from there
      yield* say("again")
      const later = yield* Effect.repeat(Queue.take(slow), {
        until: (one) => one._tag !== "Due" || one.jobType !== "last"
      })
      assert.deepStrictEqual(later, due("again"))
    })
  )

  it.effect("a lost connection is replaced: subscribers hear of it, and then what is notified", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { lines, layer } = keepLogs()
      const inbox = yield* Effect.flatMap(listener, subscribed).pipe(Effect.provide(layer))
      for (const round of [1, 2]) {
        const { pid } = only(yield* listeners)
        yield* sql`SELECT pg_terminate_backend(${pid}::int4)`
        assert.deepStrictEqual(yield* Queue.take(inbox), reconnected)
        const [type, job] = [yield* makeType, yield* leased]
        yield* Jobs.enqueue(type, round)
        assert.deepStrictEqual(yield* Queue.take(inbox), due(type))
        yield* Jobs.cancel(TenantScope.admin, job)
        assert.deepStrictEqual(yield* Queue.take(inbox), canceled(job))
      }
      assert.deepStrictEqual(lines, [
        "Warn: No notifications until the database can be listened to again; polling goes on",
        "Info: Listening for notifications again",
        "Info: Listening for notifications again"
      ])
    })
  )

  it.effect("closing the layer ends connection and subscriptions", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const service = yield* Scope.provide(listener, scope)
      const inbox = yield* subscribed(service)
      const taker = yield* Effect.forkChild(Queue.take(inbox), { startImmediately: true })
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(taker)))
      yield* until(Effect.map(listeners, ({ length }) => length === 0))
    })
  )
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Notifications of a server that is not there", (it) => {
  /** A server that is away until it is told to come; each attempt to connect is counted. */
  const absent = Effect.gen(function* () {
    const sql = yield* SqlClient
    const { name } = only(yield* sql<{ name: string }>`SELECT current_database() AS name`)
    const server = new URL(TestDatabase.url(name))
    const attempts = yield* Queue.unbounded<number>()
    const state = { away: true, attempts: 0 }
    const client = PgClient.layer({
      url: Redacted.make(server.href),
      stream: () => {
        Queue.offerUnsafe(attempts, ++state.attempts)
        // nothing listens on port 1
        return connect({ host: server.hostname, port: state.away ? 1 : Number(server.port || 5432) })
      }
    })
    return { attempts, state, client }
  })

  it.effect("start-up does not wait for it; once it is there, subscribers hear", () =>
    Effect.gen(function* () {
      const { attempts, client, state } = yield* absent
      const { layer, lines } = keepLogs()
      const { subscribe } = yield* listenerOf(Layer.provide(Notifications.layer, client)).pipe(Effect.provide(layer))
      const inbox = yield* subscribe
      while ((yield* Queue.take(attempts)) < 4) {}
      assert.strictEqual(yield* Queue.size(inbox), 0)
      assert.deepStrictEqual(lines, [
        "Warn: No notifications until the database can be listened to again; polling goes on"
      ])
      state.away = false
      assert.deepStrictEqual(yield* Queue.take(inbox), reconnected)
      const type = yield* makeType
      yield* Jobs.enqueue(type, 0)
      assert.deepStrictEqual(yield* Queue.take(inbox), due(type))
      assert.strictEqual(lines.length, 2)
    })
  )

  it.effect("closing the layer meanwhile ends the attempts", () =>
    Effect.gen(function* () {
      const { attempts, client } = yield* absent
      const scope = yield* Scope.make()
      yield* Scope.provide(listenerOf(Layer.provide(Notifications.layer, client)), scope)
      while ((yield* Queue.take(attempts)) < 2) {}
      yield* Scope.close(scope, Exit.void)
    })
  )
})
