/**
 * What becomes of the steps of a run, one transition after the other; the numbers are those of the list of scenarios.
 */

import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Effect, Option, Queue } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, TenantScope, Workflows } from "../src/index.ts"
import { runTerminalChannel } from "../src/notifications/terminal.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import {
  assertConsistent,
  claim,
  codeOf,
  enqueue,
  gate,
  jobType,
  leaseOf,
  runStatus,
  standing,
  startOver,
  statuses,
  step,
  stepOf,
  work,
  workAll
} from "./support/workflows.ts"

const { admin, global } = TenantScope
const unsatisfied = "workflow.dependency_unsatisfied"

const resultOf = (runId: Workflows.WorkflowRunId) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql`SELECT result FROM runledger.workflow_runs WHERE id = ${runId}::uuid`,
      ([row]): unknown => row?.result
    )
  )

type End = (completion: Jobs.Completion) => Effect.Effect<void, unknown, SqlClient>

const alone: End = (completion) => {
  switch (completion._tag) {
    case "Success":
      return Effect.asVoid(Jobs.completeSuccess(completion.lease, completion))
    case "Failure":
      return Effect.asVoid(Jobs.completeFailure(completion.lease, completion))
    case "Continuation":
      return Effect.asVoid(Jobs.completeContinuation(completion.lease, completion))
  }
}

const otherRun = "0197c000-0000-7000-8000-0000000000ff"

/** Ends leases one by one, or in one batch, whatever they say of their run: the same must come of it. */
const ways: ReadonlyArray<{ readonly title: string; readonly end: End }> = [
  { title: "alone", end: alone },
  {
    title: "alone, with a lease that names no run",
    end: ({ lease: { workflowRunId: _, ...lease }, ...completion }) => alone({ ...completion, lease })
  },
  {
    title: "alone, with a lease that names another run",
    end: (completion) => alone({ ...completion, lease: { ...completion.lease, workflowRunId: otherRun } })
  },
  {
    title: "in a batch, with a lease that names another run",
    end: (completion) =>
      Effect.flatMap(
        Jobs.completeMany([{ ...completion, lease: { ...completion.lease, workflowRunId: otherRun } }]),
        (answers) => Effect.asVoid(Effect.forEach(answers, Effect.fromResult))
      )
  },
  {
    title: "in a batch",
    end: (completion) =>
      Effect.flatMap(Jobs.completeMany([completion]), (answers) =>
        Effect.asVoid(Effect.forEach(answers, Effect.fromResult))
      )
  }
]

const idle = {
  status: "ENQUEUED" as const,
  reason: null,
  code: null,
  message: null,
  released: true,
  started: false,
  finished: false,
  output: null
}
const failed = { kind: "RETRYABLE", code: "smtp.down", message: "no answer" } as const

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Workflows: running", (it) => {
  const scenario = <E>(title: string, body: Effect.Effect<void, E, SqlClient>) =>
    it.effect(title, () => Effect.andThen(startOver, Effect.andThen(body, assertConsistent)))

  scenario(
    "1: a join runs once, after the second of its prerequisites",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
      const leases = yield* claim()
      yield* Jobs.completeSuccess(leaseOf(leases, "a"))
      assert.deepStrictEqual(yield* statuses(run.id), { a: "SUCCEEDED", b: "RUNNING", join: "BLOCKED" })
      yield* Jobs.completeSuccess(leaseOf(leases, "b"))
      assert.deepStrictEqual(yield* workAll(), [["join"]])
      assert.strictEqual(yield* runStatus(run.id), "SUCCEEDED")
    })
  )

  scenario(
    "2: a join whose prerequisite failed waits for the other, and is canceled",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
      const leases = yield* claim()
      yield* Jobs.completeFailure(leaseOf(leases, "a"), { ...failed, kind: "TERMINAL" })
      assert.deepStrictEqual(yield* statuses(run.id), { a: "FAILED", b: "RUNNING", join: "BLOCKED" })
      yield* assertConsistent
      yield* Jobs.completeSuccess(leaseOf(leases, "b"))
      assert.deepStrictEqual(yield* standing(run.id, "join"), {
        status: "CANCELED",
        reason: unsatisfied,
        code: unsatisfied,
        message: "A prerequisite did not end as this step requires",
        released: false,
        started: false,
        finished: true,
        output: null
      })
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
    })
  )

  scenario(
    "3: a failure cancels what needed its success, and what only waits for an end still runs",
    Effect.gen(function* () {
      const run = yield* enqueue([
        step("A"),
        step("B", { after: ["A"] }),
        step("C", { afterTerminal: ["B"] }),
        gate("g", { after: ["B"] })
      ])
      yield* work(["A"])
      yield* assertConsistent
      assert.deepStrictEqual(yield* statuses(run.id), { A: "FAILED", B: "CANCELED", C: "ENQUEUED", g: "CANCELED" })
      yield* work()
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      const found = Option.getOrThrow(yield* Workflows.get(admin, run.id))
      assert(Option.isSome(found.finishedAt))
    })
  )

  scenario(
    "4: the output of the result step is the result of a run that succeeded",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b")], { resultStepKey: "a" })
      const leases = yield* claim()
      yield* Jobs.completeSuccess(leaseOf(leases, "a"), { output: { sum: 1 } })
      assert.isNull(yield* resultOf(run.id))
      yield* Jobs.completeSuccess(leaseOf(leases, "b"))
      assert.strictEqual(yield* runStatus(run.id), "SUCCEEDED")
      assert.deepStrictEqual(yield* resultOf(run.id), { sum: 1 })
    })
  )

  it.effect("4: the end of a run is told once, by whatever ends it", () =>
    Effect.scoped(
      Effect.gen(function* () {
        yield* startOver
        const sql = yield* SqlClient
        const heard = yield* (yield* PgClient.PgClient).listen(runTerminalChannel)
        const [whole, broken, canceled, gated] = yield* Effect.all([
          enqueue([step("a"), step("b", { after: ["a"] })]),
          enqueue([step("x"), step("y", { after: ["x"] })]),
          enqueue([step("c"), gate("d")]),
          enqueue([gate("e")])
        ])
        yield* work(["x"])
        yield* Workflows.cancel(admin, canceled.id)
        yield* Workflows.cancel(admin, canceled.id)
        const open = Workflows.completeExternal(global, gated.id, "e", { status: "SUCCEEDED" })
        yield* Effect.andThen(open, open)
        yield* Effect.exit(sql.withTransaction(Effect.andThen(work(), Effect.fail("rolled back"))))
        yield* workAll()
        yield* sql`SELECT pg_notify(${runTerminalChannel}, 'that was all')`
        const told: Array<unknown> = []
        while (true) {
          const { payload } = yield* Queue.take(heard)
          if (payload === "that was all") break
          told.push(JSON.parse(payload ?? ""))
        }
        assert.deepStrictEqual(told, [
          { workflow_run_id: broken.id, status: "COMPLETED_WITH_ERRORS" },
          { workflow_run_id: canceled.id, status: "CANCELED" },
          { workflow_run_id: gated.id, status: "SUCCEEDED" },
          { workflow_run_id: whole.id, status: "SUCCEEDED" }
        ])
      })
    )
  )

  scenario(
    "5: a run with errors has no result, although its result step succeeded",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b")], { resultStepKey: "a" })
      yield* work(["b"])
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      assert.isNull(yield* resultOf(run.id))
    })
  )

  scenario(
    "6: a run of nothing but gates waits from the start",
    Effect.gen(function* () {
      const run = yield* enqueue([gate("a"), gate("b")])
      assert.strictEqual(run.status, "WAITING_FOR_EXTERNAL")
      assert.deepStrictEqual(yield* standing(run.id, "a"), { ...idle, status: "WAITING_FOR_EXTERNAL" })
    })
  )

  scenario(
    "7: a run with a gate and a step behind it is running",
    Effect.gen(function* () {
      const run = yield* enqueue([gate("a"), step("b", { after: ["a"] })])
      assert.strictEqual(run.status, "RUNNING")
      assert.deepStrictEqual(yield* standing(run.id, "b"), { ...idle, status: "BLOCKED", released: false })
      assert.deepStrictEqual(yield* work(), [])
    })
  )

  for (const { title, end } of ways) {
    scenario(
      `22: a retry takes the step back to the queue, with its first start, and dependents wait (${title})`,
      Effect.gen(function* () {
        yield* JobDefinitions.update(jobType, { retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 } })
        const run = yield* enqueue([step("a", { maxAttempts: 2 }), step("b", { after: ["a"] })])
        yield* end({ _tag: "Failure", lease: leaseOf(yield* claim(), "a"), ...failed })
        const retrying = yield* standing(run.id, "a")
        assert.deepStrictEqual(retrying, {
          ...idle,
          started: true,
          reason: "RETRYABLE",
          code: failed.code,
          message: failed.message
        })
        assert.strictEqual((yield* statuses(run.id)).b, "BLOCKED")
        const { startedAt } = yield* stepOf(run.id, "a")
        const leases = yield* Effect.repeat(claim(), { until: (found) => found.size === 1 })
        assert.strictEqual((yield* standing(run.id, "a")).status, "RUNNING")
        yield* end({ _tag: "Success", lease: leaseOf(leases, "a"), output: [1] })
        assert.deepStrictEqual(yield* standing(run.id, "a"), {
          ...idle,
          status: "SUCCEEDED",
          reason: "SUCCEEDED",
          started: true,
          finished: true,
          output: [1]
        })
        assert.deepStrictEqual((yield* stepOf(run.id, "a")).startedAt, startedAt)
        assert.strictEqual((yield* statuses(run.id)).b, "ENQUEUED")
      })
    )

    scenario(
      `23: a continuation needs the leave of its step, and nothing is written without (${title})`,
      Effect.gen(function* () {
        const run = yield* enqueue([step("a")])
        const lease = leaseOf(yield* claim(), "a")
        const before = yield* stepOf(run.id, "a")
        if (title === "alone") {
          assert.strictEqual(
            yield* codeOf(Jobs.completeContinuation(lease)),
            "job.workflow_handler_continuation_not_enabled"
          )
        } else {
          const [answer] = yield* Jobs.completeMany([{ _tag: "Continuation", lease }])
          assert(answer?._tag === "Failure")
          assert.strictEqual(answer.failure.code, "job.workflow_handler_continuation_not_enabled")
        }
        assert.deepStrictEqual(yield* stepOf(run.id, "a"), before)
        const job = Option.getOrThrow(yield* Jobs.get(admin, lease.jobId))
        assert.deepStrictEqual([job.status, job.runNumber], ["LEASED", 1])
      })
    )

    scenario(
      `a continuation with leave takes the step back to the queue, with the same job (${title})`,
      Effect.gen(function* () {
        const run = yield* enqueue([step("a", { allowHandlerContinuation: true }), step("b", { after: ["a"] })])
        const lease = leaseOf(yield* claim(), "a")
        yield* end({ _tag: "Continuation", lease })
        assert.deepStrictEqual(yield* standing(run.id, "a"), { ...idle, started: true, reason: "HANDLER_CONTINUATION" })
        assert.strictEqual((yield* statuses(run.id)).b, "BLOCKED")
        yield* assertConsistent
        const again = leaseOf(yield* claim(), "a")
        assert.deepStrictEqual([again.jobId, again.runNumber, again.attempt], [lease.jobId, lease.runNumber + 1, 1])
        yield* end({ _tag: "Success", lease: again })
        assert.deepStrictEqual(yield* workAll(), [["b"]])
        assert.strictEqual(yield* runStatus(run.id), "SUCCEEDED")
      })
    )

    for (const kind of ["RETRYABLE", "TERMINAL", "TIMEOUT", "PANICKED"] as const) {
      scenario(
        `a dead letter of kind ${kind} fails the step (${title})`,
        Effect.gen(function* () {
          const run = yield* enqueue([step("a")])
          yield* end({ _tag: "Failure", lease: leaseOf(yield* claim(), "a"), ...failed, kind })
          assert.deepStrictEqual(yield* standing(run.id, "a"), {
            ...idle,
            status: "FAILED",
            reason: kind,
            code: failed.code,
            message: failed.message,
            started: true,
            finished: true
          })
        })
      )
    }
  }

  scenario(
    "24: a definition that is disabled after the enqueue does not keep steps from their jobs",
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("test.other", {})
      const run = yield* enqueue([gate("a"), step("b", { after: ["a"], jobType: "test.other" })])
      yield* JobDefinitions.update("test.other", { isEnabled: false })
      yield* Workflows.completeExternal(global, run.id, "a", { status: "SUCCEEDED" })
      assert.strictEqual((yield* statuses(run.id)).b, "ENQUEUED")
    })
  )

  scenario(
    "a claim starts the step; given back before its handler began, it never started",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a")])
      const [job] = yield* Jobs.claimPrestart({ workerId: "w", types: [jobType], limit: 1, lease: "1 hour" })
      assert(job !== undefined)
      assert.deepStrictEqual(yield* standing(run.id, "a"), { ...idle, status: "RUNNING", started: true })
      yield* assertConsistent
      yield* Jobs.releaseUnstarted(job.lease)
      assert.deepStrictEqual(yield* standing(run.id, "a"), idle)
    })
  )

  const expire = SqlClient.use(
    (sql) => sql`
      UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE status = 'LEASED'`
  )

  scenario(
    "a lease that ran out is retried, and fails the step with the last attempt",
    Effect.gen(function* () {
      yield* JobDefinitions.update(jobType, { retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 } })
      const run = yield* enqueue([step("a", { maxAttempts: 2 }), step("b", { afterTerminal: ["a"] })])
      const expired = {
        ...idle,
        started: true,
        reason: "LEASE_EXPIRED",
        code: "job.lease_expired",
        message: "The lease ran out"
      }
      yield* claim()
      yield* expire
      assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases.length, 1)
      assert.deepStrictEqual(yield* standing(run.id, "a"), expired)
      yield* assertConsistent
      yield* Effect.repeat(claim(), { until: (found) => found.size === 1 })
      yield* expire
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.deepStrictEqual(yield* standing(run.id, "a"), { ...expired, status: "FAILED", finished: true })
      assert.strictEqual((yield* statuses(run.id)).b, "ENQUEUED")
    })
  )

  scenario(
    "a prefetched lease that ran out leaves the step as if it had never been claimed",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a")])
      yield* Jobs.claimPrestart({ workerId: "w", types: [jobType], limit: 1, lease: "1 hour" })
      yield* expire
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.deepStrictEqual(yield* standing(run.id, "a"), idle)
    })
  )

  for (const [title, options, reason] of [
    ["with a reason", { reason: "withdrawn" }, "withdrawn"],
    ["without one", {}, "CANCELED"]
  ] as const) {
    scenario(
      `a job that is canceled ${title} cancels its step, and dependents follow their modes`,
      Effect.gen(function* () {
        const run = yield* enqueue([step("a"), step("b", { after: ["a"] }), step("c", { afterTerminal: ["a"] })])
        yield* Jobs.cancel(global, Option.getOrThrow((yield* stepOf(run.id, "a")).jobId), options)
        assert.deepStrictEqual(yield* standing(run.id, "a"), { ...idle, status: "CANCELED", reason, finished: true })
        assert.deepStrictEqual(yield* statuses(run.id), { a: "CANCELED", b: "CANCELED", c: "ENQUEUED" })
        yield* workAll()
        assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      })
    )
  }

  scenario(
    "a batch ends steps of several runs at once, each run on its own",
    Effect.gen(function* () {
      const runs = yield* Effect.forEach([1, 2, 3], (n) =>
        enqueue([step(`a${n}`), step(`b${n}`), step(`c${n}`, { after: [`a${n}`, `b${n}`] })])
      )
      const leases = yield* claim()
      const answers = yield* Jobs.completeMany(
        [...leases].map(([key, lease]) =>
          key === "b2"
            ? { _tag: "Failure", lease, ...failed, kind: "TERMINAL" }
            : { _tag: "Success", lease, output: key }
        )
      )
      assert.isTrue(answers.every(({ _tag }) => _tag === "Success"))
      yield* assertConsistent
      assert.deepStrictEqual(yield* workAll(), [["c1", "c3"]])
      assert.deepStrictEqual(yield* Effect.forEach(runs, ({ id }) => runStatus(id)), [
        "SUCCEEDED",
        "COMPLETED_WITH_ERRORS",
        "SUCCEEDED"
      ])
    })
  )
})
