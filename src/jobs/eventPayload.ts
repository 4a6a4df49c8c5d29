import type * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { JobId } from "../Job.ts"
import type { JobEvent } from "./ledger.ts"
import type { StatePolicy } from "./requeue.ts"

/** What the payload of an event says, by {@link decodeEvent}. */
export type EventPayload =
  /** A claim was taken back before its attempt had started, by `Jobs.releaseUnstarted` or the reaper. */
  | { readonly _tag: "Released"; readonly reason: string }
  /** `Jobs.requeue`. */
  | { readonly _tag: "Requeued"; readonly reason: string; readonly statePolicy: StatePolicy }
  /** `Jobs.redriveDeadLetters`; the batch had this id. */
  | {
      readonly _tag: "Redriven"
      readonly reason: string
      readonly statePolicy: StatePolicy
      readonly redriveId: string
    }
  /** The handler goes on in another run. */
  | {
      readonly _tag: "Continued"
      readonly reason: string
      readonly nextRunNumber: number
      readonly nextRunAt: DateTime.Utc
      readonly delayMicroseconds: number
    }
  /** Requeued in a way that this version does not know, or that is malformed. */
  | { readonly _tag: "RequeuedOtherwise"; readonly reason: Option.Option<string> }
  /** The job was enqueued by `Jobs.replay`. */
  | {
      readonly _tag: "Replayed"
      readonly sourceJobId: JobId
      readonly sourceRunNumber: number
      readonly requestKey: string
      readonly reason: string
    }
  /** `Jobs.cancel`, or the cancellation of the run; a handler may have been at work until `leaseQuiescesAt`. */
  | {
      readonly _tag: "Canceled"
      readonly reason: string
      readonly leaseQuiescesAt: Option.Option<DateTime.Utc>
    }
  /** Everything else: see `payload`. */
  | { readonly _tag: "Other" }

/**
 * What the payload of an event of `Jobs.events` says. Never fails: what cannot be read is `RequeuedOtherwise` or `Other`.
 *
 * Events of older systems are read too, whose requeues do not say their kind.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const jobId: Jobs.JobId
 * const requeues = Effect.map(Jobs.events(TenantScope.admin, jobId), (events) =>
 *   events.map(Jobs.decodeEvent).flatMap((said) => (said._tag === "Requeued" ? [said.reason] : []))
 * )
 * ```
 */
export const decodeEvent = (event: JobEvent): EventPayload => {
  const { type, payload } = event
  const decoded =
    type === "REQUEUED"
      ? requeuedOf(payload)
      : type === "ENQUEUED"
        ? Option.map(decodeReplayed(payload), (said) => ({ _tag: "Replayed" as const, ...said }))
        : type === "CANCELED"
          ? Option.map(decodeCanceled(payload), (said) => ({ _tag: "Canceled" as const, ...said }))
          : Option.none()
  return Option.getOrElse(decoded, () => ({ _tag: "Other" }))
}

const requeuedOf = (payload: Schema.Json): Option.Option<EventPayload> => {
  if (!Predicate.isObject(payload)) return Option.some({ _tag: "RequeuedOtherwise", reason: Option.none() })
  const decoded = kinds.get(kindOf(payload))?.(payload) ?? Option.none()
  const reason = "reason" in payload && Predicate.isString(payload.reason) ? Option.some(payload.reason) : Option.none()
  return Option.orElseSome(decoded, () => ({ _tag: "RequeuedOtherwise", reason }))
}

/** The kind that a requeue says; without one, the kind that it must have been. A kind that is there is taken as it is. */
const kindOf = (payload: object): string => {
  if ("requeue_kind" in payload) return Predicate.isString(payload.requeue_kind) ? payload.requeue_kind : ""
  if ("state_policy" in payload) return "COMPARE_AND_REQUEUE"
  const schedule = scheduleKeys.filter((key) => key in payload).length
  if (schedule === 0) return "BASIC"
  return schedule === scheduleKeys.length && "reason" in payload && payload.reason === "HANDLER_CONTINUATION"
    ? "HANDLER_CONTINUATION"
    : ""
}

const scheduleKeys = ["next_run_number", "next_run_at", "delay_microseconds"]

const Basic = Schema.Struct({ reason: Schema.String })

const policies = {
  preserve_progress_and_checkpoint: "preserve",
  reset_progress_and_checkpoint: "reset"
} as const

const CompareAndRequeue = Schema.Struct({
  reason: Schema.String,
  state_policy: Schema.Literals(["preserve_progress_and_checkpoint", "reset_progress_and_checkpoint"])
})

const Redrive = Schema.Struct({ ...CompareAndRequeue.fields, redrive_id: Schema.String })

const Continued = Schema.Struct({
  reason: Schema.String,
  nextRunNumber: Schema.Int,
  nextRunAt: Schema.DateTimeUtcFromString,
  delayMicroseconds: Schema.Int
}).pipe(
  Schema.encodeKeys({
    nextRunNumber: "next_run_number",
    nextRunAt: "next_run_at",
    delayMicroseconds: "delay_microseconds"
  })
)

const decodeBasic = Schema.decodeUnknownOption(Basic)
const decodeCompareAndRequeue = Schema.decodeUnknownOption(CompareAndRequeue)
const decodeRedrive = Schema.decodeUnknownOption(Redrive)
const decodeContinued = Schema.decodeUnknownOption(Continued)

const kinds = new Map<string, (payload: unknown) => Option.Option<EventPayload>>([
  ["BASIC", (payload) => Option.map(decodeBasic(payload), ({ reason }) => ({ _tag: "Released", reason }))],
  [
    "COMPARE_AND_REQUEUE",
    (payload) =>
      Option.map(decodeCompareAndRequeue(payload), ({ reason, state_policy: policy }) => ({
        _tag: "Requeued",
        reason,
        statePolicy: policies[policy]
      }))
  ],
  [
    "DEAD_LETTER_REDRIVE",
    (payload) =>
      Option.map(decodeRedrive(payload), ({ reason, state_policy: policy, redrive_id: redriveId }) => ({
        _tag: "Redriven",
        reason,
        statePolicy: policies[policy],
        redriveId
      }))
  ],
  [
    "HANDLER_CONTINUATION",
    (payload) => Option.map(decodeContinued(payload), (said) => ({ _tag: "Continued", ...said }))
  ]
])

const decodeReplayed = Schema.decodeUnknownOption(
  Schema.Struct({
    sourceJobId: JobId,
    sourceRunNumber: Schema.Int,
    requestKey: Schema.String,
    reason: Schema.String
  }).pipe(
    Schema.encodeKeys({
      sourceJobId: "replayed_from_job_id",
      sourceRunNumber: "replayed_from_run_number",
      requestKey: "replay_request_key"
    })
  )
)

const decodeCanceled = Schema.decodeUnknownOption(
  Schema.Struct({
    reason: Schema.String,
    leaseQuiescesAt: Schema.OptionFromOptionalKey(Schema.DateTimeUtcFromString)
  }).pipe(Schema.encodeKeys({ leaseQuiescesAt: "lease_quiesces_at" }))
)
