import type { Api } from "../api/client";
import { pageAt } from "../lib/route";
import { Explore } from "./Explore";
import { usePath } from "./hooks";

export function App({ api }: { api: Api }) {
  const page = pageAt(usePath());
  return <div className="app">{page === "/" && <Explore api={api} />}</div>;
}
