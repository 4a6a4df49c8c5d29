import type { Migration } from "./Migration.ts"

// not blank, as Unicode counts blanks, and at most 512 bytes
const shortKey = (column: string) => `
    ${column} ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
    AND octet_length(${column}) <= 512`

/**
 * Workflow runs: graphs of steps, each either a job or an external step (gate).
 *
 * - The row of a run is the mutex of the run (see src/workflows/lock.ts), and counts its steps, so that its status is known
 *   without reading them.
 * - A step of a job and that job name each other (`workflow_steps.job_id`, `job_queue.workflow_step_id`); both links are
 *   written once, in the statement that releases the step. Steps, edges and jobs have no foreign keys: only our statements
 *   write them, and 600 steps with 2,400 edges would pay for 9,000 look-ups.
 * - Hot statements find a step by its id alone, which only the primary key answers: by run and id, either of two indexes
 *   could be taken, and the wrong one reads the whole run.
 */
const migration: Migration = {
  id: 3,
  name: "workflows",
  breaking: false,
  statements: [
    // steps_open: BLOCKED, ENQUEUED or RUNNING; steps_waiting: WAITING_FOR_EXTERNAL; steps_unsuccessful: FAILED or CANCELED
    `CREATE TABLE runledger.workflow_runs (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  workflow_type text NOT NULL,
  organization_id uuid,
  status text NOT NULL DEFAULT 'RUNNING',
  steps_total integer NOT NULL DEFAULT 0,
  steps_open integer NOT NULL DEFAULT 0,
  steps_waiting integer NOT NULL DEFAULT 0,
  steps_unsuccessful integer NOT NULL DEFAULT 0,
  idempotency_key text,
  enqueue_request jsonb,
  result_step_key text,
  result jsonb,
  metadata jsonb NOT NULL DEFAULT '{}',
  trace_parent text,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_runs PRIMARY KEY (id),
  CONSTRAINT chk_workflow_runs_workflow_type_not_blank CHECK (workflow_type::bpchar <> ''),
  CONSTRAINT chk_workflow_runs_status CHECK (
    status IN ('RUNNING', 'WAITING_FOR_EXTERNAL', 'SUCCEEDED', 'COMPLETED_WITH_ERRORS', 'CANCELED')
  ),
  CONSTRAINT chk_workflow_runs_idempotency_key_not_blank CHECK (idempotency_key::bpchar <> ''),
  CONSTRAINT chk_workflow_runs_result_step_key_not_blank CHECK (result_step_key::bpchar <> ''),
  CONSTRAINT chk_workflow_runs_step_counts CHECK (
    steps_open >= 0 AND steps_waiting >= 0 AND steps_unsuccessful >= 0
    AND steps_open + steps_waiting + steps_unsuccessful <= steps_total
  )
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000)`,

    // keyed rows written before request snapshots existed; validated by Migrator once no such rows are left
    `ALTER TABLE runledger.workflow_runs
  ADD CONSTRAINT ck_workflow_runs_idempotency_enqueue_request
  CHECK (idempotency_key IS NULL OR enqueue_request IS NOT NULL) NOT VALID`,

    // Workflows.enqueue with a key, within an organization and globally
    `CREATE UNIQUE INDEX uq_workflow_runs_type_idempotency
  ON runledger.workflow_runs (workflow_type, organization_id, idempotency_key) NULLS NOT DISTINCT
  WHERE idempotency_key IS NOT NULL`,

    // Workflows.list of a type, Workflows.latestByType
    `CREATE INDEX idx_workflow_runs_type ON runledger.workflow_runs (workflow_type, id)`,

    // Workflows.list of one organization; only tenants pay for it
    `CREATE INDEX idx_workflow_runs_organization
  ON runledger.workflow_runs (organization_id, id)
  WHERE organization_id IS NOT NULL`,

    // Workflows.list of what is under way: few, however many runs there were
    `CREATE INDEX idx_workflow_runs_under_way
  ON runledger.workflow_runs (id)
  WHERE status IN ('RUNNING', 'WAITING_FOR_EXTERNAL')`,

    // Workflows.list of what went wrong: of few runs, one hopes, and only these pay for it
    `CREATE INDEX idx_workflow_runs_unsuccessful
  ON runledger.workflow_runs (id)
  WHERE status IN ('COMPLETED_WITH_ERRORS', 'CANCELED')`,

    // fan_out_key and fan_out_index: this step is one of many with the same contract, whose dependents see an array;
    // prerequisite_step_ids: what the edges say as well, so that a handler finds the outputs that it reads without an index of
    // the edges by dependent, which every one of them would pay for
    `CREATE TABLE runledger.workflow_steps (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  workflow_run_id uuid NOT NULL,
  step_key text NOT NULL,
  fan_out_key text,
  fan_out_index integer,
  execution_kind text NOT NULL DEFAULT 'JOB',
  job_type text,
  payload_version integer NOT NULL DEFAULT 1,
  organization_id uuid,
  payload jsonb NOT NULL DEFAULT '{}',
  priority integer,
  max_attempts integer,
  timeout_seconds integer,
  stage text,
  allow_handler_continuation boolean NOT NULL DEFAULT false,
  execution_resource_key text,
  status text NOT NULL DEFAULT 'BLOCKED',
  job_id uuid,
  released_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  dependency_count_total integer NOT NULL DEFAULT 0,
  dependency_count_pending integer NOT NULL DEFAULT 0,
  dependency_count_unsatisfied integer NOT NULL DEFAULT 0,
  prerequisite_step_ids uuid[] NOT NULL DEFAULT '{}',
  status_reason text,
  last_error_code text,
  last_error_message text,
  output jsonb,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_steps PRIMARY KEY (id),
  CONSTRAINT uq_workflow_steps_run_step_key UNIQUE (workflow_run_id, step_key),
  CONSTRAINT chk_workflow_steps_step_key_not_blank CHECK (step_key::bpchar <> ''),
  CONSTRAINT chk_workflow_steps_fan_out CHECK (
    (fan_out_key IS NULL) = (fan_out_index IS NULL) AND fan_out_key::bpchar <> '' AND fan_out_index >= 0
  ),
  CONSTRAINT chk_workflow_steps_job_type_not_blank CHECK (job_type::bpchar <> ''),
  CONSTRAINT chk_workflow_steps_stage_not_blank CHECK (stage::bpchar <> ''),
  CONSTRAINT chk_workflow_steps_max_attempts_positive CHECK (max_attempts > 0),
  CONSTRAINT chk_workflow_steps_timeout_positive CHECK (timeout_seconds > 0),
  CONSTRAINT chk_workflow_steps_execution_kind CHECK (execution_kind IN ('JOB', 'EXTERNAL')),
  CONSTRAINT chk_workflow_steps_status CHECK (
    status IN ('BLOCKED', 'WAITING_FOR_EXTERNAL', 'ENQUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED')
  ),
  CONSTRAINT chk_workflow_steps_dependency_counts_nonnegative CHECK (
    dependency_count_total >= 0
    AND dependency_count_pending BETWEEN 0 AND dependency_count_total
    AND dependency_count_unsatisfied BETWEEN 0 AND dependency_count_total
  ),
  CONSTRAINT chk_workflow_steps_execution_shape CHECK (
    CASE execution_kind
      WHEN 'JOB' THEN num_nulls(job_type, priority, max_attempts, timeout_seconds, stage) = 0
      ELSE num_nonnulls(job_id, job_type, priority, max_attempts, timeout_seconds, stage) = 0
    END
  ),
  CONSTRAINT chk_workflow_steps_handler_continuation_job_only CHECK (
    execution_kind = 'JOB' OR NOT allow_handler_continuation
  ),
  CONSTRAINT chk_workflow_steps_execution_resource_key CHECK (
    execution_resource_key IS NULL OR execution_kind = 'JOB' AND ${shortKey("execution_resource_key")}
  )
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000)`,

    // what a finished step releases is found by its primary key: a completion costs what its own edges cost
    `CREATE TABLE runledger.workflow_step_dependencies (
  workflow_run_id uuid NOT NULL,
  prerequisite_step_id uuid NOT NULL,
  dependent_step_id uuid NOT NULL,
  release_mode text NOT NULL DEFAULT 'ON_TERMINAL',
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_step_dependencies PRIMARY KEY (workflow_run_id, prerequisite_step_id, dependent_step_id),
  CONSTRAINT chk_workflow_step_dependencies_release_mode CHECK (release_mode IN ('ON_TERMINAL', 'ON_SUCCESS')),
  CONSTRAINT chk_workflow_step_dependencies_no_self_reference CHECK (prerequisite_step_id <> dependent_step_id)
)`,

    `CREATE TABLE runledger.workflow_run_mutations (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  workflow_run_id uuid NOT NULL,
  mutation_key text NOT NULL,
  mutation_kind text NOT NULL DEFAULT 'APPEND_STEPS',
  metadata jsonb NOT NULL DEFAULT '{}',
  request jsonb NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_run_mutations PRIMARY KEY (id),
  CONSTRAINT fk_workflow_run_mutations_workflow_run
    FOREIGN KEY (workflow_run_id) REFERENCES runledger.workflow_runs (id) ON DELETE CASCADE,
  CONSTRAINT chk_workflow_run_mutations_mutation_key_not_blank CHECK (mutation_key::bpchar <> ''),
  CONSTRAINT chk_workflow_run_mutations_kind CHECK (mutation_kind = 'APPEND_STEPS')
)`,

    `CREATE UNIQUE INDEX uq_workflow_run_mutations_run_mutation_key
  ON runledger.workflow_run_mutations (workflow_run_id, mutation_key)`,

    // The foreign key is checked at commit: the claim is taken first, because it decides whether there will be a run.
    `CREATE TABLE runledger.workflow_active_claims (
  scope text NOT NULL,
  active_key text NOT NULL,
  workflow_run_id uuid NOT NULL,
  release_pending boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_active_claims PRIMARY KEY (scope, active_key),
  CONSTRAINT uq_workflow_active_claims_run UNIQUE (workflow_run_id),
  CONSTRAINT fk_workflow_active_claims_run
    FOREIGN KEY (workflow_run_id) REFERENCES runledger.workflow_runs (id) ON DELETE CASCADE
    DEFERRABLE INITIALLY DEFERRED,
  CONSTRAINT chk_workflow_active_claims_scope_not_blank CHECK (scope::bpchar <> ''),
  CONSTRAINT chk_workflow_active_claims_key_not_blank CHECK (${shortKey("active_key")})
)`,

    // Jobs.reapExpiredLeases gives keys back that a canceled handler still held when its run ended
    `CREATE INDEX idx_workflow_active_claims_release_pending
  ON runledger.workflow_active_claims (updated_at, workflow_run_id)
  WHERE release_pending`,

    `CREATE TABLE runledger.workflow_recoveries (
  recovery_run_id uuid NOT NULL,
  source_run_id uuid NOT NULL,
  source_step_id uuid,
  request_key text NOT NULL,
  mode text NOT NULL,
  reason text NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_workflow_recoveries PRIMARY KEY (recovery_run_id),
  CONSTRAINT fk_workflow_recoveries_recovery_run
    FOREIGN KEY (recovery_run_id) REFERENCES runledger.workflow_runs (id),
  CONSTRAINT fk_workflow_recoveries_source_run
    FOREIGN KEY (source_run_id) REFERENCES runledger.workflow_runs (id) ON DELETE CASCADE,
  CONSTRAINT fk_workflow_recoveries_source_step
    FOREIGN KEY (source_step_id) REFERENCES runledger.workflow_steps (id) ON DELETE SET NULL,
  CONSTRAINT chk_workflow_recoveries_distinct_runs CHECK (recovery_run_id <> source_run_id),
  CONSTRAINT chk_workflow_recoveries_request_key CHECK (${shortKey("request_key")}),
  CONSTRAINT chk_workflow_recoveries_mode CHECK (mode = 'FULL_REPLAY'),
  CONSTRAINT chk_workflow_recoveries_reason CHECK (reason::bpchar <> '')
)`,

    // Workflows.recover finds an earlier recovery by its key
    `CREATE UNIQUE INDEX uq_workflow_recoveries_source_request
  ON runledger.workflow_recoveries (source_run_id, request_key)`
  ]
}

export default migration
