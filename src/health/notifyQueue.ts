import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Sql from "../internal/sql.ts"
import type { Probe } from "./probe.ts"

const decode = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Struct({ usage: Schema.Number })]))

/**
 * How full the server's queue of notifications is, from 0 to 1. It fills while a session that listens stays in a long
 * transaction; once it is full, commits that notify fail.
 */
export const notifyQueue: Probe = {
  check: "notifyQueue",
  unit: "fraction",
  threshold: { warn: 0.1, fail: 0.5 },
  measure: Effect.gen(function* () {
    const sql = yield* Sql.client
    const [{ usage }] = yield* decode(yield* sql`SELECT pg_notification_queue_usage() AS usage`)
    return {
      value: usage,
      message:
        usage === 0
          ? "Nothing waits in the queue of notifications"
          : `The queue of notifications is ${Number((usage * 100).toPrecision(3))} percent full`,
      rows: []
    }
  })
}
