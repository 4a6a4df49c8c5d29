/**
 * What is measured. Each measurement prepares its jobs unmeasured, and returns what is then timed.
 */
import * as Effect from "effect/Effect"
import type { SqlClient } from "effect/sql/SqlClient"
import { Jobs } from "../src/index.ts"
import { Mismatch, type Queue, reapedType, types } from "./Queue.ts"
import * as Sql from "./Sql.ts"
import type { TableState } from "./TableState.ts"
import { stepType } from "./Workflows.ts"

type Timed = Effect.Effect<unknown, unknown, SqlClient>

export interface Measurement {
  readonly name: string
  readonly description: string
  /** What a rate counts. */
  readonly unit: "jobs" | "calls" | "steps"
  readonly count: number
  /** Whether the raw queue has the like. */
  readonly hasRaw: boolean
  /** The least that ours may reach of raw. */
  readonly target?: number
  readonly prepare: <Taken>(queue: Queue<Taken>, state: TableState) => Effect.Effect<Timed, unknown, SqlClient>
}

const times = (count: number) => Array.from({ length: count }, (_, n) => n)

let keys = 0

const enqueue = (concurrency: number, keyed: boolean, count: number): Measurement => ({
  name: `${keyed ? "keyed" : "enqueue"}-${concurrency}`,
  description: `one job per call${keyed ? ", each with a key of its own" : ""}, ${concurrency} in flight`,
  unit: "jobs",
  count,
  hasRaw: true,
  ...(keyed ? {} : { target: 0.6 }),
  prepare: (queue) =>
    Effect.succeed(
      Effect.forEach(times(count), (n) => queue.enqueue(n, keyed ? `key-${keys++}` : undefined), {
        concurrency,
        discard: true
      })
    )
})

const enqueueMany = (size: number, calls: number): Measurement => ({
  name: `enqueueMany-${size}`,
  description: `${size} jobs per call, one call at a time`,
  unit: "jobs",
  count: size * calls,
  hasRaw: true,
  prepare: (queue) => Effect.succeed(Effect.forEach(times(calls), () => queue.enqueueMany(size), { discard: true }))
})

const served = (state: TableState) => types.slice(0, state.types)

const drain = (batch: number, count: number): Measurement => ({
  name: `drain-${batch}`,
  description: `two loops, each claims ${batch} and completes them, until nothing is due`,
  unit: "jobs",
  count,
  hasRaw: true,
  ...(batch === 500 ? { target: 0.4 } : {}),
  prepare: Effect.fnUntraced(function* (queue, state) {
    yield* queue.feed(count, state.types, state.priorities)
    let drained = 0
    const loop = Effect.fnUntraced(function* (worker: string) {
      while (true) {
        const taken = yield* queue.claim(worker, batch, served(state))
        if (taken.length === 0) return
        yield* queue.complete(taken)
        drained += taken.length
      }
    })
    return Effect.all([loop("worker-1"), loop("worker-2")], { concurrency: 2, discard: true }).pipe(
      Effect.andThen(
        Effect.suspend(() =>
          drained === count
            ? Effect.void
            : Effect.fail(new Mismatch({ message: `drained ${drained} jobs instead of ${count}` }))
        )
      )
    )
  })
})

const heartbeat = (size: number, calls: number): Measurement => ({
  name: `heartbeat-${size}`,
  description: `renewing ${size} leases per call`,
  unit: "jobs",
  count: size * calls,
  hasRaw: true,
  prepare: Effect.fnUntraced(function* (queue, state) {
    yield* queue.feed(size, state.types, state.priorities)
    const taken = yield* queue.claim("worker-1", size, served(state))
    return Effect.forEach(times(calls), () => queue.heartbeat(taken), { discard: true })
  })
})

const idle = (calls: number): Measurement => ({
  name: "idle",
  description: "claims that find nothing due, one at a time",
  unit: "calls",
  count: calls,
  hasRaw: true,
  prepare: (queue, state) =>
    Effect.succeed(
      Effect.forEach(
        times(calls),
        () =>
          Effect.filterOrFail(
            queue.claim("worker-1", 10, served(state)),
            (taken) => taken.length === 0,
            () => new Mismatch({ message: "something was due" })
          ),
        { discard: true }
      )
    )
})

const reap = (batch: number, count: number): Measurement => ({
  name: `reap-${batch}`,
  description: `ending ${batch} expired leases per call, each with a retry`,
  unit: "jobs",
  count,
  hasRaw: false,
  prepare: () =>
    Effect.gen(function* () {
      yield* Sql.run(`
        INSERT INTO runledger.job_queue (job_type, payload, max_attempts, next_run_at, created_at, updated_at)
        SELECT '${reapedType}', '{}', 3, at, at, at
        FROM (SELECT clock_timestamp() AS at) c, generate_series(1, ${count})`)
      for (let left = count; left > 0; left -= 500) {
        yield* Jobs.claim({ workerId: "worker-1", types: [reapedType], limit: Math.min(left, 500), lease: 1 })
      }
      yield* Effect.sleep("5 millis")
      return Effect.forEach(times(count / batch), () =>
        Effect.filterOrFail(
          Jobs.reapExpiredLeases({ limit: batch }),
          ({ leases }) => leases.length === batch,
          () => new Mismatch({ message: "fewer leases than expected had expired" })
        )
      )
    })
})

const graph = (size: number, calls: number): Measurement => ({
  name: `graph-${size}`,
  description: `runs of ${size} steps, each of which waits for four others, one call for each run`,
  unit: "steps",
  count: size * calls,
  hasRaw: true,
  // the first call finds no plan
  prepare: ({ graphs }) =>
    Effect.as(
      graphs.enqueue(size),
      Effect.forEach(times(calls), () => graphs.enqueue(size), { discard: true })
    )
})

const release = (dependents: number): Measurement => ({
  name: `release-${dependents}`,
  description: `the end of a step that ${dependents} others wait for, which are enqueued`,
  unit: "steps",
  count: dependents,
  hasRaw: true,
  prepare: ({ graphs }) => graphs.release(dependents)
})

const step = (size: number, count: number): Measurement => ({
  name: `step-${size}`,
  description: `the ends of steps with four dependents each, in a run of ${size}; raw is the same in runs of 10`,
  unit: "steps",
  count,
  hasRaw: true,
  target: 0.9,
  prepare: ({ graphs }) => graphs.complete(count, size)
})

const fan = (size: number, batch: number): Measurement => ({
  name: `fan-${size}`,
  description: `a fan-out of ${size} and its join, claimed and completed ${batch} at a time; raw are as many jobs`,
  unit: "steps",
  count: size + 1,
  hasRaw: true,
  prepare: Effect.fnUntraced(function* (queue) {
    yield* queue.graphs.fanOut(size)
    return Effect.gen(function* () {
      let left = size + 1
      while (left > 0) {
        const taken = yield* queue.claim("worker-1", batch, [stepType])
        if (taken.length === 0) return yield* new Mismatch({ message: `${left} steps were never due` })
        yield* queue.complete(taken)
        left -= taken.length
      }
    })
  })
})

/** The measurements; `quick` takes a tenth of the jobs. */
export const measurements = (quick: boolean): ReadonlyArray<Measurement> => {
  const n = (count: number) => (quick ? count / 10 : count)
  return [
    enqueue(1, false, n(2000)),
    enqueue(10, false, n(5000)),
    enqueue(1, true, n(2000)),
    enqueue(10, true, n(5000)),
    enqueueMany(500, n(20)),
    drain(500, quick ? 4000 : 20_000),
    drain(50, n(10_000)),
    drain(10, n(5000)),
    heartbeat(500, n(20)),
    idle(n(1000)),
    reap(500, quick ? 1000 : 5000),
    graph(600, n(50)),
    release(1000),
    step(10_000, n(200)),
    fan(1000, 100)
  ]
}
