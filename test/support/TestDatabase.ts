import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import { TestClock } from "effect/testing"
import { inject } from "vitest"
import { StatementClock } from "../../src/StatementClock.ts"

const { server, template, major: serverMajor } = inject("postgres")

/** The major of the server under test: 15 or 18, or that of a server that was given. */
export const major: number = serverMajor

/** The address of one of its databases, also for a child process. */
export const url = (database: string): string => `${server}/${database}`

/** How a client connects: pool sizes, `multiplex`, `applicationName`, everything but where to. */
export type ClientOptions = Omit<PgClient.PgPoolConfig, "url" | "host" | "port" | "database" | "username" | "password">

/** A client of `database`; a test that needs several builds several. */
export const client = (
  database: string,
  options: ClientOptions = {}
): Layer.Layer<PgClient.PgClient | SqlClient, SqlError> =>
  PgClient.layer({ ...options, url: Redacted.make(url(database)) })

/** A client that may create databases, open for one statement only. */
const admin = client("postgres", { maxConnections: 1 })

/** A database of its own, dropped when the scope closes, whoever is still connected; the result is its name. */
export const create = (options: {
  /** Whether the migrations are applied. */
  readonly migrated: boolean
}): Effect.Effect<string, SqlError, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.gen(function* () {
      const sql = yield* SqlClient
      const name = `runledger_test_${crypto.randomUUID().replaceAll("-", "")}`
      yield* sql`CREATE DATABASE ${sql(name)} TEMPLATE ${sql(options.migrated ? template : "template0")}`
      return name
    }).pipe(Effect.provide(admin)),
    (name) =>
      SqlClient.use((sql) => sql`DROP DATABASE ${sql(name)} WITH (FORCE)`).pipe(Effect.provide(admin), Effect.orDie)
  )

/** A migrated database of its own and a client of it that connects as asked. */
export const layerWith = (options: ClientOptions): Layer.Layer<PgClient.PgClient | SqlClient, SqlError> =>
  Layer.unwrap(Effect.map(create({ migrated: true }), (database) => client(database, options)))

/** A migrated database of its own, dropped when the scope closes. */
export const layer: Layer.Layer<PgClient.PgClient | SqlClient, SqlError> = layerWith({})

/** An empty database of its own, for tests of the migrations themselves. */
export const layerEmpty: Layer.Layer<PgClient.PgClient | SqlClient, SqlError> = Layer.unwrap(
  Effect.map(create({ migrated: false }), (database) => client(database))
)

/**
 * {@link layerWith}, with statements that read `TestClock` instead of the database's clock. `TestClock` is set to the
 * time of the database, because ids are UUIDv7 of today.
 */
export const layerTestClockWith = (options: ClientOptions): Layer.Layer<PgClient.PgClient | SqlClient, SqlError> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const database = yield* TestClock.withLive(create({ migrated: true }))
      const readClock = SqlClient.use(
        (sql) => sql<{ millis: number }>`SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::float8 AS millis`
      )
      const [row] = yield* TestClock.withLive(Effect.provide(readClock, admin))
      // before the client is built: moving the clock by decades would end the pool's idle connections
      yield* TestClock.setTime(row?.millis ?? 0)
      return Layer.merge(client(database, options), Layer.succeed(StatementClock, "effect"))
    })
  )

/** {@link layerTestClockWith} and the default pool. */
export const layerTestClock: Layer.Layer<PgClient.PgClient | SqlClient, SqlError> = layerTestClockWith({})
