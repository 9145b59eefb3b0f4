import type { Source } from "../api/source";
import type { StackFilter } from "../lib/filter";
import type { FlameTree } from "../lib/tree";
import type { ColourBy, Orientation } from "../lib/urlstate";
import { offerFile } from "./copy";
import { MenuButton } from "./Menu";

interface Props {
  readonly source: Source;
  readonly filter: StackFilter;
  readonly tree: FlameTree;
  readonly zoomed: number;
  readonly colourBy: ColourBy;
  readonly orientation: Orientation;
  // Runs what takes its time and shows what goes wrong.
  readonly work: <T>(doing: Promise<T>, done: (value: T) => void) => void;
  readonly disabled: boolean;
}

// Downloads offers what is selected as a file. The writers are loaded when they are asked for.
export function Downloads({ source, filter, tree, zoomed, colourBy, orientation, work, disabled }: Props) {
  const limit = (): AbortSignal => AbortSignal.timeout(60_000);
  const speedscope = async (): Promise<string> => {
    const [text, { speedscopeOf }] = await Promise.all([source.folded(filter, limit()), import("../lib/speedscope")]);
    return speedscopeOf(text, tree.unit, source.fileName);
  };
  const svg = async (): Promise<string> => {
    const { flameSvg } = await import("../flame/svg");
    return flameSvg(tree, { node: zoomed, orientation, title: source.fileName, colourBy });
  };
  return (
    <MenuButton
      label="Download"
      title="Download what is selected"
      disabled={disabled}
      items={[
        { label: "pprof", note: "all of it, gzip", act: () => work(source.pprof(filter, limit()), (data) => offerFile(data, "application/octet-stream", `${source.fileName}.pb.gz`)) },
        { label: "Folded text", note: "all of it", act: () => work(source.folded(filter, limit()), (text) => offerFile(text, "text/plain", `${source.fileName}.folded`)) },
        { label: "speedscope", note: "all of it, JSON", act: () => work(speedscope(), (text) => offerFile(text, "application/json", `${source.fileName}.speedscope.json`)) },
        { label: "SVG", note: "what is shown", act: () => work(svg(), (text) => offerFile(text, "image/svg+xml", `${source.fileName}.svg`)) },
      ]}
    >
      Download
    </MenuButton>
  );
}
