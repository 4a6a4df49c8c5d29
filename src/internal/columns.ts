/**
 * One codec per kind of column. `Encoded` is what the driver returns; `Type` is what operations expose.
 */
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"

/** `timestamptz`: the driver yields a `Date`. */
export const Timestamptz = Schema.DateTimeUtcFromDate

/** `bigint`: a whole number that JavaScript can hold exactly. */
export const Int8 = Schema.BigInt.check(
  Schema.isBetweenBigInt({ minimum: BigInt(Number.MIN_SAFE_INTEGER), maximum: BigInt(Number.MAX_SAFE_INTEGER) })
).pipe(
  Schema.decodeTo(Schema.Int, {
    decode: SchemaGetter.transform((n: bigint) => Number(n)),
    encode: SchemaGetter.transform((n: number) => BigInt(n))
  })
)

/** A nullable column. */
export const nullable = Schema.OptionFromNullOr

/** `jsonb`: the driver has parsed the text. SQL `NULL` and the JSON value `null` look the same to it. */
export const Jsonb = Schema.Json
