import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import { isJobId } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { traceParent } from "../internal/trace.ts"
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
  Effect.contextWith((context: Context.Context<SqlClient>) => {
    // What was not given is not sent: the statement of the common case has three parameters. As text, because assembling
    // fragments takes this process longer than everything else that an enqueue does here.
    const { contract, executionResourceKey: resourceKey } = request
    const parameters: Array<unknown> = []
    const sent = (value: unknown, type: string) => `$${parameters.push(value)}::${type}`
    const given = (value: string | number | null, type: string, otherwise: string) =>
      value === null ? otherwise : sent(value, type)
    // numbers that were checked, and the same for every job of the contract
    const declared = (column: string, contracts: number | undefined) =>
      contract === null ? column : `CASE WHEN d.version >= ${contract.version} THEN ${column} ELSE ${contracts} END`
    const now = Sql.testInstant(context)
    const at = now === undefined ? "statement_timestamp()" : sent(now, "timestamptz")
    const trace = traceParent(context)
    const text = `
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        created_at, updated_at${trace === null ? "" : ", trace_parent"}${resourceKey === null ? "" : ", execution_resource_key"}
      )
      SELECT
        runledger.uuidv7(), ${contract === null ? "d" : "t"}.job_type, ${sent(request.payloadVersion, "integer")},
        ${given(request.organizationId, "uuid", "NULL")}, ${sent(request.payload, "jsonb")},
        ${given(request.priority, "integer", declared("d.default_priority", contract?.priority))},
        ${given(request.maxAttempts, "integer", declared("d.max_attempts", contract?.maxAttempts))},
        ${given(request.timeoutSeconds, "integer", declared("d.default_timeout_seconds", contract?.timeoutSeconds))},
        ${
          request.delayMillis === null
            ? given(request.nextRunAt, "timestamptz", at)
            : `${at} + ${sent(request.delayMillis, "float8")} * interval '1 millisecond'`
        }, ${at}, ${at}${trace === null ? "" : `, ${sent(trace, "text")}`}${
          resourceKey === null ? "" : `, ${sent(resourceKey, "text")}`
        }
      ${
        contract === null
          ? `FROM runledger.job_definitions d
      WHERE d.job_type = ${sent(request.jobType, "text")} AND d.is_enabled`
          : `FROM (SELECT ${sent(request.jobType, "text")} AS job_type) t
      LEFT JOIN runledger.job_definitions d ON d.job_type = t.job_type
      WHERE d.is_enabled IS NOT FALSE`
      }
      RETURNING id
    `
    return Effect.flatMap(Sql.clientOf(context).unsafe<Row>(text, parameters), ([row]) =>
      row === undefined ? Effect.undefined : isJobId(row.id) ? Effect.succeed(row.id) : Effect.fail(new QueryFailed({}))
    )
  })
