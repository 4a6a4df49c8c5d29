/**
 * Workflows: graphs of jobs and external steps, built with types or as plain data, and drawn.
 */
import type * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { AnyContract, Codec } from "./JobContract.ts"
import { InvalidArgument } from "./Reason.ts"
import type { InvalidWorkflow } from "./WorkflowReason.ts"
import { expand } from "./workflows/expand.ts"
import type { StepSettings, WorkflowRequest } from "./workflows/request.ts"
import { validateWorkflow } from "./workflows/validate.ts"

export type { ExecutionKind, ReleaseMode } from "./WorkflowRun.ts"
export { type StepState, type StepStates, toMermaid, toText } from "./workflows/draw.ts"
export type {
  Dependency,
  StepRequest,
  StepSettings,
  WorkflowRequest
} from "./workflows/request.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------------------------------------------------

/** What a step waits for; `Keys` are those of the steps before it. */
export interface After<Keys extends string> {
  /** It runs once these have succeeded, and is canceled if one has not. */
  readonly after?: ReadonlyArray<Keys> | undefined
  /** It runs once these have ended, however they did. */
  readonly afterTerminal?: ReadonlyArray<Keys> | undefined
}

/** What a job step may say beside its payload. */
export interface StepOptions<Keys extends string> extends After<Keys>, StepSettings {}

/** What an external step may say beside its payload. */
export interface ExternalOptions<Keys extends string> extends After<Keys>, Pick<StepSettings, "organizationId"> {}

/** A step that a worker runs. */
export interface JobStep<Key extends string, C extends AnyContract> {
  readonly kind: "job"
  readonly key: Key
  readonly contract: C
  readonly payloads: ReadonlyArray<unknown>
  readonly options: StepOptions<string>
}

/** Many steps of one contract, `key[0]`, `key[1]` and so on, that dependents see as one. */
export interface FanOut<Key extends string, C extends AnyContract> {
  readonly kind: "each"
  readonly key: Key
  readonly contract: C
  readonly payloads: ReadonlyArray<unknown>
  readonly options: StepOptions<string>
}

/** A step that somebody outside completes. */
export interface ExternalStep<Key extends string, Success extends Codec> {
  readonly kind: "external"
  readonly key: Key
  readonly success: Success
  readonly payloads: ReadonlyArray<Schema.Json>
  readonly options: ExternalOptions<string>
}

/** A step of a workflow as it was declared. */
export type AnyStep = JobStep<string, AnyContract> | FanOut<string, AnyContract> | ExternalStep<string, Codec>

/** What a step leaves to those after it. */
type Output<S extends AnyStep> =
  S extends JobStep<string, infer C>
    ? C["success"]["Type"]
    : S extends FanOut<string, infer C>
      ? ReadonlyArray<C["success"]["Type"]>
      : S extends ExternalStep<string, infer Success>
        ? Success["Type"]
        : never

// ---------------------------------------------------------------------------------------------------------------------
// Workflows
// ---------------------------------------------------------------------------------------------------------------------

/** The fields of the metadata of a workflow. */
export type Fields = { readonly [name: string]: Codec }

/** What a run is given beside its metadata. */
export interface RunOptions extends Pick<WorkflowRequest, "organizationId" | "idempotencyKey" | "activeKey"> {}

/** What a run of any workflow may be given. */
export type AnyOptions = RunOptions & { readonly metadata?: unknown }

/** What all workflows have in common. */
export interface Any {
  readonly workflowType: string
  readonly metadata: Schema.Struct<Fields>
  /** In the order in which they were declared. */
  readonly steps: ReadonlyArray<AnyStep>
  readonly resultStepKey: string | undefined
  toRequest(options?: AnyOptions): Result.Result<WorkflowRequest, InvalidArgument | InvalidWorkflow>
}

/** The steps of a workflow, as a union. */
export type StepsOf<W extends Any> = W["steps"][number]

/** The keys of the steps of a workflow; a fan-out has one. */
export type Keys<W extends Any> = StepsOf<W>["key"]

/** The keys of the external steps of a workflow. */
export type ExternalKeys<W extends Any> = Extract<StepsOf<W>, { readonly kind: "external" }>["key"]

/** What the step `Key` leaves to those after it: of a fan-out, an array. */
export type OutputOf<W extends Any, Key extends Keys<W>> = Output<Extract<StepsOf<W>, { readonly key: Key }>>

/** The result of a run: the output of its result step; `never` without one. */
export type ResultOf<W extends Any> = OutputOf<W, Extract<Keys<W>, W["resultStepKey"]>>

/** What a run of `W` is given; `metadata` may be left out if none of its fields is required. */
export type RequestOptions<W extends Any> = OptionsWith<W["metadata"]["fields"]>

type Nothing = Record<never, never>

type OptionsWith<F extends Fields> = RunOptions &
  ([keyof F] extends [never]
    ? { readonly metadata?: undefined }
    : Nothing extends Schema.Struct<F>["Type"]
      ? { readonly metadata?: Schema.Struct<F>["Type"] | undefined }
      : { readonly metadata: Schema.Struct<F>["Type"] })

/** Why `Key` cannot be the key of another step; `Key` itself if it can. Distributes over a union of keys, which is refused. */
type NewKey<Key extends string, Taken extends string, Whole = Key> = Key extends unknown
  ? Nothing extends Record<Key, unknown>
    ? "the key of a step must be a literal"
    : [Whole] extends [Key]
      ? Key extends Taken
        ? `there is a step ${Key} already`
        : Key extends `${string}[${number}]`
          ? `${Key} is how a member of a fan-out is called`
          : Key
      : "the key of a step must be one literal"
  : never

/** A workflow that is being built. It is immutable: each call returns another one. */
export interface Workflow<
  Type extends string,
  F extends Fields,
  Steps extends AnyStep,
  ResultKey extends string | undefined
> extends Any {
  readonly workflowType: Type
  readonly metadata: Schema.Struct<F>
  readonly steps: ReadonlyArray<Steps>
  readonly resultStepKey: ResultKey

  /** Adds a job. `after` and `afterTerminal` name steps that were added before, so there are no cycles. */
  step<const Key extends string, C extends AnyContract>(
    key: NewKey<Key, Steps["key"]>,
    contract: C,
    payload: C["payload"]["Type"],
    options?: StepOptions<Steps["key"]>
  ): Workflow<Type, F, Steps | JobStep<Key, C>, ResultKey>

  /** Adds a job for each payload. Steps after `key` wait for all of them, and see their outputs as an array. */
  each<const Key extends string, C extends AnyContract>(
    key: NewKey<Key, Steps["key"]>,
    contract: C,
    payloads: ReadonlyArray<C["payload"]["Type"]>,
    options?: StepOptions<Steps["key"]>
  ): Workflow<Type, F, Steps | FanOut<Key, C>, ResultKey>

  /** Adds a step that is completed from outside, with an outcome of the schema `success`: nothing, unless given. */
  external<const Key extends string, Success extends Codec = typeof Schema.Void>(
    key: NewKey<Key, Steps["key"]>,
    step?: { readonly payload?: Schema.Json | undefined; readonly success?: Success | undefined },
    options?: ExternalOptions<Steps["key"]>
  ): Workflow<Type, F, Steps | ExternalStep<Key, Success>, ResultKey>

  /** Makes the output of a step the result of the run. A fan-out cannot be it. */
  result<const Key extends Exclude<Steps, { readonly kind: "each" }>["key"]>(key: Key): Workflow<Type, F, Steps, Key>

  /**
   * The workflow as plain data, its payloads and metadata encoded. Fails with `InvalidArgument` if one of them does not match
   * its schema or cannot be stored, and with `InvalidWorkflow` for rules that types do not express, such as a blank key.
   */
  toRequest(
    ...options: Nothing extends OptionsWith<F> ? [options?: OptionsWith<F>] : [options: OptionsWith<F>]
  ): Result.Result<WorkflowRequest, InvalidArgument | InvalidWorkflow>
}

/**
 * Begins a workflow: a graph of jobs and external steps. `metadata` declares what is kept with each run, as the fields of a
 * struct.
 *
 * Unknown prerequisites, keys that are taken, wrong payloads and cycles do not compile. Graphs whose keys are known at run time
 * only are plain data, a {@link WorkflowRequest}.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, Workflow } from "effect-runledger"
 *
 * class Crawl extends Job.make("page.crawl", { payload: { url: Schema.String }, success: Schema.String }) {}
 * class Persist extends Job.make("profile.persist", { payload: { profileId: Schema.String } }) {}
 *
 * const research = (profileId: string, pages: ReadonlyArray<string>) =>
 *   Workflow.make("profiles.research", { metadata: { source: Schema.String } })
 *     .each("crawl", Crawl, pages.map((url) => ({ url })))
 *     .external("approval", { payload: { reviewer: "ops" }, success: Schema.Boolean }, { after: ["crawl"] })
 *     .step("persist", Persist, { profileId }, { after: ["crawl", "approval"], priority: 10 })
 *     .result("persist")
 *
 * type Approval = Workflow.OutputOf<ReturnType<typeof research>, "approval">
 *
 * const request = research("7", ["https://example.com"]).toRequest({ metadata: { source: "api" } })
 * ```
 */
export function make<const Type extends string, F extends Fields = Nothing>(
  workflowType: Type,
  options?: { readonly metadata?: F | undefined }
): Workflow<Type, F, never, undefined>
export function make(workflowType: string, options?: { readonly metadata?: Fields | undefined }): Any {
  return of({
    workflowType,
    metadata: Schema.Struct(options?.metadata ?? {}),
    steps: undefined,
    resultStepKey: undefined
  })
}

/** What a workflow is made of. Steps share the list of those before them, so adding one costs the same however many there are. */
interface Declared {
  readonly workflowType: string
  readonly metadata: Schema.Struct<Fields>
  readonly steps: Link | undefined
  readonly resultStepKey: string | undefined
}

interface Link {
  readonly step: AnyStep
  readonly before: Link | undefined
}

/** An encoder may also throw: a getter, a transformation that is not finished at once. */
const encodeAs = (schema: Codec, value: unknown): Result.Result<Schema.Json, unknown> =>
  Result.try(() => Schema.encodeUnknownSync(Schema.toCodecJson(schema))(value))

// what a schema says about a value may quote it
const mismatch = (argument: string, rule: string) => Result.fail(new InvalidArgument({ argument, rule }))

const toRequest = (
  { workflowType, metadata, steps, resultStepKey }: Any,
  { metadata: given = {}, ...options }: AnyOptions = {}
): Result.Result<WorkflowRequest, InvalidArgument | InvalidWorkflow> => {
  const json = encodeAs(metadata, given)
  if (Result.isFailure(json)) return mismatch("metadata", `must match the metadata of ${workflowType}`)
  const expanded = expand(steps, (step, index, stepKey) => {
    if (step.kind === "external") return Result.succeed(step.payloads[index] ?? null)
    const payload = step.contract.encodePayload(step.payloads[index])
    return Result.isFailure(payload)
      ? mismatch(`steps[${stepKey}].payload`, `must match the contract of ${step.contract.jobType}`)
      : Result.succeed(payload.success)
  })
  if (Result.isFailure(expanded)) return Result.fail(expanded.failure)
  const request = { ...options, workflowType, metadata: json.success, resultStepKey, steps: expanded.success }
  const violation = validateWorkflow(request)
  return violation === undefined ? Result.succeed(request) : Result.fail(violation)
}

/**
 * The JSON that stands for the outcome of an external step. Fails with `InvalidArgument` if `output` does not match the schema of
 * the step, or the workflow has no such external step.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Workflow } from "effect-runledger"
 *
 * const review = Workflow.make("review").external("approval", { success: Schema.Struct({ at: Schema.Date }) })
 * const json = Workflow.encodeOutcome(review, "approval", { at: new Date() })
 * ```
 */
export const encodeOutcome = <W extends Any, const Key extends ExternalKeys<W>>(
  workflow: W,
  stepKey: Key,
  output: OutputOf<W, Key>
): Result.Result<Schema.Json, InvalidArgument> => {
  const step = workflow.steps.find(({ key }) => key === stepKey)
  if (step?.kind !== "external") return mismatch("stepKey", "must be the key of an external step of the workflow")
  const json = encodeAs(step.success, output)
  return Result.isFailure(json)
    ? mismatch("output", `must match the outcome of ${stepKey}`)
    : Result.succeed(json.success)
}

/**
 * The result of a run, of the JSON that stands for it. Fails with a `SchemaError` if it does not match the schema of the result
 * step, or the workflow declares no result.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Workflow } from "effect-runledger"
 *
 * const review = Workflow.make("review")
 *   .external("approval", { success: Schema.Struct({ at: Schema.Date }) })
 *   .result("approval")
 * const approval = Workflow.decodeResult(review, { at: "2026-01-02T03:04:05.678Z" })
 * ```
 */
export function decodeResult<W extends Any>(
  workflow: W,
  result: unknown
): Effect.Effect<ResultOf<W>, Schema.SchemaError>
export function decodeResult(workflow: Any, result: unknown): Effect.Effect<unknown, Schema.SchemaError> {
  const step = workflow.steps.find(({ key }) => key === workflow.resultStepKey)
  const schema = step === undefined ? Schema.Never : step.kind === "external" ? step.success : step.contract.success
  return Schema.decodeUnknownEffect(Schema.toCodecJson(schema))(result)
}

const of = (declared: Declared): Any => {
  const { workflowType, metadata, resultStepKey } = declared
  const add = (step: AnyStep) => of({ ...declared, steps: { step, before: declared.steps } })
  const workflow = {
    workflowType,
    metadata,
    resultStepKey,
    get steps() {
      const steps: Array<AnyStep> = []
      for (let link = declared.steps; link !== undefined; link = link.before) steps.push(link.step)
      return steps.reverse()
    },
    step: (key: string, contract: AnyContract, payload: unknown, options: StepOptions<string> = {}) =>
      add({ kind: "job", key, contract, payloads: [payload], options }),
    each: (key: string, contract: AnyContract, payloads: ReadonlyArray<unknown>, options: StepOptions<string> = {}) =>
      add({ kind: "each", key, contract, payloads: [...payloads], options }),
    external: (
      key: string,
      { payload = null, success = Schema.Void }: { readonly payload?: Schema.Json; readonly success?: Codec } = {},
      options: ExternalOptions<string> = {}
    ) => add({ kind: "external", key, success, payloads: [payload], options }),
    result: (key: string) => of({ ...declared, resultStepKey: key }),
    toRequest: (options?: AnyOptions) => toRequest(workflow, options)
  }
  return workflow
}
