import type { Migration } from "./Migration.ts"

/** What operators set and look at: a document of settings per job type, and what ended lately. */
const migration: Migration = {
  id: 7,
  name: "operations",
  breaking: false,
  statements: [
    // No foreign key to job_definitions: a type that only typed contracts use need not have a row there, and definitions are
    // never deleted, so there is nothing to cascade.
    `CREATE TABLE runledger.job_runtime_configs (
  job_type text NOT NULL,
  schema_version integer NOT NULL,
  config jsonb NOT NULL,
  updated_by_user_id uuid,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_runtime_configs PRIMARY KEY (job_type),
  CONSTRAINT chk_job_runtime_configs_type_not_blank CHECK (job_type::bpchar <> ''),
  CONSTRAINT chk_job_runtime_configs_schema_version_positive CHECK (schema_version > 0),
  CONSTRAINT chk_job_runtime_configs_config_object CHECK (jsonb_typeof(config) = 'object')
)`,

    // Jobs.metrics, Jobs.continuationMetrics: what ended lately. Attempts are written once and in about the order in which they
    // end, so a summary per range of pages finds them; an insert into the last range does not even touch it.
    `CREATE INDEX idx_job_attempts_finished_at
  ON runledger.job_attempts USING brin (finished_at) WITH (pages_per_range = 32, autosummarize = on)`
  ]
}

export default migration
