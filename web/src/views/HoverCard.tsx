import { useLayoutEffect, useRef, useState, type ReactNode } from "react";
import { baseName } from "../lib/names";
import { FrameKind, frameOf, type FlameTree } from "../lib/tree";
import { formatCount, formatShare, formatValue } from "../lib/units";

const kinds: Readonly<Record<FrameKind, string>> = {
  [FrameKind.NATIVE]: "native",
  [FrameKind.KERNEL]: "kernel",
  [FrameKind.JIT]: "compiled at run time",
  [FrameKind.INTERPRETED]: "interpreted",
  [FrameKind.UNWIND]: "the stack ends here: unwinding stopped",
  [FrameKind.CUT]: "folded on the server: click to expand",
  [FrameKind.ROOT]: "all samples",
  [FrameKind.LABEL]: "label",
};

// HoverCard says everything about the node under the pointer; children are its numbers.
export function HoverCard({ tree, node, x, y, children }: { tree: FlameTree; node: number; x: number; y: number; children: ReactNode }) {
  const ref = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ width: 320, height: 120 });
  const f = frameOf(tree, node);
  useLayoutEffect(() => {
    const r = ref.current?.getBoundingClientRect();
    if (r !== undefined && (r.width !== size.width || r.height !== size.height)) setSize({ width: r.width, height: r.height });
  });
  const left = Math.max(8, Math.min(x + 14, innerWidth - size.width - 8));
  const top = y + 18 + size.height > innerHeight ? Math.max(8, y - size.height - 12) : y + 18;
  const place = f.file === "" ? "" : f.startLine > 0 ? `${f.file}:${f.startLine}` : f.file;
  return (
    <div className="card hover-card" ref={ref} style={{ left, top }}>
      <div className="card-name mono">{f.kind === FrameKind.ROOT ? "total" : f.name}</div>
      {children}
      <div className="card-facts">
        {place !== "" && <div className="mono">{place}</div>}
        <div>
          {f.mapping !== "" && f.kind !== FrameKind.KERNEL && (
            <>
              <span className="mono">{baseName(f.mapping)}</span> ·{" "}
            </>
          )}
          {kinds[f.kind]}
          {f.inlined && ", inlined into its caller"}
          {f.kind === FrameKind.ROOT && tree.cutCount > 0 && `; ${formatCount(tree.cutCount)} of ${formatCount(tree.nodeCount)} nodes folded as (small)`}
        </div>
      </div>
    </div>
  );
}

// NodeValues are the numbers of a node of one profile.
export function NodeValues({ tree, node, zoomed }: { tree: FlameTree; node: number; zoomed: number }) {
  const self = tree.self[node] as number;
  const total = tree.total[node] as number;
  const all = tree.total[0] as number;
  const part = tree.total[zoomed] as number;
  return (
    <table className="num">
      <thead>
        <tr>
          <td />
          <th>{unitWord(tree.unit)}</th>
          <th>of total</th>
          {zoomed > 0 && <th>of zoomed</th>}
        </tr>
      </thead>
      <tbody>
        {(
          [
            ["total", total],
            ["self", self],
          ] as const
        ).map(([name, v]) => (
          <tr key={name}>
            <th>{name}</th>
            <td>{formatValue(v, tree.unit)}</td>
            <td>{formatShare(v, all)}</td>
            {zoomed > 0 && <td>{formatShare(v, part)}</td>}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function unitWord(unit: string): string {
  if (unit === "nanoseconds") return "time";
  if (unit === "bytes") return "size";
  return unit;
}
