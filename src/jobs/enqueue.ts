import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import * as JsonText from "../internal/json.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { mayWait, patience } from "../internal/waiting.ts"
import { JobId, Stage, Status } from "../Job.ts"
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
import { maxBatch, maxKeyBytes, maxTypeBytes } from "./limits.ts"

/** What a job is given beside its payload. What is left out comes from the definition of its type. */
export interface EnqueueOptions {
  /** Whose job it is; a UUID. Default: nobody's, a global job. */
  readonly organizationId?: string | undefined
  /** -100 to 100; higher goes first. */
  readonly priority?: number | undefined
  /** How many attempts a run has: at least 1. */
  readonly maxAttempts?: number | undefined
  /** How long an attempt may run, rounded up to seconds: at least 1 second. */
  readonly timeout?: Duration.Input | undefined
  /** When it is due. Default: now. With an idempotency key, a retry must give the same instant; or use `delay`. */
  readonly runAt?: DateTime.Utc | undefined
  /** How long from now it is due, rounded up to milliseconds: 0 to 36,525 days. Not together with `runAt`. */
  readonly delay?: Duration.Input | undefined
  /**
   * Makes a retry of the same request return the first job: not blank, at most 512 bytes, unique within type and
   * organization.
   */
  readonly idempotencyKey?: string | undefined
  /** Default `queued`. */
  readonly stage?: Stage | undefined
  /** The version of the contract that encoded the payload: at least 1, the default. Not part of the request. */
  readonly payloadVersion?: number | undefined
}

/** One job of a batch. */
export interface EnqueueRequest extends EnqueueOptions {
  /** Not blank, at most 128 bytes. */
  readonly jobType: string
  /** Any JSON of at most 2 MiB. */
  readonly payload: Schema.Json
}

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
 * Enqueues a job. Inside `sql.withTransaction` it exists if and only if the caller's rows do.
 *
 * With an idempotency key, a retry with the same request returns the first job (even if its definition was disabled
 * meanwhile), and a different request fails and names the fields that differ. What is compared is what was given, not the
 * defaults that filled the gaps.
 *
 * Fails with `InvalidArgument` (before anything is sent), `DefinitionUnavailable` (no enabled definition of the type),
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
export const enqueue: (
  jobType: string,
  payload: Schema.Json,
  options?: EnqueueOptions
) => Effect.Effect<Enqueued, QueryError<EnqueueReason>, SqlClient> = Effect.fn("Jobs.enqueue")(function* (
  jobType: string,
  payload: Schema.Json,
  options?: EnqueueOptions
) {
  const [answer] = yield* run([{ ...options, jobType, payload }], "")
  return yield* answer === undefined ? new QueryFailed({}) : Effect.fromResult(answer)
}, writing("Jobs.enqueue"))

/**
 * Enqueues many jobs, each answered on its own, in the order given: the job it led to, or why it did not lead to one. The
 * same key may stand in a batch twice; the later request is compared with the earlier.
 *
 * Up to 1,000 jobs and 8 MiB are one statement. More are several in one transaction, a savepoint of the caller's if there is
 * one: if the database fails, nothing is enqueued.
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
  requests: ReadonlyArray<EnqueueRequest>
) => Effect.Effect<ReadonlyArray<Result.Result<Enqueued, EnqueueRefusal>>, QueryError<EnqueueManyReason>, SqlClient> =
  Effect.fn("Jobs.enqueueMany")(
    (requests: ReadonlyArray<EnqueueRequest>) => run(requests, "requests"),
    writing("Jobs.enqueueMany")
  )

/** A request as it is sent. Field names are those of the statement. */
interface Encoded {
  readonly ordinal: number
  readonly identity: string | undefined
  readonly jobType: string
  /** JSON text of everything else. */
  readonly text: string
  /** The request as it is compared. */
  readonly snapshot: Readonly<Record<string, Schema.Json>>
}

type Answer = Result.Result<Enqueued, EnqueueRefusal>

const run = Effect.fnUntraced(function* (requests: ReadonlyArray<EnqueueRequest>, path: string) {
  const answers = new Map<number, Answer>()
  const firsts: Array<Encoded> = []
  const repeats: Array<readonly [Encoded, first: Encoded]> = []
  const byIdentity = new Map<string, Encoded>()
  for (const [ordinal, request] of requests.entries()) {
    const encoded = yield* encode(request, ordinal, path === "" ? "" : `${path}[${ordinal}].`)
    const first = encoded.identity === undefined ? undefined : byIdentity.get(encoded.identity)
    if (first !== undefined) {
      repeats.push([encoded, first])
      continue
    }
    if (encoded.identity !== undefined) byIdentity.set(encoded.identity, encoded)
    firsts.push(encoded)
  }
  const chunks = chunksOf(firsts)
  const inserting = Effect.forEach(chunks, (chunk) => insert(chunk, answers), { discard: true })
  yield* chunks.length > 1 ? transaction(inserting) : inserting

  // A repeated key never reaches the statement: what it is compared with is the first request, which is the stored one unless
  // the first was itself refused.
  const again: Array<Encoded> = []
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

  const due = requests.flatMap((request, ordinal) => {
    const answer = answers.get(ordinal)
    return answer !== undefined &&
      Result.isSuccess(answer) &&
      answer.success.disposition === "inserted" &&
      request.runAt === undefined &&
      request.delay === undefined
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
const insert = Effect.fnUntraced(function* (items: ReadonlyArray<Encoded>, answers: Map<number, Answer>) {
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
      const decoded = Option.getOrUndefined(decodeRow(row))
      if (decoded === undefined) return yield* new QueryFailed({})
      const { ordinal, outcome, id: jobId } = decoded
      if (outcome === "unseen") unseen.add(ordinal)
      else if (outcome === "inserted" || outcome === "existing") {
        answers.set(
          ordinal,
          Result.succeed({ jobId, status: decoded.status, runNumber: decoded.run_number, disposition: outcome })
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

const decodeRow = Schema.decodeUnknownOption(
  Schema.Struct({
    ordinal: Schema.Int,
    outcome: Schema.Literals(["inserted", "existing", "conflict", "no snapshot", "unseen", "missing", "disabled"]),
    id: JobId,
    status: Status,
    run_number: Schema.Int,
    fields: Schema.NullOr(Schema.Array(Schema.String))
  })
)

/**
 * Enqueues a set: defaults from the definitions, insert or find by key, in one statement.
 *
 * Rows get their ids in the order given (first in, first out), and go in by (type, organization, key), the order in which
 * every batch takes its keys. Only an initial stage other than `queued` is stored as an event; the rest can be derived.
 */
const insertOnce = Effect.fnUntraced(function* (items: ReadonlyArray<Encoded>, keyed: boolean) {
  const { sql, instant } = yield* Sql.clocked
  const records = items
    .map(({ ordinal, text }, rank) => ({ ordinal, text: `{"rank":${rank},${text.slice(1)}` }))
    .sort((a, b) => a.ordinal - b.ordinal)
    .map(({ text }) => text)
  return yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${sql.literal(keyed ? patience : "NULL AS callers_lock_timeout")}
    ), item AS MATERIALIZED (
      SELECT
        runledger.uuidv7() AS id,
        i.at,
        i.callers_lock_timeout,
        r.*,
        d.is_enabled,
        CASE WHEN r.idempotency_key IS NOT NULL THEN
          jsonb_build_object(
            'payload', r.payload,
            'priority', r.priority,
            'max_attempts', r.max_attempts,
            'timeout_seconds', r.timeout_seconds,
            'next_run_at', r.next_run_at_text,
            'stage', r.stage
          ) || CASE WHEN r.delay_ms IS NULL THEN '{}' ELSE jsonb_build_object('delay_ms', r.delay_ms) END
        END AS enqueue_request,
        COALESCE(r.priority, d.default_priority) AS resolved_priority,
        COALESCE(r.max_attempts, d.max_attempts) AS resolved_max_attempts,
        COALESCE(r.timeout_seconds, d.default_timeout_seconds) AS resolved_timeout_seconds,
        COALESCE(
          r.next_run_at_text::timestamptz,
          i.at + COALESCE(r.delay_ms, 0) * interval '1 millisecond'
        ) AS next_run_at
      FROM input i
      CROSS JOIN LATERAL (
        SELECT
          e.ordinal, e.rank, e.job_type, e.organization_id, e.priority, e.max_attempts, e.timeout_seconds,
          e.next_run_at_text, e.delay_ms, e.idempotency_key, e.stage, e.payload_version,
          -- a JSON null arrives as NULL
          COALESCE(e.payload, 'null') AS payload
        FROM jsonb_to_recordset(${`[${records.join(",")}]`}::jsonb) AS e (
          ordinal integer, rank integer, job_type text, organization_id uuid, priority integer, max_attempts integer,
          timeout_seconds integer, next_run_at_text text, delay_ms bigint, idempotency_key text, stage text,
          payload_version integer, payload jsonb
        )
      ) r
      LEFT JOIN LATERAL (
        -- the limit keeps this a look-up per row, in the order given
        SELECT * FROM runledger.job_definitions d WHERE d.job_type = r.job_type LIMIT 1
      ) d ON true
    ), inserted AS (
      INSERT INTO runledger.job_queue (
        id, job_type, payload_version, organization_id, payload, priority, max_attempts, timeout_seconds, next_run_at,
        stage, idempotency_key, enqueue_request, created_at, updated_at
      )
      SELECT
        id, job_type, payload_version, organization_id, payload, resolved_priority, resolved_max_attempts,
        resolved_timeout_seconds, next_run_at, stage, idempotency_key, enqueue_request, at, at
      FROM item
      WHERE is_enabled ${sql.literal(keyed ? `AND ${isReadCommitted}` : "")}
      ORDER BY rank
      ON CONFLICT DO NOTHING
      RETURNING id
    ), event AS (
      INSERT INTO runledger.job_events (job_id, seq, run_number, event_type, stage, payload, occurred_at)
      SELECT i.id, 1, 1, 'ENQUEUED', i.stage, jsonb_build_object('job_type', i.job_type), i.at
      FROM item i
      WHERE i.stage <> 'queued' AND i.id IN (SELECT id FROM inserted)
    )
    SELECT
      i.ordinal,
      CASE
        WHEN ${sql.literal(keyed ? `NOT ${isReadCommitted}` : "false")} THEN 'isolation'
        WHEN i.id IN (SELECT id FROM inserted) THEN 'inserted'
        WHEN found.id IS NULL AND i.is_enabled IS NULL THEN 'missing'
        WHEN found.id IS NULL AND NOT i.is_enabled THEN 'disabled'
        WHEN found.id IS NULL THEN 'unseen'
        WHEN found.enqueue_request IS NULL THEN 'no snapshot'
        WHEN found.enqueue_request = i.enqueue_request THEN 'existing'
        ELSE 'conflict'
      END AS outcome,
      COALESCE(found.id, i.id) AS id,
      COALESCE(found.status, 'PENDING') AS status,
      COALESCE(found.run_number, 1) AS run_number,
      CASE WHEN found.enqueue_request <> i.enqueue_request THEN (
        SELECT array_agg(DISTINCT k.key ORDER BY k.key)
        FROM jsonb_object_keys(found.enqueue_request || i.enqueue_request) AS k (key)
        WHERE found.enqueue_request -> k.key IS DISTINCT FROM i.enqueue_request -> k.key
      ) END AS fields,
      i.callers_lock_timeout
    FROM item i
    LEFT JOIN LATERAL (
      -- two look-ups, one for each of the two unique indexes
      SELECT q.id, q.status, q.run_number, q.enqueue_request
      FROM runledger.job_queue q
      WHERE q.job_type = i.job_type AND q.organization_id = i.organization_id AND q.idempotency_key = i.idempotency_key
      UNION ALL
      SELECT q.id, q.status, q.run_number, q.enqueue_request
      FROM runledger.job_queue q
      WHERE q.job_type = i.job_type AND q.organization_id IS NULL AND i.organization_id IS NULL
        AND q.idempotency_key = i.idempotency_key
    ) found ON i.idempotency_key IS NOT NULL
  `
})

// ---------------------------------------------------------------------------------------------------------------------
// Checking and encoding
// ---------------------------------------------------------------------------------------------------------------------

const maxDelay = 36_525 * 24 * 60 * 60 * 1000
const minInstant = DateTime.makeUnsafe("0001-01-01T00:00:00Z")
const maxInstant = DateTime.makeUnsafe("9999-12-31T23:59:59.999Z")

const encode = Effect.fnUntraced(function* (
  request: EnqueueRequest,
  ordinal: number,
  path: string
): Effect.fn.Return<Encoded, InvalidArgument> {
  const { jobType, organizationId, priority, maxAttempts, idempotencyKey, runAt } = request
  const argument = (name: string, rule: string) => new InvalidArgument({ argument: `${path}${name}`, rule })
  const timeout = request.timeout === undefined ? undefined : Args.millis(request.timeout)
  const timeoutSeconds = timeout === undefined ? undefined : Math.ceil(timeout / 1000)
  const delay = request.delay === undefined ? undefined : Args.millis(request.delay)
  const stage = request.stage ?? "queued"
  const payloadVersion = request.payloadVersion ?? 1
  const invalid =
    Args.name(`${path}jobType`, jobType, maxTypeBytes) ??
    (organizationId === undefined ? undefined : Args.uuid(`${path}organizationId`, organizationId)) ??
    (priority === undefined ? undefined : Args.integer(`${path}priority`, priority, -100, 100)) ??
    (maxAttempts === undefined ? undefined : Args.integer(`${path}maxAttempts`, maxAttempts, 1)) ??
    (request.timeout === undefined ? undefined : Args.integer(`${path}timeout`, timeoutSeconds ?? Number.NaN, 1)) ??
    (idempotencyKey === undefined ? undefined : Args.name(`${path}idempotencyKey`, idempotencyKey, maxKeyBytes)) ??
    Args.integer(`${path}payloadVersion`, payloadVersion, 1)
  if (invalid !== undefined) return yield* invalid
  if (!Stage.literals.includes(stage)) {
    return yield* argument("stage", `must be one of ${Stage.literals.join(", ")}`)
  }
  if (request.delay !== undefined && runAt !== undefined) return yield* argument("delay", "must not stand beside runAt")
  if (request.delay !== undefined && (delay === undefined || delay < 0 || delay > maxDelay)) {
    return yield* argument("delay", "must last between 0 and 36,525 days")
  }
  if (runAt !== undefined && (DateTime.isLessThan(runAt, minInstant) || DateTime.isGreaterThan(runAt, maxInstant))) {
    return yield* argument("runAt", "must lie between the years 1 and 9999")
  }
  const payload = yield* Effect.mapError(Effect.fromResult(JsonText.encode(request.payload)), (rule) =>
    argument("payload", rule)
  )
  // six fractional digits, as the stored request has them
  const nextRunAt = runAt === undefined ? null : DateTime.formatIso(runAt).replace("Z", "000Z")
  const fields = {
    priority: priority ?? null,
    max_attempts: maxAttempts ?? null,
    timeout_seconds: timeoutSeconds ?? null
  }
  const head = JSON.stringify({
    ...fields,
    ordinal,
    job_type: jobType,
    organization_id: organizationId ?? null,
    next_run_at_text: nextRunAt,
    delay_ms: delay ?? null,
    idempotency_key: idempotencyKey ?? null,
    stage,
    payload_version: payloadVersion
  })
  return {
    ordinal,
    identity:
      idempotencyKey === undefined
        ? undefined
        : JSON.stringify([jobType, organizationId?.toLowerCase() ?? null, idempotencyKey]),
    jobType,
    text: `${head.slice(0, -1)},"payload":${payload}}`,
    snapshot: {
      ...fields,
      payload: request.payload,
      next_run_at: nextRunAt,
      stage,
      ...(delay === undefined ? {} : { delay_ms: delay })
    }
  }
})

/** The fields of two requests that differ, in alphabetical order. */
const differences = (a: Encoded["snapshot"], b: Encoded["snapshot"]): ReadonlyArray<string> =>
  [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .filter((key) => JsonText.canonical(a[key] ?? null) !== JsonText.canonical(b[key] ?? null))
    .sort()

const maxStatementBytes = 8 * 1024 * 1024

/** Splits by rows and bytes; keyed requests in the order of their keys, so that all batches take their keys in one order. */
const chunksOf = (items: ReadonlyArray<Encoded>): ReadonlyArray<ReadonlyArray<Encoded>> => {
  const ordered = items.toSorted((a, b) =>
    a.identity === b.identity ? 0 : (a.identity ?? "") < (b.identity ?? "") ? -1 : 1
  )
  const chunks: Array<Array<Encoded>> = []
  let bytes = Number.POSITIVE_INFINITY
  for (const item of ordered) {
    const chunk = chunks.at(-1)
    if (chunk === undefined || chunk.length === maxBatch || bytes + item.text.length > maxStatementBytes) {
      chunks.push([item])
      bytes = item.text.length
    } else {
      chunk.push(item)
      bytes += item.text.length
    }
  }
  return chunks
}
