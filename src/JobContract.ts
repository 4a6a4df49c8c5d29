/**
 * Typed contracts of jobs: what a job is given, what it returns and how it may fail, shared by the processes that enqueue and
 * the processes that run.
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as References from "effect/References"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import type { DeadLetterReason, FailureKind } from "./Job.ts"
import type { RetryPolicy } from "./JobDefinitions.ts"
import { JobExecution } from "./JobExecution.ts"

/** A schema that needs no services. Its values are stored as JSON, by the codec that Effect derives for it. */
export type Codec = Schema.Codec<unknown, unknown>

/** When a retry is due at the earliest; the retry policy may say later. */
export type RetryNotBefore = { readonly delay: Duration.Input } | { readonly at: DateTime.Utc }

/**
 * A failure that says itself how it is recorded. A handler may fail with it whatever errors its contract declares.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Job } from "effect-runledger"
 *
 * const refused = Effect.fail(new Job.JobFailure({ kind: "TERMINAL", code: "card.refused", message: "The card was refused" }))
 * ```
 */
export class JobFailure extends Data.TaggedError("JobFailure")<{
  /** `RETRYABLE` unless given. `TERMINAL` is never retried. */
  readonly kind?: FailureKind | undefined
  /** Stable, not blank, at most 255 bytes. */
  readonly code: string
  readonly message: string
  /** Kept with the attempt: the JSON that stands for an error of the contract, which fills it in by itself. */
  readonly error?: Schema.Json | undefined
  readonly retryNotBefore?: RetryNotBefore | undefined
}> {}

/** Ends a slice of a long job: it goes on in a new run, with its checkpoint. Made by `JobExecution.continueAfter`. */
export class Continuation extends Data.TaggedError("JobContinuation")<{
  readonly delay: Duration.Input
  readonly done?: number | undefined
  readonly total?: number | undefined
  readonly checkpoint?: Schema.Json | undefined
}> {}

/** How a typed error is recorded. */
export interface Recorded {
  /** `RETRYABLE` unless given. */
  readonly kind?: FailureKind | undefined
  /** The `_tag` of the error unless given. */
  readonly code?: string | undefined
  readonly retryNotBefore?: RetryNotBefore | undefined
}

/** What a contract says about all jobs of its type. */
export interface ContractSettings {
  /** At least 1, the default. A worker leaves payloads of newer versions to newer workers. */
  readonly version?: number | undefined
  /** How many attempts a run has: at least 1. Default: 3. */
  readonly maxAttempts?: number | undefined
  /** How long an attempt may run, rounded up to seconds: at least 1 second. Default: 5 minutes. */
  readonly timeout?: Duration.Input | undefined
  /** -100 to 100, the default 0; higher goes first. */
  readonly priority?: number | undefined
  /** When a failed attempt is tried again. */
  readonly retry?: RetryPolicy | undefined
}

/** What a contract may say besides what its payload is. */
export interface ContractOptions<Payload extends Codec, Success extends Codec, Error extends Codec>
  extends ContractSettings {
  /** Default: nothing, stored as `null`. */
  readonly success?: Success | undefined
  /**
   * What a handler may fail with, beside {@link JobFailure}. It is kept with the attempt, and told by `Jobs.outcome`; one of
   * more than 2 MiB of JSON is not, its code and message still are. Default: nothing.
   */
  readonly error?: Error | undefined
  /** How an error is recorded. Default: `RETRYABLE`, under its `_tag`, with its message. */
  readonly record?: ((error: Error["Type"]) => Recorded) | undefined
  /** For each older version whose payloads may still be queued, how they become a payload of today. */
  readonly older?: { readonly [version: number]: Schema.Codec<Payload["Type"], unknown> } | undefined
}

/** Identifies the handler of a job type in the environment of a worker. */
export interface Handles<out Type extends string> {
  readonly "effect-runledger/Handles": Type
}

/** A handler as a worker runs it: from stored JSON to stored JSON. */
export interface Handler {
  readonly contract: AnyContract
  /** Fails with what is to be recorded; a payload that does not decode is such a failure. */
  readonly run: (
    payload: Schema.Json,
    version: number
  ) => Effect.Effect<Schema.Json, JobFailure | Continuation, JobExecution | Scope.Scope>
  /** The JSON that stands for an output. */
  readonly encodeOutput: (output: unknown) => Effect.Effect<Schema.Json, Schema.SchemaError>
  readonly onDeadLetter: (letter: DeadLetter) => Effect.Effect<void>
}

/** What the dead-letter hook of a handler is told. */
export interface DeadLetter {
  readonly jobId: string
  readonly runNumber: number
  readonly attempt: number
  readonly payload: Schema.Json
  /** The latest that was stored. */
  readonly checkpoint: Schema.Json | undefined
  readonly reason: DeadLetterReason
  readonly code: string
  readonly message: string
}

/** What a handler is registered with, beside its function. */
export interface HandlerOptions<R> {
  /**
   * Called once a job of this type ended in the dead letters: by the worker whose attempt was the last, or by the reaper that
   * found its process gone, if that was given the job. Best effort, at most 10 seconds.
   */
  readonly onDeadLetter?: ((letter: DeadLetter) => Effect.Effect<void, never, R>) | undefined
}

/** What all contracts have in common. */
export interface AnyContract {
  readonly jobType: string
  readonly version: number
  readonly settings: ContractSettings
  readonly payload: Codec
  readonly success: Codec
  readonly error: Codec
  /** What a worker asks for: the type of the handlers' service. */
  readonly handles: Handles<string>
  /** The handler among the services of a worker. */
  readonly handlerIn: (services: Context.Context<never>) => Option.Option<Handler>
  /** An output, of the JSON that stands for it. */
  readonly decodeOutput: (output: unknown) => Effect.Effect<unknown, Schema.SchemaError>
  /** An error, of the JSON that stands for it; `None` if it does not match the contract, or not any more. */
  readonly decodeError: (error: unknown) => Effect.Effect<Option.Option<unknown>>
  /** The versions whose payloads it can decode, ascending: its own, and the older ones that it knows. */
  readonly versions: ReadonlyArray<number>
  /** A payload of today, of the JSON that was stored with a version. */
  readonly decodePayload: (payload: Schema.Json, version: number) => Effect.Effect<unknown, JobFailure>
  /** The JSON that stands for a payload. */
  readonly encodePayload: (payload: unknown) => Result.Result<Schema.Json, string>
}

/** A typed contract, to be extended by a class. */
export interface Contract<Type extends string, Payload extends Codec, Success extends Codec, Error extends Codec>
  extends AnyContract {
  new (_: never): object
  readonly jobType: Type
  readonly payload: Payload
  readonly success: Success
  readonly error: Error
  readonly handles: Handles<Type>
  /**
   * The layer that handles jobs of this type. What the fiber returns is the job's output; what it fails with is the job's
   * failure. Services that the handler needs are those of the layer.
   */
  toLayer<R = never, R2 = never>(
    handle: (payload: Payload["Type"]) => Effect.Effect<Success["Type"], Error["Type"] | JobFailure | Continuation, R>,
    options?: HandlerOptions<R2>
  ): Layer.Layer<Handles<Type>, never, Exclude<R, JobExecution | Scope.Scope> | R2>
}

type Fields = { readonly [name: string]: Codec }

/**
 * Makes the contract of a job type. `payload` is a schema, or the fields of a struct.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job } from "effect-runledger"
 *
 * class SendEmail extends Job.make("email.send", {
 *   payload: { to: Schema.String, subject: Schema.String },
 *   success: Schema.Struct({ messageId: Schema.String }),
 *   maxAttempts: 5,
 *   timeout: "30 seconds"
 * }) {}
 * ```
 */
export function make<
  const Type extends string,
  F extends Fields,
  Success extends Codec = typeof Schema.Void,
  Error extends Codec = typeof Schema.Never
>(
  jobType: Type,
  options: ContractOptions<Schema.Struct<F>, Success, Error> & { readonly payload: F }
): Contract<Type, Schema.Struct<F>, Success, Error>
export function make<
  const Type extends string,
  Payload extends Codec,
  Success extends Codec = typeof Schema.Void,
  Error extends Codec = typeof Schema.Never
>(
  jobType: Type,
  options: ContractOptions<Payload, Success, Error> & { readonly payload: Payload }
): Contract<Type, Payload, Success, Error>
export function make(
  jobType: string,
  { payload, ...options }: ContractOptions<Codec, Codec, Codec> & { readonly payload: Codec | Fields }
): object {
  return contractOf(jobType, Schema.isSchema(payload) ? payload : Schema.Struct(payload), options)
}

const ofTheRun = Context.pick(
  JobExecution,
  Scope.Scope,
  Tracer.ParentSpan,
  References.CurrentLoggers,
  References.CurrentLogAnnotations
)

const contractOf = <const Type extends string>(
  jobType: Type,
  payload: Codec,
  { success = Schema.Void, error = Schema.Never, record, older = {}, ...settings }: ContractOptions<Codec, Codec, Codec>
) => {
  const version = settings.version ?? 1
  const handler = Context.Service<Handles<Type>, Handler>(`effect-runledger/Handler/${jobType}`)
  const encodePayload = Schema.encodeUnknownResult(Schema.toCodecJson(payload))
  const encodeSuccess = Schema.encodeUnknownEffect(Schema.toCodecJson(success))
  const encodeError = Schema.encodeUnknownResult(Schema.toCodecJson(error))
  const decodeError = Schema.decodeUnknownEffect(Schema.toCodecJson(error))
  // an encoder may also throw: a getter, a transformation that is not finished at once
  const encodedBy = (
    encode: (value: unknown) => Result.Result<Schema.Json, unknown>,
    value: unknown,
    otherwise: string
  ) => Result.try({ try: () => Result.getOrThrow(encode(value)), catch: () => otherwise })
  const decoders = new Map(
    [...Object.entries(older), [version, payload] as const].map(([of, schema]) => [
      Number(of),
      Schema.decodeUnknownEffect(Schema.toCodecJson(schema))
    ])
  )

  // what a schema says about a value may quote it, so it is kept out of the message
  const decodePayload = (value: Schema.Json, of: number) => {
    const decode = decoders.get(of)
    return decode === undefined
      ? Effect.fail(
          new JobFailure({
            kind: "TERMINAL",
            code: "job.unsupported_payload_version",
            message: `This worker cannot read payloads of version ${of}`
          })
        )
      : Effect.mapError(
          decode(value),
          () =>
            new JobFailure({
              kind: "TERMINAL",
              code: "job.invalid_payload",
              message: `The payload does not match version ${of} of the contract`
            })
        )
  }

  const failureOf = (failure: unknown): JobFailure | Continuation => {
    if (failure instanceof JobFailure || failure instanceof Continuation) return failure
    const recorded = record?.(failure) ?? {}
    const tag = Predicate.hasProperty(failure, "_tag") && Predicate.isString(failure._tag) ? failure._tag : "job.failed"
    const message =
      Predicate.hasProperty(failure, "message") && Predicate.isString(failure.message) ? failure.message : ""
    return new JobFailure({
      ...recorded,
      code: recorded.code ?? tag,
      message: message === "" ? tag : message,
      error: Result.getOrUndefined(encodedBy(encodeError, failure, "not an error"))
    })
  }

  // biome-ignore lint/complexity/noStaticOnlyClass: it is extended, so that a contract has a name in types and editors
  const contract = class {
    static readonly jobType = jobType
    static readonly version = version
    static readonly settings: ContractSettings = settings
    static readonly payload = payload
    static readonly success = success
    static readonly error = error
    static readonly versions = [...decoders.keys()].sort((a, b) => a - b)
    static readonly decodePayload = decodePayload
    static readonly decodeOutput = Schema.decodeUnknownEffect(Schema.toCodecJson(success))
    static readonly decodeError = (value: unknown) =>
      // whatever the decoder does, code and message can still be read
      Effect.map(Effect.exit(decodeError(value)), Exit.getSuccess)
    static readonly encodePayload = (value: unknown) => encodedBy(encodePayload, value, "not a payload")
    static readonly handles: Handles<Type> = { "effect-runledger/Handles": jobType }
    static readonly handlerIn = (services: Context.Context<never>) => Context.getOption(services, handler)

    static toLayer<R = never, R2 = never>(
      handle: (payload: unknown) => Effect.Effect<unknown, unknown, R | JobExecution | Scope.Scope>,
      options?: HandlerOptions<R2>
    ): Layer.Layer<Handles<Type>, never, R | R2> {
      return Layer.effect(
        handler,
        Effect.contextWith((services: Context.Context<R | R2>) =>
          Effect.succeed({
            contract,
            encodeOutput: encodeSuccess,
            run: (value: Schema.Json, of: number) =>
              Effect.flatMap(decodePayload(value, of), (input) =>
                handle(input).pipe(
                  Effect.mapError(failureOf),
                  Effect.flatMap((output) =>
                    Effect.mapError(
                      encodeSuccess(output),
                      () =>
                        new JobFailure({
                          kind: "TERMINAL",
                          code: "job.invalid_output",
                          message: "What the handler returned does not match the contract"
                        })
                    )
                  ),
                  Effect.updateContext((own: Context.Context<JobExecution | Scope.Scope>) =>
                    // what the handler needs comes from its layer, also where the worker has another of the same kind
                    Context.merge(Context.merge(own, services), ofTheRun(own))
                  )
                )
              ),
            onDeadLetter: (letter: DeadLetter) =>
              Effect.updateContext(options?.onDeadLetter?.(letter) ?? Effect.void, (own: Context.Context<never>) =>
                Context.merge(services, own)
              )
          })
        )
      )
    }
  }
  return contract
}
