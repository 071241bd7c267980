// What a sampler does with log probabilities, as src/trilens/generate/sampling.py does it: temperature first, then top-p.

/**
 * The chance of each token to be drawn; 0 for one that cannot be. At temperature 0 the likeliest is always taken.
 * @param {number[]} logprobs the likeliest first @param {number} temperature @param {number} topP
 */
export function sampled(logprobs, temperature, topP) {
  if (temperature === 0) return logprobs.map((_, i) => (i === 0 ? 1 : 0));
  const weights = logprobs.map((logprob) => Math.exp((logprob - logprobs[0]) / temperature));
  const all = weights.reduce((sum, weight) => sum + weight, 0);
  let before = 0;
  const kept = weights.map((weight) => {
    const stays = before < topP; // the first tokens that together have top-p, the one that reaches it included
    before += weight / all;
    return stays ? weight : 0;
  });
  const left = kept.reduce((sum, weight) => sum + weight, 0);
  return kept.map((weight) => weight / left);
}
