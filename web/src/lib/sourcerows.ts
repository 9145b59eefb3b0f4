// A source file's lines with what they cost: with a text all of its lines, without one those that have a value.

export interface SourceRow {
  // 0: unknown.
  readonly line: number;
  readonly text: string;
  readonly self: number;
  readonly total: number;
}

interface LineValue {
  readonly line: number;
  readonly self: number;
  readonly total: number;
}

// sourceRows lays values beside a text. What lies beyond its end, as when it is of another version, comes after it.
export function sourceRows(values: readonly LineValue[], text: string): SourceRow[] {
  if (text === "") return values.map((v) => ({ ...v, text: "" }));
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  const rows: SourceRow[] = lines.map((t, i) => ({ line: i + 1, text: t.replace(/\t/g, "    "), self: 0, total: 0 }));
  for (const v of values) {
    const at = v.line - 1;
    const row = rows[at];
    if (v.line > 0 && v.line <= lines.length && row !== undefined) rows[at] = { ...row, self: v.self, total: v.total };
    else rows.push({ ...v, text: "" });
  }
  return rows;
}
