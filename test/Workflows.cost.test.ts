/** What an operation on a run costs must not depend on what else there is. */
import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql/SqlClient"
import { Jobs, TenantScope, Workflows } from "../src/index.ts"
import { planWith, prepare, record } from "./support/plans.ts"
import { rollback } from "./support/rollback.ts"
import * as TestDatabase from "./support/TestDatabase.ts"
import { claim, declare, enqueue, step } from "./support/workflows.ts"

it.layer(TestDatabase.layer, { timeout: "60 seconds" })("Workflows, what they cost", (it) => {
  it.effect("a completion does not look at what was canceled in other runs", () =>
    Effect.gen(function* () {
      yield* declare
      const sql = yield* SqlClient
      const crowd = yield* enqueue(Array.from({ length: 900 }, (_, n) => step(`s${n}`)))
      yield* claim(900)
      yield* Workflows.cancel(TenantScope.global, crowd.id)
      yield* enqueue([step("a"), step("b", { after: ["a"] })])
      const lease = (yield* claim()).get("a") ?? assert.fail("nothing was claimed")
      // the statistics of a moment when hardly anything was there are the rule, not the exception
      yield* sql`ALTER TABLE runledger.workflow_steps SET (autovacuum_enabled = false)`
      const statements = yield* record(Jobs.completeSuccess(lease))
      const settling = statements.filter(({ text }) => text.includes("workflow_active_claims"))
      assert.strictEqual(settling.length, 1)
      for (const mode of ["force_custom_plan", "force_generic_plan"] as const) {
        yield* rollback(
          Effect.gen(function* () {
            yield* planWith(mode)
            for (const statement of settling) {
              const { scanned, buffers } = yield* (yield* prepare(statement)).explain(statement.parameters)
              // the other tables hold a row or two
              assert.notInclude(scanned, "job_queue", mode)
              assert.notInclude(scanned, "workflow_steps", mode)
              assert.isBelow(buffers, 200, mode)
            }
          })
        )
      }
    })
  )
})
