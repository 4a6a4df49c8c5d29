import * as Effect from "effect/Effect"
import type { Row } from "effect/sql/SqlConnection"
import { countOf, isBigIntOrNull } from "../internal/row.ts"
import * as Sql from "../internal/sql.ts"
import type { Lease, Progress } from "../Job.ts"
import { InvalidCompletionProgress } from "../Reason.ts"
import { attemptColumns, attemptTarget, attemptValues, withoutLease } from "./attempt.ts"
import { answersOf, fenceOf, lockedThenLive, ofRun, othersThanDone, type Runs } from "./fence.ts"

/** One success, with its JSON encoded. */
export interface EncodedSuccess {
  readonly lease: Lease
  readonly done: number | undefined
  readonly total: number | undefined
  readonly checkpoint: string | undefined
  readonly output: string | undefined
}

/** The progress that is stored with a success. */
export interface Succeeded {
  readonly _tag: "Succeeded"
  readonly progress: Progress
}

// A row that gives nothing is not in the object: the common success is an id and a fence.
const given = (items: ReadonlyArray<EncodedSuccess>): string =>
  `{${items
    .flatMap(({ lease, done, total, checkpoint, output }) => {
      const fields = [
        ...(done === undefined ? [] : [`"done":${done}`]),
        ...(total === undefined ? [] : [`"total":${total}`]),
        ...(checkpoint === undefined ? [] : [`"checkpoint":${checkpoint}`]),
        ...(output === undefined ? [] : [`"output":${output}`])
      ]
      return fields.length === 0 ? [] : [`"${lease.jobId}":{${fields.join(",")}}`]
    })
    .join(",")}}`

const hasValidProgress = `WHERE (
        COALESCE(((SELECT given FROM input) -> l.id::text ->> 'done')::bigint, l.progress_done)
          <= COALESCE(((SELECT given FROM input) -> l.id::text ->> 'total')::bigint, l.progress_total)
      ) IS NOT FALSE`

const mergedProgress = `progress_done = COALESCE((i.given -> q.id::text ->> 'done')::bigint, q.progress_done),
        progress_total = COALESCE((i.given -> q.id::text ->> 'total')::bigint, q.progress_total),`

/** Completes jobs: `SUCCEEDED`, stage `completed`, output set (or cleared), lease gone; the attempt is written. */
export const succeed = Effect.fnUntraced(function* (items: ReadonlyArray<EncodedSuccess>, runs: Runs) {
  const { sql, instant, clock } = yield* Sql.clocked
  const { ids, fence } = fenceOf(items)
  // each look into what was given costs as much as a column written: none for what no row gives
  const gives = (field: "done" | "total" | "checkpoint" | "output") => items.some((item) => item[field] !== undefined)
  const reports = gives("done") || gives("total")
  const rows = yield* sql`
    WITH input AS MATERIALIZED (
      SELECT ${ids}::uuid[] AS ids, ${fence}::jsonb AS fence, ${given(items)}::jsonb AS given, ${instant} AS at
    ), ${lockedThenLive(sql, clock, runs, `${attemptColumns}, q.progress_done, q.progress_total`)}, valid AS NOT MATERIALIZED (
      SELECT l.*
      FROM live l
      ${sql.literal(reports ? hasValidProgress : "")}
    ), done AS (
      UPDATE runledger.job_queue q
      SET
        status = 'SUCCEEDED',
        stage = 'completed',
        output = ${sql.literal(gives("output") ? "i.given -> q.id::text -> 'output'" : "NULL")},
        ${sql.literal(reports ? mergedProgress : "")}
        ${sql.literal(gives("checkpoint") ? "checkpoint = COALESCE(i.given -> q.id::text -> 'checkpoint', q.checkpoint)," : "")}
        ${sql.literal(withoutLease)},
        finished_at = i.at,
        status_reason = NULL,
        last_error_code = NULL,
        last_error_message = NULL,
        event_seq = q.event_seq + 1,
        updated_at = i.at
      FROM input i
      WHERE q.id = ANY (ARRAY(SELECT id FROM valid))
      RETURNING q.id, q.progress_done, q.progress_total
    ), closed AS (
      INSERT INTO ${sql.literal(attemptTarget)})
      SELECT ${sql.literal(attemptValues)}, (SELECT at FROM input), 'SUCCEEDED', l.event_seq + 1
      FROM valid l
    )
    SELECT id, 'done' AS outcome, NULL::uuid AS workflow_run_id, progress_done, progress_total FROM done
    UNION ALL
    ${othersThanDone(sql, runs, ", NULL, NULL", "'progress'")}
  `
  return yield* answersOf(rows, items, decode, (outcome, row) =>
    outcome === "progress" ? new InvalidCompletionProgress() : ofRun(outcome, row)
  )
})

const decode = (row: Row): Succeeded | undefined => {
  const progress = decodeProgress(row)
  return progress === undefined ? undefined : { _tag: "Succeeded", progress }
}

/** The merged progress of a row. */
export const decodeProgress = ({ progress_done: done, progress_total: total }: Row): Progress | undefined =>
  isBigIntOrNull(done) && isBigIntOrNull(total) ? { done: countOf(done), total: countOf(total) } : undefined
