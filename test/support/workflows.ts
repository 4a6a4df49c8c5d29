/**
 * Graphs in tests: short ways to write them, to play the worker, and to compare what is stored with what it should be.
 */
import { assert } from "@effect/vitest"
import { Effect, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, type QueryError, type Reason, TenantScope, Workflows } from "../../src/index.ts"

export const jobType = "test.step"

export const declare = JobDefinitions.upsert(jobType, { maxAttempts: 1 })

/** A job step; `after` and `afterTerminal` name what it waits for. */
export const step = (
  stepKey: string,
  options: Partial<Workflows.StepRequest> & {
    readonly after?: ReadonlyArray<string>
    readonly afterTerminal?: ReadonlyArray<string>
  } = {}
): Workflows.StepRequest => {
  const { after = [], afterTerminal = [], ...rest } = options
  return {
    stepKey,
    ...(rest.executionKind === "EXTERNAL" ? {} : { jobType }),
    payload: { step: stepKey },
    dependencies: [
      ...after.map((key) => ({ stepKey: key, releaseMode: "ON_SUCCESS" as const })),
      ...afterTerminal.map((key) => ({ stepKey: key }))
    ],
    ...rest
  }
}

export const gate = (stepKey: string, options: Parameters<typeof step>[1] = {}) =>
  step(stepKey, { ...options, executionKind: "EXTERNAL" })

export const enqueue = (
  steps: ReadonlyArray<Workflows.StepRequest>,
  options: Partial<Workflows.WorkflowRequest> = {}
) => Effect.map(Workflows.enqueue({ workflowType: "test", steps, ...options }), ({ run }) => run)

/** The status of every step, by key. */
export const statuses = (runId: Workflows.WorkflowRunId) =>
  Effect.map(Workflows.steps(TenantScope.admin, runId), (steps) =>
    Object.fromEntries(steps.map(({ stepKey, status }) => [stepKey, status]))
  )

export const runStatus = (runId: Workflows.WorkflowRunId) =>
  Effect.flatMap(Effect.flatMap(Workflows.status(TenantScope.admin, runId), Effect.fromOption), Effect.succeed)

/** Claims what is due, and gives it back by step key. */
export const claim = Effect.fnUntraced(function* (limit = 100, workerId = "worker-1", lease = 60_000) {
  const jobs = yield* Jobs.claim({ workerId, types: [jobType], limit, lease })
  return new Map(
    jobs.map((job) => {
      const { payload } = job
      assert(typeof payload === "object" && payload !== null && "step" in payload)
      return [String(payload.step), job.lease] as const
    })
  )
})

/** Claims what is due, and ends it: by success, or as told by step key. */
export const work = Effect.fnUntraced(function* (
  failing: ReadonlyArray<string> = [],
  output: (stepKey: string) => string = (key) => `out:${key}`
) {
  const ended: Array<string> = []
  for (const [key, lease] of yield* claim()) {
    yield* failing.includes(key)
      ? Jobs.completeFailure(lease, { kind: "TERMINAL", code: "test.failed", message: "told to" })
      : Jobs.completeSuccess(lease, { output: output(key) })
    ended.push(key)
  }
  return ended.sort()
})

/** {@link work}, until nothing is due. */
export const workAll = Effect.fnUntraced(function* (failing: ReadonlyArray<string> = []) {
  const rounds: Array<ReadonlyArray<string>> = []
  while (true) {
    const ended = yield* work(failing)
    if (ended.length === 0) return rounds
    rounds.push(ended)
  }
})

/** No runs and no jobs are left of earlier tests, and the type is declared. */
export const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`
    TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters,
      runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies
    CASCADE`
  yield* declare
  yield* JobDefinitions.update(jobType, { isEnabled: true })
})

/** The lease of a step that was claimed. */
export const leaseOf = (leases: ReadonlyMap<string, Jobs.Lease>, stepKey: string): Jobs.Lease =>
  leases.get(stepKey) ?? assert.fail(`${stepKey} was not claimed`)

/** Why an operation failed; an answer is a mistake of the test. */
export const reasonOf = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.match(self, {
    onFailure: ({ reason }) => reason,
    onSuccess: () => assert.fail("it was to fail")
  })

/** The code of the reason why an operation failed. */
export const codeOf = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(reasonOf(self), (reason): string => reason.code)

/** A step, by its key. */
export const stepOf = (runId: Workflows.WorkflowRunId, stepKey: string) =>
  Effect.flatMap(Workflows.stepByKey(TenantScope.admin, runId, stepKey), Effect.fromOption)

/** What the transitions of a step write, with instants as whether there is one. */
export const standing = (runId: Workflows.WorkflowRunId, stepKey: string) =>
  Effect.map(stepOf(runId, stepKey), (found) => ({
    status: found.status,
    reason: Option.getOrNull(found.statusReason),
    code: Option.getOrNull(found.lastErrorCode),
    message: Option.getOrNull(found.lastErrorMessage),
    released: Option.isSome(found.releasedAt),
    started: Option.isSome(found.startedAt),
    finished: Option.isSome(found.finishedAt),
    output: Option.getOrNull(found.output)
  }))

/** Runs `self` while a transaction on another connection, begun with `first`, is open; then rolls that back. */
export const whileOther = <A, E, R, E2, R2>(first: Effect.Effect<unknown, E2, R2>, self: Effect.Effect<A, E, R>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const connection = yield* sql.reserve
      const there = <B, F, S>(effect: Effect.Effect<B, F, S>) =>
        Effect.provideService(effect, sql.transactionService, [connection, 0] as const)
      yield* there(Effect.andThen(sql`BEGIN`, first))
      return yield* Effect.ensuring(self, Effect.orDie(there(sql`ROLLBACK`)))
    })
  )

/** Runs `self` while another connection holds the row of the run. */
export const whileRunIsHeld = <A, E, R>(runId: Workflows.WorkflowRunId, self: Effect.Effect<A, E, R>) =>
  whileOther(
    SqlClient.use((sql) => sql`SELECT FROM runledger.workflow_runs WHERE id = ${runId}::uuid FOR NO KEY UPDATE`),
    self
  )

/**
 * What must hold in every run at every commit, recounted from steps, edges and jobs: counters of steps and runs, the
 * prerequisites that a step names, the status of the run, one job for each released step, and steps that stand where their
 * jobs stand.
 */
export const inconsistencies = Effect.gen(function* () {
  const sql = yield* SqlClient
  return yield* sql<{ what: string }>`
    WITH met AS (
      SELECT
        d.workflow_run_id, d.dependent_step_id AS id, count(*) AS total,
        array_agg(d.prerequisite_step_id ORDER BY d.prerequisite_step_id) AS prerequisites,
        count(*) FILTER (WHERE p.status NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')) AS pending,
        count(*) FILTER (WHERE p.status IN ('FAILED', 'CANCELED') AND d.release_mode = 'ON_SUCCESS') AS unsatisfied
      FROM runledger.workflow_step_dependencies d
      JOIN runledger.workflow_steps p ON p.workflow_run_id = d.workflow_run_id AND p.id = d.prerequisite_step_id
      GROUP BY 1, 2
    ), tally AS (
      SELECT
        workflow_run_id AS id, count(*) AS total,
        count(*) FILTER (WHERE status IN ('BLOCKED', 'ENQUEUED', 'RUNNING')) AS open,
        count(*) FILTER (WHERE status = 'WAITING_FOR_EXTERNAL') AS waiting,
        count(*) FILTER (WHERE status IN ('FAILED', 'CANCELED')) AS unsuccessful
      FROM runledger.workflow_steps
      GROUP BY 1
    )
    SELECT 'counters of step ' || s.step_key || ' ' || s.status AS what
    FROM runledger.workflow_steps s
    LEFT JOIN met m ON m.id = s.id AND m.workflow_run_id = s.workflow_run_id
    WHERE (s.dependency_count_total, s.dependency_count_pending, s.dependency_count_unsatisfied)
      IS DISTINCT FROM (COALESCE(m.total, 0), COALESCE(m.pending, 0), COALESCE(m.unsatisfied, 0))
    UNION ALL
    SELECT 'prerequisites of step ' || s.step_key
    FROM runledger.workflow_steps s
    LEFT JOIN met m ON m.id = s.id AND m.workflow_run_id = s.workflow_run_id
    WHERE ARRAY(SELECT p.id FROM unnest(s.prerequisite_step_ids) AS p (id) ORDER BY p.id)
      IS DISTINCT FROM COALESCE(m.prerequisites, '{}')
    UNION ALL
    SELECT 'step ' || s.step_key || ' is blocked for nothing'
    FROM runledger.workflow_steps s
    JOIN runledger.workflow_runs r ON r.id = s.workflow_run_id
    WHERE s.status = 'BLOCKED' AND s.dependency_count_pending = 0
    UNION ALL
    SELECT 'step ' || s.step_key || ' was released early'
    FROM runledger.workflow_steps s
    WHERE s.status IN ('ENQUEUED', 'RUNNING', 'WAITING_FOR_EXTERNAL', 'SUCCEEDED', 'FAILED')
      AND (s.dependency_count_pending > 0 OR s.dependency_count_unsatisfied > 0)
    UNION ALL
    SELECT 'counters of run ' || r.workflow_type
    FROM runledger.workflow_runs r
    JOIN tally t ON t.id = r.id
    WHERE (r.steps_total, r.steps_open, r.steps_waiting, r.steps_unsuccessful)
      IS DISTINCT FROM (t.total, t.open, t.waiting, t.unsuccessful)
    UNION ALL
    SELECT 'status of run ' || r.workflow_type || ' ' || r.status
    FROM runledger.workflow_runs r
    JOIN tally t ON t.id = r.id
    WHERE r.status <> CASE
      WHEN r.status = 'CANCELED' AND t.open + t.waiting = 0 THEN 'CANCELED'
      WHEN t.open > 0 THEN 'RUNNING'
      WHEN t.waiting > 0 THEN 'WAITING_FOR_EXTERNAL'
      WHEN t.unsuccessful > 0 THEN 'COMPLETED_WITH_ERRORS'
      ELSE 'SUCCEEDED'
    END OR (r.finished_at IS NULL) = (r.status IN ('SUCCEEDED', 'COMPLETED_WITH_ERRORS', 'CANCELED'))
    UNION ALL
    SELECT 'step ' || s.step_key || ' ' || s.status || ' has a job ' || COALESCE(q.status, 'missing')
    FROM runledger.workflow_steps s
    LEFT JOIN runledger.job_queue q ON q.id = s.job_id
    WHERE s.execution_kind = 'JOB' AND s.status IS DISTINCT FROM COALESCE(
      CASE q.status WHEN 'PENDING' THEN 'ENQUEUED' WHEN 'LEASED' THEN 'RUNNING' WHEN 'DEAD_LETTERED' THEN 'FAILED' ELSE q.status END,
      CASE WHEN s.status IN ('BLOCKED', 'CANCELED') THEN s.status END
    )
    UNION ALL
    SELECT 'job of ' || s.step_key || ' points elsewhere'
    FROM runledger.job_queue q
    LEFT JOIN runledger.workflow_steps s ON s.workflow_run_id = q.workflow_run_id AND s.id = q.workflow_step_id
    WHERE q.workflow_run_id IS NOT NULL AND s.job_id IS DISTINCT FROM q.id
    UNION ALL
    SELECT 'claim on ' || c.active_key || ' of a run that has ended'
    FROM runledger.workflow_active_claims c
    JOIN runledger.workflow_runs r ON r.id = c.workflow_run_id
    WHERE r.finished_at IS NOT NULL AND NOT c.release_pending
  `
})

export const assertConsistent = Effect.map(inconsistencies, (rows) =>
  assert.deepStrictEqual(
    rows.map(({ what }) => what),
    []
  )
)
