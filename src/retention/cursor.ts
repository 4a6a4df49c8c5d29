import * as Schema from "effect/Schema"
import type { Millis } from "./policy.ts"

/** What a pass looks at, one after the other. Lines first, so that those of jobs that go next are gone in batches of their own. */
export const kinds = ["logs", "runs", "jobs", "intents", "permits"] as const

/** One of {@link kinds}. */
export type Kind = (typeof kinds)[number]

const uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
const pattern = new RegExp(`^(logs|runs|jobs|intents|permits)(?::(${uuid})?(?::?(\\d{1,18}))?)?$`)

/** Where a pass goes on. A text, to be kept and given back as it is. */
export const Cursor = Schema.String.check(Schema.isPattern(pattern)).pipe(
  Schema.brand("effect-runledger/RetentionCursor")
)
export type Cursor = typeof Cursor.Type

/** A place in the walk of a kind: behind this row. */
export interface Place {
  readonly kind: Kind
  /** Of a job or a run; before all of them at first. */
  readonly after: string
  /** Of a line or a permit. */
  readonly number: string
}

const nil = "00000000-0000-0000-0000-000000000000"

/** What a cursor says; `undefined` if it says nothing. */
export const placeOf = (cursor: string): Place | undefined => {
  const [, name, after = nil, number = "0"] = pattern.exec(cursor) ?? []
  const kind = kinds.find((kind) => kind === name)
  return kind === undefined ? undefined : { kind, after, number }
}

/** The cursor of a place behind a row. */
export const cursorOf = (kind: Kind, ...row: ReadonlyArray<string>): Cursor => Cursor.make([kind, ...row].join(":"))

/** Whether anything of a kind is ever deleted. */
export const isAsked = (kind: Kind, ages: Millis): boolean =>
  kind === "jobs" ? (ages.succeeded ?? ages.canceled ?? ages.deadLettered) !== null : ages[kind] !== null
