/**
 * When a schedule fires: Effect's `Cron`, and one correction of it.
 *
 * - **Overlap** (the clock is put back, local times come twice): the earlier instant, the later, or both, as the schedule says.
 * - **Gap** (the clock is put forward, local times do not exist): the first time that is skipped fires as much later as the gap
 *   is long; a time that does exist and comes before that stands for it. So a gap is never silent, and never a burst.
 *
 * The rules of the zones are those of the process (ICU).
 */
import * as Cron from "effect/Cron"
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Args from "../internal/arguments.ts"
import type { Overlap } from "../JobSchedule.ts"
import { InvalidSchedule } from "../ScheduleReason.ts"

/** A schedule's times. */
export interface Times {
  /** The first time strictly after an instant, in epoch milliseconds. */
  readonly after: (millis: number) => Result.Result<number, InvalidSchedule>
}

const latest = DateTime.toEpochMillis(Args.maxInstant)

const invalidCron = (path: string, rule: string) =>
  new InvalidSchedule({ argument: `${path}cron`, rule, code: "job_schedule.invalid_cron" })

const offsetAt = (millis: number, zone: DateTime.TimeZone) =>
  DateTime.zonedOffset(DateTime.makeZonedUnsafe(millis, { timeZone: zone }))

const dayAndHour = 25 * 3_600_000

/** The instant at which the clock of `zone` was put forward less than a day before `end`, if it was. */
const putForward = (end: number, zone: DateTime.TimeZone): number | undefined => {
  const offset = offsetAt(end, zone)
  let before = end - dayAndHour
  if (offsetAt(before, zone) >= offset) return undefined
  let after = end
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2)
    if (offsetAt(middle, zone) < offset) before = middle
    else after = middle
  }
  return after
}

/**
 * `Cron.next` moves a skipped time past the gap, and goes on from there: where the gap is shorter than an hour (Lord Howe) it
 * passes over times that do exist. So what comes first after the gap is asked for as well.
 */
const next = (cron: Cron.Cron, zone: DateTime.TimeZone, millis: number): number => {
  const found = Cron.next(cron, millis).getTime()
  const end = putForward(found, zone)
  if (end === undefined || end <= millis) return found
  return Math.min(found, Cron.match(cron, end) ? end : Cron.next(cron, end).getTime())
}

/** The times that an expression of five or six fields (with leading seconds) means in a zone, or the rule that is broken. */
export const times = (
  expression: string,
  timezone: string,
  overlap: Overlap,
  path = ""
): Result.Result<Times, InvalidSchedule> => {
  const named = DateTime.zoneFromString(timezone)
  if (Option.isNone(named)) {
    return Result.fail(
      new InvalidSchedule({
        argument: `${path}timezone`,
        rule: "must be the name of a time zone",
        code: "job_schedule.invalid_timezone"
      })
    )
  }
  const zone = named.value
  const parsed = Cron.parse(expression, zone, { onDstOverlap: overlap })
  if (Result.isFailure(parsed)) {
    return Result.fail(invalidCron(path, "must have five or six fields, each in its range"))
  }
  const cron = parsed.success
  const never = invalidCron(path, "must have a next time")
  return Result.succeed({
    after: (millis) =>
      Result.flatMap(
        // it throws where it finds nothing
        Result.try({ try: () => next(cron, zone, millis), catch: () => never }),
        (found) => (found <= latest ? Result.succeed(found) : Result.fail(never))
      )
  })
}

/** The most missed times that are counted. */
export const maxMissed = 100

/** The first time after `at`, and how many there were between `from`, which fires now, and it; no more than a hundred. */
export const advance = (
  { after }: Times,
  from: number,
  at: number
): Result.Result<{ readonly next: number; readonly missed: number }, InvalidSchedule> =>
  Result.gen(function* () {
    let found = yield* after(from)
    let missed = 0
    for (; found <= at && missed < maxMissed; missed++) found = yield* after(found)
    return { next: found <= at ? yield* after(at) : found, missed }
  })

/** By how much the job of a fire is delayed, in seconds: the same whoever fires it. */
export const jitterSeconds = (scheduleId: string, scheduledFor: number, maxSeconds: number): number =>
  maxSeconds === 0
    ? 0
    : Number((BigInt(`0x${scheduleId.replaceAll("-", "")}`) ^ BigInt(scheduledFor)) % BigInt(maxSeconds + 1))
