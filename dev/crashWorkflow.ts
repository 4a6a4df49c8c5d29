/**
 * The life of a few workflow runs, for `dev/crashChild.ts`: whatever ends a step, adds one, or takes or gives back an active
 * key, each together with a row of the user.
 */
import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Jobs from "../src/Jobs.ts"
import { global } from "../src/TenantScope.ts"
import * as Workflows from "../src/Workflows.ts"

const job = (at: number, stepKey: string, after: ReadonlyArray<string> = []): Workflows.StepRequest => ({
  stepKey,
  jobType: `crash.${at}`,
  payload: stepKey,
  dependencies: after.map((key) => ({ stepKey: key, releaseMode: "ON_SUCCESS" as const }))
})

/** What a life asks for, and whoever tries again after it. */
export const requestsOf = (at: number) => ({
  /** Runs to its end, through a window that something is appended by. */
  whole: {
    workflowType: `crash.${at}`,
    idempotencyKey: "whole",
    activeKey: `whole ${at}`,
    resultStepKey: "last",
    steps: [
      job(at, "first"),
      { stepKey: "window", executionKind: "EXTERNAL" as const, payload: null },
      job(at, "last", ["first", "window"])
    ]
  },
  late: { mutationKey: "late", windowStepKey: "window", steps: [job(at, "late", ["first"])] },
  opened: { status: "SUCCEEDED", output: "opened" } as const,
  /** Is canceled while a handler is at work. */
  canceled: {
    workflowType: `crash.${at}`,
    idempotencyKey: "canceled",
    activeKey: `canceled ${at}`,
    steps: [job(at, "held"), job(at, "never", ["held"])]
  },
  recovery: { requestKey: "again", reason: "to be sure" }
})

export const life = Effect.fnUntraced(function* (at: number) {
  const sql = yield* SqlClient
  const { canceled, late, opened, recovery, whole } = requestsOf(at)
  const withRow = <A, E>(word: string, step: Effect.Effect<A, E, SqlClient>) =>
    sql.withTransaction(Effect.andThen(sql`INSERT INTO own VALUES (${at}, ${word})`, step))
  const claimed = Effect.flatMap(
    Jobs.claim({ workerId: `worker ${at}`, types: [`crash.${at}`], limit: 1, lease: "1 hour" }),
    ([first]) => (first === undefined ? Effect.die("nothing was claimed") : Effect.succeed(first.lease))
  )

  const { run } = yield* withRow("enqueued", Workflows.enqueueOrGetActive(whole))
  yield* withRow("appended", Workflows.append(global, run.id, late))
  yield* withRow("first", Jobs.completeSuccess(yield* claimed))
  yield* Effect.flatMap(claimed, (lease) => Jobs.completeMany([{ _tag: "Success", lease }]))
  yield* withRow("opened", Workflows.completeExternal(global, run.id, "window", opened))
  yield* withRow("ended", Jobs.completeSuccess(yield* claimed, { output: "done" }))

  const held = yield* Workflows.enqueueOrGetActive(canceled)
  yield* claimed
  yield* withRow("canceled", Workflows.cancel(global, held.run.id))

  yield* withRow("recovered", Workflows.recover(global, run.id, recovery))
  yield* withRow("failed", Jobs.completeFailure(yield* claimed, { kind: "TERMINAL", code: "crash.no", message: "no" }))
})
