import { assert, expectTypeOf, it } from "@effect/vitest"
import { Effect, Layer, Option, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import * as Jobs from "../src/Jobs.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Worker from "../src/Worker.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

class Bounced extends Schema.TaggedError<Bounced>()("Bounced", { address: Schema.String, at: Schema.Date }) {
  override get message() {
    return "it came back"
  }
}
class Full extends Schema.TaggedError<Full>()("Full", { note: Schema.String }) {}

class Send extends Job.make("outcome.send", {
  payload: Schema.Literals(["send", "bounce", "fill", "refuse", "die"]),
  success: Schema.Struct({ sentAt: Schema.Date }),
  error: Schema.Union([Bounced, Full]),
  maxAttempts: 2,
  retry: { initial: "1 millis", max: "1 millis", jitter: 0 }
}) {}

/** The contract as another deployment knows it. */
class Renamed extends Job.make("outcome.send", {
  payload: Schema.String,
  success: Schema.Struct({ sentAt: Schema.Date }),
  error: Schema.Struct({ mailbox: Schema.String })
}) {}

/** A contract whose error cannot even be looked at. */
class Throwing extends Job.make("outcome.send", {
  payload: Schema.String,
  error: Schema.declare((_): _ is string => {
    throw new Error("thrown")
  })
}) {}

const at = new Date(1_700_000_000_000)
const bounced = new Bounced({ address: "ada", at })
const sent = { sentAt: at }

const SendLive = Send.toLayer((what) => {
  switch (what) {
    case "send":
      return Effect.succeed(sent)
    case "bounce":
      return Effect.fail(bounced)
    case "fill":
      // more than is kept
      return Effect.fail(new Full({ note: "x".repeat(3 * 1024 * 1024) }))
    case "refuse":
      return Effect.fail(new Job.JobFailure({ kind: "TERMINAL", code: "refused", message: "no" }))
    default:
      return Effect.die("died")
  }
})

const enqueue = (payload: typeof Send.payload.Type) => Effect.map(Jobs.enqueue(Send, payload), ({ jobId }) => jobId)

const outcomeOf = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.outcome(Send, TenantScope.global, jobId), Option.getOrUndefined)

/** What has become of a job that a worker has run. */
const ran = Effect.fnUntraced(function* (payload: typeof Send.payload.Type) {
  const jobId = yield* enqueue(payload)
  const worker = Worker.layer({ jobs: [Send], pollInterval: "20 millis" })
  const outcome = yield* outcomeOf(jobId).pipe(
    Effect.repeat({
      until: (outcome) => outcome?._tag !== "Unfinished",
      schedule: Schedule.spaced("20 millis")
    }),
    Effect.provide(Layer.provide(Layer.fresh(worker), SendLive))
  )
  return { jobId, outcome }
})

it.layer(TestDatabase.layer, { timeout: "60 seconds", excludeTestServices: true })("outcome", (it) => {
  it("is typed by the contract", () => {
    expectTypeOf(Jobs.outcome(Send, TenantScope.global, Jobs.JobId.make(crypto.randomUUID()))).toExtend<
      Effect.Effect<Option.Option<Jobs.Outcome<{ readonly sentAt: Date }, Bounced | Full>>, unknown, SqlClient>
    >()
    expectTypeOf<Extract<Jobs.Outcome<1, Bounced>, { _tag: "DeadLettered" }>["error"]>().toEqualTypeOf<
      Option.Option<Bounced>
    >()
  })

  it.effect("gives the output of a job that succeeded", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* ran("send")).outcome, { _tag: "Succeeded", output: sent })
    })
  )

  it.effect("gives the error that a job died of, as the handler made it", () =>
    Effect.gen(function* () {
      const { jobId, outcome } = yield* ran("bounce")
      assert.deepStrictEqual(outcome, {
        _tag: "DeadLettered",
        code: "Bounced",
        message: "it came back",
        error: Option.some(bounced)
      })
      if (outcome?._tag !== "DeadLettered") return
      assert.instanceOf(Option.getOrUndefined(outcome.error), Bounced)
      const attempts = yield* Jobs.attempts(TenantScope.global, jobId)
      assert.deepStrictEqual(
        attempts.map(({ error }) => Option.getOrNull(error)),
        Array.from({ length: 2 }, () => ({ _tag: "Bounced", address: "ada", at: at.toISOString() }))
      )
    })
  )

  it.effect("leaves out an error that is not kept, or none of the contract; code and message are there", () =>
    Effect.gen(function* () {
      const none = Option.none()
      assert.deepStrictEqual((yield* ran("fill")).outcome, {
        _tag: "DeadLettered",
        code: "Full",
        message: "Full",
        error: none
      })
      assert.deepStrictEqual((yield* ran("refuse")).outcome, {
        _tag: "DeadLettered",
        code: "refused",
        message: "no",
        error: none
      })
      const died = (yield* ran("die")).outcome
      assert.isTrue(died?._tag === "DeadLettered" && died.code === "job.handler_panic" && Option.isNone(died.error))
    })
  )

  it.effect("leaves out an error that the contract does not know any more", () =>
    Effect.gen(function* () {
      const { jobId } = yield* ran("bounce")
      for (const contract of [Renamed, Throwing]) {
        assert.deepStrictEqual(
          yield* Jobs.outcome(contract, TenantScope.global, jobId),
          Option.some({
            _tag: "DeadLettered" as const,
            code: "Bounced",
            message: "it came back",
            error: Option.none()
          })
        )
      }
    })
  )

  it.effect("gives the last error of a job that is still at it", () =>
    Effect.gen(function* () {
      const jobId = yield* enqueue("bounce")
      const unfinished = { _tag: "Unfinished" as const, lastErrorCode: Option.none(), lastError: Option.none() }
      assert.deepStrictEqual(yield* outcomeOf(jobId), { ...unfinished, status: "PENDING" })
      const claim = Effect.map(Jobs.claim({ workerId: "w", types: [Send.jobType], limit: 1 }), ([job]) => job?.lease)
      const first = yield* claim
      assert.strictEqual(first?.jobId, jobId)
      assert.deepStrictEqual(yield* outcomeOf(jobId), { ...unfinished, status: "LEASED" })
      if (first === undefined) return
      const error = { _tag: "Bounced", address: "ada", at: at.toISOString() }
      yield* Jobs.completeFailure(first, { kind: "RETRYABLE", code: "b", message: "m", error })
      const failed = { _tag: "Unfinished" as const, lastErrorCode: Option.some("b"), lastError: Option.some(bounced) }
      assert.deepStrictEqual(yield* outcomeOf(jobId), { ...failed, status: "PENDING" })
      const second = yield* Effect.repeat(claim, { until: (lease) => lease !== undefined })
      assert.strictEqual(second?.attempt, 2)
      assert.deepStrictEqual(yield* outcomeOf(jobId), { ...failed, status: "LEASED" })
      // the latest failure has none
      yield* SqlClient.use(
        (sql) =>
          sql`UPDATE runledger.job_queue SET lease_expires_at = now() - interval '1 second' WHERE id = ${jobId}::uuid`
      )
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.deepStrictEqual(yield* outcomeOf(jobId), {
        _tag: "DeadLettered",
        code: "job.lease_expired",
        message: "The lease ran out",
        error: Option.none()
      })
    })
  )

  it.effect("tells of a canceled job why, and of a job of another type or scope nothing", () =>
    Effect.gen(function* () {
      const jobId = yield* enqueue("send")
      yield* Jobs.cancel(TenantScope.global, jobId, { reason: "withdrawn" })
      assert.deepStrictEqual(yield* outcomeOf(jobId), { _tag: "Canceled", reason: Option.some("withdrawn") })
      class Other extends Job.make("outcome.other", { payload: Schema.Null }) {}
      assert.deepStrictEqual(yield* Jobs.outcome(Other, TenantScope.global, jobId), Option.none())
      const organization = TenantScope.organization(crypto.randomUUID())
      assert.deepStrictEqual(yield* Jobs.outcome(Send, organization, jobId), Option.none())
    })
  )
})
