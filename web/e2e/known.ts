// A profile whose truth is written down, stored on the server under test.

export interface Known {
  readonly service: string;
  // The query of a view that shows it alone.
  readonly query: string;
}

// store sends folded text as the samples of one service, taken during the last ten seconds.
export async function store(url: string, service: string, lines: readonly string[], end = Date.now()): Promise<Known> {
  const q = new URLSearchParams({ name: `${service}{env="test"}`, format: "folded", sampleRate: "100", from: String(Math.floor(end / 1000) - 10), until: String(Math.floor(end / 1000)) });
  const r = await fetch(`${url}/ingest?${q}`, { method: "POST", body: lines.join("\n") });
  if (!r.ok) throw new Error(`storing ${service}: ${r.status} ${await r.text()}`);
  return { service, query: `/?from=now-15m&q=${encodeURIComponent(`{service_name="${service}"}`)}` };
}

// Samples at 100 Hz: each is 10 ms of CPU time.
export const sampleMillis = 10;
