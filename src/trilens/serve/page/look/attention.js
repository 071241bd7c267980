// The attention of one head: how much each token takes from the tokens up to it, in bars and as a map of all tokens.
import { attentionOf } from "../api.js";
import { codeLink, make } from "../dom.js";
import { percent } from "../units.js";
import { costOf, part, say, shown } from "./parts.js";

const [MOST, SMALLEST, LARGEST] = [6, 1, 12]; // bars, and pixels of a cell

export class AttentionOf {
  /** @param {(work: () => Promise<void>) => Promise<void>} rerun runs the look again, after another choice */
  constructor(rerun) {
    /** @type {any} */
    this.asked = null;
    /** @type {number[][]} */
    this.weights = [];
    const again = () => this.asked && rerun(() => this.run(this.asked));
    this.layer = make("select", { onchange: () => { this._heads(); again(); } });
    this.head = make("select", { onchange: again });
    this.bars = make("div", { class: "bars next" });
    this.canvas = make("canvas", { role: "img", "aria-label": "" });
    this.line = make("p", { class: "words" });
    this.none = make("p", { class: "words", hidden: true });
    this.choice = make("div", { class: "row" }, make("label", { class: "field" }, say("layer"), this.layer), make("label", { class: "field" }, say("head"), this.head));
    this.content = make("div", { class: "attention-views" }, this.bars, make("div", { class: "heat" }, this.canvas));
    this.element = part("attention", codeLink("src/trilens/decoder/look.py"), this.choice, this.none, this.content, this.line);
  }

  /** The layers and heads of a model; a layer without attention is named and cannot be chosen. @param {any} model */
  choices(model) {
    this.counts = /** @type {number[]} */ (model.trilens.attention_heads);
    this.asked = null;
    this.weights = [];
    this.layer.replaceChildren(...this.counts.map((heads, i) => make("option", { value: i, disabled: !heads }, heads ? i : say("no_heads", { layer: i }))));
    const some = this.counts.findLastIndex((heads) => heads > 0);
    this.able = some >= 0;
    this.none.hidden = this.able;
    this.none.textContent = this.able ? "" : say("no_attention", { model: model.id });
    this.choice.hidden = this.content.hidden = !this.able;
    if (this.able) this.layer.selectedIndex = some;
    this._heads();
  }

  _heads() {
    const before = this.head.selectedIndex;
    const count = this.counts?.[this.layer.selectedIndex] ?? 0;
    this.head.replaceChildren(...Array.from({ length: count }, (_, i) => make("option", { value: i }, i)));
    this.head.selectedIndex = Math.max(0, Math.min(before, count - 1));
  }

  /** @param {any} asked */
  async run(asked) {
    if (!this.able) return;
    if (asked !== this.asked) this.weights = []; // they were of another text
    this.asked = asked;
    const [layer, head] = [this.layer.value, this.head.value];
    const told = await attentionOf({ ...asked, layer: Number(layer), head: Number(head) });
    if (asked !== this.asked || layer !== this.layer.value || head !== this.head.value) return; // chosen anew meanwhile
    this.weights = told.weights;
    this.line.textContent = costOf(told.cost);
  }

  /** What the token at one place takes from another, as a part of what it takes from the strongest. @param {number} of @param {number} from */
  strength(of, from) {
    const row = this.weights[of] ?? [];
    return (row[from] ?? 0) / Math.max(...row, 1e-9);
  }

  /** @param {string[]} tokens @param {number} at */
  draw(tokens, at) {
    const row = this.weights[at];
    if (!row) return;
    const order = row.map((_, i) => i).sort((a, b) => row[b] - row[a]).slice(0, MOST);
    const sum = row.reduce((all, share) => all + share, 0);
    const rows = order.map((i) => [say("share", { at: i + 1, token: shown(tokens[i]) }), row[i]]);
    const others = sum - order.reduce((all, i) => all + row[i], 0);
    if (row.length > MOST) rows.push([say("others", { n: row.length - MOST }), Math.max(others, 0)]);
    if (sum < 0.99) rows.push([say("sink"), 1 - sum]);
    this.bars.replaceChildren(...rows.flatMap(([name, share]) => [make("code", {}, name), make("i", { style: { "--share": share } }), make("span", {}, percent(Number(share)))]));
    this._map(tokens, at, order[0]);
  }

  /** @param {string[]} tokens @param {number} at @param {number} most */
  _map(tokens, at, most) {
    const n = tokens.length;
    const room = Math.min(360, this.element.clientWidth || 360);
    const cell = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room / n)));
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.canvas.height = n * cell * ratio;
    this.canvas.style.width = this.canvas.style.height = `${n * cell}px`;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    pen.fillStyle = style.getPropertyValue("--mark");
    for (let i = 0; i < n; i += 1) pen.fillRect(0, i * cell, (i + 1) * cell, cell);
    pen.fillStyle = style.getPropertyValue("--red");
    this.weights.forEach((row, i) => row.forEach((share, j) => {
      if (share < 0.004) return;
      pen.globalAlpha = share ** 0.6; // small shares stay visible
      pen.fillRect(j * cell, i * cell, cell, cell);
    }));
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--ink");
    pen.strokeRect(0.5, at * cell + 0.5, (at + 1) * cell - 1, Math.max(cell - 1, 1));
    this.canvas.setAttribute("aria-label", say("map", { layer: this.layer.value, head: this.head.value, token: shown(tokens[at]), most: shown(tokens[most]), share: percent(this.weights[at][most]) }));
  }
}
