import { assert, it } from "@effect/vitest"
import { Array as Arr, Effect, Fiber, Layer, Schedule } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { migrations } from "../migrations/index.ts"
import * as Migrator from "../src/Migrator.ts"
import { apply } from "../src/migrator/apply.ts"
import { manifest } from "../src/migrator/manifest.generated.ts"
import { verify } from "../src/migrator/verify.ts"
import { impatient, newer } from "./support/migrations.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const schemaExists = Effect.gen(function* () {
  const sql = yield* SqlClient
  const rows = yield* sql`SELECT FROM pg_namespace WHERE nspname = 'runledger'`
  return rows.length > 0
})

const history = Effect.gen(function* () {
  const sql = yield* SqlClient
  const rows = yield* sql<{ id: number }>`SELECT id FROM runledger.migration_history ORDER BY id`
  return rows.map((row) => row.id)
})

const ids = migrations.map((migration) => migration.id)
const nextId = migrations.length + 1

it.effect("applies everything once, then nothing", () =>
  Effect.gen(function* () {
    const { applied } = yield* Migrator.migrate
    assert.deepStrictEqual(
      applied,
      migrations.map(({ id, name }) => ({ id, name }))
    )
    yield* Migrator.ensureSchemaCompatible
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [] })
    assert.deepStrictEqual(yield* history, ids)
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("validates the constraint of the cut-over", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* Migrator.migrate
    const rows = yield* sql<{ conname: string }>`SELECT conname FROM pg_constraint WHERE NOT convalidated`
    assert.deepStrictEqual(rows, [])
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect.each([{ isolation: "read committed" }, { isolation: "repeatable read" }, { isolation: "serializable" }])(
  "twenty processes start at once on an empty database, default isolation $isolation",
  ({ isolation }) =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: false })
      const results = yield* Effect.forEach(
        Arr.range(1, 20),
        () =>
          Effect.andThen(Migrator.migrate, (migrated) => Effect.as(Migrator.ensureSchemaCompatible, migrated)).pipe(
            Effect.provide(
              TestDatabase.client(database, {
                maxConnections: 1,
                startupParameters: { default_transaction_isolation: isolation, lock_timeout: "1" }
              })
            )
          ),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(
        results.flatMap(({ applied }) => applied.map(({ id }) => id)).sort((a, b) => a - b),
        ids
      )
    })
)

it.effect("twenty fibers start at once on one client that shares its connections", () =>
  Effect.gen(function* () {
    const results = yield* Effect.all(
      Arr.makeBy(20, () => Effect.tap(Migrator.migrate, Migrator.ensureSchemaCompatible)),
      { concurrency: "unbounded" }
    )
    assert.deepStrictEqual(
      results.flatMap(({ applied }) => applied.map(({ id }) => id)),
      ids
    )
  }).pipe(
    Effect.provide(
      Layer.unwrap(
        Effect.map(TestDatabase.create({ migrated: false }), (database) =>
          TestDatabase.client(database, { maxConnections: 3, multiplex: true })
        )
      )
    )
  )
)

it.effect("the settings of the session stay as they are", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* Migrator.migrate
    yield* Migrator.ensureSchemaCompatible
    const [settings] = yield* sql`
      SELECT
        current_setting('transaction_isolation') AS isolation,
        current_setting('transaction_read_only') AS read_only,
        current_setting('search_path') AS search_path,
        current_setting('lock_timeout') AS lock_timeout,
        current_setting('statement_timeout') AS statement_timeout
    `
    assert.deepStrictEqual(settings, {
      isolation: "serializable",
      read_only: "on",
      search_path: "somewhere",
      lock_timeout: "1234ms",
      statement_timeout: "2345ms"
    })
  }).pipe(
    Effect.provide(
      Layer.unwrap(
        Effect.map(TestDatabase.create({ migrated: false }), (database) =>
          TestDatabase.client(database, {
            maxConnections: 1,
            startupParameters: {
              default_transaction_isolation: "serializable",
              default_transaction_read_only: "on",
              standard_conforming_strings: "off",
              search_path: "somewhere",
              lock_timeout: "1234",
              statement_timeout: "2345"
            }
          })
        )
      )
    )
  )
)

it.effect("statements, run by hand, lead to a schema that is verified, and that migrate takes over", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* Effect.forEach(Migrator.statements, (statement) => sql.unsafe(statement).unprepared)
    yield* Migrator.ensureSchemaCompatible
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [] })
    yield* Migrator.ensureSchemaCompatible
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("migrate goes on from a schema and a history that exist but are empty", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* Effect.forEach(Migrator.statements.slice(0, 2), (statement) => sql.unsafe(statement).unprepared)
    const error = yield* Effect.flip(Migrator.ensureSchemaCompatible)
    assert.strictEqual(error.reason._tag, "MigrationsPending")
    yield* Migrator.migrate
    yield* Migrator.ensureSchemaCompatible
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("a migration that fails leaves nothing behind, not even the schema", () =>
  Effect.gen(function* () {
    const statements = ["CREATE TABLE runledger.a (id int)", "CREATE TABLE runledger.a (id int)"]
    const error = yield* Effect.flip(apply(newer({ breaking: false, statements })))
    assert.strictEqual(error.code, "schema.migration_failed")
    const { reason } = error
    if (reason._tag !== "MigrationFailed") return assert.fail(reason._tag)
    assert.deepStrictEqual(
      { ...reason, source: undefined },
      { ...reason, id: nextId, name: "next", statement: 1, sqlState: "42P07", source: undefined }
    )
    assert.isFalse(yield* schemaExists)
    yield* Migrator.migrate
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("a connection that is cut off in the middle leaves nothing behind, and is a typed failure", () =>
  Effect.gen(function* () {
    const statements = ["SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1"]
    const error = yield* Effect.flip(apply(newer({ breaking: false, statements })))
    assert.strictEqual(error.reason._tag, "DatabaseFailure")
    assert.isFalse(yield* schemaExists)
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.live("a process that is stopped in the middle leaves nothing behind", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const fiber = yield* Effect.forkChild(apply(newer({ breaking: false, statements: ["SELECT pg_sleep(60)"] })))
    yield* sql`SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'`.pipe(
      Effect.repeat({ until: (rows) => rows.length > 0, schedule: Schedule.spaced("20 millis") })
    )
    yield* Fiber.interrupt(fiber)
    assert.isFalse(yield* schemaExists)
    // and holds no lock
    yield* Migrator.migrate
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.live("waits for another run as long as that takes, whatever the limit for a table", () =>
  Effect.gen(function* () {
    const next = newer({ breaking: false, statements: ["SELECT pg_sleep(1)"] })
    const runs = Arr.makeBy(3, () => apply(next, { ...impatient, attempts: 1 }))
    const results = yield* Effect.all(runs, { concurrency: "unbounded" })
    assert.deepStrictEqual(
      results.flatMap(({ applied }) => applied),
      [{ id: nextId, name: "next" }]
    )
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("gives up an attempt that waits for a table, and makes it again", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const statements = ["CREATE TABLE runledger.a (id int)", "ALTER TABLE runledger.job_queue ADD COLUMN later text"]
    const locked = sql.withTransaction(
      Effect.gen(function* () {
        yield* sql`LOCK TABLE runledger.job_queue IN ACCESS SHARE MODE`
        const error = yield* Effect.flip(apply(newer({ breaking: false, statements }), impatient)).pipe(
          Effect.provide(TestDatabase.client(yield* currentDatabase))
        )
        assert.deepStrictEqual([error.code, error.reason._tag], ["schema.busy", "SchemaBusy"])
        assert.deepStrictEqual(yield* history, ids)
        return yield* Effect.forkDetach(
          apply(newer({ breaking: false, statements }), { lockTimeout: 50, attempts: 1000, pause: "10 millis" }).pipe(
            Effect.provide(TestDatabase.client(yield* currentDatabase))
          ),
          { startImmediately: true }
        ).pipe(Effect.tap(() => Effect.sleep("300 millis")))
      })
    )
    const { applied } = yield* Fiber.join(yield* locked)
    assert.deepStrictEqual(applied, [{ id: nextId, name: "next" }])
  }).pipe(Effect.provide(TestDatabase.layer))
)

const currentDatabase = SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database()::text AS name`).pipe(
  Effect.map(([row]) => row?.name ?? "")
)

it.effect("is refused inside a transaction, which can go on", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const [migrate, verify] = yield* sql.withTransaction(
      Effect.gen(function* () {
        const errors = [yield* Effect.flip(Migrator.migrate), yield* Effect.flip(Migrator.ensureSchemaCompatible)]
        yield* sql`SELECT 1`
        return errors
      })
    )
    assert.strictEqual(migrate?.code, "schema.inside_transaction")
    assert.strictEqual(verify?.code, "schema.inside_transaction")
    assert.isFalse(yield* schemaExists)
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("the layers migrate and verify while they are built", () =>
  Effect.gen(function* () {
    const early = yield* Effect.flip(Effect.scoped(Layer.build(Migrator.layerVerify)))
    assert.strictEqual(early.code, "schema.history_missing")
    yield* Effect.scoped(Layer.build(Migrator.layer))
    yield* Effect.scoped(Layer.build(Migrator.layerVerify))
    const sql = yield* SqlClient
    yield* sql`DROP TABLE runledger.job_logs`
    const late = yield* Effect.flip(Effect.scoped(Layer.build(Migrator.layer)))
    assert.strictEqual(late.code, "schema.drift")
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("an old release runs on a schema with a newer additive migration", () =>
  Effect.gen(function* () {
    const statements = [
      "ALTER TABLE runledger.job_queue ADD COLUMN later text",
      "CREATE TABLE runledger.later (id int)",
      "CREATE INDEX idx_job_queue_later ON runledger.job_queue (later)"
    ]
    yield* apply(newer({ breaking: false, statements }))
    yield* Migrator.ensureSchemaCompatible
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [] })
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("an old release refuses a schema with a newer breaking migration", () =>
  Effect.gen(function* () {
    // nothing that the old release could see is different
    yield* apply(newer({ breaking: true, statements: ["COMMENT ON TABLE runledger.job_queue IS 'new rules'"] }))
    for (const error of [yield* Effect.flip(Migrator.migrate), yield* Effect.flip(Migrator.ensureSchemaCompatible)]) {
      assert.strictEqual(error.code, "schema.unknown_breaking_migration")
      assert.include(error.message, `${nextId} (next)`)
    }
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("a new release refuses an old schema, and upgrades it", () =>
  Effect.gen(function* () {
    const next = newer({ breaking: false, statements: ["CREATE TABLE runledger.later (id int)"] })
    const error = yield* Effect.flip(verify(next, manifest))
    assert.strictEqual(error.code, "schema.migrations_pending")
    assert.deepStrictEqual(error.reason._tag === "MigrationsPending" ? error.reason.pending : [], [
      { id: nextId, name: "next" }
    ])
    assert.deepStrictEqual(yield* apply(next), { applied: [{ id: nextId, name: "next" }] })
    yield* verify(next, manifest)
  }).pipe(Effect.provide(TestDatabase.layer))
)
