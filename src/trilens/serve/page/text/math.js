// Mathematics: $...$, $$...$$, \(...\) and \[...\], found in Markdown and set by KaTeX, which is loaded when the first
// formula comes.
import { make } from "../dom.js";

const LONGEST = 8000; // characters of a formula
const INLINE = [/^\$\$(?!\$)((?:\\[^]|[^\\$]|\$(?!\$))+?)\$\$/, /^\$(?![\s$])((?:\\[^]|[^\\$\n])*?(?:\\[^]|[^\\$\s]))\$(?!\d)/, /^\\\(([^]+?)\\\)/];
const BLOCK = [/^\$\$(?!\$)((?:\\[^]|[^\\$]|\$(?!\$))+?)\$\$[ \t]*(?:\n|$)/, /^\\\[([^]+?)\\\][ \t]*(?:\n|$)/];

/** @param {string} name @param {"block" | "inline"} level @param {RegExp[]} rules */
const extension = (name, level, rules) => ({
  name,
  level,
  start: (/** @type {string} */ text) => text.match(level === "block" ? /^(\$\$|\\\[)/m : /\$|\\\(/)?.index,
  tokenizer(/** @type {string} */ text) {
    const match = rules.map((rule) => rule.exec(text)).find(Boolean);
    return match ? { type: name, raw: match[0], text: match[1].trim() } : undefined;
  },
});

/** What marked is told. */
export const MATH = [extension("blockMath", "block", BLOCK), extension("inlineMath", "inline", INLINE)];

// Those that KaTeX writes with style attributes, which the page's policy forbids; said with others.
const macros = () => ({ "\\pmb": "\\boldsymbol{#1}", "\\fcolorbox": "\\boxed{#3}" });

/** @type {string} a type checker that knew the path would check the library too */
const LIBRARY = "../vendor/katex/katex.min.js";
/** @type {any} */
let katex = null;
/** @type {Promise<void> | null} */
let loading = null;

function load() {
  loading ??= new Promise((resolve, reject) => {
    document.head.append(make("link", { rel: "stylesheet", href: "vendor/katex/katex.min.css" }));
    import(LIBRARY).then(() => {
      katex = /** @type {any} */ (globalThis).katex;
      resolve();
    }, reject);
  });
  return loading;
}

/**
 * A formula. Until it is set, and where it cannot be, it stands as it was written.
 * @param {string} text @param {string} raw @param {boolean} display
 */
export function mathNode(text, raw, display) {
  const place = make(display ? "div" : "span", { class: display ? "math block" : "math", dir: "ltr", ...(display ? { tabindex: "0" } : {}) }, raw.trim());
  const set = () => {
    if (text.length > LONGEST) return;
    const made = document.createElement("span");
    try {
      katex.render(text, made, { displayMode: display, throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 300, macros: macros() });
    } catch {
      return; // not a formula after all, or one that KaTeX does not know
    }
    place.replaceChildren(made);
  };
  if (katex) set();
  else load().then(set, () => {});
  return place;
}
