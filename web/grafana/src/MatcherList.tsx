import { Button, Combobox, InlineField, InlineFieldRow, InlineSwitch, type ComboboxOption } from "@grafana/ui";
import React, { useId } from "react";
import type { FrameField, FrameMatcher } from "./query";
import { TextInput } from "./TextInput";

interface Props {
  readonly label: string;
  readonly tooltip: string;
  readonly value: readonly FrameMatcher[];
  readonly submit: (ms: FrameMatcher[]) => void;
}

const fields: Array<ComboboxOption<FrameField>> = [
  { value: "function", label: "function" },
  { value: "file", label: "file" },
  { value: "binary", label: "binary" },
];

// MatcherList are conditions on the functions of a stack, a row each.
export function MatcherList({ label, tooltip, value, submit }: Props) {
  const id = useId();
  const set = (i: number, more: Partial<FrameMatcher>): void => submit(value.map((m, j) => (i === j ? { ...m, ...more } : m)));
  const add = (
    <Button
      variant="secondary"
      icon="plus"
      aria-label={`Add to ${label.toLowerCase()}`}
      tooltip="Add a condition"
      onClick={() => submit([...value, { field: "function", value: "", regexp: false }])}
    />
  );
  return (
    <>
      {value.map((m, i) => (
        <InlineFieldRow key={i}>
          <InlineField label={i === 0 ? label : ""} labelWidth={16} tooltip={i === 0 ? tooltip : undefined}>
            <Combobox id={`${id}-${i}`} width={12} options={fields} value={m.field} onChange={(o) => set(i, { field: o.value })} />
          </InlineField>
          <InlineField grow>
            <TextInput label={`${label} ${i + 1}`} value={m.value} placeholder={m.regexp ? "an expression that matches a part" : "the whole name"} submit={(text) => set(i, { value: text })} />
          </InlineField>
          <InlineField label="Expression">
            <InlineSwitch aria-label={`${label} ${i + 1} is an expression`} value={m.regexp} onChange={(e) => set(i, { regexp: e.currentTarget.checked })} />
          </InlineField>
          <Button variant="secondary" icon="times" aria-label={`Remove ${label.toLowerCase()} ${i + 1}`} tooltip="Remove" onClick={() => submit(value.filter((_, j) => j !== i))} />
          {i === value.length - 1 && add}
        </InlineFieldRow>
      ))}
      {value.length === 0 && (
        <InlineFieldRow>
          <InlineField label={label} labelWidth={16} tooltip={tooltip}>
            {add}
          </InlineField>
        </InlineFieldRow>
      )}
    </>
  );
}
