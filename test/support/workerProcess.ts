import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { Effect, type Scope } from "effect"

const program = fileURLToPath(new URL("../../dist/dev/workerChild.js", import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** A running `dev/workerChild.ts`. */
export interface WorkerProcess {
  readonly workerId: string
  readonly pid: number
  readonly signal: (name: NodeJS.Signals) => Effect.Effect<void>
  /** Waits until it has said `count` lines that match, counted from its start. Dies when it ends before. */
  readonly said: (line: RegExp, count?: number) => Effect.Effect<string>
  readonly ended: Effect.Effect<Ended>
  readonly hasEnded: () => boolean
}

const patience = "20 seconds"

/** Starts a worker process, not yet ready, and kills it when the scope closes, whether it runs, is frozen or has ended. */
export const start = (url: string, workerId: string): Effect.Effect<WorkerProcess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn(process.execPath, [program], {
        env: { ...process.env, WORKER_DATABASE_URL: url, WORKER_ID: workerId },
        stdio: ["pipe", "pipe", "pipe"]
      })
      const lines: Array<string> = []
      const other: Array<string> = []
      const listeners = new Set<() => void>()
      let ended: Ended | undefined
      const hear = () => {
        for (const listener of listeners) listener()
      }
      createInterface({ input: child.stdout }).on("line", (line) => {
        lines.push(line)
        hear()
      })
      createInterface({ input: child.stderr }).on("line", (line) => other.push(line))
      child.stdin.on("error", () => {})
      child.on("error", (error) => other.push(error.message))
      child.on("close", (code, signal) => {
        ended = { code, signal }
        hear()
      })

      const everything = () => [...lines.slice(-40), ...other.slice(-40)].join("\n")

      const when = <A>(what: string, look: () => Effect.Effect<A> | undefined) =>
        Effect.callback<A>((resume) => {
          const listener = () => {
            const found = look()
            if (found === undefined) return
            listeners.delete(listener)
            resume(found)
          }
          listeners.add(listener)
          listener()
          return Effect.sync(() => listeners.delete(listener))
        }).pipe(
          Effect.timeoutOrElse({
            duration: patience,
            orElse: () => Effect.die(new Error(`${workerId}: waited for ${what}. It said:\n${everything()}`))
          })
        )

      const self: WorkerProcess = {
        workerId,
        pid: child.pid ?? 0,
        signal: (name) => Effect.sync(() => child.kill(name)),
        said: (line, count = 1) =>
          when(String(line), () => {
            const matching = lines.filter((said) => line.test(said))[count - 1]
            if (matching !== undefined) return Effect.succeed(matching)
            return ended === undefined
              ? undefined
              : Effect.die(
                  new Error(
                    `${workerId} ended before ${line}: ${ended.code ?? ended.signal}. It said:\n${everything()}`
                  )
                )
          }),
        ended: when("its end", () => (ended === undefined ? undefined : Effect.succeed(ended))),
        hasEnded: () => ended !== undefined
      }
      return self
    }),
    ({ signal, ended }) => Effect.andThen(signal("SIGKILL"), ended)
  )

/** {@link start}, and waits until it is ready. */
export const ready = (url: string, workerId: string): Effect.Effect<WorkerProcess, never, Scope.Scope> =>
  Effect.tap(start(url, workerId), ({ said }) => said(/^ready$/))
