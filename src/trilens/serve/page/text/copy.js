// A button that copies a text and says so.
import { make } from "../dom.js";
import { t } from "../words/words.js";

/** @param {() => string} text */
export function copyButton(text) {
  const button = make("button", { type: "button", class: "act", onclick: () => copy(text()).then(said, failed) }, t("copy"));
  const said = () => say(t("copied"));
  const failed = () => say(t("not_copied"));
  const say = (/** @type {string} */ words) => {
    button.textContent = words;
    setTimeout(() => (button.textContent = t("copy")), 1600);
  };
  return button;
}

/** The clipboard needs a secure place; over plain HTTP from elsewhere the old way is left. @param {string} text */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = make("textarea", { class: "hidden" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error();
}
