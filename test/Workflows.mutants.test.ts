/**
 * Statements of the lock protocol and of settling that are broken on purpose, each in one way, and the checks that notice. A
 * check passes on the statements as they are and fails on every mutant that names it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Jobs, TenantScope, Workflows } from "../src/index.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { standing, until, waiters } from "./support/races.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import {
  assertConsistent,
  claim,
  declare,
  enqueue,
  gate,
  runStatus,
  statuses,
  step,
  work
} from "./support/workflows.ts"

const { Statements, unchanged } = MutatedSqlClient

const scope = TenantScope.global

const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`
    TRUNCATE runledger.job_queue, runledger.job_attempts, runledger.job_events, runledger.job_dead_letters,
      runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies CASCADE
  `
  yield* declare
})

const leaseOf = (leases: ReadonlyMap<string, Jobs.Lease>, stepKey: string) =>
  leases.get(stepKey) ?? assert.fail(`${stepKey} was not claimed`)

/** Ends the given steps, each in an operation of its own. */
const finish = (leases: ReadonlyMap<string, Jobs.Lease>, ...keys: ReadonlyArray<string>) =>
  Effect.forEach(keys, (key) => Jobs.completeSuccess(leaseOf(leases, key), { output: key }), { discard: true })

/** Ends the transaction that others wait for, as soon as they wait or have ended without. */
const whileStanding = Effect.fnUntraced(function* <A, E, R, B, E2, R2>(
  first: Effect.Effect<A, E, R>,
  second: Effect.Effect<B, E2, R2>
) {
  const end = yield* standing(first)
  const fiber = yield* Effect.forkChild(Effect.exit(second))
  yield* until(Effect.map(unchanged(waiters), (count) => count > 0 || fiber.pollUnsafe() !== undefined))
  yield* end
  return yield* Fiber.join(fiber)
})

type Check = Effect.Effect<void, unknown, SqlClient | Scope.Scope>

const checks = {
  "two completions at once release their join": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
    const leases = yield* claim()
    const exit = yield* whileStanding(finish(leases, "a"), finish(leases, "b"))
    assert.isTrue(Exit.isSuccess(exit))
    yield* assertConsistent
    assert.deepInclude(yield* statuses(run.id), { join: "ENQUEUED" })
  }),
  "a completion sees the append that it waited for": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), gate("w")])
    const leases = yield* claim()
    const append = Workflows.append(scope, run.id, {
      mutationKey: "more",
      windowStepKey: "w",
      steps: [step("b", { after: ["a"] })]
    })
    const exit = yield* whileStanding(append, finish(leases, "a"))
    assert.isTrue(Exit.isSuccess(exit))
    yield* assertConsistent
    assert.deepInclude(yield* statuses(run.id), { b: "ENQUEUED" })
  }),
  "a batch leaves a locked run alone": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
    yield* enqueue([step("c")])
    const leases = yield* claim()
    const batch = Jobs.completeMany(["b", "c"].map((key) => ({ _tag: "Success", lease: leaseOf(leases, key) })))
    const end = yield* standing(finish(leases, "a"))
    const fiber = yield* Effect.forkChild(batch)
    // the free run is done first, or everything waits
    const ended = Effect.map(Jobs.count({ scope: TenantScope.admin, status: "SUCCEEDED" }), (jobs) => jobs > 0)
    yield* until(
      Effect.zipWith(
        ended,
        Effect.map(unchanged(waiters), (n) => n > 0),
        (a, b) => a || b
      )
    )
    const held = yield* waiters
    yield* end
    yield* Fiber.join(fiber)
    assert.strictEqual(held, 0)
    yield* assertConsistent
    assert.deepInclude(yield* statuses(run.id), { join: "ENQUEUED" })
  }),
  "a failure cancels its dependents, and theirs": Effect.gen(function* () {
    const run = yield* enqueue([
      step("a"),
      step("b", { after: ["a"] }),
      step("c", { after: ["b"] }),
      step("d", { afterTerminal: ["c"] })
    ])
    yield* work(["a"])
    yield* assertConsistent
    assert.deepStrictEqual(yield* statuses(run.id), { a: "FAILED", b: "CANCELED", c: "CANCELED", d: "ENQUEUED" })
  }),
  "a failure is remembered until the last prerequisite ends": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
    const leases = yield* claim()
    yield* Jobs.completeFailure(leaseOf(leases, "a"), { kind: "TERMINAL", code: "test.failed", message: "told to" })
    yield* finish(leases, "b")
    yield* assertConsistent
    assert.deepInclude(yield* statuses(run.id), { join: "CANCELED" })
  }),
  "the run counts its steps, and ends with the last": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), gate("g", { after: ["a"] })], { resultStepKey: "g" })
    yield* work()
    yield* assertConsistent
    assert.strictEqual(yield* runStatus(run.id), "WAITING_FOR_EXTERNAL")
    yield* Workflows.completeExternal(scope, run.id, "g", { status: "SUCCEEDED", output: "g" })
    yield* assertConsistent
    assert.strictEqual(yield* runStatus(run.id), "SUCCEEDED")
    const sql = yield* SqlClient
    assert.deepStrictEqual(yield* sql`SELECT result FROM runledger.workflow_runs`, [{ result: "g" }])
  }),
  "a retry of a key with another request is refused": Effect.gen(function* () {
    const options = { idempotencyKey: "one" }
    yield* enqueue([step("a")], options)
    const other = yield* Effect.exit(enqueue([step("b")], options))
    assert.isTrue(Exit.isFailure(other))
  }),
  "a retry of a key is answered with its run": Effect.gen(function* () {
    const options = { idempotencyKey: "one" }
    const first = yield* enqueue([step("a"), step("b")], options)
    const again = yield* enqueue([step("b"), step("a")], options)
    assert.strictEqual(again.id, first.id)
  }),
  "an append is compared with its retry": Effect.gen(function* () {
    const run = yield* enqueue([gate("w")])
    const append = (payload: number) =>
      Workflows.append(scope, run.id, { mutationKey: "more", windowStepKey: "w", steps: [step("a", { payload })] })
    yield* append(1)
    assert.isTrue(Exit.isFailure(yield* Effect.exit(append(2))))
    assert.strictEqual((yield* append(1)).disposition, "existing")
  }),
  "a step is released when its last prerequisite ends, once": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), step("b"), step("join", { afterTerminal: ["a", "b"] })])
    const leases = yield* claim()
    yield* finish(leases, "a")
    yield* assertConsistent
    yield* finish(leases, "b")
    yield* assertConsistent
    const sql = yield* SqlClient
    const jobs = yield* sql`SELECT FROM runledger.job_queue WHERE workflow_run_id = ${run.id}::uuid`
    assert.strictEqual(jobs.length, 3)
  }),
  "an active key is given back at the end, but not while a canceled handler is at work": Effect.gen(function* () {
    const request = { workflowType: "test", activeKey: "one", steps: [step("a")] }
    const { run } = yield* Workflows.enqueueOrGetActive(request)
    yield* work()
    const second = yield* Workflows.enqueueOrGetActive(request)
    assert.notStrictEqual(second.run.id, run.id)
    yield* claim()
    yield* Workflows.cancel(scope, second.run.id)
    assert.strictEqual((yield* Workflows.enqueueOrGetActive(request)).disposition, "active")
    yield* Jobs.reapExpiredLeases({ limit: 10 })
    assert.strictEqual((yield* Workflows.enqueueOrGetActive(request)).disposition, "active")
  }),
  "the cancellation of a run takes everything with it": Effect.gen(function* () {
    const run = yield* enqueue([step("a"), step("b", { after: ["a"] }), gate("g"), step("c", { after: ["b", "g"] })])
    yield* claim()
    yield* Workflows.cancel(scope, run.id)
    yield* assertConsistent
    const jobs = yield* Jobs.list({ scope: TenantScope.admin })
    assert.deepStrictEqual(
      jobs.map(({ status }) => status),
      ["CANCELED"]
    )
  })
} satisfies Record<string, Check>

type CheckName = keyof typeof checks

const isCheck = (name: string): name is CheckName => name in checks

const names = Object.keys(checks).filter(isCheck)

interface Mutant {
  readonly name: string
  readonly edits: ReadonlyArray<MutatedSqlClient.Edit>
  readonly checks: ReadonlyArray<CheckName>
}

const round = "met AS MATERIALIZED"
const lock = "i.callers_lock_timeout"
const found = "r.enqueue_request = i.request THEN 'existing'"
const mutation = "AS is_known"
const cancelRun = "steps_open = 0"
const inserting = "item AS MATERIALIZED"

const mutant = (
  name: string,
  statement: string,
  search: string | RegExp,
  replace: string,
  ...noticing: ReadonlyArray<CheckName>
): Mutant => ({ name, edits: [{ statement, search, replace }], checks: noticing })

const mutants: ReadonlyArray<Mutant> = [
  mutant(
    "the run is not locked",
    lock,
    "FOR NO KEY UPDATE",
    "",
    "two completions at once release their join",
    "a completion sees the append that it waited for"
  ),
  mutant(
    "a batch waits for its runs",
    "FROM runledger.workflow_runs r\n      WHERE r.id = ANY",
    "FOR NO KEY UPDATE SKIP LOCKED",
    "FOR NO KEY UPDATE",
    "a batch leaves a locked run alone"
  ),
  mutant(
    "the cascade is dropped",
    round,
    "j.becomes = 'CANCELED' AND j.status = 'BLOCKED'",
    "false",
    "a failure cancels its dependents, and theirs"
  ),
  mutant(
    "unsatisfied is not counted",
    round,
    "dependency_count_unsatisfied = s.dependency_count_unsatisfied + j.unsatisfied",
    "dependency_count_unsatisfied = s.dependency_count_unsatisfied",
    "a failure is remembered until the last prerequisite ends"
  ),
  mutant(
    "only the last prerequisite is judged",
    round,
    "WHEN s.dependency_count_unsatisfied + m.unsatisfied > 0",
    "WHEN m.unsatisfied > 0",
    "a failure is remembered until the last prerequisite ends"
  ),
  mutant(
    "any end satisfies",
    round,
    "d.release_mode = 'ON_SUCCESS' AND e.status <> 'SUCCEEDED'",
    "false",
    "a failure cancels its dependents, and theirs"
  ),
  mutant(
    "prerequisites are not counted down",
    round,
    "dependency_count_pending = s.dependency_count_pending - j.met",
    "dependency_count_pending = s.dependency_count_pending",
    "a step is released when its last prerequisite ends, once"
  ),
  mutant(
    "the first prerequisite releases, and the last again",
    round,
    "s.status <> 'BLOCKED' OR s.dependency_count_pending > m.met OR",
    "",
    "a step is released when its last prerequisite ends, once"
  ),
  mutant(
    "the run does not count",
    round,
    "steps_open = n.open",
    "steps_open = r.steps_open",
    "the run counts its steps, and ends with the last"
  ),
  mutant(
    "the run does not count what waits",
    round,
    "steps_waiting = n.waiting",
    "steps_waiting = r.steps_waiting",
    "the run counts its steps, and ends with the last"
  ),
  mutant(
    "the run has no result",
    round,
    "AND n.status = 'SUCCEEDED' THEN",
    "AND false THEN",
    "the run counts its steps, and ends with the last"
  ),
  mutant(
    "a step has no job",
    round,
    "job_id = COALESCE(j.new_job_id, s.job_id)",
    "job_id = s.job_id",
    "a step is released when its last prerequisite ends, once"
  ),
  mutant(
    "the snapshot of the run is not compared",
    found,
    "WHEN r.enqueue_request = i.request THEN 'existing'",
    "WHEN true THEN 'existing'",
    "a retry of a key with another request is refused"
  ),
  mutant(
    "no snapshot is equal",
    found,
    "WHEN r.enqueue_request = i.request THEN 'existing'",
    "WHEN false THEN 'existing'",
    "a retry of a key is answered with its run"
  ),
  mutant(
    "appends are not compared",
    mutation,
    /m\.request = \$\d+::jsonb/g,
    "($& OR true)",
    "an append is compared with its retry"
  ),
  mutant(
    "the key is not given back",
    round,
    "DELETE FROM runledger.workflow_active_claims c\n      WHERE",
    "DELETE FROM runledger.workflow_active_claims c\n      WHERE false AND",
    "an active key is given back at the end, but not while a canceled handler is at work"
  ),
  {
    name: "the key is given back at once",
    // a row that one part of a statement has written is passed by for the other
    edits: [
      {
        statement: "ended_run r JOIN told",
        search: "(SELECT clock FROM at)) IS NOT TRUE",
        replace: "(SELECT clock FROM at)) IS DISTINCT FROM NULL"
      },
      {
        statement: "ended_run r JOIN told",
        search: /SET release_pending = true, [^\n]+\n\s+WHERE/g,
        replace: "$& false AND"
      }
    ],
    checks: ["an active key is given back at the end, but not while a canceled handler is at work"]
  },
  mutant(
    "the reaper gives every key back",
    "SELECT DISTINCT e.workflow_run_id",
    "IS NOT TRUE",
    "IS NOT NULL",
    "an active key is given back at the end, but not while a canceled handler is at work"
  ),
  mutant(
    "a step names the prerequisites of its neighbor",
    inserting,
    "p.ids[e.after + 1:e.until]",
    "p.ids[e.after:e.until - 1]",
    "two completions at once release their join",
    "a completion sees the append that it waited for"
  ),
  mutant(
    "all edges begin at one step",
    inserting,
    "p.ids[e.place]",
    "p.ids[1]",
    "a failure cancels its dependents, and theirs"
  ),
  mutant(
    "all steps that begin have one job",
    inserting,
    "CASE WHEN i.status = 'ENQUEUED' THEN s.ids[width_bucket(i.ordinal, s.ordinals)] END",
    "CASE WHEN i.status = 'ENQUEUED' THEN s.ids[1] END",
    "two completions at once release their join"
  ),
  mutant(
    "a canceled run keeps its counts",
    cancelRun,
    "steps_waiting = 0",
    "steps_waiting = r.steps_waiting",
    "the cancellation of a run takes everything with it"
  ),
  mutant(
    "a canceled run leaves its steps",
    cancelRun,
    "s.status NOT IN ('SUCCEEDED', 'FAILED', 'CANCELED')",
    "s.status = 'BLOCKED'",
    "the cancellation of a run takes everything with it"
  ),
  mutant(
    "a canceled run leaves the counters of its steps",
    "SET dependency_count_pending = 0",
    "t.dependency_count_pending > 0",
    "false",
    "the cancellation of a run takes everything with it"
  )
]

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })(
  "Workflows, broken on purpose",
  (it) => {
    const judge = Effect.fnUntraced(function* (name: CheckName, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
      yield* startOver
      const check: Check = checks[name]
      return yield* Effect.gen(function* () {
        const exit = yield* Effect.exit(Effect.scoped(check))
        return { exit, statements: yield* Statements }
      }).pipe(Effect.provide(MutatedSqlClient.layer(edits)))
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
      const noticing = new Set(mutants.flatMap((mutant) => mutant.checks))
      assert.deepStrictEqual(
        names.filter((name) => !noticing.has(name)),
        []
      )
      assert.strictEqual(new Set(mutants.map(({ name }) => name)).size, mutants.length)
    })
  }
)
