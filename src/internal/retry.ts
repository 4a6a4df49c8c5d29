/**
 * The rules of a retry policy.
 */
import type * as Duration from "effect/Duration"
import type { RetryPolicy } from "../JobDefinitions.ts"
import { maxCodeBytes } from "../jobs/limits.ts"
import { InvalidArgument } from "../Reason.ts"
import * as Args from "./arguments.ts"

const invalid = (argument: string, rule: string) => new InvalidArgument({ argument, rule })

const invalidDelay = (argument: string, input: Duration.Input | undefined): InvalidArgument | undefined => {
  if (input === undefined) return undefined
  const millis = Args.millis(input)
  return millis === undefined || millis < 1 || millis > Args.maxInt
    ? invalid(argument, "must last between 1 and 2,147,483,647 milliseconds")
    : undefined
}

/** The rule that the policy breaks. */
export const invalidRetry = ({
  initial,
  max,
  factor,
  jitter,
  overrides = {}
}: RetryPolicy): InvalidArgument | undefined => {
  const refused = invalidDelay("retry.initial", initial) ?? invalidDelay("retry.max", max)
  if (refused !== undefined) return refused
  if (initial !== undefined && max !== undefined && (Args.millis(max) ?? 0) < (Args.millis(initial) ?? 0)) {
    return invalid("retry.max", "must not be shorter than retry.initial")
  }
  if (factor !== undefined && !(factor >= 1 && factor <= 100)) {
    return invalid("retry.factor", "must be between 1 and 100")
  }
  if (jitter !== undefined && !(jitter >= 0 && jitter <= 1)) {
    return invalid("retry.jitter", "must be between 0 and 1")
  }
  for (const [code, input] of Object.entries(overrides)) {
    const bad = Args.name("retry.overrides", code, maxCodeBytes) ?? invalidDelay("retry.overrides", input)
    if (bad !== undefined) return bad
  }
  return undefined
}
