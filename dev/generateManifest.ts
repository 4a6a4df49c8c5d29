/**
 * Writes `src/migrator/manifest.generated.ts`: the definitions to which the migrations lead, read from a real server.
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Migrator from "../src/Migrator.ts"
import { type Definitions, read } from "../src/migrator/catalog.ts"
import { normalizeSession, transaction } from "../src/migrator/transaction.ts"
import * as EmbeddedPostgres from "./EmbeddedPostgres.ts"
import { projectRoot } from "./embedded-postgres/projectRoot.ts"

const literal = (text: string) =>
  text.includes("\n") ? `\`${text.replaceAll(/[\\`]|\$\{/g, "\\$&")}\`` : JSON.stringify(text)

const render = (definitions: Definitions) =>
  `/**
 * What the migrations lead to, as PostgreSQL 15 to 18 print it. Written by \`npm run schema:manifest\`; do not edit.
 */
import type { Definitions } from "./catalog.ts"

export const manifest: Definitions = {
${Object.entries(definitions)
  .map(
    ([kind, objects]) =>
      `  ${kind}: {\n${Object.entries(objects)
        .map(([name, definition]) => `    ${JSON.stringify(name)}: ${literal(definition)}`)
        .join(",\n")}\n  }`
  )
  .join(",\n")}
}
`

const program = Effect.gen(function* () {
  const server = yield* EmbeddedPostgres.start()
  const { definitions } = yield* Migrator.migrate.pipe(
    Effect.andThen(transaction("READ ONLY")(Effect.andThen(normalizeSession, read))),
    Effect.provide(PgClient.layer({ url: Redacted.make(`${server.url}/postgres`) }))
  )
  yield* Effect.promise(() => writeFile(join(projectRoot, "src/migrator/manifest.generated.ts"), render(definitions)))
})

await Effect.runPromise(Effect.scoped(program))
