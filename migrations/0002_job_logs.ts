import type { Migration } from "./Migration.ts"

/** Log lines of handlers, kept beside the job; inserted through a look-up of the job, without a foreign key. */
const migration: Migration = {
  id: 2,
  name: "job_logs",
  breaking: false,
  statements: [
    `CREATE TABLE runledger.job_logs (
  id bigint GENERATED ALWAYS AS IDENTITY,
  job_id uuid NOT NULL,
  run_number integer NOT NULL DEFAULT 1,
  attempt integer,
  level text NOT NULL,
  message text NOT NULL,
  payload jsonb NOT NULL DEFAULT '{}',
  occurred_at timestamptz NOT NULL,
  CONSTRAINT pk_job_logs PRIMARY KEY (job_id, id),
  CONSTRAINT chk_job_logs_attempt_nonnegative CHECK (attempt >= 0),
  CONSTRAINT chk_job_logs_run_number_positive CHECK (run_number > 0),
  CONSTRAINT chk_job_logs_level_not_blank CHECK (level::bpchar <> ''),
  CONSTRAINT chk_job_logs_message_not_blank CHECK (message::bpchar <> '')
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)`
  ]
}

export default migration
