import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import { invalidRetry } from "../internal/retry.ts"
import { Stage } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import type { RetryPolicy } from "../JobDefinitions.ts"
import { InvalidArgument } from "../Reason.ts"
import { maxDelayMillis, maxKeyBytes, maxTypeBytes } from "./limits.ts"

/** What a job is given beside its payload. What is left out comes from the definition of its type. */
export interface EnqueueOptions {
  /** Whose job it is; a UUID. Default: nobody's, a global job. */
  readonly organizationId?: string | undefined
  /** -100 to 100; higher goes first. */
  readonly priority?: number | undefined
  /** How many attempts a run has: at least 1. */
  readonly maxAttempts?: number | undefined
  /** How long an attempt may run, rounded up to seconds: at least 1 second. */
  readonly timeout?: Duration.Input | undefined
  /** When it is due. Default: now. With an idempotency key, a retry must give the same instant; or use `delay`. */
  readonly runAt?: DateTime.Utc | undefined
  /** How long from now it is due, rounded up to milliseconds: 0 to 36,525 days. Not together with `runAt`. */
  readonly delay?: Duration.Input | undefined
  /**
   * Makes a retry of the same request return the first job: not blank, at most 512 bytes, unique within type and
   * organization.
   */
  readonly idempotencyKey?: string | undefined
  /**
   * Jobs with the same key share its permits, whatever their type and organization: by default one, so that they run one after
   * the other; see `JobResources`. Not blank, at most 512 bytes.
   */
  readonly executionResourceKey?: string | undefined
  /** Default `queued`. */
  readonly stage?: Stage | undefined
  /** The version of the contract that encoded the payload: at least 1, the default. Not part of the request. */
  readonly payloadVersion?: number | undefined
}

/** One job of a batch. */
export interface EnqueueRequest extends EnqueueOptions {
  /** Not blank, at most 128 bytes. */
  readonly jobType: string
  /** Any JSON of at most 2 MiB. */
  readonly payload: Json
}

/** One typed job of a batch, made by {@link request}. */
export interface TypedRequest extends Omit<EnqueueOptions, "payloadVersion"> {
  readonly contract: AnyContract
  readonly payload: unknown
}

/**
 * A typed job for a batch.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, Jobs } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const greeted = Jobs.enqueueMany(["ada", "grace"].map((name) => Jobs.request(Greet, { name })))
 * ```
 */
export const request = <C extends AnyContract>(
  contract: C,
  payload: C["payload"]["Type"],
  options?: Omit<EnqueueOptions, "payloadVersion">
): TypedRequest => ({ ...options, contract, payload })

/** A request that was checked, with its payload as JSON text. */
export interface EncodedRequest {
  readonly ordinal: number
  /** What a retry has in common with the first request; `undefined` without a key. */
  readonly identity: string | undefined
  readonly jobType: string
  readonly organizationId: string | null
  readonly priority: number | null
  readonly maxAttempts: number | null
  readonly timeoutSeconds: number | null
  /** An ISO instant with six fractional digits, as the stored request has them. */
  readonly nextRunAt: string | null
  readonly delayMillis: number | null
  readonly idempotencyKey: string | null
  readonly executionResourceKey: string | null
  readonly stage: Stage
  readonly payloadVersion: number
  readonly payload: string
  /** What decides where the declaration is missing or older than the contract; `null` for dynamic types. */
  readonly contract: Decided | null
  /** The request as it is compared; empty without a key. */
  readonly snapshot: Readonly<Record<string, Json>>
  /** Of a request that was recorded earlier: in which trace, and from when its delay counts. */
  readonly recorded?: { readonly traceParent: string | null; readonly at: string } | undefined
}

/** Checks a request and encodes it; `path` names it in a violation. */
export const encode = (
  request: EnqueueRequest | TypedRequest,
  ordinal: number,
  path: string
): Result.Result<EncodedRequest, InvalidArgument> => {
  if (!("contract" in request)) return encodeAs(request, null, ordinal, path)
  const { contract, payload, ...options } = request
  const { jobType, version } = contract
  const decides = decidedBy(contract)
  if (Result.isFailure(decides)) return Result.fail(decides.failure)
  const json = contract.encodePayload(payload)
  return Result.isFailure(json)
    ? // what the schema says may quote the payload
      Result.fail(new InvalidArgument({ argument: `${path}payload`, rule: `must match the contract of ${jobType}` }))
    : encodeAs({ ...options, jobType, payload: json.success, payloadVersion: version }, decides.success, ordinal, path)
}

/** What a contract says where the declaration of its type is missing or older, checked. */
export interface Decided {
  readonly version: number
  readonly priority: number
  readonly maxAttempts: number
  readonly timeoutSeconds: number
}

/** What `contract` decides, or the setting of it that breaks a rule. */
export const decidedBy = (contract: AnyContract): Result.Result<Decided, InvalidArgument> => {
  const { version, settings } = contract
  const timeout = Args.millis(settings.timeout ?? "5 minutes")
  const decided = {
    version,
    priority: settings.priority ?? 0,
    maxAttempts: settings.maxAttempts ?? 3,
    timeoutSeconds: timeout === undefined ? Number.NaN : Math.ceil(timeout / 1000)
  }
  const invalid =
    Args.integer("contract.version", version, 1) ??
    Args.integer("contract.priority", decided.priority, -100, 100) ??
    Args.integer("contract.maxAttempts", decided.maxAttempts, 1) ??
    Args.integer("contract.timeout", decided.timeoutSeconds, 1) ??
    invalidRetryOf(contract)
  return invalid === undefined ? Result.succeed(decided) : Result.fail(invalid)
}

// asked at every enqueue, and the same each time
const retries = new WeakMap<RetryPolicy, InvalidArgument | "valid">()

const invalidRetryOf = ({ settings: { retry } }: AnyContract): InvalidArgument | undefined => {
  if (retry === undefined) return undefined
  let found = retries.get(retry)
  if (found === undefined) {
    found = invalidRetry({ ...retry, initial: retry.initial ?? "10 seconds" }) ?? "valid"
    retries.set(retry, found)
  }
  return found === "valid" ? undefined : found
}

const encodeAs = (
  request: EnqueueRequest,
  contract: EncodedRequest["contract"],
  ordinal: number,
  path: string
): Result.Result<EncodedRequest, InvalidArgument> => {
  const { jobType, organizationId, priority, maxAttempts, idempotencyKey, executionResourceKey, runAt } = request
  const refuse = (name: string, rule: string) => Result.fail(new InvalidArgument({ argument: `${path}${name}`, rule }))
  const timeout = request.timeout === undefined ? undefined : Args.millis(request.timeout)
  const timeoutSeconds = timeout === undefined ? undefined : Math.ceil(timeout / 1000)
  const delay = request.delay === undefined ? undefined : Args.millis(request.delay)
  const stage = request.stage ?? "queued"
  const payloadVersion = request.payloadVersion ?? 1
  const invalid =
    Args.name(`${path}jobType`, jobType, maxTypeBytes) ??
    (organizationId === undefined ? undefined : Args.uuid(`${path}organizationId`, organizationId)) ??
    (priority === undefined ? undefined : Args.integer(`${path}priority`, priority, -100, 100)) ??
    (maxAttempts === undefined ? undefined : Args.integer(`${path}maxAttempts`, maxAttempts, 1)) ??
    (request.timeout === undefined ? undefined : Args.integer(`${path}timeout`, timeoutSeconds ?? Number.NaN, 1)) ??
    (idempotencyKey === undefined ? undefined : Args.name(`${path}idempotencyKey`, idempotencyKey, maxKeyBytes)) ??
    (executionResourceKey === undefined
      ? undefined
      : Args.name(`${path}executionResourceKey`, executionResourceKey, maxKeyBytes)) ??
    Args.integer(`${path}payloadVersion`, payloadVersion, 1) ??
    (runAt === undefined ? undefined : Args.instant(`${path}runAt`, runAt))
  if (invalid !== undefined) return Result.fail(invalid)
  if (!Stage.literals.includes(stage)) {
    return refuse("stage", `must be one of ${Stage.literals.join(", ")}`)
  }
  if (request.delay !== undefined && runAt !== undefined) return refuse("delay", "must not stand beside runAt")
  if (request.delay !== undefined && (delay === undefined || delay < 0 || delay > maxDelayMillis)) {
    return refuse("delay", "must last between 0 and 36,525 days")
  }
  const payload = JsonText.encode(request.payload)
  if (Result.isFailure(payload)) return refuse("payload", payload.failure)
  const encoded = {
    ordinal,
    identity: undefined,
    jobType,
    organizationId: organizationId ?? null,
    priority: priority ?? null,
    maxAttempts: maxAttempts ?? null,
    timeoutSeconds: timeoutSeconds ?? null,
    nextRunAt: runAt === undefined ? null : DateTime.formatIso(runAt).replace("Z", "000Z"),
    delayMillis: delay ?? null,
    idempotencyKey: idempotencyKey ?? null,
    executionResourceKey: executionResourceKey ?? null,
    stage,
    payloadVersion,
    payload: payload.success,
    contract,
    snapshot: {}
  }
  if (idempotencyKey === undefined) return Result.succeed(encoded)
  return Result.succeed({
    ...encoded,
    identity: identityOf(jobType, organizationId?.toLowerCase() ?? null, idempotencyKey),
    snapshot: {
      payload: request.payload,
      priority: encoded.priority,
      max_attempts: encoded.maxAttempts,
      timeout_seconds: encoded.timeoutSeconds,
      next_run_at: encoded.nextRunAt,
      stage,
      ...(delay === undefined ? {} : { delay_ms: delay }),
      ...(executionResourceKey === undefined ? {} : { execution_resource_key: executionResourceKey })
    }
  })
}

/** What retries of a request have in common; the organization as PostgreSQL prints it. */
export const identityOf = (jobType: string, organizationId: string | null, idempotencyKey: string): string =>
  JSON.stringify([jobType, organizationId, idempotencyKey])

/** A request as a statement for many is sent it; `rank` is its place in the order of insertion. */
export const recordOf = (request: EncodedRequest, rank: number): string => {
  const head = JSON.stringify({
    ordinal: request.ordinal,
    rank,
    job_type: request.jobType,
    organization_id: request.organizationId,
    priority: request.priority,
    max_attempts: request.maxAttempts,
    timeout_seconds: request.timeoutSeconds,
    next_run_at_text: request.nextRunAt,
    delay_ms: request.delayMillis,
    idempotency_key: request.idempotencyKey,
    execution_resource_key: request.executionResourceKey,
    stage: request.stage,
    payload_version: request.payloadVersion,
    ...(request.contract === null
      ? {}
      : {
          contract_version: request.contract.version,
          contract_priority: request.contract.priority,
          contract_max_attempts: request.contract.maxAttempts,
          contract_timeout_seconds: request.contract.timeoutSeconds
        }),
    ...(request.recorded === undefined
      ? {}
      : {
          trace_parent: request.recorded.traceParent,
          ...(request.delayMillis === null ? {} : { delay_from: request.recorded.at })
        })
  })
  return `${head.slice(0, -1)},"payload":${request.payload}}`
}

/** About how much of a statement a request takes. */
export const bytesOf = ({ payload }: EncodedRequest): number => payload.length + 400

/** The fields of two requests that differ, in alphabetical order. */
export const differences = (a: EncodedRequest["snapshot"], b: EncodedRequest["snapshot"]): ReadonlyArray<string> =>
  [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .filter((key) => JsonText.canonical(a[key] ?? null) !== JsonText.canonical(b[key] ?? null))
    .sort()

/** By type, organization and key: the order in which all batches take their keys. Requests without a key keep their order. */
export const inKeyOrder = (items: ReadonlyArray<EncodedRequest>): ReadonlyArray<EncodedRequest> =>
  items.toSorted((a, b) => (a.identity === b.identity ? 0 : (a.identity ?? "") < (b.identity ?? "") ? -1 : 1))
