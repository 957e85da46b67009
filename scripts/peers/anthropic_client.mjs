// Use a server with Anthropic's client for Node, as its documentation does.
//
//     node anthropic_client.mjs BASE_URL TOOLS_URL KEY     prints a line per check; exits with 1
//                                                          if one fails
//
// The servers have `--alias peers`, a key and no `--lenient`; the template of the second has
// tools.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import Anthropic from "@anthropic-ai/sdk";

const [baseURL, toolsURL, apiKey] = process.argv.slice(2);
const model = "peers";
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const withTools = new Anthropic({ baseURL: toolsURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me a story." }];
const options = { model, messages, max_tokens: 20, seed: 3 };

const checks = {
  async "message, whole and as a stream"() {
    const whole = await client.messages.create(options);
    assert.equal(whole.stop_reason, "max_tokens");
    assert.equal(whole.usage.output_tokens, 20);
    assert.equal(whole.content.length, 1);
    const stream = client.messages.stream(options);
    let text = "";
    stream.on("text", (delta) => (text += delta));
    const final = await stream.finalMessage();
    assert.equal(text, whole.content[0].text);
    assert.deepEqual(final.content, whole.content);
    assert.equal(final.stop_reason, "max_tokens");
    assert.equal(final.usage.output_tokens, 20);
    const kinds = [];
    const raw = await client.messages.create({ ...options, stream: true });
    for await (const event of raw) kinds.push(event.type);
    assert.equal(kinds[0], "message_start");
    assert.equal(kinds.at(-1), "message_stop");
  },

  async "counted tokens"() {
    const count = await client.messages.countTokens({ model, messages, system: "Be kind." });
    const asked = { ...options, system: "Be kind.", max_tokens: 1 };
    const { usage } = await client.messages.create(asked);
    assert.equal(count.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
  },

  async "JSON schema"() {
    const schema = {
      type: "object",
      properties: { name: { enum: ["fox", "wolf"] } },
      required: ["name"],
      additionalProperties: false,
    };
    const output_config = { format: { type: "json_schema", schema } };
    const reply = await client.messages.create({ ...options, max_tokens: 200, output_config });
    assert.equal(reply.stop_reason, "end_turn");
    assert.ok(["fox", "wolf"].includes(JSON.parse(reply.content[0].text).name));
  },

  async "tools, whole, as a stream, and their results"() {
    const input_schema = {
      type: "object",
      properties: { day: { enum: ["today", "tomorrow"] } },
      required: ["day"],
      additionalProperties: false,
    };
    const tools = [{ name: "weather", input_schema }];
    const asked = { ...options, max_tokens: 200, tools, tool_choice: { type: "any" } };
    const whole = await withTools.messages.create(asked);
    const call = whole.content[0];
    assert.equal(whole.stop_reason, "tool_use");
    assert.ok(["today", "tomorrow"].includes(call.input.day));
    const final = await withTools.messages.stream(asked).finalMessage();
    assert.deepEqual(final.content[0].input, call.input);
    const result = { type: "tool_result", tool_use_id: call.id, content: "It rains." };
    const reply = await withTools.messages.create({
      ...options,
      tools,
      messages: [
        ...messages,
        { role: "assistant", content: whole.content },
        { role: "user", content: [result] },
      ],
    });
    assert.ok(reply.content.length > 0);
  },

  async errors() {
    const wrong = [
      [{ model: "claude-opus-4-8" }, Anthropic.NotFoundError, "model"],
      [{ temperature: 3 }, Anthropic.BadRequestError, "temperature"],
      [{ nonsense: 1 }, Anthropic.BadRequestError, "nonsense"],
    ];
    for (const [field, kind, param] of wrong) {
      const error = await client.messages.create({ ...options, ...field }).catch((e) => e);
      assert.ok(error instanceof kind, `${param}: ${error}`);
      assert.equal(error.error.error.param, param);
      assert.ok(error.requestID);
    }
    const stranger = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0 });
    const error = await stranger.messages.create(options).catch((e) => e);
    assert.ok(error instanceof Anthropic.AuthenticationError, `${error}`);
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
const file = new URL("node_modules/@anthropic-ai/sdk/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(file, "utf8"));
const total = Object.keys(checks).length;
console.log(`anthropic ${version} for Node: ${total - failed} of ${total} pass`);
process.exit(failed ? 1 : 0);
