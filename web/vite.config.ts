import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The server that `npm run dev` asks: a running `perfuse up` or the fixture of e2e/fixture.
const server = process.env["PERFUSE_URL"] ?? "http://127.0.0.1:7070";

export default defineConfig({
  plugins: [react()],
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: true,
    // The bytes are committed and embedded: no map files, no preload helper that changes with the chunks.
    sourcemap: false,
    modulePreload: { polyfill: false },
    // CSP forbids data: scripts, and small files are gzipped by the server anyway.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/perfuse.query.v1.QueryService": server, "/perfuse.fleet.v1.FleetService": server },
  },
  test: {
    include: ["src/**/*.test.ts", "src/**/*.test.tsx"],
    environment: "node",
  },
});
