// Tokens with their probabilities: a tint shows how unlikely each was, and its alternatives appear on hover, focus or tap.
import { byId, el, number } from "./dom.js";

const share = (logprob) => Math.exp(logprob ?? 0);
const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.001 ? "< 0.1 %" : `${number(p * 100, 1)} %`);
/** Makes spaces and line ends visible. */
const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(empty)";

/** Returns the tokens as one stop of the tab order; the arrow keys move inside. */
export function tokenView(probabilities) {
  const view = el("span", { class: "tokens", role: "group", "aria-label": "Tokens; the arrow keys move from one to the next" });
  add(view, probabilities);
  view.addEventListener("pointerover", (event) => event.target.item && showTip(event.target));
  view.addEventListener("pointerleave", (event) => byId("tip").contains(event.relatedTarget) || hideTip());
  view.addEventListener("focusin", (event) => event.target.item && choose(view, event.target));
  view.addEventListener("focusout", hideTip);
  view.addEventListener("click", (event) => event.target.item && choose(view, event.target));
  view.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const all = [...view.children];
    all[Math.max(0, Math.min(all.length - 1, all.indexOf(event.target) + step))].focus();
  });
  return view;
}

/** Adds the tokens the view does not show yet. */
export function add(view, probabilities) {
  for (const item of probabilities.slice(view.children.length)) {
    const node = el("span", {
      class: "token", role: "button", tabindex: view.children.length ? "-1" : "0", "aria-describedby": "tip",
      "aria-label": `${item.token.trim() || "space"}, ${percent(share(item.logprob))}`,
    }, item.token);
    node.style.setProperty("--doubt", `${Math.round((1 - share(item.logprob)) * 100)}%`);
    node.item = item;
    view.append(node);
  }
}

function choose(view, node) {
  for (const other of view.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  node.tabIndex = 0;
  node.focus();
  showTip(node);
}

function showTip(node) {
  const { token, logprob, top } = node.item;
  const rows = [...top].sort((a, b) => b.logprob - a.logprob);
  if (!rows.some((row) => row.token === token)) rows.push({ token, logprob });
  const tip = byId("tip");
  tip.replaceChildren(...rows.map((row) => {
    const bar = el("i", { class: "gauge" });
    bar.style.width = `${share(row.logprob) * 100}%`;
    return el("span", { class: row.token === token ? "row chosen" : "row" },
      el("span", { class: "name" }, visible(row.token)), " ", el("span", { class: "part" }, percent(share(row.logprob))), bar, " ");
  }));
  tip.hidden = false;
  const at = node.getClientRects()[0] ?? node.getBoundingClientRect();
  const below = at.bottom + tip.offsetHeight + 8 < window.innerHeight;
  tip.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${below ? at.bottom + 2 : at.top - tip.offsetHeight - 2}px`;
}

byId("tip").addEventListener("pointerleave", hideTip);

/** Returns whether there was one to hide. */
export function hideTip() {
  const was = !byId("tip").hidden;
  byId("tip").hidden = true;
  return was;
}
