import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Option, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { InvalidArgument, Job, JobDefinitions, Jobs, type QueryError, TenantScope, Workflows } from "../src/index.ts"
import { planWith, prepare, record } from "./support/plans.ts"
import { standing } from "./support/races.ts"
import * as Recovery from "./support/recovery.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const { admin, global, get, organization, organizationId, rowOf } = Recovery

class Visit extends Job.make("payload.visit", {
  payload: { at: Schema.DateTimeUtcFromString, pages: Schema.Array(Schema.String) },
  version: 3
}) {}

const now = DateTime.makeUnsafe("2026-01-02T03:04:05.000Z")
const visit = { at: now, pages: ["/"] }

const missing = Jobs.JobId.make("0197c000-0000-7000-8000-0000000000ff")

const refusedAs = Effect.fnUntraced(function* <A, R>(self: Effect.Effect<A, QueryError, R>, argument: string) {
  const { reason } = yield* Effect.flip(self)
  assert.instanceOf(reason, InvalidArgument)
  assert.strictEqual(reason.argument, argument)
  assert.notInclude(reason.message, "s3cret")
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs.updatePendingPayload", (it) => {
  it.effect("JSON: the payload and nothing else, and no event", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type, { payloadVersion: 2 })
      const before = yield* rowOf(jobId)
      const events = yield* Jobs.events(admin, jobId)
      for (const payload of [{ n: 2, list: [1, null] }, null, "text", 7]) {
        assert.deepStrictEqual(yield* Jobs.updatePendingPayload(global, jobId, type, payload), { _tag: "Updated" })
        const after = yield* rowOf(jobId)
        assert.deepStrictEqual(after, { ...before, payload, updated_at: after.updated_at })
        assert.notDeepEqual(after.updated_at, before.updated_at)
      }
      assert.deepStrictEqual(yield* Jobs.events(admin, jobId), events)
    })
  )

  it.effect("a contract: what its schema encodes, in its version; a handler gets the corrected payload", () =>
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue("payload.visit", { at: "?", pages: 1 }, { payloadVersion: 2 }).pipe(
        Effect.tap(Effect.void),
        (enqueued) => Effect.andThen(JobDefinitions.upsert(Visit.jobType), enqueued)
      )
      assert.deepStrictEqual(yield* Jobs.updatePendingPayload(global, jobId, Visit, visit), { _tag: "Updated" })
      assert.deepInclude(yield* rowOf(jobId), {
        payload: { at: "2026-01-02T03:04:05.000Z", pages: ["/"] },
        payload_version: 3
      })
      const [claimed] = yield* Jobs.claim({
        workerId: "w",
        types: [{ jobType: Visit.jobType, maxPayloadVersion: 3 }],
        limit: 1
      })
      assert.deepStrictEqual(claimed?.payload, { at: "2026-01-02T03:04:05.000Z", pages: ["/"] })
    })
  )

  it.effect("compares with what was expected, as JSON and as the contract encodes it", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert(Visit.jobType)
      const { jobId } = yield* Jobs.enqueue(Visit, visit)
      const other = { at: now, pages: ["/other"] }
      const before = yield* Recovery.everything
      assert.deepStrictEqual(yield* Jobs.updatePendingPayload(global, jobId, Visit, other, { expected: other }), {
        _tag: "PayloadMismatch",
        actual: { at: "2026-01-02T03:04:05.000Z", pages: ["/"] }
      })
      assert.deepStrictEqual(yield* Recovery.everything, before)
      const update = Jobs.updatePendingPayload(global, jobId, Visit, other, { expected: visit })
      assert.deepStrictEqual(yield* update, { _tag: "Updated" })
      assert.strictEqual((yield* update)._tag, "PayloadMismatch")
      // the order of keys says nothing
      const untyped = Jobs.updatePendingPayload(global, jobId, Visit.jobType, 1, {
        expected: { pages: ["/other"], at: "2026-01-02T03:04:05.000Z" }
      })
      assert.deepStrictEqual(yield* untyped, { _tag: "Updated" })
    })
  )

  it.effect("one member: set or added, the others stay", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const set = (field: string, value: Schema.Json) =>
        Jobs.updatePendingPayloadField(global, jobId, type, { field, value })
      assert.deepStrictEqual(yield* set("ids", [missing]), { _tag: "Updated" })
      assert.deepStrictEqual(yield* set("a.b", null), { _tag: "Updated" })
      assert.deepStrictEqual(yield* set("n", { deep: 1 }), { _tag: "Updated" })
      assert.deepStrictEqual((yield* get(jobId)).payload, { n: { deep: 1 }, ids: [missing], "a.b": null })
      yield* Jobs.updatePendingPayload(global, jobId, type, [1])
      assert.deepStrictEqual(yield* set("n", 1), { _tag: "PayloadMismatch", actual: [1] })
    })
  )

  it.effect("one member: two at once both stay", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const set = (field: string) => Jobs.updatePendingPayloadField(global, jobId, type, { field, value: 1 })
      const end = yield* standing(set("a"))
      const fiber = yield* Effect.forkChild(set("b"))
      yield* end
      assert.deepStrictEqual(yield* Fiber.join(fiber), { _tag: "Updated" })
      assert.deepStrictEqual((yield* get(jobId)).payload, { n: 1, a: 1, b: 1 })
    })
  )

  it.effect("one member must not make the whole too large", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const set = (field: string) =>
        Jobs.updatePendingPayloadField(global, jobId, type, { field, value: "x".repeat(1_500_000) })
      assert.deepStrictEqual(yield* set("a"), { _tag: "Updated" })
      const before = yield* Recovery.everything
      yield* refusedAs(set("b"), "value")
      assert.deepStrictEqual(yield* Recovery.everything, before)
    })
  )

  it.effect(
    "refuses in one order: not found, workflow, request on record, not pending or claimed, another payload",
    () =>
      Effect.gen(function* () {
        const type = yield* Recovery.makeType
        const key = { idempotencyKey: "k" }
        const pending = yield* Recovery.pending(type)
        const ours = yield* Recovery.pending(type, { organizationId })
        const keyed = yield* Recovery.pending(type, key)
        // keyed, and ended
        const keyedEnded = yield* Recovery.pending(type, { idempotencyKey: "k2" })
        yield* Jobs.cancel(admin, keyedEnded)
        const { run } = yield* Workflows.enqueue({
          workflowType: "t",
          steps: [{ stepKey: "only", jobType: type, payload: 1 }]
        })
        const [step] = yield* Workflows.steps(admin, run.id)
        const stepJob = Jobs.JobId.make(Option.getOrThrow(step?.jobId ?? Option.none()))
        const claimedType = yield* Recovery.makeType
        const leased = yield* Recovery.pending(claimedType)
        const { lease } = yield* Recovery.claimOne(claimedType)
        const retryType = yield* Recovery.makeType
        const retrying = yield* Recovery.pending(retryType)
        const first = yield* Recovery.claimOne(retryType)
        yield* Jobs.completeFailure(first.lease, { kind: "RETRYABLE", code: "c", message: "m" })
        const dead = yield* Recovery.deadLettered(yield* Recovery.makeType)

        const before = yield* Recovery.everything
        const expected = { expected: "something else" }
        const other = TenantScope.organization("0197c000-0000-7000-8000-00000000000b")
        const cases: ReadonlyArray<readonly [TenantScope.Owner, Jobs.JobId, string, Jobs.PayloadUpdate]> = [
          [global, missing, type, { _tag: "NotFound" }],
          [global, pending, retryType, { _tag: "NotFound" }],
          [organization, pending, type, { _tag: "NotFound" }],
          [global, ours, type, { _tag: "NotFound" }],
          [other, ours, type, { _tag: "NotFound" }],
          [global, stepJob, type, { _tag: "WorkflowManaged", workflowRunId: run.id }],
          [global, keyed, type, { _tag: "IdempotentRequestSnapshot" }],
          [global, keyedEnded, type, { _tag: "IdempotentRequestSnapshot" }],
          [global, leased, claimedType, { _tag: "NotPendingOrClaimed", status: "LEASED", attempt: 1 }],
          [global, retrying, retryType, { _tag: "NotPendingOrClaimed", status: "PENDING", attempt: 1 }],
          [
            global,
            dead,
            (yield* get(dead)).jobType,
            { _tag: "NotPendingOrClaimed", status: "DEAD_LETTERED", attempt: 1 }
          ],
          [global, pending, type, { _tag: "PayloadMismatch", actual: { n: 1 } }]
        ]
        for (const [scope, jobId, jobType, outcome] of cases) {
          assert.deepStrictEqual(yield* Jobs.updatePendingPayload(scope, jobId, jobType, 2, expected), outcome)
        }
        assert.deepStrictEqual(yield* Recovery.everything, before)
        assert.deepStrictEqual(yield* Jobs.updatePendingPayload(organization, ours, type, 2), { _tag: "Updated" })
        // a new run was never claimed, and a claim that was given back is none
        yield* Recovery.requeue(dead)
        const again = yield* Jobs.updatePendingPayload(global, dead, (yield* get(dead)).jobType, 2)
        assert.deepStrictEqual(again, { _tag: "Updated" })
        yield* Jobs.completeSuccess(lease)
        const releasedType = yield* Recovery.makeType
        const released = yield* Recovery.pending(releasedType)
        const prefetched = yield* Recovery.claimOne(releasedType, Jobs.claimPrestart)
        yield* Jobs.releaseUnstarted(prefetched.lease)
        assert.deepStrictEqual(yield* Jobs.updatePendingPayload(global, released, releasedType, 2), { _tag: "Updated" })
      })
  )

  it.effect("a correction and a claim: whoever has the row first", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const claim = Jobs.claim({ workerId: "w", types: [type], limit: 1 })
      const corrected = yield* standing(Jobs.updatePendingPayload(global, jobId, type, "first"))
      assert.deepStrictEqual(yield* claim, [])
      yield* corrected
      const claimed = yield* standing(claim)
      const fiber = yield* Effect.forkChild(Jobs.updatePendingPayload(global, jobId, type, "late"))
      yield* claimed
      assert.deepStrictEqual(yield* Fiber.join(fiber), { _tag: "NotPendingOrClaimed", status: "LEASED", attempt: 1 })
      assert.strictEqual((yield* get(jobId)).payload, "first")
    })
  )

  it.effect("a row that stays locked: unavailable after a while", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const update = Jobs.updatePendingPayload(global, jobId, type, 2)
      const end = yield* standing(update)
      assert.deepInclude((yield* Effect.flip(update)).reason, { _tag: "Unavailable", origin: "busy" })
      yield* end
    })
  )

  it.effect("what is malformed is refused before anything is sent", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const bad: (value: unknown) => Schema.Json = (value) => Object.assign({}, { value: "s3cret" }, value)
      const large = "s3cret".repeat(400_000)
      const update = Jobs.updatePendingPayload
      const field = (name: string, value: Schema.Json) =>
        Jobs.updatePendingPayloadField(global, jobId, type, { field: name, value })
      const typed = Object.assign({ at: now, pages: ["s3cret"] }, { pages: 1 })
      const sent = yield* record(
        Effect.gen(function* () {
          yield* refusedAs(update(TenantScope.organization("x"), jobId, type, 1), "scope.organizationId")
          yield* refusedAs(update(global, Jobs.JobId.make(missing.replace("0197", "0198")), " ", 1), "jobType")
          yield* refusedAs(update(global, jobId, type, "s3cret\0"), "payload")
          yield* refusedAs(update(global, jobId, type, large), "payload")
          yield* refusedAs(update(global, jobId, type, bad({ n: 1n })), "payload")
          yield* refusedAs(update(global, jobId, type, 1, { expected: large }), "options.expected")
          yield* refusedAs(update(global, jobId, Visit, typed), "payload")
          yield* refusedAs(update(global, jobId, Visit, visit, { expected: typed }), "options.expected")
          yield* refusedAs(field("", 1), "field")
          yield* refusedAs(field("x".repeat(513), 1), "field")
          yield* refusedAs(field("a", large), "value")
        })
      )
      assert.deepStrictEqual(sent, [])
    })
  )
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("look-ups of payloads", (it) => {
  it.effect("by key: exactly the scope, the type and the key", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const other = yield* Recovery.makeType
      const idempotencyKey = "k"
      const nobodys = yield* Jobs.enqueue(type, { of: "nobody" }, { idempotencyKey })
      yield* Jobs.enqueue(type, { of: "us" }, { idempotencyKey, organizationId, payloadVersion: 4 })
      const find = (scope: TenantScope.Owner, jobType: string, key: string) =>
        Effect.map(
          Jobs.payloadByIdempotencyKey({ scope, jobType, idempotencyKey: key }),
          Option.map(({ payload, payloadVersion }) => [payload, payloadVersion])
        )
      assert.deepStrictEqual(yield* find(global, type, "k"), Option.some([{ of: "nobody" }, 1]))
      assert.deepStrictEqual(yield* find(organization, type, "k"), Option.some([{ of: "us" }, 4]))
      assert.deepStrictEqual(yield* find(organization, other, "k"), Option.none())
      assert.deepStrictEqual(yield* find(global, type, "K"), Option.none())
      const found = yield* Jobs.payloadByIdempotencyKey({ scope: global, jobType: type, idempotencyKey })
      assert.strictEqual(Option.getOrThrow(found).jobId, nobodys.jobId)
      yield* refusedAs(Jobs.payloadByIdempotencyKey({ scope: global, jobType: "", idempotencyKey }), "jobType")
      const blank = Jobs.payloadByIdempotencyKey({ scope: global, jobType: type, idempotencyKey: " " })
      yield* refusedAs(blank, "idempotencyKey")
    })
  )

  it.effect("by run: the newest of exactly the scope and the type, among the newest jobs", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const other = yield* Recovery.makeType
      const runId = "0197c000-0000-7000-8000-0000000000aa"
      const put = (jobType: string, payload: Schema.Json, options?: Jobs.EnqueueOptions) =>
        Effect.map(Jobs.enqueue(jobType, payload, options), ({ jobId }) => jobId)
      yield* put(type, { run_id: runId, n: 1 })
      const newest = yield* put(type, { run_id: runId.toUpperCase(), n: 2 })
      const ours = yield* put(type, { run_id: runId, n: 3 }, { organizationId })
      yield* put(other, { run_id: runId })
      yield* put(type, { run_id: missing })
      yield* put(type, { run_id: [runId] })
      yield* put(type, runId)
      const find = (scope: TenantScope.Owner, within?: number, jobType = type) =>
        Effect.map(
          Jobs.latestPayloadForRun({ scope, jobType, runId, within }),
          Option.map(({ jobId }) => jobId)
        )
      assert.deepStrictEqual(yield* find(global), Option.some(newest))
      assert.deepStrictEqual(yield* find(organization), Option.some(ours))
      assert.deepStrictEqual(yield* find(organization, 1), Option.some(ours))
      assert.deepStrictEqual(yield* find(global, 5), Option.none())
      assert.deepStrictEqual(yield* find(global, 6), Option.some(newest))
      assert.deepStrictEqual(yield* find(organization, undefined, other), Option.none())
      yield* refusedAs(Jobs.latestPayloadForRun({ scope: global, jobType: type, runId: "x" }), "runId")
      for (const within of [0, 100_001, 1.5]) yield* refusedAs(find(global, within), "within")
    })
  )

  it.effect("cost what they promise, with statistics or without, under any plan", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const type = yield* Recovery.makeType
      yield* Jobs.enqueue(type, 1, { idempotencyKey: "k" })
      yield* sql`
        INSERT INTO runledger.job_queue (
          job_type, organization_id, payload, status, max_attempts, next_run_at, created_at, updated_at
        )
        SELECT ${type}, ${organizationId}::uuid, '{"run_id": "x"}', 'SUCCEEDED', 3, at, at, at
        FROM (SELECT clock_timestamp() AS at) c, generate_series(1, 100000)`
      const runId = missing
      const byKey = Jobs.payloadByIdempotencyKey({ scope: global, jobType: type, idempotencyKey: "k" })
      const pendingId = yield* Recovery.pending(type)
      const lookups: ReadonlyArray<
        readonly [Effect.Effect<unknown, QueryError, SqlClient>, ReadonlyArray<string>, number]
      > = [
        [byKey, ["uq_job_queue_type_idempotency"], 20],
        [
          Jobs.payloadByIdempotencyKey({ scope: organization, jobType: type, idempotencyKey: "k" }),
          ["uq_job_queue_type_idempotency"],
          20
        ],
        [Jobs.latestPayloadForRun({ scope: global, jobType: type, runId, within: 100 }), ["pk_job_queue"], 250],
        [
          Jobs.latestPayloadForRun({ scope: organization, jobType: type, runId, within: 100 }),
          ["idx_job_queue_organization"],
          250
        ],
        [Jobs.updatePendingPayload(global, pendingId, type, 2), ["pk_job_queue"], 100],
        [Jobs.updatePendingPayloadField(organization, pendingId, type, { field: "a", value: 1 }), ["pk_job_queue"], 100]
      ] as const
      for (const statistics of ["none", "fresh"]) {
        if (statistics === "fresh") yield* sql`ANALYZE runledger.job_queue`.unprepared
        for (const [index, [operation, indexes, buffers]] of lookups.entries()) {
          const [statement] = yield* record(operation)
          if (statement === undefined) return assert.fail("nothing was sent")
          for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
            const plan = yield* rollback(
              Effect.gen(function* () {
                yield* planWith(mode)
                const { explain } = yield* prepare(statement)
                return yield* explain(statement.parameters)
              })
            )
            const where = `${index}, ${statistics}, ${mode}`
            assert.deepStrictEqual(plan.scanned, [], where)
            assert.deepStrictEqual(plan.indexes, indexes, where)
            assert.isAtMost(plan.buffers, buffers, where)
          }
        }
      }
    })
  )
})

// ---------------------------------------------------------------------------------------------------------------------
// What events say
// ---------------------------------------------------------------------------------------------------------------------

const event = (type: Jobs.JobEvent["type"], payload: Schema.Json) =>
  new Jobs.JobEvent({
    seq: 2,
    runNumber: 1,
    attempt: Option.none(),
    type,
    stage: Option.none(),
    progressDone: Option.none(),
    progressTotal: Option.none(),
    payload,
    occurredAt: now
  })

const iso = "2026-01-02T04:04:05+01:00"
const schedule = { next_run_number: 2, next_run_at: iso, delay_microseconds: 5 }
const continued = { _tag: "Continued", reason: "HANDLER_CONTINUATION", nextRunNumber: 2, nextRunAt: now } as const
const otherwise = (reason?: string): Jobs.EventPayload => ({
  _tag: "RequeuedOtherwise",
  reason: Option.fromUndefinedOr(reason)
})
const policy = "reset_progress_and_checkpoint"
const replayOf = {
  replayed_from_job_id: missing,
  replayed_from_run_number: 4,
  replay_request_key: "k",
  reason: "why"
}

const said: ReadonlyArray<readonly [Jobs.JobEvent["type"], Schema.Json, Jobs.EventPayload]> = [
  ["REQUEUED", { reason: "r", requeue_kind: "BASIC" }, { _tag: "Released", reason: "r" }],
  ["REQUEUED", { reason: "r" }, { _tag: "Released", reason: "r" }],
  [
    "REQUEUED",
    { reason: "r", state_policy: policy, requeue_kind: "COMPARE_AND_REQUEUE" },
    { _tag: "Requeued", reason: "r", statePolicy: "reset" }
  ],
  [
    "REQUEUED",
    { reason: "r", state_policy: "preserve_progress_and_checkpoint" },
    { _tag: "Requeued", reason: "r", statePolicy: "preserve" }
  ],
  [
    "REQUEUED",
    { reason: "r", state_policy: policy, requeue_kind: "DEAD_LETTER_REDRIVE", redrive_id: "i" },
    { _tag: "Redriven", reason: "r", statePolicy: "reset", redriveId: "i" }
  ],
  [
    "REQUEUED",
    { ...schedule, reason: "HANDLER_CONTINUATION", requeue_kind: "HANDLER_CONTINUATION" },
    { ...continued, delayMicroseconds: 5 }
  ],
  ["REQUEUED", { ...schedule, reason: "HANDLER_CONTINUATION" }, { ...continued, delayMicroseconds: 5 }],
  // a kind that is there, and not known, is never taken for an older event
  ["REQUEUED", { reason: "r", requeue_kind: "LATER" }, otherwise("r")],
  ["REQUEUED", { reason: "r", requeue_kind: null }, otherwise("r")],
  ["REQUEUED", { reason: "r", requeue_kind: 7 }, otherwise("r")],
  ["REQUEUED", { reason: "r", requeue_kind: "constructor" }, otherwise("r")],
  ["REQUEUED", { reason: "r", requeue_kind: "COMPARE_AND_REQUEUE" }, otherwise("r")],
  ["REQUEUED", { reason: "r", state_policy: "keep" }, otherwise("r")],
  ["REQUEUED", { reason: "r", state_policy: policy, requeue_kind: "DEAD_LETTER_REDRIVE" }, otherwise("r")],
  ["REQUEUED", { reason: "r", next_run_number: 2 }, otherwise("r")],
  ["REQUEUED", { ...schedule, reason: "r" }, otherwise("r")],
  ["REQUEUED", { ...schedule, next_run_at: "soon", reason: "HANDLER_CONTINUATION" }, otherwise("HANDLER_CONTINUATION")],
  ["REQUEUED", { requeue_kind: "BASIC" }, otherwise()],
  ["REQUEUED", {}, otherwise()],
  ["REQUEUED", { reason: 7, requeue_kind: "BASIC" }, otherwise()],
  ["REQUEUED", null, otherwise()],
  ["REQUEUED", [1], otherwise()],
  ["REQUEUED", "text", otherwise()],
  [
    "ENQUEUED",
    { job_type: "t", ...replayOf },
    { _tag: "Replayed", sourceJobId: missing, sourceRunNumber: 4, requestKey: "k", reason: "why" }
  ],
  ["ENQUEUED", { job_type: "t", ...replayOf, replay_request_key: null }, { _tag: "Other" }],
  ["ENQUEUED", { job_type: "t", ...replayOf, replayed_from_job_id: "x" }, { _tag: "Other" }],
  ["ENQUEUED", { job_type: "t" }, { _tag: "Other" }],
  ["CANCELED", { reason: "r" }, { _tag: "Canceled", reason: "r", leaseQuiescesAt: Option.none() }],
  [
    "CANCELED",
    { reason: "r", lease_quiesces_at: iso },
    { _tag: "Canceled", reason: "r", leaseQuiescesAt: Option.some(now) }
  ],
  ["CANCELED", { lease_quiesces_at: iso }, { _tag: "Other" }],
  ["SUCCEEDED", { reason: "r", requeue_kind: "BASIC" }, { _tag: "Other" }],
  ["PROGRESS", null, { _tag: "Other" }]
]

describe("Jobs.decodeEvent", () => {
  it.each(said.map(([type, payload, expected]) => ({ type, payload, expected, text: JSON.stringify(payload) })))(
    "$type $text",
    ({ type, payload, expected }) => assert.deepStrictEqual(Jobs.decodeEvent(event(type, payload)), expected)
  )

  it.prop("never fails, whatever the payload", [Schema.Json], ([payload]) => {
    for (const type of ["REQUEUED", "ENQUEUED", "CANCELED", "FAILED"] as const) Jobs.decodeEvent(event(type, payload))
  })
})

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Jobs.decodeEvent of what is stored", (it) => {
  const tags = (jobId: Jobs.JobId) =>
    Effect.map(Jobs.events(admin, jobId), (events) =>
      events.flatMap((one) => {
        const payload = Jobs.decodeEvent(one)
        return payload._tag === "Other" ? [] : [payload]
      })
    )

  it.effect("a release, a continuation, a cancellation", () =>
    Effect.gen(function* () {
      const type = yield* Recovery.makeType
      const jobId = yield* Recovery.pending(type)
      const prefetched = yield* Recovery.claimOne(type, Jobs.claimPrestart)
      yield* Jobs.releaseUnstarted(prefetched.lease, { reason: "SHUTDOWN" })
      const { lease } = yield* Recovery.claimOne(type)
      yield* Jobs.completeContinuation(lease, { delay: "0 millis" })
      const { nextRunAt } = yield* get(jobId)
      const last = yield* Recovery.claimOne(type)
      yield* Jobs.cancel(admin, jobId, { reason: "withdrawn" })
      const [released, next, canceled, ...others] = yield* tags(jobId)
      assert.deepStrictEqual(others, [])
      assert.deepStrictEqual(released, { _tag: "Released", reason: "SHUTDOWN" })
      assert.deepStrictEqual(next, {
        _tag: "Continued",
        reason: "HANDLER_CONTINUATION",
        nextRunNumber: 2,
        nextRunAt,
        delayMicroseconds: 0
      })
      assert.deepStrictEqual(canceled, {
        _tag: "Canceled",
        reason: "withdrawn",
        leaseQuiescesAt: Option.some(last.leaseExpiresAt)
      })
    })
  )
})
