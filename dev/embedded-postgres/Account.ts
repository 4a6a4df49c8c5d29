import { readFile } from "node:fs/promises"
import * as Effect from "effect/Effect"
import { attempt, EmbeddedPostgresError } from "./EmbeddedPostgresError.ts"

/** Who the server runs as, in the form `spawn` takes; empty for "as we do". */
export interface Account {
  readonly uid?: number
  readonly gid?: number
}

/** The user id of this process. */
export const currentUid: Effect.Effect<number, EmbeddedPostgresError> = Effect.suspend(() =>
  process.getuid === undefined
    ? Effect.fail(new EmbeddedPostgresError({ message: "The embedded server needs Linux or macOS" }))
    : Effect.succeed(process.getuid())
)

// nobody first; the others exist on nearly every system and own no files of value
const candidates = ["nobody", "daemon", "bin", "games"]

/**
 * The account for a server started by `uid`. PostgreSQL refuses to run as root, so root lends it an unprivileged
 * account that already exists; no account is ever created.
 */
export const forServer = Effect.fnUntraced(function* (uid: number): Effect.fn.Return<Account, EmbeddedPostgresError> {
  if (uid !== 0) {
    return {}
  }
  const passwd = yield* attempt("read /etc/passwd", () => readFile("/etc/passwd", "utf8"))
  const accounts = new Map(
    passwd.split("\n").map((line) => {
      const [name = "", , uid, gid] = line.split(":")
      return [name, { uid: Number(uid), gid: Number(gid) }] as const
    })
  )
  for (const name of candidates) {
    const account = accounts.get(name)
    // macOS writes nobody as -2
    if (account !== undefined && account.uid !== 0 && Number.isInteger(account.uid) && Number.isInteger(account.gid)) {
      return { uid: account.uid >>> 0, gid: account.gid >>> 0 }
    }
  }
  return yield* new EmbeddedPostgresError({
    message: `PostgreSQL does not run as root, and /etc/passwd has none of ${candidates.join(", ")}`
  })
})
