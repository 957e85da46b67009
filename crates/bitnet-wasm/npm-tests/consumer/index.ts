// What a user of the package writes; it must pass a strict type check, and run.
import { BitnetError, Model, clearCache, type Generation, type Progress, type TextResult } from "bitnet-wasm";

const seen: Progress[] = [];
const model: Model = await Model.load("builtin", { threads: 1, onProgress: (progress) => seen.push(progress) });
const generation: Generation = model.generate("Once upon a time there was a", { temperature: 0, maxTokens: 6, stop: ["."] });
let text = "";
for await (const piece of generation) text += piece;
const result: TextResult = await generation.result;
const ids: number[] = result.ids;
const embedding: Float32Array = await model.embed("a");
const embeddings: Float32Array[] = await model.embed(["a", "b"]);
const chat: string = await model.chat([{ role: "user", content: "Hello" }], { template: "chatml", maxTokens: 1 }).text();

// @ts-expect-error: the name of the option is wrong.
await model.generate("a", { temprature: 0 }).result.catch((error: unknown) => console.log(error instanceof BitnetError && error.code));
// @ts-expect-error: models are loaded, not constructed.
new Model();

await clearCache();
console.log(JSON.stringify({ text, ids, lengths: [embedding.length, embeddings.length], chat: chat.length > 0, phases: [...new Set(seen.map(({ phase }) => phase))] }));
model.free();
