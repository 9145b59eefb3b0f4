// The graph on its canvas: size, scrolling, animation, pointer and keyboard. What a gesture means for the page is told
// to the host by callbacks; the graph itself keeps only what is under the pointer and where it is panned to.

import { findPath, FrameKind, frameOf, namesTo, type FlameTree } from "../lib/tree";
import type { Orientation } from "../lib/urlstate";
import { draw } from "./draw";
import { clampRange, hit, layout, newBoxes } from "./layout";
import { move, type Move } from "./navigate";
import type { Colouring, Swatch, Tokens } from "./palette";

export interface Host {
  // A node other than "(small)" was chosen; 0 is the root.
  zoom(node: number): void;
  // A "(small)" node was chosen.
  expand(node: number): void;
  // The pointer is over a node, at the viewport's coordinates; -1 for none.
  hover(node: number, x: number, y: number): void;
  // The keyboard's node changed.
  cursor(node: number): void;
  // The slash key.
  search(): void;
  // What can be done with a node was asked for, by the pointer's other button, a long press or the keyboard; the place is
  // in the viewport's coordinates. May come twice for one gesture. Without it, the browser shows its own menu.
  menu?(node: number, x: number, y: number): void;
}

export interface Scene {
  readonly tree: FlameTree;
  readonly colouring: Colouring;
  readonly matches: Uint8Array | undefined;
  readonly zoomed: number;
  readonly orientation: Orientation;
}

function sameZoom(a: Scene, b: Scene): boolean {
  const names = namesTo(b.tree, b.zoomed);
  return namesTo(a.tree, a.zoomed).every((n, i) => n === names[i]) && names.length === (a.tree.depth[a.zoomed] ?? 0);
}

export const rowHeight = 20;
const fontSize = 12;
const animationMillis = 180;
// A press that moves further than this is a drag, not a click.
const dragPixels = 4;
// A finger that rests so long asks for the menu.
const longPressMillis = 500;

export class FlameView {
  private readonly ctx: CanvasRenderingContext2D;
  private readonly boxes = newBoxes();
  private readonly sizes: ResizeObserver;
  private readonly undo: (() => void)[] = [];
  private scene: Scene | undefined;
  private tokens: Tokens;
  private swatches: readonly Swatch[] = [];
  private x0 = 0;
  private x1 = 0;
  private width = 0;
  private height = 0;
  private frame = 0;
  private animation: { from0: number; from1: number; to0: number; to1: number; start: number } | undefined;
  private hovered = -1;
  private pointed = -1;
  private at = 0;
  private focused = false;
  private drag: { x: number; y: number; x0: number; x1: number; top: number; moved: boolean } | undefined;
  private press: { x: number; y: number; timer: number } | undefined;
  // The last press asked for the menu: what ends it is no click.
  private pressed = false;
  private charWidth = 7;
  private readonly font: string;

  // scroller scrolls vertically and holds spacer, which is as high as the graph and in which canvas sticks to the top.
  constructor(
    private readonly scroller: HTMLElement,
    private readonly spacer: HTMLElement,
    private readonly canvas: HTMLCanvasElement,
    private readonly host: Host,
    tokens: Tokens,
  ) {
    const ctx = canvas.getContext("2d");
    if (ctx === null) throw new Error("the browser gives no 2d canvas");
    this.ctx = ctx;
    this.tokens = tokens;
    this.font = `${fontSize}px ${getComputedStyle(canvas).getPropertyValue("--mono") || "monospace"}`;
    this.ctx.font = this.font;
    this.charWidth = this.ctx.measureText("M".repeat(50)).width / 50;
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(scroller);
    this.listen();
    this.resize();
  }

  close(): void {
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
    this.unpress();
    for (const f of this.undo) f();
  }

  setTokens(tokens: Tokens): void {
    this.tokens = tokens;
    if (this.scene !== undefined) this.swatches = this.scene.colouring.swatches(tokens);
    this.redraw();
  }

  // show replaces what is drawn. A change of zoom in the same tree is animated.
  show(scene: Scene): void {
    const before = this.scene;
    this.scene = scene;
    if (before?.colouring.swatches !== scene.colouring.swatches) this.swatches = scene.colouring.swatches(this.tokens);
    const t = scene.tree;
    if (before?.tree !== t) {
      // The keyboard stays on the same function as far as the new tree has it.
      this.at = before === undefined ? scene.zoomed : findPath(t, namesTo(before.tree, this.at)).node;
      this.setHover(-1, 0, 0);
      this.host.cursor(this.at);
    }
    this.spacer.style.height = `${(t.maxDepth + 1) * rowHeight}px`;
    if (before !== undefined && before.tree !== t && this.panned(before) && sameZoom(before, scene)) {
      // A refresh while the reader has panned: keep the part that is shown.
      const scale = (t.total[0] as number) / (before.tree.total[0] as number);
      this.panTo(this.x0 * scale, this.x1 * scale);
    } else if (before === undefined || before.tree !== t || before.zoomed !== scene.zoomed) {
      const x0 = t.count === 0 ? 0 : (t.offset[scene.zoomed] as number);
      const x1 = t.count === 0 ? 1 : x0 + (t.total[scene.zoomed] as number);
      if (before?.tree === t) {
        this.at = scene.zoomed;
        this.animateTo(x0, x1);
      } else {
        this.animation = undefined;
        this.x0 = x0;
        this.x1 = x1;
      }
    }
    if (before === undefined || before.orientation !== scene.orientation || before.zoomed !== scene.zoomed) {
      // To the root's edge, from where a zoomed node's row is sought.
      if (scene.zoomed === 0 || before?.orientation !== scene.orientation) {
        this.scroller.scrollTop = scene.orientation === "flame" ? this.scroller.scrollHeight : 0;
      }
      if (scene.zoomed > 0) this.reveal(scene.zoomed, true);
    }
    this.redraw();
  }

  // point outlines a node that is pointed at elsewhere; -1 for none.
  point(node: number): void {
    if (node === this.pointed) return;
    this.pointed = node;
    this.redraw();
  }

  focus(): void {
    this.canvas.focus();
  }

  // frameMillis is the time that painting one frame takes now, for the bench.
  frameMillis(): number {
    const start = performance.now();
    this.paint();
    return performance.now() - start;
  }

  // resting tells that nothing is about to be painted.
  resting(): boolean {
    return this.frame === 0 && this.animation === undefined;
  }

  // panTo shows the values [x0, x1) without animation.
  panTo(x0: number, x1: number): void {
    const total = this.scene?.tree.total[0] ?? 0;
    const r = clampRange(x0, x1, total);
    this.animation = undefined;
    this.x0 = r.x0;
    this.x1 = r.x1;
    this.redraw();
  }

  // panned tells whether something else is shown than the zoomed node's own range.
  private panned(s: Scene): boolean {
    if (s.tree.count === 0 || this.animation !== undefined) return false;
    const x0 = s.tree.offset[s.zoomed] as number;
    return this.x0 !== x0 || this.x1 !== x0 + (s.tree.total[s.zoomed] as number);
  }

  private resize(): void {
    const width = this.scroller.clientWidth;
    const height = this.scroller.clientHeight;
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    // Setting the size clears the canvas: only when it changed, and paint at once so that nothing flickers.
    const w = Math.max(1, Math.round(width * ratio));
    const h = Math.max(1, Math.round(height * ratio));
    if (this.canvas.width !== w || this.canvas.height !== h) {
      this.canvas.width = w;
      this.canvas.height = h;
    }
    this.ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.paint();
  }

  private redraw(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame((now) => {
      this.frame = 0;
      this.step(now);
      this.paint();
      if (this.animation !== undefined) this.redraw();
    });
  }

  private animateTo(x0: number, x1: number): void {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      this.animation = undefined;
      this.x0 = x0;
      this.x1 = x1;
    } else {
      this.animation = { from0: this.x0, from1: this.x1, to0: x0, to1: x1, start: performance.now() };
    }
    this.redraw();
  }

  private step(now: number): void {
    const a = this.animation;
    if (a === undefined) return;
    const t = Math.min(1, Math.max(0, (now - a.start) / animationMillis));
    const ease = 1 - (1 - t) ** 3;
    this.x0 = a.from0 + (a.to0 - a.from0) * ease;
    this.x1 = a.from1 + (a.to1 - a.from1) * ease;
    if (t === 1) this.animation = undefined;
  }

  private rowTop(row: number): number {
    if (this.scene?.orientation === "flame") {
      const all = Math.max(this.spacer.offsetHeight, this.height);
      return all - (row + 1) * rowHeight - this.scroller.scrollTop;
    }
    return row * rowHeight - this.scroller.scrollTop;
  }

  private rowAt(y: number): number {
    if (this.scene?.orientation === "flame") {
      const all = Math.max(this.spacer.offsetHeight, this.height);
      return Math.floor((all - y - this.scroller.scrollTop) / rowHeight);
    }
    return Math.floor((y + this.scroller.scrollTop) / rowHeight);
  }

  private paint(): void {
    const s = this.scene;
    if (s === undefined || this.width === 0) return;
    const a = this.rowAt(0);
    const b = this.rowAt(this.height);
    const firstRow = Math.max(0, Math.min(a, b));
    const lastRow = Math.min(s.tree.maxDepth, Math.max(a, b)) + 1;
    layout(s.tree, { x0: this.x0, x1: this.x1, width: this.width, firstRow, lastRow }, this.boxes);
    draw(this.ctx, {
      tree: s.tree,
      boxes: this.boxes,
      tokens: this.tokens,
      swatches: this.swatches,
      slots: s.colouring.slots,
      matches: s.matches,
      zoomed: s.zoomed,
      hovered: this.hovered,
      pointed: this.pointed,
      cursor: this.focused ? this.at : -1,
      rowHeight,
      rowTop: (row) => this.rowTop(row),
      width: this.width,
      height: this.height,
      font: this.font,
      charWidth: this.charWidth,
    });
  }

  // reveal scrolls so that the node's row is visible; a zoomed node comes near the edge that its children follow.
  private reveal(node: number, zoomed: boolean): void {
    const t = this.scene?.tree;
    if (t === undefined || t.count === 0) return;
    const top = this.rowTop(t.depth[node] as number);
    const context = 3 * rowHeight;
    const flame = this.scene?.orientation === "flame";
    if (zoomed && (top < 0 || top > this.height - rowHeight || (flame ? top < this.height / 2 : top > this.height / 2))) {
      this.scroller.scrollTop += top - (flame ? this.height - rowHeight - context : context);
    } else if (top < 0) this.scroller.scrollTop += top;
    else if (top > this.height - rowHeight) this.scroller.scrollTop += top - this.height + rowHeight;
  }

  private nodeAt(clientX: number, clientY: number): number {
    const s = this.scene;
    if (s === undefined) return -1;
    const r = this.canvas.getBoundingClientRect();
    const x = this.x0 + ((clientX - r.left) / this.width) * (this.x1 - this.x0);
    return hit(s.tree, x, this.rowAt(clientY - r.top));
  }

  private choose(node: number): void {
    const s = this.scene;
    if (s === undefined || node < 0) return;
    if (frameOf(s.tree, node).kind === FrameKind.CUT) {
      this.host.expand(node);
      return;
    }
    this.at = node;
    this.host.cursor(node);
    if (node === s.zoomed) {
      // Back to the node's own range after panning.
      this.animateTo(s.tree.offset[node] as number, (s.tree.offset[node] as number) + (s.tree.total[node] as number));
    } else this.host.zoom(node);
  }

  private setHover(node: number, x: number, y: number): void {
    if (node !== this.hovered) {
      this.canvas.style.cursor = node < 0 ? "default" : "pointer";
      this.redraw();
    }
    this.hovered = node;
    this.host.hover(node, x, y);
  }

  private startPress(x: number, y: number): void {
    this.unpress();
    if (this.host.menu === undefined) return;
    const timer = window.setTimeout(() => {
      this.press = undefined;
      this.pressed = true;
      this.askMenu(this.nodeAt(x, y), x, y);
    }, longPressMillis);
    this.press = { x, y, timer };
  }

  private unpress(): void {
    if (this.press !== undefined) clearTimeout(this.press.timer);
    this.press = undefined;
  }

  // menuAtCursor asks for the menu of the keyboard's node, below the visible part of its box.
  private menuAtCursor(): void {
    const t = this.scene?.tree;
    if (t === undefined || t.count === 0) return;
    const r = this.canvas.getBoundingClientRect();
    const left = ((t.offset[this.at] as number) - this.x0) / (this.x1 - this.x0);
    const right = left + (t.total[this.at] as number) / (this.x1 - this.x0);
    const middle = (Math.max(0, left) + Math.min(1, right)) / 2;
    this.askMenu(this.at, r.left + middle * this.width, r.top + this.rowTop(t.depth[this.at] as number) + rowHeight);
  }

  private askMenu(node: number, x: number, y: number): void {
    if (node < 0) return;
    this.setHover(-1, 0, 0);
    this.host.menu?.(node, x, y);
  }

  private on<K extends keyof HTMLElementEventMap>(target: HTMLElement, type: K, f: (e: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions): void {
    target.addEventListener(type, f, options);
    this.undo.push(() => target.removeEventListener(type, f, options));
  }

  private listen(): void {
    this.on(this.scroller, "scroll", () => {
      this.setHover(-1, 0, 0);
      this.redraw();
    });
    this.on(this.canvas, "pointerdown", (e) => {
      this.pressed = false;
      if (e.pointerType === "touch") this.startPress(e.clientX, e.clientY);
      if (e.button !== 0 || e.pointerType === "touch") return;
      this.drag = { x: e.clientX, y: e.clientY, x0: this.x0, x1: this.x1, top: this.scroller.scrollTop, moved: false };
      this.canvas.setPointerCapture(e.pointerId);
    });
    this.on(this.canvas, "pointermove", (e) => {
      const press = this.press;
      if (press !== undefined && Math.hypot(e.clientX - press.x, e.clientY - press.y) >= dragPixels) this.unpress();
      const d = this.drag;
      if (d === undefined) {
        if (e.pointerType !== "touch") this.setHover(this.nodeAt(e.clientX, e.clientY), e.clientX, e.clientY);
        return;
      }
      const dx = e.clientX - d.x;
      if (!d.moved && Math.hypot(dx, e.clientY - d.y) < dragPixels) return;
      if (!d.moved) this.setHover(-1, 0, 0);
      d.moved = true;
      const shift = (dx / this.width) * (d.x1 - d.x0);
      this.panTo(d.x0 - shift, d.x1 - shift);
      this.scroller.scrollTop = d.top - (e.clientY - d.y);
    });
    this.on(this.canvas, "pointerup", () => {
      this.unpress();
      const d = this.drag;
      // The click that follows must know whether this was a drag.
      if (d !== undefined && !d.moved) this.drag = undefined;
    });
    this.on(this.canvas, "pointercancel", () => {
      this.unpress();
      this.drag = undefined;
    });
    // The mouse events and the click that a browser makes of a finger's end would take the focus from the menu.
    this.on(
      this.canvas,
      "touchend",
      (e) => {
        if (this.pressed && e.cancelable) e.preventDefault();
      },
      { passive: false },
    );
    this.on(this.canvas, "contextmenu", (e) => {
      if (this.host.menu === undefined) return;
      e.preventDefault();
      this.unpress();
      // A keyboard's has no button and no pointer.
      if (e.button !== 2 && !(e instanceof PointerEvent && e.pointerType === "touch")) this.menuAtCursor();
      else this.askMenu(this.nodeAt(e.clientX, e.clientY), e.clientX, e.clientY);
    });
    this.on(this.canvas, "click", (e) => {
      if (this.pressed) return;
      if (this.drag?.moved === true) {
        this.drag = undefined;
        return;
      }
      const node = this.nodeAt(e.clientX, e.clientY);
      // A finger cannot hover: the first tap shows the card, the second one zooms.
      if (e instanceof PointerEvent && e.pointerType === "touch" && node !== this.hovered) this.setHover(node, e.clientX, e.clientY);
      else this.choose(node);
    });
    this.on(this.canvas, "pointerleave", () => this.setHover(-1, 0, 0));
    this.on(
      this.canvas,
      "wheel",
      (e) => {
        const sideways = Math.abs(e.deltaX) > Math.abs(e.deltaY);
        if (!e.ctrlKey && !e.metaKey && !e.shiftKey && !sideways) return;
        e.preventDefault();
        const width = this.x1 - this.x0;
        if (e.ctrlKey || e.metaKey) {
          const r = this.canvas.getBoundingClientRect();
          const share = (e.clientX - r.left) / this.width;
          const to = width * Math.exp(Math.max(-1, Math.min(1, e.deltaY * 0.005)));
          const x = this.x0 + share * width;
          this.panTo(x - share * to, x + (1 - share) * to);
        } else {
          const shift = ((sideways ? e.deltaX : e.deltaY) / this.width) * width;
          this.panTo(this.x0 + shift, this.x1 + shift);
        }
        this.setHover(-1, 0, 0);
      },
      { passive: false },
    );
    this.on(this.canvas, "focus", () => {
      this.focused = true;
      this.host.cursor(this.at);
      this.redraw();
    });
    this.on(this.canvas, "blur", () => {
      this.focused = false;
      this.redraw();
    });
    this.on(this.canvas, "keydown", (e) => this.key(e));
  }

  private key(e: KeyboardEvent): void {
    const s = this.scene;
    if (s === undefined || s.tree.count === 0 || e.ctrlKey || e.metaKey || e.altKey) return;
    const icicle = s.orientation === "icicle";
    const moves: Readonly<Record<string, Move>> = {
      ArrowUp: icicle ? "parent" : "child",
      ArrowDown: icicle ? "child" : "parent",
      ArrowLeft: "left",
      ArrowRight: "right",
      Home: "first",
      End: "last",
    };
    const to = moves[e.key];
    if (to !== undefined) {
      this.at = move(s.tree, this.at, to);
      this.follow();
      this.host.cursor(this.at);
    } else if (e.key === "Enter" || e.key === " ") this.choose(this.at);
    else if (e.key === "Escape" || e.key === "Backspace") {
      if (s.zoomed > 0) this.host.zoom(s.tree.parent[s.zoomed] as number);
      else this.animateTo(0, s.tree.total[0] as number);
    } else if (e.key === "0") this.host.zoom(0);
    else if (e.key === "/") this.host.search();
    else if (this.host.menu !== undefined && (e.key === "ContextMenu" || (e.key === "F10" && e.shiftKey))) this.menuAtCursor();
    else return;
    e.preventDefault();
  }

  // follow pans and scrolls so that the keyboard's node is visible.
  private follow(): void {
    const t = this.scene?.tree;
    if (t === undefined) return;
    const left = t.offset[this.at] as number;
    const right = left + (t.total[this.at] as number);
    const width = this.x1 - this.x0;
    if (right <= this.x0 || left >= this.x1) {
      const r = clampRange((left + right) / 2 - width / 2, (left + right) / 2 + width / 2, t.total[0] as number);
      this.animateTo(r.x0, r.x1);
    }
    this.reveal(this.at, false);
    this.redraw();
  }
}
