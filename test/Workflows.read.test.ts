import { assert, it } from "@effect/vitest"
import { Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Jobs, TenantScope, Workflows } from "../src/index.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const tenant = "01980000-0000-7000-8000-00000000000a"
const owners = [undefined, tenant]
const scopes: ReadonlyArray<{
  readonly title: string
  readonly scope: TenantScope.TenantScope
  readonly sees: ReadonlyArray<string | undefined>
}> = [
  { title: "global", scope: TenantScope.global, sees: [undefined] },
  { title: "an organization", scope: TenantScope.organization(tenant.toUpperCase()), sees: [tenant] },
  { title: "another organization", scope: TenantScope.organization(crypto.randomUUID()), sees: [] },
  { title: "admin", scope: TenantScope.admin, sees: owners }
]

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), ({ reason }) => reason)

const only = <A>(items: ReadonlyArray<A>): A => {
  const [item] = items
  if (item === undefined || items.length !== 1) throw new Error(`one item, not ${items.length}`)
  return item
}

const unique = (name: string) => `${name}-${crypto.randomUUID()}`

/** All rows of a test were written at the same instant. */
const at = "2026-01-02T03:04:05Z"

const run = Effect.fnUntraced(function* (
  type: string,
  {
    organizationId = null,
    status = "RUNNING",
    key = null
  }: { organizationId?: string | null | undefined; status?: Workflows.RunStatus; key?: string | null } = {}
) {
  const sql = yield* SqlClient
  const { id } = only(
    yield* sql<{ id: string }>`
      INSERT INTO runledger.workflow_runs (
        workflow_type, organization_id, status, steps_total, steps_open, steps_waiting, steps_unsuccessful,
        idempotency_key, enqueue_request, result_step_key, metadata, started_at, created_at, updated_at
      )
      VALUES (
        ${type}, ${organizationId}::uuid, ${status}, 7, 3, 2, 1, ${key}, '{}', 'last', '{"by": "test"}', ${at}, ${at}, ${at}
      )
      RETURNING id`
  )
  return Workflows.WorkflowRunId.make(id)
})

const step = Effect.fnUntraced(function* (runId: string, stepKey: string, organizationId: string | null = null) {
  const sql = yield* SqlClient
  const { id } = only(
    yield* sql<{ id: string }>`
      INSERT INTO runledger.workflow_steps (
        workflow_run_id, step_key, execution_kind, organization_id, payload, created_at, updated_at
      )
      VALUES (${runId}::uuid, ${stepKey}, 'EXTERNAL', ${organizationId}::uuid, '{"n": 1}', ${at}, ${at})
      RETURNING id`
  )
  return Workflows.WorkflowStepId.make(id)
})

const edge = (runId: string, prerequisite: string, dependent: string) =>
  SqlClient.use(
    (sql) => sql`
      INSERT INTO runledger.workflow_step_dependencies (workflow_run_id, prerequisite_step_id, dependent_step_id, created_at)
      VALUES (${runId}::uuid, ${prerequisite}::uuid, ${dependent}::uuid, ${at})`
  )

/** A job of a step of the run. */
const jobOf = Effect.fnUntraced(function* (runId: string | null) {
  const sql = yield* SqlClient
  const jobType = unique("job")
  yield* JobDefinitions.upsert(jobType)
  const { jobId } = yield* Jobs.enqueue(jobType, null)
  yield* sql`UPDATE runledger.job_queue SET workflow_run_id = ${runId}::uuid WHERE id = ${jobId}::uuid`
  return jobId
})

/** Every page of `read`, of every size that makes a difference. */
const pages = Effect.fnUntraced(function* <A, E, R>(
  total: number,
  read: (limit: number, last: A | undefined) => Effect.Effect<ReadonlyArray<A>, E, R>,
  check: (all: ReadonlyArray<A>) => void
) {
  for (let limit = 1; limit <= total + 1; limit++) {
    const seen: Array<A> = []
    for (;;) {
      const page = yield* read(limit, seen.at(-1))
      assert.strictEqual(page.length, Math.min(limit, total - seen.length))
      if (page.length === 0) break
      seen.push(...page)
    }
    check(seen)
  }
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("reads of workflows", (it) => {
  it.effect.each(scopes)("the scope of $title selects runs and what belongs to them", ({ scope, sees }) =>
    Effect.gen(function* () {
      const type = unique("scoped")
      const key = unique("key")
      const runs: Array<{ id: Workflows.WorkflowRunId; visible: boolean }> = []
      for (const organizationId of owners) {
        runs.push({ id: yield* run(type, { organizationId, key }), visible: sees.includes(organizationId) })
      }
      const expected = runs.flatMap(({ id, visible }) => (visible ? [id] : []))
      const ids = (records: ReadonlyArray<Workflows.WorkflowRunRecord>) => records.map(({ id }) => id)

      assert.deepStrictEqual(ids(yield* Workflows.list({ scope, workflowType: type })), expected.toReversed())
      const latest = yield* Workflows.latestByType(scope, type)
      assert.deepStrictEqual(Option.getOrUndefined(latest)?.id, expected.at(-1))
      assert.strictEqual(yield* Workflows.count({ scope, workflowType: type }), expected.length)
      const listed = (yield* Workflows.list({ scope })).filter(({ workflowType }) => workflowType === type)
      assert.deepStrictEqual(ids(listed), expected.toReversed())
      if (scope._tag !== "Admin") {
        const keyed = yield* Workflows.getByIdempotencyKey(scope, type, key)
        assert.deepStrictEqual(Option.getOrUndefined(keyed)?.id, expected[0])
        assert.deepStrictEqual(yield* Workflows.getByIdempotencyKey(scope, type, `${key}.`), Option.none())
        assert.deepStrictEqual(yield* Workflows.getByIdempotencyKey(scope, `${type}.`, key), Option.none())
      }
      for (const { id, visible } of runs) {
        // whose the step and its job are does not matter
        const [one, other] = [yield* step(id, "one", crypto.randomUUID()), yield* step(id, "other", tenant)]
        yield* edge(id, one, other)
        const job = yield* jobOf(id)
        assert.strictEqual(Option.isSome(yield* Workflows.get(scope, id)), visible)
        assert.deepStrictEqual(
          yield* Workflows.status(scope, id),
          visible ? Option.some("RUNNING" as const) : Option.none()
        )
        assert.deepStrictEqual(
          (yield* Workflows.steps(scope, id)).map(({ id }) => id),
          visible ? [one, other] : []
        )
        assert.strictEqual(Option.isSome(yield* Workflows.stepByKey(scope, id, "one")), visible)
        assert.deepStrictEqual(yield* Workflows.stepByKey(scope, id, "one "), Option.none())
        assert.strictEqual((yield* Workflows.dependencies(scope, id)).length, visible ? 1 : 0)
        assert.deepStrictEqual(yield* Workflows.runOfJob(scope, job), visible ? Option.some(id) : Option.none())
      }
    })
  )

  it.effect("what does not exist is none, or nothing", () =>
    Effect.gen(function* () {
      const scope = TenantScope.admin
      const id = Workflows.WorkflowRunId.make(crypto.randomUUID())
      assert.deepStrictEqual(yield* Workflows.get(scope, id), Option.none())
      assert.deepStrictEqual(yield* Workflows.status(scope, id), Option.none())
      assert.deepStrictEqual(yield* Workflows.steps(scope, id), [])
      assert.deepStrictEqual(yield* Workflows.dependencies(scope, id), [])
      assert.deepStrictEqual(yield* Workflows.latestByType(scope, unique("absent")), Option.none())
      assert.deepStrictEqual(yield* Workflows.runOfJob(scope, Jobs.JobId.make(id)), Option.none())
      assert.deepStrictEqual(yield* Workflows.runOfJob(scope, yield* jobOf(null)), Option.none())
    })
  )

  it.effect("a run has its counts, and not its request", () =>
    Effect.gen(function* () {
      const type = unique("record")
      const id = yield* run(type, { organizationId: tenant, key: "k" })
      const record = Option.getOrThrow(yield* Workflows.get(TenantScope.admin, id))
      assert.instanceOf(record, Workflows.WorkflowRunRecord)
      assert.deepStrictEqual({ ...record.steps }, { total: 7, open: 3, waiting: 2, unsuccessful: 1 })
      assert.deepStrictEqual(record.metadata, { by: "test" })
      assert.deepStrictEqual(record.organizationId, Option.some(tenant))
      assert.deepStrictEqual(record.idempotencyKey, Option.some("k"))
      assert.deepStrictEqual(record.resultStepKey, Option.some("last"))
      assert.deepStrictEqual(record.finishedAt, Option.none())
      assert.isFalse(record.isTerminal)
      assert.notProperty(record, "enqueueRequest")
    })
  )

  it.effect("a step of a job and an external one are read as they stand", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const id = yield* run(unique("steps"))
      yield* step(id, "gate")
      const job = yield* jobOf(id)
      yield* sql`
        INSERT INTO runledger.workflow_steps (
          workflow_run_id, step_key, fan_out_key, fan_out_index, job_type, payload_version, payload, priority, max_attempts,
          timeout_seconds, stage, allow_handler_continuation, execution_resource_key, status, job_id, output,
          last_error_code, started_at, finished_at, dependency_count_total, created_at, updated_at
        )
        VALUES (
          ${id}::uuid, 'crawl[1]', 'crawl', 1, 'crawl', 3, '[1]', -5, 2, 60, 'queued', true, 'host', 'SUCCEEDED',
          ${job}::uuid, '{"ok": true}', 'old', ${at}, ${at}, 4, ${at}, ${at}
        )`
      const [crawl, gate] = yield* Workflows.steps(TenantScope.global, id)
      assert.instanceOf(gate, Workflows.WorkflowStepRecord)
      assert.strictEqual(gate?.executionKind, "EXTERNAL")
      assert.strictEqual(gate?.status, "BLOCKED")
      assert.isFalse(gate?.isTerminal)
      assert.deepStrictEqual(
        [gate?.jobType, gate?.stage, gate?.jobId, gate?.fanOut, gate?.output],
        Array(5).fill(Option.none())
      )
      assert.deepStrictEqual(crawl?.fanOut, Option.some(new Workflows.FanOut({ key: "crawl", index: 1 })))
      assert.strictEqual(crawl?.payloadVersion, 3)
      assert.deepStrictEqual(crawl?.payload, [1])
      assert.deepStrictEqual(crawl?.output, Option.some({ ok: true }))
      assert.deepStrictEqual(crawl?.jobId, Option.some(job))
      assert.deepStrictEqual(crawl?.priority, Option.some(-5))
      assert.isTrue(crawl?.allowHandlerContinuation)
      assert.isTrue(crawl?.isTerminal)
      assert.deepStrictEqual(
        yield* Workflows.stepByKey(TenantScope.global, id, "crawl[1]"),
        Option.fromUndefinedOr(crawl)
      )
    })
  )

  it.effect("runs come newest first, by exact type and status, in pages without gaps and repeats", () =>
    Effect.gen(function* () {
      const type = unique("listed")
      const all: Array<Workflows.WorkflowRunId> = []
      for (const organizationId of [null, tenant, null, null, tenant, null]) {
        all.push(yield* run(type, { organizationId }))
      }
      const done = yield* run(type, { status: "SUCCEEDED" })
      const failed = yield* run(type, { status: "COMPLETED_WITH_ERRORS" })
      all.push(done, failed)
      // neighbours in the index of types
      for (const other of [`${type}.`, type.slice(0, -1), type.toUpperCase(), `%${type}`]) yield* run(other)
      const listed = (options: Omit<Workflows.ListOptions, "workflowType">) =>
        Effect.map(Workflows.list({ workflowType: type, ...options }), (runs) => runs.map(({ id }) => id))
      const newest = all.toReversed()
      const { admin } = TenantScope

      assert.deepStrictEqual(yield* listed({ scope: admin }), newest)
      assert.deepStrictEqual(yield* listed({ scope: admin, status: "SUCCEEDED" }), [done])
      assert.deepStrictEqual(yield* listed({ scope: admin, status: "COMPLETED_WITH_ERRORS" }), [failed])
      assert.deepStrictEqual(yield* listed({ scope: admin, status: "RUNNING" }), newest.slice(2))
      assert.deepStrictEqual(yield* listed({ scope: admin, status: "CANCELED" }), [])
      assert.strictEqual(yield* Workflows.count({ scope: admin, workflowType: type, status: "RUNNING" }), 6)
      assert.strictEqual(yield* Workflows.count({ scope: admin, workflowType: type }), 8)
      for (const [scope, total] of [
        [admin, 8],
        [TenantScope.global, 6],
        [TenantScope.organization(tenant), 2]
      ] as const) {
        const expected = yield* listed({ scope })
        assert.strictEqual(expected.length, total)
        yield* pages(
          total,
          (limit, before: Workflows.WorkflowRunId | undefined) => listed({ scope, limit, before }),
          (seen) => assert.deepStrictEqual(seen, expected)
        )
      }
      // over all types: the newest of the database are those of this test
      assert.deepStrictEqual(
        (yield* Workflows.list({ scope: admin, before: done, limit: 6 })).map(({ id }) => id),
        newest.slice(2)
      )
    })
  )

  it.effect("steps come by their keys, dependencies by their ends, in pages without gaps and repeats", () =>
    Effect.gen(function* () {
      const [id, other] = [yield* run(unique("paged")), yield* run(unique("paged"))]
      const ids: Array<Workflows.WorkflowStepId> = []
      for (let n = 0; n < 5; n++) {
        // the last by key is the first by id
        ids.push(yield* step(id, `step ${4 - n}`))
        yield* step(other, `step ${4 - n}`)
      }
      const scope = TenantScope.global
      yield* pages(
        5,
        (limit, after: Workflows.WorkflowStepRecord | undefined) =>
          Workflows.steps(scope, id, { limit, after: after?.id }),
        (seen) =>
          assert.deepStrictEqual(
            seen.map(({ id }) => id),
            ids.toReversed()
          )
      )
      const ends = ids.flatMap((from, i) => ids.slice(i + 1).map((to) => [from, to] as const))
      for (const [from, to] of ends.toReversed()) yield* edge(id, from, to)
      yield* pages(
        10,
        (limit, after: Workflows.WorkflowDependencyRecord | undefined) =>
          Workflows.dependencies(scope, id, { limit, after }),
        (seen) =>
          assert.deepStrictEqual(
            seen.map(({ prerequisiteStepId, dependentStepId }) => [prerequisiteStepId, dependentStepId]),
            ends.map((pair) => [...pair])
          )
      )
      assert.strictEqual((yield* Workflows.dependencies(scope, id))[0]?.releaseMode, "ON_TERMINAL")
    })
  )

  it.effect("arguments are checked before anything is sent", () =>
    Effect.gen(function* () {
      const cast = <A>(value: unknown) => value as A
      const scope = TenantScope.global
      const id = Workflows.WorkflowRunId.make(crypto.randomUUID())
      const bad = cast<Workflows.WorkflowRunId>("x")
      const nobody = TenantScope.organization("x")
      const invalid = {
        runId: [
          Workflows.get(scope, bad),
          Workflows.status(scope, bad),
          Workflows.steps(scope, bad),
          Workflows.stepByKey(scope, bad, "a"),
          Workflows.dependencies(scope, bad)
        ],
        "scope.organizationId": [
          Workflows.get(nobody, id),
          Workflows.status(nobody, id),
          Workflows.list({ scope: nobody }),
          Workflows.count({ scope: nobody }),
          Workflows.latestByType(nobody, "t"),
          Workflows.getByIdempotencyKey(nobody, "t", "k"),
          Workflows.runOfJob(nobody, cast(id)),
          Workflows.steps(nobody, id),
          Workflows.stepByKey(nobody, id, "a"),
          Workflows.dependencies(nobody, id)
        ],
        workflowType: [
          Workflows.list({ scope, workflowType: " " }),
          Workflows.count({ scope, workflowType: "x".repeat(129) }),
          Workflows.latestByType(scope, "\0"),
          Workflows.getByIdempotencyKey(scope, "", "k")
        ],
        status: [
          Workflows.list({ scope, status: cast("running") }),
          Workflows.count({ scope, status: cast("FAILED") })
        ],
        before: [Workflows.list({ scope, before: bad })],
        after: [Workflows.steps(scope, id, { after: cast("x") })],
        "after.prerequisiteStepId": [
          Workflows.dependencies(scope, id, { after: cast({ prerequisiteStepId: "x", dependentStepId: id }) })
        ],
        "after.dependentStepId": [
          Workflows.dependencies(scope, id, { after: cast({ prerequisiteStepId: id, dependentStepId: "x" }) })
        ],
        idempotencyKey: [Workflows.getByIdempotencyKey(scope, "t", "x".repeat(513))],
        stepKey: [Workflows.stepByKey(scope, id, "")],
        jobId: [Workflows.runOfJob(scope, cast("x"))]
      }
      for (const [argument, operations] of Object.entries(invalid)) {
        for (const operation of operations) {
          const reason = yield* refusal<unknown, Reason, SqlClient>(operation)
          assert.strictEqual(reason._tag === "InvalidArgument" ? reason.argument : reason._tag, argument)
        }
      }
      for (const limit of [0, 1001, 1.5, Number.NaN]) {
        for (const operation of [
          Workflows.list({ scope, limit }),
          Workflows.steps(scope, id, { limit }),
          Workflows.dependencies(scope, id, { limit })
        ]) {
          assert.strictEqual((yield* refusal<unknown, Reason, SqlClient>(operation))._tag, "InvalidPagination")
        }
      }
    })
  )
})
