import { defineConfig } from "vitest/config"

// vitest reports failures with Map.groupBy, which Node 20 does not have: without it a failing test would only say so
if (!("groupBy" in Map)) {
  Object.defineProperty(Map, "groupBy", {
    configurable: true,
    writable: true,
    value: <K, V>(items: Iterable<V>, keyOf: (item: V, index: number) => K): Map<K, Array<V>> => {
      const groups = new Map<K, Array<V>>()
      let index = 0
      for (const item of items) {
        const key = keyOf(item, index++)
        const group = groups.get(key)
        if (group === undefined) {
          groups.set(key, [item])
        } else {
          group.push(item)
        }
      }
      return groups
    }
  })
}

export default defineConfig({
  test: {
    globalSetup: ["test/support/globalSetup.ts"],
    include: ["test/**/*.test.ts"],
    reporters: ["default", "./test/support/TallyReporter.ts"],
    maxWorkers: 2,
    // a file starts with a database of its own, and tests of failures wait for leases and timeouts of a real server
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 30_000
  }
})
