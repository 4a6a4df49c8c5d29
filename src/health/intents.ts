import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ job_type: Schema.String, pending: Int8, seconds: Schema.Number, attempts: Schema.Int }))
)

/** How long the oldest intent waits to become a job: no promoter runs, or it cannot promote. */
export const intents: Probe = {
  check: "intents",
  unit: "seconds",
  threshold: { warn: 60, fail: 600 },
  measure: Effect.gen(function* () {
    const { sql, instant } = yield* Sql.clocked
    const rows = yield* decode(
      yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${instant} AS at
        )
        SELECT
          p.job_type, count(*) AS pending, max(p.promotion_attempts) AS attempts,
          extract(epoch FROM (SELECT at FROM input) - min(p.created_at))::float8 AS seconds
        FROM (
          -- in the order in which they were recorded
          SELECT i.job_type, i.created_at, i.promotion_attempts, i.status
          FROM runledger.job_enqueue_intents i
          WHERE i.status <> 'PROMOTED'
          ORDER BY i.id
          LIMIT 10000
        ) p
        WHERE p.status = 'PENDING'
        GROUP BY p.job_type
        ORDER BY min(p.created_at), p.job_type
      `
    )
    const [oldest] = rows
    return {
      value: rounded(oldest?.seconds ?? 0),
      message:
        oldest === undefined
          ? "No intent waits"
          : `An intent of type ${oldest.job_type} waits for ${rounded(oldest.seconds)} seconds to become a job`,
      rows: rows.slice(0, maxRows).map(({ job_type, pending, seconds, attempts }) => ({
        jobType: job_type,
        pending,
        seconds: rounded(seconds),
        attempts
      }))
    }
  })
}
