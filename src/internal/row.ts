/**
 * What the driver returns, checked by hand where rows come by the hundred: a schema takes about fifty microseconds
 * a row. Everything else is decoded by schema.
 */
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type { Json } from "effect/Schema"
import type { JobId, Status } from "../Job.ts"

export const isNumber = Predicate.isNumber
export const isString = Predicate.isString
export const isDate = Predicate.isDate

export const isStringOrNull = (value: unknown): value is string | null => value === null || isString(value)

export const isStrings = (value: unknown): value is ReadonlyArray<string> =>
  Array.isArray(value) && value.every(isString)

export const isBigIntOrNull = (value: unknown): value is bigint | null => value === null || typeof value === "bigint"

/** `uuid`: the driver prints it. */
export const isJobId = (value: unknown): value is JobId => isString(value) && value.length === 36

/** `jsonb`: the driver has parsed it. */
export const isJson = (value: unknown): value is Json => value !== undefined

export const isStatus = (value: unknown): value is Status =>
  value === "PENDING" ||
  value === "LEASED" ||
  value === "SUCCEEDED" ||
  value === "DEAD_LETTERED" ||
  value === "CANCELED"

/** A nullable `bigint` that counts something. */
export const countOf = (value: bigint | null): Option.Option<number> =>
  value === null ? Option.none() : Option.some(Number(value))
