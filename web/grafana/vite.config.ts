import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vite";

// Of what Grafana shares with plugins those that this one uses: anything else would keep it from loading. Not
// react/jsx-runtime: JSX is written as calls of React.createElement, so that one build runs under React 18 and 19.
const shared = ["react", "rxjs", "@emotion/css", "@grafana/data", "@grafana/runtime", "@grafana/ui"];
const list = JSON.stringify(shared);

// The manifest gets the version that is built.
const manifest: Plugin = {
  name: "manifest",
  generateBundle() {
    const text = readFileSync(fileURLToPath(new URL("src/plugin.json", import.meta.url)), "utf8");
    this.emitFile({ type: "asset", fileName: "plugin.json", source: text.replace('"version": "0.0.0"', `"version": "${process.env["PERFUSE_VERSION"] ?? "0.0.0"}"`) });
    this.emitFile({ type: "asset", fileName: "LICENSE", source: readFileSync(fileURLToPath(new URL("../../LICENSE", import.meta.url)), "utf8") });
  },
};

// Builds what Grafana loads: one AMD module. The bundler writes CommonJS, and AMD is that in a function whose arguments are
// the modules.
export default defineConfig({
  plugins: [manifest],
  build: {
    lib: { entry: "src/module.ts", formats: ["cjs"], fileName: () => "module.js" },
    outDir: "dist",
    emptyOutDir: true,
    target: "es2022",
    reportCompressedSize: false,
    rolldownOptions: {
      external: shared,
      output: {
        banner: `define(${list}, function (...modules) { const exports = {}; const require = (id) => modules[${list}.indexOf(id)];`,
        footer: "return exports; });",
      },
    },
  },
});
