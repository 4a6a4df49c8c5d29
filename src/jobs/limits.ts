import * as DateTime from "effect/DateTime"

/** The most rows that one statement takes. */
export const maxBatch = 1000

/** The longest job type, in bytes. */
export const maxTypeBytes = 128

/** The longest worker id, in bytes. */
export const maxWorkerBytes = 255

/** The longest idempotency key, in bytes: key, type and organization must fit an index entry. */
export const maxKeyBytes = 512

/** The longest failure code, in bytes. */
export const maxCodeBytes = 255

/** The longest delay: a hundred years. */
export const maxDelayMillis = 36_525 * 24 * 60 * 60 * 1000

/** The instants that have an ISO text of four digits for the year, which PostgreSQL reads. */
export const minInstant = DateTime.makeUnsafe("0001-01-01T00:00:00Z")
export const maxInstant = DateTime.makeUnsafe("9999-12-31T23:59:59.999Z")
