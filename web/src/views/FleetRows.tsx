import { agentKeys, firstError, formatAge, mend, symbolKeys, targetKeys, type AgentRow, type Health, type SymbolsAnswer, type SymbolsRow, type TargetRow } from "../lib/fleet";
import { baseName } from "../lib/names";
import { formatCount, formatRate, formatShare, formatValue } from "../lib/units";
import { FleetPanel, Mark, Part } from "./FleetPanel";
import type { Column } from "./FleetTable";

// What the tables of the fleet show of each row, and what stands in the details of those that tell no more when asked.

export function agentColumns(now: number, names: ReadonlyMap<string, string>): readonly Column<AgentRow>[] {
  const ago = (ms: number): string => formatAge(now - ms);
  const up = (a: AgentRow, text: string): string => (a.state === "up" ? text : "–");
  return [
    { name: "node", head: "Node", key: agentKeys.node, cell: (a) => names.get(a.instance) ?? a.node },
    { name: "state", head: "State", key: agentKeys.state, cell: (a) => <Mark state={a.state} />, width: "84px" },
    { name: "seen", head: "Seen", title: "How long ago it has reported", key: agentKeys.seen, cell: (a) => ago(a.seen), number: true, only: "middle", width: "76px" },
    {
      name: "samples",
      head: "Samples/s",
      title: "CPU samples of the last minute",
      key: agentKeys.samples,
      cell: (a) => up(a, formatValue(a.samplesPerSecond, "count")),
      number: true,
      width: "106px",
    },
    {
      name: "lost",
      head: "Lost",
      title: "Of samples and messages, in the last ten minutes",
      key: agentKeys.lost,
      cell: (a) => <span className={a.lostShare > 0 ? "bad" : ""}>{formatShare(a.lostShare, 1)}</span>,
      number: true,
      width: "72px",
    },
    {
      name: "cores",
      head: "Cost",
      title: "Processors' worth of the agent and its BPF programs, in the last minute; * with the server in the same process",
      key: agentKeys.cores,
      cell: (a) => up(a, formatRate(a.cores * 1e9, "nanoseconds", "cores") + (a.withServer ? " *" : "")),
      number: true,
      only: "middle",
      width: "108px",
    },
    { name: "memory", head: "Memory", key: agentKeys.memory, cell: (a) => formatValue(a.rssBytes, "bytes"), number: true, only: "middle", width: "92px" },
    { name: "processes", head: "Processes", key: agentKeys.processes, cell: (a) => formatCount(a.processes), number: true, only: "wide", width: "106px" },
    { name: "version", head: "Version", key: agentKeys.version, cell: (a) => a.version, only: "wide", width: "110px" },
    { name: "kernel", head: "Kernel", key: agentKeys.kernel, cell: (a) => a.kernel, only: "wide", width: "130px" },
    {
      name: "error",
      head: "Last error",
      key: agentKeys.error,
      cell: (a) => (a.lastError === undefined ? "–" : <span title={a.lastError.text}>{`${ago(a.lastError.at)} ago: ${a.lastError.text}`}</span>),
      only: "wide",
      width: "22%",
    },
  ];
}

export function targetColumns(now: number): readonly Column<TargetRow>[] {
  return [
    { name: "address", head: "Target", key: targetKeys.address, cell: (t) => <span className="mono">{t.address}</span> },
    { name: "health", head: "Health", key: targetKeys.health, cell: (t) => <Mark state={t.health} word={healthWords[t.health]} />, width: "104px" },
    { name: "job", head: "Job", key: targetKeys.job, cell: (t) => t.job, only: "middle", width: "14%" },
    { name: "last", head: "Asked", title: "How long ago", key: targetKeys.last, cell: (t) => (t.last === undefined ? "never" : formatAge(now - t.last)), number: true, width: "86px" },
    { name: "took", head: "Took", key: targetKeys.took, cell: (t) => (t.last === undefined ? "–" : formatValue(t.tookSeconds, "seconds")), number: true, only: "middle", width: "80px" },
    { name: "missed", head: "Missed", title: "Rounds that were due while another ran", key: targetKeys.missed, cell: (t) => formatCount(t.missed), number: true, only: "wide", width: "88px" },
    { name: "error", head: "Error", key: targetKeys.error, cell: (t) => <span title={firstError(t)}>{firstError(t) || "–"}</span>, only: "wide", width: "36%" },
  ];
}

const healthWords: Readonly<Record<Health, string>> = { up: "up", down: "down", unknown: "not asked" };
const sourceLooks: Readonly<Record<SymbolsRow["source"], Health>> = { stored: "up", "came along": "up", indexing: "unknown", partial: "unknown", missing: "down", failed: "down" };

export function symbolColumns(): readonly Column<SymbolsRow>[] {
  return [
    {
      name: "file",
      head: "File",
      key: symbolKeys.file,
      cell: (s) => (
        <span title={s.file}>
          {titleOf(s)}
          <small className="quiet"> {s.file.slice(0, s.file.length - titleOf(s).length)}</small>
        </span>
      ),
    },
    { name: "source", head: "Symbols", key: symbolKeys.source, cell: (s) => <Mark state={sourceLooks[s.source]} word={s.source} />, width: "112px" },
    { name: "frames", head: "Frames", title: "Of all native frames of all samples, those in this file", key: symbolKeys.frames, cell: (s) => formatShare(s.framesShare, 1), number: true, only: "middle", width: "92px" },
    {
      name: "unnamed",
      head: "Unnamed",
      title: "Of this file's frames; in the order of what they are of all",
      key: symbolKeys.unnamed,
      cell: (s) => formatShare(s.unnamedShare, 1),
      number: true,
      width: "108px",
    },
    { name: "reason", head: "Why", key: symbolKeys.reason, cell: (s) => <span title={s.reason}>{s.reason || "–"}</span>, only: "wide", width: "44%" },
  ];
}

// titleOf is a file's name without its folder; what is no file, such as //anon, has none.
function titleOf(s: SymbolsRow): string {
  if (s.file === "") return s.buildId;
  return s.file.startsWith("//") ? s.file : baseName(s.file);
}

export function TargetDetails({ target: t, now, close }: { target: TargetRow; now: number; close: () => void }) {
  return (
    <FleetPanel title={t.address} close={close}>
      <p className="fleet-who">
        <Mark state={t.health} word={healthWords[t.health]} /> · job {t.job} · {t.last === undefined ? "not asked yet" : `asked ${formatAge(now - t.last)} ago`}
      </p>
      <Part title="Profiles">
        <table className="fleet-counts">
          <thead>
            <tr>
              <th scope="col">Profile</th>
              <th scope="col">Path</th>
              <th scope="col">Took</th>
            </tr>
          </thead>
          <tbody>
            {t.profiles.map((p) => (
              <tr key={p.name}>
                <th scope="row">{p.name}</th>
                <td>
                  <span className="mono">{p.path}</span>
                  {p.error !== "" && <p className="fleet-error mono">{p.error}</p>}
                  {p.restarts > 0 && <p className="quiet">{formatCount(p.restarts)} times started anew</p>}
                </td>
                <td className="num">{formatValue(p.tookSeconds, "seconds")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Part>
      <Part title="Labels">
        <dl className="fleet-list">
          {t.labels.map((l) => (
            <div key={l.name}>
              <dt>{l.name}</dt>
              <dd>{l.value}</dd>
            </div>
          ))}
        </dl>
      </Part>
    </FleetPanel>
  );
}

export function SymbolsDetails({ of: s, answer, close }: { of: SymbolsRow; answer: SymbolsAnswer; close: () => void }) {
  const command = mend(s);
  return (
    <FleetPanel title={titleOf(s)} close={close}>
      <p className="fleet-who">
        <Mark state={sourceLooks[s.source]} word={s.source} /> · {formatShare(s.framesShare, 1)} of all native frames, {formatShare(s.unnamedShare, 1)} of them unnamed
      </p>
      {s.reason !== "" && (
        <Part title="Why names are missing">
          <p>{s.reason}</p>
        </Part>
      )}
      {command !== undefined && (
        <Part title="What mends it">
          <p>On a node that has the file, or with its debug file in its place:</p>
          <pre className="fleet-command">{command}</pre>
        </Part>
      )}
      <Part title="File">
        <dl className="fleet-list">
          <div>
            <dt>path</dt>
            <dd>{s.file || "–"}</dd>
          </div>
          <div>
            <dt>build id</dt>
            <dd>{s.buildId || "none"}</dd>
          </div>
          <div>
            <dt>seen in</dt>
            <dd>{answer.type}</dd>
          </div>
        </dl>
      </Part>
    </FleetPanel>
  );
}
