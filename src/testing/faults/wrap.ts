/**
 * A client whose statements all pass by the faults that are armed.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as PgConnection from "@effect/sql-pg/PgConnection"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import * as References from "effect/References"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Tracer from "effect/Tracer"
import { connectionClosed } from "./Fault.ts"
import { type Drop, type Fate, Faults, makeFaults, type Verdict } from "./Faults.ts"
import type { Plan } from "./Plan.ts"

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

export const isPgClient = (client: SqlClient.SqlClient): client is PgClient.PgClient =>
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

export const wrap = Effect.fnUntraced(function* (client: SqlClient.SqlClient, plan: Plan) {
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

export const makePg = Effect.fnUntraced(function* (client: PgClient.PgClient, plan: Plan) {
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
