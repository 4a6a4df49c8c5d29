/**
 * What is enqueued again and again: a job, and the local times at which it is. Any number of processes may fire schedules
 * (`Scheduler.layer`); each time of a schedule leads to one job, which carries that time.
 */
export { FireTime, JobSchedule, Overlap, ScheduleId } from "./JobSchedule.ts"
export { type ScheduleOptions, type ScheduleRequest, schedule, type TypedScheduleRequest } from "./schedules/encode.ts"
export {
  type Fire,
  type FireDueOptions,
  type FireDueReason,
  type Fired,
  type FiredDue,
  fireDue,
  type Postponed,
  type PostponeReason
} from "./schedules/fire.ts"
export { type SetActiveReason, type SetNextFireAtReason, setActive, setNextFireAt } from "./schedules/operate.ts"
export { get, type ListOptions, list } from "./schedules/read.ts"
export {
  type ScheduleSyncReason,
  type ScheduleWriteReason,
  type SyncOptions,
  type SyncReport,
  type SyncScope,
  sync,
  syncExact,
  upsert
} from "./schedules/write.ts"
