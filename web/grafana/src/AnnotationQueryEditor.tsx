import type { QueryEditorProps } from "@grafana/data";
import { Combobox, InlineField, InlineFieldRow } from "@grafana/ui";
import React, { useId } from "react";
import type { PerfuseDataSource } from "./datasource";
import type { PerfuseOptions, PerfuseQuery } from "./query";
import { SelectorInput } from "./SelectorInput";

type Props = QueryEditorProps<PerfuseDataSource, PerfuseQuery, PerfuseOptions>;

// AnnotationQueryEditor says which label's new values are marked: versions that are rolled out, nodes that come.
export function AnnotationQueryEditor({ datasource, query, range, onChange, onRunQuery }: Props) {
  const id = useId();
  const change = (more: Partial<PerfuseQuery>): void => {
    onChange({ ...query, queryType: "beginnings", profileType: query.profileType ?? "cpu", ...more });
    onRunQuery();
  };
  return (
    <InlineFieldRow>
      <InlineField label="Label" labelWidth={16} tooltip="Its values are marked when they are first seen, as version when one is rolled out.">
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
      <InlineField label="Of series" labelWidth={16} grow tooltip="Only of series that the selector selects. Empty: of all.">
        <SelectorInput datasource={datasource} about={{ range, profileType: query.profileType }} label="Of series" value={query.selector ?? ""} submit={(selector) => change({ selector })} />
      </InlineField>
    </InlineFieldRow>
  );
}
