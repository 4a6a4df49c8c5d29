import { assert, it } from "@effect/vitest"
import { ConfigProvider, DateTime, Effect, Layer, Option, Ref, Schedule } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as CatalogExample from "../examples/catalog.ts"
import { Backfill, BackfillLive } from "../examples/continuation.ts"
import { placeOrder, SendReceipt } from "../examples/enqueue.ts"
import { Charge, ChargeLive } from "../examples/exactly-once.ts"
import * as FirstScreen from "../examples/first-screen.ts"
import * as HealthExample from "../examples/health.ts"
import { Export, postExport } from "../examples/http-errors.ts"
import * as Intent from "../examples/intent.ts"
import * as Metrics from "../examples/metrics.ts"
import * as Recovery from "../examples/recovery.ts"
import * as Resources from "../examples/resources.ts"
import * as Tidy from "../examples/retention.ts"
import { Sync, SyncLive } from "../examples/retry-timing.ts"
import * as Scheduled from "../examples/schedule.ts"
import { Later, signUp, Welcome } from "../examples/test-double.ts"
import { Mailer, MailRefused, Main, SendEmail } from "../examples/worker.ts"
import { Price, PriceLive, Total, TotalLive, totalOf } from "../examples/workflow.ts"
import * as Append from "../examples/workflow-append.ts"
import * as Gate from "../examples/workflow-gate.ts"
import * as Untyped from "../examples/workflow-untyped.ts"
import * as JobDefinitions from "../src/JobDefinitions.ts"
import * as JobIntents from "../src/JobIntents.ts"
import * as JobSchedules from "../src/JobSchedules.ts"
import * as Jobs from "../src/Jobs.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as Worker from "../src/Worker.ts"
import * as Workflows from "../src/Workflows.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const example = (name: string, body: () => Effect.Effect<void, unknown, Layer.Success<typeof TestDatabase.layer>>) =>
  it.live(name, () => Effect.provide(body(), TestDatabase.layer), 30_000)

const until = (jobId: Jobs.JobId, isSo: (job: Jobs.JobRecord) => boolean) =>
  Jobs.get(TenantScope.admin, jobId).pipe(
    Effect.flatMap(Effect.fromOption),
    Effect.filterOrFail(isSo, (job) => new Error(`it is ${job.status}`)),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

const ended = (jobId: Jobs.JobId) => until(jobId, (job) => job.isTerminal)

const quick = { pollInterval: "20 millis", drainTimeout: "1 second" } as const

it.live(
  "the first screen of the README: an order is placed, and its mail is sent, on a database that was empty",
  () =>
    Effect.gen(function* () {
      const database = yield* TestDatabase.create({ migrated: false })
      const sent = yield* Ref.make<ReadonlyArray<string>>([])
      const mailer = Layer.succeed(FirstScreen.Mailer, {
        send: (to, subject) =>
          Effect.as(
            Ref.update(sent, (before) => [...before, `${to}: ${subject}`]),
            "message-1"
          )
      })
      const main = FirstScreen.Main.pipe(
        Layer.provide(mailer),
        Layer.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ DATABASE_URL: TestDatabase.url(database) })))
      )
      yield* Effect.gen(function* () {
        yield* Layer.build(main)
        const sql = yield* SqlClient
        yield* sql`CREATE TABLE orders (id text PRIMARY KEY, email text NOT NULL)`
        yield* FirstScreen.placeOrder("1", "ada@example.com")
        // the order is there already: nothing is enqueued for it
        yield* Effect.flip(FirstScreen.placeOrder("1", "grace@example.com"))
        const { jobType } = FirstScreen.SendEmail
        const [job, ...others] = yield* Jobs.list({ scope: TenantScope.global, jobType, limit: 10 })
        assert.isEmpty(others)
        if (job === undefined) return yield* Effect.die("there is one")
        assert.deepStrictEqual((yield* ended(job.id)).output, Option.some({ messageId: "message-1" }))
        assert.deepStrictEqual(yield* Ref.get(sent), ["ada@example.com: Thanks"])
        assert.deepStrictEqual(yield* sql`SELECT id, email FROM orders`, [{ id: "1", email: "ada@example.com" }])
      }).pipe(Effect.scoped, Effect.provide(TestDatabase.client(database)))
    }),
  30_000
)

example("enqueue: the job exists if and only if the order does", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`CREATE TABLE orders (id integer GENERATED ALWAYS AS IDENTITY, item text NOT NULL, email text NOT NULL)`
    yield* sql`CREATE TABLE stock (item text PRIMARY KEY, pieces integer NOT NULL)`
    yield* sql`INSERT INTO stock VALUES ('lamp', 1)`
    const { jobId, orderId } = yield* placeOrder("lamp", "ada@example.com")
    const job = yield* Effect.flatMap(Jobs.get(TenantScope.global, jobId), Effect.fromOption)
    assert.deepStrictEqual(job.payload, { orderId, email: "ada@example.com" })
    const refused = yield* Effect.flip(placeOrder("lamp", "grace@example.com"))
    assert.strictEqual(refused._tag, "OutOfStock")
    assert.strictEqual(yield* Jobs.count({ scope: TenantScope.global, jobType: SendReceipt.jobType }), 1)
    assert.strictEqual((yield* sql`SELECT id FROM orders`).length, 1)
  })
)

example("worker: runs what is enqueued, with the services of its handlers", () =>
  Effect.gen(function* () {
    const sent = yield* Ref.make<ReadonlyArray<string>>([])
    const mailer = Layer.succeed(Mailer, {
      send: (to, subject) =>
        to.includes("@")
          ? Effect.as(
              Ref.update(sent, (before) => [...before, `${to}: ${subject}`]),
              "message-1"
            )
          : Effect.fail(new MailRefused({ address: to }))
    })
    yield* Effect.scoped(
      Effect.gen(function* () {
        yield* Layer.build(Layer.provide(Main, mailer))
        const good = yield* Jobs.enqueue(SendEmail, { to: "ada@example.com", subject: "Thanks" })
        const bad = yield* Jobs.enqueue(SendEmail, { to: "nobody", subject: "Thanks" })
        assert.deepStrictEqual((yield* ended(good.jobId)).output, Option.some({ messageId: "message-1" }))
        const refused = yield* ended(bad.jobId)
        assert.strictEqual(refused.status, "DEAD_LETTERED")
        assert.deepStrictEqual(refused.lastErrorCode, Option.some("mail.refused"))
        assert.deepStrictEqual(yield* Ref.get(sent), ["ada@example.com: Thanks"])
      })
    )
  })
)

example("exactly-once: rows and completion commit together", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`CREATE TABLE invoices (id integer PRIMARY KEY, total integer NOT NULL, charges integer NOT NULL DEFAULT 0)`
    yield* sql`INSERT INTO invoices (id, total) VALUES (1, 42)`
    yield* Effect.scoped(
      Effect.gen(function* () {
        yield* Layer.build(Layer.provide(Worker.layer({ ...quick, jobs: [Charge] }), ChargeLive))
        const { jobId } = yield* Jobs.enqueue(Charge, { invoiceId: 1 })
        const unknown = yield* Jobs.enqueue(Charge, { invoiceId: 2 })
        assert.deepStrictEqual((yield* ended(jobId)).output, Option.some({ total: 42 }))
        assert.deepStrictEqual((yield* ended(unknown.jobId)).lastErrorCode, Option.some("invoice.unknown"))
        assert.deepStrictEqual(yield* sql`SELECT charges FROM invoices`, [{ charges: 1 }])
      })
    )
  })
)

example("continuation: goes on from its checkpoint, a slice at a time", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`CREATE TABLE filled (id integer PRIMARY KEY)`
    yield* Effect.scoped(
      Effect.gen(function* () {
        yield* Layer.build(Layer.provide(Worker.layer({ ...quick, jobs: [Backfill] }), BackfillLive))
        const { jobId } = yield* Jobs.enqueue(Backfill, { last: 250 })
        const job = yield* ended(jobId)
        assert.deepStrictEqual(job.output, Option.some({ filled: 250 }))
        assert.strictEqual(job.runNumber, 3)
        assert.strictEqual((yield* sql`SELECT id FROM filled`).length, 250)
      })
    )
  })
)

example("retry-timing: by policy, by code, and not before what the handler says", () =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* Layer.build(Layer.provide(Worker.layer({ ...quick, jobs: [Sync] }), SyncLive))
      const failed = Effect.fnUntraced(function* (answer: "throttled" | "down" | "rejected") {
        const { jobId } = yield* Jobs.enqueue(Sync, { answer })
        const job = yield* until(jobId, ({ attempt, status }) => attempt === 1 && status !== "LEASED")
        const [attempt] = yield* Jobs.attempts(TenantScope.admin, jobId)
        const from =
          attempt === undefined
            ? 0
            : Option.match(attempt.finishedAt, { onNone: () => 0, onSome: DateTime.toEpochMillis })
        return { status: job.status, seconds: Math.round((DateTime.toEpochMillis(job.nextRunAt) - from) / 1000) }
      })
      assert.deepStrictEqual(yield* failed("down"), { status: "PENDING", seconds: 120 })
      assert.isAtLeast((yield* failed("throttled")).seconds, 1795)
      assert.strictEqual((yield* failed("rejected")).status, "DEAD_LETTERED")
    })
  )
)

example("retention: what ended goes when it is old, kind by kind, and the rest stays", () =>
  Effect.gen(function* () {
    yield* JobDefinitions.upsert("tidy")
    const { jobId } = yield* Jobs.enqueue("tidy", 1)
    yield* Jobs.cancel(TenantScope.admin, jobId)
    const { jobId: waiting } = yield* Jobs.enqueue("tidy", 1)
    assert.strictEqual(yield* Tidy.tidy(Tidy.ages), 0, "it is young")
    yield* Effect.sleep("2 millis")
    assert.isAtLeast(yield* Tidy.tidy({ ...Tidy.ages, canceled: 0 }), 1)
    assert.isTrue(Option.isNone(yield* Jobs.get(TenantScope.admin, jobId)))
    assert.isTrue(Option.isSome(yield* Jobs.get(TenantScope.admin, waiting)))
    yield* Effect.scoped(Layer.build(Tidy.Live))
  })
)

example("resources: two at once of one host, and ten a minute, whoever fetches", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const host = "example.com"
      yield* Resources.allow(host)
      const most = yield* Ref.make(0)
      const FetchLive = Resources.Fetch.toLayer(() =>
        Resources.atWork(host).pipe(
          Effect.tap((now) => Ref.update(most, (before) => Math.max(before, now))),
          Effect.andThen(Effect.sleep("5 millis")),
          Effect.orDie
        )
      )
      yield* Resources.fetchAll(
        host,
        Array.from({ length: 12 }, (_, n) => `/${n}`)
      )
      const counted = (status: Jobs.Status) => Jobs.count({ scope: TenantScope.admin, status })
      for (const workerId of ["one", "two"]) {
        yield* Layer.build(
          Layer.provide(Worker.layer({ ...quick, workerId, jobs: [Resources.Fetch], concurrency: 8 }), FetchLive)
        )
      }
      yield* counted("SUCCEEDED").pipe(
        Effect.filterOrFail((count) => count === 10),
        Effect.retry(Schedule.spaced("20 millis")),
        Effect.timeout("10 seconds")
      )
      assert.strictEqual(yield* Ref.get(most), 2)
      assert.strictEqual(yield* counted("PENDING"), 2, "they are for the next minute")
    })
  )
)

example("http-errors: each reason has its answer", () =>
  Effect.gen(function* () {
    const post = (month: string, key: string) => Effect.map(postExport(month, key), ({ status }) => status)
    assert.strictEqual(yield* post("2026-10", "a"), 202)
    assert.strictEqual(yield* post("2026-10", "a"), 200)
    assert.strictEqual(yield* post("2026-11", "a"), 409)
    assert.strictEqual(yield* post("2026-11", " "), 400)
    yield* JobDefinitions.upsert(Export.jobType, { isEnabled: false })
    assert.strictEqual(yield* post("2026-11", "b"), 503)
  })
)

example("test-double: the code under test needs no database, and the real layer enqueues", () =>
  Effect.gen(function* () {
    const asked = yield* Ref.make<ReadonlyArray<number>>([])
    assert.strictEqual(yield* Effect.provide(signUp(7), Later.layerTest(asked)), "user 7")
    assert.deepStrictEqual(yield* Ref.get(asked), [7])
    yield* Effect.provide(signUp(8), Later.layer)
    assert.strictEqual(yield* Jobs.count({ scope: TenantScope.global, jobType: Welcome.jobType }), 1)
  })
)

example("workflow: a fan-out is summed up, and the result comes with its type", () =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* Layer.build(
        Layer.provide(Worker.layer({ ...quick, jobs: [Price, Total] }), Layer.merge(PriceLive, TotalLive))
      )
      const cart = [
        { item: "lamp", pieces: 2 },
        { item: "chair", pieces: 1 }
      ]
      assert.deepStrictEqual(yield* totalOf("7", cart), { cents: 1300, currency: "EUR" })
      assert.deepStrictEqual(yield* totalOf("7", cart), { cents: 1300, currency: "EUR" })
      assert.strictEqual(yield* Workflows.count({ scope: TenantScope.global }), 1)
    })
  )
)

const statusesOf = (runId: Workflows.WorkflowRunId) =>
  Effect.map(Workflows.steps(TenantScope.global, runId), (steps) =>
    Object.fromEntries(steps.map(({ stepKey, status }) => [stepKey, status]))
  )

const runEnded = (runId: Workflows.WorkflowRunId) =>
  Workflows.get(TenantScope.global, runId).pipe(
    Effect.flatMap(Effect.fromOption),
    Effect.filterOrFail(
      (run) => run.isTerminal,
      (run) => new Error(`it is ${run.status}`)
    ),
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

example("workflow-gate: another process opens the gate, or withdraws the run", () =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* Layer.build(Layer.provide(Worker.layer({ ...quick, jobs: [Gate.Pay] }), Gate.PayLive))
      const runId = yield* Gate.request("r-1")
      assert.deepStrictEqual(yield* statusesOf(runId), { approval: "WAITING_FOR_EXTERNAL", pay: "BLOCKED" })
      yield* Gate.approve("r-1", runId, "ops")
      const run = Workflows.handle(Gate.refund("r-1"), TenantScope.global, runId)
      const result = yield* Workflows.awaitResult(run, { timeout: "10 seconds", pollInterval: "20 millis" })
      assert.deepStrictEqual(result, { paid: "r-1", approvedBy: "ops" })
      const other = yield* Gate.request("r-2")
      assert.strictEqual((yield* Gate.withdraw(other)).status, "CANCELED")
      assert.deepStrictEqual(yield* statusesOf(other), { approval: "CANCELED", pay: "CANCELED" })
      const late = yield* Effect.flip(Gate.approve("r-2", other, "ops"))
      assert.strictEqual(late.reason._tag, "ExternalCompletionConflict")
    })
  )
)

example("workflow-append: steps are appended while the gate is open", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const { Crawl, CrawlLive, Index, IndexLive } = Append
      yield* Layer.build(
        Layer.provide(Worker.layer({ ...quick, jobs: [Crawl, Index] }), Layer.merge(CrawlLive, IndexLive))
      )
      const { run } = yield* Workflows.enqueue(Append.crawlSite("example.com"))
      assert.strictEqual((yield* Append.found(run.id, "/a")).disposition, "inserted")
      assert.strictEqual((yield* Append.found(run.id, "/a")).disposition, "existing")
      yield* Append.allFound(run.id)
      assert.strictEqual((yield* runEnded(run.id)).status, "SUCCEEDED")
      assert.deepStrictEqual(yield* statusesOf(run.id), {
        "crawl /": "SUCCEEDED",
        "all found": "SUCCEEDED",
        index: "SUCCEEDED",
        "crawl /a": "SUCCEEDED"
      })
      const late = yield* Effect.flip(Append.found(run.id, "/b"))
      assert.strictEqual(late.reason.code, "workflow.append_window_not_open")
    })
  )
)

example("workflow-untyped: a plan becomes a run, and a cycle is named", () =>
  Effect.gen(function* () {
    yield* Untyped.declare(["shell"])
    const tasks = { fetch: { runs: "shell" }, build: { runs: "shell", after: ["fetch"] } }
    assert.strictEqual(yield* Untyped.submit({ name: "release", tasks }), "2 steps are under way")
    const ring = { ...tasks, fetch: { runs: "shell", after: ["build"] } }
    assert.match(
      yield* Untyped.submit({ name: "release", tasks: ring }),
      /^These wait for each other: (fetch, build|build, fetch)$/
    )
    assert.match(
      yield* Untyped.submit({ name: "release", tasks: { build: { runs: "shell", after: ["fetch"] } } }),
      /missing_dependency \(step build\) \(prerequisite fetch\)/
    )
    assert.strictEqual(yield* Workflows.count({ scope: TenantScope.global }), 1)
  })
)

example("recovery: what failed is sent, what was lost is sent again, and an address is put right", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    const { SendInvoice } = Recovery
    const { jobType } = SendInvoice
    yield* JobDefinitions.upsert(jobType)
    const claim = Jobs.claim({ workerId: "worker", types: [jobType], limit: 200 })
    yield* Jobs.enqueueMany(
      Array.from({ length: 150 }, (_, n) => Jobs.request(SendInvoice, { to: `${n}@example.com` }))
    )
    for (const { lease } of yield* claim) {
      yield* Jobs.completeFailure(lease, { kind: "TERMINAL", code: "smtp.down", message: "no answer" })
    }
    assert.strictEqual(yield* Recovery.redriveAll, 150)
    const [first, second] = yield* claim
    if (first === undefined || second === undefined) return yield* Effect.die("nothing was redriven")
    yield* Jobs.completeSuccess(first.lease, { output: { messageId: "message-1" } })
    yield* Jobs.completeFailure(second.lease, { kind: "TERMINAL", code: "address.unknown", message: "nobody there" })

    const failed = yield* ended(second.lease.jobId)
    assert.strictEqual(yield* Recovery.requeueOne(failed, "try once more"), "run 3 is due")
    assert.strictEqual(yield* Recovery.requeueOne(failed, "try once more"), "it is PENDING in run 3")
    assert.isTrue(yield* Recovery.correct(failed.id, "ada@example.com"))
    assert.deepStrictEqual(yield* Recovery.why(failed.id), ["the mail server is back", "try once more"])

    const sent = yield* ended(first.lease.jobId)
    const [once, twice] = yield* Effect.all([
      Recovery.sendAgain(sent, "ticket-1"),
      Recovery.sendAgain(sent, "ticket-1")
    ])
    if (once._tag !== "Replayed" || twice._tag !== "Replayed") return yield* Effect.die("it was not replayed")
    assert.strictEqual(once.replay.jobId, twice.replay.jobId)
    assert.deepStrictEqual(yield* Recovery.why(once.replay.jobId), ["the customer has lost the mail"])

    yield* Jobs.enqueue(SendInvoice, { to: "grace@example.com" }, { idempotencyKey: "order-1" })
    assert.deepStrictEqual(yield* Recovery.addressOf("order-1"), Option.some({ to: "grace@example.com" }))
    assert.deepStrictEqual(yield* sql`SELECT count(*)::integer AS replays FROM runledger.job_replays`, [{ replays: 1 }])
  })
)

example("intent: what was recorded before anybody knew its type runs when the type is there", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const sql = yield* SqlClient
      yield* sql`CREATE TABLE users (email text PRIMARY KEY)`
      const intentId = yield* Intent.signUp("ada@example.com")
      // the user is there already: nothing is recorded for the second
      yield* Effect.flip(Intent.signUp("ada@example.com"))
      assert.isTrue(Option.isNone(yield* JobDefinitions.get("crm.import")))
      yield* Layer.build(Intent.Main)
      const promoted = JobIntents.get(TenantScope.global, intentId).pipe(
        Effect.flatMap(Effect.fromOption),
        Effect.flatMap((intent) => Effect.fromOption(intent.promotedJobId)),
        Effect.retry(Schedule.spaced("20 millis")),
        Effect.timeout("10 seconds")
      )
      const job = yield* ended(yield* promoted)
      assert.deepStrictEqual(job.output, Option.some("contact of ada@example.com"))
      assert.strictEqual(yield* Jobs.count({ scope: TenantScope.admin }), 1)
    })
  )
)

example("health: a table of what was found, and a failure if something is wrong", () =>
  Effect.gen(function* () {
    assert.isTrue(yield* HealthExample.isAlive)
    const well = yield* HealthExample.program
    assert.match(HealthExample.table(well).join("\n"), /^ok {6}oldestRunnable .*Nothing is due$/m)
    yield* JobDefinitions.upsert("late")
    const now = yield* DateTime.now
    yield* Jobs.enqueue("late", 1, { runAt: DateTime.subtract(now, { hours: 9 }) })
    const { verdict } = yield* Effect.catchTag(HealthExample.program, "Unwell", Effect.succeed)
    assert.strictEqual(verdict, "fail")
  })
)

example("schedule: declared at start, fired for the time that was missed, paused and moved by an operator", () =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* Layer.build(Scheduled.Main)
      const isActive = Effect.map(
        Effect.flatMap(JobSchedules.get("report.nightly"), Effect.fromOption),
        (found) => found.isActive
      )
      assert.isTrue(yield* isActive)
      const missed = DateTime.makeUnsafe("2026-01-02T02:30:00Z")
      yield* JobSchedules.setNextFireAt("report.nightly", missed)
      // by this, or by the scheduler that has just begun
      yield* JobSchedules.fireDue()
      const { lastJobId } = yield* JobSchedules.get("report.nightly").pipe(
        Effect.flatMap(Effect.fromOption),
        Effect.repeat({ until: ({ lastJobId }) => Option.isSome(lastJobId) })
      )
      const job = yield* ended(Option.getOrThrow(lastJobId))
      assert.deepStrictEqual(job.output, Option.some({ sent: "2026-01-02 to ops@example.com" }))
      yield* Scheduled.holiday
      assert.isFalse(yield* isActive)
      // a restart does not end the holiday
      yield* Scheduled.declare
      assert.isFalse(yield* isActive)
      yield* Scheduled.backToWork
      assert.isTrue(yield* isActive)
    })
  )
)

example("catalog: declared at start, and asked before a deployment", () =>
  Effect.scoped(
    Effect.gen(function* () {
      yield* CatalogExample.mayShip
      yield* Layer.build(CatalogExample.Main)
      assert.isTrue(Option.isSome(yield* JobSchedules.get("month.close")))
      const old = yield* Jobs.enqueue(
        CatalogExample.SendInvoice.jobType,
        { to: "ada", euros: 7 },
        { payloadVersion: 1 }
      )
      assert.strictEqual((yield* ended(old.jobId)).status, "SUCCEEDED")
      yield* CatalogExample.mayShip
      yield* JobDefinitions.upsert("invoice.print")
      yield* Jobs.enqueue("invoice.print", {})
      assert.strictEqual((yield* Effect.flip(CatalogExample.mayShip))._tag, "Blocked")
    })
  )
)

example("metrics: what waits and what became of it, and a setting that holds from the next attempt on", () =>
  Effect.scoped(
    Effect.gen(function* () {
      const { Digest, DigestLive, overview, shorten } = Metrics
      yield* shorten(50)
      yield* Layer.build(Layer.provide(Worker.layer({ ...quick, jobs: [Digest] }), DigestLive))
      const sent = Effect.flatMap(Jobs.enqueue(Digest, { to: "ada@example.com" }), ({ jobId }) => ended(jobId))
      assert.deepStrictEqual((yield* sent).output, Option.some({ items: 50 }))
      yield* shorten(5)
      assert.deepStrictEqual((yield* sent).output, Option.some({ items: 5 }))
      assert.deepStrictEqual(yield* overview, ["digest.send: 0 due; 2 succeeded, 0 dead letters in the last hour"])
    })
  )
)
