/**
 * Waking up workers after something became due, and handlers whose job was canceled.
 *
 * Listening is optional: without {@link layer}, or while it has no connection, workers poll.
 */
export { cancellationChannel, markCanceled } from "./notifications/canceled.ts"
export { channel, markDue, NotifyInterval } from "./notifications/due.ts"
export { Listener, layer, type Notification } from "./notifications/listener.ts"
