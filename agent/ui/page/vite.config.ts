import { defineConfig, loadEnv } from "vite";

// `npm run dev` asks the agent that SHOAL_AGENT names.
const agent = loadEnv("", ".", "SHOAL_")["SHOAL_AGENT"] ?? "http://127.0.0.1:15000";

// Nothing is inlined: the page's policy lets no inline script and no inline style in.
export default defineConfig({
  base: "/ui/",
  build: { outDir: "../built", emptyOutDir: true, assetsInlineLimit: 0, modulePreload: { polyfill: false }, target: "es2022" },
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  worker: { format: "es" },
  server: { port: 5173, strictPort: true, proxy: { "/api": { target: agent, ws: true, changeOrigin: true } } },
});
