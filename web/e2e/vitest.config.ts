import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// Browser tests: the built page in the system's Chromium, against what setup.ts starts. CHROMIUM names another browser.
export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  test: {
    include: ["e2e/**/*.e2e.ts"],
    environment: "node",
    globalSetup: "e2e/setup.ts",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // One browser at a time: the machines that run this are small.
    fileParallelism: false,
  },
});
