import { type ChildProcess, spawn } from "node:child_process"
import { chmod, chown, mkdir, open, readFile, writeFile } from "node:fs/promises"
import { createServer } from "node:net"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Account from "./embedded-postgres/Account.ts"
import * as Binaries from "./embedded-postgres/Binaries.ts"
import { attempt, EmbeddedPostgresError } from "./embedded-postgres/EmbeddedPostgresError.ts"
import * as RunDirectory from "./embedded-postgres/RunDirectory.ts"

export type { Major } from "./embedded-postgres/Binaries.ts"
export { EmbeddedPostgresError } from "./embedded-postgres/EmbeddedPostgresError.ts"

/** A running server that nobody else uses. */
export interface EmbeddedPostgres {
  /** Without a database: append `/postgres`. */
  readonly url: string
  readonly port: number
  /** As the server says it: `18.4`. */
  readonly version: string
  readonly dataDirectory: string
  /** Process id of the postmaster. */
  readonly pid: number
  /** The end of what the server logged. */
  readonly log: Effect.Effect<string>
  /** Stops the server before the scope closes; sessions are cut off, nothing committed is lost. */
  readonly stop: Effect.Effect<void>
}

/** What may differ between a test run, a demonstration and a benchmark. */
export interface StartOptions {
  /** 18 by default. The older one has to be installed first, see `npm run test:pg15`. */
  readonly major?: Binaries.Major | undefined
  /** 100 by default. */
  readonly maxConnections?: number | undefined
  /** Lines of `postgresql.conf`; they can still be changed by `ALTER SYSTEM`. */
  readonly settings?: Readonly<Record<string, string>> | undefined
  /** Where ports come from; by default the system says which is free. */
  readonly port?: Effect.Effect<number, EmbeddedPostgresError> | undefined
}

const freePort: Effect.Effect<number, EmbeddedPostgresError> = Effect.callback((resume) => {
  const probe = createServer()
  const fail = (cause?: Error) =>
    resume(Effect.fail(new EmbeddedPostgresError({ message: "Could not find a free port", cause })))
  probe.once("error", fail)
  probe.listen({ host: "127.0.0.1", port: 0 }, () => {
    const address = probe.address()
    probe.close(() => (address !== null && typeof address === "object" ? resume(Effect.succeed(address.port)) : fail()))
  })
})

// whatever PGDATA, PGPORT or LC_ALL the terminal has, the server does not see it
const environment = { PATH: process.env.PATH ?? "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" }

const hasExited = (child: ChildProcess) => child.exitCode !== null || child.signalCode !== null

const awaitExit = (child: ChildProcess): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const done = () => resume(Effect.void)
    child.once("exit", done)
    if (hasExited(child)) {
      done()
    }
    return Effect.sync(() => child.off("exit", done))
  })

const signalAndWait = (child: ChildProcess, signal: NodeJS.Signals) =>
  Effect.suspend(() => {
    child.kill(signal)
    return Effect.timeoutOption(awaitExit(child), "5 seconds")
  })

/** Fast shutdown, then immediate shutdown, then no questions asked. */
const stop = Effect.fnUntraced(function* (child: ChildProcess) {
  for (const signal of ["SIGINT", "SIGQUIT", "SIGKILL"] as const) {
    if (hasExited(child)) {
      return
    }
    yield* signalAndWait(child, signal)
  }
})

interface Program {
  readonly binaries: string
  readonly directory: string
  readonly account: Account.Account
}

const logFile = (program: Program) => join(program.directory, "log")

const readLog = (program: Program) =>
  attempt("read the log", () => readFile(logFile(program), "utf8")).pipe(
    Effect.map((text) => text.trimEnd().split("\n").slice(-25).join("\n")),
    Effect.orElseSucceed(() => "")
  )

const failWithLog = (program: Program, message: string) =>
  Effect.flatMap(readLog(program), (log) =>
    Effect.fail(new EmbeddedPostgresError({ message: log === "" ? message : `${message}. It said:\n${log}` }))
  )

/** A process of the server, in a session of its own: Ctrl-C in the terminal reaches us and not it. */
const launch = Effect.fnUntraced(function* (program: Program, command: string, args: ReadonlyArray<string>) {
  // the file is emptied, so that it tells about this process only
  const log = yield* Effect.acquireRelease(
    attempt("open the log", () => open(logFile(program), "w")),
    (file) => Effect.promise(() => file.close())
  )
  return yield* Effect.callback<ChildProcess, EmbeddedPostgresError>((resume) => {
    const child = spawn(join(program.binaries, "bin", command), args, {
      ...program.account,
      cwd: program.directory,
      detached: true,
      env: environment,
      stdio: ["ignore", log.fd, log.fd]
    })
    child.once("spawn", () => resume(Effect.succeed(child)))
    child.once("error", (cause) =>
      resume(Effect.fail(new EmbeddedPostgresError({ message: `Could not run ${command}: ${cause.message}`, cause })))
    )
  })
}, Effect.scoped)

/** {@link launch} for as long as the scope is open. */
const launchScoped = (program: Program, command: string, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(launch(program, command, args), stop)

const run = Effect.fnUntraced(function* (program: Program, command: string, args: ReadonlyArray<string>) {
  const child = yield* launchScoped(program, command, args)
  yield* awaitExit(child)
  if (child.exitCode !== 0) {
    return yield* failWithLog(program, `${command} ended with ${child.exitCode ?? child.signalCode}`)
  }
}, Effect.scoped)

const configuration = (options: StartOptions) =>
  Object.entries({
    listen_addresses: "127.0.0.1",
    // the path of a socket is limited to about a hundred bytes, and a temporary folder may be deep
    unix_socket_directories: "",
    max_connections: String(options.maxConnections ?? 100),
    timezone: "UTC",
    log_timezone: "UTC",
    ...options.settings
  })
    .map(([name, value]) => `${name} = '${value.replaceAll("\\", "\\\\").replaceAll("'", "''")}'\n`)
    .join("")

const createCluster = Effect.fnUntraced(function* (program: Program, options: StartOptions) {
  const data = RunDirectory.dataDirectory(program.directory)
  yield* attempt("create the data directory", async () => {
    await mkdir(data, { mode: 0o700 })
    await chmod(data, 0o700)
    const { uid, gid } = program.account
    if (uid !== undefined && gid !== undefined) {
      await chown(data, uid, gid)
    }
  })
  yield* run(program, "initdb", [
    `--pgdata=${data}`,
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--no-sync",
    "--no-instructions"
  ])
  yield* attempt("write the settings", () =>
    writeFile(join(data, "postgresql.conf"), configuration(options), { flag: "a" })
  )
})

class PortTaken extends EmbeddedPostgresError {}

/** Whether the postmaster accepts connections: it says so in the eighth line of its own file, as `pg_ctl` reads it. */
const isReady = (program: Program, child: ChildProcess) =>
  attempt("read postmaster.pid", () =>
    readFile(join(RunDirectory.dataDirectory(program.directory), "postmaster.pid"), "utf8")
  ).pipe(
    Effect.map((text) => {
      const lines = text.split("\n")
      return Number(lines[0]) === child.pid && lines[7]?.trim() === "ready"
    }),
    Effect.orElseSucceed(() => false)
  )

const serve = Effect.fnUntraced(function* (program: Program, port: number) {
  const data = RunDirectory.dataDirectory(program.directory)
  const child = yield* launchScoped(program, "postgres", ["-D", data, "-p", String(port)])

  // a process that exits without closing its scopes, as a test runner does on Ctrl-C, takes its server along
  const onExit = () => {
    child.kill("SIGQUIT")
    RunDirectory.removeSync(program.directory)
  }
  process.once("exit", onExit)
  yield* Effect.addFinalizer(() => Effect.sync(() => process.off("exit", onExit)))

  const ready = yield* isReady(program, child).pipe(
    Effect.repeat({ until: (ready) => ready || hasExited(child), schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOption("60 seconds")
  )
  if (Option.isNone(ready)) {
    return yield* failWithLog(program, "PostgreSQL did not get ready in 60 seconds")
  }
  if (!ready.value) {
    const log = yield* readLog(program)
    return log.includes("could not create any TCP/IP sockets")
      ? yield* new PortTaken({ message: `Port ${port} of 127.0.0.1 is taken. PostgreSQL said:\n${log}` })
      : yield* failWithLog(program, "PostgreSQL did not start")
  }
  return { child, port }
})

const version = (program: Program) =>
  run(program, "postgres", ["--version"]).pipe(
    Effect.andThen(readLog(program)),
    Effect.map((text) => /\d+(\.\d+)?/.exec(text)?.[0] ?? text)
  )

/**
 * Starts a PostgreSQL server from npm on a free port of 127.0.0.1 (superuser `postgres`, no password, UTF-8, locale
 * C) with a directory of its own under the folder for temporary files. It stops and disappears when the scope closes.
 *
 * **Details**
 *
 * Works as root (the server then runs as an unprivileged account that exists) and as an ordinary user, any number at
 * once. What a killed run has left behind is cleared up by the next start.
 *
 * **Gotchas**
 *
 * For development: every user of this machine can connect while it runs.
 */
export const start = Effect.fn("EmbeddedPostgres.start")(function* (
  options: StartOptions = {}
): Effect.fn.Return<EmbeddedPostgres, EmbeddedPostgresError, Scope.Scope> {
  const uid = yield* Account.currentUid
  const account = yield* Account.forServer(uid)
  const temporaryFolder = yield* RunDirectory.temporaryFolder(uid)
  yield* RunDirectory.sweep(temporaryFolder, uid)

  const directory = yield* RunDirectory.make(temporaryFolder, uid)
  const binaries = yield* Binaries.install({
    major: options.major ?? 18,
    uid,
    temporaryFolder,
    runDirectory: directory
  })
  const program: Program = { binaries, directory, account }
  const versionText = yield* version(program)
  yield* createCluster(program, options)

  // between asking for a free port and listening on it, somebody else may take it
  const { child, port } = yield* (options.port ?? freePort).pipe(
    Effect.flatMap((port) => serve(program, port)),
    Effect.retry({ while: (error) => error instanceof PortTaken, times: 9 })
  )
  return {
    url: `postgres://postgres@127.0.0.1:${port}`,
    port,
    version: versionText,
    dataDirectory: RunDirectory.dataDirectory(directory),
    // a process that has started has an id
    pid: child.pid ?? 0,
    log: readLog(program),
    stop: stop(child)
  }
})
