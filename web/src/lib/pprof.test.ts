import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { readFolded, writeFolded } from "./folded";
import { linesOf, treeOf } from "./merge";
import { onlySamples, PprofError, readPprof, writePprof } from "./pprof";
import type { Samples } from "./stacks";
import { Message } from "./wire";

const real = (name: string): Uint8Array => gunzipSync(readFileSync(new URL(`../../../profile/testdata/pprof/${name}.pb.gz`, import.meta.url)));
const folded = (s: Samples, type = 0): string => writeFolded(treeOf(s, { type, label: undefined }));
const m = (): Message => new Message();
const text = (s: string): Uint8Array => new TextEncoder().encode(s);

interface Parts {
  strings?: readonly string[];
  types?: readonly (readonly [number, number])[];
  samples?: readonly Message[];
  rest?: Message;
}

// Strings 1 to 4 are cpu, nanoseconds, main and work; locations are up to the test.
function pprof(p: Parts): Uint8Array {
  const out = m();
  for (const [type, unit] of p.types ?? [[1, 2]]) out.bytes(1, m().number(1, type).number(2, unit).done());
  for (const s of p.samples ?? []) out.bytes(2, s.done());
  out.raw((p.rest ?? m()).done());
  for (const s of ["", ...(p.strings ?? ["cpu", "nanoseconds", "main", "work"])]) out.bytes(6, text(s));
  return out.done();
}
const sample = (locations: readonly number[], values: readonly number[]): Message => m().numbers(1, locations).numbers(2, values);
const fn = (id: number, name: number): Uint8Array => m().number(1, id).number(2, name).done();
const location = (id: number, ...functions: number[]): Message => functions.reduce((l, f) => l.bytes(4, m().number(1, f).done()), m().number(1, id));
const functions = (): Message => m().bytes(5, fn(1, 3)).bytes(5, fn(2, 4));

describe("what a file says", () => {
  test("of itself", () => {
    const rest = functions().bytes(4, location(1, 1).done()).number(9, 1.7e18).number(10, 2e9).number(12, 1e7).numbers(13, [3, 4]).number(14, 1).bytes(11, m().number(1, 1).number(2, 2).done());
    const s = readPprof(pprof({ types: [[4, 2], [1, 2]], samples: [sample([1], [5, 7])], rest }));
    expect(s.types.map((t) => t.id)).toEqual(["process_cpu:work:nanoseconds:cpu:nanoseconds", "process_cpu:cpu:nanoseconds:cpu:nanoseconds"]);
    expect(s.facts).toEqual({ timeMillis: 1.7e12, durationNanos: 2e9, period: 1e7, comments: ["main", "work"], defaultType: 1 });
    expect([folded(s, 0), folded(s, 1)]).toEqual(["main 5\n", "main 7\n"]);
  });
  test("an address without a name is one in the file", () => {
    const rest = m()
      .bytes(3, m().number(1, 1).number(2, 0x7f0000000000).number(4, 0x1000).number(5, 3).done())
      .bytes(3, m().number(1, 2).number(2, 0x400000).number(5, 4).done())
      .bytes(4, location(1).number(2, 1).number(3, 0x7f0000000abc).done())
      .bytes(4, location(2).number(2, 2).number(3, 0x401000).done())
      .bytes(4, location(3).number(3, 0xffff).done())
      .bytes(4, location(4).done());
    const s = readPprof(pprof({ strings: ["cpu", "n", "/lib/libc.so", "/bin/app"], samples: [sample([4, 3, 2, 1], [1])], rest }));
    expect(folded(s)).toBe("libc.so+0x1abc;app+0x401000;0xffff;[unknown] 1\n");
    // There is no function, so none of its lines either.
    expect(linesOf(s, { type: 0, label: undefined }, undefined, "app+0x401000")).toEqual([]);
  });
  test("ids of 64 bits are told apart, and found", () => {
    const id = -1;
    const near = -2;
    const rest = functions().bytes(4, location(id, 1).done()).bytes(4, location(near, 2).done());
    expect(folded(readPprof(pprof({ samples: [sample([near, id], [1]), sample([id], [2])], rest })))).toBe("main 2\nmain;work 1\n");
  });
  test("kernel frames, reasons and inlined functions", () => {
    const rest = m()
      .bytes(3, m().number(1, 1).number(5, 5).done())
      .bytes(5, fn(1, 3)).bytes(5, fn(2, 4)).bytes(5, fn(3, 6))
      .bytes(4, location(1, 2, 1).done()).bytes(4, location(2, 2).number(2, 1).done()).bytes(4, location(3, 3).done());
    const s = readPprof(pprof({ strings: ["cpu", "n", "main", "work", "[kernel.kallsyms]_stext", "[unwind: lost]"], samples: [sample([2, 1, 3], [1])], rest }));
    expect(folded(s)).toBe("[unwind: lost];main;work;work_[k] 1\n");
    const seen = s.frames.slice(1).map((f) => `${f.name} ${f.inlined} ${f.mapping}`);
    expect(seen.sort()).toEqual(["[unwind: lost] false ", "main false ", "work false [kernel.kallsyms]", "work true "]);
  });
  test("labels part samples, a value of zero is none, and text is repaired", () => {
    const label = (key: number, value: number): Uint8Array => m().number(1, key).number(2, value).done();
    const s = readPprof(
      pprof({ samples: [sample([1], [5]).bytes(3, label(3, 4)), sample([1], [7]).bytes(3, m().number(1, 3).number(3, 9).done()), sample([2], [0])], rest: functions().bytes(4, location(1, 1).done()).bytes(4, location(2, 2).done()) }),
    );
    expect(writeFolded(treeOf(s, { type: 0, label: { name: "main", value: "work" } }))).toBe("main 5\n");
    expect(folded(s)).toBe("main 12\n");
    const broken = m().raw(pprof({ strings: ["cpu", "n"], samples: [sample([1], [1])], rest: m().bytes(5, fn(1, 3)).bytes(4, location(1, 1).done()) })).bytes(6, Uint8Array.of(0x61, 0xff, 0xfe, 0x62));
    expect(folded(readPprof(broken.done()))).toBe("a\ufffdb 1\n");
  });
  test("values below zero and of more than 2^53", () => {
    const s = readPprof(pprof({ samples: [sample([], [-5]), sample([1], [2 ** 60])], rest: functions().bytes(4, location(1, 1).done()) }));
    expect(folded(s)).toBe(`[no stack] -5\nmain ${2n ** 60n}\n`);
  });
});

describe("what is refused", () => {
  const f = (name: string, data: Uint8Array, want: string): void => {
    test(name, () => {
      expect(() => readPprof(data)).toThrow(PprofError);
      expect(() => readPprof(data)).toThrow(want);
    });
  };
  const one = functions().bytes(4, location(1, 1).done());
  f("nothing", new Uint8Array(), "it is empty");
  f("text", text("main;work 5\nmain 3\n"), "not a pprof");
  f("another message", m().number(20, 5).done(), "not a pprof");
  f("no such location", pprof({ samples: [sample([7], [1])], rest: one }), "a sample refers to location 7, which does not exist");
  f("no such function", pprof({ samples: [sample([1], [1])], rest: m().bytes(4, location(1, 9).done()) }), "function 9 does not exist");
  f("no such string", pprof({ samples: [sample([1], [1])], rest: m().bytes(5, fn(1, 77)).bytes(4, location(1, 1).done()) }), "function 1: string 77 of 5");
  f("two of one id", pprof({ rest: m().bytes(5, fn(1, 3)).bytes(5, fn(1, 4)) }), "two functions have the id 1");
  f("an id of 0", pprof({ rest: m().bytes(4, m().number(3, 5).done()) }), "location 0 has no id");
  f("more values than types", pprof({ samples: [sample([1], [1, 2])], rest: one }), "a sample has 2 values, there are 1 sample types");
  f("one type twice", pprof({ types: [[1, 2], [1, 2]] }), "the sample type cpu:nanoseconds occurs twice");
  f("too many types", pprof({ types: Array.from({ length: 65 }, (_, i) => [i, i] as const) }), "65 sample types, the limit is 64");
  f("samples of no type", pprof({ types: [], samples: [sample([1], [])], rest: one }), "no sample types");
  f("a string 0", m().bytes(6, text("x")).done(), "string 0 is not empty");
  f("a number of more than 64 bits", m().raw(pprof({ samples: [sample([], [1])] })).raw(Uint8Array.of(0x48, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2)).done(), "more than 64 bits");
});

test("a file that is cut off anywhere is refused, or is whole without what is missing", () => {
  const data = real("cpu");
  let early = 0;
  for (let n = 1; n < data.length; n += 97) {
    try {
      readPprof(data.subarray(0, n));
    } catch (e) {
      if (!(e instanceof PprofError)) throw e;
      if (/^it ends early/.test(e.message)) early++;
    }
  }
  // The others lack the tables, which come last: they say which string or location is missing.
  expect(early).toBeGreaterThan(100);
});

test("damaged files give a profile or a PprofError, never anything else", () => {
  let seed = 7;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % n;
  };
  const small = pprof({ samples: [sample([1, 2], [5]), sample([2], [7])], rest: functions().bytes(4, location(1, 1).done()).bytes(4, location(2, 2, 1).done()).bytes(3, m().number(1, 1).number(5, 3).done()) });
  let whole = 0;
  let refused = 0;
  const read = (data: Uint8Array): void => {
    try {
      const s = readPprof(data);
      s.types.forEach((_, type) => treeOf(s, { type, label: undefined }));
      whole++;
    } catch (e) {
      if (!(e instanceof PprofError)) throw e;
      refused++;
    }
  };
  const damage = (from: Uint8Array, times: number): Uint8Array => {
    const data = from.slice(0, next(4) === 0 ? next(from.length) : from.length);
    for (let k = 0; k < times && data.length > 0; k++) data[next(data.length)] = next(3) === 0 ? next(256) : next(8);
    return data;
  };
  for (let i = 0; i < 10_000; i++) read(damage(small, 1 + next(4)));
  const heap = real("heap");
  for (let i = 0; i < 30; i++) read(damage(heap, 1 + next(20)));
  expect(whole).toBeGreaterThan(1000);
  expect(refused).toBeGreaterThan(1000);
});

describe("writing", () => {
  test("only some samples, everything else as it was", () => {
    const data = real("heap");
    const all = readPprof(data);
    expect(onlySamples(data, () => true)).toEqual(Uint8Array.from(data));
    const even = readPprof(onlySamples(data, (i) => i % 2 === 0));
    expect(even.count).toBe(Math.ceil(all.count / 2));
    expect(even.values[1]).toEqual(all.values[1]?.filter((_, i) => i % 2 === 0));
    expect(even.types).toEqual(all.types);
  });
  test("what folded text became is read back as that", () => {
    const lines = "[no stack] 4\n[unwind: lost];a;b 1\nmain;a;vfs_read_[k] 2\nmain;é 3\n";
    const s = readFolded(text(lines));
    expect(folded(readPprof(writePprof(s, () => true)))).toBe(lines);
    expect(folded(readPprof(writePprof(s, (i) => i === 2)))).toBe("main;a;vfs_read_[k] 2\n");
    expect(readPprof(writePprof(s, () => true)).types).toEqual(s.types);
  });
});
