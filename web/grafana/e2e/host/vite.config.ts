import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

// A page that gives a plugin what Grafana gives it. Built, not served: Grafana's components are thousands of modules.
export default defineConfig({
  root: fileURLToPath(new URL(".", import.meta.url)),
  base: "./",
  resolve: { alias: [{ find: /^react-custom-scrollbars-2$/, replacement: fileURLToPath(new URL("scrollbars.ts", import.meta.url)) }] },
  define: { "process.env.NODE_ENV": '"development"', "process.env": "{}" },
  build: { outDir: "dist", emptyOutDir: true, minify: false, target: "es2022", chunkSizeWarningLimit: 50_000, reportCompressedSize: false },
});
