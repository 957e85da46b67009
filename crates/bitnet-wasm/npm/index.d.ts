/** What a model is loaded from: a URL, a path (Node), `"builtin"`, or its bytes. */
export type FileSource = string | URL | Blob | ArrayBuffer | Uint8Array;

/**
 * One file, or the files of a split model in any order. Of a URL or path that ends in
 * `-0000N-of-0000M.gguf`, all parts are loaded.
 */
export type ModelSource = FileSource | readonly FileSource[];

/** How far a model is loaded. */
export interface Progress {
  /**
   * `download`: from the network; `cache`: from the browser's storage; `read`: from a file or
   * memory; `pack`: its layers are made ready.
   */
  phase: "download" | "cache" | "read" | "pack";
  /** Bytes of all files, or layers. */
  loaded: number;
  /** All; nothing if a server does not tell the size. */
  total?: number;
}

export interface LoadOptions {
  onProgress?: (progress: Progress) => void;
  /** Ends the load with the reason of the signal. */
  signal?: AbortSignal;
  /**
   * Threads that compute. By default half of the hardware threads, at least two if there are
   * two, and eight at most. In pages that are not cross-origin isolated it is one, and more are
   * an error. The results are the same.
   */
  threads?: number;
  /** Whether downloads are kept in the browser's storage; by default they are. Not in Node. */
  cache?: boolean;
  /** Positions of a text, prompt included. By default those of the model, at most 4096. */
  contextLength?: number;
  /** The output matrix: `int8` (default), or `exact` and slower. */
  head?: "int8" | "exact";
  /** Keys and values: `f16` (default), `f32`, or `int8` for long contexts. */
  kv?: "f16" | "f32" | "int8";
  /** Maximum bytes of memory; by default 4 GiB, the limit of WebAssembly, or what can be had. */
  memoryLimit?: number;
}

/** What is known of a loaded model. */
export interface ModelInfo {
  readonly architecture: string;
  readonly contextLength: number;
  readonly vocabularySize: number;
  readonly embeddingLength: number;
  readonly hasChatTemplate: boolean;
  /** The name of the kernel. */
  readonly kernel: string;
  /** Threads that compute. */
  readonly threads: number;
  /** Bytes of the WebAssembly memory after loading. */
  readonly memory: number;
  /** Irregularities of the file that were accepted. */
  readonly notes: readonly string[];
}

export interface TextOptions {
  /** Ends the text with the reason of the signal, within one token. */
  signal?: AbortSignal;
  /** Maximum number of tokens; by default 128. The context is a limit in any case. */
  maxTokens?: number;
  /** 0 is greedy. By default what the model recommends, or 0.7. */
  temperature?: number;
  /** Keeps the k most likely tokens; 0 keeps all. */
  topK?: number;
  /** Keeps the most likely tokens whose probabilities sum to p. */
  topP?: number;
  /** Keeps tokens at least p times as likely as the most likely one. */
  minP?: number;
  /** Penalty of recent tokens; 1 is none. */
  repeatPenalty?: number;
  /** Penalty of tokens that are in the text, from -2 to 2. */
  presencePenalty?: number;
  /** Penalty for each occurrence, from -2 to 2. */
  frequencyPenalty?: number;
  /** Tokens that penalties look back at; by default 256. */
  penaltyWindow?: number;
  /** The same seed gives the same text, here and in the native program. By default random. */
  seed?: number | bigint;
  /** Texts that end the text without being part of it. */
  stop?: string | readonly string[];
  /** A JSON schema that the text follows. At most one of these three. */
  jsonSchema?: object | boolean;
  /** A regular expression that the text follows. */
  regex?: string;
  /** A Lark grammar that the text follows. */
  grammar?: string;
  /** Whether tokens are drafted from what the text repeats. The text is the same. */
  speculate?: boolean;
}

export interface ChatOptions extends TextOptions {
  /** A built-in template (`bitnet`, `chatml`, `falcon3`, `llama3`) or the source of one. */
  template?: string;
  /** Tools for the template, in the form of OpenAI's API. */
  tools?: readonly object[];
  /** Variables of the template, such as `enable_thinking`. */
  variables?: Record<string, unknown>;
}

export interface Message {
  role: string;
  content: string;
  [name: string]: unknown;
}

/** A finished text. */
export interface TextResult {
  text: string;
  /** The tokens of the text, as `bitnet run --json` prints them. */
  ids: number[];
  /** `eos`: the model ended it; `length`: a limit; `stop`: a stop text. */
  finishReason: "eos" | "length" | "stop";
  seed: bigint;
  promptTokens: number;
  /** Tokens of the prompt that had been computed for an earlier text. */
  cachedTokens: number;
  generatedTokens: number;
  /** Until the first token, and from there to the end. */
  seconds: { prompt: number; decode: number };
  /**
   * SHA-256, in hexadecimal digits, of all that the text depends on but the weights, and its
   * tokens: the `digest` of the receipt that `bitnet run --receipt` writes.
   */
  digest: string;
}

/** A text that is generated: its pieces, as they come. */
export interface Generation extends AsyncIterable<string> {
  /** The finished text. */
  readonly result: Promise<TextResult>;
  /** The finished text alone. */
  text(): Promise<string>;
}

/** A loaded model. Several texts may be generated at the same time. */
export class Model {
  private constructor();

  /** Loads a GGUF model. */
  static load(source: ModelSource, options?: LoadOptions): Promise<Model>;

  readonly info: ModelInfo;

  /** Continues a prompt: a text, or tokens with BOS. */
  generate(prompt: string | Iterable<number>, options?: TextOptions): Generation;
  /** Generates the next message of a conversation. */
  chat(messages: readonly Message[], options?: ChatOptions): Generation;
  /** Returns the embedding of a text, of length 1, or of each text. */
  embed(text: string, options?: { signal?: AbortSignal }): Promise<Float32Array>;
  embed(texts: readonly string[], options?: { signal?: AbortSignal }): Promise<Float32Array[]>;
  /** Returns the tokens of a text, BOS included. */
  tokenize(text: string): Promise<Uint32Array>;
  /** Returns the text of tokens, without special ones. */
  detokenize(ids: Iterable<number>): Promise<string>;
  /** Ends all computation and frees the memory. Later calls fail. */
  free(): void;
}

/** An error of this package. An aborted call fails with the reason of its signal instead. */
export class BitnetError extends Error {
  constructor(code: BitnetError["code"], message: string, options?: ErrorOptions);

  readonly code:
    | "bad-argument"
    | "bad-model"
    | "out-of-memory"
    | "network"
    | "failed"
    | "freed";
}

/** Removes the models that were kept in the browser's storage. */
export function clearCache(): Promise<void>;
