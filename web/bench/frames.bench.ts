// How long frames take on a graph of 100 000 nodes, in the system's Chromium without a graphics card: what painting costs
// the page, and how many frames the browser then shows. Run by ./task bench:web.

import { expect, test } from "vitest";
import { fixture, launch, settled } from "../e2e/browser";

const frames = 240; // four seconds at 60 Hz
const rounds = 5;

interface Round {
  readonly nodes: number;
  readonly median: number;
  readonly p95: number;
  readonly worst: number;
  readonly shown: number;
}

const middle = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1] as number;

for (const view of ["graph", "both"] as const) {
  test(`100 000 nodes, ${view}`, async () => {
    const server = await fixture({ hugeNodes: 100_000 });
    const browser = await launch();
    const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
    const start = performance.now();
    await page.goto(`${server.url}/?view=${view}`);
    await settled(page);
    const ready = performance.now() - start;
    const results: Round[] = [];
    for (let i = 0; i < rounds; i++) {
      results.push(
        await page.evaluate(async (frames) => {
          type View = { panTo(a: number, b: number): void; frameMillis(): number; scene: { tree: { count: number; total: Float64Array } } };
          const v = (document.querySelector<HTMLCanvasElement & { perfuseView?: unknown }>(".flame canvas") as unknown as { perfuseView: View }).perfuseView;
          const total = v.scene.tree.total[0] as number;
          // From the whole to a thousandth of it and back, and across.
          const step = (i: number): void => {
            const width = total * 10 ** (-3 * Math.abs(Math.sin((i / frames) * Math.PI)));
            v.panTo((total - width) * (i / frames), (total - width) * (i / frames) + width);
          };
          const times: number[] = [];
          for (let i = 0; i < frames; i++) {
            step(i);
            times.push(v.frameMillis());
          }
          times.sort((a, b) => a - b);
          const shown = await new Promise<number>((done) => {
            const start = performance.now();
            let i = 0;
            const next = (): void => {
              if (i === frames) return done((frames / (performance.now() - start)) * 1000);
              step(i++);
              requestAnimationFrame(next);
            };
            requestAnimationFrame(next);
          });
          const at = (share: number): number => times[Math.min(frames - 1, Math.floor(frames * share))] as number;
          return { nodes: v.scene.tree.count, median: at(0.5), p95: at(0.95), worst: at(1), shown };
        }, frames),
      );
    }
    const of = (key: keyof Round): number => middle(results.map((r) => r[key]));
    console.log(
      `${view}: ${of("nodes")} nodes, ready after ${ready.toFixed(0)} ms; a frame ${of("median").toFixed(1)} ms (p95 ${of("p95").toFixed(1)}, worst ${of("worst").toFixed(1)}); ` +
        `${of("shown").toFixed(0)} frames/s shown (goal 60; medians of ${rounds} rounds of ${frames} frames)`,
    );
    expect(of("nodes")).toBeGreaterThan(90_000);
    await browser.close();
    await server.stop();
  });
}
