/**
 * What is declared about a job type, checked before anything is sent.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Args from "../internal/arguments.ts"
import { invalidRetry } from "../internal/retry.ts"
import { maxTypeBytes } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"

/**
 * When a failed attempt is tried again: after `initial`, then `factor` times as long each time, at most `max`; spread at
 * random by `jitter`, a fraction of the delay in both directions. Default: 10 s, 20 s, 40 s, ... up to 5 minutes, spread by a
 * tenth.
 */
export interface RetryPolicy {
  /** 1 ms to 24 days. Default: 10 seconds. */
  readonly initial?: Duration.Input | undefined
  /** 1 to 100. Default: 2. */
  readonly factor?: number | undefined
  /** At least `initial`, at most 24 days. Default: 5 minutes, or `initial` if that is longer. */
  readonly max?: Duration.Input | undefined
  /** 0 to 1. Default: 0.1. */
  readonly jitter?: number | undefined
  /** Exact delays for failure codes, of 1 ms to 24 days: neither grown nor spread. */
  readonly overrides?: Readonly<Record<string, Duration.Input>> | undefined
}

/** What can be declared about a job type. */
export interface DefinitionSettings {
  /** The version of the contract: at least 1, the default. */
  readonly version?: number | undefined
  /** How many attempts a run has: at least 1. Default: 3. */
  readonly maxAttempts?: number | undefined
  /** How long an attempt may run, rounded up to seconds: at least 1 second. Default: 5 minutes. */
  readonly timeout?: Duration.Input | undefined
  /** -100 to 100, the default 0; higher goes first. */
  readonly priority?: number | undefined
  /** Whether new jobs are taken. Default: true. */
  readonly isEnabled?: boolean | undefined
  readonly retry?: RetryPolicy | undefined
}

/** The columns that a declaration fills. */
export const settingColumns = `
  job_type, version, max_attempts, default_timeout_seconds, default_priority, is_enabled, retry_initial_ms, retry_factor,
  retry_max_ms, retry_jitter, retry_overrides`

/** What a contract decides; whether the type is enabled belongs to the operator. */
export const contractsColumns = `version = EXCLUDED.version,
        max_attempts = EXCLUDED.max_attempts,
        default_timeout_seconds = EXCLUDED.default_timeout_seconds,
        default_priority = EXCLUDED.default_priority,
        retry_initial_ms = EXCLUDED.retry_initial_ms,
        retry_factor = EXCLUDED.retry_factor,
        retry_max_ms = EXCLUDED.retry_max_ms,
        retry_jitter = EXCLUDED.retry_jitter,
        retry_overrides = EXCLUDED.retry_overrides,
        updated_at = EXCLUDED.updated_at`

/** A declaration as JSON, for `jsonb_to_record`. */
export const recordColumns = `
  job_type text, version integer, max_attempts integer, default_timeout_seconds integer, default_priority integer,
  is_enabled boolean, retry_initial_ms integer, retry_factor float8, retry_max_ms integer, retry_jitter float8,
  retry_overrides jsonb`

export const invalid = (argument: string, rule: string) => new InvalidArgument({ argument, rule })

/** The settings that are given, checked, as JSON. `path` names them in a violation. */
export const encodeGiven = Effect.fnUntraced(function* (
  jobType: string,
  settings: DefinitionSettings,
  path = ""
): Effect.fn.Return<string, InvalidArgument> {
  const { version, maxAttempts, timeout, priority, retry } = settings
  const timeoutMillis = timeout === undefined ? undefined : Args.millis(timeout)
  const timeoutSeconds = timeoutMillis === undefined ? undefined : Math.ceil(timeoutMillis / 1000)
  const refused =
    Args.name(`${path}jobType`, jobType, maxTypeBytes) ??
    (version === undefined ? undefined : Args.integer(`${path}version`, version, 1)) ??
    (maxAttempts === undefined ? undefined : Args.integer(`${path}maxAttempts`, maxAttempts, 1)) ??
    (timeout === undefined ? undefined : Args.integer(`${path}timeout`, timeoutSeconds ?? Number.NaN, 1)) ??
    (priority === undefined ? undefined : Args.integer(`${path}priority`, priority, -100, 100))
  const refusedRetry = refused ?? (retry === undefined ? undefined : invalidRetry(retry))
  if (refusedRetry !== undefined) {
    const { argument, rule } = refusedRetry
    return yield* refused === undefined ? invalid(`${path}${argument}`, rule) : refusedRetry
  }
  const millis = (input: Duration.Input | undefined) => (input === undefined ? undefined : Args.millis(input))
  return JSON.stringify({
    job_type: jobType,
    version,
    max_attempts: maxAttempts,
    default_timeout_seconds: timeoutSeconds,
    default_priority: priority,
    is_enabled: settings.isEnabled,
    retry_initial_ms: millis(retry?.initial),
    retry_factor: retry?.factor,
    retry_max_ms: millis(retry?.max),
    retry_jitter: retry?.jitter,
    retry_overrides:
      retry?.overrides === undefined
        ? undefined
        : Object.fromEntries(Object.entries(retry.overrides).map(([code, input]) => [code, millis(input)]))
  })
})

/** {@link encodeGiven}, with the defaults of the schema for what is not given. */
export const encode = (
  jobType: string,
  settings: DefinitionSettings,
  path = ""
): Effect.Effect<string, InvalidArgument> => {
  const initial = settings.retry?.initial ?? "10 seconds"
  const initialMillis = Args.millis(initial) ?? 0
  const complete: DefinitionSettings = {
    version: settings.version ?? 1,
    maxAttempts: settings.maxAttempts ?? 3,
    timeout: settings.timeout ?? "5 minutes",
    priority: settings.priority ?? 0,
    isEnabled: settings.isEnabled ?? true,
    retry: {
      initial,
      factor: settings.retry?.factor ?? 2,
      max: settings.retry?.max ?? Duration.millis(Math.max(300_000, initialMillis)),
      jitter: settings.retry?.jitter ?? 0.1,
      overrides: settings.retry?.overrides ?? {}
    }
  }
  return encodeGiven(jobType, complete, path)
}
