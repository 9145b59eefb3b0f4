import { useMemo } from "react";
import { legendOf, type ChangeMode } from "../flame/change";
import { formatGrowth, type Scale, type Writer } from "../lib/change";
import { change, growth, type DiffTree } from "../lib/difftree";
import { formatShare } from "../lib/units";
import { readTokens } from "./FlameCanvas";

// DiffValues are the numbers of a node of both sides.
export function DiffValues({ tree, node, write, scale }: { tree: DiffTree; node: number; write: Writer; scale: Scale }) {
  const rows = (["total", "self"] as const).map((by) => ({ by, before: tree.before[by][node] as number, after: tree.after[by][node] as number }));
  // Shares beside shares say nothing more.
  const shares = scale !== "total";
  return (
    <table className="num">
      <thead>
        <tr>
          <td />
          <th>before</th>
          {shares && <th>of all</th>}
          <th>after</th>
          {shares && <th>of all</th>}
          <th colSpan={2}>change</th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ by, before, after }) => (
          <tr key={by}>
            <th>{by}</th>
            <td>{write.value("before", before)}</td>
            {shares && <td className="quiet">{formatShare(before, tree.before.unfilteredTotal)}</td>}
            <td>{write.value("after", after)}</td>
            {shares && <td className="quiet">{formatShare(after, tree.after.unfilteredTotal)}</td>}
            {change(tree, before, after) === 0 ? (
              <td colSpan={2}>{before === 0 && after === 0 ? "" : "the same"}</td>
            ) : (
              <>
                <td>{write.change(change(tree, before, after))}</td>
                <td>{formatGrowth(growth(tree, before, after))}</td>
              </>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

// sayChange is DiffValues for the ear.
export function sayChange(t: DiffTree, node: number, write: Writer): string {
  const [before, after] = [t.before.total[node] as number, t.after.total[node] as number];
  const [selfBefore, selfAfter] = [t.before.self[node] as number, t.after.self[node] as number];
  const changed = (b: number, a: number): string => {
    const by = change(t, b, a);
    return by === 0 ? "the same" : `${write.change(by)}, ${formatGrowth(growth(t, b, a))}`;
  };
  const self = selfBefore === 0 && selfAfter === 0 ? "" : `; self ${changed(selfBefore, selfAfter)}`;
  return `before ${write.value("before", before)}, after ${write.value("after", after)}: ${changed(before, after)}${self}`;
}

// Legend says what the colours of changes are; write is the one of the tree.
export function Legend({ tree, mode, write, theme }: { tree: DiffTree; mode: ChangeMode; write: Writer; theme: "light" | "dark" }) {
  const points = useMemo(() => legendOf(tree, mode, (v) => write.change(v), readTokens()), [tree, mode, theme]);
  return (
    <ul className="scale num" aria-label={mode === "relative" ? "Colours: how much of both sides changed" : "Colours: how much changed"}>
      {points.map(({ swatch, name }) => (
        <li key={name}>
          <i style={{ background: swatch.fill, ...(swatch.edge === "" ? {} : { boxShadow: `inset 3px 0 ${swatch.edge}` }) }} />
          {name}
        </li>
      ))}
    </ul>
  );
}
