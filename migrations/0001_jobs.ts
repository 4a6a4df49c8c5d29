import type { Migration } from "./Migration.ts"

/**
 * Jobs: what is declared, what is queued, and the ledger of what happened to it.
 *
 * - Hot tables (`job_queue`, `job_attempts`, `job_events`, `job_dead_letters`) have no foreign keys and no row triggers:
 *   only our statements write them, and each would be paid at every transition.
 * - No default, trigger or function here reads a clock, except the time inside a new id: every instant is passed in.
 * - Not blank is said as `x::bpchar <> ''`: that type does not count trailing blanks. Trimming costs half a microsecond a column.
 * - No transition of a job is a HOT update (status and due time are indexed), so each index is paid at each transition;
 *   the reason of each stands beside it.
 */
const migration: Migration = {
  id: 1,
  name: "jobs",
  breaking: false,
  statements: [
    // The text is the same on every server: plpgsql resolves the built-in of PostgreSQL 18 only when it runs.
    `CREATE FUNCTION runledger.uuidv7() RETURNS uuid
  LANGUAGE plpgsql VOLATILE PARALLEL SAFE
AS $$
DECLARE
  micros bigint;
BEGIN
  IF pg_catalog.current_setting('server_version_num')::int >= 180000 THEN
    RETURN pg_catalog.uuidv7();
  END IF;
  -- 48 bits of milliseconds, 12 bits of the fraction below, the rest random: ids of one server sort by creation
  micros := pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000);
  RETURN pg_catalog.encode(
    overlay(
      overlay(
        pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
        PLACING substring(pg_catalog.int8send(micros / 1000) FROM 3) FROM 1 FOR 6
      )
      PLACING substring(pg_catalog.int8send((7 << 12) | (micros % 1000 * 4096 / 1000)) FROM 7) FROM 7 FOR 2
    ),
    'hex'
  )::uuid;
END
$$`,

    // Many at once: one id, and those that follow it. Drawing random bits is what an id costs, and these sort as they are made.
    `CREATE FUNCTION runledger.uuidv7s(count integer) RETURNS uuid[]
  LANGUAGE plpgsql VOLATILE PARALLEL SAFE
AS $$
DECLARE
  head text := runledger.uuidv7();
  tail bigint := ('x' || pg_catalog.right(head, 12))::bit(48)::bigint;
BEGIN
  head := pg_catalog.left(head, 24);
  RETURN ARRAY(
    SELECT (head || pg_catalog.lpad(pg_catalog.to_hex((tail + n) % (1::bigint << 48)), 12, '0'))::uuid
    FROM pg_catalog.generate_series(1, count) AS n
  );
END
$$`,

    `CREATE TABLE runledger.job_definitions (
  job_type text NOT NULL,
  version integer NOT NULL DEFAULT 1,
  max_attempts integer NOT NULL DEFAULT 3,
  default_timeout_seconds integer NOT NULL DEFAULT 300,
  default_priority integer NOT NULL DEFAULT 0,
  is_enabled boolean NOT NULL DEFAULT true,
  retry_initial_ms integer NOT NULL DEFAULT 10000,
  retry_factor double precision NOT NULL DEFAULT 2,
  retry_max_ms integer NOT NULL DEFAULT 300000,
  retry_jitter double precision NOT NULL DEFAULT 0.1,
  retry_overrides jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_definitions PRIMARY KEY (job_type),
  CONSTRAINT chk_job_definitions_type_not_blank CHECK (job_type::bpchar <> ''),
  CONSTRAINT chk_job_definitions_version_positive CHECK (version > 0),
  CONSTRAINT chk_job_definitions_max_attempts_positive CHECK (max_attempts > 0),
  CONSTRAINT chk_job_definitions_timeout_positive CHECK (default_timeout_seconds > 0),
  CONSTRAINT chk_job_definitions_priority_range CHECK (default_priority BETWEEN -100 AND 100),
  CONSTRAINT chk_job_definitions_retry_initial CHECK (retry_initial_ms > 0),
  CONSTRAINT chk_job_definitions_retry_factor CHECK (retry_factor BETWEEN 1 AND 100),
  CONSTRAINT chk_job_definitions_retry_max CHECK (retry_max_ms >= retry_initial_ms),
  CONSTRAINT chk_job_definitions_retry_jitter CHECK (retry_jitter BETWEEN 0 AND 1),
  -- failure code -> delay in milliseconds
  CONSTRAINT chk_job_definitions_retry_overrides CHECK (
    jsonb_typeof(retry_overrides) = 'object'
    AND NOT jsonb_path_exists(
      retry_overrides,
      'strict $.* ? (@.type() != "number" || @ < 1 || @ > 2147483647 || @ != @.floor())'
    )
  )
)`,

    `CREATE FUNCTION runledger.refuse_job_definition_delete() RETURNS trigger
  LANGUAGE plpgsql
AS $$
BEGIN
  RAISE EXCEPTION 'job definitions are disabled, not deleted'
    USING ERRCODE = '23001', CONSTRAINT = 'os_job_definitions_delete', SCHEMA = 'runledger', TABLE = 'job_definitions';
END
$$`,

    `CREATE TRIGGER trg_job_definitions_refuse_delete
  BEFORE DELETE ON runledger.job_definitions
  FOR EACH ROW EXECUTE FUNCTION runledger.refuse_job_definition_delete()`,

    // The checks of the columns of job_queue are those of domains. PostgreSQL reads and plans each CHECK of a table, and the
    // expression of a generated column, anew in every statement that writes a row; those of a domain once per session.
    // As checks of the table they made an insert of one row a third slower. What concerns several columns (done is not more
    // than total, a lease has its worker) is held by the statements, and compared by a model; a check of the table is only
    // the one on which a cut-over depends.
    `CREATE DOMAIN runledger.job_queue_status AS text
  CONSTRAINT chk_job_queue_status CHECK (VALUE IN ('PENDING', 'LEASED', 'SUCCEEDED', 'DEAD_LETTERED', 'CANCELED'))`,

    `CREATE DOMAIN runledger.job_queue_priority AS integer
  CONSTRAINT chk_job_queue_priority_range CHECK (VALUE BETWEEN -100 AND 100)`,

    `CREATE DOMAIN runledger.job_queue_run_number AS integer
  CONSTRAINT chk_job_queue_run_number_positive CHECK (VALUE > 0)`,

    `CREATE DOMAIN runledger.job_queue_attempt AS integer
  CONSTRAINT chk_job_queue_attempt_nonnegative CHECK (VALUE >= 0)`,

    `CREATE DOMAIN runledger.job_queue_max_attempts AS integer
  CONSTRAINT chk_job_queue_max_attempts_positive CHECK (VALUE > 0)`,

    `CREATE DOMAIN runledger.job_queue_timeout_seconds AS integer
  CONSTRAINT chk_job_queue_timeout_positive CHECK (VALUE > 0)`,

    `CREATE DOMAIN runledger.job_queue_stage AS text
  CONSTRAINT chk_job_queue_stage_not_blank CHECK (VALUE::bpchar <> '')`,

    `CREATE DOMAIN runledger.job_queue_worker_id AS text
  CONSTRAINT chk_job_queue_worker_id_not_blank CHECK (VALUE::bpchar <> '')`,

    `CREATE DOMAIN runledger.job_queue_progress AS bigint
  CONSTRAINT chk_job_queue_progress_nonnegative CHECK (VALUE >= 0)`,

    `CREATE DOMAIN runledger.job_queue_idempotency_key AS text
  CONSTRAINT chk_job_queue_idempotency_key_not_blank CHECK (VALUE::bpchar <> '')`,

    `CREATE DOMAIN runledger.job_queue_execution_resource_key AS text
  CONSTRAINT chk_job_queue_execution_resource_key CHECK (
    VALUE ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
    AND octet_length(VALUE) <= 512
  )`,

    // worker_id .. started_seq carry the current attempt; they move to job_attempts when it ends.
    // event_seq is the number of the last event of the job; whoever holds the row lock takes the next.
    // workflow_run_id and workflow_step_id never change after the insert, nor does trace_parent (W3C trace context).
    `CREATE TABLE runledger.job_queue (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  job_type text NOT NULL,
  payload_version integer NOT NULL DEFAULT 1,
  organization_id uuid,
  payload jsonb NOT NULL DEFAULT '{}',
  status runledger.job_queue_status NOT NULL DEFAULT 'PENDING',
  priority runledger.job_queue_priority NOT NULL DEFAULT 0,
  run_number runledger.job_queue_run_number NOT NULL DEFAULT 1,
  attempt runledger.job_queue_attempt NOT NULL DEFAULT 0,
  max_attempts runledger.job_queue_max_attempts NOT NULL,
  timeout_seconds runledger.job_queue_timeout_seconds NOT NULL DEFAULT 300,
  next_run_at timestamptz NOT NULL,
  lease_expires_at timestamptz,
  last_heartbeat_at timestamptz,
  worker_id runledger.job_queue_worker_id,
  leased_at timestamptz,
  lease_ms integer,
  claim_origin text,
  attempt_started_at timestamptz,
  renewed boolean NOT NULL DEFAULT false,
  leased_seq integer,
  started_seq integer,
  event_seq integer NOT NULL DEFAULT 1,
  started_at timestamptz,
  finished_at timestamptz,
  stage runledger.job_queue_stage NOT NULL DEFAULT 'queued',
  progress_done runledger.job_queue_progress,
  progress_total runledger.job_queue_progress,
  checkpoint jsonb,
  output jsonb,
  idempotency_key runledger.job_queue_idempotency_key,
  enqueue_request jsonb,
  execution_resource_key runledger.job_queue_execution_resource_key,
  workflow_run_id uuid,
  workflow_step_id uuid,
  status_reason text,
  last_error_code text,
  last_error_message text,
  trace_parent text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_queue PRIMARY KEY (id)
) WITH (
  -- room for the next version of a row on its own page, and vacuum after thousands of changes rather than a fifth
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 1
)`,

    // keyed rows written before request snapshots existed; validated by Migrator once no such rows are left
    `ALTER TABLE runledger.job_queue
  ADD CONSTRAINT ck_job_queue_idempotency_enqueue_request
  CHECK (idempotency_key IS NULL OR enqueue_request IS NOT NULL) NOT VALID`,

    // Jobs.claim: a lane is (type, payload version, resource key, priority), first in first out inside. Types that a worker
    // does not serve, newer payloads, and jobs that are not due yet are never walked over; a resource key that is taken is
    // one probe, however long its queue is. Jobs without a key are the lanes of the NULL key, which comes first: one index
    // for both, because each that a table has is opened by every write
    `CREATE INDEX idx_job_queue_claim
  ON runledger.job_queue
    (job_type, payload_version, execution_resource_key NULLS FIRST, priority DESC, next_run_at, id)
  WHERE status = 'PENDING'`,

    // Jobs.reapExpiredLeases: the leases that ran out, oldest first
    `CREATE INDEX idx_job_queue_lease_expiry
  ON runledger.job_queue (lease_expires_at, id)
  WHERE status = 'LEASED'`,

    // Jobs.enqueue with a key, within an organization and globally: one index for both, because each that a table has is
    // opened by every write, whether it gets an entry or not
    `CREATE UNIQUE INDEX uq_job_queue_type_idempotency
  ON runledger.job_queue (job_type, organization_id, idempotency_key) NULLS NOT DISTINCT
  WHERE idempotency_key IS NOT NULL`,

    // Jobs.list of one organization; only tenants pay for it. The second clause is always true and said by lists alone, so
    // that no look-up by key, whose estimate is the same single row, can be answered from here
    `CREATE INDEX idx_job_queue_organization
  ON runledger.job_queue (organization_id, id)
  WHERE organization_id IS NOT NULL AND job_type <> ''`,

    // Written once, when the attempt ends. leased_seq and started_seq number its LEASED and running events; ended_seq
    // that of its outcome (FAILED is followed by RETRY_SCHEDULED or DEAD_LETTERED at ended_seq + 1). An attempt that was
    // canceled or continued has no ended_seq: that event is stored, because it says more than the attempt knows.
    `CREATE TABLE runledger.job_attempts (
  job_id uuid NOT NULL,
  run_number integer NOT NULL DEFAULT 1,
  attempt integer NOT NULL,
  worker_id text NOT NULL,
  claim_origin text NOT NULL DEFAULT 'DIRECT',
  leased_at timestamptz NOT NULL,
  lease_ms integer NOT NULL,
  started_at timestamptz,
  renewed boolean NOT NULL DEFAULT false,
  finished_at timestamptz NOT NULL,
  ended_as text NOT NULL,
  outcome text,
  error_code text,
  error_message text,
  error jsonb,
  retry_delay_ms integer,
  requested_retry_not_before timestamptz,
  effective_next_run_at timestamptz,
  retry_timing_source text,
  leased_seq integer NOT NULL,
  started_seq integer,
  ended_seq integer,
  CONSTRAINT uq_job_attempts_job_run_attempt PRIMARY KEY (job_id, run_number, attempt),
  CONSTRAINT chk_job_attempts_attempt_positive CHECK (attempt > 0),
  CONSTRAINT chk_job_attempts_run_number_positive CHECK (run_number > 0),
  CONSTRAINT chk_job_attempts_worker_not_blank CHECK (worker_id::bpchar <> ''),
  CONSTRAINT chk_job_attempts_claim_origin CHECK (claim_origin IN ('DIRECT', 'WORKER_PRESTART')),
  CONSTRAINT chk_job_attempts_ended_as CHECK (
    ended_as IN ('SUCCEEDED', 'FAILED', 'CANCELED', 'CONTINUED', 'LEASE_EXPIRED')
  ),
  CONSTRAINT chk_job_attempts_outcome CHECK (
    outcome IN ('RETRYABLE', 'TERMINAL', 'PANICKED', 'TIMEOUT', 'LEASE_EXPIRED')
  ),
  CONSTRAINT chk_job_attempts_retry_delay_nonnegative CHECK (retry_delay_ms >= 0),
  CONSTRAINT chk_job_attempts_retry_timing_source CHECK (retry_timing_source IN ('POLICY', 'HANDLER_NOT_BEFORE')),
  CONSTRAINT chk_job_attempts_retry_timing_audit_shape CHECK (
    (effective_next_run_at IS NULL) = (retry_timing_source IS NULL)
    AND (requested_retry_not_before IS NULL OR effective_next_run_at IS NOT NULL)
  )
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)`,

    // Only what cannot be derived from job and attempts; (job, seq) is the order and the cursor.
    `CREATE TABLE runledger.job_events (
  job_id uuid NOT NULL,
  seq integer NOT NULL,
  run_number integer NOT NULL DEFAULT 1,
  attempt integer,
  event_type text NOT NULL,
  stage text,
  progress_done bigint,
  progress_total bigint,
  payload jsonb NOT NULL DEFAULT '{}',
  occurred_at timestamptz NOT NULL,
  CONSTRAINT pk_job_events PRIMARY KEY (job_id, seq),
  CONSTRAINT chk_job_events_seq_positive CHECK (seq > 0),
  CONSTRAINT chk_job_events_attempt_nonnegative CHECK (attempt > 0),
  CONSTRAINT chk_job_events_run_number_positive CHECK (run_number > 0),
  CONSTRAINT chk_job_events_event_type CHECK (
    event_type IN (
      'ENQUEUED', 'LEASED', 'HEARTBEAT', 'STAGE_CHANGED', 'PROGRESS', 'RETRY_SCHEDULED',
      'SUCCEEDED', 'FAILED', 'DEAD_LETTERED', 'CANCELED', 'REQUEUED'
    )
  ),
  CONSTRAINT chk_job_events_stage_not_blank CHECK (stage::bpchar <> ''),
  CONSTRAINT chk_job_events_progress_nonnegative CHECK (
    progress_done >= 0 AND progress_total >= 0 AND progress_done <= progress_total
  )
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05)`,

    // The last dead letter of each job; it stays when the job is requeued.
    `CREATE TABLE runledger.job_dead_letters (
  job_id uuid NOT NULL,
  job_type text NOT NULL,
  organization_id uuid,
  run_number integer NOT NULL DEFAULT 1,
  attempt integer NOT NULL,
  reason text NOT NULL,
  failure_kind text NOT NULL,
  error_code text,
  error_message text,
  payload_snapshot jsonb NOT NULL,
  checkpoint_snapshot jsonb,
  failed_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL,
  CONSTRAINT pk_job_dead_letters PRIMARY KEY (job_id),
  CONSTRAINT chk_job_dead_letters_run_number_positive CHECK (run_number > 0),
  CONSTRAINT chk_job_dead_letters_attempt_positive CHECK (attempt > 0),
  CONSTRAINT chk_job_dead_letters_reason CHECK (
    reason IN ('FAILURE_KIND_NON_RETRYABLE', 'ATTEMPTS_EXHAUSTED', 'LEASE_EXPIRED')
  ),
  CONSTRAINT chk_job_dead_letters_failure_kind CHECK (
    failure_kind IN ('RETRYABLE', 'TERMINAL', 'PANICKED', 'TIMEOUT', 'LEASE_EXPIRED')
  )
)`,

    // Jobs.deadLetters, newest first, over everything and within an organization
    `CREATE INDEX idx_job_dead_letters_failed_at ON runledger.job_dead_letters (failed_at, job_id)`,

    `CREATE INDEX idx_job_dead_letters_organization
  ON runledger.job_dead_letters (organization_id, failed_at, job_id)
  WHERE organization_id IS NOT NULL`
  ]
}

export default migration
