/**
 * Keyed rows must carry the request that their key stands for.
 *
 * The constraints that say so are added NOT VALID, so that they refuse new rows at once and old rows can be repaired;
 * they are validated once no such rows are left. Whether they are validated is not drift.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Sql from "../internal/sql.ts"
import { KeyedRowsWithoutSnapshot } from "../SchemaCompatibilityError.ts"
import { unreadable } from "./failure.ts"

const tables = ["job_queue", "workflow_runs"] as const
type Table = (typeof tables)[number]

const constraintOf: Readonly<Record<Table, string>> = {
  job_queue: "ck_job_queue_idempotency_enqueue_request",
  workflow_runs: "ck_workflow_runs_idempotency_enqueue_request"
}

/** `table.constraint`, as the manifest names them. */
export const constraints: ReadonlySet<string> = new Set(tables.map((table) => `${table}.${constraintOf[table]}`))

const decodeTables = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ table: Schema.Literals(tables) })))
const decodeCount = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Struct({ count: Schema.Int })]))

/** The tables whose constraint is not validated yet. */
export const unvalidated = Effect.gen(function* () {
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT t.relname AS "table"
    FROM pg_catalog.pg_constraint c
    JOIN pg_catalog.pg_class t ON t.oid = c.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = 'runledger'
      AND t.relname || '.' || c.conname = ANY (${[...constraints]}::text[])
      AND NOT c.convalidated
    ORDER BY t.relname
  `
  return (yield* unreadable(decodeTables(rows))).map((row) => row.table)
})

const count = Effect.fnUntraced(function* (table: Table) {
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT least(count(*), 2147483647)::int4 AS count
    FROM runledger.${sql(table)}
    WHERE idempotency_key IS NOT NULL
      AND enqueue_request IS NULL
  `
  return (yield* unreadable(decodeCount(rows)))[0].count
})

/** Fails if one of `tables` still has keyed rows without a request. Needs SELECT on them. */
export const ensureComplete = Effect.fnUntraced(function* (tables: ReadonlyArray<Table>) {
  const jobCount = tables.includes("job_queue") ? yield* count("job_queue") : 0
  const workflowCount = tables.includes("workflow_runs") ? yield* count("workflow_runs") : 0
  if (jobCount + workflowCount > 0) {
    return yield* new KeyedRowsWithoutSnapshot({ jobCount, workflowCount })
  }
})

/** Validates the constraint of `table`: reads the whole table, and lets others read and write it meanwhile. */
export const validate = Effect.fnUntraced(function* (table: Table) {
  const sql = yield* Sql.client
  yield* sql`ALTER TABLE runledger.${sql(table)} VALIDATE CONSTRAINT ${sql(constraintOf[table])}`.unprepared
})
