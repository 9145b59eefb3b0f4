import { expect, test } from "vitest";
import { chooseScale, formatGrowth, writerOf, type Scale } from "./change";
import { growth } from "./difftree";

const side = (scale: number) => ({ unfilteredTotal: 0, durationMillis: 0, scale, stackCount: 0, seriesCount: 0, stacksCut: false });
const minutes = (n: number) => ({ start: 0, end: n * 60_000 });

test("what is compared follows from how long the sides are", () => {
  const f = (chosen: Scale | "auto", level: boolean, before: number, after: number, want: string): void => {
    const { scale, why } = chooseScale(chosen, level, minutes(before), minutes(after));
    expect(`${scale}: ${why}`).toBe(want);
  };
  f("auto", false, 15, 15, "none: as they are, both sides are 15 min long");
  f("auto", false, 100, 100.9, "none: as they are, both sides are 1.68 h long");
  f("auto", false, 15, 60, "time: per second, before is 15 min long, after 1 h");
  f("auto", true, 15, 60, "none: as they are, means over each range");
  f("time", true, 15, 15, "none: as they are, means over each range");
  f("time", false, 15, 15, "time: per second");
  f("total", true, 15, 60, "total: as shares of each side’s total");
  f("none", false, 15, 60, "none: as they are, although before is 15 min long, after 1 h");
});

test("values and changes are written scaled, changes with their sign", () => {
  const f = (scale: Scale, b: number, a: number, want: string): void => {
    const sides = { before: side(b), after: side(a) };
    const w = writerOf(sides, scale, "nanoseconds");
    expect(`${w.value("before", 2e9)}, ${w.value("after", 5e9)}, ${w.change(5e9 * a - 2e9 * b)}, ${w.change(2e9 * b - 5e9 * a)}, ${w.change(0)}`).toBe(want);
  };
  f("none", 1, 1, "2 s, 5 s, +3 s, −3 s, 0 ns");
  f("time", 0.1, 0.01, "200 ms/s, 50 ms/s, −150 ms/s, +150 ms/s, 0 ns/s");
  f("total", 1e-10, 1e-10, "20.0 %, 50.0 %, +30.0 pp, −30.0 pp, 0 pp");
});

test("growth in words", () => {
  const f = (before: number, after: number, want: string, b = 1, a = 1): void => expect(formatGrowth(growth({ before: side(b), after: side(a) }, before, after))).toBe(want);
  f(0, 0, "0 %");
  f(0, 5, "new");
  f(5, 0, "gone");
  f(5, 5, "0 %");
  f(10, 11, "+10.0 %");
  f(200, 100, "−50.0 %");
  f(100_000, 100_001, "+<0.01 %");
  f(1, 121, `+12${"\u202f"}000 %`);
  f(10, 20, "0 %", 1, 0.5);
});
