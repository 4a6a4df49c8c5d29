/**
 * A `SqlClient` that fails on purpose: at a chosen statement, in a chosen way, as often as a test wants.
 *
 * **Details**
 *
 * {@link layer} wraps the client it is built on. Every statement passes the wrapper, the transaction controls `BEGIN`,
 * `COMMIT`, `ROLLBACK`, `SAVEPOINT` and `RELEASE` included. What happens to it is a {@link Plan}: a script of steps, or
 * a seed from which each statement's fate is drawn. {@link Faults} is the handle of the running test: it arms and
 * disarms plans and tells which statements passed and which faults were injected.
 *
 * A plain statement without a fault goes through the wrapped client as it would without the wrapper, so a `multiplex`
 * client still writes the statements of several fibers in one batch. A plain statement with a fault first takes a
 * connection of its own (`reserve`), so that what happens to it happens to nobody else.
 *
 * A transaction that a fault leaves open (a `COMMIT` that was not executed, a `BEGIN` that was) is rolled back when its
 * connection goes back to the pool, as the server does when it loses the client.
 *
 * **Gotchas**
 *
 * Transaction controls run uninterruptibly, as they do without the wrapper: a `COMMIT` that hangs cannot be
 * interrupted. `Faults.disarm` ends it with a connection error.
 *
 * `failBefore` and `failAfter` leave the connection alive, so a `ROLLBACK` that follows succeeds. Use `dropConnection`
 * to see what becomes of a transaction whose connection is gone.
 *
 * **Example** (A commit whose answer is lost)
 *
 * ```ts
 * import * as Effect from "effect/Effect"
 * import { SqlClient } from "effect/sql/SqlClient"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const test = Effect.gen(function*() {
 *   const sql = yield* SqlClient
 *   const faults = yield* FaultySqlClient.Faults
 *   yield* faults.arm([{ match: "COMMIT", fault: FaultySqlClient.failAfter() }])
 *   // fails with a ConnectionError, and the row is there
 *   return yield* Effect.exit(sql.withTransaction(sql`INSERT INTO t (id) VALUES (1)`))
 * })
 * ```
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as PgConnection from "@effect/sql-pg/PgConnection"
import type { ErrorFields } from "@effect/sql-pg/PgProtocol"
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Tracer from "effect/Tracer"

// ---------------------------------------------------------------------------------------------------------------------
// What a statement is known by
// ---------------------------------------------------------------------------------------------------------------------

const operations = [
  "BEGIN",
  "COMMIT",
  "ROLLBACK",
  "ROLLBACK TO",
  "SAVEPOINT",
  "RELEASE",
  "SELECT",
  "INSERT",
  "UPDATE",
  "DELETE",
  "MERGE",
  "WITH",
  "SET",
  "LISTEN"
] as const

/**
 * What a statement does, by its first word. `START TRANSACTION` is a `BEGIN`, `END` a `COMMIT`, `ABORT` a `ROLLBACK`;
 * a statement that begins otherwise is `OTHER`.
 */
export type Operation = (typeof operations)[number] | "OTHER"

/** One statement on its way to the database. */
export interface SeenStatement {
  /** Its place among all statements seen, counted from 0. */
  readonly index: number
  readonly operation: Operation
  readonly sql: string
  readonly params: ReadonlyArray<unknown>
  /** How the client sends it. */
  readonly method: keyof Connection | "listen"
  /** Process id of the server's backend, for a statement on a reserved connection: every statement of a transaction. */
  readonly backend: number | undefined
  /** Names of the spans around it, innermost first: `["Jobs.claim"]`. */
  readonly spans: ReadonlyArray<string>
}

/**
 * Selects statements: by operation, by a pattern somewhere in their text, or by a predicate.
 *
 * **Example** (Three ways to meet the insert of one operation)
 *
 * ```ts
 * import type { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const matches: ReadonlyArray<FaultySqlClient.Match> = [
 *   "INSERT",
 *   /INSERT INTO runledger\.job_queue/,
 *   (statement) => statement.spans.includes("Jobs.enqueue")
 * ]
 * ```
 */
export type Match = Operation | RegExp | ((statement: SeenStatement) => boolean)

const synonyms: Readonly<Record<string, Operation>> = { START: "BEGIN", END: "COMMIT", ABORT: "ROLLBACK" }

const leadingWords = /^(?:\s|--[^\n]*(?:\n|$)|\/\*[\s\S]*?\*\/)*([a-z]+)(?:\s+(to)\b)?/i

const operationOf = (sql: string): Operation => {
  const [, verb = "", to] = leadingWords.exec(sql.slice(0, 1000)) ?? []
  const word = verb.toUpperCase()
  if (word === "ROLLBACK" && to !== undefined) return "ROLLBACK TO"
  return operations.find((operation) => operation === word) ?? synonyms[word] ?? "OTHER"
}

const matches = (match: Match | undefined, statement: SeenStatement): boolean =>
  match === undefined
    ? true
    : typeof match === "string"
      ? statement.operation === match
      : typeof match === "function"
        ? match(statement)
        : statement.sql.search(match) !== -1

// ---------------------------------------------------------------------------------------------------------------------
// Errors as the driver makes them
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The error the PostgreSQL driver gives to a statement whose connection closed under it: a `ConnectionError` of
 * operation `query` without an SQLSTATE. It does not tell whether the server executed the statement.
 */
export const connectionClosed = (): SqlError.SqlError =>
  new SqlError.SqlError({
    reason: new SqlError.ConnectionError({
      cause: new Error("Connection closed"),
      message: "PgConnection: Connection closed",
      operation: "query"
    })
  })

/**
 * The error the PostgreSQL driver makes of a server's answer with this SQLSTATE: same reason, message and operation,
 * the answer's fields on `reason.cause`.
 *
 * **Example** (A serialization failure)
 *
 * ```ts
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const fault = FaultySqlClient.failBefore(FaultySqlClient.sqlState("40001"))
 * ```
 */
export const sqlState = (code: string, fields?: Omit<ErrorFields, "code">): SqlError.SqlError => {
  const severity = fields?.severity ?? "ERROR"
  const message = fields?.message ?? `injected ${code}`
  const cause = Object.assign(new Error(message), { severity, severityUnlocalized: severity, ...fields, code, message })
  const props = { cause, message: "PgConnection: Query failed", operation: "query" }
  return new SqlError.SqlError({ reason: reasonOf(code, fields?.constraint, props) })
}

const reasonOf = (
  code: string,
  constraint: string | undefined,
  props: { readonly cause: unknown; readonly message: string; readonly operation: string }
): SqlError.SqlErrorReason => {
  if (code.startsWith("08")) return new SqlError.ConnectionError(props)
  if (code.startsWith("28")) return new SqlError.AuthenticationError(props)
  if (code === "42501") return new SqlError.AuthorizationError(props)
  if (code.startsWith("42")) return new SqlError.SqlSyntaxError(props)
  if (code === "23505") return new SqlError.UniqueViolation({ ...props, constraint: constraint ?? "unknown" })
  if (code.startsWith("23")) return new SqlError.ConstraintError(props)
  if (code === "40P01") return new SqlError.DeadlockError(props)
  if (code === "40001") return new SqlError.SerializationError(props)
  if (code === "55P03") return new SqlError.LockTimeoutError(props)
  if (code === "57014") return new SqlError.StatementTimeoutError(props)
  return new SqlError.UnknownError(props)
}

// ---------------------------------------------------------------------------------------------------------------------
// Faults
// ---------------------------------------------------------------------------------------------------------------------

/** Where a fault strikes: before the statement is sent, or after the server executed and answered it. */
export type At = "before" | "after"

/**
 * What happens to a statement. Made by {@link failBefore}, {@link failAfter}, {@link hang}, {@link delay},
 * {@link dropConnection} and {@link waitAt}.
 *
 * **Details**
 *
 * A statement that fails by itself reaches no fault of `"after"`. A stream is executed once its last row is consumed.
 */
export type Fault =
  | { readonly _tag: "Fail"; readonly at: At; readonly error: SqlError.SqlError | undefined }
  | { readonly _tag: "Hang"; readonly at: At }
  | { readonly _tag: "Delay"; readonly at: At; readonly duration: Duration.Input }
  | { readonly _tag: "DropConnection"; readonly at: At; readonly error: SqlError.SqlError | undefined }
  | { readonly _tag: "WaitAt"; readonly at: At; readonly gate: Gate }

/** The statement is not executed and fails, with {@link connectionClosed} by default. The connection stays alive. */
export const failBefore = (error?: SqlError.SqlError): Fault => ({ _tag: "Fail", at: "before", error })

/**
 * The statement is executed, but its answer is replaced by a failure, {@link connectionClosed} by default: the caller
 * cannot know the outcome. The connection stays alive.
 */
export const failAfter = (error?: SqlError.SqlError): Fault => ({ _tag: "Fail", at: "after", error })

/**
 * The statement never returns, until its fiber is interrupted or the plan is disarmed (then it fails with
 * {@link connectionClosed}). It holds its connection meanwhile.
 */
export const hang = (at: At = "before"): Fault => ({ _tag: "Hang", at })

/** The statement, or its answer, is held back for `duration` of the fiber's clock: under `TestClock` until adjusted. */
export const delay = (duration: Duration.Input, at: At = "before"): Fault => ({ _tag: "Delay", at, duration })

/**
 * The connection is lost for good: its backend is terminated, and has ended, before anything else happens. Later
 * statements on the connection fail too, among them the `ROLLBACK` of its transaction.
 *
 * **Details**
 *
 * `"before"`: the statement is then sent, and fails with what the driver says of a connection whose end it has noticed
 * (`UnknownError`, SQLSTATE `57P01`); with an `error` it is not sent and fails with that. `"after"`: the server has
 * executed and answered the statement; the caller gets `error`, {@link connectionClosed} by default.
 *
 * After a `LISTEN` the listener is registered and then every connection that listens to the channel is terminated, so
 * that the queue of notifications fails.
 *
 * **Gotchas**
 *
 * Takes about 100 milliseconds and a server connection outside the pool. The role must be allowed to terminate its own
 * backends, as roles are by default.
 */
export const dropConnection = (at: At, error?: SqlError.SqlError): Fault => ({ _tag: "DropConnection", at, error })

/** The statement stops at `gate`, holding its connection, until the gate is opened. */
export const waitAt = (gate: Gate, at: At = "before"): Fault => ({ _tag: "WaitAt", at, gate })

/**
 * A point at which statements stop until it is opened, so that a test can order two connections without sleeping.
 *
 * **Example** (The second transaction runs while the first has yet to commit)
 *
 * ```ts
 * import * as Effect from "effect/Effect"
 * import * as Fiber from "effect/Fiber"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * export const order = Effect.fnUntraced(function*<A, E, R>(
 *   first: Effect.Effect<A, E, R>,
 *   second: Effect.Effect<A, E, R>
 * ) {
 *   const faults = yield* FaultySqlClient.Faults
 *   const gate = yield* FaultySqlClient.makeGate
 *   yield* faults.arm([{ match: "COMMIT", fault: FaultySqlClient.waitAt(gate) }])
 *   const fiber = yield* Effect.forkChild(first)
 *   yield* gate.reached
 *   yield* second
 *   yield* gate.open
 *   return yield* Fiber.join(fiber)
 * })
 * ```
 */
export interface Gate {
  /** Waits until a statement stands at the gate. */
  readonly reached: Effect.Effect<void>
  /** Lets the waiting statements pass, and all later ones. */
  readonly open: Effect.Effect<void>
  /** Signals that the gate is reached, then waits until it is open: also usable in the code of a test. */
  readonly pass: Effect.Effect<void>
}

/** A closed gate. */
export const makeGate: Effect.Effect<Gate> = Effect.gen(function* () {
  const reached = yield* Deferred.make<void>()
  const opened = yield* Deferred.make<void>()
  return {
    reached: Deferred.await(reached),
    open: Effect.asVoid(Deferred.succeed(opened, undefined)),
    pass: Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened))
  }
})

// ---------------------------------------------------------------------------------------------------------------------
// Plans
// ---------------------------------------------------------------------------------------------------------------------

/** One line of a script: `fault` happens at the `nth` statement that `match` selects, counted since it was armed. */
export interface Step {
  /** Every statement by default. */
  readonly match?: Match | undefined
  /** Counted from 1, which is the default. */
  readonly nth?: number | undefined
  /** At how many matching statements in a row, from the `nth` on. 1 by default; `Infinity` for all that follow. */
  readonly times?: number | undefined
  readonly fault: Fault
}

/** Faults drawn from a seed. Made by {@link fromSeed}. */
export interface Seeded {
  readonly seed: string | number
  readonly rate: number
  readonly faults: NonEmptyReadonlyArray<Fault>
  readonly match: Match | undefined
  readonly limit: number
}

/**
 * What shall go wrong: a script, or faults drawn from a seed.
 *
 * **Details**
 *
 * Each step of a script counts for itself. Where several strike at one statement, all of them happen, in the order of
 * the script, those of `"before"` until one fails, then the statement, then those of `"after"` until one fails.
 */
export type Plan = ReadonlyArray<Step> | Seeded

/** Options of {@link fromSeed}. */
export interface SeedOptions {
  /** The share of matching statements that meet a fault, between 0 and 1. */
  readonly rate: number
  /** One of them is drawn each time. */
  readonly faults: NonEmptyReadonlyArray<Fault>
  /** Which statements may meet a fault; all by default. */
  readonly match?: Match | undefined
  /** How many faults to inject at most; unlimited by default. */
  readonly limit?: number | undefined
}

/**
 * Draws the fate of each matching statement from a pseudo-random sequence: the same seed gives the nth matching
 * statement the same fate in every run.
 *
 * **Gotchas**
 *
 * With several fibers, which statement is the nth depends on how they interleave.
 */
export const fromSeed = (seed: string | number, options: SeedOptions): Seeded => ({
  seed,
  rate: options.rate,
  faults: options.faults,
  match: options.match,
  limit: options.limit ?? Number.POSITIVE_INFINITY
})

type Decide = (statement: SeenStatement) => ReadonlyArray<Fault>

const start = (plan: Plan): Effect.Effect<Decide> => ("seed" in plan ? startSeeded(plan) : startScript(plan))

const startScript = (script: ReadonlyArray<Step>): Effect.Effect<Decide> =>
  Effect.sync(() => {
    const counters = script.map((step) => ({ step, count: 0 }))
    return (statement) =>
      counters.flatMap((counter) => {
        const { fault, match, nth = 1, times = 1 } = counter.step
        if (!matches(match, statement)) return []
        counter.count++
        return counter.count >= nth && counter.count < nth + times ? [fault] : []
      })
  })

const startSeeded = (plan: Seeded): Effect.Effect<Decide> =>
  Effect.map(Random.withSeed(Effect.service(Random.Random), plan.seed), (random) => {
    let left = plan.limit
    return (statement) => {
      if (!matches(plan.match, statement)) return []
      // two draws for every statement, so that the fate of the nth depends on n alone
      const strikes = random.nextDoubleUnsafe() < plan.rate
      const fault = plan.faults[Math.floor(random.nextDoubleUnsafe() * plan.faults.length)]
      if (!strikes || fault === undefined || left <= 0) return []
      left--
      return [fault]
    }
  })

// ---------------------------------------------------------------------------------------------------------------------
// The handle of a test
// ---------------------------------------------------------------------------------------------------------------------

/** A fault, and the statement that met it. */
export interface InjectedFault {
  readonly fault: Fault
  readonly statement: SeenStatement
}

/** Arms faults while a test runs, and tells what happened. */
export class Faults extends Context.Service<
  Faults,
  {
    /** Replaces the plan. Its counting starts anew, and hanging statements of the former plan fail. */
    readonly arm: (plan: Plan) => Effect.Effect<void>
    /** No more faults; hanging statements fail with {@link connectionClosed}. */
    readonly disarm: Effect.Effect<void>
    /** Every statement seen so far, also while disarmed, in the order in which they were issued. */
    readonly statements: Effect.Effect<ReadonlyArray<SeenStatement>>
    /** How many of the statements seen so far match. */
    readonly count: (match: Match) => Effect.Effect<number>
    /** Every fault injected so far. A fault of a statement that failed before reaching it is not among them. */
    readonly injected: Effect.Effect<ReadonlyArray<InjectedFault>>
    /** Forgets the statements and faults seen so far; the plan goes on. */
    readonly clear: Effect.Effect<void>
    /** The client without faults; its statements are not seen here. */
    readonly unwrapped: SqlClient.SqlClient
  }
>()("effect-runledger/testing/FaultySqlClient/Faults") {}

interface Armed {
  readonly decide: Decide
  readonly disarmed: Deferred.Deferred<never, SqlError.SqlError>
}

/** What happens to one statement before it is executed, and what after. */
interface Fate {
  readonly before: Effect.Effect<void, SqlError.SqlError>
  readonly after: Effect.Effect<void, SqlError.SqlError>
}

type Drop = (fault: { readonly at: At; readonly error: SqlError.SqlError | undefined }) => Fate["before"]

interface Verdict {
  readonly statement: SeenStatement
  readonly faults: ReadonlyArray<Fault>
  readonly fate: (drop: Drop) => Fate
}

const makeFaults = Effect.fnUntraced(function* (unwrapped: SqlClient.SqlClient, initial: Plan) {
  const prepare = (plan: Plan): Effect.Effect<Armed> =>
    Effect.all({ decide: start(plan), disarmed: Deferred.make<never, SqlError.SqlError>() })
  let armed = yield* prepare(initial)
  let statements: Array<SeenStatement> = []
  let injected: Array<InjectedFault> = []
  let index = 0

  const arm = (plan: Plan) =>
    Effect.flatMap(prepare(plan), (next) =>
      Effect.suspend(() => {
        const { disarmed } = armed
        armed = next
        return Effect.asVoid(Deferred.fail(disarmed, connectionClosed()))
      })
    )

  const service = Faults.of({
    arm,
    disarm: arm([]),
    statements: Effect.sync(() => statements.slice()),
    count: (match) => Effect.sync(() => statements.filter((statement) => matches(match, statement)).length),
    injected: Effect.sync(() => injected.slice()),
    clear: Effect.sync(() => {
      statements = []
      injected = []
    }),
    unwrapped
  })
  yield* Effect.addFinalizer(() => service.disarm)

  const strike = (fault: Fault, { disarmed }: Armed, drop: Drop): Fate["before"] => {
    switch (fault._tag) {
      case "Fail":
        return Effect.suspend(() => Effect.fail(fault.error ?? connectionClosed()))
      case "Hang":
        return Deferred.await(disarmed)
      case "Delay":
        return Effect.sleep(fault.duration)
      case "DropConnection":
        return drop(fault)
      case "WaitAt":
        return fault.gate.pass
    }
  }

  /** Registers a statement and asks the plan what shall happen to it. */
  const see = (seen: Pick<SeenStatement, "sql" | "params" | "method" | "backend">): Effect.Effect<Verdict> =>
    Effect.map(spanNames, (spans) => {
      const statement = { ...seen, index: index++, operation: operationOf(seen.sql), spans }
      statements.push(statement)
      const current = armed
      const faults = current.decide(statement)
      const at = (point: At, drop: Drop) =>
        Effect.forEach(
          faults.filter((fault) => fault.at === point),
          (fault) =>
            Effect.suspend(() => {
              injected.push({ fault, statement })
              return strike(fault, current, drop)
            }),
          { discard: true }
        )
      return { statement, faults, fate: (drop) => ({ before: at("before", drop), after: at("after", drop) }) }
    })

  return { service, see }
})

const spanNames: Effect.Effect<ReadonlyArray<string>> = Effect.map(Effect.context(), (context) => {
  const names: Array<string> = []
  let span = Context.getOption(context, Tracer.ParentSpan)
  while (Option.isSome(span) && span.value._tag === "Span") {
    names.push(span.value.name)
    span = span.value.parent
  }
  return names
})

// ---------------------------------------------------------------------------------------------------------------------
// The wrapper
// ---------------------------------------------------------------------------------------------------------------------

/** Where a statement is to be executed, what happens around it, and who hears whether it was executed. */
interface Route extends Fate {
  readonly connection: Connection
  readonly executed: (exit: Exit.Exit<unknown, SqlError.SqlError>) => Effect.Effect<void>
}

/** A connection each of whose statements asks for its route when it is run. */
const connectionVia = (
  route: (
    method: keyof Connection,
    sql: string,
    params: ReadonlyArray<unknown>
  ) => Effect.Effect<Route, SqlError.SqlError, Scope.Scope>
): Connection => {
  const run = <A>(
    method: keyof Connection,
    sql: string,
    params: ReadonlyArray<unknown>,
    on: (connection: Connection) => Effect.Effect<A, SqlError.SqlError>
  ) =>
    Effect.scoped(
      Effect.flatMap(route(method, sql, params), ({ after, before, connection, executed }) =>
        before.pipe(Effect.andThen(Effect.onExit(on(connection), executed)), Effect.tap(after))
      )
    )
  return {
    execute: (sql, params, transformRows) => run("execute", sql, params, (_) => _.execute(sql, params, transformRows)),
    executeRaw: (sql, params) => run("executeRaw", sql, params, (_) => _.executeRaw(sql, params)),
    executeValues: (sql, params) => run("executeValues", sql, params, (_) => _.executeValues(sql, params)),
    executeValuesUnprepared: (sql, params) =>
      run("executeValuesUnprepared", sql, params, (_) => _.executeValuesUnprepared(sql, params)),
    executeUnprepared: (sql, params, transformRows) =>
      run("executeUnprepared", sql, params, (_) => _.executeUnprepared(sql, params, transformRows)),
    executeStream: (sql, params, transformRows) =>
      Stream.unwrap(
        Effect.flatMap(route("executeStream", sql, params), ({ after, before, connection }) =>
          Effect.as(
            before,
            Stream.concat(connection.executeStream(sql, params, transformRows), Stream.fromEffectDrain(after))
          )
        )
      )
  }
}

/**
 * A connection that runs each statement through `client`, outside its transactions, as a statement of its own. It
 * leaves borrowing, sharing and pipelining of connections to the client.
 */
const connectionOf = (client: SqlClient.SqlClient): Connection => {
  const plain = client.withoutTransforms()
  const outside = Context.omit(client.transactionService)
  // the wrapper's own statement has been transformed and has a span already
  const effect = <A>(self: Effect.Effect<A, SqlError.SqlError>) =>
    self.pipe(
      Effect.provideService(Statement.CurrentTransformer, undefined),
      Effect.withTracerEnabled(false),
      Effect.updateContext((context: Context.Context<never>) => outside(context))
    )
  return {
    execute: (sql, params, transformRows) => {
      const rows = effect(plain.unsafe(sql, params).withoutTransform)
      return transformRows === undefined ? rows : Effect.map(rows, transformRows)
    },
    executeRaw: (sql, params) => effect(plain.unsafe(sql, params).raw),
    executeValues: (sql, params) => effect(plain.unsafe(sql, params).values),
    executeValuesUnprepared: (sql, params) => effect(plain.unsafe(sql, params).valuesUnprepared),
    executeUnprepared: (sql, params, transformRows) => {
      const rows = effect(plain.unsafe(sql, params).unprepared)
      return transformRows === undefined ? rows : Effect.map(rows, transformRows)
    },
    executeStream: (sql, params, transformRows) => {
      const rows = plain.unsafe(sql, params).stream.pipe(
        Stream.provideService(Statement.CurrentTransformer, undefined),
        Stream.provideService(References.TracerEnabled, false),
        Stream.updateContext((context: Context.Context<never>) => outside(context))
      )
      return transformRows === undefined ? rows : Stream.map(rows, (row) => transformRows([row])[0])
    }
  }
}

/** What a client adds to its statements, told by one statement that goes to a connection of ours instead of a server. */
interface Dressing {
  readonly transformRows: Parameters<Connection["execute"]>[2]
  readonly spanAttributes: ReadonlyArray<readonly [string, unknown]>
}

const ownAttributes: ReadonlyArray<string> = ["db.query.text", "effect.sql.method"]

const dressingOf = (client: SqlClient.SqlClient): Effect.Effect<Dressing, SqlError.SqlError> => {
  const unused = () => Effect.die("only execute is asked")
  const probe: Connection = {
    execute: (_sql, _params, transformRows) =>
      Effect.map(
        Effect.orDie(Effect.currentSpan),
        (span): ReadonlyArray<Dressing> => [
          { transformRows, spanAttributes: Array.from(span.attributes).filter(([key]) => !ownAttributes.includes(key)) }
        ]
      ),
    executeRaw: unused,
    executeStream: () => Stream.die("only execute is asked"),
    executeValues: unused,
    executeValuesUnprepared: unused,
    executeUnprepared: unused
  }
  return client.unsafe<Dressing>("SELECT 1").pipe(
    Effect.map(([dressing]) => dressing ?? { transformRows: undefined, spanAttributes: [] }),
    Effect.provideService(client.transactionService, [probe, 0]),
    Effect.provideService(Statement.CurrentTransformer, undefined),
    Effect.provideService(Statement.SpanPropagationEnabled, true),
    Effect.withTracerTiming(false),
    Effect.withTracer(Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })),
    Effect.withTracerEnabled(true)
  )
}

/** The compiler of a client, whose statements can hold any fragment. */
const compilerOf = (client: SqlClient.SqlClient): Statement.Compiler => {
  const make = (always: boolean): Statement.Compiler => ({
    dialect: client.onDialect({
      sqlite: () => "sqlite",
      pg: () => "pg",
      mysql: () => "mysql",
      mssql: () => "mssql",
      clickhouse: () => "clickhouse"
    }),
    compile: (fragment, withoutTransform) => client`${fragment}`.compile(always || withoutTransform),
    get withoutTransform() {
      return make(true)
    }
  })
  return make(false)
}

/** `COMMIT` of an aborted transaction is answered with `ROLLBACK`: an error here as in the PostgreSQL client. */
const commit = (connection: Connection): Effect.Effect<void, SqlError.SqlError> =>
  Effect.flatMap(connection.executeRaw("COMMIT", []), (result) =>
    Predicate.hasProperty(result, "command") && result.command === "ROLLBACK"
      ? Effect.fail(
          new SqlError.SqlError({
            reason: new SqlError.UnknownError({
              cause: new Error("COMMIT rolled back an aborted transaction"),
              message: "PgClient: COMMIT rolled back an aborted transaction",
              operation: "commit"
            })
          })
        )
      : Effect.void
  )

/** The process id of the backend behind a connection: the PostgreSQL driver has it, another is asked for it. */
const backendOf = (connection: Connection): Effect.Effect<number, SqlError.SqlError> =>
  Predicate.hasProperty(connection, "connection") &&
  Predicate.hasProperty(connection.connection, "processId") &&
  Predicate.isNumber(connection.connection.processId)
    ? Effect.succeed(connection.connection.processId)
    : Effect.map(connection.executeValues("SELECT pg_backend_pid()", []), ([row]) => Number(row?.[0]))

/** Runs a query that terminates backends, and gives this process the time to hear of it. */
type Terminate = (sql: string, params: ReadonlyArray<unknown>) => Effect.Effect<void>

const isPgClient = (client: SqlClient.SqlClient): client is PgClient.PgClient =>
  Predicate.hasProperty(client, PgClient.TypeId)

/** Not through the pool where it can be avoided: the transaction to be hit may hold the last connection of it. */
const terminateThrough =
  (client: SqlClient.SqlClient): Terminate =>
  (sql, params) =>
    (isPgClient(client)
      ? Effect.scoped(Effect.flatMap(PgConnection.make(client.config), (connection) => connection.query(sql, params)))
      : connectionOf(client).executeRaw(sql, params)
    ).pipe(Effect.orDie, Effect.andThen(nextTurn))

/** The backend wrote its last message before it ended, so one turn of the event loop delivers it. */
const nextTurn: Effect.Effect<void> = Effect.callback((resume) => {
  const handle = setImmediate(() => resume(Effect.void))
  return Effect.sync(() => clearImmediate(handle))
})

const wrap = Effect.fnUntraced(function* (client: SqlClient.SqlClient, plan: Plan) {
  const { see, service: faults } = yield* makeFaults(client, plan)
  const terminate = terminateThrough(client)
  const direct: Route = {
    connection: connectionOf(client),
    before: Effect.void,
    after: Effect.void,
    executed: () => Effect.void
  }

  /** Takes a connection out of the pool; what is left to know is the fate of each statement on it. */
  const reserve = Effect.gen(function* () {
    const connection = yield* client.reserve
    const backend = yield* backendOf(connection)
    let open = false
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() =>
        open ? Effect.ignore(connection.executeUnprepared("ROLLBACK", [], undefined)) : Effect.void
      )
    )
    const drop: Drop = ({ at, error }) =>
      Effect.andThen(
        terminate("SELECT pg_terminate_backend($1, 10000)", [backend]),
        Effect.suspend(() =>
          at === "after" || error !== undefined ? Effect.fail(error ?? connectionClosed()) : Effect.void
        )
      )
    const route = ({ fate, statement }: Verdict): Route => ({
      ...fate(drop),
      connection,
      executed: (exit) =>
        Effect.sync(() => {
          const { operation } = statement
          if (operation === "BEGIN" || operation === "COMMIT" || operation === "ROLLBACK") {
            open = Exit.hasInterrupts(exit) || (operation === "BEGIN" && Exit.isSuccess(exit))
          }
        })
    })
    return { backend, route }
  })

  const plain = connectionVia((method, sql, params) =>
    Effect.flatMap(see({ sql, params, method, backend: undefined }), (verdict) =>
      verdict.faults.length === 0 ? Effect.succeed(direct) : Effect.map(reserve, ({ route }) => route(verdict))
    )
  )

  const reserved = Effect.map(reserve, ({ backend, route }) =>
    connectionVia((method, sql, params) => Effect.map(see({ sql, params, method, backend }), route))
  )

  /** `listen` hands out no connection: what can be dropped is whatever listens to the channel. */
  const listen = <A>(channel: string, self: Effect.Effect<A, SqlError.SqlError, Scope.Scope>) => {
    const sql = `LISTEN "${channel.replaceAll('"', '""')}"`
    const drop: Drop = ({ at, error }) =>
      at === "before"
        ? Effect.suspend(() => Effect.fail(error ?? connectionClosed()))
        : terminate(
            `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
             WHERE datname = current_database() AND query = $1`,
            [sql]
          )
    return Effect.gen(function* () {
      const { after, before } = (yield* see({ sql, params: [], method: "listen", backend: undefined })).fate(drop)
      const scope = yield* Scope.fork(yield* Scope.Scope)
      return yield* before.pipe(
        Effect.andThen(Scope.provide(self, scope)),
        Effect.tap(after),
        Effect.onError((cause) => Scope.close(scope, Exit.failCause(cause)))
      )
    })
  }

  const dressing = yield* dressingOf(client)
  const postgres = client.onDialectOrElse({ pg: () => true, orElse: () => false })
  const wrapped = yield* SqlClient.make({
    acquirer: Effect.succeed(plain),
    borrower: (f) => f(plain),
    transactionAcquirer: reserved,
    compiler: compilerOf(client),
    driver: client.driver,
    spanAttributes: dressing.spanAttributes,
    transformRows: dressing.transformRows,
    prepareTransactionControls: postgres,
    commit: postgres ? commit : undefined,
    releaseSavepoint: (name) => `RELEASE SAVEPOINT ${name}`
  }).pipe(Effect.provideServiceEffect(Reactivity.Reactivity, Reactivity.make))
  return {
    client: Object.assign(wrapped, { reactive: client.reactive, reactiveMailbox: client.reactiveMailbox }),
    faults,
    plain,
    listen
  }
})

const makePg = Effect.fnUntraced(function* (client: PgClient.PgClient, plan: Plan) {
  const { client: wrapped, faults, listen, plain } = yield* wrap(client, plan)
  const pg: PgClient.PgClient = Object.assign(wrapped, {
    [PgClient.TypeId]: PgClient.TypeId,
    config: client.config,
    json: client.json,
    listen: (channel: string) => listen(channel, client.listen(channel)),
    notify: (channel: string, payload: string) =>
      Effect.asVoid(plain.executeRaw("SELECT pg_notify($1, $2)", [channel, payload]))
  })
  return Context.make(PgClient.PgClient, pg).pipe(Context.add(SqlClient.SqlClient, pg), Context.add(Faults, faults))
})

/**
 * Wraps the client it is provided with, and provides the wrapped client together with {@link Faults}. Where the client
 * is a `PgClient`, it provides the wrapped one under that tag as well.
 *
 * **Details**
 *
 * Without a plan nothing fails until one is armed.
 *
 * **Example** (A database that loses one statement in twenty)
 *
 * ```ts
 * import * as PgClient from "@effect/sql-pg/PgClient"
 * import * as Layer from "effect/Layer"
 * import * as Redacted from "effect/Redacted"
 * import { FaultySqlClient } from "effect-runledger/testing"
 *
 * const Database = PgClient.layer({ url: Redacted.make("postgres://postgres@127.0.0.1:5432/test") })
 *
 * export const Faulty = FaultySqlClient.layer(
 *   FaultySqlClient.fromSeed("run 1", {
 *     rate: 0.05,
 *     faults: [FaultySqlClient.failBefore(), FaultySqlClient.failAfter(), FaultySqlClient.dropConnection("after")]
 *   })
 * ).pipe(Layer.provide(Database))
 * ```
 */
export const layer = (
  plan: Plan = []
): Layer.Layer<SqlClient.SqlClient | Faults, SqlError.SqlError, SqlClient.SqlClient> =>
  Layer.effectContext(
    Effect.flatMap(
      SqlClient.SqlClient,
      (client): Effect.Effect<Context.Context<SqlClient.SqlClient | Faults>, SqlError.SqlError, Scope.Scope> =>
        isPgClient(client)
          ? makePg(client, plan)
          : Effect.map(wrap(client, plan), ({ client, faults }) =>
              Context.make(SqlClient.SqlClient, client).pipe(Context.add(Faults, faults))
            )
    )
  )

/** {@link layer} for a `PgClient`: `listen` and `notify` meet faults too. */
export const layerPg = (
  plan: Plan = []
): Layer.Layer<PgClient.PgClient | SqlClient.SqlClient | Faults, SqlError.SqlError, PgClient.PgClient> =>
  Layer.effectContext(Effect.flatMap(PgClient.PgClient, (client) => makePg(client, plan)))
