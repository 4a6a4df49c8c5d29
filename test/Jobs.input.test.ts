import { assert, it } from "@effect/vitest"
import { DateTime, Duration, Effect, Layer, Option, Result, Schema } from "effect"
import { cast } from "effect/Function"
import type { Json } from "effect/Schema"
import type { SqlClient } from "effect/sql/SqlClient"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

type Call = Effect.Effect<unknown, QueryError<Reason>, SqlClient>

const maxInt = 2_147_483_647
const jobId = Jobs.JobId.make("01980000-0000-7000-8000-000000000001")
const lease: Jobs.Lease = { jobId, runNumber: 1, attempt: 1, workerId: "worker" }
const scope = TenantScope.global
const failure = { kind: "RETRYABLE", code: "smtp.down", message: "no answer" } as const
const line = { jobId, runNumber: 1, level: "INFO", message: "said" }

/** A client that counts what is sent. Notifications are statements too. */
const Counting = Layer.merge(
  FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layer)),
  Layer.succeed(NotifyInterval, 0)
)

/** The reason of a call that sends nothing. */
const refused = Effect.fnUntraced(function* (call: Call, what: string) {
  const faults = yield* FaultySqlClient.Faults
  yield* faults.clear
  const exit = yield* Effect.result(call)
  assert.isTrue(Result.isFailure(exit), `${what} was accepted`)
  assert.deepStrictEqual(yield* faults.statements, [], `${what} was sent`)
  return Result.isFailure(exit) ? exit.failure.reason : yield* Effect.die("unreachable")
})

/** Whether a call was refused for what it was given, rather than for what is stored. */
const isRefused = (call: Call) =>
  Effect.map(Effect.result(call), (it) => Result.isFailure(it) && it.failure.reason._tag === "InvalidArgument")

const show = (value: unknown) => {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value)
  return text.length > 60 ? `${text.slice(0, 60)}... (${text.length})` : text
}

/** A place for a value of one kind: who takes it, under which name it is refused, and how it gets there. */
type Place<A> = readonly [operation: string, argument: string, call: (value: A) => Call]

const withLease: ReadonlyArray<readonly [operation: string, call: (lease: Jobs.Lease) => Call]> = [
  ["heartbeat", (lease) => Jobs.heartbeat(lease)],
  ["heartbeatMany", (lease) => Jobs.heartbeatMany([lease])],
  ["markRunning", (lease) => Jobs.markRunning(lease)],
  ["updateProgress", (lease) => Jobs.updateProgress(lease, {})],
  ["releaseUnstarted", (lease) => Jobs.releaseUnstarted(lease)],
  ["completeSuccess", (lease) => Jobs.completeSuccess(lease)],
  ["completeFailure", (lease) => Jobs.completeFailure(lease, failure)],
  ["completeContinuation", (lease) => Jobs.completeContinuation(lease)],
  ["completeMany", (lease) => Jobs.completeMany([{ _tag: "Success", lease }])]
]

const leasePlaces = <A>(argument: string, change: (value: A) => Partial<Jobs.Lease>): ReadonlyArray<Place<A>> =>
  withLease.map(([operation, call]) => [operation, argument, (value) => call({ ...lease, ...change(value) })])

// ---------------------------------------------------------------------------------------------------------------------
// Texts
// ---------------------------------------------------------------------------------------------------------------------

const names: ReadonlyArray<readonly [...Place<string>, maxBytes: number]> = [
  ["enqueue", "jobType", (text) => Jobs.enqueue(text, null), 128],
  ["enqueue", "idempotencyKey", (idempotencyKey) => Jobs.enqueue("type", null, { idempotencyKey }), 512],
  [
    "enqueueMany",
    "requests[1].jobType",
    (text) =>
      Jobs.enqueueMany([
        { jobType: "type", payload: null },
        { jobType: text, payload: null }
      ]),
    128
  ],
  [
    "enqueueMany",
    "requests[0].idempotencyKey",
    (idempotencyKey) => Jobs.enqueueMany([{ jobType: "type", payload: null, idempotencyKey }]),
    512
  ],
  ["claim", "workerId", (workerId) => Jobs.claim({ workerId, types: ["type"], limit: 1 }), 255],
  ["claim", "types", (type) => Jobs.claim({ workerId: "worker", types: ["type", type], limit: 1 }), 128],
  [
    "claimPrestart",
    "types",
    (jobType) => Jobs.claimPrestart({ workerId: "worker", types: [{ jobType, maxPayloadVersion: 1 }], limit: 1 }),
    128
  ],
  ...leasePlaces("lease.workerId", (workerId: string) => ({ workerId })).map((place) => [...place, 255] as const),
  ["completeFailure", "code", (code) => Jobs.completeFailure(lease, { ...failure, code }), 255],
  ["completeMany", "code", (code) => Jobs.completeMany([{ _tag: "Failure", lease, ...failure, code }]), 255],
  ["list", "jobType", (jobType) => Jobs.list({ scope, jobType }), 128],
  ["count", "jobType", (jobType) => Jobs.count({ scope, jobType }), 128],
  ["deadLetters", "jobType", (jobType) => Jobs.deadLetters({ scope, jobType }), 128],
  ["JobDefinitions.upsert", "jobType", (text) => JobDefinitions.upsert(text), 128],
  ["JobDefinitions.insertIfMissing", "jobType", (text) => JobDefinitions.insertIfMissing(text), 128],
  ["JobDefinitions.update", "jobType", (text) => JobDefinitions.update(text, {}), 128],
  ["JobDefinitions.get", "jobType", (text) => JobDefinitions.get(text), 128],
  ["JobDefinitions.list", "contains", (contains) => JobDefinitions.list({ contains }), 128],
  ["JobDefinitions.list", "after", (after) => JobDefinitions.list({ after }), 128],
  [
    "JobDefinitions.upsert",
    "retry.overrides",
    (code) => JobDefinitions.upsert("type", { retry: { overrides: { [code]: 1 } } }),
    255
  ],
  ["JobLogs.insert", "level", (level) => JobLogs.insert({ ...line, level }), 32],
  ["JobLogs.insertMany", "level", (level) => JobLogs.insertMany([line, { ...line, level }]), 32]
]

const blanks = ["", " ", "\t\r\n", "\u0085", "\u00a0", "\u1680", "\u2000\u200a", "\u2028", "\u3000", "\ufeff"]
const unstorable = ["\0", "a\0b", "\ud800", "a\udc00", "\udc00\ud800", "\ud83d\ud83d\ude00"]

// ---------------------------------------------------------------------------------------------------------------------
// Ids
// ---------------------------------------------------------------------------------------------------------------------

const organizations: ReadonlyArray<Place<string>> = [
  ["enqueue", "organizationId", (organizationId) => Jobs.enqueue("type", null, { organizationId })],
  [
    "enqueueMany",
    "requests[0].organizationId",
    (organizationId) => Jobs.enqueueMany([{ jobType: "type", payload: null, organizationId }])
  ],
  ...(
    [
      ["get", (scope) => Jobs.get(scope, jobId)],
      ["list", (scope) => Jobs.list({ scope })],
      ["count", (scope) => Jobs.count({ scope })],
      ["statuses", (scope) => Jobs.statuses(scope, [jobId])],
      ["events", (scope) => Jobs.events(scope, jobId)],
      ["attempts", (scope) => Jobs.attempts(scope, jobId)],
      ["deadLetters", (scope) => Jobs.deadLetters({ scope })],
      ["cancel", (scope) => Jobs.cancel(scope, jobId)],
      ["JobLogs.list", (scope) => JobLogs.list(scope, jobId)]
    ] satisfies ReadonlyArray<readonly [string, (scope: TenantScope.TenantScope) => Call]>
  ).map(
    ([operation, call]): Place<string> => [
      operation,
      "scope.organizationId",
      (id) => call(TenantScope.organization(id))
    ]
  )
]

const ids: ReadonlyArray<Place<Jobs.JobId>> = [
  ["get", "jobId", (id) => Jobs.get(scope, id)],
  ["list", "before", (before) => Jobs.list({ scope, before })],
  ["statuses", "jobIds", (id) => Jobs.statuses(scope, [jobId, id])],
  ["events", "jobId", (id) => Jobs.events(scope, id)],
  ["attempts", "jobId", (id) => Jobs.attempts(scope, id)],
  [
    "deadLetters",
    "before.jobId",
    (id) => Jobs.deadLetters({ scope, before: { failedAt: DateTime.makeUnsafe(0), jobId: id } })
  ],
  ["cancel", "jobId", (id) => Jobs.cancel(scope, id)],
  ["JobLogs.insert", "jobId", (id) => JobLogs.insert({ ...line, jobId: id })],
  ["JobLogs.list", "jobId", (id) => JobLogs.list(scope, id)],
  ...leasePlaces("lease.jobId", (id: Jobs.JobId) => ({ jobId: id })),
  ...leasePlaces("lease.workflowRunId", (workflowRunId: string) => ({ workflowRunId }))
]

const notIds = [
  "",
  "1",
  "0198000000007000800000000000000a",
  "{01980000-0000-7000-8000-000000000001}",
  "urn:uuid:01980000-0000-7000-8000-000000000001",
  "01980000-0000-7000-8000-00000000000g",
  "01980000-0000-7000-8000-000000000001\n",
  " 01980000-0000-7000-8000-000000000001",
  "' OR true --"
]

// ---------------------------------------------------------------------------------------------------------------------
// Numbers
// ---------------------------------------------------------------------------------------------------------------------

const never = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1.5]

const numbers: ReadonlyArray<readonly [...Place<number>, minimum: number, maximum: number]> = [
  ["enqueue", "priority", (priority) => Jobs.enqueue("type", null, { priority }), -100, 100],
  ["enqueue", "maxAttempts", (maxAttempts) => Jobs.enqueue("type", null, { maxAttempts }), 1, maxInt],
  ["enqueue", "payloadVersion", (payloadVersion) => Jobs.enqueue("type", null, { payloadVersion }), 1, maxInt],
  ["claim", "limit", (limit) => Jobs.claim({ workerId: "worker", types: ["type"], limit }), 1, 1000],
  ["claimPrestart", "limit", (limit) => Jobs.claimPrestart({ workerId: "worker", types: [], limit }), 1, 1000],
  [
    "claim",
    "types.maxPayloadVersion",
    (maxPayloadVersion) =>
      Jobs.claim({ workerId: "worker", types: [{ jobType: "type", maxPayloadVersion }], limit: 1 }),
    1,
    maxInt
  ],
  ["reapExpiredLeases", "limit", (limit) => Jobs.reapExpiredLeases({ limit }), 1, 1000],
  ...leasePlaces("lease.runNumber", (runNumber: number) => ({ runNumber })).map(
    (place) => [...place, 1, maxInt] as const
  ),
  ...leasePlaces("lease.attempt", (attempt: number) => ({ attempt })).map((place) => [...place, 1, maxInt] as const),
  ["events", "after", (after) => Jobs.events(scope, jobId, { after }), 0, maxInt],
  [
    "attempts",
    "after.runNumber",
    (runNumber) => Jobs.attempts(scope, jobId, { after: { runNumber, attempt: 0 } }),
    0,
    maxInt
  ],
  [
    "attempts",
    "after.attempt",
    (attempt) => Jobs.attempts(scope, jobId, { after: { runNumber: 0, attempt } }),
    0,
    maxInt
  ],
  ["JobDefinitions.upsert", "version", (version) => JobDefinitions.upsert("type", { version }), 1, maxInt],
  ["JobDefinitions.upsert", "maxAttempts", (maxAttempts) => JobDefinitions.upsert("type", { maxAttempts }), 1, maxInt],
  ["JobDefinitions.update", "priority", (priority) => JobDefinitions.update("type", { priority }), -100, 100],
  ["JobLogs.insert", "runNumber", (runNumber) => JobLogs.insert({ ...line, runNumber }), 1, maxInt],
  ["JobLogs.insert", "attempt", (attempt) => JobLogs.insert({ ...line, attempt }), 0, maxInt],
  ["JobLogs.list", "after", (after) => JobLogs.list(scope, jobId, { after }), 0, Number.MAX_SAFE_INTEGER]
]

const pages: ReadonlyArray<readonly [operation: string, call: (limit: number) => Call]> = [
  ["list", (limit) => Jobs.list({ scope, limit })],
  ["events", (limit) => Jobs.events(scope, jobId, { limit })],
  ["attempts", (limit) => Jobs.attempts(scope, jobId, { limit })],
  ["deadLetters", (limit) => Jobs.deadLetters({ scope, limit })],
  ["JobDefinitions.list", (limit) => JobDefinitions.list({ limit })],
  ["JobLogs.list", (limit) => JobLogs.list(scope, jobId, { limit })]
]

const progresses: ReadonlyArray<
  readonly [operation: string, reason: Reason["_tag"], call: (progress: Jobs.ProgressUpdate) => Call]
> = [
  ["markRunning", "InvalidProgress", (progress) => Jobs.markRunning(lease, progress)],
  ["updateProgress", "InvalidProgress", (progress) => Jobs.updateProgress(lease, progress)],
  ["completeSuccess", "InvalidCompletionProgress", (progress) => Jobs.completeSuccess(lease, progress)],
  ["completeContinuation", "InvalidCompletionProgress", (progress) => Jobs.completeContinuation(lease, progress)],
  [
    "completeMany",
    "InvalidCompletionProgress",
    (progress) => Jobs.completeMany([{ _tag: "Success", lease, ...progress }])
  ],
  [
    "completeMany",
    "InvalidCompletionProgress",
    (progress) => Jobs.completeMany([{ _tag: "Continuation", lease, ...progress }])
  ]
]

// ---------------------------------------------------------------------------------------------------------------------
// Durations and instants
// ---------------------------------------------------------------------------------------------------------------------

const infinite = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Duration.infinity, Duration.negativeInfinity]
const negative = [-1, Duration.millis(-1), Duration.nanos(-1_000_000_000n)]
const unreadable = [cast<string, Duration.Input>("soon"), cast<string, Duration.Input>("1 fortnight")]

const durations: ReadonlyArray<
  readonly [
    operation: string,
    reason: Reason["_tag"],
    call: (duration: Duration.Input) => Call,
    bad: ReadonlyArray<Duration.Input>
  ]
> = [
  [
    "claim lease",
    "InvalidLeaseDuration",
    (duration) => Jobs.claim({ workerId: "worker", types: ["type"], limit: 1, lease: duration }),
    [0, Duration.zero, maxInt + 1, "25 days"]
  ],
  [
    "claimPrestart lease",
    "InvalidLeaseDuration",
    (duration) => Jobs.claimPrestart({ workerId: "worker", types: ["type"], limit: 1, lease: duration }),
    [0, maxInt + 1]
  ],
  ["heartbeat extend", "InvalidLeaseDuration", (extend) => Jobs.heartbeat(lease, { extend }), [0, maxInt + 1]],
  ["heartbeatMany extend", "InvalidLeaseDuration", (extend) => Jobs.heartbeatMany([], { extend }), [0, maxInt + 1]],
  [
    "enqueue timeout",
    "InvalidArgument",
    (timeout) => Jobs.enqueue("type", null, { timeout }),
    [0, Duration.seconds(maxInt + 1)]
  ],
  [
    "enqueue delay",
    "InvalidArgument",
    (delay) => Jobs.enqueue("type", null, { delay }),
    [Duration.sum(Duration.days(36_525), Duration.millis(1))]
  ],
  [
    "completeContinuation delay",
    "InvalidContinuationDelay",
    (delay) => Jobs.completeContinuation(lease, { delay }),
    [Duration.sum(Duration.days(36_525), Duration.millis(1))]
  ],
  [
    "completeFailure retryNotBefore.delay",
    "InvalidRetryTiming",
    (delay) => Jobs.completeFailure(lease, { ...failure, retryNotBefore: { delay } }),
    [maxInt + 1]
  ],
  [
    "completeMany retryNotBefore.delay",
    "InvalidRetryTiming",
    (delay) => Jobs.completeMany([{ _tag: "Failure", lease, ...failure, retryNotBefore: { delay } }]),
    [maxInt + 1]
  ],
  ["releaseUnstarted delay", "InvalidArgument", (delay) => Jobs.releaseUnstarted(lease, { delay }), [maxInt + 1]],
  [
    "JobDefinitions.upsert timeout",
    "InvalidArgument",
    (timeout) => JobDefinitions.upsert("type", { timeout }),
    [0, Duration.seconds(maxInt + 1)]
  ],
  [
    "JobDefinitions.upsert retry.initial",
    "InvalidArgument",
    (initial) => JobDefinitions.upsert("type", { retry: { initial } }),
    [0, maxInt + 1]
  ],
  [
    "JobDefinitions.update retry.max",
    "InvalidArgument",
    (max) => JobDefinitions.update("type", { retry: { max } }),
    [0, maxInt + 1]
  ],
  [
    "JobDefinitions.update retry.overrides",
    "InvalidArgument",
    (duration) => JobDefinitions.update("type", { retry: { overrides: { good: 1, bad: duration } } }),
    [0, maxInt + 1]
  ]
]

const instants: ReadonlyArray<readonly [operation: string, reason: Reason["_tag"], call: (at: DateTime.Utc) => Call]> =
  [
    ["enqueue runAt", "InvalidArgument", (runAt) => Jobs.enqueue("type", null, { runAt })],
    ["JobLogs.insert occurredAt", "InvalidArgument", (occurredAt) => JobLogs.insert({ ...line, occurredAt })],
    ["deadLetters before", "InvalidArgument", (failedAt) => Jobs.deadLetters({ scope, before: { failedAt, jobId } })]
  ]

// ---------------------------------------------------------------------------------------------------------------------
// JSON
// ---------------------------------------------------------------------------------------------------------------------

const jsons: ReadonlyArray<Place<Json>> = [
  ["enqueue", "payload", (payload) => Jobs.enqueue("type", payload)],
  ["enqueueMany", "requests[0].payload", (payload) => Jobs.enqueueMany([{ jobType: "type", payload }])],
  ["markRunning", "checkpoint", (checkpoint) => Jobs.markRunning(lease, { checkpoint })],
  ["updateProgress", "checkpoint", (checkpoint) => Jobs.updateProgress(lease, { checkpoint })],
  ["completeSuccess", "output", (output) => Jobs.completeSuccess(lease, { output })],
  ["completeSuccess", "checkpoint", (checkpoint) => Jobs.completeSuccess(lease, { checkpoint })],
  ["completeContinuation", "checkpoint", (checkpoint) => Jobs.completeContinuation(lease, { checkpoint })],
  ["completeMany", "output", (output) => Jobs.completeMany([{ _tag: "Success", lease, output }])],
  ["completeMany", "checkpoint", (checkpoint) => Jobs.completeMany([{ _tag: "Continuation", lease, checkpoint }])],
  ["JobLogs.insert", "payload", (payload) => JobLogs.insert({ ...line, payload })]
]

const nested = (depth: number): Json => (depth === 0 ? 0 : [nested(depth - 1)])

const cyclicObject: Record<string, unknown> = {}
cyclicObject.self = { again: cyclicObject }
const cyclicArray: Array<unknown> = []
cyclicArray.push(cyclicArray)

const notJson: ReadonlyArray<readonly [title: string, value: unknown]> = [
  ["NaN", Number.NaN],
  ["infinity", Number.POSITIVE_INFINITY],
  ["negative infinity, inside", { a: [Number.NEGATIVE_INFINITY] }],
  ["a bigint", 1n],
  ["a bigint inside", { a: 1n }],
  ["a function", () => 1],
  ["a function inside", { a: () => 1 }],
  ["a method toJSON", { toJSON: () => 1 }],
  ["a symbol", Symbol("a")],
  ["a date", new Date(0)],
  ["a date inside", [new Date(0)]],
  ["a map", new Map()],
  ["an instance of a class", new (class Point {})()],
  ["undefined in an array", [undefined]],
  ["a gap in an array", new Array(2)],
  ["an object that contains itself", cyclicObject],
  ["an array that contains itself", cyclicArray],
  ["257 levels", nested(257)],
  ["more than 2 MiB", "x".repeat(2 * 1024 * 1024 - 1)],
  ["more than 2 MiB of UTF-8", "é".repeat(1024 * 1024)],
  ["numbers that take more than 2 MiB once they are stored", Array.from({ length: 6500 }, () => 1e300)],
  ["U+0000", "a\0"],
  ["U+0000 in a key", { "\0": 1 }],
  ["U+0000 after a backslash", "\\\0"],
  ["an unpaired surrogate after two backslashes", "\\\\\udc00"],
  ["U+0000 after what looks like its escape", "\\u0000\0"],
  ["an unpaired high surrogate", ["\ud800"]],
  ["an unpaired low surrogate in a key", { a: { "b\udc00": 1 } }]
]

const unusual: ReadonlyArray<readonly [title: string, value: Json]> = [
  ["null", null],
  ["nothing in an object", {}],
  ["nothing in an array", []],
  ["text that looks like an escape", "\\u0000"],
  ["text that looks like an escaped escape", "\\\\u0000 \\\\\\u0000"],
  ["text that looks like a surrogate", { "\\ud800": "\\\\\\ud800" }],
  ["a pair of surrogates", "\u{1f600}"],
  ["the other control characters", "\u0001\b\t\n\f\r\u001f\u007f\u0085\u2028\u2029\ufeff\uffff"],
  ["quotes and backslashes", "'\"`\\\\'' $1 %s --"],
  ["huge and tiny numbers", [1e300, -1e300, Number.MAX_VALUE, Number.MIN_VALUE, 1e-7, 1e21, 0.1, -0.000001]],
  ["the largest whole numbers", [Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 2 ** 64]],
  ["256 levels", nested(256)],
  ["2 MiB", "x".repeat(2 * 1024 * 1024 - 2)],
  ["the keys of a prototype", JSON.parse('{"__proto__": {"a": 1}, "constructor": 2, "toString": 3}')],
  ["an empty key", { "": { "": "" } }],
  ["keys that look like numbers", { "10": 1, "9": 2, "-1": 3 }]
]

/** Through everything that stores JSON, and back. */
const survives = Effect.fnUntraced(function* (jobType: string, value: Json) {
  const { jobId } = yield* Jobs.enqueue(jobType, value)
  const [job] = yield* Jobs.claim({ workerId: "worker", types: [jobType], limit: 1 })
  assert.strictEqual(job?.lease.jobId, jobId)
  if (job === undefined) return yield* Effect.die("unreachable")
  yield* Jobs.updateProgress(job.lease, { checkpoint: value })
  yield* Jobs.completeSuccess(job.lease, { output: job.payload })
  const stored = Option.getOrThrow(yield* Jobs.get(TenantScope.admin, jobId))
  assert.deepStrictEqual(stored.payload, value)
  // JSON null and none look the same in what is read
  const expected = value === null ? Option.none() : Option.some(value)
  assert.deepStrictEqual(stored.output, expected)
  assert.deepStrictEqual(stored.checkpoint, expected)
  return undefined
})

it.layer(Counting)("input", (it) => {
  it.effect.each(names.map(([operation, argument, call, maxBytes]) => ({ operation, argument, call, maxBytes })))(
    "$operation: $argument is text that is not blank, storable, and of at most $maxBytes bytes",
    ({ argument, call, maxBytes }) =>
      Effect.gen(function* () {
        const tooLong = ["x".repeat(maxBytes + 1), `${"é".repeat(maxBytes / 2)}é`]
        for (const text of [...blanks, ...unstorable, ...tooLong]) {
          const reason = yield* refused(call(text), show(text))
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument, show(text))
          // what was given may be a secret
          assert.isTrue(text.trim() === "" || !reason.message.includes(text))
        }
        for (const text of ["x".repeat(maxBytes), "é".repeat(maxBytes / 2), " x", "\u{1f600}"]) {
          assert.isFalse(yield* isRefused(call(text)), show(text))
        }
      })
  )

  it.effect.each(organizations.map(([operation, argument, call]) => ({ operation, argument, call })))(
    "$operation: $argument is a UUID",
    ({ argument, call }) =>
      Effect.gen(function* () {
        for (const id of notIds) {
          const reason = yield* refused(call(id), show(id))
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument, show(id))
        }
      })
  )

  it.effect.each(ids.map(([operation, argument, call]) => ({ operation, argument, call })))(
    "$operation: $argument is a UUID",
    ({ argument, call }) =>
      Effect.gen(function* () {
        for (const id of notIds) {
          const reason = yield* refused(call(cast<string, Jobs.JobId>(id)), show(id))
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument, show(id))
        }
      })
  )

  it.effect.each(numbers.map(([operation, argument, call, low, high]) => ({ operation, argument, call, low, high })))(
    "$operation: $argument is a whole number between $low and $high",
    ({ argument, call, low, high }) =>
      Effect.gen(function* () {
        for (const value of [...never, low - 1, high + 1, cast<string, number>("1")]) {
          const reason = yield* refused(call(value), show(value))
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument, show(value))
        }
        for (const value of [low, high]) assert.isFalse(yield* isRefused(call(value)), show(value))
      })
  )

  it.effect.each(pages.map(([operation, call]) => ({ operation, call })))(
    "$operation: a page holds 1 to 1,000 rows",
    ({ call }) =>
      Effect.gen(function* () {
        for (const limit of [...never, 0, -1, 1001]) {
          assert.strictEqual((yield* refused(call(limit), show(limit)))._tag, "InvalidPagination", show(limit))
        }
        for (const limit of [1, 1000]) assert.isTrue(Result.isSuccess(yield* Effect.result(call(limit))))
      })
  )

  it.effect.each(progresses.map(([operation, reason, call]) => ({ operation, reason, call })))(
    "$operation: progress is whole, not negative, and done at most total",
    ({ reason, call }) =>
      Effect.gen(function* () {
        for (const value of [...never, -1, Number.MAX_SAFE_INTEGER + 1]) {
          for (const progress of [{ done: value }, { total: value }]) {
            assert.strictEqual((yield* refused(call(progress), show(value)))._tag, reason)
          }
        }
        assert.strictEqual((yield* refused(call({ done: 2, total: 1 }), "2 of 1"))._tag, reason)
      })
  )

  it.effect.each(durations.map(([operation, reason, call, bad]) => ({ operation, reason, call, bad })))(
    "$operation: the duration is finite, not negative, and within its bounds",
    ({ reason, call, bad }) =>
      Effect.gen(function* () {
        for (const duration of [...bad, ...infinite, ...negative, ...unreadable]) {
          assert.strictEqual((yield* refused(call(duration), show(duration)))._tag, reason, show(duration))
        }
      })
  )

  it.effect.each(instants.map(([operation, reason, call]) => ({ operation, reason, call })))(
    "$operation: the instant is one that the database has",
    ({ reason, call }) =>
      Effect.gen(function* () {
        for (const millis of [8.64e15, -8.64e15, Date.UTC(10_000, 0), Date.parse("0000-12-31T23:59:59.999Z")]) {
          const at = DateTime.makeUnsafe(millis)
          assert.strictEqual((yield* refused(call(at), show(at)))._tag, reason, show(at))
        }
      })
  )

  it.effect("a retry is held back until an instant that the database has", () =>
    Effect.gen(function* () {
      for (const millis of [8.64e15, Date.UTC(10_000, 0)]) {
        const at = DateTime.makeUnsafe(millis)
        const options = { ...failure, retryNotBefore: { at } }
        assert.strictEqual((yield* refused(Jobs.completeFailure(lease, options), show(at)))._tag, "InvalidRetryTiming")
      }
    })
  )

  it.effect("delay and instant exclude each other", () =>
    Effect.gen(function* () {
      const both = { delay: 0, runAt: DateTime.makeUnsafe(0) }
      const reason = yield* refused(Jobs.enqueue("type", null, both), "both")
      assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, "delay")
    })
  )

  it.effect("a retry policy's longest delay is not shorter than its first, and its numbers are within bounds", () =>
    Effect.gen(function* () {
      const policies: ReadonlyArray<readonly [JobDefinitions.RetryPolicy, argument: string]> = [
        [{ initial: 2, max: 1 }, "retry.max"],
        ...[0.99, 100.01, Number.NaN, Number.POSITIVE_INFINITY].map((factor) => [{ factor }, "retry.factor"] as const),
        ...[-0.01, 1.01, Number.NaN].map((jitter) => [{ jitter }, "retry.jitter"] as const)
      ]
      for (const [retry, argument] of policies) {
        for (const call of [JobDefinitions.upsert, JobDefinitions.insertIfMissing, JobDefinitions.update]) {
          const reason = yield* refused(call("type", { retry }), JSON.stringify(retry))
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument)
        }
      }
    })
  )

  it.effect("kinds, stages and statuses are those that exist", () =>
    Effect.gen(function* () {
      const calls: ReadonlyArray<readonly [argument: string, Call]> = [
        ["stage", Jobs.enqueue("type", null, { stage: cast<string, Jobs.Stage>("QUEUED") })],
        ["requests[0].stage", Jobs.enqueueMany([{ jobType: "type", payload: 1, stage: cast<string, Jobs.Stage>("") }])],
        ["kind", Jobs.completeFailure(lease, { ...failure, kind: cast<string, Jobs.FailureKind>("retryable") })],
        [
          "kind",
          Jobs.completeMany([{ _tag: "Failure", lease, ...failure, kind: cast<string, Jobs.FailureKind>("BAD") }])
        ],
        ["status", Jobs.list({ scope, status: cast<string, Jobs.Status>("pending") })],
        ["status", Jobs.count({ scope, status: cast<string, Jobs.Status>("PENDING' OR true --") })]
      ]
      for (const [argument, call] of calls) {
        const reason = yield* refused(call, argument)
        assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument)
      }
    })
  )

  it.effect("a batch names each job once, in one spelling, and is bounded", () =>
    Effect.gen(function* () {
      const shouted = { ...lease, jobId: Jobs.JobId.make("01980000-0000-7000-8000-00000000000A") }
      const spoken = { ...lease, jobId: Jobs.JobId.make("01980000-0000-7000-8000-00000000000a") }
      const many = Array.from({ length: 1001 }, () => ({ ...lease, jobId: Jobs.JobId.make(crypto.randomUUID()) }))
      const batches = [[lease, lease], [lease, { ...lease, attempt: 2 }], [shouted, spoken], [spoken, shouted], many]
      for (const leases of batches) {
        const calls: ReadonlyArray<Call> = [
          Jobs.heartbeatMany(leases),
          Jobs.completeMany(leases.map((it) => ({ _tag: "Success" as const, lease: it }))),
          Jobs.completeMany(
            leases.map((it, index) =>
              index === 0 ? { _tag: "Success", lease: it } : { _tag: "Failure", lease: it, ...failure }
            )
          )
        ]
        for (const call of calls) {
          assert.strictEqual((yield* refused(call, `${leases.length} leases`))._tag, "InvalidArgument")
        }
      }
      const types = Array.from({ length: 1001 }, (_, n) => `type ${n}`)
      const claim = yield* refused(Jobs.claim({ workerId: "worker", types, limit: 1 }), "1,001 types")
      assert.strictEqual(claim._tag === "InvalidArgument" && claim.argument, "types")
      const statuses = Jobs.statuses(
        scope,
        many.map((it) => it.jobId)
      )
      assert.strictEqual((yield* refused(statuses, "1,001 ids"))._tag, "InvalidPagination")
      const lines = yield* refused(JobLogs.insertMany(many.map((it) => ({ ...line, jobId: it.jobId }))), "1,001 lines")
      assert.strictEqual(lines._tag === "InvalidArgument" && lines.argument, "lines")
    })
  )

  it.effect("one malformed item refuses its batch before anything is sent", () =>
    Effect.gen(function* () {
      const other = { ...lease, jobId: Jobs.JobId.make(crypto.randomUUID()) }
      const calls: ReadonlyArray<Call> = [
        Jobs.enqueueMany([
          { jobType: "type", payload: 1 },
          { jobType: "type", payload: Number.NaN }
        ]),
        Jobs.completeMany([
          { _tag: "Success", lease },
          { _tag: "Success", lease: other, output: "\0" }
        ]),
        Jobs.completeMany([
          { _tag: "Success", lease },
          { _tag: "Failure", lease: other, ...failure, code: "" }
        ]),
        Jobs.heartbeatMany([lease, { ...other, workerId: "" }]),
        JobLogs.insertMany([line, { ...line, level: "" }])
      ]
      for (const call of calls) assert.strictEqual((yield* refused(call, "a batch"))._tag, "InvalidArgument")
    })
  )

  it.effect("nothing to do sends nothing", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      yield* faults.clear
      assert.deepStrictEqual(yield* Jobs.enqueueMany([]), [])
      assert.deepStrictEqual(yield* Jobs.heartbeatMany([]), [])
      assert.deepStrictEqual(yield* Jobs.completeMany([]), [])
      assert.deepStrictEqual(yield* Jobs.claim({ workerId: "worker", types: [], limit: 1 }), [])
      assert.deepStrictEqual(yield* Jobs.statuses(scope, []), [])
      assert.deepStrictEqual(yield* JobLogs.insertMany([]), [])
      assert.deepStrictEqual(yield* faults.statements, [])
    })
  )

  it.effect.each(jsons.map(([operation, argument, call]) => ({ operation, argument, call })))(
    "$operation: $argument is JSON that can be stored",
    ({ operation, argument, call }) =>
      Effect.gen(function* () {
        for (const [title, value] of notJson) {
          const reason = yield* refused(call(cast<unknown, Json>(value)), title)
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument, title)
        }
        if (operation.startsWith("enqueue")) {
          const reason = yield* refused(call(cast<undefined, Json>(undefined)), "undefined")
          assert.strictEqual(reason._tag === "InvalidArgument" && reason.argument, argument)
        }
        for (const [title, value] of unusual) assert.isFalse(yield* isRefused(call(value)), title)
      })
  )

  it.effect.each(unusual.map(([title, value]) => ({ title, value })))("$title: unusual, but JSON", ({ value }) =>
    Effect.gen(function* () {
      const jobType = `unusual-${crypto.randomUUID()}`
      yield* JobDefinitions.upsert(jobType)
      yield* survives(jobType, value)
    })
  )

  it.effect("an error that cannot be stored does not keep its failure from being recorded", () =>
    Effect.gen(function* () {
      const jobType = "errors"
      yield* JobDefinitions.upsert(jobType)
      const cases = [
        ...notJson.map(([title, value]) => ({ title, error: cast<unknown, Json>(value), kept: null })),
        ...unusual.map(([title, value]) => ({ title, error: value, kept: value }))
      ]
      yield* Jobs.enqueueMany(cases.map(() => ({ jobType, payload: null, maxAttempts: 1 })))
      const jobs = yield* Jobs.claim({ workerId: "worker", types: [jobType], limit: cases.length })
      const completions: Array<Jobs.Completion> = []
      for (const [i, { error }] of cases.entries()) {
        const lease = jobs[i]?.lease
        if (lease === undefined) return yield* Effect.die("unreachable")
        // each way that takes it
        if (i % 2 === 0) completions.push({ _tag: "Failure", lease, ...failure, error })
        else yield* Jobs.completeFailure(lease, { ...failure, error })
      }
      for (const answer of yield* Jobs.completeMany(completions)) assert.isTrue(Result.isSuccess(answer))
      for (const [i, { title, kept }] of cases.entries()) {
        const lease = jobs[i]?.lease
        if (lease === undefined) return yield* Effect.die("unreachable")
        const [attempt] = yield* Jobs.attempts(scope, lease.jobId)
        assert.deepStrictEqual(attempt?.errorCode, Option.some(failure.code), title)
        assert.deepStrictEqual(Option.getOrNull(attempt?.error ?? Option.none()), kept, title)
      }
      return undefined
    })
  )

  it.effect("a property that is undefined is not there", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("absent")
      const { jobId } = yield* Jobs.enqueue("absent", cast<object, Json>({ a: undefined, b: { c: undefined, d: 1 } }))
      assert.deepStrictEqual(Option.getOrThrow(yield* Jobs.get(scope, jobId)).payload, { b: { d: 1 } })
    })
  )

  it.effect("a job whose JSON is as large as it may be is claimed, finished and read", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("largest")
      const largest = "\u0001".repeat(Math.floor((2 * 1024 * 1024 - 2) / 6))
      const { jobId } = yield* Jobs.enqueue("largest", largest, { idempotencyKey: "k" })
      const [job] = yield* Jobs.claim({ workerId: "worker", types: ["largest"], limit: 1 })
      assert.isDefined(job)
      yield* Jobs.completeSuccess(job.lease, { output: largest, checkpoint: largest })
      const stored = Option.getOrThrow(yield* Jobs.get(scope, jobId))
      assert.isTrue(stored.payload === largest && Option.contains(stored.output, largest))
    })
  )

  it.effect("texts for people are made storable, not refused", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("texts", { maxAttempts: 1 })
      const odd = "a\0b\ud800c"
      const storable = "a\ufffdb\ufffdc"
      const long = `${"x".repeat(16_383)}\u{1f600}`
      const cut = `${"x".repeat(16_383)}\ufffd`
      for (const [given, kept] of [
        [odd, storable],
        [long, cut]
      ] as const) {
        yield* Jobs.enqueue("texts", null)
        yield* Jobs.enqueue("texts", null)
        const [failing] = yield* Jobs.claim({ workerId: "worker", types: ["texts"], limit: 1 })
        const [held] = yield* Jobs.claimPrestart({ workerId: "worker", types: ["texts"], limit: 1 })
        assert.isDefined(failing)
        assert.isDefined(held)

        yield* Jobs.completeFailure(failing.lease, { ...failure, message: given })
        const job = Option.getOrThrow(yield* Jobs.get(scope, failing.lease.jobId))
        assert.deepStrictEqual(job.lastErrorMessage, Option.some(kept))
        const [attempt] = yield* Jobs.attempts(scope, failing.lease.jobId)
        assert.deepStrictEqual(attempt?.errorMessage, Option.some(kept))
        const [letter] = yield* Jobs.deadLetters({ scope, jobType: "texts", limit: 1 })
        assert.deepStrictEqual(letter?.errorMessage, Option.some(kept))

        yield* Jobs.releaseUnstarted(held.lease, { reason: given })
        const [release] = (yield* Jobs.events(scope, held.lease.jobId)).slice(-1)
        assert.deepStrictEqual(release?.payload, { reason: kept, requeue_kind: "BASIC" })

        const canceled = yield* Jobs.cancel(scope, held.lease.jobId, { reason: given })
        assert.deepStrictEqual(canceled.statusReason, Option.some(kept))
        const [cancellation] = (yield* Jobs.events(scope, held.lease.jobId)).slice(-1)
        assert.deepStrictEqual(cancellation?.payload, { reason: kept })

        yield* JobLogs.insert({ ...line, jobId: held.lease.jobId, message: given })
        const [log] = yield* JobLogs.list(scope, held.lease.jobId)
        assert.strictEqual(log?.message, kept)
      }
    })
  )

  it.effect.prop(
    "any JSON survives from enqueue to output",
    [Schema.Json],
    ([value]) =>
      Effect.gen(function* () {
        yield* JobDefinitions.insertIfMissing("any")
        // JSON has no negative zero
        const json: Json = JSON.parse(JSON.stringify(value))
        if (isStorable(json)) yield* survives("any", json)
        else
          assert.strictEqual((yield* refused(Jobs.enqueue("any", json), JSON.stringify(json)))._tag, "InvalidArgument")
      }),
    { timeout: 60_000, arbitrary: { runs: 100, size: 20 } }
  )
})

const isStorable = (value: Json): boolean => {
  if (typeof value === "string") return !value.includes("\0") && value.isWellFormed()
  if (typeof value !== "object" || value === null) return true
  return Object.entries(value).every(([key, inner]) => isStorable(key) && isStorable(inner))
}
