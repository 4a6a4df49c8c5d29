/** What intents cost must not depend on what was promoted before, nor on what waits for types that nobody serves. */
import { assert, it } from "@effect/vitest"
import { DateTime, Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, JobIntents, type Jobs, type QueryError, TenantScope } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import { type PlanCacheMode, planWith, prepare, record } from "./support/plans.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const served = "plans.served"
const organizationId = "01980000-0000-7000-8000-00000000000a"
const batch = 50

const run = (text: string) => SqlClient.use((sql) => sql.unsafe(text).unprepared)

/** Intents as they are stored, of `count` keys. */
const stored = (
  jobType: string,
  count: number,
  state: "PENDING" | "PROMOTED" | "CONFLICTED",
  organization = "NULL"
) => {
  const [attempts, tried, job, promoted, conflicted, error] = {
    PENDING: ["0", "NULL", "NULL", "NULL", "NULL", "NULL"],
    PROMOTED: ["1", "at", "runledger.uuidv7()", "at", "NULL", "NULL"],
    CONFLICTED: ["1", "at", "NULL", "NULL", "at", "'x'"]
  }[state]
  return run(`
    INSERT INTO runledger.job_enqueue_intents (
      job_type, organization_id, payload, idempotency_key, enqueue_request, next_promotion_at, created_at, updated_at, status,
      promotion_attempts, last_attempted_at, promoted_job_id, promoted_at, conflicted_at, last_error_code, last_error_message
    )
    SELECT
      '${jobType}', ${organization}::uuid, '1', '${state} ' || n,
      '{"payload": 1, "priority": null, "max_attempts": null, "timeout_seconds": null, "next_run_at": null, "stage": "queued"}',
      at, at, at, '${state}', ${attempts}, ${tried}, ${job}, ${promoted}, ${conflicted}, ${error}, ${error}
    FROM generate_series(1, ${count}) n, LATERAL (SELECT clock_timestamp() - interval '3 days' - n * interval '1 second') t (at)`)
}

const intents = ["job_enqueue_intents", "job_queue"]
const analyze = Effect.forEach(intents, (table) => run(`VACUUM (ANALYZE) runledger.${table}`), { discard: true })
const withoutAutovacuum = Effect.forEach(
  intents,
  (table) => run(`ALTER TABLE runledger.${table} SET (autovacuum_enabled = false)`),
  { discard: true }
)

const scope = TenantScope.admin

interface Operation {
  readonly name: string
  /** Which of its statements. */
  readonly statement: RegExp
  readonly indexes: ReadonlyArray<string>
  readonly buffers: number
  readonly self: Effect.Effect<unknown, QueryError, SqlClient>
}

const promote = JobIntents.promote({ types: [served, "plans.absent"], limit: batch })
const requests = Array.from({ length: batch }, (_, n) => ({
  jobType: served,
  payload: 1,
  // half of them are there already
  idempotencyKey: `${n % 2 ? "PENDING" : "new"} ${n}`
}))

const operations = (
  ids: ReadonlyArray<JobIntents.IntentId>,
  jobIds: ReadonlyArray<Jobs.JobId>
): ReadonlyArray<Operation> => [
  {
    name: "a promotion locks",
    statement: /FOR NO KEY UPDATE SKIP LOCKED/,
    indexes: ["idx_job_enqueue_intents_pending"],
    buffers: 30 + 10 * batch,
    self: promote
  },
  {
    name: "a promotion finds nothing",
    statement: /FOR NO KEY UPDATE SKIP LOCKED/,
    indexes: ["idx_job_enqueue_intents_pending"],
    buffers: 30,
    self: JobIntents.promote({ types: ["plans.declared", "plans.absent"], limit: batch })
  },
  {
    name: "a promotion marks",
    statement: /UPDATE runledger\.job_enqueue_intents/,
    indexes: ["pk_job_enqueue_intents"],
    buffers: 80 + 45 * batch,
    self: promote
  },
  {
    name: "recordMany",
    statement: /INSERT INTO runledger\.job_enqueue_intents/,
    indexes: ["uq_job_enqueue_intents_type_idempotency"],
    buffers: 80 + 45 * batch,
    self: JobIntents.recordMany(requests)
  },
  {
    name: "get",
    statement: /job_enqueue_intents/,
    indexes: ["pk_job_enqueue_intents"],
    buffers: 10,
    self: Effect.forEach(ids.slice(0, 1), (id) => JobIntents.get(scope, id))
  },
  {
    name: "a page of everything",
    statement: /job_enqueue_intents/,
    indexes: ["pk_job_enqueue_intents"],
    buffers: 50 + batch,
    self: JobIntents.list({ scope, limit: batch })
  },
  {
    name: "a page of what is in conflict",
    statement: /job_enqueue_intents/,
    indexes: ["idx_job_enqueue_intents_open"],
    buffers: 20_000,
    self: JobIntents.list({ scope, status: "CONFLICTED", limit: batch })
  },
  {
    name: "a page of an organization",
    statement: /job_enqueue_intents/,
    indexes: ["idx_job_enqueue_intents_organization"],
    buffers: 50 + batch,
    self: JobIntents.list({ scope: TenantScope.organization(organizationId), limit: batch })
  },
  {
    name: "deletePromotedBefore",
    statement: /DELETE/,
    indexes: ["idx_job_enqueue_intents_promoted", "pk_job_enqueue_intents"],
    buffers: 80 + 20 * batch,
    self: Effect.flatMap(DateTime.now, () =>
      JobIntents.deletePromotedBefore(DateTime.makeUnsafe("2100-01-01T00:00:00Z"), batch)
    )
  },
  {
    name: "deletePromotedForJobs",
    statement: /DELETE/,
    indexes: ["idx_job_enqueue_intents_promoted_job", "pk_job_enqueue_intents"],
    buffers: 80 + 20 * batch,
    self: JobIntents.deletePromotedForJobs(jobIds)
  }
]

const modes: ReadonlyArray<PlanCacheMode> = ["force_custom_plan", "force_generic_plan"]

const faultsOf = Effect.fnUntraced(function* (operation: Operation, mode: PlanCacheMode) {
  const name = `${operation.name}, ${mode}`
  const [statement, ...more] = (yield* record(operation.self)).filter(({ text }) => operation.statement.test(text))
  if (statement === undefined || more.length > 0) return [`${name}: sends ${more.length} more statements like it`]
  return yield* rollback(
    Effect.gen(function* () {
      yield* planWith(mode)
      const { explain } = yield* prepare(statement)
      const { buffers, compiled, indexes, scanned } = yield* explain(statement.parameters)
      return [
        ...scanned.map((table) => `${name}: reads ${table} from end to end`),
        ...(indexes.join() === operation.indexes.join() ? [] : [`${name}: searches ${indexes.join(", ")}`]),
        ...(buffers > operation.buffers ? [`${name}: touches ${buffers} pages`] : []),
        ...(compiled ? [`${name}: is compiled`] : [])
      ]
    })
  )
})

const checked = Effect.fnUntraced(function* (statistics: "of empty tables" | "fresh") {
  yield* withoutAutovacuum
  yield* JobDefinitions.upsert(served)
  yield* JobDefinitions.upsert("plans.declared")
  if (statistics === "of empty tables") yield* analyze
  yield* stored(served, 100_000, "PROMOTED")
  yield* stored("plans.other", 1000, "PROMOTED", `'${organizationId}'`)
  yield* stored("plans.unserved", 20_000, "PENDING")
  yield* stored("plans.unserved", 200, "CONFLICTED")
  yield* stored(served, 300, "PENDING")
  if (statistics === "fresh") yield* analyze
  const sql = yield* SqlClient
  const rows = yield* sql<{ id: JobIntents.IntentId; promoted_job_id: Jobs.JobId }>`
    SELECT id, promoted_job_id FROM runledger.job_enqueue_intents WHERE status = 'PROMOTED' LIMIT ${batch}`
  const found: Array<string> = []
  const all = operations(
    rows.map(({ id }) => id),
    rows.map(({ promoted_job_id: jobId }) => jobId)
  )
  for (const mode of modes) {
    for (const operation of all) found.push(...(yield* faultsOf(operation, mode)))
  }
  return found
})

for (const statistics of ["of empty tables", "fresh"] as const) {
  it.layer(TestDatabase.layer)(`with statistics ${statistics}`, (it) => {
    it.effect(
      "intents are read by index, and nothing walks over what was promoted or is not served",
      () =>
        Effect.gen(function* () {
          assert.deepStrictEqual(yield* checked(statistics), [])
        }).pipe(Effect.provideService(NotifyInterval, 0)),
      180_000
    )
  })
}
