/**
 * Lines that stay, and one that is written over and over.
 */
import { Effect } from "effect"

const { stdout } = process
let isOpen = false

const clear = () => {
  if (isOpen) stdout.write("\r\u001b[2K")
  isOpen = false
}

/** Writes lines that stay. */
export const say = (...lines: ReadonlyArray<string>): Effect.Effect<void> =>
  Effect.sync(() => {
    clear()
    stdout.write(`${lines.join("\n")}\n`)
  })

/** The line that is rewritten on a terminal; elsewhere at most one a second is written. */
export const status = (() => {
  let writtenAt = Number.NEGATIVE_INFINITY
  let written = ""
  return (line: string): Effect.Effect<void> =>
    Effect.sync(() => {
      if (stdout.isTTY) {
        clear()
        stdout.write(line.slice(0, (stdout.columns ?? 80) - 1))
        isOpen = true
      } else if (line !== written && performance.now() - writtenAt >= 1000) {
        stdout.write(`${line}\n`)
        written = line
        writtenAt = performance.now()
      }
    })
})()

export const number = (n: number): string => n.toLocaleString("en-US")

export const plural = (n: number, one: string, many = `${one}s`): string => `${number(n)} ${n === 1 ? one : many}`

/** Rows in columns: the first to the left, the others to the right. */
export const table = (rows: ReadonlyArray<ReadonlyArray<string>>): ReadonlyArray<string> => {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map(
    (row) =>
      `  ${row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join("   ")}`
  )
}
