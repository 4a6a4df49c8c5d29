import { spawn } from "node:child_process"
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Jobs from "../src/Jobs.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const quickStart = fileURLToPath(new URL("../dist/examples/start.js", import.meta.url))

const temporaryFolder = Effect.acquireRelease(
  Effect.promise(async () => {
    const parent = await mkdtemp(join(tmpdir(), "runledger-start-"))
    const folder = join(parent, "a b")
    await mkdir(folder)
    return { parent, folder }
  }),
  ({ parent }) => Effect.promise(() => rm(parent, { recursive: true, force: true }))
).pipe(Effect.map(({ folder }) => folder))

const write = (folder: string, name: string, text: string) => Effect.promise(() => writeFile(join(folder, name), text))

const writeMany = (folder: string, files: number) =>
  Effect.forEach(
    Array.from({ length: files }, (_, i) => i),
    (i) => write(folder, `${i}.txt`, `${i}\n`),
    { concurrency: 16, discard: true }
  )

/** Waits for the first job that has succeeded. */
const underWay = SqlClient.use((sql) =>
  sql`SELECT FROM runledger.job_queue WHERE status = 'SUCCEEDED' LIMIT 1`.pipe(
    Effect.repeat({ until: (rows) => rows.length > 0, schedule: Schedule.spaced("5 millis") }),
    Effect.timeout("20 seconds")
  )
)

/** Starts the quick start on a folder; it is killed with the scope. */
const start = Effect.fnUntraced(function* (database: string, folder: string) {
  const output = { text: "" }
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [quickStart, folder], {
        env: { ...process.env, DATABASE_URL: TestDatabase.url(database) },
        stdio: ["ignore", "pipe", "pipe"]
      })
    ),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (text: Buffer) => {
      output.text += text.toString()
    })
  }
  const exited = yield* Effect.forkScoped(
    Effect.callback<number | string | null>((resume) => {
      child.once("close", (code, signal) => resume(Effect.succeed(code ?? signal)))
    }),
    { startImmediately: true }
  )
  return {
    output,
    signal: (name: "SIGINT" | "SIGKILL") => Effect.sync(() => child.kill(name)),
    exit: Effect.timeout(Fiber.join(exited), "40 seconds")
  }
})

const run = (database: string, folder: string) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { exit, output } = yield* start(database, folder)
      const code = yield* exit
      assert.strictEqual(code, 0, output.text)
      return output.text
    })
  )

const count = (status: Jobs.Status) => Jobs.count({ scope: TenantScope.admin, jobType: "file.count", status })

it.live("counts files, retries, buries what cannot be read, and enqueues nothing twice", () =>
  Effect.gen(function* () {
    const folder = yield* temporaryFolder
    yield* write(folder, "abc.txt", "abc")
    yield* write(folder, "empty.txt", "")
    yield* write(folder, "read me.md", "one two\n\n  three\n")
    yield* Effect.promise(async () => {
      await symlink(join(folder, "nowhere"), join(folder, "dangling"))
      await mkdir(join(folder, "node_modules"))
      await writeFile(join(folder, "node_modules", "left.out"), "")
    })
    const database = yield* TestDatabase.create({ migrated: false })

    const first = yield* run(database, folder)
    assert.include(first, "5 files below")
    assert.include(first, "5 new jobs, 0 there already")
    assert.match(first, /total +3 +4 +4 +20\n/)
    assert.match(first, /abc\.txt +1 +3 +ba7816bf8f01cfea/)
    assert.include(first, "Retries: 1\n")
    assert.include(first, "read me.md, attempt 1: FAILED (RETRYABLE, file.not_yet, ")
    assert.include(first, "read me.md, attempt 2: SUCCEEDED")
    assert.include(first, "Dead letters: 2\n")
    assert.include(first, "dangling: TERMINAL file.unreadable, a link that leads nowhere")
    assert.include(first, "made-up-and-gone.txt: TERMINAL file.unreadable, no such file")

    const second = yield* run(database, folder)
    assert.include(second, "0 new jobs, 5 there already")
    assert.strictEqual(second.slice(second.indexOf("counted  ")), first.slice(first.indexOf("counted  ")))

    yield* write(folder, "abc.txt", "abcd")
    const third = yield* run(database, folder)
    assert.include(third, "1 new job, 4 there already")
    assert.match(third, /total +3 +4 +4 +21\n/)

    yield* Effect.gen(function* () {
      assert.strictEqual(yield* count("SUCCEEDED"), 4)
      assert.strictEqual(yield* count("DEAD_LETTERED"), 2)
    }).pipe(Effect.provide(TestDatabase.client(database)))
  })
)

it.live(
  "Ctrl-C in the middle leaves nothing leased, and the next run goes on",
  () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const files = 2000
      yield* writeMany(folder, files)
      const database = yield* TestDatabase.create({ migrated: true })
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        const { exit, output, signal } = yield* start(database, folder)
        yield* underWay
        yield* signal("SIGINT")
        assert.strictEqual(yield* exit, 130, output.text)
        assert.include(output.text, "Stopped: 0 leased, ")
        assert.strictEqual(yield* count("LEASED"), 0)
        const done = yield* count("SUCCEEDED")
        assert.isAbove(done, 0)
        assert.isBelow(done, files)

        const next = yield* run(database, folder)
        assert.match(next, /total +2,000 /)
        assert.strictEqual(yield* count("SUCCEEDED"), files)
        assert.strictEqual(yield* count("DEAD_LETTERED"), 1)
        const [row] = yield* sql`SELECT count(*)::int4 AS runs FROM runledger.job_attempts WHERE ended_as = 'SUCCEEDED'`
        assert.strictEqual(row?.runs, files)
      }).pipe(Effect.provide(TestDatabase.client(database)))
    }),
  90_000
)

it.live(
  "kill -9 in the middle costs nothing but time: the next run finishes everything and enqueues nothing twice",
  () =>
    Effect.gen(function* () {
      const folder = yield* temporaryFolder
      const files = 2000
      yield* writeMany(folder, files)
      const database = yield* TestDatabase.create({ migrated: true })
      yield* Effect.gen(function* () {
        const sql = yield* SqlClient
        const { exit, output, signal } = yield* start(database, folder)
        yield* underWay
        yield* signal("SIGKILL")
        assert.strictEqual(yield* exit, "SIGKILL", output.text)
        // what the server was doing for it comes to an end
        yield* sql`
          SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'test'`.pipe(
          Effect.repeat({ until: (rows) => rows.length === 0, schedule: Schedule.spaced("10 millis") }),
          Effect.timeout("20 seconds")
        )
        const before = yield* Jobs.count({ scope: TenantScope.admin, jobType: "file.count" })
        const done = yield* count("SUCCEEDED")
        assert.isAbove(done, 0)
        assert.isBelow(done, files)

        const next = yield* run(database, folder)
        const [, added = "", found = ""] = /([\d,]+) new jobs?, ([\d,]+) there already/.exec(next) ?? []
        assert.deepStrictEqual(
          [added, found].map((shown) => Number(shown.replace(",", ""))),
          [files + 1 - before, before]
        )
        assert.match(next, /total +2,000 /)
        assert.strictEqual(yield* count("SUCCEEDED"), files)
        assert.strictEqual(yield* count("DEAD_LETTERED"), 1)
        assert.deepStrictEqual(
          yield* sql`
            SELECT count(*)::int4 AS jobs, count(DISTINCT payload ->> 'path')::int4 AS paths
            FROM runledger.job_queue`,
          [{ jobs: files + 1, paths: files + 1 }]
        )
        const [row] = yield* sql`SELECT count(*)::int4 AS runs FROM runledger.job_attempts WHERE ended_as = 'SUCCEEDED'`
        assert.strictEqual(row?.runs, files)
      }).pipe(Effect.provide(TestDatabase.client(database, { applicationName: "test" })))
    }),
  90_000
)
