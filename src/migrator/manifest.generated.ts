/**
 * What the migrations lead to, as PostgreSQL 15 to 18 print it. Written by `npm run schema:manifest`; do not edit.
 */
import type { Definitions } from "./catalog.ts"

export const manifest: Definitions = {
  domain: {
    job_queue_attempt: "integer CONSTRAINT chk_job_queue_attempt_nonnegative CHECK ((VALUE >= 0))",
    job_queue_execution_resource_key:
      "text CONSTRAINT chk_job_queue_execution_resource_key CHECK (((VALUE ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text) AND (octet_length(VALUE) <= 512)))",
    job_queue_idempotency_key:
      "text CONSTRAINT chk_job_queue_idempotency_key_not_blank CHECK ((length(TRIM(BOTH FROM VALUE)) > 0))",
    job_queue_max_attempts: "integer CONSTRAINT chk_job_queue_max_attempts_positive CHECK ((VALUE > 0))",
    job_queue_priority:
      "integer CONSTRAINT chk_job_queue_priority_range CHECK (((VALUE >= '-100'::integer) AND (VALUE <= 100)))",
    job_queue_progress: "bigint CONSTRAINT chk_job_queue_progress_nonnegative CHECK ((VALUE >= 0))",
    job_queue_run_number: "integer CONSTRAINT chk_job_queue_run_number_positive CHECK ((VALUE > 0))",
    job_queue_stage: "text CONSTRAINT chk_job_queue_stage_not_blank CHECK ((length(TRIM(BOTH FROM VALUE)) > 0))",
    job_queue_status:
      "text CONSTRAINT chk_job_queue_status CHECK ((VALUE = ANY (ARRAY['PENDING'::text, 'LEASED'::text, 'SUCCEEDED'::text, 'DEAD_LETTERED'::text, 'CANCELED'::text])))",
    job_queue_timeout_seconds: "integer CONSTRAINT chk_job_queue_timeout_positive CHECK ((VALUE > 0))",
    job_queue_worker_id: "text CONSTRAINT chk_job_queue_worker_id_not_blank CHECK ((length(TRIM(BOTH FROM VALUE)) > 0))"
  },
  table: {
    job_attempts: "table",
    job_dead_letters: "table",
    job_definitions: "table",
    job_events: "table",
    job_logs: "table",
    job_queue: "table",
    migration_history: "table"
  },
  column: {
    "job_attempts.attempt": "integer NOT NULL",
    "job_attempts.claim_origin": "text NOT NULL DEFAULT 'DIRECT'::text",
    "job_attempts.effective_next_run_at": "timestamp with time zone",
    "job_attempts.ended_as": "text NOT NULL",
    "job_attempts.ended_seq": "integer",
    "job_attempts.error": "jsonb",
    "job_attempts.error_code": "text",
    "job_attempts.error_message": "text",
    "job_attempts.finished_at": "timestamp with time zone NOT NULL",
    "job_attempts.job_id": "uuid NOT NULL",
    "job_attempts.lease_ms": "integer NOT NULL",
    "job_attempts.leased_at": "timestamp with time zone NOT NULL",
    "job_attempts.leased_seq": "integer NOT NULL",
    "job_attempts.outcome": "text",
    "job_attempts.renewed": "boolean NOT NULL DEFAULT false",
    "job_attempts.requested_retry_not_before": "timestamp with time zone",
    "job_attempts.retry_delay_ms": "integer",
    "job_attempts.retry_timing_source": "text",
    "job_attempts.run_number": "integer NOT NULL DEFAULT 1",
    "job_attempts.started_at": "timestamp with time zone",
    "job_attempts.started_seq": "integer",
    "job_attempts.worker_id": "text NOT NULL",
    "job_dead_letters.attempt": "integer NOT NULL",
    "job_dead_letters.checkpoint_snapshot": "jsonb",
    "job_dead_letters.created_at": "timestamp with time zone NOT NULL",
    "job_dead_letters.error_code": "text",
    "job_dead_letters.error_message": "text",
    "job_dead_letters.failed_at": "timestamp with time zone NOT NULL",
    "job_dead_letters.failure_kind": "text NOT NULL",
    "job_dead_letters.job_id": "uuid NOT NULL",
    "job_dead_letters.job_type": "text NOT NULL",
    "job_dead_letters.organization_id": "uuid",
    "job_dead_letters.payload_snapshot": "jsonb NOT NULL",
    "job_dead_letters.reason": "text NOT NULL",
    "job_dead_letters.run_number": "integer NOT NULL DEFAULT 1",
    "job_definitions.created_at": "timestamp with time zone NOT NULL",
    "job_definitions.default_priority": "integer NOT NULL DEFAULT 0",
    "job_definitions.default_timeout_seconds": "integer NOT NULL DEFAULT 300",
    "job_definitions.is_enabled": "boolean NOT NULL DEFAULT true",
    "job_definitions.job_type": "text NOT NULL",
    "job_definitions.max_attempts": "integer NOT NULL DEFAULT 3",
    "job_definitions.retry_factor": "double precision NOT NULL DEFAULT 2",
    "job_definitions.retry_initial_ms": "integer NOT NULL DEFAULT 10000",
    "job_definitions.retry_jitter": "double precision NOT NULL DEFAULT 0.1",
    "job_definitions.retry_max_ms": "integer NOT NULL DEFAULT 300000",
    "job_definitions.retry_overrides": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "job_definitions.updated_at": "timestamp with time zone NOT NULL",
    "job_definitions.version": "integer NOT NULL DEFAULT 1",
    "job_events.attempt": "integer",
    "job_events.event_type": "text NOT NULL",
    "job_events.job_id": "uuid NOT NULL",
    "job_events.occurred_at": "timestamp with time zone NOT NULL",
    "job_events.payload": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "job_events.progress_done": "bigint",
    "job_events.progress_total": "bigint",
    "job_events.run_number": "integer NOT NULL DEFAULT 1",
    "job_events.seq": "integer NOT NULL",
    "job_events.stage": "text",
    "job_logs.attempt": "integer",
    "job_logs.id": "bigint NOT NULL GENERATED ALWAYS AS IDENTITY",
    "job_logs.job_id": "uuid NOT NULL",
    "job_logs.level": "text NOT NULL",
    "job_logs.message": "text NOT NULL",
    "job_logs.occurred_at": "timestamp with time zone NOT NULL",
    "job_logs.payload": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "job_logs.run_number": "integer NOT NULL DEFAULT 1",
    "job_queue.attempt": "runledger.job_queue_attempt NOT NULL DEFAULT 0",
    "job_queue.attempt_started_at": "timestamp with time zone",
    "job_queue.checkpoint": "jsonb",
    "job_queue.claim_origin": "text",
    "job_queue.created_at": "timestamp with time zone NOT NULL",
    "job_queue.enqueue_request": "jsonb",
    "job_queue.event_seq": "integer NOT NULL DEFAULT 1",
    "job_queue.execution_resource_key": "runledger.job_queue_execution_resource_key",
    "job_queue.finished_at": "timestamp with time zone",
    "job_queue.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "job_queue.idempotency_key": "runledger.job_queue_idempotency_key",
    "job_queue.job_type": "text NOT NULL",
    "job_queue.last_error_code": "text",
    "job_queue.last_error_message": "text",
    "job_queue.last_heartbeat_at": "timestamp with time zone",
    "job_queue.lease_expires_at": "timestamp with time zone",
    "job_queue.lease_ms": "integer",
    "job_queue.leased_at": "timestamp with time zone",
    "job_queue.leased_seq": "integer",
    "job_queue.max_attempts": "runledger.job_queue_max_attempts NOT NULL",
    "job_queue.next_run_at": "timestamp with time zone NOT NULL",
    "job_queue.organization_id": "uuid",
    "job_queue.output": "jsonb",
    "job_queue.payload": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "job_queue.payload_version": "integer NOT NULL DEFAULT 1",
    "job_queue.priority": "runledger.job_queue_priority NOT NULL DEFAULT 0",
    "job_queue.progress_done": "runledger.job_queue_progress",
    "job_queue.progress_total": "runledger.job_queue_progress",
    "job_queue.renewed": "boolean NOT NULL DEFAULT false",
    "job_queue.run_number": "runledger.job_queue_run_number NOT NULL DEFAULT 1",
    "job_queue.stage": "runledger.job_queue_stage NOT NULL DEFAULT 'queued'::text",
    "job_queue.started_at": "timestamp with time zone",
    "job_queue.started_seq": "integer",
    "job_queue.status": "runledger.job_queue_status NOT NULL DEFAULT 'PENDING'::text",
    "job_queue.status_reason": "text",
    "job_queue.timeout_seconds": "runledger.job_queue_timeout_seconds NOT NULL DEFAULT 300",
    "job_queue.trace_parent": "text",
    "job_queue.updated_at": "timestamp with time zone NOT NULL",
    "job_queue.worker_id": "runledger.job_queue_worker_id",
    "job_queue.workflow_run_id": "uuid",
    "job_queue.workflow_step_id": "uuid",
    "migration_history.applied_at": "timestamp with time zone NOT NULL",
    "migration_history.breaking": "boolean NOT NULL",
    "migration_history.checksum": "text NOT NULL",
    "migration_history.id": "integer NOT NULL",
    "migration_history.name": "text NOT NULL"
  },
  constraint: {
    "job_attempts.chk_job_attempts_attempt_positive": "CHECK ((attempt > 0))",
    "job_attempts.chk_job_attempts_claim_origin":
      "CHECK ((claim_origin = ANY (ARRAY['DIRECT'::text, 'WORKER_PRESTART'::text])))",
    "job_attempts.chk_job_attempts_ended_as":
      "CHECK ((ended_as = ANY (ARRAY['SUCCEEDED'::text, 'FAILED'::text, 'CANCELED'::text, 'CONTINUED'::text, 'LEASE_EXPIRED'::text])))",
    "job_attempts.chk_job_attempts_outcome":
      "CHECK ((outcome = ANY (ARRAY['RETRYABLE'::text, 'TERMINAL'::text, 'PANICKED'::text, 'TIMEOUT'::text, 'LEASE_EXPIRED'::text])))",
    "job_attempts.chk_job_attempts_retry_delay_nonnegative": "CHECK ((retry_delay_ms >= 0))",
    "job_attempts.chk_job_attempts_retry_timing_audit_shape":
      "CHECK ((((effective_next_run_at IS NULL) = (retry_timing_source IS NULL)) AND ((requested_retry_not_before IS NULL) OR (effective_next_run_at IS NOT NULL))))",
    "job_attempts.chk_job_attempts_retry_timing_source":
      "CHECK ((retry_timing_source = ANY (ARRAY['POLICY'::text, 'HANDLER_NOT_BEFORE'::text])))",
    "job_attempts.chk_job_attempts_run_number_positive": "CHECK ((run_number > 0))",
    "job_attempts.chk_job_attempts_worker_not_blank": "CHECK ((length(TRIM(BOTH FROM worker_id)) > 0))",
    "job_attempts.uq_job_attempts_job_run_attempt": "PRIMARY KEY (job_id, run_number, attempt)",
    "job_dead_letters.chk_job_dead_letters_attempt_positive": "CHECK ((attempt > 0))",
    "job_dead_letters.chk_job_dead_letters_failure_kind":
      "CHECK ((failure_kind = ANY (ARRAY['RETRYABLE'::text, 'TERMINAL'::text, 'PANICKED'::text, 'TIMEOUT'::text, 'LEASE_EXPIRED'::text])))",
    "job_dead_letters.chk_job_dead_letters_reason":
      "CHECK ((reason = ANY (ARRAY['FAILURE_KIND_NON_RETRYABLE'::text, 'ATTEMPTS_EXHAUSTED'::text, 'LEASE_EXPIRED'::text])))",
    "job_dead_letters.chk_job_dead_letters_run_number_positive": "CHECK ((run_number > 0))",
    "job_dead_letters.pk_job_dead_letters": "PRIMARY KEY (job_id)",
    "job_definitions.chk_job_definitions_max_attempts_positive": "CHECK ((max_attempts > 0))",
    "job_definitions.chk_job_definitions_priority_range":
      "CHECK (((default_priority >= '-100'::integer) AND (default_priority <= 100)))",
    "job_definitions.chk_job_definitions_retry_factor":
      "CHECK (((retry_factor >= (1)::double precision) AND (retry_factor <= (100)::double precision)))",
    "job_definitions.chk_job_definitions_retry_initial": "CHECK ((retry_initial_ms > 0))",
    "job_definitions.chk_job_definitions_retry_jitter":
      "CHECK (((retry_jitter >= (0)::double precision) AND (retry_jitter <= (1)::double precision)))",
    "job_definitions.chk_job_definitions_retry_max": "CHECK ((retry_max_ms >= retry_initial_ms))",
    "job_definitions.chk_job_definitions_retry_overrides":
      "CHECK (((jsonb_typeof(retry_overrides) = 'object'::text) AND (NOT jsonb_path_exists(retry_overrides, 'strict $.*?(((@.type() != \"number\" || @ < 1) || @ > 2147483647) || @ != @.floor())'::jsonpath))))",
    "job_definitions.chk_job_definitions_timeout_positive": "CHECK ((default_timeout_seconds > 0))",
    "job_definitions.chk_job_definitions_type_not_blank": "CHECK ((length(TRIM(BOTH FROM job_type)) > 0))",
    "job_definitions.chk_job_definitions_version_positive": "CHECK ((version > 0))",
    "job_definitions.pk_job_definitions": "PRIMARY KEY (job_type)",
    "job_events.chk_job_events_attempt_nonnegative": "CHECK ((attempt > 0))",
    "job_events.chk_job_events_event_type":
      "CHECK ((event_type = ANY (ARRAY['ENQUEUED'::text, 'LEASED'::text, 'HEARTBEAT'::text, 'STAGE_CHANGED'::text, 'PROGRESS'::text, 'RETRY_SCHEDULED'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'DEAD_LETTERED'::text, 'CANCELED'::text, 'REQUEUED'::text])))",
    "job_events.chk_job_events_progress_nonnegative":
      "CHECK (((progress_done >= 0) AND (progress_total >= 0) AND (progress_done <= progress_total)))",
    "job_events.chk_job_events_run_number_positive": "CHECK ((run_number > 0))",
    "job_events.chk_job_events_seq_positive": "CHECK ((seq > 0))",
    "job_events.chk_job_events_stage_not_blank": "CHECK ((length(TRIM(BOTH FROM stage)) > 0))",
    "job_events.pk_job_events": "PRIMARY KEY (job_id, seq)",
    "job_logs.chk_job_logs_attempt_nonnegative": "CHECK ((attempt >= 0))",
    "job_logs.chk_job_logs_level_not_blank": "CHECK ((length(TRIM(BOTH FROM level)) > 0))",
    "job_logs.chk_job_logs_message_not_blank": "CHECK ((length(TRIM(BOTH FROM message)) > 0))",
    "job_logs.chk_job_logs_run_number_positive": "CHECK ((run_number > 0))",
    "job_logs.pk_job_logs": "PRIMARY KEY (job_id, id)",
    "job_queue.ck_job_queue_idempotency_enqueue_request":
      "CHECK (((idempotency_key IS NULL) OR (enqueue_request IS NOT NULL)))",
    "job_queue.pk_job_queue": "PRIMARY KEY (id)",
    "migration_history.pk_migration_history": "PRIMARY KEY (id)"
  },
  index: {
    "job_dead_letters.idx_job_dead_letters_failed_at":
      "CREATE INDEX idx_job_dead_letters_failed_at ON runledger.job_dead_letters USING btree (failed_at, job_id)",
    "job_dead_letters.idx_job_dead_letters_organization":
      "CREATE INDEX idx_job_dead_letters_organization ON runledger.job_dead_letters USING btree (organization_id, failed_at, job_id) WHERE (organization_id IS NOT NULL)",
    "job_queue.idx_job_queue_claim":
      "CREATE INDEX idx_job_queue_claim ON runledger.job_queue USING btree (job_type, payload_version, priority DESC, next_run_at, id) WHERE (((status)::text = 'PENDING'::text) AND (execution_resource_key IS NULL))",
    "job_queue.idx_job_queue_claim_resource":
      "CREATE INDEX idx_job_queue_claim_resource ON runledger.job_queue USING btree (job_type, payload_version, execution_resource_key, priority DESC, next_run_at, id) WHERE (((status)::text = 'PENDING'::text) AND (execution_resource_key IS NOT NULL))",
    "job_queue.idx_job_queue_lease_expiry":
      "CREATE INDEX idx_job_queue_lease_expiry ON runledger.job_queue USING btree (lease_expires_at, id) WHERE ((status)::text = 'LEASED'::text)",
    "job_queue.idx_job_queue_organization":
      "CREATE INDEX idx_job_queue_organization ON runledger.job_queue USING btree (organization_id, id) WHERE ((organization_id IS NOT NULL) AND (job_type <> ''::text))",
    "job_queue.uq_job_queue_type_idempotency":
      "CREATE UNIQUE INDEX uq_job_queue_type_idempotency ON runledger.job_queue USING btree (job_type, organization_id, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL)"
  },
  function: {
    "refuse_job_definition_delete()": `CREATE OR REPLACE FUNCTION runledger.refuse_job_definition_delete()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
  RAISE EXCEPTION 'job definitions are disabled, not deleted'
    USING ERRCODE = '23001', CONSTRAINT = 'os_job_definitions_delete', SCHEMA = 'runledger', TABLE = 'job_definitions';
END
$function$
`,
    "uuidv7()": `CREATE OR REPLACE FUNCTION runledger.uuidv7()
 RETURNS uuid
 LANGUAGE plpgsql
 PARALLEL SAFE
AS $function$
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
$function$
`
  },
  trigger: {
    "job_definitions.trg_job_definitions_refuse_delete":
      "CREATE TRIGGER trg_job_definitions_refuse_delete BEFORE DELETE ON runledger.job_definitions FOR EACH ROW EXECUTE FUNCTION runledger.refuse_job_definition_delete()"
  },
  view: {}
}
