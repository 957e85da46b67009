// Use a server with the official Node client, as its documentation does.
//
//     node openai_client.mjs BASE_URL TOOLS_URL     prints a line per check; exits with 1 if one
//                                                   fails
//
// The servers have `--alias peers` and no `--lenient`; the template of the second has tools.

import assert from "node:assert/strict";

import OpenAI from "openai";
import { VERSION } from "openai/version";

const base = process.argv[2];
const model = "peers";
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const withTools = new OpenAI({ baseURL: `${process.argv[3]}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me a story." }];
const options = { model, messages, max_tokens: 20, seed: 3 };

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function running() {
  const text = await (await fetch(`${base}/metrics`)).text();
  return Number(text.match(/^bitnet:num_requests_running (\S+)/m)[1]);
}

const checks = {
  async models() {
    const ids = [];
    for await (const found of client.models.list()) ids.push(found.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await client.models.retrieve(model)).object, "model");
  },

  async "chat, whole and as a stream"() {
    const whole = await client.chat.completions.create(options);
    const text = whole.choices[0].message.content;
    assert.equal(whole.usage.completion_tokens, 20);
    const chunks = await collect(
      await client.chat.completions.create({
        ...options,
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    const last = chunks.pop();
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, whole.usage);
    assert.equal(chunks.map((c) => c.choices[0].delta.content ?? "").join(""), text);
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
  },

  async "stream helper"() {
    const runner = client.chat.completions.stream(options);
    let text = "";
    runner.on("content", (delta) => (text += delta));
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, text);
  },

  async "log-probabilities"() {
    const wanted = { ...options, logprobs: true, top_logprobs: 2 };
    const whole = await client.chat.completions.create(wanted);
    const content = whole.choices[0].logprobs.content;
    assert.equal(content.length, 20);
    assert.ok(content.every((t) => t.logprob <= 0 && t.top_logprobs.length === 2));
    const bytes = Buffer.from(content.flatMap((t) => t.bytes));
    assert.equal(bytes.toString(), whole.choices[0].message.content);
    const chunks = await collect(await client.chat.completions.create({ ...wanted, stream: true }));
    const streamed = chunks.flatMap((c) => c.choices[0].logprobs?.content ?? []);
    assert.deepEqual(streamed, content);
  },

  async "JSON schema, parsed"() {
    const schema = {
      type: "object",
      properties: { name: { enum: ["fox", "wolf"] }, legs: { type: "integer", maximum: 4 } },
      required: ["name", "legs"],
      additionalProperties: false,
    };
    const reply = await client.chat.completions.parse({
      model,
      messages,
      max_tokens: 900,
      temperature: 1,
      response_format: { type: "json_schema", json_schema: { name: "animal", strict: true, schema } },
    });
    const animal = JSON.parse(reply.choices[0].message.content);
    assert.ok(["fox", "wolf"].includes(animal.name) && animal.legs <= 4);
  },

  async completions() {
    const asked = { model, prompt: "The fox", max_tokens: 12, seed: 3, logprobs: 1 };
    const whole = await client.completions.create({ ...asked, echo: true });
    assert.ok(whole.choices[0].text.startsWith("The fox"));
    assert.equal(whole.choices[0].logprobs.tokens.length, whole.usage.total_tokens);
    const chunks = await collect(await client.completions.create({ ...asked, stream: true }));
    const text = chunks.map((c) => c.choices[0].text).join("");
    assert.equal(`The fox${text}`, whole.choices[0].text);
  },

  async embeddings() {
    const input = ["a fox", "a raven"];
    // The client asks for base64, and decodes it.
    const decoded = await client.embeddings.create({ model, input });
    const floats = await client.embeddings.create({ model, input, encoding_format: "float" });
    for (const [i, { embedding }] of decoded.data.entries()) {
      assert.deepEqual(embedding, floats.data[i].embedding.map(Math.fround));
    }
  },

  async errors() {
    const wrong = [
      [{ model: "gpt-5" }, OpenAI.NotFoundError, "model"],
      [{ temperature: 3 }, OpenAI.BadRequestError, "temperature"],
      [{ nonsense: 1 }, OpenAI.BadRequestError, "nonsense"],
      [{ store: true }, OpenAI.BadRequestError, "store"],
    ];
    for (const [field, kind, param] of wrong) {
      const error = await client.chat.completions.create({ ...options, ...field }).catch((e) => e);
      assert.ok(error instanceof kind, `${param}: ${error}`);
      assert.equal(error.param, param);
      assert.ok(error.requestID);
    }
  },

  async "tools, whole and as a stream"() {
    const parameters = {
      type: "object",
      properties: { day: { enum: ["today", "tomorrow"] } },
      required: ["day"],
      additionalProperties: false,
    };
    const tools = [{ type: "function", function: { name: "weather", parameters } }];
    const asked = { model, messages, seed: 3, tools, tool_choice: "required" };
    const whole = (await withTools.chat.completions.create(asked)).choices[0];
    const called = whole.message.tool_calls[0].function;
    assert.equal(whole.finish_reason, "tool_calls");
    assert.equal(called.name, "weather");
    assert.ok(["today", "tomorrow"].includes(JSON.parse(called.arguments).day));
    const runner = withTools.chat.completions.stream(asked);
    const final = (await runner.finalChatCompletion()).choices[0];
    assert.equal(final.message.tool_calls[0].function.arguments, called.arguments);
  },

  async "response, whole, as a stream, and parsed"() {
    const asked = { model, input: "Tell me a story.", max_output_tokens: 20, store: false, seed: 3 };
    const whole = await client.responses.create(asked);
    assert.equal(whole.status, "incomplete");
    const stream = client.responses.stream(asked);
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    const final = await stream.finalResponse();
    assert.equal(text, whole.output_text);
    assert.equal(final.output_text, whole.output_text);
    const schema = {
      type: "object",
      properties: { day: { enum: ["today", "tomorrow"] } },
      required: ["day"],
      additionalProperties: false,
    };
    const format = { type: "json_schema", name: "day", strict: true, schema };
    const parsed = await client.responses.parse({ ...asked, max_output_tokens: 200, text: { format } });
    assert.ok(["today", "tomorrow"].includes(parsed.output_parsed.day));
    const tools = [{ type: "function", name: "weather", parameters: schema, strict: true }];
    const called = { ...asked, max_output_tokens: 200, tools, tool_choice: "required" };
    const [call] = (await withTools.responses.create(called)).output;
    assert.ok(["today", "tomorrow"].includes(JSON.parse(call.arguments).day));
  },

  async "cancel in mid-stream"() {
    const stream = await client.chat.completions.create({
      ...options,
      max_tokens: 900,
      n: 4,
      ignore_eos: true,
      stream: true,
    });
    for await (const _ of stream) break;
    stream.controller.abort();
    const end = Date.now() + 2000;
    while ((await running()) > 0) assert.ok(Date.now() < end, "the texts go on");
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
const total = Object.keys(checks).length;
console.log(`openai ${VERSION} for Node: ${total - failed} of ${total} pass`);
process.exit(failed ? 1 : 0);
