import type { Reporter, SerializedError, TestModule } from "vitest/node"

/** Closes a run with one plain line, `12 passed, 0 failed`, for whoever reads the output by program. */
export default class TallyReporter implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>, unhandledErrors: ReadonlyArray<SerializedError>): void {
    const states = modules.flatMap((module) => Array.from(module.children.allTests(), (test) => test.result().state))
    const count = (state: (typeof states)[number]) => states.filter((each) => each === state).length
    // neither a file or hook that breaks nor an error outside of every test may leave the tally looking clean
    const broken = modules.flatMap((module) =>
      [module, ...module.children.allSuites()].flatMap((each) => each.errors())
    )
    const failed = count("failed") + broken.length + unhandledErrors.length
    const skipped = count("skipped") + count("pending")
    console.log(`\n${count("passed")} passed, ${failed} failed${skipped === 0 ? "" : `, ${skipped} skipped`}`)
  }
}
