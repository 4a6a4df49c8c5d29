/**
 * Applies migrations.
 */
import * as Effect from "effect/Effect"
import { isSqlError } from "effect/sql/SqlError"
import type { Migration } from "../../migrations/Migration.ts"
import * as Sql from "../internal/sql.ts"
import { sqlState, withSource } from "../internal/sqlState.ts"
import {
  type MigrateReason,
  MigrationFailed,
  type MigrationName,
  SchemaBusy,
  SchemaCompatibilityError
} from "../SchemaCompatibilityError.ts"
import * as CutOver from "./cutover.ts"
import * as Failure from "./failure.ts"
import * as History from "./history.ts"
import * as Lock from "./lock.ts"
import { limitLockWaits, normalizeSession, type Patience, persist, transaction } from "./transaction.ts"

/** What a run of the migrations did. */
export interface Migrated {
  /** Empty if all were applied before. */
  readonly applied: ReadonlyArray<MigrationName>
}

export const patience: Patience = { lockTimeout: 2000, attempts: 15, pause: "500 millis" }

/** A transaction that no other run of migrations shares its time with. */
const alone =
  (patience: Patience) =>
  <A, E, R>(self: Effect.Effect<A, E, R>) =>
    Effect.gen(function* () {
      yield* normalizeSession
      yield* Lock.take
      // only now: whoever waits for another run waits as long as that takes
      yield* limitLockWaits(patience.lockTimeout)
      return yield* self
    }).pipe(transaction("READ WRITE"))

const run = Effect.fnUntraced(function* (migration: Migration) {
  const sql = yield* Sql.client
  yield* Effect.forEach([...migration.statements, History.record(migration)], (text, statement) =>
    // once only, so there is nothing to keep prepared
    sql
      .unsafe(text)
      .unprepared.pipe(
        Effect.mapError((error) =>
          Failure.isRefusedStatement(error)
            ? withSource(
                new MigrationFailed({ id: migration.id, name: migration.name, statement, sqlState: sqlState(error) }),
                error
              )
            : error
        )
      )
  )
  yield* Effect.logDebug("applied migration").pipe(Effect.annotateLogs({ id: migration.id, name: migration.name }))
  return { id: migration.id, name: migration.name }
})

const applyPending = Effect.fnUntraced(function* (migrations: ReadonlyArray<Migration>) {
  const sql = yield* Sql.client
  // looked for first: IF NOT EXISTS demands the right to create also where there is nothing to create
  const present = yield* History.present
  if (!present.schema) yield* sql.unsafe(History.bootstrap.schema).unprepared
  if (!present.history) yield* sql.unsafe(History.bootstrap.history).unprepared
  const pending = yield* History.judge(migrations, yield* History.read)
  const applied = yield* Effect.forEach(pending, run)
  return { applied, unvalidated: yield* CutOver.unvalidated }
})

/** Applies those of `migrations` that are pending, all or none, then settles the cut-over of idempotency keys. */
export const apply = Effect.fnUntraced(
  function* (migrations: ReadonlyArray<Migration>, options: Patience = patience) {
    const isConflict = (error: unknown) => isSqlError(error) && Failure.isLockConflict(error)
    const { applied, unvalidated } = yield* applyPending(migrations).pipe(alone(options), persist(options, isConflict))
    if (unvalidated.length > 0) {
      // what was applied stays applied when rows are in the way
      yield* Effect.gen(function* () {
        const tables = yield* CutOver.unvalidated
        yield* CutOver.ensureComplete(tables)
        yield* Effect.forEach(tables, CutOver.validate, { discard: true })
      }).pipe(alone(options), persist(options, isConflict))
    }
    const migrated: Migrated = { applied }
    return migrated
  },
  (effect, _, options = patience) =>
    Effect.mapError(effect, (error) => {
      if (!isSqlError(error)) return new SchemaCompatibilityError<MigrateReason>({ reason: error })
      const reason = Failure.isLockConflict(error)
        ? withSource(new SchemaBusy({ attempts: options.attempts }), error)
        : Failure.classify("migrate")(error)
      return new SchemaCompatibilityError<MigrateReason>({ reason })
    })
)
