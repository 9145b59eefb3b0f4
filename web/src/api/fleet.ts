// Questions about the fleet, in the page's own shapes: numbers instead of 64-bit integers, milliseconds instead of
// nanoseconds.

import { createClient } from "@connectrpc/connect";
import type { AgentDetails, AgentList, AgentRow, AgentState, Moment, Problem, SymbolsAnswer, TargetsAnswer } from "../lib/fleet";
import { ask, millis, transportTo } from "./call";
import { FleetService, Loss_Kind, State, Symbols_Source, type Agent, type Ending, type Moment as WireMoment, type Problem as WireProblem } from "./gen/perfuse/fleet/v1/fleet_pb";

export interface FleetApi {
  agents(signal: AbortSignal): Promise<AgentList>;
  agent(instance: string, signal: AbortSignal): Promise<AgentDetails>;
  targets(signal: AbortSignal): Promise<TargetsAnswer>;
  symbols(signal: AbortSignal): Promise<SymbolsAnswer>;
}

const states: Readonly<Record<State, AgentState>> = { [State.STATE_UNKNOWN]: "late", [State.UP]: "up", [State.LATE]: "late", [State.STOPPED]: "stopped" };
const kinds: Readonly<Record<Loss_Kind, string>> = {
  [Loss_Kind.UNKNOWN]: "lost",
  [Loss_Kind.SAMPLES]: "samples",
  [Loss_Kind.MESSAGES]: "messages",
  [Loss_Kind.PROFILES]: "profiles",
  [Loss_Kind.ALLOCATIONS]: "allocations",
};
const sources = {
  [Symbols_Source.MISSING]: "missing",
  [Symbols_Source.STORE]: "stored",
  [Symbols_Source.PROFILES]: "came along",
  [Symbols_Source.INDEXING]: "indexing",
  [Symbols_Source.FAILED]: "failed",
  [Symbols_Source.PARTIAL]: "partial",
} as const;

function problem(p: WireProblem | undefined): Problem | undefined {
  return p === undefined ? undefined : { where: p.where, text: p.text, at: millis(p.unixNano) };
}

function row(a: Agent): AgentRow {
  return {
    instance: a.instance,
    node: a.node,
    state: states[a.state] ?? "late",
    version: a.version,
    kernel: a.kernel,
    architecture: a.architecture,
    started: millis(a.startedUnixNano),
    seen: millis(a.seenUnixNano),
    cpus: a.cpus,
    samples: Number(a.samples),
    samplesPerSecond: a.samplesPerSecond,
    lostShare: a.lostShare,
    cores: a.cores,
    rssBytes: Number(a.rssBytes),
    withServer: a.withServer,
    processes: a.processes,
    waitingBytes: Number(a.waitingBytes),
    lastError: problem(a.lastError),
  };
}

function endings(list: readonly Ending[]) {
  return list.map((e) => ({ end: e.end, count: Number(e.count) }));
}

function moment(m: WireMoment): Moment {
  return { at: millis(m.unixNano), samplesPerSecond: m.samplesPerSecond, lostShare: m.lostShare, cores: m.cores, rssBytes: Number(m.rssBytes) };
}

export function newFleetApi(baseUrl: string): FleetApi {
  const client = createClient(FleetService, transportTo(baseUrl));
  return {
    async agents(signal) {
      const r = await ask(() => client.agents({}, { signal }));
      const s = r.sums;
      return {
        now: millis(r.nowUnixNano),
        interval: millis(r.intervalNano),
        agents: r.agents.map(row),
        sums: {
          up: s?.up ?? 0,
          late: s?.late ?? 0,
          stopped: s?.stopped ?? 0,
          samplesPerSecond: s?.samplesPerSecond ?? 0,
          lostShare: s?.lostShare ?? 0,
          cores: s?.cores ?? 0,
          cpus: s?.cpus ?? 0,
          rssBytes: Number(s?.rssBytes ?? 0n),
          withServer: s?.withServer ?? 0,
        },
      };
    },
    async agent(instance, signal) {
      const { agent, report: r, history } = await ask(() => client.agent({ instance }, { signal }));
      if (agent === undefined || r === undefined) throw new Error("the server's answer lacks the agent");
      const bpf = r.cost?.bpfCores ?? -1;
      return {
        row: row(agent),
        history: history.map(moment),
        settings: r.settings.map((x) => ({ name: x.name, value: x.value })),
        off: r.off.map((x) => ({ name: x.what, value: x.why })),
        losses: r.losses.map((x) => ({ kind: kinds[x.kind] ?? "lost", reason: x.reason, count: Number(x.count) })),
        stacks: endings(r.sampling?.stacks ?? []),
        deferred: Number(r.sampling?.deferred ?? 0n),
        unlabelled: Number(r.sampling?.unlabelled ?? 0n),
        bpfCores: bpf < 0 ? undefined : bpf,
        unwinding: {
          files: Number(r.unwinding?.files ?? 0n),
          tables: Number(r.unwinding?.tables ?? 0n),
          failed: Number(r.unwinding?.failed ?? 0n),
          queued: Number(r.unwinding?.queued ?? 0n),
          lastError: r.unwinding?.lastError ?? "",
        },
        delivery: {
          messages: Number(r.delivery?.messages ?? 0n),
          delivered: Number(r.delivery?.delivered ?? 0n),
          failures: Number(r.delivery?.failures ?? 0n),
          queueBytes: Number(r.delivery?.queueBytes ?? 0n),
          spoolBytes: Number(r.delivery?.spoolBytes ?? 0n),
          spoolMaxBytes: Number(r.delivery?.spoolMaxBytes ?? 0n),
        },
        symbols: {
          pending: Number(r.debuginfo?.pending ?? 0n),
          uploaded: Number(r.debuginfo?.uploaded ?? 0n),
          failed: Number(r.debuginfo?.failed ?? 0n),
          gone: Number(r.debuginfo?.gone ?? 0n),
          lastError: r.debuginfo?.lastError ?? "",
        },
        heaps: { go: r.heaps?.go ?? 0, jvm: r.heaps?.jvm ?? 0, native: r.heaps?.native ?? 0, without: endings(r.heaps?.without ?? []) },
      };
    },
    async targets(signal) {
      const r = await ask(() => client.targets({}, { signal }));
      return {
        now: millis(r.nowUnixNano),
        total: r.total,
        up: r.up,
        down: r.down,
        jobs: r.jobs.map((j) => ({ name: j.name, interval: j.interval, targets: j.targets, dropped: j.dropped, errors: j.errors })),
        targets: r.targets.map((t) => ({
          key: `${t.job} ${t.address} ${JSON.stringify(Object.entries(t.labels).sort())}`,
          job: t.job,
          address: t.address,
          labels: Object.entries(t.labels)
            .map(([name, value]) => ({ name, value }))
            .sort((a, b) => (a.name < b.name ? -1 : 1)),
          health: t.health === "up" || t.health === "down" ? t.health : "unknown",
          last: t.lastScrapeUnixNano === 0n ? undefined : millis(t.lastScrapeUnixNano),
          tookSeconds: t.tookSeconds,
          missed: t.missed,
          profiles: t.profiles.map((p) => ({ name: p.name, path: p.path, tookSeconds: p.tookSeconds, error: p.error, restarts: p.restarts })),
        })),
      };
    },
    async symbols(signal) {
      const r = await ask(() => client.symbols({}, { signal }));
      return {
        total: r.total,
        unnamedShare: r.unnamedShare,
        type: r.profileType,
        span: { start: millis(r.startUnixNano), end: millis(r.endUnixNano) },
        files: r.files.map((f) => ({
          key: f.buildId === "" ? f.file : f.buildId,
          buildId: f.buildId,
          file: f.file,
          source: sources[f.source] ?? "missing",
          reason: f.reason,
          framesShare: f.framesShare,
          unnamedShare: f.unnamedShare,
        })),
      };
    },
  };
}
