// The part of Markdown that models write, as nodes: paragraphs, headings, lists, code, emphasis, links.
import { copyButton, el } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6}) (.*)$/;
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])( +|$)(.*)$/;
const MAX_DEPTH = 6; // hostile text must not exhaust the stack

const startsBlock = (line) => [FENCE, HEADING, RULE, ITEM].some((pattern) => pattern.test(line));
const indent = (line) => line.length - line.trimStart().length;

/** Cuts a text into blocks of plain data; an unclosed fence runs to the end, as it does while the text arrives. */
export function parse(text, depth = 0) {
  const lines = text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
  const blocks = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    let match;
    if (!line.trim()) {
      i += 1;
    } else if ((match = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}${match[1][0]}{${match[1].length},}\\s*$`);
      const end = lines.findIndex((other, at) => at > i && close.test(other));
      blocks.push({ kind: "code", language: match[2].trim().split(/\s/)[0], text: lines.slice(i + 1, end < 0 ? undefined : end).join("\n") });
      i = end < 0 ? lines.length : end + 1;
    } else if ((match = HEADING.exec(line))) {
      blocks.push({ kind: "heading", level: match[1].length, text: match[2].trim().replace(/ #+$/, "") });
      i += 1;
    } else if (RULE.test(line)) {
      blocks.push({ kind: "rule" });
      i += 1;
    } else if (depth < MAX_DEPTH && (match = ITEM.exec(line))) {
      const ordered = Boolean(match[3]);
      const list = { kind: "list", start: ordered ? Number(match[3]) : null, items: [] };
      while (i < lines.length && (match = ITEM.exec(lines[i])) && Boolean(match[3]) === ordered && !RULE.test(lines[i])) {
        const width = match[1].length + match[2].length + 1;
        const item = [match[5]];
        for (i += 1; i < lines.length; i += 1) {
          const inside = indent(lines[i]) >= Math.min(width, 2) || (!startsBlock(lines[i]) && lines[i - 1].trim());
          const gap = !lines[i].trim() && i + 1 < lines.length && indent(lines[i + 1]) >= 2;
          if (!(lines[i].trim() ? inside : gap)) break;
          item.push(lines[i].slice(Math.min(indent(lines[i]), width)));
        }
        list.items.push(parse(item.join("\n"), depth + 1));
        while (i + 1 < lines.length && !lines[i].trim() && ITEM.test(lines[i + 1])) i += 1;
      }
      blocks.push(list);
    } else {
      const paragraph = [line.trim()];
      for (i += 1; i < lines.length && lines[i].trim() && !startsBlock(lines[i]); i += 1) paragraph.push(lines[i].trim());
      blocks.push({ kind: "paragraph", text: paragraph.join("\n") });
    }
  }
  return blocks;
}

// Lengths are bounded so that a text full of unmatched marks stays cheap to scan at every frame.
const INLINE = new RegExp([
  /(?<!`)(?<tick>`{1,4})(?!`)(?<code>[^]{0,2000}?[^`])\k<tick>(?!`)/,
  /(?<!\*)\*\*(?=\S)(?<bold>[^]{0,1000}?\S)\*\*(?!\*)/,
  /\*(?=[^\s*])(?<italic>[^*]{0,1000}?[^\s*])\*(?!\*)/,
  /(?<![\p{L}\d_])_(?=[^\s_])(?<under>[^_]{0,1000}?[^\s_])_(?![\p{L}\d_])/,
  /\[(?<label>[^\]\n]{1,500})\]\((?<href>https?:\/\/[^\s)]{1,1000})\)/,
  /(?<url>https?:\/\/[^\s<>"'()[\]]{1,1000}[^\s<>"'()[\].,;:!?])/,
  /\\(?<plain>[\\`*_#[\]()>~+.!-])/,
  /(?<newline>\n)/,
].map((pattern) => pattern.source).join("|"), "gu");

const link = (href, text) => el("a", { href, target: "_blank", rel: "noopener noreferrer" }, text);

function inline(text, depth = 0) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    const g = match.groups;
    const inner = (part) => (depth < MAX_DEPTH ? inline(part, depth + 1) : [part]);
    if (g.code) nodes.push(el("code", null, g.code.replace(/^ (.*[^ ].*) $/s, "$1")));
    else if (g.bold) nodes.push(el("strong", null, inner(g.bold)));
    else if (g.italic ?? g.under) nodes.push(el("em", null, inner(g.italic ?? g.under)));
    else if (g.href) nodes.push(link(g.href, g.label));
    else if (g.url) nodes.push(link(g.url, g.url));
    else if (g.plain) nodes.push(g.plain);
    else nodes.push(el("br"));
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

/** The nodes of a list item; a lone paragraph of an item needs no element of its own. */
const inside = (blocks) => (blocks.length === 1 && blocks[0].kind === "paragraph" ? inline(blocks[0].text) : blocks.map(node));

function node(block) {
  switch (block.kind) {
    case "code":
      return el("figure", { class: "code" },
        el("figcaption", null, el("span", null, block.language || "code"), copyButton(() => block.text)),
        el("pre", { tabindex: "0", "aria-label": `${block.language || ""} code`.trim() }, el("code", null, block.text)));
    case "heading": // h1 and h2 are the page's own
      return el(block.level < 3 ? "h3" : "h4", null, inline(block.text));
    case "rule":
      return el("hr");
    case "list":
      return el(block.start === null ? "ul" : "ol", { start: block.start > 1 ? block.start : null },
        block.items.map((item) => el("li", null, inside(item))));
    default:
      return el("p", null, inline(block.text));
  }
}

/** Shows a text in `container`; unchanged blocks keep their nodes, so a selection survives while more text arrives. */
export function show(container, text) {
  const blocks = parse(text);
  blocks.forEach((block, i) => {
    const key = JSON.stringify(block);
    const old = container.children[i];
    if (old?.blockKey === key) return;
    const fresh = node(block);
    fresh.blockKey = key;
    if (old) old.replaceWith(fresh);
    else container.append(fresh);
  });
  while (container.children.length > blocks.length) container.lastChild.remove();
}
