// The worker of a model in a browser.
import * as cache from "./browser-cache.js";
import { serve } from "./engine-worker.js";

// A task that follows at once: timers wait for milliseconds.
const { port1, port2 } = new MessageChannel();
let task;
port1.onmessage = () => task();

serve(
  {
    post: (message) => self.postMessage(message),
    onMessage: (f) => { self.onmessage = ({ data }) => f(data); },
  },
  {
    cache,
    schedule: (f) => {
      task = f;
      port2.postMessage(null);
    },
    module: async (variant) => variant === "threads"
      ? { engine: await import("./threads/engine.js"), url: new URL("./threads/engine_bg.wasm", import.meta.url) }
      : { engine: await import("./single/engine.js"), url: new URL("./single/engine_bg.wasm", import.meta.url) },
    async compile(url) {
      const response = await fetch(url);
      if (!response.ok) throw new Error(`cannot fetch ${url}: status ${response.status}`);
      const isTyped = response.headers.get("content-type")?.startsWith("application/wasm");
      return isTyped ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
    },
  },
);
