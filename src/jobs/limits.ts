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
