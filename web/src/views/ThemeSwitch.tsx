import type { Theme } from "../lib/urlstate";

// ThemeSwitch changes between light and dark; state is what the URL says, theme what it amounts to now.
export function ThemeSwitch({ theme, state, set }: { theme: "light" | "dark"; state: Theme; set: (theme: Theme) => void }) {
  const next: Theme = theme === "light" ? "dark" : "light";
  return (
    <button
      className="icon"
      aria-label={`Theme: ${state}. Change to ${next}`}
      title={state === "system" ? "Follows the system: change" : "Change the theme; with shift, follow the system"}
      onClick={(e) => set(e.shiftKey ? "system" : next)}
    >
      <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
        <circle cx="8" cy="8" r="6" fill="none" stroke="currentColor" strokeWidth="1.5" />
        <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />
      </svg>
    </button>
  );
}
