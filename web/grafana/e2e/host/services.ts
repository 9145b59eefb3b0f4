// What Grafana's own front end registers before it loads a plugin. Everything but template variables goes to the bridge of
// editor_test.go, and from there to the plugin's back end.

import { dataFrameFromJSON, LoadingState, type DataFrameJSON, type DataSourceInstanceSettings, type DataQueryResponse } from "@grafana/data";
import { setBackendSrv, setDataSourceSrv, setGrafanaLiveSrv, setTemplateSrv, type BackendSrv, type BackendSrvRequest, type DataSourceSrv, type FetchResponse, type GrafanaLiveSrv, type TemplateSrv } from "@grafana/runtime";
import { from, Observable } from "rxjs";

export function services(settings: DataSourceInstanceSettings): void {
  setBackendSrv({ fetch: <T>(o: BackendSrvRequest) => from(ask<T>(o)) } as BackendSrv);
  setDataSourceSrv({ getInstanceSettings: () => settings } as unknown as DataSourceSrv);
  setTemplateSrv({ replace: (text: string) => text, getVariables: () => [], containsTemplate: () => false, updateTimeRange: () => {} } as unknown as TemplateSrv);
  setGrafanaLiveSrv({ getDataStream: ({ addr, key }: { addr: { path: string; data?: unknown }; key?: string }) => stream(addr.path, addr.data, key) } as unknown as GrafanaLiveSrv);
}

async function ask<T>({ url, method, data, params }: BackendSrvRequest): Promise<FetchResponse<T>> {
  const query = new URLSearchParams(Object.entries((params ?? {}) as Record<string, string>).map(([k, v]) => [k, String(v)])).toString();
  const to = new URL(url.startsWith("/") ? url : `/${url}`, location.origin);
  if (query !== "") to.search = query;
  const response = await fetch(to, { method: method ?? "GET", headers: { "Content-Type": "application/json" }, body: data === undefined ? undefined : JSON.stringify(data) });
  const body = (await response.json()) as T;
  const out = { data: body, status: response.status, statusText: response.statusText, ok: response.ok, headers: response.headers, redirected: false, type: response.type, url: to.href, config: { url } };
  if (!response.ok) throw out;
  return out;
}

// stream reads frames, a line each, until nobody listens.
function stream(path: string, data: unknown, key: string | undefined): Observable<DataQueryResponse> {
  return new Observable((subscriber) => {
    const leave = new AbortController();
    const read = async (): Promise<void> => {
      const response = await fetch(`/api/live?${new URLSearchParams({ path, data: JSON.stringify(data) })}`, { signal: leave.signal });
      const reader = (response.body as ReadableStream<BufferSource>).pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) subscriber.next({ data: [dataFrameFromJSON(JSON.parse(line) as DataFrameJSON)], key, state: LoadingState.Streaming });
      }
    };
    read().catch((e: unknown) => subscriber.error(e));
    return () => leave.abort();
  });
}
