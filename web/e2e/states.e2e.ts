import { fromBinary } from "@bufbuild/protobuf";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Browser } from "playwright-core";
import { QueryService } from "../src/api/gen/perfuse/query/v1/query_pb";
import { fixture, launch, settled, watch } from "./browser";
import { binary, start } from "./instance";

// States that a healthy server with data cannot show; the fixture can.
let browser: Browser;
beforeAll(async () => {
  browser = await launch();
});
afterAll(() => browser.close());

test("the server dies: the graph stays, the page says so, and goes on by itself when the server is back", async () => {
  const server = await fixture();
  const page = await browser.newPage();
  const faults = watch(page);
  await page.goto(`${server.url}/?from=now-5m`);
  await settled(page);
  const totals = await page.locator(".totals").textContent();
  await server.stop();
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.getByRole("alert").getByText("does not answer").first().waitFor();
  expect(await page.locator(".totals").textContent()).toBe(totals);
  await page.locator('.flame-body[data-stale="failed"] canvas').waitFor();
  const again = await fixture({ port: server.port });
  await page.getByRole("alert").first().waitFor({ state: "detached", timeout: 20_000 });
  await settled(page);
  expect(faults).toEqual([]);
  await again.stop();
  await page.close();
});

test("the server is away from the start: said instead of a skeleton for ever", async () => {
  const server = await fixture();
  const page = await browser.newPage();
  await page.route("**/perfuse.query.v1.QueryService/**", (r) => r.abort("connectionrefused"));
  await page.goto(server.url);
  await page.getByRole("heading", { name: "The server does not answer" }).waitFor();
  await page.unroute("**/perfuse.query.v1.QueryService/**");
  await page.getByRole("button", { name: "Try again" }).click();
  await settled(page);
  await server.stop();
  await page.close();
});

test("no data yet: says what to do", async () => {
  const server = await fixture({ empty: true });
  const page = await browser.newPage();
  await page.goto(server.url);
  await page.getByRole("heading", { name: "No samples yet" }).waitFor();
  expect(await page.locator(".state").textContent()).toContain("perfuse up");
  await server.stop();
  await page.close();
});

test("a slow server: a skeleton first, the old graph dimmed after that", async () => {
  const server = await fixture({ delay: 700 });
  const page = await browser.newPage();
  await page.goto(server.url);
  await page.getByRole("status", { name: "Loading the flame graph" }).waitFor();
  await settled(page);
  await page.getByRole("button", { name: "Refresh" }).click();
  await page.locator('.flame-body[data-stale="asked"] canvas').waitFor();
  await settled(page);
  await server.stop();
  await page.close();
});

test("live: asks again with a later end, and keeps the reader's zoom", async () => {
  const server = await fixture();
  const page = await browser.newPage();
  await page.clock.install();
  await page.goto(`${server.url}/?from=now-5m&live=1`);
  await settled(page);
  await page.locator(".flame canvas").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelectorAll(".crumbs li").length === 2);
  const zoomed = await page.locator(".crumbs button").allTextContents();
  const ends: bigint[] = [];
  page.on("request", (r) => {
    const body = r.url().endsWith("/FlameGraph") ? r.postDataBuffer() : null;
    if (body !== null) ends.push(fromBinary(QueryService.method.flameGraph.input, body).selection?.endUnixNano ?? 0n);
  });
  for (let i = 0; i < 3; i++) {
    await page.clock.runFor(5000);
    await settled(page);
  }
  expect(ends.length).toBeGreaterThanOrEqual(3);
  ends.forEach((e, i) => {
    if (i > 0) expect(e).toBeGreaterThan(ends[i - 1] as bigint);
  });
  expect(await page.locator(".crumbs button").allTextContents()).toEqual(zoomed);
  // Off again: nothing more is asked.
  await page.getByRole("button", { name: "Live" }).click();
  await settled(page);
  const asked = ends.length;
  await page.clock.runFor(30_000);
  expect(ends.length).toBe(asked);
  await server.stop();
  await page.close();
});

test("expanding (small) asks for what was folded and keeps the sum", async () => {
  const server = await fixture();
  const page = await browser.newPage();
  await page.goto(`${server.url}/?from=now-5m`);
  await settled(page);
  type Scene = { scene: { tree: { count: number; parent: Int32Array; total: Float64Array; frame: Uint32Array; frames: { kind: number }[] } } };
  const look = (): Promise<{ count: number; total: number; small: number }> =>
    page.evaluate(() => {
      const c = document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas");
      const t = (c?.perfuseView as Scene).scene.tree;
      let small = -1;
      for (let i = 0; i < t.count; i++) {
        if (t.frames[t.frame[i] as number]?.kind === 5 && (small < 0 || (t.total[i] as number) > (t.total[small] as number))) small = i;
      }
      return { count: t.count, total: t.total[0] as number, small };
    });
  const before = await look();
  expect(before.small).toBeGreaterThan(0);
  const asked = page.waitForResponse((r) => r.url().endsWith("/FlameGraph"));
  await page.evaluate((n) => {
    const c = document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas");
    (c?.perfuseView as { choose(n: number): void }).choose(n);
  }, before.small);
  await asked;
  await page.waitForFunction(
    (n) => (document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas")?.perfuseView as Scene).scene.tree.count > n,
    before.count,
  );
  const after = await look();
  expect(after.total).toBe(before.total);
  await server.stop();
  await page.close();
});

test.skipIf(binary === undefined)("a real server: empty at first, killed, started again", async () => {
  const server = await start(binary as string, "server");
  const page = await browser.newPage();
  const faults = watch(page);
  await page.goto(server.url);
  await page.getByRole("heading", { name: "No samples yet" }).waitFor();
  await server.kill();
  await page.getByRole("button", { name: "Look again" }).click();
  await page.getByRole("alert").getByText("does not answer").first().waitFor();
  await server.restart();
  await page.getByRole("alert").first().waitFor({ state: "detached", timeout: 20_000 });
  await page.getByRole("heading", { name: "No samples yet" }).waitFor();
  expect(faults).toEqual([]);
  await server.stop();
  await page.close();
});
