/**
 * Statements of metrics and health that are broken on purpose, each in one way, and the checks that notice. A check passes on
 * the statements as they are and fails on every mutant that names it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Health, JobDefinitions, Jobs, TenantScope } from "../src/index.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { Statements, unchanged } = MutatedSqlClient

const acme = "01980000-0000-7000-8000-00000000000a"

const run = (text: string) => unchanged(SqlClient.use((sql) => sql.unsafe(text)))

/** Waiting jobs: due, of other lanes, with a key, and not due. */
const waiting = Effect.gen(function* () {
  yield* unchanged(JobDefinitions.upsert("a"))
  yield* run(`
    INSERT INTO runledger.job_queue (
      job_type, payload_version, priority, execution_resource_key, organization_id, max_attempts, run_number, next_run_at,
      created_at, updated_at
    )
    SELECT 'a', v, p, k, o, 1, r, clock_timestamp() - s * interval '1 second', clock_timestamp(), clock_timestamp()
    FROM (VALUES
      (1, 0, NULL, NULL::uuid, 1, 5), (1, -3, NULL, NULL, 1, 50), (2, 0, NULL, '${acme}', 1, 500), (1, 0, 'k', NULL, 1, 5000),
      (1, 0, NULL, NULL, 2, -3600), (1, 0, 'k', NULL, 1, -3600)
    ) AS t (v, p, k, o, r, s)`)
})

/** Attempts of one job: of its earlier runs long ago and lately, and the lease that it holds, which has run out. */
const attempts = Effect.gen(function* () {
  yield* unchanged(JobDefinitions.upsert("a"))
  yield* run(`
    WITH job AS (
      INSERT INTO runledger.job_queue (
        job_type, status, max_attempts, run_number, attempt, next_run_at, lease_expires_at, worker_id, created_at, updated_at
      )
      SELECT 'a', 'LEASED', 1, n, 1, now(), clock_timestamp() + (n - 3) * interval '1 minute', 'w', now(), now()
      FROM unnest(ARRAY[2, 4]) n
      RETURNING id, run_number
    )
    INSERT INTO runledger.job_attempts (
      job_id, run_number, attempt, worker_id, leased_at, lease_ms, started_at, finished_at, ended_as, leased_seq
    )
    SELECT
      id, e.run, 1, 'w', t.at, 1, t.at, t.at + interval '1 second', e.ended, 2
    FROM job
    CROSS JOIN (VALUES (1, 'SUCCEEDED', 1), (2, 'CONTINUED', 30), (3, 'CONTINUED', 2)) AS e (run, ended, hours)
    CROSS JOIN LATERAL (SELECT clock_timestamp() - e.hours * interval '1 hour') t (at)
    WHERE e.run < job.run_number`)
})

type Check = Effect.Effect<void, unknown, SqlClient>

const oneOf = <A>(rows: ReadonlyArray<A>) => {
  const [row, ...more] = rows
  return row === undefined || more.length > 0 ? assert.fail(`${rows.length} rows`) : row
}

const checks = {
  "metrics count what waits": Effect.gen(function* () {
    yield* waiting
    const all = oneOf(yield* Jobs.metrics({ scope: TenantScope.admin }))
    assert.deepStrictEqual([all.pending, all.due], [6, 4])
    const ours = oneOf(yield* Jobs.metrics({ scope: TenantScope.organization(acme) }))
    assert.deepStrictEqual([ours.pending, ours.due], [1, 1])
    const nobodys = oneOf(yield* Jobs.metrics({ scope: TenantScope.global }))
    assert.deepStrictEqual([nobodys.pending, nobodys.due], [5, 3])
  }),
  "metrics count what ended lately, and what is leased": Effect.gen(function* () {
    yield* attempts
    const row = oneOf(yield* Jobs.metrics({ scope: TenantScope.admin }))
    assert.deepInclude(row, { succeeded: 2, continued: 1, leased: 2, staleLeases: 1 })
  }),
  "continuations are told from other runs": Effect.gen(function* () {
    yield* attempts
    const { jobType, ...row } = oneOf(yield* Jobs.continuationMetrics({ scope: TenantScope.admin }))
    assert.deepStrictEqual([jobType, row], ["a", { continued: 1, activeContinued: 1, maxActiveRunNumber: 4 }])
  }),
  "every lane is asked for its oldest": Effect.gen(function* () {
    yield* waiting
    const { findings } = yield* Health.check({ checks: ["oldestRunnable"] })
    const row = oneOf(oneOf(findings).rows)
    assert.deepStrictEqual([row.jobType, row.due, Math.floor(Number(row.seconds) / 100)], ["a", 3, 5])
  }),
  "leases that have run out": Effect.gen(function* () {
    yield* attempts
    const { findings } = yield* Health.check({ checks: ["staleLeases"] })
    assert.closeTo(Number(oneOf(oneOf(findings).rows).seconds), 60, 30)
  }),
  "orphans are found": Effect.gen(function* () {
    yield* attempts
    const count = Effect.map(Health.check({ checks: ["orphans"] }), ({ findings }) => oneOf(findings).value)
    assert.strictEqual(yield* count, 0)
    yield* run("DELETE FROM runledger.job_queue WHERE run_number = 2")
    assert.strictEqual(yield* count, 1)
  })
} satisfies Record<string, Check>
type CheckName = keyof typeof checks

const names: ReadonlyArray<CheckName> = [
  "metrics count what waits",
  "metrics count what ended lately, and what is leased",
  "continuations are told from other runs",
  "every lane is asked for its oldest",
  "leases that have run out",
  "orphans are found"
]

const edit = (statement: string, search: string | RegExp, replace: string): MutatedSqlClient.Edit => ({
  statement,
  search,
  replace
})

const metrics = "percentile_cont"
const continuations = "active_continued"
const oldest = "FROM (SELECT * FROM lanes"

const mutants: ReadonlyArray<readonly [name: string, check: CheckName, edit: MutatedSqlClient.Edit]> = [
  [
    "jobs with a key are not counted",
    "metrics count what waits",
    edit(metrics, /q\.status = 'PENDING' AND q\.job_type = t\.job_type/g, "$& AND q.execution_resource_key IS NULL")
  ],
  [
    "what is not due is counted as due",
    "metrics count what waits",
    edit(metrics, "FILTER (WHERE q.next_run_at <= (SELECT at FROM input)) AS due,", "AS due,")
  ],
  [
    "the scope is forgotten where it is nobody's",
    "metrics count what waits",
    edit(metrics, /q\.job_type = t\.job_type\s+AND q\.organization_id IS NULL/g, "q.job_type = t.job_type")
  ],
  [
    "the window is forgotten",
    "metrics count what ended lately, and what is leased",
    edit(metrics, "a.finished_at >= (SELECT since FROM input)", "true")
  ],
  [
    "every lease has run out",
    "metrics count what ended lately, and what is leased",
    edit(metrics, "FILTER (WHERE q.lease_expires_at <= (SELECT at FROM input))", "")
  ],
  [
    "any run before is a continuation",
    "continuations are told from other runs",
    edit(continuations, "AND a.run_number = q.run_number - 1 AND a.ended_as = 'CONTINUED'", "")
  ],
  [
    "a continuation of any run counts",
    "continuations are told from other runs",
    edit(continuations, "count(*) FILTER (WHERE a.ended_as = 'CONTINUED')", "count(*)")
  ],
  [
    "lower priorities are passed by",
    "every lane is asked for its oldest",
    edit(oldest, "q.priority < l.priority", "false")
  ],
  [
    "newer payloads are passed by",
    "every lane is asked for its oldest",
    edit(oldest, "q.payload_version > l.payload_version", "false")
  ],
  [
    "the youngest is taken for the oldest",
    "every lane is asked for its oldest",
    edit(oldest, "- min(h.next_run_at)", "- max(h.next_run_at)")
  ],
  [
    "what is not due is counted",
    "every lane is asked for its oldest",
    edit(oldest, "AND q.next_run_at <= (SELECT at FROM input)", "")
  ],
  [
    "leases that are live are named",
    "leases that have run out",
    edit("q.worker_id,", "AND q.lease_expires_at <= (SELECT at FROM input)", "")
  ],
  ["no parent is missed", "orphans are found", edit("TABLESAMPLE", "LIMIT 1), true)", "LIMIT 1), false)")]
]

it.layer(TestDatabase.layer)("metrics and health, broken on purpose", (it) => {
  const judge = Effect.fnUntraced(function* (name: CheckName, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
    const check: Check = checks[name]
    return yield* Effect.gen(function* () {
      const exit = yield* Effect.exit(rollback(check))
      return { exit, statements: yield* Statements }
    }).pipe(Effect.provide(MutatedSqlClient.layer(edits)))
  })

  for (const name of names) {
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

  it("no check is there for nothing, and no mutant twice", () => {
    assert.deepStrictEqual([...new Set(mutants.map(([, check]) => check))], names)
    assert.strictEqual(new Set(mutants.map(([name]) => name)).size, mutants.length)
  })
})
