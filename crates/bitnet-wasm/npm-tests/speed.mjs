// Tokens a second of the package as a share of the native program's, one thread each: the
// built-in model, without drafts. Both run in turn, so that other load meets both.
//
//   BITNET=target/release/bitnet node speed.mjs [PAIRS]
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { PACKAGE, native } from "./support.mjs";

const { Model } = await import(pathToFileURL(join(PACKAGE, "node.js")));
const PROMPT = "Once upon a time there was a";
const TOKENS = 300;
const pairs = Number(process.argv[2] ?? 9);

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const model = await Model.load("builtin", { threads: 1 });
const options = { seed: 1, maxTokens: TOKENS, speculate: false };
// The first text compiles the module's code.
await model.generate(PROMPT, options).result;

const found = { native: [], wasm: [], share: [] };
for (let i = 0; i < pairs; i += 1) {
  const { timings, ids } = await native(PROMPT, "-t", "1", "--seed", "1", "-n", String(TOKENS), "--speculate", "off");
  const result = await model.generate(PROMPT, options).result;
  if (JSON.stringify(result.ids) !== JSON.stringify(ids)) throw new Error("the texts differ");
  const wasm = (result.generatedTokens - 1) / result.seconds.decode;
  found.native.push(timings.decode_tok_s);
  found.wasm.push(wasm);
  found.share.push(wasm / timings.decode_tok_s);
}
model.free();
console.log(`native ${median(found.native).toFixed(1)} tok/s, WebAssembly ${median(found.wasm).toFixed(1)} tok/s`);
console.log(`share: median ${(100 * median(found.share)).toFixed(0)} %, ${found.share.map((share) => (100 * share).toFixed(0)).join(" ")}`);
