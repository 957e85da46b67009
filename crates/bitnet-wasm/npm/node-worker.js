// The worker of a model in Node.
import { open, readFile } from "node:fs/promises";
import { basename } from "node:path";
import { parentPort } from "node:worker_threads";
import { BitnetError } from "./error.js";
import { serve } from "./engine-worker.js";
import { randomAccess } from "./files.js";

serve(
  {
    post: (message) => parentPort.postMessage(message),
    onMessage: (f) => parentPort.on("message", f),
  },
  {
    schedule: setImmediate,
    module: async (variant) => ({
      engine: await import(`./${variant}/engine.js`),
      url: new URL(`./${variant}/engine_bg.wasm`, import.meta.url),
    }),
    compile: async (url) => WebAssembly.compile(await readFile(url)),
    async openPath(path) {
      let file;
      try {
        file = await open(path);
      } catch (error) {
        throw new BitnetError("bad-argument", `cannot read ${path}: ${error.code ?? error.message}`);
      }
      const { size } = await file.stat();
      const chunk = async (start, end) => {
        const bytes = new Uint8Array(end - start);
        const { bytesRead } = await file.read(bytes, 0, bytes.length, start);
        return bytes.subarray(0, bytesRead);
      };
      return randomAccess(basename(path), size, chunk, () => file.close());
    },
  },
);
