const isCount = (value: number | undefined): boolean =>
  value === undefined || (Number.isSafeInteger(value) && value >= 0)

/** Whether progress is valid by itself: whole, not negative, `done` at most `total`. */
export const isProgress = (progress: { readonly done?: number | undefined; readonly total?: number | undefined }) =>
  isCount(progress.done) &&
  isCount(progress.total) &&
  (progress.done === undefined || progress.total === undefined || progress.done <= progress.total)
