// The next token: what the model held likely at each place of an answer, and what temperature and top-p make of it.
// Nothing is computed until somebody looks: the answer is then asked for with its probabilities, in a run of its own.
import { codeLink, make, sendWithEnter } from "../dom.js";
import { chat } from "../api.js";
import { receiptLine } from "../talk/receipt.js";
import { share } from "../units.js";
import { t } from "../words/words.js";
import { sampled } from "./sampled.js";

const [ALTERNATIVES, TOKENS] = [20, 64]; // the most that the server tells of, and the most tokens that are looked at

export class NextToken {
  /** @param {HTMLElement} place */
  constructor(place) {
    /** @type {any} */
    this.model = null;
    /** @type {any[]} */
    this.tokens = [];
    this.at = 0;
    this.field = make("textarea", { rows: "1", "aria-label": t("next_prompt"), dir: "auto" });
    this.field.value = "What is 47 times 86?";
    this.form = make("form", { class: "composer", onsubmit: (/** @type {Event} */ event) => this._look(event) }, this.field, make("div", { class: "row end" }, make("button", { type: "submit", class: "main" }, t("next_look"))));
    sendWithEnter(this.field, this.form);
    this.chosen = make("div", { class: "tokens", role: "group", "aria-label": t("next_token") });
    this.temperature = this._slider(t("temperature"), "0", "2", "0.05", "1");
    this.topP = this._slider("top-p", "0.05", "1", "0.05", "1");
    this.words = make("p", { class: "words", role: "status" });
    this.bars = make("div", { class: "bars next" });
    this.line = make("p", { class: "words" });
    this.sliders = make("div", { class: "row", hidden: true }, this.temperature.label, this.topP.label);
    place.replaceChildren(make("h2", {}, t("next_title")), make("p", { class: "words" }, t("next_words"), " ", codeLink("src/trilens/generate/sampling.py")), this.form, this.chosen, this.sliders, this.words, this.bars, this.line);
  }

  /** @param {any} model */
  show(model) {
    if (model === this.model) return;
    this.model = model;
    this.tokens = [];
    this._draw();
    this.line.textContent = "";
  }

  /** @param {string} name @param {string} min @param {string} max @param {string} step @param {string} value */
  _slider(name, min, max, step, value) {
    const input = make("input", { type: "range", min, max, step, value, oninput: () => this._draw() });
    const output = make("output", {}, value);
    return { input, output, label: make("label", { class: "field" }, name, input, output) };
  }

  /** @param {Event} event */
  async _look(event) {
    event.preventDefault();
    const model = this.model;
    const messages = [{ role: "user", content: this.field.value }];
    const options = { temperature: 0, seed: 1, logprobs: true, top_logprobs: ALTERNATIVES, max_tokens: TOKENS, ...(model.trilens.thinking?.can_off ? { thinking: false } : {}) };
    const tokens = [];
    let receipt = null;
    try {
      for await (const chunk of chat({ model: model.id, messages, ...options })) {
        tokens.push(...(chunk.choices[0]?.logprobs?.content ?? []));
        receipt = chunk.trilens?.receipt ?? receipt;
      }
    } catch (problem) {
      this.words.textContent = problem.message;
      return;
    }
    if (model !== this.model) return;
    this.tokens = tokens;
    this.at = 0;
    this.line.textContent = receipt ? t("next_again", { line: receiptLine(receipt) }) : "";
    this._draw();
  }

  _draw() {
    const buttons = this.tokens.map((token, i) => make("button", { type: "button", class: "token", "aria-pressed": String(i === this.at), onclick: () => this._choose(i) }, shown(token)));
    const focused = [...this.chosen.children].indexOf(document.activeElement);
    this.chosen.replaceChildren(...buttons);
    this.chosen.children[focused]?.focus();
    const token = this.tokens[this.at];
    this.sliders.hidden = !token;
    this.bars.replaceChildren();
    this.words.textContent = this.line.textContent && !token ? t("next_none") : "";
    if (!token) return;
    const [temperature, topP] = [this.temperature.input.valueAsNumber, this.topP.input.valueAsNumber];
    this.temperature.output.textContent = temperature.toFixed(2);
    this.topP.output.textContent = topP.toFixed(2);
    const shares = sampled(token.top_logprobs.map((/** @type {any} */ one) => one.logprob), temperature, topP);
    const kept = shares.filter((one) => one > 0).length;
    this.words.textContent = t("next_scope", { temperature: temperature.toFixed(2), top_p: topP.toFixed(2), kept });
    this.bars.append(...token.top_logprobs.flatMap((/** @type {any} */ one, /** @type {number} */ i) => [
      make("code", {}, shown(one)),
      make("i", { style: { "--share": shares[i] } }),
      make("span", {}, shares[i] > 0 ? share(shares[i]) : t("next_gone")),
    ]));
  }

  /** @param {number} at */
  _choose(at) {
    this.at = at;
    this._draw();
  }
}

/** A token with its spaces to be seen, or its bytes where it is a part of a character. @param {any} token */
const shown = ({ token, bytes }) => (token.includes("\ufffd") ? bytes.map(hex).join("") : token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅");
const hex = (/** @type {number} */ byte) => `\\x${byte.toString(16).padStart(2, "0")}`;
