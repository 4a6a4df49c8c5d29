import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import { buried, live } from "./support/crash.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin } = TenantScope

interface Stored {
  readonly id: Jobs.JobId
  readonly key: string
  readonly status: string
  readonly run: number
  readonly attempt: number
  readonly ended: ReadonlyArray<string>
  readonly event_seq: number
}

/** The jobs of one life, by their keys. */
const jobsOf = (at: number) =>
  SqlClient.use((sql) =>
    Effect.map(
      sql<Stored>`
        SELECT
          q.id, q.idempotency_key AS key, q.status, q.run_number AS run, q.attempt, q.event_seq,
          ARRAY(
            SELECT a.ended_as FROM runledger.job_attempts a WHERE a.job_id = q.id ORDER BY a.run_number, a.attempt
          ) AS ended
        FROM runledger.job_queue q
        WHERE q.job_type = ANY (${typesOf(at)})`,
      (jobs) => new Map(jobs.map((job) => [job.key, job]))
    )
  )

const typesOf = (at: number) => [`crash.${at}`, `crash.${at}.prefetched`, `crash.${at}.doomed`]

const orphans = SqlClient.use(
  (sql) => sql`
    SELECT 'attempt' AS of, job_id FROM runledger.job_attempts WHERE job_id NOT IN (SELECT id FROM runledger.job_queue)
    UNION ALL SELECT 'event', job_id FROM runledger.job_events WHERE job_id NOT IN (SELECT id FROM runledger.job_queue)
    UNION ALL SELECT 'dead letter', job_id FROM runledger.job_dead_letters WHERE job_id NOT IN (SELECT id FROM runledger.job_queue)
    UNION ALL SELECT 'log', job_id FROM runledger.job_logs WHERE job_id NOT IN (SELECT id FROM runledger.job_queue)`
)

/** Every event has its number, and no number is missing. */
const eventsAgree = (jobs: ReadonlyMap<string, Stored>, where: string) =>
  Effect.forEach(
    jobs.values(),
    Effect.fnUntraced(function* (job) {
      const events = yield* Jobs.events(admin, job.id)
      assert.deepStrictEqual(
        events.map(({ seq }) => seq),
        Array.from({ length: job.event_seq }, (_, index) => index + 1),
        `${where}: the events of ${job.key}`
      )
    }),
    { discard: true }
  )

/** The user's row of each step is there if and only if the job took that step. */
const rowsAgree = Effect.fnUntraced(function* (at: number, jobs: ReadonlyMap<string, Stored>, where: string) {
  const sql = yield* SqlClient
  const rows = yield* sql<{ word: string }>`SELECT word FROM own WHERE at = ${at}`
  const ended = (key: string, as: string) => jobs.get(key)?.ended.includes(as) === true
  const steps = {
    succeed: jobs.has("succeed"),
    succeeded: ended("succeed", "SUCCEEDED"),
    failed: ended("fail", "FAILED"),
    retried: ended("retry", "FAILED"),
    continued: ended("continue", "CONTINUED"),
    canceled: ended("cancel", "CANCELED")
  }
  assert.deepStrictEqual(
    rows.map(({ word }) => word).sort(),
    Object.entries(steps)
      .flatMap(([word, taken]) => (taken ? [word] : []))
      .sort(),
    where
  )
  assert.deepStrictEqual(
    {
      succeeded: jobs.get("succeed")?.status === "SUCCEEDED",
      failed: jobs.get("fail")?.status === "DEAD_LETTERED",
      canceled: jobs.get("cancel")?.status === "CANCELED",
      continued: (jobs.get("continue")?.run ?? 1) === 2
    },
    { succeeded: steps.succeeded, failed: steps.failed, canceled: steps.canceled, continued: steps.continued },
    where
  )
})

const keys = ["succeed", "fail", "retry", "continue", "cancel", "prefetched", "doomed"]

it.live(
  "killed before any statement of its life, a process leaves jobs that are claimable, leased or terminal, and nothing half",
  () =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: true })
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE own (at int NOT NULL, word text NOT NULL)`
        const declare = (at: number) =>
          Effect.forEach(typesOf(at), (type) =>
            JobDefinitions.upsert(type, { retry: { initial: 1, max: 1, jitter: 0 }, maxAttempts: 5 })
          )

        // the whole life, to learn how many statements it has
        yield* declare(0)
        const finished = yield* live("jobs", database, [0])
        assert.match(finished, /^finished \d+, SIGKILL$/)
        const count = Number.parseInt(finished.slice("finished ".length), 10)
        assert.isAbove(count, 35)
        const lives = Array.from({ length: count }, (_, index) => index + 1)
        yield* Effect.forEach(lives, declare)
        // several lives to a process: starting one costs more than living
        yield* Effect.forEach(
          Array.from({ length: Math.ceil(count / 8) }, (_, group) => lives.slice(group * 8, group * 8 + 8)),
          (group) =>
            Effect.map(live("jobs", database, group), (said) =>
              assert.strictEqual(said, "stopped, SIGKILL", `before ${group}`)
            ),
          { concurrency: 2, discard: true }
        )
        yield* buried

        assert.deepStrictEqual(yield* orphans, [])
        const seen = new Set<string>()
        for (const at of [0, ...lives]) {
          const jobs = yield* jobsOf(at)
          for (const { status } of jobs.values()) seen.add(status)
          yield* rowsAgree(at, jobs, `before ${at}`)
          yield* eventsAgree(jobs, `before ${at}`)
        }
        assert.deepStrictEqual([...seen].sort(), ["CANCELED", "DEAD_LETTERED", "LEASED", "PENDING", "SUCCEEDED"])

        // the leases run out, and the reaper gives back what the dead held
        yield* sql`
          UPDATE runledger.job_queue SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE status = 'LEASED'`
        const { leases, postponed } = yield* Jobs.reapExpiredLeases({ limit: 1000 })
        assert.isAbove(leases.length, count)
        assert.deepStrictEqual(postponed, [])
        assert.strictEqual(yield* Jobs.count({ scope: admin, status: "LEASED" }), 0)

        for (const at of [0, ...lives]) {
          const where = `before ${at}, recovered`
          const before = yield* jobsOf(at)
          yield* rowsAgree(at, before, where)
          // whoever enqueued tries again, and there is one job for each key
          const [type = "", prefetched = "", doomed = ""] = typesOf(at)
          yield* Jobs.enqueue(type, "succeed", { idempotencyKey: "succeed", priority: 10 })
          yield* Jobs.enqueue(prefetched, "prefetched", { idempotencyKey: "prefetched" })
          yield* Jobs.enqueue(doomed, "doomed", { idempotencyKey: "doomed" })
          yield* Jobs.enqueueMany(
            ["fail", "retry", "continue", "cancel"].map((key) => ({ jobType: type, payload: key, idempotencyKey: key }))
          )
          const enqueued = yield* jobsOf(at)
          assert.deepStrictEqual([...enqueued.keys()].sort(), keys.toSorted(), where)
          for (const [key, job] of before) assert.strictEqual(enqueued.get(key)?.id, job.id, `${where}: ${key}`)

          // and a worker that lives finishes the rest
          const open = [...enqueued.values()].filter(({ status }) => status === "PENDING")
          const claimed = yield* Jobs.claim({ workerId: "survivor", types: typesOf(at), limit: 10 }).pipe(
            Effect.repeat({ until: (jobs) => jobs.length === open.length })
          )
          yield* Jobs.completeMany(claimed.map(({ lease }) => ({ _tag: "Success", lease })))
          const done = yield* jobsOf(at)
          assert.notIncludeMembers(
            [...done.values()].map(({ status }) => status),
            ["PENDING", "LEASED"],
            where
          )
          yield* eventsAgree(done, where)
        }
        assert.deepStrictEqual(yield* orphans, [])
      }).pipe(Effect.provide(TestDatabase.client(database)), Effect.provideService(NotifyInterval, 0))
    }),
  120_000
)
