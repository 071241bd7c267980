// The conversation that is open: asking, editing, other answers, branches. Each change is kept at once.
import { byId, make, sendWithEnter } from "../dom.js";
import { t } from "../words/words.js";
import { Answer } from "./answer.js";
import { costLine } from "./cost.js";
import { Files } from "./files.js";
import { countOf, lastSettings, openSettings, optionsOf } from "./settings.js";
import * as store from "./store.js";
import { addTurn, follow, messages, newConversation, path } from "./tree.js";
import { answerActs, resultForm, turnNode } from "./turns.js";

/** @typedef {import("./tree.js").Turn} Turn */

const OPEN = "trilens-open"; // the conversation that was open last
const SAVE_EVERY = 500; // milliseconds between savings of an answer that is being written
const BOTTOM = 120; // pixels: nearer than this, the page follows what is written

export class Talk {
  /**
   * @param {{chosen(): any, modelOf(id: string | undefined): any, thinking(): any, failed(problem: any): void, say(words: string): void,
   *   noted(answer: Answer): void, running(answer: Answer | null): void, kept(): void}} page
   */
  constructor(page) {
    this.page = page;
    this.talk = newConversation(lastSettings());
    /** @type {Answer | null} */
    this.running = null;
    this.files = new Files((words) => page.say(words));
    this._saving = 0;
    this._sticks = true;
    byId("ask").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this._submit();
    });
    sendWithEnter(byId("question"), byId("ask"));
    byId("settings").addEventListener("click", () => openSettings(this.talk.settings, (made) => this._set(made)));
    document.addEventListener("scroll", () => (this._sticks = scrollY + innerHeight >= document.documentElement.scrollHeight - BOTTOM), { passive: true });
    this.deeds = {
      edit: (/** @type {Turn} */ turn, /** @type {string} */ text) => this._ask(turn.parent, text, turn.files ?? []),
      again: (/** @type {Turn} */ turn) => this._reply(turn.parent),
      choose: (/** @type {Turn} */ turn) => this._choose(turn),
      result: (/** @type {Turn} */ turn, /** @type {string[]} */ results) => this._results(turn, results),
      modelOf: page.modelOf,
    };
    this.draw();
  }

  /** The conversation that was open before a reload, if it is still kept. */
  async resume() {
    const id = localStorage.getItem(OPEN);
    const kept = id ? await store.read(id) : undefined;
    if (kept && !this.running && !this.talk.turns.length) this.open(kept);
  }

  /** @param {import("./tree.js").Conversation} talk */
  open(talk) {
    this.talk = talk;
    localStorage.setItem(OPEN, talk.id);
    this.draw();
    scrollTo(0, document.documentElement.scrollHeight);
  }

  fresh() {
    this.talk = newConversation(lastSettings());
    localStorage.removeItem(OPEN);
    this.draw();
    byId("question").focus();
  }

  /** `asking`: an answer to the last turn is on its way. */
  draw(asking = false) {
    const turns = path(this.talk);
    byId("talk").replaceChildren(...turns.map((turn, i) => turnNode(this.talk, turn, this.deeds, i >= turns.length - 2)));
    const last = turns.at(-1);
    if (!asking && last && last.role !== "assistant") { // its answer failed, or the page was left before there was one
      byId("talk").append(make("button", { type: "button", class: "again", onclick: () => this._reply(last.id) }, t("try_again")));
    }
    byId("empty").hidden = turns.length > 0;
    const set = countOf(this.talk.settings);
    byId("settings-count").textContent = set ? ` · ${set}` : "";
    this._cost();
  }

  _submit() {
    const field = byId("question");
    const question = field.value.trim();
    if (!question || this.running || !this.page.chosen()) return;
    this.page.say("");
    field.value = "";
    field.dispatchEvent(new Event("input"));
    const last = path(this.talk).at(-1); // a question that got no answer stays on a branch of its own
    this._ask(last?.role === "user" ? last.parent : this.talk.leaf, question, this.files.take());
  }

  /** @param {number | null} parent @param {string} content @param {import("./tree.js").TextFile[]} files */
  async _ask(parent, content, files) {
    if (this.running) return;
    const turn = addTurn(this.talk, parent, { role: "user", content, ...(files.length ? { files } : {}) });
    localStorage.setItem(OPEN, this.talk.id);
    await this._reply(turn.id);
  }

  /** @param {Turn} turn @param {string[]} results */
  async _results(turn, results) {
    if (this.running) return;
    let parent = turn.id;
    turn.calls?.forEach((call, i) => (parent = addTurn(this.talk, parent, { role: "tool", content: results[i], call }).id));
    await this._reply(parent);
  }

  /** @param {Turn} turn */
  _choose(turn) {
    if (this.running) return;
    follow(this.talk, turn);
    this.draw();
    this._keep();
  }

  /** @param {import("./tree.js").Settings} settings */
  _set(settings) {
    this.talk.settings = settings;
    this.draw();
    if (this.talk.turns.length) this._keep();
  }

  /** Ask for an answer behind a turn. @param {number | null} parent */
  async _reply(parent) {
    if (this.running || !this.page.chosen()) return;
    const { talk } = this;
    talk.leaf = parent;
    this.draw(true);
    this._keep();
    const answer = new Answer(this.page.chosen());
    const node = make("div", { class: "turn" }, answer.element);
    byId("talk").append(node);
    this._run(answer);
    /** @type {Turn | null} */
    let turn = null;
    const note = () => {
      if (!answer.text && !answer.thinking && !answer.calls.length && !answer.receipt) return;
      turn ??= addTurn(talk, parent, answer.turn);
      Object.assign(turn, answer.turn);
    };
    answer.onroutes = this.page.noted;
    answer.onmore = () => {
      this._stick();
      if (this.running !== answer) return;
      note();
      this.page.running(answer);
      this._saving ||= setTimeout(() => this._keep(), SAVE_EVERY);
    };
    this._stick(true);
    try {
      await answer.ask(messages(talk, parent), { thinking: this.page.thinking(), ...optionsOf(talk.settings, path(talk, parent).at(-1)?.role === "tool") });
      this.page.noted(answer);
    } catch (problem) {
      answer.fail(problem.short ?? problem.message, () => this._reply(parent));
      this.page.failed(problem);
    }
    this._run(null);
    note();
    if (turn) {
      Object.assign(/** @type {Turn} */ (turn), answer.turn);
      node.append(answerActs(talk, turn, this.deeds));
      if (answer.calls.length && answer.finish === "tool_calls") node.append(resultForm(turn, this.deeds));
    }
    await this._keep();
    this._cost();
    this._stick();
  }

  /** @param {Answer | null} answer */
  _run(answer) {
    this.running = answer;
    byId("talk").setAttribute("aria-busy", String(Boolean(answer)));
    byId("sidebar").inert = Boolean(answer);
    this.page.running(answer);
  }

  async _keep() {
    clearTimeout(this._saving);
    this._saving = 0;
    try {
      await store.write(this.talk);
      this.page.kept();
    } catch {
      this.page.say(t("not_kept"));
    }
  }

  _stick(always = false) {
    if (always || this._sticks) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
  }

  _cost() {
    byId("cost").textContent = costLine(this.talk);
    byId("cost").hidden = !byId("cost").textContent;
  }
}
