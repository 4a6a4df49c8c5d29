/** After passes to their end exactly those are gone that are older than their ages, and not needed by what stays. */
import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Given from "./support/retention.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const minute = 60_000

/** Something of the past: how many minutes after it was created it ended, and which of those before it is its source. */
const Item = Schema.Struct({
  kind: Schema.Literals(["job", "job", "run"]),
  ending: Schema.Literals(["PENDING", "SUCCEEDED", "CANCELED", "DEAD_LETTERED"]),
  took: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30 })),
  source: Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4 }))),
  lines: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 60 })))
})

const Age = Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 40 })))
const Ages = Schema.Struct({ succeeded: Age, canceled: Age, deadLettered: Age, runs: Age, logs: Age })
const Limit = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 4 }))

const runStatus = {
  PENDING: "RUNNING",
  SUCCEEDED: "SUCCEEDED",
  CANCELED: "CANCELED",
  DEAD_LETTERED: "COMPLETED_WITH_ERRORS"
}
const jobAge = {
  PENDING: undefined,
  SUCCEEDED: "succeeded",
  CANCELED: "canceled",
  DEAD_LETTERED: "deadLettered"
} as const

interface Stored {
  readonly id: string
  readonly kind: "job" | "run"
  readonly isOld: boolean
  readonly source: string | undefined
}

it.layer(TestDatabase.layerTestClock, { timeout: "120 seconds" })("Retention, of any history", (it) => {
  it.effect.prop(
    "exactly what is old and not needed is gone",
    [Schema.Array(Item), Ages, Limit],
    ([items, ages, limit]) =>
      Effect.gen(function* () {
        const asked = Object.values(ages).some((age) => age !== null)
        if (!asked) return
        yield* Given.startOver
        const sql = yield* SqlClient
        const now = DateTime.toEpochMillis(yield* DateTime.now)
        const stored: Array<Stored> = []
        let expectedLines = 0
        const lines: Array<{ readonly of: Stored; readonly isOld: boolean }> = []
        for (const [place, { ending, kind, lines: said, source: back, took }] of items.entries()) {
          const created = now - (items.length - place) * minute
          // half a minute off, so that nothing is as old as an age exactly
          const finished = ending === "PENDING" ? null : Math.min(now, created + took * minute) - minute / 2
          const at = new Date(created)
          const end = finished === null ? null : new Date(finished)
          const age = kind === "run" ? ages.runs : ages[jobAge[ending] ?? "logs"]
          const isOld = finished !== null && age !== null && finished < now - age * minute
          const before = back === null ? undefined : stored[stored.length - back]
          const source = before?.kind === kind ? before.id : undefined
          const [row] =
            kind === "run"
              ? yield* sql<{ id: string }>`
                  INSERT INTO runledger.workflow_runs (workflow_type, status, started_at, finished_at, created_at, updated_at)
                  VALUES ('t', ${runStatus[ending]}, ${at}, ${end}, ${at}, ${at}) RETURNING id`
              : yield* sql<{ id: string }>`
                  INSERT INTO runledger.job_queue (
                    job_type, status, max_attempts, next_run_at, finished_at, created_at, updated_at
                  )
                  VALUES (${Given.type}, ${ending}, 1, ${at}, ${end}, ${at}, ${at}) RETURNING id`
          const item: Stored = { id: row?.id ?? assert.fail(), kind, isOld, source }
          stored.push(item)
          if (source !== undefined && kind === "run") {
            yield* sql`
              INSERT INTO runledger.workflow_recoveries (recovery_run_id, source_run_id, request_key, mode, reason, created_at)
              VALUES (${item.id}::uuid, ${source}::uuid, ${item.id}, 'FULL_REPLAY', 'r', ${at})`
          } else if (source !== undefined) {
            yield* sql`
              INSERT INTO runledger.job_replays (
                replay_job_id, source_job_id, source_run_number, replay_request_key, reason, created_at
              )
              VALUES (${item.id}::uuid, ${source}::uuid, 1, ${item.id}, 'r', ${at})`
          }
          if (kind === "run") continue
          for (const after of said) {
            const occurred = Math.min(now, created + after * minute) - minute / 2 + minute
            yield* sql`
              INSERT INTO runledger.job_logs (job_id, level, message, occurred_at)
              VALUES (${item.id}::uuid, 'INFO', 'm', ${new Date(occurred)})`
            lines.push({ of: item, isOld: ages.logs !== null && occurred < now - ages.logs * minute })
          }
        }

        const gone = new Set<string>()
        for (const { id, isOld, source } of stored) {
          if (isOld && (source === undefined || gone.has(source))) gone.add(id)
        }
        expectedLines = lines.filter(({ isOld, of }) => !isOld && !gone.has(of.id)).length

        yield* Given.pass(
          Object.fromEntries(
            Object.entries(ages).flatMap(([name, age]) => (age === null ? [] : [[name, age * minute] as const]))
          ),
          limit
        )
        assert.sameMembers(
          yield* Given.left,
          stored.filter(({ id }) => !gone.has(id)).map(({ id }) => id)
        )
        const census = yield* Given.census
        assert.strictEqual(census.job_logs ?? 0, expectedLines)
        const lineage = stored.filter(({ source }) => source !== undefined && !gone.has(source)).length
        assert.strictEqual((census.job_replays ?? 0) + (census.workflow_recoveries ?? 0), lineage)
        yield* Given.assertNoOrphans
      }),
    { timeout: 120_000, arbitrary: { runs: 60, size: 25 } }
  )
})
