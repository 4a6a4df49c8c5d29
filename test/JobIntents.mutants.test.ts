/**
 * Statements of intents that are broken on purpose, each in one way, and the checks that notice. A check passes on the statements
 * as they are and fails on every mutant that names it.
 */
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Result, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { JobDefinitions, JobIntents, Jobs, TenantScope } from "../src/index.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { standing, until, waiters } from "./support/races.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { Statements, unchanged } = MutatedSqlClient

const type = "mutant.a"
const scope = TenantScope.admin
const key = (idempotencyKey: string) => ({ idempotencyKey })
const promote = (limit = 10) => JobIntents.promote({ types: [type], limit })
const statuses = Effect.map(JobIntents.list({ scope }), (intents) => intents.map(({ status }) => status).toReversed())

const startOver = Effect.gen(function* () {
  const sql = yield* SqlClient
  yield* sql`TRUNCATE runledger.job_queue, runledger.job_events, runledger.job_enqueue_intents`
  yield* JobDefinitions.upsert(type)
})

/** Ends the transaction that `second` may wait for, as soon as it waits or has ended without. */
const whileStanding = Effect.fnUntraced(function* <A, E, R, B, E2, R2>(
  first: Effect.Effect<A, E, R>,
  second: Effect.Effect<B, E2, R2>
) {
  const end = yield* standing(first)
  const fiber = yield* Effect.forkChild(Effect.exit(second))
  yield* until(Effect.map(unchanged(waiters), (count) => count > 0 || fiber.pollUnsafe() !== undefined))
  const waited = fiber.pollUnsafe() === undefined
  yield* end
  return { exit: yield* Fiber.join(fiber), waited }
})

type Check = Effect.Effect<void, unknown, SqlClient | Scope.Scope>

const checks = {
  "a retry finds the first, another request does not": Effect.gen(function* () {
    const first = yield* JobIntents.record(type, 1, key("k"))
    assert.strictEqual((yield* JobIntents.record(type, 1, key("k"))).intentId, first.intentId)
    const { reason } = yield* Effect.flip(JobIntents.record(type, 2, key("k")))
    assert.strictEqual(reason._tag, "IntentConflict")
    const organizationId = "01980000-0000-7000-8000-00000000000a"
    const owned = yield* JobIntents.record(type, 2, { ...key("k"), organizationId })
    assert.strictEqual((yield* JobIntents.record(type, 2, { ...key("k"), organizationId })).intentId, owned.intentId)
  }),
  "a retry does not wait for a promotion": Effect.gen(function* () {
    yield* JobIntents.record(type, 1, key("k"))
    const { exit, waited } = yield* whileStanding(promote(), JobIntents.record(type, 1, key("k")))
    assert.isTrue(Exit.isSuccess(exit))
    assert.isFalse(waited)
  }),
  "two promotions do not wait for each other": Effect.gen(function* () {
    yield* JobIntents.recordMany([1, 2].map((n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` })))
    const { exit, waited } = yield* whileStanding(promote(1), promote(2))
    assert.isFalse(waited)
    assert.isTrue(Exit.isSuccess(exit) && exit.value.inserted === 1)
    assert.strictEqual(yield* Jobs.count({ scope }), 2)
  }),
  "what is disabled, put off or changed is not promoted": Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* JobIntents.recordMany([1, 2].map((n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` })))
    yield* unchanged(sql`UPDATE runledger.job_enqueue_intents SET payload = '9' WHERE idempotency_key = '1'`)
    yield* JobDefinitions.update(type, { isEnabled: false })
    yield* promote()
    assert.deepStrictEqual(yield* statuses, ["PENDING", "PENDING"])
    yield* JobDefinitions.update(type, { isEnabled: true })
    assert.deepInclude(yield* promote(), { inserted: 1, deferred: 1 })
    assert.deepInclude(yield* promote(), { inserted: 0, deferred: 0 })
    assert.strictEqual(yield* Jobs.count({ scope }), 1)
  }),
  "no more are promoted than asked for": Effect.gen(function* () {
    yield* JobDefinitions.upsert("mutant.b")
    const requests = [type, "mutant.b"].flatMap((jobType) =>
      [1, 2, 3].map((n) => ({ jobType, payload: n, idempotencyKey: `${n}` }))
    )
    assert.isTrue((yield* JobIntents.recordMany(requests)).every(Result.isSuccess))
    assert.strictEqual((yield* JobIntents.promote({ types: [type, "mutant.b"], limit: 4 })).inserted, 4)
  }),
  "a put-off grows": Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* JobIntents.record(type, 1, key("k"))
    yield* unchanged(sql`
      UPDATE runledger.job_enqueue_intents
      SET enqueue_request = '{}', promotion_attempts = 6, last_attempted_at = created_at, last_error_code = 'x',
        last_error_message = 'x'`)
    assert.strictEqual((yield* promote()).deferred, 1)
    const [row] = yield* unchanged(sql<{ seconds: number; attempts: number }>`
      SELECT extract(epoch FROM next_promotion_at - last_attempted_at)::float8 AS seconds, promotion_attempts AS attempts
      FROM runledger.job_enqueue_intents`)
    assert.isAtLeast(row?.seconds ?? 0, 64)
    assert.isAtMost(row?.seconds ?? 0, 80)
    assert.strictEqual(row?.attempts, 7)
  }),
  "no intent is promoted to a job that is being deleted": Effect.gen(function* () {
    const { jobId } = yield* Jobs.enqueue(type, 1, key("k"))
    yield* JobIntents.record(type, 1, key("k"))
    const { exit, waited } = yield* whileStanding(JobIntents.deletePromotedForJobs([jobId]), promote())
    assert.isTrue(Exit.isSuccess(exit))
    assert.isFalse(waited)
    assert.deepStrictEqual(yield* statuses, ["PENDING"])
  }),
  "a deletion takes exactly its own": Effect.gen(function* () {
    yield* JobIntents.recordMany([1, 2, 3].map((n) => ({ jobType: type, payload: n, idempotencyKey: `${n}` })))
    yield* promote(2)
    const [, second] = (yield* Jobs.list({ scope })).map(({ id }) => id)
    assert.strictEqual(yield* JobIntents.deletePromotedForJobs([second ?? assert.fail("no job")]), 1)
    assert.deepStrictEqual(yield* statuses, ["PROMOTED", "PENDING"])
  })
} satisfies Record<string, Check>

type CheckName = keyof typeof checks
const names: ReadonlyArray<CheckName> = [
  "a retry finds the first, another request does not",
  "a retry does not wait for a promotion",
  "two promotions do not wait for each other",
  "what is disabled, put off or changed is not promoted",
  "no more are promoted than asked for",
  "a put-off grows",
  "no intent is promoted to a job that is being deleted",
  "a deletion takes exactly its own"
]

interface Mutant {
  readonly name: string
  readonly edits: ReadonlyArray<MutatedSqlClient.Edit>
  readonly check: CheckName
}

const mutant = (
  name: string,
  statement: string,
  search: string | RegExp,
  replace: string,
  check: CheckName
): Mutant => ({ name, edits: [{ statement, search, replace }], check })

const recording = "INSERT INTO runledger.job_enqueue_intents"
const locking = "locked AS MATERIALIZED (\n      SELECT n.*\n      FROM lane l"
const marking = "UPDATE runledger.job_enqueue_intents n"

const mutants: ReadonlyArray<Mutant> = [
  mutant(
    "requests are not compared",
    recording,
    "WHEN s.found_request = s.enqueue_request THEN",
    "WHEN true THEN",
    "a retry finds the first, another request does not"
  ),
  mutant(
    "keys of organizations are not found",
    recording,
    "n.organization_id = i.organization_id",
    "n.organization_id <> i.organization_id",
    "a retry finds the first, another request does not"
  ),
  mutant(
    "what is there is inserted all the same",
    recording,
    "WHERE found_id IS NULL AND",
    "WHERE",
    "a retry does not wait for a promotion"
  ),
  mutant("promotions wait", locking, "SKIP LOCKED", "", "two promotions do not wait for each other"),
  mutant(
    "promotions do not lock",
    locking,
    "FOR NO KEY UPDATE SKIP LOCKED",
    "",
    "two promotions do not wait for each other"
  ),
  mutant(
    "disabled types are served",
    "lane AS MATERIALIZED",
    "AND d.is_enabled",
    "",
    "what is disabled, put off or changed is not promoted"
  ),
  mutant(
    "the request is not looked at",
    locking,
    "IS NOT DISTINCT FROM r.enqueue_request",
    "IS NOT NULL",
    "what is disabled, put off or changed is not promoted"
  ),
  mutant(
    "what was put off is taken at once",
    "n.next_promotion_at <= ",
    "n.next_promotion_at <= ",
    "n.created_at <= ",
    "what is disabled, put off or changed is not promoted"
  ),
  mutant("the limit is per type", locking, /\) n\n\s+LIMIT \$\d+/g, ") n", "no more are promoted than asked for"),
  mutant("the back-off stands still", marking, "2 ^ LEAST", "0 * LEAST", "a put-off grows"),
  mutant(
    "attempts are not counted",
    marking,
    "promotion_attempts = n.promotion_attempts + 1",
    "promotion_attempts = n.promotion_attempts",
    "a put-off grows"
  ),
  mutant(
    "a job that was there is not held",
    "FOR KEY SHARE SKIP LOCKED",
    "FOR KEY SHARE SKIP LOCKED",
    "",
    "no intent is promoted to a job that is being deleted"
  ),
  mutant(
    "who deletes jobs does not hold them",
    "FROM runledger.job_queue q\n      WHERE q.id = ANY ((SELECT",
    "FOR UPDATE",
    "",
    "no intent is promoted to a job that is being deleted"
  ),
  mutant(
    "every promoted intent is deleted",
    "WHERE n.promoted_job_id = ANY",
    "n.promoted_job_id = ANY",
    "n.promoted_job_id IS NOT NULL OR n.promoted_job_id = ANY",
    "a deletion takes exactly its own"
  )
]

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "60 seconds" })(
  "JobIntents, broken on purpose",
  (it) => {
    const judge = Effect.fnUntraced(
      function* (name: CheckName, edits: ReadonlyArray<MutatedSqlClient.Edit>) {
        yield* startOver
        const check: Check = checks[name]
        return yield* Effect.gen(function* () {
          const exit = yield* Effect.exit(Effect.scoped(check))
          return { exit, statements: yield* Statements }
        }).pipe(Effect.provide(MutatedSqlClient.layer(edits)))
      },
      Effect.provideService(NotifyInterval, 0)
    )

    for (const name of names) {
      it.effect(`as it is, ${name}`, () => Effect.flatMap(judge(name, []), ({ exit }) => exit))
    }

    for (const { name, edits, check } of mutants) {
      it.effect(`${name}: noticed by "${check}"`, () =>
        Effect.gen(function* () {
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
        })
      )
    }

    it("no check is there for nothing, and no mutant twice", () => {
      const noticing = new Set(mutants.map((mutant) => mutant.check))
      assert.deepStrictEqual(
        names.filter((name) => !noticing.has(name)),
        []
      )
      assert.strictEqual(new Set(mutants.map(({ name }) => name)).size, mutants.length)
    })
  }
)
