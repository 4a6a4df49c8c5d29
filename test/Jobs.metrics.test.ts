import { assert, it } from "@effect/vitest"
import { DateTime, type Duration, Effect, Option } from "effect"
import { BeginTransaction, SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { JobDefinitions, Jobs, type QueryError, type Reason, TenantScope } from "../src/index.ts"
import { type Plan, planWith, prepare, record } from "./support/plans.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const acme = "01980000-0000-7000-8000-00000000000a"
const { admin, global } = TenantScope
const organization = TenantScope.organization(acme)

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const zero = {
  isEnabled: Option.some(true),
  pending: 0,
  due: 0,
  dueSince: Option.none<DateTime.Utc>(),
  leased: 0,
  staleLeases: 0,
  succeeded: 0,
  retryable: 0,
  terminal: 0,
  panicked: 0,
  timeout: 0,
  leaseExpired: 0,
  canceled: 0,
  continued: 0,
  deadLettered: 0,
  p50DurationMillis: Option.none<number>(),
  p95DurationMillis: Option.none<number>()
}

/** The measures by type, without the type. */
const measured = (options: Jobs.MetricsOptions) =>
  Effect.map(Jobs.metrics(options), (rows) =>
    Object.fromEntries(rows.map(({ jobType, ...rest }) => [jobType, rest] as const))
  )

const slices = (options: Jobs.MetricsOptions) =>
  Effect.map(Jobs.continuationMetrics(options), (rows) =>
    Object.fromEntries(rows.map(({ jobType, ...rest }) => [jobType, rest] as const))
  )

const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters`
  yield* sql`TRUNCATE runledger.job_definitions CASCADE`
})

const claimOne = Effect.fnUntraced(function* (jobType: string, lease: Duration.Input = "1 minute") {
  const [job] = yield* Jobs.claim({ workerId: "w", types: [jobType], limit: 1, lease })
  return job === undefined ? assert.fail(`nothing of ${jobType} is due`) : job.lease
})

/** Gives the job a resource key. */
const withKey = (jobId: Jobs.JobId) =>
  SqlClient.use((sql) => sql`UPDATE runledger.job_queue SET execution_resource_key = 'key' WHERE id = ${jobId}`)

const fail = (lease: Jobs.Lease, kind: Jobs.FailureKind) =>
  Jobs.completeFailure(lease, { kind, code: "test", message: "told to" })

it.layer(TestDatabase.layerTestClock)("Jobs.metrics", (it) => {
  it.effect("tells waiting, due and leased jobs apart, and leases that have run out", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a")
      yield* JobDefinitions.upsert("off", { isEnabled: false })
      const now = yield* DateTime.now
      const at = (minutes: number) => DateTime.add(now, { minutes })
      for (const nextRunAt of [at(-7), at(-5), now, at(5)]) yield* Jobs.enqueue("a", 1, { runAt: nextRunAt })
      for (const nextRunAt of [at(9), at(-6)]) {
        yield* withKey((yield* Jobs.enqueue("a", 1, { runAt: nextRunAt })).jobId)
      }
      assert.deepStrictEqual(yield* measured({ scope: admin }), {
        a: { ...zero, pending: 6, due: 4, dueSince: Option.some(at(-7)) },
        off: { ...zero, isEnabled: Option.some(false) }
      })
      yield* claimOne("a", "1 minute")
      yield* claimOne("a", "2 minutes")
      yield* TestClock.adjust("1 minute")
      assert.deepInclude(yield* measured({ scope: admin }), {
        a: { ...zero, pending: 4, due: 2, dueSince: Option.some(at(-5)), leased: 2, staleLeases: 1 }
      })
    })
  )

  it.effect("counts how attempts ended in the window, by what they were, and nothing before", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a", { retry: { initial: 1, max: 1, jitter: 0 } })
      const enqueue = Effect.andThen(Jobs.enqueue("a", 1, { maxAttempts: 5 }), claimOne("a"))
      const ended = Effect.gen(function* () {
        yield* Jobs.completeSuccess(yield* enqueue)
        yield* Jobs.completeSuccess(yield* enqueue)
        yield* fail(yield* enqueue, "TERMINAL")
        yield* fail(yield* enqueue, "PANICKED")
        const lease = yield* enqueue
        yield* fail(lease, "RETRYABLE")
        yield* TestClock.adjust(1)
        yield* fail(yield* claimOne("a"), "TIMEOUT")
        yield* TestClock.adjust(1)
        yield* Jobs.cancel(global, (yield* claimOne("a")).jobId)
        yield* enqueue
        yield* TestClock.adjust("2 minutes")
        yield* Jobs.reapExpiredLeases({ limit: 10 })
        yield* TestClock.adjust(1)
        yield* Jobs.completeContinuation(yield* claimOne("a"), { delay: "30 days" })
      })
      yield* ended
      const once = {
        succeeded: 2,
        retryable: 1,
        terminal: 1,
        panicked: 1,
        timeout: 1,
        leaseExpired: 1,
        canceled: 1,
        continued: 1,
        deadLettered: 2
      }
      const twice = Object.fromEntries(Object.entries(once).map(([name, count]) => [name, 2 * count]))
      const row = (window?: Duration.Input) => Effect.map(Jobs.metrics({ scope: global, window }), ([first]) => first)
      assert.deepInclude(yield* row(), { ...once, pending: 1, due: 0, leased: 0 })
      yield* TestClock.adjust("23 hours")
      assert.deepInclude(yield* row(), once)
      yield* ended
      assert.deepInclude(yield* row(), twice)
      // the first half leaves the window
      yield* TestClock.adjust("2 hours")
      assert.deepInclude(yield* row(), once)
      assert.deepInclude(yield* row("2 days"), twice)
      assert.deepStrictEqual({ ...(yield* row("1 minute")) }, { jobType: "a", ...zero, pending: 2 })
    })
  )

  it.effect("says how long attempts took, waiting not included", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a")
      for (const seconds of [1, 2, 3, 4, 50]) {
        yield* Jobs.enqueue("a", 1)
        yield* TestClock.adjust("1 minute")
        const lease = yield* claimOne("a", "1 hour")
        yield* TestClock.adjust(seconds * 1000)
        yield* seconds === 4 ? fail(lease, "TERMINAL") : Jobs.completeSuccess(lease)
      }
      // leased ahead, never started
      yield* Jobs.enqueue("a", 1)
      const [ahead] = yield* Jobs.claimPrestart({ workerId: "w", types: ["a"], limit: 1 })
      yield* Jobs.cancel(admin, ahead?.lease.jobId ?? assert.fail("nothing was claimed"))
      const [row] = yield* Jobs.metrics({ scope: global })
      assert.deepStrictEqual(row?.p50DurationMillis, Option.some(3000))
      // between the fourth and the fifth: 4 s + 0.8 * 46 s
      assert.closeTo(Option.getOrThrow(row?.p95DurationMillis ?? Option.none()), 40_800, 1)
      assert.strictEqual(row?.canceled, 1)
    })
  )

  it.effect("counts what is in the scope; the types themselves are nobody's", () =>
    Effect.gen(function* () {
      yield* startOver
      yield* JobDefinitions.upsert("a")
      for (const organizationId of [acme, acme, undefined]) {
        for (let n = 0; n < 5; n++) yield* Jobs.enqueue("a", n, { organizationId })
      }
      const leases = yield* Jobs.claim({ workerId: "w", types: ["a"], limit: 12 })
      for (const { lease } of leases.filter((_, n) => n % 3 === 0)) yield* fail(lease, "TERMINAL")
      const keys = ["pending", "due", "leased", "terminal", "deadLettered"] as const
      const counts = Effect.fnUntraced(function* (scope: TenantScope.TenantScope) {
        const [row, ...more] = yield* Jobs.metrics({ scope })
        assert.deepStrictEqual([row?.jobType, more.length], ["a", 0])
        return keys.map((key) => row?.[key] ?? Number.NaN)
      })
      const all = yield* counts(admin)
      assert.deepStrictEqual(all, [3, 3, 8, 4, 4])
      const ours = yield* counts(organization)
      const nobodys = yield* counts(global)
      assert.isTrue(ours.every((n, index) => n + (nobodys[index] ?? 0) === all[index]))
      assert.strictEqual(
        ours
          .slice(0, 1)
          .concat(ours.slice(2, 4))
          .reduce((sum, n) => sum + n),
        10
      )
      assert.deepStrictEqual(
        yield* counts(TenantScope.organization("01980000-0000-7000-8000-00000000000b")),
        keys.map(() => 0)
      )
    })
  )

  it.effect("lists types without a definition as long as there is something to tell of them", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const types = ["dead", "ended", "keyed", "leased", "waiting"]
      for (const jobType of types) {
        yield* JobDefinitions.upsert(jobType)
        const { jobId } = yield* Jobs.enqueue(jobType, 1)
        if (jobType === "keyed") yield* withKey(jobId)
      }
      yield* Jobs.completeSuccess(yield* claimOne("ended"))
      yield* claimOne("leased")
      yield* fail(yield* claimOne("dead"), "TERMINAL")
      yield* sql`TRUNCATE runledger.job_definitions CASCADE`
      const listed = Effect.fnUntraced(function* (options: Partial<Jobs.MetricsOptions> = {}) {
        const rows = yield* Jobs.metrics({ scope: admin, ...options })
        const of = yield* Jobs.continuationMetrics({ scope: admin, ...options })
        assert.deepStrictEqual(
          of.map(({ jobType }) => jobType),
          rows.map(({ jobType }) => jobType)
        )
        assert.isTrue(rows.every(({ isEnabled }) => Option.isNone(isEnabled)))
        return rows.map(({ jobType }) => jobType)
      })
      assert.deepStrictEqual(yield* listed(), types)
      for (const jobType of types) assert.deepStrictEqual(yield* listed({ jobType }), [jobType])
      assert.deepStrictEqual(yield* listed({ jobType: "e" }), [])
      assert.deepStrictEqual(yield* listed({ limit: 2 }), ["dead", "ended"])
      assert.deepStrictEqual(yield* listed({ limit: 2, after: "ended" }), ["keyed", "leased"])
      assert.deepStrictEqual(yield* listed({ after: "kez" }), ["leased", "waiting"])
      assert.deepStrictEqual(yield* listed({ after: "waiting" }), [])
      yield* TestClock.adjust("2 days")
      assert.deepStrictEqual(yield* listed(), ["keyed", "leased", "waiting"])
    })
  )

  it.effect("continuationMetrics: slices in the window, and jobs that are in a later slice now", () =>
    Effect.gen(function* () {
      yield* startOver
      const none = { continued: 0, activeContinued: 0, maxActiveRunNumber: 0 }
      for (const jobType of ["a", "b"]) yield* JobDefinitions.upsert(jobType, { retry: { initial: 1, jitter: 0 } })
      assert.deepStrictEqual(yield* slices({ scope: global }), { a: none, b: none })
      const slice = Effect.fnUntraced(function* (times: number) {
        for (let n = 0; n < times; n++) yield* Jobs.completeContinuation(yield* claimOne("a", "10 days"))
      })
      // waits in its third run
      const waits = yield* Jobs.enqueue("a", 1)
      yield* slice(2)
      assert.deepStrictEqual(yield* slices({ scope: global }), {
        a: { continued: 2, activeContinued: 1, maxActiveRunNumber: 3 },
        b: none
      })
      // leased in its second attempt of it
      yield* fail(yield* claimOne("a"), "RETRYABLE")
      yield* TestClock.adjust(1)
      const lease = yield* claimOne("a", "10 days")
      assert.strictEqual(lease.jobId, waits.jobId)
      // done after its second; keyed, and in its first run; requeued without a continuation
      yield* Jobs.enqueue("a", 2)
      yield* slice(1)
      yield* Jobs.completeSuccess(yield* claimOne("a"))
      yield* withKey((yield* Jobs.enqueue("a", 3)).jobId)
      const sql = yield* SqlClient
      yield* Jobs.enqueue("b", 4)
      yield* sql`UPDATE runledger.job_queue SET run_number = 9 WHERE job_type = 'b'`
      const active = { activeContinued: 1, maxActiveRunNumber: 3 }
      assert.deepStrictEqual(yield* slices({ scope: global }), { a: { continued: 3, ...active }, b: none })
      assert.deepStrictEqual(yield* slices({ scope: organization }), { a: none, b: none })
      yield* TestClock.adjust("2 days")
      assert.deepStrictEqual(yield* slices({ scope: global, jobType: "a" }), { a: { continued: 0, ...active } })
      // a keyed one counts as well
      yield* sql`UPDATE runledger.job_queue SET execution_resource_key = 'k', status = 'PENDING' WHERE id = ${waits.jobId}`
      assert.deepStrictEqual(yield* slices({ scope: admin, jobType: "a" }), { a: { continued: 0, ...active } })
    })
  )

  it.effect("bad input is refused before anything is sent", () =>
    Effect.gen(function* () {
      for (const measure of [Jobs.metrics, Jobs.continuationMetrics]) {
        for (const [argument, bad] of [
          ["scope.organizationId", { scope: TenantScope.organization("me") }],
          ["jobType", { scope: admin, jobType: " " }],
          ["jobType", { scope: admin, jobType: "x".repeat(129) }],
          ["after", { scope: admin, after: "\0" }],
          ["window", { scope: admin, window: 0 }],
          ["window", { scope: admin, window: "32 days" }],
          ["window", { scope: admin, window: "Infinity" }]
        ] as const) {
          const reason = yield* refusal<unknown, Reason, SqlClient>(measure(bad))
          assert.strictEqual(reason._tag === "InvalidArgument" ? reason.argument : reason._tag, argument)
        }
        for (const limit of [0, 1001]) {
          const reason = yield* refusal<unknown, Reason, SqlClient>(measure({ scope: admin, limit }))
          assert.strictEqual(reason.code, "job.invalid_pagination")
        }
      }
    })
  )

  it.effect("joins the caller's transaction, of any isolation, and leaves its settings as they were", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      yield* rollback(
        Effect.gen(function* () {
          yield* JobDefinitions.upsert("a")
          yield* Jobs.enqueue("a", 1)
          yield* sql`SET LOCAL jit = on`
          assert.strictEqual((yield* Jobs.metrics({ scope: global }))[0]?.pending, 1)
          const [row] = yield* sql`SELECT current_setting('enable_seqscan') AS scans, current_setting('jit') AS jit`
          assert.deepStrictEqual(row, { scans: "on", jit: "on" })
        })
      )
      assert.deepStrictEqual(yield* Jobs.metrics({ scope: global }), [])
      yield* sql
        .withTransaction(Jobs.metrics({ scope: global }))
        .pipe(Effect.provideService(BeginTransaction, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"))
      const [row] = yield* sql`SELECT current_setting('enable_seqscan') AS scans`
      assert.deepStrictEqual(row, { scans: "on" })
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Cost
// ---------------------------------------------------------------------------------------------------------------------

const run = (text: string) => SqlClient.use((sql) => sql.unsafe(text))

/** Jobs that have ended long ago, with their attempts and some dead letters. */
const history = (count: number) =>
  run(`
    WITH job AS (
      INSERT INTO runledger.job_queue (
        job_type, organization_id, status, attempt, max_attempts, next_run_at, finished_at, created_at, updated_at
      )
      SELECT 'cost', CASE WHEN n % 2 = 0 THEN '${acme}'::uuid END, 'SUCCEEDED', 1, 3, at, at, at, at
      FROM generate_series(1, ${count}) n
      CROSS JOIN LATERAL (SELECT clock_timestamp() - interval '90 days' + n * interval '1 second') t (at)
      RETURNING id, created_at
    ), attempt AS (
      INSERT INTO runledger.job_attempts (
        job_id, attempt, worker_id, leased_at, lease_ms, started_at, finished_at, ended_as, leased_seq
      )
      SELECT id, 1, 'w', created_at, 60000, created_at, created_at, 'SUCCEEDED', 2 FROM job
    )
    INSERT INTO runledger.job_dead_letters (
      job_id, job_type, attempt, reason, failure_kind, payload_snapshot, failed_at, created_at
    )
    SELECT id, 'cost', 1, 'ATTEMPTS_EXHAUSTED', 'RETRYABLE', '{}', created_at, created_at FROM job LIMIT ${count} / 5`)

/** What is counted: few jobs of each kind. */
const lately = Effect.gen(function* () {
  yield* JobDefinitions.upsert("cost")
  for (const organizationId of [acme, undefined]) {
    yield* Jobs.enqueueMany(Array.from({ length: 40 }, (_, payload) => ({ jobType: "cost", payload, organizationId })))
  }
  const jobs = yield* Jobs.claim({ workerId: "w", types: ["cost"], limit: 40 })
  yield* Jobs.completeMany(
    jobs
      .slice(0, 30)
      .map(({ lease }, n) => (n % 3 === 0 ? { _tag: "Continuation", lease } : { _tag: "Success", lease }))
  )
})

const modes = ["force_custom_plan", "force_generic_plan"] as const
const scopes = { admin, global, organization }

const plansOf = Effect.gen(function* () {
  const plans = new Map<string, Plan>()
  for (const mode of modes) {
    for (const [name, scope] of Object.entries(scopes)) {
      for (const measure of ["metrics", "continuationMetrics"] as const) {
        for (const jobType of [undefined, "cost"]) {
          const operation: Effect.Effect<unknown, QueryError, SqlClient> = Jobs[measure]({ scope, jobType })
          const [statement, ...more] = yield* record(operation)
          assert(statement !== undefined && more.length === 0)
          const plan = yield* Effect.gen(function* () {
            // as the operation has it while its statement is planned
            yield* run("SET LOCAL enable_seqscan = off")
            yield* run("SET LOCAL jit = off")
            yield* planWith(mode)
            return yield* (yield* prepare(statement)).explain(statement.parameters)
          }).pipe(rollback)
          plans.set(`${measure} of ${name}, ${jobType ?? "all"}, ${mode}`, plan)
        }
      }
    }
  }
  return plans
})

const bounded = (small: ReadonlyMap<string, Plan>, large: ReadonlyMap<string, Plan>) =>
  [...large].flatMap(([name, { buffers, scanned }]) => [
    ...scanned.map((table) => `${name}: reads ${table} from end to end`),
    ...(buffers > 2 * (small.get(name)?.buffers ?? 0) + 150
      ? [`${name}: touches ${buffers} pages, ${small.get(name)?.buffers} without a history`]
      : [])
  ])

const withoutAutovacuum = Effect.forEach(["job_queue", "job_attempts", "job_dead_letters"], (table) =>
  run(`ALTER TABLE runledger.${table} SET (autovacuum_enabled = false)`)
)

it.layer(TestDatabase.layer)("the cost of metrics", (it) => {
  it.effect(
    "does not grow with what ended before the window, whatever statistics say",
    () =>
      Effect.gen(function* () {
        yield* withoutAutovacuum
        yield* lately
        // everything waits, as far as statistics know
        yield* run("ANALYZE runledger.job_queue")
        const small = yield* plansOf
        yield* rollback(
          Effect.gen(function* () {
            yield* history(100_000)
            yield* run("SELECT brin_summarize_new_values('runledger.idx_job_attempts_finished_at')")
            assert.deepStrictEqual(bounded(small, yield* plansOf), [], "stale statistics")
            yield* run("ANALYZE runledger.job_queue, runledger.job_attempts, runledger.job_dead_letters")
            assert.deepStrictEqual(bounded(small, yield* plansOf), [], "fresh statistics")
          })
        )
      }),
    180_000
  )
})
