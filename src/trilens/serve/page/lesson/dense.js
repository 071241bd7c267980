// The dense lens: one path for every token, three matrix products, total = active.
import { make } from "../dom.js";
import { receiptLine } from "../talk/receipt.js";
import { bytes, count, flop } from "../units.js";
import { t } from "../words/words.js";
import { code, compared, facts, modelChoice, questionField, receipt, runButton, say, step, table } from "./parts.js";
import { atOnce, run } from "./run.js";

/** @param {any[]} models @param {(problem: Error) => void} failed */
export function dense(models, failed) {
  const choice = modelChoice(models, () => draw());
  const place = make("div", { class: "steps" });
  const draw = () => place.replaceChildren(samePath(choice.model, failed), products(choice.model), total(choice.model), growth(choice.model));
  draw();
  return [choice.label, place];
}

/** @param {any} model @param {(problem: Error) => void} failed */
function samePath(model, failed) {
  const fields = [questionField("question_a", "What is 12 plus 30?"), questionField("question_b", "What is 98 minus 41?")];
  const result = make("div", { "aria-live": "polite" });
  const work = async () => {
    const runs = [];
    for (const { field } of fields) runs.push(await run(model, field.value, atOnce(model)));
    const rows = runs.map((one, i) => {
      const { tokens, work: done } = one.receipt;
      return [fields[i].field.value, one.text, count(tokens.prompt), count(done.prefill.flops), bytes(done.prefill.weight_bytes)];
    });
    const [a, b] = runs.map((one) => ({ tokens: one.receipt.tokens.prompt, flops: one.receipt.work.prefill.flops }));
    const verdict = a.tokens !== b.tokens ? say("lengths_differ", { a: a.tokens, b: b.tokens }) : say(a.flops === b.flops ? "same_work" : "other_work", { n: count(a.flops), tokens: a.tokens });
    result.replaceChildren(
      table([say("question"), say("answer"), say("prompt_tokens"), say("prompt_operations"), say("weights_read")], rows),
      make("p", { class: "verdict" }, verdict),
      ...runs.map((one) => receipt(one, receiptLine(one.receipt))),
    );
  };
  return step("path", ...fields.map((one) => one.label), runButton("ask_both", work, failed), result);
}

/** The feed-forward work of one token, by hand and by the counter. @param {any} model */
function products(model) {
  const { terms, beside_the_sum: beside, total: counted } = model.trilens.card.dense_lens.feed_forward_sum;
  const rows = terms.map((/** @type {any} */ term) => {
    const byHand = term.factors.reduce((/** @type {number} */ product, /** @type {number} */ factor) => product * factor, 1);
    return { words: term.formula.replaceAll(" x ", " × "), n: byHand };
  });
  const sum = rows.reduce((/** @type {number} */ all, /** @type {any} */ row) => all + row.n, beside);
  const lines = rows.map((/** @type {any} */ row) => /** @type {[string, Node]} */ ([say("by_hand"), make("span", {}, `${row.words} = `, make("b", {}, count(row.n)))]));
  if (beside) lines.push([say("beside"), make("b", {}, count(beside))]);
  lines.push([say("by_counter"), make("b", {}, count(counted))]);
  return step("products", facts(lines), make("p", { class: "verdict" }, say(sum === counted ? "same_number" : "other_number")), code("src/trilens/decoder/ffn.py", "src/trilens/executors/accountant.py"));
}

/** @param {any} model */
function total(model) {
  const { total: all, active } = model.trilens.card.parameters;
  const bars = compared([[say("stored"), all, count(all)], [say("active"), active, count(active)]], "dense");
  return step("total", bars, make("p", { class: "verdict" }, say(all === active ? "total_is_active" : "total_is_not_active")));
}

/** What one token costs at the beginning of a context and at its end. @param {any} model */
function growth(model) {
  const contexts = Object.entries(model.trilens.card.dense_lens.flops_by_context);
  const parts = Object.keys(model.trilens.flops_by_part);
  const rows = [...parts, "total"].map((part) => [t(`part_${part}`), ...contexts.map(([, costs]) => flop(/** @type {any} */ (costs)[part]))]);
  return step("growth", table([say("part"), ...contexts.map(([n]) => say("at_context", { n: count(Number(n)) }))], rows), code("src/trilens/decoder/attention.py"));
}
