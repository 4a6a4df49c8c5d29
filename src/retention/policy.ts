import type * as Duration from "effect/Duration"
import * as Args from "../internal/arguments.ts"
import { maxDelayMillis } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"

/**
 * How long what has ended is kept. What is left out is kept for ever. Each age is a duration between nothing and a hundred
 * years, by the clock of the database.
 */
export interface Ages {
  /** Jobs that succeeded, from their end on; with all that belongs to them, as the next two. */
  readonly succeeded?: Duration.Input | undefined
  /** Jobs that were canceled, from then on. */
  readonly canceled?: Duration.Input | undefined
  /** Jobs that failed for good, from then on. Their dead letters go with them. */
  readonly deadLettered?: Duration.Input | undefined
  /** Workflow runs, from their end on, whatever the end; with steps, jobs and all that belongs to them. */
  readonly runs?: Duration.Input | undefined
  /** Intents that became jobs, from then on. Those that are pending or conflicted are always kept. */
  readonly intents?: Duration.Input | undefined
  /** Lines that handlers logged, from then on; their jobs stay. */
  readonly logs?: Duration.Input | undefined
  /** The permits of execution resources of which nothing is said (`JobResources`), from their last use on. */
  readonly permits?: Duration.Input | undefined
}

const names = ["succeeded", "canceled", "deadLettered", "runs", "intents", "logs", "permits"] as const

/** The ages in milliseconds; `null` is for ever. */
export type Millis = Readonly<Record<(typeof names)[number], number | null>>

/** The ages as they are sent, or the rule that one of them breaks. */
export const millisOf = (ages: Ages): Millis | InvalidArgument => {
  const millis: Record<(typeof names)[number], number | null> = {
    succeeded: null,
    canceled: null,
    deadLettered: null,
    runs: null,
    intents: null,
    logs: null,
    permits: null
  }
  for (const name of names) {
    const age = ages[name]
    if (age === undefined) continue
    // a number that is none, or negative, would be a duration of nothing, and everything would go
    const value = typeof age === "number" && !(age >= 0) ? undefined : Args.millis(age)
    if (value === undefined || value > maxDelayMillis) {
      return new InvalidArgument({ argument: `ages.${name}`, rule: "must last between nothing and a hundred years" })
    }
    millis[name] = value
  }
  return names.every((name) => millis[name] === null)
    ? new InvalidArgument({ argument: "ages", rule: "must name at least one age" })
    : millis
}
