/**
 * A graph as a picture. The members of a fan-out are one node, however many they are.
 */
import type * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type { Any } from "../Workflow.ts"
import type { ReleaseMode } from "../WorkflowRun.ts"
import { expand } from "./expand.ts"
import type { StepRequest, WorkflowRequest } from "./request.ts"
import { sort } from "./validate.ts"

/** How far a step of a run is; what `Workflows.steps` returns fits. */
export interface StepState {
  readonly stepKey: string
  readonly status: string
  readonly startedAt?: Option.Option<DateTime.Utc> | undefined
  readonly finishedAt?: Option.Option<DateTime.Utc> | undefined
}

/** Statuses by step key, or steps as they are read. */
export type StepStates = Readonly<Record<string, string>> | ReadonlyArray<StepState>

interface Node {
  readonly key: string
  readonly isFanOut: boolean
  isExternal: boolean
  isMissing: boolean
  readonly members: Set<string>
  /** The nodes it waits for, and on which of their members. */
  readonly waitsFor: Map<string, { readonly node: Node; readonly releaseMode: ReleaseMode; readonly on: Set<string> }>
  readonly states: Array<StepState>
}

// the first of these that a fan-out has is what it shows
const severity = ["FAILED", "CANCELED", "RUNNING", "ENQUEUED", "WAITING_FOR_EXTERNAL", "BLOCKED", "SUCCEEDED"]

const stepsOf = (source: Any | WorkflowRequest): ReadonlyArray<StepRequest> =>
  "toRequest" in source
    ? Result.getOrElse(
        expand(source.steps, () => Result.succeed(null)),
        () => []
      )
    : source.steps

const nodesOf = (source: Any | WorkflowRequest, states: StepStates): ReadonlyArray<Node> => {
  const steps = stepsOf(source)
  const nodes = new Map<string, Node>()
  const nodeOf = new Map<string, Node>()
  const node = (key: string, isFanOut: boolean): Node => {
    // a fan-out and a step never share a key in a valid graph; a broken one is drawn all the same
    const id = `${isFanOut ? "each" : "step"} ${key}`
    const found = nodes.get(id) ?? {
      key,
      isFanOut,
      isExternal: false,
      isMissing: true,
      members: new Set(),
      waitsFor: new Map(),
      states: []
    }
    nodes.set(id, found)
    return found
  }
  for (const { stepKey, fanOut, executionKind } of steps) {
    const at = fanOut === undefined ? node(stepKey, false) : node(fanOut.key, true)
    at.isMissing = false
    at.isExternal = executionKind === "EXTERNAL"
    at.members.add(stepKey)
    nodeOf.set(stepKey, at)
  }
  // members of a fan-out wait for the same: looked at once
  const drawn = new Map<unknown, Node>()
  for (const { stepKey, dependencies = [] } of steps) {
    const to = nodeOf.get(stepKey)
    if (to === undefined || drawn.get(dependencies) === to) continue
    drawn.set(dependencies, to)
    for (const { stepKey: prerequisite, releaseMode = "ON_TERMINAL" } of dependencies) {
      const from = nodeOf.get(prerequisite) ?? node(prerequisite, false)
      from.members.add(prerequisite)
      nodeOf.set(prerequisite, from)
      const id = `${releaseMode} ${from.isFanOut} ${from.key}`
      const edge = to.waitsFor.get(id) ?? { node: from, releaseMode, on: new Set() }
      to.waitsFor.set(id, edge)
      edge.on.add(prerequisite)
    }
  }
  for (const state of isList(states)
    ? states
    : Object.entries(states).map(([stepKey, status]) => ({ stepKey, status }))) {
    nodeOf.get(state.stepKey)?.states.push(state)
  }
  return [...nodes.values()]
}

const isList = (states: StepStates): states is ReadonlyArray<StepState> => Array.isArray(states)

/** The statuses of a node, the worst first, with how many steps have each. */
const tally = ({ states }: Node): ReadonlyArray<readonly [status: string, count: number]> => {
  const counts = new Map<string, number>()
  for (const { status } of states) counts.set(status, (counts.get(status) ?? 0) + 1)
  return [...counts].sort(([a], [b]) => severity.indexOf(a) - severity.indexOf(b))
}

const nameOf = ({ key, isFanOut, isMissing, members }: Node): string =>
  `${key}${isFanOut ? ` × ${members.size}` : ""}${isMissing ? " (missing)" : ""}`

const statusOf = (node: Node): string =>
  tally(node)
    .map(([status, count]) => (node.isFanOut ? `${count} ${status}` : status))
    .join(", ")

/** How much of a fan-out is waited for, if not all of it. */
const partOf = (on: ReadonlySet<string>, { members }: Node): string =>
  on.size === members.size ? "" : `${on.size} of ${members.size}`

// ---------------------------------------------------------------------------------------------------------------------
// Mermaid
// ---------------------------------------------------------------------------------------------------------------------

const classes: Readonly<Record<string, string>> = {
  BLOCKED: "fill:#eeeeee,stroke:#999999,color:#333333",
  WAITING_FOR_EXTERNAL: "fill:#fff3cd,stroke:#b58900,color:#333333",
  ENQUEUED: "fill:#e7f0fd,stroke:#6c9bd2,color:#333333",
  RUNNING: "fill:#cfe2ff,stroke:#0d6efd,color:#333333",
  SUCCEEDED: "fill:#d1e7dd,stroke:#198754,color:#333333",
  FAILED: "fill:#f8d7da,stroke:#dc3545,color:#333333",
  CANCELED: "fill:#e2e3e5,stroke:#6c757d,color:#333333,stroke-dasharray:4"
}

// an entity for whatever may mean something to Mermaid, in HTML, or at the beginning of a list of Markdown: a key can be any text
const label = (text: string): string =>
  text.replaceAll(/[^\p{L}\p{N}_. ×[\]-]|^-|(?<=^\d+)\./gu, (char) => `#${char.codePointAt(0)};`)

/**
 * A workflow as a Mermaid flowchart: jobs are boxes, fan-outs boxes with double sides and a count, external steps hexagons;
 * dotted arrows are released however the prerequisite ended. With `states`, nodes are colored by status. A fan-out is one node,
 * colored by the worst status among its members; an arrow from some of its members only says from how many.
 *
 * @example
 * ```ts
 * import { Schema } from "effect"
 * import { Job, Workflow } from "effect-runledger"
 *
 * class Crawl extends Job.make("page.crawl", { payload: { url: Schema.String } }) {}
 *
 * const crawl = Workflow.make("site.crawl").each("crawl", Crawl, [{ url: "/a" }, { url: "/b" }])
 * const chart = Workflow.toMermaid(crawl, { "crawl[0]": "SUCCEEDED", "crawl[1]": "RUNNING" })
 * ```
 */
export const toMermaid = (workflow: Any | WorkflowRequest, states: StepStates = {}): string => {
  const nodes = nodesOf(workflow, states)
  const ids = new Map(nodes.map((node, index) => [node, `n${index}`]))
  const used = new Set<string>()
  const shapes = nodes.map((node) => {
    const status = statusOf(node)
    const text = `"${label(nameOf(node))}${status === "" ? "" : `<br/>${label(status)}`}"`
    const [worst = ""] = tally(node).map(([name]) => name)
    if (Object.hasOwn(classes, worst)) used.add(worst)
    const shape = node.isExternal ? `{{${text}}}` : node.isFanOut ? `[[${text}]]` : `[${text}]`
    return `  ${ids.get(node)}${shape}${Object.hasOwn(classes, worst) ? `:::${worst}` : ""}`
  })
  const arrows = nodes.flatMap((node) =>
    [...node.waitsFor.values()].map((edge) => {
      const part = partOf(edge.on, edge.node)
      const arrow = edge.releaseMode === "ON_TERMINAL" ? "-.->" : "-->"
      return `  ${ids.get(edge.node)} ${arrow}${part === "" ? "" : `|${part}|`} ${ids.get(node)}`
    })
  )
  return [
    "flowchart TD",
    ...shapes,
    ...arrows,
    ...Object.entries(classes).flatMap(([name, style]) => (used.has(name) ? [`  classDef ${name} ${style}`] : []))
  ].join("\n")
}

// ---------------------------------------------------------------------------------------------------------------------
// Text
// ---------------------------------------------------------------------------------------------------------------------

// what a terminal would take for a command, or show as nothing
const printable = (text: string): string =>
  text.replaceAll(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0)?.toString(16)}}`)

/** From the first start to the last end, once all have ended. */
const durationOf = ({ states, members }: Node): string => {
  const spans = states.flatMap(({ startedAt = Option.none(), finishedAt = Option.none() }) =>
    Option.isSome(startedAt) && Option.isSome(finishedAt)
      ? [[startedAt.value.epochMilliseconds, finishedAt.value.epochMilliseconds] as const]
      : []
  )
  if (spans.length === 0 || spans.length < members.size) return ""
  let [[from, to] = [0, 0]] = spans
  for (const [start, end] of spans) {
    from = Math.min(from, start)
    to = Math.max(to, end)
  }
  return Duration.format(Duration.millis(to - from))
}

/**
 * A workflow as text for a terminal: a line for each step, in an order in which each comes after its prerequisites, with its
 * status, how long it took and what it waits for. A fan-out is one line. `states` are statuses by step key, or steps as they
 * are read, which also tell the duration.
 *
 * @example
 * ```ts
 * import { Console, Schema } from "effect"
 * import { Job, Workflow } from "effect-runledger"
 *
 * class Crawl extends Job.make("page.crawl", { payload: { url: Schema.String } }) {}
 *
 * const crawl = Workflow.make("site.crawl")
 *   .each("crawl", Crawl, [{ url: "/a" }, { url: "/b" }])
 *   .external("approval", {}, { after: ["crawl"] })
 * const shown = Console.log(Workflow.toText(crawl, { "crawl[0]": "SUCCEEDED", "crawl[1]": "RUNNING", approval: "BLOCKED" }))
 * // site.crawl
 * //   crawl × 2            1 RUNNING, 1 SUCCEEDED
 * //   approval (external)  BLOCKED                 after crawl
 * ```
 */
export const toText = (workflow: Any | WorkflowRequest, states: StepStates = {}): string => {
  const nodes = nodesOf(workflow, states)
  const placeOf = new Map(nodes.map((node, index) => [node, index]))
  const sorted = sort(
    nodes.map(({ waitsFor }) => [...waitsFor.values()].flatMap(({ node }) => placeOf.get(node) ?? []))
  )
  // steps of a cycle have no such order: they come last, as they are
  const order = new Set([...sorted, ...nodes.keys()])
  const rows = [...order].flatMap((index) => {
    const node = nodes[index]
    if (node === undefined) return []
    const names = (mode: ReleaseMode) =>
      [...node.waitsFor.values()].flatMap(({ node: { key }, node: from, releaseMode, on }) => {
        const part = partOf(on, from)
        return releaseMode === mode ? [printable(part === "" ? key : `${key} (${part})`)] : []
      })
    const [success, terminal] = [names("ON_SUCCESS"), names("ON_TERMINAL")]
    return [
      [
        printable(`${nameOf(node)}${node.isExternal ? " (external)" : ""}`),
        statusOf(node),
        durationOf(node),
        [
          ...(success.length === 0 ? [] : [`after ${success.join(", ")}`]),
          ...(terminal.length === 0 ? [] : [`after the end of ${terminal.join(", ")}`])
        ].join("; ")
      ]
    ]
  })
  const widths = [0, 1, 2].map((column) => rows.reduce((most, row) => Math.max(most, row[column]?.length ?? 0), 0))
  return [
    printable(workflow.workflowType),
    ...rows
      .map((row) =>
        row
          .flatMap((cell, column) => (widths[column] === 0 ? [] : [cell.padEnd(widths[column] ?? 0)]))
          .join("  ")
          .trimEnd()
      )
      .map((line) => `  ${line}`)
  ].join("\n")
}
