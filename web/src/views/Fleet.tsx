import { useEffect, useMemo, useState, type ReactNode } from "react";
import { newFleetApi } from "../api/fleet";
import { agentNames, agentText, filterBy, symbolsText, targetText, verdict, type AgentList, type TargetsAnswer } from "../lib/fleet";
import { formatFleet, parseFleet, usualSort, type FleetState, type Shown } from "../lib/fleetstate";
import { formatCount, formatRate, formatShare, formatValue } from "../lib/units";
import { Brand } from "./Brand";
import "./fleet.css";
import { FleetAgent } from "./FleetAgent";
import { Mark } from "./FleetPanel";
import { agentColumns, symbolColumns, SymbolsDetails, targetColumns, TargetDetails } from "./FleetRows";
import { FleetTable } from "./FleetTable";
import { useRequest, useTheme, useUrlState, type Change, type Request } from "./hooks";
import { Notice, Problem } from "./States";
import { ThemeSwitch } from "./ThemeSwitch";

const everyMillis = 5000;
// A list of thousands is asked for less often.
const seldomMillis = 15_000;
const many = 1000;

const api = newFleetApi(location.origin);

// Fleet says whether profiling is all right and what it costs: agents, scraped targets, symbols.
export function Fleet() {
  const [state, go] = useUrlState(parseFleet, formatFleet);
  const theme = useTheme(state.theme);
  const [size, setSize] = useState(0);
  const [tick, refresh] = useTick(size > many ? seldomMillis : everyMillis);
  const agents = useRequest(`agents ${tick}`, (signal) => api.agents(signal));
  const targets = useRequest(`targets ${tick}`, (signal) => api.targets(signal));
  // As dear as a flame graph of everything: the server makes it anew every half minute, and only while somebody looks.
  const symbols = useRequest(state.shown === "symbols" ? `symbols ${tick}` : undefined, (signal) => api.symbols(signal));
  const list = agents.data;
  useEffect(() => setSize(list?.agents.length ?? 0), [list]);
  useEffect(() => {
    document.title = "Fleet – Perfuse";
  }, []);
  const close = (): void => go({ open: "" });
  const show = (shown: Shown): void => go({ shown, sort: "", turned: false, open: "", filter: "" });
  const common = { go, state };

  return (
    <>
      <header className="topbar">
        <Brand />
        <div className="search fleet-filter">
          <input
            type="search"
            aria-label={`Filter ${state.shown}`}
            placeholder={`Filter ${state.shown}`}
            value={state.filter}
            spellCheck={false}
            onChange={(e) => go({ filter: e.target.value }, "replace")}
          />
        </div>
        <span className="grow" />
        <button className="icon" title="Ask again now" aria-label="Refresh" onClick={refresh} data-busy={agents.loading}>
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path d="M13.2 6A5.6 5.6 0 1 0 13.6 9M13.6 2.4V6H10" fill="none" stroke="currentColor" strokeWidth="1.6" />
          </svg>
        </button>
        <ThemeSwitch theme={theme} state={state.theme} set={(theme) => go({ theme }, "replace")} />
      </header>
      {list !== undefined && <Summary list={list} targets={targets.data} />}
      <main className="fleet" data-open={state.open !== ""}>
        <div className="panel fleet-main">
          <nav className="fleet-tabs" aria-label="What is shown">
            <Tab shown="agents" {...common} show={show}>
              Agents {list !== undefined && <small className="num">{formatCount(list.agents.length)}</small>}
            </Tab>
            <Tab shown="targets" {...common} show={show}>
              Targets{" "}
              {targets.data !== undefined && (
                <small className="num">
                  {formatCount(targets.data.total)}
                  {targets.data.down > 0 && `, ${formatCount(targets.data.down)} down`}
                </small>
              )}
            </Tab>
            <Tab shown="symbols" {...common} show={show}>
              Symbols
            </Tab>
          </nav>
          {state.shown === "agents" && (
            <Answer of={agents} what="the agents">
              {(d) => {
                const names = agentNames(d.agents);
                const rows = filterBy(d.agents, state.filter, agentText);
                return (
                  <Rows
                    {...common}
                    label="Agents"
                    columns={agentColumns(d.now, names)}
                    rows={rows}
                    rowKey={(a) => a.instance}
                    foot={`${some(rows.length, d.agents.length, "agent")}; they report every ${formatValue(d.interval / 1000, "seconds")}`}
                    none={d.agents.length === 0 ? <NoAgents /> : <NoMatch />}
                  />
                );
              }}
            </Answer>
          )}
          {state.shown === "targets" && (
            <Answer of={targets} what="the targets">
              {(d) => {
                const rows = filterBy(d.targets, state.filter, targetText);
                return (
                  <>
                    {d.jobs.flatMap((j) =>
                      j.errors.map((e) => (
                        <p className="fleet-error mono" role="alert" key={`${j.name} ${e}`}>
                          job {j.name}: {e}
                        </p>
                      )),
                    )}
                    <Rows
                      {...common}
                      label="Targets"
                      columns={targetColumns(d.now)}
                      rows={rows}
                      rowKey={(t) => t.key}
                      foot={`${some(rows.length, d.total, "target")} of ${some(d.jobs.length, d.jobs.length, "job")}`}
                      none={d.total === 0 ? <NoTargets /> : <NoMatch />}
                    />
                  </>
                );
              }}
            </Answer>
          )}
          {state.shown === "symbols" && (
            <Answer of={symbols} what="the symbols">
              {(d) => {
                const rows = filterBy(d.files, state.filter, symbolsText);
                return (
                  <Rows
                    {...common}
                    label="Symbols"
                    columns={symbolColumns()}
                    rows={rows}
                    rowKey={(s) => s.key}
                    foot={`${some(rows.length, d.total, "file")} in the CPU samples of the last quarter of an hour; ${formatShare(d.unnamedShare, 1)} of their native frames have no name`}
                    none={d.total === 0 ? <NoSymbols /> : <NoMatch />}
                  />
                );
              }}
            </Answer>
          )}
        </div>
        {state.open !== "" && state.shown === "agents" && <FleetAgent api={api} instance={state.open} tick={tick} now={list?.now ?? Date.now()} close={close} />}
        {state.open !== "" && state.shown === "targets" && <OpenTarget answer={targets.data} open={state.open} close={close} />}
        {state.open !== "" && state.shown === "symbols" && symbols.data?.files.filter((s) => s.key === state.open).map((s) => <SymbolsDetails key={s.key} of={s} answer={symbols.data as NonNullable<typeof symbols.data>} close={close} />)}
      </main>
    </>
  );
}

// useTick counts up while the page can be seen, and at once when it is seen again.
function useTick(every: number): [number, () => void] {
  const [tick, setTick] = useState(0);
  useEffect(() => {
    const next = (): void => {
      if (document.visibilityState === "visible") setTick((n) => n + 1);
    };
    const timer = setInterval(next, every);
    document.addEventListener("visibilitychange", next);
    return () => {
      clearInterval(timer);
      document.removeEventListener("visibilitychange", next);
    };
  }, [every]);
  return [tick, () => setTick((n) => n + 1)];
}

// some says how many of how many are shown.
function some(shown: number, all: number, what: string): string {
  const words = `${formatCount(all)} ${what}${all === 1 ? "" : "s"}`;
  return shown < all ? `${formatCount(shown)} of ${words}` : words;
}

// Summary is for who has one second: whether all is well, and the sums.
function Summary({ list, targets }: { list: AgentList; targets: TargetsAnswer | undefined }) {
  const { sums } = list;
  const { good, text } = verdict(sums, targets);
  const facts: readonly (readonly [string, string, string?])[] = [
    ["Samples", `${formatValue(sums.samplesPerSecond, "count")}/s`],
    ["Lost", formatShare(sums.lostShare, 1), "Of samples and messages, in the last ten minutes"],
    [
      sums.withServer > 0 ? "Cost, with a server" : "Cost",
      `${formatRate(sums.cores * 1e9, "nanoseconds", "cores")}${sums.cpus > 0 ? `, ${formatShare(sums.cores, sums.cpus)} of ${formatCount(sums.cpus)}` : ""}`,
      "Processors' worth of agents and their BPF programs, of those that their nodes have",
    ],
    ["Memory", formatValue(sums.rssBytes, "bytes")],
  ];
  return (
    <section className="panel fleet-sums" aria-label="Summary">
      <p className="fleet-verdict" role="status">
        {list.agents.length === 0 ? "No agent has reported yet" : <Mark state={good ? "up" : "down"} word={text} />}
      </p>
      <dl>
        {facts.map(([name, value, title]) => (
          <div key={name} title={title}>
            <dt>{name}</dt>
            <dd className="num">{value}</dd>
          </div>
        ))}
      </dl>
    </section>
  );
}

function Tab({ shown, state, show, children }: { shown: Shown; state: FleetState; show: (s: Shown) => void; children: ReactNode }) {
  return (
    <button aria-current={state.shown === shown} onClick={() => show(shown)}>
      {children}
    </button>
  );
}

// Answer shows what is there: nothing yet, what went wrong, or the answer, with what went wrong since above it.
function Answer<T>({ of, what, children }: { of: Request<T>; what: string; children: (data: T) => ReactNode }) {
  if (of.data === undefined) {
    if (of.error === undefined) {
      return (
        <p className="quiet table-none" role="status">
          Asking for {what}…
        </p>
      );
    }
    if (of.error.code === "Unimplemented") {
      return <Problem title={`The server does not know of ${what}`} detail="It is older than this page. Start the new one, and the page goes on." retry={of.retry} />;
    }
    return <Problem error={of.error} retry={of.retry} />;
  }
  return (
    <>
      {of.error !== undefined && <Notice error={of.error} retry={of.retry} />}
      {children(of.data)}
    </>
  );
}

function Rows<R>({ state, go, foot, ...table }: { state: FleetState; go: Change<FleetState>; foot: string } & Omit<Parameters<typeof FleetTable<R>>[0], "sort" | "turned" | "order" | "open" | "choose">) {
  const usual = usualSort[state.shown];
  return (
    <>
      <FleetTable
        {...table}
        sort={state.sort === "" ? usual : state.sort}
        turned={state.turned}
        order={(sort, turned) => go({ sort: sort === usual ? "" : sort, turned }, "replace")}
        open={state.open}
        choose={(open) => go({ open }, state.open === "" || open === "" ? "push" : "replace")}
      />
      <p className="table-foot quiet num">{foot}</p>
    </>
  );
}

function OpenTarget({ answer, open, close }: { answer: TargetsAnswer | undefined; open: string; close: () => void }) {
  const target = useMemo(() => answer?.targets.find((t) => t.key === open), [answer, open]);
  return target === undefined || answer === undefined ? null : <TargetDetails target={target} now={answer.now} close={close} />;
}

function NoMatch() {
  return <p className="quiet table-none">Nothing matches the filter.</p>;
}

function NoAgents() {
  return (
    <div className="state">
      <h2>No agent has reported yet</h2>
      <p>The server at {location.host} is up. Agents report as soon as they start; those that are older than this server do not report.</p>
      <dl>
        <dt>On this machine</dt>
        <dd>
          <code>perfuse up</code> as root runs the agent and the server together.
        </dd>
        <dt>On another node</dt>
        <dd>
          <code>perfuse agent --node NAME --remote-store-address {location.host}</code>
        </dd>
        <dt>If nothing comes</dt>
        <dd>
          <code>perfuse doctor</code> says what the kernel or the privileges lack.
        </dd>
      </dl>
    </div>
  );
}

function NoTargets() {
  return (
    <div className="state">
      <h2>Nothing is scraped</h2>
      <p>
        Programs that serve pprof are asked for their profiles by <code>scrape_configs</code> in the server's configuration file.
      </p>
    </div>
  );
}

function NoSymbols() {
  return (
    <div className="state">
      <h2>No CPU samples in the last quarter of an hour</h2>
      <p>Files appear here as soon as profiles go through their code.</p>
    </div>
  );
}
