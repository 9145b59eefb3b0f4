import { useEffect, useState } from "react";
import { formatSpan, isLive, label, presets, resolve, widen, type TimeRange } from "../lib/timerange";
import { useOutside } from "./hooks";

interface Props {
  readonly range: TimeRange;
  readonly live: boolean;
  readonly set: (range: TimeRange) => void;
}

// RangePicker offers presets and two fields that take what the URL takes.
export function RangePicker({ range, set }: Props) {
  const [open, setOpen] = useState(false);
  const [from, setFrom] = useState(range.from);
  const [to, setTo] = useState(range.to);
  useEffect(() => {
    setFrom(range.from);
    setTo(range.to);
  }, [range.from, range.to, open]);
  const ref = useOutside(open, () => setOpen(false));
  const choose = (r: TimeRange): void => {
    setOpen(false);
    set(r);
  };
  const typed = resolve({ from, to }, Date.now());
  return (
    <div className="range" ref={ref} onKeyDown={(e) => e.key === "Escape" && setOpen(false)}>
      <button className="field" aria-haspopup="dialog" aria-expanded={open} aria-label={`Time range: ${label(range)}`} onClick={() => setOpen(!open)}>
        {label(range)}
        <Chevron />
      </button>
      {open && (
        <div className="popup range-popup" role="dialog" aria-label="Time range">
          <div className="presets">
            {presets.map((p) => (
              <button key={p.from} aria-pressed={p.from === range.from && range.to === "now"} onClick={() => choose({ from: p.from, to: "now" })}>
                last {p.label}
              </button>
            ))}
          </div>
          <form
            onSubmit={(e) => {
              e.preventDefault();
              if (typeof typed !== "string") choose({ from: from.trim(), to: to.trim() });
            }}
          >
            <label>
              From
              <input className="mono" value={from} onChange={(e) => setFrom(e.target.value)} spellCheck={false} />
            </label>
            <label>
              To
              <input className="mono" value={to} onChange={(e) => setTo(e.target.value)} spellCheck={false} />
            </label>
            <p className={typeof typed === "string" ? "hint bad" : "hint"}>{typeof typed === "string" ? typed : formatSpan(typed)}</p>
            <div className="actions">
              <button className="primary" type="submit" disabled={typeof typed === "string"}>
                Apply
              </button>
              <button type="button" onClick={() => choose(widen(range, Date.now()))}>
                Twice as wide
              </button>
              {!isLive(range) && (
                <button type="button" onClick={() => choose({ from: "now-15m", to: "now" })}>
                  Back to now
                </button>
              )}
            </div>
          </form>
        </div>
      )}
    </div>
  );
}

export function Chevron() {
  return (
    <svg className="chevron" viewBox="0 0 10 6" width="10" height="6" aria-hidden="true">
      <path d="M1 1l4 4 4-4" fill="none" stroke="currentColor" strokeWidth="1.5" />
    </svg>
  );
}
