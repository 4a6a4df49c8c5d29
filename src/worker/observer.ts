import * as Effect from "effect/Effect"
import type { Lease } from "../Job.ts"
import type { Completed } from "../jobs/complete.ts"

/** The job that an event is about. */
export interface ObservedJob {
  readonly lease: Lease
  readonly jobType: string
  readonly maxAttempts: number
}

/** What happened to a job that a worker runs. */
export type WorkerEvent =
  | { readonly _tag: "Running"; readonly job: ObservedJob }
  /** Its ending is stored. */
  | { readonly _tag: "Ended"; readonly job: ObservedJob; readonly durationMillis: number; readonly outcome: Completed }
  /** It committed its completion itself. */
  | { readonly _tag: "CompletedItself"; readonly job: ObservedJob; readonly durationMillis: number }
  /** Its handler was stopped because the lease is gone, or the job was canceled; nothing was written. */
  | { readonly _tag: "LeaseLost"; readonly job: ObservedJob; readonly durationMillis: number }
  /** Its ending could not be stored; the reaper will end the attempt. */
  | { readonly _tag: "PersistFailed"; readonly job: ObservedJob; readonly code: string }

/** Told after the fact, at most once, in a fiber of its own; at most 10 seconds each. */
export type Observer = (event: WorkerEvent) => Effect.Effect<void>

/** Tells all observers; what goes wrong in one is logged. */
export const tell = (observers: ReadonlyArray<Observer>, event: WorkerEvent): Effect.Effect<void> =>
  observers.length === 0
    ? Effect.void
    : Effect.forkDetach(
        Effect.forEach(
          observers,
          (observer) =>
            Effect.suspend(() => observer(event)).pipe(
              Effect.timeoutOption("10 seconds"),
              Effect.catchCause((cause) => Effect.logWarning("An observer failed", cause))
            ),
          { concurrency: "unbounded", discard: true }
        )
      ).pipe(Effect.asVoid)
