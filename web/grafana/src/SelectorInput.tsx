import { css } from "@emotion/css";
import type { GrafanaTheme2 } from "@grafana/data";
import { Input, useStyles2 } from "@grafana/ui";
import React, { useEffect, useId, useMemo, useRef, useState } from "react";
import { complete, finish, placeAt, tokenize } from "../../src/lib/selector";
import type { About, Choices, PerfuseDataSource } from "./datasource";

interface Props {
  readonly datasource: PerfuseDataSource;
  readonly about: About;
  readonly value: string;
  readonly label: string;
  readonly placeholder?: string;
  readonly submit: (selector: string) => void;
}

interface Choice {
  readonly value: string;
  readonly note?: string;
}

const operators: readonly Choice[] = [
  { value: "=", note: "equals" },
  { value: "!=", note: "differs" },
  { value: "=~", note: "matches the expression" },
  { value: "!~", note: "does not match it" },
];

// A selector with a template variable in it is asked for nothing: the server does not know what it stands for.
function settled(about: About): About {
  return about.profileType?.includes("$") === true ? { ...about, profileType: undefined } : about;
}

// SelectorInput completes names and values of labels from the server as one types: Enter or Tab takes what is marked,
// Escape closes the list, Enter without a list submits.
export function SelectorInput({ datasource, about, value, label, placeholder, submit }: Props) {
  const styles = useStyles2(getStyles);
  const list = useId();
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState(value);
  const [caret, setCaret] = useState(0);
  const [open, setOpen] = useState(false);
  const [marked, setMarked] = useState(0);
  useEffect(() => setText(value), [value]);

  const place = placeAt(text, Math.min(caret, text.length));
  // An expression is not a prefix of what it matches.
  const prefix = place.kind === "value" && !place.op.includes("~") ? place.prefix : "";
  const names = useChoices(open ? `names ${key(about)}` : "", () => datasource.labelNames(settled(about)));
  const values = useChoices(open && place.kind === "value" && place.name !== "" ? `values ${key(about)} ${place.name} ${prefix}` : "", () =>
    datasource.labelValues(place.kind === "value" ? place.name : "", prefix, settled(about)),
  );
  const choices = useMemo((): readonly Choice[] => {
    switch (place.kind) {
      case "name":
        return names.values.filter((n) => n.startsWith(place.prefix) && n !== place.prefix).map((value) => ({ value }));
      case "operator":
        return operators;
      case "value":
        return values.values.filter((v) => v.startsWith(prefix)).map((value) => ({ value }));
      case "next":
        return [];
    }
  }, [place.kind, place.kind === "name" ? place.prefix : prefix, names, values]);
  const shown = open && choices.length > 0;
  const at = Math.min(marked, choices.length - 1);

  const take = (choice: Choice): void => {
    const next = complete(text, place, choice.value);
    setText(next.text);
    setCaret(next.caret);
    setMarked(0);
    input.current?.focus();
    // After React has written the text, which puts the caret at its end.
    requestAnimationFrame(() => input.current?.setSelectionRange(next.caret, next.caret));
  };
  const leave = (): void => {
    setOpen(false);
    const whole = finish(text);
    setText(whole);
    if (whole !== value) submit(whole);
  };
  const look = (e: React.SyntheticEvent<HTMLInputElement>): void => {
    setCaret(e.currentTarget.selectionStart ?? e.currentTarget.value.length);
  };
  const press = (e: React.KeyboardEvent<HTMLInputElement>): void => {
    const choice = choices[at];
    if (shown && (e.key === "ArrowDown" || e.key === "ArrowUp")) {
      setMarked((at + (e.key === "ArrowDown" ? 1 : choices.length - 1)) % choices.length);
    } else if (shown && (e.key === "Enter" || (e.key === "Tab" && !e.shiftKey)) && choice !== undefined) {
      take(choice);
    } else if (e.key === "Enter") {
      leave();
    } else if (shown && e.key === "Escape") {
      setOpen(false);
    } else {
      return;
    }
    e.preventDefault();
    e.stopPropagation();
  };
  return (
    <div className={styles.around}>
      <Input
        ref={input}
        className={styles.input}
        value={text}
        placeholder={placeholder ?? '{service_name="…"}'}
        spellCheck={false}
        autoComplete="off"
        role="combobox"
        aria-label={label}
        aria-expanded={shown}
        aria-controls={list}
        aria-autocomplete="list"
        aria-activedescendant={shown ? `${list}-${at}` : undefined}
        invalid={tokenize(text.replace(/\$\{[^}]*\}|\$\w+|\[\[\w+\]\]/g, "x")).some((t) => t.kind === "junk")}
        onChange={(e) => {
          setText(e.currentTarget.value);
          setMarked(0);
          setOpen(true);
          look(e);
        }}
        onSelect={look}
        onFocus={() => setOpen(true)}
        onBlur={leave}
        onKeyDown={press}
      />
      <ul id={list} role="listbox" aria-label={label} className={styles.list} hidden={!shown}>
        {choices.map((c, i) => (
          <li
            key={c.value}
            id={`${list}-${i}`}
            role="option"
            aria-selected={i === at}
            className={i === at ? styles.marked : styles.choice}
            // Before the input loses the focus.
            onMouseDown={(e) => {
              e.preventDefault();
              take(c);
            }}
          >
            {c.value === "" ? '""' : c.value}
            {c.note !== undefined && <span className={styles.note}>{c.note}</span>}
          </li>
        ))}
        {(place.kind === "value" ? values : names).truncated && <li className={styles.note}>more: type to narrow</li>}
      </ul>
      {open && (names.problem ?? values.problem) !== undefined && (
        <div role="status" className={styles.problem}>
          No completion: {names.problem ?? values.problem}
        </div>
      )}
    </div>
  );
}

function key(about: About): string {
  return `${about.profileType ?? ""} ${Math.round((about.range?.from.valueOf() ?? 0) / 60_000)} ${Math.round((about.range?.to.valueOf() ?? 0) / 60_000)}`;
}

interface Answer extends Choices {
  readonly problem?: string;
}

const nothing: Answer = { values: [], truncated: false };

// useChoices asks when the key changes, and keeps the last answer meanwhile; "" asks nothing.
function useChoices(key: string, ask: () => Promise<Choices>): Answer {
  const [answer, setAnswer] = useState(nothing);
  useEffect(() => {
    if (key === "") return;
    let current = true;
    // A reader types faster than a server needs to hear of it.
    const timer = setTimeout(() => {
      ask().then(
        (a) => current && setAnswer(a),
        (e: unknown) => current && setAnswer({ ...nothing, problem: messageOf(e) }),
      );
    }, 80);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [key]);
  return answer;
}

// messageOf reads the errors of Grafana's fetch.
export function messageOf(e: unknown): string {
  const { data, message, statusText } = e as { data?: { message?: string }; message?: string; statusText?: string };
  return data?.message ?? message ?? statusText ?? String(e);
}

function getStyles(theme: GrafanaTheme2) {
  const choice = css({ padding: theme.spacing(0.5, 1), cursor: "pointer", fontFamily: theme.typography.fontFamilyMonospace });
  return {
    around: css({ position: "relative", flexGrow: 1, minWidth: 240 }),
    input: css({ input: { fontFamily: theme.typography.fontFamilyMonospace } }),
    list: css({
      position: "absolute",
      zIndex: theme.zIndex.dropdown,
      top: "100%",
      left: 0,
      minWidth: 240,
      maxHeight: 300,
      overflow: "auto",
      listStyle: "none",
      background: theme.colors.background.elevated,
      border: `1px solid ${theme.colors.border.weak}`,
      borderRadius: theme.shape.radius.default,
      boxShadow: theme.shadows.z3,
      "&[hidden]": { display: "none" },
    }),
    choice,
    marked: css(choice, { background: theme.colors.action.hover }),
    note: css({ color: theme.colors.text.secondary, marginLeft: theme.spacing(1), fontFamily: theme.typography.fontFamily }),
    problem: css({ color: theme.colors.error.text, fontSize: theme.typography.bodySmall.fontSize }),
  };
}
