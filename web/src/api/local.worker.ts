// Reads a profile and answers questions about it beside the page, which stays responsive. It asks the network nothing.

import { FilterError } from "../lib/judge";
import { FileError } from "../lib/profilefile";
import { OpenedFile } from "./opened";
import type { Asked, Told } from "./local";

let file: OpenedFile | undefined;
let opened = 0;

async function answer(asked: Asked): Promise<unknown> {
  if ("open" in asked) {
    // The one before is let go first: two of them may be more than there is memory for.
    file = undefined;
    opened = asked.file;
    const read = await OpenedFile.open(new Uint8Array(await asked.open.arrayBuffer()));
    // Another one may have been chosen meanwhile.
    if (opened === asked.file) file = read;
    return read.summary;
  }
  if (file === undefined || opened !== asked.file) throw new FileError("The file is not open any more. Choose it again.");
  switch (asked.method) {
    case "flameGraph":
      return file.flameGraph(...asked.args);
    case "top":
      return file.top(...asked.args);
    case "sandwich":
      return file.sandwich(...asked.args);
    case "lines":
      return file.lines(...asked.args);
    case "pprof":
      return file.pprof(...asked.args);
    case "folded":
      return file.folded(...asked.args);
  }
}

function explain(e: unknown): string {
  if (e instanceof DOMException && e.name === "NotReadableError") return "The file cannot be read: it was changed, moved or is not permitted to be read. Choose it again.";
  if (e instanceof RangeError) return `It is more than this browser holds in memory (${e.message}). Look at it with go tool pprof.`;
  return e instanceof Error ? e.message : String(e);
}

addEventListener("message", (e: MessageEvent<Asked>) => {
  const tell = (told: Told): void => postMessage(told);
  answer(e.data).then(
    (value) => tell({ answer: value }),
    (error: unknown) => tell({ error: explain(error), asked: error instanceof FilterError }),
  );
});
