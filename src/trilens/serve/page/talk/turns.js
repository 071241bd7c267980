// The turns of a conversation as they are seen: what was said, with its buttons, and answers.
import { make, sends } from "../dom.js";
import { copyButton } from "../text/copy.js";
import { t } from "../words/words.js";
import { Answer } from "./answer.js";
import { siblings } from "./tree.js";

/** @typedef {import("./tree.js").Turn} Turn */
/** @typedef {import("./tree.js").Conversation} Conversation */

/**
 * What the buttons do.
 * @typedef {{edit(turn: Turn, text: string): void, again(turn: Turn): void, choose(turn: Turn): void,
 *   result(turn: Turn, results: string[]): void, modelOf(id: string | undefined): any}} Deeds
 */

/** Answers far from the screen are drawn when they come near it. */
const near = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      waiting.get(target)?.show();
      waiting.delete(target);
    }
  },
  { rootMargin: "1500px" },
);
/** @type {WeakMap<Element, Answer>} */
const waiting = new WeakMap();

/** @param {Conversation} talk @param {Turn} turn @param {Deeds} deeds @param {boolean} last */
export function turnNode(talk, turn, deeds, last) {
  if (turn.role === "user") return userNode(talk, turn, deeds);
  if (turn.role === "tool") return make("div", { class: "turn result" }, make("p", {}, t("result_of"), " ", make("code", {}, turn.call?.name ?? "")), make("pre", { dir: "auto", tabindex: "0" }, turn.content));
  const answer = Answer.from(turn, deeds.modelOf(turn.model));
  const node = make("div", { class: "turn" }, answer.element, answerActs(talk, turn, deeds));
  if (last) {
    answer.show();
    if (turn.calls?.length) node.append(resultForm(turn, deeds));
  } else {
    answer.sketch();
    waiting.set(node, answer);
    near.observe(node);
  }
  return node;
}

/** @param {Conversation} talk @param {Turn} turn @param {Deeds} deeds */
function userNode(talk, turn, deeds) {
  const said = make("div", { class: "said", dir: "auto" }, turn.content);
  const files = (turn.files ?? []).map(({ name, text }) => make("details", { class: "file" }, make("summary", {}, name), make("pre", { tabindex: "0", dir: "auto" }, text)));
  const edit = () => node.replaceChildren(editForm(turn, deeds, () => node.replaceChildren(...shown)));
  const acts = make("div", { class: "acts" }, branches(talk, turn, deeds), copyButton(() => turn.content), make("button", { type: "button", class: "act", onclick: edit }, t("edit")));
  const shown = [...files, said, acts];
  const node = make("div", { class: "turn user" }, ...shown);
  return node;
}

/** @param {Turn} turn @param {Deeds} deeds @param {() => void} cancel */
function editForm(turn, deeds, cancel) {
  const field = make("textarea", { "aria-label": t("edit_question"), rows: "3", dir: "auto" });
  field.value = turn.content;
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (field.value.trim()) deeds.edit(turn, field.value.trim());
  };
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (sends(event)) send(event);
    if (event.key === "Escape") cancel();
  });
  const buttons = make("div", { class: "row end" }, make("button", { type: "button", class: "quiet", onclick: cancel }, t("cancel")), make("button", { type: "submit", class: "main" }, t("ask_again")));
  const form = make("form", { class: "composer editing", onsubmit: send }, field, make("p", { class: "words" }, t("edit_keeps")), buttons);
  queueMicrotask(() => field.focus());
  return form;
}

/** @param {Conversation} talk @param {Turn} turn @param {Deeds} deeds */
export function answerActs(talk, turn, deeds) {
  const again = make("button", { type: "button", class: "act", onclick: () => deeds.again(turn) }, t("regenerate"));
  return make("div", { class: "acts" }, branches(talk, turn, deeds), copyButton(() => turn.content), again);
}

/** @param {Conversation} talk @param {Turn} turn @param {Deeds} deeds */
function branches(talk, turn, deeds) {
  const all = siblings(talk, turn);
  if (all.length < 2) return null;
  const at = all.indexOf(turn);
  const step = (/** @type {number} */ by, /** @type {string} */ sign, /** @type {string} */ name) =>
    make("button", { type: "button", class: "act", "aria-label": t(name), disabled: !all[at + by], onclick: () => deeds.choose(all[at + by]) }, sign);
  return make("span", { class: "branches", role: "group", "aria-label": t("branches") }, step(-1, "‹", "branch_before"), make("span", {}, `${at + 1}/${all.length}`), step(1, "›", "branch_after"));
}

/** A field for each call's result: the page runs no code, so a person brings the results. @param {Turn} turn @param {Deeds} deeds */
export function resultForm(turn, deeds) {
  const calls = turn.calls ?? [];
  const fields = calls.map((call) => make("textarea", { rows: "2", "aria-label": t("result_for", { name: call.name }), placeholder: t("result_for", { name: call.name }), dir: "auto" }));
  const send = (/** @type {Event} */ event) => {
    event.preventDefault();
    deeds.result(turn, fields.map((field) => field.value));
  };
  return make("form", { class: "composer results", onsubmit: send }, ...fields, make("div", { class: "row end" }, make("button", { type: "submit", class: "main" }, t("send_result"))));
}

