/**
 * Which clock the statements of this library read.
 */
import * as Context from "effect/Context"

/**
 * Where the instants inside our statements come from.
 *
 * - `"database"` (the default): `statement_timestamp()` and `clock_timestamp()` of the server. Client clock skew changes
 *   nothing.
 * - `"effect"`: the `Clock` of the fiber, sent as parameters. With `TestClock` a test moves leases, due times and schedules
 *   without waiting. Both instants are then taken before the statement is sent, so this is for tests only: that a lease is
 *   judged after its row lock is held can be shown with `"database"` alone. Start the test clock at the time of the
 *   database, because ids are UUIDv7 of today.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { StatementClock } from "effect-runledger"
 *
 * const onTestClock = Effect.provideService(StatementClock.StatementClock, "effect")
 * ```
 */
export const StatementClock = Context.Reference<"database" | "effect">("effect-runledger/StatementClock", {
  defaultValue: () => "database"
})
