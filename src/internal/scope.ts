/**
 * A scope as SQL. The three cases are three texts, so that the predicate of an organization can use its index under any plan.
 */
import type { SqlClient } from "effect/sql/SqlClient"
import type { Fragment } from "effect/sql/Statement"
import type { InvalidArgument } from "../Reason.ts"
import type { TenantScope } from "../TenantScope.ts"
import * as Args from "./arguments.ts"

/** The condition that a row of `alias` is in the scope. */
export const inScope = (sql: SqlClient, scope: TenantScope, alias: string): Fragment => {
  if (scope._tag === "Admin") return sql.literal("true")
  if (scope._tag === "Global") return sql.literal(`${alias}.organization_id IS NULL`)
  return sql`${sql.literal(`${alias}.organization_id`)} = ${scope.organizationId}::uuid`
}

/** The rule that the scope breaks. */
export const invalidScope = (scope: TenantScope): InvalidArgument | undefined =>
  scope._tag === "Organization" ? Args.uuid("scope.organizationId", scope.organizationId) : undefined
