// A stand-in for Grafana: it provides what plugins take from it (React, @grafana/*, a way to its back end), loads the built
// module with SystemJS as Grafana does, and renders its editors and what its queries answer. The flame graph is drawn by
// Grafana's own component.
//
//	?view=query | variable | annotation | config     &query=JSON

import * as emotionCss from "@emotion/css";
import * as grafanaData from "@grafana/data";
import { FlameGraph } from "@grafana/flamegraph";
import * as grafanaRuntime from "@grafana/runtime";
import * as grafanaUI from "@grafana/ui";
import * as react from "react";
import * as reactDom from "react-dom";
import { createRoot } from "react-dom/client";
import * as rxjs from "rxjs";
import "systemjs/dist/system.js";
import "systemjs/dist/extras/amd.js";
import type { PerfuseDataSource } from "../../src/datasource";
import type { PerfuseOptions, PerfuseQuery, PerfuseSecrets } from "../../src/query";
import type { VariableQuery } from "../../src/variables";
import { services } from "./services";

interface Loader {
  set(id: string, module: object): void;
  import(id: string): Promise<unknown>;
  resolve(id: string): string;
}
const loader = (window as unknown as { System: Loader & { constructor: { prototype: { resolve: (id: string) => string } } } }).System;

const shared: Record<string, object> = {
  react,
  "react-dom": reactDom,
  rxjs,
  "@emotion/css": emotionCss,
  "@grafana/data": grafanaData,
  "@grafana/runtime": grafanaRuntime,
  "@grafana/ui": grafanaUI,
};
const resolve = loader.constructor.prototype.resolve;
loader.constructor.prototype.resolve = function (this: Loader, id: string, ...more: unknown[]): string {
  return id in shared ? `app:${id}` : (resolve as (...a: unknown[]) => string).call(this, id, ...more);
};
// What AMD modules get is the default.
for (const [id, module] of Object.entries(shared)) loader.set(`app:${id}`, { default: module, __useDefault: true });

type Plugin = grafanaData.DataSourcePlugin<PerfuseDataSource, PerfuseQuery, PerfuseOptions, PerfuseSecrets>;

const React = react;
const search = new URLSearchParams(location.search);
const theme = grafanaData.createTheme({ colors: { mode: search.get("theme") === "light" ? "light" : "dark" } });
const settings: grafanaData.DataSourceInstanceSettings<PerfuseOptions> = {
  id: 1,
  uid: "perfuse",
  type: "perfuse-profiling-datasource",
  name: "Perfuse",
  access: "proxy",
  readOnly: false,
  url: "/api/datasources/proxy/1",
  jsonData: {},
  meta: { id: "perfuse-profiling-datasource", name: "Perfuse", type: grafanaData.PluginType.datasource, module: "", baseUrl: "", info: {} as grafanaData.PluginMetaInfo },
};
const range: grafanaData.TimeRange = ((): grafanaData.TimeRange => {
  const [from, to] = [Number(search.get("from")), Number(search.get("to"))].map((t) => grafanaData.dateTime(t)) as [grafanaData.DateTime, grafanaData.DateTime];
  return { from, to, raw: search.has("live") ? { from: "now-1h", to: "now" } : { from, to } };
})();

function QueryView({ plugin, datasource }: { plugin: Plugin; datasource: PerfuseDataSource }) {
  const [query, setQuery] = React.useState<PerfuseQuery>(() => ({ refId: "A", ...datasource.getDefaultQuery(), ...(JSON.parse(search.get("query") ?? "{}") as object) }));
  const [runs, setRuns] = React.useState(0);
  const [answer, setAnswer] = React.useState<grafanaData.DataQueryResponse>({ data: [] });
  React.useEffect(() => {
    if (!datasource.filterQuery(query)) return setAnswer({ data: [] });
    const frames = new Map<string, grafanaData.DataFrame>();
    const request = { requestId: "Q1", app: grafanaData.CoreApp.Explore, targets: [query], range, interval: "15s", intervalMs: 15_000, maxDataPoints: 500, scopedVars: {}, timezone: "utc", startTime: 0 };
    const running = datasource.query(request).subscribe((response) => {
      if (response.key !== undefined) for (const f of response.data as grafanaData.DataFrame[]) frames.set(response.key, f);
      setAnswer({ ...response, data: response.key === undefined ? response.data : [...frames.values()] });
    });
    return () => running.unsubscribe();
  }, [runs]);
  const Editor = plugin.components.QueryEditor;
  if (Editor === undefined) throw new Error("the plugin has no query editor");
  const frames = answer.data as grafanaData.DataFrame[];
  const flame = frames.find((f) => f.fields.some((x) => x.name === "level"));
  const series = frames.filter((f) => f !== flame);
  return (
    <>
      <Editor datasource={datasource} query={query} range={range} onChange={setQuery} onRunQuery={() => setRuns((n) => n + 1)} />
      <pre id="query">{JSON.stringify(query)}</pre>
      <pre id="error" role="alert">
        {answer.errors?.map((e) => e.message).join("\n")}
      </pre>
      <pre id="series">
        {series.flatMap((f) => f.fields.filter((x) => x.type === grafanaData.FieldType.number).map((x) => `${x.config.displayNameFromDS ?? x.name} ${x.config.unit} ${x.values.length} points\n`))}
      </pre>
      <pre id="notices">{frames.flatMap((f) => f.meta?.notices?.map((n) => `${n.text}\n`) ?? [])}</pre>
      {flame !== undefined && flame.length > 0 && (
        <div id="flame" data-rows={flame.length} data-total={String(flame.fields.find((f) => f.name === "value")?.values[0])}>
          <FlameGraph data={flame} getTheme={() => theme} disableCollapsing />
        </div>
      )}
    </>
  );
}

function VariableView({ datasource }: { datasource: PerfuseDataSource }) {
  const [query, setQuery] = React.useState<VariableQuery>({ refId: "V" });
  const [found, setFound] = React.useState("");
  const [tags, setTags] = React.useState("");
  const support = datasource.variables as grafanaData.CustomVariableSupport<PerfuseDataSource, VariableQuery>;
  React.useEffect(() => {
    const request = { requestId: "V1", app: grafanaData.CoreApp.Dashboard, targets: [query], range, interval: "15s", intervalMs: 15_000, scopedVars: {}, timezone: "utc", startTime: 0 };
    const running = support.query(request).subscribe(({ data }) => setFound(JSON.stringify(data)));
    return () => running.unsubscribe();
  }, [query]);
  // What a dashboard's ad hoc filters ask.
  React.useEffect(() => {
    const ask = async () => [await datasource.getTagKeys({ filters: [], timeRange: range }), await datasource.getTagValues({ key: "zone", filters: [], timeRange: range })];
    ask().then(
      (answers) => setTags(JSON.stringify(answers)),
      (e: unknown) => setTags(String(e)),
    );
  }, []);
  return (
    <>
      <support.editor datasource={datasource} query={query} range={range} onChange={setQuery as never} onRunQuery={() => {}} />
      <pre id="query">{JSON.stringify(query)}</pre>
      <pre id="found">{found}</pre>
      <pre id="tags">{tags}</pre>
    </>
  );
}

function AnnotationView({ datasource }: { datasource: PerfuseDataSource }) {
  const support = datasource.annotations;
  const [query, setQuery] = React.useState<PerfuseQuery>(() => ({ refId: "Anno", ...support?.getDefaultQuery?.() }));
  const [found, setFound] = React.useState("");
  React.useEffect(() => {
    const request = { requestId: "A1", app: grafanaData.CoreApp.Dashboard, targets: [query], range, interval: "15s", intervalMs: 15_000, scopedVars: {}, timezone: "utc", startTime: 0 };
    const running = datasource.query(request).subscribe((response) => {
      const frame = (response.data as grafanaData.DataFrame[])[0];
      setFound(response.errors?.[0]?.message ?? (frame?.fields.find((f) => f.name === "title")?.values ?? []).join("\n"));
    });
    return () => running.unsubscribe();
  }, [query]);
  const Editor = support?.QueryEditor;
  if (Editor === undefined) throw new Error("the plugin has no editor for annotations");
  return (
    <>
      <Editor datasource={datasource} query={query} range={range} onChange={setQuery} onRunQuery={() => {}} />
      <pre id="query">{JSON.stringify(query)}</pre>
      <pre id="found">{found}</pre>
    </>
  );
}

function ConfigView({ plugin }: { plugin: Plugin }) {
  const [options, setOptions] = React.useState<grafanaData.DataSourceSettings<PerfuseOptions, PerfuseSecrets>>({
    id: 1, uid: "perfuse", orgId: 1, name: "Perfuse", type: settings.type, typeName: "Perfuse", typeLogoUrl: "", access: "proxy", url: "", user: "", database: "",
    basicAuth: false, basicAuthUser: "", isDefault: false, jsonData: {}, secureJsonFields: {}, readOnly: false, withCredentials: false,
  });
  const Editor = plugin.components.ConfigEditor;
  if (Editor === undefined) throw new Error("the plugin has no settings page");
  return (
    <>
      <Editor options={options} onOptionsChange={setOptions as never} />
      <pre id="options">{JSON.stringify(options)}</pre>
    </>
  );
}

async function main(): Promise<void> {
  services(settings);
  const { plugin } = (await loader.import("/public/plugins/perfuse-profiling-datasource/module.js")) as { plugin: Plugin };
  const datasource = new plugin.DataSourceClass(settings);
  const view = search.get("view");
  createRoot(document.getElementById("host") as HTMLElement).render(
    <grafanaData.ThemeContext.Provider value={theme}>
      <grafanaUI.GlobalStyles />
      <main style={{ padding: 16, minHeight: "100vh", background: theme.colors.background.primary }}>
        {view === "variable" ? <VariableView datasource={datasource} /> : view === "annotation" ? <AnnotationView datasource={datasource} /> : view === "config" ? <ConfigView plugin={plugin} /> : <QueryView plugin={plugin} datasource={datasource} />}
      </main>
      <grafanaUI.PortalContainer />
    </grafanaData.ThemeContext.Provider>,
  );
}

void main();
