import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Json } from "effect/Schema"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import { FailureKind, type Lease } from "../Job.ts"
import { InvalidArgument, InvalidCompletionProgress, InvalidContinuationDelay, InvalidRetryTiming } from "../Reason.ts"
import type { EncodedContinuation } from "./continuation.ts"
import type { EncodedFailure } from "./failure.ts"
import { invalidLease } from "./fence.ts"
import { maxBatch, maxCodeBytes, maxDelayMillis } from "./limits.ts"
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

/** Refuses malformed leases, a job named twice, and more than 1,000. */
export const wellFormed = (leases: ReadonlyArray<Lease>) => {
  const invalid = Args.atMost("completions", leases.length, maxBatch) ?? invalidLease(leases)
  return invalid === undefined ? Effect.void : Effect.fail(invalid)
}

const encodeJson = (argument: string, value: Json | undefined): Effect.Effect<string | undefined, InvalidArgument> =>
  value === undefined
    ? Effect.succeed(undefined)
    : Effect.mapError(Effect.fromResult(JsonText.encode(value)), (rule) => new InvalidArgument({ argument, rule }))

/** Checks a success and encodes its JSON. */
export const encodeSuccess = Effect.fnUntraced(function* (
  success: { readonly lease: Lease } & SuccessOptions
): Effect.fn.Return<EncodedSuccess, InvalidArgument | InvalidCompletionProgress> {
  if (!isProgress(success)) return yield* new InvalidCompletionProgress()
  return {
    lease: success.lease,
    done: success.done,
    total: success.total,
    checkpoint: yield* encodeJson("checkpoint", success.checkpoint),
    output: yield* encodeJson("output", success.output)
  }
})

/** Checks a failure and makes its texts storable. */
export const encodeFailure = Effect.fnUntraced(function* (
  failure: { readonly lease: Lease } & FailureOptions
): Effect.fn.Return<EncodedFailure, InvalidArgument | InvalidRetryTiming> {
  const invalid = FailureKind.literals.includes(failure.kind)
    ? Args.name("code", failure.code, maxCodeBytes)
    : new InvalidArgument({ argument: "kind", rule: `must be one of ${FailureKind.literals.join(", ")}` })
  if (invalid !== undefined) return yield* invalid
  const { lease, kind, code, retryNotBefore } = failure
  let afterMillis: number | undefined
  let notBefore: string | undefined
  if (retryNotBefore !== undefined && "delay" in retryNotBefore) {
    afterMillis = Args.millis(retryNotBefore.delay)
    if (afterMillis === undefined || afterMillis < 0 || afterMillis > Args.maxInt)
      return yield* new InvalidRetryTiming()
    // no delay is no hint
    if (afterMillis === 0) afterMillis = undefined
  } else if (retryNotBefore !== undefined) {
    if (DateTime.isGreaterThan(retryNotBefore.at, Args.maxInstant)) return yield* new InvalidRetryTiming()
    // an instant before any policy's time bounds nothing
    notBefore = DateTime.isLessThan(retryNotBefore.at, Args.minInstant)
      ? undefined
      : DateTime.formatIso(retryNotBefore.at)
  }
  return { lease, kind, code, message: Args.diagnostic(failure.message), afterMillis, notBefore }
})

/** Checks a continuation and encodes its JSON. */
export const encodeContinuation = Effect.fnUntraced(function* (
  slice: { readonly lease: Lease } & ContinuationOptions
): Effect.fn.Return<EncodedContinuation, InvalidArgument | InvalidCompletionProgress | InvalidContinuationDelay> {
  const delayMillis = Args.millis(slice.delay ?? 0)
  if (delayMillis === undefined || delayMillis < 0 || delayMillis > maxDelayMillis) {
    return yield* new InvalidContinuationDelay()
  }
  if (!isProgress(slice)) return yield* new InvalidCompletionProgress()
  const checkpoint = yield* encodeJson("checkpoint", slice.checkpoint)
  return { lease: slice.lease, delayMillis, done: slice.done, total: slice.total, checkpoint }
})

/** How much of a statement an encoded completion takes. */
export const bytesOf = (item: object): number => {
  let bytes = 0
  for (const value of Object.values(item)) if (typeof value === "string") bytes += value.length
  return bytes
}
