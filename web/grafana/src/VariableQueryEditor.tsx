import type { QueryEditorProps, SelectableValue } from "@grafana/data";
import { Combobox, InlineField, InlineFieldRow, RadioButtonGroup } from "@grafana/ui";
import React, { useId } from "react";
import type { PerfuseDataSource } from "./datasource";
import type { PerfuseOptions, PerfuseQuery } from "./query";
import { SelectorInput } from "./SelectorInput";
import type { VariableKind, VariableQuery } from "./variables";

type Props = QueryEditorProps<PerfuseDataSource, PerfuseQuery, PerfuseOptions, VariableQuery>;

const kinds: Array<SelectableValue<VariableKind>> = [
  { value: "values", label: "Label values" },
  { value: "names", label: "Label names" },
  { value: "types", label: "Profile types" },
];

// VariableQueryEditor says what a template variable has to choose from.
export function VariableQueryEditor({ datasource, query, range, onChange }: Props) {
  const id = useId();
  const kind = query.kind ?? "values";
  const change = (more: Partial<VariableQuery>): void => onChange({ ...query, refId: "PerfuseVariable", kind, ...more });
  return (
    <>
      <InlineFieldRow>
        <InlineField label="Values are" labelWidth={16}>
          <RadioButtonGroup aria-label="Values are" options={kinds} value={kind} onChange={(k) => change({ kind: k })} />
        </InlineField>
        {kind === "values" && (
          <InlineField label="Label" labelWidth={16} grow>
            <Combobox
              id={`${id}-label`}
              options={async (typed) => {
                const { values } = await datasource.labelNames({ range });
                return values.filter((v) => v.includes(typed)).map((value) => ({ value, label: value }));
              }}
              value={query.label ?? null}
              createCustomValue
              onChange={(o) => change({ label: o.value })}
            />
          </InlineField>
        )}
      </InlineFieldRow>
      {kind !== "types" && (
        <InlineFieldRow>
          <InlineField label="Of series" labelWidth={16} grow tooltip="Only of series that the selector selects. Empty: of all.">
            <SelectorInput
              datasource={datasource}
              about={{ range, profileType: query.profileType }}
              label="Of series"
              value={query.selector ?? ""}
              submit={(selector) => change({ selector })}
            />
          </InlineField>
        </InlineFieldRow>
      )}
    </>
  );
}
