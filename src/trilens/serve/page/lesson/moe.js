// The MoE lens: tokens in the colours of the experts that they fire, the load, and what is idle but held.
import { make } from "../dom.js";
import { receiptLine } from "../talk/receipt.js";
import { bytes, count, percent } from "../units.js";
import { code, compared, facts, modelChoice, questionField, receipt, runButton, say, step } from "./parts.js";
import { run } from "./run.js";

/** @typedef {import("./run.js").Run} Run */

/** @param {any[]} models @param {(problem: Error) => void} failed */
export function moe(models, failed) {
  const choice = modelChoice(models, () => draw());
  const place = make("div", { class: "steps" });
  const draw = () => place.replaceChildren(...steps(choice.model, failed));
  draw();
  return [choice.label, place];
}

/** @param {any} model @param {(problem: Error) => void} failed */
function steps(model, failed) {
  const { experts, routed_layers: layers } = model.trilens;
  const question = questionField("question", "What is 47 times 86?");
  /** @type {Run | null} */
  let last = null;
  let layer = 0;
  const [tokens, load, held, line] = ["tokens read", "load", "held", "line"].map((name) => make("div", { class: name }));
  const pick = make("fieldset", { class: "switch", hidden: true }, make("legend", {}, say("layer")), ...layers.map((/** @type {number} */ number, /** @type {number} */ i) => {
    const input = make("input", { type: "radio", name: "lesson-layer", value: i, onchange: () => show(i) });
    input.checked = i === 0;
    return make("label", {}, input, make("span", {}, number));
  }));
  const show = (/** @type {number} */ at) => {
    layer = at;
    if (!last) return;
    tokens.replaceChildren(...last.routes.map((route) => token(route.text, route.experts[layer], experts)));
    load.replaceChildren(...loadOf(last, layer, experts, layers[layer]));
  };
  const work = async () => {
    last = await run(model, question.field.value, {}, (made) => {
      last = made;
      show(layer);
    });
    pick.hidden = false;
    show(layer);
    held.replaceChildren(...heldOf(last, model));
    line.replaceChildren(receipt(last, receiptLine(last.receipt)));
  };
  const wait = () => make("p", { class: "words" }, say("after_the_run"));
  load.append(wait());
  held.append(wait());
  return [
    step("router", question.label, runButton("ask", work, failed), pick, tokens, line, code("src/trilens/decoder/ffn.py")),
    step("load", load),
    step("idle", held, code("src/trilens/lenses/cards/moe.py")),
  ];
}

/** A token with its experts: colours, and their numbers below. @param {string} text @param {number[]} fired @param {number} experts */
function token(text, fired, experts) {
  const parts = fired.slice(0, 8).map((expert, i, all) => `${hue(expert, experts)} ${(100 * i) / all.length}% ${(100 * (i + 1)) / all.length}%`);
  const shown = text.replaceAll(" ", "␣").replaceAll("\n", "⏎");
  return make("span", { class: "fired", title: say("experts_of_token", { experts: fired.join(", ") }) }, make("b", { style: { "background-image": `linear-gradient(90deg, ${parts.join(", ")})` } }, shown), make("small", {}, fired.join(" ")));
}

/** @param {number} expert @param {number} experts */
const hue = (expert, experts) => `oklch(var(--expert-light) var(--expert-chroma) ${Math.round((360 * expert) / experts)})`;

/** How often each expert of a layer fired. @param {Run} made @param {number} layer @param {number} experts @param {number} number */
function loadOf(made, layer, experts, number) {
  const load = new Array(experts).fill(0);
  for (const route of made.routes) for (const expert of route.experts[layer]) load[expert] += 1;
  const all = load.reduce((sum, n) => sum + n, 0);
  const most = Math.max(...load);
  const bars = load.flatMap((n, expert) => [make("span", {}, say("expert", { n: expert })), make("i", { style: { "--share": n / most, background: hue(expert, experts) } }), make("span", {}, `${count(n)} · ${percent(n / all)}`)]);
  const idle = load.filter((n) => !n).length;
  const words = `${say("load_verdict", { layer: number, busiest: load.indexOf(most), most: count(most), even: (all / experts).toFixed(1) })} ${say(idle ? "load_idle" : "load_all", { idle })}`;
  return [make("div", { class: "bars" }, ...bars), make("p", { class: "verdict" }, words)];
}

/** What a token used, what the answer used, and what must be in memory. @param {Run} made @param {any} model */
function heldOf(made, model) {
  const { card } = model.trilens;
  const fired = new Set(made.routes.flatMap((route) => route.experts.flatMap((chosen, layer) => chosen.map((expert) => `${layer} ${expert}`))));
  const each = made.routes[0].experts.reduce((sum, chosen) => sum + chosen.length, 0);
  const all = card.moe_lens.groups.reduce((/** @type {number} */ sum, /** @type {any} */ group) => sum + group.experts * group.layers.length, 0);
  const { total, active } = card.parameters;
  const [sameActive, sameTotal] = card.moe_lens.neighbours;
  return [
    facts([
      [say("experts_each"), say("of", { n: count(each), all: count(all) })],
      [say("experts_answer"), say("of", { n: count(fired.size), all: count(all) })],
      [say("parameters_used"), say("of", { n: count(active), all: count(total) })],
      [say("weights_in_memory"), bytes(made.receipt.weights_bytes)],
    ]),
    make("p", {}, say("neighbours")),
    compared([
      [say("held_this"), card.moe_lens.weight_bytes_bf16, bytes(card.moe_lens.weight_bytes_bf16)],
      [say("held_active"), sameActive.weight_bytes, bytes(sameActive.weight_bytes)],
      [say("held_total"), sameTotal.weight_bytes, bytes(sameTotal.weight_bytes)],
    ], "moe"),
    compared([
      [say("work_this"), card.moe_lens.flops_at_context_1, count(card.moe_lens.flops_at_context_1)],
      [say("work_active"), sameActive.flops, count(sameActive.flops)],
      [say("work_total"), sameTotal.flops, count(sameTotal.flops)],
    ], "moe"),
    make("p", { class: "verdict" }, say("idle_verdict", { share: percent(1 - active / total) })),
  ];
}
