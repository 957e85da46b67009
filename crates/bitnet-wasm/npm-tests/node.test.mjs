// The package in Node, compared with the native program.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { split } from "./split-gguf.mjs";
import { PACKAGE, ROOT, STORYTELLER, bitnet, native, run, serve } from "./support.mjs";

const { BitnetError, Model } = await import(pathToFileURL(join(PACKAGE, "node.js")));
const PROMPT = "Once upon a time there was a";

/** Asserts that a promise fails with a code, and a message that has a text. */
async function fails(promise, code, text) {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof BitnetError, String(error));
    assert.equal(error.code, code, error.message);
    assert.ok(error.message.includes(text), error.message);
    return true;
  });
}

// Both modules: one thread without shared memory, and two that share it. The second is not
// built by `test-javascript --quick`.
const THREADS = existsSync(join(PACKAGE, "threads")) ? [1, 2] : [1];
const threads = THREADS.at(-1);

for (const threads of THREADS) {
  describe(`with ${threads} thread(s)`, { timeout: 300_000 }, () => {
    let model;
    before(async () => { model = await Model.load("builtin", { threads }); });
    after(() => model.free());

    test("it has the kernel with SIMD and its threads", () => {
      assert.equal(model.info.kernel, "wasm32-i2xi8-simd128");
      assert.equal(model.info.threads, threads);
    });

    test("the tokens of the reference prompts are the native program's", async () => {
      const { prompts } = JSON.parse(await readFile(join(ROOT, "models/storyteller/reference.json"), "utf8"));
      assert.ok(prompts.length >= 6);
      for (const { prompt } of prompts) {
        const expected = await native(prompt, "--temp", "0", "-n", "64");
        const { ids, text, finishReason } = await model.generate(prompt, { temperature: 0, maxTokens: 64 }).result;
        assert.deepEqual(ids, expected.ids, prompt);
        assert.equal(text, expected.text);
        assert.equal(finishReason, expected.finish_reason);
      }
    });

    test("a seed gives the text of the native program, with the model's own defaults", async () => {
      const expected = await native(PROMPT, "--seed", "18446744073709551615", "-n", "100");
      const { ids, seed } = await model.generate(PROMPT, { seed: 2n ** 64n - 1n, maxTokens: 100 }).result;
      assert.deepEqual(ids, expected.ids);
      assert.equal(seed, 2n ** 64n - 1n);
    });

    test("every sampling option is that of the native program", async () => {
      const flags = "--temp 0.9 --top-k 30 --top-p 0.9 --min-p 0.01 --repeat-penalty 1.1 --presence-penalty 0.3 --frequency-penalty 0.2 --repeat-last-n 40 --seed 5 -n 60";
      const expected = await native(PROMPT, ...flags.split(" "));
      const options = { temperature: 0.9, topK: 30, topP: 0.9, minP: 0.01, repeatPenalty: 1.1, presencePenalty: 0.3, frequencyPenalty: 0.2, penaltyWindow: 40, seed: 5, maxTokens: 60 };
      assert.deepEqual((await model.generate(PROMPT, options).result).ids, expected.ids);
      // The penalties decide something here.
      const { penaltyWindow, repeatPenalty, ...without } = options;
      assert.notDeepEqual((await model.generate(PROMPT, without).result).ids, expected.ids);
    });

    test("the digest is that of the native program's receipt", async () => {
      const folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
      const file = join(folder, "receipt.json");
      await bitnet("run", "--quiet", "--temp", "0.7", "--seed", "1", "-n", "50", "--receipt", file, PROMPT);
      const { digest } = JSON.parse(await readFile(file, "utf8"));
      await rm(folder, { recursive: true });
      const result = await model.generate(PROMPT, { temperature: 0.7, seed: 1, maxTokens: 50 }).result;
      assert.equal(result.digest, digest);
      const other = await model.generate(PROMPT, { temperature: 0.7, seed: 2, maxTokens: 50 }).result;
      assert.notEqual(other.digest, digest);
    });

    test("the pieces are the text, and come one after another", async () => {
      const generation = model.generate(PROMPT, { temperature: 0, maxTokens: 40 });
      const pieces = [];
      for await (const piece of generation) pieces.push(piece);
      assert.ok(pieces.length > 20, `${pieces.length}`);
      assert.equal(pieces.join(""), (await generation.result).text);
    });

    test("a stop text ends the text before it", async () => {
      const expected = await native(PROMPT, "--temp", "0", "--stop", "trumpets");
      const { text, ids, finishReason } = await model.generate(PROMPT, { temperature: 0, stop: "trumpets" }).result;
      assert.deepEqual([text, ids, finishReason], [expected.text, expected.ids, "stop"]);
      assert.ok(text.endsWith("the "), text);
    });

    test("an aborted text ends within one token, and others go on", async () => {
      const controller = new AbortController();
      const generation = model.generate(PROMPT, { temperature: 0, maxTokens: Infinity, signal: controller.signal });
      const other = model.generate("The king had", { temperature: 0, maxTokens: 30 });
      const reason = new Error("enough");
      let pieces = 0;
      await assert.rejects(async () => {
        for await (const piece of generation) {
          pieces += piece.length > 0;
          if (pieces === 3) controller.abort(reason);
          assert.ok(pieces <= 4, "no piece comes later but one that was there");
        }
      }, reason);
      await assert.rejects(generation.result, reason);
      assert.equal((await other.result).ids.length, 30);
      // The engine is free for the next one.
      const start = performance.now();
      await model.generate(PROMPT, { maxTokens: 1 }).result;
      assert.ok(performance.now() - start < 10_000);
    });

    test("a loop that breaks off ends the text", async () => {
      for await (const piece of model.generate(PROMPT, { maxTokens: Infinity })) {
        assert.equal(typeof piece, "string");
        break;
      }
      assert.equal((await model.generate(PROMPT, { maxTokens: 2 }).result).ids.length, 2);
    });

    test("texts at the same time are those of texts alone", async () => {
      const prompts = ["The doctor", "Far out in the ocean", "The king", "“Where", "The old sailor"];
      const options = { seed: 3, maxTokens: 24 };
      const together = await Promise.all(prompts.map((prompt) => model.generate(prompt, options).result));
      for (const [i, prompt] of prompts.entries()) {
        const alone = await model.generate(prompt, { ...options, speculate: false }).result;
        assert.deepEqual(together[i].ids, alone.ids, prompt);
      }
    });

    test("a JSON schema is followed", async () => {
      const jsonSchema = { type: "object", properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 99 } }, required: ["name", "age"], additionalProperties: false };
      const text = await model.generate("A boy as JSON: ", { jsonSchema, seed: 1, maxTokens: 80 }).text();
      const { name, age, ...rest } = JSON.parse(text);
      assert.equal(typeof name, "string");
      assert.ok(Number.isInteger(age) && age >= 0 && age <= 99, text);
      assert.deepEqual(rest, {});
    });

    test("a conversation is rendered as by the native program", async () => {
      const messages = [{ role: "user", content: "Tell me of the sea." }];
      const { ids, promptTokens } = await model.chat(messages, { template: "chatml", temperature: 0, maxTokens: 16 }).result;
      const text = "<|im_start|>user\nTell me of the sea.<|im_end|>\n<|im_start|>assistant\n";
      const prompt = await model.tokenize(text);
      const expected = await model.generate(prompt.subarray(1), { temperature: 0, maxTokens: 16 }).result;
      assert.deepEqual([promptTokens, ids], [prompt.length - 1, expected.ids]);
    });

    test("a beginning that was computed before is not computed again", async () => {
      const prompt = `${PROMPT} king who had three sons, and the youngest of them was called Hans, and he was`;
      await model.generate(prompt, { maxTokens: 4, temperature: 0 }).result;
      const { cachedTokens, promptTokens } = await model.generate(prompt, { maxTokens: 4, temperature: 0 }).result;
      assert.ok(cachedTokens > 0 && cachedTokens < promptTokens, `${cachedTokens} of ${promptTokens}`);
    });

    test("texts become tokens and back, as in the native program", async () => {
      const { tokenizer } = JSON.parse(await readFile(join(ROOT, "models/storyteller/reference.json"), "utf8"));
      for (const { text, ids } of tokenizer) {
        assert.deepEqual([...(await model.tokenize(text))], ids);
        assert.equal(await model.detokenize(ids), text.replaceAll("<|eot_id|>", ""));
      }
    });

    test("embeddings are the bits of the native program", async () => {
      const texts = ["Once upon a time", "The sea was calm."];
      const found = await model.embed(texts);
      for (const [i, text] of texts.entries()) {
        const expected = JSON.parse(await bitnet("embed", "--quiet", "--json", text));
        const values = Float32Array.from((expected.embeddings ?? [expected.embedding])[0]);
        assert.deepEqual(found[i], values);
      }
    });

    test("wrong arguments are errors that name them", async () => {
      const wrong = (prompt, options, text) => fails(model.generate(prompt, options).result, "bad-argument", text);
      await wrong("", {}, "prompt is empty");
      await wrong(PROMPT, { temprature: 1 }, "unknown field `temprature`");
      await wrong(PROMPT, { temperature: -1 }, "temperature is -1, expected 0 or more");
      await wrong(PROMPT, { maxTokens: "7" }, "invalid type: string \"7\"");
      await wrong(PROMPT, { stop: "" }, "a stop text is empty");
      await wrong(PROMPT, { regex: "a", grammar: "b" }, "expected one of jsonSchema, regex and grammar");
      await wrong(PROMPT, { jsonSchema: { type: "nonsense" } }, "the JSON schema cannot be followed");
      await wrong([9_999_999], {}, "there is no token 9999999");
      await wrong("word ".repeat(3000), {}, "3003 tokens, but the context only 1024");
      assert.throws(() => model.generate(PROMPT, { seed: 0.5 }), /seed is 0.5/);
      await fails(model.chat([{ role: "user", content: "x" }], { template: "{% for %}" }).result, "bad-argument", "template");
    });

    test("all the ways to the same model give the same text", async () => {
      const bytes = await readFile(STORYTELLER);
      const folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
      const parts = split(bytes, 3);
      for (const [i, part] of parts.entries()) await writeFile(join(folder, `m-0000${i + 1}-of-00003.gguf`), part);
      const server = await serve(folder);
      const expected = (await model.generate(PROMPT, { seed: 1, maxTokens: 20 }).result).ids;
      try {
        const file = (i) => new File([parts[i]], `m-0000${i + 1}-of-00003.gguf`);
        for (const source of [
          STORYTELLER,
          pathToFileURL(STORYTELLER),
          new Uint8Array(bytes),
          bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length),
          new Blob([bytes]),
          join(folder, "m-00002-of-00003.gguf"),
          `${server.url}m-00001-of-00003.gguf?a=b`,
          [file(2), file(0), file(1)],
          parts,
        ]) {
          const seen = [];
          const other = await Model.load(source, { threads, onProgress: (progress) => seen.push(progress) });
          assert.deepEqual((await other.generate(PROMPT, { seed: 1, maxTokens: 20 }).result).ids, expected, String(source));
          other.free();
          const { loaded, total } = seen.findLast(({ phase }) => phase !== "pack");
          assert.equal(loaded, total);
          assert.ok(total >= bytes.length);
        }
      } finally {
        await server.stop();
        await rm(folder, { recursive: true });
      }
    });
  });
}

describe("threads", { timeout: 300_000, skip: threads === 1 && "there is one module" }, () => {
  test("the default is a thread for each core, eight at most", async () => {
    const model = await Model.load("builtin");
    const n = availableParallelism();
    assert.equal(model.info.threads, n <= 3 ? Math.min(n, 2) : Math.min(n >> 1, 8));
    model.free();
  });

  // Waits that are not guarded fail in one of ten of these loads: see scripts/guard_waits.py.
  test("forty loads with more threads than processors, compiled by Liftoff, write the same text", async () => {
    const script = `import { Model } from ${JSON.stringify(pathToFileURL(join(PACKAGE, "node.js")))};
      for (let i = 0; i < 40; i += 1) {
        const model = await Model.load("builtin", { threads: 8 });
        console.log(await model.generate(${JSON.stringify(PROMPT)}, { temperature: 0, maxTokens: 4 }).text());
        model.free();
      }`;
    const { stdout } = await run(process.execPath, ["--liftoff-only", "--input-type=module", "--eval", script]);
    assert.equal(stdout, " great noise of shouting\n".repeat(40));
  });

  test("a guarded wait keeps the last variable of its function", async () => {
    // (func (param i32 i32) (result i32) (local i32)
    //   (local.set 2 (i32.add (local.get 1) (i32.const 1)))
    //   (drop (memory.atomic.wait32 (local.get 0) (i32.const 0) (i64.const 1)))
    //   (local.get 2))
    const bytes = Buffer.from("AGFzbQEAAAABBwFgAn9/AX8CCQEBZQFtAgMBAQMCAQAHBQEBZgAAChoBGAEBfyABQQFqIQIgAEEAQgH+AQIAGiACCw==", "base64");
    const folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
    const file = join(folder, "wait.wasm");
    await writeFile(file, bytes);
    await run(join(ROOT, "scripts/guard_waits.py"), [file]);
    const call = (module) => {
      const m = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
      return new WebAssembly.Instance(new WebAssembly.Module(module), { e: { m } }).exports.f(64, 41);
    };
    assert.equal(call(await readFile(file)), 42);
    // The defect that the guard is for.
    if (process.versions.v8.startsWith("11.3.")) assert.equal(call(bytes), 0);
    await rm(folder, { recursive: true });
  });
});

describe("loading", { timeout: 300_000 }, () => {
  test("models in other formats have the native program's tokens", async () => {
    const folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
    for (const [from, ...format] of [
      ["builtin", "--to", "gguf-tq1_0", "--head", "q6_k"],
      ["builtin", "--to", "gguf-i2_s", "--head", "f32"],
      [join(ROOT, "models/storyteller-tiny"), "--to", "gguf-tq2_0"],
    ]) {
      const file = join(folder, `${format[1]}.gguf`);
      await bitnet("convert", "--quiet", from, file, ...format);
      for (const [kv, head] of [["f16", "int8"], ["int8", "exact"]]) {
        const expected = await native("The king", "-m", file, "--seed", "4", "-n", "20", "--kv", kv, "--head", head);
        const model = await Model.load(file, { threads, kv, head });
        assert.deepEqual((await model.generate("The king", { seed: 4, maxTokens: 20 }).result).ids, expected.ids, `${format}, ${kv}`);
        model.free();
      }
    }
    await rm(folder, { recursive: true });
  });

  test("what is no model is an error that says so", async () => {
    const load = (source, options) => Model.load(source, { threads: 1, ...options });
    const bytes = await readFile(STORYTELLER);
    await fails(load(new TextEncoder().encode("<!doctype html>")), "bad-model", "begins with");
    await fails(load(new Uint8Array(0)), "bad-model", "truncated");
    await fails(load(bytes.subarray(0, 2_000_000)), "bad-model", "of the data");
    await fails(load(bytes.subarray(0, bytes.length - 100)), "bad-model", "needs");
    await fails(load(split(bytes, 2).reverse()), "bad-model", "split.no 1, expected 0");
    await fails(load([split(bytes, 2)[0]]), "bad-model", "is missing");
    await fails(load("/nowhere/model.gguf"), "bad-argument", "cannot read /nowhere/model.gguf: ENOENT");
    await fails(load(undefined), "bad-argument", "found undefined");
    await fails(load([]), "bad-argument", "found none");
    await fails(load("builtin", { threads: 0 }), "bad-argument", "threads is 0");
    await fails(load("builtin", { contextLength: 5000 }), "bad-argument", "a context of 5000 tokens is impossible");
    await fails(load("builtin", { kv: "f8" }), "bad-argument", "unknown variant `f8`");
    await fails(load("builtin", { colour: 1 }), "bad-argument", "unknown field `colour`");
  });

  test("a model that does not fit is refused before it is downloaded", async () => {
    const bytes = await readFile(STORYTELLER);
    let sent = 0;
    const server = await serve("/", {
      answer(path, request, response) {
        const size = path === "/huge.gguf" ? 5_000_000_000 : path === "/large.gguf" ? 3_000_000_000 : bytes.length;
        response.writeHead(200, { "Content-Length": size });
        if (request.method === "HEAD") {
          response.end();
        } else {
          // The header of the model, and then nothing any more.
          response.write(bytes.subarray(0, 3_000_000));
          sent += 3_000_000;
        }
        return true;
      },
    });
    try {
      await fails(Model.load(`${server.url}huge.gguf`, { threads: 1 }), "out-of-memory", "4768.4 MiB, more than the limit of 4096.0 MiB");
      await fails(Model.load(`${server.url}large.gguf`, { threads: 1 }), "out-of-memory", "large.gguf has 2861.0 MiB, but a file can have 2048.0 MiB at most");
      sent = 0;
      const limit = { threads: 1, memoryLimit: 40_000_000 };
      await fails(Model.load(`${server.url}big.gguf`, limit), "out-of-memory", "more than the limit of 38.1 MiB: files 11.0 MiB");
      assert.equal(sent, 3_000_000);
      await fails(Model.load(STORYTELLER, limit), "out-of-memory", "keys and values");
      const fits = await Model.load(STORYTELLER, { threads: 1, memoryLimit: 140_000_000 });
      fits.free();
    } finally {
      await server.stop();
    }
  });

  test("a model takes the memory that was estimated, and not much less", async () => {
    const folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
    const tiny = join(folder, "tiny.gguf");
    await bitnet("convert", "--quiet", join(ROOT, "models/storyteller-tiny"), tiny);
    for (const [file, options] of [[STORYTELLER, {}], [tiny, { kv: "int8" }]]) {
      const [checked, unchecked] = await Promise.all([true, false].map(async (isChecked) => {
        const script = fileURLToPath(new URL("memory.mjs", import.meta.url));
        return JSON.parse((await run(process.execPath, [script, file, JSON.stringify(options), String(isChecked)])).stdout);
      }));
      assert.equal(checked.end, checked.loaded, `${file}: the memory grew later`);
      assert.ok(unchecked.end > 0.7 * checked.end, `${file}: ${unchecked.end} of ${checked.end}`);
    }
    await rm(folder, { recursive: true });
  });

  test("what a server does wrong is an error with its address", async () => {
    const bytes = await readFile(STORYTELLER);
    const server = await serve("/", {
      answer(path, request, response) {
        if (path !== "/cut.gguf") return false;
        if (request.method === "HEAD") {
          // Some servers refuse it.
          response.writeHead(405).end();
          return true;
        }
        response.writeHead(200, { "Content-Length": bytes.length });
        response.write(bytes.subarray(0, 5_000_000), () => response.destroy());
        return true;
      },
    });
    await fails(Model.load(`${server.url}cut.gguf`, { threads: 1 }), "network", "cut.gguf");
    await fails(Model.load(`${server.url}none.gguf`, { threads: 1 }), "network", "status 404");
    await server.stop();
    await fails(Model.load(`${server.url}cut.gguf`, { threads: 1 }), "network", "cannot fetch");
  });

  test("a load can be aborted", async () => {
    const server = await serve("/", {
      answer(path, request, response) {
        response.writeHead(200, { "Content-Length": 1000 }).flushHeaders();
        return true;
      },
    });
    const controller = new AbortController();
    const load = Model.load(`${server.url}slow.gguf`, { threads, signal: controller.signal });
    setTimeout(() => controller.abort(), 300);
    await assert.rejects(load, { name: "AbortError" });
    await assert.rejects(Model.load("builtin", { signal: AbortSignal.abort() }), { name: "AbortError" });
    await server.stop();
  });

  test("a freed model fails, and what it computed ends", async () => {
    const model = await Model.load("builtin", { threads });
    const { result } = model.generate(PROMPT, { maxTokens: Infinity });
    model.free();
    await fails(result, "freed", "the model was freed");
    await fails(model.tokenize("a"), "freed", "the model was freed");
    model.free();
  });

  test("a model that computes nothing does not keep the process alive", async () => {
    const script = `import { Model } from ${JSON.stringify(pathToFileURL(join(PACKAGE, "node.js")))};
      const model = await Model.load("builtin", { threads: ${threads} });
      console.log(await model.generate(${JSON.stringify(PROMPT)}, { temperature: 0, maxTokens: 4 }).text());`;
    const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], { timeout: 60_000 });
    assert.equal(stdout, " great noise of shouting\n");
  });
});
