// The lens view: one looks rather than reads.
import { byId, make, withCode } from "./dom.js";
import { bars, intervals, line } from "./charts.js";
import { channels, colour, inWords } from "./colour.js";
import { HeatMap } from "./heat.js";
import { NextToken } from "./look/next.js";
import { big, bytes, count, flop, seconds, tokens } from "./units.js";
import { t } from "./words/words.js";

export class LensView {
  /**
   * @param {any[]} models @param {(id: string) => void} choose
   * @param {{messages: () => any[], failed: (problem: Error) => void}} page messages of the conversation
   */
  constructor(models, choose, page) {
    this.models = models;
    this.page = page;
    /** @type {any} */
    this.inside = null; // loaded when this view is opened
    this.choose = choose;
    this.heat = new HeatMap(byId("heat"));
    /** @type {Map<string, any>} */
    this.last = new Map(); // model -> its last answer
    /** @type {any} */
    this.model = null;
    this.next = new NextToken(byId("next"));
    this._frame = 0;
    this.follows = true;
    byId("scrub").addEventListener("input", (/** @type {any} */ event) => {
      this.follows = event.target.valueAsNumber === parseInt(event.target.max, 10);
      this._token(event.target.valueAsNumber);
    });
    window.addEventListener("resize", () => this.heat.draw(this.heat.at));
  }

  /** @param {any} model */
  show(model) {
    this.model = model;
    this.follows = true;
    this._discs();
    const about = model.trilens;
    byId("flops").replaceChildren(bars(about.flops_by_part ?? {}, flop));
    byId("bytes").replaceChildren(bars(about.bytes_by_part ?? {}, bytes));
    const points = about.kv_over_context;
    byId("cache").replaceChildren(points ? line(points, tokens, bytes, t("cache_label", { bytes: bytes(points.at(-1)[1]), tokens: count(points.at(-1)[0]) })) : t("unknown"));
    this.heat.show(model);
    this.next.show(model);
    this._inside();
    const answer = this.last.get(model.id);
    this._predicted(answer);
    if (answer) this._extend(answer);
    else this._redraw();
  }

  async _inside() {
    const { Inside } = await import("./look/inside.js");
    this.inside ??= new Inside(byId("inside"), this.page.messages, this.page.failed);
    this.inside.show(this.model);
  }

  /** New tokens of a running answer, or its end. @param {any} answer */
  note(answer) {
    this.last.set(answer.model.id, answer);
    if (answer.model !== this.model) return;
    if (answer.routes.length < this.heat.tokens.length || !answer.running) this.heat.show(this.model);
    this._extend(answer);
    if (answer.receipt) {
      this._predicted(answer);
      this._discs();
    }
  }

  /** @param {any} answer */
  _extend(answer) {
    if (this.heat.every) this.heat.tokens = Array.from({ length: answer.receipt ? answer.receipt.tokens.prompt + answer.receipt.tokens.completion : 1 }, () => null);
    else this.heat.extend(answer.routes.slice(this.heat.tokens.length));
    this._redraw();
  }

  _redraw() {
    const most = this.heat.tokens.length - 1;
    const scrub = byId("scrub");
    byId("scrub-field").hidden = most < 1 || this.heat.every;
    scrub.max = Math.max(0, most);
    if (this.follows) scrub.value = scrub.max;
    if (!this._frame) {
      this._frame = requestAnimationFrame(() => {
        this._frame = 0;
        this._token(this.follows ? this.heat.tokens.length - 1 : scrub.valueAsNumber);
      });
    }
  }

  /** @param {number} at */
  _token(at) {
    this.heat.draw(at);
    byId("router-words").textContent = this.heat.words();
    byId("scrub-token").textContent = at >= 0 ? `${at + 1}` : "";
  }

  _discs() {
    const discs = this.models.map((model) => {
      const { dense, routed, reasoning, measured } = channels(model);
      const bar = (/** @type {string} */ name, /** @type {number} */ share, /** @type {string} */ own) => [
        make("span", {}, name),
        make("i", { style: { "--share": share, "--channel": `var(--${own})` } }),
        make("span", {}, `${Math.round(100 * share)} %`),
      ];
      const about = model.trilens.card;
      const sizes = about ? t("sizes", { total: big(about.parameters.total), active: big(about.parameters.active) }) : t("no_card");
      return make(
        "button",
        { type: "button", class: "disc", "aria-pressed": String(model === this.model), onclick: () => this.choose(model.id) },
        make("span", { class: "colour", role: "img", "aria-label": inWords(model), style: { background: colour(model) } }),
        make("span", {}, make("b", {}, model.id), make("small", {}, sizes)),
        make("span", { class: "channels" }, ...bar(t("fires"), dense, "red"), ...bar(t("left_out"), routed, "green"), ...bar(measured ? t("thought") : t("can_think"), reasoning, "blue")),
      );
    });
    byId("discs").replaceChildren(...discs);
  }

  /** @param {any} answer */
  _predicted(answer) {
    const place = byId("predicted");
    const prediction = answer?.receipt?.prediction;
    if (!prediction) return place.replaceChildren(make("p", { class: "words" }, t("ask_first")));
    const rows = [
      [t("first_token"), prediction.first_token, seconds],
      [t("each_token"), prediction.token, seconds],
      [t("thinking"), prediction.thinking_tokens, (/** @type {number} */ n) => tokens(Math.round(n))],
    ].filter(([, known]) => known);
    const charts = intervals(rows.map(([name, known, say]) => ({ name, ...known, say })));
    return place.replaceChildren(...charts, make("p", { class: "words" }, ...withCode(sourceOf(prediction))));
  }
}

/** What a prediction stands on, in the reader's language. @param {{measured_on: string | null, runs: number}} prediction */
function sourceOf({ measured_on, runs }) {
  return measured_on ? t("measured_on", { date: measured_on, runs }) : t("not_measured");
}
