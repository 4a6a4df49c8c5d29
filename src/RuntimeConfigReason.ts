/**
 * Why an operation on runtime configs failed; see `Reason.ts`.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** The job type has no runtime config, and one is required. */
export class RuntimeConfigNotFound extends Schema.TaggedError<RuntimeConfigNotFound>(`${prefix}/RuntimeConfigNotFound`)(
  "RuntimeConfigNotFound",
  { jobType: Schema.String }
) {
  readonly code = "job.runtime_config_not_found"
  readonly category = "NotFound"
  readonly transactionUsable = true
  override get message(): string {
    return `Job type ${this.jobType} has no runtime config`
  }
}

/** The stored config is not what the schema of the caller describes. Its values are never named. */
export class RuntimeConfigInvalid extends Schema.TaggedError<RuntimeConfigInvalid>(`${prefix}/RuntimeConfigInvalid`)(
  "RuntimeConfigInvalid",
  { jobType: Schema.String, schemaVersion: Schema.Int }
) {
  readonly code = "job.runtime_config_invalid"
  readonly category = "Internal"
  readonly transactionUsable = true
  override get message(): string {
    return `The runtime config of job type ${this.jobType} (version ${this.schemaVersion}) is not what is expected`
  }
}

/** What operations on runtime configs fail with, beside the reasons of any operation. */
export type RuntimeConfigReason = RuntimeConfigNotFound | RuntimeConfigInvalid
