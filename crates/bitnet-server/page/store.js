// What the browser keeps. Each conversation has its own key, so two tabs overwrite only what both changed.

const CONVERSATION = "bitnet.conversation.";
const SETTINGS = "bitnet.settings";
const KEY = "bitnet.key";

/** Storage may be forbidden, full or damaged; then everything lives as long as the page. */
function attempt(action, otherwise) {
  try {
    return action();
  } catch {
    return otherwise;
  }
}

const read = (key) => attempt(() => JSON.parse(localStorage.getItem(key)), null);
const write = (key, text) => attempt(() => (localStorage.setItem(key, text), true), false);

const isText = (value) => typeof value === "string";
const isMessage = (message) => message?.role === "assistant"
  ? Array.isArray(message.variants) && message.variants.every((variant) => isText(variant?.text)) && message.variants[message.at] !== undefined
  : message?.role === "user" && isText(message.text);
const isConversation = (value) =>
  isText(value?.id) && isText(value.title) && ["chat", "completion"].includes(value.mode) && Array.isArray(value.messages) && value.messages.every(isMessage);

/** Returns the conversations, the newest first. */
export function conversations() {
  return attempt(() => Object.keys(localStorage), [])
    .filter((key) => key.startsWith(CONVERSATION)).map(read).filter(isConversation)
    .sort((a, b) => b.updated - a.updated);
}

/** Returns a conversation as text; probabilities are left out: they are large, and the seed brings them back. */
export const serialize = (conversation, space) =>
  JSON.stringify(conversation, (name, value) => (name === "probabilities" || name === "tokens" ? undefined : value), space);

/** Returns false if the browser has no room for it. */
export const save = (conversation) => write(CONVERSATION + conversation.id, serialize(conversation));
export const remove = (conversation) => attempt(() => localStorage.removeItem(CONVERSATION + conversation.id));

export function newConversation(mode, system) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, title: "", mode, system, messages: [], updated: Date.now() };
}

export const settings = { max_tokens: "256", ...read(SETTINGS) };
export const saveSettings = () => write(SETTINGS, JSON.stringify(settings));

/** The API key is forgotten with the tab. */
let key = attempt(() => sessionStorage.getItem(KEY), null);
export const apiKey = () => key;
export function setApiKey(value) {
  key = value;
  attempt(() => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)));
}
