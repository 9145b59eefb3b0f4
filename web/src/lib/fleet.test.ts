import { expect, test } from "vitest";
import {
  agentKeys,
  agentNames,
  agentText,
  filterBy,
  formatAge,
  mend,
  sortBy,
  sparkline,
  symbolKeys,
  targetText,
  verdict,
  type AgentRow,
  type Sums,
  type SymbolsRow,
  type TargetRow,
  type TargetsAnswer,
} from "./fleet";

function agent(change: Partial<AgentRow>): AgentRow {
  return {
    instance: "aaaabbbbcccc",
    node: "n",
    state: "up",
    version: "1",
    kernel: "6.1",
    architecture: "amd64",
    started: 0,
    seen: 0,
    cpus: 4,
    samples: 0,
    samplesPerSecond: 0,
    lostShare: 0,
    cores: 0,
    rssBytes: 0,
    withServer: false,
    processes: 0,
    waitingBytes: 0,
    lastError: undefined,
    ...change,
  };
}

const calm: Sums = { up: 3, late: 0, stopped: 0, samplesPerSecond: 50, lostShare: 0, cores: 0.1, cpus: 12, rssBytes: 1, withServer: 0 };

test("words go up and numbers down, equal ones stay, and turning is the other way round", () => {
  const rows = [agent({ node: "b", cores: 1 }), agent({ node: "a", cores: 2 }), agent({ node: "c", cores: 2 })];
  const nodes = (list: readonly AgentRow[]): string => list.map((r) => r.node).join("");
  expect(nodes(sortBy(rows, agentKeys.node, false))).toBe("abc");
  expect(nodes(sortBy(rows, agentKeys.node, true))).toBe("cba");
  expect(nodes(sortBy(rows, agentKeys.cores, false))).toBe("acb");
  expect(nodes(sortBy(rows, agentKeys.cores, true))).toBe("bac");
});

test("by state, who needs a look is first", () => {
  const rows = [agent({ state: "stopped" }), agent({ state: "up" }), agent({ state: "late" })];
  expect(sortBy(rows, agentKeys.state, false).map((r) => r.state)).toEqual(["late", "up", "stopped"]);
});

test("unnamed frames count by what they are of all", () => {
  const file = (file: string, framesShare: number, unnamedShare: number): SymbolsRow => ({ key: file, file, buildId: "x", source: "partial", reason: "", framesShare, unnamedShare });
  const rows = [file("small", 0.001, 1), file("large", 0.5, 0.1), file("whole", 0.4, 0)];
  expect(sortBy(rows, symbolKeys.unnamed, false).map((r) => r.file)).toEqual(["large", "small", "whole"]);
});

test("a filter wants every word, whatever its case", () => {
  const rows = [agent({ node: "Worker-1", kernel: "6.12" }), agent({ node: "worker-2", kernel: "5.10", lastError: { where: "", text: "Refused", at: 1 } })];
  const kept = (wanted: string): string => filterBy(rows, wanted, agentText).map((r) => r.node).join(" ");
  expect(kept("")).toBe("Worker-1 worker-2");
  expect(kept("  WORKER 6.12 ")).toBe("Worker-1");
  expect(kept("refused")).toBe("worker-2");
  expect(kept("worker 7")).toBe("");
  const target: TargetRow = { key: "", job: "web", address: "http://x", labels: [{ name: "env", value: "prod" }], health: "up", last: undefined, tookSeconds: 0, missed: 0, profiles: [] };
  expect(filterBy([target], "env=prod", targetText)).toHaveLength(1);
});

test("agents of one node's name are told apart", () => {
  const names = agentNames([agent({ node: "a", instance: "1111111122" }), agent({ node: "a", instance: "3333333344" }), agent({ node: "b", instance: "5" })]);
  expect([...names.values()]).toEqual(["a #11111111", "a #33333333", "b"]);
});

test("the verdict names what is wrong, most important first", () => {
  const targets: TargetsAnswer = { now: 0, total: 5, up: 3, down: 2, jobs: [{ name: "j", interval: "", targets: 5, dropped: 0, errors: ["e"] }], targets: [] };
  const f = (sums: Partial<Sums>, t: TargetsAnswer | undefined, good: boolean, text: string): void => {
    expect(verdict({ ...calm, ...sums }, t)).toEqual({ good, text });
  };
  f({}, undefined, true, "All is well: 3 agents up, nothing lost");
  f({ up: 1, lostShare: 0.0001 }, undefined, true, "All is well: 1 agent up, next to nothing lost");
  f({ late: 1 }, undefined, false, "1 agent late");
  f({ late: 2, lostShare: 0.05 }, targets, false, "2 agents late, 5.00 % of what was measured is lost, 2 targets down, 1 scrape job cannot find targets");
  f({ up: 0, stopped: 2 }, undefined, false, "No agent is up");
});

test("ages", () => {
  const f = (ms: number, want: string): void => expect(formatAge(ms)).toBe(want);
  f(-5000, "0 s");
  f(1499, "1 s");
  f(119_000, "119 s");
  f(125_000, "2 min");
  f(3_600_000 * 2 + 60_000 * 5, "2 h 05 min");
  f(86_400_000 * 3 + 3_600_000 * 4, "3 d 4 h");
});

test("a command is offered where it helps, and is safe to paste", () => {
  const f = (change: Partial<SymbolsRow>, want: string | undefined): void => {
    const row: SymbolsRow = { key: "", buildId: "ab", file: "/usr/bin/x", source: "missing", reason: "", framesShare: 1, unnamedShare: 1, ...change };
    expect(mend(row)).toBe(want);
  };
  f({}, "profilectl debuginfo upload /usr/bin/x");
  f({ source: "failed", file: "/opt/a b/$(reboot)'s" }, `profilectl debuginfo upload '/opt/a b/$(reboot)'\\''s'`);
  f({ source: "partial" }, undefined);
  f({ source: "stored" }, undefined);
  f({ buildId: "" }, undefined);
  f({ file: "[vdso]" }, undefined);
});

test("a line goes from the first to the last report, with 0 at the bottom", () => {
  const at = (...values: number[]) => values.map((value, i) => ({ at: i * 1000, value }));
  expect(sparkline(at(0, 5, 10), 100, 20)).toBe("M0.0 20.0L50.0 10.0L100.0 0.0");
  expect(sparkline(at(0, 0), 100, 20)).toBe("M0.0 20.0L100.0 20.0");
  expect(sparkline(at(1), 100, 20)).toBe("");
  expect(sparkline([], 100, 20)).toBe("");
});
