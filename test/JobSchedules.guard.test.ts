import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Option } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { another, standing, waiting } from "./support/races.ts"
import { jobsOf, make, makeType, refusal, silence, stored, unique, utc } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const cron = "0 * * * *"

/** Each way in which a schedule becomes active, prepared; and each way in which a definition is disabled. */
const activations = {
  upsert: (jobType: string) =>
    Effect.succeed(Effect.asVoid(JobSchedules.upsert({ name: unique("new"), jobType, cron }))),
  sync: (jobType: string) =>
    Effect.map(make({ jobType, isActive: false }), ({ name }) =>
      Effect.asVoid(JobSchedules.sync([{ name, jobType, cron }]))
    ),
  "sync of another type": (jobType: string) =>
    Effect.map(make(), ({ name }) => Effect.asVoid(JobSchedules.sync([{ name, jobType, cron }]))),
  setActive: (jobType: string) =>
    Effect.map(make({ jobType, isActive: false }), ({ name }) => Effect.asVoid(JobSchedules.setActive(name, true)))
}
const disablings = {
  update: (jobType: string) => Effect.asVoid(JobDefinitions.update(jobType, { isEnabled: false })),
  upsert: (jobType: string) => Effect.asVoid(JobDefinitions.upsert(jobType, { isEnabled: false }))
}

const races = Object.entries(activations).flatMap(([activation, prepare]) =>
  Object.entries(disablings).map(([disabling, disable]) => ({ activation, disabling, prepare, disable }))
)

/** Active schedules whose definition is not enabled. */
const broken = SqlClient.use(
  (sql) => sql`
    SELECT s.name
    FROM runledger.job_schedules s
    JOIN runledger.job_definitions d ON d.job_type = s.job_type
    WHERE s.is_active AND NOT d.is_enabled`
)

/** The second begins while the first stands before its commit, and is seen to wait; tells how it ended. */
const race = Effect.fnUntraced(function* <E, R, E2, R2>(
  first: Effect.Effect<void, E, R>,
  end: "COMMIT" | "ROLLBACK",
  second: Effect.Effect<void, E2, R2>
) {
  const finish = yield* standing(first, end)
  const fiber = yield* Effect.forkScoped(Effect.exit(second))
  yield* waiting(1).pipe(Effect.timeout("2 seconds"), Effect.ignore, TestClock.withLive)
  yield* finish
  return yield* Fiber.join(fiber)
}, Effect.scoped)

const codeOf = (exit: Exit.Exit<void, { readonly code: string }>) =>
  Exit.isSuccess(exit)
    ? "done"
    : Option.match(Exit.findErrorOption(exit), { onNone: () => "?", onSome: ({ code }) => code })

const both = Effect.fnUntraced(function* ({ prepare, disable }: (typeof races)[number]) {
  const told: Array<string> = []
  for (const end of ["COMMIT", "ROLLBACK"] as const) {
    const one = yield* makeType
    told.push(codeOf(yield* race(yield* prepare(one), end, disable(one))))
    const two = yield* makeType
    told.push(codeOf(yield* race(disable(two), end, yield* prepare(two))))
  }
  return { told, broken: yield* broken }
})

const asTold = {
  told: [
    "job_definition.active_schedule_exists",
    "job_schedule.definition_not_found_or_disabled",
    // what was rolled back does not count
    "done",
    "done"
  ],
  broken: []
}

it.layer(TestDatabase.layerWith({ maxConnections: 8 }), { timeout: "60 seconds" })(
  "active schedules and enabled definitions",
  (it) => {
    it.effect.each(races)(
      "of $activation and $disabling ($disabling by JobDefinitions), the second to come is refused",
      (each) => Effect.map(both(each), (outcome) => assert.deepStrictEqual(outcome, asTold))
    )

    it.effect(
      "waits for nobody for ever: both are Unavailable after a while, and the caller's transaction goes on",
      () =>
        Effect.gen(function* () {
          const sql = yield* SqlClient
          const jobType = yield* makeType
          const { name } = yield* make({ jobType, isActive: false })
          const end = yield* standing(sql`SELECT FROM runledger.job_definitions WHERE job_type = ${jobType} FOR UPDATE`)
          const waits = [
            refusal(JobSchedules.setActive(name, true)),
            refusal(JobSchedules.upsert({ name, jobType, cron, payload: 1 })),
            refusal(disablings.update(jobType))
          ]
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* sql`SET LOCAL lock_timeout = '50ms'`
              for (const wait of waits) {
                assert.strictEqual((yield* wait)._tag, "Unavailable")
              }
              assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "50ms" }])
            })
          )
          yield* end
        })
    )

    it.effect("disabling needs READ COMMITTED; what activates is safe in any", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobType = yield* makeType
        const repeatable = <A, E, R>(self: Effect.Effect<A, E, R>) =>
          sql.withTransaction(
            Effect.andThen(sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`, Effect.andThen(sql`SELECT 1`, self))
          )
        for (const disable of Object.values(disablings)) {
          const reason = yield* repeatable(refusal(disable(jobType)))
          assert.deepInclude({ ...reason }, { _tag: "UnsupportedIsolation", code: "job.unsupported_isolation" })
        }
        assert.isTrue(Option.getOrThrow(yield* JobDefinitions.get(jobType)).isEnabled)
        // the definition is disabled after the snapshot was taken
        const { name } = yield* make({ jobType, isActive: false })
        const elsewhere = yield* another()
        const late = yield* Effect.exit(
          repeatable(
            Effect.andThen(
              Effect.provideService(disablings.update(jobType), SqlClient, elsewhere),
              JobSchedules.setActive(name, true)
            )
          )
        )
        assert.isTrue(Exit.isFailure(late))
        assert.deepStrictEqual(yield* broken, [])
      })
    )

    it.effect("syncs in opposite order do not deadlock", () =>
      Effect.gen(function* () {
        const types = yield* Effect.replicateEffect(makeType, 2)
        const names = Array.from({ length: 20 }, (_, n) => unique(`opposite.${n}`))
        const requests = (version: number) =>
          names.map((name, n) => ({ name, jobType: types[n % 2] ?? "", cron, payload: { version } }))
        for (let round = 0; round < 5; round++) {
          yield* Effect.forEach(
            [requests(round), requests(-round - 1).toReversed()],
            (each) => JobSchedules.syncExact(each, { names }),
            { concurrency: 2, discard: true }
          )
        }
        // new ones, which are not there to be locked
        for (let round = 0; round < 5; round++) {
          const news = Array.from({ length: 10 }, (_, n) => ({
            name: unique(`${n}`),
            jobType: types[n % 2] ?? "",
            cron
          }))
          const reports = yield* Effect.forEach([news, news.toReversed()], (each) => JobSchedules.sync(each), {
            concurrency: 2
          })
          const inserted = reports.flatMap((report) => report.inserted)
          assert.deepStrictEqual(inserted.sort(), news.map(({ name }) => name).sort())
          const unchanged = reports.flatMap((report) => report.unchanged)
          assert.deepStrictEqual(unchanged.sort(), news.map(({ name }) => name).sort())
        }
      })
    )

    it.effect("a schedule is fired whole before it is paused, moved or changed, or after", () =>
      Effect.gen(function* () {
        const past = utc("2026-01-01T02:00:00Z")
        yield* silence
        const { name, jobType } = yield* make({ nextFireAt: past })
        const fired = Effect.asVoid(JobSchedules.fireDue())
        const paused = yield* race(fired, "COMMIT", Effect.asVoid(JobSchedules.setActive(name, false)))
        assert.isTrue(Exit.isSuccess(paused))
        assert.strictEqual((yield* jobsOf(jobType)).length, 1)
        const now = yield* stored(name)
        assert.isFalse(now.isActive)
        assert.isAbove(now.nextFireAt.epochMilliseconds, past.epochMilliseconds)
        // the other way round it is skipped
        yield* JobSchedules.setNextFireAt(name, utc("2026-01-01T03:00:00Z"))
        yield* JobSchedules.setActive(name, true)
        const end = yield* standing(JobSchedules.setActive(name, false))
        assert.deepStrictEqual((yield* JobSchedules.fireDue()).fires, [])
        yield* end
        assert.deepStrictEqual((yield* JobSchedules.fireDue()).fires, [])
        assert.strictEqual((yield* jobsOf(jobType)).length, 1)
      })
    )
  }
)

const mutants: ReadonlyArray<readonly [title: string, MutatedSqlClient.Edit]> = [
  [
    "the definition is not locked when a schedule is written",
    { statement: "AS types", search: "FOR SHARE", replace: "" }
  ],
  [
    "the definition is not locked when a schedule is resumed",
    { statement: "s.job_type, d.is_enabled", search: "FOR SHARE", replace: "" }
  ],
  ["schedules are not looked at", { statement: "AS is_scheduled", search: "AND is_active)", replace: "AND false)" }],
  [
    "the definition of a resumed schedule may be disabled",
    {
      statement: "s.job_type, d.is_enabled",
      search: "SELECT d.is_enabled FROM",
      replace: "SELECT true AS is_enabled FROM"
    }
  ]
]

it.layer(TestDatabase.layerWith({ maxConnections: 8 }), { timeout: "120 seconds" })(
  "broken variants of the guard",
  (it) => {
    it.effect.each(mutants.map(([title, edit]) => ({ title, edit })))("are noticed: $title", ({ edit }) =>
      Effect.gen(function* () {
        const statements = yield* MutatedSqlClient.Statements
        let noticed = false
        for (const each of races) {
          if (each.disabling === "upsert") continue
          const outcome = yield* Effect.exit(both(each))
          noticed ||= Exit.isFailure(outcome) || JSON.stringify(outcome.value) !== JSON.stringify(asTold)
          yield* SqlClient.use((sql) => sql`UPDATE runledger.job_schedules SET is_active = false`)
          if (noticed) break
        }
        assert.isTrue(statements.applied().has(edit), "the edit applies")
        assert.isTrue(noticed)
      }).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
    )
  }
)
