/**
 * What may be done to a run from outside: append, external completion, cancellation, correction, recovery.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Jobs, TenantScope, Workflows } from "../src/index.ts"
import { prerequisitesOf } from "../src/workflows/prerequisites.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import {
  assertConsistent,
  claim,
  codeOf,
  enqueue,
  gate,
  leaseOf,
  reasonOf,
  runStatus,
  standing,
  startOver,
  statuses,
  step,
  stepOf,
  whileOther,
  whileRunIsHeld,
  work,
  workAll
} from "./support/workflows.ts"

const { admin, global } = TenantScope
const organization = "0197c000-0000-7000-8000-00000000000a"
const tenant = TenantScope.organization(organization)
const succeeded = { status: "SUCCEEDED" } as const

const append = (
  runId: Workflows.WorkflowRunId,
  steps: ReadonlyArray<Workflows.StepRequest>,
  options: Partial<Workflows.AppendOptions> = {}
) => Workflows.append(global, runId, { mutationKey: "m", windowStepKey: "window", steps, ...options })

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Workflows: changes from outside", (it) => {
  const scenario = <E>(title: string, body: Effect.Effect<void, E, SqlClient>) =>
    it.effect(title, () => Effect.andThen(startOver, Effect.andThen(body, assertConsistent)))

  scenario(
    "8, 9: a gate is completed once, and again in the same way it stays as it is",
    Effect.gen(function* () {
      const run = yield* enqueue([gate("g"), step("b", { after: ["g"] })])
      const outcome = { ...succeeded, output: { ok: 1 }, reason: "signed", errorCode: "c", errorMessage: "m" }
      const complete = Workflows.completeExternal(global, run.id, "g", outcome)
      const done = yield* complete
      assert.deepInclude(yield* standing(run.id, "g"), {
        status: "SUCCEEDED",
        reason: "signed",
        code: "c",
        message: "m",
        output: { ok: 1 }
      })
      assert.deepStrictEqual(yield* complete, done)
      assert.deepStrictEqual(yield* statuses(run.id), { g: "SUCCEEDED", b: "ENQUEUED" })
    })
  )

  scenario(
    "9: completed in another way, with another output or other texts, it is a conflict, and stays as it is",
    Effect.gen(function* () {
      const run = yield* enqueue([gate("g")])
      const complete = (outcome: Workflows.ExternalOutcome) => Workflows.completeExternal(global, run.id, "g", outcome)
      const done = yield* complete({ ...succeeded, output: 1, reason: "signed" })
      const completion = "workflow.external_step_conflicting_completion_retry"
      const output = "workflow.external_step_conflicting_output_retry"
      assert.strictEqual(yield* codeOf(complete({ status: "CANCELED", reason: "signed" })), completion)
      assert.strictEqual(yield* codeOf(complete({ ...succeeded, output: 1 })), completion)
      assert.strictEqual(yield* codeOf(complete({ ...succeeded, reason: "signed" })), output)
      assert.deepStrictEqual(yield* complete({ ...succeeded, output: 1.0, reason: "signed" }), done)
    })
  )

  scenario(
    "10: a gate whose prerequisites are open is not waiting; then it is",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), gate("g", { after: ["a"] })])
      const complete = Workflows.completeExternal(global, run.id, "g", { status: "FAILED" })
      assert.strictEqual(yield* codeOf(complete), "workflow.external_step_not_waiting")
      yield* work()
      assert.strictEqual(yield* runStatus(run.id), "WAITING_FOR_EXTERNAL")
      yield* complete
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
    })
  )

  scenario(
    "11: append through an open gate: what can never run is born canceled, and so is what needs it",
    Effect.gen(function* () {
      const run = yield* enqueue([step("failed"), gate("window")])
      yield* work(["failed"])
      const { steps, disposition } = yield* append(run.id, [
        step("needs-it", { after: ["never"] }),
        step("never", { after: ["failed"] }),
        step("cleanup", { afterTerminal: ["never"] }),
        step("at-once", { afterTerminal: ["failed"] })
      ])
      assert.strictEqual(disposition, "inserted")
      assert.deepStrictEqual(
        steps.map(({ stepKey, status }) => [stepKey, status]),
        [
          ["needs-it", "CANCELED"],
          ["never", "CANCELED"],
          ["cleanup", "ENQUEUED"],
          ["at-once", "ENQUEUED"]
        ]
      )
      assert.strictEqual((yield* standing(run.id, "never")).reason, "workflow.dependency_unsatisfied")
      assert.strictEqual(yield* runStatus(run.id), "RUNNING")
      yield* assertConsistent
      assert.deepStrictEqual(yield* workAll(), [["at-once", "cleanup"]])
    })
  )

  scenario(
    "12, 13, 14: an append is found again after its window was closed, whatever its metadata; other steps are a conflict",
    Effect.gen(function* () {
      const run = yield* enqueue([gate("window")])
      yield* append(run.id, [step("a")])
      yield* Workflows.completeExternal(global, run.id, "window", succeeded)
      yield* workAll()
      const again = yield* append(run.id, [step("a")], { metadata: { other: true } })
      assert.strictEqual(again.disposition, "existing")
      assert.deepStrictEqual(
        again.steps.map(({ stepKey, status }) => [stepKey, status]),
        [["a", "SUCCEEDED"]]
      )
      assert.strictEqual(yield* codeOf(append(run.id, [step("b")])), "workflow.append_conflicting_retry")
    })
  )

  scenario(
    "15: an append waits for whoever holds the run, for the caller's own time; there is no conflict to retry",
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const run = yield* enqueue([gate("window")])
      const told = yield* whileRunIsHeld(
        run.id,
        sql.withTransaction(Effect.andThen(sql`SET LOCAL lock_timeout = '10ms'`, codeOf(append(run.id, [step("a")]))))
      )
      assert.strictEqual(told, "db.unavailable")
      yield* Workflows.cancel(global, run.id)
      assert.strictEqual(yield* codeOf(append(run.id, [step("a")])), "workflow.append_window_not_open")
    })
  )

  scenario(
    "16: a cancellation ends every step, and what its handlers write later is refused",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b"), gate("g"), step("c", { after: ["a", "g"] })])
      const lease = leaseOf(yield* claim(1), "a")
      const canceled = yield* Workflows.cancel(admin, run.id, { reason: "why", errorCode: "c", errorMessage: "m" })
      assert.strictEqual(canceled.status, "CANCELED")
      const ended = { status: "CANCELED" as const, reason: "why", finished: true }
      for (const key of ["a", "b"])
        assert.deepInclude(yield* standing(run.id, key), { ...ended, code: null, message: null })
      for (const key of ["g", "c"])
        assert.deepInclude(yield* standing(run.id, key), { ...ended, code: "c", message: "m" })
      assert.strictEqual(yield* codeOf(Jobs.completeSuccess(lease)), "job.lease_owner_mismatch")
      assert.strictEqual(yield* codeOf(Jobs.heartbeat(lease)), "job.lease_owner_mismatch")
      const events = yield* Jobs.events(admin, lease.jobId)
      assert.strictEqual(events.filter(({ type }) => type === "CANCELED").length, 1)
      assert.deepStrictEqual(yield* workAll(), [])
    })
  )

  scenario(
    "18: a run that has ended is canceled no more",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a")])
      yield* workAll()
      const found = Option.getOrThrow(yield* Workflows.get(admin, run.id))
      assert.deepStrictEqual(yield* Workflows.cancel(global, run.id), found)
    })
  )

  scenario(
    "25, 26, 27: a recovery replays the graph as it was in the end, once for each key, for its owner alone",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), gate("window")], { resultStepKey: "a", idempotencyKey: "once" })
      assert.isTrue(yield* Workflows.updatePendingPayload(global, run.id, "a", { step: "a", corrected: true }))
      yield* append(run.id, [step("late", { after: ["a"] })])
      yield* workAll(["a"])
      yield* Workflows.completeExternal(global, run.id, "window", succeeded)
      const request = { requestKey: "k", reason: "r" }
      assert.strictEqual(
        yield* codeOf(Workflows.recover(tenant, run.id, request)),
        "workflow.recovery_source_not_found"
      )
      const first = yield* Workflows.recover(global, run.id, request)
      assert.deepStrictEqual(yield* Workflows.recover(global, run.id, request), { ...first, disposition: "existing" })
      const [id, key] = [first.run.id, first.run.idempotencyKey]
      assert.notStrictEqual(id, run.id)
      assert.deepStrictEqual(key, Option.none())
      assert.deepStrictEqual(yield* statuses(id), { a: "ENQUEUED", late: "BLOCKED", window: "WAITING_FOR_EXTERNAL" })
      assert.deepStrictEqual((yield* stepOf(id, "a")).payload, { step: "a", corrected: true })
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      yield* workAll()
      yield* Workflows.completeExternal(global, id, "window", succeeded)
      assert.strictEqual(yield* runStatus(id), "SUCCEEDED")
      const another = yield* Workflows.recover(global, id, request)
      assert.strictEqual(another.disposition, "inserted")
    })
  )

  scenario(
    "what a handler reads are the prerequisites of its step: before an append, after it, and in a recovery",
    Effect.gen(function* () {
      const graph = [
        step("z"),
        step("a", { after: ["z"] }),
        step("join", { after: ["z"], afterTerminal: ["a", "window"] }),
        gate("window")
      ]
      const late = [
        step("new", { after: ["z"] }),
        step("end", { after: ["new"], afterTerminal: ["join", "a"] }),
        step("alone")
      ]
      const read = Effect.fnUntraced(function* (runId: Workflows.WorkflowRunId) {
        const steps = yield* Workflows.steps(admin, runId)
        const jobs = steps.flatMap(({ stepKey, jobId }) =>
          Option.isSome(jobId) ? [[stepKey, jobId.value] as const] : []
        )
        const found = yield* Effect.forEach(jobs, ([, jobId]) => prerequisitesOf(jobId))
        return Object.fromEntries(
          jobs.map(([stepKey], n) => [stepKey, found[n]?.map((p) => [p.stepKey, p.status, p.output])] as const)
        )
      })
      const out = (key: string) => [key, "SUCCEEDED", `out:${key}`]
      const window = ["window", "SUCCEEDED", null]
      const expected = {
        z: [],
        a: [out("z")],
        join: [out("a"), window, out("z")],
        new: [out("z")],
        end: [out("a"), out("join"), out("new")],
        alone: []
      }
      const run = yield* enqueue(graph)
      yield* work()
      yield* append(run.id, late)
      yield* workAll()
      yield* Workflows.completeExternal(global, run.id, "window", succeeded)
      yield* workAll()
      assert.deepStrictEqual(yield* read(run.id), expected)
      const recovered = yield* Workflows.recover(global, run.id, { requestKey: "k", reason: "r" })
      yield* workAll()
      yield* Workflows.completeExternal(global, recovered.run.id, "window", succeeded)
      yield* workAll()
      assert.deepStrictEqual(yield* read(recovered.run.id), expected)
    })
  )

  scenario(
    "a recovery of an organization's run has its fan-out, its other organizations and all that was appended, in order",
    Effect.gen(function* () {
      const organizationId = organization
      const another = "0197c000-0000-7000-8000-00000000000b"
      const member = (key: string, index: number) => step(`${key}[${index}]`, { fanOut: { key, index } })
      const run = yield* enqueue(
        [
          ...[0, 1, 2].map((index) => member("part", index)),
          step("join", { afterTerminal: ["part[0]", "part[1]", "part[2]"], priority: 3, stage: "scheduled" }),
          step("theirs", { organizationId: another, maxAttempts: 2, allowHandlerContinuation: true }),
          gate("window", { after: ["theirs"] }),
          gate("other-window")
        ],
        { organizationId, resultStepKey: "join", metadata: { from: "test" } }
      )
      const add = (mutationKey: string, windowStepKey: string, steps: ReadonlyArray<Workflows.StepRequest>) =>
        Workflows.append(tenant, run.id, { mutationKey, windowStepKey, steps })
      yield* add("one", "other-window", [member("late", 1), member("late", 0)])
      yield* add("two", "other-window", [
        step("on-late", { after: ["late[0]"], afterTerminal: ["late[1]", "part[1]"] }),
        gate("third-window", { afterTerminal: ["on-late"] })
      ])
      yield* workAll(["part[1]"])
      yield* add("three", "window", [step("last", { after: ["on-late", "third-window"] })])
      yield* Effect.forEach(["window", "other-window", "third-window"], (key) =>
        Workflows.completeExternal(tenant, run.id, key, succeeded)
      )
      yield* workAll()
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      const request = { requestKey: "k", reason: "r" }
      assert.strictEqual(
        yield* codeOf(Workflows.recover(global, run.id, request)),
        "workflow.recovery_source_not_found"
      )
      const recovered = yield* Workflows.recover(tenant, run.id, request)
      assert.deepStrictEqual(recovered.run.organizationId, Option.some(organizationId))
      assert.deepStrictEqual(recovered.run.metadata, { from: "test" })
      const shape = Effect.fnUntraced(function* (id: Workflows.WorkflowRunId) {
        const steps = yield* Workflows.steps(tenant, id)
        const keyOf = new Map(steps.map((each) => [each.id, each.stepKey]))
        const edges = yield* Workflows.dependencies(tenant, id)
        return {
          steps: steps
            .map((each) => ({
              key: each.stepKey,
              kind: each.executionKind,
              type: each.jobType,
              organizationId: each.organizationId,
              payload: each.payload,
              settings: [
                each.priority,
                each.maxAttempts,
                each.timeoutSeconds,
                each.stage,
                each.allowHandlerContinuation
              ],
              fanOut: each.fanOut
            }))
            .sort((a, b) => (a.key < b.key ? -1 : 1)),
          edges: edges
            .map((edge) =>
              [keyOf.get(edge.prerequisiteStepId), keyOf.get(edge.dependentStepId), edge.releaseMode].join(" ")
            )
            .sort()
        }
      })
      const source = yield* shape(run.id)
      assert.strictEqual(source.steps.length, 12)
      assert.strictEqual(source.edges.length, 10)
      assert.deepStrictEqual(yield* shape(recovered.run.id), source)
      yield* workAll()
    })
  )

  scenario(
    "28: a recovery takes the active key, unless another run holds it",
    Effect.gen(function* () {
      const request = { workflowType: "test", activeKey: "k", steps: [step("a")] }
      const { run } = yield* Workflows.enqueueOrGetActive(request)
      yield* workAll()
      const { run: holder } = yield* Workflows.enqueueOrGetActive(request)
      const recovery = Workflows.recover(global, run.id, { requestKey: "k", reason: "r" })
      assert.strictEqual(yield* codeOf(recovery), "workflow.recovery_active_constraint")
      yield* Workflows.cancel(global, holder.id)
      const recovered = yield* recovery
      const held = yield* Workflows.enqueueOrGetActive(request)
      assert.deepStrictEqual([held.disposition, held.run.id], ["active", recovered.run.id])
    })
  )

  scenario(
    "a payload whose job somebody holds is not corrected, and that is said",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a")])
      const correct = Workflows.updatePendingPayload(global, run.id, "a", { step: "a", corrected: true })
      const held = SqlClient.use((sql) => sql`SELECT FROM runledger.job_queue FOR NO KEY UPDATE`)
      assert.deepInclude(yield* whileOther(held, reasonOf(correct)), { _tag: "Unavailable", origin: "busy" })
      assert.deepStrictEqual((yield* stepOf(run.id, "a")).payload, { step: "a" })
      assert.isTrue(yield* correct)
    })
  )

  scenario(
    "a payload is corrected while its job waits, and only then; keys are listed for whoever owns the run",
    Effect.gen(function* () {
      const run = yield* enqueue([step("a"), step("b", { after: ["a"] }), gate("g")])
      for (const key of ["b", "g", "nowhere"]) {
        assert.isFalse(yield* Workflows.updatePendingPayload(global, run.id, key, 1))
      }
      assert.isFalse(yield* Workflows.updatePendingPayload(tenant, run.id, "a", 1))
      yield* claim()
      assert.isFalse(yield* Workflows.updatePendingPayload(global, run.id, "a", 1))
      assert.deepStrictEqual([...(yield* Workflows.stepKeysForUpdate(global, run.id))].sort(), ["a", "b", "g"])
      assert.strictEqual(yield* codeOf(Workflows.stepKeysForUpdate(tenant, run.id)), "workflow.run_not_found")
    })
  )
})
