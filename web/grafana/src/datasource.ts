import {
  LiveChannelScope,
  StreamingFrameAction,
  type AdHocVariableFilter,
  type DataQueryRequest,
  type DataQueryResponse,
  type DataSourceGetTagKeysOptions,
  type DataSourceGetTagValuesOptions,
  type DataSourceInstanceSettings,
  type MetricFindValue,
  type ScopedVars,
  type TimeRange,
} from "@grafana/data";
import { DataSourceWithBackend, getGrafanaLiveSrv, getTemplateSrv } from "@grafana/runtime";
import { merge, type Observable } from "rxjs";
import type { TypeParts } from "../../src/lib/types";
import { AnnotationQueryEditor } from "./AnnotationQueryEditor";
import { channelPath, defaultQuery, interpolate, liveRange, streamsOf, type PerfuseOptions, type PerfuseQuery } from "./query";
import { VariableSupport } from "./variables";

export interface Choices {
  readonly values: readonly string[];
  // True if there are more.
  readonly truncated: boolean;
}

// What completion and variables are about. Absent: of everything.
export interface About {
  readonly range?: TimeRange;
  readonly profileType?: string;
  readonly selector?: string;
}

export class PerfuseDataSource extends DataSourceWithBackend<PerfuseQuery, PerfuseOptions> {
  constructor(settings: DataSourceInstanceSettings<PerfuseOptions>) {
    super(settings);
    this.variables = new VariableSupport(this);
    this.annotations = {
      QueryEditor: AnnotationQueryEditor,
      getDefaultQuery: () => ({ queryType: "beginnings", profileType: "cpu", label: "version" }),
    };
  }

  override getDefaultQuery(): Partial<PerfuseQuery> {
    return defaultQuery;
  }

  override filterQuery(query: PerfuseQuery): boolean {
    return query.hide !== true && (query.profileType ?? "") !== "";
  }

  override applyTemplateVariables(query: PerfuseQuery, scoped: ScopedVars, filters?: AdHocVariableFilter[]): PerfuseQuery {
    return interpolate(query, (text, format) => getTemplateSrv().replace(text, scoped, format), filters);
  }

  override query(request: DataQueryRequest<PerfuseQuery>): Observable<DataQueryResponse> {
    const live = getGrafanaLiveSrv();
    const rangeMs = liveRange(request.range.raw, request.range.to.valueOf() - request.range.from.valueOf());
    if (rangeMs === 0 || live === undefined) return super.query(request);
    const streams = request.targets
      .filter((q) => this.filterQuery(q))
      .flatMap((q) => streamsOf(this.applyTemplateVariables(q, request.scopedVars, request.filters)))
      .map((q) => {
        const { refId, datasource: _datasource, key: _key, hide: _hide, liveSeconds, ...what } = q;
        const data = {
          ...what,
          rangeMs,
          intervalMs: request.intervalMs,
          everyMs: (liveSeconds ?? 0) * 1000,
        };
        return live.getDataStream({
          addr: { scope: LiveChannelScope.DataSource, stream: this.uid, namespace: this.uid, path: channelPath(data), data },
          key: `${request.requestId}-${refId}-${q.queryType}`,
          // Each frame is whole.
          buffer: { action: StreamingFrameAction.Replace, maxLength: 1_000_000 },
        });
      });
    const rest = request.targets.filter((q) => streamsOf(q).length === 0);
    return merge(...(rest.length > 0 ? [super.query({ ...request, targets: rest })] : []), ...streams);
  }

  async types(range?: TimeRange): Promise<readonly TypeParts[]> {
    const answer = await this.getResource<{ types: TypeParts[] }>("types", params({ range }));
    return answer.types;
  }

  labelNames(about: About): Promise<Choices> {
    return this.getResource<Choices>("label-names", params(about));
  }

  labelValues(name: string, prefix: string, about: About): Promise<Choices> {
    return this.getResource<Choices>("label-values", { name, prefix, ...params(about) });
  }

  override async getTagKeys(options?: DataSourceGetTagKeysOptions<PerfuseQuery>): Promise<MetricFindValue[]> {
    const { values } = await this.labelNames({ range: options?.timeRange });
    return values.map((text) => ({ text }));
  }

  override async getTagValues(options: DataSourceGetTagValuesOptions<PerfuseQuery>): Promise<MetricFindValue[]> {
    const { values } = await this.labelValues(options.key, "", { range: options.timeRange });
    return values.map((text) => ({ text }));
  }
}

function params({ range, profileType, selector }: About): Record<string, string | number> {
  return {
    ...(range === undefined ? {} : { start: range.from.valueOf(), end: range.to.valueOf() }),
    ...(profileType === undefined || profileType === "" ? {} : { profileType }),
    ...(selector === undefined || selector === "" ? {} : { selector }),
  };
}
