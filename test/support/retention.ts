/**
 * What is there before and after a pass, and histories to delete.
 */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, JobIntents, JobLogs, Jobs, Retention, TenantScope, Workflows } from "../../src/index.ts"
import { jobType as stepType } from "./workflows.ts"

export const { admin, global } = TenantScope
export const type = "retained"

const tables = [
  "job_queue",
  "job_attempts",
  "job_events",
  "job_dead_letters",
  "job_logs",
  "job_replays",
  "job_enqueue_intents",
  "job_execution_permits",
  "workflow_runs",
  "workflow_steps",
  "workflow_step_dependencies",
  "workflow_run_mutations",
  "workflow_active_claims",
  "workflow_recoveries"
] as const

export const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql.unsafe(`TRUNCATE ${tables.map((table) => `runledger.${table}`).join(", ")} CASCADE`)
  yield* JobDefinitions.upsert(type, { maxAttempts: 1 })
  yield* JobDefinitions.upsert(stepType, { maxAttempts: 1 })
})

/** How many rows each table has, if any. */
export const census = SqlClient.use((sql) =>
  Effect.map(
    sql.unsafe<{ table: string; count: number }>(
      tables.map((table) => `SELECT '${table}' AS table, count(*)::int4 FROM runledger.${table}`).join(" UNION ALL ")
    ),
    (rows) => Object.fromEntries(rows.filter(({ count }) => count > 0).map(({ count, table }) => [table, count]))
  )
)

const references = [
  ["job_attempts", "job_id", "job_queue"],
  ["job_events", "job_id", "job_queue"],
  ["job_dead_letters", "job_id", "job_queue"],
  ["job_logs", "job_id", "job_queue"],
  ["job_replays", "replay_job_id", "job_queue"],
  ["job_replays", "source_job_id", "job_queue"],
  ["job_enqueue_intents", "promoted_job_id", "job_queue"],
  ["job_queue", "workflow_run_id", "workflow_runs"],
  ["job_queue", "workflow_step_id", "workflow_steps"],
  ["workflow_steps", "workflow_run_id", "workflow_runs"],
  ["workflow_steps", "job_id", "job_queue"],
  ["workflow_step_dependencies", "workflow_run_id", "workflow_runs"],
  ["workflow_step_dependencies", "prerequisite_step_id", "workflow_steps"],
  ["workflow_step_dependencies", "dependent_step_id", "workflow_steps"]
] as const

/** Rows that name one that is not there, all of them. */
export const assertNoOrphans = SqlClient.use((sql) =>
  Effect.map(
    sql.unsafe(
      references
        .map(
          ([child, column, parent]) => `
            SELECT '${child}.${column}' AS what FROM runledger.${child} c
            WHERE c.${column} IS NOT NULL AND NOT EXISTS (SELECT FROM runledger.${parent} p WHERE p.id = c.${column})`
        )
        .join(" UNION ALL ")
    ),
    (rows) => assert.deepStrictEqual(rows, [])
  )
)

/** Ids of the jobs, of the runs that are there. */
export const left = SqlClient.use((sql) =>
  Effect.map(
    sql<{ id: string }>`
    SELECT id FROM runledger.job_queue WHERE workflow_run_id IS NULL UNION ALL SELECT id FROM runledger.workflow_runs`,
    (rows) => rows.map(({ id }) => id)
  )
)

/** Batches until the end of the pass. */
export const pass = Effect.fnUntraced(function* (ages: Retention.Ages, limit = 100) {
  const batches: Array<Retention.Pruned> = []
  let cursor: Retention.Cursor | undefined
  do {
    const batch = yield* Retention.prune({ ages, limit, cursor })
    batches.push(batch)
    cursor = Option.getOrUndefined(batch.next)
  } while (cursor !== undefined)
  return batches
})

/** What a pass has deleted of one table. */
export const totalOf = (batches: ReadonlyArray<Retention.Pruned>, table: keyof Retention.Deleted) =>
  batches.reduce((sum, { deleted }) => sum + deleted[table], 0)

export const pending = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  return (yield* Jobs.enqueue(type, { n: 1 }, options)).jobId
})

export const claim = Effect.flatMap(
  Jobs.claim({ workerId: "w", types: [type], limit: 1, lease: "1 minute" }),
  ([job]) => (job === undefined ? Effect.die("nothing to claim") : Effect.succeed(job.lease))
)

export const succeeded = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  const jobId = yield* pending({ priority: 100, ...options })
  const lease = yield* claim
  assert.strictEqual(lease.jobId, jobId)
  yield* Jobs.completeSuccess(lease)
  return jobId
})

export const deadLettered = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  const jobId = yield* pending({ priority: 100, ...options })
  const lease = yield* claim
  assert.strictEqual(lease.jobId, jobId)
  yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "no", message: "no" })
  return jobId
})

export const canceled = Effect.fnUntraced(function* (options?: Jobs.EnqueueOptions) {
  const jobId = yield* pending({ priority: 100, ...options })
  yield* Jobs.cancel(admin, jobId)
  return jobId
})

export const replayOf = Effect.fnUntraced(function* (sourceJobId: Jobs.JobId, expectedRunNumber = 1) {
  const outcome = yield* Jobs.replay({ scope: global, sourceJobId, expectedRunNumber, requestKey: "k", reason: "r" })
  return outcome._tag === "Replayed" ? outcome.replay.jobId : assert.fail(outcome._tag)
})

/** Ends the job that was enqueued last. */
export const endNext = Effect.fnUntraced(function* (ending: "success" | "failure" = "success") {
  const lease = yield* claim
  if (ending === "success") yield* Jobs.completeSuccess(lease)
  else yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "no", message: "no" })
})

/** A job with a row in every table that knows of jobs. */
export const withEverything = Effect.gen(function* () {
  const key = crypto.randomUUID()
  const recorded = yield* JobIntents.record(type, 1, { idempotencyKey: key, priority: 100 })
  assert.strictEqual((yield* JobIntents.promote({ types: [type], limit: 10 })).inserted, 1)
  const lease = yield* claim
  yield* Jobs.updateProgress(lease, { checkpoint: 1 })
  yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "no", message: "no" })
  const job = yield* Effect.flatMap(Jobs.get(admin, lease.jobId), Effect.fromOption)
  yield* Jobs.requeue(yield* Effect.fromResult(Jobs.requeueOf(job, { statePolicy: "preserve", reason: "again" })))
  yield* endNext()
  yield* JobLogs.insert({ jobId: lease.jobId, runNumber: 1, level: "INFO", message: "hello" })
  yield* replayOf(lease.jobId, 2)
  yield* endNext()
  return { jobId: lease.jobId, intent: recorded }
})

/** A run of two steps, an appended one, an active key, edges, logs; ended. */
export const endedRun = Effect.fnUntraced(function* (options: Partial<Workflows.WorkflowRequest> = {}) {
  const enqueue = options.activeKey === undefined ? Workflows.enqueue : Workflows.enqueueOrGetActive
  const { run } = yield* enqueue({
    workflowType: "retained",
    steps: [
      { stepKey: "a", jobType: stepType, payload: 1 },
      { stepKey: "b", jobType: stepType, payload: 1, dependencies: [{ stepKey: "a" }] }
    ],
    ...options
  })
  yield* endSteps
  return run.id
})

/** Ends the jobs of all steps that are due. */
export const endSteps = Effect.gen(function* () {
  while (true) {
    const jobs = yield* Jobs.claim({ workerId: "w", types: [stepType], limit: 10, lease: "1 minute" })
    if (jobs.length === 0) return
    for (const { lease } of jobs) {
      yield* JobLogs.insert({ jobId: lease.jobId, runNumber: 1, level: "INFO", message: "step" })
      yield* Jobs.completeSuccess(lease)
    }
  }
})

export const recover = (runId: Workflows.WorkflowRunId, options: { readonly end: boolean }) =>
  Effect.gen(function* () {
    const { run } = yield* Workflows.recover(global, runId, { requestKey: "k", reason: "r" })
    if (options.end) yield* endSteps
    return run.id
  })
