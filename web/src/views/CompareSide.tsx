import { useMemo } from "react";
import type { Api, Selection } from "../api/client";
import { earlier, rightBefore, withSides, type CompareState, type Side } from "../lib/compareurl";
import type { SideName } from "../lib/difftree";
import { widen, type TimeRange } from "../lib/timerange";
import type { Rate } from "../lib/units";
import { initial, type ViewState } from "../lib/urlstate";
import { Chart, type ShownSeries } from "./Chart";
import type { Change, Go, Request } from "./hooks";
import { Chevron, RangePicker } from "./RangePicker";
import { SelectorInput } from "./SelectorInput";
import { ServicePicker } from "./ServicePicker";

interface Props {
  readonly api: Api;
  readonly name: SideName;
  readonly sides: Readonly<Record<SideName, Side>>;
  // When the sides were worked out.
  readonly now: number;
  // Undefined until it is known what is asked.
  readonly selection: Selection | undefined;
  readonly state: CompareState;
  readonly go: Change<CompareState>;
  // The type in words.
  readonly what: string;
  readonly rate: Rate;
  readonly series: Request<ShownSeries>;
  // The largest value of both sides' charts.
  readonly room: number;
}

const day = 86_400_000;

// The ranges before that are compared most, by name.
const choices: readonly { readonly label: string; readonly range: (after: TimeRange, now: number) => TimeRange }[] = [
  { label: "right before", range: rightBefore },
  { label: "the same time", range: (after) => after },
  { label: "a day before", range: (after, now) => earlier(after, day, now) },
  { label: "a week before", range: (after, now) => earlier(after, 7 * day, now) },
];

const same = (a: TimeRange, b: TimeRange): boolean => a.from === b.from && a.to === b.to;

// CompareSide chooses one side: which series, when, and how that was over time.
export function CompareSide({ api, name, sides, now, selection, state, go, what, rate, series, room }: Props) {
  const side = sides[name];
  const { groupBy } = state;

  // What is before goes along with a change of what is after unless it was chosen by itself.
  const set = (change: Partial<Side>): void => {
    if (name === "after") go({ ...change, ...("selector" in change ? { zoom: [] } : {}) });
    else go({ ...withSides({ ...side, ...change }, sides.after, now), zoom: "selector" in change ? [] : state.zoom });
  };
  // The chart speaks of one view: this side's.
  const view = useMemo((): ViewState => ({ ...initial, selector: side.selector, range: side.range, groupBy }), [side, groupBy]);
  const goSide: Go = (change) => {
    if (change.groupBy !== undefined) go({ groupBy: change.groupBy });
    if (change.range !== undefined) set({ range: change.range });
    if (change.selector !== undefined) set({ selector: change.selector });
  };
  const select = (selector: string): void => set({ selector });
  const usual = choices.find((c) => same(c.range(sides.after.range, now), side.range));
  return (
    <section className="side" aria-label={name === "before" ? "Before" : "After"} data-side={name}>
      <div className="side-head">
        <h2>{name === "before" ? "Before" : "After"}</h2>
        <ServicePicker api={api} selection={selection} selector={side.selector} submit={select} />
        <SelectorInput api={api} selection={selection} value={side.selector} refused={series.error?.kind === "asked"} submit={select} />
        {name === "before" && (
          <div className="select when">
            <select
              aria-label="When, as to the range after"
              value={usual?.label ?? ""}
              onChange={(e) => {
                const chosen = choices.find((c) => c.label === e.target.value);
                if (chosen !== undefined) set({ range: chosen.range(sides.after.range, now) });
              }}
            >
              {usual === undefined && <option value="">another time</option>}
              {choices.map((c) => (
                <option key={c.label}>{c.label}</option>
              ))}
            </select>
            <Chevron />
          </div>
        )}
        <RangePicker range={side.range} live={false} set={(range) => set({ range })} />
      </div>
      {selection !== undefined && (
        <Chart
          api={api}
          request={series}
          selection={selection}
          span={selection.span}
          name={`${what} ${name}`}
          rate={rate}
          state={view}
          go={goSide}
          widen={() => set({ range: widen(side.range, Date.now()) })}
          room={room}
        />
      )}
    </section>
  );
}
