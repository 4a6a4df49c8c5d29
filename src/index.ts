/**
 * Durable jobs and workflows on PostgreSQL, as Effects.
 *
 * - Typed contracts: {@link Job}, {@link JobExecution}. All of an application in one place: {@link Catalog}.
 * - What may happen to a job: {@link Jobs}, {@link JobDefinitions}, {@link JobIntents}, {@link JobLogs}, {@link JobResources},
 *   {@link JobRuntimeConfigs}, {@link JobSchedules}.
 * - Graphs of jobs: {@link Workflow}; what may happen to one: {@link Workflows}.
 * - Who does it: {@link Worker}, {@link Reaper}, {@link Scheduler}, {@link IntentPromoter}, {@link Retention},
 *   {@link Notifications}, or all of them at once: {@link Runledger}.
 * - Whether all is well: {@link Health}. The schema: {@link Migrator}.
 * - What can go wrong: {@link QueryError} and its reasons, {@link SchemaCompatibilityError} and its reasons.
 */
export * as Catalog from "./Catalog.ts"
export { type DefinitionReason, EmptyJobTypeList, InvalidCatalog } from "./DefinitionReason.ts"
export * as FrameworkConstraint from "./FrameworkConstraint.ts"
export * as Health from "./Health.ts"
export * as IntentPromoter from "./IntentPromoter.ts"
export * as Job from "./Job.ts"
export * as JobDefinitions from "./JobDefinitions.ts"
export * as JobExecution from "./JobExecution.ts"
export { IntentConflict, IntentRetentionTooLarge, InvalidIntent, type JobIntentReason } from "./JobIntentReason.ts"
export * as JobIntents from "./JobIntents.ts"
export * as JobLogs from "./JobLogs.ts"
export * as JobResources from "./JobResources.ts"
export * as JobRuntimeConfigs from "./JobRuntimeConfigs.ts"
export * as JobSchedules from "./JobSchedules.ts"
export * as Jobs from "./Jobs.ts"
export * as Migrator from "./Migrator.ts"
export * as Notifications from "./Notifications.ts"
export { QueryError } from "./QueryError.ts"
export * as Reaper from "./Reaper.ts"
export {
  Category,
  ConstraintViolation,
  DefinitionUnavailable,
  IdempotencyConflict,
  IdempotencySnapshotMissing,
  InvalidArgument,
  InvalidCompletionProgress,
  InvalidContinuationDelay,
  InvalidLeaseDuration,
  InvalidPagination,
  InvalidProgress,
  InvalidRetryTiming,
  InvalidStateTransition,
  JobNotFound,
  LeaseOwnerMismatch,
  OutcomeUnknown,
  PermissionDenied,
  QueryFailed,
  type ReadReason,
  type Reason,
  type Source,
  Unavailable,
  UnstartedClaimReleaseNotApplicable,
  UnsupportedIsolation,
  type WriteReason
} from "./Reason.ts"
export { InvalidReplay, type RecoveryReason, ReplayConflict, WorkflowRequeueNotSupported } from "./RecoveryReason.ts"
export * as Retention from "./Retention.ts"
export * as Runledger from "./Runledger.ts"
export { RuntimeConfigInvalid, RuntimeConfigNotFound, type RuntimeConfigReason } from "./RuntimeConfigReason.ts"
export {
  ActiveScheduleExists,
  InvalidSchedule,
  ScheduleDefinitionUnavailable,
  ScheduleOwnedElsewhere,
  type ScheduleReason
} from "./ScheduleReason.ts"
export * as Scheduler from "./Scheduler.ts"
export {
  ChecksumMismatch,
  DatabaseFailure,
  Difference,
  HistoryGap,
  HistoryMalformed,
  HistoryMissing,
  InsideTransaction,
  InsufficientPrivilege,
  KeyedRowsWithoutSnapshot,
  type MigrateReason,
  MigrationFailed,
  MigrationName,
  MigrationsPending,
  ObjectKind,
  SchemaBusy,
  SchemaCompatibilityError,
  type SchemaCompatibilityReason,
  SchemaDrift,
  UnknownBreakingMigration,
  type VerifyReason
} from "./SchemaCompatibilityError.ts"
export * as StatementClock from "./StatementClock.ts"
export * as TenantScope from "./TenantScope.ts"
export * as Worker from "./Worker.ts"
export * as Workflow from "./Workflow.ts"
export {
  ActiveKeyMisuse,
  AppendConflict,
  AppendRefused,
  ExternalCompletionConflict,
  ExternalStepNotFound,
  ExternalStepNotWaiting,
  GraphRule,
  InvalidRecovery,
  InvalidWorkflow,
  NoResult,
  RecoveryConflict,
  RecoverySourceNotFound,
  ResultWaitTimeout,
  StepDefinitionUnavailable,
  UnsuccessfulRun,
  WorkflowContinuationNotEnabled,
  WorkflowIdempotencyConflict,
  type WorkflowReason,
  WorkflowRunNotFound,
  WorkflowSnapshotMissing
} from "./WorkflowReason.ts"
export * as Workflows from "./Workflows.ts"
