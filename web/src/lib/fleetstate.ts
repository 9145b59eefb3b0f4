// The fleet page's state in the URL. What the other pages understand (selection and range) is kept along.

import { agentKeys, symbolKeys, targetKeys } from "./fleet";
import type { Theme } from "./urlstate";

export type Shown = "agents" | "targets" | "symbols";

export interface FleetState {
  readonly shown: Shown;
  // A column's name of what is shown, "" for the usual one; turned is against its usual direction.
  readonly sort: string;
  readonly turned: boolean;
  readonly filter: string;
  // The key of the row whose details are open, "" for none.
  readonly open: string;
  readonly theme: Theme;
  // The query of other pages.
  readonly along: string;
}

export const columnsOf: Readonly<Record<Shown, readonly string[]>> = {
  agents: Object.keys(agentKeys),
  targets: Object.keys(targetKeys),
  symbols: Object.keys(symbolKeys),
};

// usualSort is the column that needs a look first.
export const usualSort: Readonly<Record<Shown, string>> = { agents: "node", targets: "health", symbols: "unnamed" };

const others = ["type", "q", "from", "to"];
const shownNames: readonly Shown[] = ["agents", "targets", "symbols"];
const themes: readonly Theme[] = ["system", "light", "dark"];

// parseFleet reads a query string. Unknown parameters and values are left out; nothing throws.
export function parseFleet(search: string): FleetState {
  const p = new URLSearchParams(search);
  const shown = shownNames.find((s) => s === p.get("show")) ?? "agents";
  const sort = p.get("sort") ?? "";
  const turned = sort.startsWith("-");
  const column = turned ? sort.slice(1) : sort;
  const known = columnsOf[shown].includes(column);
  const along = new URLSearchParams();
  for (const key of others) {
    const value = p.get(key);
    if (value !== null) along.set(key, value);
  }
  return {
    shown,
    sort: known && column !== usualSort[shown] ? column : "",
    turned: known && turned,
    filter: p.get("filter") ?? "",
    open: p.get("open") ?? "",
    theme: themes.find((t) => t === p.get("theme")) ?? "system",
    along: along.toString(),
  };
}

// formatFleet writes a query string with what differs from the initial view, in a fixed order.
export function formatFleet(s: FleetState): string {
  const p = new URLSearchParams(s.along);
  if (s.shown !== "agents") p.set("show", s.shown);
  const column = s.sort === "" && s.turned ? usualSort[s.shown] : s.sort;
  if (column !== "") p.set("sort", s.turned ? `-${column}` : column);
  if (s.filter !== "") p.set("filter", s.filter);
  if (s.open !== "") p.set("open", s.open);
  if (s.theme !== "system") p.set("theme", s.theme);
  const text = p.toString();
  return text === "" ? "" : `?${text}`;
}
