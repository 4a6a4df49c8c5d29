import { PgClient } from "@effect/sql-pg/PgClient"
import * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import type { SqlError } from "effect/sql/SqlError"
import * as Args from "../internal/arguments.ts"
import { classifyRead } from "../internal/classify.ts"
import { JobId } from "../Job.ts"
import { maxTypeBytes } from "../jobs/limits.ts"
import { TerminalRunStatus, WorkflowRunId } from "../WorkflowRun.ts"
import { cancellationChannel } from "./canceled.ts"
import { channel } from "./due.ts"
import { runTerminalChannel } from "./terminal.ts"

/** What a {@link Listener} hears. */
export type Notification =
  /** Jobs of this type became due. */
  | { readonly _tag: "Due"; readonly jobType: string }
  /** The job was canceled while a worker held its lease. */
  | { readonly _tag: "Canceled"; readonly jobId: JobId }
  /** The run has ended. */
  | { readonly _tag: "RunTerminal"; readonly workflowRunId: WorkflowRunId; readonly status: TerminalRunStatus }
  /** Anything may have been missed until now: look at the tables. */
  | { readonly _tag: "Reconnected" }

/**
 * Hears what other processes notify. Listening only makes things faster and never decides correctness: a notification can be
 * lost, so whoever listens polls too.
 */
export class Listener extends Context.Service<
  Listener,
  {
    /**
     * The notifications from now on, until the scope closes. The first is `Reconnected`, as soon as there is a connection.
     *
     * Each subscriber has a buffer of 256. One that falls behind loses the oldest and finds `Reconnected` at the end.
     */
    readonly subscribe: Effect.Effect<Queue.Dequeue<Notification>, never, Scope.Scope>
    /** {@link subscribe} to some notifications: those that `concerns` holds for, and `Reconnected`. */
    readonly subscribeTo: (
      concerns: (notification: Notification) => boolean
    ) => Effect.Effect<Queue.Dequeue<Notification>, never, Scope.Scope>
  }
>()("effect-runledger/Notifications/Listener") {}

const bufferSize = 256

/** Pauses between attempts to connect, in milliseconds; they double from one to the other. */
const minPause = 100
const maxPause = 10_000

/** How long it may take to be connected and listening. */
const patience = "15 seconds"

// outages last as long as they last, also for a program whose clock is a test clock
const liveClock = Clock.Clock.defaultValue()

const reconnected: Notification = { _tag: "Reconnected" }

/**
 * Listens on one connection of its own, outside the pool, for all subscribers of the process.
 *
 * Never fails, and holds up no start: while there is no connection, or none that can `LISTEN`, it says so once at warning and
 * tries again after 0.1 to 10 seconds. A connection whose peer went away silently is noticed by TCP keepalive, after 30
 * seconds unless the client is configured otherwise.
 *
 * A pooler in transaction mode may accept `LISTEN` and deliver nothing: then only polling finds work. Give the listener a
 * client of its own that connects directly.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Effect, Layer, Queue } from "effect"
 * import { Notifications } from "effect-runledger"
 *
 * const first = Effect.scoped(Effect.gen(function*() {
 *   const listener = yield* Notifications.Listener
 *   const inbox = yield* listener.subscribe
 *   return yield* Queue.take(inbox)
 * }))
 *
 * const program = first.pipe(Effect.provide(
 *   Notifications.layer.pipe(Layer.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") })))
 * ))
 * ```
 */
export const layer: Layer.Layer<Listener, never, PgClient> = Layer.effect(
  Listener,
  Effect.gen(function* () {
    const { config } = yield* PgClient
    const inboxes = new Map<Queue.Queue<Notification>, (notification: Notification) => boolean>()
    let isListening = false

    const publish = (notification: Notification) => {
      for (const [inbox, concerns] of inboxes) {
        if (notification !== reconnected && !concerns(notification)) continue
        // the oldest gives way; whoever lost something must look for itself
        Queue.offerUnsafe(inbox, Queue.isFullUnsafe(inbox) ? reconnected : notification)
      }
    }
    const listening = Effect.sync(() => {
      isListening = true
      publish(reconnected)
    })
    const deaf = Effect.sync(() => {
      isListening = false
    })

    yield* Effect.addFinalizer(() => Effect.forEach(inboxes.keys(), Queue.shutdown, { discard: true }))
    yield* Effect.forkScoped(
      untilInterrupted((connected) =>
        Effect.ensuring(listen(config, Effect.andThen(listening, connected), publish), deaf)
      )
    )

    const subscribeTo = (concerns: (notification: Notification) => boolean) =>
      Effect.acquireRelease(
        Effect.tap(Queue.sliding<Notification>(bufferSize), (inbox) =>
          Effect.sync(() => {
            if (isListening) Queue.offerUnsafe(inbox, reconnected)
            inboxes.set(inbox, concerns)
          })
        ),
        (inbox) =>
          Effect.suspend(() => {
            inboxes.delete(inbox)
            return Queue.shutdown(inbox)
          })
      )
    return Listener.of({ subscribe: subscribeTo(() => true), subscribeTo })
  })
)

/** Connects, says so, and publishes what it hears until the connection is lost. */
const listen = Effect.fnUntraced(function* (
  config: PgClient["config"],
  connected: Effect.Effect<void>,
  publish: (notification: Notification) => void
): Effect.fn.Return<never, SqlError | Cause.TimeoutError, Scope.Scope> {
  // Outlives the connection: a subscription that ends before its connection says UNLISTEN, which may find a dead peer.
  const outer = yield* Scope.Scope
  const hear = Effect.gen(function* () {
    const connection = yield* PgConnection.make({ ...config, keepAlive: config.keepAlive ?? "30 seconds" })
    // one connection for all channels: each subscription of an unpinned one takes it for itself
    const session = yield* Scope.provide(connection.pin, outer)
    return {
      jobs: yield* Scope.provide(session.listen(channel), outer),
      cancellations: yield* Scope.provide(session.listen(cancellationChannel), outer),
      runs: yield* Scope.provide(session.listen(runTerminalChannel), outer)
    }
  })
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const { cancellations, jobs, runs } = yield* Effect.timeout(hear, patience)
      yield* connected
      return yield* Effect.raceAllFirst([
        forward(jobs, due, publish),
        forward(cancellations, canceled, publish),
        forward(runs, runTerminal, publish)
      ])
    })
  )
})

const forward = (
  from: Queue.Dequeue<PgConnection.Notification, SqlError>,
  parse: (payload: string) => Notification | undefined,
  publish: (notification: Notification) => void
): Effect.Effect<never, SqlError> =>
  Effect.forever(
    Effect.map(Queue.takeAll(from), (heard) => {
      for (const { payload } of heard) {
        const notification = parse(payload)
        // anyone may notify on these channels: what is none of ours is ignored
        if (notification !== undefined) publish(notification)
      }
    })
  )

const due = (payload: string): Notification | undefined =>
  Args.name("jobType", payload, maxTypeBytes) === undefined ? { _tag: "Due", jobType: payload } : undefined

const decodeJobId = Schema.decodeUnknownOption(JobId)

const canceled = (payload: string): Notification | undefined => {
  const jobId = Option.getOrUndefined(decodeJobId(payload))
  return jobId === undefined ? undefined : { _tag: "Canceled", jobId }
}

const decodeRunTerminal = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Struct({ workflow_run_id: WorkflowRunId, status: TerminalRunStatus }))
)

const runTerminal = (payload: string): Notification | undefined => {
  const ended = Option.getOrUndefined(decodeRunTerminal(payload))
  return ended === undefined
    ? undefined
    : { _tag: "RunTerminal", workflowRunId: ended.workflow_run_id, status: ended.status }
}

/** Runs `attempt` again and again, with growing pauses; `connected` is how it says that it succeeded. */
const untilInterrupted = (
  attempt: (connected: Effect.Effect<void>) => Effect.Effect<never, SqlError | Cause.TimeoutError, Scope.Scope>
): Effect.Effect<never> =>
  Effect.suspend(() => {
    let failures = 0
    let since: number | undefined
    const connected = Effect.suspend(() => {
      since = liveClock.currentTimeMillisUnsafe()
      return failures === 0 ? Effect.void : Effect.logInfo("Listening for notifications again")
    })
    const failed = Effect.fnUntraced(function* (cause: Cause.Cause<SqlError | Cause.TimeoutError>) {
      // a connection that is lost at once is the same outage
      if (since !== undefined && liveClock.currentTimeMillisUnsafe() - since >= maxPause) failures = 0
      since = undefined
      const log = failures === 0 ? Effect.logWarning : Effect.logDebug
      yield* log("No notifications until the database can be listened to again; polling goes on", explain(cause))
      const pause = Math.min(maxPause, minPause * 2 ** failures)
      failures++
      yield* Effect.sleep(pause * (yield* Random.nextBetween(0.5, 1)))
    })
    return Effect.scoped(attempt(connected)).pipe(
      Effect.catchCause(failed),
      Effect.forever,
      Effect.annotateLogs({ module: "Notifications" }),
      Effect.withTracerEnabled(false),
      Effect.provideService(Clock.Clock, liveClock)
    )
  })

/** What may be logged of a failure: what the database or the socket said is kept out, as everywhere. */
const explain = (cause: Cause.Cause<SqlError | Cause.TimeoutError>) =>
  Option.match(Cause.findErrorOption(cause), {
    onNone: () => cause,
    onSome: (error) => (Cause.isTimeoutError(error) ? "No answer in time" : classifyRead(error).message)
  })
