import type { Migration } from "./Migration.ts"

const shows = String.raw`~ '[^[:space:]\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]'`

/**
 * Jobs that are to be enqueued once their type is declared and enabled.
 *
 * - Neither the type nor the job is a foreign key: a type may be recorded long before it is declared, and a reference to
 *   `job_queue` would put a trigger on each of its updates. Promotion and deletion hold the job instead; see
 *   `src/intents/promote.ts`.
 * - An intent is inserted once, and changed once unless its promotion has to be repeated.
 */
const migration: Migration = {
  id: 6,
  name: "job_intents",
  breaking: false,
  statements: [
    // delay_ms counts from created_at. trace_parent is the trace of whoever recorded it, and goes to the job.
    `CREATE TABLE runledger.job_enqueue_intents (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  job_type text NOT NULL,
  payload_version integer NOT NULL DEFAULT 1,
  organization_id uuid,
  payload jsonb NOT NULL,
  priority integer,
  max_attempts integer,
  timeout_seconds integer,
  next_run_at timestamptz,
  delay_ms bigint,
  idempotency_key text NOT NULL,
  stage text NOT NULL DEFAULT 'queued',
  enqueue_request_version smallint NOT NULL DEFAULT 1,
  enqueue_request jsonb NOT NULL,
  execution_resource_key text,
  trace_parent text,
  promotion_attempts integer NOT NULL DEFAULT 0,
  next_promotion_at timestamptz NOT NULL,
  last_attempted_at timestamptz,
  status text NOT NULL DEFAULT 'PENDING',
  promoted_job_id uuid,
  promoted_at timestamptz,
  conflicted_at timestamptz,
  last_error_code text,
  last_error_message text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_enqueue_intents PRIMARY KEY (id),
  CONSTRAINT chk_job_enqueue_intents_job_type_not_blank CHECK (job_type ${shows}),
  CONSTRAINT chk_job_enqueue_intents_payload_version_positive CHECK (payload_version > 0),
  CONSTRAINT chk_job_enqueue_intents_max_attempts_positive CHECK (max_attempts > 0),
  CONSTRAINT chk_job_enqueue_intents_timeout_positive CHECK (timeout_seconds > 0),
  CONSTRAINT chk_job_enqueue_intents_delay CHECK (delay_ms IS NULL OR (delay_ms >= 0 AND next_run_at IS NULL)),
  CONSTRAINT chk_job_enqueue_intents_idempotency_key_not_blank CHECK (idempotency_key ${shows}),
  CONSTRAINT chk_job_enqueue_intents_stage_not_blank CHECK (stage ${shows}),
  CONSTRAINT chk_job_enqueue_intents_enqueue_request_version CHECK (enqueue_request_version = 1),
  CONSTRAINT chk_job_enqueue_intents_execution_resource_key CHECK (
    execution_resource_key ${shows} AND octet_length(execution_resource_key) <= 512
  ),
  CONSTRAINT chk_job_enqueue_intents_promotion_attempts CHECK (promotion_attempts >= 0),
  CONSTRAINT chk_job_enqueue_intents_status CHECK (status IN ('PENDING', 'PROMOTED', 'CONFLICTED')),
  CONSTRAINT chk_job_enqueue_intents_state_fields CHECK (
    CASE status
      WHEN 'PENDING' THEN
        promoted_job_id IS NULL AND promoted_at IS NULL AND conflicted_at IS NULL
        AND CASE
          WHEN promotion_attempts = 0
            THEN last_attempted_at IS NULL AND last_error_code IS NULL AND last_error_message IS NULL
          ELSE last_attempted_at IS NOT NULL
            AND COALESCE(last_error_code, '')::bpchar <> '' AND COALESCE(last_error_message, '')::bpchar <> ''
        END
      WHEN 'PROMOTED' THEN
        promotion_attempts > 0 AND last_attempted_at IS NOT NULL AND promoted_job_id IS NOT NULL
        AND promoted_at IS NOT NULL AND conflicted_at IS NULL AND last_error_code IS NULL AND last_error_message IS NULL
      WHEN 'CONFLICTED' THEN
        promotion_attempts > 0 AND last_attempted_at IS NOT NULL AND promoted_job_id IS NULL AND promoted_at IS NULL
        AND conflicted_at IS NOT NULL
        AND COALESCE(last_error_code, '')::bpchar <> '' AND COALESCE(last_error_message, '')::bpchar <> ''
      -- any other status breaks the rule of its own
      ELSE true
    END
  )
) WITH (
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 2000,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05
)`,

    // JobIntents.record, within an organization and globally, as for the keys of jobs
    `CREATE UNIQUE INDEX uq_job_enqueue_intents_type_idempotency
  ON runledger.job_enqueue_intents (job_type, organization_id, idempotency_key) NULLS NOT DISTINCT`,

    // JobIntents.promote: each type that is served is one descent, and what is not served or was put off is never walked over
    `CREATE INDEX idx_job_enqueue_intents_pending
  ON runledger.job_enqueue_intents (job_type, next_promotion_at, id)
  WHERE status = 'PENDING'`,

    // JobIntents.list of what has not become a job, however many have
    `CREATE INDEX idx_job_enqueue_intents_open
  ON runledger.job_enqueue_intents (id)
  WHERE status <> 'PROMOTED'`,

    // JobIntents.list of one organization; the second clause is always true and said by lists alone, so that no look-up by key
    // can be answered from here
    `CREATE INDEX idx_job_enqueue_intents_organization
  ON runledger.job_enqueue_intents (organization_id, id)
  WHERE organization_id IS NOT NULL AND job_type <> ''`,

    // JobIntents.metrics of the last day. By the instant, not by the status, as the next two: so that no list by status is
    // answered from here and sorted
    `CREATE INDEX idx_job_enqueue_intents_conflicted
  ON runledger.job_enqueue_intents (conflicted_at) INCLUDE (job_type, organization_id)
  WHERE conflicted_at IS NOT NULL`,

    // JobIntents.deletePromotedBefore, oldest first; JobIntents.metrics of the last day
    `CREATE INDEX idx_job_enqueue_intents_promoted
  ON runledger.job_enqueue_intents (promoted_at, id) INCLUDE (job_type, organization_id)
  WHERE promoted_at IS NOT NULL`,

    // JobIntents.deletePromotedForJobs
    `CREATE INDEX idx_job_enqueue_intents_promoted_job
  ON runledger.job_enqueue_intents (promoted_job_id)
  WHERE promoted_job_id IS NOT NULL`
  ]
}

export default migration
