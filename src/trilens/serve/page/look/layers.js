// The logit lens: what the model would expect next if it stopped after a layer.
import { logitLens } from "../api.js";
import { codeLink, make } from "../dom.js";
import { share } from "../units.js";
import { costOf, part, say, shown } from "./parts.js";

const TOP = 4; // tokens that are shown of each layer

export class LogitLens {
  constructor() {
    /** @type {any} */
    this.told = null;
    /** @type {any} */
    this.asked = null;
    this.words = make("p", { class: "words", role: "status" });
    this.table = make("table", { class: "layers" });
    this.line = make("p", { class: "words" });
    const scrolls = make("div", { class: "table", tabindex: "0", role: "group", "aria-label": say("lens") }, this.table);
    this.element = part("lens", codeLink("src/trilens/decoder/look.py"), this.words, scrolls, this.line);
  }

  /** @param {any} asked */
  async run(asked) {
    this.asked = asked;
    const told = await logitLens({ ...asked, top: TOP });
    if (asked !== this.asked) return told; // another token was chosen meanwhile
    this.told = told;
    this.line.textContent = costOf(told.cost);
    return told;
  }

  /** @param {string[]} tokens */
  draw(tokens) {
    if (!this.told) return;
    const { position, layers } = this.told;
    const next = tokens[position + 1];
    this.words.textContent = say(next === undefined ? "lens_last" : "lens_of", { token: shown(tokens[position]), next: shown(next ?? "") });
    /** @param {any} guess */
    const cell = (guess) => make("td", { class: guess.token === next ? "real" : null, style: { "--share": guess.probability } }, make("code", {}, shown(guess.token)), " ", make("small", {}, share(guess.probability)));
    this.table.replaceChildren(make("tbody", {}, ...layers.map((/** @type {any[]} */ layer, /** @type {number} */ i) => make("tr", {}, make("th", { scope: "row" }, `${say("layer")} ${i}`), ...layer.map(cell)))));
  }
}
