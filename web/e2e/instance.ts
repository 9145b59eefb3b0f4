// A real perfuse for the browser tests: PERFUSE_URL names one that runs, PERFUSE_BIN a binary to start.

import { spawn, type ChildProcess } from "node:child_process";
import { createWriteStream } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { QueryService } from "../src/api/gen/perfuse/query/v1/query_pb";

export interface Instance {
  readonly url: string;
  // The process group's own words, for a failure's message.
  log(): Promise<string>;
  // Ends it at once, as a crash would; the storage stays.
  kill(): Promise<void>;
  // Starts it again on the same port and storage.
  restart(): Promise<void>;
  // Ends it and removes its storage.
  stop(): Promise<void>;
}

export const binary = process.env["PERFUSE_BIN"] || undefined;

async function freePort(): Promise<number> {
  const s = createServer();
  await new Promise<void>((done) => s.listen(0, "127.0.0.1", done));
  const { port } = s.address() as AddressInfo;
  await new Promise((done) => s.close(done));
  return port;
}

// poll asks until the answer is not undefined, or throws what was waited for.
export async function poll<T>(what: string, millis: number, ask: () => Promise<T | undefined>, more: () => Promise<string> = async () => ""): Promise<T> {
  const end = Date.now() + millis;
  while (Date.now() < end) {
    const answer = await ask().catch(() => undefined);
    if (answer !== undefined) return answer;
    await new Promise((done) => setTimeout(done, 200));
  }
  throw new Error(`waiting ${millis} ms for ${what}\n${await more()}`);
}

// start runs the binary with a fresh storage and waits until it is ready.
export async function start(path: string, command: "up" | "server", flags: readonly string[] = []): Promise<Instance> {
  const dir = await mkdtemp(join(tmpdir(), "perfuse-page-"));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const logFile = join(dir, "log");
  const log = (): Promise<string> => readFile(logFile, "utf8").catch(() => "no log");
  let child: ChildProcess | undefined;
  const run = async (): Promise<void> => {
    const out = createWriteStream(logFile, { flags: "a" });
    await new Promise((done) => out.once("open", done));
    child = spawn(path, [command, "--http-address", `127.0.0.1:${port}`, "--storage-path", join(dir, "storage"), ...(command === "up" ? ["--sampling-rate", "97"] : []), ...flags], {
      stdio: ["ignore", out, out],
    });
    const gone = new Promise<never>((_, no) => child?.once("exit", async (code) => no(new Error(`perfuse ${command} ended with ${code}\n${await log()}`))));
    gone.catch(() => undefined);
    await Promise.race([gone, poll(`perfuse ${command} to be ready`, 60_000, async () => ((await fetch(`${url}/readyz`)).ok ? true : undefined), log)]);
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const c = child;
    if (c === undefined || c.exitCode !== null || c.signalCode !== null) return;
    const gone = new Promise((done) => c.once("exit", done));
    c.kill(signal);
    await gone;
  };
  await run();
  return {
    url,
    log,
    kill: () => end("SIGKILL"),
    restart: run,
    stop: async () => {
      await end("SIGTERM");
      await rm(dir, { recursive: true, force: true });
    },
  };
}

// oldest is when the first CPU sample that the server has was taken, in milliseconds; undefined without any.
export async function oldest(url: string): Promise<number | undefined> {
  const client = createClient(QueryService, createConnectTransport({ baseUrl: url, useBinaryFormat: true }));
  const now = Date.now();
  const selection = { profileType: "cpu", startUnixNano: BigInt(now - 600_000) * 1_000_000n, endUnixNano: BigInt(now) * 1_000_000n };
  const r = await client.series({ selection, stepNano: 1_000_000_000n });
  const first = r.series.flatMap((s) => s.timeUnixNano.slice(0, 1)).sort((a, b) => (a < b ? -1 : 1))[0];
  return first === undefined ? undefined : Number(first / 1_000_000n);
}

// steadiest is the service that was seen in most of the last minute's steps: whatever is cut out of that minute has
// samples of it.
export async function steadiest(url: string): Promise<string> {
  const client = createClient(QueryService, createConnectTransport({ baseUrl: url, useBinaryFormat: true }));
  const now = Date.now();
  const selection = { profileType: "cpu", startUnixNano: BigInt(now - 60_000) * 1_000_000n, endUnixNano: BigInt(now) * 1_000_000n };
  const r = await client.series({ selection, groupBy: ["service_name"], stepNano: 10_000_000_000n });
  const sum = (values: readonly bigint[]): number => values.reduce((n, v) => n + Number(v), 0);
  const best = r.series
    .filter((s) => s.labels.some((l) => l.name === "service_name" && l.value !== ""))
    .sort((a, b) => b.values.length - a.values.length || sum(b.values) - sum(a.values))[0];
  if (best === undefined) throw new Error("no service has samples in the last minute");
  return best.labels.find((l) => l.name === "service_name")?.value ?? "";
}
