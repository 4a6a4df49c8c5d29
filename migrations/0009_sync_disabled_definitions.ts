import type { Migration } from "./Migration.ts"

/**
 * Which definitions a sync has disabled: declared again, they are enabled again, unlike those that an operator has disabled.
 *
 * It counts only while the definition is disabled. No rule says so: a process of the version before may enable the definition
 * without knowing of it.
 */
const migration: Migration = {
  id: 9,
  name: "sync_disabled_definitions",
  breaking: false,
  statements: ["ALTER TABLE runledger.job_definitions ADD COLUMN sync_disabled_at timestamptz"]
}

export default migration
