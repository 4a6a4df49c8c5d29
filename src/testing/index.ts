export * as FaultySqlClient from "./FaultySqlClient.ts"
