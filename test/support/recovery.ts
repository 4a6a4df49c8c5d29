/**
 * Jobs that have ended, for tests of what can be done about them.
 */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, TenantScope, Workflows } from "../../src/index.ts"

export const { global, admin } = TenantScope

export const organizationId = "0197c000-0000-7000-8000-00000000000a"
export const organization = TenantScope.organization(organizationId)

export const workerId = "worker"

let types = 0

/** A declared type of its own. */
export const makeType = Effect.suspend(() =>
  Effect.map(JobDefinitions.upsert(`recovery.${++types}`), ({ jobType }) => jobType)
)

export const get = (jobId: Jobs.JobId) =>
  Effect.flatMap(Jobs.get(admin, jobId), (found) =>
    Option.match(found, { onNone: () => Effect.die(`no job ${jobId}`), onSome: Effect.succeed })
  )

/** The row of a job as it is stored. */
export const rowOf = (jobId: string) =>
  SqlClient.use((sql) => sql`SELECT * FROM runledger.job_queue WHERE id = ${jobId}::uuid`).pipe(
    Effect.flatMap(([row]) => (row === undefined ? Effect.die(`no job ${jobId}`) : Effect.succeed(row)))
  )

export const claimOne = Effect.fnUntraced(function* (jobType: string, claim: typeof Jobs.claim = Jobs.claim) {
  const [job] = yield* claim({ workerId, types: [jobType], limit: 1, lease: "1 minute" })
  return job ?? assert.fail(`nothing of ${jobType} to claim`)
})

export const pending = Effect.fnUntraced(function* (jobType: string, options?: Jobs.EnqueueOptions) {
  return (yield* Jobs.enqueue(jobType, { n: 1 }, options)).jobId
})

/** Fails the only pending job of a type for good. */
export const failOne = Effect.fnUntraced(function* (jobType: string, code = "smtp.down") {
  const { lease } = yield* claimOne(jobType)
  yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code, message: "no answer" })
  return lease.jobId
})

/** A job that failed for good, of a type of its own unless one is given. */
export const deadLettered = Effect.fnUntraced(function* (jobType?: string, options?: Jobs.EnqueueOptions) {
  const type = jobType ?? (yield* makeType)
  yield* pending(type, options)
  return yield* failOne(type)
})

export const succeeded = Effect.fnUntraced(function* (jobType?: string, options?: Jobs.EnqueueOptions) {
  const type = jobType ?? (yield* makeType)
  yield* pending(type, options)
  const { lease } = yield* claimOne(type)
  yield* Jobs.completeSuccess(lease, { output: { sent: true } })
  return lease.jobId
})

/** A job that was canceled before anybody had claimed it. */
export const canceled = Effect.gen(function* () {
  const jobId = yield* pending(yield* makeType)
  yield* Jobs.cancel(admin, jobId)
  return jobId
})

/** The job of a step that has succeeded, failed, or been canceled with its run. */
export const stepJob = Effect.fnUntraced(function* (ending: "SUCCEEDED" | "DEAD_LETTERED" | "CANCELED", type?: string) {
  const jobType = type ?? (yield* makeType)
  const { run } = yield* Workflows.enqueue({ workflowType: "t", steps: [{ stepKey: "only", jobType, payload: 1 }] })
  const { lease } = yield* claimOne(jobType)
  if (ending === "SUCCEEDED") yield* Jobs.completeSuccess(lease)
  else if (ending === "CANCELED") yield* Workflows.cancel(admin, run.id)
  else yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "smtp.down", message: "no answer" })
  return { jobId: lease.jobId, runId: run.id }
})

/** The request that fits a job as it is. */
export const requeueRequest = Effect.fnUntraced(function* (
  jobId: Jobs.JobId,
  options: Partial<Pick<Jobs.RequeueRequest, "statePolicy" | "reason">> = {}
) {
  return yield* Effect.fromResult(
    Jobs.requeueOf(yield* get(jobId), { statePolicy: "preserve", reason: "again", ...options })
  )
})

export const requeue = (jobId: Jobs.JobId, options?: Parameters<typeof requeueRequest>[1]) =>
  Effect.flatMap(requeueRequest(jobId, options), Jobs.requeue)

export const lastEvent = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.events(admin, jobId, { limit: 1000 }), (events) => events.at(-1) ?? assert.fail("no event"))

/** Every row that an operation on ended jobs may write, with the transaction that wrote it. */
export const everything = SqlClient.use(
  (sql) => sql`
    SELECT 'job' AS of, to_jsonb(t) AS row, xmin::text FROM runledger.job_queue t
    UNION ALL SELECT 'event', to_jsonb(t), xmin::text FROM runledger.job_events t
    UNION ALL SELECT 'dead letter', to_jsonb(t), xmin::text FROM runledger.job_dead_letters t
    UNION ALL SELECT 'replay', to_jsonb(t), xmin::text FROM runledger.job_replays t
    ORDER BY 1, 2`
)

/** How many rows of jobs a transaction in progress has locked: of those that another cannot lock now. */
export const lockedJobs = SqlClient.use((sql) =>
  Effect.map(
    sql<{ locked: number }>`
      SELECT (SELECT count(*) FROM runledger.job_queue)::integer - count(*)::integer AS locked
      FROM (SELECT FROM runledger.job_queue FOR NO KEY UPDATE SKIP LOCKED) AS free`,
    ([row]) => row?.locked
  )
)
