/**
 * Schedules: declared when the application starts, fired by any of its processes, paused by whoever operates it.
 */
import { DateTime, Effect, Layer, Schema } from "effect"
import { Job, JobSchedules, Scheduler, Worker } from "../src/index.ts"

export class Report extends Job.make("report.send", {
  // the time that the schedule meant: a report that is late is still the report of its day
  payload: { to: Schema.String, _schedule: Schema.optionalKey(JobSchedules.FireTime) },
  success: Schema.Struct({ sent: Schema.String })
}) {}

export const ReportLive = Report.toLayer(
  Effect.fn("Report")(function* ({ to, _schedule }) {
    const day = DateTime.formatIsoDateUtc(_schedule?.scheduled_for ?? (yield* DateTime.now))
    return { sent: `${day} to ${to}` }
  })
)

/** All schedules of this application: what is no longer listed is deactivated, what others own is left alone. */
export const declare = JobSchedules.syncExact(
  [
    JobSchedules.schedule(
      "report.nightly",
      Report,
      { to: "ops@example.com" },
      { cron: "30 2 * * *", timezone: "Europe/London", maxJitter: "2 minutes" }
    ),
    // every quarter of an hour also when the clock is put back and an hour comes twice
    JobSchedules.schedule(
      "report.live",
      Report,
      { to: "board@example.com" },
      { cron: "*/15 * * * *", timezone: "America/New_York", overlap: "both" }
    )
  ],
  { owner: "reporting" }
)

/** Stays so through restarts and deployments, until it is ended. */
export const holiday = JobSchedules.setActive("report.nightly", false)

export const backToWork = JobSchedules.setActive("report.nightly", true)

export const Main = Layer.mergeAll(
  Scheduler.layer({ interval: "10 seconds" }),
  Layer.provide(Worker.layer({ jobs: [Report], pollInterval: "50 millis" }), ReportLive)
).pipe(Layer.provide(Layer.effectDiscard(declare)))
