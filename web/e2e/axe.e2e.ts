import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { Browser, Page } from "playwright-core";
import type { AxeResults } from "axe-core";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { launch, settled } from "./browser";

// Nothing that axe calls serious or critical, in any view, in light and in dark.
const { url, first } = inject("server");
let browser: Browser;
let axe: string;

beforeAll(async () => {
  browser = await launch();
  axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
});
afterAll(() => browser.close());

interface View {
  readonly name: string;
  readonly path: string;
  readonly width?: number;
  readonly prepare?: (page: Page) => Promise<void>;
}

const and = first.includes("?") ? "&" : "?";
const views: readonly View[] = [
  { name: "explore", path: first, prepare: settled },
  { name: "explore on a phone", path: `${first}${and}by=service_name`, width: 390, prepare: settled },
  { name: "a search and filters", path: `${first}${and}search=a&drop=no_such&collapse=1`, prepare: settled },
  {
    name: "a menu",
    path: first,
    prepare: async (page) => {
      await settled(page);
      await page.locator(".flame canvas").focus();
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("Shift+F10");
      await page.getByRole("menu").waitFor();
    },
  },
  {
    name: "the filter's form",
    path: first,
    prepare: async (page) => {
      await settled(page);
      await page.getByRole("button", { name: "Filter", exact: true }).click();
      await page.getByRole("dialog").waitFor();
    },
  },
  {
    name: "the time range",
    path: first,
    prepare: async (page) => {
      await settled(page);
      await page.getByRole("button", { name: /^Time range/ }).click();
      await page.getByRole("dialog").waitFor();
    },
  },
  {
    name: "completion",
    path: first,
    prepare: async (page) => {
      await settled(page);
      await page.getByRole("combobox", { name: "Selector" }).click();
      await page.keyboard.type("service_n");
      await page.locator(".popup [role=option]").first().waitFor();
    },
  },
  {
    name: "the sandwich and the source of the largest function",
    path: first,
    prepare: async (page) => {
      await settled(page);
      await page.locator(".functions tbody tr[aria-rowindex]").first().click({ button: "right" });
      await page.getByRole("menuitem", { name: "Callers and callees" }).click();
      await page.locator(".sandwich canvas").nth(1).waitFor();
      const q = new URL(page.url()).searchParams;
      q.set("source", q.get("sandwich") ?? "");
      await page.goto(`${url}/?${q}`);
      await page.locator(".beside").waitFor();
      await page.waitForFunction(() => document.querySelector('[data-stale="asked"]') === null);
    },
  },
  { name: "compare", path: `/compare${first.slice(1)}`, prepare: settled },
  { name: "compare side by side", path: `/compare${first.slice(1)}${and}show=sides`, prepare: settled },
  { name: "compare on a phone", path: `/compare${first.slice(1)}`, width: 390, prepare: settled },
  { name: "fleet", path: "/fleet", prepare: (page) => page.locator("table, .state").first().waitFor() },
  { name: "fleet on a phone", path: "/fleet", width: 390, prepare: (page) => page.locator("table, .state").first().waitFor() },
  { name: "a file, before it is chosen", path: "/file", prepare: (page) => page.getByRole("button", { name: "Choose a file" }).waitFor() },
  {
    name: "a file",
    path: "/file",
    prepare: async (page) => {
      await page.locator("input[type=file]").setInputFiles({ name: "a.folded", mimeType: "text/plain", buffer: Buffer.from("main;a 10\nmain;b 20\n") });
      await settled(page);
    },
  },
  {
    name: "a refused selector",
    path: `/?q=${encodeURIComponent("{a=5}")}`,
    prepare: (page) => page.getByRole("alert").first().waitFor(),
  },
  {
    name: "nothing matches",
    path: `/?q=${encodeURIComponent('{service_name="no such service"}')}`,
    prepare: (page) => page.getByRole("heading", { name: "Nothing matches" }).waitFor(),
  },
];

for (const v of views) {
  test(`axe: ${v.name}`, async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const page = await browser.newPage({ viewport: { width: v.width ?? 1280, height: 800 }, colorScheme });
      await page.goto(url + v.path);
      await v.prepare?.(page);
      await page.evaluate(axe);
      const found = await page.evaluate(async () => {
        const { violations } = await (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run();
        return violations.map((x) => ({ impact: x.impact, rule: x.id, help: x.help, at: x.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary ?? ""}`) }));
      });
      expect(found.filter((x) => x.impact === "serious" || x.impact === "critical")).toEqual([]);
      const minor = found.map((x) => x.rule);
      if (minor.length > 0) console.log(`axe, ${v.name}, ${colorScheme}: minor or moderate: ${minor.join(", ")}`);
      await page.close();
    }
  });
}
