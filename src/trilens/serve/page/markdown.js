// Markdown as DOM nodes. A model's answer is text from outside: no HTML in it is ever read as HTML, and a link leads
// to http, https or mailto or is no link.
import { make } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const BULLET = /^( {0,6})([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const DEEPEST = 8; // quotes and lists within each other

/** Text -> an array of block elements. */
export function markdown(text, depth = 0) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) at += 1;
    else if ((match = FENCE.exec(line))) {
      const close = new RegExp(`^ {0,3}\\${match[1][0]}{${match[1].length},}\\s*$`);
      const body = [];
      for (at += 1; at < lines.length && !close.test(lines[at]); at += 1) body.push(lines[at]);
      at += 1;
      blocks.push(make("pre", { tabindex: "0" }, make("code", {}, body.join("\n"))));
    } else if ((match = HEADING.exec(line))) {
      blocks.push(make("h3", {}, ...inline(match[2])));
      at += 1;
    } else if (RULE.test(line)) {
      blocks.push(make("hr"));
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const body = [];
      for (; at < lines.length && (match = QUOTE.exec(lines[at])); at += 1) body.push(match[1]);
      blocks.push(make("blockquote", {}, ...markdown(body.join("\n"), depth + 1)));
    } else if (BULLET.test(line) && depth < DEEPEST) {
      const [list, end] = listAt(lines, at, depth);
      blocks.push(list);
      at = end;
    } else if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1])) {
      const [table, end] = tableAt(lines, at);
      blocks.push(table);
      at = end;
    } else {
      const body = [];
      do body.push(lines[at++]);
      while (at < lines.length && lines[at].trim() && !starts(lines[at], depth));
      blocks.push(make("p", {}, ...inline(body.join("\n"))));
    }
  }
  return blocks;
}

const starts = (line, depth) =>
  FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEEPEST && (QUOTE.test(line) || BULLET.test(line)));

function listAt(lines, at, depth) {
  const first = BULLET.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const list = make(ordered ? "ol" : "ul", ordered && parseInt(first[2], 10) !== 1 ? { start: parseInt(first[2], 10) } : {});
  while (at < lines.length) {
    const match = BULLET.exec(lines[at]);
    if (!match || match[1].length > first[1].length + 1 || /\d/.test(match[2]) !== ordered) break;
    const indent = match[1].length + 1;
    const body = [match[3]];
    for (at += 1; at < lines.length; at += 1) {
      const spaces = lines[at].length - lines[at].trimStart().length;
      if (lines[at].trim() ? spaces <= indent - 1 : !(lines[at + 1] ?? "").startsWith("  ")) break;
      body.push(lines[at].slice(Math.min(spaces, indent + 1)));
    }
    const blocks = markdown(body.join("\n"), depth + 1);
    const plain = blocks.length && blocks[0].tagName === "P" ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks;
    list.append(make("li", {}, ...plain));
    while (at < lines.length && !lines[at].trim() && BULLET.test(lines[at + 1] ?? "")) at += 1;
  }
  return [list, at];
}

function tableAt(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const head = make("tr", {}, ...cells(lines[at]).map((cell) => make("th", {}, ...inline(cell))));
  const rows = [];
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) {
    rows.push(make("tr", {}, ...cells(lines[at]).map((cell) => make("td", {}, ...inline(cell)))));
  }
  return [make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)), at];
}

const INLINE = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*(?=\S)([^]*?\S)\*\*|\*(?=[^\s*])([^*]*?[^\s*])\*|\[([^\]\n]*)\]\(([^\s()]*)\)/;

/** One line's nodes: code, strong, emphasis, links; the rest is text. */
function inline(text, depth = 0) {
  const nodes = [];
  let rest = text;
  for (let match; depth < DEEPEST && (match = INLINE.exec(rest)); rest = rest.slice(match.index + match[0].length)) {
    if (match.index) nodes.push(rest.slice(0, match.index));
    if (match[1]) nodes.push(make("code", {}, match[2]));
    else if (match[3] != null) nodes.push(make("strong", {}, ...inline(match[3], depth + 1)));
    else if (match[4] != null) nodes.push(make("em", {}, ...inline(match[4], depth + 1)));
    else nodes.push(link(match[5], match[6], match[0], depth));
  }
  if (rest) nodes.push(rest);
  return nodes;
}

function link(words, target, whole, depth) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return whole;
  return make("a", { href: target, rel: "noopener noreferrer nofollow", target: "_blank" }, ...inline(words, depth + 1));
}
