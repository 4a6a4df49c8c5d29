/** The channel on which runs are named that have ended; the statement that ends a run notifies. */
export const runTerminalChannel = "runledger_workflow_run_terminal"
