/**
 * `npm run bench [-- --quick] [-- --only <name>] [-- --rounds <n>] [-- --json <file>]`, see README.md.
 */
import { writeFile } from "node:fs/promises"
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import { PgClient } from "@effect/sql-pg"
import * as Console from "effect/Console"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import { SqlClient } from "effect/sql/SqlClient"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import { type Cpu, cpu } from "./Cpu.ts"
import { type Measurement, measurements } from "./Measurement.ts"
import { Mismatch, ours, type Queue, raw } from "./Queue.ts"
import * as Report from "./Report.ts"
import * as Sql from "./Sql.ts"
import { fill, mark, states, type TableState, tidy } from "./TableState.ts"

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    only: { type: "string", multiple: true, default: [] },
    rounds: { type: "string" },
    json: { type: "string" }
  }
})

const rounds = Number(options.rounds ?? (options.quick ? 3 : 7))

interface Server {
  /** Without a database. */
  readonly base: string
  readonly admin: string
  readonly postmaster: number | undefined
  readonly description: string
}

const acquireServer: Effect.Effect<Server, unknown, Scope.Scope> = Effect.gen(function* () {
  const given = process.env.DATABASE_URL
  if (given !== undefined && given !== "") {
    const url = new URL(given)
    const database = url.pathname.slice(1) || "postgres"
    url.pathname = ""
    return {
      base: url.toString().replace(/\/$/, ""),
      admin: database,
      postmaster: undefined,
      description: `the server of DATABASE_URL (${url.host}), as it is configured`
    }
  }
  const settings = {
    fsync: "on",
    shared_buffers: "512MB",
    // no checkpoint in the middle of a round
    max_wal_size: "8GB",
    checkpoint_timeout: "1h"
  }
  const server = yield* EmbeddedPostgres.start({ settings })
  const listed = Object.entries(settings).map(([name, value]) => `${name} = ${value}`)
  return {
    base: server.url,
    admin: "postgres",
    postmaster: server.pid,
    description: `PostgreSQL ${server.version}, embedded, ${listed.join(", ")}`
  }
})

const clientOf = (server: Server, database: string) =>
  PgClient.layer({
    url: Redacted.make(`${server.base}/${database}`),
    multiplex: true,
    // a connection that is replaced between rounds would be measured with its first statements
    idleTimeout: "1 day"
  })

/** A database in a state, with a client; both go away with the scope. */
const open = Effect.fnUntraced(function* (server: Server, state: TableState) {
  const admin = clientOf(server, server.admin)
  const name = `runledger_bench_${crypto.randomUUID().replaceAll("-", "")}`
  yield* Effect.acquireRelease(Effect.provide(Sql.run(`CREATE DATABASE ${name}`), admin), () =>
    Effect.provide(Sql.run(`DROP DATABASE ${name} WITH (FORCE)`), admin).pipe(Effect.orDie)
  )
  const context = yield* Layer.build(clientOf(server, name))
  const client = Context.pick(SqlClient)(context)
  yield* Effect.gen(function* () {
    yield* ours.install
    yield* raw.install
    yield* fill(state)
    yield* mark
  }).pipe(Effect.provideContext(client))
  return { state, client }
})

type Place = Effect.Success<ReturnType<typeof open>>

const sample = Effect.fnUntraced(function* <Taken>(
  server: Server,
  place: Place,
  queue: Queue<Taken>,
  measurement: Measurement
) {
  const timed = yield* measurement.prepare(queue, place.state)
  const before = cpu(server.postmaster)
  const began = process.hrtime.bigint()
  yield* timed
  const seconds = Number(process.hrtime.bigint() - began) / 1e9
  const after = cpu(server.postmaster)
  yield* tidy(place.state)
  const each = (of: (at: Cpu) => number | undefined) => {
    const [from, to] = [of(before), of(after)]
    return from === undefined || to === undefined ? undefined : (to - from) / measurement.count
  }
  const result: Report.Sample = {
    rate: measurement.count / seconds,
    clientCpu: each(({ client }) => client) ?? Number.NaN,
    serverCpu: each(({ server }) => server)
  }
  return result
})

/** Raw, ours on the empty table and ours in the state take turns, and who begins changes from round to round. */
const measure = Effect.fnUntraced(function* (server: Server, empty: Place, place: Place, measurement: Measurement) {
  const contestants = {
    ours: sample(server, place, ours, measurement).pipe(Effect.provideContext(place.client)),
    ...(measurement.hasRaw
      ? { raw: sample(server, place, raw, measurement).pipe(Effect.provideContext(place.client)) }
      : {}),
    ...(place === empty
      ? {}
      : { empty: sample(server, empty, ours, measurement).pipe(Effect.provideContext(empty.client)) })
  }
  const order = Object.entries(contestants)
  const results: Array<Report.Round> = []
  // the first round warms up: code is compiled, statements are prepared
  for (let round = 0; round <= rounds; round++) {
    const samples = new Map<string, Report.Sample>()
    for (let turn = 0; turn < order.length; turn++) {
      const [name, run] = order[(turn + round) % order.length] ?? []
      if (name !== undefined && run !== undefined) samples.set(name, yield* run)
    }
    const sampled = samples.get("ours")
    if (round === 0 || sampled === undefined) continue
    results.push({ ours: sampled, raw: samples.get("raw"), empty: samples.get("empty") })
  }
  return Report.line(place.state, measurement, results)
})

const chosen = <A extends { readonly name: string }>(all: ReadonlyArray<A>, names: ReadonlyArray<string>) => {
  const named = all.filter(({ name }) => names.includes(name))
  return named.length === 0 ? all : named
}

const program = Effect.gen(function* () {
  const allStates = states(options.quick ? 0.02 : 1)
  const allMeasurements = measurements(options.quick)
  const known = [...allStates, ...allMeasurements].map(({ name }) => name)
  const unknown = options.only.find((name) => !known.includes(name))
  if (unknown !== undefined || !(rounds >= 1)) {
    return yield* new Mismatch({
      message: `--only takes ${known.join(", ")}; --rounds a number. It was given ${unknown ?? options.rounds}.`
    })
  }

  const server = yield* acquireServer
  yield* Console.log(
    `${server.description}\nnode ${process.version}, ${cpus().length} x ${cpus()[0]?.model ?? "?"}, ${rounds} rounds\n`
  )
  const [plain] = allStates
  if (plain === undefined) return yield* new Mismatch({ message: "there are no states" })
  const empty = yield* open(server, plain)
  const lines: Array<Report.Line> = []
  for (const state of chosen(allStates, options.only)) {
    yield* Console.error(`${state.name}: ${state.description}`)
    yield* Effect.scoped(
      Effect.gen(function* () {
        const place = state === plain ? empty : yield* open(server, state)
        for (const measurement of chosen(allMeasurements, options.only)) {
          const line = yield* measure(server, empty, place, measurement)
          lines.push(line)
          yield* Console.error(Report.table([line]).split("\n").slice(1).join("\n"))
        }
      })
    )
  }
  yield* Console.log(Report.table(lines))
  const missed = lines.flatMap(({ targets }) => targets).filter(({ met }) => !met).length
  const total = lines.flatMap(({ targets }) => targets).length
  yield* Console.log(`\n${total - missed} of ${total} targets met`)
  const { json } = options
  if (json !== undefined) {
    const text = JSON.stringify({ server: server.description, node: process.version, rounds, lines }, undefined, 2)
    yield* Effect.promise(() => writeFile(json, `${text}\n`))
  }
})

Effect.runPromise(Effect.scoped(program)).catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
