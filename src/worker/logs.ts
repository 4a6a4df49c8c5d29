/**
 * What handlers log, kept with their jobs: buffered, written a few hundred lines at a time, and dropped rather than held
 * without bound while the database does not answer.
 */
import type * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Formatter from "effect/Formatter"
import * as Logger from "effect/Logger"
import * as LogLevel from "effect/LogLevel"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Lease } from "../Job.ts"
import * as JobLogs from "../JobLogs.ts"

const maxLines = 10_000
const chunk = 500

export interface JobLogger {
  /** What the effect logs is kept with the job of the lease, and goes where it went before as well. */
  readonly keep: (lease: Lease) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  /** Writes what is buffered. Lines that the database refuses are dropped, with a warning. */
  readonly flush: Effect.Effect<void>
}

const textOf = (message: unknown): string => {
  const parts = Array.isArray(message) ? message : [message]
  return parts.map((part) => (typeof part === "string" ? part : Formatter.format(part))).join(" ")
}

export const make = (minimum: LogLevel.LogLevel, own: Context.Context<SqlClient>): JobLogger => {
  const lines: Array<JobLogs.LogLine> = []
  let dropped = 0

  const loggerOf = ({ jobId, runNumber, attempt }: Lease) =>
    Logger.make<unknown, void>(({ date, logLevel, message }) => {
      if (LogLevel.isLessThan(logLevel, minimum)) return
      if (lines.length >= maxLines) {
        dropped++
        return
      }
      const text = textOf(message)
      lines.push({
        jobId,
        runNumber,
        attempt,
        level: logLevel.toUpperCase(),
        message: text.trim() === "" ? "(empty)" : text,
        occurredAt: DateTime.fromDateUnsafe(date)
      })
    })

  const write = Effect.suspend(() => {
    const batch = lines.splice(0, chunk)
    return batch.length === 0 ? Effect.succeed(false) : Effect.as(JobLogs.insertMany(batch), true)
  })

  const flush = Effect.suspend(() => {
    if (lines.length === 0 && dropped === 0) return Effect.void
    const lost = dropped
    dropped = 0
    return Effect.andThen(
      lost > 0 ? Effect.logWarning(`${lost} lines that handlers logged were dropped`) : Effect.void,
      Effect.repeat(write, { while: (more) => more })
    )
  }).pipe(
    Effect.catch(({ message }) => Effect.logWarning(`Lines that handlers logged could not be kept: ${message}`)),
    Effect.asVoid,
    Effect.provideContext(own),
    Effect.withTracerEnabled(false)
  )

  return {
    keep: (lease) => (self) =>
      Effect.flatMap(Logger.CurrentLoggers, (loggers) =>
        Effect.provideService(self, Logger.CurrentLoggers, new Set([...loggers, loggerOf(lease)]))
      ),
    flush
  }
}
