import { useEffect, useMemo, useRef, useState } from "react";
import type { Source } from "../api/source";
import type { StackFilter } from "../lib/filter";
import { baseName } from "../lib/names";
import { sourceRows } from "../lib/sourcerows";
import { formatShare, formatValue } from "../lib/units";
import { staleness, useRequest } from "./hooks";
import { useRows } from "./rows";
import { Notice, Problem } from "./States";

interface Props {
  readonly source: Source;
  readonly filter: StackFilter;
  // The function's name.
  readonly name: string;
}

const rowHeight = 20;
// A source file that a reader opens is no larger.
const maxBytes = 16 << 20;

// SourcePanel shows what each line of a function costs, beside the text if the server has it or the reader opens it.
export function SourcePanel({ source, filter, name }: Props) {
  const request = useRequest(`${source.key} ${JSON.stringify(filter)} ${name}`, (signal) => source.lines(filter, name, signal));
  const answer = request.data;
  const [chosen, setChosen] = useState(0);
  useEffect(() => setChosen(0), [name]);
  // Texts that the reader opened, by path; they stay in this browser.
  const [opened, setOpened] = useState<ReadonlyMap<string, string>>(new Map());
  const [problem, setProblem] = useState("");
  const picker = useRef<HTMLInputElement>(null);

  const file = answer?.files[Math.min(chosen, answer.files.length - 1)];
  const text = file === undefined ? "" : file.text !== "" ? file.text : (opened.get(file.path) ?? "");
  const rows = useMemo(() => (file === undefined ? [] : sourceRows(file.lines, text)), [file, text]);
  const { attach, box, first, last } = useRows(rows.length, rowHeight);
  const hottest = rows.findIndex((r) => file !== undefined && r.self > 0 && r.self === file.lines.reduce((m, l) => Math.max(m, l.self), 0));
  const target = hottest >= 0 ? hottest : rows.findIndex((r) => r.total > 0);
  useEffect(() => {
    if (box.current !== null && target >= 0) box.current.scrollTop = Math.max(0, target * rowHeight - box.current.clientHeight / 3);
  }, [file?.path, text, target]);

  if (answer === undefined) {
    return request.error !== undefined ? (
      <Problem error={request.error} retry={request.retry} />
    ) : (
      <p className="quiet table-none" role="status">
        Counting lines…
      </p>
    );
  }
  if (file === undefined) {
    return (
      <p className="quiet table-none">
        {request.loading ? "Counting lines…" : <>Nothing is known of where <code>{name}</code> is defined: its binary has no debug information here. “profilectl debuginfo upload” brings it.</>}
      </p>
    );
  }
  const open = async (f: File | undefined): Promise<void> => {
    setProblem("");
    if (f === undefined) return;
    if (f.size > maxBytes) setProblem(`${f.name} is larger than ${maxBytes >> 20} MiB: is it the source file?`);
    else setOpened(new Map(opened).set(file.path, await f.text()));
  };
  const max = rows.reduce((m, r) => Math.max(m, r.total), 0);
  return (
    <div className="table source" data-stale={staleness(request)}>
      {request.error !== undefined && <Notice error={request.error} retry={request.retry} />}
      <p className="source-head">
        {answer.files.length > 1 ? (
          <select aria-label="Source file" value={chosen} onChange={(e) => setChosen(Number(e.target.value))}>
            {answer.files.map((f, i) => (
              <option key={i} value={i}>
                {f.path === "" ? "(unknown file)" : baseName(f.path)} in {baseName(f.mapping)}, {formatValue(f.total, answer.unit)}
              </option>
            ))}
          </select>
        ) : (
          <span className="mono ellipsis" title={file.path}>
            {file.path === "" ? "(unknown file)" : file.path}
          </span>
        )}
        <span className="num quiet">
          {formatValue(file.total, answer.unit)}, itself {formatValue(file.self, answer.unit)}
        </span>
      </p>
      {text === "" && (
        <p className="crumb-note">
          <span>{file.noText}.</span>
          {file.path !== "" && <button onClick={() => picker.current?.click()}>Open the file…</button>}
          <input ref={picker} type="file" hidden aria-label="Source file on this computer" onChange={(e) => void open(e.target.files?.[0])} />
        </p>
      )}
      {problem !== "" && (
        <p className="notice" role="alert">
          {problem}
        </p>
      )}
      <div className="table-scroll" ref={attach} tabIndex={0} role="region" aria-label={`Lines of ${name}`}>
        <table className="lines num" aria-rowcount={rows.length + 1}>
          <thead>
            <tr>
              <th scope="col">Self</th>
              <th scope="col">Total</th>
              <th scope="col">Line</th>
              <th scope="col" className="code">
                <span className="off-screen">Text</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {first > 0 && <tr style={{ height: first * rowHeight }} aria-hidden="true" />}
            {rows.slice(first, last).map((r, i) => (
              <tr key={first + i} aria-rowindex={first + i + 2} data-hot={r.self > 0}>
                <td title={r.self > 0 ? formatShare(r.self, answer.unfiltered) : ""}>{r.self > 0 ? formatValue(r.self, answer.unit) : ""}</td>
                <td title={r.total > 0 ? formatShare(r.total, answer.unfiltered) : ""}>
                  {r.total > 0 && <i className="bar" style={{ width: `${(r.total / max) * 100}%` }} aria-hidden="true" />}
                  <span>{r.total > 0 ? formatValue(r.total, answer.unit) : ""}</span>
                </td>
                <td className="quiet">{r.line > 0 ? r.line : "?"}</td>
                <td className="mono code">{r.text}</td>
              </tr>
            ))}
            {last < rows.length && <tr style={{ height: (rows.length - last) * rowHeight }} aria-hidden="true" />}
          </tbody>
        </table>
      </div>
    </div>
  );
}
