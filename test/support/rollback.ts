import { Data, Effect, type Exit } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

class Rollback<A, E> extends Data.TaggedError("Rollback")<{ readonly exit: Exit.Exit<A, E> }> {}

/** Runs `self` in a transaction that never commits, so tests can share one database. */
export const rollback = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError, R | SqlClient> =>
  SqlClient.use((sql) =>
    Effect.exit(self).pipe(
      Effect.flatMap((exit) => Effect.fail(new Rollback({ exit }))),
      sql.withTransaction,
      Effect.catchTag("Rollback", ({ exit }) => exit)
    )
  )
