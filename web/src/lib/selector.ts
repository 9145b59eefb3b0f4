// The selector language, {service_name="api", pod=~"api-.*"}, as far as the page needs it: where the caret stands for
// completion, which matchers there are, and changing one of them. The server is the judge of what is valid.

export type Operator = "=" | "!=" | "=~" | "!~";

export interface Matcher {
  readonly name: string;
  readonly op: Operator;
  readonly value: string;
}

export type TokenKind = "open" | "close" | "comma" | "name" | "op" | "value" | "junk";

export interface Token {
  readonly kind: TokenKind;
  readonly start: number;
  readonly end: number;
  // The name, the operator, or the value without quotes and escapes.
  readonly text: string;
  // False for a value whose closing quote is missing.
  readonly closed: boolean;
}

// tokenize never fails: what it does not know is junk. Blanks are left out.
export function tokenize(text: string): Token[] {
  const out: Token[] = [];
  let i = 0;
  const push = (kind: TokenKind, end: number, value: string, closed = true): void => {
    out.push({ kind, start: i, end, text: value, closed });
    i = end;
  };
  while (i < text.length) {
    const c = text.charAt(i);
    if (/\s/.test(c)) i++;
    else if (c === "{") push("open", i + 1, c);
    else if (c === "}") push("close", i + 1, c);
    else if (c === ",") push("comma", i + 1, c);
    else if (c === '"') {
      let j = i + 1;
      let value = "";
      while (j < text.length && text.charAt(j) !== '"') {
        if (text.charAt(j) === "\\" && j + 1 < text.length) j++;
        value += text.charAt(j);
        j++;
      }
      push("value", Math.min(j + 1, text.length), value, j < text.length);
    } else {
      const op = /^(=~|!~|!=|=|!)/.exec(text.slice(i));
      const name = /^[A-Za-z_][A-Za-z0-9_.]*/.exec(text.slice(i));
      if (op !== null) push("op", i + op[0].length, op[0]);
      else if (name !== null) push("name", i + name[0].length, name[0]);
      else push("junk", i + 1, c);
    }
  }
  return out;
}

// matchers returns the complete matchers of the selector, in order.
export function matchers(text: string): Matcher[] {
  const tokens = tokenize(text);
  const out: Matcher[] = [];
  for (let i = 0; i + 2 < tokens.length; i++) {
    const [n, o, v] = [tokens[i], tokens[i + 1], tokens[i + 2]];
    if (n?.kind === "name" && o?.kind === "op" && o.text !== "!" && v?.kind === "value" && v.closed) {
      out.push({ name: n.text, op: o.text as Operator, value: v.text });
    }
  }
  return out;
}

export function quote(value: string): string {
  return `"${value.replace(/[\\"]/g, (c) => `\\${c}`)}"`;
}

// write is the canonical selector; "" for none.
export function write(ms: readonly Matcher[]): string {
  return ms.length === 0 ? "" : `{${ms.map((m) => `${m.name}${m.op}${quote(m.value)}`).join(", ")}}`;
}

// withEqual returns the selector with name="value" in the place of every other matcher of name; value "" removes them.
export function withEqual(text: string, name: string, value: string): string {
  const kept: Matcher[] = [];
  let placed = value === "";
  for (const m of matchers(text)) {
    if (m.name !== name) kept.push(m);
    else if (!placed) {
      kept.push({ name, op: "=", value });
      placed = true;
    }
  }
  if (!placed) kept.push({ name, op: "=", value });
  return write(kept);
}

// equalTo returns the value that the selector demands of the label, or "".
export function equalTo(text: string, name: string): string {
  return matchers(text).find((m) => m.name === name && m.op === "=")?.value ?? "";
}

// What could be written at the caret. from and to bound the text that a completion replaces.
export type Place =
  | { readonly kind: "name"; readonly prefix: string; readonly from: number; readonly to: number }
  | { readonly kind: "operator"; readonly name: string; readonly from: number; readonly to: number }
  | { readonly kind: "value"; readonly name: string; readonly op: Operator; readonly prefix: string; readonly from: number; readonly to: number }
  | { readonly kind: "next"; readonly from: number; readonly to: number };

// placeAt says what stands at the caret. Text without braces is read as if it began with one.
export function placeAt(text: string, caret: number): Place {
  const tokens = tokenize(text);
  const before = tokens.filter((t) => t.end < caret || (t.end === caret && t.kind !== "name" && !(t.kind === "value" && !t.closed)));
  const under = tokens.find((t) => t.start < caret && t.end >= caret && (t.kind === "name" || (t.kind === "value" && (t.end > caret || !t.closed))));
  const last = before.filter((t) => t !== under).at(-1);
  const previous = before.filter((t) => t !== under).at(-2);
  if (under?.kind === "value" || (under === undefined && last?.kind === "op" && last.text !== "!")) {
    const op = (last?.kind === "op" ? last.text : "=") as Operator;
    const name = previous?.kind === "name" ? previous.text : "";
    if (under === undefined) return { kind: "value", name, op, prefix: "", from: caret, to: caret };
    const typed = text.slice(under.start + 1, caret).replace(/\\(.)/g, "$1");
    return { kind: "value", name, op, prefix: typed, from: under.start, to: under.end };
  }
  if (under?.kind === "name" && (last === undefined || last.kind === "open" || last.kind === "comma")) {
    return { kind: "name", prefix: text.slice(under.start, caret), from: under.start, to: under.end };
  }
  if (last === undefined || last.kind === "open" || last.kind === "comma") return { kind: "name", prefix: "", from: caret, to: caret };
  if (last.kind === "name") return { kind: "operator", name: last.text, from: caret, to: caret };
  return { kind: "next", from: caret, to: caret };
}

// complete puts what was chosen at the place and returns the new text and caret.
export function complete(text: string, place: Place, choice: string): { text: string; caret: number } {
  let insert = choice;
  if (place.kind === "value") insert = quote(choice);
  let head = text.slice(0, place.from);
  const tail = text.slice(place.to);
  if (head.trim() === "" && place.kind === "name") head = "{";
  if (place.kind === "name" && head.endsWith(",")) insert = ` ${insert}`;
  if (place.kind === "name" && !/^\s*[=!]/.test(tail)) insert += "=";
  const out = head + insert + tail;
  return { text: out, caret: head.length + insert.length };
}

// finish closes what the reader left open, so that enter can be pressed anywhere: service_name="api" is a selector.
export function finish(text: string): string {
  let t = text.trim();
  if (t === "" || t === "{" || t === "{}") return "";
  const tokens = tokenize(t);
  if (tokens.at(-1)?.kind === "value" && tokens.at(-1)?.closed === false) t += '"';
  if (tokens[0]?.kind !== "open") t = `{${t}`;
  t = t.replace(/,\s*$/, "");
  if (tokens.at(-1)?.kind !== "close") t += "}";
  return t.replace(/,\s*}$/, "}");
}
