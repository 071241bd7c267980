// The router's heat map: a row for each layer, a cell for each expert. A token's experts light up fully; what fired
// before glows by how often it did. A model without a router has one cell a layer, and every token lights them all.
import { t } from "./words/words.js";

const GAP = 1;

export class HeatMap {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.at = -1;
    this.clear();
  }

  clear() {
    /** @type {any[]} */
    this.tokens = [];
    this.layers = 0;
    this.experts = 0;
    /** @type {any} */
    this.model = null;
    this.every = false;
    this.at = -1;
  }

  /** @param {any} model */
  show(model) {
    this.clear();
    this.model = model;
    const { routed_layers: routed, layers, experts } = model.trilens;
    this.layers = routed.length || layers;
    this.experts = experts || 1;
    this.every = !routed.length;
  }

  /** Experts of each new token, layer by layer; for a model without a router how many tokens there are. @param {any[]} routes */
  extend(routes) {
    for (const { experts } of routes) this.tokens.push(experts);
  }

  /** Draw up to a token; the last one where none is named. */
  draw(at = this.tokens.length - 1) {
    if (!this.model) return;
    this.at = at;
    const room = Math.max(260, (this.canvas.parentElement?.clientWidth ?? 0));
    const cell = Math.max(2, Math.min(64, Math.floor(room / this.experts) - GAP));
    const high = Math.max(5, Math.min(30, Math.floor(360 / this.layers) - GAP));
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.experts * (cell + GAP), this.layers * (high + GAP)];
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const [dark, glow, hot] = ["--mark", "--green", "--red"].map((name) => style.getPropertyValue(name));
    const load = Array.from({ length: this.layers }, () => new Float64Array(this.experts));
    if (!this.every) for (let i = 0; i <= at; i += 1) this.tokens[i].forEach((/** @type {number[]} */ chosen, /** @type {number} */ layer) => chosen.forEach((/** @type {number} */ e) => (load[layer][e] += 1)));
    for (let layer = 0; layer < this.layers; layer += 1) {
      const most = Math.max(...load[layer], 1);
      const now = new Set(at >= 0 && !this.every ? this.tokens[at][layer] : []);
      for (let expert = 0; expert < this.experts; expert += 1) {
        const [x, y] = [expert * (cell + GAP), layer * (high + GAP)];
        pen.globalAlpha = 1;
        pen.fillStyle = dark;
        pen.fillRect(x, y, cell, high);
        const lit = now.has(expert) || (this.every && at >= 0);
        if (!lit && !load[layer][expert]) continue;
        pen.globalAlpha = lit ? 1 : 0.12 + 0.68 * (load[layer][expert] / most);
        pen.fillStyle = lit ? hot : glow;
        pen.fillRect(x, y, cell, high);
      }
    }
    pen.globalAlpha = 1;
    this.canvas.setAttribute("aria-label", this.words());
  }

  words() {
    if (!this.model) return "";
    const [model, layers] = [this.model.id, this.layers];
    if (this.every) return t("heat_dense", { model, layers });
    if (!this.model.trilens.routes) return t("heat_engine", { model });
    if (!this.tokens.length) return t("heat_empty", { model, layers, experts: this.experts });
    const fired = new Set();
    for (let i = 0; i <= this.at; i += 1) this.tokens[i].forEach((/** @type {number[]} */ chosen, /** @type {number} */ layer) => chosen.forEach((/** @type {number} */ e) => fired.add(layer * this.experts + e)));
    return t("heat_token", { at: this.at + 1, all: this.tokens.length, fired: fired.size, experts: layers * this.experts });
  }
}
