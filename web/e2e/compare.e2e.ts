import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import type { AxeResults } from "axe-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Browser, Page } from "playwright-core";
import { DiffScale, DiffTopOrder, FrameKind, QueryService } from "../src/api/gen/perfuse/query/v1/query_pb";
import { writerOf } from "../src/lib/change";
import { change, decodeDiff, diffTrees, sideOf, type DiffTree } from "../src/lib/difftree";
import { decodeTree, type FlameTree } from "../src/lib/tree";
import { launch, picture, settled, watch } from "./browser";
import { huge } from "./fixture/data";
import { foldedTree } from "./fixture/folded";
import { binary, start, type Instance } from "./instance";

if (binary === undefined) console.log("skipped: comparing, because PERFUSE_BIN names no perfuse to start, and the fixture answers no differences");

// What version 2 does that version 1 did not, and the other way around. Values are samples at 100 a second.
const version1 = { "main;serve;json": 300, "main;serve;sql": 200, "main;serve": 20, "main;legacy;xml": 80, "main;gc": 60, "read_[k]": 40 };
const version2 = { "main;serve;json": 310, "main;serve;sql": 500, "main;serve": 20, "main;cache;lookup": 90, "main;gc": 60, "read_[k]": 40 };
const memory1 = { "main;serve;encode;runtime.mallocgc": 4_000_000, "main;cache;fill;runtime.mallocgc": 1_000_000 };
const memory2 = { "main;serve;encode;runtime.mallocgc": 4_000_000, "main;cache;fill;runtime.mallocgc": 9_000_000 };

// Ten minutes each, side by side, in the recent past.
const minute = 60_000;
const middle = Math.floor(Date.now() / minute) * minute - 20 * minute;
const iso = (ms: number): string => new Date(ms).toISOString().replace(".000Z", "Z");
const times = `from=${iso(middle)}&to=${iso(middle + 10 * minute)}`;
const shop = `q=${encodeURIComponent('{service_name="shop"}')}`;

let browser: Browser;
let server: Instance;

async function upload(name: string, at: number, stacks: Readonly<Record<string, number>>): Promise<void> {
  const q = new URLSearchParams({ name, from: String(at / 1000), until: String(at / 1000 + 10), sampleRate: "100", format: "folded" });
  const body = Object.entries(stacks).map(([stack, n]) => `${stack} ${n}\n`).join("");
  const r = await fetch(`${server.url}/ingest?${q.toString()}`, { method: "POST", body });
  if (!r.ok) throw new Error(`uploading ${name}: ${r.status} ${await r.text()}`);
}

const client = () => createClient(QueryService, createConnectTransport({ baseUrl: server.url, useBinaryFormat: true }));
const nano = (ms: number): bigint => BigInt(ms) * 1_000_000n;
const side = (from: number, to: number, profileType = "cpu", selector = '{service_name="shop"}') => ({ profileType, selector, startUnixNano: nano(from), endUnixNano: nano(to) });
const before = side(middle - 10 * minute, middle);
const after = side(middle, middle + 10 * minute);

async function open(query: string, options: { width?: number; height?: number; colorScheme?: "light" | "dark" } = {}): Promise<{ page: Page; faults: string[] }> {
  const page = await browser.newPage({ viewport: { width: options.width ?? 1280, height: options.height ?? 800 }, colorScheme: options.colorScheme ?? "light" });
  const faults = watch(page);
  await page.goto(`${server.url}/compare?${query}`);
  return { page, faults };
}

// What the graph's n-th canvas holds: a canvas cannot be asked what it shows.
interface Held {
  readonly names: string[];
  readonly before: number[];
  readonly after: number[];
  readonly widths: number[];
  readonly zoomed: string;
}
function held(page: Page, n = 0): Promise<Held> {
  return page.evaluate((n) => {
    const c = document.querySelectorAll<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas")[n];
    const { tree, zoomed } = (c?.perfuseView as { scene: { tree: DiffTree; zoomed: number } }).scene;
    const name = (i: number): string => tree.frames[tree.frame[i] as number]?.name ?? "";
    return { names: Array.from(tree.frame, (_, i) => name(i)), before: [...tree.before.total], after: [...tree.after.total], widths: [...tree.total], zoomed: name(zoomed) };
  }, n);
}

const crumbs = (page: Page): Promise<string[]> => page.locator(".crumbs button").allTextContents();
const spoken = async (page: Page): Promise<string> => (await page.locator(".flame canvas [role=treeitem]").first().getAttribute("aria-label")) ?? "";
const zoomedBy = (page: Page, n: number): Promise<unknown> => page.waitForFunction((n) => document.querySelectorAll(".crumbs li").length === n + 1, n);

// written is a difference as the server sends it.
function written(t: DiffTree) {
  const nodes: number[] = [];
  const put = (v: number): void => {
    let rest = v;
    for (; rest >= 128; rest = Math.floor(rest / 128)) nodes.push((rest % 128) | 0x80);
    nodes.push(rest);
  };
  const children = new Uint32Array(t.count);
  for (let i = 1; i < t.count; i++) children[t.parent[i] as number] = (children[t.parent[i] as number] as number) + 1;
  for (let i = 0; i < t.count; i++) for (const v of [children[i], t.frame[i], t.before.self[i], t.after.self[i]]) put(v as number);
  return { strings: ["", ...t.frames.map((f) => f.name)], frames: t.frames.map((f, i) => ({ name: i + 1, kind: f.kind })), nodes: Uint8Array.from(nodes) };
}

describe.skipIf(binary === undefined)("comparing", () => {
  beforeAll(async () => {
    browser = await launch();
    server = await start(binary as string, "server");
    for (let m = 1; m < 10; m++) {
      await upload("shop.cpu{version=1}", middle + (m - 10) * minute, version1);
      await upload("shop.cpu{version=2}", middle + m * minute, version2);
      await upload("steady.cpu", middle + (m - 10) * minute, version1);
      await upload("steady.cpu", middle + m * minute, version1);
    }
    await upload("shop.alloc_space{version=1}", middle - minute, memory1);
    await upload("shop.alloc_space{version=2}", middle + minute, memory2);
    await upload("shop.inuse_space{version=1}", middle - minute, memory1);
    await upload("shop.inuse_space{version=2}", middle + minute, memory2);
  }, 120_000);
  afterAll(async () => {
    await browser?.close();
    await server?.stop();
  });

  test("graph, totals and table show what the API answers", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    const answer = decodeDiff(await client().diff({ before, after }));
    const graph = await held(page);
    expect(graph.names).toEqual(Array.from(answer.frame, (f) => answer.frames[f]?.name));
    expect(graph.before).toEqual([...answer.before.total]);
    expect(graph.after).toEqual([...answer.after.total]);
    // 9 profiles of 10 ms a sample: version 1 has no cache, version 2 no legacy.
    const at = (name: string): number => graph.names.indexOf(name);
    expect([graph.before[at("cache")], graph.after[at("cache")]]).toEqual([0, 9 * 90 * 1e7]);
    expect([graph.before[at("legacy")], graph.after[at("legacy")]]).toEqual([9 * 80 * 1e7, 0]);
    expect(graph.widths[0]).toBe((answer.before.total[0] as number) + (answer.after.total[0] as number));

    const write = writerOf(answer, "none", "nanoseconds");
    const totals = (await page.locator(".totals").textContent()) as string;
    expect(totals).toContain(`${write.value("before", answer.before.total[0] as number)} → ${write.value("after", answer.after.total[0] as number)}`);
    await page.getByText("as they are, both sides are 10 min long").waitFor();

    for (const [by, order] of [["self", DiffTopOrder.SELF], ["total", DiffTopOrder.TOTAL]] as const) {
      const r = await client().diffTop({ before, after, order });
      const sides = { before: sideOf(r.before), after: sideOf(r.after) };
      const want = r.functions
        .map((f) => ({ name: f.name, by: by === "self" ? change(sides, Number(f.selfBefore), Number(f.selfAfter)) : change(sides, Number(f.totalBefore), Number(f.totalAfter)), any: f.totalBefore !== f.totalAfter || f.selfBefore !== f.selfAfter }))
        .filter((f) => f.any)
        .map((f) => `${f.name} ${f.by === 0 ? "–" : write.change(f.by)}`);
      await page.getByRole("group", { name: "Change of" }).getByRole("button", { name: by === "self" ? "Self" : "Total" }).click();
      await settled(page);
      const rows = page.locator(".functions tbody tr[aria-rowindex]");
      const got = await rows.evaluateAll((all) => all.map((r) => `${r.querySelector("th button")?.firstChild?.textContent ?? ""} ${r.querySelector("td.value span")?.textContent ?? ""}`));
      expect(got).toEqual(want);
    }
    expect(faults).toEqual([]);
    await page.close();
  });

  test("zoom, search, two graphs, colours: reloaded, the same view", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    await page.getByRole("button", { name: "Two" }).click();
    await page.getByLabel("Colour by").selectOption("absolute");
    await page.locator(".functions tbody th button").first().click();
    await page.locator(".found").waitFor();
    expect(await page.locator(".found").textContent()).toMatch(/^28\.6 % → 49\.0 %, \+27 s \(\+150 %\) in 1 node$/);
    const canvas = page.locator(".flame canvas").first();
    await canvas.focus();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await zoomedBy(page, 1);
    await settled(page);
    await canvas.blur();
    const view = async () => ({
      url: page.url(),
      crumbs: await crumbs(page),
      zoomed: (await page.locator(".flame canvas").count()) === 2 ? [(await held(page, 0)).zoomed, (await held(page, 1)).zoomed] : [],
      found: await page.locator(".found").textContent(),
      legend: await page.locator(".scale").textContent(),
      rows: await page.locator(".functions tbody tr[aria-rowindex]").allTextContents(),
      picture: await picture(page),
    });
    await page.mouse.move(5, 5);
    await settled(page);
    const was = await view();
    expect(was.zoomed).toEqual(["main", "main"]);
    await page.reload();
    await page.locator(".found").waitFor();
    await settled(page);
    await page.mouse.move(6, 6);
    expect(await view()).toEqual(was);
    await page.goBack();
    await zoomedBy(page, 0);
    expect(faults).toEqual([]);
    await page.close();
  });

  test("two graphs zoom together, and a side that lacks the function shows its nearest caller", async () => {
    const { page, faults } = await open(`${shop}&${times}&show=sides&zoom=${encodeURIComponent("main;cache")}`);
    await settled(page);
    expect((await held(page, 0)).zoomed).toBe("main");
    expect((await held(page, 1)).zoomed).toBe("cache");
    await page.getByText("“cache” is not here; this is its nearest caller").waitFor();
    await page.locator(".flame canvas").nth(1).focus();
    await page.keyboard.press("Escape");
    await zoomedBy(page, 1);
    expect([(await held(page, 0)).zoomed, (await held(page, 1)).zoomed]).toEqual(["main", "main"]);
    // What is pointed at in one is outlined in the other.
    await settled(page);
    await page.locator(".flame canvas").first().hover({ position: { x: 20, y: 30 } });
    await page.locator(".hover-card .card-name", { hasText: "main" }).waitFor();
    await page.waitForFunction(() => {
      const c = document.querySelectorAll<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas")[1];
      const v = c?.perfuseView as { pointed: number; scene: { tree: DiffTree } };
      return v.scene.tree.frames[v.scene.tree.frame[v.pointed] as number]?.name === "main";
    });
    expect(faults).toEqual([]);
    await page.close();
  });

  test("the keyboard alone: what changed is said, and what can be done with a call", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    await page.locator(".flame canvas").focus();
    expect(await spoken(page)).toMatch(/^total, before 1\.05 min, after 1\.53 min: \+28\.8 s, \+45\.7 %$/);
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    expect(await spoken(page)).toMatch(/^serve, /);
    await page.keyboard.press("Home");
    expect(await spoken(page)).toMatch(/^cache, before 0 ns, after 8\.10 s: \+8\.10 s, new$/);
    await page.keyboard.press("Shift+F10");
    await page.getByRole("menu").waitFor();
    await page.getByRole("menuitem", { name: "No stacks with it" }).click();
    await page.waitForFunction(() => new URL(location.href).searchParams.get("drop") === "function=cache");
    await settled(page);
    expect((await held(page)).names).not.toContain("cache");
    await page.getByRole("button", { name: "Remove: without cache" }).click();
    await settled(page);
    expect((await held(page)).names).toContain("cache");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("two selectors: the same time is compared, whatever else differs", async () => {
    const all = `from=${iso(middle - 10 * minute)}&to=${iso(middle + 10 * minute)}`;
    const version = (n: number): string => encodeURIComponent(`{service_name="shop", version="${n}"}`);
    const { page, faults } = await open(`q=${version(2)}&q0=${version(1)}&${all}`);
    await settled(page);
    const answer = decodeDiff(
      await client().diff({
        before: side(middle - 10 * minute, middle + 10 * minute, "cpu", '{service_name="shop", version="1"}'),
        after: side(middle - 10 * minute, middle + 10 * minute, "cpu", '{service_name="shop", version="2"}'),
      }),
    );
    expect((await held(page)).before).toEqual([...answer.before.total]);
    expect(await page.getByLabel("When, as to the range after").inputValue()).toBe("the same time");
    // Swapped, what was new is gone.
    await page.getByRole("button", { name: "Swap sides" }).click();
    await settled(page);
    const swapped = await held(page);
    expect(swapped.before).toEqual([...answer.after.total]);
    expect(swapped.after).toEqual([...answer.before.total]);
    await page.getByLabel("When, as to the range after").selectOption("a day before");
    await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
    expect(await page.locator(".state").textContent()).toContain('Before: no samples of this type carry {service_name="shop", version="2"}');
    expect(faults).toEqual([]);
    await page.close();
  });

  test("brushing a chart narrows its side, and what is related to the range after goes along", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    const brush = async (name: string): Promise<void> => {
      const chart = page.getByRole("region", { name, exact: true }).locator(".chart-box svg");
      await chart.focus();
      for (let i = 0; i < 40; i++) await page.keyboard.press("Shift+ArrowLeft");
      await page.keyboard.press("Enter");
    };
    const at = (key: string): Promise<number> => page.evaluate((k) => Date.parse(new URL(location.href).searchParams.get(k) ?? ""), key);
    const parameter = (key: string): Promise<unknown> => page.waitForFunction((k) => new URL(location.href).searchParams.has(k), key);
    await brush("After");
    await page.waitForFunction((from) => new URL(location.href).searchParams.get("from") !== from, iso(middle));
    await settled(page);
    // Right before is nothing that the URL must say.
    expect(new URL(page.url()).searchParams.has("from0")).toBe(false);
    const length = (await at("to")) - (await at("from"));
    expect(length).toBeLessThan(5 * minute);
    const shown = await held(page);
    const narrow = decodeDiff(await client().diff({ before: side((await at("from")) - length, await at("from")), after: side(await at("from"), await at("to")) }));
    expect([shown.before, shown.after]).toEqual([[...narrow.before.total], [...narrow.after.total]]);
    await brush("Before");
    await parameter("from0");
    expect(await at("to0")).toBe(await at("from"));
    expect((await at("to0")) - (await at("from0"))).toBeLessThan(length);
    expect(await page.getByLabel("When, as to the range after").inputValue()).toBe("");
    await page.getByLabel("When, as to the range after").selectOption("a day before");
    await page.waitForFunction((d) => {
      const p = new URL(location.href).searchParams;
      return Date.parse(p.get("from") ?? "") - Date.parse(p.get("from0") ?? "") === d;
    }, 1440 * minute);
    const from = await at("from");
    await page.getByRole("region", { name: "After", exact: true }).locator(".chart-box svg").dblclick({ position: { x: 300, y: 60 } });
    await page.waitForFunction((from) => Date.parse(new URL(location.href).searchParams.get("from") ?? "") !== from, from);
    expect((await at("from")) - (await at("from0"))).toBe(1440 * minute);
    expect(faults).toEqual([]);
    await page.close();
  });

  test("sides of different lengths are compared per second, and by shares when asked", async () => {
    const { page, faults } = await open(`${shop}&${times}&from0=${iso(middle - 5 * minute)}&to0=${iso(middle)}`);
    await settled(page);
    await page.getByText("per second, before is 5 min long, after 10 min").waitFor();
    const half = side(middle - 5 * minute, middle);
    const perSecond = decodeDiff(await client().diff({ before: half, after, scale: DiffScale.TIME }));
    expect((await held(page)).widths[0]).toBe(perSecond.total[0]);
    await page.getByLabel("What is compared").selectOption("total");
    await page.getByText("as shares of each side’s total").waitFor();
    await settled(page);
    expect((await held(page)).widths[0]).toBeCloseTo(2, 12);
    expect(await page.locator(".totals").textContent()).toBe("100 % → 100 %, the same");
    expect(faults).toEqual([]);
    await page.close();
  });

  test("memory: allocators count for their callers until they are asked for; levels are means", async () => {
    const { page, faults } = await open(`type=alloc_space&${shop}&${times}`);
    await settled(page);
    const first = page.locator(".functions tbody tr[aria-rowindex] th button").first();
    expect(await first.textContent()).toMatch(/^fill/);
    await page.getByRole("button", { name: "Allocators" }).click();
    await settled(page);
    expect(await first.textContent()).toMatch(/^runtime\.mallocgc/);
    await page.getByLabel("Profile type").selectOption({ label: "Memory in use · bytes" });
    await page.getByText("as they are, means over each range").waitFor();
    expect(await page.getByLabel("What is compared").locator("option[value=time]").isDisabled()).toBe(true);
    expect(faults).toEqual([]);
    await page.close();
  });

  test("a selector that the server refuses: which side, which column, and out again", async () => {
    const { page } = await open(`${shop}&${times}&q0=${encodeURIComponent("{service_name=5}")}`);
    await page.getByRole("heading", { name: "The server does not understand the side before" }).waitFor();
    const lines = ((await page.getByRole("alert").locator("pre").textContent()) as string).split("\n");
    expect(lines[0]).toMatch(/^before: .*column 15/);
    expect((lines[2] as string).indexOf("^") - (lines[1] as string).indexOf("{")).toBe(14);
    const field = (name: string) => page.getByRole("region", { name, exact: true }).getByRole("combobox", { name: "Selector" });
    expect(await field("Before").getAttribute("aria-invalid")).toBe("true");
    expect(await field("After").getAttribute("aria-invalid")).toBe("false");
    await page.getByRole("button", { name: "Without the selector before" }).click();
    await settled(page);
    expect(new URL(page.url()).searchParams.get("q0")).toBe("{}");
    await page.close();
  });

  test("nothing changed, nothing to compare, one side for both: each is said", async () => {
    const { page } = await open(`q=${encodeURIComponent('{service_name="steady"}')}&${times}`);
    await settled(page);
    expect(await page.locator(".totals").textContent()).toMatch(/: nothing changed$/);
    await page.getByText("Nothing changed.").waitFor();
    await page.getByLabel("When, as to the range after").selectOption("the same time");
    await page.getByRole("heading", { name: "Both sides are the same" }).waitFor();
    await page.getByRole("button", { name: "Before: right before" }).click();
    await settled(page);
    await page.goto(`${server.url}/compare?${shop}&from=now-2s&to=now`);
    await page.getByText("Before: no samples").waitFor();
    await page.getByText("After: no samples").waitFor();
    await page.goto(`${server.url}/compare?from0=yesterday`);
    await page.getByRole("heading", { name: "The time range before cannot be read" }).waitFor();
    await page.close();
  });

  test("the server dies: what it said last stays, and the page goes on by itself", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    const totals = await page.locator(".totals").textContent();
    await server.kill();
    await page.getByRole("button", { name: "Refresh" }).click();
    await page.getByLabel("What is compared").selectOption("total");
    await page.getByRole("alert").getByText("does not answer").first().waitFor();
    expect(await page.locator(".totals").textContent()).toBe(totals);
    await page.locator('.flame-body[data-stale="failed"] canvas').waitFor();
    await server.restart();
    await page.getByText("as shares of each side’s total").waitFor();
    await page.waitForFunction(() => document.querySelector(".totals")?.textContent === "100 % → 100 %, the same", undefined, { timeout: 20_000 });
    expect(faults).toEqual([]);
    await page.close();
  });

  test("a difference of 100 000 nodes: (small) opens in its place", async () => {
    const { page, faults } = await open("about:blank");
    // Two profiles with most stacks in common, whose values differ; the last node is one that was cut.
    const stacks = huge(100_000).stacks;
    const folded = (of: (w: number, i: number) => number): string => stacks.map(({ stack, weight }, i) => `${stack} ${of(Math.ceil(weight * 1e6), i)}`).join("\n");
    const [was, is] = [folded((w, i) => (i % 9 === 0 ? 0 : w)), folded((w, i) => (i % 11 === 0 ? 0 : Math.ceil(w * (1 + (i % 3)))))].map((text) => decodeTree(foldedTree(`${text}\n(small) 10000000`)));
    const big = diffTrees(was as FlameTree, is as FlameTree);
    expect(big.count).toBeGreaterThan(90_000);
    const { input, output } = QueryService.method.diff;
    const half = { scale: 1, stackCount: 9n, seriesCount: 1n, total: 1n, unfilteredTotal: 1n };
    let asked = 0;
    await page.route("**/Diff", async (r) => {
      const question = fromBinary(input, r.request().postDataBuffer() as Buffer);
      asked++;
      const first = asked === 1;
      expect(question.minShare > 0).toBe(!first);
      const body = first
        ? written(big)
        : { strings: ["", "opened"], frames: [{ kind: FrameKind.ROOT }, { name: 1 }], nodes: Uint8Array.from([1, 0, 0, 0, 0, 1, 7, 9]) };
      await r.fulfill({ contentType: "application/proto", body: Buffer.from(toBinary(output, create(output, { unit: "nanoseconds", before: half, after: half, ...body }))) });
    });
    await page.goto(`${server.url}/compare?${shop}&${times}&view=graph`);
    await settled(page);
    await page.evaluate(() => {
      const c = document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas");
      const v = c?.perfuseView as { choose(n: number): void; scene: { tree: FlameTree } };
      const t = v.scene.tree;
      v.choose(t.frame.findIndex((f) => t.frames[f]?.name === "(small)"));
    });
    // It lay below the root, whose whole subtree is then looked at more finely.
    await page.waitForFunction(() => {
      const c = document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas");
      const t = (c?.perfuseView as { scene: { tree: FlameTree } }).scene.tree;
      return t.count === 2 && t.frames[t.frame[1] as number]?.name === "opened";
    });
    expect(asked).toBe(2);
    expect(faults).toEqual([]);
    await page.close();
  });

  test("light and dark differ, and 390 pixels cut nothing off", async () => {
    const pictures: string[] = [];
    for (const colorScheme of ["light", "dark"] as const) {
      const { page, faults } = await open(`${shop}&${times}`, { width: 390, height: 844, colorScheme });
      await settled(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)).toBe(0);
      pictures.push(await picture(page));
      await page.getByRole("region", { name: "Before", exact: true }).getByRole("button", { name: /^Time range/ }).click();
      const popup = await page.getByRole("dialog").boundingBox();
      expect(popup?.x).toBeGreaterThanOrEqual(0);
      expect((popup?.x ?? 0) + (popup?.width ?? 999)).toBeLessThanOrEqual(390);
      await page.locator(".functions tbody tr").first().waitFor();
      expect(faults).toEqual([]);
      await page.close();
    }
    expect(pictures[0]).not.toBe(pictures[1]);
  });

  test("axe finds nothing serious", async () => {
    const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    const nothing = encodeURIComponent('{service_name="none"}');
    for (const colorScheme of ["light", "dark"] as const) {
      for (const query of [`${shop}&${times}`, `${shop}&${times}&show=sides&colour=absolute&search=json`, `${shop}&${times}&view=table&drop=sql`, `${shop}&${times}&q0=${nothing}`]) {
        const { page } = await open(query, { colorScheme });
        if (query.endsWith(nothing)) await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
        else if (query.includes("view=table")) await page.locator(".functions tbody tr[aria-rowindex]").first().waitFor();
        else await settled(page);
        await page.evaluate(axe);
        const found = await page.evaluate(async () => {
          const { violations } = await (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run();
          return violations.map((x) => ({ impact: x.impact, rule: x.id, at: x.nodes.map((n) => `${n.html.slice(0, 160)} ${n.failureSummary ?? ""}`) }));
        });
        expect(found.filter((x) => x.impact === "serious" || x.impact === "critical")).toEqual([]);
        await page.close();
      }
    }
  }, 120_000);

  test("the menu comes by the other button and by a finger that rests", async () => {
    const { page, faults } = await open(`${shop}&${times}`);
    await settled(page);
    const canvas = page.locator(".flame canvas");
    await canvas.click({ button: "right", position: { x: 300, y: 30 } });
    await page.getByRole("menu", { name: "What can be done with main" }).waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("menu").waitFor({ state: "detached" });
    await page.close();

    const context = await browser.newContext({ viewport: { width: 390, height: 844 }, hasTouch: true });
    const phone = await context.newPage();
    await phone.goto(`${server.url}/compare?${shop}&${times}&view=graph`);
    await settled(phone);
    await phone.locator(".flame canvas").scrollIntoViewIfNeeded();
    const box = await phone.locator(".flame canvas").boundingBox();
    if (box === null) throw new Error("no graph");
    const finger = await context.newCDPSession(phone);
    await finger.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: [{ x: box.x + 150, y: box.y + 30 }] });
    await phone.getByRole("menu", { name: "What can be done with main" }).waitFor();
    await finger.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    // The press is no click: nothing zooms, and the menu stays to be used.
    await phone.getByRole("menuitem", { name: "Zoom in" }).tap();
    await zoomedBy(phone, 1);
    expect(faults).toEqual([]);
    await context.close();
  });

  test("the difference can be saved as a drawing", async () => {
    const { page } = await open(`${shop}&${times}`);
    await settled(page);
    const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "SVG" }).click()]);
    expect(file.suggestedFilename()).toMatch(/^diff-shop-.*\.svg$/);
    const svg = await readFile(await file.path(), "utf8");
    expect(svg).toContain("before 0 ns, after 8.10 s: +8.10 s, new");
    for (const name of ["gone", "half", "twice", "new"]) expect(svg).toContain(`>${name}</text>`);
    await page.close();
  });

  test("from Explore to Compare and back the selection goes along", async () => {
    const page = await browser.newPage();
    await page.goto(`${server.url}/?${shop}&${times}`);
    await settled(page);
    await page.getByRole("link", { name: "Compare" }).click();
    await page.getByRole("region", { name: "What changed" }).waitFor();
    await settled(page);
    expect((await held(page)).names).toContain("cache");
    await page.getByRole("link", { name: "Explore" }).click();
    await page.getByRole("region", { name: "Flame graph" }).waitFor();
    expect(new URL(page.url()).searchParams.get("q")).toBe('{service_name="shop"}');
    await page.goBack();
    await page.getByRole("region", { name: "What changed" }).waitFor();
    await page.close();
  });
});
