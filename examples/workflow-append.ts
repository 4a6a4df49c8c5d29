/**
 * A run that grows: as long as a gate of it is open, steps are appended, and the run cannot end. What waits for the gate goes on
 * when it is closed; it does not wait for what was appended.
 */
import { Effect, Schema } from "effect"
import { Job, TenantScope, Workflow, Workflows } from "../src/index.ts"

export class Crawl extends Job.make("site.crawl", {
  payload: { url: Schema.String },
  success: Schema.Struct({ links: Schema.Int })
}) {}

export class Index extends Job.make("site.index", { payload: { site: Schema.String } }) {}

export const CrawlLive = Crawl.toLayer(({ url }) => Effect.succeed({ links: url.length }))

export const IndexLive = Index.toLayer(() => Effect.void)

export const crawlSite = (site: string) =>
  Workflow.make("site.crawl")
    .step("crawl /", Crawl, { url: "/" })
    .external("all found")
    .step("index", Index, { site }, { after: ["crawl /", "all found"] })

const { global: owner } = TenantScope

/** The mutation key makes a repeated append a question: it answers what the first one did. */
export const found = (runId: Workflows.WorkflowRunId, url: string) =>
  Workflows.append(owner, runId, {
    mutationKey: `found ${url}`,
    windowStepKey: "all found",
    steps: [
      {
        stepKey: `crawl ${url}`,
        jobType: Crawl.jobType,
        // what the contract says about attempts and timeouts holds for these steps as well
        contract: Crawl,
        payload: { url },
        dependencies: [{ stepKey: "crawl /", releaseMode: "ON_SUCCESS" }]
      }
    ]
  })

export const allFound = (runId: Workflows.WorkflowRunId) =>
  Workflows.completeExternal(owner, runId, "all found", { status: "SUCCEEDED" })
