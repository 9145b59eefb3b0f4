import type { DataSourcePluginOptionsEditorProps } from "@grafana/data";
import { DataSourceHttpSettings, FieldSet, InlineField, Input, SecretInput } from "@grafana/ui";
import React from "react";
import type { PerfuseOptions, PerfuseSecrets } from "./query";

type Props = DataSourcePluginOptionsEditorProps<PerfuseOptions, PerfuseSecrets>;

const labelWidth = 24;

// ConfigEditor is the settings page. How to connect is asked as everywhere in Grafana.
export function ConfigEditor({ options, onOptionsChange }: Props) {
  const { jsonData, secureJsonFields } = options;
  const set = (more: Partial<PerfuseOptions>): void => onOptionsChange({ ...options, jsonData: { ...jsonData, ...more } });
  return (
    <>
      <DataSourceHttpSettings defaultUrl="http://127.0.0.1:7070" dataSourceConfig={options} onChange={onOptionsChange} showAccessOptions={false} />
      <FieldSet label="Perfuse">
        <InlineField label="Bearer token" labelWidth={labelWidth} tooltip="Sent as Authorization: Bearer …; for a server behind a proxy that asks for one.">
          <SecretInput
            aria-label="Bearer token"
            width={40}
            isConfigured={secureJsonFields["bearerToken"] ?? false}
            value={options.secureJsonData?.bearerToken ?? ""}
            onChange={(e) => onOptionsChange({ ...options, secureJsonData: { ...options.secureJsonData, bearerToken: e.currentTarget.value } })}
            onReset={() =>
              onOptionsChange({
                ...options,
                secureJsonFields: { ...secureJsonFields, bearerToken: false },
                secureJsonData: { ...options.secureJsonData, bearerToken: "" },
              })
            }
          />
        </InlineField>
        <InlineField label="Least step" labelWidth={labelWidth} tooltip="How far apart points are at least: the interval at which profiles come, as in 10s.">
          <Input aria-label="Least step" width={40} placeholder="10s" value={jsonData.minStep ?? ""} onChange={(e) => set({ minStep: e.currentTarget.value })} />
        </InlineField>
        <InlineField label="Largest answer, MiB" labelWidth={labelWidth} tooltip="What the server may answer to one query, 1 to 1024.">
          <Input
            aria-label="Largest answer, MiB"
            type="number"
            width={40}
            min={1}
            max={1024}
            placeholder="64"
            value={jsonData.answerMiB ?? ""}
            onChange={(e) => set({ answerMiB: e.currentTarget.value === "" ? undefined : Number(e.currentTarget.value) })}
          />
        </InlineField>
      </FieldSet>
    </>
  );
}
