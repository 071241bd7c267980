// The switch for thinking: what this model can do, no more.
import { make } from "./dom.js";
import { t } from "./words/words.js";

/**
 * Fills a fieldset with the model's choices; `changed` is told which is chosen.
 * @param {any} fieldset @param {any} model @param {string} name @param {(choice: string) => void} changed
 */
export function fillSwitch(fieldset, model, name, changed) {
  const thinking = model?.trilens.thinking;
  const before = fieldset.querySelector("input:checked")?.value;
  fieldset.querySelectorAll("label").forEach((/** @type {Element} */ label) => label.remove());
  const choices = ["default", ...(thinking?.settings ?? [])];
  if (thinking?.budget) choices.push("budget");
  const chosen = choices.includes(before) ? before : "default";
  for (const choice of choices) {
    const input = make("input", { type: "radio", name, value: choice, onchange: () => changed(choice) });
    input.checked = choice === chosen;
    const key = `thinking_${choice}`;
    const said = t(key) === key ? choice[0].toUpperCase() + choice.slice(1) : t(key);
    fieldset.append(make("label", {}, input, make("span", {}, said)));
  }
  fieldset.hidden = choices.length === 1;
  changed(chosen);
}

/** What the request says: undefined for the model's own default. @param {any} fieldset @param {any} budget */
export function thinkingOf(fieldset, budget) {
  const choice = fieldset.querySelector("input:checked")?.value ?? "default";
  if (choice === "default") return undefined;
  if (choice === "off" || choice === "on") return choice === "on";
  return choice === "budget" ? Math.max(0, parseInt(budget.value, 10) || 0) : choice;
}
