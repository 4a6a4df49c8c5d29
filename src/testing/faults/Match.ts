import type { Connection } from "effect/sql/SqlConnection"

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

export const operationOf = (sql: string): Operation => {
  const [, verb = "", to] = leadingWords.exec(sql.slice(0, 1000)) ?? []
  const word = verb.toUpperCase()
  if (word === "ROLLBACK" && to !== undefined) return "ROLLBACK TO"
  return operations.find((operation) => operation === word) ?? synonyms[word] ?? "OTHER"
}

export const matches = (match: Match | undefined, statement: SeenStatement): boolean =>
  match === undefined
    ? true
    : typeof match === "string"
      ? statement.operation === match
      : typeof match === "function"
        ? match(statement)
        : statement.sql.search(match) !== -1
