import { execFileSync } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { assert, describe, it } from "@effect/vitest"

const root = resolve(import.meta.dirname, "..")
const folder = join(root, ".examples")

const files = (directory: string, extension: string): ReadonlyArray<string> =>
  readdirSync(join(root, directory), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(extension))
    .map((name) => join(directory, name))

/** The TypeScript blocks of a text; a doc comment's stars are taken off first. */
const blocks = (text: string): ReadonlyArray<string> =>
  [...text.replaceAll(/^ *\* ?/gm, "").matchAll(/^```ts\n(.*?)^```$/gms)].flatMap(([, code]) =>
    code === undefined ? [] : [code]
  )

describe("documentation", () => {
  const documented = ["README.md", ...files("docs", ".md"), ...files("src", ".ts")].flatMap((file) =>
    blocks(readFileSync(join(root, file), "utf8")).map((code, i) => ({ file, i, code }))
  )

  it("has examples that compile, in the README, in the pages of docs/ and in doc comments", () => {
    assert.isAtLeast(documented.length, 25)
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder)
    for (const { file, i, code } of documented) {
      writeFileSync(join(folder, `${file.replaceAll(/[/.]/g, "_")}_${i}.ts`), `${code}\nexport {}\n`)
    }
    writeFileSync(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        extends: "../tsconfig.json",
        compilerOptions: {
          noUnusedLocals: false,
          noUnusedParameters: false,
          paths: { "effect-runledger": ["../src/index.ts"], "effect-runledger/testing": ["../src/testing/index.ts"] }
        },
        include: ["*.ts"]
      })
    )
    try {
      execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], {
        encoding: "utf8"
      })
    } catch (error) {
      assert.fail(error instanceof Error && "stdout" in error ? String(error.stdout) : String(error))
    }
    rmSync(folder, { recursive: true, force: true })
  })

  it("shows on its first screen what examples/first-screen.ts is, which a test runs", () => {
    const [shown = ""] = blocks(readFileSync(join(root, "README.md"), "utf8"))
    const example = readFileSync(join(root, "examples/first-screen.ts"), "utf8")
      .replaceAll(/^export /gm, "")
      .replace("../src/index.ts", "effect-runledger")
    const isImport = (line: string) => line.startsWith("import ")
    const [ofReadme, ofExample] = [shown, example].map((code) => ({
      imports: code.split("\n").filter(isImport).sort(),
      // an export makes a line longer, and the formatter breaks it elsewhere
      rest: code
        .split("\n")
        .filter((line) => !isImport(line))
        .join("")
        .replaceAll(/\s/g, "")
    }))
    assert.deepStrictEqual(ofExample, ofReadme)
  })

  it("covers every public operation: what it does, how it fails, an example", () => {
    const undocumented: Array<string> = []
    let operations = 0
    for (const file of files("src", ".ts")) {
      const text = readFileSync(join(root, file), "utf8")
      for (const [, name = ""] of text.matchAll(/\b(?:reading|writing)\("\w+\.(\w+)"\)/g)) {
        operations += 1
        const [, comment = ""] =
          new RegExp(String.raw`/\*\*((?:(?!\*/).)*)\*/\s*export (?:const|function) ${name}\b`, "s").exec(text) ?? []
        if (!comment.includes("@example") || !/fails?\b/i.test(comment)) undocumented.push(`${file}: ${name}`)
      }
    }
    assert.deepStrictEqual(undocumented, [])
    assert.isAtLeast(operations, 30)
  })
})
