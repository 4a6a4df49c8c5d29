import { isDeepStrictEqual } from "node:util"
import { assert, it } from "@effect/vitest"
import { Arbitrary, Cause, Clock, Context, Data, Effect, Layer, Result, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { TestClock } from "effect/testing"
import { FailureKind, JobId } from "../src/Job.ts"
import * as Jobs from "../src/Jobs.ts"
import { NotifyInterval } from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Model from "./support/JobModel.ts"
import * as MutatedSqlClient from "./support/MutatedSqlClient.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

// TEST_MODEL_RUNS=5000 for a long soak, in percent; a falsified property prints a token for TEST_MODEL_REPLAY (with -t)
const { TEST_MODEL_REPLAY: replay, TEST_MODEL_RUNS: wanted } = process.env
const times = wanted === undefined ? 1 : Number(wanted) / 100
const options = (runs: number, maxShrinks: number) => ({
  timeout: 60_000 + 60_000 * times,
  arbitrary: { runs: Math.max(1, Math.round(runs * times)), size: 120, maxShrinks, ...(replay ? { replay } : {}) }
})

// ---------------------------------------------------------------------------------------------------------------------
// Commands: operations before it is known which jobs and leases there are
// ---------------------------------------------------------------------------------------------------------------------

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const some = <S extends Schema.Constraint>(item: S, maximum: number) =>
  Schema.Array(item).check(Schema.isMinLength(1), Schema.isMaxLength(maximum))

const types = ["alpha", "beta", "gamma"] as const
const workers = ["worker-1", "worker-2"] as const
const organization = "0197c000-0000-7000-8000-00000000000a"
const nobody = JobId.make("0197c000-0000-7000-8000-000000000000")
const Payload = Schema.NullOr(Schema.Literals([1, 2]))
const Amount = Schema.UndefinedOr(Schema.Literals([0, 3, 7]))

/** A lease that is held, as it is (most often), or changed in one part; or any that was ever handed out. */
const LeaseRef = Schema.Struct({ twist: upTo(20), index: upTo(20) })
type LeaseRef = typeof LeaseRef.Type

/** What a request may differ in; most do not, so that keys meet equal requests. */
const variations: ReadonlyArray<(start: number) => Partial<Model.Request>> = [
  () => ({ priority: 5 }),
  () => ({ priority: -5, organizationId: organization }),
  () => ({ organizationId: organization }),
  () => ({ maxAttempts: 1 }),
  () => ({ maxAttempts: 1, payload: 2 }),
  () => ({ maxAttempts: 2, timeoutSeconds: 20 }),
  () => ({ delayMillis: 5000 }),
  () => ({ delayMillis: 0 }),
  (start) => ({ runAt: start + 20_000 }),
  (start) => ({ runAt: start - 20_000, payload: 2 }),
  () => ({ stage: "scheduled" }),
  () => ({ stage: "running", payloadVersion: 2 }),
  () => ({ payloadVersion: 2 }),
  () => ({ payload: null }),
  () => ({ payload: { text: "x", list: [1, null] } })
]

const Request = Schema.Struct({
  jobType: Schema.Literals(["alpha", "alpha", "alpha", "beta", "beta", "gamma"]),
  variation: upTo(variations.length * 2),
  key: Schema.UndefinedOr(Schema.Literals(["key-1", "key-1", "key-2"]))
})

const Ending = Schema.Struct({
  lease: LeaseRef,
  as: Schema.Literals(["Success", "Failure", "Failure", "Continuation"]),
  kind: FailureKind,
  code: Schema.Literals(["code.plain", "code.special"]),
  error: Schema.UndefinedOr(Payload),
  timing: Schema.Literals(["policy", "no delay", "after", "at", "past"]),
  delayMillis: Schema.Literals([0, 2000]),
  done: Amount,
  total: Amount,
  checkpoint: Schema.UndefinedOr(Payload),
  output: Schema.UndefinedOr(Payload)
})

const operations = {
  Enqueue: { requests: some(Request, 3), many: Schema.Boolean },
  Claim: {
    workerId: Schema.Literals(workers),
    types: Schema.Literals(["all", "all", "alpha", "beta"]),
    maxPayloadVersion: Schema.Literals([1, 2, 2]),
    limit: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })),
    leaseMillis: Schema.Literals([1, 10_000, 60_000, 600_000]),
    prestart: Schema.Boolean
  },
  Release: { lease: LeaseRef, delayMillis: Schema.Literals([0, 3000]) },
  Heartbeat: { leases: some(LeaseRef, 3), extendMillis: Schema.Literals([1, 10_000, 90_000]), many: Schema.Boolean },
  Report: {
    lease: LeaseRef,
    done: Amount,
    total: Amount,
    checkpoint: Schema.UndefinedOr(Payload),
    starts: Schema.Boolean
  },
  Complete: { endings: some(Ending, 3), many: Schema.Boolean },
  Reap: { limit: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })) },
  Cancel: {
    index: upTo(20),
    scope: Schema.Literals(["admin", "admin", "global", "organization"]),
    reason: Schema.UndefinedOr(Schema.Literal("withdrawn"))
  },
  Requeue: {
    index: upTo(20),
    /** Most often the job as it is. */
    twist: upTo(9),
    statePolicy: Schema.Literals(["preserve", "reset"])
  },
  Redrive: {
    scope: Schema.Literals(["global", "global", "organization"]),
    jobType: Schema.UndefinedOr(Schema.Literals(["alpha", "beta"])),
    limit: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 3 })),
    statePolicy: Schema.Literals(["preserve", "reset"])
  }
}

/** Claims, and ends of what they took, more often than the rest: without them little can happen. */
const often = Schema.TaggedUnion({ Claim: operations.Claim, Complete: operations.Complete })
const all = Schema.TaggedUnion(operations)
const Operation = Schema.Union([all, all, often])

const allCommands = Schema.TaggedUnion({
  ...operations,
  Define: {
    jobType: Schema.Literals(types),
    isEnabled: Schema.Literals([true, true, true, false]),
    priority: Schema.Literals([0, 5]),
    maxAttempts: Schema.Literals([1, 2, 3]),
    initialMillis: Schema.Literals([1000, 30_000]),
    factor: Schema.Literals([1, 2.5]),
    override: Schema.UndefinedOr(Schema.Literal(7000)),
    merges: Schema.Boolean
  },
  Pass: { millis: Schema.Literals([1, 1000, 10_000, 10_000, 60_000, 400_000]) }
})
const Command = Schema.Union([allCommands, allCommands, often])
type Command = typeof Command.Type

/** What a command is resolved against. */
interface World {
  readonly jobs: ReadonlyArray<Model.Job>
  /** Every lease ever handed out, the latest last. */
  readonly leases: ReadonlyArray<Jobs.Lease>
  /** Those that a fiber was handed out itself since the others were last asked. */
  readonly own?: ReadonlyArray<Jobs.Lease> | undefined
  /** How many of the leases that are held to choose from, so that several fibers choose the same. Default: all. */
  readonly focus?: number | undefined
  readonly start: number
}

const nth = <A>(items: ReadonlyArray<A>, index: number): A | undefined =>
  items.length === 0 ? undefined : items[items.length - 1 - (index % items.length)]

const resolveLease = ({ jobs, leases, own = [], focus }: World, { twist, index }: LeaseRef): Jobs.Lease => {
  const all = jobs.flatMap((job) => Model.leaseOf(job) ?? [])
  const held = own.length > 0 && index % 2 === 0 ? own : all.slice(0, focus)
  const lease = nth(twist === 13 || held.length === 0 ? leases : held, index) ?? {
    jobId: nobody,
    runNumber: 1,
    attempt: 1,
    workerId: workers[0]
  }
  if (twist === 14 || twist === 15) {
    return { ...lease, workerId: lease.workerId === workers[0] ? workers[1] : workers[0] }
  }
  if (twist === 16) return { ...lease, attempt: lease.attempt + 1 }
  if (twist === 17) return { ...lease, attempt: Math.max(1, lease.attempt - 1) }
  if (twist === 18) return { ...lease, runNumber: lease.runNumber === 1 ? 2 : lease.runNumber - 1 }
  return twist === 19 ? { ...lease, jobId: nobody } : lease
}

const byJob = <A>(items: ReadonlyArray<A>, leaseOf: (item: A) => Jobs.Lease): ReadonlyArray<A> => {
  const seen = new Set<string>()
  return items.filter((item) => {
    const { jobId } = leaseOf(item)
    return !seen.has(jobId) && seen.add(jobId)
  })
}

const resolveEnding = (world: World, { lease, as, timing, ...rest }: typeof Ending.Type): Model.Ending => {
  const { kind, code, error, delayMillis, output, ...update } = rest
  const resolved = resolveLease(world, lease)
  if (as === "Success") return { _tag: as, lease: resolved, output, ...update }
  if (as === "Continuation") return { _tag: as, lease: resolved, delayMillis, ...update }
  return {
    _tag: as,
    lease: resolved,
    kind,
    code,
    message: "it broke",
    error,
    afterMillis: timing === "after" ? 45_000 : timing === "no delay" ? 0 : undefined,
    notBefore: timing === "at" ? world.start + 500_000 : timing === "past" ? world.start - 1000 : undefined
  }
}

const resolve = (world: World, command: Exclude<Command, { _tag: "Pass" }>): Model.Call => {
  switch (command._tag) {
    case "Enqueue": {
      const requests = command.requests.map(({ jobType, variation, key }) => ({
        jobType,
        key,
        organizationId: undefined,
        payload: 1,
        payloadVersion: undefined,
        priority: undefined,
        maxAttempts: undefined,
        timeoutSeconds: undefined,
        runAt: undefined,
        delayMillis: undefined,
        stage: undefined,
        ...variations[variation]?.(world.start)
      }))
      return { _tag: "Enqueue", requests: command.many ? requests : requests.slice(0, 1), many: command.many }
    }
    case "Claim": {
      const { maxPayloadVersion, prestart, ...claim } = command
      const names = claim.types === "all" ? types : [claim.types]
      return {
        ...claim,
        types: names.map((jobType) => ({ jobType, maxPayloadVersion })),
        origin: prestart ? "WORKER_PRESTART" : "DIRECT"
      }
    }
    case "Release":
      return { ...command, lease: resolveLease(world, command.lease), reason: "SHUTDOWN" }
    case "Heartbeat": {
      const leases = byJob(
        command.leases.map((ref) => resolveLease(world, ref)),
        (lease) => lease
      )
      return { ...command, leases: command.many ? leases : leases.slice(0, 1) }
    }
    case "Report": {
      const { lease, starts, _tag, ...update } = command
      return { _tag, lease: resolveLease(world, lease), starts, update }
    }
    case "Complete": {
      const endings = byJob(
        command.endings.map((ending) => resolveEnding(world, ending)),
        ({ lease }) => lease
      )
      return { ...command, endings: command.many ? endings : endings.slice(0, 1) }
    }
    case "Reap":
      return command
    case "Cancel": {
      const scope =
        command.scope === "admin"
          ? TenantScope.admin
          : command.scope === "global"
            ? TenantScope.global
            : TenantScope.organization(organization)
      return { _tag: "Cancel", scope, jobId: nth(world.jobs, command.index)?.id ?? nobody, reason: command.reason }
    }
    case "Requeue": {
      const ended = world.jobs.filter(({ status }) => status === "DEAD_LETTERED" || status === "CANCELED")
      const { twist, index, statePolicy } = command
      const job = nth(twist < 2 || ended.length === 0 ? world.jobs : ended, index)
      const ofOrganization = twist === 2 ? organization : job?.organizationId
      return {
        _tag: "Requeue",
        request: {
          scope: ofOrganization == null ? TenantScope.global : TenantScope.organization(ofOrganization),
          jobId: JobId.make(job?.id ?? nobody),
          expectedStatus: (job?.status === "CANCELED") === (twist !== 3) ? "CANCELED" : "DEAD_LETTERED",
          expectedRunNumber: (job?.run ?? 1) + (twist === 4 ? 1 : 0),
          statePolicy,
          reason: "again"
        }
      }
    }
    case "Redrive": {
      const scope = command.scope === "global" ? TenantScope.global : TenantScope.organization(organization)
      return { ...command, scope }
    }
    case "Define": {
      const { initialMillis, override, merges, jobType, _tag, ...rest } = command
      const overrides = override === undefined ? {} : { "code.special": override, "job.lease_expired": override }
      const definition = { ...rest, timeoutSeconds: 30, initialMillis, maxMillis: 60_000, overrides }
      return { _tag, jobType, definition, merges }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The database, as the model writes it
// ---------------------------------------------------------------------------------------------------------------------

class Disagreement extends Data.TaggedError("Disagreement")<{ readonly message: string }> {}

const show = (value: unknown) => JSON.stringify(value, null, 1)

/** Fails with both values unless they are equal. */
const agree = (what: string, actual: unknown, expected: unknown, context?: unknown) =>
  isDeepStrictEqual(actual, expected)
    ? Effect.void
    : Effect.fail(
        new Disagreement({
          message: `${what}\ndatabase: ${show(actual)}\nmodel: ${show(expected)}\n${context === undefined ? "" : show(context)}`
        })
      )

const group = (rows: ReadonlyArray<unknown>, column: string): ReadonlyMap<string, ReadonlyArray<unknown>> => {
  const groups = new Map<string, Array<unknown>>()
  for (const row of rows) {
    const id = String(Object.entries(row ?? {}).find(([name]) => name === column)?.[1])
    groups.set(id, [...(groups.get(id) ?? []), row])
  }
  return groups
}

/** Every row of every table, by job. A row of a job that does not exist makes a group of its own. */
const readRows = Effect.gen(function* () {
  const sql = yield* SqlClient
  const jobs =
    yield* sql`SELECT *, checkpoint IS NOT NULL AS has_checkpoint, output IS NOT NULL AS has_output FROM runledger.job_queue`
  const attempts = yield* sql`SELECT * FROM runledger.job_attempts ORDER BY job_id, run_number, attempt`
  const stored = yield* sql`SELECT * FROM runledger.job_events ORDER BY job_id, seq`
  const dead = yield* sql`SELECT *, checkpoint_snapshot IS NOT NULL AS has_checkpoint FROM runledger.job_dead_letters`
  const byId = group(jobs.map(Model.plain), "id")
  const children = [attempts, stored, dead].map((rows) => group(rows.map(Model.plain), "job_id"))
  const ids = new Set([byId, ...children].flatMap((groups) => [...groups.keys()]))
  return new Map(
    [...ids].map((id): readonly [string, Model.Rows] => [
      id,
      {
        job: byId.get(id)?.[0],
        attempts: children[0]?.get(id) ?? [],
        stored: children[1]?.get(id) ?? [],
        deadLetters: children[2]?.get(id) ?? []
      }
    ])
  )
})

/** All rows, and what the reads make of them, are those of the model. */
const agreeOnEverything = Effect.fnUntraced(function* (state: Model.State, context?: unknown) {
  const rows = yield* readRows
  yield* agree("jobs", [...rows.keys()].sort(), [...state.jobs.keys()].sort(), context)
  for (const [id, job] of state.jobs) {
    yield* agree(`rows of ${id}`, rows.get(id), Model.rowsOf(job), context)
    const jobId = JobId.make(id)
    const events = yield* Jobs.events(TenantScope.admin, jobId, { limit: 1000 })
    yield* agree(`events of ${id}`, Model.plain(events), Model.eventsOf(job), context)
    const attempts = yield* Jobs.attempts(TenantScope.admin, jobId)
    yield* agree(`attempts of ${id}`, Model.plain(attempts), Model.attemptsOf(job), context)
    yield* agree(
      `record of ${id}`,
      Model.plain(yield* Jobs.get(TenantScope.admin, jobId)),
      Model.recordOf(job),
      context
    )
  }
})

const forgetEverything = Effect.gen(function* () {
  const sql = yield* SqlClient
  for (const table of ["job_queue", "job_attempts", "job_events", "job_dead_letters"]) {
    yield* sql`DELETE FROM runledger.${sql(table)}`
  }
  // a declaration cannot be deleted
  yield* sql`TRUNCATE runledger.job_definitions CASCADE`
})

const defined = (jobType: string): Extract<Model.Call, { _tag: "Define" }> => ({
  _tag: "Define",
  jobType,
  merges: false,
  definition: {
    isEnabled: true,
    priority: 0,
    maxAttempts: 3,
    timeoutSeconds: 30,
    initialMillis: 1000,
    factor: 2,
    maxMillis: 60_000,
    overrides: {}
  }
})

/** What was answered to what, over all runs: shows that the commands reach what they should. */
const tally = new Map<string, number>()
const count = (call: Model.Call, answer: Model.Answer) => {
  const labels =
    answer._tag === "Whole"
      ? [labelOf(answer.reason)]
      : answer.items.length === 0
        ? ["none"]
        : answer.items.map(labelOf)
  for (const label of labels) {
    const line = `${call._tag} ${label}`
    tally.set(line, (tally.get(line) ?? 0) + 1)
  }
}
const labelOf = (item: unknown): string => {
  const [, tag] = /"(?:_tag|disposition)":"(\w+)"/.exec(JSON.stringify(item)) ?? []
  return tag ?? "done"
}

/** Several clients of one database; only the statements follow `TestClock`, not the pools. */
class Clients extends Context.Service<Clients, ReadonlyArray<SqlClient>>()("test/Clients") {}

const clients = Layer.effect(
  Clients,
  Effect.gen(function* () {
    const [row] = yield* SqlClient.use((sql) => sql<{ name: string }>`SELECT current_database() AS name`)
    const connect = (multiplex: boolean) =>
      Effect.map(
        Layer.build(Layer.fresh(TestDatabase.client(row?.name ?? "", { maxConnections: 3, multiplex }))),
        Context.get(SqlClient)
      )
    return yield* TestClock.withLive(Effect.forEach([false, false, true, true], connect))
  })
)

const layer = Layer.effect(
  SqlClient,
  Effect.flatMap(Clients, ([sql]) => (sql === undefined ? Effect.die("no client") : Effect.succeed(sql)))
).pipe(
  Layer.provideMerge(clients),
  Layer.provideMerge(TestDatabase.layerTestClock),
  Layer.provideMerge(Layer.succeed(NotifyInterval, 0))
)

// ---------------------------------------------------------------------------------------------------------------------
// One after the other
// ---------------------------------------------------------------------------------------------------------------------

const step = Effect.fnUntraced(function* (state: Model.State, call: Model.Call) {
  const at = yield* Clock.currentTimeMillis
  const answer = yield* Model.execute(call)
  count(call, answer)
  const refusal = Model.refusal(call)
  if (refusal !== undefined || answer._tag === "Whole") {
    yield* agree("refused", answer, refusal, call)
    return state
  }
  if (call._tag === "Define") {
    yield* agree("defined", answer.items, [{ ok: null }], call)
    return Model.define(state, call)
  }
  yield* agree("choice", Model.complaints(state, call, answer.items, at), [], { call, answer, jobs: [...state.jobs] })
  const jobs = new Map(state.jobs)
  for (const { jobId, observed, step } of Model.touches(call, answer.items, state.definitions, at)) {
    const before = jobs.get(jobId)
    const outcome = step(before)
    yield* agree("answer", observed, outcome.answer, { call, before })
    if (outcome.job !== undefined) jobs.set(jobId, outcome.job)
  }
  return { ...state, jobs }
})

/** Jobs that are there before the first command: the first holds a key, the last are at work. */
const warmUp = (jobs: number): ReadonlyArray<Model.Call> => [
  ...types.slice(0, 2).map(defined),
  ...Array.from(
    { length: jobs },
    (_, i): Model.Call =>
      resolve(
        { jobs: [], leases: [], start: 0 },
        {
          _tag: "Enqueue",
          requests: [{ jobType: "alpha", variation: i === 1 ? 3 : 99, key: i === 0 ? "key-1" : undefined }],
          many: false
        }
      )
  ),
  ...(jobs < 2
    ? []
    : [
        resolve(
          { jobs: [], leases: [], start: 0 },
          {
            _tag: "Claim",
            workerId: workers[0],
            types: "all",
            maxPayloadVersion: 1,
            limit: 2,
            leaseMillis: 10_000,
            prestart: jobs === 3
          }
        )
      ])
]

const sequence = Effect.fnUntraced(function* (warm: number, commands: ReadonlyArray<Command>) {
  const start = yield* Clock.currentTimeMillis
  let state = Model.empty
  const leases: Array<Jobs.Lease> = []
  for (const call of warmUp(warm)) state = yield* step(state, call)
  for (const command of commands) {
    if (command._tag === "Pass") {
      yield* TestClock.adjust(command.millis)
      continue
    }
    state = yield* step(state, resolve({ jobs: [...state.jobs.values()], leases, start }, command))
    for (const job of state.jobs.values()) {
      const lease = Model.leaseOf(job)
      if (lease !== undefined && !leases.some((known) => isDeepStrictEqual(known, lease))) leases.push(lease)
    }
  }
  yield* agreeOnEverything(state)
})

const commands = Schema.Array(Command).check(Schema.isMaxLength(60))

it.layer(layer, { timeout: "60 seconds" })("one operation after the other", (it) => {
  it.effect.prop(
    "every answer and every row is that of the model, whatever the sequence",
    [upTo(3), commands],
    ([warm, commands]) => Effect.andThen(forgetEverything, sequence(warm, commands)),
    options(90, 500)
  )

  it.effect.prop(
    "it makes no difference that the caller's transaction has begun already",
    [upTo(3), commands],
    ([warm, commands]) => Effect.andThen(forgetEverything, rollback(sequence(warm, commands))),
    options(40, 500)
  )

  it.effect("what chance seldom comes to", () => {
    const lease: LeaseRef = { twist: 0, index: 0 }
    const notHeld: LeaseRef = { twist: 16, index: 0 }
    const enqueue = (variation: number, key?: "key-1", jobType: "alpha" | "gamma" = "alpha"): Command => ({
      _tag: "Enqueue",
      requests: [{ jobType, variation, key }],
      many: false
    })
    const claim = (prestart = false): Command => ({
      _tag: "Claim",
      workerId: workers[0],
      types: "all",
      maxPayloadVersion: 1,
      limit: 1,
      leaseMillis: 10_000,
      prestart
    })
    const none = { done: undefined, total: undefined, checkpoint: undefined } as const
    const complete = (ending: Partial<typeof Ending.Type>): Command => {
      const success = { lease, as: "Success", kind: "RETRYABLE", code: "code.plain", timing: "policy" } as const
      const endings = [{ ...success, error: undefined, delayMillis: 0, output: undefined, ...none, ...ending }] as const
      return { _tag: "Complete", endings, many: false }
    }
    const heartbeat = (ref: LeaseRef): Command => ({
      _tag: "Heartbeat",
      leases: [ref],
      extendMillis: 10_000,
      many: false
    })
    const report = (update: Partial<Extract<Command, { _tag: "Report" }>>): Command => ({
      _tag: "Report",
      lease,
      starts: false,
      ...none,
      ...update
    })
    const release = (ref: LeaseRef): Command => ({ _tag: "Release", lease: ref, delayMillis: 0 })
    const requeue = (twist: number): Command => ({ _tag: "Requeue", index: 0, twist, statePolicy: "preserve" })
    const cancel = (scope: "admin" | "organization"): Command => ({
      _tag: "Cancel",
      index: 0,
      scope,
      reason: undefined
    })
    const redrive: Command = { _tag: "Redrive", scope: "global", jobType: "alpha", limit: 1, statePolicy: "preserve" }
    const reap: Command = { _tag: "Reap", limit: 1 }
    const pass = (millis: 10_000 | 60_000): Command => ({ _tag: "Pass", millis })
    return Effect.andThen(
      forgetEverything,
      sequence(0, [
        ...[enqueue(99, "key-1"), enqueue(99, "key-1"), enqueue(0, "key-1"), enqueue(99, undefined, "gamma")],
        ...[redrive, reap, claim(), claim(), release(lease), heartbeat(lease), heartbeat(notHeld)],
        ...[report({ done: 3, total: 7 }), report({ done: 7, total: 3 }), report({ lease: notHeld })],
        ...[complete({ done: 7, total: 3 }), complete({ lease: notHeld }), complete({})],
        ...[enqueue(99), claim(), complete({ as: "Failure" }), pass(60_000), claim(), complete({ as: "Continuation" })],
        ...[claim(), complete({ as: "Failure", kind: "TERMINAL" }), redrive],
        ...[claim(true), release({ twist: 14, index: 0 }), release(lease), claim(true), pass(10_000), reap],
        ...Array.from({ length: 3 }, () => [claim(), pass(10_000), reap, pass(60_000)]).flat(),
        ...[requeue(4), requeue(2), requeue(5), claim(), cancel("admin"), requeue(5)],
        ...[cancel("organization"), cancel("admin")]
      ])
    )
  })

  it.effect("the sequences reach every answer", () =>
    Effect.sync(() => {
      const expected = [
        "Enqueue inserted",
        "Enqueue existing",
        "Enqueue IdempotencyConflict",
        "Enqueue DefinitionUnavailable",
        "Claim done",
        "Claim none",
        "Release done",
        "Release LeaseOwnerMismatch",
        "Release UnstartedClaimReleaseNotApplicable",
        "Heartbeat done",
        "Heartbeat LeaseOwnerMismatch",
        "Report done",
        "Report InvalidProgress",
        "Report LeaseOwnerMismatch",
        "Complete Succeeded",
        "Complete RetryScheduled",
        "Complete DeadLettered",
        "Complete Continued",
        "Complete InvalidCompletionProgress",
        "Complete LeaseOwnerMismatch",
        "Reap Released",
        "Reap RetryScheduled",
        "Reap DeadLettered",
        "Reap none",
        "Cancel done",
        "Cancel JobNotFound",
        "Cancel InvalidStateTransition",
        "Requeue Requeued",
        "Requeue ExpectationMismatch",
        "Requeue CancellationNotQuiesced",
        "Requeue NotFound",
        "Redrive done",
        "Redrive none"
      ]
      if (replay === undefined && times >= 1) {
        assert.deepStrictEqual(
          expected.filter((line) => !tally.has(line)),
          []
        )
      }
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// At once
// ---------------------------------------------------------------------------------------------------------------------

const Concurrent = Schema.Struct({
  operation: Operation,
  /** By itself, or in a transaction that takes so many more round trips before it ends. */
  mode: Schema.Literals(["alone", "alone", "commit", "rollback"]),
  holds: upTo(3)
})

const Round = Schema.Struct({
  millis: Schema.Literals([0, 0, 1, 10_000, 60_000]),
  fibers: Schema.Array(some(Concurrent, 2)).check(Schema.isMinLength(2), Schema.isMaxLength(4))
})

const Rounds = Schema.Array(Round).check(Schema.isMaxLength(12))
const Program = Schema.Tuple([upTo(3), Rounds])

/** What one fiber did. */
interface Done {
  readonly call: Model.Call
  readonly mode: (typeof Concurrent.Type)["mode"]
  readonly answer: Model.Answer
}

/** What one operation said about one job: its rows are locked once, so all of it happens at one time. */
interface Part {
  readonly touches: ReadonlyArray<Model.Touch>
  readonly isUndone: boolean
}

const perform = Effect.fnUntraced(function* (call: Model.Call, { mode, holds }: typeof Concurrent.Type) {
  const sql = yield* SqlClient
  const held = Model.execute(call).pipe(
    Effect.tap(Effect.forEach(Array.from({ length: holds }), () => sql`SELECT 1`, { discard: true }))
  )
  if (mode === "alone") return yield* Model.execute(call)
  return yield* mode === "commit" ? sql.withTransaction(held) : rollback(held)
})

const fiber = Effect.fnUntraced(function* (world: World, program: (typeof Round.Type)["fibers"][number]) {
  const history: Array<Done> = []
  const own: Array<Jobs.Lease> = []
  for (const item of program) {
    const call = resolve({ ...world, own }, item.operation)
    const answer = yield* perform(call, item)
    history.push({ call, mode: item.mode, answer })
    if (call._tag === "Claim" && answer._tag === "Items") own.push(...answer.items.flatMap(leaseIn))
  }
  return history
})

const leaseIn = (item: unknown): ReadonlyArray<Jobs.Lease> => {
  const decoded = Schema.decodeUnknownResult(
    Schema.Struct({
      lease: Schema.Struct({
        jobId: JobId,
        runNumber: Schema.Int,
        attempt: Schema.Int,
        workerId: Schema.String
      })
    })
  )(item)
  return Result.isSuccess(decoded) ? [decoded.success.lease] : []
}

/**
 * The job as some order of `parts` (one list for each fiber, in its order) leaves it, if there is an order in which the model
 * gives every answer that the database gave, and ends with the rows that the database has.
 */
const explain = (
  before: Model.Job | undefined,
  parts: ReadonlyArray<ReadonlyArray<Part>>,
  rows: Model.Rows | undefined
): { readonly job: Model.Job | undefined } | undefined => {
  if (parts.every(({ length }) => length === 0)) {
    return isDeepStrictEqual(before && Model.rowsOf(before), rows) ? { job: before } : undefined
  }
  for (const [i, [part, ...rest]] of parts.entries()) {
    if (part === undefined) continue
    let after = before
    const agrees = part.touches.every(({ observed, step }) => {
      const outcome = step(after)
      after = outcome.job
      return isDeepStrictEqual(outcome.answer, observed)
    })
    const order = agrees ? explain(part.isUndone ? before : after, parts.with(i, rest), rows) : undefined
    if (order !== undefined) return order
  }
  return undefined
}

/** What claims and the reaper left behind though nobody else was at it, or took before it was its turn. */
const neglect = (
  state: Model.State,
  histories: ReadonlyArray<ReadonlyArray<Done>>,
  touched: ReadonlySet<string>,
  at: number
): ReadonlyArray<string> =>
  histories.flat().flatMap(({ call, answer }) => {
    const items = answer._tag === "Items" ? answer.items : []
    if (call._tag === "Reap") {
      const left = [...state.jobs.values()].filter((job) => Model.isReapable(job, at) && !touched.has(job.id))
      return items.length < call.limit ? left.map(({ id }) => `${id} was not reaped`) : []
    }
    if (call._tag === "Redrive") {
      const left = [...state.jobs.values()].filter((job) => Model.isRedrivable(job, call) && !touched.has(job.id))
      return items.length < call.limit ? left.map(({ id }) => `${id} was not redriven`) : []
    }
    if (call._tag !== "Claim") return []
    const taken = items.flatMap(leaseIn).flatMap(({ jobId }) => state.jobs.get(jobId) ?? [])
    return [...state.jobs.values()]
      .filter((job) => Model.isClaimable(job, call, at) && !touched.has(job.id))
      .flatMap((job) => {
        if (items.length < call.limit) return [`${job.id} was not claimed`]
        const overtakes = taken.filter(
          (other) =>
            other.priority < job.priority ||
            (other.priority === job.priority &&
              other.jobType === job.jobType &&
              other.payloadVersion === job.payloadVersion &&
              (other.nextRunAt > job.nextRunAt || (other.nextRunAt === job.nextRunAt && other.id > job.id)))
        )
        return overtakes.map((other) => `${other.id} was claimed before ${job.id}`)
      })
  })

/** What must hold of the rows whenever nothing is under way, whatever happened before. */
const broken = (rows: ReadonlyMap<string, Model.Rows>): ReadonlyArray<string> => {
  const keys = new Map<string, string>()
  return [...rows].flatMap(([id, { job, attempts, stored, deadLetters }]) => {
    const row = decodeShape(job)
    if (Result.isFailure(row)) return [`${id}: rows of a job that does not exist`]
    const { status, run_number, attempt, worker_id, lease_expires_at, finished_at, event_seq } = row.success
    const identity = JSON.stringify([row.success.job_type, row.success.organization_id, row.success.idempotency_key])
    const twin = row.success.idempotency_key === null ? undefined : keys.get(identity)
    keys.set(identity, id)
    const ends = attempts.map((row) => decodeEnd(row)).flatMap((end) => (Result.isSuccess(end) ? [end.success] : []))
    const isLeased = status === "LEASED"
    const isTerminal = status !== "PENDING" && !isLeased
    const numbers = ends.map((end) => `${end.run_number}:${end.attempt}`)
    const expected: Array<string> = []
    for (let run = 1; run <= run_number; run++) {
      const last = run < run_number ? ends.filter((end) => end.run_number === run).length : attempt - (isLeased ? 1 : 0)
      for (let number = 1; number <= last; number++) expected.push(`${run}:${number}`)
    }
    const seqs = stored
      .map((row) => decodeSeq(row))
      .flatMap((event) => (Result.isSuccess(event) ? [event.success.seq] : []))
    const slices = ends.filter(({ ended_as }) => ended_as === "CONTINUED").length
    const requeues = stored.filter((row) => Result.isSuccess(decodeRequeue(row))).length
    const open = deadLetters
      .map((row) => decodeLetter(row))
      .filter((row) => Result.isSuccess(row) && row.success.settled_run_number !== row.success.run_number)
    const rules: ReadonlyArray<readonly [boolean, string]> = [
      [isLeased === (worker_id !== null), "a worker if and only if it is leased"],
      [!isLeased || lease_expires_at !== null, "no lease without an end"],
      [isTerminal === (finished_at !== null), "finished if and only if it is terminal"],
      [isDeepStrictEqual(numbers, expected), `every attempt accounted for: ${numbers}, not ${expected}`],
      [slices + requeues === run_number - 1, "a run for each continuation and requeue"],
      [(status === "DEAD_LETTERED") === (open.length === 1), "an open dead letter if and only if it is dead-lettered"],
      [seqs.every((seq) => seq >= 1 && seq <= event_seq), "no event beyond the last"],
      [twin === undefined, `no other job of its key: ${twin}`]
    ]
    return rules.flatMap(([holds, rule]) => (holds ? [] : [`${id}: ${rule}`]))
  })
}

const decodeRequeue = Schema.decodeUnknownResult(
  Schema.Struct({
    payload: Schema.Struct({ requeue_kind: Schema.Literals(["COMPARE_AND_REQUEUE", "DEAD_LETTER_REDRIVE"]) })
  })
)

const decodeLetter = Schema.decodeUnknownResult(
  Schema.Struct({ run_number: Schema.Int, settled_run_number: Schema.NullOr(Schema.Int) })
)

const decodeShape = Schema.decodeUnknownResult(
  Schema.Struct({
    job_type: Schema.String,
    organization_id: Schema.NullOr(Schema.String),
    idempotency_key: Schema.NullOr(Schema.String),
    status: Schema.String,
    run_number: Schema.Int,
    attempt: Schema.Int,
    worker_id: Schema.NullOr(Schema.String),
    lease_expires_at: Schema.NullOr(Schema.Int),
    finished_at: Schema.NullOr(Schema.Int),
    event_seq: Schema.Int
  })
)
const decodeEnd = Schema.decodeUnknownResult(
  Schema.Struct({ run_number: Schema.Int, attempt: Schema.Int, ended_as: Schema.String })
)
const decodeSeq = Schema.decodeUnknownResult(Schema.Struct({ seq: Schema.Int }))

/** How often several fibers were at one job at once. */
let contended = 0

const judge = Effect.fnUntraced(function* (
  state: Model.State,
  histories: ReadonlyArray<ReadonlyArray<Done>>,
  at: number
) {
  const rows = yield* readRows
  const parts = new Map<string, Array<Array<Part>>>()
  const partsOf = (id: string) => {
    const known = parts.get(id) ?? histories.map(() => [])
    parts.set(id, known)
    return known
  }
  const unexplained: Array<string> = []
  for (const [i, history] of histories.entries()) {
    for (const { call, answer, mode } of history) {
      count(call, answer)
      const refusal = Model.refusal(call)
      if (refusal !== undefined || answer._tag === "Whole") {
        yield* agree("refused", answer, refusal, call)
        continue
      }
      // declarations do not change meanwhile, and jobs do not vanish
      if (call._tag === "Enqueue") {
        const known = { ...state, jobs: new Map([...state.jobs].filter(([, { key }]) => key !== null)) }
        unexplained.push(...Model.complaints(known, call, answer.items, at))
      }
      const touches = Model.touches(call, answer.items, state.definitions, at)
      for (const jobId of new Set(touches.map((touch) => touch.jobId))) {
        const told = touches.filter((touch) => touch.jobId === jobId && !Model.isBusy(touch.observed))
        partsOf(jobId)[i]?.push({ touches: told, isUndone: mode === "rollback" })
      }
    }
  }
  for (const [jobId, lists] of parts) {
    if (lists.filter((list) => list.length > 0).length > 1) contended++
    const isAlone = lists.filter((list) => list.length > 0).length < 2
    // only the lock of another can explain that a row was busy
    if (isAlone && lists.flat().some(({ touches }) => touches.length === 0)) unexplained.push(`${jobId} was busy`)
  }
  const jobs = new Map<string, Model.Job>()
  for (const id of new Set([...state.jobs.keys(), ...rows.keys(), ...parts.keys()])) {
    const lists = parts.get(id) ?? []
    const order = explain(state.jobs.get(id), lists, rows.get(id))
    if (order === undefined) {
      const said = lists.map((list) => list.map((part) => ({ ...part, says: part.touches.map((_) => _.observed) })))
      unexplained.push(`no order explains ${id}: ${show({ before: state.jobs.get(id), said, after: rows.get(id) })}`)
    } else if (order.job !== undefined) jobs.set(id, order.job)
  }
  unexplained.push(...neglect(state, histories, new Set(parts.keys()), at), ...broken(rows))
  yield* agree("at once", unexplained, [], histories)
  return { ...state, jobs }
})

const rounds = Effect.fnUntraced(function* (warm: number, program: ReadonlyArray<typeof Round.Type>) {
  const start = yield* Clock.currentTimeMillis
  const clients = yield* Clients
  let state = Model.empty
  for (const call of [...warmUp(warm), defined("gamma")]) state = yield* step(state, call)
  const leases: Array<Jobs.Lease> = []
  for (const { millis, fibers } of program) {
    yield* TestClock.adjust(millis)
    const world = { jobs: [...state.jobs.values()], leases, start, focus: 2 }
    const histories = yield* Effect.forEach(
      fibers.map((program, i) => [program, clients[i % clients.length]] as const),
      ([program, sql]) =>
        sql === undefined ? Effect.die("no client") : Effect.provideService(fiber(world, program), SqlClient, sql),
      { concurrency: "unbounded" }
    )
    state = yield* judge(state, histories, yield* Clock.currentTimeMillis)
    leases.push(...[...state.jobs.values()].flatMap((job) => Model.leaseOf(job) ?? []))
  }
  yield* agreeOnEverything(state)
})

it.layer(layer, { timeout: "60 seconds" })("several operations at once", (it) => {
  it.effect.prop(
    "the answers and the rows of each job are those of some order",
    [upTo(3), Rounds],
    ([warm, program]) => Effect.andThen(forgetEverything, rounds(warm, program)),
    options(60, 30)
  )

  // the search must be able to fail: these are seen only when two are at the same job at once
  it.effect.each([
    ["a claim that does not lock", "WITH RECURSIVE input", "FOR NO KEY UPDATE SKIP LOCKED"],
    ["a cancellation that does not lock", "status = 'CANCELED'", "FOR NO KEY UPDATE SKIP LOCKED"]
  ] as const)(
    "no order explains %s",
    ([, statement, search]) =>
      Effect.gen(function* () {
        const result = yield* Arbitrary.checkEffect(
          Arbitrary.schema(Program),
          ([warm, program]) =>
            Effect.as(Effect.andThen(forgetEverything, rounds(warm, program)), true).pipe(
              Effect.catchCause((cause) =>
                Cause.hasInterrupts(cause) ? Effect.failCause(cause) : Effect.succeed(false)
              )
            ),
          { runs: 5000, size: 120, maxShrinks: 0 }
        )
        assert.strictEqual(result._tag, "Falsified")
      }).pipe(Effect.provide(MutatedSqlClient.layer([{ statement, search, replace: "" }]))),
    180_000
  )

  it.effect("the operations meet", () =>
    Effect.sync(() => {
      if (replay === undefined && times >= 1) assert.isAbove(contended, 50)
    })
  )
})
