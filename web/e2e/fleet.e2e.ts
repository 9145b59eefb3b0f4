import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from "vitest";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AxeResults } from "axe-core";
import type { Browser, Page } from "playwright-core";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { FleetService, Loss_Kind, type ReportSchema } from "../src/api/gen/perfuse/fleet/v1/fleet_pb";
import { newFleetApi } from "../src/api/fleet";
import { formatCount, formatRate, formatShare, formatValue } from "../src/lib/units";
import { fixture, launch, watch } from "./browser";
import { binary, poll, start, type Instance } from "./instance";

let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const never = new AbortController().signal;

async function open(url: string, options: { width?: number; height?: number } = {}): Promise<{ page: Page; faults: string[] }> {
  const page = await browser.newPage({ viewport: { width: options.width ?? 1280, height: options.height ?? 800 } });
  const faults = watch(page);
  await page.goto(url);
  return { page, faults };
}

const rowsOf = (page: Page) => page.locator(".fleet-table tbody tr[aria-rowindex]");
const headOf = (page: Page, name: string) => page.getByRole("columnheader", { name }).getByRole("button");
const cellsOf = (page: Page, row: number): Promise<string[]> => rowsOf(page).nth(row).locator("th, td").allTextContents();

function client(url: string) {
  return createClient(FleetService, createConnectTransport({ baseUrl: url, useBinaryFormat: true }));
}

type Report = Exclude<MessageInitShape<typeof ReportSchema>, { readonly $typeName: string }>;

function report(node: string, instance: string, change: Report = {}): Report {
  return {
    node,
    instance,
    version: "1.0",
    kernel: "6.12",
    architecture: "arm64",
    cpus: 4,
    startedUnixNano: BigInt(Date.now() - 60_000) * 1_000_000n,
    cost: { rssBytes: 50n << 20n, bpfCores: 0.5 },
    ...change,
  };
}

test("a server that is older than the page: said, with what to do", async () => {
  const server = await fixture();
  const { page, faults } = await open(`${server.url}/fleet`);
  await page.getByRole("heading", { name: "The server does not know of the agents" }).waitFor();
  expect(faults).toEqual([]);
  await page.close();
  await server.stop();
});

describe.skipIf(binary === undefined)("with a server (PERFUSE_BIN)", () => {
  let server: Instance;
  let url: string;
  beforeAll(async () => {
    server = await start(binary as string, "server");
    url = server.url;
  });
  afterAll(() => server.stop());

  test("nobody has reported, nothing is scraped, nothing was sampled: said, with what to do", async () => {
    const { page, faults } = await open(`${url}/fleet`);
    await page.getByRole("heading", { name: "No agent has reported yet" }).waitFor();
    expect(await page.locator(".state").textContent()).toContain("perfuse agent --node NAME");
    await page.getByRole("button", { name: /^Targets/ }).click();
    await page.getByRole("heading", { name: "Nothing is scraped" }).waitFor();
    await page.getByRole("button", { name: "Symbols" }).click();
    await page.getByRole("heading", { name: "No CPU samples in the last quarter of an hour" }).waitFor();
    expect(new URL(page.url()).search).toBe("?show=symbols");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("what agents tell is what is shown, whatever they tell", async () => {
    const evil = `<img src=x onerror="window.harmed=1">‮x`;
    const api = client(url);
    await api.report({
      report: report("bad", "b".repeat(16), {
        lastError: { where: "sending", text: evil, unixNano: BigInt(Date.now()) * 1_000_000n },
        losses: [{ kind: Loss_Kind.SAMPLES, reason: evil, count: 7n }],
        off: [{ what: "waits", why: "needs Linux 5.18" }],
      }),
    });
    await api.report({ report: report("twin", "1".repeat(16)) });
    await api.report({ report: report("twin", "2".repeat(16), { stopping: true }) });

    const { page, faults } = await open(`${url}/fleet`);
    await rowsOf(page).nth(2).waitFor();
    const shown = await Promise.all([0, 1, 2].map((i) => cellsOf(page, i)));
    expect(shown.map((c) => c.slice(0, 2))).toEqual([
      ["bad", "up"],
      ["twin #11111111", "up"],
      ["twin #22222222", "stopped"],
    ]);
    expect(shown[0]?.at(-1)).toContain(evil);
    // By state: who has stopped is last, and first when turned.
    await headOf(page, "State").click();
    expect(await page.getByRole("columnheader", { name: "State" }).getAttribute("aria-sort")).toBe("descending");
    expect((await cellsOf(page, 2))[1]).toBe("stopped");
    await headOf(page, "State").click();
    expect((await cellsOf(page, 0))[1]).toBe("stopped");
    expect(new URL(page.url()).search).toBe("?sort=-state");

    // Filter, then open by the keyboard.
    await page.getByLabel("Filter agents").fill("BAD 6.12");
    await page.waitForFunction(() => document.querySelectorAll(".fleet-table tbody tr[aria-rowindex]").length === 1);
    expect(await page.locator(".table-foot").textContent()).toContain("1 of 3 agents");
    await rowsOf(page).first().getByRole("button").focus();
    await page.keyboard.press("Enter");
    const details = page.getByRole("region", { name: "Details of bad" });
    await details.getByText("needs Linux 5.18").waitFor();
    expect(await details.locator(".fleet-error").first().textContent()).toBe(`sending: ${evil}`);
    expect(await details.getByRole("row", { name: /^samples/ }).locator("td").allTextContents()).toEqual([evil, "7"]);
    expect(await page.evaluate(() => "harmed" in window)).toBe(false);

    // The same from the URL, and the way back.
    const before = page.url();
    await page.reload();
    await details.getByText("needs Linux 5.18").waitFor();
    expect(page.url()).toBe(before);
    await page.keyboard.press("Escape");
    await details.waitFor({ state: "detached" });
    expect(new URL(page.url()).searchParams.get("open")).toBe(null);
    await page.goBack();
    await details.waitFor();
    expect(faults).toEqual([]);
    await page.close();
  });

  test("an agent that is forgotten while it is looked at", async () => {
    const { page, faults } = await open(`${url}/fleet?open=${"9".repeat(16)}`);
    await page.getByRole("heading", { name: "This agent is not remembered any more" }).waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).click();
    await page.locator(".fleet-panel").waitFor({ state: "detached" });
    expect(faults).toEqual([]);
    await page.close();
  });

  test("390 pixels: everything is there, below each other, and nothing is cut off", async () => {
    const { page, faults } = await open(`${url}/fleet`, { width: 390, height: 844 });
    await rowsOf(page).first().waitFor();
    const wide = (): Promise<number> => page.evaluate(() => document.documentElement.scrollWidth);
    expect(await wide()).toBeLessThanOrEqual(390);
    await rowsOf(page).first().getByRole("button").focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.getByRole("region", { name: "Details of twin" }).getByText("Program and settings").waitFor();
    expect(await page.locator(".fleet-table").isVisible()).toBe(false);
    expect(await wide()).toBeLessThanOrEqual(390);
    expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("Close the details");
    await page.keyboard.press("Enter");
    await page.locator(".fleet-table").waitFor();
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe("twin #11111111");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("a page that nobody sees asks nothing, and asks at once when it is seen again", async () => {
    const { page } = await open(`${url}/fleet`);
    await rowsOf(page).first().waitFor();
    let asked = 0;
    page.on("request", (r) => {
      if (r.url().endsWith("/Agents")) asked++;
    });
    await page.clock.install();
    // The clock is the test's from here on: the page starts anew below it.
    await page.reload();
    await rowsOf(page).first().waitFor();
    const see = (state: string): Promise<void> =>
      page.evaluate((state) => {
        Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
      }, state);
    await page.clock.runFor(11_000);
    await poll("two more questions", 10_000, async () => (asked >= 3 ? true : undefined));
    await see("hidden");
    asked = 0;
    await page.clock.runFor(60_000);
    expect(asked).toBe(0);
    await see("visible");
    await poll("a question at once", 10_000, async () => (asked === 1 ? true : undefined));
    await page.close();
  });

  test("ten thousand agents: sorted, filtered and walked through, with few rows in the page", { timeout: 180_000 }, async () => {
    // Nobody is to be late, however long it takes to bring them all.
    const dir = await mkdtemp(join(tmpdir(), "perfuse-fleet-"));
    await writeFile(join(dir, "perfuse.yaml"), "fleet: {interval: 5m}\n");
    const own = await start(binary as string, "server", ["--config-path", join(dir, "perfuse.yaml")]).finally(() => rm(dir, { recursive: true }));
    onTestFinished(() => own.stop());
    const api = client(own.url);
    const count = 10_000;
    const one = (i: number) => report(`node-${String(i).padStart(5, "0")}`, `instance-${i}`, { cost: { rssBytes: BigInt(i) << 20n, bpfCores: (i * 7919) % count } });
    for (let i = 0; i < count; i += 250) await Promise.all(Array.from({ length: 250 }, (_, k) => api.report({ report: one(i + k) })));
    await expect(api.report({ report: one(count) })).rejects.toThrow("fleet.max_agents");

    const { page, faults } = await open(`${own.url}/fleet`, { height: 1000 });
    await rowsOf(page).first().waitFor();
    expect(await page.getByRole("table", { name: "Agents" }).getAttribute("aria-rowcount")).toBe(String(count + 1));
    expect(await rowsOf(page).count()).toBeLessThan(60);
    await headOf(page, "Cost").click();
    const dearest = Array.from({ length: count }, (_, i) => i).find((i) => (i * 7919) % count === count - 1) as number;
    const name = `node-${String(dearest).padStart(5, "0")}`;
    expect((await cellsOf(page, 0))[0]).toBe(name);
    await headOf(page, "Node").click();
    await rowsOf(page).first().getByRole("button").focus();
    await page.keyboard.press("End");
    await page.waitForFunction(() => document.activeElement?.textContent === "node-09999");
    expect(await page.evaluate(() => document.activeElement?.closest("tr")?.getAttribute("aria-rowindex"))).toBe(String(count + 1));
    await page.keyboard.press("ArrowUp");
    await page.waitForFunction(() => document.activeElement?.textContent === "node-09998");
    await page.keyboard.press("Home");
    await page.waitForFunction(() => document.activeElement?.textContent === "node-00000");
    const began = Date.now();
    await page.getByLabel("Filter agents").fill("node-01234");
    await page.waitForFunction(() => document.querySelectorAll(".fleet-table tbody tr[aria-rowindex]").length === 1);
    console.log(`a filter of ten thousand agents is shown after ${Date.now() - began} ms`);
    expect((await cellsOf(page, 0))[0]).toBe("node-01234");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("the server dies: what it said last stays, and the page goes on by itself", async () => {
    const { page, faults } = await open(`${url}/fleet`);
    await rowsOf(page).first().waitFor();
    await server.kill();
    await page.getByRole("button", { name: "Refresh" }).click();
    await page.getByRole("alert").getByText("does not answer").first().waitFor();
    expect(await rowsOf(page).count()).toBe(3);
    await server.restart();
    // It keeps agents in memory only.
    await page.getByRole("heading", { name: "No agent has reported yet" }).waitFor({ timeout: 30_000 });
    expect(await page.getByRole("alert").count()).toBe(0);
    expect(faults).toEqual([]);
    await page.close();
  });
});

// The server that all browser tests share: with this machine's agent, if it is a real one.
const shared = inject("server");

describe.skipIf(!shared.real)("with a real agent", () => {
  const api = newFleetApi(shared.url);

  test("the page shows what the API answers", { timeout: 120_000 }, async () => {
    const { page, faults } = await open(`${shared.url}/fleet`);
    await rowsOf(page).first().waitFor();
    // Numbers move on: what is compared is between two reports.
    const seen = async () => {
      const before = await api.agents(never);
      await page.getByRole("button", { name: "Refresh" }).click();
      await page.locator('.icon[aria-label="Refresh"][data-busy="false"]').waitFor();
      const shown = { row: await cellsOf(page, 0), sums: await page.locator(".fleet-sums dd").allTextContents() };
      const after = await api.agents(never);
      return before.agents[0]?.seen === after.agents[0]?.seen && before.agents[0]?.samplesPerSecond !== 0 ? { ...shown, list: after } : undefined;
    };
    const { row, sums, list } = await poll("a moment without a report", 60_000, seen);
    const a = list.agents[0];
    if (a === undefined) throw new Error("no agent");
    expect(row.map((c, i) => (i === 2 ? "" : c))).toEqual([
      a.node,
      "up",
      "",
      formatValue(a.samplesPerSecond, "count"),
      formatShare(a.lostShare, 1),
      formatRate(a.cores * 1e9, "nanoseconds", "cores") + (a.withServer ? " *" : ""),
      formatValue(a.rssBytes, "bytes"),
      formatCount(a.processes),
      a.version,
      a.kernel,
      a.lastError === undefined ? "–" : expect.stringContaining(a.lastError.text),
    ]);
    expect(sums[0]).toBe(`${formatValue(list.sums.samplesPerSecond, "count")}/s`);
    expect(sums[3]).toBe(formatValue(list.sums.rssBytes, "bytes"));

    await rowsOf(page).first().getByRole("button").click();
    const details = page.getByRole("region", { name: `Details of ${a.node}` });
    await details.getByText("Program and settings").waitFor();
    const told = await api.agent(a.instance, never);
    const names = await details.locator(".fleet-part", { hasText: "Program and settings" }).locator("dt").allTextContents();
    expect(names).toEqual(["version", "kernel", "instance", "processes", ...told.settings.map((s) => s.name)]);
    expect(told.settings.length).toBeGreaterThan(3);
    expect(await details.locator(".fleet-part", { has: page.getByRole("heading", { name: "Off" }) }).locator("dd").allTextContents()).toEqual(told.off.map((o) => o.value));
    expect(await details.locator(".fleet-line svg").first().getAttribute("aria-label")).toMatch(/^Samples: from .* to .*, now /);

    // On to the agent's profiles, in the same colours.
    await page.goto(`${shared.url}/fleet?open=${a.instance}&theme=dark`);
    await page.getByRole("link", { name: "its profiles" }).click();
    await page.waitForFunction((node) => location.pathname === "/" && new URL(location.href).searchParams.get("q") === `{node="${node}"}`, a.node);
    await page.locator(".flame canvas").waitFor();
    expect(await page.evaluate(() => document.documentElement.dataset["theme"])).toBe("dark");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("the files that were sampled, and whether their functions have names, as the API says", async () => {
    const { page, faults } = await open(`${shared.url}/fleet?show=symbols`);
    await rowsOf(page).first().waitFor();
    // The server makes the answer anew every half minute.
    const same = async () => {
      const before = await api.symbols(never);
      await page.getByRole("button", { name: "Refresh" }).click();
      await page.waitForFunction((total) => document.querySelector(".table-foot")?.textContent?.startsWith(`${total} file`), formatCount(before.total));
      const shown = { cells: await cellsOf(page, 0), foot: await page.locator(".table-foot").textContent() };
      const after = await api.symbols(never);
      return before.span.end === after.span.end ? { ...shown, symbols: after } : undefined;
    };
    const { cells, foot, symbols } = await poll("a moment without a new answer", 60_000, same);
    expect(foot).toContain(`${formatShare(symbols.unnamedShare, 1)} of their native frames have no name`);
    const of = symbols.files.find((f) => cells[0]?.startsWith(f.file.slice(f.file.lastIndexOf("/") + 1)) && cells[2] === formatShare(f.framesShare, 1));
    if (of === undefined) throw new Error(`no file of the answer is the first row's: ${cells.join(", ")}`);
    expect(cells.slice(1, 4)).toEqual([of.source, formatShare(of.framesShare, 1), formatShare(of.unnamedShare, 1)]);
    expect(Math.max(...symbols.files.map((f) => f.framesShare * f.unnamedShare))).toBe(of.framesShare * of.unnamedShare);
    expect(faults).toEqual([]);
    await page.close();
  });

  // Nothing that axe calls serious or critical, in light and in dark.
  test.for([
    { name: "an agent's details", query: "open" },
    { name: "an agent's details on a phone", query: "open", width: 390 },
    { name: "targets", query: "?show=targets" },
    { name: "symbols", query: "?show=symbols" },
  ])("axe: $name", async ({ query, width }) => {
    const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    const first = (await api.agents(never)).agents[0]?.instance ?? "";
    for (const colorScheme of ["light", "dark"] as const) {
      const page = await browser.newPage({ viewport: { width: width ?? 1280, height: 800 }, colorScheme });
      await page.goto(`${shared.url}/fleet${query === "open" ? `?open=${first}` : query}`);
      if (query === "open") await page.getByText("Program and settings").waitFor();
      else await page.locator(".fleet-table tbody button, .state h2").first().waitFor();
      await page.evaluate(axe);
      const found = await page.evaluate(async () => {
        const { violations } = await (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run();
        return violations.map((x) => ({ impact: x.impact, rule: x.id, at: x.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary ?? ""}`) }));
      });
      expect(found.filter((x) => x.impact === "serious" || x.impact === "critical")).toEqual([]);
      await page.close();
    }
  });
});
