import { useEffect, type RefObject } from "react";

interface Props {
  readonly box: RefObject<HTMLInputElement | null>;
  readonly text: string;
  // It is no expression.
  readonly bad: boolean;
  readonly set: (text: string) => void;
}

// SearchBox searches functions; the slash leads to it from anywhere but a text field.
export function SearchBox({ box, text, bad, set }: Props) {
  useEffect(() => {
    const slash = (e: KeyboardEvent): void => {
      if (e.key !== "/" || e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey) return;
      if (e.target instanceof Element && e.target.closest("input, select, textarea") !== null) return;
      e.preventDefault();
      box.current?.focus();
      box.current?.select();
    };
    addEventListener("keydown", slash);
    return () => removeEventListener("keydown", slash);
  }, []);
  return (
    <div className="search" data-bad={bad}>
      <input
        ref={box}
        type="search"
        className="mono"
        aria-label="Search functions"
        placeholder="Search: text, /regexp/ or “whole name”"
        value={text}
        spellCheck={false}
        onChange={(e) => set(e.target.value)}
        onKeyDown={(e) => {
          if (e.key !== "Escape") return;
          set("");
          e.currentTarget.blur();
        }}
      />
      <kbd aria-hidden="true">/</kbd>
    </div>
  );
}
