// What the URL says of a view of a file: everything but the file, which only its owner has.

import type { Label } from "./stacks";
import { format, parse, type ViewState } from "./urlstate";

export interface FileState extends ViewState {
  // "name=value": only samples with this label; "" for all.
  readonly label: string;
}

export function parseFile(search: string): FileState {
  return { ...parse(search), label: new URLSearchParams(search).get("label") ?? "" };
}

export function formatFile(s: FileState): string {
  const p = new URLSearchParams(format(s));
  if (s.label !== "") p.set("label", s.label);
  const text = p.toString();
  return text === "" ? "" : `?${text}`;
}

export function labelText(l: Label): string {
  return `${l.name}=${l.value}`;
}

// findLabel returns the label that text stands for; undefined if the file has none such.
export function findLabel(labels: readonly { readonly name: string; readonly values: readonly string[] }[], text: string): Label | undefined {
  for (const { name, values } of labels) {
    const value = values.find((v) => labelText({ name, value: v }) === text);
    if (value !== undefined) return { name, value };
  }
  return undefined;
}
