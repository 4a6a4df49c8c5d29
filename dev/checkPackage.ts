/**
 * Packs the project, installs the tarball next to its peers in an empty project, and uses it there as its users do:
 * what the sources promise, the package has to keep.
 */
import { execFile } from "node:child_process"
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises"
import { homedir, tmpdir } from "node:os"
import { join, relative } from "node:path"
import { promisify } from "node:util"
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as Console from "effect/Console"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { projectRoot } from "./embedded-postgres/projectRoot.ts"

class PackageProblem extends Data.TaggedError("PackageProblem")<{ readonly message: string }> {}

const Manifest = Schema.fromJsonString(
  Schema.Struct({
    name: Schema.String,
    exports: Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Struct({ default: Schema.String })])),
    peerDependencies: Schema.Record(Schema.String, Schema.String),
    devDependencies: Schema.Record(Schema.String, Schema.String)
  })
)
type Manifest = typeof Manifest.Type

const execute = promisify(execFile)

/** The output of the failed command is the message: it says more than the exit code. */
const describe = (cause: unknown) => {
  const output =
    typeof cause === "object" && cause !== null && "stdout" in cause && "stderr" in cause
      ? `${cause.stdout}${cause.stderr}`.trim()
      : ""
  return output === "" ? String(cause) : output
}

const attempt = <A>(step: string, evaluate: () => Promise<A>): Effect.Effect<A, PackageProblem> =>
  Effect.tryPromise({
    try: evaluate,
    catch: (cause) => new PackageProblem({ message: `Could not ${step}:\n${describe(cause)}` })
  })

const run = (step: string, cwd: string, command: string, ...args: ReadonlyArray<string>) =>
  attempt(step, () => execute(command, args, { cwd, maxBuffer: 2 ** 26 }))

const check = (holds: boolean, message: string) => (holds ? Effect.void : Effect.fail(new PackageProblem({ message })))

const readManifest = attempt("read package.json", () => readFile(join(projectRoot, "package.json"), "utf8")).pipe(
  Effect.flatMap((text) => Effect.orDie(Schema.decodeEffect(Manifest)(text)))
)

const temporaryFolder = Effect.acquireRelease(
  attempt("create a folder", async () => realpath(await mkdtemp(join(tmpdir(), "runledger-package-")))),
  (folder) => Effect.promise(() => rm(folder, { recursive: true, force: true }))
)

const listFiles = (folder: string) =>
  attempt("list the package", async () => {
    const entries = await readdir(folder, { recursive: true, withFileTypes: true })
    return entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
  })

/** What `npm publish` would send, installed with the peers that this project is developed with. */
const install = Effect.fnUntraced(function* (folder: string, manifest: Manifest) {
  const consumer = join(folder, "consumer")
  yield* attempt("create an empty project", async () => {
    await mkdir(consumer)
    await writeFile(join(consumer, "package.json"), JSON.stringify({ private: true, type: "module" }))
  })
  yield* run("pack", projectRoot, "npm", "pack", "--silent", "--pack-destination", folder)
  const tarballs = (yield* attempt("find the tarball", () => readdir(folder))).filter((name) => name.endsWith(".tgz"))
  // Node's types are what the declarations of @effect/sql-pg themselves refer to
  const companions = [...Object.keys(manifest.peerDependencies), "@types/node"]
  const versions = companions.map((name) => `${name}@${manifest.devDependencies[name]}`)
  yield* run(
    "install the package",
    consumer,
    "npm",
    "install",
    "--prefer-offline",
    "--no-audit",
    "--no-fund",
    "--no-package-lock",
    ...tarballs.map((name) => join(folder, name)),
    ...versions
  )
  return consumer
})

const allowed = /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|(src|migrations|dist\/src|dist\/migrations)\/.*)$/

const checkFiles = Effect.fnUntraced(function* (folder: string) {
  const files = yield* listFiles(folder)
  const foreign = files.filter((file) => !allowed.test(file))
  yield* check(foreign.length === 0, `The package holds files that are not its own:\n${foreign.join("\n")}`)

  // a build that was not cleaned still holds modules that were renamed
  const sources = new Set(files)
  const orphans = files.filter(
    (file) => file.startsWith("dist/") && !sources.has(file.slice(5).replace(/(\.d\.ts|\.js)(\.map)?$/, ".ts"))
  )
  yield* check(orphans.length === 0, `The build holds files without a source:\n${orphans.join("\n")}`)

  const paths = [projectRoot, homedir(), folder].filter((path) => path.length > 1)
  for (const file of files) {
    const text = yield* attempt(`read ${file}`, () => readFile(join(folder, file), "utf8"))
    const found = paths.find((path) => text.includes(`${path}/`))
    yield* check(found === undefined, `${file} names a path of this machine: ${found}`)
  }
  return files.length
})

/** The names that `src/index.ts` exports as values; types have no trace at run time. */
const readPublicNames = attempt("read src/index.ts", () => readFile(join(projectRoot, "src/index.ts"), "utf8")).pipe(
  Effect.flatMap((text) => {
    const source = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/\/\/.*/g, "")
    const namespaces = Array.from(source.matchAll(/export\s+\*\s+as\s+(\w+)\s+from/g), (match) => match[1] ?? "")
    const lists = Array.from(source.matchAll(/export\s*\{([^}]*)\}/g), (match) => (match[1] ?? "").split(","))
    const named = lists
      .flat()
      .map((entry) => entry.trim())
      .filter((entry) => entry !== "" && !entry.startsWith("type "))
      .map((entry) => entry.split(/\s+as\s+/).at(-1) ?? entry)
    return check(
      !/export\s+\*\s+from/.test(source),
      "src/index.ts exports everything of a module without a name: name what is public"
    ).pipe(Effect.as([...namespaces, ...named].sort()))
  })
)

const checkTypes = Effect.fnUntraced(function* (consumer: string, manifest: Manifest, names: ReadonlyArray<string>) {
  const entries = Object.keys(manifest.exports).filter((path) => !path.endsWith(".json"))
  const imports = entries.map(
    (path, index) => `import * as entry${index} from "${manifest.name}${path.slice(1)}"\nexport { entry${index} }\n`
  )
  const used = names.length === 0 ? "" : `import { ${names.join(", ")} } from "${manifest.name}"\n`
  yield* attempt("write the consumer", async () => {
    await writeFile(
      join(consumer, "consumer.ts"),
      `${imports.join("")}${used}export const modules = { ${names.join(", ")} }\n`
    )
    await writeFile(
      join(consumer, "private.ts"),
      `// @ts-expect-error what is internal has no types outside\nimport * as sql from "${manifest.name}/internal/sql"\nexport { sql }\n`
    )
    await writeFile(
      join(consumer, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          module: "NodeNext",
          target: "ES2022",
          lib: ["ES2022"],
          types: ["node"],
          strict: true,
          exactOptionalPropertyTypes: true,
          noEmit: true,
          // our own declarations are checked as well
          skipLibCheck: false
        },
        files: ["consumer.ts", "private.ts"]
      })
    )
  })
  const compiler = join(projectRoot, "node_modules/typescript/bin/tsc")
  const output = yield* attempt("run the type checker", () =>
    execute(process.execPath, [compiler, "-p", "tsconfig.json", "--pretty", "false"], { cwd: consumer }).then(
      () => "",
      describe
    )
  )
  // Effect's declarations name types of browsers, which a project on Node need not have; ours must not need them
  const ours = output
    .split("\n")
    .filter((line) => /^\S/.test(line))
    .filter((line) => !line.startsWith("node_modules/") || line.startsWith(`node_modules/${manifest.name}/`))
  yield* check(ours.length === 0, `A consumer does not compile:\n${ours.join("\n")}`)
})

const checkImports = Effect.fnUntraced(function* (consumer: string, manifest: Manifest, names: ReadonlyArray<string>) {
  const entries = Object.keys(manifest.exports).filter((path) => !path.endsWith(".json"))
  const internals = ["internal/sql", "internal/sql.js", "dist/src/internal/sql.js", "src/internal/sql.ts"]
  yield* attempt("write the consumer", () =>
    writeFile(
      join(consumer, "consumer.js"),
      `
        for (const path of ${JSON.stringify(entries)}) await import("${manifest.name}" + path.slice(1))
        const codes = []
        for (const path of ${JSON.stringify(internals)}) {
          codes.push(await import("${manifest.name}/" + path).then(() => "importable", (error) => error.code))
        }
        console.log(JSON.stringify({ names: Object.keys(await import("${manifest.name}")).sort(), codes }))
      `
    )
  )
  const { stdout } = yield* run("import the package", consumer, process.execPath, "consumer.js")
  const expected = JSON.stringify({ names, codes: internals.map(() => "ERR_PACKAGE_PATH_NOT_EXPORTED") })
  yield* check(stdout.trim() === expected, `The package exports\n${stdout.trim()}\nand not\n${expected}`)
})

const program = Effect.gen(function* () {
  const manifest = yield* readManifest
  const names = yield* readPublicNames
  const folder = yield* temporaryFolder
  const consumer = yield* install(folder, manifest)
  const files = yield* checkFiles(join(consumer, "node_modules", manifest.name))
  yield* checkTypes(consumer, manifest, names)
  yield* checkImports(consumer, manifest, names)
  yield* Console.log(`${manifest.name}: ${files} files, ${names.length} public modules: ${names.join(", ")}`)
}).pipe(
  Effect.scoped,
  Effect.tapError((problem) => Console.error(problem.message))
)

NodeRuntime.runMain(program, { disableErrorReporting: true })
