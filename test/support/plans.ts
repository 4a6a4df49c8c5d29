/**
 * The plans of the statements that operations really send: recorded with their parameters, prepared as the driver prepares
 * them, and explained as they run.
 */
import { Effect, Predicate, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { Row } from "effect/sql/SqlConnection"
import type { SqlError } from "effect/sql/SqlError"
import { CurrentTransformer } from "effect/sql/Statement"
import { rollback } from "./rollback.ts"

/** A statement as it is sent. */
export interface Recorded {
  readonly text: string
  readonly parameters: ReadonlyArray<unknown>
}

/** Runs `self`, undoes what it wrote, and returns the statements about jobs, intents and workflows that it sent. */
export const record = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<ReadonlyArray<Recorded>, E | SqlError, R | SqlClient> =>
  Effect.suspend(() => {
    const recorded: Array<Recorded> = []
    return self.pipe(
      Effect.provideService(CurrentTransformer, (statement) => {
        const [text, parameters] = statement.compile(true)
        if (/runledger\.(?:job_queue|job_enqueue_intents|job_schedules|workflow_)/.test(text)) {
          recorded.push({ text, parameters })
        }
        return Effect.succeed(statement)
      }),
      rollback,
      Effect.as(recorded)
    )
  })

/** One step of a plan, and what it took. Blocks include those of the steps below. */
export interface PlanNode {
  readonly "Node Type": string
  readonly "Relation Name"?: string
  readonly "Index Name"?: string
  readonly "CTE Name"?: string
  readonly "Subplan Name"?: string
  readonly "Shared Hit Blocks": number
  readonly "Shared Read Blocks": number
  readonly "Total Cost": number
  readonly Plans?: ReadonlyArray<PlanNode>
}

const PlanNode: Schema.Codec<PlanNode> = Schema.Struct({
  "Node Type": Schema.String,
  "Relation Name": Schema.optionalKey(Schema.String),
  "Index Name": Schema.optionalKey(Schema.String),
  "CTE Name": Schema.optionalKey(Schema.String),
  "Subplan Name": Schema.optionalKey(Schema.String),
  "Shared Hit Blocks": Schema.Number,
  "Shared Read Blocks": Schema.Number,
  "Total Cost": Schema.Number,
  Plans: Schema.optionalKey(Schema.Array(Schema.suspend((): Schema.Codec<PlanNode> => PlanNode)))
})

const Explained = Schema.Tuple([Schema.Struct({ Plan: PlanNode, JIT: Schema.optionalKey(Schema.Unknown) })])

const decodeExplained = Schema.decodeUnknownEffect(Explained)

/** What a plan did to the hot tables. */
export interface Plan {
  /** The hot tables that it read from end to end. */
  readonly scanned: ReadonlyArray<string>
  /** The indexes of these tables that it searched, in alphabetical order. */
  readonly indexes: ReadonlyArray<string>
  /** Pages of shared buffers that it touched, each time anew. */
  readonly buffers: number
  /** What the planner thinks that it costs: from 100,000 on, the server compiles it. */
  readonly cost: number
  readonly compiled: boolean
}

const walk = (node: PlanNode): ReadonlyArray<PlanNode> => [node, ...(node.Plans ?? []).flatMap(walk)]

const sorted = (values: ReadonlyArray<string>) => [...new Set(values)].sort()

/** The hot tables. Definitions are few, and read as the planner likes. */
const hot: ReadonlyArray<string> = [
  "job_attempts",
  "job_dead_letters",
  "job_enqueue_intents",
  "job_events",
  "job_queue",
  "job_schedules",
  "workflow_runs",
  "workflow_step_dependencies",
  "workflow_steps"
]

const blocks = (node: PlanNode) => node["Shared Hit Blocks"] + node["Shared Read Blocks"]

const summary = ({ JIT, Plan: root }: (typeof Explained.Type)[0]): Plan => {
  const nodes = walk(root)
  const read = new Set(nodes.flatMap((node) => (node["Node Type"] === "CTE Scan" ? [node["CTE Name"]] : [])))
  // a writing step that nothing reads runs after the rest, and the root knows nothing of it
  const unread = (root.Plans ?? []).filter((node) => {
    const name = node["Subplan Name"]
    return name?.startsWith("CTE ") === true && node["Node Type"] === "ModifyTable" && !read.has(name.slice(4))
  })
  return {
    scanned: sorted(
      nodes.flatMap((node) => {
        const table = node["Relation Name"]
        return node["Node Type"] === "Seq Scan" && table !== undefined && hot.includes(table) ? [table] : []
      })
    ),
    indexes: sorted(
      nodes.flatMap((node) => {
        const index = node["Index Name"]
        return index === undefined || index === "pk_job_definitions" ? [] : [index]
      })
    ),
    buffers: unread.reduce((sum, node) => sum + blocks(node), blocks(root)),
    cost: root["Total Cost"],
    compiled: JIT !== undefined
  }
}

// as the driver declares parameters: a string leaves the type to the server, an array of strings does not
const typeOf = (value: unknown): string => {
  if (Array.isArray(value)) return value.every(Predicate.isNumber) && value.length > 0 ? "integer[]" : "text[]"
  if (Predicate.isNumber(value)) return Number.isInteger(value) ? "integer" : "double precision"
  if (Predicate.isBoolean(value)) return "boolean"
  return Predicate.isDate(value) ? "timestamptz" : "unknown"
}

const quoted = (text: string) => `'${text.replaceAll("'", "''")}'`

const literal = (value: unknown): string => {
  if (value === null || value === undefined) return "NULL"
  if (Array.isArray(value)) {
    return quoted(`{${value.map((item) => `"${String(item).replaceAll(/["\\]/g, "\\$&")}"`).join(",")}}`)
  }
  return quoted(Predicate.isDate(value) ? value.toISOString() : String(value))
}

let names = 0

/** A recorded statement, prepared in the session of the caller's transaction. */
export interface Prepared {
  /** Runs it with these parameters and tells how. What it wrote stays. */
  readonly explain: (
    parameters: ReadonlyArray<unknown>
  ) => Effect.Effect<Plan, SqlError | Schema.SchemaError, SqlClient>
  readonly execute: (parameters: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Row>, SqlError, SqlClient>
}

/** Prepares a statement in this session; PostgreSQL plans it when it is first executed. */
export const prepare = Effect.fnUntraced(function* ({
  text,
  parameters
}: Recorded): Effect.fn.Return<Prepared, SqlError, SqlClient> {
  const sql = yield* SqlClient
  const name = `plan_${names++}`
  const types = parameters.map(typeOf)
  yield* sql.unsafe(`PREPARE ${name}${types.length === 0 ? "" : ` (${types.join(", ")})`} AS ${text}`).unprepared
  const call = (values: ReadonlyArray<unknown>) =>
    `EXECUTE ${name}${values.length === 0 ? "" : ` (${values.map(literal).join(", ")})`}`
  return {
    explain: (values) =>
      sql.unsafe<Row>(`EXPLAIN (ANALYZE, BUFFERS, COSTS, FORMAT JSON) ${call(values)}`).unprepared.pipe(
        Effect.flatMap(([row]) => decodeExplained(row?.["QUERY PLAN"])),
        Effect.map(([explained]) => summary(explained))
      ),
    execute: (values) => sql.unsafe<Row>(call(values)).unprepared
  }
})

/** How the plans of prepared statements are made. */
export type PlanCacheMode = "force_custom_plan" | "force_generic_plan"

/** Sets the mode until the end of the caller's transaction. */
export const planWith = (mode: PlanCacheMode): Effect.Effect<void, SqlError, SqlClient> =>
  SqlClient.use((sql) => Effect.asVoid(sql`SELECT set_config('plan_cache_mode', ${mode}, true)`))
