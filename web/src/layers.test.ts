import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { expect, test } from "vitest";

// Who may import whom; the mirror of the Go test. Changing a line here is changing the design.
//
//   views → flame, lib, api      flame → lib      api → lib      lib → api/gen (the wire's enumerations)
//   React is for views and main only; the network for api only. A view that is loaded later brings its own style.
const allowed: Readonly<Record<string, readonly string[]>> = {
  main: ["views", "api", "theme.css", "page.css"],
  views: ["views", "flame", "lib", "api"],
  flame: ["flame", "lib"],
  lib: ["lib", "gen"],
  api: ["api", "lib", "gen"],
  gen: ["gen"],
};
const packages: Readonly<Record<string, RegExp>> = {
  main: /^react(-dom)?(\/|$)/,
  views: /^react$/,
  flame: /^$/,
  lib: /^$/,
  api: /^@(connectrpc|bufbuild)\//,
  gen: /^@bufbuild\//,
};

const src = resolve(__dirname);

function roomOf(path: string): string {
  const parts = relative(src, path).split("/");
  if (parts[0] === "api" && parts[1] === "gen") return "gen";
  return parts.length === 1 ? (parts[0] as string).replace(/\.tsx?$/, "") : (parts[0] as string);
}

const files = readdirSync(src, { recursive: true, encoding: "utf8" })
  .filter((f) => /\.tsx?$/.test(f) && !/\.test\.tsx?$/.test(f))
  .map((f) => join(src, f));

test("imports follow the table", () => {
  expect(files.length).toBeGreaterThan(20);
  const wrong: string[] = [];
  for (const file of files) {
    const room = roomOf(file);
    if (allowed[room] === undefined) {
      wrong.push(`${relative(src, file)} is in no room`);
      continue;
    }
    for (const m of readFileSync(file, "utf8").matchAll(/^(?:import\s+(?:[^"';]*?\sfrom\s+)?|export\s[^"';]*?\sfrom\s+)["']([^"']+)["']/gm)) {
      const target = m[1] as string;
      if (target.startsWith(".")) {
        if (room === "views" && /^\.\/\w+\.css$/.test(target)) continue;
        const to = roomOf(resolve(dirname(file), target));
        if (!(allowed[room] as readonly string[]).includes(to)) wrong.push(`${relative(src, file)} imports ${target}`);
      } else if (!(packages[room] as RegExp).test(target)) wrong.push(`${relative(src, file)} imports ${target}`);
    }
  }
  expect(wrong).toEqual([]);
});

test("nothing is typed any, and nothing silences the compiler", () => {
  const bad = files.filter((f) => !f.includes("/gen/") && /:\s*any\b|\bas any\b|<any>|@ts-(?:ignore|expect-error|nocheck)/.test(readFileSync(f, "utf8")));
  expect(bad.map((f) => relative(src, f))).toEqual([]);
});
