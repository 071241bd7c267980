// Elements from data. Text is always text: nothing here, or anywhere on this page, reads HTML from a string.

/**
 * make("p", {class: "words", onclick: f}, "text", child, ...)
 * @param {string} tag an element's name, with "svg:" before it for a part of a drawing
 * @param {Record<string, any>} properties attributes; "on..." are listeners, "style" is an object
 * @param {(Node | string | number | null | undefined)[]} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, own] of Object.entries(value)) element.style.setProperty(key, String(own));
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(.../** @type {(Node | string)[]} */ (children.filter((child) => child != null)));
  return element;
}

/** Words in which `this` is code. @param {string} words @returns {(string | Node)[]} */
export const withCode = (words) => words.split("`").map((part, i) => (i % 2 ? make("code", {}, part) : part));

/** The lines of a receipt; one that wraps goes on below its words. @param {string} text */
export const lined = (text) => text.split(/(?<=\n)/).map((line) => make("span", {}, line));

/** A link to a file of the code that runs here. @param {string} path */
export const codeLink = (path) => make("a", { class: "to-code", href: path.replace("src/trilens/", "code/"), target: "_blank", rel: "noopener" }, path);

/** @param {string} id @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * Enter sends, unless it ends the composition of a syllable. Some browsers send that Enter after the composition, with
 * the code 229 and without `isComposing`.
 * @param {KeyboardEvent} event
 */
export const sends = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

/** Send a form with Enter in its field. @param {HTMLTextAreaElement} field @param {HTMLFormElement} form */
export function sendWithEnter(field, form) {
  field.addEventListener("keydown", (event) => {
    if (!sends(event)) return;
    event.preventDefault();
    form.requestSubmit();
  });
}

/** Save a text as a file. @param {string} name @param {string} text @param {string} type */
export function saveFile(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
