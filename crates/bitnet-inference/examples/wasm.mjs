// Continues the prompts of the reference in WebAssembly. Compares the tokens with the
// reference, and the logits of the first prompt, bit for bit, with the golden record. Computes
// the text of a receipt again that a native program wrote.
//
//   node wasm.mjs wasm.wasm reference.json exactness.rs
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

const [module, reference, record] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(await readFile(module));
const { uses_simd, push_byte, run, token, hash_logits, verify_receipt } = instance.exports;
assert.ok(uses_simd(), "the kernel with SIMD is chosen");

const golden = [...(await readFile(record, "utf8")).matchAll(/\) ([0-9a-f]{16}) \[/g)];
assert.equal(golden.length, 3, "a hash for each precision");
let compared = 0;
for (const [i, expected] of JSON.parse(await readFile(reference, "utf8")).prompts.entries()) {
    new TextEncoder().encode(expected.prompt).forEach((byte) => push_byte(byte));
    // After these steps, the two most likely tokens are nearly tied.
    const steps = Math.min(expected.greedy_safe_steps, 32);
    const tokens = Array.from({ length: run(steps) }, (_, i) => token(i));
    assert.deepEqual(tokens, [...expected.ids, ...expected.greedy_ids.slice(0, steps)]);
    compared += steps;
    if (i === 0) {
        golden.forEach(([, expectedHash], precision) => {
            const hash = BigInt.asUintN(64, hash_logits(expected.ids.length, precision));
            assert.equal(hash.toString(16).padStart(16, "0"), expectedHash);
        });
    }
}
assert.ok(compared >= 32, "one prompt is sure for long");
assert.ok(verify_receipt(), "the receipt of a native program holds");
console.log(`the receipt holds, logits are those of the golden record, ${compared} tokens those of the reference`);
