import { linkTo, pageAt, pages } from "../lib/route";
import { visit } from "./hooks";

// Brand is the head's beginning on every page: the name, and the way to the other pages.
export function Brand() {
  const here = pageAt(location.pathname);
  return (
    <>
      <a className="brand" href={location.pathname} title="Perfuse: this page from the beginning">
        <svg viewBox="0 0 16 16" width="18" height="18" aria-hidden="true">
          <rect x="1" y="1" width="14" height="4" rx="1" />
          <rect x="1" y="6" width="9" height="4" rx="1" opacity="0.75" />
          <rect x="1" y="11" width="4" height="4" rx="1" opacity="0.5" />
          <rect x="6" y="11" width="4" height="4" rx="1" opacity="0.3" />
        </svg>
        <span>Perfuse</span>
      </a>
      {pages.length > 1 && (
        <nav className="pages" aria-label="Pages">
          {pages.map((p) => (
            <a
              key={p.path}
              href={linkTo(p.path, location.search)}
              title={p.title}
              aria-current={p.path === here ? "page" : undefined}
              onClick={(e) => {
                if (e.button !== 0 || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
                e.preventDefault();
                if (p.path !== here) visit(linkTo(p.path, location.search));
              }}
            >
              {p.name}
            </a>
          ))}
        </nav>
      )}
    </>
  );
}
