import { useEffect, useId, useRef, useState } from "react";
import { Chevron } from "./RangePicker";

export interface Choice {
  readonly value: string;
  readonly label: string;
  readonly note?: string;
}

interface Props {
  readonly text: string;
  readonly label: string;
  readonly placeholder: string;
  readonly choices: readonly Choice[];
  readonly className?: string;
  readonly mono?: boolean;
  readonly chevron?: boolean;
  // Shown below the choices, such as "more: type to narrow".
  readonly footer?: string;
  readonly invalid?: boolean;
  // True if enter with nothing chosen takes the first choice.
  readonly firstOnEnter?: boolean;
  readonly change: (text: string, caret: number) => void;
  readonly caret?: (caret: number) => void;
  // Returns the text and caret after the choice; open tells whether to go on completing.
  readonly choose: (c: Choice) => { text: string; caret: number; open: boolean };
  readonly submit: () => void;
  readonly cancel: () => void;
}

// Combo is a text field with a list of completions, after the ARIA pattern of that name.
export function Combo(p: Props) {
  const id = useId();
  const input = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLUListElement>(null);
  const [open, setOpen] = useState(false);
  const [at, setAt] = useState(-1);
  const want = useRef<number | undefined>(undefined);

  useEffect(() => setAt(-1), [p.choices]);
  useEffect(() => {
    if (want.current !== undefined && input.current !== null) {
      input.current.setSelectionRange(want.current, want.current);
      p.caret?.(want.current);
      want.current = undefined;
    }
  });
  useEffect(() => {
    list.current?.children[at]?.scrollIntoView({ block: "nearest" });
  }, [at]);

  const take = (c: Choice): void => {
    const next = p.choose(c);
    want.current = next.caret;
    setOpen(next.open);
    setAt(-1);
    if (!next.open) input.current?.blur();
  };
  const shown = open && (p.choices.length > 0 || p.footer !== undefined);

  return (
    <div className={`combo ${p.className ?? ""}`}>
      <input
        ref={input}
        className={p.mono === true ? "mono" : ""}
        role="combobox"
        aria-label={p.label}
        aria-expanded={shown}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-invalid={p.invalid === true}
        aria-activedescendant={shown && at >= 0 ? `${id}-${at}` : undefined}
        placeholder={p.placeholder}
        value={p.text}
        spellCheck={false}
        autoComplete="off"
        autoCapitalize="off"
        onFocus={() => setOpen(true)}
        onBlur={() => {
          setOpen(false);
          p.submit();
        }}
        onChange={(e) => {
          setOpen(true);
          p.change(e.target.value, e.target.selectionStart ?? e.target.value.length);
        }}
        onSelect={(e) => p.caret?.(e.currentTarget.selectionStart ?? 0)}
        onKeyDown={(e) => {
          const n = p.choices.length;
          if (e.key === "ArrowDown" && n > 0) {
            setOpen(true);
            setAt((at + 1) % n);
          } else if (e.key === "ArrowUp" && n > 0) setAt((at - 1 + n) % n);
          else if ((e.key === "Enter" || e.key === "Tab") && shown && at >= 0) {
            const c = p.choices[at];
            if (c !== undefined) take(c);
          } else if (e.key === "Enter") {
            const c = p.choices[0];
            if (p.firstOnEnter === true && c !== undefined) take(c);
            else {
              setOpen(false);
              input.current?.blur();
            }
          } else if (e.key === "Escape") {
            if (shown) setOpen(false);
            else {
              p.cancel();
              want.current = undefined;
              input.current?.blur();
            }
          } else return;
          e.preventDefault();
        }}
      />
      {p.chevron === true && <Chevron />}
      {shown && (
        <div className="popup">
          <ul id={`${id}-list`} role="listbox" aria-label={p.label} ref={list}>
            {p.choices.map((c, i) => (
              <li
                key={c.value}
                id={`${id}-${i}`}
                role="option"
                aria-selected={i === at}
                className={p.mono === true ? "mono" : ""}
                // Before the field loses the focus.
                onPointerDown={(e) => {
                  e.preventDefault();
                  take(c);
                }}
              >
                <span>{c.label}</span>
                {c.note !== undefined && <small>{c.note}</small>}
              </li>
            ))}
          </ul>
          {p.footer !== undefined && <p className="popup-note">{p.footer}</p>}
        </div>
      )}
    </div>
  );
}
