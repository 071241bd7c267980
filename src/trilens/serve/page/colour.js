// A model's colour: red is the share of weights that fire, green what routers leave out, blue thinking. Blue is what
// was measured once there are receipts: the share of tokens that were thought.
import { t } from "./words/words.js";

/** @type {Map<string, {thinking: number, all: number}>} */
const thought = new Map();

/** @param {string} model @param {any} receipt */
export function noteThinking(model, receipt) {
  const seen = thought.get(model) ?? { thinking: 0, all: 0 };
  seen.thinking += receipt.tokens.thinking ?? 0;
  seen.all += receipt.tokens.completion ?? 0;
  thought.set(model, seen);
}

/** @param {any} model @returns {{dense: number, routed: number, reasoning: number, measured: boolean}} */
export function channels(model) {
  const lens = model.trilens.lens ?? { dense: 0, routed: 0, reasoning: 0 };
  const seen = thought.get(model.id);
  return { ...lens, reasoning: seen?.all ? seen.thinking / seen.all : lens.reasoning, measured: Boolean(seen?.all) };
}

/** @param {any} model */
export function colour(model) {
  const { dense, routed, reasoning } = channels(model);
  const level = (/** @type {number} */ share) => Math.round(40 + 205 * Math.min(1, Math.max(0, share)));
  return `rgb(${level(dense)} ${level(routed)} ${level(reasoning)})`;
}

/** @param {any} model */
export function inWords(model) {
  const { dense, routed, reasoning } = channels(model);
  const share = (/** @type {number} */ n) => `${Math.round(100 * n)} %`;
  return t("colour_words", { dense: share(dense), routed: share(routed), reasoning: share(reasoning) });
}
