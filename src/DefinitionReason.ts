/**
 * Why a sync of definitions or of a catalogue failed; see `Reason.ts`.
 */
import * as Schema from "effect/Schema"

const prefix = "effect-runledger"

/** An exact sync names no types, or its scope is empty: it would disable everything, or nothing. */
export class EmptyJobTypeList extends Schema.TaggedError<EmptyJobTypeList>(`${prefix}/EmptyJobTypeList`)(
  "EmptyJobTypeList",
  { list: Schema.Literals(["definitions", "scope"]) }
) {
  readonly code = "job_definition.empty_job_type_list"
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `An exact sync needs at least one job type in its ${this.list}`
  }
}

/** What a catalogue declares contradicts itself. `name` is that of the job type or the schedule. */
export class InvalidCatalog extends Schema.TaggedError<InvalidCatalog>(`${prefix}/InvalidCatalog`)("InvalidCatalog", {
  name: Schema.String,
  code: Schema.Literals([
    "catalog.duplicate_job_type",
    "catalog.unknown_job_type",
    "catalog.other_contract",
    "catalog.duplicate_schedule_name",
    "catalog.disabled_job_type",
    "catalog.outside_scope"
  ])
}) {
  readonly category = "Validation"
  readonly transactionUsable = true
  override get message(): string {
    return `${this.name}: ${rules[this.code]}`
  }
}

const rules: { readonly [C in InvalidCatalog["code"]]: string } = {
  "catalog.duplicate_job_type": "the catalogue has this job type twice",
  "catalog.unknown_job_type": "a workflow or a schedule uses this job type, and the catalogue does not have it",
  "catalog.other_contract": "a workflow or a schedule uses another contract of this job type than the catalogue has",
  "catalog.duplicate_schedule_name": "the catalogue has this schedule twice",
  "catalog.disabled_job_type": "the job type of this active schedule is disabled in the catalogue",
  "catalog.outside_scope": "an exact sync does not cover it"
}

/** Every reason that only syncs of definitions and catalogues raise. */
export type DefinitionReason = EmptyJobTypeList | InvalidCatalog
