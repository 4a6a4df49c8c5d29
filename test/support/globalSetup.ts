import { PgClient } from "@effect/sql-pg"
import { Config, Effect, Exit, Option, Redacted, Schema, Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import type { TestProject } from "vitest/node"
import * as EmbeddedPostgres from "../../dev/EmbeddedPostgres.ts"
import * as Migrator from "../../src/Migrator.ts"

/** What every test file is told. */
export interface Provided {
  /** Without a database: `postgres://postgres@127.0.0.1:5432`. */
  readonly server: string
  /** A migrated database to copy; nobody can connect to it. */
  readonly template: string
  /** Of the server, 15 to 18. */
  readonly major: number
}

declare module "vitest" {
  export interface ProvidedContext {
    readonly postgres: Provided
  }
}

const config = Config.all({
  url: Config.option(Config.Redacted("TEST_DATABASE_URL")),
  major: Config.schema(Schema.Literals(["15", "18"]), "TEST_POSTGRES_MAJOR").pipe(Config.withDefault("18" as const))
})

/** A server that was given, for example `postgres://postgres:secret@127.0.0.1:5432`, or one of our own. */
const acquireServer = Effect.gen(function* () {
  const { url, major } = yield* config
  if (Option.isSome(url)) {
    return Redacted.value(url.value).replace(/\/$/, "")
  }
  const server = yield* EmbeddedPostgres.start({
    major: major === "15" ? 15 : 18,
    maxConnections: 300,
    // the machine may lose what tests write, but commits are waited for as in production
    settings: { fsync: "off", full_page_writes: "off" }
  })
  return server.url
})

const setup = Effect.gen(function* () {
  const server = yield* acquireServer
  const connect = (database: string) =>
    PgClient.layer({ url: Redacted.make(`${server}/${database}`), maxConnections: 1 })
  // runs that share a server do not share the template
  const template = `runledger_template_${crypto.randomUUID().replaceAll("-", "")}`

  const createTemplate = Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`CREATE DATABASE ${sql(template)}`
    const [row] = yield* sql<{ major: number }>`SELECT current_setting('server_version_num')::int4 / 10000 AS major`
    return row?.major ?? 0
  })
  const dropTemplate = Effect.gen(function* () {
    const sql = yield* SqlClient
    yield* sql`DROP DATABASE ${sql(template)} WITH (FORCE)`
  })
  const major = yield* Effect.acquireRelease(createTemplate.pipe(Effect.provide(connect("postgres"))), () =>
    dropTemplate.pipe(Effect.provide(connect("postgres")), Effect.orDie)
  )
  yield* Migrator.migrate.pipe(Effect.provide(connect(template)))
  // a database with a session cannot be copied
  yield* SqlClient.use((sql) => sql`ALTER DATABASE ${sql(template)} ALLOW_CONNECTIONS false`).pipe(
    Effect.provide(connect("postgres"))
  )
  return { server, template, major }
})

/** One server and one migrated template database per run; the returned function takes both away. */
export default async function globalSetup(project: TestProject): Promise<() => Promise<void>> {
  const scope = Scope.makeUnsafe()
  const close = (exit: Exit.Exit<unknown, unknown>) => Effect.runPromise(Scope.close(scope, exit))
  const exit = await Effect.runPromiseExit(Scope.provide(setup, scope))
  if (Exit.isFailure(exit)) {
    await close(exit)
  }
  project.provide("postgres", await Effect.runPromise(exit))
  return () => close(Exit.void)
}
