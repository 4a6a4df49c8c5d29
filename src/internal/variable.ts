import * as Config from "effect/Config"

/** What was given, else the variable, else nothing. A variable that is not needed is not read, so it may be bad. */
export const unlessGiven = <A>(given: A | undefined, variable: Config.Config<A>): Config.Config<A | undefined> =>
  given === undefined ? Config.withDefault(variable, undefined) : Config.succeed(given)
