/**
 * What a handler sees of the steps before its own.
 */
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { Jsonb, nullable } from "../internal/columns.ts"
import * as Sql from "../internal/sql.ts"
import type { JobId } from "../Job.ts"
import { type FanOut, FanOut as FanOutSchema, TerminalStepStatus } from "../WorkflowRun.ts"

/** A step that this one has waited for, as it ended. */
export interface Prerequisite {
  readonly stepKey: string
  /** Its place among many, if a fan-out made it. */
  readonly fanOut: Option.Option<FanOut>
  readonly status: TerminalStepStatus
  /** What it left, as JSON: `null` if that was nothing, or if it did not succeed. */
  readonly output: Schema.Json
}

/** How a step ended that this one has waited for, and what it left. */
export interface StepResult<A> {
  readonly stepKey: string
  readonly status: TerminalStepStatus
  /** `Some` if it succeeded. */
  readonly output: Option.Option<A>
}

const decode = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      stepKey: Schema.String,
      fanOut: nullable(FanOutSchema),
      status: TerminalStepStatus,
      output: Jsonb
    }).pipe(Schema.encodeKeys({ stepKey: "step_key", fanOut: "fan_out" }))
  )
)

/** The prerequisites of the step of a job, in the order of their keys and places; none for a job of no workflow. */
export const prerequisitesOf = (
  jobId: JobId
): Effect.Effect<ReadonlyArray<Prerequisite>, SqlError | Schema.SchemaError, SqlClient> =>
  Effect.gen(function* () {
    const sql = yield* Sql.client
    const rows = yield* sql`
      SELECT
        p.step_key, p.status,
        CASE WHEN p.fan_out_key IS NOT NULL THEN jsonb_build_object('key', p.fan_out_key, 'index', p.fan_out_index) END AS fan_out,
        p.output
      FROM runledger.workflow_steps p
      WHERE p.id = ANY ((
        SELECT s.prerequisite_step_ids
        FROM runledger.job_queue q
        CROSS JOIN LATERAL (SELECT * FROM runledger.workflow_steps s WHERE s.id = q.workflow_step_id LIMIT 1) s
        WHERE q.id = ${jobId}::uuid
      )::uuid[])
      ORDER BY p.fan_out_key, p.fan_out_index, p.step_key
    `
    return yield* decode(rows)
  })
