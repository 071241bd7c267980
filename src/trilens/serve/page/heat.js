// The router's heat map: a row for each layer, a cell for each expert. A token's experts light up fully; what fired
// before glows by how often it did. A model without a router has one cell a layer, and every token lights them all.
const GAP = 1;

export class HeatMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.tokens = [];
    this.layers = this.experts = 0;
    this.load = [];
    this.model = null;
    this.at = -1;
  }

  show(model) {
    this.clear();
    this.model = model;
    const { routed_layers: routed, layers, experts } = model.trilens;
    this.layers = routed.length || layers;
    this.experts = experts || 1;
    this.every = !routed.length;
  }

  /** Experts of each new token, layer by layer; for a model without a router how many tokens there are. */
  extend(routes) {
    for (const { experts } of routes) this.tokens.push(experts);
  }

  /** Draw up to a token; the last one where none is named. */
  draw(at = this.tokens.length - 1) {
    if (!this.model) return;
    this.at = at;
    const room = Math.max(260, this.canvas.parentElement.clientWidth);
    const cell = Math.max(2, Math.min(64, Math.floor(room / this.experts) - GAP));
    const high = Math.max(5, Math.min(30, Math.floor(360 / this.layers) - GAP));
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.experts * (cell + GAP), this.layers * (high + GAP)];
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const [dark, glow, hot] = ["--mark", "--green", "--red"].map((name) => style.getPropertyValue(name));
    const load = Array.from({ length: this.layers }, () => new Float64Array(this.experts));
    if (!this.every) for (let i = 0; i <= at; i += 1) this.tokens[i].forEach((chosen, layer) => chosen.forEach((e) => (load[layer][e] += 1)));
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
    if (this.every) return `${this.model.id} has no router: every weight fires for every token, in all ${this.layers} layers.`;
    if (!this.every && !this.model.trilens.routes) return `${this.model.id} runs on an engine, which does not say which experts fire.`;
    if (!this.tokens.length) return `${this.model.id}: ${this.experts} experts in each of ${this.layers} layers. Ask something, and they light up here.`;
    const fired = new Set();
    for (let i = 0; i <= this.at; i += 1) this.tokens[i].forEach((chosen, layer) => chosen.forEach((e) => fired.add(layer * this.experts + e)));
    return `Token ${this.at + 1} of ${this.tokens.length}: red fires now, green fired before, brighter the more often. ${fired.size} of ${this.layers * this.experts} experts fired so far.`;
  }
}
