import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Option, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { standing, until, waiters, waiting } from "./support/races.ts"
import { make, makeType, refusal, unique } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const stored = (jobType: string) => Effect.map(JobDefinitions.get(jobType), Option.getOrThrow)
const isEnabled = (jobType: string) => Effect.map(stored(jobType), (definition) => definition.isEnabled)

const nothing: JobDefinitions.DefinitionSyncReport = {
  inserted: [],
  updated: [],
  unchanged: [],
  newer: [],
  enabled: [],
  disabled: [],
  retired: []
}

/** Types of their own, in order. */
const types = (count: number) => {
  const prefix = unique("sync")
  return Array.from({ length: count }, (_, n) => `${prefix}.${n}`)
}

/** The version of the row, which changes with every write. */
const rowVersion = (jobType: string) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql`SELECT xmin::text AS version FROM runledger.job_definitions WHERE job_type = ${jobType}`,
      ([row]) => row?.version
    )
  )

it.layer(TestDatabase.layerTestClock)("JobDefinitions.sync", (it) => {
  it.effect("inserts, changes, leaves alone, and says which; each list is sorted", () =>
    Effect.gen(function* () {
      const [a = "", b = "", c = "", d = ""] = types(4)
      yield* JobDefinitions.upsert(b, { maxAttempts: 9, retry: { overrides: { x: 1 } } })
      yield* JobDefinitions.upsert(c, { timeout: "7 seconds" })
      const before = yield* rowVersion(c)
      yield* TestClock.adjust("1 minute")
      const now = yield* DateTime.now
      const contract = Job.make(a, { payload: { to: Schema.String }, version: 2, priority: 5, retry: { jitter: 0 } })
      const declared = [
        { jobType: d },
        { jobType: c, timeout: "7 seconds" },
        { jobType: b, priority: 1 },
        contract
      ] as const
      assert.deepStrictEqual(yield* JobDefinitions.sync(declared), {
        ...nothing,
        inserted: [a, d],
        updated: [b],
        unchanged: [c]
      })
      const first = yield* stored(a)
      assert.deepStrictEqual(
        [first.version, first.priority, first.retryJitter, first.isEnabled, first.createdAt],
        [2, 5, 0, true, now]
      )
      const changed = yield* stored(b)
      // what is left out gets its default
      assert.deepStrictEqual(
        [changed.priority, changed.maxAttempts, changed.retryOverrides, changed.updatedAt],
        [1, 3, {}, now]
      )
      assert.strictEqual(yield* rowVersion(c), before)
      assert.deepStrictEqual(yield* JobDefinitions.sync(declared), { ...nothing, unchanged: [a, b, c, d] })
      assert.deepStrictEqual(yield* JobDefinitions.sync([]), nothing)
    })
  )

  it.effect("a newer version that is stored keeps its settings, and is named", () =>
    Effect.gen(function* () {
      const [a = "", b = ""] = types(2)
      yield* JobDefinitions.upsert(a, { version: 3, maxAttempts: 9 })
      const before = yield* stored(a)
      const old = Job.make(a, { payload: {}, version: 2, maxAttempts: 1 })
      for (const each of [old, { jobType: a, version: 2, isEnabled: false }]) {
        const report = yield* JobDefinitions.sync([each, { jobType: b }], { mode: "endPauses" })
        assert.deepStrictEqual([report.newer, report.updated, report.disabled], [[a], [], []])
      }
      assert.deepStrictEqual(yield* stored(a), before)
      assert.deepStrictEqual((yield* JobDefinitions.sync([{ jobType: a, version: 4 }])).updated, [a])
      assert.strictEqual((yield* stored(a)).version, 4)
    })
  )

  it.effect("what an operator has disabled stays so, unless the pauses are to end", () =>
    Effect.gen(function* () {
      for (const pause of [
        (jobType: string) => Effect.asVoid(JobDefinitions.update(jobType, { isEnabled: false })),
        (jobType: string) => Effect.asVoid(JobDefinitions.upsert(jobType, { isEnabled: false }))
      ]) {
        const [a = ""] = types(1)
        yield* JobDefinitions.sync([{ jobType: a }])
        yield* pause(a)
        const report = yield* JobDefinitions.sync([{ jobType: a, maxAttempts: 7 }])
        assert.deepStrictEqual(report, { ...nothing, updated: [a] })
        assert.deepStrictEqual([(yield* stored(a)).maxAttempts, yield* isEnabled(a)], [7, false])
        yield* JobDefinitions.syncExact([{ jobType: a }], { scope: [a] })
        assert.isFalse(yield* isEnabled(a))
        assert.deepStrictEqual(yield* JobDefinitions.sync([{ jobType: a, maxAttempts: 7 }], { mode: "endPauses" }), {
          ...nothing,
          updated: [a],
          enabled: [a]
        })
        assert.isTrue(yield* isEnabled(a))
      }
    })
  )

  it.effect("what is declared as disabled is disabled, and enabled again when that is declared", () =>
    Effect.gen(function* () {
      const [a = "", b = "", c = ""] = types(3)
      yield* JobDefinitions.upsert(a)
      yield* JobDefinitions.upsert(c, { isEnabled: false })
      const disabled = [a, b, c].map((jobType) => ({ jobType, isEnabled: false }))
      assert.deepStrictEqual(yield* JobDefinitions.sync(disabled), {
        ...nothing,
        inserted: [b],
        updated: [a],
        unchanged: [c],
        disabled: [a, b]
      })
      assert.deepStrictEqual(yield* JobDefinitions.sync(disabled), { ...nothing, unchanged: [a, b, c] })
      const report = yield* JobDefinitions.sync([a, b, c].map((jobType) => ({ jobType })))
      // the pause of the third is an operator's
      assert.deepStrictEqual(report, { ...nothing, updated: [a, b], unchanged: [c], enabled: [a, b] })
      assert.deepStrictEqual(yield* Effect.forEach([a, b, c], isEnabled), [true, true, false])
    })
  )

  it.effect("exact: what is in the scope and not declared is disabled; it comes back when it is declared again", () =>
    Effect.gen(function* () {
      const [a = "", b = "", c = "", d = ""] = types(4)
      yield* JobDefinitions.sync([a, b, c].map((jobType) => ({ jobType, version: 2 })))
      yield* JobDefinitions.upsert(d, { isEnabled: false })
      const outside = yield* rowVersion(c)
      const exact = JobDefinitions.syncExact([{ jobType: a, version: 2 }], { scope: [d, b, a, "sync.nobody"] })
      assert.deepStrictEqual(yield* exact, { ...nothing, unchanged: [a], retired: [b] })
      assert.deepStrictEqual(yield* exact, { ...nothing, unchanged: [a] })
      assert.deepStrictEqual(yield* Effect.forEach([a, b, c, d], isEnabled), [true, false, true, false])
      assert.strictEqual(yield* rowVersion(c), outside)
      // the release before is back, also one whose contract is older
      assert.deepStrictEqual(yield* JobDefinitions.sync([{ jobType: b }]), { ...nothing, newer: [b], enabled: [b] })
      assert.isTrue(yield* isEnabled(b))
      assert.strictEqual((yield* stored(b)).version, 2)
      // an operator who disables it, or says that it is to stay so, is believed
      yield* exact
      yield* JobDefinitions.update(b, { isEnabled: false })
      yield* JobDefinitions.sync([{ jobType: b, version: 2 }])
      assert.isFalse(yield* isEnabled(b))
    })
  )

  it.effect("an active schedule keeps its type enabled, and nothing at all is written", () =>
    Effect.gen(function* () {
      const [a = "", b = "", c = ""] = types(3)
      yield* JobDefinitions.sync([{ jobType: a }, { jobType: b }])
      const { name } = yield* make({ jobType: b })
      const refused = [
        JobDefinitions.sync([{ jobType: c }, { jobType: b, isEnabled: false }]),
        JobDefinitions.syncExact([{ jobType: c }, { jobType: a, priority: 4 }], { scope: [a, b, c] })
      ]
      const sql = yield* SqlClient
      for (const each of refused) {
        const reason = yield* refusal(each)
        assert.deepInclude({ ...reason }, { _tag: "ActiveScheduleExists", jobType: b })
        assert.strictEqual(reason.code, "job_definition.active_schedule_exists")
        assert.isTrue(Option.isNone(yield* JobDefinitions.get(c)))
        assert.strictEqual((yield* stored(a)).priority, 0)
        // also in a caller's transaction, which goes on
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SET LOCAL lock_timeout = '7s'`
            yield* refusal(each)
            assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
            assert.isTrue(Option.isNone(yield* JobDefinitions.get(c)))
          })
        )
      }
      yield* JobSchedules.setActive(name, false)
      for (const each of refused) yield* each
      assert.isFalse(yield* isEnabled(b))
    })
  )

  it.effect("joins the caller's transaction, and leaves its lock_timeout as it was", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const [a = ""] = types(1)
      yield* Effect.exit(
        sql.withTransaction(Effect.andThen(JobDefinitions.sync([{ jobType: a }]), Effect.fail("rolled back")))
      )
      assert.isTrue(Option.isNone(yield* JobDefinitions.get(a)))
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '7s'`
          yield* JobDefinitions.sync([{ jobType: a }])
          assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
        })
      )
      assert.isTrue(yield* isEnabled(a))
    })
  )

  it.effect("needs READ COMMITTED of a caller's transaction, and writes nothing otherwise", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const [a = ""] = types(1)
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`
          const reason = yield* refusal(JobDefinitions.sync([{ jobType: a }]))
          assert.deepInclude({ ...reason }, { _tag: "UnsupportedIsolation", code: "job.unsupported_isolation" })
          assert.isTrue(Option.isNone(yield* JobDefinitions.get(a)))
        })
      )
    })
  )

  it.effect("refuses bad input before anything is sent", () =>
    Effect.gen(function* () {
      const long = "x".repeat(129)
      const argumentOf = <A>(self: Effect.Effect<A, JobDefinitionsError, SqlClient>) =>
        Effect.map(refusal(self), (reason) => (reason._tag === "InvalidArgument" ? reason.argument : reason._tag))
      const { sync, syncExact } = JobDefinitions
      const a = { jobType: "a" }
      assert.deepStrictEqual(
        yield* Effect.all([
          argumentOf(sync([a, { jobType: " " }])),
          argumentOf(sync([{ jobType: long }])),
          argumentOf(sync([{ jobType: "a\0" }])),
          argumentOf(sync([a, { jobType: "b", maxAttempts: 0 }])),
          argumentOf(sync([{ jobType: "b", version: 0.5 }])),
          argumentOf(sync([{ jobType: "b", priority: 101 }])),
          argumentOf(sync([{ jobType: "b", timeout: 0 }])),
          argumentOf(sync([a, { jobType: "b", retry: { factor: 0 } }])),
          argumentOf(sync([a, a])),
          argumentOf(sync(Array.from({ length: 1001 }, (_, n) => ({ jobType: `${n}` })))),
          argumentOf(syncExact([a], { scope: ["b"] })),
          argumentOf(syncExact([a], { scope: ["a", ""] })),
          argumentOf(syncExact([a], { scope: Array.from({ length: 1001 }, (_, n) => `${n}`) })),
          argumentOf(syncExact([], { scope: ["a"] })),
          argumentOf(syncExact([a], { scope: [] }))
        ]),
        [
          "definitions[1].jobType",
          "definitions[0].jobType",
          "definitions[0].jobType",
          "definitions[1].maxAttempts",
          "definitions[0].version",
          "definitions[0].priority",
          "definitions[0].timeout",
          "definitions[1].retry.factor",
          "definitions[1].jobType",
          "definitions",
          "definitions[0].jobType",
          "scope[1]",
          "scope",
          "EmptyJobTypeList",
          "EmptyJobTypeList"
        ]
      )
      const { code } = yield* refusal(syncExact([], { scope: ["a"] }))
      assert.strictEqual(code, "job_definition.empty_job_type_list")
    })
  )
})

type JobDefinitionsError = Effect.Error<ReturnType<typeof JobDefinitions.syncExact>>

// ---------------------------------------------------------------------------------------------------------------------
// Races
// ---------------------------------------------------------------------------------------------------------------------

/** The second begins while the first stands before its commit, and is seen to wait; tells how it ended. */
const race = Effect.fnUntraced(function* <A, E, R, B, E2, R2>(
  first: Effect.Effect<A, E, R>,
  second: Effect.Effect<B, E2, R2>
) {
  const finish = yield* standing(first)
  const fiber = yield* Effect.forkScoped(Effect.exit(second))
  yield* until(Effect.map(MutatedSqlClient.unchanged(waiters), (now) => now > 0 || fiber.pollUnsafe() !== undefined))
  const waited = fiber.pollUnsafe() === undefined
  yield* finish
  return { waited, exit: yield* Fiber.join(fiber) }
}, Effect.scoped)

const codeOf = <A>(exit: Exit.Exit<A, { readonly code: string }>) =>
  Exit.isSuccess(exit)
    ? "done"
    : Option.match(Exit.findErrorOption(exit), { onNone: () => "?", onSome: ({ code }) => code })

/** The sync disables a type while a schedule of it is activated, in both orders. */
const activation = Effect.gen(function* () {
  const told: Array<string> = []
  for (const disable of [
    (jobType: string) => JobDefinitions.sync([{ jobType, isEnabled: false }]),
    (jobType: string) => JobDefinitions.syncExact([{ jobType: "sync.other" }], { scope: [jobType, "sync.other"] })
  ]) {
    for (const comes of ["first", "second"] as const) {
      const jobType = yield* makeType
      const { name } = yield* make({ jobType, isActive: false })
      const activate = JobSchedules.setActive(name, true)
      told.push(
        comes === "first"
          ? codeOf((yield* race(disable(jobType), activate)).exit)
          : codeOf((yield* race(activate, disable(jobType))).exit)
      )
    }
  }
  const sql = yield* SqlClient
  const broken = yield* MutatedSqlClient.unchanged(sql`
    SELECT s.name FROM runledger.job_schedules s JOIN runledger.job_definitions d ON d.job_type = s.job_type
    WHERE s.is_active AND NOT d.is_enabled`)
  return { told, broken }
})

const asTold = {
  told: [
    "job_schedule.definition_not_found_or_disabled",
    "job_definition.active_schedule_exists",
    "job_schedule.definition_not_found_or_disabled",
    "job_definition.active_schedule_exists"
  ],
  broken: []
}

/** An operator pauses a type while it is synced: in both orders it is paused, and has what was declared. */
const pausing = Effect.gen(function* () {
  const told: Array<unknown> = []
  for (const comes of ["first", "second"] as const) {
    const jobType = yield* makeType
    const pause = JobDefinitions.update(jobType, { isEnabled: false })
    const declare = JobDefinitions.sync([{ jobType, maxAttempts: 7 }])
    yield* comes === "first" ? race(pause, declare) : race(declare, pause)
    const definition = yield* stored(jobType)
    told.push([definition.isEnabled, definition.maxAttempts])
  }
  return told
})

/** Whether a type is enabled that is paused while a sync stands between reading and writing it. */
const pausedBetween = Effect.gen(function* () {
  const jobType = yield* makeType
  const gate = yield* FaultySqlClient.makeGate
  const sync = yield* JobDefinitions.sync([{ jobType, maxAttempts: 7 }]).pipe(
    Effect.provide(FaultySqlClient.layer([{ match: /AS enables/, times: 1, fault: FaultySqlClient.waitAt(gate) }])),
    Effect.forkChild
  )
  yield* gate.reached
  const pause = yield* Effect.forkChild(JobDefinitions.update(jobType, { isEnabled: false }))
  yield* until(Effect.map(waiters, (count) => count > 0 || pause.pollUnsafe() !== undefined))
  yield* gate.open
  yield* Fiber.join(sync)
  yield* Fiber.join(pause)
  return yield* isEnabled(jobType)
})

const paused = [
  [false, 7],
  [false, 7]
]

it.layer(TestDatabase.layerWith({ maxConnections: 10 }), { timeout: "60 seconds" })(
  "JobDefinitions.sync: races",
  (it) => {
    it.effect("of a sync that disables and a schedule that is activated, the second is refused", () =>
      Effect.map(activation, (outcome) => assert.deepStrictEqual(outcome, asTold))
    )

    it.effect("an operator's pause survives a sync that is under way, whichever comes first", () =>
      Effect.map(pausing, (outcome) => assert.deepStrictEqual(outcome, paused))
    )

    it.effect("a pause that comes when a sync is about to write waits for it, and stays", () =>
      Effect.map(pausedBetween, (isEnabled) => assert.isFalse(isEnabled))
    )

    it.effect("a sync that does not lock what it has read ends such a pause", () =>
      Effect.map(
        Effect.provide(
          pausedBetween,
          MutatedSqlClient.layer([{ statement: "AS is_sync_disabled", search: "FOR NO KEY UPDATE", replace: "" }])
        ),
        (isEnabled) => assert.isTrue(isEnabled)
      )
    )

    it.effect("an older sync that waits for a newer one does not undo it", () =>
      Effect.gen(function* () {
        const [a = "", b = ""] = types(2)
        yield* JobDefinitions.upsert(a)
        const sync = (version: number) =>
          JobDefinitions.sync([a, b].map((jobType) => ({ jobType, version, maxAttempts: version })))
        const { waited, exit } = yield* race(sync(3), sync(2))
        assert.isTrue(waited)
        assert.isTrue(Exit.isSuccess(exit))
        if (Exit.isSuccess(exit)) assert.deepStrictEqual(exit.value, { ...nothing, newer: [a, b] })
        for (const jobType of [a, b]) assert.strictEqual((yield* stored(jobType)).maxAttempts, 3)
        // and the other way round
        const later = yield* race(sync(4), sync(5))
        if (Exit.isSuccess(later.exit)) assert.deepStrictEqual(later.exit.value.updated, [a, b])
        assert.strictEqual((yield* stored(b)).maxAttempts, 5)
      })
    )

    it.effect("a sync that waits for one that is rolled back inserts what that did not", () =>
      Effect.gen(function* () {
        const [a = ""] = types(1)
        const finish = yield* standing(JobDefinitions.sync([{ jobType: a, maxAttempts: 9 }]), "ROLLBACK")
        const fiber = yield* Effect.forkScoped(JobDefinitions.sync([{ jobType: a }]))
        yield* waiting(1)
        yield* finish
        assert.deepStrictEqual((yield* Fiber.join(fiber)).inserted, [a])
        assert.strictEqual((yield* stored(a)).maxAttempts, 3)
      })
    )

    it.effect("many syncs at once, in any order and partly new, neither deadlock nor disagree", () =>
      Effect.gen(function* () {
        for (let round = 0; round < 10; round++) {
          const all = types(20)
          yield* JobDefinitions.sync(all.filter((_, n) => n % 3 === 0).map((jobType) => ({ jobType })))
          const reports = yield* Effect.forEach(
            Array.from({ length: 8 }, (_, n) => (n % 2 ? all : all.toReversed()).filter((_, m) => (n + m) % 5 > 0)),
            (some, n) =>
              JobDefinitions.syncExact(
                some.map((jobType) => ({ jobType, maxAttempts: n + 1 })),
                { scope: all }
              ),
            { concurrency: 8 }
          )
          const inserted = reports.flatMap((report) => report.inserted)
          assert.deepStrictEqual(inserted.sort(), all.filter((_, n) => n % 3 !== 0).sort())
        }
      })
    )

    it.effect("waits for nobody for ever, and the caller's transaction goes on", () =>
      Effect.gen(function* () {
        const sql = yield* SqlClient
        const jobType = yield* makeType
        const [news = ""] = types(1)
        const end = yield* standing(
          Effect.andThen(JobDefinitions.update(jobType, { priority: 1 }), JobDefinitions.sync([{ jobType: news }]))
        )
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* sql`SET LOCAL lock_timeout = '50ms'`
            for (const each of [jobType, news]) {
              assert.strictEqual((yield* refusal(JobDefinitions.sync([{ jobType: each }])))._tag, "Unavailable")
            }
            assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "50ms" }])
          })
        )
        yield* end
      })
    )
  }
)

it.live("a session that is REPEATABLE READ by default gets a transaction that is not", () =>
  Effect.gen(function* () {
    const database = yield* TestDatabase.create({ migrated: true })
    yield* SqlClient.use(
      (sql) => sql`ALTER DATABASE ${sql(database)} SET default_transaction_isolation = 'repeatable read'`
    ).pipe(Effect.provide(TestDatabase.client(database, { maxConnections: 1 })))
    yield* Effect.gen(function* () {
      const sql = yield* SqlClient
      assert.deepStrictEqual(yield* sql`SELECT current_setting('transaction_isolation') AS is`, [
        { is: "repeatable read" }
      ])
      assert.deepStrictEqual((yield* JobDefinitions.sync([{ jobType: "a" }])).inserted, ["a"])
    }).pipe(Effect.provide(TestDatabase.client(database)))
  }).pipe(Effect.scoped)
)

const mutants: ReadonlyArray<readonly [title: string, MutatedSqlClient.Edit]> = [
  ["schedules are not looked at", { statement: "LIMIT 1", search: "is_active AND", replace: "false AND" }],
  ["schedules that are paused count", { statement: "LIMIT 1", search: "WHERE is_active AND", replace: "WHERE" }],
  ["pauses end", { statement: "AS enables", search: /r\.job_type = ANY \([^)]*\) AS/g, replace: "true AS" }]
]

const all = Effect.all([Effect.suspend(() => unguarded), pausing, activation])
const expected = [false, paused, asTold]

it.layer(TestDatabase.layerWith({ maxConnections: 10 }), { timeout: "120 seconds" })(
  "JobDefinitions.sync: broken variants",
  (it) => {
    it.effect.each(mutants.map(([title, edit]) => ({ title, edit })))("are noticed: $title", ({ edit }) =>
      Effect.gen(function* () {
        const statements = yield* MutatedSqlClient.Statements
        const told = yield* all.pipe(Effect.timeout("5 seconds"), Effect.exit, TestClock.withLive)
        assert.isTrue(statements.applied().has(edit), "the edit applies")
        assert.isTrue(Exit.isFailure(told) || JSON.stringify(told.value) !== JSON.stringify(expected))
        yield* MutatedSqlClient.unchanged(
          SqlClient.use((sql) => sql`UPDATE runledger.job_schedules SET is_active = false`)
        )
      }).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
    )

    it.effect("pass as they are", () =>
      Effect.map(all, (told) => assert.deepStrictEqual<ReadonlyArray<unknown>>(told, expected))
    )
  }
)

/** A type whose schedule is paused can be disabled; tells whether it is enabled after that. */
const unguarded = Effect.gen(function* () {
  const jobType = yield* makeType
  yield* make({ jobType, isActive: false })
  yield* JobDefinitions.sync([{ jobType, isEnabled: false }])
  return yield* isEnabled(jobType)
})
