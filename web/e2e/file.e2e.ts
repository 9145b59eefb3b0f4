import { afterAll, beforeAll, expect, inject, test } from "vitest";
import type { Browser, Page } from "playwright-core";
import type { AxeResults } from "axe-core";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { gunzipSync, gzipSync } from "node:zlib";
import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { QueryService, TopOrder } from "../src/api/gen/perfuse/query/v1/query_pb";
import { writePprof } from "../src/lib/pprof";
import { SampleTable, samplesType } from "../src/lib/stacks";
import { FrameKind } from "../src/lib/tree";
import { formatValue } from "../src/lib/units";
import { launch, picture, settled, watch } from "./browser";

// Files that the browser reads by itself: what it says of them is what a server and package profile say, and nobody is
// asked anything.
const { url, real } = inject("server");
let browser: Browser;

beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

const profile = (name: string): Buffer => readFileSync(new URL(`../../profile/testdata/pprof/${name}.pb.gz`, import.meta.url));
const cpu = { name: "cpu.pb.gz", mimeType: "application/octet-stream", buffer: profile("cpu") };
const heap = { name: "heap.pb.gz", mimeType: "application/octet-stream", buffer: profile("heap") };
const textFile = (name: string, text: string) => ({ name, mimeType: "text/plain", buffer: Buffer.from(text) });

interface Opened {
  readonly page: Page;
  readonly faults: string[];
  // What the page asked of the network since it was loaded.
  readonly asked: string[];
}

async function visit(query = "", options: { width?: number; colorScheme?: "light" | "dark" } = {}): Promise<Opened> {
  const page = await browser.newPage({ viewport: { width: options.width ?? 1280, height: 800 }, colorScheme: options.colorScheme ?? "light" });
  const faults = watch(page);
  const worker = page.waitForEvent("worker");
  await page.goto(`${url}/file${query}`, { waitUntil: "networkidle" });
  await worker;
  const asked: string[] = [];
  page.on("request", (r) => {
    // A download's own address is the page's memory; the icon is asked for anew by the browser whenever the address changes.
    if (!r.url().startsWith("blob:") && r.url() !== `${url}/icon.svg`) asked.push(r.url());
  });
  return { page, faults, asked };
}

async function choose(page: Page, file: { name: string; mimeType: string; buffer: Buffer }): Promise<void> {
  await page.getByLabel("Profile file").setInputFiles(file);
}

async function open(file: { name: string; mimeType: string; buffer: Buffer }, query = "", options: Parameters<typeof visit>[1] = {}): Promise<Opened> {
  const opened = await visit(query, options);
  await choose(opened.page, file);
  await settled(opened.page);
  return opened;
}

async function rows(page: Page): Promise<readonly (readonly string[])[]> {
  await page.waitForFunction(() => document.querySelector('[data-stale="asked"]') === null);
  return page
    .locator(".functions tbody tr[aria-rowindex]")
    .evaluateAll((all) => all.map((tr) => [tr.querySelector("th button")?.getAttribute("title")?.split("\n")[0] ?? "", ...[...tr.querySelectorAll("td span")].map((td) => td.textContent ?? "")]));
}

const shownValue = (v: number, unit: string): string => (v === 0 ? "–" : formatValue(v, unit));

// The first rows that package profile has for a type, from its transcript.
function transcript(name: string, type: string): { folded: string; rows: string[][] } {
  const text = readFileSync(new URL(`../src/lib/testdata/${name}.txt`, import.meta.url), "utf8");
  const section = text.split(`== ${type}: everything \n`)[1]?.split("\n== ")[0] ?? "";
  const unit = type.split(":")[2] ?? "";
  const table = section.split("\nwithout allocators: ")[1]?.split("\n").slice(1, 5) ?? [];
  return {
    folded: /folded ([0-9a-f]{16})/.exec(section)?.[1] ?? "",
    rows: table.map((line) => {
      const m = /^ (\S+) .* (\d+) (\d+)$/.exec(line);
      if (m === null) throw new Error(`reading ${line}`);
      return [m[1] as string, shownValue(Number(m[2]), unit), shownValue(Number(m[3]), unit)];
    }),
  };
}

test("a heap profile: its table is package profile's, every view of it asks nobody, and its downloads are what it says", async () => {
  const { page, faults, asked } = await open(heap);
  await page.getByText(/^pprof, 16\.7 KiB$/).waitFor();
  const type = "memory:alloc_space:bytes:space:bytes";
  await page.getByLabel("Profile type").selectOption(type);
  await settled(page);
  const want = transcript("heap", type);
  expect((await rows(page)).slice(0, 4)).toEqual(want.rows);

  // Around: a search, a filter, what surrounds a function, its source lines, another colour, the graph alone.
  await page.getByLabel("Search functions").fill("runtime");
  await page.locator(".found").waitFor();
  await page.getByLabel("Search functions").fill("");
  await page.locator(".functions tbody tr[aria-rowindex]").first().click({ button: "right" });
  await page.getByRole("menuitem", { name: /^Callers and callees/ }).click();
  await page.waitForFunction(() => new URL(location.href).searchParams.get("sandwich") !== null);
  await page.goBack();
  await settled(page);
  await page.locator(".functions tbody tr[aria-rowindex]").first().click({ button: "right" });
  await page.getByRole("menuitem", { name: /^Source/ }).click();
  await page.waitForFunction(() => new URL(location.href).searchParams.get("source") !== null);
  await page.getByText(/a profile has no source text/).first().waitFor();
  await page.goBack();
  await settled(page);

  const downloads = { folded: "", pprof: "", SVG: "", speedscope: "" };
  for (const name of ["pprof", "folded", "SVG", "speedscope"] as const) {
    const saved = page.waitForEvent("download");
    await page.getByRole("button", { name: /^Download/ }).click();
    await page.getByRole("menuitem", { name: new RegExp(name, "i") }).first().click();
    downloads[name] = await (await saved).path();
  }
  expect(await readFile(downloads.pprof)).toEqual(heap.buffer);
  expect(createHash("sha256").update(await readFile(downloads.folded)).digest("hex").slice(0, 16)).toBe(want.folded);
  expect(await readFile(downloads.SVG, "utf8")).toMatch(/^<svg [^]*<\/svg>\n$/);
  expect(JSON.parse(await readFile(downloads.speedscope, "utf8")).profiles[0].unit).toBe("bytes");

  expect(asked).toEqual([]);
  expect(faults).toEqual([]);
  await page.close();
});

test("a reload asks for the file again, and then shows the same view", async () => {
  const { page, faults } = await open(cpu);
  await page.locator(".flame canvas").focus();
  for (const key of ["ArrowDown", "ArrowDown", "Enter"]) await page.keyboard.press(key);
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 3);
  await page.getByLabel("Search functions").fill("ssa");
  await settled(page);
  const seen = { url: page.url(), crumbs: await page.locator(".crumbs button").allTextContents(), found: await page.locator(".found").textContent(), rows: await rows(page) };
  await page.getByLabel("Search functions").blur();
  const drawn = await picture(page);
  await page.reload();
  await page.getByRole("heading", { name: "Choose the file again" }).waitFor();
  await choose(page, cpu);
  await settled(page);
  expect({ url: page.url(), crumbs: await page.locator(".crumbs button").allTextContents(), found: await page.locator(".found").textContent(), rows: await rows(page) }).toEqual(seen);
  expect(await picture(page)).toBe(drawn);

  // Another page and back: the file is still open.
  await page.getByRole("link", { name: "Explore" }).click();
  await page.waitForFunction(() => location.pathname === "/");
  await page.goBack();
  await settled(page);
  expect(await picture(page)).toBe(drawn);
  expect(faults).toEqual([]);
  await page.close();
});

test("the keyboard alone: choose, go through the graph, search", async () => {
  const { page, faults } = await visit();
  // From the beginning: the browser takes a moment to leave the dialog to the test.
  const chooser = page.waitForEvent("filechooser");
  const button = page.getByRole("button", { name: "Choose a file" });
  for (let i = 0; i < 12 && !(await button.evaluate((b) => b === document.activeElement)); i++) await page.keyboard.press("Tab");
  expect(await button.evaluate((b) => b === document.activeElement)).toBe(true);
  await page.keyboard.press("Enter");
  await (await chooser).setFiles(cpu);
  await settled(page);
  await page.keyboard.press("/");
  await page.keyboard.type("mallocgc");
  await page.locator(".found").waitFor();
  expect(faults).toEqual([]);
  await page.close();
});

// hand gives the page data as a drop or a paste does.
async function hand(page: Page, how: "drop" | "paste", data: { name?: string; text: string }): Promise<void> {
  await page.evaluate(
    ({ how, data }) => {
      const transfer = new DataTransfer();
      if (data.name !== undefined) transfer.items.add(new File([data.text], data.name));
      else transfer.setData("text/plain", data.text);
      const target = document.querySelector("h2") ?? document.body;
      if (how === "paste") target.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
      else for (const kind of ["dragover", "drop"]) target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    },
    { how, data },
  );
}

test("what is dropped or pasted is opened", async () => {
  const { page, faults, asked } = await visit();
  await hand(page, "drop", { name: "stacks.folded", text: "main;work 60\nmain;read_[k] 40\n" });
  await settled(page);
  expect(await rows(page)).toEqual([["work", "60", "60"], ["read", "40", "40"], ["main", "–", "100"]]);
  await hand(page, "paste", { text: "a;b 7\n" });
  await page.getByRole("button", { name: /^pasted text/ }).waitFor();
  await settled(page);
  expect(await rows(page)).toEqual([["b", "7", "7"], ["a", "–", "7"]]);
  await hand(page, "drop", {
    name: "x.json",
    text: '{"$schema":"https://www.speedscope.app/file-format-schema.json","shared":{"frames":[{"name":"f"}]},"profiles":[{"type":"evented","unit":"milliseconds","startValue":0,"endValue":5,"events":[{"type":"O","frame":0,"at":0},{"type":"C","frame":0,"at":5}]}]}',
  });
  await page.getByText(/^speedscope/).waitFor();
  await settled(page);
  expect(await rows(page)).toEqual([["f", "5 ms", "5 ms"]]);
  expect(asked).toEqual([]);
  expect(faults).toEqual([]);
  await page.close();
});

test("what cannot be opened says why, and the next file opens", async () => {
  const { page, faults } = await visit();
  const refused = async (file: Parameters<typeof choose>[1], want: RegExp): Promise<void> => {
    await choose(page, file);
    await page.getByRole("heading", { name: `${file.name} cannot be opened` }).waitFor();
    expect(await page.getByRole("alert").textContent()).toMatch(want);
  };
  await refused({ ...cpu, name: "half.pb.gz", buffer: cpu.buffer.subarray(0, 5000) }, /cut off.*Copy or download it again/);
  await refused({ ...cpu, name: "half.pb", buffer: gunzipSync(cpu.buffer).subarray(0, 20_000) }, /cut off or damaged/);
  const noise = Buffer.from(cpu.buffer);
  noise.fill(0x55, 4000, 4400);
  await refused({ ...cpu, name: "noise.pb.gz", buffer: noise }, /damaged or cut off/);
  await refused(textFile("empty.txt", ""), /It is empty/);
  await refused(textFile("signin.html", "<!doctype html><p>Sign in"), /signing in/);
  await refused(textFile("notes.txt", "main;a 1\nhello\n"), /line 2: want "a;b;c VALUE"/);
  await refused(textFile("other.json", "[1]"), /not speedscope's/);
  // More than 512 MiB when it is unpacked, in half a megabyte.
  await refused({ ...cpu, name: "bomb.pb.gz", buffer: gzipSync(Buffer.alloc(513 * 2 ** 20)) }, /larger than 512 MiB unpacked/);
  await choose(page, cpu);
  await settled(page);
  expect(faults).toEqual([]);
  await page.close();
}, 180_000);

test("only samples with a label, another type, a condition that is none", async () => {
  const table = new SampleTable([samplesType, { ...samplesType, id: "process_cpu:cpu:nanoseconds:cpu:nanoseconds", sampleType: "cpu", sampleUnit: "nanoseconds" }]);
  const at = (name: string): number => table.location([table.frame({ name, file: "a.go", mapping: "/bin/app", kind: FrameKind.NATIVE, inlined: false, startLine: 1 })], [3]);
  const [main, cart, pay] = [at("main"), at("cart"), at("pay")];
  table.sample(table.stack([main, cart], 2), table.labels([{ name: "endpoint", value: "GET /cart" }]), [3, 30e6]);
  table.sample(table.stack([main, pay], 2), table.labels([{ name: "endpoint", value: "POST /pay" }]), [5, 50e6]);
  table.sample(table.stack([main], 1), table.labels([]), [2, 20e6]);
  const data = writePprof(table.done({ timeMillis: Date.UTC(2026, 0, 2, 3, 4, 5), durationNanos: 1e10, period: 1e7, comments: [], defaultType: -1 }), () => true);
  const { page, faults, asked } = await open({ name: "shop.pprof", mimeType: "application/octet-stream", buffer: Buffer.from(data) });
  expect(await rows(page)).toEqual([["pay", "50 ms", "50 ms"], ["cart", "30 ms", "30 ms"], ["main", "20 ms", "100 ms"]]);
  await page.getByText("over 10 s").waitFor();
  await page.getByText("one for each 10 ms of cpu").waitFor();
  await page.getByLabel("Only samples with the label").selectOption("endpoint=GET /cart");
  await page.waitForFunction(() => new URL(location.href).searchParams.get("label") === "endpoint=GET /cart");
  await settled(page);
  expect(await rows(page)).toEqual([["cart", "30 ms", "30 ms"], ["main", "–", "30 ms"]]);
  await page.getByLabel("Profile type").selectOption(samplesType.id);
  await settled(page);
  expect(await rows(page)).toEqual([["cart", "3", "3"], ["main", "–", "3"]]);
  await page.goto(`${url}/file?label=endpoint%3DGET+%2Fgone&keep=function%3D~(`);
  await choose(page, { name: "shop.pprof", mimeType: "application/octet-stream", buffer: Buffer.from(data) });
  await page.getByText("No sample of this file has the label endpoint=GET /gone").waitFor();
  await page.getByText(/parsing the regular expression for the function/).first().waitFor();
  expect(asked.filter((a) => !a.startsWith(`${url}/file`) && !a.startsWith(`${url}/assets/`))).toEqual([]);
  expect(faults).toEqual([]);
  await page.close();
});

test("a server that is sent the same file says the same", async (t) => {
  if (!real) return t.skip("the fixture stores nothing");
  const client = createClient(QueryService, createConnectTransport({ baseUrl: url, useBinaryFormat: true }));
  const service = `file-e2e-${Date.now()}`;
  const end = Math.floor(Date.now() / 1000);
  const form = new FormData();
  form.append("profile", new Blob([Uint8Array.from(heap.buffer)]), "profile.pprof");
  const sent = await fetch(`${url}/ingest?${new URLSearchParams({ name: service, from: String(end - 10), until: String(end), format: "pprof" })}`, { method: "POST", body: form });
  expect(`${sent.status} ${await sent.text()}`).toMatch(/^200/);

  const { page } = await open(heap);
  for (const type of ["memory:alloc_space:bytes:space:bytes", "memory:inuse_objects:count:space:bytes"]) {
    const selection = { profileType: type, selector: `{service_name="${service}"}`, startUnixNano: 0n, endUnixNano: BigInt(Date.now() + 60_000) * 1_000_000n };
    const answer = await client.top({ selection, order: TopOrder.SELF, limit: 1000, foldAllocators: true });
    expect(answer.functions.length).toBeGreaterThan(20);
    const unit = type.split(":")[2] ?? "";
    await page.getByLabel("Profile type").selectOption(type);
    await settled(page);
    const shown = await rows(page);
    expect(shown.length).toBeGreaterThan(5);
    expect(shown).toEqual(answer.functions.slice(0, shown.length).map((f) => [f.name, shownValue(Number(f.self), unit), shownValue(Number(f.total), unit)]));
    const graph = await client.flameGraph({ selection });
    expect((await page.locator(".totals").textContent())?.replace(/\s+/g, " ")).toContain(formatValue(Number(graph.total), unit));
    expect(((await page.locator(".totals").textContent()) ?? "").replace(/\D+/g, " ")).toContain(` ${graph.stackCount}`);
  }
  await page.close();
});

test("100 000 nodes", async () => {
  // As a large service has them: 40 frames deep, names of some length.
  let seed = 5;
  const next = (n: number): number => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return (seed >>> 8) % n;
  };
  const lines: string[] = [];
  for (let nodes = 0; nodes < 100_000; nodes += 34) {
    lines.push(`${Array.from({ length: 40 }, (_, d) => `example.com/shop/service/package${next(d < 6 ? 2 : 9)}.(*Type).method${next(d < 6 ? 2 : 300)}`).join(";")} ${1 + next(1000)}`);
  }
  const file = textFile("large.folded", lines.join("\n"));
  const { page, faults } = await visit();
  // From the choice, as the page sees it: until then the browser takes the file from this process.
  await page.evaluate(() => addEventListener("change", () => performance.mark("chosen"), { capture: true, once: true }));
  await choose(page, file);
  await settled(page);
  const millis = await page.evaluate(() => performance.now() - (performance.getEntriesByName("chosen")[0]?.startTime ?? NaN));
  console.log(`folded text of ${(file.buffer.length / 2 ** 20).toFixed(1)} MiB and 100 000 nodes: ${millis.toFixed(0)} ms from the choice until the graph rests`);
  expect(millis).toBeGreaterThan(0);
  await page.locator(".totals").waitFor();
  expect(faults).toEqual([]);
  await page.close();
});

// Nothing that axe calls serious or critical.
async function accessible(page: Page): Promise<void> {
  await page.evaluate(await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8"));
  const found = await page.evaluate(async () => {
    const { violations } = await (globalThis as unknown as { axe: { run(): Promise<AxeResults> } }).axe.run();
    return violations.filter((x) => x.impact === "serious" || x.impact === "critical").map((x) => `${x.id} ${x.nodes.map((n) => n.html.slice(0, 160)).join()}`);
  });
  expect(found).toEqual([]);
}

async function screenshot(page: Page, name: string): Promise<void> {
  const folder = process.env["SCREENSHOTS"];
  if (folder !== undefined) await page.screenshot({ path: `${folder}/${name}.png` });
}

test("light and dark, wide and narrow: everything is in sight and nothing overflows", async () => {
  for (const [width, colorScheme] of [[1280, "light"], [1280, "dark"], [390, "light"]] as const) {
    const { page, faults } = await visit("", { width, colorScheme });
    await screenshot(page, `file-start-${width}-${colorScheme}`);
    await accessible(page);
    const fits = (): Promise<boolean> => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
    expect(await fits()).toBe(true);
    await choose(page, { ...cpu, name: "a-rather-long-name-of-a-profile-from-some-machine-2026-11-23T14.05.pb.gz" });
    await settled(page);
    await screenshot(page, `file-open-${width}-${colorScheme}`);
    await accessible(page);
    expect(await fits()).toBe(true);
    await choose(page, { ...cpu, buffer: cpu.buffer.subarray(0, 5000) });
    await page.getByRole("alert").waitFor();
    await screenshot(page, `file-failed-${width}-${colorScheme}`);
    await accessible(page);
    expect(faults).toEqual([]);
    await page.close();
  }
}, 180_000);
