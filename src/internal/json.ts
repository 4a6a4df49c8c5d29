/**
 * JSON on its way into `jsonb`, checked before anything is sent.
 */
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"

/**
 * The most that one payload, checkpoint or output may take, in bytes. The driver refuses a row of more than 16 MiB, and a row
 * that cannot be read would break every claim that meets it; all three together, as `jsonb` prints them, stay below that.
 */
export const maxJsonBytes = 2 * 1024 * 1024

const maxDepth = 256

// jsonb stores numbers as decimals: 1e300 is 301 digits when it is read
const digitsOf = (value: number): number => {
  const magnitude = Math.abs(value)
  return magnitude >= 1e21 || (magnitude < 1e-6 && value !== 0) ? 330 : 0
}

/** How many bytes beyond its text the value takes when read, or why it is not JSON. */
const inspect = (value: unknown, depth: number): number | string => {
  switch (typeof value) {
    case "string":
    case "boolean":
      return 0
    case "number":
      return Number.isFinite(value) ? digitsOf(value) : "must hold finite numbers only"
    case "object": {
      if (value === null) return 0
      if (depth === maxDepth) return "must not be nested deeper than 256 levels, nor contain itself"
      if (!Array.isArray(value)) {
        const prototype: unknown = Object.getPrototypeOf(value)
        if (prototype !== Object.prototype && prototype !== null) return "must hold plain objects only"
      }
      let extra = 0
      for (const item of Array.isArray(value) ? value : Object.values(value)) {
        // JSON drops an undefined property; in an array it would turn into null
        if (item === undefined && !Array.isArray(value)) continue
        const inner = inspect(item, depth + 1)
        if (typeof inner === "string") return inner
        extra += inner
      }
      return extra
    }
    default:
      return "must be JSON"
  }
}

// JSON.stringify escapes exactly these two; an even number of backslashes before the u is text that looks like an escape
const unstorable = /(?:^|[^\\])(?:\\\\)*\\u(?:0000|d[89a-f])/

/** The JSON text of `value`, or the rule that it breaks. */
export const encode = (value: Json): Result.Result<string, string> => {
  const extra = inspect(value, 0)
  if (typeof extra === "string") return Result.fail(extra)
  const text = JSON.stringify(value)
  if (text.includes("\\u") && unstorable.test(text)) {
    return Result.fail("must not contain U+0000 or an unpaired surrogate")
  }
  return (text.length * 3 > maxJsonBytes ? Buffer.byteLength(text) : text.length) + extra > maxJsonBytes
    ? Result.fail(`must not be larger than ${maxJsonBytes} bytes`)
    : Result.succeed(text)
}

/** `value` with the keys of its objects sorted: equal for values that `jsonb` considers equal. */
export const canonical = (value: Json): string =>
  JSON.stringify(value, (_, item: Json) =>
    typeof item === "object" && item !== null && !Array.isArray(item)
      ? Object.fromEntries(Object.entries(item).sort(([a], [b]) => (a < b ? -1 : 1)))
      : item
  )
