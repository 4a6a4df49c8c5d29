/**
 * Be polite to other people's servers: at most two requests at once to each host, and ten a minute to one of them, over all
 * workers.
 */
import { Effect, Schema } from "effect"
import { Job, JobResources, Jobs } from "../src/index.ts"

export class Fetch extends Job.make("page.fetch", {
  payload: { host: Schema.String, path: Schema.String }
}) {}

/** A key of which nothing is said has one permit: its jobs run one after the other. */
export const allow = Effect.fn("allow")(function* (host: string) {
  yield* JobResources.upsert(host, { permits: 2, rate: { permits: 10, per: "1 minute" } })
})

export const fetchAll = Effect.fn("fetchAll")(function* (host: string, paths: ReadonlyArray<string>) {
  yield* Jobs.enqueueMany(paths.map((path) => Jobs.request(Fetch, { host, path }, { executionResourceKey: host })))
})

/** Who is at it now. */
export const atWork = Effect.fn("atWork")(function* (host: string) {
  const holders = yield* JobResources.holders(host)
  return holders.length
})
