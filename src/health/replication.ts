import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      kind: Schema.Literals(["slot", "standby"]),
      name: Schema.String,
      is_active: Schema.Boolean,
      transactions: Int8
    })
  )
)

/** How many transactions ago the oldest row died that a replication slot, or a standby by its feedback, still wants to see. */
export const replication: Probe = {
  check: "replication",
  unit: "transactions",
  threshold: { warn: 1_000_000, fail: 50_000_000 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* decode(
      yield* sql`
        SELECT
          'slot' AS kind, s.slot_name::text AS name, s.active AS is_active,
          GREATEST(age(s.xmin), age(s.catalog_xmin))::bigint AS transactions
        FROM pg_replication_slots s
        WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
        UNION ALL
        SELECT 'standby', COALESCE(r.application_name, ''), true, age(r.backend_xmin)::bigint
        FROM pg_stat_replication r
        WHERE r.backend_xmin IS NOT NULL
        ORDER BY transactions DESC
        LIMIT 1000
      `
    )
    const [oldest] = rows
    return {
      value: oldest?.transactions ?? 0,
      message:
        oldest === undefined
          ? "No slot and no standby holds back vacuum"
          : `The ${oldest.is_active ? "" : "inactive "}${oldest.kind} ${oldest.name} holds back vacuum by ${oldest.transactions} transactions`,
      rows: rows
        .slice(0, maxRows)
        .map(({ kind, name, is_active, transactions }) => ({ kind, name, isActive: is_active, transactions }))
    }
  })
}
