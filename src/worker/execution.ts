/**
 * What a handler gets: see `JobExecution`.
 */
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { SqlClient } from "effect/sql/SqlClient"
import type { Codec, Handler } from "../JobContract.ts"
import { Continuation, JobFailure } from "../JobContract.ts"
import type { JobExecution } from "../JobExecution.ts"
import { completeSuccess } from "../jobs/complete.ts"
import { updateProgress } from "../jobs/lease.ts"
import type { Reason } from "../Reason.ts"
import { type Prerequisite, prerequisitesOf, type StepResult } from "../workflows/prerequisites.ts"
import { monotonicMillis, type Running } from "./running.ts"

const leaseLost = () =>
  new JobFailure({
    kind: "LEASE_EXPIRED",
    code: "job.lease_owner_mismatch",
    message: "The lease of this attempt is no longer held"
  })

const noOutput = (stepKey: string) =>
  new JobFailure({
    kind: "TERMINAL",
    code: "workflow.prerequisite_missing",
    message: `${stepKey} is not a prerequisite of this step, or did not succeed`
  })

const pending = () =>
  new JobFailure({
    kind: "TERMINAL",
    code: "job.completion_pending",
    message: "The job was completed already, in a transaction that has not ended"
  })

export const make = (running: Running, handler: Handler, own: Context.Context<SqlClient>): JobExecution["Service"] => {
  const { job, stop } = running
  const deadline = running.startedAt + job.timeoutSeconds * 1000

  const failureOf = (reason: Reason): Effect.Effect<never, JobFailure> => {
    switch (reason._tag) {
      case "LeaseOwnerMismatch":
        return Effect.andThen(Deferred.succeed(stop, "LeaseLost"), Effect.fail(leaseLost()))
      case "InvalidProgress":
        return Effect.fail(
          new JobFailure({ kind: "TERMINAL", code: "job.invalid_progress", message: "The numbers make no progress" })
        )
      case "InvalidArgument":
        return Effect.fail(
          new JobFailure({ kind: "TERMINAL", code: "job.invalid_checkpoint", message: "The checkpoint is not JSON" })
        )
      default:
        return Effect.fail(new JobFailure({ code: "job.progress_persist_failed", message: reason.message }))
    }
  }

  // by the worker's own client, and not in a transaction of the handler
  const asWorker = <A, E>(self: Effect.Effect<A, E, SqlClient>): Effect.Effect<A, E> =>
    Effect.updateContext(self, (handlers: Context.Context<never>) =>
      Context.merge(Context.omit(Context.get(own, SqlClient).transactionService)(handlers), own)
    )

  // prerequisites have ended: what they left does not change any more
  let known: ReadonlyArray<Prerequisite> | undefined
  const prerequisites = Effect.suspend(() =>
    known !== undefined
      ? Effect.succeed(known)
      : prerequisitesOf(job.lease.jobId).pipe(
          Effect.mapError(
            () =>
              new JobFailure({
                code: "workflow.prerequisites_unreadable",
                message: "What the prerequisites left could not be read"
              })
          ),
          Effect.tap((found) =>
            Effect.sync(() => {
              known = found
            })
          ),
          asWorker
        )
  )
  const decoded = <S extends Codec>(
    { stepKey, status, output }: Prerequisite,
    of: S | { readonly success: S }
  ): Effect.Effect<S["Type"], JobFailure> =>
    status === "SUCCEEDED"
      ? Effect.mapError(
          Schema.decodeUnknownEffect(Schema.toCodecJson(Schema.isSchema(of) ? of : of.success))(output),
          () =>
            new JobFailure({
              kind: "TERMINAL",
              code: "workflow.invalid_prerequisite_output",
              message: `What ${stepKey} left does not match its schema`
            })
        )
      : Effect.fail(noOutput(stepKey))

  const resultOf = <S extends Codec>(
    prerequisite: Prerequisite,
    of: S | { readonly success: S }
  ): Effect.Effect<StepResult<S["Type"]>, JobFailure> => {
    const { status, stepKey } = prerequisite
    return status === "SUCCEEDED"
      ? Effect.map(decoded(prerequisite, of), (output) => ({ stepKey, status, output: Option.some(output) }))
      : Effect.succeed({ stepKey, status, output: Option.none() })
  }

  return {
    lease: job.lease,
    workflow: job.workflow,
    prerequisites,
    output: (stepKey, of) =>
      Effect.flatMap(prerequisites, (all) => {
        const prerequisite = all.find((one) => one.stepKey === stepKey)
        return prerequisite === undefined ? Effect.fail(noOutput(stepKey)) : decoded(prerequisite, of)
      }),
    outputs: (key, of) =>
      Effect.flatMap(prerequisites, (all) =>
        Effect.forEach(
          all.filter(({ fanOut }) => Option.isSome(fanOut) && fanOut.value.key === key),
          (prerequisite) => decoded(prerequisite, of)
        )
      ),
    results: (key, of) =>
      Effect.flatMap(prerequisites, (all) =>
        Effect.forEach(
          all.filter(({ fanOut, stepKey }) =>
            Option.match(fanOut, { onNone: () => stepKey === key, onSome: (member) => member.key === key })
          ),
          (prerequisite) => resultOf(prerequisite, of)
        )
      ),
    jobType: job.jobType,
    organizationId: job.organizationId,
    maxAttempts: job.maxAttempts,
    remaining: Effect.sync(() => Duration.millis(Math.max(0, deadline - monotonicMillis()))),
    checkpoint: job.checkpoint,
    checkpointAs: (schema) =>
      Option.match(job.checkpoint, {
        onNone: () => Effect.succeed(Option.none()),
        onSome: (value) =>
          Effect.mapBoth(Schema.decodeUnknownEffect(Schema.toCodecJson(schema))(value), {
            onFailure: () =>
              new JobFailure({
                kind: "TERMINAL",
                code: "job.invalid_checkpoint",
                message: "The stored checkpoint does not match its schema"
              }),
            onSuccess: Option.some
          })
      }),
    progress: (update) =>
      running.completion === "pending"
        ? Effect.fail(pending())
        : updateProgress(job.lease, update).pipe(
            Effect.catch(({ reason }) => failureOf(reason)),
            asWorker
          ),
    complete: Effect.fnUntraced(function* <A>(output: A) {
      if (running.completion !== "none") return yield* pending()
      const sql = yield* SqlClient
      const encoded = yield* Effect.mapError(
        handler.encodeOutput(output),
        () =>
          new JobFailure({
            kind: "TERMINAL",
            code: "job.invalid_output",
            message: "The output does not match the contract"
          })
      )
      yield* Effect.catch(completeSuccess(job.lease, { output: encoded }), ({ reason }) => failureOf(reason))
      running.completion = "pending"
      yield* sql.afterCommit(
        Effect.sync(() => {
          running.completion = "committed"
        })
      )
      return output
    }),
    continueAfter: (delay, options) => Effect.fail(new Continuation({ delay, ...options }))
  }
}
