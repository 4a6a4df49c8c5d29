/**
 * A schedule as it is stored, and what a job is told of its fire.
 */
import * as Schema from "effect/Schema"
import { Jsonb, nullable, Timestamptz } from "./internal/columns.ts"
import { JobId } from "./Job.ts"

/** The id of a schedule. */
export const ScheduleId = Schema.String.pipe(Schema.brand("effect-runledger/ScheduleId"))
export type ScheduleId = typeof ScheduleId.Type

/** Which of the two instants is meant when the clock is put back and a local time comes twice. */
export const Overlap = Schema.Literals(["earlier", "later", "both"])
export type Overlap = typeof Overlap.Type

/**
 * What a scheduled payload carries as its member `_schedule`. A contract whose handler wants to know declares it:
 * `_schedule: Schema.optionalKey(JobSchedules.FireTime)`.
 */
export const FireTime = Schema.Struct({
  schedule_id: Schema.String,
  schedule_name: Schema.String,
  /** The time that was meant, however late the job was enqueued or run. */
  scheduled_for: Schema.DateTimeUtcFromString
})
export type FireTime = typeof FireTime.Type

/** A schedule as it is stored. */
export class JobSchedule extends Schema.Class<JobSchedule>("effect-runledger/JobSchedule")({
  id: ScheduleId,
  name: Schema.String,
  /** Whose `syncExact` may deactivate it. */
  owner: nullable(Schema.String),
  jobType: Schema.String,
  organizationId: nullable(Schema.String),
  payload: Jsonb,
  payloadVersion: Schema.Int,
  /**
   * Where a job finds the time it was scheduled for: in the member `_schedule` of its payload, in a wrapper
   * `{ payload, _schedule }`, or only in its idempotency key, because its contract would not decode either.
   */
  carriesTime: Schema.Literals(["MEMBER", "WRAPPER", "KEY"]),
  cron: Schema.String,
  timezone: Schema.String,
  overlap: Overlap,
  maxJitterSeconds: Schema.Int,
  isActive: Schema.Boolean,
  /** When `setActive` paused it; a sync does not resume it. */
  pausedAt: nullable(Timestamptz),
  /** The next time that the schedule means. In the past, it has been missed and fires as soon as it can. */
  nextFireAt: Timestamptz,
  /** When a scheduler looks at it: at `nextFireAt`, or later if it was postponed. */
  dueAt: Timestamptz,
  lastFiredAt: nullable(Timestamptz),
  /** The time that the last fire was meant for. */
  lastScheduledFor: nullable(Timestamptz),
  lastJobId: nullable(JobId),
  /** Why the last attempt to fire was postponed; none once it has fired or was changed. */
  lastErrorCode: nullable(Schema.String),
  lastErrorMessage: nullable(Schema.String),
  lastErrorAt: nullable(Timestamptz),
  createdByUserId: nullable(Schema.String),
  createdAt: Timestamptz,
  updatedAt: Timestamptz
}) {}

/** A row of `job_schedules`, selected with {@link scheduleColumns}. */
export const ScheduleRow = JobSchedule.pipe(
  Schema.encodeKeys({
    jobType: "job_type",
    organizationId: "organization_id",
    payload: "payload_template",
    payloadVersion: "payload_version",
    carriesTime: "carries_time",
    cron: "cron_expr",
    maxJitterSeconds: "max_jitter_seconds",
    isActive: "is_active",
    pausedAt: "paused_at",
    nextFireAt: "next_fire_at",
    dueAt: "due_at",
    lastFiredAt: "last_fired_at",
    lastScheduledFor: "last_scheduled_for",
    lastJobId: "last_job_id",
    lastErrorCode: "last_error_code",
    lastErrorMessage: "last_error_message",
    lastErrorAt: "last_error_at",
    createdByUserId: "created_by_user_id",
    createdAt: "created_at",
    updatedAt: "updated_at"
  })
)

/** The columns of {@link ScheduleRow}. */
export const scheduleColumns = `
  id, name, owner, job_type, organization_id, payload_template, payload_version, carries_time, cron_expr, timezone, overlap,
  max_jitter_seconds, is_active, paused_at, next_fire_at, due_at, last_fired_at, last_scheduled_for, last_job_id,
  last_error_code, last_error_message, last_error_at, created_by_user_id, created_at, updated_at`
