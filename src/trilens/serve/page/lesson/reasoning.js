// The reasoning lens: the same weights with thinking off and on, a budget, and "answer now".
import { make } from "../dom.js";
import { tokenize } from "../api.js";
import { computing, receiptLine } from "../talk/receipt.js";
import { count, flop, seconds } from "../units.js";
import { code, modelChoice, questionField, receipt, runButton, say, step, table } from "./parts.js";
import { rightAnswer, run } from "./run.js";

const QUESTION = "What is 47 times 86?";
const READING = 90; // milliseconds a token: about as fast as a person reads
/** @typedef {import("./run.js").Run} Run */

/** @param {any[]} models @param {(problem: Error) => void} failed */
export function reasoning(models, failed) {
  const choice = modelChoice(models, () => draw());
  const place = make("div", { class: "steps" });
  const draw = () => place.replaceChildren(race(choice.model, failed), budget(choice.model, failed), answerNow(choice.model, failed));
  draw();
  return [choice.label, place];
}

/** @param {string} question @param {string} answer */
function judged(question, answer) {
  const right = rightAnswer(question);
  if (right === null) return answer;
  return make("span", {}, answer, " ", make("em", { class: answer.includes(right) ? "right" : "wrong" }, say(answer.includes(right) ? "right" : "wrong", { right })));
}

/** @param {any} model @param {(problem: Error) => void} failed */
function race(model, failed) {
  const question = questionField("question", QUESTION);
  const lanes = ["off", "on"].map((name) => {
    const [thought, answer, line] = [make("p", { class: "thought", dir: "auto" }), make("p", { class: "answer-line", dir: "auto" }), make("div")];
    return { name, thought, answer, line, element: make("div", { class: "lane" }, make("h4", {}, say(`thinking_${name}`)), thought, answer, line) };
  });
  const bars = make("div", { "aria-live": "polite" });
  const work = async () => {
    bars.replaceChildren();
    /** @type {Run[]} */
    const runs = await Promise.all(lanes.map(async (lane) => {
      lane.line.replaceChildren();
      const show = (/** @type {Run} */ made) => {
        lane.thought.textContent = made.thinking;
        lane.answer.textContent = made.text;
      };
      const made = await run(model, question.field.value, { thinking: lane.name === "on" }, show);
      lane.answer.replaceChildren(judged(question.field.value, made.text));
      lane.line.replaceChildren(receipt(made, receiptLine(made.receipt)));
      return made;
    }));
    bars.replaceChildren(...results(runs.map((made) => made.receipt)));
  };
  return step("race", question.label, runButton("start_race", work, failed), make("div", { class: "lanes" }, ...lanes.map((lane) => lane.element)), bars, code("src/trilens/text/strategy.py"));
}

/** Both receipts as bars that run to the end. @param {any[]} receipts */
function results(receipts) {
  /** @type {[string, (r: any) => number, (n: number) => string][]} */
  const kinds = [["race_tokens", (r) => r.tokens.completion, count], ["race_operations", (r) => r.flops, flop], ["race_seconds", computing, seconds]];
  const rows = kinds.map(([key, of, shown]) => {
    const [off, on] = receipts.map(of);
    const most = Math.max(off, on);
    const bar = (/** @type {string} */ name, /** @type {number} */ n) => [make("span", {}, say(name)), make("i", { class: `runs ${name}`, style: { "--share": n / most } }), make("span", {}, shown(n))];
    return make("div", { class: "raced" }, make("h4", {}, say(key)), make("div", { class: "bars reasoning" }, ...bar("off", off), ...bar("on", on)));
  });
  const times = (receipts[1].tokens.completion / receipts[0].tokens.completion).toFixed(1);
  const work = (receipts[1].flops / receipts[0].flops).toFixed(1);
  return [...rows, make("p", { class: "verdict" }, say("race_verdict", { thinking: count(receipts[1].tokens.thinking), times, work }))];
}

/** @param {any} model @param {(problem: Error) => void} failed */
function budget(model, failed) {
  const question = questionField("question", QUESTION);
  const input = make("input", { type: "range", min: "0", max: "128", step: "4", value: "20" });
  const output = make("output", {}, say("tokens", { n: 20 }));
  input.addEventListener("input", () => (output.textContent = say("tokens", { n: input.value })));
  const result = make("div", { "aria-live": "polite" });
  /** @type {Map<number, (string | Node)[]>} */
  const tried = new Map();
  const work = async () => {
    const allowed = input.valueAsNumber;
    const made = await run(model, question.field.value, { thinking: allowed });
    tried.set(allowed, [count(allowed), count(made.receipt.tokens.thinking), say(`ended_${made.receipt.thinking.closed_by ?? "never"}`), judged(question.field.value, made.text), flop(made.receipt.flops)]);
    const rows = [...tried.keys()].sort((a, b) => a - b).map((key) => tried.get(key) ?? []);
    result.replaceChildren(table(["budget_column", "thought_column", "ended_column", "answer", "operations"].map((key) => say(key)), rows), receipt(made, receiptLine(made.receipt)));
  };
  question.field.addEventListener("input", () => tried.clear());
  const go = runButton("try_budget", work, failed);
  input.addEventListener("change", () => go.querySelector("button").click());
  return step("budget", question.label, make("label", { class: "field drag" }, say("budget_label"), input, output), go, result, code("src/trilens/generate/answer.py"));
}

/** A replay at reading speed, for a small model has finished before a person can press. @param {any} model @param {(problem: Error) => void} failed */
function answerNow(model, failed) {
  const question = questionField("question", QUESTION);
  const thought = make("p", { class: "thought", dir: "auto" });
  const result = make("div", { "aria-live": "polite" });
  const press = make("button", { type: "button", class: "main", hidden: true }, say("answer_now"));
  const work = async () => {
    result.replaceChildren();
    const whole = await run(model, question.field.value, { thinking: true });
    const pieces = await tokenize(model.id, whole.thinking);
    press.hidden = false;
    const pressed = new Promise((resolve) => (press.onclick = () => resolve(true)));
    let shown = 0;
    for (let going = true; going && shown < pieces.length; ) {
      shown += 1;
      thought.textContent = pieces.slice(0, shown).join("");
      going = !(await Promise.race([pressed, new Promise((resolve) => setTimeout(resolve, READING, false))]));
    }
    press.hidden = true;
    const early = shown < pieces.length;
    const made = early ? await run(model, question.field.value, { thinking: shown }) : whole;
    thought.textContent = made.thinking;
    const words = early ? say("now_verdict", { shown, all: pieces.length, saved: flop(whole.receipt.flops - made.receipt.flops) }) : say("now_too_late");
    result.replaceChildren(make("p", { class: "answer-line" }, judged(question.field.value, made.text)), make("p", { class: "verdict" }, words), receipt(made, receiptLine(made.receipt)));
  };
  const go = runButton("think", work, failed);
  go.append(press);
  return step("now", question.label, go, thought, result);
}
