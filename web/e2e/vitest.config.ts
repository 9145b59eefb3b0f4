import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

// Browser tests: the built page in the system's Chromium. PERFUSE_URL names a running server with data; without it the
// fixture answers. CHROMIUM names another browser.
export default defineConfig({
  root: fileURLToPath(new URL("..", import.meta.url)),
  test: {
    include: ["e2e/**/*.e2e.ts"],
    environment: "node",
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // One browser at a time: the machines that run this are small.
    fileParallelism: false,
  },
});
