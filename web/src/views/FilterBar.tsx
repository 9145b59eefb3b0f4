import { useState } from "react";
import { formatMatcher, isNoFilter, noFilter, type FrameField, type FrameMatcher, type StackFilter } from "../lib/filter";
import { baseName, shortName } from "../lib/names";
import { useOutside } from "./hooks";
import { Chevron } from "./RangePicker";

interface Props {
  readonly filter: StackFilter;
  readonly setFilter: (f: StackFilter) => void;
  // What is not shown of what counts; left out where there is no such thing.
  readonly hide?: readonly string[];
  readonly setHide?: (hide: readonly string[]) => void;
}

const longest = 40;

function brief(name: string): string {
  const s = name.length > longest ? shortName(name) : name;
  return s.length > longest ? `${s.slice(0, longest - 1)}…` : s;
}

// FilterBar says which stacks count and takes conditions away again, one by one; nothing where all count.
export function FilterBar({ filter, setFilter, hide = [], setHide }: Props) {
  if (isNoFilter(filter) && hide.length === 0) return null;
  const without = (list: readonly FrameMatcher[], i: number): readonly FrameMatcher[] => list.filter((_, k) => k !== i);
  return (
    <ul className="chips" aria-label="Filters">
      {filter.callSite.length > 0 && (
        <Chip kind="call site" text={filter.callSite.map(brief).slice(-2).join(" › ")} title={filter.callSite.join("\n")} drop={() => setFilter({ ...filter, callSite: [] })} />
      )}
      {filter.keep.map((m, i) => (
        <Chip key={`keep ${i}`} kind="only" text={condition(m)} title={`Only stacks with ${formatMatcher(m)}`} drop={() => setFilter({ ...filter, keep: without(filter.keep, i) })} />
      ))}
      {filter.drop.map((m, i) => (
        <Chip key={`drop ${i}`} kind="without" text={condition(m)} title={`No stacks with ${formatMatcher(m)}`} drop={() => setFilter({ ...filter, drop: without(filter.drop, i) })} />
      ))}
      {hide.map((h) => (
        <Chip key={`hide ${h}`} kind="hidden" text={baseName(h)} title={`Frames of ${h} count for their callers`} drop={() => setHide?.(hide.filter((o) => o !== h))} />
      ))}
      {filter.keep.length + filter.drop.length + hide.length > 1 && (
        <li>
          <button
            className="quiet-button"
            onClick={() => {
              if (hide.length > 0) setHide?.([]);
              if (!isNoFilter(filter)) setFilter(noFilter);
            }}
          >
            Clear
          </button>
        </li>
      )}
    </ul>
  );
}

function condition(m: FrameMatcher): string {
  const value = m.regexp ? `/${m.value}/` : brief(m.field === "function" ? m.value : baseName(m.value));
  return m.field === "function" ? value : `${m.field} ${value}`;
}

function Chip(p: { readonly kind: string; readonly text: string; readonly title: string; readonly drop: () => void }) {
  return (
    <li className="chip" title={p.title}>
      <span className="quiet">{p.kind}</span>
      <span className="mono ellipsis">{p.text}</span>
      <button aria-label={`Remove: ${p.kind} ${p.text}`} onClick={p.drop}>
        ×
      </button>
    </li>
  );
}

// AddFilter is the button that opens a form for one more condition.
export function AddFilter({ filter, setFilter }: { readonly filter: StackFilter; readonly setFilter: (f: StackFilter) => void }) {
  const [open, setOpen] = useState(false);
  const [what, setWhat] = useState<"keep" | "drop">("keep");
  const [field, setField] = useState<FrameField>("function");
  const [value, setValue] = useState("");
  const box = useOutside(open, () => setOpen(false));
  const add = (): void => {
    if (value === "") return;
    setFilter({ ...filter, [what]: [...filter[what], { field, value, regexp: true }] });
    setValue("");
    setOpen(false);
  };
  return (
    <div className="add-filter" ref={box}>
      <button className="quiet-button" aria-expanded={open} aria-haspopup="dialog" title="Which stacks count" onClick={() => setOpen(!open)}>
        Filter
      </button>
      {open && (
        <div
          className="popup"
          role="dialog"
          aria-label="Which stacks count"
          onKeyDown={(e) => {
            if (e.key === "Escape") setOpen(false);
          }}
        >
          <form
            className="filter-form"
            onSubmit={(e) => {
              e.preventDefault();
              add();
            }}
          >
            <div className="select small">
              <select aria-label="Keep or drop" value={what} onChange={(e) => setWhat(e.target.value as "keep" | "drop")}>
                <option value="keep">only stacks with</option>
                <option value="drop">no stacks with</option>
              </select>
              <Chevron />
            </div>
            <div className="select small">
              <select aria-label="Of a frame" value={field} onChange={(e) => setField(e.target.value as FrameField)}>
                <option value="function">function</option>
                <option value="file">source file</option>
                <option value="binary">binary</option>
              </select>
              <Chevron />
            </div>
            <input className="mono" aria-label="Regular expression" placeholder="regular expression" value={value} autoFocus spellCheck={false} onChange={(e) => setValue(e.target.value)} />
            <button className="primary" disabled={value === ""}>
              Add
            </button>
          </form>
        </div>
      )}
    </div>
  );
}
