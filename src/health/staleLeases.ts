import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      id: Schema.String,
      job_type: Schema.String,
      worker_id: Schema.NullOr(Schema.String),
      seconds: Schema.Number
    })
  )
)

/** How long a lease has been expired without being ended: no reaper runs, or it cannot write. */
export const staleLeases: Probe = {
  check: "staleLeases",
  unit: "seconds",
  threshold: { warn: 60, fail: 300 },
  measure: Effect.gen(function* () {
    const { sql, instant } = yield* Sql.clocked
    const rows = yield* decode(
      yield* sql`
        WITH input AS MATERIALIZED (
          SELECT ${instant} AS at
        )
        SELECT
          q.id, q.job_type, q.worker_id,
          extract(epoch FROM (SELECT at FROM input) - q.lease_expires_at)::float8 AS seconds
        FROM runledger.job_queue q
        WHERE q.status = 'LEASED' AND q.lease_expires_at <= (SELECT at FROM input)
        ORDER BY q.lease_expires_at, q.id
        LIMIT 1000
      `
    )
    const [oldest] = rows
    return {
      value: rounded(oldest?.seconds ?? 0),
      message:
        oldest === undefined
          ? "No lease has run out"
          : `${rows.length === 1000 ? "1,000 leases or more have" : `${rows.length} of the leases have`} run out and were not ended, the first ${rounded(oldest.seconds)} seconds ago: is a reaper running?`,
      rows: rows.slice(0, maxRows).map(({ id, job_type, worker_id, seconds }) => ({
        jobId: id,
        jobType: job_type,
        workerId: worker_id,
        seconds: rounded(seconds)
      })),
      readings: [{ gauge: "expiredLeases", value: rows.length }]
    }
  })
}
