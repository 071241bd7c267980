// The switch for thinking: what this model can do, no more.
import { make } from "./dom.js";

const WORDS = { default: "Default", off: "Off", on: "On", auto: "Auto", budget: "Budget" };

/** Fills a fieldset with the model's choices; `changed` is told which is chosen. */
export function fillSwitch(fieldset, model, name, changed) {
  const thinking = model?.trilens.thinking;
  const before = fieldset.querySelector("input:checked")?.value;
  fieldset.querySelectorAll("label").forEach((label) => label.remove());
  const choices = ["default", ...(thinking?.settings ?? [])];
  if (thinking?.budget) choices.push("budget");
  const chosen = choices.includes(before) ? before : "default";
  for (const choice of choices) {
    const input = make("input", { type: "radio", name, value: choice, onchange: () => changed(choice) });
    input.checked = choice === chosen;
    const said = WORDS[choice] ?? choice[0].toUpperCase() + choice.slice(1);
    fieldset.append(make("label", {}, input, make("span", {}, said)));
  }
  fieldset.hidden = choices.length === 1;
  changed(chosen);
}

/** What the request says: undefined for the model's own default. */
export function thinkingOf(fieldset, budget) {
  const choice = fieldset.querySelector("input:checked")?.value ?? "default";
  if (choice === "default") return undefined;
  if (choice === "off" || choice === "on") return choice === "on";
  return choice === "budget" ? Math.max(0, parseInt(budget.value, 10) || 0) : choice;
}
