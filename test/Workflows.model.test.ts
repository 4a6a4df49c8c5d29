import { isDeepStrictEqual } from "node:util"
import { assert, it } from "@effect/vitest"
import { Clock, Context, Data, Effect, Layer, Result, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { JobDefinitions, Jobs, type QueryError, TenantScope, Workflows } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import * as Model from "./support/WorkflowModel.ts"
import { assertConsistent, gate, jobType, step } from "./support/workflows.ts"

// TEST_MODEL_RUNS=5000 for a long soak, in percent; a falsified property prints a token for TEST_MODEL_REPLAY (with -t)
const { TEST_MODEL_REPLAY: replay, TEST_MODEL_RUNS: wanted } = process.env
const times = wanted === undefined ? 1 : Number(wanted) / 100
const options = (runs: number, maxShrinks: number) => ({
  timeout: 60_000 + 60_000 * times,
  arbitrary: { runs: Math.max(1, Math.round(runs * times)), size: 120, maxShrinks, ...(replay ? { replay } : {}) }
})

const scope = TenantScope.global
const workerId = "worker-1"

// ---------------------------------------------------------------------------------------------------------------------
// Commands: operations before it is known which runs and leases there are
// ---------------------------------------------------------------------------------------------------------------------

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Command = Schema.Struct({
  op: Schema.Literals([
    "enqueue",
    "enqueue",
    "claim",
    "claim",
    "claim",
    "end",
    "end",
    "end",
    "batch",
    "batch",
    "release",
    "pass",
    "reap",
    "cancel job",
    "gate",
    "gate",
    "append",
    "append",
    "cancel run",
    "recover",
    "recover"
  ]),
  a: upTo(20),
  b: upTo(20),
  c: upTo(11)
})
type Command = typeof Command.Type

/** What there is to choose from. */
interface World {
  readonly runs: ReadonlyArray<{ readonly id: string; readonly keys: ReadonlyArray<string> }>
  readonly jobIds: ReadonlyArray<string>
  /** Every lease ever handed out, the latest last. */
  readonly leases: ReadonlyArray<Jobs.Lease>
}

const nth = <A>(items: ReadonlyArray<A>, index: number): A | undefined =>
  items.length === 0 ? undefined : items[items.length - 1 - (index % items.length)]

const nobody = "0197c000-0000-7000-8000-000000000000"

/** A small graph, one of many; the last step may be its result. Every graph has a gate `w`. */
const graphOf = (a: number, b: number): ReadonlyArray<Workflows.StepRequest> => {
  const keys = ["a", "b", "c", "d", "e", "f"].slice(0, 2 + (a % 5))
  const steps = keys.map((key, i) => {
    const earlier = keys.slice(0, i)
    const chosen = earlier.filter((_, n) => (a * 7 + b * 3 + i * 5 + n * 11) % 3 !== 0).slice(0, 3)
    const waits = {
      after: chosen.filter((_, n) => (b + i + n) % 2 === 0),
      afterTerminal: chosen.filter((_, n) => (b + i + n) % 2 !== 0)
    }
    return (a + b * 5 + i * 3) % 6 === 0
      ? gate(key, waits)
      : step(key, { ...waits, allowHandlerContinuation: (a + b + i) % 2 === 0 })
  })
  return [...steps, gate("w")]
}

const appendedOf = (mutationKey: string, variant: number, keys: ReadonlyArray<string>) => {
  const known = keys.filter((key) => key.length === 1)
  const name = (n: number) => `${mutationKey}.${n}`
  return [
    step(name(0), { after: known.slice(0, 1) }),
    gate(name(1), { after: [name(0)], afterTerminal: known.slice(1, 2) }),
    step(name(2), { afterTerminal: [name(0), ...(variant === 0 ? [] : known.slice(0, 2))] })
  ]
}

type Ending = { readonly lease: Jobs.Lease; readonly as: number }

const completionOf = ({ lease, as }: Ending): Jobs.Completion =>
  as < 4
    ? { _tag: "Success", lease, ...(as === 0 ? {} : { output: { value: as } }) }
    : as < 7
      ? { _tag: "Failure", lease, kind: "RETRYABLE", code: "test.again", message: "again" }
      : as < 9
        ? { _tag: "Failure", lease, kind: "TERMINAL", code: "test.failed", message: "told to" }
        : { _tag: "Continuation", lease }

const outcomeOf = (c: number): Workflows.ExternalOutcome => {
  const texts = c % 2 === 0 ? {} : { reason: "seen", errorCode: "test.code", errorMessage: "seen by somebody" }
  return c < 4
    ? { status: "SUCCEEDED", output: { c: 1 }, ...texts }
    : c < 6
      ? { status: "SUCCEEDED", ...texts }
      : c < 9
        ? { status: "FAILED", ...texts }
        : { status: "CANCELED", ...texts }
}

type Call =
  | {
      readonly op: "enqueue"
      readonly activeKey: string | undefined
      readonly resultKey: string | undefined
      readonly steps: ReadonlyArray<Workflows.StepRequest>
    }
  | { readonly op: "claim"; readonly limit: number; readonly prestart: boolean; readonly leaseMillis: number }
  | { readonly op: "end" | "batch"; readonly endings: ReadonlyArray<Ending> }
  | { readonly op: "release"; readonly lease: Jobs.Lease }
  | { readonly op: "reap" }
  | { readonly op: "cancel job"; readonly jobId: Jobs.JobId; readonly reason: string | undefined }
  | {
      readonly op: "gate"
      readonly runId: string
      readonly stepKey: string
      readonly outcome: Workflows.ExternalOutcome
    }
  | { readonly op: "append"; readonly runId: string; readonly options: Workflows.AppendOptions }
  | { readonly op: "cancel run"; readonly runId: string; readonly options: Workflows.CancelRunOptions }
  | { readonly op: "recover"; readonly runId: string; readonly requestKey: string; readonly reason: string }

const resolve = (world: World, { op, a, b, c }: Exclude<Command, { op: "pass" }>): Call => {
  const run = nth(world.runs, a)
  const runId = run?.id ?? nobody
  const leaseAt = (index: number): Jobs.Lease =>
    nth(world.leases, index % 6) ?? { jobId: Jobs.JobId.make(nobody), runNumber: 1, attempt: 1, workerId }
  switch (op) {
    case "enqueue": {
      const steps = graphOf(a, b)
      return {
        op,
        steps,
        activeKey: c % 3 === 0 ? `key-${c % 2}` : undefined,
        resultKey: b % 2 === 0 ? steps[0]?.stepKey : undefined
      }
    }
    case "claim":
      return { op, limit: 1 + (a % 5), prestart: b % 4 === 0, leaseMillis: [1000, 10_000, 60_000][c % 3] ?? 1000 }
    case "end":
      return { op, endings: [{ lease: leaseAt(a), as: c }] }
    case "batch": {
      const leases = [a, a + 1, a + 2].map(leaseAt)
      return {
        op,
        endings: leases
          .filter((lease, i) => leases.findIndex(({ jobId }) => jobId === lease.jobId) === i)
          .map((lease, i) => ({ lease, as: (c + i * b) % 12 }))
      }
    }
    case "release":
      return { op, lease: leaseAt(a) }
    case "cancel job":
      return {
        op,
        jobId: Jobs.JobId.make(nth(world.jobIds, a) ?? nobody),
        reason: c % 2 === 0 ? undefined : "withdrawn"
      }
    case "gate":
      return {
        op,
        runId,
        stepKey: c === 11 && b > 15 ? "unknown" : b % 3 === 0 ? "w" : (nth(run?.keys ?? [], b) ?? "w"),
        outcome: outcomeOf(c)
      }
    case "append": {
      const mutationKey = `m${b % 2}`
      return {
        op,
        runId,
        options: {
          mutationKey,
          windowStepKey: c < 8 ? "w" : (nth(run?.keys ?? [], b) ?? "w"),
          steps: appendedOf(mutationKey, c % 2, run?.keys ?? [])
        }
      }
    }
    case "cancel run":
      return {
        op,
        runId,
        options: c % 2 === 0 ? {} : { reason: "stop", errorCode: "test.stop", errorMessage: "stopped" }
      }
    case "recover":
      return { op, runId, requestKey: c < 8 ? "r0" : "r1", reason: b > 14 ? "other" : "again" }
    default:
      return { op: "reap" }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The database
// ---------------------------------------------------------------------------------------------------------------------

/** What an operation answered: lines, one for each thing that it was about, and what it made. */
interface Answer {
  readonly lines: ReadonlyArray<string>
  readonly leases: ReadonlyArray<{ readonly lease: Jobs.Lease; readonly runId: string; readonly jobId: string }>
  readonly runId?: string
}

const answer = (line: string, runId?: string): Answer => ({
  lines: [line],
  leases: [],
  ...(runId === undefined ? {} : { runId })
})

const labelOf = (reason: { readonly _tag: string; readonly code?: unknown }) =>
  typeof reason.code === "string" && reason.code.startsWith("workflow.") ? reason.code : reason._tag

const told = <A, R>(self: Effect.Effect<A, QueryError, R>, onSuccess: (value: A) => Answer) =>
  Effect.match(self, { onSuccess, onFailure: ({ reason }) => answer(labelOf(reason)) })

const execute = (call: Call): Effect.Effect<Answer, never, SqlClient> => {
  switch (call.op) {
    case "enqueue": {
      const { activeKey, resultKey: resultStepKey, steps } = call
      const request = { workflowType: "model", steps, resultStepKey }
      const enqueued: Effect.Effect<Workflows.ActiveRun, QueryError, SqlClient> =
        activeKey === undefined ? Workflows.enqueue(request) : Workflows.enqueueOrGetActive({ ...request, activeKey })
      return told(enqueued, ({ disposition, run }) => answer(disposition, run.id))
    }
    case "claim": {
      const { limit, prestart, leaseMillis } = call
      const claim = prestart ? Jobs.claimPrestart : Jobs.claim
      return told(claim({ workerId, types: [jobType], limit, lease: leaseMillis }), (jobs) => ({
        lines: jobs.map(() => "claimed"),
        leases: jobs.map(({ lease, workflow }) => ({
          lease,
          jobId: lease.jobId,
          runId: workflow._tag === "Some" ? workflow.value.runId : nobody
        }))
      }))
    }
    case "end": {
      const [ending] = call.endings
      if (ending === undefined) return Effect.succeed(answer("nothing"))
      const completion = completionOf(ending)
      const complete: Effect.Effect<Jobs.Completed, QueryError, SqlClient> =
        completion._tag === "Success"
          ? Jobs.completeSuccess(completion.lease, completion)
          : completion._tag === "Failure"
            ? Jobs.completeFailure(completion.lease, completion)
            : Jobs.completeContinuation(completion.lease, completion)
      return told(complete, ({ _tag }) => answer(_tag))
    }
    case "batch":
      return told(Jobs.completeMany(call.endings.map(completionOf)), (answers) => ({
        lines: answers.map((each) => (Result.isSuccess(each) ? each.success._tag : each.failure._tag)),
        leases: []
      }))
    case "release":
      return told(Jobs.releaseUnstarted(call.lease), () => answer("released"))
    case "reap":
      return told(Jobs.reapExpiredLeases({ limit: 1000 }), ({ leases }) => ({
        lines: leases.map(({ disposition }) => disposition._tag).sort(),
        leases: []
      }))
    case "cancel job":
      return told(Jobs.cancel(TenantScope.admin, call.jobId, { reason: call.reason }), () => answer("canceled"))
    case "gate":
      return told(
        Workflows.completeExternal(scope, Workflows.WorkflowRunId.make(call.runId), call.stepKey, call.outcome),
        ({ status }) => answer(status)
      )
    case "append":
      return told(Workflows.append(scope, Workflows.WorkflowRunId.make(call.runId), call.options), ({ disposition }) =>
        answer(disposition)
      )
    case "cancel run":
      return told(
        Workflows.cancel(TenantScope.admin, Workflows.WorkflowRunId.make(call.runId), call.options),
        ({ status }) => answer(status)
      )
    case "recover":
      return told(
        Workflows.recover(scope, Workflows.WorkflowRunId.make(call.runId), {
          requestKey: call.requestKey,
          reason: call.reason
        }),
        ({ disposition, run }) => answer(disposition, run.id)
      )
  }
}

interface StoredStep {
  readonly workflow_run_id: string
  readonly step_key: string
  readonly job_id: string | null
  readonly row: ReadonlyArray<unknown>
}

const read = Effect.gen(function* () {
  const sql = yield* SqlClient
  const runs = yield* sql<{ id: string; row: { readonly [key: string]: unknown } }>`
    SELECT id, jsonb_build_object(
      'status', status, 'result', result, 'finished', finished_at IS NOT NULL,
      'counts', jsonb_build_array(steps_total, steps_open, steps_waiting, steps_unsuccessful)
    ) AS row
    FROM runledger.workflow_runs
    ORDER BY id
  `
  const steps = yield* sql<StoredStep>`
    SELECT s.workflow_run_id, s.step_key, s.job_id, jsonb_build_array(
      s.step_key, s.status, q.status, s.status_reason, s.last_error_code, s.last_error_message, s.output,
      s.dependency_count_total, s.dependency_count_pending, s.dependency_count_unsatisfied
    ) AS row
    FROM runledger.workflow_steps s
    LEFT JOIN runledger.job_queue q ON q.id = s.job_id
    ORDER BY s.workflow_run_id, s.step_key COLLATE "C"
  `
  const claims = yield* sql<{ active_key: string; workflow_run_id: string; release_pending: boolean }>`
    SELECT active_key, workflow_run_id, release_pending FROM runledger.workflow_active_claims ORDER BY active_key
  `
  return { runs, steps, claims }
})

type Stored = Effect.Success<typeof read>

const worldOf = ({ runs, steps }: Stored, leases: ReadonlyArray<Jobs.Lease>): World => ({
  runs: runs.map(({ id }) => ({
    id,
    keys: steps.filter((each) => each.workflow_run_id === id).map((each) => each.step_key)
  })),
  jobIds: steps.flatMap(({ job_id: id }) => id ?? []).sort(),
  leases
})

class Disagreement extends Data.TaggedError("Disagreement")<{ readonly message: string }> {}

const agree = (what: string, actual: unknown, expected: unknown, context: unknown) =>
  isDeepStrictEqual(actual, expected)
    ? Effect.void
    : Effect.fail(
        new Disagreement({
          message: `${what}\ndatabase: ${JSON.stringify(actual)}\nmodel: ${JSON.stringify(expected)}\n${JSON.stringify(context)}`
        })
      )

const agreeOnRows = Effect.fnUntraced(function* (
  { runs, steps, claims }: Stored,
  state: Model.State,
  context: unknown
) {
  yield* agree(
    "runs",
    runs.map(({ id, row }) => ({
      id,
      ...row,
      steps: steps.filter((each) => each.workflow_run_id === id).map((each) => each.row)
    })),
    [...state.runs.values()]
      .sort((x, y) => (x.id < y.id ? -1 : 1))
      .map((run) => ({ id: run.id, ...Model.rowsOf(run) })),
    context
  )
  yield* agree(
    "claims",
    claims.map((claim) => [claim.active_key, claim.workflow_run_id, claim.release_pending]),
    [...state.claims].sort().map(([key, { runId, pending }]) => [key, runId, pending]),
    context
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// What the model says
// ---------------------------------------------------------------------------------------------------------------------

interface Place {
  readonly runId: string
  readonly key: string
}

/** What the model answers, and the state after. */
interface Expected {
  readonly lines: ReadonlyArray<string>
  readonly state: Model.State
}

const stepAt = (state: Model.State, place: Place | undefined) => {
  const run = state.runs.get(place?.runId ?? "")
  const found = run?.steps.get(place?.key ?? "")
  return run === undefined || found === undefined ? undefined : { run, step: found }
}

const holds = (step: Model.Step, lease: Jobs.Lease) =>
  step.lease !== null && step.lease.attempt === lease.attempt && step.lease.runNumber === lease.runNumber

const endedStep = (step: Model.Step, { as }: Ending, at: number): readonly [line: string, step: Model.Step] => {
  if (as < 4) {
    const output = as === 0 ? null : { value: as }
    return ["Succeeded", { ...step, status: "SUCCEEDED", texts: ["SUCCEEDED", null, null], output, lease: null }]
  }
  if (as < 9) {
    const next =
      as < 7
        ? Model.failed(step, ["RETRYABLE", "test.again", "again"], false, at)
        : Model.failed(step, ["TERMINAL", "test.failed", "told to"], true, at)
    return [next.status === "FAILED" ? "DeadLettered" : "RetryScheduled", next]
  }
  if (!step.continues) return ["WorkflowContinuationNotEnabled", step]
  return [
    "Continued",
    {
      ...step,
      status: "ENQUEUED",
      texts: ["HANDLER_CONTINUATION", null, null],
      attempt: 0,
      runNumber: step.runNumber + 1,
      lease: null,
      dueAt: at
    }
  ]
}

const begun = (
  state: Model.State,
  run: Pick<Model.Run, "id" | "activeKey" | "resultKey">,
  steps: ReadonlyArray<Model.Step>,
  at: number
): Model.State => {
  const made: Model.Run = {
    ...run,
    isCanceled: false,
    steps: new Map(steps.map((each) => [each.key, each])),
    mutations: new Map(),
    recoveries: new Map()
  }
  const next = Model.withRun(state, Model.settled(made, at), at)
  return run.activeKey === undefined
    ? next
    : { ...next, claims: new Map(next.claims).set(run.activeKey, { runId: run.id, pending: false }) }
}

const expect = (
  state: Model.State,
  call: Call,
  given: Answer,
  places: ReadonlyMap<string, Place>,
  at: number
): Expected => {
  const only = (line: string, next: Model.State = state): Expected => ({ lines: [line], state: next })
  const newId = given.runId ?? "no run"
  switch (call.op) {
    case "enqueue": {
      const { activeKey, resultKey, steps } = call
      if (activeKey !== undefined && state.claims.has(activeKey)) return only("active")
      return only("inserted", begun(state, { id: newId, activeKey, resultKey }, steps.map(Model.planned), at))
    }
    case "claim": {
      const due = [...state.runs.values()].flatMap((run) =>
        [...run.steps.values()].filter(({ status, dueAt }) => status === "ENQUEUED" && dueAt <= at)
      )
      let next = state
      for (const { lease } of given.leases) {
        const found = stepAt(next, places.get(lease.jobId))
        const { prestart, leaseMillis } = call
        if (found?.step.status !== "ENQUEUED" || found.step.dueAt > at) return only("not due")
        const { attempt, runNumber } = found.step
        if (lease.attempt !== attempt + 1 || lease.runNumber !== runNumber) return only("another attempt")
        next = Model.withStep(
          next,
          found.run,
          {
            ...found.step,
            status: "RUNNING",
            attempt: attempt + 1,
            lease: { attempt: attempt + 1, runNumber, prestart, expiresAt: at + leaseMillis }
          },
          at
        )
      }
      return { lines: due.slice(0, call.limit).map(() => "claimed"), state: next }
    }
    case "end":
    case "batch": {
      let next = state
      const lines = call.endings.map((ending) => {
        const found = stepAt(next, places.get(ending.lease.jobId))
        const isLive = found !== undefined && holds(found.step, ending.lease) && (found.step.lease?.expiresAt ?? 0) > at
        if (!isLive) return "LeaseOwnerMismatch"
        const [line, step] = endedStep(found.step, ending, at)
        next = Model.withStep(next, found.run, step, at)
        return line
      })
      return { lines, state: next }
    }
    case "release": {
      const found = stepAt(state, places.get(call.lease.jobId))
      if (found === undefined || !holds(found.step, call.lease) || found.step.lease?.prestart !== true) {
        return only("UnstartedClaimReleaseNotApplicable")
      }
      return only("released", Model.withStep(state, found.run, Model.released(found.step, at), at))
    }
    case "reap": {
      let next = Model.freed(state, at)
      const lines: Array<string> = []
      for (const run of state.runs.values()) {
        for (const step of run.steps.values()) {
          if (step.lease === null || step.lease.expiresAt > at) continue
          const reaped = Model.reaped(step, at)
          lines.push(step.lease.prestart ? "Released" : reaped.status === "FAILED" ? "DeadLettered" : "RetryScheduled")
          next = Model.withStep(next, next.runs.get(run.id) ?? run, reaped, at)
        }
      }
      return { lines: lines.sort(), state: next }
    }
    case "cancel job": {
      const found = stepAt(state, places.get(call.jobId))
      if (found === undefined) return only("JobNotFound")
      if (Model.isTerminal(found.step)) return only("InvalidStateTransition")
      const canceled = Model.canceled(found.step, [call.reason ?? "CANCELED", null, null])
      return only("canceled", Model.withStep(state, found.run, canceled, at))
    }
    case "gate": {
      const { outcome } = call
      const found = stepAt(state, { runId: call.runId, key: call.stepKey })
      if (found === undefined) return only("workflow.external_step_not_found")
      const { run, step } = found
      if (step.kind === "JOB") return only("workflow.external_step_not_external")
      if (step.status === "BLOCKED") return only("workflow.external_step_not_waiting")
      const texts = [outcome.reason ?? null, outcome.errorCode ?? null, outcome.errorMessage ?? null] as const
      const output = outcome.status === "SUCCEEDED" ? (outcome.output ?? null) : null
      if (step.status === "WAITING_FOR_EXTERNAL") {
        return only(outcome.status, Model.withStep(state, run, { ...step, status: outcome.status, texts, output }, at))
      }
      if (step.status === outcome.status && !isDeepStrictEqual(step.output, output)) {
        return only("workflow.external_step_conflicting_output_retry")
      }
      return step.status === outcome.status && isDeepStrictEqual(step.texts, texts)
        ? only(outcome.status)
        : only("workflow.external_step_conflicting_completion_retry")
    }
    case "append": {
      const run = state.runs.get(call.runId)
      if (run === undefined) return only("workflow.run_not_found")
      const { mutationKey, windowStepKey, steps } = call.options
      const request = JSON.stringify([windowStepKey, steps])
      const earlier = run.mutations.get(mutationKey)
      if (earlier !== undefined) return only(earlier === request ? "existing" : "workflow.append_conflicting_retry")
      const window = run.steps.get(windowStepKey)
      if (window?.kind !== "EXTERNAL") return only("workflow.append_window_not_external")
      if (window.status !== "WAITING_FOR_EXTERNAL") return only("workflow.append_window_not_open")
      if (steps.some(({ stepKey }) => run.steps.has(stepKey))) return only("workflow.invalid_dag_duplicate_step_key")
      const grown: Model.Run = {
        ...run,
        steps: new Map([...run.steps, ...steps.map((each) => [each.stepKey, Model.planned(each)] as const)]),
        mutations: new Map(run.mutations).set(mutationKey, request)
      }
      return only("inserted", Model.withRun(state, Model.settled(grown, at), at))
    }
    case "cancel run": {
      const run = state.runs.get(call.runId)
      if (run === undefined) return only("workflow.run_not_found")
      if (Model.isEnded(run)) return only(Model.rowsOf(run).status)
      const { reason = "CANCELED", errorCode = null, errorMessage = null } = call.options
      return only("CANCELED", Model.withRun(state, Model.canceledRun(run, [reason, errorCode, errorMessage]), at))
    }
    case "recover": {
      const run = state.runs.get(call.runId)
      if (run === undefined) return only("workflow.recovery_source_not_found")
      const { requestKey, reason } = call
      const earlier = run.recoveries.get(requestKey)
      if (earlier !== undefined) {
        return only(earlier.reason === reason ? "existing" : "workflow.recovery_request_conflict")
      }
      if (!Model.isEnded(run)) return only("workflow.recovery_source_not_terminal")
      if (run.activeKey !== undefined && state.claims.has(run.activeKey)) {
        return only("workflow.recovery_active_constraint")
      }
      const source = { ...run, recoveries: new Map(run.recoveries).set(requestKey, { reason, runId: newId }) }
      const afresh = { ...state, runs: new Map(state.runs).set(run.id, source) }
      return only("inserted", begun(afresh, { ...run, id: newId }, [...run.steps.values()].map(Model.afresh), at))
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// One after the other
// ---------------------------------------------------------------------------------------------------------------------

/** What was answered to what, over all runs: shows that the commands reach what they should. */
const tally = new Map<string, number>()
const count = (call: Call, { lines }: Answer) => {
  for (const line of lines.length === 0 ? ["none"] : lines) {
    tally.set(`${call.op} ${line}`, (tally.get(`${call.op} ${line}`) ?? 0) + 1)
  }
}

const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`
    TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters,
      runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies CASCADE
  `
  yield* JobDefinitions.upsert(jobType, {
    maxAttempts: Model.maxAttempts,
    retry: { initial: Model.retryMillis, max: Model.retryMillis, factor: 1, jitter: 0 }
  })
})

const placesOf = ({ steps }: Stored): ReadonlyMap<string, Place> =>
  new Map(
    steps.flatMap(({ job_id: id, workflow_run_id: runId, step_key: key }) =>
      id === null ? [] : [[id, { runId, key }]]
    )
  )

const sequence = Effect.fnUntraced(function* (commands: ReadonlyArray<Command>) {
  let state = Model.empty
  let stored = yield* read
  const leases: Array<Jobs.Lease> = []
  for (const command of commands) {
    if (command.op === "pass") {
      yield* TestClock.adjust([1, 1000, 1000, 10_000, 60_000][command.a % 5] ?? 1)
      continue
    }
    const call = resolve(worldOf(stored, leases), { ...command, op: command.op })
    const at = yield* Clock.currentTimeMillis
    const given = yield* execute(call)
    count(call, given)
    const expected = expect(state, call, given, placesOf(stored), at)
    yield* agree("answer", given.lines, expected.lines, call)
    state = expected.state
    stored = yield* read
    yield* agreeOnRows(stored, state, call)
    leases.push(...given.leases.map(({ lease }) => lease))
  }
  yield* assertConsistent
})

const commandsUpTo = (maximum: number) => Schema.Array(Command).check(Schema.isMaxLength(maximum))

/** Runs that are there before the first command, at work, and some of them canceled: without, little would happen. */
const warmUp = (warm: number): ReadonlyArray<Command> => [
  { op: "enqueue", a: warm, b: warm, c: warm % 3 },
  { op: "enqueue", a: warm + 1, b: warm + 3, c: 1 },
  { op: "claim", a: 4, b: warm, c: 2 },
  ...(warm % 2 === 0 ? [] : [{ op: "cancel run" as const, a: 1, b: 0, c: warm % 12 }])
]

class Clients extends Context.Service<Clients, ReadonlyArray<SqlClient>>()("test/Clients") {}

// the pools live on the clock of the machine, the statements on TestClock
const clients = Layer.effect(
  Clients,
  Effect.gen(function* () {
    const [row] = yield* SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database() AS name`)
    const connect = (multiplex: boolean) =>
      Effect.map(
        Layer.build(Layer.fresh(TestDatabase.client(row?.name ?? "", { maxConnections: 3, multiplex }))),
        Context.get(SqlClient)
      )
    return yield* TestClock.withLive(Effect.forEach([false, false, true], connect))
  })
)

const layer = Layer.effect(
  SqlClient,
  Effect.flatMap(Clients, ([sql]) => (sql === undefined ? Effect.die("no client") : Effect.succeed(sql)))
).pipe(
  Layer.provideMerge(clients),
  Layer.provideMerge(TestDatabase.layerTestClock),
  Layer.provideMerge(Layer.succeed(NotifyInterval, 0))
)

it.layer(layer, { timeout: "60 seconds" })("workflows, one operation after the other", (it) => {
  it.effect.prop(
    "every answer and every row is that of the model, whatever the sequence",
    [upTo(20), commandsUpTo(60)],
    ([warm, commands]) => Effect.andThen(startOver, sequence([...warmUp(warm), ...commands])),
    options(60, 300)
  )

  it.effect("what chance seldom comes to", () => {
    const commands: ReadonlyArray<readonly [op: Command["op"], a: number, b: number, c: number]> = [
      ["enqueue", 0, 1, 1],
      ["enqueue", 0, 1, 1],
      // every attempt runs out
      ["claim", 3, 1, 0],
      ["pass", 1, 0, 0],
      ["reap", 0, 0, 0],
      ["pass", 1, 0, 0],
      ["claim", 3, 1, 0],
      ["pass", 1, 0, 0],
      ["reap", 0, 0, 0],
      // one gate, completed again and again
      ["gate", 0, 0, 0],
      ["gate", 0, 0, 0],
      ["gate", 0, 0, 4],
      ["gate", 0, 0, 1],
      ["gate", 0, 0, 7],
      // a gate that no run has
      ["gate", 0, 16, 11],
      // one append, and one recovery, again and again
      ["append", 1, 0, 0],
      ["append", 1, 0, 0],
      ["append", 1, 0, 1],
      ["cancel run", 1, 0, 0],
      ["append", 1, 0, 0],
      ["append", 1, 1, 0],
      ["recover", 1, 0, 0],
      ["recover", 2, 0, 0],
      ["recover", 2, 15, 0],
      ["recover", 0, 0, 0],
      // a key that is taken, and gates of every kind, in runs of their own
      ["enqueue", 0, 1, 0],
      ["enqueue", 0, 1, 0],
      ["enqueue", 0, 1, 1],
      ["gate", 0, 0, 7],
      ["enqueue", 0, 1, 1],
      ["gate", 0, 0, 10],
      ...[0, 1, 2, 3, 4, 5].flatMap((graph) => [
        ["enqueue", graph, graph, 1] as const,
        ["gate", 0, 1, 0] as const,
        ["gate", 0, 2, 0] as const,
        ["gate", 0, 0, 0] as const,
        ["append", 0, 1, 9] as const,
        ["append", 0, 2, 9] as const
      ]),
      ["cancel job", 0, 0, 0],
      ["cancel job", 0, 0, 0],
      // every ending, of steps of several graphs, after prefetched ones that never begin
      ...[0, 1, 2, 3, 4, 5].flatMap((graph) => [
        ["enqueue", graph, graph, 1] as const,
        ["claim", 4, 0, 0] as const,
        ["release", 0, 0, 0] as const,
        ["claim", 4, 0, 0] as const,
        ["pass", 1, 0, 0] as const,
        ["reap", 0, 0, 0] as const,
        ...[0, 5, 8, 10].flatMap((as) =>
          (["end", "batch"] as const).flatMap((op) => [
            // its first step may continue; or it is a gate, and the second may not
            ["enqueue", graph, graph + (graph % 2) * 2, 1] as const,
            ["claim", 4, 1, 2] as const,
            ["release", 0, 0, 0] as const,
            [op, 0, 0, as] as const
          ])
        )
      ])
    ]
    return Effect.andThen(startOver, sequence(commands.map(([op, a, b, c]) => ({ op, a, b, c }))))
  })

  it.effect("the sequences reach every answer", () =>
    Effect.sync(() => {
      const expected = [
        "enqueue inserted",
        "enqueue active",
        "claim claimed",
        "claim none",
        "end Succeeded",
        "end RetryScheduled",
        "end DeadLettered",
        "end Continued",
        "end WorkflowContinuationNotEnabled",
        "end LeaseOwnerMismatch",
        "batch Succeeded",
        "batch RetryScheduled",
        "batch DeadLettered",
        "batch Continued",
        "batch WorkflowContinuationNotEnabled",
        "batch LeaseOwnerMismatch",
        "release released",
        "release UnstartedClaimReleaseNotApplicable",
        "reap Released",
        "reap RetryScheduled",
        "reap DeadLettered",
        "reap none",
        "cancel job canceled",
        "cancel job InvalidStateTransition",
        "gate SUCCEEDED",
        "gate FAILED",
        "gate CANCELED",
        "gate workflow.external_step_not_found",
        "gate workflow.external_step_not_external",
        "gate workflow.external_step_not_waiting",
        "gate workflow.external_step_conflicting_output_retry",
        "gate workflow.external_step_conflicting_completion_retry",
        "append inserted",
        "append existing",
        "append workflow.append_conflicting_retry",
        "append workflow.append_window_not_external",
        "append workflow.append_window_not_open",
        "cancel run CANCELED",
        "recover inserted",
        "recover existing",
        "recover workflow.recovery_request_conflict",
        "recover workflow.recovery_source_not_terminal"
      ]
      if (replay === undefined && times >= 1) {
        assert.deepStrictEqual(
          expected.filter((line) => !tally.has(line)),
          []
        )
      }
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// At once
// ---------------------------------------------------------------------------------------------------------------------

const Round = Schema.Array(Schema.Array(Command).check(Schema.isMinLength(1), Schema.isMaxLength(3))).check(
  Schema.isMinLength(2),
  Schema.isMaxLength(4)
)

it.layer(layer, { timeout: "60 seconds" })("workflows, several operations at once", (it) => {
  it.effect.prop(
    "whatever several clients do at once, what is stored can be recounted when they are done",
    [upTo(20), Schema.Array(Round).check(Schema.isMaxLength(10))],
    Effect.fnUntraced(function* ([warm, rounds]) {
      yield* startOver
      const connections = yield* Clients
      const leases: Array<Jobs.Lease> = []
      const all: ReadonlyArray<ReadonlyArray<ReadonlyArray<Command>>> = [
        ...warmUp(warm).map((command) => [[command]]),
        ...rounds
      ]
      for (const round of all) {
        const world = worldOf(yield* read, leases)
        const answers = yield* Effect.forEach(
          round,
          (commands, i) =>
            Effect.forEach(commands, (command) => {
              const { op } = command
              return op === "pass"
                ? Effect.succeed(undefined)
                : Effect.map(execute(resolve(world, { ...command, op })), (given) => ({ op, given }))
            }).pipe(Effect.provideService(SqlClient, connections[i % connections.length] ?? assert.fail())),
          { concurrency: "unbounded" }
        )
        for (const each of answers.flat()) {
          if (each === undefined) continue
          leases.push(...each.given.leases.map(({ lease }) => lease))
          for (const line of each.given.lines) {
            assert.isFalse(/^(Unavailable|QueryFailed|OutcomeUnknown)$/.test(line), `${each.op}: ${line}`)
          }
        }
        yield* assertConsistent
        if (round.flat().some(({ op }) => op === "pass")) yield* TestClock.adjust(10_000)
      }
    }),
    options(25, 50)
  )
})
