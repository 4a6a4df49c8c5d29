/**
 * How jobs fare, by type, for a dashboard; and a setting that a handler reads each time, so that it can be changed without a
 * deployment.
 */
import { Duration, Effect, Schema } from "effect"
import { Job, JobRuntimeConfigs, Jobs, TenantScope } from "../src/index.ts"

export class Digest extends Job.make("digest.send", {
  payload: { to: Schema.String },
  success: Schema.Struct({ items: Schema.Int })
}) {}

const Settings = Schema.Struct({ maxItems: Schema.Int })

export const DigestLive = Digest.toLayer(
  Effect.fn("Digest")(function* () {
    const { maxItems } = yield* JobRuntimeConfigs.getDecoded(Digest.jobType, Settings).pipe(
      // tried again: somebody will set it
      Effect.mapError(({ code, message }) => new Job.JobFailure({ code, message }))
    )
    return { items: maxItems }
  })
)

/** An operator's change holds from the next attempt on. */
export const shorten = (maxItems: number) =>
  JobRuntimeConfigs.upsert(Digest.jobType, { schemaVersion: 1, config: { maxItems } })

/** A line for each type: what waits, and what became of it in the last hour. */
export const overview = Effect.gen(function* () {
  const types = yield* Jobs.metrics({ scope: TenantScope.admin, window: Duration.hours(1) })
  return types.map(
    ({ jobType, due, succeeded, deadLettered }) =>
      `${jobType}: ${due} due; ${succeeded} succeeded, ${deadLettered} dead letters in the last hour`
  )
})
