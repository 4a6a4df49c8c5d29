import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isPoisoned } from "../internal/poison.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import type { JobId } from "../Job.ts"
import { type JobSchedule, type ScheduleId, ScheduleRow, scheduleColumns } from "../JobSchedule.ts"
import { type Enqueued, type EnqueueRefusal, type EnqueueRequest, enqueueMany } from "../jobs/enqueue.ts"
import { encode } from "../jobs/enqueueRequest.ts"
import { maxBatch } from "../jobs/limits.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  type ConstraintViolation,
  type InvalidArgument,
  QueryFailed,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import type { InvalidSchedule } from "../ScheduleReason.ts"
import { advance, jitterSeconds, times } from "./cron.ts"
import { payloadOf } from "./encode.ts"

/** How {@link fireDue} fires. */
export interface FireDueOptions {
  /** How many schedules at most: 1 to 1,000, default 100. */
  readonly limit?: number | undefined
}

/** What {@link fireDue} can fail with as a whole. */
export type FireDueReason = InvalidArgument | UnsupportedIsolation | WriteReason

/** Why one schedule was postponed. */
export type PostponeReason = InvalidSchedule | InvalidArgument | EnqueueRefusal | ConstraintViolation | QueryFailed

interface Handled {
  readonly scheduleId: ScheduleId
  readonly name: string
  readonly jobType: string
  /** The time that was meant. */
  readonly scheduledFor: DateTime.Utc
}

/** A schedule that led to a job. */
export interface Fired extends Handled {
  readonly _tag: "Fired"
  readonly jobId: JobId
  /** `existing` if this time of the schedule had fired before: it was moved back. */
  readonly disposition: Enqueued["disposition"]
  /** How many later times were missed, for which this job stands as well; from 100 on they are not counted. */
  readonly missed: number
  readonly nextFireAt: DateTime.Utc
}

/** A schedule that could not fire, and is tried again for the same time. */
export interface Postponed extends Handled {
  readonly _tag: "Postponed"
  readonly reason: PostponeReason
  readonly until: DateTime.Utc
}

/** What became of one schedule that was due. */
export type Fire = Fired | Postponed

/** What one call did, the longest due first, and when there will be something to do again. */
export interface FiredDue {
  readonly fires: ReadonlyArray<Fire>
  /** When it was, by the clock of the database. */
  readonly at: DateTime.Utc
  /** When the next schedule is due that was not handled here, or will be again. */
  readonly nextDueAt: Option.Option<DateTime.Utc>
}

/**
 * Fires the schedules that are due: enqueues a job for each, with the stage `scheduled`, and moves it on to its first time after
 * now, in one transaction (a savepoint of the caller's). Times that were missed are not made up for one by one: the job is for
 * the oldest of them. It is enqueued with the key `schedule:<id>:<time>`, so that one time of a schedule never leads to two jobs.
 *
 * A schedule that cannot fire (its expression or zone is not known here, its definition is missing or disabled, its payload is
 * refused, its key belongs to a different job) is postponed by 30 seconds, alone, with the error in its row; it keeps its time.
 *
 * Fails with `InvalidArgument`, `UnsupportedIsolation` (a caller's transaction is not READ COMMITTED), or what any write can
 * fail with; then nothing has fired. Locks schedules `FOR NO KEY UPDATE SKIP LOCKED`: who else fires takes others. Reads
 * definitions without locking them. The number of statements does not depend on how many schedules are due, unless the database
 * refuses a job.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { JobSchedules } from "effect-runledger"
 *
 * const fired = Effect.map(JobSchedules.fireDue({ limit: 10 }), ({ fires }) =>
 *   fires.map((fire) => (fire._tag === "Fired" ? `${fire.name}: ${fire.jobId}` : `${fire.name}: ${fire.reason.message}`))
 * )
 * ```
 */
export const fireDue: (options?: FireDueOptions) => Effect.Effect<FiredDue, QueryError<FireDueReason>, SqlClient> =
  Effect.fnUntraced(function* ({ limit = 100 }: FireDueOptions = {}) {
    const invalid = Args.integer("limit", limit, 1, maxBatch)
    if (invalid !== undefined) return yield* invalid
    return yield* readCommitted("job.unsupported_isolation")(transaction(pass(limit)))
  }, writing("JobSchedules.fireDue"))

/** How long a schedule is postponed, in milliseconds. */
const postponement = 30_000

/** A fire that can be enqueued. */
interface Ready {
  readonly schedule: JobSchedule
  readonly request: EnqueueRequest
  readonly missed: number
  readonly next: number
}

type Answer = Result.Result<Enqueued, PostponeReason>

const pass = Effect.fnUntraced(function* (limit: number) {
  const { at, upcoming, schedules } = yield* due(limit)
  if (schedules.length === 0) {
    return { fires: [], at: DateTime.makeUnsafe(at), nextDueAt: Option.map(upcoming, DateTime.makeUnsafe) }
  }
  const prepared: Array<readonly [JobSchedule, Result.Result<Ready, PostponeReason>]> = []
  for (const schedule of schedules) {
    prepared.push([schedule, prepare(schedule, at)])
    // the times of many schedules take a while, and handlers may run in this process
    yield* Effect.yieldNow
  }
  const answers = yield* enqueueAll(prepared.flatMap(([, ready]) => (Result.isSuccess(ready) ? [ready.success] : [])))
  const fires: Array<Fire> = []
  const dueTypes: Array<string> = []
  for (const [schedule, ready] of prepared) {
    const handled = {
      scheduleId: schedule.id,
      name: schedule.name,
      jobType: schedule.jobType,
      scheduledFor: schedule.nextFireAt
    }
    const answer = Result.flatMap(ready, (): Answer => answers.get(schedule.id) ?? Result.fail(new QueryFailed({})))
    if (Result.isSuccess(ready) && Result.isSuccess(answer)) {
      const { missed, next, request } = ready.success
      const { jobId, disposition } = answer.success
      fires.push({ _tag: "Fired", ...handled, jobId, disposition, missed, nextFireAt: DateTime.makeUnsafe(next) })
      if (request.runAt !== undefined && request.runAt.epochMilliseconds <= at) dueTypes.push(schedule.jobType)
    } else if (Result.isFailure(answer)) {
      const until = DateTime.makeUnsafe(at + postponement)
      fires.push({ _tag: "Postponed", ...handled, reason: answer.failure, until })
    }
  }
  yield* settle(fires)
  // an enqueue tells workers only of jobs without a time of their own
  if (dueTypes.length > 0) yield* markDue(dueTypes)
  const again = fires.map((fire) => DateTime.toEpochMillis(fire._tag === "Fired" ? fire.nextFireAt : fire.until))
  const nextDueAt = Math.min(...again, ...Option.toArray(upcoming))
  return { fires, at: DateTime.makeUnsafe(at), nextDueAt: Option.some(DateTime.makeUnsafe(nextDueAt)) }
})

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(ScheduleRow))
const decodeInput = Schema.decodeUnknownEffect(
  Schema.NonEmptyArray(Schema.Struct({ at: Schema.Date, upcoming: Schema.NullOr(Schema.Date) }))
)

/** Locks what is due, the longest due first. */
const due = Effect.fnUntraced(function* (limit: number) {
  const { sql, instant } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at
    ), due AS MATERIALIZED (
      SELECT ${sql.literal(scheduleColumns)}
      FROM runledger.job_schedules
      WHERE is_active AND due_at <= (SELECT at FROM input) AND ${sql.literal(isReadCommitted)}
      ORDER BY due_at, id
      LIMIT ${limit}
      FOR NO KEY UPDATE SKIP LOCKED
    )
    SELECT
      i.at,
      ${sql.literal(isReadCommitted)} AS is_read_committed,
      (
        SELECT s.due_at FROM runledger.job_schedules s
        WHERE s.is_active AND s.due_at > i.at
        ORDER BY s.due_at
        LIMIT 1
      ) AS upcoming,
      d.*
    FROM input i
    LEFT JOIN due d ON true
    ORDER BY d.due_at, d.id
  `
  if (rows[0]?.is_read_committed !== true) return yield* new NotReadCommitted()
  const [{ at, upcoming }] = yield* decodeInput(rows).pipe(Effect.mapError(() => new QueryFailed({})))
  const schedules = yield* decodeRows(rows.filter(({ id }) => Predicate.isString(id))).pipe(
    Effect.mapError(() => new QueryFailed({}))
  )
  return { at: at.getTime(), upcoming: Option.map(Option.fromNullOr(upcoming), (date) => date.getTime()), schedules }
})

const prepare = (schedule: JobSchedule, at: number): Result.Result<Ready, PostponeReason> =>
  Result.gen(function* () {
    const { id, name, jobType, payloadVersion, maxJitterSeconds } = schedule
    const scheduledFor = DateTime.toEpochMillis(schedule.nextFireAt)
    const { next, missed } = yield* advance(
      yield* times(schedule.cron, schedule.timezone, schedule.overlap),
      scheduledFor,
      at
    )
    const jitter = jitterSeconds(id, scheduledFor, maxJitterSeconds)
    const request: EnqueueRequest = {
      jobType,
      payload: payloadOf(schedule, { id, name, scheduledFor }),
      payloadVersion,
      organizationId: Option.getOrUndefined(schedule.organizationId),
      stage: "scheduled",
      idempotencyKey: `schedule:${id}:${DateTime.formatIso(schedule.nextFireAt)}`,
      // part of the request, so it must not depend on when the schedule fires
      ...(maxJitterSeconds === 0 ? {} : { runAt: DateTime.makeUnsafe(scheduledFor + jitter * 1000) })
    }
    yield* encode(request, 0, "")
    return { schedule, request, missed, next }
  })

/** Enqueues all in one statement; a job that the database refuses is found by halves, and does not take the others with it. */
const enqueueAll = (
  fires: ReadonlyArray<Ready>
): Effect.Effect<ReadonlyMap<string, Answer>, UnsupportedIsolation | InvalidArgument | WriteReason, SqlClient> =>
  fires.length === 0
    ? Effect.succeed(new Map())
    : transaction(Effect.mapError(enqueueMany(fires.map(({ request }) => request)), ({ reason }) => reason)).pipe(
        Effect.map((answers): ReadonlyMap<string, Answer> => {
          const byId = new Map<string, Answer>()
          for (const [place, answer] of answers.entries()) {
            const id = fires[place]?.schedule.id
            if (id !== undefined) byId.set(id, answer)
          }
          return byId
        }),
        Effect.catch((reason) => {
          const [first] = fires
          if (first === undefined || !isPoisoned(reason)) return Effect.fail(reason)
          if (fires.length === 1) return Effect.succeed(new Map([[first.schedule.id, Result.fail(reason)]]))
          const half = Math.ceil(fires.length / 2)
          return Effect.zipWith(
            enqueueAll(fires.slice(0, half)),
            enqueueAll(fires.slice(half)),
            (a, b) => new Map([...a, ...b])
          )
        })
      )

/** Moves on what has fired, and writes down what has not. */
const settle = Effect.fnUntraced(function* (fires: ReadonlyArray<Fire>) {
  const { sql, instant } = yield* Sql.clocked
  const records = fires.map((fire) => ({
    id: fire.scheduleId,
    ...(fire._tag === "Fired"
      ? { job_id: fire.jobId, due_at: DateTime.formatIso(fire.nextFireAt) }
      : { error_code: fire.reason.code, error_message: fire.reason.message, due_at: DateTime.formatIso(fire.until) })
  }))
  yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, r.*
      FROM jsonb_to_recordset(${JSON.stringify(records)}::jsonb) AS r (
        id uuid, job_id uuid, error_code text, error_message text, due_at timestamptz
      )
    )
    UPDATE runledger.job_schedules s
    SET
      next_fire_at = CASE WHEN i.job_id IS NULL THEN s.next_fire_at ELSE i.due_at END,
      due_at = i.due_at,
      last_fired_at = CASE WHEN i.job_id IS NULL THEN s.last_fired_at ELSE i.at END,
      last_scheduled_for = CASE WHEN i.job_id IS NULL THEN s.last_scheduled_for ELSE s.next_fire_at END,
      last_job_id = COALESCE(i.job_id, s.last_job_id),
      last_error_code = i.error_code,
      last_error_message = i.error_message,
      last_error_at = CASE WHEN i.error_code IS NOT NULL THEN i.at END,
      updated_at = i.at
    FROM input i
    WHERE s.id = i.id
      -- rows are reached by their ids, whatever the planner thinks of how many there are
      AND s.id = ANY (${fires.map(({ scheduleId }) => scheduleId)}::uuid[])
  `
})
