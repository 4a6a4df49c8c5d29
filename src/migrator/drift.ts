/**
 * Compares two sets of definitions.
 */
import { type Difference, ObjectKind } from "../SchemaCompatibilityError.ts"
import type { Definitions } from "./catalog.ts"
import * as CutOver from "./cutover.ts"

/** A definition without what may differ: only the cut-over decides when its constraints are validated. */
export const comparable = (kind: ObjectKind, name: string, definition: string): string =>
  kind === "constraint" && CutOver.constraints.has(name) ? definition.replace(/ NOT VALID$/, "") : definition

const tableOf = (kind: ObjectKind, name: string): string | undefined =>
  kind === "column" || kind === "constraint" || kind === "index" || kind === "trigger"
    ? name.slice(0, name.indexOf("."))
    : undefined

/**
 * Everything of `expected` that `actual` has not, or has otherwise. What `actual` has besides is nobody's concern: it
 * belongs to the application, or to an additive migration of a newer release. A missing table stands for all that is
 * on it.
 */
export const differences = (expected: Definitions, actual: Definitions): ReadonlyArray<Difference> =>
  ObjectKind.literals.flatMap((kind) =>
    Object.entries(expected[kind]).flatMap(([name, definition]): ReadonlyArray<Difference> => {
      const table = tableOf(kind, name)
      if (table !== undefined && !Object.hasOwn(actual.table, table)) return []
      const found = actual[kind][name]
      if (found === undefined) return [{ kind, name, expected: definition, actual: null }]
      return comparable(kind, name, found) === comparable(kind, name, definition)
        ? []
        : [{ kind, name, expected: definition, actual: found }]
    })
  )
