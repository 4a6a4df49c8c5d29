import * as Net from "node:net"
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, Layer, Queue, Stream, Tracer } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import * as FaultySqlClient from "../src/testing/FaultySqlClient.ts"
import * as TestDatabase from "./support/TestDatabase.ts"

const {
  connectionClosed,
  delay,
  dropConnection,
  failAfter,
  failBefore,
  Faults,
  fromSeed,
  hang,
  makeGate,
  sqlState,
  waitAt
} = FaultySqlClient

/** A table of its own for each test. */
const makeTable = Effect.gen(function* () {
  const { unwrapped } = yield* Faults
  const name = `t_${crypto.randomUUID().replaceAll("-", "")}`
  yield* unwrapped`CREATE TABLE ${unwrapped(name)} (id int PRIMARY KEY)`
  const ids = Effect.map(unwrapped<{ id: number }>`SELECT id FROM ${unwrapped(name)} ORDER BY id`, (rows) =>
    rows.map((row) => row.id)
  )
  const insert = (id: number) => SqlClient.SqlClient.use((sql) => sql`INSERT INTO ${sql(name)} VALUES (${id})`)
  return { name, ids, insert }
})

const describeError = (error: unknown): string => {
  if (!SqlError.isSqlError(error)) return String(error)
  const { cause } = error.reason
  return `${error.reason._tag}${typeof cause === "object" && cause !== null && "code" in cause ? ` ${cause.code}` : ""}`
}

/** Every reason of an exit in one line: `Fail ConnectionError`, `Die UnknownError 57P01`. */
const outcome = <A, E>(exit: Exit.Exit<A, E>): string =>
  Exit.isSuccess(exit)
    ? "Success"
    : exit.cause.reasons
        .map((reason) =>
          Cause.isFailReason(reason)
            ? `Fail ${describeError(reason.error)}`
            : Cause.isDieReason(reason)
              ? `Die ${describeError(reason.defect)}`
              : "Interrupt"
        )
        .join(", ")

/** A client with one connection, which a fault would leave broken if the wrapper did not look after it. */
const onePool = (plan?: FaultySqlClient.Plan, options: Partial<PgClient.PgPoolConfig> = {}) =>
  FaultySqlClient.layerPg(plan).pipe(
    Layer.provide(
      Layer.unwrap(
        PgClient.PgClient.use((sql) => Effect.succeed(PgClient.layer({ ...sql.config, maxConnections: 1, ...options })))
      )
    )
  )

type Point = "BEGIN" | "INSERT" | "SAVEPOINT" | "RELEASE" | "ROLLBACK TO" | "COMMIT" | "ROLLBACK"

/** A transaction with a nested one that passes `point`. */
const passing = (
  point: Point,
  insert: (id: number) => Effect.Effect<unknown, SqlError.SqlError, SqlClient.SqlClient>
) =>
  SqlClient.SqlClient.use((sql) =>
    sql.withTransaction(
      Effect.gen(function* () {
        yield* insert(1)
        yield* sql.withTransaction(
          Effect.andThen(insert(2), point === "ROLLBACK TO" ? Effect.fail("inner" as const) : Effect.void)
        )
        if (point === "ROLLBACK") return yield* Effect.fail("outer" as const)
      })
    )
  )

const gone = "UnknownError 57P01"
const closed = "ConnectionError"

/** What each fault makes of the transaction of {@link passing}, whose rows are there only if its COMMIT was executed. */
const table: Record<Point, Record<"fail" | "dropBefore" | "dropAfter" | "delay", string>> = {
  BEGIN: { fail: `Fail ${closed}`, dropBefore: `Fail ${gone}`, dropAfter: `Fail ${closed}`, delay: "Success" },
  INSERT: {
    fail: `Fail ${closed}`,
    dropBefore: `Die ${gone}, Die ${gone}`,
    dropAfter: `Die ${closed}, Die ${gone}`,
    delay: "Success"
  },
  SAVEPOINT: {
    fail: `Fail ${closed}`,
    dropBefore: `Die ${gone}, Die ${gone}`,
    dropAfter: `Die ${closed}, Die ${gone}`,
    delay: "Success"
  },
  RELEASE: {
    fail: `Die ${closed}`,
    dropBefore: `Die ${gone}`,
    dropAfter: `Die ${closed}, Die ${gone}`,
    delay: "Success"
  },
  "ROLLBACK TO": {
    fail: `Die inner, Die ${closed}`,
    dropBefore: `Die inner, Die ${gone}`,
    dropAfter: `Die inner, Die ${closed}, Die ${gone}`,
    delay: "Fail inner"
  },
  COMMIT: { fail: `Fail ${closed}`, dropBefore: `Fail ${gone}`, dropAfter: `Fail ${closed}`, delay: "Success" },
  ROLLBACK: {
    fail: `Die outer, Die ${closed}`,
    dropBefore: `Die outer, Die ${gone}`,
    dropAfter: `Die outer, Die ${closed}`,
    delay: "Fail outer"
  }
}

const cases: ReadonlyArray<readonly [FaultySqlClient.Fault, keyof (typeof table)[Point]]> = [
  [failBefore(), "fail"],
  [failAfter(), "fail"],
  [hang(), "fail"],
  [hang("after"), "fail"],
  [delay("1 hour"), "delay"],
  [delay("1 hour", "after"), "delay"],
  [dropConnection("before"), "dropBefore"],
  [dropConnection("before", connectionClosed()), "dropAfter"],
  [dropConnection("after"), "dropAfter"]
]
const points = ["BEGIN", "INSERT", "SAVEPOINT", "RELEASE", "ROLLBACK TO", "COMMIT", "ROLLBACK"] as const

/** What the pool's connection says to a savepoint: an error, unless it was given back inside a transaction. */
const savepoint = Effect.flatMap(Faults, ({ unwrapped }) => Effect.map(Effect.exit(unwrapped`SAVEPOINT s`), outcome))

/** How many backends have this process id: 1 or 0. */
const alive = (pid: number | undefined) =>
  Effect.gen(function* () {
    const { unwrapped } = yield* Faults
    return (yield* unwrapped`SELECT FROM pg_stat_activity WHERE pid = ${pid}`).length
  })

it.layer(TestDatabase.layerEmpty, { timeout: "60 seconds" })("FaultySqlClient", (it) => {
  for (const point of points) {
    for (const [fault, expected] of cases) {
      const chosen = "error" in fault && fault.error !== undefined ? " with an error of choice" : ""
      it.effect(
        `${fault._tag} ${fault.at} ${point}${chosen}: the outcome, the rows, and a pool that is usable again`,
        () =>
          Effect.gen(function* () {
            const { insert, ids } = yield* makeTable
            const sql = yield* SqlClient.SqlClient
            const faults = yield* Faults
            const gate = yield* makeGate
            yield* gate.open
            yield* faults.arm([
              { match: point, fault: waitAt(gate, fault.at) },
              { match: point, fault }
            ])
            const fiber = yield* Effect.forkChild(Effect.exit(passing(point, insert)))
            yield* gate.reached
            if (fault._tag === "Hang") yield* faults.disarm
            if (fault._tag === "Delay") yield* TestClock.adjust("1 hour")

            assert.strictEqual(outcome(yield* Fiber.join(fiber)), table[point][expected])
            const committed =
              expected === "delay" ? table[point].delay === "Success" : point === "COMMIT" && fault.at === "after"
            assert.deepStrictEqual(yield* ids, committed ? [1, 2] : [])
            assert.deepStrictEqual(
              (yield* faults.injected).map((_) => [_.fault._tag, _.statement.operation]),
              [
                ["WaitAt", point],
                [fault._tag, point]
              ]
            )
            // the only connection of the pool was given back clean, or was replaced
            assert.strictEqual(yield* savepoint, "Fail UnknownError 25P01")
            yield* sql.withTransaction(insert(3))
            assert.deepStrictEqual(yield* ids, committed ? [1, 2, 3] : [3])
          }).pipe(Effect.provide(onePool()))
      )
    }
  }

  it.effect("a plain statement meets every fault too", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const faults = yield* Faults
      const run = (id: number, fault: FaultySqlClient.Fault) =>
        Effect.gen(function* () {
          const gate = yield* makeGate
          yield* gate.open
          yield* faults.arm([{ fault: waitAt(gate, fault.at) }, { fault }])
          const fiber = yield* Effect.forkChild(Effect.exit(insert(id)))
          yield* gate.reached
          if (fault._tag === "Hang") yield* faults.disarm
          if (fault._tag === "Delay") yield* TestClock.adjust("1 hour")
          return outcome(yield* Fiber.join(fiber))
        })
      const outcomes = yield* Effect.forEach(cases, ([fault], index) => run(index, fault))
      const fail = `Fail ${closed}`
      assert.deepStrictEqual(outcomes, [fail, fail, fail, fail, "Success", "Success", `Fail ${gone}`, fail, fail])
      assert.deepStrictEqual(yield* ids, [1, 3, 4, 5, 8])
    }).pipe(Effect.provide(onePool()))
  )

  it.effect("each step counts for itself: nth and times, by operation, pattern, predicate and span", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const failing = (plan: FaultySqlClient.Plan) =>
        Effect.gen(function* () {
          yield* faults.arm(plan)
          return yield* Effect.forEach(
            [
              sql`SELECT 1`,
              sql`SELECT 2`,
              sql`VALUES (3)`,
              sql` -- SELECT\n/* x */ SELECT 4`,
              sql`SELECT 5`,
              sql`select 6`
            ],
            (statement, index) =>
              Effect.match(Effect.withSpan(statement, `span ${index + 1}`), {
                onFailure: () => [index + 1],
                onSuccess: () => []
              })
          ).pipe(Effect.map((_) => _.flat()))
        })
      const fault = failBefore()
      assert.deepStrictEqual(yield* failing([]), [])
      assert.deepStrictEqual(yield* failing([{ fault }]), [1])
      assert.deepStrictEqual(yield* failing([{ nth: 4, fault }]), [4])
      assert.deepStrictEqual(yield* failing([{ match: "SELECT", nth: 3, fault }]), [4])
      assert.deepStrictEqual(yield* failing([{ match: "SELECT", nth: 2, times: 2, fault }]), [2, 4])
      assert.deepStrictEqual(yield* failing([{ match: "SELECT", nth: 4, times: Infinity, fault }]), [5, 6])
      assert.deepStrictEqual(yield* failing([{ match: /select \d/gi, nth: 5, fault }]), [6])
      assert.deepStrictEqual(yield* failing([{ match: "OTHER", fault }]), [3])
      assert.deepStrictEqual(yield* failing([{ match: (_) => _.spans.includes("span 5"), fault }]), [5])
      assert.deepStrictEqual(
        yield* failing([
          { match: "SELECT", nth: 2, fault },
          { nth: 2, fault },
          { nth: 5, fault }
        ]),
        [2, 5]
      )
      assert.strictEqual(yield* faults.count("SELECT"), 50)
      assert.strictEqual(yield* faults.count(/VALUES/), 10)
      yield* faults.clear
      assert.deepStrictEqual([yield* faults.statements, yield* faults.injected], [[], []])
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("transaction controls are known by what they do, whatever their spelling", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      yield* sql
        .withTransaction(sql`SELECT 1`)
        .pipe(Effect.provideService(SqlClient.BeginTransaction, "BEGIN ISOLATION LEVEL SERIALIZABLE"))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* sql.reserve
          for (const control of [
            "START TRANSACTION",
            "SAVEPOINT a",
            "ROLLBACK TO a",
            "rollback  to savepoint a",
            "END"
          ]) {
            yield* connection.executeUnprepared(control, [], undefined)
          }
          yield* connection.executeUnprepared("begin", [], undefined)
          yield* connection.executeUnprepared("ABORT", [], undefined)
        })
      )
      const statements = yield* faults.statements
      assert.deepStrictEqual(
        statements.map((_) => _.operation),
        ["BEGIN", "SELECT", "COMMIT", "BEGIN", "SAVEPOINT", "ROLLBACK TO", "ROLLBACK TO", "COMMIT", "BEGIN", "ROLLBACK"]
      )
      assert.strictEqual(new Set(statements.slice(3).map((_) => _.backend)).size, 1)
      assert.deepStrictEqual(
        statements.map((_) => _.index),
        statements.map((_, index) => index)
      )
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("a seed gives the nth statement the same fate in every run", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const run = (seed: string | number, options: Partial<FaultySqlClient.SeedOptions> = {}) =>
        Effect.gen(function* () {
          yield* faults.arm(
            fromSeed(seed, { rate: 0.3, faults: [failBefore(), failAfter(), delay(0), delay(0, "after")], ...options })
          )
          yield* faults.clear
          const [offset] = yield* Effect.map(faults.statements, (_) => [_.length])
          yield* Effect.forEach(Array.from({ length: 60 }), (_, index) =>
            Effect.ignore(index % 2 === 0 ? sql`SELECT ${index}::int4` : sql`VALUES (${index}::int4)`)
          )
          assert.strictEqual(offset, 0)
          return (yield* faults.injected).map(
            ({ fault, statement }) => `${fault._tag} ${fault.at} ${statement.params[0]}`
          )
        })
      const first = yield* run("a")
      assert.deepStrictEqual(yield* run("a"), first)
      assert.notDeepEqual(yield* run("b"), first)
      assert.notDeepEqual(yield* run(1), yield* run(2))
      assert.isAbove(first.length, 5)
      assert.isBelow(first.length, 40)
      assert.strictEqual(new Set(first.map((_) => _.replace(/ \d+$/, ""))).size, 4)
      assert.strictEqual((yield* run("a", { rate: 0 })).length, 0)
      assert.strictEqual((yield* run("a", { rate: 1 })).length, 60)
      assert.deepStrictEqual(yield* run("a", { limit: 3 }), first.slice(0, 3))
      assert.isTrue((yield* run("a", { rate: 1, match: "SELECT" })).every((_) => Number(_.split(" ")[2]) % 2 === 0))
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("a gate orders two connections: the second sees what the first has not committed, then the rows", () =>
    Effect.gen(function* () {
      const { insert, ids, name } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const gate = yield* makeGate
      yield* insert(1)
      yield* faults.arm([{ match: "COMMIT", fault: waitAt(gate) }])
      const order: Array<string> = []
      const done = (text: string) => sql.afterCommit(Effect.sync(() => order.push(text)))

      const first = yield* Effect.forkChild(
        sql.withTransaction(Effect.all([done("first"), insert(2), sql`UPDATE ${sql(name)} SET id = 10 WHERE id = 1`]))
      )
      yield* gate.reached
      assert.deepStrictEqual(yield* ids, [1])
      const free = yield* sql.withTransaction(
        Effect.andThen(done("second"), sql`SELECT id FROM ${sql(name)} FOR UPDATE SKIP LOCKED`)
      )
      assert.deepStrictEqual(free, [])
      yield* gate.open
      yield* Fiber.join(first)
      assert.deepStrictEqual(yield* ids, [2, 10])
      assert.deepStrictEqual(order, ["second", "first"])
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("gates after a statement make two transactions deadlock on purpose", () =>
    Effect.gen(function* () {
      const { insert, name } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      yield* Effect.all([insert(1), insert(2)])
      const [one, two] = [yield* makeGate, yield* makeGate]
      yield* faults.arm([
        { match: /FOR UPDATE/, nth: 1, fault: waitAt(one, "after") },
        { match: /FOR UPDATE/, nth: 2, fault: waitAt(two, "after") }
      ])
      const lock = (id: number) => sql`SELECT id FROM ${sql(name)} WHERE id = ${id} FOR UPDATE`
      const transaction = (...ids: ReadonlyArray<number>) =>
        Effect.forkChild(Effect.exit(sql.withTransaction(Effect.forEach(ids, lock))))
      const fibers = [yield* transaction(1, 2)]
      yield* one.reached
      fibers.push(yield* transaction(2, 1))
      yield* two.reached
      yield* Effect.all([one.open, two.open])
      const outcomes = yield* Effect.forEach(fibers, (fiber) => Effect.map(Fiber.join(fiber), outcome))
      assert.deepStrictEqual(outcomes.sort(), ["Fail DeadlockError 40P01", "Success"])
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("afterCommit runs once the transaction is committed and known to be", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const told: Array<number> = []
      const write = (id: number) =>
        Effect.exit(sql.withTransaction(Effect.andThen(insert(id), sql.afterCommit(Effect.sync(() => told.push(id))))))
      yield* write(1)
      yield* faults.arm([{ match: "COMMIT", fault: failBefore() }])
      yield* write(2)
      yield* faults.arm([{ match: "COMMIT", fault: failAfter() }])
      yield* write(3)
      assert.deepStrictEqual(told, [1])
      assert.deepStrictEqual(yield* ids, [1, 3])
    }).pipe(Effect.provide(onePool()))
  )

  it.effect("a dropped connection is gone: on the server, for the statements that follow, and not for the pool", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      yield* faults.arm([{ match: /SELECT 2/, fault: dropConnection("after") }])
      yield* Effect.scoped(
        Effect.gen(function* () {
          const connection = yield* sql.reserve
          const run = (text: string) => Effect.map(Effect.exit(connection.execute(text, [], undefined)), outcome)
          assert.strictEqual(yield* run("SELECT 1"), "Success")
          const backend = (yield* faults.statements)[0]?.backend
          assert.strictEqual(yield* alive(backend), 1)
          assert.strictEqual(yield* run("SELECT 2"), `Fail ${closed}`)
          assert.strictEqual(yield* alive(backend), 0)
          assert.strictEqual(yield* run("SELECT 3"), `Fail ${gone}`)
          assert.strictEqual(yield* run("ROLLBACK"), `Fail ${gone}`)
        })
      )
      assert.deepStrictEqual(yield* sql`SELECT 4 AS four`, [{ four: 4 }])
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("a drop needs no connection of a pool that is exhausted", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const exit = yield* Effect.exit(sql.withTransaction(insert(1)))
      assert.strictEqual(outcome(exit), `Fail ${closed}`)
      assert.deepStrictEqual(yield* ids, [1])
    }).pipe(Effect.provide(onePool([{ match: "COMMIT", fault: dropConnection("after") }])))
  )

  it.effect("a statement that hangs in the body of a transaction can be interrupted, and is rolled back", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const gate = yield* makeGate
      yield* gate.open
      yield* faults.arm([
        { match: "INSERT", fault: waitAt(gate, "after") },
        { match: "INSERT", fault: hang("after") }
      ])
      const fiber = yield* Effect.forkChild(sql.withTransaction(insert(1)))
      yield* gate.reached
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(outcome(yield* Fiber.await(fiber)), "Interrupt")
      assert.strictEqual(yield* faults.count("ROLLBACK"), 1)
      assert.deepStrictEqual(yield* ids, [])
    }).pipe(Effect.provide(onePool()))
  )

  it.effect("COMMIT of an aborted transaction is still an error", () =>
    Effect.gen(function* () {
      const aborted = SqlClient.SqlClient.use((sql) =>
        Effect.exit(sql.withTransaction(Effect.ignore(sql`SELECT 1 / 0`)))
      )
      const { unwrapped } = yield* Faults
      const real = yield* Effect.provideService(aborted, SqlClient.SqlClient, unwrapped)
      const wrapped = yield* aborted
      assert.isTrue(Exit.isFailure(wrapped))
      assert.deepStrictEqual(JSON.stringify(wrapped), JSON.stringify(real))
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("an error made from an SQLSTATE is the error the driver makes of it", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const shown = (error: SqlError.SqlError) => {
        const { _tag, cause, message, operation } = error.reason
        const constraint = error.reason._tag === "UniqueViolation" ? error.reason.constraint : undefined
        const { code, constraint: named, message: text, severity, severityUnlocalized } = Object(cause)
        return {
          _tag,
          message,
          operation,
          constraint,
          code,
          named,
          text,
          severity,
          severityUnlocalized,
          retry: error.isRetryable
        }
      }
      const states = "08006 28000 42501 42601 23505 23503 40P01 40001 55P03 57014 57P01 53300 25006 XX000 P0001".split(
        " "
      )
      yield* Effect.forEach(states, (code) =>
        Effect.gen(function* () {
          const real = yield* Effect.flip(
            sql.unsafe(`DO $$ BEGIN
              RAISE EXCEPTION 'injected ${code}' USING ERRCODE = '${code}', CONSTRAINT = 'a_constraint';
            END $$`)
          )
          assert.deepStrictEqual(shown(sqlState(code, { constraint: "a_constraint" })), shown(real))
        })
      )
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("the default error is the error of the driver for a connection lost while it waits for an answer", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { unwrapped } = yield* Faults
      const fiber = yield* Effect.forkChild(Effect.flip(sql`SELECT pg_sleep(60)`))
      yield* unwrapped`
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND query = 'SELECT pg_sleep(60)' AND state = 'active'
      `.pipe(Effect.repeat({ until: (rows) => rows.length === 1 }))
      const { _tag, cause, message, operation } = (yield* Fiber.join(fiber)).reason
      const injected = connectionClosed().reason
      assert.deepStrictEqual([_tag, message, operation], [injected._tag, injected.message, injected.operation])
      assert.deepStrictEqual(Object.entries(Object(cause)), Object.entries(Object(injected.cause)))
      assert.strictEqual(Object(cause).message, Object(injected.cause).message)
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("names are transformed as by the client itself, and faults strike with and without transforms", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const faults = yield* Faults
      const { unwrapped } = faults
      assert.deepStrictEqual(yield* sql`SELECT 1 AS foo_bar`, [{ fooBar: 1 }])
      assert.deepStrictEqual(yield* Stream.runCollect(sql`SELECT 1 AS foo_bar`.stream), [{ fooBar: 1 }])
      assert.deepStrictEqual(yield* sql`SELECT 1 AS foo_bar`.withoutTransform, [{ foo_bar: 1 }])
      assert.deepStrictEqual(yield* sql`SELECT 1 AS foo_bar`.unprepared, [{ fooBar: 1 }])
      assert.deepStrictEqual(yield* sql`SELECT 1 AS foo_bar`.values, [[1]])
      assert.deepStrictEqual(yield* sql`SELECT 1 AS foo_bar`.valuesUnprepared, [[1]])
      assert.deepStrictEqual(yield* sql.withTransaction(sql`SELECT 1 AS foo_bar`), [{ fooBar: 1 }])
      assert.deepStrictEqual(yield* sql`SELECT ${sql.json({ fooBar: 1 })} AS j`, [{ j: { fooBar: 1 } }])
      const plain = sql.withoutTransforms()
      assert.deepStrictEqual(yield* plain`SELECT 1 AS foo_bar`, [{ foo_bar: 1 }])
      assert.deepStrictEqual(yield* plain`SELECT ${plain.json({ fooBar: 1 })} AS j`, [{ j: { fooBar: 1 } }])
      assert.strictEqual(plain.withoutTransforms(), plain)

      const compiled = (client: SqlClient.SqlClient) => [
        client`INSERT INTO ${client("fooBar")} ${client.insert([{ aB: 1, c: 2 }])}`.compile(),
        client`UPDATE t SET ${client.update({ aB: 1 })} WHERE ${client.and([client`${client("aB")} = 1`, client.in("c", [1, 2])])}`.compile(),
        client`SELECT ${client("aB")}`.compile(true)
      ]
      assert.deepStrictEqual(compiled(sql), compiled(unwrapped))
      assert.deepStrictEqual(compiled(plain), compiled(unwrapped.withoutTransforms()))

      yield* faults.arm([{ match: "SELECT", times: 3, fault: failBefore() }])
      assert.strictEqual(outcome(yield* Effect.exit(sql`SELECT 1`)), `Fail ${closed}`)
      assert.strictEqual(outcome(yield* Effect.exit(plain`SELECT 1`)), `Fail ${closed}`)
      assert.strictEqual(outcome(yield* Effect.exit(plain.withTransaction(plain`SELECT 1`))), `Fail ${closed}`)
    }).pipe(
      Effect.provide(
        onePool([], {
          transformQueryNames: (_) => _.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
          transformResultNames: (_) => _.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase())
        })
      )
    )
  )

  it.effect("a stream fails before its first row, or after its last", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const faults = yield* Faults
      const rows = Effect.gen(function* () {
        const seen: Array<unknown> = []
        const exit = yield* Effect.exit(
          Stream.runForEach(sql`SELECT generate_series(1, 3) AS i`.stream, (row) => Effect.sync(() => seen.push(row.i)))
        )
        return [outcome(exit), seen]
      })
      for (const run of [rows, sql.withTransaction(rows)]) {
        yield* faults.arm([])
        assert.deepStrictEqual(yield* run, ["Success", [1, 2, 3]])
        yield* faults.arm([{ match: "SELECT", fault: failBefore() }])
        assert.deepStrictEqual(yield* run, [`Fail ${closed}`, []])
        yield* faults.arm([{ match: "SELECT", fault: failAfter() }])
        assert.deepStrictEqual(yield* run, [`Fail ${closed}`, [1, 2, 3]])
      }
    }).pipe(Effect.provide(onePool()))
  )

  it.effect("LISTEN and NOTIFY go through the wrapper", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      const faults = yield* Faults
      const inbox = yield* sql.listen("a channel")
      yield* faults.arm([{ match: /pg_notify/, fault: failBefore() }])
      assert.strictEqual(outcome(yield* Effect.exit(sql.notify("a channel", "lost"))), `Fail ${closed}`)
      yield* sql.notify("a channel", "sent")
      assert.strictEqual((yield* Queue.take(inbox)).payload, "sent")

      yield* faults.arm([
        { match: "LISTEN", fault: failBefore() },
        { match: "LISTEN", nth: 2, fault: dropConnection("after") }
      ])
      assert.strictEqual(outcome(yield* Effect.exit(sql.listen("another"))), `Fail ${closed}`)
      const dropped = yield* sql.listen("another")
      assert.strictEqual(outcome(yield* Effect.exit(Queue.take(dropped))), `Fail ${gone}`)
      const again = yield* sql.listen("another")
      yield* sql.notify("another", "heard")
      assert.strictEqual((yield* Queue.take(again)).payload, "heard")
      yield* sql.notify("a channel", "unharmed")
      assert.strictEqual((yield* Queue.take(inbox)).payload, "unharmed")
    }).pipe(Effect.scoped, Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("the wrapper is a client of its own: it does not join a transaction of the client it wraps", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const { unwrapped } = yield* Faults
      yield* Effect.ignore(unwrapped.withTransaction(Effect.andThen(insert(1), Effect.fail("rolled back"))))
      assert.deepStrictEqual(yield* ids, [1])
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("a LISTEN that failed holds no connection", () =>
    Effect.gen(function* () {
      const sql = yield* PgClient.PgClient
      assert.strictEqual(outcome(yield* Effect.exit(sql.listen("a"))), `Fail ${closed}`)
      const inbox = yield* sql.listen("a")
      assert.strictEqual(yield* Queue.size(inbox), 0)
      assert.strictEqual(yield* (yield* Faults).count("LISTEN"), 2)
    }).pipe(Effect.scoped, Effect.provide(onePool([{ match: "LISTEN", fault: failAfter() }])))
  )

  it.effect("a multiplex client pipelines plain statements through the wrapper", () => {
    const address = new URL(TestDatabase.url(""))
    let writes = 0
    const stream = () => {
      const socket = Net.connect({ host: address.hostname, port: Number(address.port), noDelay: true })
      const write = socket.write
      socket.write = (...args: ReadonlyArray<unknown>) => {
        writes++
        return Reflect.apply(write, socket, args)
      }
      return socket
    }
    const counted = <E, R>(self: Effect.Effect<unknown, E, R>) =>
      Effect.suspend(() => {
        writes = 0
        return Effect.map(self, () => writes)
      })
    return Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { unwrapped } = yield* Faults
      const burst = (client: SqlClient.SqlClient) =>
        Effect.forEach(Array.from({ length: 20 }), (_, index) => client`SELECT ${index}::int4`, {
          concurrency: "unbounded"
        })
      yield* burst(sql)
      assert.strictEqual(yield* counted(burst(sql)), yield* counted(burst(unwrapped)))
      assert.isBelow(yield* counted(burst(sql)), 5)
    }).pipe(Effect.provide(onePool([], { multiplex: true, stream })))
  })

  it.effect("spans carry what the client's own carry", () =>
    Effect.gen(function* () {
      const sql = yield* SqlClient.SqlClient
      const { unwrapped } = yield* Faults
      const traced = (client: SqlClient.SqlClient) =>
        Effect.gen(function* () {
          const spans: Array<Tracer.NativeSpan> = []
          const tracer = Tracer.make({
            span: (options) => {
              const span = new Tracer.NativeSpan(options)
              spans.push(span)
              return span
            }
          })
          yield* client`SELECT 1`.pipe(
            client.withTransaction,
            Effect.andThen(client`SELECT 2`),
            Effect.withTracer(tracer)
          )
          return spans.map((span) => ({ name: span.name, kind: span.kind, attributes: Array.from(span.attributes) }))
        })
      const own = yield* traced(unwrapped)
      assert.strictEqual(own.length, 3)
      assert.deepStrictEqual(yield* traced(sql), own)
    }).pipe(Effect.provide(FaultySqlClient.layerPg()))
  )

  it.effect("a connection that does not tell its process id is asked for it: a wrapper around a wrapper", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      const exit = yield* Effect.exit(sql.withTransaction(insert(1)))
      assert.strictEqual(outcome(exit), `Die ${closed}, Die ${gone}`)
      assert.deepStrictEqual(yield* ids, [])
    }).pipe(
      Effect.provide(
        FaultySqlClient.layerPg([{ match: "INSERT", fault: dropConnection("after") }]).pipe(
          Layer.provide(FaultySqlClient.layerPg())
        )
      )
    )
  )

  it.effect("any SqlClient of PostgreSQL will do", () =>
    Effect.gen(function* () {
      const { insert, ids } = yield* makeTable
      const sql = yield* SqlClient.SqlClient
      assert.strictEqual(sql.driver, "another")
      assert.strictEqual(outcome(yield* Effect.exit(sql.withTransaction(insert(1)))), `Fail ${closed}`)
      assert.deepStrictEqual(yield* ids, [1])
    }).pipe(
      Effect.provide(
        FaultySqlClient.layer([{ match: "COMMIT", fault: dropConnection("after") }]).pipe(
          Layer.provide(
            Layer.effect(
              SqlClient.SqlClient,
              PgClient.PgClient.use((pg) =>
                SqlClient.make({
                  acquirer: pg.reserve,
                  compiler: PgClient.makeCompiler(),
                  driver: "another",
                  spanAttributes: []
                })
              )
            )
          ),
          Layer.provide(Reactivity.layer)
        )
      )
    )
  )

  it.effect("layer puts the wrapped client under PgClient too, also when merged with what it wraps", () =>
    Effect.gen(function* () {
      const pg: SqlClient.SqlClient = yield* PgClient.PgClient
      assert.strictEqual(yield* SqlClient.SqlClient, pg)
      assert.notStrictEqual((yield* Faults).unwrapped, pg)
    }).pipe(
      Effect.provide(
        FaultySqlClient.layer().pipe(
          Layer.provideMerge(
            Layer.unwrap(PgClient.PgClient.use((sql) => Effect.succeed(PgClient.layer({ ...sql.config }))))
          )
        )
      )
    )
  )
})
