// A conversation's settings: the system prompt, sampling, tools. What is left empty comes from the model's own defaults.
import { byId } from "../dom.js";
import { t } from "../words/words.js";

/** @typedef {import("./tree.js").Settings} Settings */

const KEPT = "trilens-settings";
const NUMBERS = /** @type {const} */ (["temperature", "top_p", "top_k", "max_tokens", "seed"]);

/** What new conversations begin with: the settings that were saved last. @returns {Settings} */
export function lastSettings() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  } catch {
    return {};
  }
}

/** The request's fields. @param {Settings} settings @param {boolean} answersResult whether the last turn is a tool's */
export function optionsOf(settings, answersResult) {
  /** @type {any} */
  const options = {};
  for (const name of NUMBERS) if (settings[name] != null) options[name] = settings[name];
  if (settings.tools?.length) {
    options.tools = settings.tools;
    if (settings.tool_choice && settings.tool_choice !== "auto" && !answersResult) options.tool_choice = settings.tool_choice;
  }
  return options;
}

/** How many settings differ from the model's own. @param {Settings} settings */
export const countOf = (settings) => NUMBERS.filter((name) => settings[name] != null).length + (settings.system ? 1 : 0) + (settings.tools?.length ? 1 : 0);

/** @param {Settings} settings @param {(made: Settings) => void} saved */
export function openSettings(settings, saved) {
  const form = byId("settings-form");
  form.system.value = settings.system ?? "";
  for (const name of NUMBERS) form[name].value = settings[name] ?? "";
  form.tools.value = settings.tools?.length ? JSON.stringify(settings.tools, null, 2) : "";
  form.tool_choice.value = settings.tool_choice ?? "auto";
  byId("tools-fault").textContent = "";
  form.onsubmit = (/** @type {SubmitEvent} */ event) => {
    if (/** @type {any} */ (event.submitter)?.value === "cancel") return;
    const tools = readTools(form.tools.value);
    if (typeof tools === "string") {
      event.preventDefault();
      byId("tools-fault").textContent = tools;
      form.tools.focus();
      return;
    }
    /** @type {Settings} */
    const made = { ...(form.system.value.trim() ? { system: form.system.value } : {}), ...(tools.length ? { tools, tool_choice: form.tool_choice.value } : {}) };
    for (const name of NUMBERS) if (form[name].value !== "") made[name] = form[name].valueAsNumber;
    try {
      localStorage.setItem(KEPT, JSON.stringify(made));
    } catch {} // then new conversations begin without it
    saved(made);
  };
  byId("settings-dialog").showModal();
}

/** The tools, each in OpenAI's form; one that is written without its frame gets it. @param {string} text @returns {any[] | string} */
function readTools(text) {
  if (!text.trim()) return [];
  try {
    const given = [JSON.parse(text)].flat();
    const tools = given.map((one) => (one.function ? one : { type: "function", function: one }));
    const bad = tools.find((tool) => typeof tool.function?.name !== "string" || !tool.function.name);
    return bad ? t("tools_without_name") : tools;
  } catch {
    return t("tools_not_json");
  }
}
