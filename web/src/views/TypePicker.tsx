import type { TypeInfo } from "../api/client";
import { friendlyName } from "../lib/types";
import { Chevron } from "./RangePicker";

interface Props {
  // Undefined until the server has told them.
  readonly types: readonly TypeInfo[] | undefined;
  readonly type: TypeInfo | undefined;
  readonly set: (id: string) => void;
}

const units: Readonly<Record<string, string>> = { nanoseconds: "ns" };

// TypePicker chooses one of the profile types that the server has.
export function TypePicker({ types, type, set }: Props) {
  return (
    <div className="select type">
      <select aria-label="Profile type" value={type?.id ?? ""} onChange={(e) => set(e.target.value)} disabled={types === undefined || types.length === 0}>
        {type === undefined && <option value="">{types === undefined ? "…" : types.length === 0 ? "no profiles" : "choose a profile"}</option>}
        {types?.map((t) => (
          <option key={t.id} value={t.id} title={t.id}>
            {friendlyName(t)} · {units[t.sampleUnit] ?? t.sampleUnit}
          </option>
        ))}
      </select>
      <Chevron />
    </div>
  );
}
