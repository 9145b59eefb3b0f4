import { useEffect, useMemo, useRef, useState, type ReactNode } from "react";
import { sortBy, type Key } from "../lib/fleet";

export interface Column<R> {
  readonly name: string;
  readonly head: string;
  // What the head's tooltip says.
  readonly title?: string;
  readonly key: Key<R>;
  readonly cell: (row: R) => ReactNode;
  // Numbers stand at the right.
  readonly number?: boolean;
  // Left out where there is less room: "wide" first, then "middle".
  readonly only?: "wide" | "middle";
  readonly width?: string;
}

interface Props<R> {
  readonly label: string;
  readonly columns: readonly Column<R>[];
  // In the order of those that are equal.
  readonly rows: readonly R[];
  readonly rowKey: (row: R) => string;
  // A column's name; turned is against its usual direction.
  readonly sort: string;
  readonly turned: boolean;
  readonly order: (sort: string, turned: boolean) => void;
  readonly open: string;
  readonly choose: (key: string) => void;
  // Instead of rows.
  readonly none: ReactNode;
}

const rowHeight = 30;
const spare = 8;

// FleetTable shows as many rows as fit: there may be ten thousand. The first column's cells are buttons that open a
// row; of them one is in the order of the tabulator, and arrows, home and end lead to the others.
export function FleetTable<R>({ label, columns, rows, rowKey, sort, turned, order, open, choose, none }: Props<R>) {
  const column = columns.find((c) => c.name === sort) ?? columns[0];
  const sorted = useMemo(() => (column === undefined ? [...rows] : sortBy(rows, column.key, turned)), [rows, column, turned]);
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  useEffect(() => {
    const e = box.current;
    if (e === null) return;
    const see = (): void => setView({ top: e.scrollTop, height: e.clientHeight });
    const o = new ResizeObserver(see);
    o.observe(e);
    e.addEventListener("scroll", see, { passive: true });
    see();
    return () => {
      o.disconnect();
      e.removeEventListener("scroll", see);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - spare);
  const last = Math.min(sorted.length, Math.ceil((view.top + view.height) / rowHeight) + spare);

  // The row with the tabulator's stop, by its key: rows move while they are looked at.
  const [stop, setStop] = useState("");
  const wantsFocus = useRef(false);
  const stopAt = Math.max(
    0,
    sorted.findIndex((r) => rowKey(r) === (stop === "" ? open : stop)),
  );
  const stopShown = stopAt >= first && stopAt < last ? stopAt : first;
  // Who closes the details goes on where they were opened.
  const before = useRef(open);
  useEffect(() => {
    if (before.current !== "" && open === "" && document.activeElement === document.body) {
      setStop(before.current);
      wantsFocus.current = true;
    }
    before.current = open;
  }, [open]);
  useEffect(() => {
    if (!wantsFocus.current) return;
    const button = box.current?.querySelector<HTMLButtonElement>(`button[data-row="${stopAt}"]`);
    if (button === null || button === undefined) return;
    wantsFocus.current = false;
    button.focus({ preventScroll: true });
  });
  const move = (to: number): void => {
    const at = Math.min(Math.max(to, 0), sorted.length - 1);
    const row = sorted[at];
    const e = box.current;
    if (row === undefined || e === null) return;
    wantsFocus.current = true;
    setStop(rowKey(row));
    const head = e.querySelector("thead")?.clientHeight ?? 0;
    const top = at * rowHeight;
    if (top < e.scrollTop) e.scrollTop = top;
    else if (top + rowHeight > e.scrollTop + e.clientHeight - head) e.scrollTop = top + rowHeight - e.clientHeight + head;
  };
  const page = Math.max(1, Math.floor(view.height / rowHeight) - 2);
  const steps: Readonly<Record<string, (at: number) => number>> = {
    ArrowDown: (at) => at + 1,
    ArrowUp: (at) => at - 1,
    PageDown: (at) => at + page,
    PageUp: (at) => at - page,
    Home: () => 0,
    End: () => sorted.length - 1,
  };

  return (
    <div className="table-scroll" ref={box}>
      <table className="fleet-table" aria-label={label} aria-rowcount={sorted.length + 1}>
        <colgroup>
          {columns.map((c) => (
            <col key={c.name} className={c.only} style={c.width === undefined ? {} : { width: c.width }} />
          ))}
        </colgroup>
        <thead>
          <tr aria-rowindex={1}>
            {columns.map((c) => {
              const here = c === column;
              // Words go up, numbers down.
              const up = rows[0] !== undefined && typeof c.key(rows[0]) === "string" ? !turned : turned;
              const arrow = here ? (up ? "↑" : "↓") : "";
              return (
                <th key={c.name} scope="col" className={[c.number === true ? "number" : "", c.only ?? ""].join(" ")} aria-sort={here ? (up ? "ascending" : "descending") : "none"}>
                  <button title={c.title} onClick={() => order(c.name, here && !turned)}>
                    {c.number === true && <i aria-hidden="true">{arrow}</i>}
                    {c.head}
                    {c.number !== true && <i aria-hidden="true">{arrow}</i>}
                  </button>
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody
          onKeyDown={(e) => {
            const step = steps[e.key];
            if (step === undefined || e.altKey || e.ctrlKey || e.metaKey) return;
            e.preventDefault();
            move(step(e.target instanceof HTMLElement ? Number(e.target.dataset["row"] ?? stopShown) : stopShown));
          }}
        >
          {first > 0 && <tr style={{ height: first * rowHeight }} aria-hidden="true" />}
          {sorted.slice(first, last).map((r, i) => {
            const at = first + i;
            const key = rowKey(r);
            return (
              <tr key={key} aria-rowindex={at + 2} data-open={key === open} onClick={() => choose(key === open ? "" : key)}>
                {columns.map((c, n) =>
                  n === 0 ? (
                    <th key={c.name} scope="row">
                      <button
                        className="ellipsis"
                        data-row={at}
                        tabIndex={at === stopShown ? 0 : -1}
                        aria-expanded={key === open}
                        onFocus={() => setStop(key)}
                        onClick={(e) => {
                          e.stopPropagation();
                          choose(key === open ? "" : key);
                        }}
                      >
                        {c.cell(r)}
                      </button>
                    </th>
                  ) : (
                    <td key={c.name} className={[c.number === true ? "number num" : "ellipsis", c.only ?? ""].join(" ")}>
                      {c.cell(r)}
                    </td>
                  ),
                )}
              </tr>
            );
          })}
          {last < sorted.length && <tr style={{ height: (sorted.length - last) * rowHeight }} aria-hidden="true" />}
        </tbody>
      </table>
      {rows.length === 0 && none}
    </div>
  );
}
