// Use a server with Ollama's client for Node, as its documentation does.
//
//     node ollama_client.mjs BASE_URL TOOLS_URL KEY     prints a line per check; exits with 1 if
//                                                       one fails
//
// The servers have `--alias peers`, a key and no `--lenient`; the template of the second has
// tools.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { Ollama } from "ollama";

const [host, toolsHost, key] = process.argv.slice(2);
const model = "peers";
const headers = { Authorization: `Bearer ${key}` };
const client = new Ollama({ host, headers });
const withTools = new Ollama({ host: toolsHost, headers });
const messages = [{ role: "user", content: "Tell me a story." }];
const options = { num_predict: 20, seed: 3 };

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const checks = {
  async models() {
    const { models } = await client.list();
    assert.deepEqual(models.map((m) => m.name), [model]);
    const shown = await client.show({ model });
    assert.ok(shown.capabilities.includes("embedding"));
    assert.equal((await client.ps()).models.length, 1);
    assert.match((await client.version()).version, /^\d+\.\d+/);
  },

  async "chat, whole and as a stream"() {
    const whole = await client.chat({ model, messages, options });
    assert.equal(whole.done_reason, "length");
    assert.equal(whole.eval_count, 20);
    const chunks = await collect(await client.chat({ model, messages, options, stream: true }));
    assert.equal(chunks.map((c) => c.message.content).join(""), whole.message.content);
    assert.equal(chunks.at(-1).done, true);
  },

  async generate() {
    const asked = { model, prompt: "The fox", raw: true, options };
    const whole = await client.generate(asked);
    const chunks = await collect(await client.generate({ ...asked, stream: true }));
    assert.equal(chunks.map((c) => c.response).join(""), whole.response);
    assert.ok(whole.response.length > 0);
  },

  async embeddings() {
    const { embeddings } = await client.embed({ model, input: ["a fox", "a raven"] });
    assert.equal(embeddings.length, 2);
  },

  async "JSON schema"() {
    const format = {
      type: "object",
      properties: { name: { enum: ["fox", "wolf"] } },
      required: ["name"],
      additionalProperties: false,
    };
    const more = { ...options, num_predict: 200 };
    const reply = await client.chat({ model, messages, options: more, format });
    assert.ok(["fox", "wolf"].includes(JSON.parse(reply.message.content).name));
  },

  async "tools, whole, as a stream, and their results"() {
    const parameters = {
      type: "object",
      properties: { day: { enum: ["today", "tomorrow"] } },
      required: ["day"],
      additionalProperties: false,
    };
    const tools = [{ type: "function", function: { name: "weather", parameters } }];
    // Ollama's API has no `tool_choice`; the model would not call by itself.
    const more = { ...options, num_predict: 200 };
    const asked = { model, messages, options: more, tools, tool_choice: "required" };
    const whole = await withTools.chat(asked);
    const [call] = whole.message.tool_calls;
    assert.ok(["today", "tomorrow"].includes(call.function.arguments.day));
    const chunks = await collect(await withTools.chat({ ...asked, stream: true }));
    const streamed = chunks.flatMap((c) => c.message.tool_calls ?? []);
    assert.deepEqual(streamed, [call]);
    const reply = await withTools.chat({
      model,
      options,
      tools,
      messages: [
        ...messages,
        whole.message,
        { role: "tool", tool_name: "weather", content: "It rains." },
      ],
    });
    assert.equal(reply.done, true);
  },

  async errors() {
    const wrong = [
      [{ model: "llama3" }, 404, /llama3/],
      [{ options: { temperature: 3 } }, 400, /temperature/],
      [{ nonsense: 1 }, 400, /nonsense/],
      [{ think: true }, 400, /think/],
    ];
    for (const [field, status, message] of wrong) {
      const error = await client.chat({ model, messages, options, ...field }).catch((e) => e);
      assert.equal(error.status_code, status, `${error}`);
      assert.match(error.message, message);
    }
    const error = await new Ollama({ host }).list().catch((e) => e);
    assert.equal(error.status_code, 401);
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
const file = new URL("node_modules/ollama/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(file, "utf8"));
const total = Object.keys(checks).length;
console.log(`ollama ${version} for Node: ${total - failed} of ${total} pass`);
process.exit(failed ? 1 : 0);
