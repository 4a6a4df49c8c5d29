/**
 * Keep what ended for a while: in the background of any process, or by a command of your own that may be stopped at any point.
 */
import { Effect, Option } from "effect"
import { Retention } from "../src/index.ts"

/** What is left out is kept for ever. */
export const ages: Retention.Ages = {
  succeeded: "7 days",
  canceled: "7 days",
  deadLettered: "90 days",
  runs: "30 days",
  intents: "7 days",
  logs: "3 days",
  permits: "30 days"
}

/** A pass at once, and then every hour. */
export const Live = Retention.layer({ ages })

/** One pass, batch by batch. Returns how many jobs were deleted. */
export const tidy = Effect.fn("tidy")(function* (ages: Retention.Ages) {
  let cursor: Retention.Cursor | undefined
  let jobs = 0
  do {
    const { deleted, next, skipped } = yield* Retention.prune({ ages, limit: 500, cursor })
    for (const { id, kind, reason } of skipped)
      yield* Effect.logWarning(`A ${kind} is needed elsewhere`, id, reason.code)
    jobs += deleted.jobs
    cursor = Option.getOrUndefined(next)
  } while (cursor !== undefined)
  return jobs
})
