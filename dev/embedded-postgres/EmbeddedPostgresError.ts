import * as Data from "effect/Data"
import * as Effect from "effect/Effect"

/** The server could not be provided; `message` says which step failed and shows the end of the server's log. */
export class EmbeddedPostgresError extends Data.TaggedError("EmbeddedPostgresError")<{
  readonly message: string
  readonly cause?: unknown
}> {}

/** Runs one call of Node's file system or network API; `step` completes "Could not ...". */
export const attempt = <A>(step: string, evaluate: () => Promise<A>): Effect.Effect<A, EmbeddedPostgresError> =>
  Effect.tryPromise({
    try: evaluate,
    catch: (cause) =>
      new EmbeddedPostgresError({
        message: `Could not ${step}: ${cause instanceof Error ? cause.message : String(cause)}`,
        cause
      })
  })
