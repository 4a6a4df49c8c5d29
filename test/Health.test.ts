import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Layer, Logger, Metric } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import { TestClock } from "effect/testing"
import { Health, JobDefinitions, JobIntents, Jobs, type QueryError, type Reason, Workflows } from "../src/index.ts"
import { sleepLive } from "../src/internal/busy.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { type Plan, prepare, record } from "./support/plans.ts"
import { another, standing } from "./support/races.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const run = (text: string) => SqlClient.use((sql) => sql.unsafe<Row>(text))

/** What one check finds. */
const find = Effect.fnUntraced(function* (check: Health.Check, threshold?: Partial<Health.Threshold>) {
  const { findings, verdict } = yield* Health.check({ checks: [check], thresholds: { [check]: threshold } })
  const [finding, ...more] = findings
  assert(finding !== undefined && more.length === 0)
  assert.deepStrictEqual([finding.check, finding.verdict], [check, verdict])
  return finding
})

const verdictOf = (check: Health.Check, threshold?: Partial<Health.Threshold>) =>
  Effect.map(find(check, threshold), ({ verdict }) => verdict)

const startOver = Effect.gen(function* () {
  yield* run(`TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters,
    runledger.job_logs, runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies CASCADE`)
})

const id = "01980000-0000-7000-8000-000000000001"
const other = "01980000-0000-7000-8000-000000000002"

it.layer(TestDatabase.layer)("Health.check", (it) => {
  it.effect("a new database is well", () =>
    Effect.gen(function* () {
      const report = yield* Health.check()
      assert.deepStrictEqual(
        report.findings.map(({ check, verdict }) => [check, verdict]),
        Health.checks.map((check) => [check, "ok"])
      )
      assert.strictEqual(report.verdict, "ok")
      const [row] = yield* SqlClient.use((sql) => sql<{ at: Date }>`SELECT clock_timestamp() AS at`)
      assert.closeTo(DateTime.toEpochMillis(report.at), row?.at.getTime() ?? 0, 10_000)
    })
  )

  it.effect("asks what it is asked to ask", () =>
    Effect.gen(function* () {
      const { findings } = yield* Health.check({ checks: ["notifyQueue", "staleLeases"] })
      assert.deepStrictEqual(
        findings.map(({ check, threshold, unit }) => ({ check, threshold, unit })),
        [
          { check: "staleLeases", threshold: { warn: 60, fail: 300 }, unit: "seconds" },
          { check: "notifyQueue", threshold: { warn: 0.1, fail: 0.5 }, unit: "fraction" }
        ]
      )
      assert.deepStrictEqual((yield* Health.check({ checks: [] })).verdict, "ok")
    })
  )

  it.effect("bad input is refused", () =>
    Effect.gen(function* () {
      for (const [argument, options] of [
        ["checks", { checks: JSON.parse('["intends"]') }],
        ["timeout", { timeout: 0 }],
        ["timeout", { timeout: "11 minutes" }],
        ["timeout", { timeout: "Infinity" }],
        ["thresholds.orphans", { thresholds: { orphans: { warn: -1 } } }],
        ["thresholds.orphans", { thresholds: { orphans: { fail: Number.NaN } } }],
        ["thresholds.staleLeases", { thresholds: { staleLeases: { warn: 301 } } }]
      ] as const) {
        const reason = yield* refusal(Health.check(options))
        assert.strictEqual(reason._tag === "InvalidArgument" ? reason.argument : reason._tag, argument)
      }
    })
  )

  const parents = {
    job_queue: `INSERT INTO runledger.job_queue (id, job_type, max_attempts, next_run_at, created_at, updated_at)
      VALUES ('${id}', 'a', 1, now(), now(), now())`,
    workflow_runs: `INSERT INTO runledger.workflow_runs (id, workflow_type, started_at, created_at, updated_at)
      VALUES ('${id}', 'a', now(), now(), now())`,
    workflow_steps: `INSERT INTO runledger.workflow_steps (
        id, workflow_run_id, step_key, job_type, priority, max_attempts, timeout_seconds, stage, created_at, updated_at
      ) VALUES ('${id}', '${id}', 's', 'a', 0, 1, 1, 'queued', now(), now())`
  }
  const children: ReadonlyArray<readonly [string, ReadonlyArray<keyof typeof parents>, string, string]> = [
    [
      "job_attempts.job_id",
      [],
      "job_queue",
      `INSERT INTO runledger.job_attempts
      (job_id, attempt, worker_id, leased_at, lease_ms, finished_at, ended_as, leased_seq)
      VALUES ('${id}', 1, 'w', now(), 1, now(), 'CANCELED', 2)`
    ],
    [
      "job_events.job_id",
      [],
      "job_queue",
      `INSERT INTO runledger.job_events (job_id, seq, event_type, occurred_at)
      VALUES ('${id}', 1, 'ENQUEUED', now())`
    ],
    [
      "job_dead_letters.job_id",
      [],
      "job_queue",
      `INSERT INTO runledger.job_dead_letters
      (job_id, job_type, attempt, reason, failure_kind, payload_snapshot, failed_at, created_at)
      VALUES ('${id}', 'a', 1, 'ATTEMPTS_EXHAUSTED', 'RETRYABLE', '{}', now(), now())`
    ],
    [
      "job_logs.job_id",
      [],
      "job_queue",
      `INSERT INTO runledger.job_logs (job_id, level, message, occurred_at)
      VALUES ('${id}', 'INFO', 'm', now())`
    ],
    [
      "job_queue.workflow_run_id",
      ["job_queue"],
      "workflow_runs",
      `UPDATE runledger.job_queue SET workflow_run_id = '${id}'`
    ],
    [
      "job_queue.workflow_step_id",
      ["job_queue"],
      "workflow_steps",
      `UPDATE runledger.job_queue SET workflow_step_id = '${id}'`
    ],
    ["workflow_steps.workflow_run_id", [], "workflow_runs", parents.workflow_steps],
    [
      "workflow_steps.job_id",
      ["workflow_runs", "workflow_steps"],
      "job_queue",
      `UPDATE runledger.workflow_steps SET job_id = '${id}'`
    ],
    [
      "workflow_step_dependencies.prerequisite_step_id",
      ["workflow_runs", "workflow_steps"],
      "workflow_steps",
      `INSERT INTO runledger.workflow_step_dependencies
      (workflow_run_id, prerequisite_step_id, dependent_step_id, created_at) VALUES ('${id}', '${other}', '${id}', now())`
    ],
    [
      "workflow_step_dependencies.dependent_step_id",
      ["workflow_runs", "workflow_steps"],
      "workflow_steps",
      `INSERT INTO runledger.workflow_step_dependencies
      (workflow_run_id, prerequisite_step_id, dependent_step_id, created_at) VALUES ('${id}', '${id}', '${other}', now())`
    ]
  ]
  it.effect.each(children)("orphans: %s without its row", ([reference, before, parent, orphan]) =>
    Effect.gen(function* () {
      for (const table of before) yield* run(parents[table])
      assert.strictEqual(yield* verdictOf("orphans"), "ok")
      yield* run(orphan)
      const { message, rows, value, verdict } = yield* find("orphans")
      assert.strictEqual(verdict, "warn")
      assert.strictEqual(value, 1)
      const [table = "", column = ""] = reference.split(".")
      assert.deepStrictEqual(
        rows.map(({ id: missing, ...row }) => [row, missing === id || missing === other]),
        [[{ table, column, parent }, true]]
      )
      assert.strictEqual(message, `${reference} names a row of ${parent} that does not exist`)
      assert.strictEqual(yield* verdictOf("orphans", { fail: 1 }), "fail")
    }).pipe(rollback)
  )

  it.effect("orphans: what jobs and workflows leave behind is no orphan", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("a")
      yield* Workflows.enqueue({
        workflowType: "w",
        steps: [
          { stepKey: "one", jobType: "a", payload: {} },
          { stepKey: "two", jobType: "a", payload: {}, dependencies: [{ stepKey: "one" }] }
        ]
      })
      yield* Jobs.enqueue("a", {})
      for (let n = 0; n < 3; n++) {
        for (const { lease } of yield* Jobs.claim({ workerId: "w", types: ["a"], limit: 10 })) {
          yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "test", message: "told to" })
        }
      }
      assert.strictEqual((yield* find("orphans")).value, 0)
    }).pipe(rollback)
  )

  it.effect("deadTuples: rows that died and that no vacuum has removed", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* run("ALTER TABLE runledger.job_queue SET (autovacuum_enabled = false)")
      yield* run(`INSERT INTO runledger.job_queue (job_type, max_attempts, next_run_at, created_at, updated_at)
        SELECT 'a', 1, now() + interval '1 day', now(), now() FROM generate_series(1, 6000)`)
      yield* run("UPDATE runledger.job_queue SET priority = 1")
      yield* run("UPDATE runledger.job_queue SET priority = 2")
      const died = yield* find("deadTuples", { warn: 0.1 }).pipe(
        // the server tells its statistics once a second
        Effect.repeat({ until: ({ value }) => (value ?? 0) > 0.1 })
      )
      assert.strictEqual(died.verdict, "warn")
      const [worst] = died.rows
      assert.deepInclude(worst, { table: "job_queue", times: 0.12, autovacuum: false })
      // 12,000, and what the rolled back transactions of other tests have left
      assert.match(died.message, /^job_queue has 120\d\d dead rows, and autovacuum is off$/)
      assert.strictEqual(yield* verdictOf("deadTuples", { warn: 0.1, fail: 0.12 }), "fail")
      assert.strictEqual(yield* verdictOf("deadTuples"), "ok")
      yield* run("VACUUM runledger.job_queue")
      yield* Effect.repeat(verdictOf("deadTuples", { warn: 0.1 }), { until: (verdict) => verdict === "ok" })
      assert.isNumber((yield* find("deadTuples")).rows.find(({ table }) => table === "job_queue")?.secondsSinceVacuum)
    })
  )

  it.effect("relationSizes: tables and indexes that stay large when their rows have gone", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* run("ALTER TABLE runledger.job_queue SET (autovacuum_enabled = false)")
      yield* run(`INSERT INTO runledger.job_queue (job_type, max_attempts, next_run_at, payload, created_at, updated_at)
        SELECT 'a', 1, now() + interval '1 day', to_jsonb(repeat('x', 200)), now(), now() FROM generate_series(1, 40000)`)
      yield* run("ANALYZE runledger.job_queue")
      // what rows need: the estimate is not far from what a table takes that has nothing else
      const full = yield* find("relationSizes")
      for (const relation of ["job_queue", "pk_job_queue", "idx_job_queue_claim"]) {
        const row = full.rows.find((row) => row.relation === relation)
        const [bytes, expected] = [Number(row?.bytes), Number(row?.expectedBytes)]
        assert.isTrue(bytes > expected / 2.5 && bytes < expected * 2.5, `${relation}: ${bytes} of ${expected}`)
      }
      assert.strictEqual(full.verdict, "ok")
      yield* run("DELETE FROM runledger.job_queue WHERE random() < 0.99")
      yield* run("VACUUM (ANALYZE, TRUNCATE false) runledger.job_queue")
      const shrunk = yield* find("relationSizes", { warn: 0.3 })
      assert.strictEqual(shrunk.verdict, "warn")
      const [worst, ...rest] = shrunk.rows
      assert.deepInclude(worst, { relation: "job_queue", kind: "table" })
      assert.isTrue(Number(worst?.bytes) > 30 * Number(worst?.expectedBytes))
      const index = rest.find(({ relation }) => relation === "idx_job_queue_claim")
      assert.isTrue(Number(index?.bytes) > 30 * Number(index?.expectedBytes), JSON.stringify(index))
      assert.strictEqual(yield* verdictOf("relationSizes", { warn: 0.1, fail: 0.3 }), "fail")
      assert.strictEqual(yield* verdictOf("relationSizes"), "ok")
      yield* run("VACUUM FULL runledger.job_queue")
      assert.strictEqual(yield* verdictOf("relationSizes", { warn: 0.3 }), "ok")
    })
  )

  it.effect.each([
    { kind: "writes", statement: "CREATE TEMP TABLE own ()" },
    { kind: "keeps a snapshot", statement: "DECLARE c CURSOR FOR SELECT * FROM pg_class" }
  ])("vacuumHolders: a session that $kind, for as long as it does", ({ statement }) =>
    Effect.gen(function* () {
      const client = yield* another({ applicationName: "forgetful" })
      assert.strictEqual((yield* find("vacuumHolders")).value, 0)
      let pid = 0
      const end = yield* Effect.provideService(
        standing(
          Effect.gen(function* () {
            pid = Number((yield* run("SELECT pg_backend_pid() AS pid"))[0]?.pid)
            yield* run(statement)
          })
        ),
        SqlClient,
        client
      )
      const held = (verdict: Health.Verdict, threshold: Health.Threshold) =>
        Effect.repeat(find("vacuumHolders", threshold), { until: (finding) => finding.verdict === verdict })
      const { message, rows } = yield* held("warn", { warn: 0.1, fail: 3600 })
      assert.include(message, `The session with pid ${pid} holds back vacuum`)
      assert.deepInclude(rows[0], {
        kind: "session",
        pid,
        name: "forgetful",
        role: "postgres",
        state: "idle in transaction"
      })
      yield* held("fail", { warn: 0.1, fail: 0.3 })
      assert.strictEqual(yield* verdictOf("vacuumHolders"), "ok")
      yield* end
      assert.strictEqual(yield* verdictOf("vacuumHolders", { warn: 0.1 }), "ok")
    })
  )

  it.effect("vacuumHolders: unknown, if sessions of other roles are not to be seen", () =>
    Effect.gen(function* () {
      const client = yield* another()
      yield* Effect.provideService(run("SELECT"), SqlClient, client)
      yield* run("CREATE ROLE blind")
      yield* Effect.gen(function* () {
        yield* run("SET LOCAL ROLE blind")
        const { message, verdict } = yield* find("vacuumHolders")
        assert.strictEqual(verdict, "unknown")
        assert.match(message, /grant pg_read_all_stats/)
      }).pipe(rollback, Effect.ensuring(Effect.orDie(run("DROP ROLE blind"))))
    })
  )

  it.effect("notifyQueue: a listener that does not read", () =>
    Effect.gen(function* () {
      const client = yield* another()
      assert.strictEqual((yield* find("notifyQueue")).value, 0)
      const end = yield* Effect.provideService(
        standing(
          Effect.gen(function* () {
            // a session begins to listen when this commits, and reads when it is in no transaction
            yield* run("COMMIT")
            yield* run("LISTEN nobody_reads")
            yield* run("BEGIN")
          })
        ),
        SqlClient,
        client
      )
      for (let n = 0; n < 20; n++) yield* run(`SELECT pg_notify('nobody_reads', repeat('${n % 10}', 7000))`)
      const { message, value, verdict } = yield* find("notifyQueue", { warn: 1e-9 })
      assert.strictEqual(verdict, "warn")
      assert.isAbove(value ?? 0, 0)
      assert.match(message, /percent full/)
      assert.strictEqual(yield* verdictOf("notifyQueue", { warn: 0, fail: 1e-9 }), "fail")
      yield* end
    })
  )

  it.effect("a check that the role may not make is unknown, and keeps no other from being made", () =>
    Effect.gen(function* () {
      yield* run("CREATE ROLE outsider")
      yield* run("GRANT USAGE ON SCHEMA runledger TO outsider")
      yield* Effect.gen(function* () {
        yield* run("SET LOCAL ROLE outsider")
        const { findings, verdict } = yield* Health.check({ checks: ["oldestRunnable", "orphans", "notifyQueue"] })
        assert.deepStrictEqual(
          findings.map(({ check, verdict, value, message }) => [check, verdict, value, message]),
          [
            ["oldestRunnable", "unknown", undefined, "The database role may not do this"],
            ["orphans", "unknown", undefined, "The database role may not do this"],
            ["notifyQueue", "ok", 0, "Nothing waits in the queue of notifications"]
          ]
        )
        assert.strictEqual(verdict, "unknown")
        // the caller's transaction goes on, with its own settings
        const [row] = yield* run(
          "SELECT current_setting('statement_timeout') AS a, current_setting('lock_timeout') AS b, current_setting('jit') AS c"
        )
        assert.deepStrictEqual([row?.a, row?.b], ["0", "0"])
      }).pipe(
        rollback,
        Effect.ensuring(Effect.orDie(Effect.andThen(run("DROP OWNED BY outsider"), run("DROP ROLE outsider"))))
      )
    })
  )

  it.effect("a check that takes too long, or meets a lock, is unknown", () =>
    Effect.gen(function* () {
      const client = yield* another()
      const end = yield* Effect.provideService(
        standing(run("LOCK TABLE runledger.job_queue IN ACCESS EXCLUSIVE MODE")),
        SqlClient,
        client
      )
      // the lock_timeout is a second
      for (const timeout of ["50 millis", "10 seconds"] as const) {
        const { findings } = yield* Health.check({ checks: ["staleLeases", "notifyQueue"], timeout })
        assert.deepStrictEqual(
          findings.map(({ verdict, message }) => [verdict, message.slice(0, 12)]),
          [
            ["unknown", "The database"],
            ["ok", "Nothing wait"]
          ]
        )
      }
      yield* end
      assert.strictEqual(yield* verdictOf("staleLeases"), "ok")
    })
  )

  it.effect("leaves a caller's transaction as it was, and keeps a stricter timeout of its own", () =>
    Effect.gen(function* () {
      yield* run("SET LOCAL statement_timeout = '4s'")
      yield* run("SET LOCAL lock_timeout = '20ms'")
      assert.strictEqual((yield* Health.check()).findings.length, Health.checks.length)
      const [row] =
        yield* run(`SELECT current_setting('statement_timeout') AS statement, current_setting('lock_timeout') AS lock,
        current_setting('enable_seqscan') AS scans`)
      assert.deepStrictEqual(row, { statement: "4s", lock: "20ms", scans: "on" })
    }).pipe(rollback)
  )
})

it.layer(TestDatabase.layerTestClock)("Health.check of jobs", (it) => {
  it.effect("oldestRunnable: how long the oldest due job of each type has waited", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a")
      yield* JobDefinitions.upsert("b")
      yield* JobDefinitions.upsert("c")
      const now = yield* DateTime.now
      const at = (seconds: number) => ({ runAt: DateTime.add(now, { seconds }) })
      assert.strictEqual((yield* find("oldestRunnable")).message, "Nothing is due")
      yield* Jobs.enqueue("a", 1, at(30))
      yield* Jobs.enqueue("c", 1, at(3600))
      const { jobId } = yield* Jobs.enqueue("a", 1, at(-9999))
      yield* run(`UPDATE runledger.job_queue SET execution_resource_key = 'k' WHERE id = '${jobId}'`)
      assert.deepInclude(yield* find("oldestRunnable"), { verdict: "ok", value: 0, rows: [] })
      // in lanes of its own each
      yield* Jobs.enqueue("b", 1, { priority: 5, ...at(-1) })
      yield* Jobs.enqueue("b", 1, { priority: -5, ...at(-20) })
      yield* Jobs.enqueue("b", 1, { payloadVersion: 2, ...at(-10) })
      yield* Jobs.enqueue("b", 1, { payloadVersion: 2, ...at(10) })
      assert.deepInclude(yield* find("oldestRunnable"), {
        verdict: "ok",
        value: 20,
        message: "A job of type b has been due for 20 seconds",
        rows: [{ jobType: "b", seconds: 20, due: 3 }]
      })
      yield* TestClock.adjust("40 seconds")
      assert.deepInclude(yield* find("oldestRunnable"), {
        verdict: "warn",
        value: 60,
        rows: [
          { jobType: "b", seconds: 60, due: 4 },
          { jobType: "a", seconds: 10, due: 1 }
        ]
      })
      yield* TestClock.adjust("539 seconds")
      assert.strictEqual(yield* verdictOf("oldestRunnable"), "warn")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* verdictOf("oldestRunnable"), "fail")
      assert.strictEqual(yield* verdictOf("oldestRunnable", { fail: 601 }), "warn")
      yield* Jobs.claim({ workerId: "w", types: ["a", { jobType: "b", maxPayloadVersion: 2 }], limit: 10 })
      assert.deepInclude(yield* find("oldestRunnable"), { verdict: "ok", value: 0 })
    })
  )

  it.effect("staleLeases: leases that ran out and that nobody ended", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a")
      yield* Jobs.enqueueMany([1, 2].map((payload) => ({ jobType: "a", payload })))
      const [job] = yield* Jobs.claim({ workerId: "gone", types: ["a"], limit: 1, lease: "1 second" })
      yield* Jobs.claim({ workerId: "alive", types: ["a"], limit: 1, lease: "1 hour" })
      assert.deepInclude(yield* find("staleLeases"), { verdict: "ok", value: 0, rows: [] })
      yield* TestClock.adjust("60 seconds")
      assert.deepInclude(yield* find("staleLeases"), {
        verdict: "ok",
        value: 59,
        rows: [{ jobId: job?.lease.jobId ?? "", jobType: "a", workerId: "gone", seconds: 59 }]
      })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* verdictOf("staleLeases"), "warn")
      yield* TestClock.adjust("4 minutes")
      assert.strictEqual(yield* verdictOf("staleLeases"), "fail")
      yield* Jobs.reapExpiredLeases({ limit: 10 })
      assert.deepInclude(yield* find("staleLeases"), { verdict: "ok", value: 0 })
    })
  )

  it.effect("intents: how long they wait to become jobs", () =>
    Effect.gen(function* () {
      assert.deepInclude(yield* find("intents"), { verdict: "ok", value: 0, message: "No intent waits" })
      const sql = yield* SqlClient
      const add = (jobType: string, key: string) => JobIntents.record(jobType, {}, { idempotencyKey: key })
      yield* add("b", "1")
      yield* TestClock.adjust("1 minute")
      yield* add("a", "2")
      yield* add("b", "3")
      const { intentId } = yield* add("c", "4")
      yield* sql`UPDATE runledger.job_enqueue_intents
        SET promotion_attempts = 7, last_attempted_at = updated_at, last_error_code = 'a', last_error_message = 'b'
        WHERE idempotency_key = '3'`
      yield* sql`
        UPDATE runledger.job_enqueue_intents SET
          status = 'CONFLICTED', conflicted_at = updated_at, promotion_attempts = 1, last_attempted_at = updated_at,
          last_error_code = 'a', last_error_message = 'b'
        WHERE id = ${intentId}`
      yield* TestClock.adjust("30 seconds")
      assert.deepInclude(yield* find("intents"), {
        verdict: "warn",
        value: 90,
        rows: [
          { jobType: "b", pending: 2, seconds: 90, attempts: 7 },
          { jobType: "a", pending: 1, seconds: 30, attempts: 0 }
        ]
      })
    }).pipe(rollback)
  )
})

/** Views of the server that cannot be made to say this on a server for tests, and what they would say. */
const stubs: ReadonlyArray<readonly [Health.Check, MutatedSqlClient.Edit, string, Health.Detail]> = [
  [
    "replication",
    {
      statement: "pg_replication_slots",
      search: "FROM pg_replication_slots s",
      replace: `FROM (
        VALUES ('kept', false, NULL::xid, '3'::xid), ('wanted', true, '3'::xid, NULL), ('free', true, NULL, NULL)
      ) AS s (slot_name, active, xmin, catalog_xmin)`
    },
    "slot",
    { kind: "slot", isActive: false }
  ],
  [
    "replication",
    {
      statement: "pg_stat_replication",
      search: "FROM pg_stat_replication r",
      replace: "FROM (VALUES ('replica', '3'::xid), ('quiet', NULL)) AS r (application_name, backend_xmin)"
    },
    "standby replica",
    { kind: "standby", name: "replica", isActive: true }
  ],
  [
    "vacuumHolders",
    {
      statement: "pg_prepared_xacts",
      search: "FROM pg_prepared_xacts p",
      replace: `FROM (
        VALUES
          ('two-phase', 'me', clock_timestamp() - interval '2000 seconds', '3'::xid, current_database()),
          ('elsewhere', 'me', clock_timestamp() - interval '9999 seconds', '3'::xid, 'other')
      ) AS p (gid, owner, prepared, transaction, database)`
    },
    "prepared transaction two-phase",
    { kind: "prepared transaction", name: "two-phase", role: "me", pid: null }
  ]
]

for (const [check, edit, message, detail] of stubs) {
  it.layer(Layer.merge(TestDatabase.layer, MutatedSqlClient.layer([edit])))(`${check}: ${message}`, (it) => {
    it.effect("is named", () =>
      Effect.gen(function* () {
        const finding = yield* find(check, { warn: 1 })
        assert.isTrue((yield* MutatedSqlClient.Statements).applied().has(edit))
        assert.strictEqual(finding.verdict, "warn")
        assert.include(finding.message, message)
        assert.strictEqual(finding.rows.length, message === "slot" ? 2 : 1)
        assert.isTrue(finding.rows.some((row) => Object.entries(detail).every(([key, value]) => row[key] === value)))
        assert.strictEqual(yield* verdictOf(check, { warn: 1, fail: 2 }), "fail")
      })
    )
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// Cost
// ---------------------------------------------------------------------------------------------------------------------

const plansOf = Effect.gen(function* () {
  const plans: Record<string, Plan> = {}
  for (const check of ["oldestRunnable", "staleLeases", "orphans"] as const) {
    const [statement, ...more] = yield* record(Health.check({ checks: [check] }))
    assert(statement !== undefined && more.length === 0)
    plans[check] = yield* Effect.gen(function* () {
      // as it is while the statement is planned
      yield* run("SET LOCAL enable_seqscan = off")
      return yield* (yield* prepare(statement)).explain(statement.parameters)
    }).pipe(rollback)
  }
  return plans
})

it.layer(TestDatabase.layer)("the cost of Health.check", (it) => {
  it.effect("orphans: in the midst of many rows they are found by chance", () =>
    Effect.gen(function* () {
      yield* run(`INSERT INTO runledger.job_events (job_id, seq, event_type, occurred_at)
        SELECT runledger.uuidv7(), 1, 'ENQUEUED', now() FROM generate_series(1, 100000)`)
      const { rows, value, verdict } = yield* find("orphans")
      assert.strictEqual(verdict, "fail")
      assert.strictEqual(value, 1000)
      assert.strictEqual(rows.length, 10)
    }).pipe(rollback)
  )

  it.effect(
    "has a bound, whatever is behind and ahead",
    () =>
      Effect.gen(function* () {
        yield* JobDefinitions.upsert("cost")
        yield* Jobs.enqueueMany(Array.from({ length: 20 }, (_, payload) => ({ jobType: "cost", payload })))
        yield* Jobs.claim({ workerId: "w", types: ["cost"], limit: 10 })
        yield* run("ANALYZE")
        const small = yield* plansOf
        yield* run(`
          WITH job AS (
            INSERT INTO runledger.job_queue (job_type, status, max_attempts, next_run_at, created_at, updated_at)
            SELECT 'cost', CASE WHEN n % 2 = 0 THEN 'SUCCEEDED' ELSE 'PENDING' END, 1, now() + interval '1 day', now(), now()
            FROM generate_series(1, 100000) n
            RETURNING id
          ), event AS (
            INSERT INTO runledger.job_events (job_id, seq, event_type, occurred_at) SELECT id, 1, 'ENQUEUED', now() FROM job
          )
          INSERT INTO runledger.job_attempts
            (job_id, attempt, worker_id, leased_at, lease_ms, finished_at, ended_as, leased_seq)
          SELECT id, 1, 'w', now(), 1, now(), 'CANCELED', 2 FROM job`)
        for (const statistics of ["stale", "fresh"]) {
          if (statistics === "fresh") yield* run("ANALYZE")
          const large = yield* plansOf
          for (const check of ["oldestRunnable", "staleLeases"]) {
            const [before, after] = [small[check]?.buffers ?? 0, large[check]?.buffers ?? 0]
            assert.isBelow(after, 2 * before + 60, `${check}, ${statistics} statistics`)
            assert.deepStrictEqual(large[check]?.scanned, [])
          }
          // four tables that are this large: their ends, and some 3,000 rows each on pages taken at random
          assert.isBelow(large.orphans?.buffers ?? 0, 80_000, `orphans, ${statistics} statistics`)
          assert.deepStrictEqual(large.orphans?.scanned, [])
        }
      }),
    120_000
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Watching
// ---------------------------------------------------------------------------------------------------------------------

/** What is logged, and the layer that logs it. */
const observed = () => {
  const lines: Array<string> = []
  const logger = Logger.make<unknown, void>(({ logLevel, message }) => {
    lines.push(`${logLevel}: ${Array.isArray(message) ? message[0] : message}`)
  })
  const start = (options: Health.WatchOptions) =>
    Effect.provide(Layer.build(Health.layer(options)), Logger.layer([logger]))
  return { lines, start }
}

const gauge = (
  metric: Metric.Metric<number, Metric.GaugeState<number>>,
  attributes: Readonly<Record<string, string>> = {}
) => Effect.map(Metric.value(Metric.withAttributes(metric, attributes)), ({ value }) => value)

/** Moves the clock on until it is so: whoever is to sleep may not do so yet. */
const adjustUntil = <E, R>(condition: Effect.Effect<boolean, E, R>) =>
  condition.pipe(
    Effect.tap((yes) => (yes ? Effect.void : Effect.andThen(TestClock.adjust("1 second"), sleepLive(5)))),
    Effect.repeat({ until: (yes) => yes })
  )

it.layer(TestDatabase.layerTestClock)("Health.layer", (it) => {
  it.effect("keeps gauges, and tells of verdicts that change, once each", () =>
    Effect.gen(function* () {
      yield* startOver
      const { lines, start } = observed()
      yield* JobDefinitions.upsert("a")
      yield* Jobs.enqueueMany([1, 2, 3].map((payload) => ({ jobType: "a", payload })))
      yield* Jobs.claim({ workerId: "gone", types: ["a"], limit: 1, lease: "1 second" })
      yield* TestClock.adjust("10 seconds")
      yield* start({
        interval: "2 seconds",
        checks: ["oldestRunnable", "staleLeases"],
        thresholds: { oldestRunnable: { warn: 10, fail: 3600 }, staleLeases: { warn: 20, fail: 20 } }
      })
      const told = (part: string) => adjustUntil(Effect.sync(() => lines.some((line) => line.includes(part))))
      yield* told("Warn: Health of oldestRunnable is now warn: A job of type a has been due for")
      assert.isAtLeast(yield* gauge(Health.oldestRunnableSeconds, { job_type: "a" }), 10)
      assert.strictEqual(yield* gauge(Health.dueJobs, { job_type: "a" }), 2)
      assert.strictEqual(yield* gauge(Health.expiredLeases), 1)
      assert.strictEqual(yield* gauge(Health.verdicts, { check: "oldestRunnable" }), 1)
      yield* told("Error: Health of staleLeases is now fail")
      assert.strictEqual(yield* gauge(Health.verdicts, { check: "staleLeases" }), 2)
      yield* Jobs.claim({ workerId: "w", types: ["a"], limit: 10, lease: "1 hour" })
      yield* told("Info: Health of oldestRunnable is now ok: Nothing is due")
      assert.strictEqual(yield* gauge(Health.oldestRunnableSeconds, { job_type: "a" }), 0)
      assert.strictEqual(yield* gauge(Health.dueJobs, { job_type: "a" }), 0)
      assert.strictEqual(lines.length, 3)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("refuses bad settings when it is built", () =>
    Effect.gen(function* () {
      for (const [argument, options] of [
        ["interval", { interval: 999 }],
        ["interval", { interval: "Infinity" }],
        ["checks", { checks: JSON.parse('["intends"]') }]
      ] as const) {
        const error = yield* Effect.flip(Layer.build(Health.layer(options)))
        assert.strictEqual(error.reason.argument, argument)
        assert.strictEqual(error.operation, "Health.layer")
      }
    })
  )
})

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)))("Health of a database that fails", (it) => {
  it.effect("check fails if the database answers nothing, and tells of a check that is refused", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      yield* faults.arm([{ match: /AS at$/, nth: 1, fault: FaultySqlClient.failBefore() }])
      assert.strictEqual((yield* refusal(Health.check())).code, "db.unavailable")
      yield* faults.arm([
        { match: /pg_notification_queue_usage/, nth: 1, fault: FaultySqlClient.dropConnection("before") }
      ])
      const { findings, verdict } = yield* Health.check()
      assert.strictEqual(verdict, "unknown")
      assert.deepStrictEqual(
        findings.filter((finding) => finding.verdict !== "ok").map(({ check, value }) => [check, value]),
        [["notifyQueue", undefined]]
      )
      assert.strictEqual((yield* Health.check()).verdict, "ok")
    })
  )

  it.effect("the layer warns, waits, and goes on", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      const { lines, start } = observed()
      const isAsked = /AS at$/
      const { failBefore, dropConnection, sqlState } = FaultySqlClient
      yield* faults.clear
      yield* faults.arm([
        { match: isAsked, nth: 1, fault: failBefore() },
        { match: isAsked, nth: 2, fault: failBefore(sqlState("57P01")) },
        { match: isAsked, nth: 3, fault: dropConnection("before") }
      ])
      yield* start({ interval: "1 hour", checks: ["orphans"], thresholds: { orphans: { warn: 0 } } })
      yield* adjustUntil(Effect.sync(() => lines.length === 4))
      assert.deepStrictEqual(lines, [
        ...Array.from({ length: 3 }, () => "Warn: Checking failed and is tried again"),
        "Warn: Health of orphans is now warn: Every row that was looked at has its job, run and step"
      ])
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
  )
})
