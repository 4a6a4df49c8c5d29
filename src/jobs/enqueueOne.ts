import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { isJobId } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import type { JobId } from "../Job.ts"
import { QueryFailed } from "../Reason.ts"
import type { EncodedRequest } from "./enqueueRequest.ts"

/**
 * Enqueues one job without a key, queued: the most frequent enqueue, which has nothing to find, to order or to store beside the
 * job. It says the same as the statement for many, without its steps. Returns `undefined` if the definition is missing
 * or disabled.
 */
export const insertOne = Effect.fnUntraced(function* (
  request: EncodedRequest
): Effect.fn.Return<JobId | undefined, SqlError | QueryFailed, SqlClient> {
  const { sql, instant } = yield* Sql.clocked
  // what was not given is not sent: the statement of the common case has three parameters
  const given = (value: string | number | null, type: string, otherwise: string) =>
    value === null ? sql.literal(otherwise) : sql`${value}::${sql.literal(type)}`
  const dueAt =
    request.nextRunAt === null && request.delayMillis !== null
      ? sql`${instant} + ${request.delayMillis}::float8 * interval '1 millisecond'`
      : request.nextRunAt === null
        ? instant
        : sql`${request.nextRunAt}::timestamptz`
  const [row] = yield* sql`
    INSERT INTO runledger.job_queue (
      id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
      created_at, updated_at
    )
    SELECT
      runledger.uuidv7(), d.job_type, ${request.payloadVersion}::integer, ${given(request.organizationId, "uuid", "NULL")},
      ${request.payload}::jsonb, ${given(request.priority, "integer", "d.default_priority")},
      ${given(request.maxAttempts, "integer", "d.max_attempts")},
      ${given(request.timeoutSeconds, "integer", "d.default_timeout_seconds")}, ${dueAt}, ${instant}, ${instant}
    FROM runledger.job_definitions d
    WHERE d.job_type = ${request.jobType} AND d.is_enabled
    RETURNING id
  `
  if (row === undefined) return undefined
  return isJobId(row.id) ? row.id : yield* new QueryFailed({})
})
