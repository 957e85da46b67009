// What several tests use: the built package, the repository's models, and a static server.
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const TARGET = process.env.CARGO_TARGET_DIR ?? join(ROOT, "target");
/** What scripts/build-javascript makes. */
export const PACKAGE = join(TARGET, "npm/bitnet-wasm");
export const WEB = join(TARGET, "npm/web");
export const STORYTELLER = join(ROOT, "models/storyteller/storyteller.gguf");

/** The native program. */
export const BITNET = process.env.BITNET ?? join(TARGET, "debug/bitnet");

/** Runs a program and returns what it prints. */
export const run = promisify(execFile);

/** Runs the native program. */
export async function bitnet(...args) {
  return (await run(BITNET, args, { maxBuffer: 1 << 26 })).stdout;
}

/** Returns what the native program writes after a prompt. */
export async function native(prompt, ...args) {
  return JSON.parse(await bitnet("run", "--quiet", "--json", ...args, prompt));
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm" };

/**
 * Serves a folder. `isIsolated` adds the headers for threads; `answer(path, request, response)`
 * may answer otherwise, and returns whether it did.
 */
export async function serve(folder, { isIsolated = false, answer } = {}) {
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    requests.push(`${request.method} ${path}`);
    if (isIsolated) {
      response.setHeader("Cross-Origin-Opener-Policy", "same-origin");
      response.setHeader("Cross-Origin-Embedder-Policy", "require-corp");
    }
    if (await answer?.(path, request, response)) return;
    try {
      const bytes = await readFile(join(folder, path.endsWith("/") ? `${path}index.html` : path));
      response.setHeader("Content-Type", TYPES[extname(path)] ?? (path.endsWith("/") ? "text/html" : "application/octet-stream"));
      response.setHeader("Content-Length", bytes.length);
      response.setHeader("ETag", `"${bytes.length}"`);
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://localhost:${server.address().port}/`,
    requests,
    stop: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}
