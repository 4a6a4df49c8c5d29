/**
 * From intents to jobs.
 *
 * **Intent before job.** A promotion locks its intents first, and then enqueues under their keys. It may wait for another
 * transaction that enqueues the same key, for half a second; it never waits for a job. A job that was there already is held
 * `FOR KEY SHARE` until the commit, which no claim, heartbeat or completion notices, but which a deletion does: so no intent is
 * promoted to a job that is deleted at the same time. What cannot be held is being deleted, and its intent is left as it is.
 *
 * A deletion of jobs comes from the other side: it holds the jobs first (`retain.ts`), and waits for no intent that is pending.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import * as Args from "../internal/arguments.ts"
import { isReadCommitted, NotReadCommitted, readCommitted } from "../internal/isolation.ts"
import { isPoisoned } from "../internal/poison.ts"
import { isJobId } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { type JobId, Stage } from "../Job.ts"
import { IntentId } from "../JobIntent.ts"
import { type Enqueued, type EnqueueRefusal, requestSnapshot, run } from "../jobs/enqueue.ts"
import { type EncodedRequest, identityOf } from "../jobs/enqueueRequest.ts"
import { maxBatch, maxKeyBytes, maxTypeBytes } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { type InvalidArgument, QueryFailed, type UnsupportedIsolation, type WriteReason } from "../Reason.ts"

/** What to promote. */
export interface PromoteOptions {
  /** The job types: whatever else is recorded is left alone. At most 1,000. */
  readonly types: ReadonlyArray<string>
  /** How many intents at most: 1 to 1,000. */
  readonly limit: number
}

/** What {@link promote} did. */
export interface Promotion {
  /** Intents that led to a new job. */
  readonly inserted: number
  /** Intents whose job was there already: the same request had been enqueued directly. */
  readonly existing: number
  /** Intents whose key belongs to another request, or that can never be enqueued. */
  readonly conflicted: number
  /** Intents that were left as they are, because their type was disabled meanwhile. */
  readonly definitionUnavailable: number
  /** Intents that could not be enqueued now. They are tried again, after 1 second at first and 5 minutes at most. */
  readonly deferred: number
  /** Each intent that is conflicted or deferred, or that the database does not even let us put off. */
  readonly failures: ReadonlyArray<PromotionFailure>
  /** Whether the batch was full, so that more is likely to be there. */
  readonly batchWasFull: boolean
}

/** An intent that did not become a job, and why. */
export interface PromotionFailure {
  readonly intentId: IntentId
  readonly jobType: string
  readonly code: string
  readonly message: string
  readonly became: "conflicted" | "deferred" | "left"
}

/** What {@link promote} can fail with. */
export type PromoteReason = InvalidArgument | UnsupportedIsolation | WriteReason

/**
 * Enqueues what was recorded for these types, if they are declared and enabled: the oldest first, with the defaults of the
 * definitions of today. Intents and jobs are written in one transaction, so a crash leaves either both or neither.
 *
 * Any number of processes may promote at once: what others hold is skipped. If the database refuses the batch, it is halved
 * until the row at fault is found, which is put off alone; so is an intent whose key another transaction holds for long. An
 * intent whose stored request does not match its columns is put off too, and never enqueued. A batch is also limited to about 8
 * MiB of payloads.
 *
 * Fails with `InvalidArgument` (types, limit), `UnsupportedIsolation`, or what any write can fail with. Locks intents
 * `FOR NO KEY UPDATE SKIP LOCKED`, and jobs that were there already `FOR KEY SHARE SKIP LOCKED`; writes `job_enqueue_intents` and
 * `job_queue`.
 *
 * @example
 * ```ts
 * import { Effect } from "effect"
 * import { JobIntents } from "effect-runledger"
 *
 * const promoted = Effect.map(JobIntents.promote({ types: ["crm.import"], limit: 100 }), ({ inserted }) => inserted)
 * ```
 */
export const promote: (options: PromoteOptions) => Effect.Effect<Promotion, QueryError<PromoteReason>, SqlClient> =
  Effect.fnUntraced(function* ({
    types,
    limit
  }: PromoteOptions): Effect.fn.Return<Promotion, PromoteReason | SqlError, SqlClient> {
    const invalid = Args.integer("limit", limit, 1, maxBatch) ?? invalidTypes(types)
    if (invalid !== undefined) return yield* invalid
    const distinct = [...new Set(types)]
    const sql = yield* Sql.client
    // nothing to do is what there is most of the time: then no transaction is opened
    if (distinct.length === 0 || (!(yield* Sql.inTransaction(sql)) && !(yield* isAnyEligible(distinct)))) return nothing
    return yield* readCommitted("job.unsupported_isolation")(transaction(promoteBatch(distinct, limit)))
  }, writing("JobIntents.promote"))

const nothing: Promotion = {
  inserted: 0,
  existing: 0,
  conflicted: 0,
  definitionUnavailable: 0,
  deferred: 0,
  failures: [],
  batchWasFull: false
}

/** The rule that a list of types breaks. */
export const invalidTypes = (types: ReadonlyArray<string>): InvalidArgument | undefined => {
  for (const type of types) {
    const invalid = Args.name("types", type, maxTypeBytes)
    if (invalid !== undefined) return invalid
  }
  return Args.atMost("types", types.length, maxBatch)
}

/** The types that have something to promote, the one that has waited longest first. */
const lanesOf = (sql: SqlClient, types: ReadonlyArray<string>): Fragment => sql`
    lane AS MATERIALIZED (
      SELECT t.job_type, head.next_promotion_at
      FROM input i
      CROSS JOIN unnest(${types}::text[]) AS t (job_type)
      CROSS JOIN LATERAL (
        -- the limits keep these look-ups per type
        SELECT FROM runledger.job_definitions d WHERE d.job_type = t.job_type AND d.is_enabled LIMIT 1
      ) enabled
      CROSS JOIN LATERAL (
        SELECT n.next_promotion_at
        FROM runledger.job_enqueue_intents n
        WHERE n.status = 'PENDING' AND n.job_type = t.job_type AND n.next_promotion_at <= i.at
        ORDER BY n.next_promotion_at
        LIMIT 1
      ) head
      ORDER BY head.next_promotion_at
    )`

const isAnyEligible = Effect.fnUntraced(function* (types: ReadonlyArray<string>) {
  const { sql, instant } = yield* Sql.clocked
  const [row] = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at
    ), ${lanesOf(sql, types)}
    SELECT EXISTS (SELECT FROM lane) AS is_any_eligible
  `
  return row?.is_any_eligible === true
})

/** An intent that this transaction has locked. */
interface Locked {
  readonly id: IntentId
  readonly jobType: string
  readonly request: EncodedRequest & { readonly identity: string }
}

/** What becomes of an intent. */
type Mark =
  | { readonly as: "inserted" | "existing"; readonly jobId: JobId }
  | { readonly as: "conflicted" | "deferred"; readonly code: string; readonly message: string }

interface Marked {
  readonly id: IntentId
  readonly jobType: string
  readonly mark: Mark
}

/** An update changed other rows than it was meant to. */
class TransitionFailed extends Data.TaggedError("TransitionFailed") {
  readonly code = "job.intent_transition_failed"
  override readonly message = "The intent did not take its new state"
}

/** Why a batch has to be taken apart: the database refused a row of it, or somebody holds the key of one. */
const isRefused = (reason: { readonly _tag: string }): reason is TransitionFailed | WriteReason =>
  isPoisoned(reason) || reason._tag === "TransitionFailed" || isHeld(reason)

const isHeld = (reason: { readonly _tag: string }): boolean =>
  reason._tag === "Unavailable" &&
  (("origin" in reason && reason.origin === "busy") || ("sqlState" in reason && reason.sqlState === "55P03"))

/** How long a promotion waits for a key; a stricter limit of the caller's is kept. */
const waitAtMost = (limit: "500ms" | "50ms") => `
        set_config(
          'lock_timeout',
          CASE
            WHEN current_setting('lock_timeout')::interval BETWEEN interval '1 millisecond' AND interval '${limit}'
              THEN current_setting('lock_timeout')
            ELSE '${limit}'
          END,
          true
        ) AS lock_timeout`

const promoteBatch = Effect.fnUntraced(function* (types: ReadonlyArray<string>, limit: number) {
  const sql = yield* Sql.client
  const { callers, taken, intents, refused } = yield* lock(types, limit)
  const marked: Array<Marked> = []
  const failures: Array<PromotionFailure> = []
  let definitionUnavailable = 0

  const attempt = (items: ReadonlyArray<Locked>) =>
    transaction(
      Effect.gen(function* () {
        const made = yield* enqueueAll(items)
        yield* write(made.marked)
        marked.push(...made.marked)
        definitionUnavailable += made.definitionUnavailable
      })
    )
  const putOff = (items: ReadonlyArray<Marked>) =>
    Effect.forEach(
      items,
      (item) =>
        transaction(write([item])).pipe(
          Effect.andThen(Effect.sync(() => void marked.push(item))),
          Effect.catchIf(isRefused, ({ code, message }) =>
            Effect.sync(
              () => void failures.push({ intentId: item.id, jobType: item.jobType, code, message, became: "left" })
            )
          )
        ),
      { discard: true }
    )
  // halves of an order that all batches have, so two that are taken apart at once do not deadlock over keys
  const settle = (items: ReadonlyArray<Locked>): Effect.Effect<void, SettleError, SqlClient> =>
    items.length === 0
      ? Effect.void
      : attempt(items).pipe(
          Effect.catchIf(
            isRefused,
            Effect.fnUntraced(function* (reason): Effect.fn.Return<void, SettleError, SqlClient> {
              const [first, ...others] = items
              if (first === undefined) return
              // the next ones that are held are not to take as long
              if (isHeld(reason)) yield* sql`SELECT ${sql.literal(waitAtMost("50ms"))}`
              if (others.length === 0) {
                const { code, message } = reason
                return yield* putOff([
                  { id: first.id, jobType: first.jobType, mark: { as: "deferred", code, message } }
                ])
              }
              const half = Math.ceil(items.length / 2)
              yield* settle(items.slice(0, half))
              yield* settle(items.slice(half))
            })
          )
        )

  yield* settle(intents.toSorted((a, b) => (a.request.identity < b.request.identity ? -1 : 1)))
  yield* putOff(refused)
  // in a transaction of our own the setting ends with it
  yield* sql`SELECT set_config('lock_timeout', ${callers}, true)`

  const count = (as: Mark["as"]) => marked.filter(({ mark }) => mark.as === as).length
  for (const { id, jobType, mark } of marked) {
    if ("jobId" in mark) continue
    failures.push({ intentId: id, jobType, code: mark.code, message: mark.message, became: mark.as })
  }
  return {
    inserted: count("inserted"),
    existing: count("existing"),
    conflicted: count("conflicted"),
    deferred: count("deferred"),
    definitionUnavailable,
    failures,
    // a batch of nothing but intents that stay as they are would come back as it is
    batchWasFull: (taken >= limit || taken > intents.length + refused.length) && marked.length > 0
  }
})

type SettleError = WriteReason | UnsupportedIsolation | SqlError

const maxBytes = 8 * 1024 * 1024

/**
 * Locks the intents that are next, type by type, without waiting, and checks them: what cannot be enqueued is told apart.
 *
 * Only as many are locked as are wanted: the outer limit stops the look-ups. Those beyond the first 8 MiB stay locked, and as
 * they are, until the end of the transaction; they make the batch a full one.
 */
const lock = Effect.fnUntraced(function* (types: ReadonlyArray<string>, limit: number) {
  const { sql, instant } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT
        ${instant} AS at, ${sql.literal(isReadCommitted)} AS is_read_committed,
        current_setting('lock_timeout') AS callers_lock_timeout, ${sql.literal(waitAtMost("500ms"))}
    ), ${lanesOf(sql, types)}, locked AS MATERIALIZED (
      SELECT n.*
      FROM lane l
      CROSS JOIN LATERAL (
        SELECT
          n.id, n.job_type, n.payload_version, n.organization_id, n.payload, n.priority, n.max_attempts, n.timeout_seconds,
          n.delay_ms, n.idempotency_key, n.stage, n.trace_parent, n.enqueue_request, n.execution_resource_key,
          to_char(n.next_run_at AT TIME ZONE 'UTC', ${sql.literal(isoFormat)}) AS next_run_at_text,
          to_char(n.created_at AT TIME ZONE 'UTC', ${sql.literal(isoFormat)}) AS created_at_text
        FROM runledger.job_enqueue_intents n
        WHERE n.status = 'PENDING' AND n.job_type = l.job_type AND n.next_promotion_at <= (SELECT at FROM input)
          AND ${sql.literal(isReadCommitted)}
        ORDER BY n.next_promotion_at, n.id
        LIMIT ${limit}
        FOR NO KEY UPDATE SKIP LOCKED
      ) n
      LIMIT ${limit}
    ), sized AS MATERIALIZED (
      SELECT
        r.*, r.payload::text AS payload_text, ${sql.literal(requestSnapshot)} IS NOT DISTINCT FROM r.enqueue_request AS is_same,
        count(*) OVER ()::int4 AS taken, octet_length(r.payload::text) AS bytes
      FROM locked r
    ), chosen AS (
      SELECT s.*, sum(s.bytes) OVER (ORDER BY s.id) - s.bytes AS bytes_before FROM sized s
    )
    SELECT
      i.callers_lock_timeout, i.is_read_committed,
      c.id, c.job_type, c.payload_version, c.organization_id, c.payload_text, c.priority, c.max_attempts, c.timeout_seconds,
      c.delay_ms::float8 AS delay_ms, c.idempotency_key, c.stage, c.execution_resource_key, c.trace_parent,
      c.next_run_at_text, c.created_at_text, c.is_same, c.taken
    FROM input i
    LEFT JOIN chosen c ON c.bytes_before < ${maxBytes}
    ORDER BY c.id
  `
  const [head] = rows
  if (head?.is_read_committed !== true) return yield* new NotReadCommitted()
  const callers = head.callers_lock_timeout
  if (!Predicate.isString(callers)) return yield* new QueryFailed({})
  const intents: Array<Locked> = []
  const refused: Array<Marked> = []
  const decoded = head.id === null ? [] : yield* decodeRows(rows)
  for (const row of decoded) {
    const { id, job_type: jobType } = row
    const failure = failureOf(row)
    if (failure !== undefined) {
      refused.push({ id, jobType, mark: failure })
      continue
    }
    if (!isStage(row.stage)) continue
    const identity = identityOf(jobType, row.organization_id, row.idempotency_key)
    intents.push({
      id,
      jobType,
      request: {
        ordinal: 0,
        identity,
        jobType,
        organizationId: row.organization_id,
        priority: row.priority,
        maxAttempts: row.max_attempts,
        timeoutSeconds: row.timeout_seconds,
        nextRunAt: row.next_run_at_text,
        delayMillis: row.delay_ms,
        idempotencyKey: row.idempotency_key,
        executionResourceKey: row.execution_resource_key,
        stage: row.stage,
        payloadVersion: row.payload_version,
        payload: row.payload_text,
        contract: null,
        snapshot: {},
        recorded: { traceParent: row.trace_parent, at: row.created_at_text }
      }
    })
  }
  return { callers, intents, refused, taken: decoded[0]?.taken ?? 0 }
})

const isoFormat = `'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'`

const IntentRow = Schema.Struct({
  id: IntentId,
  job_type: Schema.String,
  payload_version: Schema.Int,
  organization_id: Schema.NullOr(Schema.String),
  payload_text: Schema.String,
  priority: Schema.NullOr(Schema.Int),
  max_attempts: Schema.NullOr(Schema.Int),
  timeout_seconds: Schema.NullOr(Schema.Int),
  delay_ms: Schema.NullOr(Schema.Number),
  idempotency_key: Schema.String,
  stage: Schema.String,
  execution_resource_key: Schema.NullOr(Schema.String),
  trace_parent: Schema.NullOr(Schema.String),
  next_run_at_text: Schema.NullOr(Schema.String),
  created_at_text: Schema.String,
  is_same: Schema.Boolean,
  taken: Schema.Int
})

const decodeIntents = Schema.decodeUnknownEffect(Schema.Array(IntentRow))

const decodeRows = (rows: unknown) => Effect.mapError(decodeIntents(rows), () => new QueryFailed({}))

const isStage = Schema.is(Stage)

/** Why a stored intent cannot be enqueued, if it cannot: rows are written by `record`, but anybody can write to a database. */
const failureOf = (row: typeof IntentRow.Type): Extract<Mark, { readonly code: string }> | undefined => {
  if (!isStage(row.stage)) {
    return { as: "conflicted", code: "job.invalid_stage", message: "The intent has a stage that no job can have" }
  }
  const invalid =
    Args.name("job_type", row.job_type, maxTypeBytes) ??
    Args.name("idempotency_key", row.idempotency_key, maxKeyBytes) ??
    (row.priority === null ? undefined : Args.integer("priority", row.priority, -100, 100))
  if (invalid !== undefined) {
    return { as: "conflicted", code: "job.intent_invalid_persisted_row", message: `The stored ${invalid.message}` }
  }
  return row.is_same
    ? undefined
    : {
        as: "deferred",
        code: "job.intent_snapshot_mismatch",
        message: "The intent does not match the recorded request"
      }
}

/** Enqueues the jobs of these intents, and says what is to become of each. */
const enqueueAll = Effect.fnUntraced(function* (items: ReadonlyArray<Locked>) {
  // ids of jobs are in the order in which the intents were recorded
  const ordered = items.toSorted((a, b) => (a.id < b.id ? -1 : 1))
  const answers = yield* run(ordered.map(({ request }, ordinal) => ({ ...request, ordinal })))
  const found = answers.flatMap((answer) =>
    Result.isSuccess(answer) && answer.success.disposition === "existing" ? [answer.success.jobId] : []
  )
  const held = found.length === 0 ? new Set<JobId>() : yield* hold(found)
  const marked: Array<Marked> = []
  let definitionUnavailable = 0
  for (const [index, answer] of answers.entries()) {
    const item = ordered[index]
    if (item === undefined) return yield* new QueryFailed({})
    const mark = markOf(answer)
    if (mark === undefined) definitionUnavailable += 1
    else if (mark.as !== "existing" || held.has(mark.jobId)) marked.push({ id: item.id, jobType: item.jobType, mark })
  }
  return { marked, definitionUnavailable }
})

const markOf = (answer: Result.Result<Enqueued, EnqueueRefusal>): Mark | undefined => {
  if (Result.isSuccess(answer)) return { as: answer.success.disposition, jobId: answer.success.jobId }
  const { _tag, code, message } = answer.failure
  return _tag === "DefinitionUnavailable" ? undefined : { as: "conflicted", code, message }
}

/** Keeps these jobs from being deleted until the end of the transaction; returns those that are not being deleted already. */
const hold = Effect.fnUntraced(function* (jobIds: ReadonlyArray<JobId>) {
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT q.id
    FROM runledger.job_queue q
    WHERE q.id = ANY (${jobIds}::uuid[])
    ORDER BY q.id
    FOR KEY SHARE SKIP LOCKED
  `
  return new Set(rows.map(({ id }) => id).filter(isJobId))
})

/** Gives locked intents their new state: all of them, or the batch fails. */
const write = Effect.fnUntraced(function* (items: ReadonlyArray<Marked>) {
  if (items.length === 0) return
  const { sql, instant } = yield* Sql.clocked
  const marks = Object.fromEntries(
    items.map(({ id, mark }) => [
      id,
      "jobId" in mark
        ? { status: "PROMOTED", job_id: mark.jobId }
        : {
            status: mark.as === "conflicted" ? "CONFLICTED" : "PENDING",
            code: mark.code,
            message: Args.diagnostic(mark.message)
          }
    ])
  )
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, ${JSON.stringify(marks)}::jsonb AS marks
    )
    UPDATE runledger.job_enqueue_intents n
    SET
      promotion_attempts = n.promotion_attempts + 1,
      (
        status, promoted_job_id, promoted_at, conflicted_at, last_error_code, last_error_message, last_attempted_at, updated_at,
        next_promotion_at
      ) = (
        -- looked up by key, not joined
        SELECT
          m.status, m.job_id, CASE WHEN m.status = 'PROMOTED' THEN i.at END, CASE WHEN m.status = 'CONFLICTED' THEN i.at END,
          m.code, m.message, i.at, i.at,
          CASE WHEN m.status <> 'PENDING' THEN n.next_promotion_at ELSE
            i.at + interval '1 second' * (
              LEAST(240, 2 ^ LEAST(n.promotion_attempts, 9))
              + random() * LEAST(60, 0.25 * 2 ^ LEAST(n.promotion_attempts, 9))
            )
          END
        FROM input i
        CROSS JOIN LATERAL jsonb_to_record(i.marks -> n.id::text) AS m (status text, job_id uuid, code text, message text)
      )
    -- pending, said so that no partial index seems to serve
    WHERE n.id = ANY (${items.map(({ id }) => id)}::uuid[]) AND n.promoted_at IS NULL AND n.conflicted_at IS NULL
    RETURNING n.id
  `
  if (rows.length !== items.length) return yield* new TransitionFailed()
  return undefined
})
