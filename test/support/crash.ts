/**
 * Processes that are killed in the middle of what they do.
 */
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestDatabase from "./TestDatabase.ts"

const child = fileURLToPath(new URL("../../dist/dev/crashChild.js", import.meta.url))

/** Runs lives until each stands before its statement, kills the process there with SIGKILL, and returns what it said. */
export const live = (lives: "jobs" | "workflows", database: string, at: ReadonlyArray<number>): Effect.Effect<string> =>
  Effect.callback((resume) => {
    const life = spawn(process.execPath, [child], {
      env: {
        ...process.env,
        CRASH_DATABASE_URL: TestDatabase.url(database),
        CRASH_AT: at.join(","),
        CRASH_LIVES: lives
      },
      stdio: ["ignore", "pipe", "pipe"]
    })
    let said = ""
    const hear = (line: string) => {
      said += line
      life.kill("SIGKILL")
    }
    createInterface({ input: life.stdout }).on("line", hear)
    createInterface({ input: life.stderr }).on("line", hear)
    life.on("error", (error) => resume(Effect.die(error)))
    life.on("close", (_, signal) => resume(Effect.succeed(`${said}, ${signal}`)))
    return Effect.sync(() => life.kill("SIGKILL"))
  })

/** The server has noticed that they are gone: what was open is rolled back. */
export const buried = SqlClient.use((sql) =>
  sql`SELECT FROM pg_stat_activity WHERE application_name = 'crash child'`.pipe(
    Effect.repeat({ until: (backends) => backends.length === 0 })
  )
)
