import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { cast } from "effect/Function"
import * as Job from "../src/Job.ts"
import type { GraphRule } from "../src/WorkflowReason.ts"
import type { Dependency, StepRequest, WorkflowRequest } from "../src/workflows/request.ts"
import { type Violation, validateAppend, validateStep, validateWorkflow } from "../src/workflows/validate.ts"

/** A violation in a line: the rule and where it is broken, or the argument and what it must be. */
const told = (violation: Violation): string => {
  if (violation === undefined) return "valid"
  if (violation._tag === "InvalidArgument") return violation.message
  const { rule, stepKey, stepIndex, prerequisite, cycle } = violation
  assert.strictEqual(violation.code, `workflow.${rule}`)
  return [rule.replace("invalid_dag_", ""), stepKey, stepIndex, prerequisite, cycle?.join(" ")]
    .filter((part) => part !== undefined)
    .join(" | ")
}

const job = (stepKey: string, ...after: ReadonlyArray<string>): StepRequest => ({
  stepKey,
  jobType: "work",
  payload: null,
  dependencies: after.map((key) => ({ stepKey: key }))
})

const gate = (stepKey: string): StepRequest => ({ stepKey, executionKind: "EXTERNAL", payload: null })

const graph = (...steps: ReadonlyArray<StepRequest>): WorkflowRequest => ({ workflowType: "w", steps })

const run = (request: Partial<WorkflowRequest>) => told(validateWorkflow({ ...graph(job("a")), ...request }))

const one = (step: Partial<StepRequest>) => told(validateWorkflow(graph({ ...job("a"), ...step })))

const blanks = ["", " ", "\t\n", "\u00a0\u2003\u3000", "\u0085"]
const long = "é".repeat(257)

describe("a rule and its place", () => {
  it("blank texts, by Unicode", () => {
    for (const blank of blanks) {
      assert.strictEqual(run({ idempotencyKey: blank }), "idempotency_key_blank")
      assert.strictEqual(run({ activeKey: blank }), "active_key_blank")
      assert.strictEqual(run({ resultStepKey: blank }), "result_step_key_blank")
      assert.strictEqual(run({ workflowType: blank }), "workflow_type_blank")
      assert.strictEqual(told(validateWorkflow(graph(job("a"), job(blank)))), "step_key_blank | 1")
      assert.strictEqual(one({ jobType: blank }), "job_type_blank | a")
      assert.strictEqual(one({ executionResourceKey: blank }), "step_execution_resource_key | a")
      assert.strictEqual(one({ dependencies: [{ stepKey: blank }] }), "dependency_step_key_blank | a")
    }
    assert.strictEqual(one({ jobType: undefined }), "job_type_blank | a")
  })

  it("lengths in bytes", () => {
    assert.strictEqual(run({ activeKey: long }), "active_key_too_long")
    assert.strictEqual(run({ activeKey: long.slice(1) }), "valid")
    assert.strictEqual(one({ executionResourceKey: long }), "step_execution_resource_key | a")
    assert.strictEqual(one({ executionResourceKey: long.slice(1) }), "valid")
  })

  it("numbers of a job", () => {
    for (const maxAttempts of [0, -1, -0.5]) {
      assert.strictEqual(one({ maxAttempts }), "step_max_attempts_non_positive | a")
    }
    for (const timeout of [0, -1, "0 seconds", "-1 second"] as const) {
      assert.strictEqual(one({ timeout }), "step_timeout_seconds_non_positive | a")
    }
    // a millisecond is a second
    assert.strictEqual(one({ timeout: 1 }), "valid")
  })

  it("external steps have no job", () => {
    const external = (step: Partial<StepRequest>) => told(validateWorkflow(graph({ ...gate("g"), ...step })))
    assert.strictEqual(external({}), "valid")
    assert.strictEqual(external({ allowHandlerContinuation: false }), "valid")
    assert.strictEqual(external({ organizationId: crypto.randomUUID() }), "valid")
    assert.strictEqual(external({ jobType: "work" }), "external_step_job_type_not_allowed | g")
    for (const settings of [
      { priority: 0 },
      { maxAttempts: 1 },
      { timeout: 1 },
      { stage: "queued" },
      { allowHandlerContinuation: true },
      { executionResourceKey: "r" }
    ] as const) {
      assert.strictEqual(external(settings), "external_step_queue_settings_not_allowed | g")
    }
  })

  it("steps together", () => {
    assert.strictEqual(run({ steps: [] }), "empty")
    assert.strictEqual(run({ steps: [job("a"), job("b"), job("a")] }), "duplicate_step_key | a")
    assert.strictEqual(run({ steps: [job("a"), job("b", "b")] }), "self_dependency | b")
    assert.strictEqual(run({ steps: [job("a"), job("b", "a", "a")] }), "duplicate_dependency | b | a")
    const both: ReadonlyArray<Dependency> = [
      { stepKey: "a", releaseMode: "ON_SUCCESS" },
      { stepKey: "a", releaseMode: "ON_TERMINAL" }
    ]
    assert.strictEqual(run({ steps: [job("a"), { ...job("b"), dependencies: both }] }), "duplicate_dependency | b | a")
    assert.strictEqual(run({ steps: [job("a", "c"), job("b")] }), "missing_dependency | a | c")
    assert.strictEqual(run({ resultStepKey: "b" }), "unknown_result_step | b")
    assert.strictEqual(run({ resultStepKey: "a" }), "valid")
    // keys are compared byte by byte
    assert.strictEqual(run({ steps: [job("a"), job("A"), job("a ")] }), "valid")
  })

  it("a cycle is named in the order of execution", () => {
    const steps = [job("before"), job("a", "before", "c"), job("b", "a"), job("c", "b"), job("behind", "b")]
    const names = told(validateWorkflow(graph(...steps))).split(" | ")[1] ?? ""
    assert.include(["a b c", "b c a", "c a b"], names)
    assert.match(
      validateWorkflow(graph(...steps))?.message ?? "",
      /: (?:a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)$/
    )
  })
})

describe("precedence", () => {
  type Fix = (request: WorkflowRequest) => WorkflowRequest
  const onStep =
    (at: number, change: Partial<StepRequest>): Fix =>
    (request) => ({ ...request, steps: request.steps.map((step, i) => (i === at ? { ...step, ...change } : step)) })
  const onRun =
    (change: Partial<WorkflowRequest>): Fix =>
    (request) => ({ ...request, ...change })

  it("each rule hides those behind it", () => {
    const external: StepRequest = { ...gate("g"), jobType: "work", priority: 1 }
    let request: WorkflowRequest = {
      workflowType: " ",
      idempotencyKey: " ",
      activeKey: " ",
      resultStepKey: " ",
      organizationId: "nobody",
      steps: []
    }
    const steps: ReadonlyArray<StepRequest> = [
      {
        stepKey: " ",
        jobType: " ",
        payload: null,
        maxAttempts: 0,
        timeout: 0,
        executionResourceKey: " ",
        priority: 101,
        dependencies: [" ", "job", "g", "g", "x"].map((stepKey) => ({ stepKey }))
      },
      external,
      job("g")
    ]
    const last = (index: number): Fix => onStep(0, { dependencies: (steps[0]?.dependencies ?? []).slice(index) })
    const expected: ReadonlyArray<readonly [string, Fix]> = [
      ["idempotency_key_blank", onRun({ idempotencyKey: "k" })],
      ["active_key_blank", onRun({ activeKey: long })],
      ["active_key_too_long", onRun({ activeKey: "k" })],
      ["result_step_key_blank", onRun({ resultStepKey: "result" })],
      ["workflow_type_blank", onRun({ workflowType: "w" })],
      ["empty", onRun({ steps })],
      ["organizationId must be a UUID", onRun({ organizationId: undefined })],
      ["step_key_blank | 0", onStep(0, { stepKey: "job" })],
      ["job_type_blank | job", onStep(0, { jobType: "work" })],
      ["step_max_attempts_non_positive | job", onStep(0, { maxAttempts: 1 })],
      ["step_timeout_seconds_non_positive | job", onStep(0, { timeout: "1 second" })],
      ["step_execution_resource_key | job", onStep(0, { executionResourceKey: "r" })],
      ["steps[job].priority must be a whole number between -100 and 100", onStep(0, { priority: 100 })],
      ["external_step_job_type_not_allowed | g", onStep(1, { jobType: undefined })],
      ["external_step_queue_settings_not_allowed | g", onStep(1, { priority: undefined })],
      ["duplicate_step_key | g", onStep(2, { stepKey: "h", dependencies: [{ stepKey: "job" }] })],
      ["dependency_step_key_blank | job", last(1)],
      ["self_dependency | job", last(2)],
      ["duplicate_dependency | job | g", last(3)],
      ["missing_dependency | job | x", onStep(0, { dependencies: [{ stepKey: "h" }] })],
      ["cycle | h job", onStep(0, { dependencies: [] })],
      ["unknown_result_step | result", onRun({ resultStepKey: "h" })],
      ["valid", (it) => it]
    ]
    for (const [rule, fix] of expected) {
      assert.strictEqual(told(validateWorkflow(request)), rule)
      request = fix(request)
    }
  })

  it("a step that is ordered before another is answered first, and so are all shapes before all dependencies", () => {
    assert.strictEqual(
      run({ steps: [job("a", "x"), { ...job("b"), maxAttempts: 0 }] }),
      "step_max_attempts_non_positive | b"
    )
    assert.strictEqual(run({ steps: [{ ...job("a"), timeout: 0 }, job(" ")] }), "step_timeout_seconds_non_positive | a")
    assert.strictEqual(run({ steps: [job("a", "x"), job("b", "b")] }), "missing_dependency | a | x")
    // what a step must be comes before what of it can be stored
    assert.strictEqual(run({ steps: [job("a"), { ...job("a"), priority: 101 }] }), "duplicate_step_key | a")
  })
})

describe("what cannot be stored", () => {
  it("of the run", () => {
    const type = "must not be longer than 128 bytes"
    const key = "must not be longer than 512 bytes"
    const text = "must not contain U+0000 or an unpaired surrogate"
    assert.strictEqual(run({ workflowType: "x".repeat(129) }), `workflowType ${type}`)
    assert.strictEqual(run({ workflowType: "a\0" }), `workflowType ${text}`)
    assert.strictEqual(run({ organizationId: "nobody" }), "organizationId must be a UUID")
    assert.strictEqual(run({ idempotencyKey: long }), `idempotencyKey ${key}`)
    assert.strictEqual(run({ idempotencyKey: "a\ud800" }), `idempotencyKey ${text}`)
    assert.strictEqual(run({ activeKey: "a\0" }), `activeKey ${text}`)
    assert.strictEqual(run({ metadata: { a: Number.NaN } }), "metadata must hold finite numbers only")
    assert.strictEqual(run({ metadata: "x\0" }), `metadata ${text}`)
    assert.strictEqual(run({ metadata: null }), "valid")
  })

  it("of a step, which is named by its key", () => {
    const at = "steps[a]."
    const attempts = "must be a whole number between 1 and 2147483647"
    const cases: ReadonlyArray<readonly [Partial<StepRequest>, string]> = [
      [{ stepKey: long }, "steps[0].stepKey must not be longer than 512 bytes"],
      [{ stepKey: "a\0" }, "steps[0].stepKey must not contain U+0000 or an unpaired surrogate"],
      [{ executionKind: cast<string, "JOB">("TASK") }, `${at}executionKind must be one of JOB, EXTERNAL`],
      [{ jobType: "x".repeat(129) }, `${at}jobType must not be longer than 128 bytes`],
      [{ organizationId: "nobody" }, `${at}organizationId must be a UUID`],
      [{ priority: -101 }, `${at}priority must be a whole number between -100 and 100`],
      [{ priority: 0.5 }, `${at}priority must be a whole number between -100 and 100`],
      [{ maxAttempts: 1.5 }, `${at}maxAttempts ${attempts}`],
      [{ maxAttempts: Number.NaN }, `${at}maxAttempts ${attempts}`],
      [{ timeout: "Infinity" }, `${at}timeout ${attempts}`],
      [{ timeout: cast<string, "1 second">("soon") }, `${at}timeout ${attempts}`],
      [{ timeout: "36500 days" }, `${at}timeout ${attempts}`],
      [{ stage: cast<string, "queued">("new") }, `${at}stage must be one of queued, scheduled, running, completed`],
      [{ executionResourceKey: "r\0" }, `${at}executionResourceKey must not contain U+0000 or an unpaired surrogate`],
      [{ payloadVersion: 0 }, `${at}payloadVersion ${attempts}`],
      [{ fanOut: { key: " ", index: 0 } }, `${at}fanOut.key must not be blank`],
      [{ fanOut: { key: "f", index: -1 } }, `${at}fanOut.index must be a whole number between 0 and 2147483647`],
      [{ fanOut: { key: "a", index: 0 } }, `${at}fanOut.key must not be the key of a step`],
      [{ payload: cast<Date, null>(new Date(0)) }, `${at}payload must hold plain objects only`],
      [{ payload: cast<undefined, null>(undefined) }, `${at}payload must be JSON`],
      [
        { contract: Job.make("other", { payload: Schema.Null }) },
        `${at}contract must be the contract of the step's job type`
      ]
    ]
    for (const [step, expected] of cases) {
      assert.strictEqual(one(step), expected)
      if (step.stepKey === undefined)
        assert.strictEqual(
          told(validateStep({ ...job("a"), ...step })),
          expected === `${at}fanOut.key must not be the key of a step` ? "valid" : expected
        )
    }
    assert.strictEqual(one({ stepKey: long.slice(1) }), "valid")
    assert.strictEqual(one({ contract: Job.make("work", { payload: Schema.Null }) }), "valid")
  })

  it("of a dependency", () => {
    const releaseMode = cast<string, "ON_SUCCESS">("SOON")
    assert.strictEqual(
      run({ steps: [job("a"), { ...job("b"), dependencies: [{ stepKey: "a", releaseMode }] }] }),
      "steps[b].dependencies[0].releaseMode must be one of ON_SUCCESS, ON_TERMINAL"
    )
    assert.strictEqual(
      told(validateStep(job("a", "x", "y\0"))),
      "steps[a].dependencies[1].stepKey must not contain U+0000 or an unpaired surrogate"
    )
  })

  it("fan-outs: a place is taken once, a key is a step or a fan-out", () => {
    const member = (stepKey: string, key: string, index: number): StepRequest => ({
      ...job(stepKey),
      fanOut: { key, index }
    })
    assert.strictEqual(run({ steps: [member("a", "f", 0), member("b", "f", 1), member("c", "g", 0)] }), "valid")
    assert.strictEqual(
      run({ steps: [member("a", "f", 1), member("b", "f", 1)] }),
      "steps[b].fanOut.index must not be that of another member of the fan-out"
    )
    assert.strictEqual(
      run({ steps: [job("f"), member("a", "f", 1)] }),
      "steps[a].fanOut.key must not be the key of a step"
    )
    assert.strictEqual(
      run({ steps: [member("a", "f", 1), job("f")] }),
      "steps[f].stepKey must not be the key of a fan-out"
    )
  })
})

describe("a step alone", () => {
  it("has no place, and its prerequisites are unknown", () => {
    assert.strictEqual(told(validateStep(job(" "))), "step_key_blank")
    assert.strictEqual(told(validateStep(job("a", "anywhere"))), "valid")
    assert.strictEqual(told(validateStep(job("a", "a"))), "self_dependency | a")
    assert.strictEqual(told(validateStep({ ...job("a", "b", "b"), priority: 101 })), "duplicate_dependency | a | b")
    assert.strictEqual(told(validateStep(job(long))), "stepKey must not be longer than 512 bytes")
  })
})

describe("an append", () => {
  const append = (...steps: ReadonlyArray<StepRequest>) => told(validateAppend(new Set(["old", "older"]), steps))

  it("may depend on what is there and on what comes with it", () => {
    assert.strictEqual(append(job("b", "a", "old"), job("a", "older")), "valid")
    assert.strictEqual(append(), "empty")
    assert.strictEqual(append(job("a"), job(" ")), "step_key_blank | 1")
    assert.strictEqual(append(job("old")), "duplicate_step_key | old")
    assert.strictEqual(append(job("a"), job("a")), "duplicate_step_key | a")
    assert.strictEqual(append(job("a", "x")), "missing_dependency | a | x")
    assert.strictEqual(append(job("a", "b"), job("b", "a", "old")), "cycle | b a")
    assert.strictEqual(
      append({ ...job("a"), fanOut: { key: "old", index: 0 } }),
      "steps[a].fanOut.key must not be the key of a step"
    )
  })

  it("answers a step's own dependencies before the keys that are taken, and missing ones last", () => {
    assert.strictEqual(append(job("old", "old")), "self_dependency | old")
    assert.strictEqual(append(job("a", "x"), job("b", "b")), "self_dependency | b")
    assert.strictEqual(append(job("a", "x"), job("old")), "duplicate_step_key | old")
    assert.strictEqual(append(job("a", "x"), { ...job("b"), priority: 101 }).split(" ")[0], "steps[b].priority")
  })
})

// ---------------------------------------------------------------------------------------------------------------------
// Any graph
// ---------------------------------------------------------------------------------------------------------------------

/** Steps of a graph: each may need those before it, and `place` says where in the request it stands. */
const Drawn = Schema.Array(
  Schema.Struct({
    place: Schema.Int,
    needs: Schema.Array(Schema.Natural),
    isExternal: Schema.Boolean,
    onSuccess: Schema.Boolean
  })
).check(Schema.isMinLength(2))

type Graph = ReadonlyArray<StepRequest>

/** A valid graph, each step after those that it needs. */
const inOrder = (drawn: typeof Drawn.Type): Graph =>
  drawn.map(({ needs, isExternal, onSuccess }, index) => ({
    ...(isExternal ? gate(`s${index}`) : job(`s${index}`)),
    dependencies: [...new Set(index === 0 ? [] : needs.map((need) => need % index))].map((need) => ({
      stepKey: `s${need}`,
      ...(onSuccess ? { releaseMode: "ON_SUCCESS" } : {})
    }))
  }))

const shuffled = (steps: Graph, drawn: typeof Drawn.Type): Graph =>
  steps
    .map((step, index) => [step, drawn[index]?.place ?? 0] as const)
    .sort(([, a], [, b]) => a - b)
    .map(([step]) => step)

const changed = (steps: Graph, at: number, change: (step: StepRequest) => StepRequest): Graph =>
  steps.map((step, index) => (index === at ? change(step) : step))

const needing =
  (...keys: ReadonlyArray<string>) =>
  (step: StepRequest): StepRequest => ({
    ...step,
    dependencies: [...(step.dependencies ?? []), ...keys.map((stepKey) => ({ stepKey }))]
  })

const without = (step: StepRequest, key: string): StepRequest => ({
  ...step,
  dependencies: (step.dependencies ?? []).filter(({ stepKey }) => stepKey !== key)
})

/** How one step of a valid graph is broken; `at` is at least 1, `other` less than that. */
const mutations: Readonly<
  Record<string, readonly [rule: GraphRule, (steps: Graph, at: number, other: number) => Graph]>
> = {
  "a key twice": ["invalid_dag_duplicate_step_key", (steps, at) => [...steps, job(`s${at}`)]],
  "a key that is blank": [
    "invalid_dag_step_key_blank",
    (steps, at) => changed(steps, at, (step) => ({ ...step, stepKey: " " }))
  ],
  "a job without a type": [
    "invalid_dag_job_type_blank",
    (steps, at) => changed(steps, at, (step) => ({ ...step, executionKind: "JOB", jobType: undefined }))
  ],
  "no attempts": [
    "invalid_dag_step_max_attempts_non_positive",
    (steps, at) => changed(steps, at, (step) => ({ ...job(step.stepKey), maxAttempts: 0 }))
  ],
  "no time": [
    "invalid_dag_step_timeout_seconds_non_positive",
    (steps, at) => changed(steps, at, (step) => ({ ...job(step.stepKey), timeout: 0 }))
  ],
  "a type on an external step": [
    "invalid_dag_external_step_job_type_not_allowed",
    (steps, at) => changed(steps, at, (step) => ({ ...gate(step.stepKey), jobType: "work" }))
  ],
  "settings on an external step": [
    "invalid_dag_external_step_queue_settings_not_allowed",
    (steps, at) => changed(steps, at, (step) => ({ ...gate(step.stepKey), stage: "queued" }))
  ],
  "a blank prerequisite": ["invalid_dag_dependency_step_key_blank", (steps, at) => changed(steps, at, needing(" "))],
  "a missing prerequisite": ["invalid_dag_missing_dependency", (steps, at) => changed(steps, at, needing("nowhere"))],
  "itself as prerequisite": ["invalid_dag_self_dependency", (steps, at) => changed(steps, at, needing(`s${at}`))],
  "a prerequisite twice": [
    "invalid_dag_duplicate_dependency",
    (steps, at, other) => changed(steps, at, (step) => needing(`s${other}`, `s${other}`)(without(step, `s${other}`)))
  ],
  "a cycle": [
    "invalid_dag_cycle",
    (steps, at, other) =>
      changed(
        changed(steps, at, (step) => needing(`s${other}`)(without(step, `s${other}`))),
        other,
        needing(`s${at}`)
      )
  ]
}

const property = { arbitrary: { runs: 100, size: 30 } }

describe("any graph", () => {
  it.prop(
    "that is valid is accepted, in whatever order its steps stand",
    [Drawn],
    ([drawn]) => {
      const steps = shuffled(inOrder(drawn), drawn)
      assert.strictEqual(told(validateWorkflow({ ...graph(...steps), resultStepKey: "s0" })), "valid")
      assert.strictEqual(told(validateAppend(new Set(["old"]), steps)), "valid")
      for (const step of steps) assert.strictEqual(told(validateStep(step)), "valid")
    },
    property
  )

  for (const [name, [rule, mutate]] of Object.entries(mutations)) {
    it.prop(
      `with ${name} is refused for that`,
      [Drawn, Schema.Natural, Schema.Natural],
      ([drawn, one, two]) => {
        const at = 1 + (one % (drawn.length - 1))
        const steps = shuffled(mutate(inOrder(drawn), at, two % at), drawn)
        for (const violation of [validateWorkflow(graph(...steps)), validateAppend(new Set(), steps)]) {
          if (violation?._tag !== "InvalidWorkflow") return assert.fail(told(violation))
          assert.strictEqual(violation.rule, rule)
          if (violation.cycle === undefined) continue
          const { cycle } = violation
          assert.isAtLeast(cycle.length, 2)
          assert.strictEqual(new Set(cycle).size, cycle.length)
          for (const [index, key] of cycle.entries()) {
            const step = steps.find(({ stepKey }) => stepKey === key)
            const previous = cycle.at(index - 1)
            assert.isTrue(
              step?.dependencies?.some(({ stepKey }) => stepKey === previous),
              `${previous} -> ${key}`
            )
          }
        }
      },
      property
    )
  }
})

describe("size", () => {
  const timed = (steps: Graph) => {
    const start = performance.now()
    const answer = told(validateWorkflow(graph(...steps))).split(" ")[0]
    return [answer, performance.now() - start] as const
  }
  const chain = Array.from({ length: 100_000 }, (_, index) =>
    job(`s${index}`, ...(index === 0 ? [] : [`s${index - 1}`]))
  )

  it("600 steps with 2,400 edges take milliseconds", () => {
    const steps = Array.from({ length: 604 }, (_, index) =>
      job(`s${index}`, ...[1, 2, 3, 4].flatMap((back) => (index < 4 ? [] : [`s${index - back}`])))
    )
    timed(steps)
    const [answer, millis] = timed(steps)
    assert.strictEqual(answer, "valid")
    // far from a figure that a busy machine could reach by accident
    assert.isBelow(millis, 100)
  })

  it("a chain of 100,000 steps does not overflow the stack, nor does a ring of them", () => {
    assert.strictEqual(timed(chain)[0], "valid")
    assert.strictEqual(timed(chain.toReversed())[0], "valid")
    assert.strictEqual(timed(changed(chain, 0, needing("s99999")))[0], "cycle")
  })
})
