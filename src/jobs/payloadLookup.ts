import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { Jsonb, Timestamptz } from "../internal/columns.ts"
import { inScope, invalidScope } from "../internal/scope.ts"
import * as Sql from "../internal/sql.ts"
import { JobId } from "../Job.ts"
import { type QueryError, reading } from "../QueryError.ts"
import type { Owner } from "../TenantScope.ts"
import { maxKeyBytes, maxTypeBytes } from "./limits.ts"
import type { GetReason } from "./read.ts"

/** A payload that was found, and whose it is. */
export class JobPayload extends Schema.Class<JobPayload>("effect-runledger/JobPayload")({
  jobId: JobId,
  payload: Jsonb,
  /** The version of the contract that encoded it. */
  payloadVersion: Schema.Int,
  createdAt: Timestamptz
}) {}

const decodePayload = Schema.decodeUnknownEffect(
  JobPayload.pipe(Schema.encodeKeys({ jobId: "id", payloadVersion: "payload_version", createdAt: "created_at" }))
)

/** Which job. */
export interface PayloadByKeyOptions {
  readonly scope: Owner
  /** Exactly this type. */
  readonly jobType: string
  readonly idempotencyKey: string
}

/**
 * The payload of the job with this idempotency key, as it is now; `None` if there is none of this type in exactly this scope.
 * Keys are unique within type and organization, so there is no look-up over all organizations.
 *
 * Fails with `InvalidArgument` or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * const found = Jobs.payloadByIdempotencyKey({
 *   scope: TenantScope.global,
 *   jobType: "email.send",
 *   idempotencyKey: "order:4711"
 * })
 * ```
 */
export const payloadByIdempotencyKey: (
  options: PayloadByKeyOptions
) => Effect.Effect<Option.Option<JobPayload>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* ({
  scope,
  jobType,
  idempotencyKey
}: PayloadByKeyOptions) {
  const invalid =
    invalidScope(scope) ??
    Args.name("jobType", jobType, maxTypeBytes) ??
    Args.name("idempotencyKey", idempotencyKey, maxKeyBytes)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  const [row] = yield* sql`
    SELECT q.id, q.payload, q.payload_version, q.created_at
    FROM runledger.job_queue q
    WHERE q.job_type = ${jobType} AND ${inScope(sql, scope, "q")} AND q.idempotency_key = ${idempotencyKey}
  `
  return row === undefined ? Option.none() : Option.some(yield* decodePayload(row))
}, reading("Jobs.payloadByIdempotencyKey"))

/** Which run, and how far to look. */
export interface PayloadForRunOptions {
  readonly scope: Owner
  /** Exactly this type. */
  readonly jobType: string
  /** What the member `run_id` of the payload is: a UUID. */
  readonly runId: string
  /** How many of the newest jobs are looked at: 1 to 100,000; default 10,000. */
  readonly within?: number | undefined
}

/**
 * The payload of the newest job of this type whose payload has this `run_id`, a convention of applications that number their own
 * runs; `None` if none of the newest `within` jobs is one: those of the organization, or, in the global scope, those of
 * everybody.
 *
 * No index serves it, because every write of a job would pay for it; the cost is that of reading `within` jobs from the newest
 * on, and less if it is found sooner. What must be found however old it is belongs under an idempotency key.
 *
 * Fails with `InvalidArgument` or what any read can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { Jobs, TenantScope } from "effect-runledger"
 *
 * declare const organizationId: string
 * declare const runId: string
 * const found = Jobs.latestPayloadForRun({
 *   scope: TenantScope.organization(organizationId),
 *   jobType: "profile.export",
 *   runId
 * })
 * ```
 */
export const latestPayloadForRun: (
  options: PayloadForRunOptions
) => Effect.Effect<Option.Option<JobPayload>, QueryError<GetReason>, SqlClient> = Effect.fnUntraced(function* ({
  scope,
  jobType,
  runId,
  within = 10_000
}: PayloadForRunOptions) {
  const invalid =
    invalidScope(scope) ??
    Args.name("jobType", jobType, maxTypeBytes) ??
    Args.uuid("runId", runId) ??
    Args.integer("within", within, 1, 100_000)
  if (invalid !== undefined) return yield* invalid
  const sql = yield* Sql.client
  // Ids sort by creation, so the walk along an index of ids is from the newest on, and ends with the first match. A range,
  // because after an equality the order by id alone could be had from the primary key, which walks over everybody's jobs.
  const newest =
    scope._tag === "Organization"
      ? sql`
      WHERE q.organization_id BETWEEN ${scope.organizationId}::uuid AND ${scope.organizationId}::uuid AND q.job_type <> ''
      ORDER BY q.organization_id DESC, q.id DESC`
      : sql.literal("ORDER BY q.id DESC")
  const [row] = yield* sql`
    WITH newest AS MATERIALIZED (
      SELECT q.id, q.job_type, q.organization_id, q.payload, q.payload_version, q.created_at
      FROM runledger.job_queue q
      ${newest}
      LIMIT ${within}
    )
    SELECT n.id, n.payload, n.payload_version, n.created_at
    FROM newest n
    WHERE n.job_type = ${jobType} AND ${inScope(sql, scope, "n")}
      AND CASE WHEN n.job_type = ${jobType} THEN lower(n.payload ->> 'run_id') = ${runId.toLowerCase()} END
    LIMIT 1
  `
  return row === undefined ? Option.none() : Option.some(yield* decodePayload(row))
}, reading("Jobs.latestPayloadForRun"))
