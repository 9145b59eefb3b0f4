import { useEffect, useMemo, useState } from "react";
import type { Api, Selection } from "../api/client";
import { equalTo, withEqual } from "../lib/selector";
import { Combo, type Choice } from "./Combo";
import { useDelayed, useRequest } from "./hooks";

interface Props {
  readonly api: Api;
  readonly selection: Selection | undefined;
  readonly selector: string;
  readonly submit: (selector: string) => void;
}

const label = "service_name";
const everything = "all services";

// ServicePicker is the shortest way to one service: it writes service_name="…" into the selector.
export function ServicePicker({ api, selection, selector, submit }: Props) {
  const chosen = equalTo(selector, label);
  const [text, setText] = useState(chosen);
  const [typed, setTyped] = useState(false);
  const [used, setUsed] = useState(false);
  useEffect(() => setText(chosen), [chosen]);

  const prefix = useDelayed(typed ? text : "", 120);
  const all = selection === undefined ? undefined : { ...selection, selector: "" };
  const scope = all === undefined ? undefined : `${all.type} ${Math.round(all.span.start / 60_000)} ${Math.round(all.span.end / 60_000)}`;
  const values = useRequest(used && scope !== undefined ? `${scope} ${prefix}` : undefined, (signal) =>
    api.labelValues(all as Selection, label, prefix, signal),
  );
  const choices = useMemo((): readonly Choice[] => {
    const found = (values.data?.values ?? []).map((v) => ({ value: v, label: v }));
    return typed && text !== "" ? found.filter((c) => c.value.startsWith(text)) : [{ value: "", label: everything }, ...found];
  }, [values.data, typed, text]);

  const footer = values.error !== undefined ? values.error.message : values.data?.truncated === true ? "More: type to narrow" : undefined;
  return (
    <Combo
      className="service"
      chevron
      text={text}
      label="Service"
      placeholder={everything}
      choices={choices}
      {...(footer === undefined ? {} : { footer })}
      firstOnEnter={typed}
      change={(t) => {
        setTyped(true);
        setText(t);
      }}
      caret={() => setUsed(true)}
      choose={(c) => {
        setText(c.value);
        setTyped(false);
        submit(withEqual(selector, label, c.value));
        return { text: c.value, caret: c.value.length, open: false };
      }}
      submit={() => {
        // Leaving the field empty means all; a half-typed name means nothing.
        if (typed && text === "" && chosen !== "") submit(withEqual(selector, label, ""));
        else setText(chosen);
        setTyped(false);
      }}
      cancel={() => setText(chosen)}
    />
  );
}
