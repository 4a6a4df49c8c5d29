import { existsSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"

const above = (folder: string): string =>
  existsSync(join(folder, "package.json")) || dirname(folder) === folder ? folder : above(dirname(folder))

/** The folder of this project, from its sources and from its build in `dist` alike. */
export const projectRoot: string = above(dirname(fileURLToPath(import.meta.url)))
