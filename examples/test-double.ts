/**
 * A test double by layer: code that enqueues asks for a service of four lines, which a test replaces without a database.
 */
import { Context, Effect, Layer, Ref, Schema } from "effect"
import type { SqlClient } from "effect/sql"
import { Job, Jobs, type QueryError } from "../src/index.ts"

export class Welcome extends Job.make("user.welcome", { payload: { userId: Schema.Int } }) {}

/** What the application wants done later. */
export class Later extends Context.Service<
  Later,
  { readonly welcome: (userId: number) => Effect.Effect<void, QueryError<Jobs.EnqueueReason>> }
>()("examples/Later") {
  static readonly layer = Layer.effect(
    Later,
    Effect.contextWith((context: Context.Context<SqlClient.SqlClient>) =>
      Effect.succeed(
        Later.of({
          welcome: (userId) => Jobs.enqueue(Welcome, { userId }).pipe(Effect.asVoid, Effect.provideContext(context))
        })
      )
    )
  )

  /** Keeps what was asked for instead. */
  static readonly layerTest = (asked: Ref.Ref<ReadonlyArray<number>>) =>
    Layer.succeed(Later, { welcome: (userId) => Ref.update(asked, (before) => [...before, userId]) })
}

/** The code under test. */
export const signUp = Effect.fn("signUp")(function* (userId: number) {
  const later = yield* Later
  yield* later.welcome(userId)
  return `user ${userId}`
})
