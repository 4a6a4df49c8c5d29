import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as SqlClient from "effect/sql/SqlClient"
import type * as SqlError from "effect/sql/SqlError"
import * as Tracer from "effect/Tracer"
import { type At, connectionClosed, type Fault } from "./Fault.ts"
import { type Match, matches, operationOf, type SeenStatement } from "./Match.ts"
import { type Decide, type Plan, start } from "./Plan.ts"

/** A fault, and the statement that met it. */
export interface InjectedFault {
  readonly fault: Fault
  readonly statement: SeenStatement
}

/** Arms faults while a test runs, and tells what happened. */
export class Faults extends Context.Service<
  Faults,
  {
    /** Replaces the plan. Its counting starts anew, and hanging statements of the former plan fail. */
    readonly arm: (plan: Plan) => Effect.Effect<void>
    /** No more faults; hanging statements fail with {@link connectionClosed}. */
    readonly disarm: Effect.Effect<void>
    /** Every statement seen so far, also while disarmed, in the order in which they were issued. */
    readonly statements: Effect.Effect<ReadonlyArray<SeenStatement>>
    /** How many of the statements seen so far match. */
    readonly count: (match: Match) => Effect.Effect<number>
    /** Every fault injected so far. A fault of a statement that failed before reaching it is not among them. */
    readonly injected: Effect.Effect<ReadonlyArray<InjectedFault>>
    /** Forgets the statements and faults seen so far; the plan goes on. */
    readonly clear: Effect.Effect<void>
    /** The client without faults; its statements are not seen here. */
    readonly unwrapped: SqlClient.SqlClient
  }
>()("effect-runledger/testing/FaultySqlClient/Faults") {}

export interface Armed {
  readonly decide: Decide
  readonly disarmed: Deferred.Deferred<never, SqlError.SqlError>
}

/** What happens to one statement before it is executed, and what after. */
export interface Fate {
  readonly before: Effect.Effect<void, SqlError.SqlError>
  readonly after: Effect.Effect<void, SqlError.SqlError>
}

export type Drop = (fault: { readonly at: At; readonly error: SqlError.SqlError | undefined }) => Fate["before"]

export interface Verdict {
  readonly statement: SeenStatement
  readonly faults: ReadonlyArray<Fault>
  readonly fate: (drop: Drop) => Fate
}

export const makeFaults = Effect.fnUntraced(function* (unwrapped: SqlClient.SqlClient, initial: Plan) {
  const prepare = (plan: Plan): Effect.Effect<Armed> =>
    Effect.all({ decide: start(plan), disarmed: Deferred.make<never, SqlError.SqlError>() })
  let armed = yield* prepare(initial)
  let statements: Array<SeenStatement> = []
  let injected: Array<InjectedFault> = []
  let index = 0

  const arm = (plan: Plan) =>
    Effect.flatMap(prepare(plan), (next) =>
      Effect.suspend(() => {
        const { disarmed } = armed
        armed = next
        return Effect.asVoid(Deferred.fail(disarmed, connectionClosed()))
      })
    )

  const service = Faults.of({
    arm,
    disarm: arm([]),
    statements: Effect.sync(() => statements.slice()),
    count: (match) => Effect.sync(() => statements.filter((statement) => matches(match, statement)).length),
    injected: Effect.sync(() => injected.slice()),
    clear: Effect.sync(() => {
      statements = []
      injected = []
    }),
    unwrapped
  })
  yield* Effect.addFinalizer(() => service.disarm)

  const strike = (fault: Fault, { disarmed }: Armed, drop: Drop): Fate["before"] => {
    switch (fault._tag) {
      case "Fail":
        return Effect.suspend(() => Effect.fail(fault.error ?? connectionClosed()))
      case "Hang":
        return Deferred.await(disarmed)
      case "Delay":
        return Effect.sleep(fault.duration)
      case "DropConnection":
        return drop(fault)
      case "WaitAt":
        return fault.gate.pass
    }
  }

  /** Registers a statement and asks the plan what shall happen to it. */
  const see = (seen: Pick<SeenStatement, "sql" | "params" | "method" | "backend">): Effect.Effect<Verdict> =>
    Effect.map(spanNames, (spans) => {
      const statement = { ...seen, index: index++, operation: operationOf(seen.sql), spans }
      statements.push(statement)
      const current = armed
      const faults = current.decide(statement)
      const at = (point: At, drop: Drop) =>
        Effect.forEach(
          faults.filter((fault) => fault.at === point),
          (fault) =>
            Effect.suspend(() => {
              injected.push({ fault, statement })
              return strike(fault, current, drop)
            }),
          { discard: true }
        )
      return { statement, faults, fate: (drop) => ({ before: at("before", drop), after: at("after", drop) }) }
    })

  return { service, see }
})

export const spanNames: Effect.Effect<ReadonlyArray<string>> = Effect.map(Effect.context(), (context) => {
  const names: Array<string> = []
  let span = Context.getOption(context, Tracer.ParentSpan)
  while (Option.isSome(span) && span.value._tag === "Span") {
    names.push(span.value.name)
    span = span.value.parent
  }
  return names
})
