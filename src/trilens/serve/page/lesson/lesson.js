// The lesson: five chapters, each with steps that really run. A chapter is made when it is first opened, and its results stay.
import { make } from "../dom.js";
import { dense } from "./dense.js";
import { four } from "./four.js";
import { moe } from "./moe.js";
import { own } from "./own.js";
import { say } from "./parts.js";
import { reasoning } from "./reasoning.js";

const KEPT = "trilens-chapter";
/** @type {Record<string, {needs: (model: any) => boolean, make: (models: any[], failed: (problem: Error) => void) => Node[]}>} */
const CHAPTERS = {
  dense: { needs: (model) => !model.trilens.routed_layers.length, make: dense },
  moe: { needs: (model) => model.trilens.routes, make: moe },
  reasoning: { needs: (model) => model.trilens.thinking.can_off && model.trilens.thinking.budget, make: reasoning },
  four: { needs: (model) => model.trilens.thinking.can_off, make: four },
  own: { needs: () => true, make: own },
};
const NAMES = Object.keys(CHAPTERS);

export class Lesson {
  /** @param {HTMLElement} place @param {(problem: Error) => void} failed */
  constructor(place, failed) {
    this.failed = failed;
    /** @type {any[]} */
    this.models = [];
    /** @type {Map<string, HTMLElement>} */
    this.made = new Map();
    this.links = NAMES.map((name, i) => make("a", { href: `#lesson/${name}`, class: `chapter ${name}` }, make("i", { "aria-hidden": "true" }), `${i + 1}. ${say(name)}`));
    this.body = make("div", { class: "chapters" });
    const head = make("div", { class: "lesson-head" }, make("h2", {}, say("title")), make("p", { class: "words" }, say("intro")));
    place.replaceChildren(head, make("nav", { class: "lesson-nav", "aria-label": say("chapters") }, ...this.links), this.body);
    addEventListener("hashchange", () => this._open());
  }

  /** @param {any[]} models */
  show(models) {
    this.models = models.filter((model) => !model.trilens.engine); // an engine's receipts have no operations
    this._open();
  }

  _open() {
    const [view, asked] = location.hash.slice(1).split("/");
    if (view !== "lesson" || !this.models) return;
    const name = [asked, localStorage.getItem(KEPT) ?? "", NAMES[0]].find((one) => one in CHAPTERS) ?? NAMES[0];
    if (asked !== name) history.replaceState(null, "", `#lesson/${name}`);
    else if (localStorage.getItem(KEPT) !== name) scrollTo(0, 0);
    localStorage.setItem(KEPT, name);
    this.links.forEach((link, i) => (NAMES[i] === name ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current")));
    if (!this.made.has(name)) this.made.set(name, this._chapter(name));
    for (const [other, element] of this.made) element.hidden = other !== name;
    this.body.replaceChildren(...this.made.values());
  }

  /** @param {string} name */
  _chapter(name) {
    const { needs, make: made } = CHAPTERS[name];
    const able = this.models.filter(needs);
    const next = NAMES[NAMES.indexOf(name) + 1];
    const inside = able.length || name === "own" ? made(able, this.failed) : [make("p", { class: "words" }, say("no_model"), " ", make("code", {}, "trilens serve tiny-dense tiny-routed"))];
    return make("article", { class: `chapter-body ${name}` }, make("h2", {}, say(`${name}_title`)), make("p", { class: "lead" }, say(`${name}_intro`)), ...inside,
      next ? make("p", { class: "onward" }, make("a", { href: `#lesson/${next}` }, say("onward", { chapter: say(next) }))) : null);
  }
}
