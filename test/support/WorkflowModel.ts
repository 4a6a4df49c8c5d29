/**
 * What a workflow run should be after each operation: a map of steps, and pure functions. Counters and the status of the run are
 * never stored here, they are counted.
 */
import type { Schema } from "effect"
import type { Workflows } from "../../src/index.ts"

export const maxAttempts = 2
export const retryMillis = 1000

type Texts = readonly [reason: string | null, code: string | null, message: string | null]

export interface Lease {
  readonly attempt: number
  readonly runNumber: number
  readonly expiresAt: number
  /** A prefetched claim that never starts. */
  readonly prestart: boolean
}

export interface Step {
  readonly key: string
  readonly kind: "JOB" | "EXTERNAL"
  readonly after: ReadonlyArray<{ readonly key: string; readonly onSuccess: boolean }>
  readonly continues: boolean
  readonly status: Workflows.StepStatus
  readonly texts: Texts
  readonly output: Schema.Json
  readonly hasJob: boolean
  readonly attempt: number
  readonly runNumber: number
  readonly dueAt: number
  readonly lease: Lease | null
  /** Until when a canceled handler may be at work. */
  readonly quiescesAt: number
}

export interface Run {
  readonly id: string
  readonly isCanceled: boolean
  readonly resultKey: string | undefined
  readonly activeKey: string | undefined
  readonly steps: ReadonlyMap<string, Step>
  /** What was appended, by mutation key. */
  readonly mutations: ReadonlyMap<string, string>
  /** What was recovered, by request key. */
  readonly recoveries: ReadonlyMap<string, { readonly reason: string; readonly runId: string }>
}

export interface State {
  readonly runs: ReadonlyMap<string, Run>
  readonly claims: ReadonlyMap<string, { readonly runId: string; readonly pending: boolean }>
}

export const empty: State = { runs: new Map(), claims: new Map() }

export const isTerminal = ({ status }: { readonly status: string }) =>
  status === "SUCCEEDED" || status === "FAILED" || status === "CANCELED"

export const isEnded = (run: Run) => [...run.steps.values()].every(isTerminal)

/** A step that waits for others, or for nothing. */
export const planned = (request: Workflows.StepRequest): Step => ({
  key: request.stepKey,
  kind: request.executionKind ?? "JOB",
  after: (request.dependencies ?? []).map(({ stepKey, releaseMode }) => ({
    key: stepKey,
    onSuccess: releaseMode === "ON_SUCCESS"
  })),
  continues: request.allowHandlerContinuation ?? false,
  status: "BLOCKED",
  texts: [null, null, null],
  output: null,
  hasJob: false,
  attempt: 0,
  runNumber: 1,
  dueAt: 0,
  lease: null,
  quiescesAt: 0
})

/** The same step in another run. */
export const afresh = (step: Step): Step => ({
  ...planned({ stepKey: step.key, payload: null, executionKind: step.kind }),
  after: step.after,
  continues: step.continues
})

const unsatisfiedTexts: Texts = [
  "workflow.dependency_unsatisfied",
  "workflow.dependency_unsatisfied",
  "A prerequisite did not end as this step requires"
]

const counts = (run: Run, step: Step) => {
  const prerequisites = step.after.map(({ key, onSuccess }) => ({
    onSuccess,
    status: run.steps.get(key)?.status ?? ""
  }))
  return {
    total: prerequisites.length,
    pending: prerequisites.filter((each) => !isTerminal(each)).length,
    unsatisfied: prerequisites.filter((each) => each.onSuccess && isTerminal(each) && each.status !== "SUCCEEDED")
      .length
  }
}

/** What follows in the run: whoever waits for nothing more begins, or is canceled, until nothing changes. */
export const settled = (run: Run, at: number): Run => {
  if (run.isCanceled) return run
  for (const step of run.steps.values()) {
    if (step.status !== "BLOCKED") continue
    const { pending, unsatisfied } = counts(run, step)
    if (pending > 0) continue
    const next: Step =
      unsatisfied > 0
        ? { ...step, status: "CANCELED", texts: unsatisfiedTexts }
        : step.kind === "EXTERNAL"
          ? { ...step, status: "WAITING_FOR_EXTERNAL" }
          : { ...step, status: "ENQUEUED", hasJob: true, dueAt: at }
    return settled({ ...run, steps: new Map(run.steps).set(step.key, next) }, at)
  }
  return run
}

/** The run with one step changed, and what follows. */
export const withStep = (state: State, run: Run, step: Step, at: number): State =>
  withRun(state, settled({ ...run, steps: new Map(run.steps).set(step.key, step) }, at), at)

/** The state with one run changed; if it has ended now, its active key is given back, or will be. */
export const withRun = (state: State, run: Run, at: number): State => {
  const before = state.runs.get(run.id)
  const claims = new Map(state.claims)
  const hadEnded = before !== undefined && isEnded(before)
  for (const [key, claim] of state.claims) {
    if (claim.runId !== run.id || hadEnded || !isEnded(run)) continue
    if (heldUntil(run) > at) claims.set(key, { ...claim, pending: true })
    else claims.delete(key)
  }
  return { runs: new Map(state.runs).set(run.id, run), claims }
}

const heldUntil = (run: Run) =>
  Math.max(0, ...[...run.steps.values()].filter(({ status }) => status === "CANCELED").map((step) => step.quiescesAt))

/** The keys that the reaper gives back. */
export const freed = (state: State, at: number): State => ({
  ...state,
  claims: new Map(
    [...state.claims].filter(([, { runId, pending }]) => {
      const run = state.runs.get(runId)
      return !pending || run === undefined || heldUntil(run) > at
    })
  )
})

export const failed = (step: Step, texts: Texts, isFinal: boolean, at: number): Step =>
  isFinal || step.attempt >= maxAttempts
    ? { ...step, status: "FAILED", texts, lease: null }
    : { ...step, status: "ENQUEUED", texts, lease: null, dueAt: at + retryMillis }

export const released = (step: Step, at: number): Step => ({
  ...step,
  status: "ENQUEUED",
  attempt: step.attempt - 1,
  texts: [null, null, null],
  lease: null,
  dueAt: at
})

export const reaped = (step: Step, at: number): Step =>
  step.lease?.prestart === true
    ? released(step, at)
    : failed(step, ["LEASE_EXPIRED", "job.lease_expired", "The lease ran out"], false, at)

export const canceled = (step: Step, texts: Texts): Step => ({
  ...step,
  status: "CANCELED",
  texts,
  lease: null,
  quiescesAt: step.lease?.expiresAt ?? 0
})

/** The run as it is when everything that had not ended is canceled. */
export const canceledRun = (run: Run, [reason, code, message]: Texts): Run => ({
  ...run,
  isCanceled: true,
  steps: new Map(
    [...run.steps].map(([key, step]) => [
      key,
      isTerminal(step) ? step : canceled(step, step.hasJob ? [reason, null, null] : [reason, code, message])
    ])
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

const jobStatus = ({ hasJob, status }: Step) =>
  !hasJob
    ? null
    : status === "ENQUEUED"
      ? "PENDING"
      : status === "RUNNING"
        ? "LEASED"
        : status === "FAILED"
          ? "DEAD_LETTERED"
          : status

/** The run and its steps as the tables should hold them. */
export const rowsOf = (run: Run) => {
  const steps = [...run.steps.values()].sort((a, b) => (a.key < b.key ? -1 : 1))
  const count = (...statuses: ReadonlyArray<string>) => steps.filter(({ status }) => statuses.includes(status)).length
  const open = count("BLOCKED", "ENQUEUED", "RUNNING")
  const waiting = count("WAITING_FOR_EXTERNAL")
  const unsuccessful = count("FAILED", "CANCELED")
  const status = run.isCanceled
    ? "CANCELED"
    : open > 0
      ? "RUNNING"
      : waiting > 0
        ? "WAITING_FOR_EXTERNAL"
        : unsuccessful > 0
          ? "COMPLETED_WITH_ERRORS"
          : "SUCCEEDED"
  const result = run.resultKey === undefined ? undefined : run.steps.get(run.resultKey)
  return {
    status,
    result: status === "SUCCEEDED" ? (result?.output ?? null) : null,
    finished: isEnded(run),
    counts: [steps.length, open, waiting, unsuccessful],
    steps: steps.map((step) => {
      const { total, pending, unsatisfied } = counts(run, step)
      return [step.key, step.status, jobStatus(step), ...step.texts, step.output, total, pending, unsatisfied]
    })
  }
}
