// A real run for a step of the lesson: greedy, with a fixed seed, and with nothing taken from the cache, so that two
// receipts can be compared.
import { chat } from "../api.js";

/**
 * @typedef {{text: string, thinking: string, routes: {token: number, text: string, experts: number[][]}[], receipt: any,
 *   receiptText: string}} Run
 */

/**
 * @param {any} model @param {string} question @param {any} options @param {(run: Run) => void} more called with what is there
 * @param {AbortSignal} [signal] @returns {Promise<Run>}
 */
export async function run(model, question, options = {}, more = () => {}, signal = undefined) {
  /** @type {Run} */
  const made = { text: "", thinking: "", routes: [], receipt: null, receiptText: "" };
  const body = { model: model.id, messages: [{ role: "user", content: question }], temperature: 0, seed: 1, ...options };
  for await (const chunk of chat({ ...body, trilens: { fresh: true, routes: model.trilens.routes } }, signal)) {
    const delta = chunk.choices[0]?.delta ?? {};
    made.text += delta.content ?? "";
    made.thinking += delta.reasoning_content ?? "";
    made.routes.push(...(chunk.trilens?.routes ?? []));
    if (chunk.trilens?.receipt) {
      made.receipt = chunk.trilens.receipt;
      made.receiptText = chunk.trilens.text;
    }
    more(made);
  }
  return made;
}

/** The option that turns thinking off, where that can be said. @param {any} model */
export const atOnce = (model) => (model.trilens.thinking?.can_off ? { thinking: false } : {});

/** The right answer to a sum, a difference or a product; null for another question. @param {string} question */
export function rightAnswer(question) {
  const match = /(\d+) (plus|minus|times) (\d+)/.exec(question);
  if (!match) return null;
  const [a, b] = [Number(match[1]), Number(match[3])];
  return String({ plus: a + b, minus: a - b, times: a * b }[/** @type {"plus" | "minus" | "times"} */ (match[2])]);
}

/**
 * Whether an answer is right, as `is_right` in src/trilens/trials/questions.py decides it.
 * @param {{kind: string, answer: string}} question @param {string} answer
 */
export function isRight(question, answer) {
  if (question.kind === "talk") return answer.trim() === question.answer;
  const last = answer.match(/(?<!\d)-?\d+/g)?.at(-1);
  return last !== undefined && Number(last) === Number(question.answer);
}
