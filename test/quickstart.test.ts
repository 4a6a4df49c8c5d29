import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as NodeFileSystem from "@effect/platform-node/NodeFileSystem"
import { assert, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { filesBelow, keyOfAll } from "../examples/start/files.ts"
import { countFolder } from "../examples/start/graph.ts"
import * as Jobs from "../src/Jobs.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Workflows from "../src/Workflows.ts"
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

/** Starts the quick start on a folder, where there is no terminal; it is killed with the scope. */
const start = Effect.fnUntraced(function* (database: string, folder: string, ...flags: ReadonlyArray<string>) {
  const output = { text: "" }
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn(process.execPath, [quickStart, ...flags, folder], {
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

const run = (database: string, folder: string, ...flags: ReadonlyArray<string>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { exit, output } = yield* start(database, folder, ...flags)
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
    assert.include(first, "A new run of 7 steps: 3 files to count")
    assert.include(first, "2 files not there, jobs of their own: 2 new, 0 there already")
    assert.include(first, "Opened: there is no terminal to ask on")
    assert.match(first, /total +3 +4 +4 +20\n/)
    assert.match(first, /abc\.txt +1 +3 +ba7816bf8f01cfea/)
    assert.include(first, "Retries: 1\n")
    assert.include(first, "read me.md, attempt 1: FAILED (RETRYABLE, file.not_yet, ")
    assert.include(first, "read me.md, attempt 2: SUCCEEDED")
    assert.include(first, "Dead letters: 2\n")
    assert.include(first, "dangling: TERMINAL file.unreadable, a link that leads nowhere")
    assert.include(first, "made-up-and-gone.txt: TERMINAL file.unreadable, no such file")

    assert.match(first, /Result: 3 files, 4 lines, 20 bytes; approved by ./)
    assert.match(
      first,
      new RegExp(
        [
          "folder\\.count",
          "  count × 3 +3 SUCCEEDED +\\d.*",
          "  sum +SUCCEEDED +\\d.* after the end of count",
          "  approval \\(external\\) +SUCCEEDED +after sum",
          "  publish +SUCCEEDED +\\d.* after sum, approval",
          "  cleanup +SUCCEEDED +\\d.* after the end of publish"
        ].join("\n")
      )
    )
    // the cleanup has run
    const [, draft = ""] = /are in (\S+)/.exec(first) ?? []
    assert.include(draft, ".sha256")
    assert.isFalse(existsSync(draft))
    assert.notInclude(first, "flowchart TD")

    const second = yield* run(database, folder)
    assert.include(second, "The run of these 3 files is there already: SUCCEEDED")
    assert.include(second, "2 files not there, jobs of their own: 0 new, 2 there already")
    assert.notInclude(second, "Opened")
    assert.strictEqual(second.slice(second.indexOf("counted  ")), first.slice(first.indexOf("counted  ")))

    yield* write(folder, "abc.txt", "abcd")
    const third = yield* run(database, folder, "--yes", "--mermaid")
    assert.include(third, "A new run of 7 steps: 3 files to count")
    assert.include(third, "jobs of their own: 0 new, 2 there already")
    assert.include(third, "Opened: --yes")
    assert.match(third, /total +3 +4 +4 +21\n/)
    const [chart = ""] = /^flowchart TD\n(?: .*\n)+/m.exec(third) ?? []
    assert.deepStrictEqual(chart.trimEnd().split("\n").slice(1, 11), [
      '  n0[["count × 3<br/>3 SUCCEEDED"]]:::SUCCEEDED',
      '  n1["sum<br/>SUCCEEDED"]:::SUCCEEDED',
      '  n2{{"approval<br/>SUCCEEDED"}}:::SUCCEEDED',
      '  n3["publish<br/>SUCCEEDED"]:::SUCCEEDED',
      '  n4["cleanup<br/>SUCCEEDED"]:::SUCCEEDED',
      "  n0 -.-> n1",
      "  n1 --> n2",
      "  n1 --> n3",
      "  n2 --> n3",
      "  n3 -.-> n4"
    ])

    yield* Effect.gen(function* () {
      // a run counts all of its files
      assert.strictEqual(yield* count("SUCCEEDED"), 6)
      assert.strictEqual(yield* count("DEAD_LETTERED"), 2)
      assert.strictEqual(yield* Workflows.count({ scope: TenantScope.admin, status: "SUCCEEDED" }), 2)
    }).pipe(Effect.provide(TestDatabase.client(database)))
  })
)

it.live("a run that has ended without a result is shown as it is", () =>
  Effect.gen(function* () {
    const folder = yield* temporaryFolder
    const path = join(folder, "abc.txt")
    yield* write(folder, "abc.txt", "abc")
    const database = yield* TestDatabase.create({ migrated: true })
    yield* Effect.gen(function* () {
      const idempotencyKey = keyOfAll(folder, yield* Effect.provide(filesBelow(folder), NodeFileSystem.layer))
      const { run: enqueued } = yield* Workflows.enqueue(countFolder(folder, [path]), {
        metadata: { folder },
        idempotencyKey
      })
      yield* Workflows.cancel(TenantScope.global, enqueued.id)
    }).pipe(Effect.provide(TestDatabase.client(database)))

    const text = yield* run(database, folder)
    assert.include(text, "The run of this 1 file is there already: CANCELED")
    assert.include(text, "No result: the run ended as CANCELED.")
    assert.match(text, / {2}count × 1 +1 CANCELED\n {2}sum +CANCELED/)
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
        assert.match(next, /Result: 2,000 files, /)
        // each once: the files, and the three jobs that follow
        const [row] = yield* sql`SELECT count(*)::int4 AS runs FROM runledger.job_attempts WHERE ended_as = 'SUCCEEDED'`
        assert.strictEqual(row?.runs, files + 3)
        assert.strictEqual(yield* Workflows.count({ scope: TenantScope.admin }), 1)
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
        assert.include(next, "The run of these 2,000 files is there already: RUNNING")
        assert.include(next, `jobs of their own: ${files + 1 - before} new, ${before - files} there already`)
        assert.match(next, /total +2,000 /)
        assert.strictEqual(yield* count("SUCCEEDED"), files)
        assert.strictEqual(yield* count("DEAD_LETTERED"), 1)
        assert.deepStrictEqual(
          yield* sql`
            SELECT count(*)::int4 AS jobs, count(DISTINCT payload ->> 'path')::int4 AS paths
            FROM runledger.job_queue WHERE job_type = 'file.count'`,
          [{ jobs: files + 1, paths: files + 1 }]
        )
        assert.match(next, /Result: 2,000 files, /)
        // each once: the files, and the three jobs that follow
        const [row] = yield* sql`SELECT count(*)::int4 AS runs FROM runledger.job_attempts WHERE ended_as = 'SUCCEEDED'`
        assert.strictEqual(row?.runs, files + 3)
        assert.strictEqual(yield* Workflows.count({ scope: TenantScope.admin }), 1)
      }).pipe(Effect.provide(TestDatabase.client(database, { applicationName: "test" })))
    }),
  90_000
)
