/**
 * The advisory lock that a run of migrations holds until it commits.
 */
import * as Effect from "effect/Effect"
import * as Sql from "../internal/sql.ts"

// the letters "runledge" as a number
const key = "8247619704435533669"

/** Waits until no other run of migrations holds the lock, and holds it until the transaction ends. */
export const take = Effect.gen(function* () {
  const sql = yield* Sql.client
  yield* sql`SELECT pg_advisory_xact_lock(${key}::bigint)`
})

/** Whether a run of migrations is under way in this database. */
export const isTaken = Effect.gen(function* () {
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT
    FROM pg_locks l
    JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database()
      AND l.locktype = 'advisory'
      AND l.classid::bigint << 32 | l.objid::bigint = ${key}::bigint
      AND l.objsubid = 1
      AND l.granted
  `
  return rows.length > 0
})
