/**
 * One numbered, forward-only step of the schema.
 *
 * A migration is data: the text that is applied is the text that is checksummed, printed and bundled. The driver takes
 * one statement at a time, so `statements` is a list.
 */
export interface Migration {
  /** Position in the history, from 1, without gaps. */
  readonly id: number
  /** What the step adds, in snake case. */
  readonly name: string
  /**
   * Whether code that does not know this step must refuse to run on it. `false` promises that the step only adds tables,
   * columns that are nullable or have a default, indexes and functions, and constrains nothing that existed before.
   */
  readonly breaking: boolean
  /** The SQL, in the order in which it is applied. */
  readonly statements: ReadonlyArray<string>
}
