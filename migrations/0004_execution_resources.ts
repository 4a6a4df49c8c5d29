import type { Migration } from "./Migration.ts"

/**
 * Execution resources: how many jobs with the same resource key run at once, and how many start within an interval.
 *
 * A permit is a row, and so is a token of a rate: who claims a job locks a free one of each, skipping those that others hold,
 * and writes the attempt to which it is given. Nothing gives a permit back. It is free as soon as that attempt no longer holds
 * its lease, which the job itself says, so there is nothing that a crash could leave behind.
 */
const migration: Migration = {
  id: 4,
  name: "execution_resources",
  breaking: false,
  statements: [
    // What an application said of a key. A key of which nothing was said has one permit and no rate.
    `CREATE TABLE runledger.job_execution_resources (
  resource_key runledger.job_queue_execution_resource_key NOT NULL,
  permits integer NOT NULL,
  rate_permits integer,
  rate_interval_ms integer,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_execution_resources PRIMARY KEY (resource_key),
  CONSTRAINT chk_job_execution_resources_permits CHECK (permits BETWEEN 1 AND 1000),
  CONSTRAINT chk_job_execution_resources_rate CHECK (
    (rate_permits IS NULL) = (rate_interval_ms IS NULL)
    AND rate_permits BETWEEN 1 AND 10000
    AND rate_interval_ms > 0
  )
)`,

    // job_id .. leased_seq: the attempt that took it last. uses counts how often it was taken, so that a claim can tell that
    // its snapshot of the permit is not the latest. A permit that is retired is held by an attempt that began when the key
    // had more of them; it is not given again, nor is any other of the key before that attempt ended. spot is a random place,
    // from which claims start to look through the keys.
    `CREATE TABLE runledger.job_execution_permits (
  id bigint GENERATED ALWAYS AS IDENTITY,
  resource_key runledger.job_queue_execution_resource_key NOT NULL,
  slot integer NOT NULL,
  spot double precision NOT NULL,
  is_retired boolean NOT NULL DEFAULT false,
  uses bigint NOT NULL DEFAULT 0,
  job_id uuid,
  run_number integer,
  attempt integer,
  leased_seq integer,
  taken_at timestamptz,
  CONSTRAINT pk_job_execution_permits PRIMARY KEY (id),
  CONSTRAINT uq_job_execution_permits_key_slot UNIQUE (resource_key, slot),
  CONSTRAINT chk_job_execution_permits_slot_positive CHECK (slot > 0),
  CONSTRAINT chk_job_execution_permits_holder CHECK (num_nulls(job_id, run_number, attempt, leased_seq, taken_at) IN (0, 5))
) WITH (
  -- no index names what a claim changes, so the next version of a row fits on its own page
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 1
)`,

    // where a claim begins: the key at a random place
    `CREATE INDEX idx_job_execution_permits_spot ON runledger.job_execution_permits (spot) WHERE slot = 1`,

    // one of the starts that a key has within its interval; free again an interval after it was taken
    `CREATE TABLE runledger.job_execution_rate_tokens (
  id bigint GENERATED ALWAYS AS IDENTITY,
  resource_key runledger.job_queue_execution_resource_key NOT NULL,
  free_at timestamptz NOT NULL,
  CONSTRAINT pk_job_execution_rate_tokens PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1)`,

    // a claim takes those that have been free for longest; that none is free is one probe
    `CREATE INDEX idx_job_execution_rate_tokens_free
  ON runledger.job_execution_rate_tokens (resource_key, free_at)`
  ]
}

export default migration
