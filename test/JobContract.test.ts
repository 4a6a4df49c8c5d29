import { inspect } from "node:util"
import { assert, expectTypeOf, it } from "@effect/vitest"
import { Context, Data, DateTime, Duration, Effect, Layer, Option, Result, Schedule, Schema, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import { JobExecution } from "../src/JobExecution.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import type { QueryError } from "../src/QueryError.ts"
import type { Reason } from "../src/Reason.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const unique = (name: string) => `${name}-${crypto.randomUUID()}`

// ---------------------------------------------------------------------------------------------------------------------
// Types
// ---------------------------------------------------------------------------------------------------------------------

class Bounced extends Schema.TaggedError<Bounced>()("Bounced", { address: Schema.String }) {}
class Busy extends Data.TaggedError("Busy")<{ readonly message: string }> {}

class SendEmail extends Job.make("email.send", {
  payload: { to: Schema.String, at: Schema.Date, note: Schema.optionalKey(Schema.String) },
  success: Schema.Struct({ sentAt: Schema.Date }),
  error: Bounced
}) {}

class Ping extends Job.make("ping", { payload: Schema.Null }) {}

interface EmailPayload {
  readonly to: string
  readonly at: Date
  readonly note?: string
}

class Mailer extends Context.Service<Mailer, { readonly send: (to: string) => Effect.Effect<Date> }>()(
  "test/JobContract/Mailer"
) {}

it("types: what is enqueued is the payload of the contract", () => {
  expectTypeOf<Parameters<typeof Jobs.enqueue<typeof SendEmail>>[1]>().toEqualTypeOf<EmailPayload>()
  expectTypeOf<Parameters<typeof Jobs.request<typeof SendEmail>>[1]>().toEqualTypeOf<EmailPayload>()
  expectTypeOf<Parameters<typeof Jobs.request<typeof Ping>>[1]>().toEqualTypeOf<null>()

  const at = new Date(0)
  const accepted = () => [
    Jobs.enqueue(SendEmail, { to: "ada", at }),
    Jobs.enqueue(SendEmail, { to: "ada", at, note: "n" }, { priority: 1 }),
    Jobs.enqueue(Ping, null)
  ]
  const refused = () => [
    // @ts-expect-error a field of another type
    Jobs.enqueue(SendEmail, { to: "ada", at: "1970-01-01T00:00:00.000Z" }),
    // @ts-expect-error a field is missing
    Jobs.enqueue(SendEmail, { at }),
    // @ts-expect-error a field too many
    Jobs.enqueue(SendEmail, { to: "ada", at, cc: "grace" }),
    // @ts-expect-error the version is the contract's
    Jobs.enqueue(SendEmail, { to: "ada", at }, { payloadVersion: 2 }),
    // @ts-expect-error a field of another type
    Jobs.request(SendEmail, { to: 1, at }),
    // @ts-expect-error the version is the contract's
    Jobs.request(SendEmail, { to: "ada", at }, { payloadVersion: 2 })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
})

it("types: the typed enqueue fails like any enqueue, and needs a client only", () => {
  const enqueue = () => Jobs.enqueue(SendEmail, { to: "ada", at: new Date(0) })
  expectTypeOf(enqueue).returns.toEqualTypeOf<Effect.Effect<Jobs.Enqueued, QueryError<Jobs.EnqueueReason>, SqlClient>>()
  const request = () => Jobs.request(SendEmail, { to: "ada", at: new Date(0) })
  expectTypeOf(request).returns.toEqualTypeOf<Jobs.TypedRequest>()
  expectTypeOf<Jobs.TypedRequest>().toExtend<Parameters<typeof Jobs.enqueueMany>[0][number]>()
})

it("types: a handler returns the success of the contract, and fails with its errors, JobFailure or Continuation", () => {
  const sent = Effect.succeed({ sentAt: new Date(0) })
  const failure = new Job.JobFailure({ code: "c", message: "m" })
  const continuation = new Job.Continuation({ delay: 0 })
  const accepted = () => [
    SendEmail.toLayer(() => sent),
    SendEmail.toLayer(() => Effect.fail(new Bounced({ address: "a" }))),
    SendEmail.toLayer(() => Effect.fail(failure)),
    SendEmail.toLayer(() => Effect.fail(continuation)),
    Ping.toLayer(() => Effect.void),
    Ping.toLayer(() => Effect.fail(failure))
  ]
  const refused = () => [
    // @ts-expect-error another success
    SendEmail.toLayer(() => Effect.succeed({ sentAt: "now" })),
    // @ts-expect-error no success
    SendEmail.toLayer(() => Effect.void),
    // @ts-expect-error an error that the contract does not declare
    SendEmail.toLayer(() => Effect.fail(new Busy({ message: "" }))),
    // @ts-expect-error a contract without errors
    Ping.toLayer(() => Effect.fail(new Bounced({ address: "a" }))),
    // @ts-expect-error another payload
    SendEmail.toLayer((_: { readonly cc: string }) => sent),
    // @ts-expect-error the hook of the dead letters must not fail
    SendEmail.toLayer(() => sent, { onDeadLetter: () => Effect.fail(failure) })
  ]
  expectTypeOf([accepted, refused]).toBeArray()
  SendEmail.toLayer((payload) => {
    expectTypeOf(payload).toEqualTypeOf<EmailPayload>()
    return sent
  })
})

it("types: the layer provides the handler of its type, and needs what the handler needs beside the run itself", () => {
  type Sent = { readonly sentAt: Date }
  const needsNothing = SendEmail.toLayer(() => Effect.succeed({ sentAt: new Date(0) }))
  expectTypeOf(needsNothing).toEqualTypeOf<Layer.Layer<Job.Handles<"email.send">>>()

  const needsRun = (): Effect.Effect<Sent, never, JobExecution | Scope.Scope> => Effect.succeed({ sentAt: new Date(0) })
  expectTypeOf(SendEmail.toLayer(needsRun)).toEqualTypeOf<Layer.Layer<Job.Handles<"email.send">>>()
  // also if it needs one of them only
  const job = Ping.toLayer(() => Effect.flatMap(JobExecution, ({ progress }) => progress({ done: 1, total: 1 })))
  expectTypeOf(job).toEqualTypeOf<Layer.Layer<Job.Handles<"ping">>>()
  const scoped = Ping.toLayer(() => Effect.addFinalizer(() => Effect.void))
  expectTypeOf(scoped).toEqualTypeOf<Layer.Layer<Job.Handles<"ping">>>()

  const needsMailer = (): Effect.Effect<Sent, never, Mailer | JobExecution | Scope.Scope> =>
    Effect.succeed({ sentAt: new Date(0) })
  expectTypeOf(SendEmail.toLayer(needsMailer)).toEqualTypeOf<Layer.Layer<Job.Handles<"email.send">, never, Mailer>>()

  const told = SendEmail.toLayer(needsMailer, {
    onDeadLetter: () => Effect.flatMap(SqlClient, () => Effect.void)
  })
  expectTypeOf(told).toEqualTypeOf<Layer.Layer<Job.Handles<"email.send">, never, Mailer | SqlClient>>()

  expectTypeOf<Job.Handles<"email.send">>().not.toExtend<Job.Handles<"ping">>()
  expectTypeOf(SendEmail.handles).toEqualTypeOf<Job.Handles<"email.send">>()
})

// ---------------------------------------------------------------------------------------------------------------------
// Enqueue
// ---------------------------------------------------------------------------------------------------------------------

const refusal = <A, R extends Reason, Needs>(self: Effect.Effect<A, QueryError<R>, Needs>) =>
  Effect.map(Effect.flip(self), (error) => error.reason)

const fieldsOf = (reason: Reason) => (reason._tag === "IdempotencyConflict" ? reason.fields : undefined)

const argumentOf = (reason: Reason) => (reason._tag === "InvalidArgument" ? reason.argument : undefined)

const stored = (jobId: Jobs.JobId) => Effect.map(Jobs.get(TenantScope.admin, jobId), Option.getOrThrow)

const countOf = (jobType: string) => Jobs.count({ scope: TenantScope.admin, jobType })

const word = (answer: Result.Result<Jobs.Enqueued, Jobs.EnqueueRefusal> | undefined): string | undefined => {
  if (answer === undefined) return undefined
  if (Result.isSuccess(answer)) return answer.success.disposition
  const { failure } = answer
  if (failure._tag === "IdempotencyConflict") return `conflict ${failure.fields.join(" ")}`
  return failure._tag === "DefinitionUnavailable" ? failure.state : failure._tag
}

const greeting = (settings?: Job.ContractSettings) =>
  Job.make(unique("greet"), { ...settings, payload: { name: Schema.String } })

const hello = { name: "ada" }

/** A batch of one, answered like a single enqueue. */
const alone = (request: Jobs.TypedRequest) =>
  Effect.flatMap(Jobs.enqueueMany([request]), ([answer]) =>
    answer === undefined ? Effect.die("no answer") : Effect.fromResult(answer)
  )

/** Every way to a statement of its own, with what it calls its request in a violation. */
const ways = [
  {
    way: "alone",
    path: "",
    enqueue: (contract: ReturnType<typeof greeting>, options: Jobs.EnqueueOptions = {}) =>
      Jobs.enqueue(contract, hello, options)
  },
  {
    way: "alone, staged",
    path: "",
    enqueue: (contract: ReturnType<typeof greeting>, options: Jobs.EnqueueOptions = {}) =>
      Jobs.enqueue(contract, hello, { ...options, stage: "scheduled" })
  },
  {
    way: "alone, with a key",
    path: "",
    enqueue: (contract: ReturnType<typeof greeting>, options: Jobs.EnqueueOptions = {}) =>
      Jobs.enqueue(contract, hello, { ...options, idempotencyKey: crypto.randomUUID() })
  },
  {
    way: "in a batch",
    path: "requests[0].",
    enqueue: (contract: ReturnType<typeof greeting>, options: Jobs.EnqueueOptions = {}) =>
      alone(Jobs.request(contract, hello, options))
  },
  {
    way: "in a batch, with a key",
    path: "requests[0].",
    enqueue: (contract: ReturnType<typeof greeting>, options: Jobs.EnqueueOptions = {}) =>
      alone(Jobs.request(contract, hello, { ...options, idempotencyKey: crypto.randomUUID() }))
  }
]

/** All settings of version 2, none of them a default, and what is stored of them. */
const settings: Job.ContractSettings = {
  version: 2,
  maxAttempts: 7,
  timeout: Duration.millis(1500),
  priority: -9,
  retry: { initial: "2 seconds", factor: 3, max: "1 minute", jitter: 0, overrides: { "smtp.down": "4 seconds" } }
}
const ofContract = [7, 2, -9]
const declared = {
  version: 2,
  maxAttempts: 7,
  timeoutSeconds: 2,
  priority: -9,
  isEnabled: true,
  retryInitialMillis: 2000,
  retryFactor: 3,
  retryMaxMillis: 60_000,
  retryJitter: 0,
  retryOverrides: { "smtp.down": 4000 }
}
const ofDeclaration = [11, 12, 13]
const otherSettings = { maxAttempts: 11, timeout: "12 seconds", priority: 13 } as const

const settingsOf = (jobId: Jobs.JobId) =>
  Effect.map(stored(jobId), ({ maxAttempts, timeoutSeconds, priority }) => [maxAttempts, timeoutSeconds, priority])

const declarationOf = (jobType: string) => Effect.map(JobDefinitions.get(jobType), Option.getOrUndefined)

const eventuallyDeclared = (contract: Job.AnyContract) =>
  declarationOf(contract.jobType).pipe(
    Effect.repeat({
      until: (definition) => definition?.version === contract.version,
      schedule: Schedule.spaced("10 millis")
    }),
    Effect.timeout("20 seconds")
  )

const declarations = /INSERT INTO runledger\.job_definitions/

/** How many declarations of the type were sent. */
const declarationsSent = (jobType: string) =>
  Effect.gen(function* () {
    const { statements } = yield* FaultySqlClient.Faults
    return (yield* statements).filter(
      ({ sql, params }) => declarations.test(sql) && params.some((param) => String(param).includes(jobType))
    ).length
  })

// One connection, taken in turn: whatever a fiber that was forked before has to say is said before the second answer.
const settled = SqlClient.use((sql) => Effect.andThen(sql`SELECT 1`, sql`SELECT 1`))

const Database = Layer.merge(
  FaultySqlClient.layer().pipe(Layer.provide(TestDatabase.layerWith({ maxConnections: 1 }))),
  // notifications are statements too
  Layer.succeed(NotifyInterval, 0)
)

it.layer(Database, { excludeTestServices: true })("typed enqueue", (it) => {
  const email = (settings?: Job.ContractSettings) =>
    Job.make(unique("email"), {
      ...settings,
      payload: { to: Schema.String, at: Schema.Date, note: Schema.optionalKey(Schema.String) }
    })
  const at = new Date("2020-01-02T03:04:05.678Z")
  const json = { to: "ada", at: "2020-01-02T03:04:05.678Z" }

  // -------------------------------------------------------------------------------------------------------------------
  // The payload
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("the payload is stored as the JSON of its schema, under the version of the contract", () =>
    Effect.gen(function* () {
      const contract = email({ version: 3 })
      const ids = [
        (yield* Jobs.enqueue(contract, { to: "ada", at })).jobId,
        (yield* Jobs.enqueue(contract, { to: "ada", at }, { idempotencyKey: "k" })).jobId,
        (yield* alone(Jobs.request(contract, { to: "ada", at }))).jobId
      ]
      for (const jobId of ids) {
        const job = yield* stored(jobId)
        assert.deepStrictEqual([job.payload, job.payloadVersion, job.jobType], [json, 3, contract.jobType])
      }
      const noted = yield* Jobs.enqueue(contract, { to: "ada", at, note: "n" })
      assert.deepStrictEqual((yield* stored(noted.jobId)).payload, { ...json, note: "n" })
    })
  )

  it.effect("a payload need not be a struct; without a version, the version is 1", () =>
    Effect.gen(function* () {
      const contract = Job.make(unique("scalar"), { payload: Schema.Array(Schema.BigInt) })
      const job = yield* stored((yield* Jobs.enqueue(contract, [1n, 2n ** 64n])).jobId)
      assert.deepStrictEqual([job.payload, job.payloadVersion], [["1", "18446744073709551616"], 1])
    })
  )

  it.effect("a class that extends a contract is that contract", () =>
    Effect.gen(function* () {
      class Typed extends Job.make(unique("class"), { ...settings, payload: { at: Schema.Date } }) {}
      const { jobId } = yield* Jobs.enqueue(Typed, { at })
      const job = yield* stored(jobId)
      assert.deepStrictEqual([job.jobType, job.payload, job.payloadVersion], [Typed.jobType, { at: json.at }, 2])
    })
  )

  it.effect("a payload that does not match is refused before anything is sent, and not quoted", () =>
    Effect.gen(function* () {
      const { statements, clear } = yield* FaultySqlClient.Faults
      const contract = Job.make(unique("checked"), {
        payload: { card: Schema.String.check(Schema.isMaxLength(4)), at: Schema.Date }
      })
      const secrets = { card: "4111-secret", at: new Date(Number.NaN) }
      yield* clear
      const refused = [
        ["payload", Jobs.enqueue(contract, secrets)],
        ["payload", Jobs.enqueue(contract, secrets, { idempotencyKey: "k" })],
        ["requests[1].payload", Jobs.enqueueMany([{ jobType: "any", payload: 1 }, Jobs.request(contract, secrets)])]
      ] as const
      for (const [argument, enqueue] of refused) {
        const error = yield* Effect.flip<unknown, QueryError, SqlClient>(enqueue)
        assert.strictEqual(error.reason.message, `${argument} must match the contract of ${contract.jobType}`)
        for (const text of [error.message, error.reason.message, inspect(error, { depth: 9 }), JSON.stringify(error)]) {
          assert.notInclude(text, "secret")
        }
      }
      assert.deepStrictEqual(yield* statements, [])
      assert.strictEqual(yield* countOf(contract.jobType), 0)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Settings and declarations
  // -------------------------------------------------------------------------------------------------------------------

  it.effect.each(ways)("without a declaration, the contract decides, and is declared: $way", ({ enqueue }) =>
    Effect.gen(function* () {
      const contract = greeting(settings)
      const { jobId } = yield* enqueue(contract)
      assert.deepStrictEqual(yield* settingsOf(jobId), ofContract)
      const { createdAt, updatedAt, jobType, ...definition } = { ...(yield* eventuallyDeclared(contract)) }
      assert.deepStrictEqual({ ...definition }, declared)
      assert.deepStrictEqual([jobType, updatedAt], [contract.jobType, createdAt])
    })
  )

  it.effect.each(ways)("a contract that says nothing has the defaults: $way", ({ enqueue }) =>
    Effect.gen(function* () {
      const contract = greeting()
      assert.deepStrictEqual(yield* settingsOf((yield* enqueue(contract)).jobId), [3, 300, 0])
      const definition = yield* eventuallyDeclared(contract)
      assert.deepStrictEqual(
        [definition?.maxAttempts, definition?.timeoutSeconds, definition?.priority, definition?.retryInitialMillis],
        [3, 300, 0, 10_000]
      )
    })
  )

  it.effect.each(ways)("an older declaration does not decide, and is raised: $way", ({ enqueue }) =>
    Effect.gen(function* () {
      const contract = greeting(settings)
      yield* JobDefinitions.upsert(contract.jobType, { ...otherSettings, version: 1 })
      const { jobId } = yield* enqueue(contract)
      assert.deepStrictEqual(yield* settingsOf(jobId), ofContract)
      const { createdAt, updatedAt, jobType, ...definition } = { ...(yield* eventuallyDeclared(contract)) }
      assert.deepStrictEqual({ ...definition }, declared)
    })
  )

  it.effect.each(ways.flatMap((way) => [2, 3].map((version) => ({ ...way, version }))))(
    "a declaration of version $version decides for a contract of version 2, and is not touched: $way",
    ({ enqueue, version }) =>
      Effect.gen(function* () {
        const contract = greeting(settings)
        const before = yield* JobDefinitions.upsert(contract.jobType, { ...otherSettings, version })
        const { jobId } = yield* enqueue(contract)
        assert.deepStrictEqual(yield* settingsOf(jobId), ofDeclaration)
        assert.strictEqual((yield* stored(jobId)).payloadVersion, 2)
        yield* settled
        // by the upsert, and by the enqueue
        assert.strictEqual(yield* declarationsSent(contract.jobType), 2)
        assert.deepStrictEqual(yield* declarationOf(contract.jobType), before)
        assert.strictEqual(yield* JobDefinitions.declare(contract), false)
        assert.deepStrictEqual(yield* declarationOf(contract.jobType), before)
      })
  )

  it.effect.each(ways.flatMap((way) => [undefined, 1, 2, 3].map((version) => ({ ...way, version }))))(
    "what is given goes before both, the declaration being of version $version: $way",
    ({ enqueue, version }) =>
      Effect.gen(function* () {
        const contract = greeting(settings)
        if (version !== undefined) yield* JobDefinitions.upsert(contract.jobType, { ...otherSettings, version })
        const all = yield* enqueue(contract, { maxAttempts: 1, timeout: "1 second", priority: 0 })
        assert.deepStrictEqual(yield* settingsOf(all.jobId), [1, 1, 0])
        // one of them leaves the others
        const [, ...others] = version === undefined || version < 2 ? ofContract : ofDeclaration
        const one = yield* enqueue(greetingLike(contract), { maxAttempts: 1 })
        assert.deepStrictEqual(yield* settingsOf(one.jobId), [1, ...others])
      })
  )

  it.effect.each(ways.flatMap((way) => [1, 2, 3].map((version) => ({ ...way, version }))))(
    "a disabled declaration of version $version refuses a contract of version 2, and stays disabled: $way",
    ({ enqueue, version }) =>
      Effect.gen(function* () {
        const contract = greeting(settings)
        yield* JobDefinitions.upsert(contract.jobType, { version, isEnabled: false })
        const error = yield* Effect.flip<unknown, QueryError | Jobs.EnqueueRefusal, SqlClient>(enqueue(contract))
        const reason = error._tag === "QueryError" ? error.reason : error
        assert.deepStrictEqual(reason._tag === "DefinitionUnavailable" && [reason.jobType, reason.state], [
          contract.jobType,
          "disabled"
        ])
        assert.strictEqual(yield* countOf(contract.jobType), 0)
        yield* settled
        assert.strictEqual((yield* declarationOf(contract.jobType))?.isEnabled, false)

        const raised = greetingLike(contract, { version: 4, maxAttempts: 2 })
        assert.strictEqual(yield* JobDefinitions.declare(raised), true)
        const definition = yield* declarationOf(contract.jobType)
        assert.deepStrictEqual([definition?.version, definition?.maxAttempts, definition?.isEnabled], [4, 2, false])
        yield* Effect.flip<unknown, unknown, SqlClient>(enqueue(raised))
        assert.strictEqual(yield* countOf(contract.jobType), 0)
      })
  )

  it.effect("declare writes where the declaration is missing or older, and says whether it did", () =>
    Effect.gen(function* () {
      const first = greeting(settings)
      assert.strictEqual(yield* JobDefinitions.declare(first), true)
      const before = yield* declarationOf(first.jobType)
      assert.strictEqual(yield* JobDefinitions.declare(first), false)
      assert.strictEqual(yield* JobDefinitions.declare(greetingLike(first, { version: 1, maxAttempts: 1 })), false)
      assert.deepStrictEqual(yield* declarationOf(first.jobType), before)

      assert.strictEqual(yield* JobDefinitions.declare(greetingLike(first, { version: 3 })), true)
      const after = yield* declarationOf(first.jobType)
      assert.deepStrictEqual(
        [after?.version, after?.maxAttempts, after?.retryOverrides, after?.createdAt],
        [3, 3, {}, before?.createdAt]
      )
    })
  )

  it.effect("a process declares a contract once", () =>
    Effect.gen(function* () {
      const contract = greeting(settings)
      yield* Jobs.enqueue(contract, hello)
      yield* settled
      // so a fiber that was forked has been waited for, here and below
      assert.strictEqual((yield* declarationOf(contract.jobType))?.version, 2)
      yield* Jobs.enqueue(contract, hello)
      yield* Jobs.enqueueMany([Jobs.request(contract, hello)])
      yield* settled
      assert.strictEqual(yield* declarationsSent(contract.jobType), 1)
    })
  )

  it.effect("a declaration that fails fails nothing, and is tried again by the next enqueue", () =>
    Effect.gen(function* () {
      const faults = yield* FaultySqlClient.Faults
      const contract = greeting(settings)
      yield* faults.arm([{ match: declarations, fault: FaultySqlClient.failBefore() }])
      assert.strictEqual((yield* Jobs.enqueue(contract, hello)).disposition, "inserted")
      yield* settled
      assert.strictEqual(yield* declarationsSent(contract.jobType), 1)
      assert.isUndefined(yield* declarationOf(contract.jobType))
      yield* faults.disarm
      yield* Jobs.enqueue(contract, hello)
      assert.strictEqual((yield* eventuallyDeclared(contract))?.version, 2)
    })
  )

  it.effect.each(ways)("a transaction that rolls back declares nothing; one that commits does, then: $way", (way) =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const contract = greeting(settings)
      yield* rollback(
        Effect.gen(function* () {
          yield* way.enqueue(contract)
          assert.strictEqual(yield* countOf(contract.jobType), 1)
        })
      )
      yield* settled
      assert.strictEqual(yield* declarationsSent(contract.jobType), 0)
      assert.isUndefined(yield* declarationOf(contract.jobType))
      assert.strictEqual(yield* countOf(contract.jobType), 0)

      yield* sql.withTransaction(
        Effect.gen(function* () {
          yield* way.enqueue(contract)
          yield* settled
          assert.strictEqual(yield* declarationsSent(contract.jobType), 0)
        })
      )
      assert.strictEqual((yield* eventuallyDeclared(contract))?.version, 2)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Keys and batches
  // -------------------------------------------------------------------------------------------------------------------

  it.effect("with a key, the same request finds the job, and another is told what differs", () =>
    Effect.gen(function* () {
      const contract = email(settings)
      const options = { idempotencyKey: "k" }
      const first = yield* Jobs.enqueue(contract, { to: "ada", at }, options)
      const same = yield* Jobs.enqueue(contract, { to: "ada", at: new Date(at) }, options)
      assert.deepStrictEqual([first.disposition, same.disposition, same.jobId], ["inserted", "existing", first.jobId])
      const others = [
        [["payload"], Jobs.enqueue(contract, { to: "grace", at }, options)],
        [["payload"], Jobs.enqueue(contract, { to: "ada", at, note: "n" }, options)],
        [["priority"], Jobs.enqueue(contract, { to: "ada", at }, { ...options, priority: -9 })]
      ] as const
      for (const [fields, other] of others) assert.deepStrictEqual(fieldsOf(yield* refusal(other)), fields)
      assert.strictEqual(yield* countOf(contract.jobType), 1)
    })
  )

  it.effect("with a key, typed and untyped requests are the same request, whatever decides about the rest", () =>
    Effect.gen(function* () {
      const contract = email(settings)
      const options = { idempotencyKey: "k" }
      const first = yield* Jobs.enqueue(contract, { to: "ada", at }, options)
      yield* JobDefinitions.upsert(contract.jobType, { ...otherSettings, version: 9 })
      const untyped = yield* Jobs.enqueue(contract.jobType, json, options)
      assert.deepStrictEqual([untyped.disposition, untyped.jobId], ["existing", first.jobId])
      const newer = Job.make(contract.jobType, { version: 4, payload: { to: Schema.String, at: Schema.Date } })
      const retried = yield* Jobs.enqueue(newer, { to: "ada", at }, options)
      assert.deepStrictEqual([retried.disposition, retried.jobId], ["existing", first.jobId])
      assert.deepStrictEqual(yield* settingsOf(first.jobId), ofContract)
    })
  )

  it.effect("a batch mixes typed and untyped, with keys and without", () =>
    Effect.gen(function* () {
      const dated = email(settings)
      const greet = greeting({ version: 5, priority: 3 })
      const untyped = unique("untyped")
      const disabled = greeting()
      yield* JobDefinitions.upsert(untyped, otherSettings)
      yield* JobDefinitions.upsert(disabled.jobType, { isEnabled: false })
      const undeclared = unique("undeclared")
      const batch = [
        Jobs.request(dated, { to: "ada", at }),
        { jobType: untyped, payload: { n: 1 } },
        Jobs.request(greet, hello, { idempotencyKey: "k", maxAttempts: 1 }),
        { jobType: untyped, payload: { n: 2 }, idempotencyKey: "k", payloadVersion: 8 },
        Jobs.request(greet, { name: "grace" }, { idempotencyKey: "k" }),
        Jobs.request(disabled, hello),
        { jobType: undeclared, payload: 1, idempotencyKey: "k" }
      ]
      const answers = yield* Jobs.enqueueMany(batch)
      assert.deepStrictEqual(answers.map(word), [
        "inserted",
        "inserted",
        "inserted",
        "inserted",
        "conflict max_attempts payload",
        "disabled",
        "missing"
      ])
      const jobs = yield* Effect.forEach(answers.filter(Result.isSuccess), ({ success }) => stored(success.jobId))
      assert.deepStrictEqual(
        jobs.map((job) => [
          job.jobType,
          job.payload,
          job.payloadVersion,
          job.maxAttempts,
          job.timeoutSeconds,
          job.priority
        ]),
        [
          [dated.jobType, json, 2, ...ofContract],
          [untyped, { n: 1 }, 1, ...ofDeclaration],
          [greet.jobType, hello, 5, 1, 300, 3],
          [untyped, { n: 2 }, 8, ...ofDeclaration]
        ]
      )
      yield* eventuallyDeclared(dated)
      assert.strictEqual((yield* eventuallyDeclared(greet))?.priority, 3)
      yield* settled
      assert.isUndefined(yield* declarationOf(undeclared))
      assert.strictEqual((yield* declarationOf(disabled.jobType))?.isEnabled, false)
    })
  )

  // -------------------------------------------------------------------------------------------------------------------
  // Contracts that are not valid
  // -------------------------------------------------------------------------------------------------------------------

  it.effect.each([
    { argument: "contract.maxAttempts", bad: { maxAttempts: 0 } },
    { argument: "contract.maxAttempts", bad: { maxAttempts: 1.5 } },
    { argument: "contract.priority", bad: { priority: 101 } },
    { argument: "contract.priority", bad: { priority: -101 } },
    { argument: "contract.version", bad: { version: 0 } },
    { argument: "contract.version", bad: { version: 2_147_483_648 } },
    { argument: "contract.timeout", bad: { timeout: 0 } },
    { argument: "contract.timeout", bad: { timeout: Duration.infinity } },
    { argument: "retry.max", bad: { retry: { initial: Duration.minutes(10), max: Duration.minutes(1) } } },
    { argument: "retry.factor", bad: { retry: { factor: 0.5 } } },
    { argument: "retry.overrides", bad: { retry: { overrides: { " ": Duration.seconds(1) } } } }
  ])("a contract with bad settings is refused before anything is sent: $argument, $bad", ({ argument, bad }) =>
    Effect.gen(function* () {
      const { statements, clear } = yield* FaultySqlClient.Faults
      const contract = greeting(bad)
      yield* clear
      for (const { enqueue } of ways) {
        const error = yield* Effect.flip<unknown, QueryError | Jobs.EnqueueRefusal, SqlClient>(enqueue(contract))
        assert.strictEqual(error._tag === "QueryError" && argumentOf(error.reason), argument)
      }
      assert.deepStrictEqual(yield* statements, [])
    })
  )

  it.effect.each(ways)("a contract of a blank type is refused: $way", ({ enqueue, path }) =>
    Effect.gen(function* () {
      const { statements, clear } = yield* FaultySqlClient.Faults
      yield* clear
      const blank = Job.make<string, { name: typeof Schema.String }>(" ", { payload: { name: Schema.String } })
      const error = yield* Effect.flip<unknown, QueryError | Jobs.EnqueueRefusal, SqlClient>(enqueue(blank))
      assert.strictEqual(error._tag === "QueryError" && argumentOf(error.reason), `${path}jobType`)
      assert.deepStrictEqual(yield* statements, [])
    })
  )
})

/** Another contract of the same type, as another release of the program has it. */
const greetingLike = ({ jobType }: Job.AnyContract, changed: Job.ContractSettings = settings) =>
  Job.make(jobType, { ...changed, payload: { name: Schema.String } })

// ---------------------------------------------------------------------------------------------------------------------
// Handlers
// ---------------------------------------------------------------------------------------------------------------------

const lease: Job.Lease = {
  jobId: Job.JobId.make("01890a5d-ac96-774b-bcce-b302099a8057"),
  runNumber: 1,
  attempt: 1,
  workerId: "worker"
}

/** What a worker provides, without a database. */
const execution = JobExecution.of({
  lease,
  jobType: "test",
  organizationId: Option.none(),
  workflow: Option.none(),
  prerequisites: Effect.succeed([]),
  output: () => Effect.die("no workflow"),
  outputs: () => Effect.succeed([]),
  results: () => Effect.succeed([]),
  maxAttempts: 3,
  remaining: Effect.succeed(Duration.zero),
  checkpoint: Option.none(),
  checkpointAs: () => Effect.succeedNone,
  progress: () => Effect.void,
  complete: (output) => Effect.succeed(output),
  continueAfter: (delay, options) => Effect.fail(new Job.Continuation({ ...options, delay }))
})

const handlerOf = <Handlers, R>({ handlerIn }: Job.AnyContract, layer: Layer.Layer<Handlers, never, R>) =>
  Effect.map(Layer.build(layer), (services) => Option.getOrThrow(handlerIn(services)))

const run = (handler: Job.Handler, payload: Schema.Json, version: number) =>
  handler.run(payload, version).pipe(Effect.scoped, Effect.provideService(JobExecution, execution))

const recordedOf = (failure: Job.JobFailure | Job.Continuation) =>
  failure._tag === "JobFailure"
    ? [failure.kind, failure.code, failure.message, failure.retryNotBefore]
    : ["continuation", failure.delay]

class Resize extends Job.make("image.resize", {
  version: 3,
  payload: { width: Schema.Int, at: Schema.Date },
  success: Schema.Struct({ at: Schema.Date, size: Schema.Int.check(Schema.isLessThan(1000)) }),
  error: Schema.Union([Bounced, Schema.Struct({ _tag: Schema.tag("Odd"), message: Schema.String })]),
  older: {
    2: Schema.Struct({ width: Schema.NumberFromString, at: Schema.Date })
  }
}) {}

const at = "2020-01-02T03:04:05.678Z"

it.effect("handler: the payload is decoded, the output is encoded", () =>
  Effect.gen(function* () {
    const seen: Array<unknown> = []
    const layer = Resize.toLayer((payload) => {
      seen.push(payload)
      return Effect.succeed({ at: payload.at, size: payload.width })
    })
    const handler = yield* handlerOf(Resize, layer)
    assert.deepStrictEqual(yield* run(handler, { at, width: 7 }, 3), { at, size: 7 })
    assert.deepStrictEqual(seen, [{ at: new Date(at), width: 7 }])
    assert.deepStrictEqual([handler.contract.jobType, handler.contract.version], ["image.resize", 3])
  })
)

it.effect("handler: no success is null", () =>
  Effect.gen(function* () {
    const handler = yield* handlerOf(
      Ping,
      Ping.toLayer(() => Effect.void)
    )
    assert.strictEqual(yield* run(handler, null, 1), null)
  })
)

it.effect("handler: older payloads become payloads of today, where the contract says how", () =>
  Effect.gen(function* () {
    const handler = yield* handlerOf(
      Resize,
      Resize.toLayer(({ width, at }) => Effect.succeed({ at, size: width }))
    )
    assert.deepStrictEqual(yield* run(handler, { at, width: "7" }, 2), { at, size: 7 })
    for (const [payload, version] of [
      [{ at, width: 7 }, 2],
      [{ at, width: "7" }, 3]
    ] as const) {
      const failure = yield* Effect.flip(run(handler, payload, version))
      assert.deepStrictEqual(recordedOf(failure), [
        "TERMINAL",
        "job.invalid_payload",
        `The payload does not match version ${version} of the contract`,
        undefined
      ])
    }
    for (const version of [1, 4]) {
      const [kind, code] = recordedOf(yield* Effect.flip(run(handler, { at, width: 7 }, version)))
      assert.deepStrictEqual([kind, code], ["TERMINAL", "job.unsupported_payload_version"])
    }
  })
)

it.effect("handler: a payload that does not match never reaches it, and is not quoted", () =>
  Effect.gen(function* () {
    let calls = 0
    const handler = yield* handlerOf(
      Resize,
      Resize.toLayer(({ at, width }) => {
        calls++
        return Effect.succeed({ at, size: width })
      })
    )
    for (const payload of [{ at, width: "secret" }, { at: "secret", width: 1 }, { width: 1 }, "secret", null]) {
      const failure = yield* Effect.flip(run(handler, payload, 3))
      const [kind, code] = recordedOf(failure)
      assert.deepStrictEqual([kind, code], ["TERMINAL", "job.invalid_payload"])
      assert.notInclude(inspect(failure, { depth: 9 }), "secret")
    }
    assert.strictEqual(calls, 0)
  })
)

it.effect("handler: an output that does not match is a terminal failure, and is not quoted", () =>
  Effect.gen(function* () {
    const handler = yield* handlerOf(
      Resize,
      Resize.toLayer(({ at }) => Effect.succeed({ at, size: 987_654 }))
    )
    const failure = yield* Effect.flip(run(handler, { at, width: 1 }, 3))
    const [kind, code] = recordedOf(failure)
    assert.deepStrictEqual([kind, code], ["TERMINAL", "job.invalid_output"])
    assert.notInclude(inspect(failure, { depth: 9 }), "987654")
  })
)

it.effect("handler: an error is recorded under its tag, with its message if it has one", () =>
  Effect.gen(function* () {
    const failing = (error: (typeof Resize)["error"]["Type"]) =>
      Effect.gen(function* () {
        const handler = yield* handlerOf(
          Resize,
          Resize.toLayer(() => Effect.fail(error))
        )
        return recordedOf(yield* Effect.flip(run(handler, { at, width: 1 }, 3)))
      })
    assert.deepStrictEqual(yield* failing(new Bounced({ address: "a" })), [undefined, "Bounced", "Bounced", undefined])
    assert.deepStrictEqual(yield* failing({ _tag: "Odd", message: "it is odd" }), [
      undefined,
      "Odd",
      "it is odd",
      undefined
    ])
  })
)

it.effect("handler: an error without a tag or a message is recorded all the same", () =>
  Effect.gen(function* () {
    const Contract = Job.make(unique("untagged"), { payload: Schema.Null, error: Schema.String })
    const handler = yield* handlerOf(
      Contract,
      Contract.toLayer(() => Effect.fail("secret"))
    )
    assert.deepStrictEqual(recordedOf(yield* Effect.flip(run(handler, null, 1))), [
      undefined,
      "job.failed",
      "job.failed",
      undefined
    ])
  })
)

it.effect("handler: the contract says how an error is recorded", () =>
  Effect.gen(function* () {
    const retryNotBefore = { at: DateTime.makeUnsafe("2030-01-02T03:04:05.678Z") }
    const Contract = Job.make(unique("recorded"), {
      payload: Schema.Literals(["all", "kind", "nothing"]),
      error: Schema.Struct({ _tag: Schema.tag("Odd"), message: Schema.String, of: Schema.String }),
      record: ({ of }) =>
        of === "all"
          ? { kind: "TERMINAL", code: `odd.${of}`, retryNotBefore }
          : of === "kind"
            ? { kind: "TIMEOUT" }
            : {}
    })
    const handler = yield* handlerOf(
      Contract,
      Contract.toLayer((of) => Effect.fail({ _tag: "Odd", message: "it is odd", of }))
    )
    const recorded = (of: string) => Effect.map(Effect.flip(run(handler, of, 1)), recordedOf)
    assert.deepStrictEqual(yield* recorded("all"), ["TERMINAL", "odd.all", "it is odd", retryNotBefore])
    assert.deepStrictEqual(yield* recorded("kind"), ["TIMEOUT", "Odd", "it is odd", undefined])
    assert.deepStrictEqual(yield* recorded("nothing"), [undefined, "Odd", "it is odd", undefined])
  })
)

it.effect(
  "handler: an error comes along as JSON, unless it cannot be encoded; it is decoded by the same contract",
  () =>
    Effect.gen(function* () {
      const Contract = Job.make(unique("encoded"), {
        payload: Schema.Literals(["good", "bad", "throwing"]),
        error: Schema.Struct({ _tag: Schema.tag("Odd"), at: Schema.Date })
      })
      const odd = { _tag: "Odd" as const, at: new Date(0) }
      const handler = yield* handlerOf(
        Contract,
        Contract.toLayer((what) =>
          Effect.fail(
            what === "good"
              ? odd
              : {
                  _tag: "Odd",
                  get at(): Date {
                    if (what === "throwing") throw new Error("thrown")
                    return JSON.parse('"no date"')
                  }
                }
          )
        )
      )
      const errorOf = (what: string) =>
        Effect.map(Effect.flip(run(handler, what, 1)), (failure) =>
          failure instanceof Job.JobFailure ? [failure.code, failure.error] : failure
        )
      const json = { _tag: "Odd", at: "1970-01-01T00:00:00.000Z" }
      assert.deepStrictEqual(yield* errorOf("good"), ["Odd", json])
      assert.deepStrictEqual(yield* errorOf("bad"), ["Odd", undefined])
      assert.deepStrictEqual(yield* errorOf("throwing"), ["Odd", undefined])
      assert.deepStrictEqual(yield* Contract.decodeError(json), Option.some(odd))
      assert.deepStrictEqual(yield* Contract.decodeError({ _tag: "Odd" }), Option.none())
    })
)

it.effect("handler: JobFailure and Continuation pass as they are, whatever the contract records", () =>
  Effect.gen(function* () {
    const failures = [
      new Job.JobFailure({ kind: "TERMINAL", code: "card.refused", message: "no", retryNotBefore: { delay: 1 } }),
      new Job.Continuation({ delay: "1 second", done: 1, total: 2, checkpoint: { page: 3 } })
    ]
    const Contract = Job.make(unique("passing"), {
      payload: Schema.Int,
      error: Bounced,
      record: () => ({ kind: "TERMINAL", code: "recorded" })
    })
    const handler = yield* handlerOf(
      Contract,
      Contract.toLayer((n) => Effect.fail(failures[n] ?? new Bounced({ address: "a" })))
    )
    for (const [n, failure] of failures.entries()) {
      assert.strictEqual(yield* Effect.flip(run(handler, n, 1)), failure)
    }
    // so it would be recorded otherwise
    assert.strictEqual(recordedOf(yield* Effect.flip(run(handler, 2, 1)))[1], "recorded")
  })
)

it.effect("handler: a defect stays a defect", () =>
  Effect.gen(function* () {
    const defect = new Error("a bug")
    const Contract = Job.make(unique("defect"), { payload: Schema.Literals(["died", "threw"]), error: Bounced })
    const handler = yield* handlerOf(
      Contract,
      Contract.toLayer((how) => {
        if (how === "threw") throw defect
        return Effect.die(defect)
      })
    )
    for (const how of ["died", "threw"]) {
      const died = yield* run(handler, how, 1).pipe(
        Effect.as("it returned"),
        Effect.catchDefect((found) => Effect.succeed(found))
      )
      assert.strictEqual(died, defect)
    }
  })
)

it.effect("handler: its services are those of the layer; the run and its scope are the worker's", () =>
  Effect.gen(function* () {
    const closed: Array<string> = []
    const sentAt = new Date(at)
    const letters: Array<string> = []
    const layer = SendEmail.toLayer(
      Effect.fnUntraced(function* ({ to }) {
        const mailer = yield* Mailer
        const job = yield* JobExecution
        assert.strictEqual(job, execution)
        yield* Effect.addFinalizer(() => Effect.sync(() => closed.push(to)))
        assert.deepStrictEqual(closed, [])
        return { sentAt: yield* mailer.send(to) }
      }),
      {
        onDeadLetter: ({ code }) =>
          Effect.flatMap(Mailer, (mailer) => Effect.sync(() => letters.push(`${code} ${typeof mailer.send}`)))
      }
    ).pipe(Layer.provide(Layer.succeed(Mailer, { send: () => Effect.succeed(sentAt) })))
    const handler = yield* handlerOf(SendEmail, layer)
    assert.deepStrictEqual(yield* run(handler, { to: "ada", at }, 1), { sentAt: at })
    // with the run, not with the layer
    assert.deepStrictEqual(closed, ["ada"])
    yield* handler.onDeadLetter({
      jobId: lease.jobId,
      runNumber: 1,
      attempt: 1,
      payload: null,
      checkpoint: undefined,
      reason: "LEASE_EXPIRED",
      code: "c",
      message: "m"
    })
    assert.deepStrictEqual(letters, ["c function"])
  })
)

it.effect("handler: it is found among the services under its own type only", () =>
  Effect.gen(function* () {
    const services = yield* Layer.build(Ping.toLayer(() => Effect.void))
    assert.strictEqual(Option.getOrUndefined(Ping.handlerIn(services))?.contract.jobType, "ping")
    assert.deepStrictEqual(SendEmail.handlerIn(services), Option.none())
  })
)

it.effect("handler: without a hook, a dead letter is nothing", () =>
  Effect.gen(function* () {
    const handler = yield* handlerOf(
      Ping,
      Ping.toLayer(() => Effect.void)
    )
    yield* handler.onDeadLetter({
      jobId: lease.jobId,
      runNumber: 1,
      attempt: 1,
      payload: null,
      checkpoint: undefined,
      reason: "LEASE_EXPIRED",
      code: "c",
      message: "m"
    })
  })
)
