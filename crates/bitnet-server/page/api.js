// The server's API: one request in, a stream of pieces out. Paths are relative, so a proxy may add a prefix.

/** What went wrong, in the server's own words where it gave any. */
export class ApiError extends Error {
  constructor(message, details = {}) {
    super(message);
    Object.assign(this, { status: null, code: null, param: null, retryAfter: null }, details);
  }
}

const headers = (key, more) => (key ? { ...more, authorization: `Bearer ${key}` } : { ...more });

async function request(path, init) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer.", { status: 0 });
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new ApiError(error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim(), {
    status: response.status,
    code: error?.code ?? error?.type ?? null,
    param: error?.param ?? null,
    retryAfter: Number(response.headers.get("retry-after")), // NaN if it is a date, which this server never sends
  });
}

export async function models(key) {
  const { data } = await (await request("v1/models", { headers: headers(key) })).json();
  return data;
}

export async function isLoading() {
  try {
    return (await fetch("health")).status === 503;
  } catch {
    return false;
  }
}

/** Yields the data of each server-sent event; comments (pings) are skipped. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? "\n\n" : value;
      const parts = rest.split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Both shapes of log-probabilities as `[{token, logprob, top: [{token, logprob}]}]`. */
export function probabilities(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map(({ token, logprob, top_logprobs }) => ({ token, logprob, top: top_logprobs ?? [] }));
  }
  return (logprobs.tokens ?? []).map((token, i) => ({
    token,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).map(([token, logprob]) => ({ token, logprob })),
  }));
}

/** Sends a streaming request; yields `{text, probabilities, finish, usage, timings}` as far as each piece has them. */
export async function* generate(path, body, { key, signal }) {
  const response = await request(path, {
    method: "POST",
    headers: headers(key, { "content-type": "application/json" }),
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, { code: chunk.error.code ?? chunk.error.type });
    const choice = chunk.choices?.[0];
    yield {
      text: choice?.delta?.content ?? choice?.text ?? "",
      probabilities: probabilities(choice?.logprobs),
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
      timings: chunk.timings ?? null,
    };
  }
  throw new ApiError("The connection ended before the text was complete.");
}
