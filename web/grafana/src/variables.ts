import { CustomVariableSupport, type DataQueryRequest, type DataQueryResponse, type DataSourceApi, type MetricFindValue, type QueryEditorProps } from "@grafana/data";
import { getTemplateSrv } from "@grafana/runtime";
import type { DataQuery } from "@grafana/schema";
import { createElement, type ComponentType } from "react";
import { from, map, type Observable } from "rxjs";
import { friendlyName } from "../../src/lib/types";
import type { PerfuseDataSource } from "./datasource";
import { inSelector, type PerfuseOptions, type PerfuseQuery } from "./query";
import { VariableQueryEditor } from "./VariableQueryEditor";

export type VariableKind = "types" | "names" | "values";

export interface VariableQuery extends DataQuery {
  kind?: VariableKind;
  // The label whose values are asked for.
  label?: string;
  profileType?: string;
  selector?: string;
}

type AnyDataSource = DataSourceApi<PerfuseQuery, PerfuseOptions>;

export class VariableSupport extends CustomVariableSupport<AnyDataSource, VariableQuery> {
  override editor: ComponentType<QueryEditorProps<AnyDataSource, PerfuseQuery, PerfuseOptions, VariableQuery>>;

  constructor(private readonly datasource: PerfuseDataSource) {
    super();
    this.editor = (props) => createElement(VariableQueryEditor, { ...props, datasource });
  }

  override query(request: DataQueryRequest<VariableQuery>): Observable<DataQueryResponse> {
    return from(this.find(request)).pipe(map((data) => ({ data })));
  }

  private async find(request: DataQueryRequest<VariableQuery>): Promise<MetricFindValue[]> {
    const q = request.targets[0];
    if (q === undefined) return [];
    const replace = (text: string | undefined, format?: typeof inSelector): string => getTemplateSrv().replace(text ?? "", request.scopedVars, format);
    const about = { range: request.range, profileType: replace(q.profileType), selector: replace(q.selector, inSelector) };
    switch (q.kind ?? "values") {
      case "types":
        return (await this.datasource.types(request.range)).map((t) => ({ text: friendlyName(t), value: t.id }));
      case "names":
        return choices(await this.datasource.labelNames(about));
      case "values": {
        const label = replace(q.label);
        return label === "" ? [] : choices(await this.datasource.labelValues(label, "", about));
      }
    }
  }
}

function choices({ values }: { readonly values: readonly string[] }): MetricFindValue[] {
  return values.map((v) => ({ text: v, value: v }));
}
