import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { Browser, Page } from "playwright-core";
import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { launch, picture, settled, watch } from "./browser";
import { steadiest } from "./instance";

const { url, first } = inject("server");
let browser: Browser;

beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

async function open(path = first, options: { width?: number; height?: number; colorScheme?: "light" | "dark" } = {}): Promise<{ page: Page; faults: string[] }> {
  const page = await browser.newPage({
    viewport: { width: options.width ?? 1280, height: options.height ?? 800 },
    colorScheme: options.colorScheme ?? "light",
  });
  const faults = watch(page);
  await page.goto(url + path);
  return { page, faults };
}

async function crumbs(page: Page): Promise<string[]> {
  return page.locator(".crumbs button").allTextContents();
}

// What a reader sees of the view, for comparing it before and after.
async function view(page: Page) {
  return {
    url: page.url(),
    crumbs: await crumbs(page),
    found: await page.locator(".found").textContent(),
    range: await page.locator(".range button.field").textContent(),
    service: await page.getByLabel("Service", { exact: true }).first().inputValue(),
    selector: await page.getByRole("combobox", { name: "Selector" }).inputValue(),
    search: await page.getByLabel("Search functions").inputValue(),
    rows: await page.locator(".functions tbody tr[aria-rowindex]").first().textContent(),
    picture: await picture(page),
  };
}

test("start, choose a service, brush, zoom, search, reload: the same view", async () => {
  const { page, faults } = await open();
  await settled(page);

  // Choose a service: open the list, type, take what is offered.
  const service = await steadiest(url);
  await page.getByRole("combobox", { name: "Service" }).click();
  await page.locator(".popup [role=option]").nth(1).waitFor();
  await page.keyboard.type(service);
  await page.locator(".popup [role=option] span", { hasText: new RegExp(`^${service.replace(/[^\w]/g, "\\$&")}$`) }).click();
  await page.waitForFunction((s) => new URL(location.href).searchParams.get("q") === `{service_name="${s}"}`, service);
  await settled(page);

  // Brush the middle of the chart.
  const box = await page.locator(".chart-box svg").boundingBox();
  if (box === null) throw new Error("no chart");
  await page.mouse.move(box.x + box.width * 0.25, box.y + 60);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.5, box.y + 60, { steps: 4 });
  await page.mouse.move(box.x + box.width * 0.7, box.y + 60, { steps: 4 });
  await page.mouse.up();
  await page.waitForFunction(() => /^\d{4}-/.test(new URL(location.href).searchParams.get("from") ?? ""));
  await settled(page);

  // Zoom by a click into the widest stack, by the keyboard one level further.
  const canvas = page.locator(".flame canvas");
  const at = await canvas.boundingBox();
  if (at === null) throw new Error("no graph");
  await canvas.focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 3);
  await settled(page);
  const deep = await crumbs(page);
  // A click on the row of the zoomed node's parent zooms out by one.
  await canvas.click({ position: { x: at.width / 2, y: 30 } });
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 2);
  await settled(page);
  expect(await crumbs(page)).toEqual(deep.slice(0, 2));

  // Search for the function at the top of the table, by a click on it.
  await page.locator(".functions tbody th button").first().click();
  await page.locator(".found").waitFor();
  const share = (await page.locator(".found b").textContent()) as string;
  expect(Number.parseFloat(share)).toBeGreaterThan(0);
  await canvas.blur();
  await page.mouse.move(5, 5);
  await settled(page);

  const before = await view(page);
  expect(before.service).toBe(service);
  await page.reload();
  await page.locator(".found").waitFor();
  await settled(page);
  await page.mouse.move(6, 6);
  expect(await view(page)).toEqual(before);

  // And back through the history to the start.
  await page.goBack();
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 3);
  expect(faults).toEqual([]);
  await page.close();
});

test("the keyboard alone: move, zoom in and out, search, and the mirror says where one is", async () => {
  const { page, faults } = await open();
  await settled(page);
  const canvas = page.locator(".flame canvas");
  const spoken = async (): Promise<string> => (await page.locator(".flame canvas [role=treeitem]").getAttribute("aria-label")) ?? "";
  await canvas.focus();
  expect(await spoken()).toMatch(/^total, 100 % of total/);
  await page.keyboard.press("ArrowDown");
  const child = await spoken();
  expect(child).not.toMatch(/^total,/);
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("ArrowUp");
  expect(await spoken()).toMatch(/^total, /);
  await page.keyboard.press("ArrowDown");
  expect(await spoken()).toBe(child);
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 2);
  await page.keyboard.press("Escape");
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 1);
  await page.keyboard.press("/");
  expect(await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))).toBe("Search functions");
  expect(faults).toEqual([]);
  await page.close();
});

test("the chart by keyboard: select and apply, double click widens", async () => {
  const { page } = await open();
  await settled(page);
  const chart = page.locator(".chart-box svg");
  await chart.focus();
  for (let i = 0; i < 12; i++) await page.keyboard.press("Shift+ArrowLeft");
  await page.locator(".chart-box rect.brush").waitFor();
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => /^\d{4}-/.test(new URL(location.href).searchParams.get("from") ?? ""));
  await settled(page);
  const width = (): Promise<number> =>
    page.evaluate(() => {
      const p = new URL(location.href).searchParams;
      return Date.parse(p.get("to") ?? "") - Date.parse(p.get("from") ?? "");
    });
  const narrow = await width();
  await chart.dblclick({ position: { x: 400, y: 60 } });
  await page.waitForFunction((n) => {
    const p = new URL(location.href).searchParams;
    return Math.abs(Date.parse(p.get("to") ?? "") - Date.parse(p.get("from") ?? "") - 2 * n) < 10;
  }, narrow);
  await page.close();
});

test("completion offers names and values, and enter applies the selector", async () => {
  const { page, faults } = await open();
  await settled(page);
  const field = page.getByRole("combobox", { name: "Selector" });
  await field.click();
  await field.pressSequentially("service_n");
  await page.locator(".popup [role=option]", { hasText: "service_name" }).waitFor();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  expect(await field.inputValue()).toBe("{service_name=");
  await page.locator(".popup [role=option]", { hasText: /^[^=~!]+$/ }).first().waitFor();
  const value = (await page.locator(".popup [role=option]").first().textContent()) as string;
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  expect(await field.inputValue()).toBe(`{service_name="${value}"`);
  await page.keyboard.press("Enter");
  await page.waitForFunction((v) => new URL(location.href).searchParams.get("q") === `{service_name="${v}"}`, value);
  expect(await page.getByRole("combobox", { name: "Service" }).inputValue()).toBe(value);
  expect(faults).toEqual([]);
  await page.close();
});

test("what is selected can be downloaded as pprof", async () => {
  const { page, faults } = await open();
  await settled(page);
  await page.getByRole("button", { name: "Download" }).click();
  const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("menuitem", { name: /^pprof/ }).click()]);
  expect(file.suggestedFilename()).toMatch(/^cpu-.*\.pb\.gz$/);
  const bytes = await readFile(await file.path());
  // Gzip, and inside it a message whose first field is a sample type.
  expect(gunzipSync(bytes)[0]).toBe(0x0a);
  expect(faults).toEqual([]);
  await page.close();
});

test("a selector that the server refuses is shown with its column", async () => {
  const { page } = await open(`/?q=${encodeURIComponent("{service_name=5}")}`);
  const alert = page.getByRole("alert");
  await alert.waitFor();
  const text = (await alert.locator("pre").textContent()) as string;
  const lines = text.split("\n");
  expect(lines[0]).toMatch(/column 15/);
  expect((lines[2] as string).indexOf("^") - (lines[1] as string).indexOf("{")).toBe(14);
  await alert.getByRole("button", { name: "Without the selector" }).click();
  await settled(page);
  await page.close();
});

test("nothing matches: says so, and a button leads out", async () => {
  const { page } = await open(`/?q=${encodeURIComponent('{service_name="no such service"}')}`);
  await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
  await page.getByRole("button", { name: "Without the selector" }).click();
  await settled(page);
  await page.close();
});

test("light and dark: after the system, then by the switch, and in the URL", async () => {
  const { page } = await open(first, { colorScheme: "dark" });
  await settled(page);
  const background = (): Promise<string> => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const brightness = async (): Promise<number> => Number(/\d+/.exec(await background())?.[0]);
  expect(await brightness()).toBeLessThan(60);
  const dark = await picture(page);
  await page.emulateMedia({ colorScheme: "light" });
  await page.waitForFunction(() => document.documentElement.dataset["theme"] === "light");
  expect(await brightness()).toBeGreaterThan(200);
  await settled(page);
  expect(await picture(page)).not.toBe(dark);
  await page.getByRole("button", { name: /^Theme/ }).click();
  await page.waitForFunction(() => document.documentElement.dataset["theme"] === "dark");
  expect(page.url()).toContain("theme=dark");
  await page.reload();
  await page.waitForFunction(() => document.documentElement.dataset["theme"] === "dark");
  await page.close();
});

test("390 pixels wide: nothing is cut off sideways", async () => {
  const { page, faults } = await open(`${first}${first.includes("?") ? "&" : "?"}by=service_name`, { width: 390, height: 844 });
  await settled(page);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  expect(over).toBe(0);
  for (const name of ["Profile type", "Search functions"]) await page.getByLabel(name).first().waitFor();
  await page.locator(".functions tbody tr").first().waitFor();
  await page.getByRole("button", { name: /^Time range/ }).click();
  const popup = await page.getByRole("dialog").boundingBox();
  expect(popup?.x).toBeGreaterThanOrEqual(0);
  expect((popup?.x ?? 0) + (popup?.width ?? 999)).toBeLessThanOrEqual(390);
  expect(faults).toEqual([]);
  await page.close();
});
