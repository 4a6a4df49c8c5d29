import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { migrations } from "../migrations/index.ts"
import * as Migrator from "../src/Migrator.ts"
import { apply } from "../src/migrator/apply.ts"
import { manifest } from "../src/migrator/manifest.generated.ts"
import { verify } from "../src/migrator/verify.ts"
import { impatient, newer } from "./support/migrations.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const run = Effect.fnUntraced(function* (statements: ReadonlyArray<string>) {
  const sql = yield* SqlClient
  yield* Effect.forEach(statements, (statement) => sql.unsafe(statement).unprepared)
})

const both = Effect.gen(function* () {
  return {
    migrate: yield* Effect.flip(Migrator.migrate),
    verify: yield* Effect.flip(Migrator.ensureSchemaCompatible)
  }
})

const until = Effect.fnUntraced(function* (condition: string) {
  const sql = yield* SqlClient
  yield* sql
    .unsafe(`SELECT WHERE ${condition}`)
    .pipe(Effect.repeat({ until: (rows) => rows.length > 0, schedule: Schedule.spaced("20 millis") }))
})

const nextId = migrations.length + 1

it.effect("an empty database has no history", () =>
  Effect.gen(function* () {
    const error = yield* Effect.flip(Migrator.ensureSchemaCompatible)
    assert.strictEqual(error.code, "schema.history_missing")
    yield* run(["CREATE SCHEMA runledger"])
    assert.strictEqual((yield* Effect.flip(Migrator.ensureSchemaCompatible)).code, "schema.history_missing")
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect.each([
  {
    title: "a changed checksum",
    change: "UPDATE runledger.migration_history SET checksum = 'another' WHERE id = 2",
    code: "schema.checksum_mismatch",
    says: "Migration 2 (job_logs) was applied with another text: its checksum is another"
  },
  {
    title: "a changed name",
    change: "UPDATE runledger.migration_history SET name = 'another' WHERE id = 2",
    code: "schema.history_malformed",
    says: "migration 2"
  },
  {
    title: "a changed kind",
    change: "UPDATE runledger.migration_history SET breaking = true WHERE id = 2",
    code: "schema.history_malformed",
    says: "migration 2"
  },
  {
    title: "a skipped migration",
    change: "DELETE FROM runledger.migration_history WHERE id = 1",
    code: "schema.history_gap",
    says: "not 1 before it"
  },
  {
    title: "a skipped migration of a newer release",
    change: "INSERT INTO runledger.migration_history VALUES (50, 'later', '0', false, now())",
    code: "schema.history_gap",
    says: `not ${nextId}, `
  },
  {
    title: "an impossible number",
    change: "INSERT INTO runledger.migration_history VALUES (0, 'early', '0', false, now())",
    code: "schema.history_malformed",
    says: "migration 0"
  },
  {
    title: "a history without checksums",
    change: "ALTER TABLE runledger.migration_history DROP COLUMN checksum",
    code: "schema.history_malformed",
    says: "other names"
  },
  {
    title: "a history of other types",
    change: "ALTER TABLE runledger.migration_history ALTER COLUMN id TYPE text",
    code: "schema.history_malformed",
    says: "other types"
  },
  {
    title: "something else in the place of the history",
    change: "ALTER TABLE runledger.migration_history RENAME TO old; CREATE SEQUENCE runledger.migration_history",
    code: "schema.history_malformed",
    says: "other"
  },
  {
    title: "an unknown breaking migration",
    change: `INSERT INTO runledger.migration_history VALUES (${nextId}, 'later', '0', true, now())`,
    code: "schema.unknown_breaking_migration",
    says: `${nextId} (later)`
  }
])("$title is refused by both entry points", ({ change, code, says }) =>
  Effect.gen(function* () {
    yield* run(change.split("; "))
    for (const error of Object.values(yield* both)) {
      assert.strictEqual(error.code, code)
      assert.strictEqual(error.reason.code, code)
      assert.include(error.message, says)
    }
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("an unknown additive migration is fine", () =>
  Effect.gen(function* () {
    yield* run([`INSERT INTO runledger.migration_history VALUES (${nextId}, 'later', '0', false, now())`])
    yield* Migrator.ensureSchemaCompatible
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [] })
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("a migration that is not applied is pending", () =>
  Effect.gen(function* () {
    const { id, name, statements } = migrations.at(-1) ?? assert.fail("there are no migrations")
    const created = (pattern: RegExp) => statements.flatMap((statement) => pattern.exec(statement)?.[1] ?? [])
    yield* run([
      `DELETE FROM runledger.migration_history WHERE id = ${id}`,
      // an index of a table of its own goes with that
      ...created(/^CREATE INDEX (\S+)/).map((index) => `DROP INDEX runledger.${index}`),
      ...created(/^CREATE TABLE (\S+)/).map((table) => `DROP TABLE ${table}`)
    ])
    const error = yield* Effect.flip(Migrator.ensureSchemaCompatible)
    assert.strictEqual(error.code, "schema.migrations_pending")
    assert.include(error.message, `${id} (${name})`)
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [{ id, name }] })
    yield* Migrator.ensureSchemaCompatible
  }).pipe(Effect.provide(TestDatabase.layer))
)

const rule = "CHECK (idempotency_key IS NULL OR enqueue_request IS NOT NULL) NOT VALID"
const constraint = "ck_job_queue_idempotency_enqueue_request"

it.effect("keyed rows without a snapshot are counted, and once they are gone their constraint is validated", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const validated = Effect.map(
      sql<{ convalidated: boolean }>`SELECT convalidated FROM pg_constraint WHERE conname = ${constraint}`,
      ([row]) => row?.convalidated
    )
    yield* run([
      `ALTER TABLE runledger.job_queue DROP CONSTRAINT ${constraint}`,
      `INSERT INTO runledger.job_queue (job_type, max_attempts, next_run_at, idempotency_key, created_at, updated_at)
       SELECT 'a', 3, now(), 'key ' || n, now(), now()
       FROM generate_series(1, 3) n`,
      `ALTER TABLE runledger.job_queue ADD CONSTRAINT ${constraint} ${rule}`
    ])
    for (const error of Object.values(yield* both)) {
      assert.strictEqual(error.code, "schema.keyed_rows_without_snapshot")
      assert.include(error.message, "3 jobs and 0 workflow runs")
      assert.deepInclude({ ...error.reason }, { jobCount: 3, workflowCount: 0 })
    }
    yield* run(["UPDATE runledger.job_queue SET enqueue_request = '{}' WHERE idempotency_key <> 'key 1'"])
    assert.include((yield* both).migrate.message, "1 jobs")

    yield* run(["UPDATE runledger.job_queue SET idempotency_key = NULL WHERE idempotency_key = 'key 1'"])
    // verification only reads
    yield* Migrator.ensureSchemaCompatible
    assert.isFalse(yield* validated)
    yield* Migrator.migrate
    assert.isTrue(yield* validated)
    yield* Migrator.ensureSchemaCompatible
  }).pipe(Effect.provide(TestDatabase.layer))
)

const role = Effect.fnUntraced(function* (grants: (name: string) => ReadonlyArray<string>) {
  const sql = yield* SqlClient
  const name = `reader_${crypto.randomUUID().replaceAll("-", "")}`
  yield* Effect.acquireRelease(sql`CREATE ROLE ${sql(name)}`, () =>
    run([`DROP OWNED BY ${name}`, `DROP ROLE ${name}`]).pipe(Effect.provideService(SqlClient, sql), Effect.orDie)
  )
  yield* run(grants(name))
  const [row] = yield* sql<{ database: string }>`SELECT current_database()::text AS database`
  return TestDatabase.client(row?.database ?? "", { maxConnections: 1, startupParameters: { role: name } })
})

it.effect("USAGE and SELECT suffice to verify, also before the constraint of the cut-over is validated", () =>
  Effect.gen(function* () {
    const reader = yield* role((name) => [
      `GRANT USAGE ON SCHEMA runledger TO ${name}`,
      `GRANT SELECT ON ALL TABLES IN SCHEMA runledger TO ${name}`
    ])
    const user = SqlClient.use((sql) => sql<{ user: string }>`SELECT current_user::text AS user`)
    const [row] = yield* user.pipe(Effect.provide(reader))
    assert.match(row?.user ?? "", /^reader_/)
    yield* Migrator.ensureSchemaCompatible.pipe(Effect.provide(reader))
    assert.deepStrictEqual(yield* Migrator.migrate.pipe(Effect.provide(reader)), { applied: [] })

    yield* run([
      `ALTER TABLE runledger.job_queue DROP CONSTRAINT ${constraint}`,
      `ALTER TABLE runledger.job_queue ADD CONSTRAINT ${constraint} ${rule}`
    ])
    yield* Migrator.ensureSchemaCompatible.pipe(Effect.provide(reader))
    const error = yield* Effect.flip(Migrator.migrate).pipe(Effect.provide(reader))
    assert.strictEqual(error.code, "schema.insufficient_privilege")
  }).pipe(Effect.scoped, Effect.provide(TestDatabase.layer))
)

it.effect("a role that may not read is told what it needs", () =>
  Effect.gen(function* () {
    const nobody = yield* role(() => [])
    const verified = yield* Effect.flip(Migrator.ensureSchemaCompatible).pipe(Effect.provide(nobody))
    assert.strictEqual(verified.code, "schema.insufficient_privilege")
    assert.include(verified.message, "USAGE on the schema runledger and SELECT")
    yield* run(["DROP SCHEMA runledger CASCADE"])
    const migrated = yield* Effect.flip(Migrator.migrate).pipe(Effect.provide(nobody))
    assert.strictEqual(migrated.code, "schema.insufficient_privilege")
    assert.include(migrated.message, "CREATE on the database")
  }).pipe(Effect.scoped, Effect.provide(TestDatabase.layer))
)

it.effect("the owner of an existing schema needs no right to create schemas", () =>
  Effect.gen(function* () {
    const owner = yield* role((name) => [`CREATE SCHEMA runledger AUTHORIZATION ${name}`])
    yield* Migrator.migrate.pipe(Effect.provide(owner))
    yield* Migrator.ensureSchemaCompatible.pipe(Effect.provide(owner))
  }).pipe(Effect.scoped, Effect.provide(TestDatabase.layerEmpty))
)

const waiting = "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'runledger.job_queue'::regclass)"
const patient = { lockTimeout: 30_000, attempts: 1000, pause: "10 millis" } as const

it.live(
  "a migration that commits while the catalog is read is noticed, although it changes nothing that is compared",
  () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const fiber = yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`LOCK TABLE runledger.job_queue`
          // on another connection, because a child does not join the transaction
          const fiber = yield* Effect.forkDetach(
            Effect.flip(verify(migrations, manifest, patient)).pipe(Effect.provide(yield* another))
          )
          yield* until(waiting)
          yield* run([`INSERT INTO runledger.migration_history VALUES (${nextId}, 'later', '0', true, now())`])
          return fiber
        })
      )
      assert.strictEqual((yield* Fiber.join(fiber)).code, "schema.unknown_breaking_migration")
    }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("an index that is made anew while the catalog is read is not taken for missing", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const fiber = yield* sql.withTransaction(
      Effect.gen(function* () {
        yield* sql`LOCK TABLE runledger.job_queue`
        const fiber = yield* Effect.forkDetach(
          verify(migrations, manifest, patient).pipe(Effect.provide(yield* another))
        )
        yield* until(waiting)
        const name = "idx_job_queue_organization"
        yield* run([`DROP INDEX runledger.${name}`, manifest.index[`job_queue.${name}`] ?? ""])
        return fiber
      })
    )
    yield* Fiber.join(fiber)
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("waits for a migration that holds a table, attempt by attempt, and not for ever", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const fiber = yield* sql.withTransaction(
      Effect.gen(function* () {
        yield* run([
          "ALTER TABLE runledger.job_queue ADD COLUMN later text",
          `INSERT INTO runledger.migration_history VALUES (${nextId}, 'later', '0', false, now())`
        ])
        const other = yield* another
        const error = yield* Effect.flip(verify(migrations, manifest, impatient)).pipe(Effect.provide(other))
        assert.strictEqual(error.code, "schema.busy")
        assert.include(error.message, "3 attempts")
        const fiber = yield* Effect.forkDetach(
          verify(migrations, manifest, { ...patient, lockTimeout: 50 }).pipe(Effect.provide(other))
        )
        yield* until(waiting)
        yield* Effect.sleep("200 millis")
        return fiber
      })
    )
    yield* Fiber.join(fiber)
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("waits for the migrations that it finds pending, if they are being applied", () =>
  Effect.gen(function* () {
    const next = newer({ breaking: false, statements: ["SELECT pg_sleep(2)"] })
    const migrating = yield* Effect.forkChild(apply(next))
    yield* until("EXISTS (SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(2)' AND state = 'active')")
    assert.strictEqual((yield* Effect.flip(verify(next, manifest, impatient))).code, "schema.busy")
    yield* verify(next, manifest, patient)
    yield* Fiber.join(migrating)
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("other objects of the schema may come and go meanwhile", () =>
  Effect.gen(function* () {
    const churn = run([
      "CREATE TABLE runledger.mine (id int DEFAULT 1 CHECK (id > 0), note text)",
      "CREATE INDEX mine_note ON runledger.mine (note) WHERE id > 0",
      "CREATE VIEW runledger.my_view AS SELECT id FROM runledger.mine",
      "CREATE FUNCTION runledger.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
      "DROP FUNCTION runledger.mine()",
      "DROP VIEW runledger.my_view",
      "DROP INDEX runledger.mine_note",
      "DROP TABLE runledger.mine"
    ]).pipe(Effect.forever)
    const fiber = yield* Effect.forkChild(churn)
    yield* Effect.forEach(Array.from({ length: 60 }), () => verify(migrations, manifest, patient))
    yield* Fiber.interrupt(fiber)
  }).pipe(Effect.provide(TestDatabase.layer))
)

const another = SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database()::text AS name`).pipe(
  Effect.map(([row]) => TestDatabase.client(row?.name ?? "", { maxConnections: 1 }))
)
