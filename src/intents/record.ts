import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { chunksOf } from "../internal/chunks.ts"
import { nullable } from "../internal/columns.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isJson } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { traceParent } from "../internal/trace.ts"
import { transaction } from "../internal/transaction.ts"
import { mayWait, patience } from "../internal/waiting.ts"
import { JobId } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import { IntentId, IntentStatus } from "../JobIntent.ts"
import { IntentConflict, InvalidIntent } from "../JobIntentReason.ts"
import { requestSnapshot } from "../jobs/enqueue.ts"
import {
  bytesOf,
  type EncodedRequest,
  type EnqueueOptions,
  type EnqueueRequest,
  encode,
  inKeyOrder,
  recordOf,
  type TypedRequest
} from "../jobs/enqueueRequest.ts"
import { maxBatch } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, Unavailable, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"

/**
 * What the job of an intent is given beside its payload; see `Jobs.EnqueueOptions`. The key is not optional here: it is what
 * keeps an intent from becoming two jobs. A `delay` counts from the recording.
 */
export interface RecordOptions extends EnqueueOptions {
  readonly idempotencyKey: string
}

/** One intent of a batch. */
export interface RecordRequest extends EnqueueRequest {
  readonly idempotencyKey: string
}

/** One typed intent of a batch, made by {@link request}. */
export interface TypedRecordRequest extends TypedRequest {
  readonly idempotencyKey: string
}

/**
 * A typed intent for a batch.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, JobIntents } from "effect-runledger"
 *
 * class Greet extends Job.make("greet", { payload: { name: Schema.String } }) {}
 *
 * const recorded = JobIntents.recordMany(
 *   ["ada", "grace"].map((name) => JobIntents.request(Greet, { name }, { idempotencyKey: `greet:${name}` }))
 * )
 * ```
 */
export const request = <C extends AnyContract>(
  contract: C,
  payload: C["payload"]["Type"],
  options: Omit<RecordOptions, "payloadVersion">
): TypedRecordRequest => ({ ...options, contract, payload })

/** The intent that a request led to, and whether it was there already; then as it stood when it was found. */
export interface Recorded {
  readonly intentId: IntentId
  readonly disposition: "inserted" | "existing"
  /** A `CONFLICTED` intent stays so: its key is used up. */
  readonly status: IntentStatus
  /** The job, if it is `PROMOTED`. */
  readonly promotedJobId: Option.Option<JobId>
}

/** What {@link recordMany} can fail with as a whole. */
export type RecordManyReason = InvalidArgument | InvalidIntent | UnsupportedIsolation | WriteReason

/** What {@link record} can fail with. */
export type RecordReason = RecordManyReason | IntentConflict

/**
 * Records that a job is to be enqueued as soon as its type is declared and enabled; {@link promote} does so later. Inside
 * `sql.withTransaction` the intent exists if and only if the caller's rows do.
 *
 * Nothing is asked of the type: it may be unknown, or disabled. What is not given is filled in by the definition of the day on
 * which the intent is promoted. The request is the same as that of `Jobs.enqueue` with the same arguments, so each finds what the
 * other left: a job that was enqueued with this key and request meanwhile becomes the job of the intent.
 *
 * A retry with the same request is answered with the first intent, whatever became of it; a different request fails and names
 * the fields that differ.
 *
 * Fails with `InvalidArgument` or `InvalidIntent` (before anything is sent), `IntentConflict`, `UnsupportedIsolation` (a
 * transaction that is not READ COMMITTED), `Unavailable` (another transaction held the key for five seconds), or what any write
 * can fail with.
 *
 * Writes `job_enqueue_intents`; reads nothing else. Finding an intent does not lock it. It may wait for another transaction that
 * records the same key; so a transaction that records and enqueues should record first.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { JobIntents } from "effect-runledger"
 * import { SqlClient } from "effect/sql"
 *
 * const signUp = Effect.fn("signUp")(function* (email: string) {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql.withTransaction(
 *     Effect.gen(function* () {
 *       // another team deploys the job next week
 *       yield* JobIntents.record("crm.import", { email }, { idempotencyKey: `sign-up:${email}` })
 *       yield* sql`INSERT INTO users ${sql.insert({ email })}`
 *     })
 *   )
 * })
 * ```
 */
export const record: {
  <C extends AnyContract>(
    contract: C,
    payload: C["payload"]["Type"],
    options: Omit<RecordOptions, "payloadVersion">
  ): Effect.Effect<Recorded, QueryError<RecordReason>, SqlClient>
  (
    jobType: string,
    payload: Schema.Json,
    options: RecordOptions
  ): Effect.Effect<Recorded, QueryError<RecordReason>, SqlClient>
} = (job: string | AnyContract, payload: unknown, options: RecordOptions) =>
  writing("JobIntents.record")(
    Effect.gen(function* (): Effect.fn.Return<Recorded, RecordReason | SqlError, SqlClient> {
      if (typeof job === "string" && !isJson(payload)) {
        return yield* new InvalidArgument({ argument: "payload", rule: "must be JSON" })
      }
      const given: RecordRequest | TypedRecordRequest =
        typeof job !== "string"
          ? { ...options, contract: job, payload }
          : { ...options, jobType: job, payload: isJson(payload) ? payload : null }
      const [answer] = yield* recordAll([yield* checked(given, 0, "")])
      return yield* answer === undefined ? new QueryFailed({}) : Effect.fromResult(answer)
    })
  )

/**
 * Records many intents, each answered on its own, in the order given: the intent it led to, or the conflict. The same key may
 * stand in a batch twice; the later request is compared with the earlier.
 *
 * Up to 1,000 intents and 8 MiB with different keys are one statement. Others run in one transaction, a savepoint of the
 * caller's if there is one: if the database fails, nothing is recorded.
 *
 * Fails as a whole as {@link record} does, except for `IntentConflict`. Locks and writes as {@link record}, keys in one order,
 * so that batches in opposite order do not deadlock.
 *
 * @example
 * ```ts
 * import { JobIntents } from "effect-runledger"
 *
 * const recorded = JobIntents.recordMany(
 *   ["ada", "grace"].map((name) => ({ jobType: "greet", payload: { name }, idempotencyKey: `greet:${name}` }))
 * )
 * ```
 */
export const recordMany: (
  requests: ReadonlyArray<RecordRequest | TypedRecordRequest>
) => Effect.Effect<ReadonlyArray<Result.Result<Recorded, IntentConflict>>, QueryError<RecordManyReason>, SqlClient> =
  Effect.fnUntraced(function* (requests: ReadonlyArray<RecordRequest | TypedRecordRequest>) {
    const encoded = yield* Effect.forEach(requests, (given, ordinal) =>
      checked(given, ordinal, `requests[${ordinal}].`)
    )
    return yield* recordAll(encoded)
  }, writing("JobIntents.recordMany"))

type Answer = Result.Result<Recorded, IntentConflict>

const codes: ReadonlyMap<string, InvalidIntent["code"]> = new Map([
  ["jobType", "job.invalid_job_type"],
  ["idempotencyKey", "job.intent_invalid_idempotency_key"],
  ["maxAttempts", "job.intent_invalid_max_attempts"],
  ["timeout", "job.intent_invalid_timeout"]
])

const checked = (
  given: RecordRequest | TypedRecordRequest,
  ordinal: number,
  path: string
): Effect.Effect<EncodedRequest, InvalidArgument | InvalidIntent> => {
  // without a key it would be a request for any number of jobs
  const key: unknown = given.idempotencyKey
  const encoded =
    typeof key === "string"
      ? encode(given, ordinal, path)
      : Result.fail(new InvalidArgument({ argument: `${path}idempotencyKey`, rule: "must not be blank" }))
  if (Result.isSuccess(encoded)) return Effect.succeed(encoded.success)
  const { argument, rule } = encoded.failure
  const code = codes.get(argument.slice(path.length))
  return Effect.fail(code === undefined ? encoded.failure : new InvalidIntent({ argument, rule, code }))
}

const recordAll = Effect.fnUntraced(function* (requests: ReadonlyArray<EncodedRequest>) {
  const answers = new Map<number, Answer>()
  const firsts: Array<EncodedRequest> = []
  const repeats: Array<EncodedRequest> = []
  const known = new Set<string | undefined>()
  for (const encoded of requests) {
    if (known.has(encoded.identity)) repeats.push(encoded)
    else firsts.push(encoded)
    known.add(encoded.identity)
  }
  // a repeated key is compared with what is stored by then
  const chunks = [...chunksOf(inKeyOrder(firsts), maxBatch, bytesOf), ...repeats.map((encoded) => [encoded])]
  const recording = Effect.forEach(chunks, (chunk) => insert(chunk, answers), { discard: true })
  // several statements are one: all of them, or none
  yield* chunks.length > 1 ? transaction(recording) : recording
  const result: Array<Answer> = []
  for (const { ordinal } of requests) {
    const answer = answers.get(ordinal)
    if (answer === undefined) return yield* new QueryFailed({})
    result.push(answer)
  }
  return result
})

const maxRounds = 5

/**
 * Finds or inserts. One statement does both, but cannot see a row that another transaction committed while it waited for it:
 * a key for which it did neither is asked again with a fresh snapshot.
 */
const insert = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedRequest>, answers: Map<number, Answer>) {
  let left = items
  for (let round = 0; left.length > 0; round++) {
    if (round === maxRounds) return yield* new Unavailable({ origin: "busy" })
    const rows = yield* readCommitted("job.intent_idempotency_unsupported_isolation")(
      Effect.filterOrFail(
        mayWait(insertOnce(left)),
        ([row]) => row?.outcome !== "isolation",
        () => new NotReadCommitted()
      )
    )
    const unseen = new Set<number>()
    for (const row of yield* decodeRows(rows)) {
      if (row.outcome === "unseen") unseen.add(row.ordinal)
      else if (row.outcome === "conflict") {
        answers.set(row.ordinal, Result.fail(new IntentConflict({ intentId: row.id, fields: row.fields ?? [] })))
      } else {
        answers.set(
          row.ordinal,
          Result.succeed({
            intentId: row.id,
            disposition: row.outcome,
            status: row.status,
            promotedJobId: row.promoted_job_id
          })
        )
      }
    }
    left = left.filter(({ ordinal }) => unseen.has(ordinal))
  }
})

const decodeRows = (rows: unknown) => Effect.mapError(decodeAnswers(rows), () => new QueryFailed({}))

const decodeAnswers = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      ordinal: Schema.Int,
      outcome: Schema.Literals(["inserted", "existing", "conflict", "unseen"]),
      id: IntentId,
      status: IntentStatus,
      promoted_job_id: nullable(JobId),
      fields: Schema.NullOr(Schema.Array(Schema.String))
    })
  )
)

/** Records a set: find or insert by key, in one statement. Ids are in the order given; rows go in by (type, organization, key). */
const insertOnce = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedRequest>) {
  const { sql, instant } = yield* Sql.clocked
  const trace = traceParent(yield* Effect.context())
  const records = items
    .map((item, rank) => ({ ordinal: item.ordinal, text: recordOf(item, rank) }))
    .sort((a, b) => a.ordinal - b.ordinal)
    .map(({ text }) => text)
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${trace}::text AS trace_parent, ${sql.literal(patience)}
    ), item AS MATERIALIZED (
      SELECT
        runledger.uuidv7() AS id, i.at, i.trace_parent, i.callers_lock_timeout, r.*,
        -- a JSON null arrives as NULL
        COALESCE(r.payload, 'null') AS request_payload,
        ${sql.literal(requestSnapshot)} AS enqueue_request
      FROM input i
      CROSS JOIN LATERAL jsonb_to_recordset(${`[${records.join(",")}]`}::jsonb) AS r (
        ordinal integer, rank integer, job_type text, organization_id uuid, priority integer, max_attempts integer,
        timeout_seconds integer, next_run_at_text text, delay_ms bigint, idempotency_key text, stage text,
        payload_version integer, payload jsonb, execution_resource_key text
      )
    ), sought AS MATERIALIZED (
      SELECT
        i.*, found.id AS found_id, found.status, found.promoted_job_id, found.enqueue_request AS found_request
      FROM item i
      LEFT JOIN LATERAL (
        -- two look-ups: IS NOT DISTINCT FROM would use no index
        SELECT n.id, n.status, n.promoted_job_id, n.enqueue_request
        FROM runledger.job_enqueue_intents n
        WHERE n.job_type = i.job_type AND n.organization_id = i.organization_id AND n.idempotency_key = i.idempotency_key
        UNION ALL
        SELECT n.id, n.status, n.promoted_job_id, n.enqueue_request
        FROM runledger.job_enqueue_intents n
        WHERE n.job_type = i.job_type AND n.organization_id IS NULL AND i.organization_id IS NULL
          AND n.idempotency_key = i.idempotency_key
      ) found ON true
    ), inserted AS (
      INSERT INTO runledger.job_enqueue_intents (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        delay_ms, idempotency_key, stage, enqueue_request, execution_resource_key, trace_parent, next_promotion_at,
        created_at, updated_at
      )
      SELECT
        id, job_type, payload_version, organization_id, request_payload, priority, max_attempts, timeout_seconds,
        next_run_at_text::timestamptz, delay_ms, idempotency_key, stage, enqueue_request, execution_resource_key,
        trace_parent, at, at, at
      FROM sought
      -- an insert would wait for whoever is about to promote what is there
      WHERE found_id IS NULL AND ${sql.literal(isReadCommitted)}
      ORDER BY rank
      ON CONFLICT DO NOTHING
      RETURNING id
    )
    SELECT
      s.ordinal,
      CASE
        WHEN NOT ${sql.literal(isReadCommitted)} THEN 'isolation'
        WHEN s.id IN (SELECT id FROM inserted) THEN 'inserted'
        WHEN s.found_id IS NULL THEN 'unseen'
        WHEN s.found_request = s.enqueue_request THEN 'existing'
        ELSE 'conflict'
      END AS outcome,
      COALESCE(s.found_id, s.id) AS id,
      COALESCE(s.status, 'PENDING') AS status,
      s.promoted_job_id,
      CASE WHEN s.found_request <> s.enqueue_request THEN (
        SELECT array_agg(DISTINCT k.key ORDER BY k.key)
        FROM jsonb_object_keys(s.found_request || s.enqueue_request) AS k (key)
        WHERE s.found_request -> k.key IS DISTINCT FROM s.enqueue_request -> k.key
      ) END AS fields,
      s.callers_lock_timeout
    FROM sought s
  `
})
