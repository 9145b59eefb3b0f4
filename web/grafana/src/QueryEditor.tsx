import type { QueryEditorProps, SelectableValue } from "@grafana/data";
import { Combobox, InlineField, InlineFieldRow, InlineSwitch, Input, MultiCombobox, RadioButtonGroup, type ComboboxOption } from "@grafana/ui";
import React, { useEffect, useId, useState } from "react";
import { defaultType, friendlyName, type TypeParts } from "../../src/lib/types";
import type { PerfuseDataSource } from "./datasource";
import { MatcherList } from "./MatcherList";
import type { Before, PerfuseOptions, PerfuseQuery, QueryKind } from "./query";
import { messageOf, SelectorInput } from "./SelectorInput";
import { TextInput } from "./TextInput";

type Props = QueryEditorProps<PerfuseDataSource, PerfuseQuery, PerfuseOptions>;

const kinds: Array<SelectableValue<QueryKind>> = [
  { value: "series", label: "Time series", description: "Values over time" },
  { value: "flamegraph", label: "Flame graph", description: "Where the values come from" },
  { value: "both", label: "Both" },
  { value: "diff", label: "Diff", description: "Two flame graphs laid over each other: what it is now, and what it was before" },
];

const labelWidth = 16;

export function QueryEditor({ datasource, query, range, onChange, onRunQuery }: Props) {
  const id = useId();
  const kind = query.queryType ?? "both";
  const types = useTypes(datasource, range);
  const change = (more: Partial<PerfuseQuery>): void => {
    onChange({ ...query, ...more });
    onRunQuery();
  };
  // A new query is about CPU time, if there is any.
  const chosen = query.profileType ?? "";
  useEffect(() => {
    const first = defaultType(types.list);
    if (chosen === "" && first !== undefined) change({ profileType: first.id });
  }, [types.list, chosen]);

  const about = { range, profileType: chosen };
  const flame = kind !== "series";
  return (
    <>
      <InlineFieldRow>
        <InlineField label="Show" labelWidth={labelWidth}>
          <RadioButtonGroup aria-label="Show" options={kinds} value={kind} onChange={(queryType) => change({ queryType })} />
        </InlineField>
        <InlineField label="Profile type" labelWidth={labelWidth} grow invalid={types.problem !== undefined} error={types.problem}>
          <Combobox
            id={`${id}-type`}
            options={typeOptions(types.list, chosen)}
            value={chosen === "" ? null : chosen}
            placeholder={types.loading ? "Loading…" : "Choose what was measured"}
            createCustomValue
            onChange={(o) => change({ profileType: o.value })}
          />
        </InlineField>
      </InlineFieldRow>
      <InlineFieldRow>
        <InlineField label="Selector" labelWidth={labelWidth} grow tooltip='Which series: {service_name="api", pod=~"api-.*"}, with =, !=, =~ and !~. Empty selects all.'>
          <SelectorInput datasource={datasource} about={about} label="Selector" value={query.selector ?? ""} submit={(selector) => change({ selector })} />
        </InlineField>
      </InlineFieldRow>
      {kind !== "diff" && (
        <InlineFieldRow>
          <InlineField label="Group by" labelWidth={labelWidth} grow tooltip="A series for each combination of these labels' values; in a flame graph they are its first levels.">
            <MultiCombobox
              id={`${id}-group`}
              options={async (typed) => labelOptions(datasource, about, typed)}
              value={query.groupBy ?? []}
              placeholder="labels"
              createCustomValue
              onChange={(os) => change({ groupBy: os.map((o) => o.value) })}
            />
          </InlineField>
          {kind !== "flamegraph" && (
            <InlineField label="Limit" tooltip="So many series, the largest first; the rest is one. Empty: 20.">
              <NumberInput label="Limit" value={query.limit} min={1} step={1} submit={(limit) => change({ limit })} />
            </InlineField>
          )}
          {kind !== "flamegraph" && (
            <InlineField label="Exemplars" tooltip="The spans that cost most, as points: a click leads to their flame graph. They come from programs and agents that say which request a sample belongs to.">
              <InlineSwitch aria-label="Exemplars" value={query.exemplars ?? false} onChange={(e) => change({ exemplars: e.currentTarget.checked })} />
            </InlineField>
          )}
          <InlineField label="Live, every" tooltip="Seconds between refreshes by a stream, 1 to 300. Empty: when the panel is refreshed.">
            <NumberInput label="Live, every" value={query.liveSeconds} min={1} max={300} step={1} submit={(liveSeconds) => change({ liveSeconds })} />
          </InlineField>
        </InlineFieldRow>
      )}
      {kind === "diff" && <BeforeFields {...{ datasource, query, range, onChange, onRunQuery }} />}
      <InlineFieldRow>
        <InlineField label="Call site" labelWidth={labelWidth} grow tooltip="Only stacks that begin with these functions, the root first: main;handler">
          <TextInput label="Call site" placeholder="main;handler" value={(query.callSite ?? []).join(";")} submit={(text) => change({ callSite: split(text, ";") })} />
        </InlineField>
        {flame && (
          <InlineField label="Smallest frame" tooltip="Frames below this share of the whole are folded into one, (small). Empty: 0.025 %, what can be seen.">
            <NumberInput
              label="Smallest frame"
              suffix="%"
              value={query.minShare === undefined ? undefined : Number((query.minShare * 100).toPrecision(12))}
              min={0}
              max={99}
              submit={(percent) => change({ minShare: percent === undefined ? undefined : percent / 100 })}
            />
          </InlineField>
        )}
      </InlineFieldRow>
      <MatcherList label="Keep" tooltip="Only stacks that have, for each of these, a function that meets it." value={query.keep ?? []} submit={(keep) => change({ keep })} />
      <MatcherList label="Drop" tooltip="No stacks that have a function that meets any of these." value={query.drop ?? []} submit={(drop) => change({ drop })} />
      <InlineFieldRow>
        <InlineField label="Trace ids" labelWidth={labelWidth} grow tooltip="Only samples that were taken while one of these was served: 32 hexadecimal digits each, with commas between.">
          <TextInput label="Trace ids" value={(query.traceIds ?? []).join(", ")} submit={(text) => change({ traceIds: split(text, ",") })} />
        </InlineField>
        <InlineField label="Span ids" grow tooltip="The same for spans: 16 digits.">
          <TextInput label="Span ids" value={(query.spanIds ?? []).join(", ")} submit={(text) => change({ spanIds: split(text, ",") })} />
        </InlineField>
      </InlineFieldRow>
    </>
  );
}

function BeforeFields({ datasource, query, range, onChange, onRunQuery }: Pick<Props, "datasource" | "query" | "range" | "onChange" | "onRunQuery">) {
  const before = query.before ?? {};
  const change = (more: Partial<Before>): void => {
    onChange({ ...query, before: { ...before, ...more } });
    onRunQuery();
  };
  return (
    <InlineFieldRow>
      <InlineField label="Compared with" labelWidth={labelWidth} grow tooltip="What it was before, the left side. Empty: the same selector, earlier.">
        <SelectorInput
          datasource={datasource}
          about={{ range, profileType: query.profileType }}
          label="Compared with"
          placeholder="the same"
          value={before.selector ?? ""}
          submit={(selector) => change({ selector: selector === "" ? undefined : selector })}
        />
      </InlineField>
      <InlineField label="Earlier by" tooltip="How long before the panel's range, as in 1d. Empty: right before it, or not at all if the selectors differ.">
        <TextInput label="Earlier by" placeholder="1d" width={10} value={before.earlier ?? ""} submit={(earlier) => change({ earlier })} />
      </InlineField>
      <InlineField label="Per second" tooltip="Divide by the time that each side covers. The panel itself compares shares of both sides' totals.">
        <InlineSwitch aria-label="Per second" value={before.perSecond ?? false} onChange={(e) => change({ perSecond: e.currentTarget.checked })} />
      </InlineField>
    </InlineFieldRow>
  );
}

interface NumberProps {
  readonly label: string;
  readonly value: number | undefined;
  readonly min: number;
  readonly max?: number;
  readonly step?: number;
  readonly suffix?: string;
  readonly submit: (value: number | undefined) => void;
}

function NumberInput({ label, value, submit, ...more }: NumberProps) {
  const [text, setText] = useState(value?.toString() ?? "");
  useEffect(() => setText(value?.toString() ?? ""), [value]);
  const leave = (): void => {
    const n = text.trim() === "" ? undefined : Number(text);
    if (n !== undefined && !(n >= more.min && n <= (more.max ?? Infinity))) setText(value?.toString() ?? "");
    else if (n !== value) submit(n);
  };
  return (
    <Input
      type="number"
      width={12}
      aria-label={label}
      step="any"
      {...more}
      value={text}
      onChange={(e) => setText(e.currentTarget.value)}
      onBlur={leave}
      onKeyDown={(e) => e.key === "Enter" && leave()}
    />
  );
}

function split(text: string, by: string): string[] {
  return text
    .split(by)
    .map((t) => t.trim())
    .filter((t) => t !== "");
}

function typeOptions(types: readonly TypeParts[], chosen: string): Array<ComboboxOption<string>> {
  const known = types.map((t) => ({ value: t.id, label: friendlyName(t), description: t.id }));
  // One that is not stored in this range, a prefix, or a template variable.
  return chosen === "" || known.some((o) => o.value === chosen) ? known : [{ value: chosen, label: chosen }, ...known];
}

async function labelOptions(datasource: PerfuseDataSource, about: Parameters<PerfuseDataSource["labelNames"]>[0], typed: string): Promise<Array<ComboboxOption<string>>> {
  const { values } = await datasource.labelNames(about);
  return values.filter((v) => v.includes(typed)).map((value) => ({ value, label: value }));
}

interface Types {
  readonly list: readonly TypeParts[];
  readonly loading: boolean;
  readonly problem?: string;
}

// useTypes asks again when the range is another by a minute.
export function useTypes(datasource: PerfuseDataSource, range: Props["range"]): Types {
  const [types, setTypes] = useState<Types>({ list: [], loading: true });
  const minutes = (range === undefined ? [] : [range.from, range.to]).map((t) => Math.round(t.valueOf() / 60_000)).join();
  useEffect(() => {
    let current = true;
    datasource.types(range).then(
      (list) => current && setTypes({ list, loading: false }),
      (e: unknown) => current && setTypes({ list: [], loading: false, problem: messageOf(e) }),
    );
    return () => {
      current = false;
    };
  }, [datasource, minutes]);
  return types;
}
