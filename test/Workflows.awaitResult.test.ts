import { assert, it } from "@effect/vitest"
import { Cause, DateTime, Effect, Exit, Fiber, Layer, Option, Schema, Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer } from "effect/sql/Statement"
import { Notifications, TenantScope, Workflow, Workflows } from "../src/index.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global } = TenantScope
const { Faults } = FaultySqlClient

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), ({ reason }) => reason)

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

const until = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  Effect.asVoid(Effect.repeat(condition, { until: (yes) => yes }))

const at = "2026-01-02T03:04:05Z"

interface Row {
  readonly status?: Workflows.RunStatus
  readonly organizationId?: string
  readonly resultStepKey?: string | null
  /** JSON text; null is none. */
  readonly result?: string | null
  readonly finishedAt?: string | null
}

const insert = ({ status = "RUNNING", organizationId, resultStepKey = "last", result, finishedAt }: Row = {}) =>
  SqlClient.use(
    (sql) => sql<{ id: string }>`
      INSERT INTO runledger.workflow_runs (
        workflow_type, organization_id, status, result_step_key, result, started_at, finished_at, created_at, updated_at
      )
      VALUES (
        'awaited', ${organizationId ?? null}::uuid, ${status}, ${resultStepKey}, ${result ?? null}::jsonb, ${at},
        ${finishedAt ?? null}::timestamptz, ${at}, ${at}
      )
      RETURNING id`
  ).pipe(Effect.map((rows) => Workflows.WorkflowRunId.make(only(rows).id)))

/** Ends the run, and says so unless told not to. */
const end = (id: string, { status = "SUCCEEDED", notify = true }: { status?: string; notify?: boolean } = {}) =>
  SqlClient.use(
    (sql) => sql`
      WITH ended AS (
        UPDATE runledger.workflow_runs
        SET status = ${status}, finished_at = ${at}, result = CASE WHEN ${status} = 'SUCCEEDED' THEN '{"n": 1}'::jsonb END
        WHERE id = ${id}::uuid
        RETURNING id, status
      )
      SELECT CASE WHEN ${notify}::boolean THEN pg_notify(
        'runledger_workflow_run_terminal', json_build_object('workflow_run_id', id, 'status', status)::text
      ) END
      FROM ended`
  )

/** Counts the statements that `self` sends. */
const counted = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const sent = { count: 0 }
  const counting = Effect.provideService(self, CurrentTransformer, (statement) => {
    sent.count += 1
    return Effect.succeed(statement)
  })
  return { sent, self: counting }
}

const sleep = (millis: number) => Effect.promise(() => new Promise<void>((resolve) => setTimeout(resolve, millis)))

/** Runs with a listener. */
const heard = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.provide(self, Notifications.layer)

/** How many connections listen. */
const listening = SqlClient.use(
  (sql) => sql<{ listening: number }>`
    SELECT count(*)::int4 AS listening FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LISTEN%'`
).pipe(Effect.map((rows) => only(rows).listening))

/** A run of a workflow whose result is `success`. */
const resulting = <S extends Schema.Codec<unknown, unknown>>(success: S, id: Workflows.WorkflowRunId) =>
  Workflows.handle(Workflow.make("awaited").external("last", { success }).result("last"), global, id)

/** How many of our connections are inside a statement or a transaction, beside the one that asks. */
const busy = SqlClient.use(
  (sql) => sql<{ busy: number }>`
    SELECT count(*)::int4 AS busy FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' AND backend_type = 'client backend'`
).pipe(Effect.map((rows) => only(rows).busy))

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Workflows.awaitResult", (it) => {
  it.effect("a run that has succeeded is one look-up", () =>
    Effect.gen(function* () {
      const organizationId = "01980000-0000-7000-8000-00000000000a"
      const id = yield* insert({ status: "SUCCEEDED", organizationId, result: '{"n": 1}', finishedAt: at })
      const { sent, self } = counted(Workflows.awaitResult(TenantScope.organization(organizationId), id))
      assert.deepStrictEqual(
        yield* self,
        new Workflows.WorkflowResult({
          workflowRunId: id,
          workflowType: "awaited",
          organizationId: Option.some(organizationId),
          resultStepKey: "last",
          result: { n: 1 },
          finishedAt: DateTime.makeUnsafe(at)
        })
      )
      assert.strictEqual(sent.count, 1)
      for (const scope of [global, TenantScope.organization(crypto.randomUUID())]) {
        assert.strictEqual((yield* refusal(Workflows.awaitResult(scope, id))).code, "workflow.run_not_found")
      }
      assert.deepStrictEqual((yield* Workflows.awaitResult(admin, id)).result, { n: 1 })
    })
  )

  const refused: ReadonlyArray<readonly [string, Row]> = [
    ["workflow.result_not_declared", { resultStepKey: null }],
    ["workflow.result_not_declared", { resultStepKey: null, status: "CANCELED" }],
    ["workflow.result_not_declared", { resultStepKey: null, status: "SUCCEEDED", finishedAt: at }],
    ["workflow.result_unsuccessful_terminal", { status: "COMPLETED_WITH_ERRORS", finishedAt: at }],
    ["workflow.result_unsuccessful_terminal", { status: "CANCELED", finishedAt: at }],
    ["workflow.result_missing", { status: "SUCCEEDED", finishedAt: at }],
    ["workflow.result_missing", { status: "SUCCEEDED" }],
    ["workflow.handle_internal_state", { status: "SUCCEEDED", result: "1" }]
  ]
  it.effect.each(refused)("%s of %j, at once", ([code, row]) =>
    Effect.gen(function* () {
      const id = yield* insert(row)
      const { sent, self } = counted(refusal(Workflows.awaitResult(global, id, { timeout: "Infinity" })))
      const reason = yield* self
      assert.strictEqual(reason.code, code)
      if (reason._tag === "UnsuccessfulRun") assert.strictEqual(reason.status, row.status)
      assert.strictEqual(sent.count, 1)
    })
  )

  it.effect("null is a result", () =>
    Effect.gen(function* () {
      const id = yield* insert({ status: "SUCCEEDED", result: "null", finishedAt: at })
      assert.strictEqual((yield* Workflows.awaitResult(global, id)).result, null)
      assert.strictEqual(yield* Workflows.awaitResult(resulting(Schema.Void, id)), undefined)
    })
  )

  it.effect("a codec decodes the result, or says that it does not", () =>
    Effect.gen(function* () {
      const id = yield* insert({ status: "SUCCEEDED", result: `{"on": "${at}"}`, finishedAt: at })
      const decoded = yield* Workflows.awaitResult(resulting(Schema.Struct({ on: Schema.DateTimeUtc }), id))
      assert.isTrue(DateTime.isDateTime(decoded.on))
      const reason = yield* refusal(Workflows.awaitResult(resulting(Schema.Int, id)))
      assert.strictEqual(reason.code, "workflow.result_undecodable")
      assert.notInclude(JSON.stringify(reason), at)
    })
  )

  it.effect("zero is one look-up; without an end the wait is over when its time is", () =>
    Effect.gen(function* () {
      for (const status of ["RUNNING", "WAITING_FOR_EXTERNAL"] as const) {
        const id = yield* insert({ status })
        const { sent, self } = counted(refusal(Workflows.awaitResult(global, id, { timeout: 0 })))
        assert.strictEqual((yield* self).code, "workflow.result_wait_timeout")
        assert.strictEqual(sent.count, 1)
        // the test clock stands still
        const later = counted(
          refusal(Workflows.awaitResult(global, id, { timeout: "100 millis", pollInterval: "1 hour" }))
        )
        const began = performance.now()
        assert.strictEqual((yield* later.self)._tag, "ResultWaitTimeout")
        assert.isAtLeast(performance.now() - began, 95)
        // at once, and when the time is over; a busy machine may look in between
        assert.isAtLeast(later.sent.count, 2)
      }
      const done = yield* insert({ status: "SUCCEEDED", result: "1", finishedAt: at })
      assert.strictEqual((yield* Workflows.awaitResult(global, done, { timeout: 0 })).result, 1)
    })
  )

  it.effect("a result that was committed just before the deadline is returned", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const fiber = yield* Effect.forkChild(
        Workflows.awaitResult(global, id, { timeout: "500 millis", pollInterval: "1 hour" })
      )
      yield* sleep(300)
      yield* end(id)
      assert.deepStrictEqual((yield* Fiber.join(fiber)).result, { n: 1 })
    })
  )

  it.effect("without a listener, or if the notification is lost, polling finds the end", () =>
    Effect.gen(function* () {
      const [one, other] = [yield* insert(), yield* insert()]
      const options = { timeout: "30 seconds", pollInterval: "20 millis" } as const
      const deaf = yield* Effect.forkChild(Workflows.awaitResult(global, one, options))
      const missed = yield* Effect.forkChild(heard(Workflows.awaitResult(global, other, options)))
      yield* sleep(100)
      yield* end(one)
      yield* end(other, { notify: false })
      assert.deepStrictEqual((yield* Fiber.join(deaf)).result, { n: 1 })
      assert.deepStrictEqual((yield* Fiber.join(missed)).result, { n: 1 })
    })
  )

  it.effect("a hundred waiters wake by one notification, and hold no connection until then", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const never = { timeout: "Infinity", pollInterval: "1 hour" } as const
      const upper = Workflows.WorkflowRunId.make(id.toUpperCase())
      const { sent, self } = counted(
        Effect.forEach(
          Array.from({ length: 100 }),
          (_, i) => Workflows.awaitResult(global, i % 2 ? id : upper, never),
          {
            concurrency: "unbounded"
          }
        )
      )
      const fiber = yield* Effect.forkChild(heard(self))
      // each has looked, and looked again if the listener came later
      yield* until(Effect.map(sleep(100), () => sent.count >= 100))
      yield* sleep(300)
      assert.strictEqual(yield* busy, 0)
      assert.strictEqual(yield* listening, 1)
      const before = sent.count
      const other = yield* insert()
      yield* end(other, { status: "CANCELED" })
      yield* sleep(100)
      assert.strictEqual(sent.count, before, "what others say wakes nobody")
      yield* end(id)
      assert.strictEqual((yield* Fiber.join(fiber)).length, 100)
      assert.strictEqual(sent.count, before + 100)
    })
  )

  it.effect("a run that was canceled wakes its waiters too", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const fiber = yield* Effect.forkChild(
        heard(refusal(Workflows.awaitResult(global, id, { timeout: "Infinity", pollInterval: "1 hour" })))
      )
      yield* sleep(300)
      yield* end(id, { status: "CANCELED" })
      assert.deepStrictEqual((yield* Fiber.join(fiber)).code, "workflow.result_unsuccessful_terminal")
    })
  )

  it.effect("a listener that ends leaves its waiters to polling", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const scope = yield* Scope.make()
      const listening = yield* Scope.provide(Layer.build(Notifications.layer), scope)
      const fiber = yield* Workflows.awaitResult(global, id, { pollInterval: "50 millis" }).pipe(
        Effect.provideContext(listening),
        Effect.forkChild
      )
      yield* sleep(100)
      yield* Scope.close(scope, Exit.void)
      yield* sleep(100)
      yield* end(id)
      assert.deepStrictEqual((yield* Fiber.join(fiber)).result, { n: 1 })
    })
  )

  it.effect("a waiter can be interrupted, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const { sent, self } = counted(
        Workflows.awaitResult(global, id, { timeout: "Infinity", pollInterval: "20 millis" })
      )
      const fiber = yield* Effect.forkChild(heard(self))
      yield* until(Effect.map(sleep(10), () => sent.count > 2))
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      const before = sent.count
      yield* sleep(100)
      assert.strictEqual(sent.count, before)
    })
  )

  it.effect("a run that is deleted meanwhile is not found", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const fiber = yield* Effect.forkChild(refusal(Workflows.awaitResult(global, id, { pollInterval: "20 millis" })))
      yield* sleep(50)
      yield* SqlClient.use((sql) => sql`DELETE FROM runledger.workflow_runs WHERE id = ${id}::uuid`)
      assert.strictEqual((yield* Fiber.join(fiber)).code, "workflow.run_not_found")
    })
  )

  it.effect("arguments are checked before anything is sent", () =>
    Effect.gen(function* () {
      const id = Workflows.WorkflowRunId.make(crypto.randomUUID())
      const cast = <A>(value: unknown) => value as A
      const invalid: ReadonlyArray<
        readonly [string, Effect.Effect<unknown, QueryError<Workflows.AwaitReason>, SqlClient>]
      > = [
        ["runId", Workflows.awaitResult(global, cast("x"))],
        ["scope.organizationId", Workflows.awaitResult(TenantScope.organization("x"), id)],
        ["timeout", Workflows.awaitResult(global, id, { timeout: -1 })],
        ["timeout", Workflows.awaitResult(global, id, { timeout: "-Infinity" })],
        ["timeout", Workflows.awaitResult(global, id, { timeout: cast("soon") })],
        ["pollInterval", Workflows.awaitResult(global, id, { pollInterval: 0 })],
        ["pollInterval", Workflows.awaitResult(global, id, { pollInterval: "Infinity" })],
        ["pollInterval", Workflows.awaitResult(global, id, { pollInterval: cast("often") })]
      ]
      for (const [i, [argument, self]] of invalid.entries()) {
        const one = counted(refusal(self))
        const reason = yield* one.self
        assert.strictEqual(reason._tag === "InvalidArgument" ? reason.argument : reason._tag, argument, `${i}`)
        assert.strictEqual(one.sent.count, 0)
      }
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 1 }), { timeout: "60 seconds" })("with a single connection", (it) => {
  it.effect("many wait while others work", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const waiting = Workflows.awaitResult(global, id, { timeout: "30 seconds", pollInterval: "10 millis" })
      const fibers = yield* Effect.forEach(Array.from({ length: 20 }), () => Effect.forkChild(waiting))
      yield* sleep(100)
      yield* end(id)
      for (const fiber of fibers) assert.deepStrictEqual((yield* Fiber.join(fiber)).result, { n: 1 })
    })
  )

  it.effect("while somebody holds it, the wait is over when its time is", () =>
    Effect.gen(function* () {
      const id = yield* insert()
      const sql = yield* SqlClient
      const holder = yield* Effect.forkChild(Effect.scoped(Effect.andThen(sql.reserve, Effect.never)))
      yield* sleep(50)
      const began = performance.now()
      const reason = yield* refusal(Workflows.awaitResult(global, id, { timeout: "100 millis" }))
      assert.strictEqual(reason._tag, "ResultWaitTimeout")
      assert.isBelow(performance.now() - began, 1500)
      yield* Fiber.interrupt(holder)
      yield* end(id)
      assert.deepStrictEqual((yield* Workflows.awaitResult(global, id, { timeout: 0 })).result, { n: 1 })
    })
  )
})

it.layer(Layer.provide(FaultySqlClient.layer(), TestDatabase.layer), { timeout: "60 seconds" })("outages", (it) => {
  const match = /FROM runledger.workflow_runs/
  const looking = { timeout: "30 seconds", pollInterval: "20 millis" } as const

  it.effect("a database that goes and comes back is waited for, from the first look-up on", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      const away = [
        { match, fault: FaultySqlClient.dropConnection("before"), times: 3 },
        { match, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState("57P01")), times: 3 }
      ] as const
      for (const pause of [0, 60]) {
        const id = yield* insert()
        const waiting = Workflows.awaitResult(global, id, looking)
        if (pause === 0) yield* faults.arm(away)
        const fiber = yield* Effect.forkChild(waiting)
        yield* sleep(pause)
        if (pause > 0) yield* faults.arm(away)
        yield* sleep(150)
        assert.strictEqual(fiber.pollUnsafe(), undefined)
        yield* faults.disarm
        yield* end(id)
        assert.deepStrictEqual((yield* Fiber.join(fiber)).result, { n: 1 })
      }
    })
  )

  it.effect("one that stays away shows when the time is over; one that does not answer takes no longer", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      const id = yield* insert()
      const short = { timeout: "100 millis", pollInterval: "20 millis" } as const
      yield* faults.arm([{ match, fault: FaultySqlClient.dropConnection("before"), times: 1000 }])
      assert.strictEqual((yield* refusal(Workflows.awaitResult(global, id, short)))._tag, "Unavailable")
      yield* faults.arm([{ match, fault: FaultySqlClient.hang(), times: 1000 }])
      const began = performance.now()
      assert.strictEqual((yield* refusal(Workflows.awaitResult(global, id, short)))._tag, "ResultWaitTimeout")
      assert.isBelow(performance.now() - began, 1500)
      yield* faults.disarm
    })
  )

  it.effect("what will not pass fails at once", () =>
    Effect.gen(function* () {
      const faults = yield* Faults
      const id = yield* insert()
      for (const [state, tag] of [
        ["42501", "PermissionDenied"],
        ["42P01", "QueryFailed"]
      ] as const) {
        yield* faults.arm([{ match, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState(state)) }])
        assert.strictEqual((yield* refusal(Workflows.awaitResult(global, id, looking)))._tag, tag)
      }
      yield* faults.disarm
    })
  )

  it.effect("a transaction that lost its connection is not waited for", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const faults = yield* Faults
      const id = yield* insert()
      yield* faults.arm([{ match, fault: FaultySqlClient.dropConnection("before") }])
      const waiting = refusal(Workflows.awaitResult(global, id, { timeout: "Infinity" }))
      const reason = yield* Effect.exit(sql.withTransaction(Effect.flatMap(waiting, Effect.fail)))
      yield* faults.disarm
      assert.isTrue(Exit.isFailure(reason) && JSON.stringify(reason.cause).includes("Unavailable"))
    })
  )
})
