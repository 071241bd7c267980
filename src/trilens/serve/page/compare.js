// Two answers to one question: two models, or thinking on and off.
import { byId, make, sendWithEnter } from "./dom.js";
import { Answer } from "./talk/answer.js";
import { fillSwitch, thinkingOf } from "./switch.js";
import { bytes, count, flop, seconds } from "./units.js";
import { t } from "./words/words.js";

export class CompareView {
  /** @param {any[]} models @param {(problem: Error) => void} failed @param {(answer: Answer) => void} noted */
  constructor(models, failed, noted) {
    this.models = models;
    this.failed = failed;
    this.noted = noted;
    this.sides = [0, 1].map((number) => this._side(number));
    byId("sides").replaceChildren(...this.sides.map((side) => side.element));
    byId("compare").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.ask();
    });
    sendWithEnter(byId("both"), byId("compare"));
    byId("stop-both").addEventListener("click", () => this.sides.forEach((side) => side.answer?.stop()));
  }

  async ask() {
    const question = byId("both").value.trim();
    if (!question || this.sides.some((side) => side.answer?.running)) return;
    byId("difference").replaceChildren();
    byId("stop-both").hidden = false;
    const seed = Math.floor(Math.random() * 2 ** 32);
    await Promise.all(this.sides.map((side) => this._run(side, question, seed)));
    byId("stop-both").hidden = true;
    this._difference();
  }

  /** @param {any} side @param {string} question @param {number} seed */
  async _run(side, question, seed) {
    const model = this.models.find((m) => m.id === side.select.value);
    const answer = new Answer(model);
    side.answer = answer;
    side.place.replaceChildren(answer.element);
    answer.onroutes = this.noted;
    const thinking = thinkingOf(side.switch, side.budget);
    try {
      await answer.ask([{ role: "user", content: question }], { thinking, seed });
      this.noted(answer);
    } catch (problem) {
      answer.fail(problem.short ?? problem.message, () => this.ask());
      this.failed(problem);
    }
  }

  /** @param {number} number */
  _side(number) {
    const select = make("select", { "aria-label": t("model_n", { n: number + 1 }) }, ...this.models.map((m) => make("option", { value: m.id }, m.id)));
    select.selectedIndex = 0;
    const fieldset = make("fieldset", { class: "switch" }, make("legend", {}, t("thinking")));
    const budget = make("input", { type: "number", min: "0", value: "64", "aria-label": t("tokens_of_thinking") });
    const field = make("label", { class: "field", hidden: true }, t("budget_tokens"), budget);
    const place = make("div", { "aria-live": "polite" });
    /** @type {any} */
    const side = { select, switch: fieldset, budget, place, answer: null };
    const fill = () => {
      const model = this.models.find((m) => m.id === select.value);
      fillSwitch(fieldset, model, `side-${number}`, (choice) => (field.hidden = choice !== "budget"));
    };
    select.addEventListener("change", fill);
    fill();
    // thinking on and off of one model is what one asks first
    const wanted = [...fieldset.querySelectorAll("input")].find((input) => input.value === (number ? "on" : "off"));
    if (wanted) wanted.checked = true;
    side.element = make("div", { class: "side" }, make("div", { class: "row" }, select, fieldset, field), place);
    return side;
  }

  _difference() {
    const [a, b] = this.sides.map((side) => side.answer?.receipt);
    if (!a || !b) return;
    /** An engine's receipt has no work. @param {any} r @param {string} part */
    const sum = (r, part) => (r.work ? r.work.prefill[part] + r.work.decode[part] : undefined);
    const row = (/** @type {string} */ name, /** @type {(r: any) => number} */ of, /** @type {(n: number) => string} */ say) => {
      const [x, y] = [of(a), of(b)];
      const times = x && y ? `${(y / x).toFixed(2)} ×` : "";
      return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, Number.isFinite(x) ? say(x) : t("unknown")), make("td", {}, Number.isFinite(y) ? say(y) : t("unknown")), make("td", {}, times));
    };
    const rows = [
      row(t("tokens_out"), (r) => r.tokens.completion, count),
      row(t("of_these_thinking"), (r) => r.tokens.thinking, count),
      row(t("operations"), (r) => r.flops, flop),
      row(t("bytes_read"), (r) => sum(r, "weight_bytes") + sum(r, "kv_bytes"), bytes),
      row(t("seconds_computing"), (r) => (r.work ? sum(r, "seconds") : r.seconds), seconds),
      row(t("weights_held"), (r) => r.weights_bytes, bytes),
    ];
    const head = make("tr", {}, make("td"), ...["left", "right", "right_over_left"].map((key) => make("th", { scope: "col" }, t(key))));
    byId("difference").replaceChildren(make("table", { class: "difference" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }
}
