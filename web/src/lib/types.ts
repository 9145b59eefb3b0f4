// Profile types in words.

import type { Rate } from "./units";

export interface TypeParts {
  readonly id: string;
  readonly name: string;
  readonly sampleType: string;
  readonly sampleUnit: string;
}

const words: Readonly<Record<string, string>> = {
  "process_cpu:cpu": "CPU time",
  "process_cpu:samples": "CPU samples",
  "off_cpu:off_cpu": "Off-CPU time",
  "off_cpu:delay": "Off-CPU time",
  "wall:wall": "Wall-clock time",
  "memory:inuse_space": "Memory in use",
  "memory:inuse_objects": "Objects in use",
  "memory:alloc_space": "Memory allocated",
  "memory:alloc_objects": "Objects allocated",
  "memory:page_faults": "Page faults",
  "mutex:contentions": "Lock contentions",
  "mutex:delay": "Lock delay",
  "block:contentions": "Blocking events",
  "block:delay": "Blocking delay",
  "goroutine:goroutine": "Goroutines",
  "goroutines:goroutine": "Goroutines",
};

// friendlyName says what a type measures: "CPU time", or its own words if it is not a known one.
export function friendlyName(t: TypeParts): string {
  const known = words[`${t.name}:${t.sampleType}`];
  if (known !== undefined) return known;
  const name = t.name.replaceAll("_", " ");
  const sample = t.sampleType.replaceAll("_", " ");
  return name === sample ? name : `${name}: ${sample}`;
}

// What the server averages, where it adds amounts: profile.Type.Level.
const levelNames: readonly string[] = ["goroutine", "goroutines", "threadcreate"];

// rateOf says how the type is drawn over time.
export function rateOf(t: TypeParts): Rate {
  const level = /^(inuse|live)(_|$)/.test(t.sampleType) || levelNames.includes(t.name);
  if (level && !t.id.endsWith(":delta")) return "level";
  if (t.name === "process_cpu" && t.sampleUnit === "nanoseconds") return "cores";
  return "per-second";
}

// isMemory tells types of memory by stack, whose tables fold allocators: profile.Type.Memory.
export function isMemory(id: string): boolean {
  const [name, sampleType = "", , periodType] = id.split(":");
  return name === "memory" || periodType === "space" || /^(inuse|alloc)(_|$)/.test(sampleType);
}

// defaultType is CPU time if there is any, else the first.
export function defaultType<T extends TypeParts>(types: readonly T[]): T | undefined {
  return types.find((t) => t.name === "process_cpu" && t.sampleType === "cpu") ?? types.find((t) => t.name === "process_cpu") ?? types[0];
}

// findType resolves what the URL says: a full id, or an unambiguous prefix of the name, the sample type or the id.
export function findType<T extends TypeParts>(types: readonly T[], text: string): T | undefined {
  if (text === "") return defaultType(types);
  const exact = types.find((t) => t.id === text);
  if (exact !== undefined) return exact;
  const by = (key: (t: T) => string): T | undefined => {
    const found = types.filter((t) => key(t).startsWith(text));
    return found.length === 1 ? found[0] : undefined;
  };
  return by((t) => t.sampleType) ?? by((t) => t.name) ?? by((t) => t.id);
}
