import type { Selection } from "../api/client";
import { earlier, relations, type Side } from "../lib/compareurl";
import type { DiffTree, SideName } from "../lib/difftree";
import { formatSpan, widen } from "../lib/timerange";
import { Nothing } from "./States";

interface Props {
  readonly asked: Readonly<Record<SideName, Selection>>;
  readonly sides: Readonly<Record<SideName, Side>>;
  // When the sides were worked out.
  readonly now: number;
  readonly setSide: (side: SideName, to: Partial<Side>) => void;
}

const day = 86_400_000;
const names: readonly SideName[] = ["before", "after"];

// isOne tells that both sides ask one question: whatever is answered, nothing differs.
export function isOne({ before, after }: Readonly<Record<SideName, Selection>>): boolean {
  return before.type === after.type && before.selector === after.selector && before.span.start === after.span.start && before.span.end === after.span.end;
}

// OneSide is for two sides that are the same.
export function OneSide({ sides, now, setSide }: Omit<Props, "asked">) {
  return (
    <div className="state">
      <h2>Both sides are the same</h2>
      <p>They have one selector and one time. Choose another time or another selector for one of them.</p>
      <div className="actions">
        {relations
          .filter((r) => r.name !== "the same time")
          .map((r) => (
            <button key={r.name} onClick={() => setSide("before", { range: r.range(sides.after.range, now) })}>
              Before: {r.name}
            </button>
          ))}
      </div>
    </div>
  );
}

// emptySides are those that have nothing to compare, whatever a filter leaves out.
export function emptySides(t: DiffTree): SideName[] {
  return names.filter((side) => t[side].seriesCount === 0 || (t[side].unfilteredTotal === 0 && t[side].stackCount === 0));
}

// EmptySides says which side has nothing, and what to do.
export function EmptySides({ empty, asked, sides, now, setSide }: Props & { readonly empty: readonly SideName[] }) {
  return (
    <Nothing
      actions={empty.flatMap((side) => [
        { label: `Twice the range ${side}`, act: () => setSide(side, { range: widen(sides[side].range, Date.now()) }) },
        ...(side === "before" ? [{ label: "Before: a day before", act: () => setSide(side, { range: earlier(sides.after.range, day, now) }) }] : []),
        ...(sides[side].selector === "" ? [] : [{ label: `Without the selector ${side}`, act: () => setSide(side, { selector: "" }) }]),
      ])}
    >
      {empty.map((side) => (
        <span key={side} className="lacking">
          {side === "before" ? "Before" : "After"}: no samples of this type {sides[side].selector !== "" && <>carry <code>{sides[side].selector}</code> </>}
          in {formatSpan(asked[side].span)}.
        </span>
      ))}
    </Nothing>
  );
}
