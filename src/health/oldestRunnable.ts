import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Int8 } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import { maxRows, type Probe, rounded } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ job_type: Schema.String, seconds: Schema.Number, due: Int8 }))
)

/** How long the oldest due job has waited, by type: nobody serves the type, or whoever does is behind. */
export const oldestRunnable: Probe = {
  check: "oldestRunnable",
  unit: "seconds",
  threshold: { warn: 60, fail: 600 },
  // The lanes are walked as a claim walks them, one index probe each: jobs that are not due cost nothing. Jobs with a resource
  // key are left out: whether they could run is for those to say who give out the permits.
  measure: Effect.gen(function* () {
    const { sql, instant } = yield* Sql.clocked
    const rows = yield* decode(
      yield* sql`
        WITH RECURSIVE input AS MATERIALIZED (
          SELECT ${instant} AS at
        ), lanes AS (
          (
            SELECT
              q.job_type, q.payload_version,
              -- none, if all jobs of the first lane have keys
              CASE WHEN q.execution_resource_key IS NULL THEN q.priority::integer END AS priority
            FROM runledger.job_queue q
            WHERE q.status = 'PENDING'
            ORDER BY q.job_type, q.payload_version, q.execution_resource_key NULLS FIRST, q.priority DESC
            LIMIT 1
          )
          UNION ALL
          SELECT lane.job_type, lane.payload_version, lane.priority
          FROM lanes l
          CROSS JOIN LATERAL (
            (
              SELECT q.job_type, q.payload_version, q.priority::integer
              FROM runledger.job_queue q
              WHERE q.status = 'PENDING' AND q.execution_resource_key IS NULL
                AND q.job_type = l.job_type AND q.payload_version = l.payload_version AND q.priority < l.priority
              ORDER BY q.execution_resource_key NULLS FIRST, q.priority DESC
              LIMIT 1
            )
            UNION ALL
            (
              SELECT
                q.job_type, q.payload_version, CASE WHEN q.execution_resource_key IS NULL THEN q.priority::integer END
              FROM runledger.job_queue q
              WHERE q.status = 'PENDING' AND q.job_type = l.job_type AND q.payload_version > l.payload_version
              ORDER BY q.payload_version, q.execution_resource_key NULLS FIRST, q.priority DESC
              LIMIT 1
            )
            UNION ALL
            (
              SELECT
                q.job_type, q.payload_version, CASE WHEN q.execution_resource_key IS NULL THEN q.priority::integer END
              FROM runledger.job_queue q
              WHERE q.status = 'PENDING' AND q.job_type > l.job_type
              ORDER BY q.job_type, q.payload_version, q.execution_resource_key NULLS FIRST, q.priority DESC
              LIMIT 1
            )
            LIMIT 1
          ) lane
        ), heads AS MATERIALIZED (
          SELECT l.*, head.next_run_at
          FROM (SELECT * FROM lanes LIMIT 10000) l
          CROSS JOIN LATERAL (
            SELECT q.next_run_at
            FROM runledger.job_queue q
            WHERE q.status = 'PENDING' AND q.execution_resource_key IS NULL
              AND q.job_type = l.job_type AND q.payload_version = l.payload_version AND q.priority = l.priority
              AND q.next_run_at <= (SELECT at FROM input)
            ORDER BY q.execution_resource_key NULLS FIRST, q.next_run_at
            LIMIT 1
          ) head
        )
        SELECT
          h.job_type, extract(epoch FROM (SELECT at FROM input) - min(h.next_run_at))::float8 AS seconds,
          sum(backlog.due)::bigint AS due
        FROM heads h
        CROSS JOIN LATERAL (
          SELECT count(*) AS due
          FROM (
            SELECT
            FROM runledger.job_queue q
            WHERE q.status = 'PENDING' AND q.execution_resource_key IS NULL
              AND q.job_type = h.job_type AND q.payload_version = h.payload_version AND q.priority = h.priority
              AND q.next_run_at <= (SELECT at FROM input)
            ORDER BY q.execution_resource_key NULLS FIRST, q.next_run_at
            -- counted to here, lane by lane: what is behind makes no difference any more
            LIMIT 10000
          ) due
        ) backlog
        GROUP BY h.job_type
        ORDER BY min(h.next_run_at), h.job_type
      `
    )
    const [oldest] = rows
    return {
      value: rounded(oldest?.seconds ?? 0),
      message:
        oldest === undefined
          ? "Nothing is due"
          : `A job of type ${oldest.job_type} has been due for ${rounded(oldest.seconds)} seconds`,
      rows: rows
        .slice(0, maxRows)
        .map(({ job_type, seconds, due }) => ({ jobType: job_type, seconds: rounded(seconds), due })),
      readings: rows.flatMap(({ job_type, seconds, due }) => [
        { gauge: "oldestRunnable" as const, jobType: job_type, value: seconds },
        { gauge: "due" as const, jobType: job_type, value: due }
      ])
    }
  })
}
