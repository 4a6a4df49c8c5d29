import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Args from "../internal/arguments.ts"
import { invalidLimit } from "../internal/page.ts"
import * as Sql from "../internal/sql.ts"
import { type JobSchedule, ScheduleRow, scheduleColumns } from "../JobSchedule.ts"
import { maxTypeBytes } from "../jobs/limits.ts"
import { type QueryError, reading } from "../QueryError.ts"
import type { InvalidArgument, InvalidPagination, ReadReason } from "../Reason.ts"
import type { InvalidSchedule } from "../ScheduleReason.ts"
import { invalidName, maxNameBytes } from "./encode.ts"

const decodeRow = Schema.decodeUnknownEffect(ScheduleRow)
const decodeRows = Schema.decodeUnknownEffect(Schema.Array(ScheduleRow))

/**
 * Reads a schedule; `None` if there is none of this name. Fails with `InvalidSchedule` (name) or what any read can fail with.
 * Locks nothing.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const nightly = JobSchedules.get("report.nightly")
 * ```
 */
export const get: (
  name: string
) => Effect.Effect<Option.Option<JobSchedule>, QueryError<InvalidSchedule | ReadReason>, SqlClient> = Effect.fnUntraced(
  function* (name: string) {
    const invalid = invalidName("name", name)
    if (invalid !== undefined) return yield* invalid
    const sql = yield* Sql.client
    const [row] = yield* sql`
      SELECT ${sql.literal(scheduleColumns)} FROM runledger.job_schedules WHERE name = ${name}
    `
    return row === undefined ? Option.none() : Option.some(yield* decodeRow(row))
  },
  reading("JobSchedules.get")
)

/** Which page of schedules. */
export interface ListOptions {
  /** A part of the name, in any case. Nothing in it is a wildcard. */
  readonly contains?: string | undefined
  readonly jobType?: string | undefined
  readonly owner?: string | undefined
  readonly isActive?: boolean | undefined
  /** Whether the last attempt to fire was postponed. */
  readonly isFailing?: boolean | undefined
  /** 1 to 1,000 rows; default 100. */
  readonly limit?: number | undefined
  /** The last name of the page before. */
  readonly after?: string | undefined
}

/**
 * Lists schedules by name, a page at a time. Fails with `InvalidPagination` (limit), `InvalidArgument` (texts), or what any read
 * can fail with. Locks nothing.
 *
 * @example
 * ```ts
 * import { JobSchedules } from "effect-runledger"
 *
 * const failing = JobSchedules.list({ isActive: true, isFailing: true })
 * ```
 */
export const list: (
  options?: ListOptions
) => Effect.Effect<
  ReadonlyArray<JobSchedule>,
  QueryError<InvalidArgument | InvalidPagination | ReadReason>,
  SqlClient
> = Effect.fnUntraced(function* ({
  contains,
  jobType,
  owner,
  isActive,
  isFailing,
  limit = 100,
  after
}: ListOptions = {}) {
  const refused =
    invalidLimit(limit) ??
    (contains === undefined ? undefined : Args.name("contains", contains, maxNameBytes)) ??
    (jobType === undefined ? undefined : Args.name("jobType", jobType, maxTypeBytes)) ??
    (owner === undefined ? undefined : Args.name("owner", owner, maxNameBytes)) ??
    (after === undefined ? undefined : Args.name("after", after, maxNameBytes))
  if (refused !== undefined) return yield* refused
  const sql = yield* Sql.client
  const rows = yield* sql`
    SELECT ${sql.literal(scheduleColumns)}
    FROM runledger.job_schedules
    WHERE true
      ${contains === undefined ? sql.literal("") : sql`AND position(lower(${contains}) IN lower(name)) > 0`}
      ${jobType === undefined ? sql.literal("") : sql`AND job_type = ${jobType}`}
      ${owner === undefined ? sql.literal("") : sql`AND owner = ${owner}`}
      ${isActive === undefined ? sql.literal("") : sql.literal(isActive ? "AND is_active" : "AND NOT is_active")}
      ${isFailing === undefined ? sql.literal("") : sql.literal(`AND last_error_code IS ${isFailing ? "NOT " : ""}NULL`)}
      ${after === undefined ? sql.literal("") : sql`AND name > ${after}`}
    ORDER BY name
    LIMIT ${limit}
  `
  return yield* decodeRows(rows)
}, reading("JobSchedules.list"))
