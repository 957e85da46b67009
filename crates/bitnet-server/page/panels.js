// What surrounds the text: side panels, notices, the spoken text, the height of fields.
import { byId, el } from "./dom.js";

export const isNarrow = window.matchMedia("(max-width: 56rem)"); // as in style.css

export function openPanel(name, isOpen) {
  byId(name).hidden = !isOpen;
  const opener = byId(`open-${name}`);
  opener.setAttribute("aria-expanded", String(isOpen));
  const isModal = isNarrow.matches && isOpen;
  byId("main").inert = isModal;
  byId("shade").hidden = !isModal;
  if (isOpen) byId(`close-${name}`).focus();
  else if (document.activeElement === document.body || byId(name).contains(document.activeElement)) opener.focus();
}

/** Closes what lies above the text; returns whether something did. */
export function closePanel() {
  if (!byId("settings").hidden) openPanel("settings", false);
  else if (isNarrow.matches && !byId("side").hidden) openPanel("side", false);
  else return false;
  return true;
}

/** On a narrow screen panels lie above the text and begin closed. */
function layOut() {
  byId("side").hidden = isNarrow.matches;
  if (isNarrow.matches) byId("settings").hidden = true;
  byId("main").inert = false;
  byId("shade").hidden = true;
}

let noticeTimer;
export function notify(text, action) {
  clearTimeout(noticeTimer);
  byId("notice").replaceChildren(el("span", null, text), ...(action ? [action] : []));
  noticeTimer = setTimeout(() => byId("notice").replaceChildren(), action ? 10000 : 6000);
}

let unspoken = "";
/** Hands the text to screen readers a sentence at a time; null begins anew. */
export function say(text, isEnd = false) {
  if (text === null) {
    unspoken = "";
    byId("spoken").replaceChildren();
    return;
  }
  unspoken += text;
  const end = isEnd ? unspoken.length : Math.max(...[". ", "! ", "? ", "\n", "” "].map((mark) => unspoken.lastIndexOf(mark))) + 1;
  if (isEnd ? !unspoken.trim() : end < 80) return;
  byId("spoken").append(el("p", null, unspoken.slice(0, end)));
  unspoken = unspoken.slice(end);
}

/** Gives a text field the height of its text. */
export function fit(field) {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, window.innerHeight * 0.4)}px`;
}

for (const name of ["side", "settings"]) {
  byId(`open-${name}`).addEventListener("click", () => openPanel(name, byId(name).hidden));
  byId(`close-${name}`).addEventListener("click", () => openPanel(name, false));
}
byId("shade").addEventListener("click", closePanel);
isNarrow.addEventListener("change", layOut);
layOut();
