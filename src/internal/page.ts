/**
 * Pages of reads.
 */
import { InvalidPagination } from "../Reason.ts"

/** The most rows of a page. */
export const maxPage = 1000

/** The rule that a page size breaks. */
export const invalidLimit = (limit: number): InvalidPagination | undefined =>
  Number.isInteger(limit) && limit >= 1 && limit <= maxPage ? undefined : new InvalidPagination()
