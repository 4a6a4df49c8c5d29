import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { hotTables, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      table_name: Schema.String,
      live: Int8,
      dead: Int8,
      allowed: Schema.Number,
      seconds_since_vacuum: Schema.NullOr(Schema.Number),
      is_autovacuum_on: Schema.Boolean
    })
  )
)

/**
 * Dead rows of the hot tables, in times of what there may be: the number at which autovacuum comes, and at least 100,000,
 * because a busy queue makes more than a small table's number between two looks of autovacuum.
 */
export const deadTuples: Probe = {
  check: "deadTuples",
  unit: "times",
  threshold: { warn: 10, fail: 100 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* decode(
      yield* sql`
        SELECT
          s.relname AS table_name, s.n_live_tup AS live, s.n_dead_tup AS dead,
          GREATEST(
            100000,
            COALESCE(
              (SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_threshold'),
              current_setting('autovacuum_vacuum_threshold')
            )::float8 + COALESCE(
              (SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_vacuum_scale_factor'),
              current_setting('autovacuum_vacuum_scale_factor')
            )::float8 * GREATEST(c.reltuples, 0)
          )::float8 AS allowed,
          -- the server's own times go with the server's own clock
          extract(epoch FROM clock_timestamp() - GREATEST(s.last_vacuum, s.last_autovacuum))::float8 AS seconds_since_vacuum,
          current_setting('autovacuum')::boolean AND COALESCE(
            (SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'autovacuum_enabled'), 'true'
          )::boolean AS is_autovacuum_on
        FROM pg_stat_user_tables s
        JOIN pg_class c ON c.oid = s.relid
        WHERE s.schemaname = 'runledger' AND s.relname::text = ANY (${hotTables}::text[])
        ORDER BY s.relname
      `
    )
    const tables = rows
      .map(({ table_name, live, dead, allowed, seconds_since_vacuum, is_autovacuum_on }) => ({
        table: table_name,
        live,
        dead,
        times: rounded(dead / allowed),
        secondsSinceVacuum: seconds_since_vacuum === null ? null : Math.round(seconds_since_vacuum),
        autovacuum: is_autovacuum_on
      }))
      .sort((a, b) => b.times - a.times)
    const [worst] = tables
    return worst === undefined
      ? { value: undefined, message: "The server keeps no statistics of the tables", rows: [] }
      : {
          value: worst.times,
          message: `${worst.table} has ${worst.dead} dead rows${worst.autovacuum ? "" : ", and autovacuum is off"}`,
          rows: tables
        }
  })
}
