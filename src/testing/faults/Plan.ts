import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import type { Fault } from "./Fault.ts"
import { type Match, matches, type SeenStatement } from "./Match.ts"

/** One line of a script: `fault` happens at the `nth` statement that `match` selects, counted since it was armed. */
export interface Step {
  /** Every statement by default. */
  readonly match?: Match | undefined
  /** Counted from 1, which is the default. */
  readonly nth?: number | undefined
  /** At how many matching statements in a row, from the `nth` on. 1 by default; `Infinity` for all that follow. */
  readonly times?: number | undefined
  readonly fault: Fault
}

/** Faults drawn from a seed. Made by {@link fromSeed}. */
export interface Seeded {
  readonly seed: string | number
  readonly rate: number
  readonly faults: NonEmptyReadonlyArray<Fault>
  readonly match: Match | undefined
  readonly limit: number
}

/**
 * What shall go wrong: a script, or faults drawn from a seed.
 *
 * **Details**
 *
 * Each step of a script counts for itself. Where several strike at one statement, all of them happen, in the order of
 * the script, those of `"before"` until one fails, then the statement, then those of `"after"` until one fails.
 */
export type Plan = ReadonlyArray<Step> | Seeded

/** Options of {@link fromSeed}. */
export interface SeedOptions {
  /** The share of matching statements that meet a fault, between 0 and 1. */
  readonly rate: number
  /** One of them is drawn each time. */
  readonly faults: NonEmptyReadonlyArray<Fault>
  /** Which statements may meet a fault; all by default. */
  readonly match?: Match | undefined
  /** How many faults to inject at most; unlimited by default. */
  readonly limit?: number | undefined
}

/**
 * Draws the fate of each matching statement from a pseudo-random sequence: the same seed gives the nth matching
 * statement the same fate in every run.
 *
 * **Gotchas**
 *
 * With several fibers, which statement is the nth depends on how they interleave.
 */
export const fromSeed = (seed: string | number, options: SeedOptions): Seeded => ({
  seed,
  rate: options.rate,
  faults: options.faults,
  match: options.match,
  limit: options.limit ?? Number.POSITIVE_INFINITY
})

export type Decide = (statement: SeenStatement) => ReadonlyArray<Fault>

export const start = (plan: Plan): Effect.Effect<Decide> => ("seed" in plan ? startSeeded(plan) : startScript(plan))

const startScript = (script: ReadonlyArray<Step>): Effect.Effect<Decide> =>
  Effect.sync(() => {
    const counters = script.map((step) => ({ step, count: 0 }))
    return (statement) =>
      counters.flatMap((counter) => {
        const { fault, match, nth = 1, times = 1 } = counter.step
        if (!matches(match, statement)) return []
        counter.count++
        return counter.count >= nth && counter.count < nth + times ? [fault] : []
      })
  })

const startSeeded = (plan: Seeded): Effect.Effect<Decide> =>
  Effect.map(Random.withSeed(Effect.service(Random.Random), plan.seed), (random) => {
    let left = plan.limit
    return (statement) => {
      if (!matches(plan.match, statement)) return []
      // two draws for every statement, so that the fate of the nth depends on n alone
      const strikes = random.nextDoubleUnsafe() < plan.rate
      const fault = plan.faults[Math.floor(random.nextDoubleUnsafe() * plan.faults.length)]
      if (!strikes || fault === undefined || left <= 0) return []
      left--
      return [fault]
    }
  })
