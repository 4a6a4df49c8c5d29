/**
 * Reads under settings of their own.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { QueryFailed, type ReadReason, Unavailable } from "../Reason.ts"
import * as Sql from "./sql.ts"
import { transaction } from "./transaction.ts"

/** Settings of PostgreSQL by name. Of a timeout, a stricter one of the caller's is kept. */
export type Settings = Readonly<Record<string, string>>

/**
 * The plans of reads that are rare and wide. Statistics of a queue are always wrong, and one that says that everything is
 * pending would have the whole history read to count the little that is; nor is such a statement worth to be compiled.
 */
export const byIndex: Settings = { enable_seqscan: "off", jit: "off" }

/**
 * Runs `self` in a transaction of its own with these settings; inside a caller's transaction in a savepoint, so that a failure
 * leaves it usable, and with the caller's settings restored.
 */
export const readWith =
  (settings: Settings) =>
  <A, R>(
    self: Effect.Effect<A, SqlError | Schema.SchemaError, R>
  ): Effect.Effect<A, ReadReason | Schema.SchemaError, R | SqlClient> =>
    Effect.gen(function* () {
      const sql = yield* Sql.client
      const joined = yield* Sql.inTransaction(sql)
      return yield* transaction(
        Effect.gen(function* () {
          const before = yield* sql`
            SELECT
              s.name, current_setting(s.name) AS value,
              CASE
                WHEN s.name NOT LIKE '%_timeout' THEN set_config(s.name, s.value, true)
                WHEN current_setting(s.name)::interval BETWEEN interval '1 millisecond' AND s.value::interval THEN NULL
                ELSE set_config(s.name, s.value, true)
              END AS set
            FROM jsonb_each_text(${JSON.stringify(settings)}::jsonb) AS s (name, value)
          `
          const result = yield* self
          if (joined) {
            const callers = Object.fromEntries((yield* decodeSettings(before)).map(({ name, value }) => [name, value]))
            yield* sql`
              SELECT set_config(s.name, s.value, true)
              FROM jsonb_each_text(${JSON.stringify(callers)}::jsonb) AS s (name, value)
            `
          }
          return result
        })
      )
    }).pipe(
      // nothing was written, so nothing can be unknown but the answer
      Effect.catchTags({
        OutcomeUnknown: ({ sqlState, source }) => {
          const reason = new Unavailable({ origin: "database", sqlState })
          reason.source = source
          return Effect.fail(reason)
        },
        ConstraintViolation: ({ sqlState, source }) => {
          const reason = new QueryFailed({ sqlState })
          reason.source = source
          return Effect.fail(reason)
        }
      })
    )

const decodeSettings = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ name: Schema.String, value: Schema.String }))
)
