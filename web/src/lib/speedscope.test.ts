import { describe, expect, test } from "vitest";
import { writeFolded } from "./folded";
import { treeOf } from "./merge";
import { isSpeedscope, readSpeedscope, SpeedscopeError, speedscopeOf } from "./speedscope";

const head = '{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"main"},{"name":"f","file":"a.js","line":3,"col":7},{"name":"g"}]},"profiles":';

// shown writes each type and set of labels that a file has, as profile/speedscope_test.go does.
function shown(text: string): string {
  const s = readSpeedscope(text);
  let out = "";
  s.types.forEach((t, type) => {
    for (const set of s.labelSets) {
      const folded = writeFolded(treeOf(s, { type, label: set[0] }));
      if (folded !== "") out += `${t.id} ${set.map((l) => `${l.name}=${l.value}`).join()}\n${folded}`;
    }
  });
  return out;
}

describe("reading", () => {
  const f = (name: string, profiles: string, want: string): void => {
    test(name, () => expect(shown(`${head}${profiles}}`)).toBe(want));
  };
  const refused = (name: string, profiles: string, want: string): void => {
    test(name, () => {
      expect(() => shown(`${head}${profiles}}`)).toThrow(SpeedscopeError);
      expect(() => shown(`${head}${profiles}}`)).toThrow(want);
    });
  };
  f(
    "sampled",
    '[{"type":"sampled","name":"worker","unit":"milliseconds","startValue":10,"endValue":15,"samples":[[0,1],[0,1],[0]],"weights":[1,2.5,1]}]',
    "process_cpu:cpu:nanoseconds:cpu:nanoseconds profile_name=worker\nmain 1000000\nmain;f 3500000\n",
  );
  f(
    "evented",
    '[{"type":"evented","unit":"nanoseconds","startValue":0,"endValue":9,"events":[{"type":"O","frame":0,"at":0},{"type":"O","frame":2,"at":2},{"type":"C","frame":2,"at":6},{"type":"C","frame":0,"at":9}]}]',
    "process_cpu:cpu:nanoseconds:cpu:nanoseconds \nmain 5\nmain;g 4\n",
  );
  f(
    "bytes and counts",
    '[{"type":"sampled","unit":"bytes","samples":[[1]],"weights":[64]},{"type":"sampled","unit":"none","samples":[[2],[]],"weights":[3,1]}]',
    "memory:alloc_space:bytes:space:bytes \nf 64\nprocess_cpu:samples:count:cpu:nanoseconds \n[no stack] 1\ng 3\n",
  );
  f("no weight", '[{"type":"sampled","unit":"none","samples":[[1]],"weights":[0]}]', "");
  test("how long it took", () => {
    const s = readSpeedscope(`${head}[{"type":"sampled","unit":"milliseconds","startValue":10,"endValue":15,"samples":[],"weights":[]}]}`);
    expect(s.facts.durationNanos).toBe(5e6);
  });

  refused("lengths", '[{"type":"sampled","unit":"none","samples":[[1]],"weights":[]}]', "profiles[0]: 1 samples and 0 weights");
  refused("no such frame", '[{"type":"sampled","unit":"none","samples":[[3]],"weights":[1]}]', "samples[0]: frame 3 of 3");
  refused("negative frame", '[{"type":"evented","unit":"none","events":[{"type":"O","frame":-1,"at":0}]}]', "events[0]: frame -1 of 3");
  refused("a frame between two", '[{"type":"sampled","unit":"none","samples":[[0.5]],"weights":[1]}]', "samples[0]: frame 0.5 of 3");
  refused("negative weight", '[{"type":"sampled","unit":"none","samples":[[1]],"weights":[-1]}]', "weights[0] is -1: want 0 or more");
  refused("a weight that is no number", '[{"type":"sampled","unit":"none","samples":[[1]],"weights":["1"]}]', "weights[0]: want a number");
  refused("too much", '[{"type":"sampled","unit":"seconds","samples":[[1]],"weights":[1e300]}]', "more than a number can hold");
  refused("unit", '[{"type":"sampled","unit":"hours","samples":[],"weights":[]}]', 'the unit "hours": want none, nanoseconds');
  refused("type", '[{"type":"other","unit":"none"}]', 'the type "other": want sampled or evented');
  refused("too deep", `[{"type":"sampled","unit":"none","samples":[[${"0,".repeat(4096)}0]],"weights":[1]}]`, "more than 4096 frames");
  refused("order", '[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5},{"type":"C","frame":0,"at":2}]}]', "events[1] is at 2, after one at 5");
  refused("closing another", '[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5},{"type":"C","frame":1,"at":6}]}]', "events[1] closes frame 1");
  refused("not closed", '[{"type":"evented","unit":"none","events":[{"type":"O","frame":0,"at":5}]}]', "1 frames are never closed");
  refused("event type", '[{"type":"evented","unit":"none","events":[{"type":"X","frame":0,"at":5}]}]', 'the type "X": want O or C');
  refused("none", "[]", "it has no profiles");
  refused("not whole", "[", "not whole JSON");
  test("another tool's JSON", () => expect(() => readSpeedscope('{"nodes":[]}')).toThrow("want speedscope's file format"));
});

describe("writing", () => {
  const text = "[no stack] 1\n[unwind: lost];a 4\nA\\x3bB;f;f_[k] 2\nmain 3\n";
  test("what is written is what was told, in the unit", () => {
    const written = speedscopeOf(text, "bytes", "a profile");
    expect(isSpeedscope(written)).toBe(true);
    // The marks are names: the format has no kinds of frames.
    expect(shown(written)).toBe("memory:alloc_space:bytes:space:bytes profile_name=a profile\n[no stack] 1\nA\\x3bB;f;f_\\x5bk] 2\n\\x5bunwind: lost];a 4\nmain 3\n");
  });
  test("a unit that it does not know is none", () => {
    expect(speedscopeOf(text, "lock contentions", "")).toContain('"unit":"none"');
  });
  test("its profile is as long as its weights", () => {
    expect(JSON.parse(speedscopeOf(text, "nanoseconds", "p")).profiles[0]).toMatchObject({ type: "sampled", unit: "nanoseconds", endValue: 10, weights: [1, 4, 2, 3] });
  });
});
