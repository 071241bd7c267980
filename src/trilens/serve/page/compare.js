// Two answers to one question: two models, or thinking on and off.
import { byId, make } from "./dom.js";
import { Answer } from "./answer.js";
import { fillSwitch, thinkingOf } from "./switch.js";
import { bytes, count, flop, seconds } from "./units.js";

export class CompareView {
  constructor(models, failed, noted) {
    this.models = models;
    this.failed = failed;
    this.noted = noted;
    this.sides = [0, 1].map((number) => this._side(number));
    byId("sides").replaceChildren(...this.sides.map((side) => side.element));
    byId("compare").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    byId("both").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        byId("compare").requestSubmit();
      }
    });
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

  async _run(side, question, seed) {
    const model = this.models.find((m) => m.id === side.select.value);
    const answer = new Answer(model);
    side.answer = answer;
    side.place.replaceChildren(answer.element);
    answer.onroutes = this.noted;
    try {
      await answer.ask([{ role: "user", content: question }], { thinking: thinkingOf(side.switch, side.budget), seed });
      this.noted(answer);
    } catch (problem) {
      answer.fail(problem.message, () => this.ask());
      this.failed(problem);
    }
  }

  _side(number) {
    const select = make("select", { "aria-label": `Model ${number + 1}` }, ...this.models.map((m) => make("option", { value: m.id }, m.id)));
    select.selectedIndex = 0;
    const fieldset = make("fieldset", { class: "switch" }, make("legend", {}, "Thinking"));
    const budget = make("input", { type: "number", min: "0", value: "64", "aria-label": "Tokens of thinking" });
    const field = make("label", { class: "field", hidden: true }, "Tokens", budget);
    const place = make("div", { "aria-live": "polite" });
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
    const row = (name, of, say) => {
      const [x, y] = [of(a), of(b)];
      const times = x && y ? `${(y / x).toFixed(2)} ×` : "";
      return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, say(x)), make("td", {}, say(y)), make("td", {}, times));
    };
    const rows = [
      row("tokens out", (r) => r.tokens.completion, count),
      row("of these thinking", (r) => r.tokens.thinking, count),
      row("operations", (r) => r.flops, flop),
      row("bytes read", (r) => r.work.prefill.weight_bytes + r.work.prefill.kv_bytes + r.work.decode.weight_bytes + r.work.decode.kv_bytes, bytes),
      row("seconds of computing", (r) => r.work.prefill.seconds + r.work.decode.seconds, seconds),
      row("weights held", (r) => r.weights_bytes, bytes),
    ];
    const head = make("tr", {}, make("td"), ...["left", "right", "right over left"].map((word) => make("th", { scope: "col" }, word)));
    byId("difference").replaceChildren(make("table", { class: "difference" }, make("thead", {}, head), make("tbody", {}, ...rows)));
  }
}
