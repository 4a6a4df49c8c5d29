/**
 * What each operation raises, exactly: the compiler compares these lists with the signatures, in both directions.
 */
import type { Effect, Result } from "effect"
import type {
  Catalog,
  Health,
  JobDefinitions,
  JobIntents,
  JobLogs,
  JobResources,
  JobRuntimeConfigs,
  JobSchedules,
  Jobs,
  QueryError,
  Reason,
  Retention,
  Workflows
} from "../../src/index.ts"

/** The reasons in the error channel of an operation. */
type Raised<F> = F extends (...args: never) => Effect.Effect<infer _A, QueryError<infer R>, infer _R>
  ? R["_tag"]
  : never

/** The reasons that an operation answers single rows of a batch with. */
type Answered<F> = F extends (
  ...args: never
) => Effect.Effect<ReadonlyArray<Result.Result<infer _A, infer R>>, infer _E, infer _R>
  ? R extends Reason
    ? R["_tag"]
    : never
  : never

const exactly =
  <Tag extends string>() =>
  <const T extends ReadonlyArray<Tag>>(
    ...tags: [Exclude<Tag, T[number]>] extends [never] ? T : ["missing", Exclude<Tag, T[number]>]
  ): ReadonlyArray<string> =>
    tags

const read = ["Unavailable", "PermissionDenied", "QueryFailed"] as const
const write = [...read, "OutcomeUnknown", "ConstraintViolation"] as const

/** What an operation fails with as a whole. */
export const raised: Readonly<Record<string, ReadonlyArray<string>>> = {
  "Jobs.enqueue": exactly<Raised<typeof Jobs.enqueue>>()(
    "InvalidArgument",
    "DefinitionUnavailable",
    "IdempotencyConflict",
    "IdempotencySnapshotMissing",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.enqueueMany": exactly<Raised<typeof Jobs.enqueueMany>>()("InvalidArgument", "UnsupportedIsolation", ...write),
  "Jobs.claim": exactly<Raised<typeof Jobs.claim>>()(
    "InvalidArgument",
    "InvalidLeaseDuration",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.claimPrestart": exactly<Raised<typeof Jobs.claimPrestart>>()(
    "InvalidArgument",
    "InvalidLeaseDuration",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.releaseUnstarted": exactly<Raised<typeof Jobs.releaseUnstarted>>()(
    "InvalidArgument",
    "LeaseOwnerMismatch",
    "UnstartedClaimReleaseNotApplicable",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.heartbeat": exactly<Raised<typeof Jobs.heartbeat>>()(
    "InvalidArgument",
    "InvalidLeaseDuration",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.heartbeatMany": exactly<Raised<typeof Jobs.heartbeatMany>>()(
    "InvalidArgument",
    "InvalidLeaseDuration",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.markRunning": exactly<Raised<typeof Jobs.markRunning>>()(
    "InvalidArgument",
    "InvalidProgress",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.updateProgress": exactly<Raised<typeof Jobs.updateProgress>>()(
    "InvalidArgument",
    "InvalidProgress",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.completeSuccess": exactly<Raised<typeof Jobs.completeSuccess>>()(
    "InvalidArgument",
    "InvalidCompletionProgress",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.completeFailure": exactly<Raised<typeof Jobs.completeFailure>>()(
    "InvalidArgument",
    "InvalidRetryTiming",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.completeContinuation": exactly<Raised<typeof Jobs.completeContinuation>>()(
    "InvalidArgument",
    "InvalidCompletionProgress",
    "InvalidContinuationDelay",
    "LeaseOwnerMismatch",
    "UnsupportedIsolation",
    "WorkflowContinuationNotEnabled",
    ...write
  ),
  "Jobs.completeMany": exactly<Raised<typeof Jobs.completeMany>>()(
    "InvalidArgument",
    "InvalidCompletionProgress",
    "InvalidContinuationDelay",
    "InvalidRetryTiming",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.reapExpiredLeases": exactly<Raised<typeof Jobs.reapExpiredLeases>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.cancel": exactly<Raised<typeof Jobs.cancel>>()(
    "InvalidArgument",
    "InvalidStateTransition",
    "JobNotFound",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.requeue": exactly<Raised<typeof Jobs.requeue>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    "WorkflowRequeueNotSupported",
    ...write
  ),
  "Jobs.replay": exactly<Raised<typeof Jobs.replay>>()(
    "DefinitionUnavailable",
    "InvalidArgument",
    "InvalidReplay",
    "ReplayConflict",
    "UnsupportedIsolation",
    "WorkflowRequeueNotSupported",
    ...write
  ),
  "Jobs.redriveDeadLetters": exactly<Raised<typeof Jobs.redriveDeadLetters>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.updatePendingPayload": exactly<Raised<typeof Jobs.updatePendingPayload>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.updatePendingPayloadField": exactly<Raised<typeof Jobs.updatePendingPayloadField>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Jobs.payloadByIdempotencyKey": exactly<Raised<typeof Jobs.payloadByIdempotencyKey>>()("InvalidArgument", ...read),
  "Jobs.latestPayloadForRun": exactly<Raised<typeof Jobs.latestPayloadForRun>>()("InvalidArgument", ...read),
  "Jobs.outcome": exactly<Raised<typeof Jobs.outcome>>()("InvalidArgument", ...read),
  "Jobs.get": exactly<Raised<typeof Jobs.get>>()("InvalidArgument", ...read),
  "Jobs.list": exactly<Raised<typeof Jobs.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.count": exactly<Raised<typeof Jobs.count>>()("InvalidArgument", ...read),
  "Jobs.statuses": exactly<Raised<typeof Jobs.statuses>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.events": exactly<Raised<typeof Jobs.events>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.attempts": exactly<Raised<typeof Jobs.attempts>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.deadLetters": exactly<Raised<typeof Jobs.deadLetters>>()("InvalidArgument", "InvalidPagination", ...read),
  "JobDefinitions.upsert": exactly<Raised<typeof JobDefinitions.upsert>>()(
    "InvalidArgument",
    "ActiveScheduleExists",
    "UnsupportedIsolation",
    ...write
  ),
  "JobDefinitions.insertIfMissing": exactly<Raised<typeof JobDefinitions.insertIfMissing>>()(
    "InvalidArgument",
    ...write
  ),
  "JobDefinitions.update": exactly<Raised<typeof JobDefinitions.update>>()(
    "InvalidArgument",
    "ActiveScheduleExists",
    "UnsupportedIsolation",
    ...write
  ),
  "JobDefinitions.sync": exactly<Raised<typeof JobDefinitions.sync>>()(
    "InvalidArgument",
    "ActiveScheduleExists",
    "UnsupportedIsolation",
    ...write
  ),
  "JobDefinitions.syncExact": exactly<Raised<typeof JobDefinitions.syncExact>>()(
    "InvalidArgument",
    "EmptyJobTypeList",
    "ActiveScheduleExists",
    "UnsupportedIsolation",
    ...write
  ),
  "Catalog.sync": exactly<Raised<typeof Catalog.sync>>()(
    "InvalidArgument",
    "InvalidCatalog",
    "EmptyJobTypeList",
    "ActiveScheduleExists",
    "InvalidSchedule",
    "ScheduleDefinitionUnavailable",
    "ScheduleOwnedElsewhere",
    "UnsupportedIsolation",
    ...write
  ),
  "Catalog.check": exactly<Raised<typeof Catalog.check>>()("InvalidArgument", "InvalidCatalog", ...read),
  "JobDefinitions.get": exactly<Raised<typeof JobDefinitions.get>>()("InvalidArgument", ...read),
  "JobDefinitions.list": exactly<Raised<typeof JobDefinitions.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "JobResources.upsert": exactly<Raised<typeof JobResources.upsert>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "JobResources.remove": exactly<Raised<typeof JobResources.remove>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "JobResources.get": exactly<Raised<typeof JobResources.get>>()("InvalidArgument", ...read),
  "JobResources.list": exactly<Raised<typeof JobResources.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "JobResources.holders": exactly<Raised<typeof JobResources.holders>>()("InvalidArgument", ...read),
  "JobLogs.insert": exactly<Raised<typeof JobLogs.insert>>()("InvalidArgument", "JobNotFound", ...write),
  "JobLogs.insertMany": exactly<Raised<typeof JobLogs.insertMany>>()("InvalidArgument", ...write),
  "JobLogs.list": exactly<Raised<typeof JobLogs.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "Workflows.enqueue": exactly<Raised<typeof Workflows.enqueue>>()(
    "ActiveKeyMisuse",
    "InvalidArgument",
    "InvalidWorkflow",
    "StepDefinitionUnavailable",
    "UnsupportedIsolation",
    "WorkflowIdempotencyConflict",
    "WorkflowSnapshotMissing",
    ...write
  ),
  "Workflows.enqueueOrGetActive": exactly<Raised<typeof Workflows.enqueueOrGetActive>>()(
    "ActiveKeyMisuse",
    "InvalidArgument",
    "InvalidWorkflow",
    "StepDefinitionUnavailable",
    "UnsupportedIsolation",
    "WorkflowIdempotencyConflict",
    "WorkflowSnapshotMissing",
    ...write
  ),
  "Workflows.append": exactly<Raised<typeof Workflows.append>>()(
    "AppendConflict",
    "AppendRefused",
    "InvalidArgument",
    "InvalidWorkflow",
    "StepDefinitionUnavailable",
    "UnsupportedIsolation",
    "WorkflowRunNotFound",
    ...write
  ),
  "Workflows.completeExternal": exactly<Raised<typeof Workflows.completeExternal>>()(
    "ExternalCompletionConflict",
    "ExternalStepNotFound",
    "ExternalStepNotWaiting",
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Workflows.cancel": exactly<Raised<typeof Workflows.cancel>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    "WorkflowRunNotFound",
    ...write
  ),
  "Workflows.recover": exactly<Raised<typeof Workflows.recover>>()(
    "ActiveKeyMisuse",
    "InvalidArgument",
    "InvalidRecovery",
    "InvalidWorkflow",
    "RecoveryConflict",
    "RecoverySourceNotFound",
    "StepDefinitionUnavailable",
    "UnsupportedIsolation",
    "WorkflowIdempotencyConflict",
    "WorkflowSnapshotMissing",
    ...write
  ),
  "Workflows.updatePendingPayload": exactly<Raised<typeof Workflows.updatePendingPayload>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Workflows.stepKeysForUpdate": exactly<Raised<typeof Workflows.stepKeysForUpdate>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    "WorkflowRunNotFound",
    ...write
  ),
  "Workflows.get": exactly<Raised<typeof Workflows.get>>()("InvalidArgument", ...read),
  "Workflows.status": exactly<Raised<typeof Workflows.status>>()("InvalidArgument", ...read),
  "Workflows.list": exactly<Raised<typeof Workflows.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "Workflows.count": exactly<Raised<typeof Workflows.count>>()("InvalidArgument", ...read),
  "Workflows.latestByType": exactly<Raised<typeof Workflows.latestByType>>()("InvalidArgument", ...read),
  "Workflows.getByIdempotencyKey": exactly<Raised<typeof Workflows.getByIdempotencyKey>>()("InvalidArgument", ...read),
  "Workflows.runOfJob": exactly<Raised<typeof Workflows.runOfJob>>()("InvalidArgument", ...read),
  "Workflows.awaitResult": exactly<Raised<typeof Workflows.awaitResult>>()(
    "InvalidArgument",
    "WorkflowRunNotFound",
    "NoResult",
    "UnsuccessfulRun",
    "ResultWaitTimeout",
    ...read
  ),
  "Workflows.steps": exactly<Raised<typeof Workflows.steps>>()("InvalidArgument", "InvalidPagination", ...read),
  "Workflows.stepByKey": exactly<Raised<typeof Workflows.stepByKey>>()("InvalidArgument", ...read),
  "Workflows.dependencies": exactly<Raised<typeof Workflows.dependencies>>()(
    "InvalidArgument",
    "InvalidPagination",
    ...read
  ),
  "JobIntents.record": exactly<Raised<typeof JobIntents.record>>()(
    "IntentConflict",
    "InvalidArgument",
    "InvalidIntent",
    "UnsupportedIsolation",
    ...write
  ),
  "JobIntents.recordMany": exactly<Raised<typeof JobIntents.recordMany>>()(
    "InvalidArgument",
    "InvalidIntent",
    "UnsupportedIsolation",
    ...write
  ),
  "JobIntents.promote": exactly<Raised<typeof JobIntents.promote>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "JobIntents.deletePromotedBefore": exactly<Raised<typeof JobIntents.deletePromotedBefore>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "JobIntents.deletePromotedForJobs": exactly<Raised<typeof JobIntents.deletePromotedForJobs>>()(
    "IntentRetentionTooLarge",
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "JobIntents.get": exactly<Raised<typeof JobIntents.get>>()("InvalidArgument", ...read),
  "JobIntents.list": exactly<Raised<typeof JobIntents.list>>()("InvalidArgument", "InvalidPagination", ...read),
  "JobIntents.metrics": exactly<Raised<typeof JobIntents.metrics>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.metrics": exactly<Raised<typeof Jobs.metrics>>()("InvalidArgument", "InvalidPagination", ...read),
  "Jobs.continuationMetrics": exactly<Raised<typeof Jobs.continuationMetrics>>()(
    "InvalidArgument",
    "InvalidPagination",
    ...read
  ),
  "Health.check": exactly<Raised<typeof Health.check>>()("InvalidArgument", ...read),
  "JobRuntimeConfigs.upsert": exactly<Raised<typeof JobRuntimeConfigs.upsert>>()("InvalidArgument", ...write),
  "JobRuntimeConfigs.insertIfMissing": exactly<Raised<typeof JobRuntimeConfigs.insertIfMissing>>()(
    "InvalidArgument",
    ...write
  ),
  "JobRuntimeConfigs.get": exactly<Raised<typeof JobRuntimeConfigs.get>>()("InvalidArgument", ...read),
  "JobRuntimeConfigs.getRequired": exactly<Raised<typeof JobRuntimeConfigs.getRequired>>()(
    "InvalidArgument",
    "RuntimeConfigNotFound",
    ...read
  ),
  "JobRuntimeConfigs.getDecoded": exactly<Raised<typeof JobRuntimeConfigs.getDecoded>>()(
    "InvalidArgument",
    "RuntimeConfigInvalid",
    "RuntimeConfigNotFound",
    ...read
  ),
  "JobRuntimeConfigs.list": exactly<Raised<typeof JobRuntimeConfigs.list>>()(
    "InvalidArgument",
    "InvalidPagination",
    ...read
  ),
  "JobSchedules.upsert": exactly<Raised<typeof JobSchedules.upsert>>()(
    "InvalidArgument",
    "InvalidSchedule",
    "ScheduleDefinitionUnavailable",
    ...write
  ),
  "JobSchedules.sync": exactly<Raised<typeof JobSchedules.sync>>()(
    "InvalidArgument",
    "InvalidSchedule",
    "ScheduleDefinitionUnavailable",
    "ScheduleOwnedElsewhere",
    ...write
  ),
  "JobSchedules.syncExact": exactly<Raised<typeof JobSchedules.syncExact>>()(
    "InvalidArgument",
    "InvalidSchedule",
    "ScheduleDefinitionUnavailable",
    "ScheduleOwnedElsewhere",
    ...write
  ),
  "JobSchedules.setActive": exactly<Raised<typeof JobSchedules.setActive>>()(
    "InvalidSchedule",
    "ScheduleDefinitionUnavailable",
    ...write
  ),
  "JobSchedules.setNextFireAt": exactly<Raised<typeof JobSchedules.setNextFireAt>>()(
    "InvalidArgument",
    "InvalidSchedule",
    ...write
  ),
  "JobSchedules.fireDue": exactly<Raised<typeof JobSchedules.fireDue>>()(
    "InvalidArgument",
    "UnsupportedIsolation",
    ...write
  ),
  "Retention.prune": exactly<Raised<typeof Retention.prune>>()("InvalidArgument", "UnsupportedIsolation", ...write),
  "JobSchedules.get": exactly<Raised<typeof JobSchedules.get>>()("InvalidSchedule", ...read),
  "JobSchedules.list": exactly<Raised<typeof JobSchedules.list>>()("InvalidArgument", "InvalidPagination", ...read)
}

/** The reasons with which `fireDue` postpones single schedules. */
type Postponed = JobSchedules.PostponeReason["_tag"]

/** What a batch answers single rows with. */
export const answered: Readonly<Record<string, ReadonlyArray<string>>> = {
  "Jobs.enqueueMany": exactly<Answered<typeof Jobs.enqueueMany>>()(
    "DefinitionUnavailable",
    "IdempotencyConflict",
    "IdempotencySnapshotMissing"
  ),
  "Jobs.heartbeatMany": exactly<Answered<typeof Jobs.heartbeatMany>>()("LeaseOwnerMismatch", "Unavailable"),
  "Jobs.completeMany": exactly<Answered<typeof Jobs.completeMany>>()(
    "LeaseOwnerMismatch",
    "InvalidCompletionProgress",
    "WorkflowContinuationNotEnabled",
    "Unavailable",
    "ConstraintViolation",
    "QueryFailed"
  ),
  "JobIntents.recordMany": exactly<Answered<typeof JobIntents.recordMany>>()("IntentConflict"),
  "JobSchedules.fireDue": exactly<Postponed>()(
    "InvalidSchedule",
    "InvalidArgument",
    "DefinitionUnavailable",
    "IdempotencyConflict",
    "IdempotencySnapshotMissing",
    "ConstraintViolation",
    "QueryFailed"
  )
}
