import { useEffect, useRef, useState, type ReactNode } from "react";
import { useOutside } from "./hooks";

export interface MenuItem {
  readonly label: string;
  // What it is about, or why it cannot be done now.
  readonly note?: string;
  readonly disabled?: boolean;
  readonly act: () => void;
}

interface Props {
  readonly label: string;
  // In the viewport's coordinates.
  readonly x: number;
  readonly y: number;
  readonly items: readonly MenuItem[];
  readonly close: () => void;
  readonly head?: ReactNode;
}

// Menu is a list of actions at a point, after the ARIA pattern of that name. The focus goes back to where it was.
export function Menu({ label, x, y, items, close, head }: Props) {
  const box = useOutside(true, close);
  const [place, setPlace] = useState({ left: x, top: y });
  const back = useRef<Element>(undefined);
  useEffect(() => {
    back.current = document.activeElement ?? undefined;
    box.current?.querySelector<HTMLElement>("[role=menuitem]:not([aria-disabled=true])")?.focus();
    return () => {
      if (back.current instanceof HTMLElement && (document.activeElement === document.body || document.activeElement === null)) back.current.focus();
    };
  }, []);
  useEffect(() => {
    const r = box.current?.getBoundingClientRect();
    if (r === undefined) return;
    setPlace({ left: Math.max(8, Math.min(x, innerWidth - r.width - 8)), top: Math.max(8, Math.min(y, innerHeight - r.height - 8)) });
  }, [x, y]);
  const leave = (act?: () => void): void => {
    close();
    if (back.current instanceof HTMLElement) back.current.focus();
    act?.();
  };
  const move = (by: number | "first" | "last"): void => {
    const all = [...(box.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
    const at = all.indexOf(document.activeElement as HTMLElement);
    const to = by === "first" ? 0 : by === "last" ? all.length - 1 : (at + by + all.length) % all.length;
    all[to]?.focus();
  };
  return (
    <div className="menu" ref={box} style={place}>
      {head}
      <ul
        role="menu"
        aria-label={label}
        onKeyDown={(e) => {
          if (e.key === "ArrowDown") move(1);
          else if (e.key === "ArrowUp") move(-1);
          else if (e.key === "Home") move("first");
          else if (e.key === "End") move("last");
          else if (e.key === "Escape" || e.key === "Tab") leave();
          else return;
          e.preventDefault();
          e.stopPropagation();
        }}
      >
        {items.map((i) => (
          <li key={i.label} role="none">
            <button
              role="menuitem"
              tabIndex={-1}
              aria-disabled={i.disabled === true}
              onClick={() => {
                if (i.disabled !== true) leave(i.act);
              }}
            >
              <span>{i.label}</span>
              {i.note !== undefined && <small className="ellipsis">{i.note}</small>}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

// MenuButton opens a menu below itself.
export function MenuButton({ label, title, items, disabled, children }: { label: string; title: string; items: readonly MenuItem[]; disabled?: boolean; children: ReactNode }) {
  const [at, setAt] = useState<{ x: number; y: number }>();
  return (
    <>
      <button
        className="quiet-button"
        aria-haspopup="menu"
        aria-expanded={at !== undefined}
        title={title}
        disabled={disabled === true}
        onClick={(e) => {
          const r = e.currentTarget.getBoundingClientRect();
          setAt(at === undefined ? { x: r.left, y: r.bottom + 4 } : undefined);
        }}
      >
        {children}
      </button>
      {at !== undefined && <Menu label={label} x={at.x} y={at.y} items={items} close={() => setAt(undefined)} />}
    </>
  );
}
