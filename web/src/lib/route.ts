// The pages and their paths. What they all understand in the query (type, selector, range, theme) goes along from one
// to the other.

export const pages = [
  { path: "/", name: "Explore", title: "One selection: over time, as a flame graph, as a table" },
  { path: "/compare", name: "Compare", title: "Two selections or two times: what changed" },
  { path: "/file", name: "File", title: "A profile from this computer, which the browser reads by itself" },
  { path: "/fleet", name: "Fleet", title: "What agents, targets and symbols do, and what it costs" },
] as const;

export type Path = (typeof pages)[number]["path"];

// pageAt returns the path's page; unknown ones are the first.
export function pageAt(pathname: string): Path {
  const bare = pathname.replace(/\/+$/, "");
  return pages.find((p) => p.path === (bare === "" ? "/" : bare))?.path ?? "/";
}

const shared = ["type", "q", "from", "to", "theme"];

// linkTo returns the URL of a page with what it shares with the present one's query.
export function linkTo(path: Path, search: string): string {
  const now = new URLSearchParams(search);
  const then = new URLSearchParams();
  for (const key of shared) {
    const value = now.get(key);
    if (value !== null) then.set(key, value);
  }
  const text = then.toString();
  return text === "" ? path : `${path}?${text}`;
}
