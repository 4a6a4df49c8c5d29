import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      kind: Schema.Literals(["session", "prepared transaction", "hidden"]),
      pid: Schema.NullOr(Schema.Int),
      name: Schema.NullOr(Schema.String),
      role: Schema.NullOr(Schema.String),
      state: Schema.NullOr(Schema.String),
      seconds: Schema.NullOr(Schema.Number),
      transactions: Schema.NullOr(Int8)
    })
  )
)

/**
 * How old the oldest transaction of this database is that keeps vacuum from removing what died since: a session, perhaps
 * forgotten, or a prepared transaction.
 */
export const vacuumHolders: Probe = {
  check: "vacuumHolders",
  unit: "seconds",
  threshold: { warn: 300, fail: 3600 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    // the server's own times go with the server's own clock
    const rows = yield* decode(
      yield* sql`
        SELECT
          'session' AS kind, a.pid, a.application_name AS name, a.usename::text AS role, a.state,
          extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds,
          GREATEST(age(a.backend_xid), age(a.backend_xmin))::bigint AS transactions
        FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
          AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL)
          -- vacuums do not hold each other back
          AND a.backend_type <> 'autovacuum worker' AND a.query NOT ILIKE 'vacuum%'
        UNION ALL
        SELECT
          'prepared transaction', NULL, p.gid, p.owner::text, NULL,
          extract(epoch FROM clock_timestamp() - p.prepared)::float8, age(p.transaction)::bigint
        FROM pg_prepared_xacts p
        WHERE p.database = current_database()
        UNION ALL
        SELECT 'hidden', a.pid, a.application_name, a.usename::text, NULL, NULL, NULL
        FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.query = '<insufficient privilege>'
        ORDER BY seconds DESC NULLS LAST
        LIMIT 1000
      `
    )
    const holders = rows.filter(({ kind }) => kind !== "hidden")
    const hidden = rows.length - holders.length
    const [oldest] = holders
    const seconds = rounded(oldest?.seconds ?? 0)
    return {
      value: seconds,
      message:
        oldest === undefined
          ? "No transaction holds back vacuum"
          : `${
              oldest.kind === "session"
                ? `The session with pid ${oldest.pid}`
                : `The prepared transaction ${oldest.name}`
            } holds back vacuum for ${seconds} seconds`,
      hidden:
        hidden === 0
          ? undefined
          : `${hidden} sessions of other roles are not to be seen; grant pg_read_all_stats to see them`,
      rows: holders.slice(0, maxRows).map(({ kind, pid, name, role, state, transactions, ...holder }) => ({
        kind,
        pid,
        name,
        role,
        state,
        seconds: holder.seconds === null ? null : rounded(holder.seconds),
        transactions
      }))
    }
  })
}
