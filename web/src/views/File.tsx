import { useEffect, useMemo, useRef, useState } from "react";
import { ApiError } from "../api/client";
import { LocalReader, type FileSummary, type LocalFile } from "../api/local";
// Loaded with this page and not when something is downloaded: nothing is, once a file was chosen.
import "../flame/svg";
import "../lib/speedscope";
import { findLabel, formatFile, labelText, parseFile } from "../lib/filestate";
import { findType, friendlyName } from "../lib/types";
import { formatCount, formatValue } from "../lib/units";
import { initial } from "../lib/urlstate";
import { Brand } from "./Brand";
import "./file.css";
import { FlamePanel } from "./FlamePanel";
import { useTheme, useUrlState } from "./hooks";
import { Chevron } from "./RangePicker";
import { Problem } from "./States";
import { ThemeSwitch } from "./ThemeSwitch";

type Shown =
  | { readonly is: "nothing" }
  | { readonly is: "opening"; readonly name: string; readonly bytes: number }
  | { readonly is: "failed"; readonly name: string; readonly error: ApiError }
  | { readonly is: "open"; readonly file: LocalFile };

// One reader for as long as the page is loaded, and the file that it has: who looks at another page and comes back
// finds it open.
let reader: LocalReader | undefined;
let kept: LocalFile | undefined;

// File shows a profile that lies on the reader's own computer. Its bytes stay in the browser.
export function File() {
  const [state, go] = useUrlState(parseFile, formatFile);
  const theme = useTheme(state.theme);
  const [shown, setShown] = useState<Shown>(() => (kept === undefined ? { is: "nothing" } : { is: "open", file: kept }));
  const latest = useRef(0);
  const picker = useRef<HTMLInputElement>(null);
  useEffect(() => {
    reader ??= new LocalReader();
  }, []);

  const open = (name: string, data: Blob): void => {
    reader ??= new LocalReader();
    const turn = ++latest.current;
    kept = undefined;
    setShown({ is: "opening", name, bytes: data.size });
    reader.open(name, data).then(
      (file) => {
        if (turn !== latest.current) return;
        kept = file;
        setShown({ is: "open", file });
      },
      (e: unknown) => {
        if (turn !== latest.current) return;
        setShown({ is: "failed", name, error: e instanceof ApiError ? e : new ApiError(e instanceof Error ? e.message : String(e), "failed", "") });
      },
    );
  };
  const choose = (): void => picker.current?.click();
  const dropping = useDropped(open);

  const file = shown.is === "open" ? shown.file : undefined;
  const types = file?.summary.types ?? [];
  const usual = file === undefined ? undefined : (types[file.summary.facts.defaultType] ?? findType(types, ""));
  const type = (state.type === "" ? undefined : findType(types, state.type)) ?? usual;
  const label = file === undefined ? undefined : findLabel(file.summary.labels, state.label);
  const source = useMemo(
    () => (file === undefined || type === undefined ? undefined : file.source({ type: types.indexOf(type), label })),
    [file, type, label?.name, label?.value],
  );
  useEffect(() => {
    document.title = file === undefined ? "A file – Perfuse" : `${file.name} – Perfuse`;
  }, [file]);

  const total = file === undefined || type === undefined ? 0 : (file.summary.totals[types.indexOf(type)] ?? 0);
  return (
    <>
      <header className="topbar file-bar">
        <Brand />
        <input
          ref={picker}
          type="file"
          hidden
          aria-label="Profile file"
          onChange={(e) => {
            const f = e.target.files?.[0];
            // The same file may be chosen again after it has changed.
            e.target.value = "";
            if (f !== undefined) open(f.name, f);
          }}
        />
        {file !== undefined && (
          <>
            <button className="file-name" title={`${file.name}: open another file`} onClick={choose}>
              <span className="ellipsis">{file.name}</span>
              <small>another…</small>
            </button>
            <div className="select type">
              <select aria-label="Profile type" value={type?.id ?? ""} onChange={(e) => go({ type: e.target.value, zoom: [] })}>
                {types.map((t) => (
                  <option key={t.id} value={t.id} title={t.id}>
                    {friendlyName(t)} · {t.sampleUnit === "nanoseconds" ? "ns" : t.sampleUnit}
                  </option>
                ))}
              </select>
              <Chevron />
            </div>
            <LabelSelect summary={file.summary} value={label === undefined ? "" : labelText(label)} set={(text) => go({ label: text, zoom: [] })} />
          </>
        )}
        <span className="grow wide" />
        <ThemeSwitch theme={theme} state={state.theme} set={(t) => go({ theme: t }, "replace")} />
      </header>
      {shown.is === "open" ? (
        <>
          <Facts file={shown.file} />
          {state.label !== "" && label === undefined && (
            <div className="notice" role="alert">
              <span className="notice-text">No sample of this file has the label {state.label}: all samples are shown.</span>
              <button onClick={() => go({ label: "" }, "replace")}>All right</button>
            </div>
          )}
          {total === 0 && label === undefined ? (
            <section className="panel flame">
              <Problem
                title={type === undefined ? "No samples" : `No samples of ${friendlyName(type)}`}
                detail={types.length > 1 ? "The file has other types: choose one above." : "The file is whole, but whoever wrote it saw nothing. Record for longer, or while the program has work."}
                action={{ label: "Choose another file", act: choose }}
              />
            </section>
          ) : (
            <FlamePanel source={source} state={state} go={go} theme={theme} />
          )}
        </>
      ) : (
        <section className="panel file-start" aria-busy={shown.is === "opening"}>
          {shown.is === "failed" ? (
            <Problem title={`${shown.name} cannot be opened`} detail={shown.error.message} action={{ label: "Choose another file", act: choose }} />
          ) : shown.is === "opening" ? (
            <p className="file-opening" role="status">
              Reading {shown.name}, {formatValue(shown.bytes, "bytes")}…
            </p>
          ) : (
            <Start choose={choose} again={formatFile({ ...state, theme: initial.theme, type: "", selector: "", range: initial.range }) !== ""} />
          )}
        </section>
      )}
      {dropping && (
        <div className="file-drop" aria-hidden="true">
          Let go to open it
        </div>
      )}
    </>
  );
}

function Start({ choose, again }: { choose: () => void; again: boolean }) {
  return (
    <div className="state">
      <h2>{again ? "Choose the file again" : "Open a profile from this computer"}</h2>
      {again && <p>This address says how a file is looked at, not which: choose it, and the view is as it was.</p>}
      <p>The browser reads it by itself. No byte of it is sent to this server or to anybody else.</p>
      <div className="actions">
        <button className="primary" onClick={choose}>
          Choose a file
        </button>
      </div>
      <p className="quiet">or drop it anywhere on this page, or paste its text or the copied file</p>
      <dl>
        <dt>pprof</dt>
        <dd>
          What <code>profilectl record</code>, Go's <code>/debug/pprof</code> and many others write, gzip or not
        </dd>
        <dt>folded text</dt>
        <dd>
          <code>main;handler;md5 60</code>, a line for each stack
        </dd>
        <dt>speedscope</dt>
        <dd>Its own JSON, sampled or evented</dd>
      </dl>
    </div>
  );
}

// Facts is what the file says of itself.
function Facts({ file }: { file: LocalFile }) {
  const { format, facts, sampleCount, types } = file.summary;
  const first = types[0];
  const said = [
    `${format}, ${formatValue(file.bytes, "bytes")}`,
    `${formatCount(sampleCount)} ${sampleCount === 1 ? "sample" : "samples"}`,
    facts.timeMillis > 0 ? new Date(facts.timeMillis).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" }) : "",
    facts.durationNanos > 0 ? `over ${formatValue(facts.durationNanos, "nanoseconds")}` : "",
    facts.period > 0 && first !== undefined ? `one for each ${formatValue(facts.period, first.periodUnit)}${first.periodType === "" ? "" : ` of ${first.periodType}`}` : "",
  ].filter((s) => s !== "");
  return (
    <div className="file-facts num" aria-label="About the file">
      {said.map((s) => (
        <span key={s}>{s}</span>
      ))}
      {facts.comments.length > 0 && (
        <details>
          <summary>
            {formatCount(facts.comments.length)} {facts.comments.length === 1 ? "comment" : "comments"}
          </summary>
          <pre>{facts.comments.join("\n")}</pre>
        </details>
      )}
    </div>
  );
}

function LabelSelect({ summary, value, set }: { summary: FileSummary; value: string; set: (text: string) => void }) {
  if (summary.labels.length === 0) return null;
  return (
    <div className="select file-label">
      <select aria-label="Only samples with the label" value={value} onChange={(e) => set(e.target.value)}>
        <option value="">all samples</option>
        {summary.labels.map(({ name, values, truncated }) => (
          <optgroup key={name} label={truncated ? `${name} (the first ${values.length})` : name}>
            {values.map((v) => {
              const text = labelText({ name, value: v });
              return (
                <option key={text} value={text}>
                  {text}
                </option>
              );
            })}
          </optgroup>
        ))}
      </select>
      <Chevron />
    </div>
  );
}

// useDropped opens what is dropped on the page or pasted into it, and says whether a file is held over it.
function useDropped(open: (name: string, data: Blob) => void): boolean {
  const [over, setOver] = useState(false);
  const act = useRef(open);
  act.current = open;
  useEffect(() => {
    const take = (data: DataTransfer | null): boolean => {
      const file = data?.files[0];
      const text = data?.getData("text/plain") ?? "";
      if (file !== undefined) act.current(file.name, file);
      else if (text.trim() !== "") act.current("pasted text", new Blob([text]));
      return file !== undefined || text.trim() !== "";
    };
    const carriesFile = (e: DragEvent): boolean => e.dataTransfer?.types.includes("Files") === true && !e.defaultPrevented;
    const hold = (e: DragEvent): void => {
      if (!carriesFile(e)) return;
      e.preventDefault();
      setOver(true);
    };
    const leave = (e: DragEvent): void => {
      // Of the window, not of one element for the next.
      if (e.relatedTarget === null) setOver(false);
    };
    const drop = (e: DragEvent): void => {
      setOver(false);
      if (!carriesFile(e)) return;
      e.preventDefault();
      take(e.dataTransfer);
    };
    const paste = (e: ClipboardEvent): void => {
      if (e.target instanceof Element && e.target.closest("input, textarea, select") !== null) return;
      if (take(e.clipboardData)) e.preventDefault();
    };
    addEventListener("dragover", hold);
    addEventListener("dragleave", leave);
    addEventListener("drop", drop);
    addEventListener("paste", paste);
    return () => {
      removeEventListener("dragover", hold);
      removeEventListener("dragleave", leave);
      removeEventListener("drop", drop);
      removeEventListener("paste", paste);
    };
  }, []);
  return over;
}
