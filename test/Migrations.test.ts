import { assert, describe, it } from "vitest"
import { migrations } from "../migrations/index.ts"
import type { Migration } from "../migrations/Migration.ts"

const name = String.raw`runledger\.(\w+)`

/** What in `migration` may be more than an addition, as far as its text tells. */
const suspicious = ({ statements }: Pick<Migration, "statements">): ReadonlyArray<string> => {
  const created = new Set<string>()
  const on = (table: string | undefined) => table !== undefined && created.has(table)

  const isAddition = (statement: string): boolean => {
    const text = statement.replaceAll(/\s+/g, " ").trim()
    const match = (pattern: string) => new RegExp(`^${pattern}`, "i").exec(text)

    const table = match(`CREATE TABLE ${name} \\(`)
    if (table?.[1] !== undefined) {
      created.add(table[1])
      return true
    }
    if (match(`CREATE (FUNCTION|VIEW|DOMAIN) ${name}`) !== null) return true

    const index = match(`CREATE (UNIQUE )?INDEX \\w+ ON ${name}`)
    if (index !== null) return index[1] === undefined || on(index[2])

    const constraint = match(`ALTER TABLE ${name} ADD CONSTRAINT`)
    if (constraint !== null) return on(constraint[1])

    const trigger = match(`CREATE (CONSTRAINT )?TRIGGER \\w+ .*? ON ${name}`)
    if (trigger !== null) return on(trigger[2])

    const column = match(`ALTER TABLE ${name} ADD COLUMN`)
    return (
      column !== null &&
      // it may carry no rule, and no second action may follow: commas are allowed within parentheses only
      !/\b(CHECK|UNIQUE|REFERENCES|PRIMARY KEY|CONSTRAINT)\b/i.test(text) &&
      !text.replaceAll(/\([^()]*\)/g, "").includes(",") &&
      (!/\bNOT NULL\b/i.test(text) || /\b(DEFAULT|GENERATED)\b/i.test(text))
    )
  }
  return statements.filter((statement) => !isAddition(statement))
}

describe("migrations", () => {
  it("are numbered from 1, without gaps, each under its own name", () => {
    assert.deepStrictEqual(
      migrations.map(({ id }) => id),
      migrations.map((_, index) => index + 1)
    )
    assert.strictEqual(new Set(migrations.map(({ name }) => name)).size, migrations.length)
    for (const migration of migrations) assert.match(migration.name, /^[a-z][a-z0-9_]*$/)
  })

  it.each(migrations.filter(({ breaking }) => !breaking))("$id $name only adds, as it says", (migration) => {
    assert.deepStrictEqual(suspicious(migration), [])
  })

  it("name the schema in every statement and end without a semicolon", () => {
    for (const statement of migrations.flatMap(({ statements }) => statements)) {
      assert.include(statement, "runledger.")
      assert.notMatch(statement, /;\s*$/)
    }
  })

  it.each([
    "CREATE TABLE runledger.a (id int)",
    "CREATE INDEX i ON runledger.job_queue (id)",
    "CREATE FUNCTION runledger.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW runledger.v AS SELECT 1",
    "CREATE DOMAIN runledger.d AS text CHECK (VALUE <> '')",
    "ALTER TABLE runledger.job_queue ADD COLUMN a text",
    "ALTER TABLE runledger.job_queue ADD COLUMN a numeric(4, 2) NOT NULL DEFAULT 0"
  ])("an addition: %s", (statement) => {
    assert.deepStrictEqual(suspicious({ statements: [statement] }), [])
  })

  it.each([
    "DROP TABLE runledger.job_logs",
    "CREATE TABLE IF NOT EXISTS runledger.a (id int)",
    "CREATE UNIQUE INDEX i ON runledger.job_queue (id)",
    "CREATE OR REPLACE FUNCTION runledger.uuidv7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()'",
    "CREATE TRIGGER t BEFORE INSERT ON runledger.job_queue FOR EACH ROW EXECUTE FUNCTION runledger.f()",
    "ALTER TABLE runledger.job_queue ADD CONSTRAINT c CHECK (true)",
    "ALTER DOMAIN runledger.job_queue_stage ADD CONSTRAINT c CHECK (true)",
    "ALTER TABLE runledger.job_queue ADD COLUMN a text NOT NULL",
    "ALTER TABLE runledger.job_queue ADD COLUMN a text CHECK (a <> '')",
    "ALTER TABLE runledger.job_queue ADD COLUMN a text, DROP COLUMN stage",
    "ALTER TABLE runledger.job_queue ALTER COLUMN stage SET NOT NULL",
    "ALTER TABLE runledger.job_queue RENAME COLUMN stage TO phase",
    "UPDATE runledger.job_queue SET stage = 'x'"
  ])("not an addition: %s", (statement) => {
    assert.deepStrictEqual(suspicious({ statements: [statement] }), [statement])
  })

  it("rules on a table of the same migration are additions", () => {
    const statements = [
      "CREATE TABLE runledger.a (id int)",
      "CREATE UNIQUE INDEX i ON runledger.a (id)",
      "ALTER TABLE runledger.a ADD CONSTRAINT c CHECK (true)",
      "CREATE TRIGGER t BEFORE INSERT ON runledger.a FOR EACH ROW EXECUTE FUNCTION runledger.f()"
    ]
    assert.deepStrictEqual(suspicious({ statements }), [])
  })
})
