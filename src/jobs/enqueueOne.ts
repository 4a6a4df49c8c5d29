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
  request: EncodedRequest,
  traceParent: string | null
): Effect.Effect<JobId | undefined, SqlError | QueryFailed, SqlClient> =>
  Effect.flatMap(Sql.clocked, ({ sql, instant }) => {
    // what was not given is not sent: the statement of the common case has three parameters
    const given = (value: string | number | null, type: string, otherwise: string) =>
      value === null ? sql.literal(otherwise) : sql`${value}::${sql.literal(type)}`
    const { contract } = request
    // numbers that were checked, and the same for every job of the contract
    const declared = (column: string, contracts: number | undefined) =>
      contract === null ? column : `CASE WHEN d.version >= ${contract.version} THEN ${column} ELSE ${contracts} END`
    const dueAt =
      request.nextRunAt !== null
        ? sql`${request.nextRunAt}::timestamptz`
        : request.delayMillis !== null
          ? sql`${instant} + ${request.delayMillis}::float8 * interval '1 millisecond'`
          : instant
    const inserted = sql`
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        created_at, updated_at${sql.literal(traceParent === null ? "" : ", trace_parent")}
      )
      SELECT
        runledger.uuidv7(), ${sql.literal(contract === null ? "d" : "t")}.job_type, ${request.payloadVersion}::integer,
        ${given(request.organizationId, "uuid", "NULL")}, ${request.payload}::jsonb,
        ${given(request.priority, "integer", declared("d.default_priority", request.contract?.priority))},
        ${given(request.maxAttempts, "integer", declared("d.max_attempts", request.contract?.maxAttempts))},
        ${given(request.timeoutSeconds, "integer", declared("d.default_timeout_seconds", request.contract?.timeoutSeconds))},
        ${dueAt}, ${instant}, ${instant}${traceParent === null ? sql.literal("") : sql`, ${traceParent}::text`}
      ${
        contract === null
          ? sql`FROM runledger.job_definitions d
      WHERE d.job_type = ${request.jobType} AND d.is_enabled`
          : sql`FROM (SELECT ${request.jobType}::text AS job_type) t
      LEFT JOIN runledger.job_definitions d ON d.job_type = t.job_type
      WHERE d.is_enabled IS NOT FALSE`
      }
      RETURNING id
    `
    return Effect.flatMap(inserted, ([row]) =>
      row === undefined ? Effect.undefined : isJobId(row.id) ? Effect.succeed(row.id) : Effect.fail(new QueryFailed({}))
    )
  })
