/**
 * When a failure is tried again: the contract's policy, exact delays for some codes, and a lower bound that the handler has
 * learned from the other side.
 */
import { DateTime, Effect, Schema } from "effect"
import { Job } from "../src/index.ts"

export class Throttled extends Schema.TaggedError<Throttled>("examples/Throttled")("Throttled", {
  until: Schema.DateTimeUtc
}) {}

export class Down extends Schema.TaggedError<Down>("examples/Down")("Down", {}) {}

export class Rejected extends Schema.TaggedError<Rejected>("examples/Rejected")("Rejected", {}) {}

export class Sync extends Job.make("account.sync", {
  payload: { answer: Schema.Literals(["throttled", "down", "rejected"]) },
  error: Schema.Union([Throttled, Down, Rejected]),
  maxAttempts: 8,
  // 5 s, 15 s, 45 s, ... up to an hour, spread by a fifth
  retry: { initial: "5 seconds", factor: 3, max: "1 hour", jitter: 0.2, overrides: { "upstream.down": "2 minutes" } },
  record: (error) => {
    switch (error._tag) {
      case "Throttled":
        // not before what they told us, whatever the policy says
        return { code: "upstream.throttled", retryNotBefore: { at: error.until } }
      case "Down":
        return { code: "upstream.down" }
      case "Rejected":
        return { kind: "TERMINAL", code: "upstream.rejected" }
    }
  }
}) {}

export const SyncLive = Sync.toLayer(
  Effect.fn("Sync")(function* ({ answer }) {
    if (answer === "down") return yield* new Down()
    if (answer === "rejected") return yield* new Rejected()
    return yield* new Throttled({ until: DateTime.addDuration(yield* DateTime.now, "30 minutes") })
  })
)
