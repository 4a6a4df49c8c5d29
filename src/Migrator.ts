/**
 * Brings the schema to this release, and verifies that it is what this release expects.
 *
 * Everything lies in the schema `runledger`. What was applied is recorded in `runledger.migration_history`, with a
 * checksum of each migration's text.
 *
 * **Rolling deployments.** A migration is additive or breaking. A release runs on a schema with additive migrations that
 * it does not know, and refuses one with an unknown breaking migration. So after an additive migration old and new
 * processes run side by side; before a breaking one the old processes have to end.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { SqlClient } from "effect/sql/SqlClient"
import { migrations } from "../migrations/index.ts"
import { apply, type Migrated } from "./migrator/apply.ts"
import * as History from "./migrator/history.ts"
import { manifest } from "./migrator/manifest.generated.ts"
import { verify } from "./migrator/verify.ts"
import type { MigrateReason, SchemaCompatibilityError, VerifyReason } from "./SchemaCompatibilityError.ts"

export type { Migrated } from "./migrator/apply.ts"

/**
 * All SQL of the schema, in order, for those who let another tool run their DDL: the schema, the table of the history,
 * then each migration followed by the insert that records it. Run on an empty database, in one transaction if possible,
 * they lead to a schema that {@link ensureSchemaCompatible} accepts; `migrate` goes on from there as from its own work.
 *
 * One statement each, without the semicolon.
 *
 * @example
 * ```ts
 * import { Migrator } from "effect-runledger"
 *
 * console.log(Migrator.statements.map((statement) => `${statement};`).join("\n\n"))
 * ```
 */
export const statements: ReadonlyArray<string> = History.statements(migrations)

/**
 * Applies the migrations that are pending, all of them or none, and tells which. Nothing is pending the second time.
 *
 * **Details**
 *
 * One READ COMMITTED transaction of its own, whatever the session's default; any number of processes may call it at
 * once, and one of them applies. It waits for the others on an advisory lock, then for each table at most two seconds,
 * because whoever waits for a whole table holds up everybody after it; an attempt that had to wait longer is given up
 * and made again.
 *
 * Afterwards, keyed rows without a request snapshot are counted. If there are none, the constraints that forbid them are
 * validated, otherwise that is the failure; the migrations stay applied.
 *
 * The role must own the schema; the first time it needs CREATE on the database. If nothing is pending and all is
 * validated, SELECT on the history will do.
 *
 * **Reasons**
 *
 * - `ChecksumMismatch`, `HistoryGap`, `HistoryMalformed`: the history contradicts this release. Nothing was applied.
 * - `UnknownBreakingMigration`: a newer release was here. Nothing was applied.
 * - `MigrationFailed`: a statement failed. Nothing was applied.
 * - `KeyedRowsWithoutSnapshot`: see above.
 * - `InsufficientPrivilege`, `SchemaBusy` (other sessions held locks for too long), `DatabaseFailure`.
 * - `InsideTransaction`: called inside a transaction of this client. It would neither be READ COMMITTED for sure, nor
 *   could an attempt be given up, and the lock would be held until the caller commits.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Migrator } from "effect-runledger"
 *
 * const deploy = Effect.gen(function* () {
 *   const { applied } = yield* Migrator.migrate
 *   yield* Effect.log(`applied ${applied.length} migrations`)
 * })
 * ```
 */
export const migrate: Effect.Effect<Migrated, SchemaCompatibilityError<MigrateReason>, SqlClient> = Effect.suspend(() =>
  apply(migrations)
).pipe(Effect.withSpan("Migrator.migrate"))

/**
 * Succeeds if this release can run on the schema. Reads only: USAGE on the schema and SELECT on its tables suffice.
 *
 * **Details**
 *
 * Compares the history with the migrations of this release, then the real catalog with the one that the migrations lead
 * to: tables, columns, types, nullability, defaults, generated columns, constraints, indexes, functions, triggers,
 * views, and whether they are valid and enabled. What the application has added (an index, a foreign key, a trigger, a
 * column, a table) is left alone, as are storage parameters.
 *
 * One READ COMMITTED transaction of its own, for a consistent answer made again while migrations are being applied.
 *
 * **Reasons**
 *
 * - `HistoryMissing`: the schema is not installed.
 * - `MigrationsPending`: it is older than this release.
 * - `UnknownBreakingMigration`: it is newer, and incompatible.
 * - `ChecksumMismatch`, `HistoryGap`, `HistoryMalformed`: the history contradicts this release.
 * - `SchemaDrift`: objects were changed or dropped; lists every one of them.
 * - `KeyedRowsWithoutSnapshot`: rows from before request snapshots are left.
 * - `InsufficientPrivilege`, `SchemaBusy` (the schema kept changing), `DatabaseFailure`.
 * - `InsideTransaction`: called inside a transaction of this client, which might see an old state of the schema.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Migrator } from "effect-runledger"
 *
 * const check = Migrator.ensureSchemaCompatible.pipe(
 *   Effect.catchReason("SchemaCompatibilityError", "SchemaDrift", ({ differences }) =>
 *     Effect.logError("schema drift", differences)
 *   )
 * )
 * ```
 */
export const ensureSchemaCompatible: Effect.Effect<
  void,
  SchemaCompatibilityError<VerifyReason>,
  SqlClient
> = Effect.suspend(() => verify(migrations, manifest)).pipe(Effect.withSpan("Migrator.ensureSchemaCompatible"))

/**
 * {@link migrate}, then {@link ensureSchemaCompatible}, while the layer is built: what is provided with it starts on a
 * schema that fits.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Layer } from "effect"
 * import { Migrator } from "effect-runledger"
 *
 * const Database = Migrator.layer.pipe(Layer.provideMerge(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") })))
 * ```
 */
export const layer: Layer.Layer<
  never,
  SchemaCompatibilityError<MigrateReason | VerifyReason>,
  SqlClient
> = Layer.effectDiscard(Effect.andThen(migrate, ensureSchemaCompatible))

/**
 * {@link ensureSchemaCompatible} while the layer is built, for processes whose role may not change the schema: they start
 * once another process, or a deployment step, has migrated.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import { Config, Layer } from "effect"
 * import { Migrator } from "effect-runledger"
 *
 * const Database = Migrator.layerVerify.pipe(
 *   Layer.provideMerge(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") }))
 * )
 * ```
 */
export const layerVerify: Layer.Layer<never, SchemaCompatibilityError<VerifyReason>, SqlClient> = Layer.effectDiscard(
  ensureSchemaCompatible
)
