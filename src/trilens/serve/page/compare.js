// Several answers to one question: different models, or one with thinking on and off.
import { byId, make, sendWithEnter } from "./dom.js";
import { Answer } from "./talk/answer.js";
import { fillSwitch, thinkingOf } from "./switch.js";
import { bytes, count, flop, seconds } from "./units.js";
import { t } from "./words/words.js";

const MOST = 4; // sides

export class CompareView {
  /** @param {any[]} models @param {(problem: Error) => void} failed @param {(answer: Answer) => void} noted */
  constructor(models, failed, noted) {
    this.models = models;
    this.failed = failed;
    this.noted = noted;
    this.made = 0;
    /** @type {any[]} */
    this.sides = [];
    this._add();
    this._add();
    byId("add-side").addEventListener("click", () => this._add());
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
    side.choice = `${t("thinking")}: ${side.switch.querySelector("input:checked + span").textContent}`;
    try {
      await answer.ask([{ role: "user", content: question }], { thinking, seed });
      this.noted(answer);
    } catch (problem) {
      answer.fail(problem.short ?? problem.message, () => this.ask());
      this.failed(problem);
    }
  }

  _add() {
    this.sides.push(this._side(this.made));
    this.made += 1;
    this._arrange();
  }

  /** @param {any} side */
  _remove(side) {
    side.answer?.stop();
    this.sides = this.sides.filter((one) => one !== side);
    this._arrange();
    byId("add-side").focus();
  }

  /** The sides and what can be done with them; what was compared before is gone. */
  _arrange() {
    byId("sides").replaceChildren(...this.sides.map((side) => side.element));
    byId("add-side").hidden = this.sides.length >= MOST;
    this.sides.forEach((side, i) => {
      side.remove.hidden = this.sides.length <= 2;
      side.select.setAttribute("aria-label", t("model_n", { n: i + 1 }));
      side.remove.setAttribute("aria-label", t("remove_side", { n: i + 1 }));
    });
    byId("difference").replaceChildren();
  }

  /** @param {number} number */
  _side(number) {
    const select = make("select", {}, ...this.models.map((m) => make("option", { value: m.id }, m.id)));
    // first one model with thinking off and on, then the other models
    select.selectedIndex = Math.max(0, number - 1) % this.models.length;
    const fieldset = make("fieldset", { class: "switch" }, make("legend", {}, t("thinking")));
    const budget = make("input", { type: "number", min: "0", value: "64", "aria-label": t("tokens_of_thinking") });
    const field = make("label", { class: "field", hidden: true }, t("budget_tokens"), budget);
    const place = make("div", { "aria-live": "polite" });
    const remove = make("button", { type: "button", class: "act remove", onclick: () => this._remove(side) }, "×");
    /** @type {any} */
    const side = { select, switch: fieldset, budget, place, remove, answer: null };
    const fill = () => {
      const model = this.models.find((m) => m.id === select.value);
      fillSwitch(fieldset, model, `side-${number}`, (choice) => (field.hidden = choice !== "budget"));
    };
    select.addEventListener("change", fill);
    fill();
    const wanted = [...fieldset.querySelectorAll("input")].find((input) => input.value === (number % 2 ? "on" : "off"));
    if (wanted) wanted.checked = true;
    side.element = make("div", { class: "side" }, make("div", { class: "row" }, select, fieldset, field), remove, place);
    return side;
  }

  _difference() {
    const receipts = this.sides.map((side) => side.answer?.receipt);
    if (receipts.some((receipt) => !receipt)) return;
    /** An engine's receipt has no work. @param {any} r @param {string} part */
    const sum = (r, part) => (r.work ? r.work.prefill[part] + r.work.decode[part] : undefined);
    const row = (/** @type {string} */ name, /** @type {(r: any) => number} */ of, /** @type {(n: number) => string} */ say) => {
      const [first, ...others] = receipts.map(of);
      const cell = (/** @type {number} */ n) => make("td", {}, Number.isFinite(n) ? say(n) : t("unknown"), first && n && n !== first ? make("small", {}, ` ${(n / first).toFixed(2)} ×`) : null);
      return make("tr", {}, make("th", { scope: "row" }, name), ...[first, ...others].map(cell));
    };
    const rows = [
      row(t("tokens_out"), (r) => r.tokens.completion, count),
      row(t("of_these_thinking"), (r) => r.tokens.thinking, count),
      row(t("operations"), (r) => r.flops, flop),
      row(t("bytes_read"), (r) => sum(r, "weight_bytes") + sum(r, "kv_bytes"), bytes),
      row(t("seconds_computing"), (r) => (r.work ? sum(r, "seconds") : r.seconds), seconds),
      row(t("weights_held"), (r) => r.weights_bytes, bytes),
    ];
    const named = this.sides.map(({ answer, choice }) => make("th", { scope: "col" }, answer.model.id, choice ? make("small", {}, choice) : null));
    const table = make("table", { class: "difference" }, make("thead", {}, make("tr", {}, make("td"), ...named)), make("tbody", {}, ...rows));
    byId("difference").replaceChildren(make("div", { class: "table", tabindex: "0", role: "group", "aria-label": t("tab_compare") }, table), make("p", { class: "note" }, t("times_first")));
  }
}
