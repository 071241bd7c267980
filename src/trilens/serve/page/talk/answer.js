// One answer, while it is written and afterwards: its thinking folded away and counted, its text as Markdown, its calls of
// tools, its receipt.
import { lined, make } from "../dom.js";
import { answerNow, chat } from "../api.js";
import { showMarkdown } from "../text/markdown.js";
import { colour, inWords, noteThinking } from "../colour.js";
import { receiptLine, receiptNotes } from "./receipt.js";
import { tokens } from "../units.js";
import { t } from "../words/words.js";

/** @typedef {import("./tree.js").Turn} Turn */

export class Answer {
  /** @param {any} model as the server lists it */
  constructor(model) {
    this.model = model;
    this.text = this.thinking = "";
    /** @type {import("./tree.js").ToolCall[]} */
    this.calls = [];
    /** @type {any} */
    this.receipt = null;
    this.receiptText = this.finish = "";
    this.stopped = false;
    /** @type {any[]} */
    this.routes = [];
    /** @type {string | null} */
    this.id = null;
    this.running = false;
    this.whole = false;
    /** @type {(answer: Answer) => void} */
    this.onroutes = () => {};
    /** @type {(answer: Answer) => void} */
    this.onmore = () => {};
    this._abort = new AbortController();
    this._drawn = 0;
    this._summary = make("summary", {}, t("thinking"));
    this._inside = make("div", { class: "inside", dir: "auto" });
    this._thoughts = make("details", { class: "thoughts", hidden: true }, this._summary, this._inside);
    this._prose = make("div", { class: "prose", dir: "auto" });
    this._calls = make("div", { class: "calls" });
    this._end = make("div", { class: "end" });
    const dot = make("span", { class: "swatch", role: "img", "aria-label": inWords(model), style: { background: colour(model) } });
    this.element = make("div", { class: "answer" }, make("div", { class: "by" }, dot, model.id), this._thoughts, this._prose, this._calls, this._end);
  }

  /** An answer from before. @param {Turn} turn @param {any} model */
  static from(turn, model) {
    const made = new Answer(model);
    Object.assign(made, { text: turn.content, thinking: turn.thinking ?? "", calls: turn.calls ?? [], receipt: turn.receipt ?? null });
    Object.assign(made, { receiptText: turn.receiptText ?? "", finish: turn.finish ?? "", stopped: turn.stopped ?? false });
    return made;
  }

  /** All of it as plain text: enough to be searched and read aloud while it is far from the screen. */
  sketch() {
    this._head();
    this._prose.textContent = this.text;
    this._close();
  }

  /** Draw all of it. */
  show() {
    this.whole = true;
    this._draw(true);
    this._close();
  }

  /**
   * Ask; resolves once it is whole, stopped or broken. What came stays.
   * @param {any[]} messages @param {any} options
   */
  async ask(messages, options) {
    this.running = true;
    const body = { model: this.model.id, messages, trilens: { routes: this.model.trilens.routes }, ...options };
    try {
      for await (const chunk of chat(body, this._abort.signal)) this._take(chunk);
    } catch (problem) {
      if (problem.name !== "AbortError") throw problem;
      this.stopped = true;
    } finally {
      this.running = false;
      this.whole = true;
      this._draw(true);
      this._close();
    }
  }

  stop() {
    this._abort.abort();
  }

  answerNow() {
    if (this.id) answerNow(this.id).catch(() => {});
  }

  /** Whether it is thinking at this moment. */
  get isThinking() {
    return this.running && this.thinking !== "" && this.text === "" && !this.calls.length;
  }

  /** @param {string} message @param {() => void} again */
  fail(message, again) {
    const retry = make("button", { type: "button", class: "again", onclick: again }, t("try_again"));
    this._end.replaceChildren(make("div", { class: "fault", role: "alert" }, make("span", {}, message), retry));
  }

  /** What a conversation keeps of it. @returns {Omit<Turn, "id" | "parent">} */
  get turn() {
    const { text: content, thinking, calls, receipt, receiptText, finish, stopped } = this;
    return { role: "assistant", content, thinking, calls, model: this.model.id, receipt, receiptText, finish, stopped };
  }

  /** @param {any} chunk */
  _take(chunk) {
    this.id ??= chunk.id;
    const choice = chunk.choices[0];
    this.thinking += choice?.delta.reasoning_content ?? "";
    this.text += choice?.delta.content ?? "";
    for (const call of choice?.delta.tool_calls ?? []) this._call(call);
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    if (chunk.trilens?.routes) {
      this.routes.push(...chunk.trilens.routes);
      this.onroutes(this);
    }
    if (chunk.trilens?.receipt) {
      this.receipt = chunk.trilens.receipt;
      this.receiptText = chunk.trilens.text;
      noteThinking(this.model.id, this.receipt);
    }
    this._draw(false);
  }

  /** @param {any} delta */
  _call(delta) {
    const known = (this.calls[delta.index] ??= { id: "", name: "", arguments: "" });
    known.id ||= delta.id ?? "";
    known.name ||= delta.function?.name ?? "";
    known.arguments += delta.function?.arguments ?? "";
  }

  /** At most once a frame, for a fast model writes faster than a screen shows. @param {boolean} now */
  _draw(now) {
    if (!now && this._drawn) return;
    const draw = () => {
      this._drawn = 0;
      this._head();
      showMarkdown(this._prose, this.text, this.whole, () => this.onmore(this));
    };
    cancelAnimationFrame(this._drawn);
    if (now) draw();
    else this._drawn = requestAnimationFrame(draw);
  }

  /** Thinking and calls. */
  _head() {
    this._thoughts.hidden = !this.thinking;
    this._inside.textContent = this.thinking;
    this._thoughts.classList.toggle("running", this.isThinking);
    const thought = this.receipt?.tokens.thinking;
    const counted = thought == null ? [this.isThinking ? t("thinking_now") : t("thinking")] : [`${t("thinking")} · `, make("b", {}, tokens(thought))];
    this._summary.replaceChildren(...counted);
    this._calls.replaceChildren(...this.calls.map(callNode));
  }

  /** What stands below the text. */
  _close() {
    const notes = [...(this.stopped ? [t("stopped")] : []), ...receiptNotes(this.receipt, this.finish)];
    this._end.replaceChildren(...notes.map((note) => make("p", { class: "note" }, note)));
    if (!this.receipt) return;
    const summary = make("summary", {}, make("span", { class: "hidden" }, `${t("receipt")}: `), receiptLine(this.receipt));
    this._end.append(make("details", { class: "receipt" }, summary, make("pre", { tabindex: "0", dir: "ltr" }, ...lined(this.receiptText))));
  }
}

/** @param {import("./tree.js").ToolCall} call */
function callNode(call) {
  return make("div", { class: "call" }, make("p", {}, t("calls"), " ", make("code", {}, call.name)), make("pre", { tabindex: "0", dir: "ltr" }, tidy(call.arguments)));
}

/** @param {string} text */
function tidy(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still being written
  }
}
