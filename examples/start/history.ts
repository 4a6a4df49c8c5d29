/**
 * What did not go well: retries, with one job as an example, and dead letters.
 */
import { relative } from "node:path"
import { Effect, Option, Schema } from "effect"
import { SqlClient } from "effect/sql"
import { Jobs, TenantScope } from "../../src/index.ts"
import { CountFile } from "./CountFile.ts"
import { number } from "./screen.ts"

const { global: scope } = TenantScope
const { jobType } = CountFile
const shown = 10

const decodeTotals = Schema.decodeUnknownEffect(
  Schema.Tuple([Schema.Struct({ retries: Schema.Number, dead: Schema.Number })])
)

const decodeRetried = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ id: Jobs.JobId, payload: CountFile.payload }))
)

const pathOf = Schema.decodeUnknownOption(CountFile.payload)

/** The lines that tell about these jobs. */
export const history = Effect.fn("history")(function* (folder: string, ids: ReadonlyArray<Jobs.JobId>) {
  const sql = yield* SqlClient.SqlClient
  // other people's jobs may be in the same table
  const ours = sql`id = ANY (${ids}::uuid[])`
  const [{ retries, dead }] = yield* Effect.flatMap(
    sql`
      SELECT
        COALESCE(sum(attempt - 1) FILTER (WHERE attempt > 1), 0)::float8 AS retries,
        (count(*) FILTER (WHERE status = 'DEAD_LETTERED'))::float8 AS dead
      FROM runledger.job_queue
      WHERE ${ours}`,
    decodeTotals
  )
  const [retried] = yield* Effect.flatMap(
    sql`
      SELECT id, payload FROM runledger.job_queue
      WHERE ${ours} AND status = 'SUCCEEDED' AND attempt > 1 ORDER BY id LIMIT 1`,
    decodeRetried
  )
  const letters = yield* deadLettersOf(new Set(ids), dead)
  return [
    ...(retries === 0 ? [] : [`Retries: ${number(retries)}`]),
    ...(retried === undefined ? [] : yield* attemptsOf(relative(folder, retried.payload.path), retried.id)),
    ...(dead === 0 ? [] : [`Dead letters: ${number(dead)}`]),
    ...letters.slice(0, shown).map((letter) => {
      const path = Option.match(pathOf(letter.payload), {
        onNone: () => letter.jobId,
        onSome: ({ path }) => relative(folder, path)
      })
      const [code, message] = [letter.errorCode, letter.errorMessage].map(Option.getOrElse(() => "?"))
      return `  ${path}: ${letter.failureKind} ${code}, ${message}`
    }),
    ...(dead > shown ? [`  and ${number(dead - shown)} more`] : [])
  ]
})

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

/** One job as an example: every attempt is on record. */
const attemptsOf = Effect.fnUntraced(function* (path: string, jobId: Jobs.JobId) {
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
