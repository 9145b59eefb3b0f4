import { useEffect, useMemo, useRef, useState } from "react";
import type { Api, Selection, SeriesAnswer } from "../api/client";
import { withEqual } from "../lib/selector";
import { outline, stack, type Layer } from "../lib/series";
import { absolute, atLeast, formatMoment, formatSpan, leastSelection, timeTicks, type Span } from "../lib/timerange";
import { formatCount, formatRate, ticks, type Rate } from "../lib/units";
import type { ViewState } from "../lib/urlstate";
import { staleness, useRequest, useWidth, type Go, type Request } from "./hooks";
import { Notice } from "./States";
import { Chevron } from "./RangePicker";

// An answer with the question's span and grouping.
export interface ShownSeries extends SeriesAnswer {
  readonly span: Span;
  readonly groupBy: string;
}

interface Props {
  readonly api: Api;
  readonly request: Request<ShownSeries>;
  readonly selection: Selection | undefined;
  readonly span: Span;
  readonly name: string;
  readonly rate: Rate;
  readonly state: ViewState;
  readonly go: Go;
  readonly widen: () => void;
  // The scale has room for this value as well: charts beside each other have one scale.
  readonly room?: number;
  // Likewise, the values of the label that is grouped by in the order of their colours.
  readonly keys?: readonly string[];
}

const height = 132;
// The width that the card of values may need.
const cardWidth = 230;
const margin = { left: 74, right: 12, top: 8, bottom: 20 };

export function Chart({ api, request, selection, span, name, rate, state, go, widen, room = 0, keys }: Props) {
  const [box, width] = useWidth();
  const { data } = request;
  // While the next answer is on its way, the old one keeps its own axis and grouping.
  const axis = data?.span ?? span;
  const stacked = useMemo(() => stack(data?.series ?? [], axis, data?.stepMillis ?? 0, rate, data?.asked ?? axis.end), [data, axis, rate]);
  const unit = data?.unit ?? "";
  const inner = { width: Math.max(10, width - margin.left - margin.right), height: height - margin.top - margin.bottom };
  const yTicks = ticks(Math.max(stacked.max, room), unit, rate, 4);
  const top = yTicks.at(-1) || 1;
  const x = (ms: number): number => margin.left + ((ms - axis.start) / (axis.end - axis.start)) * inner.width;
  const y = (v: number): number => margin.top + inner.height - (v / top) * inner.height;
  const at = (px: number): number => axis.start + (Math.min(Math.max(px - margin.left, 0), inner.width) / inner.width) * (axis.end - axis.start);
  const paths = useMemo(
    () =>
      stacked.layers.map((_, i) =>
        outline(stacked, i, (s) => Math.min(Math.max(x(stacked.start + s * stacked.step), margin.left), margin.left + inner.width), y),
      ),
    [stacked, width, top],
  );

  // The pointer or the keyboard's mark, and the other end of what is being selected; milliseconds.
  const [mark, setMark] = useState<number>();
  const [anchor, setAnchor] = useState<number>();
  const dragging = useRef(false);
  useEffect(() => {
    setAnchor(undefined);
    dragging.current = false;
  }, [span.start, span.end]);

  const drawn = mark !== undefined && anchor !== undefined ? { start: Math.min(mark, anchor), end: Math.max(mark, anchor) } : undefined;
  // A click is no selection; a short one grows to what has profiles.
  const brushed = drawn !== undefined && drawn.end - drawn.start >= (axis.end - axis.start) / 500 ? atLeast(drawn, leastSelection, axis) : undefined;
  const apply = (s: Span): void => {
    setAnchor(undefined);
    go({ range: absolute(s), live: false });
  };

  const names = useRequest(selection === undefined ? undefined : `${selection.type} ${selection.selector} ${Math.round(span.start / 60_000)}`, (signal) =>
    api.labelNames(selection as Selection, signal),
  );
  const known = names.data ?? [];
  const groups = known.some((n) => n.name === state.groupBy) || state.groupBy === "" ? known : [...known, { name: state.groupBy, values: 0 }];

  const step = mark === undefined ? -1 : Math.min(stacked.steps - 1, Math.max(0, Math.floor((mark - stacked.start) / stacked.step)));
  const empty = data !== undefined && stacked.max === 0;
  const colour = (i: number, l: Layer): string => (l.other ? "var(--series-other)" : `var(--series-${((keys?.indexOf(l.key) ?? i) % 8) + 1})`);
  const groupBy = data?.groupBy ?? "";
  const grouped = groupBy !== "";
  const mean = formatRate(stacked.mean, unit, rate);

  return (
    <section className="panel chart" aria-label={`${name} over time`}>
      <div className="chart-head">
        <h2>{name}</h2>
        {data !== undefined && !empty && <span className="quiet num">{mean} on average</span>}
        <span className="grow" />
        {brushed !== undefined ? (
          <span className="quiet num">{formatSpan(brushed)}</span>
        ) : (
          <span className="quiet wide">drag to select, double click for twice the range</span>
        )}
        <div className="select small">
          <select aria-label="Group by label" value={state.groupBy} onChange={(e) => go({ groupBy: e.target.value })}>
            <option value="">not grouped</option>
            {groups.map((n) => (
              <option key={n.name} value={n.name}>
                by {n.name}
                {n.values > 0 && ` (${formatCount(n.values)})`}
              </option>
            ))}
          </select>
          <Chevron />
        </div>
      </div>
      {/* The flame graph below tells of a server that is away or of a bad selector. */}
      {request.error?.kind === "failed" && <Notice error={request.error} retry={request.retry} />}
      <div className="chart-box" ref={box} data-stale={staleness(request)} data-first={data === undefined}>
        {width > 0 && (
          <svg
            width={width}
            height={height}
            tabIndex={0}
            role="application"
            aria-roledescription="time series"
            aria-label={`${name}, ${mean} on average. Arrow keys move, shift and arrow keys select, enter zooms in, minus zooms out.`}
            onPointerDown={(e) => {
              if (e.button !== 0) return;
              const px = e.clientX - e.currentTarget.getBoundingClientRect().left;
              e.currentTarget.setPointerCapture(e.pointerId);
              dragging.current = true;
              setMark(at(px));
              setAnchor(at(px));
            }}
            onPointerMove={(e) => setMark(at(e.clientX - e.currentTarget.getBoundingClientRect().left))}
            onPointerUp={() => {
              if (dragging.current && brushed !== undefined) apply(brushed);
              else if (dragging.current) setAnchor(undefined);
              dragging.current = false;
            }}
            onPointerCancel={() => {
              dragging.current = false;
              setAnchor(undefined);
            }}
            onPointerLeave={() => {
              if (!dragging.current) setMark(undefined);
            }}
            onDoubleClick={widen}
            onBlur={() => {
              setMark(undefined);
              setAnchor(undefined);
            }}
            onKeyDown={(e) => {
              const from = mark ?? axis.end;
              if (e.key === "ArrowLeft" || e.key === "ArrowRight") {
                const to = from + (e.key === "ArrowLeft" ? -1 : 1) * stacked.step;
                if (e.shiftKey && anchor === undefined) setAnchor(from);
                if (!e.shiftKey) setAnchor(undefined);
                setMark(Math.min(axis.end, Math.max(axis.start, to)));
              } else if (e.key === "Enter" && brushed !== undefined) apply(brushed);
              else if (e.key === "Escape") setAnchor(undefined);
              else if (e.key === "-") widen();
              else return;
              e.preventDefault();
            }}
          >
            {yTicks.map((v) => (
              <g key={v} className="tick">
                <line x1={margin.left} x2={margin.left + inner.width} y1={Math.round(y(v)) + 0.5} y2={Math.round(y(v)) + 0.5} />
                <text x={margin.left - 8} y={y(v)} textAnchor="end" dominantBaseline="middle">
                  {formatRate(v, unit, rate)}
                </text>
              </g>
            ))}
            {timeTicks(axis, Math.max(2, Math.floor(inner.width / 110))).map((t) => (
              <text key={t.at} className="tick-x" x={Math.min(x(t.at), width - 18)} y={height - 5} textAnchor="middle">
                {t.label}
              </text>
            ))}
            {paths.map((d, i) => {
              const l = stacked.layers[i] as Layer;
              return <path key={`${l.key} ${l.other}`} d={d} fill={colour(i, l)} fillOpacity={grouped ? 0.85 : 0.55} />;
            })}
            {brushed !== undefined && (
              <rect className="brush" x={x(brushed.start)} width={Math.max(0, x(brushed.end) - x(brushed.start))} y={margin.top} height={inner.height} />
            )}
            {mark !== undefined && <line className="mark" x1={x(mark)} x2={x(mark)} y1={margin.top} y2={margin.top + inner.height} />}
            {empty && (
              <text className="tick" x={margin.left + inner.width / 2} y={margin.top + inner.height / 2} textAnchor="middle">
                no samples in this range
              </text>
            )}
          </svg>
        )}
        {mark !== undefined && step >= 0 && !empty && data !== undefined && (
          <div
            className="chart-card num"
            style={x(mark) > width / 2 ? { right: Math.min(width - x(mark) + 10, Math.max(8, width - cardWidth)) } : { left: Math.min(x(mark) + 10, Math.max(8, width - cardWidth)) }}
          >
            <div className="quiet">{formatMoment(stacked.start + step * stacked.step, axis.end - axis.start)}</div>
            {stacked.layers.map((l, i) => ({ l, i })).filter(({ l }) => (l.values[step] as number) > 0).slice(0, 6).map(({ l, i }) => (
              <div key={`${l.key} ${l.other}`} className="chart-card-row">
                {grouped && <i style={{ background: colour(i, l) }} />}
                {grouped && <span className="ellipsis">{l.other ? "other" : l.key === "" ? "(none)" : l.key}</span>}
                <b>{formatRate(l.values[step] as number, unit, rate)}</b>
              </div>
            ))}
          </div>
        )}
      </div>
      {grouped && (
        <ul className="legend">
          {stacked.layers.map((l, i) => (
            <li key={`${l.key} ${l.other}`}>
              <button
                disabled={l.other || l.key === ""}
                title={l.other ? "What exceeds the largest few, summed" : `Only ${groupBy}="${l.key}"`}
                onClick={() => go({ selector: withEqual(state.selector, groupBy, l.key), zoom: [] })}
              >
                <i style={{ background: colour(i, l) }} />
                <span className="ellipsis">{l.other ? "other" : l.key === "" ? `no ${groupBy}` : l.key}</span>
                <span className="quiet num">{formatRate(l.mean, unit, rate)}</span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </section>
  );
}
