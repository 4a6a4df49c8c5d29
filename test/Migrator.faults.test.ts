import { inspect } from "node:util"
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Fiber, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { migrations } from "../migrations/index.ts"
import * as Migrator from "../src/Migrator.ts"
import { apply } from "../src/migrator/apply.ts"
import { manifest } from "../src/migrator/manifest.generated.ts"
import { verify } from "../src/migrator/verify.ts"
import { SchemaCompatibilityError } from "../src/SchemaCompatibilityError.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { newer } from "./support/migrations.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { dropConnection, Faults } = FaultySqlClient

const schemaExists = Effect.gen(function* () {
  const { unwrapped: sql } = yield* Faults
  const rows = yield* sql`SELECT FROM pg_namespace WHERE nspname = 'runledger'`
  return rows.length > 0
})

it.effect.each<{ title: string; match: FaultySqlClient.Match; at: FaultySqlClient.At; applied: boolean }>([
  { title: "BEGIN", match: "BEGIN", at: "before", applied: false },
  { title: "the settings", match: /set_config/, at: "after", applied: false },
  { title: "the lock", match: /pg_advisory_xact_lock/, at: "after", applied: false },
  { title: "a statement", match: /CREATE TABLE runledger.job_attempts/, at: "before", applied: false },
  {
    title: "an insert into the history",
    match: /INSERT INTO runledger.migration_history/,
    at: "after",
    applied: false
  },
  { title: "COMMIT", match: "COMMIT", at: "before", applied: false },
  { title: "the answer to COMMIT", match: "COMMIT", at: "after", applied: true },
  { title: "the validation afterwards", match: /VALIDATE CONSTRAINT/, at: "before", applied: true }
])(
  "migrate fails in a typed way when the connection is lost at $title, and can be repeated",
  ({ match, at, applied }) =>
    Effect.gen(function* () {
      const faults = yield* Faults
      yield* faults.arm([{ match, fault: dropConnection(at) }])
      const error = yield* Effect.flip(Migrator.migrate)
      assert.strictEqual(error.code, "schema.database_failure")
      assert.lengthOf(yield* faults.injected, 1)
      assert.strictEqual(yield* schemaExists, applied)
      yield* Migrator.migrate
      yield* Migrator.ensureSchemaCompatible
    }).pipe(Effect.provide(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layerEmpty))))
)

it.effect.each<{ title: string; match: FaultySqlClient.Match; at: FaultySqlClient.At }>([
  { title: "BEGIN", match: "BEGIN", at: "before" },
  { title: "the history", match: /FROM runledger.migration_history/, at: "before" },
  { title: "the catalog", match: /pg_get_functiondef/, at: "after" },
  { title: "COMMIT", match: "COMMIT", at: "before" }
])("verification fails in a typed way when the connection is lost at $title", ({ match, at }) =>
  Effect.gen(function* () {
    const faults = yield* Faults
    yield* faults.arm([{ match, fault: dropConnection(at) }])
    const error = yield* Effect.flip(Migrator.ensureSchemaCompatible)
    assert.strictEqual(error.code, "schema.database_failure")
    yield* Migrator.ensureSchemaCompatible
  }).pipe(Effect.provide(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer))))
)

it.effect("a lock timeout, a deadlock and a table that vanishes are tried again", () =>
  Effect.gen(function* () {
    const faults = yield* Faults
    for (const code of ["55P03", "40P01", "XX000"]) {
      yield* faults.arm([
        { match: /pg_get_functiondef/, times: 3, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState(code)) }
      ])
      yield* Migrator.ensureSchemaCompatible
    }
    assert.lengthOf(yield* faults.injected, 9)
  }).pipe(Effect.provide(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer))))
)

it.effect.each([
  { title: "no history", database: TestDatabase.layerEmpty, next: migrations },
  {
    title: "a pending migration",
    database: TestDatabase.layer,
    next: newer({ breaking: false, statements: ["SELECT 1"] })
  }
])("$title is not reported when a run commits between the two looks", ({ database, next }) =>
  Effect.gen(function* () {
    const faults = yield* Faults
    const gate = yield* FaultySqlClient.makeGate
    // the history has been read, and whether a run is under way is about to be asked
    yield* faults.arm([{ match: /FROM pg_locks/, fault: FaultySqlClient.waitAt(gate) }])
    const verifying = yield* Effect.forkChild(verify(next, manifest))
    yield* gate.reached
    yield* apply(next).pipe(Effect.provideService(SqlClient, faults.unwrapped))
    yield* gate.open
    yield* Fiber.join(verifying)
  }).pipe(Effect.provide(FaultySqlClient.layer().pipe(Layer.provide(database))))
)

it.effect("no printed form shows what the database said, or a statement", () =>
  Effect.gen(function* () {
    const cases = [
      apply(newer({ breaking: false, statements: ["SELECT 'hunter2'::int"] })),
      apply(newer({ breaking: false, statements: ["SELECT 'hunter2', pg_terminate_backend(pg_backend_pid())"] })),
      apply(newer({ breaking: false, statements: ["SET LOCAL ROLE hunter2"] }))
    ]
    const errors = yield* Effect.forEach(cases, Effect.flip)
    assert.deepStrictEqual(
      errors.map((error) => error.reason._tag),
      ["MigrationFailed", "DatabaseFailure", "MigrationFailed"]
    )
    for (const error of errors) {
      const { reason } = error
      for (const shown of [error, reason, Cause.fail(error)]) {
        const printed = [String(shown), JSON.stringify(shown), inspect(shown, { depth: 20, showHidden: true })]
        assert.notMatch(printed.join("\n"), /hunter2|SELECT|INSERT/)
      }
      assert.notMatch(Cause.pretty(Cause.fail(error)), /hunter2|SELECT|INSERT/)
      assert.notMatch(Cause.pretty(Cause.fail(reason)), /hunter2|SELECT|INSERT/)
    }
    // whoever asks for it gets it
    const [first] = errors
    assert.instanceOf(first, SchemaCompatibilityError)
    const source = first.reason._tag === "MigrationFailed" ? first.reason.source : undefined
    assert.include(source === undefined ? "" : String(Redacted.value(source).reason.cause), "hunter2")
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)

it.effect("reasons are caught and unwrapped like those of any other error", () =>
  Effect.gen(function* () {
    const caught = yield* Migrator.ensureSchemaCompatible.pipe(
      Effect.as("fine"),
      Effect.catchReason("SchemaCompatibilityError", "HistoryMissing", (reason) => Effect.succeed(reason.code))
    )
    assert.strictEqual(caught, "schema.history_missing")
    const unwrapped = yield* Migrator.ensureSchemaCompatible.pipe(
      Effect.unwrapReason("SchemaCompatibilityError"),
      Effect.catchTag("HistoryMissing", (reason) => Effect.succeed(reason.message))
    )
    assert.include(unwrapped, "Migrator.migrate")
    yield* SqlClient
  }).pipe(Effect.provide(TestDatabase.layerEmpty))
)
