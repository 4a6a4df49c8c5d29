/**
 * The trace of the caller that enqueued, as W3C trace context, so that it goes on in the handler.
 */
import * as Context from "effect/Context"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"

const pattern = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/

/** The operation's own span, if it is part of a sampled trace of the caller; `null` otherwise. */
export const traceParent = (context: Context.Context<never>): string | null => {
  const span = Context.getOrUndefined(context, Tracer.ParentSpan)
  if (span === undefined || span._tag !== "Span" || !span.sampled || Option.isNone(span.parent)) return null
  const text = `00-${span.traceId}-${span.spanId}-01`
  return pattern.test(text) ? text : null
}

/** The span that {@link traceParent} named. */
export const spanOf = (text: string): Tracer.ExternalSpan | undefined => {
  const [, traceId, spanId, flags] = pattern.exec(text) ?? []
  return traceId === undefined || spanId === undefined
    ? undefined
    : Tracer.externalSpan({ traceId, spanId, sampled: flags === "01" })
}
