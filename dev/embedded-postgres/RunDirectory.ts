import { rmSync } from "node:fs"
import { chmod, lstat, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { attempt, type EmbeddedPostgresError } from "./EmbeddedPostgresError.ts"
import * as ProcessIdentity from "./ProcessIdentity.ts"

const Owner = Schema.fromJsonString(ProcessIdentity.ProcessIdentity)

const prefix = (uid: number) => `runledger-postgres-run-${uid}-`

const ownerFile = (directory: string) => join(directory, "owner.json")

/** Where a run keeps the server's data. */
export const dataDirectory = (directory: string): string => join(directory, "data")

/** The folder for temporary files. The server of root runs as somebody else, who has to be able to enter it. */
export const temporaryFolder = Effect.fnUntraced(function* (
  uid: number
): Effect.fn.Return<string, EmbeddedPostgresError> {
  const folder = yield* attempt("find the folder for temporary files", () => realpath(tmpdir()))
  if (uid !== 0) {
    return folder
  }
  const isOpen = (path: string): Promise<boolean> =>
    lstat(path).then(({ mode }) => (mode & 0o001) !== 0 && (dirname(path) === path || isOpen(dirname(path))))
  const open = yield* attempt("look at the folder for temporary files", () => isOpen(folder))
  return open ? folder : yield* attempt("find /tmp", () => realpath("/tmp"))
})

const remove = (directory: string) =>
  attempt(`remove ${directory}`, () => rm(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 }))

/** A directory for one server, gone with the scope. It says who owns it, so that a later run can clear up after us. */
export const make = Effect.fnUntraced(function* (
  temporaryFolder: string,
  uid: number
): Effect.fn.Return<string, EmbeddedPostgresError, Scope.Scope> {
  const directory = yield* Effect.acquireRelease(
    attempt("create a directory for the server", async () => {
      const directory = await mkdtemp(join(temporaryFolder, prefix(uid)))
      // the account of the server may pass, not look around
      await chmod(directory, 0o711)
      return directory
    }),
    (directory) => Effect.ignore(remove(directory), { log: "Warn" })
  )
  const owner = yield* Effect.orDie(Schema.encodeEffect(Owner)(yield* ProcessIdentity.current))
  yield* attempt("write down the owner", () => writeFile(ownerFile(directory), owner))
  return directory
})

/** {@link make}'s end for a process that exits without closing its scopes: nothing asynchronous runs any more. */
export const removeSync = (directory: string): void =>
  Effect.runSync(
    Effect.ignore(Effect.try(() => rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 })))
  )

const isAbandoned = Effect.fnUntraced(function* (directory: string, uid: number) {
  const found = yield* attempt("look at a former run", () => lstat(directory))
  if (!found.isDirectory() || found.uid !== uid) {
    return false
  }
  return yield* attempt("read the owner of a former run", () => readFile(ownerFile(directory), "utf8")).pipe(
    Effect.flatMap(Schema.decodeEffect(Owner)),
    Effect.flatMap(ProcessIdentity.hasEnded),
    // without an owner it is either being made right now or was left half-made
    Effect.orElseSucceed(() => Date.now() - found.mtimeMs > Duration.toMillis("1 hour"))
  )
})

const signal = (pid: number, name: NodeJS.Signals) => Effect.ignore(Effect.try(() => process.kill(pid, name)))

/** Stops the server of a run, if it is still the one that wrote its `postmaster.pid`. */
const stopServer = Effect.fnUntraced(function* (directory: string) {
  const data = dataDirectory(directory)
  const [text, { uid }] = yield* attempt("read postmaster.pid", () =>
    Promise.all([readFile(join(data, "postmaster.pid"), "utf8"), lstat(data)])
  )
  const [first, itsData] = text.split("\n")
  const pid = Number(first)
  if (!Number.isInteger(pid) || pid <= 1 || itsData !== data || !(yield* ProcessIdentity.runs(pid, data, uid))) {
    return
  }
  const startedAt = yield* ProcessIdentity.startedAt(pid)
  const hasEnded = Effect.map(ProcessIdentity.startedAt(pid), (now) => now !== startedAt)
  yield* signal(pid, "SIGQUIT")
  const ended = yield* hasEnded.pipe(
    Effect.repeat({ until: (ended) => ended, schedule: Schedule.spaced("20 millis") }),
    Effect.timeoutOption("8 seconds")
  )
  if (ended._tag === "None" && !(yield* hasEnded)) {
    yield* signal(pid, "SIGKILL")
  }
})

/**
 * Clears up after runs of this user that were killed: stops their servers and removes their directories. Runs that
 * live, and those of other users, are left alone; a failure here never keeps a new server from starting.
 */
export const sweep = Effect.fnUntraced(
  function* (temporaryFolder: string, uid: number) {
    const entries = yield* attempt("list former runs", () => readdir(temporaryFolder))
    const directories = entries
      .filter((name) => name.startsWith(prefix(uid)))
      .map((name) => join(temporaryFolder, name))
    yield* Effect.forEach(
      directories,
      Effect.fnUntraced(
        function* (directory) {
          if (yield* isAbandoned(directory, uid)) {
            yield* Effect.ignore(stopServer(directory))
            yield* remove(directory)
          }
        },
        (effect) => Effect.ignore(effect)
      ),
      { concurrency: 4, discard: true }
    )
  },
  (effect) => Effect.ignore(effect)
)
