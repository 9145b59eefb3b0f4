import { mkdirSync } from "node:fs";
import { chromium, type Browser, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { PerfuseQuery } from "../src/query";

const { PERFUSE_GRAFANA_URL: url, PERFUSE_URL: server, PERFUSE_FROM: from, PERFUSE_TO: to, PERFUSE_PICTURES: pictures } = process.env;

let browser: Browser;
beforeAll(async () => {
  if (url === undefined) throw new Error("PERFUSE_GRAFANA_URL is not set: run this by `go test ./e2e -run Editor`");
  browser = await chromium.launch({
    executablePath: process.env["CHROMIUM"] ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
afterAll(() => browser?.close());

// open shows a view of the host page; faults collects what must not happen.
async function open(view: string, more: Record<string, string> = {}): Promise<{ page: Page; faults: string[] }> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(15_000);
  const faults: string[] = [];
  page.on("pageerror", (e) => faults.push(`threw ${e.message}`));
  page.on("console", (m) => {
    if (/Warning: (Each child|Cannot update|Received|React does not)|Minified React error/.test(m.text())) faults.push(m.text());
  });
  await page.goto(`${url}/?${new URLSearchParams({ view, from: from ?? "", to: to ?? "", ...more })}`);
  return { page, faults };
}

// picture keeps a screenshot for people, if they say where.
async function picture(page: Page, name: string): Promise<void> {
  if (pictures === undefined) return;
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
}

async function queryOf(page: Page): Promise<PerfuseQuery> {
  return JSON.parse((await page.locator("#query").textContent()) ?? "") as PerfuseQuery;
}

// total asks the server's own API for the sum of a selector.
async function total(selector: string, more: object = {}): Promise<string> {
  const response = await fetch(`${server}/perfuse.query.v1.QueryService/FlameGraph`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ selection: { profileType: "cpu", selector, startUnixNano: `${from}000000`, endUnixNano: `${to}000000` }, ...more }),
  });
  return ((await response.json()) as { total: string }).total;
}

const cpu = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";

test("a new query is about CPU time, and shows both", async () => {
  const { page, faults } = await open("query");
  await page.locator(`#flame[data-total="${await total("")}"] canvas`).waitFor();
  expect(await queryOf(page)).toMatchObject({ queryType: "both", profileType: cpu });
  expect(await page.locator("#series").textContent()).toMatch(/^cpu suffix:cores \d+ points\n$/);
  await picture(page, "both");
  expect(faults).toEqual([]);
  await page.close();
});

test("a selector is typed with completion of names, operators and values", async () => {
  const { page, faults } = await open("query", { query: JSON.stringify({ profileType: cpu }) });
  const input = page.getByRole("combobox", { name: "Selector" });
  await input.click();
  const options = page.getByRole("listbox", { name: "Selector" }).getByRole("option");
  await expect.poll(() => options.allTextContents()).toEqual(["service_name", "zone"]);
  await input.pressSequentially("ser");
  await expect.poll(() => options.allTextContents()).toEqual(["service_name"]);
  await input.press("Tab");
  await expect.poll(() => input.inputValue()).toBe("{service_name=");
  await expect.poll(() => options.allTextContents()).toEqual(["api", "db"]);
  await picture(page, "values");
  await input.press("ArrowDown");
  await input.press("Enter");
  await expect.poll(() => input.inputValue()).toBe('{service_name="db"');
  await input.pressSequentially(", zo");
  await expect.poll(() => options.allTextContents()).toEqual(["zone"]);
  await options.first().click();
  await input.pressSequentially('"a');
  await expect.poll(() => options.allTextContents()).toEqual(["a"]);
  await input.press("Escape");
  await input.press("Enter");
  await expect.poll(async () => (await queryOf(page)).selector).toBe('{service_name="db", zone="a"}');
  await page.locator(`#flame[data-total="${await total('{service_name="db"}')}"] canvas`).waitFor();
  expect(faults).toEqual([]);
  await page.close();
});

test("a selector that cannot be read: the message points at it", async () => {
  const { page } = await open("query", { query: JSON.stringify({ profileType: cpu, selector: "{service_name=api}" }) });
  await page.getByRole("alert").getByText("column 15").waitFor();
  expect(await page.getByRole("alert").textContent()).toContain("  {service_name=api}\n                ^");
  await picture(page, "refused");
  await page.close();
});

test("group by, limit, filters and the smallest frame are in the query, and hold", async () => {
  const { page, faults } = await open("query", { query: JSON.stringify({ profileType: cpu }) });
  const groups = page.getByRole("combobox", { name: "Group by" });
  await groups.click();
  await page.getByRole("option", { name: "service_name" }).click();
  await groups.press("Escape");
  await expect.poll(() => page.locator("#series").textContent()).toMatch(/^(api|db) suffix:cores \d+ points\n(api|db) suffix:cores \d+ points\n$/);
  await page.getByLabel("Limit").fill("1");
  await page.getByLabel("Limit").press("Enter");
  await page.locator("#notices").getByText("There are 2 series").waitFor();
  await page.getByLabel("Call site").fill("main;handler");
  await page.getByLabel("Call site").press("Enter");
  await page.getByRole("button", { name: "Add to keep" }).click();
  await page.getByLabel("Keep 1", { exact: true }).fill("^md");
  await page.getByLabel("Keep 1", { exact: true }).press("Enter");
  await page.getByLabel("Keep 1 is an expression").check({ force: true });
  await page.getByRole("button", { name: "Add to drop" }).click();
  await page.getByLabel("Drop 1", { exact: true }).fill("read");
  await page.getByLabel("Drop 1", { exact: true }).press("Enter");
  await page.getByLabel("Smallest frame").fill("0.5");
  await page.getByLabel("Smallest frame").press("Enter");
  await page.getByLabel("Exemplars").check({ force: true });
  const filter = { callSite: ["main", "handler"], keep: [{ field: "FRAME_FIELD_FUNCTION", value: "^md", regexp: true }], drop: [{ value: "read" }] };
  await page.locator(`#flame[data-total="${await total("", { filter })}"] canvas`).waitFor();
  expect(await queryOf(page)).toMatchObject({
    groupBy: ["service_name"],
    limit: 1,
    minShare: 0.005,
    exemplars: true,
    callSite: ["main", "handler"],
    keep: [{ field: "function", value: "^md", regexp: true }],
    drop: [{ field: "function", value: "read", regexp: false }],
  });
  await picture(page, "filters");
  await page.getByRole("button", { name: "Remove keep 1" }).click();
  await expect.poll(async () => (await queryOf(page)).keep).toEqual([]);
  expect(faults).toEqual([]);
  await page.close();
});

test("a diff: what it is compared with, and how", async () => {
  const half = (Number(from) + Number(to)) / 2;
  const { page, faults } = await open("query", { query: JSON.stringify({ profileType: cpu, queryType: "series" }), from: String(half) });
  await page.getByRole("radio", { name: "Diff" }).check();
  await page.locator("#flame canvas").waitFor();
  const input = page.getByRole("combobox", { name: "Compared with" });
  await input.click();
  await input.pressSequentially('{zone="b"}');
  await input.press("Escape");
  await input.press("Enter");
  await page.getByLabel("Earlier by").fill("3m");
  await page.getByLabel("Earlier by").press("Enter");
  await page.getByLabel("Per second").check({ force: true });
  await expect.poll(() => queryOf(page)).toMatchObject({ queryType: "diff", before: { selector: '{zone="b"}', earlier: "3m", perSecond: true } });
  await page.locator("#flame canvas").waitFor();
  await picture(page, "diff");
  expect(faults).toEqual([]);
  await page.close();
});

test("a live query is refreshed by streams, one a frame", async () => {
  // Until now, and as long ago as tests' profiles begin.
  const { page, faults } = await open("query", { query: JSON.stringify({ profileType: cpu, liveSeconds: 1 }), to: String(Date.now()), live: "" });
  await page.locator(`#flame[data-total="${await total("")}"] canvas`).waitFor();
  await expect.poll(() => page.locator("#series").textContent()).toContain("cpu suffix:cores");
  const at = Number(from) + 10.5 * 60_000;
  const more = await fetch(`${server}/ingest?${new URLSearchParams({ name: "late.cpu{}", units: "samples", from: String(Math.floor(at / 1000)), until: String(Math.floor(at / 1000) + 10) })}`, { method: "POST", body: "main;late 7777\n" });
  expect(more.status).toBe(200);
  await page.locator(`#flame[data-total="${await total("")}"] canvas`).waitFor();
  await page.getByLabel("Live, every").fill("");
  await page.getByLabel("Live, every").press("Enter");
  await expect.poll(async () => (await queryOf(page)).liveSeconds).toBe(undefined);
  expect(faults).toEqual([]);
  await page.close();
});

test("template variables", async () => {
  const { page, faults } = await open("variable");
  await page.getByRole("combobox", { name: "Label" }).click();
  await page.getByRole("option", { name: "zone" }).click();
  await expect.poll(() => page.locator("#found").textContent()).toBe('[{"text":"a","value":"a"},{"text":"b","value":"b"}]');
  const input = page.getByRole("combobox", { name: "Of series" });
  await input.click();
  await input.pressSequentially('{service_name="db"}');
  await input.press("Escape");
  await input.press("Enter");
  await expect.poll(() => page.locator("#found").textContent()).toBe('[{"text":"a","value":"a"}]');
  expect(JSON.parse((await page.locator("#query").textContent()) ?? "")).toMatchObject({ kind: "values", label: "zone", selector: '{service_name="db"}' });
  await page.getByRole("radio", { name: "Profile types" }).check();
  await expect.poll(() => page.locator("#found").textContent()).toContain(`{"text":"CPU time","value":"${cpu}"}`);
  // Ad hoc filters.
  await expect.poll(() => page.locator("#tags").textContent()).toBe('[[{"text":"service_name"},{"text":"zone"}],[{"text":"a"},{"text":"b"}]]');
  await picture(page, "variable");
  expect(faults).toEqual([]);
  await page.close();
});

test("annotations: when values of a label begin", async () => {
  const { page, faults } = await open("annotation");
  // Nobody has a version; zones begin with the data.
  await page.getByRole("combobox", { name: "Label" }).click();
  await page.getByRole("option", { name: "zone" }).click();
  await expect.poll(() => page.locator("#found").textContent()).toBe("zone a\nzone b");
  const input = page.getByRole("combobox", { name: "Of series" });
  await input.click();
  await input.pressSequentially('{service_name="db"}');
  await input.press("Escape");
  await input.press("Enter");
  await expect.poll(() => page.locator("#found").textContent()).toBe("zone a");
  expect(await queryOf(page)).toMatchObject({ queryType: "beginnings", label: "zone", selector: '{service_name="db"}' });
  await picture(page, "annotation");
  expect(faults).toEqual([]);
  await page.close();
});

test("the settings page", async () => {
  const { page, faults } = await open("config");
  await page.getByLabel("Bearer token").fill("secret");
  await page.getByLabel("Least step").fill("15s");
  await page.getByLabel("Largest answer, MiB").fill("128");
  await page.getByPlaceholder("http://127.0.0.1:7070").fill("http://perfuse:7070");
  await page.getByPlaceholder("http://127.0.0.1:7070").blur();
  const options = async (): Promise<unknown> => JSON.parse((await page.locator("#options").textContent()) ?? "");
  await expect.poll(options).toMatchObject({ url: "http://perfuse:7070", jsonData: { minStep: "15s", answerMiB: 128 }, secureJsonData: { bearerToken: "secret" } });
  await picture(page, "config");
  expect(faults).toEqual([]);
  await page.close();
});
