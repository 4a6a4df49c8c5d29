/**
 * A pooler in transaction mode, as PgBouncer is one: clients outnumber backends, each transaction may run on another backend,
 * and nothing that a session was told outlives a transaction (`DISCARD ALL` after each of them).
 */
import { connect, createServer, type Socket } from "node:net"
import { PgClient } from "@effect/sql-pg"
import { Effect, Redacted, type Scope } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import * as TestDatabase from "./TestDatabase.ts"

export interface Pooler {
  /** Of the database that it was started for. */
  readonly url: string
  /** How many backends have served the client connection that has seen the most of them. */
  readonly spread: () => number
  /** How many times clients asked to listen. */
  readonly listens: () => number
}

/** `refused`: the client is told. `ignored`: the backend listens until its next `DISCARD ALL`, and nobody hears of it. */
export type Listens = "refused" | "ignored"

interface Backend {
  readonly socket: Socket
  pid: number
  secret: Buffer
  owner: Client | undefined
}

interface Client {
  readonly socket: Socket
  readonly id: number
  readonly seen: Set<number>
  /** Waiting for a backend. */
  held: Array<Buffer>
  backend: Backend | undefined
  /** Answers that are due: one for each simple query and each `Sync`. */
  due: number
}

const protocol = 196608
const sslRequest = 80877103
const cancelRequest = 80877102

const code = (letter: string) => letter.charCodeAt(0)

const frame = (letter: string, ...body: ReadonlyArray<Buffer>) => {
  const head = Buffer.alloc(5)
  head.write(letter)
  head.writeInt32BE(4 + body.reduce((sum, { length }) => sum + length, 0), 1)
  return Buffer.concat([head, ...body])
}

const text = (...values: ReadonlyArray<string>) => Buffer.from(values.map((value) => `${value}\0`).join(""))

const int32 = (...values: ReadonlyArray<number>) => {
  const bytes = Buffer.alloc(4 * values.length)
  for (const [i, value] of values.entries()) bytes.writeInt32BE(value, 4 * i)
  return bytes
}

const startup = (database: string) => {
  const body = Buffer.concat([int32(protocol), text("user", "postgres", "database", database), Buffer.alloc(1)])
  return Buffer.concat([int32(body.length + 4), body])
}

/** Calls `take` with each whole message; `lead` is how many bytes stand before its length. */
const framed = (lead: () => number, take: (message: Buffer) => void) => {
  let rest = Buffer.alloc(0)
  return (data: Buffer) => {
    rest = Buffer.concat([rest, data])
    while (rest.length >= lead() + 4) {
      const length = lead() + rest.readInt32BE(lead())
      if (rest.length < length) return
      const message = rest.subarray(0, length)
      rest = rest.subarray(length)
      take(message)
    }
  }
}

/** The statement of a `Parse` or `Query` message, and where it stands. */
const statementOf = (message: Buffer) => {
  const from = message[0] === code("P") ? message.indexOf(0, 5) + 1 : 5
  return message[0] === code("P") || message[0] === code("Q")
    ? { from, to: message.indexOf(0, from), sql: message.toString("utf8", from, message.indexOf(0, from)) }
    : undefined
}

/** Starts one on a free port, in front of `backends` connections to a database, until the scope closes. */
export const start = (
  databaseUrl: string,
  options: { readonly backends: number; readonly listens: Listens }
): Effect.Effect<Pooler, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Pooler & { readonly close: () => void }>((resume) => {
      const { hostname, pathname, port } = new URL(databaseUrl)
      const clients = new Map<number, Client>()
      const backends = new Set<Backend>()
      const idle: Array<Backend> = []
      const waiting: Array<Client> = []
      let ids = 0
      let listens = 0
      let spread = 0
      let isClosed = false

      const free = (backend: Backend) => {
        const next = waiting.shift()
        if (next === undefined) idle.push(backend)
        else assign(next, backend)
      }

      const assign = (client: Client, backend: Backend) => {
        client.backend = backend
        backend.owner = client
        client.seen.add(backend.pid)
        spread = Math.max(spread, client.seen.size)
        const held = client.held
        client.held = []
        for (const message of held) forward(client, backend, message)
      }

      const forward = (client: Client, backend: Backend, message: Buffer) => {
        if (message[0] === code("Q") || message[0] === code("S")) client.due++
        const statement = statementOf(message)
        if (statement === undefined || !/^\s*LISTEN\b/i.test(statement.sql)) return backend.socket.write(message)
        listens++
        if (options.listens === "ignored") return backend.socket.write(message)
        const letter = message.toString("latin1", 0, 1)
        // a statement that no server knows: the client gets an error, as it does of a pooler that refuses
        return backend.socket.write(
          frame(letter, message.subarray(5, statement.from), Buffer.from("REFUSED"), message.subarray(statement.to))
        )
      }

      const toServer = (client: Client, message: Buffer) => {
        if (message[0] === code("X")) {
          client.socket.end()
          return
        }
        if (client.backend !== undefined) {
          forward(client, client.backend, message)
          return
        }
        client.held.push(message)
        if (waiting.includes(client)) return
        const backend = idle.shift()
        if (backend === undefined) waiting.push(client)
        else assign(client, backend)
      }

      const toClient = (backend: Backend, message: Buffer) => {
        const isReady = message[0] === code("Z")
        const { owner } = backend
        if (owner === undefined) {
          if (message[0] === code("K")) {
            backend.pid = message.readInt32BE(5)
            backend.secret = message.subarray(9)
          }
          // of its start, or of its `DISCARD ALL`
          if (isReady) free(backend)
          return
        }
        owner.socket.write(message)
        if (!isReady) return
        owner.due--
        if (owner.due > 0 || message[5] !== code("I")) return
        owner.backend = undefined
        backend.owner = undefined
        backend.socket.write(frame("Q", text("DISCARD ALL")))
      }

      const openBackend = () => {
        if (isClosed) return
        const socket = connect({ host: hostname, port: Number(port) })
        const backend: Backend = { socket, pid: 0, secret: Buffer.alloc(0), owner: undefined }
        backends.add(backend)
        socket.setNoDelay(true)
        socket.write(startup(pathname.slice(1)))
        socket.on(
          "data",
          framed(
            () => 1,
            (message) => toClient(backend, message)
          )
        )
        socket.on("error", () => socket.destroy())
        socket.on("close", () => {
          backends.delete(backend)
          if (idle.includes(backend)) idle.splice(idle.indexOf(backend), 1)
          backend.owner?.socket.destroy()
          openBackend()
        })
      }

      const cancel = (id: number) => {
        const backend = clients.get(id)?.backend
        if (backend === undefined) return
        const socket = connect({ host: hostname, port: Number(port) })
        socket.on("error", () => socket.destroy())
        const body = Buffer.concat([int32(cancelRequest, backend.pid), backend.secret])
        socket.end(Buffer.concat([int32(body.length + 4), body]))
      }

      const server = createServer((socket) => {
        const client: Client = { socket, id: ++ids, seen: new Set(), held: [], backend: undefined, due: 0 }
        clients.set(client.id, client)
        socket.setNoDelay(true)
        let isStarted = false
        const start = (message: Buffer) => {
          const asked = message.readInt32BE(4)
          if (asked === sslRequest) return socket.write("N")
          if (asked === cancelRequest) {
            cancel(message.readInt32BE(8))
            return socket.end()
          }
          isStarted = true
          return socket.write(
            Buffer.concat([
              frame("R", int32(0)),
              frame("S", text("server_version", "18.0")),
              frame("S", text("client_encoding", "UTF8")),
              frame("S", text("standard_conforming_strings", "on")),
              frame("K", int32(client.id, client.id)),
              frame("Z", Buffer.from("I"))
            ])
          )
        }
        socket.on(
          "data",
          framed(
            () => (isStarted ? 1 : 0),
            (message) => (isStarted ? toServer(client, message) : start(message))
          )
        )
        socket.on("error", () => socket.destroy())
        socket.on("close", () => {
          clients.delete(client.id)
          if (waiting.includes(client)) waiting.splice(waiting.indexOf(client), 1)
          // in the middle of a transaction: nobody else may get this backend
          client.backend?.socket.destroy()
        })
      })

      for (let i = 0; i < options.backends; i++) openBackend()
      server.listen({ host: "127.0.0.1", port: 0 }, () => {
        const address = server.address()
        const port = address !== null && typeof address === "object" ? address.port : 0
        const close = () => {
          isClosed = true
          server.close()
          for (const { socket } of [...clients.values(), ...backends]) socket.destroy()
        }
        resume(
          Effect.succeed({
            url: `postgres://postgres@127.0.0.1:${port}${pathname}`,
            spread: () => spread,
            listens: () => listens,
            close
          })
        )
      })
    }),
    ({ close }) => Effect.sync(close)
  )

/** Runs `body` on a database of its own, with a client that reaches it through a pooler only. */
export const pooled = (
  listens: Listens,
  body: (pooler: Pooler) => Effect.Effect<void, unknown, PgClient.PgClient | SqlClient | Scope.Scope>,
  isolation = "read committed"
) =>
  Effect.gen(function* () {
    const database = yield* TestDatabase.create({ migrated: true })
    yield* SqlClient.use(
      (sql) => sql`ALTER DATABASE ${sql(database)} SET default_transaction_isolation = ${sql.literal(`'${isolation}'`)}`
    ).pipe(Effect.provide(TestDatabase.client(database, { maxConnections: 1 })))
    const pooler = yield* start(TestDatabase.url(database), { backends: 3, listens })
    const client = PgClient.layer({ url: Redacted.make(pooler.url), prepare: false, maxConnections: 6 })
    yield* Effect.scoped(body(pooler)).pipe(Effect.provide(client))
  })
