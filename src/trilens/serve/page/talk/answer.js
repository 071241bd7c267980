// One answer while it is written: its thinking folded away and counted, its text as Markdown, its receipt.
import { make } from "./dom.js";
import { chat, answerNow } from "./api.js";
import { markdown } from "./markdown.js";
import { colour, inWords, noteThinking } from "./colour.js";
import { count, flop, seconds } from "./units.js";

export class Answer {
  constructor(model) {
    this.model = model;
    this.text = this.thinking = "";
    this.receipt = null;
    this.routes = [];
    this.id = null;
    this.running = false;
    this.onroutes = () => {};
    this._abort = new AbortController();
    this._drawn = 0;
    this._summary = make("summary", {}, "Thinking");
    this._inside = make("div", { class: "inside" });
    this._thoughts = make("details", { class: "thoughts", hidden: true }, this._summary, this._inside);
    this._prose = make("div", { class: "prose" });
    this._end = make("div", { class: "end" });
    const dot = make("span", { class: "swatch", role: "img", "aria-label": inWords(model), style: { background: colour(model) } });
    this.element = make("div", { class: "answer" }, make("div", { class: "by" }, dot, model.id), this._thoughts, this._prose, this._end);
  }

  /** Ask; resolves once it is whole, stopped or broken. What came stays. */
  async ask(messages, options) {
    this.running = true;
    const body = { model: this.model.id, messages, trilens: { routes: this.model.trilens.routes }, ...options };
    try {
      for await (const chunk of chat(body, this._abort.signal)) this._take(chunk);
    } catch (problem) {
      if (problem.name === "AbortError") this._end.append(make("p", { class: "note" }, "Stopped."));
      else throw problem;
    } finally {
      this.running = false;
      this._draw(true);
    }
  }

  stop() {
    this._abort.abort();
  }

  answerNow() {
    if (this.id) answerNow(this.id).catch(() => {});
  }

  fail(message, again) {
    const retry = make("button", { type: "button", class: "again", onclick: again }, "Try again");
    this._end.replaceChildren(make("div", { class: "fault", role: "alert" }, make("span", {}, message), retry));
  }

  get message() {
    return { role: "assistant", content: this.text, ...(this.thinking ? { reasoning_content: this.thinking } : {}) };
  }

  _take(chunk) {
    this.id ??= chunk.id;
    const choice = chunk.choices[0];
    this.thinking += choice?.delta.reasoning_content ?? "";
    this.text += choice?.delta.content ?? "";
    if (chunk.trilens?.routes) {
      this.routes.push(...chunk.trilens.routes);
      this.onroutes(this);
    }
    if (chunk.trilens?.receipt) this._receipt(chunk.trilens, choice?.finish_reason);
    this._draw(false);
  }

  /** At most once a frame, for a fast model writes faster than a screen shows. */
  _draw(now) {
    if (!now && this._drawn) return;
    const draw = () => {
      this._drawn = 0;
      this._thoughts.hidden = !this.thinking;
      this._inside.textContent = this.thinking;
      const open = this.running && !this.text;
      this._thoughts.classList.toggle("running", open);
      const tokens = this.receipt?.tokens.thinking;
      const counted = tokens == null ? [open ? "Thinking …" : "Thinking"] : ["Thinking · ", make("b", {}, `${count(tokens)} tokens`)];
      this._summary.replaceChildren(...counted);
      this._prose.replaceChildren(...markdown(this.text));
    };
    if (now) {
      cancelAnimationFrame(this._drawn);
      draw();
    } else this._drawn = requestAnimationFrame(draw);
  }

  _receipt({ receipt, text }, finish) {
    this.receipt = receipt;
    noteThinking(this.model.id, receipt);
    const { tokens: t, work, thinking } = receipt; // an engine's receipt has no work, and not every count
    const wall = work ? work.prefill.seconds + work.decode.seconds : receipt.seconds;
    const speed = work ? work.decode.tokens_per_second : receipt.tokens_per_second;
    const line = [`${count(t.prompt ?? 0)} in, ${count(t.completion ?? 0)} out`, ...(work ? [flop(receipt.flops)] : []), seconds(wall)];
    if (speed) line.push(`${speed >= 100 ? count(Math.round(speed)) : speed.toFixed(1)} tokens/s`);
    const notes = [];
    if (finish === "length") notes.push("Cut off: the token limit was reached.");
    if (thinking.unasked) notes.push("The model thought although thinking was off.");
    if (thinking.closed_by && thinking.closed_by !== "model") {
      notes.push({ budget: "The budget ended the thinking.", caller: "You ended the thinking.", length: "The thinking reached its limit." }[thinking.closed_by]);
    }
    this._end.replaceChildren(
      ...notes.map((note) => make("p", { class: "note" }, note)),
      make("details", { class: "receipt" }, make("summary", {}, make("b", {}, "Receipt"), ` · ${line.join(" · ")}`), make("pre", { tabindex: "0" }, text)),
    );
  }
}
