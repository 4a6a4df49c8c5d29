/**
 * Schedules for tests: types of their own, and what was fired.
 */
import { DateTime, Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as JobDefinitions from "../../src/JobDefinitions.ts"
import * as JobSchedules from "../../src/JobSchedules.ts"
import type { QueryError } from "../../src/QueryError.ts"
import type { Reason } from "../../src/Reason.ts"

export const unique = (name: string): string => `${name}-${crypto.randomUUID()}`

/** A declared type that nobody else uses. */
export const makeType = Effect.tap(
  Effect.sync(() => unique("type")),
  (jobType) => JobDefinitions.upsert(jobType)
)

export const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), ({ reason }) => reason)

export const utc = (text: string): DateTime.Utc => DateTime.makeUnsafe(text)

/** A schedule, of a type of its own unless one is given. */
export const make = Effect.fnUntraced(function* (options: Partial<JobSchedules.ScheduleRequest> = {}) {
  const jobType = options.jobType ?? (yield* makeType)
  return yield* JobSchedules.upsert({ name: unique("schedule"), cron: "0 * * * *", ...options, jobType })
})

export const stored = (name: string) => Effect.map(JobSchedules.get(name), Option.getOrThrow)

/** What was enqueued of a type, oldest first. */
export const jobsOf = (jobType: string) =>
  SqlClient.use(
    (sql) => sql<{
      readonly id: string
      readonly payload: unknown
      readonly payload_version: number
      readonly stage: string
      readonly idempotency_key: string
      readonly organization_id: string | null
      readonly next_run_at: Date
    }>`
      SELECT id, payload, payload_version, stage, idempotency_key, organization_id, next_run_at
      FROM runledger.job_queue
      WHERE job_type = ${jobType}
      ORDER BY id`
  )

/** Nothing of the tests before is due. */
export const silence = SqlClient.use((sql) => Effect.asVoid(sql`UPDATE runledger.job_schedules SET is_active = false`))
