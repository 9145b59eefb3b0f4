import type { FleetApi } from "../api/fleet";
import { formatAge, sparkline, type AgentDetails, type Moment, type Named } from "../lib/fleet";
import { linkTo } from "../lib/route";
import { withEqual } from "../lib/selector";
import { formatCount, formatRate, formatShare, formatValue } from "../lib/units";
import { FleetPanel, Mark, Part } from "./FleetPanel";
import { useRequest, visit } from "./hooks";
import { Problem } from "./States";

interface Props {
  readonly api: FleetApi;
  readonly instance: string;
  readonly tick: number;
  readonly now: number;
  readonly close: () => void;
}

// FleetAgent shows all that one agent has told.
export function FleetAgent({ api, instance, tick, now, close }: Props) {
  const request = useRequest(`${instance} ${tick}`, (signal) => api.agent(instance, signal));
  // Kept answers may be another agent's.
  const d = request.data?.row.instance === instance ? request.data : undefined;
  if (d === undefined) {
    return (
      <FleetPanel title="Agent" close={close}>
        {request.error === undefined ? (
          <p className="quiet" role="status">
            Asking…
          </p>
        ) : request.error.code === "NotFound" ? (
          <Problem title="This agent is not remembered any more" detail={request.error.message} action={{ label: "Close", act: close }} />
        ) : (
          <Problem error={request.error} retry={request.retry} />
        )}
      </FleetPanel>
    );
  }
  const a = d.row;
  const query = new URLSearchParams(location.search);
  query.set("q", withEqual("", "node", a.node));
  const profiles = linkTo("/", query.toString());
  const cost = `${formatRate(a.cores * 1e9, "nanoseconds", "cores")} of ${formatCount(a.cpus)}, ${formatValue(a.rssBytes, "bytes")}`;
  return (
    <FleetPanel title={a.node} close={close}>
      <p className="fleet-who">
        <Mark state={a.state} /> · seen {formatAge(now - a.seen)} ago · started {formatAge(now - a.started)} ago ·{" "}
        <a
          href={profiles}
          onClick={(e) => {
            if (e.button !== 0 || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
            e.preventDefault();
            visit(profiles);
          }}
        >
          its profiles
        </a>
      </p>
      {a.lastError !== undefined && (
        <Part title={`Last error, ${formatAge(now - a.lastError.at)} ago`}>
          <p className="fleet-error mono">
            {a.lastError.where}: {a.lastError.text}
          </p>
        </Part>
      )}
      <Part title="Last ten minutes">
        <Line history={d.history} name="Samples" value={(m) => m.samplesPerSecond} format={(v) => `${formatValue(v, "count")}/s`} />
        <Line history={d.history} name={a.withServer ? "With server" : "Cost"} value={(m) => m.cores} format={(v) => formatRate(v * 1e9, "nanoseconds", "cores")} />
        <Line history={d.history} name="Lost" value={(m) => m.lostShare} format={(v) => formatShare(v, 1)} />
      </Part>
      <Part title="Cost">
        <List
          of={[
            { name: a.withServer ? "Agent and server" : "Agent", value: cost },
            { name: "BPF programs", value: d.bpfCores === undefined ? "the kernel does not say" : formatRate(d.bpfCores * 1e9, "nanoseconds", "cores") },
          ]}
        />
      </Part>
      <Part title="Losses since its start">
        {d.losses.length === 0 ? (
          <p className="quiet">Nothing was lost.</p>
        ) : (
          <Counts head={["What", "Why", "How many"]} rows={d.losses.map((l) => [l.kind, l.reason, formatCount(l.count)])} />
        )}
      </Part>
      <Stacks d={d} />
      <Part title="Delivery">
        <List
          of={[
            { name: "Messages", value: `${formatCount(d.delivery.delivered)} of ${formatCount(d.delivery.messages)} arrived${d.delivery.failures > 0 ? `, ${formatCount(d.delivery.failures)} tries failed` : ""}` },
            { name: "Waiting", value: `${formatValue(d.delivery.queueBytes, "bytes")} in memory, ${formatValue(d.delivery.spoolBytes, "bytes")} of ${formatValue(d.delivery.spoolMaxBytes, "bytes")} on disk` },
          ]}
        />
      </Part>
      <Part title="Symbols and unwinding">
        <List
          of={[
            { name: "Symbols", value: `${formatCount(d.symbols.uploaded)} files uploaded, ${formatCount(d.symbols.pending)} wait, ${formatCount(d.symbols.failed)} failed, ${formatCount(d.symbols.gone)} were gone` },
            ...when(d.symbols.lastError),
            { name: "Unwind tables", value: `${formatCount(d.unwinding.tables)} of ${formatCount(d.unwinding.files)} files, ${formatCount(d.unwinding.queued)} wait, ${formatCount(d.unwinding.failed)} failed` },
            ...when(d.unwinding.lastError),
          ]}
        />
      </Part>
      <Part title="Memory profiles">
        <List of={[{ name: "Collected of", value: `${d.heaps.go} Go programs, ${d.heaps.jvm} JVMs, ${d.heaps.native} native programs` }, ...d.heaps.without.map((w) => ({ name: `Not of ${formatCount(w.count)}`, value: w.end }))]} />
      </Part>
      {d.off.length > 0 && (
        <Part title="Off">
          <List of={d.off} />
        </Part>
      )}
      <Part title="Program and settings">
        <List
          of={[
            { name: "version", value: a.version },
            { name: "kernel", value: `${a.kernel}, ${a.architecture}` },
            { name: "instance", value: a.instance },
            { name: "processes", value: formatCount(a.processes) },
            ...d.settings,
          ]}
        />
      </Part>
    </FleetPanel>
  );
}

function when(error: string): readonly Named[] {
  return error === "" ? [] : [{ name: "Last error", value: error }];
}

function Stacks({ d }: { d: AgentDetails }) {
  const whole = d.stacks.reduce((n, s) => n + s.count, 0);
  if (whole === 0) return null;
  return (
    <Part title="How walks through stacks ended in the kernel">
      <Counts head={["End", "Share", "How many"]} rows={d.stacks.map((s) => [s.end, formatShare(s.count, whole), formatCount(s.count)])} />
      <p className="quiet">
        {formatCount(d.deferred)} unfinished ones were walked by the agent{d.unlabelled > 0 ? `; ${formatCount(d.unlabelled)} samples lack their program's labels` : ""}.
      </p>
    </Part>
  );
}

function List({ of }: { of: readonly Named[] }) {
  return (
    <dl className="fleet-list">
      {of.map((x, i) => (
        <div key={`${x.name} ${i}`}>
          <dt>{x.name}</dt>
          <dd>{x.value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Counts({ head, rows }: { head: readonly [string, string, string]; rows: readonly (readonly [string, string, string])[] }) {
  return (
    <table className="fleet-counts">
      <thead>
        <tr>
          {head.map((h) => (
            <th key={h} scope="col">
              {h}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {rows.map((r) => (
          <tr key={r.join()}>
            <th scope="row">{r[0]}</th>
            <td>{r[1]}</td>
            <td className="num">{r[2]}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const width = 120;
const height = 22;

// Line is a number over the last reports.
function Line({ history, name, value, format }: { history: readonly Moment[]; name: string; value: (m: Moment) => number; format: (v: number) => string }) {
  const points = history.map((m) => ({ at: m.at, value: value(m) }));
  const path = sparkline(points, width, height);
  const values = points.map((p) => p.value);
  const last = values.at(-1);
  return (
    <div className="fleet-line">
      <span>{name}</span>
      {path === "" || last === undefined ? (
        <span className="quiet">too few reports yet</span>
      ) : (
        <>
          <svg viewBox={`0 -1 ${width} ${height + 2}`} preserveAspectRatio="none" role="img" aria-label={`${name}: from ${format(Math.min(...values))} to ${format(Math.max(...values))}, now ${format(last)}`}>
            <path d={path} />
          </svg>
          <b className="num">{format(last)}</b>
          <small className="num quiet">max {format(Math.max(...values))}</small>
        </>
      )}
    </div>
  );
}
