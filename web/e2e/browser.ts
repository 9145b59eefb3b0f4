// Starting Chromium and the fixture for the browser tests.

import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import type { AddressInfo } from "node:net";
import type { Server } from "node:http";
import { chromium, type Browser, type Page } from "playwright-core";
import { startFixture, type FixtureOptions } from "./fixture/server";

const dist = fileURLToPath(new URL("../dist", import.meta.url));

export function launch(): Promise<Browser> {
  return chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
}

export interface Fixture {
  readonly url: string;
  readonly port: number;
  stop(): Promise<void>;
}

export async function fixture(o: Partial<FixtureOptions> = {}): Promise<Fixture> {
  const server: Server = await startFixture({ dist, port: 0, ...o });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    stop: () =>
      new Promise((done) => {
        server.closeAllConnections();
        server.close(() => done());
      }),
  };
}

// watch collects what a page must never do: throw, or violate its own policy.
export function watch(page: Page): string[] {
  const faults: string[] = [];
  page.on("pageerror", (e) => faults.push(`threw ${e.message}`));
  page.on("console", (m) => {
    if (/Content Security Policy|Warning:|Minified React error/.test(m.text())) faults.push(m.text());
  });
  return faults;
}

// settled waits until nothing is being asked and the graphs' animations have ended.
export async function settled(page: Page): Promise<void> {
  await page.locator('.flame[aria-busy="false"] canvas').first().waitFor();
  await page.waitForFunction(() => document.querySelector('[data-stale="asked"]') === null);
  await page.waitForFunction(() => {
    const all = [...document.querySelectorAll<HTMLCanvasElement & { perfuseView?: { resting(): boolean } }>(".flame canvas")];
    return all.length > 0 && all.every((c) => c.perfuseView?.resting() === true);
  });
}

// picture is what the first graph's canvas shows, as a digest of its pixels.
export async function picture(page: Page): Promise<string> {
  const data = await page.evaluate(() => document.querySelector<HTMLCanvasElement>(".flame canvas")?.toDataURL() ?? "none");
  return createHash("sha256").update(data).digest("hex");
}
