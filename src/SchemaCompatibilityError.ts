/**
 * Why the schema cannot be used: one tagged class per reason.
 *
 * Each has a stable `code` and a message that says what is wrong and what to do. What the database said is kept in
 * `source`, which never formats: no printed form of an error shows a statement or a parameter.
 */
import * as Data from "effect/Data"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type { SqlError } from "effect/sql/SqlError"

type Source = Redacted.Redacted<SqlError> | undefined

/** A migration, as errors and results name it. */
export const MigrationName = Schema.Struct({ id: Schema.Int, name: Schema.String })
export type MigrationName = typeof MigrationName.Type

/** What kinds of objects the schema consists of. */
export const ObjectKind = Schema.Literals([
  "domain",
  "table",
  "column",
  "constraint",
  "index",
  "function",
  "trigger",
  "view"
])
export type ObjectKind = typeof ObjectKind.Type

/**
 * One object that is not as the migrations make it.
 *
 * Columns, constraints, indexes and triggers are named with their table: `job_queue.stage`. A table that is missing
 * stands for everything on it.
 */
export const Difference = Schema.Struct({
  kind: ObjectKind,
  name: Schema.String,
  /** The definition that the migrations lead to. */
  expected: Schema.String,
  /** The definition in the database, or `null` if there is no such object. */
  actual: Schema.NullOr(Schema.String)
})
export type Difference = typeof Difference.Type

const listed = (migrations: ReadonlyArray<MigrationName>) =>
  migrations.map((migration) => `${migration.id} (${migration.name})`).join(", ")

const withState = (text: string, sqlState: string | undefined) =>
  sqlState === undefined ? text : `${text} (SQLSTATE ${sqlState})`

/** The schema `runledger` or its migration history does not exist in this database. */
export class HistoryMissing extends Schema.TaggedError<HistoryMissing>("effect-runledger/HistoryMissing")(
  "HistoryMissing",
  {}
) {
  readonly code = "schema.history_missing"
  override get message(): string {
    return "The schema runledger is not installed in this database. Run Migrator.migrate, or apply Migrator.statements"
  }
}

/** The migration history is not what the migrations write: another shape, another name, an impossible id. */
export class HistoryMalformed extends Schema.TaggedError<HistoryMalformed>("effect-runledger/HistoryMalformed")(
  "HistoryMalformed",
  { problem: Schema.String }
) {
  readonly code = "schema.history_malformed"
  source: Source
  override get message(): string {
    return `runledger.migration_history is damaged: ${this.problem}. Restore it from a backup or a healthy database`
  }
}

/** A migration that comes before an applied one is not applied; migrations apply in order and are never skipped. */
export class HistoryGap extends Schema.TaggedError<HistoryGap>("effect-runledger/HistoryGap")("HistoryGap", {
  missing: Schema.Array(Schema.Int),
  latest: Schema.Int
}) {
  readonly code = "schema.history_gap"
  override get message(): string {
    return (
      `Migration ${this.latest} is applied, but not ${this.missing.join(", ")} before it. ` +
      "Restore runledger.migration_history, or the database, from a backup"
    )
  }
}

/** Migrations of this release are not applied yet. */
export class MigrationsPending extends Schema.TaggedError<MigrationsPending>("effect-runledger/MigrationsPending")(
  "MigrationsPending",
  { pending: Schema.Array(MigrationName) }
) {
  readonly code = "schema.migrations_pending"
  override get message(): string {
    return `Not applied yet: migration ${listed(this.pending)}. Run Migrator.migrate, or apply their statements`
  }
}

/** A newer release applied migrations that this release must not run on. */
export class UnknownBreakingMigration extends Schema.TaggedError<UnknownBreakingMigration>(
  "effect-runledger/UnknownBreakingMigration"
)("UnknownBreakingMigration", { migrations: Schema.Array(MigrationName) }) {
  readonly code = "schema.unknown_breaking_migration"
  override get message(): string {
    return (
      `A newer release changed the schema in a way that this release does not know: migration ` +
      `${listed(this.migrations)}. Deploy that release here`
    )
  }
}

/** A migration was applied with another text than the one of this release. */
export class ChecksumMismatch extends Schema.TaggedError<ChecksumMismatch>("effect-runledger/ChecksumMismatch")(
  "ChecksumMismatch",
  { id: Schema.Int, name: Schema.String, expected: Schema.String, actual: Schema.String }
) {
  readonly code = "schema.checksum_mismatch"
  override get message(): string {
    return (
      `Migration ${this.id} (${this.name}) was applied with another text: its checksum is ${this.actual}, ` +
      `this release has ${this.expected}. Deploy the release that applied it, or restore the database`
    )
  }
}

/** Objects of the schema are missing or not as the migrations make them; `differences` has every one of them. */
export class SchemaDrift extends Schema.TaggedError<SchemaDrift>("effect-runledger/SchemaDrift")("SchemaDrift", {
  differences: Schema.Array(Difference)
}) {
  readonly code = "schema.drift"
  override get message(): string {
    const lines = this.differences.map(({ kind, name, expected, actual }) => {
      if (actual === null) return `${kind} ${name} is missing`
      // whole functions and views would bury the rest
      if (`${expected}${actual}`.includes("\n")) return `${kind} ${name} has another definition`
      return `${kind} ${name} should be: ${expected}; it is: ${actual}`
    })
    return (
      `The schema runledger is not as its migrations make it (${lines.length === 1 ? "1 difference" : `${lines.length} differences`}). ` +
      `Undo what was changed by hand:\n${lines.map((line) => `- ${line}`).join("\n")}`
    )
  }
}

/** Rows with an idempotency key but without the request that the key stands for; their keys cannot be compared. */
export class KeyedRowsWithoutSnapshot extends Schema.TaggedError<KeyedRowsWithoutSnapshot>(
  "effect-runledger/KeyedRowsWithoutSnapshot"
)("KeyedRowsWithoutSnapshot", { jobCount: Schema.Int, workflowCount: Schema.Int }) {
  readonly code = "schema.keyed_rows_without_snapshot"
  override get message(): string {
    return (
      `${this.jobCount} jobs and ${this.workflowCount} workflow runs have an idempotency key but no request snapshot. ` +
      "Store their requests, remove their keys, or delete them"
    )
  }
}

/** The role of this connection lacks a privilege. */
export class InsufficientPrivilege extends Schema.TaggedError<InsufficientPrivilege>(
  "effect-runledger/InsufficientPrivilege"
)("InsufficientPrivilege", {
  during: Schema.Literals(["migrate", "verify"]),
  sqlState: Schema.optional(Schema.String)
}) {
  readonly code = "schema.insufficient_privilege"
  source: Source
  override get message(): string {
    return this.during === "verify"
      ? "The database role may not read the schema. Grant it USAGE on the schema runledger and SELECT on its tables"
      : "The database role may not change the schema. Migrate as the owner of the schema runledger; " +
          "the first time the role needs CREATE on the database"
  }
}

/** Other sessions kept locks on the schema, or kept changing it, for longer than was waited. Nothing was written. */
export class SchemaBusy extends Schema.TaggedError<SchemaBusy>("effect-runledger/SchemaBusy")("SchemaBusy", {
  attempts: Schema.Int
}) {
  readonly code = "schema.busy"
  source: Source
  override get message(): string {
    return (
      `Other sessions held locks on the schema runledger, or changed it, during ${this.attempts} attempts. ` +
      "Try again when they are done"
    )
  }
}

/** Called inside a transaction of the caller; nothing was done, and that transaction can go on. */
export class InsideTransaction extends Schema.TaggedError<InsideTransaction>("effect-runledger/InsideTransaction")(
  "InsideTransaction",
  {}
) {
  readonly code = "schema.inside_transaction"
  override get message(): string {
    return "Migrations and their verification need transactions of their own. Call Migrator outside of a transaction"
  }
}

/** A statement of a migration failed; the whole run was rolled back and left nothing behind. */
export class MigrationFailed extends Schema.TaggedError<MigrationFailed>("effect-runledger/MigrationFailed")(
  "MigrationFailed",
  {
    id: Schema.Int,
    name: Schema.String,
    /** Which of the migration's statements, from 0; their number stands for the insert into the history. */
    statement: Schema.Int,
    sqlState: Schema.optional(Schema.String)
  }
) {
  readonly code = "schema.migration_failed"
  source: Source
  override get message(): string {
    return withState(
      `Statement ${this.statement} of migration ${this.id} (${this.name}) failed, and nothing was applied. ` +
        "Remove what is in its way, or see source",
      this.sqlState
    )
  }
}

/** The database could not be reached, or failed in a way that no other reason names. */
export class DatabaseFailure extends Schema.TaggedError<DatabaseFailure>("effect-runledger/DatabaseFailure")(
  "DatabaseFailure",
  { sqlState: Schema.optional(Schema.String) }
) {
  readonly code = "schema.database_failure"
  source: Source
  override get message(): string {
    return withState("The database did not answer as expected. Check the connection and try again", this.sqlState)
  }
}

type HistoryReason =
  | HistoryMalformed
  | HistoryGap
  | UnknownBreakingMigration
  | ChecksumMismatch
  | KeyedRowsWithoutSnapshot
  | InsufficientPrivilege
  | SchemaBusy
  | InsideTransaction
  | DatabaseFailure

/** What applying the migrations can fail with. */
export type MigrateReason = HistoryReason | MigrationFailed

/** What verifying the schema can fail with. */
export type VerifyReason = HistoryReason | HistoryMissing | MigrationsPending | SchemaDrift

/** Every reason. */
export type SchemaCompatibilityReason = MigrateReason | VerifyReason

/**
 * This release cannot run on this schema; `reason` says why.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Migrator } from "effect-runledger"
 *
 * // wait for the deployment that migrates, fail on everything else
 * const ready = Migrator.ensureSchemaCompatible.pipe(
 *   Effect.as(true),
 *   Effect.catchReason("SchemaCompatibilityError", "MigrationsPending", () => Effect.succeed(false))
 * )
 * ```
 */
export class SchemaCompatibilityError<
  out R extends SchemaCompatibilityReason = SchemaCompatibilityReason
> extends Data.TaggedError("SchemaCompatibilityError")<{ readonly reason: SchemaCompatibilityReason }> {
  declare readonly reason: R

  constructor(fields: { readonly reason: R }) {
    super(fields)
  }

  /** The stable code of the reason. */
  get code(): R["code"] {
    return this.reason.code
  }

  override get message(): string {
    return `${this.reason.message} (${this.reason.code})`
  }
}
