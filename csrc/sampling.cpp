#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cache.h"

namespace trilens {

constexpr size_t SORTED_FIRST = 256;  // of the vocabulary; nearly every draw ends among them
constexpr int BINS = 1024;            // of logits below the highest, for finding the few highest in one pass
constexpr float BIN = 1.0f / 16;

double uniform(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return (double)((z ^ (z >> 31)) >> 11) / (double)(1ull << 53);
}

// 2^k times a polynomial for what is left, |r| <= ln 2 / 2: Taylor's to the 13th power, wrong by less than 1e-17 itself.
static inline double exp_step(double x) {
  constexpr double round = 6755399441055744.0;  // adding and taking it away leaves the nearest whole number
  double k = x * 1.4426950408889634 + round;
  double whole = k - round;
  double r = (x - whole * 0.693147180369123816490) - whole * 1.90821492927058770002e-10;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1;
  p = p * r + 1;
  uint64_t bits;
  memcpy(&bits, &k, 8);
  bits = (bits + 1023) << 52;  // the low bits of k hold the whole number
  double power;
  memcpy(&power, &bits, 8);
  return p * power;
}

// The same operations in the same order either way, on four lanes or two. The choice is made by the loader, which only
// glibc's can.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define ON_WIDE_LANES __attribute__((target_clones("avx2", "default")))
#else
#define ON_WIDE_LANES
#endif

// The sum of e^((l[i] - most) / temperature), as eight sums over every eighth.
ON_WIDE_LANES
static double sum_of_weights(const float* l, int n, double most, double temperature) {
  double sums[8] = {}, block[256];
  for (int first = 0; first < n; first += 256) {
    int count = std::min(256, n - first);
    for (int i = 0; i < count; i++) {
      double x = ((double)l[first + i] - most) / temperature;
      x = x > -700 ? x : -800;  // also what is no number
      double e = exp_step(x > -700 ? x : -700);
      block[i] = x > -700 ? e : 0;
    }
    for (int i = count; i < 256; i++) block[i] = 0;
    for (int i = 0; i < 256; i += 8)
      for (int j = 0; j < 8; j++) sums[j] += block[i + j];
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

double exp_negative(double x) { return x < -700 ? 0 : exp_step(x); }

Sampler::Sampler(SamplingOptions options, const int32_t* prompt, size_t prompt_tokens) : options_(options) {
  if (options.repetition_penalty == 1) return;
  prompt_.assign(prompt, prompt + prompt_tokens);
  std::sort(prompt_.begin(), prompt_.end());
  prompt_.erase(std::unique(prompt_.begin(), prompt_.end()), prompt_.end());
}

// The logits with what the caller wants changed; the same memory where nothing is.
const float* Sampler::changed(const float* logits, int vocab) {
  const SamplingOptions& o = options_;
  bool penalties = o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
  if (!penalties && bias_.empty() && allowed_.empty()) return logits;
  scratch_.assign(logits, logits + vocab);
  float* to = scratch_.data();
  auto inside = [vocab](int32_t token) { return token >= 0 && token < vocab; };
  if (o.repetition_penalty != 1) {
    auto penalise = [&](int32_t token) {
      double value = to[token];
      to[token] = (float)(value > 0 ? value / o.repetition_penalty : value * o.repetition_penalty);
    };
    for (int32_t token : prompt_)
      if (inside(token)) penalise(token);
    for (auto [token, count] : answer_)
      if (inside(token) && !std::binary_search(prompt_.begin(), prompt_.end(), token)) penalise(token);
  }
  if (o.presence_penalty != 0 || o.frequency_penalty != 0)
    for (auto [token, count] : answer_)
      if (inside(token)) to[token] = (float)(to[token] - (o.presence_penalty + o.frequency_penalty * (double)count));
  for (auto [token, added] : bias_)
    if (inside(token)) to[token] += added;
  if (!allowed_.empty())
    for (int i = 0; i < vocab; i++)
      if ((size_t)i / 32 >= allowed_.size() || !(allowed_[i / 32] >> (i % 32) & 1)) to[i] = -std::numeric_limits<float>::infinity();
  return to;
}

int32_t Sampler::choose(const float* logits, int vocab) {
  const float* l = changed(logits, vocab);
  float most = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < vocab; i++) most = l[i] > most ? l[i] : most;
  if (!(most > -std::numeric_limits<float>::infinity()) || most == std::numeric_limits<float>::infinity())
    throw Refused(allowed_.empty() ? "the model's logits are no numbers: its weights are damaged, or its arithmetic overflows"
                                   : "no token is allowed next that this vocabulary can write");
  int32_t token;
  if (options_.temperature == 0) {
    token = 0;
    while (l[token] != most) token++;
  } else {
    token = draw(l, vocab, most);
  }
  drawn++;
  note(token);
  if (alternatives >= 0) report(logits, vocab, token);
  return token;
}

void Sampler::undo(const std::vector<int32_t>& tokens) {
  for (int32_t token : tokens) {
    drawn--;
    auto found = answer_.find(token);
    if (--found->second == 0) answer_.erase(found);
    if (draft) draft->forget_last();
    if (!reports.empty()) reports.pop_back();
  }
}

// candidates_: at least the `few` highest, none left out above the lowest of them; all where there are no more.
void Sampler::likeliest(const float* l, int vocab, float most, size_t few) {
  candidates_.clear();
  float floor = -std::numeric_limits<float>::infinity();
  if (few < (size_t)vocab) {
    int bins[BINS] = {};
    for (int i = 0; i < vocab; i++) {
      float below = (most - l[i]) * (1 / BIN);
      if (below < BINS) bins[(int)below]++;
    }
    size_t found = 0;
    for (int b = 0; b < BINS && found < few; b++) {
      found += bins[b];
      if (found >= few) floor = most - (b + 2) * BIN;  // a bin lower than needed: no rounding leaves one out
    }
  }
  for (int i = 0; i < vocab; i++)
    if (l[i] >= floor) candidates_.push_back({0, l[i], i});
  auto before = [](const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; };
  if (few < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + few, candidates_.end(), before);
    candidates_.resize(few);
  }
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// Likeliest first, and no more of them sorted than the draw needs.
int32_t Sampler::draw(const float* l, int vocab, float most) {
  const SamplingOptions& o = options_;
  auto weight = [&](float logit) {
    double x = ((double)logit - most) / o.temperature;
    return x > -700 ? exp_step(x) : 0.0;  // also 0 for what is no number
  };
  size_t among = vocab;
  double total = 0;
  if (o.top_k > 0 && o.top_k < vocab) {
    among = (size_t)o.top_k;
    likeliest(l, vocab, most, among);
    for (Candidate& c : candidates_) total += weight(c.logit);
  } else {
    total = sum_of_weights(l, vocab, most, o.temperature);
  }
  double number = uniform(o.seed, drawn);
  for (size_t wanted = SORTED_FIRST;; wanted *= 8) {
    wanted = std::min(wanted, among);
    likeliest(l, vocab, most, wanted);
    size_t few = candidates_.size();
    bool all = few < wanted || wanted == among;
    weights_.resize(few);
    double reached = 0;
    for (size_t i = 0; i < few; i++) {
      candidates_[i].weight = weight(candidates_[i].logit);
      weights_[i] = reached += candidates_[i].weight;
    }
    size_t kept = few;
    if (o.top_p < 1)
      kept = std::min<size_t>(kept, std::lower_bound(weights_.begin(), weights_.end(), o.top_p * total) - weights_.begin() + 1);
    if (o.min_p > 0) {
      size_t n = 0;
      while (n < few && candidates_[n].weight >= o.min_p) n++;
      kept = std::min(kept, n);
    }
    bool whole = kept < few || all;  // nothing further down can still belong to it
    double mass = whole ? weights_[kept - 1] : total;
    size_t place = std::upper_bound(weights_.begin(), weights_.begin() + kept, number * mass) - weights_.begin();
    if (whole || (place < kept && o.top_p == 1 && o.min_p == 0)) return candidates_[std::min(place, kept - 1)].token;
  }
}

void Sampler::report(const float* l, int vocab, int32_t token) {
  float most = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < vocab; i++) most = l[i] > most ? l[i] : most;
  double total = sum_of_weights(l, vocab, most, 1);
  double below = std::log(total);  // outside of what chooses: it may be the C library's
  auto& last = reports.emplace_back(1, Alternative{token, (double)l[token] - most - below});
  if (alternatives == 0) return;
  likeliest(l, vocab, most, std::min<size_t>(alternatives, vocab));
  for (const Candidate& c : candidates_) last.push_back({c.token, (double)c.logit - most - below});
}

}  // namespace trilens
