/**
 * What a probe of `Health.check` is: one question, one statement, one number to judge.
 */
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"

/** The questions that are asked; `docs/health.md` says what each means and what to do. */
export const Check = Schema.Literals([
  "oldestRunnable",
  "staleLeases",
  "orphans",
  "deadTuples",
  "relationSizes",
  "vacuumHolders",
  "replication",
  "notifyQueue",
  "intents"
])
export type Check = typeof Check.Type

/** `unknown`: it could not be asked, or not all of the answer was to be seen. */
export type Verdict = "ok" | "warn" | "fail" | "unknown"

/** From which value on it is a warning, and from which a failure. */
export interface Threshold {
  readonly warn: number
  readonly fail: number
}

/** What the value of a check counts. `times`: of what it should be at most. */
export type Unit = "seconds" | "rows" | "times" | "transactions" | "fraction"

/** One row of what stands behind a value. */
export type Detail = Readonly<Record<string, string | number | boolean | null>>

/** A number for a gauge that is kept of this check. */
export interface Reading {
  readonly gauge: "oldestRunnable" | "due" | "expiredLeases"
  readonly jobType?: string | undefined
  readonly value: number
}

/** What a probe has found. */
export interface Measured {
  /** `undefined` if it could not be found out; `message` says why. */
  readonly value: number | undefined
  readonly message: string
  readonly rows: ReadonlyArray<Detail>
  /** Why there may be more than was to be seen. */
  readonly hidden?: string | undefined
  readonly readings?: ReadonlyArray<Reading> | undefined
}

export interface Probe {
  readonly check: Check
  readonly unit: Unit
  readonly threshold: Threshold
  readonly measure: Effect.Effect<Measured, SqlError | Schema.SchemaError, SqlClient>
}

/** How many rows of detail a finding has at most. */
export const maxRows = 10

/** `value`, rounded for people. */
export const rounded = (value: number): number => Math.round(value * 100) / 100

/** The tables that jobs and workflows write all the time. */
export const hotTables: ReadonlyArray<string> = [
  "job_queue",
  "job_attempts",
  "job_events",
  "job_logs",
  "job_dead_letters",
  "workflow_runs",
  "workflow_steps",
  "workflow_step_dependencies"
]
