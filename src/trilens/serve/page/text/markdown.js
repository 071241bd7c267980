// Markdown as DOM nodes. marked reads it into tokens; this file makes a node of each. A model's answer is text from
// outside: no HTML in it is read as HTML, a picture becomes a link, and a link leads to http, https or mailto or is text.
import { make } from "../dom.js";
import { codeBlock } from "./code.js";
import { MATH, mathNode } from "./math.js";

const DEEPEST = 12; // blocks and phrases within each other; what is deeper is shown as it was written
const MOST = 1 << 18; // characters that are read as Markdown
const SAFE = /^(https?:\/\/|mailto:)/i;

/** @type {string} a type checker that knew the path would check the library too */
const LIBRARY = "../vendor/marked/marked.esm.js";

/** @typedef {any} Token a token of marked */

/** @type {any} */
let reader = null;
/** @type {Promise<void> | null} */
let loading = null;

function load() {
  loading ??= import(LIBRARY).then(({ Marked }) => {
    reader = new Marked({ gfm: true, extensions: MATH });
  });
  return loading;
}

/**
 * Show a text in a place. `whole`: it will not grow any more, so its code is highlighted. `shown` is called when it is there.
 * @param {HTMLElement} place @param {string} text @param {boolean} whole @param {() => void} shown
 */
export function showMarkdown(place, text, whole, shown) {
  const draw = () => {
    place.replaceChildren(...nodesOf(text, whole));
    shown();
  };
  if (reader) return draw();
  place.textContent = text;
  const plainly = place.firstChild;
  shown();
  load().then(() => {
    if (place.firstChild === plainly) draw();
  }, () => {}); // without the library the text stays as it is
}

/** @param {string} text @param {boolean} whole @returns {Node[]} */
function nodesOf(text, whole) {
  if (text.length > MOST) return [make("p", { class: "plain" }, text)];
  try {
    return blocks(reader.lexer(text), whole, 0);
  } catch {
    return [make("p", { class: "plain" }, text)]; // nested so deeply that the reader gave up
  }
}

/** @param {Token[]} tokens @param {boolean} whole @param {number} depth @returns {Node[]} */
function blocks(tokens, whole, depth) {
  if (depth > DEEPEST) return [document.createTextNode(tokens.map((token) => token.raw).join(""))];
  return tokens.flatMap((token) => block(token, whole, depth) ?? []);
}

/** @param {Token} token @param {boolean} whole @param {number} depth @returns {Node | Node[] | null} */
function block(token, whole, depth) {
  const inner = () => blocks(token.tokens, whole, depth + 1);
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "code":
      return codeBlock(token.text, token.lang ?? "", whole);
    case "heading": // the page has headings of its own above
      return make(`h${Math.min(6, token.depth + 1)}`, { dir: "auto" }, ...phrases(token.tokens, depth + 1));
    case "hr":
      return make("hr");
    case "blockquote":
      return make("blockquote", { dir: "auto" }, ...inner());
    case "list":
      return list(token, whole, depth);
    case "table":
      return table(token, depth);
    case "blockMath":
      return mathNode(token.text, token.raw, true);
    case "paragraph":
      return make("p", { dir: "auto" }, ...phrases(token.tokens, depth + 1));
    case "text":
      return token.tokens ? phrases(token.tokens, depth + 1) : document.createTextNode(plain(token.text));
    case "html":
      return make("p", { dir: "auto" }, token.raw.trimEnd());
    default:
      return phrases([token], depth);
  }
}

/** @param {Token} token @param {boolean} whole @param {number} depth */
function list(token, whole, depth) {
  const items = token.items.map((/** @type {Token} */ item) => {
    const tokens = item.tokens.filter((/** @type {Token} */ t) => t.type !== "checkbox");
    const box = item.task ? make("input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": item.checked ? "[x]" : "[ ]" }) : null;
    return make("li", { class: item.task ? "task" : null, dir: "auto" }, box, ...blocks(tokens, whole, depth + 1));
  });
  return make(token.ordered ? "ol" : "ul", token.ordered && token.start !== 1 ? { start: token.start } : {}, ...items);
}

/** @param {Token} token @param {number} depth */
function table(token, depth) {
  const cell = (/** @type {string} */ tag) => (/** @type {Token} */ own) =>
    make(tag, { class: own.align ? `to-${own.align}` : null, dir: "auto" }, ...phrases(own.tokens, depth + 1));
  const rows = token.rows.map((/** @type {Token[]} */ row) => make("tr", {}, ...row.map(cell("td"))));
  const head = make("thead", {}, make("tr", {}, ...token.header.map(cell("th"))));
  return make("div", { class: "table", tabindex: "0", role: "group", "aria-label": "table" }, make("table", {}, head, make("tbody", {}, ...rows)));
}

/** @param {Token[]} tokens @param {number} depth @returns {Node[]} */
function phrases(tokens, depth) {
  if (depth > DEEPEST) return [document.createTextNode(tokens.map((token) => token.raw).join(""))];
  return tokens.map((token) => phrase(token, depth));
}

/** @param {Token} token @param {number} depth @returns {Node} */
function phrase(token, depth) {
  const inner = () => phrases(token.tokens ?? [], depth + 1);
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return make(token.type, {}, ...inner());
    case "codespan":
      return make("code", { dir: "ltr" }, token.text);
    case "br":
      return make("br");
    case "inlineMath":
      return mathNode(token.text, token.raw, false);
    case "link":
    case "image":
      return link(token, token.type === "link" ? inner() : [document.createTextNode(token.text || token.href)]);
    case "text":
      return token.tokens ? fragment(inner()) : document.createTextNode(plain(token.text));
    case "escape":
      return document.createTextNode(token.text);
    default: // HTML, and what this file does not know
      return document.createTextNode(token.raw);
  }
}

/** @param {Token} token @param {Node[]} words */
function link(token, words) {
  if (!SAFE.test(token.href)) return document.createTextNode(token.raw);
  return make("a", { href: token.href, rel: "noopener noreferrer nofollow", target: "_blank" }, ...words);
}

/** @param {Node[]} nodes */
function fragment(nodes) {
  const made = document.createDocumentFragment();
  made.append(...nodes);
  return made;
}

/** A text with its character references read: `&amp;` is one character. @param {string} text */
function plain(text) {
  if (!/&(#\d|#x|[a-z])/i.test(text)) return text;
  // a parser drops spaces at the beginning
  return (new DOMParser().parseFromString(`.${text.replaceAll("<", "&lt;")}`, "text/html").body.textContent ?? "").slice(1);
}
