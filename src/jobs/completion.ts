import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import { FailureKind, type Lease } from "../Job.ts"
import { InvalidArgument, InvalidCompletionProgress, InvalidContinuationDelay, InvalidRetryTiming } from "../Reason.ts"
import type { EncodedContinuation } from "./continuation.ts"
import type { EncodedFailure } from "./failure.ts"
import { maxCodeBytes, maxDelayMillis } from "./limits.ts"
import { isProgress } from "./progress.ts"
import type { EncodedSuccess } from "./success.ts"

/** What a finished job leaves. What is left out stays as it is, except the output, which is then none. */
export interface SuccessOptions {
  /** The result: any JSON of at most 2 MiB. */
  readonly output?: Json | undefined
  readonly done?: number | undefined
  readonly total?: number | undefined
  /** Any JSON of at most 2 MiB. */
  readonly checkpoint?: Json | undefined
}

/** How an attempt failed. */
export interface FailureOptions {
  /** `TERMINAL` and `PANICKED` end in the dead letters at once; the others when the attempts are used up. */
  readonly kind: FailureKind
  /** A stable code, not blank, at most 255 bytes; the definition's retry policy may have a delay of its own for it. */
  readonly code: string
  /** For people. At most 16,384 characters are kept; what PostgreSQL cannot store is replaced. */
  readonly message: string
  /** The error itself, kept with the attempt: any JSON of at most 2 MiB. What is not that is left out, and fails nothing. */
  readonly error?: Json | undefined
  /**
   * The earliest time of a retry, as a delay of at most 24 days or as an instant: a lower bound, which can delay the policy's
   * time but never shorten it.
   */
  readonly retryNotBefore?: { readonly delay: Duration.Input } | { readonly at: DateTime.Utc } | undefined
}

/** When and with what the next slice of the work begins. */
export interface ContinuationOptions {
  /** 0 (the default) to 36,525 days, rounded up to milliseconds. */
  readonly delay?: Duration.Input | undefined
  readonly done?: number | undefined
  readonly total?: number | undefined
  /** Any JSON of at most 2 MiB. */
  readonly checkpoint?: Json | undefined
}

/** How one attempt of a batch ended. */
export type Completion =
  | ({ readonly _tag: "Success"; readonly lease: Lease } & SuccessOptions)
  | ({ readonly _tag: "Failure"; readonly lease: Lease } & FailureOptions)
  | ({ readonly _tag: "Continuation"; readonly lease: Lease } & ContinuationOptions)

type Encoded<A, E> = Result.Result<A, InvalidArgument | E>

const encodeJson = (argument: string, value: Json | undefined): Encoded<string | undefined, never> =>
  value === undefined
    ? Result.succeed(undefined)
    : Result.mapError(JsonText.encode(value), (rule) => new InvalidArgument({ argument, rule }))

/** Checks a success and encodes its JSON. */
export const encodeSuccess = (
  success: { readonly lease: Lease } & SuccessOptions
): Encoded<EncodedSuccess, InvalidCompletionProgress> => {
  if (!isProgress(success)) return Result.fail(new InvalidCompletionProgress())
  const checkpoint = encodeJson("checkpoint", success.checkpoint)
  if (Result.isFailure(checkpoint)) return Result.fail(checkpoint.failure)
  return Result.map(encodeJson("output", success.output), (output) => ({
    lease: success.lease,
    done: success.done,
    total: success.total,
    checkpoint: checkpoint.success,
    output
  }))
}

/** Checks a failure and makes its texts storable. */
export const encodeFailure = (
  failure: { readonly lease: Lease } & FailureOptions
): Encoded<EncodedFailure, InvalidRetryTiming> => {
  const { lease, kind, code, retryNotBefore } = failure
  const invalid = FailureKind.literals.includes(kind)
    ? Args.name("code", code, maxCodeBytes)
    : new InvalidArgument({ argument: "kind", rule: `must be one of ${FailureKind.literals.join(", ")}` })
  if (invalid !== undefined) return Result.fail(invalid)
  const error = failure.error === undefined ? undefined : Result.getOrUndefined(JsonText.encode(failure.error))
  const encoded = { lease, kind, code, message: Args.diagnostic(failure.message), error }
  if (retryNotBefore === undefined) return Result.succeed({ ...encoded, afterMillis: undefined, notBefore: undefined })
  if ("delay" in retryNotBefore) {
    const afterMillis = Args.millis(retryNotBefore.delay)
    return afterMillis === undefined || afterMillis < 0 || afterMillis > Args.maxInt
      ? Result.fail(new InvalidRetryTiming())
      : // no delay is no hint
        Result.succeed({ ...encoded, afterMillis: afterMillis === 0 ? undefined : afterMillis, notBefore: undefined })
  }
  const { at } = retryNotBefore
  if (DateTime.isGreaterThan(at, Args.maxInstant)) return Result.fail(new InvalidRetryTiming())
  // an instant before any policy's time bounds nothing
  const notBefore = DateTime.isLessThan(at, Args.minInstant) ? undefined : DateTime.formatIso(at)
  return Result.succeed({ ...encoded, afterMillis: undefined, notBefore })
}

/** Checks a continuation and encodes its JSON. */
export const encodeContinuation = (
  slice: { readonly lease: Lease } & ContinuationOptions
): Encoded<EncodedContinuation, InvalidCompletionProgress | InvalidContinuationDelay> => {
  const delayMillis = Args.millis(slice.delay ?? 0)
  if (delayMillis === undefined || delayMillis < 0 || delayMillis > maxDelayMillis) {
    return Result.fail(new InvalidContinuationDelay())
  }
  if (!isProgress(slice)) return Result.fail(new InvalidCompletionProgress())
  return Result.map(encodeJson("checkpoint", slice.checkpoint), (checkpoint) => ({
    lease: slice.lease,
    delayMillis,
    done: slice.done,
    total: slice.total,
    checkpoint
  }))
}

/** How much of a statement an encoded completion takes. */
export const bytesOf = (item: object): number => {
  let bytes = 0
  for (const value of Object.values(item)) if (typeof value === "string") bytes += value.length
  return bytes
}
