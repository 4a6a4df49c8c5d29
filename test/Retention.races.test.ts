import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobIntents, JobResources, Jobs, QueryError, Retention, Workflows } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { standing } from "./support/races.ts"
import * as Given from "./support/retention.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { reasonOf } from "./support/workflows.ts"

const { admin, assertNoOrphans, census, left, pass, startOver, type } = Given
const { dropConnection, failAfter, failBefore, Faults, makeGate, waitAt } = FaultySqlClient

const everything = { succeeded: 0, canceled: 0, deadLettered: 0, runs: 0, intents: 0, logs: 0, permits: 0 } as const

const hold = (table: string, id: string, strength: string) =>
  SqlClient.use((sql) => sql.unsafe(`SELECT FROM runledger.${table} WHERE id = '${id}' FOR ${strength}`))

const requeueOf = (jobId: Jobs.JobId) =>
  Effect.gen(function* () {
    const job = yield* Effect.flatMap(Jobs.get(admin, jobId), Effect.fromOption)
    return yield* Effect.fromResult(Jobs.requeueOf(job, { statePolicy: "preserve", reason: "again" }))
  })

it.layer(TestDatabase.layerWith({ maxConnections: 10 }), { timeout: "60 seconds" })("Retention, two at once", (it) => {
  it.effect("what another transaction holds is passed by, not waited for", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* startOver
        const kept = [yield* Given.succeeded(), yield* Given.deadLettered()]
        yield* Given.succeeded()
        const run = yield* Given.endedRun()
        const withStep = yield* Given.endedRun()
        yield* Given.endedRun()
        yield* JobIntents.record(type, 1, { idempotencyKey: "i" })
        yield* JobIntents.promote({ types: [type], limit: 10 })
        yield* Given.endNext()
        const [intent] = yield* JobIntents.list({ scope: admin })
        const ofIntent = Option.getOrThrow(intent?.promotedJobId ?? Option.none())
        const [step] = yield* Workflows.steps(admin, withStep)
        const ends = [
          yield* standing(hold("job_queue", kept[0] ?? "", "KEY SHARE")),
          yield* standing(hold("job_queue", kept[1] ?? "", "NO KEY UPDATE")),
          yield* standing(hold("workflow_runs", run, "KEY SHARE")),
          yield* standing(hold("job_queue", Option.getOrThrow(step?.jobId ?? Option.none()), "KEY SHARE")),
          yield* standing(hold("job_enqueue_intents", intent?.id ?? "", "KEY SHARE"))
        ]
        yield* pass(everything)
        assert.sameMembers(yield* left, [...kept, run, withStep, ofIntent])
        yield* assertNoOrphans
        for (const end of ends) yield* end
        yield* pass(everything)
        assert.deepStrictEqual(yield* census, {})
      })
    )
  )

  it.effect("a job that is requeued first stays; one that is deleted first is not found", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* startOver
        const first = yield* Given.deadLettered()
        const request = yield* requeueOf(first)
        const end = yield* standing(Jobs.requeue(request))
        yield* pass(everything)
        yield* end
        assert.deepStrictEqual(yield* left, [first])
        yield* Given.endNext("failure")
        const again = yield* requeueOf(first)
        const deleted = yield* standing(Retention.prune({ ages: { deadLettered: 0 }, limit: 10 }))
        const requeueing = yield* Effect.forkChild(Jobs.requeue(again))
        yield* deleted
        assert.strictEqual((yield* Fiber.join(requeueing))._tag, "NotFound")
        assert.deepStrictEqual(yield* census, {})
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  )

  it.effect("a source that is being replayed stays with its replay; deleted first, it is not found", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* startOver
        const source = yield* Given.succeeded()
        const end = yield* standing(Given.replayOf(source))
        yield* pass(everything)
        yield* end
        assert.strictEqual((yield* left).length, 2)
        yield* Given.endNext()
        const other = yield* Given.succeeded()
        const deleted = yield* standing(Retention.prune({ ages: { succeeded: 0 }, limit: 10 }))
        const replaying = yield* Effect.forkChild(
          Jobs.replay({ scope: Given.global, sourceJobId: other, expectedRunNumber: 1, requestKey: "x", reason: "r" })
        )
        yield* deleted
        assert.strictEqual((yield* Fiber.join(replaying))._tag, "NotFound")
        assert.deepStrictEqual(yield* census, {})
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  )

  it.effect("a run that is being recovered stays, and who recovers one that is deleted is told", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* startOver
        const source = yield* Given.endedRun()
        const end = yield* standing(Given.recover(source, { end: false }))
        yield* pass(everything)
        yield* end
        assert.strictEqual((yield* left).length, 2)
        yield* Given.endSteps
        const other = yield* Given.endedRun()
        const deleted = yield* standing(Retention.prune({ ages: { runs: 0 }, limit: 100 }))
        const recovering = yield* Effect.forkChild(
          reasonOf(Workflows.recover(Given.global, other, { requestKey: "k", reason: "r" }))
        )
        yield* deleted
        assert.strictEqual((yield* Fiber.join(recovering)).code, "workflow.recovery_source_not_found")
        assert.deepStrictEqual(yield* census, {})
      }).pipe(Effect.provideService(NotifyInterval, 0))
    )
  )

  it.effect("several passes at once delete each row once", () =>
    Effect.gen(function* () {
      yield* startOver
      for (let n = 0; n < 30; n++) yield* Given.succeeded()
      for (let n = 0; n < 10; n++) yield* Given.endedRun()
      const passes = yield* Effect.forEach([2, 3, 5, 7], (limit) => pass({ succeeded: 0, runs: 0 }, limit), {
        concurrency: "unbounded"
      })
      const jobs = passes.reduce((sum, batches) => sum + Given.totalOf(batches, "jobs"), 0)
      yield* assertNoOrphans
      const after = yield* pass({ succeeded: 0, runs: 0 })
      assert.strictEqual(jobs + Given.totalOf(after, "jobs"), 50)
      assert.deepStrictEqual(yield* census, {})
    })
  )

  it.effect("jobs of a session whose default is REPEATABLE READ are deleted all the same", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* Given.succeeded()
      const sql = yield* SqlClient
      yield* sql`SET default_transaction_isolation = 'repeatable read'`
      yield* pass(everything)
      assert.deepStrictEqual(yield* census, {})
    }).pipe(Effect.provide(Layer.fresh(TestDatabase.layerWith({ maxConnections: 1 }))))
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layerWith({ maxConnections: 4 }))), {
  timeout: "120 seconds"
})("Retention, of a database that fails", (it) => {
  it.effect("a failure at any statement leaves nothing half deleted, and the next pass ends it", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      const tally: Record<string, number> = {}
      const someRuns = Effect.flatMap(Given.endedRun(), (source) => Given.recover(source, { end: true }))
      const permits = Effect.andThen(JobResources.upsert("k", { permits: 2 }), JobResources.remove("k"))
      for (const [prepare, ages] of [
        [Given.withEverything, { succeeded: 0 }],
        [someRuns, { runs: 0 }],
        [Given.withEverything, { logs: 0 }],
        [Given.withEverything, { intents: 0 }],
        [permits, { permits: 0 }]
      ] as const) {
        for (const fault of [failBefore(), failAfter(), dropConnection("before"), dropConnection("after")]) {
          for (let nth = 1; ; nth++) {
            yield* startOver
            yield* prepare
            const before = yield* census
            yield* faults.clear
            yield* faults.arm([{ match: /[\s\S]*/, nth, fault }])
            const exit = yield* Effect.exit(Retention.prune({ ages, limit: 100 }))
            const injected = (yield* faults.injected).length
            yield* faults.disarm
            yield* assertNoOrphans
            if (injected === 0) {
              assert.isTrue(Exit.isSuccess(exit))
              break
            }
            if (Exit.isFailure(exit)) {
              for (const reason of exit.cause.reasons) {
                assert.isTrue("error" in reason && reason.error instanceof QueryError, String(exit.cause))
              }
            }
            const after = yield* census
            const [name] = Object.keys(ages)
            tally[String(name)] = (tally[String(name)] ?? 0) + 1
            yield* pass(ages)
            const done = yield* census
            // all of it or nothing of it
            assert.include([JSON.stringify(before), JSON.stringify(done)], JSON.stringify(after))
            assert.notStrictEqual(JSON.stringify(before), JSON.stringify(done))
          }
        }
      }
      for (const [name, least] of [
        ["succeeded", 20],
        ["runs", 24],
        ["permits", 16],
        ["logs", 4],
        ["intents", 4]
      ] as const) {
        assert.isAtLeast(tally[name] ?? 0, least, name)
      }
    }).pipe(Effect.provideService(NotifyInterval, 0))
  )

  it.effect("who is interrupted in the middle of a batch has deleted nothing of it", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      yield* startOver
      const run = yield* Given.endedRun()
      const job = yield* Given.succeeded()
      const before = yield* census
      for (const [ages, statement] of [
        [{ succeeded: 0 }, /DELETE FROM runledger\.job_queue/],
        [{ runs: 0 }, /DELETE FROM runledger\.workflow_runs/],
        [{ runs: 0 }, /FOR UPDATE SKIP LOCKED/]
      ] as const) {
        const gate = yield* makeGate
        yield* faults.arm([{ match: statement, fault: waitAt(gate, "after") }])
        const fiber = yield* Effect.forkChild(Retention.prune({ ages, limit: 10 }))
        yield* gate.reached
        yield* Fiber.interrupt(fiber)
        yield* faults.disarm
        assert.deepStrictEqual(yield* census, before)
        assert.sameMembers(yield* left, [run, job])
      }
      yield* pass(everything)
      assert.deepStrictEqual(yield* census, {})
    }).pipe(Effect.provideService(NotifyInterval, 0))
  )

  it.effect("the permits of a key of which something is said between the two statements stay", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      yield* startOver
      yield* JobResources.upsert("later", { permits: 1 })
      yield* JobResources.remove("later")
      const gate = yield* makeGate
      yield* faults.arm([{ match: /DELETE FROM runledger\.job_execution_permits/, fault: waitAt(gate) }])
      const fiber = yield* Effect.forkChild(Retention.prune({ ages: { permits: 0 }, limit: 10 }))
      yield* gate.reached
      // waits for the permits that are locked, and finds none of them
      const upserting = yield* Effect.forkChild(
        Effect.provideService(JobResources.upsert("later", { permits: 3 }), SqlClient, faults.unwrapped)
      )
      yield* gate.open
      yield* Fiber.join(fiber)
      yield* Fiber.join(upserting)
      yield* faults.disarm
      assert.strictEqual((yield* census).job_execution_permits, 3)
      yield* pass(everything)
      assert.strictEqual((yield* census).job_execution_permits, 3)
      yield* JobResources.remove("later")
    }).pipe(Effect.provideService(NotifyInterval, 0))
  )
})
