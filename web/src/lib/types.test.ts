import { expect, test } from "vitest";
import { defaultType, findType, friendlyName, isMemory, rateOf, type TypeParts } from "./types";

function parts(id: string): TypeParts {
  const [name = "", sampleType = "", sampleUnit = ""] = id.split(":");
  return { id, name, sampleType, sampleUnit };
}
const types = ["memory:inuse_space:bytes:space:bytes", "off_cpu:off_cpu:nanoseconds:off_cpu:nanoseconds", "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "process_cpu:samples:count:cpu:nanoseconds"].map(parts);

test("friendlyName", () => {
  const f = (id: string, want: string): void => expect(friendlyName(parts(id))).toBe(want);
  f("process_cpu:cpu:nanoseconds", "CPU time");
  f("memory:inuse_space:bytes", "Memory in use");
  f("io_wait:read_time:nanoseconds", "io wait: read time");
  f("spins:spins:count", "spins");
});
test("rateOf", () => {
  const f = (id: string, want: string): void => expect(rateOf(parts(id))).toBe(want);
  f("process_cpu:cpu:nanoseconds", "cores");
  f("process_cpu:samples:count", "per-second");
  f("memory:inuse_space:bytes", "level");
  f("memory:alloc_space:bytes", "per-second");
  f("memory:inuse_space:bytes:space:bytes:delta", "per-second");
  f("memory:live:count", "level");
  f("memory:lively:count", "per-second");
  f("goroutine:goroutine:count", "level");
  f("threadcreate:threadcreate:count", "level");
});
test("findType", () => {
  const f = (text: string, want: string | undefined): void => expect(findType(types, text)?.id.split(":").slice(0, 2).join(":")).toBe(want);
  f("", "process_cpu:cpu");
  f("cpu", "process_cpu:cpu");
  f("memory", "memory:inuse_space");
  f("process_cpu:samples:count:cpu:nanoseconds", "process_cpu:samples");
  f("process_cpu:sam", "process_cpu:samples");
  f("process_cpu", undefined);
  f("heap", undefined);
  expect(defaultType([])).toBeUndefined();
});
test("isMemory", () => {
  const f = (id: string, want: boolean): void => expect(isMemory(id)).toBe(want);
  f("memory:page_faults:count:page_faults:count", true);
  f("heap:x:bytes:space:bytes", true);
  f("x:alloc_objects:count::", true);
  f("x:inuse:bytes::", true);
  f("x:allocations:count::", false);
  f("process_cpu:cpu:nanoseconds:cpu:nanoseconds", false);
});
