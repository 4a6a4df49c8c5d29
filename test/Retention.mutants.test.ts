/**
 * Statements of retention that are broken on purpose, each in one way, and the checks that notice. A check passes on the
 * statements as they are and fails on every mutant that names it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { JobIntents, JobResources, Jobs, Workflows } from "../src/index.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { standing } from "./support/races.ts"
import * as Given from "./support/retention.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { jobType as stepType } from "./support/workflows.ts"

const { Statements, unchanged } = MutatedSqlClient

const everything = { succeeded: 0, canceled: 0, deadLettered: 0, runs: 0, intents: 0, logs: 0, permits: 0 } as const
const tick = TestClock.adjust("1 millis")

const given = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  unchanged(Effect.andThen(Given.startOver, Effect.tap(self, tick)))

const isLeft = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  assert.sameMembers(yield* unchanged(Given.left), [...ids])
  yield* unchanged(Given.assertNoOrphans)
})

type Check = Effect.Effect<void, unknown, SqlClient>

const whileHeld = (table: string, id: string, self: Check): Check =>
  Effect.scoped(
    Effect.gen(function* () {
      const end = yield* unchanged(
        standing(SqlClient.use((sql) => sql.unsafe(`SELECT FROM runledger.${table} WHERE id = '${id}' FOR KEY SHARE`)))
      )
      yield* self
      yield* end
    })
  )

const checks = {
  "jobs that are not old, or at work, stay": Effect.gen(function* () {
    const kept = yield* given(
      Effect.gen(function* () {
        const canceled = yield* Given.pending()
        yield* Given.claim
        yield* Jobs.cancel(Given.admin, canceled)
        const letter = yield* Given.deadLettered()
        const { run } = yield* Workflows.enqueue({
          workflowType: "t",
          steps: [
            { stepKey: "a", jobType: stepType, payload: 1 },
            { stepKey: "b", executionKind: "EXTERNAL", payload: 1 }
          ]
        })
        yield* Given.endSteps
        return [canceled, letter, run.id]
      })
    )
    yield* Given.pass({ succeeded: 0, canceled: 0, deadLettered: "1 hour" })
    yield* isLeft(kept)
    assert.strictEqual((yield* unchanged(Given.census)).job_queue, 3)
  }),
  "a job goes with everything": Effect.gen(function* () {
    yield* given(Given.withEverything)
    yield* Given.pass({ succeeded: 0 })
    assert.deepStrictEqual(yield* unchanged(Given.census), {})
  }),
  "a replay stays with its source": Effect.gen(function* () {
    const ids = yield* given(
      Effect.gen(function* () {
        const source = yield* Given.succeeded()
        const replay = yield* Given.replayOf(source)
        yield* Given.endNext("failure")
        return [source, replay]
      })
    )
    yield* Given.pass({ deadLettered: 0 })
    yield* isLeft(ids)
  }),
  "a chain of replays goes in one batch": Effect.gen(function* () {
    yield* given(
      Effect.gen(function* () {
        const source = yield* Given.succeeded()
        yield* Given.replayOf(source)
        yield* Given.endNext()
      })
    )
    yield* Given.pass({ succeeded: 0 })
    yield* isLeft([])
  }),
  "an intent that is held keeps its job": Effect.gen(function* () {
    const [jobId, intentId] = yield* given(
      Effect.gen(function* () {
        yield* JobIntents.record(Given.type, 1, { idempotencyKey: "k" })
        yield* JobIntents.promote({ types: [Given.type], limit: 1 })
        const { jobId } = yield* Given.claim.pipe(Effect.tap((lease) => Jobs.completeSuccess(lease)))
        const [intent] = yield* JobIntents.list({ scope: Given.admin })
        return [jobId, String(intent?.id)] as const
      })
    )
    yield* whileHeld("job_enqueue_intents", intentId, Effect.asVoid(Given.pass({ succeeded: 0 })))
    yield* isLeft([jobId])
  }),
  "runs that are not over stay": Effect.gen(function* () {
    const kept = yield* given(
      Effect.gen(function* () {
        const { run } = yield* Workflows.enqueueOrGetActive({
          workflowType: "t",
          activeKey: "only",
          steps: [{ stepKey: "a", jobType: stepType, payload: 1 }]
        })
        yield* Jobs.claim({ workerId: "w", types: [stepType], limit: 1, lease: "1 minute" })
        yield* Workflows.cancel(Given.admin, run.id)
        yield* TestClock.adjust("2 minutes")
        const { run: leased } = yield* Workflows.enqueue({
          workflowType: "t",
          steps: [{ stepKey: "a", jobType: stepType, payload: 1 }]
        })
        yield* Jobs.claim({ workerId: "w", types: [stepType], limit: 1, lease: "1 minute" })
        yield* Workflows.cancel(Given.admin, leased.id)
        return [run.id, leased.id]
      })
    )
    yield* Given.pass(everything)
    yield* isLeft(kept)
  }),
  "a run goes with everything": Effect.gen(function* () {
    yield* given(
      Effect.gen(function* () {
        yield* Given.recover(yield* Given.endedRun(), { end: true })
      })
    )
    yield* Given.pass({ runs: 0 })
    assert.deepStrictEqual(yield* unchanged(Given.census), {})
  }),
  "permits that are used, or of which something is said, stay": Effect.gen(function* () {
    yield* given(
      Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* JobResources.upsert("said", { permits: 2 })
        yield* JobResources.upsert("part", { permits: 2 })
        yield* Given.pending({ executionResourceKey: "part" })
        yield* Jobs.heartbeatMany([yield* Given.claim], { extend: "1 day" })
        yield* sql`DELETE FROM runledger.job_execution_resources WHERE resource_key = 'part'`
      })
    )
    yield* TestClock.adjust("1 hour")
    yield* Given.pass({ permits: 0 })
    assert.strictEqual((yield* unchanged(Given.census)).job_execution_permits, 4)
  })
} satisfies Record<string, Check>
type CheckName = keyof typeof checks

const edit = (statement: string, search: string | RegExp, replace: string): MutatedSqlClient.Edit => ({
  statement,
  search,
  replace
})

const lockJobs = "succeeded_before"
const deleteJobs = "SELECT 0 AS runs"
const lockSteps = "kept AS MATERIALIZED"
const deleteRuns = "doomed_run"
const deletePermits = "DELETE FROM runledger.job_execution_permits"

const mutants: ReadonlyArray<readonly [name: string, check: CheckName, edit: MutatedSqlClient.Edit]> = [
  [
    "jobs of runs are deleted",
    "jobs that are not old, or at work, stay",
    edit(lockJobs, /[pq]\.workflow_run_id IS NULL\s+AND/g, "")
  ],
  [
    "the lease of a canceled job is not looked at",
    "jobs that are not old, or at work, stay",
    edit(lockJobs, /AND \([pq]\.lease_expires_at > \(SELECT at FROM input\)\) IS NOT TRUE/g, "")
  ],
  [
    "what failed has the age of what succeeded",
    "jobs that are not old, or at work, stay",
    edit(lockJobs, "THEN (SELECT dead_lettered_before FROM input)", "THEN (SELECT succeeded_before FROM input)")
  ],
  ...[
    "job_attempts a WHERE a.job_id",
    "job_events e WHERE e.job_id",
    "job_logs l WHERE l.job_id",
    "job_dead_letters d WHERE d.job_id"
  ].map(
    (child) =>
      [
        `${child.split(" ")[0]} are left`,
        "a job goes with everything",
        edit(deleteJobs, `DELETE FROM runledger.${child} = `, `DELETE FROM runledger.${child} IS NULL AND NULL = `)
      ] as const
  ),
  [
    "lineage is left",
    "a job goes with everything",
    edit(deleteJobs, "DELETE FROM runledger.job_replays r", "SELECT FROM runledger.job_replays r")
  ],
  [
    "a replay goes before its source",
    "a replay stays with its source",
    edit(deleteJobs, "WHERE c.source_id IS NULL", "")
  ],
  [
    "a replay never goes with its source",
    "a chain of replays goes in one batch",
    edit(deleteJobs, "ON c.source_id = d.id", "ON c.source_id = d.id AND false")
  ],
  [
    "intents are not asked for",
    "an intent that is held keeps its job",
    edit(deleteJobs, "SELECT n.id = ANY (ARRAY(SELECT id FROM held))", "SELECT true")
  ],
  [
    "active keys are not looked at",
    "runs that are not over stay",
    edit(
      lockSteps,
      "FROM runledger.workflow_active_claims c",
      "FROM (SELECT * FROM runledger.workflow_active_claims LIMIT 0) c"
    )
  ],
  [
    "leases of canceled handlers are not looked at",
    "runs that are not over stay",
    edit(lockSteps, "OR l.lease_expires_at > (SELECT at FROM input)", "")
  ],
  [
    "a recovery never goes with its source",
    "a run goes with everything",
    edit(deleteRuns, "ON c.source_run_id = d.id", "ON c.source_run_id = d.id AND false")
  ],
  [
    "edges are left",
    "a run goes with everything",
    edit(
      deleteRuns,
      "DELETE FROM runledger.workflow_step_dependencies d",
      "SELECT FROM runledger.workflow_step_dependencies d"
    )
  ],
  [
    "what is held is not asked for",
    "permits that are used, or of which something is said, stay",
    edit(deletePermits, /OR EXISTS \(\s+SELECT FROM runledger\.job_queue j[\s\S]*?\s\) AS is_used/g, "AS is_used")
  ],
  [
    "permits of a key go one by one",
    "permits that are used, or of which something is said, stay",
    edit(deletePermits, "k.resource_key NOT IN (SELECT resource_key FROM permit WHERE is_used)", "NOT k.is_used")
  ]
]

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("retention, broken on purpose", (it) => {
  const judge = Effect.fnUntraced(function* (name: CheckName, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
    const check: Check = checks[name]
    return yield* Effect.gen(function* () {
      const exit = yield* Effect.exit(check)
      return { exit, statements: yield* Statements }
    }).pipe(Effect.provide(MutatedSqlClient.layer(edits)))
  })

  for (const name of Object.keys(checks).filter((name): name is CheckName => name in checks)) {
    it.effect(`as it is, ${name}`, () => Effect.flatMap(judge(name, []), ({ exit }) => exit))
  }

  for (const [name, check, edit] of mutants) {
    it.effect(`${name}: noticed by "${check}"`, () =>
      Effect.gen(function* () {
        const { exit, statements } = yield* judge(check, [edit])
        // neither a mutant that changes nothing nor one that is no SQL would say anything about the check
        assert.isTrue(statements.applied().has(edit))
        const sent = statements.last(edit.statement)
        if (sent !== undefined) yield* SqlClient.use((sql) => sql.unsafe(`EXPLAIN ${sent.text}`, sent.params))
        assert.isTrue(Exit.isFailure(exit), `"${check}" did not notice`)
      })
    )
  }
})
