// The page: which conversation is open, what is being written, and what each key and button does.
import { ApiError, generate, isLoading, models as fetchModels } from "./api.js";
import { draw, shown, textBefore } from "./chat.js";
import { button, byId, el, number } from "./dom.js";
import { closePanel, fit, isNarrow, notify, openPanel, say } from "./panels.js";
import * as store from "./store.js";
import { hideTip } from "./tokens.js";

const OPTIONS = ["temperature", "max_tokens", "top_p", "top_k", "min_p", "repeat_penalty", "seed"];
const OPENINGS = {
  chat: ["Explain what a ternary weight is, in three sentences.", "Write a short poem about a lighthouse.", "List five uses for an old newspaper."],
  completion: ["Once upon a time there was a", "The house at the end of the lane had been empty for years, and", "“You must never open that door,” said the"],
};
const { settings } = store;

let model = null; // an entry of /v1/models
let offered = [];
let conversations = store.conversations();
let current = null;
let startError = null;
let redraw = () => {};
const runs = new Map(); // conversation -> AbortController
const errors = new Map(); // conversation -> ApiError of its last run

const thread = byId("thread");
const input = byId("input");

// ---- writing -------------------------------------------------------------------------------------------------------

function send() {
  const text = input.value;
  if (!model || runs.has(current)) return;
  if (!byId("options").checkValidity()) {
    openPanel("settings", true);
    byId("options").reportValidity();
    return;
  }
  if (text.trim()) {
    const before = textBefore(current.messages);
    const joins = current.mode === "completion" && /\S$/.test(before) && /^[\p{L}\p{N}“‘"'(]/u.test(text);
    current.messages.push({ role: "user", text: joins ? ` ${text}` : text });
    current.title ||= text.trim().replace(/\s+/g, " ").slice(0, 60);
  } else if (current.mode === "chat" || !current.messages.length) {
    return;
  }
  input.value = "";
  fit(input);
  answer();
}

/** Lets the model write after the last message. */
function answer() {
  const message = { role: "assistant", at: 0, variants: [] };
  current.messages.push(message);
  write(current, message, requestOptions());
}

function retry() {
  const last = current.messages.at(-1);
  if (runs.has(current) || !last) return;
  if (last.role === "user") return answer();
  if (settings.seed) notify(`The seed is fixed at ${settings.seed}: the same request gives the same text.`);
  write(current, last, requestOptions());
}

/** The sampling fields of a request; every request has a seed, so that every text can be had again. */
function requestOptions() {
  const params = {};
  for (const name of OPTIONS) if (settings[name]) params[name] = Number(settings[name]);
  params.seed ??= crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
  return params;
}

function request(conversation, message, params, probabilities) {
  const before = conversation.messages.slice(0, conversation.messages.indexOf(message));
  if (conversation.mode === "completion") {
    return ["v1/completions", { model: model.id, prompt: textBefore(before), ...params, ...(probabilities && { logprobs: 5 }) }];
  }
  const messages = conversation.system?.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const { role, text } of before.map((other) => ({ role: other.role, text: shown(other).text }))) {
    if (messages.at(-1)?.role === role) messages.at(-1).content += `\n\n${text}`; // templates want turns; an unanswered message leaves two
    else messages.push({ role, content: text });
  }
  return ["v1/chat/completions", { model: model.id, messages, ...params, ...(probabilities && { logprobs: true, top_logprobs: 5 }) }];
}

/** Streams a new version of `message`. With `same`, a version to repeat: its text gains its probabilities. */
async function write(conversation, message, params, same = null) {
  const probabilities = Boolean(same) || Boolean(settings.probabilities);
  const variant = { text: "", params, seed: params.seed, model: model.id, pieces: 0, started: performance.now(), tokens: probabilities };
  const previous = message.at;
  message.at = message.variants.push(variant) - 1;
  const controller = new AbortController();
  runs.set(conversation, controller);
  errors.delete(conversation);
  conversation.updated = Date.now();
  keep(conversation);
  say(null);
  redrawAll();
  if (!same) toEnd();
  const ticking = setInterval(() => conversation === current && redraw(), 100);
  try {
    const [path, body] = request(conversation, message, params, probabilities);
    for await (const piece of generate(path, body, { key: store.apiKey(), signal: controller.signal })) {
      if (piece.text) {
        variant.first ??= performance.now();
        variant.pieces += 1;
      }
      variant.text += piece.text;
      if (piece.probabilities.length) (variant.probabilities ??= []).push(...piece.probabilities);
      variant.finish = piece.finish ?? variant.finish;
      variant.usage = piece.usage ?? variant.usage;
      variant.timings = piece.timings ?? variant.timings;
      if (!same) say(piece.text);
      if (conversation === current) drawSoon();
      if (same?.finish === "stopped" && variant.text.length >= same.text.length) break;
    }
  } catch (error) {
    variant.finish = error.name === "AbortError" ? "stopped" : "broken";
    if (variant.finish === "broken") {
      const failure = error instanceof ApiError ? error : new ApiError(`The connection broke (${error.message}).`);
      failure.again = () => {
        if (!conversation.messages.includes(message)) conversation.messages.push(message);
        write(conversation, message, same ? params : requestOptions(), same);
      };
      errors.set(conversation, failure);
    }
  } finally {
    clearInterval(ticking);
    runs.delete(conversation);
  }
  settle(message, variant, previous, same);
  if (!message.variants.length) conversation.messages = conversation.messages.filter((other) => other !== message);
  conversation.updated = Date.now();
  if (conversations.includes(conversation)) keep(conversation);
  say("", true);
  if (conversation === current) following(redrawAll);
}

/** Decides what remains of a finished version: nothing, if it is empty or only repeated another. */
function settle(message, variant, previous, same) {
  for (const name of ["pieces", "first", "started"]) delete variant[name];
  const isSame = same && variant.text.startsWith(same.text);
  if (isSame) same.probabilities = variant.probabilities;
  if (same) same.tokens = isSame;
  if (isSame || (same && variant.finish === "broken") || (!variant.text && ["stopped", "broken"].includes(variant.finish))) {
    message.variants.pop();
    message.at = previous;
  } else if (same) notify("The server wrote another text this time; the probabilities belong to that one.");
}

const actions = {
  answer,
  retry,
  again: () => (startError ? start() : errors.get(current)?.again()),
  rewrite(text) { // of a completion: one text, whoever wrote which part
    current.messages = [{ role: "user", text }];
    changed();
  },
  editUser(message, text) {
    message.text = text;
    current.messages.length = current.messages.indexOf(message) + 1;
    answer();
  },
  editAssistant(message, text) {
    message.at = message.variants.push({ text, edited: true }) - 1;
    changed();
  },
  pick(message, at) {
    message.at = at;
    changed();
  },
  probabilities(message) {
    const variant = shown(message);
    if (runs.has(current)) return;
    variant.tokens = !variant.tokens;
    if (variant.tokens && !variant.probabilities?.length) write(current, message, variant.params, variant);
    else redrawAll();
  },
  keepSeed(seed) {
    settings.seed = String(seed);
    showSettings();
    store.saveSettings();
    notify(`Seed ${seed} is kept for the next requests; the settings have it.`);
  },
  useKey(key) {
    store.setApiKey(key);
    showSettings();
    actions.again();
  },
};

function changed() {
  errors.delete(current);
  current.updated = Date.now();
  keep(current);
  redrawAll();
}

function keep(conversation) {
  if (!conversations.includes(conversation)) conversations.push(conversation);
  conversations.sort((a, b) => b.updated - a.updated);
  if (conversation === current) history.replaceState(null, "", `#${conversation.id}`);
  if (!store.save(conversation)) notify("The browser has no room left: this conversation is not kept. Delete others, or export it.");
}

// ---- showing -------------------------------------------------------------------------------------------------------

let frame = 0;
function drawSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    following(redraw);
  });
}

const toEnd = () => { thread.scrollTop = thread.scrollHeight; };

/** Draws, and stays at the end of the text if the reader was there. */
function following(drawing) {
  const isAtEnd = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 60;
  drawing();
  if (isAtEnd) toEnd();
}

function redrawAll() {
  hideTip();
  const focused = thread.contains(document.activeElement) && document.activeElement !== thread ? document.activeElement.textContent : null;
  const running = runs.has(current);
  redraw = draw(thread, current, { running, error: startError ?? errors.get(current), welcome, actions });
  const isCompletion = current.mode === "completion";
  const continues = isCompletion && current.messages.length > 0;
  byId("input-label").textContent = isCompletion ? "Text to continue" : "Message";
  input.placeholder = isCompletion ? (continues ? "Write on, or continue" : "Begin a text") : "Write a message";
  byId("enter-does").textContent = continues ? "continues" : "sends";
  byId("send").textContent = running ? "Stop" : continues && !input.value.trim() ? "Continue" : isCompletion ? "Write" : "Send";
  byId("send").classList.toggle("stop", running);
  byId("send").disabled = !model;
  if (document.activeElement !== byId("title")) byId("title").value = current.title;
  document.title = current.title ? `${current.title} – BitNet` : "BitNet";
  for (const radio of document.querySelectorAll("[name=mode]")) radio.checked = radio.value === current.mode;
  byId("system-field").hidden = isCompletion;
  if (document.activeElement !== byId("system")) byId("system").value = current.system ?? "";
  byId("export").disabled = !current.messages.length;
  const wasInList = byId("list").contains(document.activeElement);
  byId("list").replaceChildren(...conversations.map((conversation) => el("li", null,
    el("a", { href: `#${conversation.id}`, "aria-current": conversation === current && "page" }, conversation.title || "Untitled"),
    conversation === current && button("✕", removeCurrent, { "aria-label": `Delete “${conversation.title || "Untitled"}”` }))));
  if (wasInList) byId("list").querySelector("[aria-current]")?.focus();
  byId("used").textContent = contextUsed();
  if (focused !== null && document.activeElement === document.body) { // the focused button was drawn anew
    const again = [...thread.querySelectorAll("button")].findLast((node) => node.textContent === focused);
    (again ?? (isNarrow.matches ? thread : input)).focus({ preventScroll: true });
  }
}

/** How much of the model's context the last request took. */
function contextUsed() {
  const last = current.messages.findLast((message) => message.role === "assistant");
  const used = last && shown(last).usage?.total_tokens;
  const length = model?.bitnet?.context_length;
  return used && length ? `${number(used)} of ${number(length)} tokens of context` : "";
}

/** What an empty conversation shows. */
function welcome() {
  if (!model) return el("div", { class: "welcome" }, el("p", { class: "hint" }, "Asking the server for its model …"));
  const isCompletion = current.mode === "completion";
  const why = canChat() ? null : model.bitnet.builtin
    ? isCompletion
      ? "The built-in model was trained on stories: it continues a text and does not answer. So this page begins with completion."
      : "The built-in model was trained on stories: it continues a text and does not answer. Completion suits it better."
    : isCompletion
      ? `${model.id} has no chat template: it was trained to continue a text, not to answer. So this page begins with completion.`
      : `${model.id} has no chat template, so it does not know whose turn it is. The server may refuse; completion suits it better.`;
  return el("div", { class: "welcome" },
    el("h2", null, isCompletion ? "Begin a text, and the model goes on" : "Ask something"),
    why && el("p", { class: "why" }, why),
    el("ul", { "aria-label": "Examples" }, OPENINGS[current.mode].map((text) => el("li", null,
      button(text, () => { input.value = text; fit(input); send(); if (!isNarrow.matches) input.focus(); })))));
}

function showModel() {
  const facts = model.bitnet ?? {};
  const large = (n, billion, million) => n && (n >= 1e9 ? `${number(n / 1e9, 2)} ${billion}` : `${number(n / 1e6, 1)} ${million}`);
  const rows = [
    ["Family", facts.family],
    ["Parameters", large(facts.parameters, "billion", "million")],
    ["Weights", large(facts.weights_bytes, "GB", "MB")],
    ["Bits per parameter", facts.weights_bytes && facts.parameters && number(facts.weights_bytes * 8 / facts.parameters, 2)],
    ["Context", facts.context_length && `${number(facts.context_length)} tokens`],
    ["Vocabulary", facts.vocabulary && number(facts.vocabulary)],
    ["Chat template", facts.chat_template === undefined ? null : facts.chat_template ? "yes" : "none"],
  ];
  const name = offered.length > 1
    ? el("select", { id: "model-name", "aria-label": "Model", onchange: (event) => useModel(event.target.value) },
      offered.map(({ id }) => el("option", { selected: id === model.id }, id)))
    : el("h2", { id: "model-name" }, model.id);
  byId("model").replaceChildren(name, facts.builtin ? el("p", { class: "hint" }, "built in") : "",
    el("dl", null, rows.filter(([, value]) => value).map(([term, value]) => el("div", null, el("dt", null, term), el("dd", null, value)))));
}

// ---- conversations, settings, panels -------------------------------------------------------------------------------

function open(conversation) {
  current = conversation;
  redrawAll();
  toEnd();
}

/** Whether the model was trained to answer. */
const canChat = () => model?.bitnet?.chat_template !== false && !model?.bitnet?.builtin;

const firstMode = () => (canChat() ? "chat" : "completion");

function openNew(mode = firstMode()) {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  open(store.newConversation(mode, settings.system ?? ""));
  if (isNarrow.matches) openPanel("side", false);
  input.focus();
}

function openHash() {
  const found = conversations.find(({ id }) => id === location.hash.slice(1));
  if (found && found !== current) open(found);
  else if (!location.hash && current.messages.length) open(store.newConversation(firstMode(), settings.system ?? ""));
  if (isNarrow.matches) openPanel("side", false);
}

function removeCurrent() {
  const gone = current;
  runs.get(gone)?.abort();
  store.remove(gone);
  conversations = conversations.filter((other) => other !== gone);
  openNew();
  notify(`“${gone.title || "Untitled"}” is deleted.`, button("Undo", () => {
    conversations.unshift(gone);
    store.save(gone);
    byId("notice").replaceChildren();
    location.hash = gone.id;
  }));
}

function exportCurrent() {
  const url = URL.createObjectURL(new Blob([store.serialize(current, 2)], { type: "application/json" }));
  const name = current.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").toLowerCase() || "conversation";
  el("a", { href: url, download: `${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function showSettings() {
  const { elements } = byId("options");
  for (const name of OPTIONS) elements[name].value = settings[name] ?? "";
  elements.probabilities.checked = Boolean(settings.probabilities);
  const theme = settings.theme ?? "auto";
  for (const radio of document.querySelectorAll("[name=theme]")) radio.checked = radio.value === theme;
  document.documentElement.dataset.theme = theme;
  byId("forget-key").hidden = !store.apiKey();
}

function useModel(id) {
  model = offered.find((other) => other.id === id) ?? offered[0];
  settings.model = model.id;
  store.saveSettings();
  showModel();
  if (current.messages.length) redrawAll();
  else open(store.newConversation(firstMode(), current.system));
}

async function start() {
  startError = null;
  try {
    offered = await fetchModels(store.apiKey());
    if (!offered.length) throw new ApiError("The server has no model.");
    useModel(settings.model);
  } catch (error) {
    const loading = error.status === 503 || await isLoading();
    startError = loading ? new ApiError("The server is loading its model. This page waits for it.", { status: 503 }) : error;
    if (loading) setTimeout(start, 1000);
    redrawAll();
    byId("key")?.focus();
  }
}

// ---- wiring --------------------------------------------------------------------------------------------------------

let startedAt = 0;
byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!runs.has(current)) {
    startedAt = performance.now();
    send();
  } else if (document.activeElement === byId("send") && performance.now() - startedAt > 400) { // not by a double click
    runs.get(current).abort();
  }
});
input.addEventListener("input", () => {
  fit(input);
  if (!runs.has(current) && current.mode === "completion") byId("send").textContent = current.messages.length && !input.value.trim() ? "Continue" : "Write";
});
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !input.value) {
    const edits = thread.querySelectorAll("[data-edit]");
    edits[edits.length - 1]?.click();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (hideTip() || closePanel()) return;
    runs.get(current)?.abort();
  } else if (event.altKey && !event.ctrlKey && !event.metaKey) {
    const action = { KeyN: () => openNew(), KeyR: retry, KeyS: () => openPanel("settings", byId("settings").hidden) }[event.code];
    if (action) {
      event.preventDefault();
      action();
    }
  }
});
thread.addEventListener("scroll", () => hideTip(), { passive: true });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the conversation
  input.focus();
});
byId("new").addEventListener("click", () => openNew());
byId("title").addEventListener("change", (event) => {
  current.title = event.target.value.trim();
  if (current.messages.length) keep(current);
  redrawAll();
});
byId("title").addEventListener("keydown", (event) => event.key === "Enter" && input.focus());
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => { // a conversation keeps its mode: the other mode begins a new one
    if (current.messages.length) openNew(radio.value);
    else {
      current.mode = radio.value;
      redrawAll();
    }
    radio.focus();
  });
}
byId("options").addEventListener("submit", (event) => event.preventDefault());
byId("options").addEventListener("input", ({ target }) => {
  if (target.id === "system") {
    current.system = settings.system = target.value;
    if (current.messages.length) keep(current);
  } else settings[target.name] = target.type === "checkbox" ? target.checked : target.validity.valid ? target.value : settings[target.name];
  store.saveSettings();
});
byId("themes").addEventListener("change", ({ target }) => {
  settings.theme = target.value;
  store.saveSettings();
  showSettings();
});
byId("export").addEventListener("click", exportCurrent);
byId("forget-key").addEventListener("click", () => { store.setApiKey(null); showSettings(); });
window.addEventListener("popstate", openHash);
window.addEventListener("pagehide", () => runs.forEach((_, conversation) => store.save(conversation)));

showSettings();
current = conversations.find(({ id }) => id === location.hash.slice(1)) ?? store.newConversation("chat", settings.system ?? "");
redrawAll();
toEnd();
fit(input);
start();
if (!isNarrow.matches) input.focus();
