/**
 * From rounds to a table.
 */
import type { Measurement } from "./Measurement.ts"
import type { TableState } from "./TableState.ts"

/** What one contestant did in one round. */
export interface Sample {
  /** Per second. */
  readonly rate: number
  /** Microseconds per job or call. */
  readonly clientCpu: number
  readonly serverCpu: number | undefined
}

/** The samples of one round were taken right after each other. */
export interface Round {
  readonly raw: Sample | undefined
  readonly ours: Sample
  /** Ours on the empty table; `undefined` where that is the state itself. */
  readonly empty: Sample | undefined
}

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export interface Line {
  readonly state: string
  readonly measurement: string
  readonly unit: string
  readonly rounds: number
  readonly raw: Spread | undefined
  readonly ours: Spread
  /** Of the ratios of paired rounds, not the ratio of the medians. */
  readonly oursToRaw: Spread | undefined
  readonly oursToEmpty: Spread | undefined
  readonly clientCpuMicros: number
  readonly serverCpuMicros: number | undefined
  readonly targets: ReadonlyArray<{ readonly name: string; readonly value: number; readonly met: boolean }>
}

const middle = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN
  return (lower + upper) / 2
}

const spreadOf = (values: ReadonlyArray<number>): Spread => ({
  median: middle(values),
  min: Math.min(...values),
  max: Math.max(...values)
})

const present = <A>(values: ReadonlyArray<A | undefined>): ReadonlyArray<A> =>
  values.flatMap((value) => (value === undefined ? [] : [value]))

/** What a table state, or its statistics, may cost. */
export const stateTarget = 0.9

export const line = (state: TableState, measurement: Measurement, rounds: ReadonlyArray<Round>): Line => {
  const spread = (values: ReadonlyArray<number | undefined>) => {
    const given = present(values)
    return given.length === 0 ? undefined : spreadOf(given)
  }
  const oursToRaw = spread(rounds.map(({ ours, raw }) => (raw === undefined ? undefined : ours.rate / raw.rate)))
  const oursToEmpty = spread(
    rounds.map(({ ours, empty }) => (empty === undefined ? undefined : ours.rate / empty.rate))
  )
  const isOtherJob = state.types > 1 || state.priorities > 1
  const serverCpu = present(rounds.map(({ ours }) => ours.serverCpu))
  return {
    state: state.name,
    measurement: measurement.name,
    unit: measurement.unit,
    rounds: rounds.length,
    raw: spread(rounds.map(({ raw }) => raw?.rate)),
    ours: spreadOf(rounds.map(({ ours }) => ours.rate)),
    oursToRaw,
    oursToEmpty,
    clientCpuMicros: middle(rounds.map(({ ours }) => ours.clientCpu)),
    serverCpuMicros: serverCpu.length === 0 ? undefined : middle(serverCpu),
    targets: isOtherJob
      ? []
      : [
          ...(measurement.target === undefined || oursToRaw === undefined
            ? []
            : [{ name: "raw", value: measurement.target, met: oursToRaw.median >= measurement.target }]),
          ...(oursToEmpty === undefined
            ? []
            : [{ name: "empty", value: stateTarget, met: oursToEmpty.median >= stateTarget }])
        ]
  }
}

const rate = (value: number | undefined) => (value === undefined ? "-" : Math.round(value).toLocaleString("en-US"))

const percent = (value: number) => `${Math.round(value * 100)}%`

const ratio = (spread: Spread | undefined) =>
  spread === undefined ? "-" : `${percent(spread.median)} (${percent(spread.min)}..${percent(spread.max)})`

const micros = (value: number | undefined) => (value === undefined ? "-" : value.toFixed(value < 10 ? 1 : 0))

/** A table in plain text. */
export const table = (lines: ReadonlyArray<Line>): string => {
  const head = [
    "state",
    "measurement",
    "raw/s",
    "ours/s",
    "ours:raw",
    "ours:empty",
    "client us",
    "server us",
    "targets"
  ]
  const body = lines.map((each) => [
    each.state,
    each.measurement,
    rate(each.raw?.median),
    rate(each.ours.median),
    ratio(each.oursToRaw),
    ratio(each.oursToEmpty),
    micros(each.clientCpuMicros),
    micros(each.serverCpuMicros),
    each.targets.map(({ met, name, value }) => `${met ? "met" : "MISSED"} (${percent(value)} of ${name})`).join(", ")
  ])
  const widths = head.map((title, column) => Math.max(title.length, ...body.map((row) => row[column]?.length ?? 0)))
  const textColumns = 2
  return [head, ...body]
    .map((row) =>
      row
        .map((cell, column) =>
          column < textColumns || column === head.length - 1
            ? cell.padEnd(widths[column] ?? 0)
            : cell.padStart(widths[column] ?? 0)
        )
        .join("  ")
        .trimEnd()
    )
    .join("\n")
}
