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
      "text CONSTRAINT chk_job_queue_idempotency_key_not_blank CHECK (((VALUE)::bpchar <> ''::bpchar))",
    job_queue_max_attempts: "integer CONSTRAINT chk_job_queue_max_attempts_positive CHECK ((VALUE > 0))",
    job_queue_priority:
      "integer CONSTRAINT chk_job_queue_priority_range CHECK (((VALUE >= '-100'::integer) AND (VALUE <= 100)))",
    job_queue_progress: "bigint CONSTRAINT chk_job_queue_progress_nonnegative CHECK ((VALUE >= 0))",
    job_queue_run_number: "integer CONSTRAINT chk_job_queue_run_number_positive CHECK ((VALUE > 0))",
    job_queue_stage: "text CONSTRAINT chk_job_queue_stage_not_blank CHECK (((VALUE)::bpchar <> ''::bpchar))",
    job_queue_status:
      "text CONSTRAINT chk_job_queue_status CHECK ((VALUE = ANY (ARRAY['PENDING'::text, 'LEASED'::text, 'SUCCEEDED'::text, 'DEAD_LETTERED'::text, 'CANCELED'::text])))",
    job_queue_timeout_seconds: "integer CONSTRAINT chk_job_queue_timeout_positive CHECK ((VALUE > 0))",
    job_queue_worker_id: "text CONSTRAINT chk_job_queue_worker_id_not_blank CHECK (((VALUE)::bpchar <> ''::bpchar))"
  },
  table: {
    job_attempts: "table",
    job_dead_letters: "table",
    job_definitions: "table",
    job_enqueue_intents: "table",
    job_events: "table",
    job_execution_permits: "table",
    job_execution_rate_tokens: "table",
    job_execution_resources: "table",
    job_logs: "table",
    job_queue: "table",
    job_replays: "table",
    job_runtime_configs: "table",
    job_schedules: "table",
    migration_history: "table",
    workflow_active_claims: "table",
    workflow_recoveries: "table",
    workflow_run_mutations: "table",
    workflow_runs: "table",
    workflow_step_dependencies: "table",
    workflow_steps: "table"
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
    "job_dead_letters.settled_run_number": "integer",
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
    "job_definitions.sync_disabled_at": "timestamp with time zone",
    "job_definitions.updated_at": "timestamp with time zone NOT NULL",
    "job_definitions.version": "integer NOT NULL DEFAULT 1",
    "job_enqueue_intents.conflicted_at": "timestamp with time zone",
    "job_enqueue_intents.created_at": "timestamp with time zone NOT NULL",
    "job_enqueue_intents.delay_ms": "bigint",
    "job_enqueue_intents.enqueue_request": "jsonb NOT NULL",
    "job_enqueue_intents.enqueue_request_version": "smallint NOT NULL DEFAULT 1",
    "job_enqueue_intents.execution_resource_key": "text",
    "job_enqueue_intents.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "job_enqueue_intents.idempotency_key": "text NOT NULL",
    "job_enqueue_intents.job_type": "text NOT NULL",
    "job_enqueue_intents.last_attempted_at": "timestamp with time zone",
    "job_enqueue_intents.last_error_code": "text",
    "job_enqueue_intents.last_error_message": "text",
    "job_enqueue_intents.max_attempts": "integer",
    "job_enqueue_intents.next_promotion_at": "timestamp with time zone NOT NULL",
    "job_enqueue_intents.next_run_at": "timestamp with time zone",
    "job_enqueue_intents.organization_id": "uuid",
    "job_enqueue_intents.payload": "jsonb NOT NULL",
    "job_enqueue_intents.payload_version": "integer NOT NULL DEFAULT 1",
    "job_enqueue_intents.priority": "integer",
    "job_enqueue_intents.promoted_at": "timestamp with time zone",
    "job_enqueue_intents.promoted_job_id": "uuid",
    "job_enqueue_intents.promotion_attempts": "integer NOT NULL DEFAULT 0",
    "job_enqueue_intents.stage": "text NOT NULL DEFAULT 'queued'::text",
    "job_enqueue_intents.status": "text NOT NULL DEFAULT 'PENDING'::text",
    "job_enqueue_intents.timeout_seconds": "integer",
    "job_enqueue_intents.trace_parent": "text",
    "job_enqueue_intents.updated_at": "timestamp with time zone NOT NULL",
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
    "job_execution_permits.attempt": "integer",
    "job_execution_permits.id": "bigint NOT NULL GENERATED ALWAYS AS IDENTITY",
    "job_execution_permits.is_retired": "boolean NOT NULL DEFAULT false",
    "job_execution_permits.job_id": "uuid",
    "job_execution_permits.leased_seq": "integer",
    "job_execution_permits.resource_key": "runledger.job_queue_execution_resource_key NOT NULL",
    "job_execution_permits.run_number": "integer",
    "job_execution_permits.slot": "integer NOT NULL",
    "job_execution_permits.spot": "double precision NOT NULL",
    "job_execution_permits.taken_at": "timestamp with time zone",
    "job_execution_permits.uses": "bigint NOT NULL DEFAULT 0",
    "job_execution_rate_tokens.free_at": "timestamp with time zone NOT NULL",
    "job_execution_rate_tokens.id": "bigint NOT NULL GENERATED ALWAYS AS IDENTITY",
    "job_execution_rate_tokens.resource_key": "runledger.job_queue_execution_resource_key NOT NULL",
    "job_execution_resources.created_at": "timestamp with time zone NOT NULL",
    "job_execution_resources.permits": "integer NOT NULL",
    "job_execution_resources.rate_interval_ms": "integer",
    "job_execution_resources.rate_permits": "integer",
    "job_execution_resources.resource_key": "runledger.job_queue_execution_resource_key NOT NULL",
    "job_execution_resources.updated_at": "timestamp with time zone NOT NULL",
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
    "job_replays.created_at": "timestamp with time zone NOT NULL",
    "job_replays.reason": "text NOT NULL",
    "job_replays.replay_job_id": "uuid NOT NULL",
    "job_replays.replay_request_key": "text NOT NULL",
    "job_replays.source_job_id": "uuid NOT NULL",
    "job_replays.source_run_number": "integer NOT NULL",
    "job_runtime_configs.config": "jsonb NOT NULL",
    "job_runtime_configs.created_at": "timestamp with time zone NOT NULL",
    "job_runtime_configs.job_type": "text NOT NULL",
    "job_runtime_configs.schema_version": "integer NOT NULL",
    "job_runtime_configs.updated_at": "timestamp with time zone NOT NULL",
    "job_runtime_configs.updated_by_user_id": "uuid",
    "job_schedules.carries_time": "text NOT NULL DEFAULT 'MEMBER'::text",
    "job_schedules.created_at": "timestamp with time zone NOT NULL",
    "job_schedules.created_by_user_id": "uuid",
    "job_schedules.cron_expr": "text NOT NULL",
    "job_schedules.due_at": "timestamp with time zone NOT NULL",
    "job_schedules.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "job_schedules.is_active": "boolean NOT NULL DEFAULT true",
    "job_schedules.job_type": "text NOT NULL",
    "job_schedules.last_error_at": "timestamp with time zone",
    "job_schedules.last_error_code": "text",
    "job_schedules.last_error_message": "text",
    "job_schedules.last_fired_at": "timestamp with time zone",
    "job_schedules.last_job_id": "uuid",
    "job_schedules.last_scheduled_for": "timestamp with time zone",
    "job_schedules.max_jitter_seconds": "integer NOT NULL DEFAULT 0",
    "job_schedules.name": "text NOT NULL",
    "job_schedules.next_fire_at": "timestamp with time zone NOT NULL",
    "job_schedules.organization_id": "uuid",
    "job_schedules.overlap": "text NOT NULL DEFAULT 'earlier'::text",
    "job_schedules.owner": "text",
    "job_schedules.paused_at": "timestamp with time zone",
    "job_schedules.payload_template": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "job_schedules.payload_version": "integer NOT NULL DEFAULT 1",
    "job_schedules.timezone": "text NOT NULL DEFAULT 'UTC'::text",
    "job_schedules.updated_at": "timestamp with time zone NOT NULL",
    "migration_history.applied_at": "timestamp with time zone NOT NULL",
    "migration_history.breaking": "boolean NOT NULL",
    "migration_history.checksum": "text NOT NULL",
    "migration_history.id": "integer NOT NULL",
    "migration_history.name": "text NOT NULL",
    "workflow_active_claims.active_key": "text NOT NULL",
    "workflow_active_claims.created_at": "timestamp with time zone NOT NULL",
    "workflow_active_claims.release_pending": "boolean NOT NULL DEFAULT false",
    "workflow_active_claims.scope": "text NOT NULL",
    "workflow_active_claims.updated_at": "timestamp with time zone NOT NULL",
    "workflow_active_claims.workflow_run_id": "uuid NOT NULL",
    "workflow_recoveries.created_at": "timestamp with time zone NOT NULL",
    "workflow_recoveries.mode": "text NOT NULL",
    "workflow_recoveries.reason": "text NOT NULL",
    "workflow_recoveries.recovery_run_id": "uuid NOT NULL",
    "workflow_recoveries.request_key": "text NOT NULL",
    "workflow_recoveries.source_run_id": "uuid NOT NULL",
    "workflow_recoveries.source_step_id": "uuid",
    "workflow_run_mutations.created_at": "timestamp with time zone NOT NULL",
    "workflow_run_mutations.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "workflow_run_mutations.metadata": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "workflow_run_mutations.mutation_key": "text NOT NULL",
    "workflow_run_mutations.mutation_kind": "text NOT NULL DEFAULT 'APPEND_STEPS'::text",
    "workflow_run_mutations.request": "jsonb NOT NULL",
    "workflow_run_mutations.workflow_run_id": "uuid NOT NULL",
    "workflow_runs.created_at": "timestamp with time zone NOT NULL",
    "workflow_runs.enqueue_request": "jsonb",
    "workflow_runs.finished_at": "timestamp with time zone",
    "workflow_runs.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "workflow_runs.idempotency_key": "text",
    "workflow_runs.metadata": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "workflow_runs.organization_id": "uuid",
    "workflow_runs.result": "jsonb",
    "workflow_runs.result_step_key": "text",
    "workflow_runs.started_at": "timestamp with time zone NOT NULL",
    "workflow_runs.status": "text NOT NULL DEFAULT 'RUNNING'::text",
    "workflow_runs.steps_open": "integer NOT NULL DEFAULT 0",
    "workflow_runs.steps_total": "integer NOT NULL DEFAULT 0",
    "workflow_runs.steps_unsuccessful": "integer NOT NULL DEFAULT 0",
    "workflow_runs.steps_waiting": "integer NOT NULL DEFAULT 0",
    "workflow_runs.trace_parent": "text",
    "workflow_runs.updated_at": "timestamp with time zone NOT NULL",
    "workflow_runs.workflow_type": "text NOT NULL",
    "workflow_step_dependencies.created_at": "timestamp with time zone NOT NULL",
    "workflow_step_dependencies.dependent_step_id": "uuid NOT NULL",
    "workflow_step_dependencies.prerequisite_step_id": "uuid NOT NULL",
    "workflow_step_dependencies.release_mode": "text NOT NULL DEFAULT 'ON_TERMINAL'::text",
    "workflow_step_dependencies.workflow_run_id": "uuid NOT NULL",
    "workflow_steps.allow_handler_continuation": "boolean NOT NULL DEFAULT false",
    "workflow_steps.created_at": "timestamp with time zone NOT NULL",
    "workflow_steps.dependency_count_pending": "integer NOT NULL DEFAULT 0",
    "workflow_steps.dependency_count_total": "integer NOT NULL DEFAULT 0",
    "workflow_steps.dependency_count_unsatisfied": "integer NOT NULL DEFAULT 0",
    "workflow_steps.execution_kind": "text NOT NULL DEFAULT 'JOB'::text",
    "workflow_steps.execution_resource_key": "text",
    "workflow_steps.fan_out_index": "integer",
    "workflow_steps.fan_out_key": "text",
    "workflow_steps.finished_at": "timestamp with time zone",
    "workflow_steps.id": "uuid NOT NULL DEFAULT runledger.uuidv7()",
    "workflow_steps.job_id": "uuid",
    "workflow_steps.job_type": "text",
    "workflow_steps.last_error_code": "text",
    "workflow_steps.last_error_message": "text",
    "workflow_steps.max_attempts": "integer",
    "workflow_steps.organization_id": "uuid",
    "workflow_steps.output": "jsonb",
    "workflow_steps.payload": "jsonb NOT NULL DEFAULT '{}'::jsonb",
    "workflow_steps.payload_version": "integer NOT NULL DEFAULT 1",
    "workflow_steps.prerequisite_step_ids": "uuid[] NOT NULL DEFAULT '{}'::uuid[]",
    "workflow_steps.priority": "integer",
    "workflow_steps.released_at": "timestamp with time zone",
    "workflow_steps.stage": "text",
    "workflow_steps.started_at": "timestamp with time zone",
    "workflow_steps.status": "text NOT NULL DEFAULT 'BLOCKED'::text",
    "workflow_steps.status_reason": "text",
    "workflow_steps.step_key": "text NOT NULL",
    "workflow_steps.timeout_seconds": "integer",
    "workflow_steps.updated_at": "timestamp with time zone NOT NULL",
    "workflow_steps.workflow_run_id": "uuid NOT NULL"
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
    "job_attempts.chk_job_attempts_worker_not_blank": "CHECK (((worker_id)::bpchar <> ''::bpchar))",
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
    "job_definitions.chk_job_definitions_type_not_blank": "CHECK (((job_type)::bpchar <> ''::bpchar))",
    "job_definitions.chk_job_definitions_version_positive": "CHECK ((version > 0))",
    "job_definitions.pk_job_definitions": "PRIMARY KEY (job_type)",
    "job_enqueue_intents.chk_job_enqueue_intents_delay":
      "CHECK (((delay_ms IS NULL) OR ((delay_ms >= 0) AND (next_run_at IS NULL))))",
    "job_enqueue_intents.chk_job_enqueue_intents_enqueue_request_version": "CHECK ((enqueue_request_version = 1))",
    "job_enqueue_intents.chk_job_enqueue_intents_execution_resource_key":
      "CHECK (((execution_resource_key ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text) AND (octet_length(execution_resource_key) <= 512)))",
    "job_enqueue_intents.chk_job_enqueue_intents_idempotency_key_not_blank":
      "CHECK ((idempotency_key ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text))",
    "job_enqueue_intents.chk_job_enqueue_intents_job_type_not_blank":
      "CHECK ((job_type ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text))",
    "job_enqueue_intents.chk_job_enqueue_intents_max_attempts_positive": "CHECK ((max_attempts > 0))",
    "job_enqueue_intents.chk_job_enqueue_intents_payload_version_positive": "CHECK ((payload_version > 0))",
    "job_enqueue_intents.chk_job_enqueue_intents_promotion_attempts": "CHECK ((promotion_attempts >= 0))",
    "job_enqueue_intents.chk_job_enqueue_intents_stage_not_blank":
      "CHECK ((stage ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text))",
    "job_enqueue_intents.chk_job_enqueue_intents_state_fields": `CHECK (
CASE status
    WHEN 'PENDING'::text THEN ((promoted_job_id IS NULL) AND (promoted_at IS NULL) AND (conflicted_at IS NULL) AND
    CASE
        WHEN (promotion_attempts = 0) THEN ((last_attempted_at IS NULL) AND (last_error_code IS NULL) AND (last_error_message IS NULL))
        ELSE ((last_attempted_at IS NOT NULL) AND ((COALESCE(last_error_code, ''::text))::bpchar <> ''::bpchar) AND ((COALESCE(last_error_message, ''::text))::bpchar <> ''::bpchar))
    END)
    WHEN 'PROMOTED'::text THEN ((promotion_attempts > 0) AND (last_attempted_at IS NOT NULL) AND (promoted_job_id IS NOT NULL) AND (promoted_at IS NOT NULL) AND (conflicted_at IS NULL) AND (last_error_code IS NULL) AND (last_error_message IS NULL))
    WHEN 'CONFLICTED'::text THEN ((promotion_attempts > 0) AND (last_attempted_at IS NOT NULL) AND (promoted_job_id IS NULL) AND (promoted_at IS NULL) AND (conflicted_at IS NOT NULL) AND ((COALESCE(last_error_code, ''::text))::bpchar <> ''::bpchar) AND ((COALESCE(last_error_message, ''::text))::bpchar <> ''::bpchar))
    ELSE true
END)`,
    "job_enqueue_intents.chk_job_enqueue_intents_status":
      "CHECK ((status = ANY (ARRAY['PENDING'::text, 'PROMOTED'::text, 'CONFLICTED'::text])))",
    "job_enqueue_intents.chk_job_enqueue_intents_timeout_positive": "CHECK ((timeout_seconds > 0))",
    "job_enqueue_intents.pk_job_enqueue_intents": "PRIMARY KEY (id)",
    "job_events.chk_job_events_attempt_nonnegative": "CHECK ((attempt > 0))",
    "job_events.chk_job_events_event_type":
      "CHECK ((event_type = ANY (ARRAY['ENQUEUED'::text, 'LEASED'::text, 'HEARTBEAT'::text, 'STAGE_CHANGED'::text, 'PROGRESS'::text, 'RETRY_SCHEDULED'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'DEAD_LETTERED'::text, 'CANCELED'::text, 'REQUEUED'::text])))",
    "job_events.chk_job_events_progress_nonnegative":
      "CHECK (((progress_done >= 0) AND (progress_total >= 0) AND (progress_done <= progress_total)))",
    "job_events.chk_job_events_run_number_positive": "CHECK ((run_number > 0))",
    "job_events.chk_job_events_seq_positive": "CHECK ((seq > 0))",
    "job_events.chk_job_events_stage_not_blank": "CHECK (((stage)::bpchar <> ''::bpchar))",
    "job_events.pk_job_events": "PRIMARY KEY (job_id, seq)",
    "job_execution_permits.chk_job_execution_permits_holder":
      "CHECK ((num_nulls(job_id, run_number, attempt, leased_seq, taken_at) = ANY (ARRAY[0, 5])))",
    "job_execution_permits.chk_job_execution_permits_slot_positive": "CHECK ((slot > 0))",
    "job_execution_permits.pk_job_execution_permits": "PRIMARY KEY (id)",
    "job_execution_permits.uq_job_execution_permits_key_slot": "UNIQUE (resource_key, slot)",
    "job_execution_rate_tokens.pk_job_execution_rate_tokens": "PRIMARY KEY (id)",
    "job_execution_resources.chk_job_execution_resources_permits": "CHECK (((permits >= 1) AND (permits <= 1000)))",
    "job_execution_resources.chk_job_execution_resources_rate":
      "CHECK ((((rate_permits IS NULL) = (rate_interval_ms IS NULL)) AND ((rate_permits >= 1) AND (rate_permits <= 10000)) AND (rate_interval_ms > 0)))",
    "job_execution_resources.pk_job_execution_resources": "PRIMARY KEY (resource_key)",
    "job_logs.chk_job_logs_attempt_nonnegative": "CHECK ((attempt >= 0))",
    "job_logs.chk_job_logs_level_not_blank": "CHECK (((level)::bpchar <> ''::bpchar))",
    "job_logs.chk_job_logs_message_not_blank": "CHECK (((message)::bpchar <> ''::bpchar))",
    "job_logs.chk_job_logs_run_number_positive": "CHECK ((run_number > 0))",
    "job_logs.pk_job_logs": "PRIMARY KEY (job_id, id)",
    "job_queue.ck_job_queue_idempotency_enqueue_request":
      "CHECK (((idempotency_key IS NULL) OR (enqueue_request IS NOT NULL)))",
    "job_queue.pk_job_queue": "PRIMARY KEY (id)",
    "job_replays.chk_job_replays_distinct_jobs": "CHECK ((source_job_id <> replay_job_id))",
    "job_replays.chk_job_replays_reason_not_blank": "CHECK (((reason)::bpchar <> ''::bpchar))",
    "job_replays.chk_job_replays_request_key":
      "CHECK ((((replay_request_key)::bpchar <> ''::bpchar) AND (octet_length(replay_request_key) <= 512)))",
    "job_replays.chk_job_replays_source_run_positive": "CHECK ((source_run_number > 0))",
    "job_replays.pk_job_replays": "PRIMARY KEY (replay_job_id)",
    "job_replays.uq_job_replays_source_request": "UNIQUE (source_job_id, source_run_number, replay_request_key)",
    "job_runtime_configs.chk_job_runtime_configs_config_object": "CHECK ((jsonb_typeof(config) = 'object'::text))",
    "job_runtime_configs.chk_job_runtime_configs_schema_version_positive": "CHECK ((schema_version > 0))",
    "job_runtime_configs.chk_job_runtime_configs_type_not_blank": "CHECK (((job_type)::bpchar <> ''::bpchar))",
    "job_runtime_configs.pk_job_runtime_configs": "PRIMARY KEY (job_type)",
    "job_schedules.chk_job_schedules_carries_time":
      "CHECK ((carries_time = ANY (ARRAY['MEMBER'::text, 'WRAPPER'::text, 'KEY'::text])))",
    "job_schedules.chk_job_schedules_cron_not_blank": "CHECK (((cron_expr)::bpchar <> ''::bpchar))",
    "job_schedules.chk_job_schedules_due": "CHECK ((isfinite(next_fire_at) AND (due_at >= next_fire_at)))",
    "job_schedules.chk_job_schedules_error": "CHECK (((last_error_code IS NULL) = (last_error_at IS NULL)))",
    "job_schedules.chk_job_schedules_jitter_nonnegative": "CHECK ((max_jitter_seconds >= 0))",
    "job_schedules.chk_job_schedules_name_not_blank": "CHECK (((name)::bpchar <> ''::bpchar))",
    "job_schedules.chk_job_schedules_overlap":
      "CHECK ((overlap = ANY (ARRAY['earlier'::text, 'later'::text, 'both'::text])))",
    "job_schedules.chk_job_schedules_owner_not_blank": "CHECK (((owner)::bpchar <> ''::bpchar))",
    "job_schedules.chk_job_schedules_paused": "CHECK (((paused_at IS NULL) OR (NOT is_active)))",
    "job_schedules.chk_job_schedules_payload_version_positive": "CHECK ((payload_version > 0))",
    "job_schedules.chk_job_schedules_timezone_not_blank": "CHECK (((timezone)::bpchar <> ''::bpchar))",
    "job_schedules.fk_job_schedules_job_type":
      "FOREIGN KEY (job_type) REFERENCES runledger.job_definitions(job_type) ON DELETE RESTRICT",
    "job_schedules.job_schedules_name_key": "UNIQUE (name)",
    "job_schedules.pk_job_schedules": "PRIMARY KEY (id)",
    "migration_history.pk_migration_history": "PRIMARY KEY (id)",
    "workflow_active_claims.chk_workflow_active_claims_key_not_blank":
      "CHECK (((active_key ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text) AND (octet_length(active_key) <= 512)))",
    "workflow_active_claims.chk_workflow_active_claims_scope_not_blank": "CHECK (((scope)::bpchar <> ''::bpchar))",
    "workflow_active_claims.fk_workflow_active_claims_run":
      "FOREIGN KEY (workflow_run_id) REFERENCES runledger.workflow_runs(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED",
    "workflow_active_claims.pk_workflow_active_claims": "PRIMARY KEY (scope, active_key)",
    "workflow_active_claims.uq_workflow_active_claims_run": "UNIQUE (workflow_run_id)",
    "workflow_recoveries.chk_workflow_recoveries_distinct_runs": "CHECK ((recovery_run_id <> source_run_id))",
    "workflow_recoveries.chk_workflow_recoveries_mode": "CHECK ((mode = 'FULL_REPLAY'::text))",
    "workflow_recoveries.chk_workflow_recoveries_reason": "CHECK (((reason)::bpchar <> ''::bpchar))",
    "workflow_recoveries.chk_workflow_recoveries_request_key":
      "CHECK (((request_key ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text) AND (octet_length(request_key) <= 512)))",
    "workflow_recoveries.fk_workflow_recoveries_recovery_run":
      "FOREIGN KEY (recovery_run_id) REFERENCES runledger.workflow_runs(id)",
    "workflow_recoveries.fk_workflow_recoveries_source_run":
      "FOREIGN KEY (source_run_id) REFERENCES runledger.workflow_runs(id) ON DELETE CASCADE",
    "workflow_recoveries.fk_workflow_recoveries_source_step":
      "FOREIGN KEY (source_step_id) REFERENCES runledger.workflow_steps(id) ON DELETE SET NULL",
    "workflow_recoveries.pk_workflow_recoveries": "PRIMARY KEY (recovery_run_id)",
    "workflow_run_mutations.chk_workflow_run_mutations_kind": "CHECK ((mutation_kind = 'APPEND_STEPS'::text))",
    "workflow_run_mutations.chk_workflow_run_mutations_mutation_key_not_blank":
      "CHECK (((mutation_key)::bpchar <> ''::bpchar))",
    "workflow_run_mutations.fk_workflow_run_mutations_workflow_run":
      "FOREIGN KEY (workflow_run_id) REFERENCES runledger.workflow_runs(id) ON DELETE CASCADE",
    "workflow_run_mutations.pk_workflow_run_mutations": "PRIMARY KEY (id)",
    "workflow_runs.chk_workflow_runs_idempotency_key_not_blank": "CHECK (((idempotency_key)::bpchar <> ''::bpchar))",
    "workflow_runs.chk_workflow_runs_result_step_key_not_blank": "CHECK (((result_step_key)::bpchar <> ''::bpchar))",
    "workflow_runs.chk_workflow_runs_status":
      "CHECK ((status = ANY (ARRAY['RUNNING'::text, 'WAITING_FOR_EXTERNAL'::text, 'SUCCEEDED'::text, 'COMPLETED_WITH_ERRORS'::text, 'CANCELED'::text])))",
    "workflow_runs.chk_workflow_runs_step_counts":
      "CHECK (((steps_open >= 0) AND (steps_waiting >= 0) AND (steps_unsuccessful >= 0) AND (((steps_open + steps_waiting) + steps_unsuccessful) <= steps_total)))",
    "workflow_runs.chk_workflow_runs_workflow_type_not_blank": "CHECK (((workflow_type)::bpchar <> ''::bpchar))",
    "workflow_runs.ck_workflow_runs_idempotency_enqueue_request":
      "CHECK (((idempotency_key IS NULL) OR (enqueue_request IS NOT NULL)))",
    "workflow_runs.pk_workflow_runs": "PRIMARY KEY (id)",
    "workflow_step_dependencies.chk_workflow_step_dependencies_no_self_reference":
      "CHECK ((prerequisite_step_id <> dependent_step_id))",
    "workflow_step_dependencies.chk_workflow_step_dependencies_release_mode":
      "CHECK ((release_mode = ANY (ARRAY['ON_TERMINAL'::text, 'ON_SUCCESS'::text])))",
    "workflow_step_dependencies.pk_workflow_step_dependencies":
      "PRIMARY KEY (workflow_run_id, prerequisite_step_id, dependent_step_id)",
    "workflow_steps.chk_workflow_steps_dependency_counts_nonnegative":
      "CHECK (((dependency_count_total >= 0) AND ((dependency_count_pending >= 0) AND (dependency_count_pending <= dependency_count_total)) AND ((dependency_count_unsatisfied >= 0) AND (dependency_count_unsatisfied <= dependency_count_total))))",
    "workflow_steps.chk_workflow_steps_execution_kind":
      "CHECK ((execution_kind = ANY (ARRAY['JOB'::text, 'EXTERNAL'::text])))",
    "workflow_steps.chk_workflow_steps_execution_resource_key":
      "CHECK (((execution_resource_key IS NULL) OR ((execution_kind = 'JOB'::text) AND (execution_resource_key ~ '[^[:space:]\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'::text) AND (octet_length(execution_resource_key) <= 512))))",
    "workflow_steps.chk_workflow_steps_execution_shape": `CHECK (
CASE execution_kind
    WHEN 'JOB'::text THEN (num_nulls(job_type, priority, max_attempts, timeout_seconds, stage) = 0)
    ELSE (num_nonnulls(job_id, job_type, priority, max_attempts, timeout_seconds, stage) = 0)
END)`,
    "workflow_steps.chk_workflow_steps_fan_out":
      "CHECK ((((fan_out_key IS NULL) = (fan_out_index IS NULL)) AND ((fan_out_key)::bpchar <> ''::bpchar) AND (fan_out_index >= 0)))",
    "workflow_steps.chk_workflow_steps_handler_continuation_job_only":
      "CHECK (((execution_kind = 'JOB'::text) OR (NOT allow_handler_continuation)))",
    "workflow_steps.chk_workflow_steps_job_type_not_blank": "CHECK (((job_type)::bpchar <> ''::bpchar))",
    "workflow_steps.chk_workflow_steps_max_attempts_positive": "CHECK ((max_attempts > 0))",
    "workflow_steps.chk_workflow_steps_stage_not_blank": "CHECK (((stage)::bpchar <> ''::bpchar))",
    "workflow_steps.chk_workflow_steps_status":
      "CHECK ((status = ANY (ARRAY['BLOCKED'::text, 'WAITING_FOR_EXTERNAL'::text, 'ENQUEUED'::text, 'RUNNING'::text, 'SUCCEEDED'::text, 'FAILED'::text, 'CANCELED'::text])))",
    "workflow_steps.chk_workflow_steps_step_key_not_blank": "CHECK (((step_key)::bpchar <> ''::bpchar))",
    "workflow_steps.chk_workflow_steps_timeout_positive": "CHECK ((timeout_seconds > 0))",
    "workflow_steps.pk_workflow_steps": "PRIMARY KEY (id)",
    "workflow_steps.uq_workflow_steps_run_step_key": "UNIQUE (workflow_run_id, step_key)"
  },
  index: {
    "job_attempts.idx_job_attempts_finished_at":
      "CREATE INDEX idx_job_attempts_finished_at ON runledger.job_attempts USING brin (finished_at)",
    "job_dead_letters.idx_job_dead_letters_failed_at":
      "CREATE INDEX idx_job_dead_letters_failed_at ON runledger.job_dead_letters USING btree (failed_at, job_id)",
    "job_dead_letters.idx_job_dead_letters_open":
      "CREATE INDEX idx_job_dead_letters_open ON runledger.job_dead_letters USING btree (COALESCE((organization_id)::text, ''::text), failed_at, job_id) WHERE ((settled_run_number IS DISTINCT FROM run_number) AND (attempt > 0))",
    "job_dead_letters.idx_job_dead_letters_open_type":
      "CREATE INDEX idx_job_dead_letters_open_type ON runledger.job_dead_letters USING btree (COALESCE((organization_id)::text, ''::text), job_type, failed_at, job_id) WHERE (settled_run_number IS DISTINCT FROM run_number)",
    "job_dead_letters.idx_job_dead_letters_organization":
      "CREATE INDEX idx_job_dead_letters_organization ON runledger.job_dead_letters USING btree (organization_id, failed_at, job_id) WHERE (organization_id IS NOT NULL)",
    "job_enqueue_intents.idx_job_enqueue_intents_conflicted":
      "CREATE INDEX idx_job_enqueue_intents_conflicted ON runledger.job_enqueue_intents USING btree (conflicted_at) INCLUDE (job_type, organization_id) WHERE (conflicted_at IS NOT NULL)",
    "job_enqueue_intents.idx_job_enqueue_intents_open":
      "CREATE INDEX idx_job_enqueue_intents_open ON runledger.job_enqueue_intents USING btree (id) WHERE (status <> 'PROMOTED'::text)",
    "job_enqueue_intents.idx_job_enqueue_intents_organization":
      "CREATE INDEX idx_job_enqueue_intents_organization ON runledger.job_enqueue_intents USING btree (organization_id, id) WHERE ((organization_id IS NOT NULL) AND (job_type <> ''::text))",
    "job_enqueue_intents.idx_job_enqueue_intents_pending":
      "CREATE INDEX idx_job_enqueue_intents_pending ON runledger.job_enqueue_intents USING btree (job_type, next_promotion_at, id) WHERE (status = 'PENDING'::text)",
    "job_enqueue_intents.idx_job_enqueue_intents_promoted":
      "CREATE INDEX idx_job_enqueue_intents_promoted ON runledger.job_enqueue_intents USING btree (promoted_at, id) INCLUDE (job_type, organization_id) WHERE (promoted_at IS NOT NULL)",
    "job_enqueue_intents.idx_job_enqueue_intents_promoted_job":
      "CREATE INDEX idx_job_enqueue_intents_promoted_job ON runledger.job_enqueue_intents USING btree (promoted_job_id) WHERE (promoted_job_id IS NOT NULL)",
    "job_enqueue_intents.uq_job_enqueue_intents_type_idempotency":
      "CREATE UNIQUE INDEX uq_job_enqueue_intents_type_idempotency ON runledger.job_enqueue_intents USING btree (job_type, organization_id, idempotency_key) NULLS NOT DISTINCT",
    "job_execution_permits.idx_job_execution_permits_spot":
      "CREATE INDEX idx_job_execution_permits_spot ON runledger.job_execution_permits USING btree (spot) WHERE (slot = 1)",
    "job_execution_rate_tokens.idx_job_execution_rate_tokens_free":
      "CREATE INDEX idx_job_execution_rate_tokens_free ON runledger.job_execution_rate_tokens USING btree (resource_key, free_at)",
    "job_queue.idx_job_queue_claim":
      "CREATE INDEX idx_job_queue_claim ON runledger.job_queue USING btree (job_type, payload_version, execution_resource_key NULLS FIRST, priority DESC, next_run_at, id) WHERE ((status)::text = 'PENDING'::text)",
    "job_queue.idx_job_queue_lease_expiry":
      "CREATE INDEX idx_job_queue_lease_expiry ON runledger.job_queue USING btree (lease_expires_at, id) WHERE ((status)::text = 'LEASED'::text)",
    "job_queue.idx_job_queue_organization":
      "CREATE INDEX idx_job_queue_organization ON runledger.job_queue USING btree (organization_id, id) WHERE ((organization_id IS NOT NULL) AND (job_type <> ''::text))",
    "job_queue.uq_job_queue_type_idempotency":
      "CREATE UNIQUE INDEX uq_job_queue_type_idempotency ON runledger.job_queue USING btree (job_type, organization_id, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL)",
    "job_schedules.idx_job_schedules_due":
      "CREATE INDEX idx_job_schedules_due ON runledger.job_schedules USING btree (due_at, id) WHERE is_active",
    "job_schedules.idx_job_schedules_job_type":
      "CREATE INDEX idx_job_schedules_job_type ON runledger.job_schedules USING btree (job_type) WHERE is_active",
    "job_schedules.idx_job_schedules_owner":
      "CREATE INDEX idx_job_schedules_owner ON runledger.job_schedules USING btree (owner) WHERE (owner IS NOT NULL)",
    "workflow_active_claims.idx_workflow_active_claims_release_pending":
      "CREATE INDEX idx_workflow_active_claims_release_pending ON runledger.workflow_active_claims USING btree (updated_at, workflow_run_id) WHERE release_pending",
    "workflow_recoveries.idx_workflow_recoveries_source_step":
      "CREATE INDEX idx_workflow_recoveries_source_step ON runledger.workflow_recoveries USING btree (source_step_id) WHERE (source_step_id IS NOT NULL)",
    "workflow_recoveries.uq_workflow_recoveries_source_request":
      "CREATE UNIQUE INDEX uq_workflow_recoveries_source_request ON runledger.workflow_recoveries USING btree (source_run_id, request_key)",
    "workflow_run_mutations.uq_workflow_run_mutations_run_mutation_key":
      "CREATE UNIQUE INDEX uq_workflow_run_mutations_run_mutation_key ON runledger.workflow_run_mutations USING btree (workflow_run_id, mutation_key)",
    "workflow_runs.idx_workflow_runs_organization":
      "CREATE INDEX idx_workflow_runs_organization ON runledger.workflow_runs USING btree (organization_id, id) WHERE (organization_id IS NOT NULL)",
    "workflow_runs.idx_workflow_runs_type":
      "CREATE INDEX idx_workflow_runs_type ON runledger.workflow_runs USING btree (workflow_type, id)",
    "workflow_runs.idx_workflow_runs_under_way":
      "CREATE INDEX idx_workflow_runs_under_way ON runledger.workflow_runs USING btree (id) WHERE (status = ANY (ARRAY['RUNNING'::text, 'WAITING_FOR_EXTERNAL'::text]))",
    "workflow_runs.idx_workflow_runs_unsuccessful":
      "CREATE INDEX idx_workflow_runs_unsuccessful ON runledger.workflow_runs USING btree (id) WHERE (status = ANY (ARRAY['COMPLETED_WITH_ERRORS'::text, 'CANCELED'::text]))",
    "workflow_runs.uq_workflow_runs_type_idempotency":
      "CREATE UNIQUE INDEX uq_workflow_runs_type_idempotency ON runledger.workflow_runs USING btree (workflow_type, organization_id, idempotency_key) NULLS NOT DISTINCT WHERE (idempotency_key IS NOT NULL)"
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
`,
    "uuidv7s(integer)": `CREATE OR REPLACE FUNCTION runledger.uuidv7s(count integer)
 RETURNS uuid[]
 LANGUAGE plpgsql
 PARALLEL SAFE
AS $function$
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
$function$
`
  },
  trigger: {
    "job_definitions.trg_job_definitions_refuse_delete":
      "CREATE TRIGGER trg_job_definitions_refuse_delete BEFORE DELETE ON runledger.job_definitions FOR EACH ROW EXECUTE FUNCTION runledger.refuse_job_definition_delete()"
  },
  view: {}
}
