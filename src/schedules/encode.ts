/**
 * What is declared about a schedule, checked before anything is sent.
 */
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import * as Schema from "effect/Schema"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import type { AnyContract } from "../JobContract.ts"
import type { JobSchedule, Overlap } from "../JobSchedule.ts"
import { decidedBy } from "../jobs/enqueueRequest.ts"
import { maxTypeBytes } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"
import { InvalidSchedule } from "../ScheduleReason.ts"
import { type Times, times } from "./cron.ts"

/** What a schedule is given beside its name and its job. */
export interface ScheduleOptions {
  /** Five fields, or six with leading seconds; `*`, lists, ranges, steps, and the names of months and weekdays. */
  readonly cron: string
  /** The name of an IANA zone, or an offset such as `+05:30`. Default: `UTC`. */
  readonly timezone?: string | undefined
  /** Which instants are meant of a local time that comes twice, when the clock is put back. Default: `earlier`. */
  readonly overlap?: Overlap | undefined
  /**
   * The job of each fire is due up to so much later, rounded up to seconds, at most a day; by how much is the same whoever
   * fires it. Default: not at all.
   */
  readonly maxJitter?: Duration.Input | undefined
  /** Whose jobs they are; a UUID. Default: nobody's. It stays what it was when the schedule was created. */
  readonly organizationId?: string | undefined
  /** Default: true. */
  readonly isActive?: boolean | undefined
  /** The first time. Default: the first that the expression means. Used when the schedule is new, or its times are. */
  readonly nextFireAt?: DateTime.Utc | undefined
  /** Who created it; a UUID. */
  readonly createdByUserId?: string | undefined
}

/** A schedule of a job type by its name. */
export interface ScheduleRequest extends ScheduleOptions {
  /** Unique; not blank, without white space around it, at most 255 bytes. */
  readonly name: string
  readonly jobType: string
  /** The payload of every job. Default: `{}`. */
  readonly payload?: Json | undefined
  /** The version of the contract that encoded the payload: at least 1, the default. */
  readonly payloadVersion?: number | undefined
}

/** A schedule of a typed job, made by {@link schedule}. */
export interface TypedScheduleRequest extends ScheduleOptions {
  readonly name: string
  readonly contract: AnyContract
  readonly payload: unknown
}

/**
 * A schedule of a typed job. Its payload is encoded when the schedule is stored, with the version of the contract.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, JobSchedules } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const nightly = JobSchedules.schedule("report.nightly", Report, { to: "ops@example.com" }, {
 *   cron: "30 2 * * *",
 *   timezone: "Europe/London"
 * })
 * ```
 */
export const schedule = <C extends AnyContract>(
  name: string,
  contract: C,
  payload: C["payload"]["Type"],
  options: ScheduleOptions
): TypedScheduleRequest => ({ ...options, name, contract, payload })

/** A schedule that was checked. */
export interface EncodedSchedule {
  readonly name: string
  readonly contract: AnyContract | undefined
  readonly jobType: string
  readonly organizationId: string | null
  readonly payload: Json
  readonly payloadVersion: number
  readonly carriesTime: JobSchedule["carriesTime"]
  readonly cron: string
  readonly timezone: string
  readonly overlap: Overlap
  readonly maxJitterSeconds: number
  readonly isActive: boolean
  readonly nextFireAt: number | undefined
  readonly createdByUserId: string | null
  readonly times: Times
}

/** The longest name of a schedule or an owner, in bytes. */
export const maxNameBytes = 255

const maxJitterSeconds = 86_400

/** The rule that a schedule's name breaks. */
export const invalidName = (argument: string, name: string): InvalidSchedule | undefined => {
  const refused = Args.name(argument, name, maxNameBytes)
  const rule = refused?.rule ?? (name.trim() === name ? undefined : "must not begin or end with white space")
  return rule === undefined ? undefined : new InvalidSchedule({ argument, rule, code: "job_schedule.invalid_name" })
}

const isObject = (value: Json): value is { readonly [key: string]: Json } =>
  Predicate.isObject(value) && !Array.isArray(value)

/** The payload of one fire: the template, and where it can be, what the job is told of its time. */
export const payloadOf = (
  { payload, carriesTime }: Pick<JobSchedule, "payload" | "carriesTime">,
  fire: { readonly id: string; readonly name: string; readonly scheduledFor: number }
): Json => {
  const _schedule = {
    schedule_id: fire.id,
    schedule_name: fire.name,
    // with only the digits that it needs
    scheduled_for: new Date(fire.scheduledFor).toISOString().replace(/\.?0*Z$/, "Z")
  }
  if (carriesTime === "KEY") return payload
  return carriesTime === "MEMBER" && isObject(payload) ? { ...payload, _schedule } : { payload, _schedule }
}

const sample = { id: "00000000-0000-0000-0000-000000000000", scheduledFor: 1 }

// what is fired is decoded by the handler: a schema of a struct passes over the member, others may not
const carries = Effect.fnUntraced(function* (contract: AnyContract | undefined, name: string, payload: Json) {
  if (contract === undefined) return isObject(payload) ? "MEMBER" : "WRAPPER"
  if (!isObject(payload)) return "KEY"
  const decode = Schema.decodeUnknownEffect(Schema.toCodecJson(contract.payload))
  const decoded = yield* Effect.exit(decode(payloadOf({ payload, carriesTime: "MEMBER" }, { ...sample, name })))
  return Exit.isSuccess(decoded) ? "MEMBER" : "KEY"
})

/** Checks a schedule and encodes it; `path` names it in a violation. */
export const encode = Effect.fnUntraced(function* (
  request: ScheduleRequest | TypedScheduleRequest,
  path: string
): Effect.fn.Return<EncodedSchedule, InvalidArgument | InvalidSchedule> {
  const contract = "contract" in request ? request.contract : undefined
  const jobType = "contract" in request ? request.contract.jobType : request.jobType
  const payloadVersion = "contract" in request ? request.contract.version : (request.payloadVersion ?? 1)
  const { name, organizationId, createdByUserId, timezone = "UTC", overlap = "earlier", nextFireAt } = request
  const invalid =
    invalidName(`${path}name`, name) ??
    Args.name(`${path}jobType`, jobType, maxTypeBytes) ??
    Args.integer(`${path}payloadVersion`, payloadVersion, 1) ??
    (organizationId === undefined ? undefined : Args.uuid(`${path}organizationId`, organizationId)) ??
    (createdByUserId === undefined ? undefined : Args.uuid(`${path}createdByUserId`, createdByUserId)) ??
    (nextFireAt === undefined ? undefined : Args.instant(`${path}nextFireAt`, nextFireAt))
  if (invalid !== undefined) return yield* invalid
  if (overlap !== "earlier" && overlap !== "later" && overlap !== "both") {
    return yield* new InvalidArgument({ argument: `${path}overlap`, rule: "must be earlier, later or both" })
  }

  const invalidCron = (rule: string) =>
    new InvalidSchedule({ argument: `${path}cron`, rule, code: "job_schedule.invalid_cron" })
  const unstorable = Args.name(`${path}cron`, request.cron, maxExpressionBytes)
  if (unstorable !== undefined) return yield* invalidCron(unstorable.rule)
  if (request.cron.trim() !== request.cron) return yield* invalidCron("must not begin or end with white space")
  const checked = times(request.cron, timezone, overlap, path)
  if (Result.isFailure(checked)) return yield* checked.failure
  // any instant will do: an expression that has a next time has one from everywhere
  const some = checked.success.after(Date.UTC(2024, 0))
  if (Result.isFailure(some)) return yield* some.failure

  const jitterMillis = Args.millis(request.maxJitter ?? 0)
  const jitter = jitterMillis === undefined ? Number.NaN : Math.ceil(jitterMillis / 1000)
  if (!(jitter >= 0 && jitter <= maxJitterSeconds)) {
    return yield* new InvalidSchedule({
      argument: `${path}maxJitter`,
      rule: `must last between 0 and ${maxJitterSeconds} seconds`,
      code: "job_schedule.invalid_jitter"
    })
  }

  let payload: Json
  if ("contract" in request) {
    const decided = decidedBy(request.contract)
    if (Result.isFailure(decided)) return yield* decided.failure
    const encoded = request.contract.encodePayload(request.payload)
    if (Result.isFailure(encoded)) {
      // what the schema says may quote the payload
      return yield* new InvalidArgument({ argument: `${path}payload`, rule: `must match the contract of ${jobType}` })
    }
    payload = encoded.success
  } else {
    payload = request.payload === undefined ? {} : request.payload
  }
  // first as it was given: what follows walks through it
  const plain = JsonText.encode(payload)
  if (Result.isFailure(plain)) return yield* new InvalidArgument({ argument: `${path}payload`, rule: plain.failure })
  const carriesTime = yield* carries(contract, name, payload)
  const fired = JsonText.encode(payloadOf({ payload, carriesTime }, { ...sample, name }))
  if (Result.isFailure(fired)) return yield* new InvalidArgument({ argument: `${path}payload`, rule: fired.failure })

  return {
    name,
    contract,
    jobType,
    organizationId: organizationId ?? null,
    payload,
    payloadVersion,
    carriesTime,
    cron: request.cron,
    timezone,
    overlap,
    maxJitterSeconds: jitter,
    isActive: request.isActive ?? true,
    nextFireAt: nextFireAt === undefined ? undefined : DateTime.toEpochMillis(nextFireAt),
    createdByUserId: createdByUserId ?? null,
    times: checked.success
  }
})

const maxExpressionBytes = 1024
