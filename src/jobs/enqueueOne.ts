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
export const insertOne = (
  request: EncodedRequest
): Effect.Effect<JobId | undefined, SqlError | QueryFailed, SqlClient> =>
  Effect.flatMap(Sql.clocked, ({ sql, instant }) => {
    // what was not given is not sent: the statement of the common case has three parameters
    const given = (value: string | number | null, type: string, otherwise: string) =>
      value === null ? sql.literal(otherwise) : sql`${value}::${sql.literal(type)}`
    const dueAt =
      request.nextRunAt !== null
        ? sql`${request.nextRunAt}::timestamptz`
        : request.delayMillis !== null
          ? sql`${instant} + ${request.delayMillis}::float8 * interval '1 millisecond'`
          : instant
    const inserted = sql`
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        created_at, updated_at
      )
      SELECT
        runledger.uuidv7(), d.job_type, ${request.payloadVersion}::integer,
        ${given(request.organizationId, "uuid", "NULL")}, ${request.payload}::jsonb,
        ${given(request.priority, "integer", "d.default_priority")},
        ${given(request.maxAttempts, "integer", "d.max_attempts")},
        ${given(request.timeoutSeconds, "integer", "d.default_timeout_seconds")}, ${dueAt}, ${instant}, ${instant}
      FROM runledger.job_definitions d
      WHERE d.job_type = ${request.jobType} AND d.is_enabled
      RETURNING id
    `
    return Effect.flatMap(inserted, ([row]) =>
      row === undefined ? Effect.undefined : isJobId(row.id) ? Effect.succeed(row.id) : Effect.fail(new QueryFailed({}))
    )
  })
