import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import type { Overlap } from "../src/JobSchedule.ts"
import { advance, jitterSeconds, times } from "../src/schedules/cron.ts"

const parsed = (cron: string, zone: string, overlap: Overlap = "earlier") =>
  Result.getOrThrow(times(cron, zone, overlap))

/** The times between two instants, the first excluded. */
const between = (from: string, to: string, cron: string, zone: string, overlap: Overlap = "earlier") => {
  const schedule = parsed(cron, zone, overlap)
  const found: Array<number> = []
  for (let at = Date.parse(from); ; ) {
    at = Result.getOrThrow(schedule.after(at))
    if (at > Date.parse(to)) return found.map((each) => new Date(each).toISOString().replace(":00.000Z", "Z"))
    found.push(at)
  }
}

const formats = new Map<string, Intl.DateTimeFormat>()

/** As `2026-03-08 02:30:00`. */
const local = (at: number, zone: string) => {
  const format =
    formats.get(zone) ?? new Intl.DateTimeFormat("sv", { timeZone: zone, dateStyle: "short", timeStyle: "medium" })
  formats.set(zone, format)
  return format.format(at)
}

const transitions: ReadonlyArray<{
  readonly title: string
  readonly zone: string
  readonly from: string
  readonly to: string
}> = [
  { title: "New York, spring", zone: "America/New_York", from: "2026-03-08T00:00:00Z", to: "2026-03-08T14:00:00Z" },
  { title: "New York, autumn", zone: "America/New_York", from: "2026-10-31T12:00:00Z", to: "2026-11-02T12:00:00Z" },
  { title: "London, spring", zone: "Europe/London", from: "2026-03-28T12:00:00Z", to: "2026-03-30T12:00:00Z" },
  { title: "London, autumn", zone: "Europe/London", from: "2026-10-24T12:00:00Z", to: "2026-10-26T12:00:00Z" },
  {
    title: "Lord Howe, spring: half an hour",
    zone: "Australia/Lord_Howe",
    from: "2026-10-03T00:00:00Z",
    to: "2026-10-05T00:00:00Z"
  },
  {
    title: "Lord Howe, autumn: half an hour",
    zone: "Australia/Lord_Howe",
    from: "2026-04-04T00:00:00Z",
    to: "2026-04-06T00:00:00Z"
  },
  {
    title: "Apia, which left out a day",
    zone: "Pacific/Apia",
    from: "2011-12-28T12:00:00Z",
    to: "2012-01-01T12:00:00Z"
  },
  {
    title: "Pyongyang, which changed its offset twice: back half an hour",
    zone: "Asia/Pyongyang",
    from: "2015-08-13T12:00:00Z",
    to: "2015-08-16T00:00:00Z"
  },
  {
    title: "Pyongyang, and forth again",
    zone: "Asia/Pyongyang",
    from: "2018-05-03T12:00:00Z",
    to: "2018-05-05T12:00:00Z"
  },
  {
    title: "Istanbul, which stayed on summer time",
    zone: "Europe/Istanbul",
    from: "2016-10-29T12:00:00Z",
    to: "2016-10-31T12:00:00Z"
  }
]

const expressions: ReadonlyArray<{
  readonly cron: string
  readonly minutes: ReadonlyArray<number>
  readonly hours?: ReadonlyArray<number>
}> = [
  { cron: "0,30 * * * *", minutes: [0, 30] },
  { cron: "*/5 * * * *", minutes: [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55] },
  { cron: "20,40 * * * *", minutes: [20, 40] },
  { cron: "10,25,40,55 0-4 * * *", minutes: [10, 25, 40, 55], hours: [0, 1, 2, 3, 4] },
  { cron: "25,40,55 0,2,4,23 * * *", minutes: [25, 40, 55], hours: [0, 2, 4, 23] },
  { cron: "15 2 * * *", minutes: [15], hours: [2] },
  { cron: "30 1 * * *", minutes: [30], hours: [1] },
  { cron: "0 3 * * *", minutes: [0], hours: [3] }
]

const step = 5 * 60_000

/** Every local time that exists and is meant, found by looking at each, with the instants that it has. */
const existing = (
  { zone, from, to }: (typeof transitions)[number],
  { minutes, hours }: (typeof expressions)[number],
  overlap: Overlap
) => {
  const instants = new Map<string, Array<number>>()
  for (let at = Date.parse(from) + step; at <= Date.parse(to); at += step) {
    const wall = local(at, zone)
    const [hour, minute] = [Number(wall.slice(11, 13)), Number(wall.slice(14, 16))]
    if (!minutes.includes(minute) || (hours !== undefined && !hours.includes(hour))) continue
    instants.set(wall, [...(instants.get(wall) ?? []), at])
  }
  return [...instants.values()]
    .flatMap((both) => (overlap === "both" ? both : overlap === "earlier" ? both.slice(0, 1) : both.slice(-1)))
    .sort((a, b) => a - b)
}

describe("times of a schedule", () => {
  for (const transition of transitions) {
    for (const overlap of ["earlier", "later", "both"] as const) {
      it(`every local time that exists is met, and nothing beside one per gap: ${transition.title}, ${overlap}`, () => {
        for (const expression of expressions) {
          const { from, to, zone } = transition
          const wanted = existing(transition, expression, overlap)
          const schedule = parsed(expression.cron, zone, overlap)
          const found: Array<number> = []
          for (let at = Date.parse(from); ; ) {
            at = Result.getOrThrow(schedule.after(at))
            if (at > Date.parse(to)) break
            found.push(at)
          }
          assert.deepStrictEqual(
            wanted.filter((at) => !found.includes(at)).map((at) => local(at, zone)),
            [],
            `${expression.cron} misses`
          )
          const extra = found.filter((at) => !wanted.includes(at))
          assert.isAtMost(extra.length, 1, expression.cron)
          assert.deepStrictEqual(
            found.toSorted((a, b) => a - b),
            found
          )
        }
      })
    }
  }

  it("a time that is skipped fires as much later as the clock was put forward", () => {
    assert.deepStrictEqual(between("2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z", "30 2 * * *", "America/New_York"), [
      "2026-03-08T07:30Z",
      "2026-03-09T06:30Z"
    ])
    assert.deepStrictEqual(between("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", "30 1 * * *", "Europe/London"), [
      "2026-03-29T01:30Z",
      "2026-03-30T00:30Z"
    ])
    assert.deepStrictEqual(
      between("2026-10-02T18:00:00Z", "2026-10-05T00:00:00Z", "15 2 * * *", "Australia/Lord_Howe"),
      ["2026-10-03T15:45Z", "2026-10-04T15:15Z"]
    )
    // the 30th did not exist
    assert.deepStrictEqual(between("2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z", "0 12 * * *", "Pacific/Apia"), [
      "2011-12-29T22:00Z",
      "2011-12-30T22:00Z",
      "2011-12-31T22:00Z"
    ])
  })

  it("of several times that are skipped one fires; a time that exists and comes first stands for it", () => {
    assert.deepStrictEqual(
      between("2026-03-08T05:00:00Z", "2026-03-08T12:00:00Z", "*/15 2 * * *", "America/New_York"),
      ["2026-03-08T07:00Z"]
    )
    // 02:20 does not exist on Lord Howe, 02:40 does
    assert.deepStrictEqual(
      between("2026-10-03T14:30:00Z", "2026-10-03T16:30:00Z", "20,40 * * * *", "Australia/Lord_Howe"),
      ["2026-10-03T14:50Z", "2026-10-03T15:10Z", "2026-10-03T15:40Z", "2026-10-03T16:20Z"]
    )
  })

  it("a local time that comes twice fires as the schedule says", () => {
    const day = ["2026-10-31T12:00:00Z", "2026-11-01T12:00:00Z", "30 1 * * *", "America/New_York"] as const
    assert.deepStrictEqual(between(...day, "earlier"), ["2026-11-01T05:30Z"])
    assert.deepStrictEqual(between(...day, "later"), ["2026-11-01T06:30Z"])
    assert.deepStrictEqual(between(...day, "both"), ["2026-11-01T05:30Z", "2026-11-01T06:30Z"])
    const london = ["2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", "30 1 * * *", "Europe/London"] as const
    assert.deepStrictEqual(between(...london, "earlier"), ["2026-10-25T00:30Z"])
    assert.deepStrictEqual(between(...london, "both"), ["2026-10-25T00:30Z", "2026-10-25T01:30Z"])
    const howe = ["2026-04-04T12:00:00Z", "2026-04-04T18:00:00Z", "45 1 * * *", "Australia/Lord_Howe"] as const
    assert.deepStrictEqual(between(...howe, "earlier"), ["2026-04-04T14:45Z"])
    assert.deepStrictEqual(between(...howe, "later"), ["2026-04-04T15:15Z"])
  })

  it("a zone keeps its local time when its rules change", () => {
    // Istanbul is three hours ahead all year since 2016
    assert.deepStrictEqual(between("2015-12-01T00:00:00Z", "2015-12-01T23:00:00Z", "0 9 * * *", "Europe/Istanbul"), [
      "2015-12-01T07:00Z"
    ])
    assert.deepStrictEqual(between("2016-12-01T00:00:00Z", "2016-12-01T23:00:00Z", "0 9 * * *", "Europe/Istanbul"), [
      "2016-12-01T06:00Z"
    ])
  })

  it("six fields begin with seconds, and an offset is a zone", () => {
    assert.deepStrictEqual(
      Result.getOrThrow(parsed("15 0 0 1 1 *", "+05:30").after(Date.parse("2026-01-01T00:00:00Z"))),
      Date.parse("2026-12-31T18:30:15Z")
    )
  })

  it.each(["", "* * * *", "0 0 0 0 * * *", "60 * * * *", "* * 32 * *", "a b c d e", "@daily", "*/0 * * * *"])(
    "refuses the expression '%s'",
    (cron) => {
      const refused = Result.flip(times(cron, "UTC", "earlier"))
      assert.strictEqual(Result.getOrThrow(refused).code, "job_schedule.invalid_cron")
    }
  )

  it.each(["", "Nowhere", "Local", "America/New_York ", "GMT+3"])("refuses the zone '%s'", (zone) => {
    const refused = Result.flip(times("* * * * *", zone, "earlier"))
    assert.strictEqual(Result.getOrThrow(refused).code, "job_schedule.invalid_timezone")
  })

  it("what never comes is a failure, not an exception", () => {
    assert.isTrue(Result.isFailure(parsed("0 0 31 2 *", "America/New_York").after(0)))
    assert.isTrue(Result.isFailure(parsed("* * * * *", "UTC").after(Date.parse("9999-12-31T23:59:59Z"))))
  })

  it("counts what was missed, up to a hundred, and goes on after now", () => {
    const hourly = parsed("0 * * * *", "UTC")
    const at = Date.parse("2026-01-02T00:30:00Z")
    const from = (hours: number) => Result.getOrThrow(advance(hourly, at - 30 * 60_000 - hours * 3_600_000, at))
    assert.deepStrictEqual(from(0), { next: at + 30 * 60_000, missed: 0 })
    assert.deepStrictEqual(from(3), { next: at + 30 * 60_000, missed: 3 })
    assert.deepStrictEqual(from(99), { next: at + 30 * 60_000, missed: 99 })
    assert.deepStrictEqual(from(5000), { next: at + 30 * 60_000, missed: 100 })
    // exactly now is not after now
    assert.deepStrictEqual(Result.getOrThrow(advance(hourly, at - 30 * 60_000, at + 30 * 60_000)).missed, 1)
  })

  it("jitter is the same whoever asks, within its bound, and spread", () => {
    const id = "01a2032f-2084-7b48-9ca6-127e043eb2ed"
    const hours = Array.from({ length: 1000 }, (_, hour) => jitterSeconds(id, hour * 3_600_000, 59))
    assert.deepStrictEqual(
      hours,
      Array.from({ length: 1000 }, (_, hour) => jitterSeconds(id, hour * 3_600_000, 59))
    )
    assert.isTrue(hours.every((seconds) => seconds >= 0 && seconds <= 59))
    assert.isAbove(new Set(hours).size, 10)
    assert.strictEqual(jitterSeconds(id, 1, 0), 0)
  })
})
