import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Logger, Redacted, Result, Schema, Tracer } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { expect } from "vitest"
import * as DefinitionReason from "../src/DefinitionReason.ts"
import {
  ConstraintViolation,
  DefinitionUnavailable,
  FrameworkConstraint,
  IdempotencyConflict,
  IdempotencySnapshotMissing,
  InvalidArgument,
  InvalidCompletionProgress,
  InvalidContinuationDelay,
  InvalidLeaseDuration,
  InvalidPagination,
  InvalidProgress,
  InvalidRetryTiming,
  InvalidStateTransition,
  JobDefinitions,
  JobNotFound,
  Jobs,
  LeaseOwnerMismatch,
  OutcomeUnknown,
  PermissionDenied,
  QueryError,
  QueryFailed,
  type Reason,
  RuntimeConfigInvalid,
  RuntimeConfigNotFound,
  TenantScope,
  Unavailable,
  UnstartedClaimReleaseNotApplicable,
  UnsupportedIsolation
} from "../src/index.ts"
import * as JobIntentReason from "../src/JobIntentReason.ts"
import * as RecoveryReason from "../src/RecoveryReason.ts"
import * as ScheduleReason from "../src/ScheduleReason.ts"
import * as WorkflowReason from "../src/WorkflowReason.ts"
import { answered, raised } from "./support/reasons.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const id = "01a2032f-2084-7b48-9ca6-127e043eb2ed"
const lease = { jobId: id, runNumber: 1, attempt: 2 }
const run = { workflowRunId: id }

/** One of each, so that a reason that is added and not listed here does not compile. */
const samples: { readonly [Tag in Reason["_tag"]]: Extract<Reason, { readonly _tag: Tag }> } = {
  InvalidArgument: new InvalidArgument({ argument: "jobType", rule: "must not be blank" }),
  InvalidLeaseDuration: new InvalidLeaseDuration(),
  InvalidPagination: new InvalidPagination(),
  InvalidProgress: new InvalidProgress(),
  InvalidCompletionProgress: new InvalidCompletionProgress(),
  InvalidContinuationDelay: new InvalidContinuationDelay(),
  InvalidRetryTiming: new InvalidRetryTiming(),
  UnsupportedIsolation: new UnsupportedIsolation({ code: "job.unsupported_isolation" }),
  DefinitionUnavailable: new DefinitionUnavailable({ jobType: "email.send", state: "missing" }),
  IdempotencyConflict: new IdempotencyConflict({ jobId: id, fields: ["payload"] }),
  IdempotencySnapshotMissing: new IdempotencySnapshotMissing({ jobId: id }),
  LeaseOwnerMismatch: new LeaseOwnerMismatch(lease),
  UnstartedClaimReleaseNotApplicable: new UnstartedClaimReleaseNotApplicable(lease),
  JobNotFound: new JobNotFound({ jobId: id }),
  InvalidStateTransition: new InvalidStateTransition({ jobId: id, status: "CANCELED" }),
  InvalidIntent: new JobIntentReason.InvalidIntent({
    argument: "idempotencyKey",
    rule: "must not be blank",
    code: "job.intent_invalid_idempotency_key"
  }),
  IntentConflict: new JobIntentReason.IntentConflict({ intentId: id, fields: ["payload"] }),
  IntentRetentionTooLarge: new JobIntentReason.IntentRetentionTooLarge(),
  Unavailable: new Unavailable({ origin: "database" }),
  OutcomeUnknown: new OutcomeUnknown({}),
  ConstraintViolation: new ConstraintViolation({
    category: "Conflict",
    code: "db.unique_violation",
    clientMessage: "It exists already"
  }),
  PermissionDenied: new PermissionDenied({}),
  QueryFailed: new QueryFailed({}),
  WorkflowRequeueNotSupported: new RecoveryReason.WorkflowRequeueNotSupported({ ...run, jobId: id }),
  InvalidReplay: new RecoveryReason.InvalidReplay({ code: "job.replay_reason_blank" }),
  ReplayConflict: new RecoveryReason.ReplayConflict({ sourceJobId: id, replayJobId: id }),
  EmptyJobTypeList: new DefinitionReason.EmptyJobTypeList({ list: "scope" }),
  InvalidCatalog: new DefinitionReason.InvalidCatalog({ name: "email.send", code: "catalog.duplicate_job_type" }),
  RuntimeConfigNotFound: new RuntimeConfigNotFound({ jobType: "email.send" }),
  RuntimeConfigInvalid: new RuntimeConfigInvalid({ jobType: "email.send", schemaVersion: 1 }),
  InvalidWorkflow: new WorkflowReason.InvalidWorkflow({ rule: "invalid_dag_cycle", cycle: ["a", "b"] }),
  ActiveKeyMisuse: new WorkflowReason.ActiveKeyMisuse({ code: "workflow.active_key_required" }),
  StepDefinitionUnavailable: new WorkflowReason.StepDefinitionUnavailable({
    stepKey: "crawl",
    jobType: "page.crawl",
    state: "disabled"
  }),
  WorkflowIdempotencyConflict: new WorkflowReason.WorkflowIdempotencyConflict({
    workflowRunId: id,
    fields: ["metadata"]
  }),
  WorkflowSnapshotMissing: new WorkflowReason.WorkflowSnapshotMissing(run),
  WorkflowRunNotFound: new WorkflowReason.WorkflowRunNotFound(run),
  AppendRefused: new WorkflowReason.AppendRefused({ code: "workflow.append_terminal_run" }),
  AppendConflict: new WorkflowReason.AppendConflict(run),
  ExternalStepNotFound: new WorkflowReason.ExternalStepNotFound({ ...run, stepKey: "approval" }),
  ExternalStepNotWaiting: new WorkflowReason.ExternalStepNotWaiting({
    stepKey: "approval",
    code: "workflow.external_step_not_waiting"
  }),
  ExternalCompletionConflict: new WorkflowReason.ExternalCompletionConflict({
    stepKey: "approval",
    code: "workflow.external_step_conflicting_output_retry"
  }),
  InvalidRecovery: new WorkflowReason.InvalidRecovery({ code: "workflow.invalid_recovery_reason" }),
  RecoverySourceNotFound: new WorkflowReason.RecoverySourceNotFound({
    ...run,
    code: "workflow.recovery_source_not_found"
  }),
  RecoveryConflict: new WorkflowReason.RecoveryConflict({ ...run, code: "workflow.recovery_source_not_terminal" }),
  WorkflowContinuationNotEnabled: new WorkflowReason.WorkflowContinuationNotEnabled({ ...run, jobId: id }),
  UnsuccessfulRun: new WorkflowReason.UnsuccessfulRun({ ...run, status: "CANCELED" }),
  NoResult: new WorkflowReason.NoResult({ ...run, code: "workflow.result_missing" }),
  ResultWaitTimeout: new WorkflowReason.ResultWaitTimeout(run),
  InvalidSchedule: new ScheduleReason.InvalidSchedule({
    argument: "cron",
    rule: "must have a next time",
    code: "job_schedule.invalid_cron"
  }),
  ScheduleDefinitionUnavailable: new ScheduleReason.ScheduleDefinitionUnavailable({
    schedule: "nightly",
    jobType: "report.send",
    state: "disabled"
  }),
  ScheduleOwnedElsewhere: new ScheduleReason.ScheduleOwnedElsewhere({ schedule: "nightly", owner: "reporting" }),
  ActiveScheduleExists: new ScheduleReason.ActiveScheduleExists({ jobType: "report.send" })
}

const operationsOf = (tag: string): string =>
  [
    ...Object.entries(raised).flatMap(([operation, tags]) => (tags.includes(tag) ? [operation] : [])),
    ...Object.entries(answered).flatMap(([operation, tags]) => (tags.includes(tag) ? [`${operation} (per row)`] : []))
  ]
    .map((operation) => `\`${operation}\``)
    .join(", ")

/** The reasons that have more than one code. */
const withCodes = [
  UnsupportedIsolation,
  RecoveryReason.InvalidReplay,
  JobIntentReason.InvalidIntent,
  WorkflowReason.ActiveKeyMisuse,
  WorkflowReason.AppendRefused,
  WorkflowReason.ExternalStepNotWaiting,
  WorkflowReason.ExternalCompletionConflict,
  WorkflowReason.InvalidRecovery,
  WorkflowReason.RecoverySourceNotFound,
  WorkflowReason.RecoveryConflict,
  WorkflowReason.NoResult,
  ScheduleReason.InvalidSchedule
]

const codesOf = (reason: Reason): string => {
  if (reason._tag === "ConstraintViolation") return "by constraint, below"
  const codes =
    reason._tag === "InvalidWorkflow"
      ? WorkflowReason.GraphRule.literals.map((rule) => `workflow.${rule}`)
      : (withCodes.find((made) => reason instanceof made)?.fields.code.literals ?? [reason.code])
  return codes.map((code) => `\`${code}\``).join(", ")
}

const document = `# Reasons

Every operation fails with a \`QueryError\` whose \`reason\` is one of these, and its type lists exactly which. \`code\` is stable;
\`message\` is safe to show. *Transaction* says whether a caller's transaction can go on after the error was caught: a domain
outcome is decided in the result of a statement and leaves it as it was, an error of the database aborts it. (Operations
that use a savepoint in a caller's transaction leave it usable even then.)

| Reason | Code | Category | Transaction | Operations |
|---|---|---|---|---|
${Object.values(samples)
  .map(
    (reason) =>
      `| \`${reason._tag}\` | ${codesOf(reason)} | ${
        reason._tag === "ConstraintViolation" ? "by constraint" : reason.category
      } | ${
        reason._tag === "Unavailable"
          ? "usable if a row stayed locked, else aborted"
          : reason.transactionUsable
            ? "usable"
            : "aborted"
      } | ${operationsOf(reason._tag)} |`
  )
  .join("\n")}

## Constraints

What \`ConstraintViolation\` says, by the name of the constraint, else by SQLSTATE. An application adds its own with
\`FrameworkConstraint.ConstraintClassifier\`, which is asked first.

| Constraint or SQLSTATE | Category | Code |
|---|---|---|
${[
  ...FrameworkConstraint.names.map((name) => [name, FrameworkConstraint.classify(name)] as const),
  ...["23505", "23503", "23001", "23514", "23502", "23P01"].map(
    (state) => [state, FrameworkConstraint.classifySqlState(state)] as const
  )
]
  .map(([name, spec]) => `| \`${name}\` | ${spec?.category} | \`${spec?.code}\` |`)
  .join("\n")}
`

describe("reasons", () => {
  it("are documented as the code has them: reason, code, category, operations, state of the transaction", async () => {
    await expect(document).toMatchFileSnapshot("../docs/errors.md")
  })

  it("have codes of their own", () => {
    const codes = Object.values(samples).map(({ code }) => code)
    assert.strictEqual(new Set(codes).size, codes.length)
    for (const code of codes) assert.match(code, /^(?:catalog|job|job_definition|job_schedule|db|workflow)\.[a-z_]+$/)
  })

  it("survive encoding and decoding, without what the database said", () => {
    const codec = Schema.toCodecJson(Unavailable)
    const original = new Unavailable({ origin: "database", sqlState: "57P01" })
    const decoded = Schema.decodeUnknownSync(codec)(JSON.parse(JSON.stringify(Schema.encodeSync(codec)(original))))
    assert.instanceOf(decoded, Unavailable)
    assert.strictEqual(decoded.sqlState, "57P01")
  })
})

describe("FrameworkConstraint", () => {
  it("knows its own names and no other, nor what every object has", () => {
    for (const name of FrameworkConstraint.names) assert.isTrue(FrameworkConstraint.has(name))
    for (const name of ["", "toString", "constructor", "fk_elsewhere"]) {
      assert.isFalse(FrameworkConstraint.has(name))
      assert.isUndefined(FrameworkConstraint.classify(name))
      assert.isUndefined(FrameworkConstraint.classifySqlState(name))
    }
  })
})

const secrets = ["s3cret-payload", "s3cret-key", "s3cret-worker", "SELECT", "INSERT", "job_queue", "uq_job_queue"]

const refuseSecrets = (text: string, where: string) => {
  for (const secret of secrets) assert.notInclude(text, secret, where)
}

/** Every way in which an error becomes text. */
const formats = (error: QueryError): ReadonlyArray<readonly [string, string]> => {
  const cause = Cause.fail(error)
  return [
    ["String", String(error)],
    ["message", error.message],
    ["stack", String(error.stack)],
    ["inspect", inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true, getters: true })],
    ["inspect of the reason", inspect(error.reason, { depth: Number.POSITIVE_INFINITY, showHidden: true })],
    ["JSON", JSON.stringify(error)],
    ["JSON of the reason", JSON.stringify(error.reason)],
    ["Cause.pretty", Cause.pretty(cause)],
    ["inspect of the cause", inspect(cause, { depth: Number.POSITIVE_INFINITY })],
    ["JSON of the cause", JSON.stringify(cause)]
  ]
}

it.layer(TestDatabase.layer)("formatting a QueryError", (it) => {
  const failures = (sql: SqlClient.SqlClient) =>
    ({
      "a constraint of the application": sql`
        ALTER TABLE runledger.job_queue ADD CONSTRAINT app_rule CHECK (payload ->> 'to' IS DISTINCT FROM 's3cret-payload')
      `.pipe(
        Effect.andThen(Effect.flip(Jobs.enqueue("t", { to: "s3cret-payload" }, { idempotencyKey: "s3cret-key" })))
      ),
      "a conflicting key": Effect.flip(
        Effect.andThen(
          Jobs.enqueue("t", 1, { idempotencyKey: "s3cret-key" }),
          Jobs.enqueue("t", "s3cret-payload", { idempotencyKey: "s3cret-key" })
        )
      ),
      "a bad argument": Effect.flip(Jobs.enqueue("t", "s3cret-payload\0", { idempotencyKey: "s3cret-key" })),
      "an over-long key": Effect.flip(Jobs.enqueue("t", 1, { idempotencyKey: "s3cret-key".repeat(200) })),
      "a foreign lease": Effect.flip(
        Jobs.heartbeat({ jobId: Jobs.JobId.make(id), runNumber: 1, attempt: 1, workerId: "s3cret-worker" })
      ),
      "a statement that the server refuses": Effect.flip(
        sql.withTransaction(
          Effect.andThen(
            Effect.ignore(sql`SELECT 1 / 0`),
            Jobs.enqueue("t", "s3cret-payload", { idempotencyKey: "s3cret-key" })
          )
        )
      )
    }) as const

  it.effect("shows no SQL, parameter, payload or key, in any form", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* JobDefinitions.upsert("t")
      for (const [name, failing] of Object.entries(failures(sql))) {
        const error = yield* failing
        assert.instanceOf(error, QueryError, name)
        for (const [format, text] of formats(error)) refuseSecrets(text, `${name}: ${format}`)
      }
    })
  )

  it.effect("shows none of it in log lines and spans either", () =>
    Effect.gen(function* () {
      yield* JobDefinitions.upsert("t")
      const lines: Array<string> = []
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const keep = <A>(format: Logger.Logger<unknown, A>) =>
        Logger.map(format, (line) => {
          lines.push(typeof line === "string" ? line : JSON.stringify(line))
        })
      yield* Jobs.enqueue("t", "s3cret-payload", { idempotencyKey: "s3cret-key-2" })
      yield* Jobs.enqueue("t", "other s3cret-payload", { idempotencyKey: "s3cret-key-2" }).pipe(
        Effect.tapCause((cause) => Effect.logError("enqueue failed", cause)),
        Effect.tapError((error) => Effect.logError(error)),
        Effect.exit,
        Effect.withTracer(tracer),
        Effect.provide(
          Logger.layer([keep(Logger.formatLogFmt), keep(Logger.formatJson), keep(Logger.formatStructured)])
        )
      )
      assert.isAtLeast(lines.length, 6)
      refuseSecrets(lines.join("\n"), "log lines")
      const ended = spans.filter(({ name }) => name === "Jobs.enqueue")
      assert.strictEqual(ended.length, 1)
      for (const span of ended) {
        refuseSecrets(inspect([...span.attributes]), "span attributes")
        assert.isTrue(span.status._tag === "Ended" && Exit.isFailure(span.status.exit))
        if (span.status._tag === "Ended" && Exit.isFailure(span.status.exit)) {
          refuseSecrets(Cause.pretty(span.status.exit.cause), "span exit")
        }
      }
    })
  )

  it.effect("keeps what the database said for trusted eyes", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const error = yield* Effect.flip(
        sql.withTransaction(Effect.andThen(Effect.ignore(sql`SELECT 1 / 0`), Jobs.count({ scope: TenantScope.admin })))
      )
      assert.instanceOf(error, QueryError)
      if (!(error instanceof QueryError)) return
      const { reason } = error
      assert.instanceOf(reason, QueryFailed)
      if (!(reason instanceof QueryFailed) || reason.source === undefined) return assert.fail("no source")
      assert.strictEqual(reason.sqlState, "25P02")
      assert.isTrue(SqlError.isSqlError(Redacted.value(reason.source)))
    })
  )

  it.effect("offers exactly the reasons of the operation, by tag", () =>
    Effect.gen(function* () {
      const stale = { jobId: Jobs.JobId.make(id), runNumber: 1, attempt: 1, workerId: "w" }
      const one = yield* Jobs.heartbeat(stale).pipe(
        Effect.as("held"),
        Effect.catchReason("QueryError", "LeaseOwnerMismatch", () => Effect.succeed("lost"))
      )
      const all = yield* Jobs.heartbeat(stale).pipe(
        Effect.as("held"),
        Effect.unwrapReason("QueryError"),
        Effect.catchTags({ LeaseOwnerMismatch: ({ code }) => Effect.succeed(code) })
      )
      assert.deepStrictEqual([one, all], ["lost", "job.lease_owner_mismatch"])
      const row = (yield* Jobs.heartbeatMany([stale]))[0]
      assert.isTrue(row !== undefined && Result.isFailure(row) && row.failure._tag === "LeaseOwnerMismatch")
    })
  )
})

it.layer(TestDatabase.layer)("an application's own constraints", (it) => {
  const unknownOrganization = Effect.flip(
    Jobs.enqueue("t", 1, { organizationId: "00000000-0000-0000-0000-000000000001" })
  )

  it.effect("are classified by name, by the application first", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      yield* JobDefinitions.upsert("t")
      yield* sql`CREATE TABLE organizations (id uuid PRIMARY KEY)`
      yield* sql`
        ALTER TABLE runledger.job_queue
        ADD CONSTRAINT fk_job_queue_organization FOREIGN KEY (organization_id) REFERENCES organizations (id)
      `
      const ours = yield* unknownOrganization
      assert.strictEqual(ours.code, "job.organization_not_found")
      assert.strictEqual(ours.category, "Validation")
      const theirs = yield* unknownOrganization.pipe(
        Effect.provideService(FrameworkConstraint.ConstraintClassifier, (constraint) =>
          constraint === "fk_job_queue_organization"
            ? { category: "NotFound" as const, code: "tenant.unknown", clientMessage: "No such tenant" }
            : undefined
        )
      )
      assert.strictEqual(theirs.code, "tenant.unknown")
      assert.strictEqual(theirs.message, "Jobs.enqueue: No such tenant (tenant.unknown)")
      assert.strictEqual(theirs.category, "NotFound")
    })
  )
})
