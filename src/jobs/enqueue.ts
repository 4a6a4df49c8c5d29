import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import { chunksOf } from "../internal/chunks.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isJobId, isJson, isNumber, isStatus, isStrings } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { traceParent } from "../internal/trace.ts"
import { transaction } from "../internal/transaction.ts"
import { mayWait, patience } from "../internal/waiting.ts"
import type { JobId, Status } from "../Job.ts"
import type { AnyContract } from "../JobContract.ts"
import { markDue } from "../Notifications.ts"
import { type QueryError, writing } from "../QueryError.ts"
import {
  DefinitionUnavailable,
  IdempotencyConflict,
  IdempotencySnapshotMissing,
  InvalidArgument,
  QueryFailed,
  Unavailable,
  type UnsupportedIsolation,
  type WriteReason
} from "../Reason.ts"
import { declareSoon } from "./declareSoon.ts"
import { insertOne } from "./enqueueOne.ts"
import {
  bytesOf,
  differences,
  type EncodedRequest,
  type EnqueueOptions,
  type EnqueueRequest,
  encode,
  inKeyOrder,
  recordOf,
  type TypedRequest
} from "./enqueueRequest.ts"
import { maxBatch } from "./limits.ts"

export { type EnqueueOptions, type EnqueueRequest, request, type TypedRequest } from "./enqueueRequest.ts"

/** The job that a request led to, and whether it was there already; then with its current status and run. */
export interface Enqueued {
  readonly jobId: JobId
  readonly status: Status
  readonly runNumber: number
  readonly disposition: "inserted" | "existing"
}

/** Why one request of a batch led to no job of its own. */
export type EnqueueRefusal = DefinitionUnavailable | IdempotencyConflict | IdempotencySnapshotMissing

/** What {@link enqueueMany} can fail with as a whole. */
export type EnqueueManyReason = InvalidArgument | UnsupportedIsolation | WriteReason

/** What {@link enqueue} can fail with. */
export type EnqueueReason = EnqueueManyReason | EnqueueRefusal

/**
 * Enqueues a job, typed by its contract or by a name and JSON. Inside `sql.withTransaction` it exists if and only if the
 * caller's rows do.
 *
 * With an idempotency key, a retry with the same request returns the first job (even if its definition was disabled
 * meanwhile), and a different request fails and names the fields that differ. What is compared is what was given, not the
 * defaults that filled the gaps.
 *
 * What is not given comes from the declaration of the type; where that is missing, or older than the contract, from the
 * contract, which is then declared (see `JobDefinitions.declare`) once the caller's transaction has committed.
 *
 * Fails with `InvalidArgument` (before anything is sent; also if the payload does not match the contract),
 * `DefinitionUnavailable` (the type is disabled, or a dynamic type is not declared),
 * `IdempotencyConflict`, `IdempotencySnapshotMissing`, `UnsupportedIsolation` (a key, in a transaction that is not READ
 * COMMITTED), `Unavailable` (another transaction held the key for five seconds), or what any write can fail with.
 *
 * Writes `job_queue`; reads the definition without locking it. Finding a key does not lock its row. A request with a key may
 * wait for another transaction that inserts the same key.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { Jobs } from "effect-runledger"
 * import { SqlClient } from "effect/sql"
 *
 * const placeOrder = Effect.fn("placeOrder")(function* (id: string, email: string) {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql.withTransaction(
 *     Effect.gen(function* () {
 *       yield* sql`INSERT INTO orders ${sql.insert({ id, email })}`
 *       yield* Jobs.enqueue("email.send", { to: email }, { idempotencyKey: `order:${id}` })
 *     })
 *   )
 * })
 * ```
 */
export const enqueue: {
  <C extends AnyContract>(
    contract: C,
    payload: C["payload"]["Type"],
    options?: Omit<EnqueueOptions, "payloadVersion">
  ): Effect.Effect<Enqueued, QueryError<EnqueueReason>, SqlClient>
  (
    jobType: string,
    payload: Json,
    options?: EnqueueOptions
  ): Effect.Effect<Enqueued, QueryError<EnqueueReason>, SqlClient>
} = (job: string | AnyContract, payload: unknown, options?: EnqueueOptions) =>
  writing("Jobs.enqueue")(Effect.suspend(() => enqueued(job, payload, options)))

const enqueued = (
  job: string | AnyContract,
  payload: unknown,
  options: EnqueueOptions | undefined
): Effect.Effect<Enqueued, EnqueueReason | SqlError, SqlClient> => {
  const typed = typeof job === "string" ? undefined : job
  const jobType = typeof job === "string" ? job : job.jobType
  // whether it is JSON is checked with everything else
  const json = isJson(payload) ? payload : null
  const checked =
    payload === undefined && typed === undefined
      ? Result.fail(new InvalidArgument({ argument: "payload", rule: "must be JSON" }))
      : encode(
          typed === undefined ? { ...options, jobType, payload: json } : { ...options, contract: typed, payload },
          0,
          ""
        )
  if (Result.isFailure(checked)) return Effect.fail(checked.failure)
  const request = checked.success
  const declaring = typed === undefined ? Effect.void : declareSoon([typed])
  const several = Effect.gen(function* () {
    const [answer] = yield* run([request])
    yield* declaring
    return yield* answer === undefined ? new QueryFailed({}) : Effect.fromResult(answer)
  })
  if (request.identity !== undefined || request.stage !== "queued") return several
  return Effect.flatMap(insertOne(request), (jobId) => {
    // the statement for many says what is wrong with the definition
    if (jobId === undefined) return several
    const answer = { jobId, status: "PENDING", runNumber: 1, disposition: "inserted" } as const
    const telling = isDue(request) ? Effect.as(markDue([jobType]), answer) : Effect.succeed(answer)
    return typed === undefined ? telling : Effect.andThen(declaring, telling)
  })
}

/**
 * Enqueues many jobs, each answered on its own, in the order given: the job it led to, or why it did not lead to one. The
 * same key may stand in a batch twice; the later request is compared with the earlier.
 *
 * Up to 1,000 jobs and 8 MiB, all with a key of its own or all without, are one statement. Others run in one
 * transaction, a savepoint of the caller's if there is one: if the database fails, nothing is enqueued.
 *
 * Fails as a whole with `InvalidArgument` (any request is malformed; nothing was sent), `UnsupportedIsolation`,
 * `Unavailable`, or what any write can fail with. Locks and writes as {@link enqueue}, keys in one order, so that batches in
 * opposite order do not deadlock.
 *
 * @example
 * ```ts
 * import { Jobs } from "effect-runledger"
 *
 * const greeted = Jobs.enqueueMany(
 *   ["ada", "grace"].map((name) => ({ jobType: "greet", payload: { name }, idempotencyKey: `greet:${name}` }))
 * )
 * ```
 */
export const enqueueMany: (
  requests: ReadonlyArray<EnqueueRequest | TypedRequest>
) => Effect.Effect<ReadonlyArray<Result.Result<Enqueued, EnqueueRefusal>>, QueryError<EnqueueManyReason>, SqlClient> =
  Effect.fnUntraced(function* (requests: ReadonlyArray<EnqueueRequest | TypedRequest>) {
    const encoded: Array<EncodedRequest> = []
    for (const [ordinal, request] of requests.entries()) {
      const checked = encode(request, ordinal, `requests[${ordinal}].`)
      if (Result.isFailure(checked)) return yield* checked.failure
      encoded.push(checked.success)
    }
    const answers = yield* run(encoded)
    yield* declareSoon(requests.flatMap((request) => ("contract" in request ? [request.contract] : [])))
    return answers
  }, writing("Jobs.enqueueMany"))

type Answer = Result.Result<Enqueued, EnqueueRefusal>

const isDue = (request: EncodedRequest) => request.nextRunAt === null && request.delayMillis === null

/** Enqueues requests that were checked, whose ordinals count from 0; the answers are in their order. */
export const run = Effect.fnUntraced(function* (requests: ReadonlyArray<EncodedRequest>) {
  const answers = new Map<number, Answer>()
  const firsts: Array<EncodedRequest> = []
  const repeats: Array<readonly [EncodedRequest, first: EncodedRequest]> = []
  const byIdentity = new Map<string, EncodedRequest>()
  for (const encoded of requests) {
    const first = encoded.identity === undefined ? undefined : byIdentity.get(encoded.identity)
    if (first !== undefined) {
      repeats.push([encoded, first])
      continue
    }
    if (encoded.identity !== undefined) byIdentity.set(encoded.identity, encoded)
    firsts.push(encoded)
  }
  const chunks = chunksOf(inKeyOrder(firsts), maxBatch, bytesOf)
  const inserting = Effect.gen(function* () {
    yield* Effect.forEach(chunks, (chunk) => insert(chunk, answers), { discard: true })
    // A repeated key never reaches the statement: what it is compared with is the first request, which is the stored one
    // unless the first was itself refused.
    const again: Array<EncodedRequest> = []
    for (const [encoded, first] of repeats) {
      const answer = answers.get(first.ordinal)
      if (answer === undefined) return yield* new QueryFailed({})
      const fields = differences(encoded.snapshot, first.snapshot)
      if (fields.length === 0) {
        answers.set(
          encoded.ordinal,
          Result.map(answer, (enqueued) => ({ ...enqueued, disposition: "existing" as const }))
        )
      } else if (Result.isSuccess(answer)) {
        answers.set(encoded.ordinal, Result.fail(new IdempotencyConflict({ jobId: answer.success.jobId, fields })))
      } else {
        again.push(encoded)
      }
    }
    // different from a request that was refused: each is compared with what is stored, one by one
    yield* Effect.forEach(again, (encoded) => insert([encoded], answers), { discard: true })
    return undefined
  })
  // Several statements are one: all of them, or none. Keys may need another round; if that fails, a retry finds the jobs of
  // the first, but it would enqueue those without a key again.
  const isMixed = byIdentity.size > 0 && byIdentity.size < firsts.length
  const several = chunks.length > 1 || repeats.length > 0 || isMixed
  yield* several ? transaction(inserting) : inserting

  const due = requests.flatMap((request) => {
    const answer = answers.get(request.ordinal)
    return answer !== undefined &&
      Result.isSuccess(answer) &&
      answer.success.disposition === "inserted" &&
      isDue(request)
      ? [request.jobType]
      : []
  })
  if (due.length > 0) yield* markDue(due)

  const result: Array<Answer> = []
  for (let ordinal = 0; ordinal < requests.length; ordinal++) {
    const answer = answers.get(ordinal)
    if (answer === undefined) return yield* new QueryFailed({})
    result.push(answer)
  }
  return result
})

const maxRounds = 5

/**
 * Inserts or finds. One statement does both, but cannot see a row that another transaction committed while it waited for it:
 * a key for which it did neither is asked again with a fresh snapshot.
 */
const insert = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedRequest>, answers: Map<number, Answer>) {
  let left = items
  for (let round = 0; left.length > 0; round++) {
    if (round === maxRounds) return yield* new Unavailable({ origin: "busy" })
    const keyed = left.some(({ identity }) => identity !== undefined)
    const rows = yield* keyed
      ? readCommitted("job.enqueue_idempotency_unsupported_isolation")(
          Effect.filterOrFail(
            mayWait(insertOnce(left, true)),
            ([row]) => row?.outcome !== "isolation",
            () => new NotReadCommitted()
          )
        )
      : insertOnce(left, false)
    const unseen = new Set<number>()
    for (const row of rows) {
      const decoded = decodeRow(row)
      if (decoded === undefined) return yield* new QueryFailed({})
      const { ordinal, outcome, id: jobId } = decoded
      if (outcome === "unseen") unseen.add(ordinal)
      else if (outcome === "inserted" || outcome === "existing") {
        answers.set(
          ordinal,
          Result.succeed({ jobId, status: decoded.status, runNumber: decoded.runNumber, disposition: outcome })
        )
      } else if (outcome === "conflict") {
        answers.set(ordinal, Result.fail(new IdempotencyConflict({ jobId, fields: decoded.fields ?? [] })))
      } else if (outcome === "no snapshot") {
        answers.set(ordinal, Result.fail(new IdempotencySnapshotMissing({ jobId })))
      } else {
        const jobType = left.find((item) => item.ordinal === ordinal)?.jobType ?? ""
        answers.set(ordinal, Result.fail(new DefinitionUnavailable({ jobType, state: outcome })))
      }
    }
    left = left.filter(({ ordinal }) => unseen.has(ordinal))
  }
})

const decodeRow = ({ ordinal, outcome, id, status, run_number: runNumber, fields }: Row) =>
  isNumber(ordinal) &&
  isOutcome(outcome) &&
  isJobId(id) &&
  isStatus(status) &&
  isNumber(runNumber) &&
  (fields === null || isStrings(fields))
    ? { ordinal, outcome, id, status, runNumber, fields }
    : undefined

const outcomes = ["inserted", "existing", "conflict", "no snapshot", "unseen", "missing", "disabled"] as const
const isOutcome = (value: unknown): value is (typeof outcomes)[number] => outcomes.some((outcome) => outcome === value)

/**
 * Enqueues a set: defaults from the definitions, insert or find by key, in one statement.
 *
 * Rows get their ids in the order given (first in, first out), and go in by (type, organization, key), the order in which
 * every batch takes its keys. Only an initial stage other than `queued` is stored as an event; the rest can be derived.
 *
 * What only keys need is left out where there are none: nothing is compared, found or waited for then.
 */
const insertOnce = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedRequest>, keyed: boolean) {
  const { sql, instant } = yield* Sql.clocked
  const trace = traceParent(yield* Effect.context())
  const records = items
    .map((item, rank) => ({ ordinal: item.ordinal, text: recordOf(item, rank) }))
    .sort((a, b) => a.ordinal - b.ordinal)
    .map(({ text }) => text)
  const staged = items.some(({ stage }) => stage !== "queued")
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${trace}::text AS callers_trace ${sql.literal(keyed ? `, ${patience}` : "")}
    ), item AS MATERIALIZED (
      SELECT
        runledger.uuidv7() AS id,
        i.*,
        r.ordinal, r.rank, r.job_type, r.payload_version, r.organization_id, r.stage, r.idempotency_key,
        r.execution_resource_key,
        COALESCE(r.trace_parent, i.callers_trace) AS trace_parent,
        -- a JSON null arrives as NULL
        COALESCE(r.payload, 'null') AS payload,
        COALESCE(d.is_enabled, CASE WHEN r.contract_version IS NOT NULL THEN true END) AS is_enabled,
        ${sql.literal(keyed ? requestSnapshot : "NULL::jsonb")} AS enqueue_request,
        COALESCE(
          r.priority,
          CASE WHEN d.version < r.contract_version THEN r.contract_priority ELSE d.default_priority END,
          r.contract_priority
        ) AS priority,
        COALESCE(
          r.max_attempts,
          CASE WHEN d.version < r.contract_version THEN r.contract_max_attempts ELSE d.max_attempts END,
          r.contract_max_attempts
        ) AS max_attempts,
        COALESCE(
          r.timeout_seconds,
          CASE WHEN d.version < r.contract_version THEN r.contract_timeout_seconds ELSE d.default_timeout_seconds END,
          r.contract_timeout_seconds
        ) AS timeout_seconds,
        COALESCE(
          r.next_run_at_text::timestamptz,
          COALESCE(r.delay_from, i.at) + COALESCE(r.delay_ms, 0) * interval '1 millisecond'
        ) AS next_run_at
      FROM input i
      CROSS JOIN LATERAL jsonb_to_recordset(${`[${records.join(",")}]`}::jsonb) AS r (
        ordinal integer, rank integer, job_type text, organization_id uuid, priority integer, max_attempts integer,
        timeout_seconds integer, next_run_at_text text, delay_ms bigint, idempotency_key text, stage text,
        execution_resource_key text,
        payload_version integer, payload jsonb, contract_version integer, contract_priority integer,
        contract_max_attempts integer, contract_timeout_seconds integer, trace_parent text, delay_from timestamptz
      )
      LEFT JOIN LATERAL (
        -- the limit keeps this a look-up per row, in the order given
        SELECT * FROM runledger.job_definitions d WHERE d.job_type = r.job_type LIMIT 1
      ) d ON true
    ) ${sql.literal(keyed ? sought : "")}, inserted AS (
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        stage, idempotency_key, enqueue_request, execution_resource_key, trace_parent, created_at, updated_at
      )
      SELECT
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        stage, idempotency_key, enqueue_request, execution_resource_key, trace_parent, at, at
      FROM ${sql.literal(keyed ? "sought" : "item")}
      -- what is there is not tried: an insert would wait for whoever is writing it
      WHERE is_enabled ${sql.literal(keyed ? `AND found_id IS NULL AND ${isReadCommitted}` : "")}
      ORDER BY rank
      ${sql.literal(keyed ? "ON CONFLICT DO NOTHING" : "")}
      RETURNING id
    ) ${sql.literal(staged ? stageEvents : "")}
    ${sql.literal(keyed ? insertedOrFound : insertedOrNot)}
  `
})

const stageEvents = `, event AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, event_type, stage, payload, occurred_at)
      SELECT i.id, 1, 1, 'ENQUEUED', i.stage, jsonb_build_object('job_type', i.job_type), i.at
      FROM item i
      WHERE i.stage <> 'queued' AND i.id IN (SELECT id FROM inserted)
    )`

/** The request as it was given, of a row `r`: null where the definition decided. */
export const requestSnapshot = `CASE WHEN r.idempotency_key IS NOT NULL THEN
          jsonb_build_object(
            'payload', COALESCE(r.payload, 'null'),
            'priority', r.priority,
            'max_attempts', r.max_attempts,
            'timeout_seconds', r.timeout_seconds,
            'next_run_at', r.next_run_at_text,
            'stage', r.stage
          ) || CASE WHEN r.delay_ms IS NULL THEN '{}' ELSE jsonb_build_object('delay_ms', r.delay_ms) END
            || CASE
              WHEN r.execution_resource_key IS NULL THEN '{}'
              ELSE jsonb_build_object('execution_resource_key', r.execution_resource_key)
            END
        END`

const insertedOrNot = `
    SELECT
      ordinal,
      CASE WHEN is_enabled THEN 'inserted' WHEN is_enabled IS NULL THEN 'missing' ELSE 'disabled' END AS outcome,
      id,
      'PENDING' AS status,
      1 AS run_number,
      NULL AS fields
    FROM item`

const sought = `, sought AS MATERIALIZED (
      SELECT
        i.*, found.id AS found_id, found.status AS found_status, found.run_number AS found_run_number,
        found.enqueue_request AS found_request
      FROM item i
      LEFT JOIN LATERAL (
        -- two look-ups: IS NOT DISTINCT FROM would use no index
        SELECT q.id, q.status, q.run_number, q.enqueue_request
        FROM runledger.job_queue q
        WHERE q.job_type = i.job_type AND q.organization_id = i.organization_id AND q.idempotency_key = i.idempotency_key
        UNION ALL
        SELECT q.id, q.status, q.run_number, q.enqueue_request
        FROM runledger.job_queue q
        WHERE q.job_type = i.job_type AND q.organization_id IS NULL AND i.organization_id IS NULL
          AND q.idempotency_key = i.idempotency_key
      ) found ON i.idempotency_key IS NOT NULL
    )`

const insertedOrFound = `
    SELECT
      s.ordinal,
      CASE
        WHEN NOT ${isReadCommitted} THEN 'isolation'
        WHEN s.id IN (SELECT id FROM inserted) THEN 'inserted'
        WHEN s.found_id IS NULL AND s.is_enabled IS NULL THEN 'missing'
        WHEN s.found_id IS NULL AND NOT s.is_enabled THEN 'disabled'
        WHEN s.found_id IS NULL THEN 'unseen'
        WHEN s.found_request IS NULL THEN 'no snapshot'
        WHEN s.found_request = s.enqueue_request THEN 'existing'
        ELSE 'conflict'
      END AS outcome,
      COALESCE(s.found_id, s.id) AS id,
      COALESCE(s.found_status, 'PENDING') AS status,
      COALESCE(s.found_run_number, 1) AS run_number,
      CASE WHEN s.found_request <> s.enqueue_request THEN (
        SELECT array_agg(DISTINCT k.key ORDER BY k.key)
        FROM jsonb_object_keys(s.found_request || s.enqueue_request) AS k (key)
        WHERE s.found_request -> k.key IS DISTINCT FROM s.enqueue_request -> k.key
      ) END AS fields,
      s.callers_lock_timeout
    FROM sought s`
