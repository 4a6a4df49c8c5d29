/**
 * Jobs that are to be enqueued once their type is declared and enabled: recorded now, in the caller's transaction, and promoted
 * later, by `IntentPromoter`.
 */

export {
  type PromoteOptions,
  type PromoteReason,
  type Promotion,
  type PromotionFailure,
  promote
} from "./intents/promote.ts"
export * from "./intents/read.ts"
export * from "./intents/record.ts"
export * from "./intents/retain.ts"
export { IntentId, IntentStatus, JobIntent, JobIntentSummary } from "./JobIntent.ts"
