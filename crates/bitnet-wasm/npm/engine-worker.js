// The worker of a model: it loads the WebAssembly module, takes requests, and computes them
// step by step. Between two steps it receives messages, so a cancelled request ends there.
import { BitnetError } from "./error.js";
import { readFiles } from "./files.js";

const PAGE = 65536;

/** Pages for the module's data and first stack: some more than it asks for, which are lost. */
const INITIAL = 40;

/** Answers messages on `port`. `host` has what differs between browsers and Node. */
export function serve(port, host) {
  let engine;
  let session;
  /** The requests of the session: the id of the message, and when what happened. */
  const requests = new Map();
  let isRunning = false;

  port.onMessage(async ({ id, method, args }) => {
    try {
      const result = await methods[method](id, ...args);
      if (result !== undefined) port.post({ id, result });
    } catch (error) {
      report(id, error);
    }
  });

  function report(id, error) {
    if (error instanceof WebAssembly.RuntimeError || error instanceof RangeError) {
      // A panic, or a full stack: the instance cannot go on.
      port.post({ fatal: engine?.takePanic() || error.message });
    } else {
      port.post({ id, error: describe(error) });
    }
  }

  const methods = {
    async load(id, { files, cache, memoryLimit, threads, options }) {
      const { memory, limit, startThreads } = await instantiate(threads);
      const json = JSON.stringify({ ...options, threads, memoryLimit: Math.min(memoryLimit ?? Infinity, limit) });
      const loader = new engine.Loader();
      const progress = (event) => port.post({ id, event });
      await readFiles(loader, files, { host, cache, options: json, progress });
      await startThreads();
      session = loader.load(json, (loaded, total) => progress({ phase: "pack", loaded, total }));
      return { ...JSON.parse(session.info()), memory: memory.buffer.byteLength };
    },
    generate(id, prompt, options) {
      begin(id, session.generate(prompt, options));
    },
    chat(id, messages, options) {
      begin(id, session.chat(messages, options, Date.now()));
    },
    embed(id, text) {
      begin(id, session.embed(text));
    },
    tokenize: (id, text) => session.tokenize(text),
    detokenize: (id, ids) => session.detokenize(ids),
    cancel(_, id) {
      for (const [request, { message }] of requests) {
        if (message === id) {
          session.cancel(request);
          requests.delete(request);
        }
      }
    },
  };

  /** Loads the module. Returns its memory, its limit, and what starts the other threads. */
  async function instantiate(threads) {
    const variant = threads > 1 ? "threads" : "single";
    const loaded = await host.module(variant);
    engine = loaded.engine;
    const module = await host.compile(loaded.url);
    if (variant === "single") {
      const { memory } = engine.initSync({ module });
      return { memory, limit: 65536 * PAGE, startThreads: () => {} };
    }
    const { memory, maximum } = sharedMemory();
    engine.initSync({ module, memory });
    const startThreads = async () => {
      port.post({ threads: { count: threads - 1, module, memory } });
      while (engine.lentThreads() < threads - 1) await new Promise((resolve) => setTimeout(resolve, 1));
    };
    return { memory, limit: maximum * PAGE, startThreads };
  }

  function begin(message, request) {
    requests.set(request, { message, start: performance.now() });
    if (isRunning) return;
    isRunning = true;
    host.schedule(step);
  }

  function step() {
    try {
      for (const event of JSON.parse(session.step())) handle(event);
    } catch (error) {
      report(undefined, error);
      return;
    }
    isRunning = !session.isIdle();
    if (isRunning) host.schedule(step);
  }

  function handle({ type, id, ...event }) {
    const request = requests.get(id);
    if (!request) return;
    const { message, start } = request;
    const now = performance.now();
    if (type === "piece") {
      request.first ??= now;
      if (event.text) port.post({ id: message, event: event.text });
      return;
    }
    if (type === "prompt") return;
    requests.delete(id);
    if (type === "end") {
      const { text: rest, ...result } = event;
      const first = request.first ?? now;
      const seconds = { prompt: (first - start) / 1000, decode: (now - first) / 1000 };
      port.post({ id: message, result: { rest, ...result, seconds } });
    } else if (type === "embedding") {
      port.post({ id: message, result: Float32Array.from(event.values) });
    } else {
      port.post({ id: message, error: event });
    }
  }
}

/** Returns shared memory with the largest limit that can be had: phones refuse large ones. */
function sharedMemory() {
  for (const maximum of [65536, 32768, 16384, 8192]) {
    try {
      return { memory: new WebAssembly.Memory({ initial: INITIAL, maximum, shared: true }), maximum };
    } catch {
      // The next one is smaller.
    }
  }
  throw new BitnetError("out-of-memory", "no memory that threads share can be had: try with threads: 1");
}

/** Returns the code and the message of an error. The module throws JSON. */
function describe(error) {
  if (typeof error === "string") return JSON.parse(error);
  const { code, message } = error;
  return { code: error instanceof BitnetError ? code : "failed", message: message ?? String(error) };
}
