import { assert, expectTypeOf, it } from "@effect/vitest"
import { Effect, Layer, Option, Schedule, Schema } from "effect"
import { Job, JobExecution, Notifications, TenantScope, Worker, Workflow, Workflows } from "../src/index.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { assertConsistent, statuses, stepOf } from "./support/workflows.ts"

class Count extends Job.make("typed.count", {
  payload: { text: Schema.String },
  success: Schema.Struct({ words: Schema.Int, at: Schema.Date }),
  maxAttempts: 1
}) {}

class Sum extends Job.make("typed.sum", {
  payload: { title: Schema.String },
  success: Schema.Struct({ title: Schema.String, words: Schema.Int, approvedBy: Schema.Option(Schema.String) }),
  maxAttempts: 1
}) {}

class Clean extends Job.make("typed.clean", { payload: {}, success: Schema.Array(Schema.String) }) {}

class Salvage extends Job.make("typed.salvage", {
  payload: { misread: Schema.Boolean },
  success: Schema.Array(Schema.String),
  maxAttempts: 1
}) {}

const Approval = Schema.Struct({ by: Schema.String, at: Schema.Date })

const at = new Date(1_700_000_000_000)

const CountLive = Count.toLayer(({ text }) =>
  text === "broken"
    ? Effect.fail(new Job.JobFailure({ kind: "TERMINAL", code: "count.broken", message: "it is broken" }))
    : Effect.succeed({ words: text.split(" ").length, at })
)

const SumLive = Sum.toLayer(
  Effect.fn("Sum")(function* ({ title }) {
    const job = yield* JobExecution.JobExecution
    const counts = yield* job.outputs("count", Count)
    const approval = yield* job.output("approval", Approval)
    assert.deepStrictEqual(
      counts.map((count) => count.at),
      counts.map(() => at)
    )
    const words = counts.reduce((sum, count) => sum + count.words, 0)
    return { title, words, approvedBy: Option.some(approval.by) }
  })
)

const CleanLive = Clean.toLayer(() =>
  Effect.gen(function* () {
    const job = yield* JobExecution.JobExecution
    return (yield* job.prerequisites).map(({ stepKey, status }) => `${stepKey} ${status}`)
  })
)

const SalvageLive = Salvage.toLayer(
  Effect.fn("Salvage")(function* ({ misread }) {
    const job = yield* JobExecution.JobExecution
    const counts = yield* job.results("count", Count)
    expectTypeOf(counts).toEqualTypeOf<ReadonlyArray<JobExecution.StepResult<typeof Count.success.Type>>>()
    const sums: ReadonlyArray<JobExecution.StepResult<unknown>> = misread
      ? yield* job.results("count", Schema.String)
      : yield* job.results("sum", Sum)
    assert.deepStrictEqual(yield* job.results("nowhere", Count), [])
    const told: ReadonlyArray<JobExecution.StepResult<unknown>> = [...counts, ...sums]
    return told.map(({ output, status, stepKey }) =>
      [stepKey, status, ...Option.toArray(Option.map(output, (left) => JSON.stringify(left)))].join(" ")
    )
  })
)

const salvage = (texts: ReadonlyArray<string>, misread: boolean) =>
  Workflow.make("typed.salvage")
    .each(
      "count",
      Count,
      texts.map((text) => ({ text }))
    )
    .step("sum", Sum, { title: "none" }, { after: ["count"] })
    .step("salvage", Salvage, { misread }, { afterTerminal: ["count", "sum"] })
    .result("sum")

const report = (texts: ReadonlyArray<string>) =>
  Workflow.make("typed.report", { metadata: { source: Schema.String } })
    .each(
      "count",
      Count,
      texts.map((text) => ({ text }))
    )
    .external("approval", { success: Approval }, { after: ["count"] })
    .step("sum", Sum, { title: "all" }, { after: ["count", "approval"] })
    .step("clean", Clean, {}, { afterTerminal: ["count", "sum"] })
    .result("sum")

const Working = Worker.layer({
  jobs: [Count, Sum, Clean, Salvage],
  concurrency: 4,
  pollInterval: "20 millis"
}).pipe(Layer.provide([CountLive, SumLive, CleanLive, SalvageLive]), Layer.provideMerge(Notifications.layer))

const metadata = { source: "test" }

it.layer(Working.pipe(Layer.provideMerge(TestDatabase.layer)), { excludeTestServices: true })(
  "Workflows, typed",
  (it) => {
    it.effect("outputs go from step to step, and the result to whoever waits", () =>
      Effect.gen(function* () {
        const run = yield* Workflows.enqueue(report(["a b", "c", "d e f"]), { metadata, idempotencyKey: "one" })
        expectTypeOf(run.disposition).toEqualTypeOf<"inserted" | "existing">()
        // nothing waits for it yet: the gate opens when the counts are there
        const early = yield* Effect.flip(Workflows.completeExternal(run, "approval", { by: "ops", at }))
        assert.strictEqual(early.reason._tag, "ExternalStepNotWaiting")
        yield* Workflows.completeExternal(run, "approval", { by: "ops", at }).pipe(
          Effect.retry({ schedule: Schedule.spaced("20 millis"), times: 500 })
        )
        const result = yield* Workflows.awaitResult(run, { timeout: "20 seconds" })
        expectTypeOf(result).toEqualTypeOf<{
          readonly title: string
          readonly words: number
          readonly approvedBy: Option.Option<string>
        }>()
        assert.deepStrictEqual(result, { title: "all", words: 6, approvedBy: Option.some("ops") })
        const again = yield* Workflows.enqueue(report(["a b", "c", "d e f"]), { metadata, idempotencyKey: "one" })
        assert.strictEqual(again.disposition, "existing")
        assert.strictEqual(again.run.id, run.run.id)
      })
    )

    it.effect("a cleanup runs whatever happened, and sees how its prerequisites ended", () =>
      Effect.gen(function* () {
        const run = yield* Workflows.enqueue(report(["a", "broken"]), { metadata })
        const refused = yield* Effect.flip(
          Workflows.awaitResult(run, { timeout: "20 seconds", pollInterval: "20 millis" })
        )
        assert.strictEqual(refused.code, "workflow.result_unsuccessful_terminal")
        assert.deepStrictEqual(yield* statuses(run.run.id), {
          "count[0]": "SUCCEEDED",
          "count[1]": "FAILED",
          approval: "CANCELED",
          sum: "CANCELED",
          clean: "SUCCEEDED"
        })
        const step = yield* Effect.flatMap(
          Workflows.stepByKey(TenantScope.global, run.run.id, "clean"),
          Effect.fromOption
        )
        assert.deepStrictEqual(step.output, Option.some(["count[0] SUCCEEDED", "count[1] FAILED", "sum CANCELED"]))
        yield* assertConsistent
      })
    )

    it.effect("a step that waits for ends reads what succeeded, typed, and how the rest ended", () =>
      Effect.gen(function* () {
        const texts = Array.from({ length: 11 }, (_, n) => (n === 1 ? "broken" : "a b"))
        const run = yield* Workflows.enqueue(salvage(texts, false))
        const misread = yield* Workflows.enqueue(salvage(texts, true))
        for (const each of [run, misread]) {
          yield* Effect.exit(Workflows.awaitResult(each, { timeout: "20 seconds", pollInterval: "20 millis" }))
        }
        const salvaged = yield* stepOf(run.run.id, "salvage")
        assert.deepStrictEqual(
          salvaged.output,
          Option.some([
            // in the order of the payloads, not of the keys
            ...texts.map((_, n) =>
              n === 1 ? "count[1] FAILED" : `count[${n}] SUCCEEDED ${JSON.stringify({ words: 2, at })}`
            ),
            "sum CANCELED"
          ])
        )
        const failed = yield* stepOf(misread.run.id, "salvage")
        assert.deepStrictEqual(failed.lastErrorCode, Option.some("workflow.invalid_prerequisite_output"))
      })
    )

    it.effect("an empty fan-out leaves nothing, and holds nobody up", () =>
      Effect.gen(function* () {
        const run = yield* Workflows.enqueue(report([]), { metadata })
        yield* Workflows.completeExternal(run, "approval", { by: "nobody", at })
        assert.strictEqual((yield* Workflows.awaitResult(run, { timeout: "20 seconds" })).words, 0)
      })
    )

    it.effect("what does not fit the workflow does not compile, and is refused before anything is sent", () =>
      Effect.gen(function* () {
        const workflow = report([])
        const run = Workflows.handle(
          workflow,
          TenantScope.global,
          (yield* Workflows.enqueue(workflow, { metadata })).run.id
        )
        // @ts-expect-error the metadata is missing
        const missing = yield* Effect.flip(Workflows.enqueue(workflow))
        assert.strictEqual(missing.reason._tag, "InvalidArgument")
        // @ts-expect-error no external step
        const noGate = yield* Effect.flip(Workflows.completeExternal(run, "sum", { by: "ops", at }))
        assert.strictEqual(noGate.reason._tag, "InvalidArgument")
        // @ts-expect-error not an approval
        const wrong = yield* Effect.flip(Workflows.completeExternal(run, "approval", { by: 7 }))
        assert.strictEqual(wrong.reason._tag, "InvalidArgument")
      })
    )
  }
)
