/**
 * Waking up workers after something became due, handlers whose job was canceled, and whoever waits for a run.
 *
 * Listening is optional: without {@link layer}, or while it has no connection, all of them poll.
 */
export { cancellationChannel, markCanceled } from "./notifications/canceled.ts"
export { channel, markDue, NotifyInterval } from "./notifications/due.ts"
export { Listener, layer, type Notification } from "./notifications/listener.ts"
export { runTerminalChannel } from "./notifications/terminal.ts"
