import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { ApiError } from "../api/client";
import type { Theme, ViewState } from "../lib/urlstate";

export type Change<S> = (change: Partial<S>, how?: "push" | "replace") => void;
export type Go = Change<ViewState>;

// useUrlState keeps a page's state in the URL's query; parse and format are constant. "push" makes an entry to go
// back to; "replace" is for typing.
export function useUrlState<S>(parse: (search: string) => S, format: (state: S) => string): [S, Change<S>] {
  const [state, setState] = useState(() => parse(location.search));
  const current = useRef(state);
  useEffect(() => {
    const back = (): void => {
      current.current = parse(location.search);
      setState(current.current);
    };
    addEventListener("popstate", back);
    return () => removeEventListener("popstate", back);
  }, [parse]);
  const go = useCallback<Change<S>>(
    (change, how = "push") => {
      const next = { ...current.current, ...change };
      const url = location.pathname + format(next);
      if (url === location.pathname + location.search) return;
      current.current = next;
      if (how === "push") history.pushState(null, "", url);
      else history.replaceState(null, "", url);
      setState(next);
    },
    [format],
  );
  return [state, go];
}

// usePath is the URL's path, which says which page is shown.
export function usePath(): string {
  const [path, setPath] = useState(location.pathname);
  useEffect(() => {
    const moved = (): void => setPath(location.pathname);
    addEventListener("popstate", moved);
    return () => removeEventListener("popstate", moved);
  }, []);
  return path;
}

// visit goes to another page without loading everything anew.
export function visit(url: string): void {
  history.pushState(null, "", url);
  dispatchEvent(new PopStateEvent("popstate"));
}

export interface Request<T> {
  // Of the last question that was answered: kept while the next one is under way.
  readonly data: T | undefined;
  readonly error: ApiError | undefined;
  readonly loading: boolean;
  readonly retry: () => void;
}

// staleness says how what is shown stands to the question: pale while the answer is on its way, legible for as long as
// there is none.
export function staleness(r: Request<unknown>): "no" | "asked" | "failed" {
  return r.error !== undefined ? "failed" : r.loading ? "asked" : "no";
}

const retryMillis = 3000;

// useRequest asks again whenever key changes, and not at all while key is undefined. An error stands until the same
// question is answered.
export function useRequest<T>(key: string | undefined, ask: (signal: AbortSignal) => Promise<T>): Request<T> {
  const [answer, setAnswer] = useState<{ key: string; full: string; error?: ApiError }>();
  const [kept, setKept] = useState<T>();
  const [again, setAgain] = useState(0);
  const latest = useRef(ask);
  latest.current = ask;
  const full = key === undefined ? undefined : `${key}#${again}`;
  useEffect(() => {
    if (full === undefined || key === undefined) return;
    const stop = new AbortController();
    latest.current(stop.signal).then(
      (data) => {
        if (stop.signal.aborted) return;
        setKept(() => data);
        setAnswer({ key, full });
      },
      (e: unknown) => {
        if (stop.signal.aborted) return;
        setAnswer({ key, full, error: e instanceof ApiError ? e : new ApiError(e instanceof Error ? e.message : String(e), "failed", "") });
      },
    );
    return () => stop.abort();
  }, [full]);
  // A server that went away may come back: ask again by itself.
  const away = answer?.error?.kind === "away" && answer.full === full;
  useEffect(() => {
    if (!away) return;
    const timer = setTimeout(() => setAgain((n) => n + 1), retryMillis);
    return () => clearTimeout(timer);
  }, [away, full]);
  const retry = useCallback(() => setAgain((n) => n + 1), []);
  return useMemo(
    () => ({ data: kept, error: answer?.key === key ? answer?.error : undefined, loading: full !== undefined && answer?.full !== full, retry }),
    [kept, answer, key, full, retry],
  );
}

// useTheme puts the theme on the document and returns which of the two it is now.
export function useTheme(theme: Theme): "light" | "dark" {
  const [system, setSystem] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const changed = (): void => setSystem(query.matches);
    query.addEventListener("change", changed);
    return () => query.removeEventListener("change", changed);
  }, []);
  const now = theme === "system" ? (system ? "dark" : "light") : theme;
  // Before children's effects run, which read colours from the document.
  document.documentElement.dataset["theme"] = now;
  return now;
}

// useOutside calls close when a press or the focus goes outside the element.
export function useOutside(open: boolean, close: () => void): React.RefObject<HTMLDivElement | null> {
  const ref = useRef<HTMLDivElement>(null);
  const latest = useRef(close);
  latest.current = close;
  useEffect(() => {
    if (!open) return;
    const outside = (e: Event): void => {
      if (e.target instanceof Node && ref.current?.contains(e.target) === false) latest.current();
    };
    document.addEventListener("pointerdown", outside);
    document.addEventListener("focusin", outside);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("focusin", outside);
    };
  }, [open]);
  return ref;
}

// useWidth measures an element.
export function useWidth(): [React.RefObject<HTMLDivElement | null>, number] {
  const ref = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const e = ref.current;
    if (e === null) return;
    const o = new ResizeObserver(() => setWidth(e.clientWidth));
    o.observe(e);
    setWidth(e.clientWidth);
    return () => o.disconnect();
  }, []);
  return [ref, width];
}

// useDelayed is value, but only after it has not changed for so long: for asking while somebody types.
export function useDelayed<T>(value: T, millis: number): T {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const t = setTimeout(() => setLate(value), millis);
    return () => clearTimeout(t);
  }, [value, millis]);
  return late;
}
