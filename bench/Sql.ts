import * as Effect from "effect/Effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"

export const client: Effect.Effect<SqlClient, never, SqlClient> = SqlClient.useSync((sql) => sql)

/** A statement without parameters, sent as it is. */
export const rows = (text: string): Effect.Effect<ReadonlyArray<Row>, SqlError, SqlClient> =>
  SqlClient.use((sql) => sql.unsafe<Row>(text).unprepared)

/** {@link rows}, for its effect. */
export const run = (text: string): Effect.Effect<void, SqlError, SqlClient> => Effect.asVoid(rows(text))
