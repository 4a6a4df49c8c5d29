/**
 * The gate of the run, which a person opens.
 */
import { userInfo } from "node:os"
import { createInterface } from "node:readline"
import { Effect, Option } from "effect"
import { TenantScope, Workflows } from "../../src/index.ts"
import type { CountFolder } from "./graph.ts"
import { say } from "./screen.ts"
import { sumOf } from "./sum.ts"

const { stdin, stdout } = process

/** Opens the gate if it has been reached: asks on a terminal, unless `yes`, and opens it where nobody can be asked. */
export const passGate = Effect.fn("passGate")(function* (run: Workflows.TypedRun<CountFolder>, yes: boolean) {
  const { id } = run.run
  const step = yield* Workflows.stepByKey(TenantScope.global, id, "approval")
  if (!Option.exists(step, ({ status }) => status === "WAITING_FOR_EXTERNAL")) return
  const draft = Option.match(yield* sumOf(id), { onNone: () => "?", onSome: (sum) => sum.draft })
  yield* say(`The gate is reached. The checksums of all files are in ${draft}`)
  const mayAsk = stdin.isTTY === true && stdout.isTTY === true && !yes
  const isApproved = mayAsk ? yield* ask("Publish the result? (y/N) ") : true
  if (!mayAsk) yield* say(yes ? "Opened: --yes" : "Opened: there is no terminal to ask on")
  const completed = isApproved
    ? // typed: what the workflow declares for this step
      Workflows.completeExternal(run, "approval", { by: userInfo().username })
    : // by id and scope a step ends in any way
      Workflows.completeExternal(TenantScope.global, id, "approval", { status: "FAILED", errorCode: "publish.refused" })
  yield* completed.pipe(
    Effect.catchReason("QueryError", "ExternalCompletionConflict", () => say("Somebody else was faster"))
  )
})

/** The line is read as it is, so that Ctrl-C still is a signal. */
const ask = (question: string) =>
  Effect.callback<boolean>((resume) => {
    const lines = createInterface({ input: stdin, terminal: false })
    lines.once("line", (line) => {
      resume(Effect.succeed(/^y(es)?$/i.test(line.trim())))
      lines.close()
    })
    // the end of the input is no consent
    lines.once("close", () => resume(Effect.succeed(false)))
    stdout.write(question)
    return Effect.sync(() => lines.close())
  })
