import { useEffect, useMemo, useState } from "react";
import type { Api, Selection } from "../api/client";
import { complete, finish, placeAt, tokenize } from "../lib/selector";
import { formatCount } from "../lib/units";
import { Combo, type Choice } from "./Combo";
import { useDelayed, useRequest } from "./hooks";

interface Props {
  readonly api: Api;
  readonly selection: Selection | undefined;
  readonly value: string;
  // The server refused it.
  readonly refused: boolean;
  readonly submit: (selector: string) => void;
}

const operators: readonly Choice[] = [
  { value: "=", label: "=", note: "equals" },
  { value: "!=", label: "!=", note: "differs" },
  { value: "=~", label: "=~", note: "matches the expression" },
  { value: "!~", label: "!~", note: "does not match it" },
];

// SelectorInput completes label names and values from the server as one types.
export function SelectorInput({ api, selection, value, refused, submit }: Props) {
  const [text, setText] = useState(value);
  const [caret, setCaret] = useState(0);
  const [used, setUsed] = useState(false);
  useEffect(() => setText(value), [value]);

  const place = placeAt(text, Math.min(caret, text.length));
  const late = useDelayed(place.kind === "value" ? JSON.stringify([place.name, place.op.includes("~") ? "" : place.prefix]) : "", 120);
  // Other matchers do not narrow what is offered: half a selector is none.
  const all = selection === undefined ? undefined : { ...selection, selector: "" };
  const scope = all === undefined ? undefined : `${all.type} ${Math.round(all.span.start / 60_000)} ${Math.round(all.span.end / 60_000)}`;
  const names = useRequest(used && scope !== undefined ? `names ${scope}` : undefined, (signal) => api.labelNames(all as Selection, signal));
  const values = useRequest(used && scope !== undefined && late !== "" ? `values ${scope} ${late}` : undefined, (signal) => {
    const [name, prefix] = JSON.parse(late) as [string, string];
    return api.labelValues(all as Selection, name, prefix, signal);
  });

  const choices = useMemo((): readonly Choice[] => {
    switch (place.kind) {
      case "name":
        return (names.data ?? [])
          .filter((n) => n.name.startsWith(place.prefix) && n.name !== place.prefix)
          .map((n) => ({ value: n.name, label: n.name, note: n.values === 1 ? "1 value" : `${formatCount(n.values)} values` }));
      case "operator":
        return operators;
      case "value": {
        const found = values.data?.values ?? [];
        return found.filter((v) => place.op.includes("~") || v.startsWith(place.prefix)).map((v) => ({ value: v, label: v }));
      }
      case "next":
        return [];
    }
  }, [place.kind, place.kind === "name" || place.kind === "value" ? place.prefix : "", names.data, values.data]);

  const problem = names.error ?? values.error;
  const footer =
    problem !== undefined ? `No completion: ${problem.message}` : place.kind === "value" && values.data?.truncated === true ? "More: type to narrow" : undefined;
  return (
    <Combo
      className="selector"
      mono
      text={text}
      label="Selector"
      placeholder={'{service_name="…"}'}
      choices={choices}
      {...(footer === undefined ? {} : { footer })}
      invalid={(refused && text === value) || tokenize(text).some((t) => t.kind === "junk")}
      change={(t, c) => {
        setUsed(true);
        setText(t);
        setCaret(c);
      }}
      caret={(c) => {
        setUsed(true);
        setCaret(c);
      }}
      choose={(c) => {
        const next = complete(text, place, c.value);
        setText(next.text);
        setCaret(next.caret);
        return { ...next, open: true };
      }}
      submit={() => {
        const whole = finish(text);
        setText(whole);
        if (whole !== value) submit(whole);
      }}
      cancel={() => setText(value)}
    />
  );
}
