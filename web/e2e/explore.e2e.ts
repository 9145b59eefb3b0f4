import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import type { Browser, Download, Page } from "playwright-core";
import { readFile } from "node:fs/promises";
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { QueryService, type LinesResponse } from "../src/api/gen/perfuse/query/v1/query_pb";
import { formatValue } from "../src/lib/units";
import { launch, picture, settled, watch } from "./browser";
import { sampleMillis, store, type Known } from "./known";

// What narrows a profile, each way compared with what the API answers or with what is known of the profile.
const { url, real, work } = inject("server");
let browser: Browser;
let known: Known;
let client: Client<typeof QueryService>;

// 100 samples. fib calls itself; parse is called from two places; the kernel is in it.
const lines = [
  "main;serve;parse;read_[k] 10",
  "main;serve;parse 20",
  "main;serve;encode;parse 15",
  "main;serve;encode 5",
  "main;fib;fib;fib 30",
  "main;fib;fib 12",
  "main;fib 3",
  "main;idle 5",
];

beforeAll(async () => {
  browser = await launch();
  if (!real) return;
  known = await store(url, "explore-e2e", lines);
  client = createClient(QueryService, createConnectTransport({ baseUrl: url, useBinaryFormat: true }));
});
afterAll(() => browser.close());

async function open(colorScheme: "light" | "dark", query = "", path = known.query): Promise<{ page: Page; faults: string[] }> {
  const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"], viewport: { width: 1280, height: 800 }, colorScheme });
  const page = await context.newPage();
  const faults = watch(page);
  await page.goto(`${url}${path}${query}`);
  await settled(page);
  return { page, faults };
}

// What the table says: by function its own time and its total, in samples.
async function table(page: Page): Promise<Record<string, readonly [string, string]>> {
  await page.waitForFunction(() => document.querySelector('[data-stale="asked"]') === null);
  const rows = await page.locator(".functions tbody tr[aria-rowindex]").evaluateAll((all) =>
    all.map((tr) => [tr.querySelector("th button")?.firstChild?.textContent ?? "", ...[...tr.querySelectorAll("td span")].map((td) => td.textContent ?? "")]),
  );
  return Object.fromEntries(rows.map(([name, self, total]) => [name as string, [self as string, total as string] as const]));
}

function time(samples: number): string {
  return samples === 0 ? "–" : formatValue(samples * sampleMillis * 1e6, "nanoseconds");
}

async function totals(page: Page): Promise<string> {
  return ((await page.locator(".totals").textContent()) ?? "").replace(/\s+/g, " ");
}

// menu opens the table row's menu and chooses.
async function choose(page: Page, name: string, item: string | RegExp): Promise<void> {
  await page.getByRole("button", { name: `More about ${name}`, exact: true }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem", { name: item }).click();
  await page.getByRole("menu").waitFor({ state: "detached" });
}

async function downloaded(page: Page, item: RegExp): Promise<{ file: Download; text: string }> {
  await page.getByRole("button", { name: "Download" }).click();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("menuitem", { name: item }).click()]);
  return { file, text: await readFile(await file.path(), "utf8") };
}

describe.each(["light", "dark"] as const)("%s", (scheme) => {
  test.runIf(real)("types, flame and icicle, colours: each changes what is drawn and is in the URL", async () => {
    const end = Date.now() - 20_000;
    const { page, faults } = await open(scheme, "", `/?from=${encodeURIComponent(new Date(end - 40_000).toISOString())}&to=${encodeURIComponent(new Date(end).toISOString())}`);
    const seen = new Set([await picture(page)]);
    for (const [act, param] of [
      [() => page.getByRole("button", { name: "Flame", exact: true }).click(), "draw=flame"],
      [() => page.getByLabel("Colour by").selectOption("binary"), "colour=binary"],
    ] as const) {
      await act();
      await page.waitForFunction((p) => location.search.includes(p), param);
      await settled(page);
      await page.mouse.move(5, 5);
      seen.add(await picture(page));
    }
    expect(seen.size).toBe(3);
    const types = await client.profileTypes({});
    const shown = await page.getByLabel("Profile type").locator("option").evaluateAll((all) => all.map((o) => (o as HTMLOptionElement).value));
    expect(shown.sort()).toEqual(types.types.map((t) => t.id).sort());
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("group by: one layer per value, as the API sums them; a click on the legend narrows", async () => {
    const other = await store(url, `group-e2e-${scheme}`, ["main;work 50"]);
    const selector = `{service_name=~"${known.service}|${other.service}"}`;
    const { page, faults } = await open(scheme, "", `/?from=now-15m&q=${encodeURIComponent(selector)}&by=service_name`);
    await page.locator(".legend button").nth(1).waitFor();
    const r = await client.series({
      selection: { profileType: "cpu", selector, startUnixNano: BigInt(Date.now() - 900_000) * 1_000_000n, endUnixNano: BigInt(Date.now()) * 1_000_000n },
      groupBy: ["service_name"],
    });
    const cores = new Map(r.series.map((x) => [x.labels.find((l) => l.name === "service_name")?.value ?? "", x.values.reduce((n, v) => n + Number(v), 0) / 900e9]));
    const legend = await page.locator(".legend button").evaluateAll((all) => all.map((b) => [b.querySelector(".ellipsis")?.textContent ?? "", b.querySelector(".num")?.textContent ?? ""] as const));
    expect(legend.map(([name]) => name)).toEqual([known.service, other.service]);
    for (const [name, shown] of legend) expect(Math.abs(Number.parseFloat(shown) / (cores.get(name) as number) - 1)).toBeLessThan(0.05); // two digits are shown
    await page.locator(".legend button", { hasText: other.service }).click();
    await page.waitForFunction((n) => new URL(location.href).searchParams.get("q")?.includes(`service_name="${n}"`) === true, other.service);
    await settled(page);
    expect(await totals(page)).toContain(time(50));
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("live: what is stored meanwhile appears by itself", async () => {
    const service = `live-e2e-${scheme}`;
    const now = await store(url, service, ["main;early 10"], Date.now() - 30_000);
    const { page, faults } = await open(scheme, "&live=1", now.query);
    expect(Object.keys(await table(page))).not.toContain("late");
    await store(url, service, ["main;late 10"]);
    await page.locator(".functions tbody th button", { hasText: "late" }).first().waitFor();
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("the table has what is known", async () => {
    const { page, faults } = await open(scheme);
    expect(await table(page)).toEqual({
      fib: [time(45), time(45)],
      parse: [time(35), time(45)],
      read: [time(10), time(10)],
      encode: [time(5), time(20)],
      idle: [time(5), time(5)],
      main: [time(0), time(100)],
      serve: [time(0), time(50)],
    });
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("only stacks with a function, none with it, a call site: chips take them back, the chart follows", async () => {
    const { page, faults } = await open(scheme);
    await choose(page, "encode", "Only stacks with it");
    await page.locator(".chip").waitFor();
    await settled(page);
    expect(await table(page)).toEqual({ parse: [time(15), time(15)], encode: [time(5), time(20)], main: [time(0), time(20)], serve: [time(0), time(20)] });
    expect(await totals(page)).toBe(`${time(20)} of ${time(100)} (20.0 %) in 2 stacks`);
    expect(new URL(page.url()).searchParams.getAll("keep")).toEqual(["function=encode"]);

    await choose(page, "parse", "No stacks with it");
    await page.locator(".chip").nth(1).waitFor();
    await settled(page);
    expect(await totals(page)).toBe(`${time(5)} of ${time(100)} (5.00 %) in 1 stacks`);
    // The chart is of the same stacks: its mean times the range is their sum.
    const mean = (await page.locator(".chart-head .num").first().textContent()) ?? "";
    const r = await client.series({
      selection: { profileType: "cpu", selector: `{service_name="${known.service}"}`, startUnixNano: BigInt(Date.now() - 900_000) * 1_000_000n, endUnixNano: BigInt(Date.now()) * 1_000_000n },
      filter: { keep: [{ value: "encode" }], drop: [{ value: "parse" }] },
    });
    const sum = r.series.flatMap((s) => s.values).reduce((n, v) => n + Number(v), 0);
    expect(sum).toBe(5 * sampleMillis * 1e6);
    expect(Math.abs(Number.parseFloat(mean) / (sum / 900e9) - 1)).toBeLessThan(0.03); // two digits are shown

    await page.getByRole("button", { name: /^Remove: only/ }).click();
    await page.getByRole("button", { name: /^Remove: without/ }).click();
    await page.locator(".chips").waitFor({ state: "detached" });
    await settled(page);
    expect(await totals(page)).toBe(`${time(100)} in 8 stacks`);
    await page.goBack();
    await page.locator(".chip").waitFor();

    // A call site, from the graph by keyboard: main, then its largest child.
    await page.goto(`${url}${known.query}`);
    await settled(page);
    await page.locator(".flame canvas").focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Shift+F10");
    const head = await page.locator(".menu-head").textContent();
    expect(head).toBe("serve");
    await page.getByRole("menuitem", { name: /^Only this call site/ }).click();
    await page.locator(".chip", { hasText: "call site" }).waitFor();
    await settled(page);
    expect(new URL(page.url()).searchParams.get("call")).toBe("main;serve");
    expect(await totals(page)).toBe(`${time(50)} of ${time(100)} (50.0 %) in 4 stacks`);
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("the filter's form takes an expression for function, file or binary; a bad one is said with its place", async () => {
    const { page } = await open(scheme);
    await page.getByRole("button", { name: "Filter", exact: true }).click();
    const form = page.getByRole("dialog", { name: "Which stacks count" });
    await form.getByLabel("Keep or drop").selectOption("drop");
    await form.getByLabel("Regular expression").fill("^(fib|idle)$");
    await page.keyboard.press("Enter");
    await page.locator(".chip").waitFor();
    await settled(page);
    expect(await totals(page)).toBe(`${time(50)} of ${time(100)} (50.0 %) in 4 stacks`);
    await page.getByRole("button", { name: "Filter", exact: true }).click();
    await form.getByLabel("Regular expression").fill("a(b");
    await page.keyboard.press("Enter");
    await page.getByRole("alert").getByText("missing closing )").waitFor();
    await page.getByRole("button", { name: "Remove: without /a(b/" }).click();
    await settled(page);
    expect(await totals(page)).toBe(`${time(50)} of ${time(100)} (50.0 %) in 4 stacks`);
    await page.context().close();
  });

  test.runIf(real)("the sandwich: callers above, callees below, from the menu, back with one button; its URL shows the same", async () => {
    const { page, faults } = await open(scheme);
    await choose(page, "parse", "Callers and callees");
    await page.locator(".sandwich canvas").nth(1).waitFor();
    expect((await page.locator(".sandwich-head").textContent())?.replace(/\s+/g, " ")).toContain(`parse${time(45)} (45.0 %), itself ${time(35)}`);
    const spoken = (half: number): Promise<string | null> => page.locator(".sandwich canvas").nth(half).locator("[role=treeitem]").getAttribute("aria-label");
    expect(await spoken(0)).toBe(`parse, 100 % of total, total ${time(45)}, self ${time(0) === "–" ? "0 ns" : ""}`);
    // One level up: the larger caller first, the other one beside it.
    const callers = page.locator(".sandwich canvas").first();
    await callers.focus();
    await page.keyboard.press("ArrowUp");
    const first = await spoken(0);
    await page.keyboard.press("ArrowLeft");
    expect([first, await spoken(0)].map((s) => s?.split(", total")[0])).toEqual(["serve, 66.7 % of total", "encode, 33.3 % of total"]);
    const answer = await client.sandwich({
      selection: { profileType: "cpu", selector: `{service_name="${known.service}"}`, startUnixNano: BigInt(Date.now() - 900_000) * 1_000_000n, endUnixNano: BigInt(Date.now()) * 1_000_000n },
      function: "parse",
    });
    expect(Number(answer.total)).toBe(45 * sampleMillis * 1e6);
    const callees = page.locator(".sandwich canvas").nth(1);
    await callees.focus();
    await page.keyboard.press("ArrowDown");
    expect(await spoken(1)).toContain("read, 22.2 % of total");
    await page.reload();
    await page.locator(".sandwich canvas").nth(1).waitFor();
    // A row of the table picks another function.
    await page.locator(".functions tbody th button").first().click();
    await page.waitForFunction(() => new URL(location.href).searchParams.get("sandwich") === "fib");
    await page.getByRole("button", { name: "Whole graph" }).click();
    await settled(page);
    expect(new URL(page.url()).searchParams.get("sandwich")).toBeNull();
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("recursion collapses, the kernel hides: the graph changes, sums do not", async () => {
    const { page, faults } = await open(scheme, "&search=%22fib%22");
    const places = async (): Promise<string | undefined> => /in (\d+) node/.exec((await page.locator(".found").textContent()) ?? "")?.[1];
    expect(await places()).toBe("3"); // main;fib, and below it two more
    await page.getByRole("button", { name: "Recursion" }).click();
    await settled(page);
    expect(await places()).toBe("1");
    await page.getByLabel("Search functions").fill("");
    expect((await table(page))["fib"]).toEqual([time(45), time(45)]);
    await choose(page, "read", "Hide its binary");
    await page.locator(".chip", { hasText: "hidden" }).waitFor();
    await settled(page);
    const rows = await table(page);
    expect(rows["read"]).toBeUndefined();
    expect(rows["parse"]).toEqual([time(45), time(45)]);
    expect(await totals(page)).toBe(`${time(100)} in 8 stacks`);
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("search by an expression says the share that matches, without counting twice", async () => {
    const { page } = await open(scheme);
    await page.getByLabel("Search functions").fill("/^(fib|encode)$/");
    await page.locator(".found").waitFor();
    expect((await page.locator(".found").textContent())?.replace(/\s+/g, " ")).toBe(`65.0 % · ${time(65)} in 4 nodes`);
    await page.context().close();
  });

  test.runIf(real)("names and stacks are copied", async () => {
    const { page } = await open(scheme);
    await choose(page, "encode", "Copy name");
    await page.getByText("Copied the name").waitFor();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("encode");
    await page.locator(".flame canvas").focus();
    for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ContextMenu");
    await page.getByRole("menuitem", { name: /^Copy stack/ }).click();
    await page.getByText("Copied the stack").waitFor();
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe("main;serve;parse;read");
    await page.context().close();
  });

  test.runIf(real)("downloads have what is selected: folded text, speedscope, SVG", async () => {
    const { page, faults } = await open(scheme, "&drop=function%3Didle");
    const sum = (text: string): number =>
      text
        .trim()
        .split("\n")
        .reduce((n, l) => n + Number(l.slice(l.lastIndexOf(" ") + 1)), 0);
    const folded = await downloaded(page, /^Folded/);
    expect(folded.file.suggestedFilename()).toMatch(/^cpu-explore-e2e-.*\.folded$/);
    expect(sum(folded.text)).toBe(95 * sampleMillis * 1e6);
    expect(folded.text).toContain(`main;fib;fib;fib ${30 * sampleMillis * 1e6}`);
    const scope = JSON.parse((await downloaded(page, /^speedscope/)).text) as { $schema: string; profiles: { weights: number[]; unit: string }[] };
    expect(scope.$schema).toBe("https://www.speedscope.app/file-format-schema.json");
    expect(scope.profiles[0]?.unit).toBe("nanoseconds");
    expect(scope.profiles[0]?.weights.reduce((a, b) => a + b, 0)).toBe(95 * sampleMillis * 1e6);
    const svg = await downloaded(page, /^SVG/);
    expect(svg.text).toMatch(/^<svg|^<\?xml/);
    expect(svg.text).toContain("encode");
    expect(svg.text).not.toContain("idle");
    expect(faults).toEqual([]);
    await page.context().close();
  });

  test.runIf(real)("label names are offered with how many values they have", async () => {
    const { page } = await open(scheme);
    const answer = await client.labelNames({
      selection: { profileType: "cpu", startUnixNano: BigInt(Date.now() - 900_000) * 1_000_000n, endUnixNano: BigInt(Date.now()) * 1_000_000n },
      countValues: true,
    });
    const at = answer.names.indexOf("env");
    expect(at).toBeGreaterThanOrEqual(0);
    const n = Number(answer.valueCounts[at]);
    const field = page.getByRole("combobox", { name: "Selector" });
    await field.fill("");
    await field.pressSequentially("en");
    await page.locator(".popup [role=option]", { hasText: "env" }).getByText(n === 1 ? "1 value" : `${n} values`).waitFor();
    await page.context().close();
  });

  test.runIf(work !== "")("source lines: what each line cost is what the API says, with the text from the server or from one's disk", async () => {
    const q = encodeURIComponent(`{service_name="${work}"}`);
    const { page, faults } = await open(scheme, "", `/?from=now-10m&q=${q}`);
    // Nothing grows while the range ends before now.
    const end = Date.now() - 20_000;
    const range = `&from=${encodeURIComponent(new Date(end - 40_000).toISOString())}&to=${encodeURIComponent(new Date(end).toISOString())}`;
    await page.goto(`${url}/?q=${q}${range}&search=hot70`);
    await settled(page);
    await page.locator(".functions tbody th button", { hasText: "hot70" }).first().waitFor();
    await choose(page, "main.hot70", /^Source/);
    await page.locator(".lines tbody tr[aria-rowindex]").first().waitFor();
    const answer: LinesResponse = await client.lines({
      selection: { profileType: "cpu", selector: `{service_name="${work}"}`, startUnixNano: BigInt(end - 40_000) * 1_000_000n, endUnixNano: BigInt(end) * 1_000_000n },
      function: "main.hot70",
    });
    const file = answer.files[0];
    if (file === undefined) throw new Error("the API knows no file of main.hot70");
    expect(file.text).toContain("func hot70(");
    const hot = file.lines.filter((l) => l.self > 0n);
    expect(hot.length).toBeGreaterThan(0);
    const shown = await page.locator(".lines tbody tr[data-hot=true]").evaluateAll((rows) => rows.map((r) => [...r.querySelectorAll("td")].map((td) => td.textContent ?? "")));
    expect(shown.map((r) => [Number(r[2]), r[0], r[1]])).toEqual(hot.map((l) => [l.line, formatValue(Number(l.self), "nanoseconds"), formatValue(Number(l.total), "nanoseconds")]));
    // The line that works is the loop's.
    const most = hot.reduce((a, b) => (b.self > a.self ? b : a));
    expect(file.text.split("\n")[most.line - 1]).toMatch(/for ;|x = /);
    expect(faults).toEqual([]);

    // A server that has no sources says how that can be mended; the reader's own file does as well.
    await page.route("**/perfuse.query.v1.QueryService/Lines", async (route) => {
      const r = await route.fetch();
      const { fromBinary, toBinary } = await import("@bufbuild/protobuf");
      const { LinesResponseSchema } = await import("../src/api/gen/perfuse/query/v1/query_pb");
      const m = fromBinary(LinesResponseSchema, new Uint8Array(await r.body()));
      for (const f of m.files) Object.assign(f, { text: "", noText: "the server has no sources for it" });
      await route.fulfill({ status: 200, contentType: "application/proto", body: Buffer.from(toBinary(LinesResponseSchema, m)) });
    });
    await page.reload();
    await page.getByText("the server has no sources for it").waitFor();
    expect(await page.locator(".lines tbody tr[data-hot=true]").count()).toBe(hot.length);
    await page.getByLabel("Source file on this computer").setInputFiles({ name: "main.go", mimeType: "text/plain", buffer: Buffer.from(file.text) });
    await page.locator(".lines td.code", { hasText: "func hot70(" }).waitFor();
    await page.context().close();
  });
});
