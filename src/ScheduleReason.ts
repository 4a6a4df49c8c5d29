/**
 * Why an operation on schedules failed. What is said in `Reason.ts` of reasons holds here too.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** A schedule breaks a rule. The rule does not quote what was given. */
export class InvalidSchedule extends Schema.TaggedError<InvalidSchedule>(`${prefix}/InvalidSchedule`)(
  "InvalidSchedule",
  {
    argument: Schema.String,
    rule: Schema.String,
    code: Schema.Literals([
      "job_schedule.invalid_name",
      "job_schedule.invalid_cron",
      "job_schedule.invalid_timezone",
      "job_schedule.invalid_jitter"
    ])
  }
) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `${this.argument} ${this.rule}`
  }
}

/** A schedule needs a definition of its job type, and an active one an enabled definition. */
export class ScheduleDefinitionUnavailable extends Schema.TaggedError<ScheduleDefinitionUnavailable>(
  `${prefix}/ScheduleDefinitionUnavailable`
)("ScheduleDefinitionUnavailable", {
  schedule: Schema.String,
  jobType: Schema.String,
  state: Schema.Literals(["missing", "disabled"])
}) {
  readonly code = "job_schedule.definition_not_found_or_disabled"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `The definition of job type ${this.jobType}, which the schedule ${this.schedule} needs, is ${this.state}`
  }
}

/** The schedule was declared under another owner. */
export class ScheduleOwnedElsewhere extends Schema.TaggedError<ScheduleOwnedElsewhere>(
  `${prefix}/ScheduleOwnedElsewhere`
)("ScheduleOwnedElsewhere", { schedule: Schema.String, owner: Schema.String }) {
  readonly code = "job_schedule.owned_elsewhere"
  readonly category = "Conflict"
  readonly transactionUsable = true
  override get message(): string {
    return `The schedule ${this.schedule} belongs to ${this.owner}`
  }
}

/** An active schedule enqueues jobs of this type: it must be paused before the definition is disabled. */
export class ActiveScheduleExists extends Schema.TaggedError<ActiveScheduleExists>(`${prefix}/ActiveScheduleExists`)(
  "ActiveScheduleExists",
  { jobType: Schema.String }
) {
  readonly code = "job_definition.active_schedule_exists"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `An active schedule enqueues jobs of type ${this.jobType}`
  }
}

/** Every reason that only schedules raise. */
export type ScheduleReason =
  | InvalidSchedule
  | ScheduleDefinitionUnavailable
  | ScheduleOwnedElsewhere
  | ActiveScheduleExists
