/**
 * What a handler knows about the job that it runs, and what it may do with it.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { ClaimedJob, Lease } from "./Job.ts"
import type { Codec, Continuation, JobFailure } from "./JobContract.ts"
import type { ProgressUpdate } from "./jobs/lease.ts"
import type { Prerequisite, StepResult } from "./workflows/prerequisites.ts"

export type { Prerequisite, StepResult } from "./workflows/prerequisites.ts"

/** What the next slice of a long job begins with. */
export interface ContinueOptions {
  readonly done?: number | undefined
  readonly total?: number | undefined
  /** Any JSON of at most 2 MiB. */
  readonly checkpoint?: Json | undefined
}

/**
 * The job at work. Progress, checkpoints and logs are written at once, by the worker's own connections, and never join a
 * transaction of the handler; {@link complete} does.
 *
 * Its failures are {@link JobFailure}s, which a handler may simply let pass: a lost lease (`job.lease_owner_mismatch`, after
 * which the handler is interrupted), numbers that make no progress (`job.invalid_progress`), a checkpoint that is not JSON
 * (`job.invalid_checkpoint`), and a database that does not answer (`job.progress_persist_failed`, retried).
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Job, JobExecution } from "effect-runledger"
 *
 * class Import extends Job.make("import", { payload: { pages: Schema.Int } }) {}
 *
 * const ImportLive = Import.toLayer(
 *   Effect.fn("Import")(function* ({ pages }) {
 *     const job = yield* JobExecution.JobExecution
 *     for (let page = 1; page <= pages; page++) yield* job.progress({ done: page, total: pages })
 *   })
 * )
 * ```
 */
export class JobExecution extends Context.Service<
  JobExecution,
  {
    readonly lease: Lease
    readonly jobType: string
    readonly organizationId: Option.Option<string>
    /** The run and the step that the job belongs to, if it belongs to a workflow. */
    readonly workflow: ClaimedJob["workflow"]
    readonly maxAttempts: number
    /** How long the handler may still run; zero after its deadline. */
    readonly remaining: Effect.Effect<Duration.Duration>
    /** The checkpoint as it was stored when the job was claimed. */
    readonly checkpoint: Option.Option<Json>
    /** {@link checkpoint}, decoded. Fails with `job.invalid_checkpoint` if it is not what the schema says. */
    readonly checkpointAs: <S extends Codec>(schema: S) => Effect.Effect<Option.Option<S["Type"]>, JobFailure>
    /** Stores progress, a checkpoint, or both. */
    readonly progress: (update: ProgressUpdate) => Effect.Effect<void, JobFailure>
    /**
     * Completes the job in the handler's own transaction and returns the output: the handler's rows and the completion commit
     * together, exactly once. The last statement there. Fails with `job.completion_pending` if it was called before.
     */
    readonly complete: <A>(output: A) => Effect.Effect<A, JobFailure, SqlClient>
    /**
     * The steps of the workflow that this one has waited for, as they ended; none for a job of no workflow. Read once per attempt.
     * Fails with `workflow.prerequisites_unreadable`, retried.
     */
    readonly prerequisites: Effect.Effect<ReadonlyArray<Prerequisite>, JobFailure>
    /**
     * What the prerequisite `stepKey` left, decoded: give the contract of its job, or what was declared as `success` of an
     * external step. Fails, terminally, with `workflow.prerequisite_missing` if it is no prerequisite or did not succeed, and with
     * `workflow.invalid_prerequisite_output` if what it left does not match.
     */
    readonly output: <S extends Codec>(
      stepKey: string,
      of: S | { readonly success: S }
    ) => Effect.Effect<S["Type"], JobFailure>
    /**
     * What the steps of the fan-out `key` left, decoded, in the order of its payloads. Fails as {@link output} does if one of them
     * did not succeed; after an empty fan-out there are none.
     */
    readonly outputs: <S extends Codec>(
      key: string,
      of: S | { readonly success: S }
    ) => Effect.Effect<ReadonlyArray<S["Type"]>, JobFailure>
    /**
     * How the steps of the fan-out `key`, or the one step of this key, ended, in the order of its payloads, each with its decoded
     * output if it succeeded: for a step that waits with `afterTerminal` and works with what there is. None if it is no
     * prerequisite, or an empty fan-out. Fails, terminally, with `workflow.invalid_prerequisite_output` as {@link output} does.
     */
    readonly results: <S extends Codec>(
      key: string,
      of: S | { readonly success: S }
    ) => Effect.Effect<ReadonlyArray<StepResult<S["Type"]>>, JobFailure>
    /** Ends this slice; the job goes on in a new run after `delay`. Does not return. */
    readonly continueAfter: (delay: Duration.Input, options?: ContinueOptions) => Effect.Effect<never, Continuation>
  }
>()("effect-runledger/JobExecution") {}
