import { DataSourcePlugin } from "@grafana/data";
import { ConfigEditor } from "./ConfigEditor";
import { PerfuseDataSource } from "./datasource";
import type { PerfuseOptions, PerfuseQuery, PerfuseSecrets } from "./query";
import { QueryEditor } from "./QueryEditor";

export const plugin = new DataSourcePlugin<PerfuseDataSource, PerfuseQuery, PerfuseOptions, PerfuseSecrets>(PerfuseDataSource)
  .setConfigEditor(ConfigEditor)
  .setQueryEditor(QueryEditor);
