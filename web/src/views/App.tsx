import { lazy, Suspense } from "react";
import type { Api } from "../api/client";
import { pageAt } from "../lib/route";
import { Explore } from "./Explore";
import { usePath } from "./hooks";

const Compare = lazy(() => import("./Compare").then((m) => ({ default: m.Compare })));

export function App({ api }: { api: Api }) {
  const page = pageAt(usePath());
  return (
    <div className="app">
      <Suspense>
        {page === "/" && <Explore api={api} />}
        {page === "/compare" && <Compare api={api} />}
      </Suspense>
    </div>
  );
}
