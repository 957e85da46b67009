// The side of the caller: a model is a worker that computes, and messages to and from it.
import { BitnetError } from "./error.js";

/** A token is too short a computation for more threads, unless the caller knows better. */
const MAX_DEFAULT_THREADS = 8;

/** Posts requests to the worker of a model and passes its answers on. */
class Connection {
  #host;
  #worker;
  #threads = [];
  #pending = new Map();
  #nextId = 0;
  #ended = null;

  constructor(host) {
    this.#host = host;
    this.#worker = this.#start("worker");
    this.#worker.onMessage((message) => this.#receive(message));
  }

  #start(kind) {
    const worker = this.#host.start(kind);
    worker.onError((error) => this.end(new BitnetError("failed", `a worker ended: ${error?.message ?? error}`)));
    return worker;
  }

  #receive({ id, event, result, error, threads, fatal }) {
    if (fatal !== undefined) {
      this.end(new BitnetError("failed", `the engine ended: ${fatal}`));
      return;
    }
    if (threads) {
      // Workers do not start workers: not all browsers can while one of them computes.
      for (let i = 0; i < threads.count; i += 1) {
        const thread = this.#start("thread");
        thread.post({ module: threads.module, memory: threads.memory });
        this.#threads.push(thread);
      }
      return;
    }
    const pending = this.#pending.get(id);
    if (!pending) return;
    if (event) {
      pending.onEvent?.(event);
    } else if (error) {
      this.#settle(id);
      pending.reject(new BitnetError(error.code, error.message));
    } else {
      this.#settle(id);
      pending.resolve(result);
    }
  }

  #settle(id) {
    this.#pending.delete(id);
    // In Node, a model that computes nothing does not keep the process alive.
    if (this.#pending.size === 0) this.#worker.unref();
  }

  /** Resolves with the result of a method of the worker. An aborted request is cancelled there. */
  request(method, args, { onEvent, signal, transfer } = {}) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.#ended) throw this.#ended;
      const id = this.#nextId++;
      const onAbort = () => {
        if (!this.#pending.has(id)) return;
        this.#settle(id);
        this.#worker.post({ method: "cancel", args: [id] });
        reject(signal.reason);
      };
      const settled = (settle) => (value) => {
        signal?.removeEventListener("abort", onAbort);
        settle(value);
      };
      this.#pending.set(id, { onEvent, resolve: settled(resolve), reject: settled(reject) });
      this.#worker.ref();
      signal?.addEventListener("abort", onAbort);
      this.#worker.post({ id, method, args }, transfer);
    });
  }

  /** Ends the workers; open requests and later ones fail with this error. */
  end(error) {
    if (this.#ended) return;
    this.#ended = error;
    for (const worker of [this.#worker, ...this.#threads]) worker.terminate();
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }
}

/** A text that is generated: iterate over its pieces, or await `result` or `text()`. */
class Generation {
  #pieces = [];
  #wake = null;
  #done = false;
  #abort = new AbortController();

  constructor(connection, method, args, { signal, ...options }) {
    const seed = options.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
    const signals = signal ? AbortSignal.any([signal, this.#abort.signal]) : this.#abort.signal;
    this.result = connection
      .request(method, [...args, textOptions(options, seed)], { signal: signals, onEvent: (piece) => this.#push(piece) })
      .then((result) => {
        if (result.rest) this.#push(result.rest);
        delete result.rest;
        return { text: this.#text, seed: BigInt(seed), ...result };
      })
      .finally(() => {
        this.#done = true;
        this.#wake?.();
      });
    // Whoever iterates gets the error there.
    this.result.catch(() => {});
  }

  #text = "";

  #push(piece) {
    this.#text += piece;
    this.#pieces.push(piece);
    this.#wake?.();
  }

  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        while (this.#pieces.length > 0) yield this.#pieces.shift();
        if (this.#done) break;
        await new Promise((resolve) => { this.#wake = resolve; });
      }
      await this.result;
    } finally {
      // After `break` nobody wants the rest.
      if (!this.#done) this.#abort.abort();
    }
  }

  /** Resolves with the whole text. */
  async text() {
    return (await this.result).text;
  }
}

function textOptions({ stop, maxTokens, ...options }, seed) {
  if (typeof seed !== "bigint" && !Number.isSafeInteger(seed)) {
    throw new BitnetError("bad-argument", `seed is ${seed}, expected an integer, or a BigInt below 2^64`);
  }
  return JSON.stringify({
    ...options,
    seed: String(seed),
    stop: typeof stop === "string" ? [stop] : stop,
    maxTokens: maxTokens === Infinity ? 0xffff_ffff : maxTokens,
  });
}

/** Returns the class `Model` for a host: a browser or Node. */
export function modelClass(host) {
  return class Model {
    #connection;

    constructor(connection, info) {
      this.#connection = connection;
      this.info = Object.freeze(info);
    }

    static async load(source, { onProgress, signal, threads, cache = true, memoryLimit, ...options } = {}) {
      signal?.throwIfAborted();
      const n_threads = threadCount(host, threads);
      const { files, transfer } = await host.files(source);
      const connection = new Connection(host);
      const onAbort = () => connection.end(signal.reason);
      signal?.addEventListener("abort", onAbort);
      try {
        const request = { files, cache, memoryLimit, threads: n_threads, options };
        const info = await connection.request("load", [request], { onEvent: onProgress, transfer });
        return new Model(connection, info);
      } catch (error) {
        connection.end(error);
        throw error;
      } finally {
        signal?.removeEventListener("abort", onAbort);
      }
    }

    generate(prompt, options = {}) {
      const tokens = typeof prompt === "string" ? prompt : Array.from(prompt);
      return new Generation(this.#connection, "generate", [JSON.stringify(tokens)], options);
    }

    chat(messages, options = {}) {
      return new Generation(this.#connection, "chat", [JSON.stringify(messages)], options);
    }

    async embed(input, { signal } = {}) {
      const one = (text) => this.#connection.request("embed", [String(text)], { signal });
      return Array.isArray(input) ? Promise.all(input.map(one)) : one(input);
    }

    async tokenize(text) {
      return this.#connection.request("tokenize", [String(text)]);
    }

    async detokenize(ids) {
      return this.#connection.request("detokenize", [Uint32Array.from(ids)]);
    }

    free() {
      this.#connection.end(new BitnetError("freed", "the model was freed"));
    }
  };
}

function threadCount(host, threads) {
  const canShare = host.canShareMemory();
  if (threads === undefined) {
    // Most processors run two threads on a core, which share its arithmetic units.
    const processors = host.processors();
    return canShare ? Math.min(Math.max(processors >> 1, Math.min(processors, 2)), MAX_DEFAULT_THREADS) : 1;
  }
  if (!Number.isInteger(threads) || threads < 1) {
    throw new BitnetError("bad-argument", `threads is ${threads}, expected a positive integer`);
  }
  if (threads > 1 && !canShare) {
    throw new BitnetError(
      "bad-argument",
      `threads is ${threads}, but this page has one: it is not cross-origin isolated`,
    );
  }
  return threads;
}
