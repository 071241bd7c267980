// The page's words in the reader's language: what was chosen here before, else what the browser asks for.
import { EN } from "./en.js";
import { KO } from "./ko.js";

const KEPT = "trilens-language";
/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = { en: EN, ko: KO };

export const language = chosen();

function chosen() {
  try {
    const kept = localStorage.getItem(KEPT);
    if (kept && kept in LANGUAGES) return kept;
  } catch {} // no storage here
  return navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
}

/** The other language, on a page that is read anew. */
export function otherLanguage() {
  try {
    localStorage.setItem(KEPT, language === "en" ? "ko" : "en");
  } catch {}
  location.reload();
}

/**
 * The words for a key, with values in the places of their names.
 * @param {string} key @param {Record<string, string | number>} values
 */
export function t(key, values = {}) {
  return fill(LANGUAGES[language][key] ?? EN[key] ?? key, values);
}

/** @param {string} words @param {Record<string, string | number>} values */
export function fill(words, values) {
  return words.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** Write the page's fixed words: data-t is the text, data-t-label the name, data-t-hint the placeholder. */
export function writeWords() {
  document.documentElement.lang = language;
  document.getElementById("language")?.setAttribute("lang", language === "en" ? "ko" : "en");
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.getAttribute("data-t") ?? "");
  for (const element of document.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.getAttribute("data-t-label") ?? ""));
  for (const element of document.querySelectorAll("[data-t-hint]")) element.setAttribute("placeholder", t(element.getAttribute("data-t-hint") ?? ""));
}
