// The four combinations: the questions of `trilens combos` through both backbones, with thinking and without, in a table that
// fills as they run.
import { make } from "../dom.js";
import { questions } from "../api.js";
import { count } from "../units.js";
import { code, runButton, say, step, table } from "./parts.js";
import { isRight, run } from "./run.js";

const [COUNTS, USUAL, AT_ONCE] = [[8, 40, 200], 40, 8];

/** @param {any[]} models @param {(problem: Error) => void} failed */
export function four(models, failed) {
  const thinkers = models.filter((model) => model.trilens.thinking.can_off && model.trilens.thinking.settings.includes("on"));
  const backbones = [false, true].map((routed) => thinkers.find((model) => (model.trilens.routed_layers.length > 0) === routed)).filter(Boolean);
  const rows = backbones.flatMap((model) => [false, true].map((thinking) => new Row(model, thinking)));
  const select = make("select", {}, ...COUNTS.map((n) => make("option", { value: n }, n)));
  select.value = String(USUAL);
  const shown = make("div");
  const draw = () => shown.replaceChildren(table(["combination", "right_column", "thought_tokens", "answer_tokens", "operations_each", "parameters_column"].map((key) => say(key)), rows.map((row) => row.cells)));
  const stop = make("button", { type: "button", class: "quiet", hidden: true }, say("stop"));
  const verdict = make("p", { class: "verdict", role: "status" });
  const work = async () => {
    const control = new AbortController();
    stop.onclick = () => control.abort();
    stop.hidden = false;
    verdict.textContent = "";
    rows.forEach((row) => row.clear());
    try {
      const asked = await questions(Number(select.value));
      for (const row of rows) await row.ask(asked, draw, control.signal);
      verdict.textContent = say("four_verdict", { n: asked.length });
    } catch (problem) {
      if (problem.name !== "AbortError") throw problem;
      verdict.textContent = say("stopped");
    } finally {
      stop.hidden = true;
      draw();
    }
  };
  draw();
  const go = runButton("run_four", work, failed);
  go.append(stop);
  return [make("div", { class: "steps" }, step("four_step", make("label", { class: "field" }, say("questions_each"), select), go, shown, verdict, code("src/trilens/trials/combos.py")))];
}

/** One combination: sums over its receipts. */
class Row {
  /** @param {any} model @param {boolean} thinking */
  constructor(model, thinking) {
    this.model = model;
    this.thinking = thinking;
    this.all = this.done = this.right = this.thought = this.answered = this.flops = 0;
  }

  clear() {
    this.all = this.done = this.right = this.thought = this.answered = this.flops = 0;
  }

  /** @param {{kind: string, text: string, answer: string}[]} asked @param {() => void} changed @param {AbortSignal} signal */
  async ask(asked, changed, signal) {
    this.all = asked.length;
    const waiting = [...asked];
    const one = async () => {
      for (let question = waiting.shift(); question; question = waiting.shift()) {
        const made = await run(this.model, question.text, { thinking: this.thinking }, () => {}, signal);
        this.done += 1;
        this.right += isRight(question, made.text) ? 1 : 0;
        this.thought += made.receipt.tokens.thinking;
        this.answered += made.receipt.tokens.answer;
        this.flops += made.receipt.flops;
        changed();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  }

  get cells() {
    const { total, active } = this.model.trilens.card.parameters;
    const name = `${this.model.id} · ${say(this.thinking ? "thinking_on" : "thinking_off")}`;
    const parameters = `${count(total)} / ${count(active)}`;
    if (!this.all) return [name, "", "", "", "", parameters];
    const right = make("span", { class: "share" }, make("i", { style: { "--share": this.right / this.all } }), make("span", {}, say("right_of", { right: this.right, done: this.done, all: this.all })));
    return [name, right, count(this.thought), count(this.answered), this.done ? count(Math.round(this.flops / this.done)) : "", parameters];
  }
}
