import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"

const jobsEnded = Metric.counter("runledger_jobs_ended", {
  description: "Attempts that ended in this process, by outcome"
})
const jobsClaimed = Metric.counter("runledger_jobs_claimed", { description: "Jobs that this process claimed" })
const jobsRunning = Metric.gauge("runledger_jobs_running", { description: "Jobs at work in this process" })
const durations = Metric.histogram("runledger_job_duration_ms", {
  description: "How long handlers took",
  boundaries: [1, 5, 10, 50, 100, 500, 1000, 5000, 10_000, 60_000, 300_000]
})

export const claimed = (count: number): Effect.Effect<void> => Metric.update(jobsClaimed, count)

export const running = (count: number): Effect.Effect<void> => Metric.update(jobsRunning, count)

export const ended = (jobType: string, outcome: string, millis: number): Effect.Effect<void> =>
  Effect.andThen(
    Metric.update(Metric.withAttributes(jobsEnded, { job_type: jobType, outcome }), 1),
    Metric.update(Metric.withAttributes(durations, { job_type: jobType }), millis)
  )
