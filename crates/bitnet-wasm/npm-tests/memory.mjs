// Prints the bytes of the module's memory after a model is loaded, and after texts that need
// all that a text may need: a whole context, a grammar, several texts at once.
//
//   node memory.mjs FILE OPTIONS IS_CHECKED
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { PACKAGE } from "./support.mjs";

const [file, given, isChecked] = process.argv.slice(2);
const engine = await import(pathToFileURL(join(PACKAGE, "single/engine.js")));
const module = new WebAssembly.Module(readFileSync(join(PACKAGE, "single/engine_bg.wasm")));
const { memory } = engine.initSync({ module });
const options = JSON.stringify({ threads: 1, memoryLimit: 2 ** 32, ...JSON.parse(given) });

const bytes = readFileSync(file);
const loader = new engine.Loader();
loader.begin("model.gguf", bytes.length);
for (let at = 0; at < bytes.length; at += 4 << 20) {
  loader.append(bytes.subarray(at, at + (4 << 20)));
  if (isChecked === "true") loader.check(bytes.length, options);
}
const session = loader.load(options, () => {});
const loaded = memory.buffer.byteLength;

function write(...texts) {
  for (const [prompt, options] of texts) {
    session.generate(JSON.stringify(prompt), JSON.stringify({ seed: "1", maxTokens: 20, ...options }));
  }
  while (!session.isIdle()) session.step();
}
write(["word ".repeat(1000), {}]);
write(["A", { jsonSchema: { type: "object", properties: { name: { type: "string", maxLength: 12 } } } }]);
write(...[0, 1, 2, 3].map((i) => ["word ".repeat(200 + i), {}]));
console.log(JSON.stringify({ loaded, end: memory.buffer.byteLength }));
