/**
 * Verifies a schema without changing anything.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import type { Migration } from "../../migrations/Migration.ts"
import { sqlState, withSource } from "../internal/sqlState.ts"
import {
  HistoryMissing,
  MigrationsPending,
  SchemaBusy,
  SchemaCompatibilityError,
  SchemaDrift,
  type VerifyReason
} from "../SchemaCompatibilityError.ts"
import * as Catalog from "./catalog.ts"
import * as CutOver from "./cutover.ts"
import { differences } from "./drift.ts"
import * as Failure from "./failure.ts"
import * as History from "./history.ts"
import * as Lock from "./lock.ts"
import { limitLockWaits, normalizeSession, type Patience, persist, transaction } from "./transaction.ts"

export const patience: Patience = { lockTimeout: 1000, attempts: 40, pause: "250 millis" }

/** The schema changed while it was read, or is being changed: what was seen says nothing. */
class Changing extends Data.TaggedError("Changing") {}

// A table that is dropped while one of its objects is printed makes the printing fail with an internal error.
const isDisturbed = (error: SqlError) => Failure.isLockConflict(error) || sqlState(error) === "XX000"

/** Fails with `reason`, unless a run of migrations is about to remove it, or just did. */
const unlessMigrating = Effect.fnUntraced(function* <E, E1, R1>(reason: E, unchanged: Effect.Effect<boolean, E1, R1>) {
  // in this order: a run that has let go of the lock has committed, so what it did is seen now
  const settled = !(yield* Lock.isTaken) && (yield* unchanged)
  return yield* Effect.fail(settled ? reason : new Changing())
})

const historyExists = Effect.map(History.present, ({ history }) => history)

const readHistory = Effect.gen(function* () {
  if (!(yield* historyExists)) {
    return yield* unlessMigrating(
      new HistoryMissing(),
      Effect.map(historyExists, (exists) => !exists)
    )
  }
  return yield* History.read
})

const look = Effect.fnUntraced(function* (
  migrations: ReadonlyArray<Migration>,
  manifest: Catalog.Definitions,
  lockTimeout: number
) {
  yield* normalizeSession
  // printing a definition takes a weak lock on its table, and a migration may hold the strongest
  yield* limitLockWaits(lockTimeout)

  const history = yield* readHistory
  const pending = yield* History.judge(migrations, history)
  if (pending.length > 0) {
    return yield* unlessMigrating(
      new MigrationsPending({ pending: pending.map(({ id, name }) => ({ id, name })) }),
      Effect.map(History.read, (now) => History.isSame(history, now))
    )
  }
  // The list of objects is as old as its statement, the definitions are as of now, and each statement sees what was
  // committed before it. If the history is the same afterwards, no migration came in between.
  const { definitions, vanished } = yield* Catalog.read
  const after = yield* History.read
  if (!History.isSame(history, after) || vanished.some(({ kind, name }) => Object.hasOwn(manifest[kind], name))) {
    return yield* new Changing()
  }
  const found = differences(manifest, definitions)
  if (found.length > 0) {
    return yield* new SchemaDrift({ differences: found })
  }
  yield* CutOver.ensureComplete(yield* CutOver.unvalidated)
})

/** Succeeds if `migrations` are applied unaltered and the catalog is as `manifest` says. Reads only. */
export const verify = Effect.fnUntraced(
  function* (migrations: ReadonlyArray<Migration>, manifest: Catalog.Definitions, options: Patience = patience) {
    yield* look(migrations, manifest, options.lockTimeout).pipe(
      transaction("READ ONLY"),
      persist(options, (error) => error instanceof Changing || (isSqlError(error) && isDisturbed(error)))
    )
  },
  (effect, _migrations, _manifest, options = patience) =>
    Effect.mapError(effect, (error) => {
      const busy = new SchemaBusy({ attempts: options.attempts })
      const reason: VerifyReason =
        error._tag === "Changing"
          ? busy
          : !isSqlError(error)
            ? error
            : Failure.isLockConflict(error)
              ? withSource(busy, error)
              : Failure.classify("verify")(error)
      return new SchemaCompatibilityError<VerifyReason>({ reason })
    })
)
