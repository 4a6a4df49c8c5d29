import { assert, it } from "@effect/vitest"
import { Context, DateTime, Effect, Exit, Layer, Option, Queue } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { CurrentTransformer } from "effect/sql/Statement"
import { TestClock } from "effect/testing"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Notifications from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { type Plan, planWith, prepare, record } from "./support/plans.ts"
import { another, standing } from "./support/races.ts"
import { rollback } from "./support/rollback.ts"
import { jobsOf, make, makeType, refusal, silence, stored, unique, utc } from "./support/schedules.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const fireDue = (limit = 1000) => JobSchedules.fireDue({ limit })

const past = utc("2026-01-01T02:00:00Z")

it.layer(TestDatabase.layerTestClock, { timeout: "60 seconds" })("JobSchedules.fireDue", (it) => {
  it.effect("enqueues a job that carries its time, and moves on to the first time after now", () =>
    Effect.gen(function* () {
      yield* silence
      const organizationId = "01980000-0000-7000-8000-00000000000a"
      const schedule = yield* make({ payload: { to: "ada" }, payloadVersion: 2, organizationId, cron: "30 2 * * *" })
      const { id, name, jobType, nextFireAt } = schedule
      assert.deepStrictEqual((yield* fireDue()).fires, [])
      yield* TestClock.setTime(nextFireAt.epochMilliseconds - 1)
      const before = yield* fireDue()
      assert.deepStrictEqual(before.fires, [])
      assert.deepStrictEqual(before.nextDueAt, Option.some(nextFireAt))
      yield* TestClock.adjust(1)
      const { fires, at, nextDueAt } = yield* fireDue()
      const next = DateTime.addDuration(nextFireAt, "1 day")
      const [fire, ...others] = fires
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(fire, {
        _tag: "Fired",
        scheduleId: id,
        name,
        jobType,
        scheduledFor: nextFireAt,
        jobId: fire?._tag === "Fired" ? fire.jobId : Jobs.JobId.make(""),
        disposition: "inserted",
        missed: 0,
        nextFireAt: next
      })
      assert.deepStrictEqual([at, nextDueAt], [nextFireAt, Option.some(next)])
      const [job, ...more] = yield* jobsOf(jobType)
      assert.deepStrictEqual(more, [])
      const iso = DateTime.formatIso(nextFireAt)
      assert.deepStrictEqual(job, {
        id: fire?._tag === "Fired" ? fire.jobId : "",
        payload: {
          to: "ada",
          _schedule: { schedule_id: id, schedule_name: name, scheduled_for: iso.replace(".000Z", "Z") }
        },
        payload_version: 2,
        stage: "scheduled",
        idempotency_key: `schedule:${id}:${iso}`,
        organization_id: organizationId,
        next_run_at: new Date(nextFireAt.epochMilliseconds)
      })
      const after = yield* stored(name)
      assert.deepStrictEqual(
        { ...after },
        {
          ...schedule,
          nextFireAt: next,
          dueAt: next,
          lastFiredAt: Option.some(at),
          lastScheduledFor: Option.some(nextFireAt),
          lastJobId: Option.some(Jobs.JobId.make(job?.id ?? "")),
          updatedAt: at
        }
      )
      assert.deepStrictEqual((yield* fireDue()).fires, [])
      const [event] = yield* Jobs.events(TenantScope.admin, Jobs.JobId.make(job?.id ?? ""))
      assert.deepStrictEqual(event?.stage, Option.some("scheduled"))
    })
  )

  it.effect("missed times are one job, for the oldest of them", () =>
    Effect.gen(function* () {
      yield* silence
      const { name, jobType, nextFireAt } = yield* make()
      yield* TestClock.setTime(nextFireAt.epochMilliseconds + 7.5 * 3.6e6)
      const { fires } = yield* fireDue()
      const next = DateTime.addDuration(nextFireAt, "8 hours")
      assert.deepStrictEqual(
        fires.map((fire) => fire._tag === "Fired" && [fire.name, fire.scheduledFor, fire.missed, fire.nextFireAt]),
        [[name, nextFireAt, 7, next]]
      )
      const jobs = yield* jobsOf(jobType)
      assert.strictEqual(jobs.length, 1)
      assert.deepNestedInclude(jobs[0], {
        "payload._schedule.scheduled_for": DateTime.formatIso(nextFireAt).replace(".000Z", "Z")
      })
    })
  )

  it.effect("the payload of a template that is no object is wrapped", () =>
    Effect.gen(function* () {
      const { id, name, jobType } = yield* make({ payload: ["a"], nextFireAt: past })
      yield* fireDue()
      const [job] = yield* jobsOf(jobType)
      assert.deepStrictEqual(job?.payload, {
        payload: ["a"],
        _schedule: { schedule_id: id, schedule_name: name, scheduled_for: "2026-01-01T02:00:00Z" }
      })
    })
  )

  it.effect("a time fires once, also if the schedule is moved back to it", () =>
    Effect.gen(function* () {
      yield* silence
      const { name, jobType } = yield* make({ nextFireAt: past, maxJitter: "1 minute" })
      const [first] = (yield* fireDue()).fires
      yield* JobSchedules.setNextFireAt(name, past)
      const [again] = (yield* fireDue()).fires
      assert.isTrue(first?._tag === "Fired" && again?._tag === "Fired" && first.jobId === again.jobId)
      assert.isTrue(again?._tag === "Fired" && again.disposition === "existing")
      assert.strictEqual((yield* jobsOf(jobType)).length, 1)
    })
  )

  it.effect("jitter delays the job by the same time whoever fires it, and not what comes next", () =>
    Effect.gen(function* () {
      yield* silence
      const delays: Array<number> = []
      const { name, jobType } = yield* make({ maxJitter: "10 minutes", cron: "* * * * *" })
      for (let minute = 0; minute < 30; minute++) {
        const { nextFireAt } = yield* stored(name)
        yield* TestClock.setTime(nextFireAt.epochMilliseconds)
        const fired = Effect.map(fireDue(), ({ fires: [fire] }) =>
          fire?._tag === "Fired" ? fire.nextFireAt.epochMilliseconds : 0
        )
        const delayed = Effect.map(jobsOf(jobType), (jobs) => jobs.at(-1)?.next_run_at.getTime() ?? 0)
        // another scheduler might have done it, and a minute later
        const other = yield* rollback(Effect.andThen(TestClock.adjust("30 seconds"), Effect.andThen(fired, delayed)))
        assert.strictEqual(yield* fired, nextFireAt.epochMilliseconds + 60_000)
        const delay = (yield* delayed) - nextFireAt.epochMilliseconds
        assert.strictEqual(yield* delayed, other)
        assert.isTrue(delay >= 0 && delay <= 600_000 && delay % 1000 === 0)
        delays.push(delay)
      }
      assert.isAbove(new Set(delays).size, 3)
    })
  )

  it.effect("oldest first, no more than asked, those of others left alone", () =>
    Effect.gen(function* () {
      yield* silence
      const jobType = yield* makeType
      const names = yield* Effect.forEach([3, 1, 2, 0], (hour) =>
        Effect.map(make({ jobType, nextFireAt: utc(`2026-01-01T0${hour}:00:00Z`) }), ({ name }) => name)
      )
      const paused = yield* make({ jobType, nextFireAt: past })
      yield* JobSchedules.setActive(paused.name, false)
      const first = yield* fireDue(3)
      assert.deepStrictEqual(
        first.fires.map(({ name }) => name),
        [names[3], names[1], names[2]]
      )
      assert.deepStrictEqual(
        (yield* fireDue(3)).fires.map(({ name }) => name),
        [names[0]]
      )
    })
  )

  it.effect("broken schedules are postponed alone, each with why, and the others fire", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* silence
      const good = yield* make({ nextFireAt: utc("2026-01-01T09:00:00Z") })
      const broken = yield* Effect.forEach(
        ["cron", "never", "zone", "disabled", "conflict", "payload", "refused"],
        (what) => make({ name: unique(what), nextFireAt: past })
      )
      const [cron, never, zone, disabled, conflict, payload, refused] = broken
      if (!cron || !never || !zone || !disabled || !conflict || !payload || !refused) return assert.fail()
      yield* sql`UPDATE runledger.job_schedules SET cron_expr = 'whenever' WHERE id = ${cron.id}::uuid`
      yield* sql`UPDATE runledger.job_schedules SET cron_expr = '0 0 31 2 *' WHERE id = ${never.id}::uuid`
      yield* sql`UPDATE runledger.job_schedules SET timezone = 'Mars/Olympus' WHERE id = ${zone.id}::uuid`
      // somebody went past the library
      yield* sql`UPDATE runledger.job_definitions SET is_enabled = false WHERE job_type = ${disabled.jobType}`
      const key = (id: string) => `schedule:${id}:2026-01-01T02:00:00.000Z`
      yield* Jobs.enqueue(conflict.jobType, "other", { idempotencyKey: key(conflict.id) })
      const large = JSON.stringify({ x: "x".repeat(2 * 1024 * 1024 - 9) })
      yield* sql`UPDATE runledger.job_schedules SET payload_template = ${large}::jsonb WHERE id = ${payload.id}::uuid`
      yield* sql.unsafe(
        `ALTER TABLE runledger.job_queue ADD CONSTRAINT refuse CHECK (job_type <> '${refused.jobType}') NOT VALID`
      )
      const { fires, at } = yield* fireDue()
      const until = DateTime.addDuration(at, "30 seconds")
      const codes = fires.map((fire) =>
        fire._tag === "Fired" ? [fire.name, "fired"] : [fire.name, fire.reason.code, fire.until, fire.scheduledFor]
      )
      const expected = [
        [cron.name, "job_schedule.invalid_cron"],
        [never.name, "job_schedule.invalid_cron"],
        [zone.name, "job_schedule.invalid_timezone"],
        [disabled.name, "job.definition_not_found_or_disabled"],
        [conflict.name, "job.idempotency_conflict"],
        [payload.name, "job.invalid_argument"],
        [refused.name, "db.business_rule_violation"]
      ] as const
      assert.deepStrictEqual(codes, [...expected.map((each) => [...each, until, past]), [good.name, "fired"]])
      for (const [place, { name }] of broken.entries()) {
        const now = yield* stored(name)
        assert.deepInclude(
          { ...now },
          {
            nextFireAt: past,
            dueAt: until,
            lastErrorCode: Option.some(expected[place]?.[1] ?? ""),
            lastErrorAt: Option.some(at),
            lastFiredAt: Option.none()
          }
        )
      }
      assert.strictEqual((yield* JobSchedules.list({ isFailing: true })).length, broken.length)
      // not before the time is up
      yield* TestClock.adjust("29 seconds")
      assert.deepStrictEqual((yield* fireDue()).fires, [])
      yield* sql`ALTER TABLE runledger.job_queue DROP CONSTRAINT refuse`
      yield* sql`UPDATE runledger.job_definitions SET is_enabled = true WHERE job_type = ${disabled.jobType}`
      // who mends a schedule does not wait for it
      yield* JobSchedules.upsert({ name: cron.name, jobType: cron.jobType, cron: "0 * * * *", nextFireAt: past })
      assert.deepStrictEqual(
        (yield* fireDue()).fires.map((fire) => [fire._tag, fire.name, fire.scheduledFor]),
        [["Fired", cron.name, past]]
      )
      yield* TestClock.adjust("1 second")
      const mended = (yield* fireDue()).fires.flatMap((fire) => (fire._tag === "Fired" ? [fire.name] : []))
      assert.deepStrictEqual(mended.sort(), [disabled.name, refused.name].sort())
      const now = yield* stored(refused.name)
      assert.deepInclude(
        { ...now },
        { lastErrorCode: Option.none(), lastErrorMessage: Option.none(), lastErrorAt: Option.none() }
      )
      assert.deepStrictEqual(now.lastScheduledFor, Option.some(past))
    })
  )

  it.effect("the number of statements does not depend on how many are due", () =>
    Effect.gen(function* () {
      const count = Effect.fnUntraced(function* (size: number) {
        yield* silence
        const jobType = yield* makeType
        yield* JobSchedules.sync(
          Array.from({ length: size }, () => ({ name: unique("many"), jobType, cron: "0 * * * *", nextFireAt: past }))
        )
        let sent = 0
        yield* Effect.provideService(fireDue(), CurrentTransformer, (statement) =>
          Effect.sync(() => {
            sent++
            return statement
          })
        )
        assert.strictEqual((yield* jobsOf(jobType)).length, size)
        return sent
      })
      assert.strictEqual(yield* count(50), yield* count(1))
      yield* silence
    })
  )

  it.effect("in a caller's transaction: all or nothing with it, and only READ COMMITTED", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* silence
      const { name, jobType } = yield* make({ nextFireAt: past })
      const exit = yield* Effect.exit(sql.withTransaction(Effect.andThen(fireDue(), Effect.fail("rollback"))))
      assert.deepStrictEqual(exit, Exit.fail("rollback"))
      assert.deepStrictEqual(yield* jobsOf(jobType), [])
      assert.deepStrictEqual((yield* stored(name)).nextFireAt, past)
      const reason = yield* sql.withTransaction(
        Effect.andThen(sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`, refusal(fireDue()))
      )
      assert.deepInclude({ ...reason }, { _tag: "UnsupportedIsolation", code: "job.unsupported_isolation" })
      yield* sql.withTransaction(Effect.asVoid(fireDue()))
      assert.strictEqual((yield* jobsOf(jobType)).length, 1)
    })
  )
})

it.layer(TestDatabase.layerWith({ maxConnections: 12 }), { timeout: "60 seconds" })(
  "JobSchedules.fireDue by the clock of the database",
  (it) => {
    it.effect("the clock of the process does not matter", () =>
      Effect.gen(function* () {
        const { name, nextFireAt } = yield* make({ cron: "* * * * *", nextFireAt: past })
        // the test clock of this process stands at 1970
        assert.strictEqual((yield* DateTime.now).epochMilliseconds, 0)
        const { fires, at } = yield* fireDue()
        assert.deepStrictEqual(
          fires.map((fire) => [fire.name, fire.scheduledFor]),
          [[name, nextFireAt]]
        )
        const next = (yield* stored(name)).nextFireAt.epochMilliseconds - at.epochMilliseconds
        assert.isTrue(next > 0 && next <= 60_000)
        yield* silence
      })
    )

    it.effect("workers are told of jobs that are due, and not of one that waits for its jitter", () =>
      Effect.gen(function* () {
        yield* silence
        const { subscribe } = Context.get(yield* Layer.build(Notifications.layer), Notifications.Listener)
        const inbox = yield* subscribe
        assert.strictEqual((yield* Queue.take(inbox))._tag, "Reconnected")
        const waits = yield* make({ nextFireAt: DateTime.makeUnsafe(Date.now() - 1000), maxJitter: "1 day" })
        yield* fireDue()
        const [job] = yield* jobsOf(waits.jobType)
        assert.isAbove(job?.next_run_at.getTime() ?? 0, Date.now())
        const plain = yield* make({ nextFireAt: past })
        const late = yield* make({ nextFireAt: past, maxJitter: "1 minute" })
        yield* fireDue()
        const heard = [yield* Queue.take(inbox), yield* Queue.take(inbox)]
        assert.deepStrictEqual(
          heard.map((each) => (each._tag === "Due" ? each.jobType : each._tag)).sort(),
          [plain.jobType, late.jobType].sort()
        )
      })
    )

    it.effect("many who fire at once fire each time once", () =>
      Effect.gen(function* () {
        yield* silence
        const jobType = yield* makeType
        const schedules = 60
        for (let round = 0; round < 4; round++) {
          const at = utc(`2026-01-0${round + 1}T00:00:00Z`)
          if (round === 0) {
            yield* JobSchedules.sync(
              Array.from({ length: schedules }, (_, n) => ({
                name: `many.${n}`,
                jobType,
                cron: "0 * * * *",
                nextFireAt: at
              }))
            )
          } else {
            yield* SqlClient.use(
              (sql) => sql`
                UPDATE runledger.job_schedules
                SET next_fire_at = ${DateTime.formatIso(at)}::timestamptz, due_at = ${DateTime.formatIso(at)}::timestamptz
                WHERE job_type = ${jobType}`
            )
          }
          yield* Effect.forEach(
            Array.from({ length: 10 }),
            () => Effect.repeat(fireDue(7), { until: ({ fires }) => fires.length === 0 }),
            { concurrency: 10, discard: true }
          )
        }
        const jobs = yield* jobsOf(jobType)
        assert.strictEqual(new Set(jobs.map(({ idempotency_key }) => idempotency_key)).size, jobs.length)
        assert.strictEqual(jobs.length, 4 * schedules)
      })
    )

    it.effect("what another holds is left to it, and what it lets go fires", () =>
      Effect.gen(function* () {
        yield* silence
        const one = yield* make({ nextFireAt: past })
        const two = yield* make({ nextFireAt: past })
        const end = yield* standing(
          SqlClient.use((sql) => sql`SELECT FROM runledger.job_schedules WHERE id = ${one.id}::uuid FOR UPDATE`),
          "ROLLBACK"
        )
        assert.deepStrictEqual(
          (yield* fireDue()).fires.map(({ name }) => name),
          [two.name]
        )
        yield* end
        assert.deepStrictEqual(
          (yield* fireDue()).fires.map(({ name }) => name),
          [one.name]
        )
      })
    )

    it.effect("one who stands still in the middle of firing keeps the others from none but its own", () =>
      Effect.gen(function* () {
        yield* silence
        const one = yield* make({ nextFireAt: past })
        const end = yield* standing(fireDue(), "ROLLBACK")
        const other = yield* another()
        const two = yield* make({ nextFireAt: past })
        const names = Effect.map(fireDue(), ({ fires }) => fires.map(({ name }) => name))
        assert.deepStrictEqual(yield* Effect.provideService(names, SqlClient, other), [two.name])
        yield* end
        assert.deepStrictEqual(yield* names, [one.name])
        assert.strictEqual((yield* jobsOf(one.jobType)).length, 1)
      })
    )
  }
)

// ---------------------------------------------------------------------------------------------------------------------
// Crashes
// ---------------------------------------------------------------------------------------------------------------------

it.layer(FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layerWith({ maxConnections: 4 }))), {
  timeout: "60 seconds"
})("JobSchedules.fireDue on a connection that fails", (it) => {
  it.effect("lost before or after any statement, a fire has happened whole or not at all, and never twice", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      const { dropConnection } = FaultySqlClient
      let statements = 0
      let crashes = 0
      for (const when of ["before", "after"] as const) {
        for (let nth = 1; ; nth++) {
          yield* silence
          const [one, two] = [
            yield* make({ nextFireAt: past }),
            yield* make({ nextFireAt: past, maxJitter: "1 minute" })
          ]
          yield* faults.clear
          yield* faults.arm([{ match: /./s, nth, fault: dropConnection(when) }])
          const exit = yield* Effect.exit(fireDue())
          const injected = (yield* faults.injected).length
          yield* faults.disarm
          const where = `${when} ${nth}`
          const jobs = [...(yield* jobsOf(one.jobType)), ...(yield* jobsOf(two.jobType))]
          const moved = yield* Effect.forEach([one, two], ({ name }) =>
            Effect.map(stored(name), ({ nextFireAt }) => nextFireAt.epochMilliseconds > past.epochMilliseconds)
          )
          assert.isTrue(jobs.length === 0 || jobs.length === 2, where)
          assert.deepStrictEqual(moved, jobs.length === 0 ? [false, false] : [true, true], where)
          // whoever comes next does the rest
          yield* fireDue()
          assert.strictEqual((yield* jobsOf(one.jobType)).length, 1, where)
          assert.strictEqual((yield* jobsOf(two.jobType)).length, 1, where)
          if (injected === 0) {
            assert.isTrue(Exit.isSuccess(exit), where)
            statements = Math.max(statements, nth - 1)
            break
          }
          crashes++
        }
      }
      // begin, find, enqueue with its savepoints, settle, commit
      assert.isAtLeast(statements, 5)
      assert.isAtLeast(crashes, 2 * 5)
    }).pipe(Effect.provideService(Notifications.NotifyInterval, 0))
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Plans
// ---------------------------------------------------------------------------------------------------------------------

it.layer(TestDatabase.layer, { timeout: "120 seconds" })("plans of JobSchedules.fireDue", (it) => {
  it.effect("a pass costs what is due, whatever else is scheduled and whatever the statistics say", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* JobDefinitions.upsert("plans")
      yield* sql`ALTER TABLE runledger.job_schedules SET (autovacuum_enabled = false)`
      const fill = (count: number) =>
        sql.unsafe(`
          INSERT INTO runledger.job_schedules (
            name, job_type, cron_expr, is_active, next_fire_at, due_at, created_at, updated_at
          )
          SELECT 'plans.' || n || '.' || ${count}, 'plans', '0 * * * *', n % 10 > 0, at, at, at, at
          FROM (
            SELECT n, statement_timestamp() + n * interval '1 second' AS at FROM generate_series(1, ${count}) n
          ) s`)
      const plans: Array<readonly [string, ReadonlyArray<Plan>]> = []
      const explained = (title: string) =>
        Effect.forEach(["force_custom_plan", "force_generic_plan"] as const, (mode) =>
          rollback(
            Effect.gen(function* () {
              yield* planWith(mode)
              yield* JobSchedules.sync(
                Array.from({ length: 3 }, (_, n) => ({
                  name: `due.${n}`,
                  jobType: "plans",
                  cron: "0 * * * *",
                  nextFireAt: past
                }))
              )
              const found: Array<Plan> = []
              for (const statement of yield* record(fireDue(10))) {
                const { explain } = yield* prepare(statement)
                found.push(yield* explain(statement.parameters))
              }
              plans.push([`${title}, ${mode}`, found])
            })
          )
        )
      yield* explained("empty, no statistics")
      yield* sql.unsafe("VACUUM (ANALYZE) runledger.job_schedules").unprepared
      yield* fill(100_000)
      yield* explained("statistics of an empty table")
      yield* sql.unsafe("VACUUM (ANALYZE) runledger.job_schedules").unprepared
      yield* explained("many")
      for (const [title, each] of plans.slice(2)) {
        assert.isAtLeast(each.length, 3, title)
        for (const plan of each) {
          assert.notInclude(plan.scanned, "job_schedules", title)
          assert.isBelow(plan.buffers, 300, title)
          assert.isFalse(plan.compiled, title)
        }
        assert.include(
          each.flatMap(({ indexes }) => indexes),
          "idx_job_schedules_due",
          title
        )
      }
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Broken variants
// ---------------------------------------------------------------------------------------------------------------------

const settling = "last_scheduled_for = CASE"
const finding = "AS upcoming"

/** What a pass does to a schedule that missed a time, one that is broken, and one that is paused. */
const whole = Effect.gen(function* () {
  yield* silence
  const good = yield* make({ nextFireAt: past })
  const broken = yield* make({ nextFireAt: past })
  const paused = yield* make({ nextFireAt: past })
  const later = yield* make({ nextFireAt: utc("9000-01-01T00:00:00Z") })
  const sql = yield* SqlClient
  yield* JobSchedules.setActive(paused.name, false)
  yield* sql`UPDATE runledger.job_schedules SET cron_expr = 'x' WHERE id = ${broken.id}::uuid`
  const held = yield* make({ nextFireAt: past })
  const end = yield* standing(
    MutatedSqlClient.unchanged(sql`SELECT FROM runledger.job_schedules WHERE id = ${held.id}::uuid FOR UPDATE`),
    "ROLLBACK"
  )
  yield* fireDue().pipe(Effect.timeout("3 seconds"), TestClock.withLive, Effect.ensuring(Effect.ignore(end)))
  const rows = yield* Effect.forEach([good, broken, paused, later, held], ({ name }) => stored(name))
  const [fired, postponed, ...untouched] = rows
  const jobs = yield* Effect.forEach([good, broken, paused, later, held], ({ jobType }) =>
    Effect.map(jobsOf(jobType), ({ length }) => length)
  )
  return (
    JSON.stringify(jobs) === "[1,0,0,0,0]" &&
    fired !== undefined &&
    postponed !== undefined &&
    fired.nextFireAt.epochMilliseconds > past.epochMilliseconds &&
    DateTime.Equivalence(fired.nextFireAt, fired.dueAt) &&
    Option.isSome(fired.lastScheduledFor) &&
    DateTime.Equivalence(fired.lastScheduledFor.value, past) &&
    Option.isNone(fired.lastErrorCode) &&
    DateTime.Equivalence(postponed.nextFireAt, past) &&
    postponed.dueAt.epochMilliseconds > past.epochMilliseconds &&
    Option.isNone(postponed.lastFiredAt) &&
    Option.isSome(postponed.lastErrorCode) &&
    untouched.every(
      ({ lastFiredAt, dueAt, nextFireAt }) => Option.isNone(lastFiredAt) && DateTime.Equivalence(dueAt, nextFireAt)
    )
  )
})

const mutants: ReadonlyArray<readonly [title: string, MutatedSqlClient.Edit]> = [
  ["paused schedules fire", { statement: finding, search: "WHERE is_active AND due_at", replace: "WHERE due_at" }],
  ["what is due later fires", { statement: finding, search: "due_at <= (SELECT at FROM input)", replace: "true" }],
  ["it waits for what another holds", { statement: finding, search: "SKIP LOCKED", replace: "" }],
  [
    "a schedule that was postponed loses its time",
    {
      statement: settling,
      search: "CASE WHEN i.job_id IS NULL THEN s.next_fire_at ELSE i.due_at END",
      replace: "i.due_at"
    }
  ],
  [
    "the time that was meant is not kept",
    { statement: settling, search: "ELSE s.next_fire_at END", replace: "ELSE i.due_at END" }
  ],
  [
    "the error is not recorded",
    { statement: settling, search: "last_error_code = i.error_code", replace: "last_error_code = s.last_error_code" }
  ],
  ["it does not move on", { statement: settling, search: "due_at = i.due_at,", replace: "due_at = s.due_at," }]
]

it.layer(TestDatabase.layerWith({ maxConnections: 6 }), { timeout: "120 seconds" })(
  "broken variants of JobSchedules.fireDue",
  (it) => {
    it.effect("the original passes", () => Effect.map(whole, (passes) => assert.isTrue(passes)))

    it.effect.each(mutants.map(([title, edit]) => ({ title, edit })))("are noticed: $title", ({ edit }) =>
      Effect.gen(function* () {
        const statements = yield* MutatedSqlClient.Statements
        const passes = yield* Effect.exit(whole)
        assert.isTrue(statements.applied().has(edit), "the edit applies")
        assert.isFalse(Exit.isSuccess(passes) && passes.value)
      }).pipe(Effect.provide(MutatedSqlClient.layer([edit])))
    )
  }
)
