import { assert } from "@effect/vitest"
import { Effect, Schedule, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Jobs from "../src/Jobs.ts"
import { attemptsOf, effectsOf, ended, enqueue, get, notOnce, shutDown, test } from "./support/acts.ts"
import * as WorkerProcess from "./support/workerProcess.ts"

const lock = 4711

/** From now on whoever commits a row of a first attempt waits for the test, in the middle of its COMMIT. */
const holdCommits = SqlClient.use((sql) =>
  Effect.gen(function* () {
    yield* sql`
      CREATE FUNCTION wait_in_commit() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        PERFORM pg_advisory_xact_lock_shared(4711);
        RETURN NULL;
      END $$`
    yield* sql`
      CREATE CONSTRAINT TRIGGER wait_in_commit AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW WHEN (NEW.attempt = 1) EXECUTE FUNCTION wait_in_commit()`
    const connection = yield* sql.reserve
    yield* connection.execute("SELECT pg_advisory_lock($1)", [lock], undefined)
    return Effect.asVoid(connection.execute("SELECT pg_advisory_unlock($1)", [lock], undefined))
  })
)

/** The backend that stands in its COMMIT. */
const committing = SqlClient.use(
  (sql) => sql<{ pid: number }>`
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query = 'COMMIT' AND wait_event = 'advisory'`
).pipe(
  Effect.filterOrFail(
    (backends) => backends.length === 1,
    (backends) => new Error(`${backends.length} backends stand in their COMMIT`)
  ),
  Effect.retry({ schedule: Schedule.spaced("10 millis"), times: 1000 }),
  Effect.map(([backend]) => backend?.pid ?? 0)
)

const backendEnded = (pid: number) =>
  SqlClient.use((sql) => sql`SELECT FROM pg_stat_activity WHERE pid = ${pid}`).pipe(
    Effect.repeat({ until: (rows) => rows.length === 0, schedule: Schedule.spaced("10 millis") })
  )

interface Hung {
  readonly jobId: Jobs.JobId
  readonly backend: number
  readonly first: WorkerProcess.WorkerProcess
  readonly other: WorkerProcess.WorkerProcess
  readonly release: Effect.Effect<void, unknown>
}

/**
 * A worker is killed while its COMMIT is under way, and its lease is over: another worker has reaped what else the dead one
 * held, and began it again, but the job whose COMMIT is open belongs to nobody else.
 */
const killedInCommit = Effect.fnUntraced(function* (
  url: string
): Effect.fn.Return<Hung, unknown, SqlClient | Scope.Scope> {
  const sql = yield* SqlClient
  const release = yield* holdCommits
  const first = yield* WorkerProcess.ready(url, "first")
  const jobId = yield* enqueue({ behavior: "complete" })
  const backend = yield* committing
  // claimed later than the other, so its lease ends later
  const beside = yield* enqueue({ behavior: "slow", millis: 20_000, attempts: 1 })
  yield* first.said(new RegExp(`^begin ${beside} 1$`))
  yield* first.signal("SIGKILL")
  assert.strictEqual((yield* first.ended).signal, "SIGKILL")
  const other = yield* WorkerProcess.ready(url, "other")
  yield* other.said(new RegExp(`^begin ${beside} 2$`))

  // the server has not noticed that nobody hears its answer
  assert.strictEqual(yield* committing, backend)
  assert.isFalse(yield* isLive(sql, jobId))
  assert.deepStrictEqual(yield* attemptsOf(jobId), [["first", null]])
  assert.deepStrictEqual(yield* effectsOf(jobId), [])
  return { jobId, backend, first, other, release }
})

const isLive = (sql: SqlClient, jobId: Jobs.JobId) =>
  Effect.map(
    sql`SELECT FROM runledger.job_queue WHERE id = ${jobId} AND lease_expires_at > clock_timestamp()`,
    (rows) => rows.length > 0
  )

/** Lets the other worker run whatever there is, after a pass of the reaper, then stops it. */
const settle = Effect.fnUntraced(function* (other: WorkerProcess.WorkerProcess) {
  yield* Jobs.reapExpiredLeases({ limit: 100 })
  const further = yield* enqueue({ behavior: "quick" })
  yield* ended(further)
  yield* shutDown(other)
  assert.deepStrictEqual(yield* notOnce, [])
})

test("killed during its COMMIT, which the server then makes: the job has succeeded, and does not run again", (url) =>
  Effect.gen(function* () {
    const { backend, first, jobId, other, release } = yield* killedInCommit(url)
    yield* release
    yield* backendEnded(backend)
    const stored = yield* get(jobId)
    assert.strictEqual(stored.status, "SUCCEEDED")
    yield* settle(other)
    assert.deepStrictEqual(yield* attemptsOf(jobId), [["first", "SUCCEEDED"]])
    assert.deepStrictEqual(yield* effectsOf(jobId), [[1, first.pid]])
    assert.deepStrictEqual(yield* get(jobId), stored)
  }))

test("killed during its COMMIT, which the server then rolls back: the job runs again, elsewhere", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { backend, jobId, other, release } = yield* killedInCommit(url)
    yield* sql`SELECT pg_terminate_backend(${backend})`
    yield* backendEnded(backend)
    assert.strictEqual((yield* ended(jobId)).status, "SUCCEEDED")
    yield* release
    yield* settle(other)
    assert.deepStrictEqual(yield* attemptsOf(jobId), [
      ["first", "LEASE_EXPIRED"],
      ["other", "SUCCEEDED"]
    ])
    assert.deepStrictEqual(yield* effectsOf(jobId), [[2, other.pid]])
  }))

test("a worker that lives on and loses the connection of its COMMIT runs the job again", (url) =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const release = yield* holdCommits
    const worker = yield* WorkerProcess.ready(url, "worker")
    const jobId = yield* enqueue({ behavior: "complete" })
    const backend = yield* committing
    yield* sql`SELECT pg_terminate_backend(${backend})`
    yield* worker.said(new RegExp(`^over ${jobId} 1 Failure$`))
    assert.strictEqual((yield* ended(jobId)).status, "SUCCEEDED")
    yield* release
    yield* shutDown(worker)
    assert.deepStrictEqual(yield* attemptsOf(jobId), [
      ["worker", "FAILED"],
      ["worker", "SUCCEEDED"]
    ])
    assert.deepStrictEqual(yield* effectsOf(jobId), [[2, worker.pid]])
    assert.deepStrictEqual(yield* notOnce, [])
  }))
