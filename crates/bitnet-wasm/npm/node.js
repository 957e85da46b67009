// The package in Node.
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { BitnetError } from "./error.js";
import { modelClass } from "./model.js";
import { sourceFiles } from "./source.js";

/** Starts a worker thread. */
function start(kind) {
  const worker = new Worker(new URL(`./node-${kind}.js`, import.meta.url), { execArgv: [] });
  // A thread of a computation never keeps the process alive: the worker does.
  worker.unref();
  return {
    post: (message, transfer) => worker.postMessage(message, transfer),
    onMessage: (f) => worker.on("message", f),
    onError: (f) => worker.on("error", f),
    terminate: () => worker.terminate(),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
  };
}

/** Returns a URL of the web as it is, and anything else as a path. */
function locate(text) {
  if (/^https?:/i.test(text)) return { url: text };
  return { path: /^file:/i.test(text) ? fileURLToPath(text) : resolve(text) };
}

const Model = modelClass({
  start,
  canShareMemory: () => true,
  processors: availableParallelism,
  files: (source) => sourceFiles(source, {
    builtin: fileURLToPath(new URL("./storyteller.gguf", import.meta.url)),
    locate,
  }),
});

/** Node has no storage for models: nothing is kept. */
async function clearCache() {}

export { BitnetError, Model, clearCache };
