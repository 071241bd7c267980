// Looking inside a model: a text, its tokens, and for the chosen one the attention of a head and the logit lens. Each look
// is a run of its own at the server, with its own cost; there is none until somebody asks for it.
import { make, sendWithEnter } from "../dom.js";
import { AttentionOf } from "./attention.js";
import { LogitLens } from "./layers.js";
import { say, shown } from "./parts.js";

/** @typedef {{role: string, content: any}[]} Messages */

export class Inside {
  /** @param {HTMLElement} place @param {() => Messages} messages of the conversation that is shown @param {(problem: Error) => void} failed */
  constructor(place, messages, failed) {
    document.head.append(make("link", { rel: "stylesheet", href: "look/look.css" }));
    this.messages = messages;
    this.failed = failed;
    /** @type {any} */
    this.model = null;
    /** @type {Messages | null} */
    this.taken = null;
    /** @type {any} */
    this.asked = null; // what was looked at
    /** @type {string[]} */
    this.tokens = [];
    this.at = -1;
    this.field = make("textarea", { rows: "1", "aria-label": say("text"), dir: "auto" });
    this.field.value = "What is 47 times 86?";
    this.take = make("button", { type: "button", class: "quiet", onclick: () => this._take() }, say("take"));
    this.note = make("p", { class: "words", hidden: true });
    this.button = make("button", { type: "submit", class: "main" }, say("look"));
    this.form = make("form", { class: "composer", onsubmit: (/** @type {Event} */ event) => this._look(event) }, this.field, this.note, make("div", { class: "row end" }, this.take, this.button));
    sendWithEnter(this.field, this.form);
    this.fault = make("p", { class: "fault", role: "alert" });
    this.choose = make("p", { class: "words", hidden: true }, say("choose"));
    this.row = make("div", { class: "tokens seen", role: "group", "aria-label": say("tokens") });
    const rerun = (/** @type {() => Promise<void>} */ work) => this._try(work);
    this.attention = new AttentionOf(rerun);
    this.lens = new LogitLens();
    this.words = make("p", { class: "words" });
    this.views = make("div", { class: "inside-views", hidden: true }, this.attention.element, this.lens.element);
    place.replaceChildren(make("h2", {}, say("title")), this.words, this.form, this.fault, this.choose, this.row, this.views);
  }

  /** @param {any} model */
  show(model) {
    this.take.hidden = !this.taken && !this.messages().length;
    if (model === this.model) return;
    this.model = model;
    const away = model.trilens.engine;
    this.words.textContent = away ? say("engine", { model: model.id }) : say("words");
    this.form.hidden = away;
    this._clear();
    if (!away) this.attention.choices(model);
  }

  _clear() {
    this.tokens = [];
    this.row.replaceChildren();
    this.views.hidden = this.choose.hidden = true;
    this.fault.textContent = "";
  }

  _take() {
    this.taken = this.taken ? null : this.messages();
    this.field.hidden = Boolean(this.taken);
    this.note.hidden = !this.taken;
    this.note.textContent = this.taken ? say("taken", { n: this.taken.length }) : "";
    this.take.textContent = say(this.taken ? "write" : "take");
  }

  /** @param {Event} event */
  async _look(event) {
    event.preventDefault();
    if (this.button.disabled) return; // Enter sends the form all the same
    const model = this.model;
    const messages = this.taken ?? [{ role: "user", content: this.field.value }];
    this._clear(); // what is there belongs to another text
    await this._try(async () => {
      this.asked = { model: model.id, messages };
      const told = await this.lens.run(this.asked);
      if (model !== this.model) return;
      await this.attention.run(this.asked);
      if (model !== this.model) return;
      this.tokens = told.tokens;
      this.at = told.position;
      this.views.hidden = this.choose.hidden = false;
      this.row.replaceChildren(...this.tokens.map((token, i) => make("button", { type: "button", class: "token", onclick: () => this._choose(i) }, shown(token))));
      this._draw();
    });
  }

  /** @param {number} at */
  async _choose(at) {
    this.at = at;
    this._draw();
    await this._try(async () => void (await this.lens.run({ ...this.asked, position: at })));
    this.lens.draw(this.tokens);
  }

  _draw() {
    [...this.row.children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === this.at));
      /** @type {HTMLElement} */ (button).style.setProperty("--share", String(this.attention.strength(this.at, i)));
    });
    this.attention.draw(this.tokens, this.at);
    this.lens.draw(this.tokens);
  }

  /** @param {() => Promise<void>} work */
  async _try(work) {
    this.button.disabled = true;
    this.fault.textContent = "";
    try {
      await work();
      if (this.tokens.length) this._draw();
    } catch (problem) {
      this.fault.textContent = problem.message;
      this.failed(problem);
    } finally {
      this.button.disabled = false;
    }
  }
}
