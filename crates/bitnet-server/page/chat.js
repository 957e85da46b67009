// Shows a conversation: a chat as messages, a completion as one sheet of text. Changes go through `actions`.
import { button, copyButton, el, number } from "./dom.js";
import { show as showMarkdown } from "./markdown.js";
import { add as addTokens, tokenView } from "./tokens.js";

export const shown = (message) => (message.role === "user" ? message : message.variants[message.at]);

/** Returns the text of a completion up to a message. */
export const textBefore = (messages, end = messages.length) => messages.slice(0, end).map((message) => shown(message).text).join("");

/** Draws the thread; returns a function that draws again only the text being written. */
export function draw(thread, conversation, { running, error, welcome, actions }) {
  const nodes = [];
  let redraw = () => {};
  const { messages, mode } = conversation;
  const last = messages.at(-1);
  if (!messages.length) nodes.push(welcome());
  else if (mode === "completion") {
    const text = el("div", { class: "sheet" });
    for (const message of messages) {
      const part = el("span", { class: message.role === "user" ? "yours" : "theirs" });
      if (message.role === "user") {
        part.append(message.text.trimStart()); // what is underlined begins with a letter
        text.append(message.text.slice(0, -part.textContent.length || undefined));
      }
      if (message.role === "assistant") redraw = body(part, shown(message), "plain", running && message === last);
      text.append(part);
    }
    const draft = redraw;
    const meta = el("p", { class: "meta" });
    const tools = el("div", { class: "tools" });
    redraw = () => { draft(); if (last.role === "assistant") meta.replaceChildren(...facts(shown(last), running, actions)); };
    redraw();
    if (!running) {
      tools.append(...(last.role === "assistant" ? assistantTools(last, actions, true) : error ? [] : [button("Try again", actions.answer)]),
        button("Edit", () => edit(text, textBefore(messages), { save: actions.rewrite, label: "Edit the text", long: true }), { "data-edit": "" }),
        copyButton(() => textBefore(messages)));
    }
    nodes.push(el("article", { class: "completion", "aria-label": "Text", "aria-busy": String(running) }, text, meta, tools));
  } else {
    for (const message of messages) {
      const isLast = message === last;
      const node = message.role === "user"
        ? userMessage(message, running, isLast && !running && !error, actions)
        : assistantMessage(message, isLast, running && isLast, actions);
      if (isLast && node.redraw) redraw = node.redraw;
      nodes.push(node);
    }
  }
  if (error) nodes.push(errorCard(error, actions));
  thread.replaceChildren(el("div", { class: "column" }, nodes));
  return redraw;
}

function userMessage(message, running, unanswered, actions) {
  const text = el("div", { class: "text" }, message.text);
  const change = button("Edit", () =>
    edit(text, message.text, { save: (fresh) => actions.editUser(message, fresh), label: "Edit your message", verb: "Send" }), { "data-edit": "" });
  return el("article", { class: "user", "aria-label": "You" }, text,
    el("div", { class: "tools" }, unanswered && button("Try again", actions.answer), !running && change, copyButton(() => message.text)));
}

function assistantMessage(message, isLast, running, actions) {
  const text = el("div", { class: "text" });
  const meta = el("p", { class: "meta" });
  const node = el("article", { class: "assistant", "aria-label": "Model", "aria-busy": String(running) }, text, meta);
  const drawText = body(text, shown(message), "markdown", running);
  node.redraw = () => { drawText(); meta.replaceChildren(...facts(shown(message), running, actions)); };
  node.redraw();
  if (!running) {
    node.append(el("div", { class: "tools" }, assistantTools(message, actions, isLast),
      button("Edit", () => edit(text, shown(message).text, { save: (fresh) => actions.editAssistant(message, fresh), label: "Edit the reply", long: true })),
      copyButton(() => shown(message).text)));
  }
  return node;
}

function assistantTools(message, actions, isLast) {
  const { variants, at } = message;
  const variant = variants[at];
  return [
    isLast && variants.length > 1 && el("span", { class: "variants", role: "group", "aria-label": "Versions" },
      button("‹", () => actions.pick(message, at - 1), { "aria-label": "Previous version", disabled: at === 0 }),
      `${at + 1} of ${variants.length}`,
      button("›", () => actions.pick(message, at + 1), { "aria-label": "Next version", disabled: at === variants.length - 1 })),
    isLast && button("Retry", actions.retry),
    variant.params && button("Probabilities", () => actions.probabilities(message),
      { "aria-pressed": String(Boolean(variant.tokens)), title: "How likely each token was, and what else was likely" }),
  ].filter(Boolean);
}

/** Returns a function that brings `container` to the present text of a variant. */
function body(container, variant, format, running) {
  container.classList.toggle("writing", Boolean(running));
  let view = null;
  const drawBody = () => {
    if (variant.tokens && variant.probabilities?.length) {
      if (!view) container.replaceChildren(view = tokenView(variant.probabilities));
      else addTokens(view, variant.probabilities);
    } else if (format === "markdown") showMarkdown(container, variant.text);
    else container.textContent = variant.text;
  };
  drawBody();
  return drawBody;
}

const ENDS = { length: "ended at max tokens", stopped: "stopped by you", broken: "incomplete" };
const speed = (rate) => `${number(rate, rate < 100 ? 1 : 0)} tokens/s`;

/** What is known about a text: counts, speed, seed, why it ended. */
function facts(variant, running, actions) {
  const { timings, usage, seed, pieces, model } = variant;
  if (running && !pieces) return [`reading the prompt … ${number((performance.now() - variant.started) / 1000, 1)} s`];
  if (running) { // a piece is a token, unless the server sends several at once
    const rate = (pieces - 1) * 1000 / (performance.now() - variant.first);
    return [`≈ ${number(pieces)} tokens${pieces > 4 ? ` · ≈ ${speed(rate)}` : ""}`];
  }
  const written = timings?.predicted_n ?? usage?.completion_tokens;
  const read = usage?.prompt_tokens ?? timings?.prompt_n;
  const items = [
    model,
    written !== undefined && `${number(written)} tokens`,
    timings?.predicted_per_second && speed(timings.predicted_per_second),
    read !== undefined && `${number(read)} read${timings?.cached_n ? ` (${number(timings.cached_n)} from the cache)` : ""}`
      + (timings ? ` in ${number(timings.prompt_ms, timings.prompt_ms < 10 ? 1 : 0)} ms` : ""),
    ENDS[variant.finish ?? (variant.params && "broken")],
    variant.edited && "edited",
  ].filter(Boolean).join(" · ");
  if (seed === undefined) return [items];
  return [`${items} · `, button(`seed ${seed}`, () => actions.keepSeed(seed), { title: "Use this seed from now on: the same request then gives the same text" })];
}

/** Replaces a text by a field to edit it. */
function edit(node, text, { save, label, verb = "Save", long }) {
  const field = el("textarea", { "aria-label": label, rows: Math.min(16, text.split("\n").length + (long ? 3 : 1)) });
  field.value = text;
  const form = el("form", { class: "edit" }, field,
    el("div", { class: "row" }, el("button", { type: "submit", class: "main" }, verb), button("Cancel", cancel),
      el("span", { class: "hint" }, el("kbd", null, long ? "Ctrl+Enter" : "Enter"), ` ${verb.toLowerCase()}s · `, el("kbd", null, "Esc"), " cancels")));
  const tools = [...node.parentElement.querySelectorAll(".tools, .meta")];
  function cancel() {
    form.replaceWith(node);
    for (const tool of tools) tool.hidden = false;
    (node.parentElement.querySelector("[data-edit]") ?? node.parentElement.querySelector(".tools button"))?.focus();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) save(field.value);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      cancel();
    } else if (event.key === "Enter" && !event.isComposing && !event.shiftKey && (!long || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  node.replaceWith(form);
  for (const tool of tools) tool.hidden = true;
  field.focus();
}

const TITLES = { 0: "No connection", 401: "An API key is needed", 429: "Too many requests", 503: "Not ready" };

/** Shows an error where the text would stand, with the way on. */
function errorCard(error, actions) {
  const card = el("section", { class: "error", role: "alert" },
    el("h2", null, TITLES[error.status] ?? (error.status ? `Refused (${error.status})` : "Interrupted")),
    el("p", null, error.message));
  const detail = [error.param && `field: ${error.param}`, error.code && `code: ${error.code}`].filter(Boolean).join(" · ");
  if (detail) card.append(el("p", { class: "meta" }, detail));
  if (error.status === 401) {
    const field = el("input", { id: "key", type: "password", autocomplete: "off", required: true });
    card.append(el("form", { class: "row", onsubmit: (event) => { event.preventDefault(); actions.useKey(field.value.trim()); } },
      el("label", { for: "key" }, "API key"), field, el("button", { type: "submit", class: "main" }, "Use")));
    return card;
  }
  const wait = el("span", { class: "hint" });
  card.append(el("div", { class: "row" }, button("Try again", actions.again, { class: "main" }), wait));
  if (error.retryAfter) {
    const until = Date.now() + error.retryAfter * 1000;
    const tick = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      wait.textContent = seconds > 0 ? `The server asks to wait ${seconds} s` : "It may work now";
      if (seconds > 0 && (card.isConnected || seconds === error.retryAfter)) setTimeout(tick, 1000);
    };
    tick();
  }
  return card;
}
