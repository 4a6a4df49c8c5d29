import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe } from "./probe.ts"

/** A reference that no foreign key holds. `key` is the order in which the primary key of the child has it. */
interface Reference {
  readonly child: string
  readonly column: string
  readonly key: string
  readonly parent: string
}

const references: ReadonlyArray<Reference> = [
  ...["job_attempts", "job_events", "job_dead_letters", "job_logs"].map((child) => ({
    child,
    column: "job_id",
    key: "job_id",
    parent: "job_queue"
  })),
  { child: "job_queue", column: "workflow_run_id", key: "id", parent: "workflow_runs" },
  { child: "job_queue", column: "workflow_step_id", key: "id", parent: "workflow_steps" },
  { child: "workflow_steps", column: "workflow_run_id", key: "id", parent: "workflow_runs" },
  { child: "workflow_steps", column: "job_id", key: "id", parent: "job_queue" },
  ...["prerequisite_step_id", "dependent_step_id"].map((column) => ({
    child: "workflow_step_dependencies",
    column,
    key: "workflow_run_id",
    parent: "workflow_steps"
  }))
]

const ends = 500
const samplePages = 50

/** The ids that rows of the child name and the parent does not have, among the first, the last, and pages taken at random. */
const missing = ({ child, column, key, parent }: Reference) => `
  SELECT '${child}' AS child, '${column}' AS column_name, '${parent}' AS parent, c.id::text AS id
  FROM (
    SELECT id FROM (SELECT t.${column} AS id FROM runledger.${child} t ORDER BY t.${key} LIMIT ${ends}) first
    UNION
    SELECT id FROM (SELECT t.${column} AS id FROM runledger.${child} t ORDER BY t.${key} DESC LIMIT ${ends}) last
    UNION
    SELECT t.${column}
    FROM runledger.${child} t TABLESAMPLE SYSTEM (
      LEAST(100, 100.0 * ${samplePages} * current_setting('block_size')::int
        / GREATEST(pg_relation_size('runledger.${child}'), 1))
    )
  ) c
  -- one look-up by primary key for each: as a condition it could become a join, and read the parent from end to end
  WHERE c.id IS NOT NULL AND COALESCE((SELECT false FROM runledger.${parent} p WHERE p.id = c.id LIMIT 1), true)`

const statement = references.map((reference) => `(${missing(reference)}\nLIMIT 1000)`).join("\nUNION ALL\n")

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({ child: Schema.String, column_name: Schema.String, parent: Schema.String, id: Schema.String })
  )
)

/**
 * Rows whose job, run or step is not there. Hot tables have no foreign keys, so this is what tells that somebody else has
 * written them. A sample: what is far from both ends of a table is found by chance, and sooner the more there is of it.
 */
export const orphans: Probe = {
  check: "orphans",
  unit: "rows",
  threshold: { warn: 1, fail: 100 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* decode(yield* sql.unsafe(statement))
    const [first] = rows
    return {
      value: rows.length,
      message:
        first === undefined
          ? "Every row that was looked at has its job, run and step"
          : `${first.child}.${first.column_name} names a row of ${first.parent} that does not exist`,
      rows: rows
        .slice(0, maxRows)
        .map(({ child, column_name, parent, id }) => ({ table: child, column: column_name, parent, id }))
    }
  })
}
