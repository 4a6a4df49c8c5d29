import { execFileSync } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { inspect } from "node:util"
import { assert, describe, expectTypeOf, it } from "@effect/vitest"
import { DateTime, Effect, Option, Result, Schema } from "effect"
import * as Job from "../src/Job.ts"
import type { InvalidArgument } from "../src/Reason.ts"
import * as Workflow from "../src/Workflow.ts"
import type { InvalidWorkflow } from "../src/WorkflowReason.ts"

class Crawl extends Job.make("page.crawl", {
  payload: { url: Schema.String, since: Schema.optionalKey(Schema.Date) },
  success: Schema.Struct({ at: Schema.Date })
}) {}
class Classify extends Job.make("profile.classify", {
  version: 3,
  payload: { profileId: Schema.String },
  success: Schema.FiniteFromString
}) {}
class Cleanup extends Job.make("profile.cleanup", { payload: {} }) {}
class Persist extends Job.make("profile.persist", {
  payload: { profileId: Schema.String },
  success: Schema.Array(Schema.Date)
}) {}
class Approval extends Schema.Class<Approval>("test/Workflow/Approval")({ by: Schema.String, at: Schema.Date }) {}

const research = (profileId: string, pages: ReadonlyArray<string>) =>
  Workflow.make("profiles.research", { metadata: { source: Schema.String, at: Schema.optionalKey(Schema.Date) } })
    .each(
      "crawl",
      Crawl,
      pages.map((url) => ({ url }))
    )
    .step("classify", Classify, { profileId }, { after: ["crawl"] })
    .external("approval", { payload: { reviewer: "ops" }, success: Approval }, { after: ["classify"] })
    .step("cleanup", Cleanup, {}, { afterTerminal: ["crawl", "approval"] })
    .step("persist", Persist, { profileId }, { after: ["classify", "approval"] })
    .result("persist")

type Research = ReturnType<typeof research>

const base = research("7", ["/a", "/b"])
const source = { metadata: { source: "api" } }

// ---------------------------------------------------------------------------------------------------------------------
// Types
// ---------------------------------------------------------------------------------------------------------------------

it("types: a key is taken once, and is one literal", () => {
  const accepted = () => [
    base.step("again", Classify, { profileId: "" }),
    base.each("many", Classify, []),
    base.external("gate"),
    base.external("gate", {}, { after: ["crawl"] })
  ]
  const refused = () => [
    // @ts-expect-error the key of a step
    base.step("classify", Classify, { profileId: "" }),
    // @ts-expect-error the key of a fan-out
    base.step("crawl", Classify, { profileId: "" }),
    // @ts-expect-error the key of an external step
    base.each("approval", Classify, []),
    // @ts-expect-error the key of a step
    base.external("persist"),
    // @ts-expect-error the key of a member
    base.step("crawl[0]", Classify, { profileId: "" }),
    // @ts-expect-error any text
    base.step(String("x"), Classify, { profileId: "" }),
    // @ts-expect-error any text of a pattern
    base.step(`x${String("y")}` as const, Classify, { profileId: "" }),
    // @ts-expect-error one of two
    base.step(Math.random() < 2 ? "x" : "y", Classify, { profileId: "" })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
})

it("types: prerequisites are steps that were added before, so there are no cycles", () => {
  const empty = Workflow.make("w")
  const accepted = () => base.step("x", Cleanup, {}, { after: ["crawl", "approval"], afterTerminal: ["persist"] })
  const refused = () => [
    // @ts-expect-error no such step
    base.step("x", Cleanup, {}, { after: ["nowhere"] }),
    // @ts-expect-error no such step
    base.step("x", Cleanup, {}, { afterTerminal: ["crawl", "nowhere"] }),
    // @ts-expect-error itself
    base.step("x", Cleanup, {}, { after: ["x"] }),
    // @ts-expect-error itself
    base.each("x", Cleanup, [], { after: ["x"] }),
    // @ts-expect-error itself
    base.external("x", {}, { afterTerminal: ["x"] }),
    // @ts-expect-error added later, if at all
    empty.step("a", Cleanup, {}, { after: ["b"] }),
    // @ts-expect-error the first step has none
    empty.step("a", Cleanup, {}, { after: ["a"] })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
})

it("types: payloads are those of the contract, options those of the kind of step", () => {
  const accepted = () => [
    base.each("x", Crawl, [{ url: "/", since: new Date(0) }], { priority: 1, timeout: "1 minute", stage: "queued" }),
    base.step("x", Cleanup, {}, { maxAttempts: 1, executionResourceKey: "r", allowHandlerContinuation: true }),
    base.external("x", { payload: [1] }, { organizationId: "o" })
  ]
  const refused = () => [
    // @ts-expect-error a field is missing
    base.step("x", Crawl, {}),
    // @ts-expect-error a field of another type
    base.step("x", Crawl, { url: 1 }),
    // @ts-expect-error a field too many
    base.step("x", Crawl, { url: "/", depth: 1 }),
    // @ts-expect-error a field of another type
    base.each("x", Crawl, [{ url: "/" }, { url: 1 }]),
    // @ts-expect-error one payload
    base.each("x", Crawl, { url: "/" }),
    // @ts-expect-error not JSON
    base.external("x", { payload: new Date(0) }),
    // @ts-expect-error an external step has no job
    base.external("x", {}, { priority: 1 }),
    // @ts-expect-error the version is the contract's
    base.step("x", Crawl, { url: "/" }, { payloadVersion: 2 }),
    // @ts-expect-error dependencies are said with after and afterTerminal
    base.step("x", Crawl, { url: "/" }, { dependencies: [] })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
})

it("types: the result is the output of a step that is there, and is not a fan-out", () => {
  const refused = () => [
    // @ts-expect-error no such step
    base.result("nowhere"),
    // @ts-expect-error a fan-out
    base.result("crawl")
  ]
  expectTypeOf(refused).toBeFunction()
  expectTypeOf<Workflow.ResultOf<Research>>().toEqualTypeOf<ReadonlyArray<Date>>()
  const byGate = base.result("approval")
  expectTypeOf<Workflow.ResultOf<typeof byGate>>().toEqualTypeOf<Approval>()
  const without = Workflow.make("w").step("a", Persist, { profileId: "" })
  expectTypeOf<Workflow.ResultOf<typeof without>>().toEqualTypeOf<never>()
  // steps that are added later leave it as it is
  const later = base.step("later", Cleanup, {})
  expectTypeOf<Workflow.ResultOf<typeof later>>().toEqualTypeOf<ReadonlyArray<Date>>()
})

it("types: each key has its output", () => {
  expectTypeOf<Workflow.Keys<Research>>().toEqualTypeOf<"crawl" | "classify" | "approval" | "cleanup" | "persist">()
  expectTypeOf<Workflow.ExternalKeys<Research>>().toEqualTypeOf<"approval">()
  expectTypeOf<Workflow.OutputOf<Research, "crawl">>().toEqualTypeOf<ReadonlyArray<{ readonly at: Date }>>()
  expectTypeOf<Workflow.OutputOf<Research, "classify">>().toEqualTypeOf<number>()
  expectTypeOf<Workflow.OutputOf<Research, "approval">>().toEqualTypeOf<Approval>()
  expectTypeOf<Workflow.OutputOf<Research, "cleanup">>().toEqualTypeOf<void>()
  const silent = base.external("silent")
  expectTypeOf<Workflow.OutputOf<typeof silent, "silent">>().toEqualTypeOf<void>()
  expectTypeOf<Workflow.ExternalKeys<typeof silent>>().toEqualTypeOf<"approval" | "silent">()
  // @ts-expect-error no such step
  expectTypeOf<Workflow.OutputOf<Research, "nowhere">>().toBeNever()
  expectTypeOf<Research>().toExtend<Workflow.Any>()
})

it("types: a run has the metadata that the workflow declares", () => {
  const plain = Workflow.make("w").step("a", Cleanup, {})
  const optional = Workflow.make("w", { metadata: { at: Schema.optionalKey(Schema.Date) } })
  const accepted = () => [
    base.toRequest(source),
    base.toRequest({ ...source, idempotencyKey: "k", activeKey: "a", organizationId: "o" }),
    plain.toRequest(),
    plain.toRequest({ idempotencyKey: "k" }),
    optional.toRequest(),
    optional.toRequest({ metadata: { at: new Date(0) } })
  ]
  const refused = () => [
    // @ts-expect-error it is missing
    base.toRequest(),
    // @ts-expect-error it is missing
    base.toRequest({ idempotencyKey: "k" }),
    // @ts-expect-error a field of another type
    base.toRequest({ metadata: { source: 1 } }),
    // @ts-expect-error a field too many
    base.toRequest({ metadata: { source: "api", by: "me" } }),
    // @ts-expect-error none is declared
    plain.toRequest({ metadata: { source: "api" } }),
    // @ts-expect-error no such option
    plain.toRequest({ resultStepKey: "a" })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
  expectTypeOf<Parameters<Research["toRequest"]>>().toEqualTypeOf<[options: Workflow.RequestOptions<Research>]>()
  expectTypeOf<ReturnType<Research["toRequest"]>>().toEqualTypeOf<
    Result.Result<Workflow.WorkflowRequest, InvalidArgument | InvalidWorkflow>
  >()
})

it("types: outcomes and results are those of their steps", () => {
  const accepted = () => Workflow.encodeOutcome(base, "approval", new Approval({ by: "ops", at: new Date(0) }))
  const refused = () => [
    // @ts-expect-error not the outcome
    Workflow.encodeOutcome(base, "approval", { by: 1 }),
    // @ts-expect-error a job
    Workflow.encodeOutcome(base, "classify", 1),
    // @ts-expect-error no such step
    Workflow.encodeOutcome(base, "nowhere", 1)
  ]
  expectTypeOf([accepted, refused]).toBeArray()
  expectTypeOf(Workflow.decodeResult(base, null)).toEqualTypeOf<
    Effect.Effect<ReadonlyArray<Date>, Schema.SchemaError>
  >()
})

// ---------------------------------------------------------------------------------------------------------------------
// Type checking
// ---------------------------------------------------------------------------------------------------------------------

const root = resolve(import.meta.dirname, "..")
const folder = join(root, ".examples-steps")

/** A file with a workflow of so many steps of all kinds, each after four others. */
const chainOf = (steps: number): string => {
  const lines = Array.from({ length: steps }, (_, index) => {
    const after = [1, 2, 3, 4].flatMap((back) => (back > index ? [] : [`"s${index - back}"`])).join(", ")
    const options = index === 0 ? "" : `, { ${index % 3 === 0 ? "after" : "afterTerminal"}: [${after}] }`
    const key = `"s${index}"`
    return [
      `.step(${key}, A, { url: "", at: new Date() }${options})`,
      `.each(${key}, B, [{ id: 1 }, { id: 2 }]${options})`,
      `.external(${key}, { payload: 1, success: Schema.Boolean }${options})`,
      `.step(${key}, B, { id: 1 }${options})`
    ][index % 4]
  })
  return `import { Schema } from "effect"
import * as Job from "../src/Job.ts"
import * as Workflow from "../src/Workflow.ts"
class A extends Job.make("a", { payload: { url: Schema.String, at: Schema.Date }, success: Schema.Date }) {}
class B extends Job.make("b", { payload: { id: Schema.Int }, success: Schema.String }) {}
export const workflow = Workflow.make("long", { metadata: { source: Schema.String } })
  ${lines.join("\n  ")}
  .result("s${steps - 4}")
export const output: Workflow.OutputOf<typeof workflow, "s${steps - 3}"> = ["a"]
export const result: Workflow.ResultOf<typeof workflow> = new Date()
`
}

it("sixty steps in a chain compile, for little more than four do", () => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  const compile = (steps: number) => {
    writeFileSync(join(folder, "steps.ts"), chainOf(steps))
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: "../tsconfig.json", include: ["*.ts"] }))
    try {
      return execFileSync(
        process.execPath,
        [join(root, "node_modules/typescript/bin/tsc"), "-p", folder, "--extendedDiagnostics"],
        { encoding: "utf8" }
      )
    } catch (error) {
      return assert.fail(error instanceof Error && "stdout" in error ? String(error.stdout) : String(error))
    }
  }
  // counted, not timed: the figure is the same on any machine
  const instantiations = (steps: number) => Number(/Instantiations:\s*(\d+)/.exec(compile(steps))?.[1])
  assert.isBelow(instantiations(60) - instantiations(4), 50_000)
  rmSync(folder, { recursive: true, force: true })
})

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const stepsOf = (request: Result.Result<Workflow.WorkflowRequest, unknown>) => Result.getOrThrow(request).steps

const told = (answer: Result.Result<unknown, InvalidArgument | InvalidWorkflow>): string =>
  Result.isSuccess(answer) ? "valid" : answer.failure.message

describe("toRequest", () => {
  it("makes plain data: fan-outs become their members, and so do dependencies on them", () => {
    const { steps, ...request } = Result.getOrThrow(base.toRequest({ ...source, idempotencyKey: "k", activeKey: "a" }))
    assert.deepStrictEqual(request, {
      workflowType: "profiles.research",
      metadata: { source: "api" },
      idempotencyKey: "k",
      activeKey: "a",
      resultStepKey: "persist"
    })
    const crawl = { jobType: "page.crawl", payloadVersion: 1, contract: Crawl, dependencies: [] }
    const on = (releaseMode: Workflow.ReleaseMode, ...keys: ReadonlyArray<string>) =>
      keys.map((stepKey) => ({ stepKey, releaseMode }))
    assert.deepStrictEqual(steps, [
      { ...crawl, stepKey: "crawl[0]", payload: { url: "/a" }, fanOut: { key: "crawl", index: 0 } },
      { ...crawl, stepKey: "crawl[1]", payload: { url: "/b" }, fanOut: { key: "crawl", index: 1 } },
      {
        stepKey: "classify",
        jobType: "profile.classify",
        payloadVersion: 3,
        contract: Classify,
        payload: { profileId: "7" },
        dependencies: on("ON_SUCCESS", "crawl[0]", "crawl[1]")
      },
      {
        stepKey: "approval",
        executionKind: "EXTERNAL",
        payload: { reviewer: "ops" },
        dependencies: on("ON_SUCCESS", "classify")
      },
      {
        stepKey: "cleanup",
        jobType: "profile.cleanup",
        payloadVersion: 1,
        contract: Cleanup,
        payload: {},
        dependencies: on("ON_TERMINAL", "crawl[0]", "crawl[1]", "approval")
      },
      {
        stepKey: "persist",
        jobType: "profile.persist",
        payloadVersion: 1,
        contract: Persist,
        payload: { profileId: "7" },
        dependencies: on("ON_SUCCESS", "classify", "approval")
      }
    ])
  })

  it("an empty fan-out is no step, and what comes after it waits for nothing", () => {
    const steps = stepsOf(research("7", []).toRequest(source))
    assert.deepStrictEqual(
      steps.map(({ stepKey, dependencies }) => [stepKey, dependencies?.length]),
      [
        ["classify", 0],
        ["approval", 1],
        ["cleanup", 1],
        ["persist", 2]
      ]
    )
  })

  it("options stay with their steps, of a fan-out with each member", () => {
    const options = {
      priority: 5,
      maxAttempts: 2,
      timeout: "1 minute",
      stage: "scheduled",
      organizationId: "019ad000-0000-7000-8000-000000000000",
      executionResourceKey: "r",
      allowHandlerContinuation: true
    } as const
    const workflow = Workflow.make("w").each("a", Crawl, [{ url: "/" }, { url: "/" }], options)
    for (const { stepKey, jobType, payload, payloadVersion, contract, dependencies, fanOut, ...rest } of stepsOf(
      workflow.toRequest()
    )) {
      assert.deepStrictEqual(rest, options, stepKey)
    }
  })

  it("payloads and metadata are encoded", () => {
    const at = new Date("2020-01-02T03:04:05.678Z")
    const workflow = Workflow.make("w", { metadata: { at: Schema.Date } }).step("a", Crawl, { url: "/", since: at })
    const { metadata, steps } = Result.getOrThrow(workflow.toRequest({ metadata: { at } }))
    assert.deepStrictEqual(metadata, { at: at.toISOString() })
    assert.deepStrictEqual(steps[0]?.payload, { url: "/", since: at.toISOString() })
    assert.deepStrictEqual(Result.getOrThrow(Workflow.make("w").step("a", Cleanup, {}).toRequest()).metadata, {})
  })

  it("what does not match its schema is refused by name, and never quoted", () => {
    class Small extends Job.make("small", { payload: { n: Schema.Int.check(Schema.isLessThan(10)) } }) {}
    class Throwing extends Job.make("throwing", { payload: Schema.Unknown }) {}
    const thrower = {
      get boom(): never {
        throw new Error("987654")
      }
    }
    const many = Workflow.make("w").each("many", Small, [{ n: 1 }, { n: 987_654 }])
    const refusals = [
      many.toRequest(),
      Workflow.make("w").step("one", Small, { n: 987_654 }).toRequest(),
      Workflow.make("w").step("one", Throwing, thrower).toRequest(),
      Workflow.make("w", { metadata: { n: Schema.Int } })
        .step("a", Cleanup, {})
        .toRequest({ metadata: { n: 987_654.5 } }),
      Workflow.make("w").external("gate", { payload: "987654\0" }).toRequest()
    ]
    assert.deepStrictEqual(refusals.map(told), [
      "steps[many[1]].payload must match the contract of small",
      "steps[one].payload must match the contract of small",
      "steps[one].payload must match the contract of throwing",
      "metadata must match the metadata of w",
      "steps[gate].payload must not contain U+0000 or an unpaired surrogate"
    ])
    for (const refusal of refusals) assert.notInclude(inspect(refusal, { depth: 9 }), "987654")
  })

  it("rules that types do not express are checked", () => {
    const step = Workflow.make("w").step("a", Cleanup, {})
    assert.deepStrictEqual(
      [
        Workflow.make("w").toRequest(),
        Workflow.make(" ").step("a", Cleanup, {}).toRequest(),
        Workflow.make("w").step(" ", Cleanup, {}).toRequest(),
        step.step("b", Cleanup, {}, { after: ["a"], afterTerminal: ["a"] }).toRequest(),
        step.toRequest({ idempotencyKey: " " }),
        Workflow.make("w").step("a", Cleanup, {}, { maxAttempts: 0 }).toRequest()
      ].map((answer) => (Result.isFailure(answer) ? answer.failure.code : "valid")),
      [
        "workflow.invalid_dag_empty",
        "workflow.invalid_dag_workflow_type_blank",
        "workflow.invalid_dag_step_key_blank",
        "workflow.invalid_dag_duplicate_dependency",
        "workflow.invalid_dag_idempotency_key_blank",
        "workflow.invalid_dag_step_max_attempts_non_positive"
      ]
    )
  })

  it("a workflow is a value: two that go on from the same one do not see each other", () => {
    const left = base.step("left", Cleanup, {})
    const right = base.external("right").result("right")
    const keys = ({ steps }: Workflow.Any) => steps.map(({ key }) => key)
    const common = ["crawl", "classify", "approval", "cleanup", "persist"]
    assert.deepStrictEqual([base, left, right].map(keys), [common, [...common, "left"], [...common, "right"]])
    assert.deepStrictEqual(
      [base, left, right].map(({ resultStepKey }) => resultStepKey),
      ["persist", "persist", "right"]
    )
  })
})

describe("outcomes and results", () => {
  const at = new Date("2020-01-02T03:04:05.678Z")

  it("an outcome is encoded by the schema of its step", () => {
    assert.deepStrictEqual(
      Workflow.encodeOutcome(base, "approval", new Approval({ by: "ops", at })),
      Result.succeed({ by: "ops", at: at.toISOString() })
    )
    assert.deepStrictEqual(Workflow.encodeOutcome(base.external("silent"), "silent", undefined), Result.succeed(null))
    const checked = Workflow.make("w").external("gate", { success: Schema.Int })
    assert.strictEqual(told(Workflow.encodeOutcome(checked, "gate", 0.5)), "output must match the outcome of gate")
    // the editor would not let it through
    const untyped: Workflow.Any = base
    for (const key of ["classify", "nowhere"]) {
      assert.strictEqual(
        told(Workflow.encodeOutcome<Workflow.Any, string>(untyped, key, 1)),
        "stepKey must be the key of an external step of the workflow"
      )
    }
  })

  it.effect("a result is decoded by the contract of the result step, or by the schema of an external one", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* Workflow.decodeResult(base, [at.toISOString()]), [at])
      assert.deepStrictEqual(
        yield* Workflow.decodeResult(base.result("approval"), { by: "ops", at: at.toISOString() }),
        new Approval({ by: "ops", at })
      )
      for (const refused of [
        Workflow.decodeResult(base, ["yesterday"]),
        Workflow.decodeResult(Workflow.make("w").step("a", Cleanup, {}), null)
      ]) {
        assert.isTrue(Result.isFailure(yield* Effect.result(refused)))
      }
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// Pictures
// ---------------------------------------------------------------------------------------------------------------------

const done = {
  "crawl[0]": "SUCCEEDED",
  "crawl[1]": "RUNNING",
  classify: "BLOCKED",
  approval: "WAITING_FOR_EXTERNAL",
  unknown: "RUNNING"
}

const plain = (steps: Workflow.WorkflowRequest["steps"]): Workflow.WorkflowRequest => ({ workflowType: "w", steps })

const job = (stepKey: string, ...after: ReadonlyArray<string>): Workflow.StepRequest => ({
  stepKey,
  jobType: "work",
  payload: null,
  dependencies: after.map((key) => ({ stepKey: key }))
})

describe("toMermaid", () => {
  it("draws kinds of steps, of edges, and statuses", () => {
    assert.strictEqual(
      Workflow.toMermaid(base, done),
      `flowchart TD
  n0[["crawl × 2<br/>1 RUNNING#44; 1 SUCCEEDED"]]:::RUNNING
  n1["classify<br/>BLOCKED"]:::BLOCKED
  n2{{"approval<br/>WAITING_FOR_EXTERNAL"}}:::WAITING_FOR_EXTERNAL
  n3["cleanup"]
  n4["persist"]
  n0 --> n1
  n1 --> n2
  n0 -.-> n3
  n2 -.-> n3
  n1 --> n4
  n2 --> n4
  classDef BLOCKED fill:#eeeeee,stroke:#999999,color:#333333
  classDef WAITING_FOR_EXTERNAL fill:#fff3cd,stroke:#b58900,color:#333333
  classDef RUNNING fill:#cfe2ff,stroke:#0d6efd,color:#333333`
    )
  })

  it("draws a request as it draws the workflow, and steps as they are read as it does statuses", () => {
    const request = Result.getOrThrow(base.toRequest(source))
    const records = Object.entries(done).map(([stepKey, status]) => ({ stepKey, status }))
    assert.strictEqual(Workflow.toMermaid(request, records), Workflow.toMermaid(base, done))
    assert.strictEqual(Workflow.toText(request, records), Workflow.toText(base, done))
  })

  it("a fan-out is one node, however large, and an arrow says if it comes from some members only", () => {
    const pages = Array.from({ length: 5000 }, (_, index) => `/${index}`)
    assert.strictEqual(Workflow.toMermaid(research("7", pages)).split("\n").length, 12)
    const member = (index: number, ...after: ReadonlyArray<string>) => ({
      ...job(`f${index}`, ...after),
      fanOut: { key: "f", index }
    })
    const chart = Workflow.toMermaid(
      plain([member(0), member(1), member(2, "f0"), job("all", "f0", "f1", "f2"), job("one", "f1")])
    )
    assert.deepStrictEqual(chart.split("\n").slice(1), [
      `  n0[["f × 3"]]`,
      `  n1["all"]`,
      `  n2["one"]`,
      "  n0 -.->|1 of 3| n0",
      "  n0 -.-> n1",
      "  n0 -.->|1 of 3| n2"
    ])
  })

  it("no key breaks the syntax, and a status of any name is text", () => {
    const keys = [
      `"] --> n9["`,
      "end",
      "a\nb",
      "`md`",
      "<b>&amp;",
      "%% comment",
      "#35;",
      "style:x",
      "a;b",
      "{{x}}|y|",
      "😀",
      "- list",
      "1. one"
    ]
    const chart = Workflow.toMermaid(plain(keys.map((key) => job(key))), { end: `toString"`, "a;b": "toString" })
    const lines = chart.split("\n").slice(1)
    assert.strictEqual(lines.length, keys.length)
    for (const line of lines) assert.match(line, /^ {2}n\d+\["(?:[\p{L}\p{N}_. ×[\]-]|#\d+;|<br\/>)*"\]$/u)
    for (const line of lines) assert.notMatch(line, /\["(?:- |\d+\. )/)
    // and nothing is lost
    const shown = lines.map((line) =>
      line
        .replace(/^ {2}n\d+\["(.*)"\]$/u, "$1")
        .replace(/<br\/>.*/, "")
        .replaceAll(/#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)))
    )
    assert.deepStrictEqual(shown, keys)
  })

  it("a broken graph is drawn too", () => {
    assert.deepStrictEqual(
      Workflow.toMermaid(plain([job("a", "b", "x"), job("b", "a")]))
        .split("\n")
        .slice(1),
      [`  n0["a"]`, `  n1["b"]`, `  n2["x #40;missing#41;"]`, "  n1 -.-> n0", "  n2 -.-> n0", "  n0 -.-> n1"]
    )
  })
})

describe("toText", () => {
  it("draws a run, each step after its prerequisites", () => {
    assert.strictEqual(
      Workflow.toText(base, done),
      `profiles.research
  crawl × 2            1 RUNNING, 1 SUCCEEDED
  classify             BLOCKED                 after crawl
  approval (external)  WAITING_FOR_EXTERNAL    after classify
  cleanup                                      after the end of crawl, approval
  persist                                      after classify, approval`
    )
    assert.strictEqual(
      Workflow.toText(plain([job("last", "b"), job("b", "a"), job("a")])),
      `w
  a
  b     after the end of a
  last  after the end of b`
    )
  })

  it("says how long a step took, and a fan-out from its first start to its last end", () => {
    const step = (stepKey: string, from: number, to?: number) => ({
      stepKey,
      status: to === undefined ? "RUNNING" : "SUCCEEDED",
      startedAt: Option.some(DateTime.makeUnsafe(from)),
      finishedAt: to === undefined ? Option.none() : Option.some(DateTime.makeUnsafe(to))
    })
    const workflow = Workflow.make("w")
      .each("crawl", Crawl, [{ url: "/" }, { url: "/" }])
      .step("a", Cleanup, {}, { after: ["crawl"] })
    assert.strictEqual(
      Workflow.toText(workflow, [step("crawl[0]", 1000, 3000), step("crawl[1]", 2000, 4500), step("a", 5000)]),
      `w
  crawl × 2  2 SUCCEEDED  3s 500ms
  a          RUNNING                after crawl`
    )
    // not before all members have ended
    assert.notInclude(Workflow.toText(workflow, [step("crawl[0]", 1000, 3000), step("crawl[1]", 2000)]), "2s")
  })

  it("no key reaches the terminal as a command, and steps of a cycle come last", () => {
    const text = Workflow.toText(plain([job("a", "b"), job("b", "a"), job("\u001b[31mred\n"), job("c")]))
    assert.strictEqual(
      text,
      `w
  \\u{1b}[31mred\\u{a}
  c
  a                   after the end of b
  b                   after the end of a`
    )
  })
})
