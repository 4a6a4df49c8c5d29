/**
 * A client whose statements are changed on their way to the database, to see which test notices.
 */
import { Context, Effect, Layer } from "effect"
import { CurrentTransformer, type Transformer } from "effect/sql/Statement"

/** A change to the text of one kind of statement. */
export interface Edit {
  /** A piece of text that this kind of statement has and no other. */
  readonly statement: string
  /** What is replaced, wherever it stands. */
  readonly search: string | RegExp
  /** With the references of `String.replaceAll`. */
  readonly replace: string
}

/** What went through the client. */
export interface Statements {
  /** How many statements had this piece of text. */
  readonly seen: (piece: string) => number
  /** The last of them, as it was sent. */
  readonly last: (piece: string) => { readonly text: string; readonly params: ReadonlyArray<unknown> } | undefined
  /** The edits that changed a statement. */
  readonly applied: () => ReadonlySet<Edit>
}

/** What went through the client of a test. */
export const Statements = Context.Service<Statements>("test/support/MutatedSqlClient/Statements")

/** Applies the edits to whatever the fiber sends, on any connection of any client, and keeps count. */
export const layer = (edits: ReadonlyArray<Edit>): Layer.Layer<Statements> =>
  Layer.effectContext(
    Effect.sync(() => {
      const sent: Array<{ readonly text: string; readonly params: ReadonlyArray<unknown> }> = []
      const applied = new Set<Edit>()
      const transformer: Transformer = (self, sql) =>
        Effect.sync(() => {
          const [original, params] = self.compile()
          let text = original
          for (const edit of edits) {
            if (!original.includes(edit.statement)) continue
            const next = text.replaceAll(edit.search, edit.replace)
            if (next !== text) applied.add(edit)
            text = next
          }
          sent.push({ text, params })
          return text === original ? self : sql.unsafe(text, params)
        })
      const statements: Statements = {
        seen: (piece) => sent.filter(({ text }) => text.includes(piece)).length,
        last: (piece) => sent.findLast(({ text }) => text.includes(piece)),
        applied: () => applied
      }
      return Context.make(Statements, statements).pipe(Context.add(CurrentTransformer, transformer))
    })
  )

/** Sends what `self` sends as it is: for what a test prepares. */
export const unchanged: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Effect.provideService(
  CurrentTransformer,
  undefined
)
