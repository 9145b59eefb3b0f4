import { useRef, useState, type ReactNode } from "react";

const storageKey = "perfuse.split";

function stored(): number {
  const n = Number(localStorage.getItem(storageKey));
  return n >= 0.2 && n <= 0.85 ? n : 0.63;
}

// Split puts two parts side by side with a border that can be dragged; narrow screens show them below each other.
// Its place is a habit of the reader, not a part of the view: it stays in this browser.
export function Split({ left, right }: { left: ReactNode; right: ReactNode }) {
  const [share, setShare] = useState(stored);
  const ref = useRef<HTMLDivElement>(null);
  const set = (n: number): void => {
    const v = Math.min(0.85, Math.max(0.2, n));
    setShare(v);
    localStorage.setItem(storageKey, v.toFixed(3));
  };
  return (
    <div className="split" ref={ref}>
      <div className="split-left" style={{ flexBasis: `${share * 100}%` }}>
        {left}
      </div>
      <div
        className="split-bar"
        role="separator"
        aria-orientation="vertical"
        aria-label="Width of the graph"
        aria-valuenow={Math.round(share * 100)}
        aria-valuemin={20}
        aria-valuemax={85}
        tabIndex={0}
        onPointerDown={(e) => e.currentTarget.setPointerCapture(e.pointerId)}
        onPointerMove={(e) => {
          const r = ref.current?.getBoundingClientRect();
          if (r !== undefined && e.currentTarget.hasPointerCapture(e.pointerId)) set((e.clientX - r.left) / r.width);
        }}
        onDoubleClick={() => set(0.63)}
        onKeyDown={(e) => {
          if (e.key === "ArrowLeft") set(share - 0.02);
          else if (e.key === "ArrowRight") set(share + 0.02);
          else return;
          e.preventDefault();
        }}
      />
      <div className="split-right">{right}</div>
    </div>
  );
}
