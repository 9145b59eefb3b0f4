import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// Browser tests in the system's Chromium. PERFUSE_GRAFANA_URL is where the bridge of editor_test.go listens; CHROMIUM
// names another browser.
export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  test: { include: ["e2e/**/*.e2e.ts"], environment: "node", testTimeout: 60_000, hookTimeout: 60_000, fileParallelism: false },
});
