// What a caller may load a model from.
import { BitnetError } from "./error.js";

/** The end of the name of a part of a split model. */
const PART = /-(\d{5})-of-(\d{5})\.gguf$/;

/**
 * Returns the files of a source, as the worker opens them, and what moves to it with them.
 * `locate` turns a text into a URL or a path; `builtin` is that of the built-in model.
 */
export async function sourceFiles(source, { builtin, locate }) {
  const sources = Array.isArray(source) ? inOrder(source) : [source];
  const files = [];
  const transfer = [];
  for (const [index, one] of sources.entries()) {
    if (typeof one === "string" || one instanceof URL) {
      const text = one === "builtin" ? builtin : String(one);
      files.push(...(Array.isArray(source) ? [text] : parts(text)).map(locate));
    } else if (one instanceof Blob) {
      files.push({ blob: one, name: one.name ?? `file ${index + 1}` });
    } else if (one instanceof ArrayBuffer || ArrayBuffer.isView(one)) {
      const { file, port } = lend(one, `file ${index + 1}`);
      files.push(file);
      transfer.push(port);
    } else {
      throw new BitnetError("bad-argument", `a model is loaded from a URL, a File, a Uint8Array or an array of them, found ${one === null ? "null" : typeof one}`);
    }
  }
  if (files.length === 0) throw new BitnetError("bad-argument", "a model is loaded from at least one file, found none");
  return { files, transfer };
}

/** Returns files in the order of the parts that their names tell. */
function inOrder(sources) {
  const no = ({ name }) => PART.exec(name ?? "")?.[1] ?? "";
  return [...sources].sort((a, b) => no(a).localeCompare(no(b)));
}

/** Returns the names of all parts of a split model, or the name of a whole one. */
function parts(text) {
  const [path, rest] = text.split(/(?=[?#])(.*)/s);
  const match = PART.exec(path);
  if (!match) return [text];
  const [end, , count] = match;
  const name = (no) => `${path.slice(0, -end.length)}-${String(no).padStart(5, "0")}-of-${count}.gguf${rest ?? ""}`;
  return Array.from({ length: Number(count) }, (_, i) => name(i + 1));
}

/** Lends bytes to the worker, which asks for one part after another. */
function lend(source, name) {
  const bytes = source instanceof ArrayBuffer ? new Uint8Array(source) : new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data: [start, end] }) => {
    const chunk = bytes.slice(start, end);
    port1.postMessage(chunk, [chunk.buffer]);
  };
  return { file: { name, size: bytes.byteLength, port: port2 }, port: port2 };
}
