import { assert, it } from "@effect/vitest"
import { ConfigProvider, DateTime, Deferred, Effect, Fiber, Layer, Option, Queue, Ref, Schedule, Schema } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as Job from "../src/Job.ts"
import { JobExecution } from "../src/JobExecution.ts"
import * as JobLogs from "../src/JobLogs.ts"
import * as Jobs from "../src/Jobs.ts"
import * as Notifications from "../src/Notifications.ts"
import * as TenantScope from "../src/TenantScope.ts"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as Worker from "../src/Worker.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

class NotFound extends Schema.TaggedError<NotFound>("test/NotFound")("NotFound", { what: Schema.String }) {
  override get message() {
    return `${this.what} is not there`
  }
}

class Work extends Job.make("work", {
  payload: { n: Schema.Int },
  success: Schema.Struct({ doubled: Schema.Int }),
  error: NotFound,
  maxAttempts: 3,
  timeout: "30 seconds",
  retry: { initial: "1 millis", factor: 1, max: "1 millis", jitter: 0 }
}) {}

const quick: Worker.WorkerSettings = { pollInterval: "20 millis", lease: "3 seconds", drainTimeout: "2 seconds" }

/** Runs a worker in a scope of its own until the effect has ended. */
const whileWorking = <R, A, E, R2>(
  handlers: Layer.Layer<Job.Handles<"work">, never, R>,
  self: Effect.Effect<A, E, R2>,
  settings: Worker.WorkerSettings = {}
) =>
  Effect.scoped(
    Effect.andThen(
      Layer.build(Layer.provide(Layer.fresh(Worker.layer({ ...quick, ...settings, jobs: [Work] })), handlers)),
      self
    )
  )

const get = (jobId: Jobs.JobId) =>
  Effect.flatMap(Jobs.get(TenantScope.admin, jobId), (found) =>
    Option.match(found, { onNone: () => Effect.die(`no job ${jobId}`), onSome: Effect.succeed })
  )

/** The job once it is as asked, within ten seconds. */
const until = (jobId: Jobs.JobId, isSo: (job: Jobs.JobRecord) => boolean) =>
  Effect.filterOrFail(get(jobId), isSo, (job) => new Error(`it is ${job.status}, ${job.stage}`)).pipe(
    Effect.retry(Schedule.spaced("20 millis")),
    Effect.timeout("10 seconds")
  )

const ended = (jobId: Jobs.JobId) => until(jobId, (job) => job.isTerminal)

const attemptsOf = (jobId: Jobs.JobId) => Jobs.attempts(TenantScope.admin, jobId)

const never = <A>(began: Deferred.Deferred<void>): Effect.Effect<A> =>
  Effect.andThen(Deferred.succeed(began, undefined), Effect.never)

const test = (name: string, body: () => Effect.Effect<void, unknown, SqlClient>) =>
  it.live(name, () => Effect.provide(body(), TestDatabase.layer), 30_000)

test("runs what is enqueued, and stores what the handler returns", () =>
  whileWorking(
    Work.toLayer(({ n }) => Effect.succeed({ doubled: 2 * n })),
    Effect.gen(function* () {
      const enqueued = yield* Jobs.enqueueMany([1, 2, 3].map((n) => Jobs.request(Work, { n })))
      for (const [i, answer] of enqueued.entries()) {
        const job = yield* ended((yield* Effect.fromResult(answer)).jobId)
        assert.strictEqual(job.status, "SUCCEEDED")
        assert.deepStrictEqual(job.output, Option.some({ doubled: 2 * (i + 1) }))
      }
    })
  ))

test("a typed failure is retried under its tag, and ends in the dead letters; the hook is told", () =>
  Effect.gen(function* () {
    const told = yield* Deferred.make<Job.DeadLetter>()
    yield* whileWorking(
      Work.toLayer(
        () =>
          JobExecution.pipe(
            Effect.flatMap((job) => job.progress({ checkpoint: { attempt: job.lease.attempt } })),
            Effect.andThen(Effect.fail(new NotFound({ what: "it" })))
          ),
        { onDeadLetter: (letter) => Deferred.succeed(told, letter) }
      ),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        const job = yield* ended(jobId)
        assert.strictEqual(job.status, "DEAD_LETTERED")
        assert.deepStrictEqual(job.lastErrorCode, Option.some("NotFound"))
        assert.deepStrictEqual(job.lastErrorMessage, Option.some("it is not there"))
        const attempts = yield* attemptsOf(jobId)
        assert.deepStrictEqual(
          attempts.map((attempt) => Option.getOrNull(attempt.outcome)),
          ["RETRYABLE", "RETRYABLE", "RETRYABLE"]
        )
        const letter = yield* Effect.timeout(Deferred.await(told), "5 seconds")
        assert.strictEqual(letter.jobId, jobId)
        assert.strictEqual(letter.code, "NotFound")
        assert.strictEqual(letter.reason, "ATTEMPTS_EXHAUSTED")
        assert.deepStrictEqual(letter.checkpoint, { attempt: 3 })
      })
    )
  }))

test("a defect is not retried, and does not take the worker along", () =>
  whileWorking(
    Work.toLayer(({ n }) => (n === 0 ? Effect.die(new Error("boom")) : Effect.succeed({ doubled: 2 * n }))),
    Effect.gen(function* () {
      const bad = yield* Jobs.enqueue(Work, { n: 0 })
      const job = yield* ended(bad.jobId)
      assert.deepStrictEqual(job.lastErrorCode, Option.some("job.handler_panic"))
      assert.deepStrictEqual(job.lastErrorMessage, Option.some("Error: boom"))
      assert.strictEqual((yield* attemptsOf(bad.jobId)).length, 1)
      const good = yield* Jobs.enqueue(Work, { n: 1 })
      assert.strictEqual((yield* ended(good.jobId)).status, "SUCCEEDED")
    })
  ))

test("a payload that does not match the contract ends in the dead letters", () =>
  whileWorking(
    Work.toLayer(({ n }) => Effect.succeed({ doubled: 2 * n })),
    Effect.gen(function* () {
      yield* Jobs.enqueue(Work, { n: 1 })
      const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
      yield* ended(jobId)
      const untyped = yield* Effect.retry(Jobs.enqueue("work", { n: "secret" }), Schedule.recurs(3))
      const job = yield* ended(untyped.jobId)
      assert.deepStrictEqual(job.lastErrorCode, Option.some("job.invalid_payload"))
      assert.notInclude(
        Option.getOrElse(job.lastErrorMessage, () => ""),
        "secret"
      )
    })
  ))

test("a handler's lower bound delays the retry", () =>
  Effect.gen(function* () {
    const at = DateTime.addDuration(yield* DateTime.now, "2 hours")
    yield* whileWorking(
      Work.toLayer(() =>
        Effect.fail(new Job.JobFailure({ code: "throttled", message: "later", retryNotBefore: { at } }))
      ),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        const job = yield* until(jobId, ({ status, attempt }) => status === "PENDING" && attempt === 1)
        assert.strictEqual(DateTime.toEpochMillis(job.nextRunAt), DateTime.toEpochMillis(at))
      })
    )
  }))

test("a handler that runs into its timeout is interrupted, and retried", () =>
  Effect.gen(function* () {
    const interrupted = yield* Deferred.make<void>()
    yield* whileWorking(
      Work.toLayer(() => Effect.onInterrupt(Effect.never, () => Deferred.succeed(interrupted, undefined))),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 }, { timeout: "1 second", maxAttempts: 1 })
        const job = yield* ended(jobId)
        assert.deepStrictEqual(job.lastErrorCode, Option.some("job.timeout_exceeded"))
        assert.isTrue(yield* Deferred.isDone(interrupted))
      })
    )
  }))

test("a continuation goes on in a new run, from its checkpoint", () =>
  whileWorking(
    Work.toLayer(
      Effect.fnUntraced(function* ({ n }) {
        const job = yield* JobExecution
        const page = Option.getOrElse(yield* job.checkpointAs(Schema.Int), () => 0)
        if (page < n) return yield* job.continueAfter(0, { checkpoint: page + 1, done: page + 1, total: n })
        return { doubled: page * 2 }
      })
    ),
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(Work, { n: 3 })
      const job = yield* ended(jobId)
      assert.deepStrictEqual(job.output, Option.some({ doubled: 6 }))
      assert.strictEqual(job.runNumber, 4)
    })
  ))

test("progress and what the handler logs are kept, also of an attempt that fails", () =>
  whileWorking(
    Work.toLayer(
      Effect.fnUntraced(function* () {
        const job = yield* JobExecution
        yield* job.progress({ done: 1, total: 2, checkpoint: { page: 1 } })
        yield* Effect.logInfo("half way", { page: 1 })
        yield* Effect.logDebug("not kept")
        return yield* new NotFound({ what: "the rest" })
      })
    ),
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(Work, { n: 1 }, { maxAttempts: 1 })
      const job = yield* ended(jobId)
      assert.deepStrictEqual(job.progressDone, Option.some(1))
      const logs = yield* JobLogs.list(TenantScope.admin, jobId)
      assert.deepStrictEqual(
        logs.map(({ level, attempt }) => [level, Option.getOrNull(attempt)]),
        [["INFO", 1]]
      )
      assert.include(logs[0]?.message ?? "", "half way")
    })
  ))

test("progress does not join a transaction of the handler", () =>
  whileWorking(
    Work.toLayer(
      Effect.fnUntraced(function* () {
        const job = yield* JobExecution
        const sql = yield* SqlClient
        yield* Effect.ignore(sql.withTransaction(Effect.andThen(job.progress({ done: 1 }), Effect.fail("rolled back"))))
        return { doubled: 0 }
      })
    ),
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
      assert.deepStrictEqual((yield* ended(jobId)).progressDone, Option.some(1))
    })
  ))

test("a job that completes itself commits with the handler's rows, once", () =>
  Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`CREATE TABLE charges (n integer NOT NULL)`
    yield* whileWorking(
      Work.toLayer(
        Effect.fnUntraced(function* ({ n }) {
          const job = yield* JobExecution
          return yield* sql
            .withTransaction(
              Effect.gen(function* () {
                yield* sql`INSERT INTO charges (n) VALUES (${n})`
                const output = yield* job.complete({ doubled: 2 * n })
                const again = yield* Effect.match(job.complete({ doubled: 0 }), {
                  onFailure: ({ code }) => code,
                  onSuccess: () => "completed"
                })
                assert.strictEqual(again, "job.completion_pending")
                return output
              })
            )
            .pipe(Effect.catchTag("SqlError", (error) => Effect.die(error)))
        })
      ),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 21 })
        const job = yield* ended(jobId)
        assert.deepStrictEqual(job.output, Option.some({ doubled: 42 }))
        assert.strictEqual((yield* attemptsOf(jobId)).length, 1)
        assert.strictEqual((yield* sql`SELECT n FROM charges`).length, 1)
      })
    )
  }))

test("a completion that is rolled back is not one: the worker stores how the handler ended", () =>
  whileWorking(
    Work.toLayer(
      Effect.fnUntraced(function* ({ n }) {
        const job = yield* JobExecution
        const sql = yield* SqlClient
        const isFirst = job.lease.attempt === 1
        return yield* sql
          .withTransaction(
            Effect.gen(function* () {
              const output = yield* job.complete({ doubled: 2 * n })
              if (isFirst) return yield* new NotFound({ what: "the end" })
              return output
            })
          )
          .pipe(Effect.catchTag("SqlError", (error) => Effect.die(error)))
      })
    ),
    Effect.gen(function* () {
      const { jobId } = yield* Jobs.enqueue(Work, { n: 21 })
      const job = yield* ended(jobId)
      assert.strictEqual(job.status, "SUCCEEDED")
      const attempts = yield* attemptsOf(jobId)
      assert.deepStrictEqual(
        attempts.map(({ endedAs }) => Option.getOrNull(endedAs)),
        ["FAILED", "SUCCEEDED"]
      )
    })
  ))

test("cancellation interrupts the handler within a heartbeat", () =>
  Effect.gen(function* () {
    const began = yield* Deferred.make<void>()
    const interrupted = yield* Deferred.make<void>()
    yield* whileWorking(
      Work.toLayer(() => Effect.onInterrupt(never(began), () => Deferred.succeed(interrupted, undefined))),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        yield* Deferred.await(began)
        yield* Jobs.cancel(TenantScope.admin, jobId, { reason: "withdrawn" })
        yield* Effect.timeout(Deferred.await(interrupted), "5 seconds")
        assert.strictEqual((yield* get(jobId)).status, "CANCELED")
      })
    )
  }))

test("cancellation interrupts at once when listening", () =>
  Effect.gen(function* () {
    const began = yield* Deferred.make<void>()
    const interrupted = yield* Deferred.make<void>()
    yield* whileWorking(
      Work.toLayer(() => Effect.onInterrupt(never(began), () => Deferred.succeed(interrupted, undefined))),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        yield* Deferred.await(began)
        yield* Jobs.cancel(TenantScope.admin, jobId)
        // a heartbeat would come after twenty seconds only
        yield* Effect.timeout(Deferred.await(interrupted), "5 seconds")
      }),
      { lease: "60 seconds" }
    ).pipe(Effect.provide(Notifications.layer))
  }))

test("leases are renewed for as long as the handler works", () =>
  Effect.gen(function* () {
    const release = yield* Deferred.make<void>()
    yield* whileWorking(
      Work.toLayer(() => Effect.as(Deferred.await(release), { doubled: 0 })),
      Effect.gen(function* () {
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        const first = yield* until(jobId, ({ status }) => status === "LEASED")
        const later = yield* until(
          jobId,
          ({ leaseExpiresAt }) =>
            Option.isSome(leaseExpiresAt) &&
            Option.isSome(first.leaseExpiresAt) &&
            DateTime.isGreaterThan(leaseExpiresAt.value, first.leaseExpiresAt.value)
        )
        assert.strictEqual(later.attempt, 1)
        yield* Deferred.succeed(release, undefined)
        assert.strictEqual((yield* ended(jobId)).status, "SUCCEEDED")
      })
    )
  }))

test("the trace of the caller that enqueued goes on in the handler", () =>
  Effect.gen(function* () {
    const seen = yield* Deferred.make<string>()
    yield* whileWorking(
      Work.toLayer(() =>
        Effect.as(
          Effect.flatMap(Effect.orDie(Effect.currentSpan), ({ traceId }) => Deferred.succeed(seen, traceId)),
          { doubled: 0 }
        )
      ),
      Effect.gen(function* () {
        const { traceId } = yield* Effect.currentSpan
        const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
        yield* ended(jobId)
        assert.strictEqual(yield* Deferred.await(seen), traceId)
      }).pipe(Effect.withSpan("request"))
    )
  }))

it.live(
  "leases are renewed also where the session's default isolation is another",
  () =>
    Effect.gen(function* () {
      const release = yield* Deferred.make<void>()
      yield* whileWorking(
        Work.toLayer(() => Effect.as(Deferred.await(release), { doubled: 0 })),
        Effect.gen(function* () {
          const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
          const first = yield* until(jobId, ({ status }) => status === "LEASED")
          yield* until(
            jobId,
            ({ leaseExpiresAt }) =>
              Option.isSome(leaseExpiresAt) &&
              Option.isSome(first.leaseExpiresAt) &&
              DateTime.isGreaterThan(leaseExpiresAt.value, first.leaseExpiresAt.value)
          )
          yield* Deferred.succeed(release, undefined)
          assert.strictEqual((yield* ended(jobId)).status, "SUCCEEDED")
        })
      )
    }).pipe(
      Effect.provide(
        TestDatabase.layerWith({ startupParameters: { default_transaction_isolation: "repeatable read" } })
      )
    ),
  30_000
)

test("never runs more at once than its slots", () =>
  Effect.gen(function* () {
    const now = yield* Ref.make(0)
    const most = yield* Ref.make(0)
    yield* whileWorking(
      Work.toLayer(() =>
        Effect.gen(function* () {
          const count = yield* Ref.updateAndGet(now, (n) => n + 1)
          yield* Ref.update(most, (n) => Math.max(n, count))
          yield* Effect.yieldNow
          yield* Effect.sleep(5)
          yield* Ref.update(now, (n) => n - 1)
          return { doubled: 0 }
        })
      ),
      Effect.gen(function* () {
        const answers = yield* Jobs.enqueueMany(Array.from({ length: 40 }, (_, n) => Jobs.request(Work, { n })))
        for (const answer of answers) yield* ended((yield* Effect.fromResult(answer)).jobId)
      }),
      { concurrency: 3 }
    )
    assert.strictEqual(yield* Ref.get(most), 3)
  }))

test("closing the scope lets a job end that ends in time", () =>
  Effect.gen(function* () {
    const began = yield* Deferred.make<void>()
    const release = yield* Deferred.make<void>()
    const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
    const closing = yield* whileWorking(
      Work.toLayer(() =>
        Effect.andThen(Deferred.succeed(began, undefined), Effect.as(Deferred.await(release), { doubled: 0 }))
      ),
      Deferred.await(began)
    ).pipe(Effect.forkChild)
    yield* Deferred.await(began)
    yield* Effect.forkChild(Effect.andThen(Effect.sleep(100), Deferred.succeed(release, undefined)))
    yield* Effect.timeout(Fiber.await(closing), "10 seconds")
    assert.strictEqual((yield* get(jobId)).status, "SUCCEEDED")
  }))

test("a job that does not end in time is interrupted, and due at once for another worker", () =>
  Effect.gen(function* () {
    const began = yield* Deferred.make<void>()
    const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
    yield* whileWorking(
      Work.toLayer(() => never(began)),
      Deferred.await(began),
      { drainTimeout: 50 }
    )
    const job = yield* get(jobId)
    assert.strictEqual(job.status, "PENDING")
    assert.deepStrictEqual(job.lastErrorCode, Option.some("job.worker_shutdown"))
    const [attempt] = yield* attemptsOf(jobId)
    assert.deepStrictEqual(attempt?.retryDelayMillis, Option.some(0))
    const [again] = yield* Jobs.claim({ workerId: "another", types: ["work"], limit: 1 })
    assert.strictEqual(again?.lease.jobId, jobId)
  }))

it.live(
  "claims, completions and heartbeats that fail for a while lose nothing",
  () =>
    Effect.gen(function* () {
      yield* whileWorking(
        Work.toLayer(({ n }) => Effect.as(Effect.sleep(30), { doubled: 2 * n })),
        Effect.gen(function* () {
          const answers = yield* Jobs.enqueueMany(Array.from({ length: 20 }, (_, n) => Jobs.request(Work, { n })))
          for (const answer of answers) {
            const job = yield* ended((yield* Effect.fromResult(answer)).jobId)
            assert.strictEqual(job.status, "SUCCEEDED")
            assert.strictEqual(job.attempt, 1)
          }
        }),
        { concurrency: 4 }
      )
    }).pipe(
      Effect.provide(
        FaultySqlClient.layer([
          { match: /claimed AS/, times: 3, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState("57P01")) },
          { match: /'SUCCEEDED'/, times: 3, fault: FaultySqlClient.failBefore(FaultySqlClient.sqlState("53300")) }
        ])
      ),
      Effect.provide(TestDatabase.layer)
    ),
  30_000
)

it.live("a bad setting is a failure of the layer that names it", () =>
  Effect.gen(function* () {
    const handlers = Work.toLayer(() => Effect.succeed({ doubled: 0 }))
    const refused = (settings: Worker.WorkerSettings) =>
      Effect.map(
        Effect.flip(Effect.scoped(Layer.build(Layer.provide(Worker.layer({ ...settings, jobs: [Work] }), handlers)))),
        (error) => ("argument" in error ? error.argument : error)
      )
    assert.strictEqual(yield* refused({ concurrency: 0 }), "concurrency")
    assert.strictEqual(yield* refused({ prefetch: -1 }), "prefetch")
    assert.strictEqual(yield* refused({ prefetch: 1001 }), "prefetch")
    assert.strictEqual(yield* refused({ claimBatchSize: 1001 }), "claimBatchSize")
    assert.strictEqual(yield* refused({ workerId: " " }), "workerId")
    assert.strictEqual(yield* refused({ pollInterval: 0 }), "pollInterval")
    assert.strictEqual(yield* refused({ lease: "999 millis" }), "lease")
    assert.strictEqual(yield* refused({ drainTimeout: "Infinity" }), "drainTimeout")
  }).pipe(Effect.provide(TestDatabase.layer))
)

it.live("layerConfig: variables are the settings that are not given; a bad one is not replaced", () =>
  Effect.gen(function* () {
    const handlers = Work.toLayer(() => Effect.succeed({ doubled: 0 }))
    const build = (env: Record<string, string>, settings: Worker.WorkerSettings = {}) =>
      Layer.build(Layer.provide(Layer.fresh(Worker.layerConfig({ ...settings, jobs: [Work] })), handlers)).pipe(
        Effect.scoped,
        Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env }))
      )
    const refused = (variable: string, value: string) =>
      Effect.map(Effect.flip(build({ [variable]: value })), (error) =>
        error._tag === "InvalidArgument" ? error.argument : error._tag
      )
    const variables = [
      ["JOBS_MAX_GLOBAL_CONCURRENCY", "0", "concurrency"],
      ["JOBS_CLAIM_BATCH_SIZE", "1001", "claimBatchSize"],
      ["JOBS_POLL_INTERVAL_MS", "0", "pollInterval"],
      ["JOBS_LEASE_TTL_SECONDS", "0", "lease"]
    ] as const
    for (const [variable, outOfRange, argument] of variables) {
      assert.strictEqual(yield* refused(variable, outOfRange), argument)
      for (const unparsed of ["many", "1.5"]) {
        assert.strictEqual(yield* refused(variable, unparsed), "ConfigError", `${variable}=${unparsed}`)
      }
    }
    assert.strictEqual(yield* refused("JOBS_WORKER_ID", "w".repeat(256)), "workerId")
    yield* build({ JOBS_WORKER_ID: " " })
    // what is given is not read
    yield* build(Object.fromEntries(variables.map(([variable]) => [variable, "bad"])), {
      concurrency: 1,
      claimBatchSize: 1,
      pollInterval: 1,
      lease: "1 second"
    })
  }).pipe(Effect.provide(TestDatabase.layer))
)

test("layerConfig: the worker works as its variables say", () =>
  Effect.gen(function* () {
    const began = yield* Queue.unbounded<Job.Lease>()
    const handlers = Work.toLayer(() =>
      JobExecution.pipe(
        Effect.flatMap(({ lease }) => Queue.offer(began, lease)),
        Effect.andThen(Effect.never)
      )
    )
    const started = (settings: Worker.WorkerSettings, env: Record<string, string>) =>
      Effect.scoped(
        Effect.gen(function* () {
          const { jobId } = yield* Jobs.enqueue(Work, { n: 1 })
          yield* Layer.build(
            Layer.provide(Layer.fresh(Worker.layerConfig({ drainTimeout: 0, ...settings, jobs: [Work] })), handlers)
          ).pipe(Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnv({ env })))
          const { workerId } = yield* Queue.take(began)
          const { leaseExpiresAt, lastHeartbeatAt } = yield* get(jobId)
          const lasts = Option.zipWith(
            leaseExpiresAt,
            lastHeartbeatAt,
            (end, from) => DateTime.toEpochMillis(end) - DateTime.toEpochMillis(from)
          )
          yield* Jobs.cancel(TenantScope.admin, jobId)
          return { workerId, lasts: Option.getOrUndefined(lasts) }
        })
      )
    const env = { JOBS_WORKER_ID: "by-variable", JOBS_LEASE_TTL_SECONDS: "7" }
    assert.deepStrictEqual(yield* started({}, env), { workerId: "by-variable", lasts: 7000 })
    assert.deepStrictEqual(yield* started({ workerId: "given", lease: "8 seconds" }, env), {
      workerId: "given",
      lasts: 8000
    })
  }))
