import type { Migration } from "./Migration.ts"

/** What makes deleting cheap. */
const migration: Migration = {
  id: 10,
  name: "retention",
  breaking: false,
  statements: [
    // Retention.prune: the foreign key of recoveries to the steps that they name looks here once for each step that is deleted,
    // which would otherwise read all recoveries there are
    `CREATE INDEX idx_workflow_recoveries_source_step
  ON runledger.workflow_recoveries (source_step_id)
  WHERE source_step_id IS NOT NULL`
  ]
}

export default migration
