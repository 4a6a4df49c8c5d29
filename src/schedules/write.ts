import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type { Json } from "effect/Schema"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import * as JsonText from "../internal/json.ts"
import * as Sql from "../internal/sql.ts"
import { transaction } from "../internal/transaction.ts"
import { patience } from "../internal/waiting.ts"
import type { AnyContract } from "../JobContract.ts"
import * as JobDefinitions from "../JobDefinitions.ts"
import { type JobSchedule, ScheduleRow, scheduleColumns } from "../JobSchedule.ts"
import { maxBatch } from "../jobs/limits.ts"
import { type QueryError, writing } from "../QueryError.ts"
import { InvalidArgument, QueryFailed, Unavailable, type WriteReason } from "../Reason.ts"
import { type InvalidSchedule, ScheduleDefinitionUnavailable, ScheduleOwnedElsewhere } from "../ScheduleReason.ts"
import {
  type EncodedSchedule,
  encode,
  invalidName,
  maxNameBytes,
  type ScheduleRequest,
  type TypedScheduleRequest
} from "./encode.ts"

/** What {@link upsert} can fail with. */
export type ScheduleWriteReason = InvalidArgument | InvalidSchedule | ScheduleDefinitionUnavailable | WriteReason

/** What {@link sync} and {@link syncExact} can fail with. */
export type ScheduleSyncReason = ScheduleWriteReason | ScheduleOwnedElsewhere

/**
 * Creates a schedule, or replaces what is declared of the one with this name: job, payload, times, jitter. Whether an existing
 * schedule is active stays as it is, and so does its organization. Its next time stays too, unless expression, zone or overlap
 * changed: then it is the first that they mean, or `nextFireAt`. Writes nothing if nothing differs; a change lets a schedule
 * that was postponed be tried again at once.
 *
 * The contract of a typed schedule is declared first (see `JobDefinitions.declare`). A schedule needs a definition of its job
 * type, and an active one needs an enabled definition.
 *
 * Fails with `InvalidSchedule` (name, cron, timezone, jitter) and `InvalidArgument` before anything is sent, with
 * `ScheduleDefinitionUnavailable`, `Unavailable` (somebody held the definition or the schedule for five seconds), or what any
 * write can fail with. Locks the definition `FOR SHARE`, then the schedule; writes `job_schedules`, and `job_definitions` for a
 * contract that is newer.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const nightly = JobSchedules.upsert({
 *   name: "report.nightly",
 *   jobType: "report.send",
 *   payload: { to: "ops@example.com" },
 *   cron: "30 2 * * *",
 *   timezone: "Europe/London"
 * })
 * ```
 */
export const upsert: (
  request: ScheduleRequest | TypedScheduleRequest
) => Effect.Effect<JobSchedule, QueryError<ScheduleWriteReason>, SqlClient> = Effect.fnUntraced(function* (
  request: ScheduleRequest | TypedScheduleRequest
) {
  const encoded = yield* encode(request, "")
  const { schedules } = yield* Effect.catchTag(
    write([encoded], { keepsActive: true, owner: undefined, absent: undefined }),
    "ScheduleOwnedElsewhere",
    // nobody's name is given
    () => new QueryFailed({})
  )
  const [stored] = schedules
  return stored === undefined ? yield* new QueryFailed({}) : stored
}, writing("JobSchedules.upsert"))

/** What a sync did, as the names of the schedules, each list sorted. */
export interface SyncReport {
  readonly inserted: ReadonlyArray<string>
  readonly updated: ReadonlyArray<string>
  readonly unchanged: ReadonlyArray<string>
  /** Those that were active and are declared no more. */
  readonly deactivated: ReadonlyArray<string>
}

/** How a sync is done. */
export interface SyncOptions {
  /** Whose schedules they are: a name of at most 255 bytes. Those that have no owner yet become theirs. Default: nobody's. */
  readonly owner?: string | undefined
}

/**
 * Declares the schedules of an application: like {@link upsert} for each, all or none, but whether a schedule is active is
 * declared too. What an operator paused (`setActive`) stays paused. A schedule that becomes active again by a sync goes on with
 * its next time: while it was not declared, it missed none. Other schedules are left alone. At most 1,000.
 *
 * Fails as {@link upsert}, and with `ScheduleOwnedElsewhere`. Locks definitions in order of type, then schedules in order of
 * name; one transaction, a savepoint in a caller's.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const synced = JobSchedules.sync([
 *   { name: "report.nightly", jobType: "report.send", cron: "30 2 * * *", timezone: "Europe/London" },
 *   { name: "cache.warm", jobType: "cache.warm", cron: "0,30 * * * *", overlap: "both", maxJitter: "1 minute" }
 * ])
 * ```
 */
export const sync: (
  schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>,
  options?: SyncOptions
) => Effect.Effect<SyncReport, QueryError<ScheduleSyncReason>, SqlClient> = Effect.fnUntraced(function* (
  schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>,
  { owner }: SyncOptions = {}
) {
  const encoded = yield* encodeAll(schedules)
  const invalid = owner === undefined ? undefined : Args.name("owner", owner, maxNameBytes)
  if (invalid !== undefined) return yield* invalid
  if (encoded.length === 0) return nothing
  return (yield* write(encoded, { keepsActive: false, owner, absent: undefined })).report
}, writing("JobSchedules.sync"))

/** Which schedules an exact sync answers for: all of an owner, or those that are named. */
export type SyncScope = { readonly owner: string } | { readonly names: ReadonlyArray<string> }

/**
 * {@link sync}, and deactivates what is in the scope but not declared; nothing outside of it is touched. No schedules at all
 * deactivate the whole scope. With `names`, every schedule must be among them; with `owner`, the schedules become the owner's.
 *
 * Fails and locks as {@link sync}; `InvalidArgument` also for an empty scope, or a schedule outside of it.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const synced = JobSchedules.syncExact(
 *   [{ name: "report.nightly", jobType: "report.send", cron: "30 2 * * *" }],
 *   { owner: "reporting" }
 * )
 * ```
 */
export const syncExact: (
  schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>,
  scope: SyncScope
) => Effect.Effect<SyncReport, QueryError<ScheduleSyncReason>, SqlClient> = Effect.fnUntraced(function* (
  schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>,
  scope: SyncScope
) {
  const encoded = yield* encodeAll(schedules)
  if ("owner" in scope) {
    const invalid = Args.name("scope.owner", scope.owner, maxNameBytes)
    if (invalid !== undefined) return yield* invalid
    return (yield* write(encoded, { keepsActive: false, owner: scope.owner, absent: [] })).report
  }
  const names = new Set(scope.names)
  const refused =
    names.size === 0
      ? new InvalidArgument({ argument: "scope.names", rule: "must not be empty" })
      : Args.atMost("scope.names", names.size, maxBatch)
  if (refused !== undefined) return yield* refused
  for (const [place, name] of scope.names.entries()) {
    const invalid = invalidName(`scope.names[${place}]`, name)
    if (invalid !== undefined) return yield* invalid
  }
  for (const [place, { name }] of encoded.entries()) {
    if (!names.has(name)) {
      return yield* new InvalidArgument({ argument: `schedules[${place}].name`, rule: "must be in the scope" })
    }
  }
  return (yield* write(encoded, { keepsActive: false, owner: undefined, absent: [...names] })).report
}, writing("JobSchedules.syncExact"))

const nothing: SyncReport = { inserted: [], updated: [], unchanged: [], deactivated: [] }

const encodeAll = Effect.fnUntraced(function* (
  schedules: ReadonlyArray<ScheduleRequest | TypedScheduleRequest>
): Effect.fn.Return<ReadonlyArray<EncodedSchedule>, InvalidArgument | InvalidSchedule> {
  const tooMany = Args.atMost("schedules", schedules.length, maxBatch)
  if (tooMany !== undefined) return yield* tooMany
  const encoded: Array<EncodedSchedule> = []
  const names = new Set<string>()
  for (const [place, request] of schedules.entries()) {
    const each = yield* encode(request, `schedules[${place}].`)
    if (names.has(each.name)) {
      return yield* new InvalidArgument({ argument: `schedules[${place}].name`, rule: "must not stand there twice" })
    }
    names.add(each.name)
    encoded.push(each)
  }
  return encoded
})

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

interface Mode {
  /** Whether an existing schedule keeps its `is_active`. */
  readonly keepsActive: boolean
  readonly owner: string | undefined
  /** The names beside the owner's that an exact sync answers for; `undefined` if it is not exact. */
  readonly absent: ReadonlyArray<string> | undefined
}

/** A row to be written; `id` is that of an existing schedule. */
interface Change {
  readonly id: string | null
  readonly schedule: EncodedSchedule
  readonly owner: string | null
  readonly isActive: boolean
  readonly nextFireAt: number
}

const maxRounds = 5

/**
 * Definitions first, then schedules, each in one order, in statements of their own: whoever disables a definition holds its row
 * and then looks for active schedules, so that one of the two sees the other.
 */
const write = Effect.fnUntraced(function* (encoded: ReadonlyArray<EncodedSchedule>, mode: Mode) {
  return yield* transaction(
    Effect.gen(function* () {
      const { sql } = yield* Sql.clocked
      const contracts = new Map<string, AnyContract>()
      for (const { contract } of encoded) {
        if (contract !== undefined) contracts.set(`${contract.jobType} ${contract.version}`, contract)
      }
      yield* Effect.forEach(
        [...contracts.values()].sort((a, b) => (a.jobType < b.jobType ? -1 : 1)),
        (contract) => Effect.mapError(JobDefinitions.declare(contract), ({ reason }) => reason),
        { discard: true }
      )
      const { definitions, lockTimeout } = yield* lockDefinitions(encoded.map(({ jobType }) => jobType))
      const inserted = new Map<string, JobSchedule>()
      const updated = new Map<string, JobSchedule>()
      for (let round = 0; round < maxRounds; round++) {
        const { at, stored } = yield* lockSchedules([...encoded.map(({ name }) => name), ...(mode.absent ?? [])], mode)
        const changes: Array<Change> = []
        const unchanged: Array<JobSchedule> = []
        for (const schedule of encoded) {
          const before = stored.get(schedule.name)
          if (mode.owner !== undefined && before !== undefined) {
            const owner = Option.getOrElse(before.owner, () => mode.owner)
            if (owner !== undefined && owner !== mode.owner) {
              return yield* new ScheduleOwnedElsewhere({ schedule: schedule.name, owner })
            }
          }
          const change = yield* changeOf(schedule, before, mode, at)
          const isOurs = inserted.has(schedule.name) || updated.has(schedule.name)
          if (change === undefined && before !== undefined && !isOurs) unchanged.push(before)
          if (change === undefined) continue
          const isEnabled = definitions.get(schedule.jobType)
          if (isEnabled === undefined || (change.isActive && !isEnabled)) {
            const state = isEnabled === undefined ? "missing" : "disabled"
            return yield* new ScheduleDefinitionUnavailable({
              schedule: schedule.name,
              jobType: schedule.jobType,
              state
            })
          }
          changes.push(change)
        }
        const news = new Set(changes.flatMap(({ id, schedule }) => (id === null ? [schedule.name] : [])))
        const written = yield* store(changes)
        for (const each of written) (news.has(each.name) ? inserted : updated).set(each.name, each)
        // another transaction created one of them meanwhile: it is there in the next round
        if (written.length < changes.length) continue
        const declared = new Set(encoded.map(({ name }) => name))
        const absent =
          mode.absent === undefined
            ? []
            : [...stored.values()].filter(({ name, isActive }) => isActive && !declared.has(name))
        yield* deactivate(absent.map(({ id }) => id))
        // in a transaction of our own the setting ends with it
        yield* sql`SELECT set_config('lock_timeout', ${lockTimeout}, true)`
        const names = (schedules: ReadonlyArray<JobSchedule>) => schedules.map(({ name }) => name).sort()
        const report: SyncReport = {
          inserted: [...inserted.keys()].sort(),
          updated: [...updated.keys()].sort(),
          unchanged: names(unchanged),
          deactivated: names(absent)
        }
        return { schedules: [...inserted.values(), ...updated.values(), ...unchanged], report }
      }
      return yield* new Unavailable({ origin: "busy" })
    })
  )
})

const lockDefinitions = Effect.fnUntraced(function* (types: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${[...new Set(types)]}::text[] AS types, ${sql.literal(patience)}
    )
    SELECT i.callers_lock_timeout, d.*
    FROM input i
    LEFT JOIN LATERAL (
      SELECT d.job_type, d.is_enabled
      FROM runledger.job_definitions d
      WHERE d.job_type = ANY (i.types)
      ORDER BY d.job_type
      FOR SHARE
    ) d ON true
  `
  const definitions = new Map<string, boolean>()
  for (const { job_type, is_enabled } of rows) {
    if (Predicate.isString(job_type)) definitions.set(job_type, is_enabled === true)
  }
  return { definitions, lockTimeout: rows[0]?.callers_lock_timeout }
})

const decodeRows = Schema.decodeUnknownEffect(Schema.Array(ScheduleRow))
const decodeAt = Schema.decodeUnknownEffect(Schema.NonEmptyArray(Schema.Struct({ at: Schema.Date })))

const lockSchedules = Effect.fnUntraced(function* (names: ReadonlyArray<string>, mode: Mode) {
  const { sql, instant } = yield* Sql.clocked
  const owner = mode.absent === undefined ? undefined : mode.owner
  const rows = yield* sql`
    SELECT ${instant} AS at, s.*
    FROM (SELECT) AS always
    LEFT JOIN (
      SELECT ${sql.literal(scheduleColumns)}
      FROM runledger.job_schedules
      WHERE name = ANY (${[...new Set(names)]}::text[])
        ${owner === undefined ? sql.literal("") : sql`OR owner = ${owner}`}
      ORDER BY name
      FOR NO KEY UPDATE
    ) s ON true
  `
  const [{ at }] = yield* decodeAt(rows)
  const stored = yield* decodeRows(rows.filter(({ id }) => id !== null))
  return { at: at.getTime(), stored: new Map(stored.map((schedule) => [schedule.name, schedule])) }
})

const changeOf = Effect.fnUntraced(function* (
  schedule: EncodedSchedule,
  before: JobSchedule | undefined,
  mode: Mode,
  at: number
): Effect.fn.Return<Change | undefined, InvalidSchedule> {
  const first =
    schedule.nextFireAt === undefined
      ? Effect.suspend(() => Effect.fromResult(schedule.times.after(at)))
      : Effect.succeed(schedule.nextFireAt)
  if (before === undefined) {
    const { isActive } = schedule
    return { id: null, schedule, owner: mode.owner ?? null, isActive, nextFireAt: yield* first }
  }
  const isActive = mode.keepsActive ? before.isActive : schedule.isActive && Option.isNone(before.pausedAt)
  const owner = Option.getOrElse(before.owner, () => mode.owner ?? null)
  const newTimes =
    schedule.cron !== before.cron || schedule.timezone !== before.timezone || schedule.overlap !== before.overlap
  const isSame =
    !newTimes &&
    isActive === before.isActive &&
    owner === Option.getOrNull(before.owner) &&
    schedule.jobType === before.jobType &&
    schedule.payloadVersion === before.payloadVersion &&
    schedule.carriesTime === before.carriesTime &&
    schedule.maxJitterSeconds === before.maxJitterSeconds &&
    JsonText.canonical(schedule.payload) === JsonText.canonical(before.payload)
  if (isSame) return undefined
  const restarts = newTimes || (isActive && !before.isActive)
  const nextFireAt = restarts ? yield* first : before.nextFireAt.epochMilliseconds
  return { id: before.id, schedule, owner, isActive, nextFireAt }
})

const recordOf = ({ id, schedule, owner, isActive, nextFireAt }: Change): Json => ({
  id,
  name: schedule.name,
  owner,
  job_type: schedule.jobType,
  organization_id: schedule.organizationId,
  payload_template: schedule.payload,
  payload_version: schedule.payloadVersion,
  carries_time: schedule.carriesTime,
  cron_expr: schedule.cron,
  timezone: schedule.timezone,
  overlap: schedule.overlap,
  max_jitter_seconds: schedule.maxJitterSeconds,
  is_active: isActive,
  next_fire_at: new Date(nextFireAt).toISOString(),
  created_by_user_id: schedule.createdByUserId
})

const store = Effect.fnUntraced(function* (changes: ReadonlyArray<Change>) {
  if (changes.length === 0) return []
  const { sql, instant } = yield* Sql.clocked
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${instant} AS at, r.*
      FROM jsonb_to_recordset(${JSON.stringify(changes.map(recordOf))}::jsonb) AS r (
        id uuid, name text, owner text, job_type text, organization_id uuid, payload_template jsonb,
        payload_version integer, carries_time text, cron_expr text, timezone text, overlap text,
        max_jitter_seconds integer, is_active boolean, next_fire_at timestamptz, created_by_user_id uuid
      )
    ), inserted AS (
      INSERT INTO runledger.job_schedules (
        name, owner, job_type, organization_id, payload_template, payload_version, carries_time, cron_expr, timezone,
        overlap, max_jitter_seconds, is_active, next_fire_at, due_at, created_by_user_id, created_at, updated_at
      )
      SELECT
        -- a JSON null arrives as NULL
        name, owner, job_type, organization_id, COALESCE(payload_template, 'null'), payload_version, carries_time,
        cron_expr, timezone, overlap, max_jitter_seconds, is_active, next_fire_at, next_fire_at, created_by_user_id, at, at
      FROM input
      WHERE id IS NULL
      ORDER BY name
      ON CONFLICT (name) DO NOTHING
      RETURNING ${sql.literal(scheduleColumns)}
    ), updated AS (
      UPDATE runledger.job_schedules s
      SET
        owner = i.owner,
        job_type = i.job_type,
        payload_template = COALESCE(i.payload_template, 'null'),
        payload_version = i.payload_version,
        carries_time = i.carries_time,
        cron_expr = i.cron_expr,
        timezone = i.timezone,
        overlap = i.overlap,
        max_jitter_seconds = i.max_jitter_seconds,
        is_active = i.is_active,
        next_fire_at = i.next_fire_at,
        due_at = i.next_fire_at,
        last_error_code = NULL,
        last_error_message = NULL,
        last_error_at = NULL,
        updated_at = i.at
      FROM input i
      WHERE s.id = i.id
      RETURNING s.*
    )
    SELECT * FROM inserted
    UNION ALL
    SELECT ${sql.literal(scheduleColumns)} FROM updated
  `
  return yield* decodeRows(rows)
})

const deactivate = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  if (ids.length === 0) return
  const { sql, instant } = yield* Sql.clocked
  yield* sql`
    UPDATE runledger.job_schedules SET is_active = false, updated_at = ${instant} WHERE id = ANY (${ids}::uuid[])
  `
})
