/**
 * Whether a catalogue can take over the work that waits.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import type { InvalidCatalog } from "../DefinitionReason.ts"
import * as Args from "../internal/arguments.ts"
import { Jsonb } from "../internal/columns.ts"
import { byIndex, readWith } from "../internal/settings.ts"
import * as Sql from "../internal/sql.ts"
import type { AnyContract } from "../JobContract.ts"
import { type QueryError, reading } from "../QueryError.ts"
import type { InvalidArgument, ReadReason } from "../Reason.ts"
import { payloadOf } from "../schedules/encode.ts"
import { type Catalog, validate } from "./make.ts"

/**
 * Where work waits. `pending`: jobs that are due, will be, or are to be tried again, also those of workflow steps that were
 * released. `leased`: jobs that a worker has, and may lose. `blockedSteps`: workflow steps that are not released yet.
 * `schedules`: those that are active. `intents`: those that were not promoted yet.
 */
export type CatalogWork = "pending" | "leased" | "blockedSteps" | "schedules" | "intents"

/**
 * Why work cannot be done. `unknownType`: the catalogue has no such job. `newerVersion`: its contract is older than the payload;
 * a job stays pending until a newer worker comes. `unsupportedVersion`: its contract does not know this older version any more.
 * `undecodable`: a payload that was looked at does not match its contract. The last two end in the dead letters.
 */
export type CatalogProblem = "unknownType" | "newerVersion" | "unsupportedVersion" | "undecodable"

/** Work that the catalogue cannot do. */
export interface CatalogFinding {
  readonly work: CatalogWork
  readonly problem: CatalogProblem
  readonly jobType: string
  readonly payloadVersion: number
  /** How many there are; of `undecodable`, how many of those that were looked at. */
  readonly count: number
  /** Whether there may be more than `count`, which is where counting stopped. */
  readonly isAtLeast: boolean
  /** Ids of some of them, at most 10: of jobs, steps, schedules or intents. */
  readonly ids: ReadonlyArray<string>
}

/** What a check found. */
export interface CatalogCheckReport {
  /**
   * `blocked`: there is work that the catalogue cannot do. `incomplete`: none was found, but not all could be looked at. `ok`:
   * there is none.
   */
  readonly verdict: "ok" | "blocked" | "incomplete"
  /** By work, then job type, then version. */
  readonly findings: ReadonlyArray<CatalogFinding>
  /** Where there was more than was looked at. */
  readonly cut: ReadonlyArray<CatalogWork>
}

/** What to check, and how closely. */
export interface CatalogCheckOptions {
  /** Types that other applications handle: they are left out. */
  readonly elsewhere?: ReadonlyArray<string> | undefined
  /**
   * Where counting stops: 1 to 1,000,000, default 10,000. It holds for the jobs of each type and version, the intents of each
   * type, all leases, all schedules; of the steps of runs that are under way, ten times as many are looked at.
   */
  readonly limit?: number | undefined
  /** How many payloads of each kind of work, type and version are decoded: 0 to 1,000, default 0. */
  readonly sample?: number | undefined
}

/**
 * Looks for work that waits and that the catalogue cannot do: to be asked of the code that is about to be deployed, before it
 * is. Counts by type and payload version, and decodes a sample of the payloads if asked to.
 *
 * Costs one index look-up for each pair of type and version that has pending jobs, however many jobs wait, and what is counted,
 * up to `limit`. There is no index of blocked steps: the steps of the runs that are under way are read, oldest run first.
 *
 * Fails with `InvalidCatalog`, `InvalidArgument`, or what any read can fail with. Locks and writes nothing. Each look has a
 * snapshot of its own: work that moves from one place to another meanwhile may be counted twice, or in neither.
 *
 * @example
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Catalog, Job } from "effect-runledger"
 *
 * class Report extends Job.make("report.send", { payload: { to: Schema.String } }) {}
 *
 * const mayShip = Catalog.check(Catalog.make({ jobs: [Report] }), { sample: 20 }).pipe(
 *   Effect.map(({ verdict }) => verdict === "ok")
 * )
 * ```
 */
export const check: (
  catalog: Catalog,
  options?: CatalogCheckOptions
) => Effect.Effect<CatalogCheckReport, QueryError<InvalidCatalog | InvalidArgument | ReadReason>, SqlClient> =
  Effect.fnUntraced(function* (
    catalog: Catalog,
    { elsewhere = [], limit = 10_000, sample = 0 }: CatalogCheckOptions = {}
  ) {
    const valid = validate(catalog)
    if (Result.isFailure(valid)) return yield* valid.failure
    const invalid = Args.integer("limit", limit, 1, 1_000_000) ?? Args.integer("sample", sample, 0, 1000)
    if (invalid !== undefined) return yield* invalid

    const contracts = new Map(catalog.jobs.map((contract) => [contract.jobType, contract]))
    const others = new Set(elsewhere)
    const findings: Array<CatalogFinding> = []
    const cut: Array<CatalogWork> = []
    for (const { work, lanes: look, payloads } of places) {
      const seen = yield* readWith(byIndex)(
        look({ limit, ids: Math.max(maxIds, sample), sample, problemOf: (lane) => problemOf(contracts, lane) })
      )
      if (seen.isCut) cut.push(work)
      for (const lane of seen.lanes) {
        const { jobType, payloadVersion, ids } = lane
        const contract = contracts.get(jobType)
        if (others.has(jobType)) continue
        const problem = problemOf(contracts, lane)
        if (problem !== undefined || contract === undefined) {
          const isAtLeast = seen.isCut || lane.count > limit
          const count = Math.min(lane.count, limit)
          findings.push({
            work,
            problem: problem ?? "unknownType",
            jobType,
            payloadVersion,
            count,
            isAtLeast,
            ids: ids.slice(0, maxIds)
          })
          continue
        }
        if (sample === 0) continue
        const failing: Array<string> = []
        for (const { id, payload } of yield* readWith(byIndex)(payloads(ids.slice(0, sample)))) {
          const decoded = yield* Effect.exit(contract.decodePayload(payload, payloadVersion))
          if (Exit.isFailure(decoded)) failing.push(id)
        }
        if (failing.length > 0) {
          findings.push({
            work,
            problem: "undecodable",
            jobType,
            payloadVersion,
            count: failing.length,
            isAtLeast: true,
            ids: failing.slice(0, maxIds)
          })
        }
      }
    }
    const verdict: CatalogCheckReport["verdict"] =
      findings.length > 0 ? "blocked" : cut.length > 0 ? "incomplete" : "ok"
    return { verdict, findings, cut }
  }, reading("Catalog.check"))

const maxIds = 10

/** How many pairs of type and version are looked at. */
const maxLanes = 10_000

/** Work of one type and version. */
interface Lane {
  readonly jobType: string
  readonly payloadVersion: number
  readonly count: number
  readonly ids: ReadonlyArray<string>
}

type Kind = Pick<Lane, "jobType" | "payloadVersion">

const problemOf = (
  contracts: ReadonlyMap<string, AnyContract>,
  { jobType, payloadVersion }: Kind
): CatalogProblem | undefined => {
  const contract = contracts.get(jobType)
  if (contract === undefined) return "unknownType"
  if (payloadVersion > contract.version) return "newerVersion"
  return contract.versions.includes(payloadVersion) ? undefined : "unsupportedVersion"
}

interface Look {
  readonly limit: number
  /** How many ids of each lane are wanted. */
  readonly ids: number
  readonly sample: number
  readonly problemOf: (lane: Kind) => CatalogProblem | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Statements
// ---------------------------------------------------------------------------------------------------------------------

const decodeLanes = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      jobType: Schema.String,
      payloadVersion: Schema.Int,
      count: Schema.Int,
      ids: Schema.Array(Schema.String)
    }).pipe(Schema.encodeKeys({ jobType: "job_type", payloadVersion: "payload_version" }))
  )
)

const decodeKinds = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({ jobType: Schema.String, payloadVersion: Schema.Int }).pipe(
      Schema.encodeKeys({ jobType: "job_type", payloadVersion: "payload_version" })
    )
  )
)

const decodePayloads = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ id: Schema.String, payload: Jsonb })))

const decodeTemplates = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      id: Schema.String,
      name: Schema.String,
      carries_time: Schema.Literals(["MEMBER", "WRAPPER", "KEY"]),
      payload: Jsonb
    })
  )
)

/** Each pair that has pending jobs is one descent into the claim index; their jobs are counted later, where it matters. */
const pendingLanes = Effect.fnUntraced(function* ({ limit, ids, sample, problemOf }: Look) {
  const sql = yield* Sql.client
  const kinds = yield* decodeKinds(
    yield* sql`
      WITH RECURSIVE lanes AS (
        (
          SELECT q.job_type, q.payload_version
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING'
          ORDER BY q.job_type, q.payload_version
          LIMIT 1
        )
        UNION ALL
        SELECT next.job_type, next.payload_version
        FROM lanes l
        CROSS JOIN LATERAL (
          SELECT q.job_type, q.payload_version
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND (q.job_type, q.payload_version) > (l.job_type, l.payload_version)
          ORDER BY q.job_type, q.payload_version
          LIMIT 1
        ) next
      )
      SELECT job_type, payload_version FROM lanes LIMIT ${maxLanes + 1}
    `
  )
  const wanted = kinds.slice(0, maxLanes).flatMap((kind) => {
    const take = problemOf(kind) === undefined ? sample : limit + 1
    return take === 0 ? [] : [{ job_type: kind.jobType, payload_version: kind.payloadVersion, take }]
  })
  const lanes = yield* decodeLanes(
    yield* sql`
      SELECT
        l.job_type, l.payload_version,
        (
          SELECT count(*)::integer
          FROM (
            SELECT FROM runledger.job_queue q
            WHERE q.status = 'PENDING' AND q.job_type = l.job_type AND q.payload_version = l.payload_version
            LIMIT l.take
          ) counted
        ) AS count,
        ARRAY (
          SELECT q.id::text
          FROM runledger.job_queue q
          WHERE q.status = 'PENDING' AND q.job_type = l.job_type AND q.payload_version = l.payload_version
          LIMIT LEAST(l.take, ${ids})
        ) AS ids
      FROM jsonb_to_recordset(${JSON.stringify(wanted)}::jsonb) AS l (job_type text, payload_version integer, take integer)
      ORDER BY l.job_type, l.payload_version
    `
  )
  return { lanes: lanes.filter(({ count }) => count > 0), isCut: kinds.length > maxLanes }
})

/** Counts what `seen` is, by type and version. */
const grouped = (sql: SqlClient, seen: Fragment, ids: number): Fragment => sql`
  SELECT w.job_type, w.payload_version, count(*)::integer AS count, (array_agg(w.id::text))[1:${ids}] AS ids
  FROM (${seen}) w
  GROUP BY w.job_type, w.payload_version
  ORDER BY w.job_type, w.payload_version
`

const total = (lanes: ReadonlyArray<Lane>) => lanes.reduce((sum, { count }) => sum + count, 0)

const leasedLanes = Effect.fnUntraced(function* ({ limit, ids }: Look) {
  const sql = yield* Sql.client
  const seen = sql`
    SELECT id, job_type, payload_version
    FROM runledger.job_queue
    WHERE status = 'LEASED'
    ORDER BY lease_expires_at, id
    LIMIT ${limit + 1}`
  const lanes = yield* decodeLanes(yield* sql`${grouped(sql, seen, ids)}`)
  return { lanes, isCut: total(lanes) > limit }
})

/** The steps of a run are read through the index of its steps: a run that has ended is never looked at. */
const blockedLanes = Effect.fnUntraced(function* ({ limit, ids }: Look) {
  const sql = yield* Sql.client
  const most = limit * 10
  const [row] = yield* decodeSteps(
    yield* sql`
      WITH seen AS MATERIALIZED (
        SELECT s.id, s.job_type, s.payload_version, s.is_blocked
        FROM (
          SELECT id FROM runledger.workflow_runs WHERE status IN ('RUNNING', 'WAITING_FOR_EXTERNAL') ORDER BY id
        ) r
        CROSS JOIN LATERAL (
          SELECT id, job_type, payload_version, status = 'BLOCKED' AND execution_kind = 'JOB' AS is_blocked
          FROM runledger.workflow_steps
          WHERE workflow_run_id = r.id
          ORDER BY id
        ) s
        LIMIT ${most + 1}
      ), lanes AS (
        ${grouped(sql, sql`SELECT id, job_type, payload_version FROM seen WHERE is_blocked`, ids)}
      )
      SELECT (SELECT count(*)::integer FROM seen) AS seen, COALESCE((SELECT jsonb_agg(l) FROM lanes l), '[]') AS lanes
    `
  )
  return { lanes: yield* decodeLanes(row.lanes), isCut: row.seen > most }
})

const decodeSteps = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Struct({ seen: Schema.Int, lanes: Jsonb })]))

const scheduleLanes = Effect.fnUntraced(function* ({ limit, ids }: Look) {
  const sql = yield* Sql.client
  const seen = sql`
    SELECT id, job_type, payload_version FROM runledger.job_schedules WHERE is_active ORDER BY due_at, id LIMIT ${limit + 1}`
  const lanes = yield* decodeLanes(yield* sql`${grouped(sql, seen, ids)}`)
  return { lanes, isCut: total(lanes) > limit }
})

/** Each type that has intents is one descent, and then what is counted. */
const intentLanes = Effect.fnUntraced(function* ({ limit, ids }: Look) {
  const sql = yield* Sql.client
  const types = yield* decodeTypes(
    yield* sql`
      WITH RECURSIVE types AS (
        (SELECT job_type FROM runledger.job_enqueue_intents WHERE status = 'PENDING' ORDER BY job_type LIMIT 1)
        UNION ALL
        SELECT next.job_type
        FROM types t
        CROSS JOIN LATERAL (
          SELECT i.job_type
          FROM runledger.job_enqueue_intents i
          WHERE i.status = 'PENDING' AND i.job_type > t.job_type
          ORDER BY i.job_type
          LIMIT 1
        ) next
      )
      SELECT job_type FROM types LIMIT ${maxLanes + 1}
    `
  )
  const seen = sql`
    SELECT i.id, i.job_type, i.payload_version
    FROM unnest(${types.slice(0, maxLanes).map(({ job_type }) => job_type)}::text[]) AS t (job_type)
    CROSS JOIN LATERAL (
      SELECT i.id, i.job_type, i.payload_version
      FROM runledger.job_enqueue_intents i
      WHERE i.status = 'PENDING' AND i.job_type = t.job_type
      ORDER BY i.next_promotion_at, i.id
      LIMIT ${limit + 1}
    ) i`
  const lanes = yield* decodeLanes(yield* sql`${grouped(sql, seen, ids)}`)
  const isCut = types.some(({ job_type }) => total(lanes.filter(({ jobType }) => jobType === job_type)) > limit)
  return { lanes, isCut: isCut || types.length > maxLanes }
})

const decodeTypes = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ job_type: Schema.String })))

const payloadsOf = (table: string) =>
  Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
    const sql = yield* Sql.client
    return yield* decodePayloads(
      yield* sql`SELECT id, payload FROM runledger.${sql.literal(table)} WHERE id = ANY (${ids}::uuid[]) ORDER BY id`
    )
  })

/** As the jobs of their fires will have them. */
const templates = Effect.fnUntraced(function* (ids: ReadonlyArray<string>) {
  const sql = yield* Sql.client
  const rows = yield* decodeTemplates(
    yield* sql`
      SELECT id, name, carries_time, payload_template AS payload
      FROM runledger.job_schedules
      WHERE id = ANY (${ids}::uuid[])
      ORDER BY id
    `
  )
  return rows.map(({ id, name, carries_time, payload }) => ({
    id,
    payload: payloadOf({ payload, carriesTime: carries_time }, { id, name, scheduledFor: 0 })
  }))
})

interface Place {
  readonly work: CatalogWork
  readonly lanes: (
    look: Look
  ) => Effect.Effect<
    { readonly lanes: ReadonlyArray<Lane>; readonly isCut: boolean },
    SqlError | Schema.SchemaError,
    SqlClient
  >
  readonly payloads: (
    ids: ReadonlyArray<string>
  ) => Effect.Effect<
    ReadonlyArray<{ readonly id: string; readonly payload: Schema.Json }>,
    SqlError | Schema.SchemaError,
    SqlClient
  >
}

const places: ReadonlyArray<Place> = [
  { work: "pending", lanes: pendingLanes, payloads: payloadsOf("job_queue") },
  { work: "leased", lanes: leasedLanes, payloads: payloadsOf("job_queue") },
  { work: "blockedSteps", lanes: blockedLanes, payloads: payloadsOf("workflow_steps") },
  { work: "schedules", lanes: scheduleLanes, payloads: templates },
  { work: "intents", lanes: intentLanes, payloads: payloadsOf("job_enqueue_intents") }
]
