import { execFile } from "node:child_process"
import { readFile, readlink, stat } from "node:fs/promises"
import { hostname } from "node:os"
import { promisify } from "node:util"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { attempt } from "./EmbeddedPostgresError.ts"

/**
 * One process, for as long as anything of it may be left on disk. A process id alone is reused, so the start time
 * goes with it, and where the process id means something: the machine, its boot, and the process namespace
 * (containers may share a folder for temporary files but not their processes).
 */
export const ProcessIdentity = Schema.Struct({
  pid: Schema.Int,
  startedAt: Schema.String,
  host: Schema.String,
  boot: Schema.String,
  namespace: Schema.String
})
export type ProcessIdentity = typeof ProcessIdentity.Type

const execute = promisify(execFile)

const ps = (pid: number, column: string) =>
  attempt("run ps", () => execute("ps", ["-ww", "-o", `${column}=`, "-p", String(pid)])).pipe(
    Effect.map(({ stdout }) => stdout.trim())
  )

const onLinux = process.platform === "linux"

/** When `pid` started, in a form that only compares; empty if it does not run (any more). */
export const startedAt = (pid: number): Effect.Effect<string> =>
  (onLinux
    ? attempt("read /proc", () => readFile(`/proc/${pid}/stat`, "latin1")).pipe(
        Effect.map((text) => {
          // the name of the command, in parentheses, may itself hold spaces and parentheses
          const fields = text.slice(text.lastIndexOf(")") + 2).split(" ")
          const ended = fields[0] === "Z" || fields[0] === "X"
          return ended ? "" : (fields[19] ?? "")
        })
      )
    : ps(pid, "lstart")
  ).pipe(Effect.orElseSucceed(() => ""))

/** Whether `pid` runs a command that has `argument` among its arguments, as the user `uid`. */
export const runs = (pid: number, argument: string, uid: number): Effect.Effect<boolean> =>
  (onLinux
    ? attempt("read /proc", async () => {
        const [text, owner] = await Promise.all([readFile(`/proc/${pid}/cmdline`, "utf8"), stat(`/proc/${pid}`)])
        return owner.uid === uid && text.split("\0").includes(argument)
      })
    : Effect.map(
        Effect.all([ps(pid, "args"), ps(pid, "uid")]),
        ([args, owner]) =>
          // ps joins the arguments by spaces
          Number(owner) >>> 0 === uid && `${args} `.includes(` ${argument} `)
      )
  ).pipe(Effect.orElseSucceed(() => false))

/** This process. */
export const current: Effect.Effect<ProcessIdentity> = Effect.gen(function* () {
  const read = (path: string) =>
    attempt(`read ${path}`, () => readFile(path, "utf8")).pipe(Effect.orElseSucceed(() => ""))
  const namespace = attempt("read /proc", () => readlink("/proc/self/ns/pid"))
  return {
    pid: process.pid,
    startedAt: yield* startedAt(process.pid),
    host: hostname(),
    boot: (yield* read("/proc/sys/kernel/random/boot_id")).trim(),
    namespace: yield* Effect.orElseSucceed(namespace, () => "")
  }
})

/** Whether `owner` has surely ended. What cannot be judged from here counts as living. */
export const hasEnded = Effect.fnUntraced(function* (owner: ProcessIdentity) {
  const here = yield* current
  if (owner.host !== here.host) {
    return false
  }
  if (owner.boot !== here.boot) {
    return true
  }
  return owner.namespace === here.namespace && owner.startedAt !== (yield* startedAt(owner.pid))
})
