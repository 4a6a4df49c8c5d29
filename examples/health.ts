/**
 * How the queue is, for a probe of the orchestrator and for the eyes of an operator. With `DATABASE_URL`:
 * `node dist/examples/health.js`, which ends with 1 if something is wrong.
 */
import { pathToFileURL } from "node:url"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import { PgClient } from "@effect/sql-pg"
import { Config, Console, Effect, Schema } from "effect"
import { Health } from "../src/index.ts"

/** Whether this process should go on: a queue that nobody serves is a reason to look, not to be killed. */
export const isAlive = Health.check({ checks: ["notifyQueue"], timeout: "1 second" }).pipe(
  Effect.as(true),
  Effect.catchReason("QueryError", "Unavailable", () => Effect.succeed(false))
)

const cell = (value: number | undefined) => (value === undefined ? "-" : String(value))

/** A line for each check, and below each that is not well what stands behind it. */
export const table = ({ findings, verdict }: Health.Report): ReadonlyArray<string> => [
  ...findings.flatMap(({ check, message, rows, threshold, unit, value, ...finding }) => [
    `${finding.verdict.padEnd(7)} ${check.padEnd(15)} ${cell(value).padStart(10)} ${unit.padEnd(12)} ` +
      `(warn ${threshold.warn}, fail ${threshold.fail})  ${message}`,
    ...(finding.verdict === "ok" ? [] : rows.slice(0, 3).map((row) => `        ${JSON.stringify(row)}`))
  ]),
  `all in all: ${verdict}`
]

export class Unwell extends Schema.TaggedError<Unwell>("examples/Unwell")("Unwell", { verdict: Schema.String }) {}

/** Prints the report; fails if something is wrong. */
export const program = Effect.gen(function* () {
  // night jobs may wait
  const report = yield* Health.check({ thresholds: { oldestRunnable: { warn: 3600, fail: 8 * 3600 } } })
  for (const line of table(report)) yield* Console.log(line)
  if (report.verdict === "fail") return yield* new Unwell({ verdict: report.verdict })
  return report
})

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  program.pipe(Effect.provide(PgClient.layerConfig({ url: Config.Redacted("DATABASE_URL") })), (main) =>
    NodeRuntime.runMain(main)
  )
}
