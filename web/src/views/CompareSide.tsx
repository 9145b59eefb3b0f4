import { useMemo } from "react";
import type { Api, Selection } from "../api/client";
import { relationOf, relations, withRangeAfter, withSides, type CompareState, type Side } from "../lib/compareurl";
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
  // The largest value of both sides' charts, and what they are grouped by, in one order.
  readonly room: number;
  readonly keys: readonly string[];
}

// CompareSide chooses one side: which series, when, and how that was over time.
export function CompareSide({ api, name, sides, now, selection, state, go, what, rate, series, room, keys }: Props) {
  const side = sides[name];
  const { groupBy } = state;

  // What is before goes along with what is after unless it was chosen by itself.
  const setRange = (range: TimeRange): void => go(name === "after" ? withRangeAfter(sides, range, now) : withSides({ ...side, range }, sides.after, now));
  const select = (selector: string): void => go({ ...(name === "after" ? { selector } : withSides({ ...side, selector }, sides.after, now)), zoom: [] });
  // The chart speaks of one view: this side's.
  const view = useMemo((): ViewState => ({ ...initial, selector: side.selector, range: side.range, groupBy }), [side, groupBy]);
  const goSide: Go = (change) => {
    if (change.groupBy !== undefined) go({ groupBy: change.groupBy });
    if (change.range !== undefined) setRange(change.range);
    if (change.selector !== undefined) select(change.selector);
  };
  const related = relationOf(sides.before.range, sides.after.range, now);
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
              value={related?.name ?? ""}
              onChange={(e) => {
                const chosen = relations.find((r) => r.name === e.target.value);
                if (chosen !== undefined) setRange(chosen.range(sides.after.range, now));
              }}
            >
              {related === undefined && <option value="">another time</option>}
              {relations.map((r) => (
                <option key={r.name}>{r.name}</option>
              ))}
            </select>
            <Chevron />
          </div>
        )}
        <RangePicker range={side.range} live={false} set={setRange} />
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
          widen={() => setRange(widen(side.range, Date.now()))}
          room={room}
          keys={keys}
        />
      )}
    </section>
  );
}
