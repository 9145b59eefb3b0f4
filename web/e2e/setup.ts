// What all browser tests look at: one running server with data, started before the first of them. PERFUSE_URL names one that
// runs; PERFUSE_BIN a perfuse to start, which then profiles this machine while PERFUSE_WORK, a program that computes for
// ever, is running; without either the fixture answers.

import { spawn } from "node:child_process";
import type { TestProject } from "vitest/node";
import { fixture } from "./browser";
import { binary, oldest, poll, start } from "./instance";

export interface Server {
  readonly url: string;
  // Where data is: the first view's query.
  readonly first: string;
  // real: what a real server has of real programs; else it is the fixture's.
  readonly real: boolean;
  // The service name of PERFUSE_WORK; "" without it.
  readonly work: string;
}

declare module "vitest" {
  export interface ProvidedContext {
    server: Server;
  }
}

const workName = "page-work";

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const running = process.env["PERFUSE_URL"];
  if (running !== undefined) {
    project.provide("server", { url: running, first: "/?from=now-2m", real: true, work: "" });
    return async () => undefined;
  }
  if (binary === undefined || process.getuid?.() !== 0) {
    if (binary !== undefined) console.log("skipped: the page with this machine's samples, because only root may sample; the fixture answers instead");
    const own = await fixture();
    project.provide("server", { url: own.url, first: "/", real: false, work: "" });
    return own.stop;
  }
  // A whole product with work to look at: a minute of it, so that a range in its middle stays as it is.
  const own = await start(binary, "up", process.env["PERFUSE_SOURCES"] === undefined ? [] : ["--source-path", process.env["PERFUSE_SOURCES"]]);
  const program = process.env["PERFUSE_WORK"] || undefined;
  const script = "const end = Date.now() + 600000; for (let x = 1; Date.now() < end; ) x = (x * 7 + JSON.stringify({ x }).length) % 1000003";
  const work = spawn(program ?? process.execPath, program === undefined ? ["-e", script] : [], { env: { ...process.env, OTEL_SERVICE_NAME: workName }, stdio: "ignore" });
  const stop = async (): Promise<void> => {
    work.kill("SIGKILL");
    await own.stop();
  };
  try {
    await poll("a minute of samples", 150_000, async () => (((await oldest(own.url)) ?? Infinity) < Date.now() - 62_000 ? true : undefined), own.log);
  } catch (e) {
    await stop();
    throw e;
  }
  project.provide("server", { url: own.url, first: "/?from=now-1m", real: true, work: program === undefined ? "" : workName });
  return stop;
}
