// Markdown to elements. No text ever becomes markup: every node is built, so that an answer cannot inject anything.

import { highlight } from "./highlight.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?/;
const ROW = /^\s*\|?.*\|.*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function make(tag, children = [], attributes = {}) {
  const element = document.createElement(tag);
  element.append(...children);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Shows a text in an element. Blocks that have not changed since the last call keep their elements.
export function show(element, text) {
  const sources = blocksOf(text);
  sources.forEach((source, index) => {
    const old = element.children[index];
    if (old && old.source === source) return;
    const block = blockOf(source);
    block.source = source;
    if (old) old.replaceWith(block);
    else element.append(block);
  });
  while (element.children.length > sources.length) element.lastElementChild.remove();
}

// The sources of the blocks of a text, one after the other.
function blocksOf(text) {
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  const blocks = [];
  let index = 0;
  while (index < lines.length) {
    if (!lines[index].trim()) {
      index += 1;
      continue;
    }
    const end = endOfBlock(lines, index);
    blocks.push(lines.slice(index, end).join("\n"));
    index = end;
  }
  return blocks;
}

function endOfBlock(lines, start) {
  const line = lines[start];
  const fence = line.match(FENCE);
  let end = start + 1;
  if (fence) {
    while (end < lines.length && !isClosing(lines[end], fence[1])) end += 1;
    return Math.min(end + 1, lines.length);
  }
  if (HEADING.test(line) || RULE.test(line)) return end;
  if (ITEM.test(line)) {
    let open = null;
    for (; end < lines.length; end += 1) {
      const inner = lines[end].trim().match(FENCE);
      if (open) open = isClosing(lines[end].trim(), open) ? null : open;
      else if (inner && /^\s/.test(lines[end])) open = inner[1];
      else if (!lines[end].trim()) {
        const next = lines.slice(end).find((other) => other.trim());
        if (!next || !(ITEM.test(next) || /^\s{2,}/.test(next))) return end;
      } else if (!ITEM.test(lines[end]) && !/^\s/.test(lines[end])) return end;
      else if (RULE.test(lines[end])) return end;
    }
    return end;
  }
  if (QUOTE.test(line)) {
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    return end;
  }
  if (ROW.test(line) && DIVIDER.test(lines[end] ?? "") && lines[end].includes("-")) {
    while (end < lines.length && ROW.test(lines[end]) && lines[end].trim()) end += 1;
    return end;
  }
  const isTable = (at) => ROW.test(lines[at]) && DIVIDER.test(lines[at + 1] ?? "x");
  while (end < lines.length && lines[end].trim() && !startsBlock(lines[end]) && !isTable(end)) end += 1;
  return end;
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
const isClosing = (line, fence) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");

function blockOf(source) {
  const lines = source.split("\n");
  const fence = lines[0].match(FENCE);
  if (fence) return codeOf(lines, fence);
  const heading = lines[0].match(HEADING);
  if (heading) return make(`h${Math.min(heading[1].length, 4)}`, inline(heading[2]));
  if (RULE.test(lines[0])) return make("hr");
  if (ITEM.test(lines[0])) return listOf(lines);
  if (QUOTE.test(lines[0])) {
    const quote = make("blockquote");
    show(quote, lines.map((line) => line.replace(QUOTE, "")).join("\n"));
    return quote;
  }
  if (lines.length > 1 && ROW.test(lines[0]) && DIVIDER.test(lines[1])) return tableOf(lines);
  return make("p", inline(source));
}

function codeOf(lines, [, fence, language]) {
  const isClosed = lines.length > 1 && isClosing(lines.at(-1), fence);
  const text = lines.slice(1, isClosed ? -1 : undefined).join("\n");
  const copy = make("button", ["Copy"], { type: "button", class: "icon small copy-code", "aria-label": "Copy the code" });
  copy.style.width = "auto";
  copy.style.padding = "0 0.6rem";
  return make("figure", [
    make("figcaption", [make("span", [language || "text"]), copy]),
    make("pre", [make("code", highlight(text, language))], { tabindex: "0" }),
  ]);
}

// A list; lines that are indented further belong to the item above them.
function listOf(lines) {
  const first = lines[0].match(ITEM);
  const indent = first[1].length;
  const isOrdered = /\d/.test(first[2]);
  const items = [];
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent + 1) items.push({ text: match[3], rest: [], width: match[1].length + match[2].length + 1 });
    else items.at(-1).rest.push(line);
  }
  const list = make(isOrdered ? "ol" : "ul", items.map(itemOf));
  if (isOrdered && parseInt(first[2], 10) !== 1) list.setAttribute("start", parseInt(first[2], 10));
  return list;
}

function itemOf({ text, rest, width }) {
  const item = make("li", inline(text));
  const inner = make("div");
  show(inner, rest.map((line) => line.slice(Math.min(width, line.length - line.trimStart().length))).join("\n"));
  item.append(...inner.children);
  return item;
}

function tableOf(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
  const head = make("tr", cells(lines[0]).map((cell) => make("th", cell)));
  const rows = lines.slice(2).map((line) => make("tr", cells(line).map((cell) => make("td", cell))));
  return make("div", [make("table", [make("thead", [head]), make("tbody", rows)])], { class: "table" });
}

const INLINE = /(?<code>`+)(?<inside>[^]*?[^`])\k<code>(?!`)|\\(?<escaped>[!-/:-@[-`{-~])|\*\*(?<bold>(?=\S)[^]*?\S)\*\*|(?<![\w*])\*(?<slanted>(?=[^\s*])[^*]*?[^\s*])\*(?!\w)|(?<!\w)_(?<underlined>(?=[^\s_])[^_]*?[^\s_])_(?!\w)|~~(?<struck>(?=\S)[^]*?\S)~~|\[(?<label>[^\]\n]*)\]\((?<target>[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)|(?<bare>https?:\/\/[^\s<>"')\]]+[^\s<>"')\].,;:!?])/;

function inline(text) {
  const nodes = [];
  for (;;) {
    const match = text.match(INLINE);
    if (!match) break;
    if (match.index) nodes.push(text.slice(0, match.index));
    nodes.push(inlineOf(match));
    text = text.slice(match.index + match[0].length);
  }
  if (text) nodes.push(text);
  return nodes;
}

function inlineOf({ 0: whole, groups }) {
  if (groups.inside !== undefined) return make("code", [groups.inside.replace(/^ (.+) $/, "$1")]);
  if (groups.escaped) return groups.escaped;
  if (groups.bold) return make("strong", inline(groups.bold));
  if (groups.slanted ?? groups.underlined) return make("em", inline(groups.slanted ?? groups.underlined));
  if (groups.struck) return make("s", inline(groups.struck));
  const target = groups.bare ?? groups.target;
  if (!/^(https?:|mailto:)/i.test(target)) return whole;
  return make("a", groups.bare ? [groups.bare] : inline(groups.label || target), { href: target, target: "_blank", rel: "noopener noreferrer" });
}
