/**
 * What has become of the jobs, read page by page or summed up by the database.
 */
import { relative } from "node:path"
import { Effect, Option, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Jobs, TenantScope } from "../../src/index.ts"
import { CountFile } from "./CountFile.ts"
import { number, table } from "./screen.ts"

const { global: scope } = TenantScope
const { jobType } = CountFile
const shown = 10

const decodeTotals = Schema.decodeUnknownEffect(
  Schema.Array(
    Schema.Struct({
      status: Jobs.JobRecord.fields.status,
      kind: Schema.String,
      jobs: Schema.Number,
      retries: Schema.Number,
      lines: Schema.Number,
      words: Schema.Number,
      bytes: Schema.Number
    })
  )
)

const decodeLargest = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ payload: CountFile.payload, output: CountFile.success }))
)

const decodeRetried = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ id: Jobs.JobId, payload: CountFile.payload }))
)

const pathOf = Schema.decodeUnknownOption(CountFile.payload)

interface Sums {
  readonly files: number
  readonly lines: number
  readonly words: number
  readonly bytes: number
}

const add = (a: Sums, b: Sums): Sums => ({
  files: a.files + b.files,
  lines: a.lines + b.lines,
  words: a.words + b.words,
  bytes: a.bytes + b.bytes
})

const none: Sums = { files: 0, lines: 0, words: 0, bytes: 0 }

/** The dead letters among these jobs; a page is as long as it may be. */
const deadLettersOf = Effect.fnUntraced(function* (ids: ReadonlySet<string>, expected: number) {
  const found: Array<Jobs.DeadLetter> = []
  let before: Jobs.DeadLettersOptions["before"]
  while (found.length < expected) {
    const page = yield* Jobs.deadLetters({ scope, jobType, limit: 1000, before })
    found.push(...page.filter(({ jobId }) => ids.has(jobId)))
    before = page.at(-1)
    if (before === undefined) break
  }
  return found
})

/** The lines that tell about these jobs. */
export const report = Effect.fn("report")(function* (folder: string, ids: ReadonlyArray<Jobs.JobId>) {
  const sql = yield* SqlClient.SqlClient
  // other people's jobs may be in the same table
  const ours = sql`id = ANY (${ids}::uuid[])`
  const rows = yield* Effect.flatMap(
    sql`
      SELECT
        status, COALESCE(lower(substring(payload ->> 'path' FROM '[^/.]([.][A-Za-z0-9]+)$')), '(other)') AS kind,
        count(*)::float8 AS jobs, sum(attempt - 1)::float8 AS retries,
        COALESCE(sum((output ->> 'lines')::float8), 0) AS lines,
        COALESCE(sum((output ->> 'words')::float8), 0) AS words,
        COALESCE(sum((output ->> 'bytes')::float8), 0) AS bytes
      FROM runledger.job_queue
      WHERE ${ours}
      GROUP BY 1, 2
      ORDER BY bytes DESC`,
    decodeTotals
  )
  const largest = yield* Effect.flatMap(
    sql`
      SELECT payload, output FROM runledger.job_queue
      WHERE ${ours} AND status = 'SUCCEEDED' ORDER BY (output ->> 'bytes')::float8 DESC, id LIMIT 5`,
    decodeLargest
  )
  const [retried] = yield* Effect.flatMap(
    sql`
      SELECT id, payload FROM runledger.job_queue
      WHERE ${ours} AND status = 'SUCCEEDED' AND attempt > 1 ORDER BY id LIMIT 1`,
    decodeRetried
  )
  const dead = rows.reduce((sum, { status, jobs }) => (status === "DEAD_LETTERED" ? sum + jobs : sum), 0)
  const letters = yield* deadLettersOf(new Set(ids), dead)

  const kinds = rows.flatMap(({ status, kind, jobs, ...sums }) =>
    status === "SUCCEEDED" ? [{ kind, files: jobs, ...sums }] : []
  )
  const others = kinds.slice(shown)
  const lineOf = (name: string, { files, lines, words, bytes }: Sums) => [
    name,
    ...[files, lines, words, bytes].map(number)
  ]
  const retries = rows.reduce((sum, row) => sum + row.retries, 0)
  return [
    "",
    ...table([
      ["counted", "files", "lines", "words", "bytes"],
      ...kinds.slice(0, shown).map((sums) => lineOf(sums.kind, sums)),
      ...(others.length === 0 ? [] : [lineOf("the rest", others.reduce(add, none))]),
      lineOf("total", kinds.reduce(add, none))
    ]),
    "",
    ...table([
      ["largest", "lines", "bytes", "SHA-256"],
      ...largest.map(({ payload, output }) => [
        relative(folder, payload.path),
        number(output.lines),
        number(output.bytes),
        `${output.sha256.slice(0, 16)}…`
      ])
    ]),
    "",
    ...(retries === 0 ? [] : [`Retries: ${number(retries)}`]),
    ...(retried === undefined ? [] : yield* historyOf(relative(folder, retried.payload.path), retried.id)),
    ...(dead === 0 ? [] : [`Dead letters: ${number(dead)}`]),
    ...letters.slice(0, shown).map((letter) => {
      const path = Option.match(pathOf(letter.payload), {
        onNone: () => letter.jobId,
        onSome: ({ path }) => relative(folder, path)
      })
      const [code, message] = [letter.errorCode, letter.errorMessage].map(Option.getOrElse(() => "?"))
      return `  ${path}: ${letter.failureKind} ${code}, ${message}`
    }),
    ...(dead > shown ? [`  and ${number(dead - shown)} more`] : []),
    ""
  ]
})

/** One job as an example: every attempt is on record. */
const historyOf = Effect.fnUntraced(function* (path: string, jobId: Jobs.JobId) {
  const attempts = yield* Jobs.attempts(scope, jobId)
  return attempts.map(({ attempt, endedAs, outcome, errorCode, errorMessage, retryDelayMillis }) => {
    const ended = Option.getOrElse(endedAs, () => "under way")
    const failed = Option.isNone(outcome)
      ? ""
      : ` (${[outcome, errorCode, errorMessage].flatMap(Option.toArray).join(", ")})`
    const next = Option.match(retryDelayMillis, { onNone: () => "", onSome: (millis) => `, again after ${millis} ms` })
    return `  ${path}, attempt ${attempt}: ${ended}${failed}${next}`
  })
})

/** How many jobs wait and how many are at work, as of one instant. */
export const openJobs = Effect.fnUntraced(function* () {
  const sql = yield* SqlClient.SqlClient
  return yield* sql.withTransaction(
    Effect.gen(function* () {
      // two counts of one snapshot: a retry goes from one status to the other
      yield* sql`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`
      const waiting = yield* Jobs.count({ scope, jobType, status: "PENDING" })
      const leased = yield* Jobs.count({ scope, jobType, status: "LEASED" })
      return { waiting, leased }
    })
  )
})
