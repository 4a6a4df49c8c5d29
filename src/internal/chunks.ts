/** The most that one statement is sent, in bytes of its items' text. */
const maxStatementBytes = 8 * 1024 * 1024

/** Splits items, in order, so that no chunk has more than `maxItems` or, unless it is one item, more than 8 MiB. */
export const chunksOf = <A>(
  items: ReadonlyArray<A>,
  maxItems: number,
  bytesOf: (item: A) => number
): ReadonlyArray<ReadonlyArray<A>> => {
  const chunks: Array<Array<A>> = []
  let chunk: Array<A> = []
  let bytes = 0
  for (const item of items) {
    const size = bytesOf(item)
    if (chunk.length === maxItems || (chunk.length > 0 && bytes + size > maxStatementBytes)) {
      chunks.push(chunk)
      chunk = []
      bytes = 0
    }
    chunk.push(item)
    bytes += size
  }
  if (chunk.length > 0) chunks.push(chunk)
  return chunks
}
