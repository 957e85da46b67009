// A stand-in for `bitnet serve` with canned texts, to work on the page without a model:
//   node mock.mjs [--chat] [--port 8080] [--delay 25]      --chat: a model with a chat template; milliseconds a token
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

let DELAY = 25; // milliseconds a token

const PAGE = new URL("../page/", import.meta.url);
const TYPES = { html: "text/html; charset=utf-8", css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STORYTELLER = {
  id: "storyteller", object: "model", created: 1764000000, owned_by: "bitnet",
  bitnet: { family: "bitnet-b1.58", parameters: 35672064, context_length: 1024, vocabulary: 8192, chat_template: true, builtin: true, weights_bytes: 11498080 },
};
const CHATTER = {
  id: "bitnet-b1.58-2B-4T", object: "model", created: 1764000000, owned_by: "bitnet",
  bitnet: { family: "bitnet-b1.58", parameters: 2412820480, context_length: 4096, vocabulary: 128256, chat_template: true, builtin: false, weights_bytes: 1187801280 },
};
const STORY = " little boy in a wood, and he was telling the story of his life and his experiences with all sorts of things that made him think it was all his own invention.\nThe old man looked at him and said:\n“Where is the mail, and the cobra?”\n“I have not seen them,” said the boy, “but the wind was high last night, and the door of the house stood open till the morning.”";
const REPLY = `A **ternary weight** takes one of three values: −1, 0 or +1. It carries \`log2(3)\` ≈ 1.58 bits, hence the name.

### Why it is fast

1. A product with such a weight is an *addition*, a *subtraction*, or nothing.
2. The weights of a layer are small enough to stay near the processor:
   - five trits fit into a byte;
   - one scale serves the whole tensor.

\`\`\`python
def dot(trits, activations):
    return sum(t * a for t, a in zip(trits, activations) if t)
\`\`\`

More is in [the paper](https://arxiv.org/abs/2402.17764).`;

/** Text in pieces that stand for tokens. */
const pieces = (text) => text.match(/\s*[^\s]{1,6}|\s+$/gu) ?? [];

/** The same text always has the same probabilities, as with the real server. */
function logprob(token, i) {
  let hash = i * 2654435761;
  for (const char of token) hash = Math.imul(hash ^ char.codePointAt(0), 16777619);
  return -((((hash >>> 8) % 1000) / 420) ** 2) / 2;
}

function alternatives(token, own) {
  const rest = 1 - Math.exp(own);
  const others = [" the", " a", " and", ","].filter((other) => other !== token);
  return [[token, own], ...others.map((other, i) => [other, Math.log(rest * 0.5 ** (i + 1) + 1e-4)])];
}

async function complete(request, response, isChat) {
  let body = "";
  for await (const part of request) body += part;
  const json = JSON.parse(body);
  const refuse = (status, message, param) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { message, type: "invalid_request_error", param, code: null } }));
  };
  if (json.temperature > 2) return refuse(400, "temperature is 3, and must lie between 0 and 2", "temperature");
  const started = performance.now();
  const prompt = isChat ? json.messages.map((message) => message.content).join("\n") : json.prompt;
  const turn = (json.seed ?? 0) % 2;
  const text = isChat ? (turn ? `Here is another way to say it.\n\n${REPLY}` : REPLY) : (turn ? STORY.replace("boy", "girl") : STORY);
  const limit = json.max_tokens ?? 256;
  const tokens = pieces(limit > 256 ? text.repeat(20) : text).slice(0, limit); // long when asked: something to stop
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  const base = { id: "mock-1", object: isChat ? "chat.completion.chunk" : "text_completion", created: 1764000000, model: json.model };
  const write = (choice, more) => response.write(`data: ${JSON.stringify({ ...base, choices: choice ? [{ index: 0, finish_reason: null, logprobs: null, ...choice }] : [], ...more })}\n\n`);
  await sleep(Math.min(1, DELAY) * 150);
  if (isChat) write({ delta: { role: "assistant", content: "" } });
  let offset = prompt.length;
  for (const [i, token] of tokens.entries()) {
    if (response.destroyed) return;
    const own = logprob(token, i);
    const top = alternatives(token, own);
    const logprobs = json.logprobs ? (isChat
      ? { content: [{ token, logprob: own, bytes: [...Buffer.from(token)], top_logprobs: top.map(([token, logprob]) => ({ token, logprob, bytes: [...Buffer.from(token)] })) }] }
      : { tokens: [token], token_logprobs: [own], top_logprobs: [Object.fromEntries(top)], text_offset: [offset] }) : null;
    write(isChat ? { delta: { content: token }, logprobs } : { text: token, logprobs });
    offset += token.length;
    await sleep(DELAY);
  }
  write({ ...(isChat ? { delta: {} } : { text: "" }), finish_reason: tokens.length === limit ? "length" : "stop" });
  const read = pieces(prompt).length;
  const ms = performance.now() - started;
  write(null, {
    usage: { prompt_tokens: read, completion_tokens: tokens.length, total_tokens: read + tokens.length, prompt_tokens_details: { cached_tokens: read >> 1 } },
    timings: { prompt_n: read, cached_n: read >> 1, prompt_ms: 3.4, predicted_n: tokens.length, predicted_ms: ms, predicted_per_second: tokens.length / ms * 1000 },
  });
  response.end("data: [DONE]\n\n");
}

/** Starts the mock; returns its address and how to stop it. */
export async function startMock({ isChat = false, port = 0, delay = 25 } = {}) {
  DELAY = delay;
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://mock").pathname;
    if (path === "/v1/models") {
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ object: "list", data: [isChat ? CHATTER : STORYTELLER] }));
    } else if (path === "/v1/completions") complete(request, response, false);
    else if (path === "/v1/chat/completions") complete(request, response, true);
    else if (path === "/health") response.end("{}");
    else {
      const name = path === "/" ? "index.html" : path.slice(1);
      const type = TYPES[name.split(".").pop()];
      const content = /^[\w.-]+$/.test(name) && type ? await readFile(new URL(name, PAGE)).catch(() => null) : null;
      response.writeHead(content ? 200 : 404, { "content-type": type ?? "text/plain", "content-security-policy": POLICY, "x-content-type-options": "nosniff" });
      response.end(content ?? "not found");
    }
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}/`, stop: () => { server.closeAllConnections(); server.close(); } };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const option = (name, otherwise) => (process.argv.includes(name) ? Number(process.argv[process.argv.indexOf(name) + 1]) : otherwise);
  console.log((await startMock({ isChat: process.argv.includes("--chat"), port: option("--port", 8080), delay: option("--delay", 25) })).url);
}
