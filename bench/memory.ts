/**
 * `npm run bench:memory [-- --jobs <n>]`: whether a worker keeps anything of the jobs that it has run, see README.md.
 */
import { cpus } from "node:os"
import { parseArgs } from "node:util"
import { PgClient } from "@effect/sql-pg"
import * as Console from "effect/Console"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as EmbeddedPostgres from "../dev/EmbeddedPostgres.ts"
import { Job, JobExecution, Jobs, Migrator, Notifications, Reaper, Worker } from "../src/index.ts"
import { Mismatch } from "./Queue.ts"

const { values: options } = parseArgs({ options: { jobs: { type: "string", default: "200000" } } })
const jobs = Number(options.jobs)
const batch = 500

class Small extends Job.make("bench.memory", {
  payload: { n: Schema.Int },
  success: Schema.Struct({ doubled: Schema.Int })
}) {}

const heapMegabytes = (collect: () => void) => {
  // what the first collection lets go of, the second frees
  collect()
  collect()
  return process.memoryUsage().heapUsed / 2 ** 20
}

const program = Effect.gen(function* () {
  const collect = globalThis.gc
  if (collect === undefined) return yield* new Mismatch({ message: "Run it with --expose-gc" })
  if (!(jobs >= 4 * batch)) return yield* new Mismatch({ message: `--jobs takes a number from ${4 * batch}` })

  const marks = [0.25, 0.5, 0.75, 1].map((part) => Math.floor(jobs * part))
  const measured: Array<number> = []
  const isOver = yield* Deferred.make<void>()
  let ended = 0
  let succeeded = 0
  const observer: Worker.Observer = (event) =>
    Effect.suspend(() => {
      if (event._tag === "Running") return Effect.void
      ended++
      if (event._tag === "Ended" && event.outcome._tag === "Succeeded") succeeded++
      if (!marks.includes(ended)) return Effect.void
      const heap = heapMegabytes(collect)
      measured.push(heap)
      const told = Console.log(`${String(ended).padStart(9)} jobs   ${heap.toFixed(1)} MiB`)
      return ended < jobs ? told : Effect.andThen(told, Deferred.succeed(isOver, undefined))
    })

  // every part of a worker that could keep something: progress, a log line, an output
  const SmallLive = Small.toLayer(
    Effect.fnUntraced(function* ({ n }) {
      const job = yield* JobExecution.JobExecution
      if (n % 10 === 0) yield* job.progress({ done: 1, total: 2 })
      if (n % 10 === 1) yield* Effect.logDebug("kept with the job")
      return { doubled: 2 * n }
    })
  )
  yield* Effect.forEach(
    Array.from({ length: Math.ceil(jobs / batch) }, (_, i) => i),
    (i) =>
      Jobs.enqueueMany(
        Array.from({ length: Math.min(batch, jobs - i * batch) }, (_, n) => Jobs.request(Small, { n: i * batch + n }))
      ),
    { discard: true }
  )
  const began = performance.now()
  const worker = Worker.layer({
    jobs: [Small],
    concurrency: 200,
    claimBatchSize: 200,
    logLevel: "Debug",
    observers: [observer]
  })
  yield* Effect.scoped(
    Effect.andThen(
      Layer.build(
        Layer.mergeAll(worker, Reaper.layer()).pipe(Layer.provide(SmallLive), Layer.provide(Notifications.layer))
      ),
      Deferred.await(isOver)
    )
  )
  const seconds = (performance.now() - began) / 1000
  const [first = Number.NaN] = measured
  const last = measured.at(-1) ?? Number.NaN
  yield* Console.log(
    `${jobs} jobs in ${seconds.toFixed(0)} s, ${succeeded} succeeded; ` +
      `heap at the end: ${(last / first).toFixed(2)} of that after a quarter`
  )
})

const main = Effect.gen(function* () {
  const server = yield* EmbeddedPostgres.start({ settings: { max_wal_size: "8GB" } })
  yield* Console.log(
    `PostgreSQL ${server.version}, embedded; node ${process.version}, ${cpus().length} x ${cpus()[0]?.model ?? "?"}\n`
  )
  const client = PgClient.layer({ url: Redacted.make(`${server.url}/postgres`) })
  yield* Effect.provide(program, Layer.provideMerge(Migrator.layer, client))
})

Effect.runPromise(Effect.scoped(main)).catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
