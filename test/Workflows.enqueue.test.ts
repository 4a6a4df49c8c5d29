/**
 * What an enqueue makes, what a retry of it finds, and what an active key keeps out.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Job, JobDefinitions, Jobs, TenantScope, Workflow, Workflows } from "../src/index.ts"
import { standing as transaction, waiting } from "./support/races.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import {
  assertConsistent,
  claim,
  codeOf,
  enqueue,
  gate,
  jobType,
  reasonOf,
  startOver,
  step,
  stepOf,
  workAll
} from "./support/workflows.ts"

const { admin, global } = TenantScope
const organization = "0197c000-0000-7000-8000-00000000000a"
const other = "0197c000-0000-7000-8000-00000000000b"

const request = (options: Partial<Workflows.WorkflowRequest> = {}): Workflows.WorkflowRequest => ({
  workflowType: "test",
  idempotencyKey: "key",
  steps: [step("a"), step("b"), step("c", { after: ["a"], afterTerminal: ["b"] })],
  ...options
})

const active = (options: Partial<Workflows.WorkflowRequest> = {}): Workflows.WorkflowRequest => ({
  workflowType: "test",
  activeKey: "key",
  steps: [step("a")],
  ...options
})

const runs = Workflows.count({ scope: admin })

it.layer(TestDatabase.layerWith({ maxConnections: 12 }), { timeout: "60 seconds" })("Workflows: enqueue", (it) => {
  const scenario = <E>(title: string, body: Effect.Effect<void, E, SqlClient>) =>
    it.effect(title, () => Effect.andThen(startOver, Effect.andThen(body, assertConsistent)))

  const same: ReadonlyArray<readonly [string, Workflows.WorkflowRequest, Workflows.WorkflowRequest]> = [
    [
      "19: steps and dependencies in another order",
      request(),
      request({
        steps: [
          step("c", {
            dependencies: [{ stepKey: "b" }, { stepKey: "a", releaseMode: "ON_SUCCESS" }]
          }),
          step("b"),
          step("a")
        ]
      })
    ],
    ["the default stage", request(), request({ steps: request().steps.map((s) => ({ ...s, stage: "queued" })) })],
    ["the default metadata", request(), request({ metadata: {} })],
    [
      "the default release mode",
      request(),
      request({
        steps: [
          step("a"),
          step("b"),
          step("c", {
            dependencies: [
              { stepKey: "a", releaseMode: "ON_SUCCESS" },
              { stepKey: "b", releaseMode: "ON_TERMINAL" }
            ]
          })
        ]
      })
    ],
    [
      "the organization of the run, in another case",
      request({ organizationId: organization }),
      request({
        organizationId: organization.toUpperCase(),
        steps: request().steps.map((s) => ({ ...s, organizationId: organization }))
      })
    ],
    ["numbers that are equal", request({ metadata: { n: 1 } }), request({ metadata: { n: 1 } })]
  ]
  for (const [title, first, second] of same) {
    scenario(
      `${title}: the same request`,
      Effect.gen(function* () {
        const inserted = yield* Workflows.enqueue(first)
        assert.strictEqual(inserted.disposition, "inserted")
        const existing = yield* Workflows.enqueue(second)
        assert.deepStrictEqual(existing, { ...existing, run: inserted.run, disposition: "existing" })
        assert.strictEqual(yield* runs, 1)
      })
    )
  }

  const one = (options: Parameters<typeof step>[1] = {}) => request({ steps: [step("a", options)] })
  const different: ReadonlyArray<readonly [string, Workflows.WorkflowRequest, ReadonlyArray<string>]> = [
    ["20: the priority that is the default", one({ priority: 0 }), ["steps.priority"]],
    ["attempts that are the default", one({ maxAttempts: 1 }), ["steps.max_attempts"]],
    ["a timeout", one({ timeout: "300 seconds" }), ["steps.timeout_seconds"]],
    ["a payload", one({ payload: null }), ["steps.payload"]],
    ["a stage", one({ stage: "scheduled" }), ["steps.stage"]],
    ["a resource", one({ executionResourceKey: "r" }), ["steps.execution_resource_key"]],
    ["continuations", one({ allowHandlerContinuation: true }), ["steps.allow_handler_continuation"]],
    ["an owner", one({ organizationId: organization }), ["steps.organization_id"]],
    ["a fan-out", one({ fanOut: { key: "f", index: 0 } }), ["steps.fan_out_index", "steps.fan_out_key"]],
    ["metadata", { ...one(), metadata: { a: 1 } }, ["metadata"]],
    ["a result step", { ...one(), resultStepKey: "a" }, ["result_step_key"]],
    ["one more step", { ...one(), steps: [step("a"), step("b")] }, ["steps"]],
    ["another key of a step", { ...one(), steps: [step("b", { payload: { step: "a" } })] }, ["steps"]]
  ]
  for (const [title, second, fields] of different) {
    scenario(
      `${title}: another request`,
      Effect.gen(function* () {
        const { run } = yield* Workflows.enqueue(one())
        const reason = yield* reasonOf(Workflows.enqueue(second))
        assert(reason._tag === "WorkflowIdempotencyConflict")
        assert.strictEqual(reason.workflowRunId, run.id)
        assert.deepStrictEqual(reason.fields, fields)
        assert.strictEqual(yield* runs, 1)
      })
    )
  }

  scenario(
    "a key belongs to one type and one organization, and is not given back",
    Effect.gen(function* () {
      const { run } = yield* Workflows.enqueue(request())
      yield* workAll()
      assert.strictEqual((yield* Workflows.enqueue(request())).run.id, run.id)
      for (const options of [{ workflowType: "other" }, { organizationId: organization }, { organizationId: other }]) {
        assert.strictEqual((yield* Workflows.enqueue(request(options))).disposition, "inserted")
      }
      assert.strictEqual(yield* runs, 4)
    })
  )

  scenario(
    "fifty with one key make one run",
    Effect.gen(function* () {
      const all = yield* Effect.forEach(Array.from({ length: 50 }), () => Workflows.enqueue(request()), {
        concurrency: "unbounded"
      })
      assert.strictEqual(new Set(all.map(({ run }) => run.id)).size, 1)
      assert.strictEqual(all.filter(({ disposition }) => disposition === "inserted").length, 1)
      assert.strictEqual(yield* runs, 1)
    })
  )

  for (const end of ["COMMIT", "ROLLBACK"] as const) {
    scenario(
      `a key that an open transaction has used is waited for, until its ${end}`,
      Effect.scoped(
        Effect.gen(function* () {
          const release = yield* transaction(Workflows.enqueue(request()), end)
          const waits = yield* Effect.forkChild(Workflows.enqueue(request()))
          yield* waiting(1)
          yield* release
          const { disposition } = yield* Fiber.join(waits)
          assert.strictEqual(disposition, end === "COMMIT" ? "existing" : "inserted")
          assert.strictEqual(yield* runs, 1)
        })
      )
    )
  }

  scenario(
    "21: a key needs READ COMMITTED, and none does not",
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const told = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`
          yield* Workflows.enqueue(request({ idempotencyKey: undefined }))
          return yield* codeOf(Workflows.enqueue(request()))
        })
      )
      assert.strictEqual(told, "workflow.enqueue_idempotency_unsupported_isolation")
      assert.strictEqual(yield* runs, 1)
    })
  )

  scenario(
    "of a caller's transaction that rolls back nothing is left",
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const exit = yield* Effect.exit(
        sql.withTransaction(
          Effect.gen(function* () {
            yield* Workflows.enqueue(request())
            yield* Workflows.enqueueOrGetActive(active())
            return yield* Effect.fail("no")
          })
        )
      )
      assert.isTrue(Exit.isFailure(exit))
      assert.strictEqual(yield* runs, 0)
      const left = yield* sql`
        SELECT FROM runledger.workflow_active_claims
        UNION ALL SELECT FROM runledger.workflow_steps
        UNION ALL SELECT FROM runledger.job_queue`
      assert.strictEqual(left.length, 0)
    })
  )

  scenario(
    "of a contract and a declaration the newer decides, and where there is no declaration the contract",
    Effect.gen(function* () {
      const contract = (jobType: string, version: number) =>
        Job.make(jobType, { payload: {}, version, priority: 7, maxAttempts: 4, timeout: "20 seconds" })
      yield* JobDefinitions.upsert("decided.older", { priority: 1, maxAttempts: 2, timeout: "10 seconds", version: 1 })
      yield* JobDefinitions.upsert("decided.same", { priority: 1, maxAttempts: 2, timeout: "10 seconds", version: 2 })
      const own = { priority: -5, maxAttempts: 9, timeout: "30 seconds" } as const
      const undeclared = contract("decided.nowhere", 1)
      const workflow = Workflow.make("decided")
        .step("older", contract("decided.older", 2), {})
        .step("same", contract("decided.same", 2), {})
        .each("nowhere", undeclared, [{}, {}])
        .step("own", undeclared, {}, own)
        .step("later", contract("decided.older", 2), {}, { after: ["older"] })
      const { run } = yield* Workflows.enqueue(workflow)
      const decided = Effect.map(Workflows.steps(admin, run.id), (steps) =>
        Object.fromEntries(
          steps.map(({ maxAttempts, priority, stepKey, timeoutSeconds }) => [
            stepKey,
            [priority, maxAttempts, timeoutSeconds].map(Option.getOrNull)
          ])
        )
      )
      assert.deepStrictEqual(yield* decided, {
        older: [7, 4, 20],
        same: [1, 2, 10],
        "nowhere[0]": [7, 4, 20],
        "nowhere[1]": [7, 4, 20],
        own: [-5, 9, 30],
        later: [7, 4, 20]
      })
      yield* JobDefinitions.update("decided.same", { isEnabled: false })
      assert.deepInclude(yield* reasonOf(Workflows.enqueue(workflow)), { stepKey: "same", state: "disabled" })
      // nobody vouches for a type without a contract
      const dynamic = { ...step("d"), jobType: "decided.never" }
      assert.deepInclude(yield* reasonOf(Workflows.enqueue(request({ steps: [step("a"), dynamic] }))), {
        stepKey: "d",
        state: "missing"
      })
    })
  )

  scenario(
    "what a step leaves out is decided by its definition, else by its contract's version, and stored with it",
    Effect.gen(function* () {
      yield* JobDefinitions.update(jobType, { maxAttempts: 7, timeout: "11 seconds", priority: 5 })
      const { run } = yield* Workflows.enqueue(
        request({
          organizationId: organization,
          steps: [
            step("a", { payload: null, payloadVersion: 3 }),
            step("b", {
              priority: -1,
              maxAttempts: 2,
              timeout: "1500 millis",
              organizationId: other,
              stage: "scheduled"
            }),
            gate("g", { organizationId: other }),
            step("f[0]", { fanOut: { key: "f", index: 0 } })
          ]
        })
      )
      const pick = Effect.fnUntraced(function* (key: string) {
        const found = yield* stepOf(run.id, key)
        const job = Option.isNone(found.jobId) ? undefined : yield* Jobs.get(admin, found.jobId.value)
        const settings = [
          ...[found.priority, found.maxAttempts, found.timeoutSeconds].map(Option.getOrNull),
          Option.getOrNull(found.stage)
        ]
        if (job !== undefined && Option.isSome(job)) {
          const { priority, maxAttempts, timeoutSeconds, stage, payload, organizationId } = job.value
          assert.deepStrictEqual([priority, maxAttempts, timeoutSeconds, stage], settings)
          assert.deepStrictEqual([payload, organizationId], [found.payload, found.organizationId])
        }
        return [...settings, found.payloadVersion, Option.getOrNull(found.organizationId)]
      })
      assert.deepStrictEqual(yield* pick("a"), [5, 7, 11, "queued", 3, organization])
      assert.isNull((yield* stepOf(run.id, "a")).payload)
      assert.deepStrictEqual(yield* pick("b"), [-1, 2, 2, "scheduled", 1, other])
      assert.deepStrictEqual(yield* pick("g"), [null, null, null, null, 1, other])
      const member = yield* stepOf(run.id, "f[0]")
      assert.deepStrictEqual(
        Option.map(member.fanOut, ({ key, index }) => [key, index]),
        Option.some(["f", 0])
      )
      const { jobId } = yield* stepOf(run.id, "b")
      const [event] = yield* Jobs.events(admin, Option.getOrThrow(jobId))
      assert.deepInclude(event, { type: "ENQUEUED", runNumber: 1 })
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Active keys
  // -------------------------------------------------------------------------------------------------------------------

  scenario(
    "an active key keeps others out, whatever their type, until its run has ended",
    Effect.gen(function* () {
      const first = yield* Workflows.enqueueOrGetActive(active())
      assert.strictEqual(first.disposition, "inserted")
      const second = yield* Workflows.enqueueOrGetActive(active({ workflowType: "other" }))
      assert.deepStrictEqual([second.disposition, second.run.id], ["active", first.run.id])
      const elsewhere = yield* Workflows.enqueueOrGetActive(
        active({ organizationId: organization, steps: [step("b")] })
      )
      assert.strictEqual(elsewhere.disposition, "inserted")
      yield* workAll()
      const next = yield* Workflows.enqueueOrGetActive(active({ workflowType: "other" }))
      assert.strictEqual(next.disposition, "inserted")
    })
  )

  scenario(
    "an idempotency key comes before an active one",
    Effect.gen(function* () {
      const first = yield* Workflows.enqueueOrGetActive(active({ idempotencyKey: "1" }))
      yield* workAll()
      const second = yield* Workflows.enqueueOrGetActive(active())
      assert.strictEqual(second.disposition, "inserted")
      const retry = yield* Workflows.enqueueOrGetActive(active({ idempotencyKey: "1" }))
      assert.deepStrictEqual([retry.disposition, retry.run.id], ["existing", first.run.id])
    })
  )

  scenario(
    "a hundred with one active key make one run",
    Effect.gen(function* () {
      const all = yield* Effect.forEach(Array.from({ length: 100 }), () => Workflows.enqueueOrGetActive(active()), {
        concurrency: "unbounded"
      })
      assert.strictEqual(new Set(all.map(({ run }) => run.id)).size, 1)
      assert.strictEqual(all.filter(({ disposition }) => disposition === "inserted").length, 1)
    })
  )

  scenario(
    "16, 17: a canceled run keeps its key while its handler may be at work, and the reaper gives it back",
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { run } = yield* Workflows.enqueueOrGetActive(active())
      yield* claim()
      const canceled = yield* Workflows.cancel(global, run.id)
      assert.strictEqual(canceled.status, "CANCELED")
      assert.deepStrictEqual(yield* sql`SELECT release_pending FROM runledger.workflow_active_claims`, [
        { release_pending: true }
      ])
      const held = yield* Workflows.enqueueOrGetActive(active())
      assert.deepStrictEqual([held.disposition, held.run.status], ["active", "CANCELED"])
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.strictEqual((yield* Workflows.enqueueOrGetActive(active())).disposition, "active")
      yield* sql`UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() - interval '1 second'`
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.strictEqual((yield* Workflows.enqueueOrGetActive(active())).disposition, "inserted")
    })
  )

  scenario(
    "what begins at once does so in the order of the request, whatever the keys",
    Effect.gen(function* () {
      const keys = ["c", "a", "d", "b"]
      const run = yield* enqueue([gate("g"), ...keys.map((key) => step(key)), step("after", { after: ["c"] })])
      const jobs = yield* Jobs.claim({ workerId: "worker", types: [jobType], limit: 10 })
      assert.deepStrictEqual(
        jobs.map(({ payload }) => payload),
        keys.map((key) => ({ step: key }))
      )
      const more = keys.map((key) => step(`${key}2`, key === "a" ? { after: ["d"] } : {}))
      yield* Workflows.append(global, run.id, { mutationKey: "m", windowStepKey: "g", steps: more })
      const appended = yield* Jobs.claim({ workerId: "worker", types: [jobType], limit: 10 })
      assert.deepStrictEqual(
        appended.map(({ payload }) => payload),
        ["c2", "d2", "b2"].map((key) => ({ step: key }))
      )
    })
  )

  scenario(
    "a run that is canceled with nobody at work gives its key back at once",
    Effect.gen(function* () {
      const { run } = yield* Workflows.enqueueOrGetActive(active())
      yield* Workflows.cancel(global, run.id)
      assert.strictEqual((yield* Workflows.enqueueOrGetActive(active())).disposition, "inserted")
    })
  )
})
