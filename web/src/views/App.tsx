import { Component, lazy, Suspense, type ReactNode } from "react";
import type { Api } from "../api/client";
import { pageAt } from "../lib/route";
import { Explore } from "./Explore";
import { usePath } from "./hooks";
import { Problem } from "./States";

// Loaded when they are visited.
const Compare = lazy(async () => ({ default: (await import("./Compare")).Compare }));
const Fleet = lazy(async () => ({ default: (await import("./Fleet")).Fleet }));
const File = lazy(async () => ({ default: (await import("./File")).File }));

export function App({ api }: { api: Api }) {
  const page = pageAt(usePath());
  return (
    <div className="app">
      <Boundary key={page}>
        <Suspense>
          {page === "/" && <Explore api={api} />}
          {page === "/compare" && <Compare api={api} />}
          {page === "/file" && <File />}
          {page === "/fleet" && <Fleet />}
        </Suspense>
      </Boundary>
    </div>
  );
}

// Boundary says what broke instead of an empty page: a page that cannot be loaded, since the server is away or has another
// version of it by now, or our own mistake.
class Boundary extends Component<{ children: ReactNode }, { error: Error | undefined }> {
  override state = { error: undefined };

  static getDerivedStateFromError(error: unknown): { error: Error } {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override render(): ReactNode {
    const error: Error | undefined = this.state.error;
    if (error === undefined) return this.props.children;
    return <Problem title="This page could not be shown" detail={(error as Error).message} action={{ label: "Load it anew", act: () => location.reload() }} />;
  }
}
