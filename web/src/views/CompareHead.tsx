import type { TypeInfo } from "../api/client";
import { sidesOf, withSides, type CompareState } from "../lib/compareurl";
import { Brand } from "./Brand";
import type { Change } from "./hooks";
import { ThemeSwitch } from "./ThemeSwitch";
import { TypePicker } from "./TypePicker";

interface Props {
  readonly state: CompareState;
  readonly go: Change<CompareState>;
  // Undefined until the server has told them.
  readonly types: readonly TypeInfo[] | undefined;
  readonly type: TypeInfo | undefined;
  readonly busy: boolean;
  // The range ends now.
  readonly moving: boolean;
  readonly refresh: () => void;
  readonly theme: "light" | "dark";
}

// CompareHead has what both sides share.
export function CompareHead({ state, go, types, type, busy, moving, refresh, theme }: Props) {
  const swap = (): void => {
    const now = Date.now();
    const { before, after } = sidesOf(state, now);
    go(withSides(after, before, now));
  };
  return (
    <header className="topbar">
      <Brand />
      <TypePicker types={types} type={type} set={(id) => go({ type: id, zoom: [] })} />
      <button className="tall" title="Before becomes after, and after before" onClick={swap}>
        Swap sides
      </button>
      <span className="grow" />
      <button className="icon" title={moving ? "Ask again now: ranges that end now move on" : "Ask again now"} aria-label="Refresh" onClick={refresh} data-busy={busy}>
        <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
          <path d="M13.2 6A5.6 5.6 0 1 0 13.6 9M13.6 2.4V6H10" fill="none" stroke="currentColor" strokeWidth="1.6" />
        </svg>
      </button>
      <ThemeSwitch theme={theme} state={state.theme} set={(theme) => go({ theme }, "replace")} />
    </header>
  );
}
