/**
 * The record of what was applied, and what may be concluded from it.
 */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import { isSqlError, type SqlError } from "effect/sql/SqlError"
import type { Migration } from "../../migrations/Migration.ts"
import * as Sql from "../internal/sql.ts"
import { sqlState, withSource } from "../internal/sqlState.ts"
import {
  ChecksumMismatch,
  HistoryGap,
  HistoryMalformed,
  UnknownBreakingMigration
} from "../SchemaCompatibilityError.ts"

/** Makes the place for migrations; harmless when it is there. */
export const bootstrap = {
  schema: "CREATE SCHEMA IF NOT EXISTS runledger",
  history: `CREATE TABLE IF NOT EXISTS runledger.migration_history (
  id integer NOT NULL,
  name text NOT NULL,
  checksum text NOT NULL,
  breaking boolean NOT NULL,
  applied_at timestamptz NOT NULL,
  CONSTRAINT pk_migration_history PRIMARY KEY (id)
)`
} as const

/** The fingerprint of everything that a migration says; a released migration never changes it. */
export const checksum = ({ id, name, breaking, statements }: Migration): string =>
  createHash("sha256")
    .update(JSON.stringify([id, name, breaking, statements]))
    .digest("hex")

const literal = (text: string) => `'${text.replaceAll("'", "''")}'`

/** The statement that records a migration, the same text whether we run it or somebody else does. */
export const record = (migration: Migration): string =>
  `INSERT INTO runledger.migration_history (id, name, checksum, breaking, applied_at)
VALUES (${migration.id}, ${literal(migration.name)}, ${literal(checksum(migration))}, ${migration.breaking}, statement_timestamp())`

/** Everything that leads from an empty database to `migrations`, history included. */
export const statements = (migrations: ReadonlyArray<Migration>): ReadonlyArray<string> => [
  bootstrap.schema,
  bootstrap.history,
  ...migrations.flatMap((migration) => [...migration.statements, record(migration)])
]

const HistoryRow = Schema.Struct({
  id: Schema.Int,
  name: Schema.String,
  checksum: Schema.String,
  breaking: Schema.Boolean
})

/** One applied migration, ours or a newer release's. */
export type HistoryRow = typeof HistoryRow.Type

/** What is there of the place for migrations; asked without privileges on it. */
export const present: Effect.Effect<{ readonly schema: boolean; readonly history: boolean }, SqlError, SqlClient> =
  Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT c.oid AS history
      FROM pg_catalog.pg_namespace n
      LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'migration_history'
      WHERE n.nspname = 'runledger'
    `
    return { schema: rows.length > 0, history: rows.some((row) => row.history !== null) }
  })

const decode = Schema.decodeUnknownEffect(Schema.Array(HistoryRow))

// undefined column, undefined table, wrong object type, no such cast
const anotherShape = new Set(["42703", "42P01", "42809", "42846"])

/** The history in order of ids. Needs SELECT on it. */
export const read: Effect.Effect<ReadonlyArray<HistoryRow>, HistoryMalformed | SqlError, SqlClient> = Effect.gen(
  function* () {
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT id, name, checksum, breaking
      FROM runledger.migration_history
      ORDER BY id
    `
    return yield* decode(rows)
  }
).pipe(
  Effect.mapError((error) => {
    if (!isSqlError(error)) {
      return new HistoryMalformed({ problem: "its columns have other types" })
    }
    return anotherShape.has(sqlState(error) ?? "")
      ? withSource(new HistoryMalformed({ problem: "its columns have other names" }), error)
      : error
  })
)

/**
 * Which of our migrations are still to be applied, or why this release must not touch the schema: a migration of ours
 * was applied with another text, one was skipped, or a newer release made a breaking change. Additive migrations of a
 * newer release are fine.
 */
export const judge = Effect.fnUntraced(function* (
  migrations: ReadonlyArray<Migration>,
  history: ReadonlyArray<HistoryRow>
): Effect.fn.Return<
  ReadonlyArray<Migration>,
  HistoryMalformed | HistoryGap | ChecksumMismatch | UnknownBreakingMigration
> {
  const applied = new Map(history.map((row) => [row.id, row]))
  const known = new Set(migrations.map((migration) => migration.id))

  const [first] = history
  if (first !== undefined && first.id < 1) {
    return yield* new HistoryMalformed({ problem: `it has a migration ${first.id}, and they are numbered from 1` })
  }
  for (const migration of migrations) {
    const row = applied.get(migration.id)
    if (row === undefined) continue
    const expected = checksum(migration)
    if (row.checksum !== expected) {
      return yield* new ChecksumMismatch({ id: row.id, name: migration.name, expected, actual: row.checksum })
    }
    if (row.name !== migration.name || row.breaking !== migration.breaking) {
      return yield* new HistoryMalformed({ problem: `the name or the kind of migration ${row.id} was changed` })
    }
  }
  const unknown = history.filter((row) => !known.has(row.id))
  const breaking = unknown.filter((row) => row.breaking)
  if (breaking.length > 0) {
    return yield* new UnknownBreakingMigration({ migrations: breaking.map(({ id, name }) => ({ id, name })) })
  }
  const latest = history.at(-1)?.id ?? 0
  const missing = Array.from({ length: latest }, (_, index) => index + 1).filter((id) => !applied.has(id))
  if (missing.length > 0) {
    return yield* new HistoryGap({ missing, latest })
  }
  return migrations.filter((migration) => !applied.has(migration.id))
})

/** Whether nothing was applied between two readings. */
export const isSame = (before: ReadonlyArray<HistoryRow>, after: ReadonlyArray<HistoryRow>): boolean =>
  before.length === after.length &&
  before.every((row, index) => row.id === after[index]?.id && row.checksum === after[index].checksum)
