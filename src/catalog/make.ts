/**
 * What a catalogue is, and whether it contradicts itself. No SQL.
 */
import * as Result from "effect/Result"
import { InvalidCatalog } from "../DefinitionReason.ts"
import type { AnyContract } from "../JobContract.ts"
import type { ScheduleRequest, TypedScheduleRequest } from "../schedules/encode.ts"
import type * as Workflow from "../Workflow.ts"

/** The jobs that a workflow may have: what is told of one that is a function of its input. */
export interface WorkflowJobs {
  readonly workflowType: string
  readonly jobs: ReadonlyArray<AnyContract>
}

/** What an application consists of. */
export interface CatalogOptions<Jobs extends ReadonlyArray<AnyContract>> {
  readonly jobs: Jobs
  /** Types that take no new jobs. Their handlers are still needed, for the jobs that there are. */
  readonly disabled?: ReadonlyArray<Jobs[number]["jobType"]> | undefined
  /**
   * Workflows, or their types and the jobs that they may have. Nothing of them is stored: it is checked that the catalogue has
   * each of their jobs.
   */
  readonly workflows?: ReadonlyArray<Workflow.Any | WorkflowJobs> | undefined
  /** As `JobSchedules.sync` takes them. */
  readonly schedules?: ReadonlyArray<ScheduleRequest | TypedScheduleRequest> | undefined
}

/** The jobs, workflows and schedules of an application. */
export interface Catalog<Jobs extends ReadonlyArray<AnyContract> = ReadonlyArray<AnyContract>> {
  /** For `Worker.layer`, `Reaper.layer` and `IntentPromoter.layer`. */
  readonly jobs: Jobs
  readonly disabled: ReadonlyArray<string>
  readonly workflows: ReadonlyArray<WorkflowJobs>
  readonly schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>
}

/**
 * Gathers what an application consists of. Whether it contradicts itself is told by {@link validate}, and by every operation.
 *
 * @example
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { Catalog, Job, JobSchedules, Worker } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const ReportLive = Report.toLayer(() => Effect.void)
 *
 * const catalog = Catalog.make({
 *   jobs: [Report],
 *   schedules: [JobSchedules.schedule("report.nightly", Report, { to: "ops@example.com" }, { cron: "30 2 * * *" })]
 * })
 *
 * const Working = Worker.layer({ jobs: catalog.jobs }).pipe(Layer.provide(ReportLive))
 * ```
 */
export const make = <const Jobs extends ReadonlyArray<AnyContract>>(options: CatalogOptions<Jobs>): Catalog<Jobs> => ({
  jobs: options.jobs,
  disabled: options.disabled ?? [],
  workflows: (options.workflows ?? []).map((workflow) => ({
    workflowType: workflow.workflowType,
    jobs:
      "jobs" in workflow
        ? workflow.jobs
        : workflow.steps.flatMap((step) => (step.kind === "external" ? [] : [step.contract]))
  })),
  schedules: options.schedules ?? []
})

/**
 * The first thing in which a catalogue contradicts itself: a job type or a schedule that it has twice, a workflow or a schedule
 * whose job it does not have, or has another contract of, an active schedule of a type that it disables.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Catalog, Job } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const isValid = Catalog.validate(Catalog.make({ jobs: [Report, Report] }))
 * ```
 */
export const validate = (catalog: Catalog): Result.Result<void, InvalidCatalog> => {
  const contradiction = findContradiction(catalog)
  return contradiction === undefined ? Result.void : Result.fail(contradiction)
}

const findContradiction = ({ jobs, disabled, workflows, schedules }: Catalog): InvalidCatalog | undefined => {
  const contracts = new Map<string, AnyContract>()
  for (const contract of jobs) {
    const { jobType: name } = contract
    if (contracts.has(name)) return new InvalidCatalog({ name, code: "catalog.duplicate_job_type" })
    contracts.set(name, contract)
  }
  const used = (contract: Pick<AnyContract, "jobType">) => {
    const own = contracts.get(contract.jobType)
    if (own === contract) return undefined
    const code = own === undefined ? "catalog.unknown_job_type" : "catalog.other_contract"
    return new InvalidCatalog({ name: contract.jobType, code })
  }
  const unknown = disabled.find((jobType) => !contracts.has(jobType))
  if (unknown !== undefined) return new InvalidCatalog({ name: unknown, code: "catalog.unknown_job_type" })
  for (const contract of workflows.flatMap((workflow) => workflow.jobs)) {
    const refused = used(contract)
    if (refused !== undefined) return refused
  }
  const names = new Set<string>()
  for (const schedule of schedules) {
    const { name } = schedule
    if (names.has(name)) return new InvalidCatalog({ name, code: "catalog.duplicate_schedule_name" })
    names.add(name)
    const jobType = "contract" in schedule ? schedule.contract.jobType : schedule.jobType
    const refused = used("contract" in schedule ? schedule.contract : (contracts.get(jobType) ?? { jobType }))
    if (refused !== undefined) return refused
    if (schedule.isActive !== false && disabled.includes(jobType)) {
      return new InvalidCatalog({ name, code: "catalog.disabled_job_type" })
    }
  }
  return undefined
}
