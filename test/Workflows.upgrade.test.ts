import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { migrations } from "../migrations/index.ts"
import { JobDefinitions, Jobs, Migrator, TenantScope, Workflows } from "../src/index.ts"
import { apply } from "../src/migrator/apply.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { assertConsistent, step, workAll } from "./support/workflows.ts"

const { admin } = TenantScope

const type = "upgrade.old"
const statuses = ["PENDING", "LEASED", "SUCCEEDED", "DEAD_LETTERED", "CANCELED"] as const

const counts = Effect.map(
  Effect.forEach(statuses, (status) => Jobs.count({ scope: admin, jobType: type, status })),
  (each) => Object.fromEntries(statuses.map((status, index) => [status, each[index]]))
)

it.effect("workflows come to a database that is full of jobs, and the jobs go on", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const before = migrations.slice(
      0,
      migrations.findIndex(({ name }) => name === "workflows")
    )
    assert.isAbove(before.length, 1)
    yield* apply(before)
    // as a release of that time declared it
    yield* sql`
      INSERT INTO runledger.job_definitions (
        job_type, max_attempts, retry_initial_ms, retry_max_ms, retry_jitter, created_at, updated_at
      )
      VALUES (${type}, 3, 1, 1, 0, statement_timestamp(), statement_timestamp())`
    yield* Jobs.enqueueMany(
      Array.from({ length: 500 }, (_, n) => ({ jobType: type, payload: n, idempotencyKey: `key-${n}` }))
    )
    // as a release of that time left them
    yield* sql`
      UPDATE runledger.job_queue
      SET
        status = 'LEASED', attempt = 1, worker_id = 'old', stage = 'running', leased_at = at, attempt_started_at = at,
        started_at = at, lease_ms = 60000, claim_origin = 'DIRECT', renewed = false, event_seq = 2, leased_seq = 1, started_seq = 2,
        lease_expires_at = at + CASE WHEN (payload::text)::integer < 100 THEN interval '1 hour' ELSE -interval '1 hour' END
      FROM (SELECT clock_timestamp() AS at) c
      WHERE (payload::text)::integer < 200`
    yield* Migrator.migrate
    yield* Migrator.ensureSchemaCompatible
    assert.deepStrictEqual(yield* counts, { PENDING: 300, LEASED: 200, SUCCEEDED: 0, DEAD_LETTERED: 0, CANCELED: 0 })

    const [held] = yield* sql<{ id: Jobs.JobId }>`SELECT id FROM runledger.job_queue WHERE payload = '7'`
    const jobId = held?.id ?? assert.fail("the job is gone")
    yield* Jobs.completeSuccess({ jobId, runNumber: 1, attempt: 1, workerId: "old" })
    const [canceled] = yield* sql<{ id: Jobs.JobId }>`SELECT id FROM runledger.job_queue WHERE payload = '8'`
    yield* Jobs.cancel(admin, canceled?.id ?? assert.fail("the job is gone"))
    assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 1000 })).leases.length, 100)
    const again = yield* Jobs.enqueue(type, 7, { idempotencyKey: "key-7" })
    assert.deepInclude(again, { disposition: "existing" })
    // a claim and its steps are one statement: there are none of these jobs
    while (true) {
      const claimed = yield* Jobs.claim({ workerId: "new", types: [type], limit: 500 })
      if (claimed.length === 0 && (yield* counts).PENDING === 0) break
      yield* Jobs.completeMany(claimed.map(({ lease }) => ({ _tag: "Success", lease })))
    }
    assert.deepStrictEqual(yield* counts, { PENDING: 0, LEASED: 98, SUCCEEDED: 401, DEAD_LETTERED: 0, CANCELED: 1 })

    yield* JobDefinitions.upsert("test.step")
    const { run } = yield* Workflows.enqueue({ workflowType: "new", steps: [step("a"), step("b", { after: ["a"] })] })
    assert.deepStrictEqual(yield* workAll(), [["a"], ["b"]])
    assert.deepStrictEqual(yield* Effect.flatMap(Workflows.status(admin, run.id), Effect.fromOption), "SUCCEEDED")
    yield* assertConsistent
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)
