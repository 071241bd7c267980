// A model's colour: red is the share of weights that fire, green what routers leave out, blue thinking. Blue is what
// was measured once there are receipts: the share of tokens that were thought.
const thought = new Map();

export function noteThinking(model, receipt) {
  const seen = thought.get(model) ?? { thinking: 0, all: 0 };
  seen.thinking += receipt.tokens.thinking ?? 0;
  seen.all += receipt.tokens.completion ?? 0;
  thought.set(model, seen);
}

export function channels(model) {
  const lens = model.trilens.lens ?? { dense: 0, routed: 0, reasoning: 0 };
  const seen = thought.get(model.id);
  return { ...lens, reasoning: seen?.all ? seen.thinking / seen.all : lens.reasoning, measured: Boolean(seen?.all) };
}

export function colour(model) {
  const { dense, routed, reasoning } = channels(model);
  const level = (share) => Math.round(40 + 205 * Math.min(1, Math.max(0, share)));
  return `rgb(${level(dense)} ${level(routed)} ${level(reasoning)})`;
}

export function inWords(model) {
  const { dense, routed, reasoning } = channels(model);
  const share = (n) => `${Math.round(100 * n)} %`;
  return `${share(dense)} of the weights fire, routers skip ${share(routed)}, thinking ${share(reasoning)}`;
}
