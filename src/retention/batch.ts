/**
 * What the batches of all kinds have in common.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import type { NotReadCommitted } from "../internal/isolation.ts"
import { isPoisoned } from "../internal/poison.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { QueryFailed, type WriteReason } from "../Reason.ts"
import type { Cursor } from "./cursor.ts"

/** How many rows a batch looks at for each that it may delete. */
export const examinedPerDeleted = 4

/** How many rows were deleted, by table. */
export interface Deleted {
  readonly runs: number
  readonly jobs: number
  readonly attempts: number
  readonly events: number
  readonly logs: number
  readonly intents: number
  readonly permits: number
}

export const nothing: Deleted = { runs: 0, jobs: 0, attempts: 0, events: 0, logs: 0, intents: 0, permits: 0 }

/** A job or a run that the database does not let us delete, with all that belongs to it, and why. */
export interface Skipped {
  readonly kind: "job" | "run"
  readonly id: string
  /** For example `ConstraintViolation`, if a table of the application refers to it. */
  readonly reason: WriteReason
}

/** What a batch of one kind did; `after` is where it goes on, if it is not at the end. */
export interface Batch {
  readonly deleted: Deleted
  readonly skipped: ReadonlyArray<Skipped>
  readonly after: Cursor | undefined
}

/** An instant before now, or NULL for ever. `at` is an expression. */
export const before = (sql: SqlClient, at: Fragment, millis: number | null): Fragment =>
  sql`${at} - ${millis}::double precision * interval '1 millisecond'`

const decodeDeleted = Schema.decodeUnknownEffect(
  Schema.Struct({
    runs: Schema.Int,
    jobs: Schema.Int,
    attempts: Schema.Int,
    events: Schema.Int,
    logs: Schema.Int,
    intents: Schema.Int
  })
)

/** What a statement says that it has deleted. */
export const deletedOf = (row: unknown) =>
  Effect.mapBoth(decodeDeleted(row), {
    onFailure: () => new QueryFailed({}),
    onSuccess: (counts): Deleted => ({ ...nothing, ...counts })
  })

/** What two batches have deleted together. */
export const sum = (a: Deleted, b: Deleted): Deleted => ({
  runs: a.runs + b.runs,
  jobs: a.jobs + b.jobs,
  attempts: a.attempts + b.attempts,
  events: a.events + b.events,
  logs: a.logs + b.logs,
  intents: a.intents + b.intents,
  permits: a.permits + b.permits
})

/** Deletes rows that are locked, or halves of them until the row is found that the database wants to keep. */
export const deleteAll = <R>(
  kind: Skipped["kind"],
  ids: ReadonlyArray<string>,
  self: (ids: ReadonlyArray<string>) => Effect.Effect<Deleted, QueryFailed | SqlError, R>
): Effect.Effect<Pick<Batch, "deleted" | "skipped">, WriteReason, R | SqlClient> =>
  ids.length === 0
    ? Effect.succeed({ deleted: nothing, skipped: [] })
    : transaction(self(ids)).pipe(
        Effect.map((deleted) => ({ deleted, skipped: [] })),
        Effect.catchIf(isPoisoned, (reason) => {
          const [id] = ids
          if (id !== undefined && ids.length === 1) {
            return Effect.succeed({ deleted: nothing, skipped: [{ kind, id, reason }] })
          }
          const half = Math.ceil(ids.length / 2)
          return Effect.zipWith(
            deleteAll(kind, ids.slice(0, half), self),
            deleteAll(kind, ids.slice(half), self),
            (a, b) => ({ deleted: sum(a.deleted, b.deleted), skipped: [...a.skipped, ...b.skipped] })
          )
        })
      )

/**
 * Runs a batch of several statements in a transaction of our own, or a savepoint of the caller's. `self` is told how to give the
 * caller's `lock_timeout` back.
 */
export const inBatch = <A, E, R>(
  self: Effect.Effect<readonly [A, timeout: string], E | SqlError | NotReadCommitted, R>
) =>
  Effect.gen(function* () {
    const sql = yield* Sql.client
    const joined = yield* Sql.inTransaction(sql)
    return yield* transaction(
      Effect.gen(function* () {
        // what an application has deferred is told by the statement that it refuses, not by the commit of the whole
        if (!joined) yield* sql`SET CONSTRAINTS ALL IMMEDIATE`
        const [result, timeout] = yield* self
        if (joined) yield* sql`SELECT set_config('lock_timeout', ${timeout}, true)`
        return result
      })
    )
  })
