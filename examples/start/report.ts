/**
 * What has become of a run: what its steps have left, its result, and its picture.
 */
import { relative } from "node:path"
import { Effect, Option } from "effect"
import { TenantScope, Workflow, Workflows } from "../../src/index.ts"
import { CountFile } from "./CountFile.ts"
import type { Enqueued } from "./enqueue.ts"
import { history } from "./history.ts"
import type { Options } from "./options.ts"
import type { SumUp } from "./SumUp.ts"
import { number, plural, table } from "./screen.ts"
import { sumOf } from "./sum.ts"

const shown = 10

type Sum = typeof SumUp.success.Type

/** All steps of a run, page by page. */
const stepsOf = Effect.fnUntraced(function* (runId: Workflows.WorkflowRunId) {
  const steps: Array<Workflows.WorkflowStepRecord> = []
  while (true) {
    const page = yield* Workflows.steps(TenantScope.global, runId, { limit: 1000, after: steps.at(-1)?.id })
    steps.push(...page)
    if (page.length < 1000) return steps
  }
})

/** What the caller waits for: the result, with its type. A run in which a step did not succeed has none. */
const resultOf = Effect.fnUntraced(function* ({ run }: Enqueued) {
  return yield* Workflows.awaitResult(run, { timeout: "1 minute" }).pipe(
    Effect.map(({ total, approvedBy }) => [
      `Result: ${plural(total.files, "file")}, ${plural(total.lines, "line")}, ${plural(total.bytes, "byte")}; approved by ${approvedBy}`
    ]),
    Effect.catchReason("QueryError", "UnsuccessfulRun", ({ status }) =>
      Effect.succeed([
        `No result: the run ended as ${status}. Each step has ended, at least one of them without success; what the`,
        "others left stays, and the tables above are made of it."
      ])
    )
  )
})

/** The lines that tell about these. */
export const report = Effect.fn("report")(function* ({ folder, mermaid }: Options, enqueued: Enqueued) {
  const { run, jobIds } = enqueued
  const result = yield* resultOf(enqueued)
  const sum = yield* sumOf(run.run.id)
  const steps = yield* stepsOf(run.run.id)
  const counting = steps.flatMap(({ jobId, jobType }) =>
    Option.contains(jobType, CountFile.jobType) ? Option.toArray(jobId) : []
  )
  return [
    "",
    ...Option.match(sum, { onNone: () => ["Nothing was summed up"], onSome: (left) => tables(folder, left) }),
    "",
    ...(yield* history(folder, [...counting, ...jobIds])),
    "",
    ...result,
    "",
    ...Workflow.toText(run.workflow, steps).split("\n"),
    ...(mermaid ? ["", Workflow.toMermaid(run.workflow, steps)] : []),
    ""
  ]
})

const tables = (folder: string, { total, kinds, largest, left }: Sum) => {
  const lineOf = ({ name, files, lines, words, bytes }: Sum["total"]) => [
    name,
    ...[files, lines, words, bytes].map(number)
  ]
  const rest = kinds.slice(shown).reduce(add, { name: "the rest", files: 0, lines: 0, words: 0, bytes: 0 })
  return [
    ...table([
      ["counted", "files", "lines", "words", "bytes"],
      ...kinds.slice(0, shown).map(lineOf),
      ...(rest.files === 0 ? [] : [lineOf(rest)]),
      lineOf(total)
    ]),
    ...(left === 0 ? [] : [`  ${plural(left, "file")} of the run could not be counted`]),
    "",
    ...table([
      ["largest", "lines", "bytes", "SHA-256"],
      ...largest.map(({ path, lines, bytes, sha256 }) => [
        relative(folder, path),
        number(lines),
        number(bytes),
        `${sha256.slice(0, 16)}…`
      ])
    ])
  ]
}

const add = (a: Sum["total"], b: Sum["total"]): Sum["total"] => ({
  name: a.name,
  files: a.files + b.files,
  lines: a.lines + b.lines,
  words: a.words + b.words,
  bytes: a.bytes + b.bytes
})
