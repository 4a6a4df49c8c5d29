/**
 * What a layer does again and again until it is closed.
 */
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"

/** Pauses after failures, in milliseconds; they double from one to the other. */
const minPause = 1000
const maxPause = 30_000

/** These milliseconds give or take a fifth: processes that were started together do not stay in step. */
export const spread = (millis: number): Effect.Effect<number> =>
  Effect.map(Random.nextBetween(0.8, 1.2), (part) => millis * part)

/** Sleeps {@link spread} milliseconds. */
export const rest = (millis: number): Effect.Effect<void> => Effect.flatMap(spread(millis), Effect.sleep)

/**
 * Makes a pass at once, then rests as its result says, and so on. Whatever happens it goes on: a pass that fails is logged as a
 * warning, and made again after 1 to 30 seconds. Passes are not traced: nobody called them.
 */
export const forever = <A, E, R>(
  failed: string,
  pass: Effect.Effect<A, E, R>,
  then: (result: A) => Effect.Effect<void>
): Effect.Effect<never, never, R> =>
  Effect.suspend(() => {
    let failures = 0
    return pass.pipe(
      Effect.withTracerEnabled(false),
      Effect.matchCauseEffect({
        onSuccess: (result) => {
          failures = 0
          return then(result)
        },
        onFailure: (cause) =>
          Effect.andThen(
            Effect.logWarning(`${failed} failed and is tried again`, cause),
            rest(Math.min(maxPause, minPause * 2 ** failures++))
          )
      }),
      Effect.forever
    )
  })
