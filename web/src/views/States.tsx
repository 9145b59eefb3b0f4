import type { ReactNode } from "react";
import type { ApiError } from "../api/client";

interface Action {
  readonly label: string;
  readonly act: () => void;
}

// Problem says what went wrong and what can be done.
export function Problem(p: { error?: ApiError; title?: string; detail?: string; retry?: () => void; action?: Action }) {
  const { error } = p;
  const title =
    p.title ??
    (error?.kind === "away"
      ? "The server does not answer"
      : error?.kind === "asked"
        ? "The question is not understood"
        : "There is no answer");
  const detail = p.detail ?? error?.message ?? "";
  return (
    <div className="state problem" role="alert">
      <h2>{title}</h2>
      {detail !== "" && (error !== undefined ? <pre data-lines={detail.includes("\n")}>{detail}</pre> : <p>{detail}</p>)}
      {error?.kind === "away" && (
        <p>
          Is <code>perfuse</code> still running at {location.host}? The page goes on by itself as soon as it is.
        </p>
      )}
      <div className="actions">
        {p.retry !== undefined && (
          <button className="primary" onClick={p.retry}>
            Try again
          </button>
        )}
        {p.action !== undefined && <button onClick={p.action.act}>{p.action.label}</button>}
      </div>
    </div>
  );
}

// Notice is a problem in one line, above what is still shown from before.
export function Notice({ error, retry }: { error: ApiError; retry: () => void }) {
  return (
    <div className="notice" role="alert">
      <span className="notice-text" data-lines={error.message.includes("\n")}>{error.kind === "away" ? `The server does not answer: ${error.message}. This is what it said last.` : error.message}</span>
      <button onClick={retry}>Try again</button>
    </div>
  );
}

// Welcome is for a server that has no samples at all.
export function Welcome({ retry, error, again }: { retry: () => void; error: ApiError | undefined; again: () => void }) {
  return (
    <div className="state">
      {error !== undefined && <Notice error={error} retry={again} />}
      <h2>No samples yet</h2>
      <p>The server at {location.host} is up and has not stored a profile so far. The first arrives about ten seconds after an agent has started.</p>
      <dl>
        <dt>On this machine</dt>
        <dd>
          <code>perfuse up</code> as root runs the agent and the server together.
        </dd>
        <dt>On another node</dt>
        <dd>
          <code>perfuse agent --node NAME --remote-store-address {location.host}</code>
        </dd>
        <dt>With a profile that you have</dt>
        <dd>
          <code>profilectl upload cpu.pb.gz</code>
        </dd>
        <dt>If nothing comes</dt>
        <dd>
          <code>perfuse doctor</code> says what the kernel or the privileges lack.
        </dd>
      </dl>
      <div className="actions">
        <button className="primary" onClick={retry}>
          Look again
        </button>
      </div>
    </div>
  );
}

// Nothing is for a selection that matches no sample.
export function Nothing({ children, actions }: { children: ReactNode; actions: readonly Action[] }) {
  return (
    <div className="state">
      <h2>Nothing matches</h2>
      <p>{children}</p>
      <div className="actions">
        {actions.map((a) => (
          <button key={a.label} onClick={a.act}>
            {a.label}
          </button>
        ))}
      </div>
    </div>
  );
}

// Skeleton stands where the graph will be.
export function Skeleton() {
  // Widths of rows that look like a graph.
  const rows = [[100], [100], [64, 34], [40, 22, 30], [40, 10, 28], [22, 16, 8, 20], [20, 12, 18], [12, 6, 14], [8, 12]];
  return (
    <div className="skeleton" role="status" aria-label="Loading the flame graph">
      {rows.map((row, i) => (
        <div key={i}>
          {row.map((w, k) => (
            <span key={k} style={{ width: `${w}%` }} />
          ))}
        </div>
      ))}
    </div>
  );
}
