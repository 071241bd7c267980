// Code with its colours, by highlight.js. The library and each language are loaded when a block needs them.
import { make } from "../dom.js";
import { copyButton } from "./copy.js";

const LONGEST = 50_000; // characters that are highlighted
const LANGUAGES = "bash c cpp css diff go java javascript json markdown python rust sql typescript xml yaml".split(" ");
/** @type {Record<string, string>} */
const ALSO = {
  "c++": "cpp", cc: "cpp", h: "cpp", hpp: "cpp", console: "bash", golang: "go", html: "xml", js: "javascript", jsx: "javascript",
  md: "markdown", mjs: "javascript", py: "python", python3: "python", rs: "rust", sh: "bash", shell: "bash", svg: "xml",
  ts: "typescript", tsx: "typescript", yml: "yaml", zsh: "bash",
};

/** @type {string} a type checker that knew the path would check the library too */
const LIBRARY = "../vendor/highlight/core.min.js";
/** @type {Map<string, Promise<any>>} */
const ready = new Map();

/** @param {string} language @returns {Promise<any>} the library, once it knows the language */
function load(language) {
  const made = ready.get(language) ?? Promise.all([import(LIBRARY), import(`../vendor/highlight/languages/${language}.min.js`)])
    .then(([core, rules]) => {
      core.default.registerLanguage(language, rules.default);
      return core.default;
    });
  ready.set(language, made);
  return made;
}

/** @param {string} text @param {string} lang @param {boolean} whole */
export function codeBlock(text, lang, whole) {
  const code = make("code", {}, text);
  const name = (lang.match(/^[\w+#.-]+/)?.[0] ?? "").toLowerCase();
  const language = ALSO[name] ?? name;
  if (whole && LANGUAGES.includes(language) && text.length <= LONGEST) {
    load(language).then((library) => code.replaceChildren(...coloured(library.highlight(text, { language }).value)), () => {});
  }
  const bar = make("div", { class: "bar" }, make("span", {}, name), copyButton(() => text));
  return make("div", { class: "code", dir: "ltr" }, bar, make("pre", { tabindex: "0" }, code));
}

/** highlight.js writes HTML. Of it only spans, their classes and text are taken. @param {string} html */
function coloured(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html"); // a document that runs and loads nothing
  const copy = (/** @type {Node} */ node) => {
    if (!(node instanceof Element)) return document.createTextNode(node.textContent ?? "");
    const kind = node.localName === "span" ? [...node.classList].filter((name) => /^hljs-\w+$/.test(name)).join(" ") : "";
    /** @type {any} */
    const made = make("span", { class: kind || null }, ...[...node.childNodes].map(copy));
    return made;
  };
  return [...parsed.body.childNodes].map(copy);
}
