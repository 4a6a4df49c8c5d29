/**
 * Rows that another transaction holds: asked again for a while, never waited for.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/** How long an operation asks again for rows that another transaction holds, in milliseconds. */
export const patienceMillis = 2000

// the caller's clock may be a test clock that nobody moves while we wait
const liveClock = Clock.Clock.defaultValue()

/** Waits on the clock of the machine, whatever clock the fiber has. */
export const sleepLive = (millis: number): Effect.Effect<void> =>
  Effect.provideService(Effect.sleep(millis), Clock.Clock, liveClock)

/**
 * Runs `ask` for all of `items`, then again for those that it found busy, with growing pauses, until none is left or the
 * patience has run out. Each round is a statement of its own with a fresh snapshot; what earlier rounds did stays done.
 *
 * Returns the answer of each item, `undefined` for those that stayed busy.
 */
export const askUntilFree = Effect.fnUntraced(function* <
  Item extends { readonly lease: { readonly jobId: string } },
  Answer,
  E,
  R
>(
  items: ReadonlyArray<Item>,
  ask: (items: ReadonlyArray<Item>) => Effect.Effect<ReadonlyMap<string, Answer | "busy">, E, R>
): Effect.fn.Return<Map<string, Answer>, E, R> {
  const answers = new Map<string, Answer>()
  const deadline = liveClock.currentTimeMillisUnsafe() + patienceMillis
  let left = items
  for (let pause = 4; left.length > 0; pause = Math.min(pause * 2, 128)) {
    const busy = new Set<string>()
    for (const [id, answer] of yield* ask(left)) {
      if (answer === "busy") busy.add(id)
      else answers.set(id, answer)
    }
    left = left.filter((item) => busy.has(item.lease.jobId))
    if (left.length === 0 || liveClock.currentTimeMillisUnsafe() >= deadline) break
    yield* sleepLive(pause)
  }
  return answers
})
