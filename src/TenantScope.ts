/**
 * Whose rows an operation may touch. There is no nullable wildcard: every read and every mutation by id names its scope.
 *
 * A scope selects rows; it does not authenticate anyone.
 */

/** Rows without an organization, rows of one organization, or (reads and cancellation only) all rows. */
export type TenantScope =
  | { readonly _tag: "Global" }
  | { readonly _tag: "Organization"; readonly organizationId: string }
  | { readonly _tag: "Admin" }

/** A scope that names one owner: what a mutation by identity accepts. */
export type Owner = Exclude<TenantScope, { readonly _tag: "Admin" }>

/** Rows that belong to no organization. */
export const global: Owner = { _tag: "Global" }

/** Rows of one organization, by its UUID. */
export const organization = (organizationId: string): Owner => ({ _tag: "Organization", organizationId })

/** Every row. Accepted by reads and by cancellation only. */
export const admin: TenantScope = { _tag: "Admin" }
