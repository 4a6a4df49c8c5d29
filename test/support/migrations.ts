import { migrations } from "../../migrations/index.ts"
import type { Migration } from "../../migrations/Migration.ts"
import type { Patience } from "../../src/migrator/transaction.ts"

/** Our migrations, and one of a release that is yet to come. */
export const newer = (next: {
  readonly breaking: boolean
  readonly statements: ReadonlyArray<string>
}): ReadonlyArray<Migration> => [...migrations, { id: migrations.length + 1, name: "next", ...next }]

/** Waits shorter than a user would. */
export const impatient: Patience = { lockTimeout: 50, attempts: 3, pause: "20 millis" }
