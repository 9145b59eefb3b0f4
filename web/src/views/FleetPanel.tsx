import { useEffect, useLayoutEffect, useRef, type ReactNode } from "react";
import type { AgentState, Health } from "../lib/fleet";

// FleetPanel is where the details of a row stand, beside the table or, on narrow screens, in its place.
export function FleetPanel({ title, close, children }: { title: string; close: () => void; children: ReactNode }) {
  const latest = useRef(close);
  latest.current = close;
  useEffect(() => {
    const escape = (e: KeyboardEvent): void => {
      if (e.key === "Escape" && !e.defaultPrevented) latest.current();
    };
    addEventListener("keydown", escape);
    return () => removeEventListener("keydown", escape);
  }, []);
  // Where the details stand in the place of the table, what has the focus is about to lose it.
  const button = useRef<HTMLButtonElement>(null);
  useLayoutEffect(() => {
    const at = document.activeElement;
    if (at instanceof HTMLElement && at !== document.body && at.offsetParent === null) button.current?.focus();
  }, []);
  return (
    <section className="panel fleet-panel" aria-label={`Details of ${title}`}>
      <header>
        <h2 className="ellipsis" title={title}>
          {title}
        </h2>
        <button className="icon" ref={button} aria-label="Close the details" title="Close (escape)" onClick={close}>
          <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">
            <path d="M3 3l10 10M13 3L3 13" fill="none" stroke="currentColor" strokeWidth="1.6" />
          </svg>
        </button>
      </header>
      <div className="fleet-body">{children}</div>
    </section>
  );
}

export function Part({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="fleet-part">
      <h3>{title}</h3>
      {children}
    </section>
  );
}

const shapes = {
  good: <circle cx="6" cy="6" r="4.5" />,
  bad: <path d="M6 1l5.5 10H.5z" />,
  idle: <rect x="2.2" y="2.2" width="7.6" height="7.6" fill="none" strokeWidth="1.6" />,
} as const;
const looks: Readonly<Record<AgentState | Health, keyof typeof shapes>> = { up: "good", late: "bad", down: "bad", stopped: "idle", unknown: "idle" };

// Mark says how something is by a word and a shape; the colour only helps.
export function Mark({ state, word }: { state: AgentState | Health; word?: string }) {
  return (
    <span className="fleet-mark" data-look={looks[state]}>
      <svg viewBox="0 0 12 12" width="10" height="10" aria-hidden="true">
        {shapes[looks[state]]}
      </svg>
      {word ?? state}
    </span>
  );
}
