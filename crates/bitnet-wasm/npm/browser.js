// The package in a browser.
import { removeAll } from "./browser-cache.js";
import { BitnetError } from "./error.js";
import { modelClass } from "./model.js";
import { sourceFiles } from "./source.js";

/** Wraps a web worker. */
function wrap(worker) {
  return {
    post: (message, transfer) => worker.postMessage(message, transfer),
    onMessage: (f) => { worker.onmessage = ({ data }) => f(data); },
    onError: (f) => { worker.onerror = f; },
    terminate: () => worker.terminate(),
    ref: () => {},
    unref: () => {},
  };
}

const Model = modelClass({
  // Bundlers find workers by this form.
  start: (kind) => wrap(kind === "worker"
    ? new Worker(new URL("./browser-worker.js", import.meta.url), { type: "module" })
    : new Worker(new URL("./browser-thread.js", import.meta.url), { type: "module" })),
  canShareMemory: () => globalThis.crossOriginIsolated === true && typeof SharedArrayBuffer !== "undefined",
  processors: () => navigator.hardwareConcurrency ?? 1,
  files: (source) => sourceFiles(source, {
    builtin: new URL("./storyteller.gguf", import.meta.url).href,
    locate: (text) => ({ url: new URL(text, document.baseURI).href }),
  }),
});

/** Removes the models that were kept in the browser's storage. */
const clearCache = removeAll;

export { BitnetError, Model, clearCache };
