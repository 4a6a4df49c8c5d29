/**
 * What to try after the first run.
 */
export const next = (isKept: boolean): ReadonlyArray<string> => [
  "Next:",
  ...(isKept
    ? ["  run it again                   nothing is enqueued twice; a folder in which a file has changed is a new run"]
    : [
        "  run it twice                   on a database that stays, nothing is enqueued twice:",
        "                                 DATABASE_URL=postgres://user@host/database npm start"
      ]),
  "  npm start -- node_modules      thousands of files: press Ctrl-C, or kill it, in the middle; on a database that stays,",
  "                                 the next run goes on from there",
  "  npm start -- --mermaid         the run as a Mermaid flowchart too, with the statuses of its steps",
  "  npm start -- --yes             the gate is opened without asking, as it is where there is no terminal",
  "  examples/start/graph.ts        the workflow; CountFile.ts beside it: the job of its fan-out; SumUp.ts: the join",
  "  src/Worker.ts                  who runs them; src/workflows/settle.ts: how the steps of a run follow each other"
]
