/**
 * A workflow as plain data: what the builder makes, and what a graph that is put together at run time looks like.
 */
import type * as Duration from "effect/Duration"
import type { Json } from "effect/Schema"
import type { Stage } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import type { ExecutionKind, ReleaseMode } from "../WorkflowRun.ts"

/** A step waits for another. */
export interface Dependency {
  readonly stepKey: string
  /** Default: `ON_TERMINAL`. */
  readonly releaseMode?: ReleaseMode | undefined
}

/** What a step of either kind may say beside its payload. */
export interface StepSettings {
  /** Whose step it is; a UUID. Default: that of the run. */
  readonly organizationId?: string | undefined
  /** -100 to 100; higher goes first. Default: the definition's. Jobs only. */
  readonly priority?: number | undefined
  /** At least 1. Default: the definition's. Jobs only. */
  readonly maxAttempts?: number | undefined
  /** How long an attempt may run, rounded up to seconds: at least 1 second. Default: the definition's. Jobs only. */
  readonly timeout?: Duration.Input | undefined
  /** The stage that the job begins in. Default: `queued`. Jobs only. */
  readonly stage?: Stage | undefined
  /**
   * Jobs with the same key share its permits, by default one; see `JobResources`. Not blank, at most 512 bytes. Jobs only.
   */
  readonly executionResourceKey?: string | undefined
  /** Whether the handler may end an attempt with a continuation. Default: false. Jobs only. */
  readonly allowHandlerContinuation?: boolean | undefined
}

/** One step. */
export interface StepRequest extends StepSettings {
  /** Not blank, at most 512 bytes, unique within the run. */
  readonly stepKey: string
  /** Default: `JOB`. */
  readonly executionKind?: ExecutionKind | undefined
  /** Not blank, at most 128 bytes. Jobs only, and always. */
  readonly jobType?: string | undefined
  /** Any JSON of at most 2 MiB. */
  readonly payload: Json
  /** The version of the contract that encoded the payload: at least 1, the default. Not part of the request. */
  readonly payloadVersion?: number | undefined
  /** What decides where the declaration of the type is missing or older. Not part of the request. */
  readonly contract?: AnyContract | undefined
  /** One of many steps, whose dependents see the outputs as an array, in this order. */
  readonly fanOut?: { readonly key: string; readonly index: number } | undefined
  readonly dependencies?: ReadonlyArray<Dependency> | undefined
}

/** A whole graph. */
export interface WorkflowRequest {
  /** Not blank, at most 128 bytes. */
  readonly workflowType: string
  /** Whose run it is; a UUID. Default: nobody's, a global run. */
  readonly organizationId?: string | undefined
  /** Kept with the run: any JSON of at most 2 MiB. Default: `{}`. */
  readonly metadata?: Json | undefined
  /** Makes a retry of the same request return the first run: not blank, at most 512 bytes, unique within type and organization. */
  readonly idempotencyKey?: string | undefined
  /** At most one run with this key is active in the organization, whatever its type: not blank, at most 512 bytes. */
  readonly activeKey?: string | undefined
  /** The step whose output is the result of the run. */
  readonly resultStepKey?: string | undefined
  readonly steps: ReadonlyArray<StepRequest>
}
