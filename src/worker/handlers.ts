import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { AnyContract, Handler } from "../JobContract.ts"
import { InvalidArgument } from "../Reason.ts"

/** The handlers that a worker of these jobs needs. */
export type HandlersOf<Jobs extends ReadonlyArray<AnyContract>> = Jobs[number]["handles"]

/** The handlers of these jobs by type; fails if a type is given twice. */
export const handlersOf = <Jobs extends ReadonlyArray<AnyContract>>(
  jobs: Jobs | undefined
): Effect.Effect<ReadonlyMap<string, Handler>, InvalidArgument, HandlersOf<Jobs>> =>
  Effect.contextWith((context: Context.Context<HandlersOf<Jobs>>) => {
    const handlers = new Map<string, Handler>()
    for (const job of jobs ?? []) {
      if (handlers.has(job.jobType)) {
        return Effect.fail(new InvalidArgument({ argument: "jobs", rule: `must not hold ${job.jobType} twice` }))
      }
      const handler = job.handlerIn(context)
      if (Option.isSome(handler)) handlers.set(job.jobType, handler.value)
    }
    return Effect.succeed(handlers)
  })
