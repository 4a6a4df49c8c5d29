/**
 * Statements of requeue, replay, redrive and correction that are broken on purpose, each in one way, and the checks that notice. A
 * check passes on the statements as they are and fails on every mutant that names it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs } from "../src/index.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { standing, until, waiters, waiting } from "./support/races.ts"
import * as Recovery from "./support/recovery.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { Statements, unchanged } = MutatedSqlClient
const { admin, get, global } = Recovery

const replayOf = (sourceJobId: Jobs.JobId): Jobs.ReplayRequest => ({
  scope: global,
  sourceJobId,
  expectedRunNumber: 1,
  requestKey: "k",
  reason: "why"
})

const redrive = (jobType: string, options: Partial<Jobs.RedriveOptions> = {}) =>
  Jobs.redriveDeadLetters({ scope: global, jobType, reason: "why", ...options })

/** Whether `self` waits for the lock of a transaction that stands. */
const waits = Effect.fnUntraced(function* <A, E, R, B, E2, R2>(
  first: Effect.Effect<A, E, R>,
  self: Effect.Effect<B, E2, R2>
) {
  const end = yield* standing(first)
  const fiber = yield* Effect.forkChild(Effect.exit(self))
  let waited = false
  yield* until(
    Effect.map(unchanged(waiters), (count) => {
      waited = count > 0
      return waited || fiber.pollUnsafe() !== undefined
    })
  )
  yield* end
  yield* Fiber.join(fiber)
  return waited
})

/** Runs `self`, which stops when its snapshot is taken, and goes on when `first` has committed. */
const withOldSnapshot = Effect.fnUntraced(function* <A, E, R, B, E2, R2>(
  self: Effect.Effect<A, E, R>,
  first: Effect.Effect<B, E2, R2>
) {
  const open = yield* standing(unchanged(gate))
  const fiber = yield* Effect.forkChild(Effect.exit(self))
  yield* unchanged(waiting(1))
  yield* unchanged(first)
  yield* open
  return yield* Fiber.join(fiber)
})

const gateKey = 4711
const gate = SqlClient.use((sql) => sql`SELECT pg_advisory_xact_lock(${gateKey}::integer)`)
const waitForGate = `(SELECT true FROM pg_advisory_xact_lock_shared(${gateKey})) AS waited`
const slowReplay = {
  statement: "INTO runledger.job_replays",
  search: "runledger.uuidv7() AS replay_id",
  replace: `$&, ${waitForGate}`
}
const slowRequeue = {
  statement: "'COMPARE_AND_REQUEUE'",
  search: /\$\d+::boolean AS resets/g,
  replace: `$&, ${waitForGate}`
}

type Check = Effect.Effect<void, unknown, SqlClient | Scope.Scope>

/** What is changed so that a check can force its order; applied with and without a mutant. */
const harness: Partial<Record<string, MutatedSqlClient.Edit>> = {
  "a replay that was committed behind the snapshot is found": slowReplay,
  "a requeue that was committed behind the snapshot is told": slowRequeue
}

const checks = {
  "a canceled handler is waited for": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const jobId = yield* Recovery.pending(type)
    yield* Recovery.claimOne(type)
    yield* Jobs.cancel(admin, jobId)
    assert.strictEqual((yield* Recovery.requeue(jobId))._tag, "CancellationNotQuiesced")
  }),
  "another run is a mismatch": Effect.gen(function* () {
    const jobId = yield* Recovery.deadLettered()
    const request = yield* Recovery.requeueRequest(jobId)
    assert.strictEqual((yield* Jobs.requeue({ ...request, expectedRunNumber: 2 }))._tag, "ExpectationMismatch")
    const source = yield* Recovery.succeeded()
    const replay = yield* Jobs.replay({ ...replayOf(source), expectedRunNumber: 2 })
    assert.strictEqual(replay._tag, "ExpectationMismatch")
  }),
  "steps are refused and skipped": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const { jobId } = yield* Recovery.stepJob("DEAD_LETTERED", type)
    const done = yield* Recovery.stepJob("SUCCEEDED")
    const refused = "job.workflow_requeue_not_supported"
    const request = yield* Recovery.requeueRequest(jobId)
    assert.strictEqual((yield* Effect.flip(Jobs.requeue(request))).code, refused)
    assert.strictEqual((yield* Effect.flip(Jobs.replay(replayOf(done.jobId)))).code, refused)
    assert.deepInclude(yield* redrive(type), { jobs: [], workflowJobs: 1 })
    assert.strictEqual((yield* get(jobId)).runNumber, 1)
    assert.deepInclude(yield* redrive(type), { workflowJobs: 0 })
  }),
  "the event belongs to the run that has ended": Effect.gen(function* () {
    const jobId = yield* Recovery.deadLettered()
    yield* Recovery.requeue(jobId)
    assert.strictEqual((yield* Recovery.lastEvent(jobId)).runNumber, 1)
  }),
  "what was requeued is off the list, and counted no more": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const jobId = yield* Recovery.deadLettered(type)
    yield* Recovery.requeue(jobId)
    assert.deepInclude(yield* redrive(type), { jobs: [], held: 0 })
    yield* Recovery.failOne(type)
    assert.strictEqual((yield* redrive(type)).jobs.length, 1)
    assert.deepInclude(yield* redrive(type), { jobs: [], held: 0 })
  }),
  "the oldest go first": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const first = yield* Recovery.deadLettered(type)
    yield* Recovery.deadLettered(type)
    assert.deepStrictEqual(
      (yield* redrive(type, { limit: 1 })).jobs.map(({ jobId }) => jobId),
      [first]
    )
  }),
  "nobody waits": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const jobId = yield* Recovery.deadLettered(type)
    const request = yield* Recovery.requeueRequest(jobId)
    const waited = [yield* waits(Jobs.requeue(request), Jobs.requeue(request))]
    yield* Recovery.failOne(type)
    waited.push(yield* waits(redrive(type), redrive(type)))
    const source = yield* Recovery.succeeded()
    waited.push(yield* waits(Jobs.replay(replayOf(source)), Jobs.replay(replayOf(source))))
    assert.deepStrictEqual(waited, [false, false, false])
  }),
  "a limit is a limit, also of locks": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    for (let n = 0; n < 3; n++) yield* Recovery.deadLettered(type)
    const end = yield* standing(redrive(type, { limit: 1 }))
    const other = yield* redrive(type)
    yield* end
    assert.deepStrictEqual([other.jobs.length, other.held], [2, 1])
  }),
  "a replay is compared with its retry": Effect.gen(function* () {
    const source = yield* Recovery.succeeded()
    yield* Jobs.replay(replayOf(source))
    const error = yield* Effect.flip(Jobs.replay({ ...replayOf(source), reason: "another" }))
    assert.strictEqual(error.code, "job.replay_idempotency_conflict")
  }),
  "a disabled type is not replayed": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const source = yield* Recovery.succeeded(type)
    yield* JobDefinitions.update(type, { isEnabled: false })
    assert.strictEqual((yield* Effect.flip(Jobs.replay(replayOf(source)))).code, "job.definition_not_found_or_disabled")
  }),
  "a replay that was committed behind the snapshot is found": Effect.gen(function* () {
    const source = yield* Recovery.succeeded()
    const exit = yield* withOldSnapshot(Jobs.replay(replayOf(source)), Jobs.replay(replayOf(source)))
    if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
    assert.deepNestedInclude(exit.value, { _tag: "Replayed", "replay.disposition": "existing" })
  }),
  "a requeue that was committed behind the snapshot is told": Effect.gen(function* () {
    const jobId = yield* Recovery.deadLettered()
    const request = yield* Recovery.requeueRequest(jobId)
    const exit = yield* withOldSnapshot(Jobs.requeue(request), Jobs.requeue(request))
    if (Exit.isFailure(exit)) return yield* Effect.failCause(exit.cause)
    assert.strictEqual(exit.value._tag, "ExpectationMismatch")
    assert.strictEqual((yield* get(jobId)).runNumber, 2)
  }),
  "only what was never claimed is corrected": Effect.gen(function* () {
    const type = yield* Recovery.makeType
    const jobId = yield* Recovery.pending(type)
    const { lease } = yield* Recovery.claimOne(type)
    yield* Jobs.completeFailure(lease, { kind: "RETRYABLE", code: "c", message: "m" })
    assert.strictEqual((yield* Jobs.updatePendingPayload(global, jobId, type, 2))._tag, "NotPendingOrClaimed")
    const keyed = yield* Recovery.pending(type, { idempotencyKey: "k" })
    assert.strictEqual((yield* Jobs.updatePendingPayload(global, keyed, type, 2))._tag, "IdempotentRequestSnapshot")
    const other = yield* Recovery.pending(type)
    const outcome = yield* Jobs.updatePendingPayload(global, other, type, 2, { expected: 3 })
    assert.strictEqual(outcome._tag, "PayloadMismatch")
    assert.deepStrictEqual(
      Option.map(yield* Jobs.get(global, other), ({ payload }) => payload),
      Option.some({ n: 1 })
    )
  })
} satisfies Readonly<Record<string, Check>>

type CheckName = keyof typeof checks
const names = Object.keys(checks).filter((name): name is CheckName => name in checks)

const requeue = "'COMPARE_AND_REQUEUE'"
const redriving = "'DEAD_LETTER_REDRIVE'"
const replaying = "INTO runledger.job_replays"
const correcting = "'too large'"

const mutant = (
  name: string,
  statement: string,
  search: string | RegExp,
  replace: string,
  ...noticing: ReadonlyArray<CheckName>
) => ({ name, edits: [{ statement, search, replace }], checks: noticing })

const mutants = [
  mutant(
    "a canceled handler is not waited for",
    requeue,
    /q\.lease_expires_at IS NULL OR q\.lease_expires_at <= [a-z_]+\(\)/g,
    "true",
    "a canceled handler is waited for"
  ),
  mutant(
    "the run is not compared by a requeue",
    requeue,
    "AND q.run_number = (SELECT expected_run_number FROM input)",
    "",
    "another run is a mismatch"
  ),
  mutant(
    "the run is not compared by a replay",
    replaying,
    "AND q.run_number = (SELECT run_number FROM input)",
    "",
    "another run is a mismatch"
  ),
  mutant("steps are requeued", requeue, "AND q.workflow_run_id IS NULL", "", "steps are refused and skipped"),
  mutant("steps are replayed", replaying, "AND q.workflow_run_id IS NULL", "", "steps are refused and skipped"),
  mutant(
    "steps are redriven",
    redriving,
    "SELECT * FROM locked WHERE workflow_run_id IS NULL",
    "SELECT * FROM locked",
    "steps are refused and skipped"
  ),
  mutant(
    "steps stay on the list",
    redriving,
    "WHERE d.job_id = ANY (ARRAY(SELECT id FROM locked))",
    "WHERE d.job_id = ANY (ARRAY(SELECT id FROM requeueing))",
    "steps are refused and skipped"
  ),
  mutant(
    "the event belongs to the new run",
    requeue,
    "l.event_seq + 1, l.run_number,",
    "l.event_seq + 1, l.run_number + 1,",
    "the event belongs to the run that has ended"
  ),
  mutant(
    "a requeue leaves the dead letter on the list",
    requeue,
    "SET settled_run_number = d.run_number",
    "SET settled_run_number = NULL",
    "what was requeued is off the list, and counted no more"
  ),
  mutant(
    "a redrive leaves the dead letter on the list",
    redriving,
    "SET settled_run_number = d.run_number",
    "SET settled_run_number = NULL",
    "what was requeued is off the list, and counted no more"
  ),
  mutant(
    "a redrive looks at what was redriven",
    redriving,
    "WHERE d.settled_run_number IS DISTINCT FROM d.run_number",
    "WHERE true",
    "what was requeued is off the list, and counted no more"
  ),
  mutant(
    "a dead letter that was settled once is settled for ever",
    redriving,
    "WHERE d.settled_run_number IS DISTINCT FROM d.run_number",
    "WHERE d.settled_run_number IS NULL",
    "what was requeued is off the list, and counted no more"
  ),
  mutant(
    "the youngest go first",
    redriving,
    "ORDER BY d.failed_at, d.job_id",
    "ORDER BY d.failed_at DESC",
    "the oldest go first"
  ),
  mutant(
    "every candidate is locked",
    redriving,
    /\) q\n {6}LIMIT (\$\d+)/g,
    ") q\n      ORDER BY c.run_number, q.id\n      LIMIT $1",
    "a limit is a limit, also of locks"
  ),
  ...[requeue, redriving, replaying].map((statement) =>
    mutant(
      `${statement} waits for a lock`,
      statement,
      "FOR NO KEY UPDATE SKIP LOCKED",
      "FOR NO KEY UPDATE",
      "nobody waits"
    )
  ),
  mutant(
    "the reason is not compared",
    replaying,
    "WHEN e.reason = i.reason THEN 'existing'",
    "WHEN e.reason IS NOT NULL THEN 'existing'",
    "a replay is compared with its retry"
  ),
  mutant(
    "a disabled type is replayed",
    replaying,
    "AND EXISTS (SELECT FROM definition WHERE is_enabled)",
    "",
    "a disabled type is not replayed"
  ),
  mutant(
    "a replay behind the snapshot is an error",
    replaying,
    "ON CONFLICT DO NOTHING",
    "",
    "a replay that was committed behind the snapshot is found"
  ),
  mutant(
    "a requeue behind the snapshot is busy for ever",
    requeue,
    "WHEN s.status <> i.expected_status OR s.run_number <> i.expected_run_number THEN 'mismatch'",
    "WHEN false THEN 'mismatch'",
    "a requeue that was committed behind the snapshot is told"
  ),
  mutant("a retry is corrected", correcting, "AND q.attempt = 0", "", "only what was never claimed is corrected"),
  {
    name: "a job with a key is corrected",
    edits: [
      { statement: correcting, search: "AND q.idempotency_key IS NULL", replace: "" },
      { statement: correcting, search: "AND q.enqueue_request IS NULL", replace: "" }
    ],
    checks: ["only what was never claimed is corrected"] satisfies ReadonlyArray<CheckName>
  },
  mutant(
    "what was expected is not compared",
    correcting,
    /q\.payload = \$\d+::jsonb(?!\s+AS)/g,
    "($& OR true)",
    "only what was never claimed is corrected"
  )
]

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })(
  "recovery of jobs, broken on purpose",
  (it) => {
    const judge = Effect.fnUntraced(function* (name: CheckName, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
      const check: Check = checks[name]
      const forced = harness[name]
      return yield* Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(check))
        return { exit, statements: yield* Statements }
      }).pipe(Effect.provide(MutatedSqlClient.layer(forced === undefined ? edits : [...edits, forced])))
    })

    for (const name of names) {
      it.effect(`as it is, ${name}`, () => Effect.flatMap(judge(name, []), ({ exit }) => exit))
    }

    for (const { name, edits, checks: noticing } of mutants) {
      it.effect(`${name}: noticed by "${noticing.join('" and "')}"`, () =>
        Effect.forEach(
          noticing,
          Effect.fnUntraced(function* (check) {
            const { exit, statements } = yield* judge(check, edits)
            // neither a mutant that changes nothing nor one that is no SQL would say anything about the check
            assert.deepStrictEqual(
              edits.filter((edit) => !statements.applied().has(edit)),
              []
            )
            const sql = yield* SqlClient
            for (const { statement } of edits) {
              const sent = statements.last(statement)
              if (sent !== undefined) yield* sql.unsafe(`EXPLAIN ${sent.text}`, sent.params)
            }
            assert.isTrue(Exit.isFailure(exit), `"${check}" did not notice`)
          }),
          { discard: true }
        )
      )
    }

    it("no check is there for nothing, and no mutant twice", () => {
      const noticing = new Set<string>(mutants.flatMap((mutant) => [...mutant.checks]))
      assert.deepStrictEqual(
        names.filter((name) => !noticing.has(name)),
        []
      )
      assert.strictEqual(new Set(mutants.map(({ name }) => name)).size, mutants.length)
    })
  }
)
