import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { hotTables, maxRows, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      relation: Schema.String,
      kind: Schema.Literals(["table", "index"]),
      bytes: Int8,
      expected: Schema.NullOr(Schema.Number)
    })
  )
)

/** What nobody minds, in bytes. */
const floor = 32 * 1024 * 1024

/**
 * Sizes of the hot tables and their indexes, in times of what their rows need, and at least 32 MiB. What they need is an
 * estimate, from the number of rows and the average widths of their columns as the server knows them.
 */
export const relationSizes: Probe = {
  check: "relationSizes",
  unit: "times",
  threshold: { warn: 4, fail: 16 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* decode(
      yield* sql`
        WITH hot AS MATERIALIZED (
          SELECT
            c.oid, c.relname, c.reloptions, GREATEST(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::float8 AS live,
            (
              SELECT sum((1 - s.null_frac) * s.avg_width)::float8
              FROM pg_stats s
              WHERE s.schemaname = 'runledger' AND s.tablename = c.relname
            ) AS width
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'runledger' AND c.relkind = 'r' AND c.relname::text = ANY (${hotTables}::text[])
        )
        SELECT
          h.relname AS relation, 'table' AS kind, pg_relation_size(h.oid) AS bytes,
          -- a row: its pointer, its header, its columns; a page is filled as far as the table says
          h.live * (4 + 24 + h.width) * 100 / COALESCE(
            (SELECT option_value FROM pg_options_to_table(h.reloptions) WHERE option_name = 'fillfactor'), '100'
          )::float8 AS expected
        FROM hot h
        UNION ALL
        SELECT
          i.relname, 'index', pg_relation_size(i.oid),
          -- an entry: its pointer, its header, its columns; pages that were split are two thirds full
          CASE WHEN x.indpred IS NULL THEN h.live ELSE GREATEST(i.reltuples, 0)::float8 END * (4 + 8 + w.width) / 0.66
        FROM hot h
        JOIN pg_index x ON x.indrelid = h.oid
        JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_am m ON m.oid = i.relam AND m.amname = 'btree'
        CROSS JOIN LATERAL (
          SELECT sum((1 - s.null_frac) * s.avg_width)::float8 AS width
          FROM pg_attribute a
          JOIN pg_stats s ON s.schemaname = 'runledger' AND s.tablename = h.relname AND s.attname = a.attname
          WHERE a.attrelid = h.oid AND a.attnum = ANY (x.indkey::int2[])
        ) w
      `
    )
    const relations = rows
      .map(({ relation, kind, bytes, expected }) => ({
        relation,
        kind,
        bytes,
        expectedBytes: expected === null ? null : Math.round(expected),
        // of what nothing is known, nothing bad is said
        times: rounded(expected === null ? Math.min(1, bytes / floor) : bytes / Math.max(expected, floor))
      }))
      .sort((a, b) => b.times - a.times || b.bytes - a.bytes)
    const [worst] = relations
    return worst === undefined
      ? { value: undefined, message: "The tables are not to be seen", rows: [] }
      : {
          value: worst.times,
          message: `${worst.relation} takes ${worst.bytes} bytes${
            worst.expectedBytes === null ? "" : `, its rows need about ${worst.expectedBytes}`
          }`,
          rows: relations.slice(0, maxRows)
        }
  })
}
