// The fleet as the page shows it: rows, their order, what a filter keeps, and whether all is well.

import { formatCount, formatShare } from "./units";

export type AgentState = "up" | "late" | "stopped";

export interface Problem {
  readonly where: string;
  readonly text: string;
  readonly at: number;
}

export interface AgentRow {
  readonly instance: string;
  readonly node: string;
  readonly state: AgentState;
  readonly version: string;
  readonly kernel: string;
  readonly architecture: string;
  // Milliseconds; started by the agent's clock, seen by the server's.
  readonly started: number;
  readonly seen: number;
  readonly cpus: number;
  readonly samples: number;
  readonly samplesPerSecond: number;
  readonly lostShare: number;
  readonly cores: number;
  readonly rssBytes: number;
  readonly withServer: boolean;
  readonly processes: number;
  readonly waitingBytes: number;
  readonly lastError: Problem | undefined;
}

export interface Sums {
  readonly up: number;
  readonly late: number;
  readonly stopped: number;
  readonly samplesPerSecond: number;
  readonly lostShare: number;
  readonly cores: number;
  readonly cpus: number;
  readonly rssBytes: number;
  readonly withServer: number;
}

export interface AgentList {
  // The server's clock.
  readonly now: number;
  readonly interval: number;
  readonly agents: readonly AgentRow[];
  readonly sums: Sums;
}

export interface Moment {
  readonly at: number;
  readonly samplesPerSecond: number;
  readonly lostShare: number;
  readonly cores: number;
  readonly rssBytes: number;
}

export interface Counted {
  readonly end: string;
  readonly count: number;
}

export interface Named {
  readonly name: string;
  readonly value: string;
}

export interface AgentDetails {
  readonly row: AgentRow;
  readonly history: readonly Moment[];
  readonly settings: readonly Named[];
  readonly off: readonly Named[];
  readonly losses: readonly { readonly kind: string; readonly reason: string; readonly count: number }[];
  readonly stacks: readonly Counted[];
  readonly deferred: number;
  readonly unlabelled: number;
  // Undefined where the kernel does not say.
  readonly bpfCores: number | undefined;
  readonly unwinding: { readonly files: number; readonly tables: number; readonly failed: number; readonly queued: number; readonly lastError: string };
  readonly delivery: {
    readonly messages: number;
    readonly delivered: number;
    readonly failures: number;
    readonly queueBytes: number;
    readonly spoolBytes: number;
    readonly spoolMaxBytes: number;
  };
  readonly symbols: { readonly pending: number; readonly uploaded: number; readonly failed: number; readonly gone: number; readonly lastError: string };
  readonly heaps: { readonly go: number; readonly jvm: number; readonly native: number; readonly without: readonly Counted[] };
}

export type Health = "up" | "down" | "unknown";

export interface TargetRow {
  readonly key: string;
  readonly job: string;
  readonly address: string;
  readonly labels: readonly Named[];
  readonly health: Health;
  // When it was asked last; undefined: never.
  readonly last: number | undefined;
  readonly tookSeconds: number;
  readonly missed: number;
  readonly profiles: readonly { readonly name: string; readonly path: string; readonly tookSeconds: number; readonly error: string; readonly restarts: number }[];
}

export interface TargetsAnswer {
  readonly now: number;
  readonly total: number;
  readonly up: number;
  readonly down: number;
  readonly jobs: readonly { readonly name: string; readonly interval: string; readonly targets: number; readonly dropped: number; readonly errors: readonly string[] }[];
  readonly targets: readonly TargetRow[];
}

export type SymbolSource = "missing" | "stored" | "came along" | "indexing" | "failed" | "partial";

export interface SymbolsRow {
  readonly key: string;
  readonly buildId: string;
  readonly file: string;
  readonly source: SymbolSource;
  readonly reason: string;
  // Of all native frames, and of those in this file.
  readonly framesShare: number;
  readonly unnamedShare: number;
}

export interface SymbolsAnswer {
  readonly total: number;
  readonly unnamedShare: number;
  // "" without profiles.
  readonly type: string;
  readonly span: { readonly start: number; readonly end: number };
  readonly files: readonly SymbolsRow[];
}

// Key reads what a column shows as something to sort by and to search in.
export type Key<R> = (row: R) => string | number;

export const agentKeys = {
  node: (a: AgentRow) => a.node,
  // Who needs a look comes first.
  state: (a: AgentRow) => ({ late: 2, up: 1, stopped: 0 })[a.state],
  seen: (a: AgentRow) => a.seen,
  samples: (a: AgentRow) => a.samplesPerSecond,
  lost: (a: AgentRow) => a.lostShare,
  cores: (a: AgentRow) => a.cores,
  memory: (a: AgentRow) => a.rssBytes,
  processes: (a: AgentRow) => a.processes,
  version: (a: AgentRow) => a.version,
  kernel: (a: AgentRow) => a.kernel,
  error: (a: AgentRow) => a.lastError?.at ?? 0,
} as const satisfies Readonly<Record<string, Key<AgentRow>>>;

export const targetKeys = {
  address: (t: TargetRow) => t.address,
  health: (t: TargetRow) => ({ down: 2, unknown: 1, up: 0 })[t.health],
  job: (t: TargetRow) => t.job,
  last: (t: TargetRow) => t.last ?? 0,
  took: (t: TargetRow) => t.tookSeconds,
  missed: (t: TargetRow) => t.missed,
  error: (t: TargetRow) => firstError(t),
} as const satisfies Readonly<Record<string, Key<TargetRow>>>;

export const symbolKeys = {
  file: (s: SymbolsRow) => s.file,
  source: (s: SymbolsRow) => ["came along", "stored", "indexing", "partial", "missing", "failed"].indexOf(s.source),
  frames: (s: SymbolsRow) => s.framesShare,
  // Of all frames, so that what matters is first.
  unnamed: (s: SymbolsRow) => s.framesShare * s.unnamedShare,
  reason: (s: SymbolsRow) => s.reason,
} as const satisfies Readonly<Record<string, Key<SymbolsRow>>>;

// sortBy orders rows by a key, equal ones as they were. Of numbers the largest are first, of words the first, unless
// it is turned.
export function sortBy<R>(rows: readonly R[], key: Key<R>, turned: boolean): R[] {
  const sign = turned ? -1 : 1;
  return rows.toSorted((a, b) => {
    const x = key(a);
    const y = key(b);
    if (typeof x === "number" && typeof y === "number") return sign * (y - x);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

// filterBy keeps the rows in whose text every word of wanted occurs, whatever its case.
export function filterBy<R>(rows: readonly R[], wanted: string, text: (row: R) => string): readonly R[] {
  const words = wanted.toLowerCase().split(/\s+/).filter((w) => w !== "");
  if (words.length === 0) return rows;
  return rows.filter((r) => {
    const t = text(r).toLowerCase();
    return words.every((w) => t.includes(w));
  });
}

export function agentText(a: AgentRow): string {
  return [a.node, a.state, a.version, a.kernel, a.architecture, a.instance, a.lastError?.text ?? ""].join("\n");
}

export function targetText(t: TargetRow): string {
  return [t.job, t.address, t.health, ...t.labels.map((l) => `${l.name}=${l.value}`), ...t.profiles.map((p) => p.error)].join("\n");
}

export function symbolsText(s: SymbolsRow): string {
  return [s.file, s.buildId, s.source, s.reason].join("\n");
}

// firstError is what is wrong with a target, "" for nothing.
export function firstError(t: TargetRow): string {
  const p = t.profiles.find((p) => p.error !== "");
  return p === undefined ? "" : `${p.name}: ${p.error}`;
}

// agentNames tells apart those that have one node's name.
export function agentNames(agents: readonly AgentRow[]): ReadonlyMap<string, string> {
  const count = new Map<string, number>();
  for (const a of agents) count.set(a.node, (count.get(a.node) ?? 0) + 1);
  return new Map(agents.map((a) => [a.instance, (count.get(a.node) ?? 0) > 1 ? `${a.node} #${a.instance.slice(0, 8)}` : a.node]));
}

// From so much on a loss is worth a word: below it are a few samples while a program starts.
const muchLost = 0.001;

// verdict says whether profiling is all right, and if not, what is not, most important first.
export function verdict(sums: Sums, targets: TargetsAnswer | undefined): { good: boolean; text: string } {
  const wrong: string[] = [];
  const many = (n: number, what: string): string => `${formatCount(n)} ${what}${n === 1 ? "" : "s"}`;
  if (sums.late > 0) wrong.push(`${many(sums.late, "agent")} late`);
  if (sums.up === 0 && sums.late === 0) wrong.push("no agent is up");
  if (sums.lostShare >= muchLost) wrong.push(`${formatShare(sums.lostShare, 1)} of what was measured is lost`);
  if (targets !== undefined && targets.down > 0) wrong.push(`${many(targets.down, "target")} down`);
  const faults = targets?.jobs.filter((j) => j.errors.length > 0).length ?? 0;
  if (faults > 0) wrong.push(`${many(faults, "scrape job")} cannot find targets`);
  if (wrong.length > 0) return { good: false, text: capital(wrong.join(", ")) };
  return { good: true, text: `All is well: ${many(sums.up, "agent")} up, ${sums.lostShare === 0 ? "nothing" : "next to nothing"} lost` };
}

function capital(s: string): string {
  return s.charAt(0).toUpperCase() + s.slice(1);
}

// formatAge writes a duration in milliseconds in its two largest units: "5 s", "3 min", "2 h 05 min", "3 d 4 h".
export function formatAge(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 120) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 48) return `${h} h ${String(min % 60).padStart(2, "0")} min`;
  return `${Math.floor(h / 24)} d ${h % 24} h`;
}

// mend is the command that gives a file its names; undefined where none does.
export function mend(s: SymbolsRow): string | undefined {
  if (s.buildId === "" || !s.file.startsWith("/") || (s.source !== "missing" && s.source !== "failed")) return undefined;
  const quoted = /^[\w@%+=:,./-]+$/.test(s.file) ? s.file : `'${s.file.replaceAll("'", `'\\''`)}'`;
  return `profilectl debuginfo upload ${quoted}`;
}

// sparkline is a path of values from left to right in a box, 0 at the bottom; "" for less than two.
export function sparkline(points: readonly { readonly at: number; readonly value: number }[], width: number, height: number): string {
  const first = points[0];
  const last = points.at(-1);
  if (first === undefined || last === undefined || points.length < 2 || last.at <= first.at) return "";
  const top = Math.max(...points.map((p) => p.value)) || 1;
  return points
    .map((p, i) => {
      const x = ((p.at - first.at) / (last.at - first.at)) * width;
      const y = height - (p.value / top) * height;
      return `${i === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}
