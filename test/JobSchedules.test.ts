import { assert, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Option, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer } from "effect/sql/Statement"
import { TestClock } from "effect/testing"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import { jobsOf, make, makeType, refusal, silence, stored, unique, utc } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const organizationId = "01980000-0000-7000-8000-00000000000a"

/** The next full hour of the test clock. */
const nextHour = Effect.map(DateTime.now, (now) =>
  DateTime.makeUnsafe((Math.floor(now.epochMilliseconds / 3.6e6) + 1) * 3.6e6)
)

it.layer(TestDatabase.layerTestClock)("JobSchedules", (it) => {
  it.effect("upsert creates a schedule, whose first time is the first after now", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const name = unique("bare")
      const now = yield* DateTime.now
      const first = yield* nextHour
      const schedule = yield* JobSchedules.upsert({ name, jobType, cron: "0 * * * *" })
      assert.deepStrictEqual(
        { ...schedule },
        {
          ...schedule,
          name,
          owner: Option.none(),
          jobType,
          organizationId: Option.none(),
          payload: {},
          payloadVersion: 1,
          carriesTime: "MEMBER",
          cron: "0 * * * *",
          timezone: "UTC",
          overlap: "earlier",
          maxJitterSeconds: 0,
          isActive: true,
          pausedAt: Option.none(),
          nextFireAt: first,
          dueAt: first,
          lastFiredAt: Option.none(),
          lastScheduledFor: Option.none(),
          lastJobId: Option.none(),
          lastErrorCode: Option.none(),
          lastErrorMessage: Option.none(),
          lastErrorAt: Option.none(),
          createdByUserId: Option.none(),
          createdAt: now,
          updatedAt: now
        }
      )
      assert.deepStrictEqual(yield* stored(name), schedule)
    })
  )

  it.effect("upsert stores everything that is given", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const nextFireAt = utc("2031-01-01T00:00:00.123Z")
      const schedule = yield* JobSchedules.upsert({
        name: unique("full"),
        jobType,
        cron: "30 0 2 * * MON-FRI",
        timezone: "America/New_York",
        overlap: "both",
        maxJitter: 1500,
        organizationId,
        isActive: false,
        nextFireAt,
        createdByUserId: organizationId,
        payload: [1, null],
        payloadVersion: 3
      })
      const { cron, timezone, overlap, maxJitterSeconds, isActive, payload, payloadVersion, carriesTime } = schedule
      assert.deepStrictEqual(
        { cron, timezone, overlap, maxJitterSeconds, isActive, payload, payloadVersion, carriesTime },
        {
          cron: "30 0 2 * * MON-FRI",
          timezone: "America/New_York",
          overlap: "both",
          maxJitterSeconds: 2,
          isActive: false,
          payload: [1, null],
          payloadVersion: 3,
          carriesTime: "WRAPPER"
        }
      )
      assert.deepStrictEqual(schedule.organizationId, Option.some(organizationId))
      assert.deepStrictEqual(schedule.createdByUserId, Option.some(organizationId))
      assert.deepStrictEqual(schedule.nextFireAt, nextFireAt)
      // inactive, it was not paused by anyone
      assert.deepStrictEqual(schedule.pausedAt, Option.none())
    })
  )

  it.effect("upsert of what is declared already writes nothing", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* makeType
      const request = { name: unique("same"), jobType, cron: "0 * * * *", payload: { b: 1, a: [null, "x"] } }
      const first = yield* JobSchedules.upsert(request)
      const version = sql`SELECT xmin::text AS version FROM runledger.job_schedules WHERE name = ${request.name}`
      // it is locked, which leaves its mark in xmax alone
      const before = yield* version
      yield* TestClock.adjust("1 second")
      const again = yield* JobSchedules.upsert({ ...request, payload: { a: [null, "x"], b: 1 } })
      assert.deepStrictEqual(again, first)
      assert.deepStrictEqual(yield* version, before)
    })
  )

  it.effect("upsert keeps what is not its own: whether it is active, its organization, and the time that is next", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const name = unique("kept")
      const first = yield* JobSchedules.upsert({ name, jobType, cron: "0 * * * *", organizationId, isActive: false })
      yield* TestClock.adjust("2 hours")
      const other = yield* makeType
      const changed = yield* JobSchedules.upsert({
        name,
        jobType: other,
        cron: "0 * * * *",
        payload: { changed: true },
        isActive: true,
        nextFireAt: utc("2031-01-01T00:00:00Z")
      })
      assert.deepInclude({ ...changed }, { id: first.id, jobType: other, isActive: false, payload: { changed: true } })
      assert.deepStrictEqual(changed.organizationId, Option.some(organizationId))
      assert.deepStrictEqual(changed.nextFireAt, first.nextFireAt)
      assert.deepStrictEqual(changed.createdAt, first.createdAt)
      assert.deepStrictEqual(changed.updatedAt, yield* DateTime.now)
    })
  )

  it.effect.each([
    { what: "cron", change: { cron: "30 * * * *" } },
    { what: "timezone", change: { timezone: "Asia/Kolkata" } },
    { what: "overlap", change: { overlap: "both" as const } }
  ])("a new $what means a new next time", ({ change }) =>
    Effect.gen(function* () {
      const { name, jobType } = yield* make({ nextFireAt: utc("2031-01-01T00:00:00Z") })
      const moved = yield* JobSchedules.upsert({ name, jobType, cron: "0 * * * *", ...change })
      const now = (yield* DateTime.now).epochMilliseconds
      assert.isAbove(moved.nextFireAt.epochMilliseconds, now)
      assert.isAtMost(moved.nextFireAt.epochMilliseconds, now + 3.6e6)
      const given = utc("2032-01-01T00:00:00Z")
      const again = yield* JobSchedules.upsert({ name, jobType, cron: "15 * * * *", nextFireAt: given })
      assert.deepStrictEqual([again.nextFireAt, again.dueAt], [given, given])
    })
  )

  it.effect("an operator's pause survives upsert and sync, and ends by setActive alone", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const { name, jobType, nextFireAt } = yield* make()
      const request = { name, jobType, cron: "0 * * * *" }
      const now = yield* DateTime.now
      const paused = Option.getOrThrow(yield* JobSchedules.setActive(name, false))
      assert.isFalse(paused.isActive)
      assert.deepStrictEqual(paused.pausedAt, Option.some(now))
      yield* TestClock.adjust("1 second")
      yield* JobSchedules.upsert({ ...request, payload: { v: 1 } })
      yield* JobSchedules.sync([{ ...request, payload: { v: 2 }, isActive: true }])
      yield* JobSchedules.syncExact([{ ...request, payload: { v: 3 } }], { names: [name] })
      // it is no longer declared, and then it is again
      yield* JobSchedules.syncExact([], { names: [name] })
      yield* JobSchedules.sync([{ ...request, payload: { v: 4 } }])
      // pausing what is paused keeps its time
      yield* JobSchedules.setActive(name, false)
      const still = yield* stored(name)
      assert.deepInclude({ ...still }, { isActive: false, payload: { v: 4 } })
      assert.deepStrictEqual(still.pausedAt, Option.some(now))
      const resumed = Option.getOrThrow(yield* JobSchedules.setActive(name, true))
      assert.isTrue(resumed.isActive)
      assert.deepStrictEqual(resumed.pausedAt, Option.none())
      assert.deepStrictEqual(resumed.nextFireAt, nextFireAt)
      assert.deepStrictEqual(yield* sql`SELECT FROM runledger.job_queue WHERE job_type = ${jobType}`, [])
      assert.deepStrictEqual(yield* JobSchedules.setActive(unique("nobody"), true), Option.none())
      assert.deepStrictEqual(yield* JobSchedules.setActive(unique("nobody"), false), Option.none())
    })
  )

  it.effect(
    "what passes during a pause fires once when it ends, for the first of its times; or not, if it is moved on",
    () =>
      Effect.gen(function* () {
        yield* silence
        const one = yield* make()
        const two = yield* make()
        for (const { name } of [one, two]) yield* JobSchedules.setActive(name, false)
        yield* TestClock.adjust("5 hours")
        assert.deepStrictEqual((yield* JobSchedules.fireDue({ limit: 1000 })).fires, [])
        yield* JobSchedules.setNextFireAt(two.name, yield* nextHour)
        for (const { name } of [one, two]) yield* JobSchedules.setActive(name, true)
        const { fires } = yield* JobSchedules.fireDue({ limit: 1000 })
        assert.deepStrictEqual(
          fires.map((fire) => fire._tag === "Fired" && [fire.name, fire.scheduledFor, fire.missed, fire.nextFireAt]),
          [[one.name, one.nextFireAt, 4, yield* nextHour]]
        )
        for (const { name } of [one, two]) yield* JobSchedules.setActive(name, false)
      })
  )

  it.effect("setNextFireAt moves a schedule, in both directions", () =>
    Effect.gen(function* () {
      const { name } = yield* make()
      for (const at of [utc("2031-01-01T00:00:00.001Z"), utc("2001-01-01T00:00:00Z")]) {
        const moved = Option.getOrThrow(yield* JobSchedules.setNextFireAt(name, at))
        assert.deepStrictEqual([moved.nextFireAt, moved.dueAt], [at, at])
        assert.deepStrictEqual(yield* stored(name), moved)
      }
      assert.deepStrictEqual(
        yield* JobSchedules.setNextFireAt(unique("nobody"), utc("2031-01-01T00:00:00Z")),
        Option.none()
      )
      yield* JobSchedules.setActive(name, false)
    })
  )

  it.effect("sync declares many, all or none, and says what it did", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const prefix = unique("sync")
      const request = (suffix: string, more: Partial<JobSchedules.ScheduleRequest> = {}) => ({
        name: `${prefix}.${suffix}`,
        jobType,
        cron: "0 * * * *",
        ...more
      })
      const names = (...suffixes: ReadonlyArray<string>) => suffixes.map((suffix) => `${prefix}.${suffix}`)
      const first = yield* JobSchedules.sync(["c", "a", "b"].map((suffix) => request(suffix)))
      assert.deepStrictEqual(first, { inserted: names("a", "b", "c"), updated: [], unchanged: [], deactivated: [] })
      const next = yield* JobSchedules.sync([
        request("d"),
        request("c", { payload: { x: 1 } }),
        request("a"),
        request("b", { isActive: false })
      ])
      assert.deepStrictEqual(next, {
        inserted: names("d"),
        updated: names("b", "c"),
        unchanged: names("a"),
        deactivated: []
      })
      assert.isFalse((yield* stored(`${prefix}.b`)).isActive)
      const failed = yield* refusal(
        JobSchedules.sync([request("e"), request("a", { payload: 1 }), request("f", { jobType: unique("undeclared") })])
      )
      assert.deepInclude(
        { ...failed },
        { _tag: "ScheduleDefinitionUnavailable", schedule: `${prefix}.f`, state: "missing" }
      )
      assert.deepStrictEqual(yield* JobSchedules.get(`${prefix}.e`), Option.none())
      assert.deepStrictEqual((yield* stored(`${prefix}.a`)).payload, {})
      assert.deepStrictEqual(yield* JobSchedules.sync([]), {
        inserted: [],
        updated: [],
        unchanged: [],
        deactivated: []
      })
    })
  )

  it.effect("a schedule that is declared again goes on with its next time: it missed none", () =>
    Effect.gen(function* () {
      const { name, jobType } = yield* make()
      const request = { name, jobType, cron: "0 * * * *" }
      yield* JobSchedules.syncExact([], { names: [name] })
      assert.isFalse((yield* stored(name)).isActive)
      yield* TestClock.adjust("9 hours")
      yield* JobSchedules.sync([request])
      const back = yield* stored(name)
      assert.isTrue(back.isActive)
      assert.deepStrictEqual(back.nextFireAt, yield* nextHour)
    })
  )

  it.effect("an exact sync by names deactivates what is in its scope and not declared, and touches nothing else", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const all = yield* Effect.forEach(["a", "b", "c", "d"], (suffix) => make({ jobType, name: unique(suffix) }))
      const [a, b, c, d] = all.map(({ name }) => name)
      if (a === undefined || b === undefined || c === undefined || d === undefined) return assert.fail()
      yield* JobSchedules.setActive(c, false)
      const report = yield* JobSchedules.syncExact([{ name: a, jobType, cron: "0 * * * *" }], {
        names: [c, b, a, unique("nobody")]
      })
      // what was inactive already is not told
      assert.deepStrictEqual(report, { inserted: [], updated: [], unchanged: [a], deactivated: [b] })
      const active = yield* Effect.forEach([a, b, c, d], (name) => Effect.map(stored(name), ({ isActive }) => isActive))
      assert.deepStrictEqual(active, [true, false, false, true])
      const outside = yield* refusal(JobSchedules.syncExact([{ name: d, jobType, cron: "0 * * * *" }], { names: [a] }))
      assert.deepInclude({ ...outside }, { _tag: "InvalidArgument", argument: "schedules[0].name" })
      const empty = yield* refusal(JobSchedules.syncExact([], { names: [] }))
      assert.deepInclude({ ...empty }, { _tag: "InvalidArgument", argument: "scope.names" })
    })
  )

  it.effect("an exact sync of an owner deactivates what is the owner's and not declared; nobody takes it away", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      const [ours, theirs] = [unique("ours"), unique("theirs")]
      const request = (name: string) => ({ name, jobType, cron: "0 * * * *" })
      const [a, b, c, free] = [unique("a"), unique("b"), unique("c"), unique("free")]
      yield* JobSchedules.sync([request(a), request(b)], { owner: ours })
      yield* JobSchedules.sync([request(c)], { owner: theirs })
      yield* JobSchedules.upsert(request(free))
      const report = yield* JobSchedules.syncExact([request(b), request(free)], { owner: ours })
      assert.deepStrictEqual(report, { inserted: [], updated: [free], unchanged: [b], deactivated: [a] })
      assert.deepStrictEqual((yield* stored(free)).owner, Option.some(ours))
      assert.isTrue((yield* stored(c)).isActive)
      const taken = yield* refusal(JobSchedules.sync([request(b)], { owner: theirs }))
      assert.deepInclude({ ...taken }, { _tag: "ScheduleOwnedElsewhere", schedule: b, owner: ours })
      // nothing declared at all
      const none = yield* JobSchedules.syncExact([], { owner: ours })
      assert.deepStrictEqual(none.deactivated, [b, free].sort())
      // whoever names no owner leaves it
      yield* JobSchedules.upsert({ ...request(b), payload: 1 })
      assert.deepStrictEqual((yield* stored(b)).owner, Option.some(ours))
      const mine = yield* JobSchedules.list({ owner: ours })
      assert.deepStrictEqual(mine.map(({ name }) => name).sort(), [a, b, free].sort())
    })
  )

  it.effect("a typed schedule declares its contract, and stores what the contract encodes", () =>
    Effect.gen(function* () {
      class Report extends Job.make(unique("report"), {
        version: 2,
        maxAttempts: 7,
        payload: { day: Schema.DateTimeUtc, _schedule: Schema.optionalKey(JobSchedules.FireTime) }
      }) {}
      const day = utc("2026-01-01T00:00:00Z")
      const schedule = yield* JobSchedules.upsert(
        JobSchedules.schedule(unique("typed"), Report, { day }, { cron: "0 * * * *" })
      )
      assert.deepInclude({ ...schedule }, { jobType: Report.jobType, payloadVersion: 2, carriesTime: "MEMBER" })
      assert.deepStrictEqual(schedule.payload, { day: "2026-01-01T00:00:00.000Z" })
      assert.strictEqual(Option.getOrThrow(yield* JobDefinitions.get(Report.jobType)).maxAttempts, 7)
      yield* JobSchedules.setNextFireAt(schedule.name, utc("2026-01-01T02:00:00.250Z"))
      yield* JobSchedules.fireDue({ limit: 1000 })
      const [job] = yield* jobsOf(Report.jobType)
      const decoded = yield* Schema.decodeUnknownEffect(Schema.toCodecJson(Report.payload))(job?.payload)
      assert.deepStrictEqual(decoded, {
        day,
        _schedule: {
          schedule_id: schedule.id,
          schedule_name: schedule.name,
          scheduled_for: utc("2026-01-01T02:00:00.250Z")
        }
      })
      assert.strictEqual(job?.payload_version, 2)
    })
  )

  it.effect("a payload that is no object, or would not decode with the member, is fired as it is", () =>
    Effect.gen(function* () {
      class Count extends Job.make(unique("count"), { payload: Schema.Int }) {}
      class Totals extends Job.make(unique("totals"), { payload: Schema.Record(Schema.String, Schema.Int) }) {}
      class Plain extends Job.make(unique("plain"), { payload: { to: Schema.String } }) {}
      const past = { cron: "0 * * * *", nextFireAt: utc("2026-01-01T02:00:00Z") }
      yield* JobSchedules.sync([
        JobSchedules.schedule(unique("count"), Count, 7, past),
        JobSchedules.schedule(unique("totals"), Totals, { a: 1 }, past),
        JobSchedules.schedule(unique("plain"), Plain, { to: "ada" }, past)
      ])
      yield* JobSchedules.fireDue({ limit: 1000 })
      const payload = (type: string) => Effect.map(jobsOf(type), ([job]) => job?.payload)
      assert.deepStrictEqual(yield* payload(Count.jobType), 7)
      assert.deepStrictEqual(yield* payload(Totals.jobType), { a: 1 })
      const plain = yield* Schema.decodeUnknownEffect(Plain.payload)(yield* payload(Plain.jobType))
      assert.deepStrictEqual(plain, { to: "ada" })
      // the time is in the key all the same
      const [job] = yield* jobsOf(Count.jobType)
      assert.match(job?.idempotency_key ?? "", /^schedule:[0-9a-f-]{36}:2026-01-01T02:00:00\.000Z$/)
    })
  )

  it.effect("a typed payload that does not match is refused, and nothing is declared", () =>
    Effect.gen(function* () {
      class Small extends Job.make(unique("small"), { payload: { n: Schema.Int } }) {}
      const reason = yield* refusal(
        JobSchedules.upsert(JobSchedules.schedule("s", Small, { n: 1.5 }, { cron: "* * * * *" }))
      )
      assert.deepInclude({ ...reason }, { _tag: "InvalidArgument", argument: "payload" })
      assert.deepStrictEqual(yield* JobDefinitions.get(Small.jobType), Option.none())
    })
  )

  const bad: ReadonlyArray<readonly [code: string, argument: string, Partial<JobSchedules.ScheduleRequest>]> = [
    ["job_schedule.invalid_name", "name", { name: "" }],
    ["job_schedule.invalid_name", "name", { name: " \t" }],
    ["job_schedule.invalid_name", "name", { name: " nightly" }],
    ["job_schedule.invalid_name", "name", { name: "nightly\n" }],
    ["job_schedule.invalid_name", "name", { name: "night\0ly" }],
    ["job_schedule.invalid_name", "name", { name: "n".repeat(256) }],
    ["job_schedule.invalid_cron", "cron", { cron: "" }],
    ["job_schedule.invalid_cron", "cron", { cron: " * * * * *" }],
    ["job_schedule.invalid_cron", "cron", { cron: "* * * *" }],
    ["job_schedule.invalid_cron", "cron", { cron: "0 0 31 2 *" }],
    ["job_schedule.invalid_cron", "cron", { cron: `${"1,".repeat(600)}1 * * * *` }],
    ["job_schedule.invalid_timezone", "timezone", { timezone: "Mars/Olympus" }],
    ["job_schedule.invalid_timezone", "timezone", { timezone: "" }],
    ["job_schedule.invalid_jitter", "maxJitter", { maxJitter: -1000 }],
    ["job_schedule.invalid_jitter", "maxJitter", { maxJitter: "86401 seconds" }],
    ["job_schedule.invalid_jitter", "maxJitter", { maxJitter: "Infinity" }],
    ["job.invalid_argument", "jobType", { jobType: " " }],
    ["job.invalid_argument", "payloadVersion", { payloadVersion: 0 }],
    ["job.invalid_argument", "organizationId", { organizationId: "nobody" }],
    ["job.invalid_argument", "createdByUserId", { createdByUserId: "nobody" }],
    ["job.invalid_argument", "nextFireAt", { nextFireAt: DateTime.makeUnsafe(8.64e15) }],
    ["job.invalid_argument", "payload", { payload: { text: "\0" } }],
    ["job.invalid_argument", "payload", { payload: Number.NaN }],
    ["job.invalid_argument", "payload", { payload: "x".repeat(2 * 1024 * 1024 - 3) }]
  ]

  it.effect.each(bad.map(([code, argument, change]) => ({ code, argument, change })))(
    "refuses a bad $argument before anything is sent ($code)",
    ({ code, argument, change }) =>
      Effect.gen(function* () {
        const request = { name: "s", jobType: "t", cron: "* * * * *", ...change }
        const one = yield* refusal(JobSchedules.upsert(request))
        assert.strictEqual(one.code, code)
        assert.strictEqual("argument" in one && one.argument, argument)
        for (const many of [JobSchedules.sync([request]), JobSchedules.syncExact([request], { owner: "o" })]) {
          const reason = yield* refusal(many)
          assert.strictEqual("argument" in reason && reason.argument, `schedules[0].${argument}`)
        }
      }).pipe(Effect.provideService(CurrentTransformer, () => Effect.die("a statement was sent")))
  )

  it.effect("refuses a name that stands in a batch twice, too many, and bad names, owners and pages", () =>
    Effect.gen(function* () {
      const request = { name: "s", jobType: "t", cron: "* * * * *" }
      const argument = <A>(self: Effect.Effect<A, { readonly reason: object }, SqlClient>) =>
        Effect.map(Effect.flip(self), ({ reason }) =>
          "argument" in reason ? reason.argument : "_tag" in reason && reason._tag
        )
      assert.strictEqual(yield* argument(JobSchedules.sync([request, request])), "schedules[1].name")
      const many = Array.from({ length: 1001 }, (_, n) => ({ ...request, name: `s${n}` }))
      assert.strictEqual(yield* argument(JobSchedules.sync(many)), "schedules")
      assert.strictEqual(yield* argument(JobSchedules.sync([request], { owner: " " })), "owner")
      assert.strictEqual(yield* argument(JobSchedules.syncExact([], { owner: "" })), "scope.owner")
      assert.strictEqual(yield* argument(JobSchedules.syncExact([], { names: ["a", " b"] })), "scope.names[1]")
      assert.strictEqual(yield* argument(JobSchedules.get(" ")), "name")
      assert.strictEqual(yield* argument(JobSchedules.setActive("", true)), "name")
      assert.strictEqual(yield* argument(JobSchedules.setNextFireAt("a ", utc("2026-01-01T00:00:00Z"))), "name")
      const never = DateTime.makeUnsafe(8.64e15)
      assert.strictEqual(yield* argument(JobSchedules.setNextFireAt("a", never)), "nextFireAt")
      assert.strictEqual(yield* argument(JobSchedules.list({ limit: 0 })), "InvalidPagination")
      assert.strictEqual(yield* argument(JobSchedules.list({ contains: "" })), "contains")
      assert.strictEqual(yield* argument(JobSchedules.list({ after: "\0" })), "after")
      for (const limit of [0, 1001, 1.5]) {
        assert.strictEqual(yield* argument(JobSchedules.fireDue({ limit })), "limit")
      }
    })
  )

  it.effect("a list is in order of name, a page at a time, and filters", () =>
    Effect.gen(function* () {
      const prefix = unique("List_%")
      const jobType = yield* makeType
      const names = Array.from({ length: 5 }, (_, n) => `${prefix}.${n}`)
      yield* JobSchedules.sync(names.toReversed().map((name) => ({ name, jobType, cron: "0 * * * *" })))
      const page = (options: JobSchedules.ListOptions) =>
        Effect.map(JobSchedules.list({ contains: prefix.toLowerCase(), ...options }), (found) =>
          found.map(({ name }) => name)
        )
      assert.deepStrictEqual(yield* page({}), names)
      assert.deepStrictEqual(yield* page({ limit: 2, after: names[1] }), names.slice(2, 4))
      assert.deepStrictEqual(yield* page({ jobType, after: names[3] }), names.slice(4))
      yield* JobSchedules.setActive(names[2] ?? "", false)
      assert.deepStrictEqual(yield* page({ isActive: false }), names.slice(2, 3))
      assert.deepStrictEqual(yield* page({ isActive: true, limit: 2 }), names.slice(0, 2))
      assert.deepStrictEqual(yield* page({ isFailing: true }), [])
      assert.deepStrictEqual(yield* page({ isFailing: false, jobType: unique("nothing") }), [])
    })
  )

  it.effect("joins the caller's transaction: commits, rolls back, and leaves it usable after a refusal", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const jobType = yield* makeType
      const name = unique("tx")
      const request = { name, jobType, cron: "0 * * * *" }
      const lost = yield* Effect.exit(
        sql.withTransaction(Effect.andThen(JobSchedules.upsert(request), Effect.fail("rollback")))
      )
      assert.deepStrictEqual(lost, Exit.fail("rollback"))
      assert.deepStrictEqual(yield* JobSchedules.get(name), Option.none())
      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* sql`SET LOCAL lock_timeout = '7s'`
          yield* JobSchedules.upsert(request)
          yield* refusal(JobSchedules.upsert({ ...request, jobType: unique("undeclared") }))
          yield* JobSchedules.setActive(name, false)
          yield* JobSchedules.setActive(name, true)
          yield* JobSchedules.setActive(unique("nobody"), true)
          yield* JobSchedules.setNextFireAt(name, utc("2026-01-01T00:00:00Z"))
          const { fires } = yield* JobSchedules.fireDue({ limit: 1000 })
          assert.isTrue(fires.some((fire) => fire.name === name))
          yield* JobSchedules.syncExact([], { names: [name] })
          assert.deepStrictEqual(yield* sql`SHOW lock_timeout`, [{ lock_timeout: "7s" }])
        })
      )
      assert.isFalse((yield* stored(name)).isActive)
      assert.strictEqual((yield* jobsOf(jobType)).length, 1)
    })
  )

  it.effect("an active schedule needs an enabled definition, an inactive one any", () =>
    Effect.gen(function* () {
      const jobType = yield* makeType
      yield* JobDefinitions.update(jobType, { isEnabled: false })
      const request = { name: unique("needs"), jobType, cron: "0 * * * *" }
      const unavailable = { code: "job_schedule.definition_not_found_or_disabled", state: "disabled", jobType }
      assert.deepInclude(yield* refusal(JobSchedules.upsert(request)), unavailable)
      assert.deepInclude(yield* refusal(JobSchedules.sync([request])), unavailable)
      const { name } = yield* JobSchedules.upsert({ ...request, isActive: false })
      assert.deepInclude(yield* refusal(JobSchedules.setActive(name, true)), unavailable)
      assert.deepInclude(yield* refusal(JobSchedules.sync([request])), unavailable)
      yield* JobDefinitions.update(jobType, { isEnabled: true })
      assert.isTrue(Option.getOrThrow(yield* JobSchedules.setActive(name, true)).isActive)
      // the other way round
      const exists = { code: "job_definition.active_schedule_exists", jobType }
      assert.deepInclude(yield* refusal(JobDefinitions.update(jobType, { isEnabled: false, priority: 9 })), exists)
      assert.deepInclude(yield* refusal(JobDefinitions.upsert(jobType, { isEnabled: false })), exists)
      assert.deepInclude({ ...Option.getOrThrow(yield* JobDefinitions.get(jobType)) }, { isEnabled: true, priority: 0 })
      yield* JobSchedules.setActive(name, false)
      yield* JobDefinitions.upsert(jobType, { isEnabled: false })
      assert.isFalse(Option.getOrThrow(yield* JobDefinitions.get(jobType)).isEnabled)
    })
  )
})
