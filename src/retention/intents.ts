import * as Effect from "effect/Effect"
import { deleteBefore } from "../intents/deleteBefore.ts"
import * as Sql from "../internal/sql.ts"
import { type Batch, before, nothing } from "./batch.ts"
import { cursorOf } from "./cursor.ts"
import type { Millis } from "./policy.ts"

/** One batch of intents that became jobs, oldest first. */
export const pruneIntents = Effect.fnUntraced(function* (ages: Millis, limit: number) {
  const { sql, instant } = yield* Sql.clocked
  const deleted = yield* deleteBefore(before(sql, instant, ages.intents), limit)
  const batch: Batch = {
    deleted: { ...nothing, intents: deleted },
    skipped: [],
    after: deleted < limit ? undefined : cursorOf("intents")
  }
  return batch
})
