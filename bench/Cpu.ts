/**
 * Processor time. On a machine that does something else at the same time it says more than the clock on the wall.
 */
import { readFileSync } from "node:fs"

/** Microseconds so far: of this process, and of the processes of a server on this machine, where Linux tells. */
export interface Cpu {
  readonly client: number
  readonly server: number | undefined
}

// the unit of /proc, on every Linux that node runs on
const microsPerTick = 10_000

const ticksOf = (pid: string): number => {
  try {
    // the name in parentheses may hold spaces
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? []
    return Number(fields[11]) + Number(fields[12])
  } catch {
    return 0
  }
}

const serverMicros = (postmaster: number): number | undefined => {
  try {
    const children = readFileSync(`/proc/${postmaster}/task/${postmaster}/children`, "utf8").split(" ").filter(Boolean)
    return children.reduce((sum, pid) => sum + ticksOf(pid), 0) * microsPerTick
  } catch {
    return undefined
  }
}

export const cpu = (postmaster: number | undefined): Cpu => {
  const { system, user } = process.cpuUsage()
  return { client: user + system, server: postmaster === undefined ? undefined : serverMicros(postmaster) }
}
