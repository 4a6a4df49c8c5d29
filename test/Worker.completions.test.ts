import { assert, it } from "@effect/vitest"
import { Effect, Layer, Option, Schedule, Schema } from "effect"
import * as Job from "../src/Job.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Reaper from "../src/Reaper.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Worker from "../src/Worker.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

class Work extends Job.make("work", {
  payload: { n: Schema.Int },
  maxAttempts: 3,
  retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 }
}) {}

const succeeded = (jobId: Jobs.JobId) =>
  Jobs.get(TenantScope.admin, jobId).pipe(
    Effect.flatMap(Effect.fromOption),
    Effect.filterOrFail(
      ({ status }) => status === "SUCCEEDED",
      (job) => new Error(`it is ${job.status}`)
    ),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

/** A client that dies instead of failing, as no client should. */
const defect: FaultySqlClient.Fault = FaultySqlClient.waitAt({
  reached: Effect.void,
  open: Effect.void,
  pass: Effect.die(new Error("a defect of the client"))
})

it.live("a defect while endings are written costs their attempts, and no later ending", () =>
  Effect.gen(function* () {
    const faults = yield* FaultySqlClient.Faults
    const events: Array<string> = []
    const observer: Worker.Observer = (event) => Effect.sync(() => events.push(event._tag))
    const WorkLive = Work.toLayer(() => Effect.void)
    const worker = Worker.layer({ jobs: [Work], pollInterval: "20 millis", lease: "1 second", observers: [observer] })
    yield* Layer.build(Layer.mergeAll(Layer.provide(worker, WorkLive), Reaper.layer({ interval: "100 millis" })))

    yield* faults.arm([{ match: /status = 'SUCCEEDED',/, times: 1, fault: defect }])
    const first = yield* Jobs.enqueue(Work, { n: 1 })
    yield* faults.injected.pipe(
      Effect.repeat({ until: (injected) => injected.length === 1, schedule: Schedule.spaced("5 millis") }),
      Effect.timeout("10 seconds")
    )
    const second = yield* Jobs.enqueue(Work, { n: 2 })
    assert.strictEqual((yield* succeeded(second.jobId)).attempt, 1)
    assert.include(events, "PersistFailed")

    assert.strictEqual((yield* succeeded(first.jobId)).attempt, 2)
    const attempts = yield* Jobs.attempts(TenantScope.admin, first.jobId)
    assert.deepStrictEqual(
      attempts.map(({ endedAs }) => Option.getOrNull(endedAs)),
      ["LEASE_EXPIRED", "SUCCEEDED"]
    )
  }).pipe(Effect.scoped, Effect.provide(FaultySqlClient.layer()), Effect.provide(TestDatabase.layer))
)
