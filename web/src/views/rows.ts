import { useCallback, useRef, useState, type RefObject } from "react";

// Rows beyond the visible ones, above and below.
const spare = 8;

export interface Rows {
  // For the scrolled element.
  readonly attach: (e: HTMLDivElement | null) => (() => void) | undefined;
  readonly box: RefObject<HTMLDivElement | null>;
  // The rows to make: first inclusive, last exclusive.
  readonly first: number;
  readonly last: number;
}

// useRows says which rows of a long list its scrolled box shows; all have one height.
export function useRows(count: number, rowHeight: number): Rows {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 400 });
  const attach = useCallback((e: HTMLDivElement | null) => {
    box.current = e;
    if (e === null) return undefined;
    const see = (): void => setView({ top: e.scrollTop, height: e.clientHeight });
    const o = new ResizeObserver(see);
    o.observe(e);
    e.addEventListener("scroll", see, { passive: true });
    see();
    return () => {
      box.current = null;
      o.disconnect();
      e.removeEventListener("scroll", see);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - spare);
  return { attach, box, first: Math.min(first, count), last: Math.min(count, Math.ceil((view.top + view.height) / rowHeight) + spare) };
}
