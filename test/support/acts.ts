/**
 * Jobs of `dev/workerChild.ts`: enqueued, watched, and judged afterwards.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Option, Schedule, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as JobDefinitions from "../../src/JobDefinitions.ts"
import * as Jobs from "../../src/Jobs.ts"
import * as TenantScope from "../../src/TenantScope.ts"
import * as TestDatabase from "./TestDatabase.ts"
import type * as WorkerProcess from "./workerProcess.ts"

const { admin } = TenantScope
const jobType = "process.act"

/** What `dev/workerChild.ts` reads. */
export interface Act {
  readonly behavior: string
  readonly millis?: number
  readonly attempts?: number
}

/** As the child declares it, so that jobs can be enqueued before it starts; and the rows that its handlers write. */
export const prepare = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`CREATE TABLE effects (job_id uuid NOT NULL, attempt integer NOT NULL, pid integer NOT NULL)`
  yield* JobDefinitions.upsert(jobType, {
    maxAttempts: 3,
    timeout: "30 seconds",
    retry: { initial: "10 millis", factor: 1, max: "10 millis", jitter: 0 }
  })
})

export const test = (name: string, body: (url: string) => Effect.Effect<void, unknown, SqlClient | Scope.Scope>) =>
  it.live(
    name,
    () =>
      Effect.gen(function* () {
        const database = yield* TestDatabase.create({ migrated: true })
        yield* Effect.andThen(prepare, Effect.scoped(body(TestDatabase.url(database)))).pipe(
          Effect.provide(TestDatabase.client(database, { maxConnections: 3 }))
        )
      }),
    60_000
  )

export const enqueue = (act: Act) => Effect.map(Jobs.enqueue(jobType, { ...act }), ({ jobId }) => jobId)

export const enqueueMany = (acts: ReadonlyArray<Act>, maxAttempts: number) =>
  Effect.flatMap(Jobs.enqueueMany(acts.map((act) => ({ jobType, payload: { ...act }, maxAttempts }))), (answers) =>
    Effect.forEach(answers, (answer) => Effect.map(Effect.fromResult(answer), ({ jobId }) => jobId))
  )

export const get = (jobId: Jobs.JobId) =>
  Effect.flatMap(Jobs.get(admin, jobId), (found) =>
    Option.match(found, { onNone: () => Effect.die(`no job ${jobId}`), onSome: Effect.succeed })
  )

export const ended = (jobId: Jobs.JobId) =>
  Effect.filterOrFail(
    get(jobId),
    ({ isTerminal }) => isTerminal,
    (job) => new Error(`attempt ${job.attempt} is ${job.status}, ${job.stage}`)
  ).pipe(Effect.retry({ schedule: Schedule.spaced("30 millis"), times: 600 }))

/** How many jobs are in each status. */
export const statuses = SqlClient.use((sql) =>
  Effect.map(
    sql<{ status: string; count: number }>`
      SELECT status, count(*)::int4 AS count FROM runledger.job_queue GROUP BY status`,
    (rows) => Object.fromEntries(rows.map(({ status, count }) => [status, count]))
  )
)

export const allSucceeded = (count: number) =>
  Effect.filterOrFail(
    statuses,
    ({ SUCCEEDED = 0 }) => SUCCEEDED === count,
    (found) => new Error(`not all ${count} jobs have succeeded: ${JSON.stringify(found)}`)
  ).pipe(Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 600 }))

/** The attempts of a job as `[worker, how it ended]`. */
export const attemptsOf = (jobId: Jobs.JobId) =>
  Effect.map(Jobs.attempts(admin, jobId), (attempts) =>
    attempts.map(({ workerId, endedAs }) => [workerId, Option.getOrNull(endedAs)])
  )

/** The rows of the handlers of a job as `[attempt, pid]`. */
export const effectsOf = (jobId: Jobs.JobId) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql<{ attempt: number; pid: number }>`SELECT attempt, pid FROM effects WHERE job_id = ${jobId} ORDER BY attempt`,
      (rows) => rows.map(({ attempt, pid }) => [attempt, pid])
    )
  )

/** Jobs that did not succeed exactly once, or have two attempts that overlap. */
export const notOnce = SqlClient.use(
  (sql) => sql`
    SELECT job_id, 'succeeded' AS what FROM runledger.job_attempts
    GROUP BY job_id HAVING count(*) FILTER (WHERE ended_as = 'SUCCEEDED') <> 1
    UNION ALL
    SELECT job_id, 'overlap' FROM (
      SELECT job_id, leased_at, lag(finished_at) OVER (PARTITION BY job_id ORDER BY run_number, attempt) AS before
      FROM runledger.job_attempts
    ) a
    WHERE leased_at < before
    UNION ALL
    SELECT job_id, 'after its success' FROM runledger.job_attempts s
    WHERE ended_as = 'SUCCEEDED' AND EXISTS (
      SELECT FROM runledger.job_attempts a
      WHERE a.job_id = s.job_id AND (a.run_number, a.attempt) > (s.run_number, s.attempt)
    )`
)

export const shutDown = Effect.fnUntraced(function* (worker: WorkerProcess.WorkerProcess) {
  yield* worker.signal("SIGTERM")
  const { code, signal } = yield* worker.ended
  assert.isNull(signal, `${worker.workerId} ends by itself`)
  assert.include([0, 130, 143], code)
})
