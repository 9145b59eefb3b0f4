import type { Api, Selection, TypeInfo } from "../api/client";
import { defaultRange, isLive } from "../lib/timerange";
import type { ViewState } from "../lib/urlstate";
import { Brand } from "./Brand";
import type { Go } from "./hooks";
import { RangePicker } from "./RangePicker";
import { SelectorInput } from "./SelectorInput";
import { ServicePicker } from "./ServicePicker";
import { ThemeSwitch } from "./ThemeSwitch";
import { TypePicker } from "./TypePicker";

interface Props {
  readonly api: Api;
  readonly state: ViewState;
  readonly go: Go;
  // Undefined until the server has told them.
  readonly types: readonly TypeInfo[] | undefined;
  readonly type: TypeInfo | undefined;
  readonly selection: Selection | undefined;
  readonly refused: boolean;
  readonly busy: boolean;
  readonly refresh: () => void;
  readonly theme: "light" | "dark";
}

export function TopBar({ api, state, go, types, type, selection, refused, busy, refresh, theme }: Props) {
  const select = (selector: string): void => go({ selector, zoom: [] });
  return (
    <header className="topbar">
      <Brand />
      <TypePicker types={types} type={type} set={(id) => go({ type: id, zoom: [] })} />
      <ServicePicker api={api} selection={selection} selector={state.selector} submit={select} />
      <SelectorInput api={api} selection={selection} value={state.selector} refused={refused} submit={select} />
      <RangePicker range={state.range} live={state.live} set={(range) => go({ range, live: state.live && isLive(range) })} />
      <div className="group">
        <button className="icon" title="Ask again now" aria-label="Refresh" onClick={refresh} data-busy={busy}>
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <path d="M13.2 6A5.6 5.6 0 1 0 13.6 9M13.6 2.4V6H10" fill="none" stroke="currentColor" strokeWidth="1.6" />
          </svg>
        </button>
        <button
          className="live"
          aria-pressed={state.live}
          title="Ask again every few seconds"
          onClick={() => go({ live: !state.live, range: state.live || isLive(state.range) ? state.range : defaultRange })}
        >
          Live
        </button>
      </div>
      <ThemeSwitch theme={theme} state={state.theme} set={(theme) => go({ theme }, "replace")} />
    </header>
  );
}
