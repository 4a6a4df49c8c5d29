import * as Effect from "effect/Effect"
import type { Fragment } from "effect/sql/Statement"
import { isReadCommitted, NotReadCommitted } from "../internal/isolation.ts"
import { isNumber } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { QueryFailed } from "../Reason.ts"

/** Deletes up to `limit` intents that became jobs before an instant, oldest first, past those that others hold. */
export const deleteBefore = Effect.fnUntraced(function* (cutoff: Fragment, limit: number) {
  const sql = yield* Sql.client
  const rows = yield* sql`
    WITH locked AS MATERIALIZED (
      SELECT n.id
      FROM runledger.job_enqueue_intents n
      WHERE n.promoted_at < ${cutoff}
        AND ${sql.literal(isReadCommitted)}
      ORDER BY n.promoted_at, n.id
      LIMIT ${limit}
      FOR UPDATE SKIP LOCKED
    ), deleted AS (
      DELETE FROM runledger.job_enqueue_intents n
      WHERE n.id = ANY (ARRAY(SELECT id FROM locked))
      RETURNING n.id
    )
    SELECT ${sql.literal(isReadCommitted)} AS is_read_committed, count(*)::int4 AS deleted FROM deleted
  `
  const [row] = rows
  if (row?.is_read_committed !== true) return yield* new NotReadCommitted()
  return isNumber(row.deleted) ? row.deleted : yield* new QueryFailed({})
})
