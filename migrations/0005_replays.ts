import type { Migration } from "./Migration.ts"

/**
 * What is done about jobs that have ended: the lineage of replays, and which dead letters still ask for something.
 */
const migration: Migration = {
  id: 5,
  name: "replays",
  breaking: false,
  statements: [
    // Without foreign keys to job_queue, whose triggers would make each update of a job 8 % slower: a job is deleted by one
    // operation, which takes this along, and which leaves a replay until its source is gone, because who is asked for the same
    // replay again must find it.
    `CREATE TABLE runledger.job_replays (
  replay_job_id uuid NOT NULL,
  source_job_id uuid NOT NULL,
  source_run_number integer NOT NULL,
  replay_request_key text NOT NULL,
  reason text NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_job_replays PRIMARY KEY (replay_job_id),
  CONSTRAINT uq_job_replays_source_request UNIQUE (source_job_id, source_run_number, replay_request_key),
  CONSTRAINT chk_job_replays_distinct_jobs CHECK (source_job_id <> replay_job_id),
  CONSTRAINT chk_job_replays_source_run_positive CHECK (source_run_number > 0),
  CONSTRAINT chk_job_replays_request_key CHECK (
    replay_request_key::bpchar <> '' AND octet_length(replay_request_key) <= 512
  ),
  CONSTRAINT chk_job_replays_reason_not_blank CHECK (reason::bpchar <> '')
)`,

    // The run whose dead letter asks for nothing any more: the job was requeued since, or a redrive has met it and found that
    // it belongs to a workflow run. A later dead letter of the job has a higher run number, so it is open by itself.
    "ALTER TABLE runledger.job_dead_letters ADD COLUMN settled_run_number integer",

    // Jobs.redriveDeadLetters of one type, oldest first, past whatever was redriven before. The owner is an expression,
    // because PostgreSQL takes an index for ordered behind '=', but not behind IS NULL.
    `CREATE INDEX idx_job_dead_letters_open_type
  ON runledger.job_dead_letters (COALESCE(organization_id::text, ''), job_type, failed_at, job_id)
  WHERE settled_run_number IS DISTINCT FROM run_number`,

    // The same of all types. The second clause is always true and said by that statement alone, so that no redrive of one
    // type is answered from here
    `CREATE INDEX idx_job_dead_letters_open
  ON runledger.job_dead_letters (COALESCE(organization_id::text, ''), failed_at, job_id)
  WHERE settled_run_number IS DISTINCT FROM run_number AND attempt > 0`
  ]
}

export default migration
