import jobs from "./0001_jobs.ts"
import jobLogs from "./0002_job_logs.ts"
import workflows from "./0003_workflows.ts"
import executionResources from "./0004_execution_resources.ts"
import replays from "./0005_replays.ts"
import jobIntents from "./0006_job_intents.ts"
import operations from "./0007_operations.ts"
import schedules from "./0008_schedules.ts"
import syncDisabledDefinitions from "./0009_sync_disabled_definitions.ts"
import retention from "./0010_retention.ts"
import type { Migration } from "./Migration.ts"

/** Every migration, in the order in which they apply. */
export const migrations: ReadonlyArray<Migration> = [
  jobs,
  jobLogs,
  workflows,
  executionResources,
  replays,
  jobIntents,
  operations,
  schedules,
  syncDisabledDefinitions,
  retention
]
