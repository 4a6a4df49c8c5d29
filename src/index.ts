/**
 * Durable jobs on PostgreSQL, as Effects.
 *
 * What may happen to a job: {@link Jobs}, {@link JobDefinitions}, {@link JobLogs}. The schema: {@link Migrator}. What can go
 * wrong: {@link QueryError} and its reasons, {@link SchemaCompatibilityError} and its reasons.
 */
export * as FrameworkConstraint from "./FrameworkConstraint.ts"
export * as Job from "./Job.ts"
export * as JobDefinitions from "./JobDefinitions.ts"
export * as JobLogs from "./JobLogs.ts"
export * as Jobs from "./Jobs.ts"
export * as Migrator from "./Migrator.ts"
export * as Notifications from "./Notifications.ts"
export { QueryError } from "./QueryError.ts"
export * from "./Reason.ts"
export * from "./SchemaCompatibilityError.ts"
export * as StatementClock from "./StatementClock.ts"
export * as TenantScope from "./TenantScope.ts"
