import * as Option from "effect/Option"
import { global, type Owner, organization } from "../TenantScope.ts"
import type * as Workflow from "../Workflow.ts"
import type { WorkflowRunId, WorkflowRunRecord } from "../WorkflowRun.ts"

/** A run together with the workflow that it runs: what its external steps take and what it results in is known. */
export interface TypedRun<W extends Workflow.Any> {
  readonly run: Pick<WorkflowRunRecord, "id" | "organizationId">
  readonly workflow: W
}

/**
 * A run that another process has enqueued, typed by its workflow. Looks nothing up: a run that does not exist, or does not belong
 * to `owner`, is found missing by the operation that the handle is given to.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { TenantScope, Workflow, Workflows } from "effect-runledger"
 *
 * const review = Workflow.make("review").external("approval", { success: Schema.Boolean }).result("approval")
 *
 * declare const runId: Workflows.WorkflowRunId
 * const approved = Workflows.completeExternal(Workflows.handle(review, TenantScope.global, runId), "approval", true)
 * ```
 */
export const handle = <W extends Workflow.Any>(workflow: W, owner: Owner, id: WorkflowRunId): TypedRun<W> => ({
  run: { id, organizationId: owner._tag === "Global" ? Option.none() : Option.some(owner.organizationId) },
  workflow
})

/** Whose run it is. */
export const ownerOf = ({ organizationId }: TypedRun<Workflow.Any>["run"]): Owner =>
  Option.match(organizationId, { onNone: () => global, onSome: organization })
