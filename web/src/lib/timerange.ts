// Time ranges as people write them and as the URL carries them: "now", "now-1h", "now-1h30m", RFC 3339, a local
// "2026-11-23 14:05", or milliseconds since the Unix epoch.

export interface TimeRange {
  readonly from: string;
  readonly to: string;
}

// Milliseconds since the Unix epoch.
export interface Span {
  readonly start: number;
  readonly end: number;
}

export interface Preset {
  readonly label: string;
  readonly from: string;
}

export const presets: readonly Preset[] = [
  { label: "5 min", from: "now-5m" },
  { label: "15 min", from: "now-15m" },
  { label: "1 hour", from: "now-1h" },
  { label: "3 hours", from: "now-3h" },
  { label: "12 hours", from: "now-12h" },
  { label: "1 day", from: "now-1d" },
  { label: "7 days", from: "now-7d" },
  { label: "30 days", from: "now-30d" },
];

export const defaultRange: TimeRange = { from: "now-15m", to: "now" };

const unitMillis: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
};

// parseDuration reads "90s", "1h30m"; undefined if it is none.
export function parseDuration(text: string): number | undefined {
  if (!/^(\d+(\.\d+)?(ms|[smhdw]))+$/.test(text)) return undefined;
  let sum = 0;
  for (const m of text.matchAll(/(\d+(?:\.\d+)?)(ms|[smhdw])/g)) sum += Number(m[1]) * (unitMillis[m[2] as string] as number);
  return sum;
}

// parseTime returns milliseconds since the epoch, or undefined if text is no time. now is the present in the same.
export function parseTime(text: string, now: number): number | undefined {
  const t = text.trim();
  if (t === "now") return now;
  const relative = /^(?:now)?\s*([-+])\s*(.+)$/.exec(t);
  if (relative !== null) {
    const d = parseDuration((relative[2] as string).replace(/\s+/g, ""));
    if (d !== undefined) return now + (relative[1] === "-" ? -d : d);
  }
  if (/^\d{12,14}$/.test(t)) return Number(t);
  if (/^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?$/.test(t)) {
    // A date alone is local midnight, as a time without a zone is local.
    const ms = Date.parse(t.length === 10 ? `${t}T00:00` : t.replace(" ", "T"));
    if (!Number.isNaN(ms)) return ms;
  }
  return undefined;
}

// resolve returns the range's span, or what is wrong with it in words.
export function resolve(r: TimeRange, now: number): Span | string {
  const start = parseTime(r.from, now);
  if (start === undefined) return `“${r.from}” is no time: write now-1h or 2026-11-23 14:05`;
  const end = parseTime(r.to, now);
  if (end === undefined) return `“${r.to}” is no time: write now or 2026-11-23 14:05`;
  if (end <= start) return "the range ends before it begins";
  return { start, end };
}

// isLive tells whether the range moves with the clock.
export function isLive(r: TimeRange): boolean {
  return /^now\b/.test(r.to.trim());
}

// absolute writes a span as a range that does not move.
export function absolute(s: Span): TimeRange {
  const iso = (ms: number): string => new Date(Math.round(ms)).toISOString().replace(".000Z", "Z");
  return { from: iso(s.start), to: iso(s.end) };
}

// widen returns a range with the same middle and twice the width, not beyond now. A live range stays live.
export function widen(r: TimeRange, now: number): TimeRange {
  const s = resolve(r, now);
  if (typeof s === "string") return defaultRange;
  const width = s.end - s.start;
  if (isLive(r)) return { from: `now-${writeDuration(width * 2)}`, to: "now" };
  const end = Math.min(s.end + width / 2, Math.max(now, s.end));
  return absolute({ start: end - 2 * width, end });
}

// writeDuration is what parseDuration reads: "1h30m".
export function writeDuration(ms: number): string {
  let rest = Math.max(1, Math.round(ms));
  let out = "";
  for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["m", 60_000], ["s", 1000], ["ms", 1]] as const) {
    const n = Math.floor(rest / size);
    if (n > 0) out += `${n}${unit}`;
    rest -= n * size;
  }
  return out;
}

// label says what the range is on its button: "last 15 min" or "Nov 23 14:05 – 14:20".
export function label(r: TimeRange): string {
  const back = /^now-(.+)$/.exec(r.from.trim());
  if (isLive(r) && r.to.trim() === "now" && back !== null) {
    const known = presets.find((p) => p.from === r.from.trim());
    return `last ${known?.label ?? (back[1] as string)}`;
  }
  const s = resolve(r, Date.now());
  if (typeof s === "string") return `${r.from} – ${r.to}`;
  return formatSpan(s);
}

const day = new Intl.DateTimeFormat("en", { month: "short", day: "numeric" });

export function formatSpan(s: Span): string {
  const precise = s.end - s.start < 10 * 60_000;
  const a = new Date(s.start);
  const b = new Date(s.end);
  const sameDay = a.toDateString() === b.toDateString();
  return `${day.format(a)} ${clock(a, precise)} – ${sameDay ? "" : `${day.format(b)} `}${clock(b, precise)}`;
}

function clock(d: Date, seconds: boolean): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  return `${two(d.getHours())}:${two(d.getMinutes())}${seconds ? `:${two(d.getSeconds())}` : ""}`;
}

// formatMoment writes a time of the chart's pointer, to the second when the span is short.
export function formatMoment(ms: number, width: number): string {
  const d = new Date(ms);
  const c = clock(d, width < 2 * 3_600_000);
  return width > 20 * 3_600_000 ? `${day.format(d)} ${c}` : c;
}

// timeTicks returns round local times inside the span, at most want of them.
export function timeTicks(s: Span, want: number): { at: number; label: string }[] {
  const width = s.end - s.start;
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 2592000];
  const step = (steps.find((n) => width / (n * 1000) <= want) ?? 2592000) * 1000;
  const zone = new Date(s.start).getTimezoneOffset() * 60_000;
  const out: { at: number; label: string }[] = [];
  for (let at = Math.ceil((s.start - zone) / step) * step + zone; at <= s.end; at += step) {
    const d = new Date(at);
    out.push({ at, label: step >= 86_400_000 ? day.format(d) : clock(d, step < 60_000) });
  }
  return out;
}

// A profile counts where it began. Three times as long as an agent's usual interval, a span that ends now has one.
export const leastSelection = 30_000;

// atLeast widens a span around its middle, but not beyond the end of the one it lies in.
export function atLeast(s: Span, least: number, within: Span): Span {
  if (s.end - s.start >= least) return s;
  const end = Math.min((s.start + s.end + least) / 2, Math.max(within.end, s.end));
  return { start: end - least, end };
}
