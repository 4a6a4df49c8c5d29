import type { Migration } from "./Migration.ts"

/**
 * Schedules: what is enqueued again and again, when next, and what went wrong with it.
 *
 * `next_fire_at` is the time that the schedule means, which its job carries; `due_at` is when a scheduler looks at it: the
 * same, or later for one that was postponed. A row is written once per fire, so it is no hot table, and keeps its foreign key.
 */
const migration: Migration = {
  id: 8,
  name: "schedules",
  breaking: false,
  statements: [
    `CREATE TABLE runledger.job_schedules (
  id uuid NOT NULL DEFAULT runledger.uuidv7(),
  name text NOT NULL,
  owner text,
  job_type text NOT NULL,
  organization_id uuid,
  payload_template jsonb NOT NULL DEFAULT '{}',
  payload_version integer NOT NULL DEFAULT 1,
  carries_time text NOT NULL DEFAULT 'MEMBER',
  cron_expr text NOT NULL,
  timezone text NOT NULL DEFAULT 'UTC',
  overlap text NOT NULL DEFAULT 'earlier',
  max_jitter_seconds integer NOT NULL DEFAULT 0,
  is_active boolean NOT NULL DEFAULT true,
  paused_at timestamptz,
  next_fire_at timestamptz NOT NULL,
  due_at timestamptz NOT NULL,
  last_fired_at timestamptz,
  last_scheduled_for timestamptz,
  last_job_id uuid,
  last_error_code text,
  last_error_message text,
  last_error_at timestamptz,
  created_by_user_id uuid,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT pk_job_schedules PRIMARY KEY (id),
  CONSTRAINT job_schedules_name_key UNIQUE (name),
  CONSTRAINT fk_job_schedules_job_type FOREIGN KEY (job_type)
    REFERENCES runledger.job_definitions (job_type) ON DELETE RESTRICT,
  CONSTRAINT chk_job_schedules_name_not_blank CHECK (name::bpchar <> ''),
  CONSTRAINT chk_job_schedules_owner_not_blank CHECK (owner::bpchar <> ''),
  CONSTRAINT chk_job_schedules_payload_version_positive CHECK (payload_version > 0),
  -- where in the payload the job finds its time: a member, a wrapper around the template, or only its idempotency key
  CONSTRAINT chk_job_schedules_carries_time CHECK (carries_time IN ('MEMBER', 'WRAPPER', 'KEY')),
  CONSTRAINT chk_job_schedules_cron_not_blank CHECK (cron_expr::bpchar <> ''),
  CONSTRAINT chk_job_schedules_timezone_not_blank CHECK (timezone::bpchar <> ''),
  CONSTRAINT chk_job_schedules_overlap CHECK (overlap IN ('earlier', 'later', 'both')),
  CONSTRAINT chk_job_schedules_jitter_nonnegative CHECK (max_jitter_seconds >= 0),
  CONSTRAINT chk_job_schedules_paused CHECK (paused_at IS NULL OR NOT is_active),
  CONSTRAINT chk_job_schedules_due CHECK (isfinite(next_fire_at) AND due_at >= next_fire_at),
  CONSTRAINT chk_job_schedules_error CHECK ((last_error_code IS NULL) = (last_error_at IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.1)`,

    // JobSchedules.fireDue: what is due, oldest first, and when the next will be
    `CREATE INDEX idx_job_schedules_due
  ON runledger.job_schedules (due_at, id)
  WHERE is_active`,

    // whether a definition may be disabled
    `CREATE INDEX idx_job_schedules_job_type
  ON runledger.job_schedules (job_type)
  WHERE is_active`,

    // JobSchedules.syncExact of everything that an owner has
    `CREATE INDEX idx_job_schedules_owner
  ON runledger.job_schedules (owner)
  WHERE owner IS NOT NULL`
  ]
}

export default migration
