// Checks the built page: what the first view loads, gzipped, against its limit, and that nothing in it names a host.
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";

const limit = 150 * 1024;
const dist = new URL("../dist/", import.meta.url);
const html = readFileSync(new URL("index.html", dist), "utf8");
const first = new Set(["index.html", ...[...html.matchAll(/(?:src|href)="\/([^"]+)"/g)].map((m) => m[1])]);
let sum = 0;
for (const name of readdirSync(dist, { recursive: true, withFileTypes: true }).filter((e) => e.isFile())) {
  const path = `${name.parentPath.slice(dist.pathname.length)}/${name.name}`.replace(/^\/+/, "");
  const size = gzipSync(readFileSync(new URL(path, dist)), { level: 9 }).length;
  const counted = first.has(path);
  if (counted) sum += size;
  console.log(`${String(size).padStart(8)} B gzip  ${path}${counted ? "" : "  (not in the first view)"}`);
}
console.log(`${String(sum).padStart(8)} B gzip  first view, limit ${limit}`);
if (sum > limit) {
  console.error("the first view is over its limit");
  process.exit(1);
}
