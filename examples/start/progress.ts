/**
 * How far the work is.
 */
import { Effect, Option, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { Jobs, TenantScope, type Worker, Workflows } from "../../src/index.ts"
import { CleanUp } from "./CleanUp.ts"
import { CountFile } from "./CountFile.ts"
import { Publish } from "./Publish.ts"
import { SumUp } from "./SumUp.ts"
import { number, plural, status } from "./screen.ts"

const { global: scope } = TenantScope

/** What this process has seen so far. */
const seen = { counted: 0, retried: 0, failed: 0 }

export const observer: Worker.Observer = (event) =>
  Effect.sync(() => {
    if (event._tag !== "Ended" || event.job.jobType !== CountFile.jobType) return
    if (event.outcome._tag === "Succeeded") seen.counted++
    else if (event.outcome._tag === "RetryScheduled") seen.retried++
    else if (event.outcome._tag === "DeadLettered") seen.failed++
  })

const countOf = (status: Jobs.Status) =>
  Effect.map(
    Effect.forEach([CountFile, SumUp, Publish, CleanUp], ({ jobType }) => Jobs.count({ scope, jobType, status })),
    (counts) => counts.reduce((sum, count) => sum + count, 0)
  )

/** How many jobs wait and how many are at work, as of one instant. */
export const openJobs = Effect.fnUntraced(function* () {
  const sql = yield* SqlClient.SqlClient
  return yield* sql.withTransaction(
    Effect.gen(function* () {
      // counts of one snapshot: a retry goes from one status to the other
      yield* sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`
      return { waiting: yield* countOf("PENDING"), leased: yield* countOf("LEASED") }
    })
  )
})

/** Shows the progress until no job is left: the run waits at its gate, or is past it. */
export const untilIdle = Effect.fn("untilIdle")(function* (runId: Workflows.WorkflowRunId) {
  const poll = Effect.gen(function* () {
    // not the status of the run: it is RUNNING as long as steps are blocked, also if all of them wait for the gate
    const gate = yield* Workflows.stepByKey(scope, runId, "approval")
    const { waiting, leased } = yield* openJobs()
    yield* status(
      `  ${number(seen.counted)} counted, ${plural(seen.retried, "retry", "retries")}, ` +
        `${plural(seen.failed, "dead letter")}; ${number(leased)} at work, ${number(waiting)} waiting`
    )
    return waiting + leased === 0 && !Option.exists(gate, ({ status }) => status === "BLOCKED")
  })
  yield* Effect.repeat(poll, { until: (isIdle) => isIdle, schedule: Schedule.spaced("200 millis") })
})
