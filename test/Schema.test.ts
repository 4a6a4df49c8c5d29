import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { constraintName } from "../src/internal/sqlState.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

type Row = Readonly<Record<string, unknown>>

const at = "2026-01-01T00:00:00Z"
const id = "01980000-0000-7000-8000-000000000001"
const organization = "01980000-0000-7000-8000-00000000000a"
const other = "01980000-0000-7000-8000-00000000000b"
const missing = "01980000-0000-7000-8000-00000000000c"

const step = { id, workflow_run_id: id, step_key: "s", created_at: at, updated_at: at }
const queued = { job_type: "a", priority: 0, max_attempts: 3, timeout_seconds: 300, stage: "queued" }
const blanks = ["", " \t\n", "\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000"]
const tooLong = "é".repeat(257)

/** One row per table that breaks no rule; what is not named has its default. */
const valid = {
  migration_history: { id: 999, name: "later", checksum: "0", breaking: false, applied_at: at },
  job_definitions: { job_type: "a", created_at: at, updated_at: at },
  job_queue: { id, job_type: "a", max_attempts: 3, next_run_at: at, created_at: at, updated_at: at },
  job_attempts: {
    job_id: id,
    attempt: 1,
    worker_id: "w",
    leased_at: at,
    lease_ms: 1000,
    finished_at: at,
    ended_as: "CANCELED",
    leased_seq: 2
  },
  job_events: { job_id: id, seq: 1, event_type: "ENQUEUED", occurred_at: at },
  job_dead_letters: {
    job_id: id,
    job_type: "a",
    attempt: 1,
    reason: "ATTEMPTS_EXHAUSTED",
    failure_kind: "RETRYABLE",
    payload_snapshot: {},
    failed_at: at,
    created_at: at
  },
  job_execution_resources: { resource_key: "k", permits: 1, created_at: at, updated_at: at },
  job_execution_permits: { id: 1, resource_key: "k", slot: 1, spot: 0.5, is_retired: false, uses: 0 },
  job_execution_rate_tokens: { id: 1, resource_key: "k", free_at: at },
  job_enqueue_intents: {
    id,
    job_type: "a",
    payload: {},
    idempotency_key: "k",
    enqueue_request: {},
    next_promotion_at: at,
    created_at: at,
    updated_at: at
  },
  job_runtime_configs: { job_type: "a", schema_version: 1, config: {}, created_at: at, updated_at: at },
  job_logs: { id: 1, job_id: id, level: "INFO", message: "m", occurred_at: at },
  job_schedules: {
    id,
    name: "s",
    job_type: "a",
    cron_expr: "* * * * *",
    next_fire_at: at,
    due_at: at,
    created_at: at,
    updated_at: at
  },
  workflow_runs: { id, workflow_type: "a", metadata: {}, started_at: at, created_at: at, updated_at: at },
  workflow_steps: { ...step, ...queued },
  workflow_step_dependencies: {
    workflow_run_id: id,
    prerequisite_step_id: id,
    dependent_step_id: organization,
    created_at: at
  },
  workflow_run_mutations: { id, workflow_run_id: id, mutation_key: "m", request: {}, created_at: at },
  workflow_active_claims: { scope: "global", active_key: "k", workflow_run_id: id, created_at: at, updated_at: at },
  job_replays: {
    replay_job_id: other,
    source_job_id: id,
    source_run_number: 1,
    replay_request_key: "k",
    reason: "r",
    created_at: at
  },
  workflow_recoveries: {
    recovery_run_id: other,
    source_run_id: id,
    source_step_id: id,
    request_key: "k",
    mode: "FULL_REPLAY",
    reason: "r",
    created_at: at
  }
} as const satisfies Record<string, Row>
type Table = keyof typeof valid

const leased = {
  status: "LEASED",
  worker_id: "w",
  leased_at: at,
  lease_ms: 1000,
  claim_origin: "DIRECT",
  leased_seq: 2,
  lease_expires_at: at
}
const tried = { promotion_attempts: 1, last_attempted_at: at }
const promoted = { ...tried, status: "PROMOTED", promoted_job_id: id, promoted_at: at }
const failed = { ...tried, last_error_code: "code", last_error_message: "message" }
const conflicted = { ...failed, status: "CONFLICTED", conflicted_at: at }
const keyed = { idempotency_key: "k", enqueue_request: {} }
const nothingQueued = {
  job_type: undefined,
  priority: undefined,
  max_attempts: undefined,
  timeout_seconds: undefined,
  stage: undefined
}

/** What must be there before a valid row can be. */
const needs: { readonly [T in Table]?: ReadonlyArray<readonly [Table, Row]> } = {
  job_schedules: [["job_definitions", valid.job_definitions]],
  workflow_run_mutations: [["workflow_runs", valid.workflow_runs]],
  workflow_active_claims: [["workflow_runs", valid.workflow_runs]],
  workflow_recoveries: [
    ["workflow_runs", valid.workflow_runs],
    ["workflow_runs", { ...valid.workflow_runs, id: other }],
    ["workflow_steps", valid.workflow_steps]
  ]
}

/**
 * A rule, and each way to break it: the changes that make a valid row an invalid one, or `twice` the same row; of a list, the
 * first makes another valid row, and the second one that cannot stand beside it.
 */
const cases: ReadonlyArray<
  readonly [Table, constraint: string, ...violations: ReadonlyArray<Row | "twice" | readonly [Row, Row]>]
> = [
  ["migration_history", "pk_migration_history", "twice"],

  ["job_definitions", "pk_job_definitions", "twice"],
  ["job_definitions", "chk_job_definitions_type_not_blank", { job_type: "" }, { job_type: "  " }],
  ["job_definitions", "chk_job_definitions_version_positive", { version: 0 }],
  ["job_definitions", "chk_job_definitions_max_attempts_positive", { max_attempts: 0 }],
  ["job_definitions", "chk_job_definitions_timeout_positive", { default_timeout_seconds: 0 }],
  ["job_definitions", "chk_job_definitions_priority_range", { default_priority: 101 }, { default_priority: -101 }],
  ["job_definitions", "chk_job_definitions_retry_initial", { retry_initial_ms: 0 }],
  ["job_definitions", "chk_job_definitions_retry_factor", { retry_factor: 0.9 }, { retry_factor: 101 }],
  ["job_definitions", "chk_job_definitions_retry_max", { retry_initial_ms: 5, retry_max_ms: 4 }],
  ["job_definitions", "chk_job_definitions_retry_jitter", { retry_jitter: -0.1 }, { retry_jitter: 1.1 }],
  [
    "job_definitions",
    "chk_job_definitions_retry_overrides",
    { retry_overrides: [] },
    { retry_overrides: { code: "1" } },
    { retry_overrides: { code: null } },
    { retry_overrides: { code: 0 } },
    { retry_overrides: { code: 1.5 } },
    { retry_overrides: { good: 1, code: 2147483648 } }
  ],

  ["job_enqueue_intents", "pk_job_enqueue_intents", [{}, { idempotency_key: "other" }]],
  [
    "job_enqueue_intents",
    "uq_job_enqueue_intents_type_idempotency",
    [{}, { id: other }],
    [{ organization_id: organization }, { id: other, organization_id: organization }]
  ],
  ["job_enqueue_intents", "chk_job_enqueue_intents_job_type_not_blank", ...blanks.map((job_type) => ({ job_type }))],
  ["job_enqueue_intents", "chk_job_enqueue_intents_payload_version_positive", { payload_version: 0 }],
  ["job_enqueue_intents", "chk_job_enqueue_intents_max_attempts_positive", { max_attempts: 0 }],
  ["job_enqueue_intents", "chk_job_enqueue_intents_timeout_positive", { timeout_seconds: 0 }],
  ["job_enqueue_intents", "chk_job_enqueue_intents_delay", { delay_ms: -1 }, { delay_ms: 1, next_run_at: at }],
  [
    "job_enqueue_intents",
    "chk_job_enqueue_intents_idempotency_key_not_blank",
    ...blanks.map((idempotency_key) => ({ idempotency_key }))
  ],
  ["job_enqueue_intents", "chk_job_enqueue_intents_stage_not_blank", ...blanks.map((stage) => ({ stage }))],
  ["job_enqueue_intents", "chk_job_enqueue_intents_enqueue_request_version", { enqueue_request_version: 2 }],
  [
    "job_enqueue_intents",
    "chk_job_enqueue_intents_execution_resource_key",
    ...[...blanks, tooLong].map((execution_resource_key) => ({ execution_resource_key }))
  ],
  ["job_enqueue_intents", "chk_job_enqueue_intents_promotion_attempts", { ...failed, promotion_attempts: -1 }],
  ["job_enqueue_intents", "chk_job_enqueue_intents_status", { status: "pending" }],
  [
    "job_enqueue_intents",
    "chk_job_enqueue_intents_state_fields",
    // pending: fresh, and tried before
    { last_attempted_at: at },
    { last_error_code: "code" },
    { last_error_message: "message" },
    { promoted_job_id: id },
    { promoted_at: at },
    { conflicted_at: at },
    tried,
    { ...failed, last_attempted_at: undefined },
    { ...failed, last_error_code: " " },
    { ...failed, last_error_message: undefined },
    { ...failed, promoted_at: at },
    { ...promoted, promotion_attempts: 0 },
    { ...promoted, last_attempted_at: undefined },
    { ...promoted, promoted_job_id: undefined },
    { ...promoted, promoted_at: undefined },
    { ...promoted, conflicted_at: at },
    { ...promoted, last_error_code: "code" },
    { ...promoted, last_error_message: "message" },
    { ...conflicted, promotion_attempts: 0 },
    { ...conflicted, last_attempted_at: undefined },
    { ...conflicted, promoted_job_id: id },
    { ...conflicted, promoted_at: at },
    { ...conflicted, conflicted_at: undefined },
    { ...conflicted, last_error_code: "" },
    { ...conflicted, last_error_message: undefined }
  ],

  ["job_queue", "pk_job_queue", "twice"],
  ["job_queue", "chk_job_queue_status", { status: "pending" }],
  ["job_queue", "chk_job_queue_priority_range", { priority: 101 }, { priority: -101 }],
  ["job_queue", "chk_job_queue_run_number_positive", { run_number: 0 }],
  ["job_queue", "chk_job_queue_attempt_nonnegative", { attempt: -1 }],
  ["job_queue", "chk_job_queue_max_attempts_positive", { max_attempts: 0 }],
  ["job_queue", "chk_job_queue_timeout_positive", { timeout_seconds: 0 }],
  ["job_queue", "chk_job_queue_stage_not_blank", { stage: " " }],
  ["job_queue", "chk_job_queue_worker_id_not_blank", { ...leased, worker_id: " " }],
  ["job_queue", "chk_job_queue_idempotency_key_not_blank", { ...keyed, idempotency_key: " " }],
  [
    "job_queue",
    "chk_job_queue_execution_resource_key",
    { execution_resource_key: "" },
    { execution_resource_key: " \t\n" },
    { execution_resource_key: "\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000" },
    { execution_resource_key: "é".repeat(257) }
  ],
  ["job_queue", "chk_job_queue_progress_nonnegative", { progress_done: -1 }, { progress_total: -1 }],
  ["job_queue", "ck_job_queue_idempotency_enqueue_request", { idempotency_key: "k" }],
  [
    "job_queue",
    "uq_job_queue_type_idempotency",
    { id: undefined, ...keyed },
    { id: undefined, organization_id: organization, ...keyed }
  ],

  ["job_attempts", "uq_job_attempts_job_run_attempt", "twice"],
  ["job_attempts", "chk_job_attempts_attempt_positive", { attempt: 0 }],
  ["job_attempts", "chk_job_attempts_run_number_positive", { run_number: 0 }],
  ["job_attempts", "chk_job_attempts_worker_not_blank", { worker_id: " " }],
  ["job_attempts", "chk_job_attempts_claim_origin", { claim_origin: "SOMEWHERE" }],
  ["job_attempts", "chk_job_attempts_ended_as", { ended_as: "SOMEHOW" }],
  ["job_attempts", "chk_job_attempts_outcome", { ended_as: "FAILED", outcome: "BAD", ended_seq: 3 }],
  ["job_attempts", "chk_job_attempts_retry_delay_nonnegative", { retry_delay_ms: -1 }],
  [
    "job_attempts",
    "chk_job_attempts_retry_timing_source",
    { effective_next_run_at: at, retry_timing_source: "SOMEWHERE" }
  ],
  [
    "job_attempts",
    "chk_job_attempts_retry_timing_audit_shape",
    { effective_next_run_at: at },
    { retry_timing_source: "POLICY" },
    { requested_retry_not_before: at }
  ],

  ["job_events", "pk_job_events", "twice"],
  ["job_events", "chk_job_events_seq_positive", { seq: 0 }],
  ["job_events", "chk_job_events_attempt_nonnegative", { attempt: 0 }],
  ["job_events", "chk_job_events_run_number_positive", { run_number: 0 }],
  ["job_events", "chk_job_events_event_type", { event_type: "SOMETHING" }],
  ["job_events", "chk_job_events_stage_not_blank", { stage: " " }],
  ["job_events", "chk_job_events_progress_nonnegative", { progress_done: -1 }, { progress_done: 2, progress_total: 1 }],

  ["job_dead_letters", "pk_job_dead_letters", "twice"],
  ["job_dead_letters", "chk_job_dead_letters_run_number_positive", { run_number: 0 }],
  ["job_dead_letters", "chk_job_dead_letters_attempt_positive", { attempt: 0 }],
  ["job_dead_letters", "chk_job_dead_letters_reason", { reason: "BAD_LUCK" }],
  ["job_dead_letters", "chk_job_dead_letters_failure_kind", { failure_kind: "BAD" }],

  ["job_runtime_configs", "pk_job_runtime_configs", "twice"],
  ["job_runtime_configs", "chk_job_runtime_configs_type_not_blank", { job_type: "" }, { job_type: "  " }],
  ["job_runtime_configs", "chk_job_runtime_configs_schema_version_positive", { schema_version: 0 }],
  ["job_runtime_configs", "chk_job_runtime_configs_config_object", { config: [] }],

  ["job_logs", "pk_job_logs", "twice"],
  ["job_logs", "chk_job_logs_attempt_nonnegative", { attempt: -1 }],
  ["job_logs", "chk_job_logs_run_number_positive", { run_number: 0 }],
  ["job_logs", "chk_job_logs_level_not_blank", { level: " " }],
  ["job_logs", "chk_job_logs_message_not_blank", { message: " " }],

  ["workflow_runs", "pk_workflow_runs", "twice"],
  ["workflow_runs", "chk_workflow_runs_workflow_type_not_blank", { workflow_type: " " }],
  ["workflow_runs", "chk_workflow_runs_status", { status: "FAILED" }],
  ["workflow_runs", "chk_workflow_runs_idempotency_key_not_blank", { ...keyed, idempotency_key: " " }],
  ["workflow_runs", "chk_workflow_runs_result_step_key_not_blank", { result_step_key: " " }],
  [
    "workflow_runs",
    "chk_workflow_runs_step_counts",
    { steps_open: -1 },
    { steps_waiting: -1 },
    { steps_unsuccessful: -1 },
    { steps_total: 2, steps_open: 1, steps_waiting: 1, steps_unsuccessful: 1 }
  ],
  ["workflow_runs", "ck_workflow_runs_idempotency_enqueue_request", { idempotency_key: "k" }],
  [
    "workflow_runs",
    "uq_workflow_runs_type_idempotency",
    { id: undefined, ...keyed },
    { id: undefined, organization_id: organization, ...keyed }
  ],

  ["workflow_steps", "pk_workflow_steps", "twice"],
  ["workflow_steps", "uq_workflow_steps_run_step_key", { id: undefined }],
  ["workflow_steps", "chk_workflow_steps_step_key_not_blank", { step_key: " " }],
  [
    "workflow_steps",
    "chk_workflow_steps_fan_out",
    { fan_out_key: "f" },
    { fan_out_index: 0 },
    { fan_out_key: " ", fan_out_index: 0 },
    { fan_out_key: "f", fan_out_index: -1 }
  ],
  ["workflow_steps", "chk_workflow_steps_job_type_not_blank", { job_type: " " }],
  ["workflow_steps", "chk_workflow_steps_stage_not_blank", { stage: " " }],
  ["workflow_steps", "chk_workflow_steps_max_attempts_positive", { max_attempts: 0 }],
  ["workflow_steps", "chk_workflow_steps_timeout_positive", { timeout_seconds: 0 }],
  ["workflow_steps", "chk_workflow_steps_execution_kind", { execution_kind: "OTHER", ...nothingQueued }],
  ["workflow_steps", "chk_workflow_steps_status", { status: "SKIPPED" }],
  [
    "workflow_steps",
    "chk_workflow_steps_dependency_counts_nonnegative",
    { dependency_count_total: -1 },
    { dependency_count_pending: -1 },
    { dependency_count_unsatisfied: -1 },
    { dependency_count_total: 1, dependency_count_pending: 2 },
    { dependency_count_total: 1, dependency_count_unsatisfied: 2 }
  ],
  [
    "workflow_steps",
    "chk_workflow_steps_execution_shape",
    ...Object.keys(queued).map((column) => ({ [column]: undefined })),
    { ...nothingQueued, execution_kind: "EXTERNAL", job_id: id },
    ...Object.entries(queued).map(([column, value]) => ({
      ...nothingQueued,
      execution_kind: "EXTERNAL",
      [column]: value
    }))
  ],
  [
    "workflow_steps",
    "chk_workflow_steps_handler_continuation_job_only",
    { ...nothingQueued, execution_kind: "EXTERNAL", allow_handler_continuation: true }
  ],
  [
    "workflow_steps",
    "chk_workflow_steps_execution_resource_key",
    ...[...blanks, tooLong].map((key) => ({ execution_resource_key: key })),
    { ...nothingQueued, execution_kind: "EXTERNAL", execution_resource_key: "k" }
  ],

  ["job_execution_resources", "pk_job_execution_resources", "twice"],
  ["job_execution_resources", "chk_job_execution_resources_permits", { permits: 0 }, { permits: 1001 }],
  [
    "job_execution_resources",
    "chk_job_execution_resources_rate",
    { rate_permits: 1 },
    { rate_interval_ms: 1 },
    { rate_permits: 0, rate_interval_ms: 1 },
    { rate_permits: 10001, rate_interval_ms: 1 },
    { rate_permits: 1, rate_interval_ms: 0 }
  ],
  ["job_execution_permits", "pk_job_execution_permits", [{}, { slot: 2 }]],
  ["job_execution_permits", "uq_job_execution_permits_key_slot", [{}, { id: 2 }]],
  ["job_execution_permits", "chk_job_execution_permits_slot_positive", { slot: 0 }],
  ["job_execution_permits", "chk_job_execution_permits_holder", { job_id: id }, { leased_seq: 1, taken_at: at }],
  ["job_execution_rate_tokens", "pk_job_execution_rate_tokens", "twice"],
  ["job_schedules", "pk_job_schedules", [{}, { name: "t" }]],
  ["job_schedules", "job_schedules_name_key", [{}, { id: other }]],
  ["job_schedules", "fk_job_schedules_job_type", { job_type: "undeclared" }],
  ["job_schedules", "chk_job_schedules_name_not_blank", { name: " " }],
  ["job_schedules", "chk_job_schedules_owner_not_blank", { owner: " " }],
  ["job_schedules", "chk_job_schedules_payload_version_positive", { payload_version: 0 }],
  ["job_schedules", "chk_job_schedules_carries_time", { carries_time: "NOWHERE" }],
  ["job_schedules", "chk_job_schedules_cron_not_blank", { cron_expr: " " }],
  ["job_schedules", "chk_job_schedules_timezone_not_blank", { timezone: " " }],
  ["job_schedules", "chk_job_schedules_overlap", { overlap: "never" }],
  ["job_schedules", "chk_job_schedules_jitter_nonnegative", { max_jitter_seconds: -1 }],
  ["job_schedules", "chk_job_schedules_paused", { paused_at: at }],
  [
    "job_schedules",
    "chk_job_schedules_due",
    { due_at: "2025-12-31T00:00:00Z" },
    { next_fire_at: "-infinity" },
    { next_fire_at: "infinity", due_at: "infinity" }
  ],
  ["job_schedules", "chk_job_schedules_error", { last_error_code: "a" }, { last_error_at: at }],

  ["workflow_step_dependencies", "pk_workflow_step_dependencies", "twice"],
  ["workflow_step_dependencies", "chk_workflow_step_dependencies_release_mode", { release_mode: "ON_FAILURE" }],
  ["workflow_step_dependencies", "chk_workflow_step_dependencies_no_self_reference", { dependent_step_id: id }],

  ["workflow_run_mutations", "pk_workflow_run_mutations", [{}, { mutation_key: "n" }]],
  ["workflow_run_mutations", "uq_workflow_run_mutations_run_mutation_key", { id: undefined }],
  ["workflow_run_mutations", "fk_workflow_run_mutations_workflow_run", { workflow_run_id: missing }],
  ["workflow_run_mutations", "chk_workflow_run_mutations_mutation_key_not_blank", { mutation_key: " " }],
  ["workflow_run_mutations", "chk_workflow_run_mutations_kind", { mutation_kind: "DROP_STEPS" }],

  ["workflow_active_claims", "pk_workflow_active_claims", [{}, { workflow_run_id: other }]],
  ["workflow_active_claims", "uq_workflow_active_claims_run", [{}, { active_key: "l" }]],
  ["workflow_active_claims", "fk_workflow_active_claims_run", { workflow_run_id: missing }],
  ["workflow_active_claims", "chk_workflow_active_claims_scope_not_blank", { scope: " " }],
  [
    "workflow_active_claims",
    "chk_workflow_active_claims_key_not_blank",
    ...[...blanks, tooLong].map((key) => ({ active_key: key }))
  ],

  ["job_replays", "pk_job_replays", [{}, { replay_request_key: "l" }]],
  ["job_replays", "uq_job_replays_source_request", [{}, { replay_job_id: missing }]],
  ["job_replays", "chk_job_replays_distinct_jobs", { replay_job_id: id }],
  ["job_replays", "chk_job_replays_source_run_positive", { source_run_number: 0 }],
  [
    "job_replays",
    "chk_job_replays_request_key",
    ...["", " ", tooLong].map((replay_request_key) => ({ replay_request_key }))
  ],
  ["job_replays", "chk_job_replays_reason_not_blank", { reason: " " }],
  ["workflow_recoveries", "pk_workflow_recoveries", [{}, { request_key: "l" }]],
  ["workflow_recoveries", "uq_workflow_recoveries_source_request", [{}, { recovery_run_id: missing }]],
  ["workflow_recoveries", "fk_workflow_recoveries_recovery_run", { recovery_run_id: missing }],
  ["workflow_recoveries", "fk_workflow_recoveries_source_run", { source_run_id: missing, source_step_id: undefined }],
  ["workflow_recoveries", "fk_workflow_recoveries_source_step", { source_step_id: missing }],
  ["workflow_recoveries", "chk_workflow_recoveries_distinct_runs", { recovery_run_id: id }],
  [
    "workflow_recoveries",
    "chk_workflow_recoveries_request_key",
    ...[...blanks, tooLong].map((key) => ({ request_key: key }))
  ],
  ["workflow_recoveries", "chk_workflow_recoveries_mode", { mode: "PARTIAL" }],
  ["workflow_recoveries", "chk_workflow_recoveries_reason", { reason: " " }]
]

const isPair = (violation: Row | readonly [Row, Row]): violation is readonly [Row, Row] => Array.isArray(violation)

const insert = Effect.fnUntraced(function* (table: Table, row: Row) {
  const sql = yield* SqlClient
  const present = Object.entries(row).filter(([, value]) => value !== undefined)
  const columns = sql.csv(present.map(([name]) => sql`${sql(name)}`))
  yield* sql`
    INSERT INTO runledger.${sql(table)} (${columns}) OVERRIDING SYSTEM VALUE
    SELECT ${columns}
    FROM jsonb_populate_record(NULL::runledger.${sql(table)}, ${JSON.stringify(Object.fromEntries(present))}::jsonb)
  `
})

const prepared = (table: Table) =>
  Effect.forEach(needs[table] ?? [], ([needed, row]) => insert(needed, row), { discard: true })

const violated = Effect.fnUntraced(function* (table: Table, rows: ReadonlyArray<Row>) {
  const sql = yield* SqlClient
  const error = yield* prepared(table).pipe(
    Effect.andThen(Effect.forEach(rows, (row) => insert(table, row))),
    // some foreign keys are asked at commit only
    Effect.andThen(sql`SET CONSTRAINTS ALL IMMEDIATE`),
    rollback,
    Effect.flip
  )
  return constraintName(error)
})

it.layer(TestDatabase.layer)("the schema", (it) => {
  it.effect.each(Array.from(new Set(cases.map(([table]) => table)), (table) => ({ table })))(
    "a valid row of $table is accepted",
    ({ table }) => rollback(Effect.andThen(prepared(table), insert(table, valid[table])))
  )

  it.effect.each(cases.map(([table, constraint, ...violations]) => ({ table, constraint, violations })))(
    "$constraint",
    ({ table, constraint, violations }) =>
      Effect.forEach(violations, (violation) =>
        Effect.gen(function* () {
          const changes =
            violation === "twice"
              ? [{}, {}]
              : isPair(violation)
                ? violation
                : // two rows that each are fine break what is unique
                  constraint.startsWith("uq_")
                  ? [violation, violation]
                  : [violation]
          const rows = changes.map((change) => ({ ...valid[table], ...change }))
          assert.strictEqual(yield* violated(table, rows), constraint, JSON.stringify(violation))
        })
      )
  )

  it.effect.each([{ state: failed }, { state: promoted }, { state: conflicted }])(
    "a valid state of an intent is accepted: $state",
    ({ state }) => rollback(insert("job_enqueue_intents", { ...valid.job_enqueue_intents, ...state }))
  )

  it.effect("a definition is never deleted", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const error = yield* insert("job_definitions", valid.job_definitions).pipe(
        Effect.andThen(sql`DELETE FROM runledger.job_definitions WHERE job_type = 'a'`),
        rollback,
        Effect.flip
      )
      assert.strictEqual(constraintName(error), "os_job_definitions_delete")
    })
  )

  it.effect("each named rule of the catalog is violated above", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const rows = yield* sql<{ name: string }>`
        SELECT c.conname AS name
        FROM pg_constraint c
        JOIN pg_namespace n ON n.oid = c.connamespace
        WHERE n.nspname = 'runledger'
          AND c.contype <> 'n'
        UNION
        SELECT x.relname
        FROM pg_index i
        JOIN pg_class x ON x.oid = i.indexrelid
        JOIN pg_namespace n ON n.oid = x.relnamespace
        WHERE n.nspname = 'runledger'
          AND i.indisunique
      `
      assert.deepStrictEqual(rows.map((row) => row.name).sort(), cases.map(([, constraint]) => constraint).sort())
    })
  )

  it.effect("uuidv7() makes ids of version 7 that sort by creation", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const before = Date.now()
      const rows = yield* sql<{ id: string }>`SELECT runledger.uuidv7() AS id FROM generate_series(1, 2000)`
      const ids = rows.map((row) => row.id)
      for (const id of ids) {
        assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
        const millis = Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16)
        assert.isAtLeast(millis, before - 5000)
        assert.isAtMost(millis, Date.now() + 5000)
      }
      assert.strictEqual(new Set(ids).size, ids.length)

      // sleeping past the resolution of the time inside, ids are in order whatever their random part
      const later: Array<string> = []
      for (let index = 0; index < 50; index++) {
        const [row] = yield* sql<{ id: string }>`SELECT runledger.uuidv7() AS id, pg_sleep(0.001)`
        later.push(row?.id ?? "")
      }
      assert.deepStrictEqual([...later].sort(), later)
    })
  )

  it.effect("uuidv7s() makes as many as it is asked for, which sort as they are made", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const madeOf = Effect.fnUntraced(function* (count: number) {
        const [row] = yield* sql<{ ids: ReadonlyArray<string> }>`SELECT runledger.uuidv7s(${count}::integer) AS ids`
        return row?.ids ?? []
      })
      const [first, second] = [yield* madeOf(1000), yield* madeOf(1000)]
      for (const ids of [first, second]) {
        assert.deepStrictEqual([...ids].sort(), ids)
        for (const id of ids) assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
      }
      assert.strictEqual(new Set([...first, ...second]).size, 2000)
      assert.deepStrictEqual(yield* madeOf(0), [])
    })
  )
})
