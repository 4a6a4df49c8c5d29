/**
 * Rules for arguments, checked before anything is sent. Each returns the violation, or `undefined`.
 */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import { InvalidArgument } from "../Reason.ts"

export const maxInt = 2_147_483_647

const invalid = (argument: string, rule: string) => new InvalidArgument({ argument, rule })

// what the schema's checks take for white space, and what JavaScript trims
const blank = /^[\s\u0085]*$/u
const unstorable = /\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/

/** Whether the text shows nothing. */
export const isBlank = (value: string): boolean => blank.test(value)

/** Text that is not blank, at most `maxBytes` of UTF-8, and storable. */
export const name = (argument: string, value: string, maxBytes: number): InvalidArgument | undefined =>
  typeof value !== "string" || isBlank(value)
    ? invalid(argument, "must not be blank")
    : unstorable.test(value)
      ? invalid(argument, "must not contain U+0000 or an unpaired surrogate")
      : value.length * 3 > maxBytes && Buffer.byteLength(value) > maxBytes
        ? invalid(argument, `must not be longer than ${maxBytes} bytes`)
        : undefined

/** A whole number between `minimum` and `maximum`. */
export const integer = (
  argument: string,
  value: number,
  minimum: number,
  maximum: number = maxInt
): InvalidArgument | undefined =>
  Number.isInteger(value) && value >= minimum && value <= maximum
    ? undefined
    : invalid(argument, `must be a whole number between ${minimum} and ${maximum}`)

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** A UUID in its usual form. */
export const uuid = (argument: string, value: string): InvalidArgument | undefined =>
  uuidPattern.test(value) ? undefined : invalid(argument, "must be a UUID")

/** A UUID as PostgreSQL prints it, for ids that are compared as text. */
export const printedUuid = (argument: string, value: string): InvalidArgument | undefined =>
  uuidPattern.test(value) && value === value.toLowerCase()
    ? undefined
    : invalid(argument, "must be a UUID in lower case")

/** The instants that have an ISO text of four digits for the year, which PostgreSQL reads. */
export const minInstant = DateTime.makeUnsafe("0001-01-01T00:00:00Z")
export const maxInstant = DateTime.makeUnsafe("9999-12-31T23:59:59.999Z")

/** An instant between {@link minInstant} and {@link maxInstant}. */
export const instant = (argument: string, value: DateTime.Utc): InvalidArgument | undefined =>
  DateTime.isLessThan(value, minInstant) || DateTime.isGreaterThan(value, maxInstant)
    ? invalid(argument, "must lie between the years 1 and 9999")
    : undefined

/** A number of rows between 1 and `maximum`. */
export const atMost = (argument: string, length: number, maximum: number): InvalidArgument | undefined =>
  length <= maximum ? undefined : invalid(argument, `must not hold more than ${maximum} items`)

/** Whole milliseconds, rounded up; `undefined` if the duration is not finite. */
export const millis = (value: Duration.Input): number | undefined => {
  const duration = Duration.fromInput(value)
  if (duration._tag === "None") return undefined
  const exact = Duration.toMillis(duration.value)
  return Number.isFinite(exact) ? Math.ceil(exact) : undefined
}

/**
 * Free text of a handler (messages, reasons), made storable rather than refused: a failure must be recorded even if its
 * message is odd. At most 16,384 characters.
 */
export const diagnostic = (text: string): string => text.slice(0, 16_384).replaceAll("\0", "\ufffd").toWellFormed()
