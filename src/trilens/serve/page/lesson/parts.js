// What every step is made of: a title, its words, a button that runs it, and rows of numbers.
import { codeLink, lined, make, withCode } from "../dom.js";
import { fill, language } from "../words/words.js";
import { EN } from "./en.js";
import { KO } from "./ko.js";

/** The lesson's words. @param {string} key @param {Record<string, string | number>} values */
export const say = (key, values = {}) => fill((language === "ko" ? KO : EN)[key] ?? EN[key] ?? key, values);

/** @param {string} key of the title and, with "_words", of the text @param {(Node | null)[]} content */
export function step(key, ...content) {
  return make("section", { class: "step", id: `step-${key}` }, make("h3", {}, say(key)), make("p", {}, ...withCode(say(`${key}_words`))), ...content);
}

/**
 * A button that does something real, and says so if it fails.
 * @param {string} key @param {() => Promise<void>} work @param {(problem: Error) => void} failed
 */
export function runButton(key, work, failed) {
  const fault = make("p", { class: "fault", role: "alert" });
  const button = make("button", {
    type: "button",
    class: "main",
    onclick: async () => {
      button.disabled = true;
      fault.textContent = "";
      try {
        await work();
      } catch (problem) {
        fault.textContent = problem.message;
        failed(problem);
      } finally {
        button.disabled = false;
        place.dataset.runs = String(Number(place.dataset.runs ?? 0) + 1);
      }
    },
  }, say(key));
  const place = make("div", { class: "run row" }, button, fault);
  return place;
}

/** @param {string} key @param {string} value */
export function questionField(key, value) {
  const field = make("input", { type: "text", value, dir: "auto", spellcheck: "false" });
  return { field, label: make("label", { class: "question" }, say(key), field) };
}

/** Rows of a name and a number. @param {[string, string | Node][]} rows */
export function facts(rows) {
  return make("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** @param {string[]} head @param {(string | Node)[][]} rows */
export function table(head, rows) {
  const body = rows.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))));
  const top = make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name))));
  return make("div", { class: "wide-table", tabindex: "0", role: "group", "aria-label": head.join(", ") }, make("table", {}, top, make("tbody", {}, ...body)));
}

/** A choice among the models that a chapter can use. @param {any[]} models @param {() => void} changed */
export function modelChoice(models, changed) {
  const select = make("select", { onchange: changed }, ...models.map((model) => make("option", { value: model.id }, model.id)));
  return { label: make("label", { class: "field" }, say("model"), select), get model() { return models.find((model) => model.id === select.value); } };
}

/** Bars of several sizes that are compared, the longest full. @param {[string, number, string][]} rows @param {string} lens */
export function compared(rows, lens) {
  const most = Math.max(...rows.map(([, n]) => n), 1);
  return make("div", { class: `bars ${lens}` }, ...rows.flatMap(([name, n, said]) => [make("span", {}, name), make("i", { style: { "--share": n / most } }), make("span", {}, said)]));
}

/** Where the code is. @param {string[]} paths */
export const code = (...paths) => make("p", { class: "where" }, say("code"), " ", ...paths.flatMap((path, i) => [i ? ", " : "", codeLink(path)]));

/** The receipt of a run, as in a conversation. @param {import("./run.js").Run} run @param {string} line */
export const receipt = (run, line) => make("details", { class: "receipt" }, make("summary", {}, line), make("pre", { tabindex: "0", dir: "ltr" }, ...lined(run.receiptText)));
