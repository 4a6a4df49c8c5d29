import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Migrator from "../src/Migrator.ts"
import * as Catalog from "../src/migrator/catalog.ts"
import { differences } from "../src/migrator/drift.ts"
import { manifest } from "../src/migrator/manifest.generated.ts"
import { normalizeSession, transaction } from "../src/migrator/transaction.ts"
import type { Difference, ObjectKind } from "../src/SchemaCompatibilityError.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const run = Effect.fnUntraced(function* (statements: ReadonlyArray<string>) {
  const sql = yield* SqlClient
  yield* Effect.forEach(statements, (statement) => sql.unsafe(statement).unprepared)
})

const found = Migrator.ensureSchemaCompatible.pipe(
  Effect.as<ReadonlyArray<Difference>>([]),
  Effect.catchReason("SchemaCompatibilityError", "SchemaDrift", (drift) => Effect.succeed(drift.differences))
)

const catalog = transaction("READ ONLY")(Effect.andThen(normalizeSession, Catalog.read))

interface Case {
  readonly title: string
  readonly change: ReadonlyArray<string>
  readonly kind: ObjectKind
  readonly name: string
  /** What the report shows of the object that is there; absent if it is missing. */
  readonly actual?: RegExp
}

const queue = "ALTER TABLE runledger.job_queue"
const attempts = "ALTER TABLE runledger.job_attempts"

/** Each on objects of its own, so that all of them can be made at once. */
const cases: ReadonlyArray<Case> = [
  {
    title: "a missing table",
    change: ["DROP TABLE runledger.job_dead_letters"],
    kind: "table",
    name: "job_dead_letters"
  },
  {
    title: "an unlogged table",
    change: ["ALTER TABLE runledger.job_events SET UNLOGGED"],
    kind: "table",
    name: "job_events",
    actual: /^unlogged|, unlogged$/
  },
  {
    title: "a table with row security",
    change: ["ALTER TABLE runledger.job_logs ENABLE ROW LEVEL SECURITY"],
    kind: "table",
    name: "job_logs",
    actual: /row security/
  },
  {
    title: "a missing column",
    change: [`${queue} DROP COLUMN status_reason`],
    kind: "column",
    name: "job_queue.status_reason"
  },
  {
    title: "a column of another type",
    change: [`${queue} ALTER COLUMN last_error_code TYPE varchar(10)`],
    kind: "column",
    name: "job_queue.last_error_code",
    actual: /^character varying\(10\)$/
  },
  {
    title: "a column of another collation",
    change: [`${queue} ALTER COLUMN last_error_message TYPE text COLLATE "POSIX"`],
    kind: "column",
    name: "job_queue.last_error_message",
    actual: /^text COLLATE "POSIX"$/
  },
  {
    title: "a column that may be null",
    change: [`${queue} ALTER COLUMN timeout_seconds DROP NOT NULL`],
    kind: "column",
    name: "job_queue.timeout_seconds",
    actual: /^runledger\.job_queue_timeout_seconds DEFAULT 300$/
  },
  {
    title: "a column that must not be null",
    change: [`${queue} ALTER COLUMN checkpoint SET NOT NULL`],
    kind: "column",
    name: "job_queue.checkpoint",
    actual: /^jsonb NOT NULL$/
  },
  {
    title: "a missing default",
    change: [`${queue} ALTER COLUMN id DROP DEFAULT`],
    kind: "column",
    name: "job_queue.id",
    actual: /^uuid NOT NULL$/
  },
  {
    title: "another default",
    change: [`${queue} ALTER COLUMN stage SET DEFAULT 'new'`],
    kind: "column",
    name: "job_queue.stage",
    actual: /DEFAULT 'new'::text$/
  },
  {
    title: "a default where there was none",
    change: [`${queue} ALTER COLUMN created_at SET DEFAULT now()`],
    kind: "column",
    name: "job_queue.created_at",
    actual: /DEFAULT now\(\)$/
  },
  {
    title: "a generated column that has become an ordinary one",
    change: ["ALTER TABLE runledger.job_logs ALTER COLUMN id DROP IDENTITY"],
    kind: "column",
    name: "job_logs.id",
    actual: /^bigint NOT NULL$/
  },
  {
    title: "a missing check",
    change: [`${attempts} DROP CONSTRAINT chk_job_attempts_ended_as`],
    kind: "constraint",
    name: "job_attempts.chk_job_attempts_ended_as"
  },
  {
    title: "another check of the same name",
    change: [
      `${attempts} DROP CONSTRAINT chk_job_attempts_attempt_positive`,
      `${attempts} ADD CONSTRAINT chk_job_attempts_attempt_positive CHECK (attempt > -1000)`
    ],
    kind: "constraint",
    name: "job_attempts.chk_job_attempts_attempt_positive",
    actual: /1000/
  },
  {
    title: "a check that is not validated",
    change: [
      `${attempts} DROP CONSTRAINT chk_job_attempts_run_number_positive`,
      `${attempts} ADD CONSTRAINT chk_job_attempts_run_number_positive CHECK (run_number > 0) NOT VALID`
    ],
    kind: "constraint",
    name: "job_attempts.chk_job_attempts_run_number_positive",
    actual: /NOT VALID$/
  },
  {
    title: "another check than that of the cut-over",
    change: [
      `${queue} DROP CONSTRAINT ck_job_queue_idempotency_enqueue_request`,
      `${queue} ADD CONSTRAINT ck_job_queue_idempotency_enqueue_request CHECK (true) NOT VALID`
    ],
    kind: "constraint",
    name: "job_queue.ck_job_queue_idempotency_enqueue_request",
    actual: /^CHECK \(true\) NOT VALID$/
  },
  {
    title: "a missing primary key",
    change: ["ALTER TABLE runledger.job_attempts DROP CONSTRAINT uq_job_attempts_job_run_attempt"],
    kind: "constraint",
    name: "job_attempts.uq_job_attempts_job_run_attempt"
  },
  {
    title: "a missing index",
    change: ["DROP INDEX runledger.idx_job_queue_lease_expiry"],
    kind: "index",
    name: "job_queue.idx_job_queue_lease_expiry"
  },
  {
    title: "an index with another predicate",
    change: [
      "DROP INDEX runledger.idx_job_queue_claim",
      `CREATE INDEX idx_job_queue_claim
         ON runledger.job_queue (job_type, payload_version, execution_resource_key NULLS FIRST, priority DESC, next_run_at, id)
         WHERE status = 'LEASED'`
    ],
    kind: "index",
    name: "job_queue.idx_job_queue_claim",
    actual: /LEASED/
  },
  {
    title: "a unique index that is not unique",
    change: [
      "DROP INDEX runledger.uq_job_queue_type_idempotency",
      `CREATE INDEX uq_job_queue_type_idempotency
         ON runledger.job_queue (job_type, organization_id, idempotency_key)
         WHERE idempotency_key IS NOT NULL`
    ],
    kind: "index",
    name: "job_queue.uq_job_queue_type_idempotency",
    actual: /^CREATE INDEX/
  },
  {
    title: "an invalid index",
    // what a failed CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY leaves behind
    change: [
      `UPDATE pg_catalog.pg_index SET indisvalid = false
       WHERE indexrelid = 'runledger.idx_job_queue_organization'::regclass`
    ],
    kind: "index",
    name: "job_queue.idx_job_queue_organization",
    actual: / INVALID$/
  },
  {
    title: "a domain without its check",
    change: ["ALTER DOMAIN runledger.job_queue_stage DROP CONSTRAINT chk_job_queue_stage_not_blank"],
    kind: "domain",
    name: "job_queue_stage",
    actual: /^text$/
  },
  {
    title: "another check of a domain",
    change: [
      "ALTER DOMAIN runledger.job_queue_priority DROP CONSTRAINT chk_job_queue_priority_range",
      "ALTER DOMAIN runledger.job_queue_priority ADD CONSTRAINT chk_job_queue_priority_range CHECK (VALUE < 5) NOT VALID"
    ],
    kind: "domain",
    name: "job_queue_priority",
    actual: /VALUE < 5.* NOT VALID$/
  },
  {
    title: "another function body",
    change: [
      "CREATE OR REPLACE FUNCTION runledger.uuidv7() RETURNS uuid LANGUAGE sql VOLATILE AS 'SELECT gen_random_uuid()'"
    ],
    kind: "function",
    name: "uuidv7()",
    actual: /gen_random_uuid/
  },
  {
    title: "another setting of a function",
    change: ["ALTER FUNCTION runledger.refuse_job_definition_delete() SECURITY DEFINER"],
    kind: "function",
    name: "refuse_job_definition_delete()",
    actual: /SECURITY DEFINER/
  },
  {
    title: "a disabled trigger",
    change: ["ALTER TABLE runledger.job_definitions DISABLE TRIGGER trg_job_definitions_refuse_delete"],
    kind: "trigger",
    name: "job_definitions.trg_job_definitions_refuse_delete",
    actual: / DISABLED$/
  }
]

const alone: ReadonlyArray<Case> = [
  ...cases,
  {
    title: "a missing trigger",
    change: ["DROP TRIGGER trg_job_definitions_refuse_delete ON runledger.job_definitions"],
    kind: "trigger",
    name: "job_definitions.trg_job_definitions_refuse_delete"
  },
  {
    title: "another trigger of the same name",
    change: [
      `CREATE OR REPLACE TRIGGER trg_job_definitions_refuse_delete
         AFTER DELETE ON runledger.job_definitions
         FOR EACH ROW EXECUTE FUNCTION runledger.refuse_job_definition_delete()`
    ],
    kind: "trigger",
    name: "job_definitions.trg_job_definitions_refuse_delete",
    actual: /AFTER DELETE/
  },
  {
    title: "a trigger that fires on replicas only",
    change: ["ALTER TABLE runledger.job_definitions ENABLE REPLICA TRIGGER trg_job_definitions_refuse_delete"],
    kind: "trigger",
    name: "job_definitions.trg_job_definitions_refuse_delete",
    actual: / DISABLED$/
  },
  {
    title: "a missing domain",
    change: [
      "ALTER TABLE runledger.job_queue ALTER COLUMN max_attempts TYPE integer",
      "DROP DOMAIN runledger.job_queue_max_attempts"
    ],
    kind: "domain",
    name: "job_queue_max_attempts"
  },
  {
    title: "a missing function",
    change: ["DROP FUNCTION runledger.refuse_job_definition_delete() CASCADE"],
    kind: "function",
    name: "refuse_job_definition_delete()"
  },
  {
    title: "a missing cut-over constraint",
    change: [`${queue} DROP CONSTRAINT ck_job_queue_idempotency_enqueue_request`],
    kind: "constraint",
    name: "job_queue.ck_job_queue_idempotency_enqueue_request"
  },
  {
    title: "a view in the place of a table",
    change: [
      "ALTER TABLE runledger.job_dead_letters SET SCHEMA public",
      "CREATE VIEW runledger.job_dead_letters AS SELECT * FROM public.job_dead_letters"
    ],
    kind: "table",
    name: "job_dead_letters"
  }
]

const assertReported = (reported: ReadonlyArray<Difference>, { kind, name, actual }: Case) => {
  const difference = reported.find((each) => each.kind === kind && each.name === name)
  assert.isDefined(difference, `${kind} ${name}`)
  assert.strictEqual(difference.expected, manifest[kind][name])
  if (actual === undefined) {
    assert.isNull(difference.actual)
  } else {
    assert.match(difference.actual ?? "", actual)
  }
}

it.effect.each(alone)("$title is reported", (each) =>
  Effect.gen(function* () {
    yield* run(each.change)
    const reported = yield* found
    assertReported(reported, each)
    // one change, one difference; a function takes its triggers along, a domain leaves its column with another type
    const besides = reported.filter(({ kind, name }) => kind !== each.kind || name !== each.name)
    assert.deepStrictEqual(
      besides.map(({ kind }) => kind),
      each.title === "a missing function" ? ["trigger"] : each.title === "a missing domain" ? ["column"] : []
    )
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("all at once are reported, each with what is expected and what is there", () =>
  Effect.gen(function* () {
    for (const each of cases) {
      yield* run(each.change)
    }
    const error = yield* Effect.flip(Migrator.ensureSchemaCompatible)
    assert.strictEqual(error.code, "schema.drift")
    const reported = error.reason._tag === "SchemaDrift" ? error.reason.differences : []
    for (const each of cases) {
      assertReported(reported, each)
      assert.include(error.message, `${each.kind} ${each.name}`)
    }
    assert.strictEqual(reported.length, cases.length)
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("what the application adds is not drift", () =>
  Effect.gen(function* () {
    yield* run([
      "CREATE TABLE public.orders (id int PRIMARY KEY, job_id uuid REFERENCES runledger.job_queue (id))",
      "CREATE TABLE runledger.mine (id int PRIMARY KEY)",
      "CREATE TABLE public.organizations (id uuid PRIMARY KEY)",
      `${queue} ADD CONSTRAINT fk_job_queue_organization
         FOREIGN KEY (organization_id) REFERENCES public.organizations (id)`,
      `${queue} ADD COLUMN tenant_note text DEFAULT 'x'`,
      "CREATE INDEX my_index ON runledger.job_queue (created_at)",
      "CREATE VIEW runledger.my_view AS SELECT id FROM runledger.job_queue",
      "CREATE FUNCTION runledger.uuidv7(prefix text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
      "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
      "CREATE TRIGGER mine AFTER INSERT ON runledger.job_queue FOR EACH ROW EXECUTE FUNCTION public.nothing()",
      // the operator's business
      `${queue} SET (fillfactor = 90, autovacuum_enabled = false)`,
      "ALTER INDEX runledger.idx_job_queue_claim SET (fillfactor = 60)",
      "ALTER INDEX runledger.pk_job_queue SET (fillfactor = 60)",
      `${queue} ALTER COLUMN payload SET STORAGE EXTERNAL`,
      `${queue} ALTER COLUMN job_type SET STATISTICS 500`,
      "ALTER TABLE runledger.job_definitions ENABLE ALWAYS TRIGGER trg_job_definitions_refuse_delete",
      "COMMENT ON TABLE runledger.job_queue IS 'jobs'"
    ])
    assert.deepStrictEqual(yield* found, [])
    assert.deepStrictEqual(yield* Migrator.migrate, { applied: [] })
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.effect("the printed form does not depend on settings of the session", () =>
  Effect.gen(function* () {
    assert.deepStrictEqual(yield* found, [])
  }).pipe(
    Effect.provide(
      TestDatabase.layerWith({
        startupParameters: { search_path: "runledger, public", quote_all_identifiers: "on", datestyle: "German" }
      })
    )
  )
)

it.effect("the manifest is what the migrations lead to; npm run schema:manifest writes it", () =>
  Effect.gen(function* () {
    assert.deepStrictEqual(yield* catalog, { definitions: manifest, vanished: [] })
  }).pipe(Effect.provide(TestDatabase.layer))
)

it("nothing is missing from itself, and everything from nothing", () => {
  const nothing: Catalog.Definitions = {
    domain: {},
    table: {},
    column: {},
    constraint: {},
    index: {},
    function: {},
    trigger: {},
    view: {}
  }
  assert.deepStrictEqual(differences(manifest, manifest), [])
  // the tables stand for what is on them
  assert.strictEqual(
    differences(manifest, nothing).length,
    [manifest.domain, manifest.table, manifest.function].flatMap(Object.keys).length
  )
})
