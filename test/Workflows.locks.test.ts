/**
 * The lock protocol of `src/workflows/lock.ts`: forced orders over several connections, and many at once.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Result } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, Jobs, type QueryError, TenantScope, Workflows } from "../src/index.ts"
import { standing, until, waiters, waiting } from "./support/races.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import {
  assertConsistent,
  claim,
  declare,
  enqueue,
  gate,
  jobType,
  runStatus,
  statuses,
  step
} from "./support/workflows.ts"

type Operation = Effect.Effect<unknown, QueryError, SqlClient>

/** The lease of a step that was claimed. */
const leaseOf = (leases: ReadonlyMap<string, Jobs.Lease>, stepKey: string): Jobs.Lease =>
  leases.get(stepKey) ?? assert.fail(`${stepKey} was not claimed`)

/** Takes the row of a run, as whatever ends one of its steps does. */
const lockRun = (runId: Workflows.WorkflowRunId) =>
  SqlClient.use((sql) => sql`SELECT FROM runledger.workflow_runs WHERE id = ${runId}::uuid FOR NO KEY UPDATE`)

/** The reason of a failed operation; an answer is a mistake of the test. */
const reasonOf = <A, R>(self: Effect.Effect<A, QueryError, R>) =>
  Effect.match(self, { onFailure: ({ reason }) => reason, onSuccess: () => assert.fail("it was to fail") })

/** How many jobs each step has had. */
const jobsOf = (runId: Workflows.WorkflowRunId) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql<{ step_key: string; jobs: number }>`
        SELECT s.step_key, (
          SELECT count(*)::integer FROM runledger.job_queue q
          WHERE q.workflow_run_id = s.workflow_run_id AND q.workflow_step_id = s.id
        ) AS jobs
        FROM runledger.workflow_steps s
        WHERE s.workflow_run_id = ${runId}::uuid
      `,
      (rows) => Object.fromEntries(rows.map((row) => [row.step_key, row.jobs]))
    )
  )

/** Nobody has work for anybody else: the tests of this file share a database, one after the other. */
const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  for (const table of ["job_queue", "job_attempts", "job_events", "job_dead_letters"]) {
    yield* sql`DELETE FROM runledger.${sql(table)}`
  }
  yield* sql`TRUNCATE runledger.workflow_runs, runledger.workflow_steps, runledger.workflow_step_dependencies CASCADE`
  yield* declare
})

it.layer(TestDatabase.layerWith({ maxConnections: 20 }), { timeout: "60 seconds" })("Workflows, in order", (it) => {
  it.effect("two completions of one run at once: the join is released once, by the second", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a"), step("b"), step("join", { after: ["a", "b"] })])
      const leases = yield* claim()
      const release = yield* standing(lockRun(run.id))
      const both = yield* Effect.forkChild(
        Effect.forEach(["a", "b"], (key) => Jobs.completeSuccess(leaseOf(leases, key)), { concurrency: 2 })
      )
      yield* waiting(2)
      assert.deepStrictEqual(yield* statuses(run.id), { a: "RUNNING", b: "RUNNING", join: "BLOCKED" })
      yield* release
      yield* Fiber.join(both)
      assert.deepStrictEqual(yield* statuses(run.id), { a: "SUCCEEDED", b: "SUCCEEDED", join: "ENQUEUED" })
      assert.deepStrictEqual(yield* jobsOf(run.id), { a: 1, b: 1, join: 1 })
      yield* assertConsistent
    })
  )

  for (const first of ["completion", "cancellation"] as const) {
    it.effect(`a completion and the cancellation of its job at once: the ${first} wins, and the other is told`, () =>
      Effect.gen(function* () {
        yield* startOver
        const run = yield* enqueue([step("a"), step("b", { after: ["a"] }), step("c", { afterTerminal: ["a"] })])
        const lease = leaseOf(yield* claim(), "a")
        const complete: Operation = Jobs.completeSuccess(lease)
        const cancel: Operation = Jobs.cancel(TenantScope.global, lease.jobId)
        const release = yield* standing(first === "completion" ? complete : cancel)
        const second = yield* Effect.forkChild(reasonOf(first === "completion" ? cancel : complete))
        yield* waiting(1)
        yield* release
        assert.strictEqual(
          (yield* Fiber.join(second))._tag,
          first === "completion" ? "InvalidStateTransition" : "LeaseOwnerMismatch"
        )
        assert.deepStrictEqual(
          yield* statuses(run.id),
          first === "completion"
            ? { a: "SUCCEEDED", b: "ENQUEUED", c: "ENQUEUED" }
            : { a: "CANCELED", b: "CANCELED", c: "ENQUEUED" }
        )
        yield* assertConsistent
      })
    )
  }

  it.effect("a completion that was rolled back leaves the step to the one that waited for it", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a"), step("b", { after: ["a"] })])
      const lease = leaseOf(yield* claim(), "a")
      const undo = yield* standing(Jobs.completeSuccess(lease, { output: 1 }), "ROLLBACK")
      const second = yield* Effect.forkChild(
        Jobs.completeFailure(lease, { kind: "TERMINAL", code: "test.failed", message: "told to" })
      )
      yield* waiting(1)
      yield* undo
      assert.strictEqual((yield* Fiber.join(second))._tag, "DeadLettered")
      assert.deepStrictEqual(yield* statuses(run.id), { a: "FAILED", b: "CANCELED" })
      assert.strictEqual(yield* runStatus(run.id), "COMPLETED_WITH_ERRORS")
      yield* assertConsistent
    })
  )

  it.effect("a batch ends the jobs of free runs at once, and asks again for those of a locked one", () =>
    Effect.gen(function* () {
      yield* startOver
      const locked = yield* enqueue([step("a"), step("b", { after: ["a"] })])
      const free = yield* enqueue([step("c"), step("d", { after: ["c"] })])
      yield* Jobs.enqueue(jobType, { step: "direct" })
      const leases = yield* claim()
      const release = yield* standing(lockRun(locked.id))
      const batch = yield* Effect.forkChild(
        Jobs.completeMany(
          ["a", "c", "direct"].map((key) => ({ _tag: "Success" as const, lease: leaseOf(leases, key) }))
        )
      )
      yield* until(Effect.map(statuses(free.id), ({ d }) => d === "ENQUEUED"))
      yield* until(Effect.map(Jobs.count({ scope: TenantScope.admin, status: "SUCCEEDED" }), (ended) => ended === 2))
      assert.deepStrictEqual(yield* statuses(locked.id), { a: "RUNNING", b: "BLOCKED" })
      assert.isUndefined(batch.pollUnsafe(), "it still asks")
      yield* release
      assert.isTrue((yield* Fiber.join(batch)).every(Result.isSuccess))
      assert.deepStrictEqual(yield* statuses(locked.id), { a: "SUCCEEDED", b: "ENQUEUED" })
      yield* assertConsistent
    })
  )

  it.effect("a batch of one run waits for it, and is told row by row that it waited in vain", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a"), step("b")])
      const leases = yield* claim()
      const batch = ["a", "b"].map((key) => ({ _tag: "Success" as const, lease: leaseOf(leases, key) }))
      const sql = yield* SqlClient
      const release = yield* standing(lockRun(run.id))
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '70ms'`
          const answers = yield* Jobs.completeMany(batch)
          assert.deepStrictEqual(
            answers.map((answer) => Result.isFailure(answer) && answer.failure._tag),
            ["Unavailable", "Unavailable"]
          )
          yield* sql`SELECT 'the transaction goes on'`
        })
      )
      const waits = yield* Effect.forkChild(Jobs.completeMany(batch))
      yield* waiting(1)
      yield* release
      assert.isTrue((yield* Fiber.join(waits)).every(Result.isSuccess))
      yield* assertConsistent
    })
  )

  it.effect("a batch answers for everything else although a run stays locked", () =>
    Effect.gen(function* () {
      yield* startOver
      const locked = yield* enqueue([step("a")])
      yield* enqueue([step("c")])
      yield* Jobs.enqueue(jobType, { step: "direct" })
      const leases = yield* claim()
      const release = yield* standing(lockRun(locked.id))
      const answers = yield* Jobs.completeMany(
        ["a", "c", "direct"].map((key) => ({ _tag: "Success" as const, lease: leaseOf(leases, key) }))
      )
      assert.deepStrictEqual(
        answers.map((answer) => (Result.isSuccess(answer) ? answer.success._tag : answer.failure._tag)),
        ["Unavailable", "Succeeded", "Succeeded"]
      )
      yield* release
      yield* Jobs.completeSuccess(leaseOf(leases, "a"))
      yield* assertConsistent
    })
  )

  it.effect("the reaper leaves the leases of a locked run to its next round", () =>
    Effect.gen(function* () {
      yield* startOver
      const locked = yield* enqueue([step("a")])
      const free = yield* enqueue([step("b")])
      yield* claim(10, "dead", 1)
      yield* until(
        SqlClient.use((sql) =>
          Effect.map(
            sql`SELECT FROM runledger.job_queue WHERE lease_expires_at > clock_timestamp()`,
            (rows) => rows.length === 0
          )
        )
      )
      const release = yield* standing(lockRun(locked.id))
      assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases.length, 1)
      assert.deepStrictEqual(yield* statuses(locked.id), { a: "RUNNING" })
      assert.deepStrictEqual(yield* statuses(free.id), { b: "FAILED" })
      yield* release
      assert.strictEqual((yield* Jobs.reapExpiredLeases({ limit: 10 })).leases.length, 1)
      assert.deepStrictEqual(yield* statuses(locked.id), { a: "FAILED" })
      yield* assertConsistent
    })
  )

  it.effect("whoever ends nothing never waits for a locked run", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([
        step("claimed"),
        step("prefetched", { priority: -1 }),
        step("sliced", { priority: -2, allowHandlerContinuation: true })
      ])
      const release = yield* standing(lockRun(run.id))
      const claimed = leaseOf(yield* claim(1), "claimed")
      yield* Jobs.heartbeat(claimed)
      yield* Jobs.heartbeatMany([claimed])
      yield* Jobs.updateProgress(claimed, { done: 1, total: 2 })
      const [prefetched] = yield* Jobs.claimPrestart({ workerId: "worker-2", types: [jobType], limit: 1 })
      yield* Jobs.releaseUnstarted((prefetched ?? assert.fail()).lease)
      const [again] = yield* Jobs.claimPrestart({ workerId: "worker-2", types: [jobType], limit: 1 })
      yield* Jobs.markRunning((again ?? assert.fail()).lease)
      const sliced = leaseOf(yield* claim(1), "sliced")
      yield* Jobs.completeContinuation(sliced, { delay: "1 hour" })
      assert.strictEqual(yield* waiters, 0)
      assert.deepStrictEqual(yield* statuses(run.id), {
        claimed: "RUNNING",
        prefetched: "RUNNING",
        sliced: "ENQUEUED"
      })
      yield* release
      yield* assertConsistent
    })
  )

  it.effect("a completion waits for a bounded time, with the caller's own limit, which stays as it was", () =>
    Effect.gen(function* () {
      yield* startOver
      const sql = yield* SqlClient
      const run = yield* enqueue([step("a"), step("b", { after: ["a"] })])
      const lease = leaseOf(yield* claim(), "a")
      const release = yield* standing(lockRun(run.id))
      const lockTimeout = Effect.map(sql<{ lock_timeout: string }>`SHOW lock_timeout`, ([row]) => row?.lock_timeout)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '70ms'`
          assert.deepInclude(yield* reasonOf(Jobs.completeSuccess(lease)), { _tag: "Unavailable", sqlState: "55P03" })
          assert.strictEqual(yield* lockTimeout, "70ms")
          assert.deepInclude(yield* reasonOf(Jobs.cancel(TenantScope.global, lease.jobId)), {
            _tag: "Unavailable",
            sqlState: "55P03"
          })
          assert.strictEqual(yield* lockTimeout, "70ms", "and the transaction goes on")
        })
      )
      yield* release
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '59s'`
          yield* Jobs.completeSuccess(lease)
          assert.strictEqual(yield* lockTimeout, "59s")
        })
      )
      assert.deepStrictEqual(yield* statuses(run.id), { a: "SUCCEEDED", b: "ENQUEUED" })
      yield* assertConsistent
    })
  )

  for (const end of ["COMMIT", "ROLLBACK"] as const) {
    it.effect(`a completion that waits for an append sees what it appended, after its ${end}`, () =>
      Effect.gen(function* () {
        yield* startOver
        const run = yield* enqueue([step("a"), gate("window")])
        const lease = leaseOf(yield* claim(), "a")
        const finish = yield* standing(
          Workflows.append(TenantScope.global, run.id, {
            mutationKey: "more",
            windowStepKey: "window",
            steps: [step("b", { after: ["a"] }), step("c", { after: ["b"] }), gate("g", { afterTerminal: ["a"] })]
          }),
          end
        )
        const completion = yield* Effect.forkChild(Jobs.completeSuccess(lease))
        yield* waiting(1)
        yield* finish
        yield* Fiber.join(completion)
        assert.deepStrictEqual(
          yield* statuses(run.id),
          end === "COMMIT"
            ? { a: "SUCCEEDED", b: "ENQUEUED", c: "BLOCKED", g: "WAITING_FOR_EXTERNAL", window: "WAITING_FOR_EXTERNAL" }
            : { a: "SUCCEEDED", window: "WAITING_FOR_EXTERNAL" }
        )
        assert.strictEqual(yield* runStatus(run.id), end === "COMMIT" ? "RUNNING" : "WAITING_FOR_EXTERNAL")
        yield* assertConsistent
      })
    )
  }

  for (const ending of ["success", "failure"] as const) {
    it.effect(`an append that waits for a completion begins where its ${ending} left the run`, () =>
      Effect.gen(function* () {
        yield* startOver
        const run = yield* enqueue([step("a"), gate("window")])
        const lease = leaseOf(yield* claim(), "a")
        const complete: Operation =
          ending === "success"
            ? Jobs.completeSuccess(lease)
            : Jobs.completeFailure(lease, { kind: "TERMINAL", code: "test.failed", message: "told to" })
        const finish = yield* standing(complete)
        const append = yield* Effect.forkChild(
          Workflows.append(TenantScope.global, run.id, {
            mutationKey: "more",
            windowStepKey: "window",
            steps: [step("b", { after: ["a"] }), step("c", { after: ["b"] }), step("d", { afterTerminal: ["b"] })]
          })
        )
        yield* waiting(1)
        yield* finish
        yield* Fiber.join(append)
        assert.deepStrictEqual(
          yield* statuses(run.id),
          ending === "success"
            ? { a: "SUCCEEDED", b: "ENQUEUED", c: "BLOCKED", d: "BLOCKED", window: "WAITING_FOR_EXTERNAL" }
            : { a: "FAILED", b: "CANCELED", c: "CANCELED", d: "ENQUEUED", window: "WAITING_FOR_EXTERNAL" }
        )
        yield* assertConsistent
      })
    )
  }

  for (const first of ["completion", "cancellation"] as const) {
    it.effect(`a completion and the cancellation of its run at once: the ${first} comes first`, () =>
      Effect.gen(function* () {
        yield* startOver
        const run = yield* enqueue([step("a"), step("b", { after: ["a"] }), gate("g")])
        const lease = leaseOf(yield* claim(), "a")
        const complete: Operation = Jobs.completeSuccess(lease)
        const cancel: Operation = Workflows.cancel(TenantScope.global, run.id)
        const finish = yield* standing(first === "completion" ? complete : cancel)
        const second = yield* Effect.forkChild(
          first === "completion" ? Effect.as(cancel, "done") : Effect.map(reasonOf(complete), ({ _tag }) => _tag)
        )
        yield* waiting(1)
        yield* finish
        assert.strictEqual(yield* Fiber.join(second), first === "completion" ? "done" : "LeaseOwnerMismatch")
        assert.deepStrictEqual(yield* statuses(run.id), {
          a: first === "completion" ? "SUCCEEDED" : "CANCELED",
          b: "CANCELED",
          g: "CANCELED"
        })
        assert.strictEqual(yield* runStatus(run.id), "CANCELED")
        yield* assertConsistent
      })
    )
  }

  for (const first of ["completion", "gate"] as const) {
    it.effect(`a completion and an external one at once, the ${first} first: the join is released once`, () =>
      Effect.gen(function* () {
        yield* startOver
        const run = yield* enqueue([step("a"), gate("g"), step("join", { after: ["a", "g"] })])
        const lease = leaseOf(yield* claim(), "a")
        const complete: Operation = Jobs.completeSuccess(lease)
        const open: Operation = Workflows.completeExternal(TenantScope.global, run.id, "g", { status: "SUCCEEDED" })
        const finish = yield* standing(first === "completion" ? complete : open)
        const second = yield* Effect.forkChild(first === "completion" ? open : complete)
        yield* waiting(1)
        yield* finish
        yield* Fiber.join(second)
        assert.deepStrictEqual(yield* statuses(run.id), { a: "SUCCEEDED", g: "SUCCEEDED", join: "ENQUEUED" })
        assert.deepStrictEqual(yield* jobsOf(run.id), { a: 1, g: 0, join: 1 })
        yield* assertConsistent
      })
    )
  }

  it.effect("an external step is completed once by two at once, in two ways", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([gate("g"), step("a", { after: ["g"] })])
      const open = (status: "SUCCEEDED" | "FAILED") =>
        Workflows.completeExternal(TenantScope.global, run.id, "g", { status })
      const finish = yield* standing(open("FAILED"))
      const same = yield* Effect.forkChild(open("FAILED"))
      const other = yield* Effect.forkChild(reasonOf(open("SUCCEEDED")))
      yield* waiting(2)
      yield* finish
      assert.strictEqual((yield* Fiber.join(same)).status, "FAILED")
      assert.deepInclude(yield* Fiber.join(other), {
        _tag: "ExternalCompletionConflict",
        code: "workflow.external_step_conflicting_completion_retry"
      })
      assert.deepStrictEqual(yield* statuses(run.id), { g: "FAILED", a: "CANCELED" })
      yield* assertConsistent
    })
  )

  it.effect("a cancellation waits for a claim that has not committed, and takes the job from it", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a"), step("b")])
      const finish = yield* standing(claim(1))
      const cancel = yield* Effect.forkChild(Workflows.cancel(TenantScope.global, run.id))
      yield* waiting(1)
      yield* finish
      assert.strictEqual((yield* Fiber.join(cancel)).status, "CANCELED")
      assert.deepStrictEqual(yield* statuses(run.id), { a: "CANCELED", b: "CANCELED" })
      const canceled = yield* Jobs.list({ scope: TenantScope.admin, status: "CANCELED" })
      assert.deepStrictEqual(canceled.map(({ attempt }) => attempt).sort(), [0, 1])
      yield* assertConsistent
    })
  )

  it.effect("a claim passes by the jobs of a run that is being canceled", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a")])
      yield* enqueue([step("b")])
      const finish = yield* standing(Workflows.cancel(TenantScope.global, run.id))
      assert.deepStrictEqual([...(yield* claim()).keys()], ["b"])
      yield* finish
      assert.deepStrictEqual([...(yield* claim()).keys()], [])
      yield* assertConsistent
    })
  )

  it.effect("an active key that is being given back is waited for", () =>
    Effect.gen(function* () {
      yield* startOver
      const request = { workflowType: "test", activeKey: "one", steps: [step("a")] }
      const { run } = yield* Workflows.enqueueOrGetActive(request)
      const lease = leaseOf(yield* claim(), "a")
      const finish = yield* standing(Jobs.completeSuccess(lease))
      const next = yield* Effect.forkChild(Workflows.enqueueOrGetActive(request))
      yield* waiting(1)
      yield* finish
      const { run: another, disposition } = yield* Fiber.join(next)
      assert.strictEqual(disposition, "inserted")
      assert.notStrictEqual(another.id, run.id)
      yield* assertConsistent
    })
  )

  it.effect("one recovery by two at once", () =>
    Effect.gen(function* () {
      yield* startOver
      const run = yield* enqueue([step("a")])
      yield* Workflows.cancel(TenantScope.global, run.id)
      const recover = Workflows.recover(TenantScope.global, run.id, { requestKey: "once", reason: "it was canceled" })
      const finish = yield* standing(recover)
      const second = yield* Effect.forkChild(recover)
      yield* waiting(1)
      yield* finish
      const { disposition, run: recovered } = yield* Fiber.join(second)
      assert.strictEqual(disposition, "existing")
      assert.deepStrictEqual(yield* statuses(recovered.id), { a: "ENQUEUED" })
      assert.strictEqual(yield* Workflows.count({ scope: TenantScope.admin }), 2)
      yield* assertConsistent
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Many at once
// ---------------------------------------------------------------------------------------------------------------------

/** A generator of numbers in [0, 1), the same for the same seed. */
const seeded = (seed: number) => {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }
}

type Random = () => number

const below = (random: Random, limit: number) => Math.floor(random() * limit)

const pick = <A>(random: Random, items: ReadonlyArray<A>): A | undefined => items[below(random, items.length)]

/** Layers of steps, each of which waits for a few of the two layers before; every fifth is external. */
const layered = (random: Random, layers: number, width: number): ReadonlyArray<Workflows.StepRequest> => {
  const steps: Array<Workflows.StepRequest> = []
  for (let layer = 0; layer < layers; layer++) {
    for (let n = 0; n < width; n++) {
      const earlier = steps.slice(Math.max(0, (layer - 2) * width), layer * width).map(({ stepKey }) => stepKey)
      const chosen = new Set(Array.from({ length: below(random, 4) }, () => pick(random, earlier)))
      const keys = [...chosen].filter((key) => key !== undefined)
      const waits = {
        after: keys.filter((_, i) => i % 3 === 0),
        afterTerminal: keys.filter((_, i) => i % 3 !== 0)
      }
      const stepKey = `${layer}.${n}`
      steps.push(
        random() < 0.2
          ? gate(stepKey, waits)
          : step(stepKey, { ...waits, priority: below(random, 3), allowHandlerContinuation: random() < 0.5 })
      )
    }
  }
  return [...steps, gate("window")]
}

/** What operations answered, and how often. */
class Tally {
  readonly counts = new Map<string, number>()
  operations = 0

  add(line: string) {
    this.counts.set(line, (this.counts.get(line) ?? 0) + 1)
  }

  /** Runs an operation, keeps what it answered or why it failed; a failure is `undefined`. */
  of<A, R>(name: string, self: Effect.Effect<A, QueryError, R>): Effect.Effect<A | undefined, never, R> {
    this.operations++
    return Effect.match(self, {
      onSuccess: (value) => {
        this.add(`${name} done`)
        return value
      },
      onFailure: ({ reason }) => {
        this.add(`${name} ${labelOf(reason)}`)
        return undefined
      }
    })
  }
}

const labelOf = (reason: QueryError["reason"]) =>
  reason._tag === "Unavailable" ? `Unavailable ${reason.origin} ${reason.sqlState ?? ""}`.trim() : reason._tag

it.layer(TestDatabase.layerWith({ maxConnections: 10 }), { timeout: "60 seconds" })("Workflows, many at once", (it) => {
  for (const seed of [1, 2]) {
    it.effect(
      `ten workers, and others that append, complete, cancel, recover and reap: nothing is lost, nothing is done twice (${seed})`,
      () =>
        Effect.gen(function* () {
          yield* startOver
          yield* JobDefinitions.upsert(jobType, { maxAttempts: 3, retry: { initial: 1, max: 1, factor: 1, jitter: 0 } })
          const tally = new Tally()
          const scope = TenantScope.global
          const runs: Array<Workflows.WorkflowRunId> = []
          const ended: Array<Workflows.WorkflowRunId> = []
          let enough = 0
          let deadline = 0
          const isOver = () => tally.operations > enough || Date.now() > deadline

          const begin = Effect.fnUntraced(function* (random: Random) {
            const request = { workflowType: "stress", steps: layered(random, 6, 7) }
            const enqueued =
              random() < 0.3
                ? yield* tally.of(
                    "active",
                    Workflows.enqueueOrGetActive({ ...request, activeKey: `key-${below(random, 2)}` })
                  )
                : yield* tally.of("enqueue", Workflows.enqueue(request))
            if (enqueued?.disposition === "inserted") runs.push(enqueued.run.id)
          })

          const endingOf = (random: Random, lease: Jobs.Lease): Jobs.Completion => {
            const dice = random()
            if (dice < 0.65) return { _tag: "Success", lease, output: dice }
            if (dice < 0.8) return { _tag: "Failure", lease, kind: "RETRYABLE", code: "test.again", message: "again" }
            if (dice < 0.87) return { _tag: "Failure", lease, kind: "TERMINAL", code: "test.failed", message: "no" }
            return { _tag: "Continuation", lease }
          }

          const endOne = Effect.fnUntraced(function* (random: Random, ending: Jobs.Completion) {
            const sql = yield* SqlClient
            const { lease } = ending
            const complete: Operation =
              ending._tag === "Success"
                ? Jobs.completeSuccess(lease, ending)
                : ending._tag === "Failure"
                  ? Jobs.completeFailure(lease, ending)
                  : Jobs.completeContinuation(lease, ending)
            // a handler that completes in its own transaction
            const inside = Effect.catchTag(sql.withTransaction(complete), "SqlError", Effect.die)
            return yield* tally.of(ending._tag, random() < 0.3 ? inside : complete)
          })

          const worker = Effect.fnUntraced(function* (n: number) {
            const random = seeded(seed * 1000 + n)
            while (!isOver()) {
              const prestart = random() < 0.2
              const isShort = random() < 0.1
              const options = {
                workerId: `worker-${n}`,
                types: [jobType],
                limit: 1 + below(random, 6),
                lease: isShort ? 5 : 30_000
              }
              const jobs =
                (yield* tally.of("claim", prestart ? Jobs.claimPrestart(options) : Jobs.claim(options))) ?? []
              const leases: Array<Jobs.Lease> = []
              for (const { lease } of jobs) {
                if (prestart && random() < 0.5) {
                  const released = yield* tally.of("release", Effect.as(Jobs.releaseUnstarted(lease), true))
                  if (released === true) continue
                }
                if (prestart) yield* tally.of("start", Jobs.markRunning(lease))
                if (random() < 0.2) yield* tally.of("heartbeat", Jobs.heartbeat(lease, { extend: "30 seconds" }))
                // short leases may be left to the reaper
                else if (isShort && random() < 0.7) continue
                leases.push(lease)
              }
              if (random() < 0.5) {
                for (const lease of leases) {
                  const done = yield* endOne(random, endingOf(random, lease))
                  if (done === undefined) yield* tally.of("Success", Jobs.completeSuccess(lease))
                }
              } else {
                const endings = leases.map((lease) => endingOf(random, lease))
                const answers = (yield* tally.of("batch", Jobs.completeMany(endings))) ?? []
                for (const [i, answer] of answers.entries()) {
                  if (Result.isSuccess(answer)) {
                    tally.add(`row ${answer.success._tag}`)
                    continue
                  }
                  tally.add(`row ${labelOf(answer.failure)}`)
                  const lease = endings[i]?.lease
                  if (lease !== undefined) yield* tally.of("Success", Jobs.completeSuccess(lease))
                }
              }
            }
          })

          const openGates = SqlClient.use(
            (sql) => sql<{ workflow_run_id: string; step_key: string }>`
              SELECT workflow_run_id, step_key FROM runledger.workflow_steps
              WHERE status = 'WAITING_FOR_EXTERNAL' ORDER BY random()
            `
          )

          /** Completes a few external steps, seldom the window, which keeps a run open for appends. */
          const outside = Effect.fnUntraced(function* (n: number) {
            const random = seeded(seed * 2000 + n)
            while (!isOver()) {
              for (const { workflow_run_id: id, step_key: key } of (yield* openGates).slice(0, 5)) {
                if (key === "window" && random() < 0.9) continue
                const status = pick(random, ["SUCCEEDED", "SUCCEEDED", "FAILED", "CANCELED"] as const) ?? "FAILED"
                const runId = Workflows.WorkflowRunId.make(id)
                yield* tally.of("gate", Workflows.completeExternal(scope, runId, key, { status }))
              }
            }
          })

          const appender = Effect.fnUntraced(function* (n: number) {
            const random = seeded(seed * 3000 + n)
            while (!isOver()) {
              const runId = pick(random, runs)
              if (runId === undefined) {
                yield* Effect.yieldNow
                continue
              }
              // two appenders with the same keys: some are retries of the other's
              const prefix = `more.${below(random, 30)}`
              const known = pick(random, ["0.0", "1.1", "2.2", "3.3", "4.4", "5.5"]) ?? "0.0"
              const append = Workflows.append(scope, runId, {
                mutationKey: prefix,
                windowStepKey: "window",
                steps: [
                  step(`${prefix}.a`, { after: [known] }),
                  step(`${prefix}.b`, { afterTerminal: [known, `${prefix}.a`] }),
                  gate(`${prefix}.c`, { after: [`${prefix}.a`] })
                ]
              })
              const appended = yield* tally.of("append", append)
              if (appended !== undefined) tally.add(`append ${appended.disposition}`)
            }
          })

          const meddler = Effect.fnUntraced(function* (n: number) {
            const random = seeded(seed * 4000 + n)
            while (!isOver()) {
              const dice = random()
              const runId = pick(random, runs)
              if (runs.length < 30 && dice < 0.2) yield* begin(random)
              else if (runId === undefined) yield* Effect.yieldNow
              else if (dice < 0.25 && runs.length > 4) {
                const canceled = yield* tally.of("cancel run", Workflows.cancel(scope, runId))
                if (canceled !== undefined) ended.push(canceled.id)
              } else if (dice < 0.4) {
                const recovered = yield* tally.of(
                  "recover",
                  Workflows.recover(scope, pick(random, ended) ?? runId, { requestKey: "again", reason: "test" })
                )
                if (recovered?.disposition === "inserted") runs.push(recovered.run.id)
              } else if (dice < 0.5) {
                const jobs = (yield* tally.of("list", Jobs.list({ scope, status: "PENDING", limit: 20 }))) ?? []
                const job = pick(random, jobs)
                if (job !== undefined) yield* tally.of("cancel job", Jobs.cancel(scope, job.id))
              } else if (dice < 0.6) {
                const keys = yield* tally.of("keys", Workflows.stepKeysForUpdate(scope, runId))
                const key = pick(random, keys ?? [])
                if (key !== undefined) {
                  yield* tally.of("payload", Workflows.updatePendingPayload(scope, runId, key, { corrected: true }))
                }
              } else if (dice < 0.65) {
                // it must hold at every commit
                yield* assertConsistent
              } else yield* tally.of("reap", Jobs.reapExpiredLeases({ limit: 1 + below(random, 20) }))
            }
          })

          const random = seeded(seed)
          for (let phase = 0; phase < 3; phase++) {
            for (let i = 0; i < 3; i++) yield* begin(random)
            enough = tally.operations + 500
            deadline = Date.now() + 4000
            yield* Effect.all(
              [
                ...Array.from({ length: 10 }, (_, n) => worker(n + phase * 10)),
                ...Array.from({ length: 2 }, (_, n) => outside(n + phase * 10)),
                ...Array.from({ length: 2 }, (_, n) => appender(n + phase * 10)),
                ...Array.from({ length: 2 }, (_, n) => meddler(n + phase * 10))
              ],
              { concurrency: "unbounded", discard: true }
            )
            yield* assertConsistent
          }

          // to the end: everything that waits for somebody gets what it waits for
          const unfinished = Workflows.count({ scope: TenantScope.admin, status: "RUNNING" })
          const waitingRuns = Workflows.count({ scope: TenantScope.admin, status: "WAITING_FOR_EXTERNAL" })
          for (let round = 0; (yield* unfinished) + (yield* waitingRuns) > 0; round++) {
            assert.isBelow(round, 500, "the runs do not end")
            for (const { workflow_run_id: id, step_key: key } of yield* openGates) {
              yield* Workflows.completeExternal(scope, Workflows.WorkflowRunId.make(id), key, { status: "SUCCEEDED" })
            }
            yield* Jobs.reapExpiredLeases({ limit: 1000 })
            const jobs = yield* Jobs.claim({ workerId: "last", types: [jobType], limit: 1000 })
            const answers = yield* Jobs.completeMany(jobs.map(({ lease }) => ({ _tag: "Success", lease })))
            assert.isTrue(answers.every(Result.isSuccess))
          }
          yield* assertConsistent

          const expected = [
            /^\S+( job| run)? done$/,
            /^row (Succeeded|RetryScheduled|DeadLettered|Continued)$/,
            /^append (inserted|existing)$/,
            // somebody else was faster
            /^(Success|Failure|Continuation|row|heartbeat|start|release) LeaseOwnerMismatch$/,
            /^(Continuation|row) WorkflowContinuationNotEnabled$/,
            /^release UnstartedClaimReleaseNotApplicable$/,
            /^gate (ExternalCompletionConflict|ExternalStepNotWaiting)$/,
            /^append (AppendRefused|AppendConflict|InvalidWorkflow)$/,
            /^recover RecoveryConflict$/,
            /^cancel job InvalidStateTransition$/,
            // a busy row is no deadlock
            /^\S+( job| run)? Unavailable busy$/
          ]
          assert.deepStrictEqual(
            [...tally.counts].filter(([line]) => !expected.some((pattern) => pattern.test(line))),
            []
          )
          const sql = yield* SqlClient
          const [{ deadlocks } = { deadlocks: -1 }] = yield* sql<{ deadlocks: number }>`
            SELECT deadlocks::integer FROM pg_stat_database WHERE datname = current_database()
          `
          assert.strictEqual(deadlocks, 0)
          const twice = yield* sql`
            SELECT workflow_step_id FROM runledger.job_queue GROUP BY workflow_step_id HAVING count(*) > 1
          `
          assert.deepStrictEqual(twice, [])
          for (const line of [
            "row Succeeded",
            "row DeadLettered",
            "row Continued",
            "Success done",
            "append inserted",
            "gate done",
            "recover done",
            "cancel run done",
            "release done"
          ]) {
            assert.isTrue(tally.counts.has(line), `never: ${line}`)
          }
        })
    )
  }
})
