/**
 * Every code of `src/WorkflowReason.ts`, raised by the operation that it belongs to; a caller's transaction stays usable.
 */
import { readFileSync } from "node:fs"
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, type QueryError, TenantScope, Workflows } from "../src/index.ts"
import { GraphRule } from "../src/WorkflowReason.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { claim, codeOf, enqueue, gate, jobType, leaseOf, startOver, step, workAll } from "./support/workflows.ts"

const { global } = TenantScope
const missing = Workflows.WorkflowRunId.make("019ad000-0000-7000-8000-000000000000")

type Operation = Effect.Effect<unknown, QueryError, SqlClient>

/** Prepares what the operation needs, outside of the transaction that it will be part of. */
type Prepare = Effect.Effect<Operation, unknown, SqlClient>

const request = (
  steps: ReadonlyArray<Workflows.StepRequest>,
  options: Partial<Workflows.WorkflowRequest> = {}
): Workflows.WorkflowRequest => ({ workflowType: "test", steps, ...options })

/** A run with an open window, and an append through it. */
const appending = (
  steps: ReadonlyArray<Workflows.StepRequest>,
  options: Partial<Workflows.AppendOptions> = {},
  before: (runId: Workflows.WorkflowRunId) => Effect.Effect<unknown, unknown, SqlClient> = () => Effect.void
): Prepare =>
  Effect.gen(function* () {
    const run = yield* enqueue([gate("window"), gate("later", { after: ["window"] }), step("job")])
    yield* before(run.id)
    return Workflows.append(global, run.id, { mutationKey: "m", windowStepKey: "window", steps, ...options })
  })

const external = (stepKey: string, outcome: Workflows.ExternalOutcome = { status: "SUCCEEDED", output: 1 }): Prepare =>
  Effect.gen(function* () {
    const run = yield* enqueue([gate("open"), gate("blocked", { after: ["open"] }), step("job"), gate("done")])
    yield* Workflows.completeExternal(global, run.id, "done", { status: "SUCCEEDED", output: 1 })
    return Workflows.completeExternal(global, run.id, stepKey, outcome)
  })

/** An ended run, and its recovery. */
const recovering = (
  options: Partial<Workflows.RecoverOptions> = {},
  before: (runId: Workflows.WorkflowRunId) => Effect.Effect<unknown, unknown, SqlClient> = () => Effect.void,
  activeKey?: string
): Prepare =>
  Effect.gen(function* () {
    const whole = request([step("a")], { activeKey })
    const { run } = yield* activeKey === undefined ? Workflows.enqueue(whole) : Workflows.enqueueOrGetActive(whole)
    yield* workAll()
    yield* before(run.id)
    return Workflows.recover(global, run.id, { requestKey: "k", reason: "r", ...options })
  })

const open: Prepare = Effect.map(enqueue([gate("window")]), ({ id }) =>
  Workflows.recover(global, id, { requestKey: "k", reason: "r" })
)

const plain = (whole: Workflows.WorkflowRequest): Prepare => Effect.succeed(Workflows.enqueue(whole))
const active = (activeKey: string): Prepare =>
  Effect.succeed(Workflows.enqueueOrGetActive(request([step("a")], { activeKey })))

const tooLong = "é".repeat(257)

/** What cannot be is told by both operations that take steps; the rules of the whole request by the one that takes it. */
const ofSteps = (...steps: ReadonlyArray<Workflows.StepRequest>): ReadonlyArray<Prepare> => [
  plain(request(steps)),
  appending(steps)
]

const rules: Readonly<Record<GraphRule, ReadonlyArray<Prepare>>> = {
  invalid_dag_idempotency_key_blank: [plain(request([step("a")], { idempotencyKey: " " }))],
  invalid_dag_active_key_blank: [active(" ")],
  invalid_dag_active_key_too_long: [active(tooLong)],
  invalid_dag_result_step_key_blank: [plain(request([step("a")], { resultStepKey: "" }))],
  invalid_dag_workflow_type_blank: [plain(request([step("a")], { workflowType: "\u3000" }))],
  invalid_dag_empty: ofSteps(),
  invalid_dag_step_key_blank: ofSteps(step(" ")),
  invalid_dag_job_type_blank: ofSteps(step("a", { jobType: "" })),
  invalid_dag_step_max_attempts_non_positive: ofSteps(step("a", { maxAttempts: 0 })),
  invalid_dag_step_timeout_seconds_non_positive: ofSteps(step("a", { timeout: 0 })),
  invalid_dag_step_execution_resource_key: ofSteps(step("a", { executionResourceKey: tooLong })),
  invalid_dag_external_step_job_type_not_allowed: ofSteps(gate("a", { jobType })),
  invalid_dag_external_step_queue_settings_not_allowed: ofSteps(gate("a", { priority: 1 })),
  invalid_dag_duplicate_step_key: [...ofSteps(step("a"), step("a")), appending([step("job")])],
  invalid_dag_dependency_step_key_blank: ofSteps(step("a", { after: [" "] })),
  invalid_dag_self_dependency: ofSteps(step("a", { after: ["a"] })),
  invalid_dag_duplicate_dependency: ofSteps(step("a"), step("b", { after: ["a"], afterTerminal: ["a"] })),
  invalid_dag_missing_dependency: ofSteps(step("a", { after: ["nowhere"] })),
  invalid_dag_cycle: ofSteps(step("a", { after: ["b"] }), step("b", { after: ["a"] })),
  invalid_dag_unknown_result_step: [plain(request([step("a")], { resultStepKey: "b" }))]
}

const disabled = JobDefinitions.update(jobType, { isEnabled: false })

const others: Readonly<Record<string, ReadonlyArray<Prepare>>> = {
  "workflow.active_key_required": [Effect.succeed(Workflows.enqueueOrGetActive(request([step("a")])))],
  "workflow.active_key_api_required": [plain(request([step("a")], { activeKey: "k" }))],
  "workflow.definition_not_found_or_disabled": [
    plain(request([step("a"), step("b", { jobType: "test.undeclared" })])),
    Effect.as(disabled, Workflows.enqueue(request([step("a")], { idempotencyKey: "k" }))),
    Effect.as(disabled, Workflows.enqueueOrGetActive(request([step("a")], { activeKey: "k" }))),
    appending([step("a")], {}, () => disabled),
    recovering({}, () => disabled)
  ],
  "workflow.enqueue_conflicting_retry": [
    Effect.as(
      enqueue([step("a")], { idempotencyKey: "k" }),
      Workflows.enqueue(request([step("b")], { idempotencyKey: "k" }))
    ),
    Effect.as(
      enqueue([step("a")], { idempotencyKey: "k" }),
      Workflows.enqueueOrGetActive(request([step("a")], { idempotencyKey: "k", activeKey: "k" }))
    )
  ],
  "workflow.legacy_idempotency_snapshot_missing": [
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* enqueue([step("a")], { idempotencyKey: "k" })
      yield* sql`
        ALTER TABLE runledger.workflow_runs DROP CONSTRAINT IF EXISTS ck_workflow_runs_idempotency_enqueue_request`
      yield* sql`UPDATE runledger.workflow_runs SET enqueue_request = NULL`
      return Workflows.enqueue(request([step("a")], { idempotencyKey: "k" }))
    })
  ],
  "workflow.run_not_found": [
    Effect.succeed(Workflows.append(global, missing, { mutationKey: "m", windowStepKey: "w", steps: [step("a")] })),
    Effect.succeed(Workflows.cancel(global, missing)),
    Effect.succeed(Workflows.stepKeysForUpdate(global, missing))
  ],
  "workflow.append_mutation_key_blank": [appending([step("a")], { mutationKey: "\u00a0" })],
  "workflow.append_window_missing": [appending([step("a")], { windowStepKey: "nowhere" })],
  "workflow.append_window_not_external": [appending([step("a")], { windowStepKey: "job" })],
  "workflow.append_window_not_open": [
    appending([step("a")], { windowStepKey: "later" }),
    appending([step("a")], {}, (runId) => Workflows.completeExternal(global, runId, "window", { status: "FAILED" })),
    appending([step("a")], {}, (runId) => Workflows.cancel(global, runId))
  ],
  "workflow.append_terminal_run": [
    // no operation of ours leaves a window open in a run that has ended
    appending([step("a")], {}, () =>
      SqlClient.use((sql) => sql`UPDATE runledger.workflow_runs SET status = 'CANCELED', finished_at = now()`)
    )
  ],
  "workflow.append_conflicting_retry": [
    appending([step("a", { payload: 2 })], {}, (runId) =>
      Workflows.append(global, runId, { mutationKey: "m", windowStepKey: "window", steps: [step("a")] })
    )
  ],
  "workflow.external_step_not_found": [
    external("nowhere"),
    Effect.succeed(Workflows.completeExternal(global, missing, "open", { status: "SUCCEEDED" }))
  ],
  "workflow.external_step_not_external": [external("job")],
  "workflow.external_step_not_waiting": [external("blocked")],
  "workflow.external_step_conflicting_completion_retry": [
    external("done", { status: "FAILED" }),
    external("done", { status: "SUCCEEDED", output: 1, reason: "another" })
  ],
  "workflow.external_step_conflicting_output_retry": [external("done", { status: "SUCCEEDED", output: 2 })],
  "workflow.invalid_recovery_request_key": [recovering({ requestKey: " " }), recovering({ requestKey: tooLong })],
  "workflow.invalid_recovery_reason": [recovering({ reason: "\t" })],
  "workflow.recovery_source_not_found": [
    Effect.succeed(Workflows.recover(global, missing, { requestKey: "k", reason: "r" }))
  ],
  "workflow.recovery_source_step_not_found": [
    recovering({ sourceStepId: Workflows.WorkflowStepId.make("019ad000-0000-7000-8000-000000000000") })
  ],
  "workflow.recovery_source_not_terminal": [open],
  "workflow.recovery_snapshot_missing": [
    recovering({}, () => SqlClient.use((sql) => sql`UPDATE runledger.workflow_runs SET enqueue_request = NULL`))
  ],
  "workflow.recovery_snapshot_unsafe": [
    `enqueue_request || '{"more": 1}'`,
    `jsonb_set(enqueue_request, '{steps,0,more}', '1')`,
    `jsonb_set(enqueue_request, '{steps,0,step_key}', '"b"')`,
    `jsonb_set(enqueue_request, '{steps,0,priority}', '7')`,
    `jsonb_set(enqueue_request, '{steps,0,max_attempts}', '7')`,
    `jsonb_set(enqueue_request, '{steps,0,timeout_seconds}', '7')`,
    `jsonb_set(enqueue_request, '{steps,0,execution_resource_key}', '"r"')`,
    `jsonb_set(enqueue_request, '{steps,0,allow_handler_continuation}', 'true')`,
    `jsonb_set(enqueue_request, '{steps,0,job_type}', '"other"')`,
    `jsonb_set(enqueue_request, '{steps,0,execution_kind}', '"EXTERNAL"')`,
    `jsonb_set(enqueue_request, '{steps,0,stage}', '"nowhere"')`,
    `jsonb_set(enqueue_request, '{steps}', (enqueue_request -> 'steps') || (enqueue_request -> 'steps'))`,
    `jsonb_set(enqueue_request, '{steps}', '[]')`,
    `'[]'`
  ].map((changed) =>
    recovering({}, () =>
      SqlClient.use((sql) => sql`UPDATE runledger.workflow_runs SET enqueue_request = ${sql.literal(changed)}`)
    )
  ),
  "workflow.recovery_request_conflict": [
    recovering({ reason: "another" }, (runId) => Workflows.recover(global, runId, { requestKey: "k", reason: "r" }))
  ],
  "workflow.recovery_active_constraint": [
    recovering({}, () => Workflows.enqueueOrGetActive(request([gate("g")], { activeKey: "k" })), "k")
  ],
  "job.workflow_handler_continuation_not_enabled": [
    Effect.gen(function* () {
      yield* enqueue([step("a")])
      return Jobs.completeContinuation(leaseOf(yield* claim(), "a"))
    })
  ]
}

/** Those that must see what others commit; `Jobs` too, where the job belongs to a run. */
const isolated: Readonly<Record<string, ReadonlyArray<Prepare>>> = {
  "workflow.enqueue_idempotency_unsupported_isolation": [
    plain(request([step("a")], { idempotencyKey: "k" })),
    active("k")
  ],
  "workflow.append_unsupported_isolation": [
    appending([step("a")]),
    Effect.map(enqueue([step("a")]), ({ id }) => Workflows.stepKeysForUpdate(global, id))
  ],
  "workflow.cancel_unsupported_isolation": [Effect.map(enqueue([step("a")]), ({ id }) => Workflows.cancel(global, id))],
  "workflow.external_completion_unsupported_isolation": [external("open")],
  "workflow.recovery_unsupported_isolation": [recovering()],
  "workflow.terminal_completion_unsupported_isolation": [
    Effect.gen(function* () {
      yield* enqueue([step("a")])
      return Jobs.completeSuccess(leaseOf(yield* claim(), "a"))
    }),
    Effect.gen(function* () {
      yield* enqueue([step("a")])
      return Jobs.completeFailure(leaseOf(yield* claim(), "a"), { kind: "TERMINAL", code: "c", message: "m" })
    })
  ]
}

const byCode: ReadonlyArray<readonly [code: string, ReadonlyArray<Prepare>]> = [
  ...Object.entries(rules).map(([rule, prepares]) => [`workflow.${rule}`, prepares] as const),
  ...Object.entries(others)
]

/** Every row of a run, with the transaction that wrote it. */
const everything = SqlClient.use(
  (sql) => sql`
    SELECT 'run' AS of, to_jsonb(t) AS row, xmin::text FROM runledger.workflow_runs t
    UNION ALL SELECT 'step', to_jsonb(t), xmin::text FROM runledger.workflow_steps t
    UNION ALL SELECT 'edge', to_jsonb(t), xmin::text FROM runledger.workflow_step_dependencies t
    UNION ALL SELECT 'mutation', to_jsonb(t), xmin::text FROM runledger.workflow_run_mutations t
    UNION ALL SELECT 'claim', to_jsonb(t), xmin::text FROM runledger.workflow_active_claims t
    UNION ALL SELECT 'recovery', to_jsonb(t), xmin::text FROM runledger.workflow_recoveries t
    UNION ALL SELECT 'job', to_jsonb(t), xmin::text FROM runledger.job_queue t
    ORDER BY 1, 2`
)

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Workflows: why they fail", (it) => {
  const refuses = (code: string, prepare: Prepare, begin?: string) =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const operation = yield* prepare
      const before = yield* everything
      const told = yield* sql
        .withTransaction(
          Effect.gen(function* () {
            const earlier = yield* sql`SELECT current_setting('lock_timeout') AS bound`
            const code = yield* codeOf(operation)
            // the transaction goes on, with the setting that it had
            assert.deepStrictEqual(yield* sql`SELECT current_setting('lock_timeout') AS bound`, earlier)
            return code
          })
        )
        .pipe(begin === undefined ? (self) => self : Effect.provideService(BeginTransaction, begin))
      assert.strictEqual(told, code)
      assert.deepStrictEqual(yield* everything, before)
      // and outside of one
      if (begin === undefined) assert.strictEqual(yield* codeOf(operation), code)
    })

  for (const [code, prepares] of byCode) {
    for (const [index, prepare] of prepares.entries()) it.effect(`${code} (${index + 1})`, () => refuses(code, prepare))
  }

  for (const [code, prepares] of Object.entries(isolated)) {
    for (const [index, prepare] of prepares.entries()) {
      it.effect(`${code} (${index + 1})`, () => refuses(code, prepare, "BEGIN ISOLATION LEVEL REPEATABLE READ"))
      it.effect(`${code}: only in a caller's transaction (${index + 1})`, () =>
        Effect.gen(function* () {
          yield* startOver
          const sql = yield* SqlClient
          const operation = yield* prepare
          yield* sql.withTransaction(operation).pipe(Effect.provideService(BeginTransaction, "BEGIN"))
        })
      )
    }
  }

  it("every code there is is raised", () => {
    const source = readFileSync(new URL("../src/WorkflowReason.ts", import.meta.url), "utf8")
    const codes = new Set([...source.matchAll(/"((?:workflow|job)\.[a-z_]+)"/g)].map(([, code = ""]) => code))
    for (const rule of GraphRule.literals) codes.add(`workflow.${rule}`)
    for (const [code] of byCode) codes.delete(code)
    // raised by awaitResult, in its own tests
    for (const code of [
      "result_unsuccessful_terminal",
      "result_not_declared",
      "result_missing",
      "result_undecodable"
    ]) {
      codes.delete(`workflow.${code}`)
    }
    for (const code of ["handle_internal_state", "result_wait_timeout"]) codes.delete(`workflow.${code}`)
    assert.deepStrictEqual([...codes], [])
  })
})
