// A model of the reader's own choice, by its config.json: counted by the server on this machine, without weights.
import { make } from "../dom.js";
import { cardOf } from "../api.js";
import { textOf } from "../talk/files.js";
import { bars } from "../charts.js";
import { bytes, count, flop, percent } from "../units.js";
import { facts, say, step, table } from "./parts.js";

/** @param {any[]} _models @param {(problem: Error) => void} failed */
export function own(_models, failed) {
  const input = make("input", { type: "file", accept: ".json,application/json", class: "hidden", tabindex: "-1", "aria-label": say("choose_file") });
  const button = make("button", { type: "button", class: "main", onclick: () => input.click() }, say("choose_file"));
  const drop = make("div", { class: "drop" }, make("p", {}, say("drop_here")), button, input);
  const result = make("div", { "aria-live": "polite" });
  const read = async (/** @type {File | undefined} */ file) => {
    if (!file) return;
    try {
      result.replaceChildren(...shown(await cardOf(await parsed(file))));
    } catch (problem) {
      result.replaceChildren(make("p", { class: "fault", role: "alert" }, problem.message));
      if (problem.name !== "Error") failed(problem);
    }
  };
  input.addEventListener("change", async () => {
    await read(input.files?.[0]);
    input.value = "";
  });
  drop.addEventListener("dragover", (/** @type {DragEvent} */ event) => event.preventDefault());
  drop.addEventListener("drop", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    read(event.dataTransfer?.files[0]);
  });
  return [make("div", { class: "steps" }, step("own_step", drop, result))];
}

/** @param {File} file */
async function parsed(file) {
  const text = await textOf(file);
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(say("not_json", { name: file.name }));
  }
}

/** @param {any} about */
function shown(about) {
  const { card } = about;
  const { total, active } = card.parameters;
  const sum = card.dense_lens.feed_forward_sum;
  const formulas = sum.terms.map((/** @type {any} */ term) => `${term.formula.replaceAll(" x ", " × ")} = ${count(term.flops)}`);
  const weights = Object.entries(card.weight_bytes).map(([type, n]) => [type === "own" ? say("own_weights") : type, bytes(/** @type {number} */ (n))]);
  return [
    make("h4", {}, `${card.family} · ${say(`backbone_${card.backbone}`)}`),
    make("h4", { class: "lens-name dense" }, say("dense")),
    facts([
      [say("stored"), count(total)],
      [say("active"), `${count(active)} · ${percent(active / total)}`],
      ...formulas.map((/** @type {string} */ formula) => /** @type {[string, string]} */ ([say("feed_forward"), formula])),
      [say("cache_full", { n: count(card.context_length) }), bytes(card.kv_cache.bytes_at_full_context)],
    ]),
    bars(about.flops_by_part, flop),
    table([say("weights_as"), say("size")], weights),
    make("h4", { class: "lens-name moe" }, "MoE"),
    ...(card.moe_lens ? moe(card) : [make("p", {}, say("no_router"))]),
    make("h4", { class: "lens-name reasoning" }, say("reasoning")),
    make("p", {}, say("thinking_cost", { n: count(card.reasoning_lens.thinking_tokens), flops: flop(card.reasoning_lens.thinking_flops), bytes: bytes(card.reasoning_lens.thinking_kv_bytes) })),
  ];
}

/** @param {any} card */
function moe(card) {
  const groups = card.moe_lens.groups.map((/** @type {any} */ group) => /** @type {[string, string]} */ ([say("routed_layers", { n: group.layers.length }), say("chosen_of", { chosen: group.chosen, experts: group.experts })]));
  return [facts([...groups, [say("read_each"), percent(card.moe_lens.share_read_per_token)], ...card.moe_lens.neighbours.map((/** @type {any} */ one, /** @type {number} */ i) => /** @type {[string, string]} */ ([say(i ? "held_total" : "held_active"), bytes(one.weight_bytes)]))])];
}
