import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { mayWait, patience } from "../internal/waiting.ts"
import { type JobSchedule, ScheduleRow, scheduleColumns } from "../JobSchedule.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { type InvalidArgument, Unavailable, type WriteReason } from "../Reason.ts"
import { type InvalidSchedule, ScheduleDefinitionUnavailable } from "../ScheduleReason.ts"
import { invalidName } from "./encode.ts"

/** What {@link setActive} can fail with. */
export type SetActiveReason = InvalidSchedule | ScheduleDefinitionUnavailable | WriteReason

/** What {@link setNextFireAt} can fail with. */
export type SetNextFireAtReason = InvalidSchedule | InvalidArgument | WriteReason

const decodeRow = Schema.decodeUnknownEffect(ScheduleRow)

/**
 * Pauses a schedule, or resumes it. A pause is the operator's: no `upsert` and no sync ends it, only this does. The next time
 * stays as it is: if it passes during the pause, the schedule fires once when it is resumed, for that time; move it on with
 * {@link setNextFireAt} to leave it out. `None` if there is no schedule of this name.
 *
 * Fails with `InvalidSchedule` (name), `ScheduleDefinitionUnavailable` (resuming needs an enabled definition), `Unavailable`
 * (somebody held the definition or the schedule for five seconds), or what any write can fail with. Resuming locks the
 * definition `FOR SHARE`; writes `job_schedules`.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const paused = JobSchedules.setActive("report.nightly", false)
 * ```
 */
export const setActive: (
  name: string,
  isActive: boolean
) => Effect.Effect<Option.Option<JobSchedule>, QueryError<SetActiveReason>, SqlClient> = Effect.fnUntraced(function* (
  name: string,
  isActive: boolean
) {
  const invalid = invalidName("name", name)
  if (invalid !== undefined) return yield* invalid
  return yield* isActive ? resume(name) : pause(name)
}, writing("JobSchedules.setActive"))

const pause = Effect.fnUntraced(function* (name: string) {
  const [row] = yield* mayWait(
    Effect.flatMap(
      Sql.clocked,
      ({ sql, instant }) => sql`
        WITH input AS MATERIALIZED (
          SELECT ${name}::text AS name, ${instant} AS at, ${sql.literal(patience)}
        ), paused AS (
          UPDATE runledger.job_schedules s
          SET is_active = false, paused_at = COALESCE(s.paused_at, i.at), updated_at = i.at
          FROM input i
          WHERE s.name = i.name
          RETURNING s.*
        )
        SELECT i.callers_lock_timeout, p.*
        FROM input i
        LEFT JOIN (SELECT ${sql.literal(scheduleColumns)} FROM paused) p ON true
      `
    )
  )
  return Predicate.isString(row?.id) ? Option.some(yield* decodeRow(row)) : Option.none()
})

const maxRounds = 5

/** The definition is locked before the schedule, in a statement of its own: whoever disables it waits, or has done so. */
const resume = Effect.fnUntraced(function* (name: string) {
  return yield* transaction(
    Effect.gen(function* () {
      const { sql, instant } = yield* Sql.clocked
      for (let round = 0; round < maxRounds; round++) {
        const [found] = yield* sql`
          WITH input AS MATERIALIZED (
            SELECT ${name}::text AS name, ${sql.literal(patience)}
          )
          SELECT i.callers_lock_timeout, s.job_type, d.is_enabled
          FROM input i
          LEFT JOIN runledger.job_schedules s ON s.name = i.name
          LEFT JOIN LATERAL (
            SELECT d.is_enabled FROM runledger.job_definitions d WHERE d.job_type = s.job_type FOR SHARE
          ) d ON true
        `
        const jobType = found?.job_type
        if (Predicate.isString(jobType) && found?.is_enabled !== true) {
          const state = found?.is_enabled === false ? "disabled" : "missing"
          return yield* new ScheduleDefinitionUnavailable({ schedule: name, jobType, state })
        }
        const [row] = Predicate.isString(jobType)
          ? yield* sql`
              UPDATE runledger.job_schedules
              SET
                is_active = true, paused_at = NULL, due_at = next_fire_at, last_error_code = NULL,
                last_error_message = NULL, last_error_at = NULL, updated_at = ${instant}
              WHERE name = ${name} AND job_type = ${jobType}
              RETURNING ${sql.literal(scheduleColumns)}
            `
          : []
        // in a transaction of our own the setting ends with it
        yield* sql`SELECT set_config('lock_timeout', ${found?.callers_lock_timeout}, true)`
        if (row !== undefined) return Option.some(yield* decodeRow(row))
        if (!Predicate.isString(jobType)) return Option.none()
        // it was given another type meanwhile
      }
      return yield* new Unavailable({ origin: "busy" })
    })
  )
})

/**
 * Moves a schedule: its next fire is for this time, at once if that is past, and the times after it are those of its
 * expression. A schedule that was postponed is tried again. A time for which it has fired already enqueues no second
 * job, as long as the first is kept. `None` if there is no schedule of this name.
 *
 * Fails with `InvalidSchedule` (name), `InvalidArgument`, `Unavailable` (somebody held the schedule for five seconds), or what
 * any write can fail with. Writes `job_schedules`.
 *
 * @example
 * ```ts
 * import { DateTime, Effect } from "effect"
 * import { JobSchedules } from "effect-runledger"
 *
 * const now = Effect.flatMap(DateTime.now, (at) => JobSchedules.setNextFireAt("report.nightly", at))
 * ```
 */
export const setNextFireAt: (
  name: string,
  nextFireAt: DateTime.Utc
) => Effect.Effect<Option.Option<JobSchedule>, QueryError<SetNextFireAtReason>, SqlClient> = Effect.fnUntraced(
  function* (name: string, nextFireAt: DateTime.Utc) {
    const invalid = invalidName("name", name) ?? Args.instant("nextFireAt", nextFireAt)
    if (invalid !== undefined) return yield* invalid
    const [row] = yield* mayWait(
      Effect.flatMap(
        Sql.clocked,
        ({ sql, instant }) => sql`
          WITH input AS MATERIALIZED (
            SELECT
              ${name}::text AS name, ${DateTime.formatIso(nextFireAt)}::timestamptz AS next_fire_at, ${instant} AS at,
              ${sql.literal(patience)}
          ), moved AS (
            UPDATE runledger.job_schedules s
            SET
              next_fire_at = i.next_fire_at, due_at = i.next_fire_at, last_error_code = NULL,
              last_error_message = NULL, last_error_at = NULL, updated_at = i.at
            FROM input i
            WHERE s.name = i.name
            RETURNING s.*
          )
          SELECT i.callers_lock_timeout, m.*
          FROM input i
          LEFT JOIN (SELECT ${sql.literal(scheduleColumns)} FROM moved) m ON true
        `
      )
    )
    return Predicate.isString(row?.id) ? Option.some(yield* decodeRow(row)) : Option.none()
  },
  writing("JobSchedules.setNextFireAt")
)
