/**
 * The jobs, workflows and schedules of an application in one place: what its workers run, what is declared when it starts, and
 * whether it can take over the work that waits.
 */
export {
  type CatalogCheckOptions,
  type CatalogCheckReport,
  type CatalogFinding,
  type CatalogProblem,
  type CatalogWork,
  check
} from "./catalog/check.ts"
export { type Catalog, type CatalogOptions, make, validate, type WorkflowJobs } from "./catalog/make.ts"
export {
  type CatalogSyncOptions,
  type CatalogSyncReason,
  type CatalogSyncReport,
  type ExactScope,
  layer,
  Synced,
  sync
} from "./catalog/sync.ts"
